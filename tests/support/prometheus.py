"""A real Prometheus of Debian's on the loopback, with the project's own scrape configurations and rules."""

import json
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cli.demo.processes import Process, Processes
from tests.support.monitoring import RULES, load
from tests.support.polling import until
from tests.support.skips import require_program

WITHIN = 60.0
"""Seconds for an answer, or for something to arrive: a scrape a second, and the sidecar looks every five."""

Labels = Mapping[str, str]


class Refused(Exception):
    """Prometheus could not do what it was asked; its own words."""


@dataclass(frozen=True)
class Sample:
    """One element of an answer."""

    labels: Labels
    value: float


@dataclass(frozen=True, kw_only=True)
class Prometheus:
    """One that runs."""

    process: Process
    url: str

    def query(self, expression: str) -> list[Sample]:
        """The answer of an instant query.

        Raises:
            Refused: it is none, or its evaluation failed.
        """
        found = self.ask("query", query=expression)
        if found["resultType"] == "scalar":
            return [Sample({}, float(found["result"][1]))]
        return [Sample(one["metric"], float(one["value"][1])) for one in found["result"]]

    def value(self, expression: str) -> float | None:
        """The one value of an instant query; None if its answer is empty.

        Raises:
            Refused: as `query`.
            ValueError: there are several.
        """
        found = self.query(expression)
        if len(found) > 1:
            raise ValueError(f"{expression} has {len(found)} values")
        return found[0].value if found else None

    def ask(self, path: str, **parameters: str) -> Any:
        """The data of an answer of the HTTP interface.

        Raises:
            Refused: it says what is wrong.
        """
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=WITHIN) as response:  # noqa: S310  # ours, on loopback
                return json.load(response)["data"]
        except urllib.error.HTTPError as error:
            with error:
                raise Refused(f"{parameters}: {json.load(error)['error']}") from error


def start_prometheus(processes: Processes, directory: Path, jobs: Sequence[Mapping[str, Any]]) -> Prometheus:
    """Start it in a new directory, with these jobs and the project's rules, evaluated every second.

    Raises:
        AssertionError: it has ended.
        TimeoutError: it does not get ready.
    """
    program = require_program("prometheus", "prometheus")
    directory.mkdir()
    (directory / "rules.yml").write_text(yaml.safe_dump(_every_second(load(RULES))))
    configuration = {"global": {"evaluation_interval": "1s"}, "rule_files": ["rules.yml"], "scrape_configs": list(jobs)}
    (directory / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    process = processes.start(
        "prometheus",
        [
            str(program),
            f"--config.file={directory / 'prometheus.yml'}",
            f"--storage.tsdb.path={directory / 'data'}",
            "--web.listen-address=127.0.0.1:0",
        ],
        {},
        directory,
    )
    found: list[str] = []

    def is_ready() -> bool:
        assert process.running(), process.log_end()
        log = process.log_end(1000)
        found[:] = re.findall(r'msg="Listening on" address=(127\.0\.0\.1:\d+)', log)
        return bool(found) and "Server is ready to receive web requests" in log

    until(is_ready, seconds=WITHIN, what="a Prometheus that is ready")
    return Prometheus(process=process, url=f"http://{found[0]}")


def _every_second(rules: dict[str, Any]) -> dict[str, Any]:
    return {"groups": [group | {"interval": "1s"} for group in rules["groups"]]}
