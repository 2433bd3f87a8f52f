"""What GppShmPlugin.prf.xml and GppShmPlugin.scd.xml declare, as a class to derive the device from.

Keep them in step (tests/redhawk/test_descriptors.py tells).  A number or text without a value in the PRF is
0 or empty: so that whatever nobody has set yet can be sent.
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


def _member(id_: str, type_: str, value: "Any" = None, units: "Optional[str]" = None) -> "Any":
    """A struct's member, named as its id ends."""
    return simple_property(
        id_=id_,
        name=id_.rpartition("::")[2],
        type_=type_,
        defvalue=_UNSET[type_] if value is None else value,
        units=units,
    )


class _Struct:
    """A struct's class, as REDHAWK has them; its members are attributes.

    ID  the struct's
    """

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
        summary = _member("shm::overview::summary", "string")
        heap_count = _member("shm::overview::heap_count", "ulong")
        alive = _member("shm::overview::alive", "ulong")
        orphaned = _member("shm::overview::orphaned", "ulong")
        orphaned_attached = _member("shm::overview::orphaned_attached", "ulong")
        unknown = _member("shm::overview::unknown", "ulong")
        unreadable = _member("shm::overview::unreadable", "ulong")
        total_mb = _member("shm::overview::total_mb", "double", units="MB")
        free_mb = _member("shm::overview::free_mb", "double", units="MB")
        heaps_mb = _member("shm::overview::heaps_mb", "double", units="MB")
        orphaned_mb = _member("shm::overview::orphaned_mb", "double", units="MB")
        held_mb = _member("shm::overview::held_mb", "double", units="MB")
        other_mb = _member("shm::overview::other_mb", "double", units="MB")
        reserved_mb = _member("shm::overview::reserved_mb", "double", units="MB")
        capacity_mb = _member("shm::overview::capacity_mb", "double", units="MB")
        age = _member("shm::overview::age", "double", units="s")

    shm_overview = struct_property(
        id_="shm::overview",
        name="shm_overview",
        structdef=Overview,
        mode="readonly",
        configurationkind=("property",),
    )

    class Usage(_Struct):
        ID = "shm::usage"
        path = _member("shm::usage::path", "string")
        total = _member("shm::usage::total", "ulonglong", units="B")
        free = _member("shm::usage::free", "ulonglong", units="B")
        used = _member("shm::usage::used", "ulonglong", units="B")
        heaps = _member("shm::usage::heaps", "ulonglong", units="B")
        other = _member("shm::usage::other", "ulonglong", units="B")
        held = _member("shm::usage::held", "ulonglong", units="B")
        reserved = _member("shm::usage::reserved", "ulonglong", units="B")
        free_percent = _member("shm::usage::free_percent", "double", units="%")
        limit = _member("shm::usage::limit", "string")
        inodes = _member("shm::usage::inodes", "ulonglong")
        free_inodes = _member("shm::usage::free_inodes", "ulonglong")
        given_back = _member("shm::usage::given_back", "ulonglong", units="B")
        given_back_later = _member("shm::usage::given_back_later", "ulonglong", units="B")
        in_use = _member("shm::usage::in_use", "ulonglong", units="B")
        age = _member("shm::usage::age", "double", units="s")

    shm_usage = struct_property(
        id_="shm::usage",
        name="shm_usage",
        structdef=Usage,
        mode="readonly",
        configurationkind=("property", "configure", "event"),
    )

    class Heap(_Struct):
        ID = "shm::heaps::heap"
        name = _member("shm::heaps::name", "string")
        creator = _member("shm::heaps::creator", "long")
        state = _member("shm::heaps::state", "string")
        reason = _member("shm::heaps::reason", "string")
        file_size = _member("shm::heaps::file_size", "ulonglong", units="B")
        heap_size = _member("shm::heaps::heap_size", "ulonglong", units="B")
        used = _member("shm::heaps::used", "ulonglong", units="B")
        superblocks = _member("shm::heaps::superblocks", "ulong")
        refcount = _member("shm::heaps::refcount", "long")
        attached = _member("shm::heaps::attached", "ulong")
        user = _member("shm::heaps::user", "string")
        group = _member("shm::heaps::group", "string")
        mode = _member("shm::heaps::mode", "string")
        command = _member("shm::heaps::command", "string")
        component = _member("shm::heaps::component", "string")
        application = _member("shm::heaps::application", "string")
        age = _member("shm::heaps::age", "double", units="s")

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
        enabled = _member("shm::cleanup::enabled", "boolean", True)
        scope = _member("shm::cleanup::scope", "string", "host")
        rescan = _member("shm::cleanup::rescan", "double", 30.0, units="s")
        fifos = _member("shm::cleanup::fifos", "boolean", False)
        dry_run = _member("shm::cleanup::dry_run", "boolean", False)
        reclaim = _member("shm::cleanup::reclaim", "boolean", True)

    shm_cleanup = struct_property(
        id_="shm::cleanup",
        name="shm_cleanup",
        structdef=Cleanup,
        mode="readwrite",
        configurationkind=("property",),
    )

    class CleanupStatus(_Struct):
        ID = "shm::cleanup_status"
        removed = _member("shm::cleanup_status::removed", "ulonglong")
        bytes = _member("shm::cleanup_status::bytes", "ulonglong", units="B")
        removed_by_others = _member("shm::cleanup_status::removed_by_others", "ulonglong")
        bytes_by_others = _member("shm::cleanup_status::bytes_by_others", "ulonglong", units="B")
        fifos = _member("shm::cleanup_status::fifos", "ulonglong")
        failures = _member("shm::cleanup_status::failures", "ulonglong")
        watched = _member("shm::cleanup_status::watched", "ulonglong")
        last_heap = _member("shm::cleanup_status::last_heap", "string")
        last_creator = _member("shm::cleanup_status::last_creator", "long")
        last_command = _member("shm::cleanup_status::last_command", "string")
        last_reason = _member("shm::cleanup_status::last_reason", "string")
        last_time = _member("shm::cleanup_status::last_time", "double", units="s")
        last_time_iso = _member("shm::cleanup_status::last_time_iso", "string")
        last_latency_ms = _member("shm::cleanup_status::last_latency_ms", "double", units="ms")

    shm_cleanup_status = struct_property(
        id_="shm::cleanup_status",
        name="shm_cleanup_status",
        structdef=CleanupStatus,
        mode="readonly",
        configurationkind=("property",),
    )

    class Removal(_Struct):
        ID = "shm::recent::removal"
        name = _member("shm::recent::name", "string")
        creator = _member("shm::recent::creator", "long")
        command = _member("shm::recent::command", "string")
        component = _member("shm::recent::component", "string")
        application = _member("shm::recent::application", "string")
        user = _member("shm::recent::user", "string")
        bytes = _member("shm::recent::bytes", "ulonglong", units="B")
        reason = _member("shm::recent::reason", "string")
        evidence = _member("shm::recent::evidence", "string")
        trigger = _member("shm::recent::trigger", "string")
        attached = _member("shm::recent::attached", "ulong")
        held_by = _member("shm::recent::held_by", "string")
        given_back = _member("shm::recent::given_back", "ulonglong", units="B")
        given_back_later = _member("shm::recent::given_back_later", "ulonglong", units="B")
        in_use = _member("shm::recent::in_use", "ulonglong", units="B")
        left = _member("shm::recent::left", "ulonglong", units="B")
        not_given_back = _member("shm::recent::not_given_back", "string")
        time = _member("shm::recent::time", "double", units="s")
        time_iso = _member("shm::recent::time_iso", "string")
        latency_ms = _member("shm::recent::latency_ms", "double", units="ms")

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
        free = _member("shm::threshold::free", "string", "10 MB")
        headroom = _member("shm::threshold::headroom", "string", "5%")

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
        host_name = _member("shm::heap_removed::host_name", "string")
        name = _member("shm::heap_removed::name", "string")
        creator = _member("shm::heap_removed::creator", "long")
        command = _member("shm::heap_removed::command", "string")
        component = _member("shm::heap_removed::component", "string")
        application = _member("shm::heap_removed::application", "string")
        user = _member("shm::heap_removed::user", "string")
        bytes = _member("shm::heap_removed::bytes", "ulonglong", units="B")
        reason = _member("shm::heap_removed::reason", "string")
        evidence = _member("shm::heap_removed::evidence", "string")
        trigger = _member("shm::heap_removed::trigger", "string")
        attached = _member("shm::heap_removed::attached", "ulong")
        held_by = _member("shm::heap_removed::held_by", "string")
        given_back = _member("shm::heap_removed::given_back", "ulonglong", units="B")
        given_back_later = _member("shm::heap_removed::given_back_later", "ulonglong", units="B")
        in_use = _member("shm::heap_removed::in_use", "ulonglong", units="B")
        left = _member("shm::heap_removed::left", "ulonglong", units="B")
        not_given_back = _member("shm::heap_removed::not_given_back", "string")
        time = _member("shm::heap_removed::time", "double", units="s")
        time_iso = _member("shm::heap_removed::time_iso", "string")
        latency_ms = _member("shm::heap_removed::latency_ms", "double", units="ms")

    shm_heap_removed = struct_property(
        id_="shm::heap_removed",
        name="shm_heap_removed",
        structdef=HeapRemoved,
        mode="readwrite",
        configurationkind=("message",),
    )

    class ThresholdCrossed(_Struct):
        ID = "shm::threshold_crossed"
        host_name = _member("shm::threshold_crossed::host_name", "string")
        low = _member("shm::threshold_crossed::low", "boolean")
        free = _member("shm::threshold_crossed::free", "ulonglong", units="B")
        total = _member("shm::threshold_crossed::total", "ulonglong", units="B")
        threshold = _member("shm::threshold_crossed::threshold", "string")
        reason = _member("shm::threshold_crossed::reason", "string")
        time = _member("shm::threshold_crossed::time", "double", units="s")
        time_iso = _member("shm::threshold_crossed::time_iso", "string")

    shm_threshold_crossed = struct_property(
        id_="shm::threshold_crossed",
        name="shm_threshold_crossed",
        structdef=ThresholdCrossed,
        mode="readwrite",
        configurationkind=("message",),
    )
