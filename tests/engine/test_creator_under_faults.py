"""Whatever of /proc cannot be read at the moment, no living creator's heap is taken for an orphan."""

import errno
import os
import random
import re

from test_creator import MAIN_THREAD_ENDS

from gppshm import creator, procfs, shmfs
from pids import HALF_MADE, WHOLE_HEAP, container_with, free_pid
from spawning import needs_root

SMALL = "--size=4096"


def failing(monkeypatch, chance, share, where):
    """Let that share of all reads below `where` fail, each for itself."""

    def may_fail(real):
        def read(*arguments, **options):
            if re.match(where, arguments[0]) and chance.random() < share:
                raise OSError(
                    chance.choice([errno.EMFILE, errno.EACCES, errno.ENOENT, errno.ENOMEM]), "injected"
                )
            return real(*arguments, **options)

        return read

    for name in ("open", "listdir", "readlink", "stat", "lstat"):
        monkeypatch.setattr(os, name, may_fail(getattr(os, name)))


@needs_root
def test_no_failure_to_read_proc_makes_a_living_creator_dead(monkeypatch, shm_root, spawn):
    plain, attached_to = spawn.owner(shm_root, SMALL), spawn.owner(shm_root, SMALL)
    contained = container_with(spawn, shm_root, WHOLE_HEAP, free_pid())
    half_made = container_with(spawn, shm_root, HALF_MADE, free_pid())
    without_main_thread = spawn.python(MAIN_THREAD_ENDS, shm_root)
    for heap in (attached_to, contained, without_main_thread):
        spawn.peer(shm_root, heap)
    living = [life.name for life in (plain, attached_to, contained, half_made, without_main_thread)]
    sightings = []
    with shmfs.ShmDirectory(shm_root) as directory:
        for directory.leases in (True, False):
            for name in living:
                with directory.open(name) as file:
                    sightings.append(file.sighting)
    judged = 0
    for seed in range(120):
        chance = random.Random(seed)
        with monkeypatch.context() as patched:
            # All of /proc, or all but what tells whether every process can be seen.
            where = chance.choice(["/proc", "/proc/[0-9]"])
            failing(patched, chance, chance.choice([0.001, 0.01, 0.1, 0.5]), where)
            chance.shuffle(sightings)
            processes = procfs.Processes()
            for sighting in sightings:
                verdict = creator.judge(sighting, processes)
                assert verdict.state not in creator.ORPHANS, (seed, sighting.name, living, verdict)
                judged += verdict.state is creator.ALIVE
    assert judged
