"""10,000 crashes under redhawk-shmwatch: no live heap lost, no orphan left, descriptors and memory flat.

    bench/soak.py [CRASHES]

Batches of cheap creators are SIGKILLed, some with a peer attached that dies a little later, beside 50 live
heaps and a process that opens all of them for writing again and again, as REDHAWK's shminfo does.
Exit status 1 if a live heap is lost, an orphan is left, descriptors leak or memory grows by more than 1 MB.
"""

import contextlib
import os
import random
import signal
import sys
import time

from nursery import SHMWATCH, Nursery, beside, status

LIVE, BATCH, GROWTH_KB = 50, 50, 1024
OPENER = """
import os, sys, time
while True:
    for name in os.listdir(sys.argv[1]):
        try:
            os.close(os.open(sys.argv[1] + "/" + name, os.O_RDWR))
        except OSError:
            pass
    time.sleep(0.02)
"""


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def main(arguments):
    crashes = int(arguments[0]) if arguments else 10000
    started, done, lost, slowest = time.monotonic(), 0, set(), 0.0
    with contextlib.ExitStack() as ending:
        nursery = ending.enter_context(Nursery(SHMWATCH, "--json", "--rescan=5", size=4096))
        ending.enter_context(beside([sys.executable, "-c", OPENER, nursery.root]))
        living = {"heap-%d" % pid for pid in nursery.create(LIVE)}
        pid, first = nursery.cleaner.pid, None
        while done < crashes:
            pids = nursery.create(min(BATCH, crashes - done))
            peers = nursery.attach(random.sample(pids, len(pids) // 10))
            if random.random() < 0.5:
                time.sleep(random.random() * 0.06)  # seen alive, or not
            slowest = max(slowest, nursery.deaths(pids)[-1])
            nursery.end(peers)
            done += len(pids)
            lost |= living - set(os.listdir(nursery.root))
            if first is None and done >= min(1000, crashes // 2):
                time.sleep(1)
                first = descriptors(pid), status(pid, "VmRSS")
        time.sleep(2)
        last = descriptors(pid), status(pid, "VmRSS")
        left = set(os.listdir(nursery.root)) - living
        os.kill(pid, signal.SIGTERM)
        time.sleep(1)
        end = nursery.told()[-1]
    took = time.monotonic() - started
    print("%d crashes in %.0f s, slowest batch of %d: %.0f ms" % (done, took, BATCH, 1000 * slowest))
    told = len(lost), len(left), end["removed"], end["own_faults"] + end["failures"]
    print("  live heaps lost %d, orphans left %d, removed %d, faults %d" % told)
    print("  descriptors %d, then %d; memory %d kB, then %d kB" % (first[0], last[0], first[1], last[1]))
    bad = lost or left or end["removed"] != done or end["own_faults"] or end["failures"]
    bad = bad or last[0] > first[0] or last[1] > first[1] + GROWTH_KB
    print("FAILED" if bad else "all is well")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
