"""Which heaps were or may have been changed since they were last judged?

IN_MODIFY reports that a file was truncated, grown or written to by write(), IN_ATTRIB that a name of it was
unlinked.  Single files are watched, with one inotify instance for each owner of heaps: what a user does to
other files raises no event, and what he does to his heaps fills no queue of another user.
"""

from gppshm import kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    import select
    from typing import Dict, List, Optional, Set, Tuple

MOST_OWNERS = 8
"""Owners with an inotify instance of their own; all others share one.  A user may have 128 (default)."""
SHARED = -1
MOST_EVENTS, MOST_READS = 8192, 16
"""Events read at once, and calls for it; further events count as lost, so that it is short."""

_MASK = kernel.IN_MODIFY | kernel.IN_ATTRIB
_NONE: "Tuple[Set[str], Set[str]]" = (set(), set())


class _Files:
    """The files of one owner or of several.  OSError if there can be no further inotify instance."""

    def __init__(self) -> None:
        self.inotify = kernel.FileInotify()
        self.names: Dict[int, Set[str]] = {}  # by watch; a file may have several names

    def read(self) -> "Tuple[Set[str], Set[str]]":
        """Names of files that may have been changed; and those of them that are not watched any more.

        If there are none it returns at once: each microsecond between this and an unlink counts.
        """
        events = self.inotify.read()
        return _NONE if events is None else self._read(events)

    def _read(self, events: "Optional[kernel.FileEvents]") -> "Tuple[Set[str], Set[str]]":
        changed: Set[int] = set()
        gone: Set[int] = set()
        count = 0
        for _ in range(MOST_READS):
            if events is None:
                return self._named(changed), self._named(gone)
            count += events.count
            if events.overflow or count > MOST_EVENTS:
                break
            changed |= events.changed | events.gone
            gone |= events.gone
            events = self.inotify.read()
        # An event that a watch is gone may be among those lost: such a watch would be silent for ever.
        names = self._named(set(self.names))
        return names, names

    def _named(self, watches: "Set[int]") -> "Set[str]":
        return {name for watch in watches for name in self.names.get(watch, ())}


class Changes:
    """Reports changes of files that `attend` was called for.  OSError if the kernel has no inotify for it."""

    def __init__(self, epoll: "select.epoll") -> None:
        self._epoll = epoll
        self._mask = 0
        self._files: Dict[int, _Files] = {}
        self._attended: Dict[str, Tuple[int, int]] = {}  # name -> (key of _files, watch)
        self._add(SHARED)

    def close(self) -> None:
        """Stop watching; closing the descriptors removes them from epoll, too."""
        for each in self._files.values():
            each.inotify.close()
        self._files = {}
        self._attended = {}

    def fds(self) -> "List[int]":
        return [each.inotify.fd for each in self._files.values()]

    def wake_by(self, mask: int) -> None:
        """Set the events of epoll that wake."""
        self._mask = mask
        for fd in self.fds():
            self._epoll.modify(fd, mask)

    def attend(self, name: str, fd: int, owner: int) -> bool:
        """Report changes of the open file `fd` from now on; whether they were not reported until now.

        `attends` tells whether it was possible: there may be too many watches.
        """
        key = self._key(owner)
        try:
            watch = self._files[key].inotify.add_open(fd, _MASK)
        except OSError:
            self.neglect(name)
            return False
        if self._attended.get(name) == (key, watch):
            return False
        self.neglect(name)
        self._files[key].names.setdefault(watch, set()).add(name)
        self._attended[name] = key, watch
        return True

    def attends(self, name: str) -> bool:
        """Whether changes of the file by that name are reported."""
        return name in self._attended

    def neglect(self, name: str) -> None:
        """Report no more changes of the file by that name."""
        key, watch = self._attended.pop(name, (SHARED, 0))
        names = self._files[key].names.get(watch)
        if names is not None:
            names.discard(name)
            if not names:
                del self._files[key].names[watch]
                self._files[key].inotify.remove(watch)

    def read(self, name: str = "") -> "Set[str]":
        """Names of all files that were or may have been changed since they were read last.

        name  read only changes of this file and those that are watched with it
        """
        if name:
            changed, gone = self._files[self._attended.get(name, (SHARED, 0))[0]].read()
            for each in gone:
                self.neglect(each)
            return changed
        found: Set[str] = set()
        for key in list(self._files):
            changed, gone = self._files[key].read()
            found |= changed
            for each in gone:
                self.neglect(each)
        return found

    def _key(self, owner: int) -> int:
        """The key of the instance for that owner's files."""
        if owner in self._files:
            return owner
        if len(self._files) > MOST_OWNERS:
            unused = [key for key, files in self._files.items() if key != SHARED and not files.names]
            if not unused:
                return SHARED
            self._files[owner] = self._files.pop(unused[0])
            return owner
        try:
            self._add(owner)
        except OSError:
            return SHARED
        return owner

    def _add(self, key: int) -> None:
        files = _Files()
        try:
            self._epoll.register(files.inotify.fd, self._mask)
        except OSError:
            files.inotify.close()
            raise
        self._files[key] = files
