"""The options of redhawk-shmwatch; --help, man page and completion are made from them."""

import argparse

from gppshm import fifos, procfs, shmfs
from gppshm.cli import text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Tuple

COMMAND = "redhawk-shmwatch"
SHORTEST_RESCAN, LONGEST_RESCAN = 0.1, 86400.0

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
    text.add_root_option(parser)
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


def check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Convert the options' words; exits with status 2 at wrong usage."""
    options.rescan = _seconds(parser, options.rescan)
    options.parent = _pid(parser, options.parent) if options.parent is not None else 0
    if (options.scope == "children") != (options.parent > 0):
        parser.error("--scope children and --parent PID go together")
    if options.fifo_root is not None and not options.fifos:
        parser.error("--fifo-root goes with --fifos")
    if options.metrics is not None:
        options.metrics = _address(parser, options.metrics)


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
