"""The cost of a flood of events for redhawk-shmwatch, and kill to unlink meanwhile.

    bench/flood.py [EVENTS A SECOND [DEATHS]]

For each kind of flood: the time from kill() to the unlink, as in bench/death.py, without and with 10,000
events a second of files that are no heaps, and the watcher's share of a core. Exit status 1 if the flood of
files that are no heaps delays an unlink by more than 20 ms in the 99th percentile (the maximum is printed,
too).
"""

import contextlib
import sys
import time

from figures import Targets, milliseconds, percentile
from nursery import SHMWATCH, Nursery, beside, family, processor_seconds

DELAY_MS = 20.0
FLOODS = (
    ("no flood", ""),
    ("files that are no heaps", "open(root + '/x%d' % (i % 1000))"),
    ("no heaps, deleted at once", "name = root + '/heap-%d' % (9000000 + i); open(name); os.unlink(name)"),
    ("no heaps, named so", "open(root + '/heap-%d' % (9000000 + i % 1000), b'x' * 16)"),
    ("half-made heaps of the dead", "open(root + '/heap-%d' % (4000000 + i % 1000))"),
)
FLOODER = """
import os, sys, time
root, per_second = sys.argv[1], int(sys.argv[2])
def open(path, content=b""):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    if content:
        os.write(fd, content)
    os.close(fd)
i, started = 0, time.monotonic()
while True:
    due = int((time.monotonic() - started) * per_second)
    while i < due:
        i += 1
        {}
    time.sleep(0.001)
"""


def flood(act, root, events):
    """A process that repeats `act` to cause `events` events a second."""
    if not act:
        return contextlib.nullcontext()
    # Creating and closing a file causes two events; most kinds only close.
    rate = events // 2 if "unlink" in act else events
    return beside([sys.executable, "-c", FLOODER.format(act), root, str(rate)])


def main(arguments):
    events = int(arguments[0]) if arguments else 10000
    deaths = int(arguments[1]) if arguments[1:] else 60
    targets, p99 = Targets(), {}
    print("death to unlink beside %d events a second, %d deaths" % (events, deaths))
    for name, act in FLOODS:
        delays = []
        with Nursery(SHMWATCH) as nursery, flood(act, nursery.root, events):
            time.sleep(0.3)
            pids = family(nursery.cleaner.pid)
            used, started = processor_seconds(pids), time.monotonic()
            for _ in range(deaths):
                creators = nursery.create()
                time.sleep(0.04)
                delays += nursery.deaths(creators)
            used = (processor_seconds(pids) - used) / (time.monotonic() - started)
        p99[name] = 1000 * percentile(delays)
        print("  %-28s %s; %.0f %% of a core" % (name, milliseconds(delays), 100 * used), flush=True)
    later = p99[FLOODS[1][0]] - p99[FLOODS[0][0]]
    targets.below("files that are no heaps: p99 is later by", later, DELAY_MS, " ms")
    return targets.end()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
