"""What the kernel tells of a directory and of processes, and in which order: real files, real processes."""

import ctypes
import errno
import os
import resource
import signal
import subprocess
import threading
import time

import pytest

from gppshm import changes, kernel, procfs, triggers
from spawning import descriptors, wait_for


@pytest.fixture
def watched(shm_root):
    """Triggers that watch `shm_root`."""
    one = triggers.Triggers()
    one.add_inotify(shm_root)
    try:
        yield one
    finally:
        one.close()


def so_far(watched):
    """What has happened by now."""
    happened = triggers.Happened()
    watched.read_events(happened)
    return happened


def create(root, name, size=4096):
    """A file, open for writing; its descriptor."""
    fd = os.open(os.path.join(root, name), os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    os.posix_fallocate(fd, 0, size)
    return fd


# -- removals and closes -------------------------------------------------------------------------------------


def test_a_normal_exit_removes_the_name_first_and_lets_go_then(watched, shm_root):
    fd = create(shm_root, "heap-1")
    os.unlink(os.path.join(shm_root, "heap-1"))
    os.close(fd)
    happened = so_far(watched)
    assert happened.created == ["heap-1"]
    assert happened.removed == {"heap-1": True}
    assert list(happened.closed) == ["heap-1"]
    assert happened.events and not (happened.overflow or happened.gone)


def test_of_the_dead_the_kernel_lets_go_first_and_somebody_removes_it_then(watched, shm_root):
    os.close(create(shm_root, "heap-1"))
    os.unlink(os.path.join(shm_root, "heap-1"))
    happened = so_far(watched)
    assert happened.removed == {"heap-1": False}
    assert list(happened.closed) == ["heap-1"]


def test_a_killed_process_lets_go_before_anybody_can_remove_what_it_left(watched, shm_root, spawn):
    owner = spawn.owner(shm_root, "--size=4096")
    so_far(watched)
    owner.kill()
    os.unlink(os.path.join(shm_root, owner.name))
    happened = so_far(watched)
    assert (happened.removed, list(happened.closed)) == ({owner.name: False}, [owner.name])


def test_a_process_that_exits_removes_its_heap_before_it_lets_go(watched, shm_root, spawn):
    owner = spawn.owner(shm_root, "--size=4096")
    so_far(watched)
    owner.leave()
    happened = so_far(watched)
    assert (happened.removed, list(happened.closed)) == ({owner.name: True}, [owner.name])


def test_a_name_that_is_renamed_away_is_removed_and_one_that_is_renamed_to_is_closed(watched, shm_root):
    os.close(create(shm_root, "old"))
    so_far(watched)
    os.rename(os.path.join(shm_root, "old"), os.path.join(shm_root, "new"))
    happened = so_far(watched)
    assert happened.removed == {"old": False}
    assert list(happened.closed) == ["new"]


@pytest.mark.parametrize("how", ["created", "renamed to"])
def test_a_name_that_comes_back_is_not_removed(watched, shm_root, how):
    path = os.path.join(shm_root, "heap-1")
    os.close(create(shm_root, "heap-1"))
    os.unlink(path)
    fd = create(shm_root, "heap-1" if how == "created" else "other")
    if how == "renamed to":
        os.rename(os.path.join(shm_root, "other"), path)
    happened = so_far(watched)
    assert "heap-1" not in happened.removed
    os.close(fd)


def test_removed_twice_is_as_the_last_time(watched, shm_root):
    path = os.path.join(shm_root, "heap-1")
    fd = create(shm_root, "heap-1")
    os.unlink(path)
    os.close(fd)
    os.close(create(shm_root, "heap-1"))
    os.unlink(path)
    assert so_far(watched).removed == {"heap-1": False}


def test_closes_come_in_their_order(watched, shm_root):
    fds = [create(shm_root, name) for name in ("a", "b", "c")]
    for number in (1, 2, 0):
        os.close(fds[number])
    assert list(so_far(watched).closed) == ["b", "c", "a"]


def test_who_only_reads_is_not_told(watched, shm_root):
    os.close(create(shm_root, "a"))
    so_far(watched)
    with open(os.path.join(shm_root, "a"), "rb") as stream:
        stream.read()
    assert not so_far(watched).events


# -- changes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda path, fd: os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)),
        lambda path, fd: os.ftruncate(fd, 4096),
        lambda path, fd: os.ftruncate(fd, 8192),
        lambda path, fd: os.posix_fallocate(fd, 4096, 4096),
        lambda path, fd: os.pwrite(fd, b"x", 0),
    ],
    ids=["O_TRUNC", "ftruncate to the same size", "ftruncate", "fallocate", "write"],
)
def test_whatever_may_create_a_heap_anew_is_told_at_once(watched, shm_root, change):
    fd, path = create(shm_root, "a"), os.path.join(shm_root, "a")
    assert watched.attend("a", fd, 0) and watched.attends("a")
    assert watched.changes() == set()
    change(path, fd)
    assert watched.changes("a") == {"a"}
    assert watched.changes() == set()
    assert not watched.attend("a", fd, 0)
    change(path, fd)
    assert watched.changes() == {"a"}
    os.close(fd)
    assert watched.changes() == set()


