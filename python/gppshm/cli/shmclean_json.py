"""redhawk-shmclean --json: the outcomes, as described in docs/shmclean-json.md."""

import errno
import json

from gppshm import reaper
from gppshm.cli import text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict

    from gppshm import shmfs
    from gppshm.cli import shmclean_account

SCHEMA = "gppshm.shmclean/1"


def report(run: "shmclean_account.Account") -> str:
    """The JSON object as text."""
    from gppshm import fifos

    options, outcomes = run.options, run.outcomes + run.fifos
    root, root_hex = text.decoded(options.root)
    fifo_root, fifo_root_hex = text.decoded(options.fifo_root or fifos.DEFAULT_ROOT)
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
    whole["exit_status"] = run.exit_status  # final only now
    return json.dumps(whole, indent=2) + "\n"


def _outcome(run: "shmclean_account.Account", outcome: reaper.Outcome) -> "Dict[str, Any]":
    seen, verdict = outcome.sighting, outcome.verdict
    name, name_hex = text.decoded(outcome.name)
    header = seen.header if seen else None
    returned = run.returned.get(seen.file_id) if seen else None
    return {
        "name": name,
        "name_hex": name_hex,
        "result": str(outcome.result),
        "reason": text.decoded(outcome.reason)[0],
        "error": errno.errorcode.get(outcome.error) if outcome.error else None,
        "device": seen.status.st_dev if seen else None,
        "inode": seen.status.st_ino if seen else None,
        "bytes": _bytes(outcome) if seen else None,
        "creator": header.creator if header else None,
        "state": str(verdict.state) if verdict else None,
        "evidence": str(verdict.evidence) if verdict else None,
        "verdict": text.decoded(verdict.reason)[0] if verdict else None,
        "given_back": returned.given_back if returned else None,
        "in_use": returned.in_use if returned else None,
        "not_returnable": returned.not_returnable if returned else None,
        "kept_because": (text.decoded(returned.reason)[0] or None) if returned else None,
        "held_by": _holders(run, seen) if seen and (returned or outcome.removed) else [],
    }


def _holders(run: "shmclean_account.Account", seen: "shmfs.Sighting") -> "Any":
    pids = [holder.pid for holder in run.holders.get(seen.file_id, ())]
    who, found = run.describe(pids), []
    for pid in pids:
        user, command = who[pid]
        found.append({"pid": pid, "user": text.decoded(user)[0], "command": text.decoded(command)[0]})
    return found


def _bytes(outcome: reaper.Outcome) -> int:
    return outcome.sighting.status.st_blocks * 512 if outcome.sighting else 0
