"""The man pages and the completion say all that the commands, the settings and the device have."""

import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as xml

import pytest

from gppshm.cli import shmclean, shminfo, shmtop, shmwatch
from gppshm.redhawk import settings
from places import ROOT
from screens import Screen
from spawning import wait_for

PAPERS = os.path.join(ROOT, "docs", "papers.py")
COMMANDS = [module.COMMAND for module in (shminfo, shmclean, shmwatch, shmtop)]

needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


def run(*argv, **settings):
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=30, **settings
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def made(folder, *options, **environment):
    done = run(sys.executable, *options, PAPERS, str(folder), env=dict(os.environ, **environment))
    assert done == (0, "", "")
    return folder


@pytest.fixture(scope="module")
def papers(tmp_path_factory):
    return made(tmp_path_factory.mktemp("papers"))


def files(folder):
    found = {}
    for path, _, names in os.walk(str(folder)):
        for name in names:
            with open(os.path.join(path, name), "rb") as stream:
                found[os.path.relpath(os.path.join(path, name), str(folder))] = stream.read()
    return found


def options_of(module):
    parser = module.build_parser()
    shown = [action for action in parser._actions if action.help != "==SUPPRESS=="]
    return [word for action in shown for word in action.option_strings]


def read(papers, *path):
    with open(os.path.join(str(papers), *path), encoding="utf-8") as stream:
        return stream.read()


def plain(page):
    return re.sub(r"\\f.", "", page).replace("\\-", "-").replace("\\(aq", "'").replace("\\e", "\\")


def test_there_is_a_page_for_everything_and_a_completion_for_each_command(papers):
    wanted = {f"man/man1/{command}.1" for command in COMMANDS}
    wanted |= {f"bash-completion/completions/{command}" for command in COMMANDS}
    assert set(files(papers)) == wanted | {"man/man5/GppShmPlugin.ini.5", "man/man7/GppShmPlugin.7"}


def test_they_are_the_same_wherever_they_are_made(papers, tmp_path):
    assert files(made(tmp_path, "-I", COLUMNS="40", LC_ALL="C", TZ="Asia/Tokyo")) == files(papers)


@pytest.mark.parametrize("module", [shminfo, shmclean, shmwatch, shmtop])
def test_every_option_is_in_the_page_and_in_the_completion(papers, module):
    page = plain(read(papers, "man", "man1", module.COMMAND + ".1"))
    items = re.findall(r"^\.TP\n(-.*)$", page, re.M)
    assert [word for item in items for word in re.findall(r"(?:^|, )(--?[\w-]+)", item)] == options_of(module)
    words = re.search(
        r"compgen -W '(--?h.*)'", read(papers, "bash-completion", "completions", module.COMMAND)
    )
    assert words.group(1).split() == options_of(module)
    assert "EXIT STATUS" in page and "2 " in page.partition("EXIT STATUS")[2].splitlines()[1]
    assert "%(" not in page


def test_every_setting_is_in_its_page_with_its_default(papers):
    page = plain(read(papers, "man", "man5", "GppShmPlugin.ini.5"))
    items = re.findall(r"^\.TP\n(\w+)\n(.*)$", page, re.M)
    assert [name for name, _ in items] == [setting.name for setting in settings.SETTINGS]
    for (_, text), setting in zip(items, settings.SETTINGS):
        assert setting.comment in text and f"Default: {setting.default}." in text


def test_every_property_and_message_is_in_the_devices_page(papers):
    page = plain(read(papers, "man", "man7", "GppShmPlugin.7"))
    items = [line.split()[0] for line in re.findall(r"^\.TP\n(.*)$", page, re.M)]
    root = xml.parse(os.path.join(ROOT, "GppShmPlugin.prf.xml")).getroot()
    ids = [
        element.get("id") for element in root.iter() if element.tag in ("simple", "struct", "structsequence")
    ]
    inner = {
        element.get("id") for sequence in root.iter("structsequence") for element in sequence.iter("struct")
    }
    assert sorted(items) == sorted(set(ids) - inner)
    properties, messages = page.split(".SH MESSAGES")
    assert "shm::capacity" in properties and "shm::heap_removed" in messages
    for sentence in re.findall(r"<description>([^<]{20,})</description>", read(ROOT, "GppShmPlugin.prf.xml"))[
        1:
    ]:
        assert " ".join(sentence.replace("&lt;", "<").split()) in page


@pytest.mark.skipif(shutil.which("groff") is None, reason="needs groff, of the Debian package groff-base")
def test_groff_has_nothing_to_complain_about(papers):
    for path in files(papers):
        if path.startswith("man/"):
            status, out, errors = run(
                "groff", "-man", "-ww", "-Tutf8", "-Kutf8", os.path.join(str(papers), path)
            )
            assert (status, errors) == (0, "") and len(out) > 500


