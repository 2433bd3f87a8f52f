"""Promises of the plugin's metrics: measured on a real tmpfs, told in sentences, in ASCII."""

import json
import os

import pytest

from gppshm import creator, events, shmfs, watch
from gppshm.redhawk import journal, metrics, thresholds
from gppshm.redhawk.text import plain
from spawning import needs_root, wait_for

MB = 1048576


def board(**texts):
    return metrics.Metrics({name: thresholds.parse(text) for name, text in texts.items()})


def by_name(readings):
    assert [reading.name for reading in readings] == list(metrics.NAMES)
    return {reading.name: reading for reading in readings}


def orphan(name, size, reason="it cannot be unlinked: Operation not permitted", attached=()):
    event = events.Event(watch.FAILED, reason, name)
    event.bytes, event.attached = size, list(attached)
    found = journal.Orphan(event)
    found.uid = 0
    return found


def test_little_free_memory_is_busy_and_says_how_much():
    free = by_name(board(shm_free="64 MB").read(metrics.State(1000 * MB, 10 * MB)))["shm_free"]
    assert free.busy is True
    assert (free.threshold, free.recorded) == ("64 MB", "10.0 MB")
    assert free.reason == "Shared memory is low: only 10.0 MB of 1000.0 MB are free"


def test_enough_free_memory_is_not_busy():
    free = by_name(board(shm_free="64 MB").read(metrics.State(1000 * MB, 640 * MB)))["shm_free"]
    assert (free.busy, free.recorded) == (False, "640.0 MB")


@pytest.mark.parametrize("text", ["10 MB", "5%", "off"])
def test_a_file_system_without_a_size_is_never_busy(text):
    free = by_name(board(shm_free=text).read(metrics.State(0, 0)))["shm_free"]
    assert (free.busy, free.recorded) == (False, "unlimited")


def test_the_reason_of_orphans_names_them_their_owner_and_their_holders():
    state = metrics.State(1000 * MB, 0, [orphan("heap-12", 5 * MB, attached=[(77, "rx --gain 3")])])
    left = by_name(board(shm_orphaned="4 MB").read(state))["shm_orphaned"]
    assert (left.busy, left.recorded) == (True, "5.0 MB")
    for words in ("1 heap ", "heap-12 (5.0 MB)", "user root", "not permitted", "process 77 (rx --gain 3)"):
        assert words in left.reason


def test_many_orphans_make_no_endless_reason():
    state = metrics.State(1000 * MB, 0, [orphan(f"heap-{pid}", MB) for pid in range(1, 500)])
    left = by_name(board().read(state))["shm_orphaned"]
    assert "499 heaps" in left.reason
    assert "and 496 more" in left.reason
    assert len(left.reason) < 500


def test_removals_are_counted_and_never_busy():
    removed = by_name(board().read(metrics.State(MB, 0, removed=17, removed_bytes=34 * MB)))["shm_removed"]
    assert (removed.busy, removed.recorded, removed.threshold) == (False, "17", "off")
    assert "17 heaps" in removed.reason
    assert "34.0 MB" in removed.reason


def test_what_others_removed_is_counted_apart():
    state = metrics.State(MB, 0, removed=3, removed_bytes=6 * MB)
    assert "others" not in by_name(board().read(state))["shm_removed"].reason
    state.cleaned, state.cleaned_bytes = 197, 394 * MB
    removed = by_name(board().read(state))["shm_removed"]
    assert removed.recorded == "3"
    assert "3 heaps" in removed.reason and removed.reason.endswith("; others removed 197, 394.0 MB in all")


def test_what_came_back_and_what_is_still_in_use_by_whom_is_told_and_never_busy():
    state = metrics.State(100 * MB, 0)
    nothing = by_name(board().read(state))["shm_reclaimed"]
    assert (nothing.busy, nothing.recorded) == (False, "0.0 MB")
    state.given_back, state.given_back_later = 57 * MB, 2 * MB
    state.returns = [("heap-12", (1, 2), 57 * MB, 2 * MB, 4 * MB, 5 * MB, [(77, "rx")])]
    told = by_name(board().read(state))["shm_reclaimed"]
    assert (told.busy, told.recorded, told.threshold) == (False, "59.0 MB", "off")
    for words in ("57.0 MB", "2.0 MB", "4.0 MB of heap-12 by process 77 (rx)", "takes 5.0 MB"):
        assert words in told.reason
    state.returns = [(f"heap-{pid}", (1, pid), 1, 0, 1, 1, []) for pid in range(100)]
    assert len(by_name(board().read(state))["shm_reclaimed"].reason) < 500


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("shm_free", "-1"),
        ("shm_free", "nan"),
        ("shm_removed", "5"),
        ("shm_reclaimed", "5"),
        ("shm_fre", "5"),
        ("", "5"),
        ("shm_held", ""),
    ],
)
def test_a_bad_threshold_changes_nothing(name, text):
    mine = board(shm_free="64 MB", shm_held="1 MB")
    state = metrics.State(1000 * MB, 10 * MB)
    before = [reading.key() for reading in mine.read(state)]
    with pytest.raises(ValueError, match=r".+"):
        mine.set_threshold(name, text)
    assert [reading.key() for reading in mine.read(state)] == before


