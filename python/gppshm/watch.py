"""Notice that a process died, within a millisecond or two, and have its heap removed.

A step is: what happened (`triggers`), a verdict (`creator`), the unlink (`reaper`); then everything that is
only for telling (`telling`).  Up to the unlink nothing is touched that may block: only the directory, leases,
pidfds, kill() and /proc/<pid>/stat of the one creator.  All else about other processes the observer looks at
(`observer`), in advance where that is possible: while a creator lives it is established who it is
(creator.Identity), so that at its death, with peers attached, nobody else has to be looked at.

Limit: of files that are not named heap-<pid> the triggers tell only once a rescan has found that they are
heaps.
"""

import os
import time

from gppshm import (
    creator,
    events,
    fifos,
    lease,
    observer,
    observing,
    processes,
    procfs,
    reaper,
    schedule,
    shmfs,
    telling,
    triggers,
)
from gppshm.events import (
    CLEANED,
    FAILED,
    REMOVED,
    TROUBLE,
    UNLINKED,
    UNPROVEN,
    WOULD_REMOVE,
    Counts,
    Event,
)
from gppshm.known import ALIVE, ENDED, SEEN, Known

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional, Sequence, Set, Tuple

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
PORTRAITS = 64
"""The creators of so many heaps are asked for at once."""
RENEWALS = 128
"""The identities of so many creators are renewed at once."""
RENEWED_AGAIN = 0.5
"""Seconds between such questions."""
STRANGERS = 9.0
"""After a question about heaps whose creator nobody was seen to be, the next waits so many times as long."""
SLOW_EXIT = 1.0
"""Seconds that a creator may take to exit after it unlinked its heap, before it is told as another's deed."""
EXITING = 7
"""So many tries follow an event on a heap whose creator, watched by no pidfd, has not ended yet."""
SETTLED = 1.0
"""Seconds after the last of `RETRIES` from which on an event on that heap begins them anew."""
LAST_WORDS = 0.25
"""Seconds for which the end waits for what is still to be told."""
REST = 0.1
"""Seconds of rest after an exception, so that one that comes again and again costs little."""

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
    ) -> None:
        self.root = root
        self.scope = scope
        self.parent = parent
        self.rescan = rescan
        self.counts = Counts()
        self._proc_root = proc_root
        self._dry_run = dry_run
        self._fifo_root = fifo_root
        self._remove_fifos = remove_fifos
        self._orders: Optional[Tuple[str, float, bool, bool]] = None
        self._told_fifos: Set[Tuple[str, str]] = set()
        self._on_change = on_change
        self._known: Dict[str, Known] = {}
        self._timers = schedule.Timers()
        # Names of events that are not known to be heaps, with what came and when; names of a rescan.
        self._strange: Dict[str, Tuple[str, float]] = {}
        self._backlog = schedule.Queue()
        self._to_portray = schedule.FairQueue()
        self._to_renew = schedule.Queue()
        self._strangers = schedule.Share(STRANGERS)
        self._portraying = self._renewing = self._fifos_asked = False
        self._next_renewal = 0.0
        self._next_rescan = 0.0
        self._last_rescan = -LOST_EVENTS_RESCAN
        self._last_overflow = -LOST_EVENTS_RESCAN
        self._last_vain = -PAUSE
        self._resume = 0.0
        self._waited = time.monotonic()
        self._stopping = False
        self._troubles: Dict[str, str] = {}
        self._passed_over: Tuple[int, ...] = ()
        self.directory = shmfs.ShmDirectory(root, proc_root)
        try:
            self._triggers = triggers.Triggers()
            try:
                self._observer = observer.Observer(proc_root, self._heed_observer)
            except BaseException:
                self._triggers.close()
                raise
        except BaseException:
            self.directory.close()
            raise
        self._telling = telling.Telling(self._observer, on_event)
        self._reaper = reaper.Reaper(self.directory, dry_run)
        try:
            self._own_proc = os.readlink(proc_root + "/self") == str(os.getpid())
        except OSError:
            self._own_proc = False
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

    def living(self) -> "List[str]":
        """The names of the heaps whose creator was seen alive and is not known to have died."""
        return [name for name, each in list(self._known.items()) if each.stage is ALIVE]

    def offspring(self) -> "List[str]":
        """Those of `living` whose creator was seen to descend from `parent`, which may have ended since."""
        return [name for name, each in list(self._known.items()) if each.stage is ALIVE and each.descends]

    def is_unsettled(self) -> bool:
        """Whether a creator lives, or is just being looked for, or a try on a heap is still to come."""
        return any(
            each.stage is not SEEN or each.asked or name in self._timers
            for name, each in list(self._known.items())
        )

    def troubles(self) -> "List[str]":
        """What is wrong with the triggers now, a sentence each."""
        return list(self._troubles.values())

    @property
    def pidfds(self) -> int:
        """How many creators are watched by a pidfd."""
        return self._triggers.pidfds

    @property
    def identities(self) -> int:
        """Of how many living creators it is established who they are."""
        return sum(each.identity is not None for each in list(self._known.values()))

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
        each = self._known.get(name)
        if each is None or each.file_id != file_id:
            return processes.Description()
        return each.description

    def record(self, name: str) -> "Optional[Tuple[Any, ...]]":
        """What is known of a heap; None if nothing is.

        Whether its creator lives, (device, inode), its pid, command, words, user, whether it descends from
        `parent`.
        """
        each = self._known.get(name)
        if each is None or not each.creator:
            return None
        who = each.description
        user = (who.uid >= 0 and self._telling.name(who.uid)) or processes.UNKNOWN
        return each.stage is ALIVE, each.file_id, each.creator, who.command, who.words, user, each.descends

    def lives(self, seen: shmfs.Sighting) -> int:
        """The pid of a heap's creator whose death a pidfd has not told; 0 where none watches it."""
        each = self._known.get(seen.name)
        if each is None or not self._triggers.watches(seen.name) or each.file_id != seen.file_id:
            return 0
        return each.creator

    # -- orders, from any thread -------------------------------------------------------------------------

    def stop(self) -> None:
        """Make `run` return; from any thread and from a signal handler."""
        self._stopping = True
        self.wake()

    def wake(self) -> None:
        """Make `step` return soon; from any thread and from a signal handler."""
        self._triggers.wake()

    def change(self, scope: str, rescan: float, dry_run: bool, remove_fifos: bool) -> None:
        """Go on by other orders, all at once, and look at everything anew; from any thread."""
        self._orders = scope, rescan, dry_run, remove_fifos
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

    def _say_last_words(self, flush: bool = True) -> None:
        """Give what is only for telling a moment."""
        end = time.monotonic() + LAST_WORDS
        while self._telling.waiting and time.monotonic() < end:
            self.step(min(0.05, end - time.monotonic()))
        if flush:
            self._telling.flush()

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
        if self._backlog or self._to_portray or self._portraying or self._fifos_asked:
            return True
        every = list(self._known.items())
        if any(each.asked for _, each in every):
            return True
        return last and any(name in self._timers and each.stage is not ALIVE for name, each in every)

    def step(self, longest: "Optional[float]" = None) -> None:
        """Wait until something happens, for `longest` seconds at most, and do what it calls for."""
        left = self._time_left(longest)
        before = time.monotonic()
        happened = self._triggers.wait(left)
        now = time.monotonic()
        # What came while something else was done has waited since the last wait ended, or a little less.
        since = now if now - before > 0.0002 else self._waited
        self._waited = now
        self.counts.wakeups += 1
        if self._orders is not None:
            self._obey(now)

        # First the dead whose creators are known, then what else is due, then what may be no heap at all.
        names = self._take_ended(happened, since) + self._take_closed(happened, since)
        found = self._settle(names)
        found = self._settle(self._take_due(now)) or found
        if happened.observer:
            self._observer.step()
            self._heed_passed_over()
        if happened.overflow or happened.gone:
            self._events_lost(happened.overflow, now)
        if self._strange:
            found = self._settle(self._take_strange()) or found
        if now >= self._next_rescan:
            self._start_rescan(now)
        if self._backlog:
            self._settle(self._take_backlog(now))
        if happened.events and not found:
            self._slow_down(now)
        self._triggers.listen(now >= self._resume and len(self._strange) < MANY)

        # Then what is only in advance, and what is only for telling.
        self._ask(now)
        self._telling.step(time.monotonic())
        self._heed_observer()
        self.counts.longest_step = max(self.counts.longest_step, time.monotonic() - now)

    def _time_left(self, longest: "Optional[float]") -> float:
        if self._backlog or self._strange:
            return 0.0
        until = min(self._next_rescan, self._timers.next(), self._telling.next())
        now = time.monotonic()
        if self._resume > now:
            until = min(until, self._resume)
        if self._triggers.resume:
            until = min(until, self._triggers.resume)
        if self._to_portray and not self._portraying:
            until = min(until, self._strangers.next)
        if self._to_renew and not self._renewing:
            until = min(until, self._next_renewal)
        left = max(0.0, until - now)
        return left if longest is None else min(left, longest)

    def _obey(self, now: float) -> None:
        """Put new orders in force; what was told under the old ones is told again."""
        orders, self._orders = self._orders, None
        assert orders is not None
        self.scope, self.rescan, self._dry_run, self._remove_fifos = orders
        self._reaper.dry_run = self._dry_run
        for each in self._known.values():
            each.told = ""
        self._next_rescan = now

    # -- triggers ------------------------------------------------------------------------------------------

    def _take_ended(self, happened: triggers.Happened, since: float) -> "List[str]":
        """The heaps whose creators have ended."""
        for name in happened.ended:
            each = self._known[name]
            self._has_ended(name, each)
            each.attempts = 0
            each.since, each.trigger = since, "pidfd"
        return happened.ended

    def _take_closed(self, happened: triggers.Happened, since: float) -> "List[str]":
        """The known heaps of which a writer has let go; what else came is put where it waits its turn."""
        names = []
        for name, let_go in happened.removed.items():
            each = self._known.get(name)
            if each is not None:
                each.removed, each.let_go = True, let_go
                if each.stage is not ALIVE:
                    names.append(name)
        for name in happened.closed:
            each = self._known.get(name)
            if each is not None and each.removed and name not in happened.removed:
                each.let_go = True
            if each is not None and each.creator:
                each.follow("close", since)
                names.append(name)
            elif each is not None or shmfs.pid_of_name(name):
                self._strange.setdefault(name, ("close", since))
        for name in happened.created:
            if shmfs.pid_of_name(name):
                self._track(name, "created", since)
                self._timers.set(name, time.monotonic() + FIRST_SIGHT)
        return names

    def _events_lost(self, overflow: bool, now: float) -> None:
        if overflow:
            self._last_overflow = now
            self._trouble("overflow", "the kernel dropped inotify events; everything is looked at again")
        else:
            self._trouble("inotify", "the directory is gone; it is looked for at each rescan")
            self._triggers.drop_inotify()
        self._forget_identities()
        self.look_again()

    def _take_due(self, now: float) -> "List[str]":
        names = []
        for name in self._timers.take(now):
            each = self._known.get(name)
            if each is not None and each.creator:
                names.append(name)
            elif each is not None:
                self._strange.setdefault(name, (each.trigger, each.since))
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
            each = self._known.get(name)
            if each is not None:
                each.changed()
                if each.stage is ALIVE:
                    self._to_renew.add(name)

    def _forget_identities(self) -> None:
        for name, each in self._known.items():
            each.changed()
            if each.stage is ALIVE:
                self._to_renew.add(name)

    # -- rescans -------------------------------------------------------------------------------------------

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
        there = set(names)
        # Known heaps come first: a stranger's files, however many, keep nobody from them.
        first = [name for name in self._known if name in there]
        self._backlog = schedule.Queue(first + names)
        for name in first:
            if self._known[name].stage is ALIVE:
                self._to_renew.add(name)
        if self._remove_fifos and not self._fifos_asked:
            self._fifos_asked = True
            arguments = self._fifo_root, self._dry_run
            self._observer.ask(observer.SOON, "fifos", arguments, self._fifos_settled)
        for name in [name for name in self._known if name not in there]:
            self._name_is_missing(name, self._known[name])

    def _take_backlog(self, now: float) -> "List[str]":
        names = self._backlog.take(RESCAN_CHUNK)
        for name in names:
            each = self._known.get(name)
            if each is not None and not each.attempts and name not in self._timers and not each.asked:
                each.since, each.trigger = now, "rescan"
        return names

    def _start(self) -> None:
        if not self.directory.on_tmpfs:
            self._trouble("root", f"{self.root} is no tmpfs: nothing can be proven there, and all is kept")
        elif not self.directory.leases:
            self._trouble("root", "leases could not be shown to prove anything here: only pids do")
        self._add_inotify()

    def _add_inotify(self) -> None:
        try:
            self._triggers.add_inotify(self.root)
        except OSError as error:
            self._trouble("inotify", f"no inotify: {error.strerror}; pidfds and rescans remain")
            return
        self._troubles.pop("inotify", None)

    def _follow_root(self) -> None:
        """Go over to another directory that lies at the path now, and try for inotify again."""
        try:
            there, here = os.stat(self.root), os.fstat(self.directory.fd)
            if (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino):
                directory = shmfs.ShmDirectory(self.root, self._proc_root)
                for name in list(self._known):
                    self._forget(name)
                self._triggers.drop_inotify()
                self._reaper.close()
                self.directory.close()
                self.directory = directory
                self._reaper = reaper.Reaper(directory, self._dry_run)
                self._troubles.pop("root", None)
                self._tell_trouble(f"another directory lies at {self.root} now: that one is watched")
                self._start()
            self._troubles.pop("path", None)
            self._add_inotify()
        except OSError as error:
            self._trouble("path", f"{self.root} cannot be opened: {error.strerror}; tried at each rescan")

    # -- verdict and unlink --------------------------------------------------------------------------------

    def _settle(self, names: "Sequence[str]") -> bool:
        """Settle each name as far as that can be done now; whether anything came of it."""
        found = False
        for name in dict.fromkeys(names):
            found = self._try(name) or found
        return found

    def _try(self, name: str) -> bool:
        """Lease, then identity; else the observer is asked.  Whether anything came of it."""
        each = self._known.get(name)
        self._absorb_changes()
        outcome = self._reaper.by_lease(name, self._only(name))
        seen = outcome.sighting
        if outcome.result is not reaper.UNSURE or outcome.verdict is not None or seen is None:
            return self._record(outcome)
        other = True
        if each is not None:
            other = self._see(each, seen)
        if each is None or other or not each.creator:
            return self._wonder(name, seen)
        if self._is_watched_no_more(name, each):
            self._has_ended(name, each)
        if each.stage is ALIVE:
            return self._still_alive(name, each)
        verdict = self._by_identity(each, seen)
        if verdict is not None:
            return self._record(self._remove(seen, verdict))
        if not each.asked:
            each.asked = True
            self._ask_verdict(observer.URGENT, [(seen, each.creator)])
        return False

    def _see(self, each: Known, seen: shmfs.Sighting) -> bool:
        """Note what was seen; whether another file lies under the name than before."""
        other = each.see(seen)
        if other:
            self._triggers.unwatch(seen.name)
            self._on_change(seen.name)
        return other

    def _has_ended(self, name: str, each: Known) -> None:
        """Note that a creator has ended."""
        each.stage = ENDED
        self._on_change(name)

    def _only(self, name: str) -> "Optional[shmfs.FileId]":
        """The only file that may be removed under that name; None: any."""
        if self.scope == HOST:
            return None
        each = self._known.get(name)
        return each.file_id if each is not None and each.descends else reaper.NOTHING

    def _is_watched_no_more(self, name: str, each: Known) -> bool:
        """Whether a creator that no pidfd watches has ended, for all that its own number tells."""
        if each.stage is not ALIVE or self._triggers.watches(name) or not self._own_proc:
            return False
        start, dead = procfs.pulse(each.creator, self._proc_root)
        if start:
            return dead or start != each.start
        return procfs.Processes(self._proc_root).no_such_process(each.creator)

    def _by_identity(self, each: Known, seen: shmfs.Sighting) -> "Optional[creator.Verdict]":
        """The verdict that was prepared while the creator lived; None if there is none that holds."""
        if each.identity is None or procfs.pulse(each.creator, self._proc_root)[0] not in (0, each.start):
            return None  # another process has the pid: that one has to be looked into
        return creator.judge_by_identity(seen, each.identity, time.monotonic() - each.identity.since)

    def _remove(self, seen: shmfs.Sighting, verdict: creator.Verdict) -> reaper.Outcome:
        """Unlink, unless the file is changed before that is done."""
        each = self._known.get(seen.name)
        version = each.version if each is not None else 0

        def changed() -> str:
            self._absorb_changes()
            now = self._known.get(seen.name)
            if now is not None and now.version != version:
                return "it was changed after it was judged"
            return ""

        return self._reaper.remove(seen, verdict, self._only(seen.name), changed)

    def _still_alive(self, name: str, each: Known) -> bool:
        """A writer has let go of the heap of a living creator: which it may be itself, just ending."""
        each.told = ""
        if not self._triggers.watches(name) and each.trigger == "close" and each.attempts < EXITING:
            self._retry(name, each)
        else:
            each.attempts = 0
        return False

    def _wonder(self, name: str, seen: shmfs.Sighting) -> bool:
        """Have it looked for the creator of a heap of which nothing is known."""
        found = self._known.get(name)
        if found is None:
            found = self._track(name, "rescan", self._last_rescan)
            found.see(seen)
        if not found.asked:
            self._to_portray.add(name, seen.status.st_uid)
        return False

    def _record(self, outcome: reaper.Outcome) -> bool:
        """Draw the consequences; whether anything came of it."""
        name, seen, result = outcome.name, outcome.sighting, outcome.result
        each = self._known.get(name)
        if result is reaper.GONE:
            return each is not None and self._name_is_missing(name, each)
        if result is reaper.OUT_OF_SCOPE or (result is reaper.NO_HEAP and not _in_the_making(seen)):
            self._forget(name)
            return False
        if result is reaper.FAILED and seen is not None and seen.kind is shmfs.UNREADABLE:
            if not shmfs.pid_of_name(name):  # nobody knows that it is a heap
                self._forget(name)
                return False
        if each is None:
            each = self._track(name, "rescan", self._last_rescan)
        first = not each.creator
        if seen is not None:
            self._see(each, seen)
        if outcome.verdict is not None and outcome.verdict.state in creator.ORPHANS and each.stage is ALIVE:
            self._has_ended(name, each)
        if result is reaper.REMOVED:
            self._tell_removal(outcome, each)
            return True
        if result is reaper.WOULD_REMOVE:
            self._tell_state(WOULD_REMOVE, outcome, each)
        elif result is reaper.FAILED and outcome.error not in reaper.NO_DESCRIPTOR:
            self._tell_state(FAILED, outcome, each)
        elif result is reaper.NO_HEAP:  # it is just being made
            if not self._retry(name, each):
                self._forget(name)
            return False
        elif not self._retry(name, each):
            self._tell_state(UNPROVEN, outcome, each)
        return first

    def _retry(self, name: str, each: Known) -> bool:
        """Whether there is one more try to come."""
        if each.attempts >= len(RETRIES):
            each.attempts = 0
            return False
        self._timers.set(name, time.monotonic() + schedule.retry_delay(each.attempts))
        each.attempts += 1
        return True

    def _name_is_missing(self, name: str, each: Known) -> bool:
        """A normal exit, or somebody else's deed.  Whether a heap has gone."""
        if self._is_watched_no_more(name, each):
            self._has_ended(name, each)
        if each.stage is not ALIVE:
            if each.stage is ENDED and self._was_left_behind(name, each):
                self._tell_cleaned(name, each)
            self._forget(name)
            return bool(each.creator)
        now = time.monotonic()
        if not each.vanished:
            each.vanished = now
            self._timers.set(name, now + SLOW_EXIT)
            return True
        if now - each.vanished >= SLOW_EXIT and not each.told and not each.asked:
            each.asked = True
            question = [(each.creator, each.file_id)]
            self._observer.ask(observer.SOON, "mapped", question, lambda answer: self._lives_on(name, answer))
        return False

    def _was_left_behind(self, name: str, each: Known) -> bool:
        """Whether a creator that has ended had left its heap there, by the order of the kernel's events.

        A process that exits unlinks its heap and lets go of it then; of one that was killed the kernel closes
        the heap first, and a cleaner unlinks it after.
        """
        if not self.inotify_works:
            return False
        late = triggers.Happened()
        self._triggers.read_events(late)
        self._strange.update((other, ("close", self._waited)) for other in late.closed)
        for other in late.created:
            if shmfs.pid_of_name(other):
                self._strange.setdefault(other, ("created", self._waited))
        for other, let_go in late.removed.items():
            if other in self._known:
                self._known[other].removed, self._known[other].let_go = True, let_go
        if late.overflow or late.gone:
            self._events_lost(late.overflow, time.monotonic())
            return False
        if each.removed and name in late.closed:
            each.let_go = each.let_go or late.removed.get(name, True)
        return each.removed and not each.let_go

    # -- what the observer is asked --------------------------------------------------------------------------

    def _heed_observer(self) -> None:
        self._triggers.heed(self._observer.fileno(), self._observer.writing)

    def _ask(self, now: float) -> None:
        """Ask for what waits to be asked, if it is time."""
        if self._triggers.heed_changes_again(now):
            self._absorb_changes()
        if self._to_portray and not self._portraying and now >= self._strangers.next:
            self._ask_for_portraits()
        if self._to_renew and not self._renewing and now >= self._next_renewal:
            self._renew()

    def _sightings(self, names: "Sequence[str]") -> "List[Tuple[shmfs.Sighting, int]]":
        """What is seen of the files now, each with the version of what is known of it."""
        self._absorb_changes()
        found = []
        for name in names:
            each = self._known.get(name)
            if each is None or each.asked:
                continue
            try:
                with self.directory.open(name) as file:
                    seen = file.sighting
            except OSError:
                continue  # whatever is wrong, the next try will tell
            if seen.kind in (shmfs.HEAP, shmfs.HALF_MADE):
                self._see(each, seen)
                each.asked = True
                found.append((seen, each.version))
        return found

    def _ask_for_portraits(self) -> None:
        found = self._sightings(self._to_portray.take(PORTRAITS))
        if found:
            self._portraying = True
            started = time.monotonic()
            plain = [observing.plain_sighting(seen) for seen, _ in found]
            self._observer.ask(
                observer.SOON,
                "portray",
                (plain, self.parent),
                lambda answer: self._portrayed(found, answer, started),
            )

    def _portrayed(self, found: "List[Tuple[shmfs.Sighting, int]]", answer: "Any", started: float) -> None:
        self._portraying = False
        fruitful = False
        self._absorb_changes()
        for (seen, version), plain in zip(found, answer or [None] * len(found)):
            each = self._known.get(seen.name)
            if each is None:
                continue
            each.asked = False
            if each.file_id != seen.file_id:
                self._try(seen.name)
            elif plain is None:
                self._judged(seen, creator.Verdict(creator.UNKNOWN, "its processes could not be looked at"))
            else:
                portrait = observing.Portrait(plain)
                fruitful = fruitful or portrait.verdict.state is not creator.UNKNOWN
                if portrait.verdict.state is creator.ALIVE and portrait.verdict.creator:
                    self._found_alive(seen, each, portrait, each.version == version)
                else:
                    self._judged(seen, portrait.verdict)
        if not fruitful:
            self._strangers.took(started, time.monotonic())

    def _found_alive(
        self, seen: shmfs.Sighting, each: Known, portrait: observing.Portrait, unchanged: bool
    ) -> None:
        """Note who the creator is, and have its death told by a pidfd."""
        name, pid = seen.name, portrait.verdict.creator
        each.attempts, each.told = 0, ""
        each.creator, each.start = pid, portrait.start
        each.description = processes.Description(
            processes.UNKNOWN, portrait.command, portrait.words, portrait.uid
        )
        each.descends = portrait.descends
        each.stage = ALIVE
        self._on_change(name)
        if portrait.identity and unchanged and self.inotify_works:
            each.identity = creator.Identity(pid, portrait.start, seen.file_id, seen.raw, time.monotonic())
        if not self._watch(name, each):
            each.since = time.monotonic()
            self._has_ended(name, each)
            self._try(name)
        elif not unchanged:
            self._to_renew.add(name)
        if portrait.uid >= 0:
            self._telling.name(portrait.uid)
        # It may have died while it was looked at, and its last close have come before.
        if each.stage is ALIVE and not self._triggers.watches(name):
            self._try(name)

    def _watch(self, name: str, each: Known) -> bool:
        """Have the creator's end told by a pidfd, if there can be one; False if it has ended."""
        if not self._own_proc:
            what = f"{self._proc_root} belongs to another pid namespace"
            self._trouble("pidfd", f"no pidfd: {what}; inotify and rescans remain")
            return True
        try:
            watched = self._triggers.watch(name, each.creator, each.start, self._proc_root)
        except ProcessLookupError:
            return False
        if watched:
            self._troubles.pop("pidfd", None)
        else:
            why = self._triggers.pidfd_trouble
            self._trouble("pidfd", f"no pidfd: {why}; inotify and rescans remain")
        return True

    def _renew(self) -> None:
        """Establish anew who the creators are of heaps that were changed, and whether they still map them."""
        self._next_renewal = time.monotonic() + RENEWED_AGAIN
        names = [name for name in self._to_renew.take(RENEWALS) if self._is_alive(name)]
        for name in names:
            if not self._triggers.watches(name) and not self._watch(name, self._known[name]):
                self._timers.set(name, time.monotonic())
        found = self._sightings(names)
        if found:
            self._renewing = True
            question = [(observing.plain_sighting(seen), self._known[seen.name].creator) for seen, _ in found]
            self._observer.ask(observer.SOON, "renew", question, lambda answer: self._renewed(found, answer))

    def _is_alive(self, name: str) -> bool:
        return name in self._known and self._known[name].stage is ALIVE

    def _renewed(self, found: "List[Tuple[shmfs.Sighting, int]]", answer: "Any") -> None:
        self._renewing = False
        self._absorb_changes()
        doubtful = []
        for (seen, version), plain in zip(found, answer or [None] * len(found)):
            each = self._known.get(seen.name)
            if each is None:
                continue
            each.asked = False
            if each.stage is ENDED:
                self._try(seen.name)
            elif each.stage is ALIVE and plain is not None and each.file_id == seen.file_id:
                maps, established = plain
                if established and each.version == version and self.inotify_works:
                    now = time.monotonic()
                    each.identity = creator.Identity(each.creator, each.start, seen.file_id, seen.raw, now)
                elif not maps:  # it may have exec'd another program
                    each.asked = True
                    doubtful.append((seen, 0))
        if doubtful:
            self._ask_verdict(observer.SOON, doubtful)

    def _ask_verdict(self, kind: str, question: "List[Tuple[shmfs.Sighting, int]]") -> None:
        """Have all processes of the host looked at for these heaps."""
        versions = [self._known[seen.name].version for seen, _ in question]
        plain = [(observing.plain_sighting(seen), ended) for seen, ended in question]

        def answered(answer: "Any") -> None:
            self._absorb_changes()
            for (seen, _), version, verdict in zip(question, versions, answer or [None] * len(question)):
                each = self._known.get(seen.name)
                if each is None:
                    continue
                each.asked = False
                if verdict is None:
                    why = "the processes of this host could not be looked at"
                    self._judged(seen, creator.Verdict(creator.UNKNOWN, why))
                elif each.version != version:
                    self._try(seen.name)
                else:
                    self._judged(seen, creator.verdict_of(verdict))

        self._observer.ask(kind, "look", plain, answered)

    def _judged(self, seen: shmfs.Sighting, verdict: creator.Verdict) -> None:
        """Do what a verdict of the observer allows."""
        each = self._known[seen.name]
        if verdict.state is creator.ALIVE:
            # Another process, be it one that was given the pid of the dead one.
            if verdict.creator and (verdict.creator != each.creator or each.stage is ENDED):
                each.forget_the_creator()
                self._triggers.unwatch(seen.name)
                self._to_portray.add(seen.name, seen.status.st_uid)
            elif not self._retry(seen.name, each) or verdict.creator:
                self._timers.cancel(seen.name)
            return
        self._record(self._remove(seen, verdict))

    def _heed_passed_over(self) -> None:
        """Tell once who does not answer."""
        now = self._observer.passed_over
        if now != self._passed_over:
            for each in now:
                if each not in self._passed_over:
                    self._tell_trouble(_passed_over(each, self._proc_root))
            self._passed_over = now

    # -- telling -------------------------------------------------------------------------------------------

    def _tell_removal(self, outcome: reaper.Outcome, each: Known) -> None:
        """Count it, and have it told when it is known who is attached."""
        event = self._event(REMOVED, outcome, each)
        self.counts.removed += 1
        self.counts.bytes += event.bytes
        if event.trigger in ("close", "pidfd"):
            self.counts.latencies.add(event.latency)
        pidfd = self._triggers.release(outcome.name)
        attached = each.file_id if event.evidence != creator.LEASE else None
        self._forget(outcome.name)
        self._telling.tell(event, self._uid(each), attached, pidfd)

    def _tell_cleaned(self, name: str, each: Known) -> None:
        event = Event(CLEANED, "its creator ended and left it; somebody else unlinked it first", name)
        event.trigger, event.latency = each.trigger, max(0.0, time.monotonic() - each.since)
        event.bytes = each.bytes
        event.device, event.inode = each.file_id
        self._add_creator(event, each)
        self.counts.cleaned += 1
        self.counts.cleaned_bytes += each.bytes
        self._telling.tell(event, self._uid(each), each.file_id, self._triggers.release(name))

    def _lives_on(self, name: str, answer: "Any") -> None:
        """A heap has lost its name, and its creator was asked for."""
        each = self._known.get(name)
        if each is None:
            return
        each.asked = False
        if answer is None or not each.vanished:
            return
        if not answer[0]:
            self._forget(name)
            return
        each.told = (
            f"its creator, process {each.creator}, lives on and maps it; somebody else unlinked it"
            " (a forked child that exits, shmclean -f, systemd's RemoveIPC)"
        )
        event = Event(UNLINKED, each.told, name)
        event.device, event.inode = each.file_id
        event.bytes = each.bytes
        self._add_creator(event, each)
        self._telling.tell(event, self._uid(each))

    def _tell_state(self, kind: events.Kind, outcome: reaper.Outcome, each: Known) -> None:
        """Tell of something that stays as it is, once."""
        if each.told != outcome.reason:
            each.told = outcome.reason
            self.counts.failures += kind is FAILED
            attached = outcome.verdict is not None and outcome.verdict.state is creator.ATTACHED
            file_id = each.file_id if attached else None
            self._telling.tell(self._event(kind, outcome, each), self._uid(each), file_id)

    def _event(self, kind: events.Kind, outcome: reaper.Outcome, each: Known) -> Event:
        event = Event(kind, outcome.reason, outcome.name)
        event.trigger = each.trigger
        event.latency = max(0.0, outcome.done - each.since)
        event.creator = shmfs.pid_of_name(outcome.name)
        if outcome.sighting is not None:
            event.device, event.inode = outcome.sighting.file_id
            event.bytes = outcome.sighting.status.st_blocks * 512
            header = outcome.sighting.header
            if not event.creator and header is not None:
                event.creator = header.creator
        if outcome.verdict is not None:
            event.evidence = str(outcome.verdict.evidence)
        self._add_creator(event, each)
        return event

    def _add_creator(self, event: Event, each: Known) -> None:
        event.creator = each.creator or event.creator or shmfs.pid_of_name(event.name)
        event.uid = each.uid
        who = each.description
        event.command, event.words = who.command, who.words

    def _uid(self, each: Known) -> int:
        """Of the creator or, where that is not known, of the file."""
        return each.description.uid if each.description.uid >= 0 else each.uid

    def _trouble(self, what: str, reason: str) -> None:
        if self._troubles.get(what) != reason:
            self._troubles[what] = reason
            self._tell_trouble(reason)

    def _tell_trouble(self, reason: str) -> None:
        self._telling.tell(Event(TROUBLE, reason))

    def _fifos_settled(self, answer: "Any") -> None:
        """What the observer did about FIFOs of the dead: no heap waits for a folder of theirs."""
        self._fifos_asked = False
        if isinstance(answer, str):
            self._trouble("fifos", f"{self._fifo_root} cannot be read: {answer}")
            return
        self._troubles.pop("fifos", None)
        told, self._told_fifos = self._told_fifos, set()
        kinds = {
            str(reaper.REMOVED): REMOVED,
            str(reaper.WOULD_REMOVE): WOULD_REMOVE,
            str(reaper.FAILED): FAILED,
        }
        for name, result, reason, file_id, uid, evidence in answer or ():
            if result not in kinds:
                continue
            kind = kinds[result]
            if kind is REMOVED:
                self.counts.fifos += 1
            else:
                self._told_fifos.add((name, reason))
                if (name, reason) in told:
                    continue
                self.counts.failures += kind is FAILED
            event = Event(kind, reason, name)
            event.trigger, event.evidence = "rescan", evidence
            event.device, event.inode = file_id
            event.creator, event.uid = fifos.pid_of_name(name), uid
            self._telling.tell(event, uid)

    # -- bookkeeping ---------------------------------------------------------------------------------------

    def _track(self, name: str, trigger: str, since: float) -> Known:
        each = self._known.get(name)
        if each is None:
            each = self._known[name] = Known(trigger, since)
        return each

    def _forget(self, name: str) -> None:
        if self._known.pop(name, None) is not None:
            self._on_change(name)
            self._triggers.unwatch(name)
            self._timers.cancel(name)
            self._to_portray.discard(name)
            self._to_renew.discard(name)


def _in_the_making(seen: "Optional[shmfs.Sighting]") -> bool:
    """Whether a file without a heap's magic is about to become one: it is named so, and somebody writes."""
    return seen is not None and seen.answer is lease.REFUSED and seen.name_pid > 0


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
