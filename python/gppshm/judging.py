"""Verdicts for a command that must not hang: a child inspects processes, and is replaced if it hangs."""

import errno

from gppshm import creator, procfs, supervised

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Sequence

    from gppshm import shmfs


class Judge:
    """Judges sightings; for single-threaded processes.

    passed_over  pids of processes that blocked their reader so far (see supervised.Pool)
    """

    def __init__(self, proc_root: str = "/proc") -> None:
        self._passed_over: Dict[int, int] = {}
        self._proc_root = proc_root

    @property
    def passed_over(self) -> "List[int]":
        return sorted(self._passed_over)

    def inspect(self, act: "Callable[[], Any]") -> "Any":
        """Run `act`, which inspects processes, in a child and return its result, which must be plain (see
        marshal).

        Raises its OSError, and OSError if it cannot be run.
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
        """One verdict per sighting; UNKNOWN if processes cannot be inspected."""

        def judge_all() -> "List[object]":
            host = procfs.Processes(self._proc_root)
            return [creator.judge(each, host).plain() for each in seen]

        try:
            plain = self.inspect(judge_all)
        except OSError as error:
            why = f"the processes of this host cannot be inspected: {error.strerror}"
            return [creator.Verdict(creator.UNKNOWN, why) for _ in seen]
        return [creator.verdict_of(each) for each in plain]
