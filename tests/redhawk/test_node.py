"""The device in a node: launched from its DCD, or registered by the plugin beside its GPP."""

# ruff: noqa: F811 (pytest finds fixtures by name: they are imported, and are arguments)

import json
import os
import re
import signal
import subprocess
import sys

import pytest

from client import CF, STANDIN
from nodes import domain, filled, sdr  # noqa: F401
from places import HEAPWRITER
from plugins import NAME, client
from spawning import lives, python_command, stays, wait_for
from watching import gone

from gppshm.redhawk.corba import CORBA, CosNaming  # isort: skip

pytestmark = pytest.mark.corba

BESIDE, IN_DCD = "GppShmNode", "GppShmDeviceNode"
DEVICE = {BESIDE: "GPP_1_shm", IN_DCD: "GppShmPlugin_1"}
MB = 1048576


def component(running, shm_root):
    """Have the GPP execute a component with a heap; its pid, once the heap is whole."""
    command = [sys.executable, "-I", HEAPWRITER, "own", f"--root={shm_root}", "--for-ever"]
    pid = running.gpp().execute(command)
    wait_for(lambda: f"ready heap-{pid}\n" in running.output())
    return pid


def reserved(device):
    return client.query(device, "shm::usage")["reserved"]


def crash(running, device, shm_root):
    """A component crashes; wait until the device has told that its heap was removed."""
    pid = component(running, shm_root)
    before = client.query(device, "shm::cleanup_status")["removed"]
    wait_for(lambda: client.query(device, "shm::cleanup_status")["watched"] >= 1)
    os.kill(pid, signal.SIGKILL)
    gone(shm_root, f"heap-{pid}")
    wait_for(lambda: client.query(device, "shm::cleanup_status")["removed"] > before)
    return pid


@pytest.mark.parametrize("node", [BESIDE, IN_DCD])
def test_it_stands_in_the_node_is_started_cleans_and_shows(domain, sdr, shm_root, node):
    if node == IN_DCD:
        sdr.settings(dry_run="yes")  # the plugin's alone: the device has its orders from its PRF
    running = domain(node)
    device = running.device(DEVICE[node])
    assert running.resolve(node, DEVICE[node])._is_equivalent(device)
    wait_for(device._get_started)
    assert device._get_softwareProfile() == "/devices/GppShmPlugin/GppShmPlugin.spd.xml"
    pid = crash(running, device, shm_root)
    assert client.query(device, "shm::recent")[0]["creator"] == pid


REFUSED = """<componentproperties><structref refid="shm::cleanup">
  <simpleref refid="shm::cleanup::scope" value="everybody"/>
</structref></componentproperties>"""


def test_a_dcd_with_a_value_that_is_refused_gets_a_device_that_cleans_nothing_and_says_why(
    domain, sdr, shm_root, spawn
):
    sdr.settings(dry_run="yes", device="no")  # the plugin would clean
    path = os.path.join(sdr.path, "dev", "nodes", IN_DCD, "DeviceManager.dcd.xml")
    with open(path) as stream:
        text = stream.read()
    label = "<usagename>GppShmPlugin_1</usagename>"
    with open(path, "w") as stream:
        stream.write(text.replace(label, label + REFUSED))
    orphan = os.path.join(shm_root, f"heap-{spawn.dead_pid()}")
    open(orphan, "wb").close()
    running = domain(IN_DCD)
    device = running.device(DEVICE[IN_DCD])
    wait_for(lambda: "shm::cleanup::scope: 'everybody' is neither host nor children" in running.output())
    assert not client.query(device, "shm::cleanup")["enabled"] and os.path.exists(orphan)
    assert device._get_operationalState() == CF.Device.DISABLED
    client.configure(device, "shm::cleanup", {"enabled": True, "scope": "host", "dry_run": False})
    wait_for(lambda: not os.path.exists(orphan))


def test_beside_the_gpp_it_is_the_plugin_itself(domain, shm_root):
    """One process, one watcher: the same figures on both."""
    running = domain(BESIDE)
    device, gpp = running.device("GPP_1_shm"), running.gpp()
    crash(running, device, shm_root)
    wait_for(lambda: gpp.metric("shm_removed")["metric_recorded_value"] == "1")
    assert client.query(device, "shm::cleanup_status")["removed"] == 1
    plugin = gpp.plugin(NAME)
    gpp.set_threshold(plugin["id"], "shm_free", "12 MB")
    wait_for(lambda: client.query(device, "shm::threshold")["free"] == "12 MB")
    client.configure(device, "shm::threshold", {"free": "34 MB"})
    wait_for(lambda: gpp.metric("shm_free")["metric_threshold_value"] == "34 MB", 3)


