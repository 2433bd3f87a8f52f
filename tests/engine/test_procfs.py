"""Promises of gppshm.procfs: what is known of processes, and what is not known is never taken for absence."""

import os
import signal
import subprocess

import pytest

from gppshm import procfs
from spawning import (
    IN_A_PID_NAMESPACE,
    in_child,
    needs_root,
    python_command,
    run_command,
    state_of,
    wait_for,
)

NOBODY = 65534
WAITS = 'print("ready", flush=True); sys.stdin.read()'


@pytest.fixture
def written(tmp_path):
    """written({name: text}): a folder of files as /proc has them; symlinks are written as ("target",)."""

    def write(files):
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, tuple):
                path.symlink_to(content[0])
            else:
                path.write_bytes(content)
        return str(tmp_path)

    return write


def test_this_process_lives_and_maps_what_it_maps():
    process = procfs.Processes().process(os.getpid())
    assert process.existence is procfs.LIVES
    library = os.stat(os.__file__)
    assert (library.st_dev, library.st_ino) not in process.files
    assert process.files


def test_a_process_that_has_gone_is_gone(spawn):
    assert procfs.Processes().process(spawn.dead_pid()).existence is procfs.GONE


def test_a_zombie_is_gone_whatever_its_name(spawn):
    """The name may hold blanks, brackets and what looks like the fields that follow it."""
    code = """
import ctypes
pid = os.fork()
if not pid:
    ctypes.CDLL(None).prctl(15, b") R 1 (x) S 9", 0, 0, 0)
    os._exit(0)
print("ready", pid, flush=True)
sys.stdin.read()
"""
    parent = spawn.python(code)
    pid = int(parent.name)
    wait_for(lambda: state_of(pid) == "Z")
    os.kill(pid, 0)
    assert procfs.is_exiting(pid) and not procfs.is_exiting(parent.pid)
    assert procfs.Processes().process(pid).existence is procfs.GONE


HEADLESS = """
import ctypes, threading
libc, main = ctypes.CDLL(None), threading.get_ident()
def wait():
    libc.pthread_join(ctypes.c_ulong(main), None)
    print("ready", flush=True)
    sys.stdin.read()
    os._exit(0)
threading.Thread(target=wait).start()
libc.pthread_exit(None)
"""
"""The end of a program whose main thread ends, while another thread waits for stdin."""


def test_a_process_whose_main_thread_has_ended_lives_and_is_still_seen_to_map(spawn, shm_root):
    code = """
import mmap
with open(sys.argv[1], "w+b") as stream:
    stream.truncate(4096)
    kept = mmap.mmap(stream.fileno(), 0)
"""
    path = os.path.join(shm_root, "file")
    process = spawn.python(code + HEADLESS, path)
    # The other thread may go on before the first has quite ended.
    wait_for(lambda: state_of(process.pid) == "Z")
    found = procfs.Processes().process(process.pid)
    status = os.stat(path)
    assert found.existence is procfs.LIVES
    assert (status.st_dev, status.st_ino) in found.files


def test_what_a_process_has_open_is_seen_though_its_main_thread_has_ended(spawn, shm_root):
    path = os.path.join(shm_root, "file")
    process = spawn.python('kept = open(sys.argv[1], "wb")\n' + HEADLESS, path)
    wait_for(lambda: state_of(process.pid) == "Z")
    status = os.stat(path)
    assert os.listdir(f"/proc/{process.pid}/fd") == []
    assert (status.st_dev, status.st_ino) in procfs.Processes().open_files(process.pid)
    assert procfs.Processes().holders((status.st_dev, status.st_ino)) == [process.pid]
    process.kill()
    assert procfs.Processes().holders((status.st_dev, status.st_ino)) == []


def test_a_thread_is_no_process(spawn):
    code = """
import threading
threading.Thread(target=sys.stdin.read).start()
print("ready", *os.listdir("/proc/self/task"), flush=True)
"""
    process = spawn.python(code)
    tids = {int(tid) for tid in process.name.split()}
    processes = procfs.Processes()
    assert set(processes.threads(process.pid)) == tids
    (tid,) = tids - {process.pid}
    assert processes.process(tid).existence is procfs.GONE
    assert processes.process(process.pid).existence is procfs.LIVES


