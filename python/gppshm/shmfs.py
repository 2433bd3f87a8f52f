"""The directory of the heaps: its files, its free space, safe opening and safe unlinking.

Everything goes through one descriptor of the directory, so no file outside is ever touched.  Only regular
files are opened: no FIFO, socket, device, directory or symlink.
"""

import errno
import os
import stat

from gppshm import filesystem, heapfile, lease, procfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Iterable, Iterator, List, Optional, Tuple

    FileId = Tuple[int, int]
    Identity = Tuple[int, int, int, int, int]

DEFAULT_ROOT = "/dev/shm"

NAME_MAX = 255
DYING = ".gppshm-dying-"
"""Prefix of a heap's temporary name during its unlink, for some microseconds.

It is followed by the cleaner's pid, its start in clock ticks, random digits, a dash, and the name.
"""
DOUBTS = {
    True: "",
    False: "it is not on a tmpfs; leases and memory maps prove a creator's death only there",
    None: "its file system type is unknown: neither /proc nor statfs reports it",
}
"""By the result of filesystem.is_memory."""


class Kind(str):
    """The kind of a file in the directory."""

    __slots__ = ()


HEAP = Kind("heap")
"""A regular file that begins with the magic number of a heap, whatever its name."""
HALF_MADE = Kind("half-made heap")
"""Named heap-<pid>, with the contents of a heap whose creator died, or ran out of space, too early."""
UNREADABLE = Kind("unreadable")
"""A regular file that could not be opened or read."""
OTHER = Kind("other")


class Changed(Exception):
    """The file under the name is not, or not any more, the one that was judged."""


class Sighting:
    """The state of one file at one moment; the input of `creator.judge`.

    status      os.stat_result of the name itself (a symlink is not followed)
    raw         the first 16 bytes
    header      heapfile.Header, or None if it is no heap
    answer      the kernel's answer to the request for a read lease
    on_tmpfs    if False, maps are no evidence, and leases say nothing
    error       why it could not be read; "" if it could
    """

    __slots__ = ("answer", "error", "header", "kind", "name", "on_tmpfs", "raw", "status")

    def __init__(
        self,
        name: str,
        kind: Kind,
        status: os.stat_result,
        error: str = "",
        raw: bytes = b"",
        header: "Optional[heapfile.Header]" = None,
        answer: lease.Answer = lease.SILENT,
        on_tmpfs: bool = True,
    ) -> None:
        self.name = name
        self.kind = kind
        self.status = status
        self.error = error
        self.raw = raw
        self.header = header
        self.answer = answer
        self.on_tmpfs = on_tmpfs

    @property
    def name_pid(self) -> int:
        """The pid in the name if it is exactly a heap's name; else 0."""
        return pid_of_name(self.name)

    @property
    def file_id(self) -> "FileId":
        return self.status.st_dev, self.status.st_ino

    @property
    def identity(self) -> "Identity":
        """Changes when the file is replaced, and when a new creator re-creates it in place."""
        return identity_of(self.status)


def identity_of(status: os.stat_result) -> "Identity":
    """Distinguishes the files that a name had one after the other.

    The inode number alone does not: REDHAWK creates with O_TRUNC and without O_EXCL.  Times are compared for
    equality only.
    """
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def pid_of_name(name: str) -> int:
    """The pid in a name of exactly the form heap-[1-9][0-9]*; 0 for any other name.

    This includes the temporary name during an unlink: if the unlink was never finished and the name is taken
    by another file, it is still the heap of that process.
    """
    name = living_name(name) or name
    digits = name[5:]
    if name[:5] != "heap-" or not digits or digits[0] == "0" or digits.strip("0123456789"):
        return 0
    # A longer number is no pid.
    return int(digits)


def living_name(name: str) -> str:
    """The original name of a file that was renamed for its unlink; "" for any other name."""
    if not name.startswith(DYING):
        return ""
    return name[len(DYING) :].partition("-")[2]


_own = 0, 0


def _this_process() -> str:
    """The pid and the start of this process, which is read once: later there may be no descriptor for it."""
    global _own
    if _own[0] != os.getpid():
        _own = os.getpid(), procfs.pulse(os.getpid())[0]
    return "{}.{}".format(*_own)


def is_being_unlinked(name: str, proc_root: str = "/proc") -> bool:
    """Whether the cleaner that gave the file this temporary name still lives; False for any other name."""
    numbers = name[len(DYING) :].partition("-")[0].split(".")
    if not name.startswith(DYING) or len(numbers) != 3 or not (numbers[0] + numbers[1]).isdigit():
        return False
    pid = int(numbers[0])
    try:
        return 0 < pid <= procfs.PID_MAX and procfs.pulse(pid, proc_root) == (int(numbers[1]), False)
    except OSError:
        return True


