"""The runtime makes a class a CF::Device: life, properties, states, ports, loggers, in either REDHAWK."""

# ruff: noqa: F811 (pytest finds fixtures by name: they are imported, and are arguments)

import itertools
import os
import signal
import time

import pytest

from probing import CF, CORBA, NULL, PROFILE, client, probe, sdrroot, start, wait_for  # noqa: F401
from spawning import stays

import serving  # isort: skip
from stubs import CF__POA  # isort: skip

pytestmark = pytest.mark.corba


def calls(ref):
    return client.query(ref, "probe::calls").splitlines()


def struct(**members):
    """The any of probe::limits."""
    kinds = {"low": CORBA.TC_long, "name": CORBA.TC_string, "other": CORBA.TC_string}
    items = [
        CF.DataType("probe::limits::" + name, CORBA.Any(kinds[name], each)) for name, each in members.items()
    ]
    return CORBA.Any(CF._tc_Properties, items)


# Life


def test_a_launched_device_is_called_in_the_order_that_redhawk_calls_it(probe):
    assert calls(probe) == [
        "initializeProperties probe::limits",
        "initialize",
        "constructor",
        "configure probe::text",
        "start",
    ]
    assert client.query(probe, "probe::text") == "from the PRF"
    assert client.query(probe, "probe::limits") == {"low": 5, "name": "five"}


def test_it_has_every_interface_of_a_redhawk_device(probe):
    names = (
        "LifeCycle TestableObject PropertySet PropertyEmitter PortSupplier PortSet Logging Resource Device"
    )
    assert all(probe._is_a(f"IDL:CF/{name}:1.0") for name in names.split())
    assert (probe._get_identifier(), probe._get_label()) == ("node:Probe_1", "Probe_1")
    assert probe._get_softwareProfile() == PROFILE and probe._get_compositeDevice() is None
    assert probe._get_operationalState() == CF.Device.ENABLED
    with pytest.raises(CF.TestableObject.UnknownTest):
        probe.runTest(7, [])


def test_a_further_initialize_changes_nothing(probe):
    probe._set_adminState(CF.Device.LOCKED)
    probe.initialize()
    assert probe._get_adminState() == CF.Device.LOCKED
    assert calls(probe).count("constructor") == 1


def test_a_constructor_that_fails_keeps_it_from_being_registered_and_says_why(start):
    domain = start([("Probe_1", PROFILE, 0, {"probe::fail": "constructor"})])
    wait_for(lambda: "ready" in domain.lines("ready"))
    assert domain.devices() == {} and domain.resolve("node", "Probe_1") is None
    assert "it cannot be initialized" in domain.output() and "no luck" in domain.output()
    assert domain.lines("not registered: ")


def test_one_that_could_not_be_initialized_may_be_initialized_again(start):
    outside = start([]).outside()
    client.configure(outside, "probe::fail", "constructor")
    for _ in range(2):
        with pytest.raises(CF.LifeCycle.InitializeError) as caught:
            outside.initialize()
        assert caught.value.errorMessages == ["no luck"]
    client.configure(outside, "probe::fail", "")
    outside.initialize()


def test_properties_are_initialized_once_whatever_their_mode(start):
    outside = start([]).outside()
    outside.initializeProperties([client.prop("probe::capacity", "longlong", 7)])
    assert client.query(outside, "probe::capacity") == 7
    with pytest.raises(CF.PropertyEmitter.AlreadyInitialized):
        outside.initializeProperties([])


def test_initial_properties_of_kind_configure_are_refused_and_the_others_taken(start):
    outside = start([]).outside()
    bad = client.prop("probe::text", "string", "x")
    with pytest.raises(CF.PropertySet.PartialConfiguration) as caught:
        outside.initializeProperties([client.prop("probe::count", "long", 3), bad])
    assert [each.id for each in caught.value.invalidProperties] == ["probe::text"]
    assert client.query(outside, "probe::count") == 3


