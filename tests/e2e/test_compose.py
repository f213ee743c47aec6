"""The fleet of docker-compose.yml, as somebody has it who clones the repository and starts it."""

import base64
import ipaddress
import json
import re
import time
from collections.abc import Iterator

import pytest

from cli.demo.nodes import Node, make
from cni import __version__
from tests.support import http
from tests.support.compose import NODES, ONCE, Stack
from tests.support.containers import Images
from tests.support.monitoring import load
from tests.support.pages import commands_of
from tests.support.polling import until
from tests.support.program import REPOSITORY
from tests.support.skips import require_program

# All that is waited for is over within two minutes on an idle machine.
pytestmark = pytest.mark.timeout(900)

WITHIN = 180.0
"""Seconds for what should happen; Prometheus scrapes the exporter every 30."""

SECRETS = ("redis-password", "flower-password", "token")

SERVICES = {
    "secrets",
    "seed",
    "redis",
    *NODES,
    *(f"{node}-server" for node in NODES),
    "control",
    "beat",
    "flower",
    "celery-exporter",
    "prometheus",
}


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Node]:
    """What the recordings say of the nodes."""
    return {node.name: node for node in make(len(NODES), tmp_path_factory.mktemp("truth"))}


@pytest.fixture(scope="module")
def stack(images: Images, figures: list[str]) -> Iterator[Stack]:
    """All services, healthy, before any sweep."""
    require_program("docker-compose", "docker-compose")
    started = Stack(images)
    try:
        before = time.monotonic()
        started.compose("up", "--detach")
        until(lambda: not started.sick(), seconds=WITHIN, what="the health of all services")
        figures.append(
            f"docker-compose up until all services are healthy: {time.monotonic() - before:.0f} s, images built before"
        )
        yield started
    finally:
        started.attempt("down", "--volumes", "--timeout=20")


@pytest.fixture(scope="module")
def swept(stack: Stack, truth: dict[str, Node]) -> Stack:
    """The same after one sweep that a person asked for."""
    for node in NODES:
        assert set(stack.files(node)) == truth[node].leaked | truth[node].live
    stack.compose("run", "--rm", "cli", "job", "--autodiscover", "--spread", "0s")
    return stack


def secret(stack: Stack, name: str) -> str:
    return stack.execute("redis", "cat", f"/secrets/{name}").strip()


def live_files(node: Node) -> dict[str, str]:
    return {path: data.hex() for path, data in node.reservations().items() if path in node.live}


