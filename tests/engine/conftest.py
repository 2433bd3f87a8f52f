"""The fixtures of the engine's tests."""

import pytest

from watching import ByHand, without_pidfds


@pytest.fixture(params=["pidfds", "no pidfds"])
def triggers(request, monkeypatch):
    """With pidfds, and without: as on REDHAWK's usual hosts."""
    if request.param == "no pidfds":
        without_pidfds(monkeypatch)
    return request.param


@pytest.fixture
def by_hand(shm_root):
    """by_hand(): a watcher on `shm_root` that takes no step of its own accord."""
    made = []

    def make(**options):
        made.append(ByHand(shm_root, **options))
        return made[-1]

    yield make
    for each in made:
        each.watcher.close()
