"""Common to all commands: escaped names, sizes, users, errors, options, output.

A name in /dev/shm can have any bytes except / and NUL, and so can a command line.  They are escaped, so that
a terminal never receives control characters from them.
"""

import errno
import os
import sys
from struct import Struct

from gppshm import procfs, shmfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any, Callable, Dict, Iterable, List, NoReturn, Optional, Sequence, Tuple

    from gppshm import snapshot

FORMATS = ("auto", "b", "k")

_FLOAT = Struct("f")
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\\": "\\\\"}


def escaped(text: str) -> str:
    """`text` with every character that is not printable written as \\n, \\xNN, \\uNNNN or \\UNNNNNNNN.

    That includes control characters, characters that change the writing direction, invisible characters, and
    the bytes of a name that is not UTF-8 (as \\xNN).  A backslash is doubled, so no two names look the same.
    """
    if text.isprintable() and "\\" not in text:
        return text
    return "".join([c if c.isprintable() and c != "\\" else _escape(c) for c in text])


def _escape(character: str) -> str:
    code = ord(character)
    if character in _SHORT:
        return _SHORT[character]
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"  # a byte that os.fsdecode() could not decode
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def size_auto(size: int) -> str:
    """One decimal with K, M, G or T, plain bytes below 1024, as REDHAWK prints sizes."""
    if size < 1024:
        return str(size)
    value, unit = size / 1024.0, "K"
    for larger in "MGT":
        if value < 1024:
            break
        value, unit = value / 1024.0, larger
    return "%.1f%s" % (value, unit)


