"""Promises of the verdict on heaps of this pid namespace (gppshm.creator), on real processes."""

import os
import signal
import socket
import struct

import pytest

import heapwriter
from gppshm import creator, lease, procfs, shmfs
from spawning import in_child, needs_root, python_command, run_command, seen_elsewhere, state_of, wait_for
from views import verdict, verdicts

NOBODY = 65534
SMALL = "--size=4096"

# A heap under the name sys.argv[2], with the creator sys.argv[3] in its header (0: its own pid), kept mapped.
FORGED = """
import heapwriter
heap = heapwriter.LiveHeap.create(sys.argv[1], [(4096, ())], name=sys.argv[2])
if int(sys.argv[3]):
    heapwriter.put_header(heap.mappings[0], int(sys.argv[3]))
print("ready", heap.name, flush=True)
sys.stdin.read()
"""


def remove(root, name):
    """Judge and unlink as a cleaner does; the verdict."""
    with shmfs.ShmDirectory(root) as directory, directory.open(name) as file:
        found = creator.judge(file.sighting, procfs.Processes())
        if found.state in creator.ORPHANS:
            directory.unlink(file, file.sighting)
    return found


def put_heap(root, name, pid):
    """A heap that nobody has open; `pid` is the creator in its header."""
    heapwriter.create(os.path.join(root, name), pid, [(4096, ())])
    return name


def set_creator(root, name, pid):
    """Overwrite the creator in a heap's header, as a stray pointer of a peer does."""
    with open(os.path.join(root, name), "r+b") as stream:
        stream.seek(12)
        stream.write(struct.pack("<i", pid))


def by_pids_alone(root, name):
    """The verdict where leases say nothing, as on a kernel whose leases failed the probe."""
    with shmfs.ShmDirectory(root) as directory:
        directory.leases = False
        with directory.open(name) as file:
            sighting = file.sighting
    assert sighting.answer is lease.SILENT
    return creator.judge(sighting, procfs.Processes())


def test_a_living_creators_heap_is_alive(shm_root, spawn):
    owner = spawn.owner(shm_root, SMALL)
    found = verdict(shm_root, owner)
    assert (found["state"], found["creator"], found["removable"]) == ("alive", owner.pid, False)
    assert str(owner.pid) in found["reason"]


def test_a_killed_creators_heap_is_orphaned_by_lease(shm_root, spawn):
    owner = spawn.owner(shm_root, SMALL)
    owner.kill()
    found = verdict(shm_root, owner)
    assert (found["state"], found["evidence"], found["creator"]) == ("orphaned", "lease", 0)
    assert str(owner.pid) in found["reason"]


def test_a_killed_creators_heap_is_orphaned_by_pids_where_leases_say_nothing(shm_root, spawn):
    owner, alive = spawn.owner(shm_root, SMALL), spawn.owner(shm_root, SMALL)
    owner.kill()
    found = by_pids_alone(shm_root, owner.name)
    assert (found.state, found.evidence) == (creator.ORPHANED, creator.PIDS), found
    assert by_pids_alone(shm_root, alive.name).state is creator.ALIVE


def test_a_stopped_creator_is_alive(shm_root, spawn):
    owner = spawn.owner(shm_root, SMALL)
    os.kill(owner.pid, signal.SIGSTOP)
    assert verdict(shm_root, owner)["state"] == "alive"


@needs_root
def test_another_users_live_heap_is_alive_or_unknown_to_an_ordinary_user(shm_root, spawn):
    owner = spawn.owner(shm_root, SMALL, "--mode=644")
    found = in_child(verdict, shm_root, owner.name, uid=NOBODY)
    assert (found["lease"], found["state"]) == ("silent", "unknown")
    assert str(owner.pid) in found["reason"]


@needs_root
def test_an_ordinary_user_never_takes_an_unreadable_process_for_one_that_does_not_map(shm_root, spawn):
    owner, dead = spawn.owner(shm_root, SMALL), spawn.owner(shm_root, SMALL)
    dead.kill()
    for found in in_child(verdicts, shm_root, uid=NOBODY).values():
        assert found["removable"] is (found["state"] == "orphaned")
    found = in_child(verdicts, shm_root, uid=NOBODY)
    assert found[owner.name]["state"] == "unknown"
    # Nobody's pid, and no process of that pid in any namespace: that is proof for everybody.
    assert found[dead.name]["state"] == "orphaned"


