"""Describes processes for people, by psutil.  No verdict depends on it.

psutil is imported at the first use.  Without it, or if a process is gone or hidden, the answer is UNKNOWN.
The command line is read here instead, as it may have gigabytes.
"""

from gppshm import commands, procfs, sitepackages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Iterable, Sequence, Tuple

UNKNOWN = "unknown"

MOST = 16384
"""Bytes of a command line that are read, at most."""


class Description:
    """`user`, the `arguments` of the command line, and `command`: its short form, or the process name if
    it has none.

    uid  of the user; -1 if unknown
    """

    __slots__ = ("arguments", "command", "uid", "user")

    def __init__(
        self,
        user: str = UNKNOWN,
        command: str = UNKNOWN,
        words: "Sequence[str]" = (),
        uid: int = -1,
    ) -> None:
        self.user = user
        self.command = command
        self.arguments = tuple(words)
        self.uid = uid


def describe(pid: int, names: bool = True) -> Description:
    """User and command of a process, as far as they are known now.

    Without `names` the user's name is not looked up, which can take long in a directory service.
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
    """User and command of each process, by pid."""
    found = ((pid, describe(pid)) for pid in pids)
    return {pid: (who.user, who.command) for pid, who in found}


def available() -> bool:
    """Whether psutil is installed."""
    return _psutil() is not None


def _words(pid: int) -> "Tuple[str, ...]":
    """The words of the command line, of at most MOST bytes; none for a zombie."""
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
    """The name of a user; the number if it has none."""
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
