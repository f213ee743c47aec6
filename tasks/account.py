"""
The account of a sweep: what the ledger's entries mean, as the document that `tasks.report` and `cni-cleanup report` give.

Pure: a snapshot and a time in, a document out.
"""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Literal

from tasks.celery_app import VISIBILITY_TIMEOUT
from tasks.ledger import Facts, Snapshot, Summary

SCHEMA = "cni-cleanup/sweep/1"

ALIVE_FOR = 180.0
"""Seconds after its last sign of life, one a minute, for which a worker counts as there. Clocks may differ by as much."""

ANSWERS_WITHIN = VISIBILITY_TIMEOUT + 1800
"""Seconds for which answers are waited for after the last node was asked: a job whose worker was killed comes again after the
visibility timeout."""

State = Literal["running", "complete", "incomplete"]
NodeState = Literal["cleaned", "failed", "missed", "discarded", "waiting"]

NODE_STATES: tuple[NodeState, ...] = ("cleaned", "failed", "missed", "discarded", "waiting")
"""Of a sweep that is over no node is `waiting`."""

COUNTED = ("keep", "undecided", "leaked", "removed")
"""Of the reservations of a node's networks."""


def state(sweep: Snapshot, *, now: float) -> State:
    """Whether a sweep still runs; `complete` where every node has answered, be it with a failure.

    It runs while nodes are being asked, or one that has not answered has a worker; not for a node that is down, whose job waits.
    One that is over becomes complete when the last node answers after all.
    """
    facts = sweep.facts
    if facts.error is not None:
        return "incomplete"
    left = silent(sweep)
    # Which nodes it was about may be forgotten before the rest of it is: of those it cannot be said that all have answered.
    if facts.all_asked is not None and sweep.expected and not left:
        return "complete"
    if facts.stopped is not None or now >= deadline(facts):
        return "incomplete"
    if facts.all_asked is None or any(has_worker(sweep, node, now=now) for node in left):
        return "running"
    return "incomplete"


def deadline(facts: Facts) -> float:
    """Until when answers are waited for: also of a sweep that died before it knew its nodes, which would else run for ever."""
    return facts.started + ANSWERS_WITHIN if facts.until is None else facts.until


def has_worker(sweep: Snapshot, node: str, *, now: float) -> bool:
    """Whether the worker of a node that has not reported is there."""
    return abs(now - sweep.seen.get(node, 0.0)) < ALIVE_FOR


def document(sweep: Snapshot, *, now: float) -> dict[str, Any]:
    """The account of a sweep, in the form of `cni-cleanup/sweep/1`."""
    facts = sweep.facts
    what = state(sweep, now=now)
    nodes = [_node(sweep, node, ended=what != "running", now=now) for node in sorted(sweep.expected | sweep.reports.keys())]
    counts = Counter(node["state"] for node in nodes)
    return {
        "schema": SCHEMA,
        "sweep_id": facts.sweep_id,
        "state": what,
        "started": _time(facts.started),
        "asked": _time(facts.all_asked),
        "stopped": _time(facts.stopped),
        "error": facts.error,
        "dry_run": facts.dry_run,
        "selector": facts.selector,
        "expected": len(sweep.expected),
        **{name: counts[name] for name in NODE_STATES},
        "without_worker": sum(1 for node in nodes if node["worker"] is False and node["node"] in sweep.asked),
        "skipped": dict(facts.skipped),
        "totals": {name: sum(node[name] or 0 for node in nodes) for name in ("reservations", *COUNTED)},
        "nodes": nodes,
    }


def is_good(account: dict[str, Any]) -> bool:
    """Whether every node of a sweep was cleaned, also those that answered though the sweep did not expect them."""
    return account["state"] == "complete" and all(node["state"] == "cleaned" for node in account["nodes"])


def _node(sweep: Snapshot, node: str, *, ended: bool, now: float) -> dict[str, Any]:
    report = sweep.reports.get(node)
    row: dict[str, Any] = {"node": node, "state": "waiting", "why": None, "worker": None, "seconds": None, "pass_id": None}
    row |= dict.fromkeys(("reservations", *COUNTED))
    if report is not None:
        try:
            return row | _reported(report, dry_run=sweep.facts.dry_run)
        except (KeyError, TypeError, ValueError, AttributeError):
            # One of them must not hide all the others.
            return row | {"state": "failed", "why": "its report cannot be understood: is its worker of another version?"}
    sign = sweep.signs.get(node)
    if sign is not None and sign.what in ("failed", "discarded"):
        return row | {"state": sign.what, "why": sign.why}
    row["worker"] = has_worker(sweep, node, now=now)
    row["why"] = _whysilent(sweep, node, now=now)
    return row | {"state": "missed" if ended else "waiting"}


