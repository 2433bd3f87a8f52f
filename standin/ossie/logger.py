"""Levels and loggers as REDHAWK has them, on Python's logging. Importing it makes every new logger a Logger.

Of a configuration's text only the levels are taken (log4j.rootLogger, log4j.logger.NAME): lines go to stdout.
"""

import logging
import sys
import urllib.parse

from ossie.cf import CF

logging.TRACE, logging.ALL, logging.OFF = 5, 1, logging.FATAL + 1
for _name in ("TRACE", "ALL", "OFF"):
    logging.addLevelName(getattr(logging, _name), _name)

NAMES = ("OFF", "FATAL", "ERROR", "WARN", "INFO", "DEBUG", "TRACE", "ALL")
LEVELS = {getattr(CF.LogLevels, name): getattr(logging, name) for name in NAMES}
"""Python's levels by CORBA's."""

DEFAULT = "log4j.rootLogger=INFO,STDOUT\n"


class Logger(logging.Logger):
    def __init__(self, name, level=logging.NOTSET):
        super().__init__(name, level)
        self.below = [name]

    def getChildLogger(self, name, kind="user"):
        """LABEL.user.NAME, LABEL.system.NAME; below one of these only the name is added."""
        child = f"{self.name}.{name}" if "." in self.name and kind == "user" else f"{self.name}.{kind}.{name}"
        if child not in self.below:
            self.below.append(child)
        return logging.getLogger(child)

    def getCurrentLoggers(self):
        return list(self.below)

    def isLoggerInHierarchy(self, name):
        """Whether it is one of this logger's, or a prefix of one by whole words."""
        return any(each == name or not name or each.startswith(name + ".") for each in self.below)


logging.setLoggerClass(Logger)


class DeviceCtx:
    """Who a device is; REDHAWK puts it into a configuration's text."""

    def __init__(self, name, id, dpath):
        self.name, self.instance_id, self.dom_path = name, id, dpath


def to_corba(level):
    """INFO for what REDHAWK has no name for."""
    return next((corba for corba, python in LEVELS.items() if python == level), CF.LogLevels.INFO)


def apply(text):
    """Write to stdout, and set the levels that a configuration's text names."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        logging.Formatter(
            "%(asctime)s %(levelname)-5s %(name)s:%(lineno)d - %(message)s", "%Y-%m-%d %H:%M:%S"
        )
    )
    root.addHandler(handler)
    for line in text.splitlines():
        key, _, value = line.partition("=")
        level = value.split(",")[0].strip().upper()
        if level in NAMES and key.strip() in ("log4j.rootLogger", "log4j.rootCategory"):
            root.setLevel(getattr(logging, level))
        elif level in NAMES and key.strip().startswith(("log4j.logger.", "log4j.category.")):
            logging.getLogger(key.strip().split(".", 2)[2]).setLevel(getattr(logging, level))


def Configure(logcfgUri, logLevel=None, ctx=None, category=None):
    """Never raises: a file that is not there leaves Python's logging as it was."""
    if not logcfgUri:
        apply(DEFAULT)
    else:
        parts = urllib.parse.urlparse(logcfgUri)
        try:
            if parts.scheme != "file":
                logging.warning("Invalid logging config URI scheme")
            else:
                with open(parts.path) as stream:
                    apply(stream.read())
        except OSError:
            pass
    if logLevel is not None and logLevel > -1:
        names = ("FATAL", "ERROR", "WARN", "INFO", "DEBUG", "ALL")
        logging.getLogger().setLevel(getattr(logging, names[logLevel] if logLevel < len(names) else "INFO"))
