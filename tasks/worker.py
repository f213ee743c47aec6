"""
The long-running processes: the worker of one node, and the one that runs sweeps.

Started with `app.Worker(...).start()`: the `celery worker` command line would cost 8 MiB more on every node.
"""

import gc
import os
import warnings
from typing import Any

from celery import bootsteps
from celery.exceptions import SecurityWarning
from celery.signals import worker_before_create_process, worker_shutting_down
from celery.utils.functional import noop
from celery.worker import state

from cni.settings import Settings
from tasks import broker, logs, names, pulse, tracing
from tasks.celery_app import SOFT_TIME_LIMIT, app
from tasks.discovery import no_way_to_discover
from tasks.errors import Refused
from workers import alive, companion
from workers.clock import SystemClock, remember_clock
from workers.paths import Root
from workers.state import State

CONTROL_ALIVE = "control.alive"
"""The file in the state directory that control touches while it lives."""

_HEARTBEAT = 60
"""Seconds between heartbeats: at Celery's own 2 s a fleet of 5,000 would send 2,500 of them a second."""

_SETTLED_AFTER = 10.0
"""Seconds from its connection until a worker has done all that it does at its start."""

_MOST_CONFIRM_AFTER = SOFT_TIME_LIMIT - 600
"""Seconds; a pass that waits for longer between its looks would meet the time limit of its job."""


def start(settings: Settings, *, loglevel: str = "INFO", pace: companion.Pace = companion.USUAL) -> int:
    """Run the worker of the node in `settings` until it is stopped; its exit status.

    Raises:
        Refused: they name no node, or one that cannot be, or have a pass wait longer than a job may take.
        PassAborted: the state directory cannot be written.
    """
    node = refuse_nonsense(settings)
    # A step of the wall clock while no pass runs is noticed only if the worker saw the clocks before it.
    remember_clock(State(settings.state_dir), SystemClock())
    run = companion.InProcess(settings)
    beside = companion.Companion(
        settings=settings,
        run=run,
        is_alive=lambda: pulse.is_turning(within=pace.stuck),
        pace=pace,
    )
    app.steps["consumer"].add(_SecondChild)
    worker_before_create_process.connect(_freeze)
    end = companion.start(beside)
    try:
        return _run(settings, queue=names.queue_for(node), hostname=f"node@{node}", loglevel=loglevel, step=pulse.OfNode)
    finally:
        end()


def refuse_nonsense(settings: Settings) -> str:
    """The name of the node in `settings`, if a worker can be started with them.

    Raises:
        Refused: it cannot.
    """
    if settings.node is None:
        raise Refused("a worker needs the name of its node: --node NAME, or NODE_NAME in the environment")
    broker.tls(broker.url_of(settings))
    if settings.is_offline and Root(settings.root).is_live and not settings.dry_run:
        raise Refused("witness files are evidence about another moment, and this is a running node: no job could be done")
    if settings.confirm_after > _MOST_CONFIRM_AFTER:
        raise Refused(
            f"--confirm-after is {settings.confirm_after:g}s: a worker's job ends after {SOFT_TIME_LIMIT // 60} minutes,"
            f" so at most {_MOST_CONFIRM_AFTER // 60}m is possible (cni-cleanup clean waits as long as you like)"
        )
    return names.node_name(settings.node)


def start_control(settings: Settings, *, loglevel: str = "INFO") -> int:
    """Run the worker that does the sweeps until it is stopped; its exit status.

    Raises:
        Refused: the settings name no nodes to sweep, and no way to find them.
    """
    broker.tls(broker.url_of(settings))
    why = no_way_to_discover(settings)
    if why is not None:
        raise Refused(why)
    app.is_control = True
    hostname = f"control@{os.uname().nodename}"
    end = alive.keep(
        State(settings.state_dir).path(CONTROL_ALIVE), is_alive=lambda: pulse.is_turning(within=companion.USUAL.stuck)
    )
    try:
        # Two children: one answers tasks.report while the other paces a sweep.
        return _run(settings, queue=names.CONTROL_QUEUE, hostname=hostname, loglevel=loglevel, step=pulse.OfControl, children=2)
    finally:
        end()


class _SecondChild(bootsteps.StartStopStep):
    """Has the first child replaced once the worker has settled, by a job that does nothing.

    A child shares the memory that its parent had written before the fork. Celery makes the first one before it connects, and
    what it writes for that would be memory of two processes: 6 MiB of an idle node until its first weekly job.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self._is_due = True

    def start(self, parent: Any) -> None:
        """The loop is about to turn, for the first time or after a connection was lost; the timers of the last one are gone."""
        if self._is_due:
            parent.timer.call_after(_SETTLED_AFTER, self._replace, (parent.pool,))

    def _replace(self, pool: Any) -> None:
        self._is_due = False
        # After a real job it has been done.
        if not state.total_count:
            pool.apply_async(noop)


def _freeze(**_more: object) -> None:
    """Keep the garbage collector, which writes to each object it looks at, from all that is there before a fork.

    The first full collection, in whichever process, would otherwise end the sharing: 13 MiB more. What was frozen before the last
    fork may have become garbage since.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def _run(
    settings: Settings, *, queue: str, hostname: str, loglevel: str, step: type[bootsteps.StartStopStep], children: int = 1
) -> int:
    app.use(settings)
    logs.take_over(settings)
    app.steps["consumer"].add(step)
    tracing.in_children(settings, "control" if app.is_control else "worker")
    # Celery reads it when its worker is imported: SIGTERM then gives a running job back to the queue, after
    # `worker_soft_shutdown_timeout`, instead of waiting for its end longer than a pod is given.
    os.environ.setdefault("REMAP_SIGTERM", "SIGQUIT")
    # Celery advises against root, whose files these are.
    warnings.simplefilter("ignore", SecurityWarning)
    worker = app.Worker(
        hostname=hostname,
        queues=[queue],
        concurrency=children,
        loglevel=loglevel,
        # Its banner; the log says the same.
        quiet=True,
        # Both make every worker listen to all the others.
        without_gossip=True,
        without_mingle=True,
        heartbeat_interval=_HEARTBEAT,
    )
    stopped: list[str] = []

    def note_stop(sig: str, **_more: Any) -> None:
        stopped.append(sig)

    # To Celery a Ctrl-C is a failure. Who stops a service does not want to be told that it failed.
    worker_shutting_down.connect(note_stop)
    worker.start()
    return 0 if "SIGINT" in stopped else int(worker.exitcode or 0)
