"""Promises of gppshm.reclaim: what is free in an orphan comes back, and what is in use stays whole."""

import errno
import json
import os
import random
import select
import struct
import subprocess
import sys
import threading
import time

import pytest

import heapwriter
from gppshm import heapcheck, heapfile, held, kinship, locks, pinning, procfs, reclaim
from places import FOLDERS
from spawning import descriptors, in_child, needs_root, python_command, run_command, wait_for

PAGE = heapwriter.PAGE
MB = 1 << 20
SMALL = "--size=1048576"


def taken(fd):
    return os.fstat(fd).st_blocks * 512


def file_id(fd):
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def thread_time():
    return time.clock_gettime(time.CLOCK_THREAD_CPUTIME_ID)


def faults(fd):
    heap = heapfile.read_heap(fd, os.fstat(fd).st_size)
    return [fault.what for fault in list(heap.faults) + heapcheck.check(fd, heap)]


class Dead:
    """A heap whose creator was killed and whose name is gone, held by peers that check every byte.

    fd       open for reading, from before the unlink
    noted    of the creator while it lived
    """

    def __init__(self, spawn, root, *options, peers=1, prefix=()):
        owner = spawn.owner(root, f"--holders={peers}", *options, prefix=prefix)
        path = os.path.join(root, owner.name)
        self.peers = [spawn.peer(root, owner, "--hold", prefix=prefix) for _ in range(peers)]
        self.fd = os.open(path, os.O_RDONLY)
        self.id = file_id(self.fd)
        self.noted = kinship.note(owner.pid, self.id)
        owner.kill()
        os.unlink(path)

    def release(self, count, peer=None):
        """Let the peer, or all of them, release so many blocks; what it holds then is still whole."""
        for one in self.peers if peer is None else [peer]:
            one.send(str(count))
        return [int(one.read_line().split()[1]) for one in (self.peers if peer is None else [peer])]

    def kin(self, noted=None):
        """As `kinship.kin`; somebody else's process that cannot be looked into just now is waited for."""

        def look():
            found, pids = kinship.kin(self.id, noted or self.noted)
            mine = {peer.pid for peer in self.peers}
            return (found, pids) if found is not kinship.UNKNOWN or mine.issuperset(pids) else None

        return wait_for(look)

    def kinship(self):
        return self.kin()[0]


@pytest.fixture
def dead(spawn, shm_root):
    """dead(option, ..., peers=1): a `Dead` heap in a folder of the real tmpfs."""
    made = []

    def make(*options, peers=1, prefix=()):
        made.append(Dead(spawn, shm_root, *options, peers=peers, prefix=prefix))
        return made[-1]

    yield make
    for one in made:
        os.close(one.fd)


def look_anew(it):
    """End the look that it is at, and take a whole one."""
    for _ in range(2):
        while not it.go_on():
            pass


def everything(one, **options):
    """A Reclaim of it after one whole look."""
    it = reclaim.Reclaim(one.fd, options.pop("kinship", kinship.NO_CHILD), **options)
    while not it.go_on():
        pass
    return it


# What comes back


def test_what_is_free_comes_back_at_once_and_what_peers_hold_is_whole(dead):
    one = dead("--superblocks=31", "--used=10485760", "--block=1048576")
    before = taken(one.fd)
    assert before > 62 * MB
    it = everything(one, kinship=one.kinship())
    assert it.stable and it.whole
    assert before - it.given_back == it.taken == taken(one.fd) < 11 * MB
    assert one.release(0) == [10]
    assert (it.in_use, faults(one.fd)) == (10 * MB, [])
    assert one.release(10) == [0]
    assert faults(one.fd) == []


def test_figures_add_up(dead):
    one = dead("--superblocks=3", "--used=1234560", "--block=30000")
    it = everything(one, dry_run=True)
    size = os.fstat(one.fd).st_size
    assert it.in_use + it.free + 4 * PAGE == size == it.taken
    assert (it.given_back, it.would_give_back) == (0, it.returnable)
    assert it.free - 4 * 2 * PAGE < it.returnable < it.free
    would = it.would_give_back
    it = everything(one)
    assert (it.given_back, it.would_give_back, it.taken) == (would, 0, size - would)


