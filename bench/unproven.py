"""A crash with peers attached without an established identity: kill to unlink.

    bench/unproven.py [PROCESSES [DEATHS]]

Two kinds of creators: those that grow their heap just before the crash, which makes their identity void, so
that all processes must be inspected; and those that die a few milliseconds after their start, before anything
is known about them. They are killed among 500 other processes, some with 20,000 mappings, and among 5,000 (or
PROCESSES), and compared with the same crash with an established identity. Exit status 1 if a target is
missed.
"""

import os
import statistics
import sys
import time

from attached import PEERS, SETTLED, known
from figures import Targets, milliseconds
from nursery import SHMWATCH, Crowd, Nursery

TARGET_MS = {500: 6.0, 5000: 40.0}
"""Number of other processes -> target in milliseconds."""


def grow(path):
    """Cause the inotify event of a growth, without closing a descriptor, which would be a trigger."""
    os.truncate(path, os.stat(path).st_size + 65536)


def measure(targets, processes, deaths):
    found = {"proven": [], "grown": [], "newborn": []}
    dead = {kind: [] for kind in found}
    with Crowd(processes), Nursery(SHMWATCH, "--json") as nursery:

        def die(kind, pid):
            found[kind] += nursery.deaths([pid])
            dead[kind].append(pid)
            time.sleep(SETTLED + known(processes))

        for _ in range(deaths):
            proven, grown = nursery.create(2)
            peers = nursery.attach([proven, grown], PEERS)
            time.sleep(known(processes))
            die("proven", proven)
            grow(nursery.path(grown))
            die("grown", grown)
            (newborn,) = nursery.create()
            peers += nursery.attach([newborn], PEERS)
            die("newborn", newborn)
            nursery.end(peers)
        print("kill to unlink among %d processes, %d peers attached, %d deaths" % (processes, PEERS, deaths))
        for kind, delays in found.items():
            print("  %-8s %s; evidence %s" % (kind, milliseconds(delays), nursery.evidence(dead[kind])))
    target = next(ms for most, ms in sorted(TARGET_MS.items()) if processes <= most)
    for kind in ("grown", "newborn"):
        targets.below(f"{kind}: median", 1000 * statistics.median(found[kind]), target, " ms")


def main(arguments):
    deaths = int(arguments[1]) if arguments[1:] else 40
    targets = Targets()
    for processes in [int(arguments[0])] if arguments else sorted(TARGET_MS):
        measure(targets, processes, deaths)
    return targets.end()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
