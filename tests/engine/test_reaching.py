"""Promises of gppshm.reaching: what somebody else unlinked first gives back what is free, too."""

import os
import signal
import time

import pytest

import heapwriter
from blocking import blocked as blocked
from gppshm import held, observing, watch
from pids import FORKING
from spawning import descriptors, needs_root, wait_for
from watching import ByHand, Shmwatch

SMALL = ("--superblocks=2", "--used=1000000", "--block=50000")
FREE = 2 * heapwriter.SUPERBLOCK_SIZE - 1000000
PAGE = heapwriter.PAGE


def heap(spawn, root, *options, peers=1):
    owner = spawn.owner(root, f"--holders={peers}", *SMALL)
    return owner, [spawn.peer(root, owner, "--hold", *options) for _ in range(peers)]


def crash(watching, owner):
    """Its death, and somebody who unlinks the heap before the watcher takes a step."""
    owner.kill()
    os.unlink(os.path.join(watching.root, owner.name))


def release(peer, count):
    peer.send(str(count))
    return int(peer.read_line().split()[1])


def gave_back(watching, owner):
    """The event of its removal once it has the figures: on a busy machine it is told without."""
    event = watching.reported(watch.CLEANED, owner)
    watching.until(lambda: event.given_back > FREE - 8 * PAGE and event.in_use)
    return event


def opened():
    """What this process has open, but the pipes to the processes that it talks to."""
    return sorted(path for _, path in descriptors() if not path.startswith("pipe:"))


def taken(event, pid):
    """Bytes that the file still takes, as a peer with a descriptor of it shows."""
    fd = held.open_held((event.device, event.inode), [pid])
    try:
        return os.fstat(fd).st_blocks * 512
    finally:
        os.close(fd)


def test_what_is_free_comes_back_and_the_event_tells_it(spawn, shm_root, by_hand, triggers):
    owner, peers = heap(spawn, shm_root, "--keep-fd", peers=2)
    watching = by_hand()
    watching.identified(owner)
    crash(watching, owner)
    event = gave_back(watching, owner)
    assert event.given_back <= FREE
    assert (event.in_use, event.not_given_back) == (1000000, "")
    assert event.left == event.bytes - event.given_back == taken(event, peers[0].pid)
    assert {pid for pid, _ in event.attached} == {peer.pid for peer in peers}
    counts = watching.watcher.counts
    assert (counts.cleaned, counts.removed, counts.returning) == (1, 0, 1)
    assert (counts.given_back, counts.in_use) == (event.given_back, 1000000)
    # Every byte that they hold is whole, and what they let go of comes back, too.
    for peer in peers:
        assert release(peer, 1000) == 0
    later = watching.until(lambda: [e for e in watching.events if e.kind == watch.RETURNED and not e.in_use])[
        0
    ]
    assert later.given_back == event.given_back
    assert later.left == taken(event, peers[0].pid) <= 8 * PAGE
    for peer in peers:
        peer.kill()
    watching.until(lambda: not watching.watcher.returns() and not counts.returning)


@needs_root
def test_peers_that_have_it_mapped_alone_lead_to_it(spawn, shm_root, by_hand):
    """By map_files, for which the right to it is needed."""
    owner, (peer,) = heap(spawn, shm_root)
    watching = by_hand()
    watching.identified(owner)
    crash(watching, owner)
    gave_back(watching, owner)
    assert release(peer, 1000) == 0


def test_a_heap_that_nobody_holds_is_told_at_once_and_nothing_is_kept(spawn, shm_root, by_hand, triggers):
    owner = spawn.owner(shm_root, *SMALL)
    watching = by_hand()
    watching.identified(owner)
    before = descriptors()
    crash(watching, owner)
    event = watching.reported(watch.CLEANED, owner)
    assert (event.given_back, event.not_given_back, event.attached) == (0, "", [])
    assert watching.watcher.returns() == [] and len(descriptors()) < len(before)  # its pidfd