def test_a_released_device_unregisters_and_says_so(start):
    domain = start()
    probe = domain.device("Probe_1")
    wait_for(probe._get_started)
    with domain.states() as listener:
        probe.releaseObject()
        wait_for(lambda: len(listener.heard) == 2)
        states = [("node:Probe_1", "UNLOCKED", "SHUTTING_DOWN"), ("node:Probe_1", "SHUTTING_DOWN", "LOCKED")]
        assert listener.states() == states
    wait_for(lambda: domain.lines("ended"))
    assert domain.devices() == {} and domain.resolve("node", "Probe_1") is None
    with pytest.raises((CORBA.TRANSIENT, CORBA.COMM_FAILURE, CORBA.OBJECT_NOT_EXIST)):
        probe._get_label()


def test_a_device_whose_manager_is_gone_can_be_released_all_the_same(start):
    domain = start()
    probe = domain.device("Probe_1")
    domain.kill_node()
    probe.releaseObject()
    wait_for(lambda: domain.lines("ended"))
    assert "it could not be unregistered" in domain.output()


def is_stopped(pid):
    """Whether each of its threads has obeyed SIGSTOP."""
    states = []
    for tid in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{tid}/stat") as stream:
            states.append(stream.read().rpartition(")")[2].split()[0])
    return set(states) == {"T"}


def test_a_hung_manager_is_waited_for_one_second_at_release(start):
    domain = start()
    probe = domain.device("Probe_1")
    wait_for(lambda: domain.lines("ready"))
    domain.process.send_signal(signal.SIGSTOP)
    wait_for(lambda: is_stopped(domain.process.pid))
    began = time.monotonic()
    probe.releaseObject()
    assert 0.9 < time.monotonic() - began < 5
    wait_for(lambda: "has not answered" in domain.output())
    domain.process.send_signal(signal.SIGCONT)
    wait_for(lambda: domain.lines("ended"))


# Properties


def test_query_gives_the_readable_ones_in_the_order_of_their_attributes(probe):
    names = "calls capacity count fail flag items level limits text usage"
    assert [item.id for item in probe.query([])] == ["probe::" + name for name in names.split()]
    assert client.query(probe, "probe::items") == [
        {"size": 1 << 40, "name": "one"},
        {"size": 0, "name": "two"},
    ]
    kinds = {item.id: item.value.typecode() for item in probe.query([])}
    assert kinds["probe::level"].equal(CORBA.TC_float) and kinds["probe::capacity"].equal(CORBA.TC_longlong)
    assert kinds["probe::items"].equivalent(CORBA._tc_AnySeq)


@pytest.mark.parametrize("unknown", ["no::such", "probe::secret", "probe::kind", "text"])
def test_a_query_for_what_cannot_be_read_names_it_and_gives_nothing(probe, unknown):
    with pytest.raises(CF.UnknownProperties) as caught:
        probe.query([CF.DataType("probe::text", NULL), CF.DataType(unknown, NULL)])
    assert [item.id for item in caught.value.invalidProperties] == [unknown]


def test_the_time_of_a_query_can_be_asked_for(probe):
    (item,) = probe.query([CF.DataType("QUERY_TIMESTAMP", NULL)])
    assert item.value.value().tcstatus == 1 and item.value.value().twsec > 1e9


@pytest.mark.parametrize("fail, id_", [("query", "probe::calls"), ("struct", "probe::usage")])
def test_what_cannot_be_told_is_null_and_keeps_nothing_else_from_being_told(start, fail, id_):
    domain = start()
    probe = domain.device("Probe_1")
    client.configure(probe, "probe::fail", fail)
    values = {item.id: item.value for item in probe.query([])}
    assert values[id_].value() is None and values["probe::text"].value() == "from the PRF"
    (item,) = probe.query([client.prop(id_, "string", "mine")])
    assert item.value.value() is None
    assert f"{id_} cannot be sent: RuntimeError('no luck'" in domain.output()


