"""redhawk-shminfo --holders: the holders of each heap, and unlinked memory that is still held."""

import os

from gppshm import held, processes, shmfs
from gppshm.cli import text

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Dict, Tuple

    from gppshm import snapshot


def survey(directory: shmfs.ShmDirectory, output: text.Output) -> "Tuple[held.Survey, int]":
    """Who holds what, and the exit status: 1, and an error on stderr, if /proc cannot be read."""
    try:
        return held.survey(directory), 0
    except OSError as error:
        output.error(f"/proc cannot be read: {error.strerror}: the holders of the memory are not known")
        return held.Survey(), 1


def show(
    directory: shmfs.ShmDirectory,
    shot: "snapshot.Snapshot",
    options: "argparse.Namespace",
    output: text.Output,
) -> int:
    size = text.size_format(options.format)
    found, result = survey(directory, output)
    descriptions: Dict[int, str] = {}

    def described(holder: held.Holder) -> str:
        if holder.pid not in descriptions:
            who = processes.describe(holder.pid)
            descriptions[holder.pid] = f"{text.escaped(who.user)}  {text.escaped(who.command)}"
        ways = [f"maps {size(holder.mapped)}"] if holder.mapped else []
        if holder.descriptors:
            ways.append(f"open {holder.descriptors} times" if holder.descriptors > 1 else "open once")
        return f"    {holder.pid}  {descriptions[holder.pid]}  ({', '.join(ways)})\n"

    output.put(text.usage_lines(shot, size))
    for entry in shot.entries:
        status = entry.sighting.status
        output.put(f"\n{text.escaped(entry.sighting.name)}\n  file size:   {size(status.st_size)}\n")
        if entry.verdict:
            output.put(f"  state:       {entry.verdict.state}: {text.escaped(entry.verdict.reason)}\n")
        error = entry.error
        holders = found.holders.get(entry.sighting.file_id, ())
        output.put("  holders:\n" if holders else "  holders:     none seen\n")
        output.put("".join([described(holder) for holder in holders]))
        if error and entry.is_heap:
            output.line_on_stderr(f"  error:       {text.escaped(error)}")
            result = 1
    total = sum(file.size for file in found.unlinked)
    if found.unlinked:
        output.put(f"\nunlinked, but still held: {size(total)}, files: {len(found.unlinked)}\n")
    else:
        output.put("\nunlinked, but still held: none seen\n")
    for file in found.unlinked:
        least = "" if file.exact else " mapped"
        name = text.escaped(file.name) or "(no name known)"
        output.put(f"  {name}  {size(file.size)}{least}  inode {file.inode}\n")
        if file.note:
            output.put(f"    {file.note}\n")
        output.put("".join([described(holder) for holder in file.holders]))
    if found.unseen:
        advice = ": root sees more" if os.geteuid() else ", not even by root"
        output.put(f"\nprocesses that could not be inspected: {len(found.unseen)}{advice}\n")
    if descriptions and not processes.available():
        output.put("users and commands are unknown: psutil is not installed\n")
    return result
