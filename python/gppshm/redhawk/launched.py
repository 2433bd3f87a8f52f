"""The device as its own program, started by a DeviceManager or a sandbox (Python, IDE).

    GppShmPlugin.py DEVICE_MGR_IOR ior DEVICE_ID id DEVICE_LABEL label PROFILE_NAME path [NAME VALUE ...]

Exit status: 0 after releaseObject, SIGTERM or the end of its manager, 1 after a failure, 2 for wrong
arguments.
"""

import os
import signal
import sys
import threading

from gppshm import watch
from gppshm.redhawk import exporting, lifeline, logs, metrics, settings
from gppshm.redhawk.cleaning import Cleaning, Orders
from gppshm.redhawk.text import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List

_log = logs.logger("GppShmPlugin.device")

NEEDED = ("DEVICE_MGR_IOR", "DEVICE_ID", "DEVICE_LABEL", "PROFILE_NAME")

RETIRING = 0.25
"""Seconds for unregistering: when a node shuts down, SIGKILL follows 0.5 s after SIGTERM."""
LAST_SWEEP = 0.12
ANSWERING = 0.1
"""Seconds to answer pending calls at the end."""
LAST_LINES = 0.04


def pairs(words: "List[str]") -> "Dict[str, str]":
    """The arguments as name -> value; a last name without a value is ignored."""
    return dict(zip(words[::2], words[1::2]))


def main(arguments: "List[str]") -> int:
    """Run the device; returns the exit status."""
    parameters = pairs(arguments)
    missing = [name for name in NEEDED if not parameters.get(name)]
    if missing:
        return lifeline.refuse(f"started as a device without {', '.join(missing)}", 2)
    ini = os.path.join(os.path.dirname(os.path.abspath(sys.argv[0])), "GppShmPlugin.ini")
    lifeline.shed_inheritance(".")
    lifeline.use_installation()
    # The shutdown of a node begins with SIGINT.  Ctrl-C in a sandbox is meant for the sandbox only.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    line = lifeline.Lifeline()
    chosen, faults = settings.read(ini)
    handler = logs.start(chosen.log_level)
    settings.report(faults, chosen)
    sys.setswitchinterval(watch.SWITCH_INTERVAL)
    try:
        # Nothing is removed until the device has its properties.
        work = Cleaning(
            chosen.root,
            Orders(enabled=False),
            line.parent,
            line.wake,
            chosen.refusal,
            parameters["DEVICE_MGR_IOR"],
        )
        work.start()
    except OSError as error:
        return lifeline.refuse(f"{plain(chosen.root)} cannot be watched: {error.strerror}", 1)
    try:
        from gppshm.redhawk import link, presence
    except Exception as error:
        return lifeline.refuse(f"omniORB cannot be imported: {plain(repr(error))}", 1)
    orders = Orders(True, chosen.scope, chosen.rescan, chosen.remove_fifos, chosen.dry_run)
    board = metrics.Metrics(chosen.thresholds)
    try:
        orb = link.start_orb()
    except Exception as error:  # most likely in its configuration
        return lifeline.refuse(f"omniORB does not start: {plain(repr(error))}", 1)
    here = presence.Presence(orb, parameters, work, orders, board, handler, line.wake)
    done: List[str] = []

    def register() -> None:
        """Runs in its own thread: a hanging DeviceManager must not delay the handling of signals."""
        try:
            here.register(launched=True)
            done.append("")
        except presence.NotRegistered as failure:
            done.append(plain(failure))
        except Exception as error:
            done.append(f"the device cannot be made: {plain(repr(error))}")
        line.wake()

    threading.Thread(target=register, name="register", daemon=True).start()
    while not (done or line.signal or line.orphaned or work.failure):
        line.wait()
    if done and done[0]:
        handler.drain(LAST_LINES)
        return lifeline.refuse(done[0], 1)
    exporting.start(chosen, work, lambda: here)
    while not (line.signal or line.orphaned or work.failure or here.ended):
        line.wait()
    if work.failure:
        _log.error("the watcher failed: %s", work.failure)
    elif line.signal:
        _log.info("ended by %s", signal.Signals(line.signal).name)
    else:
        _log.info("ending: %s", here.ended or "its DeviceManager is gone")
    here.retire(RETIRING)
    # The caller of releaseObject must get its reply.
    answering = threading.Thread(target=orb.shutdown, args=(True,), daemon=True)
    answering.start()
    work.finish(LAST_SWEEP)
    answering.join(ANSWERING)
    handler.drain(LAST_LINES)
    return 1 if work.failure else 0
