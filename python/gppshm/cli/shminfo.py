"""redhawk-shminfo: list the files in /dev/shm in the format of REDHAWK's own tool, and in further forms."""

import gc
import os
import sys

from gppshm import shmfs, snapshot, supervised
from gppshm.cli import text

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any, Callable, Dict, List, Optional, Tuple, Union

    Options = Union["Defaults", argparse.Namespace]

COMMAND = "redhawk-shminfo"

SORT_KEYS = ("name", "size", "allocated", "used", "creator", "refcount", "state")

ORPHANED = {True: "true", False: "false", None: "unknown"}


class Defaults:
    """The options of an invocation without arguments, which does not import argparse."""

    all = numeric = json = holders = check = False
    format = "auto"
    sort = blocks = domain = None
    root = shmfs.DEFAULT_ROOT
    names: "List[str]" = []


def build_parser() -> "argparse.ArgumentParser":
    """The options; --help, man page and completion are made from them."""
    parser = text.argument_parser(
        COMMAND,
        "%(prog)s [OPTION ...] [NAME ...]",
        "Show the shared memory file system and the REDHAWK heaps in it, or only the files NAME.",
        "orphaned: true = the creator is proven dead, unknown = there is no proof either way\n"
        "exit status: 0; 1 something could not be read or did not answer, or --check found a fault; 2 usage",
    )
    parser.add_argument("-a", "--all", action="store_true", help="show all files, not only heaps")
    parser.add_argument("-l", dest="numeric", action="store_true", help="show users and groups as numbers")
    parser.add_argument(
        "--format",
        type=str.lower,
        choices=text.FORMATS,
        default="auto",
        metavar="FORMAT",
        help="show sizes as 'auto' (default), 'b' (bytes) or 'k' (KiB)",
    )
    parser.add_argument(
        "--sort",
        choices=SORT_KEYS,
        metavar="KEY",
        help="sort by {} (sizes: the largest first; default: as the directory lists them)".format(
            ", ".join(SORT_KEYS)
        ),
    )
    text.add_root_option(parser)
    parser.add_argument(
        "--json", action="store_true", help="print JSON (docs/shminfo-json.md), sizes in bytes"
    )
    forms = parser.add_mutually_exclusive_group()
    forms.add_argument(
        "--holders",
        action="store_true",
        help="show who holds each heap, and memory that was unlinked and is still held",
    )
    forms.add_argument(
        "--check", action="store_true", help="check the structure of the heaps, and their locks"
    )
    forms.add_argument("--blocks", metavar="NAME", help="draw a map of the blocks of the heap NAME")
    forms.add_argument(
        "--domain",
        metavar="DOMAIN",
        help="show every host of a REDHAWK domain, as reported by its GppShmPlugin devices, worst first",
    )
    text.add_domain_options(parser)
    parser.add_argument("--host", metavar="HOST", help="with --domain: show only HOST, in detail")
    return parser


def main(argv: "Optional[List[str]]" = None) -> int:
    """Run the command and return its exit status.

    Without `argv` a listing ends the process by os._exit: everything is written by then, and the
    interpreter's own end would take 5 % of the time of a long listing.
    """
    # Nothing here makes reference cycles. The collector would take 10 % of the time of a long listing.
    gc.disable()
    arguments = sys.argv[1:] if argv is None else argv
    output = text.Output(COMMAND)
    options: Options = Defaults()
    if arguments:
        parser = build_parser()
        options = text.parse(parser, arguments)
        if options.json and options.blocks is not None:
            parser.error("--blocks draws a picture: it does not go with --json")
        if options.domain is None:
            text.refuse(parser, options, ("host", "nameservice", "timeout"), "goes with --domain")
        else:
            text.refuse(parser, options, ("all", "root", "sort", "names"), "does not go with --domain")
        if options.blocks is not None and options.names:
            parser.error("--blocks takes one NAME")
        for name in options.names + [options.blocks or "-"]:
            if "/" in name:
                parser.error(f"{name}: names are those of files in {options.root}, without a slash")
        if options.help:
            output.put(parser.format_help())
        elif options.version:
            from gppshm import __version__

            output.put(f"{COMMAND} version {__version__}\n")
        if options.help or options.version:
            output.flush()
            return int(output.failed)
    try:
        if options.domain is None:
            status = _listing(options, output)
        else:
            from gppshm.cli import shminfo_domain

            status = shminfo_domain.show(options, output)
        output.flush()
    except KeyboardInterrupt:
        return 130
    status = 1 if output.failed else status
    if argv is None:
        os._exit(status)
    return status