def test_pages_that_were_never_written_to_come_back_too(dead):
    """The kernel's SEEK_DATA takes these for holes."""
    one = dead(SMALL)
    assert os.lseek(one.fd, 3 * PAGE, os.SEEK_DATA) == os.fstat(one.fd).st_size - PAGE
    assert everything(one).taken <= 4 * PAGE


def test_what_peers_let_go_of_later_comes_back_and_in_the_end_all_but_a_few_pages(dead):
    one = dead("--superblocks=2", "--used=4000000", "--block=40000", peers=2)
    it = everything(one)
    before = it.taken
    for _ in range(10):
        one.release(5)
        while not it.go_on():
            pass
    # Both have let go of about a quarter of the blocks.
    assert before - it.taken > 400000
    assert one.release(1000) == [0, 0]
    while not it.go_on():
        pass
    # The header's page, and of each superblock its own and the first and the last of its one free block.
    assert (it.in_use, it.taken) == (0, (1 + 2 * 3) * PAGE)
    assert faults(one.fd) == []


def test_a_look_at_what_has_not_changed_neither_opens_for_writing_nor_gives_back_again(dead, monkeypatch):
    one = dead("--superblocks=4", "--used=3000000")
    it = everything(one)
    first = it.given_back
    monkeypatch.setattr(reclaim, "punch", lambda *_: pytest.fail("a hole was made again"))
    monkeypatch.setattr(reclaim, "writable", lambda *_: pytest.fail("it was opened again"))
    assert it.go_on(1) and it.go_on(1)
    assert it.given_back == first
    monkeypatch.undo()
    one.release(1)
    made = []
    punch = reclaim.punch
    monkeypatch.setattr(reclaim, "punch", lambda *hole: made.append(hole) or punch(*hole))
    assert it.go_on(1)
    assert 0 < it.given_back - first == sum(length for _, _, length in made) <= 65536


def test_work_is_done_in_pieces_that_hold_nobody_up(dead):
    one = dead("--superblocks=8", "--used=16000000", "--block=48")
    it = reclaim.Reclaim(one.fd, kinship.NO_CHILD)
    pieces, longest, done = 0, 0.0, False
    while not done:
        started = thread_time()
        done = it.go_on(0.002)
        longest = max(longest, thread_time() - started)
        pieces += 1
    assert pieces > 5
    assert longest < 0.02


# Under peers that work


@pytest.mark.parametrize("peers", [1, 2, 3])
def test_no_byte_that_a_peer_holds_is_damaged_by_holes_in_a_tight_loop(dead, peers):
    for used, block in ((2000000, 30000), (1900000, 5000), (1000000, 48), (1500000, 9000)):
        one = dead("--superblocks=1", f"--used={used}", f"--block={block}", peers=peers)
        it = reclaim.Reclaim(one.fd, kinship.NO_CHILD)
        over = threading.Event()

        def loop(it=it, over=over):
            while not over.is_set():
                it.go_on(0.001)

        thread = threading.Thread(target=loop)
        thread.start()
        try:
            left = [1]
            while any(left):
                left = one.release(random.randint(1, 1 + used // block // 8))
        finally:
            over.set()
            thread.join()
        look_anew(it)
        assert faults(one.fd) == []
        assert it.stable and it.in_use == 0 and it.taken == 4 * PAGE


def test_two_cleaners_at_once_do_no_harm(dead):
    one = dead("--superblocks=4", "--used=7000000", "--block=50000", peers=2)
    code = """
from gppshm import held, kinship, reclaim
fd = held.open_held((int(sys.argv[1]), int(sys.argv[2])), [int(sys.argv[3])])
it = reclaim.Reclaim(fd, kinship.NO_CHILD)
print("ready", flush=True)
import select
while not select.select([0], [], [], 0)[0]:
    it.go_on(0.001)
"""
    command = python_command(code, *one.id, one.peers[0].pid)
    cleaners = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2)]
    try:
        for cleaner in cleaners:
            assert cleaner.stdout.readline() == b"ready\n"
        left = [1]
        while any(left):
            left = one.release(2)
        wait_for(lambda: taken(one.fd) == (1 + 4 * 3) * PAGE)
    finally:
        for cleaner in cleaners:
            cleaner.communicate()
    assert [cleaner.returncode for cleaner in cleaners] == [0, 0]
    assert faults(one.fd) == []


