"""The sidecar on a crowded node: what a scrape takes, and what it takes of the node while nobody asks."""

import contextlib
import http.client
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from figures import BenchFailed, Figure
from processes import compiled_environment, cpu_seconds_of, rollup, stop
from trees import Node, make_node, remove_node

RESERVATIONS = 65_000
LIVE = 110

SCRAPES = 1000

SETTLED = 1_600_000_000
"""When the directories were changed last, in seconds since 1970."""

CHANGES_FOR = 40.0
"""Seconds of scrapes of a directory that changes meanwhile: longer than from one count of it to the next."""

WINDOW = 30.0
"""Seconds for which processor time is counted."""

STARTS_WITHIN = 60.0

MIB = 1024.0
"""In KiB, in which the kernel tells memory."""


def sidecar(base: Path) -> Iterator[Figure]:
    """All of its figures, of one process.

    Raises:
        BenchFailed: it does not start, or does not count right.
    """
    node = make_node(base / "sidecar", reservations=RESERVATIONS, live=LIVE)
    try:
        # As on a node that is left in peace: what has just been made is counted once more when it has settled.
        for directory in (path for path in (node.root, *node.root.rglob("*")) if path.is_dir() and not path.is_symlink()):
            os.utime(directory, (SETTLED, SETTLED))
        # The first one byte-compiles what it imports, also for an answer.
        with _started(node, base) as (_, port):
            _expect(port, RESERVATIONS)
        with _started(node, base) as (process, port):
            yield from _figures(node, process.pid, port)
    finally:
        remove_node(node)


def _figures(node: Node, pid: int, port: int) -> Iterator[Figure]:
    _expect(port, RESERVATIONS)
    on = f"with {RESERVATIONS:,} files"
    yield _scraped(f"scrape of the sidecar {on}", _scrapes(port, SCRAPES))
    began, cpu = time.monotonic(), cpu_seconds_of(pid)
    time.sleep(WINDOW)
    percent = (cpu_seconds_of(pid) - cpu) / (time.monotonic() - began) * 100
    memory = rollup(pid)
    pss = memory["Pss"] / MIB
    alone = (memory["Pss_Anon"] + memory["Rss"] - memory["Anonymous"]) / MIB
    yield Figure(f"idle PSS of the sidecar {on}", f"{pss:.1f} MiB", "<= 18 MiB", pss <= 18)
    yield Figure("the same, if no other process mapped its libraries", f"{alone:.1f} MiB")
    yield Figure(f"processor time of the idle sidecar {on}", f"{percent:.3f} % of a core", "<= 0.1 %", percent <= 0.1)
    yield _scraped("the same scrape while the directory changes", list(_scrapes_of_changes(node, port)))
    _expect(port, RESERVATIONS + 1, within=CHANGES_FOR)


def _scraped(name: str, seconds: list[float]) -> Figure:
    ordered = sorted(1000 * one for one in seconds)
    p99 = ordered[int(len(ordered) * 0.99)]
    told = f"{statistics.median(ordered):.2f} ms median, {p99:.2f} p99, {ordered[-1]:.2f} worst of {len(ordered)}"
    return Figure(name, told, "p99 <= 5 ms", p99 <= 5)


def _scrapes(port: int, count: int) -> list[float]:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=STARTS_WITHIN)) as connection:
        return [_scrape(connection)[0] for _ in range(count)]


def _scrapes_of_changes(node: Node, port: int) -> Iterator[float]:
    """Scrapes each right after a reservation came or went."""
    path = node.network / "10.89.200.200"
    until = time.monotonic() + CHANGES_FOR
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=STARTS_WITHIN)) as connection:
        while time.monotonic() < until:
            path.unlink(missing_ok=True)
            yield _scrape(connection)[0]
            path.write_text(f"{0:064x}\r\neth0")
            yield _scrape(connection)[0]
            time.sleep(0.02)


def _scrape(connection: http.client.HTTPConnection) -> tuple[float, str]:
    """Seconds, and what was told."""
    began = time.perf_counter()
    connection.request("GET", "/metrics")
    text = connection.getresponse().read()
    return time.perf_counter() - began, text.decode()


def _expect(port: int, reservations: int, *, within: float = STARTS_WITHIN) -> None:
    """Wait until so many are told.

    Raises:
        BenchFailed: they are not.
    """
    until = time.monotonic() + within
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=STARTS_WITHIN)) as connection:
        while f'cni_cleanup_reservations{{network="cbr0"}} {float(reservations)}\n' not in _scrape(connection)[1]:
            if time.monotonic() > until:
                raise BenchFailed(f"the sidecar does not tell of {reservations} reservations")
            time.sleep(0.2)


@contextlib.contextmanager
def _started(node: Node, base: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The process, and its port, once it serves.

    Raises:
        BenchFailed: it does not.
    """
    command = [sys.executable, "-m", "cli", "server", "--listen=127.0.0.1:0", f"--root={node.root}", f"--state-dir={node.state}"]
    log = base / "sidecar.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=compiled_environment(base), text=True
        )
    try:
        until = time.monotonic() + STARTS_WITHIN
        while not (found := re.search(r"serving http://127\.0\.0\.1:(\d+)/metrics", log.read_text())):
            if process.poll() is not None or time.monotonic() > until:
                raise BenchFailed(f"the sidecar does not start: {log.read_text()}")
            time.sleep(0.1)
        yield process, int(found[1])
    finally:
        stop(process)
