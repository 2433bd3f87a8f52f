"""What redhawk-shmwatch costs while nothing happens: wake-ups, processor time and memory, with 200 heaps.

    bench/idle.py [SECONDS]

With the default rescan of 30 s. Exit status 1 if a target is missed: fewer than 0.2 wake-ups a second,
less than 25 MB.
"""

import os
import signal
import sys
import time

from nursery import SHMWATCH, Nursery, resident

HEAPS = 200
WAKEUPS, MEGABYTES = 0.2, 25.0


def status(pid, key):
    with open(f"/proc/{pid}/status") as stream:
        return next(int(line.split()[1]) for line in stream if line.startswith(key + ":"))


def processor_seconds(pid):
    with open(f"/proc/{pid}/stat") as stream:
        fields = stream.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main(arguments):
    seconds = float(arguments[0]) if arguments else 30.0
    with Nursery(SHMWATCH, "--rescan=30", "--json") as nursery:
        nursery.create(HEAPS)
        time.sleep(1.0)  # it looks at each of them
        pid = nursery.cleaner.pid
        switches, used = status(pid, "voluntary_ctxt_switches"), processor_seconds(pid)
        time.sleep(seconds)
        switches = status(pid, "voluntary_ctxt_switches") - switches
        used = processor_seconds(pid) - used
        megabytes = resident(pid)
        os.kill(pid, signal.SIGUSR1)
        time.sleep(0.5)
        nursery.said.seek(0)
        watched = f'"pidfds": {HEAPS},'.encode() in nursery.said.read().splitlines()[-1]
    print("idle for %g s with %d heaps, all watched: %s" % (seconds, HEAPS, watched))
    print("  %.3f wake-ups a second (target %.1f)" % (switches / seconds, WAKEUPS))
    print("  %.2f s of processor time, %.3f %%" % (used, 100 * used / seconds))
    print("  %.1f MB resident (target %.0f)" % (megabytes, MEGABYTES))
    missed = not watched or switches / seconds >= WAKEUPS or megabytes >= MEGABYTES
    print("targets %s" % ("MISSED" if missed else "met"))
    return int(missed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