@needs_root
def test_an_attached_peer_that_cannot_be_seen_is_not_denied(shm_root, spawn):
    owner = spawn.owner(shm_root, SMALL)
    spawn.peer(shm_root, owner)
    owner.kill()
    found = in_child(verdict, shm_root, owner.name, uid=NOBODY)
    assert found["state"] == "orphaned"
    assert found["reason"].endswith("is gone, and no process that can be inspected maps it")


@needs_root
def test_a_file_that_may_not_be_read_is_unreadable_and_not_judged(shm_root, spawn):
    owner = spawn.owner(shm_root, SMALL, "--mode=600")
    found = in_child(verdict, shm_root, owner.name, uid=NOBODY)
    assert (found["kind"], found["state"], found["error"]) == ("unreadable", None, "Permission denied")


@needs_root
def test_an_ordinary_user_judges_his_own_heaps_by_lease(shm_root, spawn):
    owner = spawn.owner(shm_root, SMALL)
    os.chown(os.path.join(shm_root, owner.name), NOBODY, NOBODY)
    assert in_child(verdict, shm_root, owner.name, uid=NOBODY)["lease"] == "refused"
    owner.kill()
    found = in_child(verdict, shm_root, owner.name, uid=NOBODY)
    assert (found["state"], found["evidence"]) == ("orphaned", "lease")


def test_a_reused_pid_does_not_hide_an_orphan(shm_root, spawn):
    bystander = spawn.owner(shm_root, SMALL)
    os.unlink(os.path.join(shm_root, bystander.name))
    name = put_heap(shm_root, bystander.name, bystander.pid)
    assert verdict(shm_root, name)["state"] == "orphaned"
    by_pids = by_pids_alone(shm_root, name)
    assert by_pids.state is creator.ORPHANED
    assert f"process {bystander.pid} is another process" in by_pids.reason


def test_a_reused_pid_does_not_hide_an_orphan_that_a_peer_holds(shm_root, spawn):
    bystander = spawn.owner(shm_root, SMALL)
    os.unlink(os.path.join(shm_root, bystander.name))
    name = put_heap(shm_root, bystander.name, bystander.pid)
    peer = spawn.peer(shm_root, name)
    found = verdict(shm_root, name)
    assert (found["state"], found["attached"]) == ("orphaned, attached", [peer.pid])


ZOMBIE = """
import heapwriter
pid = os.fork()
if not pid:
    heap = heapwriter.LiveHeap.create(sys.argv[1], [(4096, ())])
    print("ready", heap.name, flush=True)
    sys.stdin.read()
    os._exit(0)
sys.stdin.close()
__import__("signal").pause()
"""


def test_a_zombie_creator_that_nobody_reaps_does_not_hide_an_orphan(shm_root, spawn):
    parent = spawn.python(ZOMBIE, shm_root)
    pid = int(parent.name[5:])
    assert verdict(shm_root, parent.name)["state"] == "alive"
    peer = spawn.peer(shm_root, parent.name)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: state_of(pid) == "Z")
    found = verdict(shm_root, parent.name)
    assert (found["state"], found["attached"]) == ("orphaned, attached", [peer.pid])
    peer.kill()
    assert state_of(pid) == "Z"
    assert verdict(shm_root, parent.name)["state"] == "orphaned"
    assert by_pids_alone(shm_root, parent.name).state is creator.ORPHANED


# The main thread ends, by pthread_exit, while another one waits on.
MAIN_THREAD_ENDS = """
import ctypes, threading, heapwriter
heap = heapwriter.LiveHeap.create(sys.argv[1], [(4096, ())])
main = threading.get_ident()
def wait():
    libc.pthread_join(ctypes.c_ulong(main), None)
    print("ready", heap.name, flush=True)
    sys.stdin.read()
    os._exit(0)
libc = ctypes.CDLL(None)
threading.Thread(target=wait).start()
libc.pthread_exit(None)
"""


