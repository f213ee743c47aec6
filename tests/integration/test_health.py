"""Whether a worker is alive and ready: two files, which a check looks at without asking anybody else."""

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from cli.demo.processes import Process, Processes, running
from tests.support.beside import NOBODY, QUICK, Crowded, crowded
from tests.support.chaos import Server
from tests.support.cri_server import CriServer, State, sandboxes_from_file
from tests.support.polling import until
from tests.support.program import COMMAND, REPOSITORY, child_environment, run
from workers.companion import USUAL

pytestmark = pytest.mark.timeout(300)

PATIENCE = 90.0
"""Seconds; a worker needs 1 to 3 on an idle machine."""


@pytest.fixture
def node(tmp_path: Path) -> Crowded:
    return crowded(tmp_path)


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    with running(tmp_path) as processes:
        yield processes


def is_alive(node: Crowded) -> bool:
    """The check that the documentation gives, of this state directory."""
    (check,) = re.findall(r'`(test -n "\$\(find [^`]+/alive -mmin -\d\)")`', (REPOSITORY / "docs/fleet.md").read_text())
    command = check.replace("/var/lib/cni-cleanup", str(node.state))
    assert command != check
    return subprocess.run(["/bin/sh", "-c", command], capture_output=True, check=False, timeout=60).returncode == 0


def gives_a_sign_of_life(node: Crowded, worker: Process) -> None:
    """See the check fail for a file that is old, and succeed since the worker lives."""
    long_ago = time.time() - 600
    os.utime(node.state / "alive", (long_ago, long_ago))
    until(lambda: is_alive(node), seconds=PATIENCE, what="a sign of life")
    assert worker.running()


def test_the_check_fails_for_a_worker_that_never_lived_and_for_one_that_no_longer_does(node: Crowded):
    assert not is_alive(node)
    node.state.mkdir()
    (node.state / "alive").touch()
    assert is_alive(node)
    long_ago = time.time() - 300
    os.utime(node.state / "alive", (long_ago, long_ago))
    assert not is_alive(node)


def test_a_worker_lives_while_its_broker_is_there_and_while_it_is_away(node: Crowded, processes: Processes, tmp_path: Path):
    """A broker that is away is no reason to start all the workers again."""
    server = Server(processes=processes, directory=tmp_path / "redis")
    server.start()
    worker = node.start_worker(processes, broker=server.url, early_at=0)
    with contextlib.closing(redis.Redis.from_url(server.url)) as client:
        until(lambda: client.hexists("cni-cleanup:workers", "node1"), seconds=PATIENCE, what="the worker")
    gives_a_sign_of_life(node, worker)
    server.stop()
    until(lambda: "Connection to broker lost" in worker.log_end(200), seconds=PATIENCE, what="the loss")
    gives_a_sign_of_life(node, worker)
    server.start()
    with contextlib.closing(redis.Redis.from_url(server.url)) as client:
        client.delete("cni-cleanup:workers")
        until(lambda: client.hexists("cni-cleanup:workers", "node1"), seconds=PATIENCE, what="the worker again")
    gives_a_sign_of_life(node, worker)
    assert "Traceback" not in worker.log_end(1000)


def test_control_says_that_it_lives_while_its_broker_is_there_and_while_it_is_away(processes: Processes, tmp_path: Path):
    server = Server(processes=processes, directory=tmp_path / "redis")
    server.start()
    variables = {"CNI_CLEANUP_BROKER": server.url, "CNI_CLEANUP_STATIC_NODES": "node1", "CNI_CLEANUP_STATE_DIR": str(tmp_path)}
    control = processes.start("control", [*COMMAND, "control"], child_environment(variables), REPOSITORY)
    sign = tmp_path / "control.alive"
    until(lambda: " ready." in control.log_end(), seconds=PATIENCE, what="control")
    until(sign.exists, seconds=PATIENCE, what="its sign of life")
    server.stop()
    until(lambda: "Connection to broker lost" in control.log_end(200), seconds=PATIENCE, what="the loss")
    os.utime(sign, (0, 0))
    until(lambda: sign.stat().st_mtime > 0, seconds=PATIENCE, what="a sign of life without its broker")


def test_a_worker_is_ready_when_its_preflight_is_good_and_not_before(node: Crowded, processes: Processes, short_dir: Path):
    """Its runtime is not there when it starts, and a file of the worker before it is."""
    node.state.mkdir()
    (node.state / "ready").touch()
    socket = short_dir / "cri.sock"
    worker = node.start_worker(processes, runtime_endpoint=f"unix://{socket}", sandboxes_file=None, early_at=0)
    until(lambda: "not ready" in worker.log_end(), seconds=PATIENCE, what="the first preflight")
    assert "ask runtime: " in worker.log_end()
    assert not (node.state / "ready").exists()
    with CriServer(socket, State(sandboxes=sandboxes_from_file(node.node.sandboxes_file))):
        until((node.state / "ready").exists, seconds=PATIENCE, what="readiness")
    assert worker.running()


def test_a_loop_that_no_longer_turns_is_no_life_and_one_that_waits_for_its_broker_is(
    node: Crowded, processes: Processes, tmp_path: Path
):
    """Here every loop that has its broker is taken for stuck at once; in life one that did not turn for five minutes."""
    assert USUAL.stuck == 300
    server = Server(processes=processes, directory=tmp_path / "redis")
    server.start()
    worker = node.start_worker(processes, broker=server.url, early_at=0, pace=replace(QUICK, stuck=0.0))
    with contextlib.closing(redis.Redis.from_url(server.url)) as client:
        until(lambda: client.hexists("cni-cleanup:workers", "node1"), seconds=PATIENCE, what="the worker")
    until((node.state / "ready").exists, seconds=PATIENCE, what="readiness")
    long_ago = time.time() - 600
    os.utime(node.state / "alive", (long_ago, long_ago))
    assert not is_alive(node)
    server.stop()
    until(lambda: is_alive(node), seconds=PATIENCE, what="a sign of life")
    assert "Connection to broker lost" in worker.log_end(200)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        pytest.param(["--confirm-after", "40m1s"], "a worker's job ends after 50 minutes, so at most 40m is possible", id="wait"),
        pytest.param(["--check", "--confirm-after", "41m"], "at most 40m is possible", id="wait, checked"),
    ],
)
def test_a_worker_refuses_to_wait_longer_than_its_job_may_take(node: Crowded, tmp_path: Path, arguments: list[str], why: str):
    settings = ["--node", "node1", "--state-dir", str(node.state), "--root", str(node.node.root), "--broker", NOBODY]
    done = run("worker", *settings, *arguments, home=tmp_path)
    assert done.status == 2
    assert why in done.line
    assert not node.state.exists()
