"""The values and messages that the device sends: strings as plain ASCII, numbers within CORBA's ranges."""

import time

from gppshm import events
from gppshm.redhawk import overview, shown
from gppshm.redhawk.cleaning import Orders
from gppshm.redhawk.corba import CF, CORBA
from gppshm.redhawk.runtime.properties import TYPES
from gppshm.redhawk.text import megabytes, plain
from gppshm.roles import role
from GppShmPlugin_base import GppShmPlugin_base

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Sequence, Tuple


class Removal:
    """A removal, with the members of shm::recent and of HeapRemoved as attributes."""

    def __init__(self, event: events.Event) -> None:
        self.name = plain(event.name)
        self.creator = as_long(event.creator)
        self.command = plain(event.command)
        component, application = role(event.arguments)
        self.component, self.application = plain(component), plain(application)
        self.user = plain(event.user)
        self.bytes = event.bytes
        self.reason = plain(event.reason)
        self.evidence = plain(event.evidence)
        self.trigger = plain(event.trigger)
        self.attached = len(event.attached)
        self.held_by = plain(", ".join(f"{pid} ({command})" for pid, command in event.attached))
        self.not_given_back = plain(event.not_given_back)
        self.note_returns(event.given_back, event.given_back_later, event.in_use, event.left)
        self.time, self.time_iso = overview.seconds(event.time), overview.iso(event.time)
        self.latency_ms = milliseconds(event.latency)

    def note_returns(self, given_back: int, given_back_later: int, in_use: int, left: int) -> None:
        self.given_back, self.given_back_later = given_back, given_back_later
        self.in_use, self.left = in_use, left


class Crossing:
    """A crossing of the threshold, with the members of ThresholdCrossed; `low`: less is free than it now."""

    def __init__(self, usage: shown.Usage, low: bool, threshold: str) -> None:
        free, total = megabytes(usage.free), megabytes(usage.total)
        self.low, self.free, self.total, self.threshold = low, usage.free, usage.total, threshold
        self.reason = f"{free} of {total} of shared memory are free, "
        self.reason += f"less than {threshold}" if low else f"enough again (threshold {threshold})"
        now = time.time()
        self.time, self.time_iso = overview.seconds(now), overview.iso(now)


def structs(struct: "Any", items: "Sequence[object]") -> "Any":
    """The any of a structsequence, from items that have the struct's members as attributes."""
    return sequence(fields(struct, items))


def fields(struct: "Any", items: "Sequence[object]", but: "Sequence[str]" = ()) -> "List[Any]":
    """The members of each item, except those named in `but`."""
    members = [
        (name, member.id_, TYPES[member.type_]) for name, member in struct.declared() if name not in but
    ]
    found = []
    for item in items:
        values = []
        for name, identifier, typecode in members:
            value = getattr(item, name)
            if typecode is CORBA.TC_string:
                value = plain(value)
            values.append(CF.DataType(identifier, CORBA.Any(typecode, value)))
        found.append(values)
    return found


class Rows:
    """The members of rows of shm::heaps, without `but`, made anew only for rows that have changed."""

    def __init__(self, struct: "Any", but: "Sequence[str]") -> None:
        self._struct = struct
        self._but = but
        self._made: Dict[int, Tuple[shown.HeapFigure, Any, Any]] = {}

    def fields(self, rows: "Sequence[shown.HeapFigure]") -> "List[Any]":
        """As `fields`; takes 10 ms for 300 rows that have all changed."""
        before, made = self._made, {}
        for row in rows:
            state = row.changing
            kept = before.get(id(row))
            if kept is None or kept[0] is not row or kept[1] != state:
                kept = row, state, fields(self._struct, [row], self._but)[0]
            made[id(row)] = kept
        self._made = made
        return [each for _, _, each in made.values()]


def sequence(items: "Sequence[Any]") -> "Any":
    """The any of a structsequence, from the fields of each item."""
    return CORBA.Any(CORBA._tc_AnySeq, [CORBA.Any(CF._tc_Properties, item) for item in items])


def usage_struct(usage: shown.Usage) -> "Any":
    value = GppShmPlugin_base.Usage(path=plain(usage.path), limit=plain(usage.limit))
    for name, member in value.declared():
        if name not in ("path", "limit"):
            member.set(value, getattr(usage, name))
    value.free_percent = round(usage.free_percent, 2)
    return value


def cleanup_struct(orders: Orders) -> "Any":
    return GppShmPlugin_base.Cleanup(
        enabled=orders.enabled,
        scope=orders.scope,
        rescan=orders.rescan,
        fifos=orders.fifos,
        dry_run=orders.dry_run,
        reclaim=orders.reclaim,
    )


def milliseconds(seconds: float) -> float:
    """Milliseconds, rounded to microseconds: some displays show every digit of a double."""
    return round(seconds * 1000.0, 3)


def as_long(number: int) -> int:
    """The number, or 0 if it is no CORBA long: the number in a name may be anything."""
    return number if -(1 << 31) <= number < 1 << 31 else 0
