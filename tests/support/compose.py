"""docker-compose.yml as a project of its own, on free ports."""

import json
import secrets
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from subprocess import CompletedProcess
from typing import Any

from cli.demo.redis_server import free_port
from tests.support.containers import Engine, EngineError, Images

NODES = ("node-1", "node-2", "node-3")

ONCE = frozenset({"secrets", "seed"})
"""Services that do one thing and end."""


@dataclass(frozen=True)
class Stack:
    """The services of docker-compose.yml, with images that are there already."""

    images: Images
    flower_port: int = field(default_factory=free_port)
    prometheus_port: int = field(default_factory=free_port)
    project: str = field(default_factory=lambda: f"cni-cleanup-test-{secrets.token_hex(4)}")

    @property
    def engine(self) -> Engine:
        """Docker, which is told by the environment what is this stack's own."""
        own = {
            "IMAGE_TAG": self.images.tag,
            "FLOWER_PORT": str(self.flower_port),
            "PROMETHEUS_PORT": str(self.prometheus_port),
        }
        return Engine({**self.images.engine.environment, **own})

    def attempt(self, *arguments: str, timeout: float = 180.0) -> "CompletedProcess[str]":
        """Run docker-compose and return its end, good or bad."""
        return self.engine.attempt("docker-compose", "--project-name", self.project, *arguments, timeout=timeout)

    def shell(self, command: str, timeout: float = 300.0) -> "CompletedProcess[str]":
        """Run a line that somebody types, and return its end."""
        return self.engine.attempt("sh", "-c", command, timeout=timeout)

    def compose(self, *arguments: str, timeout: float = 180.0) -> str:
        """What docker-compose says.

        Raises:
            EngineError: it failed.
        """
        done = self.attempt(*arguments, timeout=timeout)
        if done.returncode:
            raise EngineError(f"docker-compose {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout

    def containers(self) -> dict[str, dict[str, Any]]:
        """All that docker knows about its containers, by service; those that ended as well."""
        found = self.engine.inspect("container", *self._ids("ps", "--all"))
        return {one["Config"]["Labels"]["com.docker.compose.service"]: one for one in found}

    def left(self) -> list[str]:
        """Its containers, volumes and networks that are there."""
        return [*self._ids("ps", "--all"), *self._ids("volume", "ls"), *self._ids("network", "ls")]

    def sick(self) -> list[str]:
        """Services that are not as they should be: healthy, or ended well."""
        containers = self.containers()
        return [name for name, one in containers.items() if not _is_well(name, one["State"])]

    def execute(self, service: str, *command: str) -> str:
        """What a command in a running container says.

        Raises:
            EngineError: it failed.
        """
        return self.engine.docker("exec", self.containers()[service]["Id"], *command)

    def files(self, node: str) -> dict[str, str]:
        """The bytes, in hex, of the reservations in a node's volume, by `network/IP`."""
        script = "import json, pathlib; print(json.dumps({str(p): p.read_bytes().hex() for p in pathlib.Path('.').glob('*/*')}))"
        said = self.execute(node, "sh", "-euc", f'cd /node/root/var/lib/cni/networks; python -c "{script}"')
        found = {PurePosixPath(path): data for path, data in json.loads(said).items()}
        return {
            str(path): data
            for path, data in found.items()
            if path.name != "lock" and not path.name.startswith("last_reserved_ip.")
        }

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The answer of Prometheus to an instant query."""
        found: list[dict[str, Any]] = self.prometheus(f"query?query={urllib.parse.quote(expression)}")["result"]
        return found

    def prometheus(self, path: str) -> Any:
        """The data of an answer of its HTTP interface."""
        url = f"http://127.0.0.1:{self.prometheus_port}/api/v1/{path}"
        with urllib.request.urlopen(url, timeout=30) as response:  # ours, on loopback
            return json.load(response)["data"]

    def _ids(self, *listing: str) -> list[str]:
        by_project = f"--filter=label=com.docker.compose.project={self.project}"
        return self.engine.docker(*listing, "--quiet", by_project).split()


def _is_well(service: str, state: dict[str, Any]) -> bool:
    if service in ONCE:
        return (state["Status"], state["ExitCode"]) == ("exited", 0)
    return (state["Status"], state["Health"]["Status"]) == ("running", "healthy")
