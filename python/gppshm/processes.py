"""Who a process is, for people to read: psutil describes it.  No verdict rests on anything here.

psutil is imported at the first question; without it, or where a process is gone or hidden, the answer
is UNKNOWN.  The command line is read here, for it may have gigabytes.
"""

from gppshm import commands, procfs, sitepackages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Iterable, Sequence, Tuple

UNKNOWN = "unknown"

MOST = 16384
"""So many bytes of a command line are read at most."""


class Description:
    """`user`, the `words` of the command line, and `command`: these in short, or the name of who has none.

    uid  of the user; -1 if it is not known
    """

    __slots__ = ("command", "uid", "user", "words")

    def __init__(
        self,
        user: str = UNKNOWN,
        command: str = UNKNOWN,
        words: "Sequence[str]" = (),
        uid: int = -1,
    ) -> None:
        self.user = user
        self.command = command
        self.words = tuple(words)
        self.uid = uid


def describe(pid: int, names: bool = True) -> Description:
    """The user and the command of a process, as far as they can be known now.

    Without `names` the user's is not looked up: a directory service may take its time.
    """
    psutil = _psutil()
    if psutil is None or not procfs.may_read(pid):
        return Description()
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            words = _words(pid)
            uid = process.uids().real
            user = user_name(uid) if names else UNKNOWN
            return Description(user, commands.short(words) or process.name(), words, uid)
    except (psutil.Error, ValueError, OSError):
        return Description()


def described(pids: "Iterable[int]") -> "Dict[int, Tuple[str, str]]":
    """User and command of each process, by its pid."""
    found = ((pid, describe(pid)) for pid in pids)
    return {pid: (who.user, who.command) for pid, who in found}


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


def _words(pid: int) -> "Tuple[str, ...]":
    """The words of a command line, in at most MOST bytes; none of a zombie's."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb", buffering=0) as stream:
            text = stream.read(MOST) or b""
    except OSError:
        return ()
    text = text.rstrip(b"\0")
    # A process that writes its own title has blanks between the words (setproctitle), and no NUL.
    words = text.split(b"\0") if b"\0" in text else text.split(b" ")
    return tuple([word.decode("utf-8", "surrogateescape") for word in words]) if text else ()


def user_name(uid: int) -> str:
    """The name of a user; the number, where nobody knows it."""
    import pwd

    if not procfs.may_read(procfs.user_key(uid)):
        return str(uid)
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OSError):
        return str(uid)


def group_name(gid: int) -> str:
    """The name of a group, likewise."""
    import grp

    if not procfs.may_read(procfs.group_key(gid)):
        return str(gid)
    try:
        return grp.getgrgid(gid).gr_name
    except (KeyError, OSError):
        return str(gid)


def _psutil() -> "Any":
    sitepackages.enable()
    try:
        import psutil
    except ImportError:
        return None
    return psutil
