"""Starts a stand-in GPP, or a domain with a node, as processes, and talks to them over CORBA.

For tests and the demonstration.  Each wait has a limit and raises TimeoutError.  A CORBA call without a reply
raises CORBA.TRANSIENT or CORBA.TIMEOUT after CALL_LIMIT seconds.
"""

import collections
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid

import CosNaming
import omniORB
from omniORB import CORBA

STANDIN = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "standin")
if STANDIN not in sys.path:
    sys.path.append(STANDIN)

import installing  # noqa: E402
import serving  # noqa: E402
import wire  # noqa: E402
from channel import MessageConsumer  # noqa: E402
from stubs import CF, StandIn  # noqa: E402

CALL_LIMIT = 10.0
install_plugin = installing.plugin

Message = collections.namedtuple("Message", "when id fields data dropped")
"""One message that the GPP received.

when     seconds since 1970
id       the message id; None if the push was no CF::Properties
fields   its members' anys by whole id (`plugin::message::busy`); None if its value was no CF::Properties
data     the any as pushed, with all TypeCodes
dropped  why REDHAWK's C++ would have ignored it; else ""
"""


def orb():
    """The ORB of this process."""
    omniORB.setClientCallTimeout(int(CALL_LIMIT * 1000))
    return CORBA.ORB_init(["client", "-ORBendPoint", "giop:tcp:127.0.0.1:"], CORBA.ORB_ID)


def wait_for(fact, limit=10.0):
    """Wait until `fact()` is true; returns its value."""
    deadline = time.monotonic() + limit
    while True:
        found = fact()
        if found:
            return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"not so within {limit:g} s: {fact}")
        time.sleep(0.002)


# Properties


def prop(id_, type_, value):
    """A CF::DataType of a simple type, named as in a PRF: prop("shm::capacity", "longlong", 64)."""
    return CF.DataType(id_, CORBA.Any(wire.TYPES[type_][0], value))


def query(ref, id_):
    """A property's value in Python: a struct is a dict by the last part of each id, a sequence a list."""
    return wire.plain(ref.query([CF.DataType(id_, wire.NULL)])[0].value)


def query_all(ref):
    return {item.id: wire.plain(item.value) for item in ref.query([])}


def configure(ref, id_, value):
    """Set a property, with its current types; of a struct, only the members in the dict `value`."""
    (item,) = ref.query([CF.DataType(id_, wire.NULL)])
    ref.configure([CF.DataType(id_, wire.changed(item.value, value))])


class Listener:
    """Receives from a uses port or, if `port` is one, an event channel; a context manager.

    heard  the anys in order of arrival
    """

    def __init__(self, port):
        self.port, self.heard = port, []
        self.servant = MessageConsumer(self.heard.append)
        self.id = f"client_{uuid.uuid4()}"

    def __enter__(self):
        serving.activate(orb())
        if self.port._is_a("IDL:CF/Port:1.0"):
            self.port._narrow(CF.Port).connectPort(self.servant._this(), self.id)
        else:
            self.proxy = self.port.for_consumers().obtain_push_supplier()
            self.proxy.connect_push_consumer(self.servant.for_suppliers().obtain_push_consumer())
        return self

    def __exit__(self, *exc):
        try:
            if self.port._is_a("IDL:CF/Port:1.0"):
                self.port._narrow(CF.Port).disconnectPort(self.id)
            else:
                self.proxy.disconnect_push_supplier()
        except CORBA.Exception:
            # The port's owner has ended.
            pass

    def messages(self, wanted=None):
        """(id, members) of each message so far, or of those with one id."""
        items = [item for data in list(self.heard) for item in data.value()]
        return [(item.id, wire.plain(item.value)) for item in items if wanted in (None, item.id)]

    def changes(self):
        """The property events so far, merged: the last value of each property."""
        items = [item for data in list(self.heard) for item in data.value().properties]
        return {item.id: wire.plain(item.value) for item in items}

    def states(self):
        """The changes of state so far: (device id, from, to)."""
        events = [data.value() for data in list(self.heard)]
        return [(each.sourceId, each.stateChangeFrom._n, each.stateChangeTo._n) for each in events]


# Processes


