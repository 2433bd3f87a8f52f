"""How the device begins and ends: it says what is wrong, unregisters, and its exit status can be trusted."""

# ruff: noqa: F811 (pytest finds fixtures by name: they are imported, and are arguments)

import contextlib
import os
import signal
import threading
import time

import pytest

import devices
from devices import CF, CORBA, DeviceManager, device, manager, start  # noqa: F401
from spawning import wait_for
from watching import gone

pytestmark = pytest.mark.corba


def complaints(device):
    """What it said that is no log line."""
    return [line for line in device.output().splitlines() if line and line[:2] != "20"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP])
def test_a_signal_unregisters_it_and_its_status_is_0(device, manager, number):
    asked = time.monotonic()
    assert device.end(number) == 0
    assert time.monotonic() - asked < 0.5
    assert manager.calls == ["registerDevice", "unregisterDevice"]
    assert manager.devices == []
    assert complaints(device) == []


def test_releasing_it_unregisters_it_and_ends_its_process(device, manager):
    device.ref.start()
    device.ref.stop()
    device.ref.releaseObject()
    assert device.process.wait(5) == 0
    assert manager.calls == ["registerDevice", "unregisterDevice"]
    assert complaints(device) == []


def test_a_keyboard_interrupt_is_meant_for_the_sandbox(device):
    device.process.send_signal(signal.SIGINT)
    device.ref.query([])
    assert device.end() == 0


def test_a_manager_that_hangs_at_the_end_does_not_keep_it(device, manager):
    manager.hangs.set()
    try:
        asked = time.monotonic()
        assert device.end() == 0
        assert time.monotonic() - asked < 1.0
    finally:
        manager.hangs.clear()


class SlowManager(DeviceManager):
    """Takes its time to register; so long, `registering` is set."""

    def __init__(self):
        super().__init__()
        self.registering, self.free = threading.Event(), threading.Event()

    def registerDevice(self, device):
        self.registering.set()
        self.free.wait(10)
        super().registerDevice(device)


def test_a_signal_ends_it_while_it_is_being_registered(start):
    manager = SlowManager()
    device = start(manager=manager, ready=False)
    try:
        assert manager.registering.wait(10)
        asked = time.monotonic()
        assert device.end() == 0
        assert time.monotonic() - asked < 1.0
    finally:
        manager.free.set()


class HastyManager(DeviceManager):
    """Asked whether the device is registered, it has it released; that goes on until `free`."""

    def __init__(self):
        super().__init__()
        self.unregistered, self.free = threading.Event(), threading.Event()

    def _get_registeredDevices(self):
        for registered in self.devices:
            threading.Thread(target=registered.releaseObject, daemon=True).start()
            self.unregistered.wait(10)
        return super()._get_registeredDevices()

    def unregisterDevice(self, device):
        super().unregisterDevice(device)
        self.unregistered.set()
        self.free.wait(10)


def test_released_while_it_is_being_registered_it_was_released_and_no_failure(start):
    manager = HastyManager()
    device = start(manager=manager, ready=False)
    try:
        wait_for(lambda: "registered with its" in device.output() or device.process.poll() is not None)
    finally:
        manager.free.set()
    assert device.process.wait(5) == 0
    assert "ending: it was released" in device.output()
    assert manager.calls == ["registerDevice", "unregisterDevice"]


def test_an_idm_channel_that_hangs_keeps_it_from_being_unregistered_by_no_signal(start, manager, spawn):
    channel, _ = devices.foreign_channel(spawn)
    device = start(arguments=dict(devices.default_arguments(manager), IDM_CHANNEL_IOR=channel.name))
    os.kill(channel.pid, signal.SIGSTOP)
    assert device.end() == 0
    assert manager.calls == ["registerDevice", "unregisterDevice"]


