"""Installs the GPP plugin and the device into a REDHAWK SDRROOT, with examples, and uninstalls them.

    install.py install   [--sdrroot DIR] [--python FILE]
    install.py uninstall [--sdrroot DIR]
    install.py stage      --sdrroot DIR  --python FILE

An install has these files in $SDRROOT
    dev/devices/GPP/plugins/GppShmPlugin/GppShmPlugin   the plugin: what the GPP starts
    dev/devices/GppShmPlugin/*.xml                      the device's descriptors
    dev/devices/GppShmPlugin/python/GppShmPlugin.py     what a DeviceManager starts
    dev/nodes/*, dom/waveforms/*                        examples, which users may change
    dev/devices/GppShmPlugin/installed.sha256           the examples as they were installed
and beside each of the two programs
    GppShmPlugin.ini.example  the settings
    lib-<digest>/             the package; a running program locks the one it uses, which is then not removed
Nothing else is touched.  A program is replaced in one step, after everything that it needs is in place.
Examples that were changed are neither replaced nor removed.

The interpreter needs omniORBpy, and nothing of REDHAWK's: python3 in PATH, or the system's, if it has
omniORBpy; else the one of this build.

`stage` puts the same files below the root of a package that is being built, and starts nothing.
"""

import argparse
import fcntl
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys

if __name__ == "__main__":
    sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from gppshm import launcher
from gppshm.redhawk import interpreter, settings
from gppshm.redhawk.interpreter import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, Optional, Tuple

NAME = "GppShmPlugin"
SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PROJECT = os.path.dirname(SOURCE)
MARK = b"written by gppshm.redhawk.install"

PLUGIN = "dev/devices/GPP/plugins/" + NAME
DEVICE = "dev/devices/" + NAME
DESCRIPTORS = tuple(f"{NAME}.{kind}.xml" for kind in ("spd", "scd", "prf"))
EXAMPLES = (("nodes", "dev/nodes"), ("waveforms", "dom/waveforms"))
FOLDERS = ("dev/nodes", "dom/waveforms", "dom")
"""Folders of the examples that REDHAWK may have, too: removed only if an install made them."""
RECORD = DEVICE + "/installed.sha256"
_MADE = "# folder "
"""Prefix of a line of RECORD that sha256sum ignores."""

BODY = """\
# GppShmPlugin, written by gppshm.redhawk.install: an update writes it anew.
import os
import sys

sys.path.append(os.path.join(os.path.dirname(os.path.realpath(__file__)), {lib}))
sys.path.extend({paths})
try:
    from GppShmPlugin import start
except Exception as error:
    name = type(error).__name__
    sys.exit("GppShmPlugin: cannot start: %s: %s: install it again" % (name, ascii(str(error))))
start()
"""


