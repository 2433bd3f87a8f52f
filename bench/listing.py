"""Duration of redhawk-shminfo, as a multiple of the bare start of the same interpreter (`-I -c pass`).

The bare start and the commands take turns, so that a busy machine affects all; medians. As root the heaps are
in a private /dev/shm (in its own mount namespace), and the command is run without options. Otherwise they are
in a subfolder, and each run also pays for argparse (--root). Both are removed at the end.
Exit status 1 if a target is missed.
"""

import mmap
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
for folder in ("demo", "python"):
    sys.path.insert(0, os.path.join(os.path.dirname(HERE), folder))

import heapwriter  # noqa: E402
from gppshm import launcher  # noqa: E402

SIZE = 2097152
PRIVATE = "--in-a-private-dev-shm"


def make_heaps(root, count, superblocks, separately):
    """Make `count` sparse heaps of this process; map each as a whole, or each superblock separately."""
    pid, kept = os.getpid(), []
    step = mmap.PAGESIZE + SIZE
    for number in range(count):
        # All names but one have impossible pids; the creator in the header lives and maps all heaps.
        name = "heap-%d" % (4194304 + number if number else pid)
        fd = os.open(os.path.join(root, name), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        length = mmap.PAGESIZE + superblocks * step
        os.ftruncate(fd, length)
        whole = None if separately else heapwriter.mapped(fd, 0, length)
        header = heapwriter.mapped(fd, 0, mmap.PAGESIZE) if separately else whole
        heapwriter.put_header(header, pid)
        kept.append(header)
        for offset in range(mmap.PAGESIZE, length, step):
            buffer = heapwriter.mapped(fd, offset, step) if separately else whole
            heapwriter.put_superblock(buffer, name, offset, SIZE, (), 0 if separately else offset)
            kept.append(buffer)
        os.close(fd)
    return kept


def make_heaps_of_many(root, count):
    """Make `count` heaps, each of a small child process; the children end with this program's stdin."""
    reader, writer = os.pipe()
    for _ in range(count):
        if os.fork() == 0:
            os.close(writer)
            make_heaps(root, 1, 15, False)
            os.read(reader, 1)
            os._exit(0)
    while len(os.listdir(root)) < count:
        time.sleep(0.01)
    time.sleep(0.2)
    return writer


def holder(root, count, superblocks, how):
    """Runs as a separate process: makes the heaps, reports that, and keeps them until stdin ends."""
    kept = (
        make_heaps_of_many(root, count)
        if how == "many"
        else make_heaps(root, count, superblocks, how == "each")
    )
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.read()
    del kept


def peak_memory(command):
    """Peak resident set size of a command, in MB."""
    code = (
        "import resource, subprocess, sys\n"
        "subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    return int(subprocess.check_output([sys.executable, "-I", "-c", code] + command)) / 1024


def measure(commands, rounds):
    times = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            begin = time.perf_counter()
            subprocess.check_call(command, stdout=subprocess.DEVNULL)
            times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(taken) for name, taken in times.items()}


def main(private):
    scratch = tempfile.mkdtemp(prefix="gppshm-bench-bin-")
    root = "/dev/shm" if private else tempfile.mkdtemp(prefix="gppshm-bench-", dir="/dev/shm")
    missed = 0
    try:
        tool = os.path.join(scratch, "redhawk-shminfo")
        package = os.path.join(os.path.dirname(HERE), "python")
        launcher.install(
            tool, launcher.launcher("redhawk-shminfo", "gppshm.cli.shminfo", sys.executable, package)
        )
        command = [tool] if private else [tool, "--root", root]
        bare = [sys.executable, "-I", "-c", "pass"]
        cases = (
            (10, 15, "one", 41, 1.5, "10 heaps"),
            (1000, 15, "one", 21, 4.5, "1000 heaps, one creator"),
            (1000, 15, "each", 21, 4.5, "1000 heaps, one creator, superblocks mapped separately"),
            (1000, 15, "many", 7, None, "1000 heaps, 1000 creators"),
            (10000, 1, "one", 5, None, "10000 heaps of one superblock"),
        )
        for count, superblocks, how, rounds, target, title in cases:
            arguments = [sys.executable, "-Es", os.path.abspath(__file__), "--hold", root, str(count)]
            process = subprocess.Popen(
                arguments + [str(superblocks), how], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            try:
                if process.stdout.readline() != b"ready\n":
                    raise RuntimeError("the heaps could not be made: see above")
                subprocess.check_call(command, stdout=subprocess.DEVNULL)
                taken = measure({"bare": bare, "tool": command}, rounds)
                memory = peak_memory(command)
            finally:
                process.stdin.close()
                process.wait()
                process.stdout.close()
                for name in os.listdir(root):
                    os.unlink(os.path.join(root, name))
            ratio = taken["tool"] / taken["bare"]
            wanted = (
                ""
                if target is None
                else " (at most {}{})".format(target, "" if ratio <= target else ": MISSED")
            )
            missed |= target is not None and ratio > target
            print(
                "{:58} {:5.2f} x{}  {:.1f} ms / {:.1f} ms, {:.0f} MB".format(
                    title, ratio, wanted, taken["tool"] * 1000, taken["bare"] * 1000, memory
                ),
                flush=True,
            )
    finally:
        shutil.rmtree(scratch)
        if not private:
            shutil.rmtree(root)
    return int(missed)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--hold"]:
        holder(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
        sys.exit(0)
    if sys.argv[1:] == [PRIVATE]:
        sys.exit(main(True))
    again = [sys.executable, "-Es", os.path.abspath(__file__), PRIVATE]
    script = 'mount -t tmpfs -o mode=1777 tmpfs /dev/shm && exec "$@"'
    if os.geteuid() == 0 and shutil.which("unshare"):
        if subprocess.call(["unshare", "--mount", "true"], stderr=subprocess.DEVNULL) == 0:
            sys.exit(
                subprocess.call(
                    ["unshare", "--mount", "--propagation=private", "sh", "-c", script, "sh"] + again
                )
            )
    sys.exit(main(False))
