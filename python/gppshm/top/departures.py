"""Why a heap is gone, as far as the order of the kernel's events shows.

A process that exits normally unlinks its heap and closes it then.  Of a killed process the kernel closes the
heap first, and a cleaner unlinks it afterwards.  inotify reports both in order.
"""

import time

from gppshm import asking, kernel, shmfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Iterable, Optional, Set

    from gppshm.top.state import Removal

PATIENCE = 1.5
"""Seconds that a creator may take to exit after it unlinked its heap."""
BUFFERS = 256
"""Buffers of events read at once; the rest of a flood is dropped and explains nothing."""

_EVENTS = kernel.IN_CLOSE_WRITE | kernel.IN_DELETE | kernel.IN_MOVED_FROM


class Departures:
    """Watches one directory for removals; without inotify less can be explained.

    cleaned  name -> reason, of heaps that the display itself has removed
    """

    def __init__(self, root: str) -> None:
        self.cleaned: Dict[str, str] = {}
        self._closed: Set[str] = set()
        self._deleted: Set[str] = set()
        self._closed_later: Set[str] = set()
        self._moved: Set[str] = set()
        self._inotify: Optional[kernel.Inotify] = None
        try:
            self._inotify = kernel.Inotify(root, _EVENTS)
        except OSError:
            pass

    def close(self) -> None:
        if self._inotify is not None:
            self._inotify.close()

    def listen(self) -> None:
        """Read pending events; to be called before each scan of the directory."""
        for _ in range(BUFFERS):
            events = self._inotify.read() if self._inotify is not None else []
            if not events:
                return
            for mask, name in events:
                if mask & kernel.IN_Q_OVERFLOW:
                    self._forget_all()
                elif mask & kernel.IN_DELETE:
                    # Cleaners rename an orphan first (see shmfs.DYING).
                    self._moved.discard(shmfs.living_name(name))
                    self._deleted.add(shmfs.living_name(name) or name)
                elif mask & kernel.IN_MOVED_FROM:
                    self._moved.add(name)
                elif mask & kernel.IN_CLOSE_WRITE:
                    (self._closed_later if name in self._deleted else self._closed).add(name)
        self._forget_all()

    def still_there(self, names: "Iterable[str]", alive: "Iterable[str]") -> None:
        """These names still exist after the events so far; some of their creators live."""
        for found in (self._deleted, self._moved, self._closed_later):
            found.difference_update(names)
        self._closed.difference_update(alive)

    def keep(self, names: "Iterable[str]") -> None:
        """Forget the events of all other names, so that foreign files do not accumulate."""
        for found in (self._deleted, self._closed, self._closed_later, self._moved):
            found.intersection_update(names)

    def explain(self, removal: "Removal") -> None:
        """Find the reason of a removal; again until it is settled."""
        row = removal.row
        name = row.file
        late = time.monotonic() - removal.seen > PATIENCE
        removal.final = late
        if name in self.cleaned:
            removal.why, removal.orphan = f"removed from here: {self.cleaned[name]}", True
            removal.final = True
        elif row.orphaned:
            removal.why = f"removed by others: {row.reason}"
        elif row.living and asking.maps(row.living, row.file_id):
            removal.why = "unlinked by others while its creator lives"
        elif name in self._closed and (name not in self._closed_later or removal.left):
            # A cleaner that gives memory back closes it later, too.
            removal.why, removal.orphan = "its creator died, removed by others", True
        elif name in self._moved:
            removal.why = "it was renamed"
        elif name in self._deleted and row.living:
            removal.why = "its creator ended and removed it"
        else:
            removal.why = "it is gone; the reason was not seen"
        if removal.final:
            for found in (self._deleted, self._closed, self._closed_later, self._moved):
                found.discard(name)
            self.cleaned.pop(name, None)

    def _forget_all(self) -> None:
        for found in (self._deleted, self._closed, self._closed_later, self._moved):
            found.clear()
