"""redhawk-shmtop: the shared memory and its heaps on a full screen, as they change."""

import os
import sys

from gppshm import __version__, sitepackages
from gppshm.cli import text

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Callable, List, Optional


COMMAND = "redhawk-shmtop"

DESCRIPTION = """\
Show the shared memory file system and every REDHAWK heap on a full screen, and update it at once when a
process crashes. Press ? for the keys. Removes only heaps that you select and confirm, and that
redhawk-shmclean would remove."""
EPILOG = """\
NO_COLOR in the environment turns colours off. If the locale is not UTF-8, pictures are ASCII.
Exit status: 0; 1 the directory or the terminal cannot be used, the Python package prompt_toolkit is missing
(--once works without it), or with --domain --once a host did not answer; 2 wrong usage."""


def build_parser() -> "argparse.ArgumentParser":
    """The one definition of the options."""
    from gppshm.top.view import SORTS

    parser = text.argument_parser(COMMAND, "%(prog)s [OPTION ...]", DESCRIPTION, EPILOG)
    add = parser.add_argument
    text.add_root_option(parser)
    add("--sort", choices=SORTS, default=SORTS[0], metavar="KEY", help=f"initial order: {', '.join(SORTS)}")
    add("--filter", default="", metavar="WORDS", help="show only heaps that match WORDS at the start")
    add(
        "--domain",
        metavar="DOMAIN",
        help="show every host of a REDHAWK domain, as reported by its devices, worst first",
    )
    text.add_domain_options(parser)
    add("--once", action="store_true", help="print one frame and exit; not cut off if stdout is no terminal")
    return parser


def main(argv: "Optional[List[str]]" = None) -> int:
    parser = build_parser()
    options = parser.parse_args(argv)
    output = text.Output(COMMAND)
    if options.help or options.version:
        output.put(parser.format_help() if options.help else f"{COMMAND} version {__version__}\n")
        output.flush()
        return int(output.failed)
    if options.domain is None:
        text.refuse(parser, options, ("nameservice", "timeout"), "goes with --domain")
    else:
        why = "does not go with --domain"
        text.refuse(parser, options, ("root",), why)
        text.refuse(parser, options, ("sort",), why + ": s and a click on a title sort")
    try:
        if options.domain is not None:
            return _domain(options, output)
        return _once(options, output) if options.once else _show(options, output)
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        output.error(f"{text.escaped(options.root)} cannot be read: {error.strerror}; see --root")
        return 1


def _once(options: "argparse.Namespace", output: text.Output) -> int:
    from gppshm import asking
    from gppshm.top import canvas, table, view
    from gppshm.top.scanner import Scanner

    view_state = view.View(options.sort, options.filter)
    scanner = Scanner(options.root)
    try:
        view_state.take(scanner.scan_once())
    finally:
        scanner.close()
    lines = table.once(view_state, _width(), canvas.Glyphs(text.draws_blocks()))
    output.put("\n".join(lines) + "\n")
    output.flush()
    passed_over = {*asking.shared.passed_over, *scanner.passed_over}
    output.pass_over(sorted(passed_over))
    return int(output.failed or bool(passed_over))


def _domain(options: "argparse.Namespace", output: text.Output) -> int:
    from gppshm.cli import shminfo_domain

    if not options.once and not _can_show(output):
        return 1
    from gppshm.top import canvas, fleet

    # If the domain cannot be reached at the start, print an error instead of a screen.
    asker = shminfo_domain.ask(options, output, fleet.Asker)
    if asker is None:
        return 1
    view_state = fleet.FleetView(options.filter)
    if options.once:
        view_state.take(asker.state)
        output.put("\n".join(fleet.once(view_state, canvas.Glyphs(text.draws_blocks()))) + "\n")
        output.flush()
        status = int(output.failed or asker.state.total["silent"] > 0)
    else:
        from gppshm.top import fleet_screen, terminal

        status = terminal.show(fleet_screen.FleetDisplay(asker, view_state))
    # Threads may wait for a device that hangs.
    os._exit(status)


def _width() -> int:
    """The width of the terminal or from COLUMNS; 0 if unknown."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdigit() and int(columns):
        return int(columns)
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns
    except (OSError, AttributeError, ValueError):
        return 0


def _show(options: "argparse.Namespace", output: text.Output) -> int:
    if not _can_show(output):
        return 1
    from gppshm.top import screen, terminal
    from gppshm.top.scanner import Scanner
    from gppshm.top.view import View

    def make_scanner(on_change: "Callable[[], None]") -> Scanner:
        return Scanner(options.root, on_change)

    status = terminal.show(screen.Display(options.root, make_scanner, View(options.sort, options.filter)))
    # Scanning threads may be busy; the kernel releases everything that they hold.
    os._exit(status)


def _can_show(output: text.Output) -> bool:
    """Whether there is a terminal, and prompt_toolkit; a line on stderr if not."""
    why = _no_terminal()
    if why:
        output.error(f"{why}; --once prints one frame")
        return False
    sitepackages.enable()
    try:
        from gppshm.top import terminal as terminal
    except ImportError as error:
        output.error(
            f"the Python package prompt_toolkit (3.0.36 or newer) cannot be imported ({error}):"
            f" run '{sys.executable} -m pip install prompt_toolkit', or install your system's package"
            " python3-prompt-toolkit; --once works without it"
        )
        return False
    return True


def _no_terminal() -> str:
    """Why there is no screen to draw on; "" if there is."""
    for fd, name in ((0, "stdin"), (1, "stdout")):
        if not os.isatty(fd):
            return f"{name} is not a terminal"
    if os.environ.get("TERM", "") in ("", "dumb"):
        return "the terminal (TERM) cannot draw a full screen"
    return ""


if __name__ == "__main__":
    sys.exit(main())
