"""Memory of an orphaned heap that is given back while peers are attached: how much, and how soon.

    bench/reclaim.py [PEERS [ROUNDS]]

The creator of a heap of 64 MB, 90 % of it free, is SIGKILLed with PEERS peers (default 2) attached.
Measured from just after the unlink: the time until all free memory is given back, including the inspection of
all processes; the time after the peers have released the rest; the cost of a pass when nothing has changed.
Then under redhawk-shmwatch: from kill() to the unlink, and from there until 85 % is given back; and with
--no-reclaim, from kill() to the unlink.
Exit status 1 if a target is missed: 85 % of the file within 20 ms; after the release, within 1 s, all but the
header pages and a page at either end of each free block; the unlink at most 1.3 x as late as without; the
descriptor closed within 10 ms.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(os.path.dirname(HERE), folder) for folder in ("demo", "python")]

import heapwriter  # noqa: E402
from gppshm import kinship, reclaim  # noqa: E402
from nursery import SHMWATCH, Nursery  # noqa: E402

PAGE, SUPERBLOCKS = heapwriter.PAGE, 32
USED = SUPERBLOCKS * heapwriter.SUPERBLOCK_SIZE // 10
HEAP = (f"--superblocks={SUPERBLOCKS}", f"--used={USED}", "--block=262144")
SHARE, MS, LATER, LET_GO = 0.85, 20.0, 1.0, 10.0


class Process:
    """A process of demo/heapwriter.py. Forks of one process would all map the heap at the same address."""

    def __init__(self, *arguments):
        command = [sys.executable, "-I", heapwriter.__file__, *arguments]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, universal_newlines=True
        )
        ready, _, self.name = self.process.stdout.readline().strip().partition(" ")
        if ready != "ready":
            self.end()
            sys.exit("a process has failed: is /dev/shm full?")

    def send(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def checks(self, count):
        """Have a peer check every byte of its blocks and release `count` of them; False if one is damaged."""
        self.send(str(count))
        return bool(self.process.stdout.readline())

    def answer(self):
        return self.process.stdout.readline() or sys.exit("a peer found a damaged block")

    def end(self):
        self.process.kill()
        self.process.communicate()


def measure(root, peers):
    """One round. Returns the share of the file given back at first, milliseconds for that, milliseconds of
    these for inspecting processes, seconds for the rest after its release, pages left beyond the minimum, and
    microseconds of a pass when nothing has changed."""
    living = []
    try:
        creator = Process("own", "--root=" + root, f"--holders={peers}", *HEAP)
        living.append(creator)
        for _ in range(peers):
            living.append(Process("attach", creator.name, "--root=" + root, "--hold"))
        fd = os.open(os.path.join(root, creator.name), os.O_RDONLY)
        status = os.fstat(fd)
        file_id = status.st_dev, status.st_ino
        noted = kinship.note(creator.process.pid, file_id)
        creator.end()
        os.unlink(os.path.join(root, creator.name))
        started = time.monotonic()
        found = kinship.UNKNOWN
        while found is kinship.UNKNOWN:  # some process of this host is exiting
            found = kinship.kin(file_id, noted)[0]
        looked = time.monotonic() - started
        it = reclaim.Reclaim(fd, found)
        while not it.go_on():
            pass
        first = time.monotonic() - started
        share = it.given_back / status.st_size
        began = time.monotonic()
        it.go_on(1)
        look = time.monotonic() - began
        for peer in living[1:]:
            peer.send("1000")
        for peer in living[1:]:
            peer.answer()
        began = time.monotonic()
        while not (it.go_on() and it.stable and not it.in_use):
            if time.monotonic() > began + 10:
                sys.exit("what the peers let go of does not come back")
        rest = time.monotonic() - began
        # Left at least: the header page, and for each superblock its header and both ends of its free block.
        surplus = it.taken // PAGE - (1 + 3 * SUPERBLOCKS)
        os.close(fd)
        return share, 1000 * first, 1000 * looked, rest, surplus, 1e6 * look
    finally:
        for process in living:
            process.end()


def is_kept(pid, name):
    """Whether the process has the unlinked file open."""
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            if os.readlink(f"/proc/{pid}/fd/{fd}").endswith(name + " (deleted)"):
                return True
        except OSError:
            pass
    return False


def watched(nursery, peers, gives_back):
    """Milliseconds under a watcher: from kill() to the unlink, from there until SHARE is given back, and from
    the last peer's end until the watcher has closed the file."""
    living = []
    try:
        creator = Process("own", "--root=" + nursery.root, f"--holders={peers}", *HEAP)
        living.append(creator)
        for _ in range(peers):
            living.append(Process("attach", creator.name, "--root=" + nursery.root, "--hold"))
        path = os.path.join(nursery.root, creator.name)
        fd = os.open(path, os.O_RDONLY)
        wanted = os.fstat(fd).st_blocks * (1 - SHARE)
        time.sleep(0.5)  # until the watcher knows the creator
        began = time.monotonic()
        creator.process.kill()
        while os.path.exists(path):
            pass
        unlinked = back = time.monotonic()
        while gives_back and os.fstat(fd).st_blocks > wanted and back < unlinked + 10:
            time.sleep(0.0005)
            back = time.monotonic()
        os.close(fd)
        for peer in living[1:]:
            peer.end()
        ended = time.monotonic()
        while is_kept(nursery.cleaner.pid, creator.name) and time.monotonic() < ended + 10:
            pass
        let_go = time.monotonic()
        return 1000 * (unlinked - began), 1000 * (back - unlinked), 1000 * (let_go - ended)
    finally:
        for process in living:
            process.end()


