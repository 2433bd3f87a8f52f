"""What the plugin says to a GPP, field by field and type by type, and hears from it. Over real CORBA."""

# ruff: noqa: F811 (pytest finds fixtures by name: they are imported, and are arguments)

import time

import pytest

from plugins import METRICS, NAME, installed, node, sdr, start, wait_for  # noqa: F401

# isort: split
from omniORB import CORBA

from gppshm.redhawk.corba import CF, ExtendedEvent

pytestmark = pytest.mark.corba

# The table of messages that a GPP of REDHAWK 3.0 understands.
MEMBERS = {
    "plugin::registration": {"id": "s", "name": "s", "description": "s", "metric_port": "s"},
    "plugin::message": {
        "plugin_id": "s",
        "metric_name": "s",
        "busy": "b",
        "metric_timestamp": "t",
        "metric_reason": "s",
        "metric_threshold_value": "s",
        "metric_recorded_value": "s",
    },
}
KINDS = {"s": CORBA.tk_string, "b": CORBA.tk_boolean, "t": CORBA.tk_struct}


def test_every_member_of_every_message_is_there_with_its_exact_type(node):
    messages = node.gpp.messages()
    assert {message.id for message in messages} == set(MEMBERS)
    for message in messages:
        assert message.dropped == ""
        assert message.data.typecode().equal(CF._tc_Properties)
        wanted = MEMBERS[message.id]
        assert list(message.fields) == [f"{message.id}::{name}" for name in wanted]
        for name, kind in wanted.items():
            value = message.fields[f"{message.id}::{name}"]
            assert value.typecode().kind() == KINDS[kind], name
            if kind == "s":
                assert value.value()
                assert value.value().isprintable()
                value.value().encode("ascii")
    assert messages[-1].fields["plugin::message::metric_timestamp"].typecode().id() == "IDL:CF/UTCTime:1.0"


def test_a_message_is_timed_with_whole_seconds_and_their_fraction(node):
    for message in node.gpp.messages("plugin::message"):
        stamp = message.fields["plugin::message::metric_timestamp"].value()
        assert stamp.tcstatus == 1
        assert stamp.twsec == int(stamp.twsec)
        assert 0 <= stamp.tfsec < 1
        assert abs(stamp.twsec + stamp.tfsec - message.when) < 1


def test_it_registers_once_within_a_second_and_sends_all_metrics_right_after(node):
    (registration,) = node.gpp.messages("plugin::registration")
    assert registration.fields["plugin::registration::name"].value() == NAME
    first = node.gpp.messages("plugin::message")[: len(METRICS)]
    assert {message.fields["plugin::message::metric_name"].value() for message in first} == METRICS
    assert first[-1].when - node.gpp.started < 1.0
    assert first[-1].when - registration.when < 0.2
    status = node.gpp.plugin(NAME)
    assert (status["alive"], status["busy"]) == (True, False)


def test_its_port_is_a_message_event_channel_that_bears_everything(node):
    (registration,) = node.gpp.messages("plugin::registration")
    ior = registration.fields["plugin::registration::metric_port"].value()
    port = CORBA.ORB_init().string_to_object(ior)
    assert port._is_a("IDL:ExtendedEvent/MessageEvent:1.0")
    port = port._narrow(ExtendedEvent.MessageEvent)
    port.connectPort(None, "x")
    port.disconnectPort("y")
    consumer = port.for_suppliers().obtain_push_consumer()
    consumer.connect_push_supplier(None)
    properties = CF._tc_Properties
    null = CORBA.Any(CORBA.TC_null, None)
    threshold = "plugin::set_threshold"
    huge = [CF.DataType(threshold, CORBA.Any(CORBA.TC_string, "x" * 100000))] * 10
    for data in (
        null,
        CORBA.Any(CORBA.TC_long, 5),
        CORBA.Any(CORBA.TC_string, "\xff"),
        CORBA.Any(CORBA.TC_any, null),
        CORBA.Any(CORBA.TC_Object, None),
        CORBA.Any(CORBA.TC_TypeCode, CORBA.TC_long),
        CORBA.Any(properties, []),
        CORBA.Any(properties, huge),
        CORBA.Any(properties, [CF.DataType("", null)]),
        CORBA.Any(properties, [CF.DataType(threshold, null)]),
        CORBA.Any(properties, [CF.DataType(threshold, CORBA.Any(properties, []))]),
        CORBA.Any(properties, [CF.DataType(threshold, CORBA.Any(properties, [CF.DataType("\xe9", null)]))]),
        CORBA.Any(CF._tc_UTCTime, CF.UTCTime(1, 2.0, 0.5)),
        CORBA.Any(properties, [CF.DataType("plugin::registration", CORBA.Any(CORBA.TC_octet, 1))]),
    ):
        consumer.push(data)
    value = CORBA.Any(CORBA.TC_long, 12)
    consumer.push(
        CORBA.Any(
            properties,
            [
                CF.DataType(
                    threshold,
                    CORBA.Any(
                        properties,
                        [
                            CF.DataType(f"{threshold}::{name}", member)
                            for name, member in (
                                ("plugin_id", CORBA.Any(CORBA.TC_string, node.plugin_id)),
                                ("metric_name", CORBA.Any(CORBA.TC_string, "shm_free")),
                                ("metric_threshold_value", value),
                            )
                        ],
                    ),
                )
            ],
        )
    )
    try:
        consumer.push(CORBA.Any(CORBA.TC_string, "x" * 5000000))
    except CORBA.MARSHAL:
        pass  # longer than omniORB lets through
    consumer.disconnect_push_consumer()
    port.destroy()
    assert node.gpp.metric("shm_free")["metric_threshold_value"] == "off"
    node.gpp.set_threshold(node.plugin_id, "shm_free", "1 MB")
    wait_for(lambda: node.gpp.metric("shm_free")["metric_threshold_value"] == "1 MB")
    assert "Traceback" not in node.output()