def test_a_peer_that_exits_in_the_middle_leaves_its_blocks_and_disturbs_nobody(dead):
    one = dead("--superblocks=2", "--used=3000000", "--block=60000", peers=2)
    it = reclaim.Reclaim(one.fd, kinship.NO_CHILD)
    it.go_on(0)
    one.release(5)
    one.peers[0].kill()
    while not it.go_on():
        pass
    it.go_on(1)
    assert it.stable and it.in_use > 0
    assert one.release(1000, one.peers[1]) == [0]
    assert faults(one.fd) == []


def test_a_superblock_that_somebody_is_at_work_in_is_left_alone_until_he_is_done(dead, shm_root, spawn):
    one = dead("--superblocks=2")
    lock = PAGE + 272
    with open(reclaim_path(one.fd), "r+b", buffering=0) as stream:
        stream.seek(lock)
        stream.write(struct.pack("<ii", 1, 0)[:4])
        stream.seek(lock + 8)
        stream.write(struct.pack("<i", one.peers[0].pid))
        it = everything(one, lock_is_dead=locks.dead_holder(one.id))
        for _ in range(3):
            it.go_on(1)
        # Of the other superblock only.
        assert (it.stable, it.taken) == (False, (1 + 3) * PAGE + PAGE + 2 * MB)
        stream.seek(lock)
        stream.write(struct.pack("<i", 0))
    it.go_on(1)
    assert (it.stable, it.taken) == (True, (1 + 2 * 3) * PAGE)


def test_a_holder_that_lets_go_and_ends_while_it_is_asked_about_is_no_dead_holder(dead):
    one = dead(SMALL)
    lock = PAGE + 272

    def let_go_and_gone(superblock):
        os.pwrite(stream.fileno(), struct.pack("<i", 0), lock)
        os.pwrite(stream.fileno(), struct.pack("<i", 0), lock + 8)
        return True

    with open(reclaim_path(one.fd), "r+b", buffering=0) as stream:
        os.pwrite(stream.fileno(), struct.pack("<i", 1), lock)
        os.pwrite(stream.fileno(), struct.pack("<i", 4194304), lock + 8)
        it = everything(one, lock_is_dead=let_go_and_gone)
        assert (it.stable, it.given_back) == (False, 0)
        it.go_on(1)
        assert (it.stable, it.given_back) == (False, 0)
    it.go_on(1)
    assert it.stable and it.taken == 4 * PAGE


def test_who_takes_the_lock_at_the_last_moment_is_not_disturbed(dead, monkeypatch):
    one = dead(SMALL)
    lock = PAGE + 272

    def taken_just_before(fd):
        writing = os.open(reclaim_path(fd), os.O_RDWR)
        os.pwrite(writing, struct.pack("<i", 1), lock)
        os.pwrite(writing, struct.pack("<i", one.peers[0].pid), lock + 8)
        return writing

    monkeypatch.setattr(reclaim, "writable", taken_just_before)
    it = everything(one)
    assert (it.given_back, it.stable) == (0, False)
    monkeypatch.undo()
    with open(reclaim_path(one.fd), "r+b", buffering=0) as stream:
        os.pwrite(stream.fileno(), struct.pack("<i", 0), lock)
    it.go_on(1)
    assert it.stable and it.taken == 4 * PAGE


def test_who_releases_at_the_last_moment_is_not_disturbed(dead, monkeypatch):
    one = dead(SMALL, "--used=400000", "--block=100000")
    writable = reclaim.writable

    def released_just_before(fd):
        one.release(2)
        return writable(fd)

    monkeypatch.setattr(reclaim, "writable", released_just_before)
    it = everything(one)
    monkeypatch.undo()
    look_anew(it)
    assert one.release(2) == [0]
    look_anew(it)
    assert it.stable and it.taken == 4 * PAGE
    assert faults(one.fd) == []


