"""A device that stands in a DeviceManager's node: made, registered, checked, and taken back.

REDHAWK says little when a registration fails (measured on 3.0.1): a label that is taken makes it return as
if all were well, and a profile that does not resolve makes the DomainManager abort.  So everything is asked
before, and looked at afterwards.
"""

import logging
import os
import sys
import threading
import time
import xml.etree.ElementTree as xml

import ossie.logger
import ossie.resource

import CosNaming  # isort: skip

from gppshm.redhawk import logs, metrics
from gppshm.redhawk.cleaning import Cleaning, Orders
from gppshm.redhawk.corba import CF, CORBA, is_refused, omniORB
from gppshm.redhawk.device import Device
from gppshm.redhawk.text import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Optional

_log = logs.logger("GppShmPlugin.device")

PROFILE = "/devices/GppShmPlugin/GppShmPlugin.spd.xml"
"""Where `./build.sh install` puts the device's profile, in the file system of every DeviceManager."""

REGISTRATION_TIME = 15000
"""Milliseconds for a call of the DeviceManager: it calls back, and the DomainManager, within one."""
CHECK = 15.0
"""Seconds between looks whether the DeviceManager is still there, at least."""
GRACE = 0.5
"""Seconds between two refused connections that are believed."""


class NotRegistered(Exception):
    """Why there is no device in the node, and whether that may change (`later`)."""

    def __init__(self, reason: str, later: bool = True) -> None:
        Exception.__init__(self, reason)
        self.later = later


class _Orb:
    """Stands for the ORB in ossie, which shuts it down with its device: others need it still."""

    def __init__(self, orb: "Any") -> None:
        self._orb = orb

    def shutdown(self, wait: bool) -> None:
        pass

    def __getattr__(self, name: str) -> "Any":
        return getattr(self._orb, name)


