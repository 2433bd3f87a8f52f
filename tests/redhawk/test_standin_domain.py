"""The stand-in's DomainManager and DeviceManager treat devices as REDHAWK's do, traps included."""

# ruff: noqa: F811 (pytest finds fixtures by name: they are imported, and are arguments)

import os
import signal

import pytest

from probing import CF, CORBA, PROBE, PROFILE, client, installing, sdrroot, start, wait_for  # noqa: F401

pytestmark = pytest.mark.corba

PLUGIN = """#!/bin/sh
tr '\\0' '\\n' </proc/$PPID/cmdline >"$0.parent"
trap 'echo TERM >>"$0.parent"' TERM
while :; do sleep 0.02; done
"""
CAPACITY, KIND, SPEED = "probe::capacity", "probe::kind", "probe::speed"
TWO = [("Probe_1", PROFILE, 0, {}), ("Probe_2", PROFILE, 0, {})]


def words_of(pid):
    try:
        with open(f"/proc/{pid}/cmdline") as stream:
            return stream.read().split("\0")[:-1]
    except OSError:
        return []


def process_of(domain, label):
    """The pid of the device of that label, once it executes its program."""

    def found():
        return next((pid for pid in domain.descendants() if {PROBE, label} <= set(words_of(pid))), None)

    return wait_for(found)


def status(pid, key):
    with open(f"/proc/{pid}/status") as stream:
        return next(line.split()[1] for line in stream if line.startswith(key + ":"))


def started(domain, label="Probe_1"):
    """The device of that label, once it is started."""
    device = domain.device(label)
    wait_for(device._get_started)
    return device


def calls(device):
    return client.query(device, "probe::calls").splitlines()


def create(domain, *wanted, name="W", **more):
    """Create a waveform with one usesdevice, or with several by their ids."""
    sad = installing.waveform(domain.environment["SDRROOT"], name, more or {"uses": wanted})
    return domain.create(sad)


def assigned(application):
    return [each.assignedDeviceId for each in application._get_componentDevices()]


# Launching


def test_a_device_gets_what_redhawk_gives_it(start, tmp_path):
    domain = start([("Probe_1", PROFILE, 0, {"probe::level": "2.5"})])
    device = started(domain)
    pid = process_of(domain, "Probe_1")
    words = words_of(pid)[words_of(pid).index(PROBE) + 1 :]
    ior = client.orb().object_to_string(domain.manager)
    channel = words[words.index("IDM_CHANNEL_IOR") + 1]
    assert words == [
        *("PROFILE_NAME", PROFILE, "DEVICE_ID", "node:Probe_1", "DEVICE_LABEL", "Probe_1"),
        *("IDM_CHANNEL_IOR", channel, "DEBUG_LEVEL", "3", "DOM_PATH", "REDHAWK_DEV/node"),
        *("probe::level", "2.5", "DEVICE_MGR_IOR", ior),
    ]
    assert os.getpgid(pid) == pid and int(status(pid, "PPid")) == domain.process.pid
    assert os.readlink(f"/proc/{pid}/cwd") == str(tmp_path / ".node" / "Probe_1")
    assert int(status(pid, "SigBlk"), 16) == 0
    # Python ignores SIGPIPE anyway.
    assert not int(status(pid, "SigIgn"), 16) & (1 << signal.SIGINT - 1)
    assert calls(device)[0] == "initializeProperties probe::limits"


def test_names_are_bound_as_redhawk_binds_them(start):
    domain = start()
    device = started(domain)
    assert domain.resolve("REDHAWK_DEV")._is_equivalent(domain.ref)
    assert domain.resolve("node", "Probe_1")._is_equivalent(device)
    (manager,) = domain.ref._get_deviceManagers()
    assert manager._is_equivalent(domain.manager) and manager._get_label() == "node"
    assert manager._get_domMgr()._is_equivalent(domain.ref)
    assert manager._get_deviceConfigurationProfile() == "/nodes/node/DeviceManager.dcd.xml"
    files = manager._get_fileSys()
    assert files.exists(PROFILE) and not files.exists("/devices/None/None.spd.xml")
    with pytest.raises(CF.InvalidFileName):
        files.exists("devices")


