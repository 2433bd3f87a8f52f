"""The REDHAWK device: shared memory as properties, and as capacity that waveforms reserve.

Events and messages are sent by a thread of their own (`sender`); no other thread waits for a receiver.
"""

import socket
import uuid

from gppshm import capacity, claims, memory
from gppshm.redhawk import (
    allocation,
    figures,
    logs,
    metrics,
    overview,
    sender,
    settable,
    shown,
    thresholds,
    values,
)
from gppshm.redhawk.cleaning import Cleaning, Orders
from gppshm.redhawk.corba import CF, CORBA
from gppshm.redhawk.text import plain
from GppShmPlugin_base import GppShmPlugin_base

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, List, Optional, Sequence, Tuple

    from gppshm.redhawk.runtime.log4j import Loggers

_log = logs.logger("GppShmPlugin.device")

HEADROOM = "5%"
"""Part of the file system that is never granted; default of the property."""
LAST_REPORTS = 0.05
"""Seconds for the last messages when the device is released."""


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
        self.sender = sender.Sender()
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
        self._rows = values.Rows(self.Heap, ("age",))
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
        self.submit = self.sender.submit
        self.shm_host_name = plain(self._host)
        self.shm_cleanup = values.cleanup_struct(orders)
        self.shm_threshold = self.query_prop_shm_threshold()
        self.addPropertyChangeListener("shm::cleanup", self._cleanup_configured)
        self.addPropertyChangeListener("shm::threshold", self._threshold_configured)

    # -- CF::LifeCycle and CF::Resource ------------------------------------------------------------------

    def constructor(self) -> None:
        """Called once, after the properties got their initial values."""
        self._apply_orders(self.shm_cleanup)
        self._work.lead(plain(self._label))
        self._apply_thresholds(self.shm_threshold)
        self.sender.start()
        self.figures.start()
        self._work.journal.listeners.append(self._on_event)
        self._board.listeners.append(self.figures.wake)

    def initialize(self) -> None:
        if self._work.refusal and not self._is_initialized:
            self._refuse_to_work(self._work.refusal, "GppShmPlugin.ini is corrected")
        elif self.launched and not self._is_initialized and not self._has_start_values:
            # The Python sandbox (3.0.1) does this when it cannot convert a start value of its user.
            self._refuse_to_work(
                "no start values came: the program that launched the device shows the reason"
            )
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
            self.sender.end()
            if self.sender.is_alive():
                self.sender.join(LAST_REPORTS)
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
            return values.usage_struct(usage)
        except OSError:
            return self.shm_usage

    def query_prop_shm_heaps(self) -> "Any":
        known, fields = self._heap_fields
        try:
            heaps, age = self.figures.heaps()
        except OSError:
            heaps, age = known, self.figures.age()
        if known is not heaps:
            fields = self._rows.fields(heaps)
            self._heap_fields = heaps, fields
        last = [CF.DataType("shm::heaps::age", CORBA.Any(CORBA.TC_double, age))]
        return values.sequence([each + last for each in fields])

    def query_prop_shm_cleanup(self) -> "Any":
        return values.cleanup_struct(self._work.orders)

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
            status.last_heap, status.last_creator = plain(last.name), values.as_long(last.creator)
            status.last_command, status.last_reason = plain(last.command), plain(last.reason)
            status.last_time, status.last_time_iso = overview.seconds(last.time), overview.iso(last.time)
            status.last_latency_ms = values.milliseconds(last.latency)
        return status

    def query_prop_shm_recent(self) -> "Any":
        returns = {(name, file_id): rest for name, file_id, *rest in self._work.watcher.returns()}
        removals = []
        for event in reversed(list(self._work.journal.recent)):
            removals.append(values.Removal(event))
            figures = returns.get((event.name, (event.device, event.inode)))
            if figures is not None:
                removals[-1].note_returns(*figures[:4])
        return values.structs(self.Removal, removals)

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
            _log.warning("nothing is configured, because a value is refused: %s", why)
            raise CF.PropertySet.InvalidConfiguration(why, [item for item, _ in refused])
        GppShmPlugin_base.configure(self, settable.completed(properties))

    def _cleanup_configured(self, identifier: str, old: "Any", new: "Any") -> None:
        if self.refusal:
            self.refusal = ""
            self.set_operational_state(CF.Device.ENABLED)
        self._apply_orders(new)

    def _threshold_configured(self, identifier: str, old: "Any", new: "Any") -> None:
        self._apply_thresholds(new)

    def _apply_orders(self, value: "Any") -> None:
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

    def _apply_thresholds(self, value: "Any") -> None:
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
        request = allocation.parse(capacities, self._host)
        try:
            if request.elsewhere:
                raise capacity.NotGranted()
            self.ledger.give_back_alike(request.terms)
        except capacity.NotGranted:
            left = [grant.size // capacity.MB for grant in self.ledger.grants() if grant.terms]
            what = f"{allocation.CAPACITY}: no allocation of {request.megabytes} MB"
            what += " on this host's name" if request.host else ""
            known = ", ".join(f"{size} MB" for size in left[:10]) or "none"
            raise CF.Device.InvalidCapacity(f"{what} exists; there are: {known}", capacities) from None
        self._granted()

    def deallocate(self, alloc_id: str) -> None:
        self._must_be(CF.Device.UNLOCKED, CF.Device.SHUTTING_DOWN)
        try:
            self.ledger.give_back(alloc_id)
        except capacity.NotGranted:
            raise CF.Device.InvalidCapacity(
                f"{allocation.CAPACITY}: there is no allocation {plain(alloc_id, 80)}, or it has ended", []
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
        request = allocation.parse(capacities, self._host)
        if request.elsewhere:
            return ""
        self._must_be(CF.Device.UNLOCKED)
        key = str(uuid.uuid4())
        asked = f"{allocation.CAPACITY}: {request.megabytes} MB were requested"
        if self._low:
            limit = self._board.threshold(metrics.FREE).text
            raise CF.Device.InsufficientCapacity(
                capacities, f"{asked}, and less shared memory is free than the threshold, {limit}"
            )
        try:
            self.ledger.grant(key, request.megabytes * capacity.MB, request.terms if by_terms else None)
        except capacity.Insufficient as refusal:
            raise CF.Device.InsufficientCapacity(
                capacities, f"{asked}, and {allocation.available(refusal.room, plain(self._host))}"
            ) from None
        except OSError as error:
            raise CF.Device.InvalidState(f"the shared memory cannot be measured: {error.strerror}") from None
        self._granted()
        return key

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
        event = journal.reported
        if event is not None and journal.gone != self._removals_seen:
            self._removals_seen = journal.gone
            self.sender.submit(lambda: self._send(self.HeapRemoved(), values.Removal(event)))
        self.figures.wake()

    def _measured(self, usage: shown.Usage) -> None:
        """Called in the thread of Figures."""
        threshold = self._board.threshold(metrics.FREE)
        low = self._alarm.judge(usage.free, threshold.limit(usage.total), usage.total)
        if low != self._low:
            self._low = low
            crossing = values.Crossing(usage, low, threshold.text)
            self.sender.submit(lambda: self._send(self.ThresholdCrossed(), crossing))
        room = self.ledger.room()
        usage.limit = room.limit
        available = room.available // capacity.MB
        if available != self._sent_capacity:
            self._sent_capacity = self.shm_capacity = available
            self._send_value(allocation.CAPACITY, available)
        if usage.differs(self._sent_usage):
            if self._sent_usage is None:
                self._send_value(allocation.HOST_NAME, self.shm_host_name)
            self._sent_usage = usage
            self.shm_usage = values.usage_struct(usage)
            self._send_value("shm::usage", self.shm_usage)
        self._update_usage_state()
        self.on_tick()

    def send_property(self, identifier: str) -> None:
        item = self.item(identifier)
        self.sender.submit(lambda: self.port_propEvent.send(item))

    def _send_value(self, identifier: str, value: "Any") -> None:
        """As `send_property`, with a value just measured; a query would measure again."""
        item = CF.DataType(identifier, self.declared[identifier].to_any(value))
        self.sender.submit(lambda: self.port_propEvent.send(item))

    def _send(self, message: "Any", source: object) -> None:
        for name, member in message.declared():
            member.set(message, plain(self._host) if name == "host_name" else getattr(source, name))
        self.port_MessageEvent_out.send(message)