def test_the_file_is_quietly_taken_and_names_the_images_of_this_version(images: Images):
    done = Stack(images).attempt("config", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    text = (REPOSITORY / "docker-compose.yml").read_text()
    assert set(re.findall(r"\$\{IMAGE_TAG:-([^}]+)\}", text)) == {__version__}


def test_prometheus_has_the_jobs_that_the_rules_and_dashboards_know():
    here = load(REPOSITORY / "deploy/compose/prometheus.yml")["scrape_configs"]
    assert [job["job_name"] for job in here] == [
        job["job_name"] for job in load(REPOSITORY / "deploy/prometheus/scrape.yml")["scrape_configs"]
    ]
    assert [one["labels"] for one in here[0]["static_configs"]] == [{"node": node} for node in NODES]


class TestStack:
    def test_up_starts_everything_but_the_command_line(self, stack: Stack):
        assert set(stack.containers()) == SERVICES

    def test_everything_is_confined(self, stack: Stack):
        for name, container in stack.containers().items():
            host = container["HostConfig"]
            assert host["ReadonlyRootfs"], name
            assert host["CapDrop"] == ["ALL"], name
            assert host["CapAdd"] == (["CHOWN"] if name == "secrets" else None), name
            assert host["SecurityOpt"] == ["no-new-privileges:true"], name
            assert host["Memory"] > 0, name
            assert host["PidsLimit"] > 0, name
            assert not host["Privileged"], name

    def test_only_what_touches_a_nodes_files_or_makes_the_volumes_is_root(self, stack: Stack):
        def is_root(user: str) -> bool:
            return user.partition(":")[0] in ("", "0", "root")

        roots = {name for name, one in stack.containers().items() if is_root(one["Config"]["User"])}
        assert roots == ONCE | set(NODES) | {f"{node}-server" for node in NODES}

    def test_every_published_port_is_on_loopback(self, stack: Stack):
        published = [
            (name, binding["HostIp"])
            for name, one in stack.containers().items()
            for bindings in (one["NetworkSettings"]["Ports"] or {}).values()
            for binding in bindings or ()
        ]
        assert {name for name, _ in published} == {"flower", "prometheus"}
        assert all(ipaddress.ip_address(address).is_loopback for _, address in published)

    def test_no_password_is_in_an_argument_or_an_environment(self, stack: Stack):
        shown = json.dumps(list(stack.containers().values()))
        for name in SECRETS:
            value = secret(stack, name)
            assert re.fullmatch("[0-9a-f]{48}", value)
            assert value not in shown

    def test_redis_wants_its_password_and_keeps_what_it_is_told(self, stack: Stack):
        assert "NOAUTH" in stack.execute("redis", "redis-cli", "info")
        ask = 'export REDISCLI_AUTH="$(cat /secrets/redis-password)"; redis-cli config get "*"'
        words = stack.execute("redis", "sh", "-c", ask).split("\n")
        settings = dict(zip(words[::2], words[1::2], strict=False))
        assert (settings["appendonly"], settings["maxmemory-policy"]) == ("yes", "noeviction")

    def test_flower_shows_the_workers_to_whoever_has_the_password(self, stack: Stack):
        assert http.get(stack.flower_port, "/api/workers")[0] == 401
        credentials = base64.b64encode(f"ops:{secret(stack, 'flower-password')}".encode()).decode()

        def all_are_shown() -> bool:
            status, body = http.get(stack.flower_port, "/workers?json=1", Authorization=f"Basic {credentials}")
            assert status == 200
            return {f"node@{node}" for node in NODES} <= {one["hostname"] for one in json.loads(body)["data"]}

        # Workers tell of themselves once a minute.
        until(all_are_shown, seconds=WITHIN, what="Flower's list of the workers")


class TestSweep:
    def test_every_leaked_file_is_gone_and_every_live_one_is_there(self, swept: Stack, truth: dict[str, Node]):
        for node in NODES:
            assert swept.files(node) == live_files(truth[node])

    def test_the_account_can_be_read_afterwards(self, swept: Stack):
        account = json.loads(swept.compose("run", "--rm", "cli", "report", "--json"))
        assert {node["node"]: node["state"] for node in account["nodes"]} == dict.fromkeys(NODES, "cleaned")

    def test_prometheus_sees_the_nodes_what_was_removed_and_the_rules(self, swept: Stack, truth: dict[str, Node]):
        def up() -> dict[str, str]:
            found = swept.query("up")
            return {one["metric"].get("node", one["metric"]["job"]): one["value"][1] for one in found}

        def removed() -> dict[str, float]:
            found = swept.query("sum by (node) (cni_cleanup_removed_total)")
            return {one["metric"]["node"]: float(one["value"][1]) for one in found}

        until(lambda: up() == dict.fromkeys([*NODES, "celery-exporter"], "1"), seconds=WITHIN, what="all targets")
        wanted = {node: len(truth[node].leaked) for node in NODES}
        until(lambda: removed() == wanted, seconds=WITHIN, what="the count of what was removed")
        until(lambda: len(swept.query("celery_worker_up == 1")) >= len(NODES), seconds=WITHIN, what="the workers")
        groups = swept.prometheus("rules")["groups"]
        assert {group["name"] for group in groups} >= {"cni-cleanup", "cni-cleanup-alerts"}
        assert not [rule for group in groups for rule in group["rules"] if rule["health"] == "err"]

    def test_a_second_up_changes_no_password_and_brings_no_file_back(self, swept: Stack):
        before = [secret(swept, name) for name in SECRETS], [swept.files(node) for node in NODES]
        ids = {name: one["Id"] for name, one in swept.containers().items()}
        swept.compose("up", "--detach")
        until(lambda: not swept.sick(), seconds=WITHIN, what="the health of all services")
        assert ([secret(swept, name) for name in SECRETS], [swept.files(node) for node in NODES]) == before
        assert {name: one["Id"] for name, one in swept.containers().items()} == ids


WAIT_FOR_A_LOCK = """
import os, time
inode = os.stat("/node/state/pass.lock").st_ino
while not any(line.split()[1] == "FLOCK" and line.split()[5].endswith(f":{inode}") for line in open("/proc/locks")):
    time.sleep(0.01)
"""
"""Ends when somebody holds the lock of a pass, without ever asking for it."""


class TestKilled:
    def test_a_node_that_is_killed_in_its_pass_loses_no_live_file_and_is_cleaned_by_the_next(
        self, swept: Stack, truth: dict[str, Node]
    ):
        node = truth["node-2"]
        swept.execute("node-2", "cni-cleanup", "restore")
        swept.execute("node-2", "cni-cleanup", "restore", "--release")
        assert set(swept.files("node-2")) == node.leaked | node.live

        swept.execute("control", "celery", "-A", "tasks", "call", "tasks.clean_node", "--args", '["node-2"]')
        swept.execute("node-2", "timeout", "30", "python", "-c", WAIT_FOR_A_LOCK)
        # Between its two looks, which are two seconds apart.
        swept.engine.docker("kill", swept.containers()["node-2"]["Id"])
        assert swept.containers()["node-2"]["State"]["ExitCode"] == 137

        swept.compose("up", "--detach")
        until(lambda: not swept.sick(), seconds=WITHIN, what="the health of all services")
        assert set(swept.files("node-2")) == node.leaked | node.live
        swept.compose("run", "--rm", "cli", "job", "--autodiscover", "--spread", "0s")
        assert swept.files("node-2") == live_files(node)


def commands(page: str) -> list[str]:
    return [one.text for one in commands_of(page) if "docker compose " in one.text]


def test_what_the_pages_say_works_as_it_stands_there_from_up_to_down(images: Images):
    """In the order of the page, with a name and ports of its own; what takes all of it away comes last."""
    require_program("docker-compose", "docker-compose")
    stack = Stack(images)
    (down,) = (text for text in commands("docs/compose.md") if " down " in text)
    others = [text for text in commands("docs/compose.md") if text != down]
    assert others[0] == "docker compose up -d"
    assert {*commands("README.md")} <= {down, *others}
    try:
        for text in (*others, down):
            # The page's other port for Flower is one that is free here.
            command = re.sub(r"FLOWER_PORT=\d+", f"FLOWER_PORT={stack.flower_port}", text)
            # Nor is there a terminal, which docker-compose takes for granted.
            command = command.replace(" exec ", " exec -T ")
            done = stack.shell(command.replace("docker compose", f"docker-compose --project-name {stack.project}"))
            assert done.returncode == 0, (text, done.stdout, done.stderr)
            assert text == down or stack.left()
    finally:
        stack.attempt("down", "--volumes", "--timeout=20")
    assert stack.left() == []
