"""Memory of the dead that comes back while peers are still attached: holes in what is free of an orphan.

A removed heap keeps all its memory until its last peer has gone.  Of a free block the allocator touches
its first 32 bytes and its last 4 only, and only the creator's process ever allocates.  So once the creator
is proven dead, the whole pages strictly inside free blocks are nobody's, and go back to the system by
fallocate(FALLOC_FL_PUNCH_HOLE).  Nothing else is written, nothing is mapped, no lock is taken.

What must hold is for the caller to prove: the creator is dead, and no forked child of it (without exec) is
among the holders, for such a child may still allocate (`kin`).  The rest is looked at here: the file is on
a tmpfs, and superblock and chain of blocks are whole up to the block.

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
import stat
import time
from struct import Struct

from gppshm import heapfile, lease, locks, procfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Dict, Generator, Iterable, Iterator, List, Optional, Sequence, Set, Tuple

    FileId = Tuple[int, int]
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
_EVENT = Struct("iIII")
_IN_CLOSE_WRITE, _IN_IGNORED = 0x00000008, 0x00008000

_libc = ctypes.CDLL(None, use_errno=True)
_fallocate = getattr(_libc, "fallocate64", _libc.fallocate)
_fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


# -- conditions -----------------------------------------------------------------------------------------


class Kinship(str):
    """Whether a forked child of the creator (without exec) is among the holders."""

    __slots__ = ()


NO_CHILD = Kinship("no forked child")
CHILD = Kinship("a forked child")
"""A holder maps the header page where the creator had it (or address randomisation is off)."""
UNTOLD = Kinship("not known")


class Noted:
    """What tells a creator's forked child from a peer, noted while the creator lived (`note`).

    address  where it had the header page; 0 = not known
    started  its start, in ticks since boot; 0 = not known
    uid      its user, if it had no right to become another one; else -1
    """

    __slots__ = ("address", "started", "uid")

    def __init__(self, address: int = 0, started: int = 0, uid: int = -1) -> None:
        self.address = address
        self.started = started
        self.uid = uid

    def plain(self) -> "Tuple[int, int, int]":
        """What its parameters are."""
        return self.address, self.started, self.uid


NOTHING = Noted()
"""Of a creator that was never seen alive."""


def note(pid: int, file_id: "FileId", proc_root: str = "/proc") -> Noted:
    """What can be noted of a creator that lives; NOTHING if it does not show where it maps its heap."""
    started = _started(proc_root, pid)
    address = header_address(maps_of(pid, proc_root) or b"", file_id)
    uid = _uid(proc_root, pid, unprivileged=True)
    if address <= 0 or not started or _started(proc_root, pid) != started:
        return NOTHING
    return Noted(address, started, uid)


def header_address(maps: bytes, file_id: "FileId") -> int:
    """Where the header page of a heap is mapped, by the text of /proc/<pid>/maps.

    0: the file is not mapped; -1: it is, but its header page is not, or more than once.
    """
    place = b" %02x:%02x %d" % (os.major(file_id[0]), os.minor(file_id[0]), file_id[1])
    mapped, found = False, []
    for line in maps.split(b"\n"):
        if place not in line:
            continue
        fields = line.split(None, 5)
        if len(fields) < 5 or b" " + fields[3] + b" " + fields[4] != place:
            continue
        mapped = True
        if not int(fields[2], 16):
            found.append(int(fields[0].partition(b"-")[0], 16))
    if not mapped:
        return 0
    return found[0] if len(found) == 1 else -1


def kinship(
    maps: "Dict[int, Optional[bytes]]", file_id: "FileId", address: int
) -> "Tuple[Kinship, Tuple[int, ...]]":
    """Is a forked child of the creator among these processes, and which ones say so.

    `maps`: by pid, the text of maps; None where it could not be read.  `address`: where the creator had the
    header page, noted while it lived; 0 if it was not.  A peer has it elsewhere.  A holder that shows no
    header page cannot be told from a child.
    """
    children, untold = [], []
    for pid, text in sorted(maps.items()):
        there = header_address(text, file_id) if text else -1
        if there and there == address:
            children.append(pid)
        elif there < 0 or (there and address <= 0):
            untold.append(pid)
    if children:
        return CHILD, tuple(children)
    return (UNTOLD, tuple(untold)) if untold else (NO_CHILD, ())


def kin(
    file_id: "FileId", noted: Noted = NOTHING, proc_root: str = "/proc"
) -> "Tuple[Kinship, Tuple[int, ...]]":
    """`kinship` of all processes of the host, as they are now; UNTOLD and no pid where some are invisible.

    The creator must have been proven dead before.  Who started before it is no child of it, and not looked
    into.  A child may hand on what it holds by a fork and end while this looks: what is new in /proc is
    looked at until nothing is.  So is, for some milliseconds, who is just ending, and shows no maps.
    """
    return kin_of([(file_id, noted)], proc_root)[0]


def kin_of(
    questions: "Sequence[Tuple[FileId, Noted]]", proc_root: str = "/proc"
) -> "List[Tuple[Kinship, Tuple[int, ...]]]":
    """`kin` of each of these heaps, with one look at the processes for all of them."""
    holders: List[Dict[int, Optional[bytes]]] = [{} for _ in questions]
    eldest = min([noted.started for _, noted in questions], default=0)
    known: Set[int] = set()
    for delay in _LOOKS:
        seen_to_hold = {pid for maps in holders for pid in maps}
        processes = _Younger(proc_root, eldest, known - seen_to_hold)
        if processes.blind_spot():
            return [(UNTOLD, ())] * len(holders)
        for process in processes.all():
            _look_into(process, processes, questions, holders)
        whole = all(text for maps in holders for text in maps.values())
        if processes.listed <= known and whole:
            break
        if processes.listed <= known:
            time.sleep(delay)
        known |= processes.listed
    else:
        # Some are still new, or show nothing: only a child that was found is proof of anything.
        found = [kinship(maps, file_id, noted.address) for (file_id, noted), maps in zip(questions, holders)]
        return [(kind, pids) if kind is CHILD else (UNTOLD, pids) for kind, pids in found]
    return [kinship(maps, file_id, noted.address) for (file_id, noted), maps in zip(questions, holders)]


def _look_into(
    process: procfs.Process,
    processes: procfs.Processes,
    questions: "Sequence[Tuple[FileId, Noted]]",
    holders: "List[Dict[int, Optional[bytes]]]",
) -> None:
    """Note of each heap whether that process holds it, and by what maps."""
    pid, started, text = process.pid, 0, None
    for (file_id, noted), maps in zip(questions, holders):
        maps.pop(pid, None)
        if process.existence is not procfs.UNREADABLE and file_id not in process.files:
            continue
        started = started or _started(processes.proc_root, pid)
        if pid != os.getpid() and 0 < started < noted.started:
            continue
        text = text or maps_of(pid, processes.proc_root)
        if text or not (processes.no_such_process(pid) or _is_no_child(processes.proc_root, pid, noted)):
            maps[pid] = text


class _Younger(procfs.Processes):
    """The processes of this host but those that started before a moment, in ticks, and those `known`.

    This very process is always among them, so that an empty list is one that could not be had.
    """

    def __init__(self, proc_root: str, started: int, known: "Set[int]") -> None:
        procfs.Processes.__init__(self, proc_root)
        self.listed: Set[int] = set()
        self._since = started
        self._known = known

    def all(self) -> "List[procfs.Process]":
        if self._all is None:
            self._all = []
            try:
                self.listed = {int(name) for name in os.listdir(self.proc_root) if name.isdigit()}
            except OSError:
                return self._all
            for pid in sorted(self.listed - self._known | {os.getpid()}):
                if pid == os.getpid() or not 0 < _started(self.proc_root, pid) < self._since:
                    self._all.append(self.process(pid))
        return self._all


_LOOKS = (0, 0.001, 0.002, 0.004, 0.008, 0.016)
"""Seconds after each look at processes that show no maps."""

_PF_EXITING = 0x00000004  # linux/sched.h

_SUBORDINATE_UIDS = 65536
"""From here on a user may have uids besides his own, by way of a user namespace (subuid(5))."""


def _is_no_child(proc_root: str, pid: int, noted: Noted) -> bool:
    """Whether a process whose maps cannot be read is known to be no forked child of the creator."""
    if pid == 1:
        return True  # the host's first process is nobody's child
    fields = _stat(proc_root, pid)
    if fields and int(fields[6]) & _PF_EXITING and int(fields[17]) == 1:
        return True  # its last thread is past its last instruction
    # Who cannot become another user has no child that is one, until it execs.
    uid = _uid(proc_root, pid)
    return noted.uid >= 0 and 0 <= uid < _SUBORDINATE_UIDS and uid != noted.uid


def _stat(proc_root: str, pid: int) -> "List[bytes]":
    """The fields of stat from the third on: 6 flags, 17 threads, 19 start; none if it cannot be read."""
    fields = _read(f"{proc_root}/{pid}/stat").rpartition(b")")[2].split()
    return fields if len(fields) > 19 else []


def _started(proc_root: str, pid: int) -> int:
    """The start of a process in ticks since boot; 0 if it cannot be known."""
    fields = _stat(proc_root, pid)
    return int(fields[19]) if fields else 0


def _uid(proc_root: str, pid: int, unprivileged: bool = False) -> int:
    """The user of a process; -1 if it has several, or rights, or is not known."""
    lines = _read(f"{proc_root}/{pid}/status").split(b"\n")
    status = {line.partition(b":")[0]: line.partition(b":")[2].split() for line in lines}
    uids = set(status.get(b"Uid", ()))
    if len(uids) != 1:
        return -1
    if unprivileged and (b"0" in uids or int((status.get(b"CapPrm") or [b"1"])[0], 16)):
        return -1
    return int(uids.pop())


def _read(path: str) -> bytes:
    """The whole of a small file of /proc; b"" if it is gone, or not for us."""
    try:
        with open(path, "rb", buffering=0) as stream:
            return stream.read() or b""
    except OSError:
        return b""


def maps_of(pid: int, proc_root: str = "/proc") -> "Optional[bytes]":
    """The text of a process' maps, by another thread where its first has ended; None if there is none."""
    if not procfs.may_read(pid):
        return None
    try:
        tids = [""] + ["/task/" + tid for tid in os.listdir(f"{proc_root}/{pid}/task")]
    except OSError:
        return None
    return next(filter(None, (_read(f"{proc_root}/{pid}{tid}/maps") for tid in tids)), None)


