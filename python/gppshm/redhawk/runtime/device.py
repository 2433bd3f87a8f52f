"""A CF::Device without its servant: states and the end.  Allocation is left to the subclass."""

import threading

from gppshm.redhawk.corba import CF, CORBA, named
from gppshm.redhawk.runtime import versions
from gppshm.redhawk.runtime.ports import Watchers
from gppshm.redhawk.runtime.resource import Resource
from gppshm.redhawk.text import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

LEAVING = 1.0
"""Seconds that unregistering may take, when the device is released over CORBA."""


class Device(Resource):
    """The CF::Device part of a device; the class of a servant also derives from CF__POA.Device.

    version  REDHAWK's version, if known; it decides the form of state change events
    submit   runs functions in order and soon; they may block
    leave    unregisters the device
    """

    def __init__(self, *arguments: "Any") -> None:
        """The arguments are Resource's."""
        Resource.__init__(self, *arguments)
        self.version = ""
        self.submit: Callable[[Callable[[], None]], None] = lambda task: task()
        self.leave: Callable[[], None] = lambda: None
        self._device_log = self._loggers.child("system", "Device")
        self._watchers = Watchers(self._device_log)
        self._is_leaving = False
        self._has_left = threading.Event()
        self._states = threading.RLock()
        self._usage_state = CF.Device.IDLE
        self._admin_state = CF.Device.UNLOCKED
        self._operational_state = CF.Device.ENABLED

    def watch_states(self, orb: "Any", ior: "Any", domain: "Any") -> None:
        """Report state changes to the domain from now on, on the channel `ior`, or on the domain's own."""
        self._watchers.connect(orb, ior, domain)

    def releaseObject(self) -> None:
        """Unregister and deactivate; a concurrent call waits until that is done."""
        with self._states:
            first, self._is_leaving = not self._is_leaving, True
        if not first:
            self._has_left.wait(LEAVING)
            return
        self.set_admin_state(CF.Device.SHUTTING_DOWN)
        if self._started:
            self.stop()
        leaving = threading.Thread(target=self._leave, name="leave", daemon=True)
        leaving.start()
        leaving.join(LEAVING)
        if leaving.is_alive():
            self._device_log.warning(
                "the CORBA object that it is registered with has not answered within %g s", LEAVING
            )
        self.set_admin_state(CF.Device.LOCKED)
        self.submit(self._watchers.disconnect)
        Resource.releaseObject(self)
        self._has_left.set()

    def _leave(self) -> None:
        try:
            self.leave()
        except Exception as error:
            self._device_log.warning("it could not be unregistered: %s", plain(repr(error)))

    # -- states --------------------------------------------------------------------------------------

    def set_usage_state(self, state: "Any") -> None:
        with self._states:
            old, self._usage_state = self._usage_state, state
            self._state_changed("USAGE", old, state)

    def set_admin_state(self, state: "Any") -> None:
        with self._states:
            old, self._admin_state = self._admin_state, state
            self._state_changed("ADMINISTRATIVE", old, state)

    def set_operational_state(self, state: "Any") -> None:
        with self._states:
            old, self._operational_state = self._operational_state, state
            self._state_changed("OPERATIONAL", old, state)

    def _state_changed(self, category: str, old: "Any", new: "Any") -> None:
        if old != new:
            event = versions.state_change(self.version, self._id, category, old, new)
            self.submit(lambda: self._push(event))

    def _push(self, event: "Any") -> None:
        try:
            self._watchers.push(event)
        except CORBA.Exception as error:
            self._device_log.warning("the domain was not informed of a change of state: %s", named(error))

    def _get_usageState(self) -> "Any":
        return self._usage_state

    def _get_adminState(self) -> "Any":
        return self._admin_state

    def _set_adminState(self, state: "Any") -> None:
        """From locked to unlocked or back; anything else is ignored, as in REDHAWK."""
        if {self._admin_state, state} == {CF.Device.LOCKED, CF.Device.UNLOCKED}:
            self.set_admin_state(state)

    def _get_operationalState(self) -> "Any":
        return self._operational_state

    def _get_label(self) -> str:
        return self._label

    def _get_compositeDevice(self) -> "Any":
        return None
