"""The state of the directory, scanned once, for everything that shows it."""

import errno

from gppshm import creator, heapfile, procfs, shmfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Dict, Iterable, List, Optional, Sequence


NO_HEADER = "invalid superblock file (no header)"
WRONG_VERSION = "incompatible superblock file (version mismatch)"


class Entry:
    """One file of the directory.

    heap      the contents, for a HEAP; else None
    verdict   on the creator, for a HEAP or a HALF_MADE one; else None
    """

    __slots__ = ("heap", "sighting", "verdict")

    def __init__(self, sighting: shmfs.Sighting, heap: "Optional[heapfile.Heap]" = None) -> None:
        self.sighting = sighting
        self.heap = heap
        self.verdict: Optional[creator.Verdict] = None

    @property
    def is_heap(self) -> bool:
        """Whether it is a heap, half-made or whole, or unreadable under the name of one."""
        kind = self.sighting.kind
        if kind is shmfs.UNREADABLE:
            return bool(self.sighting.name_pid)
        return kind is shmfs.HEAP or kind is shmfs.HALF_MADE

    @property
    def error(self) -> str:
        """Why the contents cannot be shown; "" if they can, or if it is no heap."""
        sighting, heap = self.sighting, self.heap
        if sighting.kind is shmfs.UNREADABLE:
            return f"cannot be read: {sighting.error}"
        if sighting.kind is shmfs.HALF_MADE and sighting.header is None:
            return f"half-made heap: {self.verdict.reason if self.verdict else 'no whole header'}"
        if sighting.header is None:
            return ""
        if heap is None or sighting.status.st_size < heap.page_size:
            return NO_HEADER
        return WRONG_VERSION if sighting.header.version != heapfile.VERSION else ""

    @property
    def orphaned(self) -> "Optional[bool]":
        """Whether the creator is proven dead; None if there is no proof either way."""
        if self.verdict is None:
            return None
        if self.verdict.state in creator.ORPHANS:
            return True
        return False if self.verdict.state is creator.ALIVE else None


class Snapshot:
    """The state of the directory: usage, files (in readdir order) and verdicts.

    missing    requested names that do not exist
    processes  the procfs.Processes behind the verdicts; made after every sighting
    """

    __slots__ = ("entries", "missing", "processes", "root", "usage")

    def __init__(
        self,
        root: str,
        usage: shmfs.Usage,
        entries: "List[Entry]",
        missing: "List[str]",
        processes: procfs.Processes,
    ) -> None:
        self.root = root
        self.usage = usage
        self.entries = entries
        self.missing = missing
        self.processes = processes


def take(
    directory: shmfs.ShmDirectory,
    names: "Optional[Iterable[str]]" = None,
    proc_root: str = "/proc",
    check: bool = False,
    brief: bool = False,
    known: "Callable[[shmfs.Sighting], Optional[creator.Verdict]]" = lambda sighting: None,
    judge: "Optional[Callable[[List[shmfs.Sighting]], Sequence[creator.Verdict]]]" = None,
) -> Snapshot:
    """Inspect all files of the directory, or those of `names`, and judge the heaps.

    check  include faults of blocks and free lists
    brief  for heaps without faults, read only the sums (heapfile.Sum), which takes half the time
    known  returns a verdict that is known to be still valid, or None
    judge  gives all other verdicts, if processes are to be inspected elsewhere
    A damaged heap becomes an entry with faults, an unreadable file one with an error.  OSError only if the
    directory cannot be read.
    """
    usage = directory.usage()
    entries = []
    missing = []
    linked: Dict[shmfs.FileId, Optional[heapfile.Heap]] = {}
    for name in directory.names() if names is None else names:
        procfs.may_read(0)  # the following reads inspect no process
        try:
            with directory.open(name) as file:
                file_id = file.sighting.file_id
                try:
                    # A file with several names is read once: it may be as large as memory.
                    heap = linked[file_id] if file_id in linked else _read(file, check, brief)
                    if file.sighting.status.st_nlink > 1:
                        linked[file_id] = heap
                except OSError as error:
                    heap = None
                    file.sighting.kind, file.sighting.error = shmfs.UNREADABLE, str(error.strerror)
                entries.append(Entry(file.sighting, heap))
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENAMETOOLONG):
                raise
            missing.append(name)
    processes = procfs.Processes(proc_root)
    heaps = [entry for entry in entries if entry.sighting.kind in (shmfs.HEAP, shmfs.HALF_MADE)]
    for entry in heaps:
        entry.verdict = known(entry.sighting)
    heaps = [entry for entry in heaps if entry.verdict is None]
    if judge is not None:
        for entry, verdict in zip(heaps, judge([entry.sighting for entry in heaps]) if heaps else ()):
            entry.verdict = verdict
    else:
        for entry in heaps:
            entry.verdict = creator.judge(entry.sighting, processes)
    return Snapshot(directory.root, usage, entries, missing, processes)


def _read(file: shmfs.OpenFile, check: bool, brief: bool) -> "Optional[heapfile.Heap]":
    if file.fd is None or file.sighting.kind is not shmfs.HEAP:
        return None
    file.release()
    size = file.sighting.status.st_size
    if brief and file.sighting.header is not None:
        sums = heapfile.read_sum(file.fd, file.sighting.header, size)
        if sums is not None:
            return sums
    heap = heapfile.read_heap(file.fd, size)
    if check:
        from gppshm import heapcheck

        heap.faults = list(heap.faults) + heapcheck.check(file.fd, heap)
        if heap.faults:
            # A living heap changes while it is read: only faults of both readings count.
            again = heapfile.read_heap(file.fd, size)
            again.faults = list(again.faults) + heapcheck.check(file.fd, again)
            first = {(fault.offset, fault.what) for fault in heap.faults}
            again.faults = [fault for fault in again.faults if (fault.offset, fault.what) in first]
            heap = again
    return heap
