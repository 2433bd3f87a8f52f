"""A process that really blocks its readers, by FUSE files that never answer a read.

    silent.py FOLDER [--heap=ROOT] [--memory] [--descriptor]

--heap        it has a heap of its own in ROOT
--memory      its memory is locked for ever, as by a thread in state D: a reader of its command line (and,
              before Linux 6.17, of its maps) blocks; SIGKILL still ends the reader
--descriptor  it has a file open whose status never comes, as on a dead network file system; a reader of
              /proc/<pid>/fd blocks in state D, which no signal ends
--over=PATH   its file is also mounted there; a line on stdin is its answer to waiting and later reads

It prints "ready" and its pid.  FOLDER is a mount point, in its own mount namespace.  All blocked readers are
released when it is killed: its file system ends with it.
"""

import argparse
import ctypes
import mmap
import os
import select
import signal
import struct
import sys

CLONE_NEWNS, MS_PRIVATE, MS_REC, MS_BIND = 0x20000, 1 << 18, 1 << 14, 1 << 12
PR_SET_PDEATHSIG = 1
LOOKUP, FORGET, GETATTR, OPEN, READ, RELEASE, FLUSH, INIT, BATCH_FORGET = 1, 2, 3, 14, 15, 18, 25, 26, 42
FILE, NAME = 2, "file"
"""Inode number and name of the only file."""
MUTE = b"\0"

# linux/fuse.h
REQUEST = struct.Struct("=IIQQIIIHH")
REPLY = struct.Struct("=IiQ")
ATTRIBUTES = struct.Struct("=QQQQQQIIIIIIIIII")
ENTRY = struct.Struct("=QQQQII")
VALID = struct.Struct("=QII")
OPENED = struct.Struct("=QII")
INITIAL = struct.Struct("=IIIIHHI40x")

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]


def checked(result, what):
    if result in (-1, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


class FileSystem:
    """Serves a directory with one file until `silent`; answers a read only with a line from stdin."""

    def __init__(self, folder, say):
        self._say = say
        self._text = b""
        self._waiting = []
        self._fd = os.open("/dev/fuse", os.O_RDWR)
        options = b"fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other" % self._fd
        checked(libc.mount(b"silent", os.fsencode(folder), b"fuse", 0, options), "mount")

    def serve(self, silent):
        """Serve requests; when the descriptor `silent` is readable, the file's status is not answered."""
        mute = False
        poll = select.poll()
        for fd in (self._fd, silent):
            poll.register(fd, select.POLLIN)
        while True:
            ready = [fd for fd, _ in poll.poll()]
            if silent in ready:
                told = os.read(silent, 4096)
                if not told:
                    return
                mute = told == MUTE
                self._text = b"" if mute else told.ljust(4096, b"\n")
                os.write(self._say, b"m")
                if self._text:
                    for unique in self._waiting:
                        self._reply(unique, self._text)
            if self._fd in ready:
                self._answer(os.read(self._fd, 1 << 20), mute)

    def _answer(self, request, mute):
        _, operation, unique, node = REQUEST.unpack_from(request)[:4]
        body = b""
        if operation == READ and not self._text:
            self._waiting.append(unique)
            os.write(self._say, b"r")
            return
        if operation in (FORGET, BATCH_FORGET) or (mute and operation == GETATTR):
            return
        if operation == INIT:
            body = INITIAL.pack(7, 31, 0, 0, 0, 0, 4096)
        elif operation == LOOKUP:
            body = ENTRY.pack(FILE, 0, 1000, 0, 0, 0) + attributes(FILE)
        elif operation == GETATTR:
            body = VALID.pack(0, 0, 0) + attributes(node)
        elif operation == OPEN:
            body = OPENED.pack(0, 0, 0)
        elif operation == READ:
            body = self._text
        elif operation not in (RELEASE, FLUSH):
            os.write(self._fd, REPLY.pack(REPLY.size, -38, unique))
            return
        self._reply(unique, body)

    def _reply(self, unique, body):
        os.write(self._fd, REPLY.pack(REPLY.size + len(body), 0, unique) + body)


def attributes(node):
    mode, size = (0o100644, 4096) if node == FILE else (0o040755, 0)
    return ATTRIBUTES.pack(node, size, 8, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def in_a_child(act):
    """Run `act` in a child that ends with this thread; returns its pid."""
    pid = os.fork()
    if not pid:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        try:
            act()
        finally:
            os._exit(0)
    return pid


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--heap")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--descriptor", action="store_true")
    parser.add_argument("--over")
    options = parser.parse_args()
    checked(libc.unshare(CLONE_NEWNS), "unshare")
    checked(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None), "mount")
    hear, say = os.pipe()
    silent, silence = os.pipe()

    def serve():
        os.close(silence)
        files = FileSystem(options.folder, say)
        os.write(say, b"f")
        files.serve(silent)

    in_a_child(serve)
    assert os.read(hear, 1) == b"f"
    if options.heap:
        import heapwriter

        heapwriter.LiveHeap.create(options.heap, [(4096, ())])
    path = os.path.join(options.folder, NAME)
    if options.over:
        checked(libc.mount(os.fsencode(path), os.fsencode(options.over), None, MS_BIND, None), "mount")
    fd = os.open(path, os.O_RDONLY)
    if options.memory:
        page = checked(libc.mmap(None, mmap.PAGESIZE, mmap.PROT_READ, mmap.MAP_PRIVATE, fd, 0), "mmap")
        memory = os.open(f"/proc/{os.getpid()}/mem", os.O_RDONLY)
        # It reads this process' memory, and holds the lock of that memory while it waits for the page.
        in_a_child(lambda: os.pread(memory, 1, page))
        assert os.read(hear, 1) == b"r"
    if options.descriptor:
        os.write(silence, MUTE)
        assert os.read(hear, 1) == b"m"
    else:
        os.close(fd)
    print("ready", os.getpid(), flush=True)
    if options.memory:
        # A waiting writer of that lock keeps out all readers, too.
        libc.mmap(None, mmap.PAGESIZE, mmap.PROT_READ, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    for line in sys.stdin.buffer:
        os.write(silence, line)


if __name__ == "__main__":
    sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../demo"))
    main()
