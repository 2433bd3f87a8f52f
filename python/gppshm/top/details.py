"""One heap in detail: blocks, superblocks, locks, holders and faults; collected in a thread of its own."""

import threading
import time

from gppshm import asking, locks, shmfs, snapshot
from gppshm.cli import shminfo_blocks
from gppshm.top.state import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Dict, List, Optional, Sequence, Tuple

INTERVAL = 1.0
SHARE = 10
"""Pause between inspections, as a multiple of the last one's duration: a heap may have a million blocks."""
CELLS = 64
"""Cells of the largest of many superblocks; few superblocks get more (shminfo_blocks)."""
SUPERBLOCKS = 1000
"""Superblocks that are drawn individually; the sums include all."""
MOST = 100
"""Holders, and taken locks, that are listed individually."""


class Superblock:
    """number from 1 on, offset, the kind of each cell, the Tally, and the lock."""

    __slots__ = ("cells", "lock", "number", "offset", "tally")

    def __init__(
        self,
        number: int,
        offset: int,
        cells: "Sequence[int]",
        tally: shminfo_blocks.Tally,
        lock: "Optional[locks.Lock]",
    ) -> None:
        self.number = number
        self.offset = offset
        self.cells = cells
        self.tally = tally
        self.lock = lock


class Details:
    """What is known of one heap; texts as `shown`.

    error    why nothing, or less, is known; "" if nothing is missing
    cell     bytes per cell
    holders  (pid, how it holds the heap, command); unseen: number of processes that could not be inspected
    """

    def __init__(self, name: str) -> None:
        self.name = shown(name)
        self.error = ""
        self.header: List[Tuple[str, str]] = []
        self.cell = 0
        self.superblocks: List[Superblock] = []
        self.superblock_count = 0
        self.total = shminfo_blocks.Tally()
        self.locks_taken: List[locks.Lock] = []
        self.more_locks = 0
        self.holders: List[Tuple[int, str, str]] = []
        self.unseen = 0
        self.faults: List[str] = []


def inspect(directory: shmfs.ShmDirectory, name: str, descriptions: "Dict[int, str]") -> Details:
    """The details of one heap, whatever is wrong with it; OSError if the directory cannot be read."""
    details = Details(name)
    shot = snapshot.take(directory, [name], check=True, judge=asking.judge)
    if not shot.entries:
        details.error = "it is not there any more"
        return details
    entry = shot.entries[0]
    details.error = shown(entry.error)
    status, header, heap = entry.sighting.status, entry.sighting.header, entry.heap
    details.header = [
        ("file", f"{status.st_size} bytes, {status.st_blocks * 512} allocated, inode {status.st_ino}")
    ]
    if header is not None:
        details.header.append(("refcount", str(header.refcount)))
    held_locks = _locks(directory.root, name)
    taken = [lock for lock in held_locks if lock.state is not locks.FREE]
    details.locks_taken, details.more_locks = taken[:MOST], len(taken[MOST:])
    if heap is not None:
        details.faults = [f"at {fault.offset}: {shown(fault.what)}" for fault in heap.faults]
        if not details.error:
            _draw_blocks(directory, entry, held_locks, details)
    _add_holders(directory, entry, descriptions, details)
    return details


def _locks(root: str, name: str) -> "List[locks.Lock]":
    """None if processes cannot be inspected."""
    try:
        return [
            locks.Lock.of(each)
            for each in asking.shared.call("gppshm.locks:plain", [root, name], asking.INSPECTION)
        ]
    except OSError:
        return []


def _draw_blocks(
    directory: shmfs.ShmDirectory, entry: snapshot.Entry, held_locks: "List[locks.Lock]", details: Details
) -> None:
    assert entry.heap is not None
    details.cell = shminfo_blocks.cell_size(entry.heap.superblocks, CELLS)
    try:
        with directory.open(entry.sighting.name) as file:
            if file.fd is None or file.sighting.file_id != entry.sighting.file_id:
                details.error = "it was replaced while it was read"
                return
            file.release()
            pictures = shminfo_blocks.pictures(file.fd, entry, details.cell)
            for number, (superblock, cells, tally) in enumerate(pictures):
                lock = held_locks[number] if number < len(held_locks) else None
                details.superblock_count = number + 1
                if number < SUPERBLOCKS:
                    details.superblocks.append(Superblock(number + 1, superblock.offset, cells, tally, lock))
                details.total.add(tally)
    except OSError as error:
        details.error = f"it could not be read again: {error.strerror}"


def _add_holders(
    directory: shmfs.ShmDirectory, entry: snapshot.Entry, descriptions: "Dict[int, str]", details: Details
) -> None:
    try:
        survey = asking.survey(directory.root)
    except OSError:
        return
    details.unseen = len(survey.unseen)
    holders = survey.holders.get(entry.sighting.file_id, [])[:MOST]
    fresh = [holder.pid for holder in holders if holder.pid not in descriptions]
    for pid, (user, command) in asking.describe(fresh).items():
        descriptions[pid] = shown(f"{user}  {command}")
    for holder in holders:
        ways = [f"maps {holder.mapped} bytes"] if holder.mapped else []
        if holder.descriptors:
            ways.append(f"has it open {holder.descriptors}x")
        if entry.verdict is not None and holder.pid == entry.verdict.creator:
            ways.append("its creator")
        details.holders.append((holder.pid, ", ".join(ways), descriptions[holder.pid]))


class Inspector(threading.Thread):
    """Inspects the heap chosen by `show` again and again; `details` is the newest result.

    on_change  called after each inspection, in this thread
    """

    def __init__(self, root: str, on_change: "Callable[[], None]") -> None:
        super().__init__(name="inspector", daemon=True)
        self._root = root
        self._on_change = on_change
        self._name: Optional[str] = None
        self._details: Optional[Details] = None
        self._wanted = threading.Event()

    def show(self, name: "Optional[str]") -> None:
        """Choose a heap; None: none."""
        self._name, self._details = name, None
        self._wanted.set()

    @property
    def details(self) -> "Optional[Details]":
        return self._details

    def run(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            descriptions: Dict[int, str] = {}
            while self._name is not None and not self._wanted.is_set():
                name, started = self._name, time.monotonic()
                details = self._inspect(name, descriptions)
                if self._name == name:
                    gone = self._details if not details.header and self._details is not None else None
                    if gone is not None:  # keep the last result
                        gone.error, details = details.error, gone
                    self._details = details
                    self._on_change()
                took = time.monotonic() - started
                self._wanted.wait(max(INTERVAL, SHARE * took) - took)

    def _inspect(self, name: str, descriptions: "Dict[int, str]") -> Details:
        try:
            with shmfs.ShmDirectory(self._root) as directory:
                return inspect(directory, name, descriptions)
        except Exception as error:
            details = Details(name)
            details.error = shown(f"it could not be inspected: {error}")
            return details
