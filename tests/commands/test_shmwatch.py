"""The command redhawk-shmwatch: its lines, its signals, its faults, its readiness."""

import contextlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time

import pytest

import heapwriter
from places import ROOT
from spawning import needs_root, python_command, run_command, wait_for
from watching import COMMAND, Farm, Shmwatch, gone


def command(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-s", "-c", COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        timeout=30,
        **options,
    )


def orphan(root, pid):
    heapwriter.create(os.path.join(root, f"heap-{pid}"), pid)
    return f"heap-{pid}"


# -- usage -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["--scope=children"],
        ["--parent=1"],
        ["--scope=children", "--parent=0"],
        ["--scope=children", "--parent=-1"],
        ["--scope=children", "--parent=4194305"],
        ["--scope=children", "--parent=4194304"],  # one more than the largest that there can be
        ["--scope=children", "--parent=\u0661"],
        ["--scope=sideways"],
        ["--rescan=0"],
        ["--rescan=-1"],
        ["--rescan=nan"],
        ["--rescan=inf"],
        ["--rescan=86401"],
        ["--rescan=soon"],
        ["--rescan"],
        ["--fifo-root=/tmp"],
        ["--frobnicate"],
        ["heap-1"],
        ["\x1b[31m\n"],
    ],
)
def test_a_usage_error_is_one_line_and_status_2(arguments):
    done = command(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("redhawk-shmwatch: ")
    assert len(done.stderr.splitlines()) == 1
    assert "\x1b" not in done.stderr


def test_help_and_version_go_to_stdout():
    done = command("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for option in ("--root", "--scope", "--parent", "--rescan", "--fifos", "--dry-run", "--json", "--quiet"):
        assert option in done.stdout
    assert "--metrics" in done.stdout and "--metrics-textfile" in done.stdout
    done = command("--version")
    assert done.returncode == 0
    assert re.match(r"redhawk-shmwatch version \d+\.\d+\.\d+\n$", done.stdout)


def test_a_directory_that_cannot_be_watched_is_named(tmp_path):
    for path in (str(tmp_path / "absent"), __file__):
        done = command("--root", path)
        assert (done.returncode, done.stdout) == (1, "")
        assert path in done.stderr
        assert len(done.stderr.splitlines()) == 1


# -- lines -------------------------------------------------------------------------------------------------


def test_a_line_tells_what_happened_and_why(spawn, shm_root):
    owner, attached = spawn.owner(shm_root), spawn.owner(shm_root)
    peer = spawn.peer(shm_root, attached)
    status = os.stat(os.path.join(shm_root, owner.name))
    with Shmwatch(shm_root, json_lines=False) as watching:
        ready = watching.line()
        assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} ready: ", ready)
        assert "2 living heaps, by inotify, pidfds of 2, a rescan every 30 s" in ready
        owner.kill()
        line = watching.line()
        assert re.match(
            rf"[-\d]+ [:.\d]+ removed {owner.name} {status.st_dev}:{status.st_ino} creator {owner.pid}"
            rf" \(.*heapwriter.py own.*\) {status.st_blocks * 512} bytes: no process has it open or mapped"
            r" for writing, .* is gone( \(killed by SIGKILL\))? \[lease\], \d+\.\d\d ms after (close|pidfd)$",
            line,
        )
        attached.kill()
        line = watching.line()
        assert re.search(
            r"others are still attached( \(killed by SIGKILL\))? \[identity\], [\d.]+ ms after \w+;"
            r" \d+ bytes came back at once, 0 later; \d+ \(0 in use\) are held until"
            rf" these exit: {peer.pid} \(.*heapwriter.py attach {attached.name}.*\)$",
            line,
        )


def test_nothing_in_a_name_or_a_command_reaches_the_terminal_raw(spawn, shm_root):
    code = (
        "import heapwriter; h = heapwriter.LiveHeap.create(sys.argv[1], name='\\x1b[2J\\n\\udcff')\n"
        "print('ready', flush=True); sys.stdin.read() # \x1b[31m\u202e"
    )
    for json_lines in (False, True):
        odd = spawn.python(code, shm_root)
        with Shmwatch(shm_root, json_lines=json_lines) as watching:
            if not json_lines:
                watching.line()
            odd.kill()
            if json_lines:
                said = watching.wait("removed")
                assert os.fsencode("\x1b[2J\n\udcff").hex() == said["name_hex"]
                assert said["name"] == "\\x1b[2J\\n\\xff"
                assert "\u202e" in said["command_line"]
                assert len(said["command"]) <= 200
            else:
                line = watching.line()
                assert "removed \\x1b[2J\\n\\xff " in line
                assert line.isprintable()


def test_the_json_objects_have_the_documented_keys(spawn, shm_root):
    with open(os.path.join(ROOT, "docs", "shmwatch-json.md")) as stream:
        happened, _, itself = stream.read().partition("## The watcher itself")
    keys = [set(re.findall(r"`(\w+)`", row.split("|")[1])) for row in happened.splitlines() if "|" in row]
    own_keys = [set(re.findall(r"`(\w+)`", row.split("|")[1])) for row in itself.splitlines() if "|" in row]
    heap_keys, watcher_keys = set().union(*keys), set().union(*own_keys) | {"event"}
    name = orphan(shm_root, spawn.dead_pid())
    with Shmwatch(shm_root) as watching:
        removed = watching.said[0]
        assert set(removed) == heap_keys
        assert (removed["name"], removed["command"], removed["trigger"]) == (name, None, "rescan")
        assert set(watching.ready) == watcher_keys
        assert set(watching.state()) == watcher_keys
        end, _ = watching.end()
        assert set(end) == watcher_keys | {"signal", "seconds"}


def test_quiet_tells_only_of_what_was_not_done(spawn, shm_root):
    orphan(shm_root, spawn.dead_pid())
    unproven = f"heap-{spawn.dead_pid()}"
    heapwriter.create(os.path.join(shm_root, unproven), spawn.dead_pid())
    spawn.peer(shm_root, unproven)
    with Shmwatch(shm_root, "--quiet", "--json", json_lines=False) as watching:
        said = json.loads(watching.line())
        assert (said["event"], said["name"]) == ("unproven", unproven)
        end, _ = watching.end()
        assert (end["event"], end["removed"]) == ("end", 1)
        assert len(watching.said) == 1


def test_fifos_are_removed_where_asked_for(spawn, shm_root, tmp_path):
    name = f"fifo-{spawn.dead_pid()}-0a"
    os.mkfifo(str(tmp_path / name))
    with Shmwatch(shm_root) as watching:
        watching.end()
    assert os.listdir(str(tmp_path)) == [name]
    with Shmwatch(shm_root, "--fifos", f"--fifo-root={tmp_path}") as watching:
        assert watching.said[0]["name"] == name
        assert watching.ready["fifos_removed"] == 1
    assert os.listdir(str(tmp_path)) == []


# -- signals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_at_once_with_a_summary(spawn, shm_root, number):
    orphan(shm_root, spawn.dead_pid())
    with Shmwatch(shm_root) as watching:
        started = time.monotonic()
        end, stderr = watching.end(number)
        assert time.monotonic() - started < 1.0
        assert stderr == ""
        assert (end["event"], end["removed"], end["signal"]) == ("end", 1, signal.Signals(number).name)
        assert end["bytes_removed"] >= 2 * 1024 * 1024


def test_signals_in_a_row_end_it_as_one_does(shm_root):
    with Shmwatch(shm_root) as watching:
        for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):
            os.kill(watching.pid, number)
        end, stderr = watching.end(signal.SIGINT)
        assert (end["event"], stderr) == ("end", "")


