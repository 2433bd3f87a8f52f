"""Watchers for the tests, in a thread of this process and as the real command; and many cheap creators."""

import ctypes
import errno
import json
import os
import select
import signal
import struct
import subprocess
import sys
import threading
import time

import pytest

from gppshm import engine, kernel, watch
from places import FOLDERS
from spawning import wait_for

COMMAND = f"import sys; sys.path[:0] = {FOLDERS!r}; from gppshm.cli.shmwatch import main; sys.exit(main())"
WITHOUT = f"import sys; sys.path[:0] = {FOLDERS!r}; import watching; watching.exec_without()"

INOTIFY = {"x86_64": (294, 253), "aarch64": (26,)}[os.uname().machine]
"""inotify_init1, inotify_init."""
INOTIFY_ADD_WATCH = {"x86_64": (254,), "aarch64": (27,)}[os.uname().machine]
PIDFD_OPEN = (434,)


class Watching:
    """A watcher that runs in a thread; `events` so far, `threads_error`: the exception that ended it."""

    def __init__(self, root, **options):
        self.events = []
        self.error = None
        self.watcher = watch.Watcher(root, self.events.append, **options)
        self.thread = threading.Thread(target=self._run)

    def _run(self):
        try:
            self.watcher.run()
        except BaseException as error:
            self.error = error

    def __enter__(self):
        self.thread.start()
        wait_for(lambda: self.error or self.watcher.counts.rescans)
        return self

    def __exit__(self, *exc):
        self.watcher.stop()
        self.thread.join(10)
        assert not self.thread.is_alive()
        self.watcher.close()
        if self.error is not None and exc == (None, None, None):
            raise self.error

    def of_kind(self, kind):
        return [event for event in list(self.events) if event.kind == kind]

    def knows(self, *heaps):
        """Wait until the creators of all these heaps are known to live."""
        names = {getattr(heap, "name", heap) for heap in heaps}
        wait_for(lambda: self.error or names <= set(self.watcher.living()))

    def identified(self, *heaps):
        """Wait until the identities of all these heaps' creators are established."""
        self.knows(*heaps)
        known = self.watcher._known
        names = [getattr(heap, "name", heap) for heap in heaps]
        wait_for(lambda: self.error or all(known[name].identity for name in names))

    def reported(self, kind, name="", deadline=10.0):
        """Wait for an event of this kind on this heap; returns it."""
        name = getattr(name, "name", name)
        return wait_for(
            lambda: self.error or next((e for e in self.of_kind(kind) if e.name == name), None), deadline
        )


ORDERS = (watch.HOST, 1000.0, False, False, True)


class Running:
    """An engine whose `step` a thread does."""

    def __init__(self, root, orders=ORDERS, **options):
        self.events, self.faults = [], []
        self.engine = engine.Engine(root, self.events.append, orders, on_fault=self.faults.append, **options)
        self.thread = threading.Thread(target=self.engine.run)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *exc):
        self.engine.finish()
        self.thread.join(10)
        assert not self.thread.is_alive()
        self.engine.close()

    def knows(self, *heaps):
        names = {getattr(heap, "name", heap) for heap in heaps}
        wait_for(lambda: names <= set(self.engine.living()))

    def names(self, kind):
        return [event.name for event in self.events if event.kind == kind]

    def reported(self, kind, heap):
        name = getattr(heap, "name", heap)
        return wait_for(lambda: next((e for e in self.events if (e.kind, e.name) == (kind, name)), None))


class ByHand:
    """A watcher whose steps are called by the test; events wait in between."""

    def __init__(self, root, **options):
        self.events = []
        self.root = root
        options.setdefault("rescan", 1000)
        self.watcher = watch.Watcher(root, self.events.append, **options)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.watcher.close()

    def until(self, predicate, deadline=10.0):
        """Take steps until `predicate()` is true; returns its value."""
        return wait_for(predicate, deadline, lambda: self.watcher.step(0.02), self.reports)

    def steps(self, seconds):
        """Take steps for `seconds`."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.watcher.step(0.02)

    def keeps(self, heap, seconds=0.7):
        """Take steps for `seconds`; fails if the heap loses its name, or a removal is reported."""
        path = os.path.join(self.root, getattr(heap, "name", heap))
        inode = os.stat(path).st_ino
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.watcher.step(0.02)
            assert os.stat(path).st_ino == inode
        assert not [event for event in self.events if event.kind == watch.REMOVED], self.reports()

    def identity(self, heap):
        """The established identity of the heap's creator; None if there is none."""
        known = self.watcher._known.get(getattr(heap, "name", heap))
        return known and known.identity

    def identified(self, heap):
        """Take steps until the identity of the heap's creator is established."""
        return self.until(lambda: self.identity(heap))

    def reported(self, kind, heap=""):
        """Take steps until an event of this kind on this heap comes; returns it."""
        name = getattr(heap, "name", heap)
        return self.until(lambda: next((e for e in self.events if (e.kind, e.name) == (kind, name)), None))

    def reports(self):
        """The events so far, without those about problems of triggers."""
        news = [event for event in self.events if event.kind != watch.TROUBLE]
        return [(event.kind, event.name, event.reason) for event in news]


