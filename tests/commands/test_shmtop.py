"""The display: driven in a real terminal, by keys and mouse, and looked at on its screen."""

import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time

import pytest

import heapwriter
from cleaning import clean, orphan, put_orphan
from places import FOLDERS
from screens import TOP, Screen, Top, needs_terminal
from spawning import run_command, stays, wait_for
from watching import Farm

MiB = 1048576
COMPONENT = """
import heapwriter
heap = heapwriter.LiveHeap.create(sys.argv[1])
print("ready", heap.name, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def top(tmp_path, shm_root):
    """top(*arguments, **options): a Top of `shm_root`, closed at the end."""
    opened = []

    def open_one(*arguments, **options):
        opened.append(Top(tmp_path, shm_root, *arguments, **options))
        return opened[-1]

    try:
        yield open_one
    finally:
        for screen in opened:
            screen.__exit__()


def once(root, *arguments, environment=None):
    return subprocess.run(
        [*TOP, "--once", f"--root={root}", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(os.environ, **dict({"LC_ALL": "C.UTF-8", "COLUMNS": ""}, **(environment or {}))),
        timeout=60,
    )


# -- what is seen ------------------------------------------------------------------------------------------


SOON = 5.0
"""Seconds from a crash to the screen on a busy machine; bench/top.py holds it to one second."""


@needs_terminal
def test_a_crash_is_seen_soon_without_a_key(spawn, shm_root, top):
    owners = [spawn.owner(shm_root) for _ in range(3)]
    screen = top()
    screen.shows("3 heaps, 0 orphaned", *[owner.name for owner in owners])
    time.sleep(1.5)  # it is at rest
    victim = owners[1]
    victim.kill()
    screen.shows("3 heaps, 1 orphaned (2.0M)", deadline=SOON)
    assert re.search(rf"^{victim.name} .* orphaned$", screen.text, re.M)
    assert screen.names()[0] == victim.name
    screen.shows(f"{victim.name} orphaned: no process has it open or mapped for writing", "is gone")


@needs_terminal
def test_a_crash_that_leaves_peers_is_seen_soon_and_says_who_they_are(spawn, shm_root, top):
    owner = spawn.owner(shm_root)
    peer = spawn.peer(shm_root, owner)
    screen = top(width=200)
    screen.shows("1 heap, 0 orphaned")
    owner.kill()
    screen.shows("1 orphaned", f"still attached: process {peer.pid}", deadline=SOON)
    screen.matches(rf"^{owner.name} .* 1 orphaned, attached")
    peer.kill()
    screen.matches(rf"^{owner.name} .* 0 orphaned  ", deadline=3.0)


@needs_terminal
def test_the_table_says_of_each_heap_whose_it_is_and_how_full(spawn, shm_root, top):
    words = ("COMPONENT_IDENTIFIER", "DCE:1234:wave_1", "NAME_BINDING", "fir_1", "DOM_PATH", "DOM/wave_1")
    component = spawn.python(COMPONENT, shm_root, *words)
    owner = spawn.owner(shm_root, "--superblocks=2", f"--used={MiB}")
    peer = spawn.peer(shm_root, owner)
    screen = top(width=170)
    screen.shows("2 heaps, 0 orphaned")
    reason = f"its creator, process {owner.pid}, lives and maps it"
    bar = "\u2588" * 4 + "\u00b7" * 12
    screen.matches(rf"^{owner.name} +{owner.pid} .*1\.0M/4\.0M +{bar} +1 alive +{reason[:30]}")
    screen.matches(rf"^{component.name} +{component.pid} fir_1 \(wave_1\) .*0/2\.0M .* 0 alive")
    peer.kill()
    screen.matches(rf"^{owner.name} .* 0 alive")


@needs_terminal
def test_the_file_system_is_a_bar_with_what_it_consists_of_and_a_history(spawn, shm_root, top):
    spawn.owner(shm_root, "--superblocks=4")
    with open(os.path.join(shm_root, "other"), "wb") as stream:
        stream.write(b"x" * MiB)
    held = spawn.owner(shm_root, "--superblocks=2")
    os.unlink(os.path.join(shm_root, held.name))
    screen = top(width=120)
    text = screen.matches(r"heaps 8\.0M .* unlinked, held (\d\.|\d\d)")
    assert re.match(r"\[\u2588+\u2593+\u2592+\u00b7+\]$", text.splitlines()[1])
    assert len(text.splitlines()[1]) == 120
    amounts = dict(re.findall(r"(heaps|other|held|reserved|free) ([\d.]+[KMGT]?)", text.splitlines()[2]))
    assert set(amounts) == {"heaps", "other", "held", "reserved", "free"}
    assert amounts["reserved"] == "0"
    screen.matches(r"^used, +[\d.]+ min [\u2581-\u2588]+ peak [\d.]+[KMGT]")


@needs_terminal
def test_what_was_removed_lately_is_told_and_why(spawn, shm_root, top):
    leaving, dying, robbed, old = (spawn.owner(shm_root) for _ in range(4))
    old.kill()
    screen = top(width=150, height=30)
    screen.shows("4 heaps, 1 orphaned", "removed lately: nothing")
    leaving.leave()
    screen.matches(rf"{leaving.name} 2\.0M .*: its creator ended and removed it$")
    clean(shm_root, old.name)
    screen.shows(f"{old.name} 2.0M", "removed by others: no process has it open")
    os.unlink(os.path.join(shm_root, robbed.name))
    screen.matches(rf"{robbed.name} 2\.0M .*: unlinked by others while its creator lives$")
    dying.kill()
    clean(shm_root, dying.name)
    screen.matches(rf"{dying.name} 2\.0M .*: (its creator died, )?removed by others")
    screen.shows("removed lately: 4", "0 heaps, 0 orphaned")


@needs_terminal
def test_of_a_heap_of_the_dead_it_is_told_what_is_left_and_that_goes_down(spawn, shm_root, top):
    screen = top(width=150, height=30)
    remover = subprocess.Popen([sys.executable, "-s", "-c", WATCH, shm_root], stdout=subprocess.PIPE)
    try:
        remover.stdout.readline()
        owner = spawn.owner(shm_root, "--holders=1", "--superblocks=8", "--used=1048576", "--block=131072")
        peer = spawn.peer(shm_root, owner, "--hold")
        screen.shows("1 heap, 0 orphaned")
        time.sleep(0.5)  # its creator is identified
        owner.kill()
        screen.matches(rf"{owner.name} 16\.0M .*: 1\.1M of it left, held by 1 process; .*removed by others")
        peer.send("8")
        assert peer.read_line() == "holds 0"
        screen.matches(rf"{owner.name} 16\.0M .*: [\d.]+K of it left, held by 1 process; ")
        peer.kill()
        stays(lambda: owner.name in screen.text, 0.5)
        screen.matches(rf"{owner.name} 16\.0M [^;]*: [^;]*removed by others")
    finally:
        remover.kill()
        remover.communicate()


@needs_terminal
def test_of_what_died_and_was_cleaned_within_moments_both_are_told(spawn, shm_root, top):
    screen = top()
    remover = subprocess.Popen([sys.executable, "-s", "-c", WATCH, shm_root], stdout=subprocess.PIPE)
    try:
        remover.stdout.readline()
        owner = spawn.owner(shm_root)
        screen.shows("1 heap, 0 orphaned")
        owner.kill()
        told = rf"{owner.name} .*: its creator died, removed by others$"
        screen.matches(told)
        # Nothing is learned later that would be another reason.
        stays(lambda: re.search(told, screen.text, re.M), 3.0)
    finally:
        remover.kill()
        remover.wait()
        remover.stdout.close()


WATCH = f"""
import sys; sys.path[:0] = {FOLDERS!r}
from gppshm import watch
with watch.Watcher(sys.argv[1]) as watcher:
    watcher.sweep()
    print("ready", flush=True)
    watcher.run()
