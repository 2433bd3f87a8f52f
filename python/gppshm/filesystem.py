"""Is a folder on a file system of memory?  Only there do leases and memory maps prove what they prove.

Two sources know: /proc/self/mountinfo lists the mounts of this namespace, and is read in no time; statfs(2)
knows every folder that is open, without /proc and in whatever namespace it is mounted, but Python has it by
ctypes only, which takes 2 ms to import.
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
    """Whether the folder `path`, open as `fd`, is on a tmpfs or devtmpfs; None if that cannot be found out.

    OSError for want of descriptors only.
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
    """f_type of fstatfs(2); None where it is refused, by a seccomp filter, or there is no ctypes."""
    try:
        import ctypes

        # 120 bytes that begin with f_type, a long, on x86_64 and aarch64 (asm-generic/statfs.h).
        answer = (ctypes.c_long * 32)()
        if ctypes.CDLL(None, use_errno=True).fstatfs(fd, answer) == 0:
            return answer[0] & 0xFFFFFFFF
    except (ImportError, OSError, AttributeError):
        pass
    return None
