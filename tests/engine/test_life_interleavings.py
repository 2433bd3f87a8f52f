"""No interleaving of births, attachments, deaths, re-creations and cleaners loses a living creator's heap.

The creators are real processes, born and killed in the order that Hypothesis makes up. Where root can ask the
kernel for it (clone3, Linux 5.5), a new creator is given the very pid of a dead one, so it re-creates the
heap of that one in place; elsewhere its pid and name are new. Root's containers have a process with the very
pid, too, that creates the heap anew under its first creator, living or dead.
"""

import ctypes
import os
import select
import shutil
import signal
import tempfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import heapwriter
from gppshm import creator, kernel, lease, procfs, shmfs
from pids import fork_as
from spawning import wait_for

CLONE_NEWPID = 0x20000000
PR_SET_PDEATHSIG = 1
SLOTS = 2
CLEANERS = 2


class Life:
    """A child process: it does its first work, says so, and waits to be told to leave or to be killed."""

    def __init__(self, begin, pid=0):
        ready, say_ready = os.pipe()
        wait, self.control = os.pipe()
        self.pid = fork_as(pid) if pid else os.fork()
        if not self.pid:
            try:
                for fd in range(3, 256):
                    if fd not in (say_ready, wait):
                        try:
                            os.close(fd)
                        except OSError:
                            pass
                leave = begin()
                os.write(say_ready, b"r")
                if os.read(wait, 1):
                    leave()
            finally:
                os._exit(0)
        os.close(say_ready)
        os.close(wait)
        self.ready = ready
        self.dead = self.reaped = False

    def is_ready(self):
        return bool(select.select([self.ready], [], [], 0)[0])

    def leave(self):
        os.write(self.control, b"x")
        self._end()
        self.reap()

    def kill(self):
        """From here on it is dead, and a zombie until `reap`."""
        if not self.dead:
            os.kill(self.pid, signal.SIGKILL)
            self._end()

    def _end(self):
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        self.dead = True

    def reap(self):
        if not self.reaped:
            os.waitpid(self.pid, 0)
            self.reaped = True
            os.close(self.ready)
            os.close(self.control)


class Contained(Life):
    """A process of a container that has `pid` there, and creates the heap of that name."""

    def __init__(self, root, pid):
        libc = ctypes.CDLL(None, use_errno=True)

        def begin():
            ready, say_ready = os.pipe()
            if libc.unshare(CLONE_NEWPID):
                raise OSError(ctypes.get_errno(), "unshare")
            init = os.fork()
            if not init:
                libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
                if not fork_as(pid):
                    assert heapwriter.LiveHeap.create(root, [(4096, ())]).name == f"heap-{pid}"
                    os.write(say_ready, b"r")
                while True:
                    signal.pause()
            os.close(say_ready)
            assert os.read(ready, 1)
            return lambda: end(init)

        def end(init):
            """Its first process ends after all others of a container."""
            os.kill(init, signal.SIGKILL)
            os.waitpid(init, 0)

        super().__init__(begin)

    def kill(self):
        if not self.dead:
            os.write(self.control, b"x")
            self._end()


