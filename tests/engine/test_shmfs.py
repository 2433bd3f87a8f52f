"""Promises of gppshm.shmfs: nothing strange is opened, looking changes nothing, nothing new is unlinked."""

import ctypes
import errno
import fcntl
import mmap
import os
import select
import signal
import socket
import stat
import struct
import sys
import threading

import pytest

import heapwriter
from gppshm import creator, fifos, lease, procfs, shmfs, snapshot
from spawning import descriptors, in_child, needs_root, wait_for
from views import verdict

NOBODY = 65534
SMALL = "--size=4096"


def bind(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)


def put_heap(path, pid):
    heapwriter.create(path, pid, [(4096, ())])
    return path


STRANGE = {
    "fifo": os.mkfifo,
    "directory": os.mkdir,
    "dangling symlink": lambda path: os.symlink("/nowhere/at/all", path),
    "symlink to itself": lambda path: os.symlink(path, path),
    "symlink to a heap": lambda path: os.symlink(put_heap(path + "-target", 4194302), path),
    "socket": bind,
    "null device": lambda path: os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 3)),
    "terminal": lambda path: os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(5, 0)),
}
strange = pytest.mark.parametrize(
    "make",
    [
        pytest.param(make, id=kind, marks=[needs_root] if kind in ("null device", "terminal") else [])
        for kind, make in STRANGE.items()
    ],
)


@pytest.fixture
def directory(shm_root):
    with shmfs.ShmDirectory(shm_root) as directory:
        yield directory


@pytest.fixture
def orphan(shm_root, spawn):
    """The path of a heap whose creator has been killed."""
    owner = spawn.owner(shm_root, SMALL)
    owner.kill()
    return os.path.join(shm_root, owner.name)


def sight(directory, path):
    with directory.open(os.path.basename(path)) as file:
        return file.sighting


def unlink(directory, judged, **options):
    with directory.open(judged.name) as file:
        directory.unlink(file, judged, **options)


# Strange files and names


@strange
def test_a_strange_file_named_like_a_heap_is_neither_opened_nor_judged_nor_removed(shm_root, directory, make):
    path = os.path.join(shm_root, "heap-4194301")
    make(path)
    with directory.open("heap-4194301") as file:
        assert (file.fd, file.sighting.kind) == (None, shmfs.OTHER)
        assert creator.judge(file.sighting, procfs.Processes()).state is creator.UNKNOWN
        with pytest.raises(shmfs.Changed):
            directory.unlink(file, file.sighting)
    entry = snapshot.take(directory, ["heap-4194301"]).entries[0]
    assert (entry.verdict, entry.heap) == (None, None)
    assert os.path.lexists(path)


def refuses(directory, judged, file, opened):
    """The file under the name of `judged` is another one, and is not unlinked, whenever it is opened."""
    with pytest.raises(shmfs.Changed):
        if opened == "opened before":
            directory.unlink(file, judged)
        else:
            unlink(directory, judged)


@strange
@pytest.mark.parametrize("opened", ["opened before", "opened after"])
def test_a_strange_file_that_took_an_orphans_place_is_kept(shm_root, directory, orphan, make, opened):
    judged = sight(directory, orphan)
    with directory.open(judged.name) as file:
        os.unlink(orphan)
        make(orphan)
        refuses(directory, judged, file, opened)
    assert os.path.lexists(orphan)


def test_a_symlinks_target_is_never_looked_at_nor_touched(shm_root, directory, tmp_path):
    target = put_heap(str(tmp_path / "elsewhere"), 4194302)
    os.symlink(target, os.path.join(shm_root, "heap-4194302"))
    assert sight(directory, "heap-4194302").kind is shmfs.OTHER
    directory.unlink_by_force("heap-4194302")
    assert os.path.exists(target)
    assert os.listdir(shm_root) == []


def test_a_hard_link_is_removed_alone(shm_root, directory, orphan):
    link = os.path.join(shm_root, "kept")
    os.link(orphan, link)
    unlink(directory, sight(directory, orphan))
    assert os.listdir(shm_root) == ["kept"]


def test_force_never_removes_a_directory(shm_root, directory):
    os.mkdir(os.path.join(shm_root, "heap-7"))
    with pytest.raises(OSError):
        directory.unlink_by_force("heap-7")
    assert os.listdir(shm_root) == ["heap-7"]


