"""redhawk-shmwatch: remove a crashed process' heap a millisecond or two after its death, with proof."""

import argparse
import errno
import gc
import json
import os
import select
import signal
import socket
import sys
import threading
import time
from collections import deque

from gppshm import __version__, events, fifos, processes, procfs, shmfs, sparing, watch
from gppshm.cli import text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Deque, Dict, List, Optional, Set, Tuple

COMMAND = "redhawk-shmwatch"
SHORTEST_RESCAN, LONGEST_RESCAN = 0.1, 86400.0
FAULTS_TOLD = 100
PAUSE = 0.1
"""Seconds between attempts to write lines for a slow reader."""
READY = 1.0
"""Seconds after which readiness is reported although the first scan still runs."""
LAST_LINES = 0.3
"""Seconds to write pending lines at the end."""
LINES_KEPT = 10000
"""Lines kept for a reader that has stopped; older ones are dropped and counted."""

USAGE = """\
redhawk-shmwatch [--root DIR] [--scope host | --scope children --parent PID] [--rescan S]
                        [--fifos [--fifo-root DIR]] [--no-reclaim] [--dry-run] [--json] [--quiet]
                        [--metrics ADDRESS:PORT] [--metrics-textfile FILE]"""
DESCRIPTION = """\
Watch for the death of processes that created REDHAWK heaps, and remove the heap of each one that is proven
dead. Scans the directory at the start, then acts on kernel events until SIGTERM or Ctrl-C. Heaps of living
processes are never removed. Heaps whose creator may be alive are kept."""
EPILOG = """\
Each line: local time, event, heap, dev:inode, the creator's pid and command (known if it was seen alive),
bytes, reason, [evidence], milliseconds since the trigger. Evidence is "lease": the kernel says that no
process has the heap open or mapped for writing; "identity": the process that was established as the creator
while it lived has ended; or "pids": no process of this host can be the creator.

Free memory of a removed heap is given back while peers are attached, and what they release within a second.
This is not done if a forked child of the creator is attached, or if the creator was never seen alive. The
line says how many bytes; a line "given back" follows if there are more.

Signals: SIGTERM and SIGINT (Ctrl-C) end it with a summary, SIGUSR1 prints its state.
Exit status: 0 ended by a signal, 1 the directory cannot be watched, 2 usage."""


def build_parser() -> argparse.ArgumentParser:
    parser = text.argument_parser(COMMAND, USAGE, DESCRIPTION, EPILOG)
    add = parser.add_argument
    add(
        "--root",
        default=shmfs.DEFAULT_ROOT,
        metavar="DIR",
        help="directory of the heaps (default: %(default)s)",
    )
    add(
        "--scope",
        choices=("host", "children"),
        default="host",
        help="host: remove every orphan (default); children: only heaps of creators that were seen alive"
        " and descend from the process --parent",
    )
    add("--parent", metavar="PID", help="for --scope children: a process, for example a GPP")
    add("--rescan", metavar="S", default="30", help="seconds between rescans of the directory (default: 30)")
    add(
        "--fifos",
        action="store_true",
        help="at each rescan, also remove FIFOs fifo-<pid>-<hex> of dead processes",
    )
    add(
        "--fifo-root",
        metavar="DIR",
        help=f"directory of the FIFOs (default: {fifos.DEFAULT_ROOT}); with --fifos",
    )
    add("--dry-run", action="store_true", help="print what would be removed, and remove nothing")
    add(
        "--no-reclaim",
        action="store_true",
        help="do not give back free memory of removed heaps while peers are attached",
    )
    add("--json", action="store_true", help="one JSON object per line (docs/shmwatch-json.md)")
    add("--quiet", action="store_true", help="print no removals, only failures")
    add(
        "--metrics",
        metavar="ADDRESS:PORT",
        help="serve metrics for Prometheus at /metrics; a PORT alone means 127.0.0.1",
    )
    add(
        "--metrics-textfile",
        metavar="FILE",
        help="write the metrics to FILE for node_exporter, every 15 s or every --rescan if that is shorter",
    )
    return parser


