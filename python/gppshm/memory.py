"""How much more memory this machine and the control groups of this process can hold.

A tmpfs takes memory: grants beyond it end in the kernel's OOM killer.
"""

import os
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Iterator, List, Optional

_OCTAL = re.compile(r"\\([0-7]{3})")


class Limit:
    """A limit: its `name` for display, and the bytes that it leaves (`free`, never below 0)."""

    __slots__ = ("free", "name")

    def __init__(self, name: str, free: int) -> None:
        self.name = name
        self.free = max(0, free)


class Memory:
    """The limits of the process `pid`, "self" or a number.

    Limit: only those ancestors of a control group count that its namespace shows.  Swap is not counted.
    """

    def __init__(self, proc_root: str = "/proc", pid: str = "self") -> None:
        self._folder = f"{proc_root}/{pid}"
        self._proc_root = proc_root
        self._hierarchies: Optional[List[_Hierarchy]] = None

    def limits(self) -> "List[Limit]":
        """All limits now; what cannot be read is no limit."""
        found = []
        available = _numbers(self._proc_root + "/meminfo").get("MemAvailable:")
        if available is not None:
            found.append(Limit("available memory", available * 1024))
        if self._hierarchies is None:
            self._hierarchies = list(_hierarchies(self._folder))
        for hierarchy in self._hierarchies:
            found += hierarchy.limits(self._folder)
        return found


class _Hierarchy:
    """A mounted hierarchy of control groups that limits memory, version 1 or 2.

    root   the mounted group
    place  the mount point
    """

    def __init__(self, version: int, root: str, place: str) -> None:
        self.version = version
        self.root = root
        self.place = place

    def limits(self, process: str) -> "Iterator[Limit]":
        """The limits of the process' group and its ancestors."""
        most, usage, prefix = "memory.max", "memory.current", ""
        if self.version == 1:
            most, usage, prefix = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"
        folder = self.place
        group = _group(process, self.version)
        below = self.root.rstrip("/") + "/"
        # A group outside the namespace is shown as /.., or not below what is mounted.
        if group.startswith(below) and "/.." not in group:
            folder = os.path.join(self.place, group[len(below) :]).rstrip("/")
        while True:
            limit, used = _number(f"{folder}/{most}"), _number(f"{folder}/{usage}")
            # "max" is no limit; version 1 has a huge number instead.
            if limit is not None and used is not None and limit < 1 << 60:
                stat = _numbers(f"{folder}/memory.stat")
                # Pages of a tmpfs are not included: they cannot be dropped.
                cache = stat.get(prefix + "inactive_file", 0) + stat.get(prefix + "active_file", 0)
                name = folder[len(self.place) :] or "/"
                yield Limit(f"memory limit of control group {name}", limit - used + min(cache, used))
            if folder == self.place:
                return
            folder = os.path.dirname(folder)


def _hierarchies(process: str) -> "Iterator[_Hierarchy]":
    found = set()
    for line in _text(process + "/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields, (kind, *more) = before.split(" "), after.split(" ") or [""]
        if len(fields) < 5 or not more:
            continue
        version = 2 if kind == "cgroup2" else 1
        if (version == 2 or (kind == "cgroup" and "memory" in more[-1].split(","))) and version not in found:
            found.add(version)
            # Blanks are written as \040 (proc_pid_mountinfo(5)).
            root, place = (_OCTAL.sub(lambda code: chr(int(code[1], 8)), word) for word in fields[3:5])
            yield _Hierarchy(version, root, place)


def _group(process: str, version: int) -> str:
    for line in _text(process + "/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        if (number == "0" and not controllers) if version == 2 else "memory" in controllers.split(","):
            return path
    return "/"


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as stream:
            return stream.read()
    except OSError:
        return ""


def _number(path: str) -> "Optional[int]":
    text = _text(path).strip()
    return int(text) if text.isdigit() else None


def _numbers(path: str) -> "Dict[str, int]":
    """The lines `name number`, with or without a unit."""
    pairs = (line.split()[:2] for line in _text(path).splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}
