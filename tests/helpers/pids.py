"""Processes with a given pid, in this pid namespace and in another one."""

import ctypes
import os
import signal
import struct

from spawning import IN_A_PID_NAMESPACE

CLONE3 = 435

# The first process of the namespace gives the next one, the creator, the pid sys.argv[2] there.
PID_OF_CHOICE = """
import heapwriter
with open("/proc/sys/kernel/ns_last_pid", "w") as last:
    last.write(str(int(sys.argv[2]) - 1))
if not os.fork():
    {body}
    sys.stdin.read()
    os._exit(0)
os.wait()
"""
WHOLE_HEAP = """
    heap = heapwriter.LiveHeap.create(sys.argv[1], [(4096, ())])
    print("ready", heap.name, flush=True)
"""
HALF_MADE = """
    name = "heap-%d" % os.getpid()
    os.close(os.open(os.path.join(sys.argv[1], name), os.O_RDWR | os.O_CREAT))
    print("ready", name, flush=True)
"""


FORKING = """
import heapwriter, os, signal
heap = heapwriter.LiveHeap.create(sys.argv[1], ((1 << 20, ()),), keep_fd=len(sys.argv) > 2)
print("ready", heap.name, flush=True)
if os.fork():
    signal.pause()
print("child", os.getpid(), flush=True)
(superblock,) = heap.superblocks()
held = []
for line in sys.stdin:
    held.append(superblock.allocate(100000))
    superblock.write(held[-1])
    print("whole", all(map(superblock.whole, held)), flush=True)
"""
"""A creator with a forked child, which allocates a block at each line of stdin and checks all of them.

With a second argument they keep the heap's descriptor.
"""


def free_pid():
    """A pid that no process has or is about to get."""
    with open("/proc/loadavg") as stream:
        last = int(stream.read().split()[-1])
    with open("/proc/sys/kernel/pid_max") as stream:
        top = int(stream.read())
    pid = (last + top // 2) % (top - 2000) + 1000
    while os.path.exists(f"/proc/{pid}"):
        pid += 1
    return pid


def container_with(spawn, root, body, pid):
    return spawn.python(PID_OF_CHOICE.format(body=body.strip()), root, pid, prefix=IN_A_PID_NAMESPACE)


def fork_as(pid):
    """Fork; the child gets `pid` if possible, else any."""
    set_tid = (ctypes.c_int * 1)(pid)
    arguments = struct.pack("=11Q", 0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, ctypes.addressof(set_tid), 1, 0)
    # PyDLL: the child, too, must return with the interpreter lock held.
    child = ctypes.PyDLL(None).syscall(CLONE3, arguments, len(arguments))
    return os.fork() if child < 0 else child
