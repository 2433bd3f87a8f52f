"""Logs the watcher's events, and keeps them for the metrics and the device's properties."""

import logging
import os
from collections import deque

from gppshm import creator, events, sparing
from gppshm.redhawk import logs
from gppshm.redhawk.text import megabytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Deque, Dict, List, Optional

_log = logs.logger("GppShmPlugin.watch")

RECENT = 50
"""Number of removals that are kept individually."""

_LEVELS = {
    events.REMOVED: logging.INFO,
    events.WOULD_REMOVE: logging.INFO,
    events.FAILED: logging.ERROR,
    events.UNPROVEN: logging.INFO,
    events.CLEANED: logging.INFO,
    events.RETURNED: logging.INFO,
    events.UNLINKED: logging.WARNING,
    events.TROUBLE: logging.WARNING,
}


class _Line:
    """An event as a log line; formatted when it is written."""

    __slots__ = ("_event", "_note")

    def __init__(self, event: events.Event, note: str) -> None:
        self._event = event
        self._note = note

    def __str__(self) -> str:
        return self._text() + (f" ({self._note})" if self._note else "")

    def _text(self) -> str:
        event = self._event
        if not event.name:
            return event.reason
        text = f"{event.kind}: {event.name} ({megabytes(event.bytes)}, inode {event.inode})"
        if event.creator:
            text += f" of process {event.creator} ({event.command}, user {event.user})"
        text += f": {event.reason}"
        if event.kind is events.REMOVED:
            text += f"; evidence: {event.evidence}, {event.latency * 1000:.1f} ms after {event.trigger}"
        if event.attached:
            holders = ", ".join(f"{pid} ({command})" for pid, command in event.attached)
            if event.given_back or event.given_back_later:
                text += (
                    f"; {megabytes(event.given_back)} came back at once,"
                    f" {megabytes(event.given_back_later)} later, {megabytes(event.in_use)} are in use;"
                    f" {megabytes(event.left)} stay until these exit: {holders}"
                )
            else:
                text += f"; its memory stays until these exit: {holders}"
        if event.not_given_back:
            text += f"; nothing is given back: {event.not_given_back}"
        return text


class Orphan:
    """An orphaned heap that still exists, and why."""

    __slots__ = ("attached", "bytes", "event", "file_id", "name", "reason", "uid")

    def __init__(self, event: events.Event) -> None:
        self.event = event
        self.name = event.name
        self.file_id = (event.device, event.inode)
        self.reason = event.reason
        self.attached = event.attached
        self.bytes = event.bytes
        self.uid = -1


class Journal:
    """Receives the events of a watcher, in its thread; read by other threads.

    removed, removed_bytes  heaps removed so far, and their memory; fifos: FIFOs removed so far
    cleaned, cleaned_bytes  heaps of dead creators that other processes unlinked first
    failures   files so far that could not be opened or unlinked
    held_up    number of events after which unlinked memory may still be held
    recent     the last RECENT removals of heaps, by any process, oldest first
    reported   the removal that was reported last; None before the first
    gone       number of removals, by any process
    quiet      do not log what would be removed
    refusal    why nothing is cleaned; else ""
    listeners  called after each event, in the watcher's thread; must be quick and not raise
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.removed = 0
        self.removed_bytes = 0
        self.cleaned = 0
        self.cleaned_bytes = 0
        self.fifos = 0
        self.failures = 0
        self.held_up = 0
        self.quiet = False
        self.refusal = ""
        self.recent: Deque[events.Event] = deque(maxlen=RECENT)
        self.reported: Optional[events.Event] = None
        self._orphans: Dict[str, Orphan] = {}
        self._sparing = sparing.Sparing()
        self.listeners: List[Callable[[], None]] = []

    def _keep(self, removal: events.Event) -> None:
        """Add it to `recent`.  It may be reported after newer ones: its peers were found later."""
        self.reported = removal
        kept = [*self.recent, removal]
        if self.recent and removal.time < self.recent[-1].time:
            kept.sort(key=lambda event: event.time)
        self.recent = deque(kept, maxlen=RECENT)

    def on_event(self, event: events.Event, log: bool = True) -> None:
        note: Optional[str] = ""
        if event.kind in events.OF_WHAT_STAYS:
            note = self._sparing.note((event.kind, event.uid))
        if log and note is not None and (event.kind is not events.WOULD_REMOVE or not self.quiet):
            level = _LEVELS.get(event.kind, logging.INFO)
            _log.log(level, "%s", _Line(event, note), extra={logs.SPARED: True})
        if event.kind is events.REMOVED:
            self._orphans.pop(event.name, None)
            if event.name.startswith("fifo-"):
                self.fifos += 1
            else:
                self._keep(event)
                self.removed += 1
                self.removed_bytes += event.bytes
                self.held_up += bool(event.attached)
        elif event.kind is events.CLEANED:
            self._orphans.pop(event.name, None)
            self._keep(event)
            self.cleaned += 1
            self.cleaned_bytes += event.bytes
            self.held_up += bool(event.attached)
        elif event.kind is events.RETURNED:
            self._note_return(event)
            self.held_up += 1
        elif event.kind in (events.FAILED, events.WOULD_REMOVE) and event.evidence != creator.NONE:
            self._orphans[event.name] = Orphan(event)
        elif event.kind is events.UNLINKED:
            self.held_up += 1
        self.failures += event.kind is events.FAILED
        for listener in self.listeners:
            listener()

    def standing(self) -> "List[events.Event]":
        """The events of orphans that may still exist."""
        return [orphan.event for orphan in list(self._orphans.values())]

    @property
    def gone(self) -> int:
        return self.removed + self.cleaned

    def _note_return(self, event: events.Event) -> None:
        """Update the entry of a removal with the memory given back since."""
        for removal in self.recent:
            if (removal.device, removal.inode) == (event.device, event.inode) and removal.name == event.name:
                for name in events.RETURNS:
                    setattr(removal, name, getattr(event, name))

    def orphans(self, living: "List[str]") -> "List[Orphan]":
        """Orphans that could not be removed and still exist; `living`: names of heaps whose creators live."""
        found = []
        for name, orphan in list(self._orphans.items()):
            try:
                status = os.stat(os.path.join(self.root, name), follow_symlinks=False)
            except OSError:
                status = None
            if status is None or (status.st_dev, status.st_ino) != orphan.file_id:
                # The watcher's thread may have put a new heap of this name there.
                if self._orphans.get(name) is orphan:
                    self._orphans.pop(name, None)
                continue
            if name in living:
                continue  # it was created again, or the event of the death came before `living` was updated
            orphan.bytes, orphan.uid = status.st_blocks * 512, status.st_uid
            found.append(orphan)
        return sorted(found, key=lambda orphan: (-orphan.bytes, orphan.name))
