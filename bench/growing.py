"""The cost of redhawk-shmwatch while 1,000 heaps grow, each once a second.

    bench/growing.py [HEAPS [SECONDS]]

Each creator adds a superblock to its own heap. Measured is the processor time of the watcher and of all
processes that it started, including those that have ended. Exit status 1 if a target is missed.
"""

import os
import random
import signal
import sys
import time

from figures import Targets, milliseconds
from nursery import SHMWATCH, Nursery, family, memory, processor_seconds

HEAPS, PERCENT = 1000, 10.0
SETTLED, DEATHS = 5.0, 40


def grow_for_ever(heap):
    """Grow the heap once a second, from a random moment on, with little other work."""

    def grow(number, frame):
        heap.grow(4096)

    signal.signal(signal.SIGALRM, grow)
    signal.setitimer(signal.ITIMER_REAL, 1 + random.random(), 1.0)
    heap.close_fd = lambda: None  # this descriptor grows it


def main(arguments):
    heaps = int(arguments[0]) if arguments else HEAPS
    seconds = float(arguments[1]) if arguments[1:] else 20.0
    with Nursery(SHMWATCH, "--json", size=4096) as nursery:
        some = nursery.create(heaps, grow_for_ever)[0]
        time.sleep(SETTLED)  # the watcher inspects each of them
        size, pids = os.stat(nursery.path(some)).st_size, family(nursery.cleaner.pid)
        used = processor_seconds(pids)
        time.sleep(seconds)
        used = processor_seconds(pids) - used
        grown = (os.stat(nursery.path(some)).st_size - size) / 8192
        pss, rss = memory(pids)
        delays = []
        for _ in range(DEATHS):
            pids = nursery.create()
            time.sleep(0.05)
            delays += nursery.deaths(pids)
    targets = Targets()
    print("%d heaps, each of which grew %.2f times a second, for %g s" % (heaps, grown / seconds, seconds))
    print("  memory: PSS %.1f MB, RSS %.1f MB" % (pss, rss))
    print("  kill to unlink beside: %s" % milliseconds(delays))
    targets.below("processor:", 100 * used / seconds, PERCENT, " % of a core")
    return targets.end()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