@needs_root
def test_a_kernel_thread_lives_and_maps_nothing():
    kthreadd = procfs.Processes().process(2)
    assert (kthreadd.existence, kthreadd.files) == (procfs.LIVES, frozenset())


@needs_root
def test_another_users_process_is_unreadable_not_empty():
    seen = in_child(lambda parent: str(procfs.Processes().process(parent).existence), os.getpid(), uid=NOBODY)
    assert seen == "unreadable"


def test_empty_or_missing_maps_are_no_evidence(written):
    """As of a process that is exiting, or where /proc is filtered."""
    own = os.getpid()
    status = b"Name:\tx\nTgid:\t%d\nNSpid:\t%d\n" % (own, own)
    root = written({f"{own}/status": status, f"{own}/maps": b""})
    assert procfs.Processes(root).process(own).existence is procfs.UNREADABLE
    os.unlink(os.path.join(root, str(own), "maps"))
    assert procfs.Processes(root).process(own).existence is procfs.UNREADABLE
    os.unlink(os.path.join(root, str(own), "status"))
    assert procfs.Processes(root).process(own).existence is procfs.UNREADABLE


def test_a_dead_main_thread_beside_a_thread_that_cannot_be_read_is_not_death(written):
    own = os.getpid()
    fields = ["Z", "1", "1", "1", "0", "-1", "4227084"] + ["0"] * 10
    for threads, existence in (("1", procfs.GONE), ("2", procfs.UNREADABLE)):
        stat = f"{own} (x) {' '.join(fields + [threads, '0'])}\n".encode()
        root = written({f"{own}/status": b"Tgid:\t%d\n" % own, f"{own}/maps": b"", f"{own}/stat": stat})
        assert procfs.Processes(root).process(own).existence is existence


def test_a_process_in_a_pid_namespace_has_two_pids(spawn):
    if os.geteuid() == 0:
        inside = spawn.python(WAITS, prefix=IN_A_PID_NAMESPACE)
        assert procfs.Processes().innermost_pid(inside.pid) == 1
    outside = spawn.python(WAITS)
    assert procfs.Processes().innermost_pid(outside.pid) == outside.pid
    assert procfs.Processes().innermost_pid(spawn.dead_pid()) == 0


def test_a_kernel_without_nspid_tells_the_namespace_by_its_link_or_not_at_all(written):
    """As Linux 3.10, REDHAWK's old hosts' own."""
    root = written(
        {
            "7/status": b"Name:\tx\nTgid:\t7\n",
            "7/ns/pid": (procfs.INITIAL_PID_NAMESPACE,),
            "8/status": b"Name:\tx\nTgid:\t8\n",
            "8/ns/pid": ("pid:[4026532999]",),
            "9/status": b"Name:\tx\nTgid:\t9\n",
        }
    )
    processes = procfs.Processes(root)
    assert [processes.innermost_pid(pid) for pid in (7, 8, 9)] == [7, 0, 0]


@pytest.mark.parametrize("pid", [0, -1, -(2**31), 4194305, 2**31 - 1, 10**30])
def test_no_absurd_pid_is_ever_asked_for(monkeypatch, pid):
    asked = []
    monkeypatch.setattr(os, "kill", lambda *arguments: asked.append(arguments))
    assert not procfs.Processes().maps(pid, (1, 1))
    assert asked == []


def test_maps_are_read_by_device_and_inode_whatever_the_names():
    text = (
        b"7f00-7f01 rw-s 00000000 00:1b 5133                       /dev/shm/x\ra b c d e f\n"
        b"7f01-7f02 rw-s 00001000 00:1b 5133                       /dev/shm/x\ra b c d e f\n"
        b"7f02-7f03 r--p 00000000 103:02 18446744073709551615      /a b (deleted)\n"
        b"7f03-7f04 rw-p 00000000 00:00 0 \n"
        b"7f04-7f05 rw-p 00000000 00:00 0                          [heap]\n"
        b"7f05-7f06 rw-s 00000000 00:1b 77                         /dev/shm/\\012x\n"
        b"7f06-7f07 rw-s 00000000 00:1b 78"
    )
    shm = os.makedev(0, 0x1B)
    assert sorted(procfs.parse_maps(text)) == [
        (shm, 77),
        (shm, 78),
        (shm, 5133),
        (os.makedev(0x103, 2), 18446744073709551615),
    ]