def test_a_log_that_nobody_reads_holds_up_nothing(start, manager, spawn, shm_root):
    read, write = os.pipe()
    os.set_blocking(write, False)
    for size in (65536, 1):
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(write, b"x" * size)
    os.set_blocking(write, True)
    device = start(ready=False, stdout=write)
    try:
        wait_for(lambda: manager.devices)
        device.ref = manager.devices[-1]._narrow(CF.Device)
        for _ in range(3):
            with pytest.raises(CF.PortSupplier.UnknownPort):  # which is logged
                device.ref.getPort("nothing")
        owner = spawn.owner(shm_root)
        wait_for(lambda: device.query("shm::cleanup_status")["watched"] == 1)
        owner.kill()
        gone(shm_root, owner)
        asked = time.monotonic()
        assert device.end() == 0
        assert time.monotonic() - asked < 1.0
        assert manager.devices == []
    finally:
        os.close(read)
        os.close(write)


def test_a_crash_just_before_the_end_is_cleaned(device, spawn, shm_root):
    owner = spawn.owner(shm_root)
    wait_for(lambda: device.query("shm::cleanup_status")["watched"] == 1)
    owner.kill()
    assert device.end() == 0
    gone(shm_root, owner)


MANAGER = """
import devices, pathlib
manager = devices.DeviceManager()
device = devices.Running(pathlib.Path(sys.argv[1]), sys.argv[2], manager)
print("ready", device.pid, flush=True)
sys.stdin.read()
device.close()
"""


def test_it_ends_with_the_manager_that_launched_it(spawn, tmp_path, shm_root):
    parent = spawn.python(MANAGER, tmp_path, shm_root)
    pid = int(parent.name)
    parent.kill()
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"))
    told = (tmp_path / "log").read_text()
    assert "its DeviceManager is gone" in told and "Traceback" not in told


def test_it_notices_the_loss_of_a_manager_that_is_not_its_parent(device, manager):
    """The process stays; only the object, and with it all its work, is gone."""
    poa = manager._default_POA()
    poa.deactivate_object(poa.servant_to_id(manager))
    assert device.process.wait(40) == 0
    assert "its DeviceManager is gone" in device.output()


@pytest.mark.parametrize(
    "change, status, word",
    [
        ({"DEVICE_MGR_IOR": None}, 2, "DEVICE_MGR_IOR"),
        ({"DEVICE_LABEL": None, "PROFILE_NAME": ""}, 2, "DEVICE_LABEL, PROFILE_NAME"),
        ({"DEVICE_MGR_IOR": "garbage"}, 1, "DeviceManager"),
        ({"DEVICE_MGR_IOR": "IOR:00"}, 1, "DeviceManager"),
        ({"DEVICE_MGR_IOR": "corbaloc::127.0.0.1:1/nobody"}, 1, "DeviceManager"),
    ],
    ids=str,
)
def test_a_bad_start_is_one_line_and_an_honest_status(start, manager, change, status, word):
    arguments = dict(devices.default_arguments(manager), **change)
    arguments = {name: value for name, value in arguments.items() if value is not None}
    device = start(arguments=arguments, ready=False)
    assert device.process.wait(20) == status
    (line,) = complaints(device)
    assert line.startswith("GppShmPlugin: ") and word in line


def test_an_omniorb_that_cannot_start_is_named(start, manager, monkeypatch):
    arguments = devices.default_arguments(manager)
    monkeypatch.setenv("ORBendPoint", "garbage")
    device = start(arguments=arguments, ready=False)
    assert device.process.wait(20) == 1
    lines = [line for line in complaints(device) if not line.startswith("omniORB:")]
    assert len(lines) == 1 and lines[0].startswith("GppShmPlugin: omniORB does not start")


def test_a_registration_that_does_nothing_is_a_failure(start, manager):
    manager.refuses = True
    device = start(ready=False)
    assert device.process.wait(20) == 1
    (line,) = complaints(device)
    assert "did not register it" in line


def test_a_folder_that_cannot_be_watched_is_named(start):
    device = start({"root": "/nowhere"}, ready=False)
    assert device.process.wait(20) == 1
    assert complaints(device) == ["GppShmPlugin: /nowhere cannot be watched: No such file or directory"]


