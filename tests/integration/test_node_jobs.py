"""A node's job for a sweep, done in this process: what was done is not done again, and the stop switch stops."""

import contextlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis

from tasks import app
from tasks.ledger import Facts, Ledger
from tasks.node_tasks import clean_node
from tests.support.nodetree import NODE, LaterClock, NodeTree, remaining
from tests.support.polling import until
from workers import node
from workers.state import State

MANY = 150
"""Leaks, in three batches."""


@pytest.fixture
def ledger(redis_url: str) -> Iterator[Ledger]:
    with contextlib.closing(redis.Redis.from_url(redis_url)) as client:
        yield Ledger(client)


@pytest.fixture
def tree(tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> NodeTree:
    """A node with a live pod and a leak, whose worker this process is."""
    tree = NodeTree(tmp_path)
    tree.live("live", "10.88.0.2")
    tree.dead("dead", "10.88.0.3")
    settings = tree.settings(min_age=0.0, confirm_after=0.0, broker=redis_url)
    monkeypatch.setattr(app, "_settings", settings)
    return tree


def begin(ledger: Ledger, sweep_id: str) -> None:
    """Note a sweep over this node."""
    ledger.begin(Facts(sweep_id=sweep_id, started=1_795_420_800.0, dry_run=False))
    ledger.expect(sweep_id, [NODE], skipped={}, until=1_795_429_800.0)
    ledger.note_asked(sweep_id, [NODE])


def sign_of(ledger: Ledger, sweep_id: str) -> str | None:
    snapshot = ledger.snapshot(sweep_id)
    assert snapshot is not None
    sign = snapshot.signs.get(NODE)
    return None if sign is None else sign.what


class TestWhatWasDone:
    def test_it_is_noted_by_the_node_and_in_the_ledger(self, tree: NodeTree, ledger: Ledger):
        begin(ledger, "s")
        report = clean_node(NODE, sweep_id="s")
        assert remaining(tree) == {"cbr0/10.88.0.2"}
        assert ledger.report("s", NODE) == report == json.loads((tree.state / "swept.json").read_text())
        assert sign_of(ledger, "s") is None

    def test_the_report_in_the_ledger_is_the_answer_to_a_repeated_message(self, tree: NodeTree, ledger: Ledger):
        begin(ledger, "s")
        before = {"node": NODE, "sweep_id": "s", "aborted": None, "pass_id": "1"}
        ledger.record("s", NODE, before)
        assert clean_node(NODE, sweep_id="s") == before
        assert remaining(tree) == {"cbr0/10.88.0.2", "cbr0/10.88.0.3"}

    def test_what_the_node_noted_is_the_answer_where_the_ledger_has_none(self, tree: NodeTree, ledger: Ledger):
        """Its worker was killed between the two."""
        begin(ledger, "s")
        before = {"node": NODE, "sweep_id": "s", "aborted": None, "pass_id": "1"}
        tree.state.mkdir()
        (tree.state / "swept.json").write_text(json.dumps(before))
        assert clean_node(NODE, sweep_id="s") == before
        assert ledger.report("s", NODE) == before
        assert remaining(tree) == {"cbr0/10.88.0.2", "cbr0/10.88.0.3"}

    @pytest.mark.parametrize("where", ["ledger", "state"])
    @pytest.mark.parametrize(
        "other",
        [
            pytest.param({"node": "another"}, id="of another node"),
            pytest.param({"sweep_id": "another"}, id="of another sweep"),
            pytest.param({"aborted": {"reason": "hold", "detail": "held"}}, id="of an aborted pass"),
            pytest.param({"policy": {"dry_run": True}}, id="of a dry run"),
        ],
    )
    def test_a_report_that_is_not_the_jobs_own_is_no_answer(
        self, tree: NodeTree, ledger: Ledger, where: str, other: dict[str, Any]
    ):
        """Two workers may share a state directory, and somebody may have asked this node for a dry run before."""
        begin(ledger, "s")
        before = {"node": NODE, "sweep_id": "s", "aborted": None, "pass_id": "1", **other}
        if where == "ledger":
            ledger.record("s", NODE, before)
        else:
            tree.state.mkdir()
            (tree.state / "swept.json").write_text(json.dumps(before))
        report = clean_node(NODE, sweep_id="s")
        assert report["outcomes"]["removed"] > 0
        assert remaining(tree) == {"cbr0/10.88.0.2"}

    def test_a_dry_run_is_an_answer_to_a_dry_run(self, tree: NodeTree, ledger: Ledger):
        begin(ledger, "s")
        report = clean_node(NODE, dry_run=True, sweep_id="s")
        assert clean_node(NODE, dry_run=True, sweep_id="s") == report
        assert remaining(tree) == {"cbr0/10.88.0.2", "cbr0/10.88.0.3"}

    @pytest.mark.parametrize(
        "content", [pytest.param('{"sweep_id": "t", "aborted": null}', id="of another sweep"), "{", "[]", "null", "7"]
    )
    def test_what_it_noted_of_another_sweep_or_nobody_can_read_is_none(self, tree: NodeTree, ledger: Ledger, content: str):
        begin(ledger, "s")
        tree.state.mkdir()
        (tree.state / "swept.json").write_text(content)
        assert clean_node(NODE, sweep_id="s")["outcomes"]["removed"] > 0
        assert remaining(tree) == {"cbr0/10.88.0.2"}

    def test_a_pass_that_was_aborted_is_made_again(self, tree: NodeTree, ledger: Ledger):
        begin(ledger, "s")
        tree.state.mkdir()
        hold = tree.state / "hold"
        hold.touch()
        report = clean_node(NODE, sweep_id="s")
        assert report["aborted"]["reason"] == "hold"
        assert ledger.report("s", NODE) == report
        assert not (tree.state / "swept.json").exists()
        hold.unlink()
        again = clean_node(NODE, sweep_id="s")
        assert ledger.report("s", NODE) == again
        assert remaining(tree) == {"cbr0/10.88.0.2"}


class TestBesideAnotherPass:
    def test_it_waits_for_one_that_runs(self, tree: NodeTree, ledger: Ledger, caplog: pytest.LogCaptureFixture):
        begin(ledger, "s")
        caplog.set_level("WARNING")
        with ThreadPoolExecutor() as threads:
            with State(str(tree.state)).pass_lock():
                job = threads.submit(clean_node, NODE, sweep_id="s")
                until(lambda: "another pass holds" in caplog.text, what="the job that finds the node busy")
                assert not job.done()
                assert remaining(tree) == {"cbr0/10.88.0.2", "cbr0/10.88.0.3"}
            report = job.result(timeout=60)
        assert report["aborted"] is None
        assert ledger.report("s", NODE) == report
        assert remaining(tree) == {"cbr0/10.88.0.2"}

    def test_one_that_is_asked_for_by_hand_answers_at_once_that_the_node_is_busy(self, tree: NodeTree):
        with State(str(tree.state)).pass_lock():
            assert clean_node(NODE)["aborted"]["reason"] == "busy"


class TestTheStopSwitch:
    def test_a_job_of_a_stopped_sweep_is_not_begun(self, tree: NodeTree, ledger: Ledger):
        begin(ledger, "s")
        ledger.stop("s", at=1.0)
        assert clean_node(NODE, sweep_id="s") == {"node": NODE, "sweep_id": "s", "stopped": True}
        assert sign_of(ledger, "s") == "stopped"
        assert not (tree.state / "report.json").exists()
        assert remaining(tree) == {"cbr0/10.88.0.2", "cbr0/10.88.0.3"}

    def test_one_that_comes_in_the_middle_stops_before_the_next_batch(self, tmp_path: Path):
        tree = NodeTree(tmp_path)
        tree.live("live", "10.88.0.2")
        for number in range(MANY):
            tree.reservation(f"10.88.1.{number}", f"dead{number}")
        asked: list[int] = []

        def is_stopped() -> bool:
            asked.append(len(remaining(tree)))
            return len(asked) > 1

        report: Any = node.clean(tree.settings(), clock=LaterClock(3600.0), is_stopped=is_stopped)
        assert report.aborted is not None
        assert (report.aborted.reason, report.aborted.detail) == (
            "hold",
            "the sweep was stopped: what was not removed by then is left",
        )
        # Asked before each of two batches, of which the first was done.
        assert asked == [MANY + 1, MANY + 1 - report.count("removed")]
        assert 0 < report.count("removed") < MANY
        assert len(remaining(tree)) == asked[1]
