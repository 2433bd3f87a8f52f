"""redhawk-shmtop --domain: every host of a REDHAWK domain as lines of a screen, and the thread that queries
them.

Knows neither the terminal nor CORBA: it is given a `gppshm.redhawk.domain.Domain`.
"""

import functools
import threading
import time

from gppshm.cli import shminfo_domain, text
from gppshm.top import panels, table
from gppshm.top import view as views
from gppshm.top.canvas import BOLD, DIM, PLAIN, WARN, Frame, fitted, heading, key_hints, width_of
from gppshm.top.state import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List

    from gppshm.redhawk.domain import Domain, Host
    from gppshm.top.canvas import Glyphs, Line

INTERVAL = 2.0
"""Seconds from a complete answer to the next query."""
STALE = 10.0
"""Seconds; the age of an older answer is shown."""

TITLES = {
    "HOST": "name",
    "DEVICE": "device",
    "SIZE": "size",
    "FREE": "",
    "FREE%": "free",
    "USED": "free",
    "HEAPS": "heaps",
    "ORPHANED": "orphaned",
    "HELD": "held",
    "RESERVED": "reserved",
    "CAPACITY": "capacity",
    "STATE": "",
}
"""The columns in their order, and what a click on each sorts by."""
DISPENSABLE = ("CAPACITY", "RESERVED", "HELD", "SIZE", "DEVICE", "FREE", "USED")
"""What goes where a line has no room, the first first."""
LEFT = (*shminfo_domain.WORDS, "USED")
"""The columns that are words or pictures: the others are numbers, and stand to the right."""
BAR = 12


class FleetRow:
    """One device; `words` by column."""

    __slots__ = ("file", "host", "words")

    def __init__(self, host: "Host") -> None:
        self.host = host
        self.file = shown(f"{host.node}/{host.device}")
        words = shminfo_domain.cells(host, text.size_auto)
        self.words = {title: shown(word) for title, word in zip(shminfo_domain.TITLES, words)}

    def number(self, name: str) -> int:
        """One of the sizes; negative if unknown."""
        return int(self.host.usage.get(name, -1))


class FleetState:
    """One answer; `failure`: why there is none, and `rows` is the last answer."""

    def __init__(self, domain: str, rows: "List[FleetRow]", failure: str = "") -> None:
        self.domain = shown(domain)
        self.rows = rows
        self.failure = shown(failure)
        self.total = shminfo_domain.total([row.host for row in rows])
        self.seen = time.monotonic()


class FleetView(views.View):
    """Worst first, unless another order is chosen."""

    sorts = {
        "free": lambda row: (not row.host.error, row.host.usage.get("free_percent", 0.0)),
        "name": lambda row: row.host.name,
        "device": lambda row: row.file,
        "size": lambda row: -row.number("total"),
        "heaps": lambda row: -len(row.host.heaps),
        "orphaned": lambda row: -row.host.orphaned_size,
        "held": lambda row: -row.number("held"),
        "reserved": lambda row: -row.number("reserved"),
        "capacity": lambda row: -row.host.capacity,
    }
    haystack = staticmethod(lambda row: "\n".join([row.words["HOST"], row.file, row.words["STATE"]]).lower())

    def __init__(self, words: str = "") -> None:
        super().__init__("free", words)


class Asker(threading.Thread):
    """Queries the domain again and again; `state` is the newest answer, and `on_change` is called after each.

    domain.Failure if the domain cannot be reached at the start.
    """

    def __init__(self, domain: "Domain") -> None:
        super().__init__(name="asker", daemon=True)
        self._domain = domain
        self._stopped = threading.Event()
        self.on_change: Callable[[], None] = lambda: None
        self.state = self._ask()

    def stop(self) -> None:
        self._stopped.set()

    def run(self) -> None:
        while not self._stopped.wait(INTERVAL):
            try:
                self.state = self._ask()
            except Exception as error:
                # domain.Failure has a full message; anything else is an internal error.
                words = str(error) or type(error).__name__
                self.state = FleetState(self._domain.name, self.state.rows, words)
            self.on_change()

    def _ask(self) -> FleetState:
        return FleetState(self._domain.name, [FleetRow(host) for host in self._domain.query(detailed=True)])


