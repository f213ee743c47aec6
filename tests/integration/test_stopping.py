"""The stop switch and the sweeps that wait: what somebody asked for while no control worker was there."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from cni.settings import Settings
from tasks import app
from tasks import sweep as sweeps
from tasks.ledger import Ledger
from tests.support import program
from tests.support.fleet import client_of


@pytest.fixture
def ledger(redis_url: str) -> Iterator[Ledger]:
    with contextlib.closing(redis.Redis.from_url(redis_url)) as client:
        yield Ledger(client)


def test_a_sweep_that_waits_is_known_with_all_that_was_asked(redis_url: str, ledger: Ledger):
    client = client_of(redis_url)
    wanted = {"nodes": ["b", "a"], "dry_run": True, "spread": 2}
    sent = client.send_task("tasks.sweep", kwargs=wanted)
    client.send_task("tasks.report")
    (facts,) = sweeps.queued(ledger)
    assert (facts.sweep_id, facts.nodes, facts.dry_run, facts.spread) == (sent.id, ("a", "b"), True, 2.0)


def test_a_sweep_that_waits_is_stopped_too_and_asks_nobody_when_it_is_taken(
    redis_url: str, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    sent = client_of(redis_url).send_task("tasks.sweep", kwargs={"nodes": ["node-1"]})
    stopped = program.run("job", "--stop", home=tmp_path, variables={"CNI_CLEANUP_BROKER": redis_url})
    assert stopped.status == 0, stopped.err
    assert f"sweep {sent.id} is stopped" in stopped.out
    monkeypatch.setattr(app, "_settings", Settings(broker=redis_url, static_nodes=("node-1",)))
    monkeypatch.setattr(app, "is_control", True)
    answer = sweeps.sweep.apply(kwargs={"nodes": ["node-1"]}, task_id=sent.id).get()
    assert (answer["asked"], answer["stopped"]) == (0, True)
    assert ledger.expected(sent.id) == frozenset()


def test_a_sweep_that_is_taken_up_again_is_told_all_that_it_was_at_first(redis_url: str, ledger: Ledger, tmp_path: Path):
    client_of(redis_url).send_task("tasks.sweep", kwargs={"nodes": ["node-1"], "dry_run": True})
    program.run("job", "--stop", home=tmp_path, variables={"CNI_CLEANUP_BROKER": redis_url})
    with contextlib.closing(redis.Redis.from_url(redis_url)) as client:
        client.delete("control")
        resumed = program.run("job", "--resume", "--timeout", "1s", home=tmp_path, variables={"CNI_CLEANUP_BROKER": redis_url})
        assert resumed.status == 1
        (message,) = client.lrange("control", 0, -1)
    assert json.loads(message)["headers"]["kwargsrepr"].count("'dry_run': True") == 1
    (facts,) = sweeps.queued(ledger)
    assert (facts.nodes, facts.dry_run) == (("node-1",), True)
