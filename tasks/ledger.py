"""
What became of the sweeps, in Redis; nothing here decides what that means (see tasks.account).

For 30 days, of each sweep: `cni-cleanup:sweep:<id>` is a hash of the nodes' reports. Beside it are `:expected` and `:asked`, sets
of nodes; `:signs`, a hash of what is known of those that have not reported; and `:meta`, its facts.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, cast

from tasks import broker
from tasks.celery_app import app
from tasks.errors import Refused

if TYPE_CHECKING:
    from redis import Redis
    from redis.client import Pipeline

KEPT_FOR = 30 * 24 * 3600
"""Seconds: four weekly sweeps can be looked back at."""

LEASE = 30
"""Seconds for which a process that asks a sweep's nodes has it to itself, unless it says so again."""

Summary = dict[str, Any]
"""A report without its files (`cni.report.summary`)."""

What = Literal["begun", "failed", "discarded", "stopped"]
"""What is known of a node that has not reported: its job has begun, or failed, or came too late, or met the stop switch."""

_PREFIX = "cni-cleanup:"
_SWEEPS = f"{_PREFIX}sweeps"
_CURRENT = f"{_PREFIX}sweeping"
_WORKERS = f"{_PREFIX}workers"
_NODES = f"{_PREFIX}nodes"


@dataclass(frozen=True, kw_only=True)
class Sign:
    """The last that was heard of a node's job, short of a report."""

    what: What
    #: Seconds since 1970, by the node's own clock.
    at: float
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A sweep itself; times in seconds since 1970."""

    sweep_id: str
    started: float
    dry_run: bool
    selector: str | None = None
    #: Seconds between two nodes.
    spread: float = 0.0
    #: The nodes that were named, where some were.
    nodes: tuple[str, ...] | None = None
    #: Why each node that never runs the worker was left out.
    skipped: Mapping[str, str] = field(default_factory=dict)
    #: Until then answers are waited for.
    until: float | None = None
    #: When the last node was asked.
    all_asked: float | None = None
    #: When somebody stopped it.
    stopped: float | None = None
    #: Why it ended before its nodes were asked.
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """All that is known of a sweep at one moment."""

    facts: Facts
    expected: frozenset[str]
    asked: frozenset[str]
    reports: Mapping[str, Summary]
    signs: Mapping[str, Sign]
    #: When the worker of a node was last there, for those that have not reported.
    seen: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a sweep is, in nodes."""

    expected: int
    asked: int
    reported: int


_FACTS = frozenset(each.name for each in fields(Facts)) - {"sweep_id"}
"""What is read of a sweep's facts: a newer version may have written more."""


def is_finished(summary: Mapping[str, Any]) -> bool:
    """Whether the pass of this summary ran to its end; one that was aborted may be asked for again."""
    return summary.get("aborted") is None


def _was_dry(summary: Mapping[str, Any]) -> bool:
    return bool(summary.get("policy", {}).get("dry_run"))


