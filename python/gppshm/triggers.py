"""Kernel events that a heap's creator may have died: inotify on the directory, and pidfds.

- IN_CLOSE_WRITE is raised when a process' last writable reference to a file is closed; also for a SIGKILLed
  process that only had a mapping; from any pid namespace, without privilege.
- A pidfd reports its process' end, also while peers hold the heap.
- Changes of single heaps (see `changes`): facts known about them may be outdated.

Each of them may be missing, and inotify may lose events, which `lost` reports.
"""

import errno
import os
import resource
import select
import time

from gppshm import changes, kernel, procfs, schedule, shmfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, Optional, Set

HEADROOM = 16
"""Descriptors that are never used for pidfds: judging and unlinking need some."""
GATHER = 0.25
"""Seconds to collect changes of files after the first one."""
SHORT = 0.002
"""Seconds; shorter waits are not rounded up."""
PIECE = 16384
"""Bytes of events that are read in one wait, in a millisecond: others wait meanwhile."""
MOST_BUFFERS = 64
"""Buffers of events read at once; further events count as lost."""

_EVENTS = kernel.IN_CLOSE_WRITE | kernel.IN_CREATE | kernel.IN_MOVED_TO
_GOING = kernel.IN_DELETE | kernel.IN_MOVED_FROM
_LOST = kernel.IN_Q_OVERFLOW | kernel.IN_IGNORED | kernel.IN_UNMOUNT


class Happened:
    """The events of one wait.

    closed    names that a writer closed, or that were renamed to, in order
    created   new names
    removed   name -> whether a writer closed it after its removal, as in a normal exit
    ended     names whose creators have ended, by their pidfds
    freed     names of single files that a writer closed, see `watch_closes`; without order
    overflow  events were dropped
    gone      the directory is not watched any more
    mounts    a file system was mounted or unmounted
    observer  the observer has an answer
    seconds   of processor time that reading the events took
    """

    __slots__ = (
        "closed",
        "created",
        "ended",
        "freed",
        "gone",
        "mounts",
        "observer",
        "overflow",
        "removed",
        "seconds",
    )

    def __init__(self) -> None:
        self.closed: Dict[str, None] = {}
        self.created: List[str] = []
        self.removed: Dict[str, bool] = {}
        self.ended: List[str] = []
        self.freed: List[str] = []
        self.overflow = False
        self.gone = False
        self.mounts = False
        self.observer = False
        self.seconds = 0.0

    @property
    def events(self) -> bool:
        return bool(self.closed or self.created or self.removed or self.freed)


