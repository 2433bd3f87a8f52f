"""Promises of the metrics: they say what is there and what was done, and hold up no cleaning."""

import os
import signal
import socket
import stat
import sys
import threading
import time

import pytest
from test_shmwatch import command, orphan

import heapwriter
from scraping import content, free_port, read, samples, scrape
from spawning import needs_root, python_command, run_command, wait_for
from unit import limited
from watching import Farm, Shmwatch, Watching, gone

from gppshm import events, exporter, outlet, watch  # isort: skip

STATES = ("alive", "orphaned", "orphaned_attached", "unknown", "unreadable")


def collect(root, counts=None, **options):
    return samples(exporter.Collector(root, counts or events.Counts(), **options).collect())


def heaps(figures):
    return {state: figures.get("heaps{state=%s}" % state) for state in STATES}


def blocks(root, *names):
    return sum(os.stat(os.path.join(root, name)).st_blocks * 512 for name in names)


# -- what a scan finds ---------------------------------------------------------------------------------------


def test_an_empty_folder_has_every_metric(shm_root):
    figures = collect(shm_root)
    usage = os.statvfs(shm_root)
    assert figures["size_bytes"] == usage.f_blocks * usage.f_frsize
    assert 0 < figures["free_bytes"] <= figures["size_bytes"]
    assert heaps(figures) == dict.fromkeys(STATES, 0)
    for name in ("heap_bytes", "orphaned_bytes", "reserved_bytes", "locks_held_by_dead", "removals_total"):
        assert figures[name] == 0
    assert figures["scan_success"] == 1
    assert abs(figures["last_scan_timestamp_seconds"] - time.time()) < 5


def test_heaps_are_counted_by_state_and_their_memory_summed(spawn, shm_root):
    living, dying = spawn.owner(shm_root), spawn.owner(shm_root, "--superblocks=2")
    spawn.peer(shm_root, dying)
    dying.kill()
    dead = orphan(shm_root, spawn.dead_pid())
    # The pid of its header and that of its name differ, and a peer has it open: nothing can be proven.
    odd = f"heap-{spawn.dead_pid()}"
    heapwriter.create(os.path.join(shm_root, odd), spawn.dead_pid())
    spawn.peer(shm_root, odd)
    with open(os.path.join(shm_root, "no-heap"), "wb") as stream:
        stream.write(b"x" * 100000)
    figures = collect(shm_root, reserved=lambda: 64 << 20)
    assert heaps(figures) == dict(zip(STATES, (1, 1, 1, 1, 0)))
    assert figures["heap_bytes"] == blocks(shm_root, living.name, dying.name, dead, odd)
    assert figures["orphaned_bytes"] == blocks(shm_root, dying.name, dead)
    assert figures["reserved_bytes"] == 64 << 20


def test_memory_that_is_unlinked_and_held_is_shown(spawn, shm_root):
    before = collect(shm_root)["held_bytes"]
    owner = spawn.owner(shm_root, "--superblocks=8")
    size = blocks(shm_root, owner.name)
    peer = spawn.peer(shm_root, owner)
    os.unlink(os.path.join(shm_root, owner.name))
    # Others may begin or end to hold what is theirs meanwhile; it is less than this heap.
    assert abs(collect(shm_root)["held_bytes"] - before - size) < size / 2
    owner.kill()
    peer.kill()
    assert abs(collect(shm_root)["held_bytes"] - before) < size / 2


def test_a_lock_of_the_dead_is_counted_and_one_of_the_living_is_not(spawn, shm_root):
    spawn.owner(shm_root, "--hold-lock")
    dying = spawn.owner(shm_root, "--hold-lock")
    spawn.peer(shm_root, dying)
    assert collect(shm_root)["locks_held_by_dead"] == 0
    dying.kill()
    assert collect(shm_root)["locks_held_by_dead"] == 1


