"""A stand-in for REDHAWK's DomainManager, as far as devices and their clients see it.

    domain.py NAME VALUE ...

  DOMAIN_NAME    its name
  VERSION        of REDHAWK, which it says that it is: 2.3.2 or 3.0.1
  STANDIN_IOR    file to write its reference to
The environment must hold SDRROOT, and lead omniORB to a naming service. It allocates a waveform's usesdevices
and starts no components. Ends at SIGTERM; aborts, as REDHAWK's does, if a device's profile cannot be read.
"""

import itertools
import operator
import os
import resource
import signal
import threading
import uuid
from xml.etree.ElementTree import ParseError

from omniORB import CORBA

import sdr
import serving
from channel import EventChannel
from serving import reads, say
from stubs import CF, CF__POA

COMPARE = {name: getattr(operator, name) for name in ("eq", "ne", "gt", "lt", "ge", "le")}
"""The PRF's value stands on the left."""


class Channels(CF__POA.EventChannelManager):
    def __init__(self):
        self.channels = {"IDM_Channel": EventChannel(), "ODM_Channel": EventChannel()}
        self.registrations = set()

    def get(self, name):
        if name not in self.channels:
            raise CF.EventChannelManager.ChannelDoesNotExist()
        return self.channels[name]._this()

    def registerResource(self, wanted):
        channel = self.get(wanted.channel_name)
        wanted.reg_id = wanted.reg_id or str(uuid.uuid4())
        if wanted.reg_id in self.registrations:
            raise CF.EventChannelManager.RegistrationAlreadyExists()
        self.registrations.add(wanted.reg_id)
        return CF.EventChannelManager.EventChannelReg(wanted, channel)

    def unregister(self, registration):
        if registration.reg_id not in self.registrations:
            raise CF.EventChannelManager.RegistrationDoesNotExist()
        self.registrations.discard(registration.reg_id)


class Registered:
    """A device of the domain; its properties are those of its PRF."""

    def __init__(self, ref, manager, root):
        self.ref, self.manager = ref, manager
        self.label, self.id = ref._get_label(), ref._get_identifier()
        profile = ref._get_softwareProfile()
        self.properties = sdr.Profile(root, profile).properties if profile else {}

    def grant(self, wanted):
        """Whether it satisfies a usesdevice; the properties that it allocated, call by call."""
        if self.ref._non_existent() or self.ref._get_usageState() == CF.Device.BUSY:
            return None
        external = []
        for id_, value in wanted:
            found = self.properties.get(id_)
            if found is None or "allocation" not in found.kinds:
                return None
            if found.action == "external":
                external.append(CF.DataType(id_, found.any(value)))
            elif found.members or not COMPARE[found.action](
                found.any(found.value).value(), found.any(value).value()
            ):
                return None
        calls = []
        for item in external:
            # The same id again begins another call.
            if not calls or item.id in {each.id for each in calls[-1]}:
                calls.append([])
            calls[-1].append(item)
        for number, call in enumerate(calls):
            if not self.ref.allocateCapacity(call):
                self.give_back(calls[:number])
                return None
        return calls

    def give_back(self, calls):
        for call in reversed(calls):
            try:
                self.ref.deallocateCapacity(call)
            except CORBA.Exception as error:
                say(f"DomainManager: {self.label}: deallocateCapacity failed: {error!r}")


class Application(CF__POA.Application):
    def __init__(self, domain, id_, name, profile, grants):
        self.domain, self.id, self.name, self.profile, self.grants = domain, id_, name, profile, grants
        self.is_started = False

    def start(self):
        self.is_started = True

    def stop(self):
        self.is_started = False

    def releaseObject(self):
        with self.domain.lock:
            if self.domain.running.pop(self.id, None) is None:
                return
            for device, calls in self.grants:
                device.give_back(calls)
            poa = self._default_POA()
            poa.deactivate_object(poa.servant_to_id(self))

    _get_identifier = reads("id")
    _get_name = reads("name")
    _get_profile = reads("profile")
    _get_softwareProfile = reads("profile")
    _get_started = reads("is_started")

    def _get_componentDevices(self):
        return [CF.DeviceAssignmentType(self.id, device.id) for device, _ in self.grants]


