#!/usr/bin/env python3
"""GppShmPlugin: removes the heaps of dead processes, as a plugin of REDHAWK's GPP and as a device.

This file is wiring only.  A GPP starts it with an IOR and an id (`gppshm.redhawk.plugin`), a DeviceManager or
the sandbox with names and values (`gppshm.redhawk.launched`).
"""

import os
import sys

from gppshm.redhawk import launched, plugin

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def start() -> "NoReturn":
    """Run as this process, with the arguments in sys.argv."""
    arguments = sys.argv[1:]
    named = not set(launched.NEEDED).isdisjoint(arguments[::2])
    status = launched.main(arguments) if named else plugin.main(arguments)
    sys.stdout.flush()
    # os._exit: a thread may be blocked in an omniORB call to a process that hangs.
    os._exit(status)


if __name__ == "__main__":
    start()
