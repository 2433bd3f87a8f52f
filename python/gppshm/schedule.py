"""Timing: names that are due at a time, names that wait in a queue, and fair turns for users."""

import heapq
import random
import time
from collections import OrderedDict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Iterable, Iterator, List, Optional, Tuple

RETRIES = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.5)
"""Seconds between tries of a heap without a proof; then it waits for the next rescan."""


EXITS = (0.0002, 0.0003, 0.0005)
"""Seconds between the first tries of a heap whose creator is exiting; then `RETRIES`."""

AT_REST = 0.05
"""Seconds without work once a budget is spent: else each piece of work would be one wake-up."""
MANY_OWNERS = 256
"""Budgets that are kept, whether they are spent or not."""


class Timers:
    """Names with the time (monotonic) when they are due; a name's earliest time counts."""

    def __init__(self) -> None:
        self._heap: List[Tuple[float, str]] = []
        self._due: Dict[str, float] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._due

    def set(self, name: str, when: float) -> None:
        if name not in self._due or when < self._due[name]:
            self._due[name] = when
            heapq.heappush(self._heap, (when, name))

    def cancel(self, name: str) -> None:
        self._due.pop(name, None)

    def take(self, now: float) -> "List[str]":
        """The names that are due."""
        names = []
        while self._heap and self._heap[0][0] <= now:
            when, name = heapq.heappop(self._heap)
            if self._due.get(name) == when:
                del self._due[name]
                names.append(name)
        return names

    def next(self) -> float:
        """When the next one is due; infinity if there is none."""
        while self._heap and self._due.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else float("inf")


def retry_delay(attempts: int) -> float:
    """Seconds until the next try after `attempts`; jitter keeps two cleaners from colliding repeatedly."""
    return RETRIES[attempts] * random.uniform(0.5, 1.5)


def exit_delay(attempts: int) -> float:
    """The same for a heap whose creator is exiting."""
    return EXITS[attempts] if attempts < len(EXITS) else retry_delay(attempts - len(EXITS))


class Queue:
    """Names in order of arrival, without duplicates."""

    def __init__(self, names: "Iterable[str]" = ()) -> None:
        self._names: OrderedDict[str, None] = OrderedDict((name, None) for name in names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def add(self, name: str) -> None:
        self._names[name] = None

    def discard(self, name: str) -> None:
        self._names.pop(name, None)

    def take(self, count: int) -> "List[str]":
        return [self._names.popitem(last=False)[0] for _ in range(min(count, len(self._names)))]


class FairQueue:
    """Names that belong to owners; owners take turns, however many names each has."""

    def __init__(self) -> None:
        self._queues: OrderedDict[int, OrderedDict[str, None]] = OrderedDict()
        self._owners: Dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._owners)

    def __contains__(self, name: str) -> bool:
        return name in self._owners

    def add(self, name: str, owner: int) -> None:
        if name not in self._owners:
            self._owners[name] = owner
            self._queues.setdefault(owner, OrderedDict())[name] = None

    def discard(self, name: str) -> None:
        owner = self._owners.pop(name, None)
        if owner is not None:
            del self._queues[owner][name]
            if not self._queues[owner]:
                del self._queues[owner]

    def __iter__(self) -> "Iterator[int]":
        return iter(self._queues)

    def count(self, owner: int) -> int:
        """Number of names of that owner."""
        return len(self._queues.get(owner, ()))

    def owners(self) -> "List[int]":
        """The owners that have names here, in the order of their turns."""
        return list(self._queues)

    def take(self, owner: int, count: int) -> "List[str]":
        """Remove and return up to `count` names of that owner, whose turn is last then."""
        queue = self._queues[owner]
        names = [queue.popitem(last=False)[0] for _ in range(min(count, len(queue)))]
        for name in names:
            del self._owners[name]
        if queue:
            self._queues.move_to_end(owner)
        else:
            del self._queues[owner]
        return names


def processor_seconds() -> float:
    """Processor time that this thread has used so far: a busy machine makes no work more expensive."""
    return time.clock_gettime(time.CLOCK_THREAD_CPUTIME_ID)


class Budget:
    """Limits work to a share of the time, after `burst` seconds of it at once.

    next  when more work may be done; if it is all spent, not before AT_REST, so that much can be done then
    """

    def __init__(self, share: float, burst: float) -> None:
        self._rest = 1 / share
        self._credit = burst / share
        self._paid = self.next = -float("inf")

    def spend(self, now: float, seconds: float) -> None:
        """Note that work took `seconds`, until `now` (monotonic)."""
        self._paid = max(self._paid, now - self._credit) + seconds * self._rest
        self.next = max(self._paid, now + AT_REST) if self._paid > now else self._paid

    def refund(self, seconds: float) -> None:
        """Forget that much of what was spent."""
        self._paid -= seconds * self._rest
        self.next = self._paid


class Budgets:
    """A Budget for each owner."""

    def __init__(self, share: float, burst: float) -> None:
        self._share = share
        self._burst = burst
        self._budgets: Dict[int, Budget] = {}

    def spend(self, owner: int, now: float, seconds: float) -> None:
        if len(self._budgets) >= MANY_OWNERS:
            self._budgets = {owner: some for owner, some in self._budgets.items() if some.next > now}
        self._budgets.setdefault(owner, Budget(self._share, self._burst)).spend(now, seconds)

    def refund(self, owner: int, seconds: float) -> None:
        """Forget that much of what that owner has spent."""
        budget = self._budgets.get(owner)
        if budget is not None:
            budget.refund(seconds)

    def when(self, owner: int) -> float:
        """When work for that owner may be done; -infinity: at any time."""
        budget = self._budgets.get(owner)
        return -float("inf") if budget is None else budget.next

    def turn(self, queue: FairQueue, now: float) -> "Optional[int]":
        """The first owner of `queue` whose work may be done; None if there is none."""
        return next((owner for owner in queue if self.when(owner) <= now), None)

    def next(self, queue: FairQueue) -> float:
        """When `turn` will return an owner; infinity if the queue is empty."""
        return min((self.when(owner) for owner in queue), default=float("inf"))


class Share:
    """Limits work to a share of the time: after some work it rests `rest` times as long."""

    def __init__(self, rest: float) -> None:
        self._rest = rest
        self.next = 0.0

    def took(self, started: float, ended: float) -> None:
        self.next = ended + self._rest * (ended - started)