def main(argv: "Optional[List[str]]" = None) -> int:
    _fill_standard_descriptors()
    parser = build_parser()
    options = parser.parse_args(argv)
    if options.help or options.version:
        output = text.Output(COMMAND)
        output.put(parser.format_help() if options.help else f"{COMMAND} version {__version__}\n")
        output.flush()
        return int(output.failed)
    options.rescan = _seconds(parser, options.rescan)
    options.parent = _pid(parser, options.parent) if options.parent is not None else 0
    if (options.scope == "children") != (options.parent > 0):
        parser.error("--scope children and --parent PID go together")
    if options.fifo_root is not None and not options.fifos:
        parser.error("--fifo-root goes with --fifos")
    if options.metrics is not None:
        options.metrics = _address(parser, options.metrics)
    command = Command(options)
    command.handle_signals()
    return command.run()


class Output:
    """Lines for one descriptor, written by a thread: `put` never waits for a reader or a disk.

    dropped  lines that were dropped because they were not read or could not be written
    on_loss  called with a sentence, in that thread, when lines cannot be written; once until they can
    """

    def __init__(self, fd: int, on_loss: "Callable[[str], None]" = lambda sentence: None) -> None:
        self.dropped = 0
        self._fd = fd
        self._on_loss = on_loss
        self._lines: Deque[bytes] = deque()
        self._change = threading.Condition()
        self._failing = self._gone = self._finishing = False
        self._thread: Optional[threading.Thread] = None

    def put(self, line: str) -> None:
        """Queue one line; never fails."""
        with self._change:
            if self._gone:
                return
            if self._thread is None:
                self._thread = threading.Thread(target=self._write_lines, name="output", daemon=True)
                self._thread.start()
            if len(self._lines) >= LINES_KEPT:
                self._lines.popleft()
                self.dropped += 1
            self._lines.append(line.encode("utf-8", "backslashreplace") + b"\n")
            self._change.notify_all()

    def finish(self, seconds: float) -> None:
        """Wait until everything is written, at most `seconds`; nothing more may be put."""
        with self._change:
            self._finishing = True
            self._change.notify_all()
        if self._thread is not None:
            self._thread.join(seconds)

    def _write_lines(self) -> None:
        while not self._gone:
            with self._change:
                self._change.wait_for(lambda: self._lines or self._finishing)
                if not self._lines:
                    return
                line = self._lines.popleft()
            self._write(line)

    def _write(self, line: bytes) -> None:
        """Write a whole line, however long it takes, unless the reader is gone for good."""
        while line:
            try:
                line = line[os.write(self._fd, line) :]
                self._failing = False
            except BlockingIOError:
                select.select([], [self._fd], [], PAUSE)
            except OSError as error:
                gone = error.errno in (errno.EPIPE, errno.EBADF, errno.EIO)
                if not self._failing:
                    self._failing = True
                    what = "any more" if gone else "now: it is tried again"
                    self._on_loss(f"nothing can be written to stdout {what}: {error.strerror}")
                if gone:
                    with self._change:
                        self._gone = True
                        self._lines.clear()
                    return
                time.sleep(PAUSE)


