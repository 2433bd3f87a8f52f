"""A device that shows what the runtime (gppshm.redhawk.runtime) does with a device.

    probe.py NAME VALUE ...

One more setting than a DeviceManager's: with DEFY 1 neither releaseObject() nor SIGINT nor SIGTERM end it.
"""

import os
import signal
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../python"))

from gppshm.redhawk.corba import CF, CF__POA, CORBA
from gppshm.redhawk.runtime import log4j, sources, versions
from gppshm.redhawk.runtime.device import Device
from gppshm.redhawk.runtime.ports import MessagePort, PropertyEventPort
from gppshm.redhawk.runtime.properties import (
    simple_property,
    struct_property,
    structseq_property,
    usesport,
)


class Limits:
    low = simple_property(id_="probe::limits::low", name="low", type_="long", defvalue=1)
    name = simple_property(id_="probe::limits::name", name="name", type_="string", defvalue="none")
    note = simple_property(id_="probe::limits::note", name="note", type_="string", optional=True)

    @staticmethod
    def getId():
        return "probe::limits"


class Item:
    size = simple_property(id_="probe::items::size", name="size", type_="ulonglong", defvalue=0)
    name = simple_property(id_="probe::items::name", name="name", type_="string", defvalue="")

    def __init__(self, size=0, name=""):
        self.size, self.name = size, name


class Probe(CF__POA.Device, Device):
    text = simple_property(id_="probe::text", name="text", type_="string", defvalue="t", kinds=("configure",))
    level = simple_property(id_="probe::level", name="level", type_="float", defvalue=0.5)
    count = simple_property(
        id_="probe::count", name="count", type_="long", defvalue=0, kinds=("property", "event")
    )
    flag = simple_property(id_="probe::flag", name="flag", type_="boolean", defvalue=False)
    secret = simple_property(id_="probe::secret", name="secret", type_="string", mode="writeonly")
    fail = simple_property(id_="probe::fail", name="fail", type_="string", defvalue="")
    calls = simple_property(id_="probe::calls", name="calls", type_="string", mode="readonly")
    kind = simple_property(
        id_="probe::kind",
        name="kind",
        type_="string",
        defvalue="PROBE",
        mode="readonly",
        action="eq",
        kinds=("allocation",),
    )
    capacity = simple_property(
        id_="probe::capacity",
        name="capacity",
        type_="longlong",
        defvalue=100,
        mode="readonly",
        kinds=("property", "allocation"),
    )
    speed = simple_property(
        id_="probe::speed", name="speed", type_="long", mode="readonly", action="ge", kinds=("allocation",)
    )
    limits = struct_property(id_="probe::limits", name="limits", structdef=Limits)
    usage = struct_property(id_="probe::usage", name="usage", structdef=Limits, mode="readonly")
    items = structseq_property(id_="probe::items", name="items", structdef=Item, mode="readonly")
    port_out = usesport(name="out", repid="IDL:ExtendedEvent/MessageEvent:1.0", type_="data")
    port_events = usesport(
        name="propEvent", repid="IDL:omg.org/CosEventChannelAdmin/EventChannel:1.0", type_="responses"
    )

    def __init__(self, settings, loggers, read_config):
        identifier, label = settings["DEVICE_ID"], settings["DEVICE_LABEL"]
        Device.__init__(self, identifier, label, settings["PROFILE_NAME"], loggers, read_config)
        self.defies = settings.get("DEFY") == "1"
        self.log = []
        self.granted = []
        self.port_out = MessagePort(loggers.child("ports", "out"))
        self.port_events = PropertyEventPort(loggers.child("ports", "propEvent"), identifier, label)

    def constructor(self):
        self.log.append("constructor")
        if self.fail == "constructor":
            raise RuntimeError("no luck")
        self.addPropertyChangeListener("probe::level", self.heard)
        self.addPropertyChangeListener("probe::count", self.heard)
        self.items = [Item(1 << 40, "one"), Item(0, "two")]
        self._loggers.child("user", "child").info("constructed %s", self._label)

    def heard(self, id_, old, new):
        self.log.append(f"{id_}:{old}>{new}")
        if self.fail == "listener":
            raise RuntimeError("no luck")

    def initializeProperties(self, properties):
        self.log.append("initializeProperties " + " ".join(sorted(each.id for each in properties)))
        Device.initializeProperties(self, properties)

    def initialize(self):
        self.log.append("initialize")
        Device.initialize(self)

    def configure(self, properties):
        self.log.append("configure " + " ".join(sorted(each.id for each in properties)))
        Device.configure(self, properties)

    def start(self):
        self.log.append("start")
        Device.start(self)

    def stop(self):
        print("stop", flush=True)
        Device.stop(self)

    def releaseObject(self):
        print("releaseObject", flush=True)
        if not self.defies:
            Device.releaseObject(self)
            self.end()

    def runTest(self, testid, values):
        if testid != 1:
            return Device.runTest(self, testid, values)
        limits = Limits()
        limits.low, limits.name = 3, "three"
        self.port_out.send(limits)
        return values

    def send_property(self, identifier):
        self.port_events.send(self.item(identifier))

    def query_prop_calls(self):
        if self.fail == "query":
            raise RuntimeError("no luck")
        return "\n".join(self.log)

    def query_prop_usage(self):
        if self.fail == "struct":
            raise RuntimeError("no luck")
        return self.usage

    def validate_prop_limits(self, value):
        return value.low >= 0

    def validate_prop_text(self, value):
        if value == "self":
            self.query([])
        return True

    # Capacity, as far as a waveform needs it

    def allocateCapacity(self, wanted):
        print("allocateCapacity", [(each.id, each.value.value()) for each in wanted], flush=True)
        amount = wanted[0].value.value()
        if amount == 13:
            raise CF.Device.InvalidCapacity("unlucky", wanted)
        if amount > 100 - sum(self.granted):
            return False
        self.granted.append(amount)
        self.set_usage_state(CF.Device.BUSY if sum(self.granted) == 100 else CF.Device.ACTIVE)
        return True

    def deallocateCapacity(self, wanted):
        print("deallocateCapacity", [(each.id, each.value.value()) for each in wanted], flush=True)
        self.granted.remove(wanted[0].value.value())
        self.set_usage_state(CF.Device.ACTIVE if self.granted else CF.Device.IDLE)


def main():
    settings = dict(zip(sys.argv[1::2], sys.argv[2::2]))
    orb = CORBA.ORB_init()
    orb.resolve_initial_references("RootPOA")._get_the_POAManager().activate()
    manager = orb.string_to_object(settings["DEVICE_MGR_IOR"])._narrow(CF.DeviceManager)
    domain = manager._get_domMgr()
    version = versions.of_domain(domain)

    def read_config(uri):
        return sources.expanded(sources.read(uri, orb, manager, version), settings)

    loggers = log4j.Loggers(settings["DEVICE_LABEL"], lambda line: os.write(1, line))
    probe = Probe(settings, loggers, read_config)
    if probe.defies:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    probe.version = version
    probe.end = lambda: orb.shutdown(False)
    probe.leave = lambda: manager.unregisterDevice(probe._this())
    probe.configure_logging(settings.get("LOGGING_CONFIG_URI", ""), settings.get("DEBUG_LEVEL", ""))
    probe.watch_states(orb, settings.get("IDM_CHANNEL_IOR"), domain)
    try:
        manager.registerDevice(probe._this())
    except CORBA.Exception as error:
        print("not registered:", error, flush=True)
    print("ready", flush=True)
    orb.run()
    print("ended", flush=True)


if __name__ == "__main__":
    main()
