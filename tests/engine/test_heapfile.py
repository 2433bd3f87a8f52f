"""Promises of gppshm.heapfile: what REDHAWK's own heaps read as, and how each damage is named."""

import contextlib
import glob
import lzma
import os
import struct
import tempfile
import time

import pytest

import heapwriter
from gppshm import heapcheck, heapfile
from places import SAMPLES

NAMES = sorted(os.path.basename(path)[: -len(".heap.xz")] for path in glob.glob(SAMPLES + "/*.heap.xz"))

PAGE = 4096
SIZE = 2097152
FREE = heapwriter.FREE
# Where the blocks of the heap made by `damageable` lie.
FIRST = PAGE + PAGE
HOLE_96, IN_USE_2, HOLE_48, HOLE_96_TOO = FIRST + 64, FIRST + 160, FIRST + 224, FIRST + 336
LAST_IN_USE, REST = HOLE_96_TOO + 96, HOLE_96_TOO + 96 + 64
# The fields of the first superblock.
RECORDED, DATA_SIZE, DATA_START, LOCK, USED, FIRST_FREE, LAST_FREE = (
    PAGE + at for at in (256, 264, 268, 272, 312, 320, 324)
)


def sample(name):
    with lzma.open(os.path.join(SAMPLES, name + ".heap.xz")) as stream:
        return bytearray(stream.read())


def damageable(page=PAGE, lock_size=40):
    """A heap of two superblocks; the first has five free blocks of three sizes."""
    fill = [(64, 1), (96, FREE), (64, 2), (48, FREE), (64, 1), (96, FREE), (64, 1)]
    return heapwriter.image(77, [(SIZE, fill), (4 * page, [(page, 1)])], page=page, lock_size=lock_size)


@contextlib.contextmanager
def opened(*parts):
    """A descriptor of a file with these bytes; a number leaves a hole of that many."""
    with tempfile.TemporaryFile() as stream:
        for part in parts:
            if isinstance(part, int):
                stream.truncate(stream.seek(part, os.SEEK_CUR))
            else:
                stream.write(part)
        stream.flush()
        yield stream.fileno()


def read(*parts, **options):
    """The heap of these bytes, and what `check` adds to its faults."""
    with opened(*parts) as fd:
        options.setdefault("host_page_size", PAGE)
        options.setdefault("machine", "x86_64")
        heap = heapfile.read_heap(fd, os.fstat(fd).st_size, **options)
        return heap, heapcheck.check(fd, heap)


def found(faults):
    return [(fault.offset, fault.what) for fault in faults]


def put(image, offset, layout, *values):
    struct.pack_into("<" + layout, image, offset, *values)
    return image


def units(offset):
    """The place `offset` as the links of the first superblock say it."""
    return (offset - PAGE) // 16


# What REDHAWK made


def test_all_eight_samples_are_here():
    assert len(NAMES) == 8


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_reads_as_redhawks_own_tool_printed_it(name):
    with open(os.path.join(SAMPLES, name + ".shminfo.txt")) as stream:
        printed = dict(line.split(":", 1) for line in stream if ":" in line)
    printed = {key.strip(): value.split()[0] for key, value in printed.items()}
    image = sample(name)
    heap, _ = read(image)
    assert len(image) == int(printed["file size"])
    assert heap.heap_size == int(printed["heap size"])
    assert heap.heap_used == int(printed["heap used"])
    assert heap.header.creator == int(printed["creator"])
    assert heap.header.refcount == int(printed["refcount"])
    assert heap.header.version == 1
    assert heap.page_size == PAGE


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_has_no_fault(name):
    heap, faults = read(sample(name))
    assert found(heap.faults) == []
    assert found(faults) == []


@pytest.mark.parametrize(
    ("name", "superblocks"),
    [("empty", 0), ("fifteen-superblocks", 15), ("four-threads", 2), ("large-8m", 1)],
)
def test_every_superblock_is_found_where_it_lies(name, superblocks):
    image = sample(name)
    heap, _ = read(image)
    assert len(heap.superblocks) == superblocks
    offset = PAGE
    for superblock in heap.superblocks:
        assert superblock.offset == offset
        assert superblock.data_start == PAGE
        offset += PAGE + superblock.size
    assert offset == len(image)


