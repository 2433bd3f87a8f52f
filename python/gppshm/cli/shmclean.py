"""redhawk-shmclean: remove orphaned heaps, as REDHAWK's own tool does, but only with a proof of death."""

import errno
import os
import sys

from gppshm import creator, reaper, shmfs
from gppshm.cli import interrupts, text
from gppshm.cli.shmclean_account import COMMAND, RISK, Account, Defaults, missing, unreadable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Dict, List, Optional

    from gppshm import held

MAX_PINS = 64
"""Descriptors kept open from before the unlink, at most; other heaps are reached through their holders."""


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
    text.add_root_option(parser)
    return parser


def main(argv: "Optional[List[str]]" = None) -> int:
    """Run the command and return its exit status."""
    try:
        with interrupts.Interrupts() as ctrl_c:
            output = interrupts.Output(COMMAND, ctrl_c)
            try:
                return _main(sys.argv[1:] if argv is None else argv, ctrl_c, output)
            except KeyboardInterrupt:
                ctrl_c.end()
                output.flush()
                raise
    except KeyboardInterrupt:
        return 130


def _main(arguments: "List[str]", ctrl_c: interrupts.Interrupts, output: text.Output) -> int:
    account = Account(Defaults(), output, ctrl_c)
    if arguments:
        parser = build_parser()
        options = account.options = text.parse(parser, arguments)
        if options.help or options.version:
            from gppshm import __version__

            output.put(parser.format_help() if options.help else f"{COMMAND} version {__version__}\n")
            output.flush()
            return int(output.failed)
        if options.fifo_root is not None and not options.fifos:
            parser.error("--fifo-root goes with --fifos")
    try:
        try:
            Run(account).clean()
            account.complete = True
        except Exception:
            account.finish(_report)
            raise
        account.finish(_report)
    except KeyboardInterrupt:
        ctrl_c.end()
        account.finish(_report)
        raise
    return 1 if output.failed else account.exit_status


def _report(account: Account) -> str:
    from gppshm.cli import shmclean_json

    return shmclean_json.report(account)


