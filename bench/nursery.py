"""Shared by the measurements: cheap creators of heaps, their peers, crowds, and a folder with a cleaner.

The processes are forks of this process, made by `spawn`; none outlives it.
"""

import contextlib
import ctypes
import functools
import gc
import json
import mmap
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
FOLDERS = [os.path.join(ROOT, folder) for folder in ("demo", "python")]
sys.path[:0] = FOLDERS

import heapwriter  # noqa: E402
from gppshm import kernel  # noqa: E402

SIZE = 65536
"""Bytes of a creator's superblock."""
MAPPINGS, LARGE = 20000, 5
"""Number of mappings of the large processes of a crowd, and number of these processes."""
PR_SET_PDEATHSIG, PROT_READ = 1, 1
ENDED = (FileNotFoundError, ProcessLookupError)
"""Raised by reading /proc of a process that has ended."""
LIBC = ctypes.CDLL(None, use_errno=True)

COMMAND = f"import sys; sys.path[:0] = {FOLDERS!r}; from gppshm.cli.{{}} import main; sys.exit(main({{}}))"
SHMWATCH = COMMAND.format("shmwatch", "['--rescan=3600', '--root'] + sys.argv[1:]")
"""The real command; its first line says that it is ready."""
NOBODY = "import time; print('ready', flush=True); time.sleep(1000000)"
"""Runs in place of a cleaner, and does nothing."""
NO_PIDFDS = (
    sys.executable,
    "-c",
    f"import sys; sys.path[:0] = {[*FOLDERS, os.path.join(ROOT, 'tests', 'helpers')]!r}; import watching\n"
    "watching.exec_without()",
    "434:38",  # pidfd_open: ENOSYS, as before Linux 5.3
    "--",
)
"""The prefix of a command that sees a kernel without pidfds."""


def end_with(parent):
    """Have the kernel kill this child when the parent ends."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def spawn(acts):
    """Fork a process for each act; returns their pids when all acts are done.

    Each keeps the result of its act, and waits to be killed. If an act fails, this program ends.
    """
    gc.freeze()  # so that a child copies fewer pages
    parent = os.getpid()
    reader, writer = os.pipe()
    pids = []
    for act in acts:
        pid = os.fork()
        if not pid:
            _be(act, parent, writer)
        pids.append(pid)
    os.close(writer)
    done, data = 0, b"x"
    while data and done < len(pids):
        data = os.read(reader, len(pids))
        done += len(data)
    os.close(reader)
    if done < len(pids):
        sys.exit("a process could not do its part: see above; is /dev/shm full?")
    return pids


def _be(act, parent, writer):
    try:
        end_with(parent)
        _kept = act()
        os.write(writer, b"x")
        os.close(writer)
        while True:
            signal.pause()
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(1)


def kill(pids):
    """Kill processes that `spawn` made, and wait until they are gone."""
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    reap(pids)


def reap(pids):
    """Wait for these children, which are zombies until then, like a component until its GPP reaps it."""
    for pid in pids:
        os.waitpid(pid, 0)


@contextlib.contextmanager
def beside(command, **options):
    """Start a program by subprocess.Popen; a context manager that kills it at the end."""
    parent = os.getpid()
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        preexec_fn=lambda: end_with(parent),  # noqa: PLW1509
        **options,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


class Crowd:
    """Idle processes, a few of them with very many mappings; a context manager."""

    def __init__(self, count):
        self.pids = spawn([_map_much] * min(LARGE, count) + [lambda: None] * max(0, count - LARGE))

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        kill(self.pids)


def _map_much():
    area = mmap.mmap(-1, MAPPINGS * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = ctypes.addressof(ctypes.c_char.from_buffer(area))
    # Every second page gets another protection, so that the kernel cannot merge the mappings.
    for page in range(0, MAPPINGS, 2):
        LIBC.mprotect(ctypes.c_void_p(address + page * mmap.PAGESIZE), mmap.PAGESIZE, PROT_READ)
    return area


class Nursery:
    """A new folder of /dev/shm with the program `cleaner` running on it, and creators; a context manager.

    prefix   of the cleaner's command
    before   called with the folder before the cleaner is started
    seconds  from the cleaner's start to its first line
    """

    def __init__(self, cleaner, *arguments, size=SIZE, prefix=(), before=lambda root: None):
        self.size = size
        self.root = tempfile.mkdtemp(prefix="gppshm-bench-", dir="/dev/shm")
        os.chmod(self.root, 0o1777)
        self.inotify = kernel.Inotify(self.root, kernel.IN_DELETE | kernel.IN_MOVED_FROM)
        self.living = []
        # A file takes all output without blocking the writer.
        self.said = tempfile.TemporaryFile()  # noqa: SIM115
        before(self.root)
        started = time.monotonic()
        self._ending = contextlib.ExitStack()
        command = [*prefix, sys.executable, "-Es", "-c", cleaner, self.root, *arguments]
        self.cleaner = self._ending.enter_context(beside(command, stdout=self.said))
        while not os.fstat(self.said.fileno()).st_size:
            if self.cleaner.poll() is not None:
                self.__exit__()
                sys.exit("the cleaner did not start")
            time.sleep(0.002)
        self.seconds = time.monotonic() - started

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self._ending.close()
        kill(self.living)
        self.said.close()
        self.inotify.close()
        shutil.rmtree(self.root)

    def path(self, pid):
        return f"{self.root}/heap-{pid}"

    def create(self, count=1, then=lambda heap: None):
        """Start `count` creators; returns their pids.

        Each makes a heap, maps it for life, and calls `then(heap)`.
        """

        def act():
            heap = heapwriter.LiveHeap.create(self.root, ((self.size, ()),), keep_fd=True)
            then(heap)
            heap.close_fd()
            return heap

        pids = spawn([act] * count)
        self.living += pids
        return pids

    def attach(self, creators, peers=1):
        """Start `peers` peers of each creator, which map its heap for writing; returns their pids."""
        acts = [functools.partial(_map, self.path(pid)) for pid in creators for _ in range(peers)]
        pids = spawn(acts)
        self.living += pids
        return pids

    def end(self, pids):
        """End peers."""
        self.forget(pids)
        kill(pids)

    def deaths(self, pids, deadline=30.0):
        """Kill the creators; seconds from before the first kill to each unlink, in order of the unlinks."""
        names = {b"heap-%d" % pid for pid in pids}
        self.forget(pids)
        self.inotify.read()
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
        reap(pids)
        return delays

    def states(self):
        """The cleaner's objects so far, with --json."""
        self.said.flush()
        with open(f"/proc/self/fd/{self.said.fileno()}", "rb") as stream:
            lines = stream.read().split(b"\n")[:-1]
        return [json.loads(line) for line in lines if line.startswith(b"{")]

    def evidence(self, pids):
        """evidence -> number of removals of these creators' heaps, with --json, once all are reported."""
        names, found, end = {"heap-%d" % pid for pid in pids}, {}, time.monotonic() + 10
        while sum(found.values()) < len(names) and time.monotonic() < end:
            time.sleep(0.05)
            found = {}
            for each in self.states():
                if each["event"] == "removed" and each["name"] in names:
                    found[each["evidence"]] = found.get(each["evidence"], 0) + 1
        return found

    def forget(self, pids):
        """Leave killing and reaping these to the caller."""
        gone = set(pids)
        self.living = [pid for pid in self.living if pid not in gone]