def test_one_that_grew_and_was_not_identified_since_gives_back_all_the_same(spawn, shm_root, by_hand):
    owner, (peer,) = heap(spawn, shm_root, "--keep-fd")
    watching = by_hand()
    watching.identified(owner)
    with open(os.path.join(shm_root, owner.name), "r+b") as stream:
        os.ftruncate(stream.fileno(), os.fstat(stream.fileno()).st_size)  # as if
    crash(watching, owner)
    gave_back(watching, owner)
    assert release(peer, 1000) == 0


def test_a_forked_child_keeps_everything_and_goes_on_allocating(spawn, shm_root, by_hand):
    owner = spawn.python(FORKING, shm_root, "keep fd")
    child = int(owner.read_line().split()[1])
    watching = by_hand()
    watching.identified(owner)
    os.kill(owner.pid, signal.SIGKILL)
    os.unlink(os.path.join(shm_root, owner.name))
    event = watching.reported(watch.CLEANED, owner)
    assert [pid for pid, _ in event.attached] == [child]
    assert "a forked child" in event.not_given_back and event.given_back == 0
    for _ in range(5):
        owner.send("")
        assert owner.read_line() == "whole True"


def test_a_live_heap_that_loses_its_name_is_left_alone(spawn, shm_root, by_hand):
    owner, (peer,) = heap(spawn, shm_root, "--keep-fd")
    watching = by_hand()
    watching.identified(owner)
    status = os.stat(os.path.join(shm_root, owner.name))
    os.unlink(os.path.join(shm_root, owner.name))
    watching.watcher.scan_again()
    event = watching.reported(watch.UNLINKED, owner)
    watching.steps(0.5)
    assert taken(event, peer.pid) == status.st_blocks * 512
    assert watching.watcher.counts.given_back == 0


def test_a_file_with_another_creator_than_the_dead_one_is_left_alone(spawn, shm_root, by_hand):
    """The peer makes the file its own, as no peer does: what was known of it is not believed."""
    code = """
import heapwriter, os
heap = heapwriter.LiveHeap.attach(sys.argv[2], sys.argv[1], keep_fd=True)
print("ready", flush=True)
sys.stdin.readline()
heapwriter.put_header(heap.mappings[0], os.getpid())
print("mine", flush=True)
sys.stdin.read()
"""
    owner = spawn.owner(shm_root, *SMALL)
    peer = spawn.python(code, shm_root, owner.name)
    watching = by_hand()
    watching.identified(owner)
    peer.send("")
    assert peer.read_line() == "mine"
    crash(watching, owner)
    event = watching.reported(watch.CLEANED, owner)
    assert event.given_back == 0
    assert taken(event, peer.pid) == event.bytes


@pytest.mark.parametrize("options", [{"reclaim": False}, {"dry_run": True}])
def test_where_nothing_is_to_be_given_back_nothing_is(spawn, shm_root, by_hand, options):
    owner, (peer,) = heap(spawn, shm_root, "--keep-fd")
    watching = by_hand(**options)
    watching.identified(owner)
    crash(watching, owner)
    event = watching.reported(watch.CLEANED, owner)
    watching.steps(0.3)
    assert (event.given_back, event.not_given_back, watching.watcher.returns()) == (0, "", [])
    assert taken(event, peer.pid) == event.bytes


def test_what_is_not_ours_to_remove_is_not_given_back(spawn, shm_root, by_hand):
    owner, (peer,) = heap(spawn, shm_root, "--keep-fd")
    watching = by_hand(scope=watch.CHILDREN, parent=1 << 21)
    watching.identified(owner)
    crash(watching, owner)
    event = watching.reported(watch.CLEANED, owner)
    watching.steps(0.3)
    assert taken(event, peer.pid) == event.bytes


def test_many_at_once_give_back_each(spawn, shm_root, by_hand):
    made = [heap(spawn, shm_root, "--keep-fd") for _ in range(20)]
    watching = by_hand()
    for owner, _ in made:
        watching.identified(owner)
    for owner, _ in made:
        crash(watching, owner)
    for owner, (peer,) in made:
        gave_back(watching, owner)
        assert release(peer, 1000) == 0