class World:
    """A few creators with their peers, and two cleaners that judge and unlink a step at a time."""

    def __init__(self, root):
        self.root = root
        self.directory = shmfs.ShmDirectory(root)
        self.creators = [None] * SLOTS
        self.contained = [None] * SLOTS
        self.inodes = {}
        self.peers = [[] for _ in range(SLOTS)]
        self.judged = [None] * CLEANERS
        # Of each cleaner: what it has established, and what tells it that this is void.
        self.identities = [{} for _ in range(CLEANERS)]
        self.changes = [kernel.Inotify(root, kernel.IN_MODIFY) for _ in range(CLEANERS)]
        self.files = [None] * CLEANERS
        self.others = []

    def name(self, slot):
        life = self.creators[slot]
        return life and f"heap-{life.pid}"

    def path(self, slot):
        return os.path.join(self.root, self.name(slot))

    # What happens to heaps

    def create(self, slot, whole):
        """A creator, with its predecessor's pid if that is dead; with only the file there if not `whole`."""
        old = self.creators[slot]
        if old and not old.dead:
            return
        if old:
            old.reap()

        def begin():
            if not whole:
                path = os.path.join(self.root, f"heap-{os.getpid()}")
                os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
                return lambda: os.unlink(path)
            return heapwriter.LiveHeap.create(self.root, [(4096, ())]).unlink

        life = Life(begin, old.pid if old else 0)
        self.creators[slot] = life
        self.await_open(life)
        self.inodes[slot] = os.stat(self.path(slot)).st_ino

    def contain(self, slot):
        """A container's process with the same pid creates the heap, in place if it is there."""
        life, other = self.creators[slot], self.contained[slot]
        if os.geteuid() != 0 or not life or (other and not other.dead):
            return
        if other:
            other.reap()
        self.contained[slot] = Contained(self.root, life.pid)
        self.await_open(self.contained[slot])
        self.inodes[slot] = os.stat(self.path(slot)).st_ino

    def leave_container(self, slot):
        if self.contained[slot]:
            self.contained[slot].kill()

    def lives(self, slot):
        """Whether anybody who created the slot's heap lives."""
        both = self.creators[slot], self.contained[slot]
        return any(life and not life.dead for life in both)

    def attach(self, slot):
        name = self.name(slot)
        if name and os.path.exists(self.path(slot)) and os.stat(self.path(slot)).st_size > 4096:
            peer = Life(lambda: heapwriter.LiveHeap.attach(name, self.root).detach)
            self.peers[slot].append(peer)
            self.await_open(peer)

    def await_open(self, life):
        """Wait until it has begun. It may have to wait for cleaners' leases: then these unlink, just now."""

        def begun_or_waiting():
            return life.is_ready() or [
                cleaner
                for cleaner, file in enumerate(self.files)
                if file and file.sighting.answer is lease.GRANTED and not lease.held(file.fd)
            ]

        while not life.is_ready():
            waiting_for = wait_for(begun_or_waiting)
            for cleaner in waiting_for if waiting_for is not True else ():
                self.unlink(cleaner)

    def die(self, slot, reap):
        """The creator is killed; nobody may reap it for a while."""
        life = self.creators[slot]
        if life:
            life.kill()
            if reap:
                life.reap()

    def exit(self, slot):
        life = self.creators[slot]
        if self.contained[slot] and not self.contained[slot].dead:
            return  # it would unlink that one's heap
        if life and not life.dead and os.path.exists(self.path(slot)):
            life.leave()

    def detach(self, slot, kill):
        if self.peers[slot]:
            peer = self.peers[slot].pop()
            if kill:
                peer.kill()
                peer.reap()
            else:
                peer.leave()

    def bystander(self, slot):
        """The pid of a dead creator goes to a process that has nothing to do with heaps."""
        old = self.creators[slot]
        if old and old.dead:
            old.reap()
            stranger = Life(lambda: None, old.pid)
            self.others.append(stranger)
            wait_for(stranger.is_ready)
            stranger.kill()
            stranger.reap()

    # What cleaners do

    def judge(self, cleaner, slot, leases):
        name = self.name(slot)
        if name is None:
            return
        self.directory.leases = leases
        try:
            with self.directory.open(name) as file:
                sighting = file.sighting
        except FileNotFoundError:
            return
        finally:
            self.directory.leases = True
        verdict = creator.judge(sighting, procfs.Processes())
        if self.lives(slot):
            assert verdict.state not in creator.ORPHANS, verdict
        self.judged[cleaner] = (sighting, verdict)

    def absorb(self, cleaner):
        """Whatever was changed makes void what is established of it; the names."""
        changed = set()
        while True:
            events = self.changes[cleaner].read()
            if not events:
                break
            changed.update(name for _, name in events)
        for name in changed:
            self.identities[cleaner].pop(name, None)
        return changed

    def identify(self, cleaner, slot):
        name = self.name(slot)
        self.absorb(cleaner)
        if name is None or not os.path.exists(self.path(slot)):
            return
        with self.directory.open(name) as file:
            sighting = file.sighting
        identity = creator.identify(sighting, procfs.Processes(), 0.0)
        if identity and name not in self.absorb(cleaner):
            self.identities[cleaner][name] = identity

    def judge_by_identity(self, cleaner, slot):
        name = self.name(slot)
        self.absorb(cleaner)
        identity = self.identities[cleaner].get(name)
        if identity is None or not os.path.exists(self.path(slot)):
            return
        with self.directory.open(name) as file:
            sighting = file.sighting
        start, dead = procfs.pulse(identity.pid)
        if start not in (0, identity.start) or not dead:
            return
        verdict = creator.judge_by_identity(sighting, identity, 0.0)
        if verdict:
            if self.lives(slot):
                assert verdict.state not in creator.ORPHANS, verdict
            self.judged[cleaner] = (sighting, verdict)

    def reopen(self, cleaner):
        if self.judged[cleaner] and not self.files[cleaner]:
            try:
                self.files[cleaner] = self.directory.open(self.judged[cleaner][0].name)
            except FileNotFoundError:
                self.judged[cleaner] = None

    def unlink(self, cleaner):
        if not self.files[cleaner]:
            return
        sighting, verdict = self.judged[cleaner]

        def changed():
            return "it was changed" if sighting.name in self.absorb(cleaner) else ""

        with self.files[cleaner] as file:
            if verdict.state in creator.ORPHANS:
                try:
                    self.directory.unlink(file, sighting, changed)
                except (shmfs.Changed, FileNotFoundError):
                    pass
        self.files[cleaner] = self.judged[cleaner] = None

    # What must be so

    def check(self):
        for slot in range(SLOTS):
            if self.lives(slot):
                assert os.stat(self.path(slot)).st_ino == self.inodes[slot], "a living creator's heap is lost"

    def end(self):
        """All die; whatever they left is proven dead, and goes."""
        for cleaner in range(CLEANERS):
            self.unlink(cleaner)
        self.check()
        self.kill_all()
        for name in self.directory.names():
            # Whoever reads a dead process' maps just then keeps them, and so its file, for that moment.
            wait_for(lambda: self.clean(name))  # noqa: B023
        assert os.listdir(self.root) == []

    def clean(self, name):
        """Whether an orphan was proven and unlinked."""
        with self.directory.open(name) as file:
            verdict = creator.judge(file.sighting, procfs.Processes())
            if verdict.state is not creator.ORPHANED:
                return False
            self.directory.unlink(file, file.sighting)
            return True

    def close(self):
        self.kill_all()
        for file in self.files:
            if file:
                file.close()
        for changes in self.changes:
            changes.close()
        self.directory.close()

    def kill_all(self):
        peers = [peer for peers in self.peers for peer in peers]
        for life in self.creators + self.contained + self.others + peers:
            if life:
                life.kill()
                life.reap()


