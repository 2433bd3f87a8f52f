"""Writes real heaps, byte for byte as REDHAWK lays them out, for the tests and the demonstration.

    heapwriter.py own [OPTION ...] [NAME VALUE ...]   create the heap of this process, and keep it
    heapwriter.py attach NAME [OPTION ...]            attach to a heap as a peer, and keep it

NAME VALUE only appear on the command line: REDHAWK starts a component with such pairs.

It prints "ready NAME" when the heap is created or attached, then waits until stdin ends, and exits like a
normal REDHAWK process: an owner unlinks its heap. If killed, it leaves everything behind.

  --root=DIR        directory of the heaps (default /dev/shm)
  --keep-fd         keep the descriptor open, too (default: only the mappings, which stay for life)
  --for-ever        ignore stdin: wait until killed
only for own:
  --superblocks=N   number of superblocks (default 1)
  --size=BYTES      size of each data area (default 2097152); rounded up to whole pages
  --used=BYTES      bytes in use in all superblocks, with block headers (default 0)
  --block=BYTES     size of each block in use, with header (default 65536)
  --mode=OCTAL      mode of the file (default 666 minus the umask)
  --holders=N       references to each block in use (default 1)
  --hold-lock       hold the lock of the first superblock for ever
only for attach:
  --hold            hold one reference to each block in use. Each line of stdin is a number of blocks: they
                    are released in random order, as REDHAWK does, after a check that every byte of all held
                    blocks is as its owner wrote it. The answer is "holds N", the number left
"""

import ctypes
import hashlib
import mmap
import os
import random
import struct
import sys

ROOT = "/dev/shm"
PAGE = mmap.PAGESIZE
SUPERBLOCK_SIZE = 2097152
UNIT = 16
MIN_BLOCK = 48
FREE = -1
LOCK_SIZE = 48 if os.uname().machine == "aarch64" else 40

HEADER = struct.Struct("<IIii")
# The lock's kind, 128, is a process-shared mutex of glibc's.
SUPERBLOCK_START = struct.Struct("<256sQIIi4xi4xi")
SUPERBLOCK_END = struct.Struct("<QII")
BLOCK = struct.Struct("<IiII")
LINKS = struct.Struct("<IIII")
U32 = struct.Struct("<I")


