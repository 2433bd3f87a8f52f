"""The cost of redhawk-shmtop with 1,000 heaps of living creators, on a terminal of 200 x 50 cells.

    bench/top.py [SECONDS]

Exit status 1 if a target is missed: less than 15 % of a core, a crash on the screen within a second, a key
answered within 0.1 s.
"""

import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time

from nursery import FOLDERS, Nursery, resident

HEAPS = 1000
WIDTH, HEIGHT = 200, 50
PERCENT, CRASH, KEY = 15.0, 1.0, 0.1
NOBODY = "import signal; print('ready', flush=True); signal.pause()"
"""Runs in place of a cleaner, and does nothing."""
COMMAND = f"import sys; sys.path[:0] = {FOLDERS!r}; from gppshm.cli.shmtop import main; sys.exit(main())"


class Display:
    """The command on a pseudo-terminal, and its output so far."""

    def __init__(self, root):
        self.pid, self.fd = pty.fork()
        if not self.pid:
            os.environ.update(TERM="xterm-256color", LC_ALL="C.UTF-8")
            os.execv(sys.executable, [sys.executable, "-Es", "-c", COMMAND, f"--root={root}"])
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", HEIGHT, WIDTH, 0, 0))

    def read(self, seconds):
        """Its output within `seconds`."""
        end, said = time.monotonic() + seconds, b""
        while select.select([self.fd], [], [], max(0, end - time.monotonic()))[0]:
            said += os.read(self.fd, 65536)
        return said

    def until(self, words, deadline=20.0):
        """Seconds until its output has these words."""
        started, said = time.monotonic(), b""
        while words not in said:
            if time.monotonic() - started > deadline:
                sys.exit(f"the display does not show {words!r}")
            said += self.read(0.001)
        return time.monotonic() - started

    def processor_seconds(self):
        with open(f"/proc/{self.pid}/stat") as stream:
            fields = stream.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main(arguments):
    seconds = float(arguments[0]) if arguments else 30.0
    with Nursery(NOBODY) as nursery:
        pids = nursery.create(HEAPS)
        display = Display(nursery.root)
        display.read(5.0)  # until it has inspected all processes, and is idle
        os.write(display.fd, b"\x0c")  # Ctrl-L: draw everything again
        display.until(b"%d heaps" % HEAPS)
        before = display.processor_seconds()
        display.read(seconds)
        percent = 100 * (display.processor_seconds() - before) / seconds
        os.write(display.fd, b"s")
        key = display.until(b"\xe2\x96\xb4")  # the mark in the title of the sorted column
        os.kill(pids[0], signal.SIGKILL)
        crash = display.until(b"orphaned")
        megabytes = resident(display.pid)
        os.kill(display.pid, signal.SIGKILL)
    processes = len([name for name in os.listdir("/proc") if name.isdigit()])
    print("%d heaps, %d x %d cells, %d other processes" % (HEAPS, WIDTH, HEIGHT, processes))
    print("  %.1f %% of a core (target %.0f), %.1f MB resident" % (percent, PERCENT, megabytes))
    print("  %.0f ms from a crash to the screen (target %.0f)" % (1000 * crash, 1000 * CRASH))
    print("  %.0f ms from a key to the screen (target %.0f)" % (1000 * key, 1000 * KEY))
    missed = percent >= PERCENT or crash >= CRASH or key >= KEY
    print("targets %s" % ("MISSED" if missed else "met"))
    return int(missed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
