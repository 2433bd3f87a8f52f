"""A death that was proven in advance costs no living creator its heap: what makes its identity void.

The watcher takes its steps by hand, so the order in which things happen is the one that a test says.
"""

import ctypes
import errno
import os
import signal
import statistics
import time

import pytest
from test_creator import put_heap, set_creator
from test_life_interleavings import Life

from gppshm import creator, kernel, lease, procfs, shmfs, watch
from pids import WHOLE_HEAP, container_with, free_pid
from spawning import IN_A_PID_NAMESPACE, needs_root, wait_for
from watching import INOTIFY, PIDFD_OPEN, ByHand, Farm, Shmwatch, failing, gone

import heapwriter  # isort: skip

SMALL = "--size=4096"


def path_of(root, heap):
    return os.path.join(root, getattr(heap, "name", heap))


def same_place(root, heap):
    """What a re-creation in place leaves as it is: device, inode, and the first 16 bytes of the file."""
    path = path_of(root, heap)
    status = os.stat(path)
    with open(path, "rb") as stream:
        return status.st_dev, status.st_ino, stream.read(16)


# -- the ordinary case -------------------------------------------------------------------------------------


def test_a_crash_with_peers_is_proven_by_what_was_established_before(spawn, shm_root, by_hand, triggers):
    owner = spawn.owner(shm_root, SMALL)
    peers = {spawn.peer(shm_root, owner).pid for _ in range(2)}
    watching = by_hand()
    watching.identified(owner)
    owner.kill()
    event = watching.reported(watch.REMOVED, owner)
    assert event.evidence == "identity"
    assert f"process {owner.pid}, has ended: its identity was established" in event.reason
    assert {pid for pid, _ in event.attached} == peers


def test_without_pidfds_a_crash_with_peers_is_cleaned_as_quickly(spawn, shm_root, monkeypatch):
    """The bound is generous; bench/ measures."""
    taken = {}
    for pidfds in (True, False):
        without = () if pidfds else failing(PIDFD_OPEN, errno.ENOSYS)
        with Farm(spawn, shm_root, 20) as farm:
            for name in farm.names:
                spawn.python(ATTACH, shm_root, name)
            with Shmwatch(shm_root, "--rescan=1000", without=without) as watching:
                wait_for(lambda: watching.state()["identities"] == len(farm.names))
                delays = []
                for pid, name in zip(farm.pids, farm.names):
                    started = time.monotonic()
                    os.kill(pid, signal.SIGKILL)
                    gone(shm_root, name)
                    delays.append(time.monotonic() - started)
                    assert watching.wait("removed", name)["evidence"] == "identity"
                taken[pidfds] = statistics.median(delays)
    assert max(taken.values()) < 0.05, taken


ATTACH = """
import heapwriter
heap = heapwriter.LiveHeap.attach(sys.argv[2], sys.argv[1]); print("ready", flush=True); sys.stdin.read()
"""


# -- somebody creates it anew in place ---------------------------------------------------------------------


def create_in_a_container(spawn, root, owner):
    """A container's process with the owner's pid creates the heap anew: in place, the same first 16 bytes."""
    before = same_place(root, owner)
    container = container_with(spawn, root, WHOLE_HEAP, owner.pid)
    after = same_place(root, owner)
    assert container.name == owner.name
    # The count of references is a peer's to change.
    assert after[:2] == before[:2] and after[2][12:] == before[2][12:] and after[2][:8] == before[2][:8]
    return container


def ends_with_its_last_creator(watching, spawn, container, name):
    """The heap is the container's now: it stays while that lives, and goes with it."""
    watching.keeps(name)
    container.kill()
    assert watching.reported(watch.REMOVED, name).evidence in ("pids", "lease")


def test_a_creator_that_ends_before_it_was_looked_at_is_proven_dead_without_its_peers(
    spawn, shm_root, by_hand, triggers
):
    owner = spawn.owner(shm_root, SMALL)
    peer = spawn.peer(shm_root, owner)
    watching = by_hand()
    watching.until(lambda: watching.watcher.asked)
    owner.kill()
    event = watching.reported(watch.REMOVED, owner)
    assert event.evidence == "pids"
    assert event.reason == f"its creator, process {owner.pid}, is gone; others are still attached"
    assert {pid for pid, _ in event.attached} == {peer.pid}


