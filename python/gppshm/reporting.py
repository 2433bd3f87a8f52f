"""Facts that only reports need: peers, user names, how a creator ended.

The observer finds them out after the unlink.  Events wait for them for a while; unlinks never do.
"""

import os
import time

from gppshm import kernel, observer, processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterable, Optional, Set, Tuple

    from gppshm import events

HOLDERS = 10.0
"""Seconds that an event waits for the list of peers."""
NAME = 0.25
"""Seconds that it waits for the name of a user."""
RETURNS = 2.0
"""Seconds that it waits for the figures of memory given back at once."""
END = 0.05
"""Seconds that it waits for the creator's exit status, which exists once its parent has reaped it."""
CHECKS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.03)
"""Seconds between checks of that."""


class _Pending:
    """An event, what it waits for, and until when (monotonic; 0: not at all)."""

    __slots__ = (
        "checks",
        "died",
        "event",
        "file_id",
        "holders",
        "name",
        "next_check",
        "pidfd",
        "returns",
        "uid",
    )

    def __init__(self, event: "events.Event", uid: int) -> None:
        self.event = event
        self.uid = uid
        self.file_id: Optional[Tuple[int, int]] = None
        self.pidfd = -1
        self.holders = self.name = self.died = self.returns = self.next_check = 0.0
        self.checks = 0


class Reporting:
    """Calls `on_event` with each event when its facts are known, or the wait is over."""

    def __init__(self, asked: observer.Observer, on_event: "Callable[[events.Event], None]") -> None:
        self._observer = asked
        self._on_event = on_event
        self._pending: Dict[int, _Pending] = {}  # by the id() of the event, in their order
        self._due = float("inf")
        self._answered = False  # an answer came since the last step
        self._surveying: Set[Tuple[int, int]] = set()
        self._names: Dict[int, Optional[str]] = {}
        self._kernel_reports = True

    @property
    def waiting(self) -> int:
        """Number of waiting events."""
        return len(self._pending)

    def report(
        self,
        event: "events.Event",
        uid: int = -1,
        file_id: "Optional[Tuple[int, int]]" = None,
        pidfd: int = -1,
        returns: bool = False,
    ) -> None:
        """Report an event.

        uid      user whose name to look up
        file_id  file whose holders to find
        pidfd    of a creator, to find out how it ended; closed here
        returns  wait for `first_returned`
        """
        now = time.monotonic()
        pending = _Pending(event, uid)
        if file_id is not None:
            pending.file_id, pending.holders = file_id, now + HOLDERS
        if uid >= 0 and self.name(uid) is None:
            pending.name = now + NAME
        if returns:
            pending.returns = now + RETURNS
        if pidfd >= 0 and self._kernel_reports:
            pending.pidfd, pending.died, pending.next_check = pidfd, now + END, now
        elif pidfd >= 0:
            os.close(pidfd)
        if _is_ready(pending, now):
            self._finish(pending)
        else:
            self._pending[id(event)] = pending
            self._due = min(self._due, _next(pending))
            self._survey([pending])

    def first_returned(self, event: "events.Event") -> bool:
        """The event now has the figures of memory given back at once; False if it was reported before."""
        pending = self._pending.get(id(event))
        if pending is None:
            return False
        pending.returns = 0.0
        self._answered = True
        return True

    def name(self, uid: int) -> "Optional[str]":
        """The name of a user; None while it is unknown.  Each user is looked up once."""
        if uid not in self._names:
            self._names[uid] = None
            self._observer.ask(observer.NAMES, "user", uid, lambda name: self._named(uid, name))
        return self._names[uid]

    def next(self) -> float:
        """When `step` has something to do without an answer (monotonic); else infinity."""
        return 0.0 if self._answered else self._due

    def step(self, now: float) -> None:
        """Report the events that are ready."""
        if now < self._due and not self._answered:
            return
        self._answered = False
        for pending in self._pending.values():
            if pending.pidfd >= 0 and now >= pending.next_check:
                self._check_how_it_ended(pending, now)
            if pending.returns <= now:
                pending.returns = 0.0
        ready = [pending for pending in self._pending.values() if _is_ready(pending, now)]
        for pending in ready:
            del self._pending[id(pending.event)]
        self._due = min([_next(pending) for pending in self._pending.values()], default=float("inf"))
        for pending in ready:
            self._finish(pending)
        self._survey(self._pending.values())

    def _survey(self, pending: "Iterable[_Pending]") -> None:
        """Ask for the holders of these files, unless such a question is pending already.

        The question for forked children comes first: both at once would keep two processors busy, just
        when the next creator may die.
        """
        if not self._surveying:
            self._surveying = {
                each.file_id for each in pending if each.holders and each.file_id and not each.returns
            }
            if self._surveying:
                self._observer.ask(observer.REPORTS, "holders", list(self._surveying), self._held)

    def flush(self) -> None:
        """Report all waiting events with what is known."""
        pending, self._pending = list(self._pending.values()), {}
        self._due = float("inf")
        for each in pending:
            if each.pidfd >= 0:
                self._check_how_it_ended(each, float("inf"))
            self._finish(each)

    def _finish(self, pending: _Pending) -> None:
        if pending.pidfd >= 0:
            os.close(pending.pidfd)
        event = pending.event
        if pending.uid >= 0:
            event.user = self._names.get(pending.uid) or str(pending.uid)
        self._on_event(event)

    def _check_how_it_ended(self, pending: _Pending, now: float) -> None:
        status = None
        try:
            status = kernel.exit_status(pending.pidfd)
        except OSError:
            self._kernel_reports = False
        if status is None and self._kernel_reports and now < pending.died:
            pending.next_check = now + CHECKS[min(pending.checks, len(CHECKS) - 1)]
            pending.checks += 1
            return
        if status is not None:
            pending.event.died = kernel.how_it_ended(status)
        os.close(pending.pidfd)
        pending.pidfd, pending.died = -1, 0.0

    def _held(self, answer: "Any") -> None:
        asked, self._surveying = self._surveying, set()
        self._answered = True
        found = {tuple(file_id): holders for file_id, holders in answer or ()}
        for pending in self._pending.values():
            if pending.file_id in asked:
                # Without this process, which may hold the file to give memory back.
                pending.event.attached = [
                    (pid, command) for pid, command in found.get(pending.file_id, ()) if pid != os.getpid()
                ]
                pending.holders = 0.0

    def _named(self, uid: int, name: "Any") -> None:
        self._names[uid] = name or processes.UNKNOWN if name else str(uid)
        self._answered = True
        for pending in self._pending.values():
            if pending.uid == uid:
                pending.name = 0.0


def _is_ready(pending: _Pending, now: float) -> bool:
    return all(until <= now for until in (pending.holders, pending.name, pending.died, pending.returns))


def _next(pending: _Pending) -> float:
    if pending.pidfd >= 0:
        return pending.next_check
    return pending.returns or max(pending.holders, pending.name)
