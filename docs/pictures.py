"""Makes the pictures of README and docs: real heaps in a /dev/shm of their own, real devices in a domain.

    docs/pictures.py            make docs/pictures/*.svg
    docs/pictures.py --check    make them elsewhere, and tell whether those in docs/pictures say the same

Pids, sizes and times differ from run to run; what is compared is the words.  Run by the environment of
`./build.sh test`, with tmux, as root or where users may have namespaces.  Exit status: 0; 1 they differ, or
cannot be made.
"""

import collections
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time

DOCS = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(DOCS)
sys.path[:0] = [os.path.join(ROOT, folder) for folder in ("python", "demo", "tests/helpers")]

import terminal_svg  # noqa: E402

PICTURES = os.path.join(DOCS, "pictures")
MB = 1048576
INSIDE = "--inside"


def command(name, *arguments):
    """A command of this checkout, as words to run."""
    code = f"import sys; sys.path.insert(0, {os.path.join(ROOT, 'python')!r});"
    code += f" from gppshm.cli.{name} import main; sys.exit(main())"
    return [sys.executable, "-s", "-c", code, *arguments]


class Farm:
    """Components with heaps in the /dev/shm of `prefix`'s namespaces; ended at the end."""

    def __init__(self, prefix=()):
        self.prefix, self.running = prefix, []

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        for process in self.running:
            process.kill()
        for process in self.running:
            process.wait()
            process.stdin.close()
            process.stdout.close()

    def start(self, program, *words):
        """Run the writer of heaps as `program`; (process, heap)."""
        run = f'exec -a {program} "$0" "$@"'
        python = os.path.realpath(sys.executable)
        process = subprocess.Popen(
            [*self.prefix, "bash", "-c", run, python, "heapwriter.py", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=os.path.join(ROOT, "demo"),
            # By another name it would not find its library.
            env=dict(os.environ, PYTHONHOME=sys.base_prefix),
            start_new_session=True,
        )
        self.running.append(process)
        ready, heap = process.stdout.readline().decode().split()
        assert ready == "ready"
        return process, heap

    def component(self, program, label, waveform, used, superblocks=1, block=65536):
        role = ["COMPONENT_IDENTIFIER", f"{label}:{waveform}", "NAME_BINDING", label]
        role += ["DOM_PATH", f"REDHAWK_DEV/{waveform}"]
        sizes = [f"--superblocks={superblocks}", f"--used={int(used * MB)}", f"--block={block}"]
        return self.start(program, "own", *sizes, *role)


def typed(line, output):
    """A command as it was typed, and what it printed."""
    return f"\x1b[1m$ {line}\x1b[0m\n{output}"


def printed(argv, environment=None, status=0):
    done = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **(environment or {}), "LC_ALL": "C.UTF-8", "COLUMNS": "104"},
        timeout=60,
    )
    assert status in (None, done.returncode), done.stdout.decode()
    return done.stdout.decode()


def display_and_blocks():
    from screens import Top

    with Farm() as farm, tempfile.TemporaryDirectory() as folder:
        farm.component("siggen", "SigGen_1", "rx_1", 1.3, 2)
        _, mapped = farm.component("tuner", "Tuner_1", "rx_1", 2.9, 2, 81920)
        farm.component("fir", "Fir_1", "rx_1", 5.6, 3)
        dead, orphan = farm.component("demod", "Demod_1", "rx_1", 2.7, 2)
        farm.start("sink", "attach", orphan)
        done, _ = farm.component("psk", "Psk_1", "rx_2", 0.9, 2)
        with open("/dev/shm/recording", "wb") as stream:
            os.posix_fallocate(stream.fileno(), 0, 6 * MB)
        with Top(folder, "/dev/shm", "--sort=state", width=104, height=19) as top:
            top.shows("Demod_1", "Psk_1")
            dead.kill()
            done.stdin.close()
            # A longer reason would be cut: where, that depends on how long a pid is.
            top.shows("orphaned, attached", "removed lately: 1", "its creator ended and removed it")
            top.shows_no("not known (yet)")
            yield "display", "redhawk-shmtop", top.styled
        shown = printed(command("shminfo", "--blocks", mapped))
        yield "blocks", "redhawk-shminfo --blocks", typed(f"redhawk-shminfo --blocks {mapped}", shown)
    printed(command("shmclean"))


