"""Questions to the observer about creators: who they are, whether they still are, and verdicts.

The first two are asked in advance, while nothing waits for the answer.  A verdict is asked for at a death
that nothing established in advance decides.
"""

import time

from gppshm import creator, kinship, observer, observing, processes, schedule, shmfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

    from gppshm.known import Known

    Sight = Callable[[str], Optional[shmfs.Sighting]]

PORTRAITS = 64
"""Heaps per question about creators."""
RENEWALS = 256
"""Creators per question that renews identities."""
RENEWED_AGAIN = 0.5
"""Seconds between such questions."""
RENEWING = 29.0
"""After such a question the next waits so many times as long as the answer took."""
STRANGERS = 19.0
"""Factor for the pause after a question about heaps without a visible creator."""
NO_LOOK = "the processes of this host could not be inspected"


class Answer:
    """The observer's findings about one heap.

    seen      the sighting of the question
    verdict   on it
    start     start of the living creator's process; 0 if not asked
    who       description of that creator; descends: whether it descends from the given parent
    noted     facts for giving memory back after its death
    identity  established Identity; None if there is none, or the file was changed since
    void      the file was or may have been changed since the question; the verdict is worthless
    """

    __slots__ = ("descends", "identity", "noted", "seen", "start", "verdict", "void", "who")

    def __init__(self, seen: shmfs.Sighting, verdict: creator.Verdict, void: bool) -> None:
        self.seen = seen
        self.verdict = verdict
        self.void = void
        self.start = 0
        self.who = processes.Description()
        self.descends = False
        self.noted = kinship.NOTHING
        self.identity: Optional[creator.Identity] = None


