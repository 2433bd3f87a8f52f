"""Promises of redhawk-shminfo's own forms: --json, --holders, --check, --blocks; locks; unlinked memory."""

import json
import mmap
import os
import struct
import subprocess
import sys

import pytest
from test_shminfo import command, run, write  # noqa: F401

import heapwriter
from gppshm import heapfile, held, locks, procfs, shmfs, snapshot
from places import DOCS, PYTHON
from spawning import IN_A_PID_NAMESPACE, in_child, needs_root, wait_for

PAGE = heapwriter.PAGE
FREE = heapwriter.FREE
LOCK = PAGE + 272


def named(words):
    """How a process is named: not at all where the isolated interpreter has no psutil."""
    has_psutil = (
        subprocess.call([sys.executable, "-I", "-c", "import psutil"], stderr=subprocess.DEVNULL) == 0
    )
    return words if has_psutil else "unknown"


def conforms(value, schema, whole, where="$"):
    """Hold `value` against the part of JSON Schema that docs/shminfo.schema.json uses."""
    known = {"$schema", "title", "definitions", "$ref", "type", "const", "enum", "items", "required"}
    assert not set(schema) - known - {"properties", "additionalProperties"}, f"{where}: unknown keyword"
    if "$ref" in schema:
        return conforms(value, whole["definitions"][schema["$ref"].rpartition("/")[2]], whole, where)
    kinds = {
        "object": dict,
        "array": list,
        "string": str,
        "integer": int,
        "boolean": bool,
        "null": type(None),
    }
    if "type" in schema:
        wanted = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        assert any(type(value) is kinds[kind] for kind in wanted), f"{where}: {value!r} is no {wanted}"
    if "const" in schema:
        assert value == schema["const"], where
    if "enum" in schema:
        assert value in schema["enum"], f"{where}: {value!r}"
    if isinstance(value, dict):
        assert not set(schema["required"]) - set(value), where
        assert schema["additionalProperties"] is False and not set(value) - set(schema["properties"]), where
        for key in value:
            conforms(value[key], schema["properties"][key], whole, f"{where}.{key}")
    if isinstance(value, list):
        for number, item in enumerate(value):
            conforms(item, schema["items"], whole, f"{where}[{number}]")
    return None


@pytest.fixture
def as_json(run):  # noqa: F811
    """as_json(*options): the parsed output, held against the schema; `.status` beside it."""
    with open(os.path.join(DOCS, "shminfo.schema.json")) as stream:
        schema = json.load(stream)

    def runs(*options, status=0):
        done = run("--json", *options)
        assert (done.status, done.err) == (status, "")
        whole = json.loads(done.out)
        conforms(whole, schema, schema)
        return whole

    return runs


def files(whole):
    return {file["name"]: file for file in whole["files"]}


# --json


def test_json_says_all_of_a_living_an_orphaned_and_an_attached_heap(shm_root, as_json, spawn):
    alive = spawn.owner(shm_root, "--superblocks=3", "--used=131072")
    left = spawn.owner(shm_root)
    peer = spawn.peer(shm_root, left)
    left.kill()
    dead = spawn.owner(shm_root)
    dead.kill()
    found = files(as_json())
    one = found[alive.name]
    assert (one["state"], one["orphaned"], one["creator"], one["creator_pid"]) == (
        "alive",
        False,
        alive.pid,
        alive.pid,
    )
    assert (one["heap_size"], one["heap_used"], one["refcount"]) == (3 * 2097152, 131072, 1)
    assert [block["offset"] for block in one["superblocks"]] == [
        PAGE + n * (PAGE + 2097152) for n in range(3)
    ]
    assert {block["lock"]["state"] for block in one["superblocks"]} == {"free"}
    status = os.stat(os.path.join(shm_root, alive.name))
    assert (one["device"], one["inode"], one["file_size"]) == (status.st_dev, status.st_ino, status.st_size)
    assert one["attached"] == [] and one["lease"] == "refused"
    two = found[left.name]
    assert (two["state"], two["orphaned"], two["attached"]) == ("orphaned, attached", True, [peer.pid])
    three = found[dead.name]
    assert (three["state"], three["evidence"], three["lease"]) == ("orphaned", "lease", "granted")


