"""The device as REDHAWK meets it: its properties, over CORBA, from another process."""

# ruff: noqa: F811 (pytest finds fixtures by name: they are imported, and are arguments)

import calendar
import json
import os
import re
import signal
import socket
import time

import pytest

import devices
import heapwriter
from devices import CF, CORBA, MB, Channel, device, manager, start, struct  # noqa: F401
from gppshm import heapfile, procfs, sparing
from spawning import needs_root, run_command, stays, wait_for
from watching import gone

from gppshm.redhawk.corba import CosEventChannelAdmin__POA, ExtendedEvent__POA  # isort: skip

pytestmark = pytest.mark.corba

STRINGS = CORBA.TC_string
HEAP = {
    "name": STRINGS,
    "creator": CORBA.TC_long,
    "state": STRINGS,
    "reason": STRINGS,
    "file_size": CORBA.TC_ulonglong,
    "heap_size": CORBA.TC_ulonglong,
    "used": CORBA.TC_ulonglong,
    "superblocks": CORBA.TC_ulong,
    "refcount": CORBA.TC_long,
    "attached": CORBA.TC_ulong,
    "user": STRINGS,
    "group": STRINGS,
    "mode": STRINGS,
    "command": STRINGS,
    "component": STRINGS,
    "application": STRINGS,
    "age": CORBA.TC_double,
}


# Its arguments are the root, and whatever its command line shall say.
OWNS_A_HEAP = """
import heapwriter
heap = heapwriter.LiveHeap.create(sys.argv[1])
print("ready", heap.name, flush=True)
sys.stdin.read()
"""


def heap(device, name):
    """What the device shows of a heap, or None."""
    return next((each for each in device.query("shm::heaps") if each["name"] == name), None)


def test_all_of_its_properties_can_be_queried(device):
    wanted = {
        "DCE:cdc5ee18-7ceb-4ae6-bf4c-31f983179b4d",
        "DCE:0f99b2e4-9903-4631-9846-ff349d18ecfb",
        "shm::capacity",
        "shm::host_name",
        "shm::overview",
        "shm::usage",
        "shm::heaps",
        "shm::cleanup",
        "shm::cleanup_status",
        "shm::recent",
        "shm::threshold",
    }
    values = {item.id: item.value for item in device.ref.query([])}
    assert set(values) == wanted
    assert values["DCE:cdc5ee18-7ceb-4ae6-bf4c-31f983179b4d"].value() == "SHM"
    assert values["DCE:0f99b2e4-9903-4631-9846-ff349d18ecfb"].value() == "GppShmPlugin"
    assert values["shm::host_name"].value() == socket.gethostname()
    assert values["shm::capacity"].typecode().kind() == CORBA.tk_longlong


def test_the_file_system_is_shown_as_it_is(device, shm_root):
    usage = device.query("shm::usage")
    status = os.statvfs(shm_root)
    assert usage["path"] == shm_root
    assert usage["total"] == status.f_blocks * status.f_frsize
    assert abs(usage["free"] - status.f_bfree * status.f_frsize) < 64 * MB
    assert usage["used"] == usage["total"] - usage["free"]
    assert usage["free_percent"] == round(100.0 * usage["free"] / usage["total"], 2)


def test_a_heap_is_shown_with_each_of_its_figures_typed(device, spawn, shm_root):
    owner = spawn.owner(shm_root, "--superblocks=2", "--used=50000")
    wait_for(lambda: (heap(device, owner.name) or {}).get("state") == "alive")
    shown = heap(device, owner.name)
    assert (shown["creator"], shown["superblocks"]) == (owner.pid, 2)
    assert f"process {owner.pid}" in shown["reason"]
    assert shown["file_size"] == os.stat(os.path.join(shm_root, owner.name)).st_size
    wait_for(lambda: "heapwriter" in heap(device, owner.name)["command"])
    value = device.ref.query([CF.DataType("shm::heaps", CORBA.Any(CORBA.TC_null, None))])[0].value
    members = {member.id: member.value.typecode() for member in value.value()[0].value()}
    assert set(members) == {f"shm::heaps::{name}" for name in HEAP}
    for name, typecode in HEAP.items():
        assert members[f"shm::heaps::{name}"].equal(typecode), name