def test_a_scan_that_fails_says_so_shows_no_figures_and_mends(tmp_path, monkeypatch):
    monkeypatch.setattr(exporter, "PERIOD", 0.0)
    monkeypatch.setattr(exporter, "SHARE", 0)
    root, told = tmp_path / "shm", []
    collector = exporter.Collector(str(root), events.Counts(), on_trouble=told.append)
    for _ in range(3):
        figures = samples(collector.collect())
        assert (figures["scan_success"], figures["last_scan_timestamp_seconds"]) == (0, 0)
        assert figures["removals_total"] == 0
        assert "free_bytes" not in figures and "heaps{state=alive}" not in figures
    assert len(told) == 1 and "No such file or directory" in told[0]
    root.mkdir()
    figures = samples(collector.collect())
    assert figures["scan_success"] == 1
    root.rmdir()
    last = samples(collector.collect())
    assert last["last_scan_timestamp_seconds"] == figures["last_scan_timestamp_seconds"]
    assert len(told) == 2


def test_whoever_asks_more_often_than_once_a_second_gets_the_last_scan(shm_root, monkeypatch):
    done, begun = exporter.Scan(shm_root, 0), []

    def scan(*arguments):
        begun.append(time.monotonic())
        return done

    monkeypatch.setattr(exporter, "Scan", scan)
    collector = exporter.Collector(shm_root, events.Counts())
    end = time.monotonic() + 1.5

    def ask():
        while time.monotonic() < end:
            assert samples(collector.collect())["scan_success"] == 1

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(begun) == 2
    assert begun[1] - begun[0] >= 1.0


def test_no_series_is_added_however_many_processes_come_and_go(spawn, shm_root):
    with Shmwatch(shm_root, "--metrics", str(free_port())) as watching:
        port = int(watching.process.args[-2])
        before = set(scrape(port))
        farms = [Farm(spawn, shm_root, 20) for _ in range(3)]
        for farm in farms:
            farm.kill(farm.pids[:10])
            gone(shm_root, *farm.names[:10])
        wait_for(lambda: scrape(port)["heaps{state=alive}"] == 30)
        figures = scrape(port)
        assert set(figures) == before
        assert figures["removals_total"] == 30


# -- what was done -------------------------------------------------------------------------------------------


def test_removals_and_their_latencies_are_counted(spawn, shm_root):
    with Watching(shm_root) as watching:
        owners = [spawn.owner(shm_root) for _ in range(5)]
        watching.knows(*owners)
        size = blocks(shm_root, *[owner.name for owner in owners])
        for owner in owners:
            owner.kill()
        latencies = [watching.reported(watch.REMOVED, owner).latency for owner in owners]
        figures = collect(shm_root, watching.watcher.counts)
    assert (figures["removals_total"], figures["removed_bytes_total"]) == (5, size)
    assert figures["death_to_unlink_seconds_count"] == 5
    assert figures["death_to_unlink_seconds_sum"] == pytest.approx(sum(latencies))
    limits = [0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0]
    for limit in limits:
        within = sum(latency <= limit for latency in latencies)
        assert figures[f"death_to_unlink_seconds_bucket{{le={limit}}}"] == within
    assert figures["death_to_unlink_seconds_bucket{le=+Inf}"] == 5


def test_what_a_rescan_removes_has_no_latency(spawn, shm_root):
    orphan(shm_root, spawn.dead_pid())
    with Watching(shm_root) as watching:
        wait_for(lambda: watching.watcher.counts.removed)
        figures = collect(shm_root, watching.watcher.counts)
    assert (figures["removals_total"], figures["death_to_unlink_seconds_count"]) == (1, 0)


def test_what_could_not_be_removed_is_counted(spawn, shm_root):
    dead = orphan(shm_root, spawn.dead_pid())
    with Watching(shm_root, dry_run=True) as watching:
        watching.reported(watch.WOULD_REMOVE, dead)
        figures = collect(shm_root, watching.watcher.counts)
    assert (figures["removals_total"], figures["failures_total"]) == (0, 0)
    assert heaps(figures)["orphaned"] == 1


