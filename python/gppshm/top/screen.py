"""The display of one host: the actions of the keys, and the threads that scan and clean for it."""

from gppshm.cli import text
from gppshm.top import panels, table
from gppshm.top import view as views
from gppshm.top.canvas import PLAIN, Frame
from gppshm.top.cleaning import Cleaning, refusal
from gppshm.top.details import Inspector
from gppshm.top.terminal import Terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, List, Optional

    from gppshm.top.canvas import Glyphs
    from gppshm.top.details import Details
    from gppshm.top.scanner import Scanner
    from gppshm.top.state import Row


class Display(Terminal):
    def __init__(
        self, root: str, make_scanner: "Callable[[Callable[[], None]], Scanner]", view: views.View
    ) -> None:
        super().__init__(view)
        self.root = root
        self._scanner = make_scanner(self.refresh)
        self._inspector = Inspector(root, self.refresh)
        self._cleaning: Optional[Cleaning] = None

    def start(self) -> None:
        self._scanner.start()
        self._inspector.start()

    def stop(self) -> None:
        self._scanner.stop()
        if self._cleaning is not None:
            self._cleaning.end()

    def frame(self, width: int, height: int) -> Frame:
        self.view.take(self._scanner.state)
        return _frame(self.view, self._inspector.details, width, height, self.glyphs)

    def inspect(self, name: "Optional[str]") -> None:
        self._inspector.show(name)

    def press_in_table(self, key: str) -> None:
        view = self.view
        if key == "c" and view.row is not None:
            self._ask_for([view.row])
        elif key == "C":
            self._ask_for(view.state.orphans if view.state is not None else [])
        else:
            super().press_in_table(key)

    def press_in_details(self, key: str) -> None:
        row = self.view.inspected_row()
        if key == "c" and row is not None:
            self._ask_for([row])
        else:
            super().press_in_details(key)

    def _ask_for(self, rows: "List[Row]") -> None:
        """Ask, unless what shmclean refuses is asked for."""
        refused = [refusal(row) for row in rows if refusal(row)]
        if self._cleaning is not None and self._cleaning.is_alive():
            self.view.say("it is still cleaning")
        elif refused:
            self.view.say(refused[0], True)
        elif rows:
            self.view.ask(rows)
        else:
            self.view.say("no heap is orphaned: there is nothing to clean")

    def confirm(self) -> None:
        rows = self.view.to_clean
        self.view.close()
        self.view.say(f"removing {text.many(len(rows), 'heap')} ...")
        self._cleaning = Cleaning(self.root, rows, self._scanner, self._cleaned)
        self._cleaning.start()

    def _cleaned(self, message: str, bad_news: bool) -> None:
        self.view.say(message, bad_news)
        self.refresh()


def _frame(
    view: views.View, details: "Optional[Details]", width: int, height: int, glyphs: "Glyphs"
) -> Frame:
    """The whole screen, in `height` lines."""
    result = Frame(width, glyphs)
    state = view.state
    if state is None:
        result.put((PLAIN, "first scan of the shared memory ..."))
    elif view.mode == views.DETAILS or (view.mode == views.CONFIRM and view.inspected):
        panels.details_(result, view, details, height)
    else:
        table.table(result, view, state, height)
    result.fill(height)
    del result.lines[height:]
    if view.mode == views.CONFIRM:
        panels.confirmation(result, view)
    elif view.mode == views.HELP:
        panels.help_(result, view)
    return result
