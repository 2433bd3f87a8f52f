"""Promises of demo/heapwriter.py: real processes with real heaps, which behave as REDHAWK's do."""

import contextlib
import fcntl
import os
import random
import shutil
import subprocess
import sys
import tempfile

import pytest

import heapwriter
from gppshm import heapcheck, heapfile

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a pid namespace of its own")


@pytest.fixture
def root():
    """A folder of our own on the real tmpfs."""
    path = tempfile.mkdtemp(prefix="gppshm-test-", dir="/dev/shm")
    yield path
    shutil.rmtree(path)


@contextlib.contextmanager
def writer(*arguments, **options):
    """A process of the writer and the name of its heap, once that is there."""
    before = options.pop("before", ())
    command = list(before) + [sys.executable, "-I", heapwriter.__file__] + list(arguments)
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, universal_newlines=True, **options
    )
    try:
        ready, _, name = process.stdout.readline().partition(" ")
        assert ready == "ready"
        yield process, name.strip()
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def read(root, name):
    """The heap, and all its faults."""
    fd = os.open(os.path.join(root, name), os.O_RDONLY)
    try:
        heap = heapfile.read_heap(fd, os.fstat(fd).st_size)
        return heap, [fault.what for fault in list(heap.faults) + heapcheck.check(fd, heap)]
    finally:
        os.close(fd)


def written_by_somebody(root, name):
    """Whether the kernel refuses a read lease: somebody has the file open or mapped for writing."""
    fd = os.open(os.path.join(root, name), os.O_RDONLY)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(fd)


def descriptors(process, path):
    folder = f"/proc/{process.pid}/fd"
    return [fd for fd in os.listdir(folder) if os.readlink(os.path.join(folder, fd)) == path]


def mappings(process, path):
    with open(f"/proc/{process.pid}/maps") as maps:
        return [line.split()[1] for line in maps if line.rstrip().endswith(path)]


def test_an_owners_heap_is_whole_and_named_after_it(root):
    with writer("own", "--root=" + root, "--superblocks=3", "--used=3000000") as (process, name):
        heap, faults = read(root, name)
        assert name == f"heap-{process.pid}"
        assert faults == []
        assert (heap.header.creator, heap.header.refcount) == (process.pid, 1)
        assert len(heap.superblocks) == 3
        assert abs(heap.heap_used - 3000000) < heapwriter.MIN_BLOCK
        status = os.stat(os.path.join(root, name))
        assert status.st_size == status.st_blocks * 512


@pytest.mark.parametrize(("option", "count"), [((), 0), (("--keep-fd",), 1)])
def test_a_heap_stays_mapped_for_writing_with_and_without_a_descriptor(root, option, count):
    with writer("own", "--root=" + root, "--superblocks=2", *option) as (process, name):
        path = os.path.join(root, name)
        assert len(descriptors(process, path)) == count
        assert mappings(process, path)
        assert set(mappings(process, path)) == {"rw-s"}
        assert written_by_somebody(root, name)


def test_a_killed_owner_leaves_its_heap_and_nobody_writes_it(root):
    with writer("own", "--root=" + root) as (process, name):
        process.kill()
        process.wait(30)
        assert not written_by_somebody(root, name)
        heap, faults = read(root, name)
        assert (heap.header.refcount, faults) == (1, [])


def test_an_owner_that_exits_normally_unlinks_its_heap(root):
    with writer("own", "--root=" + root) as (process, name):
        assert os.listdir(root) == [name]
        process.stdin.close()
        assert process.wait(30) == 0
        assert os.listdir(root) == []


def test_a_peer_raises_the_refcount_and_keeps_the_heap_of_a_dead_owner_mapped(root):
    with contextlib.ExitStack() as stack:
        owner, name = stack.enter_context(writer("own", "--root=" + root, "--superblocks=2"))
        peer, attached = stack.enter_context(writer("attach", name, "--root=" + root))
        assert attached == name
        heap, faults = read(root, name)
        assert (heap.header.refcount, heap.header.creator, faults) == (2, owner.pid, [])
        owner.kill()
        owner.wait(30)
        assert written_by_somebody(root, name)
        assert descriptors(peer, os.path.join(root, name)) == []
        peer.stdin.close()
        assert peer.wait(30) == 0
        assert read(root, name)[0].header.refcount == 1
        assert not written_by_somebody(root, name)


def test_one_that_stays_for_ever_does_not_look_at_stdin(root):
    with writer("own", "--root=" + root, "--for-ever") as (process, name):
        process.stdin.close()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        assert written_by_somebody(root, name)


def test_mode_and_sizes_are_as_asked_for(root):
    options = ["--mode=600", "--size=5000", "--used=480", "--block=48"]
    with writer("own", "--root=" + root, *options) as (_, name):
        heap, faults = read(root, name)
        assert faults == []
        assert os.stat(os.path.join(root, name)).st_mode & 0o7777 == 0o600
        assert (heap.heap_size, heap.heap_used) == (heapwriter.whole_pages(5000), 480)


def test_a_lock_can_be_held_for_ever(root):
    with writer("own", "--root=" + root, "--superblocks=2", "--hold-lock") as (process, name):
        heap, faults = read(root, name)
        assert faults == []
        assert [(one.lock_word, one.lock_owner) for one in heap.superblocks] == [(1, process.pid), (0, 0)]


@needs_root
def test_an_owner_in_a_pid_namespace_has_its_pid_there(root):
    unshare = ["unshare", "--pid", "--fork", "--kill-child"]
    with writer("own", "--root=" + root, before=unshare) as (_, name):
        assert name == "heap-1"
        assert read(root, name)[0].header.creator == 1


