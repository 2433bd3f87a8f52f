"""The whole screen as lines of (style, text)."""

from gppshm.top import panels, table
from gppshm.top import view as views
from gppshm.top.canvas import PLAIN, Frame

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional

    from gppshm.top.canvas import Glyphs
    from gppshm.top.details import Details
    from gppshm.top.view import View


def frame(view: "View", details: "Optional[Details]", width: int, height: int, glyphs: "Glyphs") -> Frame:
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
