"""Who holds the lock of a superblock: no thread, a living thread, or one that died with it?

The allocator's lock is not robust: if a process dies inside the allocator, the lock stays held and its peers
hang in their next release.  The lock records its holder's thread id in the holder's own pid namespace.  It
is held by the dead if no thread of any process that maps the heap has that id, found twice: the lock is read
before the threads are listed, and again afterwards.

Limit: a thread of a mapping process that got the dead thread's id by chance looks like the holder.
"""

from gppshm import heapfile, procfs, shmfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

    from gppshm import snapshot


class State(str):
    """The state of a lock."""

    __slots__ = ()


FREE = State("free")
HELD = State("held")
"""By a thread of a process that lives: normal."""
DEAD = State("held by the dead")
"""The next process that needs it hangs."""
UNKNOWN = State("unknown")


class Lock:
    """The lock of the superblock at `offset`.

    thread   id of the holder in its own pid namespace; 0 = none, or not written
    process  pid, in this pid namespace, of the living holder; else 0
    reason   one plain sentence
    """

    __slots__ = ("offset", "process", "reason", "state", "thread")

    def __init__(self, offset: int, state: State, reason: str, thread: int = 0, process: int = 0) -> None:
        self.offset = offset
        self.state = state
        self.reason = reason
        self.thread = thread
        self.process = process

    @classmethod
    def of(cls, data: "Sequence[Any]") -> "Lock":
        """The Lock from its plain data."""
        offset, state, reason, thread, process = data
        return cls(offset, _STATES[state], reason, thread, process)


_STATES = {str(state): state for state in (FREE, HELD, DEAD, UNKNOWN)}


class Threads:
    """The threads of all processes that map a file, or may map it because their maps cannot be read.

    Gathered once, at the first use, as a heap may have very many locks.
    """

    def __init__(self, file_id: "Tuple[int, int]", processes: procfs.Processes) -> None:
        self._file_id = file_id
        self._processes = processes
        self._gathered = False
        self._mapping = False
        self._doubt = ""
        # By the id in its own pid namespace: (thread, process) here, and pids of candidates.
        self._holders: Dict[int, Tuple[int, int]] = {}
        self._suspects: Dict[int, List[int]] = {}

    def holder(self, owner: int) -> "Tuple[int, int]":
        """Thread and process, in this pid namespace, of the thread `owner` of a mapper; else (0, 0)."""
        self._gather()
        return self._holders.get(owner, (0, 0))

    def doubt(self, owner: int) -> str:
        """Why the thread `owner` may live although there is no such holder; else ""."""
        self._gather()
        blind = self._processes.blind_spot()
        if blind:
            return f"thread {owner} may hold it unseen: {blind}"
        for pid in self._suspects.get(owner, []) + self._suspects.get(0, []):
            if not self._processes.no_such_process(pid):
                return f"process {pid} may hold it: its memory map cannot be read"
        return self._doubt

    def any_maps(self) -> bool:
        self._gather()
        return self._mapping

    def _gather(self) -> None:
        if self._gathered:
            return
        self._gathered = True
        for process in self._processes.all():
            pid, maps = process.pid, self._file_id in process.files
            if not maps and process.existence is not procfs.UNREADABLE:
                continue
            threads = self._processes.threads(pid)
            if not maps:
                # 0 is an unknown id, which may be any.
                for inside in set(threads.values()) or (0,):
                    self._suspects.setdefault(inside, []).append(pid)
                continue
            self._mapping = True
            for thread, inside in threads.items():
                self._holders.setdefault(inside, (thread, pid))
                if not inside and not self._doubt:
                    self._doubt = f"the ids of process {pid} in its own pid namespace are not known"


def plain(root: str, name: str) -> "List[Tuple[Any, ...]]":
    """The locks of one heap as plain data; see `Lock.of`."""
    from gppshm import creator, snapshot

    with shmfs.ShmDirectory(root) as directory:
        shot = snapshot.take(directory, [name], judge=lambda seen: [creator.Verdict(creator.UNKNOWN, "")])
        found = examine(directory, shot.entries)
    return [(x.offset, str(x.state), x.reason, x.thread, x.process) for each in found for x in each]


