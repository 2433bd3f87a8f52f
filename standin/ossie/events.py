"""What a device says on event channels: messages, property events, its changes of state."""

import logging
import threading

from omniORB import CORBA, any

# isort: split
# omniORB adds the folder of this one to the path.
import CosEventChannelAdmin

from ossie.cf import CF, CF__POA, ExtendedCF, ExtendedCF__POA, ExtendedEvent
from ossie.properties import props_to_any, struct_to_any

IDM_CHANNEL = "IDM_Channel"


def consumer_of(channel):
    """What can be pushed into on an event channel."""
    consumer = channel.for_suppliers().obtain_push_consumer()
    consumer.connect_push_supplier(None)
    return consumer


class MessageSupplierPort(ExtendedCF__POA.QueryablePort):
    """A uses port: messages to every channel that it was connected to."""

    def __init__(self):
        self.portInterfaceAccess = threading.Lock()
        self._connections = {}
        self._port_log = logging.getLogger("MessageSupplierPort")

    def connectPort(self, connection, connectionId):
        # If this fails the lock stays held, and every later call on this port hangs.
        self.portInterfaceAccess.acquire()
        channel = connection._narrow(CosEventChannelAdmin.EventChannel)
        self._connections[connectionId] = (channel, consumer_of(channel))
        self.portInterfaceAccess.release()

    def disconnectPort(self, connectionId):
        with self.portInterfaceAccess:
            if connectionId in self._connections:
                self._connections[connectionId][1].disconnect_push_consumer()
                del self._connections[connectionId]

    def _get_connections(self):
        return [ExtendedCF.UsesConnection(name, pair[0]) for name, pair in self._connections.items()]

    def push(self, data, connectionId=None):
        """To one connection or all: who cannot be reached loses the message and stays connected."""
        with self.portInterfaceAccess:
            if connectionId and connectionId not in self._connections:
                raise ValueError(f"invalid connection '{connectionId}'")
            for name, (_, consumer) in self._connections.items():
                if connectionId in (None, "", name):
                    try:
                        consumer.push(data)
                    except Exception:
                        self._port_log.warning("WARNING: Unable to send data to %s", name)

    def sendMessage(self, message, connectionId=None):
        if isinstance(message, CORBA.Any):
            self.push(message, connectionId)
        else:
            self.sendMessages([message], connectionId)

    def sendMessages(self, messages, connectionId=None):
        items = [CF.DataType(message.getId(), struct_to_any(message)) for message in messages]
        self.push(props_to_any(items), connectionId)


class PropertyEventSupplier(CF__POA.Port):
    """A uses port: the values of properties of kind "event" that have changed, to every channel.

    The values are those that are kept: a property's query callback is not asked.
    """

    def __init__(self, component):
        self._component = component
        self._consumers = {}
        component._props.setPropertyChangeEvent(self.sendPropertyEvent)

    def connectPort(self, connection, connectionId):
        try:
            self._consumers[connectionId] = consumer_of(connection._narrow(CosEventChannelAdmin.EventChannel))
        except Exception as error:
            self._component._log.warning("Failed to connect to event channel: %r", error)

    def disconnectPort(self, connectionId):
        self._consumers.pop(connectionId, None)

    def sendPropertyEvent(self, id):
        self.sendPropertiesEvent((id,))

    def sendPropertiesEvent(self, ids=None):
        props = self._component._props
        if ids is None:
            ids = [id_ for id_, found in props.items() if found.isSendEventChange()]
        if not ids or not self._consumers:
            return
        found = [props.getPropDef(id_) for id_ in ids]
        values = [CF.DataType(each.id_, each._toAny(each.get(self._component))) for each in found]
        name = self._component._name
        event = any.to_any(ExtendedEvent.PropertySetChangeEventType(self._component._id, name, values))
        for connection, consumer in list(self._consumers.items()):
            try:
                consumer.push(event)
            except Exception as error:
                self._component._log.warning("Unable to send event to '%s': %r", connection, error)


class Manager:
    """Registers with the domain's event channels, if it can reach them, and ends that."""

    def __init__(self, device):
        try:
            self.remote = device.getDomainManager().getRef()._get_eventChannelMgr()
        except Exception:
            self.remote = None
        self.registrations = []

    def publish(self, channel):
        """What can be pushed into; raises if the domain has no such channel."""
        wanted = CF.EventChannelManager.EventRegistration(channel, "")
        registered = self.remote.registerResource(wanted)
        self.registrations.append(registered.reg)
        return consumer_of(registered.channel)

    def terminate(self):
        for registration in self.registrations:
            try:
                self.remote.unregister(registration)
            except CORBA.Exception:
                pass
        self.registrations.clear()
