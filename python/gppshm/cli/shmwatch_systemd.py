"""What redhawk-shmwatch sends to systemd, where that started it (sd_notify(3), sd_watchdog_enabled(3))."""

import os
import socket
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional


def notify(state: str) -> None:
    """Notify systemd, if it asked for it (sd_notify(3)); errors are ignored."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return
    if address[0] == "@":
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as messenger:
            messenger.setblocking(False)
            messenger.connect(address)
            messenger.send(state.encode("ascii"))
    except OSError:
        pass


class Watchdog:
    """systemd's watchdog, if there is one: to be notified while all is well (sd_watchdog_enabled(3))."""

    def __init__(self) -> None:
        self._every = 0.0
        self._next = 0.0
        wanted = os.environ.get("WATCHDOG_USEC", "")
        if wanted.isdigit() and os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid()):
            self._every = int(wanted) / 2e6

    def left(self) -> "Optional[float]":
        """Seconds until the next notification; None if there is no watchdog."""
        return max(0.0, self._next - time.monotonic()) if self._every else None

    def feed(self) -> None:
        if self._every and time.monotonic() >= self._next:
            self._next = time.monotonic() + self._every
            notify("WATCHDOG=1")
