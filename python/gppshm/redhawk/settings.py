"""GppShmPlugin.ini beside the executable: every setting has a default, a range and a comment.

A bad value is reported and replaced by its default, a bad file by all defaults.  If that could clean more
than was configured, nothing is cleaned.
"""

import configparser
import os
import stat
import textwrap

from gppshm import outlet, shmfs, watch
from gppshm.redhawk import lifeline, logs, thresholds
from gppshm.redhawk.text import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional, Tuple

_log = logs.logger("GppShmPlugin")

SECTION = "GppShmPlugin"
LEVELS = ("FATAL", "ERROR", "WARN", "INFO", "DEBUG", "TRACE")
BYTES = 65536
"""The longest file that is accepted."""


class Setting:
    """One setting.

    read    converts the text to the value; raises ValueError
    limits  it may limit what is cleaned: if its value is bad, nothing is cleaned
    """

    __slots__ = ("comment", "default", "limits", "name", "range", "read")

    def __init__(
        self,
        name: str,
        default: str,
        range: str,
        comment: str,
        read: "Callable[[str], Any]",
        limits: bool = False,
    ) -> None:
        self.name = name
        self.default = default
        self.range = range
        self.comment = comment
        self.read = read
        self.limits = limits


def _one_of(*words: str) -> "Callable[[str], str]":
    def read(text: str) -> str:
        for word in words:
            if text.lower() == word.lower():
                return word
        raise ValueError

    return read


def _seconds(least: float, most: float) -> "Callable[[str], float]":
    def read(text: str) -> float:
        number = float(text)
        if not least <= number <= most:
            raise ValueError
        return number

    return read


def _switch(text: str) -> bool:
    return _one_of("yes", "true", "on", "1", "no", "false", "off", "0")(text) in ("yes", "true", "on", "1")


def _path(text: str) -> str:
    if not os.path.isabs(text) or "\0" in text:
        raise ValueError
    return text


def _unless_off(read: "Callable[[str], Any]") -> "Callable[[str], Any]":
    return lambda text: None if text.lower() == "off" else read(text)


_THRESHOLD = "an amount (64, 64 MB, 1.5 GB), a share of the file system (5%), or off"

SETTINGS = (
    Setting(
        "scope",
        watch.HOST,
        "host or children",
        "Whose heaps are removed once their creator is dead: those of the whole host, or only those of"
        " processes that descend from this GPP and were seen alive.",
        _one_of(*watch.SCOPES),
        limits=True,
    ),
    Setting(
        "rescan",
        "30",
        "1 to 3600, in seconds",
        "How often everything is scanned again, in case events of the kernel were lost.",
        _seconds(1, 3600),
    ),
    Setting(
        "shm_free",
        "10 MB",
        _THRESHOLD,
        "The GPP is BUSY while less shared memory than this is free.",
        thresholds.parse,
    ),
    Setting(
        "shm_orphaned",
        "off",
        _THRESHOLD,
        "The GPP is BUSY while heaps of dead processes that could not be removed take more than this.",
        thresholds.parse,
    ),
    Setting(
        "shm_held",
        "off",
        _THRESHOLD,
        "The GPP is BUSY while processes still hold more unlinked memory than this.",
        thresholds.parse,
    ),
    Setting("dry_run", "no", "yes or no", "Only report what would be removed.", _switch, limits=True),
    Setting(
        "reclaim",
        "yes",
        "yes or no",
        "If processes are still attached to a removed heap, give back its free memory at once, and more soon"
        " after they release it.",
        _switch,
        limits=True,
    ),
    Setting(
        "remove_fifos",
        "no",
        "yes or no",
        "Also remove the FIFOs that dead processes left in /tmp, at each rescan.",
        _switch,
    ),
    Setting(
        "settle",
        "30",
        "0 to 300, in seconds",
        "How long the plugin stays after the end of the GPP, to remove the heaps of the GPP's processes.",
        _seconds(0, 300),
    ),
    Setting(
        "device",
        "yes",
        "yes or no",
        "Whether a device is registered beside the GPP, with its DeviceManager: it shows shared memory as"
        " properties and lets waveforms reserve it.",
        _switch,
    ),
    Setting(
        "metrics",
        "off",
        f"{outlet.ADDRESS}, or off",
        "Where metrics are served to Prometheus; needs the Python package prometheus_client.",
        _unless_off(outlet.address),
    ),
    Setting(
        "metrics_textfile",
        "off",
        "an absolute path, or off",
        "A file for node_exporter, written every 15 seconds; needs the same package.",
        _unless_off(_path),
    ),
    Setting(
        "log_level", "INFO", ", ".join(LEVELS), "The least severe messages to be logged.", _one_of(*LEVELS)
    ),
    Setting(
        "root", shmfs.DEFAULT_ROOT, "an absolute path", "The directory of the heaps.", _path, limits=True
    ),
)


