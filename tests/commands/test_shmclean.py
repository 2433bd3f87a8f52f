"""Promises of redhawk-shmclean: what it removes, what it keeps, and what it says of it."""

import os
import re
import signal
import socket
import struct
import subprocess
import sys

import pytest

import heapwriter
from cleaning import CLEAN, UNBUFFERED, clean, orphan, put_orphan
from spawning import IN_A_PID_NAMESPACE, needs_root, run_command, wait_for

SMALL = "--size=4096"


def test_every_orphan_is_removed_and_no_live_heap(spawn, shm_root):
    live = [spawn.owner(shm_root, SMALL) for _ in range(2)]
    dead = {orphan(spawn, shm_root) for _ in range(2)} | {put_orphan(spawn, shm_root, "named-otherwise")}
    done = clean(shm_root)
    assert sorted(done.out.splitlines()) == sorted("unlinking " + name for name in dead)
    assert (done.status, done.err) == (0, "")
    assert sorted(os.listdir(shm_root)) == sorted(heap.name for heap in live)


def test_nothing_to_do_is_success_and_silence(shm_root):
    assert clean(shm_root).everything == (0, "", "")


def test_it_says_unlinking_only_of_what_is_unlinked_already(spawn, shm_root):
    names = {put_orphan(spawn, shm_root, "heap-%d" % number) for number in range(4190000, 4190200)}
    process = subprocess.Popen([*CLEAN, "--root", shm_root], stdout=subprocess.PIPE, universal_newlines=True)
    with process:
        for line in process.stdout:
            name = line[len("unlinking ") : -1]
            assert not os.path.exists(os.path.join(shm_root, name))
            names.remove(name)
    assert not names and process.returncode == 0


def test_without_names_force_removes_no_live_heap(spawn, shm_root):
    live, dead = spawn.owner(shm_root, SMALL), orphan(spawn, shm_root)
    assert clean(shm_root, "-f").everything == (0, f"unlinking {dead}\n", "")
    assert os.listdir(shm_root) == [live.name]


def test_named_orphans_are_removed_and_all_else_is_refused_by_name(spawn, shm_root):
    live, dead, other_dead = spawn.owner(shm_root, SMALL), orphan(spawn, shm_root), orphan(spawn, shm_root)
    with open(os.path.join(shm_root, "plain"), "w"):
        pass
    os.mkdir(os.path.join(shm_root, "folder"))
    done = clean(shm_root, dead, live.name, "plain", "folder", "absent", dead)
    assert (done.status, done.out) == (1, f"unlinking {dead}\n")
    assert sorted(done.err.splitlines()) == sorted(
        [
            f"{live.name} is in use, use -f to force removal",
            "plain is not a heap, use -f to force removal",
            "folder could not be opened: Is a directory",
            "absent could not be opened: No such file or directory",
        ]
    )
    assert sorted(os.listdir(shm_root)) == sorted([live.name, "plain", "folder", other_dead])
    assert clean(shm_root, other_dead).everything == (0, f"unlinking {other_dead}\n", "")


@pytest.mark.parametrize("force", [(), ("-f",)])
def test_a_name_with_a_slash_is_refused_and_nothing_outside_is_touched(spawn, shm_root, force):
    inside, outside = os.path.join(shm_root, "inside"), os.path.join(shm_root, "outside")
    os.mkdir(inside)
    put_orphan(spawn, shm_root, "outside")
    for name in ("../outside", outside, "/outside", "./x"):
        done = clean(inside, name, *force)
        assert done.status == 1 and done.out == ""
        assert name in done.err and "without a slash" in done.err
    assert os.path.exists(outside)


@pytest.mark.parametrize("name", ["", ".", ".."])
@pytest.mark.parametrize("force", [(), ("-f",)])
def test_no_name_is_a_name_of_the_directory_itself(shm_root, name, force):
    done = clean(shm_root, *force, "--", name)
    assert done.status == 1 and done.out == "" and len(done.err.splitlines()) == 1
    assert os.path.isdir(shm_root)


# -- force -------------------------------------------------------------------------------------------------