def test_component_and_application_are_told_by_the_command_line(device, spawn, shm_root):
    words = ["COMPONENT_IDENTIFIER", "DCE:1-2:wave_1", "NAME_BINDING", "fir_1", "DOM_PATH", "RH_DEV/wave_1"]
    owner = spawn.python(
        OWNS_A_HEAP,
        shm_root,
        *words,
    )
    wait_for(lambda: heap(device, owner.name) and heap(device, owner.name)["component"] == "fir_1")
    assert heap(device, owner.name)["application"] == "wave_1"
    owner.kill()
    removal = wait_for(lambda: device.query("shm::recent"))[0]
    assert (removal["component"], removal["application"]) == ("fir_1", "wave_1")


def test_no_reply_message_or_log_line_carries_an_object_reference_or_a_whole_command_line(
    device, spawn, shm_root
):
    """REDHAWK starts processes with references of some thousand digits: 20 crashes made api() show 214 KB."""
    reference = "IOR:" + "01" * 2000
    words = ["NAMING_CONTEXT_IOR", reference, "COMPONENT_IDENTIFIER", "DCE:1-2:wave_1"]
    words += ["NAME_BINDING", "fir_1", "EXTRA", "x" * 5000, "EXTRA_IOR", reference]
    channel = Channel()
    device.ref.getPort("MessageEvent_out")._narrow(CF.Port).connectPort(channel._this(), "here")
    owners = [spawn.python(OWNS_A_HEAP, shm_root, *words) for _ in range(5)]
    peer = spawn.python(
        "import heapwriter\nheld = heapwriter.LiveHeap.attach(sys.argv[2], sys.argv[1])\n"
        "print('ready', flush=True)\nsys.stdin.read()",
        shm_root,
        owners[0].name,
        *words,
    )
    wait_for(lambda: [each["component"] for each in device.query("shm::heaps")] == ["fir_1"] * 5)
    alive = str(device.ref.query([]))
    for owner in owners:
        owner.kill()
    wait_for(lambda: len(device.query("shm::recent")) == 5)
    dead = str(device.ref.query([]))
    assert str(peer.pid) in dead
    wait_for(lambda: len(channel.messages("shm::heap_removed")) == 5)
    for text in (alive, dead, str(channel.pushed), device.output()):
        assert "0101010101" not in text and "x" * 100 not in text
    for removal in device.query("shm::recent"):
        assert max(len(value) for value in removal.values() if isinstance(value, str)) < 400


def seconds_of(iso):
    """Of 2026-01-31T23:59:59.125Z, since 1970."""
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", iso)
    whole = calendar.timegm(time.strptime(iso[:19], "%Y-%m-%dT%H:%M:%S"))
    return whole + int(iso[20:23]) / 1000


def test_who_looks_at_the_overview_sees_how_things_are(device, spawn, shm_root):
    device.configure("shm::cleanup", cleanup(enabled=False))
    alive, dead, attached = (spawn.owner(shm_root) for _ in range(3))
    spawn.peer(shm_root, attached)
    with open(os.path.join(shm_root, f"heap-{alive.pid}-copy"), "wb"):
        pass
    wait_for(lambda: device.query("shm::overview")["alive"] == 3)
    dead.kill()
    attached.kill()

    def both_known():
        found = device.query("shm::overview")
        return found if found["orphaned_attached"] == found["orphaned"] == 1 else None

    seen = wait_for(both_known)
    assert [seen[name] for name in ("heap_count", "alive", "orphaned")] == [3, 1, 1]
    assert (seen["unknown"], seen["unreadable"]) == (0, 0)
    usage = device.query("shm::usage")
    for name in ("total", "free", "heaps", "held", "other", "reserved"):
        assert abs(seen[name + "_mb"] - usage[name] / MB) < 64
    assert seen["total_mb"] == round(usage["total"] / MB, 1)
    assert abs(seen["capacity_mb"] - device.query("shm::capacity")) < 64
    size = sum(os.stat(os.path.join(shm_root, owner.name)).st_size for owner in (dead, attached))
    assert seen["orphaned_mb"] == round(size / MB, 1)
    assert seen["summary"].startswith(f"cleaning is off; {seen['free_mb']} MB of {seen['total_mb']} MB")
    assert "; 3 heaps (1 orphaned, 1 orphaned, attached, 1 alive); " in seen["summary"]
    assert seen["summary"].endswith("; 0 removed")
    device.configure("shm::cleanup", cleanup())
    wait_for(lambda: device.query("shm::overview")["heap_count"] == 1)
    # That a heap is gone is shown before it is told.
    wait_for(lambda: device.query("shm::cleanup_status")["removed"] == 2)
    status = device.query("shm::cleanup_status")
    last = f"; 2 removed, the last {status['last_heap']} at {status['last_time_iso']}"
    assert device.query("shm::overview")["summary"].endswith(last)