class Shmwatch:
    """The real command, with --json; `ready` is its first object."""

    def __init__(self, root, *arguments, prefix=(), without=(), json_lines=True):
        command = [sys.executable, "-s", "-c", COMMAND, f"--root={root}", *arguments]
        if json_lines:
            command.append("--json")
        if without:
            command = [sys.executable, "-s", "-c", WITHOUT, *map(str, without), "--", *command]
        self.process = subprocess.Popen(
            [*prefix, *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self._rest = b""
        self.said = []
        self.pid = self.process.pid
        try:
            if json_lines:
                self.ready = self.wait("ready")
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.process.stderr.close()

    def find_pid(self):
        """The pid of the command itself, also if `unshare` started it."""
        with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children") as stream:
            self.pid = int(stream.read().split()[0])

    def line(self, deadline=10.0):
        """Its next line; fails if there is none within `deadline` seconds."""
        stream, end = self.process.stdout.fileno(), time.monotonic() + deadline
        while b"\n" not in self._rest:
            if not select.select([stream], [], [], max(0, end - time.monotonic()))[0]:
                pytest.fail(f"it said nothing more for {deadline} seconds; before: {self.said}")
            data = os.read(stream, 65536)
            if not data:
                pytest.fail(f"it ended: {self.process.wait()}, {self.process.stderr.read()}; {self.said}")
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()

    def wait(self, event, name=None, deadline=10.0):
        """Its next object of this kind (on this heap); all objects so far are in `said`."""
        name = getattr(name, "name", name)
        while True:
            said = json.loads(self.line(deadline))
            self.said.append(said)
            if said["event"] == event and (name is None or said["name"] == name):
                return said

    def complaint(self, deadline=10.0):
        """The first line on stderr; fails if there is none within `deadline` seconds."""
        if not select.select([self.process.stderr], [], [], deadline)[0]:
            pytest.fail(f"nothing on stderr within {deadline} seconds; said: {self.said}")
        return self.process.stderr.readline().decode()

    def state(self):
        os.kill(self.pid, signal.SIGUSR1)
        return self.wait("state")

    def end(self, number=signal.SIGTERM):
        """End it by a signal; returns its last object, and stderr. Checks that its status is 0."""
        os.kill(self.pid, number)
        out, err = self.process.communicate(timeout=10)
        assert self.process.returncode == 0, err
        lines = (self._rest + out).decode().splitlines()
        self.said += [json.loads(line) for line in lines]
        return self.said[-1], err.decode()


class Farm:
    """Many cheap creators: forks of one process, each with a small heap of its own under `root`."""

    CODE = """
import heapwriter, signal, ctypes
root, count = sys.argv[1], int(sys.argv[2])
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
libc = ctypes.CDLL(None)
pids = []
for _ in range(count):
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG: none outlives a test that was ended
        heap = heapwriter.LiveHeap.create(root, ((4096, ()),))
        os.write(writer, b"x")
        while True:
            signal.pause()
    os.close(writer)
    assert os.read(reader, 1)
    os.close(reader)
    pids.append(pid)
print("ready", *pids, flush=True)
sys.stdin.read()
for pid in pids:
    try:
        os.kill(pid, 9)
    except ProcessLookupError:
        pass
"""

    def __init__(self, spawn, root, count):
        self.child = spawn.python(self.CODE, root, count)
        self.pids = [int(word) for word in self.child.name.split()]
        self.names = ["heap-%d" % pid for pid in self.pids]

    def kill(self, pids=None):
        for pid in self.pids if pids is None else pids:
            os.kill(pid, signal.SIGKILL)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        """End all of them."""
        self.child.leave()


def gone(root, *heaps):
    """Wait until these heaps do not exist any more."""
    names = [getattr(heap, "name", heap) for heap in heaps]
    wait_for(lambda: not [name for name in names if os.path.exists(os.path.join(root, name))])


def forbid(numbers, error):
    """Make these system calls fail with `error` in this process from now on, also after an exec."""
    machine = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}[os.uname().machine]
    LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
    ERRNO, ALLOW = 0x00050000, 0x7FFF0000
    code = [(LOAD, 0, 0, 4), (EQUAL, 1, 0, machine), (RETURN, 0, 0, ALLOW), (LOAD, 0, 0, 0)]
    for number in numbers:
        code += [(EQUAL, 0, 1, number), (RETURN, 0, 0, ERRNO | error)]
    code.append((RETURN, 0, 0, ALLOW))
    text = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in code))
    program = ctypes.create_string_buffer(struct.pack("HP", len(code), ctypes.addressof(text)))
    libc = ctypes.CDLL(None, use_errno=True)
    PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, FILTER = 38, 22, 2
    for call in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, FILTER, program, 0, 0)):
        if libc.prctl(*call):
            raise OSError(ctypes.get_errno(), "prctl%s" % (call,))


def exec_without():
    """NUMBER:ERRNO ... -- COMMAND: exec the command, with these system calls failing."""
    cut = sys.argv.index("--")
    for word in sys.argv[1:cut]:
        number, error = word.split(":")
        forbid([int(number)], int(error))
    os.execv(sys.argv[cut + 1], sys.argv[cut + 1 :])


def failing(numbers, error):
    """For `Shmwatch(without=...)`: the system calls that fail with `error`."""
    return [f"{number}:{error}" for number in numbers]


def without_pidfds(monkeypatch):
    def no_such_call(pid):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(kernel, "pidfd_open", no_such_call)
