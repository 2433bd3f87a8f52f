"""The watcher as a library: what it removes, what it keeps, what it tells; real processes, real signals."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

import heapwriter
from gppshm import creator, kernel, lease, observer, procfs, reaper, shmfs, watch
from spawning import descriptors, in_child, needs_root, stays, wait_for
from watching import Farm, Watching, gone


@pytest.fixture
def watching(shm_root):
    """watching(**options): a watcher on `shm_root` that already looked at everything once."""
    running = []

    def start(root=shm_root, **options):
        one = Watching(root, **options)
        running.append(one)
        one.__enter__()
        return one

    yield start
    for one in running:
        one.__exit__(None, None, None)


def orphan(root, pid, **options):
    name = f"heap-{pid}"
    heapwriter.create(os.path.join(root, name), pid, **options)
    return name


# -- deaths ------------------------------------------------------------------------------------------


def test_what_the_dead_left_before_the_start_is_swept(spawn, shm_root, watching):
    name, living = orphan(shm_root, spawn.dead_pid()), spawn.owner(shm_root)
    event = watching().reported(watch.REMOVED, name)
    assert (event.trigger, event.evidence, event.command) == ("rescan", "lease", "unknown")
    assert event.bytes >= 2 * 1024 * 1024
    assert os.listdir(shm_root) == [living.name]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_crash_is_noticed_and_its_heap_removed_by_lease(spawn, shm_root, watching, number):
    owner, living, watched = spawn.owner(shm_root), spawn.owner(shm_root), watching(rescan=1000)
    watched.knows(owner, living)
    identity = os.stat(os.path.join(shm_root, owner.name))
    owner.kill(number)
    event = watched.reported(watch.REMOVED, owner)
    assert (event.device, event.inode) == (identity.st_dev, identity.st_ino)
    assert event.trigger in ("close", "pidfd")
    assert event.evidence == "lease"
    assert event.creator == owner.pid
    assert "heapwriter.py own" in event.command
    assert 0 <= event.latency < 1
    assert os.listdir(shm_root) == [living.name]


def test_an_exit_without_unlink_is_noticed_and_a_normal_exit_is_no_news(spawn, shm_root, watching):
    watched = watching(rescan=1000)
    forgetful = spawn.python(
        "import heapwriter; h = heapwriter.LiveHeap.create(sys.argv[1]); print('ready', h.name, flush=True);"
        " sys.stdin.read(); os._exit(0)",
        shm_root,
    )
    tidy = spawn.owner(shm_root)
    watched.knows(forgetful, tidy)
    tidy.leave()
    forgetful.leave()
    watched.reported(watch.REMOVED, forgetful)
    wait_for(lambda: not watched.watcher.living())
    assert [event.name for event in watched.events] == [forgetful.name]
    assert watched.watcher.pidfds == 0


def test_a_heap_that_is_created_and_dies_before_it_was_looked_at_is_removed(spawn, shm_root, watching):
    watched = watching(rescan=1000)
    with Farm(spawn, shm_root, 1) as farm:
        farm.kill()
        gone(shm_root, *farm.names)
    assert watched.reported(watch.REMOVED, farm.names[0]).evidence == "lease"


def test_a_half_made_heap_of_a_dead_creator_goes_and_one_of_a_live_creator_stays(spawn, shm_root, watching):
    watched = watching(rescan=1000)
    code = (
        "n = 'heap-%d' % os.getpid(); fd = os.open(sys.argv[1] + '/' + n, os.O_RDWR | os.O_CREAT)\n"
        "print('ready', n, flush=True); sys.stdin.read()"
    )
    children = [spawn.python(code, shm_root) for _ in range(2)]
    wait_for(lambda: all(child.name in watched.watcher._known for child in children))
    children[0].kill()
    assert watched.reported(watch.REMOVED, children[0]).evidence == "lease"
    assert os.listdir(shm_root) == [children[1].name]


def test_a_creator_that_is_slow_to_write_its_header_is_known_once_it_has(spawn, shm_root, watching):
    watched = watching(rescan=1000)
    slow = spawn.python(
        "import heapwriter; h = heapwriter.LiveHeap(sys.argv[1], 'heap-%d' % os.getpid(), os.O_CREAT, True)\n"
        "os.posix_fallocate(h.fd, 0, 4096); m = heapwriter.mapped(h.fd, 0, 4096); os.close(h.fd)\n"
        "print('ready', h.name, flush=True); sys.stdin.readline()\n"
        "heapwriter.put_header(m, os.getpid()); print('written', flush=True); sys.stdin.read()",
        shm_root,
    )
    stays(lambda: watched.watcher.living() == [], 0.1)
    slow.send("write")
    slow.read_line()
    watched.knows(slow)


def test_a_heap_of_any_name_is_removed_when_its_creator_dies(spawn, shm_root, watching):
    odd = spawn.python(
        "import heapwriter; h = heapwriter.LiveHeap.create(sys.argv[1], name='odd\\nname \\udcff')\n"
        "print('ready', flush=True); sys.stdin.read()",
        shm_root,
    )
    watched = watching(rescan=1000)
    watched.knows("odd\nname \udcff")
    odd.kill()
    assert watched.reported(watch.REMOVED, "odd\nname \udcff").creator == odd.pid


# -- attached peers ------------------------------------------------------------------------------------


def test_a_dead_creators_heap_goes_while_a_peer_is_attached_and_it_is_told_who_holds_it(
    spawn, shm_root, watching
):
    owner = spawn.owner(shm_root)
    peers = [spawn.peer(shm_root, owner) for _ in range(2)]
    watched = watching(rescan=1000)
    watched.identified(owner)
    owner.kill()
    event = watched.reported(watch.REMOVED, owner)
    assert event.trigger in ("close", "pidfd") and event.evidence == "identity"
    assert sorted(pid for pid, _ in event.attached) == sorted(peer.pid for peer in peers)
    assert all("heapwriter.py attach" in command for _, command in event.attached)
    assert os.listdir(shm_root) == []


def test_a_peers_exit_or_crash_does_not_harm_a_live_heap(spawn, shm_root, watching):
    owner, watched = spawn.owner(shm_root), watching(rescan=1000)
    watched.knows(owner)
    spawn.peer(shm_root, owner).kill()
    spawn.peer(shm_root, owner).leave()
    stays(lambda: os.listdir(shm_root) == [owner.name] and watched.events == [], 0.1)


# -- what others do ------------------------------------------------------------------------------------


@pytest.fixture
def judgements(monkeypatch):
    """Every question that the observer is asked is counted, and every lease that is asked for."""
    counted = {"ask": 0, "lease": 0}

    def count(owner, name, key):
        real = getattr(owner, name)

        def counting(*arguments):
            counted[key] += 1
            return real(*arguments)

        monkeypatch.setattr(owner, name, counting)

    count(observer.Observer, "ask", "ask")
    count(lease, "take", "lease")
    return counted


def test_an_event_on_a_live_heap_costs_one_lease_try_and_no_look_at_processes(
    spawn, shm_root, watching, judgements
):
    owner, watched = spawn.owner(shm_root), watching(rescan=1000)
    watched.identified(owner)
    path = os.path.join(shm_root, owner.name)
    before = dict(judgements)
    for _ in range(20):
        os.close(os.open(path, os.O_RDWR))  # as REDHAWK's shminfo does
        time.sleep(0.01)
    tries = judgements["lease"] - before["lease"]
    assert 10 <= tries <= 20
    assert judgements["ask"] == before["ask"]
    assert os.path.exists(path)


def test_without_pidfds_events_on_a_live_heap_cause_no_look_at_processes(
    spawn, shm_root, watching, judgements, monkeypatch
):
    monkeypatch.setattr(kernel, "pidfd_open", _no_pidfd)
    owner, watched = spawn.owner(shm_root), watching(rescan=1000)
    watched.identified(owner)
    assert watched.reported(watch.TROUBLE).reason.startswith("no pidfd: ")
    before, end = dict(judgements), time.monotonic() + 0.5
    while time.monotonic() < end:
        os.close(os.open(os.path.join(shm_root, owner.name), os.O_RDWR))
        time.sleep(0.001)
    assert judgements["ask"] == before["ask"]
    owner.kill()
    assert watched.reported(watch.REMOVED, owner).trigger == "close"
    assert len(watched.of_kind(watch.TROUBLE)) == 1


def _no_pidfd(pid):
    raise OSError(38, "Function not implemented")


def test_a_lease_refused_at_the_last_close_is_asked_for_again_soon(spawn, shm_root, watching, monkeypatch):
    """The kernel tells of a close before it is through with it."""
    watched = watching(rescan=1000)
    refused = []

    def refuses_for_a_moment(fd, take=lease.take):
        answer = take(fd)
        if answer is lease.GRANTED:
            refused.append(time.monotonic())
            if refused[-1] - refused[0] < 0.05:
                lease.release(fd)
                return lease.REFUSED
        return answer

    monkeypatch.setattr(lease, "take", refuses_for_a_moment)
    owner = spawn.owner(shm_root)
    owner.kill()
    watched.reported(watch.REMOVED, owner, deadline=2.0)
    assert len(refused) > 1


def test_an_opener_in_a_loop_keeps_an_orphan_no_longer_than_it_goes_on(spawn, shm_root, watching):
    """It breaks each lease, as a new creator would, whom it may be taken for: so it delays, and no more."""
    owner, watched = spawn.owner(shm_root), watching(rescan=1000)
    watched.knows(owner)
    opener = spawn.python(
        "print('ready', flush=True)\n"
        "while True:\n    try: os.close(os.open(sys.argv[1], os.O_RDWR))\n    except FileNotFoundError: pass",
        os.path.join(shm_root, owner.name),
    )
    owner.kill()
    wait_for(lambda: owner.name not in watched.watcher.living())
    opener.kill()
    watched.reported(watch.REMOVED, owner, deadline=5.0)


def test_a_reader_that_holds_an_orphan_open_does_not_keep_it(spawn, shm_root, watching):
    owner, watched = spawn.owner(shm_root), watching(rescan=1000)
    watched.knows(owner)
    with open(os.path.join(shm_root, owner.name), "rb"):
        owner.kill()
        assert watched.reported(watch.REMOVED, owner).evidence == "lease"


def test_a_hostile_lock_holder_keeps_an_orphan_only_for_a_moment(spawn, shm_root, watching):
    owner, watched = spawn.owner(shm_root), watching(rescan=1000)
    watched.knows(owner)
    spawn.python(
        "import fcntl; fd = os.open(sys.argv[1], os.O_RDONLY); fcntl.flock(fd, fcntl.LOCK_EX)\n"
        "print('ready', flush=True); sys.stdin.read()",
        os.path.join(shm_root, owner.name),
    )
    owner.kill()
    watched.reported(watch.REMOVED, owner, deadline=3.0)


def test_a_live_heap_that_is_unlinked_by_a_forked_child_is_told_once(spawn, shm_root, watching):
    parent = spawn.python(
        "import heapwriter; h = heapwriter.LiveHeap.create(sys.argv[1]); print('ready', h.name, flush=True)\n"
        "sys.stdin.readline()\nif not os.fork(): h.unlink(); os._exit(0)\n"
        "os.wait(); print('done', flush=True); sys.stdin.read()",
        shm_root,
    )
    watched = watching(rescan=0.3)
    watched.knows(parent)
    took = os.stat(os.path.join(shm_root, parent.name)).st_blocks * 512
    parent.send("fork")
    parent.read_line()
    event = watched.reported(watch.UNLINKED, parent)
    assert (event.creator, event.bytes) == (parent.pid, took) and took
    assert "lives and maps it" in event.reason
    rescans = watched.watcher.counts.rescans
    wait_for(lambda: watched.watcher.counts.rescans >= rescans + 3)
    assert len(watched.events) == 1
    parent.kill()
    wait_for(lambda: not watched.watcher.living())
    assert len(watched.events) == 1


def test_a_name_that_is_created_anew_under_its_old_pid_is_a_new_life(spawn, shm_root, watching):
    code = (
        "import heapwriter; h = heapwriter.LiveHeap.create(sys.argv[1]); print('ready', h.name, flush=True)\n"
        "sys.stdin.readline(); h.unlink(); h = heapwriter.LiveHeap.create(sys.argv[1])\n"
        "print('again', flush=True); sys.stdin.read()"
    )
    child, watched = spawn.python(code, shm_root), watching(rescan=1000)
    watched.knows(child)
    child.send("again")
    child.read_line()
    inode = os.stat(os.path.join(shm_root, child.name)).st_ino
    wait_for(lambda: [heap.file_id[1] for heap in list(watched.watcher._known.values())] == [inode])
    watched.knows(child)
    child.kill()
    assert watched.reported(watch.REMOVED, child).inode == inode
    assert len(watched.events) == 1


def test_files_of_others_are_never_touched(spawn, shm_root, watching):
    os.mkdir(os.path.join(shm_root, "heap-1"))
    os.mkfifo(os.path.join(shm_root, "heap-2"))
    os.symlink("sem.x", os.path.join(shm_root, "heap-3"))
    os.symlink("absent", os.path.join(shm_root, "heap-4"))
    no_heap = f"heap-{spawn.dead_pid()}"
    for name, content in (("sem.x", b"x" * 32), ("psm_1", b"\0" * 8192), (no_heap, b"y" * 9000)):
        with open(os.path.join(shm_root, name), "wb") as stream:
            stream.write(content)
    names = sorted(os.listdir(shm_root))
    watched = watching(rescan=0.1)
    for name in ("sem.x", no_heap):
        with open(os.path.join(shm_root, name), "ab") as stream:
            stream.write(b"z")
    wait_for(lambda: watched.watcher.counts.rescans >= 3)
    assert sorted(os.listdir(shm_root)) == names
    assert watched.events == []


# -- many cleaners, many deaths ------------------------------------------------------------------------


def test_of_300_deaths_beside_other_cleaners_none_is_left_and_each_is_counted_once(spawn, shm_root, watching):
    watchers = [watching(rescan=1000), watching(rescan=1000)]
    removed_elsewhere, stop = [], threading.Event()

    def judge(seen):
        processes = procfs.Processes()
        return [creator.judge(each, processes) for each in seen]

    def clean():
        with shmfs.ShmDirectory(shm_root) as directory, reaper.Reaper(directory) as another:
            while not stop.is_set():
                outcomes = another.clean(directory.names(), judge)
                removed_elsewhere.extend(o.name for o in outcomes if o.result is reaper.REMOVED)

    cleaner = threading.Thread(target=clean)
    lister = spawn.python(
        "from gppshm import shmfs, snapshot\nprint('ready', flush=True)\n"
        "with shmfs.ShmDirectory(sys.argv[1]) as d:\n    while True: snapshot.take(d)",
        shm_root,
    )
    with Farm(spawn, shm_root, 320) as farm:
        cleaner.start()
        try:
            for watched in watchers:
                watched.knows(*farm.names)
            dying, living = farm.pids[:300], sorted(farm.names[300:])
            farm.kill(dying)
            wait_for(lambda: sorted(os.listdir(shm_root)) == living, 5.0)
        finally:
            stop.set()
            cleaner.join()
            lister.kill()

        def removed():
            events = [event for watched in watchers for event in watched.of_kind(watch.REMOVED)]
            return sorted([event.name for event in events] + removed_elsewhere)

        wait_for(lambda: len(removed()) >= 300)  # events wait for what only reports need
        assert removed() == sorted(farm.names[:300])
        kinds = {event.kind for watched in watchers for event in watched.events}
        assert kinds <= {watch.REMOVED, watch.CLEANED}
        for watched in watchers:
            wait_for(lambda: sorted(watched.watcher.living()) == living)  # noqa: B023
            assert watched.watcher.pidfds == 20


# -- scope, dry run, what cannot be done -----------------------------------------------------------------


def test_scope_children_removes_only_what_was_seen_alive_below_the_parent(spawn, shm_root, watching):
    parent = spawn.python(
        "import subprocess\n"
        "own = [sys.executable, '-I', sys.argv[2], 'own', '--root=' + sys.argv[1]]\n"
        "child = subprocess.Popen(own, stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        "shell = subprocess.Popen(['sh', '-c', '\"$@\"; true', 'sh'] + own, stdin=subprocess.PIPE,"
        " stdout=subprocess.PIPE)\n"
        "names = [p.stdout.readline().split()[1].decode() for p in (child, shell)]\n"
        "print('ready', *names, flush=True)\nsys.stdin.readline()\n"
        "for name in names: os.kill(int(name[5:]), 9)\n"
        "child.wait(); shell.wait(); print('killed', flush=True); sys.stdin.read()",
        shm_root,
        heapwriter.__file__,
    )
    stranger, old = spawn.owner(shm_root), orphan(shm_root, spawn.dead_pid())
    watched = watching(scope=watch.CHILDREN, parent=parent.pid, rescan=0.3)
    child, grandchild = parent.name.split()
    watched.knows(child, grandchild, stranger)
    stranger.kill()
    parent.send("kill")
    parent.read_line()
    for name in (child, grandchild):
        watched.reported(watch.REMOVED, name)
    never_seen = orphan(shm_root, spawn.dead_pid())
    rescans = watched.watcher.counts.rescans
    wait_for(lambda: watched.watcher.counts.rescans >= rescans + 2)
    assert sorted(os.listdir(shm_root)) == sorted([stranger.name, old, never_seen])
    told = {event.name: event for event in watched.events}
    assert len(watched.events) == len(told)  # once each
    assert sorted(told) == sorted([child, grandchild, old, never_seen])
    for name in (old, never_seen):
        assert told[name].kind == watch.UNPROVEN
        assert f"not known to descend from process {parent.pid}" in told[name].reason


HIDDEN = """
import ctypes, heapwriter, signal
root, peer = sys.argv[1:3]
os.setgroups([]); os.setgid(65534); os.setuid(65534)
dumpable = lambda yes: ctypes.CDLL(None).prctl(4, yes, 0, 0, 0)
reader, writer = os.pipe()
pid = os.fork()
if not pid:
    dumpable(0)
    heap = heapwriter.LiveHeap.create(root)
    os.write(writer, heap.name.encode())
    while True: signal.pause()
