"""Promises of gppshm.lease: whether anyone has a file open or mapped for writing, asked without harm."""

import ctypes
import errno
import fcntl
import mmap
import os
import signal
import struct
import threading
import time

import pytest

from gppshm import lease
from spawning import descriptors, in_child, needs_root, python_command, run_command, wait_for
from watching import forbid

NOBODY = 65534

HOLDER = """
from gppshm import lease
fd = os.open(sys.argv[1], os.O_RDONLY)
assert lease.take(fd) == lease.GRANTED and lease.held(fd)
print("ready", flush=True)
for line in sys.stdin:
    if line == "release\\n":
        lease.release(fd)
    print(lease.held(fd), flush=True)
"""


@pytest.fixture
def path(shm_root):
    path = os.path.join(shm_root, "file")
    with open(path, "wb") as stream:
        stream.write(b"x" * 4096)
    return path


@pytest.fixture
def fd(path):
    fd = os.open(path, os.O_RDONLY)
    yield fd
    os.close(fd)


def answer(fd):
    """The answer, and the lease given back."""
    said = lease.take(fd)
    lease.release(fd)
    return said


def test_a_lease_is_granted_only_while_nobody_has_the_file_open_or_mapped_for_writing(path, fd):
    assert answer(fd) is lease.GRANTED
    writer = os.open(path, os.O_RDWR)
    assert answer(fd) is lease.REFUSED
    mapping = mmap.mmap(writer, 4096)
    os.close(writer)
    assert answer(fd) is lease.REFUSED
    mapping.close()
    assert answer(fd) is lease.GRANTED


def test_several_readers_with_leases_at_once_do_not_refuse_each_other(path, fd, spawn):
    spawn.python(HOLDER, path)
    spawn.python(HOLDER, path)
    assert lease.take(fd) is lease.GRANTED
    assert lease.held(fd)
    with open(path, "rb") as reader:
        assert reader.read(1) == b"x"
        assert lease.held(fd)
    lease.release(fd)


def test_who_holds_a_lease_is_not_killed_when_a_writer_comes_and_sees_that_one_came(path, spawn):
    holder = spawn.python(HOLDER, path)
    with pytest.raises(BlockingIOError):
        os.open(path, os.O_RDWR | os.O_NONBLOCK)
    holder.send("held?")
    assert holder.read_line() == "False"
    assert holder.leave() == 0


def test_a_writer_waits_only_as_long_as_the_lease_is_held(path, spawn):
    holder = spawn.python(HOLDER, path)
    opened = []
    writer = threading.Thread(target=lambda: opened.append(os.open(path, os.O_RDWR)))
    writer.start()

    def broken():
        holder.send("held?")
        return holder.read_line() == "False"

    wait_for(broken)
    assert opened == []
    begin = time.monotonic()
    holder.send("release")
    writer.join(10)
    # The kernel itself would take the lease away only after /proc/sys/fs/lease-break-time, 45 seconds.
    assert time.monotonic() - begin < 5
    os.close(opened[0])


def test_a_released_lease_stays_with_no_forked_child(path, fd, spawn):
    assert lease.take(fd) is lease.GRANTED
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    try:
        lease.release(fd)
        os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))
    finally:
        os.close(writer)
        os.close(reader)
        os.waitpid(child, 0)


def test_the_callers_own_signal_handling_is_left_alone(path):
    code = """
import signal
from gppshm import lease
def handlers():
    return signal.getsignal(signal.SIGIO), signal.getsignal(signal.SIGURG)
before = handlers()
fd = os.open(sys.argv[1], os.O_RDONLY)
lease.take(fd)
try:
    os.open(sys.argv[1], os.O_RDWR | os.O_NONBLOCK)
except BlockingIOError:
    print(before == handlers(), lease.SIGURG == signal.SIGURG)
"""
    assert run_command(python_command(code, path)).stdout == "True True\n"


@needs_root
def test_another_users_file_is_silent(path):
    assert in_child(lambda: str(lease.take(os.open(path, os.O_RDONLY))), uid=NOBODY) == "silent"
    os.chown(path, NOBODY, NOBODY)
    assert in_child(lambda: str(lease.take(os.open(path, os.O_RDONLY))), uid=NOBODY) == "granted"


