"""
`fanout.py ours|loop|group URL NODES`: send every node one job, in one of three ways, and print the seconds that it took.

A process of its own each time, as control's is, that has declared nothing yet. Imports are over when the clock starts.
"""

import os
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

SWEEP_ID = "bench-fan-out"

BATCH = 1000
"""Jobs in one call of `send_jobs`, as the sweep makes it."""


def node_names(count: int) -> list[str]:
    """The nodes of a fleet."""
    return [f"node-{number:05}.bench.example" for number in range(count)]


def ours(url: str, nodes: Sequence[str]) -> Callable[[], object]:
    """As `tasks.sweep` sends them, a thousand in a batch."""
    from cni.settings import Settings
    from tasks.celery_app import app
    from tasks.sweep import send_jobs

    app.use(Settings(broker=url))

    def send() -> None:
        for first in range(0, len(nodes), BATCH):
            send_jobs(nodes[first : first + BATCH], sweep_id=SWEEP_ID, dry_run=False)

    return send


def _stock(url: str) -> Any:
    os.environ["STOCK_BROKER"] = url
    from stock import clean_node

    return clean_node


def _options(node: str) -> dict[str, Any]:
    """One message."""
    return {
        "args": [node],
        "kwargs": {"dry_run": False, "sweep_id": SWEEP_ID},
        "queue": f"node.{node}",
    }


def loop(url: str, nodes: Sequence[str]) -> Callable[[], object]:
    """One `apply_async` after another, by an application with Celery's own settings."""
    task = _stock(url)

    def send() -> None:
        for node in nodes:
            task.apply_async(**_options(node))

    return send


def group(url: str, nodes: Sequence[str]) -> Callable[[], object]:
    """Celery's own way to send many."""
    import celery

    task = _stock(url)

    def signature(node: str) -> Any:
        options = _options(node)
        return task.s(*options["args"], **options["kwargs"]).set(queue=options["queue"])

    def send() -> None:
        celery.group(signature(node) for node in nodes).apply_async()

    return send


WAYS = {"ours": ours, "loop": loop, "group": group}


def main(way: str, url: str, count: str) -> None:
    """Send, and print the seconds."""
    send = WAYS[way](url, node_names(int(count)))
    # What Celery imports when it is first needed, and has been in a process that has begun a sweep.
    for module in ("celery.backends.redis", "kombu.transport.redis"):
        import_module(module)
    started = time.monotonic()
    send()
    print(time.monotonic() - started)


if __name__ == "__main__":
    main(*sys.argv[1:])
