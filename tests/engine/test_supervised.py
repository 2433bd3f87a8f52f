"""Work that may block for ever is given up, passed over and done again; work that is only slow is not."""

import os
import select
import signal
import time

import pytest

from gppshm import procfs, supervised
from spawning import descriptors, lives, wait_for


@pytest.fixture
def never(tmp_path):
    """A path that whoever opens it for reading waits at, for ever."""
    path = str(tmp_path / "never")
    os.mkfifo(path)
    return path


@pytest.fixture
def pool():
    one = supervised.Pool()
    try:
        yield one
    finally:
        one.close()


@pytest.fixture(autouse=True)
def nothing_is_left():
    """No descriptor, and no process but corpses: these go with whoever has a pool."""
    before, known = descriptors(), children()
    yield
    assert descriptors() == before
    wait_for(lambda: not [pid for pid in children() - known if lives(pid)])
    for pid in children() - known:
        os.waitpid(pid, 0)


def children():
    with open(f"/proc/{os.getpid()}/task/{os.getpid()}/children") as stream:
        return {int(pid) for pid in stream.read().split()}


def collect(pool, count=1, deadline=10.0):
    """{key: (answer, pids that were passed over)} of so many pieces of work."""
    found, end = {}, time.monotonic() + deadline
    while len(found) < count:
        assert time.monotonic() < end, f"only {found}"
        ready = select.select(pool.fds(), [], [], supervised.CHECKED_EVERY)[0]
        for key, answer, passed in pool.collect(ready):
            assert key not in found
            found[key] = answer, passed
    return found


def look(pids, blocking, never):
    """The work of the tests: look at each process, of whom some block; who could be looked at."""

    def act():
        seen = []
        for pid in pids:
            if procfs.may_read(pid):
                if pid in blocking:
                    os.open(never, os.O_RDONLY)
                seen.append(pid)
        return seen

    return act


def living(spawn, count):
    return [spawn.program("sh", "-c", "echo ready; read x").pid for _ in range(count)]


def test_a_process_over_which_a_child_sleeps_is_passed_over_and_the_work_done_again(pool, spawn, never):
    pids = living(spawn, 3)
    started = time.monotonic()
    pool.submit(1, look(pids, pids[1:2], never))
    assert collect(pool) == {1: ([pids[0], pids[2]], [pids[1]])}
    assert supervised.DEADLINE <= time.monotonic() - started < 0.4
    assert pool.passed_over == {pids[1]: procfs.pulse(pids[1])[0]}
    # From now on nobody sleeps over it.
    started = time.monotonic()
    pool.submit(2, look(pids, pids[1:2], never))
    assert collect(pool) == {2: ([pids[0], pids[2]], [pids[1]])}
    assert time.monotonic() - started < supervised.DEADLINE


def test_some_such_processes_are_passed_over_one_after_the_other(pool, spawn, never):
    pids = living(spawn, 5)
    pool.submit(1, look(pids, pids[:4], never))
    assert collect(pool) == {1: (pids[4:], pids[:4])}


def test_too_many_such_processes_are_a_failure_and_next_time_fewer(pool, never):
    numbers = list(range(5000001, 5000001 + supervised.TRIES + 2))  # no process need have them
    pool.submit(1, look(numbers, numbers, never))
    answer, _ = collect(pool)[1]
    assert isinstance(answer, supervised.Failed)
    assert str(answer) == "the inspected process does not answer"
    pool.submit(2, look(numbers, numbers, never))
    assert collect(pool) == {2: ([], numbers)}


def test_what_was_passed_over_and_has_ended_is_looked_at_again(pool, spawn, never):
    (pid,) = living(spawn, 1)
    pool.submit(1, look([pid], [pid], never))
    assert collect(pool) == {1: ([], [pid])}
    pool.forget_the_gone()
    assert list(pool.passed_over) == [pid]
    spawn.children[0].kill()
    pool.forget_the_gone()
    assert pool.passed_over == {}
    pool.submit(2, look([pid], [], never))
    assert collect(pool) == {2: ([pid], [])}


