"""
What a worker does beside its jobs, in a thread and with no broker.

It says that it is alive, finds out whether it is ready, and makes a pass of its own accord when a network fills up.
"""

import contextlib
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from cni.errors import CleanupError
from cni.settings import Settings
from workers.clock import Clock, SystemClock
from workers.configuration import environment_of
from workers.state import State
from workers.usage import Counter, Usage

ALIVE = "alive"
"""The file that is touched while the worker lives: a liveness check asks for its age, and nobody else."""

READY = "ready"
"""The file that is there from the first preflight that was good on."""

EVERY = 15.0
"""Seconds between two looks: a crash-looping pod drains a /24 in minutes."""

EARLY_AT_MOST_EVERY = 600.0
"""Seconds between two passes of the worker's own accord."""

PREFLIGHT_EVERY = 60.0
"""Seconds between two preflights, until one is good."""

_EARLY = "early.json"

Run = Callable[[Literal["clean", "check"]], int]
"""Does it in a process of its own, waits, and tells its exit status."""

_log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Companion:
    """The three duties; `tick` does what is due."""

    settings: Settings
    run: Run
    #: Whether the worker's main loop still turns.
    is_alive: Callable[[], bool] = lambda: True
    clock: Clock = field(default_factory=SystemClock)

    def __post_init__(self) -> None:
        self._state = State(self.settings.state_dir)
        self._counter = Counter(self.settings)
        self._checked_at: float | None = None
        self._is_ready = False
        self._complained: str | None = None
        with contextlib.suppress(OSError):
            os.unlink(self._state.path(READY))

    def tick(self) -> None:
        """Do what is due; never raises."""
        try:
            if self.is_alive():
                touch(self._state.path(ALIVE))
            self._preflight()
            self._early_pass()
        except (CleanupError, OSError, ValueError, TypeError, KeyError) as error:
            # Once, not every quarter of a minute.
            if str(error) != self._complained:
                _log.warning("beside the jobs: %s", error, extra={"action": "companion_failed"})
            self._complained = str(error)
        else:
            self._complained = None

    def _preflight(self) -> None:
        now = self.clock.monotonic()
        if self._is_ready or (self._checked_at is not None and now - self._checked_at < PREFLIGHT_EVERY):
            return
        self._checked_at = now
        if self.run("check") == 0:
            self._is_ready = True
            touch(self._state.path(READY))
            _log.info("ready: it can read, lock and ask", extra={"action": "ready"})
        else:
            _log.warning("not ready: see the lines above; asked again in %g s", PREFLIGHT_EVERY, extra={"action": "not_ready"})

    def _early_pass(self) -> None:
        if not self.settings.early_at:
            return
        full = [usage for usage in self._counter.count() if usage.is_over(self.settings.early_at)]
        if full and self._is_due():
            _log.warning("%s: a pass is made at once", _told(full), extra={"action": "early_pass"})
            self._state.write_json(_EARLY, {"boot_id": self.clock.boot_id(), "at": self.clock.monotonic()})
            self.run("clean")

    def _is_due(self) -> bool:
        """Whether the last early pass was long enough ago; a worker that is started again and again remembers it."""
        last = self._state.read_json(_EARLY)
        if not isinstance(last, dict) or last.get("boot_id") != self.clock.boot_id():
            return True
        return not 0 <= self.clock.monotonic() - float(last["at"]) < EARLY_AT_MOST_EVERY


def in_process(settings: Settings) -> Run:
    """Run a pass or a preflight of the node in a process of its own, with these settings; its log is this process's."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith("CNI_CLEANUP_")}
    environment |= environment_of(settings)

    def run(what: Literal["clean", "check"]) -> int:
        # -P: the working directory holds nothing of ours.
        command = [sys.executable, "-P", "-m", "workers", what]
        return subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, check=False).returncode

    return run


def start(companion: Companion, *, every: float = EVERY) -> Callable[[], None]:
    """Tick in a thread; returns what ends that."""
    ended = threading.Event()

    def run() -> None:
        companion.tick()
        while not ended.wait(every):
            companion.tick()

    threading.Thread(target=run, name="companion", daemon=True).start()
    return ended.set


def touch(path: str) -> None:
    """Make the file, or make it new."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    with open(path, "ab"):
        os.utime(path)


def _told(full: list[Usage]) -> str:
    most = max(full, key=lambda usage: usage.reserved / (usage.capacity or 1))
    return f"network {most.network} has {most.reserved} of {most.capacity} addresses reserved"
