"""From a name to its end: look, judge, unlink, say what was done; for the watcher and for shmclean."""

import errno
import os
import time

from gppshm import creator, lease, procfs, shmfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Iterable, Iterator, List, Optional

NO_DESCRIPTOR = lease.NO_DESCRIPTOR


class Result(str):
    """What became of one name."""

    __slots__ = ()


REMOVED = Result("removed")
WOULD_REMOVE = Result("would remove")
"""An orphan that was left alone because this is a dry run."""
OUT_OF_SCOPE = Result("out of scope")
"""An orphan that is not ours to remove."""
KEPT = Result("kept")
"""The creator lives."""
UNSURE = Result("unsure")
"""Nothing is proven now; a later try may tell more."""
FAILED = Result("failed")
"""It could not be opened, or an orphan could not be unlinked."""
GONE = Result("gone")
"""It is not there (any more): others clean too."""
NO_HEAP = Result("no heap")


class Outcome:
    """What was done about one name, and why (one sentence).

    sighting  None if there was nothing to see
    verdict   None if it was not judged
    error     the errno of a FAILED one; else 0
    done      when (monotonic)
    """

    __slots__ = ("done", "error", "name", "reason", "result", "sighting", "verdict")

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
        self.done = time.monotonic()

    def __repr__(self) -> str:
        return f"Outcome({self.name}: {self.result}: {self.reason})"


class Reaper:
    """Removes what the dead have left in one directory.

    known_alive  asked when a lease alone proves nothing: True if the creator of the heap that was seen is
                 known to live, so that no look at the host's processes is needed now
    may_look     asked before all processes of the host are looked at on account of the heap that was seen
    in_scope     asked before an orphan, as it was seen, is removed
    A context manager.  It keeps one descriptor in reserve, so that it can unlink when none is left.
    """

    def __init__(
        self,
        directory: shmfs.ShmDirectory,
        proc_root: str = "/proc",
        dry_run: bool = False,
        known_alive: "Callable[[shmfs.Sighting], bool]" = lambda sighting: False,
        may_look: "Callable[[shmfs.Sighting], bool]" = lambda sighting: True,
        in_scope: "Callable[[shmfs.Sighting], bool]" = lambda sighting: True,
    ) -> None:
        self.directory = directory
        self.proc_root = proc_root
        self.dry_run = dry_run
        self._known_alive = known_alive
        self._may_look = may_look
        self._in_scope = in_scope
        self._reserve: Optional[int] = None
        self._refill()

    def __enter__(self) -> "Reaper":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._spend_reserve()

    def reap(self, names: "Iterable[str]", alone: bool = True) -> "List[Outcome]":
        """What `settle` does, all at once."""
        return list(self.settle(names, alone))

    def settle(self, names: "Iterable[str]", alone: bool = True) -> "Iterator[Outcome]":
        """Settle each name as far as it can be settled now; each Outcome comes as soon as it is done.

        No error of one name stops the others.

        First every heap is asked for a lease, and unlinked where that proves death.  The others are then
        judged by one look at the host's processes, which is younger than what was seen of them.
        `alone=False` no longer waits for another cleaner that is at the same heap.
        """
        doubtful = []
        for name in names:
            outcome = self._guarded(name, lambda: self._by_lease(name, alone))  # noqa: B023
            if outcome.result is UNSURE and outcome.verdict is None and outcome.sighting is not None:
                doubtful.append(outcome.sighting)
            else:
                yield outcome
        if doubtful:
            self._spend_reserve()  # /proc cannot be read without a descriptor
        processes = procfs.Processes(self.proc_root)
        for seen in doubtful:
            yield self._guarded(seen.name, lambda: self._by_pids(seen, processes, alone))  # noqa: B023
        self._refill()

    def _by_lease(self, name: str, alone: bool) -> Outcome:
        with self.directory.open(name) as file:
            seen = file.sighting
            if seen.kind is shmfs.UNREADABLE:
                return Outcome(name, FAILED, seen.error, seen, error=errno.EACCES)
            if seen.kind not in (shmfs.HEAP, shmfs.HALF_MADE):
                return Outcome(name, NO_HEAP, "it is not a heap", seen)
            if seen.answer is lease.GRANTED and seen.kind is shmfs.HEAP:
                return self._finish(file, seen, creator.judge(seen, procfs.Processes(self.proc_root)), alone)
            if self._known_alive(seen):
                return Outcome(name, KEPT, "its creator lives", seen)
            return Outcome(name, UNSURE, "not judged yet", seen)

    def _by_pids(self, seen: shmfs.Sighting, processes: procfs.Processes, alone: bool) -> Outcome:
        verdict = creator.living(seen, processes)
        if verdict is None:
            if not self._may_look(seen):
                return Outcome(seen.name, UNSURE, "its creator was not looked for yet", seen)
            verdict = creator.judge(seen, processes)
        if verdict.state not in creator.ORPHANS:
            result = KEPT if verdict.state is creator.ALIVE else UNSURE
            return Outcome(seen.name, result, verdict.reason, seen, verdict)
        with self.directory.open(seen.name) as file:
            return self._finish(file, seen, verdict, alone)

    def _finish(
        self, file: shmfs.OpenFile, seen: shmfs.Sighting, verdict: creator.Verdict, alone: bool
    ) -> Outcome:
        """Unlink what is judged an orphan, unless somebody or something says no."""
        result, reason, error = UNSURE, verdict.reason, 0
        if verdict.state in creator.ORPHANS:
            if not self._in_scope(seen):
                result = OUT_OF_SCOPE
            elif self.dry_run:
                result = WOULD_REMOVE
            else:
                try:
                    self.directory.unlink(file, seen, alone)
                    result = REMOVED
                except FileNotFoundError:
                    raise
                except shmfs.Changed as changed:
                    reason = str(changed)
                except BlockingIOError:
                    reason = "another cleaner is at it"
                except OSError as refusal:
                    result, error = FAILED, refusal.errno or 0
                    reason = f"it cannot be unlinked: {refusal.strerror}"
        return Outcome(seen.name, result, reason, seen, verdict, error)

    def _guarded(self, name: str, settle: "Callable[[], Outcome]") -> Outcome:
        """Translate the errors of one name, and spend the reserve where there is no descriptor left."""
        for last in (False, True):
            try:
                return settle()
            except FileNotFoundError:
                return Outcome(name, GONE, "it is not there any more")
            except OSError as error:
                if error.errno in NO_DESCRIPTOR and not last and self._spend_reserve():
                    continue
                return Outcome(name, FAILED, str(error.strerror), error=error.errno or 0)
        raise AssertionError("unreachable")

    def _spend_reserve(self) -> bool:
        if self._reserve is None:
            return False
        os.close(self._reserve)
        self._reserve = None
        return True

    def _refill(self) -> None:
        if self._reserve is None:
            try:
                self._reserve = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                pass
