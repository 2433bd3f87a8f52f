"""redhawk-shminfo --domain: a table of all hosts of a REDHAWK domain, or one of them in detail.

omniORB is imported only here and below, never by the other forms.
"""

import sys

from gppshm import capacity
from gppshm.cli import text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional

    from gppshm.redhawk.domain import Domain, Host

SCHEMA = "gppshm.domain/1"
TIMEOUT = 2.0
OLD = 5.0
"""Seconds; the table states the age of older values."""


def ask(options: "Any", output: text.Output, act: "Callable[[Domain], Any]") -> "Any":
    """The result of `act` on the requested domain; None, and an error on stderr, if it cannot be reached."""
    try:
        from gppshm.redhawk import domain
    except ImportError as error:
        output.error(
            f"--domain needs omniORBpy, which cannot be imported ({text.escaped(str(error))}): install your"
            f" system's package python3-omniorb, or run '{sys.executable} -m pip install jeteve-omniorb'"
        )
        return None
    try:
        return act(domain.Domain(options.domain, options.nameservice or "", options.timeout or TIMEOUT))
    except domain.Failure as failure:
        output.error(text.escaped(str(failure)))
        return None


def show(options: "Any", output: text.Output) -> int:
    """Print the requested form; exit status 1 if a device did not answer."""
    hosts = ask(options, output, lambda place: place.query(detailed=options.host is not None))
    if hosts is None:
        return 1
    chosen = hosts
    if options.host is not None:
        chosen = [host for host in hosts if options.host in (host.name, host.device)]
        if not chosen:
            names = sorted({host.name for host in hosts if host.name})
            wanted = f"{options.domain} is on a host {options.host}"
            known = ", ".join(names) or "none that answer"
            output.error(text.escaped(f"no GppShmPlugin of {wanted}: there are {known}"))
            return 1
    if options.json:
        _show_json(options, chosen, output)
    elif options.host is not None:
        for host in chosen:
            _show_host(host, text.size_format(options.format), output)
    else:
        _show_table(chosen, text.size_format(options.format), output)
    for host in chosen:
        if host.error:
            output.line_on_stderr(f"redhawk-shminfo: {text.escaped(f'{label(host)}: {host.error}')}")
    return int(any(host.error for host in chosen))


def label(host: "Host") -> str:
    return f"{host.node}/{host.device}" if host.device else str(host.node)


TITLES = (
    "HOST",
    "DEVICE",
    "SIZE",
    "FREE",
    "FREE%",
    "HEAPS",
    "ORPHANED",
    "HELD",
    "RESERVED",
    "CAPACITY",
    "STATE",
)
WORDS = ("HOST", "DEVICE", "STATE")

FIGURES = (
    "size",
    "free",
    "used",
    "held",
    "reserved",
    "capacity",
    "heaps",
    "orphaned",
    "orphaned_size",
    "inodes",
    "free_inodes",
)
"""What is known of a host that answered: sizes in bytes, two numbers of heaps, two of inodes."""


def figures(host: "Host") -> "Dict[str, int]":
    """By FIGURES."""
    usage = host.usage
    return {
        "size": usage["total"],
        "free": usage["free"],
        "used": usage["used"],
        "held": usage["held"],
        "reserved": usage["reserved"],
        "capacity": host.capacity * capacity.MB,
        "heaps": len(host.heaps),
        "orphaned": len(host.orphans),
        "orphaned_size": host.orphaned_size,
        "inodes": usage["inodes"],
        "free_inodes": usage["free_inodes"],
    }


def total(hosts: "List[Host]") -> "Dict[str, Any]":
    """Sums of FIGURES over the `hosts` that answered; a directory that two devices show counts once.

    silent  how many devices or managers did not answer
    age     the highest of the hosts'
    """
    answered = [host for host in reversed(hosts) if not host.error]
    once = {(host.name, host.usage["path"]): figures(host) for host in answered}.values()
    names = {host.name for host in answered}
    sums: Dict[str, Any] = {"hosts": len(names), "silent": len([host for host in hosts if host.error])}
    sums.update({name: sum([each[name] for each in once]) for name in FIGURES})
    sums["age"] = max([host.age for host in answered if host.age is not None], default=None)
    return sums


def age(seconds: "Optional[float]") -> str:
    """The age of values, in words; "" if they are recent, or it is not known."""
    return f"seen {seconds:.0f} s ago" if seconds is not None and seconds >= OLD else ""


def orphans(numbers: "Dict[str, int]", size: "Callable[[int], str]") -> str:
    """Their number and, if not 0, their size."""
    more = f" ({size(numbers['orphaned_size'])})" if numbers["orphaned"] else ""
    return str(numbers["orphaned"]) + more


