"""What became of a sweep, in Redis: a hash of the nodes' reports, the set of the nodes asked, the facts."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

from tasks.celery_app import app

if TYPE_CHECKING:
    from redis import Redis

KEPT_FOR = 30 * 24 * 3600
"""Seconds: four weekly sweeps can be looked back at."""

Summary = dict[str, Any]
"""A report without its files (`cni.report.summary`)."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a sweep is, in nodes."""

    expected: int
    reported: int

    @property
    def complete(self) -> bool:
        """Whether every node that was asked has reported. A sweep that asked nobody yet is not complete."""
        return 0 < self.expected <= self.reported


def is_finished(summary: Mapping[str, Any]) -> bool:
    """Whether the pass of this summary ran to its end; one that was aborted may be asked for again."""
    return summary.get("aborted") is None


class Ledger:
    """The sweeps on record. Each method raises redis.RedisError where Redis does not answer."""

    def __init__(self, client: "Redis") -> None:
        self._redis = client

    def begin(self, sweep_id: str, nodes: Iterable[str], *, started: datetime, dry_run: bool) -> None:
        """Note which nodes a sweep asks. Said again of the same sweep, the first beginning stands."""
        key = _key(sweep_id)
        with self._redis.pipeline() as batch:
            batch.sadd(f"{key}:expected", *nodes)
            batch.hsetnx(f"{key}:meta", "started", started.isoformat())
            batch.hsetnx(f"{key}:meta", "dry_run", json.dumps(dry_run))
            batch.expire(f"{key}:expected", KEPT_FOR)
            batch.expire(f"{key}:meta", KEPT_FOR)
            batch.execute()

    def record(self, sweep_id: str, node: str, summary: Mapping[str, Any]) -> None:
        """Note one node's report. That of a finished pass is not overwritten by that of an aborted one."""
        key = _key(sweep_id)
        text = json.dumps(summary, separators=(",", ":"))
        with self._redis.pipeline() as batch:
            if is_finished(summary):
                batch.hset(key, node, text)
            else:
                batch.hsetnx(key, node, text)
            batch.expire(key, KEPT_FOR)
            batch.execute()

    def report(self, sweep_id: str, node: str) -> Summary | None:
        """What `node` reported to this sweep, or None."""
        text = self._redis.hget(_key(sweep_id), node)
        return None if text is None else cast("Summary", json.loads(cast("bytes", text)))

    def reports(self, sweep_id: str) -> dict[str, Summary]:
        """Every report to this sweep, by node."""
        found = cast("dict[bytes, bytes]", self._redis.hgetall(_key(sweep_id)))
        return {node.decode(): json.loads(text) for node, text in found.items()}

    def expected(self, sweep_id: str) -> frozenset[str]:
        """The nodes that this sweep asked."""
        return frozenset(name.decode() for name in cast("set[bytes]", self._redis.smembers(f"{_key(sweep_id)}:expected")))

    def progress(self, sweep_id: str) -> Progress:
        """How many nodes were asked and how many have reported, without reading the reports."""
        with self._redis.pipeline() as batch:
            batch.scard(f"{_key(sweep_id)}:expected")
            batch.hlen(_key(sweep_id))
            expected, reported = batch.execute()
        return Progress(expected=expected, reported=reported)


def open_ledger() -> Ledger:
    """The ledger, through the result backend's client: one place says how to connect to Redis."""
    backend: Any = app.backend
    return Ledger(backend.client)


def _key(sweep_id: str) -> str:
    return f"cni-cleanup:sweep:{sweep_id}"
