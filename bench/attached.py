"""A crash with peers attached: kill to unlink, compared with the same crash without peers.

    bench/attached.py [PROCESSES [DEATHS]]

Creators are SIGKILLed in turns: alone, with three peers attached, and alone just after one with peers. This
is done among 500 other processes, some with 20,000 mappings, with and without pidfds, and among 5,000 (or
PROCESSES). Then 150 are killed at once, without and with a peer each. The time is measured from just before
kill() until this program sees the name go. Exit status 1 if a target is missed.
"""

import statistics
import sys
import time

from figures import Targets, milliseconds, percentile, ratio
from nursery import NO_PIDFDS, SHMWATCH, Crowd, Nursery

PEERS, AT_ONCE, STORMS = 3, 150, 7
RATIO, P99_MS, STORM_RATIO, STORM_MS = 1.5, 5.0, 1.5, 70.0
SETTLED = 0.03


def known(processes):
    """Seconds to wait until the watcher knows a new creator."""
    return 0.1 + processes / 20000


def singly(nursery, deaths, processes):
    """Seconds from kill to unlink: alone; with peers; alone just after one with peers."""
    alone, attached, just_after, with_peers = [], [], [], []
    for turn in range(deaths):
        first, second, third, last = nursery.create(4)
        peers = nursery.attach([second, third], PEERS)
        time.sleep(known(processes))
        for pid, delays in [(first, alone), (second, attached)][:: 1 if turn % 2 else -1]:
            delays += nursery.deaths([pid])
            time.sleep(SETTLED)
        nursery.deaths([third])
        just_after += nursery.deaths([last])
        nursery.end(peers)
        with_peers += [second, third]
    return alone, attached, just_after, nursery.evidence(with_peers)


def at_once(nursery, processes):
    """Seconds from the first kill to the last unlink of each batch: alone; with peers."""
    alone, attached = [], []
    for turn in range(2 * STORMS):
        pids, peers = nursery.create(AT_ONCE), []
        if turn % 2:
            peers = nursery.attach(pids)
        time.sleep(0.8 + 10 * known(processes))
        (attached if turn % 2 else alone).append(nursery.deaths(pids)[-1])
        nursery.end(peers)
    return alone, attached


def measure(targets, processes, deaths, prefix):
    with Crowd(processes), Nursery(SHMWATCH, "--json", prefix=prefix) as nursery:
        alone, attached, just_after, evidence = singly(nursery, deaths, processes)
        storms_alone, storms = at_once(nursery, processes)
    how = "without pidfds" if prefix else "with pidfds"
    print("kill to unlink among %d processes, %s, %d deaths each" % (processes, how, deaths))
    print("  alone              %s" % milliseconds(alone))
    print("  %d peers attached   %s; evidence %s" % (PEERS, milliseconds(attached), evidence))
    print("  alone, just after  %s" % milliseconds(just_after))
    targets.below("attached / alone: ratio of medians", ratio(attached, alone), RATIO)
    targets.below("attached: p99", 1000 * percentile(attached), P99_MS, " ms")
    targets.below("alone, just after / alone: ratio of medians", ratio(just_after, alone), RATIO)
    print("  %d killed at once, first kill to last unlink, %d turns" % (AT_ONCE, STORMS))
    print("  alone              %s" % milliseconds(storms_alone))
    print("  a peer attached    %s" % milliseconds(storms))
    targets.below("attached / alone: ratio of medians", ratio(storms, storms_alone), STORM_RATIO)
    targets.below("attached: median", 1000 * statistics.median(storms), STORM_MS, " ms")


def main(arguments):
    deaths = int(arguments[1]) if arguments[1:] else 60
    targets = Targets()
    if arguments:
        cases = [(int(arguments[0]), ()), (int(arguments[0]), NO_PIDFDS)]
    else:
        cases = [(500, ()), (500, NO_PIDFDS), (5000, ())]
    for processes, prefix in cases:
        measure(targets, processes, deaths, prefix)
    return targets.end()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