def cells(host: "Host", size: "Callable[[int], str]") -> "List[str]":
    """One line of the table, by TITLES; not escaped."""
    if host.error:
        return ["?", label(host), *["-"] * 8, host.error]
    return [
        host.name,
        label(host),
        *_columns(figures(host), size),
        ", ".join(filter(None, (state(host), age(host.age)))),
    ]


def _columns(numbers: "Dict[str, int]", size: "Callable[[int], str]") -> "List[str]":
    """Those of TITLES that are numbers."""
    return [
        size(numbers["size"]),
        size(numbers["free"]),
        text.percent(numbers["free"], numbers["size"]),
        str(numbers["heaps"]),
        orphans(numbers, size),
        size(numbers["held"]),
        size(numbers["reserved"]),
        size(numbers["capacity"]),
    ]


def state(host: "Host") -> str:
    """The state of cleaning, in a few words."""
    if not host.cleanup.get("enabled"):
        return "cleaning is off"
    if host.cleanup.get("dry_run"):
        return "dry run"
    if host.orphans:
        return "orphans"
    return "inodes are scarce" if host.usage["free_inodes"] * 20 < host.usage["inodes"] else "ok"


def _show_table(hosts: "List[Host]", size: "Callable[[int], str]", output: text.Output) -> None:
    if not hosts:
        output.put("no device of this domain is a GppShmPlugin\n")
        return
    sums = total(hosts)
    silent = f"{sums['silent']} without an answer" if sums["silent"] else age(sums["age"])
    lines = [list(TITLES)]
    lines += [[text.escaped(word) for word in cells(host, size)] for host in hosts]
    lines.append(["total", text.many(sums["hosts"], "host"), *_columns(sums, size), silent])
    widths = [max([len(line[column]) for line in lines]) for column in range(len(TITLES))]
    for line in lines:
        padded = [
            word.ljust(width) if title in WORDS else word.rjust(width)
            for word, width, title in zip(line, widths, TITLES)
        ]
        output.put("  ".join(padded).rstrip() + "\n")


def _show_host(host: "Host", size: "Callable[[int], str]", output: text.Output) -> None:
    if host.error:
        output.put(f"{text.escaped(label(host))}\n  state:       {text.escaped(host.error)}\n")
        return
    usage, numbers = host.usage, figures(host)
    output.put(
        f"{text.escaped(host.name)}: {text.escaped(usage['path'])}\n"
        f"  device:      {text.escaped(label(host))}\n"
        f"  size:        {size(numbers['size'])}\n"
        f"  free:        {size(numbers['free'])} ({text.percent(numbers['free'], numbers['size'])}%)\n"
        f"  heaps:       {size(usage['heaps'])}\n"
        f"  other:       {size(usage['other'])}\n"
        f"  held:        {size(numbers['held'])}\n"
        f"  reserved:    {size(numbers['reserved'])}\n"
        f"  capacity:    {size(numbers['capacity'])}\n"
        f"  age:         {'unknown' if host.age is None else f'{host.age:.1f} s'}\n"
        f"  cleaning:    {state(host)}, {host.status['removed']} removed\n"
    )
    for heap in host.heaps:
        who = heap["component"] + (f" of {heap['application']}" if heap["application"] else "")
        output.put(
            f"\n{text.escaped(heap['name'])}\n"
            f"  heap used:   {size(heap['used'])} of {size(heap['heap_size'])}\n"
            f"  creator:     {heap['creator']}\n"
            f"  component:   {text.escaped(who or heap['command'])}\n"
            f"  state:       {text.escaped(heap['state'])}: {text.escaped(heap['reason'])}\n"
            f"  attached:    {heap['attached']}\n"
        )
    if host.recent:
        import time

        output.put("\nremoved lately\n")
        for removal in host.recent:
            at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(removal["time"]))
            name, reason = text.escaped(removal["name"]), text.escaped(removal["reason"])
            output.put(f"  {at}  {name}  {size(removal['bytes'])}  {reason}\n")


def _show_json(options: "Any", hosts: "List[Host]", output: text.Output) -> None:
    import json

    records = []
    for host in hosts:
        record: Dict[str, Any] = {
            "host": host.name or None,
            "node": host.node,
            "device": host.device or None,
            "error": host.error or None,
        }
        record.update(dict.fromkeys(FIGURES) if host.error else figures(host))
        record["age"] = host.age
        record["cleaning"] = None if host.error else state(host)
        if options.host is not None:
            record.update(files=host.heaps, recent=host.recent)
        records.append(record)
    whole = {"schema": SCHEMA, "domain": options.domain, "devices": records, "total": total(hosts)}
    output.put(json.dumps(whole, indent=2) + "\n")