class Run:
    """One run of the command, which is entered in `account`."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._options = account.options
        self._pins: Dict[shmfs.FileId, int] = {}
        self._unlinked: List[held.Unlinked] = []
        self._without_a_file: List[str] = []

    def clean(self) -> None:
        options = self._options
        try:
            with _open(options.root) as directory:
                self._find_unlinked(directory)
                if not options.names:
                    self._sweep(directory)
                elif options.force:
                    from gppshm.cli import shmclean_force

                    shmclean_force.clean(self._account, directory, self._names(directory, ": "))
                else:
                    self._clean_named(directory)
                self._reclaim(directory)
                self._account.survey(directory)
        except OSError as error:
            self._cannot_read(options.root, error)
        if options.fifos:
            self._clean_fifos()

    def _cannot_read(self, root: str, error: OSError) -> None:
        self._account.fail(f"{COMMAND}: {text.escaped(root)} cannot be read: {error.strerror}")

    def _reaper(self, directory: shmfs.ShmDirectory) -> reaper.Reaper:
        return reaper.Reaper(directory, self._options.dry_run, pin=True, hold=self._account.ctrl_c)

    def _pin(self, outcome: reaper.Outcome) -> None:
        """Keep an unlinked heap open if peers may be attached."""
        if outcome.fd >= 0 and outcome.sighting is not None:
            if len(self._pins) < MAX_PINS and outcome.sighting.file_id not in self._pins:
                self._pins[outcome.sighting.file_id] = outcome.fd
            else:
                os.close(outcome.fd)

    # -- all orphans ------------------------------------------------------------------------------------

    def _sweep(self, directory: shmfs.ShmDirectory) -> None:
        account = self._account
        if not directory.on_tmpfs:
            root = text.escaped(directory.root)
            account.fail(f"{COMMAND}: {root}: {directory.doubt}: nothing is removed")
            return
        with self._reaper(directory) as cleaner:
            for outcome in cleaner.clean_patiently(directory.names(), account.judge):
                self._pin(outcome)
                if outcome.result not in (reaper.NO_HEAP, reaper.GONE) and not _unreadable_other(outcome):
                    account.outcomes.append(outcome)
                    account.tell_unasked(outcome, text.escaped(outcome.name))
                account.let_go()

    # -- names ------------------------------------------------------------------------------------------

    def _clean_named(self, directory: shmfs.ShmDirectory) -> None:
        account, names = self._account, self._names(directory, " could not be opened: ")
        there = {name for name in names if _exists(directory, name)}
        with self._reaper(directory) as cleaner:
            for outcome in cleaner.clean_patiently(names, account.judge):
                self._pin(outcome)
                if outcome.result is reaper.GONE:
                    if outcome.name in there:
                        continue
                    outcome = missing(outcome.name)
                account.outcomes.append(outcome)
                account.tell_named(outcome, text.escaped(outcome.name))
                account.let_go()

    def _names(self, directory: shmfs.ShmDirectory, but: str) -> "List[str]":
        """The NAMEs without duplicates; those that are no file names are reported and left out."""
        account, names = self._account, []
        for name in dict.fromkeys(self._options.names):
            if "/" in name or name in (".", ".."):
                reason = f"names are those of files in {directory.root}, without a slash"
                account.fail(f"{text.escaped(name)}{but}{text.escaped(reason)}")
                account.outcomes.append(reaper.Outcome(name, reaper.FAILED, reason, error=errno.EINVAL))
            else:
                names.append(name)
        if self._unlinked:
            unlinked = {file.name for file in self._unlinked}
            self._without_a_file = [n for n in names if n in unlinked and not _exists(directory, n)]
        return [name for name in names if name not in self._without_a_file]

    # -- memory under those who are attached ------------------------------------------------------------

    def _find_unlinked(self, directory: shmfs.ShmDirectory) -> None:
        """Find files that were unlinked before this run."""
        if self._options.reclaim:
            from gppshm import held

            account = self._account
            try:
                found = account.judge.inspect(lambda: held.plain(held.survey(directory)))
                self._unlinked = held.survey_of(found).unlinked
            except OSError as error:
                account.fail(
                    f"{COMMAND}: /proc cannot be read: {error.strerror}: unlinked files are not known"
                )

    def _reclaim(self, directory: shmfs.ShmDirectory) -> None:
        """Give back the free memory of heaps that were unlinked by this run or before."""
        account, names = self._account, self._options.names
        try:
            for outcome in account.outcomes:
                if outcome.removed and outcome.verdict and outcome.verdict.state is creator.ATTACHED:
                    from gppshm.cli import shmclean_returns

                    shmclean_returns.of_removed(account, outcome, self._pins)
        finally:
            for fd in self._pins.values():
                os.close(fd)
            self._pins = {}
        for file in self._unlinked:
            if not names or file.name in names:
                from gppshm.cli import shmclean_returns

                shmclean_returns.of_unlinked(account, directory, file)
        found = {outcome.name for outcome in account.unnamed}
        for outcome in [missing(name) for name in self._without_a_file if name not in found]:
            account.outcomes.append(outcome)
            account.fail(f"{text.escaped(outcome.name)} could not be opened: {outcome.reason}")

    # -- FIFOs ------------------------------------------------------------------------------------------

    def _clean_fifos(self) -> None:
        from gppshm import fifos

        account, options = self._account, self._options
        root = options.fifo_root or fifos.DEFAULT_ROOT
        try:
            for outcome in fifos.reap(root, "/proc", options.dry_run, account.judge.inspect, account.ctrl_c):
                if outcome.result is not reaper.GONE:
                    account.fifos.append(outcome)
                    account.tell_unasked(outcome, text.escaped(os.path.join(root, outcome.name)))
                account.let_go()
        except OSError as error:
            self._cannot_read(root, error)


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


def _unreadable_other(outcome: reaper.Outcome) -> bool:
    """Whether it cannot be read, and has no name of a heap."""
    return unreadable(outcome) and outcome.sighting is not None and not outcome.sighting.name_pid
