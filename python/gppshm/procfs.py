"""Facts about processes from /proc: the evidence for a creator's life or death.

A `Processes` object is one inspection of the host.  It reads lazily and caches.  To judge a file, inspect the
file *first* and make the `Processes` afterwards: then all its facts are newer than the sighting.  Make a new
one for each pass.

Reading another process' maps or descriptors can block for ever: its memory may be locked by a thread in
state D, or a descriptor may be on a dead network file system.  `set_guard` installs a supervisor.
"""

import errno
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Dict, FrozenSet, Iterator, List, Optional, Set, Tuple

    FileId = Tuple[int, int]

PID_MAX = 4194304
"""The largest pid of any Linux (PID_MAX_LIMIT, proc(5))."""

INITIAL_PID_NAMESPACE = "pid:[4026531836]"
"""PROC_PID_INIT_INO, fixed since Linux 3.8: only from here is every process of the host visible."""

PF_KTHREAD = 0x00200000
PF_EXITING = 0x00000004  # linux/sched.h


def _no_guard(pid: int) -> bool:
    return True


_guard: "Callable[[int], bool]" = _no_guard


def set_guard(guard: "Callable[[int], bool]") -> None:
    """Have `guard(pid)` called before a read that may block; if it returns False, the read is skipped."""
    global _guard
    _guard = guard


def may_read(pid: int) -> bool:
    """Whether reads about process `pid` that may block are allowed now."""
    return _guard(pid)


def user_key(uid: int) -> int:
    """The key of a user for `may_read`: looking up a name in a directory service may block, too."""
    return -1 - uid


def group_key(gid: int) -> int:
    """The same for a group."""
    return -1 - (1 << 32) - gid


class Existence(str):
    """What is known of a pid."""

    __slots__ = ()


GONE = Existence("gone")
"""No such process, or only a zombie all of whose threads have ended."""
LIVES = Existence("lives")
UNREADABLE = Existence("unreadable")
"""There may be one, but its maps are not readable, or empty as for an exiting process."""


class Process:
    """One process, as far as it could be read.

    existence GONE, LIVES or UNREADABLE (`files` is then empty and no evidence)
    files     (device, inode) of every file that it maps
    """

    __slots__ = ("existence", "files", "pid")

    def __init__(self, pid: int, existence: Existence, files: "FrozenSet[FileId]" = frozenset()) -> None:
        self.pid = pid
        self.existence = existence
        self.files = files