def dead_holder(file_id: "FileId", proc_root: str = "/proc") -> "LockIsDead":
    """Tells of a superblock whether its lock is held by the dead: asks all processes of the host."""

    def is_dead(superblock: heapfile.Superblock) -> bool:
        threads = locks.Threads(file_id, procfs.Processes(proc_root))
        return locks.look(superblock, threads).state is locks.DEAD

    return is_dead


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


def open_held(file_id: "FileId", pids: "Iterable[int]", proc_root: str = "/proc") -> int:
    """A descriptor, open for reading, of a file that these processes hold, which may have no name any more.

    By their descriptors, or, where they have none left, by what they map (that needs CAP_SYS_ADMIN or
    CAP_CHECKPOINT_RESTORE).  OSError if none of them leads to it: the first refusal, or ENOENT.
    """
    return open_regular(way_to(file_id, pids, proc_root), file_id)


def way_to(file_id: "FileId", pids: "Iterable[int]", proc_root: str = "/proc") -> str:
    """The path by which `open_held` reaches the file; what looks into processes, and may block, is here."""
    refusal: Optional[OSError] = None
    for pid in pids:
        for path in _ways_to(file_id, pid, proc_root):
            try:
                os.close(open_regular(path, file_id))
                return path
            except FileNotFoundError:
                continue
            except OSError as error:
                refusal = refusal or error
    raise refusal or FileNotFoundError(errno.ENOENT, "no process leads to it")