def test_the_blocks_of_a_sample_fill_it_end_to_end():
    with opened(sample("fragmented")) as fd:
        (superblock,) = heapfile.read_heap(fd, PAGE + PAGE + SIZE, PAGE, "x86_64").superblocks
        blocks = list(heapfile.blocks(fd, superblock))
    assert len(blocks) == 502
    assert [(block.offset, block.size) for block in blocks if block.free] == [
        (PAGE + 16 * 256, 16 * 32500),
        (PAGE + 16 * 65256, 16 * 66072),
    ]
    assert sum(block.size for block in blocks) == SIZE
    assert sum(block.size for block in blocks if not block.free) == superblock.used
    assert [block.previous_free for block in blocks[1:]] == [block.free for block in blocks[:-1]]


def test_the_writer_lays_a_superblock_out_as_redhawk_does():
    real = sample("one-4k")
    own = heapwriter.image(29785, [(SIZE, [(4128, 1)])], page=PAGE, lock_size=40)
    written = [
        (0, 16),
        (PAGE, 2 * PAGE + 16),
        (2 * PAGE + 4128, 2 * PAGE + 4128 + 32),
        (len(real) - 4, len(real)),
    ]
    for start, end in written:
        assert own[start:end] == real[start:end]


# Superblocks of 4 GiB and more


GIB = 1 << 30


def wrapped(*sizes):
    """A sparse heap of superblocks of these sizes, recorded in 32 bits, each with one block in use."""
    parts, offset = [bytes(heapwriter.image(77, [], page=PAGE))], PAGE
    for size in sizes:
        head = bytearray(2 * PAGE + 4096)
        heapwriter.put_superblock(head, "heap-77", offset, 4096, [(4096, 1)], 0, PAGE, 40)
        struct.pack_into("<I", head, 264, size & 0xFFFFFFFF)
        struct.pack_into("<Q", head, 312, size)
        struct.pack_into("<I", head, PAGE + 12, size // 16)
        parts += [bytes(head[: 2 * PAGE]), size - PAGE]
        offset += PAGE + size
    return parts


@pytest.mark.parametrize(
    "sizes",
    [(4 * GIB,), (4 * GIB + 8192,), (SIZE, 5 * GIB, SIZE), (9 * GIB, 4 * GIB), (13 * GIB + PAGE, PAGE)],
)
def test_a_superblock_of_4_gib_and_more_is_whole_whatever_32_bits_say(sizes):
    heap, faults = read(*wrapped(*sizes))
    assert found(heap.faults) + found(faults) == []
    assert [superblock.size for superblock in heap.superblocks] == list(sizes)
    assert [superblock.recorded for superblock in heap.superblocks] == [size % (4 * GIB) for size in sizes]
    assert heap.heap_size == heap.heap_used == sum(sizes)
    with opened(*wrapped(*sizes)) as fd:
        size = os.fstat(fd).st_size
        sums = heapfile.read_sum(fd, heapfile.read_header(fd), size)
    assert sums is None


def test_a_superblock_of_4_gib_whose_blocks_fill_32_bits_of_it_is_no_broken_one():
    parts = wrapped(4 * GIB + 8192)
    head = bytearray(parts[1])
    struct.pack_into("<Q", head, 312, 8192)
    struct.pack_into("<I", head, PAGE + 12, 8192 // 16)
    heap, faults = read(parts[0], bytes(head), *parts[2:])
    assert found(heap.faults) + found(faults) == []
    assert (heap.heap_size, heap.heap_used) == (4 * GIB + 8192, 8192)


def test_damage_to_a_huge_heap_is_damage_still():
    parts = wrapped(5 * GIB, SIZE)
    heap, _ = read(*parts[:3], PAGE, *parts[3:])
    assert [fault.offset for fault in heap.faults][-1] == PAGE + PAGE + GIB
    started = time.monotonic()
    with opened(bytes(damageable()), (1 << 43) + PAGE) as fd:
        assert len(heapfile.read_heap(fd, os.fstat(fd).st_size, PAGE, "x86_64").faults) == 1
    assert time.monotonic() - started < 1


# Other hosts


@pytest.mark.parametrize("page", [4096, 16384, 65536])
@pytest.mark.parametrize("host_page", [4096, 16384, 65536])
def test_a_heap_of_another_page_size_is_read(page, host_page):
    heap, faults = read(damageable(page), host_page_size=host_page)
    assert heap.page_size == page
    assert found(heap.faults) + found(faults) == []
    assert [superblock.size for superblock in heap.superblocks] == [SIZE, 4 * page]


@pytest.mark.parametrize("page", [4096, 16384, 65536])
@pytest.mark.parametrize("host_page", [4096, 16384, 65536])
def test_an_empty_heap_of_another_page_size_is_read(page, host_page):
    heap, _ = read(heapwriter.image(77, [], page=page), host_page_size=host_page)
    assert (heap.page_size, heap.heap_size, heap.heap_used, found(heap.faults)) == (page, 0, 0, [])


def test_data_that_looks_like_a_superblock_of_the_hosts_page_size_is_not_taken_for_one():
    heap, faults = read(put(damageable(4096), 65536 + 256, "Q", 65536), host_page_size=65536)
    assert heap.page_size == 4096
    assert found(heap.faults) + found(faults) == []


def test_the_longer_lock_of_aarch64_moves_what_follows():
    image = damageable(65536, lock_size=48)
    put(image, 65536 + 272, "i4xi", 1, 4711)
    heap, faults = read(image, machine="aarch64", host_page_size=65536)
    assert found(heap.faults) + found(faults) == []
    assert heap.heap_used == 256 + 65536
    assert (heap.superblocks[0].lock_word, heap.superblocks[0].lock_owner) == (1, 4711)


def test_the_lock_is_read_with_its_owner():
    heap, _ = read(put(damageable(), LOCK, "i4xi", 2, 4711))
    assert [(one.lock_word, one.lock_owner) for one in heap.superblocks] == [(2, 4711), (0, 0)]


# Headers


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 4096, b"#!/bin/sh\n", b"\xcc\x70\xeb", b"\xca\x70\xeb\xac" * 4]
)
def test_a_file_without_the_magic_number_is_no_heap(content):
    heap, _ = read(content)
    assert heap.header is None
    assert found(heap.faults) == [(0, "no magic number: this is no heap")]


