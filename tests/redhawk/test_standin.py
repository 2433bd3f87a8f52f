"""The stand-in for REDHAWK's GPP behaves as REDHAWK's does where plugins can tell."""

import os
import signal
import subprocess
import time

import pytest

omniORB = pytest.importorskip("omniORB", reason="needs omniORB, which has no wheel for this Python")

from omniORB import CORBA  # noqa: E402

import client  # noqa: E402
from client import wait_for  # noqa: E402
from gppshm.redhawk.corba import CF, ExtendedEvent  # noqa: E402
from spawning import stays  # noqa: E402

import channel  # isort: skip # noqa: E402
import wire  # isort: skip # noqa: E402
from stubs import StandIn  # isort: skip # noqa: E402

pytestmark = pytest.mark.corba

# Notes each SIGTERM that it gets, with its time.
SLEEPER = """#!/bin/sh
trap 'date +%s.%N >>"$0.signals"' TERM
while :; do sleep 0.02; done
"""
# A program that leaves the signals as it found them.
INERT = "#!/usr/bin/tail -f\n"
PLUGIN_ID = "DCE:00000000-0000-4000-8000-000000000001"


@pytest.fixture
def sdrroot(tmp_path):
    return tmp_path / "sdr"


@pytest.fixture
def start(sdrroot, tmp_path):
    """Start a GPP; what it is given goes to client.Gpp."""
    started = []

    def start(**options):
        started.append(client.Gpp(sdrroot, tmp_path / "cache", **options))
        return started[-1]

    yield start
    for gpp in started:
        gpp.close()


@pytest.fixture
def gpp(start):
    return start()


@pytest.fixture
def listener():
    """Make a plugin's port: its IOR, and the list of what is pushed into it."""
    orb = client.orb()
    poa = orb.resolve_initial_references("RootPOA")
    poa._get_the_POAManager().activate()
    servants = []

    def listen():
        heard = []
        servants.append(channel.MessageConsumer(heard.append))
        return orb.object_to_string(servants[-1]._this()), heard

    yield listen
    for servant in servants:
        poa.deactivate_object(poa.servant_to_id(servant))


def push(gpp, data):
    """What a plugin does."""
    consumer = gpp.ref._get_metrics_in().for_suppliers().obtain_push_consumer()
    consumer.connect_push_supplier(None)
    consumer.push(data)


def send(gpp, message, value):
    push(gpp, CORBA.Any(CF._tc_Properties, [CF.DataType(message, value)]))


def register(gpp, plugin=PLUGIN_ID, port="", name="shm"):
    value = wire.pack("plugin::registration", id=plugin, name=name, description="watches", metric_port=port)
    send(gpp, "plugin::registration", value)


def report(gpp, metric="shm_free", busy=False, plugin=PLUGIN_ID, **changes):
    values = {
        "plugin_id": plugin,
        "metric_name": metric,
        "busy": busy,
        "metric_timestamp": CF.UTCTime(1, 1000.0, 0.5),
        "metric_reason": "little memory",
        "metric_threshold_value": "10",
        "metric_recorded_value": "9",
    }
    values.update(changes)
    send(gpp, "plugin::message", wire.pack("plugin::message", **values))


def running(path):
    """The pids of the processes that execute a script, with its arguments."""
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/cmdline" % pid, "rb") as stream:
                words = os.fsdecode(stream.read()).split("\0")[:-1]
        except OSError:
            continue
        if str(path) in words:
            found[int(pid)] = words[words.index(str(path)) :]
    # A shell that has just forked is there twice.
    return {pid: words for pid, words in found.items() if parent(pid) not in found}


def state(pid):
    """State and parent of a process; ("X", 0) if there is none."""
    try:
        with open("/proc/%d/stat" % pid) as stream:
            words = stream.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return "X", 0
    return words[0], int(words[1])


def parent(pid):
    return state(pid)[1]


def lives(pid):
    return state(pid)[0] not in "ZX"


def one_plugin(path):
    (pid,) = wait_for(lambda: running(path))
    # Its shell has set the trap once it runs another program.
    wait_for(lambda: any(parent(int(other)) == pid for other in filter(str.isdigit, os.listdir("/proc"))))
    return pid


def signals(path):
    try:
        with open(path + ".signals") as stream:
            return [float(line) for line in stream]
    except FileNotFoundError:
        return []


# Launching


