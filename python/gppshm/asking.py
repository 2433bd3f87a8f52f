"""Inspection of other processes for programs with threads.  Each call has a time limit.

All calls share one observer (see `observer`).  It is started at the first call and ends with this process.
If a process blocks its readers, neither the calling thread nor the end of this process hangs.
"""

import errno
import os
import select
import threading
import time

from gppshm import creator, held, observer, observing, processes, procfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional, Sequence, Tuple

    from gppshm import shmfs

SOON, REPORTS, NAMES = observer.SOON, observer.REPORTS, observer.NAMES


class Asker:
    """An observer for any number of threads."""

    def __init__(self) -> None:
        self._observer: Optional[observer.Observer] = None
        self._lock = threading.Lock()
        self._thread: Optional[threading.Thread] = None
        self._questions: List[Tuple[str, Any, _Answer]] = []
        self._read = self._write = -1

    @property
    def passed_over(self) -> "Tuple[int, ...]":
        """See Observer.passed_over."""
        return self._observer.passed_over if self._observer is not None else ()

    def call(self, function: str, arguments: "Sequence[Any]", seconds: float, kind: str = SOON) -> "Any":
        """Run `function` ("module:name", of this package) in a child of the observer and return its result.

        Arguments and result must be plain data (see marshal).  Raises OSError if the function raised one, if
        it did not return within `seconds`, or if no observer can be started.
        """
        answer = self.ask(function, arguments, kind)
        if not answer.wait(seconds):
            raise OSError(errno.ETIMEDOUT, f"no answer within {seconds:g} s")
        return answer.value()

    def ask(self, function: str, arguments: "Sequence[Any]", kind: str) -> "_Answer":
        """As `call`, without waiting."""
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
        return answer

    def _run(self) -> None:
        while True:
            watched = self._observer
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
                watched = self._observer = watched or observer.Observer()
                watched.step()
            except OSError as error:  # the observer cannot be started
                for _, _, answer in questions:
                    answer.fail(f"processes cannot be inspected: {error.strerror}")
                continue
            for kind, question, answer in questions:
                watched.ask(kind, "call", question, answer.take)


class _Answer:
    """`result`: (True, result) or (False, errno and words of an OSError); None if there is no answer."""

    def __init__(self) -> None:
        self.result: Optional[Tuple[bool, Any]] = None
        self.failure = "processes cannot be inspected"
        self._come = threading.Event()

    def take(self, result: "Optional[Tuple[bool, Any]]") -> None:
        self.result = result
        self._come.set()

    def fail(self, why: str) -> None:
        self.failure = why
        self._come.set()

    def wait(self, seconds: float) -> bool:
        return self._come.wait(seconds)

    @property
    def come(self) -> bool:
        return self._come.is_set()

    def value(self) -> "Any":
        """The result of the function.  Raises its OSError, or one if there is no answer."""
        if self.result is None:
            raise OSError(errno.EIO, self.failure)
        good, result = self.result
        if not good:
            raise OSError(*result)
        return result


shared = Asker()
"""The Asker of this process."""

PATIENCE = 0.5
"""Seconds to wait for a name."""
NAME_AGAIN = 60.0
"""Seconds until the next lookup of a name that could not be found out."""


class Names:
    """Names of users and groups, or their numbers while a directory service has not answered.

    A name is looked up once, in the background.  Callable from any thread.
    """

    def __init__(self, asker: Asker) -> None:
        self._asker = asker
        self._known: Dict[Tuple[str, int], str] = {}
        self._asked: Dict[Tuple[str, int], Tuple[_Answer, float]] = {}

    def user(self, uid: int, patience: float = PATIENCE) -> str:
        """The name of a user, or its number after `patience` seconds.

        It does not wait while an earlier lookup is unanswered.
        """
        return self._name("user_name", uid, patience)

    def group(self, gid: int, patience: float = PATIENCE) -> str:
        """The name of a group; see `user`."""
        return self._name("group_name", gid, patience)

    def _name(self, function: str, number: int, patience: float) -> str:
        key = function, number
        if key in self._known:
            return self._known[key]
        answer, moment = self._asked.get(key, (None, 0.0))
        if answer is None or (answer.come and time.monotonic() - moment > NAME_AGAIN):
            waited = any(not other.come for other, _ in list(self._asked.values()))
            answer = self._asker.ask("gppshm.processes:" + function, [number], NAMES)
            self._asked[key] = answer, time.monotonic()
            answer.wait(0.0 if waited else patience)
        try:
            if answer.come:
                self._known[key] = str(answer.value())
                self._asked.pop(key, None)
        except OSError:
            pass  # it is looked up again later
        return self._known.get(key, str(number))


names = Names(shared)
"""The Names of this process."""

INSPECTION = 5.0
"""Seconds for an inspection of processes."""


def judge(seen: "Sequence[shmfs.Sighting]") -> "List[creator.Verdict]":
    """One verdict per sighting; UNKNOWN if processes cannot be inspected."""
    plain = [(observing.plain_sighting(each), 0) for each in seen]
    try:
        found = shared.call("gppshm.observing:judge", [plain, "/proc"], INSPECTION)
    except OSError as error:
        why = f"the processes of this host cannot be inspected: {error.strerror}"
        return [creator.Verdict(creator.UNKNOWN, why) for _ in seen]
    return [creator.verdict_of(each) for each in found]


def judge_and_map(
    seen: "Sequence[shmfs.Sighting]",
) -> "Tuple[List[creator.Verdict], Dict[Tuple[int, int], List[int]]]":
    """One verdict per sighting, and file -> pids that map it.

    Raises OSError if processes cannot be inspected.
    """
    plain = [observing.plain_sighting(each) for each in seen]
    verdicts, mapping = shared.call("gppshm.observing:judge_with_holders", [plain, "/proc"], INSPECTION)
    return [creator.verdict_of(each) for each in verdicts], {tuple(key): pids for key, pids in mapping}


def survey(root: str, proc_root: str = "/proc") -> held.Survey:
    """The holders of all files of the directory's file system.

    Raises OSError if processes cannot be inspected.
    """
    return held.survey_of(shared.call("gppshm.held:survey_root", [root, proc_root], INSPECTION))


def describe(pids: "Sequence[int]") -> "Dict[int, Tuple[str, str]]":
    """pid -> (user, command), as far as known."""
    unknown = dict.fromkeys(pids, (processes.UNKNOWN, processes.UNKNOWN))
    try:
        return dict(shared.call("gppshm.processes:described", [list(pids)], INSPECTION)) if pids else {}
    except OSError:
        return unknown


def maps(pid: int, file_id: "Tuple[int, int]") -> bool:
    """Whether process `pid` is known to map the file; False is no evidence that it does not."""
    try:
        if procfs.pulse(pid)[1]:
            return False
        return bool(shared.call("gppshm.observing:mapped", [[(pid, file_id)], "/proc"], INSPECTION)[0])
    except OSError:
        return False


def answer(function: str, arguments: "Sequence[Any]") -> "Tuple[bool, Any]":
    """Call the function; runs in the child."""
    module, _, name = function.partition(":")
    if module.split(".")[0] != "gppshm":
        raise ValueError(module)
    try:
        return True, getattr(__import__(module, fromlist=[name]), name)(*arguments)
    except OSError as error:
        return False, (error.errno or errno.EIO, str(error.strerror or error))