@pytest.mark.skipif(shutil.which("man") is None, reason="needs man, of the Debian package man-db")
def test_man_shows_each_page_without_a_warning(papers):
    for path in files(papers):
        if path.startswith("man/"):
            status, out, errors = run("man", "--warnings", "-l", os.path.join(str(papers), path))
            assert (status, errors) == (0, "") and "SEE ALSO" in out


def test_wrong_usage_and_a_folder_that_cannot_be_are_a_line(tmp_path):
    assert run(sys.executable, PAPERS) == (2, "", "usage: docs/papers.py OUT\n")
    (tmp_path / "man").write_text("")
    status, _, errors = run(sys.executable, PAPERS, str(tmp_path))
    assert status == 1 and len(errors.splitlines()) == 1 and "man" in errors


HARNESS = """
source "$1"; shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
"_${1//-/_}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


def completed(papers, *words):
    script = os.path.join(str(papers), "bash-completion", "completions", words[0])
    status, out, errors = run("bash", "--norc", "-c", HARNESS, "bash", script, *words)
    assert (status, errors) == (0, "")
    return sorted(out.splitlines())


@needs_bash
def test_options_and_their_values_are_completed(papers):
    assert "--holders" in completed(papers, "redhawk-shminfo", "--ho")
    assert completed(papers, "redhawk-shminfo", "--format", "") == ["auto", "b", "k"]
    assert completed(papers, "redhawk-shminfo", "--sort", "=", "cr") == ["creator"]
    assert completed(papers, "redhawk-shmwatch", "--scope", "=") == ["children", "host"]
    assert completed(papers, "redhawk-shmwatch", "--rescan", "") == [""]


@needs_bash
def test_heaps_are_completed_in_the_directory_that_was_named(papers, tmp_path):
    names = ["heap-1", "heap-12", "heap-2", "a $(touch bad) file;`id`"]
    for name in names:
        (tmp_path / name).write_text("")
    (tmp_path / "heap-folder").mkdir()
    at = ["--root", str(tmp_path)]
    assert completed(papers, "redhawk-shmclean", *at, "heap-1") == ["heap-1", "heap-12"]
    assert completed(papers, "redhawk-shminfo", "--root", "=", str(tmp_path), "") == sorted(names)
    assert completed(papers, "redhawk-shminfo", *at, "--blocks", "heap-") == ["heap-1", "heap-12", "heap-2"]
    assert not os.path.exists("bad")


@needs_bash
def test_what_is_half_typed_in_quotes_is_completed_and_nothing_of_it_is_run(papers, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(str(tmp_path))
    root = tmp_path / "a folder"
    root.mkdir()
    for name in ("heap 77", "heap 78", "it's"):
        (root / name).write_text("")
    for word in ("a\\ folder", "'a folder'", '"a folder"', "~/a\\ folder", str(root).replace(" ", "\\ ")):
        for start in ("heap\\ ", "'heap ", '"heap '):
            assert completed(papers, "redhawk-shmclean", "--root", word, start) == ["heap 77", "heap 78"]
    assert completed(papers, "redhawk-shminfo", "--root", "=", "a\\ folder", "it\\'") == ["it's"]
    assert completed(papers, "redhawk-shmclean", "--root", "$(touch bad)", "`touch bad`") == [""]
    assert not os.path.exists("bad")


@needs_bash
def test_directories_and_files_are_completed(papers, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    at = str(tmp_path) + "/"
    assert completed(papers, "redhawk-shmtop", "--root", at) == [at + "folder"]
    assert completed(papers, "redhawk-shmwatch", "--metrics-textfile", at) == [at + "file", at + "folder"]


@pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux, of the Debian package tmux")
@needs_bash
def test_in_a_terminal_tab_completes(papers, tmp_path):
    (tmp_path / "heap 77").write_text("")
    script = os.path.join(str(papers), "bash-completion", "completions", "redhawk-shminfo")
    with Screen(tmp_path, ["bash", "--norc", "--noprofile", "-i"], width=100) as terminal:
        wait_for(lambda: "$" in terminal.text or "#" in terminal.text)
        terminal.type(f"cd {tmp_path}; PS1='> '; clear; source {script}\n")
        terminal.matches(r"\A>\s*\Z")
        terminal.type("redhawk-shminfo --root . --blo\t")
        terminal.matches(r"--root \. --blocks\b")
        terminal.type("hea\t")
        terminal.shows("--blocks heap\\ 77")
