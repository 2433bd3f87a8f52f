"""Publishes metrics: over HTTP, and in a file for node_exporter's textfile collector.

prometheus_client formats the metrics; it is imported only when an Outlet is made.  All work is done in two
threads that never delay the watcher and never end: failures are reported once and tried again.  However many
clients there are, and whatever they send, at most CONNECTIONS descriptors are used, and none of the last
that this process may have.
"""

import errno
import math
import os
import re
import select
import socket
import stat
import threading
import time

from gppshm import sitepackages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterator, Optional, Tuple

    from prometheus_client.core import Metric

    from gppshm import events, exporter

LOOPBACK = "127.0.0.1"
INTERVAL = 15.0
"""Seconds between writes of the file."""
RETRIES = (1.0, 2.0, 4.0, 8.0, 15.0)
"""Seconds between tries to bind the address; the last one repeats. Its network may not be up yet."""
SOON = 0.2
"""Seconds that `serve` waits for the first try, so that an immediate request is answered."""
CONNECTIONS = 16
"""Clients served at the same time; another one replaces the oldest."""
REQUEST_TIME = 5.0
"""Seconds for a request to arrive."""
ANSWER_TIME = 15.0
"""Seconds after which a connection is closed in any case."""
PATIENCE = 5.0
"""Seconds that a request waits for a scan before it gets the last result; Prometheus waits 10."""
REQUEST_SIZE = 8192
PAUSE = 1.0
"""Seconds without new connections when no descriptor is left."""
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
    """Host and port of an ADDRESS; ValueError if it is not one."""
    host, _, port = text.rpartition(":")
    host = host or LOOPBACK
    if not _HOST.fullmatch(host) or not _PORT.fullmatch(port) or not 0 < int(port) < 65536:
        raise ValueError(f"expected is {ADDRESS}")
    return host.strip("[]"), int(port)