def test_a_scan_holds_up_no_cleaning(spawn, shm_root, monkeypatch):
    """Not even one that computes all the time, with the switching that the commands set."""

    begun = threading.Event()

    def long_scan(*arguments):
        begun.set()
        end = time.monotonic() + 3.0
        while time.monotonic() < end:
            sum(range(1000))
        raise OSError(0, "long")

    monkeypatch.setattr(exporter, "Scan", long_scan)
    usual = sys.getswitchinterval()
    sys.setswitchinterval(watch.SWITCH_INTERVAL)
    try:
        with Watching(shm_root) as watching, Farm(spawn, shm_root, 20) as farm:
            watching.knows(*farm.names)
            collector = exporter.Collector(shm_root, watching.watcher.counts)
            scanning = threading.Thread(target=lambda: list(collector.collect()))
            scanning.start()
            assert begun.wait(10)
            farm.kill()
            latencies = [watching.reported(watch.REMOVED, name).latency for name in farm.names]
            assert scanning.is_alive()
            scanning.join()
    finally:
        sys.setswitchinterval(usual)
    assert max(latencies) < 0.5


# -- the command ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", ["", ":", "127.0.0.1:", "localhost:"])
def test_the_command_serves_them_on_loopback_unless_told_otherwise(spawn, shm_root, before):
    port = free_port()
    spawn.owner(shm_root)
    with Shmwatch(shm_root, f"--metrics={before}{port}") as watching:
        assert scrape(port)["heaps{state=alive}"] == 1
        with open(f"/proc/{watching.pid}/net/tcp") as stream:
            listening = [line.split()[1] for line in stream if line.split()[3] == "0A"]
        assert f"0100007F:{port:04X}" in listening
        assert f"00000000:{port:04X}" not in listening
        end, stderr = watching.end()
        assert (end["event"], stderr) == ("end", "")


def test_the_command_serves_ipv6_in_brackets(shm_root):
    if not os.path.exists("/proc/net/if_inet6"):
        pytest.skip("this host has no IPv6")
    port = free_port()
    with Shmwatch(shm_root, f"--metrics=[::1]:{port}"):
        assert scrape(port, "[::1]")["scan_success"] == 1


@pytest.mark.parametrize(
    "address",
    ["", ":", "0", "65536", "-1", "http", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "::1:9753", "[::1]"]
    + ["host name:9753", "/dev/shm:9753", "\u0661\u0662", "\x1b[2J:1", "a:1\n"],
)
def test_an_address_that_is_none_is_a_usage_error_of_one_line(shm_root, address):
    done = command(f"--root={shm_root}", f"--metrics={address}")
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert "ADDRESS:PORT" in done.stderr and "\x1b" not in done.stderr


@pytest.mark.parametrize(
    "place", ["127.0.0.1:{}", "203.0.113.1:{}", "a..b:{}"], ids=["taken", "absent", "no name"]
)
def test_an_address_that_cannot_be_had_is_told_once_and_keeps_nobody_from_cleaning(spawn, shm_root, place):
    name = orphan(shm_root, spawn.dead_pid())
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen(1)
        place = place.format(other.getsockname()[1])
        with Shmwatch(shm_root, f"--metrics={place}") as watching:
            assert not os.path.exists(os.path.join(shm_root, name))
            assert watching.complaint().startswith(f"redhawk-shmwatch: metrics cannot be served at {place}: ")
            owner = spawn.owner(shm_root)
            owner.kill()
            watching.wait("removed", owner)
            time.sleep(1.2)  # it has tried again, and would have complained again
            assert watching.end()[1] == ""


def test_an_address_that_is_free_later_is_served_then(shm_root):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen(1)
        port = other.getsockname()[1]
        watching = Shmwatch(shm_root, f"--metrics={port}")
    with watching:
        wait_for(lambda: answers(port))
        assert scrape(port)["scan_success"] == 1


def answers(port):
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def test_a_name_service_that_is_silent_delays_nothing(spawn, shm_root):
    code = (
        "import socket, time\nsocket.getaddrinfo = lambda *_: time.sleep(60)\n"
        "from gppshm.cli import shmwatch\nprint('ready', flush=True)\nsys.exit(shmwatch.main(sys.argv[1:]))\n"
    )
    name = orphan(shm_root, spawn.dead_pid())
    watching = spawn.python(code, f"--root={shm_root}", "--metrics=radio.example:9753")
    wait_for(lambda: not os.path.exists(os.path.join(shm_root, name)), 2.0)
    started = time.monotonic()
    watching.kill(signal.SIGTERM)
    assert time.monotonic() - started < 2.0