def frame(view: views.View, width: int, height: int, glyphs: "Glyphs") -> Frame:
    """The whole screen, in `height` lines."""
    result = Frame(width, glyphs)
    if view.mode == views.DETAILS:
        _details(result, view, height)
    else:
        _table(result, view, height)
    result.fill(height)
    del result.lines[height:]
    if view.mode == views.HELP:
        panels.help_(result, view, HELP)
    return result


def once(view: FleetView, glyphs: "Glyphs") -> "List[str]":
    """All devices as plain lines, as wide as needed."""
    columns = _columns(view.rows, 1 << 30)
    result = Frame(max(80, sum(columns.values()) + len(columns)), glyphs)
    _head(result, view.state)
    _titles(result, view, columns)
    for row in view.rows:
        result.put(*_cells(row, columns, glyphs))
    return ["".join([words for _, words in line]).rstrip() for line in result.lines]


def _table(result: Frame, view: views.View, height: int) -> None:
    _head(result, view.state)
    table.filter_line(result, view)
    columns = _columns(view.rows, result.width)
    _titles(result, view, columns)
    about = 2 if height >= 8 else 0
    nowhere = f"no host matches: {view.words}"
    none = nowhere if view.state.rows else "no GppShmPlugin answers"
    cells = functools.partial(_cells, columns=columns, glyphs=result.glyphs)
    table.listing(result, view, cells, none, height - about - 1)
    table.about_row(result, view, about, _describe)
    table.bottom(result, view, KEYS)


def _describe(result: Frame, row: FleetRow, lines: int) -> None:
    result.wrapped(f"{row.file}: {row.words['STATE']}", WARN if row.host.error else PLAIN, lines)


KEYS = tuple(key for key in table.KEYS if key[0] not in ("c", "C"))


def _head(result: Frame, state: FleetState) -> None:
    total = state.total
    many = f"{text.many(total['hosts'], 'host')}, {text.many(total['heaps'], 'heap')}"
    pieces = [(BOLD, state.domain), (PLAIN, f"  {many}, ")]
    orphans = f"{total['orphaned']} orphaned"
    if total["orphaned"]:
        orphans += f" ({text.size_auto(total['orphaned_size'])})"
    pieces.append(("class:alarm" if total["orphaned"] else PLAIN, orphans))
    if total["silent"]:
        pieces.append((WARN, f", {total['silent']} without an answer"))
    result.put(*pieces)
    used = f" {text.size_auto(total['used'])} of {text.size_auto(total['size'])} used"
    cells = max(0, result.width - len(used) - 2)
    full = round(cells * total["used"] / total["size"]) if total["size"] else 0
    glyphs = result.glyphs
    result.put(
        (PLAIN, "["),
        ("class:full", glyphs.full * full),
        (DIM, glyphs.empty * (cells - full)),
        (PLAIN, "]" + used),
    )
    age = time.monotonic() - state.seen
    if state.failure:
        result.put((WARN, state.failure))
    elif age > STALE:
        result.put((WARN, f"this is {age:.0f} seconds old"))


def _columns(rows: "List[Any]", width: int) -> "Dict[str, int]":
    """The width of each column; without those that do not fit."""
    widths = {}
    for title in TITLES:
        if title == "USED":
            widths[title] = BAR
        else:
            widths[title] = max([width_of(row.words[title]) for row in rows] + [len(title) + 1])
    widths["STATE"] = min(widths["STATE"], 40)
    for title in DISPENSABLE:
        if sum(widths.values()) + len(widths) - 1 <= width:
            break
        del widths[title]
    return widths


