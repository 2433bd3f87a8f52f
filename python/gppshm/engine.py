"""The engine: a watcher in a process of its own, for programs with other work: the plugin and the device.

So CORBA calls never hold the interpreter lock that an unlink needs.  `Engine` starts the process
(`engine_process`) and mirrors its state.

One program of a node can lead (see relay).  An engine that follows it has no process of its own, and mirrors
the leader's state.  It starts a process as soon as the leader ends, or has no process itself.
"""

import errno
import os
import select
import signal
import socket
import sys
import time

from gppshm import engine_messages, engine_process, events, observer, observing, processes, relay

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional, Tuple

    from gppshm.engine_process import Orders

STARTING = 10.0
"""Seconds that the process may take to start."""
RESTARTS = (0.0, 0.5, 2.0, 10.0, 60.0)
"""Seconds between restarts of a process that keeps ending; the last one repeats."""
SOUND = 60.0
"""Seconds after which a running process counts as stable."""
FIRST_MESSAGE = 1.0
"""Seconds that the start waits for the first message of a leader, which sends one to every new follower."""

_PASSED_ON = ("event", "heaps", "returns", "state")
"""Messages that a leader passes on to its followers."""


class Engine:
    """Starts the process, receives its events and state, and starts it again if it ends unexpectedly.

    on_event  called with each Event, by `step`
    on_fault  called with a sentence about an error, by `step`
    on_leader  called by `step` when the leader or its orders have changed
    standing  returns the events that a new follower needs
    node      name of the node in which it can lead or, if it `follows`, follow (see relay.node)
    counts    counts of the process, plus those of earlier ones and of leaders
    leader    label of the leader that it follows, and its orders in words; two "" without a leader
    Raises OSError if the directory cannot be watched or the process cannot be started.  `step` is for one
    thread; everything else may be called from any thread.
    """

    def __init__(
        self,
        root: str,
        on_event: "Callable[[events.Event], None]",
        orders: "Orders",
        parent: int = 0,
        on_fault: "Callable[[str], None]" = lambda sentence: None,
        proc_root: str = "/proc",
        node: str = "",
        follows: bool = False,
        on_leader: "Callable[[], None]" = lambda: None,
        standing: "Callable[[], List[events.Event]]" = list,
    ) -> None:
        self.root = root
        self._totals = engine_messages.Totals()
        self.counts = self._totals.counts
        self.leader = ("", "")
        self.pid = 0
        self.pidfds = 0
        self._on_event = on_event
        self._on_fault = on_fault
        self._orders = orders
        self._parent = parent
        self._proc_root = proc_root
        self._heaps: Dict[str, Tuple[Any, ...]] = {}
        self._returns: List[Tuple[Any, ...]] = []
        self._troubles: List[str] = []
        self._has_work = False
        self._finishing = self._done = False
        self._starts = 0
        self._next_start = 0.0
        self._wake: Tuple[int, ...] = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._to_send: List[Any] = []
        self._sock: Optional[socket.socket] = None
        self._node = node
        self._follows = follows and bool(node)
        self._on_leader = on_leader
        self._standing = standing
        self._leading: Tuple[str, str] = ("", "")
        self._led: Tuple[str, str] = ("", "")
        self._leads: Optional[relay.Leader] = None
        self._search = relay.Search(node)
        try:
            if self._follows:
                self._follow(self._search.wait(FIRST_MESSAGE))
            if not self.leader[0]:
                self._start()
        except BaseException:
            self.close()
            raise

    # -- state ---------------------------------------------------------------------------------------------

    def living(self) -> "List[str]":
        """See Watcher.living."""
        return [name for name, heap in list(self._heaps.items()) if heap[0]]

    def offspring(self) -> "List[str]":
        """See Watcher.offspring; empty with a leader, which knows only descendants of its own parent."""
        if self.leader[0]:
            return []
        return [name for name, heap in list(self._heaps.items()) if heap[0] and heap[6]]

    def living_creator(self, name: str, file_id: "Tuple[int, int]") -> int:
        """The pid of the heap's creator, if it was seen alive and is not known to have ended; else 0."""
        heap = self._heaps.get(name)
        return int(heap[2]) if heap is not None and heap[0] and tuple(heap[1]) == file_id else 0

    def has_work(self) -> bool:
        """See Watcher.has_work; False with a leader, which does the work."""
        return self._has_work and not self.leader[0]

    def troubles(self) -> "List[str]":
        """See Watcher.troubles."""
        return list(self._troubles)

    def returns(self) -> "List[Tuple[Any, ...]]":
        """See Watcher.returns."""
        return self._returns

    def description(self, name: str, file_id: "Tuple[int, int]") -> processes.Description:
        """See Watcher.description."""
        heap = self._heaps.get(name)
        if heap is None or tuple(heap[1]) != file_id:
            return processes.Description()
        return processes.Description(heap[5], heap[3], heap[4])

    def change(
        self, scope: str, rescan: float, dry_run: bool, remove_fifos: bool, reclaim: bool = True
    ) -> None:
        """See Watcher.change."""
        self._orders = scope, rescan, dry_run, remove_fifos, reclaim
        self._send(("orders", *self._orders))

    def lead(self, who: str, orders: str) -> None:
        """Lead the node's programs, with the label `who` and these orders in words; with "", stop leading."""
        self._leading = (who, orders) if self._node else ("", "")
        self._send(None)

    def finish(self) -> None:
        """Ask the process to end after a last sweep; `step` then returns False soon."""
        self._finishing = True
        self._send(("finish",))

    # -- the loop ------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Handle messages until the process has finished."""
        while self.step():
            pass

    def step(self) -> bool:
        """Wait for messages and handle them; False when the process has finished."""
        if self._done:
            return False
        self._wait()
        try:
            os.read(self._wake[0], 4096)
        except BlockingIOError:
            pass
        if self._led != self._leading:
            self._lead()
        if self._sock is None:
            if time.monotonic() >= self._next_start and not self._finishing:
                self._start_again()
            elif self._finishing:
                self._done = True
            return not self._done
        if self.leader[0]:
            self._to_send.clear()
            self._done = self._finishing
        elif self._is_searching():
            self._follow(self._search.step())
        try:
            while self._to_send:
                message = self._to_send.pop(0)
                if message is not None:
                    self._wire.put(message)
            self._wire.flush()
            messages = self._wire.read()
        except OSError:
            messages = None
        for message in messages or ():
            self._take(message)
        if messages is None:
            self._lost()
        elif self._leads is not None:
            for wire in self._leads.accept():
                self._leads.greet(wire, self._greeting())
            self._leads.step()
        return not self._done

    def _wait(self) -> None:
        """Sleep until a message comes or something is due."""
        poll = select.poll()
        poll.register(self._wake[0], select.POLLIN)
        until = None
        if self._sock is None:
            until = self._next_start
        else:
            poll.register(self._sock, select.POLLIN | (select.POLLOUT if self._wire.waiting else 0))
            if self._leads is not None:
                for sock, mask in self._leads.sockets():
                    poll.register(sock, mask)
            if self._is_searching():
                if self._search.sock is not None:
                    poll.register(self._search.sock, select.POLLIN)
                else:
                    until = self._search.next
        poll.poll(None if until is None else max(0.0, until - time.monotonic()) * 1000)

    def close(self) -> None:
        """Close the connection; the process ends by itself, after a last sweep."""
        ended, self._done = self._done, True
        if self._sock is not None:
            self._sock.close()
            self._sock = None
        if self._leads is not None:
            self._leads.close()
            self._leads = None
        self._search.close()
        _reap(self.pid, tries=50 if ended else 1)
        wake, self._wake = self._wake, ()
        for fd in wake:
            os.close(fd)

    def _send(self, message: "Any") -> None:
        self._to_send.append(message)
        for fd in self._wake[1:]:
            try:
                os.write(fd, b"x")
            except OSError:
                pass

    def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.pid = observer.start(
                [sys.executable, "-IS", engine_process.__file__], engine_process.main, theirs.fileno()
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._started = time.monotonic()
        self._totals.begin()
        self._sock = ours
        self._wire = observing.Wire(ours)
        paths = [path for path in sys.path if path]
        self._wire.put((paths, self.root, self._orders, self._parent, self._proc_root))
        self._await_start(ours)

    def _await_start(self, ours: socket.socket) -> None:
        """Wait for the first message.  Raises OSError if it is a refusal, or none comes."""
        end = time.monotonic() + STARTING
        while True:
            self._wire.wait(end)
            messages = self._wire.read()
            if messages:
                break
            if messages is None or time.monotonic() >= end:
                ours.close()
                self._sock = None
                _reap(self.pid, signal.SIGKILL)
                raise OSError(errno.EIO, "the cleaning process does not start")
        first = messages[0]
        if first[0] == "refused":
            ours.close()
            self._sock = None
            _reap(self.pid)
            raise OSError(first[1], first[2])
        for message in messages[1:]:
            self._take(message)

    def _lost(self) -> None:
        """Handle the end of the connection: leave the leader, finish, or schedule another start."""
        assert self._sock is not None
        self._sock.close()
        self._sock = None
        if self._leads is not None:
            self._leads.dismiss()  # they clean themselves until a new process runs here
        if self.leader[0]:
            self._leave()
            return
        _reap(self.pid, signal.SIGKILL)
        if self._finishing:
            self._done = True
            return
        if time.monotonic() - self._started > SOUND:
            self._starts = 0
        self._next_start = time.monotonic() + RESTARTS[min(self._starts, len(RESTARTS) - 1)]
        self._starts += 1
        self._on_fault("the cleaning process has ended; it is started again")
        self._heaps, self._returns = {}, []

    def _start_again(self) -> None:
        try:
            self._start()
        except OSError as error:
            self._next_start = time.monotonic() + RESTARTS[min(self._starts, len(RESTARTS) - 1)]
            self._starts += 1
            self._on_fault(f"the cleaning process cannot be started: {error.strerror}; it is tried again")

    def _take(self, message: "Any") -> None:
        what = message[0]
        if self._leads is not None and what in _PASSED_ON:
            self._leads.put(message)
        if what == "event":
            self._on_event(engine_messages.event_of(message))
        elif what == "counts":
            self._totals.take(message)
            if self._leads is not None:
                self._leads.put(engine_messages.counts_message(self.counts))
        elif what == "leader":
            self.leader = message[1:]
            self._on_leader()
        elif what == "heaps":
            for name, record in message[1]:
                if record is None:
                    self._heaps.pop(name, None)
                else:
                    self._heaps[name] = record
        elif what == "returns":
            self._returns = [(name, tuple(file_id), *rest) for name, file_id, *rest in message[1]]
        elif what == "state":
            self._has_work, self._troubles, self.pidfds = message[1:]
        elif what == "fault":
            self._on_fault(f"internal error of the cleaning process: {message[1]}; it continues")
        elif what == "ended":
            self._done = self._finishing

    # -- leading and following -----------------------------------------------------------------------------

    def _lead(self) -> None:
        """Start or stop to lead, or send the followers changed orders."""
        self._led = self._leading
        if not self._led[0]:
            if self._leads is not None:
                self._leads.close()
                self._leads = None
            self._search.restart(relay.SEARCHES[-1])
            return
        self._search.close()
        if self.leader[0]:
            assert self._sock is not None
            self._sock.close()
            self._sock = None
            self._leave()
        if self._leads is None:
            try:
                self._leads = relay.Leader(self._node)
            except OSError as error:
                self._on_fault(f"other programs of the node cannot be informed who cleans: {error.strerror}")
                return
        self._leads.put(("leader", *self._led))

    def _greeting(self) -> "List[Tuple[Any, ...]]":
        """The messages for a new follower: the whole state."""
        return [
            ("leader", *self._led),
            engine_messages.counts_message(self.counts),
            ("heaps", list(self._heaps.items())),
            ("returns", self._returns),
            ("state", self._has_work, self._troubles, self.pidfds),
            *[engine_messages.event_message(event) for event in self._standing()],
        ]

    def _is_searching(self) -> bool:
        return self._follows and not (self.leader[0] or self._leading[0] or self._finishing)

    def _follow(self, found: "Optional[relay.Found]") -> None:
        """Follow a leader that was found, instead of cleaning; without one do nothing."""
        if found is None:
            return
        name, wire, messages = found
        self._dismiss()
        self._totals.begin(name)
        self._sock, self._wire, self.pid = wire.sock, wire, 0
        self._heaps, self._returns = {}, []
        for message in messages:
            self._take(message)

    def _dismiss(self) -> None:
        """End our own process without another removal, and handle its last messages."""
        if self._sock is None:
            return
        self._to_send.clear()
        scope, rescan = self._orders[:2]
        end = time.monotonic() + engine_process.LAST_SWEEP
        try:
            self._wire.put(("orders", scope, rescan, True, False, False))
            self._wire.put(("finish",))
            while time.monotonic() < end:
                self._wire.wait(end)
                self._wire.flush()
                messages = self._wire.read()
                if messages is None:
                    break
                for message in messages:
                    if message[:2] != ("event", str(events.WOULD_REMOVE)):
                        self._take(message)
        except OSError:
            pass
        self._sock.close()
        self._sock = None
        _reap(self.pid, signal.SIGKILL)

    def _leave(self) -> None:
        """Stop following the leader, and clean at once."""
        self.leader = ("", "")
        self._heaps, self._returns = {}, []
        self._next_start = 0.0
        self._search.restart(relay.SEARCHES[0])
        self._on_leader()


def _reap(pid: int, number: int = 0, tries: int = 50) -> None:
    """Collect the exit status of a child, after sending it the signal `number` unless that is 0."""
    if not pid:
        return
    if number:
        try:
            os.kill(pid, number)
        except OSError:
            return
    for _ in range(tries):
        try:
            if os.waitpid(pid, os.WNOHANG)[0]:
                return
        except ChildProcessError:
            return
        time.sleep(0.001)
