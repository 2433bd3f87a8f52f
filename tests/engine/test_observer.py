"""Who asks the observer never waits for it, and loses no question when it ends."""

import contextlib
import os
import select
import signal
import sys
import time

import pytest

from blocking import family
from gppshm import observer, procfs
from spawning import descriptors, lives, wait_for


@pytest.fixture
def asked():
    """An observer; what is left of it at the end is a fault."""
    before, others = descriptors(), set(family(os.getpid()))
    one = observer.Observer()
    yield one
    started = time.monotonic()
    one.close()
    assert time.monotonic() - started < 0.5
    assert descriptors() == before
    wait_for(lambda: set(family(os.getpid())) <= others)


def ask(asked, job, argument, kind=observer.URGENT):
    """Ask, and return the list that the answer will be in."""
    answers = []
    asked.ask(kind, job, argument, answers.append)
    return answers


def function(name, *arguments):
    """For the job "call"."""
    module, _, name = name.rpartition(".")
    return module, name, arguments


def pulse(pid):
    return function("gppshm.procfs.pulse", pid)


@pytest.fixture
def never(tmp_path):
    path = str(tmp_path / "never")
    os.mkfifo(path)
    return path


def reading(path):
    """A question that waits for ever, where `path` is a FIFO that nobody writes to."""
    return function("gppshm.procfs.read", path)


def test_what_is_asked_is_answered_by_a_later_step(asked):
    answers = ask(asked, "call", pulse(os.getpid()))
    assert answers == [] and asked.asked == 1
    asked.wait(5.0)
    assert answers == [procfs.pulse(os.getpid())] and asked.asked == 0


def test_a_question_that_it_does_not_know_or_that_fails_has_no_answer(asked):
    for job, argument in (
        ("nonsense", None),
        ("call", function("os.getpid")),
        ("call", function("gppshm.absent.name")),
        ("call", function("gppshm.procfs.absent")),
        ("judge", "nonsense"),
    ):
        answers = ask(asked, job, argument)
        asked.wait(5.0)
        assert answers == [None]


def test_a_question_that_blocks_has_no_answer_and_delays_no_other(asked, never):
    blocked = ask(asked, "call", reading(never))
    started = time.monotonic()
    answers = ask(asked, "call", pulse(1))
    wait_for(lambda: asked.step() or answers)
    assert time.monotonic() - started < 0.5
    asked.wait(20.0)
    assert blocked == [None]


def test_a_killed_observer_is_started_anew_and_asked_again(never):
    restarts, before = [], descriptors()
    asked = observer.Observer(on_restart=lambda: restarts.append(asked.fileno()))
    try:
        slow = ask(asked, "call", reading(never), observer.NAMES)
        quick = ask(asked, "call", pulse(1))
        wait_for(lambda: asked.step() or quick)
        old = asked.pid
        children = wait_for(lambda: family(old))
        os.kill(old, signal.SIGKILL)
        wait_for(lambda: asked.step() or restarts)
        assert asked.pid != old and not lives(old)
        wait_for(lambda: not any(lives(child) for child in children))
        assert restarts == [asked.fileno()]
        assert (slow, quick, asked.asked) == ([], [procfs.pulse(1)], 1)
        with open(never, "wb") as stream:  # it is read again
            stream.write(b"at last")
        asked.wait(5.0)
        assert slow == [b"at last"]
    finally:
        asked.close()
    assert descriptors() == before


def test_the_children_of_a_killed_observer_do_not_outlive_it(asked, never):
    slow = ask(asked, "call", reading(never), observer.NAMES)
    asked.step()
    old = wait_for(lambda: family(asked.pid))
    pid = asked.pid
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: asked.step() or asked.pid != pid)
    wait_for(lambda: not any(lives(each) for each in old))
    assert slow == []


