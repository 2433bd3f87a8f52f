"""Notice that a process died, within a millisecond or two, and have its heap removed.

A step is: what happened (`triggers`), a verdict (`creator`), the unlink (`reaper`); then everything that is
only for telling (`account`, `telling`).  Up to the unlink nothing is touched that may block: only the
directory, leases, pidfds, kill() and /proc/<pid>/stat of the one creator.  All else about other processes the
observer looks at (`inquiry`), in advance where that is possible: while a creator lives it is established who
it is (creator.Identity), so that at its death, with peers attached, nobody else has to be looked at.

Limit: of files that are not named heap-<pid> the triggers tell only once a rescan has found that they are
heaps.
"""

import errno
import os
import time

from gppshm import (
    account,
    creator,
    fifos,
    inquiry,
    lease,
    observer,
    processes,
    procfs,
    reaper,
    returns,
    schedule,
    shmfs,
    telling,
    triggers,
)
from gppshm.events import (
    CLEANED,
    FAILED,
    REMOVED,
    RETURNED,
    TROUBLE,
    UNLINKED,
    UNPROVEN,
    WOULD_REMOVE,
    Event,
)
from gppshm.known import ALIVE, ENDED, SEEN, Known

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

    from gppshm.events import Counts

__all__ = [
    "CHILDREN",
    "CLEANED",
    "FAILED",
    "HOST",
    "REMOVED",
    "RETURNED",
    "SCOPES",
    "TROUBLE",
    "UNLINKED",
    "UNPROVEN",
    "WOULD_REMOVE",
    "Event",
    "Watcher",
]

HOST = "host"
CHILDREN = "children"
SCOPES = (HOST, CHILDREN)

RETRIES = schedule.RETRIES
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
SLOW_EXIT = 1.0
"""Seconds that a creator may take to exit after it unlinked its heap, before it is told as another's deed."""
EXITING = len(schedule.EXITS) + len(RETRIES)
"""So many tries follow an event on a heap whose creator, watched by no pidfd, has not ended yet."""
LAST_WORDS = 0.25
"""Seconds for which the end waits for what is still to be told."""
REST = 0.1
"""Seconds of rest after an exception, so that one that comes again and again costs little."""
LARGE = 4 << 20
"""Bytes from which on an unlinked file is let go elsewhere: the kernel frees 7 MB in a millisecond."""
INOTIFY_LIMITS = {
    errno.EMFILE: " (the limit is fs.inotify.max_user_instances, or that of descriptors)",
    errno.ENOSPC: " (the limit is fs.inotify.max_user_watches)",
}
AT_ONCE = 0.0002
"""A wait of less seconds found something that had come before."""

SWITCH_INTERVAL = 0.0005
"""For sys.setswitchinterval, where other threads compute beside a watcher: they give way after so long."""

raise_descriptor_limit = triggers.raise_descriptor_limit
HEADROOM = triggers.HEADROOM