def busy(seconds):
    def act():
        procfs.may_read(1)
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass
        return "done"

    return act


def test_a_busy_child_is_not_given_up(pool):
    pool.submit(1, busy(5 * supervised.DEADLINE))
    assert collect(pool) == {1: ("done", [])}
    assert not pool.passed_over


def test_many_busy_children_that_wait_for_a_processor_are_not_given_up(pool):
    for key in range(20):
        pool.submit(key, busy(0.15))
    assert collect(pool, 20, 60.0) == {key: ("done", []) for key in range(20)}
    assert not pool.passed_over


def test_a_child_that_is_busy_with_one_process_for_ever_is_given_up(pool, monkeypatch):
    monkeypatch.setattr(supervised, "LONGEST", 0.3)

    def act():
        while procfs.may_read(7):
            while True:
                pass
        return "passed over"

    pool.submit(1, act)
    assert collect(pool) == {1: ("passed over", [7])}


def test_a_child_that_sleeps_a_little_over_each_of_many_is_not_given_up(pool):
    def act():
        for pid in range(1, 31):
            procfs.may_read(pid)
            time.sleep(0.01)
        return "done"

    pool.submit(1, act)
    assert collect(pool) == {1: ("done", [])}


def test_a_child_that_is_stopped_is_given_up_and_its_work_done_again(pool, tmp_path):
    mark = tmp_path / "stopped"

    def act():
        if not mark.exists():
            mark.write_text("")
            os.kill(os.getpid(), signal.SIGSTOP)
        return "done"

    pool.submit(1, act)
    assert collect(pool) == {1: ("done", [])}


def test_the_work_of_a_killed_child_is_done_again(pool, tmp_path):
    mark = tmp_path / "killed"

    def act():
        if not mark.exists():
            mark.write_text("")
            os.kill(os.getpid(), signal.SIGKILL)
        return "done"

    pool.submit(1, act)
    assert collect(pool) == {1: ("done", [])}


def test_work_whose_every_child_is_killed_is_a_failure(pool):
    pool.submit(1, lambda: os.kill(os.getpid(), signal.SIGKILL))
    answer, passed = collect(pool)[1]
    assert str(answer) == "the inspecting process was killed"
    assert passed == []


def test_an_exception_is_an_answer(pool):
    def act():
        raise ValueError("no luck")

    pool.submit(1, act)
    answer, _ = collect(pool)[1]
    assert isinstance(answer, supervised.Failed) and str(answer) == "ValueError: no luck"


def test_what_cannot_be_written_is_a_failure(pool):
    pool.submit(1, object)
    assert isinstance(collect(pool)[1][0], supervised.Failed)


@pytest.mark.parametrize("size", [0, 1, 65536, 20000000])
def test_an_answer_may_be_of_any_size(pool, size):
    pool.submit(1, lambda: b"x" * size)
    assert collect(pool) == {1: (b"x" * size, [])}


def test_many_huge_answers_come_at_the_same_time(pool):
    for key in range(12):
        pool.submit(key, lambda key=key: bytes([key]) * 3000000)
    found = collect(pool, 12, 30.0)
    assert all(found[key] == (bytes([key]) * 3000000, []) for key in range(12))


def test_what_is_urgent_does_not_wait_for_what_is_only_for_telling(pool, never):
    for key in range(10):
        kind = (supervised.REPORTS, supervised.NAMES)[key % 2]
        pool.submit(key, lambda: os.open(never, os.O_RDONLY), kind, 60.0)
    started = time.monotonic()
    pool.submit(100, lambda: "at once")
    assert collect(pool) == {100: ("at once", [])}
    assert time.monotonic() - started < 1.0
    assert len(pool.fds()) == supervised.AT_ONCE["reports"] + supervised.AT_ONCE["names"]


