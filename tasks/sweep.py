"""The sweep: one job for every node, and a ledger of who answered."""

import base64
import json
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from celery.utils.log import get_task_logger
from kombu.exceptions import BatchPublishError, OperationalError  # type: ignore[attr-defined]  # the stubs know kombu 5.6
from kombu.utils.functional import retry_over_time
from redis.exceptions import RedisError

from tasks import account, broker, names
from tasks.celery_app import NODE_JOB_EXPIRES, SOFT_TIME_LIMIT, app
from tasks.discovery import CannotDiscover, Nodes, discover
from tasks.errors import Refused
from tasks.ledger import LEASE, Facts, Ledger, Snapshot, open_ledger, require_facts, unknown_sweep
from workers import tracing

if TYPE_CHECKING:
    from celery import Task

SPREAD = 0.12
"""Seconds between two nodes: 5,000 begin over ten minutes, so that the Kubernetes API meets eight passes a second, not 5,000."""

_LONGEST = SOFT_TIME_LIMIT - 300
"""Seconds that asking all nodes may take: the sweep is a job like any other, with a time limit."""

_BATCH = 1000
"""Messages in one round trip to Redis."""

_GONE_FOR = 24 * 3600.0
"""Seconds without a sign of a worker before what is kept for a node that is not in the cluster any more is removed: longer than
any two clocks can be apart by mistake of a time zone."""

_OUTAGE = 600.0
"""Seconds for which asking waits for a broker that went away; after that control takes it up when the broker is back."""

_log = get_task_logger(__name__)


@app.task(name=names.SWEEP, bind=True, throws=(Refused, CannotDiscover))
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
    _refuse_elsewhere()
    facts = _facts(self.request.id, nodes, dry_run, selector, spread)
    with open_ledger(tries=broker.PATIENT) as ledger:
        known = ledger.facts(facts.sweep_id)
        if known is not None and _is_through(known):
            # The message came again, or late: another sweep may run by now, and this one's account stands.
            return _answer(known, expected=len(ledger.expected(known.sweep_id)), asked=0, stopped=known.stopped is not None)
        # Nobody takes up again what is not on record: until it is, a memory that is full is waited for as well.
        retry_over_time(lambda: _claim(ledger, facts), RedisError, max_retries=None, timeout=_OUTAGE)
        with _lease(ledger, facts.sweep_id) as lease:
            if lease is None:
                return {"sweep_id": facts.sweep_id, "asked": 0, "why": "another process asks the nodes of this sweep"}
            return _ask(ledger, require_facts(ledger, facts.sweep_id), lease)


@app.task(name=names.REPORT, throws=(Refused,))
def report(sweep_id: str | None = None) -> dict[str, Any]:
    """The account of a sweep, by default of the last one: per node whether it was cleaned, failed or missed, and why.

    Raises:
        Refused: there is no such sweep on record.
        redis.RedisError: the ledger does not answer.
    """
    _refuse_elsewhere()
    with open_ledger() as ledger:
        return account_of(ledger, None if sweep_id is None else names.sweep_id(sweep_id))


def _facts(
    sweep_id: object,
    nodes: object = None,
    dry_run: object = False,  # noqa: FBT002  # in the order of the message
    selector: object = None,
    spread: object = None,
) -> Facts:
    """What a message asks for.

    Raises:
        Refused: an argument is none.
    """
    return Facts(
        sweep_id=names.sweep_id(sweep_id),
        started=time.time(),
        dry_run=names.flag("dry_run", dry_run),
        selector=names.selector(selector),
        spread=SPREAD if spread is None else names.spread(spread),
        nodes=wanted_nodes(nodes),
    )


def queued(ledger: Ledger) -> list[Facts]:
    """The sweeps that somebody asked for and no control worker has taken."""
    found = []
    for message in ledger.waiting(names.CONTROL_QUEUE):
        with suppress(Refused, KeyError, TypeError, ValueError):
            if message["headers"]["task"] == names.SWEEP:
                args, kwargs, _ = json.loads(base64.b64decode(message["body"]))
                found.append(_facts(message["headers"]["id"], *args, **kwargs))
    return found


def go_on(ledger: Ledger, facts: Facts) -> None:
    """Let a sweep that was stopped go on with the nodes that have not answered, with as much time as it had at first."""
    nodes = len(ledger.expected(facts.sweep_id))
    ledger.resume(facts.sweep_id, until=time.time() + nodes * facts.spread + account.ANSWERS_WITHIN)
    ask_again(facts)


def _refuse_elsewhere() -> None:
    """Refuse what is control's to do: whoever writes to a node's queue may ask for less than its settings, not for a sweep.

    Raises:
        Refused: this is a node's worker.
    """
    if not app.is_control:
        raise Refused("sweeps and their accounts are control's: this is not its worker")


def account_of(ledger: Ledger, sweep_id: str | None) -> dict[str, Any]:
    """The account of a sweep, of the last one where it is None.

    Raises:
        Refused: there is no such sweep on record.
    """
    return account.document(snapshot_of(ledger, sweep_id), now=time.time())