def before_and_after():
    """A crash under redhawk-shmwatch, with a peer attached."""
    with Farm() as farm:
        creator, heap = farm.start("demod", "own", "--superblocks=8", "--used=1677721", "--block=65536")
        farm.start("sink", "attach", heap)
        watcher = subprocess.Popen(
            command("shmwatch", "--json"), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        farm.running.append(watcher)

        def heard(event):
            return next(each for each in map(json.loads, watcher.stdout) if each["event"] == event)

        heard("ready")
        while True:
            watcher.send_signal(signal.SIGUSR1)
            if heard("state")["identities"]:
                break
            time.sleep(0.05)

        def shown(lines):
            output = printed(command("shminfo", "--holders")).splitlines(True)
            return typed(f"redhawk-shminfo --holders | head -n {lines}", "".join(output[:lines]))

        before = shown(10)
        creator.kill()
        heard("removed")
        kill = typed(f"kill -9 {creator.pid}    # redhawk-shmwatch runs; sink stays attached", "")
        yield "reclaim", "a crash with a peer attached", before + "\n" + kill + "\n" + shown(7)


class Hosts:
    """A real domain on the stand-in, with a real device on each of some hosts: namespaces with a name and a
    /dev/shm of their own."""

    def __init__(self, folder):
        import client
        import installing
        from plugins import install

        sdr = os.path.join(folder, "sdr")
        installing.gpp(sdr)
        done = install(
            "install",
            "--sdrroot",
            sdr,
            "--python",
            sys.executable,
        )
        assert done.returncode == 0, done.stderr
        self.log = open(os.path.join(folder, "log"), "wb")  # noqa: SIM115 (as long as processes are started)
        self.domain = client.Domain(sdr, folder, stdout=self.log, stderr=self.log)
        os.makedirs(os.path.join(sdr, "dev", "nodes", "Radios"))
        with open(os.path.join(sdr, "dev", "nodes", "Radios", "DeviceManager.dcd.xml"), "w") as stream:
            stream.write(NODE)
        self.manager = self.domain.start_node("Radios")
        self.ior = client.orb().object_to_string(self.manager)
        self.program = os.path.join(sdr, "dev", "devices", "GppShmPlugin", "python", "GppShmPlugin.py")
        self.processes = []

    def namespace(self, name, megabytes):
        """Words that run a command on a host of that name: a process that keeps it is started first."""
        mount = f"mount -t tmpfs -o size={megabytes}m {name} /dev/shm && hostname {name}"
        mount += " && echo ready && exec cat"
        argv = ["unshare", "--mount", "--propagation=private", "--uts", "sh", "-c", mount]
        keeper = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.processes.append(keeper)
        assert keeper.stdout.readline() == b"ready\n"
        # nsenter would go to / otherwise.
        here = f"--wd={os.path.join(ROOT, 'demo')}"
        return [
            "nsenter",
            here,
            f"--mount=/proc/{keeper.pid}/ns/mnt",
            f"--uts=/proc/{keeper.pid}/ns/uts",
            "--",
        ]

    def device(self, prefix, label):
        pairs = {
            "DEVICE_MGR_IOR": self.ior,
            "DEVICE_ID": label,
            "DEVICE_LABEL": label,
            "PROFILE_NAME": PROFILE,
        }
        words = [word for pair in pairs.items() for word in pair]
        environment = dict(os.environ, **self.domain.environment)
        process = subprocess.Popen(
            [*prefix, self.program, *words], env=environment, stdout=self.log, stderr=self.log, cwd="/"
        )
        self.processes.append(process)
        # What a manager does with a device that it launched itself.
        reference = self.domain.device(label)
        reference.initializeProperties([])
        reference.initialize()
        reference.start()
        return process

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        for process in self.processes:
            process.kill()
            process.communicate()
        self.domain.close()
        self.log.close()


PROFILE = "/devices/GppShmPlugin/GppShmPlugin.spd.xml"
NODE = """\
<?xml version="1.0" encoding="UTF-8"?>
<deviceconfiguration id="DCE:5a3a8d5e-6f2e-4c1b-9f0e-5b3a1f0c7d21" name="Radios">
  <domainmanager><namingservice name="REDHAWK_DEV/REDHAWK_DEV"/></domainmanager>
</deviceconfiguration>
"""


def whole_domain():
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        hosts = stack.enter_context(Hosts(folder))
        devices = []
        for name, megabytes, used in (
            ("radio-1", 64, (9, 20)),
            ("radio-2", 64, (3,)),
            ("radio-3", 128, (40, 21, 8)),
        ):
            prefix = hosts.namespace(name, megabytes)
            farm = stack.enter_context(Farm(prefix))
            for number, size in enumerate(used):
                farm.component("fir", f"Fir_{number}", "rx_1", size / 2, size // 2)
            devices.append(hosts.device(prefix, f"{name}_shm"))
        devices[1].send_signal(signal.SIGSTOP)
        argv = command("shminfo", "--domain", "REDHAWK_DEV")
        environment = hosts.domain.environment
        from spawning import wait_for

        def settled():
            done = printed(argv, environment, status=None)
            return done if done.count(" ok\n") == 2 and " 5 " in done.splitlines()[-1] else ""

        yield (
            "domain",
            "redhawk-shminfo --domain",
            typed("redhawk-shminfo --domain REDHAWK_DEV", wait_for(settled, 30)),
        )
        devices[1].send_signal(signal.SIGCONT)


SCENES = (display_and_blocks, before_and_after, whole_domain)


def make(folder):
    for scene in SCENES:
        for name, title, text in scene():
            with open(os.path.join(folder, name + ".svg"), "w", encoding="utf-8") as stream:
                stream.write(terminal_svg.svg(text, title))


def differences(made):
    """Of each picture that does not say what that in `made` says, its name and the words that differ."""

    def said(folder, name):
        try:
            with open(os.path.join(folder, name), encoding="utf-8") as stream:
                return collections.Counter(terminal_svg.words(stream.read()))
        except FileNotFoundError:
            return collections.Counter()

    for name in sorted(set(os.listdir(made)) | set(os.listdir(PICTURES))):
        new, old = said(made, name), said(PICTURES, name)
        if new != old:
            gone, come = " ".join((old - new).elements()), " ".join((new - old).elements())
            yield name, f"no more: {gone}; new: {come}"


def main(arguments):
    if arguments[:1] != [INSIDE]:
        # A /dev/shm of our own, of a size that is the same on every machine.
        prefix = ["unshare", "--mount", "--propagation=private"]
        if os.geteuid():
            prefix += ["--user", "--map-root-user"]
        mount = 'mount -t tmpfs -o size=64m gppshm /dev/shm && exec "$@"'
        again = [sys.executable, "-s", os.path.abspath(__file__), INSIDE, *arguments]
        os.execvp(prefix[0], [*prefix, "sh", "-c", mount, "sh", *again])
    if arguments[1:] != ["--check"]:
        make(PICTURES)
        return 0
    # Twice, as a screen of a busy machine may say for a moment that it is busy.
    for _ in range(2):
        with tempfile.TemporaryDirectory(prefix="gppshm-pictures-") as made:
            make(made)
            old = list(differences(made))
        if not old:
            break
    for name, words in old:
        print(f"docs/pictures/{name} is old: run docs/pictures.py ({words})", file=sys.stderr)
    return 1 if old else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