def test_json_holds_every_kind_of_file(shm_root, as_json):
    heapwriter.create(os.path.join(shm_root, "heap-4190001"), 4190001, ())
    write(shm_root, "heap-4190002", b"")
    os.mkfifo(os.path.join(shm_root, "pipe"))
    os.symlink("x", os.path.join(shm_root, "link"))
    os.mkdir(os.path.join(shm_root, "folder"))
    found = files(as_json("-a", "--holders", status=1))
    assert {name: (file["kind"], file["type"]) for name, file in found.items()} == {
        "heap-4190001": ("heap", "file"),
        "heap-4190002": ("half-made heap", "file"),
        "pipe": ("other", "fifo"),
        "link": ("other", "symlink"),
        "folder": ("other", "directory"),
    }


def test_a_name_that_is_no_utf8_survives_json(shm_root, as_json):
    names = [b"\xff\xfe", b"\\xff\\xfe", "h\u00e9".encode(), b"a\nb"]
    for name in names:
        write(shm_root, name, b"")
    raw = [
        bytes.fromhex(file["name_hex"]) if file["name_hex"] else file["name"].encode()
        for file in as_json("-a")["files"]
    ]
    assert sorted(raw) == sorted(names)


# --holders, and memory that was unlinked


@pytest.mark.parametrize("options", [(), ("--keep-fd",)], ids=["mapped", "mapped and open"])
def test_unlinked_memory_is_found_with_its_size_and_holder(options, shm_root, run, as_json, spawn):  # noqa: F811
    owner = spawn.owner(shm_root, "--superblocks=2", *options)
    path = os.path.join(shm_root, owner.name)
    size = os.stat(path).st_blocks * 512
    os.unlink(path)
    (mine,) = [file for file in as_json("--holders")["unlinked"] if file["name"] == owner.name]
    assert (mine["size"], mine["exact"], mine["pids"]) == (size, True, [owner.pid])
    assert "RemoveIPC" in mine["note"] and "lives" in mine["note"]
    holder = mine["holders"][0]
    assert named("heapwriter.py own") in holder["command"] and holder["mapped"] == size
    assert holder["descriptors"] == (1 if options else 0)
    out = run("--holders").out
    assert owner.name in out.partition("unlinked, but still held: ")[2] and "RemoveIPC" in out


def test_memory_held_by_a_descriptor_alone_is_found(shm_root, as_json):
    with open(os.path.join(shm_root, "gone\nfile"), "wb") as stream:
        stream.write(b"x" * 10000)
        stream.flush()
        os.unlink(stream.name)
        (mine,) = [file for file in as_json()["unlinked"] if file["name"] == "gone\nfile"]
    assert (mine["size"], mine["pids"], mine["note"]) == (12288, [os.getpid()], None)
    assert all(file["name"] != "gone\nfile" for file in as_json()["unlinked"])


def test_a_folder_that_was_removed_and_is_still_open_is_no_memory(shm_root, as_json):
    path = os.path.join(shm_root, "folder")
    os.mkdir(path)
    fd = os.open(path, os.O_RDONLY)
    try:
        os.rmdir(path)
        assert all(file["name"] != "folder" for file in as_json("--holders")["unlinked"])
    finally:
        os.close(fd)


def test_memory_held_by_a_descriptor_of_a_process_whose_main_thread_has_ended_is_found(
    shm_root, as_json, spawn
):
    code = """
import ctypes, threading
kept, main = open(os.path.join(sys.argv[1], "gone"), "wb", buffering=0), threading.get_ident()
kept.write(b"x" * 10000)
os.unlink(kept.name)
def wait():
    libc.pthread_join(ctypes.c_ulong(main), None)
    print("ready", flush=True)
    sys.stdin.read()
    os._exit(0)
libc = ctypes.CDLL(None)
threading.Thread(target=wait).start()
libc.pthread_exit(None)
"""
    holder = spawn.python(code, shm_root)
    wait_for(lambda: os.listdir(f"/proc/{holder.pid}/fd") == [])
    (mine,) = [file for file in as_json("--holders")["unlinked"] if file["pids"] == [holder.pid]]
    assert (mine["name"], mine["size"], mine["exact"]) == ("gone", 12288, True)
    with open(f"/proc/{holder.pid}/comm") as comm:
        assert mine["holders"][0]["command"] == named(comm.read().strip())


@needs_root
def test_without_a_proc_it_is_not_said_that_nobody_holds_anything(shm_root, command):  # noqa: F811
    mount = 'mount -t tmpfs none /proc && exec "$@"'
    for form in ("--holders", "--json"):
        done = subprocess.run(
            ["unshare", "--mount", "--propagation=private", "sh", "-c", mount, "sh"]
            + [command, "--root", shm_root, form],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            timeout=60,
        )
        assert done.returncode == 1 and done.stdout
        assert done.stderr.startswith(b"redhawk-shminfo: /proc cannot be read: ")


