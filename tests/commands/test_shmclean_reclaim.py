"""redhawk-shmclean --reclaim gives back orphans' free memory while peers are attached, at the user's risk."""

import json
import os
import re
import sys

import pytest

import heapwriter
from cleaning import PACKAGES, clean
from gppshm import held
from spawning import needs_root, run_command

PAGE = heapwriter.PAGE
HEAP = ("--size=1048576", "--used=300000", "--block=100000")


def orphan(spawn, root, *options):
    """An owner that was killed, and its peer, which checks every byte."""
    owner = spawn.owner(root, *HEAP)
    peer = spawn.peer(root, owner, "--hold", *options)
    owner.kill()
    return owner, peer


def taken(root, name, holder):
    """A function that tells how much memory the file takes, also when it has no name any more."""
    status = os.stat(os.path.join(root, name))

    def blocks():
        # Nothing is kept open: who holds it is told.
        fd = held.open_held((status.st_dev, status.st_ino), [holder.pid])
        try:
            return os.fstat(fd).st_blocks * 512
        finally:
            os.close(fd)

    return blocks


def holds(peer, release=0):
    """How many blocks the peer still has; every byte of these is as it was."""
    peer.send(str(release))
    return int(peer.read_line().split()[1])


def test_without_a_word_nothing_is_given_back_of_what_a_forked_child_might_use(spawn, shm_root):
    owner, peer = orphan(spawn, shm_root)
    left = taken(shm_root, owner.name, peer)
    before = left()
    done = clean(shm_root, "--verbose")
    assert (done.status, done.err, left()) == (0, "", before)
    assert f"unlinking {owner.name}\n" in done.out
    assert (
        "free memory: kept: it is not known whether a forked child of its creator holds it, and may still"
        " allocate; --reclaim gives it back at your risk\n" in done.out
    )
    assert f"{before} bytes come back when the last of these exits: process {peer.pid}" in done.out


def test_where_nobody_maps_it_no_word_is_needed(spawn, shm_root):
    """Who has it open alone is no forked child: that has the creator's mappings."""
    owner = spawn.owner(shm_root, *HEAP)
    code = "fd = os.open(sys.argv[1], os.O_RDWR); print('ready', flush=True); os.read(0, 1)"
    left = taken(shm_root, owner.name, spawn.python(code, os.path.join(shm_root, owner.name)))
    before = left()
    owner.kill()
    done = clean(shm_root)
    gave = re.fullmatch(
        rf"unlinking {owner.name}\ngave back (\d+) bytes of {owner.name}; 300000 are still in use\n", done.out
    )
    assert (done.status, done.err) == (0, "")
    assert before - left() == int(gave.group(1)) > 700000


def test_on_a_persons_word_what_is_free_in_a_removed_heap_comes_back(spawn, shm_root):
    owner, peer = orphan(spawn, shm_root)
    left = taken(shm_root, owner.name, peer)
    before = left()
    done = clean(shm_root, "--reclaim", "--verbose")
    assert (done.status, done.err) == (0, "")
    gave = int(re.search(rf"^gave back (\d+) bytes of {owner.name}; 300000 are", done.out, re.M).group(1))
    assert before - left() == gave > 700000
    assert "free memory: at your risk if a process that the creator forked" in done.out
    rest = before - gave - 300000
    assert f"free memory: {rest} other bytes cannot be given back\n" in done.out
    assert f"{before - gave} bytes come back when the last of these exits: process {peer.pid}" in done.out
    assert holds(peer, 3) == 0


def test_a_dry_run_says_what_would_come_back_and_touches_nothing(spawn, shm_root):
    owner, peer = orphan(spawn, shm_root)
    left = taken(shm_root, owner.name, peer)
    before = left()
    done = clean(shm_root, "--reclaim", "--dry-run")
    pattern = (
        rf"would unlink {owner.name}\nwould give back (\d+) bytes of {owner.name}; 300000 are still in use\n"
    )
    would = int(re.fullmatch(pattern, done.out).group(1))
    assert (done.status, left(), os.listdir(shm_root)) == (0, before, [owner.name])
    os.unlink(os.path.join(shm_root, owner.name))
    done = clean(shm_root, "--reclaim", "--dry-run")
    assert done.out == (
        f"would give back {would} bytes of {owner.name} (unlinked before); 300000 are still in use\n"
    )
    assert left() == before
    clean(shm_root, "--reclaim")
    assert before - left() == would
    assert holds(peer) == 3


