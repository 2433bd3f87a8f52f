"""Verdicts for a command that may not hang: a child looks at processes, and is given up if it hangs."""

from gppshm import creator, procfs, supervised

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Sequence

    from gppshm import shmfs


class Judge:
    """Judges what was seen; for a single-threaded process.

    passed_over  pids of processes that did not answer, so far
    """

    def __init__(self, proc_root: str = "/proc") -> None:
        self.passed_over: List[int] = []
        self._proc_root = proc_root

    def __call__(self, seen: "Sequence[shmfs.Sighting]") -> "List[creator.Verdict]":
        """A verdict on each; UNKNOWN where processes cannot be looked at."""

        def look() -> "List[object]":
            host = procfs.Processes(self._proc_root)
            return [creator.judge(each, host).plain() for each in seen]

        try:
            plain, passed = supervised.call(look)
        except supervised.Failed as error:
            why = f"the processes of this host cannot be looked at: {error}"
            return [creator.Verdict(creator.UNKNOWN, why) for _ in seen]
        self.passed_over = sorted({*self.passed_over, *passed})
        return [creator.verdict_of(each) for each in plain]
