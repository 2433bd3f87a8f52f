"""Notices that a process died, within a millisecond or two, and removes its heap.

A step handles events (`triggers`), judges (`creator`), unlinks (`reaper`), and then does everything that only
reports need (`account`, `reporting`).  Before the unlink it touches only what cannot block: the directory,
leases, pidfds, kill() and /proc/<pid>/stat of the one creator.  The observer inspects other processes
(`inquiry`), in advance if possible: while a creator lives its identity is established (creator.Identity), so
that at its death, with peers attached, no other process has to be inspected.

Limit: files that are not named heap-<pid> raise triggers only after a rescan has found that they are heaps.
"""

import errno
import time

from gppshm import fifos, handling, observer, schedule, shmfs, triggers
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
from gppshm.handling import CHILDREN, HOST, SCOPES
from gppshm.waiting import PIECE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Optional, Set, Tuple

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

RETRIES = schedule.RETRIES
PUT_OFF = 0.05
"""Seconds that reports, and giving back memory, wait at most while every step removes something."""
PAUSE = 0.005
"""Seconds to collect events while they are frequent and useless."""
EVENTS, EVENTS_AT_ONCE = 0.01, 0.1
"""The share of a processor that useless events may use, and seconds at once; more of them is a flood."""
FLOOD = (0.25, 2.0)
"""Seconds for which events are not read during a flood; doubled as it goes on."""
FLOOD_OVER = 16384
"""Bytes of events after which a flood goes on."""
LISTING, LISTINGS, LISTINGS_AT_ONCE = 0.1, 0.015, 0.03
"""Seconds between listings of the directory during a flood; the share of a processor, and seconds at once."""
FLOOD_RESCAN = 10.0
"""Seconds between rescans during a flood, in which no events are read."""
LOST_EVENTS_RESCAN = 1.0
"""Seconds between rescans because of lost events."""
LAST_REPORTS = 0.25
"""Seconds that the end waits for pending reports."""
REST = 0.1
"""Seconds of pause after an exception, so that a repeated one costs little."""
INOTIFY_LIMITS = {
    errno.EMFILE: " (the limit is fs.inotify.max_user_instances, or that of descriptors)",
    errno.ENOSPC: " (the limit is fs.inotify.max_user_watches)",
}
AT_ONCE = 0.0002
"""A wait of fewer seconds returned an event that had arrived before."""

SWITCH_INTERVAL = 0.0005
"""For sys.setswitchinterval in programs with other busy threads: seconds until they yield."""

raise_descriptor_limit = triggers.raise_descriptor_limit
HEADROOM = triggers.HEADROOM


