"""A real terminal for the tests: runs redhawk-shmtop in tmux, reads its screen, and presses keys."""

import os
import re
import shutil
import subprocess
import sys
import time

import pytest

from places import FOLDERS

COMMAND = f"import sys; sys.path[:0] = {FOLDERS!r}; from gppshm.cli.shmtop import main; sys.exit(main())"
TOP = (sys.executable, "-s", "-c", COMMAND)
UTF8 = {"LC_ALL": "C.UTF-8", "NO_COLOR": "", "PROMPT_TOOLKIT_COLOR_DEPTH": "", "COLUMNS": ""}
NAMED_KEYS = {"PageDown": "NPage", "PageUp": "PPage"}

try:
    import prompt_toolkit
except ImportError:
    prompt_toolkit = None

needs_terminal = pytest.mark.skipif(
    shutil.which("tmux") is None or prompt_toolkit is None,
    reason="needs tmux, of the Debian package tmux, and prompt_toolkit",
)


class Screen:
    """A terminal that runs a command; when the command has ended, its status is on the screen."""

    def __init__(self, folder, command, width=80, height=24, environment=None, term="screen-256color"):
        self._tmux = ["tmux", "-S", os.path.join(str(folder), "tmux.socket"), "-f", os.devnull]
        settings = dict(UTF8, **(environment or {}))
        pairs = [f"{name}={value}" for name, value in settings.items() if value]
        unset = [word for name, value in settings.items() if not value for word in ("-u", name)]
        shell = f'TERM={term} "$@"; echo "status $?"; stty -a; exec cat'
        self.tmux(
            "-u", "new-session", "-d", "-x", str(width), "-y", str(height),
            "env", *unset, *pairs, "sh", "-c", shell, "sh", *command,
        )  # fmt: skip

    def tmux(self, *arguments):
        done = subprocess.run(
            [*self._tmux, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            timeout=30,
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode("utf-8", "replace")

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.tmux("kill-server")

    @property
    def text(self):
        """The current text of the screen."""
        return self.tmux("capture-pane", "-p")

    @property
    def lines(self):
        return self.text.splitlines()

    @property
    def styled(self):
        """The current screen with the escape sequences of colours and styles."""
        return self.tmux("capture-pane", "-p", "-e")

    def press(self, *keys):
        for key in keys:
            self.tmux("send-keys", NAMED_KEYS.get(key, key))

    def type(self, words):
        self.tmux("send-keys", "-l", words)

    def click(self, word, button=0):
        """Press and release a mouse button on the first occurrence of the word."""
        for number, line in enumerate(self.lines):
            if word in line:
                at = f"{line.index(word) + 1};{number + 1}"
                self.type(f"\033[<{button};{at}M\033[<{button};{at}m")
                return
        pytest.fail(f"{word} is not on the screen:\n{self.text}")

    def paste(self, words):
        self.tmux("set-buffer", words)
        self.tmux("paste-buffer", "-p")

    def resize(self, width, height):
        self.tmux("resize-window", "-x", str(width), "-y", str(height))

    def shows(self, *wanted, deadline=10.0):
        """Wait until all of these are on the screen; returns its text, or fails with it."""
        return self.so(lambda text: all(word in text for word in wanted), deadline, wanted)

    def shows_no(self, *unwanted, deadline=10.0):
        return self.so(lambda text: not any(word in text for word in unwanted), deadline, f"not {unwanted}")

    def matches(self, pattern, deadline=10.0):
        return self.so(lambda text: re.search(pattern, text, re.M), deadline, pattern)

    def so(self, predicate, deadline=10.0, what=""):
        """Wait until `predicate(text)` is true for the text of the screen."""
        end = time.monotonic() + deadline
        while True:
            text = self.text
            if predicate(text):
                return text
            if time.monotonic() > end:
                pytest.fail(f"not so within {deadline} seconds: {what}\n{text}")

    @property
    def pid(self):
        """The pid of the command."""
        shell = self.tmux("list-panes", "-F", "#{pane_pid}").split()[0]
        with open(f"/proc/{shell}/task/{shell}/children") as stream:
            return int(stream.read().split()[0])

    def ended(self, deadline=10.0):
        """Wait for the end of the command; returns its status. Checks that the terminal is restored."""
        text = self.matches(r"^status \d+", deadline)
        self.matches(r"\bextproc\b|\bechoprt\b")  # among the last settings that stty lists
        for setting in ("icanon", "echo", "opost", "isig"):
            assert re.search(rf"(^| ){setting}\b", self.text, re.M), self.text
        assert self.tmux("display", "-p", "#{alternate_on}#{mouse_any_flag}#{cursor_flag}").strip() == "001"
        return int(re.search(r"^status (\d+)", text, re.M).group(1))


class Top(Screen):
    """The display of a directory, after its first frame."""

    def __init__(self, folder, root, *arguments, **options):
        super().__init__(folder, [*TOP, f"--root={root}", *arguments], **options)
        try:
            self.shows(" heap", "orphaned")
        except BaseException:
            self.__exit__()
            raise

    def names(self):
        """The names of the heaps in the table, from the top."""
        names = []
        for line in self.lines:
            if "removed lately" in line:
                break
            names += re.findall(r"^heap-\d+", line)
        return names
