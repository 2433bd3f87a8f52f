"""The device in a node with 1,000 heaps: queries, allocation, start, memory, and its cleaning meanwhile.

    bench/device.py [HEAPS [DEATHS]]
    bench/device.py idle [HEAPS [PROCESSES]]   only its cost without events and queries

The node's DCD has the device; its GPP has no plugin. Small processes are SIGKILLed, in turns without clients
and with four clients that each query everything ten times a second. Exit status 1 if a target is missed.
Needs omniORB.
"""

import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from figures import Targets, milliseconds, percentile
from nursery import NOBODY, ROOT, Crowd, Nursery, beside, family, memory, processor_seconds, resident

import client  # isort: skip
import installing  # isort: skip


NAME, NODE, LABEL = "GppShmPlugin", "GppShmDeviceNode", "GppShmPlugin_1"
QUERY_MS, CALL_MS, START_S, MEGABYTES = 60.0, 2.0, 2.0, 70.0
CLIENTS, HERTZ, RATIO = 4, 10.0, 1.3
DEATHS, TURN, SETTLED = 200, 20, 0.05
IDLE_PERCENT, IDLE_SECONDS, IDLE_HEAPS = 0.1, 120, 200


def install(sdrroot, root):
    """Fill an SDRROOT with the stand-in GPP and the device, which watches `root`; without a plugin."""
    installing.gpp(sdrroot)
    installer = os.path.join(ROOT, "python", "gppshm", "redhawk", "install.py")
    subprocess.check_output(
        [sys.executable, installer, "install", "--sdrroot", sdrroot, "--python", sys.executable]
    )
    shutil.rmtree(os.path.join(sdrroot, "dev", "devices", "GPP", "plugins"))
    with open(os.path.join(sdrroot, "dev", "devices", NAME, "python", NAME + ".ini"), "w") as stream:
        stream.write(f"[{NAME}]\nroot = {root}\n")


def timed(call, times, pause=0.0):
    """Seconds that each of `times` calls takes."""
    took = []
    for _ in range(times):
        began = time.monotonic()
        call()
        took.append(time.monotonic() - began)
        time.sleep(pause)
    return took


def pid_of(domain):
    for pid in domain.descendants():
        with open(f"/proc/{pid}/cmdline", "rb") as stream:
            if LABEL.encode() in stream.read().split(b"\0"):
                return pid
    sys.exit("the device has no process")


def deaths(nursery, count):
    """Seconds from kill to unlink of some small processes, one after the other."""
    delays = []
    for _ in range(count):
        pids = nursery.create()
        time.sleep(SETTLED)
        delays += nursery.deaths(pids)
    return delays


@contextlib.contextmanager
def clients(device):
    """Processes that query everything periodically; niced, because clients are usually on other hosts."""
    where = client.orb().object_to_string(device)
    command = [sys.executable, "-Es", os.path.abspath(__file__), "ask", where]
    with contextlib.ExitStack() as ending:
        for _ in range(CLIENTS):
            each = ending.enter_context(beside(["nice", *command], stdout=subprocess.PIPE))
            ending.callback(each.stdout.close)
            each.stdout.readline()
        yield


def ask(reference):
    device = client.orb().string_to_object(reference)._narrow(client.CF.Device)
    device.query([])
    print("asking", flush=True)
    due = time.monotonic()
    while True:
        due = max(due + 1 / HERTZ, time.monotonic() - 1)
        time.sleep(max(0.0, due - time.monotonic()))
        device.query([])


def measure_calls(targets, device):
    took = {"query([])": timed(lambda: device.query([]), 30, 0.2)}
    one = [client.prop("shm::capacity", "longlong", 1)]
    took["allocateCapacity"] = timed(lambda: device.allocateCapacity(one), 200)
    took["deallocateCapacity"] = timed(lambda: device.deallocateCapacity(one), 200)
    order = device.query([client.CF.DataType("shm::threshold", client.wire.NULL)])
    took["configure"] = timed(lambda: device.configure(order), 200)
    for what, seconds in took.items():
        target = QUERY_MS if what == "query([])" else CALL_MS
        targets.below("%s: median" % what, 1000 * statistics.median(seconds), target, " ms")


