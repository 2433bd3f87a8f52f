"""What is done about each heap: what is known of it, the verdict, the unlink, and what follows.

The order that everything keeps to: by a lease; by an identity that was established while the creator lived;
else the observer is asked, and its answer comes in a later step.  Nothing here waits.
"""

import os
import time

from gppshm import (
    account,
    creator,
    inquiry,
    lease,
    observer,
    processes,
    procfs,
    reaching,
    reaper,
    returns,
    schedule,
    shmfs,
    telling,
    triggers,
)
from gppshm.events import FAILED, UNPROVEN, WOULD_REMOVE, Event
from gppshm.known import ALIVE, ENDED, OTHERS, SEEN, Known

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

    from gppshm.events import Counts

PIECE = 0.001
"""Seconds for which what is not known to be urgent is done before the triggers are asked again."""
MANY_AGAIN, VAIN = 256, 49.0
"""Where so many names are due again at once, that takes its share of the time: 1 in 1 + VAIN."""
HOST = "host"
CHILDREN = "children"
SCOPES = (HOST, CHILDREN)

RETRIES = schedule.RETRIES
FIRST_SIGHT = 0.02
"""Seconds after the creation of a file at which it is looked at: its creator writes the header first."""
SLOW_EXIT = 1.0
"""Seconds that a creator may take to exit after it unlinked its heap, before it is told as another's deed."""
DOUBTED = 10
"""At every so many-th rescan it is doubted that a creator still maps its heap: to look costs 0.1 ms each."""
EXITING = len(schedule.EXITS) + len(RETRIES)
"""So many tries follow an event on a heap whose creator, watched by no pidfd, has not ended yet."""
LARGE = 4 << 20
"""Bytes from which on an unlinked file is let go elsewhere: the kernel frees 7 MB in a millisecond."""


