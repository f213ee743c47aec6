"""The sweep: one job for every node, and a ledger of who answered."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tasks import names
from tasks.celery_app import NODE_JOB_EXPIRES, app
from tasks.errors import Refused
from tasks.ledger import is_finished, open_ledger

if TYPE_CHECKING:
    from celery import Task

_BATCH = 1000
"""Messages in one round trip to Redis."""


@app.task(name=names.SWEEP, bind=True, throws=(Refused,))
def sweep(
    self: "Task[..., Any]",
    nodes: list[str] | None = None,
    dry_run: bool = False,  # noqa: FBT001, FBT002  # a message's arguments have their order by contract
) -> dict[str, Any]:
    """Ask every node for one pass; `nodes` may narrow that to some. Returns as soon as all are asked.

    The task's own Celery id is the sweep's id, so a retry goes on with the same sweep: nodes that have finished are not asked
    again.

    Raises:
        Refused: an argument is none, a node is not known, or there is none to ask.
        redis.RedisError: the ledger does not answer.
        kombu.exceptions.OperationalError: the broker cannot take the jobs.
    """
    sweep_id = names.sweep_id(self.request.id)
    only_look = names.flag("dry_run", dry_run)
    chosen = choose(app.settings.static_nodes, nodes)
    ledger = open_ledger()
    ledger.begin(sweep_id, chosen, started=datetime.now(UTC), dry_run=only_look)
    finished = {node for node, report in ledger.reports(sweep_id).items() if is_finished(report)}
    asked = [node for node in chosen if node not in finished]
    fan_out(asked, sweep_id=sweep_id, dry_run=only_look)
    return {"sweep_id": sweep_id, "expected": len(chosen), "asked": len(asked), "dry_run": only_look}


def choose(known: Sequence[str], wanted: object) -> list[str]:
    """The nodes to ask, in order and each once: those of `known` that `wanted` names, all where it is None.

    Raises:
        Refused: there are no known ones, or `wanted` is no list of some of them.
    """
    nodes = sorted({names.node_name(node) for node in known})
    if not nodes:
        raise Refused("no nodes to sweep: the control worker needs CNI_CLEANUP_STATIC_NODES")
    if wanted is None:
        return nodes
    if not isinstance(wanted, list) or not wanted:
        raise Refused("nodes must be a list of node names, or left out for all nodes")
    narrowed = sorted({names.node_name(node) for node in wanted})
    unknown = [node for node in narrowed if node not in nodes]
    if unknown:
        raise Refused(f"not among the nodes to sweep: {', '.join(unknown[:5])} ({len(unknown)} of {len(narrowed)})")
    return narrowed


def fan_out(nodes: Iterable[str], *, sweep_id: str, dry_run: bool) -> None:
    """Send each node its job.

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
