"""What the demo prints: for 80 columns, in colour on a terminal only."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cli.demo.nodes import Node

_COLOUR = {"leaked": "red", "keep": "green", "undecided": "yellow"}


@dataclass(frozen=True, kw_only=True)
class Check:
    """What the sweep made of one node beside what the recording says of it, in reservations."""

    leaked: int
    leaked_gone: int
    live: int
    live_there: int

    @property
    def right(self) -> bool:
        """Whether every leaked one is gone, and every live one is there and unchanged."""
        return self.leaked == self.leaked_gone and self.live == self.live_there


def check(node: Node, before: Mapping[str, bytes], after: Mapping[str, bytes]) -> Check:
    """Compare a node's reservations, before and after, with the truth that was recorded."""
    return Check(
        leaked=len(node.leaked),
        leaked_gone=sum(path in before and path not in after for path in node.leaked),
        live=len(node.live),
        live_there=sum(path in after and after[path] == before.get(path) for path in node.live),
    )


def step(console: Console, name: str, text: str) -> None:
    """One line: a word, and what there is to say about it."""
    console.print(f"[bold]{name:<9}[/] {escape(text)}", highlight=False, soft_wrap=True)


def failure(console: Console, text: str) -> None:
    """What went wrong."""
    console.print(f"[bold red]wrong[/]     {escape(text)}", highlight=False, soft_wrap=True)


def verdicts(console: Console, title: str, reports: Iterable[Mapping[str, Any]]) -> None:
    """The reservations of each node by verdict and reason, from reports as in `scan --json`."""
    table = _table("Node", "Network", "Reserved", "Verdict", "Why", "One of them", gap=1)
    for report in reports:
        groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = defaultdict(list)
        for file in report["files"]:
            if file["kind"] == "reservation" and file["ip"] is not None:
                groups[file["network"], file["verdict"], file["reason"]].append(file)
        for (network, verdict, reason), files in sorted(groups.items()):
            one = min(files, key=itemgetter("path"))
            example = " ".join(filter(None, [one["ip"], one["pod"]]))
            coloured = f"[{_COLOUR[verdict]}]{verdict}[/]"
            table.add_row(report["node"], network, str(len(files)), coloured, reason, escape(example))
    _print(console, title, table)


def legend(console: Console) -> None:
    """What the reasons mean that the demo's nodes show."""
    console.print("\nsandbox: the runtime lists its pod. absent: nobody knows its pod any more.", style="dim")


def checks(console: Console, title: str, rows: Iterable[tuple[Node, Check]]) -> None:
    """What became of each node, beside the truth."""
    table = _table("Node", "Leaked, gone", "Live, still there", "What had happened")
    for node, row in rows:
        colour = "green" if row.right else "bold red"
        gone = f"[{colour}]{row.leaked_gone} of {row.leaked}[/]"
        table.add_row(node.name, gone, f"[{colour}]{row.live_there} of {row.live}[/]", node.story)
    _print(console, title, table)


def _table(*columns: str, gap: int = 2) -> Table:
    """An empty table, with so many blanks between its columns."""
    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0))
    for name in columns:
        numbers = name in ("Reserved", "Leaked, gone", "Live, still there")
        table.add_column(name, justify="right" if numbers else "left", no_wrap=True, overflow="ellipsis")
    return table


def _print(console: Console, title: str, table: Table) -> None:
    console.print(f"\n[bold]{escape(title)}[/]")
    console.print(table)
