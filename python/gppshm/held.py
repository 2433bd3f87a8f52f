"""Finds the holders of the files of a file system, by maps and open descriptors, and which are unlinked.

An unlinked file that is still held takes memory although it has no name: "used" is then larger than the sum
of the visible files.  The memory is freed when its last holder closes it.
"""

import errno
import os
import stat

from gppshm import procfs, shmfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, FrozenSet, Iterable, Iterator, List, Optional, Sequence, Set, Tuple

    FileId = Tuple[int, int]

DELETED = b" (deleted)"


FILES = 20000
"""The files of a directory with more are not added up; every scan then searches for held memory."""


class Holder:
    """One process that holds a file.

    mapped       bytes that it maps
    descriptors  number of its open descriptors of the file
    reads        it does not map the file, and has it open only for reading
    """

    __slots__ = ("descriptors", "mapped", "pid", "writable")

    def __init__(self, pid: int, mapped: int = 0, descriptors: int = 0) -> None:
        self.pid = pid
        self.mapped = mapped
        self.descriptors = descriptors
        self.writable = 0

    @property
    def reads(self) -> bool:
        return not self.mapped and not self.writable


class Unlinked:
    """A file without a name that is still held.

    name   its last name, without path, as a heap (see shmfs.DYING); "" if unknown
    size   bytes that it takes; if not `exact`, the largest part that a holder maps
    note   who may have unlinked it, if that is a fault; else ""
    """

    __slots__ = ("device", "exact", "holders", "inode", "name", "note", "size")

    def __init__(self, device: int, inode: int, name: str, size: int, exact: bool) -> None:
        self.device = device
        self.inode = inode
        self.name = shmfs.living_name(name) or name
        self.size = size
        self.exact = exact
        self.holders: List[Holder] = []
        self.note = ""


class Survey:
    """One inspection of all processes.

    holders   (device, inode) -> holders, for every held file of the directory's file system
    unlinked  Unlinked files, largest first
    unseen    pids whose maps or descriptors could not be read: what they hold is missing here
    """

    __slots__ = ("holders", "unlinked", "unseen")

    def __init__(self) -> None:
        self.holders: Dict[Tuple[int, int], List[Holder]] = {}
        self.unlinked: List[Unlinked] = []
        self.unseen: List[int] = []


def plain(found: Survey) -> "Tuple[Any, ...]":
    """As plain data for another process; see `survey_of`."""

    def people(holders: "List[Holder]") -> "List[Tuple[int, int, int]]":
        return [(each.pid, each.mapped, each.descriptors) for each in holders]

    unlinked = [
        (f.device, f.inode, f.name, f.size, f.exact, f.note, people(f.holders)) for f in found.unlinked
    ]
    return [(key, people(who)) for key, who in found.holders.items()], unlinked, found.unseen


def survey_of(data: "Sequence[Any]") -> Survey:
    """The Survey from its plain data."""
    result = Survey()
    holders, unlinked, result.unseen = data
    result.holders = {tuple(key): [Holder(*each) for each in who] for key, who in holders}
    for device, inode, name, size, exact, note, who in unlinked:
        file = Unlinked(device, inode, name, size, exact)
        file.note, file.holders = note, [Holder(*each) for each in who]
        result.unlinked.append(file)
    return result


def survey_root(root: str, proc_root: str = "/proc") -> "Tuple[Any, ...]":
    """Open the directory; its `survey` as plain data."""
    with shmfs.ShmDirectory(root, proc_root) as directory:
        return plain(survey(directory, proc_root))


def survey(directory: shmfs.ShmDirectory, proc_root: str = "/proc") -> Survey:
    """Inspect all visible processes for files of the directory's file system.

    Raises OSError if there is no /proc.
    """
    device = os.fstat(directory.fd).st_dev
    result = survey_device(device, proc_root)
    # The name of an existing file may end in " (deleted)".
    linked = _inodes(directory) if not all(file.exact for file in result.unlinked) else frozenset()
    processes = procfs.Processes(proc_root)
    result.unlinked = [file for file in result.unlinked if file.exact or file.inode not in linked]
    for file in result.unlinked:
        file.holders = result.holders[device, file.inode]
        file.note = _note(file, processes)
    result.unlinked.sort(key=lambda file: (-file.size, file.inode))
    return result


def survey_device(
    device: int, proc_root: str = "/proc", only: "Optional[Set[Tuple[int, int]]]" = None
) -> Survey:
    """As `survey`, of the file system with this device number; with `only`, of these (device, inode).

    Its `unlinked` may include existing files whose name ends in " (deleted)"; holders and notes are not set.
    """
    result = Survey()
    found: Dict[int, Unlinked] = {}
    pids = [int(name) for name in os.listdir(proc_root) if name.isdigit()]
    if not pids:
        raise OSError(errno.ESRCH, os.strerror(errno.ESRCH), proc_root)
    for pid in pids:
        holders: Dict[int, Holder] = {}
        seen = procfs.may_read(pid)
        if seen:
            seen = _maps(proc_root, pid, device, holders, found)
            # A process that maps a wanted file is a holder; reading its descriptors, too, costs more.
            if only is None or not any((device, inode) in only for inode in holders):
                seen = _descriptors(proc_root, pid, device, holders, found) and seen
        if not seen:
            result.unseen.append(pid)
        for inode, holder in holders.items():
            result.holders.setdefault((device, inode), []).append(holder)
    for inode in found:
        # A watcher that gives back free memory only reads, and closes after all others (see returns).
        everybody = result.holders.get((device, inode), [])
        result.holders[device, inode] = [holder for holder in everybody if not holder.reads] or everybody
    result.unlinked = list(found.values())
    return result


