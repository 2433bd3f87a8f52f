"""The differences between REDHAWK 2.x and 3.0, as measured on 2.3.2 and 3.0.1."""

from gppshm.redhawk.corba import CF, CORBA, StandardEvent, of_redhawk_2
from gppshm.redhawk.runtime.properties import NULL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CHUNK = 65536


def of_domain(domain: "Any") -> str:
    """REDHAWK's version from its DomainManager, such as 2.3.2; "" if there is none.

    CORBA.SystemException if it cannot be asked.
    """
    if domain is None:
        return ""
    try:
        (item,) = domain.query([CF.DataType("REDHAWK_VERSION", NULL)])
        return str(item.value.value() or "")
    except (CF.UnknownProperties, ValueError):
        return ""


def is_2(version: str) -> bool:
    """Whether the version is 2.x or older."""
    return version.partition(".")[0] in ("1", "2")


def state_change(version: str, device: str, category: str, old: "Any", new: "Any") -> "Any":
    """The event that a device's state (`category`) has changed.

    2.x numbers the states differently; its Python listeners fail on unknown numbers.
    """
    types = of_redhawk_2() if is_2(version) else StandardEvent
    states = [getattr(types, state._n) for state in (old, new)]
    event = types.StateChangeEventType(device, device, getattr(types, category + "_STATE_EVENT"), *states)
    return CORBA.Any(types._tc_StateChangeEventType, event)


def content(version: str, files: "Any", path: str, most: int) -> bytes:
    """The first `most` bytes of a file in a CF::FileSystem; its sizes are shorter on the wire in 2.x."""
    types = of_redhawk_2() if is_2(version) else CF
    file = files.open(path, True)._unchecked_narrow(types.File)
    try:
        found = b""
        while len(found) < most:
            more = file.read(min(CHUNK, most - len(found)))
            if not more:
                break
            found += bytes(more)
        return found
    finally:
        file.close()
