"""A stand-in for REDHAWK's DeviceManager: a node's devices, launched from its DCD or registered by others.

    node.py NAME VALUE ...

  DCD_FILE       of the node, below $SDRROOT/dev
  SDRCACHE       parent of the devices' working directories: .NODE/LABEL
  DEBUG_LEVEL    for the devices
  LOGGING_CONFIG_URI  optional: for the devices
  STANDIN_IOR    file to write its reference to, once all devices are launched
In a domain of REDHAWK 2.x it dies, as the real one does, when others register a device.  The environment must
have SDRROOT, and lead omniORB to a naming service.  SIGINT, SIGQUIT and SIGTERM shut the node down.
"""

import importlib
import os
import signal
import threading
import time

import omniORB

# isort: split
import CosNaming
from omniORB import CORBA

import sdr
import serving
import wire
from children import Children
from serving import reads, say
from stubs import CF, CF__POA

SIGNALS = {signal.SIGINT, signal.SIGQUIT, signal.SIGTERM}
LAST_CALLS = 3.0
"""Seconds that a device has for stop() and for releaseObject() at the node's shutdown."""
KILLING = ((signal.SIGINT, 0.5), (signal.SIGTERM, 0.5), (signal.SIGKILL, 0.1))


class FileSystem(CF__POA.FileSystem):
    """The files below `root`; sizes have the wire format of REDHAWK 2.x or 3.0."""

    def __init__(self, root, is_2):
        self.root = root
        skeletons = importlib.import_module("gppshm.redhawk.stubs.REDHAWK2__POA") if is_2 else CF__POA
        self.kind = type("File", (File, skeletons.File), {})

    def path(self, name):
        if not name.startswith("/"):
            raise CF.InvalidFileName(CF.CF_EINVAL, f"{name} is not an absolute path")
        return os.path.join(self.root, name.lstrip("/"))

    def exists(self, name):
        return os.path.exists(self.path(name))

    def open(self, name, read_only):
        try:
            return self.kind(open(self.path(name), "rb"))._this()
        except OSError as error:
            raise CF.FileException(CF.CF_ENOENT, f"{name}: {error.strerror}") from None


class File:
    def __init__(self, stream):
        self.stream = stream

    def read(self, length):
        return self.stream.read(length)

    def close(self):
        self.stream.close()


class Device:
    """A launched device (`pid`, `instance`), or one registered by others (pid 0, no instance)."""

    def __init__(self, pid=0, instance=None):
        self.pid, self.instance = pid, instance
        self.ref = None
        self.label = self.id = ""
        self.started = False

    def order(self):
        """Its startorder; others' devices come last, None is never started."""
        return self.instance.order if self.instance else float("inf")