class Marked:
    """Processes with a mark in their environment; a context manager that ends all of them."""

    def __init__(self, sdrroot, environment, stdout, stderr):
        self.mark = f"STANDIN_MARK={uuid.uuid4()}"
        self.environment = dict(os.environ, SDRROOT=str(sdrroot), PYTHONPATH="")
        self.environment.setdefault("OSSIEHOME", "/usr/local/redhawk/core")
        self.environment.setdefault("LD_LIBRARY_PATH", "")
        self.environment.update([self.mark.split("=")], **dict(environment))
        self.streams = {"stdin": subprocess.DEVNULL, "stdout": stdout, "stderr": stderr}
        self.processes = []

    def spawn(self, argv, folder):
        process = subprocess.Popen(
            argv, cwd=folder, env=self.environment, start_new_session=True, **self.streams
        )
        self.processes.append(process)
        return process

    def run(self, program, pairs, folder):
        """Start one of the stand-in's programs; its process, and the object whose reference it writes."""
        ior = os.path.join(folder, f".{program}.ior")
        if os.path.exists(ior):
            os.unlink(ior)
        words = [str(word) for pair in dict(pairs, STANDIN_IOR=ior).items() for word in pair]
        process = self.spawn([sys.executable, os.path.join(STANDIN, program + ".py"), *words], folder)

        def ready():
            if process.poll() is not None:
                raise RuntimeError(
                    f"the stand-in's {program} ended at its start, status {process.returncode}"
                )
            return os.path.exists(ior)

        wait_for(ready, 20)
        with open(ior) as stream:
            return process, orb().string_to_object(stream.read())

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def descendants(self):
        """The pids of the living processes among these and all that they started."""
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{name}/environ", "rb") as stream:
                    if self.mark.encode() in stream.read().split(b"\0"):
                        found.append(int(name))
            except OSError:
                pass
        return found

    def close(self):
        """End all of them, at once."""
        for process in self.processes:
            process.kill()
            process.wait()

        def none_left():
            left = self.descendants()
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            return not left

        wait_for(none_left)


class GppRef:
    """A stand-in GPP over CORBA.

    ref  the object: a StandIn::GPP, which is a CF::Device
    """

    def __init__(self, ref):
        self.ref = ref._narrow(StandIn.GPP)

    # What an operator sees

    def query(self, name):
        """A property's value in Python."""
        return query(self.ref, name)

    def status(self):
        """plugin::status: one dict per plugin (id, name, description, busy, alive, pid, metric_names)."""
        return self.query("plugin::status")

    def plugin(self, name):
        """The status of the last plugin registered under that name, or None."""
        return next((each for each in reversed(self.status()) if each["name"] == name), None)

    def metric_status(self):
        """plugin::metric_status: one dict per metric, with the members of plugin::message as keys."""
        return self.query("plugin::metric_status")

    def metric(self, name):
        """The last state of the metric of that name, or None."""
        return next((each for each in self.metric_status() if each["metric_name"] == name), None)

    def set_threshold(self, plugin_id, metric, value):
        """Set a threshold, as the IDE does. If nothing has changed, no plugin gets it, as in REDHAWK."""
        new = wire.pack(
            "plugin::set_threshold", plugin_id=plugin_id, metric_name=metric, metric_threshold_value=value
        )
        self.ref.configure([CF.DataType("plugin::set_threshold", new)])

    @property
    def usage_state(self):
        return self.ref._get_usage_state()

    @property
    def busy_reason(self):
        return self.query("busy_reason")

    def messages(self, wanted=None):
        """Each `Message` so far, or those of one message id, in order of arrival."""
        found = []
        for push in self.ref.received():
            items = push.data.value() if push.data.typecode().equivalent(wire.PROPERTIES) else [None]
            for item in items:
                fields = None
                if item is not None and item.value.typecode().equivalent(wire.PROPERTIES):
                    fields = {member.id: member.value for member in item.value.value()}
                found.append(Message(push.when, item and item.id, fields, push.data, push.dropped))
        return [message for message in found if wanted in (None, message.id)]

    # Its components

    def execute(self, argv):
        """Start a component; argv[0] is a path. Returns its pid."""
        return self.ref.execute([str(word) for word in argv])

    def terminate(self, pid, patience=(2.0, 2.0, 0.5)):
        """Send SIGINT, SIGTERM, SIGKILL, `patience` seconds apart; then the GPP forgets it, ended or not."""
        self.ref.terminate(pid, list(patience))


