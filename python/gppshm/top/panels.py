"""Panels over or instead of the table: one heap in detail, the confirmation before cleaning, the help."""

from gppshm.cli import text
from gppshm.top.canvas import (
    BOLD,
    DIM,
    PLAIN,
    STATE_STYLES,
    WARN,
    Frame,
    fitted,
    folded,
    heading,
    key_hints,
    width_of,
)
from gppshm.top.table import cell_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Optional, Sequence, Tuple

    from gppshm.top.canvas import Glyphs, Line
    from gppshm.top.details import Details
    from gppshm.top.view import View

HELP = (
    ("Up Down PgUp PgDn Home End", "select; the wheel and a click do, too"),
    ("Enter, a second click", "all of a heap: blocks, superblocks, locks, holders, faults"),
    ("c", "remove the selected heap, if its creator is provably gone (asks first)"),
    ("C", "remove every orphaned heap (asks first)"),
    ("s, a click on a title", "sort by the next column; by the clicked one, or reverse it"),
    ("r", "reverse the order"),
    ("/", "show only heaps that match; Esc: all again"),
    ("q, Ctrl-C", "end; Ctrl-Z: to the background"),
    ("", ""),
    ("orphaned", "the creator is provably gone"),
    ("orphaned, attached", "the same, but the memory comes back when the peers exit"),
    ("unknown", "it cannot be proven either way: kept"),
    ("unreadable", "named as a heap, but not readable"),
    ("COMPONENT", "from the creator's command line: component, application; else the command"),
    ("ATT", "processes that hold it, without its living creator"),
    ("held 9.9M+", "at least this much: some processes could not be inspected"),
)


def confirmation(result: Frame, view: "View") -> None:
    rows = view.to_clean
    size = text.size_auto(sum([row.allocated for row in rows]))
    what = (
        f"Remove {len(rows)} orphaned heaps, {size}?" if len(rows) > 1 else f"Remove {rows[0].name}, {size}?"
    )
    width = max([width_of(row.name) for row in rows])
    lines = []
    for row in rows:
        size = text.size_auto(row.allocated)
        lines.append(f"{fitted(row.name, width, '')}  {size:>7}  {cell_words(row, 'component')}")
        if len(rows) == 1:
            lines += [row.command, *folded(f"{row.reason}", result.width - 8, 4, result.glyphs.more)]
    _box(result, view, what, lines, (("y", "y", "remove"), ("n", "n", "keep")))


def _help_lines(entries: "Sequence[Tuple[str, str]]", width: int, glyphs: "Glyphs") -> "List[str]":
    lines = []
    for key, what in entries:
        first, *others = folded(what, max(12, width - 30), 9, glyphs.more)
        lines.append(f"{key:<26} {first}")
        lines += [" " * 27 + other for other in others]
    return lines


def help_(result: Frame, view: "View", entries: "Sequence[Tuple[str, str]]" = HELP) -> None:
    """(key, action), or (word, meaning)"""
    lines = _help_lines(entries, result.width, result.glyphs)
    _box(result, view, "redhawk-shmtop", lines, (("Esc", "esc", "back"),))