@needs_root
def test_the_end_of_a_process_that_only_has_the_pid_in_a_heaps_name_proves_nothing(
    spawn, shm_root, by_hand, triggers
):
    namesake = spawn.python("print('ready', flush=True); sys.stdin.read()")
    container = container_with(spawn, shm_root, WHOLE_HEAP, namesake.pid)
    spawn.peer(shm_root, container)
    watching = by_hand()
    watching.until(lambda: watching.watcher.asked)
    namesake.kill()
    ends_with_its_last_creator(watching, spawn, container, container.name)


@needs_root
@pytest.mark.parametrize("noticed", [True, False])
def test_a_container_that_re_creates_the_heap_under_the_living_creator_keeps_it(
    spawn, shm_root, by_hand, triggers, noticed
):
    owner = spawn.owner(shm_root, SMALL)
    spawn.peer(shm_root, owner)
    watching = by_hand()
    watching.identified(owner)
    container = create_in_a_container(spawn, shm_root, owner)
    if noticed:
        # Renewed it cannot be: two processes may be the creator.
        watching.until(lambda: not watching.identity(owner))
        watching.steps(1.5)
        assert not watching.identity(owner)
    owner.kill()
    ends_with_its_last_creator(watching, spawn, container, owner.name)


@needs_root
def test_a_container_that_re_creates_the_heap_between_death_and_unlink_keeps_it(
    spawn, shm_root, by_hand, triggers
):
    owner = spawn.owner(shm_root, SMALL)
    spawn.peer(shm_root, owner)
    watching = by_hand()
    watching.identified(owner)
    owner.kill()
    container = create_in_a_container(spawn, shm_root, owner)
    ends_with_its_last_creator(watching, spawn, container, owner.name)


def at(where, monkeypatch, act):
    """Do `act` once, at that point of the next removal."""
    done = []

    def first(real):
        def call(*arguments, **options):
            if not done:
                done.append(None)
                done.append(act())
            return real(*arguments, **options)

        return call

    if where == "after the verdict":
        monkeypatch.setattr(shmfs.ShmDirectory, "unlink", first(shmfs.ShmDirectory.unlink))
    elif where == "before the name is taken away":
        monkeypatch.setattr(os, "rename", first(os.rename))
    elif where == "after the name was taken away":
        real = os.rename

        def rename(*arguments, **options):
            real(*arguments, **options)
            first(lambda: None)()

        monkeypatch.setattr(os, "rename", rename)
    return done


POINTS = ["after the verdict", "before the name is taken away"]


@needs_root
@pytest.mark.parametrize("where", POINTS)
def test_a_container_that_re_creates_the_heap_while_it_is_being_unlinked_keeps_it(
    spawn, shm_root, by_hand, triggers, monkeypatch, where
):
    owner = spawn.owner(shm_root, SMALL)
    spawn.peer(shm_root, owner)
    watching = by_hand()
    watching.identified(owner)
    owner.kill()
    done = at(where, monkeypatch, lambda: create_in_a_container(spawn, shm_root, owner))
    watching.until(lambda: len(done) == 2)
    assert os.listdir(shm_root) == [owner.name]
    ends_with_its_last_creator(watching, spawn, done[1], owner.name)


def new_life(root, pid):
    """A new process with that pid that creates its heap, as REDHAWK does: in place, if there is one."""
    life = Life(lambda: heapwriter.LiveHeap.create(root, [(4096, ())]).unlink, pid)
    assert life.pid == pid
    wait_for(life.is_ready)
    return life


@pytest.fixture
def lives():
    """A list of lives that do not outlive the test."""
    made = []
    yield made
    for life in made:
        life.kill()
        life.reap()