def _ways_to(file_id: "FileId", pid: int, proc_root: str) -> "Iterator[str]":
    if not procfs.may_read(pid):
        return
    for path in procfs.descriptors(pid, proc_root) or ():
        try:
            status = os.stat(path)
        except OSError:
            continue
        if (status.st_dev, status.st_ino) == file_id:
            yield path
    place = b" %02x:%02x %d" % (os.major(file_id[0]), os.minor(file_id[0]), file_id[1])
    for line in (maps_of(pid, proc_root) or b"").split(b"\n"):
        if place in line:
            start, _, end = line.partition(b" ")[0].partition(b"-")
            # The names of map_files have no leading zeros, the lines of maps have (proc(5)).
            yield f"{proc_root}/{pid}/map_files/{int(start, 16):x}-{int(end, 16):x}"


def open_regular(path: str, file_id: "FileId") -> int:
    """Open what the link leads to, if it is that file; O_PATH first, which opens no FIFO and no device."""
    handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or (status.st_dev, status.st_ino) != file_id:
            raise FileNotFoundError(errno.ENOENT, "another file", path)
        return os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    finally:
        os.close(handle)


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
    kinship       NO_CHILD, or UNTOLD `by_word` of a person who takes it upon himself that no forked child of
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
        kinship: Kinship,
        by_word: bool = False,
        dry_run: bool = False,
        lock_is_dead: "LockIsDead" = lambda superblock: False,
    ) -> None:
        if kinship is not NO_CHILD and not (kinship is UNTOLD and by_word):
            raise NotAllowed(
                "a forked child of its creator holds it, and may still allocate"
                if kinship is CHILD
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


# -- one orphan after its unlink ------------------------------------------------------------------------


class Departures:
    """Tells when a process lets go of a file that it had open, or mapped, for writing; for many files.

    fd   readable when there is something to `read`
    OSError: no inotify, or a limit on it.
    """

    def __init__(self) -> None:
        self.fd = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fd < 0:
            raise _last_error("inotify_init1")

    def watch(self, fd: int) -> int:
        """Watch the file of `fd`, which may have no name any more; what `read` calls it."""
        # Where it lies does not matter: the link leads to the file itself.
        found = _libc.inotify_add_watch(self.fd, b"/proc/self/fd/%d" % fd, ctypes.c_uint32(_IN_CLOSE_WRITE))
        if found < 0:
            raise _last_error("inotify_add_watch")
        return int(found)

    def forget(self, watch: int) -> None:
        """Before the file is closed, or after; the kernel forgets a file that is gone by itself."""
        _libc.inotify_rm_watch(self.fd, watch)

    def read(self) -> "Set[int]":
        """The watches of files that somebody let go of since; all of them may be meant if events were lost.

        Then the set holds -1.  Never blocks.
        """
        found: Set[int] = set()
        while True:
            try:
                data = os.read(self.fd, 65536)
            except BlockingIOError:
                return found
            for at in range(0, len(data), _EVENT.size):  # of a file itself, no event has a name
                watch, mask, _, _ = _EVENT.unpack_from(data, at)
                if not mask & _IN_IGNORED:
                    found.add(watch)

    def close(self) -> None:
        os.close(self.fd)


FIRST_DELAY, LAST_DELAY = 0.05, 0.8
"""Seconds between two looks: after something came back, and when nothing does; each is twice the last.

No event tells that a peer wrote to memory that it maps.
"""
LETTING_GO = (0.0003, 0.0005, 0.001, 0.002, 0.004)
"""Seconds between looks for the last holder: the kernel tells of its exit before it lets go of the file."""


class Reclaiming:
    """An orphan after its unlink: pins the file for as long as somebody is attached, and no longer.

    fd           open for reading, from before the unlink (or `open_held`); closed here
    attached     pids of those who hold it; None while they are not known: needed where the kernel grants no
                 leases
    departures   tells when a holder goes; without it that is seen at the next look only
    closing      closes `fd`: the last descriptor of a large file without a name takes long
    `allow` it to give back as soon as the conditions are proven.  Call `step` when it says so, and `departed`
    when `departures` tells of `watch`.  Neither waits for anybody.  Its figures are those of `reclaim`.

    finished  the descriptor is closed, and nothing more will be done; `error` says why, or is ""
    at_once   bytes given back by the first look; -1 = it is not over
    later     bytes given back after it
    """

    def __init__(
        self,
        fd: int,
        attached: "Optional[Sequence[int]]" = (),
        departures: "Optional[Departures]" = None,
        closing: "Callable[[int], None]" = os.close,
    ) -> None:
        self.reclaim: Optional[Reclaim] = None
        self.finished = False
        self.error = ""
        self.at_once = -1
        self.later = 0
        self.watch = -1
        self._fd = fd
        self.attached = attached
        self._departures = departures
        self._closing = closing
        self._delay = FIRST_DELAY
        self._due = 0.0
        self._working = False
        self._tries: List[float] = []
        if departures is not None:
            try:
                self.watch = departures.watch(fd)
            except OSError:
                pass

    def allow(
        self, kinship: Kinship, by_word: bool = False, lock_is_dead: "LockIsDead" = lambda superblock: False
    ) -> None:
        """The creator is dead, and of this kinship are its holders; NotAllowed: then `close` it."""
        self.reclaim = Reclaim(self._fd, kinship, by_word, lock_is_dead=lock_is_dead)
        self._due = 0.0

    def departed(self, now: float) -> None:
        """A process has let go of the file, or an event was lost: `step` soon."""
        self._tries = list(LETTING_GO)

    def step(self, now: float) -> "Optional[float]":
        """Do what is due; when (monotonic) to call again, None = not before `departed` or `allow`."""
        if self.finished:
            return None
        if not self._working and self._let_go():
            self.close()
            return None
        if self.reclaim is not None and now >= self._due:
            try:
                self._working = not self.reclaim.go_on()
            except BlockingIOError:
                self._working = False
                self.reclaim.settled = False
            except OSError as error:
                self.close(f"it cannot be given back: {error.strerror}")
                return None
            if self._working:
                return now
            self._due = self._next_look(time.monotonic())
        if self._tries:
            return min(now + self._tries.pop(0), self._due or now + LAST_DELAY)
        if self._quiet():
            return None
        return self._due or now + LAST_DELAY

    def close(self, error: str = "") -> None:
        if self.finished:
            return
        self.finished = True
        self.error = error
        if self.reclaim is not None:
            self.reclaim.close()
        if self._departures is not None and self.watch >= 0:
            self._departures.forget(self.watch)
        self._closing(self._fd)

    def _next_look(self, now: float) -> float:
        assert self.reclaim is not None
        total = self.reclaim.given_back
        if self.at_once < 0:
            self.at_once = total
        if total - self.at_once > self.later:
            self._delay = FIRST_DELAY
        else:
            self._delay = min(2 * self._delay, LAST_DELAY)
        self.later = total - self.at_once
        if self._delay < LAST_DELAY:
            return now + self._delay
        # At the same moments for all heaps, so that whoever has many wakes once for all of them.
        return (now // LAST_DELAY + 1) * LAST_DELAY

    def _quiet(self) -> bool:
        """Whether only a departure can change anything now, and that is told."""
        if self.watch < 0:
            return False
        if self.reclaim is None:
            return True
        return self.reclaim.settled and self.reclaim.whole and not self.reclaim.in_use

    def _let_go(self) -> bool:
        """Whether nobody who could release a block holds the file any more."""
        answer = lease.take(self._fd)
        if answer is lease.GRANTED:
            lease.release(self._fd)
            return True
        if answer is lease.REFUSED:
            return False
        # No lease tells: then those who were seen to hold it, and who it is by pids.
        if self.reclaim is None or self.at_once < 0 or self.attached is None:
            return False
        processes = procfs.Processes()
        return all(processes.no_such_process(pid) for pid in self.attached)


def _last_error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), what)
