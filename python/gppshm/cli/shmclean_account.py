"""What a run did, and the lines for it.  Used by the command, its parts and its JSON."""

import errno
import os
import stat

from gppshm import judging, reaper, shmfs
from gppshm.cli import interrupts, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any, Callable, Dict, Iterable, List, Optional, Tuple, Union

    from gppshm import held
    from gppshm.cli import shmclean_reclaim

    Options = Union["Defaults", argparse.Namespace]

COMMAND = "redhawk-shmclean"

FORCE = "use -f to force removal"
RISK = (
    "at your risk if a process that the creator forked (without exec) still uses such a heap:"
    " it could allocate there, lose what it wrote, or be killed by SIGBUS"
)


class Defaults:
    """The options of an invocation without arguments, which does not import argparse."""

    force = dry_run = json = verbose = fifos = reclaim = False
    root = shmfs.DEFAULT_ROOT
    fifo_root = None
    names: "List[str]" = []


class Account:
    """What a run did.  Each outcome is printed after it has happened.

    status    1 if something was refused or failed so far; exit_status: also if a process does not answer
    outcomes  of heaps and NAMEs; without files that another cleaner removed meanwhile
    fifos     outcomes of FIFOs
    unnamed   outcomes of heaps that were unlinked before this run; with --reclaim
    returned  (device, inode) of a heap -> result of giving back its free memory
    holders   (device, inode) of a file -> its holders at the end; with --verbose or --json
    unseen    number of processes that could not be inspected
    complete  the run was not interrupted
    judge     inspects processes
    """

    def __init__(self, options: "Options", output: text.Output, ctrl_c: interrupts.Interrupts) -> None:
        self.options = options
        self.status = 0
        self.outcomes: List[reaper.Outcome] = []
        self.fifos: List[reaper.Outcome] = []
        self.unnamed: List[reaper.Outcome] = []
        self.returned: Dict[shmfs.FileId, shmclean_reclaim.Returned] = {}
        self.holders: Dict[shmfs.FileId, List[held.Holder]] = {}
        self.unseen = 0
        self.complete = False
        self.judge = judging.Judge()
        self.output = output
        self.ctrl_c = ctrl_c
        self._is_reported = False
        self._descriptions: Dict[int, Tuple[str, str]] = {}

    def describe(self, pids: "Iterable[int]") -> "Dict[int, Tuple[str, str]]":
        """pid -> (user, command), each UNKNOWN if it cannot be found out."""
        from gppshm import processes

        wanted = [pid for pid in pids if pid not in self._descriptions]
        unknown = dict.fromkeys(wanted, (processes.UNKNOWN, processes.UNKNOWN))
        if wanted:
            self._descriptions.update(self.inspect(lambda: processes.described(wanted), unknown))
        return self._descriptions

    def described(self, pids: "Iterable[int]") -> "List[Tuple[int, str]]":
        """(pid, description for messages) of each process."""
        pids = list(pids)
        found = self.describe(pids)
        who = [(pid, text.escaped(found[pid][0]), text.escaped(found[pid][1])) for pid in pids]
        return [(pid, f"process {pid} ({user}: {command})") for pid, user, command in who]

    def inspect(self, act: "Callable[[], Any]", otherwise: "Any") -> "Any":
        """The result of `act`, which inspects processes; `otherwise` if that fails, or after Ctrl-C."""
        try:
            return otherwise if self.ctrl_c.ending else self.judge.inspect(act)
        except OSError:
            return otherwise

    def survey(self, directory: shmfs.ShmDirectory) -> None:
        """Find the holders of the files that were (or would be) unlinked."""
        if (self.options.json or self.options.verbose) and any(outcome.removed for outcome in self.outcomes):
            from gppshm import held

            try:
                survey = held.survey_of(self.judge.inspect(lambda: held.plain(held.survey(directory))))
            except OSError as error:
                self.output.error(
                    f"/proc cannot be read: {error.strerror}: the holders of the memory are not known"
                )
                return
            self.holders.update(survey.holders)
            self.unseen = len(survey.unseen)

    def finish(self, report: "Callable[[Account], str]") -> None:
        """Print holders or, with --json, `report`; and write everything out.

        After Ctrl-C: what is still to be reported.
        """
        if self.options.json and not self._is_reported:
            words = report(self)
            self.ctrl_c.hold()
            self.output.put(words)
            self._is_reported = True
        elif self.options.verbose and not self.ctrl_c.ending:
            for outcome in self.outcomes + self.unnamed:
                self._tell_holders(outcome)
        self.let_go()
        self.output.pass_over(self.judge.passed_over)

    def let_go(self) -> None:
        """Act on Ctrl-C, as what happened has been put; then write it."""
        self.ctrl_c.let_go()
        self.output.flush()

    @property
    def exit_status(self) -> int:
        return 1 if self.judge.passed_over else self.status

    def tell_unasked(self, outcome: reaper.Outcome, name: str) -> None:
        """Print the outcome of a file that was not given as NAME."""
        reason = text.escaped(outcome.reason)
        if outcome.removed:
            self.tell_removal(outcome, name)
        elif outcome.result is reaper.FAILED and not unreadable(outcome):
            self.fail(f"error: {name}: {why_failed(outcome)}")
        elif self.options.verbose and outcome.result is reaper.KEPT:
            self.say(f"keeping {name}: {reason}")
        elif self.options.verbose:
            doubt = "cannot be opened" if unreadable(outcome) else "may be in use"
            self.output.line_on_stderr(f"keeping {name}: it {doubt}: {reason}")

    def tell_named(self, outcome: reaper.Outcome, name: str) -> None:
        """Print the outcome of a NAME."""
        reason = text.escaped(outcome.reason)
        if outcome.removed:
            self.tell_removal(outcome, name)
        elif outcome.result is reaper.KEPT:
            self.fail(f"{name} is in use, {FORCE}")
        elif outcome.result is reaper.UNSURE:
            # Does not suggest -f: a missing proof of life is no proof of death.
            self.fail(f"{name} may be in use ({reason}): it is kept")
        elif outcome.result is reaper.NO_HEAP:
            if is_directory(outcome.sighting):
                self.fail(f"{name} could not be opened: {os.strerror(errno.EISDIR)}")
            else:
                self.fail(f"{name} is not a heap, {FORCE}")
        elif outcome.verdict is None:
            self.fail(f"{name} could not be opened: {reason}")
        else:
            self.fail(f"error: {name}: {why_failed(outcome)}")
        if self.options.verbose and outcome.result in (reaper.KEPT, reaper.FAILED):
            self.output.line_on_stderr(details(outcome))

    def say(self, line: str) -> None:
        """Print a line, unless stdout is for JSON: at once, or when Ctrl-C is let go."""
        if not self.options.json:
            self.output.put(line + "\n")
            self.output.flush()

    def fail(self, message: str) -> None:
        """Print a line on stderr; the exit status is 1."""
        self.status = 1
        self.output.line_on_stderr(message)

    def tell_removal(self, outcome: reaper.Outcome, name: str) -> None:
        self.say(f"unlinking {name}" if outcome.result is reaper.REMOVED else f"would unlink {name}")
        if self.options.verbose:
            self.say(details(outcome))

    def _tell_holders(self, outcome: reaper.Outcome) -> None:
        seen = outcome.sighting
        holders = self.holders.get(seen.file_id) if seen else None
        returned = self.returned.get(seen.file_id) if seen else None
        if seen and holders and (returned or outcome.removed):
            left = seen.status.st_blocks * 512 - (returned.given_back if returned else 0)
            self.say(
                f"{text.escaped(seen.name)}: {left} bytes come back when the last of "
                f"these exits: {'; '.join([words for _, words in self.described(h.pid for h in holders)])}"
            )


