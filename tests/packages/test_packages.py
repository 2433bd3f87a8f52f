"""The packages hold what they should, and work where they were unpacked: RPM, wheel, source package."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import zipfile

import pytest

from gppshm import __version__
from places import ROOT
from spawning import needs_root, wait_for

COMMANDS = ("redhawk-shminfo", "redhawk-shmclean", "redhawk-shmwatch", "redhawk-shmtop")
SPEC = os.path.join(ROOT, "GppShmPlugin.spec")

pytestmark = [
    pytest.mark.corba,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        not os.path.isdir(os.path.join(ROOT, "python", "gppshm", "redhawk", "stubs")),
        reason="needs the compiled IDL: omniORB has no wheel for this Python",
    ),
]


def run(*argv, **settings):
    done = subprocess.run(
        [str(word) for word in argv],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        timeout=200,
        **settings,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def own_environment(folder):
    """Of a user who has just logged in; build.sh uses the environment that these tests run in."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return dict(environment, VENV=sys.prefix, PYTHON=sys.executable, DIST=str(folder), LC_ALL="C.UTF-8")


# -- RPM ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rpm(tmp_path_factory):
    """rpm(*arguments): the folder of packages that `./build.sh rpm` has made."""
    for program in ("rpmbuild", "rpm2cpio", "cpio"):
        if shutil.which(program) is None:
            pytest.skip("needs rpmbuild, rpm2cpio and cpio, of the Debian packages rpm, rpm2cpio and cpio")

    def build(*arguments):
        dist = tmp_path_factory.mktemp("dist")
        run(os.path.join(ROOT, "build.sh"), "rpm", *arguments, env=own_environment(dist))
        return dist

    return build


@pytest.fixture(scope="module")
def plain(rpm):
    """The packages as they are shipped: (device and plugin, tools)."""
    dist = rpm()
    found = sorted(os.listdir(str(dist)))
    assert len(found) == 3 and found[1].endswith(".src.rpm")
    return str(dist / found[0]), str(dist / found[2])


def asked(package, *question):
    return run("rpm", "-qp", "--nosignature", *question, package).splitlines()


def test_the_packages_have_the_version_of_the_code(plain):
    for package in plain:
        assert asked(package, "--queryformat", "%{VERSION} %{ARCH}") == [f"{__version__} noarch"]
    with open(SPEC) as stream:
        assert not re.search(r"^Version:\s*[\d\"']", stream.read(), re.M)


def test_everything_lies_where_redhawks_own_packages_put_it(plain):
    files = set(asked(plain[0], "--list"))
    sdr = "/var/redhawk/sdr"
    assert f"{sdr}/dev/devices/GPP/plugins/GppShmPlugin/GppShmPlugin" in files
    assert f"{sdr}/dev/devices/GppShmPlugin/python/GppShmPlugin.py" in files
    for kind in ("spd", "scd", "prf"):
        assert f"{sdr}/dev/devices/GppShmPlugin/GppShmPlugin.{kind}.xml" in files
    for source, folder in (("nodes", "dev/nodes"), ("waveforms", "dom/waveforms")):
        for path, _, names in os.walk(os.path.join(ROOT, source)):
            for name in names:
                assert (
                    f"{sdr}/{folder}/{os.path.relpath(os.path.join(path, name), os.path.join(ROOT, source))}"
                    in files
                )
    assert {"/usr/share/man/man5/GppShmPlugin.ini.5", "/usr/share/man/man7/GppShmPlugin.7"} <= {
        re.sub(r"\.gz$", "", name) for name in files
    }
    tools = {re.sub(r"\.gz$", "", name) for name in asked(plain[1], "--list")}
    for command in COMMANDS:
        assert {
            f"/usr/bin/{command}",
            f"/usr/share/man/man1/{command}.1",
            f"/usr/share/bash-completion/completions/{command}",
        } <= tools
    assert "/usr/lib/systemd/system/redhawk-shmwatch.service" in tools


def test_what_an_operator_edits_is_kept_by_an_update(plain):
    configured = asked(plain[0], "--configfiles")
    assert configured and all(name.endswith((".dcd.xml", ".sad.xml")) for name in configured)


def test_the_tools_need_nothing_but_python(plain):
    needs = {line.split()[0] for line in asked(plain[1], "--requires")}
    assert {name for name in needs if not name.startswith(("rpmlib(", "/bin/sh"))} == {"python3"}
    assert {"redhawk", "GppShmPlugin-tools"} <= {line.split()[0] for line in asked(plain[0], "--requires")}


def test_no_file_knows_where_it_was_built(plain, tmp_path):
    for package in plain:
        unpack(package, tmp_path)
    for path, _, names in os.walk(str(tmp_path)):
        for name in names:
            with open(os.path.join(path, name), "rb") as stream:
                content = stream.read()
            assert b"BUILDROOT" not in content and ROOT.encode() + b"/" not in content, name


