"""Is a forked child (without exec) of an orphaned heap's creator among the holders of the heap?

Such a child may still allocate, so nothing may be given back while it holds the heap.  It maps the header
page at the same address as the creator; a peer maps it elsewhere if addresses are randomised.  So the
creator's address is noted while it lives.
"""

import os
import time

from gppshm import procfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, Optional, Sequence, Set, Tuple

    FileId = Tuple[int, int]
    Found = Tuple["Kinship", Tuple[int, ...]]


class Kinship(str):
    """Whether a forked child of the creator (without exec) is among the holders."""

    __slots__ = ()


NO_CHILD = Kinship("no forked child")
CHILD = Kinship("a forked child")
"""A holder maps the header page at the creator's address (or addresses are not randomised)."""
UNKNOWN = Kinship("not known")


class Noted:
    """Facts about a creator, noted while it lived, that distinguish its forked child from a peer; see `note`.

    address  of the header page in the creator; 0 = unknown
    started  start of the creator, in ticks since boot; 0 = unknown
    uid      its user id, if it had no right to change it; else -1
    """

    __slots__ = ("address", "started", "uid")

    def __init__(self, address: int = 0, started: int = 0, uid: int = -1) -> None:
        self.address = address
        self.started = started
        self.uid = uid

    def plain(self) -> "Tuple[int, int, int]":
        """The arguments that make it."""
        return self.address, self.started, self.uid


NOTHING = Noted()
"""For a creator that was never seen alive."""


def note(pid: int, file_id: "FileId", proc_root: str = "/proc") -> Noted:
    """Note a living creator; NOTHING if the address of its heap cannot be found out."""
    host = procfs.Processes(proc_root)
    started = host.start(pid)
    address = header_address(procfs.maps_of(pid, proc_root) or b"", file_id)
    uid = _uid(pid, proc_root, unprivileged=True)
    if address <= 0 or not started or host.start(pid) != started:
        return NOTHING
    return Noted(address, started, uid)


def header_address(maps: bytes, file_id: "FileId") -> int:
    """The address of a heap's header page in the text of /proc/<pid>/maps.

    0 if the file is not mapped; -1 if it is, but the header page is not, or more than once.
    """
    device, inode = file_id
    found = [place for place in procfs.mappings(maps, device) if place[3] == inode]
    starts = [start for start, _, offset, _, _ in found if not offset]
    return 0 if not found else starts[0] if len(starts) == 1 else -1


def kinship(maps: "Dict[int, Optional[bytes]]", file_id: "FileId", address: int) -> "Found":
    """Whether a forked child of the creator is among these processes, and the pids that decide it.

    maps     pid -> text of /proc/<pid>/maps; None if it could not be read
    address  of the header page in the creator; 0 if it was not noted
    A holder whose header page cannot be found may be a child.
    """
    children, unknown = [], []
    for pid, text in sorted(maps.items()):
        there = header_address(text, file_id) if text else -1
        if there and there == address:
            children.append(pid)
        elif there < 0 or (there and address <= 0):
            unknown.append(pid)
    if children:
        return CHILD, tuple(children)
    return (UNKNOWN, tuple(unknown)) if unknown else (NO_CHILD, ())


def kin(file_id: "FileId", noted: Noted = NOTHING, proc_root: str = "/proc") -> "Found":
    """`kinship` of all processes of the host; UNKNOWN without a pid if some processes are invisible.

    The creator must have been proven dead before.  A process that started before the creator is no child and
    is not inspected.  A child may fork and end during the inspection, so it is repeated until /proc has no
    new process and no holder has gone.  Processes without readable maps, which may be exiting, are inspected
    again for some milliseconds.
    """
    return kin_of([(file_id, noted)], proc_root)[0]


def kin_of(questions: "Sequence[Tuple[FileId, Noted]]", proc_root: str = "/proc") -> "List[Found]":
    """`kin` of each of these heaps, with one inspection of the processes for all."""
    holders: List[Dict[int, Optional[bytes]]] = [{} for _ in questions]
    known: Set[int] = set()
    for delay in _LOOKS:
        host = procfs.Processes(proc_root)
        if host.blind_spot():
            return [(UNKNOWN, ())] * len(holders)
        listed, before = set(host.pids()), _pids(holders)
        for pid in sorted(listed - known | before):
            _inspect(pid, host, questions, holders)
        nothing_new = listed <= known and before == _pids(holders)
        if nothing_new and all(text for maps in holders for text in maps.values()):
            break
        if nothing_new:
            time.sleep(delay)
        known |= listed
    else:
        # Some processes are still new, or have no readable maps: only a found child is proof.
        found = [kinship(maps, file_id, noted.address) for (file_id, noted), maps in zip(questions, holders)]
        return [(kind, pids) if kind is CHILD else (UNKNOWN, pids) for kind, pids in found]
    return [kinship(maps, file_id, noted.address) for (file_id, noted), maps in zip(questions, holders)]


def _pids(holders: "Sequence[Dict[int, Optional[bytes]]]") -> "Set[int]":
    return {pid for maps in holders for pid in maps}


def _inspect(
    pid: int,
    host: procfs.Processes,
    questions: "Sequence[Tuple[FileId, Noted]]",
    holders: "Sequence[Dict[int, Optional[bytes]]]",
) -> None:
    """Store in `holders` the maps of the process, for each heap that it holds or may hold."""
    started = host.start(pid)
    asked = []
    for (file_id, noted), maps in zip(questions, holders):
        maps.pop(pid, None)
        if not 0 < started < noted.started:
            asked.append((file_id, noted, maps))
    if not asked:
        return
    text = procfs.maps_of(pid, host.proc_root)
    nobody = not text and (host.no_such_process(pid) or _cannot_hold(pid, host.proc_root))
    for (device, inode), noted, maps in asked:
        if text:
            # A plain search is enough: a process has hundreds of mappings, and few processes map the heap.
            if b" %02x:%02x %d " % (os.major(device), os.minor(device), inode) in text:
                maps[pid] = text
        elif not nobody and not _is_anothers(pid, noted, host.proc_root):
            maps[pid] = None


_LOOKS = (0, 0.001, 0.002, 0.004, 0.008, 0.016)
"""Seconds after each inspection, while some process has no readable maps."""

_SUBORDINATE_UIDS = 65536
"""User ids from here on may be a user's additional ids in a user namespace (subuid(5))."""


def _cannot_hold(pid: int, proc_root: str) -> bool:
    """Whether a process without maps is a kernel thread, or exiting with all its threads."""
    fields = procfs.stat_fields(pid, proc_root)
    if len(fields) < 20:
        return False
    flags = int(fields[6])
    return bool(flags & procfs.PF_KTHREAD) or (bool(flags & procfs.PF_EXITING) and int(fields[17]) <= 1)


def _is_anothers(pid: int, noted: Noted, proc_root: str) -> bool:
    """Whether a process is no child because of its user.

    A child of a creator without capabilities has the creator's user until it execs.  Pid 1 is no child.
    """
    uid = _uid(pid, proc_root)
    return pid == 1 or (noted.uid >= 0 and 0 <= uid < _SUBORDINATE_UIDS and uid != noted.uid)


def _uid(pid: int, proc_root: str, unprivileged: bool = False) -> int:
    """The user id of a process; -1 if unknown or not unique, or, if `unprivileged`, it has capabilities."""
    status = procfs.status(pid, proc_root)
    uids = set(status.get(b"Uid", b"").split())
    if len(uids) != 1:
        return -1
    if unprivileged and (b"0" in uids or int(status.get(b"CapPrm") or b"1", 16)):
        return -1
    return int(uids.pop())