"""


# -- order and filter --------------------------------------------------------------------------------------


@needs_terminal
def test_keys_and_clicks_on_titles_sort(spawn, shm_root, top):
    small = spawn.owner(shm_root, "--superblocks=1", f"--used={MiB}").name
    large = spawn.owner(shm_root, "--superblocks=3", f"--used={MiB * 3 // 4}").name
    middle = spawn.owner(shm_root, "--superblocks=2").name
    screen = top(width=120)
    screen.shows("3 heaps")
    assert screen.names() == [large, middle, small]  # all alive: the largest first
    screen.press("s")
    screen.shows("HEAP\u25b4")
    assert screen.names() == sorted([small, middle, large], key=lambda name: int(name[5:]))
    screen.press("r")
    screen.shows("HEAP\u25be")
    assert screen.names() == sorted([small, middle, large], key=lambda name: -int(name[5:]))
    screen.click("USED OF SIZE")
    screen.shows("USED OF SIZE\u25b4")
    assert screen.names() == [small, large, middle]
    screen.click("FULL")
    screen.shows("FULL\u25b4")
    screen.click("FULL")
    screen.shows("FULL\u25be")
    assert screen.names() == [middle, large, small]


@needs_terminal
def test_a_filter_shows_only_heaps_in_which_all_its_words_stand(spawn, shm_root, top):
    fir = spawn.python(COMPONENT, shm_root, "COMPONENT_IDENTIFIER", "fir_7").name
    psd = spawn.python(COMPONENT, shm_root, "COMPONENT_IDENTIFIER", "psd_7").name
    dead = orphan(spawn, shm_root)
    screen = top(width=120)
    screen.shows(fir, psd, dead)
    screen.press("/")
    screen.type("FIR")
    screen.shows("filter: FIR")
    screen.shows_no(psd)
    assert screen.names() == [fir]
    screen.press("BSpace", "BSpace", "BSpace")
    screen.type("7 psd")
    screen.shows_no(fir)
    screen.press("Enter")
    screen.shows("filter: 7 psd")
    screen.press("q")  # no letter of the filter any more
    assert screen.ended() == 0


@needs_terminal
def test_esc_ends_the_filter(spawn, shm_root, top):
    owner, dead = spawn.owner(shm_root), orphan(spawn, shm_root)
    screen = top("--filter=orphaned")
    screen.shows("filter: orphaned", dead)
    assert screen.names() == [dead]
    screen.press("Escape")
    screen.shows(owner.name)
    screen.press("/")
    screen.type("nowhere")
    screen.shows("no heap matches: nowhere")
    screen.press("Escape")
    screen.shows(owner.name, dead)


# -- one heap ----------------------------------------------------------------------------------------------


@needs_terminal
def test_a_selected_heap_is_shown_with_blocks_superblocks_locks_holders_and_faults(spawn, shm_root, top):
    owner = spawn.owner(shm_root, "--superblocks=2", "--used=1048576")
    peer = spawn.peer(shm_root, owner)
    screen = top(height=50, width=120)
    screen.shows(owner.name)
    screen.press("Enter")
    screen.shows(f"{owner.name}  1.0M of 4.0M used (25.0%)  alive", "faults     none", "locks      all free")
    screen.shows("2 superblocks; a cell is 8.0K", "largest free:", "superblock 2 of 2, at 2105344")
    screen.matches(rf"^ +{owner.pid}  maps \d+ bytes, its creator: \w+ ")
    screen.matches(rf"^ +{peer.pid}  maps \d+ bytes: \w+ ")
    screen.matches(r"^  \u2588+")
    screen.matches(r"^  \u00b7{64}$")
    owner.kill()
    screen.shows("orphaned, attached", f"still attached: process {peer.pid}")
    peer.kill()
    clean(shm_root, owner.name)
    screen.shows("it is not there any more")
    screen.press("Escape")
    screen.shows("removed lately: 1")


@needs_terminal
def test_faults_and_a_lock_that_the_dead_hold_are_told(spawn, shm_root, top):
    owner = spawn.owner(shm_root, "--hold-lock")
    spawn.peer(shm_root, owner)
    with open(os.path.join(shm_root, owner.name), "r+b") as stream:
        stream.seek(2 * heapwriter.PAGE)
        stream.write(struct.pack("<I", 0))  # the first block's magic number
    owner.kill()
    screen = top(height=40, width=140)
    screen.shows(owner.name)
    screen.press("Enter")
    screen.shows("! at 8192: no block here", "unreadable:")
    screen.matches(r"of the superblock at 4096: held by the dead: thread \d+, which holds it, is gone")


@needs_terminal
def test_the_selection_stays_with_its_heap_wherever_that_goes(spawn, shm_root, top):
    owners = sorted((spawn.owner(shm_root) for _ in range(4)), key=lambda owner: owner.pid)
    screen = top("--sort=name")
    screen.shows("4 heaps")
    screen.press("Down", "Down")
    screen.shows(f"\n{owners[2].name} alive: ")
    owners[3].kill()
    owners[0].kill()
    screen.shows("2 orphaned")
    screen.press("r")
    screen.shows("HEAP\u25be", f"\n{owners[2].name} alive: ")
    assert screen.names()[1] == owners[2].name
    screen.press("Enter")
    screen.shows(f"{owners[2].name}  0 of 2.0M used")


# -- cleaning ----------------------------------------------------------------------------------------------


@needs_terminal
def test_an_orphan_is_cleaned_when_it_is_confirmed_and_kept_when_not(spawn, shm_root, top):
    owner = spawn.owner(shm_root)
    owner.kill()
    other = orphan(spawn, shm_root)
    path = os.path.join(shm_root, owner.name)
    screen = top()
    screen.shows("2 heaps, 2 orphaned")
    assert screen.names()[0] == owner.name
    for key in ("n", "Escape"):
        screen.press("c")
        screen.shows(f"Remove {owner.name}, 2.0M?", "so its creator, process", "y remove  n keep")
        screen.press("Enter")  # is no answer
        screen.press(key)
        screen.shows_no("Remove")
        assert os.path.exists(path)
    screen.press("c")
    screen.shows(f"Remove {owner.name}, 2.0M?")
    screen.press("y")
    screen.shows(
        "removed 1 heap, 2.0M", "1 heap, 1 orphaned", "removed lately: 1", "removed from here: no process"
    )
    assert os.listdir(shm_root) == [other]


@needs_terminal
def test_all_orphans_are_named_before_they_are_cleaned(spawn, shm_root, top):
    living = spawn.owner(shm_root)
    dead = [orphan(spawn, shm_root) for _ in range(3)]
    screen = top()
    screen.shows("4 heaps, 3 orphaned")
    screen.press("C")
    screen.shows("Remove 3 orphaned heaps", *dead)
    box = screen.text.partition("Remove 3")[2].partition("y remove")[0]
    assert living.name not in box and all(name in box for name in dead)
    screen.click("y remove")
    screen.shows("removed 3 heaps", "1 heap, 0 orphaned")
    assert os.listdir(shm_root) == [living.name]
    screen.press("C")
    screen.shows("no heap is orphaned: there is nothing to clean")


@needs_terminal
def test_more_names_than_fit_are_scrolled_through(spawn, shm_root, top):
    names = [f"heap-{4000000 + number}" for number in range(40)]  # above any pid_max
    for name in names:
        heapwriter.create(os.path.join(shm_root, name), int(name[5:]), [(4096, ())])
    screen = top()
    screen.shows("40 orphaned")
    screen.press("C")
    screen.shows("Remove 40 orphaned heaps", " 1 to 20 of 40 ")
    seen = set()

    def all_seen(text):
        seen.update(re.findall(r"^  (heap-\d+)", text, re.M))
        return len(seen) == 40

    screen.shows(names[0])
    for _ in range(3):
        all_seen(screen.text)
        screen.press("PageDown")
    screen.so(all_seen)
    screen.press("n")
    screen.shows_no("Remove")
    assert len(os.listdir(shm_root)) == 40


@needs_terminal
def test_what_shmclean_refuses_is_refused(spawn, shm_root, top):
    living = spawn.owner(shm_root)
    screen = top()
    screen.shows(living.name)
    screen.press("c")
    reason = f"its creator, process {living.pid}, lives and maps it"
    screen.shows(f"{living.name} is in use and is kept: {reason}")
    unproven = f"heap-{spawn.dead_pid()}"
    heapwriter.create(os.path.join(shm_root, unproven), spawn.dead_pid())
    spawn.peer(shm_root, unproven)
    screen.press("Home")
    screen.shows(f"\n{unproven} unknown: ")
    screen.press("c")
    screen.shows(f"{unproven} may be in use and is kept: ")
    assert sorted(os.listdir(shm_root)) == sorted([living.name, unproven])


@needs_terminal
def test_what_came_to_life_after_the_question_is_kept(spawn, shm_root, top):
    name = put_orphan(spawn, shm_root, f"heap-{spawn.dead_pid()}")
    screen = top()
    screen.shows("1 orphaned")
    screen.press("c")
    screen.shows(f"Remove {name}")
    writer = os.open(os.path.join(shm_root, name), os.O_RDWR)  # nothing is proven any more
    try:
        screen.press("y")
        screen.shows(f"{name} may be in use and is kept")
    finally:
        os.close(writer)
    screen.shows("1 orphaned")
    screen.press("c")
    screen.shows(f"Remove {name}")
    os.rename(os.path.join(shm_root, name), os.path.join(shm_root, "elsewhere"))
    put_orphan(spawn, shm_root, name)
    screen.press("y")
    screen.shows(f"{name} was replaced after you saw it")
    assert name in os.listdir(shm_root)


@needs_terminal
def test_who_cleans_a_heap_that_a_peer_holds_is_told_that_its_memory_stays(spawn, shm_root, top):
    owner = spawn.owner(shm_root)
    spawn.peer(shm_root, owner)
    owner.kill()
    screen = top()
    screen.shows("1 orphaned")
    screen.press("c")
    screen.shows(f"Remove {owner.name}")
    screen.press("y")
    screen.shows("removed 1 heap, 2.0M; 2.0M of it come back only when the peers exit")


@needs_terminal
def test_what_is_pasted_answers_no_question(spawn, shm_root, top):
    name = orphan(spawn, shm_root)
    screen = top()
    screen.shows("1 orphaned")
    screen.press("c")
    screen.shows(f"Remove {name}")
    screen.paste("yyy")
    stays(lambda: f"Remove {name}" in screen.text and os.listdir(shm_root) == [name], 1.0)


# -- the terminal ------------------------------------------------------------------------------------------


@needs_terminal
def test_the_mouse_selects_opens_scrolls_and_presses_the_keys_that_are_shown(spawn, shm_root, top):
    with Farm(spawn, shm_root, 40) as farm:
        names = sorted(farm.names, key=lambda name: int(name[5:]))
        screen = top("--sort=name")
        screen.shows("40 heaps")
        screen.click(names[3])
        screen.shows(f"\n{names[3]} alive: ")
        screen.click(names[3])
        screen.shows("Esc back", f"{names[3]}  0 of")
        screen.click("Esc back")
        screen.shows("removed lately")
        for _ in range(20):
            screen.click("USED", button=65)
        screen.shows(names[-1])
        screen.click("? help")
        screen.shows("PgUp PgDn")
        screen.click("Esc back")
        screen.shows("q quit")
        screen.click("q quit")
        assert screen.ended() == 0


@needs_terminal
def test_it_follows_the_size_of_the_terminal(spawn, shm_root, top):
    owner = spawn.owner(shm_root)
    owner.kill()
    screen = top()
    screen.shows(owner.name, "q quit", "removed lately")
    for width, height in ((200, 50), (132, 43), (40, 10), (20, 5), (7, 3), (1, 1), (80, 24)):
        screen.resize(width, height)
        screen.so(lambda text: len(text.splitlines()) <= height)  # noqa: B023
        if width >= 40:
            screen.shows(owner.name, "orphaned", "Enter look")
            screen.so(lambda text: max(map(len, text.splitlines())) <= width)  # noqa: B023
        if width >= 200:
            screen.shows("BECAUSE", "COMMAND", "so its creator")
    screen.shows("q quit", "removed lately")
    screen.press("Enter")
    screen.shows("Esc back")
    for width, height in ((40, 10), (20, 5), (1, 1), (100, 30)):
        screen.resize(width, height)
    screen.shows("Esc back", "holders")
    screen.press("q", "q")
    assert screen.ended() == 0


@needs_terminal
@pytest.mark.parametrize("size", [(80, 24), (60, 16), (40, 10), (30, 6)])
def test_a_narrow_terminal_still_shows_name_and_state_of_each_heap(spawn, shm_root, top, size):
    dead, living = orphan(spawn, shm_root), spawn.owner(shm_root)
    screen = top(width=size[0], height=size[1])
    screen.matches(rf"^{dead} .*orphaned")
    screen.matches(rf"^{living.name} .*alive")
    assert all(len(line) <= size[0] for line in screen.lines)


COLOURS = re.compile(r"\033\[(?:\d+;)*(?:3[0-7]|4[0-7]|38|48|9[0-7]|10[0-7])(?:;\d+)*m")


@needs_terminal
def test_an_orphan_is_red_where_there_are_colours(spawn, shm_root, top):
    dead = orphan(spawn, shm_root)
    spawn.owner(shm_root)
    screen = top()
    screen.shows("1 orphaned")
    screen.press("Down")
    wait_for(lambda: re.search(rf"\033\[[\d;]*(?:31|91)m[^\n]*{dead}", screen.styled))


@needs_terminal
@pytest.mark.parametrize(
    "settings", [{"environment": {"NO_COLOR": "1"}}, {"term": "vt100"}, {"term": "screen-256color"}]
)
def test_without_colours_nothing_is_lost(spawn, shm_root, top, settings):
    dead, living = orphan(spawn, shm_root), spawn.owner(shm_root)
    screen = top(**settings)
    screen.shows("1 orphaned", dead, living.name)
    with_colours = settings == {"term": "screen-256color"}
    assert bool(COLOURS.search(screen.styled)) == with_colours
    assert "\033[7m" in screen.styled or "\033[1;7m" in screen.styled  # the selection
    screen.matches(rf"^{dead} .* orphaned")
    screen.press("c")
    screen.shows(f"Remove {dead}")
    assert bool(COLOURS.search(screen.styled)) == with_colours


@needs_terminal
@pytest.mark.parametrize("locale", ["C", "POSIX"])
def test_without_utf8_everything_is_ascii(spawn, shm_root, top, locale):
    spawn.python(COMPONENT, shm_root, "COMPONENT_IDENTIFIER", "f\u00efr")
    dead = orphan(spawn, shm_root)
    screen = top(environment={"LC_ALL": locale}, width=120)
    screen.matches(r"f(\\xef|\\xc3\\xaf)r")  # as a letter, or its bytes on CPython 3.6
    text = screen.shows("2 heaps, 1 orphaned", dead)
    text.encode("ascii")
    assert re.match(r"\[#+\+*%*\.+\]$", text.splitlines()[1])
    screen.press("s", "Home", "Enter")
    text = screen.shows("superblock", "Esc back")
    text.encode("ascii")


@needs_terminal
def test_names_and_commands_cannot_move_the_cursor(spawn, shm_root, top):
    spawn.python(COMPONENT, shm_root, "COMPONENT_IDENTIFIER", "evil\033[2J\u202e\n\u4e2d\u6587")
    for name in (b"esc\033]0;title\007", b"\xff\xfe", b"new\nline", "\u4e2d\u6587\u4e2d\u6587".encode()):
        heapwriter.create(os.path.join(os.fsencode(shm_root), name), spawn.dead_pid(), [(4096, ())])
    screen = top(width=160)
    screen.shows("evil\\x1b[2J\\u202e\\n", "esc\\x1b]0;title\\x07", "\\xff\\xfe", "new\\nline")
    assert len(screen.lines[1]) == 160
    screen.matches(r"^\u4e2d\u6587\u4e2d\u6587 +\d+ .*4\.0K .* (orphaned|unknown)")


# -- nothing hangs it --------------------------------------------------------------------------------------


@needs_terminal
def test_strange_files_hang_nothing(spawn, shm_root, top):
    pid = spawn.dead_pid()
    os.mkfifo(os.path.join(shm_root, f"heap-{pid}"))
    os.mkdir(os.path.join(shm_root, "heap-1"))
    os.symlink("/dev/zero", os.path.join(shm_root, "heap-2"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.join(shm_root, "heap-3"))
        with open(os.path.join(shm_root, "heap-4"), "wb") as stream:
            stream.write(struct.pack("<IIii", 0xACEB70CC, 1, 1, 4))
            stream.truncate(1 << 40)  # sparse
        screen = top()
        screen.shows("1 heap,", "heap-4")
        screen.press("Enter")
        screen.shows("heap-4", "Esc back", "! at ")
        screen.press("Escape")
        owner = spawn.owner(shm_root)
        screen.shows("2 heaps")
        owner.kill()
        screen.shows("orphaned (", deadline=1.0)
        screen.press("q")
        assert screen.ended() == 0


@needs_terminal
def test_keys_are_answered_at_once_among_hundreds_of_heaps(spawn, shm_root, top):
    with Farm(spawn, shm_root, 400) as farm:
        names = sorted(farm.names, key=lambda name: int(name[5:]))
        screen = top("--sort=name")
        screen.shows("400 heaps, 0 orphaned", deadline=20.0)
        slowest = 0.0
        for number in range(1, 21):
            started = time.monotonic()
            screen.press("Down")
            screen.shows(f"\n{names[number]} alive: ", deadline=1.0)
            slowest = max(slowest, time.monotonic() - started)
        screen.press("End")
        screen.shows(f"\n{names[-1]} alive: ")
        assert slowest < 0.5
        farm.kill(farm.pids[100:110])
        screen.shows("400 heaps, 10 orphaned", deadline=SOON)


@needs_terminal
def test_a_directory_that_goes_away_and_comes_back_is_followed(spawn, tmp_path, shm_root):
    root = os.path.join(shm_root, "inner")
    os.mkdir(root)
    with Top(tmp_path, root) as screen:
        screen.shows("0 heaps", f"no heap lies in {root}")
        os.rmdir(root)
        screen.matches("^! ")
        screen.press("?")
        screen.shows("PgUp PgDn")
        screen.press("q")
        os.mkdir(root)
        owner = spawn.owner(root)
        screen.shows("1 heap, 0 orphaned", owner.name)
        screen.so(lambda text: "! " not in text)
        owner.leave()
        screen.shows("0 heaps", f"{owner.name} 2.0M (", "its creator ended and removed it")
        screen.press("q")
        assert screen.ended() == 0


# -- closing -----------------------------------------------------------------------------------------------


@needs_terminal
@pytest.mark.parametrize("key", ["q", "C-c"])
def test_a_key_closes_it_and_the_terminal_is_as_it_was(spawn, shm_root, top, key):
    spawn.owner(shm_root)
    screen = top()
    screen.shows("1 heap")
    screen.press(key)
    assert screen.ended(deadline=2.0) == 0
    assert "heap-" not in screen.text and "Traceback" not in screen.text


@needs_terminal
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_closes_it_and_the_terminal_is_as_it_was(shm_root, top, number):
    screen = top()
    os.kill(screen.pid, number)
    assert screen.ended(deadline=2.0) == 0


def test_its_end_comes_within_no_removal(shm_root):
    for pid in range(4194300, 4194304):
        heapwriter.create(os.path.join(shm_root, f"heap-{pid}"), pid, [(4096, ())])
    code = """
