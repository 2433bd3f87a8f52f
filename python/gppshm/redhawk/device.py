"""The REDHAWK device: shared memory as properties, and as capacity that waveforms reserve.

Events and messages are sent by a thread of their own (`Teller`); no other thread waits for a receiver.
"""

import queue
import socket
import threading
import time
import uuid

from gppshm import capacity, claims, events, memory
from gppshm.redhawk import figures, logs, metrics, overview, settable, shown, thresholds
from gppshm.redhawk.cleaning import Cleaning, Orders
from gppshm.redhawk.corba import CF, CORBA
from gppshm.redhawk.runtime.properties import TYPES
from gppshm.redhawk.text import megabytes, plain
from gppshm.roles import role
from GppShmPlugin_base import GppShmPlugin_base

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, List, Optional, Sequence, Tuple

    from gppshm.redhawk.runtime.log4j import Loggers

_log = logs.logger("GppShmPlugin.device")

CAPACITY = "shm::capacity"
HOST_NAME = "shm::host_name"
HEADROOM = "5%"
"""Part of the file system that is never granted; default of the property."""
LAST_WORDS = 0.05
"""Seconds for the last messages when the device is released."""
BACKLOG = 500
"""Messages and events that may wait for slow consumers; further ones are dropped."""

_INTEGERS = (
    CORBA.tk_octet,
    CORBA.tk_short,
    CORBA.tk_ushort,
    CORBA.tk_long,
    CORBA.tk_ulong,
    CORBA.tk_longlong,
    CORBA.tk_ulonglong,
)


class Teller(threading.Thread):
    """Runs tasks that may block on other processes, one after the other; drops those beyond BACKLOG."""

    def __init__(self) -> None:
        super().__init__(name="tell", daemon=True)
        self._tasks: queue.Queue[Optional[Callable[[], None]]] = queue.Queue(BACKLOG)
        self._ended = False

    def tell(self, task: "Callable[[], None]") -> None:
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


class Request:
    """The content of one allocation.

    megabytes  0 if it names no capacity
    host       whether it names this host
    elsewhere  whether it names another host
    """

    __slots__ = ("elsewhere", "host", "megabytes")

    def __init__(self) -> None:
        self.megabytes = 0
        self.host = self.elsewhere = False

    @property
    def terms(self) -> "Tuple[int, bool]":
        return self.megabytes, self.host