class Processes:
    """One inspection of the processes of this host under `proc_root`, read on demand."""

    def __init__(self, proc_root: str = "/proc") -> None:
        self.proc_root = proc_root
        self._processes: Dict[int, Process] = {}
        self._pids: Optional[List[int]] = None
        self._listed: FrozenSet[int] = frozenset()
        self._innermost: Dict[int, int] = {}
        self._namesakes: Optional[Dict[int, List[int]]] = None
        self._initial: Set[int] = set()
        self._threads: Dict[int, Dict[int, int]] = {}
        self._all: Optional[List[Process]] = None
        self._writers: Optional[Dict[FileId, List[int]]] = None
        self._blind_spot: Optional[str] = None

    def blind_spot(self) -> str:
        """Why some process of this host may be invisible here; "" if every process can be seen.

        Every process can be seen from the initial pid namespace, in its own /proc, mounted without hidepid.
        (CAP_SYS_PTRACE does not always override hidepid: a security module or a user namespace may prevent
        it.)
        """
        if self._blind_spot is None:
            self._blind_spot = self._find_blind_spot()
        return self._blind_spot

    def _find_blind_spot(self) -> str:
        try:
            if os.readlink(self.proc_root + "/self") != str(os.getpid()):
                return f"{self.proc_root} belongs to another pid namespace"
            if os.readlink(self.proc_root + "/self/ns/pid") != INITIAL_PID_NAMESPACE:
                return "this is not the host's first pid namespace, so processes outside it are invisible"
            if self._may_hide_pids():
                return f"{self.proc_root} is mounted with hidepid, so other users' processes are invisible"
        except OSError as error:
            return f"{self.proc_root} cannot be read: {error.strerror}"
        return "" if self.pids() else f"{self.proc_root} cannot be listed"

    def _may_hide_pids(self) -> bool:
        kind, options = mount_of(self.proc_root, self.proc_root)
        return kind != b"proc" or any(
            option.startswith((b"hidepid=", b"subset=")) and option != b"hidepid=0"
            for option in options.split(b",")
        )

    def process(self, pid: int) -> Process:
        """What is known of the process `pid` (not a thread id)."""
        if pid not in self._processes:
            self._processes[pid] = self._read_process(pid)
        return self._processes[pid]

    def maps(self, pid: int, file_id: "FileId") -> bool:
        """Whether process `pid` is known to map the file; False is no evidence that it does not."""
        return 0 < pid <= PID_MAX and file_id in self.process(pid).files

    def pids(self) -> "List[int]":
        """The pid of every visible process; empty if /proc cannot be listed, which is a blind spot."""
        if self._pids is None:
            self._pids = [int(name) for name in _listdir(self.proc_root) if name.isdigit()]
            self._listed = frozenset(self._pids)
        return self._pids

    def all(self) -> "List[Process]":
        """Every visible process with its mappings; expensive, see `namesakes`."""
        if self._all is None:
            self._all = [self.process(pid) for pid in self.pids()]
        return self._all

    def namesakes(self, pid: int) -> "List[Process]":
        """Every process that has `pid` in its own pid namespace, or may have it.  Inspects no other further.

        One readlink() per process of the host: 3 us, while maps and status take 90 us (measured, 6.18).
        """
        if self._namesakes is None:
            self._namesakes = self._find_namesakes()
        same, unknown = self._namesakes.get(pid, ()), self._namesakes.get(0, ())
        itself = (pid,) if pid in self._initial else ()
        return [self.process(each) for each in (*itself, *same, *unknown)]

    def _find_namesakes(self) -> "Dict[int, List[int]]":
        """Pid in its own namespace (0 if unknown) -> pids, of the processes outside the initial namespace.

        `_initial` gets the others.  A loop over thousands of processes while an unlink waits: it is inlined.
        """
        found: Dict[int, List[int]] = {}
        root, readlink, initial = self.proc_root, os.readlink, self._initial
        for each in self.pids():
            try:
                if readlink(f"{root}/{each}/ns/pid") == INITIAL_PID_NAMESPACE:
                    initial.add(each)
                    continue
            except OSError:
                pass
            found.setdefault(self.innermost_pid(each), []).append(each)
        return found

    def mapping(self, file_id: "FileId") -> "List[int]":
        """The pids of all processes that map the file, as far as they can be seen."""
        return [process.pid for process in self.all() if file_id in process.files]

    def holders(self, file_id: "FileId") -> "List[int]":
        """The pids of all processes that map the file or, if none does, that have it open for writing.

        Processes whose descriptors cannot be read are skipped: absence is no evidence.
        """
        if self._writers is None and not self.mapping(file_id):
            # One pass for all files: a process may hold thousands of the files in question.
            self._writers = {}
            for process in self.all():
                for each in self.open_files(process.pid, True) or ():
                    self._writers.setdefault(each, []).append(process.pid)
        return self.mapping(file_id) or (self._writers or {}).get(file_id, [])

    def open_files(self, pid: int, writing: bool = False) -> "Optional[Set[FileId]]":
        """(device, inode) of every open file of a process; None if they cannot be listed.

        With `writing` only those that are open for writing.
        """
        if not may_read(pid):
            return None
        paths = descriptors(pid, self.proc_root)
        if paths is None:
            return None
        found = set()
        for path in paths:
            try:
                # The links' own permissions are the modes that the files are open in (proc(5)).
                if writing and not os.lstat(path).st_mode & stat.S_IWUSR:
                    continue
                status = os.stat(path)
            except OSError:
                continue
            found.add((status.st_dev, status.st_ino))
        return found

    def innermost_pid(self, pid: int) -> int:
        """The pid of a process (or thread) in its own pid namespace; 0 if unknown.

        From its namespace link or, if that is another namespace or unreadable, from NSpid in
        /proc/<pid>/status, which every user may read, and which Linux has from 4.1 on.
        """
        if pid not in self._innermost:
            try:
                same = os.readlink(f"{self.proc_root}/{pid}/ns/pid") == INITIAL_PID_NAMESPACE
            except OSError:
                same = False
            found = {} if same or not may_read(pid) else status(pid, self.proc_root)
            numbers = found.get(b"NSpid", b"").split()
            self._innermost[pid] = pid if same else int(numbers[-1]) if numbers else 0
        return self._innermost[pid]

    def threads(self, pid: int) -> "Dict[int, int]":
        """Thread id -> id in its innermost pid namespace (0 if unknown), of one process."""
        if pid not in self._threads:
            tids = map(int, _listdir(f"{self.proc_root}/{pid}/task"))
            self._threads[pid] = {tid: self.innermost_pid(tid) for tid in tids}
        return self._threads[pid]

    def _read_process(self, pid: int) -> Process:
        if not may_read(pid):
            return Process(pid, UNREADABLE)
        if self._pids is None or pid not in self._listed:  # pids in /proc are no thread ids
            found = status(pid, self.proc_root)
            if b"Tgid" not in found:
                return Process(pid, GONE if self.no_such_process(pid) else UNREADABLE)
            if found[b"Tgid"] != b"%d" % pid:
                return Process(pid, GONE)  # a thread of another process: a creator is a whole process
        maps = read(f"{self.proc_root}/{pid}/maps")
        if not maps:
            fields = stat_fields(pid, self.proc_root)
            if len(fields) > 17:
                if int(fields[6]) & PF_KTHREAD:
                    return Process(pid, LIVES)
                # The kernel counts the threads; a listing may miss one that has just started.
                if fields[0] in (b"Z", b"X") and int(fields[17]) <= 1:
                    return Process(pid, GONE)
            maps = maps_of(pid, self.proc_root) or b""
        if maps:
            return Process(pid, LIVES, frozenset(parse_maps(maps)))
        return Process(pid, GONE if self.no_such_process(pid) else UNREADABLE)

    def no_such_process(self, pid: int) -> bool:
        """Whether there is no such process now, by kill(); EPERM means that there is one."""
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            pass
        return False

    def runs(self, pid: int, start: int) -> bool:
        """Whether process `pid` is the one that started at `start`, and has not ended, or may be."""
        try:
            return pulse(pid, self.proc_root) == (start, False)
        except OSError:
            return True

    def start(self, pid: int) -> int:
        """The start of a process in clock ticks since boot; 0 if there is none or it cannot be read."""
        try:
            return pulse(pid, self.proc_root)[0]
        except OSError:
            return 0

    def descends(self, pid: int, ancestor: int, born: int) -> bool:
        """Whether a process descends from the process `ancestor` that started at `born`, as far as is seen.

        By /proc/<pid>/stat, which everybody may read; a parent that started after its child is another one.
        """
        child, last = pid, float("inf")
        while ancestor > 0 and pid > 0:
            fields = _fields(read(f"{self.proc_root}/{pid}/stat") or b"")
            if len(fields) < 20 or int(fields[19]) > last:
                return False
            if pid == ancestor:
                return pid != child and int(fields[19]) == born
            pid, last = int(fields[1]), int(fields[19])
        return False


