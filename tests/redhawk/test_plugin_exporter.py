"""Promises of the metrics that GppShmPlugin.ini asks for: served by the plugin and by the device alike."""

# ruff: noqa: F811 (pytest finds fixtures by name: they are imported, and are arguments)

import os
import signal
import socket

import pytest

from devices import MB, capacity, manager, start  # noqa: F401
from plugins import Node, installed, sdr  # noqa: F401
from scraping import free_port, read, scrape
from spawning import wait_for

pytestmark = pytest.mark.corba


@pytest.fixture
def node(sdr, tmp_path, shm_root):
    """node(**settings): a Node whose plugin is ready."""
    nodes = []

    def node(**settings):
        sdr.settings(**settings)
        nodes.append(Node(sdr, tmp_path, shm_root))
        nodes[-1].ready()
        return nodes[-1]

    yield node
    for each in nodes:
        each.gpp.close()


def served(port):
    """What is served there; None as long as nothing is."""
    try:
        return scrape(port)
    except OSError:
        return None


def test_the_plugin_serves_and_writes_what_its_settings_ask_for(node, tmp_path):
    port, path = free_port(), tmp_path / "redhawk.prom"
    running = node(metrics=port, metrics_textfile=path)
    pid = running.component()
    wait_for(lambda: served(port) and served(port)["heaps{state=alive}"] == 1)
    figures = served(port)
    assert figures["reserved_bytes"] == 0
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: served(port)["removals_total"] == 1)
    assert served(port)["death_to_unlink_seconds_count"] == 1
    assert set(read(wait_for(lambda: path.exists() and path.read_text()))) == set(figures)
    assert f"metrics are served at 127.0.0.1:{port}" in running.output()


def test_a_taken_address_and_a_bad_file_are_logged_and_stop_nothing(node, tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen(1)
        place = f"127.0.0.1:{other.getsockname()[1]}"
        running = node(metrics=place, metrics_textfile=tmp_path / "absent" / "redhawk.prom")
        wait_for(lambda: f"metrics cannot be served at {place}: Address already in use" in running.output())
        wait_for(lambda: "redhawk.prom cannot be written: No such file or directory" in running.output())
        pid = running.component()
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not running.has_heap(pid))


def test_the_device_shows_what_waveforms_reserved(start):
    port = free_port()
    running = start(settings={"metrics": port})
    assert wait_for(lambda: served(port))["reserved_bytes"] == 0
    assert running.ref.allocateCapacity([capacity(64)])
    wait_for(lambda: served(port)["reserved_bytes"] == 64 * MB)
    running.ref.deallocateCapacity([capacity(64)])
    wait_for(lambda: served(port)["reserved_bytes"] == 0)
