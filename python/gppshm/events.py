"""What a watcher tells, and what it counts."""

import time
from bisect import bisect_left

from gppshm import creator, processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Tuple


class Kind(str):
    """What an `Event` tells."""

    __slots__ = ()


REMOVED = Kind("removed")
WOULD_REMOVE = Kind("would remove")
FAILED = Kind("failed")
"""An orphan that could not be unlinked, or a heap that could not be opened; told once until it changes."""
UNPROVEN = Kind("unproven")
"""After all tries it is not known whether the creator lives; kept, tried again at each rescan; told once."""
CLEANED = Kind("removed by others")
"""A creator died and left its heap, and somebody else (a GPP, a cleaner, a person) unlinked it first."""
RETURNED = Kind("given back")
"""Of a removed heap that processes are attached to more memory has come back than its removal told."""
UNLINKED = Kind("unlinked by others")
"""A heap was unlinked, and its creator lives on and maps it."""
TROUBLE = Kind("trouble")
"""A trigger is missing or has lost events; what stands in for it.  Told once until it is mended."""

OF_WHAT_STAYS = (FAILED, UNPROVEN, UNLINKED, TROUBLE)
"""What anybody may cause as often as he likes, and nothing was done about: of these not all are told."""

KINDS = (REMOVED, WOULD_REMOVE, FAILED, UNPROVEN, CLEANED, RETURNED, UNLINKED, TROUBLE)


class Event:
    """One thing that happened.

    time        seconds since 1970, to be shown; nothing is decided by it
    latency     seconds from the death (see `Watcher`) to when it was done
    trigger     "close", "pidfd", "created", "rescan"; "" of TROUBLE and UNLINKED
    device, inode  of the file; 0 if it was not seen
    bytes       of the file, allocated when it was last seen
    uid         of the file's owner; -1 if it was not seen
    creator     pid by the header or the name; `command`, its `words` and `user` as noted while it lived
    died        how the creator ended, "killed by SIGSEGV"; "" where the kernel does not tell
    attached    (pid, command) of those who keep the memory of a removed heap
    given_back  bytes of it that came back at once although they are attached; given_back_later: after that
    in_use      bytes of it in blocks in use, which come back when those who are attached let go of them
    left        bytes that it still takes; 0 where nothing was given back
    not_given_back  why nothing, or not all, can be given back; else ""
    """

    __slots__ = (
        "attached",
        "bytes",
        "command",
        "creator",
        "device",
        "died",
        "evidence",
        "given_back",
        "given_back_later",
        "in_use",
        "inode",
        "kind",
        "latency",
        "left",
        "name",
        "not_given_back",
        "reason",
        "time",
        "trigger",
        "uid",
        "user",
        "words",
    )

    def __init__(self, kind: Kind, reason: str, name: str = "") -> None:
        self.kind = kind
        self.reason = reason
        self.name = name
        self.time = time.time()
        self.latency = 0.0
        self.trigger = ""
        self.evidence = str(creator.NONE)
        self.device = 0
        self.inode = 0
        self.bytes = 0
        self.uid = -1
        self.creator = 0
        self.command = processes.UNKNOWN
        self.words: Tuple[str, ...] = ()
        self.user = processes.UNKNOWN
        self.died = ""
        self.attached: List[Tuple[int, str]] = []
        self.given_back = self.given_back_later = self.in_use = self.left = 0
        self.not_given_back = ""


RETURNS = ("given_back", "given_back_later", "in_use", "left", "not_given_back")
"""Of an Event, what changes after the removal."""


class Latencies:
    """How long removals took, from the death to the unlink.

    counts   so many took no longer than the limit of that number, and longer than the one before; the last
             took longer than all
    seconds  all together
    """

    LIMITS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

    def __init__(self) -> None:
        self.counts = [0] * (len(self.LIMITS) + 1)
        self.seconds = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(self.LIMITS, seconds)] += 1
        self.seconds += seconds


class Counts:
    """What a watcher has done so far.

    latencies  of heaps whose creator's death was told; of what a rescan found it is not known when it died
    cleaned, cleaned_bytes  heaps of the dead that somebody else unlinked first
    given_back, given_back_later  bytes of removed heaps that came back at once although processes are
                attached, and after that
    returning, in_use  so many removed heaps are kept open now, to give back what is in use in them: bytes
    longest_step  seconds that the longest step of the engine took, waiting for events left out
    """

    def __init__(self) -> None:
        self.latencies = Latencies()
        self.removed = 0
        self.fifos = 0
        self.bytes = 0
        self.cleaned = 0
        self.cleaned_bytes = 0
        self.given_back = 0
        self.given_back_later = 0
        self.returning = 0
        self.in_use = 0
        self.failures = 0
        self.rescans = 0
        self.wakeups = 0
        self.longest_step = 0.0