def test_a_left_behind_heap_is_written_without_a_process(root):
    path = os.path.join(root, "any name")
    size = heapwriter.SUPERBLOCK_SIZE
    heapwriter.create(path, 4711, heapwriter.filled(2, size, size + 1000), mode=0o640)
    heap, faults = read(root, "any name")
    assert faults == []
    assert heap.header.creator == 4711
    assert [superblock.used for superblock in heap.superblocks] == [size, 992]
    assert os.stat(path).st_mode & 0o7777 == 0o640
    assert not written_by_somebody(root, "any name")


@pytest.mark.parametrize(
    "used", [0, 1, 47, 48, 100, 65536, 65536 + 16, 2097152 - 16, 2097152, 3000000, 10**9]
)
@pytest.mark.parametrize("block", [1, 48, 100000])
def test_any_amount_can_be_filled_in(root, used, block):
    path = os.path.join(root, "heap-5")
    heapwriter.create(path, 5, heapwriter.filled(2, 2097152, used, block))
    heap, faults = read(root, "heap-5")
    assert faults == []
    wanted = min(used, 2 * 2097152)
    assert wanted - 3 * heapwriter.MIN_BLOCK < heap.heap_used <= wanted


@pytest.mark.parametrize("arguments", [[], ["own", "x"], ["attach"], ["own", "--no-such"], ["own", "--mode"]])
def test_a_wrong_command_is_a_usage_error(arguments):
    command = [sys.executable, "-I", heapwriter.__file__] + arguments
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"Writes real heaps")


@pytest.mark.parametrize(
    "arguments", [["attach", "no-such"], ["own", "--used=x"], ["own", "--root=/no/such"]]
)
def test_what_cannot_be_done_is_said_without_a_traceback(root, arguments):
    command = [sys.executable, "-I", heapwriter.__file__, "--root=" + root] + arguments
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"heapwriter.py: ")


def test_blocks_that_no_allocator_makes_are_refused():
    for fill in ([(32, 1)], [(100, 1)], [(96, -1), (96, -1)]):
        with pytest.raises(ValueError):
            heapwriter.image(5, [(4096, fill)], page=4096)


# Blocks that live: allocated by the creator, released by anybody


@pytest.fixture
def mapped_heap(root):
    """A heap of two superblocks, mapped, as a LiveHeap of this process."""
    heap = heapwriter.LiveHeap.create(
        root, [(65536, ()), (65536, [(96, 1), (4096, 2), (96, 1)])], name="heap-7"
    )
    yield heap
    heap.unlink()


def test_what_is_allocated_and_released_in_any_order_leaves_the_heap_whole(root, mapped_heap):
    dice, held = random.Random(7), mapped_heap.in_use()
    held += [held[1]]  # which two hold
    for _ in range(600):
        if dice.random() < 0.55:
            superblock = dice.choice(mapped_heap.superblocks())
            position = superblock.allocate(dice.choice([1, 32, 50, 500, 500, 5000]))
            held += [(superblock, position)] if position else []
        elif held:
            superblock, position = held.pop(dice.randrange(len(held)))
            superblock.release(position)
        heap, faults = read(root, "heap-7")
        assert faults == []
    while held:
        superblock, position = held.pop(dice.randrange(len(held)))
        superblock.release(position)
    heap, faults = read(root, "heap-7")
    assert (faults, heap.heap_used) == ([], 0)
    assert [list(one.blocks()) for one in mapped_heap.superblocks()] == [[(256, -1)], [(256, -1)]]


def test_no_more_is_allocated_than_there_is(mapped_heap):
    superblock = mapped_heap.superblocks()[0]
    assert superblock.allocate(65536 - 15) == 0
    assert superblock.allocate(65536 - 16) == 256
    assert superblock.allocate(1) == 0


def test_peers_that_release_at_once_leave_one_free_block_and_damage_no_byte(root):
    options = ["--used=2000000", "--block=8192", "--holders=3"]
    with contextlib.ExitStack() as stack:
        _, name = stack.enter_context(writer("own", "--root=" + root, *options))
        peers = []
        for _ in range(3):
            peers.append(stack.enter_context(writer("attach", name, "--root=" + root, "--hold"))[0])
        for number in [10] * 25:
            for peer in peers:
                peer.stdin.write("%d\n" % number)
                peer.stdin.flush()
        left = [[peer.stdout.readline() for _ in range(25)][-1] for peer in peers]
        assert left == ["holds 0\n"] * 3
        heap, faults = read(root, name)
        assert (faults, heap.heap_used) == ([], 0)


def test_a_peer_that_finds_a_damaged_byte_says_so_and_exits_with_1(root):
    with contextlib.ExitStack() as stack:
        _, name = stack.enter_context(writer("own", "--root=" + root, "--used=65536"))
        options = ("attach", name, "--root=" + root, "--hold")
        peer, _ = stack.enter_context(writer(*options, stderr=subprocess.PIPE))
        peer.stdin.write("0\n")
        peer.stdin.flush()
        assert peer.stdout.readline() == "holds 1\n"
        with open(os.path.join(root, name), "r+b") as stream:
            stream.seek(3 * heapwriter.PAGE)
            stream.write(b"\0")
        peer.stdin.write("0\n")
        peer.stdin.flush()
        with peer.stderr:
            assert "1 blocks of heap-" in peer.stderr.read()
        assert peer.wait(30) == 1
