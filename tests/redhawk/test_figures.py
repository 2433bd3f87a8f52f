"""What the device shows: right, fresh, and never waited for long."""

import json
import os
import sys
import time

import pytest

from gppshm import roles
from gppshm.redhawk import cleaning, figures, overview
from spawning import descriptors, needs_root, wait_for

MB = 1048576


@pytest.mark.parametrize(
    "line, expected",
    [
        (
            "/sdr/fir PROFILE_NAME /components/fir/fir.spd.xml COMPONENT_IDENTIFIER DCE:12-3:wave_1"
            " NAME_BINDING fir_1 DOM_PATH REDHAWK_DEV/wave_1",
            ("fir_1", "wave_1"),
        ),
        ("fir COMPONENT_IDENTIFIER DCE:12-3:wave_1 DOM_PATH REDHAWK_DEV/wave_1", ("DCE:12-3", "wave_1")),
        ("valgrind --log-file=x fir COMPONENT_IDENTIFIER a:w_2 DOM_PATH D/w_2", ("a", "w_2")),
        ("fir COMPONENT_IDENTIFIER DCE:12-3 NAME_BINDING fir_1 PROFILE_NAME /x", ("fir_1", "")),
        ("GPP DEVICE_ID DCE:1 DEVICE_LABEL GPP_1 DOM_PATH REDHAWK_DEV/node", ("GPP_1", "")),
        ("svc SERVICE_NAME logger DOM_PATH REDHAWK_DEV/node", ("logger", "")),
        ("cat COMPONENT_IDENTIFIER", ("", "")),
        ("", ("", "")),
    ],
)
def test_a_component_is_known_by_its_command_line(line, expected):
    assert roles.role(line.split(" ")) == expected


class Shown:
    """Figures at work on a folder, with the cleaning that they describe."""

    def __init__(self, root, **orders):
        self.measured = []
        orders.setdefault("enabled", False)
        self.cleaning = cleaning.Cleaning(root, cleaning.Orders(**orders), os.getpid())
        self.figures = figures.Figures(self.cleaning, lambda: 5 * MB, self.measured.append)
        self.cleaning.journal.listeners.append(self.figures.wake)
        self.cleaning.start()
        self.figures.start()

    def heaps(self):
        return self.figures.heaps()[0]

    def heap(self, name):
        return next((heap for heap in self.heaps() if heap.name == name), None)

    def state(self, name):
        """The state of a heap; None while it is not shown."""
        heap = self.heap(name)
        return heap and heap.state

    def close(self):
        self.figures.stop()
        self.figures.join(10)
        self.cleaning.finish(10)
        assert not self.figures.is_alive() and not self.cleaning.is_alive()
        self.cleaning.watcher.close()


@pytest.fixture
def shown(shm_root):
    started = []

    def start(**orders):
        started.append(Shown(shm_root, **orders))
        return started[-1]

    yield start
    for each in started:
        each.close()


def test_every_heap_is_shown_with_its_creator_and_who_is_attached(spawn, shm_root, shown):
    owner = spawn.owner(shm_root, "--superblocks=3", "--used=100000")
    display = shown()
    heap = wait_for(lambda: display.heap(owner.name))
    assert (heap.creator, heap.state, heap.superblocks, heap.attached) == (owner.pid, "alive", 3, 0)
    assert heap.file_size == os.stat(os.path.join(shm_root, owner.name)).st_size
    assert heap.heap_size == 3 * 2 * MB and 100000 <= heap.used < 110000
    assert (heap.mode, heap.refcount) == ("644", 1)
    wait_for(lambda: sys.executable in display.heap(owner.name).command)
    spawn.peer(shm_root, owner)
    assert wait_for(lambda: display.heap(owner.name).attached == 1)
    owner.kill()
    wait_for(lambda: display.state(owner.name) == "orphaned, attached")
    assert display.heap(owner.name).attached == 1


def test_a_heap_that_has_grown_makes_another_list(spawn, shm_root, shown):
    """Whoever keeps what was made of a list can tell that it is outdated."""
    owner = spawn.owner(shm_root)
    display = shown()
    wait_for(lambda: display.heap(owner.name))
    before = display.heaps()
    size = before[0].file_size + MB
    os.truncate(os.path.join(shm_root, owner.name), size)
    now = wait_for(lambda: display.heap(owner.name).file_size == size and display.heaps())
    assert now is not before


def test_an_unreadable_and_a_half_made_heap_are_shown_too(shm_root, shown):
    open(os.path.join(shm_root, "heap-4000000"), "wb").close()
    open(os.path.join(shm_root, "not-a-heap"), "wb").close()
    display = shown()
    heaps = wait_for(display.heaps)
    assert [(heap.name, heap.creator, heap.state) for heap in heaps] == [
        ("heap-4000000", 4000000, "orphaned")
    ]


def test_what_is_used_is_accounted_for(spawn, shm_root, shown):
    display = shown()
    owner = spawn.owner(shm_root)
    size = os.stat(os.path.join(shm_root, owner.name)).st_blocks * 512
    usage = wait_for(lambda: display.measured and display.measured[-1].heaps == size and display.measured[-1])
    assert usage.total - usage.free == usage.used == usage.heaps + usage.held + usage.other
    assert (usage.path, usage.reserved) == (shm_root, 5 * MB)
    assert 0 < usage.free_percent <= 100


