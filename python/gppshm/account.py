"""Turns actions of the watcher into events and counts, and keeps the list of present troubles."""

import time

from gppshm import creator, fifos, reaper, shmfs
from gppshm.events import (
    CLEANED,
    FAILED,
    REMOVED,
    RETURNED,
    RETURNS,
    TROUBLE,
    UNLINKED,
    WOULD_REMOVE,
    Counts,
    Event,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Set, Tuple

    from gppshm import events
    from gppshm.known import Known
    from gppshm.reporting import Reporting

_FIFO_KINDS = {
    str(reaper.REMOVED): REMOVED,
    str(reaper.WOULD_REMOVE): WOULD_REMOVE,
    str(reaper.FAILED): FAILED,
}


class Account:
    """Counts actions and reports them as events.

    counts    counts since the start
    troubles  present troubles, one sentence each
    """

    def __init__(self, reporting: "Reporting") -> None:
        self.counts = Counts()
        self.troubles: Dict[str, str] = {}
        self._reporting = reporting
        self._reported_fifos: Set[Tuple[str, str]] = set()

    def removed(self, outcome: reaper.Outcome, heap: "Known", pidfd: int, returns: bool = False) -> Event:
        """Report an unlinked heap, as soon as its peers are known.  Takes over `pidfd`.

        returns  also wait for the memory that is given back at once; see Reporting.first_returned
        """
        event = _event(REMOVED, outcome, heap)
        self.counts.removed += 1
        self.counts.bytes += event.bytes
        if event.trigger in ("close", "pidfd"):
            self.counts.latencies.add(event.latency)
        attached = heap.file_id if event.evidence != creator.LEASE else None
        self._reporting.report(event, _uid(heap), attached, pidfd, returns)
        return event

    def returned(self, removal: Event) -> None:
        """Report that more memory of a removed heap has come back than its `removed` event says."""
        event = Event(RETURNED, "its peers released it", removal.name)
        for name in _OF_THE_REMOVAL:
            setattr(event, name, getattr(removal, name))
        if removal.not_given_back:
            event.reason = removal.not_given_back
        elif not removal.left:
            event.reason = "its last peer has exited"
        self._reporting.report(event)

    def cleaned(self, name: str, heap: "Known", pidfd: int, returns: bool = False) -> Event:
        """Report that another process unlinked the heap of a dead creator; arguments as for `removed`."""
        event = _event_of(
            CLEANED, "its creator died and left it; another process unlinked it first", name, heap
        )
        event.trigger, event.latency = heap.trigger, max(0.0, time.monotonic() - heap.since)
        self.counts.cleaned += 1
        self.counts.cleaned_bytes += heap.bytes
        self._reporting.report(event, _uid(heap), heap.file_id, pidfd, returns)
        return event

    def lives_on(self, name: str, heap: "Known") -> None:
        """Report that another process unlinked the heap of a living creator."""
        heap.reported = (
            f"its creator, process {heap.creator}, lives and maps it; another process unlinked it"
            " (a forked child that exits, shmclean -f, systemd's RemoveIPC)"
        )
        self._reporting.report(_event_of(UNLINKED, heap.reported, name, heap), _uid(heap))

    def stays(self, kind: "events.Kind", outcome: reaper.Outcome, heap: "Known") -> None:
        """Report a heap that is kept, once per reason."""
        if heap.reported != outcome.reason:
            heap.reported = outcome.reason
            self.counts.failures += kind is FAILED
            attached = outcome.verdict is not None and outcome.verdict.state is creator.ATTACHED
            file_id = heap.file_id if attached else None
            self._reporting.report(_event(kind, outcome, heap), _uid(heap), file_id)

    def trouble(self, what: str, reason: str) -> None:
        """Report a lasting trouble, once until it is over."""
        if self.troubles.get(what) != reason:
            self.troubles[what] = reason
            self.news(reason)

    def mended(self, what: str) -> None:
        self.troubles.pop(what, None)

    def news(self, reason: str) -> None:
        """Report a trouble that is already over."""
        self._reporting.report(Event(TROUBLE, reason))

    def fifos(self, answer: "Any", root: str) -> None:
        """Count and report what the observer did about FIFOs; see fifos.reap_plain."""
        if isinstance(answer, str):
            self.trouble("fifos", f"{root} cannot be read: {answer}")
            return
        self.mended("fifos")
        before, self._reported_fifos = self._reported_fifos, set()
        for name, result, reason, file_id, uid, evidence in answer or ():
            kind = _FIFO_KINDS.get(result)
            if kind is None:
                continue
            if kind is REMOVED:
                self.counts.fifos += 1
            else:
                self._reported_fifos.add((name, reason))
                if (name, reason) in before:
                    continue
                self.counts.failures += kind is FAILED
            event = Event(kind, reason, name)
            event.trigger, event.evidence = "rescan", evidence
            event.device, event.inode = file_id
            event.creator, event.uid = fifos.pid_of_name(name), uid
            self._reporting.report(event, uid)


_OF_THE_REMOVAL = (
    "device",
    "inode",
    "bytes",
    "uid",
    "creator",
    "command",
    "arguments",
    "user",
    "attached",
    *RETURNS,
)


def _event(kind: "events.Kind", outcome: reaper.Outcome, heap: "Known") -> Event:
    event = _event_of(kind, outcome.reason, outcome.name, heap)
    event.trigger = heap.trigger
    event.latency = max(0.0, outcome.done - heap.since)
    if outcome.sighting is not None:
        event.device, event.inode = outcome.sighting.file_id
        event.bytes = outcome.sighting.status.st_blocks * 512
        header = outcome.sighting.header
        if not event.creator and header is not None:
            event.creator = header.creator
    if outcome.verdict is not None:
        event.evidence = str(outcome.verdict.evidence)
    return event


def _event_of(kind: "events.Kind", reason: str, name: str, heap: "Known") -> Event:
    event = Event(kind, reason, name)
    event.device, event.inode = heap.file_id
    event.bytes, event.uid = heap.bytes, heap.uid
    event.creator = heap.creator or shmfs.pid_of_name(name)
    event.command, event.arguments = heap.description.command, heap.description.arguments
    return event


def _uid(heap: "Known") -> int:
    """Of the creator or, if that is unknown, of the file."""
    return heap.description.uid if heap.description.uid >= 0 else heap.uid
