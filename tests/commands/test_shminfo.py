"""Promises of redhawk-shminfo: what it prints, and that nothing can hang it, kill it or harm a terminal."""

import glob
import grp  # noqa: F401
import io
import lzma
import os
import socket
import stat
import subprocess
import sys
import tempfile

import pytest

import heapwriter
from gppshm import launcher
from gppshm.cli import shminfo, text
from places import FOLDERS, PYTHON, SAMPLES
from spawning import in_child, needs_root

SAMPLES = sorted(glob.glob(os.path.join(SAMPLES, "*.heap.xz")))
PACKAGE = PYTHON
PAGE = heapwriter.PAGE


@pytest.fixture(scope="session")
def command(tmp_path_factory):
    """The installed command, as the launcher writes it."""
    path = str(tmp_path_factory.mktemp("bin") / "redhawk-shminfo")
    launcher.install(
        path, launcher.launcher("redhawk-shminfo", "gppshm.cli.shminfo", sys.executable, PACKAGE)
    )
    return path


class Done:
    def __init__(self, status, out, err):
        self.status, self.out, self.err = status, out, err


@pytest.fixture
def run(command, shm_root):
    """run(*options): the command on the test's own folder; stdout and stderr are bytes if `raw`."""

    def runs(*options, raw=False, **how):
        how.setdefault("env", dict(os.environ, LC_ALL="C.UTF-8"))
        done = subprocess.run(
            [command, "--root", shm_root, *options],
            stdin=subprocess.DEVNULL,
            stdout=how.pop("stdout", subprocess.PIPE),
            stderr=how.pop("stderr", subprocess.PIPE),
            timeout=60,
            **how,
        )
        out, err = done.stdout or b"", done.stderr or b""
        return Done(done.returncode, out if raw else os.fsdecode(out), err if raw else os.fsdecode(err))

    return runs


def block(output, name):
    """The lines of one file in a listing."""
    return next(part for part in output.split("\n\n") if part.startswith(name + "\n")).splitlines()


def write(root, name, data):
    with open(os.path.join(os.fsencode(root), os.fsencode(name)), "wb") as stream:
        stream.write(data)


# The default form


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: os.path.basename(path)[:-8])
def test_redhawks_own_heaps_are_shown_byte_for_byte_as_redhawk_shows_them(sample, shm_root, run):
    with open(sample[: -len(".heap.xz")] + ".shminfo.txt") as stream:
        expected = stream.read()
    # The sample's creator is long dead; and there is nothing to divide by.
    expected = expected.replace("orphaned:    false", "orphaned:    true").replace("(-nan%)", "(0.0%)")
    name = expected.splitlines()[0]
    with lzma.open(sample) as stream:
        write(shm_root, name, stream.read())
    os.chmod(os.path.join(shm_root, name), 0o644)
    done = run("--format=b")
    head, _, heap = done.out.partition("\n\n")
    assert heap == expected
    lines = head.splitlines()
    assert lines[0] == shm_root
    assert lines[1].startswith("  size: ") and lines[2].startswith("  free: ") and lines[2].endswith("%)")
    assert (done.status, done.err) == (0, "")


def test_samples_are_there():
    assert len(SAMPLES) == 8


@pytest.mark.parametrize(
    "size, auto, k",
    [
        (0, "0", "0K"),
        (1023, "1023", "0K"),
        (1024, "1.0K", "1K"),
        (1024**2 - 1, "1024.0K", "1023K"),
        (31522816, "30.1M", "30784K"),
        (1024**4, "1.0T", "1073741824K"),
        (1024**5, "1024.0T", "1099511627776K"),
    ],
)
def test_sizes_are_printed_as_redhawk_prints_them(size, auto, k):
    assert (text.size_auto(size), text.size_k(size), text.size_format("b")(size)) == (auto, k, str(size))


def test_a_percentage_is_a_32_bit_float_and_nothing_is_divided_by_zero():
    assert text.percent(1, 0) == "0.0"
    assert text.percent(30009600, 31457280) == "95.4"
    # 0.25 would round to 0.2, and what a float holds of it too; 99.95 as a float lies below it.
    assert text.percent(1, 400) == "0.2"
    assert text.percent(9995, 10000) == "%.1f" % 99.94999694824219


def test_the_order_is_that_of_the_directory(shm_root, run):
    for number in (7, 3, 11, 5):
        heapwriter.create(os.path.join(shm_root, f"heap-{4190000 + number}"), 4190000 + number, ())
    names = [part.splitlines()[0] for part in run().out.split("\n\n")[1:]]
    assert names == os.listdir(shm_root)