def test_memory_that_is_unlinked_and_still_held_is_shown(spawn, shm_root, shown):
    display = shown(enabled=True, reclaim=False)
    owner = spawn.owner(shm_root)
    wait_for(lambda: owner.name in display.cleaning.living())
    peer = spawn.peer(shm_root, owner)
    size = os.stat(os.path.join(shm_root, owner.name)).st_blocks * 512
    owner.kill()
    # Other folders of the same file system may hold more.
    wait_for(lambda: display.heaps() == [] and display.figures.usage().held >= size)
    held = display.figures.usage().held
    peer.kill()
    wait_for(lambda: display.heaps() == [] and display.figures.usage().held <= held - size)


def test_memory_that_becomes_held_is_looked_for_though_nobody_asks(spawn, shm_root, shown):
    display = shown(enabled=True, reclaim=False)
    owner = spawn.owner(shm_root, "--size=50000000")
    wait_for(lambda: owner.name in display.cleaning.living())
    spawn.peer(shm_root, owner)
    scan = wait_for(lambda: display.figures._scanned.took and display.figures._scanned)
    owner.kill()
    wait_for(lambda: display.figures._scanned is not scan)
    wait_for(lambda: display.measured[-1].held > 50000000)


def test_an_idle_device_scans_nothing(spawn, shm_root, shown, monkeypatch):
    monkeypatch.setattr(figures, "TICK", 0.1)
    spawn.owner(shm_root)
    display = shown()
    wait_for(display.heaps)

    def at_rest():
        scan = display.figures._scanned
        time.sleep(1.0)
        return display.figures._scanned is scan and scan

    scan, measured = wait_for(at_rest, 30), len(display.measured)
    wait_for(lambda: len(display.measured) >= measured + 5)
    assert display.figures._scanned is scan
    wait_for(lambda: display.heaps() and display.figures._scanned is not scan)


@needs_root
def test_where_all_that_is_used_has_a_name_nothing_is_held_and_that_is_of_now(private_tmpfs):
    code = """
import json, time
from gppshm.redhawk import cleaning, figures
root, MB = sys.argv[1], 1048576
work = cleaning.Cleaning(root, cleaning.Orders(enabled=False), os.getpid())
shown = figures.Figures(work, lambda: 0)
work.start(), shown.start()
def until(fact):
    end = time.monotonic() + 20
    while not fact() and time.monotonic() < end:
        time.sleep(0.05)
fd = os.open(root + "/file", os.O_RDWR | os.O_CREAT)
os.posix_fallocate(fd, 0, 4 * MB)
until(lambda: shown._scanned.took and shown.age() > 0)
usage = shown.usage()
found = [usage.age, usage.held // MB, usage.other // MB]
os.unlink(root + "/file")
time.sleep(0.1)
found.append(shown.usage().age > 0)
until(lambda: shown.refresh() or shown.usage().held == 4 * MB)
found += [shown.usage().held // MB, shown.usage().other // MB]
os.close(fd)
time.sleep(0.1)
found.append(shown.usage().held)
print(json.dumps(found))
"""
    done = private_tmpfs(code, options="size=16m,mode=1777")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [0.0, 0, 4, True, 4, 0, 0]


def test_what_is_used_is_heaps_held_and_other_whatever_happens_meanwhile(spawn, shm_root, shown):
    display = shown(enabled=True)
    owners = []
    for number in range(60):
        owners.append(spawn.owner(shm_root, "--size=3000000"))
        if number % 3 == 2:
            spawn.peer(shm_root, owners[-1])
            owners[-1].kill()
        usage = display.figures.usage()
        assert usage.heaps + usage.held + usage.other == usage.used
        assert min(usage.heaps, usage.held, usage.other) >= 0
        shown_ = overview.Overview(
            display.figures.census, usage, 0, display.cleaning.journal, display.cleaning.orders, "", 0.0
        )
        used = shown_.total_mb - shown_.free_mb
        assert shown_.heaps_mb + shown_.held_mb + shown_.other_mb <= used + 1e-6


def test_a_flood_of_changes_is_measured_twice_a_second_at_most(shm_root, shown):
    display = shown()
    wait_for(lambda: display.measured)
    path = os.path.join(shm_root, "file")
    end = time.monotonic() + 1.2
    before = len(display.measured)
    while time.monotonic() < end:
        with open(path, "wb") as stream:
            stream.write(b"x")
    assert 2 <= len(display.measured) - before <= 4


@pytest.mark.parametrize("started", [True, False])
def test_once_stopped_they_hold_no_descriptor(shm_root, started):
    work = cleaning.Cleaning(shm_root, cleaning.Orders(), os.getpid())
    before = descriptors()
    display = figures.Figures(work, lambda: 0)
    if started:
        display.start()
    display.stop()
    if started:
        display.join(10)
    display.wake()
    with pytest.raises(OSError):
        display.room()
    assert descriptors() == before
    work.watcher.close()


def test_what_goes_wrong_each_time_is_logged_once(shm_root, shown, monkeypatch):
    lines = []
    monkeypatch.setattr(figures._log, "warning", lambda *words: lines.append(words))
    display = shown()
    wait_for(lambda: display.measured)

    def fail():
        lines.append("tried")
        raise OSError("no descriptor")

    monkeypatch.setattr(display.figures, "_scan", fail)
    for number in range(1, 4):
        display.figures._wanted = True
        display.figures.wake()
        wait_for(lambda number=number: lines.count("tried") >= number)
    assert len([line for line in lines if line != "tried"]) == 1


def test_new_orders_are_obeyed(spawn, shm_root, shown):
    display = shown(enabled=False)
    owner = spawn.owner(shm_root)
    wait_for(lambda: owner.name in display.cleaning.living())
    owner.kill()
    wait_for(lambda: display.state(owner.name) == "orphaned")
    display.cleaning.obey(cleaning.Orders())
    wait_for(lambda: display.heap(owner.name) is None)
    assert [event.name for event in display.cleaning.journal.recent] == [owner.name]
