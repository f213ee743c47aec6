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

    #: `HOST:PORT` by node.
    targets: Mapping[str, str]
    token_file: Path

    @property
    def urls(self) -> Sequence[str]:
        """Where they are."""
        return [f"http://{target}" for target in self.targets.values()]


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
    targets = {}
    for node in nodes:
        port = free_port()
        targets[node.name] = f"127.0.0.1:{port}"
        settings = replace(node.settings(broker), listen=targets[node.name], token_file=str(token_file))
        process = processes.start(f"sidecar-{node.name}", command, environment(environment_of(settings)), packages)
        if not processes.wait_for(partial(_answers, port), within=_READY_WITHIN) or not process.running():
            raise CleanupError(f"the sidecar of {node.name} does not answer; its log ends:\n{process.log_end()}")
    return Sidecars(targets=targets, token_file=token_file)


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
