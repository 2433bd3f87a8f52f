"""Which Python runs the plugin and the device: one that has omniORBpy, and that their users can run."""

import json
import os
import shutil
import stat
import subprocess
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Optional

PROBE = """\
import json, os, sys
if not sys.flags.isolated:
    del sys.path[0]
found = {"version": list(sys.version_info[:3]), "prefixes": [sys.prefix, sys.base_prefix]}
for name in ("omniORB", "psutil"):
    try:
        __import__(name)
        found[name] = os.path.dirname(os.path.dirname(os.path.abspath(sys.modules[name].__file__)))
    except Exception:
        pass
print(json.dumps(found))
"""


OMNIORB = """\
which plugin and device need: install omniORBpy for it, or give --python FILE
  REDHAWK 3.0 brings it, for the system's Python 3, as python3-omniORB
  REDHAWK 2.x brings it for Python 2 only
  PyPI has it as jeteve-omniorb, for CPython 3.8 to 3.14 on x86_64; there `./build.sh` puts it into .venv"""


class Failure(Exception):
    """What is wrong, and what to do."""


def choose(wanted: "Optional[str]") -> "tuple[str, List[str]]":
    """The interpreter's absolute path, and folders to add to its path."""
    if wanted:
        found = shutil.which(wanted)
        if found is None:
            raise Failure(f"{wanted} is no program: give --python FILE")
        return _checked(os.path.abspath(found), True)
    for candidate in (shutil.which("python3"), "/usr/bin/python3"):
        if candidate and "omniORB" in _probe(candidate, isolated=False):
            return _checked(os.path.abspath(candidate), True)
    return _checked(sys.executable, False)


def _checked(python: str, theirs: bool) -> "tuple[str, List[str]]":
    alone = _probe(python, isolated=True)
    wide = _probe(python, isolated=False) if theirs else alone
    if not alone and os.path.exists(python) and not os.access(python, os.X_OK):
        raise Failure(f"{python} is not executable for you: give --python FILE")
    if not alone:
        raise Failure(f"{python} does not run: give --python FILE")
    if alone["version"] < [3, 6]:
        raise Failure(f"{python} is older than Python 3.6: give --python FILE")
    if "omniORB" not in wide:
        raise Failure(f"{python} cannot import omniORB, {OMNIORB}")
    paths = []
    for name in ("omniORB", "psutil"):
        if name in wide and name not in alone and wide[name] not in paths:
            paths.append(wide[name])
    return python, paths


def closed_to_others(python: str, paths: "List[str]", sdrroot: str) -> str:
    """Users that cannot run the interpreter, and why, as the start of a sentence; "" if all can.

    Considered are all users, or those of SDRROOT's group, that can reach SDRROOT.
    """
    needed = [python, *_probe(python, isolated=True).get("prefixes", ()), *paths]
    for gid, who in ((None, "other users"), (os.stat(sdrroot).st_gid, "users of its group")):
        if not _obstacle(sdrroot, gid):
            for path in needed:
                obstacle = _obstacle(path, gid)
                if obstacle:
                    return f"{obstacle} is closed to {who}"
    return ""


def _obstacle(path: str, gid: "Optional[int]") -> str:
    """The first folder on the way to `path`, links followed, or itself, that is closed to them; ""."""
    for place in {path: 1, os.path.realpath(path): 1}:
        steps = [place]
        while steps[-1] != os.path.dirname(steps[-1]):
            steps.append(os.path.dirname(steps[-1]))
        for step in reversed(steps):
            status = os.stat(step)
            mode = status.st_mode >> 3 if status.st_gid == gid else status.st_mode
            if not mode & 1 or (step == place and stat.S_ISDIR(status.st_mode) and not mode & 4):
                return f"{step} (mode {status.st_mode & 0o777:o})"
    return ""


def _probe(python: str, isolated: bool) -> "dict":
    """What an interpreter can import, and from where; isolated from the user's environment."""
    command = [python] + (["-I"] if isolated else []) + ["-c", PROBE]
    null = subprocess.DEVNULL
    try:
        done = subprocess.run(command, stdin=null, stdout=subprocess.PIPE, stderr=null)
        return dict(json.loads(done.stdout.decode()))
    except (OSError, ValueError):
        return {}
