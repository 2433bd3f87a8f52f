"""A domain of many devices, on real CORBA; their answers are made up, and some never come.

    crowd.py HOST:PORT DEVICES HANGING [hanging-manager | one-host | strange | hostile | aged]

Binds domain CROWD, with nodes of ten devices each, into the naming service there; prints "ready".
"""

import sys
import threading
import time

from places import PYTHON

sys.path.insert(0, PYTHON)

from omniORB import CORBA
from omniORB import any as anys

from gppshm.redhawk.corba import CF, CF__POA, CosNaming

MB = 1048576
for_ever = threading.Event()


def props(prefix, **values):
    return CORBA.Any(
        CORBA.TypeCode("IDL:CF/Properties:1.0"), [item(f"{prefix}::{name}", v) for name, v in values.items()]
    )


def item(id_, value):
    return CF.DataType(id_, value if isinstance(value, CORBA.Any) else anys.to_any(value))


class Device(CF__POA.Device):
    def __init__(self, number, kind, hangs=False):
        self.number, self.kind, self.hangs = number, kind, hangs

    def _get_label(self):
        return f"shm_{self.number}"

    def _get_softwareProfile(self):
        if self.hangs:
            for_ever.wait()
        return "/devices/GppShmPlugin/GppShmPlugin.spd.xml"

    def query(self, wanted):
        total, free = 1000 * MB, (self.number * 37 % 200 + 100) * MB
        host = "same" if self.kind == "one-host" else f"host-{self.number}"
        usage = {"path": "/dev/shm", "total": total, "free": free, "used": total - free}
        usage.update(heaps=MB, other=0, held=0, reserved=0)
        if self.kind == "aged" and self.number < 2:
            usage["age"] = (0.5, 12.25)[self.number]
        if self.kind == "strange" and self.number == 1:
            host = "\x1b[31mred"
        if self.kind == "strange" and self.number == 2:
            usage["total"] = "many"
        answers = {
            "shm::host_name": anys.to_any(host),
            "shm::usage": props("shm::usage", **usage),
            "shm::capacity": CORBA.Any(CORBA.TC_longlong, free // MB),
            "shm::cleanup": props("shm::cleanup", enabled=True, dry_run=False),
            "shm::cleanup_status": props("shm::cleanup_status", removed=3),
            "shm::heaps": CORBA.Any(CORBA.TypeCode("IDL:omg.org/CORBA/AnySeq:1.0"), []),
            "shm::recent": CORBA.Any(CORBA.TypeCode("IDL:omg.org/CORBA/AnySeq:1.0"), []),
        }
        if self.kind == "hostile":
            self.spoil(usage, answers)
        return [CF.DataType(each.id, answers[each.id]) for each in wanted]

    def spoil(self, usage, answers):
        """Make the answers of the first four devices wrong; the others get only one more member."""
        removal = {
            "name": "heap-1",
            "reason": "r",
            "bytes": 1,
            "time": 1.0,
            "component": "",
            "latency_ms": float("nan"),
        }
        if self.number == 0:
            usage["total"] = float("inf")
        elif self.number == 1:
            usage.update(total=1, free=-(2**62))
        elif self.number == 2:
            answers["shm::cleanup_status"] = props("shm::cleanup_status", removed="\x1b[31mred")
        elif self.number == 3:
            removal["time"] = 1e30
        else:
            removal["more"] = CORBA.Any(CORBA.TypeCode("IDL:omg.org/CORBA/OctetSeq:1.0"), b"ab")
        answers["shm::usage"] = props("shm::usage", **usage)
        answers["shm::recent"] = CORBA.Any(
            CORBA.TypeCode("IDL:omg.org/CORBA/AnySeq:1.0"), [props("shm::recent", **removal)]
        )


class Manager(CF__POA.DeviceManager):
    def __init__(self, label, devices, hangs):
        self.label, self.devices, self.hangs = label, devices, hangs

    def _get_label(self):
        if self.hangs:
            for_ever.wait()
        return self.label

    def _get_registeredDevices(self):
        return self.devices


class Domain(CF__POA.DomainManager):
    def __init__(self, managers):
        self.managers = managers

    def query(self, wanted):
        return [CF.DataType(each.id, anys.to_any("3.0.1")) for each in wanted]

    def _get_deviceManagers(self):
        return self.managers


def named(name):
    return [CosNaming.NameComponent(name, "")]


def main(where, devices, hanging, kind=""):
    arguments = ["crowd", "-ORBendPoint", "giop:tcp:127.0.0.1:", "-ORBmaxServerThreadPerConnection", "300"]
    orb = CORBA.ORB_init(arguments, CORBA.ORB_ID)
    orb.resolve_initial_references("RootPOA")._get_the_POAManager().activate()
    root = None
    end = time.monotonic() + 20
    while root is None and time.monotonic() < end:
        try:
            root = orb.string_to_object(f"corbaloc::{where}/NameService")._narrow(CosNaming.NamingContext)
        except CORBA.SystemException:
            time.sleep(0.02)
    context = root.bind_new_context(named("CROWD"))
    managers = []
    for first in range(0, int(devices), 10):
        node = context.bind_new_context(named(f"node_{first // 10}"))
        references = []
        for number in range(first, min(first + 10, int(devices))):
            references.append(Device(number, kind, number < int(hanging))._this())
            node.bind(named(f"shm_{number}"), references[-1])
        hangs = kind == "hanging-manager" and first == 0
        managers.append(Manager(f"node_{first // 10}", references, hangs)._this())
    context.bind(named("CROWD"), Domain(managers)._this())
    print("ready", flush=True)
    for_ever.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