def test_what_the_device_is_told_not_to_clean_the_metrics_say(domain):
    running = domain(BESIDE)
    device, gpp = running.device("GPP_1_shm"), running.gpp()
    client.configure(device, "shm::cleanup", {"enabled": False, "scope": "host", "rescan": 30.0})
    wait_for(lambda: gpp.metric("shm_removed")["metric_reason"].endswith("; cleaning is off"))


def test_the_plugin_of_a_second_gpp_of_the_node_follows_the_device_beside_the_first(domain, shm_root):
    running = domain(BESIDE)
    device = running.device("GPP_1_shm")
    client.configure(device, "shm::cleanup", {"enabled": False, "scope": "host", "rescan": 30.0})
    again = start_plugin_again(running)
    wait_for(lambda: "the device GPP_1_shm of this node cleans: cleaning is off" in running.output())
    pid = component(running, shm_root)
    wait_for(lambda: client.query(device, "shm::cleanup_status")["watched"] >= 1)
    os.kill(pid, signal.SIGKILL)
    stays(lambda: os.path.exists(os.path.join(shm_root, f"heap-{pid}")), 0.5)
    os.kill(running.gpp().plugin(NAME)["pid"], signal.SIGKILL)
    gone(shm_root, f"heap-{pid}")
    assert again.poll() is None


def test_its_id_is_the_same_at_each_start_of_the_same_gpp(domain, sdr, tmp_path):
    running = domain(BESIDE)
    first = running.device("GPP_1_shm")._get_identifier()
    assert re.fullmatch(r"DCE:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", first)
    running.shut_node_down()
    running.start_node(BESIDE)
    assert running.device("GPP_1_shm")._get_identifier() == first


def test_a_node_that_has_the_device_in_its_dcd_gets_no_second_one(domain):
    running = domain(IN_DCD)
    running.device("GppShmPlugin_1")
    wait_for(lambda: "no device beside the GPP: the node's DCD has this device" in running.output())
    assert set(running.devices()) == {"GPP_1", "GppShmPlugin_1"}


def test_without_its_profile_in_the_node_it_stays_a_mere_plugin(domain, sdr, shm_root):
    os.unlink(os.path.join(sdr.path, "dev", "devices", NAME, NAME + ".spd.xml"))
    running = domain(BESIDE)
    wait_for(lambda: "./build.sh install puts it there" in running.output())
    gpp = running.gpp()
    wait_for(lambda: gpp.plugin(NAME))
    assert running.ref._get_identifier()  # the DomainManager has not aborted
    assert set(running.devices()) == {"GPP_1"}


def test_told_not_to_it_stays_a_mere_plugin(domain, sdr):
    sdr.settings(device="no")
    running = domain(BESIDE)
    gpp = running.gpp()
    wait_for(lambda: gpp.metric("shm_free"))
    assert set(running.devices()) == {"GPP_1"}


