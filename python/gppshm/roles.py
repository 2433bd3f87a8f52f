"""What a process is to REDHAWK, by its command line.

REDHAWK starts components, devices and services with name/value pairs as arguments (read in its sources,
2.3 and 3.0): COMPONENT_IDENTIFIER is `<instantiation id>:<application>`, of which the id may hold colons too,
and of the sandbox's components the id alone; DOM_PATH is `<domain>/<application>`; NAME_BINDING is the
component's name.  Devices have a DEVICE_LABEL, services a SERVICE_NAME.

Limit: components that are shared libraries share one process, which is named ComponentHost_<device label>.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Sequence, Tuple


def named(words: "Sequence[str]", names: "Sequence[str]") -> "Dict[str, str]":
    """The values of these names on a command line: what stands behind the first of each.

    Other words may stand before the pairs: those of an interpreter, or of a debugger that runs the program.
    """
    values: Dict[str, str] = {}
    for name, value in zip(words, words[1:]):
        if name in names:
            values.setdefault(name, value)
    return values


def role(words: "Sequence[str]") -> "Tuple[str, str]":
    """The component and its application, "" where the words do not tell; of a device or service its name."""
    values = named(words, _KEYS)
    identifier = values.get("COMPONENT_IDENTIFIER", "")
    if not identifier:
        return values.get("DEVICE_LABEL") or values.get("SERVICE_NAME", ""), ""
    application = ""
    if "DOM_PATH" in values:
        application = values["DOM_PATH"].partition("/")[2]
        identifier = identifier.rpartition(":")[0] or identifier
    return values.get("NAME_BINDING") or identifier, application


_KEYS = ("COMPONENT_IDENTIFIER", "NAME_BINDING", "DOM_PATH", "DEVICE_LABEL", "SERVICE_NAME")
