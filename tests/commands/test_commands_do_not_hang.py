"""No command hangs on a process that blocks whoever looks into it: it is named, and passed over; status 1.

What blocks is real: tests/silent.py, by FUSE, and a FIFO over its maps, as on kernels before 6.17.
"""

# ruff: noqa: F811 (pytest finds fixtures by name: they are imported, and are arguments)

import json
import os
import re
import sys
import time

import pytest

from blocking import ENDING, fifo, over
from blocking import blocked as blocked
from devices import manager, start  # noqa: F401
from scraping import free_port, scrape
from spawning import needs_root, run_command, wait_for
from watching import Shmwatch

pytestmark = needs_root

ENDS = 8.0
"""Seconds: generous, for two processors with other tests beside; what blocks, blocks for ever."""


@pytest.fixture
def run(shm_root, tmp_path):
    """run(child, kind, module, *arguments): a command with `child` in its way; what it said, and its end."""

    def start(child, kind, module, *arguments):
        prefix = over((fifo(tmp_path / "fifo"), f"/proc/{child.pid}/maps")) if "maps" in kind else ()
        code = f"import sys; sys.path[:0] = {sys.path!r}; from gppshm.cli import {module} as command"
        code += f"; sys.argv[1:] = {list(arguments)!r}; sys.exit(command.main())"
        started = time.monotonic()
        done = run_command([*prefix, sys.executable, "-I", "-c", code], timeout=60)
        assert time.monotonic() - started < ENDS
        return done

    return start


def is_named(child, done):
    named = [line for line in done.stderr.splitlines() if f"process {child.pid} (" in line]
    assert len(named) == 1 and re.match(r"redhawk-shm\w+: .* does not answer; it is passed over", named[0])
    assert done.returncode == 1
    return True


@pytest.mark.parametrize("form", ["", "--json", "--holders", "--check", "--sort=state", "--json --holders"])
def test_every_form_of_shminfo_ends_though_maps_block(shm_root, spawn, blocked, run, form):
    peer = spawn.owner(shm_root)
    child = blocked("maps")
    done = run(child, "maps", "shminfo", f"--root={shm_root}", *form.split())
    assert is_named(child, done)
    assert peer.name in done.stdout and child.heap in done.stdout
    if "--json" in form:
        states = {file["name"]: file["state"] for file in json.loads(done.stdout)["files"]}
        assert states == {peer.name: "alive", child.heap: "unknown"}


def test_a_picture_of_blocks_ends_though_maps_block(shm_root, blocked, run):
    child = blocked("maps")
    done = run(child, "maps", "shminfo", f"--root={shm_root}", "--blocks", child.heap)
    assert is_named(child, done) and "superblock 1 of 1" in done.stdout


@pytest.mark.parametrize("kind", ["command line", "descriptor"])
@pytest.mark.parametrize("form", ["--holders", "--json --holders"])
def test_holders_are_shown_though_a_command_line_or_a_descriptor_blocks(
    shm_root, spawn, blocked, run, form, kind
):
    owner = spawn.owner(shm_root)
    child = blocked(kind)
    done = run(child, kind, "shminfo", f"--root={shm_root}", *form.split())
    assert is_named(child, done)
    assert str(owner.pid) in done.stdout and "heapwriter.py" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [[], ["--verbose"], ["--json"], ["--reclaim"], ["NAME"], ["-f", "NAME"], ["-f", "--json", "NAME"]],
)
def test_every_form_of_shmclean_ends_though_maps_block(shm_root, spawn, blocked, run, arguments):
    owner, child = spawn.owner(shm_root), blocked("maps")
    peer = spawn.peer(shm_root, owner)
    owner.kill()
    words = [owner.name if word == "NAME" else word for word in arguments]
    done = run(child, "maps", "shmclean", f"--root={shm_root}", *words)
    assert is_named(child, done)
    # Whether the one that blocks is attached, too, is not known: its pid is another, so the orphan goes.
    assert os.listdir(shm_root) == [child.heap], done.stderr
    if "--json" in arguments:
        told = json.loads(done.stdout)
        assert told["exit_status"] == 1 and told["removed"] == 1
        (outcome,) = [each for each in told["outcomes"] if each["name"] == owner.name]
        assert peer.pid in [each["pid"] for each in outcome["held_by"]]


@pytest.mark.parametrize("kind", ["command line", "descriptor"])
@pytest.mark.parametrize("form", ["--verbose", "--json", "--reclaim"])
def test_shmclean_ends_though_a_command_line_or_a_descriptor_blocks(
    shm_root, spawn, blocked, run, form, kind
):
    owner, child = spawn.owner(shm_root), blocked(kind)
    spawn.peer(shm_root, child.heap)
    spawn.peer(shm_root, owner)
    owner.kill()
    done = run(child, kind, "shmclean", f"--root={shm_root}", form)
    assert os.listdir(shm_root) == [child.heap], done.stderr
    if kind == "descriptor":
        assert is_named(child, done)


def test_fifos_of_the_dead_are_removed_though_maps_block(shm_root, tmp_path, spawn, blocked, run):
    child = blocked("maps")
    fifos = tmp_path / "fifos"
    fifos.mkdir()
    for pid in (spawn.dead_pid(), child.pid):
        os.mkfifo(str(fifos / f"fifo-{pid}-ab12"))
    done = run(child, "maps", "shmclean", f"--root={shm_root}", "--fifos", f"--fifo-root={fifos}")
    assert is_named(child, done)
    assert os.listdir(str(fifos)) == [f"fifo-{child.pid}-ab12"]


@pytest.mark.parametrize("kind", ["maps", "descriptor"])
def test_metrics_are_scraped_and_the_watcher_ends_though_a_process_blocks(
    shm_root, tmp_path, spawn, blocked, kind
):
    spawn.owner(shm_root)
    child, port = blocked(kind), free_port()
    prefix = over((fifo(tmp_path / "fifo"), f"/proc/{child.pid}/maps")) if kind == "maps" else ()
    with Shmwatch(shm_root, f"--metrics={port}", prefix=prefix) as watching:
        started = time.monotonic()
        figures = scrape(port)
        assert time.monotonic() - started < ENDS
        assert figures["scan_success"] == 1
        assert figures["heaps{state=alive}"] == figures["heaps{state=unknown}"] == 1
        started = time.monotonic()
        watching.end()
        assert time.monotonic() - started < ENDING


@pytest.mark.parametrize("kind", ["maps", "command line", "descriptor"])
def test_a_frame_of_shmtop_is_printed_though_a_process_blocks(shm_root, spawn, blocked, run, kind):
    owner, child = spawn.owner(shm_root), blocked(kind)
    done = run(child, kind, "shmtop", f"--root={shm_root}", "--once")
    assert is_named(child, done)
    assert owner.name in done.stdout and child.heap in done.stdout


def test_the_device_shows_its_figures_and_ends_though_a_process_blocks(shm_root, spawn, blocked, start):
    owner, child = spawn.owner(shm_root), blocked("descriptor")
    device = start()

    def shown():
        return {heap["name"]: heap["state"] for heap in device.query("shm::heaps")}

    wait_for(lambda: {owner.name, child.heap} <= set(shown()))
    assert shown()[owner.name] == "alive"
    later = spawn.owner(shm_root)
    wait_for(lambda: later.name in shown(), 20)
    later.kill()
    wait_for(lambda: not os.path.exists(os.path.join(shm_root, later.name)))
    assert device.query("shm::usage")["total"] > 0
    started = time.monotonic()
    assert device.end() == 0
    assert time.monotonic() - started < ENDING