def under_watchers(peers, rounds):
    """Median milliseconds: to the unlink without and with giving back, to SHARE given back, to the close."""
    with Nursery(SHMWATCH, "--no-reclaim") as plain, Nursery(SHMWATCH) as giving:
        without = [watched(plain, peers, False)[0] for _ in range(rounds)]
        unlinks, backs, let_go = zip(*[watched(giving, peers, True) for _ in range(rounds)])
        without += [watched(plain, peers, False)[0] for _ in range(rounds)]
    return [statistics.median(figures) for figures in (without, unlinks, backs, let_go)]


def main(arguments):
    peers = int(arguments[0]) if arguments else 2
    rounds = int(arguments[1]) if len(arguments) > 1 else 10
    root = tempfile.mkdtemp(prefix="gppshm-bench-", dir="/dev/shm")
    try:
        found = [measure(root, peers) for _ in range(rounds)]
    finally:
        shutil.rmtree(root)
    shares, firsts, looked, rests, surplus, looks = zip(*found)
    print("64 MB heap, 90 %% free, %d peers attached, %d rounds" % (peers, rounds))
    print(
        "  at once: %.0f %% of the file, median %.1f ms, max %.1f ms (the look at processes: %.1f ms)"
        % (100 * min(shares), statistics.median(firsts), max(firsts), statistics.median(looked))
    )
    print("  after all peers let go: max %.1f ms, %d pages too many" % (1000 * max(rests), max(surplus)))
    print("  a look when nothing changed: median %.0f us" % statistics.median(looks))
    without, unlinks, backs, let_go = under_watchers(peers, rounds)
    print("  under redhawk-shmwatch: %.0f %% back %.1f ms after the unlink" % (100 * SHARE, backs))
    print("  kill to unlink: median %.2f ms, without reclaim %.2f ms" % (unlinks, without))
    print("  the last peer's end to the descriptor's: median %.1f ms" % let_go)
    bad = backs > MS or unlinks > 1.3 * without or let_go > LET_GO
    bad = (
        bad or min(shares) < SHARE or statistics.median(firsts) > MS or max(rests) > LATER or max(surplus) > 0
    )
    print("FAILED" if bad else "all is well")
    return int(bad)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
