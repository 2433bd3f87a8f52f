"""redhawk-shmclean: remove orphaned heaps, as REDHAWK's own tool does, but only with a proof of death."""

import errno
import os
import stat
import sys

from gppshm import creator, judging, procfs, reaper, shmfs
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

MAX_PINS = 64
"""Descriptors kept open from before the unlink, at most; other heaps are reached through their holders."""

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


def build_parser() -> "argparse.ArgumentParser":
    """The options; --help, man page and completion are made from them."""
    import argparse

    parser = text.argument_parser(
        COMMAND,
        "%(prog)s [OPTION ...] [NAME ...]",
        "Remove every REDHAWK heap whose creator is proven dead, or only the files NAME.\n"
        "A heap whose creator is, or may be, alive is removed only by name and with -f.",
        "exit status: 0 done, or nothing to do; 1 something was refused or failed; 2 wrong usage.\n"
        "Without NAME, heaps that are kept because their creator is or may be alive are no failure\n"
        "(--verbose lists them).",
    )
    parser.add_argument(
        "-f",
        "--force",
        action="store_true",
        help="unlink each NAME, whatever it is, but no directory; users of a heap in use are listed."
        " Prints nothing else, as REDHAWK's own command, unless --verbose is given. No effect without NAME",
    )
    # Abbreviations that REDHAWK's command accepts keep their meaning.
    parser.add_argument("--f", "--fo", dest="force", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--v", "--ve", "--ver", dest="version", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument(
        "--dry-run", action="store_true", help="print what would be unlinked, and unlink nothing"
    )
    parser.add_argument(
        "--verbose",
        action="store_true",
        help="print reason, evidence, dev:inode, bytes, and the processes that still hold the memory",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object (docs/shmclean-json.md)")
    parser.add_argument(
        "--reclaim",
        action="store_true",
        help="also give back the free memory of orphaned heaps with attached peers, of those that are removed"
        f" and of those that were unlinked before; {RISK}",
    )
    parser.add_argument(
        "--fifos", action="store_true", help="also remove FIFOs fifo-<pid>-<hex> of dead processes"
    )
    parser.add_argument(
        "--fifo-root", metavar="DIR", help="directory of the FIFOs (default: /tmp); with --fifos"
    )
    parser.add_argument(
        "--root",
        default=shmfs.DEFAULT_ROOT,
        metavar="DIR",
        help="directory of the heaps (default: %(default)s)",
    )
    return parser


def main(argv: "Optional[List[str]]" = None) -> int:
    """Run the command and return its exit status."""
    try:
        with interrupts.Interrupts() as ctrl_c:
            output = interrupts.Output(COMMAND, ctrl_c)
            try:
                return _main(sys.argv[1:] if argv is None else argv, ctrl_c, output)
            except KeyboardInterrupt:
                ctrl_c.ending = True
                output.flush()
                raise
    except KeyboardInterrupt:
        return 130


def _main(arguments: "List[str]", ctrl_c: interrupts.Interrupts, output: text.Output) -> int:
    options: Options = Defaults()
    if arguments:
        parser = build_parser()
        options = text.parse(parser, arguments)
        if options.help or options.version:
            from gppshm import __version__

            output.put(parser.format_help() if options.help else f"{COMMAND} version {__version__}\n")
            output.flush()
            return int(output.failed)
        if options.fifo_root is not None and not options.fifos:
            parser.error("--fifo-root goes with --fifos")
    run = Run(options, output, ctrl_c)
    try:
        try:
            run.clean()
            run.complete = True
        except Exception:
            run.finish()
            raise
        run.finish()
    except KeyboardInterrupt:
        ctrl_c.ending = True
        run.finish()
        raise
    return 1 if output.failed else run.exit_status


class Run:
    """One run of the command. Each outcome is printed after it has happened.

    status    1 if something was refused or failed so far; exit_status: also if a process does not answer
    outcomes  of heaps and NAMEs; without files that another cleaner removed meanwhile
    fifos     outcomes of FIFOs
    unnamed   outcomes of heaps that were unlinked before this run; with --reclaim
    returned  (device, inode) of a heap -> result of giving back its free memory
    holders   (device, inode) of a file -> its holders at the end; with --verbose or --json
    unseen    number of processes that could not be inspected
    complete  the run was not interrupted
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
        self._output = output
        self._ctrl_c = ctrl_c
        self._is_told = False
        self._judge = judging.Judge()
        self._descriptions: Dict[int, Tuple[str, str]] = {}
        self._pins: Dict[shmfs.FileId, int] = {}
        self._unlinked: List[held.Unlinked] = []
        self._without_a_file: List[str] = []

    def clean(self) -> None:
        try:
            directory = _open(self.options.root)
            with directory:
                self._find_unlinked(directory)
                if not self.options.names:
                    self._sweep(directory)
                elif self.options.force:
                    self._force(directory)
                else:
                    self._clean_named(directory)
                self._reclaim(directory)
                self._survey(directory)
        except OSError as error:
            self._fail(f"{COMMAND}: {text.escaped(self.options.root)} cannot be read: {error.strerror}")
        if self.options.fifos:
            self._clean_fifos()

    def describe(self, pids: "Iterable[int]") -> "Dict[int, Tuple[str, str]]":
        """pid -> (user, command), each UNKNOWN if it cannot be found out."""
        from gppshm import processes

        wanted = [pid for pid in pids if pid not in self._descriptions]
        unknown = dict.fromkeys(wanted, (processes.UNKNOWN, processes.UNKNOWN))
        if wanted:
            self._descriptions.update(self._look(lambda: processes.described(wanted), unknown))
        return self._descriptions

    def _described(self, pids: "Iterable[int]") -> "List[Tuple[int, str]]":
        """(pid, description for messages) of each process."""
        pids = list(pids)
        found = self.describe(pids)
        who = [(pid, text.escaped(found[pid][0]), text.escaped(found[pid][1])) for pid in pids]
        return [(pid, f"process {pid} ({user}: {command})") for pid, user, command in who]

    def _look(self, act: "Callable[[], Any]", otherwise: "Any") -> "Any":
        try:
            return otherwise if self._ctrl_c.ending else self._judge.look(act)
        except OSError:
            return otherwise

    def finish(self) -> None:
        """Print holders or JSON, and write everything out.  After Ctrl-C: what is still to be told."""
        if self.options.json and not self._is_told:
            from gppshm.cli import shmclean_json

            report = shmclean_json.report(self)
            self._ctrl_c.hold()
            self._output.put(report)
            self._is_told = True
        elif self.options.verbose and not self._ctrl_c.ending:
            for outcome in self.outcomes + self.unnamed:
                self._tell_holders(outcome)
        self._let_go()
        self._output.pass_over(self._judge.passed_over)

    def _let_go(self) -> None:
        """Act on Ctrl-C, as what happened has been put; then write it."""
        self._ctrl_c.let_go()
        self._output.flush()

    @property
    def exit_status(self) -> int:
        return 1 if self._judge.passed_over else self.status

    # -- all orphans ------------------------------------------------------------------------------------

    def _sweep(self, directory: shmfs.ShmDirectory) -> None:
        if not directory.on_tmpfs:
            root = text.escaped(directory.root)
            self._fail(f"{COMMAND}: {root}: {directory.doubt}: nothing is removed")
            return
        with self._reaper(directory) as cleaner:
            for outcome in cleaner.settle_patiently(directory.names(), self._judge):
                self._pin(outcome)
                if outcome.result not in (reaper.NO_HEAP, reaper.GONE) and not _unreadable_other(outcome):
                    self.outcomes.append(outcome)
                    self._tell_unasked(outcome, text.escaped(outcome.name))
                self._let_go()

    def _tell_unasked(self, outcome: reaper.Outcome, name: str) -> None:
        """Print the outcome of a file that was not given as NAME."""
        reason = text.escaped(outcome.reason)
        if outcome.removed:
            self._tell_removal(outcome, name)
        elif outcome.result is reaper.FAILED and not _unreadable(outcome):
            self._fail(f"error: {name}: {why_failed(outcome)}")
        elif self.options.verbose and outcome.result is reaper.KEPT:
            self._say(f"keeping {name}: {reason}")
        elif self.options.verbose:
            doubt = "cannot be opened" if _unreadable(outcome) else "may be in use"
            self._output.line_on_stderr(f"keeping {name}: it {doubt}: {reason}")

    # -- names ------------------------------------------------------------------------------------------

    def _clean_named(self, directory: shmfs.ShmDirectory) -> None:
        names = self._names(directory, " could not be opened: ")
        there = {name for name in names if _exists(directory, name)}
        with self._reaper(directory) as cleaner:
            for outcome in cleaner.settle_patiently(names, self._judge):
                self._pin(outcome)
                if outcome.result is reaper.GONE:
                    if outcome.name in there:
                        continue
                    outcome = _missing(outcome.name)
                self.outcomes.append(outcome)
                self._tell_named(outcome, text.escaped(outcome.name))
                self._let_go()

    def _tell_named(self, outcome: reaper.Outcome, name: str) -> None:
        reason = text.escaped(outcome.reason)
        if outcome.removed:
            self._tell_removal(outcome, name)
        elif outcome.result is reaper.KEPT:
            self._fail(f"{name} is in use, {FORCE}")
        elif outcome.result is reaper.UNSURE:
            # Does not suggest -f: a missing proof of life is no proof of death.
            self._fail(f"{name} may be in use ({reason}): it is kept")
        elif outcome.result is reaper.NO_HEAP:
            if _is_directory(outcome.sighting):
                self._fail(f"{name} could not be opened: {os.strerror(errno.EISDIR)}")
            else:
                self._fail(f"{name} is not a heap, {FORCE}")
        elif outcome.verdict is None:
            self._fail(f"{name} could not be opened: {reason}")
        else:
            self._fail(f"error: {name}: {why_failed(outcome)}")
        if self.options.verbose and outcome.result in (reaper.KEPT, reaper.FAILED):
            self._output.line_on_stderr(_details(outcome))

    def _names(self, directory: shmfs.ShmDirectory, but: str) -> "List[str]":
        """The NAMEs without duplicates; those that are no file names are reported and left out."""
        names = []
        for name in dict.fromkeys(self.options.names):
            if "/" in name or name in (".", ".."):
                reason = f"names are those of files in {directory.root}, without a slash"
                self._fail(f"{text.escaped(name)}{but}{text.escaped(reason)}")
                self.outcomes.append(reaper.Outcome(name, reaper.FAILED, reason, error=errno.EINVAL))
            else:
                names.append(name)
        if self._unlinked:
            unlinked = {file.name for file in self._unlinked}
            self._without_a_file = [n for n in names if n in unlinked and not _exists(directory, n)]
        return [name for name in names if name not in self._without_a_file]

    # -- names, by force --------------------------------------------------------------------------------

    def _force(self, directory: shmfs.ShmDirectory) -> None:
        for name in self._names(directory, ": "):
            outcome, users = self._unlink_by_force(directory, name)
            if outcome.result is not reaper.GONE:
                self.outcomes.append(outcome)
                self._tell_forced(outcome, text.escaped(name), users)
            self._let_go()

    def _tell_forced(self, outcome: reaper.Outcome, name: str, users: str) -> None:
        if outcome.result is reaper.FAILED:
            self._fail(f"{name}: {text.escaped(outcome.reason)}")
            return
        if self.options.dry_run or self.options.verbose:
            self._tell_removal(outcome, name)
        if users:
            self._output.line_on_stderr(f"{name} {users}")

    def _unlink_by_force(self, directory: shmfs.ShmDirectory, name: str) -> "Tuple[reaper.Outcome, str]":
        """Unlink the file `name`; the outcome, and a description of its possible users or "".

        Ctrl-C is held at the end if it may have been unlinked.
        """
        seen = verdict = None
        reason, users = "it was named, with --force", ""
        try:
            with directory.open(name) as file:
                seen = file.sighting
        except FileNotFoundError:
            return _missing(name), ""
        except OSError as error:
            users = self._users(f"may have been in use (it could not be inspected: {error.strerror})", [])
        if seen is not None and (seen.kind in (shmfs.HEAP, shmfs.HALF_MADE) or _unreadable_heap(seen)):
            (verdict,) = self._judge([seen])
            if verdict.state not in creator.ORPHANS:
                used = "was in use"
                if verdict.state is creator.UNKNOWN:
                    used = f"may have been in use ({text.escaped(verdict.reason)})"
                file_id, host = seen.file_id, procfs.Processes()
                users = self._users(used, self._look(lambda: host.holders(file_id), []), verdict.creator)
        try:
            if _is_directory(seen):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if not self.options.dry_run:
                self._ctrl_c.hold()
                directory.unlink_by_force(name)
        except FileNotFoundError:
            return reaper.Outcome(name, reaper.GONE, "it is not there any more", seen, verdict), ""
        except OSError as error:
            failed = reaper.Outcome(
                name, reaper.FAILED, str(error.strerror), seen, verdict, error.errno or errno.EIO
            )
            return failed, ""
        done = reaper.WOULD_REMOVE if self.options.dry_run else reaper.REMOVED
        return reaper.Outcome(name, done, reason, seen, verdict), users

    def _users(self, used: str, pids: "Iterable[int]", creator_pid: int = 0) -> str:
        losers = [
            words + (", its creator" if pid == creator_pid else "") for pid, words in self._described(pids)
        ]
        if not losers:
            return f"{used}; no holder was seen"
        return f"{used}; who {'would lose' if self.options.dry_run else 'loses'} it: {'; '.join(losers)}"

    # -- memory under those who are attached ------------------------------------------------------------

    def _reaper(self, directory: shmfs.ShmDirectory) -> reaper.Reaper:
        return reaper.Reaper(directory, self.options.dry_run, pin=True, hold=self._ctrl_c)

    def _pin(self, outcome: reaper.Outcome) -> None:
        """Keep an unlinked heap open if peers may be attached."""
        if outcome.fd >= 0 and outcome.sighting is not None:
            if len(self._pins) < MAX_PINS and outcome.sighting.file_id not in self._pins:
                self._pins[outcome.sighting.file_id] = outcome.fd
            else:
                os.close(outcome.fd)

    def _find_unlinked(self, directory: shmfs.ShmDirectory) -> None:
        """Find files that were unlinked before this run."""
        if self.options.reclaim:
            from gppshm import held

            try:
                found = self._judge.look(lambda: held.plain(held.survey(directory)))
                self._unlinked = held.survey_of(found).unlinked
            except OSError as error:
                self._fail(f"{COMMAND}: /proc cannot be read: {error.strerror}: unlinked files are not known")

    def _reclaim(self, directory: shmfs.ShmDirectory) -> None:
        """Give back the free memory of heaps that were unlinked by this run or before."""
        try:
            for outcome in self.outcomes:
                if outcome.removed and outcome.verdict and outcome.verdict.state is creator.ATTACHED:
                    self._reclaim_removed(outcome)
        finally:
            for fd in self._pins.values():
                os.close(fd)
            self._pins = {}
        names = self.options.names
        for file in self._unlinked:
            if not names or file.name in names:
                self._reclaim_unnamed(directory, file)
        found = {outcome.name for outcome in self.unnamed}
        for outcome in [_missing(name) for name in self._without_a_file if name not in found]:
            self.outcomes.append(outcome)
            self._fail(f"{text.escaped(outcome.name)} could not be opened: {outcome.reason}")

    def _reclaim_removed(self, outcome: reaper.Outcome) -> None:
        from gppshm.cli import shmclean_reclaim

        seen, verdict = outcome.sighting, outcome.verdict
        assert seen is not None and verdict is not None
        fd = self._pins.pop(seen.file_id, None)
        name, returned = text.escaped(outcome.name), shmclean_reclaim.Returned()
        try:
            if fd is None:
                from gppshm import held

                file_id, pids = seen.file_id, verdict.attached
                fd = held.open_regular(self._judge.look(lambda: held.way_to(file_id, pids)), file_id)
            self._give_back(fd, verdict.attached, self.options.reclaim, name, seen, returned)
        except OSError as error:
            returned.reason = f"it cannot be reached through those who hold it: {error.strerror}"
            returned.error = error.errno or 0
        finally:
            if fd is not None:
                os.close(fd)
        self.returned[seen.file_id] = returned
        self._tell_returned(name, seen, returned)

    def _give_back(
        self,
        fd: int,
        attached: "Iterable[int]",
        by_word: bool,
        name: str,
        seen: shmfs.Sighting,
        returned: "shmclean_reclaim.Returned",
    ) -> None:
        """Give back what is free; Ctrl-C is held at the end, as it is to be told.  At Ctrl-C it is told."""
        from gppshm.cli import shmclean_reclaim

        dry_run = self.options.dry_run
        try:
            shmclean_reclaim.give_back(fd, attached, by_word, dry_run, self._judge, self._ctrl_c, returned)
        except KeyboardInterrupt:
            self._ctrl_c.hold()
            if returned.given_back:
                self.returned[seen.file_id] = returned
                self._put_returned(name, seen, returned)
            raise

    def _reclaim_unnamed(self, directory: shmfs.ShmDirectory, file: "held.Unlinked") -> None:
        from gppshm.cli import shmclean_reclaim

        outcome, fd = shmclean_reclaim.look(directory, file, self._judge)
        named = bool(self.options.names)
        if outcome.result is reaper.GONE or (outcome.result is reaper.NO_HEAP and not named):
            return
        if outcome.sighting is None and not named and not shmfs.pid_of_name(file.name):
            return  # it may be no heap at all
        name = f"{text.escaped(outcome.name)} (unlinked before)"
        self.unnamed.append(outcome)
        if fd is None:
            if named and outcome.result is not reaper.FAILED:
                self._fail(f"{name} is kept: {text.escaped(outcome.reason)}")
            else:
                self._tell_unasked(outcome, name)
            return
        try:
            assert outcome.sighting is not None
            returned = shmclean_reclaim.Returned()
            self._give_back(fd, (), True, name, outcome.sighting, returned)
        finally:
            os.close(fd)
        if self.options.dry_run:
            outcome.result = shmclean_reclaim.WOULD_RECLAIM
        if returned.error:
            outcome.result, outcome.error = reaper.FAILED, returned.error
        self.returned[outcome.sighting.file_id] = returned
        self.holders[outcome.sighting.file_id] = file.holders
        self._tell_returned(name, outcome.sighting, returned)

    def _tell_returned(self, name: str, seen: shmfs.Sighting, returned: "shmclean_reclaim.Returned") -> None:
        """Print what was given back, and let Ctrl-C go."""
        if returned.error:
            self._ctrl_c.let_go()  # a directory service may not answer
        self._put_returned(name, seen, returned)
        self._let_go()

    def _put_returned(self, name: str, seen: shmfs.Sighting, returned: "shmclean_reclaim.Returned") -> None:
        if returned.error and self.options.reclaim:
            reason = returned.reason
            if returned.error in (errno.EPERM, errno.EACCES):
                reason += f"; it belongs to {text.user_name(seen.status.st_uid)}: run this as root"
            self._fail(f"error: {name}: {text.escaped(reason)}")
        elif returned.given_back or self.options.reclaim:
            done = "would give" if self.options.dry_run else "gave"
            self._say(
                f"{done} back {returned.given_back} bytes of {name}; {returned.in_use} are still in use"
            )
        if not self.options.verbose:
            return
        if self.options.reclaim:
            self._say(f"  free memory: {RISK}")
        elif returned.reason:
            hint = "" if returned.error else "; --reclaim gives it back at your risk"
            self._say(f"  free memory: kept: {text.escaped(returned.reason)}{hint}")
        if self.options.reclaim and returned.reason and not returned.error:
            self._say(f"  free memory: not all: {text.escaped(returned.reason)}")
        if returned.given_back or returned.in_use:
            self._say(f"  free memory: {returned.not_returnable} other bytes cannot be given back")

    # -- FIFOs ------------------------------------------------------------------------------------------

    def _clean_fifos(self) -> None:
        from gppshm import fifos

        root = self.options.fifo_root or fifos.DEFAULT_ROOT
        try:
            for outcome in fifos.reap(root, "/proc", self.options.dry_run, self._judge.look, self._ctrl_c):
                if outcome.result is not reaper.GONE:
                    self.fifos.append(outcome)
                    self._tell_unasked(outcome, text.escaped(os.path.join(root, outcome.name)))
                self._let_go()
        except OSError as error:
            self._fail(f"{COMMAND}: {text.escaped(root)} cannot be read: {error.strerror}")

    # -- output -----------------------------------------------------------------------------------------

    def _say(self, line: str) -> None:
        """Print a line, unless stdout is for JSON: at once, or when Ctrl-C is let go."""
        if not self.options.json:
            self._output.put(line + "\n")
            self._output.flush()

    def _fail(self, message: str) -> None:
        self.status = 1
        self._output.line_on_stderr(message)

    def _tell_removal(self, outcome: reaper.Outcome, name: str) -> None:
        self._say(f"unlinking {name}" if outcome.result is reaper.REMOVED else f"would unlink {name}")
        if self.options.verbose:
            self._say(_details(outcome))

    def _survey(self, directory: shmfs.ShmDirectory) -> None:
        """Find the holders of the files that were (or would be) unlinked."""
        if (self.options.json or self.options.verbose) and any(outcome.removed for outcome in self.outcomes):
            from gppshm import held

            try:
                survey = held.survey_of(self._judge.look(lambda: held.plain(held.survey(directory))))
            except OSError as error:
                self._output.error(
                    f"/proc cannot be read: {error.strerror}: the holders of the memory are not known"
                )
                return
            self.holders.update(survey.holders)
            self.unseen = len(survey.unseen)

    def _tell_holders(self, outcome: reaper.Outcome) -> None:
        seen = outcome.sighting
        holders = self.holders.get(seen.file_id) if seen else None
        returned = self.returned.get(seen.file_id) if seen else None
        if seen and holders and (returned or outcome.removed):
            left = seen.status.st_blocks * 512 - (returned.given_back if returned else 0)
            self._say(
                f"{text.escaped(seen.name)}: {left} bytes come back when the last of "
                f"these exits: {'; '.join([words for _, words in self._described(h.pid for h in holders)])}"
            )


def _open(root: str) -> shmfs.ShmDirectory:
    try:
        return shmfs.ShmDirectory(root)
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
    import resource

    # The soft limit exists for programs that use select(); the hard limit is the administrator's.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return shmfs.ShmDirectory(root)


def _exists(directory: shmfs.ShmDirectory, name: str) -> bool:
    try:
        os.stat(name, dir_fd=directory.fd, follow_symlinks=False)
    except OSError:
        return False
    return True


def _missing(name: str) -> reaper.Outcome:
    return reaper.Outcome(name, reaper.FAILED, os.strerror(errno.ENOENT), error=errno.ENOENT)


def _is_directory(seen: "Optional[shmfs.Sighting]") -> bool:
    return seen is not None and stat.S_ISDIR(seen.status.st_mode)


def _unreadable(outcome: reaper.Outcome) -> bool:
    return outcome.sighting is not None and outcome.sighting.kind is shmfs.UNREADABLE


def _unreadable_heap(seen: shmfs.Sighting) -> bool:
    """Whether it cannot be read and has the name of a heap."""
    return seen.kind is shmfs.UNREADABLE and bool(seen.name_pid)


def _unreadable_other(outcome: reaper.Outcome) -> bool:
    return _unreadable(outcome) and outcome.sighting is not None and not outcome.sighting.name_pid


def why_failed(outcome: reaper.Outcome) -> str:
    """The reason of a failure, with advice if permissions are missing."""
    reason, seen = text.escaped(outcome.reason), outcome.sighting
    if seen is not None and outcome.error in (errno.EPERM, errno.EACCES):
        reason += f"; it belongs to {text.user_name(seen.status.st_uid)}: run this as that user, or as root"
    return reason


def _details(outcome: reaper.Outcome) -> str:
    lines = [f"  reason:      {text.escaped(outcome.reason)}"]
    if outcome.verdict is not None:
        lines.append(f"  evidence:    {outcome.verdict.evidence}")
    if outcome.sighting is not None:
        status = outcome.sighting.status
        lines.append(f"  file:        {status.st_dev}:{status.st_ino}, {status.st_blocks * 512} bytes")
    return "\n".join(lines)
