"""The engine of plugin and device: a process of its own, which nobody's end or hang keeps from cleaning."""

import os
import signal
import time

import pytest

from blocking import family
from gppshm import engine, engine_process, watch
from spawning import descriptors, lives, needs_root, wait_for
from watching import ORDERS, Farm, Running, gone

SMALL = "--size=4096"


def test_what_the_process_does_and_knows_is_told_here(spawn, shm_root):
    owner, attached, living = (spawn.owner(shm_root, SMALL) for _ in range(3))
    peer = spawn.peer(shm_root, attached)
    with Running(shm_root) as running:
        running.knows(owner, attached, living)
        status = os.stat(os.path.join(shm_root, owner.name))
        file_id = status.st_dev, status.st_ino
        assert "own" in running.engine.description(owner.name, file_id).arguments
        wait_for(lambda: running.engine.pidfds == 3)
        owner.kill()
        attached.kill()
        event = running.reported(watch.REMOVED, owner)
        assert (event.evidence, event.creator, (event.device, event.inode)) == ("lease", owner.pid, file_id)
        event = running.reported(watch.REMOVED, attached)
        assert [pid for pid, _ in event.attached] == [peer.pid]
        wait_for(lambda: running.engine.living() == [living.name])
        counts = running.engine.counts
        assert (counts.removed, sum(counts.latencies.counts)) == (2, 2)
        assert counts.bytes > 0 and counts.latencies.seconds > 0
    assert running.faults == []


def test_a_killed_process_is_started_anew_and_goes_on_and_what_was_counted_is_kept(spawn, shm_root):
    with Farm(spawn, shm_root, 6) as farm, Running(shm_root) as running:
        running.knows(*farm.names)
        farm.kill(farm.pids[:2])
        wait_for(lambda: len(running.names(watch.REMOVED)) == 2)  # it is counted before it is told
        before = running.engine.counts.bytes
        old, helpers = running.engine.pid, family(running.engine.pid)
        os.kill(old, signal.SIGKILL)
        farm.kill(farm.pids[2:4])  # while nobody watches
        wait_for(lambda: running.engine.pid != old)
        running.knows(*farm.names[4:])
        wait_for(lambda: running.engine.counts.removed == 4)
        farm.kill(farm.pids[4:5])
        wait_for(lambda: running.engine.counts.removed == 5)
        assert running.engine.counts.bytes > before
        wait_for(lambda: sorted(running.names(watch.REMOVED)) == sorted(farm.names[:5]))
        wait_for(lambda: running.engine.living() == farm.names[5:])
        assert len(running.faults) == 1 and "it is started again" in running.faults[0]
        wait_for(lambda: not any(lives(pid) for pid in (old, *helpers)))


@needs_root
def test_it_has_a_larger_share_of_a_busy_processor_than_others(shm_root):
    with Running(shm_root) as running:
        assert os.getpriority(os.PRIO_PROCESS, running.engine.pid) == -10
        observer = wait_for(lambda: family(running.engine.pid))[0]
        wait_for(lambda: os.getpriority(os.PRIO_PROCESS, observer) == 0)


def test_orders_are_obeyed_and_outlive_a_restart(spawn, shm_root):
    owner, other = spawn.owner(shm_root, SMALL), spawn.owner(shm_root, SMALL)
    with Running(shm_root, (watch.HOST, 1000.0, True, False, True)) as running:
        running.knows(owner, other)
        owner.kill()
        running.reported(watch.WOULD_REMOVE, owner)
        running.engine.change(*ORDERS)
        running.reported(watch.REMOVED, owner)
        running.engine.change(watch.HOST, 1000.0, True, False)
        old = running.engine.pid
        os.kill(old, signal.SIGKILL)
        wait_for(lambda: running.engine.pid != old)
        running.knows(other)
        other.kill()
        running.reported(watch.WOULD_REMOVE, other)
        assert os.listdir(shm_root) == [other.name]


PARENT = """
import threading
from gppshm import engine, engine_process, watch
orders = (watch.HOST, 1000.0, False, False, True)
one = engine.Engine(sys.argv[1], lambda event: print(event.kind, event.name, flush=True), orders)
threading.Thread(target=one.run, daemon=True).start()
while len(one.living()) < int(sys.argv[2]):
    pass
print("ready", one.pid, flush=True)
sys.stdin.read()
"""


