"""The pictures of README and docs are of real runs, and show what a run shows today."""

import os
import subprocess
import sys

import pytest

from places import DOCS
from screens import needs_terminal

sys.path.append(DOCS)

import terminal_svg  # isort: skip


@pytest.mark.corba
@needs_terminal
def test_the_pictures_say_what_a_run_shows_now():
    pytest.importorskip("omniORB", reason="needs omniORB, which has no wheel for this Python")
    done = subprocess.run(
        [sys.executable, "-s", os.path.join(DOCS, "pictures.py"), "--check"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout.decode()


def test_pictures_differ_by_their_words_and_not_by_their_numbers():
    picture = terminal_svg.svg("\x1b[31mheap-12\x1b[0m alive <4.0M>", "x")
    assert terminal_svg.words(picture) == ["alive", "heap"]
    assert terminal_svg.words(terminal_svg.svg("heap-9 alive", "x")) == ["alive", "heap"]
    assert terminal_svg.words(terminal_svg.svg("heap-12 orphaned", "x")) != ["alive", "heap"]


def test_a_picture_has_the_colours_of_the_terminal():
    shown = terminal_svg.svg("\x1b[38;2;1;2;3;1mred\x1b[7mback\x1b[0m plain", "x")
    assert 'fill="#010203" font-weight="bold">red</text>' in shown
    assert 'fill="#010203"/>' in shown and ">plain</text>" in shown
