"""Promises of redhawk-shmclean beside other cleaners, listings, the watcher, users; without descriptors."""

import contextlib
import io
import os
import subprocess
import time

import pytest

from cleaning import CLEAN, clean, orphan, put_orphan
from gppshm import watch
from gppshm.cli import shmclean
from spawning import in_child, needs_root, run_command

SMALL = "--size=4096"
NOBODY = 65534
OTHER = 65533


def start(root, *arguments):
    return subprocess.Popen(
        [*CLEAN, "--root", root, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )


def put_orphans(spawn, root, count):
    pid = spawn.dead_pid()
    return [put_orphan(spawn, root, "heap-%d" % pid)] + [
        put_orphan(spawn, root, "heap-%d" % number) for number in range(4190000, 4189999 + count)
    ]


@pytest.mark.parametrize("named", [False, True])
def test_of_cleaners_at_once_each_heap_is_removed_once_and_told_once(spawn, shm_root, named):
    live = spawn.owner(shm_root, SMALL)
    for _ in range(3):
        orphans = put_orphans(spawn, shm_root, 150)
        cleaners = [start(shm_root, *(orphans if named else ())) for _ in range(3)]
        ended = [cleaner.communicate(timeout=60) + (cleaner.returncode,) for cleaner in cleaners]
        told = [line for out, _, _ in ended for line in out.splitlines()]
        assert sorted(told) == sorted("unlinking " + name for name in orphans)
        if named:
            # A cleaner that started when a heap was gone already was asked for what is not there.
            complaints = [line for _, err, _ in ended for line in err.splitlines()]
            assert all(line.endswith("could not be opened: No such file or directory") for line in complaints)
        else:
            assert [(err, status) for _, err, status in ended] == [("", 0)] * 3
        assert os.listdir(shm_root) == [live.name]


def test_what_vanishes_while_it_cleans_is_quiet_success(spawn, shm_root):
    orphans = put_orphans(spawn, shm_root, 400)
    for names in (orphans, ()):
        cleaner = start(shm_root, *names)
        said = [cleaner.stdout.readline()]
        listed = [name for name in os.listdir(shm_root) if name.startswith("heap-")]
        if names:
            listed = [name for name in reversed(names) if name in listed]
        mine = [name for name in listed[: len(listed) // 2] if removed_here(shm_root, name)]
        told, err = the_rest(cleaner, said)
        assert mine and (cleaner.returncode, err) == (0, "")
        assert sorted(told + mine) == sorted(orphans)
        orphans = put_orphans(spawn, shm_root, 400)


def the_rest(cleaner, said):
    """Wait for its end; the names that it told (the lines `said` were read already), and its stderr."""
    with cleaner:
        said += cleaner.stdout.readlines()
        err = cleaner.stderr.read()
    return [line[len("unlinking ") : -1] for line in said], err


def removed_here(root, name):
    try:
        os.unlink(os.path.join(root, name))
    except FileNotFoundError:
        return False
    return True


def test_beside_the_watcher_each_heap_is_removed_once_and_told_once(spawn, shm_root):
    live = spawn.owner(shm_root, SMALL)
    both = 0
    for _ in range(4):
        orphans, events = put_orphans(spawn, shm_root, 400), []
        cleaner = start(shm_root)
        said = [cleaner.stdout.readline()]
        with watch.Watcher(shm_root, events.append, rescan=0.5) as watcher:
            watcher.sweep()
            told, err = the_rest(cleaner, said)
            while os.listdir(shm_root) != [live.name]:
                watcher.step(1)
        assert (cleaner.returncode, err) == (0, "")
        removed = [event.name for event in events if event.kind is watch.REMOVED]
        assert sorted(removed + told) == sorted(orphans)
        both += bool(removed and told)
    assert both, "they never met"


def test_a_lister_that_opens_heaps_for_writing_delays_a_sweep_by_moments_only(spawn, shm_root):
    """As REDHAWK's own redhawk-shminfo does: it opens each heap O_RDWR for a moment."""
    listing = """
import time
print("ready", flush=True)
while True:
    for name in os.listdir(sys.argv[1]):
        try:
            os.close(os.open(sys.argv[1] + "/" + name, os.O_RDWR))
        except OSError:
            pass
    time.sleep(0.0005)
"""
    lister = spawn.python(listing, shm_root)
    for _ in range(10):
        orphans = put_orphans(spawn, shm_root, 30)
        done = clean(shm_root)
        assert (done.status, done.err) == (0, "")
        assert sorted(done.out.splitlines()) == sorted("unlinking " + name for name in orphans)
    assert lister.process.poll() is None


def test_a_hostile_reader_with_a_lock_saves_no_orphan(spawn, shm_root):
    orphans = put_orphans(spawn, shm_root, 3)
    spawn.python(
        "import fcntl\n"
        "files = [open(sys.argv[1] + '/' + name) for name in os.listdir(sys.argv[1])]\n"
        "[fcntl.flock(file, fcntl.LOCK_EX) for file in files]\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read()",
        shm_root,
    )
    begin = time.monotonic()
    done = clean(shm_root)
    assert (done.status, done.err) == (0, "") and len(done.out.splitlines()) == len(orphans)
    assert time.monotonic() - begin < 5
    assert os.listdir(shm_root) == []


# -- other users --------------------------------------------------------------------------------------------


def clean_as(uid, root, *arguments):
    """The command as an ordinary user, who may not be able to start this interpreter: so there is no exec."""

    def run():
        # What the command imports on the way may lie in a home that is closed to the user.
        out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
        err = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = shmclean.main(["--root", root, *arguments])
        out.flush()
        return [status, out.buffer.getvalue().decode("utf-8"), err.getvalue()]

    shmclean.build_parser()
    import pwd  # noqa: F401

    from gppshm import held, processes  # noqa: F401

    return tuple(in_child(run, uid=uid))


@needs_root
def test_in_a_sticky_directory_what_may_not_be_unlinked_is_reported_by_name(spawn, shm_root):
    name = orphan(spawn, shm_root)
    reason = "it cannot be unlinked: Operation not permitted; it belongs to root"
    for arguments in ([], [name]):
        status, out, err = clean_as(NOBODY, shm_root, *arguments)
        assert (status, out) == (1, "")
        assert err == f"error: {name}: {reason}: run this as that user, or as root\n"
    assert clean_as(NOBODY, shm_root, "-f", name) == (1, "", f"{name}: Operation not permitted\n")
    assert os.listdir(shm_root) == [name]


@needs_root
def test_an_ordinary_user_cleans_the_own_orphans_and_keeps_the_live_heaps_of_others(spawn, shm_root):
    live, theirs = spawn.owner(shm_root, SMALL), spawn.owner(shm_root, SMALL, "--mode=600")
    mine = put_orphans(spawn, shm_root, 1)[0]
    os.chown(os.path.join(shm_root, mine), NOBODY, NOBODY)
    assert clean_as(NOBODY, shm_root) == (0, f"unlinking {mine}\n", "")
    status, out, err = clean_as(NOBODY, shm_root, live.name, theirs.name)
    assert (status, out) == (1, "")
    first, second = sorted(err.splitlines(), key=lambda line: "Permission denied" in line)
    assert first.startswith(f"{live.name} may be in use (") and first.endswith("): it is kept")
    assert second == f"{theirs.name} could not be opened: Permission denied"
    status, out, err = clean_as(NOBODY, shm_root, "--verbose")
    assert (status, out) == (0, "")
    assert f"keeping {theirs.name}: it cannot be opened: Permission denied\n" in err
    assert sorted(os.listdir(shm_root)) == sorted([live.name, theirs.name])


# -- descriptors --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", range(3, 13))
def test_out_of_descriptors_it_removes_or_says_that_it_could_not(spawn, shm_root, limit):
    name = orphan(spawn, shm_root)
    for arguments in ((), (name,), ("--verbose",), ("--json",)):
        done = run_command(
            ["sh", "-c", f'ulimit -n {limit} && exec "$@"', "sh", *CLEAN, "--root", shm_root, *arguments]
        )
        if name in os.listdir(shm_root):
            assert done.returncode != 0 and done.stderr and "unlinking" not in done.stdout, done
        elif arguments != ("--json",):
            assert done.stdout.startswith(f"unlinking {name}\n"), done
        if limit >= 6:
            # Below, the interpreter itself may not come up.
            assert "Traceback" not in done.stderr
        if not os.listdir(shm_root):
            name = orphan(spawn, shm_root)


def test_a_low_soft_limit_is_no_limit(spawn, shm_root):
    orphans = put_orphans(spawn, shm_root, 5)
    done = run_command(["sh", "-c", 'ulimit -Sn 5 && exec "$@"', "sh", *CLEAN, "--root", shm_root])
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == len(orphans) and os.listdir(shm_root) == []