@needs_root
@pytest.mark.parametrize("peers", [0, 1])
def test_a_new_process_with_the_dead_ones_pid_that_creates_anew_in_place_is_a_new_life(
    spawn, shm_root, by_hand, triggers, lives, peers
):
    owner = spawn.owner(shm_root, SMALL)
    watching = by_hand()
    for _ in range(peers):
        spawn.peer(shm_root, owner)
    first = watching.identified(owner)
    before = same_place(shm_root, owner)
    owner.kill()
    lives.append(new_life(shm_root, owner.pid))
    after = same_place(shm_root, owner)
    assert after[:2] == before[:2] and after[2][12:] == before[2][12:]
    watching.keeps(owner)
    # It is known as what it is: its own start, its own death.
    second = watching.identified(owner)
    assert (second.pid, second.start) == (owner.pid, procfs.pulse(owner.pid)[0])
    assert second is not first
    assert owner.name in watching.watcher.living()
    lives[0].kill()
    lives[0].reap()
    assert watching.reported(watch.REMOVED, owner).evidence == ("identity" if peers else "lease")


@needs_root
@pytest.mark.parametrize("where", POINTS)
def test_a_new_process_with_the_dead_ones_pid_keeps_what_is_just_being_unlinked(
    spawn, shm_root, by_hand, triggers, lives, monkeypatch, where
):
    owner = spawn.owner(shm_root, SMALL)
    spawn.peer(shm_root, owner)
    watching = by_hand()
    watching.identified(owner)
    owner.kill()
    done = at(where, monkeypatch, lambda: lives.append(new_life(shm_root, owner.pid)))
    watching.until(lambda: len(done) == 2)
    assert os.listdir(shm_root) == [owner.name]
    watching.keeps(owner)


@needs_root
def test_a_new_heap_under_a_name_that_was_just_taken_away_stays(
    spawn, shm_root, by_hand, triggers, lives, monkeypatch
):
    owner = spawn.owner(shm_root, SMALL)
    peer = spawn.peer(shm_root, owner)
    watching = by_hand()
    watching.identified(owner)
    old = os.stat(path_of(shm_root, owner)).st_ino
    owner.kill()
    where = "after the name was taken away"
    done = at(where, monkeypatch, lambda: lives.append(new_life(shm_root, owner.pid)))
    watching.until(lambda: len(done) == 2)
    # What could not be given its name back is still the heap of the dead: it goes at the next rescan, and
    # the new one stays.
    watching.watcher.scan_again()
    watching.until(lambda: os.listdir(shm_root) == [owner.name])
    assert os.stat(path_of(shm_root, owner)).st_ino != old
    peer.kill()
    lives[0].kill()
    lives[0].reap()
    watching.until(lambda: not os.listdir(shm_root))


# -- what a creator does itself ----------------------------------------------------------------------------

EXECS = """
import heapwriter
heap = heapwriter.LiveHeap.create(sys.argv[1], [(4096, ())])
print("ready", heap.name, flush=True)
sys.stdin.readline()
os.execv(sys.executable, [sys.executable, "-c", "print('other', flush=True); import sys; sys.stdin.read()"])
"""


def test_a_creator_that_becomes_another_program_has_left_its_heap(spawn, shm_root, by_hand, triggers):
    """With a peer that is noticed at the next rescan: the kernel tells of no death, and there was none."""
    alone, attached = spawn.python(EXECS, shm_root), spawn.python(EXECS, shm_root)
    peer = spawn.peer(shm_root, attached)
    watching = by_hand()
    watching.identified(alone)
    watching.identified(attached)
    for child in (alone, attached):
        child.send("exec")
        assert child.read_line() == "other"
    assert watching.reported(watch.REMOVED, alone).evidence == "lease"
    watching.steps(0.3)
    assert os.listdir(shm_root) == [attached.name]
    watching.watcher.scan_again()
    event = watching.reported(watch.REMOVED, attached)
    assert event.evidence == "pids"
    assert "is another process, which does not map it" in event.reason
    assert [pid for pid, _ in event.attached] == [peer.pid]
    assert alone.process.poll() is attached.process.poll() is None


FORKS = """
import heapwriter
heap = heapwriter.LiveHeap.create(sys.argv[1], [(4096, ())])
child = os.fork()
if not child:
    sys.stdin.read()
    os._exit(0)
print("ready", heap.name, child, flush=True)
sys.stdin.read()
"""


