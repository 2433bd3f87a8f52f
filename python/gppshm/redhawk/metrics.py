"""The plugin's metrics: their values, whether they are busy, and the reason as a sentence."""

import errno
import time

from gppshm import asking, held, shmfs
from gppshm.redhawk import thresholds
from gppshm.redhawk.journal import Journal, Orphan
from gppshm.redhawk.text import megabytes, plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

    from gppshm.redhawk.cleaning import Cleaning

FREE = "shm_free"
ORPHANED = "shm_orphaned"
HELD = "shm_held"
REMOVED = "shm_removed"
RECLAIMED = "shm_reclaimed"
NAMES = (FREE, ORPHANED, HELD, REMOVED, RECLAIMED)
COUNTS = (REMOVED, RECLAIMED)
"""Metrics that are never busy."""


SURVEY = 60.0
"""Seconds after which all processes are inspected again although the hidden memory has not changed."""


class Reading:
    """One metric as it is sent to the GPP; everything but `busy` is text."""

    __slots__ = ("busy", "name", "reason", "recorded", "threshold")

    def __init__(self, name: str, busy: bool, reason: str, threshold: str, recorded: str) -> None:
        self.name = name
        self.busy = busy
        self.reason = reason
        self.threshold = threshold
        self.recorded = recorded

    def key(self) -> "Tuple[str, bool, str, str, str]":
        return self.name, self.busy, self.reason, self.threshold, self.recorded


class Holding:
    """One unlinked file: its former name, its bytes, and its holders as (pid, command)."""

    __slots__ = ("bytes", "holders", "name")

    def __init__(self, name: str, size: int, holders: "Sequence[Tuple[int, str]]" = ()) -> None:
        self.name = name
        self.bytes = size
        self.holders = holders


class State:
    """One measurement; sizes in bytes; `size` is 0 if the file system has no limit.

    cleaned, cleaned_bytes  heaps of dead creators that others removed
    refusal                 why nothing is cleaned; else ""
    cleaner                 label of the device that cleans for the plugin; "" if the plugin cleans
    limits                  what is not cleaned, and by whose orders; "" if everything is cleaned
    returns                 see Watcher.returns; given_back, given_back_later: see events.Counts
    """

    __slots__ = (
        "cleaned",
        "cleaned_bytes",
        "cleaner",
        "free",
        "given_back",
        "given_back_later",
        "held",
        "limits",
        "orphans",
        "refusal",
        "removed",
        "removed_bytes",
        "returns",
        "size",
    )

    def __init__(
        self,
        size: int,
        free: int,
        orphans: "Sequence[Orphan]" = (),
        held: "Sequence[Holding]" = (),
        removed: int = 0,
        removed_bytes: int = 0,
    ) -> None:
        self.size = size
        self.free = free
        self.orphans = orphans
        self.held = held
        self.removed = removed
        self.removed_bytes = removed_bytes
        self.cleaned = self.cleaned_bytes = 0
        self.given_back = self.given_back_later = 0
        self.cleaner = self.limits = ""
        self.returns: Sequence[Tuple[Any, ...]] = ()
        self.refusal = ""


class Gauge:
    """Measures for the metrics, without delaying the watcher; for one thread."""

    def __init__(
        self,
        directory: shmfs.ShmDirectory,
        journal: Journal,
        proc_root: str = "/proc",
        work: "Optional[Cleaning]" = None,
    ) -> None:
        self._directory = directory
        self._work = work
        self._journal = journal
        self._proc_root = proc_root
        self._held: List[Holding] = []
        self._held_up = 0
        self._hidden = 0
        self._surveyed = -SURVEY

    def measure(self, living: "List[str]", thorough: bool) -> State:
        """The current State; `thorough`: search for held memory again.  Raises OSError."""
        self._directory.follow()
        usage = self._directory.usage()
        if thorough or self._held_up != self._journal.held_up:
            self._held_up = self._journal.held_up
            self._held = self._find_held(usage)
        state = State(usage.size, usage.free, self._journal.orphans(living), self._held)
        state.refusal = self._journal.refusal
        if self._work is not None:
            # The counts of the plugin's own engine, or of the leader that it follows.
            counts = self._work.watcher.counts
            state.removed, state.removed_bytes = counts.removed, counts.bytes
            state.cleaned, state.cleaned_bytes = counts.cleaned, counts.cleaned_bytes
            state.given_back, state.given_back_later = counts.given_back, counts.given_back_later
            state.returns = self._work.watcher.returns()
            state.cleaner, state.limits = self._work.leader, self._work.limits
        return state

    def _find_held(self, usage: shmfs.Usage) -> "List[Holding]":
        """Held files, by an inspection of all processes; none if visible files account for all used memory.

        If the inspection takes too long, the last result.
        """
        hidden = usage.size - usage.free - self._visible()
        now = time.monotonic()
        if usage.size and (hidden <= 0 or (hidden == self._hidden and now - self._surveyed < SURVEY)):
            return self._held if hidden > 0 else []
        self._hidden, self._surveyed = hidden, now
        try:
            survey = asking.survey(self._directory.root, self._proc_root)
        except OSError as error:
            if error.errno not in (errno.ETIMEDOUT, errno.EIO):
                raise
            return self._held
        unlinked = [file for file in survey.unlinked if file.size]
        people = [[holder.pid for holder in file.holders[:3]] for file in unlinked]
        who = asking.describe([pid for pids in people for pid in pids])
        return [
            Holding(file.name, file.size, [(pid, who[pid][1]) for pid in pids])
            for file, pids in zip(unlinked, people)
        ]

    def _visible(self) -> int:
        """Bytes of all files with a name; -1 if there are more than held.FILES."""
        found: Dict[int, int] = {}
        whole = held.add_files([self._directory.root], found, held.FILES)
        return sum(found.values()) if whole else -1


