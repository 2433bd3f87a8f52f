"""What comes thick is told so many times within a minute; of the rest there is a count."""

from gppshm import sparing
from spawning import wait_for


def test_so_many_of_a_kind_are_told_and_the_last_says_that_more_are_left_out():
    spared = sparing.Sparing(most=3)
    notes = [spared.note("a") for _ in range(10)]
    assert notes[:2] == ["", ""] and "only counted" in notes[2] and notes[3:] == [None] * 7
    assert spared.left_out == 7
    assert spared.note("b") == ""  # of another kind


def test_when_its_minute_is_over_it_is_told_how_many_were_left_out():
    spared = sparing.Sparing(most=2, minute=0.05)
    while spared.note("a") is not None:
        pass
    left_out = 1

    def told():
        nonlocal left_out
        note = spared.note("a")
        left_out += note is None
        return note

    assert wait_for(told) == f"{left_out} like it were left out before"


def test_however_many_kinds_there_are_it_stays_small():
    spared = sparing.Sparing(most=1, minute=0.0)
    for kind in range(5 * sparing.KINDS):
        spared.note(kind)
    assert len(spared._kinds) <= sparing.KINDS
