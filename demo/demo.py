"""What `./build.sh run` shows: the watcher at work on three real heaps in /dev/shm, then a whole node.

Three example processes own a heap each.  One is killed, one exits normally, one is killed while a peer is
attached to its heap.  Then, if there is omniORB, a node runs with the GPP plugin and its device
(node_demo.py). Only heaps of these processes are removed; other files are listed and kept, and nothing is
left behind.
"""

import argparse
import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(1, os.path.join(os.path.dirname(HERE), "python"))

from gppshm import events, judging, processes, reaper, shmfs, snapshot, watch  # noqa: E402
from gppshm.cli import text  # noqa: E402
from interrupts import check, wait_for_check  # noqa: E402
from screen import bar, heading, say, show_status  # noqa: E402

WRITER = os.path.join(HERE, "heapwriter.py")
PATIENCE = 10.0
"""Seconds that any one fact is waited for."""


class Component:
    """An example process: a heap's owner, or a peer attached to one; it ends with this program."""

    def __init__(self, role: str, *arguments: str) -> None:
        command = [sys.executable, "-I", "-S", WRITER, role] + list(arguments)
        # A session of its own: Ctrl-C is for the demonstration; its end is the end of this process' stdin.
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        self.pid = self.process.pid
        words = self.process.stdout.readline().decode().split()
        if words[:1] != ["ready"]:
            raise RuntimeError(f"{role} process {self.pid} did not become ready: {words}")
        self.heap = words[1]

    def kill(self) -> float:
        """SIGKILL it; returns the time (monotonic)."""
        now = time.monotonic()
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        return now

    def finish(self) -> None:
        """Let it exit normally, as at the end of a waveform."""
        self.process.stdin.close()
        self.process.wait(PATIENCE)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


class Demo:
    """The demonstration; a context manager that ends its processes and removes their heaps."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.components = []
        self.events = queue.Queue()
        self.watcher = watch.Watcher(root, self._on_event, watch.CHILDREN, os.getpid())
        self.thread = threading.Thread(target=self.watcher.run)
        self.thread.start()

    def __enter__(self) -> "Demo":
        return self

    def __exit__(self, *exc: object) -> None:
        for component in self.components:
            component.close()
        self.watcher.stop()
        self.thread.join()
        self.watcher.close()
        # What died before the watcher had seen it alive is no child to it, but it is ours.
        with shmfs.ShmDirectory(self.root) as directory, reaper.Reaper(directory) as undertaker:
            list(undertaker.clean({component.heap for component in self.components}, judging.Judge()))

    def _on_event(self, event: events.Event) -> None:
        # It comes when it is known who is attached, too; the heap was unlinked before that.
        self.events.put((time.monotonic() - (time.time() - event.time), event))

    def start(self, role: str, *arguments: str) -> Component:
        component = Component(role, "--root=" + self.root, *arguments)
        self.components.append(component)
        if role == "own":
            self.wait(lambda: component.heap in self.watcher.living())
        return component

    def wait(self, fact) -> None:
        deadline = time.monotonic() + PATIENCE
        while not fact():
            check()
            if time.monotonic() > deadline:
                raise RuntimeError("waited in vain; see the lines above")
            time.sleep(0.002)

    def removal(self, component: Component) -> "tuple[float, Optional[events.Event]]":
        """When (monotonic) a heap was removed, and the watcher's event; None if removed by others."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            check()
            gone = time.monotonic() if component.heap not in os.listdir(self.root) else 0.0
            try:
                when, event = self.events.get(timeout=0.5)
            except queue.Empty:
                if gone:
                    return gone, None
                continue
            if event.kind is watch.REMOVED and event.name == component.heap:
                return when, event
        raise RuntimeError(f"{component.heap} was not removed in {PATIENCE:g} s")

    def crash(self, component: Component) -> None:
        """Kill a component, and show what happens to its heap."""
        killed = component.kill()
        when, event = self.removal(component)
        if event is None:
            say("   unlinked by another cleaner on this host, before the watcher")
            return
        say(f"   unlinked {(when - killed) * 1e3:.2f} ms after the kill ({text.size_auto(event.bytes)})")
        say(f"   because  {event.reason}")
        say(f"   evidence {event.evidence}; noticed by {event.trigger}")
        if event.given_back:
            say(f"   memory   {text.size_auto(event.given_back)} given back at once: it was free")
        for pid, _ in event.attached:
            say(f"   memory   held by process {pid} until it exits")


def free_bytes(root: str) -> int:
    room = os.statvfs(root)
    return room.f_bfree * room.f_frsize


