"""A process that blocks its readers: /proc/<pid>/cmdline and maps block for ever.  Needs root and FUSE.

    with Stuck() as pid: ...

The process is in state D, in an mmap() that holds the lock of its memory.  The file's FUSE server, a process
started here, never answers a read() of another process, and the mmap() has to wait for that page.  The same
happens to threads on a network file system whose server is gone.
"""

import ctypes
import errno
import mmap
import os
import signal
import stat
import struct
import sys
import tempfile
import time

from nursery import LIBC, end_with

CLONE_NEWNS, MS_REC, MS_PRIVATE, MAP_FIXED = 0x20000, 0x4000, 0x40000, 0x10
GETATTR, OPEN, READ, RELEASE, FLUSH, INIT = 3, 14, 15, 18, 25, 26
UNANSWERED = (2, 36, 42)  # FORGET, INTERRUPT, BATCH_FORGET have no answer (linux/fuse.h)
FOPEN_DIRECT_IO, FOPEN_KEEP_CACHE = 1, 2
SIZE = 1 << 20


class Stuck:
    """A context manager with the `pid` of the stuck process.  Raises OSError if it cannot be made."""

    def __enter__(self):
        self.folder = tempfile.mkdtemp(prefix="gppshm-bench-")
        reader, writer = os.pipe()
        parent = os.getpid()
        self.server = os.fork()
        if not self.server:
            try:
                end_with(parent)
                os.close(reader)
                _serve(os.path.join(self.folder, "file"), writer)
            except OSError as error:
                os.write(writer, b"-%d" % error.errno)
            finally:
                os._exit(1)
        os.close(writer)
        said = os.read(reader, 100)
        os.close(reader)
        if int(said or b"-5") < 0:
            self.__exit__()
            raise OSError(-int(said or b"-5"), "no process can be made that is stuck")
        self.pid = int(said)
        while not _is_stuck(self.pid):
            time.sleep(0.001)
        return self.pid

    def __exit__(self, *exc):
        """End its server, which frees it."""
        os.kill(self.server, signal.SIGKILL)
        os.waitpid(self.server, 0)
        for name in os.listdir(self.folder):
            os.unlink(os.path.join(self.folder, name))
        os.rmdir(self.folder)


def _is_stuck(pid):
    with open(f"/proc/{pid}/stat") as stream:
        return stream.read().rpartition(")")[2].split()[0] == "D"


def _serve(path, tell):
    """Mount one file at `path`, only for this process and its children, and serve it."""
    with open(path, "w"):
        pass
    if LIBC.unshare(CLONE_NEWNS) or LIBC.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None):
        raise OSError(ctypes.get_errno(), "unshare")
    fd = os.open("/dev/fuse", os.O_RDWR)
    options = b"fd=%d,rootmode=%o,user_id=0,group_id=0" % (fd, stat.S_IFREG)
    if LIBC.mount(b"stuck", os.fsencode(path), b"fuse", 0, options):
        raise OSError(ctypes.get_errno(), "mount")
    me = os.getpid()
    if not os.fork():
        end_with(me)
        os.close(fd)
        file = os.open(path, os.O_RDONLY)
        os.read(file, 4096)
        os._exit(0)
    opened = 0
    while True:
        request = os.read(fd, 1 << 20)
        opcode, unique = struct.unpack_from("=4xIQ", request)
        answer, error = b"", 0
        if opcode == INIT:
            answer = struct.pack("=4I2H2I2HI28x", 7, 31, 0, 0, 1, 1, 4096, 1, 1, 0, 0)
        elif opcode == GETATTR:
            mode = stat.S_IFREG | 0o644
            answer = struct.pack(
                "=Q2I6Q10I", 3600, 0, 0, 1, SIZE, 8, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0
            )
        elif opcode == OPEN:
            # The first open reads through the page cache, later ones bypass it.
            answer = struct.pack("=Q2I", opened, FOPEN_KEEP_CACHE | (FOPEN_DIRECT_IO if opened else 0), 0)
            opened += 1
        elif opcode == READ:
            if opened == 1:
                os.write(tell, b"%d" % _start_mapping(fd, path, me))
            continue
        elif opcode in UNANSWERED:
            continue
        elif opcode not in (FLUSH, RELEASE):
            error = -errno.ENOSYS
        os.write(fd, struct.pack("=IiQ", 16 + len(answer), error, unique) + answer)


def _start_mapping(fd, path, server):
    pid = os.fork()
    if not pid:
        end_with(server)
        os.close(fd)
        # Mapped over another mapping, so that the kernel also locks that.
        area = mmap.mmap(-1, SIZE)
        address = ctypes.addressof(ctypes.c_char.from_buffer(area))
        file = os.open(path, os.O_RDONLY)
        LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
        LIBC.mmap(address, SIZE, mmap.PROT_READ, mmap.MAP_PRIVATE | MAP_FIXED, file, 0)
        os._exit(0)
    return pid


if __name__ == "__main__":
    with Stuck() as stuck:
        print(stuck)
        time.sleep(float(sys.argv[1]))
