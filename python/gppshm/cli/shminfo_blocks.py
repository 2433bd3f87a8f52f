"""redhawk-shminfo --blocks NAME: a map of the blocks of one heap."""

from gppshm import heapfile, shmfs
from gppshm.cli import text

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Callable, Iterator, List, Sequence, Tuple

    from gppshm import snapshot

# Free, partly in use, in use, and what lies behind a broken chain of blocks.
CELLS = {True: "\u00b7\u2592\u2588?", False: ".+#?"}
CELLS_OF_A_SUPERBLOCK = 256
MANY_SUPERBLOCKS = 32


class Tally:
    """Sums over the blocks of a superblock, or of all, in bytes; `largest` is the largest free block."""

    __slots__ = ("free", "free_blocks", "largest", "unknown", "used", "used_blocks")

    def __init__(self) -> None:
        self.used = self.free = self.largest = self.unknown = 0
        self.used_blocks = self.free_blocks = 0

    def add(self, other: "Tally") -> None:
        for name in ("used", "free", "unknown", "used_blocks", "free_blocks"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.largest = max(self.largest, other.largest)

    def lines(self, size: "Callable[[int], str]", indent: str) -> "List[str]":
        elsewhere = text.percent(self.free - self.largest, self.free)
        lines = [
            f"used:          {size(self.used)} in {self.used_blocks} blocks",
            f"free:          {size(self.free)} in {self.free_blocks} blocks",
            f"largest free:  {size(self.largest)}",
            f"fragmentation: {elsewhere}% of what is free is elsewhere",
        ]
        if self.unknown:
            lines.append(f"unreadable:    {size(self.unknown)}, behind a broken chain of blocks; see --check")
        return [f"{indent}{line}" for line in lines]


def show(
    directory: shmfs.ShmDirectory,
    shot: "snapshot.Snapshot",
    options: "argparse.Namespace",
    output: text.Record,
) -> int:
    if not shot.entries:
        return 1
    entry = shot.entries[0]
    name = text.escaped(entry.sighting.name)
    error = entry.error
    if entry.heap is None or error:
        output.error(f"{name}: {text.escaped(error) or 'it is not a REDHAWK heap'}")
        return 1
    size = text.size_format(options.format)
    total, drawn = Tally(), CELLS[text.draws_blocks()]
    superblocks, per_row = entry.heap.superblocks, _cells_per_row(output.columns)
    cell = cell_size(superblocks, per_row)
    output.put(f"{name}\n  one cell is {size(cell)}: {drawn[2]} used  {drawn[1]} partly  {drawn[0]} free\n")
    with directory.open(entry.sighting.name) as file:
        if file.fd is None or file.sighting.file_id != entry.sighting.file_id:
            output.error(f"{name}: it was replaced while it was read; try again")
            return 1
        file.release()
        for number, (superblock, cells, tally) in enumerate(pictures(file.fd, entry, cell)):
            total.add(tally)
            output.put(f"\n  superblock {number + 1} of {len(superblocks)}, at {superblock.offset}\n")
            for first in range(0, len(cells), per_row):
                row = "".join([drawn[kind] for kind in cells[first : first + per_row]])
                output.put(f"    {first * cell:>10}  {row}\n")
            output.put("\n".join(tally.lines(size, "    ")) + "\n")
            output.flush()
    lines = [f"\n  in total: {size(entry.heap.heap_size)}", *total.lines(size, "    ")]
    output.put("\n".join(lines) + "\n")
    return 1 if total.unknown else 0


def cell_size(superblocks: "Sequence[heapfile.Superblock]", per_row: int) -> int:
    """Bytes per cell, so that the largest superblock fits into CELLS_OF_A_SUPERBLOCK, or a row if there are
    many.
    """
    most = CELLS_OF_A_SUPERBLOCK if len(superblocks) <= MANY_SUPERBLOCKS else per_row
    cell = heapfile.UNIT
    while superblocks and cell * most < max(superblock.size for superblock in superblocks):
        cell *= 2
    return cell


def pictures(
    fd: int, entry: "snapshot.Entry", cell: int
) -> "Iterator[Tuple[heapfile.Superblock, List[int], Tally]]":
    """Each superblock of a heap, the kind of each of its cells (an index into CELLS), and its Tally."""
    budget = heapfile.MAX_BLOCKS
    for superblock in entry.heap.superblocks if entry.heap else ():
        reach = min(superblock.size, max(0, entry.sighting.status.st_size - superblock.offset))
        tally = Tally()
        cells = _fill(fd, superblock, reach, cell, tally, budget)
        budget -= tally.used_blocks + tally.free_blocks
        yield superblock, cells, tally


def _fill(
    fd: int, superblock: heapfile.Superblock, reach: int, cell: int, tally: Tally, budget: int
) -> "List[int]":
    """The kind of each cell of the superblock, as an index into CELLS; only its first `reach` bytes exist."""
    count = -(-reach // cell)
    used = [0] * count
    base = superblock.offset + superblock.data_start
    position = 0
    for block in heapfile.blocks(fd, superblock):
        position = block.offset - base
        if tally.used_blocks + tally.free_blocks >= budget:
            break
        end = position + block.size
        if block.free:
            tally.free += block.size
            tally.free_blocks += 1
            tally.largest = max(tally.largest, block.size)
        else:
            tally.used += block.size
            tally.used_blocks += 1
            first, last = position // cell, min((end - 1) // cell, count - 1)
            for index in range(first, last + 1):
                used[index] += min(end, (index + 1) * cell) - max(position, index * cell)
        position = end
    tally.unknown = max(0, superblock.size - position)
    kinds = []
    for index, amount in enumerate(used):
        whole = min(cell, reach - index * cell)
        if index * cell >= position:
            kinds.append(3)
        else:
            kinds.append(0 if not amount else 2 if amount >= whole else 1)
    return kinds


def _cells_per_row(width: int) -> int:
    """A power of two that fits the terminal beside the offsets; 64 without a terminal."""
    cells = 8
    while cells * 2 <= min(width - 16, 128):
        cells *= 2
    return cells