class Outlet:
    """Publishes the metrics of `root` and its watcher.  Raises Missing without prometheus_client.

    counts, reserved  see exporter.Collector
    on_trouble  called, in other threads, with a sentence about a failure; once until it is over
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
            from prometheus_client.exposition import choose_encoder
        except ImportError:
            raise Missing() from None
        from gppshm import exporter

        self._choose_encoder = choose_encoder
        self._collector = exporter.Collector(root, counts, reserved, on_trouble)
        self._is_reserved = exporter.is_reserved
        self._registry = prometheus_client.CollectorRegistry()
        self._registry.register(_Present(self._collector))
        self._on_trouble = on_trouble

    def serve(self, place: "Tuple[str, int]", on_served: "Callable[[], None]" = lambda: None) -> None:
        """Serve at this address, as soon as it can be bound.

        Never fails, and waits no longer than SOON.  `on_served` is called, in another thread, once it serves.
        """
        tried = threading.Event()
        self._begin("metrics", self._serve, place, tried, on_served)
        tried.wait(SOON)

    def _begin(self, name: str, act: "Callable[..., None]", *arguments: "Any") -> None:
        try:
            threading.Thread(target=act, args=arguments, name=name, daemon=True).start()
        except RuntimeError as error:
            self._on_trouble(f"no {name}: {error}")

    def _serve(
        self, place: "Tuple[str, int]", tried: threading.Event, on_served: "Callable[[], None]"
    ) -> None:
        pause, reported, tries = threading.Event(), "", 0
        while True:
            try:
                server = _Server(place, self._collector, self._answer, self._is_reserved)
                break
            except OSError as error:
                why = str(error.strerror or error)
                if reported != why:
                    reported = why
                    self._on_trouble("metrics cannot be served at {}:{}: {}; tried again".format(*place, why))
            tried.set()
            pause.wait(RETRIES[min(tries, len(RETRIES) - 1)])
            tries += 1
        tried.set()
        on_served()
        server.run()

    def _answer(self, accept: str) -> "Tuple[str, bytes]":
        encode, kind = self._choose_encoder(accept)
        return kind, encode(self._registry)

    def write(self, path: str, interval: float = INTERVAL) -> None:
        """Write the file soon, and then periodically; it stays at the end.  Never fails, never waits."""
        self._begin("metrics file", self._keep_writing, path, interval)

    def _keep_writing(self, path: str, interval: float) -> None:
        pause = threading.Event()
        reported = ""
        while True:
            try:
                self._collector.wait()
                _replace(path, self._answer("")[1])
                reported = ""
            except Exception as error:
                why = _why(path, error) if isinstance(error, OSError) else str(error) or repr(error)
                if reported != why:
                    reported = why
                    self._on_trouble(f"{path} cannot be written: {why}; tried every {interval:g} s")
            pause.wait(interval)


class _Present:
    """Collector for the registry: the present metrics, without waiting."""

    def __init__(self, collector: "exporter.Collector") -> None:
        self._collector = collector

    def collect(self) -> "Iterator[Metric]":
        return self._collector.present()


class _Connection:
    """One client.

    until   when it is closed (monotonic)
    waits   until when it waits for a scan (monotonic)
    asks    the request is complete
    answer  bytes still to be sent; None until they are known
    """

    __slots__ = ("answer", "asks", "begun", "request", "socket", "until", "waits")

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.begun = time.monotonic()
        self.until = self.waits = self.begun + REQUEST_TIME
        self.request = b""
        self.asks = False
        self.answer: Optional[bytes] = None

    @property
    def rank(self) -> "Tuple[bool, float]":
        return self.asks, self.begun


class _Server:
    """Serves in one thread, and waits neither for a client nor for a scan.

    OSError if the address cannot be bound now, or no descriptors are left.
    """

    def __init__(
        self,
        place: "Tuple[str, int]",
        collector: "exporter.Collector",
        answer: "Callable[[str], Tuple[str, bytes]]",
        is_reserved: "Callable[[int], bool]",
    ) -> None:
        self._collector = collector
        self._answer = answer
        self._is_reserved = is_reserved
        self._connections: Dict[int, _Connection] = {}
        self._closed_until = 0.0
        self._listener = _listener(place)
        try:
            if is_reserved(self._listener.fileno() + 2):
                raise OSError(errno.EMFILE, "the last descriptors are reserved for cleaning")
            self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            self._listener.close()
            raise
        collector.listeners.append(self._wake)

    def _wake(self) -> None:
        """A scan has finished; called from its thread."""
        try:
            os.write(self._write, b"\0")
        except BlockingIOError:
            pass

    def run(self) -> None:
        while True:
            try:
                self._step()
            except Exception:  # an error of one connection must not stop the others
                time.sleep(PAUSE)

    def _step(self) -> None:
        now = time.monotonic()
        for fd, connection in list(self._connections.items()):
            if now >= connection.until:
                self._end(fd)
        poll, until = select.poll(), now + 60.0
        poll.register(self._read, select.POLLIN)
        if now >= self._closed_until:
            poll.register(self._listener.fileno(), select.POLLIN)
        else:
            until = self._closed_until
        for fd, connection in self._connections.items():
            until = min(until, connection.until)
            if not connection.asks:
                poll.register(fd, select.POLLIN)
            elif connection.answer is not None:
                poll.register(fd, select.POLLOUT)
            else:
                until = min(until, connection.waits)
        for fd, _ in poll.poll(max(0.0, until - now) * 1000 + 1):
            if fd == self._read:
                os.read(fd, 65536)
                self._answer_all(math.inf)
            elif fd == self._listener.fileno():
                self._accept()
            elif fd in self._connections:
                try:
                    self._go_on(fd, self._connections[fd])
                except BlockingIOError:
                    pass
                except OSError:
                    self._end(fd)
        self._answer_all(time.monotonic())

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError, InterruptedError):
            return
        except OSError:
            self._closed_until = time.monotonic() + PAUSE
            return
        if self._is_reserved(connection.fileno()):
            connection.close()
            self._closed_until = time.monotonic() + PAUSE
            return
        if len(self._connections) >= CONNECTIONS:
            # Silent clients are closed before those that wait for an answer.
            self._end(min(self._connections, key=lambda fd: self._connections[fd].rank))
        connection.setblocking(False)
        self._connections[connection.fileno()] = _Connection(connection)

    def _end(self, fd: int) -> None:
        self._connections.pop(fd).socket.close()

    def _go_on(self, fd: int, connection: _Connection) -> None:
        if connection.answer is not None:
            connection.answer = connection.answer[connection.socket.send(connection.answer) :]
            if not connection.answer:
                connection.socket.shutdown(socket.SHUT_WR)
                self._end(fd)
            return
        data = connection.socket.recv(REQUEST_SIZE)
        connection.request += data
        if b"\r\n\r\n" in connection.request or b"\n\n" in connection.request:
            connection.asks = True
            connection.until = connection.begun + ANSWER_TIME
            connection.waits = time.monotonic() + PATIENCE
            if not connection.request.startswith((b"GET ", b"HEAD ")):
                connection.answer = _response("405 Method Not Allowed", "text/plain", b"only GET\n")
            elif not self._collector.ask():
                self._give(connection)
        elif not data or len(connection.request) >= REQUEST_SIZE:
            self._end(fd)

    def _answer_all(self, now: float) -> None:
        """Answer the clients that have waited long enough for a scan."""
        for connection in self._connections.values():
            if connection.asks and connection.answer is None and now >= connection.waits:
                self._give(connection)

    def _give(self, connection: _Connection) -> None:
        """Answer with the present metrics, in the requested format."""
        found = _ACCEPT.search(connection.request)
        try:
            kind, body = self._answer(found.group(1).decode("latin-1").strip() if found else "")
            connection.answer = _response("200 OK", kind, body)
        except Exception as error:
            why = f"{error}\n".encode("utf-8", "backslashreplace")
            connection.answer = _response("503 Service Unavailable", "text/plain; charset=utf-8", why)
        if connection.request.startswith(b"HEAD "):
            connection.answer = connection.answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"


_ACCEPT = re.compile(rb"^accept:([^\r\n]*)", re.IGNORECASE | re.MULTILINE)


def _response(status: str, kind: str, body: bytes) -> bytes:
    head = f"HTTP/1.0 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close"
    return head.encode("ascii") + b"\r\n\r\n" + body


def _listener(place: "Tuple[str, int]") -> socket.socket:
    """A listening socket; OSError.  Looking up a name may take a while."""
    host, port = place
    try:
        found = socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM, 0, socket.AI_PASSIVE)
    except UnicodeError:  # a label that is invalid in host names
        raise OSError(errno.EINVAL, "no such host") from None
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def _replace(path: str, data: bytes) -> None:
    """Replace the file in one step, readable by all.

    OSError if there is something other than a regular file: a FIFO or symlink has its purpose.
    """
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(mode):
        raise OSError(
            errno.EEXIST, "it is a symlink, FIFO or other special file: remove it, or name another file"
        )
    temporary = f"{path}.{os.getpid()}.new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(temporary, flags, 0o644)
    except FileExistsError:  # left by a killed process with this pid
        os.unlink(temporary)
        fd = os.open(temporary, flags, 0o644)
    try:
        with open(fd, "wb") as stream:
            os.fchmod(fd, 0o644)  # node_exporter is another user
            stream.write(data)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _why(path: str, error: OSError) -> str:
    """The error, with advice if the directory belongs to another user; root needs CAP_DAC_OVERRIDE there."""
    why = str(error.strerror or error)
    if error.errno != errno.EACCES:
        return why
    try:
        status = os.stat(os.path.dirname(path) or ".")
    except OSError:
        return why
    return (
        f"{why}; its folder is of user {status.st_uid}, group {status.st_gid} and mode"
        f" {stat.S_IMODE(status.st_mode):o}: put this service into that group, and let the group write there"
    )