def test_every_executable_of_its_folders_name_is_launched_once_and_nothing_else(sdrroot, start, tmp_path):
    plugins = [client.install_plugin(sdrroot, name, SLEEPER) for name in ("one", "two")]
    elsewhere = client.install_plugin(tmp_path / "elsewhere", "three", SLEEPER)
    folder = os.path.dirname(os.path.dirname(plugins[0]))
    os.symlink(os.path.dirname(elsewhere), os.path.join(folder, "three"))
    plugins.append(os.path.join(folder, "three", "three"))
    no_x_bit = client.install_plugin(sdrroot, "four", SLEEPER)
    os.chmod(no_x_bit, 0o644)
    other_name = client.install_plugin(sdrroot, "five", SLEEPER)
    os.rename(other_name, other_name + ".sh")
    gpp = start()
    found = [wait_for(lambda path=path: running(path)) for path in plugins]
    assert [len(each) for each in found] == [1, 1, 1]
    ids = set()
    for each in found:
        (words,) = each.values()
        _, ior, plugin = words
        assert client.orb().string_to_object(ior)._is_equivalent(gpp.ref._get_metrics_in())
        assert plugin.startswith("DCE:")
        ids.add(plugin)
    assert len(ids) == 3
    assert not running(no_x_bit) and not running(other_name + ".sh")


def test_what_cannot_be_executed_is_told_and_the_others_are_launched(sdrroot, start, tmp_path):
    client.install_plugin(sdrroot, "broken", "#!/nonexistent\n")
    good = client.install_plugin(sdrroot, "good", SLEEPER)
    with open(str(tmp_path / "out"), "wb") as stream:
        start(stdout=stream)
    wait_for(lambda: running(good))
    assert "Unable to launch plugin" in (tmp_path / "out").read_text()


def test_a_plugin_inherits_what_redhawks_gpp_leaves_to_it(sdrroot, start, tmp_path):
    path = client.install_plugin(sdrroot, "one", INERT)
    gpp = start(settings={"IDM_CHANNEL_IOR": "IOR:00"}, environment={"OMNIORB_CONFIG": "/etc/omniORB.cfg"})
    (pid,) = wait_for(lambda: running(path))
    assert parent(pid) == gpp.pid
    assert os.getpgid(pid) == gpp.pid
    assert os.readlink("/proc/%d/cwd" % pid) == str(tmp_path / "cache")
    with open("/proc/%d/status" % pid) as stream:
        masks = {line.split(":")[0]: line.split()[1] for line in stream if line.startswith("Sig")}
    assert int(masks["SigBlk"], 16) == 1 << signal.SIGCHLD - 1
    ignored = int(masks["SigIgn"], 16)
    assert ignored & 1 << signal.SIGINT - 1 and ignored & 1 << signal.SIGPIPE - 1
    assert not ignored & 1 << signal.SIGTERM - 1
    fds = "/proc/%d/fd" % pid
    opened = {os.readlink(os.path.join(fds, fd)) for fd in os.listdir(fds) if int(fd) > 2}
    assert opened - {path, "anon_inode:inotify"} == {"anon_inode:[eventpoll]", "anon_inode:[signalfd]"}
    with open("/proc/%d/environ" % pid) as stream:
        environment = stream.read().split("\0")
    assert "PYTHONPATH=" in environment and "SDRROOT=%s" % sdrroot in environment
    assert "OMNIORB_CONFIG=/etc/omniORB.cfg" in environment
    with open("/proc/%d/cmdline" % gpp.pid) as stream:
        words = stream.read().split("\0")
    for name in ("PROFILE_NAME", "DEVICE_ID", "DEVICE_LABEL", "DOM_PATH", "DEBUG_LEVEL", "IDM_CHANNEL_IOR"):
        assert words[words.index(name) + 1]


# Messages


def test_repository_ids_are_redhawks(gpp):
    port = gpp.ref._get_metrics_in()
    assert isinstance(port, ExtendedEvent._objref_MessageEvent)
    for name in ("ExtendedEvent/MessageEvent", "omg.org/CosEventChannelAdmin/EventChannel", "CF/Port"):
        assert port._is_a("IDL:%s:1.0" % name)
    assert gpp.ref._is_a("IDL:CF/PropertySet:1.0")
    names = {"DataType": CF._tc_DataType, "Properties": CF._tc_Properties, "UTCTime": CF._tc_UTCTime}
    for name, typecode in names.items():
        assert typecode.id() == "IDL:CF/%s:1.0" % name
    members = [(CF._tc_UTCTime.member_name(i), CF._tc_UTCTime.member_type(i)) for i in range(3)]
    assert [name for name, _ in members] == ["tcstatus", "twsec", "tfsec"]
    wanted = (CORBA.TC_short, CORBA.TC_double, CORBA.TC_double)
    assert all(kind.equal(want) for (_, kind), want in zip(members, wanted))


