"""What a flood of events costs redhawk-shmwatch, and how long a dead process' heap stays meanwhile.

    bench/flood.py [EVENTS A SECOND [DEATHS]]

For each kind of flood: the time from kill() to the unlink, as in bench/death.py, without and with 10,000
events a second of files that are no heaps, and the watcher's share of a processor. Exit status 1 if the
flood of files that are no heaps delays an unlink by more than 20 ms: in the 99th percentile (the largest
is printed too), against that without a flood.
"""

import statistics
import subprocess
import sys
import time

from idle import processor_seconds
from nursery import SHMWATCH, Nursery

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


def main(arguments):
    events = int(arguments[0]) if arguments else 10000
    deaths = int(arguments[1]) if arguments[1:] else 60
    quiet = missed = None
    print("death to unlink beside %d events a second, %d deaths" % (events, deaths))
    for name, act in FLOODS:
        with Nursery(SHMWATCH) as nursery:
            flooder = None
            if act:
                # A file that is created and closed makes two events; here most are only closed.
                rate = events // 2 if "unlink" in act else events
                code = FLOODER.format(act)
                flooder = subprocess.Popen([sys.executable, "-c", code, nursery.root, str(rate)])
            try:
                time.sleep(0.3)
                used, started, delays = processor_seconds(nursery.cleaner.pid), time.monotonic(), []
                for _ in range(deaths):
                    pids = nursery.create()
                    time.sleep(0.04)
                    delays += nursery.deaths(pids)
                used = (processor_seconds(nursery.cleaner.pid) - used) / (time.monotonic() - started)
            finally:
                if flooder is not None:
                    flooder.kill()
                    flooder.wait()
        delays = sorted(1000 * delay for delay in delays)
        p99 = delays[-1 - len(delays) // 100]
        print(
            "  %-36s median %6.2f, p99 %6.2f, max %6.2f ms; %3.0f %% of a processor"
            % (name, statistics.median(delays), p99, delays[-1], 100 * used)
        )
        if not act:
            quiet = p99
        elif missed is None:
            missed = p99 - quiet > DELAY_MS
    print("target (%.0f ms of delay, files that are no heaps) %s" % (DELAY_MS, "MISSED" if missed else "met"))
    return int(missed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
