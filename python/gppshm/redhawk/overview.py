"""The overview for a person: number of heaps by state, sizes in MB, and a summary of one line."""

import time

from gppshm import capacity, creator
from gppshm.redhawk.shown import STATES, UNREADABLE
from gppshm.redhawk.text import megabytes, plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, Sequence

    from gppshm.redhawk.cleaning import Orders
    from gppshm.redhawk.journal import Journal
    from gppshm.redhawk.shown import HeapFigure, Usage

OLD = 5.0
"""Seconds; an older summary states its age."""

_RANK = {state: rank for rank, state in enumerate(STATES)}


def worst_first(heaps: "Sequence[HeapFigure]") -> "List[HeapFigure]":
    """Sorted by state, otherwise in the given order."""
    return sorted(heaps, key=lambda heap: _RANK.get(heap.state, len(STATES)))


class Census:
    """Number of heaps by state, and bytes of the orphaned ones."""

    def __init__(self, heaps: "Sequence[HeapFigure]" = ()) -> None:
        self.count = len(heaps)
        self.states: Dict[str, int] = dict.fromkeys(STATES, 0)
        self.orphaned_size = 0
        for heap in heaps:
            self.states[heap.state] = self.states.get(heap.state, 0) + 1
            if heap.state in creator.ORPHANS:
                self.orphaned_size += heap.file_size


class Overview:
    """The members of shm::overview.

    age  seconds since the heaps were scanned
    """

    def __init__(
        self,
        census: Census,
        usage: "Usage",
        available: int,
        journal: "Journal",
        orders: "Orders",
        refusal: str,
        age: float,
    ) -> None:
        states = census.states
        self.heap_count = census.count
        self.alive = states[creator.ALIVE]
        self.orphaned = states[creator.ORPHANED]
        self.orphaned_attached = states[creator.ATTACHED]
        self.unknown = states[creator.UNKNOWN]
        self.unreadable = states[UNREADABLE]
        self.total_mb = _mb(usage.total)
        self.free_mb = _mb(usage.free)
        self.orphaned_mb = _mb(census.orphaned_size)
        # The shown parts never add up to more than the shown total.
        self.heaps_mb = _mb_at_most(usage.heaps)
        self.held_mb = _mb_at_most(usage.held)
        used = self.total_mb - self.free_mb if usage.total else 0.0
        self.other_mb = round(max(0.0, used - self.heaps_mb - self.held_mb), 1)
        self.age = max(age, usage.age)
        self.reserved_mb = _mb(usage.reserved)
        self.capacity_mb = _mb(available)
        phrases = _phrases(census, usage, available, journal, orders, refusal)
        if self.age >= OLD:
            phrases.append(f"seen {self.age:g} s ago")
        self.summary = plain("; ".join(phrases))


def _phrases(
    census: Census, usage: "Usage", available: int, journal: "Journal", orders: "Orders", refusal: str
) -> "List[str]":
    found = []
    if refusal:
        found.append(f"NOTHING IS CLEANED: {refusal}")
    elif orders.limits:
        found.append(orders.limits)
    found.append(f"{megabytes(usage.free)} of {megabytes(usage.total)} are free")
    counted = [f"{number} {state}" for state, number in census.states.items() if number]
    found.append(f"{census.count} heaps" + (f" ({', '.join(counted)})" if counted else ""))
    if census.orphaned_size:
        found.append(f"{megabytes(census.orphaned_size)} are orphaned")
    if usage.held:
        found.append(f"{megabytes(usage.held)} are unlinked but held")
    if usage.reserved:
        found.append(f"{megabytes(usage.reserved)} are reserved")
    found.append(f"{megabytes(available)} can be allocated")
    removed = f"{journal.removed} removed"
    if journal.cleaned:
        removed += f" and {journal.cleaned} by others"
    recent = list(journal.recent)
    if recent:
        removed += f", the last {recent[-1].name} at {iso(recent[-1].time)}"
    found.append(removed)
    return found


def _mb(size: int) -> float:
    return round(size / capacity.MB, 1)


def _mb_at_most(size: int) -> float:
    return size * 10 // capacity.MB / 10


def seconds(moment: float) -> float:
    """Seconds since 1970, rounded to milliseconds."""
    return round(moment, 3)


def iso(moment: float) -> str:
    """Seconds since 1970 as a UTC time: 2026-01-31T23:59:59.125Z."""
    whole, milliseconds = divmod(round(moment * 1000), 1000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + ".%03dZ" % milliseconds
