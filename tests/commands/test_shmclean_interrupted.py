"""Promises of redhawk-shmclean about Ctrl-C: it ends it at once, never within a removal, and all is told."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

import heapwriter
from cleaning import CLEAN, PACKAGES, UNBUFFERED
from spawning import state_of, wait_for

AT_ONCE = 5.0
"""Seconds: generous, for a busy machine; who is not interrupted never ends."""

INTERRUPTED = (
    """
import _signal, os, sys
sys.path.append(%r)
from gppshm.cli import shmclean

place, times, act = sys.argv.pop(1), int(sys.argv.pop(1)), None
count = 0

def interrupted(real, before):
    def act(*arguments, **options):
        global count
        count += 1
        if before and count %% 2:
            interrupt()
        result = real(*arguments, **options)
        if not before and count %% 2:
            interrupt()
        return result
    return act

def interrupt():
    for _ in range(times):
        os.kill(os.getpid(), _signal.SIGINT)

when, _, name = place.partition(" ")
setattr(os, name, interrupted(getattr(os, name), when == "before"))
sys.exit(shmclean.main())
"""
    % PACKAGES
)
"""The command, with SIGINT before or after an os.rename or os.unlink of its."""


def put_heaps(root, count):
    """Write heaps of pids that never are; returns their names."""
    pids = range(4194304 - count, 4194304)
    for pid in pids:
        heapwriter.create(os.path.join(root, f"heap-{pid}"), pid, [(4096, ())])
    return {f"heap-{pid}" for pid in pids}


def told(out):
    """The names in lines or in JSON."""
    if out.startswith("{"):
        found = json.loads(out)
        removed = [each["name"] for each in found["outcomes"] + found["fifos"] if each["result"] == "removed"]
        assert found["removed"] == len(removed)
    else:
        removed = [line[len("unlinking ") :] for line in out.splitlines() if line[:2] != "  "]
    names = [os.path.basename(name) for name in removed]
    assert len(set(names)) == len(names)
    return set(names)


def run(*command):
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60,
        universal_newlines=True,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


PLACES = ["before rename", "after rename", "before unlink", "after unlink"]
FORMS = [[], ["--json"], ["--verbose"], ["names"], ["names", "--json"]]


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("form", FORMS, ids=" ".join)
@pytest.mark.parametrize("place", PLACES)
def test_ctrl_c_within_a_removal_lets_it_be_finished_and_told(shm_root, place, form, times):
    names = put_heaps(shm_root, 5)
    words = [word for word in form if word != "names"] + (sorted(names) if "names" in form else [])
    status, out, err = run(
        sys.executable, "-IS", "-c", INTERRUPTED, place, str(times), "--root", shm_root, *words
    )
    left = set(os.listdir(shm_root))
    assert (status, err) == (130, "")
    assert left < names and len(left) == 4 and told(out) == names - left
    assert "--json" not in form or json.loads(out)["complete"] is False


@pytest.mark.parametrize("form", [["--verbose"], ["--json"]], ids=" ".join)
@pytest.mark.parametrize("place", PLACES[2:])
def test_ctrl_c_within_a_removal_by_force_lets_it_be_told(shm_root, spawn, place, form):
    live = {spawn.owner(shm_root, "--size=4096").name for _ in range(2)}
    status, out, err = run(
        sys.executable, "-IS", "-c", INTERRUPTED, place, "2", "--root", shm_root, "-f", *form, *live
    )
    (left,) = os.listdir(shm_root)
    assert status == 130 and {left} < live and told(out) == live - {left}
    (lost,) = live - {left}
    assert err.startswith(f"{lost} was in use; who loses it: ")


@pytest.mark.parametrize("form", [[], ["--json"]], ids=" ".join)
@pytest.mark.parametrize("place", PLACES[2:])
def test_ctrl_c_within_the_removal_of_a_fifo_lets_it_be_told(shm_root, tmp_path, place, form):
    names = {f"fifo-{pid}-1" for pid in range(4194300, 4194304)}
    for name in names:
        os.mkfifo(str(tmp_path / name))
    status, out, err = run(
        sys.executable, "-IS", "-c", INTERRUPTED, place, "2", "--root", shm_root,
        "--fifos", "--fifo-root", str(tmp_path), *form,
    )  # fmt: skip
    left = set(os.listdir(str(tmp_path)))
    assert (status, err) == (130, "")
    assert left < names and len(left) == 3 and told(out) == names - left


@pytest.mark.parametrize("form", [[], ["--json"]], ids=" ".join)
def test_ctrl_c_at_any_moment_leaves_whole_heaps_and_tells_all_removals(shm_root, form):
    rounds = 0
    for number in range(12):
        names = put_heaps(shm_root, 400)
        process = subprocess.Popen(
            [*CLEAN, "--root", shm_root, *form], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            universal_newlines=True,
        )  # fmt: skip
        with process:
            wait_for(lambda: len(os.listdir(shm_root)) < len(names))  # noqa: B023
            time.sleep(number * 0.0003)
            for _ in range(1 + number % 3):
                process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=20)
        left = set(os.listdir(shm_root))
        assert left < names and told(out) == names - left
        if left:  # on a busy machine it may have ended first
            assert (process.returncode, err) == (130, "")
        rounds += bool(left)
    assert rounds


def test_where_ctrl_c_is_ignored_it_goes_on(shm_root):
    names = put_heaps(shm_root, 5)
    command = [sys.executable, "-IS", "-c", INTERRUPTED, "after rename", "1", "--root", shm_root]
    status, out, err = run("sh", "-c", "trap '' INT; exec \"$@\"", "sh", *command)
    assert (status, err, os.listdir(shm_root)) == (0, "", []) and told(out) == names


def full_pipe():
    """The ends of a pipe that takes nothing more, and the bytes in it."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    size = 0
    for piece in (b"-" * 4096, b"-"):
        try:
            while True:
                size += os.write(writer, piece)
        except BlockingIOError:
            pass
    os.set_blocking(writer, True)
    return reader, writer, size


