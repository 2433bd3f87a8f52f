"""REDHAWK's `ossie` on machines without it: as much as the tests and the demonstration need.

`ossie.cf` beside this file is made by `./build.sh` of the IDL (`python/gppshm/redhawk/idl`, `standin/idl`).
"""

import functools


def reads(attribute):
    """What gives a CORBA attribute's value: a servant's own attribute."""
    return functools.partialmethod(getattr, attribute)