class DeviceManager(CF__POA.DeviceManager):
    def __init__(self, orb, dcd, settings, sdrroot):
        self.orb, self.dcd, self.settings = orb, dcd, settings
        self.dev = os.path.join(sdrroot, "dev")
        self.node = sdr.Node(self.dev, dcd)
        self.id, self.label = self.node.id, self.node.name
        self.lock = threading.RLock()
        # Launched and not registered; registered, in that order.
        self.pending, self.devices = [], []
        self.ending = False
        self.ended = threading.Event()
        self.is_2 = False
        self.children = Children(self.child_ended)

    def join(self):
        """Find the domain, register with it and make the node's naming context."""
        root = serving.naming(self.orb)
        found = root.resolve(serving.name(self.node.domain, self.node.domain))
        self.domain = found._narrow(CF.DomainManager)
        (version,) = self.domain.query([CF.DataType("REDHAWK_VERSION", wire.NULL)])
        self.is_2 = version.value.value().startswith("2.")
        self.files = FileSystem(self.dev, self.is_2)
        self.domain.registerDeviceManager(self._this())
        parent = root.resolve(serving.name(self.node.domain))._narrow(CosNaming.NamingContext)
        self.parent, self.context = parent, serving.new_context(parent, self.node.name)

    # CF::DeviceManager's attributes

    _get_deviceConfigurationProfile = reads("dcd")

    def _get_fileSys(self):
        return self.files._this()

    _get_identifier = reads("id")
    _get_label = reads("label")
    _get_domMgr = reads("domain")

    def _get_registeredDevices(self):
        with self.lock:
            return [device.ref for device in self.devices]

    def _get_registeredServices(self):
        return []

    def getComponentImplementationId(self, id_):
        found = self.instance(id_)
        return sdr.Profile(self.dev, found.profile).implementation if found else ""

    def instance(self, id_):
        return next((each for each in self.node.instances if each.id == id_), None)

    # Launching

    def launch(self):
        channel = self.orb.object_to_string(self.domain._get_eventChannelMgr().get("IDM_Channel"))
        for instance in self.node.instances:
            try:
                profile = sdr.Profile(self.dev, instance.profile)
                if not os.access(profile.program, os.R_OK | os.X_OK):
                    raise PermissionError(
                        f"Missing read or execute file permissions on file: {profile.program}"
                    )
            except (OSError, sdr.ElementTree.ParseError) as error:
                say(f"DeviceManager: skipping instantiation of device {instance.label}: {error}")
                continue
            pairs = [
                ("PROFILE_NAME", instance.profile),
                ("DEVICE_ID", instance.id),
                ("DEVICE_LABEL", instance.label),
                ("IDM_CHANNEL_IOR", channel),
                *self.logging(),
                ("DEBUG_LEVEL", self.settings.get("DEBUG_LEVEL", "3")),
                ("DOM_PATH", f"{self.node.domain}/{self.node.name}"),
                *((each.id, each.value) for each in profile.chosen(is_argument, instance.overrides)),
                ("DEVICE_MGR_IOR", self.orb.object_to_string(self._this())),
            ]
            folder = os.path.join(self.settings["SDRCACHE"], "." + self.node.name, instance.label)
            os.makedirs(folder, exist_ok=True)
            words = [word for pair in pairs for word in pair]
            argv = ["/bin/sh", "-c", 'cd "$0" && exec "$@"', folder, profile.program, *words]
            with self.lock:
                self.pending.append(
                    Device(self.children.spawn(argv, own_group=True, unblocked=True), instance)
                )

    def logging(self):
        """The logging configuration as a device gets it: to a path the file system's reference is added."""
        uri = self.settings.get("LOGGING_CONFIG_URI", "")
        if uri.startswith("sca:"):
            uri += "?fs=" + self.orb.object_to_string(self.files._this())
        return [("LOGGING_CONFIG_URI", uri)] if uri else []

    def child_ended(self, pid):
        with self.lock:
            self.pending = [device for device in self.pending if device.pid != pid]
            gone = next((device for device in self.devices if device.pid == pid), None)
            if gone:
                self.devices.remove(gone)
        if gone:
            say(f"DeviceManager: child process {gone.label} (pid {pid}) has terminated")
            self.forget(gone)

    def forget(self, device):
        """Unbind its name, and tell the domain unless the node is ending."""
        calls = [lambda: self.context.unbind(serving.name(device.label))]
        if not self.ending:
            calls.append(lambda: self.domain.unregisterDevice(device.ref))
        for call in calls:
            try:
                call()
            except CORBA.Exception as error:
                say(f"DeviceManager: {device.label}: {error!r}")

    # Registration

    def registerDevice(self, ref):
        if ref is None:
            raise CF.InvalidObjectReference(
                "[DeviceManager::registerDevice] Cannot register Device: nil reference"
            )
        if self.ending:
            return
        label, instance = ref._get_label(), self.instance(ref._get_identifier())
        if self.known(ref):
            say(f"DeviceManager: Device is already registred: {label}")
            return
        if self.is_2 and not instance:
            say(f"DeviceManager: dies of {label}, which is not in its DCD")
            os.kill(os.getpid(), signal.SIGSEGV)
        if ref._get_softwareProfile() and instance:
            self.introduce(ref, label, instance)
        try:
            self.context.bind(serving.name(label), ref)
        except Exception:
            # The caller does not hear of it.
            say(f"DeviceManager: Device is already registered: {label}")
            return
        with self.lock:
            device = next((each for each in self.pending if each.instance is instance), None) or Device()
            self.pending = [each for each in self.pending if each is not device]
            device.ref, device.label, device.id = ref, ref._get_label(), ref._get_identifier()
            self.devices.append(device)
        try:
            self.domain.registerDevice(ref, self._this())
        except CORBA.Exception as error:
            # Nor of this.
            say(f"DeviceManager: {label}: failed to register device to domain manager due to: {error!r}")
        self.start_all()

    def introduce(self, ref, label, instance):
        """The calls that only a device of the DCD gets. Any failure is the registration's."""
        profile = sdr.Profile(self.dev, instance.profile)

        def values(wanted):
            return [
                CF.DataType(each.id, each.any(each.value))
                for each in profile.chosen(wanted, instance.overrides)
            ]

        try:
            ref.initializeProperties(values(lambda each: "property" in each.kinds and not is_argument(each)))
            ref.initialize()
            changes = values(lambda each: "configure" in each.kinds and each.mode != "readonly")
            if changes:
                ref.configure(changes)
        except CORBA.Exception as error:
            text = f"{label}: {error!r}. Device registration with Device Manager failed"
            say(f"DeviceManager: {text}")
            raise CF.InvalidObjectReference(text) from None

    def known(self, ref):
        with self.lock:
            return next((each for each in self.devices if each.ref._is_equivalent(ref)), None)

    def start_all(self):
        """Once nothing is pending: by startorder, then the devices that others have registered."""
        with self.lock:
            if self.pending:
                return
            ready = [each for each in self.devices if not each.started and each.order() is not None]
        for device in sorted(ready, key=Device.order):
            try:
                device.ref.start()
                device.started = True
            except CORBA.Exception as error:
                say(f"DeviceManager: device {device.label} failed to start: {error!r}")

    def unregisterDevice(self, ref):
        if ref is None:
            raise CF.InvalidObjectReference("Cannot unregister Device: nil reference")
        with self.lock:
            device = self.known(ref)
            if device is None:
                raise CF.InvalidObjectReference("Cannot unregister Device: it was not registered.")
            self.devices.remove(device)
            if device.pid:
                # Its process has not ended.
                self.pending.append(device)
        self.forget(device)

    # The end

    def shutdown(self):
        with self.lock:
            if self.ending:
                return
            self.ending = True
            devices = [each for each in self.devices if each.order() is not None]
        inside = sorted((each for each in devices if each.pid), key=Device.order, reverse=True)
        for device in inside + [each for each in devices if not each.pid]:
            self.last_call(device, "stop")
        try:
            self.domain.unregisterDeviceManager(self._this())
        except CORBA.Exception:
            pass
        while self.devices:
            device = self.devices[0]
            say(f"DeviceManager: releasing device {device.label}")
            self.last_call(device, "releaseObject")
            with self.lock:
                if self.devices and self.devices[0] is device:
                    self.devices.remove(device)
                    if device.pid:
                        self.pending.append(device)
        with self.lock:
            pids = [device.pid for device in self.pending]
        for pid in pids:
            end_group(pid)
        try:
            self.parent.unbind(serving.name(self.node.name))
        except CORBA.Exception:
            pass
        self.ended.set()

    @staticmethod
    def last_call(device, name):
        omniORB.setClientCallTimeout(device.ref, int(LAST_CALLS * 1000))
        try:
            getattr(device.ref, name)()
        except CORBA.Exception as error:
            say(f"DeviceManager: {device.label}: {name}: {error!r}")


