"""Man pages in roff, from parsers, settings and properties; with EXAMPLES, FILES and SEE."""

import argparse
import re
import xml.etree.ElementTree as xml

from gppshm import __version__
from gppshm.redhawk import settings as ini

EXAMPLES = {
    "redhawk-shminfo": (
        ("redhawk-shminfo", "lists the heaps of this host"),
        ("redhawk-shminfo --sort=size --format=k", "the largest first, in KiB"),
        (
            "redhawk-shminfo --holders heap-4430",
            "who holds this heap, and what was unlinked but is still held",
        ),
        ("redhawk-shminfo --check && echo whole", "checks every heap, and that no lock is held by the dead"),
        ("redhawk-shminfo --domain REDHAWK_DEV", "every host of a domain, worst first"),
    ),
    "redhawk-shmclean": (
        ("redhawk-shmclean --dry-run --verbose", "what would be removed, and why"),
        ("redhawk-shmclean", "removes every orphaned heap"),
        ("redhawk-shmclean heap-4430", "this heap only, if its creator is proven dead"),
        (
            "redhawk-shmclean --reclaim --dry-run",
            "how much memory of orphans with attached peers could be given back",
        ),
    ),
    "redhawk-shmwatch": (
        ("redhawk-shmwatch", "cleans up after every process of this host"),
        ("redhawk-shmwatch --scope children --parent $(pgrep -o GPP)", "after descendants of the GPP only"),
        ("redhawk-shmwatch --dry-run --json", "reports only"),
    ),
    "redhawk-shmtop": (
        ("redhawk-shmtop --sort=size", "the largest heaps first"),
        ("redhawk-shmtop --once | head", "one frame, for a script"),
        ("redhawk-shmtop --domain REDHAWK_DEV", "every host of a domain"),
    ),
}

FILES = (
    ("/dev/shm/heap-PID", "the heap of the process PID; --root names another directory"),
    ("/proc", "the processes of the host, and the heaps that they hold"),
)

SEE = (
    ("redhawk-shminfo", 1),
    ("redhawk-shmclean", 1),
    ("redhawk-shmwatch", 1),
    ("redhawk-shmtop", 1),
    ("GppShmPlugin.ini", 5),
    ("GppShmPlugin", 7),
)


