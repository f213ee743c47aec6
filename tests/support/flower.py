"""Flower and celery-exporter, started by the commands of docs/flower.md."""

import contextlib
import re
import shlex
import urllib.error
import urllib.request

from cli.demo import flower
from cli.demo.flower import Flower
from cli.demo.processes import Process, Processes
from cli.demo.redis_server import free_port
from tests.support.polling import until
from tests.support.program import REPOSITORY, child_environment
from tests.support.skips import require

WITHIN = 60.0
"""Seconds for what takes a few on an idle machine."""

EXPORTER = REPOSITORY / ".venv-exporter/bin/python"


def documented(beginning: str) -> list[str]:
    """The command of the documentation that begins so, as a shell would split it."""
    (line,) = (line for line in _documentation().splitlines() if line.startswith(beginning))
    return shlex.split(line)


def _documentation() -> str:
    return (REPOSITORY / "docs/flower.md").read_text().replace("\\\n", " ")


def documented_tls() -> str:
    """What the documentation adds to the broker's URL for the exporter."""
    (added,) = re.findall(r'^export CE_BROKER_URL="\$CNI_CLEANUP_BROKER(&.+?)"', _documentation(), re.MULTILINE)
    return str(added)


def on_port(command: list[str], port: int) -> list[str]:
    """The command with another port than the documented one, which may be taken here."""
    return shlex.split(re.sub(r"--port[= ]\d+", f"--port={port}", shlex.join(command)))


def start_flower(processes: Processes, broker: str) -> Flower:
    """Flower by the documented command."""
    started = Flower(port=free_port(), user="ops", password="0123abcd")  # noqa: S106  # a made-up one
    variables = {"CNI_CLEANUP_BROKER": broker, "FLOWER_BASIC_AUTH": f"{started.user}:{started.password}"}
    program, *arguments = on_port(documented("celery -A tasks flower "), started.port)
    assert program == "celery"
    processes.start("flower", [*flower.CELERY, *arguments], child_environment(variables), REPOSITORY)
    return started


def start_exporter(processes: Processes, url: str) -> tuple[str, Process]:
    """celery-exporter by the documented command, with `url` for CE_BROKER_URL; its own URL, and itself."""
    require(EXPORTER.exists(), ".venv-exporter is missing: make exporter")
    port = free_port()
    variables = {"CE_BROKER_URL": url, "PROMETHEUS_DISABLE_CREATED_SERIES": "True"}
    command = on_port(documented(".venv-exporter/bin/python "), port)
    process = processes.start(f"exporter-{port}", command, child_environment(variables), REPOSITORY)
    return f"http://127.0.0.1:{port}/", process


def wait_for_answer(url: str) -> None:
    """Wait until a page is there.

    Raises:
        TimeoutError: it is not.
    """

    def answers() -> bool:
        with contextlib.suppress(OSError):
            return answer(url)[0] == 200
        return False

    until(answers, seconds=WITHIN, what=f"the answer of {url}")


def answer(url: str, flower_of: Flower | None = None, data: bytes | None = None) -> tuple[int, str]:
    """Status and body of a request, with Flower's credentials or without any."""
    request = urllib.request.Request(url, data=data)  # noqa: S310  # ours, on loopback
    if flower_of is not None:
        request.add_header("Authorization", flower_of.authorization)
    try:
        with urllib.request.urlopen(request, timeout=WITHIN) as response:  # noqa: S310  # ours, on loopback
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
