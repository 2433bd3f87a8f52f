"""Decides and acts on each heap of a directory: facts, verdict, unlink, and what follows.

The order of evidence: a lease; an identity that was established while the creator lived; otherwise the
observer is asked, and its answer comes in a later step.  Nothing here waits.
"""

import os
import time

from gppshm import (
    account,
    creator,
    creators,
    inquiry,
    kernel,
    lease,
    observer,
    processes,
    procfs,
    reaching,
    reaper,
    reporting,
    returns,
    schedule,
    shmfs,
    triggers,
    waiting,
)
from gppshm.events import FAILED, UNPROVEN, WOULD_REMOVE, Event
from gppshm.known import ALIVE, ENDED, OTHERS, SEEN, Known

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

    from gppshm.events import Counts

PIECE = waiting.PIECE
HOST = "host"
CHILDREN = "children"
SCOPES = (HOST, CHILDREN)

RETRIES = schedule.RETRIES
FIRST_SIGHT = 0.02
"""Seconds from the creation of a file to its inspection: its creator writes the header first."""
TOGETHER = 0.005
"""Seconds; files that were created within it are inspected together."""
SLOW_EXIT = 1.0
"""Seconds that a creator may live after its heap lost its name; then this is reported."""
DOUBTED = 10
"""Every DOUBTED-th rescan checks that creators still map their heaps; each check costs 0.1 ms."""
MOST_EXITS = len(schedule.EXITS) + len(RETRIES)
"""Tries after an event on a heap whose creator has no pidfd and has not ended yet."""
LARGE = 4 << 20
"""Bytes; the observer closes larger unlinked files: the kernel frees 7 MB in a millisecond."""


