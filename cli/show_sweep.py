"""Sweeps as a person reads them."""

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cli.show import MOST_ROWS, new_table, print_table, printable, say
from tasks.ledger import Snapshot

_COLOURS = {"cleaned": "green", "failed": "red", "missed": "red", "discarded": "yellow", "waiting": "yellow"}
_NUMBERS = ("reserved", "keep", "undecided", "leaked", "removed")
_URGENCY = {"failed": 0, "missed": 1, "discarded": 2, "waiting": 3, "cleaned": 4}


def counts(sweep: Snapshot) -> str:
    """What to say of a running sweep beside its bar."""
    left = len(sweep.expected) - len(sweep.asked)
    return f"{left} not asked yet" if left else "all asked"


def show_account(console: Console, account: Mapping[str, Any]) -> None:
    """A table of the nodes, those first that need a person; then the sums."""
    rows = sorted(account["nodes"], key=lambda node: (_URGENCY[node["state"]], node["node"]))
    if rows:
        _show_nodes(console, rows)
    for why, nodes in _by_reason(account["skipped"]):
        say(console, f"left out: {_some(nodes)} ({why})")
    say(console, _sums(account))
    if account["error"]:
        say(console, f"it went no further: {account['error']}")
    if account["stopped"]:
        say(console, f"it was stopped {account['stopped']}: cni-cleanup job --resume lets it go on")
    if account["without_worker"]:
        say(
            console,
            f"{account['without_worker']} without a worker: is the worker's pod running there? Their jobs wait for six days",
        )


def show_list(console: Console, accounts: Iterable[Mapping[str, Any]]) -> None:
    """One line a sweep."""
    shown = new_table("sweeps")
    for column in ("sweep", "started", "state", "expected", "cleaned", "failed", "missed", "discarded", "removed"):
        shown.add_column(column, justify="left" if column in ("sweep", "started", "state") else "right", no_wrap=True)
    for one in accounts:
        state = one["state"] + (" (dry run)" if one["dry_run"] else "")
        numbers = (str(one[name]) for name in ("expected", "cleaned", "failed", "missed", "discarded"))
        shown.add_row(one["sweep_id"], one["started"], state, *numbers, str(one["totals"]["removed"]))
    print_table(console, shown)


def _show_nodes(console: Console, rows: list[dict[str, Any]]) -> None:
    shown = new_table("nodes")
    _add_columns(shown)
    for row in rows[:MOST_ROWS]:
        numbers = ("" if row[name] is None else str(row[name]) for name in ("reservations", *_NUMBERS[1:]))
        state = f"[{_COLOURS[row['state']]}]{row['state']}[/]"
        took = "" if row["seconds"] is None else f"{row['seconds']:.0f} s"
        shown.add_row(row["node"], state, *numbers, took, escape(printable(row["why"] or "")))
    print_table(console, shown)
    if len(rows) > MOST_ROWS:
        say(console, f"... and {len(rows) - MOST_ROWS} more: --json has them all")


def _add_columns(shown: Table) -> None:
    shown.add_column("node", no_wrap=True)
    shown.add_column("state", no_wrap=True)
    for name in _NUMBERS:
        shown.add_column(name, justify="right", no_wrap=True)
    shown.add_column("took", justify="right", no_wrap=True)
    shown.add_column("why", overflow="fold")


def _sums(account: Mapping[str, Any]) -> str:
    kinds = ("cleaned", "failed", "missed", "discarded", "waiting")
    nodes = ", ".join(f"{account[kind]} {kind}" for kind in kinds if account[kind] or kind == "cleaned")
    removed = f"{account['totals']['removed']} reservations removed of {account['totals']['leaked']} leaked"
    dry = " (dry run)" if account["dry_run"] else ""
    return f"sweep {account['sweep_id']}, {account['state']}{dry}: {nodes} of {account['expected']} nodes; {removed}"


def _by_reason(skipped: Mapping[str, str]) -> list[tuple[str, list[str]]]:
    reasons: dict[str, list[str]] = {}
    for node, why in sorted(skipped.items()):
        reasons.setdefault(why, []).append(node)
    return sorted(reasons.items())


def _some(nodes: list[str]) -> str:
    rest = f" and {len(nodes) - 5} more" if len(nodes) > 5 else ""
    return ", ".join(nodes[:5]) + rest
