"""Event channels: the GPP's two message ports, a consumer for any listener, and the domain's channels."""

from omniORB import CORBA

# isort: split
# omniORB adds the folder of these two to the path.
import CosEventChannelAdmin
import CosEventChannelAdmin__POA

from stubs import ExtendedEvent__POA


class Consumer(CosEventChannelAdmin__POA.ProxyPushConsumer):
    def __init__(self, receive):
        self.push = receive

    def connect_push_supplier(self, supplier):
        pass

    def disconnect_push_consumer(self):
        pass


class SupplierAdmin(CosEventChannelAdmin__POA.SupplierAdmin):
    def __init__(self, receive):
        self.receive = receive

    def obtain_push_consumer(self):
        return Consumer(self.receive)._this()

    def obtain_pull_consumer(self):
        return None


class MessageConsumer(ExtendedEvent__POA.MessageEvent):
    """An event channel that passes every any pushed into it to `receive`."""

    def __init__(self, receive):
        self.suppliers = SupplierAdmin(receive)

    def for_suppliers(self):
        return self.suppliers._this()

    def for_consumers(self):
        return None

    def destroy(self):
        pass

    def connectPort(self, connection, name):
        raise CORBA.NO_IMPLEMENT(0, CORBA.COMPLETED_NO)

    def disconnectPort(self, name):
        raise CORBA.NO_IMPLEMENT(0, CORBA.COMPLETED_NO)


class EventChannel(CosEventChannelAdmin__POA.EventChannel):
    """Passes every any to all connected consumers; a consumer that fails is dropped."""

    def __init__(self):
        self.suppliers = SupplierAdmin(self.push)
        self.consumers = ConsumerAdmin()

    def push(self, data):
        for proxy in list(self.consumers.proxies):
            try:
                proxy.consumer.push(data)
            except CORBA.Exception:
                proxy.disconnect_push_supplier()

    def for_suppliers(self):
        return self.suppliers._this()

    def for_consumers(self):
        return self.consumers._this()


class ConsumerAdmin(CosEventChannelAdmin__POA.ConsumerAdmin):
    def __init__(self):
        self.proxies = []

    def obtain_push_supplier(self):
        return Supplier(self.proxies)._this()


class Supplier(CosEventChannelAdmin__POA.ProxyPushSupplier):
    def __init__(self, proxies):
        self.proxies = proxies

    def connect_push_consumer(self, consumer):
        self.consumer = consumer
        self.proxies.append(self)

    def disconnect_push_supplier(self):
        if self in self.proxies:
            self.proxies.remove(self)


class MessageSupplier:
    """Pushes to every connected channel, by connection id."""

    def __init__(self):
        self.consumers = {}

    def connect(self, channel, connection):
        """Raises ValueError, or a CORBA exception, if the object is no channel or the id is taken."""
        if channel is None or not channel._is_a("IDL:omg.org/CosEventChannelAdmin/EventChannel:1.0"):
            raise ValueError("not an event channel")
        if connection in self.consumers:
            raise ValueError("connection id taken")
        consumer = channel._narrow(CosEventChannelAdmin.EventChannel).for_suppliers().obtain_push_consumer()
        consumer.connect_push_supplier(None)
        # REDHAWK 3.0 asks this last.
        channel._is_a("IDL:CF/UpstreamRegistrar:1.0")
        self.consumers[connection] = consumer

    def push(self, data):
        """A channel that cannot be reached stays connected, and does not affect the others."""
        for connection, consumer in list(self.consumers.items()):
            try:
                consumer.push(data)
            except CORBA.Exception as error:
                print(f"GPP: {connection}: could not deliver the message: {error!r}", flush=True)
