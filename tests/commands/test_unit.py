"""The shipped unit: what the documentation has for it works under its own limits, on others' heaps."""

import os

import pytest

from spawning import needs_root, run_command, wait_for
from unit import UNIT, limited, needs_systemd, setting, system_calls
from watching import Shmwatch

OWNER = """
import heapwriter
os.setgroups([]); os.setgid(4321); os.setuid(4321)
heap = heapwriter.LiveHeap.create(sys.argv[1], [(2 << 20, ())], mode=int(sys.argv[2], 8))
print("ready", heap.name, flush=True)
sys.stdin.read()
"""


@needs_systemd
def test_it_is_valid(tmp_path):
    with open(UNIT) as stream:
        text = stream.read()
    # What ExecStart= names need not be installed here.
    unit = tmp_path / "redhawk-shmwatch.service"
    unit.write_text(text.replace("/usr/bin/redhawk-shmwatch", "/bin/true"))
    done = run_command(["systemd-analyze", "verify", "--man=no", str(unit)])
    assert (done.returncode, done.stderr) == (0, "")


@needs_systemd
def test_it_is_hardened_and_sees_every_process():
    with open(UNIT) as stream:
        lines = stream.read().splitlines()
    for forbidden in ("PrivatePIDs", "PrivateUsers", "PrivateIPC", "PrivateDevices", "DynamicUser"):
        assert not [line for line in lines if line.startswith(forbidden)]
    for needed in ("Type=notify", "Restart=always", "ReadWritePaths=/dev/shm", "ProtectProc=default"):
        assert needed in lines
    if "security" not in run_command(["systemd-analyze", "--help"]).stdout:
        return
    done = run_command(["systemd-analyze", "security", "--offline=yes", "--threshold=30", UNIT])
    assert done.returncode == 0, done.stdout[-200:]


@needs_root
@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_its_limits_let_it_clean_and_give_back_memory_of_other_users(spawn, shm_root, mode):
    os.chmod(shm_root, 0o1777)
    living, dying, attached = (spawn.python(OWNER, shm_root, f"{mode:o}") for _ in range(3))
    peer = spawn.peer(shm_root, attached)
    without = system_calls()
    with Shmwatch(shm_root, "--rescan=1000", prefix=limited(), without=without) as watching:
        with open(f"/proc/{watching.pid}/status") as stream:
            status = dict(line.split(":", 1) for line in stream)
        assert bin(int(status["CapEff"], 16)).count("1") == len(setting("CapabilityBoundingSet"))
        assert status["NoNewPrivs"].strip() == "1" and status["Seccomp"].strip() == ("2" if without else "0")
        assert (watching.ready["pidfds"], watching.ready["troubles"]) == (3, [])
        dying.kill()
        assert watching.wait("removed", dying)["evidence"] == "lease"
        attached.kill()
        removed = watching.wait("removed", attached)
        assert removed["evidence"] == "identity"
        assert [each["pid"] for each in removed["attached"]] == [peer.pid]
        assert removed["not_given_back"] is None and removed["given_back"] > 1 << 20
        assert watching.end()[1] == ""
    assert os.listdir(shm_root) == [living.name]


@needs_root
def test_its_limits_let_it_remove_fifos_where_the_folder_may_be_written(spawn, shm_root, tmp_path):
    name = f"fifo-{spawn.dead_pid()}-a0"
    os.mkfifo(str(tmp_path / name))
    os.chown(str(tmp_path / name), 4321, 4321)
    os.chmod(str(tmp_path), 0o1777)
    arguments = ("--fifos", f"--fifo-root={tmp_path}")
    with Shmwatch(shm_root, *arguments, prefix=limited(tmp_path), without=system_calls()) as watching:
        assert watching.ready["fifos_removed"] == 1


@needs_root
def test_its_limits_let_it_write_into_node_exporters_folder(shm_root, tmp_path):
    pytest.importorskip("prometheus_client", reason="needs prometheus_client: ./build.sh test installs it")
    from scraping import content, read

    folder = tmp_path / "node-exporter"
    folder.mkdir(0o775)
    os.chown(str(folder), 65534, 65533)
    path, without = folder / "redhawk.prom", system_calls()
    option = f"--metrics-textfile={path}"
    with Shmwatch(shm_root, option, prefix=limited(folder), without=without) as watching:
        assert read(wait_for(lambda: content(path)))["scan_success"] == 1
        assert watching.end()[1] == ""
    assert os.stat(str(path)).st_mode & 0o444 == 0o444  # node_exporter is another user