def test_the_label_of_a_dead_device_is_taken_over(domain, shm_root):
    """It died without unregistering: REDHAWK would say nothing, and register nothing."""
    running = domain(BESIDE)
    running.device("GPP_1_shm")
    gpp = running.gpp()
    pid = gpp.plugin(NAME)["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not lives(pid))
    assert running.resolve(BESIDE, "GPP_1_shm") is not None
    again = start_plugin_again(running)
    wait_for(lambda: "GPP_1_shm" in running.devices(), 20)
    crash(running, running.device("GPP_1_shm"), shm_root)
    assert again.poll() is None


def start_plugin_again(running):
    """By hand, as the GPP starts it: from a process with the GPP's command line."""
    with open(f"/proc/{running.gpp().ref._get_pid()}/cmdline", "rb") as stream:
        words = stream.read().decode().split("\0")[2:-1]
    return running.spawn([sys.executable, "-c", LIKE_A_GPP, *words, STANDIN], running.folder)


# With the GPP's own arguments on its command line, it starts the plugin of the SDRROOT in its environment.
LIKE_A_GPP = """
import os, subprocess, sys
sys.path.insert(0, sys.argv[-1])
from omniORB import CORBA
from channel import MessageConsumer
orb = CORBA.ORB_init(["gpp"], CORBA.ORB_ID)
orb.resolve_initial_references("RootPOA")._get_the_POAManager().activate()
port = MessageConsumer(lambda data: None)
program = os.environ["SDRROOT"] + "/dev/devices/GPP/plugins/GppShmPlugin/GppShmPlugin"
subprocess.call([program, orb.object_to_string(port._this()), "DCE:again"])
"""


def test_a_living_object_keeps_its_name_and_is_told(domain, sdr):
    """As long as it lives: then the name is taken over."""
    sdr.settings(device="no")
    running = domain(BESIDE)
    taken = running.gpp().ref
    node = running.resolve(BESIDE)._narrow(CosNaming.NamingContext)
    node.bind([CosNaming.NameComponent("GPP_1_shm", "")], taken)
    sdr.settings(device="yes")
    start_plugin_again(running)
    wait_for(lambda: "belongs to an object that may live" in running.output(), 20)
    assert running.resolve(BESIDE, "GPP_1_shm")._is_equivalent(taken)
    node.unbind([CosNaming.NameComponent("GPP_1_shm", "")])
    running.device("GPP_1_shm", 20)


# Beside the GPP on REDHAWK 2.x: its DeviceManager would die of a device that its DCD does not have.


@pytest.fixture
def redhawk_2(domain):
    """A domain of REDHAWK 2.3.2 with a GPP, and the device beside it."""
    running = domain(BESIDE, version="2.3.2")
    device = wait_for(lambda: running.resolve(BESIDE, DEVICE[BESIDE]), 20)._narrow(CF.Device)
    wait_for(device._get_started)
    return running, device


def test_on_2_the_domain_is_told_of_it_and_the_manager_lives(redhawk_2, shm_root):
    running, device = redhawk_2
    crash(running, device, shm_root)
    assert running.process.poll() is None and set(running.devices()) == {"GPP_1"}
    with pytest.raises(CF.DomainManager.RegisterError):
        running.ref.registerDevice(device, running.manager)  # it is


def test_on_2_a_waveform_reserves_memory_also_with_its_components_on_that_host(redhawk_2):
    running, device = redhawk_2
    for name in ("shm_reserve", "shm_reserve_collocated"):
        application = running.create(SADS[name], "w")
        assert reserved(device) == 64 * MB
        application.releaseObject()
        assert reserved(device) == 0


def test_on_2_it_is_among_the_hosts_of_the_domain(redhawk_2):
    running, device = redhawk_2
    command = python_command("from gppshm.cli.shminfo import main; sys.exit(main())")
    command += ["--domain", "REDHAWK_DEV", "--json"]
    shown = json.loads(subprocess.check_output(command, env=running.environment))
    assert [(each["node"], each["device"], each["error"]) for each in shown["devices"]] == [
        (BESIDE, device._get_label(), None)
    ]


def test_on_2_it_leaves_the_domain_and_its_name_with_its_gpp(redhawk_2):
    running, device = redhawk_2
    os.kill(running.gpp().ref._get_pid(), signal.SIGKILL)
    wait_for(lambda: running.resolve(BESIDE, DEVICE[BESIDE]) is None, 20)
    with pytest.raises(CF.InvalidObjectReference):
        running.ref.unregisterDevice(device)


def test_on_2_the_label_of_a_dead_device_is_taken_over(redhawk_2, shm_root):
    running, device = redhawk_2
    pid = running.gpp().plugin(NAME)["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not lives(pid))
    start_plugin_again(running)

    def anew():
        found = running.resolve(BESIDE, DEVICE[BESIDE])
        return found is not None and not found._is_equivalent(device) and found._narrow(CF.Device)

    crash(running, wait_for(anew, 20), shm_root)


@pytest.mark.parametrize("version", ["2.3.2", "3.0.1"])
@pytest.mark.parametrize("node", [BESIDE, IN_DCD])
def test_a_node_that_is_shut_down_leaves_nothing_running_or_bound(domain, node, version):
    running = domain(None, version=version)
    before = set(running.descendants())
    running.start_node(node)
    wait_for(lambda: running.resolve(node, DEVICE[node]))
    wait_for(lambda: f"as {DEVICE[node]}" in running.output())
    running.shut_node_down()
    wait_for(lambda: set(running.descendants()) <= before)
    assert running.resolve(node, DEVICE[node]) is None
    assert "Traceback" not in running.output()


def test_released_alone_the_device_goes_and_the_plugin_stays(domain, shm_root):
    running = domain(BESIDE)
    device, gpp = running.device("GPP_1_shm"), running.gpp()
    device.releaseObject()
    wait_for(lambda: "GPP_1_shm" not in running.devices())
    pid = component(running, shm_root)
    os.kill(pid, signal.SIGKILL)
    gone(shm_root, f"heap-{pid}")
    assert gpp.plugin(NAME)["alive"]
    wait_for(lambda: "cleaning goes on: it was released" in running.output())


def test_when_the_manager_is_killed_the_plugin_goes_on_without_the_device(domain, shm_root):
    running = domain(BESIDE)
    gpp = running.gpp()
    # In the manager's list it stands a little earlier: killed then, it is registered with nobody.
    wait_for(lambda: "registered with its DeviceManager as GPP_1_shm" in running.output())
    running.kill_node()
    wait_for(lambda: "cleaning goes on: its DeviceManager is gone" in running.output(), 80)
    assert gpp.plugin(NAME)["alive"]


def test_when_the_gpp_is_killed_the_device_unregisters(domain):
    running = domain(BESIDE)
    running.device("GPP_1_shm")
    os.kill(running.gpp().ref._get_pid(), signal.SIGKILL)
    wait_for(lambda: running.resolve(BESIDE, "GPP_1_shm") is None, 20)


SADS = {
    "shm_reserve": "/waveforms/shm_reserve/shm_reserve.sad.xml",
    "shm_reserve_host": "/waveforms/shm_reserve_host/shm_reserve_host.sad.xml",
    "shm_reserve_collocated": "/waveforms/shm_reserve_collocated/shm_reserve_collocated.sad.xml",
}


@pytest.mark.parametrize("node", [BESIDE, IN_DCD])
def test_a_waveform_reserves_memory_and_gives_it_back(domain, node):
    running = domain(node)
    device = running.device(DEVICE[node])
    application = running.create(SADS["shm_reserve"], "w1")
    assert reserved(device) == 64 * MB
    assert device._get_usageState() == CF.Device.ACTIVE
    other = running.create(SADS["shm_reserve"], "w2")
    assert reserved(device) == 128 * MB
    application.releaseObject()
    assert reserved(device) == 64 * MB
    other.releaseObject()
    assert reserved(device) == 0
    wait_for(lambda: device._get_usageState() == CF.Device.IDLE)


def test_the_metrics_of_the_plugin_show_what_its_device_granted(domain, sdr):
    scraping = pytest.importorskip("scraping")
    port = scraping.free_port()
    sdr.settings(metrics=port)
    device = domain(BESIDE).device(DEVICE[BESIDE])
    asked = [CF.DataType("shm::capacity", CORBA.Any(CORBA.TC_longlong, 32))]
    assert device.allocateCapacity(asked)

    def shown():
        try:
            return scraping.scrape(port).get("reserved_bytes")
        except OSError:
            return None  # it is not served yet

    wait_for(lambda: shown() == 32 * MB)
    device.deallocateCapacity(asked)
    wait_for(lambda: shown() == 0)


def test_a_waveform_that_wants_too_much_is_refused_and_takes_nothing(domain, sdr):
    path = os.path.join(sdr.path, "dom" + SADS["shm_reserve"])
    with open(path) as stream:
        text = stream.read()
    with open(path, "w") as stream:
        stream.write(text.replace('value="64"', 'value="99999999"'))
    running = domain(BESIDE)
    device = running.device("GPP_1_shm")
    with pytest.raises(CF.ApplicationFactory.CreateApplicationError) as refusal:
        running.create(SADS["shm_reserve"], "w")
    assert "usesdevice" in refusal.value.msg
    assert reserved(device) == 0


def test_a_waveform_asks_for_a_host_by_its_name(domain, sdr):
    running = domain(BESIDE)
    device = running.device("GPP_1_shm")
    with pytest.raises(CF.ApplicationFactory.CreateApplicationError):
        running.create(SADS["shm_reserve_host"], "elsewhere")  # of a host that is not this one
    path = os.path.join(sdr.path, "dom" + SADS["shm_reserve_host"])
    with open(path) as stream:
        text = stream.read()
    with open(path, "w") as stream:
        stream.write(text.replace("my-host", os.uname().nodename))
    application = running.create(SADS["shm_reserve_host"], "here")
    assert reserved(device) == 64 * MB
    application.releaseObject()
    assert reserved(device) == 0


def test_redhawk_3_refuses_the_collocated_form(domain):
    running = domain(BESIDE)
    running.device("GPP_1_shm")
    with pytest.raises(CF.ApplicationFactory.CreateApplicationError):
        running.create(SADS["shm_reserve_collocated"], "w")


def test_a_busy_device_is_passed_over(domain, shm_root):
    running = domain(BESIDE)
    device = running.device("GPP_1_shm")
    with open(os.path.join(shm_root, "file"), "wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, MB)
    client.configure(device, "shm::threshold", {"free": "100%"})
    wait_for(lambda: device._get_usageState() == CF.Device.BUSY)
    with pytest.raises(CF.ApplicationFactory.CreateApplicationError):
        running.create(SADS["shm_reserve"], "w")
    client.configure(device, "shm::threshold", {"free": "off"})
    wait_for(lambda: device._get_usageState() == CF.Device.IDLE)
    running.create(SADS["shm_reserve"], "w").releaseObject()