def _reported(report: Summary, *, dry_run: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"pass_id": report["pass_id"], "seconds": _seconds(report["started"], report["finished"])}
    networks = [network for network in report["networks"] if network["problem"] != "skipped"]
    # A pass that was aborted before it asked any witness has counted nothing.
    if report["aborted"] is None or report.get("witnesses"):
        row |= {name: sum(network[name] for network in networks) for name in ("reservations", *COUNTED)}
    why = "; ".join(failures(report, dry_run=dry_run))
    return row | {"state": "failed" if why else "cleaned", "why": why or None}


def failures(report: Summary, *, dry_run: bool) -> Iterator[str]:
    """Why a node that reported is not clean, in sentences: something went wrong, or a leak that was found is still there.

    In a sweep that asked for a `dry_run` leaks are left as they should be.
    """
    if report["aborted"] is not None:
        yield f"aborted ({report['aborted']['reason']}): {report['aborted']['detail']}"
    # An older worker tells no outcomes: of the reservations it can be reckoned.
    outcomes = report["outcomes"] if "outcomes" in report else _outcomes_of_older(report)
    if outcomes.get("failed"):
        yield f"{_leaked_files(outcomes['failed'])} could not be removed"
    if outcomes.get("dry-run") and not dry_run:
        yield f"{_left(outcomes['dry-run'])}: its own settings have the dry run on"
    if outcomes.get("over-limit"):
        yield f"{_left(outcomes['over-limit'])}: more than its own --max-remove"
    for network in report["networks"]:
        if network["problem"] == "unreadable":
            yield f"network {network['name']} cannot be read"
        elif network["problem"] == "refused" and network["reservations"]:
            yield f"network {network['name']} was refused: nobody can explain the address of a pod that runs in it"


def _leaked_files(count: int) -> str:
    return f"{count} leaked {'file' if count == 1 else 'files'}"


def _left(count: int) -> str:
    return f"{_leaked_files(count)} {'was' if count == 1 else 'were'} left"


def _outcomes_of_older(report: Summary) -> dict[str, int]:
    left = sum(network["leaked"] - network["removed"] for network in report["networks"] if network["problem"] != "skipped")
    if report["policy"]["dry_run"]:
        return {"dry-run": left}
    # What the plugin itself freed meanwhile is no failure, and looks the same: only a network that could not be worked on is one.
    could_not = any(network["problem"] not in (None, "skipped") for network in report["networks"])
    return {"failed": left} if could_not else {}


def _whysilent(sweep: Snapshot, node: str, *, now: float) -> str:
    sign = sweep.signs.get(node)
    if sign is not None and sign.what == "stopped":
        return "its job met the stop switch" + (f"; {sign.why}" if sign.why else "")
    if sign is None and node not in sweep.asked:
        return "not asked" if _is_over(sweep.facts, now) else "not asked yet"
    if not has_worker(sweep, node, now=now):
        last = _time(sweep.seen.get(node))
        there = "no worker has ever been there" if last is None else f"its worker was last there {last}"
        return there if sign is None else f"{there}; its job had begun {_time(sign.at)}"
    return "its worker is there and has not begun" if sign is None else f"its job began {_time(sign.at)} and has not ended"


def _is_over(facts: Facts, now: float) -> bool:
    return facts.stopped is not None or facts.error is not None or now >= deadline(facts)


def silent(sweep: Snapshot) -> set[str]:
    """The nodes of which neither a report nor an end of their job is known."""
    ended = {node for node, sign in sweep.signs.items() if sign.what in ("failed", "discarded")}
    return set(sweep.expected - sweep.reports.keys() - ended)


def _time(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _seconds(started: str, finished: str) -> float:
    return round((datetime.fromisoformat(finished) - datetime.fromisoformat(started)).total_seconds(), 3)