@pytest.mark.parametrize(
    "id_, value, becomes",
    [
        ("probe::level", CORBA.Any(CORBA.TC_string, "73"), 73.0),
        ("probe::level", CORBA.Any(CORBA.TC_long, 7), 7.0),
        ("probe::count", CORBA.Any(CORBA.TC_string, "0x10"), 16),
        ("probe::count", CORBA.Any(CORBA.TC_double, 7.0), 7),
        ("probe::flag", CORBA.Any(CORBA.TC_long, 1), True),
        ("probe::flag", CORBA.Any(CORBA.TC_string, "false"), False),
        ("probe::text", CORBA.Any(CORBA.TC_long, 5), "5"),
        ("probe::limits", struct(low=3, name="x", other="unknown"), {"low": 3, "name": "x"}),
    ],
)
def test_configure_takes_what_the_type_can_hold_unchanged(probe, id_, value, becomes):
    probe.configure([CF.DataType(id_, value)])
    assert client.query(probe, id_) == becomes


@pytest.mark.parametrize(
    "id_, value, why",
    [
        ("no::such", CORBA.Any(CORBA.TC_string, "x"), "there is no such property"),
        ("probe::calls", CORBA.Any(CORBA.TC_string, "readonly"), "it cannot be set"),
        ("probe::level", CORBA.Any(CORBA.TC_string, "abc"), "'abc' is no number (float)"),
        ("probe::level", CORBA.Any(CORBA.TC_boolean, True), "a number (float) is expected, not True"),
        ("probe::count", CORBA.Any(CORBA.TC_double, 7.9), "7.9 is no whole number"),
        ("probe::count", CORBA.Any(CORBA.TC_double, float("nan")), "nan is no number (long)"),
        ("probe::count", CORBA.Any(CORBA.TC_double, 2.0**31), "out of the range of long"),
        ("probe::flag", CORBA.Any(CORBA.TC_string, "nope"), "'nope' is neither true nor false"),
        ("probe::text", NULL, "it has no value"),
        ("probe::text", CORBA.Any(CORBA.TC_boolean, True), "a string is expected, not True"),
        ("probe::items", CORBA.Any(CORBA.TC_long, 1), "it cannot be set"),
        ("probe::limits", NULL, "a struct (CF::Properties) is expected"),
        ("probe::limits", CORBA.Any(CORBA.TC_string, "x"), "a struct (CF::Properties) is expected"),
        ("probe::limits", struct(low=3), "its member probe::limits::name is missing"),
        ("probe::limits", struct(low=-1, name="x"), "that is not allowed"),
    ],
)
def test_configure_refuses_what_it_cannot_keeps_the_rest_and_says_why(start, id_, value, why):
    domain = start()
    probe = domain.device("Probe_1")
    before = client.query_all(probe)
    bad, good = CF.DataType(id_, value), client.prop("probe::text", "string", "new")
    with pytest.raises(CF.PropertySet.InvalidConfiguration) as invalid:
        probe.configure([bad])
    assert invalid.value.msg.startswith(f"{id_}: ") and why in invalid.value.msg
    assert [each.id for each in invalid.value.invalidProperties] == [id_]
    (line,) = [line for line in domain.output().splitlines() if f"{id_} is refused: " in line]
    assert line.endswith(invalid.value.msg.partition(": ")[2])
    with pytest.raises(CF.PropertySet.PartialConfiguration) as partial:
        probe.configure([bad, good])
    assert [each.id for each in partial.value.invalidProperties] == [id_]
    after = client.query_all(probe)
    before.update({"probe::text": "new", "probe::calls": after["probe::calls"]})
    assert after == before
    probe.configure([])


def test_of_a_struct_the_member_that_is_wrong_is_named(probe):
    items = [
        CF.DataType("probe::limits::low", CORBA.Any(CORBA.TC_double, 3.5)),
        CF.DataType("probe::limits::name", CORBA.Any(CORBA.TC_long, 5)),
    ]
    with pytest.raises(CF.PropertySet.InvalidConfiguration) as refused:
        probe.configure([CF.DataType("probe::limits", CORBA.Any(CF._tc_Properties, items))])
    assert refused.value.msg == "probe::limits: probe::limits::low: 3.5 is no whole number"


def heard(ref, id_):
    return [line for line in calls(ref) if line.startswith(id_ + ":")]


