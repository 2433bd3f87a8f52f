"""FIFOs /tmp/fifo-<pid>-<hex>, which REDHAWK leaves behind if a process dies while it sets a connection up.

They are never opened: an open() would release a peer that is blocked in its own open().
"""

import os
import stat

from gppshm import creator, procfs, reaper, shmfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Iterator, List, Optional, Sequence, Tuple, Union

DEFAULT_ROOT = "/tmp"


def pid_of_name(name: str) -> int:
    """The pid in a name of exactly the form fifo-<pid>-<hex>; 0 for any other name."""
    prefix, _, rest = name.partition("-")
    digits, _, token = rest.partition("-")
    if prefix != "fifo" or not token or token.strip("0123456789abcdefABCDEF"):
        return 0
    return shmfs.pid_of_name("heap-" + digits)


def judge(pids: "Sequence[int]", proc_root: str = "/proc") -> "List[Tuple[Any, ...]]":
    """A plain verdict on the FIFOs of each process."""
    processes = procfs.Processes(proc_root)
    return [creator.judge_fifo(pid, processes).plain() for pid in pids]


def reap(
    root: str = DEFAULT_ROOT,
    proc_root: str = "/proc",
    dry_run: bool = False,
    inspect: "Callable[[Callable[[], Any]], Any]" = lambda act: act(),
    hold: "Optional[reaper.Hold]" = None,
) -> "Iterator[reaper.Outcome]":
    """Judge every such FIFO in `root` and unlink those of dead processes; yields an Outcome for each.

    inspect  runs a function that inspects processes and may block (see judging.Judge)
    hold  held when an Outcome is REMOVED; the caller must call let_go
    OSError if `root` cannot be read.
    """
    hold = hold or reaper.Hold()
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        seen = []
        for name in os.listdir(folder):
            if pid_of_name(name):
                try:
                    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
                except OSError:
                    continue
                if stat.S_ISFIFO(status.st_mode):
                    seen.append(shmfs.Sighting(name, shmfs.OTHER, status))
        pids = [pid_of_name(sighting.name) for sighting in seen]
        for sighting, verdict in zip(seen, inspect(lambda: judge(pids, proc_root)) if seen else ()):
            hold.hold()
            outcome = _clean(folder, sighting, creator.verdict_of(verdict), dry_run)
            if outcome.result is not reaper.REMOVED:
                hold.let_go()
            yield outcome
    finally:
        os.close(folder)


def reap_plain(root: str, dry_run: bool, proc_root: str) -> "Union[str, List[Tuple[Any, ...]]]":
    """The result of `reap` as plain data for the observer's answer; or why `root` cannot be read."""
    try:
        outcomes = list(reap(root, proc_root, dry_run))
    except OSError as error:
        return str(error.strerror)
    found = []
    for outcome in outcomes:
        seen, verdict = outcome.sighting, outcome.verdict
        assert seen is not None and verdict is not None
        words = outcome.name, str(outcome.result), outcome.reason
        found.append((*words, seen.file_id, seen.status.st_uid, str(verdict.evidence)))
    return found


def _clean(folder: int, seen: shmfs.Sighting, verdict: creator.Verdict, dry_run: bool) -> reaper.Outcome:
    result, reason, error = reaper.UNSURE, verdict.reason, 0
    if verdict.state in creator.ORPHANS:
        result = reaper.WOULD_REMOVE
        try:
            now = os.stat(seen.name, dir_fd=folder, follow_symlinks=False)
            if shmfs.identity_of(now) != seen.identity:
                result, reason = reaper.UNSURE, "it was re-created after it was judged"
            elif not dry_run:
                os.unlink(seen.name, dir_fd=folder)
                result = reaper.REMOVED
        except FileNotFoundError:
            result, reason = reaper.GONE, "it is not there any more"
        except OSError as refusal:
            result, error = reaper.FAILED, refusal.errno or 0
            reason = f"it cannot be unlinked: {refusal.strerror}"
    return reaper.Outcome(seen.name, result, reason, seen, verdict, error)
