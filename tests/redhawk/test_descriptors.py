"""Descriptors, nodes and waveforms agree with each other, with the code, and with REDHAWK's rules."""

import glob
import os
import re
from xml.etree import ElementTree

import pytest

from gppshm import __version__, watch
from gppshm.redhawk import thresholds
from places import ROOT

NAME = "GppShmPlugin"
KIND = "DCE:cdc5ee18-7ceb-4ae6-bf4c-31f983179b4d"
MODEL = "DCE:0f99b2e4-9903-4631-9846-ff349d18ecfb"
CAPACITY = "shm::capacity"
UUID = re.compile(r"DCE:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

DESCRIPTORS = [f"{NAME}.{kind}.xml" for kind in ("spd", "scd", "prf")]
NODES = ["GppShmDeviceNode", "GppShmNode"]
WAVEFORMS = ["shm_reserve", "shm_reserve_collocated", "shm_reserve_host"]
DCDS = [f"nodes/{name}/DeviceManager.dcd.xml" for name in NODES]
SADS = [f"waveforms/{name}/{name}.sad.xml" for name in WAVEFORMS]
ALL = DESCRIPTORS + DCDS + SADS

# The children that an element may have here, in the order in which REDHAWK's DTDs want them.
ORDER = {
    "simple": "description value units range enumerations kind action",
    "struct": "description simple configurationkind",
    "structsequence": "description struct configurationkind",
    "softpkg": "title author description propertyfile descriptor implementation",
    "implementation": "description code programminglanguage humanlanguage runtime os processor",
    "code": "localfile entrypoint",
    "softwarecomponent": "corbaversion componentrepid componenttype componentfeatures interfaces",
    "componentfeatures": "supportsinterface ports",
    "uses": "description porttype",
    "deviceconfiguration": "description devicemanagersoftpkg componentfiles partitioning domainmanager",
    "softwareassembly": "description componentfiles partitioning assemblycontroller usesdevicedependencies",
    "componentplacement": "componentfileref componentinstantiation",
    "componentinstantiation": "usagename findcomponent",
    "hostcollocation": "componentplacement usesdeviceref",
}

# What tells how many, and so has no unit.
COUNTS = [
    "superblocks",
    "refcount",
    "attached",
    "removed",
    "removed_by_others",
    "fifos",
    "failures",
    "watched",
    "inodes",
    "free_inodes",
]
COUNTS += ["heap_count", "alive", "orphaned", "orphaned_attached", "unknown", "unreadable"]


def parse(path):
    return ElementTree.parse(os.path.join(ROOT, path)).getroot()


def read(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        return file.read()


SPD, SCD, PRF = (parse(path) for path in DESCRIPTORS)


# The PRF, and the class, in the same words


def value_of(type_, text):
    """A PRF's value; what has none is 0 or empty."""
    if type_ == "boolean":
        return {"true": True, "false": False, None: False}[text]
    if type_ == "string":
        return text or ""
    return (float if type_ == "double" else int)(text or 0)


def kinds_of(element):
    return [kind.get("kindtype") for kind in element if kind.tag in ("kind", "configurationkind")]


def simple_in_prf(element):
    type_ = element.get("type")
    return {
        "id": element.get("id"),
        "name": element.get("name"),
        "type": type_,
        "value": value_of(type_, element.findtext("value")),
        "units": element.findtext("units"),
    }


def in_prf(element):
    action = element.find("action")
    found = {
        "name": element.get("name"),
        "mode": element.get("mode"),
        "kinds": kinds_of(element),
        "action": "external" if action is None else action.get("type"),
        "sort": element.tag,
    }
    if element.tag == "simple":
        return dict(found, **simple_in_prf(element))
    struct = element.find("struct") if element.tag == "structsequence" else element
    return dict(
        found, struct=struct.get("id"), members=[simple_in_prf(each) for each in struct.iter("simple")]
    )


def simple_in_class(declared):
    return {
        "id": declared.id_,
        "name": declared.name,
        "type": declared.type_,
        "value": declared.defvalue,
        "units": declared.units,
    }


def in_class(declared):
    from gppshm.redhawk.runtime.properties import simple_property, structseq_property

    found = {
        "name": declared.name,
        "mode": declared.mode,
        "kinds": list(declared.kinds),
        "action": declared.action,
        "sort": "simple",
    }
    if isinstance(declared, simple_property):
        return dict(found, **simple_in_class(declared))
    found["sort"] = "struct"
    if isinstance(declared, structseq_property):
        assert declared.defvalue == []
        found["sort"] = "structsequence"
    members = [each for each in vars(declared.structdef).values() if isinstance(each, simple_property)]
    return dict(
        found, struct=declared.structdef.getId(), members=[simple_in_class(member) for member in members]
    )


def properties():
    """The PRF's, without the structs' members."""
    return [element for element in PRF if element.tag != "description"]


@pytest.fixture(scope="module")
def base():
    """The class that the descriptors describe."""
    pytest.importorskip("omniORB", reason="needs omniORB, which has no wheel for this Python")
    from GppShmPlugin_base import GppShmPlugin_base

    return GppShmPlugin_base


def structs(base):
    return [each for each in vars(base).values() if isinstance(each, type) and hasattr(each, "getMembers")]


# All of them


def test_there_are_no_descriptors_but_these():
    found = [
        *glob.glob(f"{ROOT}/*.xml"),
        *glob.glob(f"{ROOT}/nodes/*/*.xml"),
        *glob.glob(f"{ROOT}/waveforms/*/*.xml"),
    ]
    assert sorted(os.path.relpath(path, ROOT) for path in found) == sorted(ALL)


@pytest.mark.parametrize("path", ALL)
def test_a_descriptor_says_what_it_is(path):
    kind = path.split(".")[-2]
    root, name = {
        "spd": ("softpkg", "softpkg"),
        "scd": ("softwarecomponent", "softwarecomponent"),
        "prf": ("properties", "properties"),
        "dcd": ("deviceconfiguration", "deviceconfiguration"),
        "sad": ("softwareassembly", "softwareassembly"),
    }[kind]
    doctype = f'<!DOCTYPE {root} PUBLIC "-//JTRS//DTD SCA V2.2.2 {kind.upper()}//EN" "{name}.dtd">'
    assert read(path).splitlines()[:2] == ['<?xml version="1.0" encoding="UTF-8"?>', doctype]
    assert parse(path).tag == root


@pytest.mark.parametrize("path", ALL)
def test_elements_stand_in_the_order_that_redhawk_wants(path):
    for element in parse(path).iter():
        if element.tag in ORDER:
            order = ORDER[element.tag].split()
            places = [order.index(child.tag) for child in element]
            assert places == sorted(places), (element.tag, element.attrib)


@pytest.mark.parametrize("path", ALL)
def test_ids_are_unique_and_fit_xml(path):
    ids = [each.get("id") for each in parse(path).iter() if each.get("id") is not None]
    assert len(ids) == len(set(ids))
    assert all(re.fullmatch(r"[A-Za-z_][\w:.-]*", id_, re.ASCII) for id_ in ids)


def test_what_is_installed_beside_others_has_an_id_that_nobody_else_has():
    ids = [parse(path).get("id") for path in [DESCRIPTORS[0], *DCDS, *SADS]]
    assert len(ids) == len(set(ids))
    assert all(UUID.fullmatch(id_) for id_ in ids)


# The software package


def test_the_package_has_the_version_of_the_code():
    assert SPD.get("name") == NAME
    assert SPD.get("version") == __version__


def test_the_package_names_the_other_descriptors():
    assert SPD.find("propertyfile/localfile").get("name") == DESCRIPTORS[2]
    assert SPD.find("descriptor/localfile").get("name") == DESCRIPTORS[1]


def test_the_entry_point_can_be_executed_as_the_sandbox_and_the_managers_do():
    code = SPD.find("implementation/code")
    entry = code.findtext("entrypoint")
    assert entry == f"python/{NAME}.py"
    assert code.get("type") == "Executable"
    assert os.path.dirname(entry) == code.find("localfile").get("name")
    assert os.access(os.path.join(ROOT, entry), os.X_OK)
    assert read(entry).startswith("#!/usr/bin/env python3\n")


def test_the_package_runs_where_redhawk_does():
    implementation = SPD.find("implementation")
    assert [os_.get("name") for os_ in implementation.iter("os")] == ["Linux"]
    assert [each.get("name") for each in implementation.iter("processor")] == ["x86_64", "aarch64"]
    assert implementation.find("runtime").attrib == {"name": "python", "version": "3.6"}


# Interfaces and ports


def test_every_interface_that_is_named_is_declared():
    declared = {each.get("repid") for each in SCD.find("interfaces")}
    named = {each.get("repid") for each in SCD.iter() if each.get("repid")}
    assert named == declared
    assert SCD.find("componentrepid").get("repid") == "IDL:CF/Device:1.0"
    assert SCD.findtext("componenttype") == "device"


@pytest.mark.corba
def test_the_device_supports_the_interfaces_of_its_corba_object(base):
    from gppshm.redhawk.corba import CF

    lineage = {getattr(each, "_NP_RepositoryId", "") for each in CF._objref_Device.__mro__}
    supported = {each.get("supportsname"): each.get("repid") for each in SCD.iter("supportsinterface")}
    assert set(supported.values()) == {repid for repid in lineage if repid.startswith("IDL:CF/")}
    assert all(repid == f"IDL:CF/{name}:1.0" for name, repid in supported.items())


@pytest.mark.corba
def test_the_class_has_the_ports_that_are_declared(base):
    from gppshm.redhawk.runtime.properties import usesport

    declared = [
        (
            each.get("usesname"),
            each.get("repid"),
            each.find("porttype").get("type"),
            each.findtext("description"),
        )
        for each in SCD.find("componentfeatures/ports")
    ]
    ports = {name: each for name, each in vars(base).items() if isinstance(each, usesport)}
    found = [(each.name, each.repid, each.type_, each.__doc__) for each in ports.values()]
    assert sorted(found) == sorted(declared)
    assert set(ports) == {f"port_{name}" for name, *_ in declared}


# Properties


def test_the_properties_are_those_that_are_promised():
    assert {each.get("id"): each.get("mode") for each in properties()} == {
        KIND: "readonly",
        MODEL: "readonly",
        CAPACITY: "readonly",
        "shm::host_name": "readonly",
        "shm::overview": "readonly",
        "shm::usage": "readonly",
        "shm::heaps": "readonly",
        "shm::cleanup": "readwrite",
        "shm::cleanup_status": "readonly",
        "shm::recent": "readonly",
        "shm::threshold": "readwrite",
        "shm::heap_removed": "readwrite",
        "shm::threshold_crossed": "readwrite",
    }


def test_names_follow_from_ids():
    for element in properties():
        id_ = element.get("id")
        if id_ not in (KIND, MODEL):
            assert element.get("name") == id_.replace("::", "_")
        for member in [*element.iter("simple"), *element.iter("struct")]:
            if member is not element:
                assert member.get("id") == f"{id_}::{member.get('name')}"


def test_everything_is_described_and_every_quantity_has_its_unit():
    for element in PRF.iter():
        if element.tag in ("simple", "struct", "structsequence"):
            assert element.findtext("description").strip().endswith("."), element.get("id")
    for simple in PRF.iter("simple"):
        name, units = simple.get("name"), simple.findtext("units")
        if simple.get("type") in ("ulonglong", "ulong", "longlong", "double") and name not in COUNTS:
            assert units in ("MB", "B", "s", "ms", "%"), simple.get("id")
            assert (units == "ms") == name.endswith("_ms")
            assert (units == "%") == name.endswith("_percent")
            assert (units == "s") == (name.endswith("time") or name in ("rescan", "age"))
        else:
            assert units is None, simple.get("id")


def test_what_a_waveform_may_ask_for_is_taken_as_capacity_or_compared():
    actions = {
        each.get("id"): each.find("action").get("type")
        for each in properties()
        if "allocation" in kinds_of(each)
    }
    assert actions == {KIND: "eq", MODEL: "eq", CAPACITY: "external", "shm::host_name": "external"}


def test_a_manager_initializes_only_what_an_operator_may_set():
    # It takes each property of kind property that has a value, also a readonly one, and a struct if its first
    # member has one: a member without would then be null.
    for element in properties():
        values = [simple.find("value") is not None for simple in element.iter("simple")]
        wanted = element.get("id") in (KIND, MODEL, "shm::cleanup", "shm::threshold")
        assert set(values) == {wanted}, element.get("id")


def test_defaults_and_ranges_are_those_that_the_code_takes():
    simples = {each.get("id"): each for each in PRF.iter("simple")}
    scopes = [each.get("value") for each in simples["shm::cleanup::scope"].iter("enumeration")]
    assert scopes == list(watch.SCOPES)
    assert simples["shm::cleanup::scope"].findtext("value") in scopes
    rescan = simples["shm::cleanup::rescan"]
    assert float(rescan.find("range").get("min")) == 0.1
    assert float(rescan.find("range").get("max")) == 3600
    for name in ("free", "headroom"):
        text = simples[f"shm::threshold::{name}"].findtext("value")
        assert thresholds.parse(text).text == text


@pytest.mark.corba
def test_the_class_declares_the_properties_field_by_field(base):
    from gppshm.redhawk.runtime.properties import simple_property, struct_property, structseq_property

    sorts = (simple_property, struct_property, structseq_property)
    declared = {name: each for name, each in vars(base).items() if isinstance(each, sorts)}
    assert {each.id_: in_class(each) for each in declared.values()} == {
        each.get("id"): in_prf(each) for each in properties()
    }
    assert all(each.name == name for name, each in declared.items())
    for struct in structs(base):
        assert all(
            each.name == name for name, each in vars(struct).items() if isinstance(each, simple_property)
        )


@pytest.mark.corba
def test_every_struct_can_be_sent_as_it_is_made(base):
    from omniORB import CORBA, cdrMarshal

    from gppshm.redhawk.runtime.properties import struct_to_any

    # The ORB of all tests, with the options of whoever is the first: those of client.orb().
    CORBA.ORB_init(["client", "-ORBendPoint", "giop:tcp:127.0.0.1:"], CORBA.ORB_ID)
    made = [struct() for struct in structs(base)]
    assert len(made) == len(list(PRF.iter("struct")))
    for value in made:
        sent = struct_to_any(value)
        assert [each.id for each in sent.value()] == [
            each.get("id") for each in PRF.find(f".//struct[@id='{value.getId()}']").iter("simple")
        ]
        assert all(each.value.typecode().kind() != CORBA.tk_null for each in sent.value())
        cdrMarshal(CORBA.TC_any, sent)


@pytest.mark.corba
def test_a_struct_takes_its_members_and_no_others(base):
    value = base.Threshold(free="5%")
    assert value.getMembers() == [("free", "5%"), ("headroom", "5%")]
    assert str(value) == "{'free': '5%', 'headroom': '5%'}"
    assert value.isStruct()
    with pytest.raises(TypeError, match="shm::threshold has no member fre"):
        base.Threshold(fre="5%")


# Nodes and waveforms


@pytest.mark.parametrize("path", DCDS + SADS)
def test_what_is_placed_is_listed_and_what_is_listed_is_placed(path):
    root = parse(path)
    listed = [each.get("id") for each in root.iter("componentfile")]
    placed = [each.get("refid") for each in root.iter("componentfileref")]
    assert sorted(listed) == sorted(placed)
    assert all(each.get("type") == "SPD" for each in root.iter("componentfile"))
    instances = list(root.iter("componentinstantiation"))
    assert all(each.find("usagename").text for each in instances)
    assert sorted(int(each.get("startorder")) for each in instances) == list(range(len(instances)))


def programs(root):
    return [each.find("localfile").get("name") for each in root.iter("componentfile")]


@pytest.mark.parametrize(("path", "name"), list(zip(DCDS, NODES)))
def test_a_node_is_named_as_its_folder_and_joins_the_usual_domain(path, name):
    root = parse(path)
    assert root.get("name") == name
    assert root.find("devicemanagersoftpkg/localfile").get("name") == "/mgr/DeviceManager.spd.xml"
    assert root.find("domainmanager/namingservice").get("name") == "REDHAWK_DEV/REDHAWK_DEV"
    for instance in root.iter("componentinstantiation"):
        assert instance.get("id") == f"{name}:{instance.findtext('usagename')}"


def test_one_node_leaves_the_device_to_the_plugin_and_one_has_it_itself():
    gpp, device = "/devices/GPP/GPP.spd.xml", f"/devices/{NAME}/{DESCRIPTORS[0]}"
    assert {path: programs(parse(path)) for path in DCDS} == dict(zip(DCDS, ([gpp, device], [gpp])))


@pytest.mark.parametrize(("path", "name"), list(zip(SADS, WAVEFORMS)))
def test_a_waveform_is_named_as_its_file_and_says_what_it_needs(path, name):
    root = parse(path)
    assert root.get("name") == name
    assert programs(root) == ["/components/rh/SigGen/SigGen.spd.xml"]
    assert "package rh.SigGen" in root.findtext("description")
    instance = root.find(".//componentinstantiation")
    assert root.find("assemblycontroller/componentinstantiationref").get("refid") == instance.get("id")
    naming = instance.find("findcomponent/namingservice")
    assert naming.get("name") == instance.findtext("usagename")


@pytest.mark.parametrize("path", SADS)
def test_a_waveform_asks_the_device_for_what_it_can_give(path):
    offered = {each.get("id"): each for each in properties() if "allocation" in kinds_of(each)}
    (device,) = parse(path).find("usesdevicedependencies")
    asked = {each.get("refid"): each.get("value") for each in device}
    assert len(asked) == len(device)
    assert set(asked) <= set(offered)
    for id_, value in asked.items():
        if offered[id_].find("action").get("type") == "eq":
            assert value == offered[id_].findtext("value")
    assert asked[KIND] == "SHM"
    assert asked[CAPACITY] == "64"


def test_one_waveform_names_the_host_and_says_that_the_name_is_to_be_replaced():
    named = {
        path: [each.get("value") for each in parse(path).iter("propertyref") if "host" in each.get("refid")]
        for path in SADS
    }
    assert named == dict(zip(SADS, ([], [], ["my-host"])))
    assert "replace my-host" in parse(SADS[2]).findtext("description")


def test_one_waveform_runs_where_it_reserved():
    for path in SADS:
        root = parse(path)
        references = [each.get("refid") for each in root.iter("usesdeviceref")]
        devices = [each.get("id") for each in root.iter("usesdevice")]
        assert references == (devices if path == SADS[1] else [])
