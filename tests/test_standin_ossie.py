"""The stand-in's `ossie` does to a device what REDHAWK's does, its faults included; runs on REDHAWK's too."""

# ruff: noqa: F811 (pytest finds fixtures by name: they are imported, and are arguments)

import os
import signal
import time

import pytest

from probing import CF, CORBA, NULL, PROFILE, client, omniORB, probe, sdrroot, start, wait_for  # noqa: F401

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


def test_constructor_runs_once_and_every_initialize_resets_the_states(probe):
    probe._set_adminState(CF.Device.LOCKED)
    assert probe._get_adminState() == CF.Device.LOCKED
    probe.initialize()
    assert probe._get_adminState() == CF.Device.UNLOCKED
    assert calls(probe).count("constructor") == 1


def test_a_constructor_that_fails_leaves_an_unregistered_device_running(start):
    domain = start([("Probe_1", PROFILE, 0, {"probe::fail": "constructor"})])
    wait_for(lambda: "ready" in domain.lines("ready"))
    assert domain.devices() == {} and domain.resolve("node", "Probe_1") is None
    assert "no luck" in domain.told() and "Could not register with DeviceManager" in domain.told()


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


def test_the_command_line_sets_properties_of_every_kind_and_mode(start):
    outside = start([]).outside(
        **{"probe::capacity": "16", "probe::flag": "TRUE", "probe::level": "2.5", "probe::kind": "X"}
    )
    assert client.query(outside, "probe::capacity") == 16
    assert client.query(outside, "probe::flag") is True and client.query(outside, "probe::level") == 2.5


@pytest.mark.parametrize("bad", [{"probe::count": "many"}, {"count": "1"}])
def test_a_bad_number_or_a_propertys_name_on_the_command_line_ends_the_device(start, bad):
    process = start([]).launch_outside(**bad)
    assert process.wait(10) == 1


def test_a_released_device_unregisters_says_so_and_ends_with_its_orb(start):
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
    assert "Could not unregister from DeviceManager" in domain.told()


def is_stopped(pid):
    """Whether each of its threads has obeyed SIGSTOP."""
    states = []
    for tid in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{tid}/stat") as stream:
            states.append(stream.read().rpartition(")")[2].split()[0])
    return set(states) == {"T"}


def test_a_hung_manager_is_waited_for_one_second_at_release_but_the_orb_ends_only_when_it_answers(start):
    domain = start()
    probe = domain.device("Probe_1")
    wait_for(lambda: domain.lines("ready"))
    domain.process.send_signal(signal.SIGSTOP)
    wait_for(lambda: is_stopped(domain.process.pid))
    began = time.monotonic()
    probe.releaseObject()
    assert 0.9 < time.monotonic() - began < 5
    assert "timeout" in domain.told() and not domain.lines("ended")
    domain.process.send_signal(signal.SIGCONT)
    wait_for(lambda: domain.lines("ended"))


# Properties


def test_query_gives_the_readable_ones_in_the_order_of_their_attributes(probe):
    names = "calls capacity count fail flag items level limits loose text usage"
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


def test_a_query_callback_that_raises_gives_null_or_the_callers_value(probe):
    client.configure(probe, "probe::fail", "query")
    values = {item.id: item.value for item in probe.query([])}
    assert values["probe::calls"].value() is None and values["probe::text"].value() == "from the PRF"
    (item,) = probe.query([client.prop("probe::calls", "string", "mine")])
    assert item.value.value() == "mine"


def test_a_structs_query_callback_that_raises_fails_the_whole_query(probe):
    client.configure(probe, "probe::fail", "struct")
    for wanted in ([], [CF.DataType("probe::usage", NULL)]):
        with pytest.raises(CORBA.UNKNOWN):
            probe.query(wanted)
    assert client.query(probe, "probe::text") == "from the PRF"


def test_optional_members_that_are_not_set_are_left_out(probe):
    assert "note" not in client.query(probe, "probe::usage")


@pytest.mark.parametrize(
    "id_, value, becomes",
    [
        ("probe::level", CORBA.Any(CORBA.TC_string, "73"), 73.0),
        ("probe::level", CORBA.Any(CORBA.TC_long, 7), 7.0),
        ("probe::count", CORBA.Any(CORBA.TC_string, "0x10"), 16),
        ("probe::count", CORBA.Any(CORBA.TC_double, 7.9), 7),
        ("probe::flag", CORBA.Any(CORBA.TC_long, 1), True),
        ("probe::flag", CORBA.Any(CORBA.TC_string, "false"), False),
        ("probe::flag", CORBA.Any(CORBA.TC_string, "nope"), True),
        ("probe::text", NULL, None),
        ("probe::limits", struct(low=3, name="x", other="unknown"), {"low": 3, "name": "x"}),
    ],
)
def test_configure_takes_what_can_somehow_be_converted(probe, id_, value, becomes):
    probe.configure([CF.DataType(id_, value)])
    assert client.query(probe, id_) == becomes


