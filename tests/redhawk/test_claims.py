"""Devices of one host see each other's grants, and nobody else can keep one from granting."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from gppshm import capacity, claims, shmfs
from spawning import needs_root, wait_for

MB = capacity.MB

DEVICE = """
from gppshm import capacity, claims, shmfs
directory = shmfs.ShmDirectory(sys.argv[1])
ledger = capacity.Ledger(directory.usage, lambda size: 0, claims.Claims(sys.argv[1]))
ledger.grant("a", int(sys.argv[2]))
print("ready", flush=True)
sys.stdin.read()
"""

AS_NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


@pytest.fixture
def claim(shm_root):
    """claim(): the Claims of one more device; they end with the test."""
    made = []

    def claim():
        made.append(claims.Claims(shm_root))
        return made[-1]

    yield claim
    for each in made:
        each.close()


def total(claim):
    return sum(each.reserved for each in claim.of_others())


def ledgers(root, claim, count, size=100 * MB):
    """So many devices of a file system of `size`, nothing of which is used."""
    return [capacity.Ledger(lambda: shmfs.Usage(size, size), lambda size: 0, claim()) for _ in range(count)]


def test_a_claim_is_seen_by_all_others_as_it_grows_shrinks_and_goes(claim):
    ours, theirs = claim(), claim()
    before = total(theirs)
    for size in (5 * MB, 9 * MB, 2 * MB, 2 * MB, 0, 1, 0):
        ours.claim(size, 3 * MB)
        assert total(theirs) - before == -(-size // MB) * MB
        assert ours._own == (0, 0) or total(ours) == before
    ours.claim(7 * MB, 1)
    assert (7 * MB, MB) in [(each.reserved, each.baseline) for each in theirs.of_others()]
    ours.claim(7 * MB, 90 * MB)
    assert (7 * MB, 90 * MB) in [(each.reserved, each.baseline) for each in theirs.of_others()]
    ours.close()
    assert total(theirs) == before


def test_claims_that_are_alike_all_count(claim):
    before = total(claim())
    for each in (claim(), claim(), claim()):
        each.claim(11 * MB, 2 * MB)
    assert total(claim()) - before == 33 * MB
    assert total(each) - before == 22 * MB


def test_another_file_system_has_a_ledger_of_its_own(claim, tmp_path):
    other = claims.Claims(str(tmp_path))
    try:
        before = total(claim())
        other.claim(5 * MB, 0)
        assert total(claim()) == before
    finally:
        other.close()


def test_no_file_is_made(claim, shm_root):
    before = set(os.listdir("/dev/shm"))
    claim().claim(MB, 0)
    assert os.listdir(shm_root) == [] and not {
        name for name in set(os.listdir("/dev/shm")) - before if not name.startswith("gppshm-test-")
    }


def test_two_devices_never_promise_the_same_memory(claim, shm_root):
    one, other = ledgers(shm_root, claim, 2)
    one.grant("a", 60 * MB)
    assert (other.available(), other.reserved, other.reserved_on_host()) == (40 * MB, 0, 60 * MB)
    with pytest.raises(capacity.Insufficient) as refusal:
        other.grant("b", 41 * MB)
    assert (refusal.value.available, refusal.value.room.others) == (40 * MB, 60 * MB)
    assert one.available() == 40 * MB
    other.grant("b", 40 * MB)
    assert (one.available(), other.available()) == (0, 0)
    one.give_back("a")
    assert other.available() == 60 * MB
    other.close()
    assert one.available() == 100 * MB


def test_the_use_of_a_grant_counts_once_on_every_device(claim):
    used = [20 * MB]

    def measure():
        return shmfs.Usage(100 * MB, 100 * MB - used[0])

    one, other = (capacity.Ledger(measure, lambda size: 0, claim()) for _ in range(2))
    one.grant("a", 30 * MB)
    assert (one.available(), other.available()) == (50 * MB, 50 * MB)
    used[0] += 30 * MB  # what was granted is used
    other.grant("b", 20 * MB)
    assert (one.available(), other.available()) == (30 * MB, 30 * MB)
    used[0] += 20 * MB
    assert (one.available(), other.available()) == (30 * MB, 30 * MB)
    used[0] += 10 * MB  # and more, of a stranger
    assert (one.available(), other.available()) == (20 * MB, 20 * MB)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_the_grants_of_a_dead_device_end_with_it(spawn, claim, shm_root, number):
    before = total(claim())
    device = spawn.python(DEVICE, shm_root, 64 * MB)
    assert total(claim()) - before == 64 * MB
    device.kill(number)
    assert total(claim()) == before


def test_the_grants_of_a_stopped_device_stand(spawn, claim, shm_root):
    before = total(claim())
    device = spawn.python(DEVICE, shm_root, 64 * MB)
    os.kill(device.pid, signal.SIGSTOP)
    assert total(claim()) - before == 64 * MB


@needs_root
@pytest.mark.parametrize(
    "prefix",
    [
        AS_NOBODY,
        ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc"),
        ("unshare", "--mount", "--ipc", "--net", "--uts"),
        ("unshare", "--user", "--map-root-user", "--mount"),
    ],
    ids=["user", "pid", "mount", "userns"],
)
def test_devices_of_other_users_and_namespaces_count_and_see(spawn, claim, shm_root, prefix):
    ours = claim()
    before = total(ours)
    ours.claim(10 * MB, 0)
    if prefix is AS_NOBODY and subprocess.call(
        [*prefix, sys.executable, "-c", ""], stderr=subprocess.DEVNULL
    ):
        pytest.skip("other users cannot run this interpreter: it lies in a closed home")
    code = DEVICE.replace('"ready"', '"ready", ledger.reserved_on_host() - ledger.reserved')
    device = spawn.python(code, shm_root, 64 * MB, prefix=prefix)
    assert int(device.name) == before + 10 * MB
    assert total(ours) - before == 64 * MB


def test_eight_devices_at_once_never_grant_more_than_there_is(spawn, claim, shm_root):
    code = DEVICE.replace("directory.usage", "lambda: shmfs.Usage(100 << 20, 100 << 20)")
    code = code.split('ledger.grant("a"')[0] + (
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "granted = 0\n"
        "for turn in range(40):\n"
        "    try:\n"
        "        ledger.grant(str(turn), 1 << 20)\n"
        "        granted += 1\n"
        "    except capacity.Insufficient:\n"
        "        pass\n"
        "print(granted, flush=True)\n"
        "sys.stdin.read()\n"
    )
    before = total(claim())
    devices = [spawn.python(code, shm_root) for _ in range(8)]
    for device in devices:
        device.send("go")
    granted = sum(int(device.read_line()) for device in devices)
    assert granted <= 100
    assert total(claim()) - before == granted * MB
    # Nothing is lost, either: they wait for each other, if only for a moment.
    assert granted >= 90 or before


STRANGER = """
import fcntl, struct
fd = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECTORY)
def lock(place, length):
    fcntl.fcntl(fd, 37, struct.pack("hhqqi4x", fcntl.F_RDLCK, 0, place, length, 0))
