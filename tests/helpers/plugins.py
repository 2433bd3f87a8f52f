"""Shared by the tests of the GPP plugin: an installed plugin, a stand-in GPP that runs it, its components.

`installed`, `sdr`, `start` and `node` are fixtures to import.
"""

import contextlib
import os
import subprocess
import sys
import time

import pytest

omniORB = pytest.importorskip("omniORB", reason="needs omniORB, which has no wheel for this Python")

import client  # noqa: E402
from places import HEAPWRITER, ROOT  # noqa: E402
from spawning import wait_for  # noqa: E402

INSTALL = os.path.join(ROOT, "python", "gppshm", "redhawk", "install.py")
NAME = "GppShmPlugin"
METRICS = {"shm_free", "shm_orphaned", "shm_held", "shm_removed", "shm_reclaimed"}


def install(*arguments, **options):
    """Run the installer; returns the CompletedProcess."""
    return subprocess.run(
        [sys.executable, "-I", INSTALL, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        timeout=60,
        **options,
    )


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    """The launcher of a plugin installed with this interpreter."""
    sdrroot = tmp_path_factory.mktemp("sdr")
    done = install("install", "--sdrroot", str(sdrroot), "--python", sys.executable)
    assert done.returncode == 0, done.stderr
    return str(sdrroot / "dev" / "devices" / "GPP" / "plugins" / NAME / NAME)


class Sdr:
    """An SDRROOT with the plugin and its settings; `program` is the file that the GPP starts."""

    def __init__(self, path, launcher, shm_root):
        self.path = str(path)
        self.program = os.path.join(self.path, "dev", "devices", "GPP", "plugins", NAME, NAME)
        os.makedirs(os.path.dirname(self.program))
        os.symlink(launcher, self.program)
        self.settings(root=shm_root, shm_free="off")

    def settings(self, **values):
        self.values = dict(getattr(self, "values", {}), **values)
        with open(self.program + ".ini", "w") as stream:
            stream.write("[GppShmPlugin]\n")
            stream.writelines(f"{name} = {value}\n" for name, value in self.values.items())


@pytest.fixture
def sdr(tmp_path, installed, shm_root):
    return Sdr(tmp_path / "sdr", installed, shm_root)


class Node:
    """A stand-in GPP, its plugin, and components with heaps.

    gpp  the client.Gpp
    log  the file that GPP, plugin and components write to
    """

    def __init__(self, sdr, folder, shm_root, **options):
        self.sdr, self.shm_root = sdr, shm_root
        self._plugin_pid = None
        self.log = str(folder / "log")
        with open(self.log, "ab") as stream:
            self.gpp = client.Gpp(
                sdr.path, folder / "cache", shm_root=shm_root, stdout=stream, stderr=stream, **options
            )

    def ready(self):
        """Wait until the plugin has registered and sent all metrics; returns its status."""
        wait_for(lambda: {each["metric_name"] for each in self.gpp.metric_status()} == METRICS)
        return self.gpp.plugin(NAME)

    @property
    def pid(self):
        return self.gpp.plugin(NAME)["pid"]

    @property
    def plugin_id(self):
        return self.gpp.plugin(NAME)["id"]

    def output(self):
        with open(self.log, errors="replace") as stream:
            return stream.read()

    def component(self, *options):
        """Start a child of the GPP with a heap; returns its pid."""
        return self.heap(
            self.gpp.execute(
                [sys.executable, "-I", HEAPWRITER, "own", f"--root={self.shm_root}", "--for-ever", *options]
            )
        )

    def heap(self, pid):
        """Wait until process `pid` has made its heap and the plugin has seen it alive; returns the pid."""
        wait_for(lambda: watches(self._plugin(), pid))
        return pid

    def _plugin(self):
        """The plugin's process; asked for only once, because the GPP may hang later."""
        if self._plugin_pid is None:
            self._plugin_pid = self.pid
        return self._plugin_pid

    def has_heap(self, pid):
        return os.path.exists(os.path.join(self.shm_root, f"heap-{pid}"))

    def recorded(self, metric):
        return self.gpp.metric(metric)["metric_recorded_value"]


@pytest.fixture
def start(sdr, tmp_path, shm_root):
    """start(**options): a Node whose plugin is ready."""
    nodes = []

    def start(**options):
        nodes.append(Node(sdr, tmp_path, shm_root, **options))
        nodes[-1].ready()
        return nodes[-1]

    yield start
    for node in nodes:
        node.gpp.resume()
        node.gpp.close()


@pytest.fixture
def node(start):
    return start()


def watches(watcher, pid):
    """Whether process `watcher` or its engine has a pidfd of process `pid`, which it saw with a heap."""
    wanted = b"\nPid:\t%d\n" % pid
    for each in [watcher, *children(watcher)]:
        try:
            for name in os.listdir(f"/proc/{each}/fdinfo"):
                with contextlib.suppress(FileNotFoundError), open(
                    f"/proc/{each}/fdinfo/{name}", "rb"
                ) as stream:
                    if wanted in stream.read():
                        return True
        except OSError:
            continue
    return False


def children(pid):
    """The pids of the children of a process, started by any thread."""
    found = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{task}/children") as stream:
                found += [int(word) for word in stream.read().split()]
    return found


def seconds_until(fact, limit=10.0):
    """Seconds until `fact()` is true."""
    start = time.monotonic()
    wait_for(fact, limit)
    return time.monotonic() - start