def test_force_removes_a_live_heap_and_tells_who_loses_it(spawn, shm_root):
    owner = spawn.owner(shm_root, SMALL)
    peer = spawn.peer(shm_root, owner)
    done = clean(shm_root, "-f", owner.name)
    assert (done.status, done.out) == (0, "")
    assert re.match(rf"{owner.name} was in use; who loses it: .*process {owner.pid} \(", done.err)
    assert "its creator" in done.err and f"process {peer.pid} (" in done.err
    assert os.listdir(shm_root) == []
    assert owner.process.poll() is None


def test_force_is_silent_about_what_nobody_uses(spawn, shm_root):
    for name in ("heap-1", "plain"):
        with open(os.path.join(shm_root, name), "w") as stream:
            stream.write("no heap at all")
    os.mkfifo(os.path.join(shm_root, "fifo"))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.join(shm_root, "socket"))
    dead = orphan(spawn, shm_root)
    assert clean(shm_root, "heap-1", "plain", "fifo", "socket", dead, "--force").everything == (0, "", "")
    assert os.listdir(shm_root) == []


def test_force_unlinks_of_a_symlink_only_the_link_and_never_a_directory(spawn, shm_root):
    live = spawn.owner(shm_root, SMALL)
    os.mkdir(os.path.join(shm_root, "folder"))
    for name, target in (("heap-2", live.name), ("heap-3", "nowhere"), ("heap-4", "folder")):
        os.symlink(target, os.path.join(shm_root, name))
    done = clean(shm_root, "-f", "heap-2", "heap-3", "heap-4", "folder")
    assert done.everything == (1, "", "folder: Is a directory\n")
    assert sorted(os.listdir(shm_root)) == sorted(["folder", live.name])


def test_force_on_a_name_that_is_not_there_fails_by_name(shm_root):
    assert clean(shm_root, "-f", "heap-5").everything == (1, "", "heap-5: No such file or directory\n")


@needs_root
def test_force_tells_when_it_cannot_know_whether_a_heap_was_in_use(spawn, shm_root):
    owner = spawn.owner(shm_root, SMALL)
    done = clean(shm_root, "-f", owner.name, prefix=(*IN_A_PID_NAMESPACE, "--mount-proc"))
    assert (done.status, done.out) == (0, "")
    assert done.err.startswith(f"{owner.name} may have been in use (")
    assert os.listdir(shm_root) == []


# -- what is no orphan, or not for us -----------------------------------------------------------------------


def test_odd_things_named_like_heaps_neither_hang_nor_harm_and_are_left_alone(spawn, shm_root):
    live = spawn.owner(shm_root, SMALL)
    os.mkfifo(os.path.join(shm_root, "heap-4190001"))
    os.mkdir(os.path.join(shm_root, "heap-4190002"))
    os.symlink("nowhere", os.path.join(shm_root, "heap-4190003"))
    os.symlink(live.name, os.path.join(shm_root, "heap-4190004"))
    os.symlink("/etc/passwd", os.path.join(shm_root, "heap-4190005"))
    os.link(os.path.join(shm_root, live.name), os.path.join(shm_root, "heap-4190006"))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.join(shm_root, "heap-4190007"))
    before = sorted(os.listdir(shm_root))
    assert clean(shm_root).everything == (0, "", "")
    done = clean(shm_root, *before)
    assert (done.status, done.out) == (1, "") and len(done.err.splitlines()) == len(before)
    assert sorted(os.listdir(shm_root)) == before


def test_files_of_others_are_never_touched_however_old(spawn, shm_root):
    live = spawn.owner(shm_root, SMALL)
    pid = spawn.dead_pid()
    for name in ("sem.x", f"psm_{pid}", f"fastrtps_{pid}", f"heap-{pid}x", "heap-0", f"heap-0{pid}"):
        with open(os.path.join(shm_root, name), "wb") as stream:
            stream.write(b"" if name.startswith("heap") else struct.pack("<Q", pid) * 1024)
    before = sorted(os.listdir(shm_root))
    for name in before:
        os.utime(os.path.join(shm_root, name), (0, 0))
    assert clean(shm_root).everything == (0, "", "")
    assert sorted(os.listdir(shm_root)) == before
    assert live.name in before


