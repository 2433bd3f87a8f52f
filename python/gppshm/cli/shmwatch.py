"""redhawk-shmwatch: remove a crashed process' heap a millisecond or two after its death, with proof."""

import argparse
import gc
import json
import os
import signal
import sys
import time
from collections import deque

from gppshm import __version__, events, fifos, sparing, watch
from gppshm.cli import shmwatch_state, text
from gppshm.cli.shmwatch_events import clock, event_line, event_object
from gppshm.cli.shmwatch_options import COMMAND, build_parser, check
from gppshm.cli.shmwatch_output import Output
from gppshm.cli.shmwatch_systemd import Watchdog, notify

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Deque, List, Optional, Set

FAULTS_REPORTED = 100
READY = 1.0
"""Seconds after which readiness is reported although the first scan still runs."""
LAST_LINES = 0.3
"""Seconds to write pending lines at the end."""


def main(argv: "Optional[List[str]]" = None) -> int:
    _fill_standard_descriptors()
    parser = build_parser()
    options = parser.parse_args(argv)
    if options.help or options.version:
        output = text.Output(COMMAND)
        output.put(parser.format_help() if options.help else f"{COMMAND} version {__version__}\n")
        output.flush()
        return int(output.failed)
    check(parser, options)
    command = Command(options)
    command.handle_signals()
    return command.run()