def examine(
    directory: shmfs.ShmDirectory, entries: "Sequence[snapshot.Entry]", proc_root: str = "/proc"
) -> "List[List[Lock]]":
    """The locks of each entry's superblocks, in order; none for files that are no heaps."""
    processes = procfs.Processes(proc_root)
    result = [_first_check(entry, processes) for entry in entries]
    doubtful = [i for i, locks in enumerate(result) if any(lock.state is DEAD for lock in locks)]
    if doubtful:
        again = {i: _read_again(directory, entries[i]) for i in doubtful}
        later = procfs.Processes(proc_root)
        for i in doubtful:
            second, threads = again[i], Threads(entries[i].sighting.file_id, later)
            result[i] = [
                _second_check(lock, second.get(lock.offset), threads) if lock.state is DEAD else lock
                for lock in result[i]
            ]
    return result


def _first_check(entry: "snapshot.Entry", processes: procfs.Processes) -> "List[Lock]":
    superblocks = entry.heap.superblocks if entry.heap else ()
    threads = Threads(entry.sighting.file_id, processes)
    return [check(superblock, threads) for superblock in superblocks]


def _second_check(lock: Lock, now: "Optional[heapfile.Superblock]", threads: Threads) -> Lock:
    if now is None:
        return Lock(lock.offset, UNKNOWN, "it could not be read a second time", lock.thread)
    second = check(now, threads)
    if second.state is DEAD and second.thread != lock.thread:
        return Lock(lock.offset, UNKNOWN, "it changes hands too quickly to tell", second.thread)
    return second


def check(superblock: heapfile.Superblock, threads: Threads) -> Lock:
    """One inspection.  DEAD is only a suspicion until a second one, of a lock that was read again, agrees.

    `threads` must have been made after `superblock`.
    """
    offset, owner = superblock.offset, superblock.lock_owner
    if superblock.lock_word == 0:
        return Lock(offset, FREE, "nobody holds it")
    if owner <= 0:
        # glibc writes the owner just after it took the lock word.
        return Lock(
            offset, UNKNOWN, "it is taken, and its holder has not written its thread id", max(owner, 0)
        )
    thread, process = threads.holder(owner)
    if process:
        here = "" if thread == owner else f" (thread {thread} here)"
        reason = f"thread {owner}{here} of process {process} holds it, and lives"
        return Lock(offset, HELD, reason, owner, process)
    unsure = threads.doubt(owner)
    if unsure:
        return Lock(offset, UNKNOWN, unsure, owner)
    peers = (
        "the next process that needs it hangs" if threads.any_maps() else "no process maps the heap any more"
    )
    return Lock(offset, DEAD, f"thread {owner}, which holds it, is gone: {peers}", owner)


def _read_again(directory: shmfs.ShmDirectory, entry: "snapshot.Entry") -> "Dict[int, heapfile.Superblock]":
    """The superblocks as they are now, by offset; none if the file is gone."""
    try:
        with directory.open(entry.sighting.name) as file:
            if file.fd is None or file.sighting.file_id != entry.sighting.file_id:
                return {}
            file.release()
            heap = heapfile.read_heap(file.fd, file.sighting.status.st_size)
    except OSError:
        return {}
    return {superblock.offset: superblock for superblock in heap.superblocks}


def dead_holder(
    file_id: "Tuple[int, int]", proc_root: str = "/proc"
) -> "Callable[[heapfile.Superblock], bool]":
    """A function: whether a dead thread holds the lock of a superblock.  It asks all processes."""

    def is_dead(superblock: heapfile.Superblock) -> bool:
        threads = Threads(file_id, procfs.Processes(proc_root))
        return check(superblock, threads).state is DEAD

    return is_dead
