"""Strings that leave this process: over CORBA, and in log lines."""


def plain(text: object, limit: int = 1000) -> str:
    """`text` as printable ASCII of at most `limit` characters.

    omniORB refuses a NUL (BAD_PARAM) and, if the peer's code set lacks a character, everything that is not
    ASCII (DATA_CONVERSION): the whole message would be lost.  File names, command lines and kernel messages
    may contain any byte.  Such characters, and control characters, become \\x.. or \\u....
    """
    shown = str(text).encode("ascii", "backslashreplace").decode("ascii")
    if not shown.isprintable():
        shown = "".join(c if c.isprintable() else "\\x%02x" % ord(c) for c in shown)
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."


def megabytes(size: float) -> str:
    """Bytes as MB of 1048576 bytes, as REDHAWK's GPP counts them."""
    return "%.1f MB" % (size / 1048576)