def test_a_step_never_waits_for_an_observer_that_is_stopped(asked):
    os.kill(asked.pid, signal.SIGSTOP)
    huge = "x" * 5000000  # more than a socket takes
    started = time.monotonic()
    answers = ask(asked, "call", function("gppshm.processes.Description", huge))
    more = ask(asked, "call", pulse(1))
    for _ in range(10):
        asked.step()
    assert time.monotonic() - started < 0.5
    assert asked.writing and answers == more == []
    os.kill(asked.pid, signal.SIGCONT)
    asked.wait(20.0)
    assert answers == [None]  # no plain answer
    assert more == [procfs.pulse(1)]
    assert not asked.writing


def test_closing_waits_neither_for_a_stopped_observer_nor_for_what_blocks_it(never):
    before, others = descriptors(), set(family(os.getpid()))
    for stop in (False, True):
        asked = observer.Observer()
        for kind in (observer.NAMES, observer.REPORTS, observer.URGENT):
            ask(asked, "call", reading(never), kind)
        asked.step()
        wait_for(lambda: family(asked.pid))  # noqa: B023
        if stop:
            os.kill(asked.pid, signal.SIGSTOP)
        started = time.monotonic()
        asked.close()
        assert time.monotonic() - started < 0.5
        wait_for(lambda: set(family(os.getpid())) <= others)
        wait_for(lambda: not readers(never))
        assert descriptors() == before


def readers(path):
    """Whether somebody waits to read a FIFO."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        return False
    return True


def test_it_ends_with_who_asked_though_that_one_was_killed(spawn, never):
    code = """
from gppshm import observer
one = observer.Observer()
one.ask(observer.NAMES, "call", ("gppshm.procfs", "read", (sys.argv[1],)), print)
one.step()
print("ready", flush=True); sys.stdin.read()
"""
    child = spawn.python(code, never)
    helpers = wait_for(lambda: (lambda found: found if len(found) > 1 else None)(family(child.pid)))
    child.kill()
    wait_for(lambda: not any(lives(pid) for pid in helpers))


def test_signals_of_the_terminal_are_not_for_it(asked):
    """It has a process group of its own: Ctrl-C ends who asks, and that one ends it."""
    assert os.getpgid(asked.pid) == asked.pid != os.getpgid(0)


def open_files(pid):
    found = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return sorted(found)


def test_what_it_has_open_is_its_own(asked):
    """Two sockets, and two pipes of the child that it keeps ready."""
    keep = os.open(os.devnull, os.O_RDONLY)
    os.set_inheritable(keep, True)
    one = observer.Observer()
    try:
        answers = ask(one, "call", pulse(1))
        one.wait(5.0)
        assert answers
        expected = [os.devnull] * 3 + ["pipe"] * 2 + ["socket"] * 2
        wait_for(lambda: [kind.partition(":")[0] for kind in open_files(one.pid)] == expected)
    finally:
        one.close()
        os.close(keep)


def test_one_that_ends_again_and_again_is_started_no_more_than_once_a_second(monkeypatch):
    starts, real = [], observer.start

    def start(*arguments):
        starts.append(time.monotonic())
        return real(*arguments)

    monkeypatch.setattr(observer, "start", start)
    before, others = descriptors(), set(family(os.getpid()))
    one = observer.Observer()
    try:
        with monkeypatch.context() as patched:
            patched.setattr(sys, "executable", "/bin/false")
            os.kill(one.pid, signal.SIGKILL)
            answers = ask(one, "call", pulse(1))
            end, longest = time.monotonic() + 2.5, 0.0
            while time.monotonic() < end:
                select.select([one], [], [], 0.05)
                started = time.monotonic()
                one.step()
                longest = max(longest, time.monotonic() - started)
        assert len(starts) <= 5
        assert longest < 0.2
        one.wait(10.0)
        assert answers == [procfs.pulse(1)]
    finally:
        one.close()
    assert descriptors() == before
    wait_for(lambda: set(family(os.getpid())) <= others)


def test_where_the_interpreter_has_gone_a_fork_observes(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/absent/python")
    before, others = descriptors(), set(family(os.getpid()))
    one = observer.Observer()
    try:
        answers = ask(one, "call", pulse(1))
        one.wait(5.0)
        assert answers == [procfs.pulse(1)]
    finally:
        one.close()
    assert descriptors() == before
    wait_for(lambda: set(family(os.getpid())) <= others)