@pytest.mark.parametrize(
    "name", ["../{}", "/{}", "./{}", "a/../{}", "{}/", "..", ".", "", "/", "{}\0", "\0", "//{}"]
)
def test_no_name_leads_out_of_the_directory(shm_root, directory, tmp_path, name):
    outside = os.path.join(os.path.dirname(shm_root), "heap-of-" + os.path.basename(shm_root))
    put_heap(outside, 4194302)
    try:
        with pytest.raises(OSError):
            directory.open(name.format(os.path.basename(outside)))
        with pytest.raises(OSError):
            directory.unlink_by_force(name.format(os.path.basename(outside)))
        assert os.path.exists(outside)
    finally:
        os.unlink(outside)


@pytest.mark.parametrize(
    "name", [b"new\nline", b"\x1b[31mred", b"\xff\xfe", b"-f", b" ", "h\u00e9ap".encode()]
)
def test_any_name_of_the_directory_can_be_judged_and_removed(shm_root, directory, spawn, name):
    put_heap(os.path.join(os.fsencode(shm_root), name), spawn.dead_pid())
    assert directory.names() == [os.fsdecode(name)]
    judged = sight(directory, os.fsdecode(name))
    assert creator.judge(judged, procfs.Processes()).state is creator.ORPHANED
    unlink(directory, judged)
    assert os.listdir(shm_root) == []


@pytest.mark.parametrize(
    ("name", "pid"),
    [
        ("heap-1", 1),
        ("heap-4194304", 4194304),
        ("heap-" + "9" * 250, int("9" * 250)),
        ("heap-0", 0),
        ("heap-01", 0),
        ("heap-", 0),
        ("heap--1", 0),
        ("heap-1 ", 0),
        ("heap-1\n", 0),
        ("heap-+1", 0),
        ("heap-1_0", 0),
        ("heap-\u0661", 0),
        ("heap-\u00b2", 0),
        ("Heap-1", 0),
        ("xheap-1", 0),
        ("heap-1.bak", 0),
        ("heap", 0),
    ],
)
def test_only_an_exact_name_carries_a_pid(name, pid):
    assert shmfs.pid_of_name(name) == pid


def test_files_of_others_are_no_heaps(shm_root, directory, spawn):
    for name in ("sem.x", "psm_123", "fastrtps_1", "notes"):
        with open(os.path.join(shm_root, name), "wb") as stream:
            stream.write(b"\0" * 4096)
    open(os.path.join(shm_root, "empty"), "w").close()
    with open(os.path.join(shm_root, f"heap-{spawn.dead_pid()}"), "wb") as stream:
        stream.write(b"something else")
    assert {sight(directory, name).kind for name in directory.names()} == {shmfs.OTHER}


# Half-made heaps


@pytest.mark.parametrize(
    "data",
    [b"", b"\0" * 100, b"\xcc\x70\xeb\xac", b"\xcc\x70\xeb\xac\1\0\0\0", b"\xcc\x70\xeb\xac" + b"\0" * 4091],
)
def test_a_half_made_heap_is_removed_once_its_creator_is_dead(shm_root, directory, spawn, data):
    code = """
fd = os.open(os.path.join(sys.argv[1], "heap-%d" % os.getpid()), os.O_RDWR | os.O_CREAT)
os.write(fd, bytes.fromhex(sys.argv[2]))
print("ready heap-%d" % os.getpid(), flush=True)
if sys.stdin.readline() == "close\\n":
    os.close(fd)
    print("closed", flush=True)
sys.stdin.read()
"""
    maker = spawn.python(code, shm_root, data.hex())
    found = verdict(shm_root, maker)
    assert (found["kind"], found["state"]) == ("half-made heap", "alive")
    maker.send("close")
    assert maker.read_line() == "closed"
    # It found no room, say: nobody has the file open, but its creator lives.
    assert verdict(shm_root, maker)["state"] == "unknown"
    maker.kill()
    judged = sight(directory, maker.name)
    found = creator.judge(judged, procfs.Processes())
    assert (found.state, found.evidence) == (creator.ORPHANED, creator.LEASE)
    unlink(directory, judged)
    assert os.listdir(shm_root) == []