def test_each_registration_is_shown_once_and_not_looked_at_twice(sdrroot, start):
    path = client.install_plugin(sdrroot, "one", SLEEPER)
    gpp = start()
    ((pid, words),) = wait_for(lambda: running(path)).items()
    register(gpp, words[2])
    (status,) = gpp.status()
    assert (status["id"], status["name"], status["pid"], status["alive"]) == (words[2], "shm", pid, True)
    assert status["description"] == "watches" and status["metric_names"] == []
    register(gpp, words[2])
    assert len(gpp.status()) == 2


def test_metrics_are_shown_as_they_were_sent_last(gpp):
    register(gpp)
    report(gpp)
    report(gpp, "shm_held")
    report(gpp, metric_recorded_value="8")
    assert gpp.plugin("shm")["metric_names"] == ["shm_free", "shm_held"]
    free = gpp.metric("shm_free")
    assert (free["plugin_id"], free["metric_recorded_value"], free["busy"]) == (PLUGIN_ID, "8", False)
    assert (free["metric_timestamp"].twsec, free["metric_timestamp"].tfsec) == (1000.0, 0.5)
    assert len(gpp.metric_status()) == 2
    assert gpp.plugin("shm")["busy"] is False


def test_a_busy_metric_makes_it_busy_with_its_reason_until_none_is(gpp):
    register(gpp)
    report(gpp, busy=True)
    assert gpp.usage_state == "BUSY" and gpp.plugin("shm")["busy"]
    assert "REASON: little memory EXCEEDED Threshold: 10 Actual: 9" in gpp.busy_reason
    report(gpp, "shm_held", busy=True, metric_reason="held")
    assert "little memory" in gpp.busy_reason
    report(gpp)
    assert gpp.usage_state == "BUSY"
    report(gpp, "shm_held")
    assert (gpp.usage_state, gpp.busy_reason, gpp.plugin("shm")["busy"]) == ("IDLE", "", False)


def test_every_message_can_be_had_with_its_typecodes(gpp):
    report(gpp)
    value = CORBA.Any(
        CF._tc_Properties, [CF.DataType("plugin::heartbeat::plugin_id", CORBA.Any(CORBA.TC_long, 1))]
    )
    send(gpp, "plugin::heartbeat", value)
    message, heartbeat = gpp.messages()
    assert [each.when for each in gpp.messages("plugin::message")] == [message.when]
    kinds = {name: field.typecode().kind() for name, field in message.fields.items()}
    assert kinds["plugin::message::busy"] == CORBA.tk_boolean
    assert message.fields["plugin::message::metric_timestamp"].typecode().equal(CF._tc_UTCTime)
    assert kinds["plugin::message::plugin_id"] == CORBA.tk_string and len(kinds) == 7
    assert abs(message.when - time.time()) < 30 and message.dropped == ""
    assert "plugin_id" in heartbeat.dropped
    gpp.ref.forget_messages()
    assert gpp.messages() == []


NULL = CORBA.Any(CORBA.TC_null, None)


@pytest.mark.parametrize(
    "member, value",
    [
        ("metric_reason", NULL),
        ("busy", NULL),
        ("busy", CORBA.Any(CORBA.TC_long, 1)),
        ("metric_recorded_value", CORBA.Any(CORBA.TC_double, 9.0)),
        ("metric_timestamp", CORBA.Any(CORBA.TC_double, 1000.0)),
        ("metric_reason", CORBA.Any(CORBA.TC_wstring, "wide")),
    ],
)
def test_one_null_or_wrongly_typed_member_drops_the_whole_message(gpp, member, value):
    report(gpp)
    members = gpp.messages()[0].data.value()[0].value.value()
    whole = "plugin::message::" + member
    changes = {"plugin::message::busy": CORBA.Any(CORBA.TC_boolean, True), whole: value}
    bad = [CF.DataType(each.id, changes.get(each.id, each.value)) for each in members]
    send(gpp, "plugin::message", CORBA.Any(CF._tc_Properties, bad))
    good, dropped = gpp.messages()
    assert good.dropped == "" and whole in dropped.dropped
    assert gpp.usage_state == "IDLE" and not gpp.metric("shm_free")["busy"]


def test_a_missing_member_has_its_default(gpp):
    wanted = {"plugin_id", "metric_name"}
    report(gpp)
    members = gpp.messages()[0].data.value()[0].value.value()
    some = [each for each in members if each.id.rpartition("::")[2] in wanted]
    gpp.ref.forget_messages()
    send(gpp, "plugin::message", CORBA.Any(CF._tc_Properties, some))
    assert gpp.messages()[0].dropped == ""
    assert gpp.metric("shm_free")["metric_reason"] == ""