def test_what_has_no_leases_is_silent(shm_root, tmp_path):
    for folder in (shm_root, str(tmp_path)):
        fd = os.open(folder, os.O_RDONLY)
        assert answer(fd) is lease.SILENT
        os.close(fd)
    ends = os.pipe()
    assert answer(ends[0]) is lease.SILENT
    for end in ends:
        os.close(end)


F_SETLEASE, F_GETLEASE = 1024, 1025


def refuse_leases(error, call=F_SETLEASE):
    """From now on the kernel answers this process with `error` when it is asked for a lease (by seccomp)."""

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]

    number = {"x86_64": 72, "aarch64": 25}[os.uname().machine]
    # Load the system call's number, or its second argument; jump if it is another one; give the error; allow.
    lines = [(0x20, 0, 0, 0), (0x15, 0, 3, number), (0x20, 0, 0, 24), (0x15, 0, 1, call)]
    lines += [(0x06, 0, 0, 0x00050000 | error), (0x06, 0, 0, 0x7FFF0000)]
    code = b"".join(struct.pack("=HBBI", *line) for line in lines)
    libc = ctypes.CDLL(None, use_errno=True)
    PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
    program = Program(len(lines), code)
    assert libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    assert libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) == 0


@pytest.mark.parametrize("error", [errno.EINVAL, errno.EACCES, errno.ENOSYS, errno.EPERM])
def test_where_leases_are_disabled_the_answer_is_silent_and_the_probe_says_so(path, shm_root, error):
    """EINVAL is what fs.leases-enable=0 gives."""

    def without():
        before = lease.trustworthy(shm_root)
        refuse_leases(error)
        return [before, str(lease.take(os.open(path, os.O_RDONLY))), lease.trustworthy(shm_root)]

    assert in_child(without) == [True, "silent", False]


def test_a_kernel_that_does_not_say_whether_a_lease_is_still_held_is_not_trusted(path, shm_root):
    """Before an unlinking it is asked that: without an answer no lease would prove anything."""

    def without():
        refuse_leases(errno.EPERM, F_GETLEASE)
        return [str(lease.take(os.open(path, os.O_RDONLY))), lease.trustworthy(shm_root)]

    assert in_child(without) == ["granted", False]


@pytest.mark.parametrize("lie", [lease.GRANTED, lease.REFUSED])
def test_a_kernel_that_always_says_the_same_is_not_trusted(monkeypatch, shm_root, lie):
    monkeypatch.setattr(lease, "take", lambda fd: lie)
    assert not lease.trustworthy(shm_root)


def test_the_probe_leaves_no_file_and_no_descriptor(shm_root):
    before = descriptors()
    assert lease.trustworthy(shm_root)
    assert descriptors() == before
    assert os.listdir(shm_root) == []


def test_the_probe_writes_no_name_where_there_is_no_memfd(monkeypatch, shm_root):
    monkeypatch.delattr(os, "memfd_create", raising=False)
    assert lease.trustworthy(shm_root)
    assert os.listdir(shm_root) == []


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.EPERM])
def test_a_kernel_that_makes_no_memfd_is_probed_all_the_same(shm_root, error):
    """An old one under a newer glibc, as in a container."""

    def probe():
        forbid([{"x86_64": 319, "aarch64": 279}[os.uname().machine]], error)
        return lease.trustworthy(shm_root), os.listdir(shm_root)

    assert in_child(probe) == [True, []]


@needs_root
def test_a_full_tmpfs_does_not_stop_the_probe(private_tmpfs):
    code = """
from gppshm import lease
with open(sys.argv[1] + "/filler", "wb", buffering=0) as stream:
    try:
        while True:
            stream.write(b"x" * 4096)
    except OSError as error:
        print(error.strerror)
print(lease.trustworthy(sys.argv[1]), os.listdir(sys.argv[1]))
"""
    done = private_tmpfs(code, options="size=64k")
    assert (done.stdout, done.stderr) == ("No space left on device\nTrue ['filler']\n", "")


def test_sigio_would_have_killed(path):
    """What `take` avoids is real: with the default signal a writer's open ends the holder."""
    child = os.fork()
    if not child:
        fcntl.fcntl(os.open(path, os.O_RDONLY), fcntl.F_SETLEASE, fcntl.F_RDLCK)
        try:
            os.open(path, os.O_RDWR | os.O_NONBLOCK)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGIO
