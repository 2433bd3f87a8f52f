"""Inspects a folder, from another process or namespace, and prints the verdicts as JSON.

views.py ROOT [NAME ...]
"""

import json
import os
import sys

if __name__ == "__main__":
    sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../python"))

from gppshm import creator, shmfs, snapshot


def verdicts(root, names=None):
    """name -> what is known of it; without a verdict, state and reason are None."""
    with shmfs.ShmDirectory(root) as directory:
        taken = snapshot.take(directory, names)
    found = {}
    for entry in taken.entries:
        sighting, verdict = entry.sighting, entry.verdict
        found[sighting.name] = {
            "kind": str(sighting.kind),
            "lease": str(sighting.answer),
            "error": sighting.error,
            "state": verdict and str(verdict.state),
            "reason": verdict and verdict.reason,
            "evidence": verdict and str(verdict.evidence),
            "attached": verdict and list(verdict.attached),
            "creator": verdict and verdict.creator,
            "removable": bool(verdict) and verdict.state in creator.ORPHANS,
        }
    return found


def verdict(root, name):
    return verdicts(root, [getattr(name, "name", name)])[getattr(name, "name", name)]


def become(uid):
    """Change this process to an ordinary user for good; its /proc stays readable, as after an exec."""
    import ctypes
    import tempfile  # noqa: F401  gppshm.lease imports it on CPython 3.6, where this user may not read it

    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    PR_SET_DUMPABLE = 4
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)


if __name__ == "__main__":
    json.dump(verdicts(sys.argv[1], sys.argv[2:] or None), sys.stdout)
