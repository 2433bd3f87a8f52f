"""Removes orphans in two steps: by a lease or an established identity, then by a verdict from other evidence.

Neither step inspects another process.  The caller decides what happens between them.
"""

import errno
import fcntl
import os
import time

from gppshm import creator, lease, procfs, shmfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Iterable, Iterator, List, Optional, Sequence

NO_DESCRIPTOR = lease.NO_DESCRIPTOR

DELAYS = (0.002, 0.005, 0.015, 0.05, 0.15)
"""Seconds between the tries of `clean_patiently`; each is multiplied by a random 0.5 to 1.5."""

RESERVE = 2
"""Descriptors in reserve: one for the heap, and one for what is read of its creator meanwhile."""

NOTHING = (0, 0)
"""For `only`: no file at all."""


class Result(str):
    """The result for one name."""

    __slots__ = ()


REMOVED = Result("removed")
WOULD_REMOVE = Result("would remove")
"""An orphan that was kept because this is a dry run."""
OUT_OF_SCOPE = Result("out of scope")
"""An orphan that may not be removed here."""
KEPT = Result("kept")
"""The creator lives."""
UNSURE = Result("unsure")
"""No proof now; a later try or an inspection of processes may give one."""
FAILED = Result("failed")
"""It could not be opened, or an orphan could not be unlinked."""
GONE = Result("gone")
"""It does not exist (any more): others clean, too."""
NO_HEAP = Result("no heap")


class Outcome:
    """What was done about one name, and why (one sentence).

    sighting  None if the file could not be inspected
    verdict   None if it was not judged
    error     the errno of a FAILED one; else 0
    done      when (monotonic)
    fd        for the caller to close: a descriptor of the unlinked file if peers may be attached and the
              Reaper pins, or if the file is large; else -1
    """

    __slots__ = ("done", "error", "fd", "name", "reason", "result", "sighting", "verdict")

    def __init__(
        self,
        name: str,
        result: Result,
        reason: str,
        sighting: "Optional[shmfs.Sighting]" = None,
        verdict: "Optional[creator.Verdict]" = None,
        error: int = 0,
    ) -> None:
        self.name = name
        self.result = result
        self.reason = reason
        self.sighting = sighting
        self.verdict = verdict
        self.error = error
        self.fd = -1
        self.done = time.monotonic()

    @property
    def removed(self) -> bool:
        """Whether the file was unlinked, or would be if this were no dry run."""
        return self.result is REMOVED or self.result is WOULD_REMOVE

    def __repr__(self) -> str:
        return f"Outcome({self.name}: {self.result}: {self.reason})"


class Hold:
    """Holds Ctrl-C back from a removal until the caller has reported it.  The base class does nothing."""

    def hold(self) -> None:
        """Called just before a file may be unlinked."""

    def let_go(self) -> None:
        """Called when nothing was unlinked or, by the caller, when it has told what was."""


