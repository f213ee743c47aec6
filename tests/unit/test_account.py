"""The account of a sweep: it never calls a node cleaned that was not, nor a sweep complete that is not."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.account import ALIVE_FOR, ANSWERS_WITHIN, NODE_STATES, document, is_good, state
from tasks.ledger import Facts, Sign, Snapshot

STARTED = 1_795_420_800.0
UNTIL = STARTED + 9000
NOW = STARTED + 100
ALIVE = NOW - 30
GONE = NOW - ALIVE_FOR - 1

FACTS = Facts(sweep_id="s", started=STARTED, dry_run=False, until=UNTIL, all_asked=STARTED + 10)


def network(name: str = "cbr0", **changes: Any) -> dict[str, Any]:
    """One network of a report in which two leaks were found and both went."""
    numbers = {"reservations": 10, "capacity": 253, "keep": 5, "undecided": 3, "leaked": 2, "removed": 2}
    return {"name": name, "problem": None, **numbers, **changes}


def report(*networks: Mapping[str, Any], dry_run: bool = False, **changes: Any) -> dict[str, Any]:
    """What a node answers whose pass ran to its end."""
    return {
        "pass_id": "p",
        "started": "2026-11-23T08:00:00.000Z",
        "finished": "2026-11-23T08:01:01.500Z",
        "policy": {"dry_run": dry_run},
        "aborted": None,
        "networks": list(networks or (network(),)),
        "outcomes": {"removed": 4},
        **changes,
    }


ABORTED = report(aborted={"reason": "hold", "detail": "a hold is there"}, networks=[], outcomes={})


def snapshot(
    *nodes: str,
    facts: Facts = FACTS,
    asked: frozenset[str] | None = None,
    reports: Mapping[str, Any] | None = None,
    signs: Mapping[str, Sign] | None = None,
    seen: Mapping[str, float] | None = None,
) -> Snapshot:
    """A sweep over `nodes`, all of which were asked."""
    return Snapshot(
        facts=facts,
        expected=frozenset(nodes),
        asked=frozenset(nodes) if asked is None else asked,
        reports=reports or {},
        signs=signs or {},
        seen=seen or {},
    )


def only_node(sweep: Snapshot, *, now: float = NOW) -> dict[str, Any]:
    """The row of the one node."""
    (row,) = document(sweep, now=now)["nodes"]
    assert isinstance(row, dict)
    return row


class TestStateOfTheSweep:
    def test_it_runs_while_nodes_are_being_asked(self):
        assert state(snapshot("a", facts=replace(FACTS, all_asked=None), asked=frozenset()), now=NOW) == "running"

    def test_it_runs_while_a_node_that_has_not_answered_has_a_worker(self):
        sweep = snapshot("a", "b", reports={"a": report()}, seen={"b": ALIVE})
        assert state(sweep, now=NOW) == "running"

    @pytest.mark.parametrize("seen", [{}, {"b": GONE}], ids=["never there", "gone"])
    def test_it_does_not_wait_for_a_node_without_a_worker(self, seen: dict[str, float]):
        assert state(snapshot("a", "b", reports={"a": report()}, seen=seen), now=NOW) == "incomplete"

    def test_it_is_complete_when_every_node_has_answered(self):
        assert state(snapshot("a", "b", reports={"a": report(), "b": report()}), now=NOW) == "complete"

    @pytest.mark.parametrize("answer", ["failed", "discarded"])
    def test_a_job_that_failed_or_came_too_late_is_an_answer(self, answer: Any):
        sweep = snapshot("a", "b", reports={"a": ABORTED}, signs={"b": Sign(what=answer, at=NOW)})
        assert state(sweep, now=NOW) == "complete"

    @pytest.mark.parametrize("answer", ["begun", "stopped"])
    def test_a_job_that_has_begun_or_met_the_stop_switch_is_none(self, answer: Any):
        assert state(snapshot("a", signs={"a": Sign(what=answer, at=NOW)}), now=NOW) == "incomplete"

    def test_it_is_not_complete_before_every_node_was_asked(self):
        """The nodes that have answered may be all that are known so far."""
        assert state(snapshot("a", facts=replace(FACTS, all_asked=None), reports={"a": report()}), now=NOW) == "running"

    def test_an_answer_of_a_node_that_was_not_expected_completes_nothing(self):
        assert state(snapshot("a", reports={"stranger": report()}), now=NOW) == "incomplete"

    def test_one_whose_nodes_are_forgotten_is_not_complete(self):
        sweep = snapshot(facts=FACTS)
        assert state(sweep, now=NOW) == "incomplete"
        assert not is_good(document(sweep, now=NOW))

    @pytest.mark.parametrize(
        ("changes", "now"),
        [
            pytest.param({"stopped": NOW}, NOW, id="stopped"),
            pytest.param({"error": "the API is away", "all_asked": None}, NOW, id="failed"),
            pytest.param({}, UNTIL, id="its time is over"),
            pytest.param({"until": None, "all_asked": None}, STARTED + ANSWERS_WITHIN, id="died before it knew its nodes"),
        ],
    )
    def test_it_is_incomplete_when_it_ended_before_the_answers(self, changes: dict[str, Any], now: float):
        sweep = snapshot("a", facts=replace(FACTS, **changes), seen={"a": now})
        assert state(sweep, now=now) == "incomplete"
        assert only_node(sweep, now=now)["state"] == "missed"

    def test_it_runs_while_its_nodes_are_being_found_out(self):
        assert state(snapshot(facts=replace(FACTS, until=None, all_asked=None)), now=NOW) == "running"

    @pytest.mark.parametrize("changes", [{}, {"stopped": NOW}], ids=["time is over", "stopped"])
    def test_late_answers_complete_one_that_was_incomplete(self, changes: dict[str, Any]):
        facts = replace(FACTS, **changes)
        assert state(snapshot("a", facts=facts), now=UNTIL + 1) == "incomplete"
        assert state(snapshot("a", facts=facts, reports={"a": report()}), now=UNTIL + 1) == "complete"

    def test_reports_that_were_not_read_count_as_answers(self):
        """As the ledger gives them to who only wants the state."""
        assert state(snapshot("a", reports={"a": {}}), now=NOW) == "complete"


class TestNodeThatReported:
    def test_it_is_cleaned_when_its_pass_ran_to_the_end_and_no_leak_is_left(self):
        row = only_node(snapshot("a", reports={"a": report()}))
        assert (row["state"], row["why"], row["worker"]) == ("cleaned", None, None)
        assert (row["pass_id"], row["seconds"]) == ("p", 61.5)

    @pytest.mark.parametrize(
        ("answer", "why"),
        [
            pytest.param(ABORTED, "aborted (hold): a hold is there", id="aborted"),
            pytest.param(report(outcomes={"removed": 1, "failed": 3}), "3 leaked files could not be removed", id="files failed"),
            pytest.param(
                report(network(), network("net1", problem="unreadable")), "network net1 cannot be read", id="unreadable network"
            ),
            pytest.param(
                report(network(problem="refused", removed=0, leaked=0), outcomes={}),
                "network cbr0 was refused: nobody can explain the address of a pod that runs in it",
                id="refused network",
            ),
            pytest.param(
                report(dry_run=True, outcomes={"dry-run": 4}),
                "4 leaked files were left: its own settings have the dry run on",
                id="its own dry run",
            ),
            pytest.param(
                report(outcomes={"removed": 5, "over-limit": 2}),
                "2 leaked files were left: more than its own --max-remove",
                id="more than it may remove",
            ),
        ],
    )
    def test_it_failed_when_something_went_wrong_or_a_leak_is_left(self, answer: dict[str, Any], why: str):
        sweep = snapshot("a", reports={"a": answer})
        row = only_node(sweep)
        assert (row["state"], row["why"]) == ("failed", why)
        assert not is_good(document(sweep, now=NOW))

    def test_all_that_went_wrong_is_told(self):
        answer = report(network("net1", problem="unreadable"), outcomes={"failed": 1})
        row = only_node(snapshot("a", reports={"a": answer}))
        assert row["why"] == "1 leaked file could not be removed; network net1 cannot be read"

    def test_files_that_went_or_changed_by_themselves_are_no_failure(self):
        row = only_node(snapshot("a", reports={"a": report(outcomes={"removed": 1, "gone": 2, "changed": 1})}))
        assert row["state"] == "cleaned"

    def test_a_refused_network_without_a_reservation_is_no_failure(self):
        empty = network("net1", problem="refused", reservations=0, keep=0, undecided=0, leaked=0, removed=0)
        assert only_node(snapshot("a", reports={"a": report(network(), empty)}))["state"] == "cleaned"

    def test_in_a_dry_sweep_it_did_what_it_was_asked_for(self):
        answer = report(network(removed=0), dry_run=True, outcomes={"dry-run": 4})
        sweep = snapshot("a", facts=replace(FACTS, dry_run=True), reports={"a": answer})
        assert only_node(sweep)["state"] == "cleaned"
        account = document(sweep, now=NOW)
        assert account["dry_run"] is True
        assert (account["totals"]["leaked"], account["totals"]["removed"]) == (2, 0)

    def test_its_report_counts_for_more_than_what_a_second_message_met(self):
        signs = {"a": Sign(what="discarded", at=NOW, why="it was taken after it had expired")}
        assert only_node(snapshot("a", reports={"a": report()}, signs=signs))["state"] == "cleaned"

    @pytest.mark.parametrize(
        ("networks", "dry_run", "expected"),
        [
            pytest.param([network()], False, "cleaned", id="nothing left"),
            pytest.param([network(leaked=3)], False, "cleaned", id="one that the plugin freed"),
            pytest.param([network(problem="lock-busy", removed=0)], False, "failed", id="lock busy"),
            pytest.param([network(problem="read-only", removed=0)], False, "failed", id="read-only"),
            pytest.param([network(problem="no-lock", removed=0, leaked=0)], False, "cleaned", id="nothing allocated"),
            pytest.param([network(removed=0)], True, "failed", id="its own dry run"),
            pytest.param([network(removed=0, leaked=0)], True, "cleaned", id="its own dry run, nothing leaked"),
        ],
    )
    def test_an_older_worker_tells_no_outcomes(self, networks: list[dict[str, Any]], dry_run: bool, expected: str):
        answer = report(*networks, dry_run=dry_run)
        del answer["outcomes"]
        assert only_node(snapshot("a", reports={"a": answer}))["state"] == expected


class TestNodeThatDidNot:
    @pytest.mark.parametrize("what", ["failed", "discarded"])
    def test_it_is_told_what_celery_knows_of_its_job(self, what: Any):
        sweep = snapshot("a", signs={"a": Sign(what=what, at=NOW, why="WorkerLostError: killed")}, seen={"a": ALIVE})
        row = only_node(sweep)
        assert (row["state"], row["why"]) == (what, "WorkerLostError: killed")
        assert not is_good(document(sweep, now=NOW))

    @pytest.mark.parametrize(
        ("changes", "why", "worker"),
        [
            pytest.param({}, "no worker has ever been there", False, id="never a worker"),
            pytest.param({"seen": {"a": GONE}}, "its worker was last there 2026-11-23T07:58:39Z", False, id="a worker that left"),
            pytest.param(
                {"seen": {"a": GONE}, "signs": {"a": Sign(what="begun", at=STARTED + 20)}},
                "its worker was last there 2026-11-23T07:58:39Z; its job had begun 2026-11-23T08:00:20Z",
                False,
                id="a worker that left in the middle",
            ),
            pytest.param(
                {"facts": replace(FACTS, stopped=NOW), "asked": frozenset(), "seen": {"a": ALIVE}},
                "not asked",
                True,
                id="never asked",
            ),
            pytest.param(
                {
                    "facts": replace(FACTS, stopped=NOW),
                    "asked": frozenset(),
                    "signs": {"a": Sign(what="stopped", at=NOW)},
                    "seen": {"a": ALIVE},
                },
                "its job met the stop switch",
                True,
                id="stopped",
            ),
            pytest.param(
                {"facts": replace(FACTS, until=NOW), "signs": {"a": Sign(what="begun", at=STARTED + 20)}, "seen": {"a": ALIVE}},
                "its job began 2026-11-23T08:00:20Z and has not ended",
                True,
                id="begun and never ended",
            ),
            pytest.param(
                {"facts": replace(FACTS, until=NOW), "seen": {"a": ALIVE}},
                "its worker is there and has not begun",
                True,
                id="never begun",
            ),
        ],
    )
    def test_of_a_sweep_that_is_over_it_is_missed(self, changes: dict[str, Any], why: str, worker: bool):
        sweep = snapshot("a", **changes)
        account = document(sweep, now=NOW)
        (row,) = account["nodes"]
        assert (row["state"], row["why"], row["worker"]) == ("missed", why, worker)
        assert account["without_worker"] == (not worker)
        assert not is_good(account)

    @pytest.mark.parametrize(
        ("changes", "why"),
        [
            pytest.param({"facts": replace(FACTS, all_asked=None), "asked": frozenset()}, "not asked yet", id="not asked yet"),
            pytest.param({"seen": {"a": ALIVE}}, "its worker is there and has not begun", id="not begun"),
            pytest.param(
                {"signs": {"a": Sign(what="begun", at=STARTED)}, "seen": {"a": ALIVE}},
                "its job began 2026-11-23T08:00:00Z and has not ended",
                id="begun",
            ),
            pytest.param(
                {
                    "facts": replace(FACTS, all_asked=None),
                    "asked": frozenset(),
                    "signs": {"a": Sign(what="begun", at=STARTED)},
                    "seen": {"a": ALIVE},
                },
                "its job began 2026-11-23T08:00:00Z and has not ended",
                id="begun before it was noted that it was asked",
            ),
        ],
    )
    def test_of_a_sweep_that_runs_it_is_waited_for(self, changes: dict[str, Any], why: str):
        row = only_node(snapshot("a", **changes))
        assert (row["state"], row["why"]) == ("waiting", why)


class TestSums:
    def test_the_totals_leave_networks_out_that_the_pass_left_out(self):
        reports = {"a": report(network(), network("net1", problem="skipped")), "b": report(network("net2", undecided=4))}
        totals = document(snapshot("a", "b", reports=reports), now=NOW)["totals"]
        assert totals == {"reservations": 20, "keep": 10, "undecided": 7, "leaked": 4, "removed": 4}

    def test_a_node_that_did_not_report_adds_nothing(self):
        account = document(snapshot("a", "b", reports={"a": report()}), now=NOW)
        assert account["totals"]["reservations"] == 10
        assert [node["reservations"] for node in account["nodes"]] == [10, None]

    def test_the_facts_of_the_sweep_are_told(self):
        facts = replace(FACTS, dry_run=True, selector="pool=a", skipped={"w": "runs windows"}, stopped=STARTED + 20)
        account = document(snapshot("a", facts=facts), now=NOW)
        told = {name: account[name] for name in ("schema", "sweep_id", "started", "asked", "stopped", "error", "selector")}
        assert told == {
            "schema": "cni-cleanup/sweep/1",
            "sweep_id": "s",
            "started": "2026-11-23T08:00:00Z",
            "asked": "2026-11-23T08:00:10Z",
            "stopped": "2026-11-23T08:00:20Z",
            "error": None,
            "selector": "pool=a",
        }
        assert account["skipped"] == {"w": "runs windows"}


class TestIsGood:
    def test_every_node_cleaned_is_good(self):
        assert is_good(document(snapshot("a", "b", reports={"a": report(), "b": report()}), now=NOW))

    def test_a_stranger_that_was_cleaned_does_not_stand_in_for_a_node_that_failed(self):
        sweep = snapshot("a", "b", reports={"a": report(), "b": ABORTED, "stranger": report()})
        account = document(sweep, now=NOW)
        assert (account["state"], account["cleaned"], account["expected"]) == ("complete", 2, 2)
        assert not is_good(account)

    def test_nodes_cleaned_so_far_are_not_all(self):
        assert not is_good(document(snapshot("a", facts=replace(FACTS, all_asked=None), reports={"a": report()}), now=NOW))


_TIMES = st.sampled_from([STARTED, NOW - ALIVE_FOR, NOW, UNTIL, UNTIL + 1])
_NODES = ("a", "b", "c", "stranger")
_REPORTS = st.sampled_from([report(), ABORTED, report(outcomes={"failed": 1}), report(network(problem="unreadable"))])
_SIGNS = st.builds(Sign, what=st.sampled_from(["begun", "failed", "discarded", "stopped"]), at=_TIMES)
_SNAPSHOTS = st.builds(
    Snapshot,
    facts=st.builds(
        Facts,
        sweep_id=st.just("s"),
        started=st.just(STARTED),
        dry_run=st.booleans(),
        until=st.none() | st.just(UNTIL),
        all_asked=st.none() | st.just(STARTED + 10),
        stopped=st.none() | st.just(NOW),
        error=st.none() | st.just("why"),
    ),
    expected=st.frozensets(st.sampled_from(_NODES[:3])),
    asked=st.frozensets(st.sampled_from(_NODES[:3])),
    reports=st.dictionaries(st.sampled_from(_NODES), _REPORTS),
    signs=st.dictionaries(st.sampled_from(_NODES), _SIGNS),
    seen=st.dictionaries(st.sampled_from(_NODES[:3]), _TIMES),
)


@given(_SNAPSHOTS, _TIMES)
def test_whatever_is_known_no_account_says_more_than_was_done(sweep: Snapshot, now: float):
    account = document(sweep, now=now)
    states = {row["node"]: row["state"] for row in account["nodes"]}
    assert states.keys() == sweep.expected | sweep.reports.keys()
    assert sum(account[name] for name in NODE_STATES) == len(states)
    assert {node for node, what in states.items() if what == "cleaned"} == {
        node for node, one in sweep.reports.items() if one == report()
    }
    if account["state"] == "complete":
        assert sweep.facts.all_asked is not None
        assert sweep.expected
        assert sweep.expected <= {node for node, what in states.items() if what in ("cleaned", "failed", "discarded")}
    if account["state"] != "running":
        assert "waiting" not in states.values()
    else:
        assert now < UNTIL or sweep.facts.until is None
    assert not is_good(account) or set(states.values()) == {"cleaned"}
