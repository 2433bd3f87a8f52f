"""Promises of the verdict across pid namespaces, and where /proc hides processes."""

import json
import os

import pytest

from gppshm import creator, procfs, shmfs
from pids import HALF_MADE, WHOLE_HEAP, container_with, free_pid
from spawning import IN_A_PID_NAMESPACE, needs_root, python_command, run_command, seen_elsewhere
from views import verdict

pytestmark = needs_root

SMALL = "--size=4096"
INSIDE = IN_A_PID_NAMESPACE + ("--mount-proc",)
HIDING = ("unshare", "--mount", "--propagation=private", "sh", "-c")


def pid_here(container):
    """The pid, as seen from here, of the one process that the container's first one has started."""
    with open(f"/proc/{container.pid}/task/{container.pid}/children") as stream:
        return int(stream.read().split()[0])


def by_pids_alone(root, name):
    with shmfs.ShmDirectory(root) as directory:
        directory.leases = False
        with directory.open(name) as file:
            sighting = file.sighting
    return creator.judge(sighting, procfs.Processes())


def test_a_living_creator_in_a_container_is_alive_from_outside(shm_root, spawn):
    owner = spawn.owner(shm_root, SMALL, prefix=IN_A_PID_NAMESPACE)
    assert owner.name == "heap-1"
    found = verdict(shm_root, owner)
    assert (found["state"], found["creator"]) == ("alive", owner.pid)
    assert "process 1 of a container" in found["reason"]
    assert by_pids_alone(shm_root, owner.name).state is creator.ALIVE


def test_a_living_creator_in_a_container_whose_pid_nobody_has_here_is_alive(shm_root, spawn):
    pid = free_pid()
    container = container_with(spawn, shm_root, WHOLE_HEAP, pid)
    assert container.name == f"heap-{pid}"
    assert not os.path.exists(f"/proc/{pid}")
    for found in (verdict(shm_root, container.name)["state"], by_pids_alone(shm_root, container.name).state):
        assert found == "alive"


def test_a_living_creator_in_a_container_is_alive_though_its_peer_is_the_only_one_with_a_descriptor(
    shm_root, spawn
):
    container = container_with(spawn, shm_root, WHOLE_HEAP, free_pid())
    spawn.peer(shm_root, container.name, "--keep-fd")
    assert verdict(shm_root, container.name)["state"] == "alive"


def test_a_dead_creator_in_a_container_is_orphaned_from_outside_though_its_pid_is_in_use_here(
    shm_root, spawn
):
    owner = spawn.owner(shm_root, SMALL, prefix=IN_A_PID_NAMESPACE)
    owner.kill()
    found = verdict(shm_root, owner)
    assert (found["state"], found["evidence"]) == ("orphaned", "lease")


def test_a_dead_creator_of_a_container_with_a_peer_outside_is_orphaned_attached(shm_root, spawn):
    container = container_with(spawn, shm_root, WHOLE_HEAP, free_pid())
    peer = spawn.peer(shm_root, container.name)
    container.kill()
    found = verdict(shm_root, container.name)
    assert (found["state"], found["attached"]) == ("orphaned, attached", [peer.pid])


def test_a_dead_creator_outside_with_a_peer_in_a_container_is_orphaned_attached(shm_root, spawn):
    owner = spawn.owner(shm_root, SMALL)
    peer = spawn.peer(shm_root, owner, prefix=IN_A_PID_NAMESPACE)
    assert verdict(shm_root, owner)["state"] == "alive"
    owner.kill()
    found = verdict(shm_root, owner)
    assert (found["state"], found["attached"]) == ("orphaned, attached", [peer.pid])


def test_two_containers_with_the_same_small_pids_share_no_fate(shm_root, spawn):
    """The second truncates the first one's heap in place, as REDHAWK does."""
    first = spawn.owner(shm_root, SMALL, prefix=IN_A_PID_NAMESPACE)
    second = spawn.owner(shm_root, SMALL, prefix=IN_A_PID_NAMESPACE)
    assert first.name == second.name == "heap-1"
    first_look = verdict(shm_root, "heap-1")
    assert first_look["state"] == "alive", first_look
    first.kill()
    found = verdict(shm_root, "heap-1")
    assert (found["state"], found["creator"]) == ("alive", second.pid)
    second.kill()
    assert verdict(shm_root, "heap-1")["state"] == "orphaned"


