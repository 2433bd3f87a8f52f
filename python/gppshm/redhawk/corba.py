"""Where the CORBA modules come from is decided here, once; everything else imports them from here.

CF and its neighbours are compiled from this project's own IDL, whichever REDHAWK is there: its Python types
(ossie.cf) are another file for each version, for Python 2 with 2.3, and omniORBpy knows one class for each
repository id.  What differs between the versions is in `runtime.versions`.  ImportError without omniORB.
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
    """The types that REDHAWK 2.x has otherwise; from then on omniORBpy knows these by REDHAWK's ids."""
    from gppshm.redhawk.stubs import REDHAWK2

    return REDHAWK2


def named(error: "Any") -> str:
    """A CORBA exception in a few words: TRANSIENT (ConnectFailed)."""
    name = type(error).__name__
    if isinstance(error, CORBA.SystemException):
        minor = omniORB.minorCodeToString(error) if hasattr(omniORB, "minorCodeToString") else ""
        return f"{name} ({minor or error.minor})"
    return name


def is_refused(error: "Any") -> bool:
    """Whether nobody listens there.  Any other minor code may be a full queue, or a time limit."""
    return isinstance(error, CORBA.TRANSIENT) and bool(error.minor == omniORB.TRANSIENT_ConnectFailed)
