"""The watcher in a process of its own, for programs with other work: the plugin and the device.

So CORBA calls never hold the interpreter lock that an unlink needs.  This module has both ends: the process,
and `Engine`, which starts it and mirrors its state.  The process ends with its parent, after a last sweep.
If its parent hangs, it continues and drops messages that cannot be sent.

One program of a node can lead (see relay).  An engine that follows it has no process of its own, and mirrors
the leader's state.  It starts a process as soon as the leader ends, or has no process itself.
"""

import copy
import errno
import os
import select
import signal
import socket
import sys
import time

if __name__ == "__main__":  # started by its file's name, isolated: see observer
    sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from gppshm import events, observer, observing, processes, relay, watch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional, Set, Tuple

    Orders = Tuple[str, float, bool, bool, bool]

STARTING = 10.0
"""Seconds that the process may take to start."""
RESTARTS = (0.0, 0.5, 2.0, 10.0, 60.0)
"""Seconds between restarts of a process that keeps ending; the last one repeats."""
SOUND = 60.0
"""Seconds after which a running process counts as stable."""
MOST = 16 << 20
"""Bytes kept for a parent that does not read; later messages are dropped."""
LAST_SWEEP = 2.0
"""Seconds for the last sweep and the last messages."""
FIRST_WORD = 1.0
"""Seconds that the start waits for the first message of a leader, which sends one to every new follower."""
SEARCHES = (0.25, 0.5, 1.0, 2.0, 5.0)
"""Seconds between searches for a leader; the last one repeats."""

_EVENT = tuple(name for name in events.Event.__slots__ if name != "kind")
_COUNTS = (
    "removed",
    "fifos",
    "bytes",
    "cleaned",
    "cleaned_bytes",
    "given_back",
    "given_back_later",
    "failures",
    "rescans",
    "wakeups",
    "longest_step",
)
_LEVELS = ("returning", "in_use")
"""The Counts that are present values, not sums; they start at 0 in a new process."""
_PASSED_ON = ("event", "heaps", "returns", "state")
_KINDS = {str(kind): kind for kind in events.KINDS}


# -- the process ---------------------------------------------------------------------------------------------


class _Process:
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
        self._obey()
        self._send_changes()

    def _obey(self) -> None:
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
        self._put(_event_message(event))
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
        self._put(("state", self._watcher.is_unsettled(), self._watcher.troubles(), self._watcher.pidfds))
        self._send_counts()

    def _send_counts(self) -> None:
        assert self._watcher is not None
        self._put(_counts_message(self._watcher.counts))

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


def _event_message(event: events.Event) -> "Tuple[Any, ...]":
    return "event", str(event.kind), [getattr(event, name) for name in _EVENT]


def _counts_message(counts: events.Counts) -> "Tuple[Any, ...]":
    values = [getattr(counts, name) for name in _COUNTS + _LEVELS]
    return "counts", values, list(counts.latencies.counts), counts.latencies.seconds


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
    process = _Process(wire)
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