def test_the_header_alone_can_be_read():
    with opened(sample("attached")) as fd:
        header = heapfile.read_header(fd)
    assert (header.version, header.refcount, header.creator) == (1, 2, 29844)


def test_fields_that_the_file_is_too_short_for_read_zero():
    with opened(sample("attached")[:12]) as fd:
        header = heapfile.read_header(fd)
    assert (header.version, header.refcount, header.creator) == (1, 2, 0)


@pytest.mark.parametrize("length", [4, 5, 8, 12, 15, 16, 17, 255, 4095])
def test_a_file_shorter_than_a_page_is_a_heap_with_a_fault(length):
    heap, faults = read(damageable()[:length])
    assert heap.header is not None
    what = f"the file is {length} bytes long, shorter than its header page of 4096"
    assert found(heap.faults) == [(0, what)]
    assert (heap.heap_size, heap.heap_used, found(faults)) == (0, 0, [])


def test_another_version_is_a_fault_and_its_superblocks_are_not_guessed():
    heap, _ = read(put(damageable(), 4, "I", 2))
    assert found(heap.faults) == [(4, "version 2, not 1: REDHAWK refuses it, and its layout is not known")]
    assert heap.superblocks == ()


@pytest.mark.parametrize(
    ("content", "half_made"),
    [
        (b"", True),
        (b"\0" * 100, True),
        (b"\xcc\x70\xeb\xac", True),
        (b"\xcc\x70\xeb\xac" + b"\1" * 50, True),
        (b"\xcc\x70", False),
        (b"\0" * 99 + b"\1", False),
        (b"\0" * 4096, False),
        (b"\xcc\x70\xeb\xac" + b"\0" * 4092, False),
    ],
)
def test_a_half_made_heap_is_told_from_a_small_file_of_others(content, half_made):
    with opened(content) as fd:
        assert heapfile.is_half_made(fd, 4096) is half_made


# Superblocks


def test_a_superblock_whose_recorded_offset_is_wrong_ends_the_walk():
    second = PAGE + PAGE + SIZE
    heap, _ = read(put(damageable(), second + 256, "Q", PAGE))
    assert found(heap.faults) == [(second, "no superblock here: the offset recorded is 4096")]
    assert [superblock.offset for superblock in heap.superblocks] == [PAGE]


