"""Short forms of command lines for messages and lists.

REDHAWK passes object references of several hundred digits, and users pass properties of any number and
length.  None of that identifies a process.
"""

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Sequence

LIMIT = 200
"""Characters of a short form, at most."""
WORD = 80
"""Characters of one word of it, at most."""
CUT = "..."

SHOWN = ("NAME_BINDING", "COMPONENT_IDENTIFIER", "DEVICE_LABEL", "SERVICE_NAME", "DOM_PATH")
"""REDHAWK's arguments that identify a process, most specific first; each is followed by its value."""

_PAIR = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+|PROFILE|EXEC")
_REFERENCE = re.compile(r"IOR:[0-9A-Fa-f]+")


def short(words: "Sequence[str]") -> str:
    """The program and the arguments that identify the process; "" for no words.

    For a process that REDHAWK started this is everything before the first of its name/value pairs (an
    interpreter and its script, for example), and the pairs in SHOWN.  Otherwise it is the command line.
    Object references are shortened, words are cut to WORD and the result to LIMIT characters; CUT marks
    a cut.
    """
    parts = list(words)
    pairs = [number for number in range(1, len(parts) - 1) if parts[number] in SHOWN]
    if pairs:
        first = next(number for number in range(1, len(parts)) if _PAIR.fullmatch(parts[number]))
        parts = parts[:first] + _shown(parts)
    # A million words are not joined first.
    text = " ".join([_word(part) for part in parts[: LIMIT + 1] if part])
    return _cut(text, LIMIT)


def _shown(words: "List[str]") -> "List[str]":
    found: List[str] = []
    for name in SHOWN:
        if name in words[1:-1]:
            found += [name, words[words.index(name, 1) + 1]]
    return found


def _word(word: str) -> str:
    # Everything after the first digits is cut.
    return _cut(_REFERENCE.sub("IOR:" + CUT, word[: 10 * WORD]), WORD)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - len(CUT)] + CUT
