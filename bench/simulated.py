"""
`simulated.py URL SUMMARY FIRST COUNT`: a process that answers for COUNT nodes of the fleet, from the FIRST on.

It takes their jobs from their queues, decodes them, and says to the ledger what the real job says: asks for an earlier report and
for the stop switch, notes that it begins, and records a report: that of a real pass, in the file SUMMARY, in this node's name.
Says `there` when its nodes' workers count as there, and ends when every one has answered.
"""

import base64
import json
import sys
import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import redis
from fanout import node_names

from tasks import names
from tasks.ledger import Ledger, Sign, is_finished, note_worker

WAIT = 120
"""Seconds that it waits for jobs."""

AT_ONCE = 500
"""Queues that are asked in one round trip."""


class Nodes:
    """So many nodes, on one connection."""

    def __init__(self, client: "redis.Redis", summary: dict[str, Any], nodes: Sequence[str]) -> None:
        self._redis = client
        self._ledger = Ledger(client)
        self._summary = summary
        self._node_by_queue = {names.queue_for(node): node for node in nodes}

    def note(self) -> None:
        """Say that their workers are there."""
        with self._redis.pipeline() as batch:
            for node in self._node_by_queue.values():
                note_worker(batch, node, at=time.time())
            batch.execute()

    def answer(self) -> None:
        """Answer each once.

        Raises:
            TimeoutError: one was not asked in time.
        """
        left = set(self._node_by_queue)
        while left:
            # A real worker waits for its one queue. Here one command waits for thousands of them, so it only says when to look.
            first = cast("tuple[bytes, bytes] | None", self._redis.brpop(sorted(left), timeout=WAIT))
            if first is None:
                raise TimeoutError(f"{len(left)} nodes were not asked")
            jobs = [(first[0].decode(), first[1]), *self._take(sorted(left))]
            for queue, message in jobs:
                self._do(self._node_by_queue[queue], message)
                left.discard(queue)

    def _take(self, queues: Sequence[str]) -> list[tuple[str, bytes]]:
        found = []
        for start in range(0, len(queues), AT_ONCE):
            some = queues[start : start + AT_ONCE]
            with self._redis.pipeline(transaction=False) as batch:
                for queue in some:
                    batch.rpop(queue)
                found += [(queue, message) for queue, message in zip(some, batch.execute(), strict=True) if message]
        return found

    def _do(self, node: str, message: bytes) -> None:
        sweep_id = _sweep_of(node, message)
        before = self._ledger.report(sweep_id, node)
        if (before is not None and is_finished(before)) or self._ledger.is_stopped(sweep_id):
            return
        self._ledger.sign(sweep_id, node, Sign(what="begun", at=time.time()))
        now = datetime.now(UTC)
        own = {
            "node": node,
            "sweep_id": sweep_id,
            "pass_id": str(uuid.uuid4()),
            "started": (now - timedelta(seconds=61)).isoformat(),
            "finished": now.isoformat(),
        }
        self._ledger.record(sweep_id, node, self._summary | own)


def _sweep_of(node: str, message: bytes) -> str:
    """The sweep that a Celery message, as kombu writes it to a list, asks `node` to clean for.

    Raises:
        ValueError: it asks for something else.
    """
    envelope = json.loads(message)
    headers, properties = envelope["headers"], envelope["properties"]
    if (headers["task"], properties["body_encoding"]) != (names.CLEAN_NODE, "base64"):
        raise ValueError(f"not a job for a node: {headers}")
    args, kwargs, _ = json.loads(base64.b64decode(envelope["body"]))
    if args != [node]:
        raise ValueError(f"{node} was sent the job of {args}")
    return names.sweep_id(kwargs["sweep_id"])


def main(url: str, summary: str, first: str, count: str) -> None:
    """Be those nodes."""
    every = node_names(int(first) + int(count))
    # Redis itself ends the waiting.
    with redis.Redis.from_url(url, socket_timeout=None) as client:
        nodes = Nodes(client, json.loads(Path(summary).read_text()), every[int(first) :])
        nodes.note()
        print("there", flush=True)
        nodes.answer()


if __name__ == "__main__":
    main(*sys.argv[1:])