class OpenFile:
    """A file of the directory and its sighting; with the read lease, if one was granted.

    `fd` is open for reading, or None if it is no regular file or opening was refused.  A context manager; at
    its end the lease is given back and the descriptor closed.
    """

    __slots__ = ("fd", "sighting")

    def __init__(self, sighting: Sighting, fd: "Optional[int]" = None) -> None:
        self.sighting = sighting
        self.fd = fd

    def __enter__(self) -> "OpenFile":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def release(self) -> None:
        """Give the lease back before further reading: while it is held, an open for writing waits."""
        if self.fd is not None and self.sighting.answer is lease.GRANTED:
            lease.release(self.fd)

    def close(self) -> None:
        if self.fd is not None:
            self.release()
            os.close(self.fd)
            self.fd = None


class Usage:
    """Size and free space of the file system in bytes; `free` includes root's reserve, as with REDHAWK.

    inodes, free_inodes  how many files there can be, and how many more; 0 inodes: no limit
    """

    __slots__ = ("free", "free_inodes", "inodes", "size")

    def __init__(self, size: int, free: int, inodes: int = 0, free_inodes: int = 0) -> None:
        self.size = size
        self.free = free
        self.inodes = inodes
        self.free_inodes = free_inodes

    @property
    def inodes_are_scarce(self) -> bool:
        """Whether less than 5 % of the inodes are free: without one no file, so no heap, can be made."""
        return self.free_inodes * 20 < self.inodes


