"""Verdicts for a command that may not hang: a child looks at processes, and is given up if it hangs."""

import errno

from gppshm import creator, procfs, supervised

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Sequence

    from gppshm import shmfs


class Judge:
    """Judges what was seen; for a single-threaded process.

    passed_over  pids of processes that did not answer, so far (see supervised.Pool)
    """

    def __init__(self, proc_root: str = "/proc") -> None:
        self._passed_over: Dict[int, int] = {}
        self._proc_root = proc_root

    @property
    def passed_over(self) -> "List[int]":
        return sorted(self._passed_over)

    def look(self, act: "Callable[[], Any]") -> "Any":
        """What `act`, which looks at processes, returns in a child; it must be plain (see marshal).

        An OSError of it is one here, too, and so is that it cannot be done.
        """

        def guarded() -> "Any":
            try:
                return True, act()
            except OSError as error:
                return False, (error.errno or errno.EIO, str(error.strerror))

        try:
            (good, answer), _ = supervised.call(guarded, self._passed_over)
        except supervised.Failed as error:
            raise OSError(errno.EIO, str(error)) from None
        if not good:
            raise OSError(*answer)
        return answer

    def __call__(self, seen: "Sequence[shmfs.Sighting]") -> "List[creator.Verdict]":
        """A verdict on each; UNKNOWN where processes cannot be inspected."""

        def look() -> "List[object]":
            host = procfs.Processes(self._proc_root)
            return [creator.judge(each, host).plain() for each in seen]

        try:
            plain = self.look(look)
        except OSError as error:
            why = f"the processes of this host cannot be inspected: {error.strerror}"
            return [creator.Verdict(creator.UNKNOWN, why) for _ in seen]
        return [creator.verdict_of(each) for each in plain]
