"""Reads the descriptors of an SDRROOT, as far as the managers use them.

Profiles are absolute paths below $SDRROOT/dev or $SDRROOT/dom.  Raises OSError or ElementTree.ParseError if
one cannot be read.
"""

import os
from xml.etree import ElementTree

from omniORB import CORBA

from stubs import CF
from wire import NULL, TYPES


def read(root, profile):
    return ElementTree.parse(os.path.join(root, profile.lstrip("/"))).getroot()


def references(element):
    """The values that simplerefs, structrefs and propertyrefs below an element give, by id in their order."""
    found = []
    for each in element if element is not None else ():
        if each.tag in ("simpleref", "propertyref"):
            found.append((each.get("refid"), each.get("value")))
        elif each.tag == "structref":
            found.append((each.get("refid"), dict(references(each))))
    return found


def any_of(type_, text):
    typecode, value_of = TYPES[type_]
    return CORBA.Any(typecode, value_of(text))


class Property:
    def __init__(self, element):
        self.id, self.mode = element.get("id"), element.get("mode", "readwrite")
        self.type = element.get("type")
        kinds = [(each.get("kindtype")) for each in element if each.tag in ("kind", "configurationkind")]
        self.kinds = kinds or ["configure"]
        self.on_command_line = element.get("commandline") == "true" or "execparam" in kinds
        action = element.find("action")
        self.action = "external" if action is None else action.get("type", "external")
        self.members = {}
        self.value = None
        if element.tag == "simple":
            self.value = element.findtext("value")
        elif element.tag == "struct":
            self.members = {each.get("id"): Property(each) for each in element.findall("simple")}
            self.value = {name: member.value for name, member in self.members.items()}

    def is_set(self):
        """REDHAWK looks at the first member alone of a struct."""
        return next(iter(self.value.values())) is not None if self.members else self.value is not None

    def any(self, value):
        """A value as the PRF types it; ValueError or KeyError if it cannot be."""
        if not self.members:
            return NULL if value is None else any_of(self.type, value)
        members = [CF.DataType(name, self.members[name].any(each)) for name, each in value.items()]
        return CORBA.Any(CF._tc_Properties, members)


class Profile:
    """An SPD and its PRF; `program` is the entry point of its first implementation."""

    def __init__(self, root, path):
        spd = read(root, path)
        folder = os.path.dirname(path)
        self.path, self.uses = path, uses_devices(spd)
        entry = spd.findtext("implementation/code/entrypoint")
        self.program = entry and os.path.join(root, folder.lstrip("/"), entry)
        self.implementation = spd.find("implementation").get("id")
        prf = spd.find("propertyfile/localfile")
        elements = () if prf is None else read(root, os.path.join(folder, prf.get("name")))
        self.properties = {each.get("id"): Property(each) for each in elements if each.get("id")}

    def chosen(self, wanted, overrides):
        """The properties for which `wanted` holds and that have a value, with that value in the node."""
        for found in self.properties.values():
            value = overrides.get(found.id)
            if isinstance(value, dict):
                found.value = dict(found.value, **value)
            elif value is not None:
                found.value = value
            if wanted(found) and found.is_set():
                yield found


def uses_devices(element):
    """The usesdevice elements below one: their ids, and what each asks for."""
    return [(each.get("id"), references(each)) for each in element.iter("usesdevice")]


def placements(root):
    """Each componentplacement, its profile, and the hostcollocation that it is in or None."""
    files = {each.get("id"): each.find("localfile").get("name") for each in root.iter("componentfile")}
    parents = {child: parent for parent in root.iter() for child in parent}
    for each in root.iter("componentplacement"):
        host = parents[each] if parents[each].tag == "hostcollocation" else None
        yield each, files[each.find("componentfileref").get("refid")], host


class Instance:
    """A device of a node: what its DCD says of it."""

    def __init__(self, element, profile):
        self.id, self.profile = element.get("id"), profile
        self.label = element.findtext("usagename") or self.id
        order = element.get("startorder")
        self.order = None if order is None else int(order)
        self.overrides = dict(references(element.find("componentproperties")))


class Node:
    """A DCD."""

    def __init__(self, root, path):
        dcd = read(root, path)
        self.id, self.name = dcd.get("id"), dcd.get("name")
        self.domain = dcd.find("domainmanager/namingservice").get("name").split("/")[0]
        self.instances = [
            Instance(element, profile)
            for placement, profile, _ in placements(dcd)
            for element in placement.iter("componentinstantiation")
        ]


class Waveform:
    """A SAD.

    components  the profile of each component outside a hostcollocation, and its instance's id
    collocated  the ids of the usesdevices that hostcollocations refer to
    """

    def __init__(self, root, path):
        sad = read(root, path)
        self.id, self.name = sad.get("id"), sad.get("name")
        self.uses = uses_devices(sad)
        self.components = [
            (profile, placement.find("componentinstantiation").get("id"))
            for placement, profile, host in placements(sad)
            if host is None
        ]
        self.collocated = [each.get("refid") for each in sad.iter("usesdeviceref")]