def test_a_dead_creators_unlinked_heap_is_no_ones_fault(shm_root, as_json, spawn):
    owner = spawn.owner(shm_root)
    peer = spawn.peer(shm_root, owner)
    owner.kill()
    os.unlink(os.path.join(shm_root, owner.name))
    (mine,) = [file for file in as_json()["unlinked"] if file["name"] == owner.name]
    assert (mine["note"], mine["pids"]) == (None, [peer.pid])


def test_a_name_that_ends_in_deleted_is_not_taken_for_unlinked(shm_root, spawn):
    name = "x (deleted)"
    heapwriter.create(os.path.join(shm_root, name), 4190001)
    spawn.peer(shm_root, name)
    with shmfs.ShmDirectory(shm_root) as directory:
        found = held.survey(directory)
    inode = os.stat(os.path.join(shm_root, name)).st_ino
    assert inode not in [file.inode for file in found.unlinked]
    assert len(found.holders[os.stat(shm_root).st_dev, inode]) == 1


def test_holders_are_named_with_user_and_command(shm_root, run, spawn):  # noqa: F811
    owner = spawn.owner(shm_root)
    peer = spawn.peer(shm_root, owner)
    done = run("--holders", "--format=b", owner.name)
    assert done.status == 0
    lines = done.out.splitlines()
    for child, word in ((owner, "own"), (peer, "attach")):
        (line,) = [line for line in lines if line.startswith(f"    {child.pid}  ")]
        assert named(f"heapwriter.py {word}") in line and "(maps 2105344)" in line


def test_without_psutil_holders_are_pids_of_the_unknown(shm_root, spawn):
    owner = spawn.owner(shm_root)
    code = (
        f"import sys; sys.path.append({PYTHON!r}); sys.modules['psutil'] = None\n"
        "from gppshm.cli.shminfo import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-IS", "-c", code, "--root", shm_root, "--holders"],
        stdout=subprocess.PIPE,
        timeout=60,
    )
    assert done.returncode == 0
    assert f"    {owner.pid}  unknown  unknown  (maps" in done.stdout.decode()
    assert "psutil is not installed" in done.stdout.decode()


# --check, and locks


def test_check_says_ok_or_each_fault_with_its_offset(shm_root, run):  # noqa: F811
    heapwriter.create(os.path.join(shm_root, "heap-4190001"), 4190001, [(PAGE, [(64, 1)])])
    assert (run("--check").status, run("--check").out) == (0, "heap-4190001\n  ok\n")
    image = heapwriter.image(4190002, [(PAGE, [(64, 1), (96, FREE), (64, 1)])])
    struct.pack_into("<I", image, 2 * PAGE + 64, 0x12345678)
    write(shm_root, "heap-4190002", image)
    done = run("--check", "--sort=name")
    assert done.status == 1
    head, _, bad = done.out.partition("heap-4190002\n")
    assert head == "heap-4190001\n  ok\n"
    assert bad.startswith(f"  fault at {2 * PAGE + 64}: no block here")
    assert run("--check", "heap-4190001").status == 0


def test_a_lock_held_by_the_dead_is_a_fault_and_one_held_by_a_living_thread_is_not(
    shm_root,
    run,  # noqa: F811
    as_json,
    spawn,
):
    owner = spawn.owner(shm_root, "--hold-lock")
    peer = spawn.peer(shm_root, owner)
    lock = as_json("--check")["files"][0]["superblocks"][0]["lock"]
    assert (lock["state"], lock["thread"], lock["process"]) == ("held", owner.pid, owner.pid)
    done = run("--check")
    assert done.status == 0 and f"{PAGE}: held: thread {owner.pid} of process {owner.pid}" in done.out
    owner.kill()
    done = run("--check")
    assert done.status == 1
    assert f"lock of the superblock at {PAGE}: held by the dead: thread {owner.pid}" in done.out
    assert "the next process that needs it hangs" in done.out
    peer.kill()
    assert "no process maps the heap any more" in run("--check").out
    assert as_json("--check", status=1)["files"][0]["superblocks"][0]["lock"]["state"] == "held by the dead"