def test_a_living_creator_is_not_orphaned_and_a_killed_ones_heap_is(shm_root, run, spawn):
    owner = spawn.owner(shm_root)
    assert "  orphaned:    false" in block(run().out, owner.name)
    peer = spawn.peer(shm_root, owner)
    owner.kill()
    # Attached, but orphaned.
    assert "  orphaned:    true" in block(run().out, owner.name)
    peer.kill()
    assert "  orphaned:    true" in block(run().out, owner.name)


@needs_root
def test_another_users_living_heap_is_read_and_never_called_orphaned(shm_root, spawn):
    owner = spawn.owner(shm_root, "--mode=644")

    def listing():
        sys.stdout = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
        status = shminfo.main(["--root", shm_root])
        return [status, sys.stdout.buffer.getvalue().decode()]

    status, out = in_child(listing, uid=65534)
    assert status == 0
    assert "  type:        REDHAWK heap" in block(out, owner.name)
    assert "  orphaned:    unknown" in block(out, owner.name)


@needs_root
def test_a_heap_that_may_not_be_read_is_shown_with_the_reason_and_status_1(shm_root, capfd):
    heapwriter.create(os.path.join(shm_root, "heap-4190001"), 4190001, (), mode=0o600)
    write(shm_root, "private", b"x")
    os.chmod(os.path.join(shm_root, "private"), 0o600)
    status = in_child(shminfo.main, ["--root", shm_root], uid=65534)
    out, err = capfd.readouterr()
    assert status == 1
    assert "  type:        REDHAWK heap (unreadable)" in block(out, "heap-4190001")
    assert err == "  error:       cannot be read: Permission denied\n"
    assert "private" not in out


@pytest.mark.parametrize(
    "image, error",
    [
        (heapwriter.image(7, (), refcount=1)[:100], "invalid superblock file (no header)"),
        (b"", "half-made heap: its creator, process"),
        (bytes(500), "half-made heap: its creator, process"),
    ],
    ids=["short", "empty", "zeros"],
)
def test_a_half_made_heap_is_unreadable_and_says_why(image, error, shm_root, run, spawn):
    name = f"heap-{spawn.dead_pid()}"
    write(shm_root, name, image)
    done = run()
    lines = block(done.out, name)
    assert lines[1:3] == ["  type:        REDHAWK heap (unreadable)", f"  file size:   {len(image)}"]
    assert [line.split(":")[0].strip() for line in lines[3:]] == ["allocated", "user", "group", "mode"]
    assert done.err.startswith("  error:       " + error)
    assert done.status == 1


def test_another_version_is_unreadable_and_stderr_follows_its_own_heap(shm_root, run):
    image = heapwriter.image(4190001, ())
    heapwriter.put_header(image, 4190001, version=2)
    write(shm_root, "heap-4190001", image)
    heapwriter.create(os.path.join(shm_root, "heap-4190002"), 4190002, ())
    done = run("--sort=name", stderr=subprocess.STDOUT)
    assert (
        "mode:        644\n  error:       incompatible superblock file (version mismatch)\n\nheap-4190002\n"
        in (done.out)
    )
    assert done.status == 1


