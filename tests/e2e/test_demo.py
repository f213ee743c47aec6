"""`cni-cleanup demo` as a process: it shows what it promises, and leaves nothing behind."""

import ipaddress
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from cli.demo import flower as demo_flower
from cli.demo.flower import Flower
from cli.demo.redis_server import find_server
from cni.errors import CleanupError
from tests.support.monitoring import RULES, load, promtool
from tests.support.polling import until
from tests.support.proc import Identity, alive, descendants, listening
from tests.support.program import REPOSITORY, child_environment
from tests.support.skips import require

pytestmark = pytest.mark.timeout(300)

READY_WITHIN = 90.0
"""Seconds; 15 on an idle machine."""


class Demo:
    """One demo with its own temporary directory; watched from outside."""

    def __init__(self, directory: Path, *options: str, path: str | None = None) -> None:
        self._output = directory / "output"
        self.temporary = directory / "tmp"
        self.temporary.mkdir()
        own = {"TMPDIR": str(self.temporary), "PYTHONUNBUFFERED": "1", "COLUMNS": "80"}
        environment = child_environment(own if path is None else {**own, "PATH": path})
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cli", "demo", *options],
                env=environment,
                cwd=REPOSITORY,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.seen: set[Identity] = set()
        self.addresses: set[str] = set()

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self._output.read_text()

    def watch(self) -> None:
        """Note which processes there are, and where they listen."""
        now = descendants(self.process.pid)
        self.seen |= now
        self.addresses |= listening(now)

    def ended(self) -> bool:
        """Whether it has ended; watched until then."""
        self.watch()
        return self.process.poll() is not None

    def stop(self) -> None:
        """For a test that failed: end the demo, and what it left."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)
        for process in filter(alive, self.seen):
            os.kill(process.pid, signal.SIGKILL)


@pytest.fixture
def demos(tmp_path: Path) -> "Iterator[list[Demo]]":
    """Demos that the test started; none outlives it."""
    try:
        found = str(find_server())
    except CleanupError:
        found = ""
    require(found, "no Redis server: apt install redis-server, or install the demo extra")
    started: list[Demo] = []
    yield started
    for demo in started:
        demo.stop()


def assert_nothing_left(demo: Demo) -> None:
    """A killed process takes a moment to go, and is no child of ours to wait for."""
    until(lambda: not any(map(alive, demo.seen)), seconds=10, what="the end of every process")
    assert list(demo.temporary.iterdir()) == []


def test_it_cleans_three_nodes_shows_why_restores_one_file_and_leaves_nothing(demos: list[Demo], tmp_path: Path):
    demo = Demo(tmp_path, "--nodes", "3")
    demos.append(demo)
    until(demo.ended, seconds=READY_WITHIN, what="the end of the demo")
    assert demo.process.returncode == 0, demo.output

    assert re.search(r"node-1 +3 of 3 +9 of 9 ", demo.output)
    assert re.search(r"node-2 +6 of 6 +8 of 8 ", demo.output)
    assert re.search(r"node-3 +29 of 29 +6 of 6 ", demo.output)
    assert re.search(r"node-3 +cbr0 +29 +leaked +absent ", demo.output)
    assert "restored /var/lib/cni/networks/cbr0/10.88.0.2" in demo.output
    shown = demo.output.replace(str(demo.temporary), "/tmp")  # noqa: S108  # shown, not used
    assert max(map(len, shown.splitlines())) <= 80

    # Redis, three workers with a child each, control with one, Beat, and the demo itself.
    assert len(demo.seen) >= 1 + 3 * 2 + 2 + 1 + 1
    assert demo.addresses
    assert all(ipaddress.ip_address(address).is_loopback for address in demo.addresses)
    assert_nothing_left(demo)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_it_leaves_nothing_when_it_is_interrupted(demos: list[Demo], tmp_path: Path, number: signal.Signals):
    demo = Demo(tmp_path)
    demos.append(demo)

    def workers_are_starting() -> bool:
        demo.watch()
        return len(demo.seen) >= 6

    until(workers_are_starting, seconds=READY_WITHIN, what="the start of the workers")
    demo.process.send_signal(number)
    until(demo.ended, seconds=READY_WITHIN, what="the end of the demo")
    assert demo.process.returncode == 130, demo.output
    assert "Traceback" not in demo.output
    assert_nothing_left(demo)


def test_it_says_which_process_ended_and_stops_the_others(demos: list[Demo], tmp_path: Path):
    demo = Demo(tmp_path)
    demos.append(demo)

    def control_runs() -> bool:
        demo.watch()
        return any(_is_control(process) for process in demo.seen)

    until(control_runs, seconds=READY_WITHIN, what="the start of control")
    os.kill(min(process.pid for process in demo.seen if _is_control(process)), signal.SIGKILL)
    until(demo.ended, seconds=READY_WITHIN, what="the end of the demo")
    assert demo.process.returncode == 1
    assert "control has ended" in demo.output
    assert_nothing_left(demo)


def test_kept_it_answers_to_what_it_says_can_be_tried(demos: list[Demo], tmp_path: Path):
    require(demo_flower.is_installed(), "Flower is missing: make venv")
    demo = Demo(tmp_path, "--nodes", "1", "--keep")
    demos.append(demo)

    def kept() -> bool:
        return demo.ended() or "Ctrl-C stops everything" in demo.output

    until(kept, seconds=READY_WITHIN, what="the advice")
    assert demo.process.poll() is None, demo.output
    advice = [line.strip() for line in demo.output.splitlines() if line.startswith("  ")]
    (broker,) = (line.removeprefix("export CNI_CLEANUP_BROKER=") for line in advice if line.startswith("export"))
    (call,) = (line for line in advice if "celery -A tasks call" in line)
    (start,) = (index for index, line in enumerate(advice) if line.startswith(". "))
    for command in (shlex.split(call), ["sh", "-ec", "\n".join(advice[start:])]):
        done = subprocess.run(
            command,
            env=child_environment({"CNI_CLEANUP_BROKER": broker}),
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert "back, and held until" in done.stdout
    assert "released" in done.stdout
    # Those that came back just now are still young, the one that the demo put back is not.
    assert re.search(r"^reservations: [1-3] removed$", done.stdout, re.MULTILINE)
    assert_flower_shows_the_sweep(demo)
    (by_http,) = (line for line in advice if "--urlserver" in line)
    done = subprocess.run(shlex.split(by_http), cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "files removed" in done.stdout
    (metrics,) = re.findall(r"^sidecars +metrics of each node, (http://\S+)$", demo.output, re.MULTILINE)
    with urllib.request.urlopen(metrics, timeout=READY_WITHIN) as response:  # noqa: S310  # ours, on loopback
        assert b'cni_cleanup_passes_total{result="ok"}' in response.read()

    (file,) = re.findall(r"^  prometheus --config\.file=(\S+) ", demo.output, re.MULTILINE)
    configuration = Path(shutil.copyfile(file, tmp_path / "prometheus.yml"))
    (password,) = re.findall(r"http://demo:(\w+)@", demo.output)
    assert demo.output.count(password) == 1

    demo.process.send_signal(signal.SIGINT)
    until(demo.ended, seconds=READY_WITHIN, what="the end of the demo")
    assert demo.process.returncode == 0
    assert_nothing_left(demo)
    assert_prometheus_would_watch(configuration, {"node-1": urlsplit(metrics).netloc})


def assert_prometheus_would_watch(configuration: Path, targets: Mapping[str, str]) -> None:
    """By the name that the rules know, with the label that they know a node by, and with the rules."""
    (job,) = load(configuration)["scrape_configs"]
    assert job["job_name"] == "cni-cleanup"
    assert {one["labels"]["node"]: one["targets"] for one in job["static_configs"]} == {
        node: [target] for node, target in targets.items()
    }
    assert load(configuration)["rule_files"] == [str(RULES)]
    done = promtool("check", "config", configuration)
    assert done.returncode == 0, done.stderr


def assert_flower_shows_the_sweep(demo: Demo) -> None:
    """By the URL that the demo gives, and to nobody who does not have it."""
    (found,) = re.findall(r"^Flower, .*: http://(.+):(.+)@127\.0\.0\.1:(\d+)/$", demo.output, re.MULTILINE)
    user, password, port = found
    flower = Flower(port=int(port), user=user, password=password)
    assert flower.status("/tasks", as_user=True) == 200
    assert flower.status("/tasks", as_user=False) == 401
    request = urllib.request.Request(f"{flower.url}api/tasks", headers={"Authorization": flower.authorization})  # noqa: S310
    with urllib.request.urlopen(request, timeout=READY_WITHIN) as response:  # noqa: S310  # ours, on loopback
        jobs = json.load(response).values()
    assert {("tasks.sweep", "SUCCESS"), ("tasks.clean_node", "SUCCESS")} <= {(job["name"], job["state"]) for job in jobs}
    demo.watch()
    assert all(ipaddress.ip_address(address).is_loopback for address in demo.addresses)


def test_a_redis_that_does_not_start_says_why(demos: list[Demo], tmp_path: Path):
    broken = tmp_path / "bin"
    broken.mkdir()
    (broken / "redis-server").write_text("#!/bin/sh\necho 'no memory left' >&2\nexit 1\n")
    (broken / "redis-server").chmod(0o755)
    demo = Demo(tmp_path, path=f"{broken}:{os.environ['PATH']}")
    demos.append(demo)
    until(demo.ended, seconds=READY_WITHIN, what="the end of the demo")
    assert demo.process.returncode == 1
    assert "does not start" in demo.output
    assert "no memory left" in demo.output
    assert_nothing_left(demo)


@pytest.mark.parametrize("count", ["0", "10", "x"])
def test_a_number_of_nodes_that_makes_no_sense_is_refused(count: str):
    done = subprocess.run(
        [sys.executable, "-m", "cli", "demo", "--nodes", count],
        cwd=REPOSITORY,
        env=child_environment({}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


def _is_control(process: Identity) -> bool:
    try:
        command = Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return command[2:4] == [b"cli", b"control"]