@pytest.mark.parametrize(
    "extra",
    [
        {"DEBUG_LEVEL": "loud"},
        {"LOGGING_CONFIG_URI": "file:///nowhere/log.cfg"},
        {"shm::nothing": "1"},
        {"IDM_CHANNEL_IOR": "garbage"},
    ],
    ids=str,
)
def test_arguments_that_it_cannot_use_do_not_stop_it(start, manager, extra):
    device = start(arguments=dict(devices.default_arguments(manager), **extra))
    assert device.query("shm::host_name")
    assert device.end() == 0
    assert "Traceback" not in device.output()


@pytest.mark.parametrize("label", ["GppShmPlugin", "GppShmPlugin.shm_1", "shm", "a:b", "two words"])
def test_it_may_have_any_label(start, manager, label):
    device = start(arguments=dict(devices.default_arguments(manager), DEVICE_LABEL=label))
    assert device.ref._get_label() == label
    assert label + "." in device.ref.getNamedLoggers()[-1]
    assert device.end() == 0
    assert device.output().count("ended by SIGTERM") == 1


AGAIN = """
import devices
from gppshm.redhawk import link, logs, metrics, presence
from gppshm.redhawk.cleaning import Cleaning, Orders

manager = devices.DeviceManager(launches=False)
manager.domain = devices.DomainManager("3.0.1")
arguments = devices.default_arguments(manager)
handler = logs.start("FATAL", 2)
work = Cleaning(sys.argv[1], Orders(), os.getppid())
board = metrics.Metrics({})
ended, descriptors, reserved = [], [], []
for number in range(40):
    manager.refuses = number % 2 == 0
    told = lambda: ended.append(1)
    here = presence.Presence(devices.orb(), arguments, work, work.orders, board, handler, told)
    try:
        here.register(launched=False)
        here.device.allocateCapacity([devices.capacity(1)])
        here.device.releaseObject()
        reserved.append(here.device.ledger.reserved)
        here.device.figures.join(5)
        here.device.sender.join(5)
    except presence.NotRegistered:
        pass
    descriptors.append(len(os.listdir("/proc/self/fd")))
more = max(descriptors) - descriptors[9]
os.write(1, b"ready %d,%d,%d,%d\\n" % (len(manager.calls), sum(ended), sum(reserved), more))
sys.stdin.read()
"""


def test_it_can_be_registered_again_and_again_in_one_process_and_nothing_of_it_stays(spawn, shm_root):
    process = spawn.python(AGAIN, shm_root)
    calls, ended, reserved, descriptors = map(int, process.name.split(","))
    assert (calls, ended, reserved) == (80, 20, 0)
    assert descriptors < 20


OTHERWISE = """
import devices
from gppshm.redhawk import logs, metrics, presence
from gppshm.redhawk.cleaning import Cleaning, Orders

manager = devices.DeviceManager(launches=False)
manager.domain = domain = devices.DomainManager(sys.argv[2])
work = Cleaning(sys.argv[1], Orders(), os.getppid())
here = presence.Presence(
    devices.orb(),
    devices.default_arguments(manager),
    work,
    work.orders,
    metrics.Metrics({}),
    logs.start("FATAL", 2),
    lambda: None,
)
if sys.argv[2] == "silent":
    domain.version = None
    try:
        here.register(launched=False)
    except presence.NotRegistered as failure:
        assert failure.later
        print("ready", failure, manager.calls, domain.calls, flush=True)
        sys.exit()
here.register(launched=False)
is_started = here.device._get_started()
here.retire(5)
print("ready", manager.calls, domain.calls, is_started, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("version", ["", "2.0.3", "2.3.2", "3.0.1", "3.1.0"])
def test_beside_a_gpp_only_a_manager_of_3_or_later_is_told_of_it(spawn, shm_root, version):
    """Whose version is not known may be a manager that dies of it."""
    both = "['registerDevice', 'unregisterDevice']"
    told = spawn.python(OTHERWISE, shm_root, version).name
    assert told == (f"{both} [] False" if version[:1] == "3" else f"[] {both} True")


def test_beside_a_gpp_it_is_told_to_nobody_while_the_domain_cannot_be_asked(spawn, shm_root):
    told = spawn.python(OTHERWISE, shm_root, "silent").name
    assert told == "the DomainManager cannot be asked: NO_RESOURCES (0) [] []"


class SandboxManager(DeviceManager):
    """The sandbox's: it has no domain and no list, and initialises a device after it was registered."""

    _get_registeredDevices = None

    def registerDevice(self, device):
        self.calls.append("registerDevice")
        self.devices.append(device)


