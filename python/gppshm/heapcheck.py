"""The check of a heap's blocks and free lists, as `redhawk-shminfo --check` makes it.

As heapfile it reads by os.pread only, accepts any bytes, and reports damage as `Fault`.
"""

import os
from struct import Struct

from gppshm.heapfile import (
    BLOCK,
    BLOCK_MAGIC,
    MAX_BLOCKS,
    MAX_FAULTS,
    PREVIOUS_FREE,
    UNIT,
    Block,
    Fault,
    Heap,
    Superblock,
    blocks,
    capped,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Iterator, List, Optional, Set, Tuple

    FreeBlocks = Dict[int, Tuple[int, int, int, int, int]]

_FREE_LINKS = Struct("<IIII")
_U32 = Struct("<I")
# The smallest free block: header, links and tail.
_MIN_FREE_UNITS = 3


def check(fd: int, heap: Heap) -> "List[Fault]":
    """Faults of the blocks and free lists of the superblocks of `heap`, in addition to `heap.faults`.

    Superblocks with a wrong data start are skipped.  After a broken chain of blocks, what depends on the rest
    of it is skipped, too: the sum of the blocks in use, and the free list.
    """
    faults: List[Fault] = []
    budget = MAX_BLOCKS
    for superblock in heap.superblocks:
        if superblock.data_start == heap.page_size:
            budget -= _check_superblock(fd, superblock, budget, faults)
        if budget < 0:
            what = f"more than {MAX_BLOCKS} blocks: what follows is not checked"
            faults.append(Fault(superblock.offset, what))
        if budget < 0 or len(faults) > MAX_FAULTS:
            break
    return capped(faults)


def _check_superblock(fd: int, superblock: Superblock, budget: int, faults: "List[Fault]") -> int:
    """Append to `faults`; returns the number of blocks, which is more than `budget` if there are too many."""
    base = superblock.offset
    offset = base + superblock.data_start
    end = offset + superblock.size
    used = count = 0
    free: FreeBlocks = {}
    before: Optional[Block] = None
    for block in blocks(fd, superblock):
        count += 1
        if count > budget or len(faults) > MAX_FAULTS:
            return count
        if block.refcount < 1 and block.refcount != -1:
            what = f"the block's refcount is {block.refcount}: neither free (-1) nor in use"
            faults.append(Fault(block.offset, what))
        if block.previous_free != (before is not None and before.free):
            said = "free" if block.previous_free else "in use"
            faults.append(
                Fault(block.offset, f"the block says that the one before it is {said}, and it is not")
            )
        if block.free:
            links = _free_links(fd, block, faults)
            if links:
                free[(block.offset - base) // UNIT] = links
        else:
            used += block.size
        offset = block.offset + block.size
        before = block
    # If the size wraps, the allocator may have laid out blocks over the low 32 bits only.
    if offset < end and offset != end - superblock.size + superblock.recorded:
        faults.append(Fault(offset, _no_block(fd, superblock, offset, end)))
        return count
    if used != superblock.used:
        what = f"the superblock says that {superblock.used} bytes are in use, and its blocks say {used}"
        faults.append(Fault(base, what))
    faults.extend(_free_list_faults(superblock, free))
    return count


def _free_links(fd: int, block: Block, faults: "List[Fault]") -> "Optional[Tuple[int, int, int, int, int]]":
    """(size in units, prev_free, next_free, prev_size, next_size) of a free block; None if too small."""
    units = block.size // UNIT
    if units < _MIN_FREE_UNITS:
        faults.append(Fault(block.offset, f"the free block, of {block.size} bytes, is too small"))
        return None
    links = os.pread(fd, 16, block.offset + UNIT).ljust(16, b"\0")
    (tail,) = _U32.unpack(os.pread(fd, 4, block.offset + block.size - 4).ljust(4, b"\0"))
    if tail != units:
        what = f"the free block's tail says {tail * UNIT} bytes, its header {block.size}"
        faults.append(Fault(block.offset, what))
    return (units,) + _FREE_LINKS.unpack(links)


def _no_block(fd: int, superblock: Superblock, offset: int, end: int) -> str:
    """The fault of the block header at `offset`."""
    raw = os.pread(fd, UNIT, offset)
    if len(raw) < UNIT:
        return "the file ends before the block that should begin here"
    magic, _, own_offset, units = BLOCK.unpack(raw)
    if magic | PREVIOUS_FREE != BLOCK_MAGIC | PREVIOUS_FREE:
        return f"no block here: its magic number is 0x{magic:08X}"
    if own_offset * UNIT != offset - superblock.offset:
        return f"the block says that it lies at {superblock.offset + own_offset * UNIT}"
    if not units:
        return "the block's size is 0"
    if offset + units * UNIT > end:
        beyond = offset + units * UNIT - end
        return f"the block, of {units * UNIT} bytes, goes {beyond} bytes beyond the end of its superblock"
    return "the block was being written"


def _free_list_faults(superblock: Superblock, free: "FreeBlocks") -> "Iterator[Fault]":
    """Follow the free list of a superblock; `free` are its free blocks by offset in units.

    The first block of each size is a bin.  next_size and prev_size link the bins, smallest to largest;
    next_free and prev_free link the blocks of one size, from the bin on.
    """
    base = superblock.offset
    seen: Set[int] = set()

    def broken(origin: int, target: int) -> Fault:
        why = "where it has been before" if target in seen else "where no free block begins"
        return Fault(base + origin * UNIT, f"the free list goes from here to {base + target * UNIT}, {why}")

    def wrong_way_back(at: int) -> Fault:
        return Fault(base + at * UNIT, "the back link here does not point to the previous free block")

    previous_bin = previous_units = 0
    bin = superblock.first_free
    while bin:
        if bin in seen or bin not in free:
            yield broken(previous_bin, bin)
            return
        seen.add(bin)
        units, prev_free, next_free, prev_size, next_size = free[bin]
        if prev_free or prev_size != previous_bin:
            yield wrong_way_back(bin)
        if units <= previous_units:
            yield Fault(base + bin * UNIT, "the free list is not in the order of sizes")
        before, at = bin, next_free
        while at:
            if at in seen or at not in free:
                yield broken(before, at)
                return
            seen.add(at)
            if free[at][1] != before:
                yield wrong_way_back(at)
            if free[at][0] != units:
                yield Fault(base + at * UNIT, "the free block is in the free list of another size")
            before, at = at, free[at][2]
        previous_bin, previous_units = bin, units
        bin = next_size
    if superblock.last_free != previous_bin:
        last, end = base + superblock.last_free * UNIT, base + previous_bin * UNIT
        yield Fault(
            base, f"the superblock says that the last bin is at {last}, and the free list ends at {end}"
        )
    for at in sorted(free.keys() - seen):
        yield Fault(base + at * UNIT, "the free block is not in the free list")
