"""The plugin's device: registered beside the GPP, with the DeviceManager that started the GPP.

If there can be no device, the plugin runs without one and logs why.
"""

import threading
import uuid

from gppshm.redhawk import logs, metrics
from gppshm.redhawk.cleaning import Cleaning
from gppshm.redhawk.text import plain
from gppshm.roles import named

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, Optional

    from gppshm.redhawk.presence import Presence

_log = logs.logger("GppShmPlugin.device")

RETRIES = (1.0, 2.0, 4.0, 8.0, 15.0)
"""Seconds between tries; the last one repeats. A node may take long to start, or to forget dead devices."""
HEAD_START = 5.0
"""Seconds to wait for the plugin's own registration, at most."""

PASSED_ON = ("IDM_CHANNEL_IOR", "DOM_PATH", "LOGGING_CONFIG_URI")
GIVEN = ("DEVICE_MGR_IOR", "DEVICE_ID", "DEVICE_LABEL") + PASSED_ON

_LEVELS = ("FATAL", "ERROR", "WARN", "INFO", "DEBUG", "TRACE")


def parent_words(parent: int, proc_root: str = "/proc") -> "List[str]":
    """The command line of the GPP without its own name; empty if it is gone."""
    try:
        with open(f"{proc_root}/{parent}/cmdline", "rb") as stream:
            return stream.read().decode("utf-8", "surrogateescape").split("\0")[1:]
    except OSError:
        return []


def parameters(gpp: "List[str]", log_level: str) -> "Optional[Dict[str, str]]":
    """The parameters a DeviceManager would give the device, from the GPP's; None if none started the GPP."""
    given = named(gpp, GIVEN)
    if not given.get("DEVICE_MGR_IOR") or not given.get("DEVICE_ID"):
        return None
    from gppshm.redhawk.presence import PROFILE

    # The same id at every start of the same GPP.
    identity = uuid.uuid5(uuid.NAMESPACE_OID, "GppShmPlugin beside " + plain(given["DEVICE_ID"]))
    chosen = {
        "DEVICE_MGR_IOR": given["DEVICE_MGR_IOR"],
        "DEVICE_ID": f"DCE:{identity}",
        "DEVICE_LABEL": given.get("DEVICE_LABEL", "GPP") + "_shm",
        "PROFILE_NAME": PROFILE,
        "DEBUG_LEVEL": str(_LEVELS.index(log_level)),
    }
    chosen.update((name, given[name]) for name in PASSED_ON if given.get(name))
    return chosen


class Beside(threading.Thread):
    """Registers a device as soon as possible.

    gpp     the GPP's arguments
    before  an event to wait for first, `HEAD_START` seconds at most
    presence  of the device, or of the last try; None before the first
    """

    def __init__(
        self,
        gpp: "List[str]",
        before: threading.Event,
        log_level: str,
        work: Cleaning,
        board: metrics.Metrics,
        handler: logs.Handler,
    ) -> None:
        super().__init__(name="beside", daemon=True)
        self._gpp = gpp
        self._before = before
        self._log_level = log_level
        self._work = work
        self._board = board
        self._handler = handler
        self._stopped = threading.Event()
        self.presence: Optional[Presence] = None

    def run(self) -> None:
        self._before.wait(HEAD_START)
        if "DEVICE_MGR_IOR" not in self._gpp:
            _log.debug("no device: the GPP was not started by a DeviceManager")
            return
        try:
            from gppshm.redhawk import link, presence
        except Exception as error:
            _log.info("no device beside the GPP: it cannot be imported here: %s", plain(repr(error)))
            return
        chosen = parameters(self._gpp, self._log_level)
        reported = ""
        for attempt in range(1 << 30):
            if self._stopped.is_set() or chosen is None:
                return
            try:
                orb = link.start_orb()
                here = presence.Presence(
                    orb, chosen, self._work, self._work.orders, self._board, self._handler, self._ended
                )
                self.presence = here
                here.register(launched=False)
                return
            except presence.NotRegistered as failure:
                if not failure.later:
                    _log.info("no device beside the GPP: %s", plain(failure))
                    return
                if reported != str(failure):
                    reported = str(failure)
                    _log.warning("no device beside the GPP yet: %s", plain(failure))
            except Exception as error:
                _log.error("no device beside the GPP: %s", plain(repr(error)))
                return
            self._stopped.wait(RETRIES[min(attempt, len(RETRIES) - 1)])

    def retire(self, seconds: float) -> None:
        """Remove the device, within `seconds`."""
        self._stopped.set()
        if self.presence is not None:
            self.presence.retire(seconds)

    def _ended(self) -> None:
        if self.presence is not None and not self._stopped.is_set():
            _log.info("the device beside the GPP has ended, cleaning goes on: %s", self.presence.ended)
