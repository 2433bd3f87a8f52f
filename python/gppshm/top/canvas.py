"""Elements of pictures: lines of (style, text) of a given width, in cells of a terminal.

Styles are names; `screen` gives them their look.  No information is in a colour alone.
"""

import unicodedata

from gppshm import creator
from gppshm.cli import shminfo_blocks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Optional, Sequence, Tuple

    Line = List[Tuple[str, str]]
    Action = Tuple[str, str]
    Zone = Tuple[int, int, int, Action]

PLAIN, DIM, BOLD, WARN, SELECTED = "", "class:dim", "class:bold", "class:warn", "class:selected"
STATE_STYLES = {creator.ORPHANED: "class:orphan", creator.ATTACHED: "class:attached", creator.ALIVE: PLAIN}


class Glyphs:
    """What pictures are drawn with; `utf8` or ASCII only."""

    def __init__(self, utf8: bool) -> None:
        self.heaps, self.other, self.held, self.reserved, self.free = (
            "\u2588\u2593\u2592\u2573\u00b7" if utf8 else "#+%=."
        )
        self.full, self.empty = "\u2588\u00b7" if utf8 else "#."
        self.levels = " \u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588" if utf8 else " .:-=+*%#"
        self.more = "\u2026" if utf8 else "~"
        self.up, self.down = "\u25b4\u25be" if utf8 else "^v"
        self.cells = shminfo_blocks.CELLS[utf8]
        self.rule = "\u2500" if utf8 else "-"


def width_of(words: str) -> int:
    """In cells: East Asian letters take two, combining ones none."""
    return len(words) if max(words, default="") < "\u0300" else sum(map(_cells, words))


def _cells(letter: str) -> int:
    if unicodedata.combining(letter):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def fitted(words: str, width: int, more: str, right: bool = False) -> str:
    """The text cut or padded to exactly `width` cells."""
    missing = width - width_of(words)
    if missing >= 0:
        return " " * missing + words if right else words + " " * missing
    if width <= 0:
        return ""
    kept, left = [], width - 1
    for letter in words:
        left -= _cells(letter)
        if left < 0:
            left += _cells(letter)
            break
        kept.append(letter)
    return "".join(kept) + more + " " * left


class Frame:
    """One picture: its lines, and where a click does what."""

    def __init__(self, width: int, glyphs: Glyphs) -> None:
        self.width = width
        self.glyphs = glyphs
        self.lines: List[Line] = []
        self.zones: List[Zone] = []

    def put(self, *pieces: "Tuple[str, str]") -> None:
        """A line of these pieces, cut or filled up; where the last one is SELECTED, up to the edge."""
        line, left = [], self.width
        for style, words in pieces:
            size = width_of(words)
            if size > left:
                words, size = fitted(words, left, self.glyphs.more), left
            line.append((style, words))
            left -= size
        if left > 0:
            line.append((SELECTED if pieces and pieces[-1][0] == SELECTED else PLAIN, " " * left))
        self.lines.append(line)

    def fill(self, height: int) -> None:
        """Add empty lines up to `height` lines."""
        while len(self.lines) < height:
            self.put()

    def zone(self, start: int, end: int, action: "Action") -> None:
        """A click there, on the line that is put next, means that."""
        self.zones.append((len(self.lines), start, end, action))

    def action(self, row: int, column: int) -> "Optional[Action]":
        found = [action for line, start, end, action in self.zones if line == row and start <= column < end]
        return found[-1] if found else None

    def wrapped(self, words: str, style: str, most: int) -> None:
        """Up to `most` lines of it, broken at blanks."""
        for line in folded(words, self.width, most, self.glyphs.more):
            self.put((style, line))


def folded(words: str, width: int, most: int, more: str) -> "List[str]":
    """Up to `most` lines of it, broken at blanks; the last one is cut."""
    lines = [""]
    for word in words.split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if width_of(longer) <= width or not lines[-1]:
            lines[-1] = longer
        elif len(lines) < most:
            lines.append(word)
        else:
            lines[-1] = fitted(longer, width, more)
            break
    return lines


def heading(words: str, result: Frame) -> str:
    """A rule across the frame with words in it."""
    return result.glyphs.rule * 2 + words + result.glyphs.rule * max(0, result.width - len(words) - 2)


def key_hints(
    result: Frame, keys: "Sequence[Tuple[str, str, str]]", before: "Sequence[Tuple[str, str]]" = ()
) -> None:
    """What the keys do; each can be clicked."""
    pieces = list(before)
    column = sum([width_of(words) for _, words in pieces])
    for key, name, what in keys:
        result.zone(column, column + len(key) + 1 + width_of(what), ("key", name))
        pieces += [("class:key", key), (PLAIN, f" {what}"), (PLAIN, "  ")]
        column += len(key) + width_of(what) + 3
    result.put(*pieces[:-1])
