"""Two engines of one node: one leads, the other follows it, and cleans as soon as the leader is gone."""

import os
import signal
import socket
import subprocess

import pytest

from gppshm import relay, watch
from spawning import descriptors, lives, needs_root, python_command, stays, wait_for
from watching import Running

DRY = (watch.HOST, 1000.0, True, False, True)
SMALL = "--size=4096"

LEADER = """
import threading
from gppshm import engine, relay
orders = ("host", 1000.0, sys.argv[3] == "dry", False, True)
node = relay.node(sys.argv[2], sys.argv[1])
one = engine.Engine(sys.argv[1], lambda event: None, orders, node=node)
one.lead("leader", sys.argv[3])
threading.Thread(target=one.run, daemon=True).start()
print("ready", one.pid, flush=True)
for line in sys.stdin:
    dry = line.strip() == "dry"
    one.change("host", 1000.0, dry, False, True)
    one.lead("leader", line.strip())
"""


def following(root, node, **options):
    """An engine that follows whoever leads."""
    return Running(root, node=node, follows=True, **options)


@pytest.fixture
def lead(spawn, shm_root):
    """lead(orders=""): a process whose engine leads, by these orders."""

    def start(orders=""):
        process = spawn.python(LEADER, shm_root, "IOR:1", orders)
        wait_for(lambda: list(relay.leaders(relay.node("IOR:1", shm_root))))
        return process

    return start


@pytest.fixture
def node(shm_root):
    return relay.node("IOR:1", shm_root)


def there(root, owner):
    return os.path.exists(os.path.join(root, owner.name))


@pytest.mark.parametrize("first", ["leader", "follower"])
def test_whoever_starts_first_one_process_cleans_and_both_show_the_same(spawn, shm_root, node, lead, first):
    owner, other = spawn.owner(shm_root, SMALL), spawn.owner(shm_root, SMALL)
    if first == "leader":
        lead()
    with following(shm_root, node) as follower:
        own = follower.engine.pid
        assert bool(own) == (first == "follower")
        if first == "follower":
            lead()
        wait_for(lambda: follower.engine.leader == ("leader", ""))
        assert not follower.engine.pid and (not own or not lives(own))
        wait_for(lambda: sorted(follower.engine.living()) == sorted([owner.name, other.name]))
        owner.kill()
        wait_for(lambda: not there(shm_root, owner))
        wait_for(lambda: follower.engine.counts.removed == 1)
        wait_for(lambda: follower.engine.living() == [other.name])
        wait_for(lambda: [(e.kind, e.name) for e in follower.events] == [(watch.REMOVED, owner.name)])
        assert follower.faults == []


def test_when_the_leader_is_killed_the_follower_cleans_and_keeps_what_was_counted(
    spawn, shm_root, node, lead
):
    owners = [spawn.owner(shm_root, SMALL) for _ in range(4)]
    first = lead()
    with following(shm_root, node) as follower:
        for number, owner in enumerate(owners[:3], 1):
            wait_for(lambda: len(follower.engine.living()) == 5 - number)  # noqa: B023
            owner.kill()
            wait_for(lambda: not there(shm_root, owner))  # noqa: B023
            # A killed leader's process makes a last sweep, and may be the first.
            wait_for(lambda: follower.engine.counts.removed + follower.engine.counts.cleaned == number)  # noqa: B023
            if number == 1:
                assert follower.engine.counts.removed == 1
                first.kill()
                wait_for(lambda: follower.engine.leader == ("", "") and follower.engine.pid)
            elif number == 2:
                lead()
                wait_for(lambda: follower.engine.leader[0])
        assert follower.faults == []