class Inquiry:
    """Asks about the heaps in `heaps`; findings are returned by `answers`.

    sight   inspects a heap now and updates what is known of it; None if it cannot be inspected
    parent  pid whose descendants are marked, and its start, as the pid may be reused
    """

    def __init__(
        self, asked: observer.Observer, heaps: "Dict[str, Known]", sight: "Sight", parent: "Tuple[int, int]"
    ) -> None:
        self._observer = asked
        self._heaps = heaps
        self._sight = sight
        self._parent = parent
        self._to_portray = schedule.FairQueue()
        self._to_renew = schedule.Queue()
        self._strangers = schedule.Share(STRANGERS)
        self._portraying = self._renewing = False
        self._renewals = schedule.Share(RENEWING)
        self._next_renewal = 0.0
        self._answers: List[Answer] = []

    @property
    def looking(self) -> bool:
        """Whether the creator of some heap is still to be found out."""
        return bool(self._to_portray) or self._portraying

    def portray(self, name: str, owner: int) -> None:
        """Queue the question who the creator of a heap is; `owner`: the user id of the file."""
        heap = self._heaps.get(name)
        if heap is None or not heap.asked:
            self._to_portray.add(name, owner)

    def renew(self, name: str) -> None:
        """Queue the renewal of a heap's Identity."""
        self._to_renew.add(name)

    def forget(self, name: str) -> None:
        self._to_portray.discard(name)
        self._to_renew.discard(name)

    def next(self) -> float:
        """When `step` has something to ask (monotonic); else infinity."""
        when = float("inf")
        if self._to_portray and not self._portraying:
            when = self._strangers.next
        if self._to_renew and not self._renewing:
            when = min(when, max(self._next_renewal, self._renewals.next))
        return when

    def step(self, now: float, absorb: "Callable[[], None]") -> None:
        """Send queued questions if it is time; calls `absorb` first to handle changed files."""
        if self._to_portray and not self._portraying and now >= self._strangers.next:
            absorb()
            self._ask_for_portraits()
        if self._to_renew and not self._renewing and now >= max(self._next_renewal, self._renewals.next):
            absorb()
            self._next_renewal = now + RENEWED_AGAIN
            self._ask_for_renewals()

    def answers(self) -> "List[Answer]":
        """New findings; handles changed files first."""
        found, self._answers = self._answers, []
        return found

    def verdict(self, seen: shmfs.Sighting, ended: int) -> None:
        """Have all processes of the host inspected now, for a heap whose creator, `ended`, is dead."""
        heap = self._heaps[seen.name]
        if not heap.asked:
            heap.asked = True
            self._ask_verdicts(observer.URGENT, [(seen, ended)])

    def _sightings(self, names: "Sequence[str]") -> "List[shmfs.Sighting]":
        found = []
        for name in names:
            heap = self._heaps.get(name)
            if heap is not None and not heap.asked:
                seen = self._sight(name)
                if seen is not None:
                    heap.asked = True
                    found.append(seen)
        return found

    def _versions(self, seen: "Sequence[shmfs.Sighting]") -> "List[int]":
        return [self._heaps[each.name].version for each in seen]

    def _ask_for_portraits(self) -> None:
        seen = self._sightings(self._to_portray.take(PORTRAITS))
        if seen:
            self._portraying = True
            versions, started = self._versions(seen), time.monotonic()
            self._observer.ask(
                observer.SOON,
                "portray",
                ([(observing.plain_sighting(each), self._named(each)) for each in seen], self._parent),
                lambda answer: self._portrayed(seen, versions, started, answer),
            )

    def _named(self, seen: shmfs.Sighting) -> int:
        """The start of the process whose pid the name has, if it was seen alive with this very file; or 0."""
        file_id, start = self._heaps[seen.name].named
        return start if file_id == seen.file_id else 0

    def _portrayed(
        self, seen: "List[shmfs.Sighting]", versions: "List[int]", started: float, plain: "Any"
    ) -> None:
        self._portraying = fruitful = False
        for each, version, portrait in zip(seen, versions, plain or [None] * len(seen)):
            answer = self._answer(each, version, portrait and portrait[0])
            if portrait is not None:
                _, answer.start, established, uid, command, words, answer.descends, noted = portrait
                answer.noted = kinship.Noted(*noted)
                answer.who = processes.Description(processes.UNKNOWN, command, words, uid)
                pid = answer.verdict.creator
                if established and not answer.void:
                    now = time.monotonic()
                    answer.identity = creator.Identity(pid, answer.start, each.file_id, each.raw, now)
            fruitful = fruitful or answer.verdict.state is not creator.UNKNOWN
        if not fruitful:
            self._strangers.took(started, time.monotonic())

    def _ask_for_renewals(self) -> None:
        names = self._to_renew.take(RENEWALS)
        seen = self._sightings([name for name in names if name in self._heaps and self._heaps[name].lives])
        if seen:
            self._renewing = True
            versions, started = self._versions(seen), time.monotonic()
            question = [(observing.plain_sighting(each), self._heaps[each.name].creator) for each in seen]
            self._observer.ask(
                observer.SOON,
                "renew",
                question,
                lambda answer: self._renewed(seen, versions, started, answer),
            )

    def _renewed(
        self, seen: "List[shmfs.Sighting]", versions: "List[int]", started: float, plain: "Any"
    ) -> None:
        self._renewing = False
        self._renewals.took(started, time.monotonic())
        doubtful = []
        for each, version, found in zip(seen, versions, plain or [(True, False)] * len(seen)):
            heap = self._heaps.get(each.name)
            if heap is None:
                continue
            heap.asked = False
            maps, established = found
            if not heap.lives:
                self._answer(each, -1, None)  # it has ended meanwhile
            elif established and heap.version == version:
                now = time.monotonic()
                heap.identity = creator.Identity(heap.creator, heap.start, each.file_id, each.raw, now)
            elif not maps:  # it may have exec'd another program
                heap.asked = True
                doubtful.append((each, 0))
        if doubtful:
            self._ask_verdicts(observer.SOON, doubtful)

    def _ask_verdicts(self, kind: str, question: "List[Tuple[shmfs.Sighting, int]]") -> None:
        seen = [each for each, _ in question]
        versions = self._versions(seen)

        def answered(plain: "Any") -> None:
            for each, version, verdict in zip(seen, versions, plain or [None] * len(seen)):
                self._answer(each, version, verdict)

        plain = [(observing.plain_sighting(each), ended) for each, ended in question]
        self._observer.ask(kind, "look", plain, answered)

    def _answer(self, seen: shmfs.Sighting, version: int, plain: "Any") -> Answer:
        """Store a verdict (None: there is none) for `answers`."""
        heap = self._heaps.get(seen.name)
        void = heap is None or heap.version != version or heap.file_id != seen.file_id
        verdict = creator.Verdict(creator.UNKNOWN, NO_LOOK) if plain is None else creator.verdict_of(plain)
        answer = Answer(seen, verdict, void)
        if heap is not None:
            heap.asked = False
            self._answers.append(answer)
        return answer
