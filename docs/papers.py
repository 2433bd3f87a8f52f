"""Makes the man pages and the bash completion.

    docs/papers.py OUT

writes OUT/man/man1/COMMAND.1 and OUT/bash-completion/completions/COMMAND from the commands' parsers,
OUT/man/man5/GppShmPlugin.ini.5 from the settings, and OUT/man/man7/GppShmPlugin.7 from the device's PRF.
Needs the standard library only.  The same checkout gives the same bytes on every machine.
"""

import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [os.path.join(ROOT, "python"), os.path.dirname(os.path.abspath(__file__))]

import completion  # noqa: E402
import manual  # noqa: E402
from gppshm.cli import shmclean, shminfo, shmtop, shmwatch  # noqa: E402

COMMANDS = (shminfo, shmclean, shmwatch, shmtop)


def papers():
    """(path below OUT, text) of each."""
    for command in COMMANDS:
        parser = command.build_parser()
        yield f"man/man1/{parser.prog}.1", manual.command(parser)
        yield f"bash-completion/completions/{parser.prog}", completion.script(parser)
    yield "man/man5/GppShmPlugin.ini.5", manual.settings()
    yield "man/man7/GppShmPlugin.7", manual.properties(os.path.join(ROOT, "GppShmPlugin.prf.xml"))


def main(arguments):
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: docs/papers.py OUT", file=sys.stderr)
        return 2
    try:
        for path, text in papers():
            path = os.path.join(arguments[0], path)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w", encoding="utf-8") as stream:
                stream.write(text)
    except OSError as error:
        print(f"docs/papers.py: {error.filename} cannot be written: {error.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
