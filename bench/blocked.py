"""Kill to unlink beside a process that blocks its readers, and with user names that take 20 s.

    bench/blocked.py [DEATHS [TURNS]]

Creators, each of another user, are SIGKILLed, alone and with three peers attached. This is done on a normal
host, and then beside a process whose cmdline and maps block for ever (bench/stuck.py), under a watcher whose
/etc/passwd answers after 20 s. The time is measured from just before kill() until this program sees the name
go. In both cases a watcher is also started and ended, and the commands are run. Exit status 1 if an unlink
comes more than 2 ms later in the median or the 95th percentile, or another target is missed. Needs root and
FUSE.
"""

import contextlib
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time

from figures import Targets, milliseconds, percentile
from nursery import COMMAND, SHMWATCH, Nursery, beside, end_with, kill, spawn
from stuck import Stuck

PEERS, SETTLED, LIVE = 3, 0.15, 20
NAME_S, LATER_MS, READY_LATER_S, END_S, COMMAND_S, HANGS_S = 20.0, 2.0, 0.1, 1.0, 2.0, 10.0


@contextlib.contextmanager
def slow_names():
    """The prefix of a command that sees a /etc/passwd that answers each reader after 20 s."""
    with tempfile.TemporaryDirectory(prefix="gppshm-bench-") as folder, open("/etc/passwd", "rb") as stream:
        path, content = os.path.join(folder, "passwd"), stream.read()
        os.mkfifo(path)

        def serve():
            while True:
                fd = os.open(path, os.O_WRONLY)
                time.sleep(NAME_S)
                with contextlib.suppress(BrokenPipeError), open(fd, "wb") as stream:
                    stream.write(content)

        server = spawn([lambda: None if os.fork() else (end_with(os.getppid()), serve())])
        script = 'mount --bind "$0" /etc/passwd && exec "$@"'
        yield ["unshare", "--mount", "--propagation=private", "sh", "-c", script, path]
        kill(server)


def become_another_user(heap):
    """Change to a user of its own, so that its name is looked up."""
    parent = os.getppid()
    os.setuid(100000 + os.getpid())
    end_with(parent)  # setuid() has cleared the signal for the parent's end


def deaths(nursery, count, alone, attached):
    for _ in range(count):
        first, second = nursery.create(2, become_another_user)
        peers = nursery.attach([second], PEERS)
        time.sleep(SETTLED)
        alone += nursery.deaths([first])
        time.sleep(SETTLED)
        attached += nursery.deaths([second])
        nursery.end(peers)


def start_and_end(nursery, prefix):
    """Seconds that another watcher takes to start in a folder with heaps, and to end."""
    command = [*prefix, sys.executable, "-Es", "-c", SHMWATCH, nursery.root]
    began = time.monotonic()
    with beside(command, stdout=subprocess.PIPE) as watcher, watcher.stdout:
        watcher.stdout.readline()
        ready = time.monotonic() - began
        watcher.send_signal(signal.SIGTERM)
        began = time.monotonic()
        watcher.wait()
        return ready, time.monotonic() - began


def run(nursery, command, *arguments):
    """The run of a command beside the stuck process: seconds, exit status, stderr."""
    code = COMMAND.format(command, "sys.argv[1:]")
    began = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, "-Es", "-c", code, "--root", nursery.root, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=HANGS_S,
        )
    except subprocess.TimeoutExpired:
        return HANGS_S, -1, ""
    return time.monotonic() - began, done.returncode, done.stderr.decode()


def main(arguments):
    count = int(arguments[0]) if arguments else 20
    turns = int(arguments[1]) if arguments[1:] else 5
    sound, blocked = ([], []), ([], [])
    starts = {"sound": [], "blocked": []}
    targets = Targets()
    with contextlib.ExitStack() as ending:
        prefix = ending.enter_context(slow_names())
        plain = ending.enter_context(Nursery(SHMWATCH))
        slow = ending.enter_context(Nursery(SHMWATCH, "--json", prefix=prefix))
        for nursery in (plain, slow):
            nursery.attach(nursery.create(LIVE, become_another_user))
        stuck = []
        for _ in range(turns):
            deaths(plain, count, *sound)
            starts["sound"].append(start_and_end(plain, ()))
            with Stuck() as pid:
                stuck.append(pid)
                deaths(slow, count, *blocked)
                starts["blocked"].append(start_and_end(slow, prefix))
                commands = [run(slow, "shminfo", "--holders"), run(slow, "shmclean", "--verbose")]
        reported = slow.states()
    print("kill to unlink, %d deaths each" % len(sound[0]))
    for what, without, beside_it in zip(("alone", "attached"), sound, blocked):
        print("  %-8s on a sound host   %s" % (what, milliseconds(without)))
        print("  %-8s beside a block    %s" % (what, milliseconds(beside_it)))
        for name, percent in (("median", 50), ("p95", 95)):
            later = 1000 * (percentile(beside_it, percent) - percentile(without, percent))
            targets.below("%s: %s is later by" % (what, name), later, LATER_MS, " ms")
    reasons = " ".join(each["reason"] for each in reported if each["event"] == "trouble")
    targets.holds("the watcher named each process that blocked it", all(str(pid) in reasons for pid in stuck))
    users = [each["user"] for each in reported if each["event"] == "removed"]
    targets.holds("it waited for no user's name", bool(users) and all(user.isdigit() for user in users))
    ready, end = ([[each[i] for each in starts[kind]] for kind in ("sound", "blocked")] for i in (0, 1))
    print("a watcher on %d heaps: ready after %.2f s on a sound host" % (LIVE, statistics.median(ready[0])))
    later = statistics.median(ready[1]) - statistics.median(ready[0])
    targets.below("beside the block: ready later by", later, READY_LATER_S, " s")
    targets.below("ended after", max(end[1]), END_S, " s")
    seconds, code, said = commands[0]
    targets.below("redhawk-shminfo --holders:", seconds, COMMAND_S, " s")
    targets.holds("it names process %d on stderr, exit status 1" % pid, code == 1 and str(pid) in said)
    targets.below("redhawk-shmclean:", commands[1][0], COMMAND_S, " s")
    return targets.end()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