class Ledger:
    """The sweeps on record. Each method raises redis.RedisError where Redis does not answer."""

    def __init__(self, client: "Redis") -> None:
        self._redis = client

    # What the sweep writes

    def begin(self, facts: Facts) -> None:
        """Note a sweep. Said again of the same one, the first beginning stands."""
        with self._redis.pipeline() as batch:
            _begin(batch, facts)
            batch.execute()

    def expect(self, sweep_id: str, nodes: Iterable[str], *, skipped: Mapping[str, str], until: float) -> None:
        """Note which nodes a sweep asks, which it leaves out, and until when answers are waited for."""
        names = list(nodes)
        with self._redis.pipeline() as batch:
            batch.sadd(f"{_key(sweep_id)}:expected", *names)
            batch.sadd(_NODES, *names)
            batch.expire(f"{_key(sweep_id)}:expected", KEPT_FOR)
            _note(batch, sweep_id, skipped=dict(skipped), until=until)
            batch.execute()

    def note_asked(self, sweep_id: str, nodes: Iterable[str]) -> None:
        """Note that these nodes have been sent their job."""
        with self._redis.pipeline() as batch:
            batch.sadd(f"{_key(sweep_id)}:asked", *nodes)
            batch.expire(f"{_key(sweep_id)}:asked", KEPT_FOR)
            batch.execute()

    def note_all_asked(self, sweep_id: str, *, at: float) -> None:
        """Note that every node has been sent its job; said again, the first time stands."""
        self._redis.hsetnx(f"{_key(sweep_id)}:meta", "all_asked", json.dumps(at))

    def fail(self, sweep_id: str, why: str) -> None:
        """Note why a sweep that has begun goes no further."""
        if self._redis.exists(f"{_key(sweep_id)}:meta"):
            with self._redis.pipeline() as batch:
                _note(batch, sweep_id, error=why)
                batch.execute()

    def take_lease(self, sweep_id: str, token: str) -> bool:
        """Be the only process that asks this sweep's nodes, for `LEASE` seconds; false where another one is."""
        return bool(self._redis.set(f"{_key(sweep_id)}:lease", token, nx=True, ex=LEASE))

    def drop_lease(self, sweep_id: str, token: str) -> None:
        """Be it no longer."""
        key = f"{_key(sweep_id)}:lease"
        if self._redis.get(key) == token.encode():
            self._redis.delete(key)

    def renew_lease(self, sweep_id: str, token: str) -> bool:
        """Be it for a while longer, or again where it had run out; false where another one is by now."""
        key = f"{_key(sweep_id)}:lease"
        if self._redis.set(key, token, nx=True, ex=LEASE):
            return True
        return self._redis.get(key) == token.encode() and bool(self._redis.expire(key, LEASE))

    def is_leased(self, sweep_id: str) -> bool:
        """Whether some process asks this sweep's nodes now."""
        return bool(self._redis.exists(f"{_key(sweep_id)}:lease"))

    def claim(self, facts: Facts, over: str | None = None) -> str | None:
        """Begin this sweep as the one that runs, where none does, or the one that does is `over`; else the id of that one.

        At once: one that was claimed, and not yet begun, would look to the next like one that is over.
        """

        def swap(batch: "Pipeline") -> str | None:
            holder = cast("bytes | None", batch.get(_CURRENT))
            batch.multi()
            if holder is not None and holder.decode() not in (facts.sweep_id, over):
                return holder.decode()
            batch.set(_CURRENT, facts.sweep_id, ex=KEPT_FOR)
            _begin(batch, facts)
            return None

        # The package's own types have it return nothing.
        answer: Any = self._redis.transaction(cast("Any", swap), _CURRENT, value_from_callable=True)
        return cast("str | None", answer)

    # What a node writes

    def record(self, sweep_id: str, node: str, summary: Mapping[str, Any]) -> None:
        """Note one node's report.

        That of a finished pass stands against a later one: of a repeated message, which had nothing left to do. But a real pass
        takes the place of a dry run.
        """
        key = _key(sweep_id)
        text = json.dumps(summary, separators=(",", ":"))
        before = self.report(sweep_id, node)
        stands = before is not None and is_finished(before) and (not _was_dry(before) or not is_finished(summary))
        with self._redis.pipeline() as batch:
            if not stands:
                batch.hset(key, node, text)
            batch.hdel(f"{key}:signs", node)
            batch.expire(key, KEPT_FOR)
            batch.execute()

    def sign(self, sweep_id: str, node: str, sign: Sign) -> None:
        """Note what is known of a node's job short of a report. A node whose job met the stop switch is to be asked again."""
        key = f"{_key(sweep_id)}:signs"
        with self._redis.pipeline() as batch:
            batch.hset(key, node, json.dumps([sign.what, sign.at, sign.why]))
            batch.expire(key, KEPT_FOR)
            if sign.what == "stopped":
                batch.srem(f"{_key(sweep_id)}:asked", node)
            batch.execute()

    # The stop switch

    def stop(self, sweep_id: str, *, at: float) -> None:
        """Have the nodes, and the process that asks them, leave off."""
        with self._redis.pipeline() as batch:
            _note(batch, sweep_id, stopped=at)
            batch.execute()

    def resume(self, sweep_id: str, *, until: float) -> None:
        """Let them go on: who has not answered is asked again, and answers are waited for until then."""
        with self._redis.pipeline() as batch:
            batch.hdel(f"{_key(sweep_id)}:meta", "stopped", "all_asked", "error")
            _note(batch, sweep_id, until=until)
            batch.execute()

    def is_stopped(self, sweep_id: str) -> bool:
        """Whether somebody has stopped it."""
        return bool(self._redis.hexists(f"{_key(sweep_id)}:meta", "stopped"))

    # What is read

    def sweeps(self) -> list[str]:
        """The ids of the sweeps on record, newest first."""
        return [one.decode() for one in cast("list[bytes]", self._redis.zrevrange(_SWEEPS, 0, -1))]

    def waiting(self, queue: str) -> list[dict[str, Any]]:
        """The messages that wait in a queue, as kombu writes them."""
        return [json.loads(text) for text in cast("list[bytes]", self._redis.lrange(queue, 0, -1))]

    def current(self) -> str | None:
        """The sweep that runs, or was the last that did."""
        holder = cast("bytes | None", self._redis.get(_CURRENT))
        return None if holder is None else holder.decode()

    def facts(self, sweep_id: str) -> Facts | None:
        """The sweep itself; None if it is not on record."""
        return _facts(sweep_id, cast("dict[bytes, bytes]", self._redis.hgetall(f"{_key(sweep_id)}:meta")))

    def report(self, sweep_id: str, node: str) -> Summary | None:
        """What `node` reported to this sweep, or None."""
        text = self._redis.hget(_key(sweep_id), node)
        return None if text is None else cast("Summary", json.loads(cast("bytes", text)))

    def expected(self, sweep_id: str) -> frozenset[str]:
        """The nodes that this sweep asks."""
        return _names(self._redis.smembers(f"{_key(sweep_id)}:expected"))

    def asked(self, sweep_id: str) -> frozenset[str]:
        """The nodes that have been sent their job."""
        return _names(self._redis.smembers(f"{_key(sweep_id)}:asked"))

    def progress(self, sweep_id: str) -> Progress:
        """How many nodes are to be asked, were asked and have reported, without reading the reports."""
        key = _key(sweep_id)
        with self._redis.pipeline(transaction=False) as batch:
            batch.scard(f"{key}:expected")
            batch.scard(f"{key}:asked")
            batch.hlen(key)
            expected, asked, reported = batch.execute()
        return Progress(expected=expected, asked=asked, reported=reported)

    def snapshot(self, sweep_id: str, *, reports: bool = True) -> Snapshot | None:
        """All that is known of a sweep; None if it is not on record.

        Without `reports` each is taken for an empty one, which spares reading 5,000 of them.
        """
        key = _key(sweep_id)
        # No transaction: in one Redis would not even read when its memory is full. So the signs go before the reports, which take
        # their place, and what is last noted of a sweep, that all were asked, before everything.
        with self._redis.pipeline(transaction=False) as batch:
            batch.hgetall(f"{key}:meta")
            batch.smembers(f"{key}:expected")
            batch.smembers(f"{key}:asked")
            batch.hgetall(f"{key}:signs")
            if reports:
                batch.hgetall(key)
            else:
                batch.hkeys(key)
            meta, expected, asked, signs, reported = batch.execute()
        facts = _facts(sweep_id, meta)
        if facts is None:
            return None
        known = {node.decode(): _report(reported[node]) if reports else {} for node in reported}
        silent = sorted(_names(expected) - known.keys())
        return Snapshot(
            facts=facts,
            expected=_names(expected),
            asked=_names(asked),
            reports=known,
            signs={node.decode(): _sign(text) for node, text in signs.items()},
            seen=self.seen(silent),
        )

    # The workers

    def seen(self, nodes: Iterable[str]) -> dict[str, float]:
        """When the worker of each of these nodes was last there, in seconds since 1970; never for those that are missing."""
        names = list(nodes)
        if not names:
            return {}
        found = cast("list[bytes | None]", self._redis.hmget(_WORKERS, names))
        return {node: float(at) for node, at in zip(names, found, strict=True) if at is not None}

    def known_nodes(self) -> frozenset[str]:
        """Every node that was ever asked, or whose worker was ever there."""
        return _names(self._redis.smembers(_NODES)) | _names(self._redis.hkeys(_WORKERS))

    def forget(self, nodes: Iterable[str]) -> None:
        """Remove what is kept for nodes outside the sweeps: their queues, the queues' bindings, their names.

        A queue leaves its two binding keys for ever (kombu 5.7, transport/redis.py).
        """
        names = list(nodes)
        keys = [
            key.format(queue=f"node.{node}")
            for node in names
            for key in ("{queue}", "_kombu.binding.{queue}", "_kombu.binding_permanent.{queue}")
        ]
        with self._redis.pipeline() as batch:
            batch.delete(*keys)
            batch.srem(_NODES, *names)
            batch.hdel(_WORKERS, *names)
            batch.execute()


