"""A CF::Resource without its servant: life cycle, properties, ports and loggers, as called over CORBA."""

import threading
import uuid

from gppshm.redhawk.corba import CF, CORBA
from gppshm.redhawk.runtime import listening, log4j, sources
from gppshm.redhawk.runtime.properties import NULL, Declared, Refused, now, same, usesport
from gppshm.redhawk.text import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Sequence

_LEVELS = {getattr(CF.LogLevels, name): number for name, number in log4j.LEVELS.items()}
"""Python's levels by CORBA's."""


class Logging:
    """CF::Logging for the device's own loggers.  Records are not kept, so none can be retrieved.

    read_config(uri)  returns a configuration's text with its macros replaced; raises sources.Unusable
    """

    def __init__(self, loggers: log4j.Loggers, read_config: "Callable[[str], str]") -> None:
        self._loggers = loggers
        self._read_config = read_config
        self._config = self._first_config = log4j.DEFAULT
        self._resource_log = loggers.child("system", "Resource")

    def configure_logging(self, uri: str, debug_level: str) -> None:
        """Apply a DeviceManager's logging configuration; unusable parts are logged."""
        self._loggers.apply(self._config)
        if uri:
            self.setLogConfigURL(uri)
        self._first_config = self._config
        if debug_level.isdecimal():
            names = ("FATAL", "ERROR", "WARN", "INFO", "DEBUG", "ALL")
            self._loggers.root.setLevel(log4j.LEVELS[names[min(int(debug_level), len(names) - 1)]])

    def _get_log_level(self) -> int:
        return _to_corba(self._loggers.base.getEffectiveLevel())

    def _set_log_level(self, level: int) -> None:
        """Set the device's level; an invalid level changes nothing."""
        if level in _LEVELS:
            self._loggers.base.setLevel(_LEVELS[level])

    def getLogLevel(self, logger_id: str) -> int:
        return _to_corba(self._logger(logger_id).getEffectiveLevel())

    def setLogLevel(self, logger_id: str, newLevel: int) -> None:
        logger = self._logger(logger_id)
        if newLevel in _LEVELS:
            logger.setLevel(_LEVELS[newLevel])

    def _logger(self, name: str) -> "Any":
        try:
            return self._loggers.known(name)
        except KeyError:
            raise CF.UnknownIdentifier() from None

    def getNamedLoggers(self) -> "List[str]":
        return self._loggers.names()

    def resetLog(self) -> None:
        self.setLogConfig(self._first_config)

    def getLogConfig(self) -> str:
        return self._config

    def setLogConfig(self, config_contents: str) -> None:
        self._config = config_contents
        faults = self._loggers.apply(config_contents)
        if not self._loggers.root.handlers:
            faults.append("it would log nothing: the log goes to the console")
            self._loggers.apply(log4j.DEFAULT)
        for fault in faults:
            self._resource_log.warning("the logging configuration: %s", fault)

    def setLogConfigURL(self, config_url: str) -> None:
        try:
            text = self._read_config(config_url)
        except sources.Unusable as failure:
            self._resource_log.warning(
                "the logging configuration %s cannot be used: %s", plain(config_url, 200), plain(failure)
            )
        else:
            self.setLogConfig(text)

    def retrieve_records(self, howMany: int, startingRecord: int) -> "Any":
        return [], 0

    def retrieve_records_by_date(self, howMany: int, to_timeStamp: int) -> "Any":
        return [], 0

    def retrieve_records_from_date(self, howMany: int, from_timeStamp: int) -> "Any":
        return [], 0


def _to_corba(level: int) -> int:
    """The nearest CORBA level that is not higher."""
    known = [number for number in _LEVELS.values() if number <= level]
    return next(corba for corba, number in _LEVELS.items() if number == max(known, default=1))


