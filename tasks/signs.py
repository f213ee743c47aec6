"""What Celery alone knows of a job that left no report: that it failed, or came too late. Noted in its sweep's ledger."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from celery.signals import task_failure, task_revoked
from celery.utils.log import get_task_logger
from kombu.exceptions import BatchPublishError, OperationalError  # type: ignore[attr-defined]  # the stubs know kombu 5.6
from redis.exceptions import RedisError

from tasks import names
from tasks.errors import Refused
from tasks.ledger import Facts, Sign, What, open_ledger

_AWAY = (RedisError, OperationalError, BatchPublishError, OSError)
"""What a sweep ends with when the broker was away for too long."""

_UNSIGNED = {"action": "ledger_away"}

_log = get_task_logger(__name__)


@task_failure.connect
def note_failure(
    sender: Any,
    task_id: str,
    exception: BaseException,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    **_more: Any,
) -> None:
    """A task raised, or its process was killed for good: by a time limit, or each time that it was tried."""
    why = f"{type(exception).__name__}: {exception}"
    if sender.name == names.CLEAN_NODE:
        _sign("failed", args, kwargs, str(exception) if isinstance(exception, Refused) else why)
    elif sender.name == names.SWEEP and not isinstance(exception, _AWAY):
        # Of a broker that went away nothing can be noted; control takes the sweep up again.
        _note_failed_sweep(task_id, str(exception) if isinstance(exception, Refused) else why)


@task_revoked.connect
def note_expiry(sender: Any, request: Any, *, expired: bool = False, **_more: Any) -> None:
    """A worker threw a job away that had expired before it was taken."""
    why = "it was taken after it had expired"
    if expired and sender.name == names.CLEAN_NODE:
        _sign("discarded", request.args, request.kwargs, why)
    elif expired and sender.name == names.SWEEP:
        _note_expired_sweep(request.id, why)


def _sign(what: What, args: Sequence[Any], kwargs: Mapping[str, Any], why: str) -> None:
    try:
        sweep_id = kwargs.get("sweep_id", args[2] if len(args) > 2 else None)
        if sweep_id is None:
            return
        node = names.node_of(args, kwargs)
        with open_ledger(tries=1) as ledger:
            ledger.sign(names.sweep_id(sweep_id), node, Sign(what=what, at=time.time(), why=why))
    except (Refused, RedisError) as error:
        _log.warning("the ledger does not have that this job was %s (%s): %s", what, why, error, extra=_UNSIGNED)


def _note_failed_sweep(sweep_id: str, why: str) -> None:
    try:
        with open_ledger(tries=1) as ledger:
            ledger.fail(sweep_id, why)
    except RedisError as error:
        _log.warning("the ledger does not have that sweep %s failed (%s): %s", sweep_id, why, error, extra=_UNSIGNED)


def _note_expired_sweep(sweep_id: str, why: str) -> None:
    """Put a sweep on record that never began: one that is on no list is missed by nobody."""
    try:
        with open_ledger(tries=1) as ledger:
            if ledger.facts(sweep_id) is None:
                ledger.begin(Facts(sweep_id=names.sweep_id(sweep_id), started=time.time(), dry_run=False))
                ledger.fail(sweep_id, why)
    except (Refused, RedisError) as error:
        _log.warning("the ledger does not have that sweep %s was discarded (%s): %s", sweep_id, why, error, extra=_UNSIGNED)
