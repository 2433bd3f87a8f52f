"""Shared by the tests of the runtime and of the stand-in's managers: a domain, a node, the device probe.py.

`sdrroot`, `start` and `probe` are fixtures to import.
"""

import os
import sys

import pytest

omniORB = pytest.importorskip("omniORB", reason="needs omniORB, which has no wheel for this Python")

from omniORB import CORBA  # noqa: E402, F401

import client  # noqa: E402
import installing  # noqa: E402
from client import CF, wait_for  # noqa: E402, F401
from places import HELPERS  # noqa: E402

from wire import NULL  # isort: skip # noqa: E402, F401

PROBE = os.path.join(HELPERS, "probe.py")
PRF = """
  <simple id="probe::text" type="string"><value>from the PRF</value><kind kindtype="configure"/></simple>
  <simple id="probe::count" type="long"><kind kindtype="property"/></simple>
  <simple id="probe::fail" type="string"><kind kindtype="property"/></simple>
  <simple id="probe::kind" type="string" mode="readonly">
    <value>PROBE</value><kind kindtype="allocation"/><action type="eq"/>
  </simple>
  <simple id="probe::speed" type="long" mode="readonly">
    <value>5</value><kind kindtype="allocation"/><action type="ge"/>
  </simple>
  <simple id="probe::capacity" type="longlong" mode="readonly">
    <kind kindtype="property"/><kind kindtype="allocation"/>
  </simple>
  <struct id="probe::limits">
    <simple id="probe::limits::low" type="long"><value>5</value></simple>
    <simple id="probe::limits::name" type="string"><value>five</value></simple>
    <configurationkind kindtype="property"/>
  </struct>
  <struct id="probe::usage" mode="readonly">
    <simple id="probe::usage::low" type="long"/><configurationkind kindtype="property"/>
  </struct>
  <simple id="probe::level" type="float"><kind kindtype="execparam"/></simple>
  <simple id="DEFY" type="string"><kind kindtype="execparam"/></simple>
"""
PROFILE = "/devices/Probe/Probe.spd.xml"


@pytest.fixture
def sdrroot(tmp_path):
    """An SDRROOT with the probe as a device."""
    program = f'#!/bin/sh\nexec "{sys.executable}" "{PROBE}" "$@"\n'
    assert installing.device(tmp_path / "sdr", "Probe", program, PRF) == PROFILE
    return tmp_path / "sdr"


class Started(client.Domain):
    """A domain whose node has these devices; `output()` returns the output of all its processes."""

    def __init__(self, sdrroot, folder, devices, **options):
        installing.node(sdrroot, "node", devices)
        self.log = str(folder / "log")
        self.stream = open(self.log, "ab")  # noqa: SIM115
        streams = {"stdout": self.stream, "stderr": self.stream}
        super().__init__(sdrroot, folder, "node", **streams, **options)

    def close(self):
        super().close()
        self.stream.close()

    def output(self):
        with open(self.log, errors="replace") as stream:
            return stream.read()

    def lines(self, *words):
        """The lines of output so far that begin with one of these words."""
        return [line for line in self.output().splitlines() if line.startswith(words)]

    def launch_outside(self, label="Outside_1", id_="outside", profile=PROFILE, **settings):
        """Start a probe that no manager has launched; returns its process."""
        pairs = {
            "PROFILE_NAME": profile,
            "DEVICE_ID": id_,
            "DEVICE_LABEL": label,
            "DEVICE_MGR_IOR": client.orb().object_to_string(self.manager),
            **settings,
        }
        words = [word for pair in pairs.items() for word in pair]
        return self.spawn([sys.executable, PROBE, *words], self.folder)

    def outside(self, **settings):
        """As `launch_outside`; returns the device after it has registered."""
        self.launch_outside(**settings)
        return self.device(settings.get("label", "Outside_1"))


@pytest.fixture
def start(sdrroot, tmp_path):
    """start(...): a Started with these arguments; by default with one probe with a startorder."""
    domains = []

    def start(devices=(("Probe_1", PROFILE, 0, {}),), **options):
        domains.append(Started(sdrroot, tmp_path, devices, **options))
        return domains[-1]

    yield start
    for domain in domains:
        domain.close()


@pytest.fixture
def probe(start):
    """The started device."""
    found = start().device("Probe_1")
    wait_for(found._get_started)
    return found