# -- many who ask, and what they do --------------------------------------------------------------------------


@pytest.fixture
def served(shm_root):
    """(port, collector) of an outlet in this process."""
    port = free_port()
    shown = outlet.Outlet(shm_root, events.Counts())
    shown.serve(("127.0.0.1", port))
    return port, shown._collector


def open_descriptors():
    return len(os.listdir("/proc/self/fd"))


def status_of(port, request=b"GET /metrics HTTP/1.0\r\n\r\n"):
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(request)
        answer = b""
        while True:
            data = connection.recv(65536)
            if not data:
                return int(answer.split()[1]) if answer else 0, answer
            answer += data


def test_one_scan_that_hangs_costs_one_thread_and_the_last_result_is_given(served, monkeypatch):
    port, collector = served
    assert scrape(port)["scan_success"] == 1
    free = threading.Event()
    monkeypatch.setattr(outlet, "PATIENCE", 0.1)
    monkeypatch.setattr(exporter, "Scan", lambda *arguments: free.wait(60))
    collector._next = 0.0
    before = threading.active_count(), open_descriptors()
    try:
        for _ in range(30):
            assert scrape(port)["scan_success"] == 1
        assert threading.active_count() <= before[0] + 1
        wait_for(lambda: open_descriptors() <= before[1])
    finally:
        free.set()


def test_before_any_scan_has_come_to_an_end_the_answer_is_503(served, monkeypatch):
    port, _ = served
    free = threading.Event()
    monkeypatch.setattr(outlet, "PATIENCE", 0.1)
    monkeypatch.setattr(exporter, "Scan", lambda *arguments: free.wait(60))
    try:
        for _ in range(3):
            status, answer = status_of(port)
            assert status == 503 and b"no scan has finished yet" in answer
    finally:
        free.set()


def test_who_asks_for_a_scan_that_takes_a_while_gets_it(served, monkeypatch):
    port, _ = served
    scan = exporter.Scan

    def slow(*arguments):
        time.sleep(1.0)
        return scan(*arguments)

    monkeypatch.setattr(exporter, "Scan", slow)
    assert scrape(port)["scan_seconds"] >= 1.0


def test_connections_that_say_nothing_are_few_and_end(served, monkeypatch):
    port, _ = served
    monkeypatch.setattr(outlet, "REQUEST_TIME", 1.0)
    before = open_descriptors()
    idle = []
    try:
        for number in range(100):
            idle.append(socket.create_connection(("127.0.0.1", port)))
            if number % 2:
                idle[-1].sendall(b"GET /met")
        assert scrape(port)["scan_success"] == 1
        assert open_descriptors() - before <= 100 + outlet.CONNECTIONS
        wait_for(lambda: open_descriptors() - before <= 100, 5)
        assert scrape(port)["scan_success"] == 1
    finally:
        for connection in idle:
            connection.close()


def test_descriptors_are_left_for_cleaning_however_many_ask(spawn, shm_root):
    port = free_port()
    limit = ("prlimit", "--nofile=32:32")
    with Shmwatch(shm_root, f"--metrics={port}", prefix=limit) as watching:
        idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(12)]
        try:
            for _ in range(3):
                owner = spawn.owner(shm_root)
                owner.kill()
                watching.wait("removed", owner)
            taken = len(os.listdir(f"/proc/{watching.pid}/fd"))
            assert taken <= 24 + 2
        finally:
            for connection in idle:
                connection.close()
        wait_for(lambda: is_served(port))


def is_served(port):
    try:
        return status_of(port)[0] == 200
    except ConnectionResetError:  # it had no descriptor for us
        return False


