"""The plugin inside the stand-in GPP: start to registered, death to unlink, idle wake-ups, memory.

    bench/plugin.py [DEATHS [SECONDS]]

The GPP cleans nothing itself. Small processes that are no children of its are SIGKILLed; the time runs from
just before kill() to when this program sees the unlink. Exit status 1 if a target is missed. Needs omniORB.
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

ROOT = os.path.dirname(HERE)

NOBODY = "import time; print('ready', flush=True); time.sleep(100000)"
PLUGIN = "GppShmPlugin"
LIVE, SETTLED, LEAD = 100, 0.05, 30.0
START_S, MEDIAN_MS, WAKEUPS, MEGABYTES = 1.0, 1.5, 0.5, 45.0


def install(sdrroot, root):
    """An SDRROOT with the plugin in it, which watches `root`."""
    installer = os.path.join(ROOT, "python", "gppshm", "redhawk", "install.py")
    subprocess.check_output(
        [sys.executable, "-I", installer, "install", "--sdrroot", sdrroot, "--python", sys.executable]
    )
    folder = os.path.join(sdrroot, "dev", "devices", "GPP", "plugins", PLUGIN)
    with open(os.path.join(folder, PLUGIN + ".ini"), "w") as stream:
        stream.write(f"[{PLUGIN}]\nroot = {root}\n")


def switches(pid):
    """The voluntary context switches of all threads of a process so far."""
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/status") as stream:
            total += next(int(line.split()[1]) for line in stream if line.startswith("voluntary"))
    return total


def main(arguments):
    deaths = int(arguments[0]) if arguments else 200
    seconds = float(arguments[1]) if arguments[1:] else 30.0
    folder = tempfile.mkdtemp(prefix="gppshm-bench-")
    try:
        with Nursery(NOBODY) as nursery:
            install(folder, nursery.root)
            cache = os.path.join(folder, "cache")
            os.mkdir(cache)
            nursery.create(LIVE)
            began = time.monotonic()
            with client.Gpp(folder, cache, shm_root=nursery.root, stdout=subprocess.DEVNULL) as gpp:
                client.wait_for(lambda: len(gpp.metric_status()) == 4)
                start = time.monotonic() - began
                plugin = gpp.plugin(PLUGIN)["pid"]
                delays = []
                for _ in range(deaths):
                    pids = nursery.create()
                    time.sleep(SETTLED)
                    delays += nursery.deaths(pids)
                time.sleep(LEAD)
                before = switches(plugin)
                time.sleep(seconds)
                wakeups = (switches(plugin) - before) / seconds
                megabytes = resident(plugin)
    finally:
        shutil.rmtree(folder)
    median = 1000 * statistics.median(delays)
    print("the plugin in the stand-in GPP, %d live heaps beside" % LIVE)
    print("  %.2f s from the GPP's start to registered with all metrics (target %.0f)" % (start, START_S))
    print(
        "  death to unlink: median %.2f, max %.2f ms (target %.1f)" % (median, 1000 * max(delays), MEDIAN_MS)
    )
    print("  idle: %.3f wake-ups a second (target %.1f)" % (wakeups, WAKEUPS))
    print("  %.1f MB resident (target %.0f)" % (megabytes, MEGABYTES))
    missed = start >= START_S or median >= MEDIAN_MS or wakeups >= WAKEUPS or megabytes >= MEGABYTES
    print("targets %s" % ("MISSED" if missed else "met"))
    return int(missed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