@pytest.mark.parametrize(
    "options", [("--keep-fd",), pytest.param((), marks=needs_root)], ids=["descriptor", "mapping"]
)
def test_an_orphan_that_has_lost_its_name_is_found_by_who_holds_it(spawn, shm_root, options):
    owner, peer = orphan(spawn, shm_root, *options)
    left = taken(shm_root, owner.name, peer)
    before = left()
    os.unlink(os.path.join(shm_root, owner.name))
    assert clean(shm_root).everything == (0, "", "")
    assert left() == before
    done = clean(shm_root, "--reclaim")
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith("gave back ") and f" bytes of {owner.name} (unlinked before)" in done.out
    assert before - left() > 700000
    assert holds(peer, 2) == 1
    # What was let go of since comes back the next time.
    before = left()
    assert clean(shm_root, "--reclaim", owner.name).status == 0
    assert before - left() > 90000
    assert holds(peer) == 1


def test_of_names_only_those_are_given_back(spawn, shm_root):
    (one, peer), (other, other_peer) = orphan(spawn, shm_root), orphan(spawn, shm_root)
    lefts = [taken(shm_root, one.name, peer), taken(shm_root, other.name, other_peer)]
    before = lefts[0]()
    for heap in (one, other):
        os.unlink(os.path.join(shm_root, heap.name))
    done = clean(shm_root, "--reclaim", other.name, "absent")
    assert done.status == 1 and done.err.startswith("absent could not be opened")
    assert lefts[0]() == before > lefts[1]()


def test_a_live_heap_that_was_unlinked_is_never_touched(spawn, shm_root):
    owner = spawn.owner(shm_root, *HEAP)
    spawn.peer(shm_root, owner, "--hold")
    left = taken(shm_root, owner.name, owner)
    before = left()
    os.unlink(os.path.join(shm_root, owner.name))
    assert clean(shm_root, "--reclaim").everything == (0, "", "")
    done = clean(shm_root, "--reclaim", "-f", owner.name)
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith(
        f"{owner.name} (unlinked before) is kept: its creator, process {owner.pid}, lives"
    )
    assert left() == before


def test_a_live_heap_that_is_removed_by_force_keeps_its_memory(spawn, shm_root):
    owner = spawn.owner(shm_root, *HEAP)
    left = taken(shm_root, owner.name, owner)
    before = left()
    done = clean(shm_root, "--reclaim", "-f", owner.name)
    assert done.status == 0 and "loses it" in done.err
    assert left() == before


def test_files_without_a_name_that_are_no_heaps_are_left_alone(spawn, shm_root):
    path = os.path.join(shm_root, "heap-77")
    with open(path, "w+b") as stream:
        stream.write(b"x" * 100000)
        stream.flush()
        os.unlink(path)
        assert clean(shm_root, "--reclaim").everything == (0, "", "")
        done = clean(shm_root, "--reclaim", "heap-77")
        assert (done.status, done.err) == (1, "heap-77 (unlinked before) is kept: it is not a heap\n")
        assert os.fstat(stream.fileno()).st_blocks * 512 >= 100000


def test_more_orphans_than_are_kept_open_are_given_back_through_who_holds_them(spawn, shm_root):
    names = []
    for _ in range(70):
        names.append("heap-%d" % spawn.dead_pid())
        heapwriter.create(os.path.join(shm_root, names[-1]), int(names[-1][5:]), [(65536, ())])
    code = (
        "import heapwriter\nfor name in sys.argv[2:]: heapwriter.LiveHeap.attach(name, sys.argv[1], True)\n"
    )
    peer = spawn.python(code + "print('ready', flush=True); os.read(0, 1)", shm_root, *names)
    whole = json.loads(clean(shm_root, "--json", "--reclaim").out)
    assert whole["removed"] == len(whole["outcomes"]) == len(set(names))
    given = {outcome["name"]: outcome["given_back"] for outcome in whole["outcomes"]}
    assert given == dict.fromkeys(names, 65536 - 2 * PAGE)
    peer.kill()


