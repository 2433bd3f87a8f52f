"""What a stranger on the same host may do, and plain bad luck: cleaning goes on, and no live heap is lost."""

import errno
import mmap
import os
import random
import signal
import statistics
import subprocess
import sys
import time

import pytest

import heapwriter
from gppshm import lease, procfs, shmfs, sparing, triggers, watch
from gppshm.redhawk import lifeline
from pids import fork_as
from spawning import needs_root, stays, wait_for
from watching import PIDFD_OPEN, ByHand, Farm, Shmwatch, Watching, failing, gone

pytestmark = needs_root


def crash_delays(spawn, root, count=10):
    """Seconds from the kill of a small process to the end of its heap, with a watcher at work there."""
    with Farm(spawn, root, count) as farm:
        time.sleep(0.5)  # the watcher gets to know them, or not: neither may matter
        delays = []
        for pid, name in zip(farm.pids, farm.names):
            started = time.monotonic()
            farm.kill([pid])
            gone(root, name)
            delays.append(time.monotonic() - started)
        return delays


# -- the last window --------------------------------------------------------------------------------------


@pytest.mark.parametrize("peers", [False, True])
def test_a_new_process_with_the_dead_ones_pid_keeps_its_heaps_name(shm_root, peers):
    """It opens the name just between the last look and the unlink: then it gets the name back.

    A forked child plays all of these processes.  Without peers a lease proves a death; with one, that nobody
    was alive when the file was inspected, and that nobody has changed it since.  A window remains with peers:
    a process has found the file by its name, waits in open() for a processor, and truncates the file after
    the last check.  That was seen once in some 40,000 unlinks.
    """
    name = "heap-%d" % procfs.PID_MAX
    path = os.path.join(shm_root, name)
    shared = mmap.mmap(-1, mmap.PAGESIZE)
    ALIVE, STOP, LOST = 0, 1, 2

    def create():
        """Again and again, as REDHAWK creates: O_TRUNC on what may be there."""
        while not shared[STOP]:
            shared[ALIVE] = 1
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
            try:
                os.posix_fallocate(fd, 0, 8192)
                os.pwrite(fd, b"\xcc\x70\xeb\xac\1\0\0\0\1\0\0\0\0\0\x40\0", 0)
                for _ in range(200):  # a moment without it is no loss
                    time.sleep(0.0001)
                    try:
                        if os.stat(path).st_ino == os.fstat(fd).st_ino:
                            break
                    except FileNotFoundError:
                        pass
                else:
                    shared[LOST] = min(shared[LOST] + 1, 255)
            finally:
                os.close(fd)  # it dies, and leaves its heap
            shared[ALIVE] = 0
            time.sleep(random.uniform(0.0001, 0.0006))

    def unlink():
        """By the rules; whether it was unlinked."""
        if peers:
            with directory.open(name) as file:
                if file.fd is not None:
                    watched.attend(name, file.fd, 0)
        watched.changes()
        with directory.open(name) as file:
            seen = file.sighting
            if peers and not attached.get(seen.file_id):
                for before in attached.values():
                    before.close()
                attached.clear()
                attached[seen.file_id] = open(path, "r+b")  # noqa: SIM115
                return False
            if seen.kind is not shmfs.HEAP or (shared[ALIVE] if peers else seen.answer is not lease.GRANTED):
                return False
        with directory.open(name) as file:
            changed = (
                (lambda: "changed" if watched.changes(name) or not watched.attends(name) else "")
                if peers
                else (lambda: "")
            )
            directory.unlink(file, seen, changed)
        return True

    attached = {}
    removed = given_back = 0
    pid = os.fork()
    if not pid:
        try:
            create()
        finally:
            os._exit(0)
    with shmfs.ShmDirectory(shm_root) as directory:
        directory.leases = not peers  # nor is one granted beside a peer
        watched = triggers.Triggers()
        watched.add_inotify(shm_root)
        try:
            end = time.monotonic() + 8
            while time.monotonic() < end:
                try:
                    removed += unlink()
                except shmfs.Changed:
                    given_back += 1
                except FileNotFoundError:
                    pass
        finally:
            shared[STOP] = 1
            os.waitpid(pid, 0)
            watched.close()
            for each in attached.values():
                each.close()
    print(f"{removed} unlinked, {given_back} given back, {shared[LOST]} lost")
    assert removed > 100
    assert shared[LOST] <= (max(removed, 10_000) // 10_000 if peers else 0)
    with Watching(shm_root):  # what could not be given back, as a new file had the name, is nobody's now
        wait_for(lambda: [each for each in os.listdir(shm_root) if each != name] == [])


def test_what_a_killed_cleaner_left_half_done_is_settled_at_the_next_start(spawn, shm_root):
    dead, living = spawn.owner(shm_root), spawn.owner(shm_root)
    dead.kill()
    for heap in (dead, living):
        os.rename(
            os.path.join(shm_root, heap.name), os.path.join(shm_root, shmfs.DYING + "0badcafe-" + heap.name)
        )
    with Watching(shm_root, rescan=1000) as watched:
        watched.reported(watch.REMOVED, dead)
        watched.knows(living)
    assert os.listdir(shm_root) == [living.name]


# -- files that only look like work -----------------------------------------------------------------------

CLUTTER = {
    "no possible pid": lambda root, i: open(f"{root}/heap-{procfs.PID_MAX + 1 + i}", "wb").close(),
    "no process": lambda root, i: open(f"{root}/heap-{1000000 + i}", "wb").close(),
    "header and name disagree": lambda root, i: heapwriter.create(
        f"{root}/heap-{1000000 + i}", 2000000 + i, [(4096, ())]
    ),
    "half made, held": lambda root, i: open(f"{root}/heap-{1000000 + i}", "wb").close(),
    "heaps of the dead, held": lambda root, i: heapwriter.create(
        f"{root}/heap-{1000000 + i}", 1000000 + i, [(4096, ())]
    ),
}
HELD = ("header and name disagree", "half made, held", "heaps of the dead, held")
STRANGER = 4321


@pytest.mark.parametrize("kind", sorted(CLUTTER))
def test_thousands_of_files_that_look_like_work_keep_nobody_waiting(spawn, shm_root, kind):
    """Another user's; of some that are held no lease tells. bench/hostile.py has 20,000 of each kind."""
    holders = []
    for i in range(5000 if kind == "no possible pid" else 1500):
        CLUTTER[kind](shm_root, i)
        if kind in HELD and i < 300:
            holders.append(open(f"{shm_root}/heap-{1000000 + i}", "r+b"))  # noqa: SIM115
    for name in os.listdir(shm_root):
        os.chown(f"{shm_root}/{name}", STRANGER, STRANGER)
    try:
        started = time.monotonic()
        with Shmwatch(shm_root, "--rescan=1000") as command:
            assert time.monotonic() - started < 5.0
            delays = crash_delays(spawn, shm_root)
            assert statistics.median(delays) < 0.02
            owner = spawn.owner(shm_root)
            spawn.peer(shm_root, owner)
            time.sleep(0.5)  # long enough to identify the creator, were there no such files
            owner.kill()
            started = time.monotonic()
            gone(shm_root, owner)
            assert time.monotonic() - started < 0.5
            wait_for(lambda: share_of_a_core(command.pid) < 0.1, 60)
    finally:
        for holder in holders:
            holder.close()


CHURN = """
import threading
os.setgid(4321); os.setuid(4321)
def churn():
    i = 0
    while True:
        i += 1
        name = "%s/heap-%d" % (sys.argv[1], 5000000 + i % 50000)
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT))
        os.unlink(name)
threading.Thread(target=churn, daemon=True).start()
print("ready", flush=True)
sys.stdin.read()
"""


def test_files_that_come_and_go_without_end_keep_nobody_waiting(spawn, shm_root):
    os.chmod(shm_root, 0o1777)
    churn = spawn.python(CHURN, shm_root)
    with Shmwatch(shm_root, "--rescan=1000") as command:
        with Farm(spawn, shm_root, 8) as farm:
            peers = [spawn.peer(shm_root, name) for name in farm.names[::2]]
            wait_for(lambda: command.state()["living"] == 8)
            for pid, name in zip(farm.pids, farm.names):
                farm.kill([pid])
                started = time.monotonic()
                gone(shm_root, name)
                assert time.monotonic() - started < 0.5
        for process in (churn, *peers):
            process.kill()
        wait_for(lambda: share_of_a_core(command.pid) < 0.1, 30)


HEAPS = r"""
i = 0
while True:
    i += 1
    name = "%%s/heap-%%d" %% (sys.argv[1], 2000000 + i %% 50000)
    try:
        fd = os.open(name, os.O_RDWR | os.O_CREAT)
        os.ftruncate(fd, 8192)
        os.pwrite(fd, b"\xcc\x70\xeb\xac\1\0\0\0" + (2000000 + i %% 50000).to_bytes(4, "little"), 0)
        os.close(fd)
        os.unlink("%%s/heap-%%d" %% (sys.argv[1], 2000000 + (i - %d) %% 50000))
    except FileNotFoundError:
        pass  # a cleaner was faster
"""
WRITES = r"""
import heapwriter
path = heapwriter.LiveHeap.create(sys.argv[1]).path
fds = [os.open(name, os.O_RDWR | os.O_CREAT) for name in (path, sys.argv[1] + "/a", sys.argv[1] + "/b")]
while True:
    for fd in fds:
        os.pwrite(fd, b"\0", 4097)
"""
ENDLESS = {
    "empty files": CHURN.partition("threading\n")[2].partition("threading")[0] + "churn()",
    "heaps": HEAPS % 0,
    "heaps, 2000 at a time": HEAPS % 2000,
    "writes": WRITES,
}


@pytest.mark.parametrize("pidfds", [True, False], ids=["pidfds", "no pidfds"])
@pytest.mark.parametrize("kind", sorted(ENDLESS))
def test_who_does_something_without_end_costs_little_and_delays_neither_deaths_nor_births(
    spawn, shm_root, kind, pidfds
):
    os.chmod(shm_root, 0o1777)
    code = "os.setgid(4321); os.setuid(4321)\nprint('ready', flush=True)\n" + ENDLESS[kind]
    without = [] if pidfds else failing(PIDFD_OPEN, errno.ENOSYS)
    with Shmwatch(shm_root, "--rescan=1000", without=without) as command:
        before = [spawn.owner(shm_root) for _ in range(6)]
        peers = [spawn.peer(shm_root, owner) for owner in before[::2]]
        wait_for(lambda: command.state()["living"] >= 6)
        stranger = spawn.python(code, shm_root)
        time.sleep(1.0)
        started, used = time.monotonic(), processor_seconds(command.pid)
        born = spawn.owner(shm_root)
        known = time.monotonic()
        wait_for(lambda: command.state()["living"] >= 7, 5.0)
        assert time.monotonic() - known < 3.0
        delays, evidence = [], set()
        for owner in before:
            owner.kill()
            killed = time.monotonic()
            gone(shm_root, owner)
            delays.append(time.monotonic() - killed)
            evidence.add(command.wait("removed", owner)["evidence"])
        assert statistics.median(delays) < 0.05
        assert evidence == {"lease", "identity"}
        wait_for(lambda: time.monotonic() - started > 4.0)
        assert (processor_seconds(command.pid) - used) / (time.monotonic() - started) < 0.25
        born.kill()
        gone(shm_root, born)
        stranger.kill()
    for peer in peers:
        peer.kill()


def test_a_user_whose_budget_is_spent_keeps_no_other_waiting(spawn, shm_root):
    with ByHand(shm_root) as by_hand:
        by_hand.steps(0.1)
        by_hand.watcher._waiting.budgets.spend(STRANGER, time.monotonic(), 1000.0)
        theirs = os.path.join(shm_root, "heap-1000001")
        heapwriter.create(theirs, 1000001, [(4096, ())])
        os.chown(theirs, STRANGER, STRANGER)
        mine = os.path.join(shm_root, "heap-1000002")
        heapwriter.create(mine, 1000002, [(4096, ())])
        by_hand.until(lambda: not os.path.exists(mine))
        by_hand.steps(0.2)
        assert os.path.exists(theirs)
        by_hand.watcher.sweep(last=True)  # the last one leaves out nothing
        assert not os.path.exists(theirs)


def test_during_a_flood_the_directory_is_listed_and_after_it_everything_is_scanned(spawn, shm_root):
    with ByHand(shm_root) as by_hand:
        watcher = by_hand.watcher
        by_hand.steps(0.1)
        watcher._useless.spend(time.monotonic(), 0.1 + 0.01)  # one second's worth more than there is
        open(f"{shm_root}/no-heap", "wb").close()
        by_hand.until(lambda: watcher._flooded)
        owner, other = spawn.owner(shm_root), spawn.owner(shm_root)
        by_hand.until(lambda: {owner.name, other.name} <= set(watcher.living()))
        os.unlink(os.path.join(shm_root, other.name))
        owner.kill()
        by_hand.reported(watch.REMOVED, owner)
        by_hand.until(lambda: watcher._known[other.name].vanished)
        assert watcher._flooded
        rescans = watcher.counts.rescans
        by_hand.until(lambda: not watcher._flooded)
        assert watcher.counts.rescans == rescans  # all events were still there
        by_hand.steps(0.1)
        late = spawn.owner(shm_root)
        by_hand.until(lambda: late.name in watcher.living())


def test_after_a_flood_in_a_slow_moment_events_are_heard_again(shm_root, monkeypatch):
    """Those that come thick gather for some milliseconds; a step may take longer than these."""
    monkeypatch.setattr(watch, "PAUSE", 1e-6)
    with ByHand(shm_root) as by_hand:
        by_hand.steps(0.1)
        by_hand.watcher._last_vain = time.monotonic() + 1000
        open(f"{shm_root}/no-heap", "wb").close()
        by_hand.watcher.step(0.5)
        assert by_hand.watcher._time_left(None) < 0.1


def test_what_thousands_of_strange_files_lead_to_does_not_flood_the_log_and_drowns_nobody_else(shm_root):
    for i in range(3000):
        name = f"{shm_root}/heap-{procfs.PID_MAX + 1 + i}"
        open(name, "wb").close()
        os.chown(name, 4321, 4321)
    mine = f"{shm_root}/heap-{procfs.PID_MAX + 4000}"
    open(mine, "wb").close()
    with Shmwatch(shm_root, "--rescan=1000") as command:
        wait_for(lambda: command.state()["lines_left_out"] == 3000 - sparing.MOST, 30)
        told = [said["name"] for said in command.said if said["event"] == "unproven"]
        assert len(told) == sparing.MOST + 1 and os.path.basename(mine) in told
        (note,) = [said["reason"] for said in command.said if said["event"] == "trouble"]
        assert note.startswith("unproven, user 4321: further ones are only counted")


def share_of_a_core(pid, seconds=2):
    before = processor_seconds(pid)
    time.sleep(seconds)
    return (processor_seconds(pid) - before) / seconds


def processor_seconds(pid):
    """Of a process and all its children, those that have ended too."""
    total = 0.0
    pids = [pid]
    while pids:
        each = pids.pop()
        try:
            with open(f"/proc/{each}/stat") as stream:
                fields = stream.read().rpartition(")")[2].split()
            with open(f"/proc/{each}/task/{each}/children") as stream:
                pids += [int(word) for word in stream.read().split()]
        except FileNotFoundError:
            continue
        total += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return total


# -- processes of any shape -------------------------------------------------------------------------------


def test_a_command_line_of_megabytes_delays_nothing_and_is_told_in_short(spawn, shm_root):
    """exec() takes 2 MB of arguments by default; each in 128 KB at most."""
    code = (
        "import heapwriter; h = heapwriter.LiveHeap.create(sys.argv[1]); print('ready', h.name, flush=True)\n"
        "sys.stdin.read()"
    )
    large = spawn.python(code, shm_root, *["\x1b\x01" * 60000 for _ in range(10)])
    with Shmwatch(shm_root, "--rescan=1000") as command:
        large.kill()
        started = time.monotonic()
        gone(shm_root, large)
        assert time.monotonic() - started < 0.2
        said = command.wait("removed", large)
        assert len(said["command"]) <= 200 * 6
        assert len(said["command_line"]) <= 16384 * 6


def test_a_descriptor_in_a_sockets_queue_keeps_no_orphan_of_a_creator_that_was_known(spawn, shm_root):
    import socket
    import struct

    ours, theirs = socket.socketpair()
    owner = spawn.owner(shm_root)
    with Watching(shm_root, rescan=1000) as watched, ours, theirs:
        watched.identified(owner)
        with open(os.path.join(shm_root, owner.name), "r+b") as heap:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", heap.fileno()))]
            ours.sendmsg([b"x"], rights)
        owner.kill()
        assert watched.reported(watch.REMOVED, owner).attached == []


def test_the_kernel_refusing_a_watch_leaks_no_descriptor(spawn, shm_root, monkeypatch):
    owner = spawn.owner(shm_root)
    with Watching(shm_root, rescan=1000) as watched:
        watched.knows(owner)
        real = watched.watcher._triggers._epoll
        before = len(os.listdir("/proc/self/fd"))

        class Full:
            def register(self, *arguments):
                raise OSError(28, "No space left on device")

            def __getattr__(self, name):
                return getattr(real, name)

        watched.watcher._triggers._epoll = Full()
        try:
            late = spawn.owner(shm_root)
            watched.knows(late)
            assert "No space left" in watched.reported(watch.TROUBLE).reason
            late.kill()
            watched.reported(watch.REMOVED, late)
            wait_for(lambda: len(os.listdir("/proc/self/fd")) <= before)
        finally:
            watched.watcher._triggers._epoll = real


def test_a_large_heap_is_let_go_elsewhere(spawn, shm_root):
    """To close the last descriptor of a gigabyte takes the kernel 0.1 s."""
    owner = spawn.owner(shm_root, "--size=1000000000")
    small = spawn.owner(shm_root)
    with Shmwatch(shm_root, "--rescan=1000") as command:
        owner.kill()
        gone(shm_root, owner)
        started = time.monotonic()
        small.kill()
        gone(shm_root, small)
        assert time.monotonic() - started < 0.05
        command.wait("removed", owner)
        assert command.state()["longest_step_ms"] < 50


# -- the directory, and the parent ------------------------------------------------------------------------


def test_a_file_system_that_is_mounted_over_the_directory_is_followed_at_once(private_tmpfs):
    code = """
import subprocess
sys.path += sys.argv[2:]
import heapwriter
from spawning import Spawn, wait_for
from watching import Watching, Farm
from gppshm import watch
root, spawn = sys.argv[1], Spawn()
with Watching(root, rescan=1000) as watched:
    subprocess.run(["mount", "-t", "tmpfs", "none", root], check=True)
    assert "another directory is at" in watched.reported(watch.TROUBLE, deadline=1.0).reason
    with Farm(spawn, root, 1) as farm:
        watched.knows(*farm.names)
        farm.kill()
        watched.reported(watch.REMOVED, farm.names[0])
"""
    done = private_tmpfs(code, *sys.path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_parent_whose_pid_went_to_another_process_has_no_more_children(spawn, shm_root):
    first = spawn.python("print('ready', flush=True); sys.stdin.read()")
    parent = first.pid
    with Watching(shm_root, scope=watch.CHILDREN, parent=parent, rescan=0.2) as watched:
        first.kill()
        ready, said = os.pipe()
        pid = fork_as(parent)
        if not pid:
            try:
                child = subprocess.Popen(
                    [sys.executable, "-I", heapwriter.__file__, "own", "--root=" + shm_root],
                    stdin=subprocess.PIPE,
                    stdout=said,
                )
                child.wait()
            finally:
                os._exit(0)
        os.close(said)
        try:
            assert pid == parent
            with open(ready) as stream:
                name = stream.readline().split()[1]
            watched.knows(name)
            os.kill(int(name[5:]), signal.SIGKILL)
            rescans = watched.watcher.counts.rescans
            wait_for(lambda: watched.watcher.counts.rescans >= rescans + 3)
            assert os.listdir(shm_root) == [name]
            assert watched.events == []
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def test_as_the_first_process_of_a_container_it_reaps_whoever_is_left_to_it(spawn, shm_root):
    inside = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
    with Shmwatch(shm_root, "--rescan=1000", prefix=inside) as command:
        command.find_pid()
        entering = [
            "nsenter",
            f"--target={command.pid}",
            "--pid",
            "--mount",
            "sh",
            "-c",
            "sleep 0.1 & exit 0",
        ]
        subprocess.run(entering, check=True)

        def zombies():
            found = []
            for pid in filter(str.isdigit, os.listdir("/proc")):
                try:
                    with open(f"/proc/{pid}/stat") as stream:
                        fields = stream.read().rpartition(")")[2].split()
                except OSError:
                    continue
                if fields[0] == "Z" and int(fields[1]) == command.pid:
                    found.append(pid)
            return found

        stays(lambda: len(zombies()) <= 1, 0.5)
        wait_for(lambda: not zombies())


def test_only_ones_own_user_can_hold_a_plugins_name(spawn):
    """The name is in the plugin's arguments, for everybody to see."""
    import hashlib

    digest = hashlib.sha256(b"DCE:0815").hexdigest()
    stranger = spawn.python(
        "import socket; os.setuid(65534)\n"
        "held = [socket.socket(socket.AF_UNIX) for _ in range(2)]\n"
        "for i, each in enumerate(held):\n"
        "    each.bind('\\0GppShmPlugin-%s-%d' % (sys.argv[1], i)); each.listen(1)\n"
        "print('ready', flush=True); sys.stdin.read()",
        digest,
    )
    with lifeline.only_one("DCE:0815"):
        with pytest.raises(lifeline.AlreadyRunning) as refusal:
            lifeline.only_one("DCE:0815")
        assert refusal.value.pid == os.getpid()
    stranger.kill()