def test_a_half_made_heap_needs_a_lease_and_the_exact_name(shm_root, directory, spawn):
    pid = spawn.dead_pid()
    for name in (f"heap-{pid}", f"heap-{pid}x", "heap-0", "heap-9999999999"):
        open(os.path.join(shm_root, name), "w").close()
    assert verdict(shm_root, f"heap-{pid}")["state"] == "orphaned"
    assert verdict(shm_root, f"heap-{pid}x")["kind"] == "other"
    assert verdict(shm_root, "heap-0")["kind"] == "other"
    assert verdict(shm_root, "heap-9999999999")["state"] == "unknown"
    directory.leases = False
    assert creator.judge(sight(directory, f"heap-{pid}"), procfs.Processes()).state is creator.UNKNOWN


# Looking changes nothing


def test_looking_changes_neither_a_heap_nor_its_times_nor_its_refcount(shm_root, directory, spawn):
    owner = spawn.owner(shm_root, SMALL)
    path = os.path.join(shm_root, owner.name)

    def state():
        status = os.stat(path)
        with open(path, "rb") as stream:
            return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_nlink, stream.read()

    before = state()
    for _ in range(3):
        snapshot.take(directory, check=True)
    assert state() == before


def test_looking_at_a_heap_raises_no_event_of_a_writer(shm_root, directory, spawn):
    owner = spawn.owner(shm_root, SMALL)
    dead = spawn.owner(shm_root, SMALL)
    dead.kill()
    libc = ctypes.CDLL(None, use_errno=True)
    events = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    IN_ALL_BUT_ACCESS, IN_CLOSE_WRITE = 0xFFF & ~0x1, 0x8
    assert libc.inotify_add_watch(events, os.fsencode(shm_root), IN_ALL_BUT_ACCESS) > 0
    snapshot.take(directory, check=True)
    with open(os.path.join(shm_root, owner.name), "r+b"):
        pass
    masks, data = [], os.read(events, 65536)
    os.close(events)
    while data:
        _, mask, _, length = struct.unpack_from("iIII", data)
        masks.append(mask)
        data = data[16 + length :]
    IN_OPEN, IN_CLOSE_NOWRITE, IN_ISDIR = 0x20, 0x10, 0x40000000
    of_files = [mask for mask in masks if not mask & IN_ISDIR]
    # The last two are the test's own: a writer's end is seen, so there was none before.
    assert of_files[-2:] == [IN_OPEN, IN_CLOSE_WRITE]
    assert set(of_files[:-2]) == {IN_OPEN, IN_CLOSE_NOWRITE}


def test_looking_at_a_fifo_does_not_release_a_blocked_peer(shm_root, directory, spawn):
    pid = spawn.dead_pid()
    name = f"fifo-{pid}-4f2a"
    path = os.path.join(shm_root, name)
    os.mkfifo(path)
    os.link(path, os.path.join(shm_root, f"heap-{pid}"))
    peer = spawn.python('print("ready", flush=True); os.open(sys.argv[1], os.O_RDONLY); print("open")', path)
    with open(f"/proc/{peer.pid}/stat") as stream:
        wait_for(lambda: stream.seek(0) == 0 and stream.read().rpartition(")")[2].split()[0] == "S")
    snapshot.take(directory)
    outcomes = list(fifos.reap(shm_root, dry_run=True))
    assert [outcome.result for outcome in outcomes] == ["would remove"]
    list(fifos.reap(shm_root))
    assert os.listdir(shm_root) == [f"heap-{pid}"]
    assert not select.select([peer.process.stdout], [], [], 0)[0]
    # To open it for writing without waiting succeeds only while a reader waits.
    os.close(os.open(os.path.join(shm_root, f"heap-{pid}"), os.O_WRONLY | os.O_NONBLOCK))


def test_the_fifo_of_a_living_process_is_kept(shm_root):
    name = f"fifo-{os.getpid()}-1f"
    os.mkfifo(os.path.join(shm_root, name))
    for odd in (
        "fifo-4194303-",
        "fifo-4194303-xyz",
        "fifo-04194303-1",
        "fifo-0-1",
        "fifo--1-1",
        "FIFO-4194303-1",
    ):
        os.mkfifo(os.path.join(shm_root, odd))
    open(os.path.join(shm_root, "fifo-4194303-1"), "w").close()
    before = sorted(os.listdir(shm_root))
    assert [outcome.result for outcome in fifos.reap(shm_root)] == ["unsure"]
    assert sorted(os.listdir(shm_root)) == before