def _titles(result: Frame, view: views.View, columns: "Dict[str, int]") -> None:
    titles = []
    for title, width in columns.items():
        marked = TITLES[title] == view.sort and title != "USED"
        words = title + (table.arrow(result, view) if marked else "")
        titles.append((words, width, TITLES[title], title not in LEFT))
    table.title_line(result, titles)


def _cells(row: FleetRow, columns: "Dict[str, int]", glyphs: "Glyphs") -> "Line":
    pieces = []
    host = row.host
    style = WARN if host.error else "class:orphan" if host.orphans else PLAIN
    for title, width in columns.items():
        if title == "USED":
            full = 0 if host.error else round(width * (100.0 - host.usage["free_percent"]) / 100.0)
            pieces.append(("class:full", glyphs.full * full))
            pieces.append((DIM, glyphs.empty * (width - full) + " "))
            continue
        words = fitted(row.words[title], width, glyphs.more, title not in LEFT)
        pieces.append((style if title in ("HOST", "ORPHANED", "STATE") else PLAIN, words + " "))
    return table.without_last_blank(pieces)


def _details(result: Frame, view: views.View, height: int) -> None:
    """All heaps of one host, and its recent removals."""
    row = view.inspected_row()
    if row is None or row.host.error:
        why = row.words["STATE"] if row is not None else "it is not among the devices any more"
        result.put((BOLD, view.inspected), (WARN, f": {why}"))
        lines: List[Any] = []
    else:
        host = row.host
        free = f"  {text.size_auto(host.usage['free'])} of {text.size_auto(host.usage['total'])} free"
        result.put((BOLD, row.words["HOST"]), (PLAIN, f"  {row.file}{free}, {row.words['STATE']}"))
        lines = _lines(host, result)
    rows = max(1, height - 2)
    first = view.lines(len(lines), rows)
    for line in lines[first : first + rows]:
        result.put(line)
    result.fill(height - 1)
    key_hints(result, (("Esc", "esc", "back"), ("Up Down", "down", "scroll")))


def _lines(host: "Host", result: Frame) -> "List[Any]":
    lines = [(DIM, heading(f" {text.many(len(host.heaps), 'heap')} ", result))]
    for heap in sorted(host.heaps, key=lambda heap: (not host.is_orphan(heap), -heap["file_size"])):
        who = heap["component"] + (f" ({heap['application']})" if heap["application"] else "")
        used = f"{text.size_auto(heap['used'])}/{text.size_auto(heap['heap_size'])}"
        who = fitted(shown(who or table.program(heap["command"])), 24, result.glyphs.more)
        words = f"{shown(heap['name']):<14} {used:>13}  {who} "
        style = "class:orphan" if host.is_orphan(heap) else PLAIN
        lines.append((style, f"{words} {shown(heap['state'])}: {shown(heap['reason'])}"))
    lines.append((DIM, heading(f" removed lately: {len(host.recent) or 'nothing'} ", result)))
    for removal in host.recent:
        clock = time.strftime("%H:%M:%S", time.localtime(removal["time"]))
        size = text.size_auto(removal["bytes"])
        lines.append((PLAIN, f"{clock} {shown(removal['name'])} {size}: {shown(removal['reason'])}"))
    return lines


HELP = (
    ("Up Down PgUp PgDn Home End", "select; the wheel and a click do, too"),
    ("Enter, a second click", "the heaps of that host, and what was removed there lately"),
    ("s, a click on a title", "sort by the next column; by the clicked one, or reverse it"),
    ("r", "reverse the order"),
    ("/", "show only hosts that match; Esc: all again"),
    ("q, Ctrl-C", "end; Ctrl-Z: to the background"),
    ("", ""),
    ("does not answer", "the device, or its host, hangs or is cut off; other kinds of device, too"),
    ("orphans", "orphans that could not be removed: check that host"),
    ("", "Nothing is cleaned from here: redhawk-shmclean does, on that host"),
)
