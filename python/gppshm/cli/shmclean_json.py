"""redhawk-shmclean --json: what was done, as docs/shmclean-json.md describes it."""

import errno
import json

from gppshm import reaper, shmfs
from gppshm.cli import shmclean
from gppshm.cli.shminfo_json import named

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict

SCHEMA = "gppshm.shmclean/1"


def report(run: shmclean.Run) -> str:
    """The text of the object."""
    from gppshm import fifos

    options, outcomes = run.options, run.outcomes + run.fifos
    root, root_hex = named(options.root)
    fifo_root, fifo_root_hex = named(options.fifo_root or fifos.DEFAULT_ROOT)
    removed = [outcome for outcome in outcomes if outcome.result is reaper.REMOVED]
    whole = {
        "schema": SCHEMA,
        "root": root,
        "root_hex": root_hex,
        "fifo_root": fifo_root if options.fifos else None,
        "fifo_root_hex": fifo_root_hex if options.fifos else None,
        "force": options.force,
        "dry_run": options.dry_run,
        "reclaim": options.reclaim,
        "complete": run.complete,
        "exit_status": 0,
        "removed": len(removed),
        "removed_bytes": sum(_bytes(outcome) for outcome in removed),
        "given_back_bytes": sum(returned.given_back for returned in run.returned.values()),
        "unseen_processes": run.unseen,
        "outcomes": [_outcome(run, outcome) for outcome in run.outcomes],
        "unlinked_before": [_outcome(run, outcome) for outcome in run.unnamed],
        "fifos": [_outcome(run, outcome) for outcome in run.fifos],
    }
    whole["exit_status"] = run.exit_status  # by now all have been looked at
    return json.dumps(whole, indent=2) + "\n"


def _outcome(run: shmclean.Run, outcome: reaper.Outcome) -> "Dict[str, Any]":
    seen, verdict = outcome.sighting, outcome.verdict
    name, name_hex = named(outcome.name)
    header = seen.header if seen else None
    returned = run.returned.get(seen.file_id) if seen else None
    return {
        "name": name,
        "name_hex": name_hex,
        "result": str(outcome.result),
        "reason": named(outcome.reason)[0],
        "error": errno.errorcode.get(outcome.error) if outcome.error else None,
        "device": seen.status.st_dev if seen else None,
        "inode": seen.status.st_ino if seen else None,
        "bytes": _bytes(outcome) if seen else None,
        "creator": header.creator if header else None,
        "state": str(verdict.state) if verdict else None,
        "evidence": str(verdict.evidence) if verdict else None,
        "verdict": named(verdict.reason)[0] if verdict else None,
        "given_back": returned.given_back if returned else None,
        "in_use": returned.in_use if returned else None,
        "not_returnable": returned.not_returnable if returned else None,
        "kept_because": (named(returned.reason)[0] or None) if returned else None,
        "held_by": _holders(run, seen) if seen and (returned or shmclean.removed(outcome)) else [],
    }


def _holders(run: shmclean.Run, seen: shmfs.Sighting) -> "Any":
    pids = [holder.pid for holder in run.holders.get(seen.file_id, ())]
    who = run.describe(pids)
    return [{"pid": pid, "user": named(who[pid][0])[0], "command": named(who[pid][1])[0]} for pid in pids]


def _bytes(outcome: reaper.Outcome) -> int:
    return outcome.sighting.status.st_blocks * 512 if outcome.sighting else 0
