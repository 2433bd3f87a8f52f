"""Thresholds as operators write them, and alarms when a metric crosses one."""

import re

from gppshm.capacity import MB

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional

LIMIT = 1 << 60
"""No machine has more memory than this; in bytes."""

_UNITS = {
    "": MB,
    "b": 1,
    "k": 1 << 10,
    "kb": 1 << 10,
    "kib": 1 << 10,
    "m": MB,
    "mb": MB,
    "mib": MB,
    "g": 1 << 30,
    "gb": 1 << 30,
    "gib": 1 << 30,
    "t": 1 << 40,
    "tb": 1 << 40,
    "tib": 1 << 40,
}

_WRITTEN = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)[ \t]*([A-Za-z]*|%)", re.ASCII)

EXPECTED = "write it as 64, 64 MB, 1.5 GB, 5% or off"


class Threshold:
    """A number of bytes, a share of the file system, or none.

    text  for display; `parse` reads it
    """

    __slots__ = ("bytes", "share", "text")

    def __init__(self, text: str, amount: "Optional[int]" = None, share: "Optional[float]" = None) -> None:
        self.text = text
        self.bytes = amount
        self.share = share

    def __repr__(self) -> str:
        return f"Threshold({self.text!r})"

    def limit(self, size: int) -> "Optional[int]":
        """In bytes, on a file system of `size` bytes (0: no size); None if there is none."""
        if self.share is not None:
            return int(size * self.share / 100) if size else None
        return self.bytes


OFF = Threshold("off")


def parse(text: str) -> Threshold:
    """The threshold written as `64` (MB), `64 MB`, `1.5GB`, `5%` or `off`.

    ValueError with a sentence for anything else: negative, NaN, above 100%.
    """
    text = text.strip()
    if text.lower() == "off":
        return OFF
    # Longer input is no typing error; do not match the pattern against it.
    match = _WRITTEN.fullmatch(text) if len(text) <= 32 else None
    if match is None:
        raise ValueError("it is no threshold: " + EXPECTED)
    number, unit = float(match.group(1)), match.group(2).lower()
    written = f"{number:.10g}"
    if unit == "%":
        if number > 100:
            raise ValueError("it is more than 100%")
        return Threshold(written + "%", share=number)
    if unit not in _UNITS:
        raise ValueError("its unit is not known: " + EXPECTED)
    amount = number * _UNITS[unit]
    if amount > LIMIT:
        raise ValueError("it is more memory than there can be")
    name = {1: "B", 1 << 10: "kB", MB: "MB", 1 << 30: "GB", 1 << 40: "TB"}[_UNITS[unit]]
    return Threshold(f"{written} {name}", int(amount))


class Alarm:
    """Whether a level has crossed its limit; it ends only beyond a margin, so that it does not flap.

    below  True: the level must not fall below the limit; False: it must not rise above it
    """

    __slots__ = ("_below", "_limit", "raised")

    def __init__(self, below: bool) -> None:
        self.raised = False
        self._below = below
        self._limit: Optional[int] = None

    def judge(self, level: int, limit: "Optional[int]", most: int) -> bool:
        """Whether the alarm is on now; `most` is the highest possible level; all in bytes.

        A new limit is judged afresh.  The margin is a tenth of the limit, at least 1 MB.
        """
        if limit != self._limit:
            self.raised = False
            self._limit = limit
        if limit is None:
            return False
        margin = max(limit // 10, MB) if self.raised else 0
        if self._below:
            self.raised = level < max(limit, min(limit + margin, most))
        else:
            self.raised = level > max(0, limit - margin)
        return self.raised
