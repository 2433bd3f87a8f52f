"""The plugin's own life: what it inherits, whose plugin it is, and when it has to go."""

import fcntl
import os
import resource
import select
import signal
import socket

from gppshm import kernel, relay
from gppshm.redhawk.text import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional, Tuple

PARENT_POLL = 3.0
"""Seconds between checks of the parent without a pidfd (Linux before 5.3)."""

NAMES = 16
"""Names tried for the plugin's claim: other users may have taken some."""

_SIGNALS = (signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGINT)


def refuse(what: str, status: int) -> int:
    """One line on stderr; the exit status."""
    try:
        os.write(2, b"GppShmPlugin: " + plain(what).encode("ascii") + b"\n")
    except OSError:
        pass
    return status


class AlreadyRunning(Exception):
    """Another plugin serves this GPP; `pid` is its, or 0."""

    def __init__(self, pid: int) -> None:
        Exception.__init__(self, pid)
        self.pid = pid


def shed_inheritance(folder: str = "/") -> None:
    """Part with what the GPP passes on through execv (measured on REDHAWK 3.0.1).

    SIGCHLD comes blocked, two descriptors of the GPP's leak in (a signalfd, an epoll), and the working
    directory is a cache that may be removed, so it is left for `folder`.  Python's own descriptors are all
    close-on-exec, so what is not, behind stderr, was inherited.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        try:
            if fd > 2 and not fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC:
                os.close(fd)
        except OSError:
            continue  # the descriptor of the listing itself
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            # Otherwise a heap may be opened as stdout: open() takes the lowest free number.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    os.chdir(folder)
    # One pidfd per living heap.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):
            pass


def use_installation() -> int:
    """A descriptor that keeps an update from removing the files of this running plugin (see `install`)."""
    folder = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        pass  # an update is at work, or the file system has no locks
    return fd


def only_one(plugin_id: str) -> socket.socket:
    """Be the only plugin with this id until the returned socket is closed, or this process ends, however.

    An abstract socket is a name that the kernel gives back with its last descriptor: nothing is left in any
    file system.  AlreadyRunning if a process of the same user has it: a name that a stranger has taken is
    passed by, and so is every name if there are many of these.  Limit: it holds within one network namespace.
    """
    import hashlib

    digest = hashlib.sha256(plugin_id.encode("utf-8", "surrogateescape")).hexdigest()
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    for number in range(NAMES):
        name = f"\0GppShmPlugin-{digest}-{number}"
        try:
            claim.bind(name)
            claim.listen(1)
            break
        except OSError:
            pid, uid = _listener(name)
            if uid == os.getuid():
                claim.close()
                raise AlreadyRunning(pid) from None
    return claim


def _listener(name: str) -> "Tuple[int, int]":
    """Pid and user of the process that listens there; -1 for the user if nobody can be asked."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.setblocking(False)
        try:
            caller.connect(name)
            return relay.peer(caller)
        except OSError:
            return 0, -1


class Lifeline:
    """Waits for what ends the plugin, or wakes it: a signal, the parent's end, `wake`.

    parent  pid of the GPP: the parent at the start
    signal  the first of SIGTERM, SIGQUIT, SIGHUP, SIGINT that came, or 0; inherited as ignored, it stays so
    For the main thread.
    """

    def __init__(self) -> None:
        self.signal = 0
        self.parent = os.getppid()
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._read, select.POLLIN)
        self._pidfd: Optional[int] = None
        signal.set_wakeup_fd(self._write)
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._note)
        try:
            self._pidfd = kernel.pidfd_open(self.parent)
            self._poll.register(self._pidfd, select.POLLIN)
        except OSError:
            pass

    def _note(self, number: int, frame: object) -> None:
        self.signal = self.signal or number

    def wake(self) -> None:
        """Make `wait` return; from any thread."""
        try:
            os.write(self._write, b"\0")
        except BlockingIOError:
            pass

    @property
    def orphaned(self) -> bool:
        """Whether the GPP is gone.  Its pid alone would not tell: the kernel gives a new parent at once."""
        return os.getppid() != self.parent

    def wait(self, seconds: "Optional[float]" = None) -> None:
        """Sleep until something happens, at most so long; may return early."""
        if self._pidfd is None and not self.orphaned:
            seconds = PARENT_POLL if seconds is None else min(seconds, PARENT_POLL)
        self._poll.poll(None if seconds is None else seconds * 1000)
        try:
            os.read(self._read, 4096)
        except BlockingIOError:
            pass
        if self._pidfd is not None and self.orphaned:
            self._poll.unregister(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None
