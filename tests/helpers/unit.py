"""The limits of the shipped systemd unit, as far as possible without systemd."""

import errno
import functools
import os
import re
import shutil

import pytest

from places import ROOT
from spawning import run_command
from watching import failing

UNIT = os.path.join(ROOT, "systemd", "redhawk-shmwatch.service")
_NUMBERS = f"/usr/include/{os.uname().machine}-linux-gnu/asm/unistd_64.h"

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs systemd-analyze, of the Debian package systemd"
)


def setting(name):
    """The words of all lines of a setting."""
    with open(UNIT) as stream:
        return " ".join(re.findall(f"^{name}=(.*)$", stream.read(), re.M)).split()


def limited(*writable, groups="--clear-groups", network=False, lacking=()):
    """The prefix of a command that runs with the unit's rights and file systems; needs root.

    writable  folders as in ReadWritePaths=; /dev/shm is one of them
    lacking   capabilities of the unit that the command does not get
    """
    kept = [name for name in setting("CapabilityBoundingSet") if name not in lacking]
    bounds = ",".join(["-all"] + ["+" + name[4:].lower() for name in kept])
    # ProtectSystem=strict; NoNewPrivileges=, UMask= and the capabilities.
    script = (
        'for each in $WRITABLE; do mount --bind "$each" "$each" || exit; done; '
        'mount -o remount,bind,ro / || exit; umask 077; unset WRITABLE; exec "$@"'
    )
    return (
        "unshare",
        "--mount",
        *(() if network else ("--net",)),
        "env",
        "WRITABLE=" + " ".join(map(str, writable)),
        "sh",
        "-c",
        script,
        "sh",
        "setpriv",
        f"--bounding-set={bounds}",
        "--no-new-privs",
        groups,
    )


@functools.lru_cache(None)
def system_calls():
    """For `Shmwatch(without=...)`: the calls that SystemCallFilter= refuses; empty if that is unknown."""
    if shutil.which("systemd-analyze") is None or not os.path.exists(_NUMBERS):
        return []
    groups, group = {}, None
    for line in run_command(["systemd-analyze", "syscall-filter"]).stdout.splitlines():
        if line.startswith("@"):
            group = groups.setdefault(line.strip(), [])
        elif line.startswith("    ") and not line.strip().startswith("#") and group is not None:
            group.append(line.strip())

    def calls(name):
        return {call for each in groups[name] for call in (calls(each) if each[0] == "@" else [each])}

    allowed, refused = setting("SystemCallFilter")
    with open(_NUMBERS) as stream:
        numbers = dict(re.findall(r"#define __NR_(\w+) (\d+)", stream.read()))
    kept = calls(allowed) - calls(refused.strip("~"))
    return failing([numbers[name] for name in numbers if name not in kept], errno.EPERM)
