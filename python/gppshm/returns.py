"""Gives back free memory of unlinked heaps while peers are attached, and what the peers release later.

This is the watcher's part of `reclaim`.  It runs after all unlinks of a step, in pieces of 0.5 ms at most.
The observer inspects other processes for it.  Each heap is kept open while a process is attached.  If there
are too many, or no descriptor is left, a heap is closed at once and nothing of it is given back.

Limits: no event reports that a peer released a block.  While blocks are in use, all heaps together are
inspected every 0.8 s, in one wake-up; otherwise nothing wakes up.  Two watchers of one heap may both count
the same memory.
"""

import time

from gppshm import heapfile, kinship, observer, pinning, reclaim, triggers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional, Tuple

    from gppshm.events import Counts, Event

    FileId = Tuple[int, int]

MOST = 256
"""Heaps that are kept open."""
PIECE = 0.0005
"""Seconds for one step, plus one hole at most."""
ASKED_AGAIN = (0.005, 0.02, 0.1, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds between questions for a forked child among the holders, while the answer is unknown."""

MOST_LOCKS = 64
"""Locks of one heap about whose holders the observer is asked."""

TOO_MANY = "so many heaps are held already that this one is not kept open"
NEVER_SEEN = "its creator was never seen alive: redhawk-shmclean --reclaim gives it back, on request"


_NEVER = float("inf")
_KINSHIPS = {str(kind): kind for kind in (kinship.NO_CHILD, kinship.CHILD, kinship.UNKNOWN)}


class _Heap:
    """One heap that is kept open.

    event     the Event of its removal, which gets the figures
    reported  the figures of the first pass were reported; `later`: bytes given back later and reported
    inspect_at, ask_at  when (monotonic) the next inspection and question are due; infinity if none is
    asked     number of questions without a definite answer
    locks     (offset, owner) of a lock -> whether the observer found its owner dead
    """

    __slots__ = (
        "ask_at",
        "asked",
        "event",
        "file_id",
        "inspect_at",
        "later",
        "locks",
        "noted",
        "reported",
        "work",
    )

    def __init__(self, work: pinning.Reclaiming, event: "Event", noted: kinship.Noted) -> None:
        self.work = work
        self.event = event
        self.file_id = (event.device, event.inode)
        self.noted = noted
        self.inspect_at = self.ask_at = 0.0
        self.asked = 0
        self.reported = False
        self.later = 0
        self.locks: Dict[Tuple[int, int], bool] = {}


class Returns:
    """Gives back free memory of heaps that were unlinked with processes attached.

    counts     Counts that are kept up to date
    also       called with a descriptor; `step` is due when it is readable
    on_first   called with the Event of a removal when it has the figures of the first pass, or will get none;
               returns False if the event was reported before
    on_return  called with that Event when all memory that was in use was given back, or the last holder has
               exited
    changed    grows with every change of `figures`
    """

    def __init__(
        self,
        asked: observer.Observer,
        counts: "Counts",
        also: "Callable[[int], None]",
        on_first: "Callable[[Event], bool]",
        on_return: "Callable[[Event], None]",
    ) -> None:
        self.changed = 0
        self._observer = asked
        self._counts = counts
        self._also = also
        self._on_first = on_first
        self._on_return = on_return
        self._taken: List[Tuple[int, Event, kinship.Noted]] = []
        self._heaps: List[_Heap] = []
        self._departures: Optional[pinning.Departures] = None
        self._asking = False

    def figures(self) -> "List[Tuple[Any, ...]]":
        """For each heap that is kept open: name, (device, inode), and the Event's given_back,
        given_back_later, in_use, left and attached.  Callable from any thread."""
        events = [heap.event for heap in list(self._heaps)]
        return [
            (event.name, (event.device, event.inode), *_figures(event), list(event.attached))
            for event in events
        ]

    def take(self, fd: int, event: "Event", noted: kinship.Noted) -> None:
        """Take over, and later close, the descriptor of an unlinked heap.

        event  of the removal; it is reported later
        noted  facts noted about its creator
        """
        self._taken.append((fd, event, noted))

    def next(self) -> float:
        """When (monotonic) `step` is due; infinity if it is not."""
        if self._taken:
            return 0.0
        inspections = [heap.inspect_at for heap in self._heaps]
        questions = [] if self._asking else [heap.ask_at for heap in self._heaps]
        return min(inspections + questions, default=_NEVER)

    def inspect_again(self, now: float) -> None:
        """Inspect every heap soon: the event of a last holder's exit may have been lost."""
        for heap in self._heaps:
            heap.inspect_at = min(heap.inspect_at, now)

    def step(self, now: float) -> None:
        """Do a part of the work that is due."""
        while self._taken:
            self._keep(*self._taken.pop(0))
        if self._departures is not None:
            self._handle_departures(now)
        self._ask(now)
        end = now + PIECE
        for heap in [heap for heap in self._heaps if heap.inspect_at <= now]:
            self._inspect(heap, now)
            now = time.monotonic()
            if now >= end:
                break

    def close(self) -> None:
        """Close every heap."""
        for fd, _, _ in self._taken:
            self._observer.let_go(fd)
        for heap in self._heaps:
            heap.work.close()
        self._taken, self._heaps = [], []
        self._count()
        if self._departures is not None:
            self._departures.close()
            self._departures = None

    # -- one heap ------------------------------------------------------------------------------------------

    def _keep(self, fd: int, event: "Event", noted: kinship.Noted) -> None:
        refusal = ""
        if noted.address <= 0:
            refusal = NEVER_SEEN
        elif len(self._heaps) >= MOST or fd >= triggers.descriptor_limit() - triggers.HEADROOM:
            refusal = TOO_MANY
        if refusal:
            self._observer.let_go(fd)
            event.not_given_back = refusal
            self._on_first(event)
            return
        if self._departures is None:
            try:
                self._departures = pinning.Departures()
                self._also(self._departures.fd)
            except OSError:
                pass  # exits are then noticed at the inspections
        work = pinning.Reclaiming(fd, None, self._departures, self._observer.let_go)
        self._heaps.append(_Heap(work, event, noted))
        self._counts.returning = len(self._heaps)

    def _handle_departures(self, now: float) -> None:
        assert self._departures is not None
        gone = self._departures.read()
        for heap in self._heaps if gone else ():
            if heap.work.watch in gone or -1 in gone:
                heap.work.departed(now)
                heap.inspect_at = now

    def _inspect(self, heap: _Heap, now: float) -> None:
        work = heap.work
        if heap.event.attached:
            work.attached = [pid for pid, _ in heap.event.attached]
        try:
            when = work.step(now)
        except Exception as error:
            self._let_go(heap, f"it cannot be given back: {error}")
            raise
        heap.inspect_at = _NEVER if when is None else when
        self._note_figures(heap)
        if work.finished:
            self._let_go(heap)

    def _note_figures(self, heap: _Heap) -> None:
        work, event, counts = heap.work, heap.event, self._counts
        if work.reclaim is None:
            return
        before = _figures(event)
        given = work.reclaim.given_back
        first = given if work.at_once < 0 else work.at_once
        counts.given_back += first - event.given_back
        counts.given_back_later += given - first - event.given_back_later
        event.given_back, event.given_back_later = first, given - first
        event.in_use, event.left = work.reclaim.in_use, work.reclaim.taken
        if before != _figures(event):
            self._count()
        if work.at_once >= 0:
            self._report(heap, work.reclaim.stable and work.reclaim.whole and not event.in_use)

    def _report(self, heap: _Heap, all_came: bool) -> None:
        if not heap.reported:
            heap.reported = True
            if not self._on_first(heap.event) and heap.event.given_back:
                self._on_return(heap.event)
        elif all_came and heap.event.given_back_later > heap.later:
            heap.later = heap.event.given_back_later
            self._on_return(heap.event)

    def _let_go(self, heap: _Heap, why: str = "") -> None:
        """Close a heap whose last holder exited, or of which nothing may be given back, and report it."""
        heap.work.close(why)
        heap.event.not_given_back = heap.work.error
        if not heap.work.error:
            heap.event.in_use = heap.event.left = 0
        heap.work.reclaim = None  # it refers to the heap: a cycle, which would wait for the garbage collector
        self._heaps.remove(heap)
        self._count()
        self._report(heap, True)

    def _count(self) -> None:
        self._counts.returning = len(self._heaps)
        self._counts.in_use = sum(heap.event.in_use for heap in self._heaps)
        self.changed += 1

    # -- questions to the observer -------------------------------------------------------------------------

    def _ask(self, now: float) -> None:
        """Ask for forked children among the holders, for all heaps where this is due."""
        heaps = [] if self._asking else [heap for heap in self._heaps if heap.ask_at <= now]
        if not heaps:
            return
        self._asking = True
        question = []
        for heap in heaps:
            heap.ask_at = _NEVER
            question.append((heap.file_id, heap.noted.plain()))
        self._observer.ask(observer.SOON, "kin", question, lambda answer: self._answered(heaps, answer))

    def _answered(self, heaps: "List[_Heap]", answer: "Any") -> None:
        self._asking = False
        now = time.monotonic()
        for heap, word in zip(heaps, answer or [""] * len(heaps)):
            kind = _KINSHIPS.get(word, kinship.UNKNOWN)
            if heap.work.finished:
                continue
            if kind is kinship.UNKNOWN and heap.asked < len(ASKED_AGAIN):
                heap.ask_at = now + ASKED_AGAIN[heap.asked]
                heap.asked += 1
                continue
            try:
                heap.work.allow(kind, lock_is_dead=self._lock_is_dead(heap))
                heap.inspect_at = now
            except reclaim.NotAllowed as refusal:
                self._let_go(heap, str(refusal))

    def _lock_is_dead(self, heap: _Heap) -> "Callable[[heapfile.Superblock], bool]":
        """A function that returns whether a lock's owner is known to be dead; it asks the observer once."""

        def answered(key: "Tuple[int, int]", answer: "Any") -> None:
            heap.locks[key] = bool(answer and answer[0])

        def is_dead(superblock: heapfile.Superblock) -> bool:
            key = superblock.offset, superblock.lock_owner
            if key not in heap.locks and len(heap.locks) < MOST_LOCKS:
                heap.locks[key] = False
                question = [(heap.file_id, superblock.lock_owner)]
                self._observer.ask(observer.REPORTS, "locks", question, lambda answer: answered(key, answer))
                return False
            return heap.locks.get(key, False)

        return is_dead


def _figures(event: "Event") -> "Tuple[int, int, int, int]":
    return event.given_back, event.given_back_later, event.in_use, event.left