def test_what_is_only_for_reports_gives_way_to_more_urgent_work_for_a_while(pool, tmp_path):
    gate = tmp_path / "gate"

    def until_the_gate_is_there():
        while not gate.exists():
            time.sleep(0.001)
        return time.monotonic()

    pool.submit(1, until_the_gate_is_there, supervised.SOON)
    pool.submit(2, time.monotonic, supervised.REPORTS)
    gate.touch()
    found = collect(pool, 2)
    assert found[1][0] < found[2][0]


def test_but_it_does_not_wait_for_work_that_takes_long(pool, never):
    pool.submit(1, look([os.getpid()], {os.getpid()}, never), supervised.SOON, deadline=60.0)
    submitted = time.monotonic()
    pool.submit(2, time.monotonic, supervised.REPORTS)
    assert collect(pool, 1)[2][0] - submitted >= supervised.GIVES_WAY


def test_what_waits_its_turn_is_done_in_the_order_in_which_it_came(pool):
    order = []
    for key in range(12):
        pool.submit(key, lambda: time.sleep(0.01), supervised.REPORTS)
    while len(order) < 12:
        order += collect(pool)
    assert order == list(range(12))


def test_a_deadline_may_be_another(pool, never):
    pool.submit(1, look([3], [3], never), deadline=1.0)
    started = time.monotonic()
    assert collect(pool) == {1: ([], [3])}
    assert 1.0 <= time.monotonic() - started < 2.0


def test_closing_waits_for_nobody(never):
    pool = supervised.Pool()
    for key in range(4):
        pool.submit(key, lambda: os.open(never, os.O_RDONLY))
    started = time.monotonic()
    pool.close()
    assert time.monotonic() - started < 0.5


def test_a_command_gets_its_answer_and_who_was_passed_over(spawn, never):
    pids = living(spawn, 2)
    assert supervised.call(look(pids, pids[:1], never)) == (pids[1:], pids[:1])
    assert supervised.call(lambda: 7) == (7, [])
    with pytest.raises(supervised.Failed, match="KeyError: 'x'"):
        supervised.call(lambda: {}["x"])


def test_the_guard_is_the_childs_alone(spawn):
    assert supervised.call(lambda: procfs.may_read(1)) == (True, [])
    assert procfs._guard is procfs._no_guard


# -- the child that is kept ready --------------------------------------------------------------------------


def who_and_what(work):
    return os.getpid(), work, procfs.may_read(7)


@pytest.fixture
def ready(pool):
    """The pid of a child that is kept ready."""
    before = children()
    pool.prepare(who_and_what, procfs.Processes().blind_spot)
    pool.prepare(who_and_what, procfs.Processes().blind_spot)  # there is one already
    (pid,) = children() - before
    return pid


def test_urgent_work_is_done_by_the_child_that_is_ready(pool, ready):
    pool.passed_over[7] = 1
    pool.submit(1, lambda: "a fork", work="this")
    assert collect(pool) == {1: ((ready, "this", False), [7])}
    pool.submit(2, lambda: "a fork", work="that")
    assert collect(pool) == {2: ("a fork", [])}


@pytest.mark.parametrize(
    "kind, work", [("soon", "this"), ("urgent", None), ("urgent", "x" * 5000)], ids=["other", "none", "large"]
)
def test_other_work_is_done_by_a_fork(pool, ready, kind, work):
    pool.submit(1, lambda: "a fork", kind, work=work)
    assert collect(pool) == {1: ("a fork", [])}


def test_work_does_not_depend_on_the_child_that_is_ready(pool, ready):
    os.kill(ready, signal.SIGKILL)
    wait_for(lambda: not lives(ready))
    pool.submit(1, lambda: "a fork", work="this")
    assert collect(pool) == {1: ("a fork", [])}


def test_a_ready_child_that_gets_nowhere_is_given_up(pool, never):
    def perform(work):
        assert procfs.may_read(7)
        os.open(never, os.O_RDONLY)

    pool.prepare(perform, lambda: None)
    pool.submit(1, lambda: procfs.may_read(7) or "passed over", work="this")
    assert collect(pool) == {1: ("passed over", [7])}
