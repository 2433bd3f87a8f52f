"""What the device shows: one heap, and the file system."""

from gppshm import capacity, creator, procfs, shmfs, snapshot
from gppshm.roles import role

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional, Sequence

UNREADABLE = "unreadable"
STATES = (str(creator.ORPHANED), str(creator.ATTACHED), UNREADABLE, str(creator.UNKNOWN), str(creator.ALIVE))
"""Those that somebody may have to do something about come first."""

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
        # Sums of what the heap itself says, which may be anything.
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


class Usage:
    """The file system, in bytes.  What is used is `heaps`, `held` and `other`, and nothing else.

    heaps     of files that are heaps
    held      unlinked, but still mapped or open
    other     all else that is used: other files, and what cannot be seen
    age       seconds since it was seen what is held, and so what is other; all else is of now
    reserved  granted to waveforms by all devices of this host, used by them or not
    limit     what leaves the least to be granted (capacity.Room), where that is known
    inodes, free_inodes  how many files there can be (0: no limit), and how many more
    given_back, given_back_later, in_use  of removed heaps that processes are attached to; see events.Counts
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
        """Where what was seen at different moments does not fit together, what was seen last counts."""
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


def _as_long(pid: int) -> int:
    """A name may hold any number; what is no pid is none."""
    return pid if pid <= procfs.PID_MAX else 0