@pytest.mark.parametrize("pid", [0, -1, 4194305, 2**31 - 1, 10**250])
def test_a_fifo_of_no_possible_pid_is_kept(pid):
    assert creator.judge_fifo(pid, procfs.Processes()).state is creator.UNKNOWN


# Vanished, re-created, disturbed


def test_what_vanishes_is_quiet_at_every_step(shm_root, directory, orphan):
    name = os.path.basename(orphan)
    judged = sight(directory, orphan)
    with directory.open(name) as file:
        os.unlink(orphan)
        with pytest.raises(FileNotFoundError):
            directory.unlink(file, judged)
    with pytest.raises(FileNotFoundError):
        directory.open(name)
    taken = snapshot.take(directory, [name])
    assert (taken.entries, taken.missing) == ([], [name])


def test_what_vanishes_between_stat_and_open_is_quiet(monkeypatch, directory, orphan):
    """The file goes just after its status was asked for."""
    real_stat = os.stat

    def stat_and_unlink(*arguments, **options):
        status = real_stat(*arguments, **options)
        if "dir_fd" in options:
            monkeypatch.undo()
            os.unlink(orphan)
        return status

    monkeypatch.setattr(os, "stat", stat_and_unlink)
    with pytest.raises(FileNotFoundError):
        directory.open(os.path.basename(orphan))


def test_what_is_swapped_between_stat_and_open_for_something_strange_neither_hangs_nor_is_followed(
    monkeypatch, directory, orphan, tmp_path
):
    real_stat, name = os.stat, os.path.basename(orphan)
    elsewhere = put_heap(str(tmp_path / "heap"), 4194302)
    for make in (os.mkfifo, lambda path: os.symlink(elsewhere, path), os.mkdir):

        def stat_and_swap(*arguments, **options):
            status = real_stat(*arguments, **options)
            if options.pop("dir_fd", None) is not None:
                monkeypatch.setattr(os, "stat", real_stat)
                os.unlink(orphan)
                make(orphan)  # noqa: B023
            return status

        monkeypatch.setattr(os, "stat", stat_and_swap)
        with directory.open(name) as file:
            assert file.sighting.kind in (shmfs.OTHER, shmfs.UNREADABLE)
            assert file.sighting.header is None
        (os.rmdir if os.path.isdir(orphan) else os.unlink)(orphan)
        put_heap(orphan, 4194302)


@pytest.mark.parametrize("opened", ["opened before", "opened after"])
def test_a_name_that_was_created_anew_is_kept(directory, orphan, opened):
    judged = sight(directory, orphan)
    pid = int(os.path.basename(orphan)[5:])
    with directory.open(judged.name) as file:
        os.unlink(orphan)
        put_heap(orphan, pid)
        refuses(directory, judged, file, opened)
    assert os.path.exists(orphan)


@pytest.mark.parametrize("evidence", [creator.LEASE, creator.PIDS])
@pytest.mark.parametrize("opened", ["opened before", "opened after"])
def test_a_heap_that_was_created_anew_in_place_is_kept_though_inode_size_and_pid_are_the_same(
    shm_root, directory, orphan, spawn, evidence, opened
):
    if evidence is creator.PIDS:
        directory.leases = False
    judged = sight(directory, orphan)
    assert creator.judge(judged, procfs.Processes()).evidence is evidence
    file = directory.open(judged.name)
    with file:
        file.release()
        # O_TRUNC and no O_EXCL, as REDHAWK creates; the header says the same as before.
        code = """
import heapwriter
heap = heapwriter.LiveHeap.create(sys.argv[1], [(4096, ())], name=sys.argv[2])
heapwriter.put_header(heap.mappings[0], int(sys.argv[3]))
print("ready", flush=True)
sys.stdin.read()
"""
        spawn.python(code, shm_root, judged.name, judged.header.creator)
        now = sight(directory, orphan)
        assert (now.file_id, now.raw, now.status.st_size) == (
            judged.file_id,
            judged.raw,
            judged.status.st_size,
        )
        refuses(directory, judged, file, opened)
    assert os.path.exists(orphan)


