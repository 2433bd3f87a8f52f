"""What is known of each heap: file, creator, identity, and what was reported."""

import itertools

from gppshm import creator, kinship, processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional

    from gppshm import shmfs


class Stage(str):
    """How much is known of a heap."""

    __slots__ = ()


SEEN = Stage("seen")
"""Nothing is known of its creator."""
ALIVE = Stage("alive")
"""Its creator was seen alive, and is not known to have ended."""
ENDED = Stage("ended")
"""Its creator was seen alive, and has ended."""
OTHERS = Stage("others")
"""As ENDED, and it is out of scope: never removed."""


_versions = itertools.count(1)


class Known:
    """What is known of one file since it was first seen.

    stage     see above
    file_id   (device, inode); bytes, uid: at the last inspection
    creator, start  pid (in this pid namespace) and start of the process that was seen alive as the creator;
              0 if there was none
    named     (file_id, start) of the process with the name's pid, if it was alive while that file existed
    identity  of the creator; None if it is void or was never established
    version   a new number whenever the file is or may have been changed; older questions are void then
    description, descends  of the creator, while it lived; whether it descends from the watcher's parent
    noted     facts about the creator for giving memory back after its death
    attended  changes of the file were reported from before the last question about it on
    doubtful  a writer closed the file since it was last checked that the creator maps it
    asked     a question about it is pending
    attempts  tries in a row without a proof
    since, trigger  when the present death was noticed, and by which trigger
    reported  what was reported about its current state
    vanished  when its name was first missed while its creator lived; else 0
    removed   an event reported that the name was removed; `let_go`: and a later one, that a writer closed it
    """

    __slots__ = (
        "asked",
        "attempts",
        "attended",
        "bytes",
        "creator",
        "descends",
        "description",
        "doubtful",
        "file_id",
        "identity",
        "let_go",
        "named",
        "noted",
        "removed",
        "reported",
        "since",
        "stage",
        "start",
        "trigger",
        "uid",
        "vanished",
        "version",
    )

    def __init__(self, trigger: str, since: float) -> None:
        self.file_id = (0, 0)
        self.named = (0, 0), 0
        self.bytes = 0
        self.uid = -1
        self.version = next(_versions)
        self.attempts = 0
        self.asked = self.attended = self.doubtful = False
        self.since = since
        self.trigger = trigger
        self.reported = ""
        self.vanished = 0.0
        self.removed = self.let_go = False
        self.forget_the_creator()

    @property
    def lives(self) -> bool:
        """Whether its creator was seen alive and is not known to have ended."""
        return self.stage is ALIVE

    def forget_the_creator(self) -> None:
        """Forget everything about the creator."""
        self.stage = SEEN
        self.creator = self.start = 0
        self.identity: Optional[creator.Identity] = None
        self.description = processes.Description()
        self.descends = False
        self.noted = kinship.NOTHING
        self.version = next(_versions)

    def changed(self) -> None:
        """The file was or may have been changed: the creator has to be identified again."""
        self.identity = None
        self.version = next(_versions)

    def see(self, seen: "shmfs.Sighting") -> bool:
        """Store a sighting; whether the name has another file than before."""
        other = self.file_id != seen.file_id
        if other:
            self.file_id = seen.file_id
            self.reported = ""
            self.forget_the_creator()
        self.bytes, self.uid = seen.status.st_blocks * 512, seen.status.st_uid
        self.vanished = 0.0
        self.removed = self.let_go = False
        return other

    def follow(self, trigger: str, since: float) -> None:
        """Start tries after a possible death of the creator, unless they have started already."""
        if not self.attempts and self.stage is not ENDED:
            self.since, self.trigger = since, trigger
