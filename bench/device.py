"""The device in a node with 1,000 heaps: queries, allocation, start, memory, and its cleaning beside.

    bench/device.py [HEAPS]

The node's DCD has the device; its GPP has no plugin. Exit status 1 if a target is missed. Needs omniORB.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from nursery import HERE, Nursery, resident

import client  # isort: skip
import installing  # isort: skip

ROOT = os.path.dirname(HERE)

NOBODY = "import time; print('ready', flush=True); time.sleep(100000)"
NAME, NODE, LABEL = "GppShmPlugin", "GppShmDeviceNode", "GppShmPlugin_1"
QUERY_MS, CALL_MS, START_S, MEGABYTES = 60.0, 2.0, 2.0, 70.0
DEATHS, SETTLED = 60, 0.05


def install(sdrroot, root):
    """An SDRROOT with the stand-in GPP and the device, which watches `root`, and no plugin."""
    installing.gpp(sdrroot)
    installer = os.path.join(ROOT, "python", "gppshm", "redhawk", "install.py")
    subprocess.check_output(
        [sys.executable, installer, "install", "--sdrroot", sdrroot, "--python", sys.executable]
    )
    shutil.rmtree(os.path.join(sdrroot, "dev", "devices", "GPP", "plugins"))
    with open(os.path.join(sdrroot, "dev", "devices", NAME, "python", NAME + ".ini"), "w") as stream:
        stream.write(f"[{NAME}]\nroot = {root}\n")


def milliseconds(call, times, pause=0.0):
    """How long each of so many calls takes."""
    took = []
    for _ in range(times):
        began = time.monotonic()
        call()
        took.append(1000 * (time.monotonic() - began))
        time.sleep(pause)
    return took


def pid_of(domain):
    for pid in domain.descendants():
        with open(f"/proc/{pid}/cmdline", "rb") as stream:
            if LABEL.encode() in stream.read().split(b"\0"):
                return pid
    sys.exit("the device has no process")


def deaths(nursery):
    """Milliseconds from kill to unlink of some small processes, one after the other."""
    delays = []
    for _ in range(DEATHS):
        pids = nursery.create()
        time.sleep(SETTLED)
        delays += nursery.deaths(pids)
    return [1000 * delay for delay in delays]


def queried(device, action):
    """What `action()` gives while another process queries everything, as fast as it can."""
    reference = client.orb().object_to_string(device)
    asking = subprocess.Popen([sys.executable, "-Es", __file__, "ask", reference], stdout=subprocess.PIPE)
    try:
        asking.stdout.readline()
        return action()
    finally:
        asking.kill()
        asking.wait()
        asking.stdout.close()


def ask(reference):
    device = client.orb().string_to_object(reference)._narrow(client.CF.Device)
    print("asking", flush=True)
    while True:
        device.query([])


def tell(what, values, target=None):
    median = statistics.median(values)
    goal = "" if target is None else " (target %g)" % target
    print("  %s: median %.2f, max %.2f ms%s" % (what, median, max(values), goal))
    return target is not None and median >= target


def main(arguments):
    if arguments[:1] == ["ask"]:
        ask(arguments[1])
    heaps = int(arguments[0]) if arguments else 1000
    folder = tempfile.mkdtemp(prefix="gppshm-bench-")
    missed = False
    try:
        with Nursery(NOBODY) as nursery:
            sdrroot = os.path.join(folder, "sdr")
            install(sdrroot, nursery.root)
            with client.Domain(sdrroot, folder, stdout=subprocess.DEVNULL) as domain:
                began = time.monotonic()
                domain.start_node(NODE)
                device = domain.device(LABEL)
                start = time.monotonic() - began
                base = resident(pid_of(domain))
                nursery.create(heaps)
                client.wait_for(lambda: client.query(device, "shm::cleanup_status")["watched"] == heaps, 60)
                client.wait_for(lambda: len(client.query(device, "shm::heaps")) == heaps, 60)
                print("the device in a node, %d living heaps" % heaps)
                print("  %.2f s from the node's start to registered (target %g)" % (start, START_S))
                missed |= tell("query([])", milliseconds(lambda: device.query([]), 30, 0.2), QUERY_MS)
                one = [client.prop("shm::capacity", "longlong", 1)]
                missed |= tell(
                    "allocateCapacity", milliseconds(lambda: device.allocateCapacity(one), 200), CALL_MS
                )
                missed |= tell(
                    "deallocateCapacity", milliseconds(lambda: device.deallocateCapacity(one), 200), CALL_MS
                )
                order = device.query([client.CF.DataType("shm::threshold", client.wire.NULL)])
                missed |= tell("configure", milliseconds(lambda: device.configure(order), 200), CALL_MS)
                print(
                    "  %.1f MB resident, %.1f without heaps (target %g)"
                    % (resident(pid_of(domain)), base, MEGABYTES)
                )
                missed |= start >= START_S or base >= MEGABYTES
                tell("death to unlink", deaths(nursery))
                tell("the same under queries without a pause", queried(device, lambda: deaths(nursery)))
    finally:
        shutil.rmtree(folder)
    print("targets %s" % ("MISSED" if missed else "met"))
    return int(missed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
