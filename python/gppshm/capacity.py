"""The ledger of shared memory: what has been granted to whom, and how much can still be.

A grant is an accounting promise.  Nothing keeps a process from using more, or memory that nobody granted it;
but of what passes through the ledgers of one host no byte is promised twice, and what others use is seen.
"""

import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Dict, List, Optional, Sequence

    from gppshm.claims import Claim, Claims
    from gppshm.memory import Limit
    from gppshm.shmfs import Usage

MB = 1048576
"""A MB as REDHAWK's GPP counts it."""


FILE_SYSTEM = "file system"
INODES = "inodes of the file system"


class Room:
    """How much can be granted now: bytes `available`, by the `limit` that leaves the least.

    limit   FILE_SYSTEM, INODES, or the name of a memory.Limit
    others  bytes that other devices of this host have granted
    """

    __slots__ = ("available", "limit", "others")

    def __init__(self, available: int, limit: str, others: int) -> None:
        self.available = available
        self.limit = limit
        self.others = others


class Insufficient(Exception):
    """`asked` bytes cannot be granted: there is only this `room`."""

    def __init__(self, asked: int, room: Room) -> None:
        Exception.__init__(self, asked, room.available)
        self.asked = asked
        self.available = room.available
        self.room = room


class NotGranted(Exception):
    """What is to be given back was never granted, or has been given back already."""


class Grant:
    """`size` bytes that were granted at once; `terms` are whatever the grantor wants to know of it again."""

    __slots__ = ("size", "terms")

    def __init__(self, size: int, terms: object) -> None:
        self.size = size
        self.terms = terms


class Ledger:
    """Grants of the space of one file system; every method may be called from any thread.

    measure   the file system's size, free space and inodes now; OSError comes through
    headroom  bytes that are never granted, on a file system of that size
    claims    by which the devices of this host know of each other; None: there are no others
    memory    what else limits it: the memory of the machine, of a control group
    complain  called with a sentence when others cannot know of a grant, or their grants cannot be seen

    With `reserved` the sum of all grants on this host, and `unclaimed` what of them is not in use yet, the
    bytes that can still be granted are the least of `size - headroom - reserved`, `free - headroom -
    unclaimed` and what memory has, less `unclaimed`, and never below 0; 0 without a free inode.  Unclaimed
    is what reserved exceeds the growth of the used space by, since nothing was granted: so neither a grant
    nor its use counts twice.  Limit: a stranger's use that begins while something is granted looks like the
    use of a grant, up to the size of what is unclaimed.
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
        """Bytes granted by all."""
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
        """Grant all of `size` bytes under the new name `key`, or nothing: Insufficient.

        Waits for other devices, claims.PATIENCE at most.
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
        if not self._reserved:  # grants of nothing at all may stand for ever
            used = usage.size - usage.free
            baseline = min(used, max([claim.baseline for claim in others] or [used]))
        room = self._room(usage, others)
        if size <= room.available:
            # Claimed first and looked again then: of two who do so at once, each sees the other.
            self._claim(self._reserved + size, baseline)
            room = self._room(usage, self._others())
        if size > room.available:
            self._claim(self._reserved, self._used_when_empty)
            raise Insufficient(size, room)
        self._used_when_empty = baseline
        self._grants[key] = Grant(size, terms)
        self._reserved += size

    def give_back(self, key: str) -> None:
        """Give back what was granted under that name: NotGranted if nothing is."""
        with self._lock:
            self._give_back(key)

    def give_back_alike(self, terms: object) -> None:
        """Give back the oldest grant on exactly these terms: NotGranted if there is none."""
        with self._lock:
            for key, grant in self._grants.items():
                if grant.terms == terms:
                    self._give_back(key)
                    return
            raise NotGranted()

    def give_back_all(self) -> None:
        """Give back everything that stands."""
        with self._lock:
            self._grants.clear()
            self._reserved = 0
            self._claim(0, 0)

    def close(self) -> None:
        """Give back everything that stands; other devices are not looked at any more."""
        self.give_back_all()
        with self._lock:
            if self._claims is not None:
                self._claims.close()
                self._claims = None

    def grants(self) -> "List[Grant]":
        """All that stand here, oldest first."""
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
                self._tell(f"other devices of this host cannot see the grants of this one: {error.strerror}")

    def _others(self) -> "List[Claim]":
        if self._claims is None:
            return []
        try:
            found = self._claims.of_others()
        except OSError as error:
            self._tell(f"grants of other devices of this host cannot be seen: {error}")
            return []
        if not self._claims.saw_all:
            self._tell("not all grants of other devices can be seen: this host has too many file locks")
        return found

    def _tell(self, sentence: str) -> None:
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
