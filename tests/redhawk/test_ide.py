"""REDHAWK's IDE takes the descriptors and the project: no error that keeps it from launching or exporting.

The rules are those of its validators (2.3 and 3.0.1), each over every descriptor, whatever that holds.
"""

import glob
import os
import re
from xml.etree import ElementTree

import pytest

from places import ROOT

DESCRIPTORS = sorted(
    glob.glob(f"{ROOT}/*.xml") + glob.glob(f"{ROOT}/nodes/*/*.xml") + glob.glob(f"{ROOT}/waveforms/*/*.xml")
)
EVENT_CHANNEL = "IDL:omg.org/CosEventChannelAdmin/EventChannel:1.0"
MESSAGES = "IDL:ExtendedEvent/MessageEvent:1.0"
PROPERTIES = ("simple", "simplesequence", "struct", "structsequence")
BITS = {"octet": 8, "ushort": 16, "ulong": 32, "ulonglong": 64, "short": 16, "long": 32, "longlong": 64}


def files_of(descriptor, tag):
    return [os.path.join(ROOT, each.get("name")) for each in descriptor.iterfind(f"{tag}/localfile")]


def ids(elements, key="id"):
    return [each.get(key) for each in elements]


def doubles(words):
    return sorted({word for word in words if words.count(word) > 1})


def is_of(type_, text):
    """Whether a value's text is one of that type."""
    if type_ in BITS:
        span = 1 << BITS[type_]
        low = 0 if type_.startswith(("o", "u")) else -span // 2
        try:
            return low <= int(text, 0) < low + span
        except ValueError:
            return False
    if type_ in ("double", "float"):
        return re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text) is not None
    return type_ != "boolean" or text in ("true", "false")


# A rule yields what is wrong in a descriptor.


def an_event_is_configured_allocated_or_an_execparam(root):
    for each in root.iter():
        kinds = {kind.get("kindtype") for kind in each if kind.tag in ("kind", "configurationkind")}
        if "event" in kinds and kinds.isdisjoint({"configure", "allocation", "execparam"}):
            yield each.get("id")


def a_message_is_nothing_else(root):
    for each in root.iter():
        kinds = [kind.get("kindtype") for kind in each if kind.tag in ("kind", "configurationkind")]
        if "message" in kinds and len(kinds) > 1:
            yield each.get("id")


def names_of_properties_are_unique(root):
    if root.tag == "properties":
        yield from doubles([each.get("name") for each in root if each.tag in PROPERTIES])
        for struct in root.iter("struct"):
            yield from doubles([each.get("name") for each in struct.iter("simple")])


def a_value_is_of_its_type_in_its_range_and_one_of_those_named(root):
    for simple in root.iter("simple"):
        type_, value, limits = simple.get("type"), simple.findtext("value"), simple.find("range")
        named = ids(simple.iter("enumeration"), "value")
        texts = [value, *named, *(limits.attrib.values() if limits is not None else ())]
        good = all(text is None or is_of(type_, text) for text in texts)
        if good and value is not None and named:
            good = value in named
        if good and limits is not None:
            low, high = float(limits.get("min")), float(limits.get("max"))
            good = low <= high and (value is None or low <= float(value) <= high)
        if not good:
            yield simple.get("id")


def every_interface_is_declared(root):
    if root.tag == "softwarecomponent":
        declared = set(ids(root.find("interfaces"), "repid"))
        yield from {each.get("repid") for each in root.iter() if each.get("repid")} - declared


def ports_have_names_of_their_own_and_messages_come_in_by_ports_of_both_ways(root):
    uses, provides = list(root.iter("uses")), list(root.iter("provides"))
    for names in (ids(uses, "usesname"), ids(provides, "providesname")):
        yield from doubles(names)
        yield from (name for name in names if not name)
    for each in provides:
        both = each.get("providesname") in ids(uses, "usesname")
        if (each.get("repid") == MESSAGES) != both:
            yield each.get("providesname")


