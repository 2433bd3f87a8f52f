"""10,000 crashes under redhawk-shmwatch: no live heap lost, no orphan left, descriptors and memory constant.

    bench/soak.py [CRASHES [BATCH [SECONDS]]]

Batches of BATCH (50) cheap creators are SIGKILLed, some with a peer attached that dies a little later. Beside
them are 50 live heaps and a process that opens all of them for writing again and again, as REDHAWK's shminfo
does.  After each batch, eight creators with 1 to 3 peers crash.  These peers hold all blocks, check every
byte, release, check again and end in different ways, while free memory is given back.  With BATCH 0 all
crashes are of this kind.  One in four heaps is unlinked by another process, as by a GPP, if the watcher is
not faster.  After SECONDS the measurement ends, whatever the number of crashes.
Exit status 1 if a byte is damaged, a live heap is lost, an orphan is left, descriptors leak or memory grows
by more than 1 MB.
"""

import contextlib
import multiprocessing.pool
import os
import random
import signal
import sys
import time

from nursery import SHMWATCH, Nursery, beside, status
from reclaim import Process

LIVE, BATCH, WITH_PEERS, GROWTH_KB = 50, 50, 8, 1024
BLOCKS, BLOCK = 24, 40000
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


def unlinked(path):
    """Unlink the file; False if another process was faster."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


def crash_with_peers(nursery):
    """One crash with peers; whether each byte that they held was unchanged, and whether another unlinked it.

    The peers are separate programs: forks of one process have the same addresses, like children of the
    creator.
    """
    peers = random.randint(1, 3)
    living = []
    try:
        options = ("--superblocks=2", f"--used={BLOCKS * BLOCK}", f"--block={BLOCK}")
        owner = Process("own", "--root=" + nursery.root, f"--holders={peers}", *options)
        living.append(owner)
        for _ in range(peers):
            keep = random.choice([[], ["--keep-fd"]])
            living.append(Process("attach", owner.name, "--root=" + nursery.root, "--hold", *keep))
        time.sleep(random.random() * 0.2)  # seen alive, or not
        owner.end()
        by_another = random.random() < 0.25 and unlinked(os.path.join(nursery.root, owner.name))
        counts = [random.randint(0, BLOCKS // 2) for _ in range(random.randint(1, 4))]
        counts += random.choice([[], [BLOCKS, 0]])
        whole = []
        for count in counts:
            time.sleep(random.random() * 0.1)
            whole += [peer.checks(count) for peer in living[1:]]
        random.shuffle(living)
        return all(whole), by_another
    finally:
        for process in living:
            process.end()


def main(arguments):
    crashes = int(arguments[0]) if arguments else 10000
    batch = int(arguments[1]) if len(arguments) > 1 else BATCH
    longest = float(arguments[2]) if len(arguments) > 2 else float("inf")
    started, done, lost, slowest = time.monotonic(), 0, set(), 0.0
    with_peers = damaged = by_others = reported = 0
    with contextlib.ExitStack() as ending:
        threads = ending.enter_context(multiprocessing.pool.ThreadPool(WITH_PEERS))
        nursery = ending.enter_context(Nursery(SHMWATCH, "--json", "--rescan=5", size=4096))
        ending.enter_context(beside([sys.executable, "-c", OPENER, nursery.root]))
        living = {"heap-%d" % pid for pid in nursery.create(LIVE)}
        pid, first = nursery.cleaner.pid, None
        while done < crashes and time.monotonic() < started + longest:
            if batch:
                pids = nursery.create(min(batch, crashes - done))
                peers = nursery.attach(random.sample(pids, len(pids) // 10))
                if random.random() < 0.5:
                    time.sleep(random.random() * 0.06)  # seen alive, or not
                slowest = max(slowest, nursery.deaths(pids)[-1])
                nursery.end(peers)
                done += len(pids)
            for whole, by_another in threads.map(crash_with_peers, [nursery] * WITH_PEERS):
                damaged += not whole
                by_others += by_another
            with_peers += WITH_PEERS
            done += WITH_PEERS
            lost |= living - set(os.listdir(nursery.root))
            if done // 1000 > reported:
                reported = done // 1000
                now = time.monotonic() - started, damaged, len(lost), descriptors(pid), status(pid, "VmRSS")
                print("%d in %.0f s: damaged %d, lost %d; descriptors %d, %d kB" % (done, *now), flush=True)
            if first is None and done >= min(1000, crashes // 2):
                time.sleep(1)
                first = descriptors(pid), status(pid, "VmRSS")
        time.sleep(2)
        last = descriptors(pid), status(pid, "VmRSS")
        left = set(os.listdir(nursery.root)) - living
        os.kill(pid, signal.SIGTERM)
        time.sleep(1)
        end = nursery.states()[-1]
    took = time.monotonic() - started
    print("%d crashes in %.0f s, slowest batch of %d: %.0f ms" % (done, took, batch, 1000 * slowest))
    came = with_peers, damaged, end["given_back"] >> 20, end["given_back_later"] >> 20
    print("  with peers that check %d, damaged %d; came back at once %d MB, later %d MB" % came)
    became = len(lost), len(left), end["removed"], by_others, end["own_faults"] + end["failures"]
    print("  live heaps lost %d, orphans left %d, removed %d, by others %d, faults %d" % became)
    print("  descriptors %d, then %d; memory %d kB, then %d kB" % (first[0], last[0], first[1], last[1]))
    bad = (
        lost
        or left
        or damaged
        or end["in_use"]
        or end["removed"] + by_others != done
        or end["own_faults"]
        or end["failures"]
    )
    bad = bad or last[0] > first[0] or last[1] > first[1] + GROWTH_KB
    print("FAILED" if bad else "all is well")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
