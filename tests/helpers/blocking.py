"""Processes that block their readers (silent.py), and descendants of processes."""

import os
import sys

import pytest

from places import HELPERS
from spawning import status_of

SILENT = os.path.join(HELPERS, "silent.py")
ENDING = 3.0
"""Seconds within which a reader of such a process must have ended."""

KINDS = {
    "command line": ["--memory"],
    "maps": [],
    "command line and maps": ["--memory"],
    "descriptor": ["--descriptor"],
}


@pytest.fixture
def blocked(spawn, shm_root, tmp_path):
    """blocked(kind): a process with a heap that blocks its readers in this way."""
    if not os.path.exists("/dev/fuse"):
        pytest.skip("needs /dev/fuse")

    def start(kind):
        folder = tmp_path / "silent"
        folder.mkdir()
        child = spawn.program(sys.executable, "-I", SILENT, str(folder), f"--heap={shm_root}", *KINDS[kind])
        child.heap = f"heap-{child.pid}"
        assert os.path.exists(os.path.join(shm_root, child.heap))
        return child

    return start


def over(*pairs):
    """The prefix of a command that sees other files at some paths: (file, path) each."""
    words = [word for pair in pairs for word in pair]
    script = 'while [ "$1" != -- ]; do mount --bind "$1" "$2" || exit; shift 2; done; shift; exec "$@"'
    return ("unshare", "--mount", "--propagation=private", "sh", "-c", script, "sh", *words, "--")


def fifo(path):
    os.mkfifo(str(path))
    return str(path)


def family(pid):
    """The pids of all descendants of a process."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            parents[int(name)] = status_of(int(name))[1]
    found = [pid]
    for each in found:
        found += [child for child, parent in parents.items() if parent == each]
    return found[1:]
