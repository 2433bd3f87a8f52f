"""redhawk-shminfo --json: all that is known, as described in docs/shminfo-json.md and its JSON Schema."""

import json
import stat

from gppshm import held, locks, processes, shmfs
from gppshm.cli import shminfo_holders, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any, Dict, List, Sequence

    from gppshm import snapshot

SCHEMA = "gppshm.shminfo/1"

_TYPES = (
    (stat.S_ISREG, "file"),
    (stat.S_ISDIR, "directory"),
    (stat.S_ISLNK, "symlink"),
    (stat.S_ISFIFO, "fifo"),
    (stat.S_ISSOCK, "socket"),
    (stat.S_ISBLK, "block device"),
    (stat.S_ISCHR, "character device"),
)


def show(
    directory: shmfs.ShmDirectory,
    shot: "snapshot.Snapshot",
    options: "argparse.Namespace",
    output: text.Output,
) -> int:
    survey, result = shminfo_holders.survey(directory, output)
    heaps = []
    for entry, entry_locks in zip(shot.entries, locks.examine(directory, shot.entries)):
        holders = survey.holders.get(entry.sighting.file_id, ())
        record = _entry(entry, entry_locks, holders)
        heaps.append(record)
        if options.holders:
            record["holders"] = [_holder(holder) for holder in holders]
        unreadable = record["error"] is not None and (entry.is_heap or options.names)
        faulty = record["faults"] or any(lock.state is locks.DEAD for lock in entry_locks)
        if unreadable or (options.check and faulty):
            result = 1
    root, root_hex = text.decoded(shot.root)
    whole = {
        "schema": SCHEMA,
        "root": root,
        "root_hex": root_hex,
        "size": shot.usage.size,
        "free": shot.usage.free,
        "inodes": shot.usage.inodes,
        "free_inodes": shot.usage.free_inodes,
        "files": heaps,
        "unlinked": [_unlinked(file, options.holders) for file in survey.unlinked],
        "unlinked_size": sum(file.size for file in survey.unlinked),
        "unseen_processes": len(survey.unseen),
    }
    output.put(json.dumps(whole, indent=2) + "\n")
    return result


def _entry(
    entry: "snapshot.Entry", entry_locks: "List[locks.Lock]", holders: "Sequence[held.Holder]"
) -> "Dict[str, Any]":
    sighting, heap, verdict, header = entry.sighting, entry.heap, entry.verdict, entry.sighting.header
    status = sighting.status
    name, name_hex = text.decoded(sighting.name)
    readable = heap is not None and not entry.error
    creator_pid = verdict.creator if verdict else 0
    return {
        "name": name,
        "name_hex": name_hex,
        "kind": str(sighting.kind),
        "type": next((word for is_type, word in _TYPES if is_type(status.st_mode)), "file"),
        "device": status.st_dev,
        "inode": status.st_ino,
        "file_size": status.st_size,
        "allocated": status.st_blocks * 512,
        "user": text.user_name(status.st_uid),
        "group": text.group_name(status.st_gid),
        "uid": status.st_uid,
        "gid": status.st_gid,
        "mode": "%o" % stat.S_IMODE(status.st_mode),
        "error": entry.error or None,
        "version": header.version if header else None,
        "refcount": header.refcount if header else None,
        "creator": header.creator if header else None,
        "page_size": heap.page_size if heap and readable else None,
        "heap_size": heap.heap_size if heap and readable else None,
        "heap_used": heap.heap_used if heap and readable else None,
        "state": str(verdict.state) if verdict else None,
        "orphaned": entry.orphaned,
        "reason": verdict.reason if verdict else None,
        "evidence": str(verdict.evidence) if verdict else None,
        "lease": str(sighting.answer) if verdict else None,
        "creator_pid": creator_pid or None,
        "attached": [holder.pid for holder in holders if holder.pid != creator_pid],
        "superblocks": [
            {
                "offset": superblock.offset,
                "size": superblock.size,
                "recorded_size": superblock.recorded,
                "used": superblock.used,
                "lock": {
                    "state": str(lock.state),
                    "thread": lock.thread or None,
                    "process": lock.process or None,
                    "reason": lock.reason,
                },
            }
            for superblock, lock in zip(heap.superblocks if heap else (), entry_locks)
        ],
        "faults": [{"offset": fault.offset, "what": fault.what} for fault in (heap.faults if heap else ())],
    }


def _holder(holder: held.Holder) -> "Dict[str, Any]":
    who = processes.describe(holder.pid)
    return {
        "pid": holder.pid,
        "user": text.decoded(who.user)[0],
        "command": text.decoded(who.command)[0],
        "mapped": holder.mapped,
        "descriptors": holder.descriptors,
    }


def _unlinked(file: held.Unlinked, described: bool) -> "Dict[str, Any]":
    name, name_hex = text.decoded(file.name)
    record: Dict[str, Any] = {
        "name": name,
        "name_hex": name_hex,
        "device": file.device,
        "inode": file.inode,
        "size": file.size,
        "exact": file.exact,
        "note": file.note or None,
        "pids": [holder.pid for holder in file.holders],
    }
    if described:
        record["holders"] = [_holder(holder) for holder in file.holders]
    return record
