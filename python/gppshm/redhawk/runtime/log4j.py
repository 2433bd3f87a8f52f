"""Turns a log4j configuration, as REDHAWK gives it, into Python loggers.

Appenders to the console and to files are supported; others are reported as unsupported.
"""

import logging
import logging.handlers
import os
import re
import stat
import threading
import time

from gppshm.redhawk.text import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Dict, List

TRACE, OFF = 5, logging.CRITICAL + 1

LEVELS = {
    "OFF": OFF,
    "FATAL": logging.CRITICAL,
    "ERROR": logging.ERROR,
    "WARN": logging.WARNING,
    "INFO": logging.INFO,
    "DEBUG": logging.DEBUG,
    "TRACE": TRACE,
    "ALL": 1,
}
_NAMES = {number: name for name, number in LEVELS.items()}

DEFAULT = """\
log4j.rootLogger=INFO,STDOUT
log4j.appender.STDOUT=org.apache.log4j.ConsoleAppender
log4j.appender.STDOUT.layout=org.apache.log4j.PatternLayout
log4j.appender.STDOUT.layout.ConversionPattern=%d{yyyy-MM-dd HH:mm:ss} %-5p %c:%L - %m%n
"""
PATTERN = "%p:%c{1} - %m%n"

SIZES = {"KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30}


class Console(logging.Handler):
    """Passes lines to `write`, as bytes."""

    def __init__(self, write: "Callable[[bytes], None]") -> None:
        super().__init__()
        self._write = write

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._write(self.format(record).encode("utf-8", "backslashreplace"))
        except Exception:
            self.handleError(record)


class Pattern(logging.Formatter):
    """log4j's PatternLayout: %d{...} %p %c{n} %m %n %L %F %M %t %r, with widths; others are empty."""

    _CONVERSION = re.compile(r"%(-?)(\d*)(?:\.(\d+))?([a-zA-Z%])(?:\{([^}]*)\})?")
    _DATE = re.compile(r"'([^']*)'|([a-zA-Z])\2*")
    _DATES = {
        "yyyy": "%Y",
        "yy": "%y",
        "MMM": "%b",
        "MM": "%m",
        "dd": "%d",
        "EEE": "%a",
        "HH": "%H",
        "hh": "%I",
        "mm": "%M",
        "ss": "%S",
        "a": "%p",
        "Z": "%z",
    }

    def __init__(self, pattern: str) -> None:
        super().__init__()
        self._pattern = pattern

    def format(self, record: logging.LogRecord) -> str:
        return self._CONVERSION.sub(lambda found: self._part(record, found), self._pattern)

    def _part(self, record: logging.LogRecord, found: "re.Match[str]") -> str:
        left, least, most, letter, option = found.groups()
        text = self._value(record, letter, option or "")
        if most:
            text = text[-int(most) :]
        if least:
            text = text.ljust(int(least)) if left else text.rjust(int(least))
        return text

    def _value(self, record: logging.LogRecord, letter: str, option: str) -> str:
        if letter == "m":
            text = plain(record.getMessage(), 2000)
            if record.exc_info:
                text += "\n" + self.formatException(record.exc_info)
            return text
        if letter == "c":
            words = record.name.split(".")
            return ".".join(words[-int(option) :] if option.isdecimal() and int(option) else words)
        if letter == "d":
            return self._date(record, option)
        values = {
            "p": _NAMES.get(record.levelno, record.levelname),
            "n": "\n",
            "L": str(record.lineno),
            "F": record.filename,
            "M": record.funcName or "",
            "t": record.threadName or "",
            "r": "%d" % record.relativeCreated,
            "%": "%",
        }
        return values.get(letter, "")

    def _date(self, record: logging.LogRecord, option: str) -> str:
        """By Java's letters, as in yyyy-MM-dd; an option with a % is one of strftime."""
        when = time.localtime(record.created)
        if "%" in option:
            return time.strftime(option, when)

        def part(found: "re.Match[str]") -> str:
            letters = found.group()
            if letters == "SSS":
                return "%03d" % record.msecs
            if letters in self._DATES:
                return time.strftime(self._DATES[letters], when)
            return letters.strip("'")

        whole = option if option not in ("", "ISO8601") else "yyyy-MM-dd HH:mm:ss,SSS"
        return self._DATE.sub(part, whole)


class Loggers:
    """The loggers of one device, separate from all others.

    base   named as the device
    write  receives lines for the console; must not block
    """

    def __init__(self, label: str, write: "Callable[[bytes], None]") -> None:
        self._write = write
        self._tree = logging.Manager(logging.RootLogger(logging.INFO))
        self._tree.setLoggerClass(logging.Logger)
        self._names = [label]
        self._applying = threading.Lock()
        self.base = self._tree.getLogger(label)

    def child(self, kind: str, name: str) -> logging.Logger:
        """The logger DEVICE.kind.name, as in REDHAWK; kinds are user, system and ports."""
        whole = f"{self.base.name}.{kind}.{name}"
        if whole not in self._names:
            self._names.append(whole)
        return self._tree.getLogger(whole)

    def names(self) -> "List[str]":
        return list(self._names)

    def known(self, name: str) -> logging.Logger:
        """The logger of one of `names`, or of what they begin with.  KeyError."""
        if not any(each == name or each.startswith(name + ".") for each in self._names):
            raise KeyError(name)
        return self._tree.getLogger(name)

    @property
    def root(self) -> logging.Logger:
        return self._tree.root

    def apply(self, text: str) -> "List[str]":
        """Apply a configuration; returns a sentence for each unsupported part."""
        with self._applying:
            return self._apply(_values(text))

    def _apply(self, values: "Dict[str, str]") -> "List[str]":
        faults: List[str] = []
        loggers = [self.root]
        loggers += [each for each in self._tree.loggerDict.values() if isinstance(each, logging.Logger)]
        for logger in loggers:
            for handler in list(logger.handlers):
                logger.removeHandler(handler)
                handler.close()
            logger.propagate = True
            logger.setLevel(logging.NOTSET)
        self.root.setLevel(logging.INFO)
        made: Dict[str, logging.Handler] = {}
        for key, value in values.items():
            match = re.match(r"log4j\.(root(?:Logger|Category)|(?:logger|category)\.(.+))$", key)
            if match is None:
                continue
            where = match.group(2)
            logger = self._tree.getLogger(where) if where else self.root
            level, *appenders = [word.strip() for word in value.split(",")]
            if level.upper() in LEVELS:
                logger.setLevel(LEVELS[level.upper()])
            elif level and level.upper() != "INHERITED":
                faults.append(f"{key}: there is no level {plain(level, 60)}")
            for name in filter(None, appenders):
                if name not in made:
                    made[name] = self._appender(name, values, faults)
                logger.addHandler(made[name])
            if values.get(f"log4j.additivity.{where}", "").strip().lower() == "false":
                logger.propagate = False
        return faults

    def _appender(self, name: str, values: "Dict[str, str]", faults: "List[str]") -> logging.Handler:
        """The appender, or one that drops everything if it cannot be made."""
        prefix = f"log4j.appender.{name}"
        kind = values.get(prefix, "").rpartition(".")[2]
        options = {
            key[len(prefix) + 1 :].lower(): values[key] for key in values if key.startswith(prefix + ".")
        }
        handler: logging.Handler = logging.NullHandler()
        try:
            if kind == "ConsoleAppender":
                is_error = options.get("target", "").lower().endswith("err")
                handler = Console(_to_stderr if is_error else self._write)
            elif kind in _FILES:
                handler = _FILES[kind](options)
            elif kind != "NullAppender":
                faults.append(f"{prefix}: there is no {plain(kind or 'such appender', 60)} here")
        except (OSError, ValueError) as error:
            faults.append(f"{prefix}: it cannot be used: {plain(error)}")
        handler.setFormatter(Pattern(options.get("layout.conversionpattern", PATTERN)))
        handler.setLevel(LEVELS.get(options.get("threshold", "ALL").strip().upper(), 1))
        return handler


def _to_stderr(line: bytes) -> None:
    os.write(2, line)


def _file(options: "Dict[str, str]") -> logging.Handler:
    mode = "w" if options.get("append", "true").strip().lower() == "false" else "a"
    return _without_terminator(logging.FileHandler(_path(options), mode, "utf-8"))


def _path(options: "Dict[str, str]") -> str:
    """ValueError if it exists and is no regular file: a FIFO would block the logging thread."""
    path = options.get("file", "")
    if not path:
        raise ValueError("it has no file")
    if os.path.lexists(path) and not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError(f"{path} is no regular file")
    return path


def _rolling(options: "Dict[str, str]") -> logging.Handler:
    size = options.get("maxfilesize", "10MB").strip().upper()
    number = int(size[:-2]) * SIZES[size[-2:]] if size[-2:] in SIZES else int(size)
    count = int(options.get("maxbackupindex", "1"))
    return _without_terminator(
        logging.handlers.RotatingFileHandler(_path(options), "a", number, count, "utf-8")
    )


def _daily(options: "Dict[str, str]") -> logging.Handler:
    return _without_terminator(
        logging.handlers.TimedRotatingFileHandler(_path(options), "midnight", encoding="utf-8")
    )


def _without_terminator(handler: logging.StreamHandler) -> logging.Handler:
    handler.terminator = ""  # the pattern has its own
    return handler


_FILES = {"FileAppender": _file, "RollingFileAppender": _rolling, "DailyRollingFileAppender": _daily}


def _values(text: str) -> "Dict[str, str]":
    """Parses properties: `key = value` or `key: value`, comments with `#` or `!`, `\\` continues a line."""
    found = {}
    for line in re.sub(r"\\\r?\n[ \t]*", "", text).splitlines():
        match = re.match(r"\s*([^#!\s=:][^\s=:]*)\s*[=:\s]\s*(.*)", line)
        if match:
            found[match.group(1)] = match.group(2).strip()
    return found