def test_orphans_come_before_all_other_heaps(device, spawn, shm_root):
    device.configure("shm::cleanup", cleanup(enabled=False))
    owners = [spawn.owner(shm_root) for _ in range(6)]
    wait_for(lambda: len(device.query("shm::heaps")) == 6)
    for owner in owners[1::2]:
        owner.kill()
    wait_for(lambda: device.query("shm::overview")["orphaned"] == 3)
    assert [each["state"] for each in device.query("shm::heaps")] == ["orphaned"] * 3 + ["alive"] * 3


def test_a_reply_is_bounded_however_many_heaps_there_are(device, shm_root):
    """Any user can make thousands: omniORB refuses a reply of more than 2 MB, with all that is in it."""
    device.configure("shm::cleanup", cleanup(enabled=False))
    for number in range(2500):
        heapwriter.create(os.path.join(shm_root, f"heap-{4000000 + number}"), 4000000 + number, [(4096, ())])
    # The first may have been removed before the order came to whoever cleans.
    there = len(os.listdir(shm_root))
    assert there > 2000
    # Who asks without rest takes the time from who looks.
    wait_for(lambda: time.sleep(0.5) or device.query("shm::overview")["heap_count"] == there, 60)
    assert len(device.query("shm::heaps")) == 300
    assert {item.id for item in device.ref.query([])} >= {"shm::heaps", "shm::usage"}


def test_all_that_it_shows_and_tells_is_numbers_and_texts(device, spawn, shm_root):
    """A REST gateway cannot write a CF::UTCTime as JSON, and answers 500 for the whole device."""
    channel = Channel()
    device.ref.getPort("MessageEvent_out")._narrow(CF.Port).connectPort(channel._this(), "tests")
    owner = spawn.owner(shm_root)
    wait_for(lambda: device.query("shm::cleanup_status")["watched"] == 1)
    device.configure("shm::threshold", struct("shm::threshold", free="100%", headroom="off"))
    owner.kill()
    gone(shm_root, owner)
    spawn.owner(shm_root)
    wait_for(lambda: channel.messages("shm::heap_removed") and channel.messages("shm::threshold_crossed"))
    wait_for(lambda: device.query("shm::heaps"))
    shown = {item.id: devices.plain(item.value) for item in device.ref.query([])}
    assert shown["shm::recent"] and shown["shm::heaps"]
    for kind in ("shm::heap_removed", "shm::threshold_crossed"):
        (shown[kind],) = (
            {name: devices.plain(value) for name, value in message.items()}
            for message in channel.messages(kind)[:1]
        )
        assert shown[kind][f"{kind}::time"] == seconds_of(shown[kind][f"{kind}::time_iso"])
    assert json.loads(json.dumps(shown)) == shown
    for struct_ in [shown["shm::usage"], shown["shm::cleanup_status"], *shown["shm::recent"]]:
        for name, value in struct_.items():
            assert not isinstance(value, float) or value == round(value, 3), name


def test_a_crash_is_cleaned_and_told_in_every_place(device, spawn, shm_root):
    channel = Channel()
    device.ref.getPort("MessageEvent_out")._narrow(CF.Port).connectPort(channel._this(), "tests")
    owner = spawn.owner(shm_root)
    size = os.stat(os.path.join(shm_root, owner.name)).st_blocks * 512
    wait_for(lambda: device.query("shm::cleanup_status")["watched"] == 1)
    before = time.time()
    owner.kill()
    wait_for(lambda: not os.path.exists(os.path.join(shm_root, owner.name)))
    status = wait_for(
        lambda: device.query("shm::cleanup_status")["removed"] and device.query("shm::cleanup_status")
    )
    assert (status["bytes"], status["failures"], status["watched"]) == (size, 0, 0)
    assert (status["last_heap"], status["last_creator"]) == (owner.name, owner.pid)
    assert "heapwriter" in status["last_command"] and f"process {owner.pid}" in status["last_reason"]
    assert before - 1 < status["last_time"] < time.time() + 1
    assert seconds_of(status["last_time_iso"]) == status["last_time"]
    assert 0 <= status["last_latency_ms"] < 1000
    (removal,) = device.query("shm::recent")
    assert (removal["name"], removal["bytes"], removal["evidence"]) == (owner.name, size, "lease")
    message = wait_for(lambda: channel.messages("shm::heap_removed"))[0]
    told = {key.rpartition("::")[2]: value.value() for key, value in message.items()}
    assert told.pop("host_name") == socket.gethostname()
    assert told == removal
    assert (told["time"], told["time_iso"]) == (status["last_time"], status["last_time_iso"])


