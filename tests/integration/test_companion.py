"""A worker's pass of its own accord: a real process on a crowded node, with the guards of every pass and without a broker."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from cli.demo.processes import Processes, running
from tests.support.beside import QUICK, Crowded, crowded
from tests.support.chaos import Server
from tests.support.polling import until
from tests.support.program import child_environment
from workers.companion import Companion, InProcess, start
from workers.configuration import environment_of
from workers.state import State

pytestmark = pytest.mark.timeout(300)

PATIENCE = 90.0
"""Seconds; a process needs 1 to 3 on an idle machine."""


@pytest.fixture
def node(tmp_path: Path) -> Crowded:
    return crowded(tmp_path)


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    with running(tmp_path) as processes:
        yield processes


def make_early_pass(node: Crowded, **changes: Any) -> dict[str, Any]:
    """One turn beside the jobs of a worker that has just started; the report of the pass."""
    settings = node.settings(**changes)
    Companion(settings=settings, run=InProcess(settings)).tick()
    report: dict[str, Any] = json.loads((node.state / "report.json").read_text())
    return report


def children() -> set[int]:
    """The processes that this one has started and not seen the end of."""
    return {int(pid) for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}


class TestTheSameGuards:
    def test_exactly_the_leaks_go(self, node: Crowded):
        report = make_early_pass(node)
        assert report["aborted"] is None
        assert report["sweep_id"] is None
        assert node.there == node.node.live
        assert (node.state / "ready").exists()

    @pytest.mark.parametrize(
        ("changes", "outcomes"),
        [
            pytest.param({"dry_run": True}, {"dry-run"}, id="dry run"),
            pytest.param({"min_age": 900.0}, set(), id="young files"),
            pytest.param({"max_remove": 0}, {"over-limit"}, id="limit"),
            pytest.param({"early_at": 0}, None, id="off"),
        ],
    )
    def test_the_nodes_own_settings_stand(self, node: Crowded, changes: dict[str, Any], outcomes: set[str] | None):
        before = node.there
        if outcomes is None:
            with pytest.raises(FileNotFoundError):
                make_early_pass(node, **changes)
        else:
            report = make_early_pass(node, **changes)
            assert report["aborted"] is None
            assert set(report["outcomes"]) == outcomes
        assert node.there == before

    def test_a_hold_stops_it(self, node: Crowded):
        node.state.mkdir()
        (node.state / "hold").touch()
        before = node.there
        assert make_early_pass(node)["aborted"]["reason"] == "hold"
        assert node.there == before

    def test_beside_another_pass_it_does_nothing(self, node: Crowded):
        before = node.there
        settings = node.settings()
        with State(str(node.state)).pass_lock():
            Companion(settings=settings, run=InProcess(settings)).tick()
            assert (node.state / "early.json").exists()
        assert not (node.state / "report.json").exists()
        assert node.there == before

    def test_a_configuration_file_adds_nothing_to_the_workers_settings(
        self, node: Crowded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        """A worker that was given another file has not read it either."""
        (tmp_path / ".api-cni-cleanup.yaml").write_text("networks: elsewhere\n")
        monkeypatch.setenv("HOME", str(tmp_path))
        make_early_pass(node)
        assert node.there == node.node.live


class TestWithoutABroker:
    def test_it_is_made_though_there_never_was_one(self, node: Crowded, processes: Processes):
        worker = node.start_worker(processes)
        until(lambda: node.there == node.node.live, seconds=PATIENCE, what="the pass")
        assert worker.running()

    def test_it_is_made_though_the_broker_went_away(self, node: Crowded, processes: Processes, tmp_path: Path):
        node.relieve()
        server = Server(processes=processes, directory=tmp_path / "redis")
        server.start()
        worker = node.start_worker(processes, broker=server.url)
        with contextlib.closing(redis.Redis.from_url(server.url)) as client:
            until(lambda: client.hexists("cni-cleanup:workers", "node1"), seconds=PATIENCE, what="the worker")
        server.stop()
        until(lambda: "Connection to broker lost" in worker.log_end(200), seconds=PATIENCE, what="the loss")
        node.crowd_again()
        until(lambda: node.there == node.node.live, seconds=PATIENCE, what="the pass")
        assert worker.running()


class TestTheEndOfTheWorker:
    def test_ended_in_the_middle_it_leaves_no_process_and_starts_none(self, node: Crowded):
        settings = node.settings(confirm_after=2000.0)
        run = InProcess(settings)
        before = children()
        end = start(Companion(settings=settings, run=run, pace=QUICK))
        try:
            until(node.is_locked, seconds=PATIENCE, what="the pass")
        finally:
            end()
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("companion")]
        assert children() <= before
        assert not node.is_locked()
        assert node.there == node.leaked | node.node.live
        assert run("check") == 1
        assert children() <= before

    def test_one_that_takes_too_long_is_killed_and_leaves_everything_as_it_is(self, node: Crowded):
        before = children()
        assert InProcess(node.settings(confirm_after=2000.0), longest=1.5)("clean") == -signal.SIGKILL
        assert children() <= before
        assert not node.is_locked()
        assert node.there == node.leaked | node.node.live

    def test_a_worker_that_is_stopped_ends_it_and_does_not_wait(self, node: Crowded, processes: Processes):
        worker = node.start_worker(processes, confirm_after=2000.0)
        until(node.is_locked, seconds=PATIENCE, what="the pass")
        worker.terminate()
        until(lambda: not worker.running(), seconds=PATIENCE, what="the end of the worker")
        ended = os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        assert ended is not None
        assert (ended.si_code, ended.si_status) == (os.CLD_EXITED, 0)
        assert not node.is_locked()
        assert node.there == node.leaked | node.node.live

    def test_that_of_a_worker_that_was_killed_ends_as_any_pass(self, node: Crowded, processes: Processes):
        worker = node.start_worker(processes, confirm_after=2.0)
        until(node.is_locked, seconds=PATIENCE, what="the pass")
        os.kill(worker.pid, signal.SIGKILL)
        until(lambda: not worker.running(), seconds=PATIENCE, what="the end of the worker")
        until(lambda: node.there == node.node.live, seconds=PATIENCE, what="the pass")
        until(lambda: not node.is_locked(), seconds=PATIENCE, what="its end")
        report = json.loads((node.state / "report.json").read_text())
        assert report["aborted"] is None


@pytest.mark.parametrize("arguments", [[], ["restore"], ["clean", "--dry-run"]])
def test_the_process_of_a_pass_takes_nothing_but_what_the_worker_asks_for(node: Crowded, arguments: list[str]):
    done = subprocess.run(
        [sys.executable, "-P", "-m", "workers", *arguments],
        env=child_environment(environment_of(node.settings())),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (2, "usage: python -m workers clean|check\n")
    assert node.there == node.leaked | node.node.live
