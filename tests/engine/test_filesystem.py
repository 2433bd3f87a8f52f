"""Whether a folder is on memory is known wherever it can be opened: without /proc, in other namespaces."""

import os
import subprocess

import pytest

import heapwriter
from cleaning import clean
from gppshm import filesystem, shmfs
from gppshm.cli import shmclean
from spawning import needs_root, python_command


def of(path, proc_root="/proc"):
    fd = os.open(str(path), os.O_RDONLY | os.O_DIRECTORY)
    try:
        return filesystem.is_memory(fd, str(path), proc_root)
    finally:
        os.close(fd)


def test_a_folder_of_dev_shm_is_on_memory_and_proc_and_root_are_not(shm_root):
    assert of(shm_root) is True
    assert of("/proc") is False and of("/sys") is False
    assert of("/") is False


def test_without_proc_statfs_tells(shm_root, tmp_path):
    nowhere = str(tmp_path / "none")
    assert of(shm_root, nowhere) is True
    assert of("/proc", nowhere) is False
    with shmfs.ShmDirectory(shm_root, nowhere) as directory:
        assert (directory.on_tmpfs, directory.doubt) == (True, "")


def test_what_neither_tells_is_not_known_and_said_to_be_that(shm_root, tmp_path, monkeypatch):
    monkeypatch.setattr(filesystem, "_statfs_type", lambda fd: None)
    nowhere = str(tmp_path / "none")
    assert of(shm_root, nowhere) is None
    with shmfs.ShmDirectory(shm_root, nowhere) as directory:
        assert not directory.on_tmpfs and not directory.leases
        assert (
            "its file system type is unknown" in directory.doubt and "not on a tmpfs" not in directory.doubt
        )


def test_shmclean_advises_no_force_where_proof_is_missing(shm_root, monkeypatch, spawn, capfd):
    name = f"heap-{spawn.dead_pid()}"
    heapwriter.create(os.path.join(shm_root, name), int(name[5:]))
    monkeypatch.setattr(filesystem, "is_memory", lambda *arguments: None)
    for arguments in ((), (name,)):
        assert shmclean.main(["--root", shm_root, *arguments]) == 1
        told = capfd.readouterr().err.replace(shm_root, "")  # a random name, which may begin with "f"
        assert told and "force" not in told and "-f" not in told and os.listdir(shm_root) == [name]


@needs_root
def test_a_folder_is_known_through_the_root_of_a_process_in_another_mount_namespace(spawn, tmp_path):
    mount = 'mount -t "$1" none "$2" && shift 2 && exec "$@"'
    for kind, expected in (("tmpfs", True), ("ramfs", False)):
        place = tmp_path / kind
        place.mkdir()
        prefix = ("unshare", "--mount", "--propagation=private", "sh", "-c", mount, "sh", kind, str(place))
        holder = spawn.python("print('ready', flush=True)\nsys.stdin.read()\n", prefix=prefix)
        there = f"/proc/{holder.process.pid}/root{place}"
        assert of(there) is expected
        with shmfs.ShmDirectory(there) as directory:
            assert directory.on_tmpfs is expected and directory.leases is expected
        name = f"heap-{spawn.dead_pid()}"
        heapwriter.create(os.path.join(there, name), int(name[5:]))
        done = clean(there)
        assert (os.listdir(there) == []) is expected, done.err


@needs_root
def test_a_devtmpfs_is_memory_and_its_leases_prove(tmp_path, spawn):
    with open("/proc/filesystems") as stream:
        if "\tdevtmpfs\n" not in stream.read():
            pytest.skip("this kernel has no devtmpfs")
    name = f"heap-{spawn.dead_pid()}"
    code = f"""
import cleaning, heapwriter, subprocess
root = sys.argv[1]
subprocess.check_call(["mount", "-t", "devtmpfs", "none", root])
folder = root + "/gppshm-test-{os.getpid()}"
os.mkdir(folder)
try:
    heapwriter.create(folder + "/{name}", {int(name[5:])})
    from gppshm import shmfs
    with shmfs.ShmDirectory(folder) as directory:
        print(directory.on_tmpfs, directory.leases)
    print(cleaning.clean(folder, "--verbose").out)
    print(os.listdir(folder))
finally:
    for left in os.listdir(folder):
        os.unlink(folder + "/" + left)
    os.rmdir(folder)
"""
    done = subprocess.run(
        ["unshare", "--mount", "--propagation=private", *python_command(code, tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "True True" and lines[-1] == "[]"
    assert "evidence:    lease" in done.stdout