def escaped(text):
    """`text` as roff prints it unchanged, hyphens as they are typed."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("^", "\\(ha")
    text = text.replace("`", "\\(ga").replace("~", "\\(ti")
    return re.sub(r"^\.", r"\\&.", text, flags=re.M)


class Page:
    """A page that is written from the top."""

    def __init__(self, name, section, what):
        self.name = name
        self.lines = [
            f'.TH "{escaped(name.upper())}" {section} "" "gppshm {__version__}" "GppShmPlugin"',
            ".SH NAME",
            f"{escaped(name)} \\- {escaped(what)}",
        ]

    def section(self, title, *paragraphs):
        self.lines.append(f'.SH "{title}"')
        for number, paragraph in enumerate(paragraphs):
            self.lines += [".PP"] * bool(number) + [escaped(" ".join(paragraph.split()))]

    def item(self, bold, text, slanted=""):
        self.lines.append(".TP")
        self.lines.append(f"\\fB{escaped(bold)}\\fR" + (f" \\fI{escaped(slanted)}\\fR" if slanted else ""))
        self.lines.append(escaped(" ".join(text.split())) or "\\&")

    def see_also(self):
        self.lines.append('.SH "SEE ALSO"')
        others = [(name, section) for name, section in SEE if name != self.name]
        self.lines.append(",\n".join(f"\\fB{escaped(name)}\\fR({section})" for name, section in others))

    def __str__(self):
        return "\n".join(self.lines) + "\n"


def options(parser):
    """(its words, the value's name or "", what it does) of each option that is shown."""
    formatter = argparse.HelpFormatter(parser.prog, width=10000)
    for action in parser._actions:
        if action.help is argparse.SUPPRESS or not action.option_strings:
            continue
        text = formatter._expand_help(action)
        metavar = "" if action.nargs == 0 else action.metavar or "|".join(action.choices)
        yield action.option_strings, metavar, text


def command(parser):
    """The page of the command that `parser` parses for; with all of its --help."""
    paragraphs = parser.description.split("\n\n")
    what = " ".join(paragraphs[0].split()).partition(". ")[0].rstrip(".")
    page = Page(parser.prog, 1, what[0].lower() + what[1:])
    usages = (parser.usage % {"prog": parser.prog}).splitlines()
    page.lines.append(".SH SYNOPSIS")
    for number, usage in enumerate(usages):
        words = usage.split()
        rest = " ".join(words[1:] if words[0] == parser.prog else words)
        start = f"\\fB{escaped(parser.prog)}\\fR " if words[0] == parser.prog else ""
        page.lines += [".br"] * bool(number) + [start + escaped(rest)]
    page.section("DESCRIPTION", *paragraphs)
    page.lines.append(".SH OPTIONS")
    for names, metavar, text in options(parser):
        page.item(", ".join(names), text, metavar)
    for group in parser._mutually_exclusive_groups:
        either = [action.option_strings[-1] for action in group._group_actions]
        page.lines += [".PP", "Only one of " + escaped(", ".join(either)) + " can be given."]
    notes, status = [], ""
    for paragraph in re.split(r"\n(?=[A-Z])|\n(?=exit status)", parser.epilog or ""):
        paragraph = " ".join(paragraph.split())
        if paragraph.lower().startswith("exit status:"):
            status = paragraph.partition(":")[2].strip()
        elif paragraph:
            notes.append(paragraph)
    page.section("EXIT STATUS", status)
    if notes:
        page.section("NOTES", *notes)
    page.lines.append(".SH EXAMPLES")
    for line, meaning in EXAMPLES[parser.prog]:
        page.item(line, meaning)
    page.lines.append(".SH FILES")
    for file, meaning in FILES:
        page.item(file, meaning)
    page.see_also()
    return str(page)


def settings():
    """The page of GppShmPlugin.ini."""
    page = Page("GppShmPlugin.ini", 5, "settings of the GPP plugin and of the device GppShmPlugin")
    page.section(
        "DESCRIPTION",
        "GppShmPlugin.ini lies beside the executable of the plugin (dev/devices/GPP/plugins/GppShmPlugin in"
        " the SDRROOT) or of the device (dev/devices/GppShmPlugin/python), and is read at start. It is"
        f" optional. Settings are lines NAME = VALUE below the line [{ini.SECTION}]. Missing settings have"
        " their defaults. Invalid settings are logged and have their defaults, too.",
    )
    page.lines.append(".SH SETTINGS")
    for setting in ini.SETTINGS:
        whose = "" if setting.name in ini.OF_THE_DEVICE else " Of the plugin only."
        page.item(
            setting.name, f"{setting.comment} Range: {setting.range}. Default: {setting.default}.{whose}"
        )
    page.lines += [".SH EXAMPLE", ".nf", f"[{ini.SECTION}]", "shm_free = 5%", "rescan = 60", ".fi"]
    page.see_also()
    return str(page)


def properties(path):
    """The page of the device, of its PRF at `path`."""
    root = xml.parse(path).getroot()
    page = Page("GppShmPlugin", 7, "properties and messages of the REDHAWK device GppShmPlugin")
    page.section(
        "DESCRIPTION",
        root.findtext("description"),
        "A waveform reserves memory by a usesdevice dependency on the properties that can be allocated."
        " Readonly properties cannot be configured. Changes of event properties are sent by the port"
        " propEvent, messages by MessageEvent_out.",
    )
    titles = {False: "PROPERTIES", True: "MESSAGES"}
    for messages, title in titles.items():
        page.lines.append(f".SH {title}")
        for element in root:
            kinds = [kind.get("kindtype") for kind in element.iter("kind")]
            kinds += [kind.get("kindtype") for kind in element.iter("configurationkind")]
            if element.tag != "description" and ("message" in kinds) == messages:
                _property(page, element, kinds)
    page.see_also()
    return str(page)


def _property(page, element, kinds):
    value = element.get("type") or {"struct": "struct", "structsequence": "sequence of structs"}[element.tag]
    facts = [value, element.get("mode", "readwrite")]
    facts += [KINDS[kind] for kind in kinds if kind in KINDS]
    text = f"({', '.join(facts)}) {_described(element)}"
    fields = element
    if element.tag == "structsequence":
        fields = element.find("struct")
        text += f" {_described(fields)}"
    page.item(element.get("id"), text, element.get("name"))
    if fields.find("simple") is not None:
        page.lines.append(".RS")
        for field in fields.findall("simple"):
            page.item(field.get("id"), _described(field), field.get("type"))
        page.lines.append(".RE")


KINDS = {"allocation": "can be allocated", "event": "event"}


def _described(element):
    units, default = element.findtext("units"), element.findtext("value")
    text = element.findtext("description", "")
    text += f" Unit: {units}." if units else ""
    return text + (f" Default: {default}." if default else "")
