"""A full screen: prompt_toolkit draws lines, reads keys and mouse, and follows the terminal's size.

The only module that imports it.  Scans and removals run in threads of their own; nothing here waits for them.
"""

import asyncio
import os
import signal
import sys

from prompt_toolkit.application import Application
from prompt_toolkit.data_structures import Point
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.layout import Layout, Window
from prompt_toolkit.layout.controls import UIContent, UIControl
from prompt_toolkit.mouse_events import MouseEvent, MouseEventType
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.styles import Style

from gppshm.cli import text
from gppshm.top import canvas
from gppshm.top import view as views
from gppshm.top.state import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, List, Optional

STYLE = {
    "bold": "bold",
    "dim": "ansibrightblack",
    "warn": "bold ansiyellow",
    "alarm": "bold ansired",
    "selected": "reverse",
    "titles": "reverse bold",
    "key": "bold ansicyan",
    "orphan": "bold ansired",
    "attached": "bold ansimagenta",
    "unknown": "ansiyellow",
    "heaps": "ansigreen",
    "other": "ansiblue",
    "held": "ansimagenta",
    "reserved": "ansicyan",
    "full": "ansigreen",
    "history": "ansigreen",
}
PLAIN_STYLE = {key: words for key, words in STYLE.items() if "ansi" not in words}
PLAIN_STYLE.update(alarm="bold reverse", orphan="bold", attached="bold", warn="bold", key="bold")

REDRAW = 5.0
"""Seconds after which the screen is redrawn without news: the scanner may be stuck."""
SHORTEST_FRAME = 0.05
"""Seconds between frames, at least."""
WHEEL = 3


class Board(UIControl):
    """The only control: the whole screen, and the mouse on it."""

    def __init__(self, terminal: "Terminal") -> None:
        self._terminal = terminal

    def create_content(self, width: int, height: int) -> UIContent:
        lines = self._terminal.draw(width, height)

        def line(number: int) -> StyleAndTextTuples:
            return list(lines[number])

        return UIContent(get_line=line, line_count=len(lines), show_cursor=False, cursor_position=Point(0, 0))

    def is_focusable(self) -> bool:
        return True

    def mouse_handler(self, mouse_event: MouseEvent) -> "Any":
        position, kind = mouse_event.position, mouse_event.event_type
        if kind == MouseEventType.SCROLL_UP:
            self._terminal.guarded(lambda: self._terminal.view.move(-WHEEL))
        elif kind == MouseEventType.SCROLL_DOWN:
            self._terminal.guarded(lambda: self._terminal.view.move(WHEEL))
        elif kind == MouseEventType.MOUSE_UP:
            self._terminal.guarded(lambda: self._terminal.click(position.x, position.y))
        else:
            return NotImplemented
        return None


