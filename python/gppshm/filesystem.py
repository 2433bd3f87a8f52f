"""Is a directory on an in-memory file system?  Leases and memory maps are evidence only there.

There are two sources.  /proc/self/mountinfo lists the mounts of this namespace and is fast to read.
statfs(2) works on every open directory, without /proc and in any namespace, but Python needs ctypes for it,
which takes 2 ms to import.
"""

from gppshm import procfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional

TMPFS_MAGIC = 0x01021994
"""linux/magic.h; a devtmpfs has the same."""

NO_DESCRIPTOR = (23, 24)
"""ENFILE, EMFILE."""


def is_memory(fd: int, path: str, proc_root: str = "/proc") -> "Optional[bool]":
    """Whether the directory `path`, open as `fd`, is on a tmpfs or devtmpfs; None if unknown.

    OSError only if no descriptor is left.
    """
    try:
        kind, _ = procfs.mount_of(path, proc_root)
    except OSError as error:
        if error.errno in NO_DESCRIPTOR:
            raise
        kind = b""
    if kind:
        return kind in (b"tmpfs", b"devtmpfs")
    number = _statfs_type(fd)
    return None if number is None else number == TMPFS_MAGIC


def _statfs_type(fd: int) -> "Optional[int]":
    """f_type of fstatfs(2); None if a seccomp filter refuses it or there is no ctypes."""
    try:
        import ctypes

        # 120 bytes that begin with f_type, a long, on x86_64 and aarch64 (asm-generic/statfs.h).
        answer = (ctypes.c_long * 32)()
        if ctypes.CDLL(None, use_errno=True).fstatfs(fd, answer) == 0:
            return answer[0] & 0xFFFFFFFF
    except (ImportError, OSError, AttributeError):
        pass
    return None
