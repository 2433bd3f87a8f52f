"""The scanning thread: every second, and at once when a process dies.  It removes nothing.

A watcher in dry-run mode reports deaths and knows living creators, so most scans need not read /proc again.
"""

import os
import threading
import time
from collections import deque

from gppshm import asking, creator, events, held, lease, shmfs, snapshot, watch
from gppshm.cli import text
from gppshm.top.departures import Departures
from gppshm.top.state import Removal, Room, Row, State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Deque, Dict, List, Optional, Tuple

INTERVAL = 1.0
SHARE = 8
"""Pause between scans, as a multiple of the last one's duration."""
SOONEST = 0.1
"""Seconds between scans that deaths trigger."""
SURVEY_INTERVAL, SURVEY_SHARE = 2.0, 25
"""The same for scans of all processes for holders, which cost more and change less."""
HISTORY = 3600
REMOVALS = 200
REST = 0.2
"""Seconds of pause after an internal error."""


class Scanner(threading.Thread):
    """Scans `root`; `state` is the newest result, and `on_change` is called after each scan, in this thread.

    OSError if the directory cannot be opened.
    """

    def __init__(
        self, root: str = shmfs.DEFAULT_ROOT, on_change: "Callable[[], None]" = lambda: None
    ) -> None:
        super().__init__(name="scanner", daemon=True)
        watch.raise_descriptor_limit()
        self._on_change = on_change
        self._watcher = watch.Watcher(root, self._on_event, dry_run=True)
        self.departures = Departures(root)
        self._directory = self._watcher.directory
        self.state: Optional[State] = None
        self._rows: Dict[str, Row] = {}
        self._verdicts: Dict[str, Tuple[shmfs.FileId, creator.Verdict]] = {}
        self._survey: Optional[held.Survey] = None
        self._history: Deque[Tuple[float, int]] = deque(maxlen=HISTORY)
        self._removals: Deque[Removal] = deque(maxlen=REMOVALS)
        self._fault = ""
        self._changed = False
        self._stopped = False

    @property
    def passed_over(self) -> "Tuple[int, ...]":
        return self._watcher.passed_over

    def scan_soon(self) -> None:
        """Scan soon; from any thread."""
        self._changed = True
        self._watcher.wake()

    def stop(self) -> None:
        self._stopped = True
        self._watcher.stop()

    def scan_once(self) -> State:
        """Scan everything once, instead of running the thread; OSError if the directory cannot be read."""
        self._watcher.sweep()
        self._survey_processes()
        return self._scan()

    def run(self) -> None:
        next_survey = 0.0
        self._guarded(self._watcher.sweep)
        while not self._stopped:
            started = time.monotonic()
            self._changed = False
            self._guarded(self._publish)
            scanned = time.monotonic()
            if scanned >= next_survey:
                self._guarded(self._survey_processes)
                took = time.monotonic() - scanned
                first, next_survey = not next_survey, scanned + max(SURVEY_INTERVAL, SURVEY_SHARE * took)
                self._changed = self._changed or first
            took = scanned - started
            self._wait(started + max(SOONEST, SHARE * took), started + max(INTERVAL, SHARE * took))

    def close(self) -> None:
        self.departures.close()
        self._watcher.close()

    def _wait(self, soonest: float, latest: float) -> None:
        """Run the watcher until the next scan is due."""
        while not self._stopped:
            left = (soonest if self._changed else latest) - time.monotonic()
            if left <= 0:
                return
            self._guarded(lambda: self._watcher.step(left))  # noqa: B023

    def _on_event(self, event: events.Event) -> None:
        self._changed = True

    def _guarded(self, act: "Callable[[], object]") -> None:
        """Errors are shown as long as they last, and stop nothing."""
        try:
            act()
        except Exception as error:
            self._fault = f"internal error: {type(error).__name__}: {error}; what is shown may be old"
            if self.state is not None:
                self.state.troubles = (*self._troubles(), self._fault)
            self._on_change()
            time.sleep(REST)

    def _publish(self) -> None:
        try:
            self.state = self._scan()
        except OSError as error:
            self.state = State(
                self._watcher.root,
                Room(0, 0, 0, 0, False),
                [],
                troubles=[f"cannot be read: {error.strerror}"],
            )
        self._fault = ""
        self._on_change()

    # -- one scan --------------------------------------------------------------------------------------------

    def _scan(self) -> State:
        self._follow_root()
        self.departures.listen()
        shot = snapshot.take(self._directory, brief=True, known=self._known_verdict, judge=asking.judge)
        rows = {}
        self._verdicts = {}
        for entry in shot.entries:
            if entry.is_heap:
                rows[entry.sighting.name] = self._row(entry)
                if entry.verdict is not None:
                    self._verdicts[entry.sighting.name] = entry.sighting.file_id, entry.verdict
        self._find_removals(rows)
        self._rows = rows
        room = self._room(shot.usage, rows)
        self._history.append((time.monotonic(), room.used))
        troubles = self._troubles()
        if shot.usage.inodes_are_scarce:
            troubles.insert(0, f"inodes: {text.scarce_inodes(shot.usage)}")
        return State(shot.root, room, list(rows.values()), self._history, self._removals, troubles)

    def _follow_root(self) -> None:
        """Switch to the directory that is at the path now, with the watcher."""
        try:
            there, here = os.stat(self._watcher.root), os.fstat(self._watcher.directory.fd)
            moved = (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino)
        except OSError:
            moved = True
        if moved:
            self._watcher.scan_again()
        if self._directory is not self._watcher.directory:
            self._directory = self._watcher.directory
            self.departures.close()
            self.departures = Departures(self._watcher.root)

    def _known_verdict(self, seen: shmfs.Sighting) -> "Optional[creator.Verdict]":
        """The last verdict on a heap whose creator lives, if the watcher would report its death."""
        file_id, verdict = self._verdicts.get(seen.name, (None, None))
        if verdict is None or file_id != seen.file_id or verdict.state is not creator.ALIVE:
            return None
        if seen.answer is lease.GRANTED or not verdict.creator:
            return None
        return verdict if self._watcher.lives(seen) == verdict.creator else None

    def _row(self, entry: snapshot.Entry) -> Row:
        seen, verdict = entry.sighting, entry.verdict
        attached = None
        if verdict is not None and verdict.state in creator.ORPHANS:
            attached = len(verdict.attached)
        elif self._survey is not None:
            living = verdict.creator if verdict is not None else 0
            holders = self._survey.holders.get(seen.file_id, ())
            attached = sum([holder.pid != living for holder in holders])
        return Row(entry, self._watcher.description(seen.name, seen.file_id), attached)

    def _room(self, usage: shmfs.Usage, rows: "Dict[str, Row]") -> Room:
        heaps = sum([row.allocated for row in rows.values()])
        survey = self._survey
        unlinked = sum([file.size for file in survey.unlinked]) if survey is not None else 0
        return Room(usage.size, usage.free, heaps, unlinked, survey is None or bool(survey.unseen))

    def _find_removals(self, rows: "Dict[str, Row]") -> None:
        self.departures.still_there(rows, [name for name, row in rows.items() if row.state is creator.ALIVE])
        for removal in self._removals:
            self._find_what_is_left(removal)
            if not removal.final:
                self.departures.explain(removal)
        for name, row in self._rows.items():
            if name not in rows or rows[name].file_id != row.file_id:
                removal = Removal(row)
                self._find_what_is_left(removal)
                self.departures.explain(removal)
                self._removals.appendleft(removal)
        open_questions = [removal.row.file for removal in self._removals if not removal.final]
        self.departures.keep([*rows, *open_questions])

    def _find_what_is_left(self, removal: Removal) -> None:
        removal.left = removal.holders = 0
        for file in self._survey.unlinked if self._survey is not None else ():
            if (file.device, file.inode) == removal.row.file_id:
                removal.left, removal.holders = file.size, len(file.holders)

    def _survey_processes(self) -> None:
        try:
            self._survey = asking.survey(self._directory.root)
        except OSError:
            self._survey = None
            return
        holders = self._survey.holders
        # A living creator maps its heap; otherwise judge again.
        for name, (file_id, verdict) in list(self._verdicts.items()):
            if verdict.creator and verdict.creator not in [
                h.pid for h in holders.get(file_id, ()) if h.mapped
            ]:
                del self._verdicts[name]

    def _troubles(self) -> "List[str]":
        troubles = self._watcher.troubles()
        if self._survey is None:
            troubles.append("the holders are not known yet: all processes have to be scanned")
        return troubles
