"""Clocks and ages prove nothing, and what other systems keep in shared memory is theirs."""

import os
import sys

import pytest

from gppshm import judging, reaper, shmfs
from spawning import needs_root, run_command, seen_elsewhere

FAR_FUTURE = 32503680000  # the year 3000
LONG_PAST = 1


def clean(root):
    with shmfs.ShmDirectory(root) as directory, reaper.Reaper(directory) as cleaner:
        return {outcome.name: outcome.result for outcome in cleaner.clean(directory.names(), judging.Judge())}


@pytest.mark.parametrize("when", [LONG_PAST, FAR_FUTURE])
def test_no_time_of_a_file_makes_a_living_heap_dead_or_an_orphan_young(spawn, shm_root, when):
    living, dead = spawn.owner(shm_root), spawn.owner(shm_root)
    dead.kill()
    for heap in (living, dead):
        os.utime(os.path.join(shm_root, heap.name), (when, when))
    assert clean(shm_root) == {living.name: reaper.KEPT, dead.name: reaper.REMOVED}
    assert os.listdir(shm_root) == [living.name]


@needs_root
@pytest.mark.parametrize(
    "prefix", [(), ("--boottime", "100000000"), ("--boottime", "10", "--monotonic", "-1")]
)
def test_a_step_of_the_clock_makes_no_living_creator_dead(spawn, shm_root, prefix):
    """In a time namespace of its own, where every process seems years old, or yet to start."""
    living, dead, shared = [spawn.owner(shm_root) for _ in range(3)]
    spawn.peer(shm_root, shared)
    for creator in (dead, shared):
        creator.kill()
    seen = seen_elsewhere(shm_root, prefix=("unshare", "--time") + prefix)
    states = {name: found["state"] for name, found in seen.items()}
    assert states == {living.name: "alive", dead.name: "orphaned", shared.name: "orphaned, attached"}


def test_pythons_own_shared_memory_is_neither_unlinked_nor_judged(shm_root):
    """multiprocessing.shared_memory unlinks at exit what it has merely opened; nothing here does."""
    name = f"psm_gppshm_{os.getpid()}"
    path = os.path.join("/dev/shm", name)
    with open(path, "wb") as stream:
        stream.write(b"\xcc\x70\xeb" + bytes(5000))
    try:
        for _ in range(2):
            seen = seen_elsewhere("/dev/shm", name)[name]
            assert (seen["kind"], seen["state"]) == ("other", None)
        assert os.path.getsize(path) == 5003
    finally:
        os.unlink(path)


def test_nothing_of_this_project_opens_memory_by_pythons_shared_memory():
    package = os.path.dirname(os.path.dirname(os.path.abspath(shmfs.__file__)))
    code = f"import sys; sys.path.insert(0, {package!r})\n"
    code += "import gppshm.watch, gppshm.snapshot, gppshm.held; print(*sys.modules)"
    loaded = run_command([sys.executable, "-I", "-c", code]).stdout.split()
    assert "gppshm.reaper" in loaded
    assert not [name for name in loaded if name.startswith(("multiprocessing", "_posixshmem"))]
