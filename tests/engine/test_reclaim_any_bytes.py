"""Promise of gppshm.reclaim: whatever the bytes, only pages inside free blocks of whole chains become holes.

What may become a hole is worked out here a second time, from the layout alone.
"""

import lzma
import os
import struct
import tempfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import heapwriter
from damage import for_damaged
from gppshm import kinship, reclaim
from places import SAMPLES

PAGE = heapwriter.PAGE
FREE = heapwriter.FREE
LOCK = heapwriter.LOCK_SIZE
SIZES = (4096, 16384, 65536)

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def number(content, offset, kind="I"):
    """The number that lies there; None beyond the end."""
    size = struct.calcsize("<" + kind)
    raw = content[offset : offset + size]
    return struct.unpack("<" + kind, raw)[0] if offset >= 0 and len(raw) == size else None


def page_size(content):
    said = [p for p in (PAGE,) + SIZES if number(content, p + 256, "Q") == p]
    sure = [p for p in said if number(content, p + 268) == p]
    return (sure or said or [PAGE])[0]


def free_pages(content):
    """The numbers of the pages that may become holes."""
    pages = set()
    if content[:4] != b"\xcc\x70\xeb\xac" or number(content, 4) != 1 or len(content) < PAGE:
        return pages
    page = at = page_size(content)
    while number(content, at + 256, "Q") == at and number(content, at + 268) == page:
        size, used = number(content, at + 264), number(content, at + 272 + LOCK, "Q")
        if not size or size % page or at + page + size > len(content) or used > size:
            break
        if number(content, at + 272) == 0:
            pages |= free_pages_of(content, at, at + page, at + page + size)
        at += page + size
    return pages