@pytest.mark.parametrize(
    "request_, status",
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        (b"GET /metrics HTTP/1.1\nHost: x\n\n", 200),
        (b"HEAD /metrics HTTP/1.0\r\n\r\n", 200),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", 405),
        (b"\x16\x03\x01\x02\r\n\r\n", 405),
        (b"x" * 9000, 0),
    ],
)
def test_any_request_is_answered_or_ended(served, request_, status):
    port, _ = served
    try:
        found, answer = status_of(port, request_)
    except ConnectionResetError:
        found, answer = 0, b""
    assert found == status
    if request_.startswith(b"HEAD"):
        assert answer.endswith(b"\r\n\r\n") and b"Content-Length: 0" not in answer


def test_who_asks_for_openmetrics_gets_it(served):
    port, _ = served
    status, answer = status_of(
        port, b"GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text; version=1.0.0\r\n\r\n"
    )
    assert status == 200 and answer.endswith(b"# EOF\n") and b"application/openmetrics-text" in answer


MAIN = "from gppshm.cli import shmwatch\nsys.exit(shmwatch.main(sys.argv[1:]))\n"


@pytest.mark.parametrize("option", ["--metrics=9753", "--metrics-textfile=/nowhere/metrics.prom"])
def test_without_prometheus_client_a_line_says_how_to_get_it_and_it_cleans(spawn, shm_root, option):
    name = orphan(shm_root, spawn.dead_pid())
    ending = "import signal, threading\nmain = threading.get_ident()\n"
    ending += "threading.Timer(1, signal.pthread_kill, (main, signal.SIGTERM)).start()\n"
    code = "sys.modules['prometheus_client'] = None\n" + ending + MAIN
    done = run_command(python_command(code, f"--root={shm_root}", option))
    assert (done.returncode, os.listdir(shm_root)) == (0, [])
    assert f" removed {name} " in done.stdout
    assert done.stderr == (
        "redhawk-shmwatch: metrics need the Python package prometheus_client, which cannot be imported:"
        " apt-get install python3-prometheus-client, or pip install prometheus_client\n"
    )


def test_who_does_not_ask_for_metrics_pays_nothing(spawn, shm_root):
    orphan(shm_root, spawn.dead_pid())
    code = (
        "import signal\nfrom gppshm.cli import shmwatch\nsignal.setitimer(signal.ITIMER_REAL, 1)\n"
        "signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGTERM))\n"
        "status = shmwatch.main(sys.argv[1:])\n"
        "unasked = {'prometheus_client', 'http.server', 'gppshm.exporter', 'gppshm.outlet'}\n"
        "print(status, sorted(unasked & set(sys.modules)), threading.active_count())\n"
    )
    done = run_command(python_command("import threading\n" + code, f"--root={shm_root}"))
    assert done.stdout.splitlines()[-1] == "0 [] 1", done.stderr
    assert " removed heap-" in done.stdout


# -- the file ------------------------------------------------------------------------------------------------


def test_the_file_is_there_soon_renewed_whole_and_stays(spawn, shm_root, tmp_path):
    path = tmp_path / "redhawk.prom"
    # As a service's, whose files nobody else may read.
    umask = ("sh", "-c", 'umask 077; exec "$@"', "sh")
    with Shmwatch(shm_root, "--rescan=1", f"--metrics-textfile={path}", prefix=umask) as watching:
        first = wait_for(lambda: content(path))
        assert read(first)["removals_total"] == 0
        assert stat.S_IMODE(os.stat(str(path)).st_mode) == 0o644
        owner = spawn.owner(shm_root)
        owner.kill()
        gone(shm_root, owner)

        def renewed():
            text = content(path)
            assert text.endswith("\n") and 'le="+Inf"' in text  # never a part of it
            return read(text)["removals_total"] == 1

        wait_for(renewed)
        assert os.listdir(str(tmp_path)) == ["redhawk.prom"]
        watching.end()
    assert read(content(path))["removals_total"] == 1


def test_a_file_that_cannot_be_written_is_told_once_and_stops_nothing(spawn, shm_root, tmp_path):
    path = tmp_path / "later" / "redhawk.prom"
    with Shmwatch(shm_root, "--rescan=1", f"--metrics-textfile={path}") as watching:
        owner = spawn.owner(shm_root)
        owner.kill()
        watching.wait("removed", owner)
        time.sleep(2.5)  # several tries
        (tmp_path / "later").mkdir()
        assert read(wait_for(lambda: content(path)))["removals_total"] == 1
        _, stderr = watching.end()
    assert stderr.splitlines() == [
        f"redhawk-shmwatch: {path} cannot be written: No such file or directory; tried every 1 s"
    ]


