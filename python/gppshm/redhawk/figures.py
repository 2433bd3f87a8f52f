"""The figures that the device shows: heaps, and memory of the file system.

A scan reads every heap and finds its holders; with thousands of processes it takes a second.  A thread makes
it, on a query, or when unlinked memory may have become held.  An idle device makes none.  A query waits for
the scan if it takes less than `PATIENCE`.  Otherwise it gets the last scan with its age, corrected by what
can be read at once: which files exist, their sizes, and what the engine knows of their creators.
"""

import errno
import os
import select
import threading
import time

from gppshm import asking, creator, held, kernel, shmfs, snapshot
from gppshm.redhawk import logs, overview
from gppshm.redhawk.cleaning import Cleaning
from gppshm.redhawk.shown import HeapFigure, Usage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

_log = logs.logger("GppShmPlugin.figures")

TICK = 11.0
"""Seconds between measurements at most."""
INTERVAL = 0.5
"""Seconds between measurements at least, however much changes."""
FRESH = 0.1
"""Seconds; a scan up to this age is shown with age 0."""
PATIENCE = 0.1
"""Seconds that a query waits for a scan; it does not wait if the last scan took longer."""
STALE = 30.0
"""Seconds; if the last scan is older, a query waits SECOND_PATIENCE for a new one."""
SECOND_PATIENCE = 1.0
SHARE = 5
"""Queries cause the next scan only after this many times the duration of the last."""
UNASKED = 20
"""The same for events."""
SAME = 0.02
"""Seconds for which a listing of the directory is used again."""
READING = 0.05
"""Seconds that a query may spend reading heaps that the last scan did not see."""

NOT_YET = creator.Verdict(creator.UNKNOWN, "it is new: its creator has not been inspected yet")


class Listing:
    """The files of the directory at one moment.

    files    name -> status, without folders
    visible  bytes of all files, those in folders included; -1 if there are more than held.FILES
    """

    __slots__ = ("files", "moment", "visible")

    def __init__(self, directory: shmfs.ShmDirectory) -> None:
        self.moment = time.monotonic()
        self.files: Dict[str, os.stat_result] = {}
        folders = []
        names = directory.names()
        for name in names:
            try:
                status = os.stat(name, dir_fd=directory.fd, follow_symlinks=False)
            except OSError:
                continue
            if status.st_mode & 0o170000 == 0o040000:
                folders.append(os.path.join(directory.root, name))
            else:
                self.files[name] = status
        each = {status.st_ino: status.st_blocks * 512 for status in self.files.values()}
        below = held.add_files(folders, each, held.FILES - len(names))
        self.visible = sum(each.values()) if below else -1


class _Scan:
    """The result of a scan.  Later listings correct `rows` and `others` (files that are no heaps)."""

    def __init__(self, began: float) -> None:
        self.began = began
        self.took = 0.0
        self.held = 0
        self.rows: Dict[str, HeapFigure] = {}
        self.others: Dict[str, shmfs.Identity] = {}


ROWS = 300
"""Heaps shown one by one, worst first: a reply must stay far below omniORB's limit of 2 MB."""