def test_a_push_of_anything_else_is_dropped_and_harms_nothing(gpp):
    push(gpp, NULL)
    push(gpp, CORBA.Any(CORBA.TC_string, "hello"))
    send(gpp, "plugin::message", CORBA.Any(CORBA.TC_string, "hello"))
    send(gpp, "no::such", wire.pack("plugin::heartbeat", plugin_id="x"))
    assert [bool(message.dropped) for message in gpp.messages()] == [True] * 4
    report(gpp)
    assert gpp.metric("shm_free")


def test_a_dropped_message_takes_no_other_of_the_same_push_with_it(gpp):
    register(gpp)
    (item,) = gpp.messages()[0].data.value()
    bad = CF.DataType("plugin::message", NULL)
    push(gpp, CORBA.Any(CF._tc_Properties, [bad, item]))
    assert len(gpp.status()) == 2
    assert [bool(message.dropped) for message in gpp.messages()] == [False, True, True]


# Thresholds


def test_a_threshold_is_pushed_to_every_plugin_whatever_its_id(gpp, listener):
    ports = [listener(), listener()]
    for number, (ior, _) in enumerate(ports):
        register(gpp, "DCE:%d" % number, ior)
    gpp.set_threshold("DCE:0", "shm_free", "64 MB")
    for _, heard in ports:
        wait_for(lambda heard=heard: heard)
        (message,) = heard[0].value()
        assert message.id == "plugin::set_threshold"
        wanted = {"plugin_id": "DCE:0", "metric_name": "shm_free", "metric_threshold_value": "64 MB"}
        assert wire.unpack("plugin::set_threshold", message.value) == wanted
    assert gpp.query("plugin::set_threshold")["metric_threshold_value"] == "64 MB"


def test_the_same_threshold_set_again_reaches_nobody(gpp, listener):
    ior, heard = listener()
    register(gpp, port=ior)
    for value in ("1", "1", "2"):
        gpp.set_threshold(PLUGIN_ID, "shm_free", value)
    assert len(wait_for(lambda: heard)) == 2


@pytest.mark.parametrize("port", ["", "garbage", "IOR:00", "corbaloc::127.0.0.1:1/nobody"])
def test_a_plugin_whose_port_is_of_no_use_keeps_no_other_from_its_thresholds(gpp, listener, port):
    register(gpp, "DCE:bad", port)
    ior, heard = listener()
    register(gpp, port=ior)
    gpp.set_threshold(PLUGIN_ID, "shm_free", "1")
    assert wait_for(lambda: heard)
    assert len(gpp.status()) == 2


def test_only_the_threshold_can_be_configured_and_only_with_its_types(gpp):
    long = CORBA.Any(CORBA.TC_long, 1)
    bad = CORBA.Any(CF._tc_Properties, [CF.DataType("plugin::set_threshold::plugin_id", long)])
    for name, value in (
        ("plugin::set_threshold", bad),
        ("plugin::set_threshold", long),
        ("plugin::status", long),
    ):
        with pytest.raises(CF.PropertySet.InvalidConfiguration):
            gpp.ref.configure([CF.DataType(name, value)])
    with pytest.raises(CF.UnknownProperties):
        gpp.query("no::such")
    assert len(gpp.ref.query([])) == 4


# Children


def test_a_crashed_plugin_is_shown_dead_and_its_metrics_are_not_busy(sdrroot, start):
    path = client.install_plugin(sdrroot, "one", SLEEPER)
    gpp = start()
    ((pid, words),) = wait_for(lambda: running(path)).items()
    register(gpp, words[2])
    report(gpp, busy=True, plugin=words[2])
    assert gpp.usage_state == "BUSY"
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not gpp.plugin("shm")["alive"])
    assert gpp.plugin("shm")["description"] == "plugin crashed. watches"
    assert gpp.metric("shm_free")["metric_recorded_value"] == "plugin crashed"
    assert (gpp.usage_state, gpp.plugin("shm")["busy"]) == ("IDLE", False)
    assert not running(path)


def leave_heap(folder, pid):
    heap = folder / ("heap-%d" % pid)
    heap.write_bytes(b"")
    return heap


@pytest.mark.parametrize("cleans", [False, True])
def test_a_reaped_components_heap_is_unlinked_only_if_switched_on(start, tmp_path, cleans):
    gpp = start(cleans=cleans, shm_root=tmp_path)
    pid = gpp.execute(["/bin/sleep", "1000"])
    assert (gpp.usage_state, os.getpgid(pid), parent(pid)) == ("ACTIVE", pid, gpp.pid)
    heap = leave_heap(tmp_path, pid)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: gpp.usage_state == "IDLE")
    if cleans:
        wait_for(lambda: not heap.exists())
    else:
        assert gpp.ref._get_components() == [] and not os.path.exists("/proc/%d" % pid) and heap.exists()


