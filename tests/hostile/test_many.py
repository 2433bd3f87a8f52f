"""Very many peers, FIFOs and mappings, and a command line of gigabytes: a crash is cleaned as ever."""

import os
import statistics
import time

import pytest
from test_hostile import crash_delays

from spawning import needs_root, wait_for
from watching import Farm, Shmwatch, gone

pytestmark = needs_root

BOUND = 0.2
"""Seconds from kill to unlink, in the median: bench/ measures, and two processors may have other work."""

# What /proc/<pid>/cmdline shows is up to the process: prctl(PR_SET_MM, PR_SET_MM_MAP), which any user may do.
GIGABYTES = """
import ctypes, mmap, struct, heapwriter
size = 4 << 30
area = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)  # MAP_NORESERVE
start = ctypes.addressof(ctypes.c_char.from_buffer(area))
heap = heapwriter.LiveHeap.create(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
libc.sbrk.restype = ctypes.c_void_p
stat = [0, 0] + open("/proc/self/stat").read().rpartition(")")[2].split()
code, data, brk, stack, env = stat[25:27], stat[44:46], stat[46], stat[27], stat[49:51]
numbers = [*code, *data, brk, libc.sbrk(0), stack, start, start + size - 4096, *env, 0]
words = struct.pack("=12QIi", *map(int, numbers), 0, -1)
if libc.prctl(35, 14, ctypes.c_char_p(words), ctypes.c_ulong(len(words)), 0):
    print("ready", os.strerror(ctypes.get_errno()), flush=True)
    sys.exit()
print("ready", heap.name, flush=True)
sys.stdin.read()
"""

PEERS = """
import heapwriter
path = os.path.join(sys.argv[1], sys.argv[2])
reader, writer = os.pipe()
attached, say = os.pipe()
for _ in range(int(sys.argv[3])):
    if not os.fork():
        os.close(writer)
        fd = os.open(path, os.O_RDWR)
        view = heapwriter.mapped(fd, 0, os.fstat(fd).st_size)
        os.close(fd)
        os.write(say, b".")
        os.read(reader, 1)  # until the parent has ended
        os._exit(0)
os.close(reader)
for _ in range(int(sys.argv[3])):
    os.read(attached, 1)
print("ready", flush=True)
sys.stdin.read()
"""

MAPPINGS = """
import ctypes, mmap
count = 60000  # vm.max_map_count is 65530 by default
area = mmap.mmap(-1, count * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
address = ctypes.addressof(ctypes.c_char.from_buffer(area))
libc = ctypes.CDLL(None)
for page in range(0, count, 2):
    libc.mprotect(ctypes.c_void_p(address + page * mmap.PAGESIZE), mmap.PAGESIZE, mmap.PROT_READ)
print("ready", flush=True)
sys.stdin.read()
"""


def memory(pid):
    with open(f"/proc/{pid}/smaps_rollup") as stream:
        return next(int(line.split()[1]) for line in stream if line.startswith("Pss:"))


def test_a_command_line_of_gigabytes_costs_no_memory_and_no_time(spawn, shm_root):
    large = spawn.python(GIGABYTES, shm_root)
    if not large.name.startswith("heap-"):
        pytest.skip(f"prctl(PR_SET_MM): {large.name}")
    with open(f"/proc/{large.pid}/cmdline", "rb", buffering=0) as stream:
        assert stream.read(65536) == b"\0" * 65536
    with Shmwatch(shm_root, "--rescan=1000") as command:
        wait_for(lambda: command.state()["living"] == 1)
        assert statistics.median(crash_delays(spawn, shm_root)) < BOUND
        large.kill()
        gone(shm_root, large)
        command.wait("removed", large)
        assert memory(command.pid) < 40000


def test_two_hundred_peers_delay_neither_their_creators_unlink_nor_the_next(spawn, shm_root):
    with Farm(spawn, shm_root, 2) as farm, Shmwatch(shm_root, "--rescan=1000") as command:
        wait_for(lambda: command.state()["living"] == 2)
        crowd = spawn.python(PEERS, shm_root, farm.names[0], 200)
        farm.kill()
        started = time.monotonic()
        for name in farm.names:
            gone(shm_root, name)
        assert time.monotonic() - started < BOUND
        assert len(command.wait("removed", farm.names[0])["attached"]) == 200
        crowd.kill()


def test_thousands_of_dead_fifos_keep_no_heap_waiting(spawn, shm_root, tmp_path):
    pid = spawn.dead_pid()
    for number in range(20000):
        os.mkfifo(str(tmp_path / f"fifo-{pid}-{number:08x}"))
    with Shmwatch(shm_root, "--rescan=1000", "--fifos", f"--fifo-root={tmp_path}"):
        assert statistics.median(crash_delays(spawn, shm_root)) < BOUND
        wait_for(lambda: not os.listdir(str(tmp_path)), 60.0)


def test_processes_with_sixty_thousand_mappings_keep_no_crash_waiting(spawn, shm_root):
    for _ in range(5):
        spawn.python(MAPPINGS)
    with Farm(spawn, shm_root, 6) as farm, Shmwatch(shm_root, "--rescan=1000") as command:
        peers = [spawn.peer(shm_root, name) for name in farm.names]
        wait_for(lambda: command.state()["living"] == 6)
        delays = []
        for pid, name in zip(farm.pids, farm.names):
            started = time.monotonic()
            farm.kill([pid])
            gone(shm_root, name)
            delays.append(time.monotonic() - started)
        assert statistics.median(delays) < BOUND
        assert statistics.median(crash_delays(spawn, shm_root)) < BOUND
        for peer in peers:
            peer.kill()
