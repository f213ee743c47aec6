"""The report of one pass or scan, and its JSON (`cni-cleanup/report/1`)."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Literal, get_args

from cni.errors import PassAborted
from cni.listing import Item, Network, Stamp
from cni.verdict import Decision, Verdict
from cni.workloads import workload_of

SCHEMA = "cni-cleanup/report/1"

MOST_WORKLOADS = 10
"""Workloads that a report names, those that leak most: it is kept for each node of a sweep."""

Outcome = Literal["removed", "gone", "changed", "dry-run", "over-limit", "failed"]


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What the node's own configuration allows; times in seconds."""

    min_age: float
    confirm_after: float
    max_remove: int | None
    dry_run: bool

    def document(self) -> dict[str, Any]:
        """As it stands in the report."""
        return {
            "min_age_seconds": self.min_age,
            "confirm_after_seconds": self.confirm_after,
            "max_remove": self.max_remove,
            "dry_run": self.dry_run,
        }


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was found, decided and done. `decisions` and `outcomes` go by the index of the item."""

    node: str | None
    pass_id: str
    sweep_id: str | None
    #: Wall clock, nanoseconds.
    started_ns: int
    finished_ns: int
    policy: Policy
    aborted: PassAborted | None
    witnesses: Mapping[str, str]
    networks: Sequence[Network] = ()
    items: Sequence[Item] = ()
    decisions: Sequence[Decision] = ()
    outcomes: Mapping[int, Outcome] = field(default_factory=dict)
    #: `namespace/name` by container id, for those of which a witness or a results file tells it.
    pods: Mapping[str, str] = field(default_factory=dict)
    #: What an operator should look at beside the files, in sentences.
    findings: Sequence[str] = ()
    #: Seconds for which the pass waited for the plugin's locks, all of them together.
    lock_wait: float = 0.0

    def rows(self) -> Iterator[tuple[Item, Decision, Outcome | None]]:
        """Every file with its verdict and, of a leaked one in a pass, what became of it."""
        for index, (item, decision) in enumerate(zip(self.items, self.decisions, strict=True)):
            yield item, decision, self.outcomes.get(index)

    @cached_property
    def network_rows(self) -> list[dict[str, Any]]:
        """The elements of `networks`; counted once, for the file and for the table."""
        return list(_networks(self))

    @cached_property
    def count_rows(self) -> list[dict[str, Any]]:
        """The elements of `counts`: how many files of each network were judged in the same way and became the same."""
        counts = Counter((item.network or "", *decision, outcome) for item, decision, outcome in self.rows())
        return [
            {"network": network, "verdict": verdict, "reason": reason, "outcome": outcome, "files": files}
            for (network, verdict, reason, outcome), files in sorted(counts.items(), key=lambda entry: str(entry[0]))
        ]

    @cached_property
    def workload_rows(self) -> list[dict[str, Any]]:
        """The elements of `workloads`: of the leaked sandboxes whose pod is known, what made them, those that leak most first."""
        leaked = {
            item.container_id
            for item, decision in zip(self.items, self.decisions, strict=True)
            if decision.verdict == "leaked" and item.container_id in self.pods
        }
        counts = Counter(workload_of(self.pods[container_id]) for container_id in leaked if container_id is not None)
        most = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))[:MOST_WORKLOADS]
        return [{"workload": workload, "leaked": leaks} for workload, leaks in most]

    def count(self, outcome: Outcome) -> int:
        """How many files had this outcome."""
        return sum(1 for value in self.outcomes.values() if value == outcome)

    def leaked(self) -> int:
        """How many files are leaked."""
        return sum(1 for decision in self.decisions if decision.verdict == "leaked")

    def age_seconds(self, item: Item) -> float | None:
        """The age of the file when the pass began: since the later of mtime and ctime."""
        if item.stamp is None:
            return None
        return round((self.started_ns - Stamp.changed_ns(item.stamp)) / 1e9, 3)

    def pod_of(self, item: Item) -> str | None:
        """The pod that the file belongs, or belonged, to."""
        return self.pods.get(item.container_id) if item.container_id else None


def summary(report: Report) -> dict[str, Any]:
    """The report without `files`: what the task's result and the ledger hold."""
    return {
        "schema": SCHEMA,
        "node": report.node,
        "pass_id": report.pass_id,
        "sweep_id": report.sweep_id,
        "started": rfc3339(report.started_ns),
        "finished": rfc3339(report.finished_ns),
        "policy": report.policy.document(),
        "aborted": report.aborted and {"reason": report.aborted.reason, "detail": report.aborted.detail},
        "witnesses": dict(report.witnesses),
        "networks": report.network_rows,
        "outcomes": dict(Counter(report.outcomes.values())),
        "counts": report.count_rows,
        "workloads": report.workload_rows,
        "lock_wait_seconds": round(report.lock_wait, 6),
        "findings": list(report.findings),
    }


def document(report: Report) -> dict[str, Any]:
    """The whole report."""
    return {**summary(report), "files": list(file_rows(report))}


def file_rows(report: Report) -> Iterator[dict[str, Any]]:
    """The elements of `files`, one at a time: there may be 65,000."""
    # Looked up once: each of these is asked for 65,000 times.
    pods, outcomes, changed_ns, started_ns = report.pods, report.outcomes, Stamp.changed_ns, report.started_ns
    for index, (item, decision) in enumerate(zip(report.items, report.decisions, strict=True)):
        kind, directory, name, network, _, container_id, ifname, stamp, _ = item
        yield {
            "path": f"{directory}/{name}",
            "kind": kind,
            "network": network,
            "ip": item.ip,
            "container_id": container_id,
            "ifname": ifname,
            "age_seconds": None if stamp is None else round((started_ns - changed_ns(stamp)) / 1e9, 3),
            "verdict": decision.verdict,
            "reason": decision.reason,
            "outcome": outcomes.get(index),
            "pod": pods.get(container_id) if container_id else None,
        }


def rfc3339(wall_ns: int) -> str:
    """A wall-clock time in UTC with milliseconds."""
    return datetime.fromtimestamp(wall_ns / 1e9, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _networks(report: Report) -> Iterator[dict[str, Any]]:
    listed = [
        (item, decision) for item, decision in zip(report.items, report.decisions, strict=True) if item.kind == "reservation"
    ]
    addresses = Counter(item.directory for item, _ in listed if item.ip is not None)
    verdicts = Counter((item.directory, decision.verdict) for item, decision in listed)
    removed = Counter(report.items[index].directory for index, outcome in report.outcomes.items() if outcome == "removed")
    for network in report.networks:
        yield {
            "name": network.name,
            "problem": network.problem,
            "reservations": addresses[network.directory],
            "capacity": network.config.capacity() if network.config else None,
            **{verdict: verdicts[network.directory, verdict] for verdict in get_args(Verdict)},
            "removed": removed[network.directory],
        }
