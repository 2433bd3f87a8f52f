"""The short form of a command line says who it is, and is bounded, whatever its words are."""

import random
import time

from hypothesis import given
from hypothesis import strategies as st

from gppshm import commands

IOR = "IOR:" + "010000002600000049444c3a43462f4465766963654d616e616765723a312e3000" * 8

COMPONENT = [
    "/var/redhawk/sdr/dom/components/fir/cpp/fir",
    "NAMING_CONTEXT_IOR",
    IOR,
    "PROFILE_NAME",
    "/components/fir/fir.spd.xml",
    "COMPONENT_IDENTIFIER",
    "DCE:1-2:wave_1",
    "NAME_BINDING",
    "fir_1",
    "DEBUG_LEVEL",
    "3",
    "taps",
    "1,2,3",
    "DOM_PATH",
    "REDHAWK_DEV/wave_1",
]


def test_of_a_component_program_name_and_application_are_left():
    assert commands.short(COMPONENT) == (
        "/var/redhawk/sdr/dom/components/fir/cpp/fir NAME_BINDING fir_1 COMPONENT_IDENTIFIER DCE:1-2:wave_1"
        " DOM_PATH REDHAWK_DEV/wave_1"
    )


def test_of_a_script_the_interpreter_and_the_script_are_left():
    words = ["/usr/bin/python3", "-u", "/sdr/dev/devices/x/python/x.py", "DEVICE_MGR_IOR", IOR]
    words += ["DEVICE_ID", "DCE:3", "DEVICE_LABEL", "x_1", "IDM_CHANNEL_IOR", IOR]
    assert commands.short(words) == "/usr/bin/python3 -u /sdr/dev/devices/x/python/x.py DEVICE_LABEL x_1"


def test_any_other_command_is_what_it_is():
    assert commands.short(["tail", "-f", "/var/log/syslog"]) == "tail -f /var/log/syslog"
    assert commands.short(["sh", "-c", "sleep 10; echo done"]) == "sh -c sleep 10; echo done"
    assert commands.short(["lonely"]) == "lonely"
    assert commands.short([]) == commands.short(["", ""]) == ""


def test_no_reference_is_in_it_whole_wherever_it_stands():
    for words in (["x", IOR], ["x", "-ORBInitRef", f"NameService={IOR}"], [IOR], ["DEVICE_LABEL", IOR]):
        shown = commands.short(words)
        assert "IOR:..." in shown and "0100000" not in shown and len(shown) < 60


def test_a_name_without_a_value_is_no_pair():
    assert commands.short(["x", "y", "NAME_BINDING"]) == "x y NAME_BINDING"
    assert commands.short(["NAME_BINDING", "z"]) == "NAME_BINDING z"


def test_a_million_words_and_one_of_a_million_letters_cost_nothing():
    started = time.monotonic()
    assert len(commands.short(["word"] * 1000000)) == commands.LIMIT
    assert commands.short(["x" * 1000000]) == "x" * (commands.WORD - 3) + "..."
    assert len(commands.short(["p", "NAME_BINDING", "n" * 1000000])) <= commands.LIMIT
    assert time.monotonic() - started < 1


@given(st.lists(st.one_of(st.text(), st.sampled_from(COMPONENT))))
def test_any_words_have_a_short_form_that_is_bounded(words):
    shown = commands.short(words)
    assert len(shown) <= commands.LIMIT
    assert "IOR:0" not in shown


def test_the_same_words_in_another_order_say_the_same():
    pairs = [COMPONENT[number : number + 2] for number in range(1, len(COMPONENT), 2)]
    for seed in range(10):
        random.Random(seed).shuffle(pairs)
        words = COMPONENT[:1] + [word for pair in pairs for word in pair]
        # A pair of a property's name may stand first: it is not REDHAWK's, so it is taken for the program's.
        assert commands.short(words).endswith(commands.short(COMPONENT)[len(COMPONENT[0]) :])
