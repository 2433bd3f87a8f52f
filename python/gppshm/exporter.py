"""The metrics of one directory of heaps for Prometheus: the result of a scan, and the watcher's counts.

Names and units follow Prometheus' conventions (bytes, seconds, `_total`).  No label has more than a handful
of values.  Only this module makes metrics of prometheus_client.
"""

import errno
import os
import resource
import threading
import time

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from gppshm import asking, events

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Dict, Iterator, List, Optional

    from prometheus_client.core import Metric

PREFIX = "redhawk_shm_"
PERIOD = 1.0
"""Seconds between scans, at least; requests in between get the last result."""
SHARE = 5
"""Pause between scans, as a multiple of the last one's duration: scans take at most a fifth of a core."""

PATIENCE = 5.0
"""Seconds that a request waits for a scan; Prometheus waits 10."""
HANGS = 30.0
"""Seconds after which a scan is reported as hanging, and requests stop waiting for it."""
GIVEN_UP = 60.0
"""Seconds after which a scan is given up."""
RESERVED = 64
"""Descriptors reserved for cleaning; at most a quarter of the limit."""

FOUND = (
    ("size_bytes", "Size of the file system that the heaps lie in; 0 if it has no limit."),
    ("free_bytes", "Free space of the file system that the heaps lie in."),
    ("inodes", "Files that the file system can hold; 0 if it has no limit."),
    ("free_inodes", "Files that the file system can still hold."),
    ("heap_bytes", "Memory that heaps take."),
    (
        "orphaned_bytes",
        "Memory of heaps whose creator is dead and that have not been removed; part of heap_bytes.",
    ),
    ("held_bytes", "Memory of files that were unlinked, but that processes still map or have open."),
    ("reserved_bytes", "Memory granted to waveforms by the GppShmPlugin device, used by them or not."),
    ("locks_held_by_dead", "Allocator locks in heaps whose holder died: processes that need one hang."),
)
"""Metrics with the same names as attributes of a Scan."""


class Scan:
    """The result of one scan, in bytes; `heaps` counts heaps by the label `state`.

    OSError if the directory or /proc cannot be read, or the scan does not finish in time.
    """

    heaps: "Dict[str, int]"

    def __init__(self, root: str, reserved: int, proc_root: str = "/proc") -> None:
        self.reserved_bytes = reserved
        self.__dict__.update(
            asking.shared.call("gppshm.scan:scan", [root, proc_root], GIVEN_UP, asking.REPORTS)
        )


class NoScanYet(Exception):
    """No scan has finished yet: there are no figures."""

    def __init__(self) -> None:
        Exception.__init__(self, "no scan has finished yet")


