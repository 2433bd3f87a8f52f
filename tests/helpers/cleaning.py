"""Shared by the tests of redhawk-shmclean: the command, started like its launcher does, and orphans."""

import os
import subprocess
import sys

import heapwriter
from gppshm.cli import shmclean

PACKAGES = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(shmclean.__file__))))
CODE = f"import sys; sys.path.append({PACKAGES!r}); from gppshm.cli.shmclean import main; sys.exit(main())"
CLEAN = (sys.executable, "-IS", "-c", CODE)
"""The command without --root; so it would clean the machine's /dev/shm."""
UNBUFFERED = (sys.executable, "-u", *CLEAN[1:])
"""The same with streams that have no buffer, as where PYTHONUNBUFFERED is set."""


class Done:
    """The result of a run: `status`, `out`, `err`."""

    def __init__(self, status, out, err):
        assert "Traceback" not in err, err
        self.status = status
        self.out = out
        self.err = err

    @property
    def everything(self):
        return self.status, self.out, self.err


def clean(root, *arguments, prefix=(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, command=CLEAN):
    """Run the command on `root`; returns Done."""
    done = subprocess.run(
        [*prefix, *command, "--root", root, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        timeout=60,
        env=dict(os.environ, LC_ALL="C.UTF-8"),
    )
    return Done(done.returncode, (done.stdout or b"").decode("utf-8"), (done.stderr or b"").decode("utf-8"))


def orphan(spawn, root):
    """The name of a heap whose creator was killed."""
    owner = spawn.owner(root, "--size=4096")
    owner.kill()
    return owner.name


def put_orphan(spawn, root, name):
    """Write a heap of an ended creator under this name, which no process has open; returns the name."""
    heapwriter.create(os.path.join(root, name), spawn.dead_pid(), [(4096, ())])
    return name
