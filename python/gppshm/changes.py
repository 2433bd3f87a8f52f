"""Which heaps were or may have been changed since they were last judged?

IN_MODIFY reports that a file was truncated, grown or written to by write(), IN_ATTRIB that a name of it was
unlinked.  Single files are watched, with one inotify instance for each owner of heaps: what a user does to
other files raises no event, and what he does to his heaps fills no queue of another user.
"""

from gppshm import kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    import select
    from typing import Dict, List, Set, Tuple

MOST_OWNERS = 8
"""Owners with an inotify instance of their own; all others share one.  A user may have 128 (default)."""
SHARED = -1
MOST_BUFFERS = 2
"""Buffers of events read at once, 4096 events in each; more of them count as lost, so that it is short."""

_MASK = kernel.IN_MODIFY | kernel.IN_ATTRIB


class _Files:
    """The files of one owner or of several.  OSError if there can be no further inotify instance."""

    def __init__(self) -> None:
        self.inotify = kernel.FileInotify()
        self.names: Dict[int, Set[str]] = {}  # by watch; a file may have several names

    def read(self) -> "Tuple[Set[str], Set[str]]":
        """Names of files that may have been changed; and those of them that are not watched any more."""
        changed: Set[int] = set()
        gone: Set[int] = set()
        for _ in range(MOST_BUFFERS):
            events = self.inotify.read()
            if events is None:
                return self._named(changed), self._named(gone)
            if events.overflow:
                break
            changed |= events.changed
            gone |= events.gone
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
            watch = self._files[key].inotify.add(f"/proc/self/fd/{fd}", _MASK)
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
        found: Set[str] = set()
        for key in list(self._files) if not name else [self._attended.get(name, (SHARED, 0))[0]]:
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