os.close(writer)
name = os.read(reader, 99).decode()
attached = heapwriter.LiveHeap.attach(name, root) if peer else None
dumpable(1)
print("ready", name, flush=True)
sys.stdin.readline()
os.kill(pid, 9); os.waitpid(pid, 0)
print("killed", flush=True)
sys.stdin.read()
"""
"""A child with a heap whose memory map other processes of its user cannot read, as with file capabilities."""


@needs_root
@pytest.mark.parametrize("peer", ["", "peer"])
def test_scope_children_removes_what_a_child_left_whose_memory_map_cannot_be_read(spawn, shm_root, peer):
    os.chmod(shm_root, 0o1777)
    parent = spawn.python(HIDDEN, shm_root, peer)

    def look():
        events, killed = [], False
        options = {"scope": watch.CHILDREN, "parent": parent.pid, "rescan": 1000}
        with watch.Watcher(shm_root, events.append, **options) as watcher:
            end = time.monotonic() + 20
            while time.monotonic() < end and not any(event.kind == watch.REMOVED for event in events):
                watcher.step(0.05)
                if not killed and any(event.kind == watch.UNPROVEN for event in events):
                    killed = True
                    parent.send("kill")
        return [[event.kind, event.name, event.evidence] for event in events]

    told = in_child(look, uid=65534)
    assert told == [["unproven", parent.name, "none"], ["removed", parent.name, "pids" if peer else "lease"]]
    assert os.listdir(shm_root) == []


@needs_root
def test_scope_children_says_once_what_it_leaves_since_nothing_tells_whose_it_is(spawn, shm_root):
    """Name and header disagree, and the memory map of its creator cannot be read."""
    os.chmod(shm_root, 0o1777)
    parent = spawn.python(HIDDEN, shm_root, "")
    with open(os.path.join(shm_root, parent.name), "r+b") as heap:
        heap.seek(8)
        heap.write(b"\1\0\0\0" * 2)  # references, creator

    def look():
        events = []
        options = {"scope": watch.CHILDREN, "parent": parent.pid, "rescan": 0.2}
        with watch.Watcher(shm_root, events.append, **options) as watcher:
            end = time.monotonic() + 20
            while time.monotonic() < end and len(events) < 2:
                watcher.step(0.05)
                if len(events) == 1:
                    parent.send("kill")
            rescans = watcher.counts.rescans
            while time.monotonic() < end and watcher.counts.rescans < rescans + 3:
                watcher.step(0.05)
        return [[event.kind, event.name, event.reason] for event in events]

    told = in_child(look, uid=65534)
    assert [each[:2] for each in told] == [["unproven", parent.name]] * 2
    assert "not known to descend" in told[1][2]
    assert os.listdir(shm_root) == [parent.name]


def test_a_dry_run_removes_nothing_and_tells_of_each_orphan_once(spawn, shm_root, watching):
    old, owner = orphan(shm_root, spawn.dead_pid()), spawn.owner(shm_root)
    watched = watching(dry_run=True, rescan=0.2)
    watched.knows(owner)
    watched.reported(watch.WOULD_REMOVE, old)
    owner.kill()
    watched.reported(watch.WOULD_REMOVE, owner)
    rescans = watched.watcher.counts.rescans
    wait_for(lambda: watched.watcher.counts.rescans >= rescans + 3)
    assert sorted(os.listdir(shm_root)) == sorted([old, owner.name])
    assert len(watched.events) == 2
    assert watched.watcher.counts.removed == 0
    assert watched.watcher.living() == []


def test_what_cannot_be_proven_is_tried_a_few_times_and_told_once(spawn, shm_root, watching, judgements):
    name, recorded = f"heap-{spawn.dead_pid()}", spawn.dead_pid()
    heapwriter.create(os.path.join(shm_root, name), recorded)
    peer = spawn.peer(shm_root, name)
    watched = watching(rescan=0.7)
    event = watched.reported(watch.UNPROVEN, name)
    assert str(recorded) in event.reason
    # Each rescan may begin the tries anew (SETTLED), and nothing else does.
    first = judgements["ask"], watched.watcher.counts.rescans
    assert first[0] <= (first[1] + 1) * (len(watch.RETRIES) + 1)
    wait_for(lambda: watched.watcher.counts.rescans >= first[1] + 2)
    second = judgements["ask"], watched.watcher.counts.rescans
    assert second[0] - first[0] <= (second[1] - first[1]) * (len(watch.RETRIES) + 1)
    assert len(watched.events) == 1
    peer.kill()
    assert watched.reported(watch.REMOVED, name).evidence == "lease"


def test_fifos_of_the_dead_go_at_each_rescan_and_those_of_the_living_stay(
    spawn, shm_root, watching, tmp_path
):
    dead, living = f"fifo-{spawn.dead_pid()}-a0", f"fifo-{os.getpid()}-a1"
    for name in (dead, living, "fifo-x"):
        os.mkfifo(str(tmp_path / name))
    watched = watching(remove_fifos=True, fifo_root=str(tmp_path), rescan=0.2)
    event = watched.reported(watch.REMOVED, dead)
    assert event.evidence == "pids"
    wait_for(lambda: watched.watcher.counts.rescans >= 3)
    assert sorted(os.listdir(str(tmp_path))) == sorted([living, "fifo-x"])
    assert watched.watcher.counts.fifos == 1
    assert len(watched.events) == 1


@needs_root
def test_an_ordinary_user_removes_its_own_orphans_and_is_told_of_the_rest(spawn, shm_root):
    mine, others = spawn.dead_pid(), orphan(shm_root, spawn.dead_pid())
    hidden = orphan(shm_root, spawn.dead_pid(), mode=0o600)
    living = spawn.owner(shm_root)

    def look():
        own = orphan(shm_root, mine)
        events = []
        with watch.Watcher(shm_root, events.append, rescan=1000) as watcher:
            end = time.monotonic() + 5
            told = set()
            while not {own, others, hidden} <= told and time.monotonic() < end:
                watcher.step()
                told = {event.name for event in events}
        return [[event.kind, event.name, event.reason] for event in events]

    events = {name: (kind, reason) for kind, name, reason in in_child(look, uid=65534)}
    assert events[f"heap-{mine}"][0] == watch.REMOVED
    assert events[others] == (watch.FAILED, "it cannot be unlinked: Operation not permitted")
    assert events[hidden] == (watch.FAILED, "Permission denied")
    assert sorted(os.listdir(shm_root)) == sorted([others, hidden, living.name])


# -- quiet, and clean ------------------------------------------------------------------------------------


def test_a_watcher_does_nothing_while_nothing_happens(spawn, shm_root, watching):
    with Farm(spawn, shm_root, 50) as farm:
        watched = watching(rescan=1000)
        watched.knows(*farm.names)
        before = watched.watcher.counts.wakeups
        stays(lambda: watched.watcher.counts.wakeups == before, 1.0)


def test_it_sleeps_again_when_the_last_peer_of_a_removed_heap_has_gone(spawn, shm_root, watching):
    """The kernel tells that the file is gone when nobody asks for it any more."""
    owner = spawn.owner(shm_root)
    peer = spawn.peer(shm_root, owner)
    watched = watching(rescan=1000)
    watched.identified(owner)
    owner.kill()
    assert watched.reported(watch.REMOVED, owner).given_back
    peer.kill()
    wait_for(lambda: not watched.watcher.counts.returning)
    time.sleep(0.2)  # the events of its end have been read
    wakeups = watched.watcher.counts.wakeups
    stays(lambda: watched.watcher.counts.wakeups <= wakeups + 5, 0.5)


def test_closing_is_quick_and_leaks_no_descriptor_thread_or_lease(spawn, shm_root):
    def held():
        with open("/proc/locks") as stream:
            locks = [line for line in stream if f" {os.getpid()} " in line]
        threads = {thread for thread in threading.enumerate() if type(thread).__module__ != "omniORB"}
        return descriptors(), threads, locks

    def once():
        with Watching(shm_root) as watched:
            watched.knows(*farm.names)
            wait_for(lambda: watched.watcher.pidfds == 30)
            farm.kill(farm.pids[30:])
            watched.knows(*farm.names[:30])
            started = time.monotonic()
        return time.monotonic() - started

    with Farm(spawn, shm_root, 30) as farm:
        once()
        before = held()
        assert once() < 0.5
        assert held() == before
        with pytest.raises(OSError):
            watch.Watcher(os.path.join(shm_root, "absent"))
        with pytest.raises(RuntimeError):
            watch.Watcher("/sys", _raise)  # a callback that raises while it is made
        assert held() == before


def _raise(event):
    raise RuntimeError(event.reason)


def test_stop_ends_run_from_another_thread_and_from_a_signal_handler(shm_root):
    with watch.Watcher(shm_root) as watcher:
        threading.Timer(0.05, watcher.stop).start()
        watcher.run()
    code = (
        "import signal, sys; sys.path.insert(0, sys.argv[1]); from gppshm import watch\n"
        "w = watch.Watcher(sys.argv[2]); signal.signal(signal.SIGTERM, lambda *_: w.stop())\n"
        "print('ready', flush=True); w.run(); w.close()"
    )
    folder = os.path.dirname(os.path.dirname(watch.__file__))
    with subprocess.Popen([sys.executable, "-c", code, folder, shm_root], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        process.terminate()
        assert process.wait(10) == 0


def test_new_orders_are_obeyed_at_once_and_what_they_allow_is_removed(spawn, shm_root, watching):
    spared = spawn.owner(shm_root)
    watched = watching(rescan=1000, dry_run=True)
    watched.knows(spared)
    spared.kill()
    watched.reported(watch.WOULD_REMOVE, spared)
    watched.watcher.change(watch.CHILDREN, 1000.0, False, False)
    wait_for(lambda: watched.watcher.counts.rescans == 2)
    assert os.path.exists(os.path.join(shm_root, spared.name))  # nobody's child
    watched.watcher.change(watch.HOST, 1000.0, False, False)
    watched.reported(watch.REMOVED, spared)


def test_a_living_creator_is_judged_anew_when_the_scope_changes(spawn, shm_root, watching):
    ours = spawn.owner(shm_root)
    watched = watching(rescan=1000, parent=os.getpid())
    watched.knows(ours)
    watched.watcher.change(watch.CHILDREN, 1000.0, False, False)
    wait_for(lambda: watched.watcher.counts.rescans == 2)
    ours.kill()
    watched.reported(watch.REMOVED, ours)


def test_who_a_creator_is_can_be_asked_while_it_lives(spawn, shm_root, watching):
    owner, watched = spawn.owner(shm_root), watching(rescan=1000)
    watched.knows(owner)
    status = os.stat(os.path.join(shm_root, owner.name))
    file_id = status.st_dev, status.st_ino
    words = watched.watcher.description(owner.name, file_id).arguments
    assert words[0] == sys.executable and "own" in words
    assert watched.watcher.description(owner.name, (0, 0)).arguments == ()
    owner.kill()
    assert watched.reported(watch.REMOVED, owner).arguments == words