class Collector:
    """Hands the metrics to prometheus_client, in any thread.

    Scans run in a thread of their own, one at a time.  While one hangs, requests get the last result.

    counts      the watcher's counts for `root`
    reserved    bytes granted to waveforms now
    on_trouble  called with a sentence when scans fail; once until one succeeds
    listeners   called when a scan has finished, in its thread
    """

    def __init__(
        self,
        root: str,
        counts: events.Counts,
        reserved: "Callable[[], int]" = lambda: 0,
        on_trouble: "Callable[[str], None]" = lambda sentence: None,
    ) -> None:
        self.listeners: List[Callable[[], None]] = []
        self._root = root
        self._counts = counts
        self._reserved = reserved
        self._on_trouble = on_trouble
        self._changed = threading.Condition()
        self._begun: Optional[float] = None
        self._next = 0.0
        self._ended = 0
        self._scan: Optional[Scan] = None
        self._took = 0.0
        self._succeeded = 0.0
        self._failing = self._hangs = False

    def ask(self) -> bool:
        """Start a scan if one is due; whether waiting for it makes sense.  Never waits."""
        with self._changed:
            now = time.monotonic()
            begin = self._begun is None and now >= self._next
            if begin:
                self._begun = now
            elif self._begun is None:
                return False
            hangs = now - (self._begun or now) > HANGS
            tell, self._hangs = hangs and not self._hangs, hangs
        if tell:
            self._on_trouble(f"the metrics are stale: a scan has taken more than {HANGS:g} s")
        if begin:
            try:
                threading.Thread(target=self._measure, name="scan", daemon=True).start()
            except RuntimeError as error:
                self._end(None, f"no metrics: {error}")
        return not hangs

    def wait(self) -> None:
        """Start a scan if one is due, and wait for it, up to PATIENCE."""
        ended = self._ended
        if self.ask():
            with self._changed:
                self._changed.wait_for(lambda: self._ended != ended, PATIENCE)

    def collect(self) -> "Iterator[Metric]":
        """The metrics, of a new scan if one is due."""
        self.wait()
        return self.present()

    def present(self) -> "Iterator[Metric]":
        """The present metrics, or NoScanYet."""
        with self._changed:
            if not self._ended:
                raise NoScanYet()
            scan, took, succeeded = self._scan, self._took, self._succeeded
        return self._metrics(scan, took, succeeded)

    def _metrics(self, scan: "Optional[Scan]", took: float, succeeded: float) -> "Iterator[Metric]":
        if scan is not None:
            for name, meaning in FOUND:
                yield _gauge(name, meaning, getattr(scan, name))
            heaps = GaugeMetricFamily(
                PREFIX + "heaps", "Heaps, by the state of their creator.", labels=["state"]
            )
            for state, count in scan.heaps.items():
                heaps.add_metric([state], count)
            yield heaps
        yield _gauge(
            "scan_success",
            "1 if the last scan succeeded, 0 if it failed and has no figures.",
            scan is not None,
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

    def _measure(self) -> None:
        scan, failure = None, ""
        try:
            leave_descriptors()
            self._begun = time.monotonic()
            scan = Scan(self._root, self._reserved())
        except Exception as error:  # no directory or no descriptor; it may be temporary
            failure = f"no metrics: the scan failed ({error})"
        self._end(scan, failure)
        for listener in self.listeners:
            listener()

    def _end(self, scan: "Optional[Scan]", failure: str) -> None:
        """Store the result of a scan."""
        if failure and not self._failing:
            self._on_trouble(failure)
        with self._changed:
            now, begun = time.monotonic(), self._begun or 0.0
            self._scan, self._failing, self._hangs = scan, bool(failure), False
            if scan is not None:
                self._succeeded = time.time()
            self._took = now - begun
            self._next = begun + max(PERIOD, SHARE * self._took)
            self._begun = None
            self._ended += 1
            self._changed.notify_all()


def leave_descriptors() -> None:
    """OSError if few descriptors are left: cleaning needs them."""
    fd = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)  # the lowest number that is free
    os.close(fd)
    if is_reserved(fd):
        raise OSError(errno.EMFILE, "the last descriptors are reserved for cleaning")


def is_reserved(fd: int) -> bool:
    """Whether the descriptor is one of the last that this process may have."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft != resource.RLIM_INFINITY and fd >= soft - min(RESERVED, soft // 4)


def _gauge(name: str, meaning: str, value: float) -> "Metric":
    return GaugeMetricFamily(PREFIX + name, meaning, float(value))


def _counter(name: str, meaning: str, value: float) -> "Metric":
    return CounterMetricFamily(PREFIX + name, meaning, float(value))


def _returns(counts: events.Counts) -> "Iterator[Metric]":
    given_back = CounterMetricFamily(
        PREFIX + "given_back_bytes",
        "Memory of removed heaps that was given back while processes are attached.",
        labels=["when"],
    )
    given_back.add_metric(["at_once"], counts.given_back)
    given_back.add_metric(["later"], counts.given_back_later)
    yield given_back
    yield _gauge(
        "returning_heaps",
        "Removed heaps with attached processes, which give back what these release.",
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
        "Time from the kernel event of a death to the unlink; removals at a rescan are not included.",
        buckets=buckets,
        sum_value=latencies.seconds,
    )