def test_a_dead_thread_of_a_living_process_holds_its_lock_as_the_dead_do(shm_root, run, spawn):  # noqa: F811
    code = """
import heapwriter, struct, threading, ctypes
heap = heapwriter.LiveHeap.create(sys.argv[1])
def take():
    struct.pack_into("<i4xi", heap.mappings[1], 272, 1, ctypes.CDLL(None).syscall(186))
    if len(sys.argv) > 2: threading.Event().wait()
thread = threading.Thread(target=take, daemon=True)
thread.start()
if len(sys.argv) == 2: thread.join()
# join() returns a little before the kernel has ended the thread.
while len(sys.argv) == 2 and len(os.listdir("/proc/self/task")) > 1: pass
while not struct.unpack_from("<i4xi", heap.mappings[1], 272)[1]: pass
print("ready", heap.name, flush=True)
sys.stdin.read()
"""
    if os.uname().machine != "x86_64":
        code = code.replace("syscall(186)", "syscall(178)")
    dead, alive = spawn.python(code, shm_root), spawn.python(code, shm_root, "stay")
    assert "held by the dead" in run("--check", dead.name).out
    done = run("--check", alive.name)
    assert done.status == 0 and f"of process {alive.pid} holds it, and lives" in done.out


@needs_root
def test_the_holder_of_a_lock_in_a_container_is_found_by_its_own_thread_id(shm_root, as_json, spawn):
    owner = spawn.owner(shm_root, "--hold-lock", prefix=IN_A_PID_NAMESPACE)
    lock = as_json()["files"][0]["superblocks"][0]["lock"]
    assert lock["state"] == "held" and lock["process"] == owner.pid and lock["thread"] != owner.pid


@needs_root
def test_from_inside_a_container_a_lock_of_one_outside_is_unknown(shm_root, command, spawn):  # noqa: F811
    owner = spawn.owner(shm_root, "--hold-lock")
    done = subprocess.run(
        [*IN_A_PID_NAMESPACE, "--mount-proc", command, "--root", shm_root, "--check"],
        stdout=subprocess.PIPE,
        timeout=60,
    )
    assert f"lock of the superblock at {PAGE}: unknown: thread {owner.pid}" in done.stdout.decode()
    assert done.returncode == 0


def one_lock(root, name, between=lambda: None):
    """What is said of the first lock, if `between` happens after the heap was read."""
    with shmfs.ShmDirectory(root) as directory:
        taken = snapshot.take(directory, [name])
        between()
        return locks.examine(directory, taken.entries)[0][0]


def set_lock(path, word, owner):
    with open(path, "r+b") as stream:
        stream.seek(LOCK)
        stream.write(struct.pack("<i4xi", word, owner))


def test_a_lock_is_called_dead_only_if_a_second_look_finds_the_same(shm_root, spawn):
    name = "heap-4190001"
    path = os.path.join(shm_root, name)
    heapwriter.create(path, 4190001)
    gone, other = spawn.dead_pid(), spawn.dead_pid()
    set_lock(path, 1, gone)
    assert one_lock(shm_root, name).state is locks.DEAD
    assert one_lock(shm_root, name, lambda: set_lock(path, 0, 0)).state is locks.FREE
    set_lock(path, 1, gone)
    assert one_lock(shm_root, name, lambda: set_lock(path, 1, other)).state is locks.UNKNOWN
    set_lock(path, 1, gone)
    assert one_lock(shm_root, name, lambda: os.unlink(path)).state is locks.UNKNOWN


def test_a_lock_without_an_owner_is_a_normal_instant(shm_root, run):  # noqa: F811
    path = os.path.join(shm_root, "heap-4190001")
    heapwriter.create(path, 4190001)
    set_lock(path, 1, 0)
    done = run("--check")
    assert done.status == 0 and ": unknown: it is taken" in done.out


def test_a_process_that_cannot_be_read_may_hold_the_lock(shm_root):
    class Unreadable(procfs.Processes):
        def blind_spot(self):
            return ""

        def no_such_process(self, pid):
            return False

        def all(self):
            return [procfs.Process(77, procfs.UNREADABLE)]

        def __init__(self, inside):
            procfs.Processes.__init__(self)
            self.inside = inside

        def threads(self, pid):
            return {77: 77, 99: self.inside}

    heapwriter.create(os.path.join(shm_root, "heap-4190001"), 4190001)
    set_lock(os.path.join(shm_root, "heap-4190001"), 1, 99)
    with shmfs.ShmDirectory(shm_root) as directory:
        entry = snapshot.take(directory).entries[0]
    for inside, state in ((99, locks.UNKNOWN), (0, locks.UNKNOWN), (5, locks.DEAD)):
        threads = locks.Threads(entry.sighting.file_id, Unreadable(inside))
        lock = locks.check(entry.heap.superblocks[0], threads)
        assert lock.state is state
        assert ("process 77" in lock.reason) == (state is locks.UNKNOWN)