def test_signals_that_its_parent_had_blocked_reach_it(shm_root):
    block = (
        "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32));"
        " os.execv(sys.argv[1], sys.argv[1:])"
    )
    with Shmwatch(shm_root, prefix=(sys.executable, "-c", block)) as watching:
        watching.state()
        watching.end()


def test_sigusr1_shows_the_state(spawn, shm_root):
    with Farm(spawn, shm_root, 3) as farm, Shmwatch(shm_root) as watching:
        state = watching.state()
        assert (state["living"], state["pidfds"], state["inotify"], state["troubles"]) == (3, 3, True, [])
        usage = os.statvfs(shm_root)
        assert state["size"] == usage.f_blocks * usage.f_frsize
        farm.kill()
        for _ in farm.names:
            watching.wait("removed")
        assert (watching.state()["living"], watching.state()["removed"]) == (0, 3)


# -- its own faults ----------------------------------------------------------------------------------------


def test_a_closed_stdout_does_not_stop_it(spawn, shm_root):
    with Shmwatch(shm_root) as watching, Farm(spawn, shm_root, 2) as farm:
        watching.process.stdout.close()
        farm.kill()
        gone(shm_root, *farm.names)
        os.kill(watching.pid, signal.SIGTERM)
        assert watching.process.wait(10) == 0
        stderr = watching.process.stderr.read().decode()
        assert stderr.splitlines() == [
            "redhawk-shmwatch: nothing can be written to stdout any more: Broken pipe; it goes on quietly"
        ]


