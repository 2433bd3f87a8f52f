"""Promises of ./build.sh install and uninstall: the GPP plugin, and with it the device and the examples."""

# ruff: noqa: F811 (pytest finds fixtures by name: they are imported, and are arguments)

import fcntl
import hashlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile

import pytest

from gppshm.redhawk import settings

pytestmark = pytest.mark.corba
pytest.importorskip("omniORB", reason="needs omniORB, which has no wheel for this Python")

from devices import ROOT, Running, manager  # noqa: E402, F401
from plugins import NAME, install  # noqa: E402

LACKING = "the device, the example nodes and the waveforms are not installed:"
DCD = "dev/nodes/GppShmNode/DeviceManager.dcd.xml"
EXAMPLES = [
    DCD,
    "dev/nodes/GppShmDeviceNode/DeviceManager.dcd.xml",
    "dom/waveforms/shm_reserve/shm_reserve.sad.xml",
    "dom/waveforms/shm_reserve_collocated/shm_reserve_collocated.sad.xml",
    "dom/waveforms/shm_reserve_host/shm_reserve_host.sad.xml",
]


@pytest.fixture
def sdrroot(tmp_path):
    path = tmp_path / "my sdr"
    path.mkdir()
    return str(path)


def folder(sdrroot):
    return os.path.join(sdrroot, "dev", "devices", "GPP", "plugins", NAME)


def done_install(sdrroot):
    """What it said."""
    done = install("install", "--sdrroot", sdrroot, "--python", sys.executable)
    assert done.returncode == 0, done.stderr
    return done.stdout


def everything(path):
    """Name -> (inode, mode, time of change) of every file below `path`."""
    found = {}
    for place, _, names in os.walk(path):
        for name in names:
            status = os.stat(os.path.join(place, name))
            found[os.path.relpath(os.path.join(place, name), path)] = (
                status.st_ino,
                stat.S_IMODE(status.st_mode),
                status.st_mtime_ns,
            )
    return found


def libraries(sdrroot, place=folder):
    return sorted(name for name in os.listdir(place(sdrroot)) if name.startswith("lib-"))


def read(*path):
    with open(os.path.join(*path), encoding="utf-8") as stream:
        return stream.read()


def write(text, *path):
    os.makedirs(os.path.dirname(os.path.join(*path)), exist_ok=True)
    with open(os.path.join(*path), "w", encoding="utf-8") as stream:
        stream.write(text)


def test_it_puts_an_executable_a_package_and_an_example_where_the_gpp_looks(sdrroot):
    said = done_install(sdrroot)
    program = os.path.join(folder(sdrroot), NAME)
    assert f"installed: {program}" in said
    assert "restart the GPP" in said
    assert sorted(os.listdir(folder(sdrroot))) == sorted([NAME, NAME + ".ini.example", *libraries(sdrroot)])
    assert len(libraries(sdrroot)) == 1
    version = subprocess.check_output([program, "--version"], cwd="/", env={"PYTHONPATH": ""})
    assert version.startswith(b"GppShmPlugin ")
    assert sorted(os.listdir(sdrroot)) == ["dev", "dom"]


@pytest.mark.parametrize("umask", [0o077, 0o027])
def test_everybody_may_read_what_was_installed_with_a_closed_umask(sdrroot, umask):
    before = os.umask(umask)
    try:
        done_install(sdrroot)
    finally:
        os.umask(before)
    for place, folders, names in os.walk(folder(sdrroot)):
        for name in names:
            mode = os.stat(os.path.join(place, name)).st_mode
            assert mode & 0o044 == 0o044, name
        for name in folders:
            assert os.stat(os.path.join(place, name)).st_mode & 0o055 == 0o055, name
    path = folder(sdrroot)
    while path != sdrroot:
        assert os.stat(path).st_mode & 0o055 == 0o055, path
        path = os.path.dirname(path)


def test_a_second_install_changes_nothing(sdrroot):
    done_install(sdrroot)
    before = everything(sdrroot)
    done_install(sdrroot)
    assert everything(sdrroot) == before


def test_a_damaged_file_is_put_right(sdrroot):
    done_install(sdrroot)
    (library,) = libraries(sdrroot)
    damaged = os.path.join(folder(sdrroot), library, "gppshm", "watch.py")
    with open(damaged) as stream:
        whole = stream.read()
    with open(damaged, "w") as stream:
        stream.write("garbage(")
    done_install(sdrroot)
    with open(damaged) as stream:
        assert stream.read() == whole