def missing(name: str) -> reaper.Outcome:
    """The outcome of a NAME that does not exist."""
    return reaper.Outcome(name, reaper.FAILED, os.strerror(errno.ENOENT), error=errno.ENOENT)


def is_directory(seen: "Optional[shmfs.Sighting]") -> bool:
    return seen is not None and stat.S_ISDIR(seen.status.st_mode)


def unreadable(outcome: reaper.Outcome) -> bool:
    return outcome.sighting is not None and outcome.sighting.kind is shmfs.UNREADABLE


def why_failed(outcome: reaper.Outcome) -> str:
    """The reason of a failure, with advice if permissions are missing."""
    reason, seen = text.escaped(outcome.reason), outcome.sighting
    if seen is not None and outcome.error in (errno.EPERM, errno.EACCES):
        reason += f"; it belongs to {text.user_name(seen.status.st_uid)}: run this as that user, or as root"
    return reason


def details(outcome: reaper.Outcome) -> str:
    """Further lines of --verbose."""
    lines = [f"  reason:      {text.escaped(outcome.reason)}"]
    if outcome.verdict is not None:
        lines.append(f"  evidence:    {outcome.verdict.evidence}")
    if outcome.sighting is not None:
        status = outcome.sighting.status
        lines.append(f"  file:        {status.st_dev}:{status.st_ino}, {status.st_blocks * 512} bytes")
    return "\n".join(lines)
