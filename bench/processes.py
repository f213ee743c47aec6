"""Running and measuring processes, none of which outlives the bench."""

import contextlib
import os
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

LIMIT = 60.0
"""Seconds for one process."""


@dataclass(frozen=True)
class Measured:
    """What one process took."""

    #: Wall time.
    seconds: float
    #: Its largest resident set, in MiB.
    peak: float


class ProcessFailed(Exception):
    """A measured process ended with an exit status other than 0; the text has its last line."""


def environment(home: Path) -> dict[str, str]:
    """An environment in which nothing of the caller's configures the product."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8", "HOME": str(home)}


def measure(command: Sequence[str | Path], *, home: Path) -> Measured:
    """Run a command to its end, at most for `LIMIT` seconds.

    A process's peak is at least that of the one that started it (the kernel keeps it over exec), so whoever calls this must stay
    small.

    Raises:
        ProcessFailed: it ended with another exit status than 0, or was killed because it took too long.
    """
    with tempfile.TemporaryFile() as said:
        started = time.monotonic()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said, env=environment(home)
        )
        killer = threading.Timer(LIMIT, process.kill)
        killer.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.monotonic() - started
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            killer.cancel()
            stop(process)
        if process.returncode != 0:
            said.seek(0)
            last = said.read().decode(errors="replace").strip().rpartition("\n")[2]
            raise ProcessFailed(f"{Path(command[0]).name} ended with {process.returncode}: {last}")
    return Measured(seconds, usage.ru_maxrss / 1024)


def stop(process: subprocess.Popen[bytes] | subprocess.Popen[str]) -> None:
    """Kill a process if it still runs."""
    if process.returncode is None:
        process.kill()
        process.wait()


def compiled_environment(base: Path) -> dict[str, str]:
    """An environment in which nothing of the caller's configures the product, and modules are byte-compiled.

    What the caller's environment says of byte-compiling does not count.
    """
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "LANG": "C.UTF-8",
        "HOME": str(base),
        "PYTHONPYCACHEPREFIX": str(base / "compiled"),
    }


def rollup(pid: int) -> dict[str, int]:
    """What the kernel sums up of a process's memory, in KiB."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return {name: int(kib) for name, kib in re.findall(r"^(\w+): +(\d+) kB$", text, re.MULTILINE)}


def cpu_seconds_of(pid: int) -> float:
    """Seconds that the threads of a process have run."""
    return sum(int(text.split()[0]) for text in texts(f"/proc/{pid}/task", "schedstat")) / 1e9


def texts(directory: str, name: str) -> Iterable[str]:
    """The file `name` in each directory of a directory; what has gone meanwhile is left out."""
    for task in os.listdir(directory):
        with contextlib.suppress(OSError):
            yield Path(directory, task, name).read_text()
