"""Who a process is, for people to read: psutil describes it.  No verdict rests on anything here.

psutil is imported at the first question; without it, or where a process is gone or hidden, the answer
is UNKNOWN.
"""

from gppshm import sitepackages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Sequence, Tuple

UNKNOWN = "unknown"


class Description:
    """`user`, the `words` of the command line, and `command`: these in one, or the name of who has none."""

    __slots__ = ("command", "user", "words")

    def __init__(self, user: str = UNKNOWN, command: str = UNKNOWN, words: "Sequence[str]" = ()) -> None:
        self.user = user
        self.command = command
        self.words = tuple(words)


def describe(pid: int) -> Description:
    """The user and the command of a process, as far as they can be known now."""
    psutil = _psutil()
    if psutil is None:
        return Description()
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            words = _words(psutil, process)
            return Description(_user(psutil, process), " ".join(words) or process.name(), words)
    except (psutil.Error, ValueError, OSError):
        return Description()


def ancestors(pid: int) -> "Tuple[int, ...]":
    """The pids of a process' parent, its parent, and so on; empty if they cannot be known."""
    psutil = _psutil()
    if psutil is None:
        return ()
    try:
        return tuple(parent.pid for parent in psutil.Process(pid).parents())
    except (psutil.Error, ValueError, OSError):
        return ()


def available() -> bool:
    """Whether processes can be described at all: psutil is installed."""
    return _psutil() is not None


def _words(psutil: "Any", process: "Any") -> "Sequence[str]":
    try:
        return tuple(process.cmdline())
    except psutil.ZombieProcess:  # it may live on, though its main thread has ended
        return ()


def _user(psutil: "Any", process: "Any") -> str:
    try:
        return str(process.username())
    except (psutil.Error, KeyError, OSError):
        return UNKNOWN


def _psutil() -> "Any":
    sitepackages.enable()
    try:
        import psutil
    except ImportError:
        return None
    return psutil
