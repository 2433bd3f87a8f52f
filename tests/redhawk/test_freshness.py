"""A query of the device never shows a state that is older than it says."""

# ruff: noqa: F811 (pytest finds fixtures by name: they are imported, and are arguments)

import os
import signal
import time

import pytest

from devices import CORBA, device, manager, start, struct  # noqa: F401
from plugins import children
from spawning import stays, wait_for

pytestmark = pytest.mark.corba

FRESH = 0.1
"""Seconds; what is shown as being of now may be so old."""
SMALL = "--size=65536"


def rows(device):
    return {each["name"]: each for each in device.query("shm::heaps")}


def make(spawn, shm_root, count):
    """So many heaps, of which the youngest is FRESH seconds old."""
    owners = [spawn.owner(shm_root, SMALL) for _ in range(count)]
    time.sleep(FRESH)
    return owners


def end(shm_root, owners):
    """Have the creators die, and their heaps removed."""
    for owner in owners:
        owner.kill()
    wait_for(lambda: not {owner.name for owner in owners} & set(os.listdir(shm_root)))
    time.sleep(FRESH)


@pytest.fixture
def blind(device, spawn, shm_root):
    """A device whose looks at processes come to no end; it has shown one heap before."""
    owner = spawn.owner(shm_root, SMALL)
    wait_for(lambda: rows(device).get(owner.name, {}).get("state") == "alive")
    (observer,) = [pid for pid in children(device.pid) if b"observing.py" in command(pid)]
    os.kill(observer, signal.SIGSTOP)
    device.owner = owner
    yield device
    os.kill(observer, signal.SIGCONT)


def command(pid):
    with open(f"/proc/{pid}/cmdline", "rb") as stream:
        return stream.read()


def test_each_heap_that_there_is_is_shown_and_none_that_is_gone(device, spawn, shm_root):
    old = []
    for _ in range(4):
        owners = make(spawn, shm_root, 8)
        assert set(rows(device)) == {owner.name for owner in old + owners}
        end(shm_root, old + owners[:6])
        old = owners[6:]
        assert set(rows(device)) == {owner.name for owner in old}
        assert device.query("shm::overview")["heap_count"] == len(old)


def test_it_is_so_too_while_no_process_can_be_looked_at_and_each_says_its_age(blind, spawn, shm_root):
    owners = make(spawn, shm_root, 8)
    wait_for(lambda: blind.query("shm::cleanup_status")["watched"] == 9)
    found = rows(blind)
    assert set(found) == {owner.name for owner in [blind.owner, *owners]}
    assert {each["state"] for each in found.values()} == {"alive"}
    assert found[owners[0].name]["superblocks"] == 1
    end(shm_root, owners[:6])
    assert set(rows(blind)) == {owner.name for owner in [blind.owner, *owners[6:]]}
    seen = blind.query("shm::overview")
    assert (seen["heap_count"], seen["alive"]) == (3, 3) and seen["age"] > 0


def test_what_could_not_be_looked_at_since_is_as_old_as_it_says(blind, spawn, shm_root):
    before = time.monotonic()
    spawn.peer(shm_root, blind.owner)
    stays(lambda: True, 0.3)
    while True:
        asked = time.monotonic()
        shown = rows(blind)[blind.owner.name]
        assert shown["attached"] == 0
        assert asked - before <= shown["age"] + 0.06  # it is rounded
        if asked - before > 2.0:
            break


def test_a_query_is_not_held_up_by_a_look_at_processes(blind):
    took = []
    for _ in range(5):
        began = time.monotonic()
        blind.query("shm::overview")
        took.append(time.monotonic() - began)
    assert min(took) < 0.5


def test_dead_creators_are_shown_as_such_while_no_process_can_be_looked_at(blind, spawn, shm_root):
    orders = {"enabled": True, "scope": "host", "rescan": CORBA.Any(CORBA.TC_double, 30.0), "fifos": False}
    blind.configure("shm::cleanup", struct("shm::cleanup", dry_run=True, **orders))
    owner = make(spawn, shm_root, 1)[0]
    wait_for(lambda: blind.query("shm::cleanup_status")["watched"] == 2)
    owner.kill()
    wait_for(lambda: rows(blind)[owner.name]["state"] == "orphaned")