class Gpp(Marked, GppRef):
    """A stand-in GPP without a node, and all that it started.

    pid          of the GPP, the leader of a process group; its plugins are in the group, components are not
    process      its subprocess.Popen
    environment  added to that of the GPP, and so of its plugins
    settings     more name/value pairs for the command line
    stdout, stderr  as in subprocess.Popen
    """

    def __init__(
        self,
        sdrroot,
        cache,
        *,
        cleans=False,
        shm_root="/dev/shm",
        environment=(),
        settings=(),
        stdout=None,
        stderr=None,
    ):
        super().__init__(sdrroot, environment, stdout, stderr)
        os.makedirs(str(cache), exist_ok=True)
        pairs = {
            "PROFILE_NAME": "/devices/GPP/GPP.spd.xml",
            "DEVICE_ID": "DCE:4e20362c-4442-4656-af6d-aedaaf13b275",
            "DEVICE_LABEL": "GPP_1",
            "DEBUG_LEVEL": "3",
            "DOM_PATH": "REDHAWK_DEV/node",
        }
        pairs.update(settings)
        pairs.update(STANDIN_CLEANS=str(int(cleans)), STANDIN_SHM=str(shm_root))
        self.started = time.time()
        try:
            self.process, ref = self.run("gpp", pairs, str(cache))
            self.pid = self.process.pid
            self.ref = ref._narrow(StandIn.GPP)
        except BaseException:
            self.close()
            raise

    # Its ends

    def release(self):
        """Release the GPP: it exits by itself and sends no signals."""
        self.ref.release()
        self.process.wait(CALL_LIMIT)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        """Send SIGSTOP: it hangs, and its sockets stay."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    def shut_node_down(self):
        """Signal the GPP's process group like a DeviceManager: SIGINT, 0.5 s later SIGTERM, then SIGKILL.

        Blocks for that second. Returns the times of the three signals (time.monotonic()).
        """
        moments = []
        self.ref.release()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            if moments:
                time.sleep(max(0, moments[-1] + 0.5 - time.monotonic()))
            moments.append(time.monotonic())
            try:
                os.killpg(self.pid, number)
            except ProcessLookupError:
                pass
            if number == signal.SIGINT:
                self.process.wait(0.4)
        return moments


class Domain(Marked):
    """A naming service, a domain of one version of REDHAWK, and its nodes.

    ref          the CF::DomainManager
    manager      the CF::DeviceManager of the last node started; `process`: its process
    names        the root of the naming service
    environment  added to that of all processes, and so of the devices
    folder       for their files: a device works in FOLDER/.NODE/LABEL
    settings     of the node
    stdout, stderr  as in subprocess.Popen
    """

    def __init__(
        self,
        sdrroot,
        folder,
        node=None,
        *,
        name="REDHAWK_DEV",
        version="3.0.1",
        settings=(),
        environment=(),
        stdout=None,
        stderr=None,
    ):
        super().__init__(sdrroot, environment, stdout, stderr)
        self.name, self.folder = name, str(folder)
        try:
            self._start_naming_service()
            self.domain, ref = self.run("domain", {"DOMAIN_NAME": name, "VERSION": version}, self.folder)
            self.ref = ref._narrow(CF.DomainManager)
            if node:
                self.start_node(node, **dict(settings))
        except BaseException:
            self.close()
            raise

    def _start_naming_service(self):
        data = os.path.join(self.folder, "names")
        os.makedirs(data)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        where = f"corbaname::127.0.0.1:{port}"
        config = os.path.join(self.folder, "omniORB.cfg")
        serving.write_whole(config, f"InitRef = NameService={where}\nendPoint = giop:tcp:127.0.0.1:\n")
        self.environment["OMNIORB_CONFIG"] = config
        places = os.path.dirname(sys.executable) + os.pathsep + os.environ.get("PATH", "")
        program = shutil.which("omniNames", path=places) or "omniNames"
        argv = [program, "-start", str(port), "-datadir", data, "-errlog", os.path.join(data, "log")]
        argv += ["-ignoreport", "-ORBendPoint", f"giop:tcp:127.0.0.1:{port}"]
        process = self.spawn(argv, self.folder)
        root = orb().string_to_object(where.replace("corbaname", "corbaloc") + "/NameService")

        def reached():
            if process.poll() is not None:
                raise RuntimeError(f"omniNames ended at its start, status {process.returncode}")
            try:
                return root._narrow(CosNaming.NamingContext)
            except CORBA.SystemException:
                return None

        self.names = wait_for(reached)

    def start_node(self, node, debug_level=3, **settings):
        """Start the node with this name, or this DCD below $SDRROOT/dev; returns its CF::DeviceManager.

        settings  more name/value pairs for its command line
        """
        dcd = node if node.startswith("/") else f"/nodes/{node}/DeviceManager.dcd.xml"
        pairs = {"DCD_FILE": dcd, "SDRCACHE": self.folder, "DEBUG_LEVEL": debug_level, **settings}
        self.process, ref = self.run("node", pairs, self.folder)
        self.manager = ref._narrow(CF.DeviceManager)
        return self.manager

    def devices(self):
        """label -> registered device of the last node, if it answers."""
        found = {}
        for device in self.manager._get_registeredDevices():
            try:
                found[device._get_label()] = device
            except (CORBA.COMM_FAILURE, CORBA.TRANSIENT, CORBA.OBJECT_NOT_EXIST):
                pass
        return found

    def device(self, label, limit=10.0):
        """Wait for a registered device with this label; returns it."""
        return wait_for(lambda: self.devices().get(label), limit)

    def gpp(self, label="GPP_1"):
        """Wait for a registered stand-in GPP with this label; returns it."""
        return GppRef(self.device(label))

    def resolve(self, *words):
        """The object bound under these names, below the domain's; None if there is none."""
        try:
            return self.names.resolve(serving.name(self.name, *words))
        except CosNaming.NamingContext.NotFound:
            return None

    def create(self, sad, name=""):
        """Create a waveform from a SAD below $SDRROOT/dom; its CF::Application. releaseObject() ends it."""
        return self.ref.createApplication(sad, name, [], [])

    def states(self):
        """A Listener on the IDM channel, to be entered."""
        return Listener(self.ref._get_eventChannelMgr().get("IDM_Channel"))

    def shut_node_down(self, limit=20.0):
        """Shut the node down, as the IDE does; wait until the manager's process has ended."""
        omniORB.setClientCallTimeout(self.manager, int(limit * 1000))
        self.manager.shutdown()
        self.process.wait(limit)

    def kill_node(self):
        """Kill only the manager: its devices stay."""
        self.process.kill()
        self.process.wait()
