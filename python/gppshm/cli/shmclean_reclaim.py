"""redhawk-shmclean: memory of the dead that comes back although processes are attached, as far as it may.

A heap is seen here for the first time when its creator is dead.  So where a process maps it, it is not known
whether that one was forked by the creator, and a person has to take it upon himself (--reclaim).
"""

import os
import time

from gppshm import (
    creator,
    heapfile,
    held,
    judging,
    kinship,
    lease,
    locks,
    procfs,
    reaper,
    reclaim,
    shmfs,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Iterable, Optional, Tuple

RECLAIMED = reaper.Result("reclaimed")
WOULD_RECLAIM = reaper.Result("would reclaim")
"""What became of an orphan that somebody else had unlinked before."""

LONGEST = 10.0
"""Seconds for one heap at most: only a hostile one takes more."""
PAUSE = 0.02
"""Seconds before the next look at what somebody was just at work in."""


class Returned:
    """What became of the free memory of one heap, in bytes.

    given_back      in a dry run: what would be
    in_use          in blocks that are in use: it comes back when those who hold them let go
    not_returnable  what else is left: headers, parts of pages, and what is not whole
    reason          why nothing was given back, or not all that is free; else ""
    error           the errno of a failure; else 0
    """

    __slots__ = ("error", "given_back", "in_use", "not_returnable", "reason")

    def __init__(self, reason: str = "", error: int = 0) -> None:
        self.given_back = self.in_use = self.not_returnable = 0
        self.reason = reason
        self.error = error


def give_back(
    fd: int, attached: "Iterable[int]", by_word: bool, dry_run: bool, judge: judging.Judge
) -> Returned:
    """Give back what is free in the heap of `fd`, whose creator has been proven dead.

    `attached`: pids of those who were seen to hold it.
    """
    status = os.fstat(fd)
    file_id = status.st_dev, status.st_ino
    kind, dead = kinship.UNTOLD, locks.dead_holder(file_id)

    def no_child() -> bool:
        if any(kinship.header_address(procfs.maps_of(pid) or b"", file_id) for pid in attached):
            return False
        return _kinship(file_id) is kinship.NO_CHILD

    if not by_word and _asked(judge, no_child):
        kind = kinship.NO_CHILD
    try:
        work = reclaim.Reclaim(
            fd, kind, by_word, dry_run, lambda superblock: _asked(judge, lambda: dead(superblock))
        )
    except reclaim.NotAllowed as refusal:
        return Returned(str(refusal))
    result = Returned()
    try:
        whole = _work(work)
    except OSError as error:
        work.close()
        result.reason, result.error = f"it cannot be given back: {error.strerror}", error.errno or 0
    else:
        if not whole:
            result.reason = "not all of it was looked at: it takes too long"
        elif not work.settled:
            result.reason = "a process is at work in it, or ended in the middle of that"
        elif not work.whole:
            result.reason = "its blocks are not whole: what follows a fault is left alone"
    result.given_back = work.would_give_back if dry_run else work.given_back
    result.in_use = work.in_use
    left = work.taken - (result.given_back if dry_run else 0)
    result.not_returnable = max(0, left - result.in_use)
    return result


def _asked(judge: judging.Judge, act: "Callable[[], bool]") -> bool:
    """What it says; False where processes cannot be looked at."""
    try:
        return bool(judge.look(act))
    except OSError:
        return False


def _kinship(file_id: "Tuple[int, int]") -> kinship.Kinship:
    """As `kinship.kin`; some process of a busy host may just be ending, and show no maps."""
    for _ in range(10):
        kind, pids = kinship.kin(file_id)
        if not pids or any(procfs.maps_of(pid) for pid in pids):
            break
        time.sleep(PAUSE)
    return kind


def _work(work: reclaim.Reclaim) -> bool:
    """Whether all was looked at; somebody who is at work in it for a moment is waited for."""
    end = time.monotonic() + LONGEST
    for _ in range(5):
        try:
            while not work.go_on(0.1):
                if time.monotonic() > end:
                    work.close()
                    return False
        except BlockingIOError:
            time.sleep(PAUSE)
            continue
        if work.settled:
            break
        time.sleep(PAUSE)
    return True


def look(
    directory: shmfs.ShmDirectory, file: held.Unlinked, judge: judging.Judge
) -> "Tuple[reaper.Outcome, Optional[int]]":
    """What may be done about a file that has no name any more, and a descriptor of it if it is an orphan.

    GONE if nobody holds it any more, and if it did not lie in the directory.
    """
    try:
        file_id, pids = (file.device, file.inode), [holder.pid for holder in file.holders]
        fd = held.open_regular(judge.look(lambda: held.way_to(file_id, pids)), file_id)
    except FileNotFoundError:
        return reaper.Outcome(file.name, reaper.GONE, "nobody holds it any more"), None
    except OSError as error:
        reason = f"it cannot be reached through those who hold it: {error.strerror}"
        return reaper.Outcome(file.name, reaper.FAILED, reason, error=error.errno or 0), None
    outcome = reaper.Outcome(file.name, reaper.GONE, "it was not in the directory")
    try:
        # The survey is of the whole file system. The kernel remembers a file's path.
        if os.path.dirname(os.readlink(f"/proc/self/fd/{fd}")) != os.path.realpath(directory.root):
            return outcome, None
        outcome = _judged(directory, file.name, fd, judge)
    finally:
        if outcome.result is not RECLAIMED:
            os.close(fd)
    return outcome, fd if outcome.result is RECLAIMED else None


def _judged(directory: shmfs.ShmDirectory, name: str, fd: int, judge: judging.Judge) -> reaper.Outcome:
    status, raw = os.fstat(fd), os.pread(fd, 16, 0)
    header = heapfile.parse_header(raw)
    if header is None:
        return reaper.Outcome(name, reaper.NO_HEAP, "it is not a heap")
    on_tmpfs = directory.on_tmpfs and reclaim.on_tmpfs(fd)
    answer = lease.take(fd) if directory.leases else lease.SILENT
    if answer is lease.GRANTED:
        lease.release(fd)
    seen = shmfs.Sighting(name, shmfs.HEAP, status, "", raw, header, answer, on_tmpfs)
    (verdict,) = judge([seen])
    if verdict.state in creator.ORPHANS:
        result = RECLAIMED
    else:
        result = reaper.KEPT if verdict.state is creator.ALIVE else reaper.UNSURE
    return reaper.Outcome(name, result, verdict.reason, seen, verdict)
