"""Shared by the tests of a whole node: an SDRROOT that `./build.sh install` has filled, a domain, its nodes.

`filled`, `sdr` and `domain` are fixtures to import.
"""

import os
import shutil
import sys

import pytest

from plugins import NAME, client, install

import installing  # isort: skip

DEVICE = os.path.join("dev", "devices", NAME)
PLUGIN = os.path.join("dev", "devices", "GPP", "plugins", NAME)


@pytest.fixture(scope="session")
def filled(tmp_path_factory):
    """An SDRROOT with the stand-in GPP, and everything that is installed with this interpreter."""
    sdrroot = tmp_path_factory.mktemp("sdr")
    installing.gpp(sdrroot)
    installing.component(sdrroot, "/components/rh/SigGen/SigGen.spd.xml")
    done = install("install", "--sdrroot", str(sdrroot), "--python", sys.executable)
    assert done.returncode == 0, done.stderr
    return str(sdrroot)


class Sdr:
    """A copy of that SDRROOT, in which plugin and device watch a folder of their own."""

    def __init__(self, filled, path, shm_root):
        self.path = str(path)
        shutil.copytree(filled, self.path, symlinks=True)
        self.settings(root=shm_root, shm_free="off")

    def settings(self, **values):
        self.values = dict(getattr(self, "values", {}), **values)
        for folder in (PLUGIN, os.path.join(DEVICE, "python")):
            with open(os.path.join(self.path, folder, NAME + ".ini"), "w") as stream:
                stream.write("[GppShmPlugin]\n")
                stream.writelines(f"{name} = {value}\n" for name, value in self.values.items())


@pytest.fixture
def sdr(filled, tmp_path, shm_root):
    return Sdr(filled, tmp_path / "sdr", shm_root)


class Domain(client.Domain):
    """A domain of an Sdr; `output()` returns the output of all its processes."""

    def __init__(self, sdr, folder, node=None, **options):
        self.log = str(folder / "log")
        self.stream = open(self.log, "ab")  # noqa: SIM115 (open while processes are started)
        super().__init__(sdr.path, folder, node, stdout=self.stream, stderr=self.stream, **options)

    def close(self):
        super().close()
        self.stream.close()

    def output(self):
        with open(self.log, errors="replace") as stream:
            return stream.read()


@pytest.fixture
def domain(sdr, tmp_path):
    """domain(node, **options): a Domain with this node."""
    running = []

    def start(node, **options):
        running.append(Domain(sdr, tmp_path, node, **options))
        return running[-1]

    yield start
    for each in running:
        each.close()
        print(each.output())  # pytest shows it for a failed test
