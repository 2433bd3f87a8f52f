"""The ledger of shared memory: what was granted to whom, and how much can still be granted.

A grant is an accounting promise.  It does not stop processes from using more, or from using memory without
a grant.  Among the ledgers of one host no byte is granted twice, and memory in use by others is counted.
"""

import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Dict, List, Optional, Sequence

    from gppshm.claims import Claim, Claims
    from gppshm.memory import Limit
    from gppshm.shmfs import Usage

MB = 1048576
"""Bytes of a MB, as REDHAWK's GPP counts."""


FILE_SYSTEM = "file system"
INODES = "inodes of the file system"


class Room:
    """How much can be granted now: `available` bytes, and the `limit` that leaves the least.

    limit   FILE_SYSTEM, INODES, or the name of a memory.Limit
    others  bytes granted by other devices of this host
    """

    __slots__ = ("available", "limit", "others")

    def __init__(self, available: int, limit: str, others: int) -> None:
        self.available = available
        self.limit = limit
        self.others = others


class Insufficient(Exception):
    """`asked` bytes cannot be granted; `room` says what can."""

    def __init__(self, asked: int, room: Room) -> None:
        Exception.__init__(self, asked, room.available)
        self.asked = asked
        self.available = room.available
        self.room = room


class NotGranted(Exception):
    """There is no such grant, or it was given back before."""


class Grant:
    """`size` bytes granted at once; `terms` is any value that the grantor wants to keep with it."""

    __slots__ = ("size", "terms")

    def __init__(self, size: int, terms: object) -> None:
        self.size = size
        self.terms = terms


class Ledger:
    """Grants of the space of one file system; all methods may be called from any thread.

    measure   returns the file system's Usage now; its OSError is passed on
    headroom  returns the bytes that are never granted, for a file system of a given size
    claims    shows grants to other devices of this host; None: there are no others
    memory    further limits: memory of the machine and of control groups
    complain  called with a sentence if grants of this or of other devices cannot be seen

    Let `reserved` be the sum of all grants on this host, and `unclaimed` the part of it that is not in use
    yet: `reserved` minus the growth of the used space since nothing was granted.  What can still be granted
    is the least of `size - headroom - reserved`, `free - headroom - unclaimed` and free memory minus
    `unclaimed`, and never below 0; it is 0 without a free inode.  So neither a grant nor its use counts
    twice.  Limit: use by strangers that begins while something is granted looks like use of the grant, up
    to the size of `unclaimed`.
    """

    def __init__(
        self,
        measure: "Callable[[], Usage]",
        headroom: "Callable[[int], int]",
        claims: "Optional[Claims]" = None,
        memory: "Callable[[], Sequence[Limit]]" = lambda: (),
        complain: "Callable[[str], None]" = lambda sentence: None,
    ) -> None:
        self._measure = measure
        self._headroom = headroom
        self._claims = claims
        self._memory = memory
        self._complain = complain
        self._told = False
        self._lock = threading.Lock()
        self._grants: Dict[str, Grant] = {}
        self._reserved = 0
        self._used_when_empty = 0

    @property
    def reserved(self) -> int:
        """Bytes granted by this ledger."""
        return self._reserved

    def reserved_on_host(self) -> int:
        """Bytes granted by all ledgers of this host."""
        with self._lock:
            return self._reserved + sum(claim.reserved for claim in self._others())

    def available(self) -> int:
        """Bytes that can be granted now."""
        return self.room().available

    def room(self) -> Room:
        """How much can be granted now, and what limits it."""
        with self._lock:
            return self._room(self._measure(), self._others())

    def grant(self, key: str, size: int, terms: object = None) -> None:
        """Grant `size` bytes under the new name `key`, or raise Insufficient.

        May wait for other devices, for claims.PATIENCE at most.
        """
        with self._lock:
            alone = self._claims is not None and self._claims.take_turn()
            try:
                self._grant(key, size, terms)
            finally:
                if alone and self._claims is not None:
                    self._claims.end_turn()

    def _grant(self, key: str, size: int, terms: object) -> None:
        usage, others = self._measure(), self._others()
        baseline = self._used_when_empty
        if not self._reserved:  # grants of 0 bytes need no claim
            used = usage.size - usage.free
            baseline = min(used, max([claim.baseline for claim in others] or [used]))
        room = self._room(usage, others)
        if size <= room.available:
            # First claim, then check: of two devices that do so at once, each sees the other.
            self._claim(self._reserved + size, baseline)
            room = self._room(usage, self._others())
        if size > room.available:
            self._claim(self._reserved, self._used_when_empty)
            raise Insufficient(size, room)
        self._used_when_empty = baseline
        self._grants[key] = Grant(size, terms)
        self._reserved += size

    def give_back(self, key: str) -> None:
        """Give back the grant of that name; NotGranted if there is none."""
        with self._lock:
            self._give_back(key)

    def give_back_alike(self, terms: object) -> None:
        """Give back the oldest grant with exactly these terms; NotGranted if there is none."""
        with self._lock:
            for key, grant in self._grants.items():
                if grant.terms == terms:
                    self._give_back(key)
                    return
            raise NotGranted()

    def give_back_all(self) -> None:
        """Give back all grants."""
        with self._lock:
            self._grants.clear()
            self._reserved = 0
            self._claim(0, 0)

    def close(self) -> None:
        """Give back all grants, and stop looking at other devices."""
        self.give_back_all()
        with self._lock:
            if self._claims is not None:
                self._claims.close()
                self._claims = None

    def grants(self) -> "List[Grant]":
        """All grants, oldest first."""
        with self._lock:
            return list(self._grants.values())

    def _give_back(self, key: str) -> None:
        grant = self._grants.pop(key, None)
        if grant is None:
            raise NotGranted()
        self._reserved -= grant.size
        self._claim(self._reserved, self._used_when_empty)

    def _claim(self, reserved: int, baseline: int) -> None:
        if self._claims is not None:
            try:
                self._claims.claim(reserved, baseline)
            except OSError as error:
                self._report(
                    f"other devices of this host cannot see the grants of this one: {error.strerror}"
                )

    def _others(self) -> "List[Claim]":
        if self._claims is None:
            return []
        try:
            found = self._claims.of_others()
        except OSError as error:
            self._report(f"grants of other devices of this host cannot be seen: {error}")
            return []
        if not self._claims.saw_all:
            self._report("not all grants of other devices can be seen: this host has too many file locks")
        return found

    def _report(self, sentence: str) -> None:
        if not self._told:
            self._told = True
            self._complain(sentence)

    def _room(self, usage: "Usage", claims: "Sequence[Claim]") -> Room:
        others = sum(claim.reserved for claim in claims)
        reserved = self._reserved + others
        unclaimed = 0
        if reserved:
            baselines = [claim.baseline for claim in claims]
            if self._reserved:
                baselines.append(self._used_when_empty)
            unclaimed = max(0, reserved - max(0, usage.size - usage.free - max(baselines)))
        limits = [(limit.free - unclaimed, limit.name) for limit in self._memory()]
        if usage.size or not limits:  # a tmpfs may have no size
            headroom = self._headroom(usage.size)
            left = min(usage.size - headroom - reserved, usage.free - headroom - unclaimed)
            limits.insert(0, (left, FILE_SYSTEM))
        if usage.inodes and not usage.free_inodes:
            limits.insert(0, (0, INODES))
        available, limit = min(limits, key=lambda limit: max(0, limit[0]))
        return Room(max(0, available), limit, others)