def test_a_forked_child_of_the_creator_is_an_attached_peer(spawn, shm_root, by_hand, triggers):
    """They share one open file, so the kernel tells of no close when the creator dies: pidfd, or rescan."""
    parent = spawn.python(FORKS, shm_root)
    name, child = parent.name.split()
    watching = by_hand()
    watching.identified(name)
    os.kill(parent.pid, signal.SIGKILL)
    parent.process.wait()
    if triggers == "no pidfds":
        watching.watcher.scan_again()
    event = watching.reported(watch.REMOVED, name)
    assert event.evidence == "identity"
    assert [pid for pid, _ in event.attached] == [int(child)]


def test_a_forked_childs_end_harms_no_living_creators_heap(spawn, shm_root, by_hand, triggers):
    parent = spawn.python(FORKS, shm_root)
    name, child = parent.name.split()
    watching = by_hand()
    watching.identified(name)
    os.kill(int(child), signal.SIGKILL)
    watching.keeps(name)
    assert watching.identity(name)


def test_a_stopped_creator_is_kept_and_its_death_is_told_all_the_same(spawn, shm_root, by_hand, triggers):
    owner = spawn.owner(shm_root, SMALL)
    spawn.peer(shm_root, owner)
    os.kill(owner.pid, signal.SIGSTOP)
    watching = by_hand()
    watching.identified(owner)
    for _ in range(3):
        os.close(os.open(path_of(shm_root, owner), os.O_RDWR))  # as REDHAWK's shminfo does
        watching.watcher.step(0.02)
    watching.watcher.scan_again()
    watching.keeps(owner)
    os.kill(owner.pid, signal.SIGKILL)
    assert watching.reported(watch.REMOVED, owner).evidence == "identity"


GROWS = """
import heapwriter
heap = heapwriter.LiveHeap.create(sys.argv[1], [(4096, ())], keep_fd=True)
print("ready", heap.name, flush=True)
while sys.stdin.readline():
    heap.grow(4096)
    print("grown", flush=True)
"""


def test_growth_makes_an_identity_void_and_it_is_renewed(spawn, shm_root, by_hand, triggers):
    owner = spawn.python(GROWS, shm_root)
    spawn.peer(shm_root, owner)
    watching = by_hand()
    first = watching.identified(owner)
    owner.send("grow")
    assert owner.read_line() == "grown"
    watching.until(lambda: watching.identity(owner) is not first)
    second = watching.identified(owner)
    assert second.since > first.since
    assert (second.pid, second.start, second.file_id) == (first.pid, first.start, first.file_id)
    owner.kill()
    assert watching.reported(watch.REMOVED, owner).evidence == "identity"


def test_a_creator_that_dies_just_after_its_heap_grew_is_looked_for_in_full(
    spawn, shm_root, by_hand, triggers
):
    owner = spawn.python(GROWS, shm_root)
    spawn.peer(shm_root, owner)
    watching = by_hand()
    watching.identified(owner)
    owner.send("grow")
    assert owner.read_line() == "grown"
    owner.kill()
    assert watching.reported(watch.REMOVED, owner).evidence == "pids"


@pytest.mark.parametrize(
    "change",
    [
        lambda fd: os.ftruncate(fd, os.fstat(fd).st_size),
        lambda fd: os.posix_fallocate(fd, os.fstat(fd).st_size, 4096),
        lambda fd: os.pwrite(fd, b"x", os.fstat(fd).st_size - 1),
    ],
    ids=["ftruncate", "fallocate", "write"],
)
def test_each_change_of_the_file_makes_an_identity_void(spawn, shm_root, by_hand, change):
    owner = spawn.owner(shm_root, SMALL)
    spawn.peer(shm_root, owner)
    watching = by_hand()
    watching.identified(owner)
    fd = os.open(path_of(shm_root, owner), os.O_RDWR)
    change(fd)
    os.close(fd)
    owner.kill()
    assert watching.reported(watch.REMOVED, owner).evidence == "pids"


# -- the pid's next owner ----------------------------------------------------------------------------------


@needs_root
def test_a_process_that_has_the_pid_next_and_nothing_of_the_heap_is_looked_into(
    spawn, shm_root, by_hand, triggers, lives
):
    owner = spawn.owner(shm_root, SMALL)
    spawn.peer(shm_root, owner)
    watching = by_hand()
    watching.identified(owner)
    owner.kill()
    lives.append(Life(lambda: None, owner.pid))
    wait_for(lives[0].is_ready)
    event = watching.reported(watch.REMOVED, owner)
    assert event.evidence == "pids"
    assert f"process {owner.pid} is another process, which does not map it" in event.reason


