"""Who looks into a process may never come back, for real: no unlink waits for that, nor does any end.

tests/silent.py is such a process.  A FIFO that lies over its maps, in the watcher's mount namespace, stands
for older kernels, where its locked memory blocks readers of maps, too.
"""

import contextlib
import functools
import os
import statistics
import sys
import threading
import time

import pytest

from blocking import ENDING, KINDS, SILENT, family, fifo, over
from blocking import blocked as blocked
from gppshm import engine, processes, procfs, supervised, watch
from spawning import lives, needs_root, state_of, wait_for
from watching import Farm, Shmwatch, Watching, gone

pytestmark = needs_root

BOUND = 0.05
"""Seconds from kill to unlink in the median: generous, for two processors with other tests beside."""
CRASHES = 8


@pytest.fixture
def crashes(spawn, shm_root):
    """Creators to be killed: as many without a peer as with one."""
    with Farm(spawn, shm_root, 2 * CRASHES) as farm:
        farm.peers = [spawn.peer(shm_root, name) for name in farm.names[CRASHES:]]
        yield farm


def kill_in_turn(root, farm):
    """Seconds from kill to unlink of those without a peer and those with one, in the median."""
    delays = []
    order = [number for pair in zip(range(CRASHES), range(CRASHES, 2 * CRASHES)) for number in pair]
    for number in order:
        started = time.monotonic()
        farm.kill([farm.pids[number]])
        gone(root, farm.names[number])
        delays.append(time.monotonic() - started)
    return statistics.median(delays[0::2]), statistics.median(delays[1::2])


# -- a process -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_process_that_blocks_who_looks_into_it_delays_neither_an_unlink_nor_the_end(
    shm_root, tmp_path, blocked, crashes, kind
):
    child = blocked(kind)
    prefix = over((fifo(tmp_path / "fifo"), f"/proc/{child.pid}/maps")) if "maps" in kind else ()
    started = time.monotonic()
    with Shmwatch(shm_root, "--rescan=0.5", prefix=prefix) as watching:
        assert time.monotonic() - started < 2.5
        wait_for(lambda: watching.state()["living"] >= 2 * CRASHES)
        lonely, attached = kill_in_turn(shm_root, crashes)
        assert max(lonely, attached) < BOUND
        # Who is attached is told, too, as far as processes answer.
        removed = [watching.wait("removed", name) for name in crashes.names[CRASHES:]]
        assert [[each["pid"] for each in event["attached"]] for event in removed] == [
            [peer.pid] for peer in crashes.peers
        ]
        rescans = watching.state()["rescans"]
        wait_for(lambda: watching.state()["rescans"] >= rescans + 3)
        troubles = [said["reason"] for said in watching.said if said["event"] == "trouble"]
        told = [trouble for trouble in troubles if str(child.pid) in trouble]
        assert len(told) == 1
        assert told[0].startswith(f"process {child.pid} (python")
        assert "does not answer who looks into it" in told[0]
        started, helpers = time.monotonic(), family(watching.pid)
        watching.end()
        assert time.monotonic() - started < ENDING
        all_end(helpers, kind)
    assert os.listdir(shm_root) == [child.heap]
    released(child, helpers)