def test_however_many_locks_a_heap_has_each_process_is_asked_for_its_threads_once(shm_root):
    class Counting(procfs.Processes):
        def all(self):
            asked.append("all")
            return [procfs.Process(77, procfs.UNREADABLE), procfs.Process(78, procfs.UNREADABLE)]

        def threads(self, pid):
            asked.append(pid)
            return {pid: pid}

        def no_such_process(self, pid):
            return False

        def blind_spot(self):
            return ""

    asked = []
    threads = locks.Threads((1, 2), Counting())
    taken = [heapfile.Superblock(PAGE, PAGE, PAGE, 1, owner, 0, 0, 0) for owner in range(1, 1000)]
    found = [locks.check(superblock, threads).state for superblock in taken]
    assert asked == ["all", 77, 78]
    assert found.count(locks.UNKNOWN) == 2 and found.count(locks.DEAD) == 997


# --blocks


def test_the_map_of_blocks_shows_used_partly_and_free_and_adds_up(shm_root, run):  # noqa: F811
    size = 64 * 1024
    fill = [(16384, 1), (4096, FREE), (8192, 1), (4096 + 64, FREE), (4096 - 64, 1)]
    heapwriter.create(os.path.join(shm_root, "heap-4190001"), 4190001, [(size, fill), (size, [])])
    done = run("--blocks", "heap-4190001", "--format=b")
    assert done.status == 0
    rows = [line.split() for line in done.out.splitlines() if line.startswith("    ") and ":" not in line]
    assert [row[0] for row in rows] == ["0", "16384", "32768", "49152"] * 2
    cells = "".join(row[1] for row in rows)
    # One cell is 256 bytes.
    assert (
        cells
        == "\u2588" * 64
        + "\u00b7" * 16
        + "\u2588" * 32
        + "\u00b7" * 16
        + "\u2592"
        + "\u2588" * 15
        + ("\u00b7" * (112 + 256))
    )
    first, _, rest = done.out.partition("superblock 2 of 2")
    assert f"used:          {16384 + 8192 + 4032} in 3 blocks" in first
    assert f"free:          {size - 28608} in 3 blocks" in first
    assert "largest free:  28672" in first
    assert "fragmentation: 22.4% of what is free is elsewhere" in first
    assert "in total: 131072" in rest and "largest free:  65536" in rest
    assert all(len(line) <= 80 for line in done.out.splitlines())


def test_the_map_is_drawn_in_ascii_where_the_terminal_has_no_more(shm_root, run):  # noqa: F811
    heapwriter.create(os.path.join(shm_root, "heap-4190001"), 4190001, [(65536, [(32768, 1)])])
    done = run("--blocks=heap-4190001", raw=True, env={"LC_ALL": "C"})
    assert done.status == 0 and b"#" * 64 in done.out and b"." * 64 in done.out
    assert max(done.out) < 128


@pytest.mark.parametrize("columns", [20, 40, 80, 200])
def test_the_map_fits_the_terminal(columns, shm_root, command):  # noqa: F811
    import fcntl
    import termios

    heapwriter.create(os.path.join(shm_root, "heap-4190001"), 4190001, [(2097152, [(32768, 1)])])
    main, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen([command, "--root", shm_root, "--blocks=heap-4190001"], stdout=terminal)
    os.close(terminal)
    text = b""
    while True:
        try:
            more = os.read(main, 65536)
        except OSError:  # EIO: the other end is closed
            break
        if not more:
            break
        text += more
    os.close(main)
    assert process.wait(60) == 0
    rows = [line for line in text.decode().split("\r\n") if line.startswith("    ") and ":" not in line]
    assert rows and all(len(row) <= max(columns, 24) for row in rows)


def test_a_broken_chain_is_drawn_as_unreadable_with_status_1(shm_root, run):  # noqa: F811
    image = heapwriter.image(4190002, [(65536, [(16384, 1), (16384, 1)])])
    struct.pack_into("<I", image, 2 * PAGE + 16384, 0)
    write(shm_root, "heap-4190002", image)
    write(shm_root, "notes", b"x")
    done = run("--blocks=heap-4190002")
    assert done.status == 1 and "?" * 64 in done.out and "--check" in done.out
    assert run("--blocks=notes").err == "redhawk-shminfo: notes: it is not a REDHAWK heap\n"
    assert run("--blocks=gone").status == run("--blocks=notes").status == 1


