"""
A Celery application as the manual's first steps have it, with this program's tasks: what the fleet's settings are held against.

Started by `celery -A stock worker -c 1`; all settings but the broker and the result backend are Celery's own.
"""

import os
from typing import Any

from celery import Celery

from tasks import names, node_tasks, signs, sweep

__all__ = ["app", "clean_node", "signs"]

_URL = os.environ["STOCK_BROKER"]

app = Celery("stock", broker=_URL, backend=_URL)


@app.task(name=names.CLEAN_NODE)
def clean_node(node: str, dry_run: bool = False, sweep_id: str | None = None) -> Any:  # noqa: FBT001, FBT002  # as ours
    """The same pass."""
    return node_tasks.clean_node(node, dry_run, sweep_id)


@app.task(name=names.SCAN_NODE)
def scan_node(node: str) -> Any:
    """The same look."""
    return node_tasks.scan_node(node)


@app.task(name=names.REPORT)
def report(sweep_id: str | None = None) -> Any:
    """The same account."""
    return sweep.report(sweep_id)
