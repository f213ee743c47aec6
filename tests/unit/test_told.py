"""A job's result as a person meets it, in logs, events and Flower: one sentence; and as a program does: whole."""

from typing import Any

import pytest
from celery.utils.saferepr import saferepr
from kombu.utils.json import dumps, loads

from tasks.told import Told, sentence


def network(name: str, **values: Any) -> dict[str, Any]:
    row = {
        "name": name,
        "problem": None,
        "reservations": 0,
        "capacity": 253,
        "keep": 0,
        "undecided": 0,
        "leaked": 0,
        "removed": 0,
    }
    return row | values


def report(**values: Any) -> dict[str, Any]:
    whole: dict[str, Any] = {
        "node": "node-1",
        "pass_id": "P",
        "sweep_id": None,
        "aborted": None,
        "networks": [],
        "outcomes": {},
        "counts": [],
    }
    return whole | values


LEAKED = {"network": "cbr0", "verdict": "leaked", "reason": "absent", "outcome": None, "files": 6}


@pytest.mark.parametrize(
    ("told", "values"),
    [
        ("no leak; pass P", {}),
        (
            "files: 6 removed; cbr0: 12 reservations, 9 keep, 3 leaked, 3 removed; pass P",
            {
                "outcomes": {"removed": 6},
                "counts": [LEAKED],
                # One that holds nothing is not worth a word.
                "networks": [network("cbr0", reservations=12, keep=9, leaked=3, removed=3), network("cbr1")],
            },
        ),
        ("files: 2 removed, 1 could not be removed; pass P", {"outcomes": {"removed": 2, "failed": 1}, "counts": [LEAKED]}),
        ("files: 6 left by the dry run; pass P", {"outcomes": {"dry-run": 6}, "counts": [LEAKED]}),
        ("files: 6 leaked; pass P", {"counts": [LEAKED]}),
        ("aborted (busy): another pass runs; pass P", {"aborted": {"reason": "busy", "detail": "another pass runs"}}),
        (
            "aborted (stopped): as asked; files: 64 removed; pass P",
            {"aborted": {"reason": "stopped", "detail": "as asked"}, "outcomes": {"removed": 64}},
        ),
        ("no leak; cbr0: unreadable; pass P", {"networks": [network("cbr0", problem="unreadable")]}),
    ],
)
def test_a_report_is_told_in_one_sentence(told: str, values: dict[str, Any]):
    assert sentence(report(**values)) == told


def test_a_job_of_a_stopped_sweep_says_that_it_was_left_undone():
    assert sentence({"node": "node-1", "sweep_id": "s", "stopped": True}) == "left undone: the sweep was stopped"


def test_of_an_older_workers_report_nothing_is_made_up():
    older = report()
    del older["outcomes"], older["counts"]
    assert sentence(older) == "pass P"


def test_celery_shows_the_sentence_and_fetches_the_whole():
    result = Told(report(outcomes={"removed": 6}, counts=[LEAKED]))
    assert saferepr(result, 1024) == "files: 6 removed; pass P"
    assert loads(dumps({"result": result}))["result"] == result.data


@pytest.mark.parametrize("damaged", [{}, {"pass_id": "P", "aborted": {}, "networks": None}, report(outcomes=None)])
def test_what_cannot_be_told_is_shown_as_it_is(damaged: dict[str, Any]):
    assert saferepr(Told(damaged)) == repr(damaged)