"""


def test_who_holds_every_lock_there_is_keeps_nobody_from_granting(spawn, claim, shm_root):
    hog = "fcntl.flock(fd, fcntl.LOCK_EX)\nlock(0, 0)\nprint('ready', flush=True)\nsys.stdin.read()\n"
    for folder in (shm_root, "/dev/shm"):
        spawn.python(STRANGER + hog, folder)
    one, other = ledgers(shm_root, claim, 2)
    before = time.monotonic()
    one.grant("a", 60 * MB)
    assert time.monotonic() - before < 0.5
    assert other.available() == 40 * MB
    with pytest.raises(capacity.Insufficient):
        other.grant("b", 41 * MB)


def test_a_flood_of_locks_delays_for_moments_only(spawn, claim, shm_root):
    flood = (
        "for number in range(3000):\n    lock(number * 10, 1)\nprint('ready', flush=True)\nsys.stdin.read()\n"
    )
    ours = claim()
    ours.claim(3 * MB, 0)
    for _ in range(6):
        spawn.python(STRANGER + flood, shm_root)
    before = time.monotonic()
    claim().of_others()
    assert time.monotonic() - before < 1


@pytest.mark.parametrize("place", [0x4753 << 48 | 1, 0x4752 << 48, 0x4753 << 48 | 5 << 24 | 7])
def test_a_lock_that_is_no_claim_is_not_believed(spawn, claim, shm_root, place):
    before = total(claim())
    code = STRANGER + "lock(int(sys.argv[2]), 5000)\nprint('ready', flush=True)\nsys.stdin.read()\n"
    spawn.python(code, shm_root, place)
    assert total(claim()) == before


def test_without_proc_or_such_locks_a_device_grants_by_what_it_knows_and_says_so(shm_root, tmp_path):
    told = []
    blind = claims.Claims(shm_root, proc_root=str(tmp_path))
    ledger = capacity.Ledger(
        lambda: shmfs.Usage(10 * MB, 10 * MB), lambda size: 0, blind, complain=told.append
    )
    ledger.grant("a", 4 * MB)
    assert ledger.available() == 6 * MB
    assert len(told) == 1 and "grants of other devices of this host cannot be seen" in told[0]
    ledger.close()
    ledger.grant("b", 4 * MB)
    assert ledger.available() == 6 * MB


def test_where_locks_take_too_long_to_read_that_is_told_once(claim, monkeypatch):
    told = []
    ledger = capacity.Ledger(
        lambda: shmfs.Usage(10 * MB, 10 * MB), lambda size: 0, claim(), complain=told.append
    )
    monkeypatch.setattr(claims, "PATIENCE", 0.0)
    for _ in range(2):
        ledger.available()
    assert told == ["not all grants of other devices can be seen: this host has too many file locks"]


def test_a_forked_child_that_execs_keeps_no_claim(spawn, shm_root, claim):
    before = total(claim())
    code = DEVICE.replace(
        'print("ready"',
        "import subprocess\nchild = subprocess.Popen(['sleep', '30'])\nprint('ready', child.pid",
    )
    device = spawn.python(code, shm_root, 64 * MB)
    try:
        wait_for(lambda: pathlib.Path(f"/proc/{device.name}/comm").read_text() == "sleep\n")
        device.kill()
        assert total(claim()) == before
    finally:
        os.kill(int(device.name), signal.SIGKILL)