SDR = "/var/redhawk/sdr"


def test_the_device_is_packed_as_redhawks_own_are(plain):
    fields = "%{URL} %{VENDOR} [%{PREFIXES}]"
    assert asked(plain[0], "--queryformat", fields) == [
        f"https://redhawksdr.org The GppShmPlugin developers {SDR}"
    ]
    owners = asked(plain[0], "--queryformat", "[%{FILENAMES} %{FILEUSERNAME}:%{FILEGROUPNAME}\n]")
    assert owners
    for line in owners:
        name, owner = line.split(" ")
        assert owner == ("redhawk:redhawk" if name.startswith(SDR) else "root:root"), name
    owners = asked(plain[1], "--queryformat", "[%{FILEUSERNAME}:%{FILEGROUPNAME}\n]")
    assert set(owners) == {"root:root"}


@needs_root
def test_it_is_installed_into_another_sdrroot_works_there_and_leaves_nothing(plain, tmp_path):
    root = tmp_path / "root"
    (root / "dev").mkdir(parents=True)
    rpm_ = ["rpm", "--root", str(root), "--nodeps"]
    # There is no shell in that root to run scripts with: the one of removal is run by hand below.
    run(*rpm_, "--install", "--ignorearch", "--ignoreos", "--noscripts", "--prefix", "/opt/sdr", *plain)
    assert (root / "usr" / "bin" / "redhawk-shminfo").exists()
    assert not (root / "var" / "redhawk").exists()
    sdr = root / "opt" / "sdr"
    for program in (
        "dev/devices/GPP/plugins/GppShmPlugin/GppShmPlugin",
        "dev/devices/GppShmPlugin/python/GppShmPlugin.py",
    ):
        (library,) = [name for name in os.listdir(str((sdr / program).parent)) if name.startswith("lib-")]
        checked = run(sys.executable, "-I", sdr / program, "--check", env={"PATH": os.environ["PATH"]})
        assert checked.startswith(f"GppShmPlugin {__version__}: Python ")
        (sdr / program).parent.joinpath(library, "gppshm", "__pycache__", "x.pyc").write_bytes(b"")
    lines = asked(plain[0], "--scripts")
    removal = lines[lines.index("preuninstall scriptlet (using /bin/sh):") + 1 :]
    run("sh", "-euc", "\n".join(removal), "sh", "0", env=dict(os.environ, RPM_INSTALL_PREFIX=str(sdr)))
    run(*rpm_, "--erase", "--noscripts", "GppShmPlugin")
    left = [os.path.join(path, name) for path, _, names in os.walk(str(sdr)) for name in names]
    assert left == []


def unpack(package, folder):
    """Into `folder`, as it would lie below /."""
    pipe = subprocess.Popen(["rpm2cpio", package], stdout=subprocess.PIPE)
    with pipe:
        run_cpio = subprocess.run(["cpio", "-idm", "--quiet"], stdin=pipe.stdout, cwd=str(folder), timeout=60)
    assert (pipe.returncode, run_cpio.returncode) == (0, 0)


@pytest.fixture(scope="module")
def unpacked(rpm, tmp_path_factory):
    """A folder with what both packages hold, made for lying there."""
    top = tmp_path_factory.mktemp("root")
    names = {"_prefix": "usr", "_sdrroot": "sdr", "_datadir": "usr/share"}
    places = [f"{name} {top / place}" for name, place in names.items()] + [f"__python3 {sys.executable}"]
    dist = rpm(*[word for place in places for word in ("--define", place)])
    for name in os.listdir(str(dist)):
        if name.endswith(".noarch.rpm"):
            unpack(str(dist / name), "/")
    return top


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unpacked_command_runs(unpacked, command):
    assert run(unpacked / "usr" / "bin" / command, "--version") == f"{command} version {__version__}\n"
    assert "usage:" in run(unpacked / "usr" / "bin" / command, "--help", env={})


def test_unpacked_tools_show_heaps_and_remove_those_of_the_dead(unpacked, spawn, shm_root):
    living, dead = spawn.owner(shm_root), spawn.owner(shm_root)
    dead.kill()
    bin_ = unpacked / "usr" / "bin"
    shown = run(bin_ / "redhawk-shminfo", "--root", shm_root)
    assert re.findall(r"^  orphaned: +(\w+)$", shown, re.M).count("true") == 1
    assert run(bin_ / "redhawk-shmclean", "--root", shm_root) == f"unlinking heap-{dead.pid}\n"
    assert os.listdir(shm_root) == [f"heap-{living.pid}"]


