"""The view of the state: order, filter, selection, and the open panel.

Knows no terminal: `terminal` turns keys and clicks into calls of these methods.
"""

from gppshm import creator, shmfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Sequence, Tuple

    from gppshm.top.state import Row

TABLE, FILTER, DETAILS, CONFIRM, HELP = "table", "filter", "details", "confirm", "help"

_RANKS = {creator.ORPHANED: 0, creator.ATTACHED: 1, creator.ALIVE: 3}
_SORTS: "Dict[str, Callable[[Row], Any]]" = {
    "state": lambda row: (_RANKS.get(row.state, 2), -row.allocated),
    "name": lambda row: (),
    "creator": lambda row: row.creator,
    "component": lambda row: (not row.component, row.component, row.application, row.command),
    "command": lambda row: row.command,
    "used": lambda row: -row.used,
    "size": lambda row: -row.allocated,
    "full": lambda row: -(row.used / row.size if row.size else 0.0),
    "attached": lambda row: -(row.attached or 0),
}
SORTS = tuple(_SORTS)
"""Orphans first; sizes and counts: the largest first."""


def _haystack(row: "Row") -> str:
    parts = (row.name, str(row.creator), row.component, row.application, row.command, row.state)
    return "\n".join(parts).lower()


def matching(rows: "Sequence[Any]", words: str, haystack: "Callable[[Any], str]" = _haystack) -> "List[Any]":
    """Rows that contain every one of the words, in any case."""
    wanted = words.lower().split()
    if not wanted:
        return list(rows)
    return [row for row in rows if all(word in haystack(row) for word in wanted)]


def ordered(
    rows: "Sequence[Any]",
    key: str,
    backwards: bool = False,
    sorts: "Dict[str, Callable[[Any], Any]]" = _SORTS,
) -> "List[Any]":
    """Sorted by one of `sorts`, then by name."""
    of = sorts[key]
    return sorted(rows, key=lambda row: (of(row), shmfs.pid_of_name(row.file), row.file), reverse=backwards)


class View:
    """The user's choices at the display.

    state     a state.State, or another object with `rows`, each with a name `file`; None before a scan
    rows      the listed rows, in order
    selected  the name of a heap; it stays selected when the order changes
    first     number of the row, or line, at the top
    message   the result of the last action, and whether it is an error
    to_clean  with CONFIRM: what a confirmation removes
    sorts, haystack  of the class: the sort keys of rows, and the text that a filter searches
    """

    sorts: "Dict[str, Callable[[Any], Any]]" = _SORTS
    haystack = staticmethod(_haystack)

    def __init__(self, sort: str = SORTS[0], words: str = "") -> None:
        self.sort = sort
        self.backwards = False
        self.words = words
        self.mode = TABLE
        self.state: Any = None
        self.rows: List[Any] = []
        self.selected = ""
        self.first = 0
        self.scroll = 0
        self.message = ""
        self.bad_news = False
        self.inspected = ""
        self.to_clean: List[Row] = []
        self._before = TABLE
        self._at = 0
        self._chosen = False

    # -- what is there ---------------------------------------------------------------------------------------

    def take(self, state: "Any") -> None:
        """Show a newer state."""
        if state is not None and state is not self.state:
            self.state = state
            self._arrange()

    def _arrange(self) -> None:
        rows = self.state.rows if self.state is not None else []
        self.rows = ordered(matching(rows, self.words, self.haystack), self.sort, self.backwards, self.sorts)
        found = [number for number, row in enumerate(self.rows) if self._chosen and row.file == self.selected]
        # If the selected row is gone, select its neighbour; without a selection, the first row.
        self._at = found[0] if found else max(0, min(self._at, len(self.rows) - 1))
        self.selected = self.rows[self._at].file if self.rows else ""

    @property
    def at(self) -> int:
        """The index of the selected row."""
        return self._at

    @property
    def row(self) -> "Any":
        """The selected row."""
        return self.rows[self._at] if self.rows else None

    def inspected_row(self) -> "Any":
        rows = self.state.rows if self.state is not None else ()
        return next((row for row in rows if row.file == self.inspected), None)

    # -- moving ----------------------------------------------------------------------------------------------

    def move(self, lines: int) -> None:
        if self.mode in (TABLE, FILTER):
            self.select(self._at + lines)
        else:
            self.scroll = max(0, self.scroll + lines)

    def select(self, number: int) -> None:
        if self.rows:
            self._at = max(0, min(number, len(self.rows) - 1))
            self.selected = self.rows[self._at].file
            self._chosen = self._at > 0

    def window(self, height: int) -> "Tuple[int, List[Any]]":
        """The rows visible in `height` lines, including the selected one, and the number of the first."""
        self.first = max(self._at - height + 1, min(self.first, self._at, max(0, len(self.rows) - height)))
        return self.first, self.rows[self.first : self.first + height]

    def lines(self, count: int, height: int) -> int:
        """The first line to show, of `count` lines in `height`."""
        self.scroll = max(0, min(self.scroll, count - height))
        return self.scroll

    # -- choosing --------------------------------------------------------------------------------------------

    def sort_by(self, key: str) -> None:
        """Sort by this key, or reverse the order if it is the present one."""
        self.backwards = not self.backwards if key == self.sort else False
        self.sort = key
        self._arrange()

    def next_sort(self) -> None:
        names = list(self.sorts)
        self.sort = names[(names.index(self.sort) + 1) % len(names)]
        self.backwards = False
        self._arrange()

    def filter(self, words: str) -> None:
        self.words = words
        self._arrange()

    def say(self, message: str, bad_news: bool = False) -> None:
        self.message, self.bad_news = message, bad_news

    def open(self, mode: str) -> None:
        self._before, self.mode, self.scroll = self.mode, mode, 0

    def ask(self, rows: "Sequence[Row]") -> None:
        """Ask for confirmation to remove these."""
        self.to_clean = ordered(rows, "name")
        self.open(CONFIRM)

    def close(self) -> None:
        """Back to the view before."""
        self.mode, self._before, self.scroll = self._before if self.mode == CONFIRM else TABLE, TABLE, 0
