"""A CF::Device without its servant: registration, states, release.

Capacity is not in it: a device of ours allocates and deallocates by methods of its own.
"""

import queue
import threading

from omniORB import CORBA, any

# isort: split
# omniORB adds the folder of this one to the path.
import CosEventChannelAdmin

from ossie import reads, resource
from ossie.cf import CF, StandardEvent
from ossie.events import IDM_CHANNEL, Manager, consumer_of

EVENTS = {
    "_usageState": StandardEvent.USAGE_STATE_EVENT,
    "_adminState": StandardEvent.ADMINISTRATIVE_STATE_EVENT,
}


class Container:
    def __init__(self, ref):
        self.ref = ref

    def getRef(self):
        return self.ref


def call_within(seconds, call):
    """Whether it came back in time; it goes on in its thread if not."""
    done = queue.Queue()
    threading.Thread(target=lambda: done.put(call()), daemon=True).start()
    try:
        done.get(timeout=seconds)
    except queue.Empty:
        return False
    return True


class Device(resource.Resource):
    def __init__(
        self,
        devmgr,
        identifier,
        label,
        softwareProfile,
        compositeDevice,
        execparams,
        propertydefs=(),
        loggerName=None,
    ):
        name = loggerName or label.rsplit("_", 1)[0] or None
        super().__init__(identifier, execparams, loggerName=name, baseLogName=label)
        self._deviceLog = self._baseLog.getChildLogger("Device", "system")
        self._label = self._name = label
        self._softwareProfile = softwareProfile
        self._devmgr = devmgr
        self._domMgr = Container(devmgr._get_domMgr())
        self._compositeDevice = compositeDevice
        self._capacityLock = threading.RLock()
        self._idm_publisher = None
        self.__reset_states()

    def __reset_states(self):
        self._usageState = CF.Device.IDLE
        self._adminState = CF.Device.UNLOCKED
        self._operationalState = CF.Device.ENABLED

    # Registration

    def postConstruction(self, registrar_ior=None, idm_ior=None):
        """Find the IDM channel, register with the DeviceManager. That either fails is no more than logged."""
        self._ecm = Manager(self)
        self.connectIDMChannel(idm_ior)
        self.registerDevice()

    def connectIDMChannel(self, idm_ior=None):
        try:
            if idm_ior:
                channel = CORBA.ORB_init().string_to_object(idm_ior)
                self._idm_publisher = consumer_of(channel._narrow(CosEventChannelAdmin.EventChannel))
            else:
                self._idm_publisher = self._ecm.publish(IDM_CHANNEL)
        except Exception:
            self._deviceLog.warning("Unable to connect to IDM channel.... DEV-ID:%s", self._id)

    def registerDevice(self):
        self._deviceLog.info("Registering Device:%s", self._label)

        def register():
            try:
                self._devmgr.registerDevice(self._this())
            except CORBA.Exception as error:
                self._deviceLog.error("Could not register with DeviceManager: %s", error)

        if not call_within(10, register):
            self._deviceLog.warning("May not have registered with DeviceManager: no answer yet")

    # Life cycle

    def initialize(self):
        """The states are reset by every call, not only the first."""
        super().initialize()
        self.__reset_states()

    def releaseObject(self):
        if self._adminState == CF.Device.UNLOCKED:
            self._adminState = CF.Device.SHUTTING_DOWN

        def unregister():
            try:
                self._devmgr.unregisterDevice(self._this())
            except CORBA.Exception as error:
                self._deviceLog.error("Could not unregister from DeviceManager: %s", error)

        try:
            if self._compositeDevice:
                self._compositeDevice.removeDevice(self._this())
            if not call_within(1, unregister):
                self._deviceLog.error("Could not unregister from DeviceManager: timeout")
        except Exception as error:
            raise CF.LifeCycle.ReleaseError([str(error)]) from error
        self._adminState = CF.Device.LOCKED
        try:
            super().releaseObject()
        except Exception:
            self._resourceLog.error("failed releaseObject()")

    # States

    def __setattr__(self, name, value):
        old = getattr(self, name, value) if name in EVENTS else value
        if old != value and self._idm_publisher is not None:
            states = [getattr(StandardEvent, state._n) for state in (old, value)]
            event = StandardEvent.StateChangeEventType(self._id, self._id, EVENTS[name], *states)
            try:
                self._idm_publisher.push(any.to_any(event))
            except CORBA.Exception:
                self._deviceLog.warning("Error sending event")
        super().__setattr__(name, value)

    _get_usageState = reads("_usageState")
    _get_adminState = reads("_adminState")

    def _set_adminState(self, state):
        """From locked to unlocked or back; anything else is ignored."""
        if {self._adminState, state} == {CF.Device.LOCKED, CF.Device.UNLOCKED}:
            self._adminState = state

    _get_operationalState = reads("_operationalState")
    _get_label = reads("_label")
    _get_compositeDevice = reads("_compositeDevice")
