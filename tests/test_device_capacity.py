"""Shared memory as capacity: both of REDHAWK's allocation interfaces, one ledger, clear reasons."""

# ruff: noqa: F811 (pytest finds fixtures by name: they are imported, and are arguments)

import os
import random
import socket
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import devices
from conftest import wait_for
from devices import CF, CORBA, MB, capacity, device, host_name, manager, start, struct  # noqa: F401

pytestmark = pytest.mark.corba

HOST = socket.gethostname()
NAMES = [CORBA.Any(CORBA.TC_string, "64"), CORBA.Any(CORBA.TC_double, 64.0), CORBA.Any(CORBA.TC_null, None)]


@pytest.fixture
def roomy(device):
    """A device without headroom and threshold, so that figures are plain."""
    device.configure("shm::threshold", struct("shm::threshold", free="off", headroom="off"))
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
            assert f"shm::capacity: {amount} MB were asked for" in refusal.value.msg
            assert "MB can be allocated" in refusal.value.msg and HOST in refusal.value.msg
            assert [item.id for item in refusal.value.insufficientCapacities] == ["shm::capacity"]
    assert reserved(roomy) == 0


BAD = [
    [capacity(0)],
    [capacity(-1)],
    [capacity(-(1 << 63))],
    [capacity(1), capacity(1)],
    [capacity(1), host_name("elsewhere")],
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
    before = left(roomy)
    roomy.configure("shm::threshold", struct("shm::threshold", free="off", headroom="100 MB"))
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
    there = left(roomy)
    roomy.configure(
        "shm::threshold", struct("shm::threshold", free="off", headroom=f"{max(0, there - 200)} MB")
    )
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
