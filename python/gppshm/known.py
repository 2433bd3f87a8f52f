"""What is known of each heap: its file, its creator, what was established of it, what was told."""

from gppshm import creator, kinship, processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional

    from gppshm import shmfs


class Stage(str):
    """How far a heap is known."""

    __slots__ = ()


SEEN = Stage("seen")
"""It was seen, and nothing is known of its creator."""
ALIVE = Stage("alive")
"""Its creator was seen alive, and is not known to have ended."""
ENDED = Stage("ended")
"""Its creator was seen alive, and has ended."""


class Known:
    """What is known of one file since it was first seen.

    stage     see above
    file_id   (device, inode); bytes, uid: as it was last seen
    creator, start  of the process that was seen alive as its creator (0: none was): its pid, as seen from
              here, and its start
    named     (file_id, start) of the process whose pid the name has, seen alive while that file lay there
    identity  what was established of the creator, unless it is void
    version   grows when the file is changed, or may have been: what was asked before is void then
    description, descends  of the creator, while it lived; whether it descends from the watcher's parent
    noted     of it, too, for what is given back after its death
    doubtful  a writer has let go of it since it was last looked at whether its creator still maps it
    asked     a question on it is under way
    attempts  so many tries in a row proved nothing
    since, trigger  when the death came that is being followed, and what told of it
    told      what was told of its present state
    vanished  when its name was first missed while its creator lived; 0 if it was not
    removed   the kernel told that the name was removed; `let_go`: and later, that a writer let go of it
    """

    __slots__ = (
        "asked",
        "attempts",
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
        "since",
        "stage",
        "start",
        "told",
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
        self.version = 0
        self.attempts = 0
        self.asked = self.doubtful = False
        self.since = since
        self.trigger = trigger
        self.told = ""
        self.vanished = 0.0
        self.removed = self.let_go = False
        self.forget_the_creator()

    @property
    def lives(self) -> bool:
        """Whether its creator was seen alive, and is not known to have ended."""
        return self.stage is ALIVE

    def forget_the_creator(self) -> None:
        """Nothing that was known of it holds any more."""
        self.stage = SEEN
        self.creator = self.start = 0
        self.identity: Optional[creator.Identity] = None
        self.description = processes.Description()
        self.descends = False
        self.noted = kinship.NOTHING
        self.version += 1

    def changed(self) -> None:
        """The file was, or may have been, changed: its creator has to be identified anew."""
        self.identity = None
        self.version += 1

    def see(self, seen: "shmfs.Sighting") -> bool:
        """Note what was seen; whether another file lies under the name than before."""
        other = self.file_id != seen.file_id
        if other:
            self.file_id = seen.file_id
            self.told = ""
            self.forget_the_creator()
        self.bytes, self.uid = seen.status.st_blocks * 512, seen.status.st_uid
        self.vanished = 0.0
        self.removed = self.let_go = False
        return other

    def follow(self, trigger: str, since: float) -> None:
        """Something came that may tell of its creator's death; tries that go on already go on."""
        if not self.attempts and self.stage is not ENDED:
            self.since, self.trigger = since, trigger
