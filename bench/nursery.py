"""Cheap creators for the measurements: forks of this process, each with a small heap in one folder."""

import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
FOLDERS = [os.path.join(os.path.dirname(HERE), folder) for folder in ("demo", "python")]
sys.path[:0] = FOLDERS

import heapwriter  # noqa: E402
from gppshm import kernel  # noqa: E402

SIZE = 65536

SHMWATCH = (
    f"import sys; sys.path[:0] = {FOLDERS!r}; from gppshm.cli.shmwatch import main\n"
    "sys.exit(main(['--rescan=3600', '--root'] + sys.argv[1:]))"
)
"""The real command; it says that it is ready in its first line."""


def resident(pid):
    """MB of memory that a process takes."""
    with open(f"/proc/{pid}/status") as stream:
        return next(int(line.split()[1]) for line in stream if line.startswith("VmRSS")) / 1024


class Nursery:
    """A new folder of /dev/shm with the program `cleaner` at work on it, and creators.  A context manager."""

    def __init__(self, cleaner, *arguments, size=SIZE):
        # Children are never waited for, and must not stay as zombies.
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        self.size = size
        self.root = tempfile.mkdtemp(prefix="gppshm-bench-", dir="/dev/shm")
        self.inotify = kernel.Inotify(self.root, kernel.IN_DELETE | kernel.IN_MOVED_FROM)
        self.living = []
        # A file takes all that it says, and keeps nobody waiting.
        self.said = tempfile.TemporaryFile()  # noqa: SIM115
        self.cleaner = subprocess.Popen(
            [sys.executable, "-Es", "-c", cleaner, self.root, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=self.said,
        )
        while not os.fstat(self.said.fileno()).st_size:
            if self.cleaner.poll() is not None:
                sys.exit("the cleaner did not start")
            time.sleep(0.01)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        for pid in [self.cleaner.pid] + self.living:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.said.close()
        self.inotify.close()
        shutil.rmtree(self.root)

    def create(self, count=1):
        """The pids of so many new creators, each with a heap that it maps for life."""
        reader, writer = os.pipe()
        pids = []
        for _ in range(count):
            pid = os.fork()
            if not pid:
                try:
                    # PR_SET_PDEATHSIG: none outlives a measurement that was ended.
                    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
                    heapwriter.LiveHeap.create(self.root, ((self.size, ()),))
                    os.write(writer, b"x")
                    while True:
                        signal.pause()
                finally:
                    os._exit(1)
            pids.append(pid)
        os.close(writer)
        made = b""
        while len(made) < count:
            made += os.read(reader, count) or sys.exit("a creator has failed: is /dev/shm full?")
        os.close(reader)
        self.living += pids
        return pids

    def deaths(self, pids, deadline=30.0):
        """Kill the creators; seconds from before the first kill to each unlink, in the order of these."""
        names = {b"heap-%d" % pid for pid in pids}
        gone = set(pids)
        self.living = [pid for pid in self.living if pid not in gone]
        delays = []
        started = time.monotonic()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        while names:
            if not select.select([self.inotify.fd], [], [], deadline)[0]:
                sys.exit(f"{len(names)} heaps of the dead are still there after {deadline:g} seconds")
            for _, name in self.inotify.read():
                if os.fsencode(name) in names:
                    names.remove(os.fsencode(name))
                    delays.append(time.monotonic() - started)
        return delays