def test_what_is_free_behind_a_lock_that_the_dead_hold_comes_back(dead):
    one = dead(SMALL, "--hold-lock")
    it = everything(one, lock_is_dead=locks.dead_holder(one.id))
    assert not it.stable and it.given_back == 0
    it.go_on(1)
    assert it.stable and it.taken == 4 * PAGE
    # Who cannot tell whether the holder is dead leaves it.
    it = everything(one)
    it.go_on(1)
    assert not it.stable and it.returnable == 0


def reclaim_path(fd):
    return f"/proc/self/fd/{fd}"


@needs_root
def test_on_a_full_tmpfs_there_is_room_again_at_once_and_peers_go_on(private_tmpfs):
    # As here: an interpreter by itself might not find pytest.
    code = (
        f"sys.path[:] = {sys.path!r}\n"
        + """
import test_reclaim, spawning
from gppshm import kinship, reclaim
root, spawn = sys.argv[1], spawning.Spawn()
try:
    one = test_reclaim.Dead(spawn, root, "--superblocks=7", "--used=14000000", "--block=100000")
    with open(root + "/rest", "wb", buffering=0) as stream:
        try:
            while True:
                stream.write(b"x" * 4096)
        except OSError:
            pass
    assert os.statvfs(root).f_bavail == 0
    it = reclaim.Reclaim(one.fd, kinship.NO_CHILD)
    while not it.go_on():
        pass
    assert it.given_back == os.statvfs(root).f_bavail * 4096 > 500000
    left = [1]
    while any(left):
        # No page of what peers still touch may be a hole: there is no page for it.
        with open(root + "/rest", "ab", buffering=0) as stream:
            try:
                while True:
                    stream.write(b"x" * 4096)
            except OSError:
                pass
        left = one.release(9)
        while not it.go_on():
            pass
    assert it.taken == (1 + 7 * 3) * 4096, it.taken
    assert test_reclaim.faults(one.fd) == []
    assert os.statvfs(root).f_bavail > 0
finally:
    spawn.close()
"""
    )
    done = private_tmpfs(code, options="size=20m")
    assert done.returncode == 0, done.stderr


# The conditions


def test_without_the_conditions_nothing_is_given_back(dead):
    one = dead(SMALL)
    for kind in (kinship.CHILD, kinship.UNKNOWN):
        with pytest.raises(reclaim.NotAllowed):
            reclaim.Reclaim(one.fd, kind)
    with pytest.raises(reclaim.NotAllowed):
        reclaim.Reclaim(one.fd, kinship.CHILD, accept_risk=True)
    assert everything(one, kinship=kinship.UNKNOWN, accept_risk=True).given_back > 0


def test_what_is_on_no_tmpfs_is_left_alone(tmp_path):
    path = str(tmp_path / "heap-5")
    if reclaim.on_tmpfs(os.open(str(tmp_path), os.O_RDONLY)):
        pytest.skip("the tests' own folder is on a tmpfs")
    heapwriter.create(path, 5)
    before = os.stat(path).st_blocks
    with open(path, "r+b") as stream, pytest.raises(reclaim.NotAllowed):
        reclaim.Reclaim(stream.fileno(), kinship.NO_CHILD)
    assert os.stat(path).st_blocks == before


FORKS = """
import heapwriter
heap = heapwriter.LiveHeap.create(sys.argv[1], [(1048576, [(65536, 1)])])
if os.fork():
    print("ready", heap.name, flush=True)
    os.read(0, 1)
    os._exit(0)
try:
    os.setsid()
    superblock = heap.superblocks()[0]
    asks, answers = os.open(sys.argv[2], os.O_RDONLY), os.open(sys.argv[3], os.O_WRONLY)
    while os.read(asks, 1) == b"a":
        position = superblock.allocate(100000)
        superblock.write(position)
        os.write(answers, b"y" if position and superblock.whole(position) else b"n")
finally:
    os._exit(0)
"""


