"""The sweep: one job for every node, and a ledger of who answered."""

import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from celery.utils.log import get_task_logger
from kombu.exceptions import BatchPublishError, OperationalError  # type: ignore[attr-defined]  # the stubs know kombu 5.6
from kombu.utils.functional import retry_over_time
from redis.exceptions import RedisError

from tasks import account, broker, names
from tasks.celery_app import NODE_JOB_EXPIRES, SOFT_TIME_LIMIT, VISIBILITY_TIMEOUT, app
from tasks.discovery import CannotDiscover, Nodes, discover
from tasks.errors import Refused
from tasks.ledger import LEASE, Facts, Ledger, open_ledger, require_facts, unknown_sweep

if TYPE_CHECKING:
    from celery import Task

SPREAD = 0.12
"""Seconds between two nodes: 5,000 begin over ten minutes, so that the Kubernetes API meets eight passes a second, not 5,000."""

ANSWERS_WITHIN = VISIBILITY_TIMEOUT + 1800
"""Seconds for which answers are waited for after the last node was asked: a job whose worker was killed comes again after the
visibility timeout."""

_LONGEST = SOFT_TIME_LIMIT - 300
"""Seconds that asking all nodes may take: the sweep is a job like any other, with a time limit."""

_BATCH = 1000
"""Messages in one round trip to Redis."""

_GONE_FOR = 3600.0
"""Seconds without a sign of a worker before what is kept for a node that is not in the cluster any more is removed."""

_OUTAGE = 600.0
"""Seconds for which asking waits for a broker that went away; after that control takes it up when the broker is back."""

_log = get_task_logger(__name__)


@app.task(name=names.SWEEP, bind=True, throws=(Refused,))
def sweep(
    self: "Task[..., Any]",
    nodes: list[str] | None = None,
    dry_run: bool = False,  # noqa: FBT001, FBT002  # a message's arguments have their order by contract
    selector: str | None = None,
    spread: float | None = None,
) -> dict[str, Any]:
    """Ask every node for one pass; `nodes` or a label `selector` may narrow that to some. Returns when all are asked.

    The task's own Celery id is the sweep's id, so a retry goes on with the same sweep, with the nodes that have not been asked.
    `spread` is the time between two nodes in seconds, 0.12 where it is left out.

    Raises:
        Refused: an argument is none, a node is not known, there is none to ask, or another sweep runs.
        CannotDiscover: the Kubernetes API does not list the nodes.
        redis.RedisError: the ledger does not answer.
        kombu.exceptions.OperationalError: the broker cannot take the jobs.
    """
    facts = Facts(
        sweep_id=names.sweep_id(self.request.id),
        started=time.time(),
        dry_run=names.flag("dry_run", dry_run),
        selector=names.selector(selector),
        spread=SPREAD if spread is None else names.spread(spread),
        nodes=wanted_nodes(nodes),
    )
    with open_ledger(tries=broker.PATIENT) as ledger:
        _claim(ledger, facts.sweep_id)
        ledger.begin(facts)
        with _lease(ledger, facts.sweep_id) as mine:
            if not mine:
                return {"sweep_id": facts.sweep_id, "asked": 0, "why": "another process asks the nodes of this sweep"}
            return _ask(ledger, require_facts(ledger, facts.sweep_id))


@app.task(name=names.REPORT, throws=(Refused,))
def report(sweep_id: str | None = None) -> dict[str, Any]:
    """The account of a sweep, by default of the last one: per node whether it was cleaned, failed or missed, and why.

    Raises:
        Refused: there is no such sweep on record.
        redis.RedisError: the ledger does not answer.
    """
    with open_ledger() as ledger:
        return account_of(ledger, None if sweep_id is None else names.sweep_id(sweep_id))


def account_of(ledger: Ledger, sweep_id: str | None) -> dict[str, Any]:
    """The account of a sweep, of the last one where it is None.

    Raises:
        Refused: there is no such sweep on record.
    """
    if sweep_id is None:
        sweep_id = next(iter(ledger.sweeps()), None)
        if sweep_id is None:
            raise Refused("no sweep is on record: cni-cleanup job --autodiscover asks for one")
    found = ledger.snapshot(sweep_id)
    if found is None:
        raise unknown_sweep(sweep_id)
    return account.document(found, now=time.time())