def show_file_system(root: str, own: "list[str]") -> None:
    """The state of the file system, and what of it is not the demonstration's."""
    with shmfs.ShmDirectory(root) as directory:
        state = snapshot.take(directory)
    heaps = [entry for entry in state.entries if entry.verdict is not None]
    usage = state.usage
    free, size = text.size_auto(usage.free), text.size_auto(usage.size)
    say(f"{root}: {free} free of {size}, heaps: {len(heaps)}" + bar(usage.size - usage.free, usage.size, 20))
    for entry in heaps:
        size = text.size_auto(entry.sighting.status.st_size)
        whose = "" if entry.sighting.name in own else "   (not ours: left alone)"
        say(f"   {text.escaped(entry.sighting.name):<14} {size:>8}  {entry.verdict.state}{whose}")
    others = len(state.entries) - len(heaps)
    if others:
        say(f"   other files, left alone: {others}")


def tell(demo: Demo) -> None:
    """The three ends of a component."""
    root = demo.root
    heading("BEFORE")
    show_file_system(root, [])
    say()
    heading("THREE COMPONENTS, each with a heap of its own")
    killed = demo.start("own", "--superblocks=2", "--used=1000000")
    ended = demo.start("own", "--superblocks=1", "--used=4096")
    shared = demo.start("own", "--superblocks=4", "--used=6000000")
    peer = demo.start("attach", shared.heap)
    show_file_system(root, [component.heap for component in demo.components])
    say()
    say(f"1. {killed.heap}: process {killed.pid} is SIGKILLed")
    demo.crash(killed)
    say()
    say(f"2. {ended.heap}: process {ended.pid} exits normally")
    began = time.monotonic()
    ended.finish()
    demo.wait(lambda: ended.heap not in os.listdir(root))
    took = (time.monotonic() - began) * 1e3
    say(f"   unlinked by the process itself, gone {took:.1f} ms after it was asked to end")
    say()
    say(f"3. {shared.heap}: process {shared.pid} is SIGKILLed while process {peer.pid} is attached")
    demo.crash(shared)
    before = free_bytes(root)
    peer.finish()
    # The watcher, too, has it open until it hears that the last peer has gone.
    deadline = time.monotonic() + 1
    while free_bytes(root) <= before and time.monotonic() < deadline:
        check()
        time.sleep(0.002)
    back = free_bytes(root) - before
    say(f"   process {peer.pid} exits: {text.size_auto(max(0, back))} come back")
    say()


def tell_of_the_node(root: str) -> None:
    try:
        import node_demo
    except ImportError as error:
        say(f"The node is not shown: {error} (omniORB, or what ./build.sh makes with it)")
    else:
        node_demo.tell(root)
    say()


def go_on(demo: Demo) -> None:
    """Keep one component alive, for the user to kill, until Ctrl-C."""
    removed = 0
    while True:
        victim = demo.start("own", "--superblocks=2")
        say(f"Watching. Try it: kill -9 {victim.pid}   (Ctrl-C ends)")
        while victim.process.poll() is None:
            show_status(standing(demo.root, removed))
            time.sleep(0.1)
        _, event = demo.removal(victim)
        if event is None:
            say(f"   {victim.heap} unlinked by another cleaner on this host, before the watcher")
            continue
        removed += 1
        say(f"   {event.name} unlinked {event.latency * 1e3:.2f} ms after the trigger: {event.reason}")


def standing(root: str, removed: int) -> str:
    room = os.statvfs(root)
    free, size = room.f_bfree * room.f_frsize, room.f_blocks * room.f_frsize
    heaps = sum(shmfs.pid_of_name(name) > 0 for name in os.listdir(root))
    used = bar(size - free, size, 20)
    return f"   {root}{used}  {text.size_auto(free)} free, heaps: {heaps}, removed: {removed}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--once", action="store_true", help="end after the demonstration, on a terminal too")
    parser.add_argument("--root", default=shmfs.DEFAULT_ROOT, metavar="DIR", help="default: %(default)s")
    options = parser.parse_args()
    if not processes.available():
        print("demo: it needs the Python package psutil, to know its own processes", file=sys.stderr)
        return 1
    wait_for_check()
    try:
        with Demo(options.root) as demo:
            tell(demo)
        # By now nobody watches: the plugin's heaps are those of descendants of this process, too.
        tell_of_the_node(options.root)
        heading("AFTER")
        show_file_system(options.root, [])
        if sys.stdout.isatty() and not options.once:
            say()
            with Demo(options.root) as demo:
                go_on(demo)
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):
            say()
    except BrokenPipeError:
        return 1  # the reader has gone
    except (OSError, RuntimeError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
