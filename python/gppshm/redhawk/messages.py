"""The messages between GPP and plugin, field by field.

A push is an any with a CF::Properties that has one CF::DataType per message.  Its id is the message id, its
value an any with a CF::Properties of the members; each member's id is the message id, `::` and its name.
Every member is set, with its exact type: REDHAWK's C++ drops a whole message if it cannot extract one member
(measured on REDHAWK 3.0.1).  Every string passes through `plain`.
"""

import math

from gppshm.redhawk.corba import CF, CORBA
from gppshm.redhawk.text import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, List, Sequence, Tuple

    from gppshm.redhawk.metrics import Reading

REGISTRATION = "plugin::registration"
MESSAGE = "plugin::message"
SET_THRESHOLD = "plugin::set_threshold"

IOR = 100000
"""Characters of a reference at most: it is ASCII, and useless if it is cut."""


def registration(plugin_id: str, name: str, description: str, metric_port: str) -> "Any":
    """Announces the plugin; `metric_port` is the IOR of its own event channel, for thresholds."""
    return _message(
        REGISTRATION,
        [
            ("id", _string(plugin_id)),
            ("name", _string(name)),
            ("description", _string(description)),
            ("metric_port", _string(metric_port, IOR)),
        ],
    )


def metric(plugin_id: str, reading: "Reading", now: float) -> "Any":
    """One metric, measured at `now`, in seconds since 1970."""
    fraction, whole = math.modf(now)
    return _message(
        MESSAGE,
        [
            ("plugin_id", _string(plugin_id)),
            ("metric_name", _string(reading.name)),
            ("busy", CORBA.Any(CORBA.TC_boolean, bool(reading.busy))),
            # A status of 1 says that the time is valid.
            ("metric_timestamp", CORBA.Any(CF._tc_UTCTime, CF.UTCTime(1, whole, fraction))),
            ("metric_reason", _string(reading.reason)),
            ("metric_threshold_value", _string(reading.threshold)),
            ("metric_recorded_value", _string(reading.recorded)),
        ],
    )


def pack(messages: "Sequence[Any]") -> "Any":
    """The any to push for these messages."""
    return CORBA.Any(CF._tc_Properties, list(messages))


def thresholds(data: "Any") -> "List[Tuple[str, str, str]]":
    """(plugin id, metric name, value) of each plugin::set_threshold in a pushed any.

    ValueError if the any, or one of these messages, is malformed; other messages are ignored.
    """
    found = []
    for message in _properties(data):
        if message.id != SET_THRESHOLD:
            continue
        members = {member.id: member.value for member in _properties(message.value)}
        found.append(
            (
                _text(members, "plugin_id"),
                _text(members, "metric_name"),
                _text(members, "metric_threshold_value"),
            )
        )
    return found


def _message(message: str, members: "Sequence[Tuple[str, Any]]") -> "Any":
    properties = [CF.DataType(f"{message}::{name}", value) for name, value in members]
    return CF.DataType(message, CORBA.Any(CF._tc_Properties, properties))


def _string(text: str, limit: int = 1000) -> "Any":
    return CORBA.Any(CORBA.TC_string, plain(text, limit))


def _properties(data: "Any") -> "List[Any]":
    if not isinstance(data, CORBA.Any) or not data.typecode().equivalent(CF._tc_Properties):
        raise ValueError("it holds no CF::Properties")
    return list(data.value())


def _text(members: "Any", name: str) -> str:
    value = members.get(f"{SET_THRESHOLD}::{name}")
    if value is None or not value.typecode().equivalent(CORBA.TC_string):
        raise ValueError(f"its {name} is missing or no string")
    return str(value.value())
