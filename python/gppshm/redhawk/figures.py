"""What the device shows of the shared memory, looked at in a thread of its own.

A look at a thousand heaps may take a quarter of a second.  A query of the device must not: it gets the last.
"""

import errno
import functools
import grp
import os
import pwd
import select
import threading
import time

from gppshm import asking, capacity, creator, kernel, procfs, shmfs, snapshot
from gppshm.redhawk import logs, metrics, overview
from gppshm.redhawk.cleaning import Cleaning
from gppshm.roles import role

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Dict, List, Optional, Sequence, Tuple

_log = logs.logger("GppShmPlugin.figures")

TICK = 11.0
"""Seconds between looks at most; no divisor of the usual rescan: two looks at once hinder each other."""
INTERVAL = 0.5
"""Seconds between measurements at most as often, however much changes."""
PATIENCE = 0.02
"""Seconds that a query waits for a new look; where the last took longer it does not wait at all."""
SHARE = 5
"""A look is not followed by another on account of queries before so many times its duration."""
STALE = 3 * TICK
"""Seconds; an older look is not shown while a new one can be waited for."""

MOST = (1 << 64) - 1
"""What a CORBA ulonglong can hold."""


class HeapFigure:
    """One heap, as it was; sizes in bytes.

    state     creator.State, or "unreadable", and the sentence of `reason`
    attached  how many processes hold it, its living creator left out
    component, application  of the creator, "" where its command line does not tell (see roles)
    """

    __slots__ = (
        "application",
        "attached",
        "command",
        "component",
        "creator",
        "file_size",
        "group",
        "heap_size",
        "mode",
        "name",
        "reason",
        "refcount",
        "state",
        "superblocks",
        "used",
        "user",
    )

    def __init__(self, entry: snapshot.Entry, attached: int, command: str, words: "Sequence[str]") -> None:
        seen, heap, verdict = entry.sighting, entry.heap, entry.verdict
        header = seen.header
        self.name = seen.name
        self.creator = header.creator if header is not None else _as_long(seen.name_pid)
        self.state = str(verdict.state) if verdict is not None else overview.UNREADABLE
        self.reason = verdict.reason if verdict is not None else seen.error
        self.file_size = seen.status.st_size
        # Sums of what the heap itself says, which may be anything.
        self.heap_size = min(heap.heap_size, MOST) if heap is not None else 0
        self.used = min(heap.heap_used, MOST) if heap is not None else 0
        self.superblocks = heap.superblock_count if heap is not None else 0
        self.refcount = header.refcount if header is not None else 0
        self.attached = attached
        self.user = _user(seen.status.st_uid)
        self.group = _group(seen.status.st_gid)
        self.mode = f"{seen.status.st_mode & 0o777:o}"
        self.command = command
        self.component, self.application = role(words)


class Usage:
    """The file system, in bytes.  What is used is `heaps`, `held` and `other`, and nothing else.

    heaps     of files that are heaps
    held      unlinked, but still mapped or open
    other     all else that is used: other files, and what cannot be seen
    reserved  granted to waveforms by all devices of this host, used by them or not
    limit     what leaves the least to be granted (capacity.Room), where that is known
    inodes, free_inodes  how many files there can be (0: no limit), and how many more
    given_back, given_back_later, in_use  of removed heaps that processes are attached to; see events.Counts
    """

    __slots__ = (
        "free",
        "free_inodes",
        "given_back",
        "given_back_later",
        "heaps",
        "held",
        "in_use",
        "inodes",
        "limit",
        "other",
        "path",
        "reserved",
        "total",
    )

    def __init__(self, path: str, room: shmfs.Usage, heaps: int, held: int, reserved: int) -> None:
        self.path = path
        self.total = room.size
        self.free = room.free
        self.inodes, self.free_inodes = room.inodes, room.free_inodes
        self.limit = ""
        self.heaps = heaps
        self.held = held
        self.other = max(0, self.used - heaps - held)
        self.reserved = reserved
        self.given_back = self.given_back_later = self.in_use = 0

    @property
    def used(self) -> int:
        return self.total - self.free

    @property
    def free_percent(self) -> float:
        """0 where the file system has no size."""
        return 100.0 * self.free / self.total if self.total else 0.0

    def differs(self, other: "Optional[Usage]") -> bool:
        """Whether somebody who looks at it would see a difference: of a MB or more, of another limit."""
        if other is None or self.limit != other.limit or self.inodes != other.inodes:
            return True
        return any(
            abs(getattr(self, name) - getattr(other, name)) >= capacity.MB
            for name in (
                "total",
                "free",
                "heaps",
                "held",
                "other",
                "reserved",
                "given_back",
                "given_back_later",
                "in_use",
            )
        )