def is_argument(found):
    """Whether a property is given on the command line."""
    return found.on_command_line and (found.mode != "readonly" or "property" in found.kinds)


def end_group(pid):
    """SIGINT, SIGTERM, SIGKILL to the process group of a child, until nothing is left of it.

    No signal at all if the child itself is gone.
    """
    try:
        if os.getpgid(pid) != pid:
            return
        for number, limit in KILLING:
            os.killpg(pid, number)
            deadline = time.monotonic() + limit
            while time.monotonic() < deadline:
                os.killpg(pid, 0)
                time.sleep(0.01)
    except ProcessLookupError:
        pass


def main():
    settings = serving.settings()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, *SIGNALS})
    orb = serving.orb("node")
    manager = DeviceManager(orb, settings["DCD_FILE"], settings, os.environ["SDRROOT"])
    manager.join()
    manager.launch()
    serving.write_whole(settings["STANDIN_IOR"], orb.object_to_string(manager._this()))
    while not manager.ended.is_set():
        caught = signal.sigtimedwait(SIGNALS, 0.02)
        # CPython returns garbage after SIGSTOP and SIGCONT.
        if caught and caught.si_signo in SIGNALS:
            manager.shutdown()
    # The caller of shutdown() gets its answer.
    time.sleep(0.05)
    os._exit(0)


if __name__ == "__main__":
    main()