class Figures(threading.Thread):
    """Scans the heaps, and measures the file system when it may have changed.

    on_measure  called with the Usage after each measurement
    census      Census of all heaps at the last query
    Raises OSError if the directory cannot be opened.
    """

    def __init__(
        self,
        cleaning: Cleaning,
        reserved: "Callable[[], int]",
        on_measure: "Callable[[Usage], None]" = lambda usage: None,
    ) -> None:
        super().__init__(name="figures", daemon=True)
        self._cleaning = cleaning
        self._reserved = reserved
        self._on_measure = on_measure
        self._directory = shmfs.ShmDirectory(cleaning.root)
        self.census = overview.Census()
        self._scanned = _Scan(time.monotonic() - STALE)
        self._shown: Tuple[object, object, List[HeapFigure]] = (None, None, [])
        self._shown_states: List[Tuple[Any, ...]] = []
        self._listing: Optional[Listing] = None
        self._held_up = cleaning.journal.held_up
        self._wanted = True
        self._last_measured = 0.0
        self._changed = threading.Condition()
        self._stopped = False
        self._last_error = ""
        self._open = True
        self._descriptors = threading.Lock()
        # Guards what queries read; `wake` never takes it.
        self._reading = threading.RLock()
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
            pass  # without inotify it measures every TICK

    # -- queries ---------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Request a scan if the last is not fresh, and wait for it if it is quick."""
        with self._changed:
            now = time.monotonic()
            last = self._scanned
            age = now - last.began
            if age < FRESH or age < SHARE * last.took or self._stopped:
                return
            patience = SECOND_PATIENCE if age > STALE else PATIENCE if last.took < PATIENCE else 0.0
            self._wanted = True
            self.wake()
            if patience:
                self._changed.wait_for(lambda: self._scanned.began >= now or self._stopped, patience)

    def age(self) -> float:
        """Seconds since the start of the last scan; 0 if it is fresh."""
        return _shown_age(time.monotonic() - self._scanned.began)

    def heaps(self) -> "Tuple[List[HeapFigure], float]":
        """The ROWS worst heaps, and the age of the scan in seconds.

        Names and sizes are current.  The list is the same object if nothing has changed.  Raises OSError.
        """
        self.refresh()
        with self._reading:
            scan = self._scanned
            listing = self._list()
            if self._shown[:2] != (scan, listing):
                rows = overview.worst_first(self._rows(scan, listing))
                self.census = overview.Census(rows)
                rows = rows[:ROWS]
                states = [row.changing for row in rows]  # the rows themselves are changed in place
                if self._shown[0] is scan and states == self._shown_states:
                    rows = self._shown[2]
                self._shown, self._shown_states = (scan, listing, rows), states
            return self._shown[2], _shown_age(time.monotonic() - scan.began)

    def usage(self) -> Usage:
        """The current Usage; `held` is from the last scan.  Raises OSError."""
        with self._reading:
            scan, listing, room = self._scanned, self._list(), self.room()
            heaps = sum(
                status.st_blocks * 512
                for name, status in listing.files.items()
                if name in scan.rows or shmfs.pid_of_name(name)
            )
        held, age = scan.held, _shown_age(time.monotonic() - scan.began)
        if room.size and listing.visible >= 0:
            hidden = max(0, room.size - room.free - listing.visible)
            held, age = min(held, hidden), age if hidden else 0.0
        usage = Usage(self._cleaning.root, room, heaps, held, self._reserved(), age)
        counts = self._cleaning.watcher.counts
        usage.given_back, usage.given_back_later = counts.given_back, counts.given_back_later
        usage.in_use = counts.in_use
        return usage

    def room(self) -> shmfs.Usage:
        """Current size and free space; thread-safe.  Raises OSError, also after `stop`."""
        with self._descriptors:
            self._must_be_open()
            self._directory.follow()
            return self._directory.usage()

    def _must_be_open(self) -> None:
        if not self._open:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    def _list(self) -> Listing:
        with self._reading:
            self._must_be_open()
            if self._listing is None or time.monotonic() - self._listing.moment > SAME:
                self._listing = Listing(self._directory)
            return self._listing

    # -- corrections -----------------------------------------------------------------------------------------

    def _rows(self, scan: _Scan, listing: Listing) -> "List[HeapFigure]":
        """All heaps that exist now: from the scan, or read now."""
        for name in [name for name in scan.rows if name not in listing.files]:
            del scan.rows[name]
        new = []
        for name, status in listing.files.items():
            file_id = status.st_dev, status.st_ino
            row = scan.rows.get(name)
            if row is not None and row.file_id == file_id:
                row.file_size = status.st_size
            elif scan.others.get(name) != shmfs.identity_of(status):
                new.append(name)
        if new:
            self._read_new(scan, new)
        orphans = {orphan.name: orphan for orphan in self._cleaning.journal.orphans(self._cleaning.living())}
        for row in scan.rows.values():
            orphan = orphans.get(row.name)
            if orphan is not None and orphan.file_id == row.file_id:
                row.state = str(creator.ATTACHED if orphan.attached else creator.ORPHANED)
                row.reason, row.attached = orphan.reason, len(orphan.attached)
            elif row.state != creator.ALIVE:
                verdict = self._known_verdict(row.name, row.file_id)
                if verdict.state is creator.ALIVE:
                    row.state, row.reason = str(verdict.state), verdict.reason
        return list(scan.rows.values())

    def _read_new(self, scan: _Scan, names: "List[str]") -> None:
        """Add rows for files that the scan did not see, without inspecting any process."""
        end = time.monotonic() + READING
        while names and time.monotonic() < end:
            chunk, names = names[:50], names[50:]
            shot = snapshot.take(self._directory, chunk, brief=True, judge=self._known_verdicts)
            for entry in shot.entries:
                self._add(scan, entry, 0, 0.0)
        for name in names:
            if shmfs.pid_of_name(name):
                try:
                    status = os.stat(name, dir_fd=self._directory.fd, follow_symlinks=False)
                except OSError:
                    continue
                entry = snapshot.Entry(shmfs.Sighting(name, shmfs.HEAP, status))
                entry.verdict = self._known_verdict(name, entry.sighting.file_id)
                self._add(scan, entry, 0, 0.0)

    def _known_verdicts(self, seen: "List[shmfs.Sighting]") -> "List[creator.Verdict]":
        return [self._known_verdict(each.name, each.file_id) for each in seen]

    def _known_verdict(self, name: str, file_id: "Tuple[int, int]") -> creator.Verdict:
        """The verdict that the engine has, without inspecting any process."""
        pid = self._cleaning.watcher.living_creator(name, file_id)
        if not pid:
            return NOT_YET
        return creator.Verdict(creator.ALIVE, f"its creator, process {pid}, lives", creator.PIDS, pid)

    def _add(self, scan: _Scan, entry: snapshot.Entry, attached: int, patience: float) -> None:
        """Add a row if the file is a heap; otherwise remember it in `others`.

        patience  seconds to wait for the name of a user or group
        """
        seen = entry.sighting
        if entry.verdict is None and not (seen.kind is shmfs.UNREADABLE and seen.name_pid):
            if not seen.name_pid:  # otherwise its creator may be writing the header through its mapping
                scan.others[seen.name] = seen.identity
            return
        who = self._cleaning.watcher.description(seen.name, seen.file_id)
        user = asking.names.user(seen.status.st_uid, patience)
        group = asking.names.group(seen.status.st_gid, patience)
        scan.rows[seen.name] = HeapFigure(entry, attached, who.command, who.arguments, user, group)

    # -- the thread ------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Report a possible change.  Callable from any thread; never waits, never raises."""
        with self._descriptors:
            if self._open:
                try:
                    os.write(self._write, b"\0")
                except OSError:
                    pass

    def stop(self) -> None:
        """End the thread and close all descriptors, after a running scan."""
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
        with self._reading, self._descriptors:
            if self._open:
                self._open = False
                self._directory.close()
                if self._inotify is not None:
                    self._inotify.close()
                os.close(self._read)
                os.close(self._write)

    def _run(self) -> None:
        next_measurement = 0.0
        changed = True
        while not self._stopped:
            now = time.monotonic()
            try:
                if self._wanted or now >= self._unasked():
                    self._wanted, changed = False, True
                    self._scan()
                    next_measurement = min(next_measurement, now + INTERVAL)
                if now >= next_measurement and (changed or now >= self._last_measured + TICK):
                    next_measurement, self._last_measured = now + INTERVAL, now
                    changed = False
                    self._on_measure(self.usage())
                self._last_error = ""
            except Exception as error:  # for example out of descriptors; the last scan stays
                if self._last_error != str(error):
                    self._last_error = str(error)
                    _log.warning("the heaps could not be scanned: %s", error)
            until = next_measurement if changed else self._last_measured + TICK
            changed = self._wait(min(until, self._unasked()), changed) or changed

    def _unasked(self) -> float:
        """When (monotonic) to scan without a query, after memory was left with its holders; else infinity."""
        if self._held_up == self._cleaning.journal.held_up:
            return float("inf")
        return self._scanned.began + max(INTERVAL, UNASKED * self._scanned.took)

    def _wait(self, until: float, changed: bool) -> bool:
        """Sleep until `until` (monotonic) or `wake`, or, unless `changed`, a change; True if woken."""
        poll = self._calm if changed else self._poll
        ready = poll.poll(max(0.0, until - time.monotonic()) * 1000)
        for fd, _ in ready:
            try:
                os.read(fd, 65536)
            except BlockingIOError:
                pass
        return bool(ready)

    def _scan(self) -> None:
        held_up = self._cleaning.journal.held_up
        scan = _Scan(time.monotonic())
        with self._reading:
            room, listing = self.room(), self._list()
        # If files with a name account for all used memory, nothing is held.
        hidden = not room.size or listing.visible < room.size - room.free
        mapping: Dict[Tuple[int, int], List[int]] = {}
        if hidden:
            survey = asking.survey(self._cleaning.root)
            scan.held = sum(file.size for file in survey.unlinked)
            for file_id, holders in survey.holders.items():
                mapping[file_id] = [holder.pid for holder in holders if holder.mapped]

        def judge(seen: "List[shmfs.Sighting]") -> "Sequence[creator.Verdict]":
            if hidden:
                return asking.judge(seen)
            verdicts, found = asking.judge_and_map(seen)
            mapping.update(found)
            return verdicts

        shot = snapshot.take(self._directory, brief=True, judge=judge)
        for entry in shot.entries:
            living = entry.verdict.creator if entry.verdict is not None else 0
            attached = [pid for pid in mapping.get(entry.sighting.file_id, ()) if pid != living]
            if entry.verdict is not None and entry.verdict.attached:
                attached = list(entry.verdict.attached)
            self._add(scan, entry, len(attached), asking.PATIENCE)
        with self._reading, self._changed:
            scan.took = time.monotonic() - scan.began
            self._scanned, self._held_up = scan, held_up
            self._changed.notify_all()


def _shown_age(age: float) -> float:
    return 0.0 if age < FRESH else round(age, 1)
