"""Notice that a process died, within a millisecond or two, and have its heap removed.

Three triggers lead to the same judgement, and each may be missing:

- inotify on the directory: IN_CLOSE_WRITE comes when a process' last writable reference to a file goes,
  so also when it is SIGKILLed with nothing but a mapping left; from any pid namespace, without privilege.
- a pidfd for each living creator: tells its death also while peers hold the heap.
- a look at everything, at the start, every `rescan` seconds, and after events were lost.

Limit: of files that are not named heap-<pid> the triggers tell only once a look at everything has found
that they are heaps.
"""

import errno
import heapq
import os
import random
import resource
import select
import time
from bisect import bisect_left
from collections import deque

from gppshm import creator, fifos, kernel, lease, processes, procfs, reaper, shmfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Deque, Dict, List, Optional, Tuple

HOST = "host"
CHILDREN = "children"
SCOPES = (HOST, CHILDREN)

RETRIES = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.5)
"""Seconds between the tries of a heap on which nothing is proven, before it waits for the next rescan."""
LEASES_FIRST = 4
"""So many tries of a heap are made by leases alone, before all processes of the host are looked at for it."""
PATIENCE = 6
"""So many tries another cleaner is waited for that is at the same heap; it may be a hostile lock holder."""
FIRST_SIGHT = 0.02
"""Seconds after the creation of a file at which it is looked at: its creator writes the header first."""
PAUSE = 0.005
"""Seconds for which events are left to gather while they come thick and lead to nothing."""
CHUNK = 16
"""So many names that are not known to be heaps are looked at before the triggers are asked again."""
RESCAN_CHUNK = 32
"""So many names of a rescan, likewise."""
MANY = 4096
"""With so many names waiting no more events are read; the kernel drops them then, which leads to a rescan."""
LOST_EVENTS_RESCAN = 1.0
"""Seconds between rescans that lost events call for."""
JUDGEMENTS = 0.1
"""Seconds between looks at the host's processes that events on one heap may cause."""
LONG_LOOK = 0.005
"""Seconds; after a longer look at all processes on account of a file that nobody was seen to create, the next
such one waits nine times as long, so that a flood of such files takes a tenth of the time."""
SETTLED = 1.0
"""Seconds after the last of `RETRIES` from which on an event on that heap begins them anew."""
SLOW_EXIT = 1.0
"""Seconds that a creator may take to exit after it unlinked its heap, before it is told as another's deed."""
HEADROOM = 16
"""So many descriptors are never spent on pidfds: judging and unlinking need some."""

SWITCH_INTERVAL = 0.0005
"""For sys.setswitchinterval, where other threads compute beside a watcher: they give way after so long."""

_EVENTS = kernel.IN_CLOSE_WRITE | kernel.IN_CREATE | kernel.IN_MOVED_TO


class Kind(str):
    """What an `Event` tells."""

    __slots__ = ()


REMOVED = Kind("removed")
WOULD_REMOVE = Kind("would remove")
FAILED = Kind("failed")
"""An orphan that could not be unlinked, or a heap that could not be opened; told once until it changes."""
UNPROVEN = Kind("unproven")
"""After all tries it is not known whether the creator lives; kept, tried again at each rescan; told once."""
UNLINKED = Kind("unlinked by others")
"""A heap was unlinked, and its creator lives on and maps it."""
TROUBLE = Kind("trouble")
"""A trigger is missing or has lost events; what stands in for it.  Told once until it is mended."""


class Event:
    """One thing that happened.

    time        seconds since 1970, to be shown; nothing is decided by it
    latency     seconds from the trigger to when it was done
    trigger     "close", "pidfd", "created", "rescan"; "" of TROUBLE and UNLINKED
    device, inode  of the file; 0 if it was not seen
    bytes       of the file, allocated when it was last seen
    creator     pid by the header or the name; `command`, its `words` and `user` as noted while it lived
    attached    (pid, command) of those who keep the memory of a removed heap
    """

    def __init__(self, kind: Kind, reason: str, name: str = "") -> None:
        self.kind = kind
        self.reason = reason
        self.name = name
        self.time = time.time()
        self.latency = 0.0
        self.trigger = ""
        self.evidence = str(creator.NONE)
        self.device = 0
        self.inode = 0
        self.bytes = 0
        self.creator = 0
        self.command = processes.UNKNOWN
        self.words: Tuple[str, ...] = ()
        self.user = processes.UNKNOWN
        self.attached: List[Tuple[int, str]] = []


