"""One scan of a directory of heaps, as figures; runs in a child of the observer (see `asking`)."""

from gppshm import creator, held, locks, shmfs, snapshot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict

UNREADABLE = "unreadable"
STATES = {
    creator.ALIVE: "alive",
    creator.ORPHANED: "orphaned",
    creator.ATTACHED: "orphaned_attached",
    creator.UNKNOWN: "unknown",
}
"""Labels for counts of heaps, beside UNREADABLE for files with a heap's name that cannot be judged."""


def scan(root: str, proc_root: str = "/proc") -> "Dict[str, object]":
    """The content of an exporter.Scan, in bytes.  OSError if the directory or /proc cannot be read."""
    heaps = dict.fromkeys((*STATES.values(), UNREADABLE), 0)
    heap_bytes = orphaned_bytes = 0
    # Opened anew each time: another file system may have been mounted there.
    with shmfs.ShmDirectory(root, proc_root) as directory:
        shot = snapshot.take(directory, proc_root=proc_root)
        # A file with several names counts once.
        shot.entries = list({entry.sighting.file_id: entry for entry in shot.entries}.values())
        all_locks = locks.examine(directory, shot.entries, proc_root)
        unlinked = held.survey(directory, proc_root).unlinked
    for entry in shot.entries:
        seen, verdict = entry.sighting, entry.verdict
        if verdict is None and not (seen.kind is shmfs.UNREADABLE and seen.name_pid):
            continue
        size = seen.status.st_blocks * 512
        heaps[STATES[verdict.state] if verdict is not None else UNREADABLE] += 1
        heap_bytes += size
        if verdict is not None and verdict.state in creator.ORPHANS:
            orphaned_bytes += size
    return {
        "heaps": heaps,
        "heap_bytes": heap_bytes,
        "orphaned_bytes": orphaned_bytes,
        "size_bytes": shot.usage.size,
        "free_bytes": shot.usage.free,
        "inodes": shot.usage.inodes,
        "free_inodes": shot.usage.free_inodes,
        "held_bytes": sum(file.size for file in unlinked),
        "locks_held_by_dead": sum(lock.state is locks.DEAD for found in all_locks for lock in found),
    }
