"""A thread that sends what may block."""

import queue
import threading

from gppshm.redhawk import logs
from gppshm.redhawk.text import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Optional

_log = logs.logger("GppShmPlugin.device")

BACKLOG = 500
"""Messages and events that may wait for slow consumers; further ones are dropped."""


class Sender(threading.Thread):
    """Runs tasks that may block on other processes, one after the other; drops those beyond BACKLOG."""

    def __init__(self) -> None:
        super().__init__(name="send", daemon=True)
        self._tasks: queue.Queue[Optional[Callable[[], None]]] = queue.Queue(BACKLOG)
        self._ended = False

    def submit(self, task: "Callable[[], None]") -> None:
        """Queue a task.  Callable from any thread; never waits."""
        try:
            self._tasks.put_nowait(task)
        except queue.Full:
            pass

    def end(self) -> None:
        """End the thread after all queued tasks; if the queue is full, after the running one."""
        try:
            self._tasks.put_nowait(None)
        except queue.Full:
            self._ended = True

    def run(self) -> None:
        while not self._ended:
            task = self._tasks.get()
            if task is None:
                return
            try:
                task()
            except Exception as error:
                _log.warning("a message could not be sent: %s", plain(repr(error)))