@needs_root
def test_a_process_that_has_the_pid_next_and_has_the_heap_open_may_be_its_creator(
    spawn, shm_root, by_hand, triggers, lives
):
    """As in the midst of becoming it; here it opened the file without O_TRUNC, so no event tells of it."""
    owner = spawn.owner(shm_root, SMALL)
    spawn.peer(shm_root, owner)
    watching = by_hand()
    watching.identified(owner)
    owner.kill()
    path = path_of(shm_root, owner)
    lives.append(Life(lambda: os.open(path, os.O_RDWR), owner.pid))
    wait_for(lives[0].is_ready)
    watching.keeps(owner)
    lives[0].kill()
    lives[0].reap()
    watching.reported(watch.REMOVED, owner)


# -- header and name ---------------------------------------------------------------------------------------


def test_a_header_that_was_overwritten_since_makes_an_identity_useless(spawn, shm_root, by_hand, triggers):
    """By a stray pointer into mapped memory, of which no event tells."""
    owner = spawn.owner(shm_root, SMALL)
    peer = spawn.peer(shm_root, owner)
    watching = by_hand()
    watching.identified(owner)
    overwrite(shm_root, owner.name, spawn.dead_pid())
    owner.kill()
    event = watching.reported(watch.UNPROVEN, owner)
    assert "its name says" in event.reason
    assert os.listdir(shm_root) == [owner.name]
    peer.kill()
    assert watching.reported(watch.REMOVED, owner).evidence == "lease"


def overwrite(root, name, pid):
    """Put that creator into the header through a mapping."""
    heap = heapwriter.LiveHeap.attach(name, root)
    heapwriter.put_header(heap.mappings[0], pid)
    libc = ctypes.CDLL(None)
    for mapping in heap.mappings:
        assert libc.munmap(ctypes.c_void_p(ctypes.addressof(mapping)), ctypes.c_size_t(len(mapping))) == 0


@pytest.mark.parametrize("recorded", [1, 0, -1, 4194304])
def test_a_heap_whose_header_and_name_disagree_has_no_identity(spawn, shm_root, by_hand, recorded):
    owner = spawn.owner(shm_root, SMALL)
    overwrite(shm_root, owner.name, recorded)
    watching = by_hand()
    watching.until(lambda: owner.name in watching.watcher.living())
    watching.watcher.scan_again()
    watching.steps(0.8)
    assert watching.watcher.identities == 0


# -- what the kernel did not tell --------------------------------------------------------------------------


def overflow(root, heaps):
    """More changes than the kernel keeps for a watcher; two that alternate, for it merges equal ones."""
    with open("/proc/sys/fs/inotify/max_queued_events") as stream:
        limit = int(stream.read())
    fds = [os.open(path_of(root, heap), os.O_WRONLY) for heap in heaps]
    for number in range(limit + 1000):
        os.pwrite(fds[number % 2], b"\0", max(0, os.fstat(fds[number % 2]).st_size - 1))
    for fd in fds:
        os.close(fd)


def void_after(loss, spawn, shm_root, watching, look=lambda: None):
    """After `loss()` one of two identified creators lives in a container; no identity is used any more."""
    owner, other = spawn.owner(shm_root, SMALL), spawn.owner(shm_root, SMALL)
    for heap in (owner, other):
        spawn.peer(shm_root, heap)
    watching.identified(owner)
    watching.identified(other)
    loss()
    container = create_in_a_container(spawn, shm_root, owner)
    owner.kill()
    other.kill()
    look()
    assert watching.reported(watch.REMOVED, other).evidence == "pids"
    assert os.path.exists(path_of(shm_root, owner))
    container.kill()
    look()
    assert watching.reported(watch.REMOVED, owner).evidence in ("pids", "lease")