def test_a_heap_that_grows_and_shrinks_while_it_is_looked_at_harms_no_form(shm_root, run, spawn):  # noqa: F811
    code = """
import heapwriter, random, threading
path = os.path.join(sys.argv[1], "heap-4190001")
print("ready", flush=True)
stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
image = bytes(heapwriter.image(4190001, [(65536, [(64, 1)] * 500)] * 4))
while not stop.is_set():
    with open(path, "r+b" if os.path.exists(path) else "wb") as stream:
        stream.write(image)
        stream.truncate(random.randrange(len(image)))
"""
    spawn.python(code, shm_root)
    wait_for(lambda: os.path.exists(os.path.join(shm_root, "heap-4190001")))
    for options in ([], ["--check"], ["--json"], ["--holders"], ["--blocks=heap-4190001"]) * 4:
        done = run(*options)
        assert done.status in (0, 1) and "Traceback" not in done.err


def test_a_superblock_of_more_than_4_gib_is_told_and_is_no_fault(shm_root, run, as_json, spawn):  # noqa: F811
    name = f"heap-{spawn.dead_pid()}"
    size = (4 << 30) + 8192
    head = bytearray(3 * heapwriter.PAGE)
    heapwriter.put_header(head, int(name[5:]))
    page = heapwriter.PAGE
    heapwriter.put_superblock(head, name, page, page, [(page, 1)], page)
    struct.pack_into("<I", head, page + 264, 8192)
    struct.pack_into("<I", head, 2 * page + 12, size // 16)
    struct.pack_into("<Q", head, page + 272 + heapwriter.LOCK_SIZE, size)
    with open(os.path.join(shm_root, name), "wb") as stream:
        stream.write(head)
        stream.truncate(2 * page + size)
    checked = run("--check").out
    assert checked.splitlines()[1] == "  ok" and f"has {size} bytes: REDHAWK records 32 bits" in checked
    whole = as_json()["files"][0]
    assert (whole["heap_size"], whole["faults"]) == (size, [])
    assert (whole["superblocks"][0]["size"], whole["superblocks"][0]["recorded_size"]) == (size, 8192)


INODES = """
import subprocess
from places import DOCS, FOLDERS, PYTHON
root = sys.argv[1]
def shows(module, *options):
    program = f"import sys; sys.path[:0] = {FOLDERS!r}; from gppshm.cli.{module} import main; main()"
    print(subprocess.check_output([sys.executable, "-s", "-c", program, "--root", root, *options]).decode())
    print("-" * 10, end="")
shows("shminfo")
for number in range(95):
    open(f"{root}/{number}", "w").close()
shows("shminfo")
shows("shminfo", "--json")
shows("shminfo", "--holders")
shows("shmtop", "--once")
"""


@needs_root
def test_inodes_that_are_scarce_are_told(private_tmpfs):
    done = private_tmpfs(INODES, options="size=1m,nr_inodes=100")
    assert done.returncode == 0, done.stderr
    before, after, whole, holders, display, _ = done.stdout.split("-" * 10)
    assert "\n  inodes:" not in before and before.count("\n") == after.count("\n") - 1
    line = "inodes: 4 of 100 free (4.0%): a new heap, or other file, needs one\n"
    assert after.rstrip("\n").endswith("  " + line.rstrip()) and line in holders
    assert line.rstrip() in display
    assert (json.loads(whole)["inodes"], json.loads(whole)["free_inodes"]) == (100, 4)


@needs_root
def test_a_file_whose_name_ends_as_that_of_an_unlinked_one_is_not_taken_for_one(shm_root):
    """Where maps alone tell: an ordinary user may not follow /proc/<pid>/map_files."""

    def unlinked():
        found = []
        for name in ("heap-5 (deleted)", "heap-6"):
            fd = os.open(os.path.join(shm_root, name), os.O_RDWR | os.O_CREAT)
            os.ftruncate(fd, 4096)
            found.append(mmap.mmap(fd, 4096))
            os.close(fd)
        os.unlink(os.path.join(shm_root, "heap-6"))
        with shmfs.ShmDirectory(shm_root) as directory:
            return [file.name for file in held.survey(directory).unlinked if len(file.holders) == 1]

    os.chmod(shm_root, 0o1777)
    assert "heap-6" in in_child(unlinked, uid=65534)
    assert "heap-5" not in in_child(unlinked, uid=65534)
