"""The cleaning, for the plugin and for the device, which may be one process: a process of its own does it."""

import threading

from gppshm import engine, watch
from gppshm.redhawk import logs
from gppshm.redhawk.journal import Journal
from gppshm.redhawk.text import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, List, Tuple

_log = logs.logger("GppShmPlugin.watch")


class Orders:
    """What is to be cleaned, and how.

    enabled  False: heaps are watched, and none is removed
    scope    watch.HOST or watch.CHILDREN
    rescan   seconds between looks at everything
    fifos    dead processes' FIFOs in /tmp, too
    dry_run  only tell what would be removed
    reclaim  of what is removed while processes are attached, give back what is free
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
        """As a watcher takes them."""
        return self.scope, self.rescan, self.dry_run or not self.enabled, self.fifos, self.reclaim


class Cleaning(threading.Thread):
    """Has `root` watched until `finish`; this thread takes what happened.  OSError if it cannot be watched.

    parent   pid whose descendants `watch.CHILDREN` means
    refusal  why nothing is cleaned, whatever the orders are; "" if they count
    on_end   called when it has ended
    failure  why it ended, if that was not asked for; else ""
    watcher  the engine: what it knows can be asked from any thread
    """

    def __init__(
        self,
        root: str,
        orders: Orders,
        parent: int,
        on_end: "Callable[[], None]" = lambda: None,
        refusal: str = "",
    ) -> None:
        super().__init__(name="watch", daemon=True)
        self.root = root
        self.failure = ""
        self.refusal = refusal
        self.journal = Journal(root)
        self._take(orders)
        self._on_end = on_end
        self.watcher = engine.Engine(root, self.journal.on_event, orders.words, parent, self._on_fault)

    def run(self) -> None:
        try:
            self.watcher.run()
        except Exception as error:
            self.failure = plain(repr(error))
        finally:
            self.watcher.close()
        self._on_end()

    def _on_fault(self, sentence: str) -> None:
        _log.error("%s", plain(sentence))

    def living(self) -> "List[str]":
        """The names of heaps whose creator lives."""
        return self.watcher.living()

    def obey(self, orders: Orders) -> None:
        """Go on by other orders."""
        self._take(orders)
        self.watcher.change(*orders.words)

    def _take(self, orders: Orders) -> None:
        orders.enabled = orders.enabled and not self.refusal
        self.orders = orders
        self.journal.quiet, self.journal.refusal = not orders.enabled, self.refusal

    def finish(self, seconds: float) -> None:
        """End, after a last sweep, for which it is waited so long."""
        self.watcher.finish()
        self.join(seconds)
