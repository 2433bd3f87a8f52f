"""Every host of a REDHAWK domain, as reported by its GppShmPlugin devices.

The naming service has a DomainManager under `<domain>/<domain>` (REDHAWK 2.3 and 3.0).  It knows its
DeviceManagers, and they know their devices.  Each manager and each device is queried in a thread of its own,
because any may hang.  Those that do not answer in time are reported as such and delay nothing.  Nothing is
changed anywhere.
"""

import functools
import math
import os
import socket
import threading
import time

from gppshm.redhawk.corba import CF, CORBA, CosNaming, is_refused, named, omniORB
from gppshm.redhawk.runtime import versions
from gppshm.redhawk.text import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

PROFILE = "GppShmPlugin.spd.xml"
FIGURES = (
    "shm::host_name",
    "shm::usage",
    "shm::capacity",
    "shm::cleanup",
    "shm::cleanup_status",
    "shm::heaps",
)
RECENT = "shm::recent"
SHARE = 0.8
"""Part of the time limit for one call; the rest is for reporting that it took too long."""
FEW = 0.3
"""Part of the time limit for the managers; then the naming service is asked instead."""


class Failure(Exception):
    """Nothing can be shown: what is wrong, and what to do."""


class Host:
    """The answer of one device; sizes in bytes.

    name      of the host; "" if it did not answer
    device, node  their labels
    error     why there is no answer; else ""
    usage     path, total, free, used, heaps, other, held, reserved, free_percent, inodes, free_inodes
    capacity  MB that can be allocated
    age       seconds since the oldest of these values was measured; None if the device does not report it
    cleanup, status  shm::cleanup and shm::cleanup_status (docs/device.md), by the last parts of the ids
    heaps, recent    lists of the same kind, from shm::heaps and shm::recent
    """

    def __init__(self, node: str, device: str, error: str = "") -> None:
        self.node, self.device, self.error = node, device, error
        self.name = ""
        self.usage: Dict[str, Any] = {}
        self.capacity = 0
        self.age: Optional[float] = None
        self.cleanup: Dict[str, Any] = {}
        self.status: Dict[str, Any] = {}
        self.heaps: List[Dict[str, Any]] = []
        self.recent: List[Dict[str, Any]] = []

    @property
    def orphans(self) -> "List[Dict[str, Any]]":
        return [heap for heap in self.heaps if self.is_orphan(heap)]

    @property
    def orphaned_size(self) -> int:
        return sum([heap["file_size"] for heap in self.orphans])

    @staticmethod
    def is_orphan(heap: "Dict[str, Any]") -> bool:
        """Whether one of `heaps` is an orphan."""
        return bool(heap["state"].startswith("orphaned"))

    def take(self, values: "Dict[str, Any]") -> None:
        """Store the device's answer.  Raises one of MISTAKES if it is malformed."""
        usage: Dict[str, Any] = {name: int(values["shm::usage"][name]) for name in SIZES}
        if min(usage.values()) < 0 or max(usage["free"], usage["used"]) > usage["total"]:
            raise ValueError("sizes that cannot be")
        usage.update(path=str(values["shm::usage"]["path"]), free_percent=0.0)
        for name in INODES:
            usage[name] = max(0, int(values["shm::usage"].get(name) or 0))
        if usage["total"]:
            usage["free_percent"] = 100.0 * usage["free"] / usage["total"]
        capacity, name = int(values["shm::capacity"]), str(values["shm::host_name"])
        heaps = [_typed(heap, HEAP) for heap in values["shm::heaps"]]
        recent = [_typed(removal, REMOVAL) for removal in values.get(RECENT, ())]
        ages = [item["age"] for item in (values["shm::usage"], *values["shm::heaps"]) if "age" in item]
        age = max([_seconds(age) for age in ages]) if ages else None
        cleanup = _typed(values["shm::cleanup"], {"enabled": bool})
        status = _typed(values["shm::cleanup_status"], {"removed": int})
        # All of it, or nothing.
        self.usage, self.capacity, self.name, self.age = usage, capacity, name, age
        self.heaps, self.recent, self.cleanup, self.status = heaps, recent, cleanup, status


