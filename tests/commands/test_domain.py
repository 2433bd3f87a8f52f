"""redhawk-shminfo --domain: every host of a domain, whoever hangs."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from places import DOCS, FOLDERS, HELPERS
from spawning import wait_for

pytest.importorskip("omniORB", reason="needs omniORB, which has no wheel for this Python")

from nodes import domain, filled, sdr  # noqa: F401 (fixtures)
from screens import TOP, Screen, needs_terminal

pytestmark = pytest.mark.corba

NODE = "GppShmNode"
COMMAND = f"import sys; sys.path[:0] = {FOLDERS!r}; from gppshm.cli.shminfo import main; sys.exit(main())"


def shminfo(*arguments, config=None, limit=30):
    environment = dict(os.environ, LC_ALL="C.UTF-8", OMNIORB_CONFIG=str(config or os.devnull))
    done = subprocess.run(
        [sys.executable, "-s", "-c", COMMAND, *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        timeout=limit,
    )
    assert "Traceback" not in done.stderr
    return done


class Crowd:
    """A domain of many devices in one process (crowd.py), with a naming service of its own."""

    def __init__(self, folder, *arguments):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.where = f"127.0.0.1:{free.getsockname()[1]}"
        names = os.path.join(os.path.dirname(sys.executable), "omniNames")
        port = self.where.rpartition(":")[2]
        argv = [names, "-start", port, "-datadir", str(folder), "-errlog", str(folder / "log"), "-ignoreport"]
        argv += ["-ORBendPoint", f"giop:tcp:{self.where}"]
        null = subprocess.DEVNULL
        # A session for each: omniNames may be a program that starts the real one.
        self.processes = [subprocess.Popen(argv, stdout=null, stderr=null, start_new_session=True)]
        command = [sys.executable, "-s", os.path.join(HELPERS, "crowd.py"), self.where, *map(str, arguments)]
        self.crowd = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
        self.processes.append(self.crowd)
        line = self.crowd.stdout.readline()
        if line != b"ready\n":
            self.close()
            raise AssertionError(line)

    def close(self):
        for process in self.processes:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


@pytest.fixture
def crowd(tmp_path):
    """crowd(devices, hanging, ...): see crowd.py."""
    running = []

    def start(*arguments):
        folder = tmp_path / f"names{len(running)}"
        folder.mkdir()
        running.append(Crowd(folder, *arguments))
        return running[-1]

    yield start
    for each in running:
        each.close()


# -- a real device -------------------------------------------------------------------------------------------


@pytest.fixture
def running(domain, shm_root):  # noqa: F811
    started = domain(NODE)
    started.device("GPP_1_shm", 20)
    return started


def settled(running, *arguments):
    """What it says of the one real device, once that has seen the heaps."""
    return shminfo("--domain", "REDHAWK_DEV", *arguments, config=running.environment["OMNIORB_CONFIG"])


def test_a_real_device_is_a_line_and_the_total(running, spawn, shm_root):
    owner = spawn.owner(shm_root)
    done = wait_for(lambda: _with_heaps(settled(running), 1), 30)
    title, line, total = done.stdout.splitlines()
    assert title.split()[:4] == ["HOST", "DEVICE", "SIZE", "FREE"]
    assert line.split()[:2] == [socket.gethostname(), f"{NODE}/GPP_1_shm"] and line.split()[-1] == "ok"
    assert total.split()[:3] == ["total", "1", "host"] and total.split()[3] == line.split()[2]
    assert done.returncode == 0 and done.stderr == "" and owner.pid


def _with_heaps(done, count):
    assert done.returncode == 0, done.stderr
    return done if done.stdout.splitlines()[1].split()[5] == str(count) else None


def test_json_tells_of_a_real_device_what_the_plain_tool_tells(running, spawn, shm_root):
    spawn.owner(shm_root)
    wait_for(lambda: _with_heaps(settled(running), 1), 30)
    whole = json.loads(settled(running, "--json").stdout)
    (record,) = whole["devices"]
    assert whole["schema"] == "gppshm.domain/1" and whole["domain"] == "REDHAWK_DEV"
    assert (record["host"], record["heaps"], record["orphaned"]) == (socket.gethostname(), 1, 0)
    size = os.statvfs(shm_root).f_blocks * os.statvfs(shm_root).f_frsize
    assert whole["total"]["size"] == record["size"] == size
    with open(os.path.join(DOCS, "domain-json.md")) as stream:
        documented = set(re.findall(r"`(\w+)`", stream.read()))
    assert set(whole) | set(record) | set(whole["total"]) <= documented
    assert 0 <= record["age"] == whole["total"]["age"] < 60
    assert record["capacity"] > 0 and record["reserved"] == 0 and record["error"] is None


def test_one_host_is_shown_in_full_with_its_heaps_and_removals(running, spawn, shm_root):
    living, dead = spawn.owner(shm_root), spawn.owner(shm_root)
    wait_for(lambda: _with_heaps(settled(running), 2), 30)
    os.kill(dead.pid, signal.SIGKILL)
    host = ["--host", socket.gethostname()]
    gpp_only = running.device("GPP_1_shm")
    assert gpp_only._get_label() == "GPP_1_shm"
    done = settled(running, *host)
    assert done.returncode == 0 and f"heap-{living.pid}\n" in done.stdout
    assert "  state:       alive: " in done.stdout
    assert re.search(r"^  age:         \d+\.\d s$", done.stdout, re.M)
    whole = json.loads(settled(running, *host, "--json").stdout)
    assert f"heap-{living.pid}" in [heap["name"] for heap in whole["devices"][0]["files"]]
    assert isinstance(whole["devices"][0]["recent"], list)


def test_a_host_that_is_not_there_is_a_line_that_names_those_that_are(running):
    done = settled(running, "--host", "nowhere")
    assert done.returncode == 1 and done.stdout == ""
    assert "nowhere: there are " + socket.gethostname() in done.stderr and len(done.stderr.splitlines()) == 1


# -- many, of which some hang --------------------------------------------------------------------------------


def test_200_devices_of_which_20_hang_are_shown_in_less_than_3_seconds(crowd):
    place = crowd(200, 20)
    began = time.monotonic()
    done = shminfo("--domain", "CROWD", "--nameservice", place.where)
    took = time.monotonic() - began
    lines = done.stdout.splitlines()
    assert len(lines) == 202 and done.returncode == 1
    assert all(line.startswith("?") and "does not answer" in line for line in lines[1:21])
    frees = [float(line.split()[4]) for line in lines[21:-1]]
    assert frees == sorted(frees) and len(frees) == 180
    assert lines[-1].split()[:3] == ["total", "180", "hosts"] and lines[-1].endswith("20 without an answer")
    assert took < 3
    assert len(done.stderr.splitlines()) == 20


def test_the_devices_of_a_manager_that_hangs_are_found_by_their_names(crowd):
    place = crowd(10, 0, "hanging-manager")
    done = shminfo("--domain", "CROWD", "--nameservice", place.where)
    lines = done.stdout.splitlines()
    assert lines[1].split()[1] == "?" and "a DeviceManager does not answer" in lines[1]
    assert len([line for line in lines if "shm_" in line]) == 10 and done.returncode == 1


def test_two_devices_of_one_host_count_once(crowd):
    place = crowd(2, 0, "one-host")
    whole = json.loads(shminfo("--domain", "CROWD", "--nameservice", place.where, "--json").stdout)
    assert len(whole["devices"]) == 2 and whole["total"]["hosts"] == 1
    assert whole["total"]["size"] == whole["devices"][0]["size"]


def test_what_a_device_answers_cannot_harm_the_terminal_or_the_others(crowd):
    place = crowd(3, 0, "strange")
    done = shminfo("--domain", "CROWD", "--nameservice", place.where)
    assert done.returncode == 1 and "\x1b" not in done.stdout + done.stderr
    assert done.stdout.count("cannot be understood") == 1
    assert "\\x1b" in done.stdout  # a host whose name would paint the screen
    assert "1 host " not in done.stdout.splitlines()[-1] and " 2 hosts" in done.stdout.splitlines()[-1]


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_no_value_that_a_device_answers_ends_the_listing_or_reaches_the_terminal(crowd, arguments):
    place = crowd(5, 0, "hostile")
    where = ["--domain", "CROWD", "--nameservice", place.where, *arguments]
    done = shminfo(*where)
    assert done.returncode == 1 and "\x1b" not in done.stdout + done.stderr
    assert len(done.stderr.splitlines()) == done.stderr.count("cannot be understood") == 3
    for number in range(5):
        told = shminfo(*where, "--host", f"shm_{number}" if number < 4 else "host-4")
        assert "\x1b" not in told.stdout + told.stderr and told.returncode == int(number < 4)
        assert ("heap-1" in told.stdout) == (number == 4)
        assert "NaN" not in told.stdout


def test_another_device_whose_manager_hangs_is_no_line(running):
    running.process.send_signal(signal.SIGSTOP)
    done = settled(running)
    running.process.send_signal(signal.SIGCONT)
    devices = [line.split()[1] for line in done.stdout.splitlines()[1:-1]]
    assert devices == ["?", f"{NODE}/GPP_1_shm"] and done.returncode == 1


# -- nobody to ask -------------------------------------------------------------------------------------------


def one_line(done, *words):
    assert done.returncode == 1 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    for word in words:
        assert word in line
    return line


def test_a_domain_that_is_not_there_is_a_line_that_names_those_that_are(crowd):
    place = crowd(1, 0)
    one_line(shminfo("--domain", "NONE", "--nameservice", place.where), "no domain NONE", "there are CROWD")


def test_without_a_naming_service_a_line_says_so():
    one_line(shminfo("--domain", "X", "--nameservice", "127.0.0.1:1"), "127.0.0.1:1", "--nameservice")
    one_line(shminfo("--domain", "X", "--nameservice", "corbaloc:nonsense"), "corbaloc:nonsense")


def test_a_naming_service_that_hangs_is_given_up_in_time():
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(5)
        began = time.monotonic()
        where = f"127.0.0.1:{deaf.getsockname()[1]}"
        one_line(shminfo("--domain", "X", "--nameservice", where, "--timeout", "0.5"), "answer", where)
        assert time.monotonic() - began < 3


def test_a_domain_manager_that_hangs_is_given_up_in_time(crowd):
    place = crowd(1, 0)
    place.crowd.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    done = shminfo("--domain", "CROWD", "--nameservice", place.where, "--timeout", "0.5")
    assert time.monotonic() - began < 3
    one_line(done, "DomainManager of CROWD", "answer", "--timeout")


def test_without_omniorb_a_line_says_how_to_get_it(tmp_path):
    (tmp_path / "omniORB.py").write_text("raise ImportError('No module named omniORB')\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {COMMAND}"
    done = subprocess.run(
        [sys.executable, "-s", "-c", code, "--domain", "X"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        timeout=30,
    )
    one_line(done, "omniORBpy", "pip install")


def test_what_two_devices_of_one_host_show_of_one_folder_counts_once():
    from gppshm.cli import shminfo_domain
    from gppshm.redhawk import domain as domains

    def device(host, path, reserved, capacity):
        usage = dict.fromkeys(domains.SIZES, 0)
        usage.update(total=1000, free=1000, reserved=reserved, path=path)
        found = domains.Host("node", f"{host}{path}")
        values = {"shm::usage": usage, "shm::capacity": capacity, "shm::host_name": host, "shm::heaps": []}
        found.take({**values, "shm::cleanup": {"enabled": True}, "shm::cleanup_status": {"removed": 0}})
        return found

    hosts = [device("a", "/dev/shm", 600, 3), device("a", "/dev/shm", 600, 3)]
    hosts += [device("a", "/other", 100, 2), device("b", "/dev/shm", 10, 5)]
    total = shminfo_domain.total(hosts)
    assert (total["hosts"], total["size"], total["reserved"]) == (2, 3000, 710)
    assert total["capacity"] == (3 + 2 + 5) << 20


def test_values_of_an_earlier_scan_are_shown_with_their_age(crowd):
    place = crowd(3, 0, "aged")
    where = ["--domain", "CROWD", "--nameservice", place.where]
    lines = shminfo(*where).stdout.splitlines()
    fresh, old, without = sorted(lines[1:4], key=lambda line: line.split()[1])
    total = lines[4]
    assert fresh.endswith("  ok") and old.endswith("  ok, seen 12 s ago") and without.endswith("  ok")
    assert total.endswith("  seen 12 s ago")
    devices = json.loads(shminfo(*where, "--json").stdout)["devices"]
    assert {each["device"]: each["age"] for each in devices} == {"shm_0": 0.5, "shm_1": 12.25, "shm_2": None}
    detail = [shminfo(*where, "--host", f"host-{number}").stdout for number in range(3)]
    assert ["  age:         0.5 s\n" in detail[0], "12.2 s" in detail[1], "unknown" in detail[2]] == [
        True
    ] * 3


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_a_naming_service_may_be_named_by_an_ipv6_address(host, tmp_path):
    if not os.path.exists("/proc/net/if_inet6"):
        pytest.skip("this host has no IPv6")
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 2809))
        except OSError:
            pytest.skip("the naming service's port is taken, or there is no ::1")
    names = os.path.join(os.path.dirname(sys.executable), "omniNames")
    argv = [
        names,
        "-start",
        "2809",
        "-datadir",
        str(tmp_path),
        "-errlog",
        str(tmp_path / "log"),
        "-ignoreport",
    ]
    null = subprocess.DEVNULL
    running = subprocess.Popen(
        [*argv, "-ORBendPoint", "giop:tcp:[::1]:2809"], stdout=null, stderr=null, start_new_session=True
    )
    try:
        asked = ("--domain", "X", "--nameservice", host)
        done = wait_for(lambda: _answered(shminfo(*asked)), 20)
        assert "no domain X" in done.stderr
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.communicate()


def _answered(done):
    return None if "answers" in done.stderr else done


@pytest.mark.parametrize(
    "arguments",
    [
        ["--host", "x"],
        ["--host", ""],
        ["--nameservice", "x"],
        ["--timeout", "1"],
        ["--domain", "X", "--timeout", "0"],
        ["--domain", "X", "--timeout", "nan"],
        ["--domain", "X", "--blocks", "heap-1"],
        ["--domain", "X", "heap-1"],
        ["--domain", "X", "--sort=size"],
        ["--domain", "X", "--root=/tmp"],
    ],
)
def test_what_does_not_go_together_is_wrong_usage(arguments):
    done = shminfo(*arguments)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)


def test_the_plain_tools_know_nothing_of_corba():
    loaded = "[name for name in sys.modules if 'omni' in name.lower() or 'redhawk' in name]"
    code = f"{COMMAND.rpartition(';')[0]}; main([]); print({loaded})"
    out = subprocess.run([sys.executable, "-s", "-c", code], stdout=subprocess.PIPE, timeout=30).stdout
    assert out.splitlines()[-1] == b"[]"


# -- redhawk-shmtop --domain ---------------------------------------------------------------------------------


def top(place, *arguments):
    return [*TOP, "--domain", "CROWD", "--nameservice", place.where, *arguments]


def shmtop(*argv):
    done = subprocess.run(
        argv,
        env=dict(os.environ, LC_ALL="C.UTF-8"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        timeout=30,
    )
    return done.returncode, done.stdout, done.stderr


def test_one_frame_of_the_domain_is_for_scripts(crowd):
    status, shown, errors = shmtop(*top(crowd(30, 2), "--once"))
    assert (status, errors) == (1, "")  # as redhawk-shminfo: two did not answer
    lines = shown.splitlines()
    assert lines[0].startswith("CROWD  28 hosts, 0 heaps, 0 orphaned, 2 without an answer")
    assert len(lines) == 33 and lines[3].startswith("?") and lines[4].startswith("?")


def test_shmtop_tells_in_a_line_what_is_not_there(crowd):
    place = crowd(1, 0)
    status, shown, errors = shmtop(*TOP, "--domain", "NONE", "--nameservice", place.where, "--once")
    assert (status, shown, len(errors.splitlines())) == (1, "", 1) and "there are CROWD" in errors
    assert shmtop(*TOP, "--timeout", "1")[0] == 2
    assert shmtop(*TOP, "--domain", "X", "--sort", "size")[0] == 2
    assert shmtop(*TOP, "--domain", "X", "--root", "/tmp")[0] == 2
    assert shmtop(*top(place, "--once"))[0] == 0


@pytest.mark.parametrize("form", ["{}", "corbaloc::{}/NameService", "corbaname::{}"])
def test_a_naming_service_is_named_in_each_of_the_forms_that_omniorb_takes(crowd, form):
    place = crowd(1, 0)
    done = shminfo("--domain", "CROWD", "--nameservice", form.format(place.where))
    assert (done.returncode, done.stderr) == (0, "")


@needs_terminal
@pytest.mark.parametrize("width", [80, 140])
def test_the_screen_shows_who_hangs_and_freezes_for_nobody(crowd, tmp_path, width):
    place = crowd(40, 3)
    with Screen(tmp_path, top(place), width=width) as screen:
        screen.shows("CROWD  37 hosts", "3 without an answer", "does not answer", "q quit")
        screen.press("End")
        screen.matches(r"^node_\d/shm_\d+: ok")
        screen.type("/host-7")
        screen.shows("filter: host-7", "host-7")
        screen.shows_no("host-8")
        screen.press("Enter", "Enter")
        screen.shows("host-7  node_0/shm_7", "0 heaps", "removed lately: nothing", "Esc back")
        screen.press("Escape")
        screen.press("Escape")
        screen.shows("CROWD  37 hosts", "does not answer")
        screen.type("c")
        screen.shows("nothing is cleaned from here")
        screen.type("?")
        screen.shows("PgUp PgDn")
        screen.press("Escape")
        screen.type("s")
        screen.shows("HOST\u25b4")
        screen.type("q")
        assert screen.ended() == 0


@needs_terminal
def test_the_screen_follows_a_real_device_and_says_when_it_is_gone(running, spawn, shm_root, tmp_path):
    config = running.environment["OMNIORB_CONFIG"]
    argv = ["env", f"OMNIORB_CONFIG={config}", *TOP, "--domain", "REDHAWK_DEV"]
    with Screen(tmp_path, argv, width=120) as screen:
        screen.shows("REDHAWK_DEV  1 host, 0 heaps")
        owner = spawn.owner(shm_root)
        screen.shows("1 host, 1 heap,", deadline=40)
        screen.press("Enter")
        screen.shows(owner.name, "alive: ")
        screen.press("Escape")
        os.kill(running.domain.pid, signal.SIGKILL)
        screen.shows("does not answer", deadline=20)
        screen.shows("1 host, ", f"{NODE}/GPP_1_shm")
        screen.type("q")
        assert screen.ended() == 0