def files_and_entry_point_are_there(root):
    if root.tag == "softpkg":
        tags = ("propertyfile", "descriptor", "implementation/code")
        paths = [path for tag in tags for path in files_of(root, tag)]
        paths += [os.path.join(ROOT, each.text) for each in root.iter("entrypoint")]
        yield from (path for path in paths if not os.path.exists(path))


def an_implementation_says_what_it_runs_on(root):
    for each in root.iter("implementation"):
        if all(each.find(tag) is None for tag in ("os", "processor", "dependency")):
            yield each.get("id")


def a_package_has_an_id_and_a_version_as_usual(root):
    if root.tag == "softpkg":
        if not re.fullmatch(r"DCE:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", root.get("id")):
            yield root.get("id")
        if not re.fullmatch(r"\d+(\.\d+)*", root.get("version")):
            yield root.get("version")


def properties_want_a_property_set_and_events_their_port(root):
    for path in files_of(root, "propertyfile") if root.tag == "softpkg" else ():
        component = ElementTree.parse(files_of(root, "descriptor")[0]).getroot()
        if "PropertySet" not in ids(component.find("interfaces"), "name"):
            yield "PropertySet"
        events = [each for each in ElementTree.parse(path).iter() if each.get("kindtype") == "event"]
        ports = {(each.get("usesname"), each.get("repid")) for each in component.iter("uses")}
        if events and ("propEvent", EVENT_CHANNEL) not in ports:
            yield "propEvent"


def component_files_are_used_and_known(root):
    listed = set(ids(root.iter("componentfile")))
    yield from listed ^ set(ids(root.iter("componentfileref"), "refid"))


def instances_that_are_referred_to_are_there(root):
    known = ids(root.iter("componentinstantiation"))
    yield from doubles(known)
    yield from set(ids(root.iter("componentinstantiationref"), "refid")) - set(known)


def components_are_found_by_names_of_their_own(root):
    names = ids(root.iterfind(".//findcomponent/namingservice"), "name")
    yield from doubles(names)
    yield from (name for name in names if not (name or "").strip())
    if len(names) != len(list(root.iter("findcomponent"))):
        yield "findcomponent"