def test_a_heap_that_somebody_is_just_opening_for_writing_is_kept(directory, orphan):
    with directory.open(os.path.basename(orphan)) as file:
        assert file.sighting.answer is lease.GRANTED
        opened = []
        writer = threading.Thread(target=lambda: opened.append(os.open(orphan, os.O_RDWR)))
        writer.start()
        wait_for(lambda: not lease.held(file.fd))
        with pytest.raises(shmfs.Changed):
            directory.unlink(file, file.sighting)
    writer.join(10)
    os.close(opened[0])
    assert os.path.exists(orphan)


def test_a_header_that_was_rewritten_is_judged_again(directory, orphan):
    with open(orphan, "r+b") as stream, mmap.mmap(stream.fileno(), 4096) as mapping:
        mapping[8:12] = struct.pack("<i", 2)
        judged = sight(directory, orphan)
        # Only the first store through a mapping leaves a trace in the times.
        mapping[8:12] = struct.pack("<i", 3)
        assert sight(directory, orphan).identity == judged.identity
        with pytest.raises(shmfs.Changed):
            unlink(directory, judged)
    assert os.path.exists(orphan)


# Others at the same heap


def test_a_hostile_reader_does_not_keep_an_orphan(directory, orphan):
    with open(orphan, "rb") as stream:
        judged = sight(directory, orphan)
        assert creator.judge(judged, procfs.Processes()).state is creator.ORPHANED
        unlink(directory, judged)
        assert os.fstat(stream.fileno()).st_nlink == 0


def test_two_cleaners_do_not_unlink_one_after_the_other(shm_root, directory, orphan):
    """The second would otherwise unlink what a new creator has put under the freed name."""
    judged = sight(directory, orphan)
    with directory.open(judged.name) as first, directory.open(judged.name) as second:
        directory.unlink(first, judged)
        put_heap(orphan, judged.header.creator)
        with pytest.raises(shmfs.Changed):
            directory.unlink(second, judged)
    assert os.path.exists(orphan)


def test_a_strangers_lock_on_an_orphan_keeps_nobody(directory, orphan):
    judged = sight(directory, orphan)
    with open(orphan, "rb") as hostile:
        fcntl.flock(hostile, fcntl.LOCK_EX)
        unlink(directory, judged)
    assert not os.path.exists(orphan)


def test_what_is_changed_just_before_the_unlink_gets_its_name_back(directory, orphan):
    """At the last look the name has been taken away already: nobody comes to the old file by it any more."""
    judged, asked = sight(directory, orphan), []

    def changed():
        asked.append(os.path.exists(orphan))
        return "" if asked[-1] else "a new creator has it"

    with pytest.raises(shmfs.Changed, match="a new creator"):
        unlink(directory, judged, changed=changed)
    assert asked == [True, False]
    assert os.listdir(directory.root) == [os.path.basename(orphan)]


def test_a_name_that_was_taken_meanwhile_is_not_taken_away_again(directory, orphan):
    judged, name = sight(directory, orphan), os.path.basename(orphan)

    def changed():
        if os.path.exists(orphan):
            return ""
        put_heap(orphan, 7)
        return "a new creator has it"

    with pytest.raises(shmfs.Changed):
        unlink(directory, judged, changed=changed)
    (left,) = [each for each in os.listdir(directory.root) if each != name]
    assert shmfs.living_name(left) == name
    with open(orphan, "rb") as stream:
        assert struct.unpack("<i", stream.read(16)[12:]) == (7,)


def test_a_write_lease_of_the_owner_does_not_make_opening_hang(directory, orphan, spawn):
    code = """
import fcntl, signal
signal.signal(signal.SIGIO, signal.SIG_IGN)
fd = os.open(sys.argv[1], os.O_RDWR)
try:
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    print("ready", flush=True)
except BlockingIOError as error:
    print("ready, but refused", flush=True)
sys.stdin.read()
"""
    holder = spawn.python(code, orphan)
    assert "refused" not in holder.name
    found = sight(directory, orphan)
    assert (found.kind, found.error) == (shmfs.UNREADABLE, "its owner holds a write lease on it")


@needs_root
def test_what_a_user_may_not_unlink_is_said_by_an_error(shm_root, directory, orphan):
    """As in /dev/shm, the directory is sticky."""
    judged = sight(directory, orphan)

    def attempt():
        try:
            with directory.open(judged.name) as file:
                directory.unlink(file, file.sighting)
        except OSError as error:
            return error.errno
        return 0

    assert in_child(attempt, uid=NOBODY) in (errno.EPERM, errno.EACCES)
    assert os.path.exists(orphan)


