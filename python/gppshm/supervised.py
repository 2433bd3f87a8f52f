"""Runs work that may block for ever in child processes, which are replaced when they block.

Inspecting another process may never return: its memory is locked by a thread in state D, a descriptor is on a
dead network file system, or a directory service does not answer.  A process in state D cannot be killed, and
a thread in state D prevents the end of its process; so the work runs in a child process.  The child notes
each process before it inspects it.  If the child sleeps without progress for `DEADLINE` seconds, it is given
up, the process that it inspected is passed over from then on, and a new child repeats the work.

An urgent piece of work does not wait for a fork(): one child is kept ready (`Pool.prepare`).

For single-threaded processes: it forks.
"""

import marshal
import mmap
import os
import select
import struct
import time

from gppshm import procfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional, Tuple

DEADLINE = 0.1
"""Seconds that a child may sleep while it inspects one process."""
CHECKED_EVERY = 0.04
ELSEWHERE = 5.0
"""Seconds that a child may sleep otherwise: a heap is swapped in, a directory service answers."""
LONGEST = 20.0
"""Seconds that the inspection of one process may take in total."""
TRIES = 8
"""Children that try one piece of work; each may meet another process that blocks."""
AT_ONCE = {"urgent": 8, "soon": 2, "reports": 1, "names": 2}
"""Pieces of work of each class that run at the same time."""
URGENT, SOON, REPORTS, NAMES = AT_ONCE
GIVES_WAY = 0.1
"""Seconds that work for reports waits while more urgent work runs: it leaves a processor to the others."""

SIGKILL = 9  # signal.SIGKILL; importing signal takes milliseconds

_CELL = struct.Struct("qq")


UNKNOWN = -1
_MOST = 4096  # PIPE_BUF: bytes written or read at once


def _start(pid: int) -> int:
    """The start of a process, see `procfs.pulse`; UNKNOWN if it cannot be found out."""
    try:
        return procfs.pulse(pid)[0]
    except OSError:
        return UNKNOWN


class Failed(Exception):
    """A piece of work could not be done; the text says why."""


class _Child:
    """One piece of work.  `seen`: its steps and processor time; `moved`: when these last changed."""

    __slots__ = (
        "act",
        "ask",
        "cell",
        "checked",
        "data",
        "deadline",
        "fd",
        "key",
        "kind",
        "moved",
        "pid",
        "seen",
        "stepped",
        "submitted",
        "tries",
        "work",
    )

    def __init__(
        self, key: int, kind: str, act: "Callable[[], Any]", deadline: float, work: "Any" = None
    ) -> None:
        self.key = key
        self.kind = kind
        self.act = act
        self.work = work
        self.ask = -1
        self.deadline = deadline
        self.tries = TRIES
        self.pid = 0
        self.fd = -1
        self.cell: Optional[mmap.mmap] = None
        self.data = b""
        self.seen = (0, 0)
        self.checked = self.moved = self.stepped = 0.0
        self.submitted = time.monotonic()