def _map(path):
    with open(path, "r+b") as heap:
        return mmap.mmap(heap.fileno(), 0)


# -- resources of processes ---------------------------------------------------------------------------------


def status(pid, key):
    """A number from /proc/<pid>/status."""
    with open(f"/proc/{pid}/status") as stream:
        return next(int(line.split()[1]) for line in stream if line.startswith(key + ":"))


def resident(pid):
    """Resident set size of a process, in MB."""
    return status(pid, "VmRSS") / 1024


def family(pid):
    """The pids of a process and of all its descendants."""
    found = [pid]
    with contextlib.suppress(*ENDED):
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as stream:
                for child in stream.read().split():
                    found += family(int(child))
    return found


def processor_seconds(pids):
    """Processor seconds used so far by processes and by their children that have ended."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(*ENDED), open(f"/proc/{pid}/stat") as stream:
            ticks += sum(map(int, stream.read().rpartition(")")[2].split()[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def switches(pids):
    """pid -> number of wake-ups so far of all its threads, counted as voluntary context switches."""
    found = {}
    for pid in pids:
        with contextlib.suppress(*ENDED):
            for task in os.listdir(f"/proc/{pid}/task"):
                count = status(f"{pid}/task/{task}", "voluntary_ctxt_switches")
                found[pid] = found.get(pid, 0) + count
    return found


def memory(pids):
    """(PSS, RSS) of all these processes in MB; PSS divides shared pages among their processes."""
    found = {"Pss": 0, "Rss": 0}
    for pid in pids:
        with contextlib.suppress(*ENDED), open(f"/proc/{pid}/smaps_rollup") as stream:
            for line in stream:
                key, _, rest = line.partition(":")
                if key in found:
                    found[key] += int(rest.split()[0])
    return found["Pss"] / 1024, found["Rss"] / 1024
