"""A small fleet of real processes: recorded nodes with their workers, and control, on a Redis of its own."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import redis
from celery.result import AsyncResult

from cli.demo.nodes import Node, make
from cli.demo.processes import Process, Processes
from cni.settings import Settings
from tasks.celery_app import CleanupApp
from tasks.ledger import Ledger
from tests.support.program import COMMAND, REPOSITORY, child_environment
from workers.configuration import environment_of

READY_WITHIN = 60.0
"""Seconds; one process needs 1 to 3 on an idle machine."""

DONE_WITHIN = 60.0
"""Seconds for one job; a worker's child may take 5 to be replaced after the job before."""


def client_of(broker: str) -> CleanupApp:
    """The application as somebody has it who asks for jobs."""
    app = CleanupApp("client", set_as_current=False)
    app.use(Settings(broker=broker))
    return app


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """The nodes by name, and what asks them."""

    broker: str
    app: CleanupApp
    ledger: Ledger
    redis: "redis.Redis"
    nodes: Mapping[str, Node]
    processes: Processes
    workers: Mapping[str, Process]

    def ask(self, task: str, *args: Any, **options: Any) -> Any:
        """Send a task through the router and wait for its result.

        Raises:
            Exception: what the task raised.
            celery.exceptions.TimeoutError: it was not done in time.
        """
        return self.wait(self.app.send_task(task, args=args, **options))

    def wait(self, result: "AsyncResult[Any]") -> Any:
        """The result of a job that was sent; raises as `ask`."""
        return result.get(timeout=DONE_WITHIN)

    def leak(self, node: str, ip: str, container_id: str) -> str:
        """Reserve an address on a node for a sandbox that nobody knows; `network/IP`."""
        networks = self.nodes[node].directory / "root/var/lib/cni/networks"
        network = min(path.parent.name for path in networks.glob("*/last_reserved_ip.0"))
        (networks / network / ip).write_bytes(f"{container_id}\r\neth0".encode())
        return f"{network}/{ip}"


def start_fleet(
    processes: Processes,
    broker: str,
    directory: Path,
    *,
    known: Sequence[str],
    cautious: Sequence[str] = (),
    variables: Mapping[str, str] | None = None,
) -> Fleet:
    """Start a worker for each node of `known` that is not called `node-down`, and control, which sweeps `known`.

    `cautious` nodes have the dry run in their own settings; all processes have `variables` in their environment.
    Passes do not wait here: the files' ages and the time between looks are other tests' to show.

    Raises:
        AssertionError: one has ended, or does not answer in time.
    """
    running = [name for name in known if name != "node-down"]
    nodes = {node.name: node for node in make(len(running), directory)}
    assert list(nodes) == running
    variables = variables or {}
    control = {**variables, "CNI_CLEANUP_BROKER": broker, "CNI_CLEANUP_STATIC_NODES": ",".join(known)}
    processes.start("control", [*COMMAND, "control"], child_environment(control), REPOSITORY)
    workers = {}
    for node in nodes.values():
        settings = replace(node.settings(broker), min_age=0.0, confirm_after=0.0)
        own = {**variables, **environment_of(settings)} | {"CNI_CLEANUP_DRY_RUN": str(node.name in cautious).lower()}
        workers[node.name] = processes.start(node.name, [*COMMAND, "worker"], child_environment(own), REPOSITORY)
    app = client_of(broker)
    client = redis.Redis.from_url(broker)
    fleet = Fleet(
        broker=broker,
        app=app,
        ledger=Ledger(client),
        redis=client,
        nodes=nodes,
        processes=processes,
        workers=workers,
    )
    _wait_until_ready(fleet)
    return fleet


def _wait_until_ready(fleet: Fleet) -> None:
    waited_for = {f"control@{os.uname().nodename}", *(f"node@{name}" for name in fleet.nodes)}

    def ready() -> bool:
        ended = fleet.processes.ended()
        assert ended is None, f"{ended.name} ended:\n{ended.log_end()}"
        for reply in fleet.app.control.ping(destination=sorted(waited_for), timeout=1.0, limit=len(waited_for)) or ():
            waited_for.difference_update(reply)
        return not waited_for

    assert fleet.processes.wait_for(ready, within=READY_WITHIN), f"no answer from {waited_for}"
