"""Promises of redhawk-shmclean --json, as docs/shmclean-json.md describes it."""

import json
import os
import re

from cleaning import clean, orphan, put_orphan
from places import DOCS

SMALL = "--size=4096"


def report(root, *arguments):
    """The exit status, the object, and stderr."""
    done = clean(root, "--json", *arguments)
    return done.status, json.loads(done.out), done.err


def test_a_sweep_tells_each_heap_with_reason_evidence_and_holders(spawn, shm_root):
    live, owner = spawn.owner(shm_root, SMALL), spawn.owner(shm_root, SMALL)
    peer = spawn.peer(shm_root, owner)
    dead = orphan(spawn, shm_root)
    before = os.stat(os.path.join(shm_root, owner.name))
    owner.kill()
    with open(os.path.join(shm_root, "plain"), "w"):
        pass
    status, whole, err = report(shm_root)
    assert (status, err) == (0, "")
    assert whole["schema"] == "gppshm.shmclean/1" and whole["root"] == shm_root
    assert (whole["complete"], whole["exit_status"], whole["removed"]) == (True, 0, 2)
    outcomes = {outcome["name"]: outcome for outcome in whole["outcomes"]}
    assert set(outcomes) == {live.name, owner.name, dead}
    assert (outcomes[live.name]["result"], outcomes[live.name]["state"]) == ("kept", "alive")
    assert (outcomes[dead]["result"], outcomes[dead]["evidence"]) == ("removed", "lease")
    held = outcomes[owner.name]
    assert (held["result"], held["state"], held["evidence"]) == ("removed", "orphaned, attached", "pids")
    assert (held["device"], held["inode"], held["creator"]) == (before.st_dev, before.st_ino, owner.pid)
    assert held["bytes"] == before.st_blocks * 512
    assert [holder["pid"] for holder in held["held_by"]] == [peer.pid]
    assert whole["removed_bytes"] == held["bytes"] + outcomes[dead]["bytes"]


def test_what_is_refused_is_in_the_object_and_on_stderr(spawn, shm_root):
    live = spawn.owner(shm_root, SMALL)
    put_orphan(spawn, shm_root, os.fsdecode(b"no\xffutf8"))
    status, whole, err = report(shm_root, live.name, "a/b", "absent", os.fsdecode(b"no\xffutf8"))
    assert status == whole["exit_status"] == 1
    assert len(err.splitlines()) == 3
    results = {outcome["name"]: (outcome["result"], outcome["error"]) for outcome in whole["outcomes"]}
    assert results == {
        live.name: ("kept", None),
        "a/b": ("failed", "EINVAL"),
        "absent": ("failed", "ENOENT"),
        "no\\xffutf8": ("removed", None),
    }
    assert [outcome["name_hex"] for outcome in whole["outcomes"] if outcome["name_hex"]] == ["6e6fff75746638"]


def test_of_two_runs_a_removal_is_in_one_object(spawn, shm_root):
    orphan(spawn, shm_root)
    assert report(shm_root, "--dry-run")[1]["outcomes"][0]["result"] == "would remove"
    assert report(shm_root)[1]["removed"] == 1
    assert report(shm_root)[1]["outcomes"] == []


def test_the_document_names_every_key_and_no_other(spawn, shm_root, tmp_path):
    dead = orphan(spawn, shm_root)
    os.mkfifo(str(tmp_path / f"fifo-{spawn.dead_pid()}-a"))
    _, whole, _ = report(shm_root, "-f", dead, "--fifos", "--fifo-root", str(tmp_path))
    assert [fifo["result"] for fifo in whole["fifos"]] == ["removed"]
    with open(os.path.join(DOCS, "shmclean-json.md")) as stream:
        rows = [line.split("|")[1] for line in stream if line.startswith("| `")]
    documented = {key for row in rows for key in re.findall(r"`(\w+)`", row)}
    assert documented == set(whole) | set(whole["outcomes"][0])
