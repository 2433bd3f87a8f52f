"""The process of plugin and device: what it inherits, for which GPP it runs, and when it must end."""

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
"""Names tried for the plugin's socket: other users may have taken some."""

_SIGNALS = (signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGINT)


def refuse(what: str, status: int) -> int:
    """Print one line on stderr; returns the exit status."""
    try:
        os.write(2, b"GppShmPlugin: " + plain(what).encode("ascii") + b"\n")
    except OSError:
        pass
    return status


class AlreadyRunning(Exception):
    """Another plugin, process `pid` (0: unknown), serves this GPP."""

    def __init__(self, pid: int) -> None:
        Exception.__init__(self, pid)
        self.pid = pid


def shed_inheritance(folder: str = "/") -> None:
    """Undo what the GPP passes on through execv (measured on REDHAWK 3.0.1).

    SIGCHLD is blocked, two descriptors of the GPP leak in (a signalfd, an epoll), and the working directory
    is a cache that may be removed; it is changed to `folder`.  All of Python's own descriptors are
    close-on-exec, so any other descriptor above stderr was inherited.
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
            # open() takes the lowest free number: a heap must not become stdout.
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
    """A descriptor that prevents an update from removing the files of this process (see `install`)."""
    folder = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        pass  # an update is running, or the file system has no locks
    return fd


def only_one(plugin_id: str) -> socket.socket:
    """A socket that makes this the only plugin with this id, until it is closed or this process ends.

    It is an abstract socket: the kernel releases its name with the last descriptor, and nothing stays in a
    file system.  Raises AlreadyRunning if a process of the same user has the name.  A name that another user
    has taken is skipped; if all NAMES are taken so, the plugin runs without one.

    Limit: this holds within one network namespace.
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
    """Pid and user id of the process that listens there; user -1 if it cannot be found out."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.setblocking(False)
        try:
            caller.connect(name)
            return relay.peer(caller)
        except OSError:
            return 0, -1


class Lifeline:
    """Waits for a signal, the end of the parent, or `wake`; for the main thread.

    parent  pid of the parent at the start, which is the GPP
    signal  the first of SIGTERM, SIGQUIT, SIGHUP, SIGINT received, or 0; ignored ones stay ignored
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
        """Make `wait` return.  Callable from any thread."""
        try:
            os.write(self._write, b"\0")
        except BlockingIOError:
            pass

    @property
    def orphaned(self) -> bool:
        """Whether the parent is gone: the kernel then gives this process another parent."""
        return os.getppid() != self.parent

    def wait(self, seconds: "Optional[float]" = None) -> None:
        """Sleep until something happens, at most `seconds`; may return early."""
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