def test_a_listener_hears_every_configure_changed_or_not(probe):
    """Others may have changed since what was configured before."""
    for _ in range(2):
        client.configure(probe, "probe::level", 2.0)
        client.configure(probe, "probe::count", 3)
    assert heard(probe, "probe::level") == ["probe::level:0.5>2.0", "probe::level:2.0>2.0"]
    assert heard(probe, "probe::count") == ["probe::count:0>3", "probe::count:3>3"]


def test_a_value_that_a_listener_refuses_is_refused_and_the_old_one_is_back(probe):
    client.configure(probe, "probe::fail", "listener")
    with pytest.raises(CF.PropertySet.InvalidConfiguration) as refused:
        client.configure(probe, "probe::level", 2.0)
    assert refused.value.msg == "probe::level: no luck"
    assert client.query(probe, "probe::level") == 0.5


def test_a_device_may_query_itself_while_it_is_configured(probe):
    client.configure(probe, "probe::text", "self")
    assert client.query(probe, "probe::text") == "self"


class Reports(CF__POA.PropertyChangeListener):
    def __init__(self):
        self.events = []

    def propertyChange(self, event):
        self.events.append(event)

    def ids(self):
        return [[item.id for item in event.properties] for event in list(self.events)]


def test_a_property_listener_hears_at_its_interval_of_what_has_changed(probe):
    serving.activate(client.orb())
    reports = Reports()
    wanted = ["probe::level", "probe::count"]
    key = probe.registerPropertyListener(reports._this(), wanted, 0.1)
    client.configure(probe, "probe::level", 2.0)
    client.configure(probe, "probe::text", "nobody asked")
    wait_for(lambda: reports.ids() == [["probe::level"]])
    client.configure(probe, "probe::level", 2.0)
    client.configure(probe, "probe::count", 1)
    wait_for(lambda: reports.ids() == [["probe::level"], ["probe::count"]])
    event = reports.events[0]
    assert (event.reg_id, event.resource_id) == (key, "node:Probe_1") and event.timestamp.tcstatus == 1
    assert event.properties[0].value.value() == 2.0
    probe.unregisterPropertyListener(key)
    client.configure(probe, "probe::level", 3.0)
    stays(lambda: len(reports.events) == 2, 0.4)
    with pytest.raises(CF.InvalidIdentifier):
        probe.unregisterPropertyListener(key)


def test_an_event_channel_may_be_a_property_listener_and_nothing_else(probe):
    with client.Listener(probe.getPort("out")) as listener:
        key = probe.registerPropertyListener(listener.servant._this(), [], 0.1)
        client.configure(probe, "probe::count", 7)
        wait_for(lambda: listener.heard)
        assert "probe::count" in [item.id for item in listener.heard[0].value().properties]
        probe.unregisterPropertyListener(key)
    for interval in (-1.0, float("nan"), float("inf")):
        probe.registerPropertyListener(Reports()._this(), [], interval)
    for wrong in (probe, None):
        with pytest.raises(CF.InvalidObjectReference):
            probe.registerPropertyListener(wrong, [], 1.0)
    with pytest.raises(CF.UnknownProperties):
        probe.registerPropertyListener(Reports()._this(), ["no::such"], 1.0)


def test_a_property_listener_that_is_dead_is_forgotten(start, spawn):
    domain = start()
    probe = domain.device("Probe_1")
    dead = spawn.python(CHANNEL, client.STANDIN)
    probe.registerPropertyListener(client.orb().string_to_object(dead.name), ["probe::count"], 0.1)
    dead.kill()
    numbers = itertools.count()

    def forgotten():
        client.configure(probe, "probe::count", next(numbers))
        return "is forgotten, as it cannot be reached" in domain.output()

    wait_for(forgotten)


# Its argument is the stand-in's folder.
CHANNEL = """
sys.path.insert(0, sys.argv[1])
from omniORB import CORBA
from channel import MessageConsumer
orb = CORBA.ORB_init(["channel", "-ORBendPoint", "giop:tcp:127.0.0.1:"], CORBA.ORB_ID)
orb.resolve_initial_references("RootPOA")._get_the_POAManager().activate()
print("ready", orb.object_to_string(MessageConsumer(lambda data: None)._this()), flush=True)
sys.stdin.read()
"""


