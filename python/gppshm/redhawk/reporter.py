"""Reports metrics to the GPP, in its own thread, so that a hanging GPP does not delay the cleaning."""

import os
import select
import threading
import time

from gppshm import kernel
from gppshm.redhawk import logs, metrics
from gppshm.redhawk.text import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Dict, List, Optional, Tuple

    from gppshm.redhawk.link import Link

_log = logs.logger("GppShmPlugin.gpp")

INTERVAL = 0.5
"""Seconds between messages, at least."""
GATHER = 0.25
"""Seconds to collect changes in the directory."""
SIGN_OF_LIFE = 10.0
"""Seconds after which all readings are sent again."""
PATIENCE = 10.0
"""Seconds that the plugin tries to register with an unreachable GPP."""
RETRIES = (0.5, 1.0, 2.0, 4.0)
"""Seconds between tries; then SIGN_OF_LIFE."""


class Reporter(threading.Thread):
    """Connects, registers once, and sends readings: at once, on change, and as a sign of life.

    make_link  makes the Link, in this thread; an exception becomes `failure`
    living     returns the names of heaps whose creator lives
    ready      set when the GPP has its first metrics, or the first try failed
    on_end     called when the thread ends by itself; `failure` is then a sentence with the reason
    """

    def __init__(
        self,
        make_link: "Callable[[Callable[[str, str], None]], Link]",
        gauge: metrics.Gauge,
        board: metrics.Metrics,
        living: "Callable[[], List[str]]",
        on_end: "Callable[[], None]",
    ) -> None:
        super().__init__(name="report", daemon=True)
        self.failure = ""
        self.registered = False
        self.ready = threading.Event()
        self._make_link = make_link
        self._gauge = gauge
        self._board = board
        board.listeners.append(self.wake)
        self._living = living
        self._on_end = on_end
        self._stopped = threading.Event()
        self._silent = ""
        self._failed = 0
        self._said: Dict[str, Tuple[str, bool, str, str, str]] = {}
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._read, select.POLLIN)
        self._inotify: Optional[kernel.Inotify] = None

    def wake(self) -> None:
        """Report a change that a metric may depend on.  Callable from any thread; never waits or raises."""
        try:
            os.write(self._write, b"\0")
        except BlockingIOError:
            pass

    def stop(self) -> None:
        self._stopped.set()
        self.wake()

    def watch(self, root: str) -> None:
        """Also wake up when files in `root` change; without inotify, every SIGN_OF_LIFE."""
        try:
            self._inotify = kernel.Inotify(
                root, kernel.IN_MODIFY | kernel.IN_DELETE | kernel.IN_CREATE | kernel.IN_MOVED_TO
            )
            self._poll.register(self._inotify.fd, select.POLLIN)
        except OSError as error:
            _log.info("no inotify for the metrics, they follow every %d s: %s", SIGN_OF_LIFE, error.strerror)

    def run(self) -> None:
        try:
            link = self._make_link(self._on_threshold)
            if self._register(link):
                self._report(link)
        except ImportError as error:
            self.failure = f"omniORB or its stubs cannot be imported: {plain(error)}"
        except Exception as error:
            self.failure = plain(error) or repr(error)
        self.ready.set()
        self._on_end()

    def _register(self, link: "Link") -> bool:
        """Register once; whether that succeeded.

        Raises Unreachable if the GPP cannot be reached for PATIENCE seconds.
        """
        from gppshm.redhawk.link import Unreachable

        end = time.monotonic() + PATIENCE
        while not self._stopped.is_set():
            try:
                link.register()
                _log.info("registered with the GPP as %s", plain(link.plugin_id))
                self.registered = True
                return True
            except Unreachable as error:
                if error.delivered:
                    # The GPP does not detect duplicates: what may have arrived is not repeated.
                    _log.warning("the GPP may not have got the registration: %s", error)
                    self.registered = True
                    return True
                if time.monotonic() > end:
                    raise
            self._stopped.wait(0.25)
        return False

    def _report(self, link: "Link") -> None:
        from gppshm.redhawk import messages
        from gppshm.redhawk.link import Unreachable

        last_full = last_thorough = -SIGN_OF_LIFE
        first = True
        earliest = 0.0
        while not self._stopped.is_set():
            now = time.monotonic()
            full = now - last_full >= SIGN_OF_LIFE
            # Inspecting all processes takes time: the first metrics are sent without it.
            thorough = not first and (full or now - last_thorough >= SIGN_OF_LIFE)
            first = False
            try:
                readings = self._readings(thorough)
                last_thorough = now if thorough else last_thorough
                due = [
                    reading for reading in readings if full or self._said.get(reading.name) != reading.key()
                ]
                if due:
                    stamp = time.time()
                    link.push([messages.metric(link.plugin_id, reading, stamp) for reading in due])
                    self._said.update((reading.name, reading.key()) for reading in due)
                    self._answered()
                    earliest = time.monotonic() + INTERVAL
                    if full:
                        last_full = now
            except Unreachable as error:
                earliest = time.monotonic() + self._unanswered(error)
            except OSError as error:
                _log.warning("the shared memory cannot be measured: %s", error.strerror)
                earliest = time.monotonic() + SIGN_OF_LIFE
            self.ready.set()
            self._wait(earliest, min(last_full, last_thorough) + SIGN_OF_LIFE)

    def _readings(self, thorough: bool) -> "List[metrics.Reading]":
        return self._board.read(self._gauge.measure(self._living(), thorough))

    def _answered(self) -> None:
        if self._silent:
            _log.info("the GPP answers again")
        self._silent, self._failed = "", 0

    def _unanswered(self, error: Exception) -> float:
        """Log the first failure; returns seconds until the next try."""
        if not self._silent:
            _log.warning("%s; cleaning goes on, metrics wait", error)
        self._silent = str(error)
        self._said.clear()
        self._failed += 1
        return RETRIES[self._failed - 1] if self._failed <= len(RETRIES) else SIGN_OF_LIFE

    def _on_threshold(self, name: str, text: str) -> None:
        """Called in a thread of the ORB."""
        try:
            shown = self._board.set_threshold(name, text)
            _log.info("threshold of %s is now %s", name, shown)
        except ValueError as error:
            _log.warning("threshold %s for %s is refused: %s", plain(repr(text), 60), plain(name, 60), error)

    def _wait(self, earliest: float, latest: float) -> None:
        """Wait for a change that may affect a metric, from `earliest` until `latest` (monotonic)."""
        latest = max(earliest, latest)
        ready = [fd for fd, _ in self._poll.poll(max(0.0, latest - time.monotonic()) * 1000)]
        if self._inotify is not None and self._inotify.fd in ready:
            # A new heap grows soon after.
            earliest = max(earliest, time.monotonic() + GATHER)
        if time.monotonic() < earliest:
            self._stopped.wait(earliest - time.monotonic())
        for fd in ready:
            try:
                os.read(fd, 65536)
            except BlockingIOError:
                pass
