"""Promises of redhawk-shmclean --fifos."""

import os

import pytest

from cleaning import clean
from spawning import wait_for


@pytest.fixture
def fifo_root(tmp_path):
    return str(tmp_path)


def put_fifo(root, pid, token="0a1bcdef"):
    name = f"fifo-{pid}-{token}"
    os.mkfifo(os.path.join(root, name))
    return name


def test_fifos_of_the_dead_are_removed_and_nothing_else(spawn, shm_root, fifo_root):
    pid = spawn.dead_pid()
    dead, live = put_fifo(fifo_root, pid), put_fifo(fifo_root, os.getpid())
    with open(os.path.join(fifo_root, f"fifo-{pid}-1"), "w"):
        pass
    for other in ("fifo-{}-xyz", "fifo-{}", "fifo-0{}-a", "fifo-{}-", "xfifo-{}-a", "fifo-0-a"):
        os.mkfifo(os.path.join(fifo_root, other.format(pid)))
    before = set(os.listdir(fifo_root))
    place = ("--fifos", "--fifo-root", fifo_root)
    assert clean(shm_root).everything == (0, "", "")
    assert clean(shm_root, *place, "--dry-run").out == f"would unlink {fifo_root}/{dead}\n"
    assert set(os.listdir(fifo_root)) == before
    assert clean(shm_root, *place).everything == (0, f"unlinking {fifo_root}/{dead}\n", "")
    assert set(os.listdir(fifo_root)) == before - {dead}
    done = clean(shm_root, *place, "--verbose")
    assert done.status == 0 and done.out == ""
    assert f"keeping {fifo_root}/{live}: it may be in use: process {os.getpid()} lives\n" in done.err


@pytest.mark.parametrize("flags", ["O_RDONLY", "O_WRONLY"])
def test_a_peer_that_is_blocked_in_open_stays_blocked(spawn, shm_root, fifo_root, flags):
    name = put_fifo(fifo_root, os.getpid())
    gone = put_fifo(fifo_root, spawn.dead_pid())
    peers = [
        spawn.python(
            f"print('ready', flush=True); os.open(sys.argv[1], os.{flags}); print('released', flush=True);"
            " sys.stdin.read()",
            os.path.join(fifo_root, fifo),
        )
        for fifo in (name, gone)
    ]
    for peer in peers:
        wait_for(lambda: blocked_in_open(peer.pid))  # noqa: B023
    done = clean(shm_root, "--fifos", "--fifo-root", fifo_root)
    assert done.everything == (0, f"unlinking {fifo_root}/{gone}\n", "")
    assert os.listdir(fifo_root) == [name]
    for peer in peers:
        assert blocked_in_open(peer.pid)
    # It is the creator that releases its peer.
    other = os.O_WRONLY if flags == "O_RDONLY" else os.O_RDONLY | os.O_NONBLOCK
    end = os.open(os.path.join(fifo_root, name), other)
    assert peers[0].read_line() == "released"
    os.close(end)


def blocked_in_open(pid):
    """Whether the process is in openat(), system call 257 of x86_64 and 56 of aarch64, and sleeps there."""
    with open(f"/proc/{pid}/syscall") as stream:
        called = stream.read().split()[0]
    return called in ("257", "56")


def test_a_fifo_root_that_is_not_there_is_reported_and_heaps_are_cleaned(spawn, shm_root, fifo_root):
    done = clean(shm_root, "--fifos", "--fifo-root", fifo_root + "/absent")
    assert done.everything == (
        1,
        "",
        f"redhawk-shmclean: {fifo_root}/absent cannot be read: No such file or directory\n",
    )