def test_memory_that_comes_back_under_a_peer_is_told_in_every_place(device, spawn, shm_root):
    channel = Channel()
    device.ref.getPort("MessageEvent_out")._narrow(CF.Port).connectPort(channel._this(), "tests")
    owner = spawn.owner(shm_root, "--holders=1", "--superblocks=8", "--used=1048576", "--block=131072")
    peer = spawn.peer(shm_root, owner, "--hold")
    wait_for(lambda: device.query("shm::cleanup_status")["watched"] == 1)
    owner.kill()
    (removal,) = wait_for(lambda: device.query("shm::recent"))
    assert removal["given_back"] > 0.85 * removal["bytes"]
    assert MB <= removal["in_use"] < removal["left"] == removal["bytes"] - removal["given_back"]
    assert removal["held_by"].startswith(f"{peer.pid} (") and removal["not_given_back"] == ""
    message = wait_for(lambda: channel.messages("shm::heap_removed"))[0]
    assert message["shm::heap_removed::given_back"].value() == removal["given_back"]
    usage = device.query("shm::usage")
    assert (usage["given_back"], usage["in_use"]) == (removal["given_back"], removal["in_use"])
    peer.send("3")
    assert peer.read_line() == "holds 5"
    wait_for(lambda: device.query("shm::recent")[0]["in_use"] < 0.7 * MB)
    later = device.query("shm::recent")[0]
    assert later["given_back_later"] > 0.3 * MB and later["given_back"] == removal["given_back"]
    peer.kill()
    wait_for(lambda: (device.query("shm::usage")["in_use"], device.query("shm::recent")[0]["left"]) == (0, 0))


def test_nothing_is_given_back_where_that_is_switched_off(device, spawn, shm_root):
    device.configure("shm::cleanup", cleanup(reclaim=False))
    owner = spawn.owner(shm_root, "--holders=1", "--superblocks=8")
    spawn.peer(shm_root, owner, "--hold")
    wait_for(lambda: device.query("shm::cleanup_status")["watched"] == 1)
    owner.kill()
    (removal,) = wait_for(lambda: device.query("shm::recent"))
    assert (removal["attached"], removal["given_back"], removal["left"]) == (1, 0, 0)
    assert device.query("shm::cleanup")["reclaim"] is False


def test_a_heap_that_somebody_else_unlinks_first_is_told_in_every_place(device, spawn, shm_root):
    channel = Channel()
    device.ref.getPort("MessageEvent_out")._narrow(CF.Port).connectPort(channel._this(), "tests")
    owner = spawn.owner(shm_root)
    path = os.path.join(shm_root, owner.name)
    size = os.stat(path).st_blocks * 512
    wait_for(lambda: device.query("shm::cleanup_status")["watched"] == 1)
    engine = engine_of(device.process.pid)
    os.kill(engine, signal.SIGSTOP)
    owner.kill()
    os.unlink(path)
    os.kill(engine, signal.SIGCONT)
    (removal,) = wait_for(lambda: device.query("shm::recent"))
    assert (removal["name"], removal["creator"], removal["bytes"]) == (owner.name, owner.pid, size)
    assert "another process unlinked it" in removal["reason"] and removal["evidence"] == "none"
    status = device.query("shm::cleanup_status")
    assert (status["removed"], status["removed_by_others"], status["bytes_by_others"]) == (0, 1, size)
    message = wait_for(lambda: channel.messages("shm::heap_removed"))[0]
    assert message["shm::heap_removed::reason"].value() == removal["reason"]
    assert f"removed by others: {owner.name} (2.0 MB" in device.output()
    summary = device.query("shm::overview")["summary"]
    assert "0 removed and 1 by others" in summary and owner.name in summary


def engine_of(pid):
    """The process that cleans for that one."""
    with open(f"/proc/{pid}/task/{pid}/children") as stream:
        pids = stream.read().split()
    for each in pids:
        with open(f"/proc/{each}/cmdline", "rb") as stream:
            if b"engine_process.py" in stream.read():
                return int(each)
    raise AssertionError(pids)


def test_the_last_fifty_removals_are_shown_and_no_more(device, spawn, shm_root):
    for _ in range(53):
        with open(os.path.join(shm_root, f"heap-{spawn.dead_pid()}"), "wb"):
            pass
    device.configure("shm::cleanup", cleanup(rescan=0.2))
    wait_for(lambda: device.query("shm::cleanup_status")["removed"] == 53)
    recent = device.query("shm::recent")
    assert len(recent) == 50
    times = [removal["time"] for removal in recent]
    assert times == sorted(times, reverse=True)
    status = device.query("shm::cleanup_status")
    assert (status["last_heap"], status["last_time"]) == (recent[0]["name"], recent[0]["time"])


