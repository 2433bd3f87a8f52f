"""Removes what was confirmed, by the same reaper and verdict as redhawk-shmclean, in a thread of its own."""

import threading

from gppshm import asking, creator, reaper, shmfs
from gppshm.cli import shmclean_account, text
from gppshm.top.state import shown

LONGEST = 1.0
"""Seconds to wait for a removal at the end; it takes microseconds."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Iterator, List, Sequence

    from gppshm.top.scanner import Scanner
    from gppshm.top.state import Row


class _Hold(reaper.Hold):
    """Lets no removal begin after `end`, which waits for the one that is under way."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_on = self._ending = False

    def hold(self) -> None:
        if not self._is_on:
            if self._ending or not self._lock.acquire(False):
                raise SystemExit  # ends the thread
            self._is_on = True

    def let_go(self) -> None:
        if self._is_on:
            self._is_on = False
            self._lock.release()

    def end(self) -> None:
        self._ending = True
        self._lock.acquire(timeout=LONGEST)


def refusal(row: "Row") -> str:
    """Why a heap is not removed; "" if it was an orphan when last inspected."""
    if row.orphaned:
        return ""
    doubt = "is" if row.state is creator.ALIVE else "may be"
    return f"{row.name} {doubt} in use and is kept: {row.reason}"


class Cleaning(threading.Thread):
    """Removes the heaps of `rows`, if they are still the files that were shown; then calls `on_end` with a
    summary.

    Each is judged again: a heap whose creator is or may be alive is kept.
    """

    def __init__(
        self, root: str, rows: "Sequence[Row]", scanner: "Scanner", on_end: "Callable[[str, bool], None]"
    ) -> None:
        super().__init__(name="cleaning", daemon=True)
        self._root = root
        self._confirmed = {row.file: row.file_id for row in rows}
        self._scanner = scanner
        self._on_end = on_end
        self._hold = _Hold()

    def end(self) -> None:
        """Remove nothing more; the process is about to end."""
        self._hold.end()

    def run(self) -> None:
        removed, size, attached, failures = 0, 0, 0, []
        try:
            for outcome in self._outcomes():
                if outcome.result is reaper.REMOVED:
                    removed += 1
                    if outcome.sighting is not None:
                        allocated = outcome.sighting.status.st_blocks * 512
                        size += allocated
                        if outcome.verdict is not None and outcome.verdict.attached:
                            attached += allocated
                    self._scanner.departures.cleaned[outcome.name] = shown(outcome.reason)
                elif outcome.result is not reaper.GONE:
                    failures.append(_failure(outcome))
                self._hold.let_go()
        except OSError as error:
            failures.append(f"{shown(self._root)} cannot be read: {error.strerror}")
        self._scanner.scan_soon()
        self._on_end(_summary(removed, size, attached, failures), bool(failures))

    def _outcomes(self) -> "Iterator[reaper.Outcome]":
        hold = self._hold
        with shmfs.ShmDirectory(self._root) as directory, reaper.Reaper(directory, hold=hold) as cleaner:
            yield from cleaner.clean_patiently(list(self._confirmed), asking.judge, self._confirmed.get)


def _failure(outcome: reaper.Outcome) -> str:
    name, reason = shown(outcome.name), shown(outcome.reason)
    if outcome.result is reaper.KEPT:
        return f"{name} is in use and is kept: {reason}"
    if outcome.result is reaper.UNSURE:
        return f"{name} may be in use and is kept: {reason}"
    if outcome.result is reaper.OUT_OF_SCOPE:
        return f"{name} was replaced after you saw it: look again"
    if outcome.result is reaper.NO_HEAP:
        return f"{name} is not a heap any more"
    return f"{name}: {shmclean_account.why_failed(outcome)}"


def _summary(removed: int, size: int, attached: int, failures: "List[str]") -> str:
    words = []
    if removed:
        words.append(f"removed {text.many(removed, 'heap')}, {text.size_auto(size)}")
        if attached:
            words.append(f"{text.size_auto(attached)} of it come back only when the peers exit")
    if failures:
        more = f" (and {len(failures) - 1} more were kept)" if len(failures) > 1 else ""
        words.append(failures[0] + more)
    return "; ".join(words) or "nothing was left to remove: another cleaner was faster"
