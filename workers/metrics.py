"""The metrics of a node, in Prometheus' form. Their names, types and labels are a promise to users."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import get_args

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cni.names import printable
from workers.reports import LastReport
from workers.tally import Tally
from workers.usage import Usage
from workers.watching import Seen, Source, Totals

RESULTS = ("ok", "aborted", "failed")
"""What a pass comes to. Each has its counter from the start: a first failure is then an increase, which an alert can see."""


class NodeMetrics(Collector):
    """Tells what was last seen. What is not known has no sample: a 0 would be a lie, and an alert can ask for absence."""

    def __init__(
        self,
        seen: Callable[[], Seen],
        *,
        version: str,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`now` is the wall clock, in seconds since 1970."""
        self._seen = seen
        self._version = version
        self._now = now
        self._monotonic = monotonic

    def describe(self) -> list[Metric]:
        """Nothing: to be registered is not to be asked."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Every metric, from one look."""
        seen = self._seen()
        yield from _of_files(seen.tally, seen.usage)
        yield from _of_report(seen.report, self._now())
        yield from _of_totals(seen.totals)
        yield _gauge("cni_cleanup_journal_bytes", "Size of the journal, out of which files can be put back.", seen.journal_size)
        readable = _gauges("cni_cleanup_readable", "0 where a source of metrics is there and cannot be read.", "source")
        for source in get_args(Source):
            readable.add_metric((source,), source not in seen.unreadable)
        yield readable
        yield _gauge("cni_cleanup_look_age_seconds", "Time since the files were last looked at.", self._monotonic() - seen.at)
        built = _gauges("cni_cleanup_build_info", "The version that runs here.", "version")
        built.add_metric((self._version,), 1)
        yield built


def registry_of(metrics: NodeMetrics) -> CollectorRegistry:
    """These metrics, and those of this process."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(metrics)
    ProcessCollector(registry=registry)
    return registry


def _of_files(tally: Tally | None, usage: Sequence[Usage]) -> Iterator[Metric]:
    # These two have the names and texts of the tool before this one, whose dashboards and alerts go on working.
    yield _gauge("apicnicleanup_number_count", "number of files", None if tally is None else tally.files)
    yield _gauge("apicnicleanup_size_bytes", "Size of the folder", None if tally is None else tally.size)
    reserved = _gauges("cni_cleanup_reservations", "Addresses that are reserved now, by network.", "network")
    capacity = _gauges("cni_cleanup_capacity", "Reservations that fit into the network, where that is known.", "network")
    for one in usage:
        # A directory may have a name that is no text, and one such must not cost the others their metrics.
        name = printable(one.network)
        if one.known:
            reserved.add_metric((name,), one.reserved)
        if one.capacity is not None:
            capacity.add_metric((name,), one.capacity)
    yield reserved
    yield capacity


def _of_report(report: LastReport | None, now: float) -> Iterator[Metric]:
    files = _gauges("cni_cleanup_files", "Files as the last pass judged them.", "network", "verdict", "reason")
    for labels, count in (report.files if report else {}).items():
        files.add_metric([printable(label) for label in labels], count)
    yield files
    age = None if report is None else max(0.0, now - report.finished)
    duration = None if report is None else report.duration
    lock_wait = None if report is None else report.lock_wait
    yield _gauge("cni_cleanup_report_age_seconds", "Time since the last pass ended.", age)
    yield _gauge("cni_cleanup_pass_duration_seconds", "How long the last pass took, its wait included.", duration)
    yield _gauge("cni_cleanup_lock_wait_seconds", "How long the last pass waited for the plugin's locks.", lock_wait)


def _of_totals(totals: Totals | None) -> Iterator[Metric]:
    last = None if totals is None else totals.last_success
    yield _gauge("cni_cleanup_last_success_timestamp_seconds", "When the last pass ended that went well.", last)
    removed = CounterMetricFamily("cni_cleanup_removed", "Reservations that were removed.", labels=("network", "reason"))
    passes = CounterMetricFamily("cni_cleanup_passes", "Passes, by what came of them.", labels=("result",))
    if totals is not None:
        for labels, count in totals.removed.items():
            removed.add_metric([printable(label) for label in labels], count)
        for result in dict.fromkeys((*RESULTS, *totals.passes)):
            passes.add_metric((printable(result),), totals.passes.get(result, 0))
    yield removed
    yield passes


def _gauge(name: str, text: str, value: float | None) -> Metric:
    family = GaugeMetricFamily(name, text)
    if value is not None:
        family.add_metric((), value)
    return family


def _gauges(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=labels)