@needs_root
def test_changes_that_were_dropped_make_every_identity_void(spawn, shm_root, by_hand, triggers):
    watching = by_hand()
    busy = [spawn.owner(shm_root, SMALL) for _ in range(2)]
    for heap in busy:
        watching.identified(heap)
    void_after(lambda: overflow(shm_root, busy), spawn, shm_root, watching)


@needs_root
def test_what_a_stranger_writes_makes_no_identity_of_another_void(spawn, shm_root, by_hand, triggers):
    """Neither to other files nor to heaps of his own, however much it is."""
    owner = spawn.owner(shm_root, SMALL)
    peer = spawn.peer(shm_root, owner)
    strangers = [spawn.owner(shm_root, SMALL) for _ in range(2)]
    for heap in strangers:
        os.chown(path_of(shm_root, heap), 4321, 4321)
    watching = by_hand()
    for heap in (owner, *strangers):
        found = watching.identified(heap)
    found = watching.identity(owner)
    for name in ("a", "heap-4000001"):
        open(os.path.join(shm_root, name), "wb").close()
    overflow(shm_root, ("a", "heap-4000001"))
    overflow(shm_root, strangers)
    watching.steps(0.1)
    assert watching.identity(owner) is found
    owner.kill()
    assert watching.reported(watch.REMOVED, owner).evidence == "identity"
    peer.kill()


def lose_watches(watching):
    """As the kernel takes them away when the directory goes: IN_IGNORED, and nothing is told any more."""
    libc = ctypes.CDLL(None, use_errno=True)
    lost = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}") != "anon_inode:inotify":
                continue
            with open(f"/proc/self/fdinfo/{name}") as stream:
                numbers = [line.split()[1][3:] for line in stream if line.startswith("inotify ")]
        except FileNotFoundError:
            continue
        for number in numbers:
            assert libc.inotify_rm_watch(int(name), int(number, 16)) == 0
            lost += 1
    assert lost >= 2


@needs_root
def test_a_watch_that_was_lost_makes_every_identity_void(spawn, shm_root, by_hand, triggers):
    watching = by_hand()
    void_after(lambda: lose_watches(watching), spawn, shm_root, watching, watching.watcher.scan_again)


def test_after_a_lost_watch_identities_are_established_anew(spawn, shm_root, by_hand):
    owner = spawn.owner(shm_root, SMALL)
    spawn.peer(shm_root, owner)
    watching = by_hand()
    first = watching.identified(owner)
    lose_watches(watching)
    watching.until(lambda: watching.identity(owner) not in (None, first))
    owner.kill()
    assert watching.reported(watch.REMOVED, owner).evidence == "identity"


def test_another_directory_at_the_path_makes_every_identity_void(spawn, shm_root):
    """The old one is not watched any more, and what dies there is nobody's business now."""
    root, aside = os.path.join(shm_root, "here"), os.path.join(shm_root, "aside")
    os.mkdir(root)
    owner = spawn.owner(root, SMALL)
    spawn.peer(root, owner)
    with ByHand(root) as watching:
        watching.identified(owner)
        os.rename(root, aside)
        os.mkdir(root)
        other = spawn.owner(root, SMALL)
        spawn.peer(root, other)
        watching.watcher.scan_again()
        watching.identified(other)
        assert watching.watcher.identities == 1
        owner.kill()
        other.kill()
        assert watching.reported(watch.REMOVED, other).evidence == "identity"
        assert os.listdir(aside) == [owner.name]


# -- where there can be no identity ------------------------------------------------------------------------


def test_without_inotify_there_is_no_identity_and_the_dead_are_looked_for_in_full(spawn, shm_root):
    owner = spawn.owner(shm_root, SMALL)
    spawn.peer(shm_root, owner)
    without = failing(INOTIFY, errno.EMFILE)
    with Shmwatch(shm_root, "--rescan=1000", without=without) as watching:
        owner.kill()
        assert watching.wait("removed", owner)["evidence"] == "pids"


@needs_root
def test_without_inotify_no_rescan_establishes_an_identity_and_a_re_created_heap_stays(
    spawn, shm_root, monkeypatch
):
    def fail(*arguments):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(kernel, "Inotify", fail)
    owner = spawn.owner(shm_root, SMALL)
    spawn.peer(shm_root, owner)
    with ByHand(shm_root) as watching:
        watching.until(lambda: owner.name in watching.watcher.living())
        for _ in range(3):
            watching.watcher.scan_again()
            watching.steps(1.2)
        assert watching.watcher.counts.rescans > 2 and not watching.watcher.identities
        container = create_in_a_container(spawn, shm_root, owner)
        owner.kill()
        ends_with_its_last_creator(watching, spawn, container, owner.name)


