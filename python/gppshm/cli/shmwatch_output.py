"""Lines of redhawk-shmwatch for a reader that may be slow, or gone."""

import errno
import os
import select
import threading
import time
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Deque, Optional

PAUSE = 0.1
"""Seconds between attempts to write lines for a slow reader."""
LINES_KEPT = 10000
"""Lines kept for a reader that has stopped; older ones are dropped and counted."""


class Output:
    """Lines for one descriptor, written by a thread: `put` never waits for a reader or a disk.

    dropped  lines that were dropped because they were not read or could not be written
    on_loss  called with a sentence, in that thread, when lines cannot be written; once until they can
    """

    def __init__(self, fd: int, on_loss: "Callable[[str], None]" = lambda sentence: None) -> None:
        self.dropped = 0
        self._fd = fd
        self._on_loss = on_loss
        self._lines: Deque[bytes] = deque()
        self._change = threading.Condition()
        self._failing = self._gone = self._finishing = False
        self._thread: Optional[threading.Thread] = None

    def put(self, line: str) -> None:
        """Queue one line; never fails."""
        with self._change:
            if self._gone:
                return
            if self._thread is None:
                self._thread = threading.Thread(target=self._write_lines, name="output", daemon=True)
                self._thread.start()
            if len(self._lines) >= LINES_KEPT:
                self._lines.popleft()
                self.dropped += 1
            self._lines.append(line.encode("utf-8", "backslashreplace") + b"\n")
            self._change.notify_all()

    def finish(self, seconds: float) -> None:
        """Wait until everything is written, at most `seconds`; nothing more may be put."""
        with self._change:
            self._finishing = True
            self._change.notify_all()
        if self._thread is not None:
            self._thread.join(seconds)

    def _write_lines(self) -> None:
        while not self._gone:
            with self._change:
                self._change.wait_for(lambda: self._lines or self._finishing)
                if not self._lines:
                    return
                line = self._lines.popleft()
            self._write(line)

    def _write(self, line: bytes) -> None:
        """Write a whole line, however long it takes, unless the reader is gone for good."""
        while line:
            try:
                line = line[os.write(self._fd, line) :]
                self._failing = False
            except BlockingIOError:
                select.select([], [self._fd], [], PAUSE)
            except OSError as error:
                gone = error.errno in (errno.EPIPE, errno.EBADF, errno.EIO)
                if not self._failing:
                    self._failing = True
                    what = "any more" if gone else "now: it is tried again"
                    self._on_loss(f"nothing can be written to stdout {what}: {error.strerror}")
                if gone:
                    with self._change:
                        self._gone = True
                        self._lines.clear()
                    return
                time.sleep(PAUSE)
