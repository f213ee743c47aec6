"""The demo's sidecars: loopback only, a free port each, and one token for all."""

import http.client
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from cli.demo.nodes import Node
from cli.demo.processes import Processes
from cli.demo.redis_server import free_port
from cni.errors import CleanupError
from workers.configuration import environment_of

_READY_WITHIN = 30.0
"""Seconds until all must answer; 1 on an idle machine."""


@dataclass(frozen=True, kw_only=True)
class Sidecars:
    """Those of all nodes."""

    urls: Sequence[str]
    token_file: Path


def start(
    nodes: Sequence[Node],
    broker: str,
    processes: Processes,
    directory: Path,
    *,
    command: Sequence[str],
    environment: Callable[[Mapping[str, str]], Mapping[str, str]],
    packages: Path,
) -> Sidecars:
    """Start one for each node by `command`, in the environment that is made of its settings, and wait until all answer.

    Raises:
        CleanupError: one does not; the message ends with its log.
    """
    token_file = directory / "token"
    token_file.write_text(secrets.token_hex(16))
    ports = []
    for node in nodes:
        ports.append(free_port())
        settings = replace(node.settings(broker), listen=f"127.0.0.1:{ports[-1]}", token_file=str(token_file))
        process = processes.start(f"sidecar-{node.name}", command, environment(environment_of(settings)), packages)
        if not processes.wait_for(partial(_answers, ports[-1]), within=_READY_WITHIN) or not process.running():
            raise CleanupError(f"the sidecar of {node.name} does not answer; its log ends:\n{process.log_end()}")
    return Sidecars(urls=[f"http://127.0.0.1:{port}" for port in ports], token_file=token_file)


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
