"""The watcher at work in a thread of its own: for the plugin and for the device, which may be one process."""

import threading

from gppshm import watch
from gppshm.redhawk.journal import Journal
from gppshm.redhawk.text import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, List


class Orders:
    """What is to be cleaned, and how.

    enabled  False: heaps are watched, and none is removed
    scope    watch.HOST or watch.CHILDREN
    rescan   seconds between looks at everything
    fifos    dead processes' FIFOs in /tmp, too
    dry_run  only tell what would be removed
    """

    __slots__ = ("dry_run", "enabled", "fifos", "rescan", "scope")

    def __init__(
        self,
        enabled: bool = True,
        scope: str = watch.HOST,
        rescan: float = 30.0,
        fifos: bool = False,
        dry_run: bool = False,
    ) -> None:
        self.enabled = enabled
        self.scope = scope
        self.rescan = rescan
        self.fifos = fifos
        self.dry_run = dry_run


class Cleaning(threading.Thread):
    """Watches `root` from `start` until `finish`.  OSError if it cannot be watched.

    parent   pid whose descendants `watch.CHILDREN` means
    on_end   called when it has ended
    failure  why it ended, if that was not asked for; else ""
    """

    def __init__(
        self, root: str, orders: Orders, parent: int, on_end: "Callable[[], None]" = lambda: None
    ) -> None:
        super().__init__(name="watch", daemon=True)
        self.root = root
        self.failure = ""
        self.orders = orders
        self.journal = Journal(root)
        self.journal.quiet = not orders.enabled
        self._on_end = on_end
        self.watcher = watch.Watcher(
            root,
            self.journal.on_event,
            orders.scope,
            parent,
            orders.rescan,
            orders.dry_run or not orders.enabled,
            orders.fifos,
        )

    def run(self) -> None:
        try:
            self.watcher.run()
            self.watcher.sweep(last=True)
        except Exception as error:
            self.failure = plain(repr(error))
        self._on_end()

    def living(self) -> "List[str]":
        """The names of heaps whose creator lives."""
        return self.watcher.living()

    def obey(self, orders: Orders) -> None:
        """Go on by other orders."""
        self.orders = orders
        self.journal.quiet = not orders.enabled
        dry_run = orders.dry_run or not orders.enabled
        self.watcher.change(orders.scope, orders.rescan, dry_run, orders.fifos)

    def finish(self, seconds: float) -> None:
        """End, after a last sweep that may take so long."""
        self.watcher.stop()
        self.join(seconds)
