"""Gives back free memory of orphaned heaps that another process, such as a GPP, unlinked first.

Such a file is reached through a process that holds it.  The observer does this and sends a descriptor, which
is closed at once if nobody else holds the file.  Then the verdict is found as for a file with a name, from
all processes of the host.  Nothing waits for any of that.

Limit: the creator must have been seen to leave the heap behind; see Handling._was_left_behind.
"""

import time

from gppshm import creator, lease, observer, observing, returns, shmfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, List, Sequence

    from gppshm import kinship
    from gppshm.events import Event

AT_ONCE = 16
"""Heaps in one question: each may bring a descriptor."""

NO_ANSWER = "the processes of this host could not be inspected"

_NEVER = float("inf")


class _Sought:
    """One heap to be reached: the Event of its removal, which gets the figures, and its creator.

    ended  pid of the creator, which has ended
    at     when (monotonic) to ask for it
    tries  number of tries without a proof
    fd     its descriptor while it is judged; else -1
    """

    __slots__ = ("at", "ended", "event", "fd", "file_id", "noted", "tries")

    def __init__(self, event: "Event", ended: int, noted: "kinship.Noted") -> None:
        self.event = event
        self.file_id = (event.device, event.inode)
        self.ended = ended
        self.noted = noted
        self.at = 0.0
        self.tries = 0
        self.fd = -1


class Reaching:
    """Finds heaps that have no name any more, and passes them to Returns.

    directory  returns the directory that had their names
    take       Returns.take
    on_first   see Returns; called for heaps of which nothing is given back
    """

    def __init__(
        self,
        asked: observer.Observer,
        directory: "Callable[[], shmfs.ShmDirectory]",
        take: "Callable[[int, Event, kinship.Noted], None]",
        on_first: "Callable[[Event], bool]",
    ) -> None:
        self._observer = asked
        self._directory = directory
        self._take = take
        self._on_first = on_first
        self._sought: List[_Sought] = []
        self._asking = False

    def seek(self, event: "Event", ended: int, noted: "kinship.Noted") -> None:
        """Find the file of a heap that another process unlinked.

        event  of the removal
        ended  pid of its creator, which was seen to map it and has ended
        noted  facts noted about its creator
        """
        self._sought.append(_Sought(event, ended, noted))

    def next(self) -> float:
        """When (monotonic) `step` is due; infinity if it is not."""
        return _NEVER if self._asking else min([each.at for each in self._sought], default=_NEVER)

    def step(self, now: float) -> None:
        """Ask the observer for the heaps that are due."""
        due = [] if self._asking else [each for each in self._sought if each.at <= now][:AT_ONCE]
        if not due:
            return
        self._asking = True
        for each in due:
            each.at = _NEVER
        question = [each.file_id for each in due]
        self._observer.ask(observer.SOON, "reach", question, lambda answer: self._reached(due, answer))

    def close(self) -> None:
        """Give up all heaps."""
        for each in self._sought:
            if each.fd >= 0:
                self._observer.let_go(each.fd)
            self._on_first(each.event)
        self._sought = []

    def _reached(self, due: "Sequence[_Sought]", answer: "Any") -> None:
        self._asking = False
        parcels = self._observer.parcels()
        for each, refusal in zip(due, answer or [NO_ANSWER] * len(due)):
            if each not in self._sought:
                continue
            each.fd = parcels.pop(each.file_id, -1)
            if each.fd >= 0:
                self._ask_for_verdict(each)
            else:
                self._end(each, refusal)
        for fd in parcels.values():
            self._observer.let_go(fd)

    def _ask_for_verdict(self, each: _Sought) -> None:
        try:
            seen = self._directory().inspect(each.event.name, each.fd)
        except OSError as error:
            self._end(each, f"it cannot be inspected: {error.strerror}")
            return
        if seen.answer is lease.GRANTED:
            lease.release(each.fd)
            self._end(each)  # no other process holds it
        elif seen.kind is not shmfs.HEAP or seen.status.st_nlink:
            self._end(each, "it is not the heap that it was")
        else:
            question = [(observing.plain_sighting(seen), each.ended)]
            self._observer.ask(observer.SOON, "judge", question, lambda answer: self._judged(each, answer))

    def _judged(self, each: _Sought, answer: "Any") -> None:
        if each not in self._sought:
            return
        verdict = creator.verdict_of(answer[0]) if answer else None
        if verdict is not None and verdict.state in creator.ORPHANS:
            self._sought.remove(each)
            self._take(each.fd, each.event, each.noted)
        elif each.tries < len(returns.ASKED_AGAIN):
            each.at = time.monotonic() + returns.ASKED_AGAIN[each.tries]
            each.tries += 1
            self._let_go(each)
        else:
            self._end(each, verdict.reason if verdict is not None else NO_ANSWER)

    def _end(self, each: _Sought, why: str = "") -> None:
        """Give up a heap: nothing is given back; `why` is the reason for the event."""
        self._let_go(each)
        self._sought.remove(each)
        each.event.not_given_back = why
        self._on_first(each.event)

    def _let_go(self, each: _Sought) -> None:
        fd, each.fd = each.fd, -1
        if fd >= 0:
            self._observer.let_go(fd)
