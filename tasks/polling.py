"""Asking again and again, beside other work, whether something has come true."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_EVERY = 2.0
"""Seconds."""


@contextmanager
def watching(condition: Callable[[], bool]) -> Iterator[Callable[[], bool]]:
    """Ask `condition` in a thread of its own, until it is true or the block is left; yields what tells whether it was.

    So that who asks what it tells never waits for a broker.
    """
    seen, left = threading.Event(), threading.Event()

    def run() -> None:
        while not left.wait(_EVERY):
            if condition():
                seen.set()
                return

    thread = threading.Thread(target=run, name="watching", daemon=True)
    thread.start()
    try:
        yield seen.is_set
    finally:
        left.set()
