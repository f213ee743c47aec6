"""Real ADDs: the host-local plugin, run as the container runtime runs it."""

import json
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

from trees import IPAM, NETWORK, Node

PLACES = ("/usr/lib/cni/host-local", "/opt/cni/bin/host-local")
"""Where Debian's containernetworking-plugins, and everyone else, have it."""

LIMIT = 30.0
"""Seconds for one ADD or DEL."""


class AddFailed(Exception):
    """The plugin refused; the text is its own."""


class Plugin:
    """host-local on one node tree."""

    def __init__(self, executable: Path, node: Node) -> None:
        self._executable = executable
        self._node = node
        self._configuration = json.dumps(
            {
                "cniVersion": "1.0.0",
                "name": NETWORK,
                "type": "bridge",
                "ipam": {**IPAM, "dataDir": str(node.network.parent)},
            }
        )

    def add(self, container_id: str) -> float:
        """Reserve an address for a sandbox; the seconds that it took.

        Raises:
            AddFailed: the plugin refused.
            subprocess.TimeoutExpired: it was not done within `LIMIT` seconds.
        """
        started = time.monotonic()
        self._run("ADD", container_id)
        return time.monotonic() - started

    def delete(self, container_ids: Iterable[str]) -> None:
        """Release the addresses of these sandboxes; raises as `add`."""
        for container_id in container_ids:
            self._run("DEL", container_id)

    def _run(self, command: str, container_id: str) -> None:
        environment = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container_id,
            "CNI_NETNS": "/var/run/netns/bench",
            "CNI_IFNAME": "eth0",
            "CNI_PATH": str(self._executable.parent),
        }
        answer = subprocess.run(
            [self._executable],
            input=self._configuration.encode(),
            stdout=subprocess.PIPE,
            env=environment,
            timeout=LIMIT,
            check=False,
        )
        if answer.returncode != 0:
            raise AddFailed(f"host-local {command}: {answer.stdout.decode(errors='replace').strip()}")


def find_plugin() -> Path | None:
    """The host-local plugin of this machine."""
    return next((Path(place) for place in PLACES if Path(place).is_file()), None)
