"""Promise of gppshm.heapfile: whatever the bytes, reading them ends, raises nothing and does not mislead."""

import lzma
import os
import struct
import tempfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import heapwriter
from damage import for_damaged
from gppshm import heapcheck, heapfile
from places import SAMPLES

PAGE = 4096
FREE = heapwriter.FREE
HOSTS = (("aarch64", 65536), ("riscv64", 16384), ("x86_64", 4096))

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def look(content):
    """Read and check these bytes as every kind of host would, and hold the heap against what is promised."""
    with tempfile.TemporaryFile() as stream:
        stream.write(content)
        stream.flush()
        fd, size = stream.fileno(), len(content)
        heapfile.is_half_made(fd)
        for machine, host_page in HOSTS:
            heap = heapfile.read_heap(fd, size, host_page, machine)
            faults = heapcheck.check(fd, heap)
            believe(heap, size)
            for superblock in heap.superblocks:
                believe_blocks(superblock, list(heapfile.blocks(fd, superblock)))
            for fault in list(heap.faults) + faults:
                assert 0 <= fault.offset <= size or fault.what.startswith("the file ends before")
    return heap, faults


def believe(heap, size):
    assert len(heap.faults) <= heapfile.MAX_FAULTS
    if heap.faults:
        return
    assert heap.heap_used <= heap.heap_size
    end = heap.page_size
    for superblock in heap.superblocks:
        assert superblock.offset == end
        end += heap.page_size + superblock.size
    assert end == size


def believe_blocks(superblock, blocks):
    at = superblock.offset + superblock.data_start
    end = at + superblock.size
    for block in blocks:
        assert block.offset == at
        assert block.size >= 16
        at += block.size
    assert at <= end


@relaxed
@given(st.binary(max_size=3 * PAGE))
def test_any_bytes_are_read(content):
    heap, _ = look(content)
    assert heap.header is None or content.startswith(b"\xcc\x70\xeb\xac")


@relaxed
@given(st.binary(max_size=12), st.binary(max_size=2 * PAGE))
def test_any_bytes_after_the_magic_number_are_read(header, content):
    heap, _ = look(b"\xcc\x70\xeb\xac" + header + content)
    assert heap.header is not None


words = st.one_of(
    st.sampled_from([0, 1, 2, 3, 16, PAGE, 256, 257, 260, 2**31, 2**32 - 1, 0xBADDC0DE, 0xBADDC0DF]),
    st.integers(0, 2**32 - 1),
    st.integers(250, 520),
)


def superblocks():
    """Fields of a first superblock that look right enough for the walk to go on."""
    sizes = st.one_of(st.sampled_from([0, PAGE, 2 * PAGE, 3 * PAGE]), words)
    return st.tuples(sizes, st.one_of(st.just(PAGE), words), st.integers(0, 2**64 - 1), words, words)


@relaxed
@given(superblocks(), st.lists(st.tuples(st.integers(0, 6 * PAGE // 4 - 1), words), max_size=30))
def test_superblocks_and_blocks_of_any_make_are_read(superblock, damages):
    size, data_start, used, first_free, last_free = superblock
    fill = [(96, 1), (96, FREE), (96, 1), (96, FREE), (96, 1)]
    image = heapwriter.image(5, [(PAGE, fill), (PAGE, [])], page=PAGE)
    struct.pack_into("<QII", image, PAGE + 256, PAGE, size, data_start)
    struct.pack_into("<QII", image, PAGE + 312, used, first_free, last_free)
    for place, word in damages:
        if PAGE <= place * 4 < len(image):
            struct.pack_into("<I", image, place * 4, word)
    look(bytes(image))


def sample(name):
    with lzma.open(os.path.join(SAMPLES, name + ".heap.xz")) as stream:
        return stream.read()


# The places of the samples that mean something: headers, and the blocks of the first pages of data.
places = st.one_of(
    st.integers(0, 15),
    st.integers(PAGE + 256, PAGE + 327),
    st.integers(2 * PAGE, 2 * PAGE + 48),
    st.integers(2 * PAGE, 4 * PAGE),
    st.integers(16 * 65256 + PAGE, 16 * 65256 + PAGE + 48),
    st.integers(0, 2105343),
)


@pytest.mark.parametrize("name", ["fragmented", "one-4k"])
def test_a_mutated_sample_is_read(name):
    original = sample(name)

    for_damaged(original, places, look)


def apart(blocks):
    """Two free neighbours would be one."""
    return [
        (units * 16, refcount if number % 2 else abs(refcount))
        for number, (units, refcount) in enumerate(blocks)
    ]


refcounts = st.one_of(st.just(FREE), st.integers(1, 3))
fills = st.lists(st.tuples(st.integers(3, 40), refcounts), max_size=60).map(apart)


@relaxed
@given(
    st.lists(fills, max_size=4),
    st.sampled_from([("x86_64", 40, 4096), ("aarch64", 48, 4096), ("aarch64", 48, 65536)]),
)
def test_every_heap_an_allocator_can_make_has_no_fault(made, host):
    machine, lock_size, page = host
    made = [(65536, fill + [(48, 1)]) for fill in made]
    with tempfile.TemporaryFile() as stream:
        stream.write(heapwriter.image(5, made, page=page, lock_size=lock_size))
        stream.flush()
        heap = heapfile.read_heap(stream.fileno(), stream.tell(), page, machine)
        faults = heapcheck.check(stream.fileno(), heap)
        blocks = [list(heapfile.blocks(stream.fileno(), superblock)) for superblock in heap.superblocks]
    assert [fault.what for fault in list(heap.faults) + faults] == []
    assert heap.heap_used == sum(size for _, fill in made for size, refcount in fill if refcount != FREE)
    for (_, fill), there in zip(made, blocks):
        assert [(block.size, block.refcount) for block in there[:-1]] == fill
