"""Celery's consumer, which has to outlive its broker."""

import time
import warnings
from collections.abc import Callable
from typing import Any

from celery.exceptions import CPendingDeprecationWarning
from celery.utils.log import get_logger
from celery.worker import consumer
from redis.exceptions import ResponseError

_AGAIN_AFTER = 5.0
"""Seconds."""

_log = get_logger(__name__)


_UNTOLD = {"action": "end_untold"}


class Consumer(consumer.Consumer):
    """Goes on after two errors of which a worker would die while it has a job: of a lost connection, and of a full memory."""

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Close what is left of a connection that was lost.

        kombu closes it twice. The first time may end half-way, at what it reads there; the second time it wants to give the job
        that runs back to its queue, and has no connection any more.
        """
        with warnings.catch_warnings():
            # Eight lines, each time, about a default of Celery 6.
            warnings.simplefilter("ignore", CPendingDeprecationWarning)
            try:
                super().on_connection_error_after_connected(exc)
            except AttributeError:
                _log.debug("the lost connection was not closed in order", exc_info=True, extra={"action": "close_failed"})
        _wait_after(exc)

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """Wait a while before the next try."""
        super().on_connection_error_before_connected(exc)
        _wait_after(exc)

    def call_soon_ack(self, p: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Acknowledge a job: only by the connection that it came by, and not while the memory of Redis is full.

        Until it is, nothing else is fetched.
        """

        def acknowledge(*args: Any, **kwargs: Any) -> None:
            try:
                p(*args, **kwargs)
            except AttributeError:
                _log.warning(
                    "a job has ended whose connection was lost: it comes again after the visibility timeout", extra=_UNTOLD
                )
            except ResponseError as error:
                again = _AGAIN_AFTER
                _log.warning(
                    "a job has ended and Redis does not take note (%s): tried again in %g s", error, again, extra=_UNTOLD
                )
                self.timer.call_after(_AGAIN_AFTER, acknowledge, args, kwargs)

        return super().call_soon_ack(acknowledge, *args, **kwargs)  # type: ignore[misc]  # the stubs know an older Celery


def _wait_after(error: Exception) -> None:
    """Celery waits for a Redis that does not answer; one that answers with an error it would ask five times a second."""
    if isinstance(error, ResponseError):
        time.sleep(_AGAIN_AFTER)