def whole_pages(size, page=PAGE):
    return -(-size // page) * page


def put_header(buffer, creator, refcount=1, version=1):
    HEADER.pack_into(buffer, 0, 0xACEB70CC, version, refcount, creator)


def put_superblock(
    buffer, name, offset, size, fill=(), at=None, page=PAGE, lock_size=LOCK_SIZE, lock_owner=0
):
    """Write a superblock of `size` bytes, for `offset` in the file, into `buffer` at `at` (default `offset`).

    fill  its blocks in order, as (bytes with header, refcount); refcount FREE for a free block
    The rest of `size` is free. Two free blocks must not be adjacent: the allocator merges them.
    """
    at = offset if at is None else at
    left = size - sum(length for length, _ in fill)
    fill = list(fill)
    if left:
        fill.append((left, FREE))
    position, before, used, bins = page // UNIT, 0, 0, {}
    for length, refcount in fill:
        if length < MIN_BLOCK or length % UNIT or (before == refcount == FREE):
            raise ValueError(f"no allocator makes these blocks: {fill}")
        units, start = length // UNIT, at + position * UNIT
        BLOCK.pack_into(buffer, start, 0xBADDC0DE | (before == FREE), refcount, position, units)
        if refcount == FREE:
            bins.setdefault(units, []).append(position)
            U32.pack_into(buffer, start + length - 4, units)
        else:
            used += length
        position, before = position + units, refcount
    first, last = put_free_list(buffer, at, bins)
    lock_word = 1 if lock_owner else 0
    encoded = os.fsencode(name)
    SUPERBLOCK_START.pack_into(buffer, at, encoded, offset, size, page, lock_word, lock_owner, 128)
    SUPERBLOCK_END.pack_into(buffer, at + 272 + lock_size, used, first, last)


def put_free_list(buffer, at, bins):
    """Link the free blocks; returns the first and the last bin. `bins`: size -> positions, in units."""
    heads = [bins[units][0] for units in sorted(bins)]
    for smaller, head, larger, units in zip([0] + heads, heads, heads[1:] + [0], sorted(bins)):
        chain = bins[units]
        for previous, position, following in zip([0] + chain, chain, chain[1:] + [0]):
            sizes = (smaller, larger) if position == head else (0, 0)
            LINKS.pack_into(buffer, at + position * UNIT + UNIT, previous, following, *sizes)
    return (heads[0], heads[-1]) if heads else (0, 0)


def image(pid, superblocks=((SUPERBLOCK_SIZE, ()),), name=None, page=PAGE, lock_size=LOCK_SIZE, refcount=1):
    """A whole heap as a bytearray; `superblocks`: (size, fill) each."""
    buffer = bytearray(page + sum(page + size for size, _ in superblocks))
    put_header(buffer, pid, refcount)
    offset = page
    for size, fill in superblocks:
        put_superblock(buffer, name or "heap-%d" % pid, offset, size, fill, None, page, lock_size)
        offset += page + size
    return buffer


def create(path, pid, superblocks=((SUPERBLOCK_SIZE, ()),), mode=0o644, refcount=1):
    """Write a heap at `path` as if left behind by `pid`; no process has it open or mapped."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        os.fchmod(fd, mode)
        size = PAGE + sum(PAGE + size for size, _ in superblocks)
        os.posix_fallocate(fd, 0, size)
        with mmap.mmap(fd, size) as buffer:
            put_header(buffer, pid, refcount)
            offset = PAGE
            for size, fill in superblocks:
                put_superblock(buffer, os.path.basename(path), offset, size, fill)
                offset += PAGE + size
    finally:
        os.close(fd)


def filled(count, size, used, block=65536, holders=1):
    """`count` superblocks of `size`, the first of them filled with `used` bytes in blocks of `block`."""
    superblocks = []
    for _ in range(count):
        here = min(used, size) // UNIT * UNIT
        # The rest must be large enough for a block.
        if 0 < size - here < MIN_BLOCK:
            here = size - MIN_BLOCK
        whole = max(block, MIN_BLOCK) // UNIT * UNIT
        fill = [(whole, holders)] * (here // whole)
        rest = here % whole
        if rest >= MIN_BLOCK:
            fill.append((rest, holders))
        elif rest and fill:
            fill[-1] = (whole + rest, holders)
        superblocks.append((size, fill))
        used -= sum(length for length, _ in fill)
    return superblocks


def mapped(fd, offset, size):
    """A permanent read-write mapping without a descriptor (mmap.mmap would keep a copy of it)."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
    address = libc.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, fd, offset)
    if address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "mmap: " + os.strerror(ctypes.get_errno()))
    return (ctypes.c_char * size).from_address(address)


