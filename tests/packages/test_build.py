"""Promises of build.sh and of the commands' launchers (gppshm.launcher)."""

import os
import shutil
import stat
import sys

import pytest

from gppshm import launcher
from places import ROOT
from spawning import run_command

SITEPACKAGES = os.path.join(ROOT, "python", "gppshm", "sitepackages.py")

# Stands where a command's module stands, and shows what a command started by the real launcher sees.
PROBE = """\
import os, sys
def main():
    print(ascii([sys.argv, sys.path, sys.executable, os.__file__, "site" in sys.modules, sys.flags.isolated]))
    return 3
"""


def run(*command, **options):
    return run_command(command, **options)


def python_at(folder):
    """This interpreter, by a name in `folder`."""
    os.makedirs(folder)
    path = os.path.join(folder, "python")
    os.symlink(os.path.realpath(sys.executable), path)
    return path


def command_in(folder, module=PROBE):
    """A real launcher of redhawk-shminfo in `folder`/bin for a package in `folder`/lib; their paths."""
    package = os.path.join(folder, "lib", "gppshm")
    os.makedirs(os.path.join(package, "cli"))
    os.makedirs(os.path.join(folder, "bin"))
    for name, text in (("__init__.py", ""), ("cli/__init__.py", ""), ("cli/shminfo.py", module)):
        with open(os.path.join(package, name), "w") as stream:
            stream.write(text)
    shutil.copy(SITEPACKAGES, package)
    interpreter = python_at(os.path.join(folder, "py"))
    status = launcher.main(
        ["--bin", os.path.join(folder, "bin"), "--python", interpreter]
        + ["--package-dir", os.path.join(folder, "lib"), "redhawk-shminfo"]
    )
    assert status == 0
    return os.path.join(folder, "bin", "redhawk-shminfo"), os.path.join(folder, "lib"), interpreter


FOLDERS = {
    "plain": b"plain",
    "spaces": b"with two  spaces ",
    "quotes": b"it's \"so\" '''odd''' `id` $HOME",
    "backslashes": b"a\\nb\\x\\N\\",
    "utf8": "gr\u00fc\u00df \u96ea".encode("utf-8"),
    "no-utf8": b"\xff\xfe",
    "newline": b"two\nlines",
    "long": b"l" * 200,
}


@pytest.mark.parametrize("folder", sorted(FOLDERS))
def test_a_command_starts_from_any_path_with_its_arguments_and_exit_status(tmp_path, folder):
    folder = os.fsdecode(os.path.join(os.fsencode(str(tmp_path)), FOLDERS[folder]))
    command, package_dir, interpreter = command_in(folder)
    result = run(command, "a  b", "-x", "'\"$HOME\\", env={"LC_ALL": "C.UTF-8"})
    assert result.stderr == ""
    assert result.returncode == 3
    argv, path, executable = eval(result.stdout)[:3]
    assert argv == [command, "a  b", "-x", "'\"$HOME\\"]
    assert path[-1] == package_dir
    assert executable == interpreter


def test_a_short_plain_path_is_started_without_a_shell_between(tmp_path):
    text = launcher.launcher("redhawk-shminfo", "gppshm.cli.shminfo", "/opt/x/bin/python", "/opt/x/lib")
    assert text.startswith(b"#!/opt/x/bin/python -IS\n")
    for path in ("/opt/" + "x" * 120, "/opt/a b", "/opt/\u00fc"):
        assert launcher.launcher("n", "m", path, "/opt/x/lib").startswith(b"#!/bin/sh\n")


def test_nothing_is_imported_from_pythonpath_the_current_directory_or_the_user(tmp_path):
    command, package_dir, _ = command_in(str(tmp_path / "x"))
    hostile = tmp_path / "hostile"
    user_site = (
        tmp_path / "home" / ".local" / "lib" / ("python%d.%d" % sys.version_info[:2]) / "site-packages"
    )
    (hostile / "gppshm").mkdir(parents=True)
    user_site.mkdir(parents=True)
    for name in (
        "os.py",
        "gppshm.py",
        "gppshm/__init__.py",
        "site.py",
        "sitecustomize.py",
        "usercustomize.py",
    ):
        (hostile / name).write_text("raise SystemExit('hostile')\n")
    (user_site / "usercustomize.py").write_text("raise SystemExit('hostile')\n")
    (user_site / "hostile.pth").write_text("import sys; sys.exit('hostile')\n")
    env = {
        "PYTHONPATH": str(hostile),
        "HOME": str(tmp_path / "home"),
        "PYTHONSTARTUP": str(hostile / "os.py"),
    }
    for folder in (str(hostile), str(tmp_path)):
        result = run(command, cwd=folder, env=env)
        assert result.stderr == ""
        assert result.returncode == 3
        _, path, _, os_file, site_loaded, isolated = eval(result.stdout)
        assert path[-1] == package_dir
        assert not [entry for entry in path if entry.startswith(str(tmp_path)) and entry != package_dir]
        assert not [entry for entry in path if entry == "" or entry.endswith("-packages")]
        assert not os_file.startswith(str(tmp_path))
        assert not site_loaded
        assert isolated
    # The trap is one: without the launcher's flags it closes.
    assert "hostile" in run(sys.executable, "-c", "import gppshm", cwd=str(hostile)).stderr