class Settings:
    """The values, as attributes with the settings' names; `thresholds` has those of metrics, by metric.

    refusal  why nothing may be cleaned; else ""
    """

    def __init__(self) -> None:
        self.scope = watch.HOST
        self.rescan = 30.0
        self.dry_run = False
        self.reclaim = True
        self.remove_fifos = False
        self.settle = 30.0
        self.device = True
        self.metrics: Optional[Tuple[str, int]] = None
        self.metrics_textfile: Optional[str] = None
        self.log_level = "INFO"
        self.root = shmfs.DEFAULT_ROOT
        self.refusal = ""
        self.thresholds: Dict[str, thresholds.Threshold] = {}
        for setting in SETTINGS:
            self.put(setting, setting.default)

    def put(self, setting: Setting, text: str) -> None:
        """Set a value from its text.  Raises ValueError and changes nothing if the text is bad."""
        value = setting.read(text)
        if isinstance(value, thresholds.Threshold):
            self.thresholds[setting.name] = value
        else:
            setattr(self, setting.name, value)


def read(path: str) -> "Tuple[Settings, List[str]]":
    """The settings in the file `path`, and a sentence for each fault in it.

    A missing file is no fault.  Never raises.
    """
    settings = Settings()
    faults: List[str] = []

    def fault(sentence: str, harmless: bool = False) -> None:
        faults.append(f"{plain(path)}{sentence}")
        if not harmless:
            settings.refusal = settings.refusal or faults[-1]

    parser = configparser.ConfigParser(
        strict=False, interpolation=None, allow_no_value=True, inline_comment_prefixes=("#", ";")
    )
    try:
        parser.read_string(_text_of(path), path)
    except FileNotFoundError:
        return settings, faults
    except OSError as error:
        fault(f" cannot be read ({error.strerror}): all defaults are used")
        return settings, faults
    except configparser.Error as error:
        reason = plain(error).replace("\\x0a", " ")
        fault(f" cannot be understood: {reason}; all defaults are used")
        return settings, faults
    for section in parser.sections():
        if section != SECTION:
            fault(f": there is no section [{plain(section)}]: it is ignored")
    known = {setting.name: setting for setting in SETTINGS}
    for name, value in parser.items(SECTION) if parser.has_section(SECTION) else ():
        if name not in known:
            fault(f": there is no setting {plain(name)}: it is ignored")
            continue
        setting = known[name]
        try:
            settings.put(setting, value or "")
        except ValueError:
            fault(
                f": {name} = {plain(value or '', 60)} is not valid"
                f" (range: {setting.range}): its default is used, {setting.default}",
                harmless=not setting.limits,
            )
    return settings, faults


def _text_of(path: str) -> str:
    # O_NONBLOCK: a FIFO in its place would block the start.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    with open(fd, "rb") as stream:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(0, "it is no regular file")
        text = stream.read(BYTES + 1)
        if len(text) > BYTES:
            raise OSError(0, f"it has more than {BYTES} bytes")
        return text.decode("utf-8", "replace")


def report(faults: "List[str]", chosen: Settings) -> None:
    """Log the faults of the file; print those on stderr, too, that prevent all cleaning."""
    for fault in faults:
        _log.warning("%s", fault)
    if chosen.refusal:
        why = (
            f"NOTHING IS CLEANED until the file is corrected and this program is restarted: {chosen.refusal}"
        )
        _log.error("%s", why)
        lifeline.refuse(why, 0)


STRICT = (
    "A bad value is logged and replaced by its default. If the default could clean more than intended (scope,"
    " dry_run, reclaim, root, an unknown name, a file that cannot be read), nothing is cleaned until the file"
    " is corrected."
)


OF_THE_DEVICE = ("metrics", "metrics_textfile", "log_level", "root")
"""The settings of a device that a DeviceManager launches; its other settings are properties in the PRF."""


def example(device: bool = False) -> str:
    """The text of GppShmPlugin.ini.example: every setting, commented out, with its default.

    device  only the settings of a device that a DeviceManager launches
    """
    if device:
        head = """\
# Settings of the device GppShmPlugin. Copy this file to GppShmPlugin.ini, beside the executable, and
# change the settings that should not have their defaults; then restart the node. Everything
# else is a property of the device: shm::cleanup and shm::threshold, which a node's DCD may set.
"""
    else:
        head = """\
# Settings of the GPP plugin GppShmPlugin. Copy this file to GppShmPlugin.ini, beside
# the executable, and change the settings that should not have their defaults; then restart the GPP.
"""
    lines = [*head.splitlines(), *textwrap.wrap(STRICT, 100, initial_indent="# ", subsequent_indent="# ")]
    lines += ["", f"[{SECTION}]"]
    for setting in SETTINGS:
        if device and setting.name not in OF_THE_DEVICE:
            continue
        lines.append("")
        lines.extend(textwrap.wrap(setting.comment, 100, initial_indent="# ", subsequent_indent="# "))
        lines.append(f"# Range: {setting.range}. Default: {setting.default}.")
        lines.append(f"#{setting.name} = {setting.default}")
    return "\n".join(lines) + "\n"
