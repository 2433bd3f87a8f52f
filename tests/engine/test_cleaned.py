"""What is told is true: heaps of the dead that somebody else unlinks first, and how a creator ended."""

import os
import signal
import time

import pytest

from gppshm import kernel, watch
from spawning import lives, stays, wait_for
from watching import ByHand, Farm, Watching

SMALL = "--size=4096"


def unlink(root, heap):
    """What a GPP does when it learns of a component's death."""
    os.unlink(os.path.join(root, heap.name))


@pytest.fixture
def kernel_tells():
    """Whether this kernel tells how a process ended that is no child."""
    pid = os.fork()
    if not pid:
        os._exit(3)
    fd = kernel.pidfd_open(pid)
    os.waitpid(pid, 0)
    try:
        return kernel.exit_status(fd) == 3 << 8
    except OSError:
        return False
    finally:
        os.close(fd)


@pytest.mark.parametrize("peers", [0, 2])
@pytest.mark.parametrize("known", ["identified", "living"])
def test_a_heap_of_the_dead_that_another_unlinks_first_is_told_as_such(
    spawn,
    shm_root,
    by_hand,
    triggers,
    peers,
    known,
):
    owner = spawn.owner(shm_root, SMALL)
    attached = {spawn.peer(shm_root, owner).pid for _ in range(peers)}
    watching = by_hand()
    watching.identified(owner)
    status = os.stat(os.path.join(shm_root, owner.name))
    took = status.st_blocks * 512
    if known == "living":
        with open(os.path.join(shm_root, owner.name), "r+b") as stream:
            stream.write(b"")
            os.ftruncate(stream.fileno(), status.st_size)
    owner.kill()
    unlink(shm_root, owner)
    event = watching.reported(watch.CLEANED, owner)
    assert (event.device, event.inode) == (status.st_dev, status.st_ino)
    assert (event.creator, event.bytes, event.uid) == (owner.pid, took, os.getuid())
    assert "another process unlinked it first" in event.reason
    assert "heapwriter.py own" in event.command
    assert event.trigger in ("pidfd", "close")
    assert {pid for pid, _ in event.attached} == attached
    counts = watching.watcher.counts
    assert (counts.cleaned, counts.cleaned_bytes, counts.removed) == (1, took, 0)
    watching.watcher.scan_again()
    watching.steps(0.3)
    assert len(watching.reports()) == 1
    assert watching.watcher.living() == []


@pytest.mark.parametrize("peers", [0, 1])
def test_a_normal_exit_is_not_told(spawn, shm_root, by_hand, triggers, peers):
    owners = [spawn.owner(shm_root, SMALL) for _ in range(5)]
    for owner in owners[:peers] * 5:
        spawn.peer(shm_root, owner)
    watching = by_hand()
    for owner in owners:
        watching.identified(owner)
    for owner in owners:
        assert owner.leave() == 0
    watching.until(lambda: not watching.watcher.living())
    watching.watcher.scan_again()
    watching.steps(1.5)
    assert watching.reports() == []
    assert watching.watcher.counts.cleaned == 0


@pytest.mark.parametrize("order", ["owner first", "peer first"])
@pytest.mark.parametrize("peer_ends", ["leaves", "is killed"])
def test_a_normal_exit_while_a_peer_ends_is_not_told(
    spawn,
    shm_root,
    by_hand,
    triggers,
    order,
    peer_ends,
):
    owner = spawn.owner(shm_root, SMALL)
    peer, other = spawn.peer(shm_root, owner), spawn.peer(shm_root, owner)
    watching = by_hand()
    watching.identified(owner)
    acts = [owner.leave, peer.leave if peer_ends == "leaves" else peer.kill]
    for act in acts if order == "owner first" else reversed(acts):
        act()
    watching.until(lambda: not watching.watcher.living())
    other.leave()
    watching.steps(1.5)
    assert watching.reports() == []


UNLINKS_AND_WAITS = """
import heapwriter
heap = heapwriter.LiveHeap.create(sys.argv[1], [(4096, ())])
print("ready", heap.name, flush=True)
sys.stdin.readline()
heap.unlink()
print("unlinked", flush=True)
sys.stdin.read()
"""


