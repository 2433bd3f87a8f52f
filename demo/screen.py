"""How the demonstration is shown: plain lines; on a terminal with colours and bars, by ANSI sequences alone.

NO_COLOR takes the colours away, TERM=dumb every sequence; where stdout is not UTF-8 all is ASCII.
An interrupt has its effect whenever something is to be shown.
"""

import os
import re
import shutil
import sys
import textwrap

from gppshm.cli import text
from interrupts import check

TERMINAL = sys.stdout.isatty()
SEQUENCES = TERMINAL and os.environ.get("TERM", "dumb") not in ("", "dumb")
COLOURS = SEQUENCES and not os.environ.get("NO_COLOR")
FULL, TRACE, EMPTY, RULE = "█▏░─" if text.draws_blocks() else "#|.-"

BOLD, DIM, RED, GREEN, YELLOW, CYAN = "1", "2", "1;31", "32", "33", "36"
HUES = (
    (BOLD, r"^\d+\. .*"),
    ("1;32", r"\b\d[\d.]* ms\b"),
    (RED, r"\b(?:BUSY|REFUSED|SIGKILLed)\b"),
    (GREEN, r"\b(?:alive|IDLE|ACTIVE)\b"),
    (YELLOW, r"\borphaned\b|(?<=MB) +[+-]\d+\b"),
    (CYAN, rf"\b(?:shm|plugin)::\w+|{FULL}+|{re.escape(TRACE)}(?={re.escape(EMPTY)})"),
    (DIM, rf"^ +(?:because|evidence|memory|said) |\(not ours: left alone\)|{re.escape(EMPTY)}{{2,}}"),
)
"""What has which colour, wherever it stands in a line."""
_PATTERN = re.compile("|".join(f"({pattern})" for _, pattern in HUES))
_status = ""


def width() -> int:
    return shutil.get_terminal_size().columns


def say(line: str = "") -> None:
    """One line; a terminal that is too narrow gets it folded, behind its first word where that is a label."""
    folded = [line]
    if TERMINAL and len(line) > width():
        label = re.match(r" *(?:\S+(?: \S+)? {2,})?", line).end()
        hanging = " " * min(label, width() // 2)
        folded = textwrap.wrap(
            line, width(), subsequent_indent=hanging, break_on_hyphens=False, break_long_words=False
        )
    show_status("")
    _write("".join(_painted(each) + "\n" for each in folded))


def heading(line: str) -> None:
    show_status("")
    if TERMINAL:
        line = f"{RULE * 2} {line} "
        line += RULE * (width() - len(line))
    _write(_colour(line, "1;36") + "\n")


def bar(part: float, whole: float, cells: int) -> str:
    """How much of the whole, as a picture with a space before it; nothing where there is no terminal."""
    if not TERMINAL:
        return ""
    share = min(1.0, max(0.0, part / whole)) if whole else 0.0
    full = round(share * cells)
    return " " + (FULL * full or (TRACE if share else "")).ljust(cells, EMPTY)


def show_status(line: str) -> None:
    """A line that stays the last one, until another takes its place; only on a terminal that can do so."""
    global _status
    check()
    if SEQUENCES and line != _status:
        _status = line
        _write("\r\x1b[K" + _painted(line[: width() - 1]))


def _painted(line: str) -> str:
    return _PATTERN.sub(lambda found: _colour(found.group(), HUES[found.lastindex - 1][0]), line)


def _colour(line: str, hue: str) -> str:
    return f"\x1b[{hue}m{line}\x1b[m" if COLOURS else line


def _write(line: str) -> None:
    # Past Python's buffer: a reader who has gone is noticed here, and not once more at the interpreter's end.
    left = line.encode(text.encoding(), "backslashreplace")
    while left:
        left = left[os.write(1, left) :]