class Terminal:
    """The application, and the keys that all displays share; subclasses do the rest."""

    def __init__(self, view: views.View) -> None:
        self.view = view
        self.glyphs = canvas.Glyphs(text.draws_blocks())
        self._frame = canvas.Frame(80, self.glyphs)
        colours = has_colours()
        self._application: Application[None] = Application(
            layout=Layout(Window(Board(self), always_hide_cursor=True)),
            key_bindings=self._bindings(),
            style=Style.from_dict(STYLE if colours else PLAIN_STYLE),
            color_depth=ColorDepth.DEPTH_4_BIT if colours else ColorDepth.DEPTH_1_BIT,
            full_screen=True,
            mouse_support=True,
            min_redraw_interval=SHORTEST_FRAME,
            refresh_interval=REDRAW,
        )
        # Do not wait for a sequence after a single Esc.
        self._application.ttimeoutlen = 0.05
        self._application.timeoutlen = 0.05

    # -- to be overridden -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the scanning threads."""
        raise NotImplementedError

    def stop(self) -> None:
        raise NotImplementedError

    def frame(self, width: int, height: int) -> canvas.Frame:
        """The lines of the screen."""
        raise NotImplementedError

    def inspect(self, name: "Optional[str]") -> None:
        """Open the row of that name; None: close it."""

    def confirm(self) -> None:
        """The user has confirmed the question."""

    # -- the application ------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Draw again; from any thread."""
        self._application.invalidate()

    def run(self) -> None:
        """Run until a key or a signal ends it."""
        self.start()
        try:
            self._application.run(pre_run=self._handle_signals)
        finally:
            self.stop()

    def _handle_signals(self) -> None:
        loop = asyncio.get_event_loop()
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            if signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, self.quit)
        # A parent may have blocked them, and masks are inherited.
        signal.pthread_sigmask(
            signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGWINCH)
        )

    def quit(self) -> None:
        if self._application.is_running and not self._application.is_done:
            self._application.exit()

    def draw(self, width: int, height: int) -> "List[canvas.Line]":
        try:
            self._frame = self.frame(width, height)
        except Exception as error:
            self._frame = canvas.Frame(width, self.glyphs)
            self._frame.wrapped(_fault(error), canvas.WARN, height)
        return self._frame.lines

    def guarded(self, act: "Callable[[], None]") -> None:
        """Run the action of a key or click; show its errors."""
        try:
            act()
        except Exception as error:
            self.view.say(_fault(error), True)

    # -- keys and clicks ------------------------------------------------------------------------------------

    def _bindings(self) -> KeyBindings:
        bindings = KeyBindings()
        named = {
            Keys.Enter: "enter",
            Keys.Escape: "esc",
            Keys.Up: "up",
            Keys.Down: "down",
            Keys.PageUp: "pageup",
            Keys.PageDown: "pagedown",
            Keys.Home: "home",
            Keys.End: "end",
            Keys.Backspace: "backspace",
        }
        for key, name in named.items():
            bindings.add(key, eager=True)(self._presses(name))
        bindings.add(Keys.ControlC)(lambda event: self.quit())
        bindings.add(Keys.ControlL)(lambda event: event.app.renderer.clear())
        bindings.add(Keys.ControlZ)(lambda event: event.app.suspend_to_background())
        bindings.add(Keys.Any)(self._letter)
        # Pasted text is no answer to a question.
        bindings.add(Keys.BracketedPaste)(self._pasted)
        return bindings

    def _presses(self, name: str) -> "Callable[[KeyPressEvent], None]":
        return lambda event: self.guarded(lambda: self.press(name))

    def _letter(self, event: KeyPressEvent) -> None:
        if len(event.data) == 1:
            self.guarded(lambda: self.press(event.data))

    def _pasted(self, event: KeyPressEvent) -> None:
        if self.view.mode == views.FILTER:
            self.view.filter(self.view.words + shown(event.data.split("\n")[0]))

    def press(self, key: str) -> None:
        """Run the action of a key, given by its letter or name."""
        view = self.view
        if key in ("up", "down", "pageup", "pagedown", "home", "end"):
            page = max(1, self._application.output.get_size().rows - 10)
            whole = 1 << 30
            if view.mode in (views.TABLE, views.DETAILS):
                view.say("")
            view.move(
                {"up": -1, "down": 1, "pageup": -page, "pagedown": page, "home": -whole, "end": whole}[key]
            )
        elif view.mode == views.FILTER:
            self._press_in_filter(key)
        elif view.mode == views.CONFIRM:
            if key in ("y", "Y"):
                self.confirm()
            elif key in ("n", "N", "q", "esc"):
                view.close()
        elif view.mode == views.HELP:
            if key in ("esc", "q", "?", "enter"):
                view.close()
        else:
            view.say("")
            self.press_in_table(key) if view.mode == views.TABLE else self.press_in_details(key)

    def press_in_table(self, key: str) -> None:
        view = self.view
        if key == "enter" and view.row is not None:
            view.inspected = view.row.file
            view.open(views.DETAILS)
            self.inspect(view.inspected)
        elif key == "s":
            view.next_sort()
        elif key == "r":
            view.sort_by(view.sort)
        elif key == "/":
            view.open(views.FILTER)
        elif key == "esc":
            view.filter("")
        elif key in ("?", "h"):
            view.open(views.HELP)
        elif key == "q":
            self.quit()

    def press_in_details(self, key: str) -> None:
        if key in ("esc", "q", "enter", "backspace"):
            self.inspect(None)
            self.view.close()
            self.view.inspected = ""

    def _press_in_filter(self, key: str) -> None:
        view = self.view
        if key in ("enter", "esc"):
            if key == "esc":
                view.filter("")
            view.close()
        elif key == "backspace":
            view.filter(view.words[:-1])
        elif key.isprintable() and len(key) == 1:
            view.filter(view.words + shown(key))

    def click(self, column: int, line: int) -> None:
        action = self._frame.action(line, column)
        if action is None:
            return
        what, argument = action
        if what == "key":
            self.press(argument)
        elif what == "sort":
            self.view.sort_by(argument)
        elif int(argument) == self.view.at:
            self.press("enter")
        else:
            self.view.say("")
            self.view.select(int(argument))


def has_colours() -> bool:
    """Whether the terminal has at least eight colours, by its description, and NO_COLOR is not set."""
    if os.environ.get("NO_COLOR"):
        return False
    try:
        import curses

        curses.setupterm()
        return curses.tigetnum("colors") >= 8
    except Exception:  # a Python without curses, a terminal that is not described
        return os.environ.get("TERM", "") not in ("", "dumb", "vt100", "vt102", "vt220")


def _fault(error: Exception) -> str:
    return shown(f"internal error of the display: {type(error).__name__}: {error}")


def show(display: Terminal) -> int:
    """Run the display; returns the exit status."""
    try:
        display.run()
    except (EOFError, KeyboardInterrupt):
        pass
    except OSError as error:
        # The terminal has gone; nothing can be written to it.
        _abandon(sys.stdout.fileno())
        return 0 if isinstance(error, BrokenPipeError) or error.errno == 5 else 1
    return 0


def _abandon(fd: int) -> None:
    null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(null, fd)
    os.close(null)