def test_a_first_superblock_that_is_not_there_is_a_fault():
    heap, _ = read(put(damageable(), RECORDED, "Q", 8192))
    assert found(heap.faults) == [(PAGE, "no superblock here: the offset recorded is 8192")]
    assert (heap.superblocks, heap.page_size) == ([], PAGE)


def test_a_creator_that_died_while_the_heap_grew_is_named():
    image = damageable()
    heap, _ = read(image, PAGE + SIZE)
    what = f"no superblock in the last {PAGE + SIZE} bytes: its creator is growing the heap, or died doing so"
    assert found(heap.faults) == [(len(image), what)]
    assert len(heap.superblocks) == 2


def test_a_superblock_beyond_the_end_of_the_file_is_a_fault():
    heap, faults = read(damageable()[: PAGE + PAGE + SIZE - 4096])
    assert found(heap.faults) == [
        (PAGE, "the superblock, of 2097152 bytes, goes 4096 bytes beyond the end of the file")
    ]
    assert heap.heap_size == SIZE
    # Its last block begins in the file; its tail is cut off.
    assert found(faults) == [(REST, f"the free block's tail says 0 bytes, its header {FIRST + SIZE - REST}")]


def test_a_file_that_ends_in_a_superblocks_header_is_a_fault():
    image = damageable()
    second = PAGE + PAGE + SIZE
    for length in (1, 256, 256 + 71):
        heap, _ = read(image[: second + length])
        assert found(heap.faults) == [(second, "the file ends inside the header of a superblock")]
        assert heap.heap_size == SIZE


def test_a_size_that_is_no_multiple_of_the_page_ends_the_walk():
    heap, _ = read(put(damageable(), DATA_SIZE, "I", SIZE - 16))
    what = "the superblock's size, 2097136, is not a multiple of the page size, 4096"
    assert found(heap.faults) == [(PAGE, what)]
    assert len(heap.superblocks) == 1


def test_a_superblock_without_data_is_a_fault():
    image = damageable()[: 2 * PAGE]
    put(image, DATA_SIZE, "I", 0)
    put(image, USED, "QII", 0, 0, 0)
    heap, faults = read(image)
    assert found(heap.faults) == [(PAGE, "the superblock has no data area: its size is 0")]
    assert found(faults) == []


def test_a_sum_is_given_only_of_what_is_whole():
    page, header = heapwriter.PAGE, heapfile.Header(1, 1, 77)
    good = heapwriter.image(77, [(page, [(64, 1)]), (4 * page, [(page, 1)])])
    for image in (good, good[:page]):
        with opened(image) as fd:
            whole, sums = heapfile.read_heap(fd, len(image)), heapfile.read_sum(fd, header, len(image))
        assert whole.faults == [] and list(sums.faults) == []
        for name in ("superblock_count", "heap_size", "heap_used"):
            assert getattr(sums, name) == getattr(whole, name), name
    for image in (heapwriter.image(77, [(0, ())]), good[:-1], good[: page + 300]):
        with opened(image) as fd:
            assert heapfile.read_heap(fd, len(image)).faults != []
            assert heapfile.read_sum(fd, header, len(image)) is None


def test_a_wrong_data_start_is_a_fault_and_the_walk_goes_on():
    heap, _ = read(put(damageable(), DATA_START, "I", 8192))
    assert found(heap.faults) == [(PAGE, "the superblock's data start at 8192, not after one page of 4096")]
    assert len(heap.superblocks) == 2


def test_more_used_than_there_is_is_a_fault():
    heap, faults = read(put(damageable(), USED, "Q", 2**64 - 1))
    assert found(heap.faults) == [
        (PAGE, "the superblock uses more than it has: 18446744073709551615 of 2097152 bytes")
    ]
    assert len(faults) == 1


