"""Rate limit for log lines and events: MOST of each kind per minute; the rest is only counted.

Other users can create files, and send requests that are refused, as fast as they like.
"""

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Hashable, List, Optional

MOST = 100
MINUTE = 60.0
KINDS = 1000
"""Kinds that are kept; beyond that, those whose minute is over are forgotten, with their counts."""


class Sparing:
    """A rate limit by kind; callable from any thread.

    left_out  number of things left out so far
    """

    def __init__(self, most: int = MOST, minute: float = MINUTE) -> None:
        self.left_out = 0
        self._most = most
        self._minute = minute
        self._kinds: Dict[Hashable, List[float]] = {}  # start of its minute, let through and left out since

    def note(self, kind: "Hashable") -> "Optional[str]":
        """None if this thing is to be left out; else a remark to report with it, mostly ""."""
        now = time.monotonic()
        if kind not in self._kinds and len(self._kinds) >= KINDS:
            self._kinds = {each: of for each, of in list(self._kinds.items()) if now - of[0] < self._minute}
        since = self._kinds.setdefault(kind, [now, 0, 0])
        words = ""
        if now - since[0] >= self._minute:
            if since[2]:
                words = f"{since[2]:.0f} like it were left out before"
            since[:] = [now, 0, 0]
        if since[1] >= self._most:
            since[2] += 1
            self.left_out += 1
            return None
        since[1] += 1
        if since[1] == self._most:
            words = "further ones are only counted for a minute"
        return words
