"""Questions to the observer: who a heap's creator is, whether it still is, and verdicts.

The first two are asked in advance, when nothing waits for the answer.  A verdict is requested after a death
for which neither a lease nor an established identity is evidence.
"""

import time
from collections import deque

from gppshm import creator, kinship, observer, observing, processes, schedule, shmfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Deque, Dict, List, Optional, Sequence, Set, Tuple

    from gppshm.known import Known

    Sight = Callable[[str], Optional[shmfs.Sighting]]

PORTRAITS = 32
"""Heaps of one owner in one question for their creators."""
OWNERS = 2
"""Owners with such a question at the same time: one whose heaps take long does not delay all others."""
RENEWALS = 256
"""Creators per question that renews identities."""
RENEWED_AGAIN = 0.5
"""Seconds between such questions."""
RENEWING = 29.0
"""The next such question waits this many times the duration of the last answer."""
STRANGERS, AT_ONCE = 0.02, 0.1
"""The share of the time for questions about heaps of one owner that no creator lives for, seconds at once."""
NO_ANSWER = "the processes of this host could not be inspected"


class Answer:
    """The observer's findings about one heap.

    seen      the sighting of the question
    verdict   on it
    start     start of the living creator's process; 0 if not asked
    who       description of that creator; descends: whether it descends from the given parent
    noted     facts for giving memory back after its death
    identity  established Identity; None if there is none, or the file was changed since
    version   Known.version at the time of the question
    void      the file was or may have been changed since: the verdict must not be used
    """

    __slots__ = ("descends", "identity", "noted", "seen", "start", "verdict", "version", "void", "who")

    def __init__(self, seen: shmfs.Sighting, verdict: creator.Verdict, version: int) -> None:
        self.seen = seen
        self.verdict = verdict
        self.version = version
        self.void = False
        self.start = 0
        self.who = processes.Description()
        self.descends = False
        self.noted = kinship.NOTHING
        self.identity: Optional[creator.Identity] = None


class Inquiry:
    """Asks about the heaps in `heaps`; `answer` returns the findings.

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
        self._strangers = schedule.Budgets(STRANGERS, AT_ONCE)
        self._portraying: Set[int] = set()  # owners
        self._renewing = False
        self._renewals = schedule.Share(RENEWING)
        self._next_renewal = 0.0
        self._answers: Deque[Answer] = deque()

    @property
    def is_inspecting(self) -> bool:
        """Whether the creator of some heap is still to be found."""
        return bool(self._to_portray or self._portraying)

    def portray(self, name: str, owner: int) -> None:
        """Queue the question for the creator of a heap; `owner`: the user id of the file."""
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
        """When (monotonic) `step` is due; infinity if it is not."""
        when = float("inf")
        if len(self._portraying) < OWNERS:
            owners = [owner for owner in self._to_portray.owners() if owner not in self._portraying]
            when = min([self._strangers.when(owner) for owner in owners], default=when)
        if self._to_renew and not self._renewing:
            when = min(when, max(self._next_renewal, self._renewals.next))
        return when

    def step(self, now: float, absorb: "Callable[[], None]") -> None:
        """Ask the questions that are due; `absorb` is called before, and reads pending changes of files."""
        for owner in self._to_portray.owners():
            if len(self._portraying) >= OWNERS:
                break
            if owner not in self._portraying and now >= self._strangers.when(owner):
                absorb()
                self._ask_for_portraits(owner)
        if self._to_renew and not self._renewing and now >= max(self._next_renewal, self._renewals.next):
            absorb()
            self._next_renewal = now + RENEWED_AGAIN
            self._ask_for_renewals()

    @property
    def answered(self) -> int:
        """Number of answers that wait for `answer`."""
        return len(self._answers)

    def answer(self) -> Answer:
        """The next answer.  The caller must read pending changes of files before."""
        answer = self._answers.popleft()
        heap = self._heaps.get(answer.seen.name)
        if heap is not None:
            heap.asked = False
        same = heap is not None and heap.version == answer.version and heap.file_id == answer.seen.file_id
        answer.void = not same
        if answer.void:
            answer.identity = None
        return answer

    def verdict(self, seen: shmfs.Sighting, ended: int) -> None:
        """Ask at once for the verdict on a heap whose creator, process `ended`, is dead."""
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

    def _ask_for_portraits(self, owner: int) -> None:
        seen = self._sightings(self._to_portray.take(owner, PORTRAITS))
        if seen:
            self._portraying.add(owner)
            versions, started = self._versions(seen), time.monotonic()
            self._observer.ask(
                observer.SOON,
                "portray",
                ([(observing.plain_sighting(each), self._named(each)) for each in seen], self._parent),
                lambda answer: self._portrayed(owner, seen, versions, started, answer),
            )

    def _named(self, seen: shmfs.Sighting) -> int:
        """The start of the process with the name's pid, if it was alive while this file existed; else 0."""
        file_id, start = self._heaps[seen.name].named
        return start if file_id == seen.file_id else 0

    def _portrayed(
        self,
        owner: int,
        seen: "List[shmfs.Sighting]",
        versions: "List[int]",
        started: float,
        plain: "Any",
    ) -> None:
        self._portraying.discard(owner)
        strangers = 0
        for each, version, portrait in zip(seen, versions, plain or [None] * len(seen)):
            answer = self._answer(each, version, portrait and portrait[0])
            if portrait is not None:
                _, answer.start, established, uid, command, words, answer.descends, noted = portrait
                answer.noted = kinship.Noted(*noted)
                answer.who = processes.Description(processes.UNKNOWN, command, words, uid)
                pid = answer.verdict.creator
                if established:
                    now = time.monotonic()
                    answer.identity = creator.Identity(pid, answer.start, each.file_id, each.raw, now)
            strangers += answer.verdict.state is not creator.ALIVE
        now = time.monotonic()
        self._strangers.spend(owner, now, (now - started) * strangers / len(seen))

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
                self._answer(each, -1, None)  # the creator has ended meanwhile
            elif established and heap.version == version and heap.attended:
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
        self._observer.ask(kind, "judge", plain, answered)

    def _answer(self, seen: shmfs.Sighting, version: int, plain: "Any") -> Answer:
        """Queue an Answer for `answer`; `plain`: the verdict, None if the observer gave none."""
        verdict = creator.Verdict(creator.UNKNOWN, NO_ANSWER) if plain is None else creator.verdict_of(plain)
        answer = Answer(seen, verdict, version)
        if seen.name in self._heaps:
            self._answers.append(answer)
        return answer
