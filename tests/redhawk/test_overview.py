"""The one line, the order and the times that a person is shown."""

import pytest

from gppshm.redhawk import overview
from gppshm.redhawk.cleaning import Orders
from gppshm.redhawk.journal import Journal

MB = 1048576


class Heap:
    def __init__(self, name, state, file_size=MB):
        self.name, self.state, self.file_size = name, state, file_size


class Usage:
    total, free, heaps, held, other, reserved, age = 100 * MB, 60 * MB, 30 * MB, 0, 10 * MB, 0, 0.0


def seen(heaps=(), usage=Usage, orders=None, refusal=""):
    census = overview.Census(heaps)
    return overview.Overview(census, usage, 50 * MB, Journal("/nowhere"), orders or Orders(), refusal, 0.0)


@pytest.mark.parametrize(
    "moment, text",
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (1764264827.0625, "2025-11-27T17:33:47.062Z"),
        (1764264827.9996, "2025-11-27T17:33:48.000Z"),
    ],
)
def test_a_time_is_shown_to_the_millisecond_and_the_same_in_both_forms(moment, text):
    assert overview.iso(moment) == text
    assert overview.iso(overview.seconds(moment)) == text


def test_heaps_that_want_something_done_come_first_and_all_else_stays_in_its_order():
    states = ["alive", "unknown", "orphaned", "unreadable", "alive", "orphaned, attached", "orphaned", "new"]
    heaps = [Heap(f"heap-{number}", state) for number, state in enumerate(states)]
    found = [heap.name for heap in overview.worst_first(heaps)]
    assert found == [f"heap-{number}" for number in (2, 6, 5, 3, 1, 0, 4, 7)]


def test_the_line_says_what_is_the_case_and_nothing_else():
    quiet = "60.0 MB of 100.0 MB are free; 0 heaps; 50.0 MB can be allocated; 0 removed"
    assert seen().summary == quiet
    usage = type("", (Usage,), {"held": 2 * MB, "reserved": 3 * MB})
    heaps = [Heap("a", "orphaned", 5 * MB), Heap("b", "alive")]
    assert seen(heaps, usage).summary == (
        "60.0 MB of 100.0 MB are free; 2 heaps (1 orphaned, 1 alive); 5.0 MB are orphaned;"
        " 2.0 MB are unlinked but held; 3.0 MB are reserved; 50.0 MB can be allocated; 0 removed"
    )


@pytest.mark.parametrize(
    "orders, refusal, first",
    [
        (Orders(enabled=False), "", "cleaning is off; "),
        (Orders(dry_run=True), "", "dry run: nothing is removed; "),
        (Orders(enabled=False), "x is refused", "NOTHING IS CLEANED: x is refused; "),
    ],
)
def test_that_nothing_is_cleaned_is_said_first(orders, refusal, first):
    assert seen(orders=orders, refusal=refusal).summary.startswith(first + "60.0 MB")
