"""The bytes of a REDHAWK heap: header, superblocks and blocks, and their faults (free lists: see heapcheck).

Everything is read by os.pread from a descriptor that the caller opened for reading.  There is no mmap (a
truncation would cause SIGBUS), no writing and no locking.  Any bytes are accepted: damage is reported as
data (a `Fault`), never as an exception.  The work is bounded by the file's size and by MAX_SUPERBLOCKS,
MAX_BLOCKS and MAX_FAULTS.  Only an OSError of os.pread itself is raised (a directory, an I/O error).

The heap of a living process changes while it is read.  A fault may come from a moment in the middle of an
allocation or of growth; it counts only if a second reading finds it, too.

Offsets and sizes are in bytes, and offsets from the start of the file, unless stated otherwise.  The
allocator counts in units of 16 bytes from the start of the superblock.
"""

import os
from struct import Struct
from struct import error as StructError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator, List, Optional, Sequence, Tuple

MAGIC = 0xACEB70CC
VERSION = 1
BLOCK_MAGIC = 0xBADDC0DE
PREVIOUS_FREE = 1
"""Flag in bit 0 of a block's magic number: the previous block is free."""
UNIT = 16
"""Bytes of an allocator unit; also the size of a block header."""

PAGE_SIZES = (4096, 16384, 65536)
"""Page sizes of Linux on x86_64 and aarch64; a heap has the pages of the host that made it."""
HOST_PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")
MACHINE = os.uname().machine

MAX_SUPERBLOCKS = 65536
"""No heap has more: its creator keeps each mapped, and vm.max_map_count allows 65530 mappings."""
WRAP = 1 << 32
"""REDHAWK records a superblock's size in 32 bits, and makes one of 4 GiB for an allocation of 2 GiB."""
MAX_WRAPS = 4096
"""Upper bound of a superblock's size in units of 4 GiB."""
MAX_BLOCKS = 1 << 21
"""Blocks checked in one heap, at most, in a few seconds: 2 GiB if they hold 1 KiB each."""
MAX_FAULTS = 100
"""Faults reported for one heap, at most; the last one says that there are more."""

_HEADER = Struct("<IIii")
# From the recorded offset on: offset, size, data start; lock word, owner; used, first free, last bin.
_SUPERBLOCK_AT = 256
_SUPERBLOCK = {"x86_64": Struct("<QII i4xi28x QII"), "aarch64": Struct("<QII i4xi36x QII")}
# The same for sums: offset, size, data start, used.
_SUM = Struct("<QII48xQ" if MACHINE == "aarch64" else "<QII40xQ")
BLOCK = Struct("<IiII")
_U32 = Struct("<I")

_SMALL_READ = 1024
_LARGE_READ = 256 * 1024


class _Record:
    __slots__: "Tuple[str, ...]" = ()

    def __repr__(self) -> str:
        fields = (f"{name}={getattr(self, name)!r}" for name in self.__slots__)
        return "{}({})".format(type(self).__name__, ", ".join(fields))


class Header(_Record):
    """The header of a heap; bytes beyond the end of a short file read as 0, as in a mapping.

    version   1; REDHAWK refuses any other
    refcount  1 for the creator and 1 for each attached process; a crash does not lower it
    creator   pid in the creator's own pid namespace; any peer can overwrite it
    """

    __slots__ = ("creator", "refcount", "version")

    def __init__(self, version: int, refcount: int, creator: int) -> None:
        self.version = version
        self.refcount = refcount
        self.creator = creator


class Superblock(_Record):
    """The header of a superblock, as it was read, right or wrong.

    offset      of the superblock
    size        of the data area, which follows the superblock's header page
    recorded    the recorded size: the low 32 bits of `size`
    data_start  from `offset`; one page
    lock_word   0 = the allocator's lock is free
    lock_owner  thread id of its holder, in the holder's own pid namespace; 0 = none, or not written yet
    used        bytes in blocks in use, block headers included
    first_free  the smallest bin of the free list, in units from `offset`; 0 = no free block
    last_free   the largest bin, likewise
    """

    __slots__ = (
        "data_start",
        "first_free",
        "last_free",
        "lock_owner",
        "lock_word",
        "offset",
        "recorded",
        "size",
        "used",
    )

    def __init__(
        self,
        offset: int,
        size: int,
        data_start: int,
        lock_word: int,
        lock_owner: int,
        used: int,
        first_free: int,
        last_free: int,
    ) -> None:
        self.offset = offset
        self.size = self.recorded = size
        self.data_start = data_start
        self.lock_word = lock_word
        self.lock_owner = lock_owner
        self.used = used
        self.first_free = first_free
        self.last_free = last_free


