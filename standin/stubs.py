"""The stand-in's CORBA types: REDHAWK's from this project's IDL, its own from idl/standin.idl."""

import os
import sys

PYTHON = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "python")
if PYTHON not in sys.path:
    sys.path.append(PYTHON)

from gppshm.redhawk.stubs import CF, CF__POA, ExtendedEvent__POA  # noqa: E402
from standin_stubs import StandIn, StandIn__POA  # noqa: E402

__all__ = ["CF", "CF__POA", "ExtendedEvent__POA", "StandIn", "StandIn__POA"]
