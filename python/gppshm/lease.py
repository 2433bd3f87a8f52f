"""Does any process have this file open or mapped for writing?  The kernel answers, by a read lease.

``fcntl(F_SETLEASE, F_RDLCK)`` on a descriptor that was opened O_RDONLY is granted only while no process, in
any pid namespace, dead or alive, has the file open for writing or mapped from such a descriptor (fcntl(2);
measured on Linux 6.18).  A heap's creator opens it O_RDWR and keeps it mapped for life, so a granted lease
proves that the creator is dead.  A refused lease proves only that some writer lives: the creator, an
attached peer, or a forked child of either.

Limit: a process that CRIU has dumped holds nothing, and looks dead.
"""

import errno
import fcntl
import os

# asm-generic/signal.h, so on x86_64 and aarch64. Python's signal module would cost a start milliseconds.
SIGURG = 23

NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)


class Answer(str):
    """The kernel's answer to the request for a read lease."""

    __slots__ = ()


GRANTED = Answer("granted")
"""No process has the file open or mapped for writing."""
REFUSED = Answer("refused")
"""Some process has."""
SILENT = Answer("silent")
"""No information: the file is another user's, leases are disabled, or the file system has none."""


def take(fd: int) -> Answer:
    """Try to take a read lease on `fd`, a regular file opened O_RDONLY; GRANTED, REFUSED or SILENT.

    Hold it for microseconds only: a process that opens the file for writing waits in open() meanwhile;
    readers are not affected.  `release` it before `fd` is closed, or a fork may keep it.
    """
    try:
        # The default signal of a broken lease, SIGIO, kills its holder; SIGURG is ignored by default.
        fcntl.fcntl(fd, fcntl.F_SETSIG, SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        return REFUSED if error.errno == errno.EAGAIN else SILENT
    return GRANTED


def held(fd: int) -> bool:
    """Whether the lease on `fd` is intact; False as soon as a process opens the file for writing."""
    return fcntl.fcntl(fd, fcntl.F_GETLEASE) == fcntl.F_RDLCK


def release(fd: int) -> None:
    """Give the lease on `fd` back; no error if the kernel has taken it away."""
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        pass


def trustworthy(root: str) -> bool:
    """Probe, on a scratch file, that this kernel grants a lease without a writer and refuses it with one.

    The scratch file has no name in `root` (a memfd, which is on the same kind of file system) if Python and
    the kernel can make one, so a full or read-only tmpfs does not matter.  OSError if fewer than three
    descriptors are left, which says nothing about leases.
    """
    opened = []
    try:
        opened.append(_scratch(root))
        scratch = f"/proc/self/fd/{opened[0]}"
        # Only an open() counts as a writer: the descriptor that memfd_create() itself returns does not.
        opened.append(os.open(scratch, os.O_RDWR | os.O_CLOEXEC))
        reader = os.open(scratch, os.O_RDONLY | os.O_CLOEXEC)
        opened.append(reader)
        refused = take(reader) == REFUSED
        os.close(opened.pop(0))
        os.close(opened.pop(0))
        granted = take(reader) == GRANTED and held(reader)
        release(reader)
    except OSError as error:
        if error.errno in NO_DESCRIPTOR:
            raise
        return False
    finally:
        for fd in opened:
            os.close(fd)
    return refused and granted


def _scratch(root: str) -> int:
    """A descriptor of a new file on tmpfs that vanishes with it."""
    if hasattr(os, "memfd_create"):  # novm: Python 3.8 with glibc 2.27
        try:
            return os.memfd_create("gppshm-lease-probe")  # novm
        except OSError as error:
            if error.errno in NO_DESCRIPTOR:
                raise
            # Linux before 3.17, whatever the glibc, or a seccomp filter.
    import tempfile

    with tempfile.TemporaryFile(prefix=".gppshm-probe-", dir=root) as scratch:
        return os.dup(scratch.fileno())