def test_after_a_restart_of_the_container_the_new_process_of_the_same_pid_hides_no_orphan(shm_root, spawn):
    first = spawn.owner(shm_root, SMALL, prefix=IN_A_PID_NAMESPACE)
    peer = spawn.peer(shm_root, first)
    first.kill()
    spawn.python('print("ready", flush=True); sys.stdin.read()', prefix=IN_A_PID_NAMESPACE)
    found = verdict(shm_root, "heap-1")
    # Process 1 of this host is alive; where even root may not read its maps, it may be the creator.
    assert found["state"] in ("orphaned, attached", "unknown")
    peer.kill()
    assert verdict(shm_root, "heap-1")["state"] == "orphaned"


def test_from_inside_a_pid_namespace_a_living_creator_outside_is_never_dead(shm_root, spawn):
    owner = spawn.owner(shm_root, SMALL)
    found = seen_elsewhere(shm_root, prefix=INSIDE)[owner.name]
    assert (found["lease"], found["state"]) == ("refused", "unknown")
    assert "pid namespace" in found["reason"]


def test_from_inside_a_pid_namespace_an_orphan_is_proven_by_lease_alone(shm_root, spawn):
    owner, attached = spawn.owner(shm_root, SMALL), spawn.owner(shm_root, SMALL)
    peer = spawn.peer(shm_root, attached)
    owner.kill()
    attached.kill()
    found = seen_elsewhere(shm_root, prefix=INSIDE)
    assert found[owner.name]["state"] == "orphaned"
    # Who the writer is cannot be seen from in there: it might be the creator.
    assert found[attached.name]["state"] == "unknown"
    peer.kill()
    assert seen_elsewhere(shm_root, prefix=INSIDE)[attached.name]["state"] == "orphaned"


def test_from_inside_a_pid_namespace_nothing_is_proven_by_pids(shm_root, spawn):
    code = """
from gppshm import creator, procfs, shmfs
with shmfs.ShmDirectory(sys.argv[1]) as directory:
    directory.leases = False
    for name in directory.names():
        with directory.open(name) as file:
            seen = file.sighting
        print(creator.judge(seen, procfs.Processes()).state in creator.ORPHANS)
    print(creator.judge_fifo(int(sys.argv[2]), procfs.Processes()).state in creator.ORPHANS)
"""
    spawn.owner(shm_root, SMALL)
    spawn.owner(shm_root, SMALL).kill()
    open(os.path.join(shm_root, "heap-%d" % free_pid()), "w").close()
    # With its own /proc, and with the host's still mounted.
    for prefix in (INSIDE, IN_A_PID_NAMESPACE):
        done = run_command(list(prefix) + python_command(code, shm_root, free_pid()))
        assert (done.stdout, done.stderr) == ("False\n" * 4, "")


def test_a_half_made_heap_of_a_living_creator_in_a_container_is_kept(shm_root, spawn):
    """As in the middle of its open(), where nobody has the new file open yet."""
    container = container_with(spawn, shm_root, HALF_MADE, free_pid())
    found = verdict(shm_root, container.name)
    assert (found["kind"], found["lease"], found["state"]) == ("half-made heap", "granted", "unknown")
    assert str(pid_here(container)) in found["reason"]
    container.kill()
    assert verdict(shm_root, container.name)["state"] == "orphaned"


def test_the_fifo_of_a_living_process_of_a_container_is_kept(spawn, shm_root):
    pid = free_pid()
    container = container_with(spawn, shm_root, WHOLE_HEAP, pid)
    found = creator.judge_fifo(pid, procfs.Processes())
    assert found.state is creator.UNKNOWN
    assert str(pid_here(container)) in found.reason
    container.kill()
    assert creator.judge_fifo(pid, procfs.Processes()).state is creator.ORPHANED


