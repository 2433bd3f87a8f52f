"""Promises of gppshm.redhawk.thresholds: what an operator may write, and an alarm that does not flap."""

import pytest

from gppshm.redhawk import thresholds
from gppshm.redhawk.thresholds import MB, Alarm

GB = 1024 * MB


@pytest.mark.parametrize(
    ("text", "amount", "shown"),
    [
        ("64", 64 * MB, "64 MB"),
        ("64 MB", 64 * MB, "64 MB"),
        (" 64mb\t", 64 * MB, "64 MB"),
        ("1.5GB", 1536 * MB, "1.5 GB"),
        ("1.5 GiB", 1536 * MB, "1.5 GB"),
        (".5 k", 512, "0.5 kB"),
        ("4096 B", 4096, "4096 B"),
        ("2T", 2 * 1024 * GB, "2 TB"),
        ("0", 0, "0 MB"),
    ],
)
def test_an_amount_is_read_and_shown_as_it_will_be_read_again(text, amount, shown):
    threshold = thresholds.parse(text)
    assert (threshold.limit(10 * GB), threshold.text) == (amount, shown)
    assert thresholds.parse(shown).limit(10 * GB) == amount


@pytest.mark.parametrize(("text", "share"), [("5%", 0.05), ("12.5 %", 0.125), ("0%", 0), ("100%", 1)])
def test_a_share_is_of_the_file_systems_size(text, share):
    assert thresholds.parse(text).limit(1000 * MB) == int(1000 * MB * share)


def test_a_share_of_a_file_system_without_size_is_no_threshold():
    assert thresholds.parse("5%").limit(0) is None


@pytest.mark.parametrize("text", ["off", "OFF", " Off "])
def test_off_is_no_threshold(text):
    assert thresholds.parse(text).limit(1000 * MB) is None
    assert thresholds.parse(text).text == "off"


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "-1",
        "-5%",
        "+5",
        "nan",
        "NaN",
        "inf",
        "100.1%",
        "1e400%",
        "1e3",
        "5 %%",
        "5 parsecs",
        "MB",
        ".",
    ]
    + [
        "1,5 GB",
        "0x10",
        "1_000",
        "٣",
        "5 MB x",
        "5\0",
        "5\n6",
        "999999999999 TB",
        "9" * 5000,
        "off off",
        "1.2.3",
    ],
)
def test_garbage_is_refused_with_a_sentence(text):
    with pytest.raises(ValueError, match=r"^it(s unit)? is "):
        thresholds.parse(text)


def test_an_alarm_comes_back_only_by_a_margin():
    alarm = Alarm(below=True)
    levels = [101, 100, 99, 100, 105, 109, 110, 105, 100, 99]
    raised = [alarm.judge(level * MB, 100 * MB, 1000 * MB) for level in levels]
    assert raised == [False, False, True, True, True, True, False, False, False, True]


def test_an_alarm_of_a_level_that_shall_not_rise_comes_back_by_a_margin_too():
    alarm = Alarm(below=False)
    levels = [0, 100, 101, 100, 91, 90, 100, 101]
    raised = [alarm.judge(level * MB, 100 * MB, 1000 * MB) for level in levels]
    assert raised == [False, False, True, True, True, False, False, True]


def test_nothing_held_never_keeps_an_alarm():
    alarm = Alarm(below=False)
    assert alarm.judge(1, 0, MB)
    assert not alarm.judge(0, 0, MB)


def test_a_new_limit_is_judged_afresh():
    alarm = Alarm(below=True)
    assert alarm.judge(100 * MB, 200 * MB, 1000 * MB)
    assert not alarm.judge(100 * MB, 99 * MB, 1000 * MB)
    assert not alarm.judge(100 * MB, None, 1000 * MB)


def test_an_alarm_ends_when_all_is_free_whatever_the_margin():
    alarm = Alarm(below=True)
    assert alarm.judge(900 * MB, 1000 * MB, 1000 * MB)
    assert not alarm.judge(1000 * MB, 1000 * MB, 1000 * MB)
    assert not alarm.judge(1000 * MB, 1000 * MB, 1000 * MB)


def test_a_limit_above_the_size_is_always_crossed_and_does_not_flap():
    alarm = Alarm(below=True)
    assert all(alarm.judge(1000 * MB, 2000 * MB, 1000 * MB) for _ in range(3))