@needs_root
@pytest.mark.parametrize(
    "prefix, why",
    [
        (
            ("unshare", "--mount", "--propagation=private", "sh", "-c")
            + ('mount -t proc -o hidepid=2 proc /proc && exec "$@"', "sh"),
            "hidepid",
        ),
        ((*IN_A_PID_NAMESPACE, "--mount-proc"), "not the host's first pid namespace"),
        (IN_A_PID_NAMESPACE, "/proc belongs to another pid namespace"),
    ],
    ids=["hidepid", "pid namespace", "/proc of another pid namespace"],
)
def test_who_cannot_see_every_process_establishes_nothing_and_keeps_what_peers_hold(
    spawn, shm_root, prefix, why
):
    owner = spawn.owner(shm_root, SMALL)
    peer = spawn.peer(shm_root, owner)
    with Shmwatch(shm_root, "--rescan=0.3", prefix=prefix) as watching:
        if prefix == IN_A_PID_NAMESPACE:
            watching.find_pid()
            assert why in watching.ready["troubles"][0]
        owner.kill()
        if prefix == IN_A_PID_NAMESPACE:
            # There the creator's number says nothing: it counts as living until a lease tells.
            wait_for(lambda: watching.state()["rescans"] >= 4)
        else:
            assert why in watching.wait("unproven", owner)["reason"]
        assert os.listdir(shm_root) == [owner.name]
        peer.kill()
        assert watching.wait("removed", owner)["evidence"] == "lease"


# -- just born ---------------------------------------------------------------------------------------------

BORN_AND_DEAD = """
import ctypes, heapwriter  # a user without rights may not be able to read them
os.setgroups([]); os.setgid(65534); os.setuid(65534)
name = "heap-%d" % os.getpid()
print("ready", name, flush=True)
sys.stdin.readline()
heapwriter.LiveHeap.create(sys.argv[1], [(4096, ())])
if sys.argv[2] == "peer" and not os.fork():
    sys.stdin.read()
    os._exit(0)
os.kill(os.getpid(), 9)
"""


@needs_root
@pytest.mark.parametrize("peer", ["peer", "alone"])
def test_a_crash_just_after_the_birth_is_told_with_the_files_owner(spawn, shm_root, by_hand, peer):
    young = spawn.python(BORN_AND_DEAD, shm_root, peer)
    watching = by_hand()
    watching.watcher.step(0.1)
    young.send("go")
    event = watching.reported(watch.REMOVED, young)
    assert event.evidence == ("lease" if peer == "alone" else "pids")
    assert (event.creator, event.uid, event.user) == (young.pid, 65534, "nobody")
    assert event.bytes > 0


# -- the rule itself ---------------------------------------------------------------------------------------


def seen(root, name, leases=True):
    with shmfs.ShmDirectory(root) as directory:
        directory.leases = directory.leases and leases
        with directory.open(name) as file:
            return file.sighting


def identify(root, name, **options):
    return creator.identify(seen(root, name), procfs.Processes(**options), 7.0)


def test_a_living_creator_is_identified_by_its_pid_start_and_file(spawn, shm_root):
    owner = spawn.owner(shm_root, SMALL)
    found = identify(shm_root, owner.name)
    status = os.stat(path_of(shm_root, owner))
    assert (found.pid, found.start, found.since) == (owner.pid, procfs.pulse(owner.pid)[0], 7.0)
    assert found.file_id == (status.st_dev, status.st_ino)


