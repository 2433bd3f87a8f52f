"""What an allocation asks for, and why it is refused."""

from gppshm import capacity
from gppshm.redhawk.corba import CF, CORBA
from gppshm.redhawk.text import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Sequence, Tuple

CAPACITY = "shm::capacity"
HOST_NAME = "shm::host_name"

_INTEGERS = (
    CORBA.tk_octet,
    CORBA.tk_short,
    CORBA.tk_ushort,
    CORBA.tk_long,
    CORBA.tk_ulong,
    CORBA.tk_longlong,
    CORBA.tk_ulonglong,
)


class Request:
    """The content of one allocation.

    megabytes  0 if it names no capacity
    host       whether it names this host
    elsewhere  whether it names another host
    """

    __slots__ = ("elsewhere", "host", "megabytes")

    def __init__(self) -> None:
        self.megabytes = 0
        self.host = self.elsewhere = False

    @property
    def terms(self) -> "Tuple[int, bool]":
        return self.megabytes, self.host


def parse(capacities: "Sequence[Any]", host: str) -> Request:
    """The request of an allocation on the host of this name.  Raises InvalidCapacity with the reason."""
    request = Request()
    seen = set()
    for item in capacities:
        kind = item.value.typecode().kind()
        why = ""
        if item.id in seen:
            why = "it is requested twice"
        elif item.id == CAPACITY:
            if kind not in _INTEGERS:
                why = "a whole number of MB (longlong) is expected"
            elif item.value.value() <= 0:
                why = f"{item.value.value()} MB cannot be allocated: at least 1 MB can"
            else:
                request.megabytes = int(item.value.value())
        elif item.id == HOST_NAME:
            if kind != CORBA.tk_string:
                why = "a string is expected"
            elif not item.value.value():
                why = f"the name of a host is expected: this one is {plain(host)}"
            else:
                request.host = item.value.value().lower() == host.lower()
                request.elsewhere = not request.host
        else:
            why = f"only {CAPACITY} and {HOST_NAME} can be allocated here"
        if why:
            raise CF.Device.InvalidCapacity(f"{plain(item.id, 80)}: {why}", [item])
        seen.add(item.id)
    if not seen:
        raise CF.Device.InvalidCapacity(f"nothing was requested: {CAPACITY} can be allocated here", [])
    return request


def available(room: capacity.Room, host: str) -> str:
    """How much can be allocated, and what limits it, in words."""
    words = f"{room.available // capacity.MB} MB can be allocated on {host} (limit: {plain(room.limit, 200)}"
    if room.others:
        words += f"; other devices of this host have granted {room.others // capacity.MB} MB"
    return words + ")"
