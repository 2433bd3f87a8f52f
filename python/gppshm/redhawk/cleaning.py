"""Cleaning for plugin and device, which may share a process.  The engine runs in a process of its own."""

import threading

from gppshm import engine, events, relay, watch
from gppshm.redhawk import logs
from gppshm.redhawk.journal import Journal
from gppshm.redhawk.text import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, List, Tuple

_log = logs.logger("GppShmPlugin.watch")


class Orders:
    """What to clean, and how.

    enabled  False: heaps are watched, but not removed
    scope    watch.HOST or watch.CHILDREN
    rescan   seconds between rescans
    fifos    also remove FIFOs of dead processes in /tmp
    dry_run  only report what would be removed
    reclaim  give back free memory of removed heaps with attached peers
    """

    __slots__ = ("dry_run", "enabled", "fifos", "reclaim", "rescan", "scope")

    def __init__(
        self,
        enabled: bool = True,
        scope: str = watch.HOST,
        rescan: float = 30.0,
        fifos: bool = False,
        dry_run: bool = False,
        reclaim: bool = True,
    ) -> None:
        self.enabled = enabled
        self.scope = scope
        self.rescan = rescan
        self.fifos = fifos
        self.dry_run = dry_run
        self.reclaim = reclaim

    @property
    def words(self) -> "Tuple[str, float, bool, bool, bool]":
        """As arguments of Engine.change."""
        return self.scope, self.rescan, self.dry_run or not self.enabled, self.fifos, self.reclaim

    @property
    def limits(self) -> str:
        """What is not cleaned, in words; "" if everything is cleaned."""
        if not self.enabled:
            return "cleaning is off"
        if self.dry_run:
            return "dry run: nothing is removed"
        return "only heaps of child processes are removed" if self.scope == watch.CHILDREN else ""


class Cleaning(threading.Thread):
    """Watches `root` until `finish`, and handles events in this thread.

    parent   pid whose descendants `watch.CHILDREN` selects
    refusal  why nothing is cleaned, whatever the orders; "" if the orders apply
    on_end   called at the end of the thread
    manager  IOR of the DeviceManager for whose programs it can `lead` or, if it `follows`, follow
    failure  why it ended unexpectedly; else ""
    watcher  the engine; its state can be read from any thread
    Raises OSError if `root` cannot be watched.
    """

    def __init__(
        self,
        root: str,
        orders: Orders,
        parent: int,
        on_end: "Callable[[], None]" = lambda: None,
        refusal: str = "",
        manager: str = "",
        follows: bool = False,
    ) -> None:
        super().__init__(name="watch", daemon=True)
        self.root = root
        self.failure = ""
        self.refusal = refusal
        self.journal = Journal(root)
        self._take(orders)
        self._on_end = on_end
        self._label = self._followed = ""
        self.watcher: Any = None  # a leader's message may come before it is set
        self.watcher = engine.Engine(
            root,
            self._on_event,
            orders.words,
            parent,
            self._on_fault,
            node=relay.node(manager, root) if manager else "",
            follows=follows,
            on_leader=self._on_leader,
            standing=self.journal.standing,
        )
        self._on_leader()

    def run(self) -> None:
        try:
            self.watcher.run()
        except Exception as error:
            self.failure = plain(repr(error))
        finally:
            self.watcher.close()
        self._on_end()

    def _on_event(self, event: events.Event) -> None:
        # The leader logs it already.
        self.journal.on_event(event, log=not self.leader)

    def _on_fault(self, sentence: str) -> None:
        _log.error("%s", plain(sentence))

    def _on_leader(self) -> None:
        if self.watcher is None:
            return
        leader, limits = self.watcher.leader
        if leader:
            _log.info("the device %s of this node cleans: %s", plain(leader), plain(limits or "everything"))
        elif self._followed:
            _log.info("the device %s has stopped cleaning: this program cleans again", plain(self._followed))
        self._followed = leader
        self._notify()

    def _notify(self) -> None:
        for listener in list(self.journal.listeners):
            listener()

    @property
    def leader(self) -> str:
        """The label of the device that cleans for this one; "" if this one cleans."""
        return self.watcher.leader[0] if self.watcher is not None else ""

    @property
    def limits(self) -> str:
        """What is not cleaned, and by whose orders; "" if everything is cleaned."""
        leader, limits = self.watcher.leader
        if not leader:
            return self.orders.limits
        return limits and f"{limits}, by the orders of the device {leader}"

    def living(self) -> "List[str]":
        """Names of the heaps whose creator lives."""
        return self.watcher.living()

    def obey(self, orders: Orders) -> None:
        """Apply new orders."""
        self._take(orders)
        self.watcher.change(*orders.words)
        self.watcher.lead(self._label, orders.limits)
        self._notify()

    def lead(self, label: str) -> None:
        """Clean for all programs of the DeviceManager, as the device with this label; "": only for itself."""
        self._label = label
        self.watcher.lead(label, self.orders.limits)

    def _take(self, orders: Orders) -> None:
        orders.enabled = orders.enabled and not self.refusal
        self.orders = orders
        self.journal.quiet, self.journal.refusal = not orders.enabled, self.refusal

    def finish(self, seconds: float) -> None:
        """End after a last sweep, within `seconds`."""
        self.watcher.finish()
        self.join(seconds)
