"""Signs of life of the long-running processes, sent beside their jobs, from Celery's own loop."""

import time
from collections.abc import Callable
from typing import Any

from celery import bootsteps
from celery.utils.log import get_logger

from tasks.celery_app import app
from tasks.ledger import note_worker, open_ledger
from tasks.sweep import ask_again, interrupted

_EVERY = 60.0
"""Seconds."""

_log = get_logger(__name__)


class _Loop:
    """What is known of Celery's loop. Without a connection there is none: it waits for the broker, which is no reason to die."""

    def __init__(self) -> None:
        self.connected = False
        self.turned_at = 0.0


_loop = _Loop()


def is_turning(*, within: float) -> bool:
    """Whether the worker lives: its loop has turned within so many seconds, or it waits for its broker."""
    return not _loop.connected or time.monotonic() - _loop.turned_at < within


class _Pulse(bootsteps.StartStopStep):
    """Beats in the consumer's loop: from each connection that it makes to the broker to the end of that one."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    #: What each kind of worker has to say.
    beat: Callable[[Any], None]

    #: None also while it was never started: a connection that is lost while it is being made stops every step.
    _timer: Any = None

    def start(self, parent: Any) -> None:
        """The loop is about to turn."""
        _loop.connected, _loop.turned_at = True, time.monotonic()
        self._timer = parent.timer.call_repeatedly(_EVERY, self._turn, (parent,))
        self._turn(parent)

    def stop(self, parent: Any) -> None:
        """It has ended, or lost its connection."""
        _loop.connected = False
        if self._timer is not None:
            parent.timer.cancel(self._timer)
            self._timer = None

    def _turn(self, consumer: Any) -> None:
        _loop.turned_at = time.monotonic()
        try:
            self.beat(consumer)
        except Exception as error:  # noqa: BLE001  # whatever stands in Redis, the worker goes on
            _log.warning("no sign of life reached Redis: %s: %s", type(error).__name__, error, extra={"action": "sign_failed"})


class OfNode(_Pulse):
    """A node's worker notes in the ledger that it is there, by the connection that its events go out on."""

    def beat(self, consumer: Any) -> None:
        """One command."""
        with consumer.event_dispatcher.producer.channel.conn_or_acquire() as client:
            note_worker(client, app.settings.node or "", at=time.time())


class OfControl(_Pulse):
    """Control looks for a sweep whose nodes nobody asks any more, since whoever did was killed."""

    def beat(self, consumer: Any) -> None:  # noqa: ARG002  # as the other one
        """Take it up again."""
        with open_ledger(tries=0) as ledger:
            facts = interrupted(ledger, now=time.time())
        if facts is not None:
            _log.warning("sweep %s was interrupted: it goes on", facts.sweep_id, extra={"action": "sweep_resumed"})
            ask_again(facts)