def wanted_nodes(value: object) -> tuple[str, ...] | None:
    """The nodes that a message names, in order and each once; None where it names none.

    Raises:
        Refused: it is no list of names.
    """
    if value is None:
        return None
    if not isinstance(value, list) or not value:
        raise Refused("nodes must be a list of node names, or left out for all nodes")
    return tuple(sorted({names.node_name(node) for node in value}))


def choose(there: Nodes, wanted: Sequence[str] | None) -> list[str]:
    """The nodes to ask: those that are `wanted`, all that can run the worker where that is None.

    Raises:
        Refused: there are none, or a wanted one is not there or never runs the worker.
    """
    if wanted is None:
        if not there.eligible:
            raise Refused(f"no nodes to sweep: there are {len(there.skipped)}, of which none runs the worker")
        return list(there.eligible)
    left_out = [node for node in wanted if node in there.skipped]
    if left_out:
        raise Refused(f"never swept: {left_out[0]} ({there.skipped[left_out[0]]})")
    unknown = [node for node in wanted if node not in there.eligible]
    if unknown:
        raise Refused(f"not among the nodes to sweep: {', '.join(unknown[:5])} ({len(unknown)} of {len(wanted)})")
    return list(wanted)


def interrupted(ledger: Ledger, *, now: float) -> str | None:
    """The sweep that runs and whose nodes nobody asks any more: the process that did was killed."""
    sweep_id = ledger.current()
    facts = None if sweep_id is None else ledger.facts(sweep_id)
    if sweep_id is None or facts is None or facts.all_asked is not None:
        return None
    over = facts.stopped is not None or facts.error is not None or now >= (facts.until or facts.started + ANSWERS_WITHIN)
    return None if over or ledger.is_leased(sweep_id) else sweep_id


def ask_again(sweep_id: str) -> None:
    """Have a sweep go on with the nodes that were not asked."""
    app.send_task(names.SWEEP, task_id=sweep_id)


def _claim(ledger: Ledger, sweep_id: str) -> None:
    """Be the one sweep that runs.

    Raises:
        Refused: another one does.
    """
    holder = ledger.claim(sweep_id)
    while holder is not None:
        there = ledger.snapshot(holder, reports=False)
        if there is None:
            # It was claimed a moment ago, and is noted in the next one; or whoever claimed it died in between.
            time.sleep(2)
            there = ledger.snapshot(holder, reports=False)
        if there is not None and account.state(there, now=time.time()) == "running":
            raise Refused(f"sweep {holder} is running: wait for it (cni-cleanup report), or stop it (cni-cleanup job --stop)")
        holder = ledger.claim(sweep_id, over=holder)


@contextmanager
def _lease(ledger: Ledger, sweep_id: str) -> Iterator[bool]:
    """Be the only process that asks this sweep's nodes; false where another one is, and goes on to be.

    One that was killed holds its lease for half a minute.
    """
    token = secrets.token_hex(8)
    deadline = time.monotonic() + LEASE + 5
    while not (mine := ledger.take_lease(sweep_id, token)) and time.monotonic() < deadline:
        time.sleep(1)
    try:
        yield mine
    finally:
        if mine:
            ledger.drop_lease(sweep_id, token)


def _ask(ledger: Ledger, facts: Facts) -> dict[str, Any]:
    """Find out the nodes, unless that was done before, and ask those that were not asked yet."""
    expected = ledger.expected(facts.sweep_id) or _expect(ledger, facts)
    asked = ledger.asked(facts.sweep_id)
    left = sorted(expected - asked)
    _log.info(
        "sweep %s asks %d of %d nodes, one every %g s",
        facts.sweep_id,
        len(left),
        len(expected),
        facts.spread,
        extra={"action": "sweep_begun", "sweep_id": facts.sweep_id},
    )
    sent = _fan_out(ledger, facts, left)
    if sent == len(left):
        ledger.note_all_asked(facts.sweep_id, at=time.time())
    return {
        "sweep_id": facts.sweep_id,
        "expected": len(expected),
        "asked": sent,
        "dry_run": facts.dry_run,
        "stopped": sent < len(left),
    }


