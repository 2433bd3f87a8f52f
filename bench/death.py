"""Kill to unlink: redhawk-shmwatch compared with a bare loop of event, lease and unlink.

    bench/death.py [DEATHS [TURNS]]

Each of the two runs in its own process, on its own folder with 100 live heaps. They take turns: a small
process is SIGKILLed in one folder, then one in the other. The time is measured from just before kill() until
this program sees the name go. Then 300 processes are killed at once, also in turns.
Exit status 1 if a target is missed: 1.3 times the bare loop in the median, 5 ms in the 99th percentile.
"""

import statistics
import sys
import time

from figures import Targets, milliseconds, percentile, ratio
from nursery import SHMWATCH, Nursery

LIVE, AT_ONCE, SETTLED = 100, 300, 0.03
RATIO, P99_MS = 1.3, 5.0

BARE = """
import ctypes, fcntl, os, signal, struct, sys
root = sys.argv[1]
libc = ctypes.CDLL(None, use_errno=True)
fd = libc.inotify_init1(0)
libc.inotify_add_watch(fd, root.encode(), 8)
folder = os.open(root, os.O_RDONLY)
print("ready", flush=True)
while True:
    data, at = os.read(fd, 65536), 0
    while at < len(data):
        length = struct.unpack_from("iIII", data, at)[3]
        name = data[at + 16 : at + 16 + length].rstrip(b"\\0")
        at += 16 + length
        heap = os.open(name, os.O_RDONLY, dir_fd=folder)
        fcntl.fcntl(heap, fcntl.F_SETSIG, signal.SIGURG)
        while True:
            try:
                fcntl.fcntl(heap, fcntl.F_SETLEASE, fcntl.F_RDLCK)
                break
            except BlockingIOError:  # the event comes before the kernel has let go of the file
                pass
        os.unlink(name, dir_fd=folder)
        os.close(heap)
"""


def main(arguments):
    deaths = int(arguments[0]) if arguments else 200
    turns = int(arguments[1]) if arguments[1:] else 7
    with Nursery(SHMWATCH) as watched, Nursery(BARE) as bare:
        for nursery in (watched, bare):
            nursery.create(LIVE)
        single = {watched: [], bare: []}
        for number in range(deaths):
            for nursery in (watched, bare)[:: 1 if number % 2 else -1]:
                pids = nursery.create()
                time.sleep(SETTLED)  # until the watcher has seen it alive, and the machine is quiet
                single[nursery] += nursery.deaths(pids)
        many = {watched: [], bare: []}
        for number in range(turns):
            for nursery in (watched, bare)[:: 1 if number % 2 else -1]:
                pids = nursery.create(AT_ONCE)
                time.sleep(0.5)
                many[nursery].append(nursery.deaths(pids)[-1])
    targets = Targets()
    print("death to unlink, %d deaths, %d live heaps beside" % (deaths, LIVE))
    print("  bare loop   %s" % milliseconds(single[bare]))
    print("  shmwatch    %s" % milliseconds(single[watched]))
    targets.below("ratio of medians", ratio(single[watched], single[bare]), RATIO)
    targets.below("shmwatch: p99", 1000 * percentile(single[watched]), P99_MS, " ms")
    print("%d killed at once, first kill to last unlink, %d turns" % (AT_ONCE, turns))
    print("  bare loop   median %.1f ms" % (1000 * statistics.median(many[bare])))
    middle, largest = statistics.median(many[watched]), max(many[watched])
    print("  shmwatch    median %.1f ms, max %.1f" % (1000 * middle, 1000 * largest))
    targets.below("ratio of medians", ratio(many[watched], many[bare]), RATIO)
    return targets.end()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
