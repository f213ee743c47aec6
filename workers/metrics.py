"""
The metrics of a node, in Prometheus' text form. Their names, types and labels are a promise to users.

Written out here: the client library would be 8 MiB of every node's memory, half of the sidecar, for a web server and TLS of its
own. Source of the form: prometheus.io/docs/instrumenting/exposition_formats, version 0.0.4.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from cni.names import printable
from workers.reports import LastReport
from workers.tally import Tally
from workers.usage import Usage
from workers.watching import Seen, Source, Totals

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

RESULTS = ("ok", "aborted", "failed")
"""What a pass comes to. Each has its counter from the start: a first failure is then an increase, which an alert can see."""

_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One name with its samples; none where nothing is known."""

    name: str
    help: str
    labels: tuple[str, ...] = ()
    type: Literal["gauge", "counter"] = "gauge"
    #: By the values of the labels, a tuple of as many.
    samples: Mapping[Any, float] = field(default_factory=dict)


def exposition(metrics: Iterable[Metric]) -> bytes:
    """All of them as Prometheus reads them."""
    return "".join(line for metric in metrics for line in _lines(metric)).encode()


def _lines(metric: Metric) -> Iterator[str]:
    yield f"# HELP {metric.name} {metric.help}\n# TYPE {metric.name} {metric.type}\n"
    for values, number in metric.samples.items():
        # A directory may have a name that is no text, and one such must not cost the others their metrics.
        pairs = zip(metric.labels, (printable(value).translate(_ESCAPES) for value in values), strict=True)
        labels = ",".join(f'{label}="{value}"' for label, value in pairs)
        yield f"{metric.name}{{{labels}}} {float(number)!r}\n" if labels else f"{metric.name} {float(number)!r}\n"


def node_metrics(
    seen: Seen,
    *,
    version: str,
    now: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = time.monotonic,
) -> Iterator[Metric]:
    """What was seen. What is not known has no sample: a 0 would be a lie, and an alert can ask for absence.

    `now` is the wall clock, in seconds since 1970.
    """
    yield from _of_files(seen.tally, seen.usage)
    yield from _of_report(seen.report, now())
    yield from _of_totals(seen.totals)
    yield _one("cni_cleanup_journal_bytes", "Size of the journal, out of which files can be put back.", seen.journal_size)
    yield Metric(
        name="cni_cleanup_readable",
        help="0 where a source of metrics is there and cannot be read.",
        labels=("source",),
        samples={(source,): source not in seen.unreadable for source in get_args(Source)},
    )
    yield _one("cni_cleanup_look_age_seconds", "Time since the files were last looked at.", monotonic() - seen.at)
    yield Metric(name="cni_cleanup_build_info", help="The version that runs here.", labels=("version",), samples={(version,): 1})


def _of_files(tally: Tally | None, usage: Sequence[Usage]) -> Iterator[Metric]:
    # These two have the names and texts of the tool before this one, whose dashboards and alerts go on working.
    yield _one("apicnicleanup_number_count", "number of files", None if tally is None else tally.files)
    yield _one("apicnicleanup_size_bytes", "Size of the folder", None if tally is None else tally.size)
    yield Metric(
        name="cni_cleanup_reservations",
        help="Addresses that are reserved now, by network.",
        labels=("network",),
        samples={(one.network,): one.reserved for one in usage if one.known},
    )
    yield Metric(
        name="cni_cleanup_capacity",
        help="Reservations that fit into the network, where that is known.",
        labels=("network",),
        samples={(one.network,): one.capacity for one in usage if one.capacity is not None},
    )


def _of_report(report: LastReport | None, now: float) -> Iterator[Metric]:
    yield Metric(
        name="cni_cleanup_files",
        help="Files as the last pass judged them.",
        labels=("network", "verdict", "reason"),
        samples=report.files if report else {},
    )
    age = None if report is None else max(0.0, now - report.finished)
    duration = None if report is None else report.duration
    lock_wait = None if report is None else report.lock_wait
    yield _one("cni_cleanup_report_age_seconds", "Time since the last pass ended.", age)
    yield _one("cni_cleanup_pass_duration_seconds", "How long the last pass took, its wait included.", duration)
    yield _one("cni_cleanup_lock_wait_seconds", "How long the last pass waited for the plugin's locks.", lock_wait)


def _of_totals(totals: Totals | None) -> Iterator[Metric]:
    last = None if totals is None else totals.last_success
    yield _one("cni_cleanup_last_success_timestamp_seconds", "When the last pass ended that went well.", last)
    yield Metric(
        name="cni_cleanup_removed_total",
        type="counter",
        help="Reservations that were removed.",
        labels=("network", "reason"),
        samples=totals.removed if totals else {},
    )
    results = dict.fromkeys((*RESULTS, *totals.passes)) if totals else ()
    yield Metric(
        name="cni_cleanup_passes_total",
        type="counter",
        help="Passes, by what came of them.",
        labels=("result",),
        samples={(result,): totals.passes.get(result, 0) for result in results} if totals else {},
    )


def _one(name: str, text: str, value: float | None) -> Metric:
    return Metric(name=name, help=text, samples={} if value is None else {(): value})