def test_the_object_tells_what_came_back_what_is_in_use_and_by_whom(spawn, shm_root):
    owner, peer = orphan(spawn, shm_root)
    left = taken(shm_root, owner.name, peer)
    before = left()
    whole = json.loads(clean(shm_root, "--json", "--reclaim").out)
    outcome = whole["outcomes"][0]
    assert (outcome["result"], outcome["in_use"], outcome["kept_because"]) == ("removed", 300000, None)
    assert outcome["given_back"] == whole["given_back_bytes"] == before - left()
    assert outcome["not_returnable"] == left() - 300000
    assert [holder["pid"] for holder in outcome["held_by"]] == [peer.pid]
    assert whole["unlinked_before"] == [] and whole["reclaim"] is True
    holds(peer, 3)
    before = left()
    whole = json.loads(clean(shm_root, "--json", "--reclaim").out)
    outcome = whole["unlinked_before"][0]
    assert (outcome["name"], outcome["result"], outcome["in_use"]) == (owner.name, "reclaimed", 0)
    assert outcome["given_back"] == before - left() > 250000
    assert [holder["pid"] for holder in outcome["held_by"]] == [peer.pid]
    assert whole["outcomes"] == []
    peer.kill()
    assert json.loads(clean(shm_root, "--json", "--reclaim").out)["unlinked_before"] == []


def test_orphans_without_a_name_of_other_directories_are_left_alone(spawn, shm_root):
    os.mkdir(os.path.join(shm_root, "inside"))
    owner, peer = orphan(spawn, shm_root)
    left = taken(shm_root, owner.name, peer)
    before = left()
    os.unlink(os.path.join(shm_root, owner.name))
    inside = os.path.join(shm_root, "inside")
    assert clean(inside, "--reclaim").everything == (0, "", "")
    done = clean(inside, "--reclaim", owner.name)
    assert done.everything == (1, "", f"{owner.name} could not be opened: No such file or directory\n")
    assert left() == before


def test_the_help_says_the_risk():
    help_text = " ".join(clean("/dev/shm", "--help").out.split())
    assert "at your risk if a process that the creator forked (without exec) still uses" in help_text
    assert "lose what it wrote, or be killed by SIGBUS" in help_text


@pytest.mark.parametrize("form", [[], ["--json"]], ids=" ".join)
@pytest.mark.parametrize("unlinked", [False, True])
def test_what_was_given_back_before_ctrl_c_is_told(spawn, shm_root, form, unlinked):
    owner, peer = orphan(spawn, shm_root)
    left = taken(shm_root, owner.name, peer)
    before = left()
    if unlinked:
        os.unlink(os.path.join(shm_root, owner.name))
    code = f"""
import os, signal, sys
sys.path.append({PACKAGES!r})
from gppshm import reclaim
from gppshm.cli import shmclean
punch = reclaim.punch

def interrupted(*arguments):
    os.kill(os.getpid(), signal.SIGINT)
    punch(*arguments)
    os.kill(os.getpid(), signal.SIGINT)

reclaim.punch = interrupted
sys.exit(shmclean.main())
"""
    done = run_command([sys.executable, "-IS", "-c", code, "--root", shm_root, "--reclaim", *form])
    assert (done.returncode, done.stderr) == (130, "")
    gave = before - left()
    assert gave > 0
    if form:
        whole = json.loads(done.stdout)
        assert whole["given_back_bytes"] == gave and whole["complete"] is False
    else:
        assert f"gave back {gave} bytes of {owner.name}" in done.stdout
    assert os.listdir(shm_root) == []