def pattern(offset, size):
    """The bytes that fill the data of a block at `offset` in the file."""
    digest = hashlib.sha256(b"%d" % offset).digest()
    return (digest * (size // len(digest) + 1))[:size]


class LiveSuperblock:
    """A superblock that this process maps: allocates and releases blocks under its lock, as REDHAWK does.

    Positions and sizes of blocks are in units, as in the file.  Each field is written by one store.
    """

    # Fields of a block, as words of 4 bytes; the last four only in a free block.
    MAGIC, COUNT, PLACE, UNITS, PREVIOUS_FREE, NEXT_FREE, SMALLER, LARGER = range(8)

    def __init__(self, mapping):
        address = ctypes.addressof(mapping)
        self.words = (ctypes.c_uint32 * (len(mapping) // 4)).from_address(address)
        self.lock = ctypes.c_void_p(address + 272)
        self.used = ctypes.c_uint64.from_address(address + 272 + LOCK_SIZE)
        self.first = (272 + LOCK_SIZE + 8) // 4  # the words of the free list
        self.last = self.first + 1
        self.offset, size, start = struct.unpack_from("<QII", mapping, 256)
        self.begin, self.end = start // UNIT, (start + size) // UNIT
        self.address = address
        self.libc = ctypes.CDLL(None)

    def __enter__(self):
        assert self.libc.pthread_mutex_lock(self.lock) == 0

    def __exit__(self, *exc):
        self.libc.pthread_mutex_unlock(self.lock)

    def get(self, position, field):
        return self.words[4 * position + field]

    def put(self, position, field, value):
        self.words[4 * position + field] = value

    def blocks(self):
        """(position, refcount) of each block."""
        position = self.begin
        while position < self.end:
            yield position, ctypes.c_int32(self.get(position, self.COUNT)).value
            position += self.get(position, self.UNITS)

    def data(self, position):
        """Address in memory, offset in the file, and length of a block's data."""
        at, size = (position + 1) * UNIT, (self.get(position, self.UNITS) - 1) * UNIT
        return self.address + at, self.offset + at, size

    def write(self, position):
        address, offset, size = self.data(position)
        ctypes.memmove(address, pattern(offset, size), size)

    def whole(self, position):
        """Whether every byte of the block is as `write` wrote it."""
        address, offset, size = self.data(position)
        return ctypes.string_at(address, size) == pattern(offset, size)

    def release(self, position):
        """Drop one reference to a block; the last one frees it."""
        with self:
            count = self.get(position, self.COUNT) - 1
            self.put(position, self.COUNT, count)
        # REDHAWK, too, changes the count atomically before it takes the lock.
        if not count:
            with self:
                self._free(position)

    def _free(self, position):
        units = self.get(position, self.UNITS)
        self.used.value -= units * UNIT
        following = position + units
        if following < self.end:
            if self._is_free(following):
                self._dequeue(following)
                self._join(position, following)
            else:
                self.put(following, self.MAGIC, self.get(following, self.MAGIC) | 1)
        if self.get(position, self.MAGIC) & 1:
            previous = position - self.words[4 * position - 1]
            self._dequeue(previous)
            self._join(previous, position)
            position = previous
        else:
            self.put(position, self.COUNT, 0xFFFFFFFF)
        self._end(position)
        self._enqueue(position)

    def _is_free(self, position):
        return self.get(position, self.COUNT) >> 31

    def _join(self, position, following):
        self.put(position, self.UNITS, self.get(position, self.UNITS) + self.get(following, self.UNITS))
        # A merged block is made invalid after the size of the result was written.
        self.put(following, self.MAGIC, 0xFFFFFFFF ^ 0xBADDC0DE)
        self.put(following, self.UNITS, 0xFFFFFFFF)

    def _end(self, position):
        units = self.get(position, self.UNITS)
        self.words[4 * (position + units) - 1] = units

    def _enqueue(self, position):
        units, smaller, bin = self.get(position, self.UNITS), 0, self.words[self.first]
        while bin and self.get(bin, self.UNITS) < units:
            smaller, bin = bin, self.get(bin, self.LARGER)
        if bin and self.get(bin, self.UNITS) == units:
            after = self.get(bin, self.NEXT_FREE)
            self._link(position, bin, after, 0, 0)
            if after:
                self.put(after, self.PREVIOUS_FREE, position)
            self.put(bin, self.NEXT_FREE, position)
        else:
            self._link(position, 0, 0, smaller, bin)
            self._between_bins(smaller, position, bin, position)

    def _dequeue(self, position):
        before, after, smaller, larger = (self.get(position, field) for field in range(4, 8))
        if after:
            self.put(after, self.PREVIOUS_FREE, before)
        if before:
            self.put(before, self.NEXT_FREE, after)
        elif after:
            self.put(after, self.SMALLER, smaller)
            self.put(after, self.LARGER, larger)
            self._between_bins(smaller, after, larger, after)
        else:
            self._between_bins(smaller, larger, larger, smaller)

    def _link(self, position, *links):
        for field, value in zip(range(4, 8), links):
            self.put(position, field, value)

    def _between_bins(self, smaller, up, larger, down):
        """Link the bin `smaller` (0: the head) to `up`, and `larger` (0: the end) back to `down`."""
        self.words[4 * smaller + self.LARGER if smaller else self.first] = up
        self.words[4 * larger + self.SMALLER if larger else self.last] = down

    def allocate(self, size):
        """The position of a new block for `size` bytes; 0 = no room.  Only the creator allocates."""
        units = max(-(-(size + UNIT) // UNIT), MIN_BLOCK // UNIT)
        with self:
            bin = self.words[self.first]
            while bin and self.get(bin, self.UNITS) < units:
                bin = self.get(bin, self.LARGER)
            if not bin:
                return 0
            position = self.get(bin, self.NEXT_FREE) or bin
            self._dequeue(position)
            rest = self.get(position, self.UNITS) - units
            if rest * UNIT >= MIN_BLOCK:
                self.put(position, self.UNITS, units)
                for field, value in enumerate((0xBADDC0DE, 0xFFFFFFFF, position + units, rest)):
                    self.put(position + units, field, value)
                self._end(position + units)
                self._enqueue(position + units)
            self.put(position, self.COUNT, 1)
            following = position + self.get(position, self.UNITS)
            if following < self.end:
                self.put(following, self.MAGIC, self.get(following, self.MAGIC) & ~1)
            self.used.value += self.get(position, self.UNITS) * UNIT
            return position


class LiveHeap:
    """A heap that this process keeps mapped read-write until it ends, as its owner or as a peer.

    name  of the file in root
    fd    a descriptor opened O_RDWR, or None
    """

    def __init__(self, root, name, flags, keep_fd):
        self.path = os.path.join(root, name)
        self.name = name
        # The same flags as shm_open().
        self.fd = os.open(self.path, flags | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        self.keep_fd = keep_fd
        self.mappings = []

    @classmethod
    def create(
        cls,
        root=ROOT,
        superblocks=((SUPERBLOCK_SIZE, ()),),
        mode=None,
        keep_fd=False,
        name=None,
        hold_lock=False,
    ):
        """Create the heap of this process; `superblocks`: (size, fill) each (see `put_superblock`)."""
        heap = cls(root, name or "heap-%d" % os.getpid(), os.O_CREAT | os.O_TRUNC, True)
        if mode is not None:
            os.fchmod(heap.fd, mode)
        os.posix_fallocate(heap.fd, 0, PAGE)
        heap.mappings.append(mapped(heap.fd, 0, PAGE))
        put_header(heap.mappings[0], os.getpid())
        for size, fill in superblocks:
            heap.grow(size, fill, os.getpid() if hold_lock and len(heap.mappings) == 1 else 0)
        if not keep_fd:
            heap.close_fd()
        return heap

    @classmethod
    def attach(cls, name, root=ROOT, keep_fd=False):
        """Attach to the heap `name` as a peer, and map all of it."""
        heap = cls(root, name, 0, keep_fd)
        heap.mappings.append(mapped(heap.fd, 0, PAGE))
        heap.count(1)
        offset, end = PAGE, os.fstat(heap.fd).st_size
        while offset < end:
            recorded, size = struct.unpack("<QI", os.pread(heap.fd, 12, offset + 256))
            if recorded != offset:
                break
            heap.mappings.append(mapped(heap.fd, offset, PAGE + size))
            offset += PAGE + size
        if not keep_fd:
            heap.close_fd()
        return heap

    def grow(self, size=SUPERBLOCK_SIZE, fill=(), lock_owner=0):
        """Add a superblock; needs `fd`."""
        offset = os.fstat(self.fd).st_size
        os.posix_fallocate(self.fd, offset, PAGE + size)
        self.mappings.append(mapped(self.fd, offset, PAGE + size))
        put_superblock(self.mappings[-1], self.name, offset, size, fill, at=0, lock_owner=lock_owner)

    def superblocks(self):
        """The LiveSuperblocks; valid only while the heap is sound."""
        return [LiveSuperblock(mapping) for mapping in self.mappings[1:]]

    def in_use(self):
        """(LiveSuperblock, position) of each block in use."""
        return [
            (superblock, position)
            for superblock in self.superblocks()
            for position, count in superblock.blocks()
            if count > 0
        ]

    def count(self, change):
        """Change the header's refcount (the real one does so atomically)."""
        (refcount,) = struct.unpack_from("<i", self.mappings[0], 8)
        struct.pack_into("<i", self.mappings[0], 8, refcount + change)

    def close_fd(self):
        """Close the descriptor; only the mappings keep the heap."""
        fd, self.fd = self.fd, None
        if fd is not None:
            os.close(fd)

    def detach(self):
        """Detach, as a peer does when it exits normally."""
        self.count(-1)

    def unlink(self):
        """Unlink the heap, as its owner does at a normal exit; it may be unlinked already."""
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            pass


def hold(heap, lines):
    """Hold the blocks in use; release the number in each line. Raises ValueError if a block is damaged."""
    held = heap.in_use()
    random.shuffle(held)
    for line in lines:
        damaged = [position for superblock, position in held if not superblock.whole(position)]
        if damaged:
            raise ValueError("%d blocks of %s are damaged" % (len(damaged), heap.name))
        for _ in range(min(int(line), len(held))):
            superblock, position = held.pop()
            superblock.release(position)
        sys.stdout.write("holds %d\n" % len(held))
        sys.stdout.flush()


def main(arguments):
    options = {"root": ROOT, "superblocks": "1", "size": str(SUPERBLOCK_SIZE), "used": "0", "block": "65536"}
    options["holders"] = "1"
    flags, names = set(), []
    for argument in arguments:
        key, equals, value = argument[2:].partition("=")
        if not argument.startswith("--"):
            names.append(argument)
        elif equals and (key in options or key == "mode"):
            options[key] = value
        elif not equals and key in ("keep-fd", "for-ever", "hold-lock", "hold"):
            flags.add(key)
        else:
            names = []
            break
    keep_fd = "keep-fd" in flags
    if names[:1] == ["own"] and len(names) % 2:
        sizes = [int(options[key]) for key in ("superblocks", "size", "used", "block", "holders")]
        superblocks = filled(sizes[0], whole_pages(sizes[1]), *sizes[2:])
        mode = int(options["mode"], 8) if "mode" in options else None
        heap = LiveHeap.create(options["root"], superblocks, mode, keep_fd, None, "hold-lock" in flags)
        for superblock, position in heap.in_use():
            superblock.write(position)
        leave = heap.unlink
    elif len(names) == 2 and names[0] == "attach":
        heap = LiveHeap.attach(names[1], options["root"], keep_fd)
        leave = heap.detach
    else:
        sys.stderr.write(__doc__)
        return 2
    try:
        sys.stdout.write("ready %s\n" % heap.name)
        sys.stdout.flush()
        if "hold" in flags:
            hold(heap, sys.stdin)
        # This process has the writing end of the pipe: only a signal ends the wait.
        wait = os.pipe()[0] if "for-ever" in flags else 0
        while os.read(wait, 4096):
            pass
    except (KeyboardInterrupt, BrokenPipeError):
        pass
    leave()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (OSError, ValueError) as error:
        sys.exit(f"heapwriter.py: {error}")
