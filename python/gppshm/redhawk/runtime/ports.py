"""The device's event ports: messages and property changes.

A port holds no lock during calls.  A channel that hangs blocks only the sender, for the ORB's time limit.  If
a channel cannot be reached the message is lost; the connection stays.
"""

import threading

from gppshm.redhawk.corba import (
    CF,
    CF__POA,
    CORBA,
    CosEventChannelAdmin,
    ExtendedCF,
    ExtendedCF__POA,
    ExtendedEvent,
    named,
)
from gppshm.redhawk.runtime.properties import struct_to_any
from gppshm.redhawk.text import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    from typing import Any, Callable, Dict, List, Tuple


def consumer_of(channel: "Any") -> "Any":
    """The push consumer of an event channel; None if it has none, or is no channel."""
    # A reference with the type id of a channel is narrowed without a call.
    channel = channel and channel._narrow(CosEventChannelAdmin.EventChannel)
    admin = channel and channel.for_suppliers()
    consumer = admin and admin.obtain_push_consumer()
    if consumer is not None:
        consumer.connect_push_supplier(None)
    return consumer


class _Port:
    """A uses port that pushes into every connected event channel."""

    def __init__(self, log: "logging.Logger") -> None:
        self._log = log
        self._changed = threading.Lock()
        self._connections: Dict[str, Tuple[Any, Any]] = {}
        self._unreachable: Dict[str, Any] = {}

    def connectPort(self, connection: "Any", connectionId: str) -> None:
        """Replaces a connection of the same id.  InvalidPort if the object is no channel."""
        try:
            consumer = consumer_of(connection)
        except CORBA.Exception as error:
            reason = f"the event channel does not answer: {named(error)}"
        else:
            reason = "" if consumer is not None else "that is no event channel, or it takes no messages"
        if reason:
            self._log.warning("%s is not connected: %s", plain(connectionId, 100), reason)
            raise CF.Port.InvalidPort(1, plain(f"{connectionId}: {reason}"))
        with self._changed:
            self._connections[connectionId] = (connection, consumer)
            self._unreachable.pop(connectionId, None)

    def disconnectPort(self, connectionId: str) -> None:
        """Works for dead channels, too; does nothing without such a connection."""
        with self._changed:
            _, consumer = self._connections.pop(connectionId, (None, None))
        if consumer is not None:
            try:
                consumer.disconnect_push_consumer()
            except CORBA.Exception:
                pass

    def push(self, data: "Any") -> None:
        with self._changed:
            connections = list(self._connections.items())
        for name, (_, consumer) in connections:
            try:
                consumer.push(data)
                self._unreachable.pop(name, None)
            except CORBA.Exception as error:
                if self._unreachable.get(name) is not consumer:
                    self._unreachable[name] = consumer
                    self._log.warning(
                        "messages to %s are lost until it can be reached again: %s",
                        plain(name, 100),
                        named(error),
                    )

    def connections(self) -> "List[Tuple[str, Any]]":
        with self._changed:
            return [(name, channel) for name, (channel, _) in self._connections.items()]


class MessagePort(_Port, ExtendedCF__POA.QueryablePort):  # type: ignore[misc]
    """Sends structs as messages, each under its struct's id."""

    def _get_connections(self) -> "List[Any]":
        return [ExtendedCF.UsesConnection(*pair) for pair in self.connections()]

    def send(self, message: "Any") -> None:
        item = CF.DataType(message.getId(), struct_to_any(message))
        self.push(CORBA.Any(CF._tc_Properties, [item]))


class PropertyEventPort(_Port, CF__POA.Port):  # type: ignore[misc]
    """Sends new values of properties."""

    def __init__(self, log: "logging.Logger", identifier: str, label: str) -> None:
        _Port.__init__(self, log)
        self._source = identifier, label

    def send(self, item: "Any") -> None:
        """A CF::DataType."""
        event = ExtendedEvent.PropertySetChangeEventType(*self._source, [item])
        self.push(CORBA.Any(ExtendedEvent._tc_PropertySetChangeEventType, event))


class Watchers:
    """The domain's channel for state changes, if it can be reached."""

    NAME = "IDM_Channel"

    def __init__(self, log: "logging.Logger") -> None:
        self._log = log
        self._consumer: Any = None
        self._leave: Callable[[], None] = lambda: None

    def connect(self, orb: "Any", ior: "Any", domain: "Any") -> None:
        """Connect by the channel's IOR; without one `domain` is asked for it, and informed at the end."""
        try:
            channel = orb.string_to_object(ior) if ior else self._registered(domain)
            self._consumer = consumer_of(channel)
        except (CORBA.Exception, UnicodeError) as error:
            self._log.warning("changes of state are not sent to the domain: %s", plain(repr(error)))

    def _registered(self, domain: "Any") -> "Any":
        manager = domain and domain._get_eventChannelMgr()
        if manager is None:
            return None
        wanted = CF.EventChannelManager.EventRegistration(self.NAME, "")
        registered = manager.registerResource(wanted)
        self._leave = lambda: manager.unregister(registered.reg)
        return registered.channel

    def push(self, data: "Any") -> None:
        if self._consumer is not None:
            self._consumer.push(data)

    def disconnect(self) -> None:
        self._consumer = None
        try:
            self._leave()
        except CORBA.Exception:
            pass