class Resource(Logging):
    """Properties are the class's declarations.  These methods are found by a property's name:

    query_prop_<name>()          its value, or its any, instead of the stored one
    validate_prop_<name>(value)  False, or an exception with a reason, to refuse a value
    """

    def __init__(
        self,
        identifier: str,
        label: str,
        profile: str,
        loggers: log4j.Loggers,
        read_config: "Callable[[str], str]",
    ) -> None:
        Logging.__init__(self, loggers, read_config)
        self._id = identifier
        self._label = label
        self._profile = profile
        self._started = False
        self._property_log = loggers.child("system", "PropertySet")
        # Reentrant: a callback may configure its own device.
        self._access = threading.RLock()
        self._once = threading.Lock()
        self._is_initialized = self._has_initial_values = False
        self._change_listeners: Dict[str, Callable[[str, Any, Any], None]] = {}
        self._listeners = listening.Listeners(identifier, self.item, self._property_log)
        kinds = [getattr(type(self), name) for name in dir(type(self))]
        self.declared = {each.id_: each for each in kinds if isinstance(each, Declared)}
        self._ports = {each.name: each for each in kinds if isinstance(each, usesport)}
        for declared in self.declared.values():
            declared.set(self, declared.initial())

    # -- CF::LifeCycle, CF::TestableObject -----------------------------------------------------------

    def constructor(self) -> None:
        """To be overridden: called once, when the properties have their initial values."""

    def initialize(self) -> None:
        """A second call does nothing."""
        with self._once:
            if self._is_initialized:
                return
            try:
                self.constructor()
            except Exception as error:
                self._resource_log.error("it cannot be initialized: %s", plain(repr(error)))
                raise CF.LifeCycle.InitializeError([plain(error)]) from None
            self._is_initialized = True

    def start(self) -> None:
        self._started = True

    def stop(self) -> None:
        self._started = False

    def releaseObject(self) -> None:
        self._listeners.stop()
        servants = [port.__get__(self) for port in self._ports.values()] + [self]
        for servant in filter(None, servants):
            poa = servant._default_POA()
            try:
                poa.deactivate_object(poa.servant_to_id(servant))
            except CORBA.Exception:
                pass  # a port that was never activated, or the ORB has ended

    def runTest(self, testid: int, testValues: "Any") -> "Any":
        raise CF.TestableObject.UnknownTest()

    def _get_identifier(self) -> str:
        return self._id

    def _get_started(self) -> bool:
        return self._started

    def _get_softwareProfile(self) -> str:
        return self._profile

    # -- CF::PortSet ---------------------------------------------------------------------------------

    def getPort(self, name: str) -> "Any":
        servant = self._ports[name].__get__(self) if name in self._ports else None
        if servant is None:
            self._resource_log.warning("there is no port %s", plain(name, 100))
            raise CF.PortSupplier.UnknownPort()
        return servant._this()

    def getPortSet(self) -> "List[Any]":
        return [
            CF.PortSet.PortInfoType(
                self.getPort(name), name, port.repid, port.__doc__ or "", CF.PortSet.DIRECTION_USES
            )
            for name, port in self._ports.items()
        ]

    # -- CF::PropertySet, CF::PropertyEmitter --------------------------------------------------------

    def query(self, configProperties: "Sequence[Any]") -> "List[Any]":
        """Values that are not available are null anys, and logged."""
        if not configProperties:
            ids = [id_ for id_, declared in self.declared.items() if declared.is_queryable]
            return [self.item(id_) for id_ in ids]
        unknown = [item for item in configProperties if not self.can_be_queried(item.id)]
        if unknown:
            raise CF.UnknownProperties(unknown)
        return [self.item(item.id) for item in configProperties]

    def can_be_queried(self, identifier: str) -> bool:
        declared = self.declared.get(identifier)
        return identifier == "QUERY_TIMESTAMP" or (declared is not None and declared.is_queryable)

    def item(self, identifier: str) -> "Any":
        """The present CF::DataType of a property."""
        if identifier == "QUERY_TIMESTAMP":
            return CF.DataType(identifier, CORBA.Any(CF._tc_UTCTime, now()))
        declared = self.declared[identifier]
        try:
            callback = getattr(self, "query_prop_" + declared.name, None)
            value = declared.get(self) if callback is None else callback()
            return CF.DataType(identifier, value if isinstance(value, CORBA.Any) else declared.to_any(value))
        except Exception as error:
            self._property_log.error("%s cannot be sent: %s", identifier, plain(repr(error)))
            return CF.DataType(identifier, NULL)

    def configure(self, configProperties: "Sequence[Any]") -> None:
        """Sets each property by itself and informs listeners; refusals have reasons."""
        self._set_each(configProperties, lambda declared: declared.is_configurable, self._configure)

    def initializeProperties(self, initialProperties: "Sequence[Any]") -> None:
        """The same, once, before `initialize`."""
        with self._access:
            if self._has_initial_values:
                raise CF.PropertyEmitter.AlreadyInitialized()
            self._has_initial_values = True
        self._set_each(initialProperties, lambda declared: declared.is_initialized, self._take)

    def addPropertyChangeListener(self, id_: str, callback: "Callable[[str, Any, Any], None]") -> None:
        """callback(id, old, new) runs after each configure; if it raises, the new value is refused."""
        self._change_listeners[id_] = callback

    def _set_each(
        self,
        items: "Sequence[Any]",
        allowed: "Callable[[Declared], bool]",
        take: "Callable[[Declared, Any], object]",
    ) -> None:
        bad: List[Any] = []
        reasons: List[str] = []
        for item in items:
            declared = self.declared.get(item.id)
            try:
                if declared is None:
                    raise Refused("there is no such property")
                if not allowed(declared):
                    raise Refused("it cannot be set")
                with self._access:
                    take(declared, item.value)
            except Exception as error:
                reason = plain(getattr(error, "msg", "") or str(error) or repr(error))
                bad.append(item)
                reasons.append(f"{plain(item.id, 100)}: {reason}")
                self._property_log.warning("%s is refused: %s", plain(item.id, 100), reason)
        if bad and len(bad) < len(items):
            raise CF.PropertySet.PartialConfiguration(bad)
        if bad:
            raise CF.PropertySet.InvalidConfiguration(plain("; ".join(reasons)), bad)

    def _take(self, declared: Declared, data: "Any") -> "Any":
        """Store a value; returns the old one."""
        value = declared.from_any(data)
        validate = getattr(self, "validate_prop_" + declared.name, None)
        if validate is not None and not validate(value):
            raise Refused("that is not allowed")
        old = declared.get(self)
        declared.set(self, value)
        return old

    def _configure(self, declared: Declared, data: "Any") -> None:
        old = self._take(declared, data)
        new = declared.get(self)
        callback = self._change_listeners.get(declared.id_)
        if callback is not None:
            try:
                callback(declared.id_, old, new)
            except Exception:
                declared.set(self, old)
                raise
        if declared.is_event and not same(old, new):
            self.send_property(declared.id_)

    def send_property(self, identifier: str) -> None:
        """To be overridden: report that a property of kind event has changed."""

    def registerPropertyListener(self, obj: "Any", prop_ids: "Sequence[str]", interval: float) -> str:
        ids = list(prop_ids) or [id_ for id_, declared in self.declared.items() if declared.is_queryable]
        unknown = [CF.DataType(id_, NULL) for id_ in ids if not self.can_be_queried(id_)]
        if unknown:
            raise CF.UnknownProperties(unknown)
        identifier = str(uuid.uuid4())
        try:
            self._listeners.add(identifier, obj, ids, interval)
        except ValueError as error:
            raise CF.InvalidObjectReference(plain(error)) from None
        return identifier

    def unregisterPropertyListener(self, id: str) -> None:
        try:
            self._listeners.remove(id)
        except KeyError:
            raise CF.InvalidIdentifier() from None
