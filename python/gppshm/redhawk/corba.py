"""Decides which CORBA modules are used; all other modules import them from here.

CF and related modules are compiled from this project's own IDL for every version of REDHAWK: REDHAWK's Python
types (ossie.cf) differ by version, are Python 2 code in 2.3, and omniORBpy knows only one class per
repository id.  `runtime.versions` has the differences between versions.  ImportError without omniORB.
"""

from gppshm import sitepackages

sitepackages.enable()

# ruff: noqa: E402
import omniORB
from omniORB import CORBA

# omniORBpy adds the folder of its COS stubs to sys.path.
import CosEventChannelAdmin  # isort: skip
import CosEventChannelAdmin__POA  # isort: skip
import CosNaming  # isort: skip

from gppshm.redhawk.stubs import (
    CF,
    CF__POA,
    ExtendedCF,
    ExtendedCF__POA,
    ExtendedEvent,
    ExtendedEvent__POA,
    StandardEvent,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "CF",
    "CF__POA",
    "CORBA",
    "CosEventChannelAdmin",
    "CosEventChannelAdmin__POA",
    "CosNaming",
    "ExtendedCF",
    "ExtendedCF__POA",
    "ExtendedEvent",
    "ExtendedEvent__POA",
    "StandardEvent",
    "is_refused",
    "named",
    "of_redhawk_2",
    "omniORB",
]


def of_redhawk_2() -> "Any":
    """The types that differ in REDHAWK 2.x; after the call omniORBpy uses them for REDHAWK's ids."""
    from gppshm.redhawk.stubs import REDHAWK2

    return REDHAWK2


def named(error: "Any") -> str:
    """A CORBA exception in short, such as TRANSIENT (ConnectFailed)."""
    name = type(error).__name__
    if isinstance(error, CORBA.SystemException):
        minor = omniORB.minorCodeToString(error) if hasattr(omniORB, "minorCodeToString") else ""
        return f"{name} ({minor or error.minor})"
    return name


def is_refused(error: "Any") -> bool:
    """Whether no process listens there.  Any other minor code may be a full queue or a time limit."""
    return isinstance(error, CORBA.TRANSIENT) and bool(error.minor == omniORB.TRANSIENT_ConnectFailed)
