"""The plugin ends in time, and tells its metrics, though a process blocks whoever looks into it."""
# ruff: noqa: F811 (pytest finds fixtures by name: they are imported, and are arguments)

import os
import signal
import time

from blocking import ENDING
from blocking import blocked as blocked
from plugins import installed, node, sdr, start  # noqa: F401
from spawning import lives, needs_root, wait_for

pytestmark = needs_root


def test_the_plugin_tells_its_metrics_and_ends_though_a_process_blocks(node, blocked):
    child = blocked("descriptor")
    plugin = node.ready()
    pid = node.component()
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not node.has_heap(pid))
    wait_for(lambda: node.recorded("shm_removed") == "1", 20)
    started = time.monotonic()
    os.kill(plugin["pid"], signal.SIGTERM)
    wait_for(lambda: not lives(plugin["pid"]))
    assert time.monotonic() - started < ENDING
    assert node.has_heap(child.pid)
