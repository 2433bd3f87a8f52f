"""Where the CORBA modules come from is decided here, once; everything else imports them from here.

CF and ExtendedEvent are REDHAWK's own (ossie.cf) where this Python can import them, as with REDHAWK 3.0;
else (2.3, whose ossie is Python 2) they are compiled from this project's IDL.  Never both: omniORBpy knows
one class for each repository id.  ImportError if omniORB is not installed.
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

try:
    from ossie.cf import CF, ExtendedEvent, ExtendedEvent__POA

    SOURCE = "ossie.cf"
except (ImportError, SyntaxError):
    from gppshm.redhawk.stubs import CF, ExtendedEvent, ExtendedEvent__POA

    SOURCE = "gppshm.redhawk.stubs"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "CF",
    "CORBA",
    "SOURCE",
    "CosEventChannelAdmin",
    "CosEventChannelAdmin__POA",
    "CosNaming",
    "ExtendedEvent",
    "ExtendedEvent__POA",
    "is_refused",
    "named",
    "omniORB",
]


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
