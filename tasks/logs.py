"""Celery's logging in this program's form, each line of a job with what it is about."""

from contextlib import ExitStack
from typing import Any

from celery.signals import setup_logging, task_postrun, task_prerun
from kombu.exceptions import OperationalError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from cni.settings import Settings
from tasks import names
from tasks.errors import Refused
from workers import logs

_AWAY = (RedisConnectionError, RedisTimeoutError, OperationalError)
"""Celery tells of each with its traceback, of which Beat has two when Redis goes away."""

_jobs: dict[str, ExitStack] = {}
"""What to leave when a job ends, by its id. A child does one at a time."""


def take_over(settings: Settings) -> None:
    """Have this process log as the settings say, instead of in Celery's own form."""

    def set_up(loglevel: int | str, **_more: Any) -> None:
        logs.set_up(settings.log_format, node=settings.node, level=loglevel, untraced=_AWAY)

    # Celery leaves logging alone where somebody listens to this.
    setup_logging.connect(set_up, weak=False)


@task_prerun.connect
def begin(sender: Any, task_id: str, args: Any, kwargs: Any, **_more: Any) -> None:
    """From here on every line is about the sweep that a job is of."""
    stack = _jobs[task_id] = ExitStack()
    stack.enter_context(logs.about(sweep_id=_sweep_of(sender.name, task_id, args, kwargs)))


@task_postrun.connect
def end(task_id: str, **_more: Any) -> None:
    """A job has ended, and Celery has said so."""
    if task_id in _jobs:
        _jobs.pop(task_id).close()


def _sweep_of(task: str, task_id: str, args: Any, kwargs: Any) -> str | None:
    """The sweep that a message names; None where it names none, or nonsense, which the task refuses in its own words."""
    named = task_id if task == names.SWEEP else kwargs.get("sweep_id", args[2] if len(args) > 2 else None)
    try:
        return None if named is None else names.sweep_id(named)
    except Refused:
        return None