def test_devices_are_started_by_startorder_once_all_are_there_and_others_never(start):
    domain = start([("Late", PROFILE, 2, {}), ("Never", PROFILE, None, {}), ("Early", PROFILE, 1, {})])
    started(domain, "Late")
    assert domain.device("Early")._get_started() and not domain.device("Never")._get_started()


def test_a_device_that_cannot_be_executed_is_left_out_and_the_others_are_launched(start, sdrroot):
    bad = installing.device(sdrroot, "Bad", "no program")
    domain = start([("Bad_1", bad, 0, {}), ("None_1", "/devices/None.spd.xml", 0, {}), *TWO[:1]])
    started(domain)
    assert list(domain.devices()) == ["Probe_1"]
    assert "execute file permissions" in domain.output() and "None.spd.xml" in domain.output()


def test_a_launched_device_that_dies_is_forgotten(start):
    domain = start()
    started(domain)
    os.kill(process_of(domain, "Probe_1"), signal.SIGKILL)
    wait_for(lambda: not domain.manager._get_registeredDevices())
    wait_for(lambda: domain.resolve("node", "Probe_1") is None)
    with pytest.raises(CF.ApplicationFactory.CreateApplicationError):
        create(domain, (KIND, "PROBE"))


def test_a_killed_manager_leaves_its_devices_and_their_names(start):
    domain = start()
    device = started(domain)
    domain.kill_node()
    assert device._get_started() and domain.resolve("node", "Probe_1")


def test_the_gpp_of_a_node_launches_plugins_that_find_the_manager_by_their_parent(start, sdrroot):
    plugin = installing.plugin(sdrroot, "one", PLUGIN)
    profile = installing.gpp(sdrroot)
    domain = start([("GPP_1", profile, 0, {"STANDIN_CLEANS": "1"})])
    gpp = domain.gpp()
    wait_for(lambda: os.path.exists(plugin + ".parent") and os.path.getsize(plugin + ".parent"))
    with open(plugin + ".parent") as stream:
        words = stream.read().split("\n")
    assert words[words.index("DEVICE_LABEL") + 1] == "GPP_1"
    assert words[words.index("STANDIN_CLEANS") + 1] == "1"
    manager = client.orb().string_to_object(words[words.index("DEVICE_MGR_IOR") + 1])
    assert manager._is_equivalent(domain.manager)
    pid = gpp.execute(["/bin/sleep", "1000"])
    assert gpp.ref._get_usageState() == CF.Device.ACTIVE
    domain.shut_node_down()
    # It has outlived the GPP, and SIGINT, and heard SIGTERM.
    with open(plugin + ".parent") as stream:
        assert "TERM" in stream.read()
    assert not any(plugin in words_of(each) for each in domain.descendants())
    assert pid in domain.descendants()


# Registered by others


def test_another_processs_device_is_started_and_not_initialized(start):
    domain = start()
    started(domain)
    outside = domain.outside()
    wait_for(outside._get_started)
    assert calls(outside) == ["start"]
    assert list(domain.devices()) == ["Probe_1", "Outside_1"]
    assert domain.resolve("node", "Outside_1")._is_equivalent(outside)
    domain.manager.registerDevice(outside)
    assert len(domain.devices()) == 2


def test_another_processs_device_with_an_id_of_the_dcd_gets_all_the_calls(start):
    domain = start()
    started(domain)
    os.kill(process_of(domain, "Probe_1"), signal.SIGKILL)
    wait_for(lambda: not domain.manager._get_registeredDevices())
    outside = domain.outside(id_="node:Probe_1")
    wait_for(outside._get_started)
    assert calls(outside)[0] == "initializeProperties probe::limits" and "constructor" in calls(outside)


