"""The cost of another user's files for redhawk-shmwatch, and kill to unlink beside them.

    bench/hostile.py [FILES [DEATHS [KIND]]]

For each kind of 20,000 files (or FILES; only kinds with KIND in their name): the seconds until the watcher
is ready, and its share of a core then; the time from kill() to the unlink of a creator without and with a
peer, in turns with the same in another folder without such files; then the watcher's share of a core, and
its memory beyond that of the other watcher. Held files are open for writing, so that no lease is granted on
them. What has no end goes on beside the deaths: files or heaps that come and go, one or 2,000 at a time,
and writes to own heaps. There, also the seconds until a new heap of another user is known, and the share of
a core meanwhile. Exit status 1 if a target is missed. Needs root.
"""

import contextlib
import functools
import os
import signal
import statistics
import sys
import time

from figures import Targets, milliseconds
from nursery import (
    FOLDERS,
    SHMWATCH,
    Nursery,
    beside,
    family,
    heapwriter,
    memory,
    processor_seconds,
    reap,
    spawn,
)
from nursery import kill as end

STRANGER = 4321
EACH = 900
"""Files held by one process."""
PID_MAX, DEAD = 4194304, 2000000
"""The largest pid of any Linux, and a pid above all that exist here."""
READY_S, LATER_MS, SHARE, MEMORY_MB = 2.0, 2.0, 5.0, 40.0
FIRST, FIRST_SHARE = 10.0, 10.0
"""The scan at the start is a part of it."""
SETTLED, WATCHED = 60.0, 10.0
"""Seconds that the watcher may be busy at first, and for which it is measured then."""
KNOWN_S = 2.0
ENDLESS = """
import os, sys
sys.path += sys.argv[2:]
import heapwriter
os.setgid(4321); os.setuid(4321)
root, i = sys.argv[1], 0
"""
CHURN = """
while True:
    i += 1
    name = "%s/heap-%d" % (root, 5000000 + i % 50000)
    os.close(os.open(name, os.O_WRONLY | os.O_CREAT))
    os.unlink(name)
"""
HEAPS = r"""
while True:
    i += 1
    pid, gone = (2000000 + number % 50000 for number in (i, i - AT_A_TIME))
    try:
        fd = os.open("%s/heap-%d" % (root, pid), os.O_RDWR | os.O_CREAT)
        os.ftruncate(fd, 8192)
        os.pwrite(fd, b"\xcc\x70\xeb\xac\1\0\0\0" + pid.to_bytes(4, "little"), 0)
        os.close(fd)
        os.unlink("%s/heap-%d" % (root, gone))
    except FileNotFoundError:
        pass
"""
WRITES = r"""
heap = heapwriter.LiveHeap.create(root)
fds = [os.open(path, os.O_RDWR | os.O_CREAT) for path in (heap.path, root + "/a", root + "/b")]
while True:
    for fd in fds:
        os.pwrite(fd, b"\0", 4097)
"""


def empty(first):
    return lambda root, i: os.close(os.open(f"{root}/heap-{first + i}", os.O_WRONLY | os.O_CREAT))


def heap(named, recorded):
    return lambda root, i: heapwriter.create(f"{root}/heap-{named + i}", recorded + i, [(4096, ())])


KINDS = (
    ("empty, above the largest pid", empty(PID_MAX + 1), False),
    ("empty, of no process", empty(DEAD), False),
    ("empty, of no process, held", empty(DEAD), True),
    ("header and name disagree, held", heap(DEAD, DEAD + 100000), True),
    ("heaps of the dead, held", heap(DEAD, DEAD), True),
    ("churn", CHURN, False),
    ("churn of heaps", HEAPS.replace("AT_A_TIME", "0"), False),
    ("churn of heaps, 2000 at a time", HEAPS.replace("AT_A_TIME", "2000"), False),
    ("writes without end", WRITES, False),
)


class Flood:
    """The files of one kind and their holders; a context manager."""

    def __init__(self, make, held, count):
        self._make, self._held, self._count = make, held, count
        self._holders = []

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        end(self._holders)

    def fill(self, root):
        if isinstance(self._make, str):
            return
        for i in range(self._count):
            self._make(root, i)
        names = os.listdir(root)
        for name in names:
            os.chown(f"{root}/{name}", STRANGER, STRANGER)
        if self._held:
            shares = [names[at : at + EACH] for at in range(0, len(names), EACH)]
            self._holders = spawn([functools.partial(_hold, root, share) for share in shares])