def test_from_the_first_namespace_there_is_no_blind_spot():
    inside = os.readlink("/proc/self/ns/pid") != procfs.INITIAL_PID_NAMESPACE
    assert bool(procfs.Processes().blind_spot()) is inside


def test_a_folder_that_is_no_proc_is_a_blind_spot(written, tmp_path):
    with open("/proc/self/mountinfo", "rb") as stream:
        mounts = stream.read()
    namespace = (procfs.INITIAL_PID_NAMESPACE,)
    own = str(os.getpid())
    files = {"self": (own,), own + "/ns/pid": namespace, own + "/mountinfo": mounts}
    assert "hidepid" in procfs.Processes(written(files)).blind_spot()
    assert "cannot be read" in procfs.Processes(str(tmp_path / "missing")).blind_spot()


@needs_root
def test_the_proc_of_another_namespace_is_a_blind_spot():
    code = "from gppshm import procfs; print(procfs.Processes().blind_spot())"
    done = run_command(list(IN_A_PID_NAMESPACE) + python_command(code))
    assert done.stdout == "/proc belongs to another pid namespace\n"
    done = run_command(list(IN_A_PID_NAMESPACE) + ["--mount-proc"] + python_command(code))
    assert "not the host's first pid namespace" in done.stdout


def test_where_proc_cannot_be_listed_there_is_a_blind_spot_and_no_error(monkeypatch):
    """For want of descriptors, say."""

    def refuse(path):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "listdir", refuse)
    processes = procfs.Processes()
    assert processes.all() == []
    if os.readlink("/proc/self/ns/pid") == procfs.INITIAL_PID_NAMESPACE:
        assert processes.blind_spot() == "/proc cannot be listed"


def test_holders_are_those_who_map_or_else_those_who_have_it_open_for_writing(spawn, shm_root):
    path = os.path.join(shm_root, "file")
    with open(path, "wb") as stream:
        stream.write(b"x" * 4096)
    status = os.stat(path)
    code = f"kept = open(sys.argv[1], sys.argv[2]); {WAITS}"
    spawn.python(code, path, "rb")
    assert procfs.Processes().holders((status.st_dev, status.st_ino)) == []
    writers = {spawn.python(code, path, mode).pid for mode in ("r+b", "ab")}
    assert set(procfs.Processes().holders((status.st_dev, status.st_ino))) == writers
    code = f"import mmap; kept = mmap.mmap(os.open(sys.argv[1], os.O_RDWR), 4096); {WAITS}"
    mapping = spawn.python(code, path)
    assert procfs.Processes().holders((status.st_dev, status.st_ino)) == [mapping.pid]


def test_one_look_is_one_moment(spawn):
    """What was read once is not read again, so that all of a pass rests on the same evidence."""
    process = spawn.python(WAITS)
    processes = procfs.Processes()
    assert processes.process(process.pid).existence is procfs.LIVES
    process.kill()
    assert processes.process(process.pid).existence is procfs.LIVES
    assert procfs.Processes().process(process.pid).existence is procfs.GONE


def test_the_mount_of_a_folder_is_told_by_kind_and_options(shm_root):
    assert procfs.mount_of(shm_root)[0] == b"tmpfs"
    assert procfs.mount_of("/proc")[0] == b"proc"
    with pytest.raises(OSError):
        procfs.mount_of(os.path.join(shm_root, "missing"))


def test_processes_that_come_and_go_meanwhile_are_no_error():
    stop = subprocess.Popen(
        ["sh", "-c", "while :; do true & true & wait; done"], stdin=subprocess.DEVNULL, close_fds=True
    )
    try:
        for _ in range(10):
            processes = procfs.Processes()
            assert os.getpid() in [process.pid for process in processes.all()]
            for process in processes.all():
                processes.innermost_pid(process.pid)
                processes.threads(process.pid)
    finally:
        stop.send_signal(signal.SIGKILL)
        stop.wait()
