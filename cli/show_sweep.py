"""Sweeps as a person reads them."""

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape

from cli.show import MOST_ROWS, new_table, print_table, say
from cni.names import printable
from tasks import account as accounts
from tasks.ledger import Snapshot

_COLOURS = {"cleaned": "green", "failed": "red", "missed": "red", "discarded": "yellow", "waiting": "yellow"}
_URGENCY = {"failed": 0, "missed": 1, "discarded": 2, "waiting": 3, "cleaned": 4}

_MOST_CLEANED = 40
"""Rows above which the nodes that need nobody are left out of the table: those that do must stay in sight."""

_MOST_REASONS = 50
"""Lines of what is wrong; a common cause is one line."""

_NUMBERS_WIDE = 70
"""Columns that every number takes, beside the node's name; where there are fewer, only the most telling ones are shown."""


def counts(sweep: Snapshot, *, now: float) -> str:
    """What to say of a running sweep beside its bar."""
    left = len(sweep.expected) - len(sweep.asked)
    asked = f"{left} not asked yet" if left else "all asked"
    gone = sum(1 for node in accounts.silent(sweep) if not accounts.has_worker(sweep, node, now=now))
    return f"{asked}, {gone} without a worker" if gone else asked


def show_account(console: Console, account: Mapping[str, Any]) -> None:
    """A table of the nodes that reported, then those that need a person with the reasons, then the sums."""
    rows = sorted(account["nodes"], key=lambda node: (_URGENCY[node["state"]], node["node"]))
    reported = [row for row in rows if row["reservations"] is not None]
    if reported:
        _show_nodes(console, reported, dry_run=account["dry_run"])
    _show_reasons(console, [row for row in rows if row["state"] != "cleaned"])
    for why, nodes in _grouped((why, node) for node, why in sorted(account["skipped"].items())):
        say(console, f"left out   {_some(nodes)}: {why}")
    say(console, _sums(account))
    if account["error"]:
        say(console, f"it went no further: {account['error']}")
    if account["stopped"]:
        say(console, f"it was stopped {account['stopped']}: cni-cleanup job --resume lets it go on")
    if account["without_worker"]:
        without = _count(account["without_worker"], "node")
        say(console, f"{without} without a worker: is its pod running there? The job waits for 6 days")


def show_list(console: Console, listed: Iterable[Mapping[str, Any]]) -> None:
    """The sweeps, newest first, one a line: ids are there to be copied, and no table of them fits into 80 columns."""
    lines = [f"{one['sweep_id']}  {one['started']}  {_became(one)}" for one in listed]
    for line in lines or ["no sweep is on record: cni-cleanup job --autodiscover asks for one"]:
        say(console, line)


def _show_nodes(console: Console, rows: list[dict[str, Any]], *, dry_run: bool) -> None:
    wide = console.width >= _NUMBERS_WIDE + max(len(row["node"]) for row in rows)
    numbers = ("reservations", "keep", "undecided", "leaked", "removed") if wide else ("leaked", "removed")
    shown = new_table("nodes")
    shown.add_column("node", overflow="fold")
    shown.add_column("state", no_wrap=True)
    for name in numbers:
        shown.add_column("reserved" if name == "reservations" else name, justify="right", no_wrap=True)
    if wide:
        shown.add_column("took", justify="right", no_wrap=True)
    told = rows[:MOST_ROWS]
    if len(rows) > _MOST_CLEANED:
        told = [row for row in told if row["state"] != "cleaned"]
    for row in told:
        state = "looked at" if dry_run and row["state"] == "cleaned" else row["state"]
        took = [f"{row['seconds']:.0f} s"] if wide else []
        cells = [f"[{_COLOURS[row['state']]}]{state}[/]", *(str(row[name]) for name in numbers), *took]
        shown.add_row(escape(printable(row["node"])), *cells)
    if told:
        print_table(console, shown)
    if len(rows) > len(told):
        what = "looked at" if dry_run else "cleaned"
        rest = "more" if any(row["state"] != "cleaned" for row in rows[len(told) :]) else what
        say(console, f"{'and ' if told else ''}{_count(len(rows) - len(told), 'node')} {rest}: --json has them all")


def _show_reasons(console: Console, rows: list[dict[str, Any]]) -> None:
    """What is wrong, in lines that can be copied: one for a cause that several nodes have."""
    groups = _grouped(((row["state"], row["why"] or ""), row["node"]) for row in rows)
    for (state, why), nodes in groups[:_MOST_REASONS]:
        say(console, f"{state:<10} {_some(nodes)}: {why}", style=_COLOURS[state])
    left = sum(len(nodes) for _, nodes in groups[_MOST_REASONS:])
    if left:
        say(console, f"... and {_count(left, 'node')} more: --json has them all")


def _sums(account: Mapping[str, Any]) -> str:
    return f"sweep {account['sweep_id']} of {account['started']}, {_became(account)}"


def _became(account: Mapping[str, Any]) -> str:
    """What became of a sweep, in a few words."""
    done = "looked at" if account["dry_run"] else "cleaned"
    others = [f"{account[kind]} {kind}" for kind in ("failed", "missed", "discarded", "waiting") if account[kind]]
    nodes = ", ".join([f"{account['cleaned']} of {_count(account['expected'], 'node')} {done}", *others])
    totals = account["totals"]
    leaked = f"{totals['removed']} of {_count(totals['leaked'], 'leaked reservation')} removed"
    if account["dry_run"]:
        leaked = f"{_count(totals['leaked'], 'leaked reservation')} found, none removed"
    # Of nodes that did not look nothing can be said.
    nothing = "nothing leaked" if 0 < account["cleaned"] == account["expected"] else "no leak found by those that looked"
    state = account["state"] + (", a dry run" if account["dry_run"] else "") + (", stopped" if account["stopped"] else "")
    return f"{state}: {nodes}; {leaked if totals['leaked'] else nothing}"


def _grouped(pairs: Iterable[tuple[Any, str]]) -> list[tuple[Any, list[str]]]:
    """The nodes of each reason, in the order in which the reasons come first."""
    groups: dict[Any, list[str]] = {}
    for why, node in pairs:
        groups.setdefault(why, []).append(node)
    return list(groups.items())


def _some(nodes: list[str]) -> str:
    rest = f" and {len(nodes) - 5} more" if len(nodes) > 5 else ""
    return ", ".join(nodes[:5]) + rest


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