class Watchdog:
    """systemd's watchdog, if there is one: to be notified while all is well (sd_watchdog_enabled(3))."""

    def __init__(self) -> None:
        self._every = 0.0
        self._next = 0.0
        wanted = os.environ.get("WATCHDOG_USEC", "")
        if wanted.isdigit() and os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid()):
            self._every = int(wanted) / 2e6

    def left(self) -> "Optional[float]":
        """Seconds until the next notification; None if there is no watchdog."""
        return max(0.0, self._next - time.monotonic()) if self._every else None

    def feed(self) -> None:
        if self._every and time.monotonic() >= self._next:
            self._next = time.monotonic() + self._every
            _notify("WATCHDOG=1")


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
            _notify("READY=1")
            self._guarded(self._say_ready)
            while not self._ended_by:
                self._guarded(self._work)
            _notify("STOPPING=1")
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
            self._say_state()

    def _guarded(self, act: "Any") -> None:
        """Report an exception, once for each kind, and continue."""
        assert self._watcher is not None
        self._watcher.guarded(act, self._fault)

    def _fault(self, error: Exception) -> None:
        what = text.escaped(f"{type(error).__name__}: {error}")
        self._fault_count += 1
        if what not in self._faults and len(self._faults) < FAULTS_TOLD:
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

    def _say(self, what: str, facts: "Dict[str, Any]", words: str) -> None:
        if self._options.json:
            self._out.put(json.dumps(dict({"event": what, "time": round(time.time(), 3)}, **facts)))
        else:
            self._out.put(f"{_clock(time.time())} {what}: {words}")

    def _say_ready(self) -> None:
        if not self._options.quiet:
            self._say("ready", self._state(), self._state_words())

    def _say_state(self) -> None:
        self._say("state", self._state(), self._state_words())

    def _say_end(self) -> None:
        name = signal.Signals(self._ended_by).name
        seconds = time.monotonic() - self._started
        facts = dict(self._state(), signal=name, seconds=round(seconds, 3))
        self._say("end", facts, f"{name} after {seconds:.1f} s; {self._state_words()}")

    def _state(self) -> "Dict[str, Any]":
        assert self._watcher is not None
        watcher, counts = self._watcher, self._watcher.counts
        state: Dict[str, Any] = {
            "root": text.decoded(watcher.root)[0],
            "scope": str(watcher.scope),
            "dry_run": self._options.dry_run,
            "living": len(watcher.living()),
            "pidfds": watcher.pidfds,
            "inotify": watcher.inotify_works,
            "troubles": watcher.troubles(),
            "rescan_seconds": watcher.rescan,
            "identities": watcher.identities,
            "questions": watcher.asked,
            "passed_over": list(watcher.passed_over),
            "longest_step_ms": round(counts.longest_step * 1000, 3),
            "removed": counts.removed,
            "removed_by_others": counts.cleaned,
            "bytes_removed_by_others": counts.cleaned_bytes,
            "fifos_removed": counts.fifos,
            "bytes_removed": counts.bytes,
            "given_back": counts.given_back,
            "given_back_later": counts.given_back_later,
            "in_use": counts.in_use,
            "failures": counts.failures,
            "rescans": counts.rescans,
            "wakeups": counts.wakeups,
            "own_faults": self._fault_count,
            "lines_dropped": self._out.dropped,
            "lines_left_out": self._sparing.left_out,
            "size": None,
            "free": None,
        }
        try:
            usage = watcher.directory.usage()
            state["size"], state["free"] = usage.size, usage.free
        except OSError:
            pass
        return state

    def _state_words(self) -> str:
        state = self._state()
        living = text.many(state["living"], "living heap")
        triggers = [
            "inotify" if state["inotify"] else "no inotify",
            f"pidfds of {state['pidfds']}",
            f"a rescan every {state['rescan_seconds']:g} s",
        ]
        words = [
            f"{text.escaped(self._options.root)}: {living}, by {', '.join(triggers)}",
            f"removed {text.many(state['removed'], 'heap')}, {state['bytes_removed']} bytes",
        ]
        if self._options.parent:
            words[0] += f", of descendants of process {self._options.parent} only"
        if self._options.dry_run:
            words[1] = "a dry run: nothing is removed"
        if self._options.fifos:
            words.append(f"{state['fifos_removed']} FIFOs")
        if state["removed_by_others"]:
            others = text.many(state["removed_by_others"], "heap")
            words.append(f"others removed {others}, {state['bytes_removed_by_others']} bytes")
        if state["given_back"] or state["given_back_later"]:
            words.append(
                f"{state['given_back']} bytes given back at once while processes are attached,"
                f" {state['given_back_later']} later; {state['in_use']} are still in use"
            )
        if state["questions"]:
            words.append(f"waiting for {text.many(state['questions'], 'answer')} of the observer")
        if state["passed_over"]:
            pids = ", ".join(map(str, state["passed_over"]))
            words.append(f"processes that do not answer, and are passed over: {pids}")
        words.append(f"longest step {state['longest_step_ms']:.1f} ms")
        if state["failures"]:
            words.append(f"{state['failures']} could not be removed")
        if state["own_faults"]:
            words.append(f"{state['own_faults']} internal errors")
        if state["lines_left_out"]:
            words.append(f"{state['lines_left_out']} lines left out that came thick")
        if state["lines_dropped"]:
            words.append(f"{state['lines_dropped']} lines dropped because stdout was not read")
        if state["size"] is not None:
            words.append("{} of {} bytes free".format(state["free"], state["size"]))
        words += [text.escaped(trouble) for trouble in state["troubles"]]
        return "; ".join(words)


