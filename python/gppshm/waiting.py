"""Names of heaps whose creators are not known: they wait for their turn, within a budget for each owner.

However many files a user makes, the heaps of other users do not wait for them.
"""

import time

from gppshm import schedule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Dict, Tuple

PIECE = 0.001
"""Seconds of work that is not urgent before the triggers are read again."""
SHARE, AT_ONCE = 0.01, 0.15
"""The share of a processor for the heaps of one owner, and seconds at once."""
REFUND = 0.001
"""Seconds that an owner has more for each heap whose creator is known then."""
MOST_NEW = 4096
"""Names of one owner that wait for their first try; more are found by a later listing."""


class Waiting:
    """Three queues, by their urgency.

    new     names from events
    again   names without a result so far that are due for another try
    others  names of a rescan
    sweeping   what is removed costs no budget
    unlimited  budgets do not hold
    """

    def __init__(self) -> None:
        self.new = schedule.FairQueue()
        self.again = schedule.FairQueue()
        self.others = schedule.FairQueue()
        self.budgets = schedule.Budgets(SHARE, AT_ONCE)
        self.sweeping = self.unlimited = False
        self._events: Dict[str, Tuple[str, float]] = {}

    def __bool__(self) -> bool:
        return bool(self.new or self.again or self.others)

    def add_new(self, name: str, owner: int, trigger: str, since: float) -> bool:
        """Queue a name from an event; False if too many of that owner wait."""
        if name not in self.new and self.new.count(owner) >= MOST_NEW:
            return False
        self.new.add(name, owner)
        self._events.setdefault(name, (trigger, since))
        return True

    def event(self, name: str) -> "Tuple[str, float]":
        """Trigger and time of the event because of which a name from `new` is handled now."""
        return self._events.pop(name)

    def forget(self, name: str) -> None:
        """Handle it no more, unless another event comes."""
        self.again.discard(name)
        self.others.discard(name)

    def handle(self, queue: schedule.FairQueue, act: "Callable[[str], bool]") -> None:
        """Call `act` with names of a queue for PIECE seconds; it returns whether there was a result."""
        now, used = time.monotonic(), -1.0
        end = now + PIECE
        while now < end:
            owner = self.budgets.turn(queue, float("inf") if self.unlimited else now)
            if owner is None:
                return
            before = used if used >= 0 else schedule.processor_seconds()
            (name,) = queue.take(owner, 1)
            result = act(name)
            now, used = time.monotonic(), schedule.processor_seconds()
            if not (result and self.sweeping):
                self.budgets.spend(owner, now, used - before)

    def is_due(self, queue: schedule.FairQueue) -> bool:
        """Whether a name of the queue may be handled now."""
        return self.budgets.turn(queue, float("inf") if self.unlimited else time.monotonic()) is not None

    def next(self) -> float:
        """When (monotonic) the next name may be handled; infinity if none waits."""
        if self.unlimited and self:
            return 0.0
        return min(self.budgets.next(queue) for queue in (self.new, self.again, self.others))

    def creator_is_known(self, owner: int) -> None:
        """Of a heap of that owner: it was no work in vain."""
        self.budgets.refund(owner, REFUND)
