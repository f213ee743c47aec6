"""
The account of a sweep: what the ledger's entries mean, as the document that `tasks.report` and `cni-cleanup report` give.

Pure: a snapshot and a time in, a document out.
"""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Literal

from tasks.ledger import Facts, Snapshot, Summary

SCHEMA = "cni-cleanup/sweep/1"

ALIVE_FOR = 180.0
"""Seconds after its last sign of life, one a minute, for which a worker counts as there. Clocks may differ by as much."""

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
    if facts.all_asked is not None and not left:
        return "complete"
    if facts.stopped is not None or (facts.until is not None and now >= facts.until):
        return "incomplete"
    if facts.all_asked is None or any(has_worker(sweep, node, now=now) for node in left):
        return "running"
    return "incomplete"


def has_worker(sweep: Snapshot, node: str, *, now: float) -> bool:
    """Whether the worker of a node that has not reported is there."""
    return now - sweep.seen.get(node, 0.0) < ALIVE_FOR


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
        "without_worker": sum(1 for node in nodes if node["worker"] is False),
        "skipped": dict(facts.skipped),
        "totals": {name: sum(node[name] or 0 for node in nodes) for name in ("reservations", *COUNTED)},
        "nodes": nodes,
    }


def is_good(account: dict[str, Any]) -> bool:
    """Whether every node of a sweep was cleaned."""
    complete: bool = account["state"] == "complete" and account["cleaned"] == account["expected"]
    return complete


def _node(sweep: Snapshot, node: str, *, ended: bool, now: float) -> dict[str, Any]:
    report = sweep.reports.get(node)
    row: dict[str, Any] = {"node": node, "state": "waiting", "why": None, "worker": None, "seconds": None, "pass_id": None}
    row |= dict.fromkeys(("reservations", *COUNTED))
    if report is not None:
        return row | _reported(report)
    sign = sweep.signs.get(node)
    if sign is not None and sign.what in ("failed", "discarded"):
        return row | {"state": sign.what, "why": sign.why}
    row["worker"] = has_worker(sweep, node, now=now)
    row["why"] = _whysilent(sweep, node, now=now)
    return row | {"state": "missed" if ended else "waiting"}


def _reported(report: Summary) -> dict[str, Any]:
    row: dict[str, Any] = {"pass_id": report["pass_id"], "seconds": _seconds(report["started"], report["finished"])}
    networks = [network for network in report["networks"] if network["problem"] != "skipped"]
    row |= {name: sum(network[name] for network in networks) for name in ("reservations", *COUNTED)}
    why = "; ".join(_failures(report))
    return row | {"state": "failed" if why else "cleaned", "why": why or None}


def _failures(report: Summary) -> Iterator[str]:
    """Why a node that reported is not clean, in sentences."""
    if report["aborted"] is not None:
        yield f"aborted ({report['aborted']['reason']}): {report['aborted']['detail']}"
    failed = report.get("outcomes", {}).get("failed", 0)
    if failed:
        yield f"{failed} leaked files could not be removed"
    for network in report["networks"]:
        if network["problem"] == "unreadable":
            yield f"network {network['name']} cannot be read"


def _whysilent(sweep: Snapshot, node: str, *, now: float) -> str:
    sign = sweep.signs.get(node)
    if sign is not None and sign.what == "stopped":
        return "its job met the stop switch"
    if node not in sweep.asked:
        return "not asked" if _is_over(sweep.facts, now) else "not asked yet"
    if not has_worker(sweep, node, now=now):
        last = _time(sweep.seen.get(node))
        there = "no worker has ever been there" if last is None else f"its worker was last there {last}"
        return there if sign is None else f"{there}; its job had begun {_time(sign.at)}"
    return "its worker is there and has not begun" if sign is None else f"its job began {_time(sign.at)} and has not ended"


def _is_over(facts: Facts, now: float) -> bool:
    return facts.stopped is not None or facts.error is not None or (facts.until is not None and now >= facts.until)


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
