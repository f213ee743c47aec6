"""What an idle worker does to stay small, with real processes: it has its first child replaced, and loses no job by that."""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cli.demo.nodes import Node, make
from cli.demo.processes import Process, Processes, running
from tests.support.fleet import client_of
from tests.support.polling import until
from tests.support.program import REPOSITORY, child_environment
from workers.configuration import environment_of

pytestmark = pytest.mark.timeout(300)

PATIENCE = 90.0
"""Seconds; a second or two are usual."""

JOBS = 3


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    logs = tmp_path / "logs"
    logs.mkdir()
    with running(logs) as processes:
        yield processes


@pytest.fixture
def node(tmp_path: Path) -> Node:
    (node,) = make(1, tmp_path)
    return node


def start(processes: Processes, node: Node, broker: str, *, settled_after: float) -> Process:
    """Start the node's worker, which takes itself for settled after so many seconds instead of ten."""
    settings = replace(node.settings(broker), min_age=0.0, confirm_after=0.0)
    options = {"constants": {"tasks.worker:_SETTLED_AFTER": settled_after}}
    own = environment_of(settings) | {"CHAOS_OPTIONS": json.dumps(options)}
    command = [sys.executable, "-m", "tests.support.worker_main", "worker"]
    return processes.start("worker", command, child_environment(own), REPOSITORY)


def children(worker: Process) -> list[int]:
    """The pool's children; the companion's processes are others."""
    found = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()
    return [int(pid) for pid in found if b"\0-P\0" not in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_the_first_child_of_an_idle_worker_is_replaced_by_one_that_shares_more(processes: Processes, node: Node, redis_url: str):
    worker = start(processes, node, redis_url, settled_after=2.0)
    until(lambda: children(worker), seconds=PATIENCE, what="a child")
    (first,) = children(worker)
    until(lambda: (now := children(worker)) and first not in now, seconds=PATIENCE, what="another child")
    assert client_of(redis_url).send_task("tasks.scan_node", args=[node.name]).get(timeout=PATIENCE)["node"] == node.name
    assert worker.running(), worker.log_end()


def test_jobs_that_wait_when_the_first_child_is_replaced_are_each_done_once(processes: Processes, node: Node, redis_url: str):
    app = client_of(redis_url)
    waiting = [app.send_task("tasks.clean_node", args=[node.name]) for _ in range(JOBS)]
    worker = start(processes, node, redis_url, settled_after=0.0)
    passes = {result.get(timeout=PATIENCE)["pass_id"] for result in waiting}
    assert len(passes) == JOBS
    assert (processes_log := worker.log_end(1000)).count("] received") == JOBS, processes_log
