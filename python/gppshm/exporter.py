"""The metrics of one folder of heaps for Prometheus: what a scan finds, and what a watcher has done.

Names and units are as Prometheus wants them (bytes, seconds, `_total`); no label has more than a handful of
values, ever.  The only module that knows how prometheus_client makes metrics.
"""

import threading
import time

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from gppshm import creator, events, held, locks, shmfs, snapshot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Dict, Iterator, Optional

    from prometheus_client.core import Metric

PREFIX = "redhawk_shm_"
PERIOD = 1.0
"""Seconds between scans at least; who asks more often gets the last one."""
SHARE = 5
"""Nor does a scan follow another before so many times its duration: a fifth of a core is the most."""

UNREADABLE = "unreadable"
STATES = {
    creator.ALIVE: "alive",
    creator.ORPHANED: "orphaned",
    creator.ATTACHED: "orphaned_attached",
    creator.UNKNOWN: "unknown",
}
"""The values of the label `state`; and UNREADABLE, of what is named like a heap and could not be judged."""

FOUND = (
    ("size_bytes", "Size of the file system that the heaps lie in; 0 if it has no limit."),
    ("free_bytes", "Free space of the file system that the heaps lie in."),
    ("heap_bytes", "Memory that heaps take."),
    (
        "orphaned_bytes",
        "Memory of heaps whose creator is dead and that have not been removed; part of heap_bytes.",
    ),
    ("held_bytes", "Memory of files that were unlinked, but that processes still map or have open."),
    ("reserved_bytes", "Memory granted to waveforms by the GppShmPlugin device, used by them or not."),
    ("locks_held_by_dead", "Allocator locks in heaps whose holder died: whoever needs one waits for ever."),
)
"""Metrics that are attributes of a Scan, by the same name."""


class Scan:
    """What was found in one look at everything, in bytes; `heaps` counts them by the label `state`."""

    def __init__(self, root: str, reserved: int, proc_root: str = "/proc") -> None:
        """OSError if the directory or /proc cannot be read."""
        self.heaps: Dict[str, int] = dict.fromkeys((*STATES.values(), UNREADABLE), 0)
        self.heap_bytes = self.orphaned_bytes = 0
        self.reserved_bytes = reserved
        # Opened anew each time: another file system may have been mounted there.
        with shmfs.ShmDirectory(root, proc_root) as directory:
            shot = snapshot.take(directory, proc_root=proc_root)
            all_locks = locks.examine(directory, shot.entries, proc_root)
            unlinked = held.survey(directory, proc_root).unlinked
        self.size_bytes, self.free_bytes = shot.usage.size, shot.usage.free
        self.held_bytes = sum(file.size for file in unlinked)
        self.locks_held_by_dead = sum(lock.state is locks.DEAD for found in all_locks for lock in found)
        for entry in shot.entries:
            self._add(entry)

    def _add(self, entry: snapshot.Entry) -> None:
        seen, verdict = entry.sighting, entry.verdict
        if verdict is None and not (seen.kind is shmfs.UNREADABLE and seen.name_pid):
            return
        size = seen.status.st_blocks * 512
        self.heaps[STATES[verdict.state] if verdict is not None else UNREADABLE] += 1
        self.heap_bytes += size
        if verdict is not None and verdict.state in creator.ORPHANS:
            self.orphaned_bytes += size


