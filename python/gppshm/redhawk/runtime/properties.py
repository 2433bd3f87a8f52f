"""Declarations of properties and ports in a class, and the conversion of their values over CORBA.

A declaration is shared by all instances of its class and holds no value.  A value from CORBA is accepted if
the property's type can hold it unchanged, and otherwise refused with a reason.
"""

import math
import time

from gppshm.redhawk.corba import CF, CORBA
from gppshm.redhawk.text import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

KINDS = ("configure", "property")

TYPES = {
    "boolean": CORBA.TC_boolean,
    "char": CORBA.TC_char,
    "double": CORBA.TC_double,
    "float": CORBA.TC_float,
    "long": CORBA.TC_long,
    "longlong": CORBA.TC_longlong,
    "octet": CORBA.TC_octet,
    "short": CORBA.TC_short,
    "string": CORBA.TC_string,
    "ulong": CORBA.TC_ulong,
    "ulonglong": CORBA.TC_ulonglong,
    "ushort": CORBA.TC_ushort,
    "utctime": CF._tc_UTCTime,
}
"""TypeCodes by the types of a PRF."""

_BITS = {"octet": 8, "ushort": 16, "ulong": 32, "ulonglong": 64, "short": 16, "long": 32, "longlong": 64}
_WORDS = {"true": True, "1": True, "false": False, "0": False}

NULL = CORBA.Any(CORBA.TC_null, None)


def now() -> "Any":
    """A CF::UTCTime."""
    whole, rest = divmod(time.time(), 1)
    return CF.UTCTime(1, whole, rest)


class Refused(ValueError):
    """A value that a property does not accept, and why."""


def limits(type_: str) -> "Tuple[int, int]":
    """The least and the greatest number of an integer type."""
    if type_ in ("octet", "ushort", "ulong", "ulonglong"):
        return 0, (1 << _BITS[type_]) - 1
    half = 1 << (_BITS[type_] - 1)
    return -half, half - 1


def converted(type_: str, value: "Any") -> "Any":
    """A Python value in one of these types.  Refused if that would change it."""
    if value is None:
        raise Refused("it has no value")
    if type_ == "utctime":
        return _expected(value, CF.UTCTime, "a CF::UTCTime")
    if type_ == "boolean":
        known = _WORDS.get(str(value).strip().lower())
        if known is None:
            raise Refused(f"{_shown(value)} is neither true nor false")
        return known
    if type_ in ("string", "char"):
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            value = str(value)
        return _expected(value, str, "a string")
    if not isinstance(value, (int, float, str)) or isinstance(value, bool):
        raise Refused(f"a number ({type_}) is expected, not {_shown(value)}")
    return _number(type_, value)


def _number(type_: str, value: "Union[int, float, str]") -> "Union[int, float]":
    try:
        if type_ in ("double", "float"):
            return float(value)
        whole = int(value, 0) if isinstance(value, str) else int(value)
    except (ValueError, OverflowError):
        raise Refused(f"{_shown(value)} is no number ({type_})") from None
    if not isinstance(value, str) and whole != value:
        raise Refused(f"{value} is no whole number")
    least, most = limits(type_)
    if not least <= whole <= most:
        raise Refused(f"{whole} is out of the range of {type_}, {least} to {most}")
    return whole


def _expected(value: "Any", kind: type, what: str) -> "Any":
    if not isinstance(value, kind):
        raise Refused(f"{what} is expected, not {_shown(value)}")
    return value


def _shown(value: "Any") -> str:
    return plain(repr(value), 60)


class Declared:
    """What all properties have in common; `action`, `mode` and the kinds are those of a PRF.

    As an attribute of an instance it is the value, None until it is set.
    """

    def __init__(
        self,
        id_: str,
        name: "Optional[str]" = None,
        mode: str = "readwrite",
        action: str = "external",
        kinds: "Sequence[str]" = KINDS,
        defvalue: "Any" = None,
    ) -> None:
        self.id_ = id_
        self.name = name or id_
        self.mode = mode
        self.action = action
        self.kinds = tuple(kinds)
        self.defvalue = defvalue

    # -- what may be done with it --------------------------------------------------------------------

    @property
    def is_initialized(self) -> bool:
        """Whether initializeProperties sets it; also true if readonly, as its PRF may give it a value."""
        return "property" in self.kinds

    @property
    def is_configurable(self) -> bool:
        return self._has("configure", "property") and self.mode in ("readwrite", "writeonly")

    @property
    def is_queryable(self) -> bool:
        external = "allocation" in self.kinds and self.action == "external"
        return (self._has("configure", "property", "execparam") or external) and self.mode != "writeonly"

    @property
    def is_event(self) -> bool:
        """Whether changes are sent as events."""
        return "event" in self.kinds

    def _has(self, *kinds: str) -> bool:
        return not set(kinds).isdisjoint(self.kinds)

    # -- its value -----------------------------------------------------------------------------------

    def __get__(self, owner: "Any", kind: "Optional[type]" = None) -> "Any":
        return self if owner is None else self.get(owner)

    def __set__(self, owner: "Any", value: "Any") -> None:
        self.set(owner, value)

    def get(self, owner: "Any") -> "Any":
        return vars(owner).get(self.id_)

    def set(self, owner: "Any", value: "Any") -> None:
        """Set by the program itself, unchecked."""
        vars(owner)[self.id_] = value

    def initial(self) -> "Any":
        return self.defvalue

    def from_any(self, data: "Any") -> "Any":
        """Refused if it is no possible value of this property."""
        raise NotImplementedError

    def to_any(self, value: "Any") -> "Any":
        """An any that holds nothing for None."""
        raise NotImplementedError