@pytest.mark.parametrize("size", [0, PAGE])
def test_more_superblocks_than_a_heap_can_have_are_a_fault_and_no_walk_of_minutes(monkeypatch, size):
    limit = 2000
    time_limit = 5.0 * limit / heapfile.MAX_SUPERBLOCKS
    monkeypatch.setattr(heapfile, "MAX_SUPERBLOCKS", limit)
    step = PAGE + size
    image = bytearray(PAGE + (limit + 10) * step)
    heapwriter.put_header(image, 77)
    for at in range(PAGE, len(image), step):
        put(image, at + 256, "QII", at, size, PAGE)
    with opened(image) as fd:
        started = time.perf_counter()
        heap = heapfile.read_heap(fd, len(image), PAGE, "x86_64")
        assert time.perf_counter() - started < time_limit
        faults = heapcheck.check(fd, heap)
    assert len(heap.superblocks) == limit
    assert len(heap.faults) <= heapfile.MAX_FAULTS
    assert len(faults) <= heapfile.MAX_FAULTS
    if size:
        assert found(heap.faults) == [
            (PAGE + limit * step, "more than 2000 superblocks: the rest is not examined")
        ]
    else:
        assert heap.faults[-1].what == "more faults follow: not listed"


def test_as_many_superblocks_as_a_heap_can_have_are_no_fault(monkeypatch):
    monkeypatch.setattr(heapfile, "MAX_SUPERBLOCKS", 2)
    heap, _ = read(damageable())
    assert found(heap.faults) == []


# Blocks


def damaged(offset, layout, *values):
    """The faults of the blocks and free lists of the heap made by `damageable`, damaged at `offset`."""
    heap, faults = read(put(damageable(), offset, layout, *values))
    assert found(heap.faults) == []
    return found(faults)


def test_the_undamaged_heap_has_no_fault():
    heap, faults = read(damageable())
    assert found(heap.faults) + found(faults) == []
    assert heap.heap_used == 256 + PAGE


@pytest.mark.parametrize("magic", [0, 0xBADDC0DC, 0xACEB70CC])
def test_a_block_without_its_magic_number_is_a_fault(magic):
    assert damaged(IN_USE_2, "I", magic) == [(IN_USE_2, f"no block here: its magic number is 0x{magic:08X}")]


def test_a_block_that_says_it_lies_elsewhere_is_a_fault():
    assert damaged(IN_USE_2 + 8, "I", units(FIRST)) == [(IN_USE_2, f"the block says that it lies at {FIRST}")]


def test_a_block_of_no_size_is_a_fault_and_no_endless_loop():
    assert damaged(IN_USE_2 + 12, "I", 0) == [(IN_USE_2, "the block's size is 0")]


def test_a_block_beyond_its_superblock_is_a_fault():
    size = (FIRST + SIZE - IN_USE_2) // 16 + 1
    what = f"the block, of {size * 16} bytes, goes 16 bytes beyond the end of its superblock"
    assert damaged(IN_USE_2 + 12, "I", size) == [(IN_USE_2, what)]


def test_a_block_of_the_wrong_size_is_found_where_the_next_should_be():
    assert damaged(IN_USE_2 + 12, "I", 3) == [
        (IN_USE_2 + 48, "no block here: its magic number is 0x00000000")
    ]


@pytest.mark.parametrize("refcount", [0, -2, -(2**31)])
def test_a_refcount_that_is_neither_free_nor_in_use_is_a_fault(refcount):
    faults = damaged(REST - 64 + 4, "i", refcount)
    what = f"the block's refcount is {refcount}: neither free (-1) nor in use"
    assert (LAST_IN_USE, what) in faults


def test_a_flag_that_denies_the_free_block_before_is_a_fault():
    what = "the block says that the one before it is in use, and it is not"
    assert damaged(IN_USE_2, "I", 0xBADDC0DE) == [(IN_USE_2, what)]


@pytest.mark.parametrize("offset", [FIRST, HOLE_96, HOLE_48])
def test_a_flag_that_invents_a_free_block_before_is_a_fault(offset):
    what = "the block says that the one before it is free, and it is not"
    assert damaged(offset, "I", 0xBADDC0DF) == [(offset, what)]


def test_a_wrong_tail_of_a_free_block_is_a_fault():
    what = "the free block's tail says 112 bytes, its header 96"
    assert damaged(IN_USE_2 - 4, "I", 7) == [(HOLE_96, what)]