def test_a_threshold_is_in_force_at_once_and_told_back(node, shm_root):
    with open(shm_root + "/file", "wb") as stream:
        stream.write(b"x" * 1048576)  # so that not everything is free
    start = time.monotonic()
    node.gpp.set_threshold(node.plugin_id, "shm_free", "100%")
    wait_for(lambda: node.gpp.usage_state == "BUSY")
    assert time.monotonic() - start < 2.0
    assert "REASON: Shared memory is low" in node.gpp.busy_reason
    assert "Threshold: 100%" in node.gpp.busy_reason
    node.gpp.set_threshold(node.plugin_id, "shm_free", "1.5GB")
    wait_for(lambda: node.gpp.metric("shm_free")["metric_threshold_value"] == "1.5 GB")
    node.gpp.set_threshold(node.plugin_id, "shm_free", "off")
    wait_for(lambda: node.gpp.usage_state != "BUSY")


@pytest.mark.parametrize("text", ["", "-1", "nan", "101%", "lots", "1e9", "5 MB;"])
def test_garbage_is_refused_logged_and_changes_nothing(node, text):
    node.gpp.set_threshold(node.plugin_id, "shm_free", text)
    wait_for(lambda: "is refused" in node.output())
    assert node.gpp.metric("shm_free")["metric_threshold_value"] == "off"
    assert node.gpp.plugin(NAME)["alive"]


def test_thresholds_of_other_plugins_and_unknown_metrics_change_nothing(node):
    node.gpp.set_threshold("DCE:another", "shm_free", "100%")
    node.gpp.set_threshold("", "shm_free", "100%")
    node.gpp.set_threshold(node.plugin_id, "cpu", "100%")
    node.gpp.set_threshold(node.plugin_id, "shm_removed", "1")
    node.gpp.set_threshold(node.plugin_id, "shm_held", "900 GB")
    wait_for(lambda: node.gpp.metric("shm_held")["metric_threshold_value"] == "900 GB")
    values = {each["metric_name"]: each["metric_threshold_value"] for each in node.gpp.metric_status()}
    assert values == dict(dict.fromkeys(METRICS, "off"), shm_held="900 GB")
    assert node.output().count("is refused") == 2
    assert node.gpp.usage_state != "BUSY"


def test_there_are_at_most_two_messages_a_second_and_a_sign_of_life_every_ten(node, shm_root):
    node.gpp.ref.forget_messages()
    end = time.monotonic() + 3
    while time.monotonic() < end:
        with open(shm_root + "/file", "ab") as stream:
            stream.write(b"x" * 300000)
        time.sleep(0.01)
    moments = sorted({message.when for message in node.gpp.messages()})
    assert 3 <= len(moments) <= 7
    gaps = [after - before for before, after in zip(moments, moments[1:])]
    assert min(gaps) > 0.4
    time.sleep(1.2)  # the last of them have arrived
    node.gpp.ref.forget_messages()
    wait_for(lambda: len(node.gpp.messages()) >= len(METRICS), 12)
    assert {each.fields["plugin::message::metric_name"].value() for each in node.gpp.messages()} == METRICS