def test_a_creator_that_takes_its_time_after_it_unlinked_its_heap_is_not_told(
    spawn,
    shm_root,
    by_hand,
    triggers,
):
    owner = spawn.python(UNLINKS_AND_WAITS, shm_root)
    watching = by_hand()
    watching.identified(owner)
    owner.send("unlink")
    assert owner.read_line() == "unlinked"
    watching.steps(0.3)
    owner.leave()
    watching.until(lambda: not watching.watcher.living())
    watching.steps(1.2)
    assert watching.reports() == []


def test_of_many_crashes_under_a_quick_cleaner_each_is_told_once(spawn, shm_root):
    """Either the watcher was first, or the other: a GPP unlinks as soon as it has reaped its child."""
    with Farm(spawn, shm_root, 60) as farm, Watching(shm_root, rescan=1000) as watched:
        watched.knows(*farm.names)
        for pid, name in zip(farm.pids, farm.names):
            os.kill(pid, signal.SIGKILL)
            wait_for(lambda: not lives(pid))  # noqa: B023
            try:
                os.unlink(os.path.join(shm_root, name))
            except FileNotFoundError:
                pass
        wait_for(lambda: not watched.watcher.living())

        def told():
            return watched.of_kind(watch.REMOVED) + watched.of_kind(watch.CLEANED)

        wait_for(lambda: len(told()) >= 60)
        stays(lambda: len(told()) == 60, 0.3)
        assert sorted(event.name for event in told()) == sorted(farm.names)
        counts = watched.watcher.counts
        assert counts.removed + counts.cleaned == 60


# -- how it ended --------------------------------------------------------------------------------------------


FORGETS = """
import heapwriter
heap = heapwriter.LiveHeap.create(sys.argv[1], [(4096, ())])
print("ready", heap.name, flush=True)
sys.stdin.read()
os._exit(42)
"""


def how(spawn, root, end, peers=0, kind=watch.REMOVED):
    """How a creator ended that `end` ends, as it is told; of a few, for no event waits long for a parent."""
    for _ in range(6):
        owner = spawn.python(FORGETS, root)
        for _ in range(peers):
            spawn.peer(root, owner)
        with ByHand(root) as watching:
            watching.identified(owner)
            end(owner)
            died = watching.reported(kind, owner).died
        if died:
            break
    return died


@pytest.mark.parametrize("peers", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT])
def test_how_a_creator_ended_is_told_where_the_kernel_tells(spawn, shm_root, kernel_tells, number, peers):
    died = how(spawn, shm_root, lambda owner: owner.kill(number), peers)
    assert died == (f"killed by {signal.Signals(number).name}" if kernel_tells else "")


def test_an_exit_that_leaves_the_heap_is_told_with_its_status(spawn, shm_root, kernel_tells):
    died = how(spawn, shm_root, lambda owner: owner.leave())
    assert died == ("exit status 42" if kernel_tells else "")


def test_how_a_creator_ended_is_told_of_a_heap_that_another_unlinked(spawn, shm_root, kernel_tells):
    def end(owner):
        owner.kill(signal.SIGSEGV)
        unlink(shm_root, owner)

    died = how(spawn, shm_root, end, kind=watch.CLEANED)
    assert died == ("killed by SIGSEGV" if kernel_tells else "")


def test_a_creator_whose_parent_does_not_take_note_of_its_death_is_told_without(spawn, shm_root):
    """The kernel knows how it ended when it is reaped; nobody waits for that."""
    code = (
        "import heapwriter\n"
        "if not os.fork():\n"
        "    heap = heapwriter.LiveHeap.create(sys.argv[1], [(4096, ())])\n"
        "    print('ready', heap.name, flush=True)\n"
        "    sys.stdin.readline(); os.kill(os.getpid(), 11)\n"
        "import signal; signal.pause()"
    )
    parent = spawn.python(code, shm_root)
    with Watching(shm_root, rescan=1000) as watched:
        watched.identified(parent.name)
        started = time.monotonic()
        parent.send("die")
        event = watched.reported(watch.REMOVED, parent.name)
        assert time.monotonic() - started < 2.0
    assert event.died == ""