def test_a_forked_child_of_the_creator_is_found_and_goes_on_allocating(spawn, shm_root, tmp_path):
    asks, answers = str(tmp_path / "asks"), str(tmp_path / "answers")
    os.mkfifo(asks)
    os.mkfifo(answers)
    asking, answer = os.open(asks, os.O_RDWR), os.open(answers, os.O_RDWR)
    owner = spawn.python(FORKS, shm_root, asks, answers)
    path = os.path.join(shm_root, owner.name)
    with open(path, "rb") as stream:
        fd = stream.fileno()
        noted = kinship.note(owner.pid, file_id(fd))
        with open(f"/proc/{owner.pid}/task/{owner.pid}/children") as children:
            child = int(children.read())
        try:
            peer = spawn.peer(shm_root, owner)
            assert {owner.pid, child, peer.pid} <= set(kinship.kin(file_id(fd))[1])
            owner.kill()
            os.unlink(path)
            found = kinship.kin(file_id(fd), noted)
            assert found == (kinship.CHILD, (child,))
            before = taken(fd)
            with pytest.raises(reclaim.NotAllowed):
                reclaim.Reclaim(fd, found[0])
            for _ in range(5):
                os.write(asking, b"a")
                assert select.select([answer], [], [], 20)[0] and os.read(answer, 1) == b"y"
            assert taken(fd) == before
            assert faults(fd) == []
        finally:
            os.write(asking, b"e")
            wait_for(lambda: not os.path.exists(f"/proc/{child}"))
            os.close(asking)
            os.close(answer)
        wait_for(lambda: kinship.kin(file_id(fd), noted)[0] is kinship.NO_CHILD)


def test_without_address_randomisation_nothing_is_given_back(spawn, shm_root):
    prefix = ("setarch", "-R")
    one = Dead(spawn, shm_root, SMALL, prefix=prefix)
    try:
        if kinship.header_address(procfs.maps_of(one.peers[0].pid), one.id) != one.noted.address:
            pytest.skip("creator and peer do not map it at the same address, even so")
        assert one.kin() == (kinship.CHILD, (one.peers[0].pid,))
    finally:
        os.close(one.fd)


def test_peers_are_no_kin_where_the_creators_address_was_noted_and_are_not_told_apart_otherwise(dead):
    one = dead(SMALL, peers=3)
    assert one.kin() == (kinship.NO_CHILD, ())
    assert one.kin(kinship.NOTHING) == (kinship.UNKNOWN, tuple(sorted(peer.pid for peer in one.peers)))
    for peer in one.peers:
        peer.kill()
    assert one.kin(kinship.NOTHING) == (kinship.NO_CHILD, ())


A_USERS = """
import ctypes, heapwriter, views
views.become(65534)
ctypes.CDLL(None).prctl(4, 1)  # PR_SET_DUMPABLE: as after an exec
heap = heapwriter.LiveHeap.create(sys.argv[1]) if len(sys.argv) == 2 else heapwriter.LiveHeap.attach(
    sys.argv[2], sys.argv[1])
print("ready", heap.name, flush=True)
os.read(0, 1)
"""


def kin_of(*arguments):
    found, pids = kinship.kin(tuple(arguments[0]), kinship.Noted(*arguments[1]))
    return [found, list(pids)]


@needs_root
def test_a_user_who_cannot_look_into_others_processes_knows_that_they_are_no_children_of_his(spawn, shm_root):
    owner = spawn.python(A_USERS, shm_root)
    fd = os.open(os.path.join(shm_root, owner.name), os.O_RDONLY)
    noted = kinship.note(owner.pid, file_id(fd))
    assert noted.uid == 65534 and noted.started > 0
    peer = spawn.python(A_USERS, shm_root, owner.name)
    younger = spawn.owner(shm_root, SMALL)  # root's, and so not for this user to look into
    owner.kill()
    everything_noted = [file_id(fd), [noted.address, noted.started, noted.uid]]
    # Others on this host may just have a process of this user that nobody can look into.
    wait_for(lambda: in_child(kin_of, *everything_noted, uid=65534) == [kinship.NO_CHILD, []])
    # Had the creator been able to become another user, root's process might be its child.
    found = in_child(kin_of, file_id(fd), [noted.address, noted.started, -1], uid=65534)
    assert found[0] == kinship.UNKNOWN and younger.pid in found[1] and peer.pid not in found[1]
    os.close(fd)


def test_nothing_is_noted_of_a_process_that_does_not_map_the_heap(spawn, shm_root):
    owner = spawn.owner(shm_root, SMALL)
    status = os.stat(os.path.join(shm_root, owner.name))
    found = status.st_dev, status.st_ino
    assert kinship.note(os.getpid(), found) is kinship.NOTHING
    assert kinship.note(spawn.dead_pid(), found) is kinship.NOTHING
    assert kinship.note(owner.pid, found).address > 0