def main(argv: "Optional[List[str]]" = None) -> int:
    parser = argparse.ArgumentParser(
        prog="./build.sh", description="Install the GPP plugin and the device, or remove them."
    )
    commands = parser.add_subparsers(dest="command", metavar="install | uninstall")
    for command in ("install", "uninstall"):
        sub = commands.add_parser(command)
        sub.add_argument("--sdrroot", metavar="DIR", help="REDHAWK's SDR root (default: $SDRROOT)")
        if command == "install":
            sub.add_argument(
                "--python",
                metavar="FILE",
                help="its interpreter (default: a python3 that has omniORBpy, else that of this build)",
            )
    sub = commands.add_parser("stage")
    sub.add_argument("--sdrroot", metavar="DIR", required=True)
    sub.add_argument("--python", metavar="FILE", required=True)
    options = parser.parse_args(argv)
    if not options.command:
        parser.error("install or uninstall?")
    # The GPP's user must be able to read what another user installs.
    os.umask(0o022)
    try:
        sdrroot = _checked(options.sdrroot or os.environ.get("SDRROOT", ""))
        if options.command == "install":
            install(sdrroot, options.python)
        elif options.command == "stage":
            stage(sdrroot, options.python)
        else:
            uninstall(sdrroot)
    except Failure as failure:
        print(f"build.sh: {failure}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"build.sh: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


def _checked(sdrroot: str) -> str:
    if not sdrroot:
        raise Failure("where is REDHAWK's SDR root? Set SDRROOT, or give --sdrroot DIR")
    if not os.path.isdir(sdrroot):
        raise Failure(f"{sdrroot} is no folder: set SDRROOT, or give --sdrroot DIR")
    return os.path.abspath(sdrroot)


def plugin_folder(sdrroot: str) -> str:
    return os.path.join(sdrroot, PLUGIN)


def install(sdrroot: str, python: "Optional[str]") -> None:
    plugin, device = programs(sdrroot)
    if not plugin.is_ours():
        raise Failure(f"{plugin.path} was not installed by this: move it away first")
    gpp = os.path.join(sdrroot, "dev", "devices", "GPP")
    if not os.path.isdir(gpp):
        print(f"note: there is no GPP in {gpp} yet")
    python, paths = interpreter.choose(python)
    closed = interpreter.closed_to_others(python, paths, sdrroot)
    if closed:
        raise Failure(
            f"{closed}, who can reach {sdrroot}: the plugin would not start for them; name an interpreter for"
            " everybody with --python FILE (/usr/bin/python3, say), or open that folder or file to them"
        )
    files = package_files()
    said = plugin.prepare(files, python, paths)
    installed = [plugin]
    if device.is_ours():
        device.prepare(files, python, paths)
        installed.append(device)
    for program in installed:
        program.put()
        print(f"installed: {program.path}")
    print(said)
    print(f"its interpreter is {python}: keep it, and let the GPP's user run it")
    for program in installed:
        kept = program.remove_libraries(program.lib)
        if kept:
            print(f"a running {program.what} still uses {', '.join(kept)}: the next install removes it")
    if device in installed:
        for path, new in put_examples(sdrroot).items():
            print(f"kept, as it was changed: {path}" + (f"; ours is beside it: {new}" if new else ""))
        more = ", which registers the device beside it"
    else:
        print("the device, the example nodes and the waveforms are not installed:")
        print(f"  {device.top} has a device that was not installed by this, and is left as it was")
        more = ""
    print(f"next: restart the GPP (its node), which starts the plugin{more}")
    if device in installed:
        print(
            "or launch one of the example nodes; to change one, copy it, and give the copy a name and an id"
        )
        print("  of its own (DCE: and what uuidgen prints): the IDE reports two with the same id as an error")
        for folder in sorted({os.path.dirname(name) for name in example_files()}):
            print(f"  {os.path.join(sdrroot, folder)}")
        for profile, names in missing_profiles(sdrroot).items():
            print(f"note: there is no {profile} yet, which these need: {', '.join(names)}")
    print("to change settings, edit a copy of:")
    for program in installed:
        print(f"  cp {shlex.quote(program.settings + '.example')} {shlex.quote(program.settings)}")


def stage(sdrroot: str, python: str) -> None:
    """Put everything into an SDRROOT that is to be packaged; rpm itself keeps changed examples."""
    files = package_files()
    for program in programs(sdrroot):
        program.lay_out(files, python, [])
        program.put()
    for name, content in example_files().items():
        _put(os.path.join(sdrroot, name), content)


def uninstall(sdrroot: str) -> None:
    every = programs(sdrroot)
    strangers = [program.top for program in every if not program.is_ours()]
    ours = [program for program in every if program.is_ours() and os.path.isdir(program.top)]
    if not ours and not strangers:
        print(f"nothing to do: {sdrroot} has no {NAME}")
        return
    left = remove_examples(sdrroot)
    for program in ours:
        if os.path.lexists(program.path):
            print(f"removed: {program.path}")
        if program.remove():
            print(f"a running {program.what} still uses its files: stop it and run this again")
        left += program.left()
    for program in ours:
        program.remove_parents(sdrroot)
    if left:
        print("left:\n  " + "\n  ".join(left))
    if strangers:
        raise Failure(f"{' and '.join(strangers)}: the {NAME} there was not installed by this, and is left")


class Program:
    """One of our executables in an SDRROOT, and the files beside it.

    what      plugin or device
    top       the folder that is ours, or becomes it
    path      the executable, in `top` or below it
    settings  path of its settings file, which may not exist
    beside    path -> content of other files; all are written again at each install
    """

    def __init__(self, what: str, top: str, path: str, beside: "Dict[str, bytes]") -> None:
        self.what = what
        self.top = top
        self.path = os.path.join(top, path)
        self.folder = os.path.dirname(self.path)
        self.settings = os.path.join(self.folder, NAME + ".ini")
        self.beside = {os.path.join(top, name): content for name, content in beside.items()}
        self.beside[self.settings + ".example"] = settings.example(what == "device").encode("ascii")
        self.lib = ""
        self._text = b""

    def is_ours(self) -> bool:
        """Whether there is nothing, or our own, at its path."""
        marks = {self.path: MARK}
        for path, content in self.beside.items():
            found = re.search(rb'<softpkg id="[^"]*"', content)
            if found:
                marks[path] = found.group()
        return all(mark in _content(path) for path, mark in marks.items() if os.path.lexists(path))

    def prepare(self, files: "Dict[str, bytes]", python: str, paths: "List[str]") -> str:
        """Put the package in place, try the program; returns its output.  Failure if it does not start."""
        folder = self.lay_out(files, python, paths)
        # Compile now: the GPP's user may not be allowed to write here.
        subprocess.run([python, "-I", "-m", "compileall", "-q", folder], check=False)
        return self._try_out()

    def lay_out(self, files: "Dict[str, bytes]", python: str, paths: "List[str]") -> str:
        """Put the package in place, nothing else yet; returns its folder."""
        digest = hashlib.sha256()
        for name in sorted(files):
            digest.update(name.encode() + b"\0" + hashlib.sha256(files[name]).digest())
        self.lib = "lib-" + digest.hexdigest()[:12]
        folder = os.path.join(self.folder, self.lib)
        for name, content in files.items():
            _put(os.path.join(folder, name), content)
        for path, folders, _ in os.walk(folder):
            folders.sort()
            os.chmod(path, 0o755)
        self._text = launcher.script(python, BODY.format(lib=ascii(self.lib), paths=ascii(paths)))
        return folder

    def _try_out(self) -> str:
        """Start a copy of the launcher as REDHAWK would, but without arguments."""
        trial = os.path.join(self.folder, f".{NAME}.{os.getpid()}")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        environment["PYTHONPATH"] = ""
        try:
            _put(trial, self._text, 0o755)
            done = subprocess.run(
                [trial, "--check"],
                cwd="/",
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                universal_newlines=True,
            )
        finally:
            if os.path.lexists(trial):
                os.unlink(trial)
        if done.returncode != 0:
            raise Failure(f"the {self.what} does not start, so it was not installed: {done.stderr.strip()}")
        return done.stdout.strip()

    def put(self) -> None:
        """Put what was prepared in place."""
        for path, content in self.beside.items():
            _put(path, content)
        _put(self.path, self._text, 0o755)

    def remove(self) -> "List[str]":
        """Remove our files; returns the libraries that a running program still uses."""
        for path in [self.path, *self.beside]:
            if os.path.lexists(path):
                os.unlink(path)
        kept = self.remove_libraries("")
        for folder in (self.folder, self.top):
            _remove_if_empty(folder)
        return kept

    def remove_parents(self, sdrroot: str) -> None:
        """Remove folders above it that are empty now; an SDRROOT in use has none."""
        folder = os.path.dirname(self.top)
        while folder != sdrroot:
            _remove_if_empty(folder)
            folder = os.path.dirname(folder)

    def left(self) -> "List[str]":
        """Remaining files; each library counts as one."""
        found = []
        for path, folders, names in os.walk(self.top):
            libraries = [name for name in folders if name.startswith("lib-")]
            folders[:] = sorted(set(folders).difference(libraries))
            found += [os.path.join(path, name) for name in sorted(libraries + names)]
        return found

    def remove_libraries(self, current: str) -> "List[str]":
        """Remove those of earlier installs; returns the names of those that a running program uses."""
        kept = []
        for name in sorted(os.listdir(self.folder)) if os.path.isdir(self.folder) else ():
            path = os.path.join(self.folder, name)
            if not name.startswith("lib-") or name == current or os.path.islink(path):
                continue
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path)
            except BlockingIOError:
                kept.append(name)
            finally:
                os.close(fd)
        return kept


