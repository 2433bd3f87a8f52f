"""Heaps of dead creators that somebody else unlinked first, as a GPP does: they give back what is free, too.

Such a file is reached by who holds it, and only the observer looks into others; it sends a descriptor, which
is let go of at once if nobody else holds the file.  Then the file is judged as one that has a name is: by all
processes of the host.  Nothing waits for any of that.

Limit: of a heap whose creator was not seen to leave it behind nothing is done: see Settling._was_left_behind.
"""

import time

from gppshm import creator, lease, observer, observing, returns, shmfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, List, Sequence

    from gppshm import kinship
    from gppshm.events import Event

AT_ONCE = 16
"""So many heaps are looked for at once: each may bring a descriptor."""

NO_LOOK = "the processes of this host could not be looked at"

_NEVER = float("inf")


class _Sought:
    """One heap: the event of its removal, which gets the figures, and its creator, which has ended.

    at     when it is to be looked for; tries: so many looks proved nothing
    fd     of it, while it is judged; else -1
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
    """Looks for heaps that have no name any more, and hands them to Returns.

    directory  where they lay
    take       as Returns.take; on_first: as of Returns, for those of which nothing comes back
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
        """Look for the file of a heap that somebody else unlinked, as `event` tells.

        ended  the pid that its creator had, which was seen to map it, and has ended
        noted  of it while it lived
        """
        self._sought.append(_Sought(event, ended, noted))

    def next(self) -> float:
        """When (monotonic) `step` has something to ask; infinity if it has not."""
        return _NEVER if self._asking else min([each.at for each in self._sought], default=_NEVER)

    def step(self, now: float) -> None:
        """Ask what is due."""
        due = [] if self._asking else [each for each in self._sought if each.at <= now][:AT_ONCE]
        if not due:
            return
        self._asking = True
        for each in due:
            each.at = _NEVER
        question = [each.file_id for each in due]
        self._observer.ask(observer.SOON, "reach", question, lambda answer: self._reached(due, answer))

    def close(self) -> None:
        """Look for none of them any more."""
        for each in self._sought:
            if each.fd >= 0:
                self._observer.let_go(each.fd)
            self._on_first(each.event)
        self._sought = []

    def _reached(self, due: "Sequence[_Sought]", answer: "Any") -> None:
        self._asking = False
        parcels = self._observer.parcels()
        for each, refusal in zip(due, answer or [NO_LOOK] * len(due)):
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
            seen = self._directory().look_at(each.event.name, each.fd)
        except OSError as error:
            self._end(each, f"it cannot be looked at: {error.strerror}")
            return
        if seen.answer is lease.GRANTED:
            lease.release(each.fd)
            self._end(each)  # nobody holds it any more
        elif seen.kind is not shmfs.HEAP or seen.status.st_nlink:
            self._end(each, "it is not the heap that it was")
        else:
            question = [(observing.plain_sighting(seen), each.ended)]
            self._observer.ask(observer.SOON, "look", question, lambda answer: self._judged(each, answer))

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
            self._end(each, verdict.reason if verdict is not None else NO_LOOK)

    def _end(self, each: _Sought, why: str = "") -> None:
        """Nothing comes back."""
        self._let_go(each)
        self._sought.remove(each)
        each.event.not_given_back = why
        self._on_first(each.event)

    def _let_go(self, each: _Sought) -> None:
        fd, each.fd = each.fd, -1
        if fd >= 0:
            self._observer.let_go(fd)