@pytest.mark.parametrize(
    "id_, value",
    [
        ("no::such", CORBA.Any(CORBA.TC_string, "x")),
        ("probe::calls", CORBA.Any(CORBA.TC_string, "readonly")),
        ("probe::level", CORBA.Any(CORBA.TC_string, "abc")),
        ("probe::count", CORBA.Any(CORBA.TC_double, 2.0**31)),
        ("probe::items", CORBA.Any(CORBA.TC_long, 1)),
        ("probe::limits", NULL),
        ("probe::limits", CORBA.Any(CORBA.TC_string, "x")),
        ("probe::limits", struct(low=3)),
        ("probe::limits", struct(low=-1, name="the validator says no")),
    ],
)
def test_configure_refuses_what_it_cannot_and_keeps_the_rest(probe, id_, value):
    before = client.query_all(probe)
    bad, good = CF.DataType(id_, value), client.prop("probe::text", "string", "new")
    with pytest.raises(CF.PropertySet.InvalidConfiguration) as invalid:
        probe.configure([bad])
    assert invalid.value.msg == "Failure: " and [each.id for each in invalid.value.invalidProperties] == [id_]
    with pytest.raises(CF.PropertySet.PartialConfiguration) as partial:
        probe.configure([bad, good])
    assert [each.id for each in partial.value.invalidProperties] == [id_]
    after = client.query_all(probe)
    before.update({"probe::text": "new", "probe::calls": after["probe::calls"]})
    assert after == before
    probe.configure([])


def test_a_structs_members_are_converted_when_they_are_read_and_not_before(probe):
    items = [
        CF.DataType("probe::limits::low", CORBA.Any(CORBA.TC_double, 3.5)),
        CF.DataType("probe::limits::name", CORBA.Any(CORBA.TC_long, 5)),
    ]
    probe.configure([CF.DataType("probe::limits", CORBA.Any(CF._tc_Properties, items))])
    assert client.query(probe, "probe::limits") == {"low": 3, "name": "5"}


def heard(ref, id_):
    return [line for line in calls(ref) if line.startswith(id_ + ":")]


def test_a_listener_hears_kind_configure_always_and_kind_property_when_it_changed(probe):
    for _ in range(2):
        client.configure(probe, "probe::level", 2.0)
        client.configure(probe, "probe::count", 3)
    assert heard(probe, "probe::level") == ["probe::level:0.5>2.0", "probe::level:2.0>2.0"]
    assert heard(probe, "probe::count") == ["probe::count:0>3"]


def test_a_listener_that_fails_or_is_no_method_spoils_a_value_that_is_stored(probe):
    with pytest.raises(CF.PropertySet.InvalidConfiguration):
        client.configure(probe, "probe::loose", 3)
    client.configure(probe, "probe::fail", "listener")
    with pytest.raises(CF.PropertySet.InvalidConfiguration):
        client.configure(probe, "probe::level", 2.0)
    assert (client.query(probe, "probe::loose"), client.query(probe, "probe::level")) == (3, 2.0)


def test_a_query_from_within_a_configure_hangs_for_ever(probe):
    omniORB.setClientCallTimeout(probe, 300)
    with pytest.raises((CORBA.TIMEOUT, CORBA.TRANSIENT)):
        client.configure(probe, "probe::text", "self")
    with pytest.raises((CORBA.TIMEOUT, CORBA.TRANSIENT)):
        probe.query([])
    assert probe._get_label() == "Probe_1"


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


def test_messages_reach_every_channel_with_null_for_a_member_that_is_not_set(probe):
    with client.Listener(probe.getPort("out")) as one, client.Listener(probe.getPort("out")) as other:
        assert len(probe.getPort("out")._get_connections()) == 2
        probe.runTest(1, [])
        wait_for(lambda: one.heard and other.heard)
        assert one.messages() == [("probe::limits", {"low": 3, "name": "three", "note": None})]
        (item,) = one.heard[0].value()
        assert [member.value.typecode().kind() for member in item.value.value()][2] == CORBA.tk_null
    assert probe.getPort("out")._get_connections() == []


def test_a_message_port_that_was_connected_to_no_channel_hangs_from_then_on(probe):
    port = probe.getPort("out")
    with pytest.raises(CORBA.UNKNOWN):
        port.connectPort(probe, "wrong")
    omniORB.setClientCallTimeout(probe, 300)
    with pytest.raises((CORBA.TIMEOUT, CORBA.TRANSIENT)):
        probe.runTest(1, [])


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
    for call in (lambda: probe.getLogLevel("gppshm"), lambda: probe.setLogLevel("Probe", CF.LogLevels.INFO)):
        with pytest.raises(CF.UnknownIdentifier):
            call()


def test_the_command_lines_level_is_the_roots(start):
    domain = start([])
    outside = domain.outside(DEBUG_LEVEL="1")
    assert outside._get_log_level() == CF.LogLevels.ERROR
    assert "INFO" not in domain.told()