def test_standard_descriptors_that_are_closed_at_the_start_do_no_harm(spawn, shm_root):
    arguments = [sys.executable, "-s", "-c", COMMAND, f"--root={shm_root}"]
    with subprocess.Popen(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *arguments]) as process:
        wait_for(lambda: len(os.listdir(f"/proc/{process.pid}/fd")) > 6)
        names = [orphan(shm_root, spawn.dead_pid())]
        try:
            with Farm(spawn, shm_root, 2) as farm:
                names += farm.names
                farm.kill()
                gone(shm_root, *farm.names)
            targets = {os.readlink(f"/proc/{process.pid}/fd/{fd}") for fd in (0, 1, 2)}
            assert targets == {"/dev/null"}
        finally:
            process.terminate()
        assert process.wait(10) == 0


def test_a_reader_that_stops_does_not_stop_it_and_the_lines_come_later(spawn, shm_root):
    with Farm(spawn, shm_root, 300) as farm, Shmwatch(shm_root) as watching:
        farm.kill()
        gone(shm_root, *farm.names)  # a pipe holds about 100 lines
        assert sorted(watching.wait("removed")["name"] for _ in farm.names) == sorted(farm.names)
        again = Farm(spawn, shm_root, 300)
        again.kill()
        gone(shm_root, *again.names)
        started = time.monotonic()
        os.kill(watching.pid, signal.SIGTERM)
        assert watching.process.wait(10) == 0  # nobody reads now
        assert time.monotonic() - started < 1.0


FAULTY = """
import sys; sys.path[:0] = sys.argv.pop(1).split(":")
from gppshm import reaper, watch
from gppshm.cli import shmwatch
what = sys.argv.pop(1)
real, calls = reaper.Reaper.by_lease, [0]
def by_lease(*arguments, **options):
    calls[0] += 1
    if what == "always" or calls[0] == 2:
        raise RuntimeError("made to \\x1b fail")
    return real(*arguments, **options)
def told(event):
    raise RuntimeError("made to \\x1b fail")
if what == "lines":
    shmwatch.event_object = told
else:
    reaper.Reaper.by_lease = by_lease
sys.exit(shmwatch.main())
"""


class Faulty(Shmwatch):
    """The command, with --json, some of whose functions raise; before its first line."""

    def __init__(self, root, what, *arguments):
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-s",
                "-c",
                FAULTY,
                f"{ROOT}/python",
                what,
                f"--root={root}",
                "--json",
                *arguments,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._rest, self.said, self.pid = b"", [], self.process.pid


def test_an_exception_in_a_step_is_told_once_and_nothing_is_missed(spawn, shm_root):
    with Farm(spawn, shm_root, 3) as farm, Faulty(shm_root, "once", "--rescan=1000") as watching:
        watching.wait("ready")
        farm.kill()
        for _ in farm.names:
            watching.wait("removed", deadline=5.0)
        end, stderr = watching.end()
        assert end["own_faults"] == 1
        assert stderr.splitlines() == [
            "redhawk-shmwatch: internal error: RuntimeError: made to \\x1b fail; it continues, and scans"
            " everything again"
        ]


def test_an_exception_that_comes_every_time_is_told_once_and_does_not_spin(spawn, shm_root):
    with Farm(spawn, shm_root, 3), Faulty(shm_root, "always") as watching:
        watching.wait("ready")
        time.sleep(1.0)  # time to spin in
        end, stderr = watching.end()
        assert 1 <= end["own_faults"] < 20
        assert len(stderr.splitlines()) == 1