class simple_property(Declared):
    """One value, or one member of a struct; an `optional` member may be missing."""

    def __init__(
        self,
        id_: str,
        type_: str,
        name: "Optional[str]" = None,
        defvalue: "Any" = None,
        units: "Optional[str]" = None,
        mode: str = "readwrite",
        action: str = "external",
        kinds: "Sequence[str]" = KINDS,
        optional: bool = False,
    ) -> None:
        super().__init__(id_, name, mode, action, kinds, defvalue)
        if type_ not in TYPES:
            raise ValueError(f"{id_}: there is no type {type_}")
        self.type_ = type_
        self.units = units
        self.optional = optional

    def from_any(self, data: "Any") -> "Any":
        return converted(self.type_, data.value())

    def to_any(self, value: "Any") -> "Any":
        return NULL if value is None else CORBA.Any(TYPES[self.type_], value)


class struct_property(Declared):
    """A struct: an instance of `structdef`, whose members are its simple_property attributes."""

    def __init__(
        self,
        id_: str,
        structdef: "Any",
        name: "Optional[str]" = None,
        mode: str = "readwrite",
        configurationkind: "Sequence[str]" = KINDS,
    ) -> None:
        super().__init__(id_, name, mode, "external", configurationkind)
        self.structdef = structdef

    def initial(self) -> "Any":
        return self.structdef()

    def from_any(self, data: "Any") -> "Any":
        return struct_from_any(self.structdef, data)

    def to_any(self, value: "Any") -> "Any":
        return NULL if value is None else struct_to_any(value)


class structseq_property(Declared):
    """A sequence of structs: a list of instances of `structdef`."""

    def __init__(
        self,
        id_: str,
        structdef: "Any",
        name: "Optional[str]" = None,
        defvalue: "Any" = None,
        mode: str = "readwrite",
        configurationkind: "Sequence[str]" = KINDS,
    ) -> None:
        super().__init__(id_, name, mode, "external", configurationkind, defvalue)
        self.structdef = structdef

    def initial(self) -> "Any":
        return list(self.defvalue or ())

    def from_any(self, data: "Any") -> "Any":
        if not data.typecode().equivalent(CORBA._tc_AnySeq):
            raise Refused("a sequence of structs is expected")
        return [struct_from_any(self.structdef, item) for item in data.value()]

    def to_any(self, value: "Any") -> "Any":
        if value is None:
            return NULL
        return CORBA.Any(CORBA._tc_AnySeq, [struct_to_any(item) for item in value])


class usesport:
    """A uses port; as an attribute of an instance it is the servant, or None."""

    def __init__(self, name: str, repid: str, type_: str, description: str = "") -> None:
        self.name = name
        self.repid = repid
        self.type_ = type_
        self.__doc__ = description

    def __get__(self, owner: "Any", kind: "Optional[type]" = None) -> "Any":
        return self if owner is None else vars(owner).get("port " + self.name)

    def __set__(self, owner: "Any", servant: "Any") -> None:
        vars(owner)["port " + self.name] = servant


def members(structdef: "Any") -> "List[simple_property]":
    """The members that a struct's class declares, in order."""
    return [member for member in vars(structdef).values() if isinstance(member, simple_property)]


def struct_to_any(value: "Any") -> "Any":
    """A CF::Properties of all members except optional ones without a value."""
    fields = []
    for member in members(type(value)):
        held = member.get(value)
        if held is not None or not member.optional:
            fields.append(CF.DataType(member.id_, member.to_any(held)))
    return CORBA.Any(CF._tc_Properties, fields)


def struct_from_any(structdef: "Any", data: "Any") -> "Any":
    """A new instance.  Refused if a member is missing or wrong; unknown members are ignored."""
    if not data.typecode().equivalent(CF._tc_Properties):
        raise Refused("a struct (CF::Properties) is expected")
    given: Dict[str, Any] = {item.id: item.value for item in data.value()}
    value = structdef()
    for member in members(structdef):
        if member.id_ not in given:
            if not member.optional:
                raise Refused(f"its member {member.id_} is missing")
            continue
        try:
            member.set(value, member.from_any(given[member.id_]))
        except Refused as refusal:
            raise Refused(f"{member.id_}: {refusal}") from None
    return value


def same(one: "Any", other: "Any") -> bool:
    """Whether two values of a property are equal; structs are compared by their members."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(same(*pair) for pair in zip(one, other))
    declared = members(type(one))
    if declared and type(one) is type(other):
        return all(same(member.get(one), member.get(other)) for member in declared)
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one) and math.isnan(other):
        return True
    return bool(one == other)
