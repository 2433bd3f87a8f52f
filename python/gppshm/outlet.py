"""Where metrics go: to who asks at an address, and to a file for node_exporter's textfile collector.

prometheus_client does the work, and is imported only when an Outlet is made.  All of it is done in threads
of its own, which never keep the watcher waiting.
"""

import os
import re
import threading

from gppshm import sitepackages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Tuple

    from gppshm import events

LOOPBACK = "127.0.0.1"
INTERVAL = 15.0
"""Seconds between writings of the file."""
ADDRESS = "PORT, ADDRESS:PORT or [IPv6]:PORT; a PORT alone is this host's only (127.0.0.1)"

_HOST = re.compile(r"[0-9A-Za-z._-]{1,253}|\[[0-9A-Fa-f:.]+(%[0-9A-Za-z._-]+)?\]")
_PORT = re.compile("[0-9]{1,5}")


class Missing(Exception):
    """prometheus_client cannot be imported; the text says how to get it."""

    def __init__(self) -> None:
        Exception.__init__(
            self,
            "metrics need the Python package prometheus_client, which cannot be imported:"
            " apt-get install python3-prometheus-client, or pip install prometheus_client",
        )


def address(text: str) -> "Tuple[str, int]":
    """Host and port of an ADDRESS; ValueError if it is none."""
    host, _, port = text.rpartition(":")
    host = host or LOOPBACK
    if not _HOST.fullmatch(host) or not _PORT.fullmatch(port) or not 0 < int(port) < 65536:
        raise ValueError(f"expected is {ADDRESS}")
    return host.strip("[]"), int(port)


class Outlet:
    """The metrics of `root` and its watcher, for prometheus_client to hand out.  Missing if it is not there.

    counts, reserved  see exporter.Collector
    on_trouble  called, in other threads, with a sentence on what went wrong; once until it is mended
    """

    def __init__(
        self,
        root: str,
        counts: "events.Counts",
        reserved: "Callable[[], int]" = lambda: 0,
        on_trouble: "Callable[[str], None]" = lambda sentence: None,
    ) -> None:
        sitepackages.enable()
        try:
            import prometheus_client
        except ImportError:
            raise Missing() from None
        from gppshm import exporter

        self._client = prometheus_client
        self._registry = prometheus_client.CollectorRegistry()
        self._registry.register(exporter.Collector(root, counts, reserved, on_trouble))
        self._on_trouble = on_trouble

    def serve(self, place: "Tuple[str, int]") -> None:
        """Answer whoever asks there, from now on.  OSError if that cannot be done."""
        host, port = place
        try:
            self._client.start_http_server(port, host, self._registry)
        except UnicodeError:  # of a label that no name of a host can have
            raise OSError(0, "no such host") from None

    def write(self, path: str, interval: float = INTERVAL) -> None:
        """Write the file now, and every so many seconds; it stays when we end."""
        threading.Thread(
            target=self._keep_writing, args=(path, interval), name="metrics file", daemon=True
        ).start()

    def _keep_writing(self, path: str, interval: float) -> None:
        pause = threading.Event()
        told = ""
        while True:
            try:
                _replace(path, self._client.generate_latest(self._registry))
                told = ""
            except Exception as error:
                why = error.strerror if isinstance(error, OSError) else repr(error)
                if told != why:
                    told = str(why)
                    self._on_trouble(f"{path} cannot be written: {why}; tried every {interval:g} s")
            pause.wait(interval)


def _replace(path: str, data: bytes) -> None:
    """Put a file that all may read in its place in one step: whoever reads it gets all of it."""
    temporary = f"{path}.{os.getpid()}.new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        with open(fd, "wb") as stream:
            os.fchmod(fd, 0o644)  # node_exporter is another user
            stream.write(data)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