def measure_deaths(targets, nursery, device, count):
    with contextlib.suppress(OSError):
        os.nice(-10)  # so that this program sees an unlink at once, whatever else runs
    without, beside = [], []
    while len(beside) < count:
        without += deaths(nursery, TURN)
        with clients(device):
            beside += deaths(nursery, TURN)
    print("kill to unlink, %d deaths each" % len(beside))
    print("  without clients   %s" % milliseconds(without))
    print("  %d at %g Hz        %s" % (CLIENTS, HERTZ, milliseconds(beside)))
    for what, percent in (("medians", 50), ("95th percentiles", 95)):
        ratio = percentile(beside, percent) / percentile(without, percent)
        targets.below("ratio of %s" % what, ratio, RATIO)


@contextlib.contextmanager
def device_among(nursery, folder):
    """The domain and the device, in its own node, watching the nursery's heaps."""
    sdrroot = os.path.join(folder, "sdr")
    install(sdrroot, nursery.root)
    with client.Domain(sdrroot, folder, stdout=subprocess.DEVNULL) as domain:
        domain.start_node(NODE)
        yield domain, domain.device(LABEL)


def watches_all(device, heaps):
    return client.query(device, "shm::cleanup_status")["watched"] == heaps


def measure_idle(targets, folder, heaps, processes):
    with Nursery(NOBODY) as nursery, Crowd(processes), device_among(nursery, folder) as (domain, device):
        pid = pid_of(domain)
        nursery.create(heaps)
        client.wait_for(lambda: watches_all(device, heaps), 60)
        client.query(device, "shm::heaps")
        time.sleep(15)
        print("the idle device, %d heaps, %d processes on the host" % (heaps, len(pids_of_host())))
        before, began = processor_seconds(family(pid)), time.monotonic()
        time.sleep(IDLE_SECONDS)
        used = processor_seconds(family(pid)) - before
        targets.below("share of a core", 100 * used / (time.monotonic() - began), IDLE_PERCENT, " %")


def pids_of_host():
    return [name for name in os.listdir("/proc") if name.isdigit()]


def main(arguments):
    if arguments[:1] == ["ask"]:
        ask(arguments[1])
    if arguments[:1] == ["idle"]:
        folder, targets = tempfile.mkdtemp(prefix="gppshm-bench-"), Targets()
        numbers = [int(word) for word in arguments[1:]] + [IDLE_HEAPS, 0][len(arguments) - 1 :]
        try:
            measure_idle(targets, folder, *numbers)
        finally:
            shutil.rmtree(folder)
        return targets.end()
    heaps = int(arguments[0]) if arguments else 1000
    count = int(arguments[1]) if arguments[1:] else DEATHS
    folder = tempfile.mkdtemp(prefix="gppshm-bench-")
    targets = Targets()
    try:
        with Nursery(NOBODY) as nursery:
            sdrroot = os.path.join(folder, "sdr")
            install(sdrroot, nursery.root)
            with client.Domain(sdrroot, folder, stdout=subprocess.DEVNULL) as domain:
                began = time.monotonic()
                domain.start_node(NODE)
                device = domain.device(LABEL)
                start = time.monotonic() - began
                pid = pid_of(domain)
                base = resident(pid)
                nursery.create(heaps)
                client.wait_for(lambda: watches_all(device, heaps), 60)
                client.wait_for(lambda: client.query(device, "shm::overview")["heap_count"] == heaps, 60)
                print("the device in a node, %d living heaps" % heaps)
                targets.below("from the node's start to registered", start, START_S, " s")
                measure_calls(targets, device)
                targets.below("resident without heaps", base, MEGABYTES, " MB")
                print("  %.1f MB resident" % resident(pid))
                print("  with what it started: PSS %.1f MB, RSS %.1f MB" % memory(family(pid)))
                measure_deaths(targets, nursery, device, count)
    finally:
        shutil.rmtree(folder)
    return targets.end()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
