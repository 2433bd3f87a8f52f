"""The observer: inspects other processes for programs that must not block.

It is a process of its own, started by `observer.Observer`.  Its stdin is a socket for questions and answers;
each is a length and a marshalled tuple.  It inspects no process itself: children do that (see `supervised`),
so it always answers.  It ends with its parent.
"""

import errno
import gc
import marshal
import os
import select
import socket
import struct
import sys
import time

if __name__ == "__main__":  # started by its file's name, isolated: see observer
    sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from gppshm import (
    creator,
    heapfile,
    held,
    kinship,
    lease,
    locks,
    processes,
    procfs,
    shmfs,
    supervised,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional, Sequence, Tuple

LENGTH = struct.Struct("=I")
_RIGHTS = socket.CMSG_SPACE(64 * 4)

LET_GO = "let go"
"""A message with the last descriptor of an unlinked file, to be closed by the observer."""
NAME_DEADLINE = 60.0
"""Seconds that a directory service may take for a user's name."""

_ANSWERS = {str(answer): answer for answer in (lease.GRANTED, lease.REFUSED, lease.SILENT)}
_KINDS = {str(kind): kind for kind in (shmfs.HEAP, shmfs.HALF_MADE, shmfs.UNREADABLE, shmfs.OTHER)}

# -- plain data for the wire --------------------------------------------------------------------------------


def plain_sighting(seen: shmfs.Sighting) -> "Tuple[Any, ...]":
    status = seen.status
    return (
        seen.name,
        str(seen.kind),
        tuple(status)[:10],
        seen.error,
        seen.raw,
        str(seen.answer),
        seen.on_tmpfs,
    )


def sighting_of(plain: "Sequence[Any]") -> shmfs.Sighting:
    name, kind, status, error, raw, answer, on_tmpfs = plain
    header = heapfile.parse_header(raw)
    return shmfs.Sighting(
        name, _KINDS[kind], os.stat_result(status), error, raw, header, _ANSWERS[answer], on_tmpfs
    )


# -- pieces of work -----------------------------------------------------------------------------------------


def judge(plain: "Sequence[Any]", proc_root: str) -> "List[Any]":
    """The verdict on each (sighting, pid of the creator if it has ended, else 0)."""
    seen = [(sighting_of(sighting), ended) for sighting, ended in plain]
    host = procfs.Processes(proc_root)
    return [creator.judge(sighting, host, ended).plain() for sighting, ended in seen]


def judge_with_holders(plain: "Sequence[Any]", proc_root: str) -> "Tuple[List[Any], List[Any]]":
    """The verdict on each sighting; and (file, pids that map it) for each."""
    seen = [sighting_of(sighting) for sighting in plain]
    host = procfs.Processes(proc_root)
    verdicts = [creator.judge(sighting, host).plain() for sighting in seen]
    mapping: Dict[Tuple[int, int], List[int]] = {sighting.file_id: [] for sighting in seen}
    for process in host.all():
        for file_id in process.files:
            if file_id in mapping:
                mapping[file_id].append(process.pid)
    return verdicts, list(mapping.items())


def portray(plain: "Sequence[Any]", parent: "Tuple[int, int]", proc_root: str) -> "List[Any]":
    """For each (sighting, start): the verdict, and facts about the living creator.

    start   start of the process with the name's pid, if it was seen alive while the file existed; else 0
    parent  (pid, start) of the process whose descendants are marked; pid 0 if there is none

    The facts: its start (0: no living creator), whether its identity is established (creator.Identity), user
    id (-1: unknown), command, command line, whether it descends from `parent`, kinship.Noted.  Of a creator
    that is only presumed (creator.presumed) only the descent is given.
    """
    seen = [(sighting_of(sighting), start) for sighting, start in plain]
    host = procfs.Processes(proc_root)
    found = []
    for sighting, named in seen:
        ended = named and not host.runs(sighting.name_pid, named)
        verdict = creator.judge(sighting, host, sighting.name_pid if ended else 0)
        pid, start, identity = verdict.creator, 0, False
        who, descends, noted = processes.Description(), False, kinship.NOTHING
        if verdict.state is creator.ALIVE and pid:
            start = host.start(pid)
            identity = creator.identify(sighting, host, 0.0) is not None
            who = processes.describe(pid, names=False)
            descends = host.descends(pid, *parent)
            noted = kinship.note(pid, sighting.file_id, proc_root)
        elif parent[0] and verdict.state is creator.UNKNOWN:
            descends = host.descends(creator.presumed(sighting, host), *parent)
        found.append(
            (verdict.plain(), start, identity, who.uid, who.command, who.arguments, descends, noted.plain())
        )
    return found


def renew(plain: "Sequence[Any]", proc_root: str) -> "List[Any]":
    """For each (sighting, pid): whether the process maps it, and whether its identity is established."""
    seen = [(sighting_of(sighting), pid) for sighting, pid in plain]
    host = procfs.Processes(proc_root)
    return [
        (host.maps(pid, sighting.file_id), creator.identify(sighting, host, 0.0) is not None)
        for sighting, pid in seen
    ]


def mapped(plain: "Sequence[Any]", proc_root: str) -> "List[bool]":
    """For each (pid, file): whether the process maps the file."""
    host = procfs.Processes(proc_root)
    return [host.maps(pid, tuple(file_id)) for pid, file_id in plain]


def kin(plain: "Sequence[Any]", proc_root: str) -> "List[str]":
    """For each (file, Noted of its creator): the Kinship of the holders."""
    questions = [(tuple(file_id), kinship.Noted(*noted)) for file_id, noted in plain]
    return [str(kinship) for kinship, _ in kinship.kin_of(questions, proc_root)]


def dead_locks(plain: "Sequence[Any]", proc_root: str) -> "List[bool]":
    """For each (file, thread id): whether that owner of a lock is dead; then read the lock again."""
    host = procfs.Processes(proc_root)
    return [
        locks.check(
            heapfile.Superblock(0, 0, 0, 1, owner, 0, 0, 0), locks.Threads(tuple(file_id), host)
        ).state
        is locks.DEAD
        for file_id, owner in plain
    ]


def holders(
    file_ids: "Sequence[Tuple[int, int]]", proc_root: str
) -> "List[Tuple[Tuple[int, int], List[Tuple[int, str]]]]":
    """(file, [(pid, command) of each holder]), for each file that has holders."""
    names: Dict[int, str] = {}
    result = []
    for file_id, pids in _holding(file_ids, proc_root).items():
        for pid in pids[:MOST_NAMED]:
            if pid not in names:
                names[pid] = processes.describe(pid, names=False).command
        result.append((file_id, [(pid, names.get(pid, processes.UNKNOWN)) for pid in pids]))
    return result


MOST_NAMED = 200


def _holding(file_ids: "Sequence[Tuple[int, int]]", proc_root: str) -> "Dict[Tuple[int, int], List[int]]":
    wanted = {(int(device), int(inode)) for device, inode in file_ids}
    found: Dict[Tuple[int, int], List[int]] = {}
    for device in {device for device, _ in wanted}:
        for file_id, who in held.survey_device(device, proc_root, wanted).holders.items():
            if file_id in wanted:
                found[file_id] = [holder.pid for holder in who]
    return found


def reach(
    file_ids: "Sequence[Tuple[int, int]]", proc_root: str, parcels: "Optional[socket.socket]"
) -> "List[str]":
    """Send a descriptor of each file, reached through a holder.

    Returns for each file why it failed; "" if it was sent or has no holder.
    """
    held_by = _holding(file_ids, proc_root)
    result = []
    for device, inode in file_ids:
        try:
            fd = held.open_held((device, inode), held_by.get((device, inode), ()), proc_root)
            try:
                send_parcel(parcels, fd)
            finally:
                os.close(fd)
            result.append("")
        except FileNotFoundError:
            result.append("")
        except OSError as error:
            result.append(f"it cannot be reached through those who hold it: {error.strerror}")
    return result


def user(uid: int) -> str:
    return processes.user_name(uid)


def _perform(job: str, argument: "Any", proc_root: str, parcels: "Optional[socket.socket]") -> "Any":
    if job == "judge":
        return judge(argument, proc_root)
    if job == "portray":
        return portray(argument[0], argument[1], proc_root)
    if job == "renew":
        return renew(argument, proc_root)
    if job == "mapped":
        return mapped(argument, proc_root)
    if job == "kin":
        return kin(argument, proc_root)
    if job == "locks":
        return dead_locks(argument, proc_root)
    if job == "holders":
        return holders(argument, proc_root)
    if job == "reach":
        return reach(argument, proc_root, parcels)
    if job == "user":
        return user(argument)
    if job == "fifos":
        from gppshm import fifos

        root, dry_run = argument
        return fifos.reap_plain(root, dry_run, proc_root)
    if job == "call":
        # A function of this package, by its name.
        module, name, arguments = argument
        if module.split(".")[0] != "gppshm":
            raise ValueError(module)
        return getattr(__import__(module, fromlist=[name]), name)(*arguments)
    raise ValueError(job)


# -- the process --------------------------------------------------------------------------------------------


class Wire:
    """Messages over a stream socket; never blocks.

    fds  descriptors received with them; the caller closes them
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.fds: List[int] = []
        sock.setblocking(False)
        self._in = b""
        self._out = b""

    def put(self, message: "Any") -> None:
        data = marshal.dumps(message)
        self._out += LENGTH.pack(len(data)) + data
        self.flush()

    def put_descriptor(self, message: "Any", fd: int) -> bool:
        """Send a message with a descriptor, now or not at all; whether it was sent."""
        if self._out:
            return False
        data = marshal.dumps(message)
        data = LENGTH.pack(len(data)) + data
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", fd))]
        try:
            self._out = data[self.sock.sendmsg([data], rights) :]
        except OSError:
            return False
        return True

    @property
    def waiting(self) -> bool:
        """Whether bytes wait to be written."""
        return bool(self._out)

    @property
    def pending(self) -> int:
        """Number of bytes that wait to be written."""
        return len(self._out)

    def wait(self, end: float) -> None:
        """Sleep until something can be read, or written if that waits; at most until `end` (monotonic)."""
        poll = select.poll()
        poll.register(self.sock, select.POLLIN | (select.POLLOUT if self._out else 0))
        poll.poll(max(0.0, end - time.monotonic()) * 1000)

    def flush(self) -> None:
        """Write what can be written now.  Raises OSError if the other end is gone."""
        while self._out:
            try:
                self._out = self._out[self.sock.send(self._out) :]
            except BlockingIOError:
                return

    def read(self) -> "Optional[List[Any]]":
        """The messages received; None if the other end is gone."""
        ended = False
        while True:
            try:
                data, rights, _, _ = self.sock.recvmsg(1 << 18, _RIGHTS)
                for _, _, fds in rights:
                    self.fds += struct.unpack(f"{len(fds) // 4}i", fds)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                ended = True
                break
            self._in += data
        messages, at = [], 0
        while len(self._in) - at >= LENGTH.size:
            (length,) = LENGTH.unpack_from(self._in, at)
            if len(self._in) - at - LENGTH.size < length:
                break
            at += LENGTH.size
            messages.append(marshal.loads(self._in[at : at + length]))
            at += length
        self._in = self._in[at:]
        return messages or (None if ended else [])


def send_parcel(parcels: "Optional[socket.socket]", fd: int) -> None:
    """Send a descriptor to the program that asked, not through the observer.  Raises OSError."""
    if parcels is None:
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
    parcels.sendmsg([b"\0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", fd))])


def read_parcels(parcels: socket.socket) -> "Dict[Tuple[int, int], int]":
    """The descriptors received, by (device, inode); never blocks."""
    found: Dict[Tuple[int, int], int] = {}
    while True:
        try:
            data, rights, _, _ = parcels.recvmsg(1, _RIGHTS, socket.MSG_CMSG_CLOEXEC)
        except OSError:
            return found
        for _, _, packed in rights:
            for (fd,) in struct.iter_unpack("i", packed):
                status = os.fstat(fd)
                file_id = status.st_dev, status.st_ino
                if found.setdefault(file_id, fd) != fd:
                    os.close(fd)
        if not data:
            return found


def serve(wire: Wire) -> None:
    """Answer questions until the other end is gone.

    The first message is (paths to import from, proc_root), with the socket for `send_parcel`.  Then
    (key, kind, job, argument) is answered by (key, good, answer, pids that were passed over).
    """
    pool = supervised.Pool(wire.sock.close)
    poll = select.poll()
    poll.register(wire.sock, select.POLLIN)
    proc_root = "/proc"
    parcels: Optional[socket.socket] = None
    greeted = False
    watched: List[int] = []
    next_sweep = 0.0

    def perform(work: "Any") -> "Any":
        job, argument = work
        return _perform(job, argument, proc_root, parcels)

    def warm() -> str:
        return procfs.Processes(proc_root).blind_spot()

    while True:
        for fd in watched:
            poll.unregister(fd)
        watched = pool.fds()
        for fd in watched:
            poll.register(fd, select.POLLIN)
        poll.modify(wire.sock, select.POLLIN | (select.POLLOUT if wire.waiting else 0))
        ready = [fd for fd, _ in poll.poll(supervised.CHECKED_EVERY * 1000 if pool.busy else None)]
        if wire.sock.fileno() in ready:
            messages = wire.read()
            if messages is None:
                pool.close()
                return
            for message in messages:
                if not greeted:
                    paths, proc_root = message
                    if wire.fds:
                        parcels = socket.socket(fileno=wire.fds.pop(0))
                        parcels.setblocking(False)
                    sys.path += [path for path in paths if path not in sys.path]
                    processes.available()  # imports psutil once, instead of in each child
                    gc.freeze() if hasattr(gc, "freeze") else None  # novm: Python 3.7
                    greeted = True
                    continue
                if message[0] != LET_GO:
                    _submit(pool, message, proc_root, parcels)
            if wire.fds:
                pool.let_go(wire.fds)
                wire.fds = []
        try:
            for key, answer, passed in pool.collect([fd for fd in ready if fd != wire.sock.fileno()]):
                good = not isinstance(answer, supervised.Failed)
                wire.put((key, good, answer if good else str(answer), passed + list(pool.passed_over)))
            wire.flush()
        except OSError:
            pool.close()
            return
        if greeted:
            pool.prepare(perform, warm)
        if pool.passed_over and time.monotonic() > next_sweep:
            next_sweep = time.monotonic() + 1.0
            pool.forget_the_gone()


def _import(module: str) -> None:
    try:
        __import__(module)
    except Exception:
        pass  # the child reports it


def _submit(
    pool: supervised.Pool, message: "Any", proc_root: str, parcels: "Optional[socket.socket]"
) -> None:
    key, kind, job, argument = message
    if job == "call" and argument[0] == "gppshm.asking":
        _import(argument[2][0].partition(":")[0])  # once, instead of in each child
    deadline = NAME_DEADLINE if kind == supervised.NAMES else supervised.DEADLINE
    pool.submit(key, lambda: _perform(job, argument, proc_root, parcels), kind, deadline, (job, argument))


def main() -> None:
    if os.getpriority(os.PRIO_PROCESS, 0) < 0:
        os.setpriority(os.PRIO_PROCESS, 0, 0)  # the larger share is for who unlinks
    os.closerange(3, 4096)
    os.chdir("/")
    sock = socket.socket(fileno=os.dup(0))
    # A hanging child must not keep the socket open: its closing tells the parent that this process has ended.
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.close(null)
    serve(Wire(sock))
    os._exit(0)  # waits for no child


if __name__ == "__main__":
    main()