class DomainManager(CF__POA.DomainManager):
    def __init__(self, name, sdrroot, version):
        self.name, self.id, self.version = name, f"DCE:{uuid.uuid4()}", version
        self.dev, self.dom = os.path.join(sdrroot, "dev"), os.path.join(sdrroot, "dom")
        self.lock = threading.RLock()
        self.channels = Channels()
        self.managers, self.devices, self.running = [], [], {}
        self.numbers = itertools.count(1)

    _get_name = reads("name")
    _get_identifier = reads("id")

    def query(self, wanted):
        unknown = [item for item in wanted if item.id != "REDHAWK_VERSION"]
        if unknown:
            raise CF.UnknownProperties(unknown)
        return [CF.DataType("REDHAWK_VERSION", CORBA.Any(CORBA.TC_string, self.version))]

    def _get_domainManagerProfile(self):
        return "/domain/DomainManager.dmd.xml"

    def _get_deviceManagers(self):
        return list(self.managers)

    def _get_applications(self):
        with self.lock:
            return [application._this() for application in self.running.values()]

    def _get_eventChannelMgr(self):
        return self.channels._this()

    # What managers tell

    def registerDeviceManager(self, manager):
        with self.lock:
            self.managers = [each for each in self.managers if not each._non_existent()] + [manager]

    def unregisterDeviceManager(self, manager):
        with self.lock:
            gone = [device for device in self.devices if device.manager._is_equivalent(manager)]
            for application in list(self.running.values()):
                if any(device in gone for device, _ in application.grants):
                    application.releaseObject()
            self.devices = [device for device in self.devices if device not in gone]
            self.managers = [each for each in self.managers if not each._is_equivalent(manager)]

    def registerDevice(self, device, manager):
        if device is None or manager is None:
            raise CF.InvalidObjectReference("[DomainManager::registerDevice] Cannot register Device.")
        with self.lock:
            if not any(each._is_equivalent(manager) for each in self.managers):
                raise CF.DomainManager.DeviceManagerNotRegistered()
            id_ = device._get_identifier()
            for known in [each for each in self.devices if each.id == id_]:
                if exists(known.ref):
                    text = f"Attempt re-register existing device : {id_}"
                    raise CF.DomainManager.RegisterError(CF.CF_NOTSET, text)
                self.devices.remove(known)
            try:
                self.devices.append(Registered(device, manager, self.dev))
            except (OSError, ParseError) as error:
                say(f"DomainManager: terminate called: the profile of {id_} cannot be read: {error}")
                os.abort()

    def unregisterDevice(self, device):
        with self.lock:
            known = [each for each in self.devices if each.ref._is_equivalent(device)]
            if not known:
                raise CF.InvalidObjectReference("Cannot unregister Device: it is not registered.")
            self.devices.remove(known[0])

    # Waveforms

    def createApplication(self, profile, name, configuration, assignments):
        try:
            waveform = sdr.Waveform(self.dom, profile)
            components = [(sdr.Profile(self.dom, path), id_) for path, id_ in waveform.components]
        except (OSError, ParseError) as error:
            text = f"{error} While loading {profile}"
            raise CF.DomainManager.ApplicationInstallationError(CF.CF_EBADF, text) from None
        failed = CF.ApplicationFactory.CreateApplicationError
        if waveform.collocated and not self.version.startswith("2."):
            # As in 3.0.0 and 3.0.1. With 2.x the usesdevice is allocated: only its components are not there.
            text = f"application has no usesdevice '{waveform.collocated[0]}'"
            text = f"The following standard exception occurred: {text} while creating the application"
            raise failed(CF.CF_EBADF, text)
        wanted = [(uses, f"component '{id_}'") for component, id_ in components for uses in component.uses]
        wanted += [(uses, "application") for uses in waveform.uses]
        with self.lock:
            grants = []
            for (id_, dependencies), whose in wanted:
                grant = self.allocate(dependencies)
                if grant is None:
                    for device, calls in grants:
                        device.give_back(calls)
                    text = f"Failed to satisfy 'usesdevice' dependencies {id_} for {whose}"
                    raise failed(CF.CF_ENOSPC, text)
                grants.append(grant)
            id_ = f"{waveform.id}:{name or waveform.name}_{next(self.numbers)}"
            self.running[id_] = Application(self, id_, name or waveform.name, profile, grants)
            return self.running[id_]._this()

    def allocate(self, dependencies):
        """The first device, in the order they registered in, that grants it, and what it granted."""
        for device in self.devices:
            try:
                calls = device.grant(dependencies)
            except (CORBA.Exception, ValueError, KeyError) as error:
                say(f"DomainManager: {device.label}: allocation raised an exception: {error!r}")
                continue
            if calls is not None:
                return device, calls
        return None


def exists(ref):
    try:
        return not ref._non_existent()
    except CORBA.SystemException:
        return False


def main():
    settings = serving.settings()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    orb = serving.orb("domain")
    domain = DomainManager(settings["DOMAIN_NAME"], os.environ["SDRROOT"], settings["VERSION"])
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    context = serving.new_context(serving.naming(orb), domain.name)
    context.bind(serving.name(domain.name), domain._this())
    for name in domain.channels.channels:
        context.bind(serving.name(name), domain.channels.get(name))
    serving.write_whole(settings["STANDIN_IOR"], orb.object_to_string(domain._this()))
    threading.Event().wait()


if __name__ == "__main__":
    main()
