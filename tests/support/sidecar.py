"""A node's sidecar as a process."""

import re
from dataclasses import dataclass, replace

from cli.demo.processes import Process, Processes
from cni.settings import Settings
from tests.support.http import get
from tests.support.polling import until
from tests.support.program import COMMAND, REPOSITORY, child_environment
from workers.configuration import environment_of


@dataclass(frozen=True, kw_only=True)
class Sidecar:
    """One that serves on the loopback."""

    process: Process
    port: int

    def samples(self) -> dict[str, float]:
        """Every sample of /metrics by its name and labels."""
        status, text = get(self.port, "/metrics")
        assert status == 200
        lines = (line.rpartition(" ") for line in text.decode().splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in lines}


def start_sidecar(processes: Processes, settings: Settings, name: str = "sidecar") -> Sidecar:
    """Start it on a free port and wait until it serves.

    Raises:
        AssertionError: it has ended.
    """
    environment = child_environment(environment_of(replace(settings, listen="127.0.0.1:0")))
    process = processes.start(name, [*COMMAND, "server"], environment, REPOSITORY)
    found: list[str] = []

    def serves() -> bool:
        assert process.running(), process.log_end()
        found[:] = re.findall(r"serving http://127\.0\.0\.1:(\d+)/metrics", process.log_end())
        return bool(found)

    until(serves, what="a sidecar that serves")
    return Sidecar(process=process, port=int(found[0]))