def _hold(root, names):
    return [os.open(f"{root}/{name}", os.O_RDWR) for name in names]


def death(nursery, pid):
    """Seconds from kill to unlink. It polls the name: the event would come after all those of the flood."""
    nursery.forget([pid])
    started = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    while os.path.exists(nursery.path(pid)):
        if time.monotonic() - started > 30:
            sys.exit("a heap of the dead is still there after 30 seconds")
        time.sleep(0.0002)
    delay = time.monotonic() - started
    reap([pid])
    return delay


def delays(flooded, quiet, deaths, peers, wait):
    """Seconds from kill to unlink in both folders, in turns, of creators that lived for `wait` seconds."""
    found = [], []
    for turn in range(deaths):
        order = [(flooded, found[0]), (quiet, found[1])][:: 1 if turn % 2 else -1]
        for nursery, into in order:
            pids = nursery.create()
            attached = nursery.attach(pids) if peers else []
            time.sleep(wait)
            into.append(death(nursery, *pids))
            nursery.end(attached)
    return found


def share(pids, seconds):
    before = processor_seconds(pids)
    time.sleep(seconds)
    return 100 * (processor_seconds(pids) - before) / seconds


def settled_share(pid):
    """Percent of a core that watcher and children use once idle, or after SETTLED; and the busy seconds."""
    started = time.monotonic()
    while share(family(pid), 2.0) > SHARE and time.monotonic() - started < SETTLED:
        pass
    busy = time.monotonic() - started - 2.0
    return share(family(pid), WATCHED), busy


def known_after(nursery):
    """Seconds from the birth of a creator until a crash of it, with a peer, is proven by its identity."""
    started = time.monotonic()
    for wait in (0.1, 0.2, 0.4, 0.8, 1.6, 3.2):
        (pid,) = nursery.create()
        peers = nursery.attach([pid])
        time.sleep(wait)
        death(nursery, pid)
        nursery.end(peers)
        if nursery.evidence([pid]) == {"identity": 1}:
            return wait
    return time.monotonic() - started


def measure(targets, name, make, held, count, deaths):
    endless = isinstance(make, str)
    print("%s%s" % (name, "" if endless else ": %d files" % count), flush=True)
    with contextlib.ExitStack() as stack:
        flood = stack.enter_context(Flood(make, held, count))
        quiet = stack.enter_context(Nursery(SHMWATCH))
        flooded = stack.enter_context(Nursery(SHMWATCH, "--json", before=flood.fill))
        if endless:
            command = [sys.executable, "-c", ENDLESS + make, flooded.root, *FOLDERS]
            stranger = stack.enter_context(beside(command))
        targets.below("ready after", flooded.seconds, READY_S, " s")
        if not endless:
            first = share(family(flooded.cleaner.pid), FIRST)
            targets.below("share of a core in the first %g s" % FIRST, first, FIRST_SHARE, " %")
        for peers, how in ((0, "alone"), (1, "a peer attached")):
            there, here = delays(flooded, quiet, deaths, peers, 1.5 if endless else 0.15)
            print("  %-16s %s" % (how, milliseconds(there)))
            print("  %-16s %s" % ("  without them", milliseconds(here)))
            later = 1000 * (statistics.median(there) - statistics.median(here))
            targets.below("%s: median is later by" % how, later, LATER_MS, " ms")
        if endless:
            targets.below("known after", known_after(flooded), KNOWN_S, " s")
            taken = share(family(flooded.cleaner.pid), WATCHED)
            targets.below("share of a core meanwhile", taken, SHARE, " %")
            stranger.kill()
        taken, busy = settled_share(flooded.cleaner.pid)
        print("  busy for another %.0f s" % busy)
        targets.below("share of a core", taken, SHARE, " %")
        more = [memory(family(each.cleaner.pid))[0] for each in (flooded, quiet)]
        targets.below("more memory", more[0] - more[1], MEMORY_MB, " MB")


def main(arguments):
    count = int(arguments[0]) if arguments else 20000
    deaths = int(arguments[1]) if arguments[1:] else 30
    targets = Targets()
    for name, make, held in [kind for kind in KINDS if (arguments[2:] or [""])[0] in kind[0]]:
        measure(targets, name, make, held, count, deaths)
    return targets.end()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
