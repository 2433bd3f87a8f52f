"""The plugin's end of the GPP's protocol: a reference to the GPP, and a port on which it pushes thresholds.

All calls have a time limit.  The thread that cleans calls nothing here.
"""

from gppshm.redhawk import logs, messages
from gppshm.redhawk.corba import (
    CORBA,
    CosEventChannelAdmin,
    CosEventChannelAdmin__POA,
    ExtendedEvent__POA,
    named,
    omniORB,
)
from gppshm.redhawk.text import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Sequence

_log = logs.logger("GppShmPlugin.gpp")

NAME = "GppShmPlugin"
DESCRIPTION = "Removes the shared memory heaps that dead processes leave behind"

CALL_TIME = 2000
CONNECT_TIME = 1000
"""Milliseconds for a call or a connection to the GPP."""

ORB_OPTIONS = (
    # By default omniORB wakes up every 5 s to look for idle connections (scanGranularity), and 20 times a
    # second to look for new ones (connectionWatchPeriod, in microseconds), although poll() reports these.
    ("scanGranularity", "0"),
    ("connectionWatchPeriod", "600000000"),
    ("threadPerConnectionPolicy", "1"),
    ("maxServerThreadPerConnection", "2"),
)


def start_orb() -> "Any":
    """Start the ORB of this process.  It accepts calls from now on; its own calls have a time limit."""
    arguments = [NAME]
    for option, value in ORB_OPTIONS:
        arguments += ["-ORB" + option, value]
    orb = CORBA.ORB_init(arguments, CORBA.ORB_ID)
    omniORB.setClientCallTimeout(CALL_TIME)
    omniORB.setClientConnectTimeout(CONNECT_TIME)
    orb.resolve_initial_references("RootPOA")._get_the_POAManager().activate()
    return orb


class BadReference(Exception):
    """The plugin was started with an IOR that is invalid, or not that of an event channel."""

    def __str__(self) -> str:
        return f"the IOR is not that of a GPP's port: {self.args[0]}"


class Unreachable(Exception):
    """A call to the GPP failed.

    delivered  False if the GPP certainly did not receive it
    """

    def __init__(self, reason: str, delivered: bool) -> None:
        Exception.__init__(self, reason)
        self.delivered = delivered

    def __str__(self) -> str:
        return f"the GPP cannot be reached: {self.args[0]}"


class Link:
    """The connection to the GPP whose metrics_in port is at `ior`, as plugin `plugin_id`.

    on_threshold(metric, text)  called in a thread of the ORB, for each threshold for this plugin
    Raises BadReference if the IOR is invalid; Unreachable if the ORB cannot be started.
    """

    def __init__(self, ior: str, plugin_id: str, on_threshold: "Callable[[str, str], None]") -> None:
        self.plugin_id = plugin_id
        self._consumer: Any = None
        try:
            orb = start_orb()
            poa = orb.resolve_initial_references("RootPOA")
            self._port = MetricPort(poa, plugin_id, on_threshold)
            self._port_ior = orb.object_to_string(self._port.reference)
        except CORBA.SystemException as error:
            raise Unreachable(f"omniORB does not start, {named(error)}", False) from None
        try:
            self._channel = orb.string_to_object(ior)
        except (CORBA.SystemException, UnicodeError) as error:
            raise BadReference(f"it cannot be read: {named(error)}") from None
        if self._channel is None:
            raise BadReference("it is nil")

    def connect(self) -> None:
        """Obtain the push consumer.  Raises Unreachable; BadReference if the IOR is no event channel's."""
        try:
            channel = self._channel._narrow(CosEventChannelAdmin.EventChannel)
            if channel is None:
                raise BadReference("it is not that of an event channel")
            consumer = channel.for_suppliers().obtain_push_consumer()
            if consumer is None:
                raise Unreachable("it gives no push consumer", False)
            consumer.connect_push_supplier(None)
        except CORBA.Exception as error:
            raise Unreachable(named(error), False) from None
        self._consumer = consumer

    def push(self, what: "Sequence[Any]") -> None:
        """Push messages; connect first if necessary.  Raises Unreachable, BadReference."""
        if self._consumer is None:
            self.connect()
        try:
            self._consumer.push(messages.pack(what))
        except CORBA.SystemException as error:
            if isinstance(error, (CORBA.OBJECT_NOT_EXIST, CORBA.INV_OBJREF)):
                self._consumer = None
            delivered = error.completed != CORBA.COMPLETED_NO
            raise Unreachable(named(error), delivered) from None
        except CORBA.UserException as error:
            self._consumer = None  # Disconnected: this consumer accepts nothing more
            raise Unreachable(named(error), False) from None

    def register(self) -> None:
        """Register the plugin.  Raises Unreachable; it may be repeated only if that was not `delivered`."""
        self.push([messages.registration(self.plugin_id, NAME, DESCRIPTION, self._port_ior)])


class MetricPort:
    """The event channel on which the GPP pushes thresholds.  It accepts any push without an error."""

    def __init__(self, poa: "Any", plugin_id: str, on_threshold: "Callable[[str, str], None]") -> None:
        self.plugin_id = plugin_id
        self.on_threshold = on_threshold
        # One servant of each kind for all connections: none has a state.
        self._servants: Any = (_Channel(self), _Admin(self), _Consumer(self))
        self.reference, self.admin, self.consumer = [
            poa.id_to_reference(poa.activate_object(servant)) for servant in self._servants
        ]

    def take(self, data: "Any") -> None:
        """Handle pushed data.  Never raises."""
        try:
            for plugin_id, metric, text in messages.thresholds(data):
                if plugin_id == self.plugin_id:
                    self.on_threshold(metric, text)
        except ValueError as error:
            _log.warning("the GPP pushed something that is no message; it is ignored: %s", error)
        except Exception as error:
            _log.error("a message of the GPP could not be used; it is ignored: %s", plain(repr(error)))


class _Channel(ExtendedEvent__POA.MessageEvent):  # type: ignore[misc]
    def __init__(self, port: MetricPort) -> None:
        self._metric_port = port

    def for_suppliers(self) -> "Any":
        return self._metric_port.admin

    def for_consumers(self) -> "Any":
        raise CORBA.NO_IMPLEMENT(0, CORBA.COMPLETED_NO)

    def destroy(self) -> None:
        """Ignored: the channel lives as long as the plugin."""

    def connectPort(self, connection: "Any", connection_id: str) -> None:
        """Ignored: suppliers push through `for_suppliers`."""

    def disconnectPort(self, connection_id: str) -> None:
        pass


class _Admin(CosEventChannelAdmin__POA.SupplierAdmin):  # type: ignore[misc]
    def __init__(self, port: MetricPort) -> None:
        self._metric_port = port

    def obtain_push_consumer(self) -> "Any":
        return self._metric_port.consumer

    def obtain_pull_consumer(self) -> "Any":
        raise CORBA.NO_IMPLEMENT(0, CORBA.COMPLETED_NO)


class _Consumer(CosEventChannelAdmin__POA.ProxyPushConsumer):  # type: ignore[misc]
    def __init__(self, port: MetricPort) -> None:
        self._metric_port = port

    def push(self, data: "Any") -> None:
        self._metric_port.take(data)

    def connect_push_supplier(self, supplier: "Any") -> None:
        pass

    def disconnect_push_consumer(self) -> None:
        pass
