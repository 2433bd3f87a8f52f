"""The plugin's life inside a GPP: what it inherits, what it cleans, and how it ends. Over real CORBA."""

# ruff: noqa: F811 (pytest finds fixtures by name: they are imported, and are arguments)

import os
import select
import signal
import subprocess
import sys
import time

import pytest

from places import HEAPWRITER
from plugins import (  # noqa: F401
    METRICS,
    NAME,
    children,
    client,
    installed,
    node,
    sdr,
    seconds_until,
    start,
    watches,
)
from spawning import lives, stays, wait_for

pytestmark = pytest.mark.corba

# A component that starts another process with a heap, and says nothing about it.
PARENT = """\
import subprocess, sys, time
subprocess.Popen(sys.argv[1:])
time.sleep(1000)
"""


def arguments_of(pid):
    with open(f"/proc/{pid}/cmdline", "rb") as stream:
        return stream.read().decode().split("\0")[-3:-1]


def status_of(pid):
    with open(f"/proc/{pid}/status") as stream:
        return dict(line.rstrip("\n").split(":\t", 1) for line in stream)


# What it inherits


def test_nothing_inherited_stays(node):
    status = status_of(node.pid)
    assert int(status["SigBlk"], 16) == 0
    handled = int(status["SigCgt"], 16)
    assert handled & 1 << signal.SIGTERM - 1
    assert handled & 1 << signal.SIGQUIT - 1
    assert int(status["SigIgn"], 16) & 1 << signal.SIGINT - 1
    folder = f"/proc/{node.pid}/fd"
    targets = {fd: os.readlink(f"{folder}/{fd}") for fd in os.listdir(folder)}
    assert "anon_inode:[signalfd]" not in targets.values()
    for fd in targets:
        with open(f"/proc/{node.pid}/fdinfo/{fd}") as stream:
            flags = int(next(line for line in stream if line.startswith("flags")).split()[1], 8)
        assert int(fd) < 3 or flags & os.O_CLOEXEC, targets[fd]
    assert os.readlink(f"/proc/{node.pid}/cwd") == "/"


def test_it_starts_where_its_working_directory_is_gone(sdr, tmp_path, shm_root):
    folder = tmp_path / "gone"
    folder.mkdir()
    done = subprocess.run(
        ["sh", "-c", 'rmdir "$PWD"; exec "$0" IOR:00 DCE:1', sdr.program],
        cwd=str(folder),
        stderr=subprocess.PIPE,
        universal_newlines=True,
        timeout=20,
    )
    assert done.returncode == 1
    # Where the path has blanks the launcher is a shell's, which has its own word on the folder first.
    assert done.stderr.splitlines()[-1].startswith("GppShmPlugin: the IOR is not that of a GPP's port")


def test_a_log_that_nobody_reads_holds_up_no_cleaning(sdr, tmp_path, shm_root):
    reader, writer = os.pipe()
    try:
        sdr.settings(log_level="DEBUG")
        with client.Gpp(sdr.path, tmp_path / "cache", shm_root=shm_root, stdout=writer, stderr=writer) as gpp:
            wait_for(lambda: len(gpp.metric_status()) == len(METRICS))
            os.set_blocking(writer, False)
            try:
                while True:
                    os.write(writer, b"x" * 4096)
            except BlockingIOError:
                os.set_blocking(writer, True)
            for _ in range(3):
                pid = gpp.execute([sys.executable, "-I", HEAPWRITER, "own", f"--root={shm_root}"])
                path = os.path.join(shm_root, f"heap-{pid}")
                # Its own word that it is ready does not get through either.
                wait_for(lambda: watches(gpp.plugin(NAME)["pid"], pid))  # noqa: B023
                os.kill(pid, signal.SIGKILL)
                assert seconds_until(lambda: not os.path.exists(path)) < 0.5  # noqa: B023
    finally:
        os.close(reader)
        os.close(writer)


