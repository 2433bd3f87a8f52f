"""Is this still told, when it comes thick?  So many of a kind within a minute are; the rest is counted.

A stranger can make files, and ask for what is refused, as fast as he likes.
"""

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Hashable, List, Optional

MOST = 100
MINUTE = 60.0
KINDS = 1000
"""So many kinds are told apart; then those whose minute is over are forgotten, with their count."""


class Sparing:
    """left_out  so many were not told so far

    May be asked from any thread.
    """

    def __init__(self, most: int = MOST, minute: float = MINUTE) -> None:
        self.left_out = 0
        self._most = most
        self._minute = minute
        self._kinds: Dict[Hashable, List[float]] = {}  # when its minute began, told and left out since

    def note(self, kind: "Hashable") -> "Optional[str]":
        """What is to be told with the next thing of that kind, mostly ""; None: it is left out."""
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
            words = "more like it are left out for a minute, and counted"
        return words
