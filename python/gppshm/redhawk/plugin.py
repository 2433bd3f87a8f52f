"""The GPP plugin: cleans for one GPP and reports metrics to it, until either ends.

    GppShmPlugin IOR ID     as the GPP starts it: the IOR of its metrics_in port, and the plugin's id
    GppShmPlugin --check    import everything, and print the versions
    GppShmPlugin --version

Settings: GppShmPlugin.ini beside the executable.  Exit status: 0 after SIGTERM or the GPP's end, 1 after a
failure, 2 for wrong arguments.
"""

import os
import signal
import sys
import time

import gppshm
from gppshm import processes, shmfs, watch
from gppshm.redhawk import beside, exporting, lifeline, logs, metrics, reporter, settings
from gppshm.redhawk.cleaning import Cleaning, Orders
from gppshm.redhawk.text import plain
from gppshm.roles import named

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, List, Optional

    from gppshm.redhawk.link import Link

_log = logs.logger("GppShmPlugin")

LAST_DEATHS = 0.08
"""Seconds to wait for heaps of processes that are killed together with the plugin."""
RETIRING = 0.1
"""Seconds for unregistering the device."""
LAST_SWEEP = 0.12
"""Seconds for the last sweep: when a node shuts down, SIGKILL follows 0.5 s after SIGTERM."""
LAST_LINES = 0.04
"""Seconds for queued log lines."""
GRACE = 1.0
"""Seconds that the plugin stays at least after the GPP's end: its processes often end soon after."""


def main(argv: "Optional[List[str]]" = None) -> int:
    """Run the plugin; returns the exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments == ["--version"]:
        print(f"GppShmPlugin {gppshm.__version__}")
        return 0
    if arguments == ["--check"]:
        return _check()
    if len(arguments) != 2 or arguments[0].startswith("-"):
        return lifeline.refuse(
            "started by REDHAWK's GPP as: GppShmPlugin IOR ID; or: GppShmPlugin --version", 2
        )
    ior, plugin_id = arguments
    if not ior.startswith(("IOR:", "corbaloc:", "corbaname:")):
        return lifeline.refuse(f"{plain(ior, 60)} is no reference of a GPP's port: IOR:... is expected", 2)
    ini = os.path.join(os.path.dirname(os.path.abspath(sys.argv[0])), "GppShmPlugin.ini")
    lifeline.shed_inheritance()
    line = lifeline.Lifeline()
    try:
        claim = lifeline.only_one(plugin_id)
    except lifeline.AlreadyRunning as other:
        return lifeline.refuse(
            f"process {other.pid} is the plugin {plain(plugin_id)} already: one is enough", 1
        )
    installation = lifeline.use_installation()
    chosen, faults = settings.read(ini)
    handler = logs.start(chosen.log_level)
    settings.report(faults, chosen)
    sys.setswitchinterval(watch.SWITCH_INTERVAL)
    try:
        status = _serve(ior, plugin_id, chosen, line, handler)
    except OSError as error:
        status = lifeline.refuse(f"{plain(chosen.root)} cannot be watched: {error.strerror}", 1)
    handler.drain(LAST_LINES)
    claim.close()
    os.close(installation)
    return status


def _check() -> int:
    try:
        from gppshm.redhawk import link, presence  # noqa: F401
        from gppshm.redhawk.corba import omniORB
    except ImportError as error:
        return lifeline.refuse(
            f"this interpreter, {plain(sys.executable)}, lacks a required module: {error}", 1
        )
    version = ".".join(str(number) for number in sys.version_info[:3])
    print(f"{link.NAME} {gppshm.__version__}: Python {version}, omniORB {omniORB.coreVersion()}")
    if not processes.available():
        print("no psutil: commands and users of processes will not be shown")
    return 0


def _serve(
    ior: str, plugin_id: str, chosen: settings.Settings, line: lifeline.Lifeline, handler: logs.Handler
) -> int:
    gpp = beside.parent_words(line.parent)
    orders = Orders(True, chosen.scope, chosen.rescan, chosen.remove_fifos, chosen.dry_run, chosen.reclaim)
    manager = named(gpp, ("DEVICE_MGR_IOR",)).get("DEVICE_MGR_IOR", "")
    work = Cleaning(chosen.root, orders, line.parent, line.wake, chosen.refusal, manager, follows=True)
    work.start()

    def make_link(on_threshold: "Callable[[str, str], None]") -> "Link":
        from gppshm.redhawk.link import Link  # omniORB takes a quarter of the start; cleaning runs already

        return Link(ior, plugin_id, on_threshold)

    board = metrics.Metrics(chosen.thresholds)
    reports = reporter.Reporter(
        make_link,
        metrics.Gauge(shmfs.ShmDirectory(chosen.root), work.journal, work=work),
        board,
        work.living,
        line.wake,
    )
    work.journal.listeners.append(reports.wake)
    reports.watch(chosen.root)
    reports.start()
    device = beside.Beside(gpp, reports.ready, chosen.log_level, work, board, handler)
    if chosen.device:
        device.start()
    exporting.start(chosen, work, lambda: device.presence)

    while not (line.signal or line.orphaned or work.failure or reports.failure):
        line.wait()
    status = 0
    if line.orphaned and not line.signal:
        reports.stop()
        _outlive_the_gpp(line, work.watcher.offspring, chosen.settle)
    elif reports.failure and not line.signal:
        status = lifeline.refuse(reports.failure, 1)
    began = time.monotonic()
    device.retire(RETIRING)
    if line.signal and not work.failure and work.watcher.has_work():
        time.sleep(max(0.0, LAST_DEATHS - (time.monotonic() - began)))
    work.finish(LAST_SWEEP)
    if work.failure:
        return lifeline.refuse(f"the watcher failed: {work.failure}", 1)
    if line.signal:
        _log.info("ended by %s, after a last sweep", signal.Signals(line.signal).name)
    return status


def _outlive_the_gpp(line: lifeline.Lifeline, remaining: "Callable[[], List[str]]", most: float) -> None:
    """Stay until nothing is left of the heaps of the GPP's processes, a signal arrives, or `most` seconds."""
    start = time.monotonic()
    _log.info(
        "the GPP, process %d, is gone; staying for its processes' heaps, %g s at most", line.parent, most
    )
    while not line.signal:
        passed = time.monotonic() - start
        left = remaining()
        if passed >= most or (passed >= GRACE and not left):
            break
        line.wait(0.2)
    left = remaining()
    if left and not line.signal:
        _log.warning("ending without the GPP; the creators of these still live: %s", ", ".join(left[:20]))
    elif not line.signal:
        _log.info("ending without the GPP: no heap of its processes is left")