def test_a_file_without_header_is_removed_of_a_dead_creator_and_kept_of_a_live_one(spawn, shm_root):
    making = """
path = "%s/heap-%d" % (sys.argv[1], os.getpid())
fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
print("ready", os.path.basename(path), flush=True)
sys.stdin.read()
"""
    live, dead = spawn.python(making, shm_root), spawn.python(making, shm_root)
    dead.kill()
    assert clean(shm_root).everything == (0, f"unlinking {dead.name}\n", "")
    done = clean(shm_root, live.name)
    assert done.everything == (1, "", f"{live.name} is in use, use -f to force removal\n")
    assert os.listdir(shm_root) == [live.name]


@needs_root
def test_a_heap_whose_state_is_unknown_is_kept_and_refused_by_name(spawn, shm_root):
    owner = spawn.owner(shm_root, SMALL)
    elsewhere = {"prefix": (*IN_A_PID_NAMESPACE, "--mount-proc")}
    assert clean(shm_root, **elsewhere).everything == (0, "", "")
    done = clean(shm_root, "--verbose", **elsewhere)
    assert (done.status, done.out) == (0, "")
    assert done.err.startswith(f"keeping {owner.name}: it may be in use: ")
    done = clean(shm_root, owner.name, **elsewhere)
    assert (done.status, done.out) == (1, "")
    assert re.match(rf"{owner.name} may be in use \(.+\): it is kept\n$", done.err)
    assert os.listdir(shm_root) == [owner.name]


@needs_root
def test_on_what_is_no_tmpfs_nothing_is_removed_without_force(private_tmpfs):
    code = """
import cleaning, heapwriter
heapwriter.create(sys.argv[1] + "/heap-4190001", 4190001, [(4096, ())])
for arguments in ([], ["-f"], ["heap-4190001"], ["-f", "heap-4190001"]):
    done = cleaning.clean(sys.argv[1], *arguments)
    print([done.status, done.out, done.err, os.listdir(sys.argv[1])])
"""
    done = private_tmpfs(code, fs="ramfs")
    assert done.returncode == 0, done.stderr
    everything, forced, named, named_forced = [eval(line) for line in done.stdout.splitlines()]
    for status, out, err, left in (everything, forced):
        assert (status, out, left) == (1, "", ["heap-4190001"])
        assert "not on a tmpfs" in err and "nothing is removed" in err
    assert named[0] == 1 and "may be in use (it is not known to be on a tmpfs" in named[2] and named[3]
    # Nothing is proven there, so that is told.
    assert named_forced[:2] == [0, ""] and "may have been in use" in named_forced[2] and not named_forced[3]


@needs_root
@pytest.mark.parametrize("options", ["size=64k", "nr_inodes=4", "size=64k,ro"])
def test_a_full_tmpfs_is_cleaned_and_a_read_only_one_reported(private_tmpfs, options):
    code = """
import cleaning, heapwriter, subprocess
root, options = sys.argv[1:]
heapwriter.create(root + "/heap-4190001", 4190001, [(4096, ())])
try:
    for number in range(9):
        with open(root + "/filler-%d" % number, "wb", buffering=0) as stream:
            while stream.write(bytes(4096)) == 4096:
                if stream.tell() > 65536 or "inodes" in options:
                    break
except OSError:
    pass
if options.endswith("ro"):
    subprocess.check_call(["mount", "-o", "remount,ro", root])
done = cleaning.clean(root)
print([done.status, done.out, done.err, os.path.exists(root + "/heap-4190001")])
"""
    done = private_tmpfs(code, options, options=options.split(",ro")[0])
    assert done.returncode == 0, done.stderr
    status, out, err, there = eval(done.stdout)
    if options.endswith("ro"):
        assert (status, out, there) == (1, "", True)
        assert err == "error: heap-4190001: it cannot be unlinked: Read-only file system\n"
    else:
        assert (status, out, err, there) == (0, "unlinking heap-4190001\n", "", False)


# -- what it tells ------------------------------------------------------------------------------------------


def test_a_dry_run_tells_and_removes_nothing(spawn, shm_root):
    live, dead = spawn.owner(shm_root, SMALL), orphan(spawn, shm_root)
    before = sorted(os.listdir(shm_root))
    assert clean(shm_root, "--dry-run").everything == (0, f"would unlink {dead}\n", "")
    assert clean(shm_root, "--dry-run", dead).everything == (0, f"would unlink {dead}\n", "")
    assert clean(shm_root, "--dry-run", live.name).status == 1
    done = clean(shm_root, "--dry-run", "-f", live.name)
    assert (done.status, done.out) == (0, f"would unlink {live.name}\n")
    assert f"who would lose it: process {live.pid} (" in done.err
    assert sorted(os.listdir(shm_root)) == before