class Block(_Record):
    """One block of a superblock's data area.

    offset         of the block's header
    size           header included
    refcount       -1 = free, 1 and more = in use
    previous_free  what the header says about the block before it
    """

    __slots__ = ("offset", "previous_free", "refcount", "size")

    def __init__(self, offset: int, size: int, refcount: int, previous_free: bool) -> None:
        self.offset = offset
        self.size = size
        self.refcount = refcount
        self.previous_free = previous_free

    @property
    def free(self) -> bool:
        return self.refcount < 0


class Fault(_Record):
    """One fault: `what` is wrong, in one sentence, and where.

    offset  of the wrong header field, superblock or block
    """

    __slots__ = ("offset", "what")

    def __init__(self, offset: int, what: str) -> None:
        self.offset = offset
        self.what = what


class Heap(_Record):
    """A heap as far as it could be read.

    header       None without a magic number: the file is no heap
    page_size    of the host that made it
    superblocks  those that REDHAWK's own walk finds, in file order
    faults       of header and superblocks; `check` finds those of blocks and free lists
    """

    __slots__ = ("faults", "header", "page_size", "superblocks")

    def __init__(
        self,
        header: "Optional[Header]",
        page_size: int,
        superblocks: "Sequence[Superblock]",
        faults: "Sequence[Fault]",
    ) -> None:
        self.header = header
        self.page_size = page_size
        self.superblocks = superblocks
        self.faults = faults

    @property
    def superblock_count(self) -> int:
        return len(self.superblocks)

    @property
    def heap_size(self) -> int:
        """REDHAWK's heap size: the sum of the data areas, without header pages."""
        return sum([superblock.size for superblock in self.superblocks])

    @property
    def heap_used(self) -> int:
        """REDHAWK's heap used; more than `heap_size` only in a faulty heap."""
        return sum([superblock.used for superblock in self.superblocks])


class Sum(Heap):
    """A heap without faults of which only the sums are known; `superblocks` is empty."""

    __slots__ = ("_count", "_size", "_used")

    def __init__(self, header: Header, count: int, size: int, used: int) -> None:
        Heap.__init__(self, header, HOST_PAGE_SIZE, (), ())
        self._count = count
        self._size = size
        self._used = used

    @property
    def superblock_count(self) -> int:
        return self._count

    @property
    def heap_size(self) -> int:
        return self._size

    @property
    def heap_used(self) -> int:
        return self._used


def read_header(fd: int) -> "Optional[Header]":
    """The header, or None if the file does not begin with the magic number; the name does not matter."""
    return parse_header(os.pread(fd, 16, 0))


def parse_header(raw: bytes) -> "Optional[Header]":
    """The header in the first 16 bytes of a file; None as above."""
    if len(raw) < 16:
        if len(raw) < 4:
            return None
        raw = raw.ljust(16, b"\0")
    magic, version, refcount, creator = _HEADER.unpack(raw)
    return Header(version, refcount, creator) if magic == MAGIC else None


def is_half_made(fd: int, page_size: int = HOST_PAGE_SIZE) -> bool:
    """Whether the file may be from a creator that died, or found tmpfs full, before the header was complete.

    That is: shorter than a page, and empty, all zero, or beginning with the magic number.
    """
    raw = os.pread(fd, page_size, 0)
    return len(raw) < page_size and (not raw.strip(b"\0") or raw.startswith(_U32.pack(MAGIC)))