def test_all_shows_other_files_and_follows_or_opens_none(shm_root, run):
    write(shm_root, "notes", b"abc")
    write(shm_root, "heap-1", b"no magic" * 1000)
    os.chmod(os.path.join(shm_root, "notes"), 0)
    os.mkfifo(os.path.join(shm_root, "heap-2"))
    os.mkdir(os.path.join(shm_root, "heap-3"))
    os.symlink("/nowhere", os.path.join(shm_root, "heap-4"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.join(shm_root, "heap-5"))
    assert run().out.count("\n\n") == 0
    done = run("-al")
    assert (done.status, done.err) == (0, "")
    assert block(done.out, "notes") == [
        "notes",
        "  type:        other",
        "  file size:   3",
        "  allocated:   4.0K",
        f"  user:        {os.getuid()}",
        f"  group:       {os.getgid()}",
        "  mode:        0",
    ]
    for name in ("heap-1", "heap-2", "heap-3", "heap-4", "heap-5"):
        assert "  type:        other" in block(done.out, name)


def test_a_heap_cut_short_anywhere_is_listed(shm_root, run):
    whole = heapwriter.image(4190001, [(PAGE, ()), (PAGE, ())])
    for length in (3, 4, 15, 16, PAGE - 1, PAGE, PAGE + 300, 2 * PAGE, 3 * PAGE + 1):
        write(shm_root, f"heap-{4190000 + length}", whole[:length])
    done = run("-a")
    assert done.out.count("\n\n") == 9
    assert "Traceback" not in done.err


def test_millions_of_superblocks_take_no_time(shm_root, run):
    path = os.path.join(shm_root, "heap-4190001")
    with open(path, "wb") as stream:
        stream.write(heapwriter.image(4190001, ()))
        one = heapwriter.image(4190001, [(PAGE, ())])[PAGE:]
        for number in range(70000):
            offset = PAGE + number * 2 * PAGE
            stream.seek(offset)
            one[256:264] = offset.to_bytes(8, "little")
            stream.write(one[:400])
        stream.truncate(PAGE + 70000 * 2 * PAGE)
    done = run()
    assert done.status == 0
    assert "  type:        REDHAWK heap" in block(done.out, "heap-4190001")


# Options and names


def test_abbreviated_options_mean_what_they_mean_to_redhawks_tool(run):
    helped = run("--help")
    assert helped.status == 0 and helped.out.startswith("usage: redhawk-shminfo")
    for option in ("-h", "--h", "--he", "--hel"):
        assert run(option).out == helped.out
    assert run("--v").out == run("--version").out == "redhawk-shminfo version 0.1.0\n"
    for options in (["--f=B"], ["--form", "b"], ["--format=b"]):
        size = run(*options).out.splitlines()[1]
        assert size.startswith("  size: ") and size[8:].isdigit()


@pytest.mark.parametrize(
    "options",
    [
        ["--format=x"],
        ["-z"],
        ["--nope"],
        ["--format"],
        ["--sort=age"],
        ["a/b"],
        ["--blocks=../x"],
        ["--json", "--blocks=x"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_one_line_on_stderr_and_status_2(options, run):
    done = run(*options)
    assert (done.status, done.out, done.err.count("\n")) == (2, "", 1)
    assert done.err.startswith("redhawk-shminfo: ")


def test_names_are_shown_alone_also_when_they_are_no_heaps_and_missing_ones_are_told(shm_root, run):
    for pid in (4190001, 4190002):
        heapwriter.create(os.path.join(shm_root, f"heap-{pid}"), pid, ())
    write(shm_root, "notes", b"abc")
    write(shm_root, "-a", b"abc")
    done = run("heap-4190002", "-l", "notes", "gone", "--", "-a")
    assert [part.splitlines()[0] for part in done.out.split("\n\n")[1:]] == ["heap-4190002", "notes", "-a"]
    assert done.err == f"redhawk-shminfo: gone: there is no such file in {shm_root}\n"
    assert done.status == 1


def test_a_name_that_is_too_long_for_a_file_is_missing_and_the_others_are_shown(shm_root, run):
    heapwriter.create(os.path.join(shm_root, "heap-4190001"), 4190001, ())
    name = "x" * 256
    done = run(name, "heap-4190001")
    assert "\nheap-4190001\n" in done.out
    assert done.err == f"redhawk-shminfo: {name}: there is no such file in {shm_root}\n"
    assert done.status == 1


def test_a_root_that_is_not_there_is_one_line_and_status_1(command):
    done = subprocess.run(
        [command, "--root", "/nowhere\x1b[31m"], stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert done.returncode == 1 and done.stdout == b""
    assert done.stderr == b"redhawk-shminfo: /nowhere\\x1b[31m: cannot be read: No such file or directory\n"


@pytest.mark.parametrize("key", shminfo.SORT_KEYS)
def test_every_sort_key_sorts_whatever_is_there(key, shm_root, run):
    for number, blocks in enumerate(([], [(64, 1)], [(640, 1)])):
        pid = 4190001 + number
        heapwriter.create(
            os.path.join(shm_root, f"heap-{pid}"), pid, [((number + 1) * PAGE, blocks)], 0o644, 3 - number
        )
    write(shm_root, "heap-4190009", b"")
    write(shm_root, "notes", b"")
    done = run("-a", "--sort", key)
    names = [part.splitlines()[0] for part in done.out.split("\n\n")[1:]]
    ascending = ["heap-4190001", "heap-4190002", "heap-4190003"]
    falls = key in ("size", "allocated", "used", "refcount")
    assert [name for name in names if name in ascending] == (ascending[::-1] if falls else ascending)
    assert len(names) == 5


# Terminals and pipes


NASTY = [
    b"heap-\x1b[31mred",
    b"line\nbreak\ttab\rreturn",
    b"\xe2\x80\xae-reversed",
    b"\xff\xfe-no-utf8",
    b"back\\slash",
    b"\xc2\x9b31m-c1",
]


@pytest.mark.parametrize(
    "options", [["-a"], ["-a", "--holders"], ["--check"], ["--json", "-a"]], ids=" ".join
)
@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_no_name_reaches_the_terminal_raw(options, locale, shm_root, run):
    image = bytes(heapwriter.image(4190001, ()))
    for name in NASTY:
        write(shm_root, name, image)
    done = run(*options, raw=True, env={"LC_ALL": locale, "PATH": os.environ["PATH"]})
    assert done.status == 0 and done.err == b""
    decoded = done.out.decode("utf-8" if locale != "C" else "ascii")
    assert all(character.isprintable() or character == "\n" for character in decoded)
    # Before 3.7 Python takes the names of the C locale for ASCII, and escapes them byte by byte.
    encoding = "ascii" if locale == "C" and sys.version_info < (3, 7) else "utf-8"
    shown = {text.escaped(name.decode(encoding, "surrogateescape")) for name in NASTY}
    assert len(shown) == len(NASTY)
    if "--json" not in options:
        assert shown <= set(decoded.split("\n"))


def test_escaping_tells_any_two_names_apart():
    assert text.escaped("a\\x1b") == "a\\\\x1b" and text.escaped("a\x1b") == "a\\x1b"
    assert text.escaped("h\u00e9ap \u65e5\u672c") == "h\u00e9ap \u65e5\u672c"
    assert text.escaped("\u202e\u2028\U000e0001") == "\\u202e\\u2028\\U000e0001"


def test_a_name_that_the_terminal_cannot_show_is_escaped(shm_root, run):
    write(shm_root, "h\u00e9ap", b"")
    escaped = "h\\xe9ap" if sys.version_info >= (3, 7) else "h\\xc3\\xa9ap"
    assert f"\n{escaped}\n" in run("-a", env={"LC_ALL": "C"}).out
    assert "\nh\u00e9ap\n".encode() in run("-a", raw=True).out


@pytest.mark.parametrize("options", [[], ["--json"], ["--holders"], ["--check"], ["--help"]], ids=" ".join)
def test_a_reader_that_goes_away_is_normal(options, shm_root, command):
    for pid in range(4190001, 4190400):
        heapwriter.create(os.path.join(shm_root, f"heap-{pid}"), pid, ())
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [command, "--root", shm_root, *options], stdout=writer, stderr=subprocess.PIPE, timeout=60
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_stdout_that_is_closed_or_full_is_one_line_and_status_1(shm_root, command):
    script = 'exec "$0" --root "$1" {}'
    for redirection, why in ((">&-", b"closed"), (">/dev/full", b"No space left on device")):
        done = subprocess.run(
            ["sh", "-c", script.format(redirection), command, shm_root], stderr=subprocess.PIPE, timeout=60
        )
        assert done.returncode == 1
        assert done.stderr.startswith(b"redhawk-shminfo: cannot write to stdout: ") and why in done.stderr
        assert done.stderr.count(b"\n") == 1


def test_a_listing_that_is_written_in_part_is_status_1_also_without_a_buffer(shm_root):
    for pid in range(4190001, 4190400):
        heapwriter.create(os.path.join(shm_root, f"heap-{pid}"), pid, ())
    code = (
        f"import resource, signal, sys; sys.path.append({PACKAGE!r}); from gppshm.cli import shminfo\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        "sys.exit(shminfo.main())"
    )
    for flags in ("-IS", "-uIS"):
        with tempfile.TemporaryFile() as stream:
            done = subprocess.run(
                [sys.executable, flags, "-c", code, "--root", shm_root],
                stdout=stream, stderr=subprocess.PIPE, timeout=60,
            )  # fmt: skip
            assert stream.seek(0, os.SEEK_END) == 5000
        assert (done.returncode, done.stderr) == (
            1,
            b"redhawk-shminfo: cannot write to stdout: File too large\n",
        )


def test_a_stderr_that_is_closed_is_no_traceback(shm_root, command):
    write(shm_root, "heap-4190001", b"")
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" --root "$1" 2>&-', command, shm_root], stdout=subprocess.PIPE, timeout=60
    )
    assert done.returncode == 1 and b"heap-4190001" in done.stdout


def test_the_plain_form_imports_no_more_than_it_needs(shm_root):
    code = (
        f"import sys; sys.path.append({FOLDERS[1]!r}); from gppshm.cli import shminfo\n"
        f"shminfo.Defaults.root = {shm_root!r}; status = shminfo.main([]); print(*sorted(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-IS", "-c", code], stdout=subprocess.PIPE, timeout=60)
    loaded = set(done.stdout.decode().splitlines()[-1].split())
    assert "gppshm.snapshot" in loaded
    assert not loaded & {"argparse", "json", "psutil"}
    if hasattr(os, "memfd_create"):  # without it leases are probed on a temporary file
        assert not loaded & {"typing", "re", "enum", "signal", "tempfile", "collections"}


def test_looking_changes_nothing(shm_root, run, spawn):
    owner = spawn.owner(shm_root)
    path = os.path.join(shm_root, owner.name)

    def state():
        status = os.stat(path)
        with open(path, "rb") as stream:
            return stream.read(), status.st_mtime_ns, status.st_ctime_ns, stat.S_IMODE(status.st_mode)

    before = state()
    for options in ([], ["-a"], ["--json"], ["--holders"], ["--check"], ["--blocks", owner.name]):
        assert run(*options).status == 0
    assert state() == before
