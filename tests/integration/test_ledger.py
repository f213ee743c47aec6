"""The record of a sweep, in a real Redis."""

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
import redis

from tasks.ledger import KEPT_FOR, Ledger, Progress

STARTED = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)
FINISHED = {"node": "a", "aborted": None, "pass_id": "1"}
ABORTED = {"node": "a", "aborted": {"reason": "busy", "detail": "another pass is running"}, "pass_id": "2"}


@pytest.fixture
def client(redis_url: str) -> "Iterator[redis.Redis]":
    with contextlib.closing(redis.Redis.from_url(redis_url)) as client:
        yield client


@pytest.fixture
def ledger(client: "redis.Redis") -> Ledger:
    return Ledger(client)


def test_progress_counts_the_nodes_that_reported(ledger: Ledger):
    ledger.begin("s", ["a", "b"], started=STARTED, dry_run=False)
    assert ledger.progress("s") == Progress(expected=2, reported=0)
    ledger.record("s", "a", FINISHED)
    assert ledger.progress("s") == Progress(expected=2, reported=1)
    assert not ledger.progress("s").complete
    ledger.record("s", "b", FINISHED)
    assert ledger.progress("s").complete
    assert ledger.expected("s") == {"a", "b"}
    assert ledger.reports("s") == {"a": FINISHED, "b": FINISHED}


def test_a_sweep_that_nobody_began_is_empty_and_not_complete(ledger: Ledger):
    assert ledger.progress("s") == Progress(expected=0, reported=0)
    assert not ledger.progress("s").complete
    assert ledger.report("s", "a") is None
    assert ledger.reports("s") == {}
    assert ledger.expected("s") == frozenset()


def test_a_report_comes_back_as_it_was(ledger: Ledger):
    ledger.record("s", "a", FINISHED)
    assert ledger.report("s", "a") == FINISHED
    assert ledger.report("s", "b") is None
    assert ledger.report("t", "a") is None


def test_an_aborted_pass_does_not_hide_one_that_finished(ledger: Ledger):
    ledger.record("s", "a", FINISHED)
    ledger.record("s", "a", ABORTED)
    assert ledger.report("s", "a") == FINISHED


def test_a_finished_pass_replaces_one_that_was_aborted(ledger: Ledger):
    ledger.record("s", "a", ABORTED)
    ledger.record("s", "a", FINISHED)
    assert ledger.report("s", "a") == FINISHED


def test_a_sweep_that_begins_again_stays_the_one_it_was(ledger: Ledger, client: "redis.Redis"):
    ledger.begin("s", ["a"], started=STARTED, dry_run=False)
    ledger.record("s", "a", FINISHED)
    ledger.begin("s", ["a"], started=STARTED.replace(hour=9), dry_run=False)
    assert client.hget("cni-cleanup:sweep:s:meta", "started") == b"2026-11-23T08:00:00+00:00"
    assert ledger.progress("s").complete


def test_everything_of_a_sweep_is_forgotten_after_thirty_days(ledger: Ledger, client: "redis.Redis"):
    ledger.begin("s", ["a"], started=STARTED, dry_run=True)
    ledger.record("s", "a", FINISHED)
    keys = set(client.scan_iter())
    assert keys == {b"cni-cleanup:sweep:s", b"cni-cleanup:sweep:s:expected", b"cni-cleanup:sweep:s:meta"}
    assert KEPT_FOR == 30 * 24 * 3600
    assert all(KEPT_FOR - 60 < int(client.ttl(key)) <= KEPT_FOR for key in keys)