def test_an_update_keeps_the_files_of_a_running_plugin_and_removes_them_later(sdrroot):
    done_install(sdrroot)
    old = os.path.join(folder(sdrroot), "lib-0123456789ab")
    shutil.copytree(os.path.join(folder(sdrroot), libraries(sdrroot)[0]), old)
    fd = os.open(old, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
        assert "a running plugin still uses lib-0123456789ab" in done_install(sdrroot)
        assert os.path.isfile(os.path.join(old, NAME + ".py"))
    finally:
        os.close(fd)
    done_install(sdrroot)
    assert not os.path.exists(old)


def test_settings_survive_an_update_and_an_uninstall(sdrroot):
    done_install(sdrroot)
    ini = os.path.join(folder(sdrroot), NAME + ".ini")
    with open(ini, "w") as stream:
        stream.write("[GppShmPlugin]\n")
    done_install(sdrroot)
    done = install("uninstall", "--sdrroot", sdrroot)
    assert done.returncode == 0
    assert os.listdir(folder(sdrroot)) == [NAME + ".ini"]
    assert NAME + ".ini" in done.stdout


def test_uninstall_removes_what_install_made_and_nothing_else(sdrroot):
    neighbour = os.path.join(os.path.dirname(folder(sdrroot)), "Other", "Other")
    os.makedirs(os.path.dirname(neighbour))
    with open(neighbour, "w") as stream:
        stream.write("#!/bin/sh\n")
    before = everything(sdrroot)
    done_install(sdrroot)
    for _ in range(2):
        done = install("uninstall", "--sdrroot", sdrroot)
        assert done.returncode == 0
        assert everything(sdrroot) == before
        assert not os.path.exists(folder(sdrroot))


def test_uninstall_leaves_no_empty_folder_that_install_made(sdrroot):
    done_install(sdrroot)
    assert install("uninstall", "--sdrroot", sdrroot).returncode == 0
    assert os.listdir(sdrroot) == []


def test_uninstall_leaves_empty_folders_that_were_there_before(sdrroot):
    there = ["dev/nodes", "dom/waveforms", "dev/devices/GPP/cpp"]
    for name in there:
        os.makedirs(os.path.join(sdrroot, name))
    for _ in range(2):  # an update forgets nothing
        done_install(sdrroot)
    assert install("uninstall", "--sdrroot", sdrroot).returncode == 0
    left = [os.path.relpath(place, sdrroot) for place, folders, _ in os.walk(sdrroot) if not folders]
    assert sorted(left) == sorted(there)


@pytest.fixture
def public(tmp_path):
    """A folder that everybody can reach."""
    folder = tempfile.mkdtemp(prefix="gppshm-test-", dir="/tmp")
    os.chmod(folder, 0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("closed", [0o700, 0o750])
def test_an_interpreter_that_others_cannot_run_is_refused_where_they_can_reach_the_sdrroot(public, closed):
    home, sdrroot = os.path.join(public, "home"), os.path.join(public, "sdr")
    for folder_ in (home, sdrroot):
        os.mkdir(folder_)
    python = os.path.join(home, "python")
    with open(python, "w") as stream:
        stream.write(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    os.chmod(python, 0o755)
    os.chmod(home, closed)
    done = install("install", "--sdrroot", sdrroot, "--python", python, env=dict(os.environ, PYTHONPATH=""))
    assert done.returncode == 1 and os.listdir(sdrroot) == []
    assert f"{home} (mode {closed:o}) is closed to other users, who can reach {sdrroot}" in done.stderr
    assert "--python FILE" in done.stderr and done.stderr.count("\n") == 1
    # What only its own user can reach needs an interpreter for that one only.
    os.chmod(sdrroot, 0o700)
    done = install("install", "--sdrroot", sdrroot, "--python", python, env=dict(os.environ, PYTHONPATH=""))
    assert done.returncode == 0, done.stderr


def test_a_plugin_of_somebody_elses_by_that_name_is_not_touched(sdrroot):
    os.makedirs(folder(sdrroot))
    program = os.path.join(folder(sdrroot), NAME)
    with open(program, "w") as stream:
        stream.write("#!/bin/sh\n")
    before = everything(sdrroot)
    for command in ("install", "uninstall"):
        done = install(command, "--sdrroot", sdrroot)
        assert done.returncode == 1
        assert "was not installed by this" in done.stderr
        assert everything(sdrroot) == before


@pytest.mark.parametrize("sdrroot", [None, "", "/nowhere"])
def test_without_an_sdrroot_it_says_so(sdrroot):
    environment = {name: value for name, value in os.environ.items() if name != "SDRROOT"}
    arguments = [] if sdrroot is None else ["--sdrroot", sdrroot]
    for command in ("install", "uninstall"):
        done = install(command, *arguments, env=environment)
        assert done.returncode == 1
        assert "set SDRROOT" in done.stderr.replace("Set", "set")
        assert done.stderr.count("\n") == 1


def test_sdrroot_may_come_from_the_environment(sdrroot):
    done = install("install", "--python", sys.executable, env=dict(os.environ, SDRROOT=sdrroot))
    assert done.returncode == 0, done.stderr
    assert libraries(sdrroot)


@pytest.mark.parametrize(
    ("python", "words"), [("/nowhere/python", "is no program"), ("true", "does not run")]
)
def test_an_interpreter_that_cannot_do_it_is_refused_and_nothing_put_in_place(sdrroot, python, words):
    done = install("install", "--sdrroot", sdrroot, "--python", python)
    assert done.returncode == 1
    assert words in done.stderr
    assert everything(sdrroot) == {}


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """The folder of a python3 that has nothing."""
    venv = str(tmp_path_factory.mktemp("bare"))
    subprocess.check_call([sys.executable, "-I", "-m", "venv", "--without-pip", venv])
    return os.path.join(venv, "bin")


def test_an_interpreter_without_omniorb_is_refused_and_told_where_to_get_it(sdrroot, bare):
    done = install("install", "--sdrroot", sdrroot, "--python", os.path.join(bare, "python"))
    assert done.returncode == 1
    assert "cannot import omniORB" in done.stderr
    assert "python3-omniORB" in done.stderr and "jeteve-omniorb" in done.stderr
    assert everything(sdrroot) == {}


def test_with_the_environment_of_redhawk_2_3_it_takes_the_interpreter_that_has_omniorb(
    sdrroot, bare, tmp_path
):
    """There a Python 3 can import `ossie.cf`, and neither the rest of that ossie nor omniORB."""
    for name in ("__init__.py", "cf/__init__.py"):
        write("", str(tmp_path), "ossie", name)
    write("print 'for Python 2'\n", str(tmp_path), "ossie", "device.py")
    environment = dict(os.environ, PYTHONPATH=str(tmp_path), PATH=bare + os.pathsep + os.environ["PATH"])
    done = install("install", "--sdrroot", sdrroot, env=environment)
    assert done.returncode == 0, done.stderr
    assert f"its interpreter is {sys.executable}:" in done.stdout
    told = subprocess.check_output([entry_point(sdrroot), "--check"], cwd="/", env={"PYTHONPATH": ""})
    assert told.startswith(b"GppShmPlugin ")


def test_a_python3_that_finds_omniorb_by_the_environment_is_taken_and_finds_it_without(
    sdrroot, bare, tmp_path
):
    import omniORB

    packages = os.path.dirname(os.path.dirname(os.path.abspath(omniORB.__file__)))
    environment = dict(os.environ, PYTHONPATH=packages, PATH=bare + os.pathsep + os.environ["PATH"])
    done = install("install", "--sdrroot", sdrroot, env=environment)
    assert done.returncode == 0, done.stderr
    assert f"its interpreter is {os.path.join(bare, 'python3')}:" in done.stdout
    for program in (os.path.join(folder(sdrroot), NAME), entry_point(sdrroot)):
        told = subprocess.check_output([program, "--check"], cwd="/", env={"PYTHONPATH": ""})
        assert told.startswith(b"GppShmPlugin ")


# With the device


def device_folder(sdrroot):
    return os.path.join(sdrroot, "dev", "devices", NAME, "python")


def entry_point(sdrroot):
    return os.path.join(device_folder(sdrroot), NAME + ".py")


@pytest.fixture(scope="module")
def installed_once(tmp_path_factory):
    sdrroot = str(tmp_path_factory.mktemp("whole"))
    return sdrroot, done_install(sdrroot)


@pytest.fixture
def whole(sdrroot, installed_once):
    """An SDRROOT with plugin, device and examples; all of it may be moved."""
    os.rmdir(sdrroot)
    shutil.copytree(installed_once[0], sdrroot, symlinks=True)
    return sdrroot


@pytest.fixture
def launch(tmp_path, shm_root, manager):
    """launch(program): an installed device, `Running`."""
    running = []

    def launch(program):
        place = tmp_path / f"run {len(running)}"
        place.mkdir()
        running.append(Running(place, shm_root, manager, program=program))
        return running[-1]

    yield launch
    for device in running:
        device.close()


def test_the_device_is_there_as_its_profile_says(installed_once):
    sdrroot, said = installed_once
    assert f"installed: {entry_point(sdrroot)}" in said
    assert "not installed" not in said
    top = os.path.dirname(device_folder(sdrroot))
    for kind in ("spd", "scd", "prf"):
        assert read(top, f"{NAME}.{kind}.xml") == read(ROOT, f"{NAME}.{kind}.xml")
    assert "<entrypoint>python/GppShmPlugin.py</entrypoint>" in read(top, f"{NAME}.spd.xml")
    (library,) = libraries(sdrroot, device_folder)
    assert sorted(os.listdir(device_folder(sdrroot))) == sorted(
        [NAME + ".py", NAME + ".ini.example", library]
    )


def test_the_installed_device_registers_and_answers(whole, launch, manager, shm_root):
    device = launch(entry_point(whole))
    assert device.query("shm::usage")["path"] == shm_root
    assert device.ref._get_softwareProfile() == "/devices/GppShmPlugin/GppShmPlugin.spd.xml"
    assert device.end() == 0
    assert manager.devices == []


def test_the_devices_settings_are_those_that_are_no_properties(whole, tmp_path):
    example = os.path.join(device_folder(whole), NAME + ".ini.example")
    lines = [
        line[1:] for line in read(example).splitlines() if line[0:1] == "#" and line[1:2] not in (" ", "")
    ]
    assert [line.split(" = ")[0] for line in lines] == ["metrics", "metrics_textfile", "log_level", "root"]
    write("\n".join(["[GppShmPlugin]", *lines]), str(tmp_path), "ini")
    assert settings.read(str(tmp_path / "ini"))[1] == []


def test_the_examples_are_there(whole):
    for path in EXAMPLES:
        assert read(whole, path) == read(ROOT, path.partition("/")[2])
    assert sorted(os.listdir(whole)) == ["dev", "dom"]


def test_it_says_that_a_copied_example_needs_an_id_of_its_own(installed_once):
    assert "give the copy a name and an id\n  of its own" in installed_once[1]


def test_it_says_what_the_examples_need_and_is_not_there(whole):
    gpp, sine = "dev/devices/GPP/GPP.spd.xml", "dom/components/rh/SigGen/SigGen.spd.xml"
    nodes, waveforms = "GppShmDeviceNode, GppShmNode", "shm_reserve, shm_reserve_collocated, shm_reserve_host"
    lines = {
        path: f"note: there is no {os.path.join(whole, path)} yet, which these need: {names}\n"
        for path, names in ((gpp, nodes), (sine, waveforms))
    }
    said = done_install(whole)
    assert all(line in said for line in lines.values()) and said.count("which these need") == 2
    write("", whole, sine)
    said = done_install(whole)
    assert lines[gpp] in said and lines[sine] not in said
    write("", whole, gpp)
    assert "which these need" not in done_install(whole)


def test_a_second_install_with_the_device_changes_nothing(whole):
    before = everything(whole)
    done_install(whole)
    assert everything(whole) == before


def test_uninstall_leaves_no_file_of_device_and_examples(whole):
    mine = os.path.join(whole, "dev", "nodes", "mine", "DeviceManager.dcd.xml")
    write("<mine/>", mine)
    for _ in range(2):
        done = install("uninstall", "--sdrroot", whole)
        assert (done.returncode, done.stderr) == (0, "")
        assert "left" not in done.stdout
        assert list(everything(whole)) == [os.path.relpath(mine, whole)]
    for path in EXAMPLES:
        assert not os.path.exists(os.path.dirname(os.path.join(whole, path)))
    assert os.listdir(os.path.join(whole, "dev")) == ["nodes"]


def old_version(sdrroot):
    """Make what is installed the device of an older package; the entry point."""
    (library,) = libraries(sdrroot, device_folder)
    place = device_folder(sdrroot)
    os.rename(os.path.join(place, library), os.path.join(place, "lib-0123456789ab"))
    write(read(entry_point(sdrroot)).replace(library, "lib-0123456789ab"), entry_point(sdrroot))
    return entry_point(sdrroot)


def test_an_update_does_not_disturb_a_running_device(whole, launch):
    device = launch(old_version(whole))
    assert "a running device still uses lib-0123456789ab" in done_install(whole)
    assert len(libraries(whole, device_folder)) == 2
    assert "0123456789ab" not in read(entry_point(whole))
    device.query("shm::heaps")
    assert device.end() == 0
    device = launch(entry_point(whole))
    device.query("shm::heaps")
    done_install(whole)
    assert len(libraries(whole, device_folder)) == 1
    assert device.end() == 0


def test_uninstall_does_not_disturb_a_running_device(whole, launch):
    device = launch(entry_point(whole))
    os.unlink(os.path.join(device_folder(whole), NAME + ".ini"))
    done = install("uninstall", "--sdrroot", whole)
    assert done.returncode == 0, done.stderr
    assert "a running device still uses its files" in done.stdout
    (library,) = os.listdir(device_folder(whole))
    assert os.path.join(device_folder(whole), library) in done.stdout
    device.query("shm::heaps")
    assert device.end() == 0
    install("uninstall", "--sdrroot", whole)
    assert everything(whole) == {}


def test_an_example_that_was_changed_is_kept_and_ours_put_beside_it(whole):
    write("<changed/>", whole, DCD)
    for _ in range(2):
        said = done_install(whole)
        dcd = os.path.join(whole, DCD)
        assert f"kept, as it was changed: {dcd}; ours is beside it: {dcd}.new" in said
        assert read(dcd) == "<changed/>"
        assert read(dcd + ".new") == read(ROOT, DCD.partition("/")[2])
    assert said.count("kept") == 1
    done = install("uninstall", "--sdrroot", whole)
    assert done.returncode == 0
    assert dcd in done.stdout
    assert list(everything(whole)) == [DCD]


def test_an_example_that_was_put_right_is_an_example_again(whole):
    write("<changed/>", whole, DCD)
    done_install(whole)
    os.rename(os.path.join(whole, DCD + ".new"), os.path.join(whole, DCD))
    assert "kept" not in done_install(whole)
    assert os.listdir(os.path.dirname(os.path.join(whole, DCD))) == ["DeviceManager.dcd.xml"]
    install("uninstall", "--sdrroot", whole)
    assert everything(whole) == {}


def test_an_example_of_an_older_version_is_updated_unless_it_was_changed(whole):
    record = os.path.join(os.path.dirname(device_folder(whole)), "installed.sha256")
    lines = [line for line in read(record).splitlines() if not line.endswith((DCD, EXAMPLES[2]))]
    digest = hashlib.sha256(b"<old/>").hexdigest()
    names = [DCD, EXAMPLES[2], "dom/waveforms/dropped/dropped.sad.xml"]
    write("\n".join([*lines, *(f"{digest}  {name}" for name in names)]), record)
    for name in names:
        write("<old/>", whole, name)
    write("<changed/>", whole, EXAMPLES[2])
    done_install(whole)
    assert read(whole, DCD) == read(ROOT, DCD.partition("/")[2])
    assert read(whole, EXAMPLES[2]) == "<changed/>"
    assert not os.path.exists(os.path.join(whole, "dom", "waveforms", "dropped"))


def test_a_node_of_the_users_own_by_that_name_is_kept(sdrroot):
    write("<mine/>", sdrroot, DCD)
    write("<mine, too/>", sdrroot, DCD + ".new")
    assert f"kept, as it was changed: {os.path.join(sdrroot, DCD)}\n" in done_install(sdrroot)
    assert install("uninstall", "--sdrroot", sdrroot).returncode == 0
    assert (read(sdrroot, DCD), read(sdrroot, DCD + ".new")) == ("<mine/>", "<mine, too/>")
    assert set(everything(sdrroot)) == {DCD, DCD + ".new"}


@pytest.mark.parametrize("file", [f"python/{NAME}.py", f"{NAME}.spd.xml"])
def test_a_device_of_somebody_elses_by_that_name_is_not_touched(sdrroot, file):
    top = os.path.dirname(device_folder(sdrroot))
    write('<softpkg id="DCE:other" name="GppShmPlugin"/>', top, file)
    said = done_install(sdrroot)
    assert f"{LACKING}\n  {top} has a device that was not installed by this" in said
    done = install("uninstall", "--sdrroot", sdrroot)
    assert done.returncode == 1
    assert f"{top}: the GppShmPlugin there was not installed by this" in done.stderr
    assert list(everything(top)) == [file]
    assert not os.path.exists(folder(sdrroot))
