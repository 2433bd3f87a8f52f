"""Real processes for the tests, and functions that wait for their effects."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
import traceback

import pytest

from places import FOLDERS, HEAPWRITER, VIEWS

IN_A_PID_NAMESPACE = ("unshare", "--pid", "--fork", "--kill-child")
"""Add --mount-proc for a /proc of its own, in which no process outside is visible."""

needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="needs root: to make namespaces and mounts, or to become another user"
)


def wait_for(predicate, deadline=10.0, pause=lambda: time.sleep(0.002), so_far=lambda: ""):
    """Wait until `predicate()` is true; returns its value, or fails after `deadline` seconds.

    pause   called between two tries
    so_far  returns what the failure shows
    """
    end = time.monotonic() + deadline
    while True:
        found = predicate()
        if found:
            return found
        if time.monotonic() > end:
            pytest.fail(f"not so within {deadline} seconds: {predicate} {so_far()}".rstrip())
        pause()


def stays(predicate, seconds):
    """Fail unless `predicate()` is true for `seconds`: for promises that something does not happen."""
    end = time.monotonic() + seconds
    while True:
        if not predicate():
            pytest.fail(f"it did not stay so for {seconds} seconds: {predicate}")
        if time.monotonic() > end:
            return
        time.sleep(0.01)


def status_of(pid):
    """State (R, S, D, Z ..) and parent of a process; "" and 0 if it does not exist."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stream:
            fields = stream.read().rpartition(b")")[2].split()
    except OSError:
        return "", 0
    return fields[0].decode(), int(fields[1])


def state_of(pid):
    return status_of(pid)[0]


def lives(pid):
    """Whether a process exists and is no zombie: a container's init may reap late."""
    return state_of(pid) not in ("", "Z", "X")


def descriptors():
    """The open descriptors of this process except sockets, which the ORB of earlier tests closes late."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.append((int(fd), os.readlink(f"/proc/self/fd/{fd}")))
    return sorted(each for each in found if not each[1].startswith("socket:"))


class Child:
    """A process that printed "ready ..." and waits until its stdin ends.

    pid     of the program itself in this pid namespace, also if `unshare` started it
    name    the text after "ready"; for a heap's owner, the name of the heap
    """

    def __init__(self, command, deadline=20.0):
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, close_fds=True
        )
        try:
            line = self.read_line(deadline)
            if not line.startswith("ready"):
                pytest.fail(f"{command} said {line!r}, not ready")
        except BaseException:
            self.kill()
            raise
        self.name = line[6:]
        self.pid = self._descendants()[-1]

    def read_line(self, deadline=20.0):
        """The next line that it prints; fails if it ends, or prints none within `deadline` seconds."""
        stream, line, end = self.process.stdout.fileno(), b"", time.monotonic() + deadline
        while not line.endswith(b"\n"):
            if not select.select([stream], [], [], max(0, end - time.monotonic()))[0]:
                pytest.fail(f"{self.process.args} printed nothing for {deadline} seconds")
            byte = os.read(stream, 1)
            if not byte:
                pytest.fail(f"{self.process.args} ended with status {self.process.wait()}")
            line += byte
        return os.fsdecode(line[:-1])

    def _descendants(self):
        """The process and, if it is `unshare`, the program that it started."""
        pids = [self.process.pid]
        if os.path.basename(self.process.args[0]) == "unshare":
            with open("/proc/{0}/task/{0}/children".format(pids[0])) as stream:
                pids += [int(pid) for pid in stream.read().split()]
        return pids

    def send(self, line):
        """Send it a line."""
        self.process.stdin.write(line.encode() + b"\n")

    def kill(self, number=signal.SIGKILL):
        """End it by a signal, as a crash does, and reap it; does nothing if it has ended already."""
        if self.process.poll() is None:
            try:
                # `unshare` ends after the program and all its processes.
                os.kill(self._descendants()[-1], number)
            except (OSError, IndexError):
                self.process.send_signal(number)
        return self._reap()

    def leave(self):
        """Let it exit normally; returns its exit status."""
        self.process.stdin.close()
        return self._reap()

    def _reap(self):
        try:
            status = self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        return status


class Spawn:
    """Starts processes that do not outlive the test."""

    def __init__(self):
        self.children = []

    def program(self, *command):
        """Start a program that prints "ready ..."; returns the Child."""
        child = Child(command)
        self.children.append(child)
        return child

    def owner(self, root, *options, prefix=()):
        """Start a process with a heap of its own in `root` (options: see demo/heapwriter.py)."""
        return self.program(*prefix, sys.executable, "-I", HEAPWRITER, "own", f"--root={root}", *options)

    def peer(self, root, heap, *options, prefix=()):
        """Start a process that is attached to a heap, given by its owner or its name."""
        name = getattr(heap, "name", heap)
        return self.program(
            *prefix, sys.executable, "-I", HEAPWRITER, "attach", name, f"--root={root}", *options
        )

    def python(self, code, *arguments, prefix=()):
        """Start a process that runs `code`, which must print a line "ready ..." and then wait for stdin.

        It has the sys.path of the tests, the arguments in `sys.argv[1:]`, and os and sys imported.
        """
        return self.program(*prefix, *python_command(code, *arguments))

    def dead_pid(self):
        """The pid of a process that has just ended."""
        process = subprocess.Popen(["true"])
        process.wait()
        return process.pid

    def close(self):
        for child in self.children:
            child.kill()


def python_command(code, *arguments):
    preamble = f"import os, sys; sys.path[:0] = {FOLDERS!r}\n"
    return [sys.executable, "-I", "-c", preamble + code] + [str(argument) for argument in arguments]


def run_command(command, timeout=60, **options):
    """Run a command; returns the CompletedProcess, with stdout and stderr as str."""
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        timeout=timeout,
        **options,
    )


def seen_elsewhere(root, *names, prefix=()):
    """What another process sees: name -> {"kind", "state", "reason", ...}; see views.py."""
    done = run_command([*prefix, sys.executable, "-I", VIEWS, root, *names])
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def in_child(function, *arguments, uid=None):
    """The result of `function(*arguments)`, run in a forked child, as user `uid` if given; it must fit JSON.

    It does not exec: an ordinary user may not be able to read this interpreter.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reader)
            if uid is not None:
                import views

                views.become(uid)
            with open(writer, "w") as stream:
                json.dump(function(*arguments), stream)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writer)
    try:
        with open(reader) as stream:
            text = stream.read()
    finally:
        _, status = os.waitpid(pid, 0)
    assert status == 0, f"the child failed with status {status}: see its stderr"
    return json.loads(text)
