"""Kernel interfaces that not every supported Python wraps: inotify, pidfds, renameat2."""

import ctypes
import errno
import fcntl
import os
import signal
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Optional, Set, Tuple

IN_MODIFY = 0x00000002
IN_ATTRIB = 0x00000004
IN_CLOSE_WRITE = 0x00000008
IN_MOVED_FROM = 0x00000040
IN_MOVED_TO = 0x00000080
IN_CREATE = 0x00000100
IN_DELETE = 0x00000200
IN_UNMOUNT = 0x00002000
IN_Q_OVERFLOW = 0x00004000
IN_IGNORED = 0x00008000
IN_ONLYDIR = 0x01000000
IN_EXCL_UNLINK = 0x04000000

# The same number on every architecture (the syscall tables agree from 424 on); Linux 5.3.
_SYS_PIDFD_OPEN = 434

# x86_64 and the generic table (aarch64); Linux 3.15.
_SYS_RENAMEAT2 = {"x86_64": 316, "aarch64": 276}.get(os.uname().machine, 0)
_RENAME_NOREPLACE = 1

# _IOWR(0xFF, 11, struct pidfd_info of 64 bytes); linux/pidfd.h. Exit information since Linux 6.15.
_PIDFD_GET_INFO = 0xC040FF0B
_PIDFD_INFO_EXIT = 1 << 3
_PIDFD_INFO = struct.Struct("QQ11Ii")

_ENDS = IN_IGNORED | IN_UNMOUNT
_EVENT = struct.Struct("iIII")
BUFFER = 65536
"""Bytes of events that are read at once; an event of a heap has 32."""

_libc = ctypes.CDLL(None, use_errno=True)


class Inotify:
    """The events of one directory.  OSError if the kernel refuses: no inotify, a limit, no such directory."""

    def __init__(self, directory: str, mask: int) -> None:
        self.fd = _checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC), "inotify_init1")
        try:
            path = os.fsencode(directory)
            _checked(_libc.inotify_add_watch(self.fd, path, ctypes.c_uint32(mask | IN_ONLYDIR)), directory)
        except OSError:
            os.close(self.fd)
            raise

    def skip(self) -> int:
        """Drop pending events, as many as fit into a buffer; the number of bytes dropped.

        This takes the kernel 0.2 us per event; `read` takes 1.5 us.
        """
        try:
            return len(os.read(self.fd, BUFFER))
        except BlockingIOError:
            return 0

    def read(self, size: int = BUFFER) -> "List[Tuple[int, str]]":
        """(mask, name) of pending events, as many as fit into `size` bytes; never blocks."""
        try:
            data = os.read(self.fd, size)
        except BlockingIOError:
            return []
        events = []
        at = 0
        while at < len(data):
            _, mask, _, length = _EVENT.unpack_from(data, at)
            at += _EVENT.size
            events.append((mask, os.fsdecode(data[at : at + length].rstrip(b"\0"))))
            at += length
        return events

    def close(self) -> None:
        os.close(self.fd)


class FileEvents:
    """Events of single files.

    count     how many
    changed   watches with events; -1 among them if events were lost (`overflow`)
    gone      watches that the kernel has ended
    """

    __slots__ = ("changed", "count", "gone", "overflow")

    def __init__(self, count: int, changed: "Set[int]", gone: "Set[int]", overflow: bool) -> None:
        self.count = count
        self.changed = changed
        self.gone = gone
        self.overflow = overflow


class FileInotify:
    """The events of single files.  OSError if the kernel refuses: no inotify, or a limit."""

    def __init__(self) -> None:
        self.fd = _checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC), "inotify_init1")

    def add(self, path: str, mask: int) -> int:
        """Watch the file at `path`; returns the number of its watch, always the same for the same file.

        OSError: ENOSPC at the limit, ENOENT, EACCES.  Numbers are not used again for a long time.
        """
        name = os.fsencode(path)
        return _checked(_libc.inotify_add_watch(self.fd, name, ctypes.c_uint32(mask)), path)

    def add_open(self, fd: int, mask: int) -> int:
        """As `add`, for an open file, which may have no name any more."""
        # The link in /proc leads to the file itself, with or without a name.
        return self.add(f"/proc/self/fd/{fd}", mask)

    def remove(self, watch: int) -> None:
        """Stop watching a file; no error if the kernel has done so.  IN_IGNORED follows."""
        _libc.inotify_rm_watch(self.fd, watch)

    def read(self) -> "Optional[FileEvents]":
        """Pending events, as many as fit into a buffer; None if there are none.  Never blocks.

        Fast: 0.2 us per event, most of it in the kernel.
        """
        try:
            data = os.read(self.fd, BUFFER)
        except BlockingIOError:
            return None
        fields = memoryview(data).cast("i").tolist()
        watches, masks = fields[::4], fields[1::4]
        if any(fields[3::4]):  # events of single files have no names: this cannot be
            return FileEvents(len(watches), set(), set(), True)
        kinds = set(masks)
        changed, gone = set(watches), set()
        if any(mask & _ENDS for mask in kinds):
            changed = {watch for watch, mask in zip(watches, masks) if not mask & _ENDS}
            gone = {watch for watch, mask in zip(watches, masks) if mask & _ENDS}
        return FileEvents(len(watches), changed, gone, any(mask & IN_Q_OVERFLOW for mask in kinds))

    def close(self) -> None:
        os.close(self.fd)


def pidfd_open(pid: int) -> int:
    """A descriptor that becomes readable when the process and all its threads have ended.

    OSError: ESRCH if there is no such process, ENOENT or EINVAL for a thread id, ENOSYS on Linux before
    5.3, EPERM where a seccomp filter forbids it, EMFILE.
    """
    if hasattr(os, "pidfd_open"):  # novm: Python 3.9
        return os.pidfd_open(pid)  # novm
    return _checked(_libc.syscall(_SYS_PIDFD_OPEN, pid, 0), "pidfd_open")


def exit_status(pidfd: int) -> "Optional[int]":
    """The wait status of an ended and reaped process, child or not; None if the kernel does not give it.

    OSError (ENOTTY, EINVAL) on Linux before 6.13.
    """
    info = bytearray(_PIDFD_INFO.pack(_PIDFD_INFO_EXIT, *[0] * 13))
    fcntl.ioctl(pidfd, _PIDFD_GET_INFO, info)
    fields = _PIDFD_INFO.unpack(info)
    return fields[-1] if fields[0] & _PIDFD_INFO_EXIT else None


def how_it_ended(status: int) -> str:
    """A wait status as text: killed by SIGSEGV; exit status 1."""
    number = status & 0x7F
    if not number:
        return f"exit status {status >> 8 & 0xFF}"
    try:
        return f"killed by {signal.Signals(number).name}"
    except ValueError:
        return f"killed by signal {number}"


def rename_noreplace(old: str, new: str, folder: int) -> None:
    """Rename within the directory `folder` (a descriptor), never over an existing file.

    OSError: EEXIST if there is one; ENOSYS or EINVAL where the kernel cannot (Linux before 3.15).
    """
    if not _SYS_RENAMEAT2:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    names = os.fsencode(old), os.fsencode(new)
    _checked(
        _libc.syscall(_SYS_RENAMEAT2, folder, names[0], folder, names[1], _RENAME_NOREPLACE), "renameat2"
    )


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno() or errno.EINVAL
        raise OSError(number, os.strerror(number), what)
    return result
