"""Puts things into an SDRROOT, for tests and the demonstration."""

import os
import sys
import uuid
from xml.sax.saxutils import quoteattr

STANDIN = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "standin")

SPD = """<?xml version="1.0"?>
<softpkg id="{id}" name="{name}" type="sca_compliant">
  <author/>
  <propertyfile type="PRF"><localfile name="{name}.prf.xml"/></propertyfile>
  <implementation id="python">
    <code type="Executable"><localfile name="{program}"/><entrypoint>{program}</entrypoint></code>
    <os name="Linux"/>
  </implementation>
</softpkg>
"""
DCD = """<?xml version="1.0"?>
<deviceconfiguration id="{id}" name="{name}">
  <devicemanagersoftpkg><localfile name="/mgr/DeviceManager.spd.xml"/></devicemanagersoftpkg>
  <componentfiles>{files}</componentfiles>
  <partitioning>{placements}</partitioning>
  <domainmanager><namingservice name="{domain}/{domain}"/></domainmanager>
</deviceconfiguration>
"""
PLACEMENT = """
    <componentplacement>
      <componentfileref refid="{label}_file"/>
      <componentinstantiation id={id}{order}>
        <usagename>{label}</usagename>
        <componentproperties>{values}</componentproperties>
      </componentinstantiation>
    </componentplacement>"""
SAD = """<?xml version="1.0"?>
<softwareassembly id="{id}" name="{name}">
  <componentfiles/>
  <partitioning/>
  <assemblycontroller/>
  <usesdevicedependencies>{uses}</usesdevicedependencies>
</softwareassembly>
"""
GPP_PRF = """
  <simple id="STANDIN_SHM" type="string"><kind kindtype="execparam"/></simple>
  <simple id="STANDIN_CLEANS" type="string"><kind kindtype="execparam"/></simple>"""


def write(text, *path):
    path = os.path.join(*map(str, path))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as stream:
        stream.write(text)
    if text.startswith("#!"):
        os.chmod(path, 0o755)
    return path


def plugin(sdrroot, name, text):
    """Put an executable text, with its `#!`, where a GPP looks for plugins; its path."""
    return write(text, sdrroot, "dev", "devices", "GPP", "plugins", name, name)


def device(sdrroot, name, text, properties=""):
    """A device whose program is an executable text; `properties` is its PRF's content. Its profile."""
    folder = os.path.join(str(sdrroot), "dev", "devices", name)
    write(text, folder, name + ".program")
    write(
        SPD.format(id=f"DCE:{uuid.uuid4()}", name=name, program=name + ".program"), folder, name + ".spd.xml"
    )
    write(f'<?xml version="1.0"?>\n<properties>{properties}\n</properties>\n', folder, name + ".prf.xml")
    return f"/devices/{name}/{name}.spd.xml"


def gpp(sdrroot):
    """The stand-in GPP as a device; its profile."""
    program = f'#!/bin/sh\nexec "{sys.executable}" "{STANDIN}/gpp.py" "$@"\n'
    return device(sdrroot, "GPP", program, GPP_PRF)


def node(sdrroot, name, devices, domain="REDHAWK_DEV"):
    """A node of devices: (label, profile, startorder or None, values by property id). Its DCD's path.

    Their ids are NAME:LABEL.
    """
    files, placements = [], []
    for label, profile, order, values in devices:
        files.append(
            f'<componentfile id="{label}_file" type="SPD"><localfile name="{profile}"/></componentfile>'
        )
        order = "" if order is None else f' startorder="{order}"'
        references = "".join(reference("simpleref", *pair) for pair in values.items())
        placements.append(
            PLACEMENT.format(label=label, id=quoteattr(f"{name}:{label}"), order=order, values=references)
        )
    text = DCD.format(
        id=f"DCE:{uuid.uuid4()}",
        name=name,
        domain=domain,
        files="".join(files),
        placements="".join(placements),
    )
    return write(text, sdrroot, "dev", "nodes", name, "DeviceManager.dcd.xml")


def component(sdrroot, profile):
    """What a waveform needs of a component: a profile below $SDRROOT/dom. Nothing of it is ever started."""
    text = '<softpkg id="component" name="component"><implementation id="any"/></softpkg>\n'
    return write(text, sdrroot, "dom", profile.lstrip("/"))


def reference(kind, id_, value):
    """A simpleref or propertyref; a structref for a dict."""
    if isinstance(value, dict):
        members = "".join(reference("simpleref", *pair) for pair in value.items())
        return f"<structref refid={quoteattr(id_)}>{members}</structref>"
    return f"<{kind} refid={quoteattr(id_)} value={quoteattr(str(value))}/>"


def waveform(sdrroot, name, uses):
    """A waveform without components; `uses` are the usesdevices by id: the pairs (id, value) they ask for."""
    text = "".join(
        f"<usesdevice id={quoteattr(id_)}>"
        + "".join(reference("propertyref", *pair) for pair in wanted)
        + "</usesdevice>"
        for id_, wanted in uses.items()
    )
    text = SAD.format(id=f"DCE:{uuid.uuid4()}", name=name, uses=text)
    write(text, sdrroot, "dom", "waveforms", name, name + ".sad.xml")
    return f"/waveforms/{name}/{name}.sad.xml"