class Handling:
    """The heaps of one directory; each is handled (verdict, unlink) as far as possible now.

    scope      HOST: every orphan; CHILDREN: only heaps whose creator was seen as a descendant of `parent`
    on_change  called with the name of a heap whose `record` has changed
    Raises OSError if the directory cannot be opened, or the observer cannot be started.
    """

    def __init__(
        self,
        root: str,
        on_event: "Callable[[Event], None]",
        scope: str,
        parent: int,
        dry_run: bool,
        proc_root: str,
        on_change: "Callable[[str], None]",
        reclaim: bool,
    ) -> None:
        self.root = root
        self.scope = scope
        self.parent = parent
        self._proc_root = proc_root
        self._dry_run = dry_run
        self._reclaim = reclaim
        self._on_change = on_change
        self._known: Dict[str, Known] = {}
        self._timers = schedule.Timers()
        self._waiting = waiting.Waiting()
        self._flooded = False
        self._last_rescan = 0.0
        self._waited = time.monotonic()
        self._lost: List[bool] = []
        self._passed_over: Tuple[int, ...] = ()
        self.directory = shmfs.ShmDirectory(root, proc_root)
        self._reaper = self._make_reaper()
        try:
            self._triggers = triggers.Triggers()
            try:
                self._observer = observer.Observer(proc_root, self._poll_observer)
            except BaseException:
                self._triggers.close()
                raise
        except BaseException:
            self._reaper.close()
            self.directory.close()
            raise
        self._reporting = reporting.Reporting(self._observer, on_event)
        self._account = account.Account(self._reporting)
        self._creators = creators.Creators(self._triggers, self._account, proc_root)
        ancestor = parent, procfs.pulse(parent, proc_root)[0] if parent > 0 else 0
        self._inquiry = inquiry.Inquiry(self._observer, self._known, self._sight, ancestor)
        self._returns = returns.Returns(
            self._observer,
            self._account.counts,
            self._triggers.also,
            self._reporting.first_returned,
            self._account.returned,
        )
        self._reaching = reaching.Reaching(
            self._observer, lambda: self.directory, self._returns.take, self._reporting.first_returned
        )

    def _make_reaper(self) -> reaper.Reaper:
        return reaper.Reaper(self.directory, self._dry_run, self._reclaim and not self._dry_run, LARGE)

    def _close(self) -> None:
        self._stop_returning()
        self._triggers.close()
        self._observer.close()
        self._reaper.close()
        self.directory.close()

    def _stop_returning(self) -> None:
        """Give back nothing more: close all unlinked heaps, and find no others."""
        self._reaching.close()
        self._returns.close()

    # -- state, readable from any thread -----------------------------------------------------------------

    @property
    def counts(self) -> "Counts":
        """Counts of what was done so far."""
        return self._account.counts

    def living(self) -> "List[str]":
        """Names of the heaps whose creator was seen alive and is not known to have ended."""
        return [name for name, heap in list(self._known.items()) if heap.lives]

    def offspring(self) -> "List[str]":
        """Those of `living` whose creator was seen as a descendant of `parent`; `parent` may have ended."""
        return [name for name, heap in list(self._known.items()) if heap.lives and heap.descends]

    def has_work(self) -> bool:
        """Whether a creator lives, a question is pending, or a heap is due for another try."""
        return any(
            heap.stage not in (SEEN, OTHERS)
            or heap.asked
            or name in self._timers
            or name in self._waiting.again
            for name, heap in list(self._known.items())
        )

    def troubles(self) -> "List[str]":
        """The current problems of the triggers, one sentence each."""
        return list(self._account.troubles.values())

    @property
    def pidfds(self) -> int:
        """Number of creators watched by a pidfd."""
        return self._triggers.pidfds

    @property
    def identities(self) -> int:
        """Number of established identities."""
        return sum(heap.identity is not None for heap in list(self._known.values()))

    @property
    def inotify_works(self) -> bool:
        return self._triggers.inotify_works

    @property
    def asked(self) -> int:
        """Number of questions that the observer has not answered."""
        return self._observer.asked

    @property
    def passed_over(self) -> "Tuple[int, ...]":
        """Pids of processes that block their inspection."""
        return tuple(pid for pid in self._observer.passed_over if pid > 0)

    def description(self, name: str, file_id: "Tuple[int, int]") -> processes.Description:
        """The description of the heap's creator, noted while it lived."""
        heap = self._known.get(name)
        if heap is None or heap.file_id != file_id:
            return processes.Description()
        return heap.description

    def returns(self) -> "List[Tuple[Any, ...]]":
        """See Returns.figures."""
        return self._returns.figures()

    @property
    def returns_changed(self) -> int:
        """Grows with every change of `returns`."""
        return self._returns.changed

    def record(self, name: str) -> "Optional[Tuple[Any, ...]]":
        """What is known of a heap and its creator; None if nothing is.

        (whether the creator lives, (device, inode) of the heap, the creator's pid, command, command line and
        user, whether it descends from `parent`)
        """
        heap = self._known.get(name)
        if heap is None or not heap.creator:
            return None
        who = heap.description
        user = (who.uid >= 0 and self._reporting.name(who.uid)) or processes.UNKNOWN
        return heap.lives, heap.file_id, heap.creator, who.command, who.arguments, user, heap.descends

    def lives(self, seen: shmfs.Sighting) -> int:
        """The pid of the heap's creator if a pidfd watches it and has not reported its end; else 0."""
        heap = self._known.get(seen.name)
        if heap is None or not self._triggers.watches(seen.name) or heap.file_id != seen.file_id:
            return 0
        return heap.creator

    # -- events of the triggers ----------------------------------------------------------------------------

    def _note_ended(self, happened: triggers.Happened, since: float) -> None:
        """Handle the ends of creators that pidfds reported."""
        for name in happened.ended:
            heap = self._known[name]
            self._has_ended(name, heap)
            heap.attempts = 0
            heap.since, heap.trigger = since, "pidfd"

    def _take_closed(self, happened: triggers.Happened, since: float) -> "List[str]":
        """The known heaps that a writer closed.  Names of other events are queued."""
        names = []
        for name in happened.freed:
            heap = self._known.get(name)
            if heap is not None and name not in happened.closed:
                heap.follow("close", since)
                names.append(name)
        for name, let_go in happened.removed.items():
            heap = self._known.get(name)
            if heap is not None:
                heap.removed, heap.let_go = True, let_go
                if not heap.lives:
                    names.append(name)
        for name in happened.closed:
            heap = self._known.get(name)
            if heap is not None and heap.removed and name not in happened.removed:
                heap.let_go = True  # for events read together, `removed` has the order
            if heap is not None and heap.creator:
                heap.follow("close", since)
                names.append(name)
            elif heap is not None or (shmfs.pid_of_name(name) and name not in happened.removed):
                self._hear_of(name, "close", since)
        for name in happened.created:
            if name not in happened.removed and shmfs.pid_of_name(name) and self._owner(name) is not None:
                self._creators.note_named(name, self._track(name, "created", since), self.directory)
                # Rounded up, so that a step handles many.
                self._timers.set(name, FIRST_SIGHT + (time.monotonic() // TOGETHER + 1) * TOGETHER)
        return names

    def _owner(self, name: str) -> "Optional[int]":
        """The user id of the file; None if there is none."""
        heap = self._known.get(name)
        if heap is not None and heap.uid >= 0:
            return heap.uid
        try:
            return os.stat(name, dir_fd=self.directory.fd, follow_symlinks=False).st_uid
        except OSError:
            return None

    def _hear_of(self, name: str, trigger: str, since: float) -> bool:
        """Queue a name that is not known to be a heap; False if too many wait."""
        owner = self._owner(name)
        if owner is None:
            if name not in self._known:
                return True
            owner = -1
        return self._waiting.add_new(name, owner, trigger, since)

    def _take_due(self, now: float) -> "List[str]":
        names = []
        for name in self._timers.take(now):
            heap = self._known.get(name)
            if heap is not None and heap.creator:
                names.append(name)
            elif heap is not None and heap.attempts:
                self._waiting.again.add(name, heap.uid)
            elif heap is not None:
                self._hear_of(name, heap.trigger, heap.since)
        return names

    def _handle_new(self, name: str) -> bool:
        """Handle a name from an event; whether there was a result."""
        trigger, since = self._waiting.event(name)
        self._track(name, trigger, since).follow(trigger, since)
        return self._try(name)

    def _absorb_changes(self, name: str = "") -> None:
        """Read all pending changes of heaps, or at least of this one; their identities become void."""
        for each in self._triggers.changes(name) or ():  # without inotify there are no identities
            heap = self._known.get(each)
            if heap is not None:
                heap.changed()
                if heap.lives:
                    self._inquiry.renew(each)

    def _forget_identities(self) -> None:
        for name, heap in self._known.items():
            heap.changed()
            if heap.lives:
                self._inquiry.renew(name)

    # -- verdict and unlink --------------------------------------------------------------------------------

    def _handle(self, names: "Sequence[str]") -> bool:
        """Handle each name as far as possible now; whether there was a result."""
        found = False
        for name in dict.fromkeys(names):
            found = self._try(name) or found
        return found

    def _try(self, name: str) -> bool:
        """Try a lease, then the identity; otherwise ask the observer.  Whether there was a result."""
        self._absorb_changes(name)
        changed = self._changed_since(name)
        outcome = self._reaper.by_lease(name, self._only(name), self._by_identity, changed)
        seen = outcome.sighting
        if outcome.result is not reaper.UNSURE or outcome.verdict is not None or seen is None:
            return self._record(outcome)
        heap = self._track(name, "rescan", self._last_rescan)
        self._see(heap, seen)
        if not heap.creator:
            verdict = creator.verdict_without_processes(seen)
            if verdict is not None and verdict.state is creator.ALIVE:
                self._retry(name, heap)
                return False
            if verdict is not None:
                heap.attempts = len(RETRIES)
                return self._record(self._reaper.remove(seen, verdict))
            state = self._creators.state_of_named(heap, seen, self.directory)
            if state is ENDED:
                self._ask_verdict(seen, seen.name_pid)
            elif state is creators.EXITING and heap.attempts < len(schedule.EXITS):
                # The kernel closes the heap before it reports the end, after which a question is quicker.
                self._timers.set(name, time.monotonic() + schedule.exit_delay(heap.attempts))
                heap.attempts += 1
            else:
                self._inquiry.portray(name, heap.uid)
            return False
        self._note_end(name, heap)
        if heap.lives:
            return self._still_alive(name, heap)
        self._ask_verdict(seen, heap.creator)
        return False

    def _ask_verdict(self, seen: shmfs.Sighting, ended: int) -> None:
        """Ask the observer about a heap whose creator, process `ended`, is dead.

        Changes of the file are reported from before the question on.
        """
        name = seen.name
        if self._known[name].asked:
            return
        now = self._sight(name)
        if now is not None and now.file_id == seen.file_id:
            self._inquiry.verdict(now, ended)
        else:
            self._retry(name, self._known[name])

    def _only(self, name: str) -> "Optional[shmfs.FileId]":
        """The only file that may be removed under that name; None for any."""
        if self.scope == HOST:
            return None
        heap = self._known.get(name)
        return heap.file_id if heap is not None and heap.descends else reaper.NOTHING

    def _see(self, heap: Known, seen: shmfs.Sighting) -> None:
        """Store a sighting."""
        if heap.see(seen):
            self._triggers.unwatch(seen.name)
            self._triggers.neglect(seen.name)
            self._on_change(seen.name)

    def _sight(self, name: str) -> "Optional[shmfs.Sighting]":
        """Inspect a heap and store the sighting, while changes of the file are reported, if possible.

        None if it cannot be inspected, is no heap, or is replaced again and again.
        """
        heap = self._known[name]
        for _ in range(3):
            try:
                with self.directory.open(name) as file:
                    seen = file.sighting
                    if seen.kind not in (shmfs.HEAP, shmfs.HALF_MADE) or file.fd is None:
                        return None
                    self._see(heap, seen)
                    fresh = self._triggers.attend(name, file.fd, seen.status.st_uid)
            except OSError:
                return None
            heap.attended = self._triggers.attends(name)
            if not heap.attended or fresh:
                heap.changed()  # or it may have been
            if not fresh:
                return seen
        return None

    def _has_ended(self, name: str, heap: Known) -> None:
        """Note that the creator has ended."""
        heap.stage = ENDED
        self._on_change(name)

    def _note_end(self, name: str, heap: Known) -> None:
        """Note whether the creator has ended, as far as it can be found out."""
        try:
            if self._creators.has_ended(name, heap):
                self._has_ended(name, heap)
        except OSError:
            pass

    def _by_identity(self, seen: shmfs.Sighting) -> "Optional[creator.Verdict]":
        """The verdict by the established identity; None if the creator lives, or there is no such verdict.

        OSError if no descriptor is left: the reaper has some in reserve.
        """
        heap = self._known.get(seen.name)
        if heap is None or not heap.creator:
            return None
        self._see(heap, seen)
        try:
            if self._creators.has_ended(seen.name, heap):
                self._has_ended(seen.name, heap)
        except OSError as error:
            if error.errno in reaper.NO_DESCRIPTOR:
                raise
        if heap.lives or not self._triggers.attends(seen.name):
            return None
        return self._creators.verdict(heap, seen)

    def _remove(self, seen: shmfs.Sighting, verdict: creator.Verdict) -> reaper.Outcome:
        """Unlink the heap, unless it is changed before."""
        changed = self._changed_since(seen.name)
        return self._reaper.remove(seen, verdict, self._only(seen.name), changed)

    def _changed_since(self, name: str) -> "Callable[[], str]":
        """A function that returns why a verdict on the heap of now does not hold any more, or ""."""

        def version() -> int:
            heap = self._known.get(name)
            return -1 if heap is None else heap.version

        before = version()

        def changed() -> str:
            self._absorb_changes(name)
            return "" if version() == before else "it was changed after it was judged"

        return changed

    def _still_alive(self, name: str, heap: Known) -> bool:
        """After a try on the heap of a living creator: schedule another one if it may be exiting."""
        heap.reported = ""
        # At a rescan no writer has closed the heap; the creator may have exec'd, which raises no event.
        if heap.trigger != "rescan" or self.counts.rescans % DOUBTED == 0:
            heap.doubtful = True
        if not self._triggers.watches(name) and heap.trigger == "close" and heap.attempts < MOST_EXITS:
            self._timers.set(name, time.monotonic() + schedule.exit_delay(heap.attempts))
            heap.attempts += 1
        else:
            heap.attempts = 0
        return False

    def _record(self, outcome: reaper.Outcome) -> bool:
        """Act on the outcome of a try; whether there was a result."""
        name, seen, result = outcome.name, outcome.sighting, outcome.result
        heap = self._known.get(name)
        if result is reaper.GONE:
            return heap is not None and self._name_is_missing(name, heap)
        if result is reaper.NO_HEAP and not _in_the_making(seen):
            self._forget(name)
            return False
        if result is reaper.FAILED and seen is not None and seen.kind is shmfs.UNREADABLE:
            if not shmfs.pid_of_name(name):  # it is not known to be a heap
                self._forget(name)
                return False
        if heap is None:
            heap = self._track(name, "rescan", self._last_rescan)
        first = not heap.creator
        if seen is not None:
            self._see(heap, seen)
        if outcome.verdict is not None and outcome.verdict.state in creator.ORPHANS and heap.lives:
            self._has_ended(name, heap)
        if result is reaper.REMOVED:
            pidfd = self._triggers.release(name)
            self._forget(name)
            attached = outcome.verdict is not None and outcome.verdict.evidence != creator.LEASE
            pinned = outcome.fd >= 0 and self._reaper.pin and attached
            event = self._account.removed(outcome, heap, pidfd, pinned)
            if pinned:
                self._returns.take(outcome.fd, event, heap.noted)
            elif outcome.fd >= 0:
                self._observer.let_go(outcome.fd)
            return True
        if result is reaper.WOULD_REMOVE:
            self._account.stays(WOULD_REMOVE, outcome, heap)
        elif result is reaper.OUT_OF_SCOPE:
            if heap.creator:  # its creator was seen alive, and is no descendant
                self._triggers.unwatch(name)
                heap.forget_the_creator()
                heap.stage = OTHERS
                self._on_change(name)
            elif heap.stage is not OTHERS:
                outcome.reason = _NEVER_SEEN.format(self.parent)
                self._account.stays(UNPROVEN, outcome, heap)
            return False
        elif result is reaper.FAILED and outcome.error not in reaper.NO_DESCRIPTOR:
            self._account.stays(FAILED, outcome, heap)
        elif result is reaper.NO_HEAP:  # a process is creating it
            if not self._retry(name, heap):
                self._forget(name)
            return False
        elif not self._retry(name, heap):
            self._account.stays(UNPROVEN, outcome, heap)
        return first

    def _retry(self, name: str, heap: Known) -> bool:
        """Schedule the next try; False if all were made."""
        if heap.attempts >= len(RETRIES):
            heap.attempts = 0
            return False
        self._timers.set(name, time.monotonic() + schedule.retry_delay(heap.attempts))
        heap.attempts += 1
        return True

    # -- heaps without a name ------------------------------------------------------------------------------

    def _name_is_missing(self, name: str, heap: Known) -> bool:
        """Handle a heap that lost its name, by a normal exit or another process.  Whether it is gone."""
        self._note_end(name, heap)
        if not heap.lives:
            left_behind = heap.stage is ENDED and self._was_left_behind(name, heap)
            seek = self._reaper.pin and heap.noted.address > 0 and self._only(name) in (None, heap.file_id)
            pidfd = self._triggers.release(name) if left_behind else -1
            self._forget(name)
            if left_behind:
                event = self._account.cleaned(name, heap, pidfd, seek)
                if seek:
                    self._reaching.seek(event, heap.creator, heap.noted)
            return bool(heap.creator)
        now = time.monotonic()
        if not heap.vanished:
            heap.vanished = now
            self._timers.set(name, now + SLOW_EXIT)
            return True
        if now - heap.vanished >= SLOW_EXIT and not heap.reported and not heap.asked:
            heap.asked = True
            question = [(heap.creator, heap.file_id)]
            self._observer.ask(observer.SOON, "mapped", question, lambda answer: self._lives_on(name, answer))
        return False

    def _was_left_behind(self, name: str, heap: Known) -> bool:
        """Whether an ended creator had left its heap behind, by the order of the kernel's events.

        A process that exits normally unlinks its heap and closes it then.  Of a killed process the kernel
        closes the heap first, and a cleaner unlinks it afterwards.
        """
        if not self.inotify_works:
            return False
        if self._flooded:
            return False  # not all events are read
        late = triggers.Happened()
        self._triggers.read_events(late, kernel.BUFFER)
        if late.overflow or late.gone:
            self._lost.append(late.overflow)
            return False
        # Events of this heap are handled here; all others are queued.
        let_go = late.closed.pop(name, 0) is None
        for other in self._take_closed(late, self._waited):
            self._timers.set(other, self._waited)
        heap.let_go = heap.let_go or (let_go and late.removed.get(name, True))
        return heap.removed and not heap.let_go

    def _lives_on(self, name: str, answer: "Any") -> None:
        """The answer whether the creator still maps its heap, which lost its name."""
        heap = self._known.get(name)
        if heap is None:
            return
        heap.asked = False
        if answer is None or not heap.vanished:
            return
        if answer[0]:
            self._account.lives_on(name, heap)
        else:
            self._forget(name)

    # -- answers of the observer ---------------------------------------------------------------------------

    def _poll_observer(self) -> None:
        self._triggers.poll_also(self._observer.fileno(), self._observer.writing)

    def _take_answers(self) -> None:
        """Handle answers for PIECE seconds; then `_inquiry.answered` is the number of the rest."""
        end = time.monotonic() + PIECE
        self._observer.step()
        while self._inquiry.answered and time.monotonic() < end:
            self._absorb_changes()
            answer = self._inquiry.answer()
            name, verdict = answer.seen.name, answer.verdict
            heap = self._known.get(name)
            if heap is None:
                continue
            if verdict.state is creator.ALIVE and verdict.creator and answer.start:
                self._found_alive(name, heap, answer)
            elif answer.void:
                self._try(name)
            elif verdict.state is not creator.ALIVE:
                heap.descends = heap.descends or answer.descends
                if not heap.creator and _is_contradictory(answer.seen):
                    heap.attempts = len(RETRIES)  # only a lease can prove more
                self._record(self._remove(answer.seen, verdict))
                if not heap.creator:
                    self._triggers.neglect(name)
            # The creator is another process, or one that was given the pid of the dead one.
            elif verdict.creator and (verdict.creator != heap.creator or heap.stage is ENDED):
                heap.forget_the_creator()
                self._triggers.unwatch(name)
                self._inquiry.portray(name, heap.uid)
            elif not verdict.creator:  # half made, and a process is creating it
                self._retry(name, heap)
        now = self._observer.passed_over
        for each in now:
            if each not in self._passed_over:
                self._account.news(_passed_over(each, self._proc_root))
        self._passed_over = now

    def _found_alive(self, name: str, heap: Known, answer: inquiry.Answer) -> None:
        """Store the facts about a living creator, and watch it by a pidfd."""
        if heap.file_id != answer.seen.file_id:
            self._try(name)
            return
        heap.attempts, heap.reported = 0, ""
        heap.creator, heap.start = answer.verdict.creator, answer.start
        heap.description, heap.descends, heap.noted = answer.who, answer.descends, answer.noted
        heap.stage = ALIVE
        self._waiting.creator_is_known(heap.uid)
        heap.identity = answer.identity if heap.attended else None
        self._on_change(name)
        if answer.who.uid >= 0:
            self._reporting.name(answer.who.uid)
        if answer.void:
            self._inquiry.renew(name)
        if not self._watch(name, heap):
            heap.since = time.monotonic()
            self._has_ended(name, heap)
        # It may have died during the inspection, after the event of its last close.
        if not self._triggers.watches(name):
            self._try(name)

    def _watch(self, name: str, heap: Known) -> bool:
        """Watch the creator; False if it has ended."""
        if not self._creators.watch(name, heap):
            return False
        if not self._triggers.watches(name):
            self._triggers.watch_closes(name, os.path.join(self.root, name))
        return True

    # -- bookkeeping ---------------------------------------------------------------------------------------

    def _track(self, name: str, trigger: str, since: float) -> Known:
        heap = self._known.get(name)
        if heap is None:
            heap = self._known[name] = Known(trigger, since)
        return heap

    def _forget(self, name: str) -> None:
        if self._known.pop(name, None) is not None:
            self._on_change(name)
            self._triggers.unwatch(name)
            self._triggers.neglect(name)
            self._timers.cancel(name)
            self._waiting.forget(name)
            self._inquiry.forget(name)


_NEVER_SEEN = (
    "its creator is gone and was never seen alive, so it is not known to descend from process {}: it stays"
    " (scope children)"
)


def _in_the_making(seen: "Optional[shmfs.Sighting]") -> bool:
    """Whether a file without a heap's magic may become a heap: by its name, and because it has a writer."""
    return seen is not None and seen.answer is lease.REFUSED and seen.name_pid > 0


def _is_contradictory(seen: shmfs.Sighting) -> bool:
    """Whether name and header give different creators."""
    return seen.header is not None and seen.header.creator != seen.name_pid


def _passed_over(pid: int, proc_root: str) -> str:
    """The sentence about a process that blocks its inspection, or a user (-1 - uid) without an answer."""
    if pid < 0:
        return f"the name of user {-1 - pid} is not known: its number is shown"
    comm = (procfs.read(f"{proc_root}/{pid}/stat") or b"").partition(b"(")[2].rpartition(b")")[0]
    name = comm.decode("utf-8", "replace") or "unknown"
    return (
        f"process {pid} ({name}) does not answer who looks into it (its memory map, command line or"
        " descriptors): it is passed over"
    )