def test_the_unpacked_watcher_is_what_the_unit_starts(unpacked, shm_root, spawn):
    (unit,) = [
        os.path.join(path, name)
        for path, _, names in os.walk(str(unpacked))
        for name in names
        if name.endswith(".service")
    ]
    with open(unit) as stream:
        program = re.search(r"^ExecStart=(\S+)$", stream.read(), re.M).group(1)
    dead = spawn.owner(shm_root)
    watcher = subprocess.Popen(
        [program, "--root", shm_root], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        assert watcher.stdout.readline()
        dead.kill()
        wait_for(lambda: not os.listdir(shm_root))
    finally:
        watcher.send_signal(signal.SIGTERM)
        watcher.communicate(timeout=20)
    assert watcher.returncode == 0


@pytest.mark.parametrize(
    "program",
    ["dev/devices/GPP/plugins/GppShmPlugin/GppShmPlugin", "dev/devices/GppShmPlugin/python/GppShmPlugin.py"],
)
def test_the_unpacked_plugin_and_device_find_all_they_need(unpacked, program):
    checked = run(unpacked / "sdr" / program, "--check", env={"PATH": os.environ["PATH"]})
    assert checked.startswith(f"GppShmPlugin {__version__}: Python ")


def test_without_rpmbuild_a_line_says_what_to_install(tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in (
        "bash",
        "env",
        "dirname",
        "cat",
        "sha256sum",
        "flock",
        "mktemp",
        "mkdir",
        "tar",
        "rm",
        "sed",
    ):
        (tools / name).symlink_to(shutil.which(name))
    environment = dict(own_environment(tmp_path), PATH=str(tools))
    done = subprocess.run(
        [os.path.join(ROOT, "build.sh"), "rpm"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert done.returncode == 1
    assert b"there is no rpmbuild: install" in done.stderr.splitlines()[-1]


# -- wheel and source package ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def builder(tmp_path_factory):
    """A Python that has what pyproject.toml says builds the packages."""
    folder = tmp_path_factory.mktemp("builder")
    run(sys.executable, "-I", "-m", "venv", folder)
    python = folder / "bin" / "python"
    run(python, "-I", "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "hatchling>=1.17")
    return python


def package(builder, source, kind, folder):
    run(builder, "-m", "hatchling", "build", "-t", kind, "-d", folder, cwd=str(source))
    (name,) = os.listdir(str(folder))
    return folder / name


@pytest.fixture(scope="module")
def wheel(builder, tmp_path_factory):
    return package(builder, ROOT, "wheel", tmp_path_factory.mktemp("wheel"))


def test_the_wheel_alone_gives_the_commands(wheel, tmp_path, spawn, shm_root):
    run(sys.executable, "-I", "-m", "venv", tmp_path / "user")
    bin_ = tmp_path / "user" / "bin"
    run(
        bin_ / "python",
        "-I",
        "-m",
        "pip",
        "--quiet",
        "--disable-pip-version-check",
        "install",
        "--no-index",
        wheel,
    )
    for command in COMMANDS:
        assert run(bin_ / command, "--version") == f"{command} version {__version__}\n"
    owner = spawn.owner(shm_root)
    assert f"heap-{owner.pid}" in run(bin_ / "redhawk-shminfo", "--root", shm_root)
    assert f"heap-{owner.pid}" in run(bin_ / "redhawk-shmtop", "--root", shm_root, "--once")
    owner.kill()
    assert run(bin_ / "redhawk-shmclean", "--root", shm_root) == f"unlinking heap-{owner.pid}\n"


def test_the_wheel_names_its_extras_and_needs_none(wheel):
    with zipfile.ZipFile(str(wheel)) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = archive.read(name).decode()
    assert {"processes", "corba", "metrics", "top"} <= set(
        re.findall(r"^Provides-Extra: (.*)$", metadata, re.M)
    )
    assert all("extra ==" in need for need in re.findall(r"^Requires-Dist: (.*)$", metadata, re.M))
    assert f"\nVersion: {__version__}\n" in metadata


def test_of_the_source_package_the_same_wheel_is_made(builder, wheel, tmp_path):
    source = package(builder, ROOT, "sdist", tmp_path / "sdist")
    with tarfile.open(str(source)) as archive:
        names = archive.getnames()
        archive.extractall(str(tmp_path), **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    top = names[0].split("/")[0]
    for wanted in (
        "LICENSE",
        "README.md",
        "build.sh",
        "GppShmPlugin.spec",
        "python/GppShmPlugin.py",
        "tests/conftest.py",
    ):
        assert f"{top}/{wanted}" in names
    again = package(builder, tmp_path / top, "wheel", tmp_path / "again")
    with zipfile.ZipFile(str(wheel)) as first, zipfile.ZipFile(str(again)) as second:
        assert sorted(first.namelist()) == sorted(second.namelist())
        assert any("redhawk/stubs/" in name for name in first.namelist())