def size_k(size: int) -> str:
    """Whole KiB, truncated: 0K for 1023."""
    return "%dK" % (size // 1024)


def size_format(name: str) -> "Callable[[int], str]":
    """The function that prints a size in one of FORMATS."""
    if name == "auto":
        return size_auto
    return size_k if name == "k" else str


def percent(part: int, whole: int) -> str:
    """With one decimal, from a 32-bit float as REDHAWK computes it; 0.0 if `whole` is 0."""
    if not whole:
        return "0.0"
    return "%.1f" % _FLOAT.unpack(_FLOAT.pack(100.0 * part / whole))[0]


def many(count: int, what: str) -> str:
    """3 heaps, 1 heap"""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def decoded(name: str) -> "Tuple[str, Optional[str]]":
    """(`name`, None) for JSON; (`escaped(name)`, the bytes in hex) if it is not UTF-8."""
    raw = os.fsencode(name)
    try:
        return raw.decode("utf-8"), None
    except UnicodeDecodeError:
        return escaped(raw.decode("utf-8", "surrogateescape")), "".join(["%02x" % byte for byte in raw])


def usage_lines(shot: "snapshot.Snapshot", size: "Callable[[int], str]") -> str:
    """The head of a listing: the directory, its size, what is free, and inodes if they are scarce."""
    usage = shot.usage
    free = f"{size(usage.free)} ({percent(usage.free, usage.size)}%)"
    lines = f"{escaped(shot.root)}\n  size: {size(usage.size)}\n  free: {free}\n"
    return lines + (f"  inodes: {scarce_inodes(usage)}\n" if usage.inodes_are_scarce else "")


def scarce_inodes(usage: "shmfs.Usage") -> str:
    """How many inodes are free, and why that matters."""
    share = percent(usage.free_inodes, usage.inodes)
    return f"{usage.free_inodes} of {usage.inodes} free ({share}%): a new heap, or other file, needs one"


def user_name(uid: int, numeric: bool = False) -> str:
    """The name of a user, or the number if it has none, or if `numeric`."""
    if numeric:
        return str(uid)
    if uid not in _users:
        import pwd

        _users[uid] = str(uid)
        if procfs.may_read(procfs.user_key(uid)):
            try:
                _users[uid] = escaped(pwd.getpwuid(uid).pw_name)
            except KeyError:
                pass
    return _users[uid]


def group_name(gid: int, numeric: bool = False) -> str:
    """The name of a group, likewise."""
    if numeric:
        return str(gid)
    if gid not in _groups:
        import grp

        _groups[gid] = str(gid)
        if procfs.may_read(procfs.group_key(gid)):
            try:
                _groups[gid] = escaped(grp.getgrgid(gid).gr_name)
            except KeyError:
                pass
    return _groups[gid]


_users: "Dict[int, str]" = {}
_groups: "Dict[int, str]" = {}


def encoding() -> str:
    """The encoding of stdout; ascii in the C locale, which Python would override."""
    wanted = os.environ.get("LC_ALL") or os.environ.get("LC_CTYPE") or os.environ.get("LANG") or ""
    if wanted in ("C", "POSIX"):
        return "ascii"
    return getattr(sys.stdout, "encoding", None) or "ascii"


def draws_blocks() -> bool:
    """Whether stdout's encoding has block characters."""
    return encoding().lower().replace("-", "") == "utf8"


class Output:
    """Collects stdout and writes it at once, in order with stderr.

    If the reader has gone (`| head -1`), the rest is dropped silently.
    """

    def __init__(self, command: str) -> None:
        self.command = command
        self.failed = False
        self._pending: List[str] = []
        self._gone = False

    def put(self, text: str) -> None:
        """Add text for stdout, with line ends."""
        self._pending.append(text)

    def flush(self) -> None:
        text, self._pending = "".join(self._pending), []
        if self._gone or not text:
            return
        try:
            if sys.stdout is None:
                raise OSError(9, "it is closed")
            data = text.encode(encoding(), "backslashreplace")
            while data:
                # With PYTHONUNBUFFERED or -u it writes a part, or nothing, and raises no error.
                written = sys.stdout.buffer.write(data)
                if written is None:
                    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
                data = data[written:]
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            self._abandon()
        except OSError as error:
            self._abandon()
            self.failed = True
            complain(self.command, f"cannot write to stdout: {error.strerror}")

    def _abandon(self) -> None:
        """Give stdout up, so that the interpreter does not try again at its end and complain."""
        self._gone = True
        to_null(sys.stdout)

    def line_on_stderr(self, line: str) -> None:
        """Write one line on stderr, after everything that was put before."""
        self.flush()
        _stderr(line + "\n")

    def error(self, message: str) -> None:
        """Write an error of the command on stderr, after everything that was put before."""
        self.line_on_stderr(f"{self.command}: {message}")

    def pass_over(self, passed_over: "Iterable[int]") -> None:
        """Report processes that blocked their reader (see `supervised.Pool`)."""
        for key in passed_over:
            who = escaped(procfs.named(key))
            what = "it is passed over: what it holds is not known" if key > 0 else "its number is shown"
            self.error(f"{who} does not answer; {what}")

    def replay(self, pieces: "Iterable[Tuple[bool, str]]") -> None:
        """Write what a Record has collected."""
        for is_error, words in pieces:
            if is_error:
                self.flush()
                _stderr(words)
            else:
                self.put(words)


class Record(Output):
    """Collects output for another process to write.

    pieces   (whether on stderr, text)
    columns  width of the terminal that is stdout; 80 if it is none
    """

    def __init__(self, command: str) -> None:
        super().__init__(command)
        self.pieces: List[Tuple[bool, str]] = []
        try:
            self.columns = os.get_terminal_size(sys.stdout.fileno()).columns or 80
        except (OSError, AttributeError, ValueError):
            self.columns = 80

    def flush(self) -> None:
        if self._pending:
            self.pieces.append((False, "".join(self._pending)))
            self._pending = []

    def line_on_stderr(self, line: str) -> None:
        self.flush()
        self.pieces.append((True, line + "\n"))


def complain(command: str, message: str) -> None:
    """Write an error on stderr: `command: message`."""
    _stderr(f"{command}: {message}\n")


def _stderr(text: str) -> None:
    try:
        if sys.stderr is not None:
            sys.stderr.write(text)
            sys.stderr.flush()
    except OSError:
        to_null(sys.stderr)


def to_null(stream: "Any") -> None:
    """Point a stream to /dev/null.  What is in its buffer then neither waits nor fails, also at the end."""
    try:
        if stream is not None:
            null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            os.dup2(null, stream.fileno())
            os.close(null)
    except (OSError, ValueError):
        pass  # no descriptor is left, or it is a stream in memory


def argument_parser(
    command: str, usage: str, description: str, epilog: str = ""
) -> "argparse.ArgumentParser":
    """A parser with -h, --help and --version as flags; errors have the common form and exit with 2.

    `parse` handles names between the options.
    """
    import argparse

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> "NoReturn":
            complain(command, f"{escaped(message)}; try '{command} --help'")
            sys.exit(2)

    parser = Parser(
        prog=command,
        usage=usage,
        description=description,
        epilog=epilog,
        add_help=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-h", "--help", action="store_true", help="print this and exit")
    # REDHAWK's tool has no other option with h: its abbreviations keep working.
    parser.add_argument("--h", "--he", action="store_true", dest="help", help=argparse.SUPPRESS)
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    return parser


def parse(parser: "argparse.ArgumentParser", arguments: "List[str]") -> "argparse.Namespace":
    """Parse as getopt_long does: `names` may stand between options; everything after -- is a name."""
    names: List[str] = []
    if "--" in arguments:
        cut = arguments.index("--")
        arguments, names = arguments[:cut], arguments[cut + 1 :]
    options, rest = parser.parse_known_args(arguments)
    for word in rest:
        if word.startswith("-") and word != "-":
            parser.error(f"unknown option: {word}")
    options.names = rest + names
    return options


def add_root_option(parser: "argparse.ArgumentParser") -> None:
    parser.add_argument(
        "--root",
        default=shmfs.DEFAULT_ROOT,
        metavar="DIR",
        help="directory of the heaps (default: %(default)s)",
    )


def add_domain_options(parser: "argparse.ArgumentParser") -> None:
    """Add the options that go with --domain."""
    import argparse

    def seconds(words: str) -> float:
        try:
            value = float(words)
        except ValueError:
            value = 0.0
        if not 0.1 <= value <= 600:
            raise argparse.ArgumentTypeError(
                f"{escaped(words)}: a number of seconds is expected, from 0.1 to 600"
            )
        return value

    parser.add_argument(
        "--nameservice",
        metavar="HOST[:PORT]",
        help="its naming service, or a CORBA URL (default: from omniORB's configuration)",
    )
    parser.add_argument(
        "--timeout",
        type=seconds,
        metavar="S",
        help="seconds to wait for the hosts' answers (0.1 to 600, default: 2)",
    )


def refuse(
    parser: "argparse.ArgumentParser", options: "argparse.Namespace", names: "Sequence[str]", why: str
) -> None:
    """Exit with a usage error if one of these options (or NAMEs) differs from its default."""
    for name in names:
        if getattr(options, name) not in (parser.get_default(name), []):
            parser.error(f"{'NAME' if name == 'names' else '--' + name.replace('_', '-')} {why}")