def _expect(ledger: Ledger, facts: Facts) -> frozenset[str]:
    """Note the nodes that this sweep asks; those that left the cluster are forgotten.

    Raises:
        Refused, CannotDiscover: see sweep.
    """
    # The API server may be in the middle of an upgrade.
    there = retry_over_time(
        lambda: discover(app.settings, selector=facts.selector),
        CannotDiscover,
        max_retries=3,
        interval_start=5,
        interval_step=10,
    )
    chosen = choose(there, facts.nodes)
    if len(chosen) * facts.spread > _LONGEST:
        most = _LONGEST / len(chosen)
        raise Refused(f"a spread of {facts.spread:g} s is too long for {len(chosen)} nodes: at most {most:.2f} s is possible")
    until = time.time() + len(chosen) * facts.spread + ANSWERS_WITHIN
    ledger.expect(facts.sweep_id, chosen, skipped=there.skipped, until=until)
    if there.all_there_are:
        _forget_gone(ledger, there)
    return frozenset(chosen)


def _forget_gone(ledger: Ledger, there: Nodes) -> None:
    """Remove what is kept for nodes that left the cluster: Redis would keep it for ever."""
    gone = ledger.known_nodes() - set(there.eligible) - there.skipped.keys()
    recently = time.time() - _GONE_FOR
    seen = ledger.seen(gone)
    dead = sorted(node for node in gone if seen.get(node, 0.0) < recently)
    if dead:
        ledger.forget(dead)
        _log.info("%d nodes are not in the cluster any more: their queues are removed", len(dead), extra={"action": "forgotten"})


def _fan_out(ledger: Ledger, facts: Facts, nodes: Sequence[str]) -> int:
    """Send each node its job, at the sweep's pace; how many were sent. Less than all if the sweep was stopped.

    Raises:
        kombu.exceptions.OperationalError: the broker cannot take them for so long that it is no restart.
    """
    begun = time.monotonic()
    sent = 0
    while sent < len(nodes) and not ledger.is_stopped(facts.sweep_id):
        due = len(nodes) if not facts.spread else min(len(nodes), int((time.monotonic() - begun) / facts.spread) + 1)
        while sent < due:
            some = nodes[sent : min(due, sent + _BATCH)]
            # Sent twice it does no harm: a node that has answered answers the same again.
            retry_over_time(
                lambda some=some: _send_and_note(ledger, facts, some),
                (OperationalError, BatchPublishError, RedisError, OSError),
                max_retries=None,
                timeout=_OUTAGE,
            )
            sent += len(some)
        ledger.renew_lease(facts.sweep_id)
        if sent < len(nodes):
            # Not one by one: a second's worth of nodes is one round trip.
            time.sleep(min(1.0, facts.spread * (len(nodes) - sent)))
    return sent


def _send_and_note(ledger: Ledger, facts: Facts, nodes: Sequence[str]) -> None:
    send_jobs(nodes, sweep_id=facts.sweep_id, dry_run=facts.dry_run)
    ledger.note_asked(facts.sweep_id, nodes)


def send_jobs(nodes: Sequence[str], *, sweep_id: str, dry_run: bool) -> None:
    """Send each node its job, in one round trip for a thousand.

    Raises:
        kombu.exceptions.OperationalError: the broker cannot take them.
    """
    with (
        app.producer_pool.acquire(block=True) as producer,
        producer.batch(max_size=_BATCH),  # type: ignore[attr-defined]  # the stubs know kombu 5.6
    ):
        for node in nodes:
            app.send_task(
                names.CLEAN_NODE,
                args=[node],
                kwargs={"dry_run": dry_run, "sweep_id": sweep_id},
                producer=producer,
                # A queue's first declaration costs 10 commands and leaves keys for ever; a list needs none.
                declare=[],
                # The ledger has the answers. A result each would be two more commands and a key each.
                ignore_result=True,
                # Otherwise the sweep's own result would list every one of its jobs.
                add_to_parent=False,
                expires=NODE_JOB_EXPIRES,
            )
