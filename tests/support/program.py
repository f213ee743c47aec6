"""The program as a process: `python -m cli`, with an environment of its own."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.support.namespaces import unmount_below
from tests.support.skips import require, require_program, require_root

REPOSITORY = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "cli")

TIMEOUT = 60.0
"""Seconds for one run; a second is usual, but the machine may be busy."""

_ELSEWHERE = ("CNI_CLEANUP_", "CELERY_", "FLOWER_", "CE_", "KUBE", "NODE_NAME", "OTEL_", "POD_UID", "NO_COLOR", "FORCE_COLOR")
"""How the variables begin that tell of a cluster, a configuration, a collector of traces or a terminal."""


@dataclass(frozen=True, kw_only=True)
class Done:
    """A run that has ended."""

    status: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The one line that an error is.

        Raises:
            AssertionError: there is more, or none, or a traceback.
        """
        assert self.err.endswith("\n"), f"no whole line: {self.err!r}"
        assert self.err.count("\n") == 1, f"not one line: {self.err!r}"
        assert self.err.startswith("cni-cleanup: "), self.err
        return self.err.strip()


def child_environment(own: Mapping[str, str]) -> dict[str, str]:
    """This process's environment, without what it says of a cluster, a configuration or a terminal, and with `own`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_ELSEWHERE)}
    return {**kept, **own}


def environment(home: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """The same with `home` for the home directory, where a configuration may be."""
    return child_environment({"HOME": os.fspath(home), **(more or {})})


def run(
    *arguments: str | bytes | Path,
    home: Path,
    variables: Mapping[str, str] | None = None,
    before: Sequence[str] = (),
) -> Done:
    """Run it and wait; `before` is a command that starts it.

    Raises:
        subprocess.TimeoutExpired: it was not done in time, and has been killed.
    """
    done = subprocess.run(
        [*before, *COMMAND, *arguments],
        cwd=REPOSITORY,
        env=environment(home, variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=TIMEOUT,
        check=False,
    )
    return Done(status=done.returncode, out=done.stdout.decode(), err=done.stderr.decode())


class Terminal:
    """The program with some of its streams on a terminal; a context manager that ends it.

    `shown` is what that terminal got so far.
    """

    def __init__(self, *arguments: str, home: Path, streams: Sequence[str], variables: Mapping[str, str] | None = None) -> None:
        """`streams` of `stdout` and `stderr` are on the terminal, the others are read by `wait`."""
        self._main, other = os.openpty()
        mine: dict[str, Any] = {name: other if name in streams else subprocess.PIPE for name in ("stdout", "stderr")}
        terminal = {"TERM": "xterm-256color", "COLUMNS": "160", **(variables or {})}
        try:
            self.process = subprocess.Popen(
                [*COMMAND, *arguments], cwd=REPOSITORY, env=environment(home, terminal), stdin=subprocess.DEVNULL, **mine
            )
        finally:
            os.close(other)
        self._shown: list[bytes] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
        self._reader.join()
        os.close(self._main)

    @property
    def shown(self) -> str:
        """All that the terminal got, with its escapes."""
        return b"".join(self._shown).decode()

    def wait(self) -> Done:
        """Its end; `out` and `err` are empty where they went to the terminal.

        Raises:
            subprocess.TimeoutExpired: it has not ended in time.
        """
        out, err = self.process.communicate(timeout=TIMEOUT)
        self._reader.join()
        return Done(status=self.process.returncode, out=(out or b"").decode(), err=(err or b"").decode())

    def _read(self) -> None:
        # A terminal that nobody holds open any more is EIO for its other end.
        with suppress(OSError):
            while piece := os.read(self._main, 65536):
                self._shown.append(piece)


def powerless() -> tuple[str, ...]:
    """What starts a program so that modes and owners bind it; nothing where they bind everybody here anyway.

    Root without these capabilities is still root, so that it can read the program wherever it is installed.
    """
    if os.geteuid() != 0:
        return ()
    setpriv = require_program("setpriv", "util-linux")
    return (os.fspath(setpriv), "--bounding-set=-dac_override,-dac_read_search,-fowner,-chown")


@contextmanager
def small_disk(path: Path, size: int) -> Iterator[Path]:
    """A file system of so many bytes at the new directory `path`. Root only: skips otherwise."""
    path.mkdir()
    with _mounted(path, "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs"):
        yield path


@contextmanager
def read_only(path: Path) -> Iterator[None]:
    """`path`, a directory, can only be read, by root as well. Root only: skips otherwise."""
    with _mounted(path, "--bind", "-o", "ro", os.fspath(path)):
        yield


@contextmanager
def _mounted(path: Path, *options: str) -> Iterator[None]:
    require_root()
    mount = require_program("mount", "mount")
    done = subprocess.run([mount, *options, path], capture_output=True, text=True, timeout=TIMEOUT, check=False)
    require(done.returncode == 0, f"mounting is not allowed here: {done.stderr.strip()}")
    try:
        yield
    finally:
        unmount_below(path)