def test_where_nothing_tells_of_changes_it_is_not_known_that_there_were_none(shm_root):
    one = triggers.Triggers()
    try:
        assert one.changes() is None
        one.add_inotify(shm_root)
        assert one.changes() == set()
        one.drop_inotify()
        assert one.changes() is None
    finally:
        one.close()


def test_changes_that_the_kernel_dropped_are_not_taken_for_none(watched, shm_root):
    with open("/proc/sys/fs/inotify/max_queued_events") as stream:
        limit = int(stream.read())
    fds = [create(shm_root, name) for name in ("a", "b", "c", "d")]
    for fd, name, owner in zip(fds, "abcd", (1, 1, 1, 2)):
        assert watched.attend(name, fd, owner)
    for number in range(limit + 10):
        os.pwrite(fds[number % 2], b"x", 0)
    os.pwrite(fds[2], b"x", 0)  # nothing is told of this one
    assert watched.changes("d") == set()
    assert watched.changes("c") == {"a", "b", "c"}
    assert watched.changes() == set()
    # Nor might it have been told that a watch is gone: all have to be added anew.
    assert [watched.attends(name) for name in "abcd"] == [False, False, False, True]
    assert watched.attend("c", fds[2], 1)
    os.pwrite(fds[2], b"x", 0)
    assert watched.changes() == {"c"}
    for fd in fds:
        os.close(fd)


def test_changes_are_told_by_the_file_and_not_by_the_name(watched, shm_root):
    first, path = create(shm_root, "a"), os.path.join(shm_root, "a")
    os.link(path, os.path.join(shm_root, "b"))
    assert watched.attend("a", first, 0)
    assert watched.attend("b", first, 0)
    os.pwrite(first, b"x", 0)
    assert watched.changes() == {"a", "b"}
    watched.neglect("b")
    assert (watched.attends("a"), watched.attends("b")) == (True, False)
    os.pwrite(first, b"x", 0)
    assert watched.changes() == {"a"}
    os.unlink(path)
    assert watched.changes() == {"a"}
    second = create(shm_root, "a")
    assert watched.changes() == set()
    assert watched.attend("a", second, 0)
    os.pwrite(first, b"x", 0)
    assert watched.changes() == set()
    for fd in (first, second):
        os.close(fd)


def test_a_file_that_is_gone_for_good_is_changed_and_not_attended_any_more(watched, shm_root):
    fd, path = create(shm_root, "a"), os.path.join(shm_root, "a")
    watched.attend("a", fd, 0)
    os.unlink(path)
    os.close(fd)
    assert watched.changes() == {"a"}
    assert not watched.attends("a")


def test_more_owners_than_there_can_be_queues_share_one(watched, shm_root):
    count = changes.MOST_OWNERS + 3
    names = [f"heap-{number}" for number in range(1, count + 1)]
    fds = [create(shm_root, name) for name in names]
    before = len(descriptors())
    for owner, (name, fd) in enumerate(zip(names, fds)):
        assert watched.attend(name, fd, owner)
    assert len(descriptors()) == before + changes.MOST_OWNERS
    for fd in fds:
        os.pwrite(fd, b"x", 0)
    assert watched.changes(names[-1]) == set(names[changes.MOST_OWNERS :])
    assert watched.changes() == set(names[: changes.MOST_OWNERS])
    watched.neglect(names[0])
    assert watched.attend(names[-1], fds[-1], count)  # in the queue that nobody needs any more
    os.pwrite(fds[-1], b"x", 0)
    assert watched.changes(names[-1]) == {names[-1]}
    assert len(descriptors()) == before + changes.MOST_OWNERS
    for fd in fds:
        os.close(fd)


def test_a_close_of_a_single_file_is_told_while_the_directory_is_not_listened_to(watched, shm_root):
    """By which a death is noticed during a flood of events where there are no pidfds."""
    fds = [create(shm_root, name) for name in ("heap-1", "heap-2")]
    so_far(watched)
    watched.watch_closes("heap-1", os.path.join(shm_root, "heap-1"))
    watched.listen(False)
    for fd in fds:
        os.close(fd)
    happened = watched.wait(5.0)
    assert (happened.freed, list(happened.closed)) == (["heap-1"], [])
    watched.neglect("heap-1")
    with open(os.path.join(shm_root, "heap-1"), "r+b"):
        pass
    assert not watched.wait(0.05).events