# How it is started


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ([], 2, "started by REDHAWK's GPP as"),
        (["IOR:00"], 2, "started by REDHAWK's GPP as"),
        (["a", "b", "c"], 2, "started by REDHAWK's GPP as"),
        (["nonsense", "DCE:1"], 2, "is no reference"),
        (["", "DCE:1"], 2, "is no reference"),
        (["IOR:", "DCE:1"], 1, "the IOR is not that of a GPP's port"),
        (["IOR:00zz", "DCE:1"], 1, "the IOR is not that of a GPP's port"),
        (["IOR:0\udcff", "DCE:\udcff\n"], 1, "the IOR is not that of a GPP's port"),
        (["corbaloc::127.0.0.1:1/GPP", "DCE:1"], 1, "the GPP cannot be reached"),
    ],
)
def test_a_bad_start_is_one_line_and_an_honest_status(sdr, arguments, status, words):
    done = subprocess.run(
        [sdr.program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=30
    )
    assert done.returncode == status
    assert done.stderr.startswith(b"GppShmPlugin: ")
    assert done.stderr.count(b"\n") == 1
    assert words in done.stderr.decode("ascii")
    assert b"Traceback" not in done.stdout


def test_a_reference_to_something_else_is_refused(node):
    other = client.orb().object_to_string(node.gpp.ref)
    done = subprocess.run([node.sdr.program, other, "DCE:1"], stderr=subprocess.PIPE, timeout=30)
    assert done.returncode == 1
    assert b"is not that of an event channel" in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_there_are_never_two_for_one_gpp(node):
    done = subprocess.run([node.sdr.program, *arguments_of(node.pid)], stderr=subprocess.PIPE, timeout=30)
    assert done.returncode == 1
    assert f"process {node.pid} is the plugin".encode() in done.stderr
    assert len(node.gpp.messages("plugin::registration")) == 1


# What it cleans


def test_a_crashed_child_of_the_gpp_leaves_nothing(node):
    pid = node.component()
    os.kill(pid, signal.SIGKILL)
    assert seconds_until(lambda: not node.has_heap(pid)) < 0.5
    wait_for(lambda: node.recorded("shm_removed") == "1")
    assert f"removed: heap-{pid} (2.0 MB" in node.output()


def test_memory_of_a_crashed_child_comes_back_under_its_peer_and_the_gpp_is_told(node, spawn):
    pid = node.component("--holders=1", "--superblocks=8", "--used=1048576", "--block=131072")
    peer = spawn.peer(node.shm_root, f"heap-{pid}", "--hold")
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: node.recorded("shm_reclaimed") != "0.0 MB", 15)
    assert node.recorded("shm_reclaimed") == "14.9 MB"
    reason = node.gpp.metric("shm_reclaimed")["metric_reason"]
    assert "14.9 MB of removed heaps came back at once" in reason
    assert f"1.0 MB of heap-{pid} by process {peer.pid} (" in reason
    assert "14.9 MB came back at once" in node.output()
    peer.send("8")
    assert peer.read_line() == "holds 0"
    wait_for(lambda: f"given back: heap-{pid}" in node.output())
    wait_for(lambda: node.recorded("shm_reclaimed") in ("15.8 MB", "15.9 MB"), 15)


def test_the_plugin_gives_nothing_back_if_it_is_told_not_to(start, sdr, spawn):
    sdr.settings(reclaim="no")
    node = start()
    pid = node.component("--holders=1", "--superblocks=8")
    spawn.peer(node.shm_root, f"heap-{pid}", "--hold")
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: node.recorded("shm_removed") == "1")
    wait_for(lambda: "its memory stays until these exit" in node.output())
    assert node.recorded("shm_reclaimed") == "0.0 MB"


def test_a_crashed_grandchild_leaves_nothing(node, tmp_path):
    command = [sys.executable, "-I", HEAPWRITER, "own", f"--root={node.shm_root}", "--for-ever"]
    node.gpp.execute([sys.executable, "-I", "-c", PARENT, *command])
    (name,) = wait_for(lambda: os.listdir(node.shm_root))
    pid = node.heap(int(name[5:]))
    os.kill(pid, signal.SIGKILL)
    assert seconds_until(lambda: not node.has_heap(pid)) < 0.5


def test_a_crashed_device_or_sandbox_process_leaves_nothing(node, spawn):
    owner = spawn.owner(node.shm_root)
    node.heap(owner.pid)
    owner.kill()
    assert seconds_until(lambda: not node.has_heap(owner.pid)) < 0.5


def test_a_child_that_the_gpp_forgot_leaves_nothing(node):
    pid = node.component()
    os.kill(pid, signal.SIGSTOP)
    node.gpp.terminate(pid, (0.05, 0.05, 0.0))
    wait_for(lambda: not node.has_heap(pid))


def test_with_scope_children_only_heaps_of_the_gpps_processes_are_removed(sdr, start, spawn):
    sdr.settings(scope="children")
    node = start()
    owner = spawn.owner(node.shm_root)
    pid = node.component()
    owner.kill()
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not node.has_heap(pid))
    stays(lambda: node.has_heap(owner.pid), 0.3)


def test_a_dry_run_removes_nothing_and_tells_the_orphans(sdr, start, spawn):
    sdr.settings(dry_run="yes")
    node = start()
    owner = spawn.owner(node.shm_root)
    node.heap(owner.pid)
    owner.kill()
    wait_for(lambda: node.recorded("shm_orphaned") == "2.0 MB")
    assert node.has_heap(owner.pid)
    assert f"heap-{owner.pid} (2.0 MB)" in node.gpp.metric("shm_orphaned")["metric_reason"]


