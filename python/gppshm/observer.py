"""The observer as its clients see it: questions are answered later, and nothing waits.

The observer is a process of its own (`observing`), because a process that inspects others may hang for ever.
If it ends, it is started again, and open questions are asked again.
"""

import errno
import os
import signal
import socket
import sys
import time

from gppshm import observing, supervised

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Tuple

URGENT, SOON, REPORTS, NAMES = supervised.URGENT, supervised.SOON, supervised.REPORTS, supervised.NAMES

RESTART = 1.0
"""Seconds between restarts of an observer that keeps ending."""


class Observer:
    """Sends questions.  `step`, when `fileno()` is readable, calls back with answers.

    passed_over  pids of processes that block their readers; a negative number stands for a user or group
                 whose name cannot be looked up (see `procfs.user_key`)
    on_restart   called after a restart: `fileno()` has changed
    For one thread.  OSError if it cannot be started.
    """

    def __init__(self, proc_root: str = "/proc", on_restart: "Callable[[], None]" = lambda: None) -> None:
        self.passed_over: Tuple[int, ...] = ()
        self.pid = 0
        self._proc_root = proc_root
        self._on_restart = on_restart
        self._asked: Dict[int, Tuple[Tuple[str, str, Any], Callable[[Any], None]]] = {}
        self._key = 0
        self._started = 0.0
        self._start()

    def fileno(self) -> int:
        return self._wire.sock.fileno()

    @property
    def writing(self) -> bool:
        """Whether a question waits to be written: call `step` when `fileno()` is writable, too."""
        return self._wire.waiting

    @property
    def asked(self) -> int:
        """Number of open questions."""
        return len(self._asked)

    def ask(self, kind: str, job: str, argument: "Any", answered: "Callable[[Any], None]") -> None:
        """Ask; a later `step` calls `answered(answer)`, with None if there is no answer."""
        self._key += 1
        self._asked[self._key] = (kind, job, argument), answered
        self._put(self._key)

    def let_go(self, fd: int) -> None:
        """Close a descriptor in another process: closing the last one of a large unlinked file takes long."""
        self._wire.put_descriptor((observing.LET_GO,), fd)
        os.close(fd)

    def parcels(self) -> "Dict[Tuple[int, int], int]":
        """The descriptors that came with answers, by (device, inode) of the file; they are the caller's."""
        return observing.read_parcels(self._parcels)

    def step(self) -> None:
        """Handle answers; never waits."""
        try:
            self._wire.flush()
            messages = self._wire.read()
        except OSError:
            messages = None
        if messages is None:
            self._restart()
            return
        for key, good, answer, passed in messages:
            self.passed_over = tuple(sorted(set(passed)))
            _, answered = self._asked.pop(key, (None, None))
            if answered is not None:
                answered(answer if good else None)

    def wait(self, seconds: float) -> None:
        """Step until no question is open, or the time is up."""
        end = time.monotonic() + seconds
        while self._asked and time.monotonic() < end:
            self._wire.wait(end)
            self.step()

    def close(self) -> None:
        """Disconnect.  The observer ends by itself; a hanging one is not waited for."""
        self._wire.sock.close()
        self._parcels.close()
        self._reap()

    def _put(self, key: int) -> None:
        try:
            self._wire.put((key, *self._asked[key][0]))
        except OSError:
            pass  # `step` handles it

    def _start(self, soon: bool = True) -> None:
        self._started = time.monotonic() + (0 if soon else RESTART)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            command = [sys.executable, "-IS", observing.__file__]
            if not soon:
                # Questions wait in the socket meanwhile; nothing here waits.
                command = ["/bin/sh", "-c", f'sleep {RESTART:g}; exec "$0" "$@"', *command]
            self.pid = start(command, observing.main, theirs.fileno())
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._wire = observing.Wire(ours)
        self._parcels, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._parcels.setblocking(False)
        with theirs:
            greeting = [path for path in sys.path if path], self._proc_root
            if self._wire.put_descriptor(greeting, theirs.fileno()):
                return
        try:
            self._wire.put(greeting)
        except OSError:
            pass  # it has ended: `step` handles it

    def _restart(self) -> None:
        """Handle the observer's end: start it again and repeat open questions once."""
        self._wire.sock.close()
        self._parcels.close()
        self._reap()
        asked, self._asked = self._asked, {}
        self._start(soon=time.monotonic() - self._started > RESTART)
        self._on_restart()
        for question, answered in asked.values():
            self.ask(*question, answered)

    def _reap(self) -> None:
        try:
            os.killpg(self.pid, signal.SIGKILL)  # with its children, one of which may hang for ever
        except OSError:
            try:
                os.kill(self.pid, signal.SIGKILL)  # a fork without a group of its own yet
            except OSError:
                return
        for _ in range(50):  # takes microseconds, as it waits for nothing
            try:
                if os.waitpid(self.pid, os.WNOHANG)[0]:
                    return
            except ChildProcessError:
                return
            time.sleep(0.001)


def start(command: "List[str]", main: "Callable[[], None]", stdin: int) -> int:
    """Start a program with that descriptor as its stdin, in a session of its own; returns its pid.

    stdout and stderr are /dev/null: a reader of our output must not wait for a program that hangs.  If the
    interpreter cannot be executed (it may have been replaced), a fork calls `main` instead.  OSError if no
    process can be made.
    """
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        if hasattr(os, "posix_spawn"):  # novm: Python 3.8
            actions = [(os.POSIX_SPAWN_DUP2, stdin, 0)]  # novm
            actions += [(os.POSIX_SPAWN_DUP2, null, fd) for fd in (1, 2)]  # novm
            try:
                return _spawn(command, actions)
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.ENOENT, errno.ENOEXEC):
                    raise
        pid = os.fork()
        if not pid:
            _become(command, main, stdin, null)
        return pid
    finally:
        os.close(null)


def _spawn(command: "List[str]", actions: "List[Any]") -> int:
    """In a session of its own, which also gives it its own share of the processor (sched(7), autogroup)."""
    try:
        return os.posix_spawn(  # novm
            command[0], command, os.environ, file_actions=actions, setsid=True, setsigmask=()
        )
    except NotImplementedError:  # glibc before 2.26
        return os.posix_spawn(  # novm
            command[0], command, os.environ, file_actions=actions, setpgroup=0, setsigmask=()
        )


def _become(command: "List[str]", main: "Callable[[], None]", stdin: int, null: int) -> None:
    """Runs in the child of a fork: become the program."""
    try:
        os.setsid()
        for old, new in ((stdin, 0), (null, 1), (null, 2)):
            os.dup2(old, new)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        try:
            os.execv(command[0], command)
        except OSError:
            main()
    finally:
        os._exit(127)
