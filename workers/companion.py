"""
What a worker does beside its jobs, in threads of its own and with no broker.

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
from typing import Literal, Protocol

from cni.errors import CleanupError
from cni.settings import Settings
from workers.alive import touch
from workers.clock import Clock, SystemClock
from workers.configuration import environment_for
from workers.state import State
from workers.usage import Counter, Usage

ALIVE = "alive"
"""The file that is touched while the worker lives: a liveness check asks for its age, and nobody else."""

READY = "ready"
"""The file that is there from the first preflight that was good on."""

_EARLY = "early.json"

_LONGEST = 3300.0
"""Seconds after which a pass or a preflight is killed, as a job of the worker's is."""

_ENDS_WITHIN = 5.0
"""Seconds for which a worker that is stopped waits for the process that it started: a signal ends that at once."""

What = Literal["clean", "check"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How often, in seconds."""

    #: Between two looks: a crash-looping pod drains a /24 in minutes. So is a sign of life given.
    look: float = 15.0
    #: Between two preflights, until one is good.
    preflight: float = 60.0
    #: Between the beginnings of two passes of the worker's own accord, at least.
    early: float = 600.0
    #: Without a turn of the main loop, if that has its connection, until it is taken for stuck.
    stuck: float = 300.0


USUAL = Pace()


class Run(Protocol):
    """Makes a pass, or a preflight, in a process of its own."""

    def __call__(self, what: What) -> int:
        """Do it and wait; its exit status."""

    def end(self) -> None:
        """Leave off at once, from another thread, and start nothing more."""


@dataclass(kw_only=True)
class Companion:
    """The three duties: `beat` is the first, `tick` the other two."""

    settings: Settings
    run: Run
    #: Whether the worker's main loop still turns.
    is_alive: Callable[[], bool] = lambda: True
    clock: Clock = field(default_factory=SystemClock)
    pace: Pace = USUAL

    def __post_init__(self) -> None:
        self._state = State(self.settings.state_dir)
        self._counter = Counter(self.settings)
        self._checked_at: float | None = None
        self._is_ready = False
        self._early_at: float | None = None
        #: By duty.
        self._complained: dict[str, str] = {}
        with contextlib.suppress(OSError):
            os.unlink(self._state.path(READY))

    def beat(self) -> None:
        """Give a sign of life, if there is life; never raises."""
        self._do("sign of life", self._say_alive)

    def tick(self) -> None:
        """Do what else is due, which may take as long as a pass; never raises."""
        self._do("preflight", self._preflight)
        self._do("early pass", self._early_pass)

    def _do(self, duty: str, do: Callable[[], None]) -> None:
        try:
            do()
        except Exception as error:  # noqa: BLE001  # whatever it is, the worker's other duties go on
            # Once, not every quarter of a minute.
            if self._complained.get(duty) != str(error):
                _log.warning("beside the jobs, %s: %s", duty, error, extra={"action": "companion_failed"})
            self._complained[duty] = str(error)
        else:
            self._complained.pop(duty, None)

    def _say_alive(self) -> None:
        if self.is_alive():
            touch(self._state.path(ALIVE))

    def _preflight(self) -> None:
        now = self.clock.monotonic()
        if self._is_ready:
            # Whoever emptied the directory meant no harm to the worker.
            touch(self._state.path(READY))
            return
        if self._checked_at is not None and now - self._checked_at < self.pace.preflight:
            return
        self._checked_at = now
        if self.run("check") == 0:
            touch(self._state.path(READY))
            self._is_ready = True
            _log.info("ready: it can read, lock and ask", extra={"action": "ready"})
        else:
            again = self.pace.preflight
            _log.warning("not ready: see the lines above; asked again in %g s", again, extra={"action": "not_ready"})

    def _early_pass(self) -> None:
        if not self.settings.early_at:
            return
        full = [usage for usage in self._counter.count() if usage.is_over(self.settings.early_at)]
        if full and self._is_due():
            now = self.clock.monotonic()
            # Before the pass, and where this cannot be written there is none: it could not keep its journal either.
            self._state.write_json(_EARLY, {"boot_id": self.clock.boot_id(), "at": now})
            self._early_at = now
            _log.warning("%s: a pass is made at once", _told(full), extra={"action": "early_pass"})
            self.run("clean")

    def _is_due(self) -> bool:
        """Whether the last early pass is long enough ago.

        A worker that is started again and again remembers it. What cannot be read puts no pass off, and is replaced by the one
        that is then made: addresses run out meanwhile.
        """
        last = self._remembered() if self._early_at is None else self._early_at
        # Of the future it is from before a start of a node whose kernel hides its boot id.
        return last is None or not 0 <= self.clock.monotonic() - last < self.pace.early

    def _remembered(self) -> float | None:
        with contextlib.suppress(CleanupError, KeyError, TypeError, ValueError, OverflowError):
            last = self._state.read_json(_EARLY)
            if last is not None and last["boot_id"] == self.clock.boot_id():
                return float(last["at"])
        return None


class InProcess:
    """Runs a pass or a preflight of a node in a process of its own, with these settings; its log is this process's."""

    def __init__(self, settings: Settings, *, longest: float = _LONGEST) -> None:
        """It is killed after `longest` seconds."""
        self._longest = longest
        self._environment = environment_for(settings)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._ended = False

    def __call__(self, what: What) -> int:
        """Start it and wait; its exit status, that of a failure where it may not start any more."""
        # -P: the working directory holds nothing of ours.
        command = [sys.executable, "-P", "-m", "workers", what]
        with self._lock:
            if self._ended:
                return 1
            # Left open is only what is not closed by itself, which are the standard streams; and Python then starts it without a
            # fork and a pipe of its own, whose end a child that the worker forks meanwhile would hold open until that one ends.
            process = subprocess.Popen(command, env=self._environment, stdin=subprocess.DEVNULL, close_fds=False)
            self._process = process
        try:
            return process.wait(self._longest)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def end(self) -> None:
        """Stop what runs. It can be killed at any moment: the journal and the locks are made for that."""
        with self._lock:
            self._ended = True
            if self._process is not None:
                self._process.terminate()


def start(companion: Companion) -> Callable[[], None]:
    """Do the duties in threads; returns what ends them, and what they have started."""
    ended = threading.Event()

    def again_and_again(do: Callable[[], None]) -> None:
        do()
        while not ended.wait(companion.pace.look):
            do()

    # Two: a pass may take longer than a liveness check waits for the next sign of life.
    threads = [
        threading.Thread(target=again_and_again, args=(do,), name=f"companion-{do.__name__}", daemon=True)
        for do in (companion.beat, companion.tick)
    ]
    for thread in threads:
        thread.start()

    def end() -> None:
        ended.set()
        companion.run.end()
        for thread in threads:
            thread.join(_ENDS_WITHIN)

    return end


def _told(full: list[Usage]) -> str:
    most = max(full, key=lambda usage: usage.reserved / (usage.capacity or 1))
    return f"network {most.network} has {most.reserved} of {most.capacity} addresses reserved"
