"""One engine for all programs of a node: the leader passes on its engine's messages, the others follow it.

A leader listens on an abstract socket.  The kernel releases its name at any kind of end, so a connection
proves that the leader lives.  Part of the name is random, so that nobody can take it in advance.
/proc/net/unix lists the names.  Only sockets of the same user or root are trusted; SO_PEERCRED gives the
owner.

Limit: this holds within one network namespace.
"""

import os
import select
import socket
import struct
import time

from gppshm import observing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterator, List, Optional, Sequence, Tuple

    Found = Tuple[str, observing.Wire, List[Any]]

PREFIX = "GppShmPlugin-cleans-"
MOST = 4 << 20
"""Bytes kept for a follower that does not read; beyond that it is disconnected."""
ACCEPTED = 64
"""Connections accepted at once."""
SEARCHES = (0.25, 0.5, 1.0, 2.0, 5.0)
"""Seconds between searches for a leader; the last one repeats."""

_LISTENS = 0x10000
"""__SO_ACCEPTCON, in the flags of /proc/net/unix (linux/net.h)."""


def node(manager: str, root: str) -> str:
    """The name by which the programs of one DeviceManager that clean one directory find each other.

    manager  the DeviceManager's IOR
    Raises OSError if the directory does not exist.
    """
    import hashlib

    status = os.stat(root)
    words = f"{manager} {status.st_dev} {status.st_ino}"
    return hashlib.sha256(words.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def peer(sock: socket.socket) -> "Tuple[int, int]":
    """Pid and user id of the other end, at the moment when it connected or began to listen."""
    pid, uid, _ = struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid, uid


def is_trusted(sock: socket.socket) -> bool:
    """Whether the other end belongs to the same user or to root."""
    return peer(sock)[1] in (os.geteuid(), 0)


def find(node: str) -> "Optional[Tuple[str, socket.socket]]":
    """The name of a leader of the node and a connection to it, or None.  Never waits."""
    for name in leaders(node):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            sock.connect("\0" + name)
            if is_trusted(sock):
                return name, sock
        except OSError:
            pass  # it has ended, or its queue is full
        sock.close()
    return None


def leaders(node: str) -> "Iterator[str]":
    """The names of all sockets that listen as leaders of the node, of any user."""
    wanted = f"@{PREFIX}{node}-".encode()
    try:
        with open("/proc/net/unix", "rb") as stream:
            lines = stream.read().splitlines()
    except OSError:
        return
    for line in lines:
        # Num RefCount Protocol Flags Type St Inode Path
        fields = line.split(None, 7)
        if len(fields) < 8 or not fields[7].startswith(wanted):
            continue
        try:
            listens = int(fields[3], 16) & _LISTENS
        except ValueError:
            continue  # another user's name may contain a newline
        if listens:
            yield os.fsdecode(fields[7][1:])


class Search:
    """Finds a leader of the node by its first message, which a hanging one does not send; for one thread."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._candidate: Optional[Tuple[str, observing.Wire]] = None
        self._tries = 0
        self.next = 0.0
        """When `step` searches again, unless `sock` is set."""

    @property
    def sock(self) -> "Optional[socket.socket]":
        """The connection on which a first message is expected."""
        return self._candidate[1].sock if self._candidate is not None else None

    def step(self) -> "Optional[Found]":
        """A leader's name, the connection to it, and its first messages; None if there is none yet."""
        now = time.monotonic()
        if self._candidate is None:
            if now < self.next:
                return None
            self.next = now + SEARCHES[min(self._tries, len(SEARCHES) - 1)]
            self._tries += 1
            found = find(self._node)
            if found is None:
                return None
            self._candidate = found[0], observing.Wire(found[1])
        name, wire = self._candidate
        messages = wire.read()
        if messages is None:
            self.close()
        elif messages and messages[0][0] == "leader":
            self._candidate = None
            return name, wire, messages
        return None

    def wait(self, seconds: float) -> "Optional[Found]":
        """`step` until the leader that is there now, if any, has sent its first message or the time is up."""
        end = time.monotonic() + seconds
        found = self.step()
        while self._candidate is not None and time.monotonic() < end:
            self._candidate[1].wait(end)
            found = self.step()
        return found

    def restart(self, delay: float) -> None:
        """Search anew, `delay` seconds from now."""
        self._tries, self.next = 0, time.monotonic() + delay

    def close(self) -> None:
        if self._candidate is not None:
            self._candidate[1].sock.close()
            self._candidate = None


class Leader:
    """The leader's end; for one thread.  Raises OSError if the socket cannot be made."""

    def __init__(self, node: str) -> None:
        self._wires: List[observing.Wire] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._listener.bind(f"\0{PREFIX}{node}-{os.urandom(8).hex()}")
            self._listener.listen(ACCEPTED)
            self._listener.setblocking(False)
        except BaseException:
            self._listener.close()
            raise

    def sockets(self) -> "List[Tuple[socket.socket, int]]":
        """The sockets to poll, with their poll events."""
        found = [(self._listener, select.POLLIN)]
        for wire in self._wires:
            found.append((wire.sock, select.POLLIN | (select.POLLOUT if wire.waiting else 0)))
        return found

    def accept(self) -> "List[observing.Wire]":
        """Connections of new followers; those of other users are closed."""
        found = []
        for _ in range(ACCEPTED):
            try:
                sock, _ = self._listener.accept()
            except OSError:
                break
            try:
                trusted = is_trusted(sock)
            except OSError:
                trusted = False
            if trusted:
                found.append(observing.Wire(sock))
            else:
                sock.close()
        self._wires += found
        return found

    def step(self) -> None:
        """Write pending bytes, and drop followers that have left."""
        for wire in list(self._wires):
            try:
                if wire.sock.recv(4096):
                    continue  # followers send nothing; it is ignored
            except BlockingIOError:
                self._put(wire, ())
                continue
            except OSError:
                pass
            self._drop(wire)

    def put(self, *messages: "Any") -> None:
        """Send messages to all followers."""
        for wire in list(self._wires):
            self._put(wire, messages)

    def greet(self, wire: observing.Wire, messages: "Sequence[Any]") -> None:
        """Send messages to one follower."""
        self._put(wire, messages)

    def dismiss(self) -> None:
        """Disconnect all followers."""
        while self._wires:
            self._drop(self._wires[0])

    def close(self) -> None:
        self.dismiss()
        self._listener.close()

    def _put(self, wire: observing.Wire, messages: "Sequence[Any]") -> None:
        try:
            for message in messages:
                wire.put(message)
            wire.flush()
            if wire.pending <= MOST:
                return
        except OSError:
            pass
        self._drop(wire)

    def _drop(self, wire: observing.Wire) -> None:
        if wire in self._wires:
            self._wires.remove(wire)
            wire.sock.close()