def _box(
    result: Frame, view: "View", title: str, lines: "Sequence[str]", keys: "Sequence[Tuple[str, str, str]]"
) -> None:
    """Lines in a box over the middle of the screen; they can be scrolled."""
    height, width, glyphs = len(result.lines), result.width, result.glyphs
    shown_lines = max(1, min(len(lines), height - 4))
    first = view.lines(len(lines), shown_lines)
    top = max(0, (height - shown_lines - 3) // 2)
    box = Frame(width, glyphs)
    more = f" {first + 1} to {first + shown_lines} of {len(lines)} " if shown_lines < len(lines) else ""
    box.put(("class:titles", fitted(f"  {title}", width, glyphs.more)))
    for line in lines[first : first + shown_lines]:
        box.put((PLAIN, f"  {line}"))
    key_hints(box, keys, [(PLAIN, "  ")])
    box.put((DIM, heading(more, box)))
    over = box.lines[: height - top]
    result.lines[top : top + len(over)] = over
    if top + len(over) < height:
        result.lines[-1] = [(PLAIN, " " * width)]  # these keys do nothing now
    result.zones = [(row + top, start, end, action) for row, start, end, action in box.zones]


def details_(result: Frame, view: "View", details: "Optional[Details]", height: int) -> None:
    row = view.inspected_row()
    body = Frame(result.width, result.glyphs)
    if row is not None:
        style = STATE_STYLES.get(row.state, "class:unknown")
        used = f"{text.size_auto(row.used)} of {text.size_auto(row.size)} used"
        share = text.percent(row.used, row.size)
        result.put((BOLD, row.name), (PLAIN, f"  {used} ({share}%)  "), (style, row.state))
        body.wrapped(row.reason, style, 3)
        who = f"{row.component} of {row.application}" if row.application else row.component
        if who:
            body.put((DIM, "component  "), (PLAIN, who))
        body.put((DIM, "creator    "), (PLAIN, f"{row.creator or '?'}  {row.command}"))
    else:
        name = details.name if details is not None else ""
        result.put((BOLD, name), (WARN, "  it is not there any more; this was its last picture"))
    if details is None:
        body.put((DIM, "looking ..."))
    else:
        _facts(body, details)
    message = folded(view.message, result.width, 3, result.glyphs.more) if view.message else [""]
    room = max(1, height - 2 - len(message))
    first = view.lines(len(body.lines), room)
    seen = body.lines[first : first + room]
    result.lines += seen
    result.fill(height - 1 - len(message))
    where = (
        f" lines {first + 1} to {first + len(seen)} of {len(body.lines)} " if len(body.lines) > room else ""
    )
    for line in message:
        result.put((WARN if view.bad_news else BOLD, line) if view.message else (DIM, heading(where, result)))
    keys = [
        ("Esc", "esc", "back"),
        ("Up Down PgUp PgDn", "pagedown", "scroll"),
        ("c", "c", "clean"),
        ("q", "q", "back"),
    ]
    key_hints(result, keys)


def _facts(body: Frame, details: "Details") -> None:
    for key, words in details.header:
        body.put((DIM, f"{key:<11}"), (PLAIN, words))
    if details.error:
        body.put((WARN, f"! {details.error}"))
    _section(body, "faults", [] if details.faults else [(PLAIN, "none")])
    for fault in details.faults:
        body.put((WARN, f"! {fault}"))
    _section(body, "locks", [] if details.locks_taken else [(PLAIN, "all free")])
    for lock in details.locks_taken:
        style = WARN if str(lock.state) != "held" else PLAIN
        body.put((style, f"of the superblock at {lock.offset}: {lock.state}: {lock.reason}"))
    if details.more_locks:
        body.put((PLAIN, f"and {details.more_locks} more that are taken"))
    notes = [] if details.holders else ["none seen"]
    if details.unseen:
        notes.append(f"processes that could not be inspected: {details.unseen}")
    _section(body, "holders", [(PLAIN, "; ".join(notes))])
    for pid, ways, command in details.holders:
        body.put((BOLD, f"{pid:>8} "), (PLAIN, f" {ways}: {command}"))
    if details.superblocks:
        _blocks(body, details)


def _section(body: Frame, title: str, rest: "Line") -> None:
    body.put((DIM, f"{title:<11}"), *rest)


def _blocks(body: Frame, details: "Details") -> None:
    glyphs, total = body.glyphs, details.total
    free, partly, used, unknown = list(glyphs.cells)
    count = details.superblock_count
    unread = f"  {unknown} unreadable" if total.unknown else ""
    body.put(
        (DIM, "blocks     "),
        (PLAIN, f"{text.many(count, 'superblock')}; a cell is {text.size_auto(details.cell)}: "),
        (PLAIN, f"{used} used  {partly} partly  {free} free{unread}"),
    )
    for line in total.lines(text.size_auto, "  "):
        body.put((PLAIN, line))
    per_row = 8
    while per_row * 2 <= min(body.width - 4, 256):
        per_row *= 2
    for superblock in details.superblocks:
        tally, lock = superblock.tally, superblock.lock
        words = (
            f"superblock {superblock.number} of {count}, at {superblock.offset}:"
            f" {text.size_auto(tally.used)} used, {text.size_auto(tally.free)} free,"
            f" largest {text.size_auto(tally.largest)}"
        )
        body.put((PLAIN, words), (PLAIN, f", lock {lock.state}" if lock is not None else ""))
        for start in range(0, len(superblock.cells), per_row):
            cells = superblock.cells[start : start + per_row]
            body.put((PLAIN, "  "), ("class:heaps", "".join([glyphs.cells[kind] for kind in cells])))
    if count > len(details.superblocks):
        body.put((DIM, f"and {count - len(details.superblocks)} superblocks more"))