class Pool:
    """Does pieces of work in children; `collect` returns their answers.

    passed_over  pid -> start of each process that blocked its reader; a negative number stands for a user or
                 group whose name cannot be looked up (see `procfs.user_key`)
    """

    def __init__(self, in_child: "Callable[[], None]" = lambda: None) -> None:
        self.passed_over: Dict[int, int] = {}
        self._in_child = in_child
        self._ready: Optional[_Child] = None
        self._waiting: Dict[str, List[_Child]] = {kind: [] for kind in AT_ONCE}
        self._working: Dict[int, _Child] = {}
        self._ending: List[int] = []
        self._failed: List[Tuple[int, Any, List[int]]] = []

    def submit(
        self,
        key: int,
        act: "Callable[[], Any]",
        kind: str = URGENT,
        deadline: float = DEADLINE,
        work: "Any" = None,
    ) -> None:
        """Run `act` in a child; its result must be plain data (see marshal).

        work  passed to the prepared child instead; None: that child cannot do it
        """
        self._waiting[kind].append(_Child(key, kind, act, deadline, work))
        self._start_waiting()

    def prepare(self, perform: "Callable[[Any], Any]", warm: "Callable[[], object]") -> None:
        """Fork a child in advance that will do `perform(work)` for one urgent piece of work.

        warm  called by the child at once, to take the page faults of its first use in advance
        """
        if self._ready is not None or any(child.kind == URGENT for child in self._working.values()):
            return
        reader, ask = os.pipe2(os.O_CLOEXEC)

        def act() -> "Any":
            os.close(ask)
            warm()
            data = os.read(reader, _MOST)
            if not data:
                os._exit(0)
            work, self.passed_over = marshal.loads(data)
            return perform(work)

        child = _Child(0, URGENT, act, DEADLINE)
        child.ask = ask
        try:
            self._fork(child)
            self._ready = child
        except OSError:
            os.close(ask)
        os.close(reader)

    def _hand_over(self, child: _Child) -> bool:
        """Pass work to the prepared child; False if there is none, or it has ended."""
        ready = self._ready
        if ready is None or child.work is None or child.kind != URGENT:
            return False
        data = marshal.dumps((child.work, self.passed_over))
        if len(data) > _MOST:
            return False
        self._ready = None
        try:
            os.write(ready.ask, data)
        except OSError:
            self._discard(ready)
            return False
        finally:
            os.close(ready.ask)
        child.pid, child.fd, child.cell = ready.pid, ready.fd, ready.cell
        return True

    def fds(self) -> "List[int]":
        """Descriptors that become readable when there is something to collect."""
        return list(self._working)

    @property
    def busy(self) -> bool:
        return bool(self._working or self._failed)

    def collect(self, ready: "List[int]") -> "List[Tuple[int, Any, List[int]]]":
        """(key, answer, passed over pids) of finished work; the answer is Failed if it cannot be done.

        ready  the readable ones of `fds`.  Call this every CHECKED_EVERY seconds while `busy`.
        """
        done = [self._read(self._working[fd]) for fd in ready if fd in self._working]
        now = time.monotonic()
        done += [
            self._check(child, now)
            for child in list(self._working.values())
            if now - child.checked >= CHECKED_EVERY
        ]
        self._ending = [pid for pid in self._ending if not _has_ended(pid)]
        self._start_waiting()
        failed, self._failed = self._failed, []
        return failed + [each for each in done if each is not None]

    def close(self) -> None:
        """Give up all pending work; never waits."""
        for child in list(self._working.values()):
            self._stop(child)
        if self._ready is not None:
            os.close(self._ready.ask)
            self._discard(self._ready)
            self._ready = None

    def let_go(self, fds: "List[int]") -> None:
        """Close these descriptors in a child: the last one of a large file takes long (0.13 ms per MB)."""
        try:
            pid = os.fork()
            if not pid:
                os._exit(0)
            self._ending.append(pid)
        except OSError:
            pass
        for fd in fds:
            os.close(fd)

    def forget_the_gone(self) -> None:
        """Remove processes that have ended from `passed_over`."""
        for pid, start in list(self.passed_over.items()):
            if pid > 0 and _start(pid) not in (start, UNKNOWN):
                del self.passed_over[pid]

    def _start_waiting(self) -> None:
        for kind, waiting in self._waiting.items():
            working = sum(child.kind == kind for child in self._working.values())
            while waiting and working < AT_ONCE[kind] and not self._gives_way(waiting[0]):
                self._start(waiting.pop(0))
                working += 1

    def _gives_way(self, child: _Child) -> bool:
        """Whether the start of this piece of work is put off."""
        busy = any(other.kind in (URGENT, SOON) for other in self._working.values())
        return child.kind == REPORTS and busy and time.monotonic() < child.submitted + GIVES_WAY

    def _start(self, child: _Child) -> None:
        child.data, child.seen = b"", (0, 0)
        if not self._hand_over(child):
            try:
                self._fork(child)
            except OSError as error:
                self._failed.append((child.key, Failed(error.strerror), []))
                return
        child.checked = child.moved = child.stepped = time.monotonic()
        self._working[child.fd] = child

    def _fork(self, child: _Child) -> None:
        """Fork the process.  Raises OSError if that fails."""
        child.fd, write = os.pipe2(os.O_CLOEXEC)
        try:
            child.cell = mmap.mmap(-1, mmap.PAGESIZE)
            child.pid = os.fork()
        except OSError:
            os.close(child.fd)
            os.close(write)
            raise
        if not child.pid:
            try:
                self._work(child, write)
            finally:
                os._exit(1)
        os.close(write)

    def _work(self, child: _Child, write: int) -> None:
        """Do the work and write the answer; runs in the child."""
        for fd in (child.fd, *self._working):
            os.close(fd)
        if self._ready is not None:
            os.close(self._ready.fd)
            os.close(self._ready.ask)
        # A reader of the command's output must see its end even if this child never ends.
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        self._in_child()
        if child.kind == REPORTS:
            try:
                os.nice(5)
            except OSError:
                pass  # a seccomp filter forbids it
        assert child.cell is not None
        cell, passed, steps = child.cell, [], 0

        def guard(pid: int) -> bool:
            nonlocal steps
            if pid in self.passed_over:
                passed.append(pid)
                return False
            steps += 1
            cell[: _CELL.size] = _CELL.pack(steps, pid)
            return True

        procfs.set_guard(guard)
        try:
            answer: Tuple[bool, Any, List[int]] = (True, child.act(), passed)
        except Exception as error:
            answer = (False, f"{type(error).__name__}: {error}", passed)
        guard(0)
        data = marshal.dumps(answer)
        while data:
            data = data[os.write(write, data) :]
        os.close(write)  # the reader need not wait for the exit, which takes a millisecond
        os._exit(0)

    def _read(self, child: _Child) -> "Optional[Tuple[int, Any, List[int]]]":
        data = os.read(child.fd, 1 << 20)
        if data:
            child.data += data
            child.moved = time.monotonic()
            return None
        self._stop(child)
        try:
            good, answer, passed = marshal.loads(child.data)
        except (EOFError, ValueError, TypeError):
            return self._again(child, "the inspecting process was killed")
        return child.key, answer if good else Failed(answer), passed

    def _check(self, child: _Child, now: float) -> "Optional[Tuple[int, Any, List[int]]]":
        """Give up a child that sleeps without progress."""
        assert child.cell is not None
        child.checked = now
        steps, pid = _CELL.unpack(child.cell[: _CELL.size])
        state, ticks = _state(child.pid)
        if steps != child.seen[0]:
            child.stepped = now
        # A runnable child waits only for a processor.
        if (steps, ticks) != child.seen or state == b"R":
            child.moved = now
        child.seen = (steps, ticks)
        patience = child.deadline if pid > 0 else max(child.deadline, ELSEWHERE)
        if now - child.moved < patience and now - child.stepped < max(LONGEST, child.deadline):
            return None
        self._stop(child)
        if pid:
            self.passed_over[pid] = _start(pid) if pid > 0 else 0
        else:
            child.tries = min(child.tries, 2)  # next time there is nothing to pass over
        return self._again(child, "the inspected process does not answer")

    def _again(self, child: _Child, why: str) -> "Optional[Tuple[int, Any, List[int]]]":
        child.tries -= 1
        if not child.tries:
            return child.key, Failed(why), []
        self._start(child)
        return None

    def _stop(self, child: _Child) -> None:
        del self._working[child.fd]
        self._discard(child)

    def _discard(self, child: _Child) -> None:
        os.close(child.fd)
        try:
            os.kill(child.pid, SIGKILL)
        except OSError:
            pass
        if not _has_ended(child.pid):
            self._ending.append(child.pid)


def _has_ended(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return True


def _state(pid: int) -> "Tuple[bytes, int]":
    """State and processor time (ticks) of a child."""
    fields = (procfs.read(f"/proc/{pid}/stat") or b"").rpartition(b")")[2].split()
    return (fields[0], int(fields[11]) + int(fields[12])) if len(fields) > 12 else (b"X", 0)


def call(act: "Callable[[], Any]", passed_over: "Optional[Dict[int, int]]" = None) -> "Tuple[Any, List[int]]":
    """The result of `act`, and the pids of processes that were passed over; for commands.

    passed_over  by earlier calls, updated by this one; see Pool
    Raises Failed if it cannot be done.
    """
    pool = Pool()
    if passed_over is not None:
        pool.passed_over = passed_over
    try:
        pool.submit(0, act)
        while True:
            poll = select.poll()
            for fd in pool.fds():
                poll.register(fd, select.POLLIN)
            ready = [fd for fd, _ in poll.poll(CHECKED_EVERY * 1000)]
            for _, answer, passed in pool.collect(ready):
                if isinstance(answer, Failed):
                    raise answer
                return answer, sorted(set(passed) | set(pool.passed_over))
    finally:
        pool.close()