def test_a_creator_whose_main_thread_has_ended_lives(shm_root, spawn):
    owner = spawn.python(MAIN_THREAD_ENDS, shm_root)
    # The other thread may go on before the first has quite ended.
    wait_for(lambda: state_of(owner.pid) == "Z")
    with open(f"/proc/{owner.pid}/maps") as maps:
        assert maps.read() == ""
    assert verdict(shm_root, owner)["state"] == "alive"
    assert by_pids_alone(shm_root, owner.name).state is creator.ALIVE
    peer = spawn.peer(shm_root, owner)
    assert verdict(shm_root, owner)["state"] == "alive"
    owner.kill()
    assert verdict(shm_root, owner)["attached"] == [peer.pid]


def test_a_creator_dead_and_a_peer_attached_is_said_with_the_peer(shm_root, spawn):
    owner = spawn.owner(shm_root, SMALL)
    peers = [spawn.peer(shm_root, owner), spawn.peer(shm_root, owner)]
    assert verdict(shm_root, owner)["state"] == "alive"
    owner.kill()
    found = verdict(shm_root, owner)
    assert (found["state"], found["evidence"]) == ("orphaned, attached", "pids")
    assert found["attached"] == sorted(peer.pid for peer in peers)
    for peer in peers:
        assert str(peer.pid) in found["reason"]
        peer.kill()
    assert verdict(shm_root, owner)["state"] == "orphaned"


def test_a_peer_is_attached_by_a_descriptor_alone(shm_root, spawn):
    name = put_heap(shm_root, "heap-%d" % spawn.dead_pid(), spawn.dead_pid())
    set_creator(shm_root, name, int(name[5:]))
    code = 'fd = os.open(sys.argv[1], os.O_RDWR); print("ready", flush=True); sys.stdin.read()'
    peer = spawn.python(code, os.path.join(shm_root, name))
    found = verdict(shm_root, name)
    assert (found["state"], found["attached"]) == ("orphaned, attached", [peer.pid])


def test_a_creator_with_nothing_but_a_descriptor_is_not_dead(shm_root, spawn):
    """As between its open() and its mmap()."""
    code = """
import heapwriter
name = "heap-%d" % os.getpid()
path = os.path.join(sys.argv[1], name)
heapwriter.create(path, os.getpid(), [(4096, ())])
fd = os.open(path, os.O_RDWR)
print("ready", name, flush=True)
sys.stdin.read()
"""
    owner = spawn.python(code, shm_root)
    assert verdict(shm_root, owner)["state"] == "unknown"
    spawn.peer(shm_root, owner)
    assert verdict(shm_root, owner)["state"] == "unknown"


def test_a_creator_with_nothing_but_a_descriptor_is_not_dead_though_its_main_thread_has_ended(
    shm_root, spawn
):
    code = """
import ctypes, threading, heapwriter
name = "heap-%d" % os.getpid()
path = os.path.join(sys.argv[1], name)
heapwriter.create(path, os.getpid(), [(4096, ())])
kept, main = os.open(path, os.O_RDWR), threading.get_ident()
def wait():
    libc.pthread_join(ctypes.c_ulong(main), None)
    print("ready", name, flush=True)
    sys.stdin.read()
    os._exit(0)
libc = ctypes.CDLL(None)
threading.Thread(target=wait).start()
libc.pthread_exit(None)
"""
    owner = spawn.python(code, shm_root)
    wait_for(lambda: state_of(owner.pid) == "Z")
    spawn.peer(shm_root, owner)
    assert verdict(shm_root, owner)["state"] == "unknown"
    owner.kill()
    assert verdict(shm_root, owner)["state"] == "orphaned, attached"


def test_who_only_reads_is_not_taken_for_the_writer(shm_root, spawn):
    """The real writer is a descriptor in flight, which no /proc shows; a listing beside reads the heap."""
    name = put_heap(shm_root, "heap-%d" % spawn.dead_pid(), spawn.dead_pid())
    set_creator(shm_root, name, int(name[5:]))
    ours, theirs = socket.socketpair()
    with ours, theirs, open(os.path.join(shm_root, name), "rb"):
        writer = os.open(os.path.join(shm_root, name), os.O_RDWR)
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", writer))
        ours.sendmsg([b"x"], [rights])
        os.close(writer)
        found = verdict(shm_root, name)
    assert (found["lease"], found["state"], found["attached"]) == ("refused", "unknown", [])
    assert verdict(shm_root, name)["state"] == "orphaned"


