"""A crash with peers attached about which nothing could be proven in advance: kill to unlink.

    bench/unproven.py [PROCESSES [DEATHS]]

Among 500 others, some with 20,000 mappings, and among 5,000 (or among PROCESSES): creators that grow their
heap at the very end, which makes void what was established of them, so that the host is looked at; and
creators that die a few milliseconds after the birth, before anything was found out about them. Beside: the
same crash proven in advance. Exit status 1 if a target is missed.
"""

import os
import statistics
import sys
import time

from attached import PEERS, SETTLED, known
from figures import Targets, milliseconds
from nursery import SHMWATCH, Crowd, Nursery

TARGET_MS = {500: 6.0, 5000: 40.0}
"""By how many others there are, at most."""


def grow(path):
    """What inotify tells of a growth, and no more: no descriptor is closed, which would be a trigger."""
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