def test_memory_that_a_peer_still_holds_is_told_with_the_peer(spawn, shm_root):
    owner = spawn.owner(shm_root, SMALL)
    peer = spawn.peer(shm_root, owner)
    status = os.stat(os.path.join(shm_root, owner.name))
    owner.kill()
    done = clean(shm_root, "--verbose")
    assert (done.status, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0] == f"unlinking {owner.name}"
    assert "  evidence:    pids" in lines
    assert f"  file:        {status.st_dev}:{status.st_ino}, {status.st_blocks * 512} bytes" in lines
    assert lines[-1].startswith(
        f"{owner.name}: {status.st_blocks * 512} bytes come back when the last of these exits:"
        f" process {peer.pid} ("
    )


def test_memory_that_a_mere_reader_holds_is_told_too(spawn, shm_root):
    dead = orphan(spawn, shm_root)
    reader = spawn.python("f = open(sys.argv[1]); print('ready'); sys.stdout.flush(); sys.stdin.read()",
                          os.path.join(shm_root, dead))  # fmt: skip
    done = clean(shm_root, "--verbose")
    assert "  evidence:    lease\n" in done.out
    assert f"bytes come back when the last of these exits: process {reader.pid} (" in done.out


def test_verbose_tells_why_a_heap_is_kept(spawn, shm_root):
    live = spawn.owner(shm_root, SMALL)
    done = clean(shm_root, "--verbose")
    assert done.everything == (
        0,
        f"keeping {live.name}: its creator, process {live.pid}, lives and maps it\n",
        "",
    )


def test_no_name_reaches_the_terminal_raw(spawn, shm_root):
    for name in (b"new\nline", b"\x1b[31mred", b"no\xffutf8", "\u202eright".encode("utf-8")):
        put_orphan(spawn, shm_root, os.fsdecode(name))
    refused = clean(shm_root, "\x1b]0;x\x07absent")
    assert refused.err == "\\x1b]0;x\\x07absent could not be opened: No such file or directory\n"
    done = clean(shm_root, "--verbose")
    assert [line for line in sorted(done.out.splitlines()) if line.startswith("unlinking")] == [
        "unlinking \\u202eright",
        "unlinking \\x1b[31mred",
        "unlinking new\\nline",
        "unlinking no\\xffutf8",
    ]
    assert os.listdir(shm_root) == []


@pytest.fixture(params=["closed pipe", "full disk"])
def broken(request):
    """A descriptor to which nothing can be written."""
    if request.param == "full disk":
        writer = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, writer = os.pipe()
        os.close(reader)
    yield writer
    os.close(writer)


@pytest.mark.parametrize("command", [CLEAN, UNBUFFERED], ids=["", "unbuffered"])
def test_a_closed_pipe_stops_no_cleaning_and_shows_no_traceback(spawn, shm_root, command):
    for number in range(4190000, 4190400):
        put_orphan(spawn, shm_root, "heap-%d" % number)
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = clean(shm_root, stdout=writer, command=command)
    finally:
        os.close(writer)
    assert (done.status, done.err) == (0, "")
    assert os.listdir(shm_root) == []


@pytest.mark.parametrize("command", [CLEAN, UNBUFFERED], ids=["", "unbuffered"])
def test_complaints_that_cannot_be_written_stop_no_cleaning(spawn, shm_root, broken, command):
    names = [put_orphan(spawn, shm_root, "heap-%d" % number) for number in range(4190000, 4190100)]
    absent = ["absent-%d" % number for number in range(300)]
    done = clean(shm_root, *absent, *names, command=command, stderr=broken)
    assert done.status == 1 and done.out.splitlines() == ["unlinking " + name for name in names]
    assert os.listdir(shm_root) == []


@pytest.mark.parametrize("command", [CLEAN, UNBUFFERED], ids=["", "unbuffered"])
@pytest.mark.parametrize("arguments, status", [(["--nonsense"], 2), (["absent"], 1)])
def test_the_status_is_the_same_though_the_complaint_cannot_be_written(
    shm_root, broken, command, arguments, status
):
    assert clean(shm_root, *arguments, command=command, stderr=broken).status == status