def test_the_manager_of_2_dies_of_another_processs_device_as_redhawks_does(start):
    domain = start(version="2.3.2")
    started(domain)
    domain.launch_outside()
    assert domain.process.wait(10) == -signal.SIGSEGV
    assert domain.lines("DeviceManager: dies of Outside_1")


@pytest.mark.parametrize("version", ["2.3.2", "3.0.1"])
def test_the_domain_says_what_version_it_is_of(start, version):
    ref = start([], version=version).ref
    assert client.query(ref, "REDHAWK_VERSION") == version
    with pytest.raises(CF.UnknownProperties):
        client.query(ref, "no::such")


def test_a_label_that_is_taken_is_refused_without_a_word(start):
    domain = start()
    device = started(domain)
    process = domain.launch_outside(label="Probe_1")
    wait_for(lambda: domain.lines("ready")[1:])
    assert [each._get_identifier() for each in domain.manager._get_registeredDevices()] == ["node:Probe_1"]
    assert process.poll() is None and domain.resolve("node", "Probe_1")._is_equivalent(device)
    assert "already registered: Probe_1" in domain.output() and "ERROR" not in domain.output()


def test_another_processs_device_that_died_keeps_its_label_until_the_name_is_unbound(start):
    domain = start([])
    process = domain.launch_outside()
    dead = domain.device("Outside_1")
    wait_for(lambda: domain.lines("ready"))
    process.kill()
    process.wait()
    second = domain.launch_outside()
    wait_for(lambda: domain.lines("ready")[1:])
    (known,) = domain.manager._get_registeredDevices()
    assert known._is_equivalent(dead)
    second.kill()
    domain.names.unbind(client.serving.name("REDHAWK_DEV", "node", "Outside_1"))
    domain.launch_outside()
    wait_for(lambda: len(domain.manager._get_registeredDevices()) == 2)
    device = domain.manager._get_registeredDevices()[1]
    assert device._get_label() == "Outside_1"
    # The domain forgot the dead one of the same id.
    assert assigned(create(domain, (KIND, "PROBE"))) == ["outside"]


def test_a_profile_that_is_not_there_ends_the_domain_and_the_caller_does_not_hear_of_it(start):
    domain = start([])
    domain.launch_outside(profile="/devices/None/None.spd.xml")
    wait_for(lambda: domain.domain.poll() is not None)
    assert domain.domain.returncode == -signal.SIGABRT
    wait_for(lambda: domain.lines("ready"))
    assert list(domain.devices()) == ["Outside_1"] and "not registered" not in domain.output()


def test_a_device_without_a_profile_is_registered_and_nothing_can_be_allocated_on_it(start):
    domain = start([])
    domain.outside(profile="")
    with pytest.raises(CF.ApplicationFactory.CreateApplicationError):
        create(domain, (KIND, "PROBE"))


def test_an_id_that_lives_in_the_domain_already_is_no_device_of_it(start):
    domain = start([])
    domain.outside()
    domain.outside(label="Outside_2")
    wait_for(lambda: "re-register" in domain.output())
    assert assigned(create(domain, (CAPACITY, "100"))) == ["outside"]
    with pytest.raises(CF.ApplicationFactory.CreateApplicationError):
        create(domain, (CAPACITY, "1"))


def test_what_is_not_registered_cannot_be_unregistered(start):
    domain = start()
    device = started(domain)
    domain.manager.unregisterDevice(device)
    for wrong in (device, None):
        with pytest.raises(CF.InvalidObjectReference):
            domain.manager.unregisterDevice(wrong)
    with pytest.raises(CF.InvalidObjectReference):
        domain.manager.registerDevice(None)


# Allocation