def test_when_its_parent_is_killed_it_ends_after_a_last_sweep(spawn, shm_root):
    with Farm(spawn, shm_root, 6) as farm:
        parent = spawn.python(PARENT, shm_root, 6)
        pid = int(parent.name)
        helpers = [pid, *family(pid)]
        os.kill(pid, signal.SIGSTOP)
        farm.kill(farm.pids[:4])
        wait_for(lambda: not any(lives(each) for each in farm.pids[:4]))
        started = time.monotonic()
        parent.kill()
        os.kill(pid, signal.SIGCONT)
        wait_for(lambda: not any(lives(each) for each in helpers))
        assert time.monotonic() - started < engine_process.LAST_SWEEP + 1
        assert sorted(os.listdir(shm_root)) == sorted(farm.names[4:])


def test_a_parent_that_hangs_keeps_it_from_nothing(spawn, shm_root):
    with Farm(spawn, shm_root, 30) as farm:
        parent = spawn.python(PARENT, shm_root, 30)
        os.kill(parent.pid, signal.SIGSTOP)
        delays = []
        for pid, name in zip(farm.pids[:29], farm.names):
            started = time.monotonic()
            farm.kill([pid])
            gone(shm_root, name)
            delays.append(time.monotonic() - started)
        assert sorted(delays)[14] < 0.05
        os.kill(parent.pid, signal.SIGCONT)
        # Nothing of it is lost.
        told = sorted(parent.read_line() for _ in range(29))
        assert told == sorted(f"removed {name}" for name in farm.names[:29])


def test_closing_is_quick_and_leaves_nothing(spawn, shm_root):
    owner = spawn.owner(shm_root, SMALL)
    before, others = descriptors(), set(family(os.getpid()))
    for _ in range(2):
        with Running(shm_root) as running:
            running.knows(owner)
            assert len(set(family(os.getpid())) - others) >= 2  # it, and its observer
            started = time.monotonic()
        assert time.monotonic() - started < 1.5
        wait_for(lambda: set(family(os.getpid())) <= others)
        assert descriptors() == before


def test_a_last_sweep_comes_before_the_end(spawn, shm_root):
    owner = spawn.owner(shm_root, SMALL)
    with Running(shm_root) as running:
        running.knows(owner)
        os.kill(running.engine.pid, signal.SIGSTOP)
        owner.kill()
        running.engine.finish()
        os.kill(running.engine.pid, signal.SIGCONT)
        running.thread.join(10)
    assert os.listdir(shm_root) == []
    assert [event.kind for event in running.events] == [watch.REMOVED]


def test_signals_to_the_group_of_its_parent_do_not_end_it(spawn, shm_root):
    owner = spawn.owner(shm_root, SMALL)
    with Running(shm_root) as running:
        running.knows(owner)
        pid = running.engine.pid
        assert os.getpgid(pid) == pid
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(pid, number)
        owner.kill()
        running.reported(watch.REMOVED, owner)
        assert running.engine.pid == pid


def test_a_directory_that_cannot_be_watched_is_refused(shm_root):
    before, others = descriptors(), set(family(os.getpid()))
    with pytest.raises(OSError, match="No such file"):
        engine.Engine(os.path.join(shm_root, "absent"), print, ORDERS)
    assert descriptors() == before
    wait_for(lambda: set(family(os.getpid())) <= others)


def memory(pid):
    """PSS and RSS in KiB; nothing of a child of the observer's that has just ended."""
    try:
        with open(f"/proc/{pid}/smaps_rollup") as stream:
            pairs = [line.split()[:2] for line in stream]
    except (ProcessLookupError, FileNotFoundError):
        return {}
    return {key[:-1]: int(value) for key, value in pairs if key in ("Pss:", "Rss:")}


def test_it_costs_little_memory(spawn, shm_root):
    """PSS is its share of what is in memory: the interpreter is its parent's, too."""
    with Farm(spawn, shm_root, 100) as farm, Running(shm_root) as running:
        running.knows(*farm.names)
        found = [memory(pid) for pid in (running.engine.pid, *family(running.engine.pid))]
        print(found)
        assert found[0]["Pss"] < 15 * 1024
