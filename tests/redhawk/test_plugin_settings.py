"""GppShmPlugin.ini: every setting has a default; what is bad is named, and leads to no more cleaning."""

import os

import pytest

from gppshm.redhawk import settings


def values(chosen):
    found = {name: value for name, value in vars(chosen).items() if name not in ("thresholds", "refusal")}
    found.update((name, threshold.text) for name, threshold in chosen.thresholds.items())
    return found


DEFAULTS = {
    "scope": "host",
    "rescan": 30.0,
    "dry_run": False,
    "reclaim": True,
    "remove_fifos": False,
    "settle": 30.0,
    "device": True,
    "metrics": None,
    "metrics_textfile": None,
    "log_level": "INFO",
    "root": "/dev/shm",
    "shm_free": "10 MB",
    "shm_orphaned": "off",
    "shm_held": "off",
}


@pytest.fixture
def ini(tmp_path):
    """read(text): the settings, as a dict, and the faults; `read.refusal`: why nothing is cleaned."""

    def read(text):
        path = tmp_path / "GppShmPlugin.ini"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        chosen, faults = settings.read(str(path))
        read.refusal = chosen.refusal
        return values(chosen), faults

    return read


def test_without_a_file_there_are_the_defaults_and_no_fault(tmp_path):
    chosen, faults = settings.read(str(tmp_path / "GppShmPlugin.ini"))
    assert (values(chosen), faults) == (DEFAULTS, [])


def test_the_shipped_example_shows_every_setting_with_its_default(ini):
    assert ini(settings.example()) == (DEFAULTS, [])
    shown = settings.example().replace("\n#", "\n")
    lines = [line for line in shown.splitlines() if " = " in line and not line.startswith(" ")]
    assert {line.split(" = ")[0] for line in lines} == set(DEFAULTS)
    assert ini("[GppShmPlugin]\n" + "\n".join(lines)) == (DEFAULTS, [])


def test_the_shipped_example_gives_each_setting_a_comment_and_a_range():
    blocks = settings.example().split("\n\n")[2:]
    assert len(blocks) == len(DEFAULTS)
    for block in blocks:
        comment, told_range, setting = block.strip().rsplit("\n", 2)
        assert comment.startswith("# ")
        assert told_range.startswith("# Range: ")
        assert setting.startswith("#")


def test_each_setting_can_be_set(ini):
    text = """\
[GppShmPlugin]
scope = Children
rescan = 2.5      # seconds
dry_run = yes
remove_fifos = On
settle = 0
metrics = [::1]:9753  # IPv6
metrics_textfile = /var/lib/redhawk.prom
log_level = debug
root = /dev/shm/mine
shm_free = 5%
shm_orphaned = 1.5GB
shm_held = 64
"""
    wanted = dict(
        DEFAULTS,
        scope="children",
        rescan=2.5,
        dry_run=True,
        remove_fifos=True,
        settle=0.0,
        metrics=("::1", 9753),
        metrics_textfile="/var/lib/redhawk.prom",
        log_level="DEBUG",
        root="/dev/shm/mine",
        shm_free="5%",
        shm_orphaned="1.5 GB",
        shm_held="64 MB",
    )
    assert ini(text) == (wanted, [])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("scope", "everything"),
        ("rescan", "0"),
        ("rescan", "-3"),
        ("rescan", "nan"),
        ("rescan", "often"),
        ("rescan", ""),
        ("dry_run", "maybe"),
        ("reclaim", "never"),
        ("settle", "301"),
        ("settle", "inf"),
        ("metrics", "here"),
        ("metrics", "70000"),
        ("metrics", ""),
        ("metrics_textfile", "redhawk.prom"),
        ("log_level", "LOUD"),
        ("root", "dev/shm"),
        ("shm_free", "-5 MB"),
        ("shm_free", "101%"),
        ("shm_held", "much"),
    ],
)
def test_a_bad_value_is_named_and_its_default_used_and_the_others_hold(ini, name, value):
    other = "dry_run" if name != "dry_run" else "remove_fifos"
    chosen, faults = ini(f"[GppShmPlugin]\n{name} = {value}\n{other} = yes\n")
    assert chosen == dict(DEFAULTS, **{other: True})
    assert len(faults) == 1
    assert f"{name} = {value}" in faults[0]
    assert "default" in faults[0]
    # The default of these would clean more than was asked for.
    assert ini.refusal == (faults[0] if name in ("scope", "dry_run", "reclaim", "root") else "")


@pytest.mark.parametrize(
    "text",
    [
        "rescan = 5\n",
        "[GppShmPlugin\nrescan = 5\n",
        b"\xff\xfe\x00\x00",
        "[GppShmPlugin]\nwhat = 5\n",
        "[Other]\nrescan = 5\n",
        "[GppShmPlugin]\nrescan\n",
        "[GppShmPlugin]\n = 5\n",
    ],
)
def test_a_bad_file_is_named_and_the_defaults_used(ini, text):
    chosen, faults = ini(text)
    assert chosen == DEFAULTS
    assert faults
    assert all(fault.isascii() if hasattr(fault, "isascii") else fault for fault in faults)
    assert all("GppShmPlugin.ini" in fault and "\n" not in fault for fault in faults)
    # What was meant to limit the cleaning is not known.
    assert ini.refusal == ("" if text == "[GppShmPlugin]\nrescan\n" else faults[0])


def test_a_file_that_is_too_long_to_be_read_whole_is_refused(ini):
    text = "[GppShmPlugin]\n" + "# so it goes\n" * 6000 + "scope = children\n"
    chosen, faults = ini(text)
    assert chosen == DEFAULTS
    assert [ini.refusal] == faults and "has more than 65536 bytes" in faults[0]


def test_a_fifo_or_a_folder_in_place_of_the_file_holds_nothing_up(tmp_path):
    os.mkfifo(str(tmp_path / "fifo"))
    for name in ("fifo", "."):
        chosen, faults = settings.read(str(tmp_path / name))
        assert values(chosen) == DEFAULTS
        assert [chosen.refusal] == faults
