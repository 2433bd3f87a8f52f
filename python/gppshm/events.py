"""The events and counts of a watcher."""

import time
from bisect import bisect_left

from gppshm import creator, processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Tuple


class Kind(str):
    """The kind of an `Event`."""

    __slots__ = ()


REMOVED = Kind("removed")
WOULD_REMOVE = Kind("would remove")
FAILED = Kind("failed")
"""An orphan that could not be unlinked, or a heap that could not be opened; reported once per reason."""
UNPROVEN = Kind("unproven")
"""All tries ended without a proof.  Kept, tried again at each rescan; reported once per reason."""
CLEANED = Kind("removed by others")
"""A creator died and left its heap, and another process or a person unlinked it first."""
RETURNED = Kind("given back")
"""More memory of a removed heap came back, while peers are attached, than its removal reported."""
UNLINKED = Kind("unlinked by others")
"""A heap was unlinked while its creator lives and maps it."""
TROUBLE = Kind("trouble")
"""A trigger is missing or has lost events; the reason says what replaces it.  Reported once until over."""

OF_WHAT_STAYS = (FAILED, UNPROVEN, UNLINKED, TROUBLE)
"""Kinds that other users can cause without limit and that changed nothing; they are rate-limited."""

KINDS = (REMOVED, WOULD_REMOVE, FAILED, UNPROVEN, CLEANED, RETURNED, UNLINKED, TROUBLE)


class Event:
    """One event.

    time        seconds since 1970, for display only
    latency     seconds from the death (see `Watcher`) to the end of the action
    trigger     "close", "pidfd", "created", "rescan"; "" for TROUBLE and UNLINKED
    device, inode  of the file; 0 if it was not inspected
    bytes       allocated by the file when it was last inspected
    uid         of the file's owner; -1 if it was not inspected
    creator     pid in the header or the name; `command`, `arguments` and `user` were recorded while it lived
    died        how the creator ended, such as "killed by SIGSEGV"; "" if the kernel does not report it
    attached    (pid, command) of the processes that keep the memory of a removed heap
    given_back  bytes given back at once while they are attached; given_back_later: after that
    in_use      bytes in blocks in use; they come back when the peers release them
    left        bytes that the file still takes; 0 if nothing was given back
    not_given_back  why nothing, or not everything, can be given back; else ""
    """

    __slots__ = (
        "arguments",
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
        self.arguments: Tuple[str, ...] = ()
        self.user = processes.UNKNOWN
        self.died = ""
        self.attached: List[Tuple[int, str]] = []
        self.given_back = self.given_back_later = self.in_use = self.left = 0
        self.not_given_back = ""


RETURNS = ("given_back", "given_back_later", "in_use", "left", "not_given_back")
"""Of an Event, what changes after the removal."""


class Latencies:
    """A histogram of removal times, from the death to the unlink.

    counts   removals up to the limit of the same index and above the one before; the last: above all limits
    seconds  the sum
    """

    LIMITS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

    def __init__(self) -> None:
        self.counts = [0] * (len(self.LIMITS) + 1)
        self.seconds = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(self.LIMITS, seconds)] += 1
        self.seconds += seconds


class Counts:
    """Counts of a watcher since its start.

    latencies  of heaps whose creator's death was an event; a rescan does not know when the creator died
    cleaned, cleaned_bytes  heaps of dead creators that other processes unlinked first
    given_back, given_back_later  bytes of removed heaps given back at once while peers are attached, and
                after that
    returning, in_use  number of removed heaps kept open to give back more, and the bytes in use in them
    longest_step  seconds of the longest step of the engine, without waiting for events
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