class Tracked:
    """What is known of one file since it was first seen.

    bytes     allocated by the file when it was last seen
    creator   pid, as seen from here, of the creator that was seen alive; 0 if none was
    alive     it is not known to have died
    descends  it was seen to descend from the watcher's `parent`
    pidfd     while it lives, where there is one
    attempts  so many tries in a row proved nothing
    due       when it will be tried again (monotonic); 0 if it will not
    in_turn   a try that was due, or a rescan, may look at the host's processes on its account
    judged    when the host's processes were looked at on its account
    since     when the trigger came that is being followed, and which it was
    told      what was told of its present state
    vanished  when its name was first missed while its creator lived; 0 if it was not
    """

    __slots__ = (
        "alive",
        "attempts",
        "bytes",
        "creator",
        "descends",
        "description",
        "due",
        "file_id",
        "in_turn",
        "judged",
        "pidfd",
        "since",
        "told",
        "trigger",
        "vanished",
    )

    def __init__(self, trigger: str, since: float) -> None:
        self.file_id = (0, 0)
        self.bytes = 0
        self.creator = 0
        self.alive = False
        self.description = processes.Description()
        self.descends = False
        self.in_turn = False
        self.pidfd: Optional[int] = None
        self.attempts = 0
        self.due = 0.0
        self.judged = -JUDGEMENTS
        self.since = since
        self.trigger = trigger
        self.told = ""
        self.vanished = 0.0


class Latencies:
    """How long removals took, from the kernel's word of the death to the unlinking.

    counts   so many took no longer than the limit of that number, and longer than the one before; the last
             took longer than all
    seconds  all together
    """

    LIMITS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

    def __init__(self) -> None:
        self.counts = [0] * (len(self.LIMITS) + 1)
        self.seconds = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(self.LIMITS, seconds)] += 1
        self.seconds += seconds


class Counts:
    """What a watcher has done so far.

    latencies  of heaps whose creator's death was told; of what a rescan found it is not known when it died
    """

    def __init__(self) -> None:
        self.latencies = Latencies()
        self.removed = 0
        self.fifos = 0
        self.bytes = 0
        self.failures = 0
        self.rescans = 0
        self.wakeups = 0