INODES = ("inodes", "free_inodes")
SIZES = ("total", "free", "used", "heaps", "other", "held", "reserved")
MISTAKES = (ArithmeticError, AttributeError, KeyError, OSError, TypeError, ValueError)


def _moment(seconds: "Any") -> float:
    """Seconds since 1970, if they are a valid date; else raises one of MISTAKES."""
    time.localtime(seconds)
    return float(seconds)


def _seconds(age: "Any") -> float:
    """A duration; raises one of MISTAKES if it is none."""
    if not 0.0 <= float(age) < math.inf:
        raise ValueError("an age that cannot be")
    return float(age)


HEAP = {
    **dict.fromkeys(("name", "state", "reason", "command", "component", "application", "user"), str),
    **dict.fromkeys(("creator", "used", "heap_size", "file_size", "attached"), int),
}
REMOVAL: "Dict[str, Any]" = {
    **dict.fromkeys(("name", "reason", "component"), str),
    "bytes": int,
    "time": _moment,
}


def _typed(values: "Dict[str, Any]", types: "Dict[str, Any]") -> "Dict[str, Any]":
    """What is needed as these types, and of all else what can be printed, and be written as JSON."""
    kept = {
        name: held
        for name, held in values.items()
        if isinstance(held, (str, int)) or (isinstance(held, float) and math.isfinite(held))
    }
    kept.update({name: make(values[name]) for name, make in types.items()})
    return kept