def snapshot_of(ledger: Ledger, sweep_id: str | None) -> Snapshot:
    """All that is known of a sweep, of the last one where `sweep_id` is None.

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
    return found


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


def interrupted(ledger: Ledger, *, now: float) -> Facts | None:
    """The sweep that runs and whose nodes nobody asks any more: the process that did was killed."""
    sweep_id = ledger.current()
    facts = None if sweep_id is None else ledger.facts(sweep_id)
    if sweep_id is None or facts is None or facts.all_asked is not None:
        return None
    over = facts.stopped is not None or facts.error is not None or now >= account.deadline(facts)
    return None if over or ledger.is_leased(sweep_id) else facts


def ask_again(facts: Facts) -> None:
    """Have a sweep go on with the nodes that were not asked.

    With all that it was told at first: its record may be lost until the message is taken, and what is left out asks for more.
    """
    wanted = {"dry_run": facts.dry_run, "selector": facts.selector, "spread": facts.spread}
    nodes = None if facts.nodes is None else list(facts.nodes)
    app.send_task(names.SWEEP, kwargs={"nodes": nodes, **wanted}, task_id=facts.sweep_id)


def _is_through(facts: Facts) -> bool:
    """Whether nobody is to be asked for this sweep any more, unless it is resumed."""
    return facts.all_asked is not None or facts.stopped is not None or facts.error is not None


def _claim(ledger: Ledger, facts: Facts) -> None:
    """Begin as the one sweep that runs.

    Raises:
        Refused: another one does.
    """
    holder = ledger.claim(facts)
    while holder is not None:
        there = ledger.snapshot(holder, reports=False)
        if there is not None and account.state(there, now=time.time()) == "running":
            raise Refused(f"sweep {holder} is running: wait for it (cni-cleanup report), or stop it (cni-cleanup job --stop)")
        holder = ledger.claim(facts, over=holder)


@contextmanager
def _lease(ledger: Ledger, sweep_id: str) -> Iterator[str | None]:
    """Be the only process that asks this sweep's nodes, by what is yielded; None where another one is, and goes on to be.

    One that was killed holds its lease for half a minute.
    """
    token = secrets.token_hex(8)
    deadline = time.monotonic() + LEASE + 5
    while not (mine := ledger.take_lease(sweep_id, token)) and time.monotonic() < deadline:
        time.sleep(1)
    try:
        yield token if mine else None
    finally:
        if mine:
            ledger.drop_lease(sweep_id, token)


def _ask(ledger: Ledger, facts: Facts, lease: str) -> dict[str, Any]:
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
    sent = _fan_out(ledger, facts, left, lease)
    if sent == len(left):
        ledger.note_all_asked(facts.sweep_id, at=time.time())
    return _answer(facts, expected=len(expected), asked=sent, stopped=sent < len(left))


def _answer(facts: Facts, *, expected: int, asked: int, stopped: bool) -> dict[str, Any]:
    # In this order: a list of jobs shows the beginning only, and the sweep's id stands beside it.
    answer: dict[str, Any] = {"asked": asked, "expected": expected, "dry_run": facts.dry_run, "stopped": stopped}
    answer["sweep_id"] = facts.sweep_id
    tracing.note(lambda: answer)
    return answer


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
    until = time.time() + len(chosen) * facts.spread + account.ANSWERS_WITHIN
    ledger.expect(facts.sweep_id, chosen, skipped=there.skipped, until=until)
    if there.all_there_are and facts.nodes is None and not facts.dry_run:
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


def _fan_out(ledger: Ledger, facts: Facts, nodes: Sequence[str], lease: str) -> int:
    """Send each node its job, at the sweep's pace; how many were sent.

    Less than all if the sweep was stopped, or if another process asks its nodes: Redis was away for longer than a lease.

    Raises:
        kombu.exceptions.OperationalError: the broker cannot take them for so long that it is no restart.
    """
    begun = time.monotonic()
    sent = 0
    while sent < len(nodes) and not ledger.is_stopped(facts.sweep_id):
        due = len(nodes) if not facts.spread else min(len(nodes), int((time.monotonic() - begun) / facts.spread) + 1)
        while sent < due:
            some = nodes[sent : min(due, sent + _BATCH)]
            # Sent twice it does no harm: a node that has answered answers the same again. In a context of its own, since the span
            # of a message that could not be sent stays open in it: the next ones would be parts of that.
            retry_over_time(
                lambda some=some: copy_context().run(_send_and_note, ledger, facts, some),
                (OperationalError, BatchPublishError, RedisError, OSError),
                max_retries=None,
                timeout=_OUTAGE,
            )
            sent += len(some)
        if not ledger.renew_lease(facts.sweep_id, lease):
            break
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
    kwargs = {"dry_run": dry_run, "sweep_id": sweep_id}
    with (
        app.producer_pool.acquire(block=True) as producer,
        producer.batch(max_size=_BATCH),  # type: ignore[attr-defined]  # the stubs know kombu 5.6
    ):
        for node in nodes:
            app.send_task(
                names.CLEAN_NODE,
                args=[node],
                kwargs=kwargs,
                producer=producer,
                # A queue's first declaration costs 10 commands and leaves keys for ever; a list needs none.
                declare=[],
                # The ledger has the answers. A result each would be two more commands and a key each.
                ignore_result=True,
                # Otherwise the sweep's own result would list every one of its jobs.
                add_to_parent=False,
                expires=NODE_JOB_EXPIRES,
                # For the log and for Flower. Made by Celery, which first looks how deep they are, these took a fifth of the time.
                argsrepr=repr([node]),
                kwargsrepr=repr(kwargs),
            )
