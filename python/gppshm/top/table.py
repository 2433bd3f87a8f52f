"""The table of heaps, with the file system above and recent removals below."""

import functools
import time

from gppshm.cli import text
from gppshm.top import view as views
from gppshm.top.canvas import (
    BOLD,
    DIM,
    PLAIN,
    SELECTED,
    STATE_STYLES,
    WARN,
    Frame,
    fitted,
    folded,
    heading,
    key_hints,
    width_of,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Sequence, Tuple

    from gppshm.top.canvas import Glyphs, Line
    from gppshm.top.state import Removal, Room, Row, State
    from gppshm.top.view import View

SECONDS_PER_CELL = 5.0
"""Of the history."""
STALE = 5.0
"""Seconds; the age of an older scan is shown."""

STATE_WIDTH = 18
WANTED = (
    ("usage", 13),
    ("component", 10),
    ("bar", 8),
    ("attached", 3),
    ("creator", 7),
    ("command", 20),
    ("reason", 40),
)
"""The columns besides name and state, the most needed first, and how wide they are at least."""
GROWING = (("component", 20), ("bar", 16), ("command", 60), ("reason", 1000))
"""Which get what is left then, and how wide they become; without a command, the first of them gets all."""
TITLES = {
    "name": ("HEAP", "name"),
    "creator": ("CREATOR", "creator"),
    "component": ("COMPONENT", "component"),
    "command": ("COMMAND", "command"),
    "usage": ("USED OF SIZE", "used"),
    "bar": ("FULL", "full"),
    "attached": ("ATT", "attached"),
    "state": ("STATE", "state"),
    "reason": ("BECAUSE", ""),
}
"""The columns in their order: title, and what a click on it sorts by."""


def once(view: "View", width: int, glyphs: "Glyphs") -> "List[str]":
    """All heaps as plain lines; `width` 0: as wide as needed."""
    state = view.state
    assert state is not None
    widths = _columns(view.rows, width) if width else _full_columns(view.rows)
    result = Frame(width or max(100, sum(widths.values()) + len(widths)), glyphs)
    _head(result, state, 3 if len(state.history) < 2 else 4)
    _titles(result, view, widths)
    for row in view.rows:
        result.put(*_cells_of(row, widths, glyphs))
        if "reason" not in widths:
            for line in folded(row.reason, result.width - 4, 3, glyphs.more):
                result.put((PLAIN, "    " + line))
    return ["".join([words for _, words in line]).rstrip() for line in result.lines]


def table(result: Frame, view: "View", state: "State", height: int) -> None:
    head = 4 if height >= 16 else 3 if height >= 12 else 1
    about = 3 if height >= 20 else 2 if height >= 10 else 1 if height >= 6 else 0
    removals = 4 if height >= 24 else 2 if height >= 18 else 0
    _head(result, state, head)
    filter_line(result, view)
    widths = _columns(view.rows, result.width)
    _titles(result, view, widths)
    nowhere = f"no heap matches: {view.words}"
    none = nowhere if state.rows else f"no heap lies in {state.root}"
    cells = functools.partial(_cells_of, widths=widths, glyphs=result.glyphs)
    listing(result, view, cells, none, height - about - removals - 1)
    _removed(result, state.removals, removals)
    about_row(result, view, about, _describe)
    bottom(result, view, KEYS)


def _head(result: Frame, state: "State", lines: int) -> None:
    room, glyphs = state.room, result.glyphs
    heaps = text.many(len(state.rows), "heap")
    orphans = (
        f"{len(state.orphans)} orphaned ({text.size_auto(sum([row.allocated for row in state.orphans]))})"
    )
    clock = time.strftime("%H:%M:%S", time.localtime(state.time))
    left = [
        (BOLD, f"{state.root}  " if result.width >= len(state.root) + 40 else ""),
        (PLAIN, f"{heaps}, "),
        ("class:alarm" if state.orphans else PLAIN, orphans),
        (PLAIN, f"  {text.size_auto(room.used)} of {text.size_auto(room.size)} used"),
        (PLAIN, f" ({text.percent(room.used, room.size)}%)"),
    ]
    gap = result.width - len(clock) - sum([width_of(words) for _, words in left])
    result.put(*left, *([(PLAIN, " " * gap), (DIM, clock)] if gap > 0 else []))
    if lines >= 3:
        result.put(*_bar(room, result.width, glyphs))
        _legend(result, room)
    if lines >= 4:
        result.put(*_history(state, result.width, glyphs))
    age = time.monotonic() - state.seen
    troubles = [f"what is shown is {age:.0f} s old"] if age > STALE else []
    for trouble in [*troubles, *state.troubles][:2]:
        result.put((WARN, f"! {trouble}"))


def _legend(result: Frame, room: "Room") -> None:
    """The meaning of the bar's glyphs; shorter if there is little room."""
    glyphs = result.glyphs
    parts = (
        ("class:heaps", glyphs.heaps, "heaps", "heaps", room.heaps, ""),
        ("class:other", glyphs.other, "other", "other", room.other, ""),
        ("class:held", glyphs.held, "unlinked, held", "held", room.held, "+" if room.at_least else ""),
        ("class:reserved", glyphs.reserved, "reserved", "", room.reserved, ""),
        (DIM, glyphs.free, "free", "free", room.free, ""),
    )
    for number in (0, 1):
        pieces = []
        for style, glyph, *words, amount, more in parts:
            if words[number]:
                pieces += [(style, glyph), (PLAIN, f" {words[number]} {text.size_auto(amount)}{more}  ")]
        if sum([width_of(words) for _, words in pieces]) <= result.width + 2:
            break
    result.put(*without_last_blank(without_last_blank(pieces)))


def _bar(room: "Room", width: int, glyphs: "Glyphs") -> "Line":
    """The file system as a bar; every part that is not empty has at least one cell."""
    parts = (
        (room.heaps, "class:heaps", glyphs.heaps),
        (room.other, "class:other", glyphs.other),
        (room.held, "class:held", glyphs.held),
        (room.reserved, "class:reserved", glyphs.reserved),
    )
    cells = max(0, width - 2)
    line, left = [(DIM, "[")], cells
    for amount, style, glyph in parts:
        count = min(left, max(1, round(cells * amount / room.size))) if amount and room.size else 0
        line.append((style, glyph * count))
        left -= count
    return line + [(DIM, glyphs.free * left + "]")]


def _history(state: "State", width: int, glyphs: "Glyphs") -> "Line":
    """The highest use in each SECONDS_PER_CELL; the newest at the right."""
    cells = max(1, width - 24)
    peaks: Dict[int, int] = {}
    now = int(state.seen / SECONDS_PER_CELL)
    for seen, used in state.history:
        age = now - int(seen / SECONDS_PER_CELL)
        if age < cells:
            peaks[age] = max(peaks.get(age, 0), used)
    highest = max(peaks.values(), default=0)
    top = len(glyphs.levels) - 1
    line = ""
    for age in range(max(peaks, default=0), -1, -1):
        used = peaks.get(age, 0)
        line += glyphs.levels[max(1 if used else 0, round(top * used / highest))] if highest else " "
    minutes = (max(peaks, default=0) + 1) * SECONDS_PER_CELL / 60
    return [
        (DIM, f"used, {minutes:4.1f} min "),
        ("class:history", line),
        (DIM, f" peak {text.size_auto(highest)}"),
    ]


def _columns(rows: "Sequence[Row]", width: int) -> "Dict[str, int]":
    """The width of each column on a line of `width` cells; columns that do not fit are left out."""
    name = min(20, max([width_of(row.name) for row in rows] + [9]))
    left = width - name - 1 - STATE_WIDTH
    if left < 0:
        name = min(name, max(4, width - 9))
        return {"name": name, "state": max(0, width - name - 1)}
    widths = {"name": name, "state": STATE_WIDTH}
    for key, least in WANTED:
        if left <= least:
            break
        widths[key] = least
        left -= least + 1
    for key, most in GROWING:
        if key in widths and left:
            more = min(left, most - widths[key] if "command" in widths else left)
            widths[key] += more
            left -= more
    return widths


def _full_columns(rows: "Sequence[Row]") -> "Dict[str, int]":
    """Widths that cut nothing."""
    widths = {key: least for key, least in WANTED if key in ("usage", "bar", "attached")}
    for key in ("name", "creator", "component", "command", "state", "reason"):
        widths[key] = max([width_of(cell_words(row, key)) for row in rows] + [len(TITLES[key][0]) + 1])
    return widths


def _titles(result: Frame, view: "View", widths: "Dict[str, int]") -> None:
    titles = []
    for key, (title, sort) in TITLES.items():
        if key not in widths:
            continue
        if (sort and view.sort == sort) or (key == "usage" and view.sort == "size"):
            title += arrow(result, view)
        titles.append((title, widths[key], sort, False))
    title_line(result, titles)


def cell_words(row: "Row", key: str) -> str:
    """The text of that column."""
    if key == "component":
        if not row.component:
            return program(row.command)
        return f"{row.component} ({row.application})" if row.application else row.component
    if key == "creator":
        return str(row.creator or "?")
    return str(getattr(row, key))


def program(command: str) -> str:
    """The first word without its directory."""
    first = command.split(" ")[0]
    return first.rpartition("/")[2] or first


def _cells_of(row: "Row", widths: "Dict[str, int]", glyphs: "Glyphs") -> "Line":
    pieces = []
    style = STATE_STYLES.get(row.state, "class:unknown")
    for key in TITLES:
        if key not in widths:
            continue
        width = widths[key]
        if key == "usage":
            words = f"{text.size_auto(row.used):>6}/{text.size_auto(row.size):<6}"
        elif key == "bar":
            full = min(width, round(width * row.used / row.size)) if row.size else 0
            pieces.append(("class:full", glyphs.full * full))
            pieces.append((DIM, glyphs.empty * (width - full) + " "))
            continue
        elif key == "attached":
            words = f"{'?' if row.attached is None else row.attached:>3}"
        else:
            words = cell_words(row, key)
        bright = style if key in ("name", "state", "reason") else PLAIN
        pieces.append((bright, fitted(words, width, glyphs.more, key == "creator") + " "))
    return without_last_blank(pieces)


def _removed(result: Frame, removals: "Sequence[Removal]", lines: int) -> None:
    if not lines:
        return
    result.put((DIM, heading(f" removed lately: {len(removals) or 'nothing'} ", result)))
    for removal in removals[: lines - 1]:
        row = removal.row
        clock = time.strftime("%H:%M:%S", time.localtime(removal.time))
        who = row.component or program(row.command)
        what = f"{clock} {row.name} {text.size_auto(row.allocated)} ({who})"
        why = removal.why
        if removal.left and removal.orphan:
            holders = "1 process" if removal.holders == 1 else f"{removal.holders} processes"
            why = f"{text.size_auto(removal.left)} of it left, held by {holders}; {why}"
        result.put((BOLD if removal.orphan else PLAIN, what), (PLAIN, f": {why}"))
    for _ in range(lines - 1 - len(removals)):
        result.put()


def _describe(result: Frame, row: "Row", lines: int) -> None:
    """Facts about the selected heap that do not fit into the table."""
    end = len(result.lines) + lines
    style = STATE_STYLES.get(row.state, "class:unknown")
    result.wrapped(f"{row.name} {row.state}: {row.reason}", style, min(lines, 2))
    if len(result.lines) < end:
        result.put((DIM, row.command))


KEYS = (
    ("Enter", "enter", "look"),
    ("c", "c", "clean"),
    ("C", "C", "clean all"),
    ("s", "s", "sort"),
    ("r", "r", "reverse"),
    ("?", "?", "help"),
    ("q", "q", "quit"),
    ("/", "/", "filter"),
)


# -- what every table on a screen has ------------------------------------------------------------------------


def filter_line(result: Frame, view: "View") -> None:
    """The present filter, if any."""
    if view.words and view.mode != views.FILTER:
        result.zone(0, result.width, ("key", "esc"))
        shows = f"  shows {len(view.rows)} of {len(view.state.rows)}; Esc: all"
        result.put((BOLD, f"filter: {view.words}"), (DIM, shows))


def arrow(result: Frame, view: "View") -> str:
    """The sort direction, shown behind a title."""
    return result.glyphs.down if view.backwards else result.glyphs.up


def title_line(result: Frame, titles: "Sequence[Tuple[str, int, str, bool]]") -> None:
    """(text, width, sort key of a click or "", whether right-aligned) of each column."""
    pieces, column = [], 0
    for words, width, sort, right in titles:
        if sort:
            result.zone(column, column + width, ("sort", sort))
        pieces.append(("class:titles", fitted(words, width, result.glyphs.more, right) + " "))
        column += width + 1
    result.put(*without_last_blank(pieces))


def listing(result: Frame, view: "View", cells: "Callable[[Any], Line]", none: str, end: int) -> None:
    """The rows that fit above line `end`, the selected one marked; `none` if there are no rows."""
    first, rows = view.window(max(1, end - len(result.lines)))
    for number, row in enumerate(rows, first):
        result.zone(0, result.width, ("row", str(number)))
        chosen = number == view.at
        result.put(*[(SELECTED, words) if chosen else (style, words) for style, words in cells(row)])
    if not view.rows:
        result.put((DIM, none))
    result.fill(end)


def about_row(result: Frame, view: "View", lines: int, describe: "Callable[[Frame, Any, int], None]") -> None:
    """So many lines: the last message, or else what `describe` says about the selected row."""
    if not lines:
        return
    end = len(result.lines) + lines
    if view.message:
        result.wrapped(view.message, WARN if view.bad_news else BOLD, lines)
    elif view.row is not None:
        describe(result, view.row, lines)
    result.fill(end)


def bottom(result: Frame, view: "View", keys: "Sequence[Tuple[str, str, str]]") -> None:
    """The key hints or, while a filter is typed, the filter."""
    if view.mode == views.FILTER:
        key_hints(
            result,
            (("Enter", "enter", "keep"), ("Esc", "esc", "all")),
            [(BOLD, f"filter: {view.words}"), (SELECTED, " "), (PLAIN, "  ")],
        )
        return
    key_hints(result, keys)


def without_last_blank(pieces: "Line") -> "Line":
    style, words = pieces[-1]
    return [*pieces[:-1], (style, words[:-1])]