def was_killed(pid):
    """Whether it waits in state D for something that no signal ends, with SIGKILL pending."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status") as stream:
        pending = [int(line.split()[1], 16) for line in stream if line.startswith(("SigPnd", "ShdPnd"))]
        return state_of(pid) == "D" and any(mask >> 8 & 1 for mask in pending)
    return True


def all_end(pids, kind):
    """Whoever can be killed has ended; a call that no signal ends is over when what blocks it is."""
    wait_for(lambda: all(not lives(pid) or was_killed(pid) for pid in pids), 2.0)
    if host_is_quiet():
        assert any(lives(pid) for pid in pids) == (kind in ("descriptor", "name"))


def released(child, pids):
    """When what blocks them is gone, nobody is left."""
    child.kill()
    if host_is_quiet():
        wait_for(lambda: not any(lives(pid) for pid in pids))


@functools.lru_cache(None)
def host_is_quiet():
    """Whether no process of this host blocks who looks into it, but those of these tests."""
    ours = set(family(os.getpid()))

    def look():
        for pid in procfs.Processes().pids():
            if pid not in ours:
                procfs.Processes().open_files(pid)
                processes.describe(pid, names=False)

    return not supervised.call(look)[1]


@pytest.mark.parametrize("kind", ["command line", "descriptor"])
def test_the_library_ends_in_time_though_its_helper_hangs(shm_root, blocked, crashes, kind):
    child = blocked(kind)
    before = set(family(os.getpid()))
    with Watching(shm_root, rescan=0.5) as watched:
        watched.knows(*crashes.names)
        assert max(kill_in_turn(shm_root, crashes)) < BOUND
        wait_for(lambda: child.pid in watched.watcher.passed_over)
        wait_for(lambda: len(watched.of_kind(watch.REMOVED)) == 2 * CRASHES)
        helpers = set(family(os.getpid())) - before
        started = time.monotonic()
    assert time.monotonic() - started < ENDING
    assert len([event for event in watched.of_kind(watch.TROUBLE) if str(child.pid) in event.reason]) == 1
    all_end(helpers, kind)
    released(child, helpers)


@pytest.mark.parametrize("kind", ["command line", "descriptor"])
def test_the_engine_ends_in_time_though_its_helper_hangs(shm_root, blocked, crashes, kind):
    child = blocked(kind)
    before, told, named = set(family(os.getpid())), [], f"process {child.pid} "
    running = engine.Engine(shm_root, told.append, (watch.HOST, 0.5, False, False, True))
    thread = threading.Thread(target=running.run)
    thread.start()
    try:
        wait_for(lambda: set(crashes.names) <= set(running.living()))
        assert max(kill_in_turn(shm_root, crashes)) < BOUND
        wait_for(lambda: any(event.kind == watch.TROUBLE and named in event.reason for event in told))
        wait_for(lambda: running.counts.removed == 2 * CRASHES)
        helpers = set(family(os.getpid())) - before
        assert running.pid in helpers
        started = time.monotonic()
    finally:
        running.finish()
        thread.join(10)
        running.close()
    assert time.monotonic() - started < ENDING
    all_end(helpers, kind)
    assert len([event for event in told if event.kind == watch.TROUBLE and named in event.reason]) == 1
    released(child, helpers)


# -- a directory service -------------------------------------------------------------------------------------

OF_ANOTHER_USER = """
import ctypes, heapwriter  # a user without rights may not be able to read them
os.setgroups([]); os.setgid(4321); os.setuid(4321)
heap = heapwriter.LiveHeap.create(sys.argv[1], [(4096, ())], mode=0o666)
print("ready", heap.name, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def directory_service(spawn, tmp_path):
    """One that does not answer until it is told a line of /etc/passwd; `prefix` of a command that asks it."""
    if not os.path.exists("/dev/fuse"):
        pytest.skip("needs /dev/fuse")
    folder = tmp_path / "silent"
    folder.mkdir()
    child = spawn.program(sys.executable, "-I", SILENT, str(folder), "--over=/etc/passwd")
    child.prefix = ("nsenter", f"--target={child.pid}", "--mount")
    return child


def test_a_users_name_that_nobody_tells_delays_no_unlink(spawn, shm_root, directory_service):
    owners = [spawn.python(OF_ANOTHER_USER, shm_root) for _ in range(11)]
    for owner in owners[5:10]:
        spawn.peer(shm_root, owner)
    started = time.monotonic()
    with Shmwatch(shm_root, "--rescan=1000", prefix=directory_service.prefix) as watching:
        assert time.monotonic() - started < 2.5
        wait_for(lambda: watching.state()["living"] == 11)
        delays = []
        for owner in owners[:10]:
            started = time.monotonic()
            owner.kill()
            gone(shm_root, owner)
            delays.append(time.monotonic() - started)
            # Its number has to do.
            assert watching.wait("removed", owner)["user"] == "4321"
            assert time.monotonic() - started < 2.0
        assert statistics.median(delays) < BOUND
        # The answer is taken when it comes at last.
        directory_service.send("redhawker:x:4321:4321::/:/bin/sh")
        wait_for(lambda: not watching.state()["questions"])
        owners[10].kill()
        assert watching.wait("removed", owners[10])["user"] == "redhawker"
        watching.end()


def test_the_end_does_not_wait_for_a_users_name(spawn, shm_root, directory_service):
    owner = spawn.python(OF_ANOTHER_USER, shm_root)
    with Shmwatch(shm_root, "--rescan=1000", prefix=directory_service.prefix) as watching:
        wait_for(lambda: watching.state()["living"] == 1)
        owner.kill()
        gone(shm_root, owner)
        started, helpers = time.monotonic(), family(watching.pid)
        end, _ = watching.end()
        assert time.monotonic() - started < ENDING
        assert end["removed"] == 1
        assert [said["user"] for said in watching.said if said["event"] == "removed"] == ["4321"]
        all_end(helpers, "name")


ASKS = """
import time
from gppshm import asking, events
from gppshm.redhawk import journal, metrics
event = events.Event(events.FAILED, "it stays", "heap-12")
orphan = journal.Orphan(event)
orphan.uid = 4321
state = metrics.State(1 << 30, 1 << 29, [orphan])
board = metrics.Metrics({})
asking.shared.call("gppshm.processes:available", [], 20.0)  # nobody waits for the observer's start
print("ready", flush=True)
for line in sys.stdin:
    began = time.monotonic()
    reason = {each.name: each.reason for each in board.read(state)}[metrics.ORPHANED]
    quick = time.monotonic() - began < 2
    print(reason.split("of user ")[1].split(",")[0], "quick" if quick else "slow", flush=True)
"""


def test_a_metric_shows_a_users_number_while_nobody_tells_the_name(spawn, directory_service):
    process = spawn.python(ASKS, prefix=directory_service.prefix)

    def shown():
        process.send("again")
        return process.read_line()

    assert [shown() for _ in range(3)] == ["4321 quick"] * 3
    directory_service.send("redhawker:x:4321:4321::/:/bin/sh")
    wait_for(lambda: shown() == "redhawker quick")


SHOWS = """
import threading, time
from gppshm.redhawk import cleaning, figures
work = cleaning.Cleaning(sys.argv[1], cleaning.Orders(enabled=False), os.getpid())
shown = figures.Figures(work, lambda: 0)
work.start(), shown.start()
print("ready", flush=True)
for line in sys.stdin:
    began = time.monotonic()
    rows = [row for row in shown.heaps()[0] if row.name == line.strip()]
    quick = time.monotonic() - began < 3
    print(rows[0].user if rows else None, "quick" if quick else "slow", flush=True)
"""


def test_a_query_shows_a_users_number_while_nobody_tells_the_name(spawn, shm_root, directory_service):
    owner = spawn.python(OF_ANOTHER_USER, shm_root)
    process = spawn.python(SHOWS, shm_root, prefix=directory_service.prefix)

    def shown():
        process.send(owner.name)
        return process.read_line()

    assert [shown() for _ in range(3)] == ["4321 quick"] * 3
    directory_service.send("redhawker:x:4321:4321::/:/bin/sh")
    wait_for(lambda: shown() == "redhawker quick")