def programs(sdrroot: str) -> "Tuple[Program, Program]":
    """The plugin, and the device."""
    descriptors = {name: _content(os.path.join(PROJECT, name)) for name in DESCRIPTORS}
    plugin = Program("plugin", os.path.join(sdrroot, PLUGIN), NAME, {})
    device = Program("device", os.path.join(sdrroot, DEVICE), f"python/{NAME}.py", descriptors)
    return plugin, device


def package_files() -> "Dict[str, bytes]":
    """The files to install: content by name."""
    files = {}
    for path, folders, names in os.walk(os.path.join(SOURCE, "gppshm")):
        folders[:] = [name for name in folders if name not in ("__pycache__", "idl")]
        for name in names:
            if name.endswith(".py"):
                file = os.path.join(path, name)
                files[os.path.relpath(file, SOURCE)] = _content(file)
    for name in (NAME + ".py", NAME + "_base.py"):
        files[name] = _content(os.path.join(SOURCE, name))
    return files


# The examples: they become their user's as soon as they are changed.


def example_files() -> "Dict[str, bytes]":
    """Content by path below the SDRROOT."""
    files = {}
    for source, folder in EXAMPLES:
        for path, _, names in os.walk(os.path.join(PROJECT, source)):
            for name in names:
                if name.endswith(".xml"):
                    file = os.path.join(path, name)
                    below = os.path.relpath(file, os.path.join(PROJECT, source))
                    files[os.path.join(folder, below)] = _content(file)
    return files