def test_a_flood_of_events_is_dropped_without_a_look_at_each(watched, shm_root):
    for number in range(3000):
        os.close(create(shm_root, f"heap-{number % 2}", 0 + 1))
    assert watched.skip() > 32 * 1000
    assert watched.skip() == 0
    os.close(create(shm_root, "heap-3"))
    assert so_far(watched).created == ["heap-3"]


def test_of_a_directory_that_is_removed_nothing_is_known_any_more(shm_root):
    root = os.path.join(shm_root, "inner")
    os.mkdir(root)
    one = triggers.Triggers()
    try:
        one.add_inotify(root)
        os.rmdir(root)
        assert one.wait(5.0).gone
    finally:
        one.close()


def test_of_many_changes_only_the_first_wakes_and_none_is_lost(watched, shm_root):
    fd = create(shm_root, "a")
    watched.attend("a", fd, 0)
    so_far(watched)
    started, wakeups = time.monotonic(), 0
    while time.monotonic() - started < 0.2:
        os.pwrite(fd, b"x", 0)
        happened = watched.wait(0.01)
        wakeups += watched.resume > 0 and not happened.events
    assert watched.resume >= started + triggers.GATHER
    assert not watched.poll_changes_again(started)
    assert watched.poll_changes_again(watched.resume)
    assert watched.resume == 0
    assert watched.changes() == {"a"}
    os.close(fd)


def test_a_directory_is_watched_once_and_again_after_it_was_let_go(watched, shm_root):
    before = len(descriptors())
    watched.add_inotify(shm_root)
    assert len(descriptors()) == before
    watched.drop_inotify()
    assert not watched.inotify_works
    os.close(create(shm_root, "unseen"))
    watched.add_inotify(shm_root)
    os.close(create(shm_root, "seen"))
    assert so_far(watched).created == ["seen"]


def test_where_there_can_be_but_one_inotify_there_is_none(monkeypatch, shm_root):
    def second_fails():
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    one = triggers.Triggers()
    try:
        before = descriptors()
        monkeypatch.setattr(kernel, "FileInotify", second_fails)
        with pytest.raises(OSError):
            one.add_inotify(shm_root)
        assert not one.inotify_works and one.changes() is None
        assert descriptors() == before
    finally:
        one.close()


def test_what_is_not_listened_to_gathers(watched, shm_root):
    watched.listen(False)
    os.close(create(shm_root, "a"))
    assert not watched.wait(0.05).events
    watched.listen(True)
    assert watched.wait(1.0).created == ["a"]


# -- pidfds --------------------------------------------------------------------------------------------------


def start_of(pid):
    return procfs.pulse(pid)[0]


def test_a_pidfd_tells_once_of_its_process_end_and_can_be_had_then(watched, spawn, shm_root):
    owner = spawn.owner(shm_root, "--size=4096")
    assert watched.watch(owner.name, owner.pid, start_of(owner.pid))
    assert (watched.pidfds, watched.watches(owner.name)) == (1, True)
    assert watched.wait(0.0).ended == []
    owner.kill()
    assert watched.wait(5.0).ended == [owner.name]
    assert watched.wait(0.0).ended == []
    assert (watched.pidfds, watched.watches(owner.name)) == (0, False)
    fd = watched.release(owner.name)
    assert fd >= 0 and watched.release(owner.name) == -1
    os.close(fd)


def test_an_execution_is_no_end(watched, spawn):
    child = spawn.python(
        "print('ready', flush=True); sys.stdin.readline()\n"
        "os.execv(sys.executable, [sys.executable, '-c', 'print(1, flush=True); input()'])"
    )
    watched.watch("name", child.pid, start_of(child.pid))
    child.send("go")
    assert child.read_line() == "1"
    assert watched.wait(0.1).ended == []


def test_who_has_ended_or_has_a_dead_ones_pid_is_not_watched(watched, spawn):
    before = descriptors()
    with pytest.raises(ProcessLookupError):
        watched.watch("name", spawn.dead_pid(), 1)
    with pytest.raises(ProcessLookupError):
        watched.watch("name", os.getpid(), start_of(os.getpid()) + 1)
    assert watched.pidfds == 0
    assert descriptors() == before


def test_where_there_are_no_pidfds_it_is_told_why_until_there_are(watched, monkeypatch):
    def no_such_call(pid):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    with monkeypatch.context() as patched:
        patched.setattr(kernel, "pidfd_open", no_such_call)
        assert not watched.watch("name", os.getpid(), start_of(os.getpid()))
        assert watched.pidfd_trouble == "Function not implemented"
        with pytest.raises(ProcessLookupError):
            watched.watch("name", os.getpid(), 1)  # that one has ended, whatever the kernel can
    assert watched.watch("name", os.getpid(), start_of(os.getpid()))
    assert watched.pidfd_trouble == ""