STRUCT = '<properties><struct id="s"><simple id="a" name="n" type="%s">%s</simple>%s</struct></properties>'
PORTS = "<softwarecomponent><ports>%s</ports><interfaces/></softwarecomponent>"
PACKAGE = '<softpkg id="%s" version="%s">%s</softpkg>'
PARTS = "<assembly>%s</assembly>"
FIND = '<findcomponent><namingservice name="%s"/></findcomponent>'
BREAKS = [
    (
        an_event_is_configured_allocated_or_an_execparam,
        STRUCT
        % ("long", "", '<configurationkind kindtype="property"/><configurationkind kindtype="event"/>'),
        ["s"],
    ),
    (
        an_event_is_configured_allocated_or_an_execparam,
        '<properties><simple id="a"><kind kindtype="event"/></simple></properties>',
        ["a"],
    ),
    (
        a_message_is_nothing_else,
        '<properties><struct id="s"><configurationkind kindtype="message"/><configurationkind'
        ' kindtype="configure"/></struct></properties>',
        ["s"],
    ),
    (
        names_of_properties_are_unique,
        '<properties><simple id="a" name="x"/><struct id="b" name="x"/></properties>',
        ["x"],
    ),
    (
        names_of_properties_are_unique,
        STRUCT % ("long", "", '<simple id="b" name="n" type="long"/>'),
        ["n"],
    ),
    *(
        (a_value_is_of_its_type_in_its_range_and_one_of_those_named, STRUCT % (type_, body, ""), ["a"])
        for type_, body in (
            ("ulong", "<value>-1</value>"),
            ("double", "<value>nan</value>"),
            ("boolean", "<value>yes</value>"),
            ("long", '<value>7</value><range min="8" max="9"/>'),
            ("long", '<range min="9" max="8"/>'),
            ("double", '<range min="low" max="8"/>'),
            ("string", '<value>a</value><enumerations><enumeration value="b"/></enumerations>'),
        )
    ),
    (every_interface_is_declared, PORTS % '<uses usesname="a" repid="IDL:x:1.0"/>', ["IDL:x:1.0"]),
    (
        ports_have_names_of_their_own_and_messages_come_in_by_ports_of_both_ways,
        PORTS % ('<uses usesname="a"/>' * 2),
        ["a"],
    ),
    (
        ports_have_names_of_their_own_and_messages_come_in_by_ports_of_both_ways,
        PORTS % f'<provides providesname="a" repid="{MESSAGES}"/>',
        ["a"],
    ),
    (
        files_and_entry_point_are_there,
        PACKAGE % ("", "", '<implementation><code><localfile name="none"/></code></implementation>'),
        [f"{ROOT}/none"],
    ),
    (an_implementation_says_what_it_runs_on, PACKAGE % ("", "", '<implementation id="i"/>'), ["i"]),
    (a_package_has_an_id_and_a_version_as_usual, PACKAGE % ("mine", "one", ""), ["mine", "one"]),
    (
        properties_want_a_property_set_and_events_their_port,
        PACKAGE
        % (
            "",
            "",
            '<propertyfile><localfile name="GppShmPlugin.prf.xml"/></propertyfile><descriptor>'
            '<localfile name="tests/data/portless.scd.xml"/></descriptor>',
        ),
        ["PropertySet", "propEvent"],
    ),
    (component_files_are_used_and_known, PARTS % '<componentfile id="c"/>', ["c"]),
    (component_files_are_used_and_known, PARTS % '<componentfileref refid="c"/>', ["c"]),
    (
        instances_that_are_referred_to_are_there,
        PARTS % '<componentinstantiationref refid="c"/>',
        ["c"],
    ),
    (components_are_found_by_names_of_their_own, PARTS % (FIND % "a" * 2), ["a"]),
    (components_are_found_by_names_of_their_own, PARTS % (FIND % " "), [" "]),
]
RULES = list(dict.fromkeys(rule for rule, _, _ in BREAKS))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_in_every_descriptor(rule):
    wrong = {path: list(rule(ElementTree.parse(path).getroot())) for path in DESCRIPTORS}
    assert len(wrong) >= 8 and not any(wrong.values())


@pytest.mark.parametrize("rule, broken, wrong", BREAKS, ids=lambda each: getattr(each, "__name__", ""))
def test_a_rule_finds_what_breaks_it(rule, broken, wrong):
    assert list(rule(ElementTree.fromstring(broken))) == wrong


def test_no_two_descriptors_have_the_same_id():
    found = [ElementTree.parse(path).getroot().get("id") for path in DESCRIPTORS]
    assert doubles([id_ for id_ in found if id_]) == []


# The project


NATURES = {
    "gov.redhawk.ide.natures.scaproject",
    "gov.redhawk.ide.natures.sca.component",  # of a device, too
    "org.python.pydev.pythonNature",
}


def test_the_project_has_natures_that_exist_and_builders_that_write_nothing():
    project = ElementTree.parse(os.path.join(ROOT, ".project")).getroot()
    assert project.findtext("name") == "GppShmPlugin"
    assert {each.text for each in project.find("natures")} == NATURES
    builders = {each.text for each in project.iterfind("buildSpec/buildCommand/name")}
    # These two only mark errors; others of REDHAWK's would write a build.sh and a spec file.
    assert builders == {"org.python.pydev.PyDevBuilder", "gov.redhawk.ide.builders.scaproject"}
    paths = ElementTree.parse(os.path.join(ROOT, ".pydevproject")).iter("path")
    assert [each.text for each in paths] == ["/GppShmPlugin/python"]


def test_an_export_runs_build_sh():
    """Else it looks for a .wavedev, and fails for want of one."""
    with open(os.path.join(ROOT, ".settings", "gov.redhawk.ide.sdr.ui.prefs")) as stream:
        assert set(stream.read().split()) == {"eclipse.preferences.version=1", "useBuild.sh=true"}
    with open(os.path.join(ROOT, ".gitignore")) as stream:
        assert "/.GppShmPlugin.wavedev" in stream.read().split()
