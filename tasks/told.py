"""
A node's result in one sentence: what the worker's log, `celery events` and Flower show of it.

They show a result as Python's `repr` has it, cut after 1,024 characters: of a report that is a wall of text without its end.
"""

from collections import UserDict
from collections.abc import Iterator, Mapping
from typing import Any

_COUNTED = ("keep", "undecided", "leaked", "removed")
"""Of a network's reservations, in this order; those that are zero are left out."""

_BECAME = {
    "removed": "removed",
    "gone": "freed by the plugin meanwhile",
    "changed": "left, changed meanwhile",
    "dry-run": "left by the dry run",
    "over-limit": "left, more than --max-remove",
    "failed": "could not be removed",
}
"""What became of a leaked file, in words, by `outcomes` of the report."""


class Told(UserDict[str, Any]):
    """A result that is shown as one sentence. Whoever fetches it gets all of it, as JSON."""

    def __repr__(self) -> str:
        try:
            return sentence(self.data)
        except (LookupError, TypeError, ValueError, AttributeError):
            # The answer to a repeated job comes from a file or from Redis. Not to be able to show it is no failure of the job.
            return repr(self.data)

    def __json__(self) -> dict[str, Any]:
        """What kombu writes."""
        return self.data


def sentence(report: Mapping[str, Any]) -> str:
    """The result of `tasks.clean_node` or `tasks.scan_node` in one line: what became of files, then the networks."""
    if report.get("stopped"):
        return "left undone: the sweep was stopped"
    pass_id = f"pass {report['pass_id']}"
    return "; ".join([*_aborted(report), *_files(report), *_networks(report), pass_id])


def _aborted(report: Mapping[str, Any]) -> Iterator[str]:
    aborted = report["aborted"]
    if aborted is not None:
        yield f"aborted ({aborted['reason']}): {aborted['detail']}"


def _files(report: Mapping[str, Any]) -> Iterator[str]:
    # A repeated job may be answered with the report of an older worker, which had neither outcomes nor counts.
    became = [f"{count} {_BECAME.get(outcome, outcome)}" for outcome, count in report.get("outcomes", {}).items()]
    # Of a look that was no pass, nothing became of anything.
    leaked = sum(count["files"] for count in report.get("counts", ()) if count["verdict"] == "leaked")
    if became:
        yield "files: " + ", ".join(became)
    elif leaked:
        yield f"files: {leaked} leaked"
    elif report["aborted"] is None and "counts" in report:
        yield "no leak"


def _networks(report: Mapping[str, Any]) -> Iterator[str]:
    for network in report["networks"]:
        if network["problem"] is not None:
            yield f"{network['name']}: {network['problem']}"
        elif network["reservations"]:
            counted = ", ".join(f"{network[name]} {name}" for name in _COUNTED if network[name])
            yield f"{network['name']}: {network['reservations']} reservations, {counted}"