MAPS = b"""\
55d0c8a00000-55d0c8a21000 r--p 00000000 fd:01 77                         /usr/bin/x
7f0000000000-7f0000001000 rw-s 00000000 00:1a 9                          /dev/shm/heap-5 (deleted)
7f0000002000-7f0000203000 rw-s 00001000 00:1a 9                          /dev/shm/heap-5 (deleted)
7f0000300000-7f0000301000 rw-s 00000000 00:1a 99                         /dev/shm/heap-6
7f0000400000-7f0000401000 rw-p 00000000 00:00 0
"""
ID = (os.makedev(0, 0x1A), 9)


def test_the_address_of_the_header_page_is_read_from_maps():
    assert kinship.header_address(MAPS, ID) == 0x7F0000000000
    assert kinship.header_address(MAPS, (ID[0], 99)) == 0x7F0000300000
    assert kinship.header_address(MAPS, (ID[0], 999)) == 0
    assert kinship.header_address(MAPS.replace(b" 00000000 00:1a 9 ", b" 00003000 00:1a 9 "), ID) == -1
    assert kinship.header_address(b"", ID) == 0


@pytest.mark.parametrize(
    ("maps", "address", "expected"),
    [
        ({}, 0, (kinship.NO_CHILD, ())),
        ({7: MAPS}, 0x7F0000000000, (kinship.CHILD, (7,))),
        ({7: MAPS}, 0x7F0000100000, (kinship.NO_CHILD, ())),
        ({7: MAPS}, 0, (kinship.UNKNOWN, (7,))),
        ({7: MAPS}, -1, (kinship.UNKNOWN, (7,))),
        ({7: MAPS, 8: None}, 0x7F0000100000, (kinship.UNKNOWN, (8,))),
        ({7: MAPS, 8: b""}, 0x7F0000100000, (kinship.UNKNOWN, (8,))),
        ({7: MAPS, 8: None}, 0x7F0000000000, (kinship.CHILD, (7,))),
        ({7: MAPS.replace(b" 00000000 00:1a 9 ", b" 00003000 00:1a 9 ")}, 5, (kinship.UNKNOWN, (7,))),
        ({7: MAPS.replace(b" 00:1a 9 ", b" 00:1a 8 ")}, 0x7F0000000000, (kinship.NO_CHILD, ())),
    ],
)
def test_kinship_is_denied_only_of_holders_that_show_the_header_page_elsewhere(maps, address, expected):
    assert kinship.kinship(maps, ID, address) == expected


# Ways to a file whose name is gone


@needs_root
@pytest.mark.parametrize("options", [("--keep-fd",), ()])
def test_a_file_without_a_name_is_reached_by_its_holders_descriptor_or_mapping(spawn, shm_root, options):
    owner = spawn.owner(shm_root, SMALL)
    peer = spawn.peer(shm_root, owner, *options)
    status = os.stat(os.path.join(shm_root, owner.name))
    found = (status.st_dev, status.st_ino)
    owner.kill()
    os.unlink(os.path.join(shm_root, owner.name))
    before = descriptors()
    fd = held.open_held(found, [owner.pid, peer.pid])
    assert file_id(fd) == found
    writing = reclaim.writable(fd)
    reclaim.punch(writing, 8 * PAGE, PAGE)
    assert taken(fd) == status.st_blocks * 512 - PAGE
    os.close(writing)
    os.close(fd)
    with pytest.raises(FileNotFoundError):
        held.open_held((found[0], found[1] + 1), [peer.pid])
    assert descriptors() == before


def test_holes_are_made_only_by_who_may_write(dead):
    one = dead(SMALL)
    with pytest.raises(OSError) as refusal:
        reclaim.punch(one.fd, 8 * PAGE, PAGE)
    assert refusal.value.errno == errno.EBADF


# Heaps of other hosts, and strange ones