FORKS = """
import heapwriter
heap = heapwriter.LiveHeap.create(sys.argv[1], [(4096, ())])
if os.fork():
    __import__("signal").pause()
print("ready", heap.name, os.getpid(), flush=True)
sys.stdin.read()
os._exit(0)
"""


def test_a_forked_child_that_lives_on_is_attached(shm_root, spawn):
    parent = spawn.python(FORKS, shm_root)
    name, child = parent.name.split()
    assert verdict(shm_root, name)["state"] == "alive"
    parent.process.kill()
    parent.process.wait()
    found = verdict(shm_root, name)
    assert (found["state"], found["attached"]) == ("orphaned, attached", [int(child)])


def test_a_creators_pid_that_is_now_a_thread_of_another_process_is_no_life(shm_root, spawn):
    code = """
import threading
threading.Thread(target=sys.stdin.read).start()
print("ready", *os.listdir("/proc/self/task"), flush=True)
"""
    process = spawn.python(code)
    tid = next(int(tid) for tid in process.name.split() if int(tid) != process.pid)
    os.kill(tid, 0)
    name = put_heap(shm_root, f"heap-{tid}", tid)
    assert by_pids_alone(shm_root, name).state is creator.ORPHANED
    peer = spawn.peer(shm_root, name)
    assert verdict(shm_root, name)["attached"] == [peer.pid]


@pytest.mark.parametrize("recorded", [0, -1, 2**31 - 1, -(2**31), 4194305, 1])
def test_an_overwritten_header_neither_kills_the_living_nor_hides_the_dead(shm_root, spawn, recorded):
    owner = spawn.owner(shm_root, SMALL)
    set_creator(shm_root, owner.name, recorded)
    assert verdict(shm_root, owner)["state"] == "alive"
    assert by_pids_alone(shm_root, owner.name).state is creator.ALIVE
    peer = spawn.peer(shm_root, owner)
    owner.kill()
    # The name and the header disagree: with a writer left, that is no proof.
    assert verdict(shm_root, owner)["state"] == "unknown"
    assert by_pids_alone(shm_root, owner.name).state is creator.UNKNOWN
    peer.kill()
    assert verdict(shm_root, owner)["state"] == "orphaned"


def test_a_header_with_another_living_processs_pid_changes_nothing(shm_root, spawn):
    owner, other = spawn.owner(shm_root, SMALL), spawn.owner(shm_root, SMALL)
    set_creator(shm_root, owner.name, other.pid)
    assert verdict(shm_root, owner)["state"] == "alive"
    owner.kill()
    assert verdict(shm_root, owner)["state"] == "orphaned"


@pytest.mark.parametrize("name", ["heap-1", "heap-4194304", "heap-99999999999", "notes", "heap-0", "heap-07"])
def test_a_live_heap_under_any_name_is_never_an_orphan(shm_root, spawn, name):
    owner = spawn.python(FORGED, shm_root, name, 0)
    found = verdict(shm_root, name)
    assert (found["kind"], found["state"]) == ("heap", "alive")
    assert by_pids_alone(shm_root, name).state is creator.ALIVE
    owner.kill()
    assert verdict(shm_root, name)["state"] == "orphaned"


def test_a_live_heap_that_neither_name_nor_header_tells_of_is_not_removed(shm_root, spawn):
    dead = spawn.dead_pid()
    for name in (f"heap-{dead}", "heap-1", "notes"):
        spawn.python(FORGED, shm_root, name, dead)
    assert not verdict(shm_root, "heap-1")["removable"]
    assert by_pids_alone(shm_root, "heap-1").state is creator.UNKNOWN


@pytest.mark.parametrize("recorded", [0, -1, 2**31 - 1])
def test_a_file_with_the_magic_alone_and_neither_a_heaps_name_nor_a_pid_is_kept(shm_root, recorded):
    put_heap(shm_root, "notes", recorded)
    assert verdict(shm_root, "notes")["state"] == "unknown"


