"""The state of redhawk-shmwatch as it prints it: for people, or as JSON."""

from gppshm import watch
from gppshm.cli import text

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any, Dict


def state_of(
    watcher: watch.Watcher, dry_run: bool, own_faults: int, dropped: int, left_out: int
) -> "Dict[str, Any]":
    """The state as described in docs/shmwatch-json.md.

    own_faults  number of internal errors
    dropped     number of lines that were not read
    left_out    number of lines left out because there were too many
    """
    counts = watcher.counts
    state: Dict[str, Any] = {
        "root": text.decoded(watcher.root)[0],
        "scope": str(watcher.scope),
        "dry_run": dry_run,
        "living": len(watcher.living()),
        "pidfds": watcher.pidfds,
        "inotify": watcher.inotify_works,
        "troubles": watcher.troubles(),
        "rescan_seconds": watcher.rescan,
        "identities": watcher.identities,
        "questions": watcher.asked,
        "passed_over": list(watcher.passed_over),
        "longest_step_ms": round(counts.longest_step * 1000, 3),
        "removed": counts.removed,
        "removed_by_others": counts.cleaned,
        "bytes_removed_by_others": counts.cleaned_bytes,
        "fifos_removed": counts.fifos,
        "bytes_removed": counts.bytes,
        "given_back": counts.given_back,
        "given_back_later": counts.given_back_later,
        "in_use": counts.in_use,
        "failures": counts.failures,
        "rescans": counts.rescans,
        "wakeups": counts.wakeups,
        "own_faults": own_faults,
        "lines_dropped": dropped,
        "lines_left_out": left_out,
        "size": None,
        "free": None,
    }
    try:
        usage = watcher.directory.usage()
        state["size"], state["free"] = usage.size, usage.free
    except OSError:
        pass
    return state


def words_of(state: "Dict[str, Any]", options: "argparse.Namespace") -> str:
    """The state as a line."""
    living = text.many(state["living"], "living heap")
    triggers = [
        "inotify" if state["inotify"] else "no inotify",
        f"pidfds of {state['pidfds']}",
        f"a rescan every {state['rescan_seconds']:g} s",
    ]
    words = [
        f"{text.escaped(options.root)}: {living}, by {', '.join(triggers)}",
        f"removed {text.many(state['removed'], 'heap')}, {state['bytes_removed']} bytes",
    ]
    if options.parent:
        words[0] += f", of descendants of process {options.parent} only"
    if options.dry_run:
        words[1] = "a dry run: nothing is removed"
    if options.fifos:
        words.append(f"{state['fifos_removed']} FIFOs")
    if state["removed_by_others"]:
        others = text.many(state["removed_by_others"], "heap")
        words.append(f"others removed {others}, {state['bytes_removed_by_others']} bytes")
    if state["given_back"] or state["given_back_later"]:
        words.append(
            f"{state['given_back']} bytes given back at once while processes are attached,"
            f" {state['given_back_later']} later; {state['in_use']} are still in use"
        )
    if state["questions"]:
        words.append(f"waiting for {text.many(state['questions'], 'answer')} of the observer")
    if state["passed_over"]:
        pids = ", ".join(map(str, state["passed_over"]))
        words.append(f"processes that do not answer, and are passed over: {pids}")
    words.append(f"longest step {state['longest_step_ms']:.1f} ms")
    if state["failures"]:
        words.append(f"{state['failures']} could not be removed")
    if state["own_faults"]:
        words.append(f"{state['own_faults']} internal errors")
    if state["lines_left_out"]:
        words.append(f"{state['lines_left_out']} lines left out because there were too many")
    if state["lines_dropped"]:
        words.append(f"{state['lines_dropped']} lines dropped because stdout was not read")
    if state["size"] is not None:
        words.append("{} of {} bytes free".format(state["free"], state["size"]))
    words += [text.escaped(trouble) for trouble in state["troubles"]]
    return "; ".join(words)