class Triggers:
    """Waits for kernel events.

    pidfd_trouble  why creators are not watched by pidfds; "" if they are
    """

    def __init__(self) -> None:
        self.pidfd_trouble = ""
        self._pidfds: Dict[str, int] = {}
        self._names: Dict[int, str] = {}
        self._deaths: Optional[kernel.Inotify] = None
        self._changes: Optional[changes.Changes] = None
        # Closes of single files, for creators that no pidfd watches.
        self._closes: Optional[kernel.FileInotify] = None
        self._closing: Dict[str, int] = {}
        self._closed: Dict[int, str] = {}
        self._listening = self._polling_changes = False
        self._resume = 0.0
        self._observer = -1
        self._epoll = select.epoll()
        try:
            self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            self._epoll.close()
            raise
        self._epoll.register(self._wake_read, select.EPOLLIN)
        try:
            # It polls as exceptional after a mount or unmount in this namespace (proc(5)).
            self._mounts = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
            self._epoll.register(self._mounts, select.EPOLLPRI)
        except OSError:
            self._mounts = -1

    def close(self) -> None:
        for name in list(self._pidfds):
            self.unwatch(name)
        self.drop_inotify()
        self._epoll.close()
        for fd in (self._wake_read, self._wake_write, self._mounts):
            if fd >= 0:
                os.close(fd)

    @property
    def wake_fd(self) -> int:
        """A write to it makes `wait` return; never blocks."""
        return self._wake_write

    def wake(self) -> None:
        """Make `wait` return; from any thread and from a signal handler."""
        try:
            os.write(self._wake_write, b"x")
        except BlockingIOError:
            pass

    # -- inotify ---------------------------------------------------------------------------------------

    @property
    def inotify_works(self) -> bool:
        return self._deaths is not None

    def add_inotify(self, root: str) -> None:
        """Watch the directory, unless it is watched already.  Raises OSError."""
        if self._deaths is not None:
            return
        deaths = kernel.Inotify(root, _EVENTS | _GOING)
        try:
            self._epoll.register(deaths.fd, select.EPOLLIN)
            self._changes = changes.Changes(self._epoll)
        except OSError:
            deaths.close()
            raise
        self._deaths = deaths
        self._listening = True
        self._resume = 0.0
        self._poll_changes(True)

    def drop_inotify(self) -> None:
        """Stop watching; closing the descriptors removes them from epoll, too."""
        for each in (self._deaths, self._changes, self._closes):
            if each is not None:
                each.close()
        self._deaths = self._changes = self._closes = None
        self._closing, self._closed = {}, {}

    @property
    def listening(self) -> bool:
        """Whether `wait` returns for events of the directory."""
        return self._deaths is None or self._listening

    def listen(self, listen: bool) -> None:
        """Set whether `wait` returns for events of the directory; if not, they accumulate."""
        if self._deaths is not None and listen != self._listening:
            self._listening = listen
            self._epoll.modify(self._deaths.fd, select.EPOLLIN if listen else 0)

    def attend(self, name: str, fd: int, owner: int) -> bool:
        """See Changes.attend."""
        return self._changes is not None and self._changes.attend(name, fd, owner)

    def attends(self, name: str) -> bool:
        """Whether changes of the file by that name are reported."""
        return self._changes is not None and self._changes.attends(name)

    def neglect(self, name: str) -> None:
        """Report no more changes of the file by that name, and no more closes."""
        if self._changes is not None:
            self._changes.neglect(name)
        watch = self._closing.pop(name, -1)
        if self._closes is not None and self._closed.get(watch) == name:
            del self._closed[watch]
            self._closes.remove(watch)

    def changes(self, name: str = "") -> "Optional[Set[str]]":
        """See Changes.read; None if nothing is known: there is no inotify."""
        return None if self._changes is None else self._changes.read(name)

    def watch_closes(self, name: str, path: str) -> None:
        """Report that a writer closed the file at `path`, also while events of the directory are not read.

        Without it, if it is not possible, they are reported with those of the directory.
        """
        if self._deaths is None or name in self._closing:
            return
        try:
            if self._closes is None:
                closes = kernel.FileInotify()
                try:
                    self._epoll.register(closes.fd, select.EPOLLIN)
                except OSError:
                    closes.close()
                    raise
                self._closes = closes
            watch = self._closes.add(path, kernel.IN_CLOSE_WRITE)
        except OSError:
            return
        self._closing[name] = watch
        self._closed[watch] = name

    # -- pidfds ----------------------------------------------------------------------------------------

    @property
    def pidfds(self) -> int:
        return len(self._names)

    def watches(self, name: str) -> bool:
        """Whether a pidfd will report the end of that heap's creator."""
        return self._pidfds.get(name, -1) in self._names

    def has_ended(self, name: str) -> bool:
        """Whether the creator that a pidfd watches has ended; `wait` reports it, too."""
        poll = select.poll()
        poll.register(self._pidfds[name], select.POLLIN)
        return bool(poll.poll(0))

    def watch(self, name: str, pid: int, start: int, proc_root: str = "/proc") -> bool:
        """Report the end of a heap's creator: the process `pid` that started at `start`.

        False if no pidfd is available; `pidfd_trouble` says why.  ProcessLookupError if that process has
        ended.
        """
        fd = -1
        try:
            fd = kernel.pidfd_open(pid)
            if fd >= descriptor_limit() - HEADROOM:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            # The pid may have been reused before the pidfd was opened.
            if procfs.pulse(pid, proc_root)[0] != start:
                raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
            self._epoll.register(fd, select.EPOLLIN)
        except OSError as error:
            if fd >= 0:
                os.close(fd)
            self.pidfd_trouble = str(error.strerror)
            try:
                lives = procfs.pulse(pid, proc_root)[0] == start
            except OSError:
                return False
            if not lives:
                raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH)) from None
            if isinstance(error, ProcessLookupError):
                self.pidfd_trouble = f"{proc_root} belongs to another pid namespace"
            return False
        self.unwatch(name)
        self._pidfds[name], self._names[fd] = fd, name
        self.pidfd_trouble = ""
        return True

    def unwatch(self, name: str) -> None:
        """Stop watching the creator of that heap."""
        fd = self.release(name)
        if fd >= 0:
            os.close(fd)

    def release(self, name: str) -> int:
        """Stop watching that creator; returns its pidfd, or -1 if there is none."""
        fd = self._pidfds.pop(name, -1)
        if fd in self._names:
            del self._names[fd]
            self._epoll.unregister(fd)
        return fd

    # -- waiting ---------------------------------------------------------------------------------------

    def poll_also(self, fd: int, writing: bool) -> None:
        """Let `wait` return when the observer's descriptor is readable (or, if `writing`, writable)."""
        mask = select.EPOLLIN | (select.EPOLLOUT if writing else 0)
        if fd == self._observer:
            self._epoll.modify(fd, mask)
        else:
            self._epoll.register(fd, mask)
            self._observer = fd

    def also(self, fd: int) -> None:
        """Let `wait` return when that descriptor is readable."""
        self._epoll.register(fd, select.EPOLLIN)

    def wait(self, seconds: float) -> Happened:
        """The events, as soon as there are any, or after `seconds`.

        Of many changes only the first wakes; `resume` says when changes wake again.
        """
        happened = Happened()
        if 0 < seconds < SHORT:
            # epoll_wait() counts whole milliseconds.
            select.select([self._epoll.fileno()], [], [], seconds)
            seconds = 0.0
        ready = {fd for fd, _ in self._epoll.poll(seconds)}
        if self._wake_read in ready:
            try:
                os.read(self._wake_read, 4096)
            except BlockingIOError:
                pass
        happened.observer = self._observer in ready
        happened.mounts = self._mounts in ready
        if self._deaths is not None and self._deaths.fd in ready:
            started = schedule.processor_seconds()
            self.read_events(happened)
            happened.seconds = schedule.processor_seconds() - started
        if self._closes is not None and self._closes.fd in ready:
            events = self._closes.read()
            if events is not None:
                happened.overflow = happened.overflow or events.overflow
                happened.freed = [
                    self._closed[watch] for watch in events.changed | events.gone if watch in self._closed
                ]
        if self._changes is not None and self._polling_changes and not ready.isdisjoint(self._changes.fds()):
            self._poll_changes(False)
            self._resume = time.monotonic() + GATHER
        for fd in ready:
            name = self._names.pop(fd, None)
            if name is not None:
                self._epoll.unregister(fd)  # a pidfd stays readable
                happened.ended.append(name)
        return happened

    @property
    def resume(self) -> float:
        """When (monotonic) changes of files wake again; 0 if they do now."""
        return self._resume

    def poll_changes_again(self, now: float) -> bool:
        """Let changes wake again if it is time; whether it is."""
        if not self._resume or now < self._resume:
            return False
        self._resume = 0.0
        self._poll_changes(True)
        return True

    def _poll_changes(self, wanted: bool) -> None:
        self._polling_changes = wanted
        if self._changes is not None:
            self._changes.wake_by(select.EPOLLIN if wanted else 0)

    def skip(self) -> int:
        """Drop pending events of the directory, most or all of them; their bytes."""
        skipped = some = 0
        for _ in range(MOST_BUFFERS if self._deaths is not None else 0):
            some = self._deaths.skip() if self._deaths is not None else 0
            skipped += some
            if some < kernel.BUFFER // 2:
                break
        return skipped

    def read_events(self, happened: Happened, size: int = PIECE) -> None:
        """Read inotify events of the directory, as many as fit into `size` bytes."""
        for mask, name in self._deaths.read(size) if self._deaths is not None else ():
            if mask & _LOST:
                if mask & kernel.IN_Q_OVERFLOW:
                    happened.overflow = True
                else:
                    happened.gone = True
            elif mask & kernel.IN_CREATE:
                happened.created.append(name)
                happened.removed.pop(name, None)
            elif mask & _GOING:
                happened.removed[name] = False
            elif mask & kernel.IN_MOVED_TO and shmfs.living_name(name):
                pass  # a cleaner is unlinking it
            elif mask & kernel.IN_MOVED_TO:
                happened.closed[name] = None
                happened.removed.pop(name, None)
            else:
                happened.closed[name] = None
                if name in happened.removed:
                    happened.removed[name] = True


def raise_descriptor_limit() -> None:
    """Raise the soft limit of descriptors to the hard limit: each living creator takes one."""
    try:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        pass


def descriptor_limit() -> int:
    try:
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    except OSError:  # a seccomp filter forbids prlimit(2)
        return 1024
    return 1 << 30 if soft == resource.RLIM_INFINITY else soft