def cleanup(enabled=True, scope="host", rescan=30.0, fifos=False, dry_run=False, **more):
    return struct(
        "shm::cleanup",
        enabled=CORBA.Any(CORBA.TC_boolean, enabled),
        scope=scope,
        rescan=CORBA.Any(CORBA.TC_double, rescan),
        fifos=CORBA.Any(CORBA.TC_boolean, fifos),
        dry_run=CORBA.Any(CORBA.TC_boolean, dry_run),
        **more,
    )


def test_cleaning_is_configured_while_it_works(device, spawn, shm_root):
    assert device.query("shm::cleanup") == {
        "enabled": True,
        "scope": "host",
        "rescan": 30.0,
        "fifos": False,
        "dry_run": False,
        "reclaim": True,
    }
    device.configure("shm::cleanup", cleanup(enabled=False))
    owner = spawn.owner(shm_root)
    wait_for(lambda: heap(device, owner.name))
    owner.kill()
    wait_for(lambda: heap(device, owner.name)["state"] == "orphaned")
    assert device.query("shm::cleanup_status")["removed"] == 0
    device.configure("shm::cleanup", cleanup(dry_run=True, rescan=12.5))
    assert device.query("shm::cleanup")["rescan"] == 12.5
    wait_for(lambda: f"would remove: {owner.name}" in device.output())
    device.configure("shm::cleanup", cleanup())
    wait_for(lambda: not os.path.exists(os.path.join(shm_root, owner.name)))


def refusal(device, *wanted):
    """What the caller is told of a configure that is refused; the log has to say it, too."""
    with pytest.raises(CF.PropertySet.InvalidConfiguration) as refused:
        device.ref.configure([CF.DataType(identifier, value) for identifier, value in wanted])
    wait_for(lambda: refused.value.msg in device.output())
    return refused.value.msg, [item.id for item in refused.value.invalidProperties]


NULL = CORBA.Any(CORBA.TC_null, None)


@pytest.mark.parametrize(
    "bad, why",
    [
        ({"scope": "everybody"}, "scope: 'everybody' is neither host nor children"),
        ({"scope": ""}, "scope: '' is neither"),
        ({"rescan": 0.0}, "rescan: 0 s is not between 0.1 and 3600 s"),
        ({"rescan": -1.0}, "rescan: -1 s is not"),
        ({"rescan": float("nan")}, "rescan: nan s is not"),
        ({"rescan": float("inf")}, "rescan: inf s is not"),
        ({"rescan": 86400.0}, "rescan: 86400 s is not"),
    ],
    ids=str,
)
def test_a_bad_order_is_refused_as_a_whole_and_the_caller_is_told_why(device, bad, why):
    before = device.query("shm::cleanup")
    order = cleanup(**dict({"enabled": False, "fifos": True}, **bad))
    told, items = refusal(device, ("shm::cleanup", order))
    assert told.startswith("shm::cleanup::" + why) and items == ["shm::cleanup"]
    assert device.query("shm::cleanup") == before


def test_every_bad_member_of_every_bad_property_is_named_and_nothing_is_changed(device):
    before = device.ref.query([])
    told, items = refusal(
        device,
        ("shm::cleanup", cleanup(dry_run=True, scope="x", rescan=0.0)),
        ("shm::threshold", struct("shm::threshold", free="64", headroom="lots\x1b")),
        ("shm::nothing", CORBA.Any(STRINGS, "")),
        ("shm::capacity", CORBA.Any(CORBA.TC_longlong, 1)),
        ("shm::heap_removed", struct("shm::heap_removed")),
    )
    for word in (
        "shm::cleanup::scope: 'x' is",
        "shm::cleanup::rescan: 0 s is",
        "shm::threshold::headroom: 'lots\\x1b': it is no threshold: write it as 64, 64 MB",
        "shm::nothing: there is no such property",
        "shm::capacity: it is readonly",
        "shm::heap_removed: it is a message",
    ):
        assert word in told
    assert len(items) == 5
    told, items = refusal(
        device,
        ("shm::cleanup", cleanup(dry_run=True)),
        ("shm::threshold", struct("shm::threshold", free="", headroom="5%")),
    )
    assert items == ["shm::threshold"]
    after = {item.id: devices.plain(item.value) for item in device.ref.query([])}
    for item in before:
        if item.id in ("shm::cleanup", "shm::threshold"):
            assert after[item.id] == devices.plain(item.value)


