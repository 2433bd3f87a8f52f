"""Checks values before they are set: one sentence for each property or member that is wrong.

The runtime sets properties one by one and stops at the first fault of each.  Here all are checked first.
"""

from gppshm import watch
from gppshm.redhawk import thresholds
from gppshm.redhawk.corba import CF, CORBA
from gppshm.redhawk.text import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Sequence, Tuple

ADDED = {"shm::cleanup": ("shm::cleanup::reclaim", True)}
"""By struct: a boolean that earlier versions did not have; who sets the struct without it gets this."""

LEAST_RESCAN, MOST_RESCAN = 0.1, 3600.0


def refusals(
    wanted: "Sequence[Any]", declared: "Dict[str, Any]", starting: bool = False
) -> "List[Tuple[Any, str]]":
    """Those of the CF::DataTypes `wanted` that may not be set, and why.

    declared  the properties by id
    starting  these are start values, which readonly properties may have, too
    """
    found = []
    for item in wanted:
        why = list(_faults(item, declared.get(item.id), starting))
        if why:
            found.append((item, "; ".join(why)))
    return found


def completed(wanted: "Sequence[Any]") -> "List[Any]":
    """The same, with members that older clients leave out; ossie accepts structs only as a whole."""
    found = []
    for item in wanted:
        id_, default = ADDED.get(item.id, ("", False))
        if id_ and item.value.typecode().equivalent(CF._tc_Properties):
            members = list(item.value.value())
            if id_ not in [member.id for member in members]:
                members.append(CF.DataType(id_, CORBA.Any(CORBA.TC_boolean, default)))
                item = CF.DataType(item.id, CORBA.Any(CF._tc_Properties, members))
        found.append(item)
    return found


def sentence(refused: "Sequence[Tuple[Any, str]]") -> str:
    return plain("; ".join(why for _, why in refused))


def _faults(item: "Any", declared: "Any", starting: bool) -> "List[str]":
    name = plain(item.id, 80)
    if declared is None:
        return [f"{name}: there is no such property"]
    if "message" in declared.kinds:
        return [f"{name}: it is a message, and no property that can be set"]
    if declared.mode == "readonly" and not starting:
        return [f"{name}: it is readonly"]
    if hasattr(declared, "structdef"):
        return _faults_of_members(item, declared.structdef)
    return _faults_of_value(item.id, declared.type_, item.value)


def _faults_of_members(item: "Any", structdef: "Any") -> "List[str]":
    if not item.value.typecode().equivalent(CF._tc_Properties):
        return [f"{item.id}: a struct (CF::Properties) is expected"]
    types = {member.id_: member.type_ for _, member in structdef.declared()}
    given = {member.id: member.value for member in item.value.value()}
    found = [f"{plain(id_, 80)}: {item.id} has no such member" for id_ in given if id_ not in types]
    for id_, type_ in types.items():
        if id_ in given:
            found += _faults_of_value(id_, type_, given[id_])
        elif ADDED.get(item.id, ("",))[0] != id_:
            found.append(f"{id_}: it is missing, and a struct is set as a whole")
    return found


def _faults_of_value(id_: str, type_: str, value: "Any") -> "List[str]":
    held = value.value()
    try:
        if held is None:
            raise ValueError("it has no value")
        read = _as(type_, held)
        if id_ in _CHECKS:
            _CHECKS[id_](read)
    except ValueError as error:
        return [f"{id_}: {plain(error)}"]
    return []


def _as(type_: str, held: "Any") -> "Any":
    """The value that a client sent for this type, converted; ValueError with a sentence if impossible."""
    try:
        if isinstance(held, (bool, int, float, str)):
            return _READERS[type_](held)
    except (KeyError, OverflowError, ValueError):
        pass
    raise ValueError(f"a {type_} is expected, not {plain(repr(held), 60)}")


_SWITCH = {"true": True, "1": True, "false": False, "0": False}
_READERS: "Dict[str, Callable[[Any], Any]]" = {
    "boolean": lambda held: _SWITCH[str(held).strip().lower()],
    "double": float,
    "string": str,
}


def _check_scope(value: str) -> None:
    if value not in watch.SCOPES:
        raise ValueError(f"{plain(repr(value), 60)} is neither {' nor '.join(watch.SCOPES)}")


def _check_rescan(value: float) -> None:
    if not LEAST_RESCAN <= value <= MOST_RESCAN:
        raise ValueError(f"{value:g} s is not between {LEAST_RESCAN:g} and {MOST_RESCAN:g} s")


def _check_threshold(value: str) -> None:
    try:
        thresholds.parse(value)
    except ValueError as error:
        raise ValueError(f"{plain(repr(value), 60)}: {error}") from None


_CHECKS: "Dict[str, Callable[[Any], None]]" = {
    "shm::cleanup::scope": _check_scope,
    "shm::cleanup::rescan": _check_rescan,
    "shm::threshold::free": _check_threshold,
    "shm::threshold::headroom": _check_threshold,
}