def in_sandbox(start):
    """Started as the Python sandbox does, not yet initialised."""
    manager = SandboxManager()
    arguments = devices.default_arguments(manager)
    for name in ("DOM_PATH", "DEBUG_LEVEL"):
        del arguments[name]
    arguments.update(PROFILE_NAME="/somewhere/GppShmPlugin.spd.xml", DEVICE_ID="DCE:sandbox")
    return start(manager=manager, arguments=arguments)


def test_the_sandbox_launches_it_without_a_domain(start, spawn, shm_root, capfd):
    device = in_sandbox(start)
    device.ref.initializeProperties([])
    device.ref.initialize()
    device.ref.start()
    owner = spawn.owner(shm_root)
    wait_for(lambda: device.query("shm::cleanup_status")["watched"] == 1)
    owner.kill()
    wait_for(lambda: device.query("shm::cleanup_status")["removed"] == 1)
    device.ref.releaseObject()
    assert device.process.wait(5) == 0
    assert complaints(device) == []
    # omniORB would print there that the sandbox's manager cannot answer.
    assert capfd.readouterr() == ("", "")


def cleanup(enabled, scope):
    """A start value of shm::cleanup as an earlier version's DCD has it, without `reclaim`."""
    return devices.struct(
        "shm::cleanup",
        enabled=CORBA.Any(CORBA.TC_boolean, enabled),
        scope=scope,
        rescan=CORBA.Any(CORBA.TC_double, 0.2),
        fifos=CORBA.Any(CORBA.TC_boolean, False),
        dry_run=CORBA.Any(CORBA.TC_boolean, False),
    )


def test_what_the_domain_configures_is_in_force_before_anything_is_removed(start, spawn, shm_root):
    with open(os.path.join(shm_root, f"heap-{spawn.dead_pid()}"), "wb"):
        pass
    manager = DeviceManager([CF.DataType("shm::cleanup", cleanup(False, "host"))])
    device = start(manager=manager)
    assert not device.query("shm::cleanup")["enabled"]
    wait_for(lambda: device.query("shm::heaps"))
    assert device.query("shm::cleanup_status")["removed"] == 0
    assert len(os.listdir(shm_root)) == 1


BAD_START = cleanup(True, "children of mine")
GOOD_START = cleanup(True, "host")
BAD_THRESHOLD = devices.struct("shm::threshold", free="10 MB", headroom="plenty")
REFUSED_STARTS = [
    ([CF.DataType("shm::cleanup", BAD_START)], "shm::cleanup::scope: 'children of mine'"),
    (
        [CF.DataType("shm::cleanup", GOOD_START), CF.DataType("shm::threshold", BAD_THRESHOLD)],
        "shm::threshold::headroom: 'plenty'",
    ),
    (
        [CF.DataType("DCE:cdc5ee18-7ceb-4ae6-bf4c-31f983179b4d", CORBA.Any(CORBA.TC_null, None))],
        "DCE:cdc5ee18-7ceb-4ae6-bf4c-31f983179b4d: it has no value",
    ),
]