def test_when_the_leaders_own_process_is_killed_somebody_cleans_and_nothing_counts_twice(
    spawn, shm_root, node, lead
):
    owners = [spawn.owner(shm_root, SMALL) for _ in range(3)]
    leader = lead()
    with following(shm_root, node) as follower:
        wait_for(lambda: len(follower.engine.living()) == 3)
        owners[0].kill()
        wait_for(lambda: follower.engine.counts.removed == 1)
        os.kill(int(leader.name), signal.SIGKILL)
        owners[1].kill()
        wait_for(lambda: not there(shm_root, owners[1]))
        wait_for(lambda: follower.engine.leader[0] == "leader")
        wait_for(lambda: follower.engine.living() == [owners[2].name])
        owners[2].kill()
        wait_for(lambda: not there(shm_root, owners[2]))
        # Each was removed by one, and told by both.
        wait_for(lambda: follower.engine.counts.removed + follower.engine.counts.cleaned >= 2)
        stays(lambda: follower.engine.counts.removed + follower.engine.counts.cleaned <= 3, 0.3)


def test_a_leader_that_cleans_nothing_is_obeyed_from_the_start_on(spawn, shm_root, node, lead):
    owner = spawn.owner(shm_root, SMALL)
    leader = lead("dry")
    owner.kill()
    wait_for(lambda: there(shm_root, owner))
    with following(shm_root, node) as follower:
        assert follower.engine.leader == ("leader", "dry")
        stays(lambda: there(shm_root, owner), 0.5)
        leader.send("all")
        wait_for(lambda: follower.engine.leader == ("leader", "all"))
        wait_for(lambda: not there(shm_root, owner))


def test_a_leader_that_hangs_before_its_first_word_is_not_waited_for(spawn, shm_root, node, lead):
    owner = spawn.owner(shm_root, SMALL)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as silent:
        silent.bind(f"\0{relay.PREFIX}{node}-00")
        silent.listen(1)
        with following(shm_root, node) as follower:
            wait_for(follower.engine.living)
            owner.kill()
            wait_for(lambda: not there(shm_root, owner))
            assert follower.engine.leader == ("", "")


@pytest.mark.parametrize("manager, folder", [("IOR:2", ""), ("IOR:1", "other")])
def test_the_leader_of_another_node_or_directory_is_not_followed(spawn, shm_root, node, manager, folder):
    root = os.path.join(shm_root, folder)
    os.makedirs(root, exist_ok=True)
    spawn.python(LEADER, root, manager, "dry")
    owner = spawn.owner(shm_root, SMALL)
    with following(shm_root, node) as follower:
        wait_for(follower.engine.living)
        owner.kill()
        wait_for(lambda: not there(shm_root, owner))
        assert follower.engine.leader == ("", "")


STRANGER = """
import socket
from gppshm import relay
os.setgid(65534), os.setuid(65534)
leader = relay.Leader(sys.argv[1])
odd = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
odd.bind(f"\\0x\\n0 0 0 zz 0 0 0 @{relay.PREFIX}{sys.argv[1]}-x")
print("ready", os.getpid(), flush=True)
while True:
    for wire in leader.accept():
        leader.greet(wire, [("leader", "stranger", "nothing")])
"""


@needs_root
def test_a_stranger_leads_nobody_and_keeps_nobody_from_leading(spawn, shm_root, node, lead):
    spawn.python(STRANGER, node)
    owner = spawn.owner(shm_root, SMALL)
    with following(shm_root, node) as follower:
        wait_for(follower.engine.living)
        assert follower.engine.leader == ("", "")
        lead()
        wait_for(lambda: follower.engine.leader == ("leader", ""))
        owner.kill()
        wait_for(lambda: not there(shm_root, owner))


LISTENS = """
import socket
os.setgid(65534), os.setuid(65534)
told = 0
for line in open("/proc/net/unix"):
    name = line.split()[-1]
    if sys.argv[1] in name:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(5)
            sock.connect("\\0" + name[1:])
            told += len(sock.recv(100))
print(told)
"""


@needs_root
def test_a_stranger_is_told_nothing(spawn, shm_root, node, lead):
    lead()
    done = subprocess.run(python_command(LISTENS, node), stdout=subprocess.PIPE, timeout=20)
    assert done.stdout == b"0\n"


def test_once_ended_a_follower_holds_no_descriptor(shm_root, node, lead):
    leader = lead()
    before = descriptors()
    with following(shm_root, node) as follower:
        wait_for(lambda: follower.engine.leader[0])
        os.kill(leader.pid, signal.SIGKILL)
        wait_for(lambda: follower.engine.pid)
    assert descriptors() == before