@pytest.mark.parametrize("command", [CLEAN, UNBUFFERED], ids=["", "unbuffered"])
@pytest.mark.parametrize("form", [[], ["--json"], ["--help"], ["-f", "absent"]], ids=" ".join)
def test_ctrl_c_ends_it_at_once_though_nobody_reads_its_output(shm_root, form, command):
    put_heaps(shm_root, 5)
    reader, writer, size = full_pipe()
    process = subprocess.Popen([*command, "--root", shm_root, *form], stdout=writer, stderr=writer)
    os.close(writer)
    with process:
        wait_for(lambda: waits_for_its_reader(process.pid))
        process.send_signal(signal.SIGINT)
        begin = time.monotonic()
        status = process.wait(20)
        assert status == 130 and time.monotonic() - begin < AT_ONCE
    assert len(read_all(reader)) == size
    assert all(name.startswith("heap-") for name in os.listdir(shm_root))


@pytest.mark.parametrize("command", [CLEAN, UNBUFFERED], ids=["", "unbuffered"])
@pytest.mark.parametrize("form", [[], ["--json"]], ids=" ".join)
def test_ctrl_c_while_a_slow_reader_is_waited_for_loses_nothing_that_it_reads_then(shm_root, form, command):
    names = put_heaps(shm_root, 40)
    reader, writer, size = full_pipe()
    process = subprocess.Popen([*command, "--root", shm_root, *form], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    with process:
        wait_for(lambda: waits_for_its_reader(process.pid))
        process.send_signal(signal.SIGINT)
        out = read_all(reader)[size:].decode()
        err = process.stderr.read()
    assert (process.returncode, err) == (130, b"")
    if form:
        assert json.loads(out)["removed"] == len(names) and os.listdir(shm_root) == []
    else:
        assert told(out) == names - set(os.listdir(shm_root)) and len(told(out)) == 1


def waits_for_its_reader(pid):
    """Whether it sleeps for longer than for anything else."""
    end = time.monotonic() + 0.3
    while time.monotonic() < end:
        if state_of(pid) != "S":
            return False
        time.sleep(0.005)
    return True


def read_all(fd):
    with open(fd, "rb") as stream:
        return stream.read()
