"""Reads a logging configuration: LOGGING_CONFIG_URI, its text, and REDHAWK's macros in it."""

import os
import socket
import stat
import urllib.parse

from gppshm.redhawk.corba import CF, CORBA, named
from gppshm.redhawk.runtime import versions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict

MOST = 1 << 20
"""Bytes of a configuration."""


class Unusable(Exception):
    """Why there is no configuration."""


def read(uri: str, orb: "Any", manager: "Any", version: str) -> str:
    """The text at a URI: file:, str:, or sca: in the given file system or the manager's."""
    parts = urllib.parse.urlsplit(uri)
    try:
        if parts.scheme == "str":
            return uri.partition(":")[2].lstrip("/")
        if parts.scheme == "file":
            return _local(urllib.parse.unquote(parts.path))
        if parts.scheme == "sca":
            ior = urllib.parse.parse_qs(parts.query).get("fs", [""])[0]
            files = orb.string_to_object(ior) if ior else manager._get_fileSys()
            files = files and files._narrow(CF.FileSystem)
            if files is None:
                raise Unusable("there is no file system")
            path = "/" + urllib.parse.unquote(parts.netloc + parts.path).lstrip("/")
            return versions.content(version, files, path, MOST).decode("utf-8", "replace")
    except OSError as error:
        raise Unusable(str(error.strerror)) from None
    except (CF.InvalidFileName, CF.FileException, CF.File.IOException) as error:
        raise Unusable(error.msg) from None
    except (CORBA.Exception, UnicodeError, ValueError) as error:
        raise Unusable(named(error) if isinstance(error, CORBA.Exception) else str(error)) from None
    raise Unusable("it begins with neither file:, sca: nor str:")


def _local(path: str) -> str:
    # A FIFO would block the start.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY), "rb") as stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise Unusable("it is no regular file")
        return stream.read(MOST).decode("utf-8", "replace")


def expanded(text: str, place: "Dict[str, str]") -> str:
    """The text with REDHAWK's macros replaced; `place` is what a DeviceManager gives a device."""
    domain, _, manager = place.get("DOM_PATH", "").strip("/").partition("/")
    values = {
        "DOMAIN.NAME": domain,
        "DOMAIN.PATH": place.get("DOM_PATH", ""),
        "DEVICE_MANAGER.NAME": manager,
        "DEVICE_MANAGER.INSTANCE": manager,
        "NAME": place.get("DEVICE_LABEL", ""),
        "INSTANCE": place.get("DEVICE_ID", ""),
        "PID": str(os.getpid()),
        "HOST.NAME": socket.gethostname(),
    }
    for name, value in values.items():
        for macro in (name, "DEVICE." + name):
            text = text.replace(f"@@@{macro}@@@", value.replace(":", "-"))
    return text