class Settling:
    """The heaps of one directory, each settled as far as it can be now.

    scope     HOST: every orphan; CHILDREN: only heaps whose creator was seen alive, descending from `parent`
    on_change  called with the name of each heap of which `record` tells something else than before
    OSError if the directory cannot be opened, or the observer not be started.
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
        # Names of events that are not known to be heaps, with what came and when.
        self._strange: Dict[str, Tuple[str, float]] = {}
        # Those that are due again after they were looked at in vain.
        self._again = schedule.Queue()
        self._vain = schedule.Share(VAIN)
        self._last_rescan = 0.0
        self._waited = time.monotonic()
        self._lost: List[bool] = []
        self._passed_over: Tuple[int, ...] = ()
        try:
            self._own_proc = os.readlink(proc_root + "/self") == str(os.getpid())
        except OSError:
            self._own_proc = False
        self.directory = shmfs.ShmDirectory(root, proc_root)
        self._reaper = self._make_reaper()
        try:
            self._triggers = triggers.Triggers()
            try:
                self._observer = observer.Observer(proc_root, self._heed_observer)
            except BaseException:
                self._triggers.close()
                raise
        except BaseException:
            self._reaper.close()
            self.directory.close()
            raise
        self._telling = telling.Telling(self._observer, on_event)
        self._account = account.Account(self._telling)
        ancestor = parent, procfs.pulse(parent, proc_root)[0] if parent > 0 else 0
        self._inquiry = inquiry.Inquiry(self._observer, self._known, self._sight, ancestor)
        self._returns = returns.Returns(
            self._observer,
            self._account.counts,
            self._triggers.also,
            self._telling.first_returned,
            self._account.returned,
        )
        self._reaching = reaching.Reaching(
            self._observer, lambda: self.directory, self._returns.take, self._telling.first_returned
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
        """Keep no heap of the dead open any more, and look for none."""
        self._reaching.close()
        self._returns.close()

    # -- what is known, and can be asked from any thread -------------------------------------------------

    @property
    def counts(self) -> "Counts":
        """What was done so far."""
        return self._account.counts

    def living(self) -> "List[str]":
        """The names of the heaps whose creator was seen alive and is not known to have died."""
        return [name for name, heap in list(self._known.items()) if heap.lives]

    def offspring(self) -> "List[str]":
        """Those of `living` whose creator was seen to descend from `parent`, which may have ended since."""
        return [name for name, heap in list(self._known.items()) if heap.lives and heap.descends]

    def is_unsettled(self) -> bool:
        """Whether a creator lives, or is just being looked for, or a try on a heap is still to come."""
        return any(
            heap.stage not in (SEEN, OTHERS) or heap.asked or name in self._timers or name in self._again
            for name, heap in list(self._known.items())
        )

    def troubles(self) -> "List[str]":
        """What is wrong with the triggers now, a sentence each."""
        return list(self._account.troubles.values())

    @property
    def pidfds(self) -> int:
        """How many creators are watched by a pidfd."""
        return self._triggers.pidfds

    @property
    def identities(self) -> int:
        """Of how many living creators it is established who they are."""
        return sum(heap.identity is not None for heap in list(self._known.values()))

    @property
    def inotify_works(self) -> bool:
        return self._triggers.inotify_works

    @property
    def asked(self) -> int:
        """How many questions the observer has not answered yet."""
        return self._observer.asked

    @property
    def passed_over(self) -> "Tuple[int, ...]":
        """Pids of processes that do not answer whoever looks into them."""
        return tuple(pid for pid in self._observer.passed_over if pid > 0)

    def description(self, name: str, file_id: "Tuple[int, int]") -> processes.Description:
        """Who the creator of that heap is, as noted while it lived."""
        heap = self._known.get(name)
        if heap is None or heap.file_id != file_id:
            return processes.Description()
        return heap.description

    def returns(self) -> "List[Tuple[Any, ...]]":
        """As Returns.figures."""
        return self._returns.figures()

    @property
    def returns_changed(self) -> int:
        """Grows with every change of `returns`."""
        return self._returns.changed

    def record(self, name: str) -> "Optional[Tuple[Any, ...]]":
        """What is known of a heap; None if nothing is.

        Whether its creator lives, (device, inode), its pid, command, words, user, whether it descends from
        `parent`.
        """
        heap = self._known.get(name)
        if heap is None or not heap.creator:
            return None
        who = heap.description
        user = (who.uid >= 0 and self._telling.name(who.uid)) or processes.UNKNOWN
        return heap.lives, heap.file_id, heap.creator, who.command, who.words, user, heap.descends

    def lives(self, seen: shmfs.Sighting) -> int:
        """The pid of a heap's creator whose death a pidfd has not told; 0 where none watches it."""
        heap = self._known.get(seen.name)
        if heap is None or not self._triggers.watches(seen.name) or heap.file_id != seen.file_id:
            return 0
        return heap.creator

    # -- what the triggers tell of heaps -------------------------------------------------------------------

    def _note_ended(self, happened: triggers.Happened, since: float) -> None:
        """Note that creators have ended."""
        for name in happened.ended:
            heap = self._known[name]
            self._has_ended(name, heap)
            heap.attempts = 0
            heap.since, heap.trigger = since, "pidfd"

    def _take_closed(self, happened: triggers.Happened, since: float) -> "List[str]":
        """The known heaps of which a writer has let go; what else came is put where it waits its turn."""
        names = []
        for name, let_go in happened.removed.items():
            heap = self._known.get(name)
            if heap is not None:
                heap.removed, heap.let_go = True, let_go
                if not heap.lives:
                    names.append(name)
        for name in happened.closed:
            heap = self._known.get(name)
            if heap is not None and heap.removed and name not in happened.removed:
                heap.let_go = True  # of what came in one go `removed` tells the order
            if heap is not None and heap.creator:
                heap.follow("close", since)
                names.append(name)
            elif heap is not None or (shmfs.pid_of_name(name) and name not in happened.removed):
                self._strange.setdefault(name, ("close", since))
        for name in happened.created:
            if name not in happened.removed and shmfs.pid_of_name(name):
                self._note_named(name, self._track(name, "created", since))
                self._timers.set(name, time.monotonic() + FIRST_SIGHT)
        return names

    def _take_due(self, now: float) -> "List[str]":
        names = []
        for name in self._timers.take(now):
            heap = self._known.get(name)
            if heap is not None and heap.creator:
                names.append(name)
            elif heap is not None and heap.attempts:
                self._again.add(name)
            elif heap is not None:
                self._strange.setdefault(name, (heap.trigger, heap.since))
        return names

    def _take_strange(self) -> "List[str]":
        """The next of the names that are not known to be heaps; none if there is none."""
        for name in self._strange:
            trigger, since = self._strange.pop(name)
            self._track(name, trigger, since).follow(trigger, since)
            return [name]
        return []

    def _look_again(self, now: float) -> None:
        """Look again at some of what was looked at in vain, when nothing is new."""
        if self._strange or not self._again or now < self._vain.next:
            return
        many = len(self._again) > MANY_AGAIN
        self._settle_some(lambda: self._again.take(1))
        if many:
            self._vain.took(now, time.monotonic())

    def _absorb_changes(self) -> None:
        """Read what tells of changed files until nothing waits: what was established of them is void."""
        if not self.inotify_works:
            return  # there are no identities
        changed = self._triggers.changes()
        if changed is None:
            self._forget_identities()
            return
        for name in changed:
            heap = self._known.get(name)
            if heap is not None:
                heap.changed()
                if heap.lives:
                    self._inquiry.renew(name)

    def _forget_identities(self) -> None:
        for name, heap in self._known.items():
            heap.changed()
            if heap.lives:
                self._inquiry.renew(name)

    # -- verdict and unlink --------------------------------------------------------------------------------

    def _settle(self, names: "Sequence[str]") -> bool:
        """Settle each name as far as that can be done now; whether anything came of it."""
        found = False
        for name in dict.fromkeys(names):
            found = self._try(name) or found
        return found

    def _settle_some(self, take: "Callable[[], Sequence[str]]") -> bool:
        """Settle what `take` gives, for a while or until it gives nothing; whether anything came of it."""
        end, found = time.monotonic() + PIECE, False
        names = take()
        while names:
            found = self._settle(names) or found
            names = take() if time.monotonic() < end else ()
        return found

    def _try(self, name: str) -> bool:
        """By lease, then by identity; else the observer is asked.  Whether anything came of it."""
        self._absorb_changes()
        outcome = self._reaper.by_lease(name, self._only(name))
        seen = outcome.sighting
        if outcome.result is not reaper.UNSURE or outcome.verdict is not None or seen is None:
            return self._record(outcome)
        heap = self._track(name, "rescan", self._last_rescan)
        self._see(heap, seen)
        if not heap.creator:
            verdict = creator.without_a_look(seen)
            if verdict is not None and verdict.state is creator.ALIVE:
                self._retry(name, heap)
                return False
            if verdict is not None:
                heap.attempts = len(RETRIES)
                return self._record(self._reaper.remove(seen, verdict))
            if self._named_has_ended(heap, seen):
                self._inquiry.verdict(seen, seen.name_pid)
            else:
                self._inquiry.portray(name, heap.uid)
            return False
        self._ask_its_number(name, heap)
        if heap.lives:
            return self._still_alive(name, heap)
        verdict = self._by_identity(heap, seen)
        if verdict is not None:
            return self._record(self._remove(seen, verdict))
        self._inquiry.verdict(seen, heap.creator)
        return False

    def _note_named(self, name: str, heap: Known) -> None:
        """Note the process whose pid a heap's name has, if it lives: its end can then be known later.

        It need not be the creator: that is judged then.
        """
        if not self._own_proc:
            return
        try:
            status = os.stat(name, dir_fd=self.directory.fd, follow_symlinks=False)
            start, dead = procfs.pulse(shmfs.pid_of_name(name), self._proc_root)
        except OSError:
            return
        if start and not dead:
            heap.named = (status.st_dev, status.st_ino), start

    def _named_has_ended(self, heap: Known, seen: shmfs.Sighting) -> bool:
        """Whether the process whose pid the heap's name has was seen alive with it, and has ended since."""
        file_id, start = heap.named
        if file_id != seen.file_id:
            self._note_named(seen.name, heap)
            return False
        try:
            return procfs.pulse(seen.name_pid, self._proc_root) != (start, False)
        except OSError:
            return False

    def _only(self, name: str) -> "Optional[shmfs.FileId]":
        """The only file that may be removed under that name; None: any."""
        if self.scope == HOST:
            return None
        heap = self._known.get(name)
        return heap.file_id if heap is not None and heap.descends else reaper.NOTHING

    def _see(self, heap: Known, seen: shmfs.Sighting) -> None:
        """Note what was seen."""
        if heap.see(seen):
            self._triggers.unwatch(seen.name)
            self._on_change(seen.name)

    def _sight(self, name: str) -> "Optional[shmfs.Sighting]":
        """What is to be seen of a heap now; None if that is nothing, which the next try will tell."""
        try:
            with self.directory.open(name) as file:
                seen = file.sighting
        except OSError:
            return None
        if seen.kind not in (shmfs.HEAP, shmfs.HALF_MADE):
            return None
        self._see(self._known[name], seen)
        return seen

    def _has_ended(self, name: str, heap: Known) -> None:
        """Note that a creator has ended."""
        heap.stage = ENDED
        self._on_change(name)

    def _ask_its_number(self, name: str, heap: Known) -> None:
        """Find out whether a creator that no pidfd watches has ended, as far as its own number tells."""
        if not heap.lives or self._triggers.watches(name) or not self._own_proc:
            return
        try:
            start, dead = procfs.pulse(heap.creator, self._proc_root)
        except OSError:
            return
        if start:
            gone = dead or start != heap.start
        else:
            gone = procfs.Processes(self._proc_root).no_such_process(heap.creator)
        if gone:
            self._has_ended(name, heap)

    def _by_identity(self, heap: Known, seen: shmfs.Sighting) -> "Optional[creator.Verdict]":
        """The verdict that was prepared while the creator lived; None if there is none that holds."""
        if heap.identity is None:
            return None
        try:
            if procfs.pulse(heap.creator, self._proc_root)[0] not in (0, heap.start):
                return None  # another process has the pid: that one has to be looked into
        except OSError:
            return None
        return creator.judge_by_identity(seen, heap.identity, time.monotonic() - heap.identity.since)

    def _remove(self, seen: shmfs.Sighting, verdict: creator.Verdict) -> reaper.Outcome:
        """Unlink, unless the file is changed before that is done."""
        version = self._known[seen.name].version

        def changed() -> str:
            self._absorb_changes()
            now = self._known[seen.name].version
            return "" if now == version else "it was changed after it was judged"

        return self._reaper.remove(seen, verdict, self._only(seen.name), changed)

    def _still_alive(self, name: str, heap: Known) -> bool:
        """A writer has let go of the heap of a living creator: which it may be itself, just ending."""
        heap.told = ""
        # At a rescan nobody has let go of anything; only that no event need tell of an exec speaks for doubt.
        if heap.trigger != "rescan" or self.counts.rescans % DOUBTED == 0:
            heap.doubtful = True
        if not self._triggers.watches(name) and heap.trigger == "close" and heap.attempts < EXITING:
            self._timers.set(name, time.monotonic() + schedule.exit_delay(heap.attempts))
            heap.attempts += 1
        else:
            heap.attempts = 0
        return False

    def _record(self, outcome: reaper.Outcome) -> bool:
        """Draw the consequences; whether anything came of it."""
        name, seen, result = outcome.name, outcome.sighting, outcome.result
        heap = self._known.get(name)
        if result is reaper.GONE:
            return heap is not None and self._name_is_missing(name, heap)
        if result is reaper.NO_HEAP and not _in_the_making(seen):
            self._forget(name)
            return False
        if result is reaper.FAILED and seen is not None and seen.kind is shmfs.UNREADABLE:
            if not shmfs.pid_of_name(name):  # nobody knows that it is a heap
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
            if heap.creator:  # it was seen whose it is
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
        elif result is reaper.NO_HEAP:  # it is just being made
            if not self._retry(name, heap):
                self._forget(name)
            return False
        elif not self._retry(name, heap):
            self._account.stays(UNPROVEN, outcome, heap)
        return first

    def _retry(self, name: str, heap: Known) -> bool:
        """Whether there is one more try to come."""
        if heap.attempts >= len(RETRIES):
            heap.attempts = 0
            return False
        self._timers.set(name, time.monotonic() + schedule.retry_delay(heap.attempts))
        heap.attempts += 1
        return True

    # -- heaps whose name is gone --------------------------------------------------------------------------

    def _name_is_missing(self, name: str, heap: Known) -> bool:
        """A normal exit, or somebody else's deed.  Whether a heap has gone."""
        self._ask_its_number(name, heap)
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
        if now - heap.vanished >= SLOW_EXIT and not heap.told and not heap.asked:
            heap.asked = True
            question = [(heap.creator, heap.file_id)]
            self._observer.ask(observer.SOON, "mapped", question, lambda answer: self._lives_on(name, answer))
        return False

    def _was_left_behind(self, name: str, heap: Known) -> bool:
        """Whether a creator that has ended had left its heap there, by the order of the kernel's events.

        A process that exits unlinks its heap and lets go of it then; of one that was killed the kernel closes
        the heap first, and a cleaner unlinks it after.
        """
        if not self.inotify_works:
            return False
        late = triggers.Happened()
        self._triggers.read_events(late)
        if late.overflow or late.gone:
            self._lost.append(late.overflow)
            return False
        # The heap itself waits for no turn; all else does.
        let_go = late.closed.pop(name, 0) is None
        for other in self._take_closed(late, self._waited):
            self._timers.set(other, self._waited)
        heap.let_go = heap.let_go or (let_go and late.removed.get(name, True))
        return heap.removed and not heap.let_go

    def _lives_on(self, name: str, answer: "Any") -> None:
        """A heap has lost its name, and its creator was asked for."""
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

    # -- what the observer answers -------------------------------------------------------------------------

    def _heed_observer(self) -> None:
        self._triggers.heed(self._observer.fileno(), self._observer.writing)

    def _take_answers(self) -> None:
        """Heed what was answered, for a while; `_inquiry.answered` tells whether there is more."""
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
            # Another process, be it one that was given the pid of the dead one.
            elif verdict.creator and (verdict.creator != heap.creator or heap.stage is ENDED):
                heap.forget_the_creator()
                self._triggers.unwatch(name)
                self._inquiry.portray(name, heap.uid)
            elif not verdict.creator:  # half made, and somebody is at it
                self._retry(name, heap)
        now = self._observer.passed_over
        for each in now:
            if each not in self._passed_over:
                self._account.news(_passed_over(each, self._proc_root))
        self._passed_over = now

    def _found_alive(self, name: str, heap: Known, answer: inquiry.Answer) -> None:
        """Note who the creator is, and have its death told by a pidfd."""
        if heap.file_id != answer.seen.file_id:
            self._try(name)
            return
        heap.attempts, heap.told = 0, ""
        heap.creator, heap.start = answer.verdict.creator, answer.start
        heap.description, heap.descends, heap.noted = answer.who, answer.descends, answer.noted
        heap.stage = ALIVE
        heap.identity = answer.identity if self.inotify_works else None
        self._on_change(name)
        if answer.who.uid >= 0:
            self._telling.name(answer.who.uid)
        if answer.void:
            self._inquiry.renew(name)
        if not self._watch(name, heap):
            heap.since = time.monotonic()
            self._has_ended(name, heap)
        # It may have died while it was looked at, and its last close have come before.
        if not self._triggers.watches(name):
            self._try(name)

    def _watch(self, name: str, heap: Known) -> bool:
        """Have the creator's end told by a pidfd, if there can be one; False if it has ended."""
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
            self._timers.cancel(name)
            self._again.discard(name)
            self._inquiry.forget(name)


_NEVER_SEEN = (
    "its creator is gone and was never seen alive, so it is not known to descend from process {}: it stays"
    " (scope children)"
)


def _in_the_making(seen: "Optional[shmfs.Sighting]") -> bool:
    """Whether a file without a heap's magic is about to become one: it is named so, and somebody writes."""
    return seen is not None and seen.answer is lease.REFUSED and seen.name_pid > 0


def _is_contradictory(seen: shmfs.Sighting) -> bool:
    """Whether name and header say something else of who created a heap."""
    return seen.header is not None and seen.header.creator != seen.name_pid


def _passed_over(pid: int, proc_root: str) -> str:
    """The sentence on a process, or a user (-1 - uid), that does not answer."""
    if pid < 0:
        return f"nobody tells the name of user {-1 - pid}: the number has to do"
    comm = (procfs.read(f"{proc_root}/{pid}/stat") or b"").partition(b"(")[2].rpartition(b")")[0]
    name = comm.decode("utf-8", "replace") or "unknown"
    return (
        f"process {pid} ({name}) does not answer who looks into it (its memory map, command line or"
        " descriptors): it is passed over"
    )