class ShmDirectory:
    """The directory `root`, opened.  OSError if that fails.

    on_tmpfs  it is known to be on a tmpfs or devtmpfs; proofs are possible only there
    doubt     why proofs are not possible; "" if they are
    A context manager.
    """

    def __init__(self, root: str = DEFAULT_ROOT, proc_root: str = "/proc") -> None:
        self.root = root
        self.fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._device = os.fstat(self.fd).st_dev
        try:
            _this_process()
            memory = filesystem.is_memory(self.fd, root, proc_root)
            self.on_tmpfs = memory is True
            self.doubt = DOUBTS[memory]
            self.leases = self.on_tmpfs and lease.trustworthy(root)
        except OSError as error:
            if error.errno in lease.NO_DESCRIPTOR:
                os.close(self.fd)
                raise
            self.leases = False

    def __enter__(self) -> "ShmDirectory":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        os.close(self.fd)

    def is_current(self) -> bool:
        """Whether this is still the directory at the path; OSError if there is none."""
        there, here = os.stat(self.root), os.fstat(self.fd)
        return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)

    def follow(self) -> bool:
        """Switch to the directory that is at the path now; whether it is another one.

        A file system may have been mounted over it.  The descriptor keeps its number.
        """
        try:
            if self.is_current():
                return False
            other = ShmDirectory(self.root)
        except OSError:
            return False
        os.dup2(other.fd, self.fd, inheritable=False)
        self._device, self.on_tmpfs, self.leases = other._device, other.on_tmpfs, other.leases
        self.doubt = other.doubt
        other.close()
        return True

    def usage(self) -> Usage:
        status = os.fstatvfs(self.fd)
        return Usage(
            status.f_blocks * status.f_frsize,
            status.f_bfree * status.f_frsize,
            status.f_files,
            status.f_ffree,
        )

    def names(self) -> "List[str]":
        """The names of all entries, in readdir order."""
        return os.listdir(self.fd)

    def open(self, name: str) -> OpenFile:
        """Open a regular file and inspect it; for anything else only take its status.

        FileNotFoundError if it does not exist, which is normal.  OSError with EMFILE or ENFILE if no
        descriptor is left, which says nothing about the file.
        """
        if "/" in name or "\0" in name or name in (".", "..", ""):
            raise FileNotFoundError(errno.ENOENT, f"not a name in {self.root}", name)
        status = os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode):
            return OpenFile(Sighting(name, OTHER, status))
        try:
            # O_NONBLOCK, O_NOFOLLOW: it may just be replaced by a FIFO or a symlink.
            flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
            fd = os.open(name, flags, dir_fd=self.fd)
        except FileNotFoundError:
            raise
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                raise
            held = error.errno == errno.EWOULDBLOCK
            why = "its owner holds a write lease on it" if held else str(error.strerror)
            return OpenFile(Sighting(name, UNREADABLE, status, why))
        try:
            return OpenFile(self.inspect(name, fd), fd)
        except BaseException:
            os.close(fd)
            raise

    def inspect(self, name: str, fd: int) -> Sighting:
        """What is to be seen of a file that lies, or lay, here by that name; a granted lease is kept."""
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            return Sighting(name, OTHER, status)
        # A single file may be a mount point.
        on_tmpfs = self.on_tmpfs and status.st_dev == self._device
        try:
            raw = os.pread(fd, 16, 0)
            header = heapfile.parse_header(raw)
            kind = OTHER if header is None else HEAP
            if status.st_size < heapfile.HOST_PAGE_SIZE and pid_of_name(name) and heapfile.is_half_made(fd):
                kind = HALF_MADE
        except OSError as error:
            return Sighting(name, UNREADABLE, status, str(error.strerror), on_tmpfs=on_tmpfs)
        # No lease on other files: a process that opens one for writing would have to wait.
        ask = self.leases and on_tmpfs and (kind is not OTHER or pid_of_name(name))
        answer = lease.take(fd) if ask else lease.SILENT
        return Sighting(name, kind, status, "", raw, header, answer, on_tmpfs)

    def unlink(self, file: OpenFile, judged: Sighting, changed: "Callable[[], str]" = lambda: "") -> None:
        """Unlink a file that was judged dead by the sighting `judged`, if it is unchanged.

        changed  returns why the judgement may be outdated, or ""; called again at the decisive moment
        Changed if the file differs; FileNotFoundError if it is gone; any other OSError of rename.

        The file is first renamed, then everything is checked once more, and only then it is unlinked.
        Otherwise a new process with the dead creator's pid that has just opened the old file would lose its
        name (34 of 4,000 at adversarial timing, 0 with the rename; measured).  In that case the name is given
        back.  rename() also decides which of several cleaners unlinks it.
        """
        if file.fd is None:
            raise Changed("it cannot be opened any more")
        now = os.stat(judged.name, dir_fd=self.fd, follow_symlinks=False)
        if not identity_of(now) == file.sighting.identity == judged.identity:
            raise Changed("it was replaced or re-created after it was judged")
        self._check(file, judged, changed)
        dying = f"{DYING}{_this_process()}.{os.urandom(4).hex()}-{judged.name}"
        if len(os.fsencode(dying)) > NAME_MAX:
            os.unlink(judged.name, dir_fd=self.fd)
            return
        os.rename(judged.name, dying, src_dir_fd=self.fd, dst_dir_fd=self.fd)
        try:
            now = os.stat(dying, dir_fd=self.fd, follow_symlinks=False)
            # Without times: a rename changes ctime, and a writing peer mtime.
            if (now.st_dev, now.st_ino, now.st_size) != judged.identity[:3]:
                raise Changed("it was replaced or re-created while it was unlinked")
            self._check(file, judged, changed)
        except FileNotFoundError:
            raise  # another cleaner has handled it
        except BaseException:
            if not self.give_back(dying):
                # Another file has the name now; this one is no longer being unlinked by a living cleaner.
                left = f"{DYING}0.0.{os.urandom(4).hex()}-{judged.name}"
                os.rename(dying, left, src_dir_fd=self.fd, dst_dir_fd=self.fd)
            raise
        os.unlink(dying, dir_fd=self.fd)

    def _check(self, file: OpenFile, judged: Sighting, changed: "Callable[[], str]") -> None:
        """Raise Changed unless header, lease and the judgement's other premises are unchanged."""
        assert file.fd is not None
        if os.pread(file.fd, 16, 0) != judged.raw:
            raise Changed("its header was rewritten after it was judged")
        # Also with evidence from pids: the last writer may have gone, and the next one be waiting.
        if lease.GRANTED in (judged.answer, file.sighting.answer) and not lease.held(file.fd):
            raise Changed("a process is opening it for writing")
        why = changed()
        if why:
            raise Changed(why)

    def to_clean(self, names: "Iterable[str]", dry_run: bool) -> "Iterator[str]":
        """The names, without those that a living cleaner is unlinking.

        Files that a killed cleaner has renamed get their names back, unless this is a dry run.
        """
        for name in names:
            if is_being_unlinked(name):
                continue
            living = living_name(name)
            yield living if living and not dry_run and self.give_back(name) else name

    def give_back(self, dying: str) -> bool:
        """Give a renamed file its name back; whether that name was still free."""
        name = living_name(dying)
        try:
            from gppshm import kernel  # ctypes costs a start milliseconds

            kernel.rename_noreplace(dying, name, self.fd)
        except FileExistsError:
            return False
        except FileNotFoundError:
            return True
        except OSError:  # Linux before 3.15
            try:
                os.link(dying, name, src_dir_fd=self.fd, dst_dir_fd=self.fd, follow_symlinks=False)
                os.unlink(dying, dir_fd=self.fd)
            except OSError:
                return False
        return True

    def unlink_by_force(self, name: str) -> None:
        """Unlink the name at the user's request; never a directory, or the target of a symlink."""
        if "/" in name or "\0" in name:
            raise FileNotFoundError(errno.ENOENT, f"not a name in {self.root}", name)
        os.unlink(name, dir_fd=self.fd)
