"""Promises of demo/demo.py, which `./build.sh run` starts: on the real /dev/shm, as a process."""

import fcntl
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
import threading

import pytest

from places import DEMO as FOLDER
from places import HEAPWRITER, ROOT
from spawning import lives, wait_for

DEMO = os.path.join(FOLDER, "demo.py")
NOT_OURS = "(not ours: left alone)"


class Demo:
    """demo.py with a folder for temporary files of its own; everything that it starts carries a mark.

    terminal     its stdout is one, of 80 columns
    environment  is added to its own
    """

    def __init__(self, folder, *options, terminal=False, **environment):
        self.folder = str(folder)
        self.mark = b"GPPSHM_TEST_DEMO=" + os.fsencode(self.folder)
        self.output = os.path.join(self.folder, "output")
        self.temporary = os.path.join(self.folder, "tmp")
        os.mkdir(self.temporary)
        environment.update(TMPDIR=self.temporary, GPPSHM_TEST_DEMO=self.folder)
        stream = open(self.output, "wb", buffering=0)  # noqa: SIM115 (the terminal's reader keeps it)
        stdout = stream
        if terminal:
            screen, stdout = pty.openpty()
            fcntl.ioctl(stdout, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-s", DEMO, *options],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.STDOUT,
            env=dict(os.environ, **environment),
            start_new_session=True,
        )
        if terminal:
            os.close(stdout)
            threading.Thread(target=copy, args=(screen, stream)).start()
        else:
            stream.close()

    def text(self):
        with open(self.output, encoding="utf-8", newline="") as stream:
            return stream.read()

    def finish(self, status=0):
        """Wait for its end; what it said."""
        assert self.process.wait(60) == status, self.text()
        return self.text()

    def processes(self):
        """The pids of it and of all that it started, while they live."""
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{name}/environ", "rb") as stream:
                    if self.mark in stream.read().split(b"\0"):
                        found.append(int(name))
            except OSError:
                pass
        return found

    def leaves_nothing(self, before):
        """Neither processes nor temporary files, nor a heap of a dead process that was not there before."""
        wait_for(lambda: not self.processes())
        assert os.listdir(self.temporary) == []
        assert [name for name in heaps_in_shm() - before if not lives(name[5:])] == []
        return True

    def close(self):
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)
        self.process.wait()


def copy(screen, stream):
    """All that is written on a terminal, until nobody has it open any more."""
    with open(screen, "rb", buffering=0) as source, stream:
        while True:
            try:
                stream.write(source.read(65536))
            except OSError:
                return


def heaps_in_shm():
    return {name for name in os.listdir("/dev/shm") if name.startswith("heap-")}


@pytest.fixture
def demo(tmp_path):
    """demo(...): a Demo, of which nothing is left running."""
    started = []

    def start(*options, **more):
        started.append(Demo(tmp_path, *options, **more))
        return started[-1]

    yield start
    for each in started:
        each.close()