class Watcher:
    """Watches one directory and removes orphaned heaps, calling `on_event` with an `Event` for each.

    scope     HOST: every orphan; CHILDREN: only heaps whose creator was seen alive, descending from `parent`
    rescan    seconds between looks at everything
    remove_fifos  at each rescan, also dead processes' FIFOs in `fifo_root`
    A context manager.  `run` does the work, in the thread that calls it; no other thread is made.  An
    exception of `on_event` ends `run`: catch in the callback what shall not.  OSError if the directory
    cannot be opened.
    """

    def __init__(
        self,
        root: str = shmfs.DEFAULT_ROOT,
        on_event: "Callable[[Event], None]" = lambda event: None,
        scope: str = HOST,
        parent: int = 0,
        rescan: float = 30.0,
        dry_run: bool = False,
        remove_fifos: bool = False,
        fifo_root: str = fifos.DEFAULT_ROOT,
        proc_root: str = "/proc",
    ) -> None:
        processes.available()  # imports psutil now, and not when the first heap waits
        self.root = root
        self.scope = scope
        self.parent = parent
        self.rescan = rescan
        self.counts = Counts()
        self._on_event = on_event
        self._proc_root = proc_root
        self._dry_run = dry_run
        self._fifo_root = fifo_root
        self._remove_fifos = remove_fifos
        self._orders: Optional[Tuple[str, float, bool, bool]] = None
        self._told_fifos: Dict[str, Tracked] = {}
        self._tracked: Dict[str, Tracked] = {}
        self._by_pidfd: Dict[int, str] = {}
        self._next_look = 0.0
        self._due: List[Tuple[float, str]] = []
        # Names of events that are not known to be heaps, with what came and when; names of a rescan.
        self._strange: Dict[str, Tuple[str, float]] = {}
        self._backlog: Deque[str] = deque()
        self._next_rescan = 0.0
        self._last_rescan = -LOST_EVENTS_RESCAN
        self._last_overflow = -LOST_EVENTS_RESCAN
        self._last_vain = -PAUSE
        self._resume = 0.0
        self._listening = False
        self._stopping = False
        self._troubles: Dict[str, str] = {}
        self._inotify: Optional[kernel.Inotify] = None
        self.directory = shmfs.ShmDirectory(root, proc_root)
        try:
            self._epoll = select.epoll()
            try:
                self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            except OSError:
                self._epoll.close()
                raise
        except OSError:
            self.directory.close()
            raise
        self._epoll.register(self._wake_read, select.EPOLLIN)
        self._reaper = self._make_reaper()
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Watcher":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def living(self) -> "List[str]":
        """The names of the heaps whose creator was seen alive and is not known to have died."""
        return [name for name, tracked in list(self._tracked.items()) if tracked.alive]

    def is_unsettled(self) -> bool:
        """Whether a creator lives, or is just being described, or a try on a heap is still to come."""
        every = list(self._tracked.values())
        return any(tracked.alive or tracked.due or tracked.pidfd is not None for tracked in every)

    def offspring(self) -> "List[str]":
        """Those of `living` whose creator was seen to descend from `parent`, which may have ended since."""
        return [name for name, tracked in list(self._tracked.items()) if tracked.alive and tracked.descends]

    def troubles(self) -> "List[str]":
        """What is wrong with the triggers now, a sentence each."""
        return list(self._troubles.values())

    @property
    def pidfds(self) -> int:
        """How many creators are watched by a pidfd."""
        return len(self._by_pidfd)

    @property
    def inotify_works(self) -> bool:
        return self._inotify is not None

    def stop(self) -> None:
        """Make `run` return; may be called from any thread and from a signal handler."""
        self._stopping = True
        self.wake()

    def wake(self) -> None:
        """Make `step` return soon; may be called from any thread and from a signal handler."""
        try:
            os.write(self._wake_write, b"x")
        except BlockingIOError:
            pass

    def change(self, scope: str, rescan: float, dry_run: bool, remove_fifos: bool) -> None:
        """Go on by other orders, all at once, and look at everything anew; may be called from any thread."""
        self._orders = scope, rescan, dry_run, remove_fifos
        self.wake()

    def description(self, name: str, file_id: "Tuple[int, int]") -> processes.Description:
        """Who the creator of that heap is, as noted while it lived; from any thread."""
        tracked = self._tracked.get(name)
        if tracked is None or tracked.file_id != file_id:
            return processes.Description()
        return tracked.description

    def lives(self, seen: shmfs.Sighting) -> int:
        """The pid of a heap's creator whose death a pidfd has not told; 0 where none watches it."""
        tracked = self._tracked.get(seen.name)
        if tracked is None or tracked.pidfd is None or tracked.file_id != seen.file_id:
            return 0
        return tracked.creator

    def look_again(self) -> None:
        """Have everything looked at soon: something may have been missed."""
        self._next_rescan = min(
            self._next_rescan, max(time.monotonic(), self._last_rescan + LOST_EVENTS_RESCAN)
        )

    def close(self) -> None:
        """Give back every descriptor; no lease is held outside of a step."""
        for name in list(self._tracked):
            self._forget(name)
        self._drop_inotify()
        self._reaper.close()
        self.directory.close()
        self._epoll.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def run(self) -> None:
        """Work until `stop`."""
        while not self._stopping:
            self.step()

    def sweep(self, last: bool = False) -> None:
        """Look at everything once, now, until `stop`; as the `last` thing, after it.

        The last one also makes all tries that are due for the dead; who calls it waits only so long.
        """
        self._start_rescan(time.monotonic())
        while self._backlog and (last or not self._stopping):
            self._settle(self._take_backlog(time.monotonic()))
        while last and any(tracked.due and not tracked.alive for tracked in self._tracked.values()):
            self.step()  # the kernel may not be through with a crash of this moment

    def step(self, longest: "Optional[float]" = None) -> None:
        """Wait, `longest` seconds at most, for the next thing to do, and do it."""
        ready = self._epoll.poll(self._time_left(longest))
        now = time.monotonic()
        self.counts.wakeups += 1
        if self._orders is not None:
            self._obey(now)
        names: List[str] = []
        died: List[int] = []
        events = False
        for fd, _ in ready:
            if fd == self._wake_read:
                os.read(fd, 4096)
            elif fd in self._by_pidfd:
                died.append(fd)
            else:
                events = True
        if events:
            names += self._read_events(now)
        # After the events of the same deaths, which say less: a close calls for leases first.
        names += [self._creator_died(fd, now) for fd in died]
        names += self._take_due(now)
        if self._strange:
            names += self._take_strange()
        if now >= self._next_rescan:
            self._start_rescan(now)
        if self._backlog:
            names += self._take_backlog(now)
        if names:
            found = self._settle(list(dict.fromkeys(names)))
            if events and not found:
                self._slow_down(now)
        elif events:
            self._slow_down(now)
        listen = now >= self._resume and len(self._strange) < MANY
        if listen != self._listening:
            self._listen(listen)

    def _time_left(self, longest: "Optional[float]") -> float:
        if self._backlog or self._strange:
            return 0.0
        until = self._next_rescan
        if self._due:
            until = min(until, self._due[0][0])
        if not self._listening and self._inotify is not None:
            until = min(until, self._resume)
        left = max(0.0, until - time.monotonic())
        return left if longest is None else min(left, longest)

    def _obey(self, now: float) -> None:
        """Put new orders in force; what was told under the old ones is told again."""
        orders, self._orders = self._orders, None
        assert orders is not None
        self.scope, self.rescan, self._dry_run, self._remove_fifos = orders
        self._reaper.dry_run = self._dry_run
        for tracked in self._tracked.values():
            tracked.told = ""
        self._next_rescan = now

    # -- triggers ------------------------------------------------------------------------------------

    def _creator_died(self, pidfd: int, now: float) -> str:
        name = self._by_pidfd[pidfd]
        self._forget_pidfd(pidfd)
        tracked = self._tracked[name]
        tracked.pidfd, tracked.alive = None, False
        tracked.attempts, tracked.judged = 0, -JUDGEMENTS
        tracked.since, tracked.trigger = now, "pidfd"
        return name

    def _read_events(self, now: float) -> "List[str]":
        """Take what inotify tells; the names of known heaps in it."""
        known = []
        for mask, name in self._inotify.read() if self._inotify is not None else ():
            if mask & (kernel.IN_Q_OVERFLOW | kernel.IN_IGNORED | kernel.IN_UNMOUNT):
                self._events_lost(mask, now)
                continue
            tracked = self._tracked.get(name)
            if mask & kernel.IN_CREATE:
                if shmfs.pid_of_name(name):
                    self._later(tracked or self._track(name, "created", now), name, now + FIRST_SIGHT)
            elif tracked is not None and tracked.creator:
                _follow(tracked, "close", now)
                known.append(name)
            elif tracked is not None or shmfs.pid_of_name(name):
                self._strange.setdefault(name, ("close", now))
        return known

    def _events_lost(self, mask: int, now: float) -> None:
        if mask & kernel.IN_Q_OVERFLOW:
            self._last_overflow = now
            self._trouble("overflow", "the kernel dropped inotify events; everything is looked at again")
        else:
            self._trouble("inotify", "the directory is gone; it is looked for at each rescan")
            self._drop_inotify()
        self.look_again()

    def _take_strange(self) -> "List[str]":
        names = []
        for name in list(_first(self._strange, CHUNK)):
            trigger, since = self._strange.pop(name)
            _follow(self._track(name, trigger, since), trigger, since)
            names.append(name)
        return names

    def _slow_down(self, now: float) -> None:
        """Let events gather if they lead to nothing and come thick: a flood then costs little."""
        if now - self._last_vain < PAUSE:
            self._resume = now + PAUSE
        self._last_vain = now

    def _listen(self, listen: bool) -> None:
        self._listening = listen
        if self._inotify is not None:
            self._epoll.modify(self._inotify.fd, select.EPOLLIN if listen else 0)

    def _start_rescan(self, now: float) -> None:
        if self._last_overflow < self._last_rescan:
            self._troubles.pop("overflow", None)
        self._last_rescan = now
        self._next_rescan = now + self.rescan
        self.counts.rescans += 1
        self._follow_root()
        try:
            names = self.directory.names()
        except OSError as error:
            self._trouble("listing", f"{self.root} cannot be listed: {error.strerror}")
            return
        self._troubles.pop("listing", None)
        self._backlog = deque(names)
        if self._remove_fifos:
            self._reap_fifos()
        there = set(names)
        for name in [name for name in self._tracked if name not in there]:
            self._name_is_missing(name, self._tracked[name])

    def _take_backlog(self, now: float) -> "List[str]":
        names = [self._backlog.popleft() for _ in range(min(RESCAN_CHUNK, len(self._backlog)))]
        for name in names:
            tracked = self._tracked.get(name)
            if tracked is not None:
                tracked.in_turn = True
                if not tracked.attempts and not tracked.due:
                    tracked.since, tracked.trigger = now, "rescan"
        return names

    # -- the directory and its inotify ----------------------------------------------------------------

    def _make_reaper(self) -> reaper.Reaper:
        return reaper.Reaper(
            self.directory,
            self._proc_root,
            self._dry_run,
            self._needs_no_judge,
            self._may_look,
            self._permitted,
        )

    def _start(self) -> None:
        if not self.directory.on_tmpfs:
            self._trouble("root", f"{self.root} is no tmpfs: nothing can be proven there, and all is kept")
        elif not self.directory.leases:
            self._trouble("root", "leases could not be shown to prove anything here: only pids do")
        self._add_inotify()

    def _add_inotify(self) -> None:
        if self._inotify is None:
            try:
                inotify = kernel.Inotify(self.root, _EVENTS)
            except OSError as error:
                self._trouble("inotify", f"no inotify: {error.strerror}; pidfds and rescans remain")
                return
            self._inotify = inotify
            self._epoll.register(inotify.fd, select.EPOLLIN)
            self._listening, self._resume = True, 0.0
            self._troubles.pop("inotify", None)

    def _drop_inotify(self) -> None:
        if self._inotify is not None:
            self._epoll.unregister(self._inotify.fd)
            self._inotify.close()
            self._inotify = None

    def _follow_root(self) -> None:
        """Go over to another directory that lies at the path now, and try for inotify again."""
        try:
            there, here = os.stat(self.root), os.fstat(self.directory.fd)
            if (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino):
                directory = shmfs.ShmDirectory(self.root, self._proc_root)
                for name in list(self._tracked):
                    self._forget(name)
                self._drop_inotify()
                self._reaper.close()
                self.directory.close()
                self.directory = directory
                self._reaper = self._make_reaper()
                self._troubles.pop("root", None)
                self._tell_trouble(f"another directory lies at {self.root} now: that one is watched")
                self._start()
            self._troubles.pop("path", None)
            self._add_inotify()
        except OSError as error:
            self._trouble("path", f"{self.root} cannot be opened: {error.strerror}; tried at each rescan")

    # -- settling -----------------------------------------------------------------------------------

    def _settle(self, names: "List[str]") -> bool:
        """Reap the names; whether anything came of it (a death, or a heap not known before)."""
        started = time.monotonic()
        known = {name for name in names if name in self._tracked and self._tracked[name].creator}
        stubborn = [
            name for name in names if name in self._tracked and self._tracked[name].attempts >= PATIENCE
        ]
        if stubborn:
            outcomes = self._reaper.reap([name for name in names if name not in stubborn])
            outcomes += self._reaper.reap(stubborn, alone=False)
        else:
            outcomes = self._reaper.reap(names)
        took = time.monotonic() - started
        if took > LONG_LOOK and any(_took_a_look(each) for each in outcomes if each.name not in known):
            self._next_look = started + 10 * took
        found = False
        for outcome in outcomes:
            found = self._record(outcome) or found
        return found

    def _needs_no_judge(self, seen: shmfs.Sighting) -> bool:
        """Whether what no lease proves calls for no look at the host's processes now.

        A pidfd says that the creator lives; or they were looked at just now, and will be again soon: events
        on one heap, or on many files that nobody was seen to have created, shall not each cost such a look.
        """
        tracked = self._tracked.get(seen.name)
        if tracked is None:
            return False
        now = time.monotonic()
        if tracked.creator and tracked.file_id == seen.file_id:
            if tracked.pidfd is not None:
                return True
            next_look = 0.0
        else:
            next_look = self._next_look
        if not tracked.in_turn:
            next_look = max(next_look, tracked.judged + JUDGEMENTS)
        if now >= next_look:
            return False
        # Before that by leases: the kernel tells of a last close just before it grants them.
        if not tracked.creator and not self._retry(tracked, seen.name):
            tracked.attempts = LEASES_FIRST
        self._later(tracked, seen.name, next_look)
        return True

    def _may_look(self, seen: shmfs.Sighting) -> bool:
        """Whether what the creator's own process does not tell is worth a look at all others now.

        A process that is just ending has no maps any more, but still its files: a lease, asked for again in
        some milliseconds, tells as much.  When a pidfd tells of its end, the files are gone too.
        """
        tracked = self._tracked.get(seen.name)
        return tracked is None or tracked.trigger == "pidfd" or tracked.attempts >= LEASES_FIRST

    def _permitted(self, seen: shmfs.Sighting) -> bool:
        if self.scope == HOST:
            return True
        tracked = self._tracked.get(seen.name)
        return tracked is not None and tracked.descends and tracked.file_id == seen.file_id

    def _record(self, outcome: reaper.Outcome) -> bool:
        """Draw the consequences; whether anything came of it."""
        name, seen, result = outcome.name, outcome.sighting, outcome.result
        tracked = self._tracked.get(name)
        if result is reaper.GONE:
            return tracked is not None and self._name_is_missing(name, tracked)
        if result is reaper.OUT_OF_SCOPE or (result is reaper.NO_HEAP and not _in_the_making(seen)):
            self._forget(name)
            return False
        if result is reaper.FAILED and seen is not None and seen.kind is shmfs.UNREADABLE:
            if not shmfs.pid_of_name(name):  # nobody knows that it is a heap
                self._forget(name)
                return False
        found = tracked is None or not tracked.creator
        if tracked is None:
            tracked = self._track(name, "rescan", self._last_rescan)
        tracked.vanished, tracked.in_turn = 0.0, False
        if seen is not None:
            if tracked.file_id != seen.file_id:
                self._start_new_life(tracked, seen)
            tracked.bytes = seen.status.st_blocks * 512
        if outcome.verdict is not None:
            tracked.judged = time.monotonic()
            if outcome.verdict.state in creator.ORPHANS:
                tracked.alive = False
        if result is reaper.REMOVED:
            event = self._event(REMOVED, outcome, tracked)
            self.counts.removed += 1
            self.counts.bytes += event.bytes
            if event.trigger in ("close", "pidfd"):
                self.counts.latencies.add(event.latency)
            self._forget(name)
            self._on_event(event)
            return True
        if result is reaper.KEPT and outcome.verdict is None:
            return False
        if result is reaper.KEPT and outcome.verdict is not None and outcome.verdict.creator:
            tracked.attempts, tracked.told = 0, ""
            self._found_alive(tracked, name, outcome.verdict.creator)
        elif result in (reaper.KEPT, reaper.NO_HEAP):  # it is just being made
            if not self._retry(tracked, name):
                self._forget(name)
            return False
        elif result is reaper.UNSURE or outcome.error in reaper.NO_DESCRIPTOR:
            if not self._retry(tracked, name):
                self._tell(UNPROVEN, outcome, tracked)
        elif result is reaper.WOULD_REMOVE:
            self._tell(WOULD_REMOVE, outcome, tracked)
        else:
            self._tell(FAILED, outcome, tracked)
        return found

    def _start_new_life(self, tracked: Tracked, seen: shmfs.Sighting) -> None:
        """Another file lies under the name: nothing that is known of the first holds for it."""
        tracked.file_id = seen.file_id
        if tracked.pidfd is not None:
            self._forget_pidfd(tracked.pidfd)
        tracked.pidfd, tracked.creator, tracked.alive, tracked.descends = None, 0, False, False
        tracked.description = processes.Description()
        tracked.told = ""

    def _found_alive(self, tracked: Tracked, name: str, pid: int) -> None:
        """Have the creator's death told by a pidfd, and note who it is while it lives."""
        if tracked.creator == pid and tracked.pidfd is not None:
            return
        known = tracked.creator == pid and tracked.alive
        tracked.creator = pid
        if self._open_pidfd(tracked, name, pid) and not known:
            tracked.description = processes.describe(pid)
            tracked.descends = self.parent > 0 and self.parent in processes.ancestors(pid)
            tracked.alive = True

    def _open_pidfd(self, tracked: Tracked, name: str, pid: int) -> bool:
        """Whether `pid` still is the creator; with a pidfd of it then, where there is one."""
        try:
            fd = kernel.pidfd_open(pid)
            if fd >= _descriptor_limit() - HEADROOM:
                os.close(fd)
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        except ProcessLookupError:
            fd = -1
        except OSError as error:
            self._trouble("pidfd", f"no pidfd: {error.strerror}; inotify and rescans remain")
            return True
        # The pid may have got a new owner since the verdict.
        if not procfs.Processes(self._proc_root).maps(pid, tracked.file_id):
            if fd >= 0:
                os.close(fd)
            tracked.alive = False
            self._later(tracked, name, time.monotonic())
            return False
        if fd < 0:  # it lives, and not by that number here
            what = f"{self._proc_root} belongs to another pid namespace"
            self._trouble("pidfd", f"no pidfd: {what}; inotify and rescans remain")
            return True
        if tracked.pidfd is not None:
            self._forget_pidfd(tracked.pidfd)
        tracked.pidfd = fd
        self._by_pidfd[fd] = name
        self._epoll.register(fd, select.EPOLLIN)
        self._troubles.pop("pidfd", None)
        return True

    def _name_is_missing(self, name: str, tracked: Tracked) -> bool:
        """A normal exit, unless the creator lives on: then it is told.  Whether a heap has gone."""
        now = time.monotonic()
        if not tracked.alive:
            self._forget(name)
            return bool(tracked.creator)
        if not tracked.vanished:
            tracked.vanished = now
            self._later(tracked, name, now + SLOW_EXIT)
            return True
        if now - tracked.vanished < SLOW_EXIT:
            return False
        if not procfs.Processes(self._proc_root).maps(tracked.creator, tracked.file_id):
            self._forget(name)
        elif not tracked.told:
            tracked.told = (
                f"its creator, process {tracked.creator}, lives on and maps it; somebody else unlinked it"
                " (a forked child that exits, shmclean -f, systemd's RemoveIPC)"
            )
            event = Event(UNLINKED, tracked.told, name)
            event.device, event.inode = tracked.file_id
            event.bytes = tracked.bytes
            self._add_creator(event, tracked)
            self._on_event(event)
        return False

    # -- telling ------------------------------------------------------------------------------------

    def _tell(self, kind: Kind, outcome: reaper.Outcome, tracked: Tracked) -> None:
        """Tell of something that stays as it is, once."""
        if tracked.told != outcome.reason:
            tracked.told = outcome.reason
            self.counts.failures += kind is FAILED
            self._on_event(self._event(kind, outcome, tracked))

    def _event(self, kind: Kind, outcome: reaper.Outcome, tracked: Tracked) -> Event:
        event = Event(kind, outcome.reason, outcome.name)
        event.trigger = tracked.trigger
        event.latency = max(0.0, outcome.done - tracked.since)
        event.creator = shmfs.pid_of_name(outcome.name) or fifos.pid_of_name(outcome.name)
        if outcome.sighting is not None:
            event.device, event.inode = outcome.sighting.file_id
            event.bytes = outcome.sighting.status.st_blocks * 512
            header = outcome.sighting.header
            if not event.creator and header is not None:
                event.creator = header.creator
        if outcome.verdict is not None:
            event.evidence = outcome.verdict.evidence
            event.attached = [(pid, processes.describe(pid).command) for pid in outcome.verdict.attached]
        self._add_creator(event, tracked)
        return event

    def _add_creator(self, event: Event, tracked: Tracked) -> None:
        event.creator = tracked.creator or event.creator
        who = tracked.description
        event.command, event.words, event.user = who.command, who.words, who.user

    def _trouble(self, what: str, reason: str) -> None:
        if self._troubles.get(what) != reason:
            self._troubles[what] = reason
            self._tell_trouble(reason)

    def _tell_trouble(self, reason: str) -> None:
        self._on_event(Event(TROUBLE, reason))

    def _reap_fifos(self) -> None:
        kinds = {reaper.REMOVED: REMOVED, reaper.WOULD_REMOVE: WOULD_REMOVE, reaper.FAILED: FAILED}
        try:
            outcomes = fifos.reap(self._fifo_root, self._proc_root, self._dry_run)
        except OSError as error:
            self._trouble("fifos", f"{self._fifo_root} cannot be read: {error.strerror}")
            return
        self._troubles.pop("fifos", None)
        told, self._told_fifos = self._told_fifos, {}
        for outcome in outcomes:
            tracked = told.get(outcome.name) or Tracked("rescan", self._last_rescan)
            self._told_fifos[outcome.name] = tracked
            if outcome.result is reaper.REMOVED:
                self.counts.fifos += 1
                self._on_event(self._event(REMOVED, outcome, tracked))
            elif outcome.result in kinds:
                self._tell(kinds[outcome.result], outcome, tracked)

    # -- bookkeeping ------------------------------------------------------------------------------------

    def _track(self, name: str, trigger: str, since: float) -> Tracked:
        tracked = self._tracked.get(name)
        if tracked is None:
            tracked = self._tracked[name] = Tracked(trigger, since)
        return tracked

    def _forget(self, name: str) -> None:
        tracked = self._tracked.pop(name, None)
        if tracked is not None and tracked.pidfd is not None:
            self._forget_pidfd(tracked.pidfd)

    def _forget_pidfd(self, fd: int) -> None:
        del self._by_pidfd[fd]
        self._epoll.unregister(fd)
        os.close(fd)

    def _later(self, tracked: Tracked, name: str, when: float) -> None:
        if not tracked.due or when < tracked.due:
            tracked.due = when
            heapq.heappush(self._due, (when, name))

    def _retry(self, tracked: Tracked, name: str) -> bool:
        """Whether there is one more try to come."""
        if tracked.attempts >= len(RETRIES):
            return False
        delay = RETRIES[tracked.attempts] * random.uniform(0.5, 1.5)
        tracked.attempts += 1
        self._later(tracked, name, time.monotonic() + delay)
        return True

    def _take_due(self, now: float) -> "List[str]":
        """The names of heaps whose time has come; what is not known to be one waits its turn."""
        names = []
        while self._due and self._due[0][0] <= now:
            when, name = heapq.heappop(self._due)
            tracked = self._tracked.get(name)
            if tracked is None or tracked.due != when:
                continue
            tracked.due, tracked.in_turn = 0.0, True
            if tracked.creator:
                names.append(name)
            else:
                self._strange.setdefault(name, (tracked.trigger, tracked.since))
        return names