import os, sys, threading, time
sys.path[:0] = sys.argv[2:]
from gppshm.top import cleaning, scanner

def rename_and_rest(*names, **options):
    rename(*names, **options)
    within.set()
    time.sleep(0.2)

rename, os.rename, within = os.rename, rename_and_rest, threading.Event()
scanning = scanner.Scanner(sys.argv[1])
removing = cleaning.Cleaning(sys.argv[1], scanning.scan_once().orphans, scanning, print)
removing.start()
within.wait()
removing.end()
os._exit(0)
"""
    done = run_command([sys.executable, "-I", "-c", code, shm_root, *FOLDERS])
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    left = os.listdir(shm_root)
    assert len(left) == 3 and all(name.startswith("heap-") for name in left)


@needs_terminal
def test_it_ends_when_its_terminal_goes_away(shm_root, tmp_path):
    screen = Top(tmp_path, shm_root)
    pid = screen.pid
    screen.__exit__()
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"))


@needs_terminal
def test_it_can_be_sent_to_the_background_and_comes_back(shm_root, tmp_path):
    with Screen(tmp_path, ["bash", "--norc", "--noprofile", "-i"]) as screen:
        script = tmp_path / "top"
        script.write_text("#!/bin/sh\nexec " + _quoted([*TOP, f"--root={shm_root}"]) + "\n")
        script.chmod(0o755)
        screen.type(f"{script}\r")
        screen.shows("0 heaps")
        screen.press("C-z")
        screen.shows("Stopped")
        screen.type("fg\r")
        screen.shows("0 heaps", "q quit")
        screen.press("q")
        screen.shows_no("0 heaps")
        screen.type("exit\r")
        assert screen.ended() == 0


def _quoted(words):
    return " ".join("'" + word.replace("'", "'\\''") + "'" for word in words)


# -- for scripts, and what stands in its way ---------------------------------------------------------------


def test_once_prints_one_frame_with_all_there_is_to_say(spawn, shm_root):
    living, dead = spawn.owner(shm_root, f"--used={MiB}"), orphan(spawn, shm_root)
    done = once(shm_root)
    out = done.stdout.decode()
    assert (done.returncode, done.stderr) == (0, b"")
    assert out.startswith(f"{shm_root}  2 heaps, 1 orphaned (12.0K)")
    reason = f"its creator, process {living.pid}, lives and maps it"
    assert re.search(rf"^{living.name} +{living.pid} .* 1\.0M/2\.0M .* 0 alive +{reason}$", out, re.M)
    assert re.search(rf"^{dead} .* orphaned +no process has it open .* is gone$", out, re.M)
    assert "\033" not in out


def test_once_sorts_filters_and_keeps_to_a_width(spawn, shm_root):
    small, large = spawn.owner(shm_root), spawn.owner(shm_root, "--superblocks=2")
    names = re.findall(r"^heap-\d+", once(shm_root, "--sort=size").stdout.decode(), re.M)
    assert names == [large.name, small.name]
    out = once(shm_root, f"--filter={small.name}", environment={"COLUMNS": "60"}).stdout.decode()
    assert re.findall(r"^heap-\d+", out, re.M) == [small.name]
    assert max(map(len, out.splitlines())) <= 60
    assert "lives and maps it" in out
    once(shm_root, environment={"LC_ALL": "C"}).stdout.decode("ascii")


def test_once_needs_no_terminal_library(spawn, shm_root):
    dead = orphan(spawn, shm_root)
    code = "import sys; sys.modules['prompt_toolkit'] = None; " + TOP[-1]
    done = run_command([sys.executable, "-s", "-c", code, "--once", f"--root={shm_root}"])
    assert (done.returncode, done.stderr) == (0, "")
    assert dead in done.stdout


@needs_terminal
def test_without_the_library_one_line_says_how_to_get_it(shm_root, tmp_path):
    code = "import sys; sys.modules['prompt_toolkit'] = None; " + TOP[-1]
    command = [sys.executable, "-s", "-c", code, f"--root={shm_root}"]
    with Screen(tmp_path, command, width=400) as screen:
        assert screen.ended() == 1
        assert re.search(
            r"^redhawk-shmtop: .*prompt_toolkit.*pip install .*--once works without it$", screen.text, re.M
        )


@needs_terminal
def test_a_terminal_that_cannot_draw_is_told(shm_root, tmp_path):
    with Screen(tmp_path, [*TOP, f"--root={shm_root}"], term="dumb", width=120) as screen:
        assert screen.ended() == 1
        assert (
            "redhawk-shmtop: the terminal (TERM) cannot draw a full screen; --once prints one frame"
            in screen.text
        )


def test_without_a_terminal_one_line_says_so(shm_root):
    done = run_command([*TOP, f"--root={shm_root}"])
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "redhawk-shmtop: stdin is not a terminal; --once prints one frame\n"


@needs_terminal
def test_a_directory_that_is_not_there_is_told_on_one_line(tmp_path):
    assert once(tmp_path / "absent").returncode == 1
    with Screen(tmp_path, [*TOP, f"--root={tmp_path}/absent"], width=200) as screen:
        assert screen.ended() == 1
        assert (
            f"redhawk-shmtop: {tmp_path}/absent cannot be read: No such file or directory; see --root"
            in screen.text
        )


def test_help_and_version(shm_root):
    done = run_command([*TOP, "--version"])
    assert re.match(r"redhawk-shmtop version \d+\.\d+\.\d+\n$", done.stdout)
    done = run_command([*TOP, "--help"])
    assert (done.returncode, done.stderr) == (0, "")
    for option in ("--root", "--once", "--sort", "--filter", "--version"):
        assert option in done.stdout
    assert run_command([*TOP, "--nonsense"]).returncode == 2