ROWS = 300
"""So many heaps are shown one by one, the worst first: a reply has to stay far below omniORB's 2 MB."""


class Figures(threading.Thread):
    """Looks at the heaps, and measures the file system when it may have changed.

    on_measure  called with the Usage after each measurement
    on_look     called with the worst ROWS heaps after each look, here; what it returns `heaps` gives
    census      of all heaps of the same look
    OSError if the directory cannot be opened.
    """

    def __init__(
        self,
        cleaning: Cleaning,
        reserved: "Callable[[], int]",
        on_measure: "Callable[[Usage], None]" = lambda usage: None,
        on_look: "Callable[[List[HeapFigure]], object]" = lambda heaps: heaps,
    ) -> None:
        super().__init__(name="figures", daemon=True)
        self._cleaning = cleaning
        self._reserved = reserved
        self._on_measure = on_measure
        self._on_look = on_look
        self._directory = shmfs.ShmDirectory(cleaning.root)
        self._gauge = metrics.Gauge(self._directory, cleaning.journal)
        self._heap_bytes: Dict[str, int] = {}
        self._held = 0
        self._shown: object = on_look([])
        self.census = overview.Census()
        self._looked = -STALE
        self._took = 0.0
        self._wanted = False
        self._changed = threading.Condition()
        self._stopped = False
        self._told = ""
        self._open = True
        self._descriptors = threading.Lock()
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._calm, self._poll = select.poll(), select.poll()
        for poll in (self._calm, self._poll):
            poll.register(self._read, select.POLLIN)
        self._inotify: Optional[kernel.Inotify] = None
        try:
            mask = kernel.IN_MODIFY | kernel.IN_DELETE | kernel.IN_CREATE | kernel.IN_MOVED_TO
            self._inotify = kernel.Inotify(cleaning.root, mask)
            self._poll.register(self._inotify.fd, select.POLLIN)
        except OSError:
            pass  # TICK has to do

    def usage(self) -> Usage:
        """Measured now; what the heaps and the unlinked files take, at the last look."""
        heaps = sum(self._heap_bytes.values())
        usage = Usage(self._cleaning.root, self.room(), heaps, self._held, self._reserved())
        counts = self._cleaning.watcher.counts
        usage.given_back, usage.given_back_later = counts.given_back, counts.given_back_later
        usage.in_use = counts.in_use
        return usage

    def room(self) -> shmfs.Usage:
        """Size and free space now; thread-safe.  OSError too if it has been stopped."""
        with self._descriptors:
            if not self._open:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            self._directory.follow()
            return self._directory.usage()

    def heaps(self) -> object:
        """What `on_look` made of the last look; of a new one where that takes little time."""
        with self._changed:
            now = time.monotonic()
            patience = PATIENCE if self._took < PATIENCE else 0.0
            if now - self._looked > STALE:
                patience = 1.0
            elif now - self._looked < SHARE * self._took:
                return self._shown
            self._wanted = True
            self.wake()
            if patience:
                self._changed.wait_for(lambda: self._looked >= now or self._stopped, patience)
            return self._shown

    def wake(self) -> None:
        """Something may have changed; from any thread, quick, raises nothing."""
        with self._descriptors:
            if self._open:
                try:
                    os.write(self._write, b"\0")
                except OSError:
                    pass

    def stop(self) -> None:
        """End, and give back every descriptor, as soon as what is being looked at has been."""
        self._stopped = True
        self.wake()
        if not self.is_alive():
            self._close()

    def run(self) -> None:
        try:
            self._run()
        finally:
            self._close()

    def _close(self) -> None:
        with self._descriptors:
            if self._open:
                self._open = False
                self._directory.close()
                if self._inotify is not None:
                    self._inotify.close()
                os.close(self._read)
                os.close(self._write)

    def _run(self) -> None:
        next_look = next_measurement = 0.0
        changed = True
        while not self._stopped:
            now = time.monotonic()
            try:
                if self._wanted or now >= next_look:
                    next_look = now + TICK
                    self._wanted, changed = False, True
                    self._look()
                if changed and now >= next_measurement:
                    next_measurement = now + INTERVAL
                    changed = False
                    self._heap_bytes = self._measure_heaps()
                    self._on_measure(self.usage())
                self._told = ""
            except Exception as error:  # out of descriptors, perhaps: what was seen last stays
                if self._told != str(error):
                    self._told = str(error)
                    _log.warning("the heaps could not be looked at: %s", error)
            changed = (
                self._wait(min(next_look, next_measurement) if changed else next_look, changed) or changed
            )

    def _wait(self, until: float, changed: bool) -> bool:
        """Sleep until then (monotonic), or `wake`, or a change if none is known yet; whether one came."""
        poll = self._calm if changed else self._poll
        ready = poll.poll(max(0.0, until - time.monotonic()) * 1000)
        for fd, _ in ready:
            try:
                os.read(fd, 65536)
            except BlockingIOError:
                pass
        return bool(ready)

    def _measure_heaps(self) -> "Dict[str, int]":
        """What each heap takes now: those named so, and those that the last look found."""
        found = {}
        for name in self._directory.names():
            if name in self._heap_bytes or shmfs.pid_of_name(name):
                try:
                    status = os.stat(name, dir_fd=self._directory.fd, follow_symlinks=False)
                except OSError:
                    continue
                found[name] = status.st_blocks * 512
        return found

    def _look(self) -> None:
        started = time.monotonic()
        holders: Dict[Tuple[int, int], List[int]] = {}

        def judge(seen: "List[shmfs.Sighting]") -> "List[creator.Verdict]":
            verdicts, mapping = asking.judge_and_map(seen)
            holders.update(mapping)
            return verdicts

        shot = snapshot.take(self._directory, brief=True, judge=judge)
        entries = [entry for entry in shot.entries if _is_heap(entry)]
        found = overview.worst_first([self._figure(entry, holders) for entry in entries])
        shown = self._on_look(found[:ROWS])
        self._heap_bytes = {entry.sighting.name: entry.sighting.status.st_blocks * 512 for entry in entries}
        state = self._gauge.measure(self._cleaning.living(), True)
        self._held = sum(file.bytes for file in state.held)
        with self._changed:
            self._shown, self._looked, self.census = shown, started, overview.Census(found)
            self._took = time.monotonic() - started
            self._changed.notify_all()

    def _figure(self, entry: snapshot.Entry, holders: "Dict[Tuple[int, int], List[int]]") -> HeapFigure:
        seen = entry.sighting
        who = self._cleaning.watcher.description(seen.name, seen.file_id)
        living = entry.verdict.creator if entry.verdict is not None else 0
        attached = [pid for pid in holders.get(seen.file_id, ()) if pid != living]
        if entry.verdict is not None and entry.verdict.attached:
            attached = list(entry.verdict.attached)
        return HeapFigure(entry, len(attached), who.command, who.words)


def _is_heap(entry: snapshot.Entry) -> bool:
    seen = entry.sighting
    return entry.verdict is not None or (seen.kind is shmfs.UNREADABLE and bool(seen.name_pid))


def _as_long(pid: int) -> int:
    """A name may hold any number; what is no pid is none."""
    return pid if pid <= procfs.PID_MAX else 0


@functools.lru_cache(1024)
def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


@functools.lru_cache(1024)
def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