class Watcher:
    """Watches one directory and removes orphaned heaps, calling `on_event` with an `Event` for each.

    scope     HOST: every orphan; CHILDREN: only heaps whose creator was seen alive, descending from `parent`
    rescan    seconds between rescans, which look at every file
    remove_fifos  at each rescan, also dead processes' FIFOs in `fifo_root`
    on_change  called with the name of each heap of which `record` tells something else than before
    also      a descriptor; `step` returns when it is readable, too
    reclaim   of what is removed while processes are attached, give back what is free
    A context manager.  `run` does the work, in the thread that calls it; no other thread is made, but a
    process, the observer.  An exception of `on_event` ends `run`: catch in the callback what shall not.
    OSError if the directory cannot be opened.

    An event's latency counts from when its trigger came: that is when the wait for it ended or, where it had
    come while something else was done, the end of the wait before.
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
        on_change: "Callable[[str], None]" = lambda name: None,
        also: int = -1,
        reclaim: bool = True,
    ) -> None:
        self.root = root
        self.scope = scope
        self.parent = parent
        self._parent_start = procfs.pulse(parent, proc_root)[0] if parent > 0 else 0
        self.rescan = rescan
        self._proc_root = proc_root
        self._dry_run = dry_run
        self._fifo_root = fifo_root
        self._remove_fifos = remove_fifos
        self._reclaim = reclaim
        self._orders: Optional[Tuple[str, float, bool, bool, bool]] = None
        self._on_change = on_change
        self._known: Dict[str, Known] = {}
        self._timers = schedule.Timers()
        # Names of events that are not known to be heaps, with what came and when; names of a rescan.
        self._strange: Dict[str, Tuple[str, float]] = {}
        self._backlog = schedule.Queue()
        self._next_rescan = 0.0
        self._last_rescan = -LOST_EVENTS_RESCAN
        self._last_overflow = -LOST_EVENTS_RESCAN
        self._last_vain = -PAUSE
        self._resume = 0.0
        self._waited = time.monotonic()
        self._stopping = False
        self._fifos_asked = False
        self._passed_over: Tuple[int, ...] = ()
        try:
            self._own_proc = os.readlink(proc_root + "/self") == str(os.getpid())
        except OSError:
            self._own_proc = False
        self.directory = shmfs.ShmDirectory(root, proc_root)
        self._reaper = reaper.Reaper(self.directory, dry_run, reclaim and not dry_run, LARGE)
        try:
            self._triggers = triggers.Triggers()
            try:
                self._observer = observer.Observer(proc_root, self._heed_observer)
            except BaseException:
                self._triggers.close()
                raise
        except BaseException:
            self._reaper.close()
            self.directory.close()
            raise
        self._telling = telling.Telling(self._observer, on_event)
        self._account = account.Account(self._telling)
        ancestor = parent, self._parent_start
        self._inquiry = inquiry.Inquiry(self._observer, self._known, self._sight, ancestor)
        self._returns = returns.Returns(
            self._observer,
            self._account.counts,
            self._triggers.also,
            self._telling.first_returned,
            self._account.returned,
        )
        try:
            self._heed_observer()
            if also >= 0:
                self._triggers.also(also)
            self._start()
        except BaseException:
            self._close()
            raise

    def __enter__(self) -> "Watcher":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -- what is known, and can be asked from any thread -------------------------------------------------

    @property
    def counts(self) -> "Counts":
        """What was done so far."""
        return self._account.counts

    def living(self) -> "List[str]":
        """The names of the heaps whose creator was seen alive and is not known to have died."""
        return [name for name, heap in list(self._known.items()) if heap.lives]

    def offspring(self) -> "List[str]":
        """Those of `living` whose creator was seen to descend from `parent`, which may have ended since."""
        return [name for name, heap in list(self._known.items()) if heap.lives and heap.descends]

    def is_unsettled(self) -> bool:
        """Whether a creator lives, or is just being looked for, or a try on a heap is still to come."""
        return any(
            heap.stage is not SEEN or heap.asked or name in self._timers
            for name, heap in list(self._known.items())
        )

    def troubles(self) -> "List[str]":
        """What is wrong with the triggers now, a sentence each."""
        return list(self._account.troubles.values())

    @property
    def pidfds(self) -> int:
        """How many creators are watched by a pidfd."""
        return self._triggers.pidfds

    @property
    def identities(self) -> int:
        """Of how many living creators it is established who they are."""
        return sum(heap.identity is not None for heap in list(self._known.values()))

    @property
    def inotify_works(self) -> bool:
        return self._triggers.inotify_works

    @property
    def asked(self) -> int:
        """How many questions the observer has not answered yet."""
        return self._observer.asked

    @property
    def passed_over(self) -> "Tuple[int, ...]":
        """Pids of processes that do not answer whoever looks into them."""
        return tuple(pid for pid in self._observer.passed_over if pid > 0)

    def description(self, name: str, file_id: "Tuple[int, int]") -> processes.Description:
        """Who the creator of that heap is, as noted while it lived."""
        heap = self._known.get(name)
        if heap is None or heap.file_id != file_id:
            return processes.Description()
        return heap.description

    def returns(self) -> "List[Tuple[Any, ...]]":
        """As Returns.figures."""
        return self._returns.figures()

    @property
    def returns_changed(self) -> int:
        """Grows with every change of `returns`."""
        return self._returns.changed

    def record(self, name: str) -> "Optional[Tuple[Any, ...]]":
        """What is known of a heap; None if nothing is.

        Whether its creator lives, (device, inode), its pid, command, words, user, whether it descends from
        `parent`.
        """
        heap = self._known.get(name)
        if heap is None or not heap.creator:
            return None
        who = heap.description
        user = (who.uid >= 0 and self._telling.name(who.uid)) or processes.UNKNOWN
        return heap.lives, heap.file_id, heap.creator, who.command, who.words, user, heap.descends

    def lives(self, seen: shmfs.Sighting) -> int:
        """The pid of a heap's creator whose death a pidfd has not told; 0 where none watches it."""
        heap = self._known.get(seen.name)
        if heap is None or not self._triggers.watches(seen.name) or heap.file_id != seen.file_id:
            return 0
        return heap.creator

    # -- orders, from any thread -------------------------------------------------------------------------

    def stop(self) -> None:
        """Make `run` return; from any thread and from a signal handler."""
        self._stopping = True
        self.wake()

    @property
    def wake_fd(self) -> int:
        """For signal.set_wakeup_fd: a handler in Python does not run while `step` is about to wait."""
        return self._triggers.wake_fd

    def wake(self) -> None:
        """Make `step` return soon; from any thread and from a signal handler."""
        self._triggers.wake()

    def change(
        self, scope: str, rescan: float, dry_run: bool, remove_fifos: bool, reclaim: bool = True
    ) -> None:
        """Go on by other orders, all at once, and look at everything anew; from any thread."""
        self._orders = scope, rescan, dry_run, remove_fifos, reclaim
        self.wake()

    def look_again(self) -> None:
        """Have everything looked at soon: something may have been missed."""
        self._next_rescan = min(
            self._next_rescan, max(time.monotonic(), self._last_rescan + LOST_EVENTS_RESCAN)
        )

    # -- the loop ----------------------------------------------------------------------------------------

    def close(self) -> None:
        """Tell what is still to be told, and give back every descriptor."""
        try:
            self._telling.flush()
        finally:
            self._close()

    def _close(self) -> None:
        self._returns.close()
        self._triggers.close()
        self._observer.close()
        self._reaper.close()
        self.directory.close()

    def run(self, on_fault: "Optional[Callable[[Exception], None]]" = None) -> None:
        """Work until `stop`.

        on_fault  called with an exception that a step met; then the work goes on, and everything is looked
                  at anew.  Without it the exception is raised.
        """
        while not self._stopping:
            self.guarded(self.step, on_fault)
        self.guarded(self._say_last_words, on_fault)

    def guarded(self, act: "Callable[[], object]", on_fault: "Optional[Callable[[Exception], None]]") -> None:
        """Do one thing of the loop, as `run` does."""
        try:
            act()
        except Exception as error:
            if on_fault is None:
                raise
            on_fault(error)
            if not self._stopping:
                time.sleep(REST)
                self.look_again()

    def sweep(self, last: bool = False, patience: float = float("inf")) -> None:
        """Look at everything once, now: until `stop` or, as the `last` thing, after it.

        patience  seconds that it may take at most
        The last one also makes all tries that are due for the dead; who calls it waits only so long.
        """
        end = time.monotonic() + patience
        self._start_rescan(time.monotonic())
        while (last or not self._stopping) and time.monotonic() < end and self._is_sweeping(last):
            self.step(0.05)
        self._say_last_words(flush=last)

    def _is_sweeping(self, last: bool) -> bool:
        if self._backlog or self._inquiry.looking or self._fifos_asked:
            return True
        every = list(self._known.items())
        if any(heap.asked for _, heap in every):
            return True
        return last and any(name in self._timers and not heap.lives for name, heap in every)

    def _say_last_words(self, flush: bool = True) -> None:
        """Give what is only for telling a moment."""
        end = time.monotonic() + LAST_WORDS
        while self._telling.waiting and time.monotonic() < end:
            self.step(min(0.05, end - time.monotonic()))
        if flush:
            self._telling.flush()

    def step(self, longest: "Optional[float]" = None) -> None:
        """Wait until something happens, for `longest` seconds at most, and do what it calls for."""
        left = self._time_left(longest)
        before = time.monotonic()
        happened = self._triggers.wait(left)
        now = time.monotonic()
        since = now if now - before > AT_ONCE else self._waited
        self._waited = now
        self.counts.wakeups += left > 0
        removed = self.counts.removed
        if self._orders is not None:
            self._obey(now)

        # First the dead whose creators are known, then what else is due, then what may be no heap at all.
        self._note_ended(happened, since)
        found = self._settle(happened.ended + self._take_closed(happened, since))
        found = self._settle(self._take_due(now)) or found
        if happened.observer:
            self._take_answers()
        if happened.overflow or happened.gone:
            self._events_lost(happened.overflow, now)
        if happened.mounts and self._is_elsewhere():
            self._next_rescan = now
        if self._strange:
            found = self._settle(self._take_strange()) or found
        if now >= self._next_rescan:
            self._start_rescan(now)
        if self._backlog:
            self._settle(self._take_backlog(now))
        if happened.events and not found:
            self._slow_down(now)
        self._triggers.listen(now >= self._resume and len(self._strange) < MANY)

        # Then what is done in advance, and what is only for telling.
        if self._triggers.heed_changes_again(now):
            self._absorb_changes()
        self._inquiry.step(now, self._absorb_changes)
        self._telling.step(time.monotonic())
        if self.counts.removed == removed:  # else the triggers are asked first
            self._returns.step(time.monotonic())
        self._heed_observer()
        self.counts.longest_step = max(self.counts.longest_step, time.monotonic() - now)

    def _time_left(self, longest: "Optional[float]") -> float:
        if self._backlog or self._strange:
            return 0.0
        until = min(self._next_rescan, self._timers.next(), self._telling.next(), self._inquiry.next())
        until = min(until, self._returns.next())
        now = time.monotonic()
        for resume in (self._resume, self._triggers.resume):
            if resume > now or (resume and resume is self._triggers.resume):
                until = min(until, resume)
        left = max(0.0, until - now)
        return left if longest is None else min(left, longest)

    def _obey(self, now: float) -> None:
        """Put new orders in force; what was told under the old ones is told again."""
        orders, self._orders = self._orders, None
        assert orders is not None
        self.scope, self.rescan, self._dry_run, self._remove_fifos, self._reclaim = orders
        self._reaper.dry_run = self._dry_run
        self._reaper.pin = self._reclaim and not self._dry_run
        if not self._reclaim:
            self._returns.close()
        for heap in self._known.values():
            heap.told = ""
        self._next_rescan = now

    # -- triggers ------------------------------------------------------------------------------------------

    def _note_ended(self, happened: triggers.Happened, since: float) -> None:
        """Note that creators have ended."""
        for name in happened.ended:
            heap = self._known[name]
            self._has_ended(name, heap)
            heap.attempts = 0
            heap.since, heap.trigger = since, "pidfd"

    def _take_closed(self, happened: triggers.Happened, since: float) -> "List[str]":
        """The known heaps of which a writer has let go; what else came is put where it waits its turn."""
        names = []
        for name, let_go in happened.removed.items():
            heap = self._known.get(name)
            if heap is not None:
                heap.removed, heap.let_go = True, let_go
                if not heap.lives:
                    names.append(name)
        for name in happened.closed:
            heap = self._known.get(name)
            if heap is not None and heap.removed and name not in happened.removed:
                heap.let_go = True  # of what came in one go `removed` tells the order
            if heap is not None and heap.creator:
                heap.follow("close", since)
                names.append(name)
            elif heap is not None or shmfs.pid_of_name(name):
                self._strange.setdefault(name, ("close", since))
        for name in happened.created:
            if shmfs.pid_of_name(name):
                self._track(name, "created", since)
                self._timers.set(name, time.monotonic() + FIRST_SIGHT)
        return names

    def _events_lost(self, overflow: bool, now: float) -> None:
        if overflow:
            self._last_overflow = now
            words = "the kernel dropped inotify events; everything is looked at again"
            self._account.trouble("overflow", words)
        else:
            words = "the directory is gone; it is looked for at each rescan"
            self._account.trouble("inotify", words)
            self._triggers.drop_inotify()
        self._forget_identities()
        self.look_again()

    def _take_due(self, now: float) -> "List[str]":
        names = []
        for name in self._timers.take(now):
            heap = self._known.get(name)
            if heap is not None and heap.creator:
                names.append(name)
            elif heap is not None:
                self._strange.setdefault(name, (heap.trigger, heap.since))
        return names

    def _take_strange(self) -> "List[str]":
        names = []
        for name in [name for _, name in zip(range(CHUNK), self._strange)]:
            trigger, since = self._strange.pop(name)
            self._track(name, trigger, since).follow(trigger, since)
            names.append(name)
        return names

    def _slow_down(self, now: float) -> None:
        """Let events gather if they lead to nothing and come thick: a flood then costs little."""
        if now - self._last_vain < PAUSE:
            self._resume = now + PAUSE
        self._last_vain = now

    def _absorb_changes(self) -> None:
        """Read what tells of changed files until nothing waits: what was established of them is void."""
        if not self.inotify_works:
            return  # there are no identities
        changed = self._triggers.changes()
        if changed is None:
            self._forget_identities()
            return
        for name in changed:
            heap = self._known.get(name)
            if heap is not None:
                heap.changed()
                if heap.lives:
                    self._inquiry.renew(name)

    def _forget_identities(self) -> None:
        for name, heap in self._known.items():
            heap.changed()
            if heap.lives:
                self._inquiry.renew(name)

    # -- rescans -------------------------------------------------------------------------------------------

    def _start_rescan(self, now: float) -> None:
        if self._last_overflow < self._last_rescan:
            self._account.mended("overflow")
        self._last_rescan = now
        self._next_rescan = now + self.rescan
        self.counts.rescans += 1
        self._follow_root()
        try:
            names = self.directory.names()
        except OSError as error:
            self._account.trouble("listing", f"{self.root} cannot be listed: {error.strerror}")
            return
        self._account.mended("listing")
        for name in names:
            if shmfs.living_name(name) and not self._dry_run:
                self.directory.give_back(name)  # a cleaner that was killed has left it so
        there = set(names)
        # Known heaps come first: a stranger's files, however many, keep nobody from them.
        first = [name for name in self._known if name in there]
        self._backlog = schedule.Queue(first + names)
        for name in first:
            heap = self._known[name]
            if heap.lives:
                if heap.doubtful or heap.identity is None:  # it may have exec'd another program
                    heap.doubtful = False
                    self._inquiry.renew(name)
                if not self._triggers.watches(name) and not self._watch(name, heap):
                    self._timers.set(name, now)
        if self._remove_fifos and not self._fifos_asked:
            self._fifos_asked = True
            question = self._fifo_root, self._dry_run
            self._observer.ask(observer.SOON, "fifos", question, self._fifos_settled)
        for name in [name for name in self._known if name not in there]:
            self._name_is_missing(name, self._known[name])

    def _fifos_settled(self, answer: "Any") -> None:
        self._fifos_asked = False
        self._account.fifos(answer, self._fifo_root)

    def _take_backlog(self, now: float) -> "List[str]":
        names = self._backlog.take(RESCAN_CHUNK)
        for name in names:
            heap = self._known.get(name)
            if heap is not None and not heap.attempts and name not in self._timers and not heap.asked:
                heap.since, heap.trigger = now, "rescan"
        return names

    def _start(self) -> None:
        if self.directory.doubt:
            self._account.trouble("root", f"{self.root}: {self.directory.doubt}; all is kept there")
        elif not self.directory.leases:
            words = "leases could not be shown to prove anything here: only pids do"
            self._account.trouble("root", words)
        self._add_inotify()

    def _add_inotify(self) -> None:
        try:
            self._triggers.add_inotify(self.root)
        except OSError as error:
            limit = INOTIFY_LIMITS.get(error.errno or 0, "")
            words = f"no inotify: {error.strerror}{limit}; pidfds and rescans remain"
            self._account.trouble("inotify", words)
            return
        self._account.mended("inotify")

    def _is_elsewhere(self) -> bool:
        """Whether another directory lies at the path than the one that is watched."""
        try:
            return not self.directory.is_current()
        except OSError:
            return False

    def _follow_root(self) -> None:
        """Go over to another directory that lies at the path now, and try for inotify again."""
        try:
            if not self.directory.is_current():
                directory = shmfs.ShmDirectory(self.root, self._proc_root)
                for name in list(self._known):
                    self._forget(name)
                self._triggers.drop_inotify()
                self._reaper.close()
                self.directory.close()
                self.directory = directory
                pin = self._reclaim and not self._dry_run
                self._reaper = reaper.Reaper(directory, self._dry_run, pin, LARGE)
                self._account.mended("root")
                self._account.news(f"another directory lies at {self.root} now: that one is watched")
                self._start()
            self._account.mended("path")
            self._add_inotify()
        except OSError as error:
            words = f"{self.root} cannot be opened: {error.strerror}; tried at each rescan"
            self._account.trouble("path", words)

    # -- verdict and unlink --------------------------------------------------------------------------------

    def _settle(self, names: "Sequence[str]") -> bool:
        """Settle each name as far as that can be done now; whether anything came of it."""
        found = False
        for name in dict.fromkeys(names):
            found = self._try(name) or found
        return found

    def _try(self, name: str) -> bool:
        """By lease, then by identity; else the observer is asked.  Whether anything came of it."""
        self._absorb_changes()
        outcome = self._reaper.by_lease(name, self._only(name))
        seen = outcome.sighting
        if outcome.result is not reaper.UNSURE or outcome.verdict is not None or seen is None:
            return self._record(outcome)
        heap = self._track(name, "rescan", self._last_rescan)
        self._see(heap, seen)
        if not heap.creator:
            verdict = creator.beyond_proof(seen)
            if verdict is not None:
                heap.attempts = len(RETRIES)
                return self._record(self._reaper.remove(seen, verdict))
            self._inquiry.portray(name, heap.uid)
            return False
        self._ask_its_number(name, heap)
        if heap.lives:
            return self._still_alive(name, heap)
        verdict = self._by_identity(heap, seen)
        if verdict is not None:
            return self._record(self._remove(seen, verdict))
        self._inquiry.verdict(seen, heap.creator)
        return False

    def _only(self, name: str) -> "Optional[shmfs.FileId]":
        """The only file that may be removed under that name; None: any."""
        if self.scope == HOST:
            return None
        heap = self._known.get(name)
        return heap.file_id if heap is not None and heap.descends else reaper.NOTHING

    def _see(self, heap: Known, seen: shmfs.Sighting) -> None:
        """Note what was seen."""
        if heap.see(seen):
            self._triggers.unwatch(seen.name)
            self._on_change(seen.name)

    def _sight(self, name: str) -> "Optional[shmfs.Sighting]":
        """What is to be seen of a heap now; None if that is nothing, which the next try will tell."""
        try:
            with self.directory.open(name) as file:
                seen = file.sighting
        except OSError:
            return None
        if seen.kind not in (shmfs.HEAP, shmfs.HALF_MADE):
            return None
        self._see(self._known[name], seen)
        return seen

    def _has_ended(self, name: str, heap: Known) -> None:
        """Note that a creator has ended."""
        heap.stage = ENDED
        self._on_change(name)

    def _ask_its_number(self, name: str, heap: Known) -> None:
        """Find out whether a creator that no pidfd watches has ended, as far as its own number tells."""
        if not heap.lives or self._triggers.watches(name) or not self._own_proc:
            return
        start, dead = procfs.pulse(heap.creator, self._proc_root)
        if start:
            gone = dead or start != heap.start
        else:
            gone = procfs.Processes(self._proc_root).no_such_process(heap.creator)
        if gone:
            self._has_ended(name, heap)

    def _by_identity(self, heap: Known, seen: shmfs.Sighting) -> "Optional[creator.Verdict]":
        """The verdict that was prepared while the creator lived; None if there is none that holds."""
        if heap.identity is None or procfs.pulse(heap.creator, self._proc_root)[0] not in (0, heap.start):
            return None  # another process has the pid: that one has to be looked into
        return creator.judge_by_identity(seen, heap.identity, time.monotonic() - heap.identity.since)

    def _remove(self, seen: shmfs.Sighting, verdict: creator.Verdict) -> reaper.Outcome:
        """Unlink, unless the file is changed before that is done."""
        version = self._known[seen.name].version

        def changed() -> str:
            self._absorb_changes()
            now = self._known[seen.name].version
            return "" if now == version else "it was changed after it was judged"

        return self._reaper.remove(seen, verdict, self._only(seen.name), changed)

    def _still_alive(self, name: str, heap: Known) -> bool:
        """A writer has let go of the heap of a living creator: which it may be itself, just ending."""
        heap.told, heap.doubtful = "", True
        if not self._triggers.watches(name) and heap.trigger == "close" and heap.attempts < EXITING:
            self._timers.set(name, time.monotonic() + schedule.exit_delay(heap.attempts))
            heap.attempts += 1
        else:
            heap.attempts = 0
        return False

    def _record(self, outcome: reaper.Outcome) -> bool:
        """Draw the consequences; whether anything came of it."""
        name, seen, result = outcome.name, outcome.sighting, outcome.result
        heap = self._known.get(name)
        if result is reaper.GONE:
            return heap is not None and self._name_is_missing(name, heap)
        if result is reaper.OUT_OF_SCOPE or (result is reaper.NO_HEAP and not _in_the_making(seen)):
            self._forget(name)
            return False
        if result is reaper.FAILED and seen is not None and seen.kind is shmfs.UNREADABLE:
            if not shmfs.pid_of_name(name):  # nobody knows that it is a heap
                self._forget(name)
                return False
        if heap is None:
            heap = self._track(name, "rescan", self._last_rescan)
        first = not heap.creator
        if seen is not None:
            self._see(heap, seen)
        if outcome.verdict is not None and outcome.verdict.state in creator.ORPHANS and heap.lives:
            self._has_ended(name, heap)
        if result is reaper.REMOVED:
            pidfd = self._triggers.release(name)
            self._forget(name)
            attached = outcome.verdict is not None and outcome.verdict.evidence != creator.LEASE
            pinned = outcome.fd >= 0 and self._reaper.pin and attached
            event = self._account.removed(outcome, heap, pidfd, pinned)
            if pinned:
                self._returns.take(outcome.fd, event, heap.noted)
            elif outcome.fd >= 0:
                self._observer.let_go(outcome.fd)
            return True
        if result is reaper.WOULD_REMOVE:
            self._account.stays(WOULD_REMOVE, outcome, heap)
        elif result is reaper.FAILED and outcome.error not in reaper.NO_DESCRIPTOR:
            self._account.stays(FAILED, outcome, heap)
        elif result is reaper.NO_HEAP:  # it is just being made
            if not self._retry(name, heap):
                self._forget(name)
            return False
        elif not self._retry(name, heap):
            self._account.stays(UNPROVEN, outcome, heap)
        return first

    def _retry(self, name: str, heap: Known) -> bool:
        """Whether there is one more try to come."""
        if heap.attempts >= len(RETRIES):
            heap.attempts = 0
            return False
        self._timers.set(name, time.monotonic() + schedule.retry_delay(heap.attempts))
        heap.attempts += 1
        return True

    # -- heaps whose name is gone --------------------------------------------------------------------------

    def _name_is_missing(self, name: str, heap: Known) -> bool:
        """A normal exit, or somebody else's deed.  Whether a heap has gone."""
        self._ask_its_number(name, heap)
        if not heap.lives:
            left_behind = heap.stage is ENDED and self._was_left_behind(name, heap)
            pidfd = self._triggers.release(name) if left_behind else -1
            self._forget(name)
            if left_behind:
                self._account.cleaned(name, heap, pidfd)
            return bool(heap.creator)
        now = time.monotonic()
        if not heap.vanished:
            heap.vanished = now
            self._timers.set(name, now + SLOW_EXIT)
            return True
        if now - heap.vanished >= SLOW_EXIT and not heap.told and not heap.asked:
            heap.asked = True
            question = [(heap.creator, heap.file_id)]
            self._observer.ask(observer.SOON, "mapped", question, lambda answer: self._lives_on(name, answer))
        return False

    def _was_left_behind(self, name: str, heap: Known) -> bool:
        """Whether a creator that has ended had left its heap there, by the order of the kernel's events.

        A process that exits unlinks its heap and lets go of it then; of one that was killed the kernel closes
        the heap first, and a cleaner unlinks it after.
        """
        if not self.inotify_works:
            return False
        late = triggers.Happened()
        self._triggers.read_events(late)
        if late.overflow or late.gone:
            self._events_lost(late.overflow, time.monotonic())
            return False
        # The heap itself waits for no turn; all else does.
        let_go = late.closed.pop(name, 0) is None
        for other in self._take_closed(late, self._waited):
            self._timers.set(other, self._waited)
        heap.let_go = heap.let_go or (let_go and late.removed.get(name, True))
        return heap.removed and not heap.let_go

    def _lives_on(self, name: str, answer: "Any") -> None:
        """A heap has lost its name, and its creator was asked for."""
        heap = self._known.get(name)
        if heap is None:
            return
        heap.asked = False
        if answer is None or not heap.vanished:
            return
        if answer[0]:
            self._account.lives_on(name, heap)
        else:
            self._forget(name)

    # -- what the observer answers -------------------------------------------------------------------------

    def _heed_observer(self) -> None:
        self._triggers.heed(self._observer.fileno(), self._observer.writing)

    def _take_answers(self) -> None:
        self._absorb_changes()
        self._observer.step()
        for answer in self._inquiry.answers():
            name, verdict = answer.seen.name, answer.verdict
            heap = self._known.get(name)
            if heap is None:
                continue
            if verdict.state is creator.ALIVE and verdict.creator and answer.start:
                self._found_alive(name, heap, answer)
            elif answer.void:
                self._try(name)
            elif verdict.state is not creator.ALIVE:
                if not heap.creator and _is_contradictory(answer.seen):
                    heap.attempts = len(RETRIES)  # only a lease can prove more
                self._record(self._remove(answer.seen, verdict))
            # Another process, be it one that was given the pid of the dead one.
            elif verdict.creator and (verdict.creator != heap.creator or heap.stage is ENDED):
                heap.forget_the_creator()
                self._triggers.unwatch(name)
                self._inquiry.portray(name, heap.uid)
            elif not verdict.creator:  # half made, and somebody is at it
                self._retry(name, heap)
        now = self._observer.passed_over
        for each in now:
            if each not in self._passed_over:
                self._account.news(_passed_over(each, self._proc_root))
        self._passed_over = now

    def _found_alive(self, name: str, heap: Known, answer: inquiry.Answer) -> None:
        """Note who the creator is, and have its death told by a pidfd."""
        if heap.file_id != answer.seen.file_id:
            self._try(name)
            return
        heap.attempts, heap.told = 0, ""
        heap.creator, heap.start = answer.verdict.creator, answer.start
        heap.description, heap.descends, heap.noted = answer.who, answer.descends, answer.noted
        heap.stage = ALIVE
        heap.identity = answer.identity if self.inotify_works else None
        self._on_change(name)
        if answer.who.uid >= 0:
            self._telling.name(answer.who.uid)
        if answer.void:
            self._inquiry.renew(name)
        if not self._watch(name, heap):
            heap.since = time.monotonic()
            self._has_ended(name, heap)
        # It may have died while it was looked at, and its last close have come before.
        if not self._triggers.watches(name):
            self._try(name)

    def _watch(self, name: str, heap: Known) -> bool:
        """Have the creator's end told by a pidfd, if there can be one; False if it has ended."""
        why = f"{self._proc_root} belongs to another pid namespace"
        if self._own_proc:
            try:
                if self._triggers.watch(name, heap.creator, heap.start, self._proc_root):
                    self._account.mended("pidfd")
                    return True
            except ProcessLookupError:
                return False
            why = self._triggers.pidfd_trouble
        self._account.trouble("pidfd", f"no pidfd: {why}; inotify and rescans remain")
        return True

    # -- bookkeeping ---------------------------------------------------------------------------------------

    def _track(self, name: str, trigger: str, since: float) -> Known:
        heap = self._known.get(name)
        if heap is None:
            heap = self._known[name] = Known(trigger, since)
        return heap

    def _forget(self, name: str) -> None:
        if self._known.pop(name, None) is not None:
            self._on_change(name)
            self._triggers.unwatch(name)
            self._timers.cancel(name)
            self._inquiry.forget(name)


def _in_the_making(seen: "Optional[shmfs.Sighting]") -> bool:
    """Whether a file without a heap's magic is about to become one: it is named so, and somebody writes."""
    return seen is not None and seen.answer is lease.REFUSED and seen.name_pid > 0


def _is_contradictory(seen: shmfs.Sighting) -> bool:
    """Whether name and header say something else of who created a heap."""
    return seen.header is not None and seen.header.creator != seen.name_pid


def _passed_over(pid: int, proc_root: str) -> str:
    """The sentence on a process, or a user (-1 - uid), that does not answer."""
    if pid < 0:
        return f"nobody tells the name of user {-1 - pid}: the number has to do"
    comm = (procfs.read(f"{proc_root}/{pid}/stat") or b"").partition(b"(")[2].rpartition(b")")[0]
    name = comm.decode("utf-8", "replace") or "unknown"
    return (
        f"process {pid} ({name}) does not answer who looks into it (its memory map, command line or"
        " descriptors): it is passed over"
    )
