"""Gives back free memory of an orphaned heap while peers are attached, by punching holes.

A removed heap keeps all its memory until its last peer exits.  The allocator touches only the first 32 and
the last 4 bytes of a free block, and only the creator's process allocates.  So when the creator is proven
dead, nobody uses the whole pages strictly inside free blocks.  fallocate(FALLOC_FL_PUNCH_HOLE) gives them
back to the system.  Nothing else is written, nothing is mapped, no lock is taken.

The caller must prove that the creator is dead, and that no forked child of it (without exec) is among the
holders: such a child may still allocate (see `kinship`).  This module checks that the file is on a tmpfs, and
that superblock and chain of blocks are sound up to the block.

Peers release blocks during this.  A hole is safe nevertheless:

1. Nobody allocates any more, so free blocks are only merged: the area of a free block stays free for ever.
2. A release merges blocks under the superblock's lock.  It writes the size of the result first, then the
   headers of the blocks that it merges.  A free block counts only if the lock was seen free *after* its
   header was read.  Then the release that made it has ended, and later ones touch only its first 32 bytes
   and its last 4.
3. A release lowers `used` under that lock.  If the lock was seen free after `used` was read, the superblock
   is not inspected again until `used` changes.

Limits: a lock held by a dead thread stays taken; the free blocks there can be given back only if the caller
can prove that (`lock_is_dead`).  Two cleaners at the same time may both count the same memory.
"""

import ctypes
import errno
import fcntl
import os
import time
from struct import Struct

from gppshm import heapfile, kinship

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Generator, Iterator, List, Optional, Tuple

    LockIsDead = Callable[[heapfile.Superblock], bool]

BUDGET = 0.0005
"""Seconds for one call, plus one hole of SLICE bytes at most: an unlink may wait for it."""
SLICE = 1 << 20
"""Bytes of the largest single hole; it takes about 0.1 ms."""
REMEMBERED = 1 << 24
"""Pages (64 GiB) of one heap that are remembered as given back; others are punched again."""

PAGE = heapfile.HOST_PAGE_SIZE

_KEEP_SIZE, _PUNCH_HOLE = 1, 2  # linux/falloc.h
_TMPFS_MAGIC = 0x01021994  # linux/magic.h
_BLOCK = Struct("<IiII")
_U32 = Struct("<I")

_libc = ctypes.CDLL(None, use_errno=True)
_fallocate = getattr(_libc, "fallocate64", _libc.fallocate)
_fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


# -- descriptors ----------------------------------------------------------------------------------------


def on_tmpfs(fd: int) -> bool:
    """Whether the file is on a tmpfs."""
    # f_type, a long, comes first in struct statfs, which has 120 bytes on 64-bit Linux (statfs(2)).
    buffer = ctypes.create_string_buffer(512)
    if _libc.fstatfs(fd, buffer) != 0:
        return False
    return ctypes.c_long.from_buffer(buffer).value == _TMPFS_MAGIC


def writable(fd: int) -> int:
    """A new descriptor for writing of the file of `fd`, which may have no name any more.

    Raises OSError: no permission, no /proc, no descriptor left.  Closing it is one more IN_CLOSE_WRITE for
    watchers of the file.
    """
    return os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)


def punch(fd: int, offset: int, length: int) -> None:
    """Give `length` bytes of the file back to the system; they read as zero afterwards.

    Raises OSError: EBADF (not open for writing), EOPNOTSUPP (Linux before 3.5), EPERM (sealed).
    """
    while _fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, offset, length) != 0:
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))


# -- one heap -------------------------------------------------------------------------------------------


class NotAllowed(Exception):
    """A condition does not hold: nothing may be given back."""


class _Area:
    """What is known of one superblock.

    stable  its `used` at the last complete inspection during which nobody changed it; -1 = none yet
    given    a byte for each page from `base` on: 1 = given back; None if nothing was
    holder   owner of the lock when it was last found taken; `suspect`: it was the same owner the time before;
             `dead`: that owner is known to have ended
    in_use, free, returnable  bytes in used blocks, in free blocks, and in whole pages inside free blocks
    """

    __slots__ = (
        "base",
        "data",
        "dead",
        "end",
        "free",
        "given",
        "holder",
        "in_use",
        "offset",
        "returnable",
        "stable",
        "suspect",
    )

    def __init__(self, superblock: heapfile.Superblock) -> None:
        self.offset = superblock.offset
        self.data = superblock.offset + superblock.data_start
        self.end = self.data + superblock.size
        self.base = self.data // PAGE * PAGE
        self.stable = -1
        self.given: Optional[bytearray] = None
        self.holder = 0
        self.dead = self.suspect = False
        self.in_use = self.free = self.returnable = 0