@pytest.mark.parametrize("command", [CLEAN, UNBUFFERED], ids=["", "unbuffered"])
def test_what_cannot_be_told_is_done_all_the_same_and_the_status_says_so(spawn, shm_root, command):
    orphan(spawn, shm_root)
    with open("/dev/full", "wb") as full:
        done = clean(shm_root, stdout=full, command=command)
    assert (
        done.status == 1 and done.err == "redhawk-shmclean: cannot write to stdout: No space left on device\n"
    )
    assert os.listdir(shm_root) == []


def test_closed_standard_streams_are_no_fault(spawn, shm_root):
    orphan(spawn, shm_root)
    command = [*CLEAN, "--root", shm_root]
    done = run_command(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command])
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")
    assert os.listdir(shm_root) == []


# -- usage --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments", [["--nonsense"], ["-x"], ["--fifo-root", "/tmp"], ["--root"], ["--dry-run=1"], ["-fx"]]
)
def test_wrong_usage_is_status_2_and_removes_nothing(spawn, shm_root, arguments):
    dead = orphan(spawn, shm_root)
    done = clean(shm_root, *arguments)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("redhawk-shmclean: ") and len(done.err.splitlines()) == 1
    assert os.listdir(shm_root) == [dead]


@pytest.mark.parametrize(
    "words", [["-f", "X"], ["X", "-f"], ["--f", "X"], ["X", "--forc"], ["-f", "--", "X"]]
)
def test_options_are_as_getopt_long_takes_them(shm_root, words):
    with open(os.path.join(shm_root, "X"), "w"):
        pass
    assert clean(shm_root, *words).everything == (0, "", "")
    assert os.listdir(shm_root) == []


def test_behind_two_dashes_all_are_names(shm_root):
    with open(os.path.join(shm_root, "-f"), "w"):
        pass
    done = clean(shm_root, "--", "-f")
    assert done.everything == (1, "", "-f is not a heap, use -f to force removal\n")
    assert clean(shm_root, "-f", "--", "-f").everything == (0, "", "")


@pytest.mark.parametrize("option", ["-h", "--help", "--h", "-fh", "--version", "--v", "--vers"])
def test_help_and_version_are_printed_and_nothing_is_removed(spawn, shm_root, option):
    dead = orphan(spawn, shm_root)
    done = clean(shm_root, option)
    assert (done.status, done.err) == (0, "")
    assert ("version" in done.out.split("\n")[0]) if "v" in option else ("exit status" in done.out)
    assert os.listdir(shm_root) == [dead]


def test_a_root_that_is_not_there_is_reported(shm_root):
    done = clean(shm_root + "/absent")
    assert done.everything == (
        1,
        "",
        f"redhawk-shmclean: {shm_root}/absent cannot be read: No such file or directory\n",
    )


def test_a_plain_run_loads_no_slow_module(shm_root):
    code = """
import sys
sys.path.append(sys.argv[1])
from gppshm.cli import shmclean
shmclean.Defaults.root = sys.argv[2]
before = shmclean.main([])
slow = {"typing", "enum", "ctypes", "re", "json", "argparse", "random", "tempfile", "subprocess", "site"}
print(before, sorted(slow & set(sys.modules)))
"""
    package = os.path.dirname(os.path.dirname(os.path.dirname(sys.modules["gppshm.cli.shmclean"].__file__)))
    done = run_command([sys.executable, "-I", "-S", "-c", code, package, shm_root])
    allowed = "0 []\n" if hasattr(os, "memfd_create") else "0 "
    assert done.stdout.startswith(allowed), done


def test_ctrl_c_ends_it_quietly_and_every_removal_was_told(shm_root):
    pid_max = 4194304
    names = [f"heap-{pid_max - number}" for number in range(1, 4001)]
    for number, name in enumerate(names, 1):
        heapwriter.create(os.path.join(shm_root, name), pid_max - number, [(4096, ())])
    process = subprocess.Popen(
        [*CLEAN, "--root", shm_root], stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True
    )
    with process:
        wait_for(lambda: len(os.listdir(shm_root)) < len(names))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    left = set(os.listdir(shm_root))
    assert (process.returncode, err) == (130, "") and left < set(names)
    told = {line.rpartition(" ")[2].rpartition("/")[2] for line in out.splitlines()}
    assert told == set(names) - left
