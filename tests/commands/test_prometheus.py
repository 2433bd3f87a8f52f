"""Promises kept with the real Prometheus: it takes what we expose, and our alerts fire when they should."""

import json
import os
import re
import shutil
import signal
import subprocess
import time

import pytest
from test_shmwatch import orphan

from places import ROOT
from scraping import free_port, get, scrape
from spawning import needs_root, wait_for
from watching import Shmwatch, gone

ALERTS = os.path.join(ROOT, "monitoring", "alerts.yml")
DASHBOARD = os.path.join(ROOT, "monitoring", "grafana-dashboard.json")
ALERTS_TEST = os.path.join(ROOT, "tests", "data", "alerts-test.yml")

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="needs prometheus and promtool, of the Debian package prometheus",
)

CONFIGURATION = """\
global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 500ms}
rule_files: [alerts.yml]
scrape_configs:
  - job_name: redhawk-shm
    static_configs: [{targets: ['127.0.0.1:%d']}]
"""


def promtool(*arguments, stdin=None):
    return subprocess.run(
        ["promtool", *arguments],
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
        timeout=60,
    )


class Prometheus:
    """A real one on loopback, with our alerts, which wait for a second instead of minutes.

    Everything that it writes is in `folder`; it scrapes 127.0.0.1:`target` each second.
    """

    def __init__(self, folder, target):
        folder.mkdir()
        with open(ALERTS) as stream:
            rules = re.sub(r"for: \d+m$", "for: 1s", stream.read(), flags=re.M)
        (folder / "alerts.yml").write_text(rules)
        (folder / "prometheus.yml").write_text(CONFIGURATION % target)
        self.url = f"http://127.0.0.1:{free_port()}"
        listen = f"--web.listen-address={self.url[7:]}"
        with open(str(folder / "log"), "wb") as log:
            self.process = subprocess.Popen(
                ["prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data", listen],
                cwd=str(folder),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.process.terminate()
        try:
            self.process.wait(20)
        finally:
            self.process.kill()
            self.process.wait()

    def api(self, what):
        """The data of an answer; None while it cannot be asked."""
        time.sleep(0.1)
        try:
            return json.loads(get(f"{self.url}/api/v1/{what}"))["data"]
        except OSError:
            assert self.process.poll() is None
            return None

    def value(self, metric):
        found = (self.api(f"query?query={metric}") or {}).get("result")
        return float(found[0]["value"][1]) if found else None

    def firing(self):
        alerts = (self.api("alerts") or {}).get("alerts", ())
        return {alert["labels"]["alertname"]: alert for alert in alerts if alert["state"] == "firing"}

    def wait_for(self, *names):
        """Wait until these alerts fire, and no other; they, by name."""
        wait_for(lambda: set(self.firing()) == set(names), 30)
        return self.firing()


def test_promtool_finds_nothing_wrong_with_the_exposition(spawn, shm_root, tmp_path):
    port, path = free_port(), tmp_path / "redhawk.prom"
    with Shmwatch(shm_root, f"--metrics={port}", f"--metrics-textfile={path}"):
        spawn.owner(shm_root).kill()
        wait_for(lambda: scrape(port)["removals_total"] == 1)
        for text in (
            get(f"http://127.0.0.1:{port}/metrics"),
            wait_for(lambda: path.exists() and path.read_text()),
        ):
            done = promtool("check", "metrics", stdin=text)
            assert (done.returncode, done.stdout) == (0, "")


def test_promtool_accepts_the_alerts_and_each_says_what_to_do():
    done = promtool("check", "rules", ALERTS)
    assert done.returncode == 0, done.stdout
    with open(ALERTS) as stream:
        alerts = stream.read().split("- alert: ")[1:]
    assert len(alerts) == 8
    for alert in alerts:
        for key in ("severity", "summary", "description", "action"):
            assert len(re.findall(rf"^ +{key}: \S", alert, re.M)) == 1, alert


def test_the_alerts_fire_and_keep_quiet_as_they_should():
    done = promtool("test", "rules", ALERTS_TEST)
    assert done.returncode == 0, done.stdout


def test_the_dashboard_asks_only_for_what_there_is(shm_root, tmp_path):
    with open(DASHBOARD) as stream:
        dashboard = json.load(stream)
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    text = "groups:\n- name: dashboard\n  rules:\n"
    for number, expression in enumerate(expressions):
        plain = expression.replace("$__rate_interval", "5m").replace("$instance", ".*")
        assert "$" not in plain
        text += f"  - record: panel:{number}\n    expr: {json.dumps(plain)}\n"
    (tmp_path / "rules.yml").write_text(text)
    done = promtool("check", "rules", str(tmp_path / "rules.yml"))
    assert done.returncode == 0, done.stdout
    port = free_port()
    with Shmwatch(shm_root, f"--metrics={port}"):
        there = {name.partition("{")[0] for name in scrape(port)}
    with open(ALERTS) as stream:
        asked = re.findall(r"redhawk_shm_(\w+)", " ".join(expressions) + stream.read())
    assert asked and set(asked) <= there


def test_the_dashboards_panels_do_not_overlap():
    with open(DASHBOARD) as stream:
        panels = json.load(stream)["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken and max(x for x, _ in cells) < 24
        taken |= cells


@needs_root
def test_an_alert_fires_when_shared_memory_fills_and_ends_when_the_crashed_are_cleaned(spawn, tmp_path):
    """On a tmpfs that only the watcher sees: heaps fill it, their creators crash, it is free again."""
    root, port = tmp_path / "shm", free_port()
    root.mkdir()
    private = ("unshare", "--mount", "--propagation=private", "sh", "-c")
    mount = ('mount -t tmpfs -o size=20m,mode=1777 none "$0" && exec "$@"', str(root))
    watching = Shmwatch(str(root), f"--metrics={port}", prefix=(*private, *mount))
    with watching, Prometheus(tmp_path / "prometheus", port) as prometheus:
        wait_for(lambda: prometheus.value("redhawk_shm_free_bytes"), 30)
        assert prometheus.value("redhawk_shm_size_bytes") == 20 << 20
        prometheus.wait_for()  # before the first scrape there was nobody who scans
        inside = f"/proc/{watching.pid}/root{root}"
        owners = [spawn.owner(inside) for _ in range(9)]
        alert = prometheus.wait_for("RedhawkShmAlmostFull", "RedhawkShmFillingUp")["RedhawkShmAlmostFull"]
        told = alert["annotations"]
        assert told["summary"] == f"Shared memory of 127.0.0.1:{port} is almost full"
        assert re.search(
            r"^1\.\d+MiB are free\. Heaps take 18\.\d+MiB\. Unlinked .* take 0B\.", told["description"]
        )
        assert alert["labels"]["severity"] == "critical"
        assert prometheus.value("redhawk_shm_heaps{state='alive'}") == 9
        for owner in owners:
            owner.kill()
        gone(inside, *owners)
        prometheus.wait_for()
        assert prometheus.value("redhawk_shm_removals_total") == 9
        assert prometheus.value("redhawk_shm_death_to_unlink_seconds_count") == 9


def test_what_stays_of_the_dead_and_a_watcher_that_ends_are_told(spawn, shm_root, tmp_path):
    orphan(shm_root, spawn.dead_pid())
    dying = spawn.owner(shm_root, "--hold-lock")
    spawn.peer(shm_root, dying)
    port = free_port()
    with Shmwatch(shm_root, "--dry-run", f"--metrics={port}") as watching:
        dying.kill()
        with Prometheus(tmp_path / "prometheus", port) as prometheus:
            alerts = prometheus.wait_for("RedhawkShmOrphansRemain", "RedhawkShmLockHeldByDead")
            description = alerts["RedhawkShmOrphansRemain"]["annotations"]["description"]
            assert re.match(r"2 heaps of processes .* They take 4\.\d+MiB\.$", description)
            os.kill(watching.pid, signal.SIGKILL)
            alerts = prometheus.wait_for("RedhawkShmNoScan")
            summary = alerts["RedhawkShmNoScan"]["annotations"]["summary"]
            assert summary == f"Nobody looks after the shared memory of 127.0.0.1:{port}"
