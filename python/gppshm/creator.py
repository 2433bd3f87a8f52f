"""Is the creator of this heap dead?  One function, one verdict, one sentence of reason.

A heap lives as long as its creator, as in REDHAWK: when the creator is dead the heap is orphaned, whatever
other processes map it.  There are three kinds of evidence:

1. A read lease that the kernel grants (see `gppshm.lease`): no process has the heap open or mapped for
   writing, so the creator has not.  This needs no /proc and works across pid namespaces.
2. Pids, if the lease is refused (a peer or the creator lives) or says nothing: no process of this host that
   has the creator's pid, in its own pid namespace, maps the heap.  This is valid only in the initial pid
   namespace and with a /proc that hides nothing.
3. An identity that was established while the creator lived (see `Identity`), and the end of that process.

Everything else is UNKNOWN: the heap is kept and may be judged again.  Clocks, ages, reference counts and
EPERM are no evidence.

Limits: a process dumped by CRIU holds nothing and looks dead.  The child of a creator that forked without
exec is an attached peer.
"""

from gppshm import heapfile, lease, procfs, shmfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional, Sequence, Tuple

    FileId = Tuple[int, int]


class State(str):
    """The state of a heap's creator."""

    __slots__ = ()


ALIVE = State("alive")
ORPHANED = State("orphaned")
"""The creator is dead, and no process is attached."""
ATTACHED = State("orphaned, attached")
"""The creator is dead, but peers are attached: after the unlink the memory stays until they exit."""
UNKNOWN = State("unknown")
"""No proof either way: never removed."""

ORPHANS = (ORPHANED, ATTACHED)
"""The states in which a heap may be unlinked."""


class Evidence(str):
    """The kind of evidence of a verdict."""

    __slots__ = ()


LEASE = Evidence("lease")
PIDS = Evidence("pids")
IDENTITY = Evidence("identity")
"""The creator's identity was established while it lived, the file was not changed since, and it has ended."""
NONE = Evidence("none")


class Verdict:
    """state, one sentence of `reason`, and the evidence.

    creator   pid, in this pid namespace, of the living creator of an ALIVE heap; else 0
    attached  pids, in this pid namespace, of the holders of an ATTACHED heap; else empty
    """

    __slots__ = ("attached", "creator", "evidence", "reason", "state")

    def __init__(
        self,
        state: State,
        reason: str,
        evidence: Evidence = NONE,
        creator: int = 0,
        attached: "Sequence[int]" = (),
    ) -> None:
        self.state = state
        self.reason = reason
        self.evidence = evidence
        self.creator = creator
        self.attached: Tuple[int, ...] = tuple(attached)

    def __repr__(self) -> str:
        return f"Verdict({self.state}: {self.reason})"

    def plain(self) -> "Tuple[str, str, str, int, Tuple[int, ...]]":
        """As plain data for another process; see `verdict_of`."""
        return str(self.state), self.reason, str(self.evidence), self.creator, self.attached


_STATES = {str(state): state for state in (ALIVE, ORPHANED, ATTACHED, UNKNOWN)}
_EVIDENCE = {str(evidence): evidence for evidence in (LEASE, PIDS, IDENTITY, NONE)}


def verdict_of(plain: "Tuple[str, str, str, int, Sequence[int]]") -> Verdict:
    """The Verdict from its plain data."""
    state, reason, evidence, pid, attached = plain
    return Verdict(_STATES[state], reason, _EVIDENCE[evidence], pid, attached)


class Identity:
    """The creator of a heap, established by `identify` while it lived, under the complete rule.

    pid, start  of the process; the start in clock ticks since boot, for equality only
    file_id, raw  of the heap; raw: the first 16 bytes of the file
    since       when it was established (monotonic)

    It is void as soon as the file may have been re-created in place.  O_TRUNC, ftruncate() and fallocate()
    each raise IN_MODIFY on an inotify watch of the file at once (measured on Linux 6.18); nothing else
    reports them.  So an Identity must be dropped at each such event, and when events or the watch were lost.
    """

    __slots__ = ("file_id", "pid", "raw", "since", "start")

    def __init__(self, pid: int, start: int, file_id: "FileId", raw: bytes, since: float) -> None:
        self.pid = pid
        self.start = start
        self.file_id = file_id
        self.raw = raw
        self.since = since

    def fits(self, sighting: shmfs.Sighting) -> bool:
        """Whether this is the file that it was established for; the reference count may differ."""
        same = sighting.raw[:8] == self.raw[:8] and sighting.raw[12:16] == self.raw[12:16]
        return same and sighting.kind is shmfs.HEAP and sighting.file_id == self.file_id