def test_a_free_block_too_small_for_its_links_is_a_fault():
    image = damageable()
    put(image, HOLE_48 + 12, "I", 2)
    put(image, HOLE_48 + 32, "IiII", 0xBADDC0DF, 1, units(HOLE_48 + 32), 1)
    put(image, HOLE_48 + 48, "I", 0xBADDC0DE)
    put(image, USED, "Q", 256 + 16)
    _, faults = read(image)
    assert found(faults)[0] == (HOLE_48, "the free block, of 32 bytes, is too small")


def test_a_wrong_sum_of_used_bytes_is_a_fault():
    what = "the superblock says that 272 bytes are in use, and its blocks say 256"
    assert damaged(USED, "Q", 272) == [(PAGE, what)]


@pytest.mark.parametrize("length", [0, 1, 8, 15])
def test_a_file_that_was_cut_in_a_blocks_header_is_a_fault(length):
    heap, faults = read(damageable()[: HOLE_48 + length])
    assert [fault.offset for fault in heap.faults] == [PAGE]
    assert found(faults) == [(HOLE_48, "the file ends before the block that should begin here")]


def test_a_fault_in_one_superblock_does_not_hide_another():
    second = PAGE + PAGE + SIZE + PAGE
    image = put(put(damageable(), IN_USE_2, "I", 0), second + 12, "I", 0)
    assert [offset for offset, _ in found(read(image)[1])] == [IN_USE_2, second]


# Free lists: bins HOLE_48, HOLE_96 (with HOLE_96_TOO), REST; a free block's links are at +16, +20, +24, +28


def test_a_free_list_that_leads_nowhere_is_a_fault():
    what = f"the free list goes from here to {IN_USE_2}, where no free block begins"
    assert damaged(FIRST_FREE, "I", units(IN_USE_2)) == [(PAGE, what)]
    assert damaged(HOLE_96 + 20, "I", units(IN_USE_2)) == [(HOLE_96, what)]
    assert damaged(HOLE_48 + 28, "I", units(IN_USE_2)) == [(HOLE_48, what)]


@pytest.mark.parametrize(
    ("origin", "link", "target"),
    [
        (HOLE_48, 20, HOLE_48),
        (HOLE_48, 28, HOLE_48),
        (HOLE_96, 20, HOLE_96),
        (HOLE_96, 28, HOLE_48),
        (HOLE_96_TOO, 20, HOLE_96),
        (HOLE_96_TOO, 20, HOLE_48),
        (REST, 20, HOLE_96_TOO),
        (REST, 28, HOLE_48),
        (REST, 28, REST),
    ],
)
def test_a_free_list_that_goes_in_a_circle_is_a_fault_and_no_endless_loop(origin, link, target):
    what = f"the free list goes from here to {target}, where it has been before"
    assert damaged(origin + link, "I", units(target)) == [(origin, what)]


@pytest.mark.parametrize(
    ("origin", "link"), [(HOLE_48, 16), (HOLE_96_TOO, 16), (HOLE_48, 24), (HOLE_96, 24), (REST, 24)]
)
def test_a_free_list_that_does_not_lead_back_is_a_fault(origin, link):
    what = "the back link here does not point to the previous free block"
    assert damaged(origin + link, "I", units(IN_USE_2)) == [(origin, what)]


def test_a_free_block_that_is_not_in_the_free_list_is_a_fault():
    assert damaged(HOLE_96 + 20, "I", 0) == [(HOLE_96_TOO, "the free block is not in the free list")]


def test_a_wrong_last_bin_is_a_fault():
    what = f"the superblock says that the last bin is at {HOLE_96}, and the free list ends at {REST}"
    assert damaged(LAST_FREE, "I", units(HOLE_96)) == [(PAGE, what)]


def test_bins_in_the_wrong_order_are_a_fault():
    image = damageable()
    # REST, HOLE_48, HOLE_96, well linked.
    put(image, FIRST_FREE, "II", units(REST), units(HOLE_96))
    put(image, REST + 24, "II", 0, units(HOLE_48))
    put(image, HOLE_48 + 24, "II", units(REST), units(HOLE_96))
    put(image, HOLE_96 + 24, "II", units(HOLE_48), 0)
    assert found(read(image)[1]) == [(HOLE_48, "the free list is not in the order of sizes")]


