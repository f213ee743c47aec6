"""The demo's Flower: loopback only, a free port, a password of its own."""

import base64
import http.client
import importlib.util
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cli.demo.processes import Processes
from cli.demo.redis_server import free_port
from cni.errors import CleanupError

CELERY = (sys.executable, "-m", "celery")
"""The `celery` of this environment, whatever the PATH says."""

OPTIONS = (
    "--read-only",
    "--enable-events=false",
    "--max-workers=6000",
    "--max-tasks=20000",
    "--tasks-columns=worker,name,args,state,result,received,runtime,uuid",
)
"""As docs/flower.md has them, with the reason of each."""

_READY_WITHIN = 40.0
"""Seconds until it must answer; 2 on an idle machine."""


@dataclass(frozen=True, kw_only=True)
class Flower:
    """One that answers."""

    port: int
    user: str
    password: str

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}/"

    @property
    def url_with_password(self) -> str:
        """The same for a browser that shall not ask."""
        return f"http://{self.user}:{self.password}@127.0.0.1:{self.port}/"

    @property
    def authorization(self) -> str:
        """The header of that name, of its user."""
        return f"Basic {base64.b64encode(f'{self.user}:{self.password}'.encode()).decode()}"

    def status(self, path: str, *, as_user: bool) -> int:
        """What it answers to a GET of its user, or of nobody.

        Raises:
            OSError: nobody answers.
            http.client.HTTPException: that is no HTTP.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", path, headers={"Authorization": self.authorization} if as_user else {})
            return connection.getresponse().status
        finally:
            connection.close()


def is_installed() -> bool:
    """Whether the package is there: it comes with the extras `demo` and `flower`."""
    return importlib.util.find_spec("flower") is not None


def start(processes: Processes, environment: Mapping[str, str], directory: Path) -> Flower:
    """Start one in `directory`, for the broker that `environment` tells of, and wait until it answers.

    Raises:
        CleanupError: it does not; the message ends with its log.
    """
    flower = Flower(port=free_port(), user="demo", password=secrets.token_hex(8))
    command = [*CELERY, "-A", "tasks", "flower", "--address=127.0.0.1", f"--port={flower.port}", *OPTIONS]
    # Not among the arguments, which every user of the machine may read.
    secret = {"FLOWER_BASIC_AUTH": f"{flower.user}:{flower.password}"}
    process = processes.start("flower", command, {**environment, **secret}, directory)

    def answers() -> bool:
        try:
            # Another program may have taken the port in between: that one does not know the password.
            return (flower.status("/workers", as_user=True), flower.status("/workers", as_user=False)) == (200, 401)
        except (OSError, http.client.HTTPException):
            return not process.running()

    if not processes.wait_for(answers, within=_READY_WITHIN) or not process.running():
        raise CleanupError(f"Flower does not answer; its log ends:\n{process.log_end()}")
    return flower