def missing_profiles(sdrroot: str) -> "Dict[str, List[str]]":
    """Missing devices and components by path, each with the examples that need it."""
    found: Dict[str, List[str]] = {}
    for name, content in sorted(example_files().items()):
        tree = os.path.join(sdrroot, name.partition("/")[0])
        for profile in re.findall(r'<localfile name="/([^"]+)"', content.decode("utf-8")):
            path = os.path.join(tree, profile)
            # REDHAWK's package contains the manager.
            if not profile.startswith("mgr/") and not os.path.exists(path):
                found.setdefault(path, []).append(os.path.basename(os.path.dirname(name)))
    return found


def put_examples(sdrroot: str) -> "Dict[str, str]":
    """Install them; returns the paths of changed ones, each with the path of ours beside it, or ""."""
    before = _read_record(sdrroot)
    made = [
        folder
        for folder in FOLDERS
        if folder in _made_folders(sdrroot) or not os.path.isdir(os.path.join(sdrroot, folder))
    ]
    now: Dict[str, str] = {}
    changed: Dict[str, str] = {}
    for name, content in sorted(example_files().items()):
        ours = hashlib.sha256(content).hexdigest()
        for target in (name, name + ".new"):
            path = os.path.join(sdrroot, target)
            there = _digest(path)
            if there in ("", ours, before.get(target)):
                if there != ours:
                    _put(path, content)
                now[target] = ours
                if target != name:
                    changed[os.path.join(sdrroot, name)] = path
                break
            if target in before:
                now[target] = before[target]
            changed[os.path.join(sdrroot, name)] = ""
    _remove_unchanged(sdrroot, {name: digest for name, digest in before.items() if name not in now})
    lines = [f"{_MADE}{folder}\n" for folder in made]
    lines += [f"{digest}  {name}\n" for name, digest in sorted(now.items())]
    _put(os.path.join(sdrroot, RECORD), "".join(lines).encode("ascii"))
    return changed


def remove_examples(sdrroot: str) -> "List[str]":
    """Remove unchanged ones; returns the paths of the others."""
    left = _remove_unchanged(sdrroot, _read_record(sdrroot))
    for folder in _made_folders(sdrroot):
        _remove_if_empty(os.path.join(sdrroot, folder))
    record = os.path.join(sdrroot, RECORD)
    if os.path.lexists(record):
        os.unlink(record)
    return left


def _remove_unchanged(sdrroot: str, names: "Dict[str, str]") -> "List[str]":
    """Remove the files that have these digests; returns the paths of those with another."""
    left = []
    for name, digest in sorted(names.items()):
        path = os.path.join(sdrroot, name)
        there = _digest(path)
        if there == digest:
            os.unlink(path)
            _remove_if_empty(os.path.dirname(path))
        elif there:
            left.append(path)
    return left


def _made_folders(sdrroot: str) -> "List[str]":
    """Those of FOLDERS that were not there before the first install."""
    try:
        lines = _content(os.path.join(sdrroot, RECORD)).decode("ascii", "replace").splitlines()
    except FileNotFoundError:
        return []
    return [folder for folder in FOLDERS if _MADE + folder in lines]


def _read_record(sdrroot: str) -> "Dict[str, str]":
    """Digests by path below the SDRROOT, as `sha256sum` writes them."""
    try:
        text = _content(os.path.join(sdrroot, RECORD)).decode("ascii", "replace")
    except FileNotFoundError:
        return {}
    found = {}
    for line in text.splitlines():
        digest, _, name = line.partition("  ")
        if name.startswith(tuple(folder + "/" for _, folder in EXAMPLES)) and ".." not in name.split("/"):
            found[name] = digest
    return found


def _digest(path: str) -> str:
    """Empty if there is no such file."""
    try:
        return hashlib.sha256(_content(path)).hexdigest()
    except (FileNotFoundError, NotADirectoryError):
        return ""


def _content(path: str) -> bytes:
    with open(path, "rb") as stream:
        return stream.read()


def _put(path: str, content: bytes, mode: int = 0o644) -> None:
    """Write a file in one step, unless it is there already."""
    try:
        with open(path, "rb") as stream:
            if stream.read() == content and os.fstat(stream.fileno()).st_mode & 0o777 == mode:
                return
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = f"{path}.{os.getpid()}.new"
    try:
        with open(temporary, "wb") as stream:
            stream.write(content)
            os.fchmod(stream.fileno(), mode)
        os.replace(temporary, path)
    except BaseException:
        if os.path.lexists(temporary):
            os.unlink(temporary)
        raise


def _remove_if_empty(folder: str) -> None:
    try:
        os.rmdir(folder)
    except OSError:
        pass  # not empty, not there, or a link


if __name__ == "__main__":
    sys.exit(main())
