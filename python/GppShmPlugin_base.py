"""What GppShmPlugin.prf.xml and GppShmPlugin.scd.xml declare, as a class to derive the device from.

tests/redhawk/test_descriptors.py compares them.  A number without a value in the PRF starts as
0, a text as "", so that every property can be sent at any time.
"""

from gppshm.redhawk.corba import CF__POA
from gppshm.redhawk.runtime.device import Device
from gppshm.redhawk.runtime.ports import MessagePort, PropertyEventPort
from gppshm.redhawk.runtime.properties import (
    simple_property,
    struct_property,
    structseq_property,
    usesport,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, List, Optional, Tuple

    from gppshm.redhawk.runtime.log4j import Loggers

_UNSET = {
    "boolean": False,
    "double": 0.0,
    "long": 0,
    "longlong": 0,
    "string": "",
    "ulong": 0,
    "ulonglong": 0,
}


class _member(simple_property):
    """A struct's member; its id is the group of the struct's ID, and its name."""

    def __init__(self, type_: str, value: "Any" = None, units: "Optional[str]" = None) -> None:
        super().__init__("", type_, defvalue=_UNSET[type_] if value is None else value, units=units)

    def __set_name__(self, owner: "Any", name: str) -> None:
        self.id_ = "::".join([*owner.ID.split("::")[:2], name])
        self.name = name


class _Struct:
    """Base of the structs' classes, with the methods that REDHAWK's have; members are attributes."""

    ID = ""

    @classmethod
    def declared(cls) -> "List[Tuple[str, Any]]":
        return [(name, member) for name, member in vars(cls).items() if isinstance(member, simple_property)]

    def __init__(self, **values: "Any") -> None:
        """All members; those without a value have their default."""
        for name, member in self.declared():
            member.set(self, values.pop(name, member.defvalue))
        if values:
            raise TypeError(f"{self.ID} has no member {min(values)}")

    def __str__(self) -> str:
        return str(dict(self.getMembers()))

    @classmethod
    def getId(cls) -> str:
        return cls.ID

    @classmethod
    def isStruct(cls) -> bool:
        return True

    def getMembers(self) -> "List[Tuple[str, Any]]":
        return [(name, getattr(self, name)) for name, _ in self.declared()]


class GppShmPlugin_base(CF__POA.Device, Device):  # type: ignore[misc]
    """The device's ports and properties; it does nothing by itself."""

    def __init__(
        self,
        identifier: str,
        label: str,
        profile: str,
        loggers: "Loggers",
        read_config: "Callable[[str], str]",
    ) -> None:
        Device.__init__(self, identifier, label, profile, loggers, read_config)
        self.port_propEvent = PropertyEventPort(loggers.child("ports", "propEvent"), identifier, label)
        self.port_MessageEvent_out = MessagePort(loggers.child("ports", "MessageEvent_out"))

    # Ports

    port_propEvent = usesport(
        name="propEvent",
        repid="IDL:omg.org/CosEventChannelAdmin/EventChannel:1.0",
        type_="responses",
        description="Changes of the properties of kind event.",
    )
    port_MessageEvent_out = usesport(
        name="MessageEvent_out",
        repid="IDL:ExtendedEvent/MessageEvent:1.0",
        type_="responses",
        description="The messages shm::heap_removed and shm::threshold_crossed.",
    )

    # Properties

    device_kind = simple_property(
        id_="DCE:cdc5ee18-7ceb-4ae6-bf4c-31f983179b4d",
        name="device_kind",
        type_="string",
        defvalue="SHM",
        mode="readonly",
        action="eq",
        kinds=("property", "allocation"),
    )
    device_model = simple_property(
        id_="DCE:0f99b2e4-9903-4631-9846-ff349d18ecfb",
        name="device_model",
        type_="string",
        defvalue="GppShmPlugin",
        mode="readonly",
        action="eq",
        kinds=("property", "allocation"),
    )
    shm_capacity = simple_property(
        id_="shm::capacity",
        name="shm_capacity",
        type_="longlong",
        defvalue=0,
        units="MB",
        mode="readonly",
        action="external",
        kinds=("property", "event", "allocation"),
    )
    shm_host_name = simple_property(
        id_="shm::host_name",
        name="shm_host_name",
        type_="string",
        defvalue="",
        mode="readonly",
        action="external",
        kinds=("property", "event", "allocation"),
    )

    class Overview(_Struct):
        ID = "shm::overview"
        summary = _member("string")
        heap_count = _member("ulong")
        alive = _member("ulong")
        orphaned = _member("ulong")
        orphaned_attached = _member("ulong")
        unknown = _member("ulong")
        unreadable = _member("ulong")
        total_mb = _member("double", units="MB")
        free_mb = _member("double", units="MB")
        heaps_mb = _member("double", units="MB")
        orphaned_mb = _member("double", units="MB")
        held_mb = _member("double", units="MB")
        other_mb = _member("double", units="MB")
        reserved_mb = _member("double", units="MB")
        capacity_mb = _member("double", units="MB")
        age = _member("double", units="s")

    shm_overview = struct_property(
        id_="shm::overview",
        name="shm_overview",
        structdef=Overview,
        mode="readonly",
        configurationkind=("property",),
    )

    class Usage(_Struct):
        ID = "shm::usage"
        path = _member("string")
        total = _member("ulonglong", units="B")
        free = _member("ulonglong", units="B")
        used = _member("ulonglong", units="B")
        heaps = _member("ulonglong", units="B")
        other = _member("ulonglong", units="B")
        held = _member("ulonglong", units="B")
        reserved = _member("ulonglong", units="B")
        free_percent = _member("double", units="%")
        limit = _member("string")
        inodes = _member("ulonglong")
        free_inodes = _member("ulonglong")
        given_back = _member("ulonglong", units="B")
        given_back_later = _member("ulonglong", units="B")
        in_use = _member("ulonglong", units="B")
        age = _member("double", units="s")

    shm_usage = struct_property(
        id_="shm::usage",
        name="shm_usage",
        structdef=Usage,
        mode="readonly",
        configurationkind=("property", "configure", "event"),
    )

    class Heap(_Struct):
        ID = "shm::heaps::heap"
        name = _member("string")
        creator = _member("long")
        state = _member("string")
        reason = _member("string")
        file_size = _member("ulonglong", units="B")
        heap_size = _member("ulonglong", units="B")
        used = _member("ulonglong", units="B")
        superblocks = _member("ulong")
        refcount = _member("long")
        attached = _member("ulong")
        user = _member("string")
        group = _member("string")
        mode = _member("string")
        command = _member("string")
        component = _member("string")
        application = _member("string")
        age = _member("double", units="s")

    shm_heaps = structseq_property(
        id_="shm::heaps",
        name="shm_heaps",
        structdef=Heap,
        defvalue=[],
        mode="readonly",
        configurationkind=("property",),
    )

    class Cleanup(_Struct):
        ID = "shm::cleanup"
        enabled = _member("boolean", True)
        scope = _member("string", "host")
        rescan = _member("double", 30.0, units="s")
        fifos = _member("boolean", False)
        dry_run = _member("boolean", False)
        reclaim = _member("boolean", True)

    shm_cleanup = struct_property(
        id_="shm::cleanup",
        name="shm_cleanup",
        structdef=Cleanup,
        mode="readwrite",
        configurationkind=("property",),
    )

    class CleanupStatus(_Struct):
        ID = "shm::cleanup_status"
        removed = _member("ulonglong")
        bytes = _member("ulonglong", units="B")
        removed_by_others = _member("ulonglong")
        bytes_by_others = _member("ulonglong", units="B")
        fifos = _member("ulonglong")
        failures = _member("ulonglong")
        watched = _member("ulonglong")
        last_heap = _member("string")
        last_creator = _member("long")
        last_command = _member("string")
        last_reason = _member("string")
        last_time = _member("double", units="s")
        last_time_iso = _member("string")
        last_latency_ms = _member("double", units="ms")

    shm_cleanup_status = struct_property(
        id_="shm::cleanup_status",
        name="shm_cleanup_status",
        structdef=CleanupStatus,
        mode="readonly",
        configurationkind=("property",),
    )

    class Removal(_Struct):
        ID = "shm::recent::removal"
        name = _member("string")
        creator = _member("long")
        command = _member("string")
        component = _member("string")
        application = _member("string")
        user = _member("string")
        bytes = _member("ulonglong", units="B")
        reason = _member("string")
        evidence = _member("string")
        trigger = _member("string")
        attached = _member("ulong")
        held_by = _member("string")
        given_back = _member("ulonglong", units="B")
        given_back_later = _member("ulonglong", units="B")
        in_use = _member("ulonglong", units="B")
        left = _member("ulonglong", units="B")
        not_given_back = _member("string")
        time = _member("double", units="s")
        time_iso = _member("string")
        latency_ms = _member("double", units="ms")

    shm_recent = structseq_property(
        id_="shm::recent",
        name="shm_recent",
        structdef=Removal,
        defvalue=[],
        mode="readonly",
        configurationkind=("property",),
    )

    class Threshold(_Struct):
        ID = "shm::threshold"
        free = _member("string", "10 MB")
        headroom = _member("string", "5%")

    shm_threshold = struct_property(
        id_="shm::threshold",
        name="shm_threshold",
        structdef=Threshold,
        mode="readwrite",
        configurationkind=("property",),
    )

    # Messages

    class HeapRemoved(_Struct):
        ID = "shm::heap_removed"
        host_name = _member("string")
        name = _member("string")
        creator = _member("long")
        command = _member("string")
        component = _member("string")
        application = _member("string")
        user = _member("string")
        bytes = _member("ulonglong", units="B")
        reason = _member("string")
        evidence = _member("string")
        trigger = _member("string")
        attached = _member("ulong")
        held_by = _member("string")
        given_back = _member("ulonglong", units="B")
        given_back_later = _member("ulonglong", units="B")
        in_use = _member("ulonglong", units="B")
        left = _member("ulonglong", units="B")
        not_given_back = _member("string")
        time = _member("double", units="s")
        time_iso = _member("string")
        latency_ms = _member("double", units="ms")

    shm_heap_removed = struct_property(
        id_="shm::heap_removed",
        name="shm_heap_removed",
        structdef=HeapRemoved,
        mode="readwrite",
        configurationkind=("message",),
    )

    class ThresholdCrossed(_Struct):
        ID = "shm::threshold_crossed"
        host_name = _member("string")
        low = _member("boolean")
        free = _member("ulonglong", units="B")
        total = _member("ulonglong", units="B")
        threshold = _member("string")
        reason = _member("string")
        time = _member("double", units="s")
        time_iso = _member("string")

    shm_threshold_crossed = struct_property(
        id_="shm::threshold_crossed",
        name="shm_threshold_crossed",
        structdef=ThresholdCrossed,
        mode="readwrite",
        configurationkind=("message",),
    )
