"""Fixtures for all tests: real processes, folders on real tmpfs, other namespaces."""

import os
import shutil
import sys
import tempfile

import pytest

HELPERS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "helpers")
if HELPERS not in sys.path:
    sys.path.insert(0, HELPERS)

import places  # noqa: E402

for folder in places.FOLDERS:
    if folder not in sys.path:
        sys.path.insert(0, folder)

from spawning import Spawn, python_command, run_command  # noqa: E402


@pytest.fixture
def spawn():
    """A `Spawn`; all processes that it started are killed and reaped at the end."""
    spawner = Spawn()
    try:
        yield spawner
    finally:
        spawner.close()


@pytest.fixture
def shm_root():
    """A new subfolder of the real /dev/shm, writable for every user like /dev/shm itself."""
    folder = tempfile.mkdtemp(prefix="gppshm-test-", dir="/dev/shm")
    os.chmod(folder, 0o1777)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def private_tmpfs(tmp_path):
    """run(code, *arguments, options="", fs="tmpfs"): run Python `code` with a new tmpfs at `tmp_path`.

    It runs in its own mount namespace. `options` are those of mount (size=64k). `sys.argv[1]` is the folder,
    followed by the arguments. Returns the CompletedProcess. Needs root.
    """

    def run(code, *arguments, options="mode=1777", fs="tmpfs"):
        mount = 'mount -t "$1" -o "$2" none "$3" && shift 3 && exec "$@"'
        return run_command(
            [
                "unshare",
                "--mount",
                "--propagation=private",
                "sh",
                "-c",
                mount,
                "sh",
                fs,
                options,
                str(tmp_path),
            ]
            + python_command(code, tmp_path, *arguments)
        )

    return run
