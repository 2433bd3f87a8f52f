"""One orphaned heap after its unlink: kept open while a process is attached, to give back free memory.

No event reports that a peer released a block.  Inotify and a lease report that it closed the file.
"""

import os
import time

from gppshm import kernel, kinship, lease, procfs, reclaim

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, List, Optional, Sequence, Set


class Departures:
    """Reports when a process closes or unmaps a file that it had open for writing; for many files.

    fd   readable when `read` has something to return
    Raises OSError if inotify is missing or at its limit.
    """

    def __init__(self) -> None:
        self._inotify = kernel.FileInotify()
        self.fd = self._inotify.fd

    def watch(self, fd: int) -> int:
        """Watch the file of `fd`, which may have no name any more; returns the number that `read` uses."""
        return self._inotify.add_open(fd, kernel.IN_CLOSE_WRITE)

    def forget(self, watch: int) -> None:
        """Stop watching, before or after the file is closed; a file that is gone needs no call."""
        self._inotify.remove(watch)

    def read(self) -> "Set[int]":
        """The numbers of files that a process closed since the last call; -1 among them if events were lost.

        Never blocks.
        """
        found: Set[int] = set()
        while True:
            events = self._inotify.read()
            if events is None:
                return found
            found |= events.changed

    def close(self) -> None:
        self._inotify.close()


FIRST_DELAY, LAST_DELAY = 0.05, 0.8
"""Seconds between two inspections: FIRST_DELAY after memory was given back, then doubled up to LAST_DELAY.

No event reports that a peer wrote to memory that it maps.
"""
LETTING_GO = (0.0003, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128)
"""Seconds between checks for the last holder: the kernel reports its exit before it releases the file.

The release takes microseconds, but the exiting process may have to wait for a processor.
"""


class Reclaiming:
    """An orphaned heap after its unlink; keeps the file open while a process is attached, and no longer.

    fd           open for reading, from before the unlink (or from held.open_held); closed here
    attached     pids of the holders, used if the kernel grants no leases; None while unknown
    departures   reports when a holder goes; without it that is noticed at the next inspection
    closing      closes `fd`: the last descriptor of a large file without a name takes long
    Call `allow` when the conditions are proven, `step` at the time that it returns, and `departed` when
    `departures` reports `watch`.  None of them waits.  `reclaim` has the figures.

    finished  the descriptor is closed, and nothing more will be done; `error`: why, or ""
    at_once   bytes given back by the first pass; -1 = it is not complete
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
        accept_risk: bool = False,
        lock_is_dead: "reclaim.LockIsDead" = lambda superblock: False,
    ) -> None:
        """Start to give back: the creator is proven dead, and `kind` is the kinship of the holders.

        Raises reclaim.NotAllowed; then call `close`.
        """
        self.reclaim = reclaim.Reclaim(self._fd, kind, accept_risk, lock_is_dead=lock_is_dead)
        self._due = 0.0

    def departed(self, now: float) -> None:
        """Note that a process closed the file, or that an event was lost; `step` is due soon."""
        self._tries = list(LETTING_GO)

    def step(self, now: float) -> "Optional[float]":
        """Do what is due; returns when (monotonic) to call again, None = after `departed` or `allow`."""
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
                self.reclaim.stable = False
            except OSError as error:
                self.close(f"it cannot be given back: {error.strerror}")
                return None
            if self._working:
                return now
            self._due = self._next_inspection(time.monotonic())
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

    def _next_inspection(self, now: float) -> float:
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
        # The same moments for all heaps, so that one wake-up serves all of them.
        return (now // LAST_DELAY + 1) * LAST_DELAY

    def _quiet(self) -> bool:
        """Whether only the exit of a holder, which is reported, can change anything now."""
        if self.watch < 0:
            return False
        if self.reclaim is None:
            return True
        return self.reclaim.stable and self.reclaim.whole and not self.reclaim.in_use

    def _let_go(self) -> bool:
        """Whether no process that could release a block holds the file any more."""
        answer = lease.take(self._fd)
        if answer is lease.GRANTED:
            lease.release(self._fd)
            return True
        if answer is lease.REFUSED:
            return False
        # Without leases, the processes that were seen to hold it decide, by their pids.
        if self.reclaim is None or self.at_once < 0 or self.attached is None:
            return False
        processes = procfs.Processes()
        return all(processes.no_such_process(pid) for pid in self.attached)