class Reaper:
    """Removes orphans in one directory.

    pin    hand over a descriptor of what is unlinked (or would be) while peers may be attached
    large  size in bytes from which on a descriptor is always handed over: closing the last one takes long
    hold   held when an Outcome is REMOVED; the caller must call let_go
    A context manager.  It keeps two descriptors in reserve, to prove and unlink when none is left.
    """

    def __init__(
        self,
        directory: shmfs.ShmDirectory,
        dry_run: bool = False,
        pin: bool = False,
        large: float = float("inf"),
        hold: "Optional[Hold]" = None,
    ) -> None:
        self.directory = directory
        self.dry_run = dry_run
        self.pin = pin
        self.large = large
        self._hold = hold or Hold()
        self._reserve: List[int] = []
        self._refill()

    def __enter__(self) -> "Reaper":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._spend_reserve()

    def by_lease(
        self,
        name: str,
        only: "Optional[shmfs.FileId]" = None,
        otherwise: "Callable[[shmfs.Sighting], Optional[creator.Verdict]]" = lambda seen: None,
        changed: "Callable[[], str]" = lambda: "",
    ) -> Outcome:
        """Unlink the heap of that name if a lease, or a verdict that needs no inspection, proves it dead.

        only       remove nothing but this file (device, inode); else the result is OUT_OF_SCOPE
        otherwise  the verdict of an orphan if the lease is not granted, or None; the file stays open
                   meanwhile, so it must be fast
        changed    for that verdict; see ShmDirectory.unlink
        If nothing is proven, the result is UNSURE with a sighting and without a verdict.
        """
        return self._guarded(name, lambda: self._by_lease(name, only, otherwise, changed))

    def remove(
        self,
        seen: shmfs.Sighting,
        verdict: creator.Verdict,
        only: "Optional[shmfs.FileId]" = None,
        changed: "Callable[[], str]" = lambda: "",
    ) -> Outcome:
        """Act on `verdict`, which was made on `seen`: unlink an orphan, keep everything else.

        changed  see ShmDirectory.unlink
        """
        if verdict.state not in creator.ORPHANS:
            result = KEPT if verdict.state is creator.ALIVE else UNSURE
            return Outcome(seen.name, result, verdict.reason, seen, verdict)
        return self._guarded(seen.name, lambda: self._remove(seen, verdict, only, changed))

    def clean(
        self,
        names: "Iterable[str]",
        judge: "Callable[[Sequence[shmfs.Sighting]], Sequence[creator.Verdict]]",
        only: "Callable[[str], Optional[shmfs.FileId]]" = lambda name: None,
    ) -> "Iterator[Outcome]":
        """Both steps for all names; yields each Outcome as soon as it is done.

        An error of one name does not stop the others.  `judge` is called with all that leases do not prove;
        it must inspect processes after it was called.
        """
        doubtful = []
        for name in self.directory.to_clean(names, self.dry_run):
            outcome = self.by_lease(name, only(name))
            if outcome.result is UNSURE and outcome.verdict is None and outcome.sighting is not None:
                doubtful.append(outcome.sighting)
            else:
                yield outcome
        if doubtful:
            self._spend_reserve()  # /proc cannot be read without a descriptor
            verdicts = judge(doubtful)
            for seen, verdict in zip(doubtful, verdicts):
                yield self.remove(seen, verdict, only(seen.name))
            self._refill()

    def clean_patiently(
        self,
        names: "Iterable[str]",
        judge: "Callable[[Sequence[shmfs.Sighting]], Sequence[creator.Verdict]]",
        only: "Callable[[str], Optional[shmfs.FileId]]" = lambda name: None,
    ) -> "Iterator[Outcome]":
        """As `clean`, but retries for up to 0.5 s the files that another program has open for a moment."""
        for delay in DELAYS + (0,):
            again = []
            for outcome in self.clean(names, judge, only):
                if delay and _passing(outcome):
                    again.append(outcome.name)
                else:
                    yield outcome
            if not again:
                return
            names = again
            # Importing the random module would cost milliseconds at start.
            time.sleep(delay * (0.5 + os.urandom(1)[0] / 256))

    def _by_lease(
        self,
        name: str,
        only: "Optional[shmfs.FileId]",
        otherwise: "Callable[[shmfs.Sighting], Optional[creator.Verdict]]",
        changed: "Callable[[], str]",
    ) -> Outcome:
        with self.directory.open(name) as file:
            seen = file.sighting
            if seen.kind is shmfs.UNREADABLE:
                return Outcome(name, FAILED, seen.error, seen, error=errno.EACCES)
            if seen.kind not in (shmfs.HEAP, shmfs.HALF_MADE):
                return Outcome(name, NO_HEAP, "it is not a heap", seen)
            # If the name is no heap name, the pid in the header has to be judged by pids.
            if seen.answer is lease.GRANTED and seen.kind is shmfs.HEAP and seen.name_pid:
                return self._finish(file, seen, creator.judge(seen, procfs.Processes()), only)
            # While a lease is held, a process that opens the file has to wait.
            verdict = None if seen.answer is lease.GRANTED else otherwise(seen)
            if verdict is not None:
                return self._finish(file, seen, verdict, only, changed)
            return Outcome(name, UNSURE, "not judged yet", seen)

    def _remove(
        self,
        seen: shmfs.Sighting,
        verdict: creator.Verdict,
        only: "Optional[shmfs.FileId]",
        changed: "Callable[[], str]",
    ) -> Outcome:
        with self.directory.open(seen.name) as file:
            return self._finish(file, seen, verdict, only, changed)

    def _finish(
        self,
        file: shmfs.OpenFile,
        seen: shmfs.Sighting,
        verdict: creator.Verdict,
        only: "Optional[shmfs.FileId]",
        changed: "Callable[[], str]" = lambda: "",
    ) -> Outcome:
        """Unlink what was judged an orphan, unless a last check forbids it."""
        result, reason, error = UNSURE, verdict.reason, 0
        if verdict.state in creator.ORPHANS:
            if only is not None and seen.file_id != only:
                result = OUT_OF_SCOPE
            elif self.dry_run:
                result = WOULD_REMOVE
            else:
                self._hold.hold()
                try:
                    self.directory.unlink(file, seen, changed)
                    result = REMOVED
                except FileNotFoundError:
                    raise
                except shmfs.Changed as change:
                    reason = str(change)
                except OSError as refusal:
                    result, error = FAILED, refusal.errno or 0
                    reason = f"it cannot be unlinked: {refusal.strerror}"
        outcome = Outcome(seen.name, result, reason, seen, verdict, error)
        pinned = self.pin and outcome.removed and file.sighting.answer is not lease.GRANTED
        if pinned or (result is REMOVED and seen.status.st_blocks * 512 >= self.large):
            try:
                # From the open descriptor, as the name is gone.
                outcome.fd = fcntl.fcntl(file.fd or 0, fcntl.F_DUPFD_CLOEXEC, 3)
            except OSError:
                pass
        return outcome

    def _guarded(self, name: str, act: "Callable[[], Outcome]") -> Outcome:
        """Translate errors of one name, and use the reserve if no descriptor is left."""
        outcome = None
        try:
            for last in (False, True):
                try:
                    outcome = act()
                    break
                except FileNotFoundError:
                    outcome = Outcome(name, GONE, "it is not there any more")
                    break
                except OSError as error:
                    if error.errno in NO_DESCRIPTOR and not last and self._spend_reserve():
                        continue
                    outcome = Outcome(name, FAILED, str(error.strerror), error=error.errno or 0)
                    break
            assert outcome is not None
            self._refill()
        finally:
            if outcome is None or outcome.result is not REMOVED:
                self._hold.let_go()
        return outcome

    def _spend_reserve(self) -> bool:
        """Close the reserve; False if there was none."""
        spent, self._reserve = self._reserve, []
        for fd in spent:
            os.close(fd)
        return bool(spent)

    def _refill(self) -> None:
        try:
            while len(self._reserve) < RESERVE:
                self._reserve.append(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
        except OSError:
            pass


def _passing(outcome: Outcome) -> bool:
    """Whether a retry may help: another cleaner or a lister has the heap open for a moment."""
    if outcome.result is not UNSURE or outcome.verdict is None or outcome.sighting is None:
        return False
    return outcome.verdict.state in creator.ORPHANS or outcome.sighting.answer is lease.REFUSED
