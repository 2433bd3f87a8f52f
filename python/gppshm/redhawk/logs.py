"""Log lines in REDHAWK's pattern; logging never blocks the calling thread.

stdout belongs to the GPP: an unread pipe, a full disk or a stopped terminal would block the cleaning.  So a
thread writes the lines from a bounded queue.
"""

import logging
import os
import threading
import time
from collections import deque

from gppshm import sparing
from gppshm.redhawk.text import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Deque, Optional, Union

NAME = "GppShmPlugin"


class Logger(logging.Logger):
    """A logger with a rate limit for each line of code, from INFO on; see `sparing`.

    Other programs cause log lines: a client whose requests are refused may repeat them as fast as it can.
    """

    _sparing = sparing.Sparing()

    def handle(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.INFO and not getattr(record, SPARED, False):
            note = self._sparing.note((record.name, record.pathname, record.lineno))
            if note is None:
                return
            if note:
                record.msg, record.args = f"{record.getMessage()} ({note})", ()
            setattr(record, SPARED, True)
        super().handle(record)


SPARED = "spared"
"""A record with this attribute has passed the rate limit; `extra={SPARED: True}` exempts a record."""

_tree = logging.Manager(logging.RootLogger(logging.WARNING))
_tree.setLoggerClass(Logger)


def logger(name: str) -> logging.Logger:
    """The logger NAME, or one below it.

    Not from `logging.getLogger`, where modules imported by this process may have loggers of the same name.
    """
    return _tree.getLogger(name)


ROOM = 1000
"""Lines that may wait; what comes then is counted and dropped."""

PATTERN = "%(asctime)s %(levelname)-5s %(name)s:%(lineno)d - %(message)s"
"""REDHAWK's default, %d{yyyy-MM-dd HH:mm:ss} %-5p %c:%L - %m%n."""

TRACE = 5

_LEVELS = {
    "FATAL": logging.CRITICAL,
    "ERROR": logging.ERROR,
    "WARN": logging.WARNING,
    "INFO": logging.INFO,
    "DEBUG": logging.DEBUG,
    "TRACE": TRACE,
}


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return plain(super().format(record), 2000)


class Handler(logging.Handler):
    """Writes to the descriptor `fd`, line by line, in a thread of its own.

    After `redirect`, the device's own logger gets the lines, in that thread, with its level and appenders.
    """

    def __init__(self, fd: int = 1) -> None:
        super().__init__()
        self.setFormatter(_Formatter(PATTERN, "%Y-%m-%d %H:%M:%S"))
        self._fd = fd
        self._records: Deque[Union[logging.LogRecord, bytes]] = deque()
        self._dropped = 0
        self._target: Optional[logging.Logger] = None
        self._changed = threading.Condition()
        self._writing = False
        threading.Thread(target=self._write, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        self.add(record)

    def add(self, record: "Union[logging.LogRecord, bytes]") -> None:
        """Queue text; never waits.  Bytes are written unchanged."""
        with self._changed:
            if len(self._records) < ROOM:
                self._records.append(record)
                self._changed.notify_all()
            else:
                self._dropped += 1

    def redirect(self, target: logging.Logger) -> None:
        """From now on `target` decides which of GppShmPlugin's messages are written, and where."""
        self._target = target
        _tree.getLogger(NAME).setLevel(1)

    def drain(self, seconds: float) -> None:
        """Wait until everything is written, at most `seconds`."""
        end = time.monotonic() + seconds
        with self._changed:
            while self._records or self._writing:
                left = end - time.monotonic()
                if left <= 0:
                    return
                self._changed.wait(left)

    def _write(self) -> None:
        while True:
            with self._changed:
                self._writing = False
                self._changed.notify_all()
                while not self._records:
                    self._changed.wait()
                record = self._records.popleft()
                dropped = 0 if self._records else self._dropped
                self._dropped -= dropped
                self._writing = True
            if isinstance(record, bytes):
                self._put(record)
            elif self._target is not None:
                self._hand_over(record, self._target)
            else:
                self._put(self._line(record))
            if dropped:
                self._put(
                    b"GppShmPlugin: %d log lines before this one could not be written in time\n" % dropped
                )

    def _hand_over(self, record: logging.LogRecord, target: logging.Logger) -> None:
        try:
            if target.isEnabledFor(record.levelno):
                record.name = target.name + record.name[len(NAME) :]
                record.msg, record.args = plain(record.getMessage(), 2000), ()
                target.handle(record)
        except Exception:
            self._put(self._line(record))

    def _line(self, record: logging.LogRecord) -> bytes:
        try:
            line = self.format(record)
        except Exception as error:
            line = f"GppShmPlugin: a log line could not be made: {plain(repr(error))}"
        return line.encode("ascii") + b"\n"

    def _put(self, line: bytes) -> None:
        try:
            os.write(self._fd, line)
        except OSError:
            pass  # no reader, or a full disk: there is no other place to report it


def start(level: str, fd: int = 1) -> Handler:
    """Write what is logged under GppShmPlugin, from `level` (FATAL .. TRACE) on, to the descriptor `fd`."""
    logging.addLevelName(logging.WARNING, "WARN")
    logging.addLevelName(logging.CRITICAL, "FATAL")
    logging.addLevelName(TRACE, "TRACE")
    handler = Handler(fd)
    root = _tree.getLogger(NAME)
    root.handlers[:] = [handler]
    root.propagate = False
    root.setLevel(_LEVELS[level])
    return handler
