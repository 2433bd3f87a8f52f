"""The values that the device shows: of one heap, and of the file system."""

from gppshm import capacity, creator, procfs, shmfs, snapshot
from gppshm.roles import role

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional, Sequence, Tuple

UNREADABLE = "unreadable"
STATES = (str(creator.ORPHANED), str(creator.ATTACHED), UNREADABLE, str(creator.UNKNOWN), str(creator.ALIVE))
"""Ordered by need for action."""

MOST = (1 << 64) - 1
"""The largest CORBA ulonglong."""


class HeapFigure:
    """One heap at the moment of its scan; sizes in bytes.

    state     creator.State or "unreadable"; `reason`: the sentence for it
    attached  number of processes that hold it, without a living creator
    component, application  of the creator; "" if its command line does not name them (see roles)
    """

    __slots__ = (
        "application",
        "attached",
        "command",
        "component",
        "creator",
        "file_id",
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

    def __init__(
        self,
        entry: snapshot.Entry,
        attached: int,
        command: str,
        words: "Sequence[str]",
        user: str,
        group: str,
    ) -> None:
        seen, heap, verdict = entry.sighting, entry.heap, entry.verdict
        header = seen.header
        self.name = seen.name
        self.file_id = seen.file_id
        self.creator = header.creator if header is not None else _as_long(seen.name_pid)
        self.state = str(verdict.state) if verdict is not None else UNREADABLE
        self.reason = verdict.reason if verdict is not None else seen.error
        self.file_size = seen.status.st_size
        # These are sums of fields of the heap, which may hold any number.
        self.heap_size = min(heap.heap_size, MOST) if heap is not None else 0
        self.used = min(heap.heap_used, MOST) if heap is not None else 0
        self.superblocks = heap.superblock_count if heap is not None else 0
        self.refcount = header.refcount if header is not None else 0
        self.attached = attached
        self.user = user
        self.group = group
        self.mode = f"{seen.status.st_mode & 0o777:o}"
        self.command = command
        self.component, self.application = role(words)

    @property
    def changing(self) -> "Tuple[str, Tuple[int, int], str, str, int, int]":
        """What may change after the scan."""
        return self.name, self.file_id, self.state, self.reason, self.file_size, self.attached


class Usage:
    """Usage of the file system in bytes.  Used memory is the sum of `heaps`, `held` and `other`.

    heaps     files that are heaps
    held      unlinked files that are still mapped or open
    other     everything else: other files, and what cannot be seen
    age       seconds since `held` and `other` were measured; everything else is current
    reserved  granted to waveforms by all devices of this host, whether they use it or not
    limit     what limits the available capacity (capacity.Room), if known
    inodes, free_inodes  maximum number of files (0: no limit), and how many more can be made
    given_back, given_back_later, in_use  of removed heaps with attached processes; see events.Counts
    """

    __slots__ = (
        "age",
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

    def __init__(
        self, path: str, room: shmfs.Usage, heaps: int, held: int, reserved: int, age: float = 0.0
    ) -> None:
        """If values measured at different moments contradict each other, the newest counts."""
        self.path = path
        self.total = room.size
        self.free = room.free
        self.inodes, self.free_inodes = room.inodes, room.free_inodes
        self.limit = ""
        if self.total:
            heaps = min(heaps, self.used)
            held = min(held, self.used - heaps)
        self.heaps = heaps
        self.held = held
        self.other = max(0, self.used - heaps - held)
        self.age = age
        self.reserved = reserved
        self.given_back = self.given_back_later = self.in_use = 0

    @property
    def used(self) -> int:
        return self.total - self.free

    @property
    def free_percent(self) -> float:
        """Percent of free memory; 0 if the file system has no size."""
        return 100.0 * self.free / self.total if self.total else 0.0

    def differs(self, other: "Optional[Usage]") -> bool:
        """Whether a value that is shown differs: by at least 1 MB, or `limit`."""
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


def _as_long(pid: int) -> int:
    """The pid if it is possible, else 0: the number in a name may be anything."""
    return pid if pid <= procfs.PID_MAX else 0