class Collector:
    """Gives prometheus_client the metrics when it asks, in whatever thread: a scan is made then.

    counts      what the watcher of `root` has done so far
    reserved    bytes granted to waveforms now
    on_trouble  called with a sentence when scans fail; once until one succeeds
    """

    def __init__(
        self,
        root: str,
        counts: events.Counts,
        reserved: "Callable[[], int]" = lambda: 0,
        on_trouble: "Callable[[str], None]" = lambda sentence: None,
    ) -> None:
        self._root = root
        self._counts = counts
        self._reserved = reserved
        self._on_trouble = on_trouble
        self._one_at_a_time = threading.Lock()
        self._next = 0.0
        self._scan: Optional[Scan] = None
        self._took = 0.0
        self._succeeded = 0.0
        self._failing = False

    def collect(self) -> "Iterator[Metric]":
        with self._one_at_a_time:
            if time.monotonic() >= self._next:
                self._look()
            scan, took, succeeded = self._scan, self._took, self._succeeded
        if scan is not None:
            for name, meaning in FOUND:
                yield _gauge(name, meaning, getattr(scan, name))
            heaps = GaugeMetricFamily(
                PREFIX + "heaps", "Heaps, by what is known of their creator.", labels=["state"]
            )
            for state, count in scan.heaps.items():
                heaps.add_metric([state], count)
            yield heaps
        yield _gauge(
            "scan_success", "Whether the last scan succeeded: 1, or 0 and no figures of it.", scan is not None
        )
        yield _gauge("scan_seconds", "How long the last scan took.", took)
        yield _gauge(
            "last_scan_timestamp_seconds",
            "When the last successful scan ended, Unix time; 0: never.",
            succeeded,
        )
        counts = self._counts
        yield _counter("removals", "Heaps of dead processes that were removed.", counts.removed)
        yield _counter("removed_bytes", "Memory that these heaps took.", counts.bytes)
        yield _counter(
            "removals_by_others",
            "Heaps of dead processes that others removed first: a GPP, another watcher, a person.",
            counts.cleaned,
        )
        yield _counter("removals_by_others_bytes", "Memory that these heaps took.", counts.cleaned_bytes)
        yield from _returns(counts)
        yield _counter("fifo_removals", "FIFOs of dead processes that were removed.", counts.fifos)
        yield _counter(
            "failures",
            "Heaps that could not be opened, and orphans that could not be removed.",
            counts.failures,
        )
        yield _latencies(counts.latencies)

    def _look(self) -> None:
        started = time.monotonic()
        try:
            self._scan = Scan(self._root, self._reserved())
            self._succeeded = time.time()
            self._failing = False
        except Exception as error:  # the directory is gone, no descriptor is left; it may pass
            self._scan = None
            if not self._failing:
                self._failing = True
                self._on_trouble(f"no metrics: the heaps could not be looked at ({error})")
        self._took = time.monotonic() - started
        self._next = started + max(PERIOD, SHARE * self._took)


def _gauge(name: str, meaning: str, value: float) -> "Metric":
    return GaugeMetricFamily(PREFIX + name, meaning, float(value))


def _counter(name: str, meaning: str, value: float) -> "Metric":
    return CounterMetricFamily(PREFIX + name, meaning, float(value))


def _returns(counts: events.Counts) -> "Iterator[Metric]":
    given_back = CounterMetricFamily(
        PREFIX + "given_back_bytes",
        "Memory of removed heaps that came back although processes are attached.",
        labels=["when"],
    )
    given_back.add_metric(["at_once"], counts.given_back)
    given_back.add_metric(["later"], counts.given_back_later)
    yield given_back
    yield _gauge(
        "returning_heaps",
        "Removed heaps that processes are attached to, and that give back what these let go of.",
        counts.returning,
    )
    yield _gauge("returning_in_use_bytes", "Memory of these heaps that is still in use.", counts.in_use)


def _latencies(latencies: events.Latencies) -> "Metric":
    total, buckets = 0, []
    limits = [str(limit) for limit in latencies.LIMITS] + ["+Inf"]
    for limit, count in zip(limits, list(latencies.counts)):
        total += count
        buckets.append((limit, total))
    return HistogramMetricFamily(
        PREFIX + "death_to_unlink_seconds",
        "From the kernel's word of a death to the heap's unlinking; removals at a rescan are not in it.",
        buckets=buckets,
        sum_value=latencies.seconds,
    )
