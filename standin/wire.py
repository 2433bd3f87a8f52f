"""Structs on the wire, as REDHAWK's C++ packs and unpacks them: a CF::Properties, a CF::DataType per member.

A member's id is the struct's id, `::` and the member's name.
"""

import time

from omniORB import CORBA

from stubs import CF

STRING, BOOLEAN, ULONG = CORBA.TC_string, CORBA.TC_boolean, CORBA.TC_ulong
TIME, PROPERTIES = CF._tc_UTCTime, CF._tc_Properties
NULL = CORBA.Any(CORBA.TC_null, None)

STRUCTS = {
    "plugin::registration": {"id": STRING, "name": STRING, "description": STRING, "metric_port": STRING},
    "plugin::heartbeat": {"plugin_id": STRING},
    "plugin::message": {
        "plugin_id": STRING,
        "metric_name": STRING,
        "busy": BOOLEAN,
        "metric_timestamp": TIME,
        "metric_reason": STRING,
        "metric_threshold_value": STRING,
        "metric_recorded_value": STRING,
    },
    "plugin::set_threshold": {"plugin_id": STRING, "metric_name": STRING, "metric_threshold_value": STRING},
    "plugin::status": {
        "id": STRING,
        "name": STRING,
        "description": STRING,
        "busy": BOOLEAN,
        "alive": BOOLEAN,
        "pid": ULONG,
        "metric_names": CF._tc_StringSequence,
    },
}
STRUCTS["plugin::metric_status"] = STRUCTS["plugin::message"]


BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
TYPES = {
    "boolean": (BOOLEAN, lambda text: BOOLEANS[text.lower()]),
    "double": (CORBA.TC_double, float),
    "float": (CORBA.TC_float, float),
    "string": (STRING, str),
    **{
        name: (getattr(CORBA, "TC_" + name), lambda text: int(text, 0))
        for name in ("octet", "short", "ushort", "long", "ulong", "longlong", "ulonglong")
    },
}
"""The simple types of a PRF: the TypeCode, and what makes a value of a text. ValueError or KeyError."""


class Dropped(Exception):
    """REDHAWK's C++ would silently fail to extract this; the text says why."""


def now():
    whole, rest = divmod(time.time(), 1)
    return CF.UTCTime(1, whole, rest)


def default(typecode):
    """The value of a missing member in C++."""
    return CF.UTCTime(0, 0.0, 0.0) if typecode is TIME else "" if typecode is STRING else False


def pack(struct, **values):
    """A struct's any; every member must be given."""
    members = STRUCTS[struct]
    return CORBA.Any(
        PROPERTIES,
        [CF.DataType(f"{struct}::{name}", CORBA.Any(members[name], values[name])) for name in members],
    )


def properties(data, what):
    """The CF::Properties in an any, which must be exactly that."""
    if not data.typecode().equivalent(PROPERTIES):
        raise Dropped(f"{what} is no CF::Properties but {data.typecode().kind()}")
    return data.value(PROPERTIES)


def unpack(struct, data):
    """A struct's members by name.

    A member that is missing has its default, unknown ones are ignored, but one null or wrongly typed member
    drops the whole struct.
    """
    sent = {}
    for member in properties(data, struct):
        sent.setdefault(member.id, member.value)
    values = {}
    for name, typecode in STRUCTS[struct].items():
        value = sent.get(f"{struct}::{name}")
        if value is None:
            values[name] = default(typecode)
        elif value.typecode().equivalent(typecode):
            values[name] = value.value(typecode)
        else:
            raise Dropped(f"{struct}::{name} is no {typecode.kind()} but {value.typecode().kind()}")
    return values


def plain(data):
    """An any as Python values: a struct is a dict without the struct's id in its keys, a sequence a list."""
    if data.typecode().equivalent(PROPERTIES):
        return {member.id.rpartition("::")[2]: plain(member.value) for member in data.value(PROPERTIES)}
    if data.typecode().equivalent(CORBA._tc_AnySeq):
        return [plain(item) for item in data.value(CORBA._tc_AnySeq)]
    return data.value()


def changed(data, value):
    """An any of the same types with another Python value; for a struct, only the given members change."""
    if not data.typecode().equivalent(PROPERTIES):
        return CORBA.Any(data.typecode(), value)
    left = dict(value)
    members = []
    for member in data.value(PROPERTIES):
        name = member.id.rpartition("::")[2]
        new = changed(member.value, left.pop(name)) if name in left else member.value
        members.append(CF.DataType(member.id, new))
    if left:
        raise KeyError(f"no such members: {sorted(left)}")
    return CORBA.Any(PROPERTIES, members)