def test_enabling_site_packages_adds_the_environments_own_and_not_the_users(tmp_path):
    environment = str(tmp_path / "an environment")
    made = run(os.path.realpath(sys.executable), "-I", "-m", "venv", "--without-pip", environment)
    assert made.returncode == 0, made.stderr
    installed = os.path.join(environment, "lib", "python%d.%d" % sys.version_info[:2], "site-packages")
    with open(os.path.join(installed, "gppshm_probe.py"), "w") as stream:
        stream.write("HERE = 1\n")
    hostile = tmp_path / "hostile"
    hostile.mkdir()
    home = tmp_path / "home"
    user_site = home / ".local" / "lib" / ("python%d.%d" % sys.version_info[:2]) / "site-packages"
    user_site.mkdir(parents=True)
    module = PROBE.replace(
        "    print(",
        "    from gppshm.sitepackages import enable\n"
        "    try:\n        import gppshm_probe\n"
        "    except ImportError:\n        pass\n"
        "    else:\n        return 4\n"
        "    enable(); enable()\n"
        "    import gppshm_probe\n"
        "    print(",
    )
    folder = str(tmp_path / "x")
    command, package_dir, _ = command_in(folder, module)
    text = launcher.launcher(
        "redhawk-shminfo", "gppshm.cli.shminfo", os.path.join(environment, "bin", "python"), package_dir
    )
    launcher.install(command, text)
    result = run(command, cwd=str(hostile), env={"HOME": str(home), "PYTHONPATH": str(hostile)})
    assert (result.returncode, result.stderr) == (3, "")
    path = eval(result.stdout)[1]
    assert path.count(installed) == 1
    assert path.index(package_dir) < path.index(installed)
    assert str(user_site) not in path
    assert str(hostile) not in path
    assert "" not in path


@pytest.mark.parametrize("fault", ["raise ImportError('no such thing')", "def main(:", "main = 1 / 0", None])
def test_a_command_that_cannot_be_loaded_says_so_in_one_line(tmp_path, fault):
    command, package_dir, _ = command_in(str(tmp_path / "x"), fault or "")
    if fault is None:
        shutil.rmtree(package_dir)
    result = run(command)
    assert result.returncode == 1
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("redhawk-shminfo: cannot start: ")
    assert package_dir in result.stderr


def test_a_command_is_replaced_in_one_step_and_executable_whatever_the_umask(tmp_path):
    path = str(tmp_path / "redhawk-shminfo")
    launcher.install(path, b"old")
    with open(path, "rb") as in_use:
        umask = os.umask(0o077)
        try:
            launcher.install(path, b"new")
        finally:
            os.umask(umask)
        assert in_use.read() == b"old"
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o755
    assert os.listdir(str(tmp_path)) == ["redhawk-shminfo"]


def test_the_launchers_command_line_says_what_is_wrong(tmp_path, capsys):
    for arguments in (["--python", "python3"], ["--package-dir", "."], ["redhawk-rm"], []):
        where = ["--bin", str(tmp_path)] if arguments else []
        with pytest.raises(SystemExit) as caught:
            launcher.main(where + arguments)
        assert caught.value.code == 2
    assert os.listdir(str(tmp_path)) == []
    capsys.readouterr()
    assert launcher.main(["--bin", str(tmp_path / "absent")]) == 1
    assert "absent/redhawk-shm" in capsys.readouterr().err


def build(*arguments, **environment):
    return run("bash", os.path.join(ROOT, "build.sh"), *arguments, env=dict(os.environ, **environment))


def test_build_refuses_an_unknown_command_with_its_usage_on_stderr():
    result = build("biuld")
    assert result.returncode == 2
    assert result.stdout == ""
    assert "unknown command: biuld" in result.stderr
    assert "usage:" in result.stderr


def test_build_help_goes_to_stdout():
    result = build("help")
    assert (result.returncode, result.stderr) == (0, "")
    for command in ("build", "run", "test", "bench", "clean", "help"):
        assert "\n  %s " % command in result.stdout


def test_build_names_an_interpreter_that_it_cannot_use_in_one_line(tmp_path):
    result = build("build", PYTHON=str(tmp_path / "absent"), VENV=str(tmp_path / "venv"))
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert "absent" in result.stderr
    assert "PYTHON=" in result.stderr


@pytest.mark.skipif(sys.version_info < (3, 7), reason="build.sh needs CPython 3.7")
def test_everybody_may_run_what_is_built_with_a_closed_umask(tmp_path):
    """As far as it goes without the packages, which pip installs likewise."""
    place = tmp_path / "env"
    environment = dict(
        os.environ, VENV=str(place), PYTHON=sys.executable, PIP_INDEX_URL="http://127.0.0.1:9/simple"
    )
    environment.update(PIP_RETRIES="0", PIP_NO_CACHE_DIR="1", PIP_CONFIG_FILE=os.devnull)
    run("sh", "-c", f'umask 077; exec "{ROOT}/build.sh" build', env=environment)
    seen = 0
    for folder, folders, names in os.walk(str(place)):
        for name in folders + names:
            status = os.lstat(os.path.join(folder, name))
            wanted = 0o055 if stat.S_ISDIR(status.st_mode) else 0o044
            assert stat.S_ISLNK(status.st_mode) or status.st_mode & wanted == wanted, name
            seen += 1
    assert seen > 100


def test_build_never_replaces_a_folder_that_it_did_not_make(tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis").write_text("text")
    result = build("build", PYTHON=os.path.realpath(sys.executable), VENV=str(mine))
    if sys.version_info >= (3, 7):
        assert "not touched" in result.stderr
    assert result.returncode == 1
    assert (mine / "thesis").read_text() == "text"
