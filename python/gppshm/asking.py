"""Looks at processes for the threads of a program: each waits for its answer, and no longer than it says.

One observer (see `observer`) serves them all; it is started when somebody asks, and ends with this process.
A look that hangs so keeps neither a thread waiting nor the process from ending.
"""

import errno
import os
import select
import threading

from gppshm import observer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, List, Optional, Sequence, Tuple

SOON, TELLING = observer.SOON, observer.TELLING


class Asker:
    """For any number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: Optional[threading.Thread] = None
        self._questions: List[Tuple[str, Any, _Answer]] = []
        self._read = self._write = -1

    def call(self, function: str, arguments: "Sequence[Any]", seconds: float, kind: str = SOON) -> "Any":
        """What `function` ("module:name", of this package) returns, in a child of the observer.

        Arguments and answer must be plain (see marshal).  OSError if it raised one, if there is no answer
        within so many seconds, or if nobody can be asked.
        """
        answer = _Answer()
        question = ("gppshm.asking", "answer", [function, list(arguments)])
        with self._lock:
            if self._thread is None:
                self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
                self._thread = threading.Thread(target=self._run, name="asker", daemon=True)
                self._thread.start()
            self._questions.append((kind, question, answer))
        try:
            os.write(self._write, b"\0")
        except BlockingIOError:
            pass
        if not answer.wait(seconds):
            raise OSError(errno.ETIMEDOUT, f"no answer within {seconds:g} s")
        if answer.told is None:
            raise OSError(errno.EIO, answer.failure)
        good, told = answer.told
        if not good:
            raise OSError(*told)
        return told

    def _run(self) -> None:
        watched: Optional[observer.Observer] = None
        while True:
            poll = select.poll()
            poll.register(self._read, select.POLLIN)
            if watched is not None:
                poll.register(watched.fileno(), select.POLLIN | (select.POLLOUT if watched.writing else 0))
            poll.poll()
            try:
                os.read(self._read, 4096)
            except BlockingIOError:
                pass
            with self._lock:
                questions, self._questions = self._questions, []
            try:
                watched = watched or observer.Observer()
                watched.step()
            except OSError as error:  # it cannot be started
                for _, _, answer in questions:
                    answer.fail(f"processes cannot be looked at: {error.strerror}")
                continue
            for kind, question, answer in questions:
                watched.ask(kind, "call", question, answer.take)


class _Answer:
    """`told`: (True, what was returned) or (False, errno and words of an OSError); None if there is none."""

    def __init__(self) -> None:
        self.told: Optional[Tuple[bool, Any]] = None
        self.failure = "processes cannot be looked at"
        self._come = threading.Event()

    def take(self, told: "Optional[Tuple[bool, Any]]") -> None:
        self.told = told
        self._come.set()

    def fail(self, why: str) -> None:
        self.failure = why
        self._come.set()

    def wait(self, seconds: float) -> bool:
        return self._come.wait(seconds)


shared = Asker()
"""The one of this process."""


def answer(function: str, arguments: "Sequence[Any]") -> "Tuple[bool, Any]":
    """In the child: call it."""
    module, _, name = function.partition(":")
    if module.split(".")[0] != "gppshm":
        raise ValueError(module)
    try:
        return True, getattr(__import__(module, fromlist=[name]), name)(*arguments)
    except OSError as error:
        return False, (error.errno or errno.EIO, str(error.strerror or error))