class Domain:
    """A domain that can be queried repeatedly.  Failure if omniORB's configuration, or `nameservice`, is bad.

    nameservice  HOST, HOST:PORT or a CORBA URL; "" for the one in omniORB's configuration
    timeout      seconds for one whole query
    """

    def __init__(self, name: str, nameservice: str = "", timeout: float = 2.0) -> None:
        self.name, self.timeout = name, timeout
        self._is_2 = False
        arguments = ["gppshm"]
        # A connection to a host that hangs stays busy; the next call needs another one.
        for option, value in (("maxGIOPConnectionPerServer", "1000"), ("traceLevel", "0")):
            arguments += ["-ORB" + option, value]
        if nameservice:
            arguments += ["-ORBInitRef", "NameService=" + _url(nameservice)]
        self._where = nameservice or "of omniORB's configuration"
        try:
            self._orb = CORBA.ORB_init(arguments, CORBA.ORB_ID)
        except CORBA.SystemException as error:
            raise Failure(
                f"omniORB does not start with the naming service {self._where}: {named(error)};"
                " see --nameservice, and omniORB's configuration"
            ) from None
        omniORB.setClientConnectTimeout(int(1000 * timeout * SHARE))

    def query(self, detailed: bool = False) -> "List[Host]":
        """Query all devices; worst first.  Failure if the domain cannot be reached.

        detailed  also `recent`
        A device that does not answer cannot be identified, so it is listed whatever it is.
        """
        began = time.monotonic()
        omniORB.setClientCallTimeout(int(1000 * self.timeout * SHARE))
        managers = self._in_time(self._managers, began + self.timeout)
        asked = _Questions()
        bound: Optional[int] = None
        nodes = [asked.ask(functools.partial(_devices_of, manager)) for manager in managers]
        if self._is_2:
            # Its DeviceManagers do not know devices that are registered beside a GPP.
            bound = asked.ask(self._bound_devices)
        asked.wait(nodes + ([] if bound is None else [bound]), time.monotonic() + FEW * self.timeout)
        answers = [asked.answer(node) for node in nodes]
        devices = [(node, "", ref) for answer in answers if not _is_bad(answer) for node, ref in answer]
        hosts: List[Host] = []
        silent = [answer for answer in answers if _is_bad(answer)]
        if silent and bound is None:
            # Their devices may still answer.
            bound = asked.ask(self._bound_devices)
            asked.wait([bound], time.monotonic() + FEW * self.timeout)
        hosts += [Host("?", "", f"a DeviceManager {answer}") for answer in silent]
        devices += self._missing(asked, bound, devices)
        questions = [asked.ask(functools.partial(_answer_of, ref, detailed)) for _, _, ref in devices]
        asked.wait(questions, began + 0.5 * self.timeout)
        if bound is None and any(_is_bad(asked.answer(key)) for key in questions):
            # Devices that do not answer have names there.
            bound = asked.ask(self._bound_devices)
            asked.wait([bound], began + 0.95 * self.timeout)
        asked.wait(questions, began + 0.95 * self.timeout)
        names = self._names_of(asked, bound)
        for (node, label, reference), key in zip(devices, questions):
            answer = asked.answer(key)
            if answer is None:
                continue  # another kind of device
            if _is_bad(answer):
                if label and answer == GONE:
                    continue  # a stale name
                label = label or next((name for _, name, ref in names if ref._is_equivalent(reference)), "?")
                hosts.append(Host(node, label, str(answer)))
                continue
            host = Host(node, answer[0])
            try:
                host.take(answer[1])
            except MISTAKES as error:
                host.error = (
                    f"gives an answer that cannot be understood: {type(error).__name__}: {plain(error)}"
                )
            hosts.append(host)
        return worst_first(hosts)

    @staticmethod
    def _names_of(asked: "_Questions", bound: "Optional[int]") -> "List[Tuple[str, str, Any]]":
        """(node, label, reference) from the naming service; empty if it was not asked or did not answer."""
        answer: Any = LATE if bound is None else asked.answer(bound)
        return [] if _is_bad(answer) else list(answer)

    def _in_time(self, act: "Callable[[], Any]", deadline: float) -> "Any":
        """The result of `act`; Failure if it takes too long."""
        asked = _Questions()
        key = asked.ask(act)
        asked.wait([key], deadline)
        answer = asked.answer(key)
        if _is_bad(answer):
            raise Failure(
                f"the naming service {self._where}, or the DomainManager of {plain(self.name)}, {answer};"
                " see --nameservice and --timeout"
            )
        if isinstance(answer, Failure):
            raise answer
        return answer

    def _missing(self, asked: "_Questions", bound: "Optional[int]", devices: "List[Any]") -> "List[Any]":
        """Devices bound in the naming service that no DeviceManager lists."""
        names = self._names_of(asked, bound)
        return [item for item in names if not any(ref._is_equivalent(item[2]) for _, _, ref in devices)]

    def _managers(self) -> "Any":
        try:
            root = self._orb.resolve_initial_references("NameService")
            self._names = root._narrow(CosNaming.NamingContext)
        except CORBA.Exception as error:
            return Failure(
                f"no naming service {self._where} answers: {named(error)}; is it running? See --nameservice"
            )
        if self._names is None:
            return Failure(f"{self._where} is no naming service; see --nameservice")
        try:
            domain = self._names.resolve(_path(self.name, self.name))._narrow(CF.DomainManager)
        except (CosNaming.NamingContext.NotFound, CosNaming.NamingContext.InvalidName):
            return Failure(f"there is no domain {plain(self.name)} in the naming service{self._others()}")
        except (CORBA.Exception, UnicodeError) as error:
            return self._silent(error)
        if domain is None:
            return Failure(f"{plain(self.name)} is no DomainManager")
        try:
            managers = domain._get_deviceManagers()
        except CORBA.Exception as error:
            return self._silent(error)
        try:
            self._is_2 = versions.is_2(versions.of_domain(domain))
        except CORBA.SystemException:
            pass  # as before, or 3.0
        return managers

    def _silent(self, error: "Any") -> Failure:
        return Failure(
            f"the DomainManager of {plain(self.name)} does not answer: {named(error)};"
            " is it running? See --timeout"
        )

    def _others(self) -> str:
        """The domains that exist instead, as text."""
        try:
            names = sorted(name for name, context in _bindings(self._names) if context)
        except CORBA.Exception:
            return ""
        return ": there are " + ", ".join(map(plain, names)) if names else ": it is empty"

    def _bound_devices(self) -> "List[Tuple[str, str, Any]]":
        """(node, label, reference) of all devices bound for the nodes of the domain."""
        found = []
        domain = self._names.resolve(_path(self.name))._narrow(CosNaming.NamingContext)
        for node, is_context in _bindings(domain):
            if not is_context:
                continue
            try:
                context = domain.resolve(_path(node))._narrow(CosNaming.NamingContext)
                for label, is_node in _bindings(context):
                    if not is_node:
                        reference = context.resolve(_path(label))
                        found.append((plain(node), plain(label), reference))
            except (CORBA.Exception, AttributeError):
                continue
        return found