def cleans_nothing_and_says_why(device, shm_root, why):
    (line,) = wait_for(lambda: [line for line in device.output().splitlines() if " ERROR " in line])
    assert why in line and "nothing is cleaned" in line
    wait_for(lambda: device.query("shm::heaps"))
    assert not device.query("shm::cleanup")["enabled"]
    assert device.ref._get_operationalState() == CF.Device.DISABLED
    summary = device.query("shm::overview")["summary"]
    assert summary.startswith("NOTHING IS CLEANED: ") and why in summary
    with pytest.raises(CF.Device.InvalidState):
        device.ref.allocateCapacity([devices.capacity(1)])
    assert device.query("shm::cleanup_status")["removed"] == 0 and len(os.listdir(shm_root)) == 1
    device.configure("shm::cleanup", GOOD_START)
    wait_for(lambda: os.listdir(shm_root) == [])
    assert device.ref._get_operationalState() == CF.Device.ENABLED
    assert why not in device.query("shm::overview")["summary"]
    assert device.ref.allocateCapacity([devices.capacity(1)])


@pytest.mark.parametrize("values, why", REFUSED_STARTS, ids=["order", "threshold", "kind"])
def test_with_a_start_value_that_is_refused_it_stands_in_the_node_and_cleans_nothing(
    start, spawn, shm_root, values, why
):
    with open(os.path.join(shm_root, f"heap-{spawn.dead_pid()}"), "wb"):
        pass
    cleans_nothing_and_says_why(start(manager=DeviceManager(values)), shm_root, why)


@pytest.mark.parametrize("values, why", REFUSED_STARTS, ids=["order", "threshold", "kind"])
def test_with_a_start_value_that_is_refused_it_tells_the_sandbox_and_cleans_nothing(
    start, spawn, shm_root, values, why
):
    with open(os.path.join(shm_root, f"heap-{spawn.dead_pid()}"), "wb"):
        pass
    device = in_sandbox(start)
    with pytest.raises(CF.PropertySet.InvalidConfiguration) as refused:
        device.ref.initializeProperties(values)
    assert why in refused.value.msg
    with pytest.raises(CF.PropertyEmitter.AlreadyInitialized):
        device.ref.initializeProperties([])
    device.ref.initialize()  # the sandbox goes on with it
    cleans_nothing_and_says_why(device, shm_root, why)


def test_with_a_file_that_cannot_be_heeded_it_stands_in_the_node_and_cleans_nothing_whatever_is_configured(
    start, spawn, shm_root
):
    """The folder that was meant may be another one."""
    orphan = os.path.join(shm_root, f"heap-{spawn.dead_pid()}")
    with open(orphan, "wb"):
        pass
    device = start(settings={"rot": "/dev/shm/mine"})
    wait_for(lambda: device.query("shm::heaps"))
    assert device.query("shm::overview")["summary"].startswith("NOTHING IS CLEANED: ")
    with pytest.raises(CF.PropertySet.InvalidConfiguration) as refused:
        device.configure("shm::cleanup", GOOD_START)
    assert "there is no setting rot" in refused.value.msg
    assert not device.query("shm::cleanup")["enabled"]
    assert device.ref._get_operationalState() == CF.Device.DISABLED
    assert os.path.exists(orphan)


def test_without_start_values_it_cleans_nothing(start, spawn, shm_root):
    """The sandbox goes on where its user gave one that it could not convert, and sends none at all."""
    with open(os.path.join(shm_root, f"heap-{spawn.dead_pid()}"), "wb"):
        pass
    device = in_sandbox(start)
    device.ref.initialize()
    cleans_nothing_and_says_why(device, shm_root, "no start values came")


def test_a_start_value_of_what_is_measured_is_never_shown(start):
    values = [
        CF.DataType("shm::capacity", CORBA.Any(CORBA.TC_longlong, 7)),
        CF.DataType("shm::usage", CORBA.Any(CORBA.TC_null, None)),
    ]
    device = start(manager=DeviceManager(values))
    assert device.query("shm::cleanup")["enabled"] and device.query("shm::capacity") != 7


def test_it_registers_soon_and_stays_small(start):
    device = start()
    assert time.monotonic() - device.started < 5.0  # about half a second; bench/device.py tells more
    with open(f"/proc/{device.pid}/status") as stream:
        (size,) = [line.split()[1] for line in stream if line.startswith("VmRSS")]
    assert int(size) < 70 * 1024
