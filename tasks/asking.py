"""
`python -m tasks.asking SECONDS`: ask this node's own worker for a pass, and wait for it.

The sidecar starts it, so that nothing of Celery stays in the sidecar's memory. The answer is one JSON object on standard output.
"""

import json
import sys
from typing import Any

from celery.exceptions import TaskRevokedError
from celery.exceptions import TimeoutError as NotInTime
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from cni.errors import CleanupError
from cni.settings import Settings
from tasks import account, broker, names
from tasks.celery_app import app
from tasks.errors import BrokerAway, Refused
from workers import logs
from workers.configuration import settings_from_environment


def ask(settings: Settings, *, within: float) -> dict[str, Any]:
    """Send a job to the queue of this node and wait so many seconds: the status by HTTP, whether it is done, and what came of it.

    A job that nobody has begun by then expires.

    Raises:
        Refused: the settings name no node.
    """
    if settings.node is None:
        raise Refused("the name of this node is not known")
    app.use(settings)
    late = f"not finished within {within:g} s: a pass that has begun goes on (or does no worker run?)"
    try:
        broker.require(broker.url_of(settings))
        # What the task raised comes back as a value: what is raised here is of the way to it.
        report = app.send_task(names.CLEAN_NODE, args=[settings.node], expires=within).get(timeout=within, propagate=False)
    # Celery raises a RuntimeError when it has tried in vain to connect again.
    except (BrokerAway, RedisError, OperationalError, RuntimeError) as error:
        return _answer(503, f"no broker: {' '.join(str(error).split())}")
    except NotInTime:
        return _answer(504, late)
    if isinstance(report, TaskRevokedError):
        return _answer(504, late)
    if isinstance(report, BaseException):
        return _answer(200, f"{type(report).__name__}: {' '.join(str(report).split())}")
    if report["aborted"] is not None and report["aborted"]["reason"] == "busy":
        return _answer(409, f"busy: {report['aborted']['detail']}")
    left = "; ".join(account.failures(report, dry_run=False))
    removed = report["outcomes"].get("removed", 0)
    return _answer(200, left or f"{removed} {'file' if removed == 1 else 'files'} removed", done=not left)


def _answer(status: int, reason: str, *, done: bool = False) -> dict[str, Any]:
    return {"status": status, "done": done, "reason": reason}


def main(within: float) -> None:
    """Ask, and print the answer."""
    logs.set_up("auto", node=None)
    try:
        settings = settings_from_environment()
        logs.set_up(settings.log_format, node=settings.node)
        answer = ask(settings, within=within)
    except CleanupError as error:
        # Nothing was asked.
        answer = _answer(503, str(error))
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main(float(sys.argv[1]))