# States


def test_only_locking_and_unlocking_change_the_admin_state(start):
    domain = start()
    probe = domain.device("Probe_1")
    wait_for(probe._get_started)
    with domain.states() as listener:
        for state in (CF.Device.SHUTTING_DOWN, CF.Device.LOCKED, CF.Device.LOCKED, CF.Device.UNLOCKED):
            probe._set_adminState(state)
        wait_for(lambda: len(listener.heard) == 2)
        assert listener.states() == [
            ("node:Probe_1", "UNLOCKED", "LOCKED"),
            ("node:Probe_1", "LOCKED", "UNLOCKED"),
        ]


def test_a_device_without_a_channels_reference_finds_it_by_the_domain(start):
    domain = start([])
    outside = domain.outside()
    with domain.states() as listener:
        assert outside.allocateCapacity([client.prop("probe::capacity", "longlong", 100)])
        wait_for(lambda: listener.heard)
        assert listener.states() == [("outside", "IDLE", "BUSY")]


# Ports


def test_ports_are_given_by_name_with_their_direction(probe):
    ports = {port.name: port for port in probe.getPortSet()}
    assert sorted(ports) == ["out", "propEvent"] and {each.direction for each in ports.values()} == {"Uses"}
    assert probe.getPort("out")._is_a("IDL:ExtendedCF/QueryablePort:1.0")
    assert probe.getPort("out")._is_equivalent(ports["out"].obj_ptr)
    with pytest.raises(CF.PortSupplier.UnknownPort):
        probe.getPort("in")


def test_messages_reach_every_channel_without_the_optional_members_that_are_not_set(probe):
    with client.Listener(probe.getPort("out")) as one, client.Listener(probe.getPort("out")) as other:
        assert len(probe.getPort("out")._get_connections()) == 2
        probe.runTest(1, [])
        wait_for(lambda: one.heard and other.heard)
        assert one.messages() == [("probe::limits", {"low": 3, "name": "three"})]
    assert probe.getPort("out")._get_connections() == []


@pytest.mark.parametrize("name", ["out", "propEvent"])
def test_a_port_refuses_what_is_no_channel_and_works_on(probe, name):
    for wrong in (probe, None):
        with pytest.raises(CF.Port.InvalidPort) as refused:
            probe.getPort(name).connectPort(wrong, "wrong")
        assert refused.value.msg == "wrong: that is no event channel, or it takes no messages"
    probe.getPort(name).disconnectPort("nothing")
    with client.Listener(probe.getPort(name)) as listener:
        probe.runTest(1, []), client.configure(probe, "probe::count", 9)
        wait_for(lambda: listener.heard)


def test_a_channel_that_cannot_be_reached_is_told_of_once_and_keeps_nobody_from_hearing(start, spawn):
    domain = start()
    probe = domain.device("Probe_1")
    dead = spawn.python(CHANNEL, client.STANDIN)
    probe.getPort("out").connectPort(client.orb().string_to_object(dead.name), "dead")
    dead.kill()
    with client.Listener(probe.getPort("out")) as listener:
        for _ in range(3):
            probe.runTest(1, [])
        wait_for(lambda: len(listener.heard) == 3)
    assert domain.output().count("messages to dead are lost") == 1
    probe.getPort("out").disconnectPort("dead")


def test_a_further_connection_of_the_same_id_takes_the_place_of_the_first(probe):
    with client.Listener(probe.getPort("out")) as one, client.Listener(probe.getPort("out")) as other:
        probe.getPort("out").connectPort(other.servant._this(), one.id)
        probe.runTest(1, [])
        wait_for(lambda: len(other.heard) == 2)
        assert one.heard == []


