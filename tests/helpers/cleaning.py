"""What the tests of redhawk-shmclean share: the command, started as its launcher starts it, and orphans."""

import os
import subprocess
import sys

import heapwriter
from gppshm.cli import shmclean

PACKAGES = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(shmclean.__file__))))
CODE = f"import sys; sys.path.append({PACKAGES!r}); from gppshm.cli.shmclean import main; sys.exit(main())"
CLEAN = (sys.executable, "-IS", "-c", CODE)
"""The command, but for --root: without that it would clean the machine's own /dev/shm."""


class Done:
    """How a run ended: `status`, `out`, `err`."""

    def __init__(self, status, out, err):
        assert "Traceback" not in err, err
        self.status = status
        self.out = out
        self.err = err

    @property
    def everything(self):
        return self.status, self.out, self.err


def clean(root, *arguments, prefix=(), stdout=subprocess.PIPE):
    """Run the command on `root` to its end."""
    done = subprocess.run(
        [*prefix, *CLEAN, "--root", root, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        timeout=60,
        env=dict(os.environ, LC_ALL="C.UTF-8"),
    )
    return Done(done.returncode, (done.stdout or b"").decode("utf-8"), done.stderr.decode("utf-8"))


def orphan(spawn, root):
    """The name of a heap whose creator was killed."""
    owner = spawn.owner(root, "--size=4096")
    owner.kill()
    return owner.name


def put_orphan(spawn, root, name):
    """A heap of that name that nobody has open, by a creator that has ended; the name."""
    heapwriter.create(os.path.join(root, name), spawn.dead_pid(), [(4096, ())])
    return name
