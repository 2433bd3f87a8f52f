"""What an engine's process, its parent and followers send each other about events and counts."""

import copy

from gppshm import events

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Tuple

_EVENT = tuple(name for name in events.Event.__slots__ if name != "kind")
_COUNTS = (
    "removed",
    "fifos",
    "bytes",
    "cleaned",
    "cleaned_bytes",
    "given_back",
    "given_back_later",
    "failures",
    "rescans",
    "wakeups",
    "longest_step",
)
_LEVELS = ("returning", "in_use")
"""The Counts that are present values, not sums; they start at 0 in a new process."""
_KINDS = {str(kind): kind for kind in events.KINDS}


def event_message(event: events.Event) -> "Tuple[Any, ...]":
    return "event", str(event.kind), [getattr(event, name) for name in _EVENT]


def counts_message(counts: events.Counts) -> "Tuple[Any, ...]":
    values = [getattr(counts, name) for name in _COUNTS + _LEVELS]
    return "counts", values, list(counts.latencies.counts), counts.latencies.seconds


def event_of(message: "Any") -> events.Event:
    event = events.Event(_KINDS[message[1]], "")
    for name, value in zip(_EVENT, message[2]):
        setattr(event, name, value)
    return event


class Totals:
    """The counts of one process or leader after the other, added up in `counts`."""

    def __init__(self) -> None:
        self.counts = events.Counts()
        self._before = events.Counts()
        self._leader = ""
        self._last: Tuple[Any, ...] = ()
        self._known: Dict[str, Tuple[Any, ...]] = {}
        self._offset: Tuple[Any, ...] = ()

    def begin(self, leader: str = "") -> None:
        """Another one begins: the leader of this name, or a new process.

        What a leader had counted when it was followed last is not added again.
        """
        if self._leader and self._last:
            self._known = {self._leader: self._last}
        self._before = copy.deepcopy(self.counts)
        self._leader, self._last = leader, ()
        self._offset = self._known.get(leader, ())

    def take(self, message: "Any") -> None:
        """Take a counts message of the present one."""
        self._last = message[1:]
        values, latencies, seconds = self._last
        before, now = self._before, self.counts
        if self._offset:
            values = [value - old for value, old in zip(values, self._offset[0])]
            latencies = [count - old for count, old in zip(latencies, self._offset[1])]
            seconds -= self._offset[2]
        for name, value in zip(_COUNTS + _LEVELS, values):
            setattr(now, name, value if name in _LEVELS else getattr(before, name) + value)
        now.longest_step = max(before.longest_step, values[_COUNTS.index("longest_step")])
        now.latencies.counts = [old + new for old, new in zip(before.latencies.counts, latencies)]
        now.latencies.seconds = before.latencies.seconds + seconds
