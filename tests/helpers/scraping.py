"""Shared by the tests of the metrics: scraping and parsing them like Prometheus."""

import socket
import urllib.request

import pytest

pytest.importorskip("prometheus_client", reason="needs prometheus_client: ./build.sh test installs it")

from prometheus_client.parser import text_string_to_metric_families


def free_port():
    """A port on loopback that was free just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def get(url):
    """The response from a URL, without any proxy of the environment."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=10) as answer:
        return answer.read().decode()


def scrape(port, host="127.0.0.1"):
    return read(get(f"http://{host}:{port}/metrics"))


def read(text):
    """The samples of an exposition: "name{label=value}" -> value, without the prefix redhawk_shm_."""
    return samples(text_string_to_metric_families(text))


def samples(families):
    found = {}
    for family in families:
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sample.labels.items())
            name = sample.name + ("{%s}" % labels if labels else "")
            assert name not in found and name.startswith("redhawk_shm_")
            found[name[len("redhawk_shm_") :]] = sample.value
    return found


def content(path):
    try:
        with open(str(path)) as stream:
            return stream.read()
    except FileNotFoundError:
        return ""