class _Bad(str):
    """Why there is no answer; text to follow the name of the object that was queried."""


LATE = _Bad("does not answer")
GONE = _Bad("is not there any more")


def _is_bad(answer: "Any") -> bool:
    return isinstance(answer, _Bad)


class _Questions:
    """Calls, each in a thread of its own."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._answers: List[Any] = []

    def ask(self, act: "Callable[[], Any]") -> int:
        """Start a call; returns the key of its answer."""
        with self._changed:
            key = len(self._answers)
            self._answers.append(LATE)
        threading.Thread(target=self._run, args=(key, act), daemon=True).start()
        return key

    def _run(self, key: int, act: "Callable[[], Any]") -> None:
        try:
            answer = act()
        except CORBA.OBJECT_NOT_EXIST:
            answer = GONE
        except CORBA.Exception as error:
            if isinstance(error, CORBA.TIMEOUT):
                answer = _Bad(LATE)
            else:
                answer = GONE if is_refused(error) else _Bad(f"cannot be asked: {named(error)}")
        except Exception as error:
            answer = _Bad(f"cannot be asked: {type(error).__name__}: {plain(error)}")
        with self._changed:
            self._answers[key] = answer
            self._changed.notify_all()

    def wait(self, keys: "Sequence[int]", deadline: float) -> None:
        """Wait until all of these are answered, or the time is up."""
        with self._changed:
            while any(self._answers[key] is LATE for key in keys):
                left = deadline - time.monotonic()
                if left <= 0:
                    return
                self._changed.wait(left)

    def answer(self, key: int) -> "Any":
        """The answer, or a _Bad."""
        with self._changed:
            return self._answers[key]


def _devices_of(manager: "Any") -> "List[Tuple[str, Any]]":
    """(the node's label, device)"""
    label = plain(manager._get_label())
    return [(label, device) for device in manager._get_registeredDevices()]


def _answer_of(device: "Any", detailed: bool) -> "Optional[Tuple[str, Dict[str, Any]]]":
    """(label, value by id) of a GppShmPlugin; None for another kind of device."""
    # The name may refer to an object of any type.
    device = device._narrow(CF.Device)
    if device is None or os.path.basename(device._get_softwareProfile()) != PROFILE:
        return None
    ids = FIGURES + ((RECENT,) if detailed else ())
    empty = CORBA.Any(CORBA.TC_null, None)
    answer = device.query([CF.DataType(id_, empty) for id_ in ids])
    return plain(device._get_label()), {item.id: value(item.value) for item in answer}


def value(held: "Any") -> "Any":
    """The value of an any; a struct as a dict by the last parts of its ids."""
    if isinstance(held, CORBA.Any):
        return value(held.value())
    if isinstance(held, (list, tuple)):
        if held and all(isinstance(item, CF.DataType) for item in held):
            return {item.id.rpartition("::")[2]: value(item.value) for item in held}
        return [value(item) for item in held]
    return held


def worst_first(hosts: "List[Host]") -> "List[Host]":
    """Those without an answer, then by the share of free memory."""
    return sorted(
        hosts,
        key=lambda host: (
            not host.error,
            host.usage.get("free_percent", 0.0),
            host.name,
            host.node,
            host.device,
        ),
    )


def _path(*words: str) -> "List[Any]":
    return [CosNaming.NameComponent(word, "") for word in words]


def _bindings(context: "Any") -> "List[Tuple[str, bool]]":
    """(name, whether it is a context) of what is bound in it."""
    bindings, more = context.list(1000)
    if more is not None:
        while True:
            again, rest = more.next_n(1000)
            bindings += rest
            if not again:
                break
        more.destroy()
    return [(each.binding_name[-1].id, each.binding_type == CosNaming.ncontext) for each in bindings]


def _url(nameservice: str) -> str:
    if nameservice.lower().startswith(("corbaloc:", "corbaname:", "ior:")):
        return nameservice
    try:
        # As people write an IPv6 address; with a port it has to be in brackets.
        socket.inet_pton(socket.AF_INET6, nameservice.partition("%")[0])
        nameservice = f"[{nameservice}]"
    except (OSError, ValueError):
        pass
    return f"corbaloc::{nameservice}/NameService"
