"""redhawk-shmclean: memory that comes back from removed heaps while processes are attached; its lines."""

import errno
import os

from gppshm import held, reaper, shmfs
from gppshm.cli import shmclean_reclaim, text
from gppshm.cli.shmclean_account import RISK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Iterable

    from gppshm.cli.shmclean_account import Account


def of_removed(account: "Account", outcome: reaper.Outcome, pins: "Dict[shmfs.FileId, int]") -> None:
    """Give back the free memory of a heap that was just unlinked.

    pins  open descriptors; the one of this heap is taken out and closed
    """
    seen, verdict = outcome.sighting, outcome.verdict
    assert seen is not None and verdict is not None
    fd = pins.pop(seen.file_id, None)
    name, returned = text.escaped(outcome.name), shmclean_reclaim.Returned()
    try:
        if fd is None:
            file_id, pids = seen.file_id, verdict.attached
            fd = held.open_regular(account.judge.inspect(lambda: held.way_to(file_id, pids)), file_id)
        _give_back(account, fd, verdict.attached, account.options.reclaim, name, seen, returned)
    except OSError as error:
        returned.reason = f"it cannot be reached through those who hold it: {error.strerror}"
        returned.error = error.errno or 0
    finally:
        if fd is not None:
            os.close(fd)
    account.returned[seen.file_id] = returned
    _tell(account, name, seen, returned)


def _give_back(
    account: "Account",
    fd: int,
    attached: "Iterable[int]",
    accept_risk: bool,
    name: str,
    seen: shmfs.Sighting,
    returned: shmclean_reclaim.Returned,
) -> None:
    """Give back what is free; Ctrl-C is held at the end, as it is to be told.  At Ctrl-C it is told."""
    dry_run = account.options.dry_run
    try:
        shmclean_reclaim.give_back(
            fd, attached, accept_risk, dry_run, account.judge, account.ctrl_c, returned
        )
    except KeyboardInterrupt:
        account.ctrl_c.hold()
        if returned.given_back:
            account.returned[seen.file_id] = returned
            _put(account, name, seen, returned)
        raise


def of_unlinked(account: "Account", directory: shmfs.ShmDirectory, file: held.Unlinked) -> None:
    """Give back the free memory of a heap that was unlinked before this run."""
    outcome, fd = shmclean_reclaim.inspect(directory, file, account.judge)
    named = bool(account.options.names)
    if outcome.result is reaper.GONE or (outcome.result is reaper.NO_HEAP and not named):
        return
    if outcome.sighting is None and not named and not shmfs.pid_of_name(file.name):
        return  # it may be no heap at all
    name = f"{text.escaped(outcome.name)} (unlinked before)"
    account.unnamed.append(outcome)
    if fd is None:
        if named and outcome.result is not reaper.FAILED:
            account.fail(f"{name} is kept: {text.escaped(outcome.reason)}")
        else:
            account.tell_unasked(outcome, name)
        return
    try:
        assert outcome.sighting is not None
        returned = shmclean_reclaim.Returned()
        _give_back(account, fd, (), True, name, outcome.sighting, returned)
    finally:
        os.close(fd)
    if account.options.dry_run:
        outcome.result = shmclean_reclaim.WOULD_RECLAIM
    if returned.error:
        outcome.result, outcome.error = reaper.FAILED, returned.error
    account.returned[outcome.sighting.file_id] = returned
    account.holders[outcome.sighting.file_id] = file.holders
    _tell(account, name, outcome.sighting, returned)


def _tell(account: "Account", name: str, seen: shmfs.Sighting, returned: shmclean_reclaim.Returned) -> None:
    """Print what was given back, and let Ctrl-C go."""
    if returned.error:
        account.ctrl_c.let_go()  # a directory service may not answer
    _put(account, name, seen, returned)
    account.let_go()


def _put(account: "Account", name: str, seen: shmfs.Sighting, returned: shmclean_reclaim.Returned) -> None:
    if returned.error and account.options.reclaim:
        reason = returned.reason
        if returned.error in (errno.EPERM, errno.EACCES):
            reason += f"; it belongs to {text.user_name(seen.status.st_uid)}: run this as root"
        account.fail(f"error: {name}: {text.escaped(reason)}")
    elif returned.given_back or account.options.reclaim:
        done = "would give" if account.options.dry_run else "gave"
        account.say(f"{done} back {returned.given_back} bytes of {name}; {returned.in_use} are still in use")
    if not account.options.verbose:
        return
    if account.options.reclaim:
        account.say(f"  free memory: {RISK}")
    elif returned.reason:
        hint = "" if returned.error else "; --reclaim gives it back at your risk"
        account.say(f"  free memory: kept: {text.escaped(returned.reason)}{hint}")
    if account.options.reclaim and returned.reason and not returned.error:
        account.say(f"  free memory: not all: {text.escaped(returned.reason)}")
    if returned.given_back or returned.in_use:
        account.say(f"  free memory: {returned.not_returnable} other bytes cannot be given back")