def test_the_first_registered_device_that_grants_it_is_taken_and_gets_the_same_back(start):
    domain = start([])
    for number in (1, 2):
        domain.outside(label=f"Probe_{number}", id_=f"probe {number}")
    application = create(domain, (KIND, "PROBE"), (CAPACITY, "60"))
    assert (
        assigned(application) == ["probe 1"]
        and domain.device("Probe_1")._get_usageState() == CF.Device.ACTIVE
    )
    other = create(domain, (CAPACITY, "50"))
    assert assigned(other) == ["probe 2"]
    for each in (application, other):
        each.releaseObject()
    assert domain.ref._get_applications() == []
    given = ["60)]", "50)]", "50)]"]
    assert [line.split()[-1] for line in domain.lines("allocateCapacity")] == given
    assert domain.lines("deallocateCapacity") == [
        f"deallocateCapacity [('probe::capacity', {amount})]" for amount in (60, 50)
    ]


def test_a_busy_device_is_skipped(start):
    domain = start([])
    domain.outside(label="Probe_1", id_="probe 1")
    create(domain, (CAPACITY, "100"))
    domain.outside(label="Probe_2", id_="probe 2")
    assert assigned(create(domain, (CAPACITY, "1"))) == ["probe 2"]
    assert len(domain.lines("allocateCapacity")) == 2


@pytest.mark.parametrize(
    "wanted, granted",
    [
        ([(KIND, "PROBE")], True),
        ([(KIND, "OTHER")], False),
        # The PRF's 5 stands on the left.
        ([(SPEED, "5")], True),
        ([(SPEED, "4")], True),
        ([(SPEED, "6")], False),
        ([("no::such", "1")], False),
        ([("probe::text", "from the PRF")], False),
        ([(CAPACITY, "13")], False),
        ([(CAPACITY, "many")], False),
        ([(CAPACITY, "101")], False),
        ([(CAPACITY, "60"), (CAPACITY, "40")], True),
        ([(CAPACITY, "60"), (CAPACITY, "60")], False),
    ],
)
def test_what_does_not_fit_satisfies_nothing_and_leaves_nothing_behind(start, wanted, granted):
    domain = start()
    device = started(domain)
    if granted:
        create(domain, *wanted).releaseObject()
    else:
        with pytest.raises(CF.ApplicationFactory.CreateApplicationError) as caught:
            create(domain, *wanted)
        assert "Failed to satisfy 'usesdevice' dependencies uses" in caught.value.msg
        assert caught.value.errorNumber == CF.CF_ENOSPC
    assert device._get_usageState() == CF.Device.IDLE
    assert bool(domain.lines("allocateCapacity")) == (
        CAPACITY in dict(wanted) and "many" not in dict(wanted).values()
    )


def test_one_usesdevice_that_fails_gives_the_others_back(start):
    domain = start()
    started(domain)
    with pytest.raises(CF.ApplicationFactory.CreateApplicationError) as caught:
        create(domain, one=[(CAPACITY, "60")], other=[(CAPACITY, "60")])
    assert "dependencies other for application" in caught.value.msg
    assert domain.lines("deallocateCapacity") == ["deallocateCapacity [('probe::capacity', 60)]"]


@pytest.mark.parametrize("version", ["2.3.2", "3.0.1"])
def test_a_collocation_that_refers_to_a_usesdevice_works_in_2_and_is_refused_by_3_0(start, sdrroot, version):
    domain = start(version=version)
    started(domain)
    text = """<softwareassembly id="w" name="w"><componentfiles/><partitioning><hostcollocation>
        <usesdeviceref refid="memory"/></hostcollocation></partitioning><usesdevicedependencies>
        <usesdevice id="memory"><propertyref refid="probe::capacity" value="1"/></usesdevice>
        </usesdevicedependencies></softwareassembly>"""
    installing.write(text, sdrroot, "dom", "w.sad.xml")
    if version == "2.3.2":
        assert assigned(domain.create("/w.sad.xml")) == ["node:Probe_1"]
        return
    with pytest.raises(CF.ApplicationFactory.CreateApplicationError, match="has no usesdevice 'memory'"):
        domain.create("/w.sad.xml")
    assert not domain.lines("allocateCapacity")


