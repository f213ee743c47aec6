"""Which queue a task goes to: its node's, or `control`. Anything else is refused, nobody would read it."""

from collections.abc import Mapping, Sequence
from typing import Any

from tasks import names
from tasks.errors import Refused


def route(
    name: str,
    args: Sequence[Any] | None,
    kwargs: Mapping[str, Any] | None,
    options: Mapping[str, Any],
    task: object = None,  # noqa: ARG001  # Celery hands it over by name
) -> dict[str, str]:
    """The route of one message, as Celery's `task_routes` asks for it.

    Raises:
        Refused: there is no such task, it names no node, or it is to go to another queue.
    """
    queue = _queue(name, args or (), kwargs or {})
    past_us = next((name for name in ("exchange", "routing_key") if options.get(name)), None)
    if past_us is not None:
        raise Refused(f"{name} goes to queue {queue}: leave the {past_us} out, nobody would read it")
    asked = _name(options.get("queue"))
    if asked not in (None, queue):
        # Celery would let the caller's queue win, and the job would wait for a worker that refuses it.
        raise Refused(f"{name} goes to queue {queue}, not to {asked}: leave the queue out")
    return {"queue": queue}


def _queue(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    if name in (names.CLEAN_NODE, names.SCAN_NODE):
        return names.queue_for(names.node_of(args, kwargs))
    if name in (names.SWEEP, names.REPORT):
        return names.CONTROL_QUEUE
    raise Refused(f"no such task: {name} (there are {names.SWEEP}, {names.CLEAN_NODE}, {names.SCAN_NODE}, {names.REPORT})")


def _name(queue: object) -> str | None:
    """The name of a queue that Celery hands over by name or as an object."""
    return None if queue is None else str(getattr(queue, "name", queue))