class Presence:
    """One device in one node.

    parameters  what a DeviceManager gives a device: DEVICE_MGR_IOR, DEVICE_ID, DEVICE_LABEL, PROFILE_NAME,
                maybe IDM_CHANNEL_IOR, DOM_PATH, DEBUG_LEVEL, LOGGING_CONFIG_URI
    on_end      called when the device has been released, or its manager is gone
    ended       why it has ended; "" while it stands
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
        self._reference: Any = None
        self._checked = time.monotonic()

    def register(self, launched: bool) -> None:
        """Stand in the node.  NotRegistered if that does not come about.

        launched  by the DeviceManager, which then initialises it; else that is done here, after everything
                  was asked that would make the registration fail
        """
        try:
            self._manager = self._find_manager()
            if not launched:
                self._ask_before()
            self._make()
            assert self.device is not None
            self.device.launched = launched
            if not launched:
                self.device.initialize()
            ior, idm = self.parameters["DEVICE_MGR_IOR"], self.parameters.get("IDM_CHANNEL_IOR")
            self.device.postConstruction(ior, idm)
            if not self._is_registered() and not self.device.leaving:  # it may be released already
                raise NotRegistered("its DeviceManager did not register it; see the DeviceManager's log")
        except (CORBA.Exception, UnicodeError) as error:
            self._abandon()
            raise NotRegistered(f"a call to its DeviceManager failed: {plain(error)}") from None
        except NotRegistered:
            self._abandon()
            raise
        self.device.on_tick = self.check
        _log.info("registered with its DeviceManager as %s", plain(self.parameters["DEVICE_LABEL"]))

    def retire(self, seconds: float) -> None:
        """Unregister and stop, in so many seconds at most; nothing if it was released before."""
        device = self.device
        if device is not None and not self.ended:
            self.ended = "retired"
            # Unregistering must not wait for the domain's channel, which is told of states and may hang.
            device._idm_publisher = None
            thread = threading.Thread(target=self._release, args=(device,), name="release", daemon=True)
            thread.start()
            thread.join(seconds)

    def check(self) -> None:
        """Have it noticed, soon, if the DeviceManager is gone; quick, for any thread."""
        now = time.monotonic()
        if self.device is not None and not self.ended and now - self._checked >= CHECK:
            self._checked = now
            self.device.teller.tell(self._check)

    # -- before --------------------------------------------------------------------------------------

    def _find_manager(self) -> "Any":
        manager = self._orb.string_to_object(self.parameters["DEVICE_MGR_IOR"])
        manager = manager._narrow(CF.DeviceManager) if manager is not None else None
        if manager is None:
            raise NotRegistered("DEVICE_MGR_IOR is not that of a DeviceManager", later=False)
        omniORB.setClientCallTimeout(manager, REGISTRATION_TIME)
        return manager

    def _ask_before(self) -> None:
        """NotRegistered if registering would go wrong."""
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
                continue  # dead, or silent: its name tells more
        self._clear_stale_name()

    def _clear_stale_name(self) -> None:
        """A dead device keeps its label, under which nobody can be registered; NotRegistered if it lives."""
        path = self.parameters.get("DOM_PATH", "").split("/") + [self.parameters["DEVICE_LABEL"]]
        name = [CosNaming.NameComponent(part, "") for part in path if part]
        try:
            root = self._orb.resolve_initial_references("NameService")._narrow(CosNaming.NamingContext)
            there = root.resolve(name)
        except CosNaming.NamingContext.NotFound:
            return
        except (CORBA.Exception, AttributeError) as error:
            _log.warning("the naming service cannot be asked for a stale name: %s", plain(repr(error)))
            return
        if not is_gone(there):
            raise NotRegistered(f"the name {'/'.join(path)} belongs to an object that may live")
        root.unbind(name)
        _log.info("unbound %s: the device of that name is dead", plain("/".join(path)))

    def _make(self) -> None:
        place = self.parameters
        label, level = place["DEVICE_LABEL"], place.get("DEBUG_LEVEL", "")
        uri = place.get("LOGGING_CONFIG_URI") or None
        context = ossie.logger.DeviceCtx(label, place["DEVICE_ID"], place.get("DOM_PATH", ""))
        number = int(level) if level.isdecimal() else None
        if self._handler is not None:
            sys.stdout = logs.Stream(self._handler)  # before ossie's appenders find it
        category = label.rpartition("_")[0] or label
        ossie.logger.Configure(uri, number, context, category)
        if not logging.getLogger().handlers:
            # ossie says nothing of a file that it cannot use, and nothing would be logged any more.
            _log.warning("LOGGING_CONFIG_URI cannot be used: %s", plain(uri))
            uri = None
            ossie.logger.Configure(None, number, context, category)
        ossie.resource.__orb__ = _Orb(self._orb)
        self.device = Device(
            self._manager,
            place["DEVICE_ID"],
            label,
            place["PROFILE_NAME"],
            place,
            self._work,
            self._orders,
            self._board,
            self._released,
        )
        self.device.saveLoggingContext(uri, number, context)
        if self._handler is not None:
            self._handler.redirect(self.device._baseLog.getChildLogger("shm"))
        self._reference = self.device._this()  # activates it; done later, it would revive a released one

    # -- after ---------------------------------------------------------------------------------------

    def _is_registered(self) -> bool:
        # The Python sandbox's manager has no domain and no list: omniORB there would print that it was asked.
        if not self.parameters.get("DOM_PATH"):
            return True
        registered = self._manager._get_registeredDevices()
        return any(device is not None and self._reference._is_equivalent(device) for device in registered)

    def _check(self) -> None:
        refused = 0
        for _ in range(5):  # the first calls may only find that connections have broken
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


def is_gone(reference: "Any") -> bool:
    """Whether an object is certainly not there any more: refused connections, or its own process' word."""
    return bool(_gone(reference))


def _gone(reference: "Any") -> "Optional[bool]":
    """Likewise; None if it cannot be told."""
    try:
        return bool(reference._non_existent())
    except CORBA.OBJECT_NOT_EXIST:
        return True
    except CORBA.Exception as error:
        return True if is_refused(error) else None


def _is_in_dcd(path: str) -> bool:
    """Whether a node's DCD, on this host, has a device with our profile; False if it cannot be read."""
    file = os.path.join(os.environ.get("SDRROOT", ""), "dev", path.lstrip("/"))
    try:
        root = xml.parse(file).getroot()
    except (OSError, xml.ParseError):
        return False
    names = [element.get("name", "") for element in root.iter("localfile")]
    return any(os.path.basename(name) == os.path.basename(PROFILE) for name in names)
