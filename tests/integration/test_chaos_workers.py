"""Workers, their children and their jobs are killed and stopped: nothing live goes, no job is lost, the account is true."""

import os
import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.chaos import SHORTER, Make, Server, chaos_in, exit_status, kill_after, kill_child, server_in
from tests.support.polling import until

pytestmark = pytest.mark.timeout(400)

MANY = 1500
"""Leaks, so that a removal takes a while."""

SEED = int(os.environ.get("CHAOS_SEED", "0")) or random.randrange(1, 10**6)

RETRIED_SOON: dict[str, Any] = {
    **SHORTER,
    "settings": {**SHORTER["settings"], "task_annotations": {"*": {"max_retries": 2, "default_retry_delay": 1}}},
}
"""As the product has it, with a second between the tries instead of ten."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server_in(tmp_path_factory.mktemp("chaos-redis")) as server:
        yield server


@pytest.fixture
def make_chaos(server: Server, tmp_path: Path) -> Iterator[Make]:
    with chaos_in(tmp_path, server) as make:
        yield make


def test_the_job_of_a_worker_that_was_killed_comes_again_and_ends(make_chaos: Make):
    chaos = make_chaos(8)
    faults = {"node-1": "begun", "node-2": "waiting", "node-3": "removed", "node-4": "reported", "node-5": "swept"}
    by_chance = ["node-6", "node-7", "node-8"]
    leaked = {node: chaos.leak(node, MANY) for node in ("node-3", "node-4", "node-5", *by_chance)}
    chaos.wait_ready(
        chaos.start_control(),
        *(chaos.start_worker(node, kill_at=step, kill="all", once="1") for node, step in faults.items()),
        *(chaos.start_worker(node) for node in by_chance),
    )
    sweep_id = chaos.sweep()
    print(f"CHAOS_SEED={SEED}")
    chance = random.Random(SEED)
    for node in by_chance:
        until(partial(chaos.has_begun, sweep_id, node), what="a job")
        kill_after(chaos.workers[node], chance.uniform(0, 1))
        chaos.start_worker(node)
    for node, step in faults.items():
        assert exit_status(chaos.workers[node]) == 128 + 9
        if step == "swept":
            # Its pass has ended, and only the node knows: what leaks from here on is not this sweep's.
            later = chaos.leak(node, 1, block=78)
        chaos.start_worker(node, kill_at=step, kill="all", once="1")
    account = chaos.wait_complete(sweep_id)
    chaos.check_drained()
    chaos.check_good(account)
    for node, paths in leaked.items():
        assert not paths & chaos.left(node)
        assert chaos.removed_twice(node) == []
    assert later <= chaos.left("node-5")
    assert chaos.passes("node-5") == {"ok": 1}


def test_a_child_that_dies_is_retried_and_one_that_always_dies_is_a_failure(make_chaos: Make):
    chaos = make_chaos(3)
    leaked = chaos.leak("node-1", MANY)
    control = chaos.start_control()
    chaos.start_worker("node-1", options=RETRIED_SOON, kill_at="removed", once="1")
    chaos.start_worker("node-2", options=RETRIED_SOON, kill_at="waiting")
    chaos.start_worker("node-3", options=RETRIED_SOON, wait_at="waiting")
    chaos.wait_ready(control, *chaos.workers.values())
    sweep_id = chaos.sweep()
    # Like the kernel that runs out of memory.
    until(chaos.marker("node-3", "waiting").exists, what="a job")
    chaos.marker("node-3", "go").touch()
    kill_child(chaos.workers["node-3"])
    account = chaos.wait_complete(sweep_id)
    chaos.check_drained()
    assert (account["cleaned"], account["failed"]) == (2, 1)
    (failed,) = (row for row in account["nodes"] if row["state"] == "failed")
    assert failed["node"] == "node-2"
    assert "SIGKILL" in failed["why"]
    # The first time, and two more.
    assert chaos.marker("node-2", "kills").read_bytes() == b"..."
    assert chaos.passes("node-2") == {}
    assert chaos.nodes["node-2"].leaked <= chaos.left("node-2")
    chaos.check_cleaned("node-1", "node-3")
    assert not leaked & chaos.left("node-1")
    assert all(worker.running() for worker in chaos.workers.values())


def test_a_worker_that_is_stopped_gives_its_job_back_at_once(make_chaos: Make):
    chaos = make_chaos(1)
    control = chaos.start_control()
    first = chaos.start_worker("node-1", wait_at="waiting")
    chaos.wait_ready(control, first)
    sweep_id = chaos.sweep()
    until(chaos.marker("node-1", "waiting").exists, what="a job")
    first.terminate()
    assert exit_status(first) == 0
    assert chaos.client.llen("node.node-1") == 1
    assert chaos.client.hlen("unacked") == 0
    chaos.check_live()
    chaos.start_worker("node-1")
    account = chaos.wait_complete(sweep_id)
    chaos.check_drained()
    chaos.check_good(account)
    assert chaos.passes("node-1") == {"ok": 1}