def test_a_good_threshold_is_in_force_at_once_and_shown():
    mine = board(shm_free="64 MB")
    state = metrics.State(1000 * MB, 100 * MB)
    assert mine.set_threshold("shm_free", "20%") == "20%"
    free = by_name(mine.read(state))["shm_free"]
    assert (free.busy, free.threshold) == (True, "20%")


@pytest.mark.parametrize(
    "text", ["heap-1\n", "a\0b", "\x1b[31m", "Größe", "\udcff\udc80", "漢字", "\x7f", "tab\t", "\u2028"]
)
def test_every_string_becomes_printable_ascii(text):
    shown = plain(text)
    assert shown.encode("ascii").decode() == shown
    assert shown.isprintable()
    assert plain(shown) == shown


def test_what_is_ascii_stays_as_it_is_and_what_is_endless_is_cut():
    assert plain("heap-12 (5.0 MB) of user 'x'") == "heap-12 (5.0 MB) of user 'x'"
    assert len(plain("x" * 5000, 100)) == 100


@needs_root
def test_free_and_held_memory_are_measured_on_the_file_system(private_tmpfs):
    code = """
import json, mmap
from gppshm import shmfs
from gppshm.redhawk import journal, metrics
root = sys.argv[1]
MB = 1048576
def measure():
    state = gauge.measure([], True)
    return state.size // MB, state.free // MB, sum(file.bytes for file in state.held) // MB
gauge = metrics.Gauge(shmfs.ShmDirectory(root), journal.Journal(root))
found = [measure()]
fd = os.open(root + "/heap-1", os.O_RDWR | os.O_CREAT)
os.posix_fallocate(fd, 0, 4 * MB)
memory = mmap.mmap(fd, 4 * MB)
os.close(fd)
found.append(measure())
os.unlink(root + "/heap-1")
found.append(measure())
state = gauge.measure([], True)
readings = {reading.name: reading for reading in metrics.Metrics({}).read(state)}
memory.close()
found.append(measure())
print(json.dumps([found, os.getpid(), readings["shm_held"].reason]))
"""
    done = private_tmpfs(code, options="size=16m,mode=1777")
    assert done.returncode == 0, done.stderr
    found, pid, reason = json.loads(done.stdout)
    assert found == [[16, 16, 0], [16, 12, 0], [16, 12, 4], [16, 16, 0]]
    assert "heap-1 (4.0 MB)" in reason
    assert f"process {pid} (" in reason


def test_an_orphan_counts_until_it_is_gone_replaced_or_alive(shm_root):
    kept = journal.Journal(shm_root)

    def tell(name):
        path = os.path.join(shm_root, name)
        with open(path, "wb") as stream:
            stream.write(b"x" * 8192)
        event = events.Event(watch.FAILED, "it cannot be unlinked: Operation not permitted", name)
        event.device, event.inode = os.stat(path).st_dev, os.stat(path).st_ino
        event.evidence = creator.LEASE
        kept.on_event(event)

    for name in ("heap-11", "heap-12", "heap-13"):
        tell(name)
    assert sum(each.bytes for each in kept.orphans([])) == 3 * 8192
    os.unlink(os.path.join(shm_root, "heap-11"))
    assert [each.name for each in kept.orphans(["heap-12"])] == ["heap-13"]
    assert [each.name for each in kept.orphans([])] == ["heap-12", "heap-13"]  # it has died again
    os.rename(os.path.join(shm_root, "heap-12"), os.path.join(shm_root, "heap-13"))
    assert kept.orphans([]) == []


def test_a_file_that_could_not_be_read_is_no_orphan(shm_root):
    kept = journal.Journal(shm_root)
    path = os.path.join(shm_root, "heap-11")
    open(path, "wb").close()
    event = events.Event(watch.FAILED, "Permission denied", "heap-11")
    event.device, event.inode = os.stat(path).st_dev, os.stat(path).st_ino
    kept.on_event(event)
    assert kept.orphans([]) == []


def test_removals_are_in_the_order_of_their_time_however_late_they_are_reported(shm_root):
    kept = journal.Journal(shm_root)
    removals = [events.Event(watch.REMOVED, "its creator is gone", f"heap-{n}") for n in (11, 12, 13)]
    for number, removal in enumerate(removals):
        removal.time = 1000.0 + number
    for number in (1, 2, 0):
        kept.on_event(removals[number])
        assert kept.reported is removals[number]
    assert [event.name for event in kept.recent] == ["heap-11", "heap-12", "heap-13"]


def test_a_held_heap_is_told_from_a_removal_on(shm_root, spawn):
    """A heap that a peer is attached to is removed: its memory stays, and the reason names the peer."""
    kept = journal.Journal(shm_root)
    owner = spawn.owner(shm_root, "--size=50000000")  # the largest of what is held on this host
    peer = spawn.peer(shm_root, owner)
    with watch.Watcher(shm_root, kept.on_event, reclaim=False) as watcher:
        watcher.sweep()
        owner.kill()

        def removed():
            watcher.wake()
            watcher.step()
            return kept.removed

        wait_for(removed)
        gauge = metrics.Gauge(shmfs.ShmDirectory(shm_root), kept)
        held = by_name(board().read(gauge.measure([], False)))["shm_held"]
        assert f"{owner.name} (" in held.reason
        assert f"process {peer.pid} (" in held.reason
    assert json.dumps(held.reason)
