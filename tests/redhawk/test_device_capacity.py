"""Shared memory as capacity: both of REDHAWK's allocation interfaces, one ledger, clear reasons."""

# ruff: noqa: F811 (pytest finds fixtures by name: they are imported, and are arguments)

import os
import random
import socket
import subprocess
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import devices
from devices import CF, CORBA, MB, capacity, device, host_name, manager, start, struct  # noqa: F401
from gppshm import memory
from spawning import needs_root, stays, wait_for

pytestmark = pytest.mark.corba

HOST = socket.gethostname()
NAMES = [CORBA.Any(CORBA.TC_string, "64"), CORBA.Any(CORBA.TC_double, 64.0), CORBA.Any(CORBA.TC_null, None)]


@pytest.fixture
def roomy(device):
    """A device without a threshold, that grants half the file system: so much memory there is elsewhere."""
    device.configure("shm::threshold", struct("shm::threshold", free="off", headroom="50%"))
    return device


def left(device):
    return device.query("shm::capacity")


def reserved(device):
    return device.query("shm::usage")["reserved"]


def take_room(shm_root, name, megabytes):
    """Use so much of the file system, for a test."""
    with open(os.path.join(shm_root, name), "wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, megabytes * MB)


def test_what_is_allocated_is_reserved_until_it_is_deallocated(roomy):
    before = left(roomy)
    assert roomy.ref._get_usageState() == CF.Device.IDLE
    assert roomy.ref.allocateCapacity([capacity(64)]) is True
    assert (reserved(roomy), roomy.ref._get_usageState()) == (64 * MB, CF.Device.ACTIVE)
    assert abs(left(roomy) - (before - 64)) <= 8
    roomy.ref.deallocateCapacity([capacity(64)])
    assert (reserved(roomy), roomy.ref._get_usageState()) == (0, CF.Device.IDLE)


def test_both_interfaces_share_one_ledger_and_give_back_their_own(roomy):
    assert roomy.ref.allocateCapacity([capacity(32)])
    (one,) = roomy.ref.allocate([capacity(32)])
    assert one.alloc_id and one.device_ref._is_equivalent(roomy.ref)
    assert [(item.id, item.value.value()) for item in one.allocated] == [("shm::capacity", 32)]
    assert (list(one.data_ports), list(one.control_ports)) == ([], [])
    assert reserved(roomy) == 64 * MB
    roomy.ref.deallocateCapacity([capacity(32)])
    with pytest.raises(CF.Device.InvalidCapacity):  # the other was not made by this interface
        roomy.ref.deallocateCapacity([capacity(32)])
    roomy.ref.deallocate(one.alloc_id)
    assert reserved(roomy) == 0


def test_a_deallocation_gives_back_what_that_allocation_took(roomy):
    ids = {size: roomy.ref.allocate([capacity(size)])[0].alloc_id for size in (10, 20, 30)}
    roomy.ref.deallocate(ids[20])
    assert reserved(roomy) == 40 * MB
    assert roomy.ref.allocateCapacity([capacity(5)]) and roomy.ref.allocateCapacity([capacity(7)])
    roomy.ref.deallocateCapacity([capacity(7)])
    assert reserved(roomy) == 45 * MB


def test_more_or_twice_is_refused_and_says_what_stands(roomy):
    assert roomy.ref.allocateCapacity([capacity(10)]) and roomy.ref.allocateCapacity([capacity(20)])
    with pytest.raises(CF.Device.InvalidCapacity) as refusal:
        roomy.ref.deallocateCapacity([capacity(30)])
    assert "30 MB" in refusal.value.msg and "10 MB, 20 MB" in refusal.value.msg
    roomy.ref.deallocateCapacity([capacity(10)])
    with pytest.raises(CF.Device.InvalidCapacity):
        roomy.ref.deallocateCapacity([capacity(10)])
    (one,) = roomy.ref.allocate([capacity(1)])
    roomy.ref.deallocate(one.alloc_id)
    for unknown in (one.alloc_id, "", "\x7f" * 5000):
        with pytest.raises(CF.Device.InvalidCapacity) as refusal:
            roomy.ref.deallocate(unknown)
        assert "there is no allocation" in refusal.value.msg
    assert reserved(roomy) == 20 * MB


def test_too_much_is_refused_with_what_was_asked_and_what_there_is(roomy):
    there = left(roomy)
    for ask in (roomy.ref.allocateCapacity, roomy.ref.allocate):
        for amount in (there + 100, 1 << 62):
            with pytest.raises(CF.Device.InsufficientCapacity) as refusal:
                ask([capacity(amount)])
            assert f"shm::capacity: {amount} MB were requested" in refusal.value.msg
            assert "MB can be allocated" in refusal.value.msg and HOST in refusal.value.msg
            assert [item.id for item in refusal.value.insufficientCapacities] == ["shm::capacity"]
    assert reserved(roomy) == 0


BAD = [
    [capacity(0)],
    [capacity(-1)],
    [capacity(-(1 << 63))],
    [capacity(1), capacity(1)],
    [host_name("elsewhere"), capacity(0)],
    [host_name("")],
    [host_name(HOST), host_name(HOST)],
    [CF.DataType("shm::host_name", CORBA.Any(CORBA.TC_long, 1))],
    [CF.DataType("shm::usage", CORBA.Any(CORBA.TC_long, 1))],
    [CF.DataType("nothing", CORBA.Any(CORBA.TC_long, 1))],
    [CF.DataType("DCE:cdc5ee18-7ceb-4ae6-bf4c-31f983179b4d", CORBA.Any(CORBA.TC_string, "SHM"))],
    [capacity(1), CF.DataType("nothing", CORBA.Any(CORBA.TC_long, 1))],
] + [[CF.DataType("shm::capacity", value)] for value in NAMES]


@pytest.mark.parametrize("number", range(len(BAD)))
def test_what_makes_no_sense_is_refused_by_name_and_takes_nothing(roomy, number):
    request = BAD[number]
    for ask in (roomy.ref.allocateCapacity, roomy.ref.allocate, roomy.ref.deallocateCapacity):
        with pytest.raises(CF.Device.InvalidCapacity) as refusal:
            ask(request)
        assert refusal.value.msg.startswith(request[-1].id)
        assert [item.id for item in refusal.value.capacities] == [request[-1].id]
    assert (reserved(roomy), roomy.ref._get_usageState()) == (0, CF.Device.IDLE)


@pytest.mark.parametrize("request_", [[host_name("elsewhere")], [capacity(1), host_name(HOST + "2")]])
def test_another_hosts_name_is_answered_quietly_that_it_is_not_here(roomy, request_):
    before = roomy.output()
    assert roomy.ref.allocateCapacity(request_) is False
    assert list(roomy.ref.allocate(request_)) == []
    roomy.ref._set_adminState(CF.Device.LOCKED)
    assert roomy.ref.allocateCapacity(request_) is False
    roomy.ref._set_adminState(CF.Device.UNLOCKED)
    with pytest.raises(CF.Device.InvalidCapacity):
        roomy.ref.deallocateCapacity(request_)
    stays(lambda: "refused" not in roomy.output()[len(before) :], 0.3)
    assert (reserved(roomy), roomy.ref._get_usageState()) == (0, CF.Device.IDLE)


def test_an_allocation_of_nothing_is_refused(roomy):
    for ask in (roomy.ref.allocateCapacity, roomy.ref.allocate, roomy.ref.deallocateCapacity):
        with pytest.raises(CF.Device.InvalidCapacity) as refusal:
            ask([])
        assert "nothing was requested" in refusal.value.msg
    assert roomy.ref._get_usageState() == CF.Device.IDLE


def test_each_refusal_is_logged_with_its_sentence(roomy):
    refusals = [
        ([capacity(1 << 40)], CF.Device.InsufficientCapacity),
        ([capacity(-7)], CF.Device.InvalidCapacity),
    ]
    for request, kind in refusals:
        with pytest.raises(kind) as refusal:
            roomy.ref.allocateCapacity(request)
        sentence = f"refused: {refusal.value.msg}"
        wait_for(lambda: sentence in roomy.output())  # noqa: B023


def test_two_devices_of_one_host_never_promise_the_same_memory(roomy, start):
    arguments = devices.default_arguments(roomy.manager)
    arguments.update(DEVICE_ID="DCE:tests:GppShmPlugin_2", DEVICE_LABEL="GppShmPlugin_2")
    other = start(arguments=arguments)
    wait_for(lambda: len(roomy.manager.devices) == 2)  # they share a log, which says it of the first
    other.ref = roomy.manager.devices[1]._narrow(CF.Device)
    other.configure("shm::threshold", struct("shm::threshold", free="off", headroom="50%"))
    most = left(roomy) * 2 // 3
    assert roomy.ref.allocateCapacity([capacity(most)])
    assert abs(left(other) - left(roomy)) <= 8 and left(other) < most
    assert reserved(other) == reserved(roomy) == most * MB
    with pytest.raises(CF.Device.InsufficientCapacity) as refusal:
        other.ref.allocateCapacity([capacity(most)])
    assert f"other devices of this host have granted {most} MB" in refusal.value.msg
    assert other.ref.allocateCapacity([capacity(16)])
    assert reserved(roomy) == (most + 16) * MB
    roomy.process.kill()
    roomy.process.wait()
    assert reserved(other) == 16 * MB
    assert other.ref.allocateCapacity([capacity(most)])


@needs_root
def test_no_more_is_granted_than_its_control_group_can_hold(start):
    place = next((each for each in memory._hierarchies("/proc/self") if each.version == 1), None)
    if place is None or not os.path.isdir(place.place):
        pytest.skip("no memory controller of version 1 here")
    group = f"{place.place}/gppshm-test-{os.getpid()}"
    device = start()
    os.mkdir(group)
    try:
        for name, value in (("memory.limit_in_bytes", 400 * MB), ("cgroup.procs", device.pid)):
            with open(f"{group}/{name}", "w") as stream:
                stream.write(str(value))
        assert 250 <= left(device) <= 400
        limit = f"memory limit of control group /{os.path.basename(group)}"
        assert device.query("shm::usage")["limit"] == limit
        with pytest.raises(CF.Device.InsufficientCapacity) as refusal:
            device.ref.allocateCapacity([capacity(1500)])
        assert limit in refusal.value.msg
        assert device.ref.allocateCapacity([capacity(200)])
        assert left(device) <= 200
    finally:
        device.close()
        wait_for(lambda: _removed(group))


def _removed(group):
    try:
        os.rmdir(group)
    except OSError:
        return False
    return True


@needs_root
def test_without_inodes_it_has_no_capacity_and_is_busy(start, tmp_path):
    root = tmp_path / "shm"
    root.mkdir()
    subprocess.check_call(["mount", "-t", "tmpfs", "-o", "size=64m,nr_inodes=20", "none", str(root)])
    try:
        device = start({"root": root})
        assert left(device) > 1 and device.query("shm::usage")["inodes"] == 20
        for number in range(device.query("shm::usage")["free_inodes"]):
            (root / f"file{number}").touch()
        assert left(device) == 0
        assert device.query("shm::usage")["limit"] == "inodes of the file system"
        wait_for(lambda: device.ref._get_usageState() == CF.Device.BUSY)
        with pytest.raises(CF.Device.InsufficientCapacity) as refusal:
            device.ref.allocateCapacity([capacity(1)])
        assert "inodes of the file system" in refusal.value.msg
        (root / "file0").unlink()
        wait_for(lambda: device.ref._get_usageState() == CF.Device.IDLE)
        device.close()
    finally:
        subprocess.check_call(["umount", "--lazy", str(root)])


@pytest.mark.parametrize(
    "typecode", [CORBA.TC_short, CORBA.TC_ushort, CORBA.TC_long, CORBA.TC_ulong, CORBA.TC_ulonglong]
)
def test_any_whole_number_is_taken(roomy, typecode):
    assert roomy.ref.allocateCapacity([capacity(3, typecode)])
    roomy.ref.deallocateCapacity([capacity(3)])


def test_a_host_is_asked_for_by_its_name_which_takes_nothing(roomy):
    assert roomy.ref.allocateCapacity([host_name(HOST.upper()), capacity(16)])
    assert roomy.ref.allocateCapacity([host_name(HOST)])
    assert reserved(roomy) == 16 * MB
    with pytest.raises(CF.Device.InvalidCapacity):  # that one was for this host
        roomy.ref.deallocateCapacity([capacity(16)])
    roomy.ref.deallocateCapacity([capacity(16), host_name(HOST)])
    roomy.ref.deallocateCapacity([host_name(HOST)])
    assert roomy.ref._get_usageState() == CF.Device.IDLE


def test_neither_a_grant_nor_its_use_counts_twice(roomy, shm_root):
    before = left(roomy)
    assert roomy.ref.allocateCapacity([capacity(100)])
    granted = left(roomy)
    assert abs(before - 100 - granted) <= 8
    take_room(shm_root, "used", 100)
    assert abs(left(roomy) - granted) <= 8
    take_room(shm_root, "beyond", 50)
    assert abs(left(roomy) - (granted - 50)) <= 8


def test_the_headroom_is_never_granted(roomy):
    before, total = left(roomy), roomy.query("shm::usage")["total"] // MB
    headroom = total // 2 + 100
    roomy.configure("shm::threshold", struct("shm::threshold", free="off", headroom=f"{headroom} MB"))
    assert abs(left(roomy) - (before - 100)) <= 8
    roomy.configure("shm::threshold", struct("shm::threshold", free="off", headroom="100%"))
    assert (left(roomy), roomy.ref._get_usageState()) == (0, CF.Device.BUSY)
    with pytest.raises(CF.Device.InsufficientCapacity):
        roomy.ref.allocateCapacity([capacity(1)])


def test_below_the_threshold_it_is_busy_and_says_so(roomy, shm_root):
    take_room(shm_root, "file", 1)
    roomy.configure("shm::threshold", struct("shm::threshold", free="100%", headroom="off"))
    wait_for(lambda: roomy.ref._get_usageState() == CF.Device.BUSY)
    with pytest.raises(CF.Device.InsufficientCapacity) as refusal:
        roomy.ref.allocateCapacity([capacity(1)])
    assert "threshold, 100%" in refusal.value.msg


def test_locked_it_grants_nothing_and_unlocked_it_does(roomy):
    (one,) = roomy.ref.allocate([capacity(4)])
    roomy.ref._set_adminState(CF.Device.LOCKED)
    calls = [
        lambda: roomy.ref.allocateCapacity([capacity(1)]),
        lambda: roomy.ref.allocate([capacity(1)]),
        lambda: roomy.ref.deallocateCapacity([capacity(1)]),
        lambda: roomy.ref.deallocate(one.alloc_id),
    ]
    for call in calls:
        with pytest.raises(CF.Device.InvalidState) as refusal:
            call()
        assert "LOCKED" in refusal.value.msg
    roomy.ref._set_adminState(CF.Device.UNLOCKED)
    roomy.ref.deallocate(one.alloc_id)
    assert reserved(roomy) == 0


def test_initialising_it_again_resets_nothing(roomy):
    assert roomy.ref.allocateCapacity([capacity(4)])
    roomy.ref._set_adminState(CF.Device.LOCKED)
    roomy.ref.initialize()
    assert roomy.ref._get_adminState() == CF.Device.LOCKED
    assert reserved(roomy) == 4 * MB


def test_the_domain_hears_of_each_change_of_the_usage_state(start, manager):
    channel = devices.Channel()
    arguments = devices.default_arguments(manager)
    arguments["IDM_CHANNEL_IOR"] = devices.orb().object_to_string(channel._this())
    device = start(arguments=arguments)
    device.configure("shm::threshold", struct("shm::threshold", free="off", headroom="off"))
    assert device.ref.allocateCapacity([capacity(1)])
    states = lambda: [  # noqa: E731
        str(data.value().stateChangeTo)
        for data in list(channel.pushed)
        if hasattr(data.value(), "stateChangeTo") and "USAGE" in str(data.value().stateChangeCategory)
    ]
    wait_for(lambda: states() == ["ACTIVE"])
    device.ref.deallocateCapacity([capacity(1)])
    wait_for(lambda: states() == ["ACTIVE", "IDLE"])


def test_eight_clients_at_once_never_get_more_than_there_is(roomy):
    """1,000 requests in all; the ledger is exact at the end."""
    there = roomy.query("shm::usage")["free"] // MB
    roomy.configure("shm::threshold", struct("shm::threshold", free="off", headroom=f"{there - 200} MB"))
    most = left(roomy)
    held, failures = [0] * 8, []
    ready = threading.Barrier(8)

    def client(number):
        chance = random.Random(number)
        ids = []
        ready.wait()
        try:
            for _ in range(125):
                if ids and chance.random() < 0.5:
                    key, size = ids.pop(chance.randrange(len(ids)))
                    held[number] -= (
                        size  # before, so that no sum is ever more than what the device has granted
                    )
                    if key:
                        roomy.ref.deallocate(key)
                    else:
                        roomy.ref.deallocateCapacity([capacity(size)])
                else:
                    # Each client has sizes of its own, so that it finds its own again.
                    size = 8 * chance.randrange(1, 6) + number
                    try:
                        if chance.random() < 0.5:
                            key = roomy.ref.allocate([capacity(size)])[0].alloc_id
                        else:
                            roomy.ref.allocateCapacity([capacity(size)])
                            key = None
                    except CF.Device.InsufficientCapacity:
                        continue
                    ids.append((key, size))
                    held[number] += size
                if sum(held) > most + 8:
                    failures.append(f"{sum(held)} MB are granted of {most}")
        except Exception as error:
            failures.append(repr(error))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert reserved(roomy) == sum(held) * MB


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("allocate"), st.integers(-3, 60)),
        st.tuples(st.just("allocateCapacity"), st.integers(-3, 60)),
        st.tuples(st.just("deallocate"), st.integers(0, 5)),
        st.tuples(st.just("deallocateCapacity"), st.integers(-3, 60)),
    ),
    max_size=30,
)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_any_order_of_calls_agrees_with_a_model(roomy, steps):
    by_id, by_terms = {}, []
    for what, number in steps:
        if what == "allocate":
            try:
                by_id[roomy.ref.allocate([capacity(number)])[0].alloc_id] = number
                assert number > 0
            except CF.Device.InvalidCapacity:
                assert number <= 0
        elif what == "allocateCapacity":
            try:
                assert roomy.ref.allocateCapacity([capacity(number)])
                by_terms.append(number)
                assert number > 0
            except CF.Device.InvalidCapacity:
                assert number <= 0
        elif what == "deallocate":
            key = sorted(by_id)[number % len(by_id)] if by_id else "none"
            try:
                roomy.ref.deallocate(key)
                del by_id[key]
            except CF.Device.InvalidCapacity:
                assert key == "none"
        else:
            try:
                roomy.ref.deallocateCapacity([capacity(number)])
                by_terms.remove(number)
            except CF.Device.InvalidCapacity:
                assert number not in by_terms
        assert reserved(roomy) == (sum(by_id.values()) + sum(by_terms)) * MB
    for key in by_id:
        roomy.ref.deallocate(key)
    for number in by_terms:
        roomy.ref.deallocateCapacity([capacity(number)])
    assert reserved(roomy) == 0