def status(pid: int, proc_root: str = "/proc") -> "Dict[bytes, bytes]":
    """/proc/<pid>/status, which every user may read; empty if it cannot be read."""
    pairs = (line.partition(b":") for line in (read(f"{proc_root}/{pid}/status") or b"").split(b"\n"))
    return {key: value.strip() for key, _, value in pairs}


def maps_of(pid: int, proc_root: str = "/proc") -> "Optional[bytes]":
    """The text of /proc/<pid>/maps; b"" for a process without memory of its own, None if unreadable.

    It cannot be had by the main thread once that has ended: then it is had by another that lives on.
    """
    if not may_read(pid):
        return None
    text = read(f"{proc_root}/{pid}/maps")
    if not text:
        tasks = _listdir(f"{proc_root}/{pid}/task")
        text = next(filter(None, (read(f"{proc_root}/{pid}/task/{tid}/maps") for tid in tasks)), text)
    return text


def pulse(pid: int, proc_root: str = "/proc") -> "Tuple[int, bool]":
    """The start of process `pid` (ticks since boot), and whether it is dead with all its threads.

    (0, True) if there is no such process.  OSError if that cannot be found out, for example without a free
    descriptor: unknown is not dead.  Reads only /proc/<pid>/stat, which takes no lock of the process' memory
    (fs/proc/array.c), so it does not block.  A process whose threads have all ended stays a zombie until its
    parent reaps it; the kernel counts the threads.
    """
    try:
        # Of some hosts' thousands of processes: three system calls each, where a file object takes seven.
        fd = os.open(f"{proc_root}/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            fields = _fields(os.read(fd, 4096))
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ESRCH):
            raise
        return 0, True
    if len(fields) < 20:
        return 0, True
    return int(fields[19]), fields[0] in (b"Z", b"X") and int(fields[17]) <= 1