def test_a_changed_property_of_kind_event_is_told(probe):
    with client.Listener(probe.getPort("propEvent")) as listener:
        for value in (5, 5, 6):
            client.configure(probe, "probe::count", value)
        client.configure(probe, "probe::level", 3.0)
        wait_for(lambda: len(listener.heard) == 2)
        event = listener.heard[0].value()
        assert (event.sourceId, event.sourceName, len(event.properties)) == ("node:Probe_1", "Probe_1", 1)
        assert listener.changes() == {"probe::count": 6}


# Loggers


def test_levels_can_be_read_and_set_for_the_device_and_each_of_its_loggers(probe):
    assert probe._get_log_level() == CF.LogLevels.INFO
    probe._set_log_level(CF.LogLevels.WARN)
    assert probe._get_log_level() == probe.getLogLevel("Probe_1.user.child") == CF.LogLevels.WARN
    probe._set_log_level(12345)
    probe.setLogLevel("Probe_1.user.child", CF.LogLevels.TRACE)
    assert probe.getLogLevel("Probe_1.user.child") == CF.LogLevels.TRACE
    assert probe._get_log_level() == CF.LogLevels.WARN
    assert {"Probe_1", "Probe_1.user.child", "Probe_1.system.Device"} <= set(probe.getNamedLoggers())
    assert probe.getLogLevel("Probe_1.user") == CF.LogLevels.WARN
    for call in (lambda: probe.getLogLevel("gppshm"), lambda: probe.setLogLevel("Probe", CF.LogLevels.INFO)):
        with pytest.raises(CF.UnknownIdentifier):
            call()


def test_the_command_lines_level_is_the_roots(start):
    domain = start([])
    outside = domain.outside(DEBUG_LEVEL="1")
    assert outside._get_log_level() == CF.LogLevels.ERROR
    assert "INFO" not in domain.output()


TO_A_FILE = """
# A comment.
log4j.rootLogger = DEBUG, FILE, ELSEWHERE
log4j.appender.FILE = org.apache.log4j.FileAppender
log4j.appender.FILE.File = {folder}/@@@DOMAIN.NAME@@@.@@@DEVICE_MANAGER.NAME@@@.@@@DEVICE.NAME@@@.log
log4j.appender.FILE.layout = org.apache.log4j.PatternLayout
log4j.appender.FILE.layout.ConversionPattern = %-5p|%c{{1}}|%d{{yyyyMMdd'T'}}|\\
    %m%n
log4j.appender.ELSEWHERE = org.ossie.logging.RH_LogEventAppender
log4j.category.Probe_1.ports = ERROR
"""


@pytest.fixture
def config(sdrroot, tmp_path):
    """The path of a logging configuration in the manager's file system; what is logged goes to `tmp_path`."""
    path = os.path.join(str(sdrroot), "dev", "mgr", "log.cfg")
    os.makedirs(os.path.dirname(path))
    with open(path, "w") as stream:
        stream.write(TO_A_FILE.format(folder=tmp_path))
    return path


def logging_by(start, uri, version):
    """The domain and a probe that was launched with that logging configuration."""
    domain = start(version=version, settings={"LOGGING_CONFIG_URI": uri, "debug_level": 4})
    probe = domain.device("Probe_1")
    wait_for(probe._get_started)
    return domain, probe


VERSIONS = pytest.mark.parametrize("version", ["2.3.2", "3.0.1"])


@VERSIONS
@pytest.mark.parametrize("scheme", ["file", "sca"])
def test_a_logging_configuration_is_read_wherever_it_lies(start, config, tmp_path, scheme, version):
    _, probe = logging_by(start, "sca:///mgr/log.cfg" if scheme == "sca" else "file://" + config, version)
    with open(str(tmp_path / "REDHAWK_DEV.node.Probe_1.log")) as stream:
        lines = stream.read().splitlines()
    assert f"INFO |child|{time.strftime('%Y%m%dT')}|constructed Probe_1" in lines
    assert any("log4j.appender.ELSEWHERE: there is no RH_LogEventAppender here" in line for line in lines)
    assert "FILE" in probe.getLogConfig() and "@@@" not in probe.getLogConfig()
    assert probe.getLogLevel("Probe_1.user.child") == CF.LogLevels.DEBUG


