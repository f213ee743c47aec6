"""The record of a sweep, in a real Redis."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import pytest
import redis

from tasks.account import document
from tasks.ledger import KEPT_FOR, LEASE, Facts, Ledger, Progress, Sign, note_worker

STARTED = 1_795_420_800.0
FINISHED = {"node": "a", "aborted": None, "pass_id": "1"}
ABORTED = {"node": "a", "aborted": {"reason": "busy", "detail": "another pass is running"}, "pass_id": "2"}


@pytest.fixture
def client(redis_url: str) -> "Iterator[redis.Redis]":
    with contextlib.closing(redis.Redis.from_url(redis_url)) as client:
        yield client


@pytest.fixture
def ledger(client: "redis.Redis") -> Ledger:
    return Ledger(client)


def facts(sweep_id: str = "s", *, started: float = STARTED) -> Facts:
    return Facts(sweep_id=sweep_id, started=started, dry_run=False)


def begin(ledger: Ledger, *nodes: str, sweep_id: str = "s", started: float = STARTED) -> None:
    ledger.begin(facts(sweep_id, started=started))
    ledger.expect(sweep_id, nodes, skipped={}, until=started + 3600)


def test_progress_counts_the_nodes_that_were_asked_and_that_reported(ledger: Ledger):
    begin(ledger, "a", "b")
    assert ledger.progress("s") == Progress(expected=2, asked=0, reported=0)
    ledger.note_asked("s", ["a", "b"])
    ledger.record("s", "a", FINISHED)
    assert ledger.progress("s") == Progress(expected=2, asked=2, reported=1)
    assert ledger.expected("s") == ledger.asked("s") == {"a", "b"}


def test_a_sweep_that_nobody_began_is_not_on_record(ledger: Ledger):
    assert ledger.progress("s") == Progress(expected=0, asked=0, reported=0)
    assert ledger.facts("s") is None
    assert ledger.snapshot("s") is None
    assert ledger.report("s", "a") is None
    assert ledger.expected("s") == frozenset()
    assert ledger.sweeps() == []


def test_a_report_comes_back_as_it_was(ledger: Ledger):
    ledger.record("s", "a", FINISHED)
    assert ledger.report("s", "a") == FINISHED
    assert ledger.report("s", "b") is None
    assert ledger.report("t", "a") is None


@pytest.mark.parametrize("text", [b"{", b"", b"\xff\xfe", b"[" * 100_000])
def test_a_report_that_is_no_json_hides_no_other(ledger: Ledger, client: "redis.Redis", text: bytes):
    begin(ledger, "a", "b")
    ledger.record("s", "a", FINISHED)
    client.hset("cni-cleanup:sweep:s", "b", text)
    found = ledger.snapshot("s")
    assert found is not None
    assert found.reports == {"a": FINISHED, "b": {}}
    assert {node["node"]: node["state"] for node in document(found, now=STARTED)["nodes"]}["b"] == "failed"


def test_an_aborted_pass_does_not_hide_one_that_finished(ledger: Ledger):
    ledger.record("s", "a", FINISHED)
    ledger.record("s", "a", ABORTED)
    assert ledger.report("s", "a") == FINISHED


def test_a_finished_pass_stands_against_a_second_one(ledger: Ledger):
    ledger.record("s", "a", FINISHED)
    ledger.record("s", "a", {**FINISHED, "pass_id": "2"})
    assert ledger.report("s", "a") == FINISHED


def test_a_finished_pass_replaces_a_dry_run(ledger: Ledger):
    ledger.record("s", "a", {**FINISHED, "policy": {"dry_run": True}})
    ledger.record("s", "a", {**FINISHED, "pass_id": "2"})
    assert ledger.report("s", "a") == {**FINISHED, "pass_id": "2"}


def test_facts_that_a_newer_version_wrote_are_passed_over(ledger: Ledger, client: "redis.Redis"):
    begin(ledger, "a")
    client.hset("cni-cleanup:sweep:s:meta", "mood", '"good"')
    found = ledger.facts("s")
    assert found is not None
    assert found.started == STARTED


def test_a_finished_pass_replaces_one_that_was_aborted(ledger: Ledger):
    ledger.record("s", "a", ABORTED)
    ledger.record("s", "a", FINISHED)
    assert ledger.report("s", "a") == FINISHED


def test_a_sweep_that_begins_again_stays_the_one_it_was(ledger: Ledger):
    begin(ledger, "a")
    ledger.begin(facts(started=STARTED + 3600))
    found = ledger.facts("s")
    assert found is not None
    assert found.started == STARTED
    assert ledger.sweeps() == ["s"]


def test_the_facts_of_a_sweep_come_back(ledger: Ledger):
    told = Facts(sweep_id="s", started=STARTED, dry_run=True, selector="pool=a", spread=0.5, nodes=("a", "b"))
    ledger.begin(told)
    assert ledger.facts("s") == told
    ledger.expect("s", ["a"], skipped={"w": "runs windows"}, until=STARTED + 60)
    ledger.note_all_asked("s", at=STARTED + 1)
    ledger.fail("s", "the API is away")
    assert ledger.facts("s") == replace(
        told, skipped={"w": "runs windows"}, until=STARTED + 60, all_asked=STARTED + 1, error="the API is away"
    )


def test_a_failure_of_a_sweep_that_never_began_leaves_nothing(ledger: Ledger, client: "redis.Redis"):
    ledger.fail("s", "refused")
    assert list(client.scan_iter()) == []


def test_the_newest_sweep_is_the_first_of_the_list(ledger: Ledger):
    for sweep_id, started in (("old", STARTED), ("new", STARTED + 7), ("middle", STARTED + 5)):
        begin(ledger, "a", sweep_id=sweep_id, started=started)
    assert ledger.sweeps() == ["new", "middle", "old"]


def test_a_sweep_older_than_thirty_days_leaves_the_list(ledger: Ledger):
    begin(ledger, "a", sweep_id="old", started=STARTED - KEPT_FOR - 1)
    begin(ledger, "a", sweep_id="new")
    assert ledger.sweeps() == ["new"]


def test_of_two_that_claim_to_be_the_running_sweep_one_is(ledger: Ledger):
    assert ledger.claim(facts("a")) is None
    assert ledger.claim(facts("b")) == "a"
    assert ledger.claim(facts("a")) is None
    assert ledger.current() == "a"
    assert ledger.claim(facts("b"), over="a") is None
    assert ledger.claim(facts("c"), over="a") == "b"
    assert ledger.sweeps() == ["b", "a"]


def test_one_process_has_the_lease_until_it_drops_it(ledger: Ledger, client: "redis.Redis"):
    assert ledger.take_lease("s", "one")
    assert not ledger.take_lease("s", "two")
    ledger.drop_lease("s", "two")
    assert ledger.is_leased("s")
    assert ledger.renew_lease("s", "one")
    assert not ledger.renew_lease("s", "two")
    assert 0 < int(client.ttl("cni-cleanup:sweep:s:lease")) <= LEASE
    ledger.drop_lease("s", "one")
    assert ledger.take_lease("s", "two")


def test_a_lease_that_ran_out_is_taken_again_unless_another_one_has_it(ledger: Ledger, client: "redis.Redis"):
    assert ledger.take_lease("s", "one")
    client.delete("cni-cleanup:sweep:s:lease")
    assert ledger.renew_lease("s", "one")
    assert 0 < int(client.ttl("cni-cleanup:sweep:s:lease")) <= LEASE
    client.delete("cni-cleanup:sweep:s:lease")
    assert ledger.take_lease("s", "two")
    assert not ledger.renew_lease("s", "one")


def test_a_node_that_met_the_stop_switch_is_to_be_asked_again(ledger: Ledger):
    begin(ledger, "a", "b")
    ledger.note_asked("s", ["a", "b"])
    ledger.stop("s", at=STARTED)
    assert ledger.is_stopped("s")
    ledger.sign("s", "a", Sign(what="stopped", at=STARTED))
    assert ledger.asked("s") == {"b"}


def test_a_sweep_that_goes_on_is_neither_stopped_nor_through(ledger: Ledger):
    begin(ledger, "a")
    ledger.note_all_asked("s", at=STARTED)
    ledger.stop("s", at=STARTED)
    ledger.resume("s", until=STARTED + 7200)
    found = ledger.facts("s")
    assert found is not None
    assert (found.stopped, found.all_asked, found.until) == (None, None, STARTED + 7200)


def test_a_report_takes_the_place_of_a_sign(ledger: Ledger):
    begin(ledger, "a", "b")
    ledger.sign("s", "a", Sign(what="begun", at=STARTED))
    ledger.sign("s", "b", Sign(what="failed", at=STARTED, why="it was killed"))
    ledger.record("s", "a", FINISHED)
    snapshot = ledger.snapshot("s")
    assert snapshot is not None
    assert snapshot.signs == {"b": Sign(what="failed", at=STARTED, why="it was killed")}
    assert snapshot.reports == {"a": FINISHED}


def test_a_snapshot_tells_when_silent_workers_were_last_there(ledger: Ledger, client: "redis.Redis"):
    begin(ledger, "a", "b", "c")
    note_worker(client, "a", at=STARTED)
    note_worker(client, "b", at=STARTED + 60)
    ledger.record("s", "a", FINISHED)
    snapshot = ledger.snapshot("s", reports=False)
    assert snapshot is not None
    assert snapshot.seen == {"b": STARTED + 60}
    assert snapshot.reports.keys() == {"a"}


def test_forgetting_a_node_leaves_nothing_of_it(ledger: Ledger, client: "redis.Redis"):
    begin(ledger, "a", "b")
    for node in ("a", "b"):
        note_worker(client, node, at=STARTED)
        client.lpush(f"node.{node}", "a job")
        client.sadd(f"_kombu.binding.node.{node}", "x")
        client.sadd(f"_kombu.binding_permanent.node.{node}", "x")
    assert ledger.known_nodes() == {"a", "b"}
    ledger.forget(["a"])
    assert ledger.known_nodes() == {"b"}
    left = {key.decode() for key in client.scan_iter("*node.*")}
    assert left == {"node.b", "_kombu.binding.node.b", "_kombu.binding_permanent.node.b"}


def test_everything_of_a_sweep_is_forgotten_after_thirty_days(ledger: Ledger, client: "redis.Redis"):
    begin(ledger, "a", "b")
    ledger.note_asked("s", ["a", "b"])
    ledger.sign("s", "b", Sign(what="begun", at=STARTED))
    ledger.record("s", "a", FINISHED)
    ledger.note_all_asked("s", at=STARTED)
    keys = set(client.scan_iter("cni-cleanup:sweep:*"))
    assert keys == {f"cni-cleanup:sweep:s{part}".encode() for part in ("", ":expected", ":asked", ":signs", ":meta")}
    assert KEPT_FOR == 30 * 24 * 3600
    assert all(KEPT_FOR - 60 < int(client.ttl(key)) <= KEPT_FOR for key in keys)
