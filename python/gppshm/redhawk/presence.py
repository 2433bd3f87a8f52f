"""Makes a device, registers it in a DeviceManager's node, checks it, and unregisters it.

REDHAWK reports a failed registration badly (measured on 3.0.1): if the label is taken, the call returns
normally; if the profile does not resolve, the DomainManager aborts.  So all conditions are checked before
the call, and the result after it.

Beside the GPP the way depends on the version.  The DeviceManager of 2.x dies of a device that is not in its
DCD (measured on 2.3.2; the source of 2.0 to 2.3 has the same).  There, and if the version is unknown, this
module registers the device with the DomainManager, binds its name and calls start(), as the DeviceManager
would.
"""

import os
import threading
import time
import xml.etree.ElementTree as xml

from gppshm.redhawk import logs, metrics
from gppshm.redhawk.cleaning import Cleaning, Orders
from gppshm.redhawk.corba import CF, CORBA, CosNaming, is_refused, named, omniORB
from gppshm.redhawk.device import Device
from gppshm.redhawk.runtime import log4j, sources, versions
from gppshm.redhawk.text import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional, Tuple

_log = logs.logger("GppShmPlugin.device")

PROFILE = "/devices/GppShmPlugin/GppShmPlugin.spd.xml"
"""Path of the device's profile in the file system of every DeviceManager, as `./build.sh install` puts it."""

REGISTRATION_TIME = 15000
"""Milliseconds for a call to the DeviceManager, which itself calls the device and the DomainManager."""
CHECK = 15.0
"""Seconds between checks of the DeviceManager, at least."""
GRACE = 0.5
"""Seconds between the two refused connections that prove its end."""


class NotRegistered(Exception):
    """Why the device is not registered; `later`: whether another try may succeed."""

    def __init__(self, reason: str, later: bool = True) -> None:
        Exception.__init__(self, reason)
        self.later = later


