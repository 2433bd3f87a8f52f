"""Memory of the dead that comes back while peers are still attached: holes in what is free of an orphan.

A removed heap keeps all its memory until its last peer has gone.  Of a free block the allocator touches
its first 32 bytes and its last 4 only, and only the creator's process ever allocates.  So once the creator
is proven dead, the whole pages strictly inside free blocks are nobody's, and go back to the system by
fallocate(FALLOC_FL_PUNCH_HOLE).  Nothing else is written, nothing is mapped, no lock is taken.

What must hold is for the caller to prove: the creator is dead, and no forked child of it (without exec) is
among the holders, for such a child may still allocate (see `kinship`).  The rest is looked at here: the file
is on a tmpfs, and superblock and chain of blocks are whole up to the block.

Peers release while this reads.  Why a hole is safe all the same:

1. Nobody allocates any more, so blocks only join: what was once a free block lies inside one for ever.
2. A release joins blocks under the superblock's lock, and writes the headers of those that it joins after
   it has written the size of the result.  So a free block counts only if the lock was seen free *after*
   its header was read: then the release that made it so has ended, and a later one touches of it no more
   than its first 32 bytes and its last 4.
3. A release lowers `used` under that lock.  A superblock in which the lock was seen free after `used` was
   read is not looked at again until `used` is another.

Limits: a lock that the dead hold stays taken; only a caller that can tell (`dead_holder`) gets at what is
free there.  Of two cleaners at once each may count what both gave back.
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
"""Seconds that one call works, by and by; one hole of SLICE bytes more at most: an unlink may wait for it."""
SLICE = 1 << 20
"""Bytes of the largest single hole: about a tenth of a millisecond."""
REMEMBERED = 1 << 24
"""So many pages (64 GiB) of one heap are remembered as given back; others are given back again."""

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
    """Whether the file lies on a tmpfs."""
    # f_type, a long, comes first in struct statfs, which has 120 bytes on 64-bit Linux (statfs(2)).
    buffer = ctypes.create_string_buffer(512)
    if _libc.fstatfs(fd, buffer) != 0:
        return False
    return ctypes.c_long.from_buffer(buffer).value == _TMPFS_MAGIC


def writable(fd: int) -> int:
    """A new descriptor, open for writing, of the file of `fd`, whether or not it still has a name.

    OSError: no right to write to it, no /proc, no descriptor left.  Somebody who waits for the file's last
    writer sees one more come and go.
    """
    return os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)


def punch(fd: int, offset: int, length: int) -> None:
    """Give `length` bytes of the file back to the system; what is read there from then on is zero.

    OSError: EBADF (not open for writing), EOPNOTSUPP (Linux before 3.5), EPERM (sealed).
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

    settled  its `used` when it was last looked through with nobody at work in it; -1 = not yet
    given    a byte for each page from `base` on: 1 = given back; None where nothing is
    holder   owner of the lock when it was last found taken; `suspect` if it was before, too, and `dead` if it
             is known to be so
    in_use, free, returnable  bytes in blocks of either kind, and in whole pages inside free ones
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
        "settled",
        "suspect",
    )

    def __init__(self, superblock: heapfile.Superblock) -> None:
        self.offset = superblock.offset
        self.data = superblock.offset + superblock.data_start
        self.end = self.data + superblock.size
        self.base = self.data // PAGE * PAGE
        self.settled = -1
        self.given: Optional[bytearray] = None
        self.holder = 0
        self.dead = self.suspect = False
        self.in_use = self.free = self.returnable = 0


