"""
The long-running processes: the worker of one node, and the one that runs sweeps.

Started with `app.Worker(...).start()`: the `celery worker` command line would cost 8 MiB more on every node.
"""

import os
import warnings

from celery.exceptions import SecurityWarning

from cni.settings import Settings
from tasks import names
from tasks.celery_app import app
from tasks.errors import Refused
from workers.clock import SystemClock, remember_clock
from workers.state import State

_HEARTBEAT = 60
"""Seconds between heartbeats: at Celery's own 2 s a fleet of 5,000 would send 2,500 of them a second."""


def start(settings: Settings, *, loglevel: str = "INFO") -> int:
    """Run the worker of the node in `settings` until it is stopped; its exit status.

    Raises:
        Refused: they name no node, or one that cannot be.
        PassAborted: the state directory cannot be written.
    """
    if settings.node is None:
        raise Refused("a worker needs the name of its node: --node NAME, or NODE_NAME in the environment")
    node = names.node_name(settings.node)
    # A step of the wall clock while no pass runs is noticed only if the worker saw the clocks before it.
    remember_clock(State(settings.state_dir), SystemClock())
    return _run(settings, queue=names.queue_for(node), hostname=f"node@{node}", loglevel=loglevel)


def start_control(settings: Settings, *, loglevel: str = "INFO") -> int:
    """Run the worker that does the sweeps until it is stopped; its exit status.

    Raises:
        Refused: the settings name no nodes to sweep.
    """
    if not settings.static_nodes:
        raise Refused("control needs the nodes of its sweeps: --static-nodes a,b, or CNI_CLEANUP_STATIC_NODES")
    hostname = f"control@{os.uname().nodename}"
    return _run(settings, queue=names.CONTROL_QUEUE, hostname=hostname, loglevel=loglevel)


def _run(settings: Settings, *, queue: str, hostname: str, loglevel: str) -> int:
    app.use(settings)
    # Celery reads it when its worker is imported: SIGTERM then gives a running job back to the queue, after
    # `worker_soft_shutdown_timeout`, instead of waiting for its end longer than a pod is given.
    os.environ.setdefault("REMAP_SIGTERM", "SIGQUIT")
    # Celery advises against root, whose files these are.
    warnings.simplefilter("ignore", SecurityWarning)
    worker = app.Worker(
        hostname=hostname,
        queues=[queue],
        loglevel=loglevel,
        # Its banner; the log says the same.
        quiet=True,
        # Both make every worker listen to all the others.
        without_gossip=True,
        without_mingle=True,
        heartbeat_interval=_HEARTBEAT,
    )
    worker.start()
    return int(worker.exitcode or 0)