def test_what_begins_as_a_heap_of_another_version_is_judged_only_if_it_is_named_as_heaps_are(shm_root, spawn):
    """REDHAWK does not open it, and where a layout has the creator's pid that nobody knows is not known."""
    code = """
import heapwriter
heap = heapwriter.LiveHeap.create(sys.argv[1], [(4096, ())], name=sys.argv[2])
heapwriter.put_header(heap.mappings[0], int(sys.argv[3]), 1, 2)
print("ready", heap.name, flush=True)
sys.stdin.read()
"""
    strange = spawn.python(code, shm_root, "notes", spawn.dead_pid())
    heap = spawn.python(code, shm_root, "heap-4190001", 4190001)
    assert verdict(shm_root, "notes")["state"] == "unknown"
    assert by_pids_alone(shm_root, "notes").state is creator.UNKNOWN
    strange.kill()
    heap.kill()
    assert verdict(shm_root, "notes")["state"] == "unknown"
    assert verdict(shm_root, "heap-4190001")["state"] == "orphaned"


def test_a_copy_of_a_living_processs_heap_is_kept(shm_root, spawn):
    owner = spawn.owner(shm_root, SMALL)
    put_heap(shm_root, "copy", owner.pid)
    assert verdict(shm_root, "copy")["state"] == "unknown"
    owner.kill()
    assert verdict(shm_root, "copy")["state"] == "orphaned"


def test_a_hard_link_to_a_living_heap_is_alive(shm_root, spawn):
    owner = spawn.owner(shm_root, SMALL)
    name = "heap-%d" % spawn.dead_pid()
    os.link(os.path.join(shm_root, owner.name), os.path.join(shm_root, name))
    assert verdict(shm_root, name)["state"] == "alive"
    assert by_pids_alone(shm_root, name).state is creator.ALIVE


def test_a_writer_that_no_proc_shows_makes_it_unknown(shm_root, spawn):
    """A descriptor in flight over a socket belongs to no process."""
    code = """
import socket, struct
a, b = socket.socketpair()
fd = os.open(sys.argv[1], os.O_RDWR)
a.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", fd))])
os.close(fd)
print("ready", flush=True)
sys.stdin.read()
"""
    owner = spawn.owner(shm_root, SMALL)
    carrier = spawn.python(code, os.path.join(shm_root, owner.name))
    owner.kill()
    found = verdict(shm_root, owner)
    assert (found["lease"], found["state"]) == ("refused", "unknown")
    carrier.kill()
    assert verdict(shm_root, owner)["state"] == "orphaned"


def test_readers_keep_no_orphan(shm_root, spawn):
    owner = spawn.owner(shm_root, SMALL)
    code = """
import mmap
stream = open(sys.argv[1], "rb")
kept = mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ)
print("ready", flush=True)
sys.stdin.read()
"""
    spawn.python(code, os.path.join(shm_root, owner.name))
    owner.kill()
    assert remove(shm_root, owner.name).state is creator.ORPHANED
    assert os.listdir(shm_root) == []


def test_a_mapped_files_strange_name_neither_stops_nor_misleads_the_verdict(shm_root, spawn, tmp_path):
    owner = spawn.owner(shm_root, SMALL)
    status = os.stat(os.path.join(shm_root, owner.name))
    place = f"{os.major(status.st_dev):x}:{os.minor(status.st_dev):x} {status.st_ino}"
    code = """
import mmap
kept = []
for path in sys.argv[1:]:
    with open(path, "w+b") as stream:
        stream.truncate(4096)
        kept.append(mmap.mmap(stream.fileno(), 0))
print("ready", flush=True)
sys.stdin.read()
"""
    names = [
        "x\ra b c d e f",
        f"y\r0-1 rw-s 0 {place} z",
        "n\n0-1 rw-s 0 q:q 7 z",
        "\u00e9\u2028 \x0b\x0c\x1c",
    ]
    stranger = spawn.python(code, *[os.path.join(shm_root, name) for name in names])
    peer = spawn.peer(shm_root, owner)
    owner.kill()
    found = verdict(shm_root, owner)
    assert (found["state"], found["attached"]) == ("orphaned, attached", [peer.pid])
    assert stranger.process.poll() is None