@pytest.mark.parametrize(
    "value, why",
    [
        (struct("shm::cleanup", scope="children"), "shm::cleanup::enabled: it is missing"),
        (
            struct("shm::cleanup", enabled=NULL, scope="host", rescan=1.0, fifos=NULL, dry_run=NULL),
            "shm::cleanup::dry_run: it has no value",
        ),
        (
            struct("shm::cleanup", enabled="nope", scope="host", rescan=1.0, fifos=2, dry_run=False),
            "shm::cleanup::enabled: a boolean is expected, not 'nope'; shm::cleanup::fifos: a boolean",
        ),
        (
            struct("shm::cleanup", enabled=True, scope="host", rescan="soon", fifos=0, dry_run=0),
            "shm::cleanup::rescan: a double is expected, not 'soon'",
        ),
        (
            struct("shm::cleanup", enabled=True, scope="host", rescan=1, fifos=0, dry_run=0, dry=True),
            "shm::cleanup::dry: shm::cleanup has no such member",
        ),
        (CORBA.Any(CORBA.TC_string, "off"), "shm::cleanup: a struct (CF::Properties) is expected"),
        (NULL, "shm::cleanup: a struct (CF::Properties) is expected"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_what_is_no_order_changes_nothing_and_the_caller_is_told_why(device, value, why):
    before = device.query("shm::cleanup")
    assert why in refusal(device, ("shm::cleanup", value))[0]
    assert device.query("shm::cleanup") == before


def test_what_clients_without_types_send_is_understood(device):
    order = struct("shm::cleanup", enabled="FALSE", scope="children", rescan="12.5", fifos=1, dry_run=0)
    device.configure("shm::cleanup", order)
    assert device.query("shm::cleanup") == {
        "enabled": False,
        "scope": "children",
        "rescan": 12.5,
        "fifos": True,
        "dry_run": False,
        "reclaim": True,  # as for clients of an earlier version, which do not know it
    }


def test_whatever_is_readonly_cannot_be_configured(device):
    readonly = [item for item in device.ref.query([]) if item.id not in ("shm::cleanup", "shm::threshold")]
    assert len(readonly) >= 8
    for item in readonly:
        told, items = refusal(device, (item.id, item.value))
        assert told == f"{item.id}: it is readonly" and items == [item.id]


def test_an_unknown_property_is_named(device):
    with pytest.raises(CF.UnknownProperties) as unknown:
        device.query("shm::nothing")
    assert [item.id for item in unknown.value.invalidProperties] == ["shm::nothing"]


def test_thresholds_are_configured_and_garbage_is_refused(device):
    assert device.query("shm::threshold") == {"free": "10 MB", "headroom": "5%"}
    device.configure("shm::threshold", struct("shm::threshold", free="1.5GB", headroom="64"))
    assert device.query("shm::threshold") == {"free": "1.5 GB", "headroom": "64 MB"}
    for free, headroom in (("lots", "5%"), ("10 MB", "-1"), ("101%", "5%"), ("", "5%"), ("nan", "5%")):
        with pytest.raises(CF.PropertySet.InvalidConfiguration):
            device.configure("shm::threshold", struct("shm::threshold", free=free, headroom=headroom))
    assert device.query("shm::threshold") == {"free": "1.5 GB", "headroom": "64 MB"}


def test_a_crossed_threshold_makes_it_busy_and_is_told_both_ways(device, shm_root):
    channel = Channel()
    device.ref.getPort("MessageEvent_out")._narrow(CF.Port).connectPort(channel._this(), "tests")
    assert device.ref._get_usageState() == CF.Device.IDLE
    device.configure("shm::threshold", struct("shm::threshold", free="100%", headroom="off"))
    with open(os.path.join(shm_root, "file"), "wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, MB)
    message = wait_for(lambda: channel.messages("shm::threshold_crossed"))[0]
    told = {key.rpartition("::")[2]: value.value() for key, value in message.items()}
    assert (told["low"], told["threshold"], told["host_name"]) == (True, "100%", socket.gethostname())
    assert told["free"] < told["total"] and "less than 100%" in told["reason"]
    assert device.ref._get_usageState() == CF.Device.BUSY
    device.configure("shm::threshold", struct("shm::threshold", free="off", headroom="off"))
    message = wait_for(lambda: channel.messages("shm::threshold_crossed")[1:])[0]
    assert not message["shm::threshold_crossed::low"].value()
    wait_for(lambda: device.ref._get_usageState() == CF.Device.IDLE)


def test_property_events_tell_of_real_changes(device, shm_root):
    channel = Channel()
    device.ref.getPort("propEvent")._narrow(CF.Port).connectPort(channel._this(), "tests")
    for number in range(8):
        with open(os.path.join(shm_root, f"file-{number}"), "wb") as stream:
            os.posix_fallocate(stream.fileno(), 0, 8 * MB)
    wait_for(lambda: channel.events("shm::usage") and channel.events("shm::capacity"))
    assert set(channel.events("shm::usage")[0]) == set(device.query("shm::usage"))
    assert len(channel.events("shm::usage")) <= 4


def test_a_port_refuses_what_is_no_event_channel_and_works_on(device, manager, spawn, shm_root):
    for name in ("propEvent", "MessageEvent_out"):
        port = device.ref.getPort(name)._narrow(CF.Port)
        for wrong in (manager._this(), None):
            with pytest.raises(CF.Port.InvalidPort):
                port.connectPort(wrong, "wrong")
    channel = Channel()
    device.ref.getPort("MessageEvent_out")._narrow(CF.Port).connectPort(channel._this(), "right")
    owner = spawn.owner(shm_root)
    wait_for(lambda: device.query("shm::cleanup_status")["watched"] == 1)
    owner.kill()
    wait_for(lambda: channel.messages("shm::heap_removed"))
    with pytest.raises(CF.PortSupplier.UnknownPort):
        device.ref.getPort("nothing")


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("name", ["propEvent", "MessageEvent_out"])
def test_a_port_refuses_a_channel_that_does_not_answer_and_works_on(device, spawn, name, fault):
    channel, reference = devices.foreign_channel(spawn)
    port = device.ref.getPort(name)._narrow(CF.Port)
    os.kill(channel.pid, fault)
    with pytest.raises(CF.Port.InvalidPort):
        port.connectPort(reference, "silent")
    port.connectPort(Channel()._this(), "right")


class NoSuppliers(ExtendedEvent__POA.MessageEvent):
    """An event channel that answers, and cannot be pushed to."""

    def for_suppliers(self):
        return Admin()._this()


class Admin(CosEventChannelAdmin__POA.SupplierAdmin):
    def obtain_push_consumer(self):
        return None


def test_a_port_refuses_a_channel_without_a_consumer_and_works_on(device):
    port = device.ref.getPort("MessageEvent_out")._narrow(CF.Port)
    with pytest.raises(CF.Port.InvalidPort):
        port.connectPort(NoSuppliers()._this(), "empty")
    port.connectPort(Channel()._this(), "right")


def test_a_dead_consumer_can_be_disconnected_and_is_forgotten(device, spawn, shm_root):
    channel, reference = devices.foreign_channel(spawn)
    port = device.ref.getPort("MessageEvent_out")._narrow(CF.Port)
    port.connectPort(reference, "mortal")
    channel.kill()
    port.disconnectPort("mortal")
    remaining = Channel()
    port.connectPort(remaining._this(), "right")
    owner = spawn.owner(shm_root)
    wait_for(lambda: device.query("shm::cleanup_status")["watched"] == 1)
    owner.kill()
    wait_for(lambda: remaining.messages("shm::heap_removed"))
    assert "Unable to send" not in device.output()


def test_a_consumer_that_hangs_delays_neither_cleaning_nor_queries(device, spawn, shm_root):
    channel = Channel()
    device.ref.getPort("MessageEvent_out")._narrow(CF.Port).connectPort(channel._this(), "hangs")
    channel.free.clear()
    try:
        for _ in range(3):
            owner = spawn.owner(shm_root)
            wait_for(lambda: device.query("shm::cleanup_status")["watched"] == 1)
            owner.kill()
            killed = time.monotonic()
            gone(shm_root, owner)
            assert time.monotonic() - killed < 0.5
            asked = time.monotonic()
            device.ref.query([])
            assert time.monotonic() - asked < 1.0
            assert device.ref.allocateCapacity([devices.capacity(1)])
            device.ref.deallocateCapacity([devices.capacity(1)])
    finally:
        channel.free.set()


HOSTILE = ["caf\u00e9 \u2603", "\x1b[2J\x07", "x" * 4000, "a\nb", "\udcff\udcfe"]


def test_hostile_commands_and_names_break_no_query(device, spawn, shm_root):
    owners = [
        spawn.python(
            OWNS_A_HEAP,
            shm_root,
            word,
        )
        for word in HOSTILE
    ]
    for word in HOSTILE:
        name = os.path.join(shm_root, word.replace("/", "")[:200])
        with open(os.path.join(shm_root, owners[0].name), "rb") as source, open(name, "wb") as copy:
            copy.write(source.read(8192))
    wait_for(lambda: len(device.query("shm::heaps")) == len(HOSTILE) + len(owners))
    wait_for(lambda: all(heap(device, owner.name)["command"] != "unknown" for owner in owners))
    for shown in device.query("shm::heaps"):
        for value in shown.values():
            assert not isinstance(value, str) or (
                value.isprintable() and ascii(value) == repr(value) and len(value) <= 1000
            )
    device.ref.query([])


def test_a_heap_that_says_absurd_things_breaks_no_query(device, spawn, shm_root):
    owner = spawn.owner(shm_root, "--superblocks=2")
    layout = heapfile._SUPERBLOCK[heapfile.MACHINE]
    with open(os.path.join(shm_root, owner.name), "r+b", buffering=0) as stream:
        for superblock in heapfile.read_heap(stream.fileno(), os.fstat(stream.fileno()).st_size).superblocks:
            at = superblock.offset + heapfile._SUPERBLOCK_AT
            fields = list(layout.unpack(os.pread(stream.fileno(), layout.size, at)))
            fields[5] = (1 << 64) - 1  # used
            os.pwrite(stream.fileno(), layout.pack(*fields), at)
    wait_for(lambda: heap(device, owner.name) and heap(device, owner.name)["used"] == (1 << 64) - 1)
    device.ref.query([])


@needs_root
def test_a_client_that_asks_again_and_again_for_what_is_refused_floods_no_log(device, shm_root):
    """Allocations, orders, ports; a domain asks every device at each launch."""
    refusals = {
        "- refused: ": lambda: device.ref.allocateCapacity([devices.capacity(1 << 40)]),
        "nothing is configured": lambda: device.configure("shm::cleanup", CORBA.Any(CORBA.TC_long, 1)),
        "there is no port": lambda: device.ref.getPort("nowhere"),
    }
    for ask in refusals.values():
        for _ in range(2 * sparing.MOST):
            with pytest.raises(CORBA.UserException):
                ask()
    assert device.ref.allocateCapacity([devices.capacity(1)])
    for words in refusals:
        lines = wait_for(lambda words=words: lines_of(device, words)[sparing.MOST - 1 :])
        assert len(lines) == 1 and "further ones are only counted for a minute" in lines[0]


def lines_of(device, words):
    return [line for line in device.output().splitlines() if words in line]


def test_strange_files_by_the_thousand_flood_no_log(device, shm_root):
    for number in range(1000):
        with open(f"{shm_root}/heap-{procfs.PID_MAX + 1 + number}", "wb"):
            pass
    wait_for(lambda: "only counted for a minute" in device.output(), 30)
    device.configure("shm::cleanup", cleanup(rescan=0.2))  # by new orders all is told again
    stays(lambda: len(lines_of(device, "unproven: ")) == sparing.MOST, 1.0)


def test_an_orphan_that_it_may_not_remove_counts_as_a_failure(device, shm_root, spawn):
    device.configure("shm::cleanup", cleanup(enabled=False))
    path = os.path.join(shm_root, f"heap-{spawn.dead_pid()}")
    with open(path, "wb"):
        pass
    done = run_command(["chattr", "+i", path])
    if done.returncode:  # tmpfs has known immutable files since Linux 6.6
        os.unlink(path)
        return
    try:
        device.configure("shm::cleanup", cleanup(rescan=0.2))
        wait_for(lambda: device.query("shm::cleanup_status")["failures"] == 1)
    finally:
        run_command(["chattr", "-i", path])


def test_the_log_level_is_set_from_the_ide(device):
    def logs_an_order(scope):
        count = device.output().count("cleaning is on")
        device.configure("shm::cleanup", cleanup(scope=scope))
        end = time.monotonic() + 1.0
        while time.monotonic() < end and device.output().count("cleaning is on") == count:
            pass
        return device.output().count("cleaning is on") > count

    assert logs_an_order("children")
    device.ref._set_log_level(40000)
    assert not logs_an_order("host")
    device.ref._set_log_level(20000)
    assert logs_an_order("children")
    name = "GppShmPlugin_1.user.shm"
    assert name in device.ref.getNamedLoggers()
    device.ref.setLogLevel(name, 40000)
    assert device.ref.getLogLevel(name) == 40000
    assert not logs_an_order("host")