def read_heap(fd: int, file_size: int, host_page_size: int = HOST_PAGE_SIZE, machine: str = MACHINE) -> Heap:
    """Read the header and walk the superblocks.

    `file_size` is st_size.  The walk ends as REDHAWK's does: at the end of the file, or at the first
    superblock whose recorded offset is wrong.  Only the latter is a fault.  `machine` (os.uname) decides the
    size of the lock.
    """
    header = read_header(fd)
    if header is None:
        return Heap(None, host_page_size, (), (Fault(0, "no magic number: this is no heap"),))
    layout = _SUPERBLOCK.get(machine, _SUPERBLOCK["x86_64"])
    page_size = host_page_size
    if file_size < page_size:
        page_size = _page_size(fd, file_size, layout, host_page_size)
        if file_size < page_size:
            what = f"the file is {file_size} bytes long, shorter than its header page of {page_size}"
            return Heap(header, page_size, (), (Fault(0, what),))
    if header.version != VERSION:
        what = f"version {header.version}, not {VERSION}: REDHAWK refuses it, and its layout is not known"
        return Heap(header, page_size, (), (Fault(4, what),))

    superblocks: List[Superblock] = []
    faults: List[Fault] = []
    pread, length, unpack = os.pread, layout.size, layout.unpack
    sure_of_page_size = False
    offset = page_size
    while offset < file_size:
        raw = pread(fd, length, offset + _SUPERBLOCK_AT)
        if len(raw) < length:
            faults.append(Fault(offset, "the file ends inside the header of a superblock"))
            break
        superblock = Superblock(*unpack(raw))
        size = superblock.size
        if superblock.offset != offset or superblock.data_start != page_size:
            if not sure_of_page_size:
                sure_of_page_size = True
                if not superblocks:
                    page_size = offset = _page_size(fd, file_size, layout, host_page_size)
                    continue
            if superblock.offset != offset:
                faults.append(Fault(offset, _no_superblock(superblock, file_size - offset)))
                break
        superblocks.append(superblock)
        following = offset + page_size + size
        if file_size - following >= WRAP:
            superblock.size = size = _whole_size(fd, superblock, page_size, file_size, layout)
            following = offset + page_size + size
        if (
            superblock.used > size
            or superblock.data_start != page_size
            or size % page_size
            or not size
            or following > file_size
        ):
            faults.extend(_superblock_faults(superblock, page_size, file_size))
            if size % page_size:
                break
        offset = following
        if len(superblocks) == MAX_SUPERBLOCKS and offset < file_size:
            what = f"more than {MAX_SUPERBLOCKS} superblocks: the rest is not examined"
            faults.append(Fault(offset, what))
            break
    return Heap(header, page_size, superblocks, capped(faults))


def read_sum(fd: int, header: Header, file_size: int) -> "Optional[Sum]":
    """The sums of a heap without faults and with the host's page size; else None.

    It walks like `read_heap` with the same bounds, but makes no object per superblock: a listing of a
    thousand heaps needs only the sums of most of them.
    """
    page = offset = HOST_PAGE_SIZE
    if header.version != VERSION:
        return None
    total = in_use = 0
    pread, length, unpack = os.pread, _SUM.size, _SUM.unpack
    usual = -1
    try:
        for _ in range(MAX_SUPERBLOCKS):
            if offset >= file_size:
                break
            recorded, size, start, used = unpack(pread(fd, length, offset + _SUPERBLOCK_AT))
            if recorded != offset or start != page or used > size:
                return None
            if size != usual:
                if size % page or not size:
                    return None
                usual = size
            total += size
            in_use += used
            offset += page + size
    except StructError:
        return None
    # Each superblock has one page for itself, and so has the heap.
    count = (file_size - total) // page - 1
    return Sum(header, count, total, in_use) if offset == file_size else None


def page_size_of(
    fd: int, file_size: int, host_page_size: int = HOST_PAGE_SIZE, machine: str = MACHINE
) -> int:
    """The page size of the heap in a file; the host's if it cannot be found out."""
    return _page_size(fd, file_size, _SUPERBLOCK.get(machine, _SUPERBLOCK["x86_64"]), host_page_size)


def superblock_at(
    fd: int, offset: int, page_size: int, file_size: int, machine: str = MACHINE
) -> "Optional[Superblock]":
    """The superblock at `offset` as it is now; None if it has a fault."""
    layout = _SUPERBLOCK.get(machine, _SUPERBLOCK["x86_64"])
    raw = os.pread(fd, layout.size, offset + _SUPERBLOCK_AT)
    if len(raw) < layout.size:
        return None
    superblock = Superblock(*layout.unpack(raw))
    if superblock.offset != offset or any(_superblock_faults(superblock, page_size, file_size)):
        return None
    return superblock


