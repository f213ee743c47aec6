"""Signs of life in files: a liveness check asks for their age, and nobody else."""

import logging
import os
import threading
from collections.abc import Callable

_EVERY = 15.0
"""Seconds."""

_log = logging.getLogger(__name__)


def touch(path: str) -> None:
    """Make the file, or make it new.

    Raises:
        OSError: it cannot be written.
    """
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    with open(path, "ab"):
        os.utime(path)


def keep(path: str, *, is_alive: Callable[[], bool], every: float = _EVERY) -> Callable[[], None]:
    """Touch `path` every so many seconds while `is_alive`, in a thread; returns what ends that.

    Where its directory is not there nobody asks, and nothing is done.
    """
    if not os.path.isdir(os.path.dirname(path)):
        return lambda: None
    ended = threading.Event()

    def again_and_again() -> None:
        complained = ""
        while True:
            try:
                if is_alive():
                    touch(path)
            except OSError as error:
                if str(error) != complained:
                    _log.warning("no sign of life: %s", error, extra={"action": "sign_failed"})
                complained = str(error)
            if ended.wait(every):
                return

    threading.Thread(target=again_and_again, name="alive", daemon=True).start()
    return ended.set