def identify(sighting: shmfs.Sighting, processes: procfs.Processes, now: float) -> "Optional[Identity]":
    """The Identity of a heap's living creator, or None if there is any doubt.

    `processes` must have been made after `sighting`.  All of these must hold: name and header agree on a
    pid of the initial pid namespace; that process maps the file; no other process with that pid in its own
    namespace maps it or has it open; nothing of the host is hidden.
    """
    pid = sighting.name_pid
    if sighting.kind is not shmfs.HEAP or sighting.header is None or not sighting.on_tmpfs:
        return None
    if not _plausible(pid) or sighting.header.creator != pid or processes.blind_spot():
        return None
    start = processes.start(pid)
    if not start or not processes.maps(pid, sighting.file_id) or processes.innermost_pid(pid) != pid:
        return None
    for process in processes.namesakes(pid):
        if process.pid != pid and _may_be_creator(process, sighting.file_id, processes):
            return None
    if processes.start(pid) != start:
        return None
    return Identity(pid, start, sighting.file_id, sighting.raw, now)


def presumed(sighting: shmfs.Sighting, processes: procfs.Processes) -> int:
    """The pid of the process that must be a heap's creator, though its memory map cannot be read; else 0.

    An ordinary user cannot read the map of a program with file capabilities.  These must hold: name and
    header agree on the process; it lives; the file has a writer; the pid can mean no other process.  This is
    no evidence of a death.  `processes` must have been made after `sighting`.
    """
    pid = sighting.name_pid
    if sighting.kind is not shmfs.HEAP or sighting.header is None or sighting.answer is not lease.REFUSED:
        return 0
    if not _plausible(pid) or sighting.header.creator != pid or processes.blind_spot():
        return 0
    if processes.process(pid).existence is not procfs.UNREADABLE or processes.innermost_pid(pid) != pid:
        return 0
    for process in processes.namesakes(pid):
        if process.pid != pid and _may_be_creator(process, sighting.file_id, processes):
            return 0
    return pid


def judge_by_identity(sighting: shmfs.Sighting, identity: Identity, seconds: float) -> "Optional[Verdict]":
    """The verdict on a heap whose creator has ended, by its Identity, `seconds` old; None if it does not fit.

    The caller guarantees that `identity` is not void, and that the process has ended: its pidfd is readable,
    or no process has its pid and start.
    """
    if not identity.fits(sighting):
        return None
    if sighting.answer is lease.GRANTED:
        return Verdict(ORPHANED, _NO_WRITER.format(identity.pid), LEASE)
    known = f"its identity was established {seconds:.1f} s before, and the file was not re-created since"
    if sighting.answer is lease.REFUSED:
        reason = f"its creator, process {identity.pid}, has ended: {known}; others are still attached"
        return Verdict(ATTACHED, reason, IDENTITY)
    return Verdict(ORPHANED, f"its creator, process {identity.pid}, has ended: {known}", IDENTITY)


_NO_WRITER = "no process has it open or mapped for writing, so its creator, process {}, is gone"


