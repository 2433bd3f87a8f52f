"""redhawk-shmclean --force NAME ...: unlinks what it is told to, and tells who loses it."""

import errno
import os

from gppshm import creator, procfs, reaper, shmfs
from gppshm.cli import text
from gppshm.cli.shmclean_account import is_directory, missing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterable, List, Tuple

    from gppshm.cli.shmclean_account import Account


def clean(account: "Account", directory: shmfs.ShmDirectory, names: "List[str]") -> None:
    """Unlink each name, but no directory."""
    for name in names:
        outcome, users = _unlink(account, directory, name)
        if outcome.result is not reaper.GONE:
            account.outcomes.append(outcome)
            _tell(account, outcome, text.escaped(name), users)
        account.let_go()


def _tell(account: "Account", outcome: reaper.Outcome, name: str, users: str) -> None:
    if outcome.result is reaper.FAILED:
        account.fail(f"{name}: {text.escaped(outcome.reason)}")
        return
    if account.options.dry_run or account.options.verbose:
        account.tell_removal(outcome, name)
    if users:
        account.output.line_on_stderr(f"{name} {users}")


def _unlink(account: "Account", directory: shmfs.ShmDirectory, name: str) -> "Tuple[reaper.Outcome, str]":
    """Unlink the file `name`; the outcome, and a description of its possible users or "".

    Ctrl-C is held at the end if it may have been unlinked.
    """
    seen = verdict = None
    reason, users = "it was named, with --force", ""
    try:
        with directory.open(name) as file:
            seen = file.sighting
    except FileNotFoundError:
        return missing(name), ""
    except OSError as error:
        users = _users(account, f"may have been in use (it could not be inspected: {error.strerror})", [])
    if seen is not None and (seen.kind in (shmfs.HEAP, shmfs.HALF_MADE) or _unreadable_heap(seen)):
        (verdict,) = account.judge([seen])
        if verdict.state not in creator.ORPHANS:
            used = "was in use"
            if verdict.state is creator.UNKNOWN:
                used = f"may have been in use ({text.escaped(verdict.reason)})"
            file_id, host = seen.file_id, procfs.Processes()
            users = _users(account, used, account.inspect(lambda: host.holders(file_id), []), verdict.creator)
    try:
        if is_directory(seen):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not account.options.dry_run:
            account.ctrl_c.hold()
            directory.unlink_by_force(name)
    except FileNotFoundError:
        return reaper.Outcome(name, reaper.GONE, "it is not there any more", seen, verdict), ""
    except OSError as error:
        failed = reaper.Outcome(
            name, reaper.FAILED, str(error.strerror), seen, verdict, error.errno or errno.EIO
        )
        return failed, ""
    done = reaper.WOULD_REMOVE if account.options.dry_run else reaper.REMOVED
    return reaper.Outcome(name, done, reason, seen, verdict), users


def _users(account: "Account", used: str, pids: "Iterable[int]", creator_pid: int = 0) -> str:
    losers = [
        words + (", its creator" if pid == creator_pid else "") for pid, words in account.described(pids)
    ]
    if not losers:
        return f"{used}; no holder was seen"
    return f"{used}; who {'would lose' if account.options.dry_run else 'loses'} it: {'; '.join(losers)}"


def _unreadable_heap(seen: shmfs.Sighting) -> bool:
    """Whether it cannot be read and has the name of a heap."""
    return seen.kind is shmfs.UNREADABLE and bool(seen.name_pid)
