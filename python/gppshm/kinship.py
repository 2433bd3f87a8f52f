"""Whether a forked child of a dead heap's creator (without exec) is among those who hold the heap.

Such a child may still allocate, so nothing may be given back under it.  It maps the header page where the
creator had it; a peer maps it elsewhere, as far as addresses are randomised.  So where the creator had it is
noted while it lives.
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
"""A holder maps the header page where the creator had it (or address randomisation is off)."""
UNTOLD = Kinship("not known")


class Noted:
    """What tells a creator's forked child from a peer, noted while the creator lived (`note`).

    address  where it had the header page; 0 = not known
    started  its start, in ticks since boot; 0 = not known
    uid      its user, if it had no right to become another one; else -1
    """

    __slots__ = ("address", "started", "uid")

    def __init__(self, address: int = 0, started: int = 0, uid: int = -1) -> None:
        self.address = address
        self.started = started
        self.uid = uid

    def plain(self) -> "Tuple[int, int, int]":
        """What its parameters are."""
        return self.address, self.started, self.uid


NOTHING = Noted()
"""Of a creator that was never seen alive."""


def note(pid: int, file_id: "FileId", proc_root: str = "/proc") -> Noted:
    """What can be noted of a creator that lives; NOTHING if it does not show where it maps its heap."""
    host = procfs.Processes(proc_root)
    started = host.start(pid)
    address = header_address(procfs.maps_of(pid, proc_root) or b"", file_id)
    uid = _uid(pid, proc_root, unprivileged=True)
    if address <= 0 or not started or host.start(pid) != started:
        return NOTHING
    return Noted(address, started, uid)


def header_address(maps: bytes, file_id: "FileId") -> int:
    """Where the header page of a heap is mapped, by the text of /proc/<pid>/maps.

    0: the file is not mapped; -1: it is, but its header page is not, or more than once.
    """
    device, inode = file_id
    found = [place for place in procfs.mappings(maps, device) if place[3] == inode]
    starts = [start for start, _, offset, _, _ in found if not offset]
    return 0 if not found else starts[0] if len(starts) == 1 else -1


def kinship(maps: "Dict[int, Optional[bytes]]", file_id: "FileId", address: int) -> "Found":
    """Is a forked child of the creator among these processes, and which ones say so.

    `maps`: by pid, the text of maps; None where it could not be read.  `address`: where the creator had the
    header page, noted while it lived; 0 if it was not.  A peer has it elsewhere.  A holder that shows no
    header page cannot be told from a child.
    """
    children, untold = [], []
    for pid, text in sorted(maps.items()):
        there = header_address(text, file_id) if text else -1
        if there and there == address:
            children.append(pid)
        elif there < 0 or (there and address <= 0):
            untold.append(pid)
    if children:
        return CHILD, tuple(children)
    return (UNTOLD, tuple(untold)) if untold else (NO_CHILD, ())


def kin(file_id: "FileId", noted: Noted = NOTHING, proc_root: str = "/proc") -> "Found":
    """`kinship` of all processes of the host, as they are now; UNTOLD and no pid where some are invisible.

    The creator must have been proven dead before.  Who started before it is no child of it, and not looked
    into.  A child may hand on what it holds by a fork and end while this looks: what is new in /proc is
    looked at until nothing is, and no holder has gone.  So is, for some milliseconds, who is just ending, and
    shows no maps.
    """
    return kin_of([(file_id, noted)], proc_root)[0]


def kin_of(questions: "Sequence[Tuple[FileId, Noted]]", proc_root: str = "/proc") -> "List[Found]":
    """`kin` of each of these heaps, with one look at the processes for all of them."""
    holders: List[Dict[int, Optional[bytes]]] = [{} for _ in questions]
    known: Set[int] = set()
    for delay in _LOOKS:
        host = procfs.Processes(proc_root)
        if host.blind_spot():
            return [(UNTOLD, ())] * len(holders)
        listed, before = set(host.pids()), _pids(holders)
        for pid in sorted(listed - known | before):
            _look_into(pid, host, questions, holders)
        nothing_new = listed <= known and before == _pids(holders)
        if nothing_new and all(text for maps in holders for text in maps.values()):
            break
        if nothing_new:
            time.sleep(delay)
        known |= listed
    else:
        # Some are still new, or show nothing: only a child that was found is proof of anything.
        found = [kinship(maps, file_id, noted.address) for (file_id, noted), maps in zip(questions, holders)]
        return [(kind, pids) if kind is CHILD else (UNTOLD, pids) for kind, pids in found]
    return [kinship(maps, file_id, noted.address) for (file_id, noted), maps in zip(questions, holders)]


def _pids(holders: "Sequence[Dict[int, Optional[bytes]]]") -> "Set[int]":
    return {pid for maps in holders for pid in maps}


def _look_into(
    pid: int,
    host: procfs.Processes,
    questions: "Sequence[Tuple[FileId, Noted]]",
    holders: "Sequence[Dict[int, Optional[bytes]]]",
) -> None:
    """Note of each heap whether that process holds it, and by what maps."""
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
            # One search first: a process has hundreds of mappings, and few have the heap.
            if b" %02x:%02x %d " % (os.major(device), os.minor(device), inode) in text:
                maps[pid] = text
        elif not nobody and not _is_anothers(pid, noted, host.proc_root):
            maps[pid] = None


_LOOKS = (0, 0.001, 0.002, 0.004, 0.008, 0.016)
"""Seconds after each look at processes that show no maps."""

_PF_EXITING = 0x00000004  # linux/sched.h

_SUBORDINATE_UIDS = 65536
"""From here on a user may have uids besides his own, by way of a user namespace (subuid(5))."""


def _cannot_hold(pid: int, proc_root: str) -> bool:
    """Whether a process that shows no maps is a kernel thread, or past its last instruction."""
    fields = procfs.stat_fields(pid, proc_root)
    if len(fields) < 20:
        return False
    flags = int(fields[6])
    return bool(flags & procfs.PF_KTHREAD) or (bool(flags & _PF_EXITING) and int(fields[17]) <= 1)


def _is_anothers(pid: int, noted: Noted, proc_root: str) -> bool:
    """Whether a process is known by its user to be no child: who cannot become another has none that is one.

    Until it execs, that is; and the host's first process is nobody's child.
    """
    uid = _uid(pid, proc_root)
    return pid == 1 or (noted.uid >= 0 and 0 <= uid < _SUBORDINATE_UIDS and uid != noted.uid)


def _uid(pid: int, proc_root: str, unprivileged: bool = False) -> int:
    """The user of a process; -1 if it has several, or rights, or is not known."""
    status = procfs.status(pid, proc_root)
    uids = set(status.get(b"Uid", b"").split())
    if len(uids) != 1:
        return -1
    if unprivileged and (b"0" in uids or int(status.get(b"CapPrm") or b"1", 16)):
        return -1
    return int(uids.pop())
