"""The plugin in the stand-in GPP: start to registration, death to unlink, idle wake-ups, memory.

    bench/plugin.py [DEATHS [SECONDS]]

The GPP itself cleans nothing. Small processes that are not its children are SIGKILLed. The time is measured
from just before kill() until this program sees the unlink. Exit status 1 if a target is missed. Needs
omniORB.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from figures import Targets, milliseconds
from nursery import NOBODY, ROOT, Nursery, family, memory, resident, switches

import client  # isort: skip

PLUGIN = "GppShmPlugin"
LIVE, SETTLED, LEAD = 100, 0.05, 30.0
START_S, MEDIAN_MS, WAKEUPS, MEGABYTES = 1.0, 1.5, 0.5, 45.0


def install(sdrroot, root):
    """Fill an SDRROOT with the plugin, which watches `root`."""
    installer = os.path.join(ROOT, "python", "gppshm", "redhawk", "install.py")
    subprocess.check_output(
        [sys.executable, "-I", installer, "install", "--sdrroot", sdrroot, "--python", sys.executable]
    )
    folder = os.path.join(sdrroot, "dev", "devices", "GPP", "plugins", PLUGIN)
    with open(os.path.join(folder, PLUGIN + ".ini"), "w") as stream:
        stream.write(f"[{PLUGIN}]\nroot = {root}\n")


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
                before = switches(family(plugin))
                time.sleep(seconds)
                after = switches(before)
                wakeups = sum(after[pid] - before[pid] for pid in after) / seconds
                megabytes = resident(plugin)
                pss, rss = memory(after)
                engine = resident(family(plugin)[1])
    finally:
        shutil.rmtree(folder)
    targets = Targets()
    print("the plugin in the stand-in GPP, %d live heaps beside" % LIVE)
    print("  death to unlink: %s" % milliseconds(delays))
    targets.below("from the GPP's start to registered with all metrics", start, START_S, " s")
    targets.below("death to unlink: median", 1000 * statistics.median(delays), MEDIAN_MS, " ms")
    targets.below("idle, with all that it started: wake-ups a second:", wakeups, WAKEUPS)
    targets.below("resident: the plugin", megabytes, MEGABYTES, " MB")
    print(
        "  all of its processes: PSS %.1f MB, RSS %.1f MB; the one that cleans %.1f MB" % (pss, rss, engine)
    )
    return targets.end()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
