"""The kernel's messengers of death that Python does not wrap in every version: inotify and pidfd."""

import ctypes
import errno
import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Tuple

IN_MODIFY = 0x00000002
IN_CLOSE_WRITE = 0x00000008
IN_MOVED_FROM = 0x00000040
IN_MOVED_TO = 0x00000080
IN_CREATE = 0x00000100
IN_DELETE = 0x00000200
IN_UNMOUNT = 0x00002000
IN_Q_OVERFLOW = 0x00004000
IN_IGNORED = 0x00008000
IN_ONLYDIR = 0x01000000

# The same number on every architecture (the syscall tables agree from 424 on); Linux 5.3.
_SYS_PIDFD_OPEN = 434

_EVENT = struct.Struct("iIII")
_BUFFER = 65536

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

    def read(self) -> "List[Tuple[int, str]]":
        """(mask, name) of each event that waits, as many as fit into a buffer; never blocks."""
        try:
            data = os.read(self.fd, _BUFFER)
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


def pidfd_open(pid: int) -> int:
    """A descriptor that becomes readable when the process, with all its threads, has ended.

    OSError: ESRCH if there is no such process, ENOENT or EINVAL for a thread id, ENOSYS on Linux before
    5.3, EPERM where a seccomp filter forbids it, EMFILE.
    """
    if hasattr(os, "pidfd_open"):  # novm: Python 3.9
        return os.pidfd_open(pid)  # novm
    return _checked(_libc.syscall(_SYS_PIDFD_OPEN, pid, 0), "pidfd_open")


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno() or errno.EINVAL
        raise OSError(number, os.strerror(number), what)
    return result