def note_worker(client: "Redis", node: str, *, at: float) -> None:
    """Note that the worker of `node` is there, by whatever connection is at hand: one command, once a minute, on each node."""
    client.hset(_WORKERS, node, f"{at:.0f}")


@contextmanager
def open_ledger(*, tries: int = 2) -> Iterator[Ledger]:
    """The ledger in the broker's Redis, which is tried again so many times.

    Raises:
        redis.RedisError: in the block, where Redis does not answer.
    """
    with broker.connected(broker.url_of(app.settings), tries=tries) as client:
        yield Ledger(client)


def require_facts(ledger: Ledger, sweep_id: str) -> Facts:
    """The facts of a sweep that somebody named.

    Raises:
        Refused: it is not on record.
    """
    facts = ledger.facts(sweep_id)
    if facts is None:
        raise unknown_sweep(sweep_id)
    return facts


def unknown_sweep(sweep_id: str) -> Refused:
    """What to say of a sweep that is not on record."""
    return Refused(f"no sweep {sweep_id} is on record: they are kept for 30 days (cni-cleanup report --list)")


def _begin(batch: "Pipeline", facts: Facts) -> None:
    key = f"{_key(facts.sweep_id)}:meta"
    for name in ("started", "dry_run", "selector", "spread", "nodes"):
        batch.hsetnx(key, name, json.dumps(getattr(facts, name)))
    batch.expire(key, KEPT_FOR)
    batch.zremrangebyscore(_SWEEPS, 0, facts.started - KEPT_FOR)
    batch.zadd(_SWEEPS, {facts.sweep_id: facts.started}, nx=True)


def _note(batch: "Pipeline", sweep_id: str, **facts: object) -> None:
    key = f"{_key(sweep_id)}:meta"
    batch.hset(key, mapping={name: json.dumps(value) for name, value in facts.items()})
    batch.expire(key, KEPT_FOR)


def _facts(sweep_id: str, meta: Mapping[bytes, bytes]) -> Facts | None:
    if b"started" not in meta:
        return None
    known = {name.decode(): json.loads(text) for name, text in meta.items() if name.decode() in _FACTS}
    if known.get("nodes") is not None:
        known["nodes"] = tuple(known["nodes"])
    return Facts(sweep_id=sweep_id, **known)


def _report(text: bytes) -> Summary:
    """What a node reported; an empty report where it is no JSON, so that it does not hide all the others."""
    try:
        return cast("Summary", json.loads(text))
    except (ValueError, RecursionError):
        return {}


def _sign(text: bytes) -> Sign:
    what, at, why = json.loads(text)
    return Sign(what=what, at=at, why=why)


def _names(found: Any) -> frozenset[str]:
    return frozenset(name.decode() for name in found)


def _key(sweep_id: str) -> str:
    return f"{_PREFIX}sweep:{sweep_id}"
