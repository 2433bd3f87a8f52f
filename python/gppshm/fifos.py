"""REDHAWK's second kind of leftover: FIFOs /tmp/fifo-<pid>-<hex> of connections that were being set up.

None is ever opened: a probe's open() would release a peer that is blocked in its own.
"""

import os
import stat

from gppshm import creator, procfs, reaper, shmfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, List, Tuple, Union

DEFAULT_ROOT = "/tmp"


def pid_of_name(name: str) -> int:
    """The pid in a name of the form fifo-<pid>-<hex>, exactly; 0 for any other."""
    prefix, _, rest = name.partition("-")
    digits, _, token = rest.partition("-")
    if prefix != "fifo" or not token or token.strip("0123456789abcdefABCDEF"):
        return 0
    return shmfs.pid_of_name("heap-" + digits)


def reap(root: str = DEFAULT_ROOT, proc_root: str = "/proc", dry_run: bool = False) -> "List[reaper.Outcome]":
    """Judge every such FIFO in `root` and unlink those of the dead; an Outcome for each.

    OSError if `root` cannot be read.
    """
    outcomes = []
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
        processes = procfs.Processes(proc_root)
        for sighting in seen:
            outcomes.append(_settle(folder, sighting, processes, dry_run))
    finally:
        os.close(folder)
    return outcomes


def reap_plain(root: str, dry_run: bool, proc_root: str) -> "Union[str, List[Tuple[Any, ...]]]":
    """What `reap` did, as the observer tells it; or why `root` cannot be read."""
    try:
        outcomes = reap(root, proc_root, dry_run)
    except OSError as error:
        return str(error.strerror)
    found = []
    for outcome in outcomes:
        seen, verdict = outcome.sighting, outcome.verdict
        assert seen is not None and verdict is not None
        words = outcome.name, str(outcome.result), outcome.reason
        found.append((*words, seen.file_id, seen.status.st_uid, str(verdict.evidence)))
    return found


def _settle(folder: int, seen: shmfs.Sighting, processes: procfs.Processes, dry_run: bool) -> reaper.Outcome:
    verdict = creator.judge_fifo(pid_of_name(seen.name), processes)
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
