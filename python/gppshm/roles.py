"""The role of a process in REDHAWK, from its command line.

REDHAWK starts components, devices and services with name/value pairs as arguments (from its sources, 2.3 and
3.0).  COMPONENT_IDENTIFIER is `<instantiation id>:<application>`, and the id may contain colons; for sandbox
components it is the id alone.  DOM_PATH is `<domain>/<application>`.  NAME_BINDING is the component's name.
Devices have a DEVICE_LABEL, services a SERVICE_NAME.

Limit: components that are shared libraries share one process, which is named ComponentHost_<device label>.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Sequence, Tuple


def named(words: "Sequence[str]", names: "Sequence[str]") -> "Dict[str, str]":
    """The values of these names on a command line: the word after the first occurrence of each.

    Other words may precede the pairs: an interpreter, or a debugger that runs the program.
    """
    values: Dict[str, str] = {}
    for name, value in zip(words, words[1:]):
        if name in names:
            values.setdefault(name, value)
    return values


def role(words: "Sequence[str]") -> "Tuple[str, str]":
    """The component and its application, "" if unknown; for a device or service its name."""
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