def test_no_one_is_identified_where_any_doubt_remains(spawn, shm_root, tmp_path):
    owner = spawn.owner(shm_root, SMALL)
    assert identify(shm_root, owner.name)
    assert identify(shm_root, owner.name, proc_root=str(tmp_path)) is None  # nothing can be seen
    dead = put_heap(shm_root, f"heap-{spawn.dead_pid()}", 1)
    assert identify(shm_root, dead) is None
    not_its_own = put_heap(shm_root, f"heap-{os.getpid()}", os.getpid())
    assert identify(shm_root, not_its_own) is None  # nobody maps it
    elsewhere = seen(shm_root, owner.name)
    elsewhere.on_tmpfs = False
    assert creator.identify(elsewhere, procfs.Processes(), 0.0) is None
    os.link(path_of(shm_root, owner), path_of(shm_root, "another-name"))
    assert identify(shm_root, "another-name") is None
    set_creator(shm_root, owner.name, spawn.dead_pid())
    assert identify(shm_root, owner.name) is None
    half_made = spawn.python(
        "n = 'heap-%d' % os.getpid(); fd = os.open(sys.argv[1] + '/' + n, os.O_RDWR | os.O_CREAT)\n"
        "print('ready', n, flush=True); sys.stdin.read()",
        shm_root,
    )
    assert identify(shm_root, half_made.name) is None


HAS_IT_OPEN = """
    fd = os.open(os.path.join(sys.argv[1], "heap-" + sys.argv[2]), os.O_RDWR)
    print("ready", flush=True)
"""


@needs_root
@pytest.mark.parametrize("body", [WHOLE_HEAP, HAS_IT_OPEN], ids=["maps it", "has it open"])
def test_no_one_is_identified_while_a_namesake_in_a_container_may_be_it(spawn, shm_root, body):
    owner = spawn.owner(shm_root, SMALL)
    bystander = container_with(spawn, shm_root, "    print('ready', flush=True)", owner.pid)
    assert identify(shm_root, owner.name)  # that one has nothing to do with the heap
    container = container_with(spawn, shm_root, body, owner.pid)
    assert identify(shm_root, owner.name) is None
    container.kill()
    assert identify(shm_root, owner.name)
    assert bystander.process.poll() is None


@needs_root
def test_a_creator_in_a_container_is_not_identified_by_the_pid_that_it_has_here(spawn, shm_root):
    container = container_with(spawn, shm_root, WHOLE_HEAP, free_pid())
    assert identify(shm_root, container.name) is None


def test_an_identity_fits_the_file_that_it_was_established_for_and_no_other(spawn, shm_root):
    owner, other = spawn.owner(shm_root, SMALL), spawn.owner(shm_root, SMALL)
    found = identify(shm_root, owner.name)
    assert found.fits(seen(shm_root, owner.name))
    spawn.peer(shm_root, owner)
    attached = seen(shm_root, owner.name)
    assert attached.raw != found.raw and found.fits(attached)  # the count of references differs
    assert not found.fits(seen(shm_root, other.name))
    for at in [*range(8), *range(12, 16)]:
        changed = seen(shm_root, owner.name)
        changed.raw = changed.raw[:at] + bytes([changed.raw[at] ^ 1]) + changed.raw[at + 1 :]
        assert not found.fits(changed)
    changed = seen(shm_root, owner.name)
    changed.kind = shmfs.HALF_MADE
    assert not found.fits(changed)


def test_the_verdict_by_an_identity_says_what_the_lease_says(spawn, shm_root):
    owner = spawn.owner(shm_root, SMALL)
    peer = spawn.peer(shm_root, owner)
    found = identify(shm_root, owner.name)
    owner.kill()
    attached = creator.judge_by_identity(seen(shm_root, owner.name), found, 2.5)
    assert (attached.state, attached.evidence) == (creator.ATTACHED, creator.IDENTITY)
    assert "2.5 s before" in attached.reason and attached.attached == ()
    silent = creator.judge_by_identity(seen(shm_root, owner.name, leases=False), found, 2.5)
    assert (silent.state, silent.evidence) == (creator.ORPHANED, creator.IDENTITY)
    peer.kill()
    alone = seen(shm_root, owner.name)
    assert alone.answer is lease.GRANTED
    granted = creator.judge_by_identity(alone, found, 2.5)
    assert (granted.state, granted.evidence) == (creator.ORPHANED, creator.LEASE)
    put_heap(shm_root, owner.name, spawn.dead_pid())
    assert creator.judge_by_identity(seen(shm_root, owner.name), found, 2.5) is None