def test_an_observer_that_ends_in_the_middle_loses_nothing(spawn, shm_root, by_hand):
    owner, (peer,) = heap(spawn, shm_root, "--keep-fd")
    watching = by_hand()
    watching.identified(owner)
    watcher = watching.watcher
    crash(watching, owner)
    os.kill(watcher._observer.pid, signal.SIGKILL)
    watching.until(lambda: watcher.counts.given_back > FREE - 8 * PAGE)
    assert release(peer, 1000) == 0


@pytest.mark.parametrize("orders", [False, True])
def test_orders_and_the_end_let_go_of_all_that_is_sought(spawn, shm_root, orders):
    owner, (peer,) = heap(spawn, shm_root, "--keep-fd")
    before = opened()
    with ByHand(shm_root) as watching:
        watching.identified(owner)
        crash(watching, owner)
        watching.until(lambda: watching.watcher.counts.cleaned)
        if orders:
            watching.watcher.change(watch.HOST, 1000, False, False, False)
            event = watching.reported(watch.CLEANED, owner)
            watching.steps(0.3)
            assert event.given_back == watching.watcher.counts.returning == 0
            assert taken(event, peer.pid) == event.bytes
    assert opened() == before


def test_a_descriptor_comes_past_the_observer_and_two_of_one_file_are_one(shm_root):
    path = os.path.join(shm_root, "file")
    ours, theirs = observing.socket.socketpair(observing.socket.AF_UNIX, observing.socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    with ours, theirs, open(path, "w"):
        assert observing.read_parcels(ours) == {}
        count = len(descriptors())
        with open(path) as stream:
            for _ in range(3):
                observing.send_parcel(theirs, stream.fileno())
        found = observing.read_parcels(ours)
        status = os.stat(path)
        assert list(found) == [(status.st_dev, status.st_ino)] and len(descriptors()) == count + 1
        (fd,) = found.values()
        assert not os.get_inheritable(fd)
        os.close(fd)
    with pytest.raises(OSError):
        observing.send_parcel(None, 0)


def test_the_command_gives_back_what_another_cleaner_unlinked(spawn, shm_root):
    with Shmwatch(shm_root, "--rescan=1000") as command:
        owner, (peer,) = heap(spawn, shm_root, "--keep-fd")
        wait_for(lambda: command.state()["identities"] == 1)
        os.kill(command.pid, signal.SIGSTOP)
        try:
            owner.kill()
            os.unlink(os.path.join(shm_root, owner.name))
        finally:
            os.kill(command.pid, signal.SIGCONT)
        assert command.wait("removed by others", owner)["not_given_back"] is None
        wait_for(lambda: command.state()["given_back"] > FREE - 8 * PAGE)
        assert release(peer, 1000) == 0
        wait_for(lambda: command.state()["in_use"] == 0)
        assert command.end()[0]["removed_by_others"] == 1


@needs_root
def test_a_process_that_blocks_who_looks_for_holders_is_passed_over(spawn, shm_root, by_hand, blocked):
    child = blocked("descriptor")
    owner, (peer,) = heap(spawn, shm_root, "--keep-fd")
    watching = by_hand()
    watching.identified(owner)
    crash(watching, owner)
    gave_back(watching, owner)
    assert release(peer, 1000) == 0
    assert child.pid in watching.watcher.passed_over


def test_the_unlink_of_another_heap_does_not_wait(spawn, shm_root, by_hand):
    """Whoever looks for holders may hang; the watcher goes on."""
    owner, (peer,) = heap(spawn, shm_root, "--keep-fd")
    other = spawn.owner(shm_root)
    watching = by_hand()
    watching.identified(owner)
    watching.identified(other)
    crash(watching, owner)
    watching.until(lambda: watching.watcher.counts.cleaned)
    os.kill(watching.watcher._observer.pid, signal.SIGSTOP)
    try:
        other.kill()
        began = time.monotonic()
        watching.until(lambda: watching.watcher.counts.removed)
        assert time.monotonic() - began < 5
        assert watching.watcher.counts.given_back == 0
    finally:
        os.kill(watching.watcher._observer.pid, signal.SIGCONT)
    watching.until(lambda: watching.watcher.counts.given_back > FREE - 8 * PAGE)
    assert release(peer, 1000) == 0
