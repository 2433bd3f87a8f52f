"""The ledger of grants: nothing is promised twice, nothing is lost, and what others use is seen."""

import os
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gppshm import capacity, shmfs

MB = capacity.MB


class FileSystem:
    """A file system of 100 MB of which `used` are used."""

    def __init__(self, used=0):
        self.used = used

    def usage(self):
        return shmfs.Usage(100 * MB, 100 * MB - self.used)


@pytest.fixture
def system():
    return FileSystem()


@pytest.fixture
def ledger(system):
    return capacity.Ledger(system.usage, lambda size: 10 * MB)


def test_an_empty_ledger_offers_what_is_free_beyond_the_headroom(ledger, system):
    assert ledger.available() == 90 * MB
    system.used = 30 * MB
    assert ledger.available() == 60 * MB
    system.used = 95 * MB
    assert ledger.available() == 0


def test_neither_a_grant_nor_its_use_counts_twice(ledger, system):
    system.used = 20 * MB
    ledger.grant("a", 30 * MB)
    assert (ledger.reserved, ledger.available()) == (30 * MB, 40 * MB)
    system.used += 10 * MB
    assert ledger.available() == 40 * MB
    system.used += 20 * MB
    assert ledger.available() == 40 * MB
    system.used += 5 * MB  # more than was granted: somebody else's, or beyond the promise
    assert ledger.available() == 35 * MB
    ledger.give_back("a")
    assert ledger.available() == 35 * MB
    system.used -= 35 * MB
    assert ledger.available() == 70 * MB


def test_memory_that_others_free_while_something_is_granted_can_be_granted(ledger, system):
    system.used = 50 * MB
    ledger.grant("a", 20 * MB)
    assert ledger.available() == 20 * MB
    system.used = 10 * MB
    assert ledger.available() == 60 * MB


def test_a_grant_of_nothing_does_not_make_what_others_use_count_as_the_use_of_later_grants(ledger, system):
    ledger.grant("a host's name", 0)
    system.used = 50 * MB
    ledger.grant("b", 30 * MB)
    assert ledger.available() == 10 * MB


def test_when_all_is_given_back_nothing_is_reserved(ledger, system):
    ledger.grant("a", 60 * MB)
    ledger.grant("b", 20 * MB)
    ledger.give_back_all()
    assert (ledger.grants(), ledger.reserved, ledger.available()) == ([], 0, 90 * MB)


def test_a_grant_is_whole_or_not_at_all(ledger):
    ledger.grant("a", 60 * MB)
    with pytest.raises(capacity.Insufficient) as refusal:
        ledger.grant("b", 31 * MB)
    assert (refusal.value.asked, refusal.value.available) == (31 * MB, 30 * MB)
    assert ledger.reserved == 60 * MB
    ledger.grant("b", 30 * MB)
    assert ledger.available() == 0


def test_what_is_given_back_twice_or_was_never_granted_is_refused(ledger):
    ledger.grant("a", 1)
    ledger.give_back("a")
    for key in ("a", "b"):
        with pytest.raises(capacity.NotGranted):
            ledger.give_back(key)
    assert ledger.reserved == 0


def test_a_grant_given_back_by_its_terms_is_the_oldest_of_its_kind(ledger):
    for key, size, terms in (("a", 5, "five"), ("b", 7, "seven"), ("c", 5, "five")):
        ledger.grant(key, size, terms)
    ledger.give_back_alike("five")
    assert [grant.terms for grant in ledger.grants()] == ["seven", "five"]
    ledger.give_back_alike("five")
    with pytest.raises(capacity.NotGranted):
        ledger.give_back_alike("five")
    assert ledger.reserved == 7


def test_eight_at_once_never_get_more_than_there_is(system):
    ledger = capacity.Ledger(system.usage, lambda size: 0)
    granted, refused = [], []
    ready = threading.Barrier(8)

    def ask(number):
        ready.wait()
        for turn in range(50):
            try:
                ledger.grant(f"{number}-{turn}", MB)
                granted.append(1)
            except capacity.Insufficient:
                refused.append(1)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(granted), len(refused), ledger.available()) == (100, 300, 0)


def test_a_real_files_growth_is_the_use_of_a_grant(shm_root):
    size = 4 * MB
    with shmfs.ShmDirectory(shm_root) as directory:
        ledger = capacity.Ledger(directory.usage, lambda size: 0)
        ledger.grant("a", size)
        before = directory.usage().free
        with open(os.path.join(shm_root, "heap"), "wb") as stream:
            os.posix_fallocate(stream.fileno(), 0, size)
        # Others use the same file system: what they take or free in the meantime is no fault of the ledger's.
        taken = before - directory.usage().free
        assert abs(ledger.available() - (before - max(size, taken))) < 2 * MB


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("grant"), st.integers(0, 40)),
        st.tuples(st.just("give back"), st.integers(0, 5)),
        st.tuples(st.just("use"), st.integers(0, 100)),
    ),
    max_size=40,
)


@settings(deadline=None)
@given(STEPS)
def test_no_order_of_grants_and_returns_promises_more_than_there_is(steps):
    system = FileSystem()
    ledger = capacity.Ledger(system.usage, lambda size: 10 * MB)
    standing = {}
    for number, (what, amount) in enumerate(steps):
        if what == "use":
            system.used = amount * MB
        elif what == "grant":
            try:
                ledger.grant(str(number), amount * MB)
                standing[str(number)] = amount * MB
            except capacity.Insufficient as refusal:
                assert amount * MB > refusal.available == ledger.available()
        elif standing:
            key = sorted(standing)[amount % len(standing)]
            ledger.give_back(key)
            del standing[key]
        assert ledger.reserved == sum(standing.values()) <= 90 * MB
        assert 0 <= ledger.available() <= 90 * MB - ledger.reserved
        assert ledger.available() <= max(0, 90 * MB - system.used)
