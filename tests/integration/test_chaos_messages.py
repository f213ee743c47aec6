"""Messages that come late, twice or by the hundred, sweeps at once, and the stop switch: each node is cleaned once."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tasks.errors import Refused
from tasks.ledger import Facts
from tasks.sweep import account_of
from tests.support.chaos import Chaos, Make, Server, chaos_in, server_in
from tests.support.polling import until
from tests.support.program import run

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server_in(tmp_path_factory.mktemp("chaos-redis")) as server:
        yield server


@pytest.fixture
def make_chaos(server: Server, tmp_path: Path) -> Iterator[Make]:
    with chaos_in(tmp_path, server) as make:
        yield make


def test_of_two_hundred_jobs_the_late_ones_are_discarded_and_each_sweep_is_one_pass(make_chaos: Make):
    chaos = make_chaos(1)
    now = datetime.now(UTC)
    sweeps = ["late", "fresh-1", "fresh-2", "fresh-3"]
    for sweep_id in sweeps:
        chaos.ledger.begin(Facts(sweep_id=sweep_id, started=time.time(), dry_run=False))
        chaos.ledger.expect(sweep_id, ["node-1"], skipped={}, until=time.time() + 3600)
        chaos.ledger.note_asked(sweep_id, ["node-1"])
        chaos.ledger.note_all_asked(sweep_id, at=time.time())
    for _ in range(188):
        _ask(chaos, "late", expires=now - timedelta(seconds=5))
    for _ in range(4):
        for sweep_id in sweeps[1:]:
            _ask(chaos, sweep_id, expires=now + timedelta(hours=1))
    assert chaos.client.llen("node.node-1") == 200
    chaos.wait_ready(chaos.start_worker("node-1", confirm_after=0.2))
    for sweep_id in sweeps[1:]:
        chaos.check_good(chaos.wait_complete(sweep_id))
    chaos.check_drained()
    assert chaos.passes("node-1") == {"ok": 3}
    account = account_of(chaos.ledger, "late")
    assert (account["state"], account["discarded"]) == ("complete", 1)
    assert account["nodes"][0]["why"] == "it was taken after it had expired"
    passes = {account_of(chaos.ledger, one)["nodes"][0]["pass_id"] for one in sweeps[1:]}
    assert len(passes) == 3


def _ask(chaos: Chaos, sweep_id: str, **options: object) -> None:
    chaos.app.send_task("tasks.clean_node", ["node-1"], {"sweep_id": sweep_id}, ignore_result=True, **options)


def test_messages_that_come_twice_or_late_change_nothing(make_chaos: Make):
    chaos = make_chaos(2)
    sweep_id = chaos.sweep(spread=1)
    (asked,) = chaos.client.lrange("control", 0, -1)
    chaos.client.lpush("control", asked)
    # Twice at once: each control takes one of the two.
    controls = [chaos.start_control(), chaos.start_control()]
    chaos.wait_ready(*controls)
    until(lambda: not chaos.client.llen("control") and not chaos.client.hlen("unacked"), seconds=60, what="both")
    (job,) = chaos.client.lrange("node.node-1", 0, -1)
    chaos.client.lpush("node.node-1", job)
    assert chaos.client.llen("node.node-2") == 1
    chaos.wait_ready(chaos.start_worker("node-1"), chaos.start_worker("node-2"))
    first = chaos.wait_complete(sweep_id)
    chaos.check_drained()
    chaos.check_good(first)
    assert chaos.passes("node-1") == chaos.passes("node-2") == {"ok": 1}

    # The next sweep runs for as long as a node that is there does not answer.
    chaos.workers["node-2"].end()
    other = chaos.sweep()
    chaos.wait_for_account(other, lambda account: account["asked"] is not None and account["cleaned"] == 1)
    leaked = chaos.leak("node-1", 1)
    assert account_of(chaos.ledger, other)["state"] == "running"
    chaos.client.lpush("control", asked)
    chaos.client.lpush("node.node-1", job)
    until(lambda: not chaos.client.llen("control") and not chaos.client.llen("node.node-1"), seconds=60, what="the late ones")
    until(lambda: not chaos.client.hlen("unacked"), seconds=60, what="the late ones")
    assert account_of(chaos.ledger, sweep_id) == first
    assert account_of(chaos.ledger, other)["state"] == "running"
    assert chaos.ledger.current() == other
    assert leaked <= chaos.left("node-1")
    assert chaos.passes("node-1") == {"ok": 2}


def test_of_two_sweeps_at_once_one_runs_and_the_other_is_told_which(make_chaos: Make):
    chaos = make_chaos(2)
    chaos.wait_ready(chaos.start_worker("node-1"), chaos.start_worker("node-2"), chaos.start_control(), chaos.start_control())
    asked = [chaos.sweep(spread=0.5), chaos.sweep(spread=0.5)]
    answers = {one: _answer(chaos, one) for one in asked}
    (loser,) = (one for one, answer in answers.items() if isinstance(answer, Refused))
    (winner,) = set(asked) - {loser}
    assert winner in str(answers[loser])
    chaos.check_good(chaos.wait_complete(winner))
    assert chaos.ledger.sweeps() == [winner]
    assert chaos.ledger.facts(loser) is None
    assert chaos.passes("node-1") == chaos.passes("node-2") == {"ok": 1}
    chaos.check_good(chaos.wait_complete(chaos.sweep()))
    assert chaos.passes("node-1") == chaos.passes("node-2") == {"ok": 2}


def _answer(chaos: Chaos, sweep_id: str) -> object:
    try:
        return chaos.wait(sweep_id)
    except Refused as refused:
        return refused


def test_a_stopped_sweep_halts_within_seconds_and_goes_on_where_it_was(make_chaos: Make, tmp_path: Path):
    chaos = make_chaos(3)
    leaked = chaos.leak("node-1", 3000)
    before = {node: chaos.left(node) for node in chaos.nodes}
    chaos.start_fleet(confirm_after=0.2, slow_at="recorded")
    sweep_id = chaos.sweep(spread=60)
    until(lambda: len(chaos.left("node-1") & leaked) < 3000, seconds=60, what="a removal")
    stopped = run("job", "--stop", "--broker", chaos.server.url, home=tmp_path)
    assert stopped.status == 0, stopped.err
    account = chaos.wait_for_account(sweep_id, lambda account: "its job met the stop switch" in account["nodes"][0]["why"])
    chaos.check_drained()
    left = chaos.left("node-1") & leaked
    assert left
    assert (account["state"], account["missed"]) == ("incomplete", 3)
    assert [row["why"] for row in account["nodes"][1:]] == ["not asked", "not asked"]
    report = json.loads((chaos.nodes["node-1"].directory / "state/report.json").read_text())
    assert report["aborted"]["reason"] == "hold"
    assert f"{report['outcomes']['removed']} files were removed by then" in account["nodes"][0]["why"]
    assert chaos.left("node-2") == before["node-2"]
    assert chaos.left("node-3") == before["node-3"]
    assert chaos.left("node-1") & leaked == left
    chaos.check_live()

    for worker in chaos.workers.values():
        worker.end()
    chaos.client.hset(f"cni-cleanup:sweep:{sweep_id}:meta", "spread", "0")
    chaos.wait_ready(*(chaos.start_worker(node, confirm_after=0.2) for node in chaos.nodes))
    resumed = run("job", "--resume", "--broker", chaos.server.url, home=tmp_path)
    assert resumed.status == 0, resumed.err + resumed.out
    chaos.check_drained()
    chaos.check_good(account_of(chaos.ledger, sweep_id))
    assert not leaked & chaos.left("node-1")
    assert chaos.removed_twice("node-1") == []


def test_a_node_that_leaves_off_when_its_sweep_goes_on_already_is_not_forgotten(make_chaos: Make):
    chaos = make_chaos(1)
    chaos.start_fleet(wait_at="waiting")
    sweep_id = chaos.sweep()
    until(chaos.marker("node-1", "waiting").exists, seconds=60, what="a job")
    chaos.ledger.stop(sweep_id, at=time.time())
    looks = _looks(chaos)
    until(lambda: _looks(chaos) > looks, seconds=60, what="the node's look at the stop switch")
    chaos.ledger.resume(sweep_id, until=time.time() + 3600)
    chaos.app.send_task("tasks.sweep", task_id=sweep_id)
    chaos.wait_for_account(sweep_id, lambda account: account["asked"] is not None)
    chaos.marker("node-1", "go").touch()
    chaos.check_good(chaos.wait_complete(sweep_id))
    chaos.check_drained()


def _looks(chaos: Chaos) -> int:
    return int(chaos.client.info("commandstats").get("cmdstat_hexists", {"calls": 0})["calls"])