slots = st.integers(0, SLOTS - 1)
cleaners = st.integers(0, CLEANERS - 1)
steps = st.one_of(
    st.tuples(st.just("create"), slots, st.sampled_from([True, True, False])),
    st.tuples(st.just("attach"), slots),
    st.tuples(st.just("die"), slots, st.booleans()),
    st.tuples(st.just("exit"), slots),
    st.tuples(st.just("detach"), slots, st.booleans()),
    st.tuples(st.just("bystander"), slots),
    st.tuples(st.just("judge"), cleaners, slots, st.sampled_from([True, True, False])),
    st.tuples(st.just("judge"), cleaners, slots, st.just(True)),
    st.tuples(st.just("contain"), slots),
    st.tuples(st.just("leave_container"), slots),
    st.tuples(st.just("identify"), cleaners, slots),
    st.tuples(st.just("judge_by_identity"), cleaners, slots),
    st.tuples(st.just("reopen"), cleaners),
    st.tuples(st.just("reopen"), cleaners),
    st.tuples(st.just("unlink"), cleaners),
    st.tuples(st.just("unlink"), cleaners),
)


def live(script):
    root = tempfile.mkdtemp(prefix="gppshm-test-", dir="/dev/shm")
    world = World(root)
    try:
        for step, *arguments in script:
            getattr(world, step)(*arguments)
            world.check()
        world.end()
    finally:
        world.close()
        shutil.rmtree(root)


