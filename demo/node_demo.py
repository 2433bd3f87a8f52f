"""The second part of the demonstration: a node with the GPP plugin and its device, over real CORBA.

The stand-in plays REDHAWK: naming service, domain, DeviceManager, GPP.  The installed files are the same as
in REDHAWK.  Importing this fails (ImportError) without omniORB, or if the IDL was not compiled.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

from omniORB import CORBA

import client
import installing
from client import CF
from gppshm import judging, reaper, shmfs
from gppshm.cli import text
from gppshm.redhawk import install, metrics
from interrupts import check
from screen import bar, heading, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional, Set, Tuple

HERE = os.path.dirname(os.path.abspath(__file__))

OWNER = [sys.executable, "-I", "-S", os.path.join(HERE, "heapwriter.py"), "own", "--for-ever"]
SCRIPT = ["/bin/sh", "-c", '"$@" & wait', "sh"]
DOMAIN, NODE, GPP = "REDHAWK_DEV", "GppShmNode", "GPP_1"
DEVICE = GPP + "_shm"
KIND = "DCE:cdc5ee18-7ceb-4ae6-bf4c-31f983179b4d"
RESERVED = 64
"""MB that the installed example of a waveform reserves."""
MB = 1048576
READY = r"ready heap-(\d+)\n"


class Node:
    """The domain and its node; a context manager that leaves nothing behind.

    domain  the client.Domain
    gpp     the client.GppRef
    device  the CF::Device beside it
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.folder = self.sdrroot = self.log = ""
        self.stream = self.domain = self.gpp = self.device = None
        self.others = set(os.listdir(root))
        self.heaps: Set[str] = set()
        self.before: Dict[str, int] = {}

    def __enter__(self) -> "Node":
        try:
            for step in (self._install, self._start_domain, self._start_node, self._meet):
                check()
                step()
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def _install(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="gppshm-demo-")
        self.log = os.path.join(self.folder, "log")
        self.sdrroot = os.path.join(self.folder, "sdr")
        installing.gpp(self.sdrroot)
        # The example's component: it has to be there, and is never started.
        installing.component(self.sdrroot, "/components/rh/SigGen/SigGen.spd.xml")
        command = [sys.executable, "-I", install.__file__, "install"]
        done = subprocess.run(
            command + ["--sdrroot", self.sdrroot, "--python", sys.executable],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        if done.returncode:
            raise RuntimeError(done.stdout.decode(errors="replace"))
        with open(os.path.join(install.plugin_folder(self.sdrroot), install.NAME + ".ini"), "w") as stream:
            stream.write(f"[{install.NAME}]\nscope = children\nroot = {self.root}\nshm_free = off\n")

    def _start_domain(self) -> None:
        self.stream = open(self.log, "ab")  # noqa: SIM115 (as long as processes are started)
        self.domain = client.Domain(self.sdrroot, self.folder, stdout=self.stream, stderr=self.stream)

    def _start_node(self) -> None:
        self.domain.start_node(NODE)

    def _meet(self) -> None:
        self.gpp, self.device = self.domain.gpp(GPP), self.domain.device(DEVICE)
        client.wait_for(self.device._get_started)
        client.wait_for(lambda: len(self.gpp.metric_status()) == len(metrics.NAMES))

    def __exit__(self, kind: object, *exc: object) -> None:
        said: List[str] = []
        try:
            if kind not in (None, KeyboardInterrupt):
                said = ["What the node said:"] + self.find(r".+")[-20:]
            if self.domain is not None:
                self.heaps |= {f"heap-{pid}" for pid in self.domain.descendants()}
                self.domain.close()
            self.heaps |= {"heap-" + pid for pid in self.find(READY)}
            self.heaps -= self.others
            # A process has no environment any more, by which it is found, while it still exits.
            client.wait_for(self._all_removed)
        finally:
            if self.stream is not None:
                self.stream.close()
            shutil.rmtree(self.folder, ignore_errors=not self.folder)
        for line in said:
            say(line)

    def _all_removed(self) -> bool:
        with shmfs.ShmDirectory(self.root) as directory, reaper.Reaper(directory) as undertaker:
            list(undertaker.clean(self.heaps, judging.Judge()))
        return not self.heaps & set(os.listdir(self.root))

    def find(self, pattern: str) -> "List[str]":
        """What the processes of the node wrote that matches."""
        try:
            with open(self.log, errors="replace") as stream:
                return re.findall(pattern, stream.read())
        except FileNotFoundError:
            return []

    # What an operator sees

    def query(self, name: str) -> "Any":
        return client.query(self.device, name)

    def show_devices(self) -> None:
        plugin = self.gpp.plugin(install.NAME)["pid"]
        say(f"   {DOMAIN:<14} the domain, process {self.domain.domain.pid}")
        say(f"   {'  ' + NODE:<14} its DeviceManager, process {self.domain.process.pid}")
        say(f"   {'    ' + GPP:<14} the GPP, process {self.gpp.ref._get_pid()}")
        say(f"   {'    ' + DEVICE:<14} registered beside it by its plugin, process {plugin}")

    def show_properties(self) -> None:
        usage, cleanup = self.query("shm::usage"), self.query("shm::cleanup")
        sizes = {name: text.size_auto(size) for name, size in usage.items() if name not in ("path", "limit")}
        picture = bar(usage["used"], usage["total"], 20)
        say(f"   shm::usage     {{free}} free of {{total}} in {usage['path']}".format(**sizes) + picture)
        say(
            "                  heaps {heaps}, other {other}, held {held}, reserved {reserved}".format(**sizes)
        )
        headroom = self.query("shm::threshold")["headroom"]
        say(f"   shm::capacity  {self.query('shm::capacity')} MB can be reserved; {headroom} stay headroom")
        say(f"   shm::cleanup   enabled {cleanup['enabled']}, scope {cleanup['scope']} (the GPP's processes)")

    def balance(self) -> "Dict[str, int]":
        """Usage and capacity in MB, once the device knows of the heaps that there are now."""
        with contextlib.suppress(TimeoutError):  # heaps of others may come and go
            client.wait_for(lambda: self.query("shm::usage")["heaps"] == self.heap_bytes(), 2)
        usage = self.query("shm::usage")
        found = {name: round(usage[name] / MB) for name in ("free", "heaps", "reserved")}
        return dict(found, capacity=self.query("shm::capacity"))

    def heap_bytes(self) -> int:
        with shmfs.ShmDirectory(self.root) as directory:
            names = [name for name in directory.names() if shmfs.pid_of_name(name)]
        found = 0
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                found += os.stat(os.path.join(self.root, name)).st_blocks * 512
        return found

    def show_changes(self) -> None:
        """What has changed of usage and capacity since the last time."""
        before, self.before = self.before, self.balance()
        for name, now in self.before.items():
            was = before[name]
            if now != was:
                picture = bar(now, RESERVED, 24) if name in ("heaps", "reserved") else ""
                say(f"   {name:<10} {was:>6} -> {now:>6} MB  {now - was:>+5}{picture}")
        if before == self.before:
            say("   no change of usage or capacity")

    def show_heap(self, pid: int) -> None:
        heap = self.heap(pid)
        used, size = heap["used"], heap["heap_size"]
        say(
            f"   shm::heaps  {heap['name']:<12} {heap['state']}  {heap['component']} of {heap['application']}"
            f"  {text.size_auto(used):>5} of {text.size_auto(size)} used{bar(used, size, 8)}"
        )

    def show_metrics(self) -> None:
        removed = str(self.query("shm::cleanup_status")["removed"])
        client.wait_for(lambda: self.gpp.metric("shm_removed")["metric_recorded_value"] == removed)
        status = self.gpp.plugin(install.NAME)
        say(f"   plugin::status         {status['name']}, alive {status['alive']}, busy {status['busy']}")
        for metric in self.gpp.metric_status():
            name, value, limit = (
                metric["metric_" + key] for key in ("name", "recorded_value", "threshold_value")
            )
            say(f"   plugin::metric_status  {name:<13} {value:>12}  threshold {limit}, busy {metric['busy']}")

    def heap(self, pid: int) -> "Optional[Dict[str, Any]]":
        return next((each for each in self.query("shm::heaps") if each["name"] == f"heap-{pid}"), None)

    # What happens

    def start(self, component: str, application: str, *options: str, by: "Tuple[str, ...]" = ()) -> int:
        """Have the GPP start a component of that name with a heap, as a child or `by` a script; its pid."""
        pairs = {
            "COMPONENT_IDENTIFIER": f"{component}:{application}",
            "NAME_BINDING": component,
            "DOM_PATH": f"{DOMAIN}/{application}",
        }
        words = [
            *by,
            *OWNER,
            "--root=" + self.root,
            *options,
            *(word for pair in pairs.items() for word in pair),
        ]
        known = set(self.find(READY))
        self.gpp.execute(words)
        pid = int(client.wait_for(lambda: set(self.find(READY)) - known).pop())

        def known_alive() -> bool:
            time.sleep(0.02)
            return (self.heap(pid) or {}).get("component") == component

        # Only what was seen alive is the plugin's to remove.
        client.wait_for(known_alive)
        return pid

    def crash(self, pid: int) -> float:
        """SIGKILL a process, wait until its heap is gone; after how many milliseconds."""
        path = os.path.join(self.root, f"heap-{pid}")
        killed = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        while os.path.lexists(path):
            if time.monotonic() - killed > 10:
                raise RuntimeError(f"{path} was not removed in 10 s")
            time.sleep(0.0001)
        return (time.monotonic() - killed) * 1e3

    def show_crash(self, pid: int) -> None:
        say(f"   unlinked {self.crash(pid):.2f} ms after the kill")

        def told():
            return [each for each in self.query("shm::recent") if each["creator"] == pid]

        try:
            removal = client.wait_for(told, 1)[-1]
        except TimeoutError:
            say("   by another cleaner on this host, not by the plugin")
            return
        say(
            f"   shm::recent  {removal['name']} of {text.size_auto(removal['bytes'])}:"
            f" {removal['component']} of {removal['application']}"
        )
        say(f"   because  {removal['reason']}")
        say(
            f"   evidence {removal['evidence']}, {removal['latency_ms']:.1f} ms after the trigger"
            f" ({removal['trigger']})"
        )

    def reserve(self, name: str, megabytes: int) -> "Optional[Any]":
        """Create a waveform that reserves so much; None if it is refused, and why."""
        profile = "/waveforms/shm_reserve/shm_reserve.sad.xml"
        if megabytes != RESERVED:
            wanted = [(KIND, "SHM"), ("shm::capacity", megabytes)]
            profile = installing.waveform(self.sdrroot, name, {"shm": wanted})
        try:
            return self.domain.create(profile, name)
        except CF.ApplicationFactory.CreateApplicationError as refusal:
            say(f"   REFUSED: {refusal.msg}")
            reason = self.find(rf"DomainManager: {DEVICE}: .*InsufficientCapacity.*msg='(.*)'\)")
            say(f"   {DEVICE} said: {reason[-1] if reason else '(nothing)'}")
            return None

    def set_threshold(self, value: str, busy: bool) -> None:
        """Change the plugin's threshold on the GPP, and wait until that is BUSY, or is no more."""
        began = time.monotonic()
        self.gpp.set_threshold(self.gpp.plugin(install.NAME)["id"], "shm_free", value)
        client.wait_for(lambda: (self.gpp.usage_state == "BUSY") is busy)
        took = (time.monotonic() - began) * 1e3
        say(f"   shm_free = {value}: {GPP} is {self.gpp.usage_state} after {took:.0f} ms")
        say(f"   shm::threshold::free of {DEVICE} is {self.query('shm::threshold')['free']}, too")
        if busy:
            say("   busy_reason: " + self.gpp.busy_reason.partition(") ")[2])

    def shut_down(self, left: int) -> None:
        """As the IDE does; the process `left` crashes meanwhile.  What ended when."""
        gpp, plugin = self.gpp.ref._get_pid(), self.gpp.plugin(install.NAME)["pid"]
        manager, unlinked = self.domain.process, 0.0
        events = {
            f"{DEVICE} has unregistered": lambda: self.domain.resolve(NODE, DEVICE) is None,
            f"{GPP} has ended": lambda: gone(gpp),
            "the plugin has ended": lambda: gone(plugin),
            "the DeviceManager has ended": lambda: manager.poll() is not None,
        }
        moments = {}

        def ask():
            # If it fails, something does not happen.
            with contextlib.suppress(CORBA.Exception, subprocess.TimeoutExpired):
                self.domain.shut_node_down()

        shutdown = threading.Thread(target=ask)
        began = time.monotonic()
        shutdown.start()
        try:
            while len(moments) < len(events):
                for event, happened in events.items():
                    if event not in moments and happened():
                        moments[event] = time.monotonic() - began
                        if event.startswith(GPP + " "):
                            unlinked = self.crash(left)
                if time.monotonic() - began > 20:
                    raise RuntimeError(f"only this has happened: {', '.join(moments)}")
                time.sleep(0.002)
        finally:
            shutdown.join()
        by = "the plugin" if self.find(rf"removed: heap-{left} ") else "another cleaner on this host"
        for event, moment in moments.items():
            say(f"   {moment * 1e3:5.0f} ms{bar(moment, max(moments.values()), 20)}  {event}")
            if event.startswith(GPP + " "):
                say(f"            heap-{left} unlinked {unlinked:.2f} ms after its crash, by {by}")


def gone(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as stream:
            return stream.read().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except FileNotFoundError:
        return True


def tell(root: str) -> None:
    """Show it all.  RuntimeError or OSError if something does not come about."""
    heading("A NODE over real CORBA (a stand-in plays REDHAWK; its own cleaning is off)")
    began = time.monotonic()
    try:
        with Node(root) as node:
            node.show_devices()
            say(f"   installed, and up after {time.monotonic() - began:.1f} s")
            say()
            _acts(node)
    except CORBA.Exception as error:
        raise RuntimeError(f"the node: {error!r}") from error


def _acts(node: Node) -> None:
    say(f"4. The properties of {DEVICE}, read over CORBA")
    node.show_properties()
    node.before = node.balance()
    say()
    say("5. Tuner_1, a component of waveform rx_1, runs, with a real heap")
    tuner = node.start("Tuner_1", "rx_1", "--superblocks=8", "--used=6000000")
    node.show_heap(tuner)
    node.show_changes()
    say()
    there = node.query("shm::capacity")
    share = RESERVED if there >= RESERVED else max(1, there // 2)
    say(f"6. Waveform rx_2 reserves {share} MB, of which its component Fir_1 then uses some")
    application = node.reserve("rx_2", share)
    node.show_changes()
    fir = node.start("Fir_1", "rx_2", "--superblocks=4", "--used=7000000", by=SCRIPT)
    node.show_heap(fir)
    node.show_changes()
    say()
    there = node.query("shm::capacity")
    much = 2 * max(1, node.query("shm::usage")["total"] // MB)
    say("7. Waveform rx_3 wants too much")
    say(f"   it wants  {much:>6} MB{bar(much, much, 24)}")
    say(f"   there are {there:>6} MB{bar(there, much, 24)}")
    node.reserve("rx_3", much)
    node.show_changes()
    say()
    say(f"8. Fir_1, process {fir}, is SIGKILLed; what rx_2 has reserved stays reserved")
    node.show_crash(fir)
    node.show_changes()
    say()
    say(f"9. Tuner_1, process {tuner}, is SIGKILLed")
    node.show_crash(tuner)
    node.show_changes()
    node.show_metrics()
    say()
    say("10. A threshold is changed over CORBA, as from the IDE; Sink_1 of rx_4 runs")
    sink = node.start("Sink_1", "rx_4", "--superblocks=2", "--used=1000000")
    node.show_changes()
    if node.query("shm::usage")["total"]:
        node.set_threshold("100%", True)
        node.set_threshold("off", False)
    else:
        say(f"   {node.root} has no size limit: it cannot become low")
    say()
    say("11. Waveform rx_2 is released")
    if application is not None:
        application.releaseObject()
    node.show_changes()
    say()
    say(f"12. The node is shut down; Sink_1, process {sink}, crashes meanwhile")
    node.shut_down(sink)
