"""
What a node's report says, as far as it can be understood.

The reports come from 5,000 nodes, of this version, of older and of newer ones. What is not in the form that it should have is
left out, here and nowhere else: one of them must not hide all the others.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from cni.names import printable


class Usage(NamedTuple):
    """One network of one node when its pass looked; numbers of reservations."""

    network: str
    reservations: int
    #: Where the node knows it.
    capacity: int | None
    keep: int
    undecided: int
    leaked: int
    removed: int


class Judged(NamedTuple):
    """How files were judged, and what became of them."""

    verdict: str
    reason: str
    outcome: str | None


def number(value: object) -> int | None:
    """`value`, if it can be a count of something."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else None


def text(value: object, most: int) -> str:
    """`value` in at most so many letters, none of which is a command to anything that shows it."""
    shown = value if isinstance(value, str) else str(value)
    # Cut before what cannot be printed is written out, and again after that made it longer.
    shown = printable(shown[: most + 1])
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"


def has(report: object, part: str) -> bool:
    """Whether the report has this list at all: those of older workers lack some."""
    return isinstance(report, dict) and isinstance(report.get(part), list)


def usages(report: object) -> Iterator[Usage]:
    """The networks that the pass did not leave out."""
    for row in _rows(report, "networks"):
        reservations = number(row.get("reservations"))
        if row.get("problem") != "skipped" and isinstance(row.get("name"), str) and reservations is not None:
            numbers = (number(row.get(name)) or 0 for name in ("keep", "undecided", "leaked", "removed"))
            yield Usage(row["name"], reservations, number(row.get("capacity")), *numbers)


def judged(report: object) -> Iterator[tuple[Judged, int]]:
    """How many files were judged in which way, in the networks that the pass did not leave out and beside them."""
    names: dict[bool, set[object]] = {True: set(), False: set()}
    for row in _rows(report, "networks"):
        if isinstance(row.get("name"), str):
            names[row.get("problem") == "skipped"].add(row["name"])
    left_out = names[True] - names[False]
    for row in _rows(report, "counts"):
        files, outcome = number(row.get("files")), row.get("outcome")
        words = [row.get(name) for name in ("network", "verdict", "reason")]
        if (
            files
            and all(isinstance(word, str) for word in words)
            and isinstance(outcome, str | None)
            and words[0] not in left_out
        ):
            yield Judged(str(words[1]), str(words[2]), outcome), files


def workloads(report: object) -> Iterator[tuple[str, int]]:
    """The workloads that leaked most on the node, with how many sandboxes each."""
    for row in _rows(report, "workloads"):
        leaked = number(row.get("leaked"))
        if leaked and isinstance(row.get("workload"), str):
            yield row["workload"], leaked


def findings(report: object) -> Iterator[str]:
    """The sentences for an operator, each once."""
    if isinstance(report, dict) and isinstance(report.get("findings"), list):
        yield from dict.fromkeys(one for one in report["findings"] if isinstance(one, str))


def _rows(report: object, part: str) -> Iterator[dict[str, Any]]:
    if isinstance(report, dict) and isinstance(report.get(part), list):
        yield from (row for row in report[part] if isinstance(row, dict))
