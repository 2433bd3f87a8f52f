"""The cost of an idle redhawk-shmwatch, with 200 heaps, each with two peers attached.

    bench/idle.py [SECONDS]

With the default rescan of 30 s: wake-ups, processor time and memory of the watcher and of all processes that
it started. Of those that have ended, processor time is included, but wake-ups cannot be counted.
Exit status 1 if a target is missed.
"""

import os
import signal
import sys
import time

from figures import Targets
from nursery import SHMWATCH, Nursery, family, memory, processor_seconds, switches

HEAPS, PEERS = 200, 2
WAKEUPS, PERCENT, MEGABYTES = 0.2, 0.5, 35.0
SETTLED = 5.0


def main(arguments):
    seconds = float(arguments[0]) if arguments else 60.0
    with Nursery(SHMWATCH, "--rescan=30", "--json") as nursery:
        nursery.attach(nursery.create(HEAPS), PEERS)
        time.sleep(SETTLED)  # the watcher inspects each of them
        pids = family(nursery.cleaner.pid)
        woken, used = switches(pids), processor_seconds(pids)
        time.sleep(seconds)
        after = switches(pids)
        woken = sum(after[pid] - woken[pid] for pid in after)
        used = processor_seconds(pids) - used
        pss, rss = memory(pids)
        os.kill(nursery.cleaner.pid, signal.SIGUSR1)
        time.sleep(0.5)
        state = nursery.states()[-1]
    targets = Targets()
    print(
        "idle for %g s, %d heaps with %d peers each; the watcher is %d processes"
        % (seconds, HEAPS, PEERS, len(after))
    )
    targets.holds("all creators are watched", state["living"] == state["pidfds"] == HEAPS)
    targets.below("wake-ups a second:", woken / seconds, WAKEUPS)
    targets.below("processor: %.2f s," % used, 100 * used / seconds, PERCENT, " % of a core")
    # Forks share most of their pages, which RSS counts once for each of them.
    targets.below("memory: RSS %.1f MB, PSS" % rss, pss, MEGABYTES, " MB")
    return targets.end()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
