"""After an unlink, while peers are attached: what is free in the heap goes back, and later what they free.

The watcher's part of `reclaim`.  It comes after every unlink of a step, in pieces of half a millisecond at
most; what has to be known of other processes the observer finds out.  Each heap is kept open for as long as
somebody is attached; where there are too many, or no descriptor is left, a heap is let go of at once.

Limits: no event tells that a peer has let go of a block, so while blocks are in use all heaps together are
looked at every 0.8 s, in one wake-up; where none is, nothing wakes.  Of two watchers of one heap each may
count what both gave back.
"""

import time

from gppshm import heapfile, kinship, observer, pinning, reclaim, triggers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional, Tuple

    from gppshm.events import Counts, Event

    FileId = Tuple[int, int]

MOST = 256
"""So many heaps are kept open at most."""
PIECE = 0.0005
"""Seconds that a step works at most, and one hole."""
ASKED_AGAIN = (0.005, 0.02, 0.1, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds between questions whether a forked child is among the holders, while that cannot be told."""

MOST_LOCKS = 64
"""Of so many locks of a heap it is asked whether the dead hold them."""

TOO_MANY = "so many heaps are held already that this one is not kept open"
NEVER_SEEN = "its creator was never seen alive: redhawk-shmclean --reclaim gives it back, by a person's word"


_NEVER = float("inf")
_KINSHIPS = {str(kind): kind for kind in (kinship.NO_CHILD, kinship.CHILD, kinship.UNTOLD)}


class _Heap:
    """One heap that is kept open.

    event   of its removal, which gets the figures; told: whether those of the first look were, and `later` so
            many bytes of those that came later
    look_at, ask_at  when the next look at it, and the next question on it, is due; infinity = not
    asked   so many questions brought no answer
    locks   what the observer was asked of locks, and found: (offset, owner) -> the owner is dead
    """

    __slots__ = ("ask_at", "asked", "event", "file_id", "later", "locks", "look_at", "noted", "told", "work")

    def __init__(self, work: pinning.Reclaiming, event: "Event", noted: kinship.Noted) -> None:
        self.work = work
        self.event = event
        self.file_id = (event.device, event.inode)
        self.noted = noted
        self.look_at = self.ask_at = 0.0
        self.asked = 0
        self.told = False
        self.later = 0
        self.locks: Dict[Tuple[int, int], bool] = {}


class Returns:
    """Gives back what is free in heaps that were unlinked while somebody was attached.

    counts     are kept up to date
    also       called with a descriptor; a step is due when it is readable
    on_first   called with the event of a removal when it has the figures of the first look, or will get none;
               False: it was told without them
    on_return  called with that event when there is more to tell: all that was in use has come back, or the
               last holder has gone
    changed    grows with every change of what `figures` tells
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
        """Of each heap that is kept open: its name, (device, inode), and as an Event has them given_back,
        given_back_later, in_use, left and attached; from any thread."""
        events = [heap.event for heap in list(self._heaps)]
        return [
            (event.name, (event.device, event.inode), *_figures(event), list(event.attached))
            for event in events
        ]

    def take(self, fd: int, event: "Event", noted: kinship.Noted) -> None:
        """Take over a descriptor of a heap that was unlinked, as `event` will tell; it is closed here.

        noted  of its creator while it lived
        """
        self._taken.append((fd, event, noted))

    def next(self) -> float:
        """When (monotonic) `step` has something to do though nothing came; infinity if it has not."""
        if self._taken:
            return 0.0
        looks = [heap.look_at for heap in self._heaps]
        questions = [] if self._asking else [heap.ask_at for heap in self._heaps]
        return min(looks + questions, default=_NEVER)

    def look_again(self, now: float) -> None:
        """See of every heap whether somebody is attached: that the last has left may have been missed."""
        for heap in self._heaps:
            heap.look_at = min(heap.look_at, now)

    def step(self, now: float) -> None:
        """Do some of what is due."""
        while self._taken:
            self._keep(*self._taken.pop(0))
        if self._departures is not None:
            self._heed_departures(now)
        self._ask(now)
        end = now + PIECE
        for heap in [heap for heap in self._heaps if heap.look_at <= now]:
            self._look(heap, now)
            now = time.monotonic()
            if now >= end:
                break

    def close(self) -> None:
        """Let go of every heap."""
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
                pass  # that they go is seen at the looks, then
        work = pinning.Reclaiming(fd, None, self._departures, self._observer.let_go)
        self._heaps.append(_Heap(work, event, noted))
        self._counts.returning = len(self._heaps)

    def _heed_departures(self, now: float) -> None:
        assert self._departures is not None
        gone = self._departures.read()
        for heap in self._heaps if gone else ():
            if heap.work.watch in gone or -1 in gone:
                heap.work.departed(now)
                heap.look_at = now

    def _look(self, heap: _Heap, now: float) -> None:
        work = heap.work
        if heap.event.attached:
            work.attached = [pid for pid, _ in heap.event.attached]
        try:
            when = work.step(now)
        except Exception as error:
            self._let_go(heap, f"it cannot be given back: {error}")
            raise
        heap.look_at = _NEVER if when is None else when
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
            self._tell(heap, work.reclaim.settled and work.reclaim.whole and not event.in_use)

    def _tell(self, heap: _Heap, all_came: bool) -> None:
        if not heap.told:
            heap.told = True
            if not self._on_first(heap.event) and heap.event.given_back:
                self._on_return(heap.event)
        elif all_came and heap.event.given_back_later > heap.later:
            heap.later = heap.event.given_back_later
            self._on_return(heap.event)

    def _let_go(self, heap: _Heap, why: str = "") -> None:
        """Its last holder has gone, or nothing may be given back."""
        heap.work.close(why)
        heap.event.not_given_back = heap.work.error
        if not heap.work.error:
            heap.event.in_use = heap.event.left = 0
        heap.work.reclaim = None  # it refers to the heap: a cycle, which would wait for the garbage collector
        self._heaps.remove(heap)
        self._count()
        self._tell(heap, True)

    def _count(self) -> None:
        self._counts.returning = len(self._heaps)
        self._counts.in_use = sum(heap.event.in_use for heap in self._heaps)
        self.changed += 1

    # -- what the observer is asked ------------------------------------------------------------------------

    def _ask(self, now: float) -> None:
        """Ask whether forked children are among the holders, of all heaps of which that is to be asked."""
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
            kind = _KINSHIPS.get(word, kinship.UNTOLD)
            if heap.work.finished:
                continue
            if kind is kinship.UNTOLD and heap.asked < len(ASKED_AGAIN):
                heap.ask_at = now + ASKED_AGAIN[heap.asked]
                heap.asked += 1
                continue
            try:
                heap.work.allow(kind, lock_is_dead=self._lock_is_dead(heap))
                heap.look_at = now
            except reclaim.NotAllowed as refusal:
                self._let_go(heap, str(refusal))

    def _lock_is_dead(self, heap: _Heap) -> "Callable[[heapfile.Superblock], bool]":
        """Tells what is known of a lock: at first nothing, and the observer is asked."""

        def answered(key: "Tuple[int, int]", answer: "Any") -> None:
            heap.locks[key] = bool(answer and answer[0])

        def is_dead(superblock: heapfile.Superblock) -> bool:
            key = superblock.offset, superblock.lock_owner
            if key not in heap.locks and len(heap.locks) < MOST_LOCKS:
                heap.locks[key] = False
                question = [(heap.file_id, superblock.lock_owner)]
                self._observer.ask(observer.TELLING, "locks", question, lambda answer: answered(key, answer))
                return False
            return heap.locks.get(key, False)

        return is_dead


def _figures(event: "Event") -> "Tuple[int, int, int, int]":
    return event.given_back, event.given_back_later, event.in_use, event.left
