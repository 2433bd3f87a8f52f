"""The state of the shared memory for the display: plain data, made by the scanner, never changed."""

import functools
import time

from gppshm import creator, snapshot
from gppshm.cli import text
from gppshm.roles import role

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Optional, Sequence, Tuple

    from gppshm import processes, shmfs

UNREADABLE = creator.State("unreadable")
COMMAND_LIMIT = 1000
"""Characters of a command line that are shown, at most: it may have millions."""

_role = functools.lru_cache(4096)(role)


@functools.lru_cache(8192)
def shown(words: str) -> str:
    """Names and commands in a form that is safe on this terminal."""
    encoding = text.encoding()
    return text.escaped(words).encode(encoding, "backslashreplace").decode(encoding)


class Row:
    """One heap; sizes in bytes, texts as `shown`.

    file      its name in the directory, unescaped
    creator   pid in this pid namespace while it lives, else from header or name; 0 if unknown
    state     creator.State, or UNREADABLE; `reason` is one sentence
    attached  number of holders except the living creator; None before they were counted
    """

    __slots__ = (
        "allocated",
        "application",
        "attached",
        "command",
        "component",
        "creator",
        "file",
        "file_id",
        "living",
        "name",
        "reason",
        "size",
        "state",
        "used",
    )

    def __init__(
        self, entry: snapshot.Entry, who: "processes.Description", attached: "Optional[int]"
    ) -> None:
        seen, heap, verdict = entry.sighting, entry.heap, entry.verdict
        self.file = seen.name
        self.file_id: shmfs.FileId = seen.file_id
        self.name = shown(seen.name)
        self.living = verdict.creator if verdict is not None else 0
        recorded = seen.header.creator if seen.header is not None else seen.name_pid
        self.creator = self.living or recorded
        self.state = verdict.state if verdict is not None else UNREADABLE
        self.reason = shown(verdict.reason if verdict is not None else entry.error)
        self.allocated = seen.status.st_blocks * 512
        self.size = heap.heap_size if heap is not None else 0
        self.used = heap.heap_used if heap is not None else 0
        self.attached = attached
        self.command = shown(who.command[:COMMAND_LIMIT])
        self.component, self.application = map(shown, _role(who.arguments))

    @property
    def orphaned(self) -> bool:
        return self.state in creator.ORPHANS


class Removal:
    """A heap that was removed, and why, as far as known.

    final    nothing more can be found out
    orphan   it was an orphan: a cleaner removed it
    left     bytes that it still takes, because processes hold it; `holders`: how many
    """

    __slots__ = ("final", "holders", "left", "orphan", "row", "seen", "time", "why")

    def __init__(self, row: Row) -> None:
        self.row = row
        self.time = time.time()
        self.seen = time.monotonic()
        self.why = ""
        self.orphan = row.orphaned
        self.final = False
        self.left = self.holders = 0


class Room:
    """The file system, in bytes.  The used space is the sum of `heaps`, `held` and `other`.

    held      unlinked, but still mapped or open; a minimum if some processes could not be inspected
    other     all other used space: other files, and what cannot be seen
    reserved  granted in advance; always 0 here
    """

    __slots__ = ("at_least", "free", "heaps", "held", "other", "reserved", "size")

    def __init__(self, size: int, free: int, heaps: int, held: int, at_least: bool) -> None:
        self.size = size
        self.free = free
        self.heaps = min(heaps, self.used)
        self.held = min(held, self.used - self.heaps)
        self.other = self.used - self.heaps - self.held
        self.reserved = 0
        self.at_least = at_least

    @property
    def used(self) -> int:
        return max(0, self.size - self.free)


class State:
    """One scan.

    history   (monotonic, bytes used), oldest first
    removals  newest first
    troubles  problems of the file system or of the scan, a sentence each
    """

    def __init__(
        self,
        root: str,
        room: Room,
        rows: "List[Row]",
        history: "Sequence[Tuple[float, int]]" = (),
        removals: "Sequence[Removal]" = (),
        troubles: "Sequence[str]" = (),
    ) -> None:
        self.root = shown(root)
        self.room = room
        self.rows = rows
        self.history = tuple(history)
        self.removals = tuple(removals)
        self.troubles = tuple(map(shown, troubles))
        self.orphans = [row for row in rows if row.orphaned]
        self.time = time.time()
        self.seen = time.monotonic()