@pytest.mark.parametrize("title", ["x\rTgid:\t1", ") Z 1 1", "x\rNSpid: ?", "x\nTgid:\t1"])
def test_a_creators_strange_process_name_does_not_make_it_dead(shm_root, spawn, title):
    code = (
        """
import ctypes
ctypes.CDLL(None).prctl(15, sys.argv[4].encode(), 0, 0, 0)
"""
        + FORGED
    )
    owner = spawn.python(code, shm_root, "heap-1", 0, title)
    assert verdict(shm_root, "heap-1")["state"] == "alive"
    assert by_pids_alone(shm_root, "heap-1").state is creator.ALIVE
    with open(f"/proc/{owner.pid}/comm", "rb") as stream:
        assert stream.read() == title.encode() + b"\n"


def test_without_a_descriptor_to_look_with_everything_is_unknown(shm_root, spawn):
    owner, dead = spawn.owner(shm_root, SMALL), spawn.owner(shm_root, SMALL)
    spawn.peer(shm_root, dead)
    dead.kill()

    def judged():
        import resource

        with shmfs.ShmDirectory(shm_root) as directory:
            sightings = []
            for name in (owner.name, dead.name):
                with directory.open(name) as file:
                    sightings.append(file.sighting)
            lowest = os.dup(0)
            os.close(lowest)
            limit = resource.getrlimit(resource.RLIMIT_NOFILE)
            found = []
            for free in (0, 1, 2):
                resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + free, limit[1]))
                for sighting in sightings:
                    found.append(str(creator.judge(sighting, procfs.Processes()).state))
            return found

    seen = ["alive", "orphaned, attached"]
    assert in_child(judged) == ["unknown", "unknown"] + seen + seen


def test_the_verdict_is_the_same_to_another_process(shm_root, spawn):
    owner = spawn.owner(shm_root, SMALL)
    assert seen_elsewhere(shm_root) == verdicts(shm_root)
    assert seen_elsewhere(shm_root, owner.name)[owner.name]["creator"] == owner.pid


def test_a_process_whose_maps_nobody_may_read_does_not_spoil_the_verdict_unless_it_may_be_the_creator(
    shm_root, spawn
):
    """On some machines /proc/1/maps is not even root's to read. NSpid tells that it is not the creator."""
    owner = spawn.owner(shm_root, SMALL)
    hidden = spawn.owner(shm_root, SMALL)
    peer = spawn.peer(shm_root, owner)
    owner.kill()
    with shmfs.ShmDirectory(shm_root) as directory, directory.open(owner.name) as file:
        sighting = file.sighting

    def unreadable(pid):
        processes = procfs.Processes()
        processes._processes[pid] = procfs.Process(pid, procfs.UNREADABLE)
        return processes

    found = creator.judge(sighting, unreadable(hidden.pid))
    assert (found.state, found.attached) == (creator.ATTACHED, (peer.pid,))
    with shmfs.ShmDirectory(shm_root) as directory, directory.open(hidden.name) as file:
        sighting = file.sighting
    found = creator.judge(sighting, unreadable(hidden.pid))
    assert found.state is creator.UNKNOWN
    assert str(hidden.pid) in found.reason


def test_no_verdict_ever_asks_the_kernel_about_everybody(shm_root):
    """To kill(), 0 and -1 mean whole groups."""
    asked = []

    class Watched(procfs.Processes):
        def process(self, pid):
            asked.append(pid)
            return super().process(pid)

    for number, recorded in enumerate([0, -1, -(2**31), 2**31 - 1, 4194305]):
        name = put_heap(shm_root, f"heap-{number + 4194300}" if number else "x", recorded)
        with shmfs.ShmDirectory(shm_root) as directory:
            for leases in (True, False):
                directory.leases = directory.leases and leases
                with directory.open(name) as file:
                    creator.judge(file.sighting, Watched())
    assert asked
    assert all(0 < pid <= procfs.PID_MAX for pid in asked)


def test_ctypes_is_not_needed_to_judge():
    code = "import gppshm.creator, gppshm.snapshot; print('ctypes' in sys.modules)"
    assert run_command(python_command(code)).stdout == "False\n"