def _listing(options: "Options", output: text.Output) -> int:
    """Make the listing in a child, since a process may block its readers for ever, and write it."""

    record = text.Record(COMMAND)

    def make() -> "Tuple[int, List[Tuple[bool, str]]]":
        status = _run(options, record)
        record.flush()
        return status, record.pieces

    try:
        (status, pieces), passed_over = supervised.call(make)
    except supervised.Failed as error:
        output.error(f"the listing cannot be made: {text.escaped(str(error))}")
        return 1
    output.replay(pieces)
    output.pass_over(passed_over)
    return 1 if passed_over else status


def _run(options: "Options", output: text.Record) -> int:
    names = [options.blocks] if options.blocks is not None else options.names or None
    try:
        with shmfs.ShmDirectory(options.root) as directory:
            plain = not (options.json or options.holders or options.check or options.blocks is not None)
            shot = snapshot.take(directory, names, check=options.check, brief=plain)
            if options.sort:
                shot.entries.sort(key=_sort_key(options.sort))
            if names is None and not options.all:
                shot.entries = [entry for entry in shot.entries if entry.is_heap]
            show = _form(options)
            status = show(directory, shot, options, output)
    except OSError as error:
        output.error(f"{text.escaped(options.root)}: cannot be read: {error.strerror}")
        return 1
    if names is not None:
        for name in shot.missing:
            output.error(f"{text.escaped(name)}: there is no such file in {text.escaped(options.root)}")
            status = 1
    return status


def _form(options: "Options") -> "Callable[..., int]":
    """The function that prints a snapshot in the requested form; only that form is imported."""
    if options.json:
        from gppshm.cli import shminfo_json

        return shminfo_json.show
    if options.holders:
        from gppshm.cli import shminfo_holders

        return shminfo_holders.show
    if options.check:
        from gppshm.cli import shminfo_check

        return shminfo_check.show
    if options.blocks is not None:
        from gppshm.cli import shminfo_blocks

        return shminfo_blocks.show
    return show_plain


def _sort_key(key: str) -> "Callable[[snapshot.Entry], Tuple[Any, str]]":
    def of(entry: snapshot.Entry) -> "Any":
        header = entry.sighting.header
        if key == "size":
            return -entry.sighting.status.st_size
        if key == "allocated":
            return -entry.sighting.status.st_blocks
        if key == "used":
            return -entry.heap.heap_used if entry.heap else 1
        if key == "state":
            return str(entry.verdict.state) if entry.verdict else "~"
        if key in ("creator", "refcount"):
            return (0, getattr(header, key)) if header else (1, 0)
        return ()

    # By name where the key is the same.
    return lambda entry: (of(entry), entry.sighting.name)


def show_plain(
    directory: shmfs.ShmDirectory, shot: snapshot.Snapshot, options: "Options", output: text.Output
) -> int:
    """Print the default form: for heaps that REDHAWK 3.0.1 can read, byte for byte its output."""
    size, numeric = text.size_format(options.format), options.numeric
    output.put(text.usage_lines(shot, size))
    owners: Dict[Tuple[int, int, int], str] = {}
    result = 0
    for entry in shot.entries:
        sighting = entry.sighting
        status, header, heap = sighting.status, sighting.header, entry.heap
        name = text.escaped(sighting.name)
        key = status.st_uid, status.st_gid, status.st_mode & 0o777
        owner = owners.get(key) or owners.setdefault(
            key,
            f"  user:        {text.user_name(key[0], numeric)}\n"
            f"  group:       {text.group_name(key[1], numeric)}\n"
            f"  mode:        {key[2]:o}\n",
        )
        error = entry.error
        if heap and header and not error:
            heap_size, heap_used = heap.heap_size, heap.heap_used
            output.put(
                f"\n{name}\n"
                "  type:        REDHAWK heap\n"
                f"  file size:   {size(status.st_size)}\n"
                f"  heap size:   {size(heap_size)}\n"
                f"  heap used:   {size(heap_used)} ({text.percent(heap_used, heap_size)}%)\n"
                f"  creator:     {header.creator}\n"
                f"  orphaned:    {ORPHANED[entry.orphaned]}\n"
                f"  refcount:    {header.refcount}\n{owner}"
            )
            continue
        kind = "REDHAWK heap (unreadable)" if entry.is_heap else "other"
        output.put(
            f"\n{name}\n"
            f"  type:        {kind}\n"
            f"  file size:   {size(status.st_size)}\n"
            f"  allocated:   {size(status.st_blocks * 512)}\n{owner}"
        )
        # Only its name says that an unreadable file is a heap. The error of a given NAME is always shown.
        if error and (entry.is_heap or options.names):
            output.line_on_stderr(f"  error:       {text.escaped(error)}")
            result = 1
    return result
