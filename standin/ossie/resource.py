"""A CF::Resource without its servant: life cycle, properties, ports, loggers."""

import logging
import threading
import time

from omniORB import CORBA

import ossie.logger
from ossie import reads
from ossie.cf import CF
from ossie.properties import NULL, PropertyStorage, struct_property

__orb__ = None
"""The ORB that releaseObject() shuts down: whoever starts a device sets it."""


class usesport:
    def __init__(self, name, repid, type_, description=None):
        self.name, self.repid, self.type_ = name, repid, type_
        self.__doc__ = description or ""
        self._attribute = f"__port_{name}__"

    def __get__(self, owner, kind=None):
        return self if owner is None else getattr(owner, self._attribute, None)

    def __set__(self, owner, servant):
        setattr(owner, self._attribute, servant)

    def direction(self):
        return CF.PortSet.DIRECTION_USES


class Resource:
    def __init__(self, identifier, execparams, propertydefs=(), loggerName=None, baseLogName=None):
        # Not re-entrant: a callback that queries or configures waits for itself for ever.
        self.propertySetAccess = threading.Lock()
        self._id = identifier
        self._started = False
        self._domMgr = self._ecm = None
        self._softwareProfile = ""
        self._logid = (loggerName or identifier).replace(":", "_")
        self._log = logging.getLogger(self._logid)
        self._baseLog = logging.getLogger(baseLogName or identifier)
        self.logConfig = ossie.logger.DEFAULT
        self._resourceLog, self._portSupplierLog, self._propertySetLog = (
            self._baseLog.getChildLogger(name, "system")
            for name in ("Resource", "PortSupplier", "PropertySet")
        )
        self._props = PropertyStorage(self, execparams)
        self._props.initialize()
        attributes = [getattr(type(self), name) for name in dir(type(self))]
        self.__ports = {port.name: port for port in attributes if isinstance(port, usesport)}
        self.__initialized = self.__constructed = False

    def getDomainManager(self):
        return self._domMgr

    def addPropertyChangeListener(self, id, callback):
        self._props.addChangeListener(callback, id)

    def constructor(self):
        """For the device to override: the first initialize() calls it."""

    # Life cycle

    def initialize(self):
        if self.__initialized:
            return
        self.__initialized = True
        try:
            self.constructor()
        except Exception as error:
            self._resourceLog.error("initialize(): %s", error)
            raise CF.LifeCycle.InitializeError([str(error)]) from error

    def __tell_ports(self, what):
        for port in self.__ports.values():
            tell = getattr(port.__get__(self), what, None)
            if tell:
                tell()

    def start(self):
        self.__tell_ports("startPort")
        self._started = True

    def stop(self):
        self.__tell_ports("stopPort")
        self._started = False

    def releaseObject(self):
        if self._ecm:
            self._ecm.terminate()
        poa = self._default_POA()
        poa.deactivate_object(poa.servant_to_id(self))
        __orb__.shutdown(False)

    def runTest(self, testid, properties):
        raise CF.TestableObject.UnknownTest()

    _get_identifier = reads("_id")
    _get_started = reads("_started")
    _get_softwareProfile = reads("_softwareProfile")

    # Ports

    def getPort(self, name):
        servant = self.__ports[name].__get__(self) if name in self.__ports else None
        if servant is None:
            raise CF.PortSupplier.UnknownPort()
        return servant._this()

    def getPortSet(self):
        return [
            CF.PortSet.PortInfoType(self.getPort(name), name, port.repid, port.__doc__, port.direction())
            for name, port in self.__ports.items()
        ]

    # Properties

    def __query(self, id_, otherwise):
        """A property's any; if its query fails, `otherwise`, but never for a struct."""
        try:
            return self._props.query(id_)
        except Exception as error:
            self._propertySetLog.error("Failed to query %s: %s", id_, error)
            if isinstance(self._props.getPropDef(id_), struct_property):
                raise TypeError(f"{id_} has no members") from error
            return otherwise

    def query(self, wanted):
        with self.propertySetAccess:
            if not wanted:
                ids = [id_ for id_, found in self._props.items() if found.isQueryable()]
                return [CF.DataType(id_, self.__query(id_, NULL)) for id_ in ids]
            unknown = []
            for item in wanted:
                if item.id == "QUERY_TIMESTAMP":
                    whole, rest = divmod(time.time(), 1)
                    item.value = CORBA.Any(CF._tc_UTCTime, CF.UTCTime(1, whole, rest))
                elif self._props.has_id(item.id) and self._props.getPropDef(item.id).isQueryable():
                    item.value = self.__query(item.id, item.value)
                else:
                    unknown.append(item)
            if unknown:
                raise CF.UnknownProperties(unknown)
            return wanted

    def __set_each(self, properties, allowed, take):
        """Those that may not be set, or could not."""
        bad = []
        for item in properties:
            try:
                if not self._props.has_id(item.id) or not allowed(self._props.getPropDef(item.id)):
                    raise ValueError("no such property, or it may not be set")
                take(item.id, item.value)
            except Exception as error:
                self._propertySetLog.warning("Invalid value for property %s: %s", item.id, error)
                bad.append(item)
        return bad

    def configure(self, properties):
        with self.propertySetAccess:
            bad = self.__set_each(properties, lambda found: found.isConfigurable(), self._props.configure)
        if bad and len(bad) < len(properties):
            raise CF.PropertySet.PartialConfiguration(bad)
        if bad:
            raise CF.PropertySet.InvalidConfiguration("Failure: ", bad)

    def initializeProperties(self, properties):
        with self.propertySetAccess:
            if self.__constructed:
                raise CF.PropertyEmitter.AlreadyInitialized()
            self.__constructed = True
            bad = self.__set_each(properties, lambda found: found.isProperty(), self._props.construct)
        if bad and len(bad) < len(properties):
            raise CF.PropertySet.PartialConfiguration(bad)
        if bad:
            raise CF.PropertySet.InvalidConfiguration("Failure", bad)

    # Loggers

    def _get_log_level(self):
        return ossie.logger.to_corba(self._baseLog.getEffectiveLevel())

    def _set_log_level(self, level):
        if level in ossie.logger.LEVELS:
            for logger in (self._log, self._baseLog):
                logger.setLevel(ossie.logger.LEVELS[level])

    def setLogLevel(self, name, level):
        if not self._baseLog.isLoggerInHierarchy(name):
            raise CF.UnknownIdentifier()
        if level in ossie.logger.LEVELS:
            logging.getLogger(name).setLevel(ossie.logger.LEVELS[level])

    def getLogLevel(self, name):
        if not self._baseLog.isLoggerInHierarchy(name):
            raise CF.UnknownIdentifier()
        return ossie.logger.to_corba(logging.getLogger(name).getEffectiveLevel())

    def getNamedLoggers(self):
        return self._baseLog.getCurrentLoggers()

    def saveLoggingContext(self, url, level, context):
        self.loggingURL, self.loggingCtx = url, context

    def getLogConfig(self):
        return self.logConfig

    def setLogConfig(self, text):
        self.logConfig = text
        ossie.logger.apply(text)
