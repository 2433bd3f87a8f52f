"""What memory leaves: the machine's, and that of control groups of both versions, with their ancestors."""

import os

import pytest

from gppshm import memory
from spawning import needs_root, run_command

MB = 1048576
KB = 1024


class Tree:
    """A /proc and a hierarchy of control groups, as files."""

    def __init__(self, folder):
        self.folder = folder
        self.proc = str(folder / "proc")
        self.put("proc/meminfo", "MemTotal: 8000 kB\nMemAvailable:   4000 kB\n")

    def put(self, name, text):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def mount(self, kind, root="/", options="rw"):
        place = str(self.folder / "cg").replace(" ", "\\040")
        self.put(
            "proc/self/mountinfo",
            "22 1 0:5 / / rw - ext4 /dev/root rw\n"
            f"34 24 0:32 {root} {place} rw,relatime shared:9 - {kind} {kind} {options}\n",
        )

    def group(self, path, **files):
        for name, text in files.items():
            self.put(f"cg{path}/memory.{name}", f"{text}\n")

    def left(self):
        return {limit.name: limit.free for limit in memory.Memory(self.proc).limits()}


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path / "a tree")


def test_without_control_groups_the_machines_memory_is_the_limit(tree):
    assert tree.left() == {"available memory": 4000 * KB}


def test_what_cannot_be_read_is_no_limit(tree):
    tree.put("proc/meminfo", "MemTotal: 8000 kB\nMemAvailable: what\n")
    tree.put("proc/self/mountinfo", "nonsense\n\n1 - 2\n")
    assert tree.left() == {}


def test_version_2_each_ancestor_counts(tree):
    tree.mount("cgroup2")
    tree.put("proc/self/cgroup", "0::/radio/node\n")
    tree.group("/radio/node", max="max", current=5 * MB, stat="anon 9\ninactive_file 0\nactive_file 0")
    tree.group("/radio", max=400 * MB, current=250 * MB, stat=f"inactive_file {60 * MB}\nactive_file {MB}")
    assert tree.left() == {
        "available memory": 4000 * KB,
        "memory limit of control group /radio": (400 - 250 + 61) * MB,
    }
    tree.group("/radio/node", max=100 * MB, current=101 * MB)
    assert tree.left()["memory limit of control group /radio/node"] == 0


def test_version_1_as_a_container_sees_it(tree):
    tree.mount("cgroup", root="/docker/abc", options="rw,memory")
    tree.put("proc/self/cgroup", "9:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n0::/\n")
    tree.group("", limit_in_bytes=400 * MB, usage_in_bytes=100 * MB, stat=f"total_inactive_file {10 * MB}")
    assert tree.left()["memory limit of control group /"] == 310 * MB
    tree.group("", limit_in_bytes=9223372036854771712)
    assert set(tree.left()) == {"available memory"}


def test_a_group_outside_the_namespace_is_what_is_mounted(tree):
    tree.mount("cgroup2")
    tree.put("proc/self/cgroup", "0::/../../elsewhere\n")
    tree.group("", max=4 * MB, current=MB)
    assert tree.left()["memory limit of control group /"] == 3 * MB


@needs_root
def test_a_real_control_group_limits(tmp_path):
    place = next((each for each in memory._hierarchies("/proc/self") if each.version == 1), None)
    if place is None or not os.path.isdir(place.place):
        pytest.skip("no memory controller of version 1 here")
    folder = f"{place.place}/gppshm-test-{os.getpid()}"
    os.makedirs(folder + "/inner")
    try:
        with open(folder + "/memory.limit_in_bytes", "w") as stream:
            stream.write(str(64 * MB))
        python = f"import sys; sys.path.insert(0, {os.path.dirname(os.path.dirname(memory.__file__))!r})\n"
        python += "from gppshm import memory\n"
        python += "for each in memory.Memory().limits(): print(each.name, each.free, sep=':')"
        command = 'echo $$ >"$1/inner/cgroup.procs" && exec python3 -I -c "$2"'
        done = run_command(["sh", "-c", command, "sh", folder, python])
        assert done.returncode == 0, done.stderr
        left = dict(line.rsplit(":", 1) for line in done.stdout.splitlines())
        name = f"memory limit of control group /{os.path.basename(folder)}"
        assert 16 * MB < int(left[name]) < 64 * MB
    finally:
        os.rmdir(folder + "/inner")
        os.rmdir(folder)