def test_a_folder_in_its_place_is_told_and_no_temporary_file_stays(shm_root, tmp_path):
    (tmp_path / "redhawk.prom").mkdir()
    with Shmwatch(shm_root, f"--metrics-textfile={tmp_path}/redhawk.prom") as watching:
        told = watching.complaint()
        watching.end()
    assert "redhawk.prom cannot be written: Is a directory" in told
    assert os.listdir(str(tmp_path)) == ["redhawk.prom"]


@pytest.mark.parametrize(
    "make", [os.mkfifo, lambda path: os.symlink("/dev/null", path)], ids=["fifo", "symlink"]
)
def test_what_is_no_file_in_its_place_is_refused_and_left(shm_root, tmp_path, make):
    path = str(tmp_path / "redhawk.prom")
    make(path)
    before = os.lstat(path).st_ino
    with Shmwatch(shm_root, "--rescan=1", f"--metrics-textfile={path}") as watching:
        assert "cannot be written: it is a symlink, FIFO or other special file" in watching.complaint()
        assert os.lstat(path).st_ino == before
        os.unlink(path)
        wait_for(lambda: content(path))
        watching.end()


def test_a_fifo_in_place_of_the_temporary_file_holds_up_nothing(shm_root, tmp_path):
    path = str(tmp_path / "redhawk.prom")
    os.mkfifo(f"{path}.{os.getpid()}.new")
    outlet._replace(path, b"content")
    assert content(path) == "content" and os.listdir(str(tmp_path)) == ["redhawk.prom"]


@needs_root
def test_who_may_not_write_into_the_folder_is_told_whose_it_is_and_may_be_in_its_group(shm_root, tmp_path):
    folder = tmp_path / "node-exporter"
    folder.mkdir()
    os.chown(str(folder), 65534, 65533)
    folder.chmod(0o775)
    path = folder / "redhawk.prom"
    lacking = {"lacking": ["CAP_DAC_OVERRIDE"]}
    os.chmod(shm_root, 0o1777)
    option = f"--metrics-textfile={path}"
    with Shmwatch(shm_root, option, prefix=limited(folder, groups="--groups=65533", **lacking)) as watching:
        assert read(wait_for(lambda: content(path)))["scan_success"] == 1
        assert watching.end()[1] == ""
    path.unlink()
    with Shmwatch(shm_root, option, prefix=limited(folder, **lacking)) as watching:
        told = watching.complaint()
        watching.end()
    assert "Permission denied; its folder is of user 65534, group 65533 and mode 775" in told


def test_both_ways_may_be_taken_at_once_and_a_signal_ends_it(shm_root, tmp_path):
    port = free_port()
    arguments = (f"--metrics={port}", f"--metrics-textfile={tmp_path}/redhawk.prom")
    with Shmwatch(shm_root, *arguments) as watching:
        served = scrape(port)
        written = read(wait_for(lambda: content(tmp_path / "redhawk.prom")))
        assert set(served) == set(written)
        started = time.monotonic()
        watching.end(signal.SIGINT)
        assert time.monotonic() - started < 1.0


def test_a_file_of_many_names_is_read_and_counted_once(shm_root, spawn):
    """39 links to one file of 65,536 superblocks took a minute and 2 GB."""
    owner = spawn.owner(shm_root, "--superblocks=3000", "--size=4096")
    path = os.path.join(shm_root, owner.name)
    took = os.stat(path).st_blocks * 512
    started = time.monotonic()
    alone = collect(shm_root)
    once = time.monotonic() - started
    for number in range(39):
        os.link(path, os.path.join(shm_root, f"link-{number}"))
    started = time.monotonic()
    figures = collect(shm_root)
    assert time.monotonic() - started < 5 * once + 0.5
    assert figures["heap_bytes"] == alone["heap_bytes"] == took
