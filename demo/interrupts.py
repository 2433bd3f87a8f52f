"""Ctrl-C, SIGTERM and the like end the demonstration where it `check`s for them, and nowhere else.

So nothing is ever half started or half removed, and no exception gets lost in a call of omniORB's.
"""

import signal

_came = False


def _note(number: int, frame: object) -> None:
    global _came
    _came = True


def wait_for_check() -> None:
    """From now on."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, _note)


def check() -> None:
    """KeyboardInterrupt if one has come since the last time."""
    global _came
    if _came:
        _came = False
        raise KeyboardInterrupt