def test_without_descriptors_opening_fails_and_says_nothing_of_the_file(directory, orphan):
    import resource

    def attempt():
        lowest = os.dup(0)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, lowest))
        try:
            directory.open(os.path.basename(orphan))
        except OSError as error:
            return error.errno
        return 0

    assert in_child(attempt) == errno.EMFILE


def test_a_sighting_leaves_no_descriptor_and_no_lease(directory, orphan):
    before = descriptors()
    for _ in range(3):
        snapshot.take(directory, check=True)
        sight(directory, orphan)
    assert descriptors() == before
    os.close(os.open(orphan, os.O_RDWR | os.O_NONBLOCK))


# The file system


def test_usage_is_that_of_statvfs(directory, shm_root):
    status = os.statvfs(shm_root)
    usage = directory.usage()
    assert usage.size == status.f_blocks * status.f_frsize
    assert 0 <= usage.free <= usage.size


@needs_root
def test_a_full_tmpfs_and_one_without_a_size_can_be_looked_at(private_tmpfs):
    code = """
import views
from gppshm import shmfs
open(sys.argv[1] + "/heap-4194300", "w").close()
with open(sys.argv[1] + "/filler", "wb", buffering=0) as stream:
    try:
        while stream.tell() < 2 ** 20:
            stream.write(b"x" * 4096)
    except OSError:
        pass
with shmfs.ShmDirectory(sys.argv[1]) as directory:
    usage = directory.usage()
    print(usage.size, usage.free, views.verdict(sys.argv[1], "heap-4194300")["state"], len(directory.names()))
"""
    done = private_tmpfs(code, options="size=64k")
    assert (done.stdout, done.stderr) == ("65536 0 orphaned 2\n", "")
    done = private_tmpfs(code, options="size=0")
    assert (done.stdout, done.stderr) == ("0 0 orphaned 2\n", "")


def test_a_directory_that_is_none_is_an_error(tmp_path):
    path = tmp_path / "file"
    path.write_text("x")
    for wrong in (str(path), str(tmp_path / "missing")):
        with pytest.raises(OSError):
            shmfs.ShmDirectory(wrong)


def test_a_signal_storm_changes_no_answer(directory, orphan):
    """Interrupted system calls are retried, as everywhere in Python."""
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        for _ in range(50):
            assert creator.judge(sight(directory, orphan), procfs.Processes()).state is creator.ORPHANED
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@needs_root
def test_inodes_are_counted_and_scarce_below_a_twentieth(private_tmpfs):
    code = """
from gppshm import shmfs
with shmfs.ShmDirectory(sys.argv[1]) as directory:
    while True:
        usage = directory.usage()
        print(usage.inodes, usage.free_inodes, usage.inodes_are_scarce)
        if not usage.free_inodes:
            break
        for number in range(9):
            open(f"{sys.argv[1]}/{usage.free_inodes}-{number}", "w").close()
"""
    lines = [
        line.split() for line in private_tmpfs(code, options="size=1m,nr_inodes=100").stdout.splitlines()
    ]
    assert [line[0] for line in lines] == ["100"] * 12
    assert [int(line[1]) for line in lines] == list(range(99, -1, -9))
    assert [line[2] for line in lines] == ["False"] * 11 + ["True"]
    unlimited = private_tmpfs(code, options="size=1m,nr_inodes=0").stdout.splitlines()
    assert unlimited == ["0 0 False"]


def test_another_file_system_at_the_path_is_followed_by_the_same_descriptor(private_tmpfs):
    code = """
import subprocess
from gppshm import shmfs
root = sys.argv[1]
with shmfs.ShmDirectory(root) as directory:
    fd, before = directory.fd, directory.usage().size
    assert not directory.follow()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=5m", "none", root], check=True)
    assert directory.usage().size == before
    assert directory.follow() and directory.fd == fd and directory.leases
    assert directory.usage().size == 5 << 20
    assert not directory.follow()
    subprocess.run(["umount", root], check=False)
"""
    done = private_tmpfs(code, *sys.path)
    assert done.returncode == 0, done.stdout + done.stderr
