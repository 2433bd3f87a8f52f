"""What the watcher finds out by itself about a heap's creator: by its pidfd, or by its pid and its start.

It inspects no other process, and nothing here blocks: it reads pidfds and /proc/<pid>/stat.
"""

import os
import time

from gppshm import creator, procfs, reaper, shmfs
from gppshm.known import ENDED, Stage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional

    from gppshm import account, triggers
    from gppshm.known import Known

EXITING = Stage("exiting")
"""The state of a process whose main thread is exiting."""


class Creators:
    """The creators of the heaps of one directory.

    watched  the Triggers that have their pidfds
    reports  the Account that gets the trouble with pidfds
    """

    def __init__(self, watched: "triggers.Triggers", reports: "account.Account", proc_root: str) -> None:
        self._triggers = watched
        self._account = reports
        self._proc_root = proc_root
        try:
            self._own_proc = os.readlink(proc_root + "/self") == str(os.getpid())
        except OSError:
            self._own_proc = False

    def watch(self, name: str, heap: "Known") -> bool:
        """Watch the creator by a pidfd, if possible; False if it has ended."""
        why = f"{self._proc_root} belongs to another pid namespace"
        if self._own_proc:
            try:
                if self._triggers.watch(name, heap.creator, heap.start, self._proc_root):
                    self._account.mended("pidfd")
                    return True
            except ProcessLookupError:
                return False
            why = self._triggers.pidfd_trouble
        self._account.trouble("pidfd", f"no pidfd: {why}; inotify and rescans remain")
        return True

    def has_ended(self, name: str, heap: "Known") -> bool:
        """Whether a creator that is known to have lived has ended.

        OSError if that cannot be found out: unknown is not dead.
        """
        if not heap.lives or not self._own_proc:
            return False
        if self._triggers.watches(name):
            return self._triggers.has_ended(name)
        start, dead = procfs.pulse(heap.creator, self._proc_root)
        if start:
            return dead or start != heap.start
        return procfs.Processes(self._proc_root).no_such_process(heap.creator)

    def verdict(self, heap: "Known", seen: shmfs.Sighting) -> "Optional[creator.Verdict]":
        """The verdict by the identity of a creator that has ended; None if there is none or it does not hold.

        OSError if no descriptor is left.
        """
        if heap.identity is None:
            return None
        try:
            if procfs.pulse(heap.creator, self._proc_root)[0] not in (0, heap.start):
                return None  # another process has the pid: the observer must inspect it
        except OSError as error:
            if error.errno in reaper.NO_DESCRIPTOR:
                raise
            return None
        return creator.judge_by_identity(seen, heap.identity, time.monotonic() - heap.identity.since)

    # -- the process with the pid in the name, which need not be the creator: the verdict decides that -------

    def note_named(self, name: str, heap: "Known", directory: shmfs.ShmDirectory) -> None:
        """Note that process, if it lives while the file exists, so that its end can be proven later."""
        if not self._own_proc:
            return
        try:
            status = os.stat(name, dir_fd=directory.fd, follow_symlinks=False)
            start, dead = procfs.pulse(shmfs.pid_of_name(name), self._proc_root)
        except OSError:
            return
        if start and not dead:
            heap.named = (status.st_dev, status.st_ino), start

    def state_of_named(
        self, heap: "Known", seen: shmfs.Sighting, directory: shmfs.ShmDirectory
    ) -> "Optional[Stage]":
        """ENDED or EXITING if that process was alive while this file existed; else None."""
        file_id, start = heap.named
        if file_id != seen.file_id:
            self.note_named(seen.name, heap, directory)
            return None
        try:
            if procfs.pulse(seen.name_pid, self._proc_root) != (start, False):
                return ENDED
        except OSError:
            return None
        return EXITING if procfs.is_exiting(seen.name_pid, self._proc_root) else None