def is_exiting(pid: int, proc_root: str = "/proc") -> bool:
    """Whether the main thread of a process is exiting; False if that cannot be found out."""
    fields = stat_fields(pid, proc_root)
    return len(fields) > 6 and bool(int(fields[6]) & PF_EXITING)


def stat_fields(pid: int, proc_root: str = "/proc") -> "List[bytes]":
    """As `_fields`, of a process; empty if they cannot be read."""
    return _fields(read(f"{proc_root}/{pid}/stat") or b"")


def _fields(text: bytes) -> "List[bytes]":
    """The fields of stat from the third on (0 state, 6 flags, 17 threads); the second may contain blanks."""
    return text.rpartition(b")")[2].split()


def named(key: int) -> str:
    """Text for what `may_read` was asked about: the process with pid and name, the user or the group."""
    if key >= 0:
        name = (read(f"/proc/{key}/stat") or b"").partition(b"(")[2].rpartition(b")")[0]
        return f"process {key} ({os.fsdecode(name)})" if name else f"process {key}"
    user = -1 - key
    return f"user {user}" if user < 1 << 32 else f"group {user - (1 << 32)}"


def read(path: str) -> "Optional[bytes]":
    """The whole of a file of /proc; None if it is gone or not readable."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        with open(fd, "rb", buffering=0) as stream:
            return stream.read() or b""
    except OSError:
        return None


def descriptors(pid: int, proc_root: str = "/proc") -> "Optional[List[str]]":
    """The paths, under `proc_root`, of a process' open descriptors; None if they cannot be listed."""
    folder = f"{proc_root}/{pid}"
    try:
        found = _paths_in(folder + "/fd")
        # Like maps, the list reads empty after the end of the main thread, while other threads live.
        for tid in [] if found else os.listdir(folder + "/task"):
            try:
                found = found or _paths_in(f"{folder}/task/{tid}/fd")
            except (FileNotFoundError, ProcessLookupError):
                continue
    except OSError:
        return None
    return found


def parse_maps(text: bytes) -> "Iterator[FileId]":
    """(device, inode) of every file in a /proc/<pid>/maps; without anonymous memory."""
    # Single blanks between address, permissions, offset, device and inode; a path only from column 73 on.
    # Runs of lines differ in the address and the offset alone: a heap's superblocks (fs/proc/task_mmu.c).
    place, column = b"\n", 0
    for line in text.split(b"\n"):
        if line.startswith(place, column):
            continue
        fields = line.split(b" ", 5)
        if len(fields) < 5 or fields[4] == b"0":
            continue
        place = b" %s %s " % (fields[3], fields[4])
        column = line.find(place)
        major, _, minor = fields[3].partition(b":")
        yield os.makedev(int(major, 16), int(minor, 16)), int(fields[4])


def mappings(text: bytes, device: int) -> "Iterator[Tuple[int, int, int, int, bytes]]":
    """Start, end, offset, inode and path of every mapping of a file of `device` in a /proc/<pid>/maps."""
    wanted = b"%02x:%02x" % (os.major(device), os.minor(device))
    for line in text.split(b"\n"):
        if wanted not in line:
            continue
        fields = line.split(b" ", 5)
        if len(fields) < 6 or fields[3] != wanted or fields[4] == b"0":
            continue
        start, _, end = fields[0].partition(b"-")
        yield int(start, 16), int(end, 16), int(fields[2], 16), int(fields[4]), fields[5].strip()


def mount_of(path: str, proc_root: str = "/proc") -> "Tuple[bytes, bytes]":
    """File system type and options of the mount that contains `path`; two b"" if unknown.

    Found by device number, which does not work on btrfs and overlay.
    """
    device = os.stat(path).st_dev
    wanted = b"%d:%d" % (os.major(device), os.minor(device))
    with open(proc_root + "/self/mountinfo", "rb") as stream:
        for line in stream:
            before, _, after = line.partition(b" - ")
            if before.split()[2] == wanted:
                kind, _, options = after.rstrip().split(b" ")[:3]
                return kind, options
    return b"", b""


def _paths_in(folder: str) -> "List[str]":
    return [folder + "/" + name for name in os.listdir(folder)]


def _listdir(folder: str) -> "List[str]":
    try:
        return os.listdir(folder)
    except OSError:
        return []