def _follow(tracked: Tracked, trigger: str, since: float) -> None:
    """Something came for it; tries that go on already are let go on, and such as have ended begin anew."""
    if not tracked.attempts or (tracked.attempts == len(RETRIES) and since - tracked.judged >= SETTLED):
        tracked.attempts, tracked.since, tracked.trigger = 0, since, trigger


def _took_a_look(outcome: reaper.Outcome) -> bool:
    """Whether all processes of the host were looked at for it; for a living creator its own maps do."""
    verdict, seen = outcome.verdict, outcome.sighting
    if verdict is None or seen is None or verdict.state is creator.ALIVE:
        return False
    return not (seen.kind is shmfs.HEAP and seen.answer is lease.GRANTED)


def _in_the_making(seen: "Optional[shmfs.Sighting]") -> bool:
    """Whether a file without a heap's magic is about to become one: it is named so, and somebody writes."""
    return seen is not None and seen.answer is lease.REFUSED and seen.name_pid > 0


def raise_descriptor_limit() -> None:
    """Each living creator is watched by a descriptor: allow this process as many as it may have."""
    try:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        pass


def _descriptor_limit() -> int:
    try:
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    except OSError:  # a seccomp filter forbids prlimit(2)
        return 1024
    return 1 << 30 if soft == resource.RLIM_INFINITY else soft


def _first(names: "Dict[str, Tuple[str, float]]", count: int) -> "List[str]":
    return [name for _, name in zip(range(count), names)]