class Shown:
    """One demonstration to the end, its stdout no terminal, while a heap of a dead process lay in /dev/shm.

    text            what it said
    orphan          the name of that heap; its status before and after
    left_nothing    behind
    """

    def __init__(self, folder):
        owner = subprocess.Popen(
            [sys.executable, "-I", HEAPWRITER, "own"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        with owner:
            self.orphan = owner.stdout.readline().decode().split()[1]
            owner.kill()
        path = os.path.join("/dev/shm", self.orphan)
        try:
            self.before, heaps = os.stat(path), heaps_in_shm()
            demo = Demo(folder)
            try:
                self.text = demo.finish()
                self.left_nothing = demo.leaves_nothing(heaps)
            finally:
                demo.close()
            self.after = os.stat(path)
        finally:
            os.unlink(path)


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    return Shown(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def node(shown):
    """What is shown of the node: its acts by number less 3, 0 is what comes before the first."""
    pytest.importorskip("omniORB", reason="needs omniORB, which has no wheel for this Python")
    return re.split(r"\n\n(?=\d+\. )", section(shown.text, "A NODE", "\nAFTER"))


def section(text, start, end):
    assert start in text and end in text, text
    return text.partition(start)[2].partition(end)[0]


def test_it_ends_by_itself_where_stdout_is_no_terminal_and_leaves_nothing_behind(shown):
    assert shown.left_nothing
    assert "Ctrl-C" not in shown.text


def test_where_there_is_no_terminal_all_lines_are_plain(shown):
    assert re.findall(r"[^ -~\n]", shown.text) == []


def test_what_became_of_three_heaps_is_shown(shown):
    heaps = section(shown.text, "THREE COMPONENTS", "\n1. ")
    assert heaps.count(" alive") >= 3
    for number, how in ((1, "is SIGKILLed"), (3, "is SIGKILLed while process")):
        act = section(shown.text, f"\n{number}. ", "\n\n")
        assert how in act
        assert re.search(r"unlinked \d+\.\d\d ms after the kill", act)
        assert re.search(r"because  .*(is gone|has ended)", act) and "evidence " in act
    act = section(shown.text, "\n2. ", "\n\n")
    assert re.search(r"unlinked by the process itself, gone \d+\.\d ms", act)
    assert re.search(r"memory   \d+\.\dM given back at once: it was free\n", shown.text)
    assert re.search(r"memory   held by process \d+ until it exits", shown.text)
    assert re.search(r"exits: \d+\.\dM come back", shown.text)


def test_a_heap_that_is_not_the_demonstrations_is_listed_and_left_alone(shown):
    for state in (section(shown.text, "BEFORE", "\n\n"), shown.text.partition("AFTER\n")[2]):
        assert re.search(rf"{shown.orphan} .*{re.escape(NOT_OURS)}", state), state
    for name in ("st_ino", "st_size", "st_mtime"):
        assert getattr(shown.before, name) == getattr(shown.after, name)


def test_without_the_compiled_stubs_one_line_says_so(tmp_path):
    copy = str(tmp_path / "copy")
    for folder in ("demo", "python", "standin"):
        shutil.copytree(os.path.join(ROOT, folder), os.path.join(copy, folder))
    shutil.rmtree(os.path.join(copy, "standin", "standin_stubs"), ignore_errors=True)
    output = subprocess.run(
        [sys.executable, "-s", os.path.join(copy, "demo", "demo.py"), "--once"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
        universal_newlines=True,
    )
    assert output.returncode == 0, output.stdout
    lines = [line for line in output.stdout.splitlines() if "The node is not shown: " in line]
    assert len(lines) == 1 and "No module named" in lines[0], output.stdout
    assert "AFTER\n" in output.stdout


UNLINKED = r"unlinked \d+\.\d\d ms after the kill\n   shm::recent  heap-\d+ of {}: {}\n   because  .*is gone"


@pytest.mark.corba
def test_a_node_is_shown_with_the_device_beside_its_gpp_and_the_devices_properties(node):
    assert [int(act.partition(".")[0]) for act in node[1:]] == list(range(4, 13))
    for name in ("REDHAWK_DEV", "GppShmNode", "GPP_1", "GPP_1_shm"):
        assert re.search(rf"^ +{name} .*, process \d+$", node[0], re.MULTILINE)
    assert re.search(r"shm::usage +\S+ free of \S+ in /dev/shm\n +heaps \S+, other \S+, held ", node[1])
    assert re.search(r"shm::capacity +\d+ MB can be reserved", node[1])
    assert "scope children" in node[1]
    assert re.search(
        r"shm::heaps +heap-\d+ +alive  Tuner_1 of rx_1 +5.7M of 16.0M used$", node[2], re.MULTILINE
    )


@pytest.mark.corba
def test_reserving_is_shown_with_the_capacity_before_and_after_and_a_refusal_with_its_reason(node):
    asked = int(re.search(r"reserves (\d+) MB", node[3]).group(1))
    assert re.search(rf"reserved +0 -> +{asked} MB +\+{asked}$", node[3], re.MULTILINE)
    assert re.search(r"capacity +\d+ -> +\d+ MB +-\d+$", node[3], re.MULTILINE)
    assert "REFUSED: Failed to satisfy 'usesdevice' dependencies shm for application\n" in node[4]
    assert re.search(r"GPP_1_shm said: shm::capacity: \d+ MB were requested, and \d+ MB can be", node[4])
    assert re.search(rf"reserved +{asked} -> +0 MB +-{asked}$", node[8], re.MULTILINE)
    assert re.search(r"capacity +\d+ -> +\d+ MB +\+\d+$", node[8], re.MULTILINE)


@pytest.mark.corba
def test_crashes_are_shown_with_their_milliseconds_and_reasons_and_the_memory_that_comes_back(node):
    for act, size, who in ((node[5], "8.0M", "Fir_1 of rx_2"), (node[6], "16.0M", "Tuner_1 of rx_1")):
        assert re.search(UNLINKED.format(size, who), act), act
        assert re.search(r"evidence lease, \d+\.\d ms after the trigger \(\w+\)", act)
        assert re.search(r"heaps +\d+ -> +\d+ MB +-\d+$", act, re.MULTILINE)
    assert "plugin::status         GppShmPlugin, alive True, busy False" in node[6]
    for name in ("shm_free", "shm_held", "shm_orphaned"):
        assert re.search(rf"plugin::metric_status  {name} +\S+ MB  threshold off, busy False", node[6]), node[
            6
        ]
    assert re.search(r"plugin::metric_status  shm_removed +2  ", node[6])


@pytest.mark.corba
def test_a_threshold_that_makes_the_gpp_busy_and_the_timings_of_the_shutdown_are_shown(node):
    assert re.search(r"shm_free = 100%: GPP_1 is BUSY after \d+ ms\n.* of GPP_1_shm is 100%", node[7])
    assert "busy_reason: REASON: Shared memory is low: only " in node[7]
    assert re.search(r"shm_free = off: GPP_1 is ACTIVE after \d+ ms\n.* of GPP_1_shm is off", node[7])
    moments = {event: int(ms) for ms, event in re.findall(r" (\d+) ms  (.*)", node[9])}
    assert set(moments) == {
        "GPP_1_shm has unregistered",
        "GPP_1 has ended",
        "the plugin has ended",
        "the DeviceManager has ended",
    }
    assert 500 <= moments["the plugin has ended"] < 1000
    assert re.search(r"heap-\d+ unlinked \d+\.\d\d ms after its crash, by the plugin", node[9])


@pytest.mark.parametrize(
    "moment, number",
    [
        ("THREE COMPONENTS", signal.SIGINT),
        ("THREE COMPONENTS", signal.SIGTERM),
        pytest.param("A NODE", signal.SIGINT, marks=pytest.mark.corba),
        pytest.param("A NODE", signal.SIGHUP, marks=pytest.mark.corba),
        pytest.param("installed, and up", signal.SIGTERM, marks=pytest.mark.corba),
        pytest.param("6. ", signal.SIGINT, marks=pytest.mark.corba),
        pytest.param("after the kill\n   shm::recent", signal.SIGTERM, marks=pytest.mark.corba),
        pytest.param("12. ", signal.SIGINT, marks=pytest.mark.corba),
    ],
)
def test_nothing_is_left_behind_when_it_is_interrupted(demo, moment, number):
    if moment != "THREE COMPONENTS":
        pytest.importorskip("omniORB", reason="needs omniORB, which has no wheel for this Python")
    before = heaps_in_shm()
    shown = demo("--once")
    wait_for(lambda: moment in shown.text(), 40)
    os.kill(shown.process.pid, number)
    assert "Traceback" not in shown.finish()
    assert shown.leaves_nothing(before)


@pytest.mark.corba
def test_a_gpp_that_dies_is_told_of_with_the_nodes_log_and_nothing_is_left_behind(demo):
    pytest.importorskip("omniORB", reason="needs omniORB, which has no wheel for this Python")
    before = heaps_in_shm()
    shown = demo("--once")
    gpp = wait_for(lambda: re.search(r"GPP_1 +the GPP, process (\d+)\n", shown.text()), 20)
    os.kill(int(gpp.group(1)), signal.SIGKILL)
    text = shown.finish(1)
    assert "What the node said:" in text
    assert "Traceback" not in text and text.splitlines()[-1].startswith("demo: the node: ")
    assert shown.leaves_nothing(before)


ESCAPES = re.compile(r"\x1b\[[\d;]*[mK]")


def test_a_terminal_gets_colours_and_bars_in_its_width_and_it_goes_on_until_ctrl_c(demo):
    before = heaps_in_shm()
    shown = demo(terminal=True, TERM="xterm-256color", NO_COLOR="", LC_ALL="C.UTF-8")
    victim = int(wait_for(lambda: re.search(r"kill -9 (\d+) ", shown.text()), 60).group(1))
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: re.search(rf"heap-{victim} unlinked \S*\d\.\d\d ms.* after the trigger: ", shown.text()))
    wait_for(lambda: "removed: 1" in shown.text())
    os.kill(shown.process.pid, signal.SIGINT)
    text = shown.finish()
    assert "\x1b[1;32m" in text and re.search("[█▏]", text)
    plain = ESCAPES.sub("", text)
    assert "\x1b" not in plain
    assert [line for line in re.split(r"[\r\n]+", plain) if len(line) > 80] == []
    assert shown.leaves_nothing(before)


@pytest.mark.parametrize(
    "environment, taken_away",
    [
        ({"TERM": "xterm", "NO_COLOR": "1", "LC_ALL": "C.UTF-8"}, r"\x1b\[[\d;]*m"),
        ({"TERM": "dumb", "LC_ALL": "C.UTF-8"}, r"\x1b"),
        ({"TERM": "xterm", "LC_ALL": "C"}, r"[^\x00-\x7f]"),
    ],
)
def test_a_terminal_gets_only_what_it_may(demo, environment, taken_away):
    shown = demo(terminal=True, **environment)
    wait_for(lambda: "1. heap-" in shown.text(), 20)
    os.kill(shown.process.pid, signal.SIGINT)
    text = shown.finish()
    assert re.findall(taken_away, text) == []
    assert re.search("[#|█▏][.░]", ESCAPES.sub("", text))


def test_a_reader_who_goes_away_is_no_failure_and_nothing_is_left_behind(tmp_path):
    before = heaps_in_shm()
    done = subprocess.run(
        f"'{sys.executable}' -s '{DEMO}' --once | head -12",
        shell=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(os.environ, TMPDIR=str(tmp_path)),
        timeout=60,
    )
    assert done.stderr == b"" and done.stdout.count(b"\n") == 12
    assert os.listdir(str(tmp_path)) == []
    assert [name for name in heaps_in_shm() - before if not lives(name[5:])] == []


def test_a_failure_is_one_line_and_an_exit_status_and_leaves_nothing_behind(demo, tmp_path):
    before = heaps_in_shm()
    shown = demo("--once", "--root=" + str(tmp_path / "missing"))
    text = shown.finish(1)
    assert "Traceback" not in text and text.splitlines()[-1].startswith("demo: ")
    assert shown.leaves_nothing(before)