class Watcher(handling.Handling):
    """Watches one directory, removes orphaned heaps, and calls `on_event` with an `Event` for each.

    scope     HOST: every orphan; CHILDREN: only heaps whose creator descends from `parent`
    rescan    seconds between rescans, which inspect every file
    remove_fifos  at each rescan, also remove dead processes' FIFOs in `fifo_root`
    on_change  called with the name of each heap for which `record` has changed
    also      a descriptor; `step` returns when it is readable
    reclaim   give back free memory of removed heaps with attached peers

    A context manager.  `run` works in the calling thread.  It makes no other thread, but one process, the
    observer.  An exception of `on_event` ends `run`.  OSError if the directory cannot be opened.

    The latency of an event counts from its trigger: the end of the wait for it or, if it arrived while the
    watcher was busy, the end of the wait before.
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
        handling.Handling.__init__(
            self, root, on_event, scope, parent, dry_run, proc_root, on_change, reclaim
        )
        self.rescan = rescan
        self._fifo_root = fifo_root
        self._remove_fifos = remove_fifos
        self._orders: Optional[Tuple[str, float, bool, bool, bool]] = None
        self._backlog = schedule.Queue()  # names of a rescan whose creators are known
        self._useless = schedule.Budget(EVENTS, EVENTS_AT_ONCE)
        self._pause = 0.0
        self._listings = schedule.Budget(LISTINGS, LISTINGS_AT_ONCE)
        self._next_listing = 0.0
        self._listed: Set[str] = set()
        self._next_rescan = 0.0
        self._last_rescan = self._last_overflow = -LOST_EVENTS_RESCAN
        self._last_vain = -PAUSE
        self._last_reports = 0.0
        self._resume = 0.0
        self._stopping = False
        self._fifos_asked = False
        try:
            self._poll_observer()
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

    # -- orders, from any thread -------------------------------------------------------------------------

    def stop(self) -> None:
        """Make `run` return; from any thread and from a signal handler."""
        self._stopping = True
        self.wake()

    @property
    def wake_fd(self) -> int:
        """For signal.set_wakeup_fd: a Python signal handler does not run while `step` is about to wait."""
        return self._triggers.wake_fd

    def wake(self) -> None:
        """Make `step` return soon; from any thread and from a signal handler."""
        self._triggers.wake()

    def change(
        self, scope: str, rescan: float, dry_run: bool, remove_fifos: bool, reclaim: bool = True
    ) -> None:
        """Apply new orders, all at once, and scan everything again; from any thread."""
        self._orders = scope, rescan, dry_run, remove_fifos, reclaim
        self.wake()

    def scan_again(self) -> None:
        """Scan everything soon, as something may have been missed."""
        self._next_rescan = min(
            self._next_rescan, max(time.monotonic(), self._last_rescan + LOST_EVENTS_RESCAN)
        )

    # -- the loop ----------------------------------------------------------------------------------------

    def close(self) -> None:
        """Report what is pending, and close all descriptors."""
        try:
            self._reporting.flush()
        finally:
            self._close()

    def run(self, on_fault: "Optional[Callable[[Exception], None]]" = None) -> None:
        """Work until `stop`.

        on_fault  called with an exception of a step; then everything is scanned again and the work continues.
                  Without it the exception is raised.
        """
        while not self._stopping:
            self.guarded(self.step, on_fault)
        self.guarded(self._send_last_reports, on_fault)

    def guarded(self, act: "Callable[[], object]", on_fault: "Optional[Callable[[Exception], None]]") -> None:
        """Run one part of the loop, as `run` does."""
        try:
            act()
        except Exception as error:
            if on_fault is None:
                raise
            on_fault(error)
            if not self._stopping:
                time.sleep(REST)
                self.scan_again()

    def sweep(self, last: bool = False, patience: float = float("inf")) -> None:
        """Scan everything once, now: until `stop` or, as the `last` thing, after it.

        patience  seconds that it may take at most
        The last sweep also makes all pending tries for dead creators.
        """
        end = time.monotonic() + patience
        self._start_rescan(time.monotonic())
        self._waiting.sweeping, self._waiting.unlimited = True, last
        try:
            while (last or not self._stopping) and time.monotonic() < end and self._is_sweeping(last):
                self.step(0.05)
        finally:
            self._waiting.sweeping = self._waiting.unlimited = False
        self._send_last_reports(flush=last)

    def _is_sweeping(self, last: bool) -> bool:
        if self._backlog or self._inquiry.is_inspecting or self._fifos_asked:
            return True
        waiting = self._waiting
        if waiting.is_due(waiting.new) or waiting.is_due(waiting.others):
            return True
        every = list(self._known.items())
        if any(heap.asked for _, heap in every):
            return True
        due = (self._timers, waiting.again) if last else ()
        return any(name in some and not heap.lives for name, heap in every for some in due)

    def _send_last_reports(self, flush: bool = True) -> None:
        """Give pending reports a moment."""
        end = time.monotonic() + LAST_REPORTS
        while self._reporting.waiting and time.monotonic() < end:
            self.step(min(0.05, end - time.monotonic()))
        if flush:
            self._reporting.flush()

    def step(self, longest: "Optional[float]" = None) -> None:
        """Wait for events, up to `longest` seconds, and handle them."""
        left = self._time_left(longest)
        before = time.monotonic()
        happened = self._triggers.wait(left)
        now = time.monotonic()
        since = now if now - before > AT_ONCE else self._waited
        self._waited = now
        self.counts.wakeups += left > 0
        removed = self.counts.removed
        if self._orders is not None:
            self._apply_orders(now)

        # First heaps of known creators that died, then others that are due, then files that may be no heaps.
        self._note_ended(happened, since)
        started = schedule.processor_seconds() - happened.seconds
        found = self._handle(happened.ended + self._take_closed(happened, since))
        useless = happened.events and not found
        self._handle(self._take_due(now))
        if happened.observer or self._inquiry.answered:
            self._take_answers()
        if happened.overflow or happened.gone:
            self._lost.append(happened.overflow)
        while self._lost:
            self._events_lost(self._lost.pop(), now)
        if happened.mounts and self._is_elsewhere():
            self._next_rescan = now
        waiting = self._waiting
        waiting.handle(waiting.new, self._handle_new)
        if not waiting.is_due(waiting.new):
            waiting.handle(waiting.again, self._try)
        if now >= self._next_rescan:
            self._start_rescan(now)
        self._handle_backlog(now)
        if not waiting.is_due(waiting.new):
            waiting.handle(waiting.others, self._handle_other)
        if useless:
            self._slow_down(now, schedule.processor_seconds() - started)
        if self._flooded:
            self._endure(now)
        self._triggers.listen(now >= self._resume)

        # Then work in advance, and reports.
        if self._triggers.poll_changes_again(now):
            self._absorb_changes()
        self._inquiry.step(now, self._absorb_changes)
        if self.counts.removed == removed or now - self._last_reports > PUT_OFF:
            self._last_reports = now
            self._reporting.step(time.monotonic())
            self._reaching.step(time.monotonic())
            self._returns.step(time.monotonic())
        self._poll_observer()
        self.counts.longest_step = max(self.counts.longest_step, time.monotonic() - now)

    def _time_left(self, longest: "Optional[float]") -> float:
        if self._backlog or self._lost or self._inquiry.answered:
            return 0.0
        until = min(self._next_rescan, self._timers.next(), self._reporting.next(), self._inquiry.next())
        until = min(until, self._returns.next(), self._reaching.next())
        until = min(until, self._waiting.next())
        if not self._triggers.listening:
            until = min(until, self._resume)  # which may have passed meanwhile
        if self._flooded:
            until = min(until, max(self._next_listing, self._listings.next))
        if self._triggers.resume:
            until = min(until, self._triggers.resume)
        left = max(0.0, until - time.monotonic())
        return left if longest is None else min(left, longest)

    def _apply_orders(self, now: float) -> None:
        """Apply new orders; earlier reports are repeated under them."""
        orders, self._orders = self._orders, None
        assert orders is not None
        self.scope, self.rescan, self._dry_run, self._remove_fifos, self._reclaim = orders
        self._reaper.dry_run = self._dry_run
        self._reaper.pin = self._reclaim and not self._dry_run
        if not self._reclaim:
            self._stop_returning()
        for heap in self._known.values():
            heap.reported = ""
        self._next_rescan = now

    # -- triggers ------------------------------------------------------------------------------------------

    def _events_lost(self, overflow: bool, now: float) -> None:
        if overflow:
            self._last_overflow = now
            words = "the kernel dropped inotify events; everything is scanned again"
            self._account.trouble("overflow", words)
            if self._flooded and now < self._last_rescan + FLOOD_RESCAN:
                return
        else:
            words = "the directory is gone; it is looked for at each rescan"
            self._account.trouble("inotify", words)
            self._triggers.drop_inotify()
            self._flooded = False
            self._forget_identities()
        self.scan_again()

    def _slow_down(self, now: float, seconds: float) -> None:
        """Let events accumulate if they are frequent and useless; `seconds`: what they took.

        If they take more than their budget, no events are read for a while.
        """
        if now - self._last_vain < 4 * PAUSE:
            self._resume = now + PAUSE
        self._last_vain = now
        self._useless.spend(now, seconds)
        if self._useless.next > now and not self._flooded:
            self._flooded = True
            self._pause = FLOOD[0]
            self._resume = self._next_reading(now)
            self._listed = set()

    def _next_reading(self, now: float) -> float:
        """When events are read again during a flood."""
        return max(now + self._pause, min(self._useless.next, now + FLOOD[1]))

    def _endure(self, now: float) -> None:
        """During a flood of events: list the directory instead, and from time to time see whether it goes on.

        Deaths of known creators are reported meanwhile, by pidfds or by watches of their heaps.
        """
        if now >= max(self._next_listing, self._listings.next):
            self._next_listing = now + LISTING
            started = schedule.processor_seconds()
            self._list(now)
            self._listings.spend(now, schedule.processor_seconds() - started)
        if now < self._resume:
            return
        started = schedule.processor_seconds()
        happened = triggers.Happened()
        self._triggers.read_events(happened)
        for name in self._take_closed(happened, now):
            self._timers.set(name, now)
        skipped = self._triggers.skip()
        if happened.gone:
            self._lost.append(False)
        elif skipped or happened.overflow:
            self._lost.append(True)
        self._pause = min(2 * self._pause, FLOOD[1]) if skipped > FLOOD_OVER else FLOOD[0]
        self._useless.spend(now, schedule.processor_seconds() - started)
        self._resume = self._next_reading(now)
        self._flooded = self._useless.next > now or skipped > FLOOD_OVER
        if not self._flooded:
            self._resume = now

    def _list(self, now: float) -> None:
        """Find new and missing names of heaps without events."""
        try:
            names = set(self.directory.names())
        except OSError:
            return  # a rescan reports it
        for name in names.difference(self._listed, self._known):
            if shmfs.pid_of_name(name) and not shmfs.living_name(name):
                if not self._hear_of(name, "rescan", now):
                    names.discard(name)
        self._listed = names
        for name in [name for name in self._known if name not in names]:
            self._name_is_missing(name, self._known[name])

    # -- rescans -------------------------------------------------------------------------------------------

    def _start_rescan(self, now: float) -> None:
        if self._last_overflow < self._last_rescan:
            self._account.mended("overflow")
        self._last_rescan = now
        self._next_rescan = now + self.rescan
        self.counts.rescans += 1
        self._follow_root()
        self._returns.inspect_again(now)
        try:
            names = self.directory.names()
        except OSError as error:
            self._account.trouble("listing", f"{self.root} cannot be listed: {error.strerror}")
            return
        self._account.mended("listing")
        names = list(self.directory.to_clean(names, self._dry_run))
        there = set(names)
        # Known creators come first, so that no number of foreign files delays them.
        first = [name for name, heap in self._known.items() if heap.creator and name in there]
        self._backlog = schedule.Queue(first)
        for name in there.difference(first):
            owner = self._owner(name)
            self._waiting.others.add(name, -1 if owner is None else owner)
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
            self._observer.ask(observer.SOON, "fifos", question, self._fifos_cleaned)
        for name in [name for name in self._known if name not in there]:
            self._name_is_missing(name, self._known[name])

    def _fifos_cleaned(self, answer: "Any") -> None:
        self._fifos_asked = False
        self._account.fifos(answer, self._fifo_root)

    def _handle_backlog(self, now: float) -> None:
        """Handle heaps of known creators that a rescan found, for PIECE seconds."""
        end = time.monotonic() + PIECE
        while self._backlog:
            (name,) = self._backlog.take(1)
            self._note_rescan(name, now)
            self._try(name)
            if time.monotonic() >= end:
                return

    def _handle_other(self, name: str) -> bool:
        self._note_rescan(name, time.monotonic())
        return self._try(name)

    def _note_rescan(self, name: str, now: float) -> None:
        heap = self._known.get(name)
        if heap is not None and not heap.attempts and name not in self._timers and not heap.asked:
            heap.since, heap.trigger = now, "rescan"

    def _start(self) -> None:
        if self.directory.doubt:
            self._account.trouble("root", f"{self.root}: {self.directory.doubt}; nothing is removed there")
        elif not self.directory.leases:
            words = "leases do not work here: only pids are evidence"
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
        """Whether the directory at the path is another one than the watched one."""
        try:
            return not self.directory.is_current()
        except OSError:
            return False

    def _follow_root(self) -> None:
        """Switch to the directory that is at the path now, and try inotify again."""
        try:
            if not self.directory.is_current():
                directory = shmfs.ShmDirectory(self.root, self._proc_root)
                for name in list(self._known):
                    self._forget(name)
                self._triggers.drop_inotify()
                self._reaper.close()
                self.directory.close()
                self.directory = directory
                self._reaper = self._make_reaper()
                self._account.mended("root")
                self._account.news(f"another directory is at {self.root} now; it is watched instead")
                self._start()
            self._account.mended("path")
            self._add_inotify()
        except OSError as error:
            words = f"{self.root} cannot be opened: {error.strerror}; tried at each rescan"
            self._account.trouble("path", words)
