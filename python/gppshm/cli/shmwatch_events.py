"""Events as redhawk-shmwatch prints them: a line, or JSON."""

import time

from gppshm import events, processes
from gppshm.cli import text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Optional


def event_line(event: events.Event) -> str:
    """An event as one printable line."""
    if not event.name:
        return f"{clock(event.time)} {event.kind}: {text.escaped(event.reason)}"
    line = f"{clock(event.time)} {event.kind} {text.escaped(event.name)} {event.device}:{event.inode}"
    if event.creator:
        line += f" creator {event.creator} ({_command(event.command)})"
    line += f" {event.bytes} bytes: {text.escaped(event.reason)}"
    if event.died:
        line += f" ({event.died})"
    if event.evidence != "none":
        line += f" [{event.evidence}]"
    if event.trigger:
        line += f", {event.latency * 1000:.2f} ms after {event.trigger}"
    if event.attached:
        holders = ", ".join([f"{pid} ({_command(command)})" for pid, command in event.attached])
        line += f"; {_what_is_held(event)} held until these exit: {holders}"
    if event.not_given_back:
        line += f"; nothing is given back: {text.escaped(event.not_given_back)}"
    return line


def _what_is_held(event: events.Event) -> str:
    """Text about a heap's memory: what was given back while peers are attached, and what was not."""
    if not event.given_back and not event.given_back_later:
        return "the memory is"
    return (
        f"{event.given_back} bytes came back at once, {event.given_back_later} later;"
        f" {event.left} ({event.in_use} in use) are"
    )


def event_object(event: events.Event) -> "Dict[str, Any]":
    """An event as described in docs/shmwatch-json.md."""
    name, name_hex = text.decoded(event.name)
    return {
        "event": str(event.kind),
        "time": round(event.time, 6),
        "name": name or None,
        "name_hex": name_hex,
        "device": event.device or None,
        "inode": event.inode or None,
        "creator": event.creator or None,
        "command": _json_word(event.command),
        "command_line": text.decoded(" ".join(event.arguments))[0] or None,
        "user": _json_word(event.user),
        "uid": event.uid if event.uid >= 0 else None,
        "died": event.died or None,
        "bytes": event.bytes,
        "reason": text.decoded(event.reason)[0],
        "evidence": str(event.evidence),
        "trigger": event.trigger or None,
        "latency_ms": round(event.latency * 1000, 3) if event.trigger else None,
        "attached": [{"pid": pid, "command": _json_word(command)} for pid, command in event.attached],
        "given_back": event.given_back,
        "given_back_later": event.given_back_later,
        "in_use": event.in_use,
        "left": event.left,
        "not_given_back": text.decoded(event.not_given_back)[0] if event.not_given_back else None,
    }


def _json_word(word: str) -> "Optional[str]":
    return None if word == processes.UNKNOWN else text.decoded(word)[0]


def _command(command: str) -> str:
    return "command unknown" if command == processes.UNKNOWN else text.escaped(command)


def clock(seconds: float) -> str:
    """Local time, to the millisecond."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds)) + f".{int(seconds * 1000) % 1000:03d}"
