"""Waiting for something to become true, never for time to pass."""

import time
from collections.abc import Callable


def until(condition: Callable[[], object], *, seconds: float = 30.0, what: str = "the condition") -> None:
    """Poll until `condition()` is true.

    Raises:
        TimeoutError: it is not within `seconds`; the message names `what`.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come true in {seconds:g} s")
        time.sleep(0.01)