class Device(GppShmPlugin_base):
    """The servant.

    work        does the cleaning; from `initialize` on by the orders in `shm::cleanup`
    orders      the initial orders
    board       the thresholds, shared with a plugin in the same process
    on_release  called after the device was released
    on_tick     called after each measurement, every few seconds at least; must not wait
    leaving     its release has begun
    launched    it was launched by a DeviceManager or a sandbox, which gives it start values
    in_node     it was launched by a DeviceManager
    refusal     why it neither cleans nor allocates, after a refused start value; else ""
    The other arguments are those of the runtime's Resource.
    """

    def __init__(
        self,
        identifier: str,
        label: str,
        profile: str,
        loggers: "Loggers",
        read_config: "Callable[[str], str]",
        work: Cleaning,
        orders: Orders,
        board: metrics.Metrics,
        on_release: "Callable[[], None]",
    ) -> None:
        self.teller = Teller()
        self._work = work
        self._board = board
        self._on_release = on_release
        self.on_tick: Callable[[], None] = lambda: None
        self.leaving = False
        self.launched = self.in_node = False
        self.refusal = ""
        self._headroom = thresholds.parse(HEADROOM)
        self._host = socket.gethostname()
        self._alarm = thresholds.Alarm(below=True)
        self._low = False
        self._sent_usage: Optional[shown.Usage] = None
        self._sent_capacity = -1
        self._heap_fields: Tuple[List[shown.HeapFigure], List[Any]] = ([], [])
        self._removals_seen = work.journal.gone
        self._has_start_values = False
        # It may be asked for its capacity before the first scan.
        self.figures = figures.Figures(work, self._reserved, self._measured)
        self.ledger = capacity.Ledger(
            self.figures.room,
            self._headroom_bytes,
            claims.Claims(work.root),
            memory.Memory().limits,
            lambda sentence: _log.warning("%s", plain(sentence)),
        )
        GppShmPlugin_base.__init__(self, identifier, label, profile, loggers, read_config)
        self.tell = self.teller.tell
        self.shm_host_name = plain(self._host)
        self.shm_cleanup = _cleanup(orders)
        self.shm_threshold = self.query_prop_shm_threshold()
        self.addPropertyChangeListener("shm::cleanup", self._cleanup_configured)
        self.addPropertyChangeListener("shm::threshold", self._threshold_configured)

    # -- CF::LifeCycle and CF::Resource ------------------------------------------------------------------

    def constructor(self) -> None:
        """Called once, after the properties got their initial values."""
        self._obey(self.shm_cleanup)
        self._work.lead(plain(self._label))
        self._heed(self.shm_threshold)
        self.teller.start()
        self.figures.start()
        self._work.journal.listeners.append(self._on_event)
        self._board.listeners.append(self.figures.wake)

    def initialize(self) -> None:
        if self._work.refusal and not self._is_initialized:
            self._refuse_to_work(self._work.refusal, "GppShmPlugin.ini is put right")
        elif self.launched and not self._is_initialized and not self._has_start_values:
            # The Python sandbox (3.0.1) does this when it cannot convert a start value of its user.
            self._refuse_to_work("no start values came: whoever launched the device says why")
        GppShmPlugin_base.initialize(self)

    def releaseObject(self) -> None:
        """Leave the DeviceManager.  All grants end with the device."""
        self.leaving = True
        listening = (
            (self._work.journal.listeners, self._on_event),
            (self._board.listeners, self.figures.wake),
        )
        for listeners, listener in listening:
            if listener in listeners:
                listeners.remove(listener)
        try:
            GppShmPlugin_base.releaseObject(self)
        finally:
            self._work.lead("")
            self.figures.stop()
            self.teller.end()
            if self.teller.is_alive():
                self.teller.join(LAST_WORDS)
            self.ledger.close()
            self._on_release()

    # -- properties ----------------------------------------------------------------------------------

    def query_prop_shm_capacity(self) -> int:
        return self._available() // capacity.MB

    def query_prop_shm_host_name(self) -> str:
        return plain(self._host)

    def query_prop_shm_overview(self) -> "Any":
        try:
            _, age = self.figures.heaps()
            usage = self.figures.usage()
        except OSError:
            return self.shm_overview
        found = overview.Overview(
            self.figures.census,
            usage,
            self._available(),
            self._work.journal,
            self._work.orders,
            self.refusal,
            age,
        )
        return self.Overview(**vars(found))

    def query_prop_shm_usage(self) -> "Any":
        try:
            self.figures.refresh()
            usage = self.figures.usage()
            usage.limit = self.ledger.room().limit
            return _usage(usage)
        except OSError:
            return self.shm_usage

    def query_prop_shm_heaps(self) -> "Any":
        known, fields = self._heap_fields
        try:
            heaps, age = self.figures.heaps()
        except OSError:
            heaps, age = known, self.figures.age()
        if known is not heaps:
            fields = _fields(self.Heap, heaps, ("age",))
            self._heap_fields = heaps, fields
        last = [CF.DataType("shm::heaps::age", CORBA.Any(CORBA.TC_double, age))]
        return _sequence([each + last for each in fields])

    def query_prop_shm_cleanup(self) -> "Any":
        return _cleanup(self._work.orders)

    def query_prop_shm_cleanup_status(self) -> "Any":
        journal = self._work.journal
        status = self.CleanupStatus()
        status.removed, status.bytes = journal.removed, journal.removed_bytes
        status.removed_by_others, status.bytes_by_others = journal.cleaned, journal.cleaned_bytes
        status.fifos, status.failures = journal.fifos, journal.failures
        status.watched = len(self._work.living())
        recent = list(journal.recent)
        if recent:
            last = recent[-1]
            status.last_heap, status.last_creator = plain(last.name), _long(last.creator)
            status.last_command, status.last_reason = plain(last.command), plain(last.reason)
            status.last_time, status.last_time_iso = overview.seconds(last.time), overview.iso(last.time)
            status.last_latency_ms = _milliseconds(last.latency)
        return status

    def query_prop_shm_recent(self) -> "Any":
        returns = {(name, file_id): rest for name, file_id, *rest in self._work.watcher.returns()}
        removals = []
        for event in reversed(list(self._work.journal.recent)):
            removals.append(_Removal(event))
            figures = returns.get((event.name, (event.device, event.inode)))
            if figures is not None:
                removals[-1].note_returns(*figures[:4])
        return _structs(self.Removal, removals)

    def query_prop_shm_threshold(self) -> "Any":
        return self.Threshold(free=self._board.threshold(metrics.FREE).text, headroom=self._headroom.text)

    def initializeProperties(self, properties: "Sequence[Any]") -> None:
        """Set start values.  After a refused one nothing is cleaned until `shm::cleanup` is configured.

        A sandbox gets InvalidConfiguration with the reason, shows it and continues.  A DeviceManager would
        drop the device and not show the reason, so there the device becomes DISABLED instead.
        """
        declared = self.declared
        wanted = [item for item in properties if not self._is_measured(declared.get(item.id))]
        refused = settable.refusals(wanted, declared, starting=True)
        bad = [item for item, _ in refused]
        GppShmPlugin_base.initializeProperties(
            self, settable.completed([item for item in wanted if not any(item is each for each in bad)])
        )
        self._has_start_values = True
        if refused:
            self._refuse_to_work(f"a start value is refused: {settable.sentence(refused)}")
            if not self.in_node:
                raise CF.PropertySet.InvalidConfiguration(self.refusal, bad)

    def _refuse_to_work(self, why: str, until: str = "shm::cleanup is configured") -> None:
        self.refusal = why
        self.set_operational_state(CF.Device.DISABLED)
        _log.error("%s; nothing is cleaned or allocated until %s", why, until)

    def _is_measured(self, declared: "Any") -> bool:
        """Whether its value is measured at each query, so that a configured value would never be seen."""
        return (
            declared is not None
            and declared.mode == "readonly"
            and hasattr(self, f"query_prop_{declared.name}")
        )

    def configure(self, properties: "Sequence[Any]") -> None:
        """Set all properties, or raise InvalidConfiguration with the reason and change nothing."""
        refused = settable.refusals(properties, self.declared)
        if self._work.refusal:
            refused += [(item, self._work.refusal) for item in properties if item.id == "shm::cleanup"]
        if refused:
            why = settable.sentence(refused)
            _log.warning("nothing is configured, for a value is refused: %s", why)
            raise CF.PropertySet.InvalidConfiguration(why, [item for item, _ in refused])
        GppShmPlugin_base.configure(self, settable.completed(properties))

    def _cleanup_configured(self, identifier: str, old: "Any", new: "Any") -> None:
        if self.refusal:
            self.refusal = ""
            self.set_operational_state(CF.Device.ENABLED)
        self._obey(new)

    def _threshold_configured(self, identifier: str, old: "Any", new: "Any") -> None:
        self._heed(new)

    def _obey(self, value: "Any") -> None:
        orders = Orders(
            bool(value.enabled) and not self.refusal,
            value.scope,
            float(value.rescan),
            bool(value.fifos),
            bool(value.dry_run),
            bool(value.reclaim),
        )
        self._work.obey(orders)
        _log.info(
            "cleaning is %s: scope %s, rescan %g s%s%s%s",
            "on" if orders.enabled else "off",
            orders.scope,
            orders.rescan,
            ", FIFOs too" if orders.fifos else "",
            ", dry run" if orders.dry_run else "",
            "" if orders.reclaim else ", nothing given back while processes are attached",
        )

    def _heed(self, value: "Any") -> None:
        self._headroom = thresholds.parse(value.headroom)
        self._board.set_threshold(metrics.FREE, value.free)

    # -- capacity ------------------------------------------------------------------------------------

    def allocateCapacity(self, capacities: "Sequence[Any]") -> bool:
        """The SCA's call: grant everything, or raise with the reason.  Deallocated by the same properties.

        Returns False for another host's name: a domain asks every device, and does not log a False.
        """
        return bool(self._grant(capacities, True))

    def allocate(self, capacities: "Sequence[Any]") -> "List[Any]":
        """REDHAWK 3.0's call: deallocated by id.  Returns an empty list for another host's name."""
        key = self._grant(capacities, False)
        return [CF.Device.Allocation(self._this(), [], [], capacities, key)] if key else []

    def deallocateCapacity(self, capacities: "Sequence[Any]") -> None:
        self._must_be(CF.Device.UNLOCKED, CF.Device.SHUTTING_DOWN)
        request = self._request(capacities)
        try:
            if request.elsewhere:
                raise capacity.NotGranted()
            self.ledger.give_back_alike(request.terms)
        except capacity.NotGranted:
            left = [grant.size // capacity.MB for grant in self.ledger.grants() if grant.terms]
            what = f"{CAPACITY}: no allocation of {request.megabytes} MB"
            what += " on this host's name" if request.host else ""
            known = ", ".join(f"{size} MB" for size in left[:10]) or "none"
            raise CF.Device.InvalidCapacity(
                f"{what} stands to be deallocated; there are: {known}", capacities
            ) from None
        self._granted()

    def deallocate(self, alloc_id: str) -> None:
        self._must_be(CF.Device.UNLOCKED, CF.Device.SHUTTING_DOWN)
        try:
            self.ledger.give_back(alloc_id)
        except capacity.NotGranted:
            raise CF.Device.InvalidCapacity(
                f"{CAPACITY}: there is no allocation {plain(alloc_id, 80)}, or it was deallocated before", []
            ) from None
        self._granted()

    def _update_usage_state(self) -> None:
        self.set_usage_state(self._get_usageState())

    def _get_usageState(self) -> "Any":
        if self._low or self._available() < capacity.MB:
            return CF.Device.BUSY
        return CF.Device.ACTIVE if self.ledger.grants() else CF.Device.IDLE

    def _grant(self, capacities: "Sequence[Any]", by_terms: bool) -> str:
        """The key of the grant; "" if it is for another host.  Logs and raises a refusal."""
        try:
            return self._granted_key(capacities, by_terms)
        except (CF.Device.InvalidCapacity, CF.Device.InsufficientCapacity, CF.Device.InvalidState) as refusal:
            _log.warning("refused: %s", refusal.msg)
            raise

    def _granted_key(self, capacities: "Sequence[Any]", by_terms: bool) -> str:
        request = self._request(capacities)
        if request.elsewhere:
            return ""
        self._must_be(CF.Device.UNLOCKED)
        key = str(uuid.uuid4())
        asked = f"{CAPACITY}: {request.megabytes} MB were asked for"
        if self._low:
            limit = self._board.threshold(metrics.FREE).text
            raise CF.Device.InsufficientCapacity(
                capacities, f"{asked}, and less shared memory is free than the threshold, {limit}"
            )
        try:
            self.ledger.grant(key, request.megabytes * capacity.MB, request.terms if by_terms else None)
        except capacity.Insufficient as refusal:
            raise CF.Device.InsufficientCapacity(
                capacities, f"{asked}, and {_there_is(refusal.room, plain(self._host))}"
            ) from None
        except OSError as error:
            raise CF.Device.InvalidState(f"the shared memory cannot be measured: {error.strerror}") from None
        self._granted()
        return key

    def _request(self, capacities: "Sequence[Any]") -> Request:
        """Parse an allocation.  Raises InvalidCapacity with the reason."""
        request = Request()
        seen = set()
        for item in capacities:
            kind = item.value.typecode().kind()
            why = ""
            if item.id in seen:
                why = "it is asked for twice"
            elif item.id == CAPACITY:
                if kind not in _INTEGERS:
                    why = "a whole number of MB (longlong) is expected"
                elif item.value.value() <= 0:
                    why = f"{item.value.value()} MB cannot be allocated: at least 1 MB can"
                else:
                    request.megabytes = int(item.value.value())
            elif item.id == HOST_NAME:
                if kind != CORBA.tk_string:
                    why = "a string is expected"
                elif not item.value.value():
                    why = f"the name of a host is expected: this one is {plain(self._host)}"
                else:
                    request.host = item.value.value().lower() == self._host.lower()
                    request.elsewhere = not request.host
            else:
                why = f"only {CAPACITY} and {HOST_NAME} can be allocated here"
            if why:
                raise CF.Device.InvalidCapacity(f"{plain(item.id, 80)}: {why}", [item])
            seen.add(item.id)
        if not seen:
            raise CF.Device.InvalidCapacity(f"nothing was asked for: {CAPACITY} can be allocated here", [])
        return request

    def _must_be(self, *states: "Any") -> None:
        """Raise InvalidState unless the device is enabled and its administrative state is one of these."""
        if self._operational_state != CF.Device.ENABLED or self._admin_state not in states:
            raise CF.Device.InvalidState(
                f"{plain(self._label)} is {self._operational_state} and {self._admin_state};"
                f" it must be ENABLED and {' or '.join(str(state) for state in states)}"
            )

    def _granted(self) -> None:
        """After a change of grants: update usage state and figures."""
        self._update_usage_state()
        self.figures.wake()

    def _available(self) -> int:
        try:
            return self.ledger.available()
        except OSError:
            return 0

    def _reserved(self) -> int:
        return self.ledger.reserved_on_host()

    def _headroom_bytes(self, size: int) -> int:
        return self._headroom.limit(size) or 0

    # -- events and messages -------------------------------------------------------------------------

    def _on_event(self) -> None:
        """Called in the watcher's thread."""
        journal = self._work.journal
        if journal.gone != self._removals_seen:
            self._removals_seen = journal.gone
            event = journal.recent[-1]
            self.teller.tell(lambda: self._send(self.HeapRemoved(), _Removal(event)))
        self.figures.wake()

    def _measured(self, usage: shown.Usage) -> None:
        """Called in the thread of Figures."""
        threshold = self._board.threshold(metrics.FREE)
        low = self._alarm.judge(usage.free, threshold.limit(usage.total), usage.total)
        if low != self._low:
            self._low = low
            crossing = _Crossing(usage, low, threshold.text)
            self.teller.tell(lambda: self._send(self.ThresholdCrossed(), crossing))
        room = self.ledger.room()
        usage.limit = room.limit
        available = room.available // capacity.MB
        if available != self._sent_capacity:
            self._sent_capacity = self.shm_capacity = available
            self._send_value(CAPACITY, available)
        if usage.differs(self._sent_usage):
            if self._sent_usage is None:
                self._send_value(HOST_NAME, self.shm_host_name)
            self._sent_usage = usage
            self.shm_usage = _usage(usage)
            self._send_value("shm::usage", self.shm_usage)
        self._update_usage_state()
        self.on_tick()

    def tell_property(self, identifier: str) -> None:
        item = self.item(identifier)
        self.teller.tell(lambda: self.port_propEvent.send(item))

    def _send_value(self, identifier: str, value: "Any") -> None:
        """As `tell_property`, with a value just measured; a query would measure again."""
        item = CF.DataType(identifier, self.declared[identifier].to_any(value))
        self.teller.tell(lambda: self.port_propEvent.send(item))

    def _send(self, message: "Any", source: object) -> None:
        for name, member in message.declared():
            member.set(message, plain(self._host) if name == "host_name" else getattr(source, name))
        self.port_MessageEvent_out.send(message)


class _Removal:
    """A removal as it is sent: plain strings, and numbers within CORBA's ranges."""

    def __init__(self, event: events.Event) -> None:
        self.name = plain(event.name)
        self.creator = _long(event.creator)
        self.command = plain(event.command)
        component, application = role(event.words)
        self.component, self.application = plain(component), plain(application)
        self.user = plain(event.user)
        self.bytes = event.bytes
        self.reason = plain(event.reason)
        self.evidence = plain(event.evidence)
        self.trigger = plain(event.trigger)
        self.attached = len(event.attached)
        self.held_by = plain(", ".join(f"{pid} ({command})" for pid, command in event.attached))
        self.not_given_back = plain(event.not_given_back)
        self.note_returns(event.given_back, event.given_back_later, event.in_use, event.left)
        self.time, self.time_iso = overview.seconds(event.time), overview.iso(event.time)
        self.latency_ms = _milliseconds(event.latency)

    def note_returns(self, given_back: int, given_back_later: int, in_use: int, left: int) -> None:
        self.given_back, self.given_back_later = given_back, given_back_later
        self.in_use, self.left = in_use, left


class _Crossing:
    """A crossing of the threshold; `low`: free memory is below it now."""

    def __init__(self, usage: shown.Usage, low: bool, threshold: str) -> None:
        free, total = megabytes(usage.free), megabytes(usage.total)
        self.low, self.free, self.total, self.threshold = low, usage.free, usage.total, threshold
        self.reason = f"{free} of {total} of shared memory are free, "
        self.reason += f"less than {threshold}" if low else f"enough again (threshold {threshold})"
        now = time.time()
        self.time, self.time_iso = overview.seconds(now), overview.iso(now)


def _structs(struct: "Any", items: "Sequence[object]") -> "Any":
    """The any of a structsequence, from items that have the struct's members as attributes."""
    return _sequence(_fields(struct, items))


def _fields(struct: "Any", items: "Sequence[object]", but: "Sequence[str]" = ()) -> "List[Any]":
    """The members of each item, except those named in `but`."""
    members = [
        (name, member.id_, TYPES[member.type_]) for name, member in struct.declared() if name not in but
    ]
    sequence = []
    for item in items:
        fields = []
        for name, identifier, typecode in members:
            value = getattr(item, name)
            if typecode is CORBA.TC_string:
                value = plain(value)
            fields.append(CF.DataType(identifier, CORBA.Any(typecode, value)))
        sequence.append(fields)
    return sequence


def _sequence(items: "Sequence[Any]") -> "Any":
    return CORBA.Any(CORBA._tc_AnySeq, [CORBA.Any(CF._tc_Properties, fields) for fields in items])


def _there_is(room: capacity.Room, host: str) -> str:
    """How much can be allocated, and what limits it, in words."""
    words = f"{room.available // capacity.MB} MB can be allocated on {host} (limit: {plain(room.limit, 200)}"
    if room.others:
        words += f"; other devices of this host have granted {room.others // capacity.MB} MB"
    return words + ")"


def _usage(usage: shown.Usage) -> "Any":
    value = GppShmPlugin_base.Usage(path=plain(usage.path), limit=plain(usage.limit))
    for name, member in value.declared():
        if name not in ("path", "limit"):
            member.set(value, getattr(usage, name))
    value.free_percent = round(usage.free_percent, 2)
    return value


def _cleanup(orders: Orders) -> "Any":
    return GppShmPlugin_base.Cleanup(
        enabled=orders.enabled,
        scope=orders.scope,
        rescan=orders.rescan,
        fifos=orders.fifos,
        dry_run=orders.dry_run,
        reclaim=orders.reclaim,
    )


def _milliseconds(seconds: float) -> float:
    """Milliseconds, rounded to microseconds: some displays show every digit of a double."""
    return round(seconds * 1000.0, 3)


def _long(number: int) -> int:
    """The number, or 0 if it is no CORBA long: the number in a name may be anything."""
    return number if -(1 << 31) <= number < 1 << 31 else 0