def _note(file: Unlinked, processes: procfs.Processes) -> str:
    pid = shmfs.pid_of_name(file.name)
    for holder in file.holders:
        if pid and holder.mapped and pid in (holder.pid, processes.innermost_pid(holder.pid)):
            return (
                f"its creator, process {holder.pid}, lives: somebody else unlinked it, as systemd's "
                "RemoveIPC, shmclean -f or a forked child's exit do; no new process can attach to it"
            )
    return ""


def _maps(
    proc_root: str, pid: int, device: int, holders: "Dict[int, Holder]", found: "Dict[int, Unlinked]"
) -> bool:
    """Add the files that a process maps; whether its maps could be read."""
    text = procfs.maps_of(pid, proc_root)
    if text is None:
        return not os.path.exists(f"{proc_root}/{pid}")
    for start, end, _, inode, path in procfs.mappings(text, device):
        holders.setdefault(inode, Holder(pid)).mapped += end - start
        if not path.endswith(DELETED) or (inode in found and found[inode].exact):
            continue
        name = _unescaped(path[: -len(DELETED)].rpartition(b"/")[2])
        try:
            status = os.stat(map_file(pid, start, end, proc_root))
        except OSError:
            file = found.setdefault(inode, Unlinked(device, inode, name, 0, False))
            file.size = max(file.size, holders[inode].mapped)
        else:
            if status.st_nlink == 0:
                found[inode] = Unlinked(device, inode, name, status.st_blocks * 512, True)
    return True


def _descriptors(
    proc_root: str, pid: int, device: int, holders: "Dict[int, Holder]", found: "Dict[int, Unlinked]"
) -> bool:
    """Add the files that a process has open; whether its descriptors could be read."""
    paths = procfs.descriptors(pid, proc_root)
    if paths is None:
        return not os.path.exists(f"{proc_root}/{pid}")
    for path in paths:
        try:
            status = os.stat(path)
            if status.st_dev != device or not stat.S_ISREG(status.st_mode):
                continue
            target = os.readlink(path) if status.st_nlink == 0 else ""
            # The permissions of the link are the mode in which the file is open (proc(5)).
            writable = bool(os.lstat(path).st_mode & stat.S_IWUSR)
        except OSError:
            continue
        inode = status.st_ino
        holder = holders.setdefault(inode, Holder(pid))
        holder.descriptors += 1
        holder.writable += writable
        if status.st_nlink == 0 and not (inode in found and found[inode].exact):
            old = os.path.basename(os.fsencode(target))
            old = old[: -len(DELETED)] if old.endswith(DELETED) else old
            found[inode] = Unlinked(device, inode, os.fsdecode(old), status.st_blocks * 512, True)
    return True


def open_held(file_id: "FileId", pids: "Iterable[int]", proc_root: str = "/proc") -> int:
    """A descriptor for reading of a file that these processes hold; it may have no name any more.

    It is reached through their descriptors, or, if they have none, through their mappings, which needs
    CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE.  Raises OSError if that fails: the first refusal, or ENOENT.
    """
    return open_regular(way_to(file_id, pids, proc_root), file_id)


def way_to(file_id: "FileId", pids: "Iterable[int]", proc_root: str = "/proc") -> str:
    """The path by which `open_held` reaches the file.  It inspects processes, so it may block."""
    refusal: Optional[OSError] = None
    for pid in pids:
        for path in _ways_to(file_id, pid, proc_root):
            try:
                os.close(open_regular(path, file_id))
                return path
            except FileNotFoundError:
                continue
            except OSError as error:
                refusal = refusal or error
    raise refusal or FileNotFoundError(errno.ENOENT, "no process leads to it")


def _ways_to(file_id: "FileId", pid: int, proc_root: str) -> "Iterator[str]":
    if not procfs.may_read(pid):
        return
    for path in procfs.descriptors(pid, proc_root) or ():
        try:
            status = os.stat(path)
        except OSError:
            continue
        if (status.st_dev, status.st_ino) == file_id:
            yield path
    for start, end, _, inode, _ in procfs.mappings(procfs.maps_of(pid, proc_root) or b"", file_id[0]):
        if inode == file_id[1]:
            yield map_file(pid, start, end, proc_root)


def map_file(pid: int, start: int, end: int, proc_root: str) -> str:
    """The link in /proc/<pid>/map_files for a mapping; its name has no leading zeros (proc(5))."""
    return f"{proc_root}/{pid}/map_files/{start:x}-{end:x}"


def open_regular(path: str, file_id: "FileId") -> int:
    """Open the link's target for reading if it is that file.  O_PATH first: it opens no FIFO or device."""
    handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or (status.st_dev, status.st_ino) != file_id:
            raise FileNotFoundError(errno.ENOENT, "another file", path)
        return os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    finally:
        os.close(handle)


def _inodes(directory: shmfs.ShmDirectory) -> "FrozenSet[int]":
    found = set()
    for name in directory.names():
        try:
            found.add(os.stat(name, dir_fd=directory.fd, follow_symlinks=False).st_ino)
        except OSError:
            continue
    return frozenset(found)


def _unescaped(name: bytes) -> str:
    """The real name: /proc/<pid>/maps escapes only newlines, as \\012 (proc(5))."""
    return os.fsdecode(name.replace(b"\\012", b"\n"))


def add_files(folders: "List[str]", found: "Dict[int, int]", left: int) -> bool:
    """Add to `found` inode -> bytes of all files below these folders; False if there are more than `left`."""
    while folders and left >= 0:
        try:
            entries = list(os.scandir(folders.pop()))
        except OSError:
            continue
        left -= len(entries)
        for entry in entries if left >= 0 else ():
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.path)
            else:
                found[status.st_ino] = status.st_blocks * 512
    return left >= 0