def test_a_component_that_terminate_forgot_too_early_keeps_its_heap(start, tmp_path):
    gpp = start(cleans=True, shm_root=tmp_path)
    pid = gpp.execute(["/bin/sleep", "1000"])
    heap = leave_heap(tmp_path, pid)
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(StandIn.Failed):
        gpp.terminate(pid + 1)
    began = time.monotonic()
    gpp.terminate(pid, (0.1, 0.1, 0.0))
    assert time.monotonic() - began >= 0.2
    wait_for(lambda: not os.path.exists("/proc/%d" % pid))
    other = gpp.execute(["/bin/true"])
    wait_for(lambda: other not in gpp.ref._get_components())
    assert heap.exists() and gpp.usage_state == "IDLE"


def test_a_grandchild_is_nobodys(start, tmp_path):
    gpp = start(cleans=True, shm_root=tmp_path)
    note = tmp_path / "pid"
    component = gpp.execute(["/bin/sh", "-c", 'sleep 1000 & echo $! >"$0"; wait', note])
    wait_for(lambda: note.exists() and note.read_text().endswith("\n"))
    pid = int(note.read_text())
    heap = leave_heap(tmp_path, pid)
    os.kill(component, signal.SIGKILL)
    wait_for(lambda: gpp.usage_state == "IDLE")
    assert lives(pid) and parent(pid) != gpp.pid
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not lives(pid))
    assert heap.exists()


def test_what_cannot_be_executed_is_an_exception(gpp):
    with pytest.raises(StandIn.Failed) as caught:
        gpp.execute(["/nonexistent"])
    assert "No such file" in caught.value.msg


# Its ends


@pytest.mark.parametrize("how", ["release", "kill", "SIGTERM"])
def test_a_gpp_that_ends_alone_signals_nobody(sdrroot, start, how):
    path = client.install_plugin(sdrroot, "one", SLEEPER)
    gpp = start()
    pid = one_plugin(path)
    component = gpp.execute(["/bin/sleep", "1000"])
    if how == "SIGTERM":
        gpp.process.terminate()
        assert gpp.process.wait(10) == 0
    else:
        getattr(gpp, how)()
    wait_for(lambda: parent(pid) != gpp.pid)
    stays(lambda: lives(pid) and signals(path) == [] and lives(component), 0.2)
    gpp.close()
    assert not lives(pid) and not lives(component)


def test_a_stopped_gpp_hangs_and_goes_on(gpp):
    gpp.stop()
    reference = client.orb().string_to_object(client.orb().object_to_string(gpp.ref))._narrow(StandIn.GPP)
    omniORB.setClientCallTimeout(reference, 200)
    with pytest.raises((CORBA.TIMEOUT, CORBA.TRANSIENT)):
        reference.query([])
    gpp.resume()
    report(gpp)
    assert gpp.metric("shm_free")


def test_a_nodes_shutdown_signals_the_plugin_as_a_device_manager_does(sdrroot, start):
    path = client.install_plugin(sdrroot, "one", SLEEPER)
    gpp = start()
    pid = one_plugin(path)
    component = gpp.execute(["/bin/sleep", "1000"])
    began = time.time()
    interrupted, terminated, killed = gpp.shut_node_down()
    assert 0.5 <= terminated - interrupted < 0.7 and 0.5 <= killed - terminated < 0.7
    wait_for(lambda: not lives(pid))
    (noted,) = signals(path)
    assert 0.45 < noted - began < 0.95
    # It is in a process group of its own.
    assert lives(component)


def test_close_leaves_nothing_running(sdrroot, start):
    path = client.install_plugin(sdrroot, "one", SLEEPER)
    gpp = start()
    pid = one_plugin(path)
    gpp.execute(["/bin/sh", "-c", "setsid sleep 1000 & exec sleep 1000"])
    wait_for(lambda: len(gpp.descendants()) >= 4)
    gpp.kill()
    gpp.close()
    assert gpp.descendants() == [] and not lives(pid)


def test_a_gpp_that_cannot_start_is_an_error_at_once(sdrroot, tmp_path):
    with pytest.raises(RuntimeError, match=r"ended at its start, status [^0]"):
        client.Gpp(sdrroot, tmp_path, environment={"PYTHONHOME": "/nonexistent"}, stderr=subprocess.DEVNULL)