@pytest.mark.parametrize("bad", [{"scope": "childs"}, {"dry_run": "yse"}, {"dryrun": "yes"}])
def test_a_setting_that_cannot_be_heeded_leads_to_no_cleaning_at_all_and_it_is_told(sdr, start, spawn, bad):
    sdr.settings(rescan=1, **bad)
    node = start()
    (name,) = bad
    owner = spawn.owner(node.shm_root)
    node.heap(owner.pid)
    owner.kill()
    said = "NOTHING IS CLEANED"
    wait_for(lambda: node.recorded("shm_orphaned") == "2.0 MB")
    assert node.has_heap(owner.pid)
    reason = node.gpp.metric("shm_removed")["metric_reason"]
    assert reason.startswith(said) and name in reason
    told = [line for line in node.output().splitlines() if said in line]
    assert [line.startswith("GppShmPlugin: ") for line in sorted(told)] == [False, True]  # log, and stderr
    assert all(name in line and "until the file is corrected" in line for line in told)


def test_a_hundred_children_killed_at_once_leave_nothing(node):
    pids = [
        node.gpp.execute(
            [sys.executable, "-I", HEAPWRITER, "own", f"--root={node.shm_root}", "--for-ever", "--size=65536"]
        )
        for _ in range(100)
    ]
    for pid in pids:
        node.heap(pid)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert seconds_until(lambda: not os.listdir(node.shm_root)) < 2
    wait_for(lambda: node.recorded("shm_removed") == "100")


def test_names_and_command_lines_that_are_not_ascii_lose_no_message(node, spawn):
    owner = spawn.owner(node.shm_root)
    peer = spawn.python(
        "import heapwriter; heap = heapwriter.LiveHeap.attach(sys.argv[2], sys.argv[1]);"
        "print('ready', flush=True); sys.stdin.read()",
        node.shm_root,
        owner.name,
        "Größe\n\x1b[31m漢\udcff",
    )
    node.heap(owner.pid)
    owner.kill()
    reason = wait_for(lambda: f"process {peer.pid} (" in held(node) and held(node))
    assert reason.encode("ascii").decode().isprintable()
    assert [message.dropped for message in node.gpp.messages() if message.dropped] == []


def held(node):
    return node.gpp.metric("shm_held")["metric_reason"]


# GPPs that hang, die or are released


def test_a_gpp_that_hangs_delays_no_unlink_and_is_told_all_later(node, spawn):
    owners = [spawn.owner(node.shm_root) for _ in range(4)]
    for owner in owners:
        node.heap(owner.pid)
    node.gpp.stop()
    for owner in owners:
        owner.kill()
        assert seconds_until(lambda: not node.has_heap(owner.pid)) < 0.25  # noqa: B023
        time.sleep(0.8)  # each comes while another call to the GPP hangs
    wait_for(lambda: "cleaning goes on, metrics wait" in node.output())
    node.gpp.resume()
    wait_for(lambda: node.recorded("shm_removed") == "4", 15)
    wait_for(lambda: "the GPP answers again" in node.output())
    assert len(node.gpp.messages("plugin::registration")) == 1


def test_sigterm_ends_it_at_once_while_the_gpp_hangs(node):
    pid = node.pid
    node.gpp.stop()
    time.sleep(0.7)  # a call to the GPP hangs
    os.kill(pid, signal.SIGTERM)
    assert seconds_until(lambda: not lives(pid)) < 0.3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_a_signal_ends_it_within_300_ms_after_a_last_sweep(node, spawn, number):
    pid, owner = node.pid, spawn.owner(node.shm_root)
    node.heap(owner.pid)
    os.kill(owner.pid, signal.SIGKILL)
    os.kill(pid, number)
    assert seconds_until(lambda: not lives(pid)) < 0.3
    assert not node.has_heap(owner.pid)
    assert f"ended by {number.name}" in node.output()


@pytest.mark.parametrize("end", ["kill", "release"])
def test_when_the_gpp_is_gone_it_stays_for_its_children_and_ends(node, end):
    plugin, child = node.pid, node.component()
    getattr(node.gpp, end)()
    wait_for(lambda: "is gone; staying" in node.output())
    stays(lambda: lives(plugin) and node.has_heap(child), 1.5)
    os.kill(child, signal.SIGKILL)
    assert seconds_until(lambda: not node.has_heap(child)) < 0.5
    wait_for(lambda: not lives(plugin), 3)
    assert "ending without the GPP: no heap of its processes is left" in node.output()


