"""A node whose DCD has the device, and a GPP with the plugin: one of them cleans, by the device's orders."""

# ruff: noqa: F811 (pytest finds fixtures by name: they are imported, and are arguments)

import os
import signal
import sys

import pytest

from nodes import domain, filled, sdr  # noqa: F401
from places import HEAPWRITER
from plugins import NAME, client, watches
from spawning import lives, stays, wait_for
from watching import gone

pytestmark = pytest.mark.corba

NODE, DEVICE = "GppShmDeviceNode", "GppShmPlugin_1"


def component(running, shm_root):
    """Have the GPP execute a component with a heap; its pid, once plugin and device have seen it."""
    command = [sys.executable, "-I", HEAPWRITER, "own", f"--root={shm_root}", "--for-ever"]
    pid = running.gpp().execute(command)
    wait_for(lambda: f"ready heap-{pid}\n" in running.output())
    wait_for(lambda: client.query(running.device(DEVICE), "shm::cleanup_status")["watched"])
    return pid


def reason(running):
    return running.gpp().metric("shm_removed")["metric_reason"]


def engines(running):
    found = []
    for pid in running.descendants():
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as stream:
                found += [pid] if b"engine_process.py" in stream.read() and lives(pid) else []
        except OSError:
            continue
    return found


@pytest.fixture
def running(domain):
    """Such a node, whose plugin follows the device."""
    node = domain(NODE)
    node.device(DEVICE)
    wait_for(lambda: f"the device {DEVICE} of this node cleans" in node.output(), 20)
    wait_for(lambda: node.gpp().plugin(NAME) and node.gpp().metric("shm_removed"))
    return node


def order(running, **members):
    values = {"enabled": True, "scope": "host", "rescan": 30.0, "dry_run": False}
    client.configure(running.device(DEVICE), "shm::cleanup", dict(values, **members))


def test_one_process_cleans_and_the_figures_are_the_same_in_both(running, shm_root):
    wait_for(lambda: len(engines(running)) == 1)
    for number in range(1, 4):
        pid = component(running, shm_root)
        os.kill(pid, signal.SIGKILL)
        gone(shm_root, f"heap-{pid}")
        wait_for(lambda: running.gpp().metric("shm_removed")["metric_recorded_value"] == str(number))  # noqa: B023
    status = client.query(running.device(DEVICE), "shm::cleanup_status")
    assert (status["removed"], status["removed_by_others"]) == (3, 0)
    assert f"the device {DEVICE} removes them" in reason(running)
    assert running.output().count(f"removed: heap-{pid} ") == 1


@pytest.mark.parametrize(
    "orders, limit",
    [({"enabled": False}, "cleaning is off"), ({"dry_run": True}, "dry run: nothing is removed")],
    ids=["off", "dry run"],
)
def test_what_the_device_is_told_not_to_clean_nobody_cleans_and_the_plugin_says_so(
    running, shm_root, orders, limit
):
    order(running, **orders)
    wait_for(lambda: f"{limit}, by the orders of the device {DEVICE}" in reason(running))
    pid = component(running, shm_root)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: client.query(running.device(DEVICE), "shm::overview")["orphaned"] == 1)
    wait_for(lambda: running.gpp().metric("shm_orphaned")["metric_recorded_value"] == "2.0 MB")
    stays(lambda: os.path.exists(os.path.join(shm_root, f"heap-{pid}")), 0.5)
    order(running)
    gone(shm_root, f"heap-{pid}")
    wait_for(lambda: limit not in reason(running))
    wait_for(lambda: running.gpp().metric("shm_orphaned")["metric_recorded_value"] == "0.0 MB", 15)


def test_the_scope_of_the_device_is_that_of_the_plugin(running, shm_root, spawn):
    order(running, scope="children")
    wait_for(lambda: "only heaps of child processes" in reason(running))
    stranger = spawn.owner(shm_root)
    pid = component(running, shm_root)
    wait_for(lambda: client.query(running.device(DEVICE), "shm::cleanup_status")["watched"] == 2)
    stranger.kill()
    os.kill(pid, signal.SIGKILL)
    gone(shm_root, f"heap-{pid}")
    stays(lambda: os.path.exists(os.path.join(shm_root, stranger.name)), 0.5)


def device_pid(running):
    for pid in running.descendants():
        with open(f"/proc/{pid}/cmdline", "rb") as stream:
            if DEVICE.encode() in stream.read().split(b"\0"):
                return pid
    raise AssertionError("the device has no process")


def test_when_the_device_is_killed_although_it_was_off_the_plugin_cleans_by_its_own_settings(
    running, shm_root
):
    order(running, enabled=False)
    pid = component(running, shm_root)
    wait_for(lambda: "cleaning is off" in reason(running))
    os.kill(device_pid(running), signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    gone(shm_root, f"heap-{pid}")
    wait_for(lambda: f"the device {DEVICE} has stopped cleaning" in running.output())
    wait_for(lambda: "cleaning is off" not in reason(running))
    wait_for(lambda: len(engines(running)) == 1)


def test_when_the_device_is_released_the_plugin_cleans(running, shm_root):
    pid = component(running, shm_root)
    plugin = running.gpp().plugin(NAME)["pid"]
    running.device(DEVICE).releaseObject()
    wait_for(lambda: watches(plugin, pid))
    os.kill(pid, signal.SIGKILL)
    gone(shm_root, f"heap-{pid}")
    # The device's last sweep may have been the first.
    wait_for(lambda: reason(running).startswith("1 heap ") or "others removed 1" in reason(running))


def test_when_the_gpp_is_gone_the_plugin_leaves_the_heaps_to_the_device(running, shm_root):
    pid = component(running, shm_root)
    plugin = running.gpp().plugin(NAME)["pid"]
    os.kill(running.gpp().ref._get_pid(), signal.SIGKILL)
    wait_for(lambda: not lives(plugin), 5)  # not for its `settle`
    assert os.path.exists(os.path.join(shm_root, f"heap-{pid}"))
    os.kill(pid, signal.SIGKILL)
    gone(shm_root, f"heap-{pid}")