class Presence:
    """One device in one node.

    parameters  as a DeviceManager gives them: DEVICE_MGR_IOR, DEVICE_ID, DEVICE_LABEL, PROFILE_NAME, and
                optionally IDM_CHANNEL_IOR, DOM_PATH, DEBUG_LEVEL, LOGGING_CONFIG_URI
    on_end      called after the device was released, or its manager is gone
    ended       why it has ended; else ""
    """

    def __init__(
        self,
        orb: "Any",
        parameters: "Dict[str, str]",
        work: Cleaning,
        orders: Orders,
        board: metrics.Metrics,
        handler: "Optional[logs.Handler]",
        on_end: "Callable[[], None]",
    ) -> None:
        self.parameters = parameters
        self.ended = ""
        self.device: Optional[Device] = None
        self._orb = orb
        self._work = work
        self._orders = orders
        self._board = board
        self._handler = handler
        self._on_end = on_end
        self._manager: Any = None
        self._domain: Any = None
        self._version = ""
        self._reference: Any = None
        self._checked = time.monotonic()

    def register(self, launched: bool) -> None:
        """Register the device.  Raises NotRegistered.

        launched  by the DeviceManager, which initialises it; otherwise the conditions are checked and the
                  device is initialised here
        """
        try:
            self._manager = self._find_manager()
            self._find_domain(launched)
            if not launched:
                self._ask_before()
            self._make()
            assert self.device is not None
            self.device.launched = launched
            # The sandboxes of Python and of the IDE give no DOM_PATH.
            self.device.in_node = launched and bool(self.parameters.get("DOM_PATH"))
            if not launched:
                self.device.initialize()
            self.device.watch_states(self._orb, self.parameters.get("IDM_CHANNEL_IOR"), self._domain)
            if launched or (self._version and not versions.is_2(self._version)):
                whom = "DeviceManager"
                self._register_with_manager()
            else:
                whom = "DomainManager"
                self._register_with_domain()
        except (CORBA.Exception, UnicodeError) as error:
            self._abandon()
            raise NotRegistered(f"a call to its DeviceManager failed: {_described(error)}") from None
        except NotRegistered:
            self._abandon()
            raise
        self.device.on_tick = self.check
        _log.info("registered with its %s as %s", whom, plain(self.parameters["DEVICE_LABEL"]))

    def retire(self, seconds: float) -> None:
        """Unregister and stop, within `seconds`; does nothing if the device was released before."""
        device = self.device
        if device is not None and not self.ended:
            self.ended = "retired"
            thread = threading.Thread(target=self._release, args=(device,), name="release", daemon=True)
            thread.start()
            thread.join(seconds)

    def check(self) -> None:
        """Check soon whether the DeviceManager is gone.  Callable from any thread; never waits."""
        now = time.monotonic()
        if self.device is not None and not self.ended and now - self._checked >= CHECK:
            self._checked = now
            self.device.sender.submit(self._check)

    # -- before the registration ---------------------------------------------------------------------

    def _find_manager(self) -> "Any":
        manager = self._orb.string_to_object(self.parameters["DEVICE_MGR_IOR"])
        manager = manager._narrow(CF.DeviceManager) if manager is not None else None
        if manager is None:
            raise NotRegistered("DEVICE_MGR_IOR is not that of a DeviceManager", later=False)
        omniORB.setClientCallTimeout(manager, REGISTRATION_TIME)
        return manager

    def _find_domain(self, launched: bool) -> None:
        """Find the DomainManager and its version; a sandbox has none."""
        try:
            self._domain = self._manager._get_domMgr()
            self._version = versions.of_domain(self._domain)
        except CORBA.SystemException as error:
            if not launched:
                raise NotRegistered(f"the DomainManager cannot be asked: {named(error)}") from None
            _log.warning("the DomainManager cannot be asked for its version: %s", named(error))
        _log.debug("REDHAWK's version is %s", plain(self._version or "not known"))

    def _ask_before(self) -> None:
        """Raise NotRegistered if the registration would fail."""
        profile = self.parameters["PROFILE_NAME"]
        if not self._manager._get_fileSys().exists(profile):
            raise NotRegistered(
                f"the node's file system has no {profile}: ./build.sh install puts it there", later=False
            )
        if _is_in_dcd(self._manager._get_deviceConfigurationProfile()):
            raise NotRegistered("the node's DCD has this device", later=False)
        for device in self._manager._get_registeredDevices():
            try:
                if os.path.basename(device._get_softwareProfile()) == os.path.basename(profile):
                    raise NotRegistered(f"the node has this device already: {plain(device._get_label())}")
            except CORBA.Exception:
                continue  # it is dead or does not answer; its name is checked next
        self._clear_stale_name()

    def _clear_stale_name(self) -> None:
        """Unbind the name of a dead device, which blocks its label.  Raises NotRegistered if it may live."""
        name, shown = self._name()
        try:
            root = self._names()
            there = root.resolve(name)
        except CosNaming.NamingContext.NotFound:
            return
        except (CORBA.Exception, AttributeError) as error:
            _log.warning("the naming service cannot be asked for a stale name: %s", plain(repr(error)))
            return
        if not is_gone(there):
            raise NotRegistered(f"the name {shown} belongs to an object that may live")
        root.unbind(name)
        _log.info("unbound %s: the device of that name is dead", shown)

    def _name(self) -> "Tuple[List[Any], str]":
        """The device's name in the naming service, also as text."""
        path = self.parameters.get("DOM_PATH", "").split("/") + [self.parameters["DEVICE_LABEL"]]
        path = [part for part in path if part]
        return [CosNaming.NameComponent(part, "") for part in path], plain("/".join(path))

    def _names(self) -> "Any":
        return self._orb.resolve_initial_references("NameService")._narrow(CosNaming.NamingContext)

    def _make(self) -> None:
        place = self.parameters
        label = place["DEVICE_LABEL"]
        write = _to_stdout if self._handler is None else self._handler.add
        loggers = log4j.Loggers(label, write)
        self.device = Device(
            place["DEVICE_ID"],
            label,
            place["PROFILE_NAME"],
            loggers,
            self._read_config,
            self._work,
            self._orders,
            self._board,
            self._released,
        )
        self.device.version = self._version
        self.device.configure_logging(place.get("LOGGING_CONFIG_URI", ""), place.get("DEBUG_LEVEL", ""))
        if self._handler is not None:
            self._handler.redirect(loggers.child("user", "shm"))
        self._reference = self.device._this()  # activates it now; later it would activate a released one

    def _read_config(self, uri: str) -> str:
        text = sources.read(uri, self._orb, self._manager, self._version)
        return sources.expanded(text, self.parameters)

    # -- registration --------------------------------------------------------------------------------

    def _register_with_manager(self) -> None:
        """Raises CORBA.Exception, NotRegistered."""
        assert self.device is not None
        self.device.leave = lambda: self._manager.unregisterDevice(self._reference)
        self._manager.registerDevice(self._reference)
        if not self._is_registered() and not self.device.leaving:  # it may have been released already
            raise NotRegistered("its DeviceManager did not register it; see the DeviceManager's log")

    def _register_with_domain(self) -> None:
        """Raises CORBA.Exception, NotRegistered."""
        assert self.device is not None
        if self._domain is None:
            raise NotRegistered("its DeviceManager names no DomainManager to register it with")
        omniORB.setClientCallTimeout(self._domain, REGISTRATION_TIME)
        self.device.leave = self._leave_domain
        self._domain.registerDevice(self._reference, self._manager)
        name, shown = self._name()
        try:
            self._names().bind(name, self._reference)
        except (CORBA.Exception, AttributeError) as error:
            _log.warning("%s could not be bound in the naming service: %s", shown, plain(repr(error)))
        self.device.start()

    def _leave_domain(self) -> None:
        try:
            self._domain.unregisterDevice(self._reference)
        finally:
            self._unbind()

    def _unbind(self) -> None:
        name, _ = self._name()
        try:
            names = self._names()
            if names.resolve(name)._is_equivalent(self._reference):
                names.unbind(name)
        except (CORBA.Exception, AttributeError):
            pass  # the node and its names have ended

    # -- after the registration ----------------------------------------------------------------------

    def _is_registered(self) -> bool:
        # The Python sandbox's manager has no such list, and its omniORB would print an error about the call.
        if not self.parameters.get("DOM_PATH"):
            return True
        registered = self._manager._get_registeredDevices()
        return any(device is not None and self._reference._is_equivalent(device) for device in registered)

    def _check(self) -> None:
        refused = 0
        for _ in range(5):  # the first calls may fail only because connections have broken
            gone = _gone(self._manager)
            if gone is False:
                return
            refused = refused + 1 if gone else 0
            if refused == 2:
                break
            time.sleep(GRACE)
        if refused == 2 and not self.ended and self.device is not None:
            self.ended = "its DeviceManager is gone"
            self._on_end()
            self._release(self.device)

    def _released(self) -> None:
        if not self.ended:
            self.ended = "it was released"
            self._on_end()

    def _abandon(self) -> None:
        if self.device is not None:
            self.ended = "not registered"
            self._release(self.device)
            self.device = None
            self.ended = ""

    def _release(self, device: Device) -> None:
        try:
            device.releaseObject()
        except Exception as error:
            _log.warning("the device could not be unregistered: %s", plain(repr(error)))


def _described(error: "Any") -> str:
    """The name of a CORBA exception, with its text if it has any."""
    return plain(": ".join(filter(None, [named(error), getattr(error, "msg", "")])))


def _to_stdout(line: bytes) -> None:
    os.write(1, line)


def is_gone(reference: "Any") -> bool:
    """Whether an object certainly does not exist: its connection is refused, or its process says so."""
    return bool(_gone(reference))


def _gone(reference: "Any") -> "Optional[bool]":
    """As `is_gone`; None if it is unknown."""
    try:
        return bool(reference._non_existent())
    except CORBA.OBJECT_NOT_EXIST:
        return True
    except CORBA.Exception as error:
        return True if is_refused(error) else None


def _is_in_dcd(path: str) -> bool:
    """Whether the DCD, a file of this host, has a device with our profile; False if it cannot be read."""
    file = os.path.join(os.environ.get("SDRROOT", ""), "dev", path.lstrip("/"))
    try:
        root = xml.parse(file).getroot()
    except (OSError, xml.ParseError):
        return False
    names = [element.get("name", "") for element in root.iter("localfile")]
    return any(os.path.basename(name) == os.path.basename(PROFILE) for name in names)