class Reclaim:
    """Gives back what is free in one orphan; call `go_on` until it says that all was looked at, and again.

    fd            of the heap, open for reading; it stays the caller's, and open.  It is opened once more for
                  writing while there is something to give back.
    kind          NO_CHILD, or UNTOLD `by_word` of a person who takes it upon himself that no forked child of
                  the creator holds the heap.  NotAllowed otherwise, and for what is not on a tmpfs.
    lock_is_dead  asked of a superblock whose lock is found taken twice by the same holder

    Figures, in bytes, as of the last time that each superblock was looked at:
    given_back    by this object
    in_use        blocks in use: they come back when whoever holds them lets go
    free          in free blocks
    returnable    whole pages inside free blocks: with `dry_run` that is what would be given back at most
    taken         memory that the file takes now
    settled       everything was looked at, with nobody at work in it
    whole         superblocks and blocks are without a fault to the end of the file
    """

    def __init__(
        self,
        fd: int,
        kind: kinship.Kinship,
        by_word: bool = False,
        dry_run: bool = False,
        lock_is_dead: "LockIsDead" = lambda superblock: False,
    ) -> None:
        if kind is not kinship.NO_CHILD and not (kind is kinship.UNTOLD and by_word):
            raise NotAllowed(
                "a forked child of its creator holds it, and may still allocate"
                if kind is kinship.CHILD
                else "it is not known whether a forked child of its creator holds it, and may still allocate"
            )
        if not on_tmpfs(fd):
            raise NotAllowed("it is not on a tmpfs")
        self.given_back = self.in_use = self.free = self.returnable = self.taken = 0
        self.settled = self.whole = False
        self._fd = fd
        self._dry_run = dry_run
        self._lock_is_dead = lock_is_dead
        self._writing: Optional[int] = None
        self._areas: List[_Area] = []
        self._remembered = 0
        self._pass: Optional[Iterator[None]] = None

    @property
    def would_give_back(self) -> int:
        """Bytes, as far as block counts tell: what is no whole page of a free block takes memory."""
        rest = os.fstat(self._fd).st_size - self.returnable
        return max(0, min(self.returnable, self.taken - rest))

    def go_on(self, seconds: float = BUDGET) -> bool:
        """Work for so long; whether all was looked at, so that the next call begins anew.

        OSError: it cannot be opened for writing, or the kernel makes no holes; BlockingIOError if another
        cleaner was just asking for a lease on it: begin anew.
        """
        end = time.monotonic() + seconds
        if self._pass is None:
            self._pass = self._look()
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
        """Leave off; `fd` stays open."""
        self._end_pass()

    def _end_pass(self) -> None:
        self._pass = None
        if self._writing is not None:
            if self._writing != self._fd:
                os.close(self._writing)
            self._writing = None
        self.taken = os.fstat(self._fd).st_blocks * 512

    def _look(self) -> "Iterator[None]":
        """One look at everything; it pauses after each piece of work."""
        fd = self._fd
        size = os.fstat(fd).st_size
        header = heapfile.read_header(fd)
        self.settled, self.whole = True, False
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
                # Nobody makes another superblock of it now: something has written over it.
                break
            if superblock.used != area.settled:
                yield from self._look_into(area, superblock, page, size)
            whole = whole and area.in_use + area.free == area.end - area.data
            offset, count = area.end, count + 1
            yield
        for lost in self._areas[count:]:
            self._count(lost, 0, 0, 0)
        del self._areas[count:]
        self.whole = whole and offset == size

    def _look_into(self, area: _Area, first: heapfile.Superblock, page: int, size: int) -> "Iterator[None]":
        # Whoever lowered `used` to what `first` has, has left when a second look finds the lock free.
        now = heapfile.superblock_at(self._fd, area.offset, page, size)
        if now is None:
            self.settled = False
            return
        if not (self._quiet(area, now) or self._deserted(area, now, page, size)) or first.used != now.used:
            self.settled = False
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
        # What is not whole for a moment only is in a release, and `used` will be another.
        area.settled = now.used if at_rest else -1

    def _give_back(
        self, area: _Area, block: heapfile.Block, start: int, end: int, page: int, size: int
    ) -> "Generator[None, None, Tuple[bool, bool]]":
        """Give back what is not yet given back of the pages from `start` to `end`, inside the free block.

        Whether the block is whole, and whether nobody is at work in the superblock; if not, it is left alone.
        """
        for begin, stop in self._gaps(area, start, end):
            if self._writing is None:
                mode = fcntl.fcntl(self._fd, fcntl.F_GETFL) & os.O_ACCMODE
                self._writing = self._fd if mode == os.O_RDWR else writable(self._fd)
            if not self._still_free(area, block):
                self.settled = False
                return False, True
            # The lock last: whoever made the block what it was just read to be has left.
            superblock = heapfile.superblock_at(self._fd, area.offset, page, size)
            if superblock is None or not self._quiet(area, superblock):
                self.settled = False
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
        """What is not yet given back of the pages from `start` to `end`, in pieces.

        The kernel cannot be asked: SEEK_DATA takes pages that were allocated and never written for a hole.
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
        """Whether the block is free as it was seen, and its tail and the block behind it say so too."""
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
        """Whether nobody who lives is at work in the superblock, as far as is known."""
        if not superblock.lock_word:
            area.holder, area.dead, area.suspect = 0, False, False
            return True
        owner = superblock.lock_owner
        area.suspect = owner == area.holder > 0
        if owner != area.holder:
            area.holder, area.dead = owner, False
        return area.dead

    def _deserted(self, area: _Area, superblock: heapfile.Superblock, page: int, size: int) -> bool:
        """Whether the lock was found taken twice by the same thread, and that is gone and has not let go."""
        if area.suspect and self._lock_is_dead(superblock):
            # It may have ended in peace since.
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
    """Whether these bytes are a block's header that says this (`units` 0, `refcount` None: anything)."""
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
