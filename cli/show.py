"""Reports as a person reads them: tables, colour on a terminal only."""

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from datetime import timedelta
from ipaddress import ip_address

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cni.listing import Item, Network
from cni.names import is_address, printable
from cni.report import Outcome, Report
from cni.verdict import Decision
from workers.journal import Record
from workers.restoring import Restored

_COLOURS = {"keep": "green", "undecided": "yellow", "leaked": "red"}
_WHAT_BECAME: dict[Outcome, str] = {
    "removed": "removed",
    "gone": "gone already",
    "changed": "changed meanwhile",
    "dry-run": "would be removed",
    "over-limit": "over --max-remove",
    "failed": "could not be removed",
}
_URGENCY = {"leaked": 0, "undecided": 1, "keep": 2}

MOST_ROWS = 300
"""Above this many files of a network a table helps nobody: the most urgent are shown, and --json has them all."""

WIDE = 80
"""Columns from which on a terminal has room for the ids of sandboxes."""

MOST_OF_A_PASS = 50
"""Leaked files that a pass shows: what it did is in the journal too."""

Row = tuple[Item, Decision, Outcome | None]


def show_scan(console: Console, report: Report) -> None:
    """Every file by network, the leaked ones first; of the others those that are not kept; then the whole."""
    listed = [network for network in report.networks if network.problem != "skipped"]
    for network in listed:
        rows = [row for row in report.rows() if row[0].directory == network.directory]
        if rows:
            _show_files(console, _title(network, rows), rows, report)
    telling = [row for row in report.rows() if row[0].kind != "reservation" and row[1].verdict != "keep"]
    if telling:
        _show_files(console, "results and scratch files that are not kept", telling, report)
    _show_networks(console, report)
    _show_rest(console, report)
    if not report.aborted:
        say(console, _answer(report, {network.directory for network in listed}))


def _answer(report: Report, directories: AbstractSet[str]) -> str:
    """What was asked, in one line."""
    verdicts = [decision.verdict for item, decision, _ in report.rows() if item.directory in directories and item.ip is not None]
    leftovers = [decision.verdict for item, decision, _ in report.rows() if item.kind != "reservation"]
    leaked = verdicts.count("leaked")
    of_all = f"{leaked} of {len(verdicts)} reservations leaked, {leftovers.count('leaked')} of {len(leftovers)} other files"
    if undecided := verdicts.count("undecided"):
        of_all += f", {undecided} reservations undecided"
    return f"{of_all}: `cni-cleanup clean` removes what a second look confirms" if leaked else of_all


def show_pass(console: Console, report: Report, *, undo: str) -> None:
    """What a pass did: the leaked files with what became of them, then the whole, and the command that undoes it."""
    items, decisions = report.items, report.decisions
    leaked = [index for index, one in enumerate(decisions) if one.verdict == "leaked" and items[index].kind == "reservation"]
    if leaked:
        shown = [(items[index], decisions[index], report.outcomes.get(index)) for index in leaked[:MOST_OF_A_PASS]]
        _show_files(console, "leaked reservations", shown, report, more=len(leaked) - len(shown))
    _show_networks(console, report)
    _show_rest(console, report)
    reservations = Counter(outcome for index, outcome in report.outcomes.items() if items[index].kind == "reservation")
    others = Counter(outcome for index, outcome in report.outcomes.items() if items[index].kind != "reservation")
    for what, outcomes in (("reservations", reservations), ("results and scratch files", others)):
        if outcomes:
            say(console, f"{what}: " + ", ".join(f"{count} {_WHAT_BECAME[one]}" for one, count in outcomes.most_common()))
    if not report.outcomes and not report.aborted:
        say(console, "nothing is leaked: nothing was removed")
    if report.count("removed"):
        say(console, f"undo: {undo}")


def show_removed(console: Console, records: Sequence[Record]) -> None:
    """What `restore` can give back."""
    if not records:
        say(console, "the journal has nothing to give back")
    # In lines that can be copied, not in a table that folds them.
    for pass_id, of_pass in itertools.groupby(records, key=lambda record: record.pass_id):
        group = list(of_pass)
        say(console, f"pass {pass_id}, {len(group)} {'file' if len(group) == 1 else 'files'}", style="bold")
        for record in group:
            say(console, "  " + "  ".join(filter(None, (record.path, record.reason, record.pod))))


def show_restored(console: Console, results: Iterable[Restored], *, release: str) -> None:
    """What became of each file that should come back, and how long it is kept; `release` is the command that ends that."""
    back = 0
    for result in results:
        back += result.outcome == "restored"
        say(console, f"{result.outcome} {result.record.path}" + (f": {result.detail}" if result.detail else ""))
    if back:
        say(console, f"{back} {'file is' if back == 1 else 'files are'} back, and held until: {release}")


