"""Processes that the demo starts, and stops again however it ends."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

_GRACE = 10.0
"""Seconds between SIGTERM and SIGKILL. A worker that waits for its broker notices a SIGTERM within 5 s."""

_ENDED = os.WEXITED | os.WNOHANG | os.WNOWAIT


class Process:
    """One process in a session of its own, so that a Ctrl-C in the terminal reaches the demo and not it."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str] | None,
        directory: Path | None,
        log: Path,
    ) -> None:
        self.name = name
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=directory,
                start_new_session=True,
            )
        self.pid = self._process.pid

    def running(self) -> bool:
        """Whether it has not ended. One that has is not reaped here: until `end` nobody else can get its id."""
        return self._process.returncode is None and os.waitid(os.P_PID, self.pid, _ENDED) is None

    def terminate(self) -> None:
        """Ask it to end."""
        if self._process.returncode is None:
            os.kill(self.pid, signal.SIGTERM)

    def end(self) -> None:
        """Kill what is left of it and of its children."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()

    def log_end(self, lines: int = 20) -> str:
        """The last lines that it wrote."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:]) or "(nothing)"


class Processes:
    """Those of one demo, oldest first; each writes to `<name>.log`."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._started: list[Process] = []
        self._is_to_end = False

    def note_end(self, _number: int, _frame: object) -> None:
        """Have the next `check` raise: a signal handler."""
        self._is_to_end = True

    def check(self) -> None:
        """Go on, or end.

        Raises:
            Interrupted: a signal said so.
        """
        if self._is_to_end:
            raise Interrupted

    def start(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
    ) -> Process:
        """Start one, in this process's environment and working directory unless told otherwise.

        Raises:
            OSError: its program cannot be run.
        """
        process = Process(name, command, environment, directory, self._logs / f"{name}.log")
        self._started.append(process)
        return process

    def ended(self) -> Process | None:
        """One that should run and does not, if there is one."""
        return next((process for process in self._started if not process.running()), None)

    def wait_for(self, condition: Callable[[], bool], *, within: float, every: float = 0.1) -> bool:
        """Whether `condition` came true within so many seconds; it is asked `every` so many.

        Raises:
            Interrupted: as `check`.
        """

        def is_true() -> bool:
            self.check()
            return condition()

        return _came_true(is_true, within=within, every=every)

    def stop(self) -> None:
        """Stop all: first those that talk to Redis, then Redis, which was the first to start."""
        for group in (self._started[1:], self._started[:1]):
            self._stop(group)

    def _stop(self, group: Sequence[Process]) -> None:
        for process in group:
            process.terminate()
        _came_true(lambda: not any(process.running() for process in group), within=_GRACE, every=0.02)
        for process in group:
            process.end()


def _came_true(condition: Callable[[], bool], *, within: float, every: float) -> bool:
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(every)
    return True


class Interrupted(BaseException):
    """Somebody asked by SIGTERM or SIGHUP to end, as by Ctrl-C."""


@contextlib.contextmanager
def running(logs: Path, *, checked: bool = False) -> Iterator[Processes]:
    """Processes that are all gone when the block is left, also by Ctrl-C, SIGTERM or SIGHUP.

    Where the block is `checked`, it asks `check` and `wait_for` often, and these signals, and Ctrl-C, end it only there: an
    exception that meets Python in the middle of an import can be lost, or have it end itself by SIGINT whatever its status.

    Raises:
        Interrupted: in the block, at a SIGTERM or SIGHUP.
    """

    def interrupt(_number: int, _frame: object) -> None:
        raise Interrupted

    processes = Processes(logs)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        # Ignored: somebody started this with nohup.
        if handler is not signal.SIG_IGN and (checked or number != signal.SIGINT):
            signal.signal(number, processes.note_end if checked else interrupt)
    try:
        yield processes
    finally:
        # A second Ctrl-C must not leave half of them behind.
        for number in before:
            signal.signal(number, signal.SIG_IGN)
        processes.stop()
        for number, handler in before.items():
            signal.signal(number, handler)
