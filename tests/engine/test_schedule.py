"""What is done when: timers, queues, a fair turn for each user, and a share of the time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gppshm import schedule

names = st.sampled_from("abcdefg")
times = st.integers(0, 50)


def test_timers_give_names_in_the_order_in_which_they_are_due():
    timers = schedule.Timers()
    for name, when in (("late", 3.0), ("soon", 1.0), ("between", 2.0)):
        timers.set(name, when)
    assert timers.next() == 1.0
    assert timers.take(0.5) == []
    assert timers.take(2.0) == ["soon", "between"]
    assert "late" in timers and "soon" not in timers
    assert timers.take(10.0) == ["late"]
    assert timers.next() == float("inf")


def test_of_several_times_of_a_name_the_earliest_counts_once():
    timers = schedule.Timers()
    for when in (5.0, 2.0, 9.0):
        timers.set("name", when)
    assert timers.next() == 2.0
    assert timers.take(20.0) == ["name"]
    assert timers.take(20.0) == []
    timers.set("name", 7.0)
    assert timers.next() == 7.0


def test_what_was_cancelled_is_not_due_and_can_be_set_anew():
    timers = schedule.Timers()
    timers.set("name", 1.0)
    timers.cancel("name")
    timers.cancel("never set")
    assert "name" not in timers
    assert timers.next() == float("inf")
    timers.set("name", 4.0)
    assert timers.take(3.0) == []
    assert timers.take(4.0) == ["name"]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("set"), names, times),
            st.tuples(st.just("cancel"), names, st.just(0)),
            st.tuples(st.just("take"), st.just(""), times),
        )
    )
)
def test_timers_agree_with_a_plain_dictionary(script):
    timers, due, now = schedule.Timers(), {}, 0
    for what, name, when in script:
        if what == "set":
            timers.set(name, when)
            due[name] = min(when, due.get(name, when))
        elif what == "cancel":
            timers.cancel(name)
            due.pop(name, None)
        else:
            now = max(now, when)
            taken = timers.take(now)
            assert sorted(taken) == sorted(each for each, when in due.items() if when <= now)
            assert [due[each] for each in taken] == sorted(due[each] for each in taken)
            due = {each: when for each, when in due.items() if when > now}
        assert timers.next() == min(due.values(), default=float("inf"))
        assert all((each in timers) == (each in due) for each in "abcdefg")


def test_retries_come_later_and_later_and_never_all_at_once():
    delays = [[schedule.retry_delay(attempt) for _ in range(200)] for attempt in range(len(schedule.RETRIES))]
    for wanted, found in zip(schedule.RETRIES, delays):
        assert min(found) >= wanted * 0.5 and max(found) <= wanted * 1.5
        assert len(set(found)) > 100
    assert list(schedule.RETRIES) == sorted(schedule.RETRIES)


def test_a_queue_keeps_the_order_and_each_name_once():
    queue = schedule.Queue(["b", "a", "b"])
    queue.add("c")
    queue.add("a")
    assert len(queue) == 3
    queue.discard("c")
    queue.discard("never there")
    assert queue.take(1) == ["b"]
    assert queue.take(10) == ["a"]
    assert not queue and queue.take(1) == []
    queue.add("b")
    assert queue.take(1) == ["b"]


def test_each_user_has_a_turn_however_many_names_another_has():
    queue = schedule.FairQueue()
    for number in range(1000):
        queue.add(f"flood-{number}", 1)
    queue.add("first", 2)
    queue.add("second", 2)
    queue.add("third", 3)
    assert queue.owners() == [1, 2, 3]
    assert queue.take(1, 2) == ["flood-0", "flood-1"]
    assert queue.owners() == [2, 3, 1]
    assert queue.take(2, 32) == ["first", "second"]
    assert queue.owners() == [3, 1]
    assert len(queue) == 999
    queue.add("again", 2)
    assert queue.owners() == [3, 1, 2]


def test_a_name_waits_once_and_can_be_taken_out():
    queue = schedule.FairQueue()
    queue.add("name", 1)
    queue.add("name", 2)
    assert len(queue) == 1 and "name" in queue and queue.owners() == [1]
    queue.discard("name")
    queue.discard("name")
    assert not queue and "name" not in queue and queue.owners() == []
    queue.add("name", 2)
    assert queue.take(2, 5) == ["name"]


@given(st.lists(st.tuples(st.integers(0, 3), st.text("xyz", min_size=1, max_size=3))), st.integers(1, 7))
def test_a_fair_queue_loses_nothing_and_keeps_each_users_order(added, count):
    queue, owners = schedule.FairQueue(), {}
    for owner, name in added:
        queue.add(name, owner)
        owners.setdefault(name, owner)
    taken = []
    while queue:
        for owner in queue.owners():
            some = queue.take(owner, count)
            assert some and len(some) <= count and {owners[name] for name in some} == {owner}
            taken += some
    assert sorted(taken) == sorted(owners)
    for owner in range(4):
        mine = [name for name in taken if owners[name] == owner]
        assert mine == [name for name in owners if owners[name] == owner]


def test_a_budget_allows_much_at_once_and_little_for_ever():
    budget = schedule.Budget(0.1, 0.5)
    assert budget.next < 0
    budget.spend(100.0, 0.4)
    assert budget.next <= 100.0
    budget.spend(100.0, 0.3)
    assert budget.next == pytest.approx(102.0)
    budget.spend(102.0, 0.001)  # one piece of work at a time would be one wake-up each
    assert budget.next == pytest.approx(102.0 + schedule.AT_REST)
    budget.refund(0.001)
    assert budget.next <= 102.0
    used, now = 0.0, 102.0
    while now < 202.0:
        now = max(now, budget.next)
        budget.spend(now, 0.01)
        used += 0.01
    assert used == pytest.approx(10.0, rel=0.02)
    budget.spend(1000.0, 0.4)
    assert budget.next <= 1000.0  # what was not used meanwhile is no more than at first


def test_each_owner_has_a_budget_of_its_own():
    budgets, queue = schedule.Budgets(0.1, 0.5), schedule.FairQueue()
    assert budgets.turn(queue, 0.0) is None and budgets.next(queue) == float("inf")
    for name, owner in (("a", 1), ("b", 1), ("c", 2)):
        queue.add(name, owner)
    assert (queue.count(1), queue.count(2), queue.count(3), list(queue)) == (2, 1, 0, [1, 2])
    budgets.spend(1, 10.0, 1.0)
    assert budgets.turn(queue, 10.0) == 2
    queue.take(2, 1)
    assert budgets.turn(queue, 10.0) is None
    assert budgets.next(queue) == pytest.approx(15.0)
    assert budgets.turn(queue, float("inf")) == 1
    budgets.refund(1, 0.5)
    assert budgets.turn(queue, 10.0) == 1
    budgets.refund(3, 0.5)


def test_no_number_of_owners_costs_much_memory_or_gives_anybody_a_new_budget():
    budgets = schedule.Budgets(0.1, 0.5)
    budgets.spend(0, 10.0, 100.0)
    for owner in range(1, 100000):
        budgets.spend(owner, 10.0, 0.001)
    assert len(budgets._budgets) <= schedule.MANY_OWNERS
    assert budgets.when(0) > 900


def test_a_share_of_the_time_is_left_to_others():
    share = schedule.Share(9.0)
    assert share.next == 0.0
    share.took(10.0, 10.5)
    assert share.next == 15.0
    share.took(20.0, 20.0)
    assert share.next == 20.0
