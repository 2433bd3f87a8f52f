"""Orphans left after 300 deaths, with two redhawk-shmwatch, a shmclean and a shminfo at the same time.

    bench/crowd.py [TURNS]

The last two run in a loop, in a process each. Exit status 1 if an orphan is left 50 ms after the last death,
in the median of the turns.
"""

import contextlib
import os
import statistics
import subprocess
import sys
import time

from figures import Targets, milliseconds
from nursery import FOLDERS, SHMWATCH, Nursery, beside, kill

DEATHS, LEFT_AFTER = 300, 0.05
AGAIN = (
    f"import sys, os; sys.path[:0] = {FOLDERS!r}; from gppshm.cli.{{0}} import main\n"
    "os.dup2(os.open(os.devnull, os.O_WRONLY), 1)\n"
    "while True: main(['--root', sys.argv[1]])"
)


def since(moment, done):
    """Seconds from `moment` until `done()` is true."""
    while not done():
        time.sleep(0.001)
    return time.monotonic() - moment


def main(arguments):
    turns = int(arguments[0]) if arguments else 5
    delays, left = [], []
    with Nursery(SHMWATCH) as nursery, contextlib.ExitStack() as meanwhile:
        for code in (SHMWATCH, AGAIN.format("shmclean"), AGAIN.format("shminfo")):
            command = [sys.executable, "-Es", "-c", code, nursery.root]
            meanwhile.enter_context(beside(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        time.sleep(1.0)
        for _ in range(turns):
            pids = nursery.create(DEATHS)
            time.sleep(1.0)
            nursery.forget(pids)
            kill(pids)
            dead = time.monotonic()
            time.sleep(LEFT_AFTER)
            left.append(len(os.listdir(nursery.root)))
            delays.append(since(dead, lambda: not os.listdir(nursery.root)))
    targets = Targets()
    print("%d deaths at once, two watchers, a shmclean, a shminfo without rest, %d turns" % (DEATHS, turns))
    print("  left %.0f ms after the last death: %s" % (1000 * LEFT_AFTER, left))
    print("  none left after: %s" % milliseconds(delays))
    targets.below("left: median", statistics.median(left), 0)
    return targets.end()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
