"""A heap's bytes, damaged in every way that hypothesis finds."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


def for_damaged(original, places, act):
    """Do `act(image)` for `original` with up to eight bytes changed at `places`, whole and cut off."""

    @settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(st.tuples(places, st.integers(0, 255)), max_size=8), st.integers(0, len(original)))
    def mutate(damages, length):
        image = bytearray(original)
        for place, byte in damages:
            image[place] = byte
        act(bytes(image))
        act(bytes(image[:length]))

    mutate()