def test_a_components_own_usesdevice_is_satisfied_but_ignored_inside_a_collocation(start, sdrroot):
    domain = start()
    started(domain)
    spd = """<softpkg id="c" name="c"><implementation id="i"/>
        <usesdevice id="memory"><propertyref refid="probe::capacity" value="7"/></usesdevice></softpkg>"""
    placement = """<componentplacement><componentfileref refid="c"/><componentinstantiation id="c_1"/>
        </componentplacement>"""
    installing.write(spd, sdrroot, "dom", "c.spd.xml")
    sad = """<softwareassembly id="w" name="w"><componentfiles><componentfile id="c">
        <localfile name="/c.spd.xml"/></componentfile></componentfiles>
        <partitioning>%s</partitioning></softwareassembly>"""
    installing.write(sad % placement, sdrroot, "dom", "out.sad.xml")
    installing.write(sad % f"<hostcollocation>{placement}</hostcollocation>", sdrroot, "dom", "in.sad.xml")
    assert assigned(domain.create("/in.sad.xml")) == []
    assert assigned(domain.create("/out.sad.xml")) == ["node:Probe_1"]
    assert domain.lines("allocateCapacity") == ["allocateCapacity [('probe::capacity', 7)]"]


def test_a_waveform_that_cannot_be_read_is_not_installed(start, sdrroot):
    domain = start()
    installing.write("<no xml", sdrroot, "dom", "bad.sad.xml")
    for sad in ("/bad.sad.xml", "/none.sad.xml"):
        with pytest.raises(CF.DomainManager.ApplicationInstallationError):
            domain.create(sad)


# The end


def test_a_node_is_shut_down_in_redhawks_order(start):
    domain = start()
    started(domain)
    wait_for(domain.outside()._get_started)
    application = create(domain, (CAPACITY, "60"))
    domain.shut_node_down()
    words = [line.split()[0] for line in domain.lines("stop", "deallocate", "releaseObject")]
    assert words == ["stop", "stop", "deallocateCapacity", "releaseObject", "releaseObject"]
    wait_for(lambda: domain.lines("ended"))  # of the outside one; the other may have been killed
    with pytest.raises(CORBA.OBJECT_NOT_EXIST):
        application._get_name()
    assert domain.ref._get_deviceManagers() == [] and domain.resolve("node") is None
    assert domain.domain.poll() is None


def test_a_device_that_does_not_end_is_killed_within_about_a_second(start):
    domain = start([("Probe_1", PROFILE, 0, {"DEFY": "1"})])
    started(domain)
    pid = process_of(domain, "Probe_1")
    began = client.time.monotonic()
    domain.shut_node_down()
    assert 1.0 <= client.time.monotonic() - began < 3
    assert pid not in domain.descendants()


def test_a_device_that_others_have_registered_is_never_signalled(start):
    domain = start([])
    process = domain.launch_outside(DEFY="1")
    domain.device("Outside_1")
    domain.shut_node_down()
    assert process.poll() is None


def test_sigterm_shuts_a_node_down_as_well(start):
    domain = start()
    started(domain)
    domain.process.terminate()
    assert domain.process.wait(10) == 0
    assert domain.lines("stop", "releaseObject") == ["stop", "releaseObject"]


def test_a_node_can_be_started_again(start):
    domain = start()
    started(domain)
    domain.shut_node_down()
    domain.start_node("node")
    started(domain)


def test_close_leaves_nothing_running(start):
    domain = start([("Probe_1", PROFILE, 0, {"DEFY": "1"})])
    started(domain)
    domain.launch_outside(DEFY="1")
    wait_for(lambda: len(domain.devices()) == 2)
    domain.close()
    assert domain.descendants() == []