def test_when_the_gpp_is_gone_it_does_not_stay_for_other_processes(node, spawn):
    plugin = node.pid
    spawn.owner(node.shm_root)
    node.gpp.kill()
    assert seconds_until(lambda: not lives(plugin)) < 3


def test_it_stays_no_longer_than_it_is_set_to(sdr, start):
    sdr.settings(settle=2)
    node = start()
    plugin, child = node.pid, node.component()
    node.gpp.kill()
    assert 1.5 < seconds_until(lambda: not lives(plugin)) < 3
    assert node.has_heap(child)
    assert f"the creators of these still live: heap-{child}" in node.output()


def test_a_gpp_killed_with_all_its_children_leaves_nothing(node):
    plugin, children = node.pid, [node.component() for _ in range(3)]
    for pid in [node.gpp.pid] + children:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: os.listdir(node.shm_root) == [])
    wait_for(lambda: not lives(plugin), 4)


def test_at_a_nodes_shutdown_it_ends_before_it_would_be_killed(node):
    plugin, child = node.pid, node.component()
    ended = []
    watched = os.pidfd_open(plugin) if hasattr(os, "pidfd_open") else None
    if watched is None:
        pytest.skip("needs pidfd_open: Python 3.9")
    import threading

    def look():
        select.select([watched], [], [], 10)
        ended.append(time.monotonic())

    looking = threading.Thread(target=look)
    looking.start()
    os.kill(child, signal.SIGKILL)
    _, terminated, _ = node.gpp.shut_node_down()
    looking.join()
    os.close(watched)
    assert terminated < ended[0] < terminated + 0.3
    assert not node.has_heap(child)
    assert "ended by SIGTERM" in node.output()


def test_a_killed_plugin_is_replaced_by_one_that_catches_up(node, spawn, tmp_path):
    pid, arguments = node.pid, arguments_of(node.pid)
    family = [pid, *children(pid)]
    owner = spawn.owner(node.shm_root)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not any(map(lives, family)))
    wait_for(lambda: not node.gpp.plugin(NAME)["alive"])
    owner.kill()
    assert node.has_heap(owner.pid)
    with open(str(tmp_path / "second"), "wb") as stream:
        second = subprocess.Popen([node.sdr.program, *arguments], stdout=stream, stderr=stream)
    try:
        wait_for(lambda: not node.has_heap(owner.pid))
        wait_for(lambda: node.recorded("shm_removed") == "1")
        second.terminate()
        assert second.wait(1) == 0
    finally:
        second.kill()
        second.wait()


# What it costs


def test_it_is_small_and_sleeps(node):
    assert int(status_of(node.pid)["VmRSS"].split()[0]) < 45 * 1024
    node.gpp.set_threshold(node.plugin_id, "shm_free", "1 MB")
    time.sleep(3)  # the threshold has been applied and reported
    # On a busy machine one message may take several turns; it does not each time.
    assert any(wakeups_in(node.pid, 20) < 0.5 * 20 for _ in range(3))


def wakeups_in(pid, seconds):
    before = wakeups(pid)
    time.sleep(seconds)
    return wakeups(pid) - before


def wakeups(pid):
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/status") as stream:
            total += sum(int(line.split()[1]) for line in stream if line.startswith("voluntary_ctxt"))
    return total


def test_busy_and_back_as_memory_is_taken_and_given_back(sdr, start, tmp_path):
    """On a small tmpfs of its own."""
    if os.geteuid() != 0:
        pytest.skip("needs root: to mount a tmpfs")
    folder = tmp_path / "shm"
    folder.mkdir()
    subprocess.check_call(["mount", "-t", "tmpfs", "-o", "size=32m,mode=1777", "none", str(folder)])
    try:
        sdr.settings(root=str(folder), shm_free="10 MB")
        node = start()
        assert node.recorded("shm_free") == "32.0 MB"
        with open(str(folder / "file"), "wb") as stream:
            os.posix_fallocate(stream.fileno(), 0, 25 << 20)
            wait_for(lambda: node.gpp.usage_state == "BUSY")
            assert "Actual: 7.0 MB" in node.gpp.busy_reason
            os.ftruncate(stream.fileno(), 22 << 20)
            os.posix_fallocate(stream.fileno(), 0, 4096)
            wait_for(lambda: node.recorded("shm_free") == "10.0 MB")
            assert node.gpp.usage_state == "BUSY"
        os.unlink(str(folder / "file"))
        wait_for(lambda: node.gpp.usage_state != "BUSY")
        node.gpp.close()
    finally:
        subprocess.check_call(["umount", "-l", str(folder)])