def judge(sighting: shmfs.Sighting, processes: procfs.Processes, ended: int = 0) -> Verdict:
    """The verdict on a HEAP or a HALF_MADE file; `processes` must have been made after `sighting`.

    ended  pid, in this pid namespace, of a process that is known to have ended (by its pidfd or its start),
           and that mapped this very file as its creator, or was alive while this file had its pid in the
           name; 0 if there is none.  If given, the peers that explain a refused lease need not be found,
           and `attached` is empty.
    Never raises: whatever cannot be read makes the verdict UNKNOWN.
    """
    if sighting.kind is shmfs.HALF_MADE:
        return _judge_half_made(sighting, processes)
    if sighting.kind is not shmfs.HEAP or sighting.header is None:
        return Verdict(UNKNOWN, sighting.error or "it is no heap")
    named, recorded = sighting.name_pid, sighting.header.creator
    if not named and sighting.header.version != heapfile.VERSION:
        # REDHAWK refuses it, and its bytes at the creator's place in version 1 may be anything.
        reason = "its name is no heap name, and the layout of header version {} is unknown"
        return Verdict(UNKNOWN, reason.format(sighting.header.version))
    if sighting.answer is lease.GRANTED:
        if not named:
            # A foreign file that begins with these four bytes, or a copy in use.
            if not _plausible(recorded):
                reason = "its name is no heap name, and its header has no possible pid: {}"
                return Verdict(UNKNOWN, reason.format(recorded))
            if processes.process(recorded).existence is not procfs.GONE:
                reason = "its name is no heap name, and process {}, its creator by the header, lives"
                return Verdict(UNKNOWN, reason.format(recorded))
        return Verdict(ORPHANED, _NO_WRITER.format(named or recorded), LEASE)
    return living(sighting, processes) or _judge_by_pids(sighting, named, recorded, processes, ended)


def verdict_without_processes(sighting: shmfs.Sighting) -> "Optional[Verdict]":
    """ALIVE or UNKNOWN if inspecting processes would add nothing; else None.  Fast: reads no process."""
    if sighting.kind is not shmfs.HALF_MADE:
        return None
    if sighting.answer is lease.REFUSED:
        return Verdict(ALIVE, "a process is creating it, or has it open for writing", LEASE)
    if not _plausible(sighting.name_pid):
        return Verdict(UNKNOWN, f"it has no whole header, and {sighting.name_pid} is no possible pid")
    return None


def living(sighting: shmfs.Sighting, processes: procfs.Processes) -> "Optional[Verdict]":
    """ALIVE if the creator's own process is enough to prove it; else None.  Fast: reads one process."""
    if sighting.header is None:
        return None
    for pid in (sighting.header.creator, sighting.name_pid):
        if processes.maps(pid, sighting.file_id):
            return Verdict(ALIVE, f"its creator, process {pid}, lives and maps it", PIDS, pid)
    return None


def _judge_by_pids(
    sighting: shmfs.Sighting, named: int, recorded: int, processes: procfs.Processes, ended: int
) -> Verdict:
    """Evidence 2, if neither the pid in the name nor the pid in the header maps the heap."""
    writer = "a process has it open or mapped for writing" if sighting.answer is lease.REFUSED else ""
    if not sighting.on_tmpfs:
        return Verdict(UNKNOWN, "it is not known to be on a tmpfs, and memory maps are evidence only there")
    first = writer or "the kernel grants no lease on it"
    blind = processes.blind_spot()
    if blind:
        return _unknown(first, blind)
    if not named:
        # A file with such a name may be no heap: one stray write into its header must not remove it.
        return _unknown(first, "its name is no heap name, so only its header names a creator")
    if named != recorded:
        reason = "its name says that process {} created it, its header says {}"
        return _unknown(first, reason.format(named, recorded))
    if not _plausible(recorded):
        return _unknown(first, f"its header has no possible pid: {recorded}")

    doubt = ""
    for process in processes.namesakes(recorded):
        if process.existence is procfs.GONE:
            continue
        pid_inside = processes.innermost_pid(process.pid)
        if not pid_inside and processes.no_such_process(process.pid):
            continue  # it ended during the inspection
        if pid_inside and sighting.file_id in process.files:
            reason = "its creator, process {} of a container, lives and maps it as process {} here"
            return Verdict(ALIVE, reason.format(recorded, process.pid), PIDS, process.pid)
        why = _may_be_creator(process, sighting.file_id, processes)
        if why and not doubt:
            doubt = f"process {process.pid} may be its creator: {why}"
    if doubt:
        return _unknown(first, doubt)
    namesake = processes.process(recorded)
    if namesake.existence is procfs.UNREADABLE:
        return _unknown(first, f"process {recorded} lives, and its memory map cannot be read")
    gone = f"its creator, process {recorded}, is gone"
    if namesake.existence is procfs.LIVES:
        gone = f"its creator is gone: process {recorded} is another process, which does not map it"
    if ended:
        if writer:
            return Verdict(ATTACHED, f"{gone}; others are still attached", PIDS)
        return Verdict(ORPHANED, gone, PIDS)
    holders = processes.holders(sighting.file_id) if writer else processes.mapping(sighting.file_id)
    if writer and not holders:
        return _unknown(first, "it cannot be seen which")
    if holders:
        return Verdict(ATTACHED, f"{gone}; still attached: {listed(holders)}", PIDS, 0, holders)
    unreadable = any(process.existence is procfs.UNREADABLE for process in processes.all())
    nobody = "no process that can be inspected" if unreadable else "no process"
    return Verdict(ORPHANED, f"{gone}, and {nobody} maps it", PIDS)