class Metrics:
    """Makes readings from states, by the thresholds in force.

    listeners  called after a threshold was set, in any thread; must be quick and not raise
    """

    def __init__(self, initial: "Dict[str, thresholds.Threshold]") -> None:
        self.listeners: List[Callable[[], None]] = []
        self._thresholds = {name: initial.get(name, thresholds.OFF) for name in (FREE, ORPHANED, HELD)}
        self._alarms = {name: thresholds.Alarm(below=name == FREE) for name in self._thresholds}

    def threshold(self, name: str) -> thresholds.Threshold:
        """The threshold in force."""
        return self._thresholds[name]

    def set_threshold(self, name: str, text: str) -> str:
        """Set a threshold; returns its text as shown.  Raises ValueError with a sentence if it is bad."""
        if name in COUNTS:
            raise ValueError(f"{name} is a count, and never busy")
        if name not in self._thresholds:
            raise ValueError("there is no such metric: there are {}".format(", ".join(NAMES)))
        threshold = thresholds.parse(text)
        self._thresholds[name] = threshold
        for listener in list(self.listeners):
            listener()
        return threshold.text

    def read(self, state: State) -> "List[Reading]":
        """The readings of all metrics; for one thread."""
        return [
            self._free(state),
            self._orphaned(state),
            self._held(state),
            _removed(state),
            _reclaimed(state),
        ]

    def _judge(self, name: str, level: int, size: int) -> "Tuple[bool, str]":
        threshold = self._thresholds[name]
        return self._alarms[name].judge(level, threshold.limit(size), size), threshold.text

    def _free(self, state: State) -> Reading:
        if not state.size:
            text = self._thresholds[FREE].text
            reason = "The shared memory file system has no size limit, so the free amount is unknown"
            return Reading(FREE, False, reason, text, "unlimited")
        busy, text = self._judge(FREE, state.free, state.size)
        free, size = megabytes(state.free), megabytes(state.size)
        if busy:
            reason = f"Shared memory is low: only {free} of {size} are free"
        else:
            reason = f"{free} of {size} of shared memory are free"
        return Reading(FREE, busy, reason, text, free)

    def _orphaned(self, state: State) -> Reading:
        total = sum(orphan.bytes for orphan in state.orphans)
        busy, text = self._judge(ORPHANED, total, state.size)
        if state.orphans:
            which = _listed([_orphan_words(orphan) for orphan in state.orphans])
            reason = f"{_heaps(len(state.orphans))} of dead processes could not be removed: {which}"
        else:
            reason = "No heap of a dead process is left behind"
        return Reading(ORPHANED, busy, reason, text, megabytes(total))

    def _held(self, state: State) -> Reading:
        total = sum(file.bytes for file in state.held)
        busy, text = self._judge(HELD, total, state.size)
        if state.held:
            which = _listed([_holding_words(file) for file in state.held])
            reason = f"Memory is unlinked but comes back only when its holders exit: {which}"
        else:
            reason = "No process holds unlinked shared memory"
        return Reading(HELD, busy, reason, text, megabytes(total))


def _removed(state: State) -> Reading:
    total = megabytes(state.removed_bytes)
    reason = f"{_heaps(state.removed)} of dead processes removed since the plugin started, {total} in all"
    if state.refusal and not state.cleaner:
        reason = f"NOTHING IS CLEANED: {state.refusal}"
    if state.cleaned:
        reason += f"; others removed {state.cleaned}, {megabytes(state.cleaned_bytes)} in all"
    if state.limits:
        reason += f"; {plain(state.limits, 200)}"
    elif state.cleaner:
        reason += f"; the device {plain(state.cleaner, 80)} removes them"
    return Reading(REMOVED, False, reason, thresholds.OFF.text, str(state.removed))


def _reclaimed(state: State) -> Reading:
    total = megabytes(state.given_back + state.given_back_later)
    if not state.given_back and not state.given_back_later and not state.returns:
        reason = "No removed heap had free memory to give back while processes are attached"
    else:
        reason = (
            f"{megabytes(state.given_back)} of removed heaps came back at once although processes are"
            f" attached, {megabytes(state.given_back_later)} as they let go"
        )
    if state.returns:
        reason += f"; still in use: {_listed([_return_words(each) for each in state.returns])}"
    return Reading(RECLAIMED, False, reason, thresholds.OFF.text, total)


def _return_words(figures: "Tuple[Any, ...]") -> str:
    name, _, _, _, in_use, left, attached = figures
    text = f"{megabytes(in_use)} of {plain(name, 80)} by {_people(attached)}"
    return text + f", which takes {megabytes(left)}"


def _heaps(count: int) -> str:
    return "1 heap" if count == 1 else f"{count} heaps"


def _listed(words: "List[str]") -> str:
    more = f"; and {len(words) - 3} more" if len(words) > 3 else ""
    return "; ".join(words[:3]) + more


def _orphan_words(orphan: Orphan) -> str:
    user = plain(asking.names.user(orphan.uid), 40)
    text = f"{plain(orphan.name, 80)} ({megabytes(orphan.bytes)}) of user {user}, {orphan.reason}"
    if orphan.attached:
        text += f", held by {_people(orphan.attached)}"
    return text


def _holding_words(file: Holding) -> str:
    name = plain(file.name, 80) or "a file"
    return f"{name} ({megabytes(file.bytes)}) held by {_people(file.holders)}"


def _people(holders: "Sequence[Tuple[int, str]]") -> str:
    shown = ", ".join(f"process {pid} ({plain(command, 60)})" for pid, command in holders[:3])
    more = f" and {len(holders) - 3} more" if len(holders) > 3 else ""
    return (shown or "a process that cannot be seen") + more