def test_an_exception_in_printing_does_not_stop_the_cleaning(spawn, shm_root):
    with Farm(spawn, shm_root, 30) as farm, Faulty(shm_root, "lines") as watching:
        watching.wait("ready")
        farm.kill()
        gone(shm_root, *farm.names)
        end, stderr = watching.end()
        assert (end["removed"], end["own_faults"]) == (30, 30)
        assert len(stderr.splitlines()) == 1


def test_what_happened_is_told_though_no_descriptor_is_left():
    """Nothing of what tells it is imported only then."""
    code = """
import resource
from gppshm import watch
from gppshm.cli import shmwatch
resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
event = watch.Event(watch.REMOVED, "dead", "heap-5")
print(shmwatch.event_object(event)["name"], shmwatch.event_line(event).split()[3])
"""
    done = run_command(python_command(code))
    assert done.stdout == "heap-5 heap-5\n", done.stderr


# -- systemd -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told_when_it_is_ready_and_when_it_ends(shm_root, tmp_path, monkeypatch, abstract):
    address = f"\0gppshm-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(address)
        listener.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", address.replace("\0", "@"))
        with Shmwatch(shm_root) as watching:
            assert listener.recv(100) == b"READY=1"
            watching.end()
            assert listener.recv(100) == b"STOPPING=1"


def test_a_notify_socket_that_is_not_there_does_no_harm(shm_root, monkeypatch):
    for address in ("/absent/socket", "@absent", "nonsense", "/" + "x" * 200):
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        with Shmwatch(shm_root) as watching:
            _, stderr = watching.end()
            assert stderr == ""


# -- output that nobody takes ------------------------------------------------------------------------------


def test_a_terminal_that_is_not_read_stops_no_cleaning_and_no_end(spawn, shm_root):
    """As of a frozen ssh: what polls writable may block all the same."""
    master, terminal = os.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-s", "-c", COMMAND, f"--root={shm_root}"], stdin=terminal, stdout=terminal
        )
        try:
            wait_for(lambda: select.select([master], [], [], 0)[0])
            for _ in range(3):
                with Farm(spawn, shm_root, 40) as farm:
                    wait_for(lambda: len(watched_by(process.pid)) >= 40)
                    farm.kill()
                    gone(shm_root, *farm.names)
            started = time.monotonic()
            process.terminate()
            assert process.wait(10) == 0
            assert time.monotonic() - started < 2.0
        finally:
            process.kill()
            process.wait()
    finally:
        os.close(master)
        os.close(terminal)


def watched_by(pid):
    """The processes that a process has a pidfd of, and that live."""
    found = []
    for name in os.listdir(f"/proc/{pid}/fdinfo"):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/fdinfo/{name}") as stream:
            found += [int(line.split()[1]) for line in stream if line.startswith("Pid:")]
    return [each for each in found if each > 0]


@needs_root
def test_a_log_on_a_full_disk_is_written_on_when_there_is_room_again(spawn, private_tmpfs):
    code = """
import json, subprocess, time
sys.path += sys.argv[2:]
import heapwriter
from spawning import Spawn, wait_for
from watching import COMMAND, Farm, gone
root, spawn = sys.argv[1], Spawn()
heaps, disk = root + "/heaps", root + "/disk"
os.mkdir(heaps)
os.mkdir(disk)
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "none", disk], check=True)
log = disk + "/log"
with open(log, "wb") as stream:
    process = subprocess.Popen([sys.executable, "-s", "-c", COMMAND, "--json", "--root=" + heaps],
                               stdout=stream, stderr=subprocess.PIPE)
said = lambda: [json.loads(line)["event"] for line in open(log).read().split("\\n")[:-1]]
try:
    wait_for(lambda: "ready" in said())
    with open(disk + "/full", "wb") as stream:
        stream.write(bytes(4096))
    with Farm(spawn, heaps, 20) as farm:
        farm.kill()
        gone(heaps, *farm.names)
        assert "nothing can be written to stdout now" in process.stderr.readline().decode()
    subprocess.run(["mount", "-o", "remount,size=1m", disk], check=True)
    wait_for(lambda: said().count("removed") == 20)
finally:
    process.terminate()
    process.wait()
"""
    done = private_tmpfs(code, *sys.path)
    assert done.returncode == 0, done.stdout + done.stderr
