"""Heaps left after the last of 300 deaths, with two redhawk-shmwatch, a shmclean and a shminfo beside.

    bench/crowd.py [TURNS]

The latter two run again and again in a process each. Exit status 1 if an orphan is left 50 ms after the last
death in the median of the turns.
"""

import os
import signal
import statistics
import subprocess
import sys
import time

from nursery import FOLDERS, SHMWATCH, Nursery

DEATHS, LEFT_AFTER = 300, 0.05
AGAIN = (
    f"import sys, os; sys.path[:0] = {FOLDERS!r}; from gppshm.cli.{{0}} import main\n"
    "os.dup2(os.open(os.devnull, os.O_WRONLY), 1)\n"
    "while True: main(['--root', sys.argv[1]])"
)


def wait_for(done):
    while not done():
        time.sleep(0.001)
    return time.monotonic()


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def main(arguments):
    turns = int(arguments[0]) if arguments else 5
    delays, left, helpers = [], [], []
    with Nursery(SHMWATCH) as nursery:
        for code in (SHMWATCH, AGAIN.format("shmclean"), AGAIN.format("shminfo")):
            command = [sys.executable, "-Es", "-c", code, nursery.root]
            null = subprocess.DEVNULL
            process = subprocess.Popen(command, stdin=null, stdout=null, stderr=null)
            helpers.append(process.pid)
        nursery.living += helpers
        time.sleep(1.0)
        for _ in range(turns):
            pids = nursery.create(DEATHS)
            time.sleep(1.0)
            nursery.living = [pid for pid in nursery.living if pid not in pids]
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            dead = wait_for(lambda: not any(map(alive, pids)))  # noqa: B023
            wait_for(lambda: time.monotonic() - dead >= LEFT_AFTER)  # noqa: B023
            left.append(len(os.listdir(nursery.root)))
            delays.append(1000 * (wait_for(lambda: not os.listdir(nursery.root)) - dead))
        if not all(map(alive, helpers)):
            sys.exit("a watcher, the shmclean or the shminfo has ended")
    print(
        "%d deaths at once, two watchers, a shmclean and a shminfo without rest, %d turns" % (DEATHS, turns)
    )
    print("  left %.0f ms after the last death: %s" % (1000 * LEFT_AFTER, left))
    print("  none left after: %s ms" % ", ".join(["%.0f" % delay for delay in delays]))
    missed = statistics.median(left) > 0
    print("target (none left) %s" % ("MISSED" if missed else "met"))
    return int(missed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