# -- its parent ----------------------------------------------------------------------------------------------


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
        self.counts = events.Counts()
        self.leader = ("", "")
        self.pid = 0
        self.pidfds = 0
        self._on_event = on_event
        self._on_fault = on_fault
        self._orders = orders
        self._parent = parent
        self._proc_root = proc_root
        self._before = events.Counts()
        self._heaps: Dict[str, Tuple[Any, ...]] = {}
        self._returns: List[Tuple[Any, ...]] = []
        self._troubles: List[str] = []
        self._unsettled = False
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
        self._candidate: Optional[Tuple[str, observing.Wire]] = None
        self._searches = 0
        self._next_search = 0.0
        self._leader_name = ""
        self._raw: Tuple[Any, ...] = ()
        self._offset: Tuple[Any, ...] = ()
        self._offsets: Dict[str, Tuple[Any, ...]] = {}
        try:
            if self._follows:
                self._await_leader()
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

    def is_unsettled(self) -> bool:
        """See Watcher.is_unsettled; False with a leader, which does the work."""
        return self._unsettled and not self.leader[0]

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
        elif self._follows and not self._leading[0] and not self._finishing:
            self._look_for_leader()
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
            if self._candidate is not None:
                poll.register(self._candidate[1].sock, select.POLLIN)
            elif self._follows and not self.leader[0] and not self._leading[0]:
                until = self._next_search
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
        self._forget_candidate()
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
            self.pid = observer.start([sys.executable, "-IS", __file__], main, theirs.fileno())
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._started = time.monotonic()
        self._raw = self._offset = ()
        self._sock = ours
        self._wire = observing.Wire(ours)
        paths = [path for path in sys.path if path]
        self._wire.put((paths, self.root, self._orders, self._parent, self._proc_root))
        self._await_start(ours)

    def _await_start(self, ours: socket.socket) -> None:
        """Wait for the first message.  Raises OSError if it is a refusal, or none comes."""
        end = time.monotonic() + STARTING
        while True:
            poll = select.poll()
            poll.register(ours, select.POLLIN)
            poll.poll(max(0.0, end - time.monotonic()) * 1000)
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
        self._before = copy.deepcopy(self.counts)
        self._heaps = {}
        self._returns = []

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
            event = events.Event(_KINDS[message[1]], "")
            for name, value in zip(_EVENT, message[2]):
                setattr(event, name, value)
            self._on_event(event)
        elif what == "counts":
            self._raw = message[1:]
            self._count(*message[1:])
            if self._leads is not None:
                self._leads.put(_counts_message(self.counts))
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
            self._unsettled, self._troubles, self.pidfds = message[1:]
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
            self._searches, self._next_search = 0, time.monotonic() + SEARCHES[-1]
            return
        self._forget_candidate()
        if self.leader[0]:
            assert self._sock is not None
            self._sock.close()
            self._sock = None
            self._leave()
        if self._leads is None:
            try:
                self._leads = relay.Leader(self._node)
            except OSError as error:
                self._on_fault(f"other programs of the node cannot be told who cleans: {error.strerror}")
                return
        self._leads.put(("leader", *self._led))

    def _greeting(self) -> "List[Tuple[Any, ...]]":
        """The messages for a new follower: the whole state."""
        return [
            ("leader", *self._led),
            _counts_message(self.counts),
            ("heaps", list(self._heaps.items())),
            ("returns", self._returns),
            ("state", self._unsettled, self._troubles, self.pidfds),
            *[_event_message(event) for event in self._standing()],
        ]

    def _await_leader(self) -> None:
        """At the start, follow a leader if one sends its first message within FIRST_WORD."""
        end = time.monotonic() + FIRST_WORD
        self._look_for_leader()
        while self._candidate is not None and time.monotonic() < end:
            poll = select.poll()
            poll.register(self._candidate[1].sock, select.POLLIN)
            poll.poll(max(0.0, end - time.monotonic()) * 1000)
            self._look_for_leader()

    def _look_for_leader(self) -> None:
        """Search for a leader; follow it after its first message, which a hanging one does not send."""
        now = time.monotonic()
        if self._candidate is None:
            if now < self._next_search:
                return
            self._next_search = now + SEARCHES[min(self._searches, len(SEARCHES) - 1)]
            self._searches += 1
            found = relay.find(self._node)
            if found is None:
                return
            self._candidate = found[0], observing.Wire(found[1])
        name, wire = self._candidate
        messages = wire.read()
        if messages is None:
            self._forget_candidate()
        elif messages and messages[0][0] == "leader":
            self._candidate = None
            self._dismiss()
            self._begin(name, wire)
            for message in messages:
                self._take(message)

    def _forget_candidate(self) -> None:
        if self._candidate is not None:
            self._candidate[1].sock.close()
            self._candidate = None

    def _dismiss(self) -> None:
        """End our own process without another removal, and handle its last messages."""
        if self._sock is None:
            return
        self._to_send.clear()
        scope, rescan = self._orders[:2]
        end = time.monotonic() + LAST_SWEEP
        try:
            self._wire.put(("orders", scope, rescan, True, False, False))
            self._wire.put(("finish",))
            while time.monotonic() < end:
                poll = select.poll()
                poll.register(self._sock, select.POLLIN | (select.POLLOUT if self._wire.waiting else 0))
                poll.poll(max(0.0, end - time.monotonic()) * 1000)
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

    def _begin(self, name: str, wire: observing.Wire) -> None:
        self._sock, self._wire, self.pid = wire.sock, wire, 0
        self._leader_name, self._raw = name, ()
        self._offset = self._offsets.get(name, ())
        self._before = copy.deepcopy(self.counts)
        self._heaps, self._returns = {}, []

    def _leave(self) -> None:
        """Stop following the leader, and clean at once."""
        if self._raw:
            self._offsets = {self._leader_name: self._raw}
        self.leader = ("", "")
        self._before = copy.deepcopy(self.counts)
        self._heaps, self._returns = {}, []
        self._next_start = self._searches = 0
        self._next_search = time.monotonic() + SEARCHES[0]
        self._on_leader()

    def _count(self, values: "List[Any]", latencies: "List[int]", seconds: float) -> None:
        """Add the counts of the process or leader to those of earlier ones."""
        before, now = self._before, self.counts
        if self._offset:  # `before` has what this leader had counted when it was followed last
            values = [value - old for value, old in zip(values, self._offset[0])]
            latencies = [count - old for count, old in zip(latencies, self._offset[1])]
            seconds -= self._offset[2]
        for name, value in zip(_COUNTS + _LEVELS, values):
            setattr(now, name, value if name in _LEVELS else getattr(before, name) + value)
        now.longest_step = max(before.longest_step, values[_COUNTS.index("longest_step")])
        now.latencies.counts = [old + new for old, new in zip(before.latencies.counts, latencies)]
        now.latencies.seconds = before.latencies.seconds + seconds


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


if __name__ == "__main__":
    main()