def event_line(event: events.Event) -> str:
    """An event as one printable line."""
    if not event.name:
        return f"{_clock(event.time)} {event.kind}: {text.escaped(event.reason)}"
    line = f"{_clock(event.time)} {event.kind} {text.escaped(event.name)} {event.device}:{event.inode}"
    if event.creator:
        line += f" creator {event.creator} ({_command(event.command)})"
    line += f" {event.bytes} bytes: {text.escaped(event.reason)}"
    if event.died:
        line += f" ({event.died})"
    if event.evidence != "none":
        line += f" [{event.evidence}]"
    if event.trigger:
        line += f", {event.latency * 1000:.2f} ms after {event.trigger}"
    if event.attached:
        holders = ", ".join([f"{pid} ({_command(command)})" for pid, command in event.attached])
        line += f"; {_what_is_held(event)} held until these exit: {holders}"
    if event.not_given_back:
        line += f"; nothing is given back: {text.escaped(event.not_given_back)}"
    return line


def _what_is_held(event: events.Event) -> str:
    """Text about a heap's memory: what was given back while peers are attached, and what was not."""
    if not event.given_back and not event.given_back_later:
        return "the memory is"
    return (
        f"{event.given_back} bytes came back at once, {event.given_back_later} later;"
        f" {event.left} ({event.in_use} in use) are"
    )


def event_object(event: events.Event) -> "Dict[str, Any]":
    """An event as described in docs/shmwatch-json.md."""
    name, name_hex = text.decoded(event.name)
    return {
        "event": str(event.kind),
        "time": round(event.time, 6),
        "name": name or None,
        "name_hex": name_hex,
        "device": event.device or None,
        "inode": event.inode or None,
        "creator": event.creator or None,
        "command": _json_word(event.command),
        "command_line": text.decoded(" ".join(event.words))[0] or None,
        "user": _json_word(event.user),
        "uid": event.uid if event.uid >= 0 else None,
        "died": event.died or None,
        "bytes": event.bytes,
        "reason": text.decoded(event.reason)[0],
        "evidence": str(event.evidence),
        "trigger": event.trigger or None,
        "latency_ms": round(event.latency * 1000, 3) if event.trigger else None,
        "attached": [{"pid": pid, "command": _json_word(command)} for pid, command in event.attached],
        "given_back": event.given_back,
        "given_back_later": event.given_back_later,
        "in_use": event.in_use,
        "left": event.left,
        "not_given_back": text.decoded(event.not_given_back)[0] if event.not_given_back else None,
    }


def _json_word(word: str) -> "Optional[str]":
    return None if word == processes.UNKNOWN else text.decoded(word)[0]


def _command(command: str) -> str:
    return "command unknown" if command == processes.UNKNOWN else text.escaped(command)


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds)) + f".{int(seconds * 1000) % 1000:03d}"


def _pid(parser: argparse.ArgumentParser, word: str) -> int:
    pid = shmfs.pid_of_name("heap-" + word)
    if not 0 < pid <= procfs.PID_MAX:
        parser.error(f"--parent {word}: a pid is expected, from 1 to {procfs.PID_MAX}")
    if procfs.Processes().process(pid).existence is procfs.GONE:
        parser.error(f"--parent {word}: there is no such process")
    return pid


def _seconds(parser: argparse.ArgumentParser, word: str) -> float:
    try:
        seconds = float(word)
    except ValueError:
        seconds = 0.0
    if not SHORTEST_RESCAN <= seconds <= LONGEST_RESCAN:
        limits = f"{SHORTEST_RESCAN:g} to {LONGEST_RESCAN:g}"
        parser.error(f"--rescan {word}: a number of seconds is expected, from {limits}")
    return seconds


def _address(parser: argparse.ArgumentParser, word: str) -> "Tuple[str, int]":
    from gppshm import outlet

    try:
        return outlet.address(word)
    except ValueError as error:
        parser.error(f"--metrics {word}: {error}")


def _fill_standard_descriptors() -> None:
    """Open /dev/null for closed descriptors 0, 1 and 2, so that no other file gets their number."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open("/dev/null", os.O_RDWR)


def _notify(state: str) -> None:
    """Notify systemd, if it asked for it (sd_notify(3)); errors are ignored."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return
    if address[0] == "@":
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as messenger:
            messenger.setblocking(False)
            messenger.connect(address)
            messenger.send(state.encode("ascii"))
    except OSError:
        pass


if __name__ == "__main__":
    sys.exit(main())