@pytest.mark.parametrize("hidepid", [1, 2])
@pytest.mark.parametrize("user", ["root", "nobody"])
def test_where_proc_hides_pids_nothing_is_proven_by_pids(shm_root, spawn, hidepid, user):
    """Through a container's creator, whose pid nobody has here, and a heap of the dead that a peer holds."""
    container = container_with(spawn, shm_root, WHOLE_HEAP, free_pid())
    attached, dead = spawn.owner(shm_root, SMALL), spawn.owner(shm_root, SMALL)
    spawn.peer(shm_root, attached)
    attached.kill()
    dead.kill()
    become = "import views; views.become(65534)\n" if user == "nobody" else ""
    code = become + "import json, views; print(json.dumps(views.verdicts(sys.argv[1])))"
    mount = f'mount -t proc -o hidepid={hidepid} proc /proc && exec "$@"'
    done = run_command(list(HIDING) + [mount, "sh"] + python_command(code, shm_root))
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert found[container.name]["state"] == "unknown"
    assert found[attached.name]["state"] == "unknown"
    assert "hidepid" in found[attached.name]["reason"]
    # Only root is granted a lease on root's file.
    assert found[dead.name]["state"] == ("orphaned" if user == "root" else "unknown")


def test_a_capability_of_ones_own_user_namespace_does_not_lift_hidepid(shm_root, spawn):
    """All capabilities inside `unshare --user --map-root-user`, and still blind to others' processes."""
    container = container_with(spawn, shm_root, WHOLE_HEAP, free_pid())
    code = """
import ctypes, json, views
views.become(65534)
CLONE_NEWUSER = 0x10000000
assert ctypes.CDLL(None).unshare(CLONE_NEWUSER) == 0
status = open("/proc/self/status").read()
print(json.dumps([status, views.verdicts(sys.argv[1])]))
"""
    mount = 'mount -t proc -o hidepid=2 proc /proc && exec "$@"'
    done = run_command(list(HIDING) + [mount, "sh"] + python_command(code, shm_root))
    assert done.stderr == ""
    status, found = json.loads(done.stdout)
    effective = next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff"))
    assert int(effective, 16) >> 19 & 1
    assert found[container.name]["state"] == "unknown"


def test_without_a_proc_nothing_is_proven_by_pids(shm_root, spawn):
    owner = spawn.owner(shm_root, SMALL)
    dead = spawn.owner(shm_root, SMALL)
    peer = spawn.peer(shm_root, dead)
    dead.kill()
    prefix = HIDING + ('mount -t tmpfs none /proc && exec "$@"', "sh")
    found = seen_elsewhere(shm_root, prefix=prefix)
    assert {found[owner.name]["state"], found[dead.name]["state"]} == {"unknown"}
    assert peer.process.poll() is None


def test_a_heap_that_is_mounted_from_elsewhere_is_not_proven_dead(private_tmpfs):
    """On a file system over a network, say, a lease granted here proves nothing about writers there."""
    code = """
import subprocess, heapwriter, views
root = sys.argv[1]
dead = subprocess.Popen(["true"]); dead.wait()
name = "heap-%d" % dead.pid
os.mkdir(root + "/shm"); os.mkdir(root + "/elsewhere"); open(root + "/shm/" + name, "w").close()
subprocess.check_call(["mount", "-t", "ramfs", "none", root + "/elsewhere"])
heapwriter.create(root + "/elsewhere/heap", dead.pid, [(4096, ())])
assert views.verdict(root + "/shm", name)["removable"]
subprocess.check_call(["mount", "--bind", root + "/elsewhere/heap", root + "/shm/" + name])
found = views.verdict(root + "/shm", name)
print(found["kind"], found["lease"], found["state"])
"""
    done = private_tmpfs(code)
    assert (done.stdout, done.stderr) == ("heap silent unknown\n", "")


def test_where_there_is_no_tmpfs_heaps_are_listed_and_none_is_proven_dead(private_tmpfs):
    code = """
import subprocess, heapwriter, views
root = sys.argv[1]
dead = subprocess.Popen(["true"]); dead.wait()
heapwriter.create("%s/heap-%d" % (root, dead.pid), dead.pid, [(4096, ())])
open(root + "/heap-%d" % (dead.pid + 1), "w").close()
for found in views.verdicts(root).values():
    print(found["kind"], found["lease"], found["state"])
"""
    done = private_tmpfs(code, fs="ramfs")
    assert sorted(done.stdout.splitlines()) == ["half-made heap silent unknown", "heap silent unknown"]
    assert done.stderr == ""
