"""Write the commands: small files in a bin folder that start `gppshm.cli.<name>` fast and isolated.

    python3 -m gppshm.launcher --bin DIR [--python FILE] [--package-dir DIR] [NAME ...]

A launcher runs `python -I -S`: nothing from PYTHONPATH, the current directory, the user's own
site-packages or a .pth file can be imported, which matters to root, and the site module, which costs
milliseconds, is not loaded (`gppshm.sitepackages.enable` loads it where psutil is asked for). Only the
folder that holds this package is added to sys.path, behind the standard library.
"""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Optional

COMMANDS = {
    "redhawk-shminfo": "gppshm.cli.shminfo",
    "redhawk-shmclean": "gppshm.cli.shmclean",
    "redhawk-shmwatch": "gppshm.cli.shmwatch",
    "redhawk-shmtop": "gppshm.cli.shmtop",
}

# Linux before 5.1 reads 127 bytes of a #! line, later 255 (BINPRM_BUF_SIZE); it splits at the first blank.
SHEBANG_LIMIT = 127
PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+~@%=:,")

BODY = """\
# {name}, written by gppshm.launcher: an update overwrites it.
import sys

sys.path.append({package_dir})
try:
    from {module} import main
except KeyboardInterrupt:
    sys.exit(130)
except Exception as error:
    sys.exit(
        "{name}: cannot start: %s: %s; {module} is expected in %s: build or install again"
        % (type(error).__name__, error, ascii(sys.path[-1]))
    )
sys.exit(main())
"""


def _sh_quoted(path: bytes) -> bytes:
    """`path` as one word for sh that also means nothing inside a '''string''' of Python's."""
    # Python sees \\\\ and no three quotes in a row; sh sees one backslash, or one quote.
    return b"'" + path.replace(b"'", b"'\"'\"'").replace(b"\\", b"'\"\\\\\"'") + b"'"


def launcher(name: str, module: str, python: str, package_dir: str) -> bytes:
    """The text of the command `name`: runs `module`.main() with the interpreter `python`.

    Both paths must be absolute. They may hold any bytes a path can: where a #! line cannot carry
    the interpreter's path, sh does.
    """
    if not os.path.isabs(package_dir):
        raise ValueError("not an absolute path: %r" % package_dir)
    return script(python, BODY.format(name=name, module=module, package_dir=ascii(package_dir)))


def script(python: str, text: str) -> bytes:
    """An executable file that runs the ASCII `text` with the interpreter `python`, isolated, without site."""
    if not os.path.isabs(python):
        raise ValueError("not an absolute path: %r" % python)
    interpreter = os.fsencode(python)
    body = text.encode("ascii")
    shebang = b"#!" + interpreter + b" -IS\n"
    if len(shebang) <= SHEBANG_LIMIT and PLAIN.issuperset(interpreter):
        return shebang + body
    # Python decodes the whole file, strings and comments too; latin-1 can decode any path.
    return (
        b"#!/bin/sh\n# coding: latin-1\n'''exec' "
        + _sh_quoted(interpreter)
        + b' -IS "$0" "$@"\n\'\'\'\n'
        + body
    )


def install(path: str, text: bytes) -> None:
    """Put an executable file at `path` in one step: a command in use is never half-written."""
    temporary = "%s.%d.new" % (path, os.getpid())
    try:
        with open(temporary, "wb") as stream:
            stream.write(text)
            os.fchmod(stream.fileno(), 0o755)
        os.replace(temporary, path)
    except BaseException:
        try:
            os.unlink(temporary)
        except OSError:
            pass
        raise


def main(argv: "Optional[List[str]]" = None) -> int:
    import argparse

    parser = argparse.ArgumentParser(prog="python3 -m gppshm.launcher", description="Write the commands.")
    parser.add_argument("--bin", required=True, metavar="DIR", help="folder to write to; it must exist")
    parser.add_argument(
        "--python",
        default=sys.executable,
        metavar="FILE",
        help="interpreter the commands run (default: this)",
    )
    parser.add_argument(
        "--package-dir",
        default=os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
        metavar="DIR",
        help="folder that holds gppshm (default: of this very module)",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="which commands (default: all)")
    options = parser.parse_args(argv)
    for path in (options.python, options.package_dir):
        if not os.path.isabs(path):
            parser.error("not an absolute path: %s" % path)
    for name in options.names:
        if name not in COMMANDS:
            parser.error("unknown command %s: there are %s" % (ascii(name), ", ".join(COMMANDS)))
    for name in options.names or COMMANDS:
        path = os.path.join(options.bin, name)
        try:
            install(path, launcher(name, COMMANDS[name], options.python, options.package_dir))
        except OSError as error:
            print("gppshm.launcher: %s: %s" % (ascii(path), error.strerror), file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