class Command:
    """The running command: a watcher, its signals and its output."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._out = Output(1, self._stdout_is_lost)
        self._err = Output(2)
        self._remarks: Deque[str] = deque()  # from other threads
        self._faults: Set[str] = set()
        self._fault_count = 0
        self._watcher: Optional[watch.Watcher] = None
        self._ended_by = 0
        self._show_state = False
        self._started = time.monotonic()
        self._watchdog = Watchdog()
        self._sparing = sparing.Sparing()

    def handle_signals(self) -> None:
        """Install signal handlers, which make a note and wake the watcher."""
        for number in (signal.SIGTERM, signal.SIGINT):
            # A shell starts background jobs of a script with SIGINT ignored; that stays.
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._end)
        signal.signal(signal.SIGUSR1, self._ask_for_state)
        if os.getpid() == 1:  # in a container: processes that lose their parent become our children
            signal.signal(signal.SIGCHLD, self._child_ended)
        # A parent may have blocked them, and masks are inherited.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1))

    def _end(self, number: int, frame: "Any") -> None:
        self._ended_by = number
        if self._watcher is not None:
            self._watcher.stop()

    def _ask_for_state(self, number: int, frame: "Any") -> None:
        self._show_state = True
        if self._watcher is not None:
            self._watcher.wake()

    def _child_ended(self, number: int, frame: "Any") -> None:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass

    def run(self) -> int:
        status = self._run()
        self._out.finish(LAST_LINES)
        self._err.finish(LAST_LINES)
        return status

    def _run(self) -> int:
        options = self._options
        watch.raise_descriptor_limit()
        try:
            watcher = watch.Watcher(
                options.root,
                self._on_event,
                options.scope,
                options.parent,
                options.rescan,
                options.dry_run,
                options.fifos,
                options.fifo_root or fifos.DEFAULT_ROOT,
                reclaim=not options.no_reclaim,
            )
        except OSError as error:
            self._complain(f"{text.escaped(options.root)} cannot be watched: {error.strerror}; see --root")
            return 1
        with watcher:
            self._watcher = watcher
            signal.set_wakeup_fd(watcher.wake_fd)
            if self._ended_by:
                watcher.stop()
            self._guarded(lambda: watcher.sweep(patience=READY))
            self._guarded(lambda: self._offer_metrics(watcher))
            if hasattr(gc, "freeze"):  # novm: Python 3.7
                gc.freeze()  # novm  # a collection would scan all modules, for milliseconds
            notify("READY=1")
            self._guarded(self._say_ready)
            while not self._ended_by:
                self._guarded(self._work)
            notify("STOPPING=1")
            self._guarded(watcher.run)  # ends at once, with the final reports
            self._guarded(self._say_end)
            signal.set_wakeup_fd(-1)
        return 0

    def _offer_metrics(self, watcher: watch.Watcher) -> None:
        """Publish metrics, as far as possible; cleaning does not depend on it."""
        options = self._options
        if options.metrics is None and options.metrics_textfile is None:
            return
        from gppshm import outlet

        def remark(sentence: str) -> None:
            self._remarks.append(sentence)
            if not self._ended_by:
                watcher.wake()

        sys.setswitchinterval(watch.SWITCH_INTERVAL)
        try:
            metrics = outlet.Outlet(options.root, watcher.counts, on_trouble=remark)
        except outlet.Missing as missing:
            self._complain(str(missing))
            return
        if options.metrics is not None:
            metrics.serve(options.metrics)
        if options.metrics_textfile is not None:
            metrics.write(options.metrics_textfile, max(1.0, min(outlet.INTERVAL, options.rescan)))

    def _work(self) -> None:
        assert self._watcher is not None
        self._watcher.step(self._watchdog.left())
        self._watchdog.feed()
        while self._remarks:
            self._complain(text.escaped(self._remarks.popleft()))
        if self._show_state:
            self._show_state = False
            self._say_state("state")

    def _guarded(self, act: "Any") -> None:
        """Report an exception, once for each kind, and continue."""
        assert self._watcher is not None
        self._watcher.guarded(act, self._fault)

    def _fault(self, error: Exception) -> None:
        what = text.escaped(f"{type(error).__name__}: {error}")
        self._fault_count += 1
        if what not in self._faults and len(self._faults) < FAULTS_REPORTED:
            self._faults.add(what)
            self._complain(f"internal error: {what}; it continues, and scans everything again")

    def _complain(self, message: str) -> None:
        self._err.put(f"{COMMAND}: {message}")

    def _stdout_is_lost(self, sentence: str) -> None:
        self._complain(f"{sentence}; it goes on quietly")

    # -- what is told --------------------------------------------------------------------------------

    def _on_event(self, event: events.Event) -> None:
        """Never raises: a failing output must not stop the cleaning."""
        try:
            if self._options.quiet and event.kind in (events.REMOVED, events.WOULD_REMOVE, events.CLEANED):
                return
            stays = event.kind in events.OF_WHAT_STAYS
            note = self._sparing.note((event.kind, event.uid)) if stays else ""
            if note is not None:
                self._put(event)
            if note:
                self._put(events.Event(events.TROUBLE, f"{event.kind}, user {event.uid}: {note}"))
        except Exception as error:
            self._fault(error)

    def _put(self, event: events.Event) -> None:
        self._out.put(json.dumps(event_object(event)) if self._options.json else event_line(event))

    def _say_state(self, what: str, before: str = "", **facts: "Any") -> None:
        """Print the state, after the words `before`; for JSON with `facts`."""
        assert self._watcher is not None
        state = shmwatch_state.state_of(
            self._watcher,
            self._options.dry_run,
            self._fault_count,
            self._out.dropped,
            self._sparing.left_out,
        )
        now = time.time()
        if self._options.json:
            self._out.put(json.dumps(dict({"event": what, "time": round(now, 3)}, **state, **facts)))
        else:
            words = shmwatch_state.words_of(state, self._options)
            self._out.put(f"{clock(now)} {what}: {before}{words}")

    def _say_ready(self) -> None:
        if not self._options.quiet:
            self._say_state("ready")

    def _say_end(self) -> None:
        name = signal.Signals(self._ended_by).name
        seconds = time.monotonic() - self._started
        self._say_state("end", f"{name} after {seconds:.1f} s; ", signal=name, seconds=round(seconds, 3))


def _fill_standard_descriptors() -> None:
    """Open /dev/null for closed descriptors 0, 1 and 2, so that no other file gets their number."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open("/dev/null", os.O_RDWR)


if __name__ == "__main__":
    sys.exit(main())
