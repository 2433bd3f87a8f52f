"""Publishes the metrics that GppShmPlugin.ini enables, for plugin and device; see gppshm.outlet."""

import threading

from gppshm import outlet
from gppshm.redhawk import logs
from gppshm.redhawk.cleaning import Cleaning
from gppshm.redhawk.settings import Settings
from gppshm.redhawk.text import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Optional

    from gppshm.redhawk.presence import Presence

_log = logs.logger("GppShmPlugin.metrics")


def start(chosen: Settings, work: Cleaning, presence: "Callable[[], Optional[Presence]]") -> None:
    """Publish in a thread of its own what the settings enable; errors are logged.

    presence  of the device, whose grants are shown as reserved; None while there is no device
    """

    def reserved() -> int:
        here = presence()
        return here.device.ledger.reserved_on_host() if here is not None and here.device is not None else 0

    if chosen.metrics is not None or chosen.metrics_textfile is not None:
        threading.Thread(target=_export, args=(chosen, work, reserved), name="metrics", daemon=True).start()


def _export(chosen: Settings, work: Cleaning, reserved: "Callable[[], int]") -> None:
    try:
        metrics = outlet.Outlet(chosen.root, work.watcher.counts, reserved, _complain)
    except outlet.Missing as missing:
        _complain(str(missing))
        return
    if chosen.metrics_textfile is not None:
        metrics.write(chosen.metrics_textfile)
    if chosen.metrics is not None:
        place = "{}:{}".format(*chosen.metrics)
        metrics.serve(chosen.metrics, lambda: _log.info("metrics are served at %s", place))


def _complain(sentence: str) -> None:
    _log.warning("%s", plain(sentence))