@settings(max_examples=120, deadline=None, database=None)
@given(st.lists(steps, max_size=25))
def test_no_interleaving_loses_a_living_creators_heap_and_every_orphan_can_be_cleaned(script):
    live([("create", 0, True)] + script)


moves_of_one = st.sampled_from(
    [
        ("create", 0, True),
        ("attach", 0),
        ("die", 0, True),
        ("die", 0, False),
        ("exit", 0),
        ("bystander", 0),
        *[("contain", 0)] * 2,
        ("leave_container", 0),
        ("identify", 0, 0),
        *[("judge_by_identity", 0, 0)] * 3,
        ("reopen", 0),
        ("unlink", 0),
    ]
)


@settings(max_examples=250, deadline=None, database=None)
@given(st.lists(moves_of_one, min_size=3, max_size=16))
def test_no_interleaving_with_what_was_established_before_loses_a_living_creators_heap(script):
    live([("create", 0, True), ("identify", 0, 0)] + script)


BORN, DEAD = ("create", 0, True), ("die", 0, True)


@pytest.mark.parametrize("leases", [True, False])
@pytest.mark.parametrize(
    "between",
    [
        [],
        [BORN],
        [("create", 0, False)],
        [BORN, ("attach", 0)],
        [("bystander", 0)],
        [BORN, DEAD],
        [BORN, ("exit", 0)],
        [BORN, DEAD, BORN],
    ],
)
@pytest.mark.parametrize("when", ["before it is opened again", "after it is opened again"])
def test_what_happens_between_judging_and_unlinking_costs_no_living_heap(leases, between, when):
    judge, reopen, unlink = ("judge", 0, 0, leases), ("reopen", 0), ("unlink", 0)
    later = between + [reopen] if when.startswith("before") else [reopen] + between
    live([BORN, DEAD, judge] + later + [unlink])


CONTAINED = ("contain", 0)


@pytest.mark.parametrize("peers", [0, 1])
@pytest.mark.parametrize(
    "between",
    [
        [DEAD],
        [DEAD, BORN],
        [CONTAINED, DEAD],
        [DEAD, CONTAINED],
        [CONTAINED, DEAD, ("leave_container", 0)],
        [DEAD, ("bystander", 0)],
        [DEAD, BORN, DEAD],
    ],
)
def test_what_happens_after_a_creator_was_identified_costs_no_living_heap(between, peers):
    identify, judge = ("identify", 0, 0), ("judge_by_identity", 0, 0)
    born = [BORN] + [("attach", 0)] * peers + [identify]
    unlink = [("reopen", 0), ("unlink", 0)]
    live(born + between + [judge] + unlink)
    for number in range(1, len(between) + 1):
        live(born + between[:number] + [judge] + between[number:] + unlink)
        live(born + between[:number] + [judge, ("reopen", 0)] + between[number:] + [("unlink", 0)])


def test_two_cleaners_and_a_new_life_between_them():
    both = [("judge", 0, 0, True), ("judge", 1, 0, True), ("reopen", 0), ("reopen", 1)]
    live([BORN, DEAD] + both + [("unlink", 0), BORN, ("unlink", 1)])
    live([BORN, ("attach", 0), DEAD] + both + [("unlink", 0), BORN, ("unlink", 1)])


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: to choose a pid")
def test_a_pid_is_really_reused_here():
    root = tempfile.mkdtemp(prefix="gppshm-test-", dir="/dev/shm")
    world = World(root)
    try:
        world.create(0, True)
        pid, inode = world.creators[0].pid, world.inodes[0]
        world.die(0, True)
        world.create(0, True)
        assert (world.creators[0].pid, world.inodes[0]) == (pid, inode)
    finally:
        world.close()
        shutil.rmtree(root)
