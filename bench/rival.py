"""Two cleaners at once: redhawk-shmwatch, and a process that unlinks its children's heaps, as a GPP does.

    bench/rival.py [CRASHES [DELAY_MS]]

The rival gets SIGCHLD, calls waitpid(), and unlinks the heap at once, or 46 ms after the death as REDHAWK's
GPP does (measured). Creators are SIGKILLed one by one and 100 at once, every second one with a peer, beside
live heaps. Exit status 1 if a live heap is lost, an orphan is left, or a crash is not reported exactly once,
as "removed" or as "removed by others".
"""

import collections
import os
import signal
import sys
import time

from figures import Targets
from nursery import SHMWATCH, Nursery, end_with, heapwriter

LIVE, AT_ONCE, PAUSE = 20, 100, 0.1
DELAYS_MS = (0.0, 46.0)
REPORTED = ("removed", "removed by others")


class Rival:
    """The rival process; `create` makes its children, each with a heap."""

    def __init__(self, nursery, delay):
        self.nursery = nursery
        orders, self.orders = os.pipe()
        self.answers, answers = os.pipe()
        parent = os.getpid()
        self.pid = os.fork()
        if not self.pid:
            try:
                end_with(parent)
                os.close(self.orders)
                _clean(nursery.root, orders, answers, delay)
            finally:
                os._exit(1)
        os.close(orders)
        os.close(answers)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.orders)
        os.close(self.answers)

    def create(self, count=1):
        os.write(self.orders, b"%d\n" % count)
        said = b""
        while said.count(b"\n") < count:
            said += os.read(self.answers, 4096) or sys.exit("the rival has ended")
        return [int(word) for word in said.split()]


def _clean(root, orders, answers, delay):
    """Make children as ordered; unlink the heap of each ended child after `delay` seconds."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    me, due = os.getpid(), collections.deque()
    os.set_blocking(orders, False)
    while True:
        signal.sigtimedwait([signal.SIGCHLD], 0.001)
        try:
            while True:
                pid = os.waitpid(-1, os.WNOHANG)[0]
                if not pid:
                    break
                due.append((time.monotonic() + delay, pid))
        except ChildProcessError:
            pass
        while due and due[0][0] <= time.monotonic():
            try:
                os.unlink(f"{root}/heap-{due.popleft()[1]}")
            except FileNotFoundError:
                pass
        try:
            count = int(os.read(orders, 100) or os._exit(0))
        except BlockingIOError:
            continue
        for _ in range(count):
            if not os.fork():
                end_with(me)
                heap = heapwriter.LiveHeap.create(root, ((4096, ()),))
                os.write(answers, b"%d\n" % os.getpid())
                while heap:
                    signal.pause()


def crash(nursery, rival, count):
    """Kill `count` children of the rival at once; returns their pids."""
    pids = rival.create(count)
    peers = nursery.attach(pids[::2])
    time.sleep(PAUSE if count == 1 else 1.0)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    time.sleep(2 * PAUSE if count == 1 else 1.0)
    nursery.end(peers)
    return pids


def measure(targets, crashes, delay_ms):
    with Nursery(SHMWATCH, "--json", size=4096) as nursery:
        living = {"heap-%d" % pid for pid in nursery.create(LIVE)}
        time.sleep(0.5)
        with Rival(nursery, delay_ms / 1000) as rival:
            dead = [pid for _ in range(crashes) for pid in crash(nursery, rival, 1)]
            dead += [pid for _ in range(3) for pid in crash(nursery, rival, AT_ONCE)]
            time.sleep(2.0)
            there = set(os.listdir(nursery.root))
        reported = [each for each in nursery.states() if each["event"] in REPORTED]
    kinds = collections.Counter(each["event"] for each in reported)
    names = collections.Counter(each["name"] for each in reported)
    unreported = [pid for pid in dead if not names["heap-%d" % pid]]
    print("a rival that unlinks %g ms after SIGCHLD, %d crashes: %s" % (delay_ms, len(dead), dict(kinds)))
    targets.below("live heaps lost:", len(living - there), 0)
    targets.below("orphans left:", len(there - living), 0)
    targets.below("crashes not reported:", len(unreported), 0)
    targets.below("told more than once:", sum(count > 1 for count in names.values()), 0)


def main(arguments):
    crashes = int(arguments[0]) if arguments else 100
    targets = Targets()
    for delay_ms in [float(arguments[1])] if arguments[1:] else DELAYS_MS:
        measure(targets, crashes, delay_ms)
    return targets.end()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
