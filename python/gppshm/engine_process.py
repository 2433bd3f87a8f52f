"""The process of an engine: a watcher, and a socket to the program that started it (see engine).

It ends with that program, after a last sweep.  If that program hangs, it continues, and drops messages that
cannot be sent.
"""

import errno
import os
import select
import signal
import socket
import sys
import time

if __name__ == "__main__":  # started by its file's name, isolated: see observer
    sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from gppshm import engine_messages, events, observing, watch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, List, Optional, Set, Tuple

    Orders = Tuple[str, float, bool, bool, bool]

MOST = 16 << 20
"""Bytes kept for a parent that does not read; later messages are dropped."""
LAST_SWEEP = 2.0
"""Seconds for the last sweep and the last messages."""


class Process:
    """The watcher, and the socket to its parent."""

    def __init__(self, wire: observing.Wire) -> None:
        self._wire = wire
        self._dirty: Set[str] = set()
        self._finishing = self._ended = False
        self._faults = 0
        self._returns_sent = 0
        self._watcher: Optional[watch.Watcher] = None

    def start(self, root: str, orders: "Orders", parent: int, proc_root: str) -> None:
        scope, rescan, dry_run, remove_fifos, reclaim = orders
        watch.raise_descriptor_limit()
        try:
            self._watcher = watch.Watcher(
                root,
                self._on_event,
                scope,
                parent,
                rescan,
                dry_run,
                remove_fifos,
                proc_root=proc_root,
                on_change=self._dirty.add,
                also=self._wire.sock.fileno(),
                reclaim=reclaim,
            )
        except OSError as error:
            self._put(("refused", error.errno or errno.EIO, str(error.strerror)))
            return
        self._put(("started",))

    def run(self) -> None:
        if self._watcher is None:
            return
        watcher = self._watcher
        while not (self._finishing or self._ended):
            watcher.guarded(self._step, self._on_fault)
        watcher.stop()
        end = time.monotonic() + LAST_SWEEP
        watcher.guarded(lambda: watcher.sweep(last=True, patience=LAST_SWEEP), self._on_fault)
        watcher.guarded(watcher.close, self._on_fault)
        self._send_changes()
        self._put(("ended",))
        while self._wire.waiting and not self._ended and time.monotonic() < end:
            poll = select.poll()
            poll.register(self._wire.sock, select.POLLOUT)
            poll.poll(50)
            self._flush()

    def _step(self) -> None:
        assert self._watcher is not None
        self._watcher.step()
        self._flush()
        self._handle_messages()
        self._send_changes()

    def _handle_messages(self) -> None:
        assert self._watcher is not None
        messages = [] if self._ended else self._wire.read()
        if messages is None:
            self._ended = True
            return
        for message in messages:
            if message[0] == "orders":
                self._watcher.change(*message[1:])
            elif message[0] == "finish":
                self._finishing = True

    def _on_event(self, event: events.Event) -> None:
        self._send_counts()  # first: a receiver of the event may read the counts at once
        self._put(engine_messages.event_message(event))
        if event.attached:
            self._returns_sent = -1  # the event is the first to name the peers

    def _on_fault(self, error: Exception) -> None:
        self._faults += 1
        if self._faults <= 100:
            self._put(("fault", f"{type(error).__name__}: {error}"))

    def _send_changes(self) -> None:
        assert self._watcher is not None
        if self._returns_sent != self._watcher.returns_changed:
            self._returns_sent = self._watcher.returns_changed
            self._put(("returns", self._watcher.returns()))
            self._send_counts()
        if not self._dirty:
            return
        dirty = list(self._dirty)
        self._dirty.clear()
        self._put(("heaps", [(name, self._watcher.record(name)) for name in dirty]))
        self._put(("state", self._watcher.has_work(), self._watcher.troubles(), self._watcher.pidfds))
        self._send_counts()

    def _send_counts(self) -> None:
        assert self._watcher is not None
        self._put(engine_messages.counts_message(self._watcher.counts))

    def _put(self, message: "Any") -> None:
        if not self._ended and self._wire.pending < MOST:
            try:
                self._wire.put(message)
            except OSError:
                self._ended = True

    def _flush(self) -> None:
        try:
            self._wire.flush()
        except OSError:
            self._ended = True


def _hurry() -> None:
    """Take a larger share of a busy processor, if that is allowed (sched(7)): it works for milliseconds."""
    try:
        with open("/proc/self/autogroup", "wb", buffering=0) as share:
            share.write(b"-10")
        os.setpriority(os.PRIO_PROCESS, 0, -10)
    except OSError:
        pass  # not root's, or a kernel without autogroups


def main() -> None:
    _hurry()
    os.closerange(3, 4096)
    os.chdir("/")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)  # only its parent ends it: by a message, or by its own end
    sock = socket.socket(fileno=os.dup(0))
    wire = observing.Wire(sock)
    process = Process(wire)
    messages: Optional[List[Any]] = []
    while messages == []:
        select.select([sock], [], [])
        messages = wire.read()
    if messages:
        paths, root, orders, parent, proc_root = messages[0]
        sys.path += [path for path in paths if path not in sys.path]
        process.start(root, orders, parent, proc_root)
        process.run()
    os._exit(0)


if __name__ == "__main__":
    main()
