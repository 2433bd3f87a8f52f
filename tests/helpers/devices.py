"""Shared by the tests of the device: a DeviceManager in this process, and the device in another one."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

omniORB = pytest.importorskip("omniORB", reason="needs omniORB, which has no wheel for this Python")
from omniORB import CORBA  # noqa: E402
from omniORB import any as anys  # noqa: E402

from gppshm.redhawk.corba import (  # noqa: E402
    CF,
    CF__POA,
    CosEventChannelAdmin__POA,
    ExtendedEvent__POA,
)
from places import ROOT  # noqa: E402
from spawning import wait_for  # noqa: E402

PROGRAM = os.path.join(ROOT, "python", "GppShmPlugin.py")
PROFILE = "/devices/GppShmPlugin/GppShmPlugin.spd.xml"
MB = 1048576
CALL_LIMIT = 15000


def orb():
    omniORB.setClientCallTimeout(CALL_LIMIT)
    orb = CORBA.ORB_init(["tests", "-ORBendPoint", "giop:tcp:127.0.0.1:"], CORBA.ORB_ID)
    orb.resolve_initial_references("RootPOA")._get_the_POAManager().activate()
    return orb


class FileSystem(CF__POA.FileSystem):
    """A file system that has only the given profiles."""

    def __init__(self, *files):
        self.files = set(files)

    def exists(self, name):
        return name in self.files


class DomainManager(CF__POA.DomainManager):
    """A DomainManager of a version of REDHAWK; "": it gives none; None: asking for it fails.

    calls  the calls so far
    """

    def __init__(self, version):
        self.version = version
        self.calls = []

    def _get_eventChannelMgr(self):
        return None

    def registerDevice(self, device, manager):
        self.calls.append("registerDevice")

    def unregisterDevice(self, device):
        self.calls.append("unregisterDevice")

    def query(self, wanted):
        if self.version is None:
            raise CORBA.NO_RESOURCES(0, CORBA.COMPLETED_NO)
        if not self.version:
            raise CF.UnknownProperties(wanted)
        return [CF.DataType(each.id, anys.to_any(self.version)) for each in wanted]


class DeviceManager(CF__POA.DeviceManager):
    """A DeviceManager that does in `registerDevice` what REDHAWK's does with a device that it launched.

    values  initial values of the properties
    domain  a DomainManager, or None
    calls   the calls so far
    hangs   while it is set, no device is unregistered
    """

    def __init__(self, values=(), launches=True):
        self.values, self.launches = list(values), launches
        self.domain = None
        self.calls = []
        self.devices = []
        self.dcd = "/nodes/tests/DeviceManager.dcd.xml"
        self.files = FileSystem(PROFILE)
        self.refuses = False
        self.hangs = threading.Event()

    def _get_identifier(self):
        return "DCE:tests"

    def _get_label(self):
        return "tests"

    def _get_fileSys(self):
        return self.files._this()

    def _get_deviceConfigurationProfile(self):
        return self.dcd

    def _get_domMgr(self):
        return self.domain and self.domain._this()

    def _get_registeredDevices(self):
        return list(self.devices)

    def _get_registeredServices(self):
        return []

    def registerDevice(self, device):
        self.calls.append("registerDevice")
        if self.refuses:
            return
        device._get_label(), device._get_identifier(), device._get_softwareProfile()
        if self.launches:
            device.initializeProperties(self.values)
            device.initialize()
        self.devices.append(device)

    def unregisterDevice(self, device):
        end = time.monotonic() + CALL_LIMIT / 1000
        while self.hangs.is_set() and time.monotonic() < end:
            time.sleep(0.01)
        self.calls.append("unregisterDevice")
        self.devices = [other for other in self.devices if not other._is_equivalent(device)]


def default_arguments(manager):
    """The arguments with which a DeviceManager starts a device, by name."""
    return {
        "PROFILE_NAME": PROFILE,
        "DEVICE_ID": "DCE:tests:GppShmPlugin_1",
        "DEVICE_LABEL": "GppShmPlugin_1",
        "DEBUG_LEVEL": "3",
        "DOM_PATH": "TESTS/tests",
        "DEVICE_MGR_IOR": orb().object_to_string(manager._this()),
    }


class Running:
    """The device as a process, registered with `manager`.

    ref      the object
    process  a subprocess.Popen
    program  an installed device; by default that of this checkout
    It writes to `log`, or to the descriptor `stdout`.
    """

    def __init__(
        self, folder, shm_root, manager, settings=(), arguments=None, ready=True, program=None, stdout=None
    ):
        self.manager = manager
        self.folder = str(folder)
        self.log = os.path.join(self.folder, "log")
        environment = dict(os.environ, PYTHONPATH="", PYTHONDONTWRITEBYTECODE="1")
        if program:
            command = [program]
        else:
            program = os.path.join(self.folder, "GppShmPlugin.py")
            command = [sys.executable, "-s", program]
            if not os.path.lexists(program):
                os.symlink(PROGRAM, program)
        with open(os.path.join(os.path.dirname(program), "GppShmPlugin.ini"), "w") as stream:
            values = dict({"root": shm_root}, **dict(settings))
            stream.writelines(["[GppShmPlugin]\n"] + [f"{name} = {values[name]}\n" for name in values])
        if arguments is None:
            arguments = default_arguments(manager)
        words = [word for pair in arguments.items() for word in pair]
        self.started = time.monotonic()
        with open(self.log, "ab") as stream:
            self.process = subprocess.Popen(
                [*command, *words],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stream if stdout is None else stdout,
                stderr=stream,
                start_new_session=True,
            )
        self.pid = self.process.pid
        self.ref = None
        try:
            if ready:
                wait_for(lambda: "registered with its" in self.output() or self._fail_if_dead(), 20)
                self.ref = manager.devices[-1]._narrow(CF.Device)
        except BaseException:
            self.close()
            raise

    def _fail_if_dead(self):
        if self.process.poll() is not None:
            pytest.fail(f"the device ended with status {self.process.returncode}: {self.output()}")

    def output(self):
        with open(self.log, errors="replace") as stream:
            return stream.read()

    def query(self, identifier):
        """A property's value in Python: a struct is a dict by its members' names."""
        return plain(
            self.ref.query([CF.DataType(identifier, CORBA.Any(CORBA.TC_null, None))])[0].value,
        )

    def configure(self, identifier, value):
        self.ref.configure([CF.DataType(identifier, value)])

    def end(self, number=signal.SIGTERM):
        """End it by a signal; returns its exit status."""
        self.process.send_signal(number)
        return self.process.wait(10)

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def plain(value):
    if value.typecode().equivalent(CF._tc_Properties):
        return {member.id.rpartition("::")[2]: plain(member.value) for member in value.value()}
    if value.typecode().equivalent(CORBA._tc_AnySeq):
        return [plain(item) for item in value.value()]
    return value.value()


def struct(identifier, **members):
    """The any of a struct; members are anys, or Python values of an obvious type."""
    fields = [
        CF.DataType(f"{identifier}::{name}", value if isinstance(value, CORBA.Any) else anys.to_any(value))
        for name, value in members.items()
    ]
    return CORBA.Any(CF._tc_Properties, fields)


def capacity(megabytes, typecode=CORBA.TC_longlong):
    return CF.DataType("shm::capacity", CORBA.Any(typecode, megabytes))


def host_name(name):
    return CF.DataType("shm::host_name", CORBA.Any(CORBA.TC_string, name))


CHANNEL = """
import devices
channel = devices.Channel()
print("ready", devices.orb().object_to_string(channel._this()), flush=True)
sys.stdin.read()
"""


def foreign_channel(spawn):
    """An event channel in another process, and its reference."""
    process = spawn.python(CHANNEL)
    return process, orb().string_to_object(process.name)


class Channel(ExtendedEvent__POA.MessageEvent):
    """An event channel that stores everything pushed; while `free` is not set, pushes block."""

    def __init__(self):
        self.pushed = []
        self.free = threading.Event()
        self.free.set()
        channel = self

        class Consumer(CosEventChannelAdmin__POA.ProxyPushConsumer):
            def connect_push_supplier(self, supplier):
                pass

            def disconnect_push_consumer(self):
                pass

            def push(self, data):
                channel.free.wait(30)
                channel.pushed.append(data)

        class Admin(CosEventChannelAdmin__POA.SupplierAdmin):
            def obtain_push_consumer(self):
                return channel.consumer._this()

        self.consumer, self.admin = Consumer(), Admin()

    def for_suppliers(self):
        return self.admin._this()

    def messages(self, identifier):
        """The messages with this id so far, each a dict of its members' anys."""
        found = []
        for data in list(self.pushed):
            if data.typecode().equivalent(CF._tc_Properties):
                for message in data.value():
                    if message.id == identifier:
                        found.append({member.id: member.value for member in message.value.value()})
        return found

    def events(self, identifier):
        """The values of this property in the property events so far."""
        return [
            plain(change.value)
            for data in list(self.pushed)
            if data.typecode().kind() == CORBA.tk_struct
            for change in data.value().properties
            if change.id == identifier
        ]


@pytest.fixture
def manager():
    orb()
    return DeviceManager()


@pytest.fixture
def start(tmp_path, shm_root, manager):
    """start(settings=(), manager=...): a `Running` device."""
    running = []

    def start(settings=(), manager=manager, **options):
        running.append(Running(tmp_path, shm_root, manager, settings, **options))
        return running[-1]

    yield start
    for device in running:
        device.close()


@pytest.fixture
def device(start):
    return start()