def in_order(records: Iterable[Record]) -> list[Record]:
    """By pass, then reservations by address, then the others."""

    def place(one: Record) -> tuple[str, bool, tuple[int, int, str], str]:
        directory, _, name = one.path.rpartition("/")
        return one.pass_id, one.kind != "reservation", _by_address(name), directory

    return sorted(records, key=place)


def say(console: Console, text: str, *, style: str | None = None) -> None:
    """One line, as it is."""
    console.print(printable(text), style=style, highlight=False, markup=False, soft_wrap=True)


def new_table(title: str) -> Table:
    """An empty table in the form of all of ours."""
    return Table(
        title=escape(title),
        title_justify="left",
        title_style="bold",
        header_style="bold",
        box=SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
    )


def print_table(console: Console, table: Table) -> None:
    """A table, and an empty line."""
    if console.is_terminal:
        console.print(table)
        console.print()
        return
    # A file or a pipe gets no blanks that only a screen would want filled.
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        say(console, line.rstrip())
    say(console, "")


def _title(network: Network, rows: Sequence[Row]) -> str:
    used = sum(1 for item, _, _ in rows if item.ip is not None)
    capacity = network.config.capacity() if network.config else None
    of_all = f" of {capacity}" if capacity is not None else ""
    return f"network {network.name}: {used}{of_all} addresses reserved"


def _show_files(console: Console, title: str, rows: list[Row], report: Report, *, more: int = 0) -> None:
    table = new_table(title)
    table.add_column("file", no_wrap=all(item.kind == "reservation" for item, _, _ in rows), overflow="fold")
    table.add_column("verdict", no_wrap=True)
    table.add_column("why", no_wrap=True)
    if report.outcomes:
        table.add_column("outcome", no_wrap=True)
    table.add_column("age", no_wrap=True)
    with_ids = console.width >= WIDE
    if with_ids:
        table.add_column("sandbox", no_wrap=True)
    table.add_column("pod", no_wrap=not with_ids, overflow="fold" if with_ids else "ellipsis")
    rows.sort(key=lambda row: _URGENCY[row[1].verdict])
    shown = rows[:MOST_ROWS]
    shown.sort(key=lambda row: (_URGENCY[row[1].verdict], _by_address(row[0].name)))
    for item, decision, outcome in shown:
        cells = [escape(printable(_name(item))), f"[{_COLOURS[decision.verdict]}]{decision.verdict}[/]", decision.reason]
        cells += [outcome or ""] if report.outcomes else []
        cells += [_age(report.age_seconds(item))]
        cells += [(item.container_id or "")[:10]] if with_ids else []
        table.add_row(*cells, escape(report.pod_of(item) or ""))
    print_table(console, table)
    left = more + len(rows) - len(shown)
    if left:
        say(console, f"... and {left} more: --json has them all")


def _by_address(name: str) -> tuple[int, int, str]:
    """Addresses by their number, not by their letters; other names after them."""
    if not is_address(name):
        return (9, 0, name)
    address = ip_address(name)
    return (address.version, int(address), name)


def _name(item: Item) -> str:
    """A reservation by its address; a results file by its directory, network and interface, since the id is in its own column."""
    if item.kind == "reservation":
        return item.name
    place = item.directory.removeprefix("/var/lib/cni/")
    if item.container_id is None:
        return f"{place}/{item.name}"
    return f"{place}/{item.name.replace(item.container_id, '…')}"


def _show_networks(console: Console, report: Report) -> None:
    if not report.networks:
        if not report.aborted:
            say(console, "there is no network of host-local here")
        return
    columns = ("network", "reserved", "capacity", "keep", "undecided", "leaked", "removed", "problem")
    table = new_table("networks")
    for column in columns:
        words = column in ("network", "problem")
        table.add_column(column, justify="left" if words else "right", no_wrap=not words, overflow="fold")
    for row in report.network_rows:
        table.add_row(
            escape(printable(row["name"])),
            str(row["reservations"]),
            "?" if row["capacity"] is None else str(row["capacity"]),
            *(str(row[column]) for column in ("keep", "undecided", "leaked", "removed")),
            row["problem"] or "",
        )
    print_table(console, table)


def _show_rest(console: Console, report: Report) -> None:
    states = [f"{name} {state}" for name, state in report.witnesses.items()]
    if any(state.startswith("unknown") for state in report.witnesses.values()):
        for state in states:
            say(console, f"witness: {state}")
    elif states:
        say(console, f"witnesses: {', '.join(states)}")
    for finding in report.findings:
        say(console, f"note: {finding}")


def _age(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 0:
        return "future"
    if seconds >= 86400:
        return f"{seconds / 86400:.1f} d"
    return str(timedelta(seconds=int(seconds)))
