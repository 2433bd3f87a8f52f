"""The ledger of shared memory: what has been granted to whom, and how much can still be.

A grant is an accounting promise.  Nothing keeps a process from using more, or memory that nobody granted it;
but of what passes through the ledger no byte is promised twice, and what others use is seen.
"""

import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Dict, List

    from gppshm.shmfs import Usage

MB = 1048576
"""A MB as REDHAWK's GPP counts it."""


class Insufficient(Exception):
    """`asked` bytes cannot be granted: there are only `available`."""

    def __init__(self, asked: int, available: int) -> None:
        Exception.__init__(self, asked, available)
        self.asked = asked
        self.available = available


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

    measure   the file system's size and free space now; OSError comes through
    headroom  bytes that are never granted, on a file system of that size

    With `reserved` the sum of all grants, and `unclaimed` what of them is not in use yet, the bytes that can
    still be granted are the least of `size - headroom - reserved` and `free - headroom - unclaimed`, and
    never below 0.  Unclaimed is what reserved exceeds the growth of the used space by, since nothing was
    granted: so neither a grant nor its use counts twice.  Limit: a stranger's use that begins while
    something is granted looks like the use of a grant, up to the size of what is unclaimed.
    """

    def __init__(self, measure: "Callable[[], Usage]", headroom: "Callable[[int], int]") -> None:
        self._measure = measure
        self._headroom = headroom
        self._lock = threading.Lock()
        self._grants: Dict[str, Grant] = {}
        self._reserved = 0
        self._used_when_empty = 0

    @property
    def reserved(self) -> int:
        """Bytes granted."""
        return self._reserved

    def available(self) -> int:
        """Bytes that can be granted now."""
        with self._lock:
            return self._available(self._measure())

    def grant(self, key: str, size: int, terms: object = None) -> None:
        """Grant all of `size` bytes under the new name `key`, or nothing: Insufficient."""
        with self._lock:
            usage = self._measure()
            available = self._available(usage)
            if size > available:
                raise Insufficient(size, available)
            if not self._reserved:  # grants of nothing at all may stand for ever
                self._used_when_empty = usage.size - usage.free
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

    def grants(self) -> "List[Grant]":
        """All that stand, oldest first."""
        with self._lock:
            return list(self._grants.values())

    def _give_back(self, key: str) -> None:
        grant = self._grants.pop(key, None)
        if grant is None:
            raise NotGranted()
        self._reserved -= grant.size

    def _available(self, usage: "Usage") -> int:
        unclaimed = 0
        if self._reserved:
            growth = max(0, usage.size - usage.free - self._used_when_empty)
            unclaimed = max(0, self._reserved - growth)
        headroom = self._headroom(usage.size)
        return max(0, min(usage.size - headroom - self._reserved, usage.free - headroom - unclaimed))
