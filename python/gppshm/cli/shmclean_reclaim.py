"""redhawk-shmclean: gives back free memory of orphaned heaps while processes are attached.

The command sees a heap for the first time when its creator is dead.  So it cannot know whether a process that
maps the heap is a forked child of the creator; a person must accept that risk (--reclaim).
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
"""Results for an orphaned heap that was unlinked before."""

LONGEST = 10.0
"""Seconds for one heap; only a hostile one takes more."""
PAUSE = 0.02
"""Seconds before the next try, if a process was just changing the heap."""


class Returned:
    """The result for one heap, in bytes.

    given_back      given back; in a dry run, what would be given back
    in_use          in used blocks: can be given back after their release
    not_returnable  the rest: headers, parts of pages, and unsound superblocks
    reason          why nothing, or not all free memory, was given back; else ""
    error           errno of a failure; else 0
    """

    __slots__ = ("error", "given_back", "in_use", "not_returnable", "reason")

    def __init__(self, reason: str = "", error: int = 0) -> None:
        self.given_back = self.in_use = self.not_returnable = 0
        self.reason = reason
        self.error = error


def give_back(
    fd: int,
    attached: "Iterable[int]",
    accept_risk: bool,
    dry_run: bool,
    judge: judging.Judge,
    hold: reaper.Hold,
    result: Returned,
) -> None:
    """Give back the free memory of the heap of `fd`, whose creator has been proven dead.

    attached  pids of the holders
    accept_risk   a person accepts the risk that a forked child of the creator is among them
    hold      held at the end; the caller must call let_go.  It is let go before that for inspections of
              processes, and every 0.1 s
    result    is filled in, also at Ctrl-C
    """
    status = os.fstat(fd)
    file_id = status.st_dev, status.st_ino
    kind, dead = kinship.UNKNOWN, locks.dead_holder(file_id)

    def no_child() -> bool:
        if any(kinship.header_address(procfs.maps_of(pid) or b"", file_id) for pid in attached):
            return False
        return _kinship(file_id) is kinship.NO_CHILD

    if not accept_risk and _asked(judge, hold, no_child):
        kind = kinship.NO_CHILD
    try:
        work = reclaim.Reclaim(
            fd, kind, accept_risk, dry_run, lambda superblock: _asked(judge, hold, lambda: dead(superblock))
        )
    except reclaim.NotAllowed as refusal:
        result.reason = str(refusal)
        return
    try:
        whole = _work(work, hold)
    except KeyboardInterrupt:
        work.close()
        result.reason = "not all of it was looked at: it was interrupted"
        raise
    except OSError as error:
        work.close()
        result.reason, result.error = f"it cannot be given back: {error.strerror}", error.errno or 0
    else:
        if not whole:
            result.reason = "not all of it was inspected: that takes too long"
        elif not work.stable:
            result.reason = "a process is at work in it, or ended in the middle of that"
        elif not work.whole:
            result.reason = "its blocks are not whole: what follows a fault is left alone"
    finally:
        result.given_back = work.would_give_back if dry_run else work.given_back
        result.in_use = work.in_use
        left = work.taken - (result.given_back if dry_run else 0)
        result.not_returnable = max(0, left - result.in_use)


def _asked(judge: judging.Judge, hold: reaper.Hold, act: "Callable[[], bool]") -> bool:
    """The result of `act`; False if processes cannot be inspected."""
    hold.let_go()
    try:
        return bool(judge.inspect(act))
    except OSError:
        return False
    finally:
        hold.hold()


def _kinship(file_id: "Tuple[int, int]") -> kinship.Kinship:
    """See `kinship.kin`; repeated while a process that is just exiting has no readable maps."""
    for _ in range(10):
        kind, pids = kinship.kin(file_id)
        if not pids or any(procfs.maps_of(pid) for pid in pids):
            break
        time.sleep(PAUSE)
    return kind


def _work(work: reclaim.Reclaim, hold: reaper.Hold) -> bool:
    """Whether everything was inspected.  Waits for a process that is changing the heap for a moment."""
    end = time.monotonic() + LONGEST
    for _ in range(5):
        try:
            hold.hold()
            while not work.go_on(0.1):
                hold.let_go()
                hold.hold()
                if time.monotonic() > end:
                    work.close()
                    return False
        except BlockingIOError:
            _rest(hold)
            continue
        if work.stable:
            break
        _rest(hold)
    return True


def _rest(hold: reaper.Hold) -> None:
    hold.let_go()
    time.sleep(PAUSE)
    hold.hold()


def inspect(
    directory: shmfs.ShmDirectory, file: held.Unlinked, judge: judging.Judge
) -> "Tuple[reaper.Outcome, Optional[int]]":
    """The Outcome for an unlinked file, and its descriptor if it is orphaned (RECLAIMED), else None.

    GONE if it has no holder any more, or was not in the directory.
    """
    try:
        file_id, pids = (file.device, file.inode), [holder.pid for holder in file.holders]
        fd = held.open_regular(judge.inspect(lambda: held.way_to(file_id, pids)), file_id)
    except FileNotFoundError:
        return reaper.Outcome(file.name, reaper.GONE, "nobody holds it any more"), None
    except OSError as error:
        reason = f"it cannot be reached through those who hold it: {error.strerror}"
        return reaper.Outcome(file.name, reaper.FAILED, reason, error=error.errno or 0), None
    outcome = reaper.Outcome(file.name, reaper.GONE, "it was not in the directory")
    try:
        # The survey covers the whole file system.  The kernel remembers the path of an unlinked file.
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