@pytest.mark.parametrize("page", [16384, 65536])
def test_heaps_of_larger_pages_give_back_what_is_free(shm_root, page):
    image = heapwriter.image(5, [(4 * page, [(page, 1), (2 * page, -1), (page // 2, 1)])], page=page)
    check_image(shm_root, image, at_least=2 * page - 2 * PAGE)


def test_a_superblock_of_which_the_size_was_cut_to_32_bits_is_safe(shm_root):
    """Its block of 4 GiB goes beyond the end of what the superblock says that it has."""
    path = os.path.join(shm_root, "heap-5")
    real = (1 << 32) + 2 * MB
    with open(path, "w+b", buffering=0) as stream:
        start = heapwriter.image(5, [(2 * MB, [(1 * MB, 1), (MB // 2, -1), (MB // 2, 1)])])
        # The last block is 4 GiB larger than it seems.
        at = 2 * PAGE + MB + MB // 2
        struct.pack_into("<I", start, at + 12, (MB // 2 + (1 << 32)) // 16)
        stream.write(bytes(start))
        os.ftruncate(stream.fileno(), 2 * PAGE + real)
        stream.seek(2 * PAGE + 3 * MB)
        stream.write(b"\xff" * MB)
        content = os.pread(stream.fileno(), 5 * MB, 0)
        it = reclaim.Reclaim(stream.fileno(), kinship.NO_CHILD)
        assert it.go_on(1)
        assert it.given_back == MB // 2 - 2 * PAGE and not it.whole
        hole = 3 * PAGE + MB, 2 * PAGE + MB + MB // 2 - PAGE
        now = os.pread(stream.fileno(), 5 * MB, 0)
        assert now[: hole[0]] + now[hole[1] :] == content[: hole[0]] + content[hole[1] :]


def check_image(root, image, at_least):
    with open(os.path.join(root, "heap-5"), "w+b", buffering=0) as stream:
        os.posix_fallocate(stream.fileno(), 0, len(image))
        stream.write(bytes(image))
        it = reclaim.Reclaim(stream.fileno(), kinship.NO_CHILD)
        assert it.go_on(1)
        assert it.given_back >= at_least
        assert faults(stream.fileno()) == []
        os.unlink(stream.name)


def test_a_sparse_file_of_hostile_size_is_looked_at_in_bounded_pieces(shm_root):
    with open(os.path.join(shm_root, "heap-5"), "w+b", buffering=0) as stream:
        size, count = 0xFFFFF000, 300
        image = heapwriter.image(5, [(PAGE, [])])
        stream.write(bytes(image[:PAGE]))
        offset = PAGE
        for _ in range(count):
            block = bytearray(image[PAGE:])
            struct.pack_into("<QI", block, 256, offset, size)
            struct.pack_into("<I", block, PAGE + 12, size // 16)
            os.pwrite(stream.fileno(), bytes(block), offset)
            offset += PAGE + size
            os.pwrite(stream.fileno(), struct.pack("<I", size // 16), offset - 4)
        os.ftruncate(stream.fileno(), offset)
        it = reclaim.Reclaim(stream.fileno(), kinship.NO_CHILD)
        started, longest, done = time.monotonic(), 0.0, False
        while not done:
            began = thread_time()
            done = it.go_on()
            longest = max(longest, thread_time() - began)
        assert time.monotonic() - started < 30
        assert longest < 0.05
        assert it.whole and it.given_back == 0


# One orphan after its unlink


def run(one, departures, deadline=10.0):
    """Step it as an engine does until it has finished; how often it was stepped."""
    steps, end, due = 0, time.monotonic() + deadline, 0.0
    while not one.finished:
        now = time.monotonic()
        assert now < end, "it did not finish"
        timeout = deadline if due is None else max(0.0, due - now)
        if departures is None:
            time.sleep(timeout)
        elif select.select([departures.fd], [], [], timeout)[0] and departures.read() & {one.watch, -1}:
            one.departed(time.monotonic())
        due = one.step(time.monotonic())
        steps += 1
    return steps


@pytest.fixture
def departures():
    one = pinning.Departures()
    yield one
    one.close()


def let_go_later(one, seconds):
    def leave():
        for peer in one.peers:
            peer.kill()
        left.append(time.monotonic())

    left = []
    timer = threading.Timer(seconds, leave)
    timer.start()
    return timer, left


def test_the_descriptor_is_let_go_of_within_10_ms_of_the_last_holders_exit(dead, departures):
    delays = []
    for _ in range(5):
        one = dead(SMALL, "--used=300000", peers=2)
        it = pinning.Reclaiming(os.dup(one.fd), departures=departures)
        it.allow(one.kinship())
        timer, left = let_go_later(one, 0.1)
        run(it, departures)
        timer.join()
        # Killing and reaping them took its time, too.
        delays.append(time.monotonic() - left[0])
        assert it.error == "" and it.reclaim.given_back > 500000
    assert sorted(delays)[2] < 0.01


def test_what_peers_let_go_of_is_back_within_a_second_and_an_idle_heap_is_looked_at_rarely(dead, departures):
    one = dead("--superblocks=2", "--used=3000000", "--block=50000")
    it = pinning.Reclaiming(os.dup(one.fd), departures=departures)
    it.allow(one.kinship())

    def steps(seconds, enough=lambda: False):
        count, end, due = 0, time.monotonic() + seconds, 0.0
        while time.monotonic() < end and not enough():
            timeout = seconds if due is None else max(0.0, min(due, end) - time.monotonic())
            if select.select([departures.fd], [], [], timeout)[0] and departures.read():
                it.departed(time.monotonic())
            # A look that goes on at once, in its next piece, wakes nobody.
            if timeout and (due is None or time.monotonic() >= due):
                count += 1
            due = it.step(time.monotonic())
        return count

    steps(2)
    assert it.reclaim.stable and it.later == 0
    assert steps(4) <= 7
    one.release(10)
    began = time.monotonic()
    steps(3, lambda: it.later > 400000)
    assert time.monotonic() - began < 1
    # Nothing more can come: only a departure wakes it.
    one.release(1000)
    steps(3)
    assert it.reclaim.in_use == 0 and it.step(time.monotonic()) is None
    it.close()
    assert it.finished


def test_without_inotify_it_still_finishes(dead):
    one = dead(SMALL)
    it = pinning.Reclaiming(os.dup(one.fd))
    it.allow(one.kinship())
    timer, _ = let_go_later(one, 0.2)
    run(it, None)
    timer.join()
    assert it.finished and it.reclaim.given_back > 900000


def test_without_leases_it_finishes_when_those_who_held_it_are_gone(dead, departures, monkeypatch):
    monkeypatch.setattr(pinning.lease, "take", lambda fd: pinning.lease.SILENT)
    one = dead(SMALL)
    it = pinning.Reclaiming(os.dup(one.fd), [one.peers[0].pid], departures)
    it.allow(one.kinship())
    timer, _ = let_go_later(one, 0.2)
    run(it, departures)
    timer.join()
    assert it.reclaim.given_back > 900000


def test_before_it_is_allowed_it_gives_nothing_back_and_still_lets_go(dead, departures):
    one = dead(SMALL)
    it = pinning.Reclaiming(os.dup(one.fd), departures=departures)
    before = taken(one.fd)
    assert it.step(time.monotonic()) is None
    with pytest.raises(reclaim.NotAllowed):
        it.allow(kinship.UNKNOWN)
    assert it.step(time.monotonic()) is None
    assert taken(one.fd) == before
    timer, _ = let_go_later(one, 0.1)
    run(it, departures)
    timer.join()


def test_one_that_may_not_be_written_ends_with_the_reason(dead, departures, monkeypatch):
    def refused(fd):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(reclaim, "writable", refused)
    one = dead(SMALL)
    before = descriptors()
    it = pinning.Reclaiming(os.dup(one.fd), departures=departures)
    it.allow(one.kinship())
    run(it, departures)
    assert it.error == "it cannot be given back: Permission denied"
    assert descriptors() == before


def test_importing_it_costs_no_more_than_the_standard_library(tmp_path):
    code = (
        f"import json, sys; sys.path[:0] = {FOLDERS!r}\n"
        "import gppshm.reclaim; print(json.dumps(sorted(sys.modules)))"
    )
    done = run_command([sys.executable, "-IS", "-c", code])
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout)
    assert not {"typing", "psutil", "socket", "subprocess", "inspect"} & set(loaded)
