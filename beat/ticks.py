"""Whether the scheduler still ticks."""

import time

_STUCK = 120.0
"""Seconds without a tick until it is taken for stuck: it ticks every ten, and may have to wait for Redis."""


class _Last:
    """When it ticked last, by the monotonic clock; None before the first, while another replica is the one."""

    at: float | None = None


def ticked() -> None:
    """It ticks."""
    _Last.at = time.monotonic()


def is_alive() -> bool:
    """Whether it ticks, or waits for its turn."""
    return _Last.at is None or time.monotonic() - _Last.at < _STUCK