def _whole_size(fd: int, superblock: Superblock, page_size: int, file_size: int, layout: Struct) -> int:
    """The full size of a superblock from its low 32 bits: up to the next superblock or the file's end."""
    first = superblock.offset + page_size + superblock.size
    for following in range(first, min(file_size, first + MAX_WRAPS * WRAP) + 1, WRAP):
        raw = os.pread(fd, layout.size, following + _SUPERBLOCK_AT)
        whole = len(raw) == layout.size and layout.unpack(raw)[:3:2] == (following, page_size)
        if whole or following == file_size:
            return following - superblock.offset - page_size
    return superblock.size


def _page_size(fd: int, file_size: int, layout: Struct, host_page_size: int) -> int:
    """The page size of the heap in a file; the host's if it cannot be found out."""
    candidates = (host_page_size,) + PAGE_SIZES
    doubtful = []
    for candidate in candidates:
        raw = os.pread(fd, layout.size, candidate + _SUPERBLOCK_AT)
        if len(raw) == layout.size:
            fields = layout.unpack(raw)
            if fields[0] == candidate:
                if fields[2] == candidate:
                    return candidate
                doubtful.append(candidate)
    if doubtful:
        return doubtful[0]
    # A heap without superblocks is its header page.
    return file_size if file_size in candidates else host_page_size


def _no_superblock(superblock: Superblock, rest: int) -> str:
    if superblock.offset == 0 and superblock.size == 0:
        # The allocator grows the file first and then writes the superblock.
        return f"no superblock in the last {rest} bytes: its creator is growing the heap, or died doing so"
    return f"no superblock here: the offset recorded is {superblock.offset}"


def _superblock_faults(superblock: Superblock, page_size: int, file_size: int) -> "Iterator[Fault]":
    offset, size = superblock.offset, superblock.size
    if superblock.data_start != page_size:
        what = f"the superblock's data start at {superblock.data_start}, not after one page of {page_size}"
        yield Fault(offset, what)
    if not size:
        yield Fault(offset, "the superblock has no data area: its size is 0")
    if size % page_size:
        yield Fault(offset, f"the superblock's size, {size}, is not a multiple of the page size, {page_size}")
    if offset + page_size + size > file_size:
        beyond = offset + page_size + size - file_size
        yield Fault(
            offset, f"the superblock, of {size} bytes, goes {beyond} bytes beyond the end of the file"
        )
    if superblock.used > size:
        yield Fault(offset, f"the superblock uses more than it has: {superblock.used} of {size} bytes")


def blocks(fd: int, superblock: Superblock) -> "Iterator[Block]":
    """The blocks of a superblock in order; ends before the first faulty one.

    The caller has to check that the last one ends with the data area, as heapcheck does.
    """
    base = superblock.offset
    offset = base + superblock.data_start
    end = offset + superblock.size
    pread, unpack_from = os.pread, BLOCK.unpack_from
    reach = _SMALL_READ
    window, start, last = b"", offset, offset - 1
    while offset < end:
        if offset > last:
            # Small blocks: read far ahead. Large blocks: read only the headers.
            near = offset - start < 2 * reach
            reach = min(2 * reach, _LARGE_READ) if near else _SMALL_READ
            window, start = pread(fd, min(reach, end - offset), offset), offset
            last = start + len(window) - UNIT
            if offset > last:
                return
        magic, refcount, own_offset, units = unpack_from(window, offset - start)
        following = offset + units * UNIT
        if (
            magic | PREVIOUS_FREE != BLOCK_MAGIC | PREVIOUS_FREE
            or own_offset * UNIT != offset - base
            or not units
            or following > end
        ):
            return
        yield Block(offset, units * UNIT, refcount, magic != BLOCK_MAGIC)
        offset = following


def capped(faults: "List[Fault]") -> "List[Fault]":
    """The first MAX_FAULTS of them; the last one then says that there are more."""
    if len(faults) > MAX_FAULTS:
        faults[MAX_FAULTS - 1 :] = [Fault(faults[MAX_FAULTS - 1].offset, "more faults follow: not listed")]
    return faults
