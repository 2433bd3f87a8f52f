"""Delays Ctrl-C until a removal is finished and reported."""

# The signal module imports enum, which costs a start milliseconds.
import _signal  # type: ignore[import-not-found]
import io
import select
import sys
import time

from gppshm import reaper
from gppshm.cli import text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Tuple

AGAIN = 0.5
"""Seconds after a KeyboardInterrupt in which no other is raised: the first one is on its way."""
PATIENCE = 0.5
"""Seconds to wait, after Ctrl-C, for a reader of the output that reads nothing."""
PIECE = 1024
"""Bytes that fit into the empty buffer of any standard stream; a terminal's is the smallest (st_blksize)."""


class Interrupts(reaper.Hold):
    """Ctrl-C raises KeyboardInterrupt; while it is held, `let_go` raises it instead.

    A context manager.  Without effect where SIGINT is ignored (a background job of a script) or has another
    handler, and in a thread that is not the main one.
    ending  KeyboardInterrupt was caught, the process is about to end: no other is raised
    held    whether it is held now
    """

    def __init__(self) -> None:
        self.ending = self.held = False
        self._noted = False
        self._raised = -AGAIN
        self._is_ours = False

    def __enter__(self) -> "Interrupts":
        if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
            try:
                _signal.signal(_signal.SIGINT, self._come)
                self._is_ours = True
            except ValueError:
                pass  # not the main thread
        return self

    def __exit__(self, *exc: object) -> None:
        if self._is_ours and not self.ending:
            _signal.signal(_signal.SIGINT, _signal.default_int_handler)

    def end(self) -> None:
        """Ignore Ctrl-C from now on, until the end of the process."""
        self.ending = True
        if self._is_ours:
            _signal.signal(_signal.SIGINT, _signal.SIG_IGN)

    def hold(self) -> None:
        self.held = True

    def let_go(self) -> None:
        self.held = False
        if self._noted and not self.ending:
            self._noted = False
            self._raised = time.monotonic()
            raise KeyboardInterrupt

    def _come(self, number: int, frame: "Any") -> None:
        now = time.monotonic()
        if self.held or self.ending or now - self._raised < AGAIN:
            self._noted = True
        else:
            self._raised = now
            raise KeyboardInterrupt


class Output(text.Output):
    """Keeps its text while Ctrl-C is held.  Ctrl-C ends a wait for a reader, and no text is lost by that.

    When Ctrl-C is `ending` the command, the rest is written, unless nobody reads it.
    """

    def __init__(self, command: str, interrupts: Interrupts) -> None:
        super().__init__(command)
        self._interrupts = interrupts
        self._pieces: List[Tuple[bool, bytes]] = []
        self._buffered: List[bool] = []
        self._deaf: List[bool] = []
        self._own: Dict[bool, Any] = {}

    def put(self, text: str) -> None:
        self._add(False, text)

    def line_on_stderr(self, line: str) -> None:
        self._add(True, line + "\n")
        self.flush()

    def flush(self) -> None:
        interrupts = self._interrupts
        if interrupts.held and not interrupts.ending:
            return
        while True:
            self._drain()
            # No wait is in here: the buffers are empty.
            interrupts.hold()
            filled = self._fill()
            interrupts.let_go()
            if not filled:
                return

    def _add(self, is_error: bool, words: str) -> None:
        code = (getattr(sys.stderr, "encoding", None) or "ascii") if is_error else text.encoding()
        data = words.encode(code, "backslashreplace")
        self._pieces += [(is_error, data[at : at + PIECE]) for at in range(0, len(data), PIECE)]

    def _fill(self) -> bool:
        """Pass the next piece to the buffer of its stream; False if there is none."""
        if not self._pieces:
            return False
        is_error, data = self._pieces.pop(0)
        stream = sys.stderr if is_error else sys.stdout
        if is_error in self._deaf or (self._gone and not is_error):
            return True
        if stream is None:
            self._fail(is_error, OSError(9, "it is closed"))
        elif hasattr(stream, "buffer"):
            try:
                self._buffer(is_error, stream).write(data)
                self._buffered = [is_error]
            except OSError as error:
                self._fail(is_error, error)
        else:
            stream.write(data.decode(stream.encoding or "ascii"))
        return True

    def _drain(self) -> None:
        """Write what is in a buffer.  After an interrupt, the next call writes exactly the rest."""
        for is_error in self._buffered:
            stream = sys.stderr if is_error else sys.stdout
            try:
                if self._interrupts.ending and not _is_read(stream):
                    self._deaf.append(is_error)
                    text.to_null(stream)
                self._buffer(is_error, stream).flush()
            except OSError as error:
                self._fail(is_error, error)
        self._buffered = []

    def _buffer(self, is_error: bool, stream: "Any") -> "Any":
        """The buffer of a stream.  With PYTHONUNBUFFERED or -u the stream has none, and a write may wait."""
        if not isinstance(stream.buffer, io.FileIO):
            return stream.buffer
        if is_error not in self._own:
            self._own[is_error] = open(stream.fileno(), "wb", closefd=False)  # noqa: SIM115
        return self._own[is_error]

    def _fail(self, is_error: bool, error: OSError) -> None:
        if is_error:
            self._deaf.append(True)
            text.to_null(sys.stderr)
            return
        self._abandon()
        if not isinstance(error, BrokenPipeError):
            self.failed = True
            words = f"{self.command}: cannot write to stdout: {error.strerror}\n"
            self._pieces.insert(0, (True, words.encode("ascii", "backslashreplace")))


def _is_read(stream: "Any") -> bool:
    """Whether the stream takes a piece now or within PATIENCE."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), select.POLLOUT)
    except (OSError, ValueError):  # a stream in memory
        return True
    return bool(poll.poll(PATIENCE * 1000))