def free_pages_of(content, superblock, at, end):
    pages, before = set(), False
    while at < end:
        magic, count, place, units = struct.unpack_from("<IiII", content, at)
        size = units * 16
        if magic != 0xBADDC0DE + before or superblock + place * 16 != at or not size or at + size > end:
            break
        if count < -1 or (count == -1 and size < 48):
            break
        before = count == -1
        inside = [n for n in range(at // PAGE, (at + size) // PAGE + 1) if n * PAGE >= at + 32]
        inside = [n for n in inside if (n + 1) * PAGE <= at + size - 4] if before else []
        if inside:
            follower = struct.unpack_from("<IiII", content, at + size) if at + size < end else None
            if number(content, at + size - 4) != units:
                break
            if follower and (follower[0] != 0xBADDC0DF or superblock + follower[2] * 16 != at + size):
                break
            pages.update(inside)
        at += size
    return pages


def holes(fd, size):
    """The numbers of the pages that are holes, of a file every byte of which was written."""
    found, at = set(), 0
    while at < size:
        start = os.lseek(fd, at, os.SEEK_HOLE)
        if start >= size:
            break
        try:
            at = os.lseek(fd, start, os.SEEK_DATA)
        except OSError:
            at = size
        found.update(range(start // PAGE, -(-at // PAGE)))
    return found


def reclaimed(content, looks=2):
    """The pages that became holes; everything else is as it was."""
    with tempfile.TemporaryFile(dir="/dev/shm") as stream:
        stream.write(content)
        stream.flush()
        fd, size = stream.fileno(), len(content)
        it = reclaim.Reclaim(fd, kinship.NO_CHILD)
        for _ in range(looks):
            while not it.go_on():
                pass
        found, now = holes(fd, size), os.pread(fd, size + 1, 0)
        assert len(now) == size
        for page in range(-(-size // PAGE)):
            piece = slice(page * PAGE, (page + 1) * PAGE)
            assert now[piece] == content[piece] or (page in found and not now[piece].strip(b"\0"))
        assert it.given_back == len(found) * PAGE
        assert it.in_use + it.free <= size
        return found


def check(content):
    found = reclaimed(content)
    assert found == free_pages(content)
    return found


@relaxed
@given(st.binary(max_size=3 * PAGE))
def test_any_bytes_lose_nothing(content):
    check(content)


@relaxed
@given(st.binary(max_size=8), st.binary(max_size=3 * PAGE))
def test_any_bytes_after_the_magic_number_and_the_version_lose_nothing(header, content):
    check(b"\xcc\x70\xeb\xac\1\0\0\0" + header + content)


words = st.one_of(
    st.sampled_from([0, 1, 2, 3, 16, PAGE, 256, 257, 260, 2**31, 2**32 - 1, 0xBADDC0DE, 0xBADDC0DF]),
    st.integers(0, 2**32 - 1),
    st.integers(250, 1800),
)
FILL = [(96, 1), (3 * PAGE, FREE), (96, 1), (5 * PAGE + 48, FREE), (PAGE, 2), (2 * PAGE, FREE), (48, 1)]
IMAGE = heapwriter.image(5, [(16 * PAGE, FILL), (4 * PAGE, [])], page=PAGE)
places = st.one_of(
    st.integers(0, len(IMAGE) // 4 - 1),
    st.integers(PAGE // 4 + 64, PAGE // 4 + 82),
    st.sampled_from([PAGE // 2 + edge // 4 + n for edge in (0, 96, 96 + 3 * PAGE) for n in range(-1, 8)]),
)


def test_a_heap_without_a_fault_loses_every_whole_free_page():
    assert len(check(bytes(IMAGE))) == 2 + 4 + 1 + 3 + 2


@relaxed
@given(st.lists(st.tuples(places, words), max_size=6), st.integers(0, len(IMAGE)))
def test_a_damaged_heap_loses_only_what_is_free_up_to_the_fault(damages, length):
    image = bytearray(IMAGE)
    for place, word in damages:
        struct.pack_into("<I", image, place * 4, word)
    check(bytes(image))
    check(bytes(image[:length]))


@pytest.mark.parametrize("before", [PAGE - edge for edge in (0, 16, 32, 48)] + [48])
@pytest.mark.parametrize("behind", [PAGE - edge for edge in (0, 16, 32, 48)] + [48])
def test_the_links_and_the_tail_of_a_free_block_stay_wherever_it_begins_and_ends(before, behind):
    size = 6 * PAGE
    fill = [(before, 1), (size - before - behind, FREE), (behind, 1)]
    first, last = 2 * PAGE + before + 32, 2 * PAGE + size - behind - 4
    expected = set(range(-(-first // PAGE), last // PAGE))
    assert check(bytes(heapwriter.image(5, [(size, fill)], page=PAGE))) == expected


def apart(blocks):
    """Two free neighbours would be one."""
    return [
        (units * 16, refcount if at % 2 else abs(refcount)) for at, (units, refcount) in enumerate(blocks)
    ]


refcounts = st.one_of(st.just(FREE), st.integers(1, 3))
units = st.one_of(st.integers(3, 600), st.integers(1000, 5000))
fills = st.lists(st.tuples(units, refcounts), max_size=12).map(apart)


@relaxed
@given(st.lists(fills, min_size=1, max_size=3), st.sampled_from(SIZES))
def test_every_heap_that_an_allocator_can_make_loses_exactly_its_free_pages(made, page):
    made = [
        (heapwriter.whole_pages(sum(size for size, _ in fill) + 48, page), fill + [(48, 1)]) for fill in made
    ]
    made = [
        (size + page if size - sum(n for n, _ in fill) in (16, 32) else size, fill) for size, fill in made
    ]
    check(bytes(heapwriter.image(5, made, page=page)))


def sample(name):
    with lzma.open(os.path.join(SAMPLES, name + ".heap.xz")) as stream:
        return stream.read()


@pytest.mark.parametrize("name", sorted(name[:-8] for name in os.listdir(SAMPLES) if name.endswith(".xz")))
def test_of_a_real_heap_exactly_its_free_pages_are_lost(name):
    """These are what REDHAWK's own allocator made."""
    content = sample(name)
    found = check(content)
    assert len(found) > len(content) // PAGE // 4 or name in ("empty", "large-8m", "fifteen-superblocks")


@pytest.mark.parametrize("name", ["fragmented", "one-4k"])
def test_a_mutated_real_heap_loses_only_what_is_free_up_to_the_fault(name):
    original = sample(name)
    there = st.one_of(
        st.integers(0, 15),
        st.integers(PAGE + 256, PAGE + 327),
        st.integers(2 * PAGE, 4 * PAGE),
        st.integers(0, len(original) - 1),
    )

    for_damaged(original, there, check)