def test_some_descriptors_are_never_spent_on_pidfds(watched):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    born = start_of(os.getpid())
    before = descriptors()
    highest = max(map(int, os.listdir("/proc/self/fd")))
    gaps = [os.dup(0)]
    while gaps[-1] < highest:
        gaps.append(os.dup(0))
    lowest = gaps[-1] + 1
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + triggers.HEADROOM, hard))
        assert not watched.watch("name", os.getpid(), born)
        assert watched.pidfd_trouble == "Too many open files"
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + triggers.HEADROOM + 1, hard))
        assert watched.watch("name", os.getpid(), born)
        watched.unwatch("name")
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        assert not watched.watch("name", os.getpid(), born)  # unknown, and not dead
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in gaps:
            os.close(fd)
    watched.unwatch("name")
    assert descriptors() == before


def test_a_name_has_one_pidfd_the_last(watched, spawn):
    first, second = (spawn.python("print('ready', flush=True); sys.stdin.read()") for _ in range(2))
    for child in (first, second):
        watched.watch("name", child.pid, start_of(child.pid))
    assert watched.pidfds == 1
    first.kill()
    assert watched.wait(0.05).ended == []
    second.kill()
    assert watched.wait(5.0).ended == ["name"]


def test_how_a_process_ended_is_told_of_one_that_is_no_child(spawn):
    """By Linux 6.15 or newer, when its parent has taken note of it."""
    code = "print('ready', flush=True); sys.stdin.readline(); os.{}"
    for number, words in ((signal.SIGSEGV, "killed by SIGSEGV"), (None, "exit status 7")):
        act = f"kill(os.getpid(), {int(number)})" if number else "_exit(7)"
        child = spawn.python(code.format(act))
        fd = kernel.pidfd_open(child.pid)
        try:
            try:
                assert kernel.exit_status(fd) is None
            except OSError as error:
                pytest.skip(f"this kernel does not tell: {error.strerror}")
            child.send("go")
            child.process.wait(10)
            status = wait_for(lambda: (kernel.exit_status(fd),))[0]  # noqa: B023
            if status is None:
                pytest.skip("this kernel does not tell how a process ended")
            assert kernel.how_it_ended(status) == words
        finally:
            os.close(fd)


def test_how_a_process_ended_in_words():
    assert kernel.how_it_ended(0) == "exit status 0"
    assert kernel.how_it_ended(0x2A00) == "exit status 42"
    assert kernel.how_it_ended(9) == "killed by SIGKILL"
    assert kernel.how_it_ended(0x80 | 11) == "killed by SIGSEGV"  # with a core dump
    assert kernel.how_it_ended(64) == "killed by SIGRTMAX"
    assert kernel.how_it_ended(50) == "killed by signal 50"


# -- waiting -------------------------------------------------------------------------------------------------


def test_a_wait_ends_when_it_is_woken_and_when_the_time_is_over(watched):
    started = time.monotonic()
    watched.wait(0.05)
    assert 0.04 < time.monotonic() - started < 2
    threading.Timer(0.05, watched.wake).start()
    watched.wait(30.0)
    assert time.monotonic() - started < 10
    for _ in range(100000):  # more than a pipe holds
        watched.wake()
    watched.wait(30.0)


def test_a_wait_ends_for_descriptors_of_others(watched):
    reader, writer = os.pipe()
    try:
        watched.poll_also(reader, False)
        watched.poll_also(reader, True)
        watched.poll_also(reader, False)
        assert not watched.wait(0.0).observer
        os.write(writer, b"x")
        assert watched.wait(5.0).observer
    finally:
        os.close(reader)
        os.close(writer)


def test_closing_gives_every_descriptor_back(spawn, shm_root):
    before = descriptors()
    one = triggers.Triggers()
    one.add_inotify(shm_root)
    processes = [subprocess.Popen(["sleep", "100"]) for _ in range(5)]
    try:
        for process in processes:
            one.watch(str(process.pid), process.pid, start_of(process.pid))
        processes[0].kill()
        assert one.wait(5.0).ended == [str(processes[0].pid)]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    one.close()
    assert descriptors() == before


def test_a_watch_for_changes_that_is_lost_is_told_and_never_taken_for_quiet(watched, shm_root):
    """Its descriptor stays, and is silent."""
    libc = ctypes.CDLL(None)
    kept = create(shm_root, "a")
    watched.attend("a", kept, 0)
    for fd, path in descriptors():
        if path == "anon_inode:inotify":
            libc.inotify_rm_watch(int(fd), 1)
    assert watched.changes() == {"a"}
    assert not watched.attends("a")
    assert watched.attend("a", kept, 0)
    os.close(kept)
