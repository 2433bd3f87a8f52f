"""A stand-in for REDHAWK's GPP, as seen by its plugins, on real CORBA.

    gpp.py NAME VALUE ...

Settings are name/value pairs, as a DeviceManager gives them; further pairs are for plugins to read.
  DEVICE_MGR_IOR optional: register as a device with this DeviceManager, and start the plugins in initialize()
  STANDIN_IOR    optional: a file to write the reference of the StandIn::GPP to
  STANDIN_CLEANS 1: unlink heap-<pid> of a component once it is reaped, as REDHAWK's does; 0 (default): never
  STANDIN_SHM    directory of the heaps (default /dev/shm)
The environment must have SDRROOT.  The working directory is that of the plugins.  Ends at SIGTERM and at
release(), and never signals any process.
"""

import datetime
import os
import signal
import threading
import time
import uuid

from omniORB import CORBA

import serving
import wire
from channel import MessageConsumer, MessageSupplier
from children import Children, prepare_signals
from serving import reads
from stubs import CF, StandIn, StandIn__POA


class GPP(StandIn__POA.GPP):
    def __init__(self, orb, settings):
        self.orb = orb
        names = ("DEVICE_ID", "DEVICE_LABEL", "PROFILE_NAME")
        self.id, self.label, self.profile = (settings.get(name, "") for name in names)
        self.cleans = settings.get("STANDIN_CLEANS", "0") == "1"
        self.shm_root = settings.get("STANDIN_SHM", "/dev/shm")
        self.manager = None
        self.is_started = self.launched = False
        self.lock = threading.RLock()
        self.plugin_pids = {}
        self.plugins = []
        self.metrics = {}
        self.threshold = dict.fromkeys(wire.STRUCTS["plugin::set_threshold"], "")
        self.busy_reason = ""
        self.plugin_busy = False
        self.executed = set()
        self.messages = []
        self.released = threading.Event()
        self.port = MessageConsumer(self.push)
        self.thresholds = MessageSupplier()
        self.children = Children(self.ended)

    def launch_plugins(self):
        """Start NAME/NAME of every NAME in the folder of plugins, once."""
        if self.launched:
            return
        self.launched = True
        folder = os.path.join(os.environ["SDRROOT"], "dev", "devices", "GPP", "plugins")
        ior = self.orb.object_to_string(self.port._this())
        for name in sorted(os.listdir(folder) if os.path.isdir(folder) else ()):
            path = os.path.join(folder, name, name)
            if not (os.path.isfile(path) and os.access(path, os.X_OK)):
                continue
            plugin = f"DCE:{uuid.uuid4()}"
            with self.lock:
                try:
                    self.plugin_pids[plugin] = self.children.spawn([path, ior, plugin])
                except OSError as error:
                    print(f"Unable to launch plugin '{path}': {error.strerror}", flush=True)

    # What plugins say

    def push(self, data):
        """Each message of a push stands for itself; it is noted before it has any effect."""
        handlers = {
            "plugin::registration": self.register_plugin,
            "plugin::message": self.record,
            "plugin::heartbeat": lambda values: None,
        }
        taken, dropped = [], []
        try:
            items = wire.properties(data, "the push")
        except wire.Dropped as why:
            items, dropped = [], [str(why)]
        for item in items:
            try:
                if item.id not in handlers:
                    raise wire.Dropped(f"no such message: {item.id}")
                taken.append((handlers[item.id], wire.unpack(item.id, item.value)))
            except wire.Dropped as why:
                dropped.append(str(why))
        with self.lock:
            self.messages.append(StandIn.Message(time.time(), data, "; ".join(dropped)))
        for handle, values in taken:
            handle(values)

    def register_plugin(self, values):
        port = values.pop("metric_port")
        # busy is not initialised in REDHAWK until the first metric: anything may stand there.
        plugin = dict(values, busy=True, alive=True, metric_names=[])
        with self.lock:
            plugin["pid"] = self.plugin_pids.get(plugin["id"], 0)
            self.plugins.append(plugin)
        try:
            self.thresholds.connect(self.orb.string_to_object(port), plugin["id"])
        except (CORBA.Exception, ValueError) as error:
            print(f"GPP: plugin {plugin['id']} gets no thresholds: {error!r}", flush=True)

    def record(self, values):
        with self.lock:
            self.metrics[values["plugin_id"], values["metric_name"]] = values
            plugin = next((each for each in self.plugins if each["id"] == values["plugin_id"]), None)
            if plugin and values["metric_name"] not in plugin["metric_names"]:
                plugin["metric_names"].append(values["metric_name"])
            self.update_usage()

    def update_usage(self):
        """The reason is the one that made it BUSY: it stays while any metric is busy, as in REDHAWK."""
        cause = next((values for _, values in sorted(self.metrics.items()) if values["busy"]), None)
        if cause and not self.plugin_busy:
            self.busy_reason = (
                f"(time: {datetime.datetime.now()}) REASON: {cause['metric_reason']} EXCEEDED "
                f"Threshold: {cause['metric_threshold_value']} Actual: {cause['metric_recorded_value']}"
            )
        elif not cause:
            self.busy_reason = ""
        self.plugin_busy = cause is not None

    # Its children

    def ended(self, pid):
        """A child was reaped: a plugin has crashed, a component has ended, or one that was forgotten."""
        with self.lock:
            for plugin in self.plugins:
                if self.plugin_pids.get(plugin["id"]) == pid:
                    plugin.update(alive=False, description="plugin crashed. " + plugin["description"])
            for (plugin, _), values in self.metrics.items():
                if self.plugin_pids.get(plugin) == pid:
                    values.update(busy=False, metric_timestamp=wire.now())
                    values.update(metric_reason="plugin crashed", metric_recorded_value="plugin crashed")
            self.update_usage()
            known = pid in self.executed
            self.executed.discard(pid)
        if known and self.cleans:
            try:
                os.unlink(os.path.join(self.shm_root, f"heap-{pid}"))
            except FileNotFoundError:
                pass

    def execute(self, argv):
        with self.lock:
            try:
                pid = self.children.spawn(argv, own_group=True)
            except OSError as error:
                raise StandIn.Failed(f"cannot execute {argv[0]}: {error.strerror}") from None
            self.executed.add(pid)
        return pid

    def terminate(self, pid, patience):
        with self.lock:
            if pid not in self.executed:
                raise StandIn.Failed(f"no component of this GPP: {pid}")
        self.children.end(pid, patience)
        with self.lock:
            self.executed.discard(pid)

    # CF::PropertySet

    def values(self):
        """Every property that can be queried, by id."""
        with self.lock:
            for plugin in self.plugins:
                states = [
                    values["busy"] for (owner, _), values in self.metrics.items() if owner == plugin["id"]
                ]
                if states:
                    plugin["busy"] = plugin["alive"] and any(states)
            status = [wire.pack("plugin::status", **plugin) for plugin in self.plugins]
            metrics = [
                wire.pack("plugin::metric_status", **values) for _, values in sorted(self.metrics.items())
            ]
            return {
                "busy_reason": CORBA.Any(wire.STRING, self.busy_reason),
                "plugin::metric_status": CORBA.Any(CORBA._tc_AnySeq, metrics),
                "plugin::set_threshold": wire.pack("plugin::set_threshold", **self.threshold),
                "plugin::status": CORBA.Any(CORBA._tc_AnySeq, status),
            }

    def query(self, wanted):
        values = self.values()
        unknown = [item for item in wanted if item.id not in values]
        if unknown:
            raise CF.UnknownProperties(unknown)
        return [CF.DataType(name, values[name]) for name in ([item.id for item in wanted] or values)]

    def configure(self, changes):
        for change in changes:
            try:
                if change.id != "plugin::set_threshold":
                    raise wire.Dropped(f"{change.id} cannot be configured")
                new = wire.unpack(change.id, change.value)
            except wire.Dropped as why:
                raise CF.PropertySet.InvalidConfiguration(str(why), [change]) from None
            with self.lock:
                same, self.threshold = new == self.threshold, new
            # REDHAWK's listener hears of a change alone: the same threshold set again reaches nobody.
            if not same:
                message = CF.DataType(change.id, wire.pack(change.id, **new))
                self.thresholds.push(CORBA.Any(wire.PROPERTIES, [message]))

    # CF::Device, for a DeviceManager

    def register(self, ior):
        """The manager calls initialize() in this, but not if the GPP is none of its DCD's devices."""
        try:
            self.manager = self.orb.string_to_object(ior)._narrow(CF.DeviceManager)
            self.manager.registerDevice(self._this())
        except CORBA.Exception as error:
            print(f"GPP: could not register with DeviceManager: {error!r}", flush=True)

    def initializeProperties(self, properties):
        pass

    def initialize(self):
        self.launch_plugins()

    def start(self):
        self.is_started = True

    def stop(self):
        self.is_started = False

    def releaseObject(self):
        """It still lives for a moment after the call, as REDHAWK's does."""
        try:
            self.manager.unregisterDevice(self._this())
        except CORBA.Exception as error:
            print(f"GPP: could not unregister from DeviceManager: {error!r}", flush=True)
        threading.Timer(0.2, self.released.set).start()

    _get_started = reads("is_started")

    _get_identifier = reads("id")
    _get_label = reads("label")
    _get_softwareProfile = reads("profile")

    def _get_usageState(self):
        return getattr(CF.Device, self._get_usage_state())

    def _get_adminState(self):
        return CF.Device.UNLOCKED

    def _get_operationalState(self):
        return CF.Device.ENABLED

    # StandIn::GPP

    def _get_usage_state(self):
        with self.lock:
            return "BUSY" if self.plugin_busy else "ACTIVE" if self.executed else "IDLE"

    def _get_pid(self):
        return os.getpid()

    def _get_metrics_in(self):
        return self.port._this()

    def _get_components(self):
        with self.lock:
            return sorted(self.executed)

    def received(self):
        with self.lock:
            return list(self.messages)

    def forget_messages(self):
        with self.lock:
            self.messages.clear()

    def release(self):
        self.released.set()


def main():
    settings = serving.settings()
    prepare_signals()
    orb = serving.orb("gpp")
    gpp = GPP(orb, settings)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    if "DEVICE_MGR_IOR" in settings:
        gpp.register(settings["DEVICE_MGR_IOR"])
    gpp.launch_plugins()
    if "STANDIN_IOR" in settings:
        serving.write_whole(settings["STANDIN_IOR"], orb.object_to_string(gpp._this()))
    gpp.released.wait()
    # At once, whatever calls are still under way.
    os._exit(0)


if __name__ == "__main__":
    main()
