"""The ordinary crash: peers are attached. How long the heap stays, beside the same crash without peers.

    bench/attached.py [PROCESSES [DEATHS]]

Among PROCESSES others (default 500), some with 20,000 mappings, creators are SIGKILLed in turns: alone, with
three peers attached, and alone just after one with peers. Then 150 at once, without and with a peer each.
The time runs from just before kill() to when this program sees the name go. Exit status 1 if a target is
missed.
"""

import ctypes
import mmap
import os
import signal
import statistics
import sys
import time

from death import milliseconds, percentile
from nursery import SHMWATCH, Nursery

PEERS, AT_ONCE, MAPPINGS, SETTLED = 3, 150, 20000, 0.05
RATIO, P99_MS, STORM_RATIO, STORM_MS = 1.5, 5.0, 1.5, 70.0
KNOWN = 0.8
"""Seconds after which the watcher knows who a creator is."""


class Crowd:
    """So many idle processes, a few of them with very many mappings.  A context manager."""

    def __init__(self, count, large=5):
        self.pids = []
        for number in range(count):
            reader, writer = os.pipe()
            pid = os.fork()
            if not pid:
                try:
                    libc = ctypes.CDLL(None)
                    libc.prctl(1, signal.SIGKILL, 0, 0, 0)
                    if number < large:
                        # Every other page of another protection: the kernel cannot merge them.
                        area = mmap.mmap(
                            -1, MAPPINGS * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
                        )
                        address = ctypes.addressof(ctypes.c_char.from_buffer(area))
                        for page in range(0, MAPPINGS, 2):
                            libc.mprotect(ctypes.c_void_p(address + page * mmap.PAGESIZE), mmap.PAGESIZE, 1)
                    os.write(writer, b"x")
                    while True:
                        signal.pause()
                finally:
                    os._exit(1)
            os.close(writer)
            os.read(reader, 1)
            os.close(reader)
            self.pids.append(pid)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        for pid in self.pids:
            os.kill(pid, signal.SIGKILL)


def attach(nursery, pid, peers=PEERS):
    """Peers of that creator: processes that open its heap for writing and map it, and nothing more."""
    path, pids = f"{nursery.root}/heap-{pid}", []
    for _ in range(peers):
        reader, writer = os.pipe()
        peer = os.fork()
        if not peer:
            try:
                ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
                with open(path, "r+b") as heap:
                    mapping = mmap.mmap(heap.fileno(), 0)
                os.write(writer, b"x")
                while mapping:
                    signal.pause()
            finally:
                os._exit(1)
        os.close(writer)
        os.read(reader, 1)
        os.close(reader)
        pids.append(peer)
    nursery.living += pids
    return pids


def end(nursery, pids):
    for pid in pids:
        nursery.living.remove(pid)
        os.kill(pid, signal.SIGKILL)


def main(arguments):
    processes = int(arguments[0]) if arguments else 500
    deaths = int(arguments[1]) if arguments[1:] else 60
    alone, attached, just_after, storms, lonely_storms = [], [], [], [], []
    # Before the watcher starts nothing is known of these: their death is told, and the host is looked at.
    with Crowd(processes), Nursery(SHMWATCH) as nursery:
        for _ in range(deaths):
            pids = nursery.create(3)
            peers = attach(nursery, pids[1]) + attach(nursery, pids[2])
            time.sleep(SETTLED)
            alone += nursery.deaths(pids[:1])
            time.sleep(SETTLED)
            attached += nursery.deaths(pids[1:2])
            time.sleep(SETTLED)
            last = nursery.create()
            time.sleep(SETTLED)
            nursery.deaths(pids[2:])
            just_after += nursery.deaths(last)
            end(nursery, peers)
        for _ in range(5):
            pids = nursery.create(AT_ONCE)
            time.sleep(KNOWN)
            lonely_storms.append(nursery.deaths(pids)[-1])
            pids = nursery.create(AT_ONCE)
            peers = [peer for pid in pids for peer in attach(nursery, pid, 1)]
            time.sleep(KNOWN)
            storms.append(nursery.deaths(pids)[-1])
            end(nursery, peers)
    ratio = statistics.median(attached) / statistics.median(alone)
    storm, lonely = statistics.median(storms), statistics.median(lonely_storms)
    print("kill to unlink among %d processes, %d deaths" % (processes, deaths))
    print("  alone              %s" % milliseconds(alone))
    print("  %d peers attached   %s" % (PEERS, milliseconds(attached)))
    print("  ratio of medians %.2f (target %.1f)" % (ratio, RATIO))
    print("  alone, just after one with peers   %s" % milliseconds(just_after))
    print("%d killed at once, first kill to last unlink, 5 turns" % AT_ONCE)
    print(
        "  alone %.1f ms, a peer attached to each %.1f ms: %.2f x"
        % (1000 * lonely, 1000 * storm, storm / lonely)
    )
    missed = (
        ratio > RATIO
        or 1000 * percentile(attached) > P99_MS
        or storm / lonely > STORM_RATIO
        or 1000 * storm > STORM_MS
    )
    print("targets %s" % ("MISSED" if missed else "met"))
    return int(missed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
