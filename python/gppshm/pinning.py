"""One orphan after its unlink: kept open for as long as somebody is attached, and gives back what is free.

No event tells that a peer has let go of a block; that it has let go of the file, inotify and a lease tell.
"""

import ctypes
import os
import time
from struct import Struct

from gppshm import kinship, lease, procfs, reclaim

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, List, Optional, Sequence, Set

_EVENT = Struct("iIII")
_IN_CLOSE_WRITE, _IN_IGNORED = 0x00000008, 0x00008000

_libc = ctypes.CDLL(None, use_errno=True)


class Departures:
    """Tells when a process lets go of a file that it had open, or mapped, for writing; for many files.

    fd   readable when there is something to `read`
    OSError: no inotify, or a limit on it.
    """

    def __init__(self) -> None:
        self.fd = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fd < 0:
            raise _last_error("inotify_init1")

    def watch(self, fd: int) -> int:
        """Watch the file of `fd`, which may have no name any more; what `read` calls it."""
        # Where it lies does not matter: the link leads to the file itself.
        found = _libc.inotify_add_watch(self.fd, b"/proc/self/fd/%d" % fd, ctypes.c_uint32(_IN_CLOSE_WRITE))
        if found < 0:
            raise _last_error("inotify_add_watch")
        return int(found)

    def forget(self, watch: int) -> None:
        """Before the file is closed, or after; the kernel forgets a file that is gone by itself."""
        _libc.inotify_rm_watch(self.fd, watch)

    def read(self) -> "Set[int]":
        """The watches of files that somebody let go of since; all of them may be meant if events were lost.

        Then the set holds -1.  Never blocks.
        """
        found: Set[int] = set()
        while True:
            try:
                data = os.read(self.fd, 65536)
            except BlockingIOError:
                return found
            for at in range(0, len(data), _EVENT.size):  # of a file itself, no event has a name
                watch, mask, _, _ = _EVENT.unpack_from(data, at)
                if not mask & _IN_IGNORED:
                    found.add(watch)

    def close(self) -> None:
        os.close(self.fd)


FIRST_DELAY, LAST_DELAY = 0.05, 0.8
"""Seconds between two looks: after something came back, and when nothing does; each is twice the last.

No event tells that a peer wrote to memory that it maps.
"""
LETTING_GO = (0.0003, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128)
"""Seconds between looks for the last holder: the kernel tells of its exit before it lets go of the file.

That takes microseconds, but it may have to wait for a processor.
"""


class Reclaiming:
    """An orphan after its unlink: pins the file for as long as somebody is attached, and no longer.

    fd           open for reading, from before the unlink (or held.open_held); closed here
    attached     pids of those who hold it; None while they are not known: needed where the kernel grants no
                 leases
    departures   tells when a holder goes; without it that is seen at the next look only
    closing      closes `fd`: the last descriptor of a large file without a name takes long
    `allow` it to give back as soon as the conditions are proven.  Call `step` when it says so, and `departed`
    when `departures` tells of `watch`.  Neither waits for anybody.  Its figures are those of `reclaim`.

    finished  the descriptor is closed, and nothing more will be done; `error` says why, or is ""
    at_once   bytes given back by the first look; -1 = it is not over
    later     bytes given back after it
    """

    def __init__(
        self,
        fd: int,
        attached: "Optional[Sequence[int]]" = (),
        departures: "Optional[Departures]" = None,
        closing: "Callable[[int], None]" = os.close,
    ) -> None:
        self.reclaim: Optional[reclaim.Reclaim] = None
        self.finished = False
        self.error = ""
        self.at_once = -1
        self.later = 0
        self.watch = -1
        self._fd = fd
        self.attached = attached
        self._departures = departures
        self._closing = closing
        self._delay = FIRST_DELAY
        self._due = 0.0
        self._working = False
        self._tries: List[float] = []
        if departures is not None:
            try:
                self.watch = departures.watch(fd)
            except OSError:
                pass

    def allow(
        self,
        kind: kinship.Kinship,
        by_word: bool = False,
        lock_is_dead: "reclaim.LockIsDead" = lambda superblock: False,
    ) -> None:
        """The creator is dead, and of this kinship are its holders; reclaim.NotAllowed: then `close` it."""
        self.reclaim = reclaim.Reclaim(self._fd, kind, by_word, lock_is_dead=lock_is_dead)
        self._due = 0.0

    def departed(self, now: float) -> None:
        """A process has let go of the file, or an event was lost: `step` soon."""
        self._tries = list(LETTING_GO)

    def step(self, now: float) -> "Optional[float]":
        """Do what is due; when (monotonic) to call again, None = not before `departed` or `allow`."""
        if self.finished:
            return None
        if not self._working and self._let_go():
            self.close()
            return None
        if self.reclaim is not None and now >= self._due:
            try:
                self._working = not self.reclaim.go_on()
            except BlockingIOError:
                self._working = False
                self.reclaim.settled = False
            except OSError as error:
                self.close(f"it cannot be given back: {error.strerror}")
                return None
            if self._working:
                return now
            self._due = self._next_look(time.monotonic())
        if self._tries:
            return min(now + self._tries.pop(0), self._due or now + LAST_DELAY)
        if self._quiet():
            return None
        return self._due or now + LAST_DELAY

    def close(self, error: str = "") -> None:
        if self.finished:
            return
        self.finished = True
        self.error = error
        if self.reclaim is not None:
            self.reclaim.close()
        if self._departures is not None and self.watch >= 0:
            self._departures.forget(self.watch)
        self._closing(self._fd)

    def _next_look(self, now: float) -> float:
        assert self.reclaim is not None
        total = self.reclaim.given_back
        if self.at_once < 0:
            self.at_once = total
        if total - self.at_once > self.later:
            self._delay = FIRST_DELAY
        else:
            self._delay = min(2 * self._delay, LAST_DELAY)
        self.later = total - self.at_once
        if self._delay < LAST_DELAY:
            return now + self._delay
        # At the same moments for all heaps, so that whoever has many wakes once for all of them.
        return (now // LAST_DELAY + 1) * LAST_DELAY

    def _quiet(self) -> bool:
        """Whether only a departure can change anything now, and that is told."""
        if self.watch < 0:
            return False
        if self.reclaim is None:
            return True
        return self.reclaim.settled and self.reclaim.whole and not self.reclaim.in_use

    def _let_go(self) -> bool:
        """Whether nobody who could release a block holds the file any more."""
        answer = lease.take(self._fd)
        if answer is lease.GRANTED:
            lease.release(self._fd)
            return True
        if answer is lease.REFUSED:
            return False
        # No lease tells: then those who were seen to hold it, and who it is by pids.
        if self.reclaim is None or self.at_once < 0 or self.attached is None:
            return False
        processes = procfs.Processes()
        return all(processes.no_such_process(pid) for pid in self.attached)


def _last_error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), what)