class Reclaim:
    """Gives back the free memory of one orphaned heap; call `go_on` until it returns True, and later again.

    fd            of the heap, open for reading; the caller keeps and closes it.  The file is opened again for
                  writing while there is something to give back.
    kind          NO_CHILD; or UNKNOWN and `accept_risk`, if a person accepts the risk that a forked child
                  of the creator holds the heap
    lock_is_dead  called with a superblock whose lock was found taken twice by the same thread; True if that
                  thread is dead
    Raises NotAllowed for any other kind, and for a file that is not on a tmpfs.

    Figures, in bytes, of the last inspection of each superblock:
    given_back    by this object
    in_use        in used blocks, which can be given back after their release
    free          in free blocks
    returnable    in whole pages inside free blocks: with `dry_run`, the most that would be given back
    taken         memory that the file takes
    stable       everything was inspected, and nobody changed it meanwhile
    whole         superblocks and blocks are sound to the end of the file
    """

    def __init__(
        self,
        fd: int,
        kind: kinship.Kinship,
        accept_risk: bool = False,
        dry_run: bool = False,
        lock_is_dead: "LockIsDead" = lambda superblock: False,
    ) -> None:
        if kind is not kinship.NO_CHILD and not (kind is kinship.UNKNOWN and accept_risk):
            raise NotAllowed(
                "a forked child of its creator holds it, and may still allocate"
                if kind is kinship.CHILD
                else "it is not known whether a forked child of its creator holds it, and may still allocate"
            )
        if not on_tmpfs(fd):
            raise NotAllowed("it is not on a tmpfs")
        self.given_back = self.in_use = self.free = self.returnable = self.taken = 0
        self.stable = self.whole = False
        self._fd = fd
        self._dry_run = dry_run
        self._lock_is_dead = lock_is_dead
        self._writing: Optional[int] = None
        self._areas: List[_Area] = []
        self._remembered = 0
        self._pass: Optional[Iterator[None]] = None

    @property
    def would_give_back(self) -> int:
        """Estimated bytes, from the file's block count, as if everything not returnable took memory."""
        rest = os.fstat(self._fd).st_size - self.returnable
        return max(0, min(self.returnable, self.taken - rest))

    def go_on(self, seconds: float = BUDGET) -> bool:
        """Work for `seconds`; True if the pass is complete, so that the next call begins a new one.

        Raises OSError if the file cannot be opened for writing or the kernel cannot punch holes;
        BlockingIOError if another cleaner is just trying a lease on it: the next call begins a new pass.
        """
        end = time.monotonic() + seconds
        if self._pass is None:
            self._pass = self._inspect()
        try:
            for _ in self._pass:
                if time.monotonic() >= end:
                    return False
        except BaseException:
            self._end_pass()
            raise
        self._end_pass()
        return True

    def close(self) -> None:
        """End the pass; `fd` stays open."""
        self._end_pass()

    def _end_pass(self) -> None:
        self._pass = None
        if self._writing is not None:
            if self._writing != self._fd:
                os.close(self._writing)
            self._writing = None
        self.taken = os.fstat(self._fd).st_blocks * 512

    def _inspect(self) -> "Iterator[None]":
        """One pass over the whole heap; yields after each piece of work."""
        fd = self._fd
        size = os.fstat(fd).st_size
        header = heapfile.read_header(fd)
        self.stable, self.whole = True, False
        if header is None or header.version != heapfile.VERSION or size < PAGE:
            return
        page = offset = heapfile.page_size_of(fd, size)
        count, whole = 0, True
        while offset < size and count < heapfile.MAX_SUPERBLOCKS:
            superblock = heapfile.superblock_at(fd, offset, page, size)
            if superblock is None:
                break
            if count == len(self._areas):
                self._areas.append(_Area(superblock))
            area = self._areas[count]
            if area.end != area.data + superblock.size:
                # The creator is dead, so its size cannot change: something has overwritten it.
                break
            if superblock.used != area.stable:
                yield from self._inspect_area(area, superblock, page, size)
            whole = whole and area.in_use + area.free == area.end - area.data
            offset, count = area.end, count + 1
            yield
        for lost in self._areas[count:]:
            self._count(lost, 0, 0, 0)
        del self._areas[count:]
        self.whole = whole and offset == size

    def _inspect_area(
        self, area: _Area, first: heapfile.Superblock, page: int, size: int
    ) -> "Iterator[None]":
        # If the lock is free at this second read, the release that lowered `used` to `first.used` has ended.
        now = heapfile.superblock_at(self._fd, area.offset, page, size)
        if now is None:
            self.stable = False
            return
        if not (self._quiet(area, now) or self._deserted(area, now, page, size)) or first.used != now.used:
            self.stable = False
            return
        in_use = free = returnable = 0
        before_is_free, at_rest = False, True
        for number, block in enumerate(heapfile.blocks(self._fd, now)):
            if block.previous_free != before_is_free or block.refcount < -1:
                break
            before_is_free = block.free
            if not block.free:
                in_use += block.size
            elif block.size < 48:
                break
            else:
                free += block.size
                start = -(-(block.offset + 32) // PAGE) * PAGE
                end = (block.offset + block.size - 4) // PAGE * PAGE
                if start < end:
                    returnable += end - start
                    if not self._dry_run:
                        whole, at_rest = yield from self._give_back(area, block, start, end, page, size)
                        if not whole:
                            break
            if not number % 64:
                yield
        self._count(area, in_use, free, returnable)
        # A chain that is unsound only for a moment is in a release, which will change `used`.
        area.stable = now.used if at_rest else -1

    def _give_back(
        self, area: _Area, block: heapfile.Block, start: int, end: int, page: int, size: int
    ) -> "Generator[None, None, Tuple[bool, bool]]":
        """Give back the pages from `start` to `end`, inside the free block, except those given back before.

        Returns whether the block is sound, and whether nobody is changing the superblock.  If either is
        False, the block is left alone.
        """
        for begin, stop in self._gaps(area, start, end):
            if self._writing is None:
                mode = fcntl.fcntl(self._fd, fcntl.F_GETFL) & os.O_ACCMODE
                self._writing = self._fd if mode == os.O_RDWR else writable(self._fd)
            if not self._still_free(area, block):
                self.stable = False
                return False, True
            # The lock is read last: if it is free, the release that made this block has ended.
            superblock = heapfile.superblock_at(self._fd, area.offset, page, size)
            if superblock is None or not self._quiet(area, superblock):
                self.stable = False
                return False, False
            before = os.fstat(self._writing).st_blocks
            punch(self._writing, begin, stop - begin)
            after = os.fstat(self._writing).st_blocks
            self.given_back += max(0, before - after) * 512
            if area.given is not None:
                first, last = (begin - area.base) // PAGE, (stop - area.base) // PAGE
                area.given[first:last] = b"\1" * (last - first)
            yield
        return True, True

    def _gaps(self, area: _Area, start: int, end: int) -> "Iterator[Tuple[int, int]]":
        """The parts of `start` to `end` that are not given back yet, in pieces of at most SLICE bytes.

        SEEK_DATA cannot find them: it takes pages that were allocated and never written for a hole.
        """
        pages = (area.end - area.base) // PAGE
        if area.given is None and self._remembered + pages <= REMEMBERED:
            area.given = bytearray(pages)
            self._remembered += pages
        at = start
        while at < end:
            stop = end
            if area.given is not None:
                last = (end - area.base) // PAGE
                first = area.given.find(b"\0", (at - area.base) // PAGE, last)
                if first < 0:
                    return
                at = area.base + first * PAGE
                given = area.given.find(b"\1", first, last)
                stop = end if given < 0 else area.base + given * PAGE
            stop = min(stop, at + SLICE)
            yield at, stop
            at = stop

    def _still_free(self, area: _Area, block: heapfile.Block) -> bool:
        """Whether the block is unchanged and free, by its header, its tail and the next block's header."""
        fd, units = self._fd, block.size // heapfile.UNIT
        place = (block.offset - area.offset) // heapfile.UNIT
        if not _is_block(os.pread(fd, 16, block.offset), place, -1, units):
            return False
        following = block.offset + block.size
        raw = os.pread(fd, 20, following - 4)
        if raw[:4] != _U32.pack(units):
            return False
        return following == area.end or _is_block(raw[4:], place + units, previous_free=True)

    def _quiet(self, area: _Area, superblock: heapfile.Superblock) -> bool:
        """Whether the superblock's lock is free, or its holder is known to be dead."""
        if not superblock.lock_word:
            area.holder, area.dead, area.suspect = 0, False, False
            return True
        owner = superblock.lock_owner
        area.suspect = owner == area.holder > 0
        if owner != area.holder:
            area.holder, area.dead = owner, False
        return area.dead

    def _deserted(self, area: _Area, superblock: heapfile.Superblock, page: int, size: int) -> bool:
        """Whether the same thread was found twice holding the lock, is dead, and still holds it."""
        if area.suspect and self._lock_is_dead(superblock):
            # It may have released the lock before it ended.
            now = heapfile.superblock_at(self._fd, area.offset, page, size)
            area.dead = now is not None and bool(now.lock_word) and now.lock_owner == area.holder
        return area.dead

    def _count(self, area: _Area, in_use: int, free: int, returnable: int) -> None:
        self.in_use += in_use - area.in_use
        self.free += free - area.free
        self.returnable += returnable - area.returnable
        area.in_use, area.free, area.returnable = in_use, free, returnable


def _is_block(
    raw: bytes, place: int, refcount: "Optional[int]" = None, units: int = 0, previous_free: bool = False
) -> bool:
    """Whether these bytes are a block's header with these values (`units` 0, `refcount` None: any)."""
    if len(raw) < 16:
        return False
    magic, count, own_offset, length = _BLOCK.unpack_from(raw)
    return (
        magic | heapfile.PREVIOUS_FREE == heapfile.BLOCK_MAGIC | heapfile.PREVIOUS_FREE
        and own_offset == place
        and (not units or length == units)
        and (refcount is None or count == refcount)
        and (not previous_free or bool(magic & heapfile.PREVIOUS_FREE))
    )