def test_a_path_without_a_file_system_is_one_in_the_managers(start, config, tmp_path):
    start([]).outside(LOGGING_CONFIG_URI="sca:/mgr/log.cfg", DOM_PATH="d/n").initialize()
    with open(str(tmp_path / "d.n.Outside_1.log")) as stream:
        assert "constructed Outside_1" in stream.read()


@VERSIONS
@pytest.mark.parametrize(
    "uri, why",
    [
        ("file:///nowhere/log.cfg", "No such file or directory"),
        ("sca:/nowhere.cfg", "/nowhere.cfg: No such file or directory"),
        ("http://example.com/", "it begins with neither file:, sca: nor str:"),
        ("str:/nothing = of the kind", "it would log nothing"),
    ],
)
def test_a_logging_configuration_that_cannot_be_used_is_told_and_the_console_logged_to(
    start, uri, why, version
):
    domain, _ = logging_by(start, uri, version)
    (line,) = [line for line in domain.output().splitlines() if "the logging configuration" in line]
    assert why in line
    assert "constructed Probe_1" in domain.output()


def test_a_logging_configuration_can_be_set_and_taken_back(start, tmp_path):
    domain = start()
    probe = domain.device("Probe_1")
    before = probe.getLogConfig()
    path = str(tmp_path / "my.log")
    text = "log4j.rootLogger=INFO,F\nlog4j.appender.F=org.apache.log4j.RollingFileAppender\n"
    text += f"log4j.appender.F.File={path}\nlog4j.appender.F.MaxFileSize=1MB\n"
    probe.setLogConfig(text)
    assert probe.getLogConfig() == text
    with pytest.raises(CF.PropertySet.InvalidConfiguration):
        client.configure(probe, "probe::limits", {"low": -1})
    with open(path) as stream:
        assert stream.read() == "WARN:PropertySet - probe::limits is refused: that is not allowed\n"
    probe.resetLog()
    assert probe.getLogConfig() == before
    os.mkfifo(path + ".fifo")
    probe.setLogConfig(text.replace(path, path + ".fifo"))
    client.configure(probe, "probe::count", 1)
    assert probe.retrieve_records(10, 0) == ([], 0)


# What differs between REDHAWK's versions


# As a listener of 2.x sees it: with no other types of that id than these.
LISTENER_OF_2 = """
sys.path.insert(0, sys.argv[1])
from omniORB import CORBA
from gppshm.redhawk.stubs import REDHAWK2
from channel import MessageConsumer
import CosEventChannelAdmin
orb = CORBA.ORB_init(["listener", "-ORBendPoint", "giop:tcp:127.0.0.1:"], CORBA.ORB_ID)
orb.resolve_initial_references("RootPOA")._get_the_POAManager().activate()
def heard(data):
    event = data.value()
    assert isinstance(event, REDHAWK2.StateChangeEventType), event
    old, new = event.stateChangeFrom, event.stateChangeTo
    print(old._v, old, new._v, new, flush=True)
channel = orb.string_to_object(sys.argv[2])._narrow(CosEventChannelAdmin.EventChannel)
servant = MessageConsumer(heard)
proxy = channel.for_consumers().obtain_push_supplier()
proxy.connect_push_consumer(servant.for_suppliers().obtain_push_consumer())
print("ready", flush=True)
sys.stdin.read()
"""


def test_a_listener_of_2_understands_the_changes_of_state(start, spawn):
    domain = start(version="2.3.2")
    channel = domain.ref._get_eventChannelMgr().get("IDM_Channel")
    listener = spawn.python(LISTENER_OF_2, client.STANDIN, client.orb().object_to_string(channel))
    probe = domain.device("Probe_1")
    assert probe.allocateCapacity([client.prop("probe::capacity", "longlong", 50)])
    assert listener.read_line() == "5 IDLE 6 ACTIVE"
    assert probe.allocateCapacity([client.prop("probe::capacity", "longlong", 50)])
    assert listener.read_line() == "6 ACTIVE 7 BUSY"
    probe._set_adminState(CF.Device.LOCKED)
    assert listener.read_line() == "1 UNLOCKED 0 LOCKED"