def test_a_free_block_in_the_bin_of_another_size_is_a_fault():
    image = damageable()
    put(image, HOLE_96_TOO + 20, "I", units(REST))
    put(image, REST + 16, "I", units(HOLE_96_TOO))
    put(image, HOLE_96 + 28, "I", 0)
    put(image, LAST_FREE, "I", units(HOLE_96))
    assert found(read(image)[1]) == [(REST, "the free block is in the free list of another size")]


# Bounds


@pytest.mark.parametrize("size", [48, 1008, 1024, 1040, 4096, 65536, 262144 + 16])
def test_blocks_of_any_size_are_all_found(size):
    fill = [(size, 1 + number % 3) for number in range(SIZE // size - 1)]
    with opened(heapwriter.image(77, [(SIZE, fill)], page=PAGE, lock_size=40)) as fd:
        (superblock,) = heapfile.read_heap(fd, 2 * PAGE + SIZE, PAGE, "x86_64").superblocks
        blocks = list(heapfile.blocks(fd, superblock))
    assert [(block.size, block.refcount) for block in blocks[:-1]] == fill
    assert blocks[-1].offset + blocks[-1].size == 2 * PAGE + SIZE


def test_a_superblock_of_the_smallest_blocks_is_checked_quickly():
    fill = [(48, 1), (48, FREE)] * 21844 + [(128, 1)]
    image = heapwriter.image(77, [(SIZE, fill)], page=PAGE, lock_size=40)
    started = time.perf_counter()
    heap, faults = read(image)
    assert time.perf_counter() - started < 5
    assert found(heap.faults) + found(faults) == []


def test_so_many_blocks_are_checked_and_no_more(monkeypatch):
    monkeypatch.setattr(heapcheck, "MAX_BLOCKS", 10)
    assert found(read(damageable())[1]) == []
    monkeypatch.setattr(heapcheck, "MAX_BLOCKS", 7)
    assert found(read(damageable())[1]) == [(PAGE, "more than 7 blocks: what follows is not checked")]


def test_so_many_faults_are_told_and_no_more():
    image = heapwriter.image(77, [(SIZE, [(48, 1)] * 1000)], page=PAGE, lock_size=40)
    for number in range(1000):
        put(image, FIRST + 48 * number + 4, "i", 0)
    faults = read(image)[1]
    assert len(faults) == heapfile.MAX_FAULTS
    assert faults[-1].what == "more faults follow: not listed"


def test_reading_changes_nothing_and_moves_no_file_position():
    with opened(damageable()) as fd:
        os.lseek(fd, 5, os.SEEK_SET)
        before = os.fstat(fd)
        heap = heapfile.read_heap(fd, before.st_size, PAGE, "x86_64")
        heapcheck.check(fd, heap)
        after = os.fstat(fd)
        assert os.lseek(fd, 0, os.SEEK_CUR) == 5
        assert (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, after.st_size)


def test_a_heap_truncated_at_any_place_of_interest_is_read_and_has_a_fault():
    image = damageable()
    second = PAGE + PAGE + SIZE
    starts = [
        0,
        4,
        8,
        12,
        16,
        PAGE,
        RECORDED,
        DATA_SIZE,
        DATA_START,
        LOCK,
        USED,
        FIRST_FREE,
        LAST_FREE,
        PAGE + 328,
    ]
    starts += [FIRST, HOLE_96, IN_USE_2, REST, second, second + 256, second + 328, second + PAGE, len(image)]
    for length in sorted({start + near for start in starts for near in (-17, -16, -1, 0, 1, 16)}):
        if 0 <= length <= len(image):
            heap, _ = read(image[:length])
            # A heap may well end after its header page, or after any superblock.
            whole = length in (PAGE, second, len(image))
            assert (heap.faults == []) is whole, length


def test_a_file_that_shrinks_while_it_is_read_is_a_fault_and_no_signal():
    with opened(damageable()) as fd:
        size = os.fstat(fd).st_size
        heap = heapfile.read_heap(fd, size, PAGE, "x86_64")
        os.ftruncate(fd, PAGE + 100)
        assert found(heapfile.read_heap(fd, size, PAGE, "x86_64").faults) == [
            (PAGE, "the file ends inside the header of a superblock")
        ]
        assert found(heapcheck.check(fd, heap))[0] == (
            FIRST,
            "the file ends before the block that should begin here",
        )
