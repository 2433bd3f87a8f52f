"""The grants of all devices of this host on one file system, published as file locks.

A claim is a read lock (F_OFD_SETLK) on a directory of the file system.  Its offset is the number of bytes
in use when its device had granted nothing, its length the granted bytes.  Any user can take one, in every
namespace, and /proc/locks shows all of them; no file and no permission is needed.  The kernel removes a lock
when the last process that has it open ends, so no claim outlives its device.  Read locks exclude nobody.

Limit: a claim proves that a living process made it, not that this process is a device.  A user who may start
a device, or fill the file system, can take as much from others by a claim.  Linux before 3.15 has no such
locks.
"""

import collections
import errno
import fcntl
import os
import time
from struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Counter, List, Tuple

MB = 1048576
PATIENCE = 0.05
"""Seconds to wait for another device, and to read the locks of the host, at most."""

# fcntl(2); the fcntl module names it from Python 3.9 on.
_F_OFD_SETLK = 37
_FLOCK = Struct("hhqqi4x")

# An offset is these 15 bits, 24 of MB in use, and 24 that are 0; no other lock is so far behind a file's end.
_TAG = 0x4753
_MOST = (1 << 24) - 1
_PAGE = 4096


class Claim:
    """The grants of one device, in whole MB, given in bytes.

    reserved  bytes granted
    baseline  bytes of the file system in use when nothing was granted
    """

    __slots__ = ("baseline", "reserved")

    def __init__(self, reserved: int, baseline: int) -> None:
        self.reserved = reserved
        self.baseline = baseline


class Claims:
    """The claims on the file system of the directory `root`, one of which is ours.  Not thread-safe.

    saw_all  whether the last read of other devices' claims was complete
    OSError if the directory cannot be opened.
    """

    def __init__(self, root: str, proc_root: str = "/proc") -> None:
        self._proc_root = proc_root
        # An open file description of its own: the lock ends with it.
        self._fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        device = os.fstat(self._fd).st_dev
        self._device = b"%02x:%02x" % (os.major(device), os.minor(device))  # as /proc/locks writes it
        self._own = (0, 0)
        self.saw_all = True

    def close(self) -> None:
        """Give up our claim."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def claim(self, reserved: int, baseline: int) -> None:
        """Change our claim to `reserved` bytes (0: none).

        What is claimed both before and after stays claimed in between, unless the baseline differs.  OSError
        if there can be no such lock.
        """
        place = _TAG << 48 | min(-(-baseline // MB), _MOST) << 24
        length = 1 + min(-(-reserved // MB), _MOST) if reserved else 0
        before_place, before = self._own
        if (place, length) == self._own:
            return
        if before and (place != before_place or not length):
            self._lock(fcntl.F_UNLCK, before_place, before)
            before = 0
        if length > before:
            self._lock(fcntl.F_RDLCK, place, length)
        elif length < before:
            self._lock(fcntl.F_UNLCK, place + length, before - length)
        self._own = place if length else 0, length

    def _lock(self, kind: int, start: int, length: int) -> None:
        fcntl.fcntl(self._fd, _F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, start, length, 0))

    def of_others(self) -> "List[Claim]":
        """The claims of other devices, as far as they are read within PATIENCE.  OSError: no /proc/locks."""
        end = time.monotonic() + PATIENCE
        found, more = self._read(end)
        if more and self.saw_all:
            # It was read in pieces and may have changed in between.
            found |= self._read(end)[0]
        found[self._own] -= 1
        return [
            Claim((length - 1) * MB, (place >> 24 & _MOST) * MB)
            for (place, length), count in found.items()
            for _ in range(count)
        ]

    def _read(self, end: float) -> "Tuple[Counter[Tuple[int, int]], bool]":
        """(offset, length) of all claims on this file system, and whether /proc/locks took several reads."""
        fd = os.open(self._proc_root + "/locks", os.O_RDONLY | os.O_CLOEXEC)
        pieces = []
        try:
            while time.monotonic() < end:
                pieces.append(os.read(fd, 65536))
                if not pieces[-1]:
                    break
        finally:
            os.close(fd)
        self.saw_all = bool(pieces) and not pieces[-1]
        text = b"".join(pieces)
        found: Counter[Tuple[int, int]] = collections.Counter()
        for line in text.splitlines():
            # 1: OFDLCK ADVISORY  READ -1 00:1b:1 5139451599843753984 5139451599843754984
            fields = line.split()
            if len(fields) == 8 and fields[1] == b"OFDLCK" and fields[3] == b"READ" and fields[7] != b"EOF":
                device, _, _ = fields[5].rpartition(b":")
                place, last = int(fields[6]), int(fields[7])
                if device == self._device and place >> 48 == _TAG and not place & _MOST:
                    if place < last <= place + _MOST:
                        found[place, last - place + 1] += 1
        return found, len(text) > _PAGE

    def take_turn(self) -> bool:
        """Wait up to PATIENCE until no other device is granting; whether that is so.  Ended by `end_turn`.

        Two devices that grant at once do no harm: each claims before it checks, so at worst both refuse.
        """
        end = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except OSError as error:
                left = end - time.monotonic()
                if error.errno not in (errno.EWOULDBLOCK, errno.EINTR) or left <= 0:
                    return False
            time.sleep(min(0.002, left))

    def end_turn(self) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_UN)