def _may_be_creator(process: procfs.Process, file_id: "FileId", processes: procfs.Processes) -> str:
    """Why a process with the creator's pid in its own namespace, or an unknown one, may be it; else ""."""
    if process.existence is procfs.UNREADABLE:
        return "its memory map cannot be read"
    if file_id in process.files:
        return "its pid in its own namespace is not known"
    # Between a creator's open() and its mmap(). A kernel thread has no files of either kind.
    opened = processes.open_files(process.pid) if process.files else ()
    if opened is None or file_id in opened:
        return "it may be about to map it"
    return ""


def _judge_half_made(sighting: shmfs.Sighting, processes: procfs.Processes) -> Verdict:
    """A file without a whole header is an orphan if no process writes to it and its name's pid is dead.

    The lease alone is not enough: during the creator's open() the new file is not yet open for writing.
    """
    pid = sighting.name_pid
    verdict = verdict_without_processes(sighting)
    if verdict is not None:
        return verdict
    if sighting.answer is lease.SILENT:
        return Verdict(UNKNOWN, "it has no whole header, and the kernel grants no lease on it")
    gone, why = _pid_is_gone(pid, processes)
    if not gone:
        return Verdict(UNKNOWN, f"it has no whole header, nobody is writing to it, and {why}")
    return Verdict(ORPHANED, f"its creator, {why}, died before its header was whole", LEASE)


def judge_fifo(pid: int, processes: procfs.Processes) -> Verdict:
    """The verdict on a FIFO of process `pid`.  It is never opened: that would wake a blocked peer.

    By pids only, because a process that is blocked in open() appears nowhere.
    """
    gone, why = _pid_is_gone(pid, processes)
    if not gone:
        return Verdict(UNKNOWN, why)
    return Verdict(ORPHANED, f"its creator, {why}, is gone", PIDS)


def listed(pids: "Sequence[int]") -> str:
    """Pids as text: process 12; processes 12, 13 and 14 more."""
    shown = ", ".join(str(pid) for pid in pids[:4])
    more = f" and {len(pids) - 4} more" if len(pids) > 4 else ""
    return "process{} {}{}".format("es" if len(pids) > 1 else "", shown, more)


def _pid_is_gone(pid: int, processes: procfs.Processes) -> "Tuple[bool, str]":
    """Whether no process of this host has the pid, here or in its own pid namespace; and the text for it."""
    blind = processes.blind_spot()
    if blind:
        return False, blind
    if not _plausible(pid):
        return False, f"{pid} is no possible pid"
    if processes.process(pid).existence is not procfs.GONE:
        return False, f"process {pid} lives"
    for process in processes.namesakes(pid):
        if process.existence is not procfs.GONE:
            if processes.innermost_pid(process.pid) or not processes.no_such_process(process.pid):
                return False, f"process {process.pid} may be its creator, in a container"
    return True, f"process {pid}"


def _plausible(pid: int) -> bool:
    """Whether the kernel may be asked about it: to kill(), 0 and -1 mean every process."""
    return 0 < pid <= procfs.PID_MAX


def _unknown(first: str, second: str) -> Verdict:
    return Verdict(UNKNOWN, f"{first}, and {second}")
