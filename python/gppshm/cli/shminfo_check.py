"""redhawk-shminfo --check: the structure of each heap, and the holders of its locks."""

from gppshm import locks, shmfs
from gppshm.cli import text

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from gppshm import snapshot


def show(
    directory: shmfs.ShmDirectory,
    shot: "snapshot.Snapshot",
    options: "argparse.Namespace",
    output: text.Output,
) -> int:
    entries = [entry for entry in shot.entries if entry.is_heap or options.names]
    result = 0
    for entry, held_locks in zip(entries, locks.examine(directory, entries)):
        lines = []
        bad = False
        error = entry.error
        if error:
            lines.append(f"unreadable: {error}")
            bad = True
        elif entry.heap is None:
            lines.append("no heap: not checked")
        for fault in entry.heap.faults if entry.heap else ():
            lines.append(f"fault at {fault.offset}: {fault.what}")
            bad = True
        for superblock in entry.heap.superblocks if entry.heap else ():
            if superblock.recorded != superblock.size:
                lines.append(
                    f"the superblock at {superblock.offset} has {superblock.size} bytes: REDHAWK records 32"
                    f" bits of that, {superblock.recorded}, so its own tools show a wrong heap"
                )
        for lock in held_locks:
            if lock.state is not locks.FREE:
                lines.append(f"lock of the superblock at {lock.offset}: {lock.state}: {lock.reason}")
                bad = bad or lock.state is locks.DEAD
        if not bad and entry.heap is not None:
            lines.insert(0, "ok")
        result = 1 if bad else result
        output.put(text.escaped(entry.sighting.name) + "\n")
        output.put("".join([f"  {text.escaped(line)}\n" for line in lines]))
    return result
