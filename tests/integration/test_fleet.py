"""Jobs through Celery, with real workers on recorded nodes and a real Redis."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import TaskRevokedError
from redis import Redis

from cli.demo.processes import running
from cni.settings import Settings
from tasks.celery_app import NODE_JOB_EXPIRES
from tasks.errors import Refused, WrongNode
from tasks.sweep import account_of
from tests.support import browser
from tests.support.fleet import DONE_WITHIN, Fleet, start_fleet
from tests.support.http import get
from tests.support.polling import until
from tests.support.program import REPOSITORY, child_environment, run
from tests.support.redis_server import find_server
from tests.support.redis_server import running as redis_running
from tests.support.sidecar import Sidecar, start_sidecar
from tests.support.skips import require
from workers.configuration import environment_of
from workers.state import State

pytestmark = pytest.mark.timeout(300)

TOKEN = "token-of-the-test"  # noqa: S105  # a made-up one


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Three nodes that clean, one in whose own settings the dry run is on, and one that is down."""
    server = find_server()
    require(server, "no Redis server: apt install redis-server, or install the demo extra")
    assert server is not None
    directory = tmp_path_factory.mktemp("fleet")
    known = ["node-1", "node-2", "node-3", "node-4", "node-down"]
    with redis_running(server, tmp_path_factory.mktemp("redis")) as broker, running(directory) as processes:
        yield start_fleet(processes, broker, directory, known=known, cautious=["node-4"])


@pytest.fixture(scope="module")
def sidecar(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Sidecar:
    """That of node-1."""
    token = tmp_path_factory.mktemp("token") / "token"
    token.write_text(TOKEN)
    return start_sidecar(fleet.processes, replace(fleet.nodes["node-1"].settings(fleet.broker), token_file=str(token)))


def celery(fleet: Fleet, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """The `celery` command, as an operator has it."""
    return subprocess.run(
        [sys.executable, "-m", "celery", "-A", "tasks", *arguments],
        env=child_environment({"CNI_CLEANUP_BROKER": fleet.broker}),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=DONE_WITHIN,
        check=False,
    )


def sender_past_the_router(fleet: Fleet, serializer: str = "json") -> Celery:
    """Somebody who writes to Redis without this program's router."""
    sender = Celery("stranger", broker=fleet.broker, backend=fleet.broker, set_as_current=False)
    sender.conf.update(
        task_serializer=serializer, accept_content=["json", "pickle"], broker_transport_options={"priority_steps": [0]}
    )
    return sender


def sweep(fleet: Fleet, nodes: list[str], *, dry_run: bool = False) -> str:
    """One sweep over `nodes`, waited for; its id."""
    result = fleet.app.send_task("tasks.sweep", kwargs={"nodes": nodes, "dry_run": dry_run, "spread": 0})
    fleet.wait(result)
    until(lambda: account_of(fleet.ledger, result.id)["state"] == "complete", seconds=DONE_WITHIN, what="the sweep")
    return str(result.id)


def test_celery_call_reaches_the_nodes_queue_and_its_result_is_the_summary(fleet: Fleet):
    called = celery(fleet, "call", "tasks.scan_node", "--args", '["node-2"]')
    assert called.returncode == 0, called.stderr
    summary = fleet.wait(fleet.app.AsyncResult(called.stdout.strip()))
    assert summary["schema"] == "cni-cleanup/report/1"
    assert summary["node"] == "node-2"
    assert summary["aborted"] is None
    assert "files" not in summary


def test_celery_result_prints_what_the_node_answered(fleet: Fleet):
    called = celery(fleet, "call", "tasks.scan_node", "--kwargs", '{"node": "node-1"}')
    shown = celery(fleet, "result", called.stdout.strip())
    assert shown.returncode == 0, shown.stderr
    assert "'node': 'node-1'" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        pytest.param(["tasks.clean_node", "--args", '["Bad_Node"]'], "not the name of a node", id="malformed"),
        pytest.param(["tasks.clean_node"], "no node is named", id="no node"),
        pytest.param(["tasks.clean"], "no such task", id="no such task"),
        pytest.param(["tasks.scan_node", "--args", '["node-1"]', "--queue", "celery"], "leave the queue out", id="own queue"),
    ],
)
def test_celery_call_refuses_nonsense_in_one_line_and_sends_nothing(fleet: Fleet, arguments: list[str], why: str):
    before = fleet.redis.info("commandstats")["cmdstat_lpush"]["calls"]
    called = celery(fleet, "call", *arguments)
    assert called.returncode == 2
    assert called.stdout == ""
    assert why in called.stderr
    assert len(called.stderr.splitlines()) == 1
    assert fleet.redis.info("commandstats")["cmdstat_lpush"]["calls"] == before


def test_another_nodes_job_fails_and_does_nothing(fleet: Fleet):
    trees = {name: node.reservations() for name, node in fleet.nodes.items()}
    result = sender_past_the_router(fleet).send_task("tasks.clean_node", ["node-2"], queue="node.node-1")
    with pytest.raises(WrongNode, match="this is node node-1: the job for node-2 was not done"):
        fleet.wait(result)
    assert {name: node.reservations() for name, node in fleet.nodes.items()} == trees


@pytest.mark.parametrize("task", ["tasks.sweep", "tasks.report"])
def test_a_nodes_worker_does_no_sweep_and_gives_no_account(fleet: Fleet, task: str):
    before = fleet.ledger.sweeps()
    result = sender_past_the_router(fleet).send_task(task, queue="node.node-1")
    with pytest.raises(Refused, match="are control's: this is not its worker"):
        fleet.wait(result)
    assert fleet.ledger.sweeps() == before


@pytest.mark.parametrize(
    ("kwargs", "why"),
    [
        pytest.param({"dry_run": "false"}, "dry_run must be true or false", id="dry_run as text"),
        pytest.param({"sweep_id": "../x"}, "not the id of a sweep", id="malformed sweep id"),
        pytest.param({"max_remove": 10**6}, "max_remove", id="an argument that there is not"),
    ],
)
def test_a_malformed_message_fails_and_does_nothing(fleet: Fleet, kwargs: dict[str, Any], why: str):
    leaked = fleet.leak("node-1", "10.88.9.1", "1" * 64)
    with pytest.raises((Refused, TypeError), match=why):
        fleet.wait(fleet.app.send_task("tasks.clean_node", ["node-1"], kwargs))
    assert leaked in fleet.nodes["node-1"].reservations()


def test_a_message_can_ask_for_a_dry_run(fleet: Fleet):
    leaked = fleet.leak("node-1", "10.88.9.2", "2" * 64)
    summary = fleet.ask("tasks.clean_node", "node-1", True)
    assert summary["policy"]["dry_run"] is True
    assert leaked in fleet.nodes["node-1"].reservations()


def test_a_message_cannot_overrule_the_nodes_own_dry_run(fleet: Fleet):
    node = fleet.nodes["node-4"]
    before = node.reservations()
    assert node.leaked <= set(before)
    summary = fleet.ask("tasks.clean_node", "node-4", False)
    assert summary["policy"]["dry_run"] is True
    assert summary["aborted"] is None
    assert node.reservations() == before


def test_an_expired_message_is_not_run(fleet: Fleet):
    leaked = fleet.leak("node-1", "10.88.9.3", "3" * 64)
    sender = sender_past_the_router(fleet)
    past = datetime.now(UTC) - timedelta(seconds=5)
    result = sender.send_task("tasks.clean_node", ["node-1"], queue="node.node-1", expires=past)
    with pytest.raises(TaskRevokedError, match="expired"):
        fleet.wait(result)
    assert leaked in fleet.nodes["node-1"].reservations()


def test_a_pickled_message_is_refused(fleet: Fleet):
    leaked = fleet.leak("node-1", "10.88.9.4", "4" * 64)
    result = sender_past_the_router(fleet, "pickle").send_task("tasks.clean_node", ["node-1"], queue="node.node-1")
    # The queue is first in, first out: when the next job is done, the one before has been dealt with.
    fleet.ask("tasks.scan_node", "node-1")
    assert leaked in fleet.nodes["node-1"].reservations()
    assert result.state == "PENDING"
    assert "ContentDisallowed" in fleet.workers["node-1"].log_end(200)


def test_a_sweep_cleans_every_node_and_fills_the_ledger(fleet: Fleet):
    names = ["node-1", "node-2", "node-3"]
    results = set(fleet.redis.scan_iter("celery-task-meta-*"))
    sweep_id = sweep(fleet, names)
    snapshot = fleet.ledger.snapshot(sweep_id)
    assert snapshot is not None
    assert sorted(snapshot.reports) == sorted(snapshot.expected) == names
    for name, report in snapshot.reports.items():
        assert (report["node"], report["sweep_id"], report["aborted"]) == (name, sweep_id, None)
        left = fleet.nodes[name].reservations()
        assert not fleet.nodes[name].leaked & set(left)
        assert fleet.nodes[name].live <= set(left)
    # The sweep has a result, its jobs have the ledger.
    assert set(fleet.redis.scan_iter("celery-task-meta-*")) - results == {f"celery-task-meta-{sweep_id}".encode()}


def test_a_repeated_message_of_a_sweep_cleans_nothing_twice(fleet: Fleet):
    sweep_id = sweep(fleet, ["node-1"])
    first = fleet.ledger.report(sweep_id, "node-1")
    leaked = fleet.leak("node-1", "10.88.9.5", "5" * 64)
    again = fleet.app.send_task("tasks.clean_node", ["node-1"], {"sweep_id": sweep_id})
    assert fleet.wait(again) == first
    assert leaked in fleet.nodes["node-1"].reservations()
    sweep(fleet, ["node-1"])
    assert leaked not in fleet.nodes["node-1"].reservations()


def test_a_repeated_sweep_asks_only_the_nodes_that_have_not_finished(fleet: Fleet):
    nodes = ["node-1", "node-2"]
    sweep_id = sweep(fleet, nodes)
    fleet.app.AsyncResult(sweep_id).forget()
    answer = fleet.wait(fleet.app.send_task("tasks.sweep", kwargs={"nodes": nodes}, task_id=sweep_id))
    assert answer == {"sweep_id": sweep_id, "expected": 2, "asked": 0, "dry_run": False, "stopped": False}


def test_a_dry_sweep_is_dry_on_every_node(fleet: Fleet):
    leaked = fleet.leak("node-2", "10.93.9.6", "6" * 64)
    report = fleet.ledger.report(sweep(fleet, ["node-2"], dry_run=True), "node-2")
    assert report is not None
    assert report["policy"]["dry_run"] is True
    assert leaked in fleet.nodes["node-2"].reservations()


def test_a_node_that_is_down_is_expected_and_its_job_waits_with_an_expiry(fleet: Fleet):
    result = fleet.app.send_task("tasks.sweep", kwargs={"nodes": ["node-down"]})
    assert fleet.wait(result)["asked"] == 1
    assert fleet.ledger.expected(result.id) == {"node-down"}
    account = account_of(fleet.ledger, result.id)
    assert (account["state"], account["missed"], account["without_worker"]) == ("incomplete", 1, 1)
    assert account["nodes"][0]["why"] == "no worker has ever been there"
    (message,) = fleet.redis.lrange("node.node-down", 0, -1)
    headers = json.loads(message)["headers"]
    left = datetime.fromisoformat(headers["expires"]) - datetime.now(UTC)
    assert timedelta(0) < timedelta(seconds=NODE_JOB_EXPIRES) - left < timedelta(minutes=5)
    assert headers["ignore_result"] is True
    # Nothing is declared for a queue by whoever only sends to it: two keys of each would stay for ever.
    assert not fleet.redis.exists("_kombu.binding.node.node-down")


def test_each_worker_is_noted_as_there(fleet: Fleet):
    assert fleet.ledger.seen(fleet.nodes).keys() == fleet.nodes.keys()


@pytest.mark.parametrize(
    ("wish", "why"),
    [
        pytest.param({"selector": "pool=a"}, "a selector needs the Kubernetes API", id="a selector, and only a list"),
        pytest.param({"selector": ""}, "selector must be a label selector", id="no selector"),
        pytest.param({"spread": -1}, "spread must be a number of seconds", id="a negative spread"),
        pytest.param({"spread": "fast"}, "spread must be a number of seconds", id="a spread in words"),
        pytest.param(
            {"spread": 3000}, "is too long for 5 nodes: at most 540.00 s is possible", id="a spread beyond a job's time"
        ),
    ],
)
def test_a_sweep_that_cannot_be_done_as_asked_fails_asks_nobody_and_stands_in_no_ones_way(
    fleet: Fleet, wish: dict[str, Any], why: str
):
    result = fleet.app.send_task("tasks.sweep", kwargs=wish)
    with pytest.raises(Refused, match=why):
        fleet.wait(result)
    assert fleet.ledger.expected(result.id) == frozenset()
    sweep(fleet, ["node-2"], dry_run=True)


@pytest.mark.parametrize(
    ("nodes", "why"),
    [
        pytest.param(["node-9"], "not among the nodes to sweep: node-9", id="unknown"),
        pytest.param("node-1", "must be a list of node names", id="no list"),
    ],
)
def test_a_sweep_of_unknown_nodes_fails_and_asks_nobody(fleet: Fleet, nodes: object, why: str):
    result = fleet.app.send_task("tasks.sweep", kwargs={"nodes": nodes})
    with pytest.raises(Refused, match=why):
        fleet.wait(result)
    assert fleet.ledger.expected(result.id) == frozenset()


def test_every_message_expires_also_one_sent_by_hand(fleet: Fleet):
    fleet.app.send_task("tasks.scan_node", ["node-nowhere"])
    (message,) = fleet.redis.lrange("node.node-nowhere", 0, -1)
    expires = datetime.fromisoformat(json.loads(message)["headers"]["expires"])
    assert timedelta(hours=23) < expires - datetime.now(UTC) <= timedelta(hours=24)


def test_inspect_shows_each_worker_by_its_nodes_name_with_its_own_queue(fleet: Fleet):
    shown = celery(fleet, "inspect", "active_queues", "--json")
    assert shown.returncode == 0, shown.stderr
    queues = {worker: [queue["name"] for queue in found] for worker, found in json.loads(shown.stdout).items()}
    control = f"control@{os.uname().nodename}"
    assert queues == {f"node@{name}": [f"node.{name}"] for name in fleet.nodes} | {control: ["control"]}


def test_control_reaches_one_worker(fleet: Fleet):
    told = celery(fleet, "control", "-d", "node@node-1", "enable_events")
    assert told.returncode == 0, told.stderr
    assert "node@node-1: OK" in told.stdout
    assert "node-2" not in told.stdout


def test_events_tell_of_a_job(fleet: Fleet):
    environment = child_environment({"CNI_CLEANUP_BROKER": fleet.broker})
    command = [sys.executable, "-u", "-m", "celery", "-A", "tasks", "events", "--dump"]
    dump = fleet.processes.start("events", command, environment, REPOSITORY)
    try:

        def told() -> bool:
            fleet.ask("tasks.scan_node", "node-1")
            said = dump.log_end(500)
            return "task succeeded" in said and "node@node-1" in said

        until(told, seconds=DONE_WITHIN, what="the events of a job")
    finally:
        dump.end()


def test_the_account_of_a_sweep_is_told_by_a_task(fleet: Fleet):
    sweep_id = sweep(fleet, ["node-2"], dry_run=True)
    account = fleet.ask("tasks.report", sweep_id)
    assert (account["schema"], account["sweep_id"], account["state"]) == ("cni-cleanup/sweep/1", sweep_id, "complete")
    assert (account["expected"], account["cleaned"]) == (1, 1)
    assert account["nodes"][0]["node"] == "node-2"
    with pytest.raises(Refused, match="no sweep nowhere is on record"):
        fleet.ask("tasks.report", "nowhere")


def log_of(fleet: Fleet, node: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in fleet.workers[node].log_end(10_000).splitlines()]


def test_each_line_of_the_log_is_one_json_object_that_says_what_it_is_about(fleet: Fleet):
    path = fleet.leak("node-3", "10.88.0.203", "7" * 64)
    sweep_id = sweep(fleet, ["node-3"])

    def of_sweep() -> list[dict[str, Any]]:
        return [line for line in log_of(fleet, "node-3") if line["sweep_id"] == sweep_id]

    # Celery says so when the ledger has the report already.
    until(lambda: "succeeded" in of_sweep()[-1]["message"], what="the last line of the job")
    begun, *removed, ended, succeeded = of_sweep()
    assert (begun["action"], {line["action"] for line in removed}, ended["action"]) == ("pass_begun", {"removed"}, "pass_ended")
    (line,) = (line for line in removed if line["path"].endswith(path))
    assert line["reason"] == "absent"
    assert {line["pass_id"] for line in (begun, *removed, ended)} == {begun["pass_id"]} != {succeeded["pass_id"]}
    assert len(removed) == ended["removed"]
    until(lambda: "ready" in {line["action"] for line in log_of(fleet, "node-3")}, what="that the worker says it is ready")
    always = {"time", "level", "action", "message", "logger", "node", "sweep_id", "pass_id", "trace_id"}
    assert all(always <= line.keys() for line in log_of(fleet, "node-3"))


class TestASidecar:
    """It asks its own node's worker for a pass."""

    def cleanup(self, sidecar: Sidecar) -> tuple[int, dict[str, str]]:
        status, body = get(sidecar.port, "/cleanup", method="POST", Authorization=f"Bearer {TOKEN}")
        return status, json.loads(body)

    def test_gets_a_pass_and_shows_what_it_did(self, fleet: Fleet, sidecar: Sidecar):
        assert self.cleanup(sidecar)[0] == 200
        path = fleet.leak("node-1", "10.88.0.201", "5" * 64)
        assert self.cleanup(sidecar) == (200, {"status": "Done", "reason": "1 file removed"})
        assert path not in fleet.nodes["node-1"].reservations()
        assert fleet.nodes["node-1"].live <= fleet.nodes["node-1"].reservations().keys()
        removed = 'cni_cleanup_removed_total{network="cbr0",reason="absent"}'
        totals = json.loads((fleet.nodes["node-1"].directory / "state" / "totals.json").read_text())
        (count,) = (one["count"] for one in totals["removed"])
        until(lambda: sidecar.samples().get(removed) == count, what="the removal in the metrics")

    def test_tells_of_a_pass_that_was_aborted(self, fleet: Fleet, sidecar: Sidecar):
        hold = fleet.nodes["node-1"].directory / "state" / "hold"
        hold.touch()
        try:
            status, told = self.cleanup(sidecar)
        finally:
            hold.unlink()
        assert (status, told["status"]) == (200, "Error")
        assert told["reason"].startswith("aborted (hold): ")

    def test_tells_that_another_pass_runs(self, fleet: Fleet, sidecar: Sidecar):
        with State(str(fleet.nodes["node-1"].directory / "state")).pass_lock():
            status, told = self.cleanup(sidecar)
        assert (status, told["status"]) == (409, "Error")
        assert told["reason"].startswith("busy: another pass holds ")

    def test_a_redis_that_goes_away_meanwhile_is_no_pass_that_was_made(self, tmp_path: Path):
        server = find_server()
        assert server is not None
        with redis_running(server, tmp_path) as broker:
            settings = Settings(node="node-down", broker=broker)
            environment = child_environment({**environment_of(settings), "CNI_CLEANUP_NO_SUCH": "1"})
            asking = subprocess.Popen(
                [sys.executable, "-m", "tasks.asking", "120"],
                env=environment,
                cwd=REPOSITORY,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            with Redis.from_url(broker) as client:
                until(lambda: client.llen("node.node-down"), what="the job is in its queue")
        try:
            answer, log = asking.communicate(timeout=DONE_WITHIN)
        finally:
            asking.kill()
        told = json.loads(answer)
        assert (told["status"], told["done"]) == (503, False)
        assert told["reason"].startswith("no broker: ")
        assert "unknown_variable" in [json.loads(line)["action"] for line in log.splitlines()]

    def test_what_no_worker_takes_is_not_finished_in_time_and_is_never_done_later(self, fleet: Fleet):
        settings = Settings(node="node-down", broker=fleet.broker)
        asking = subprocess.run(
            [sys.executable, "-m", "tasks.asking", "0.5"],
            env=child_environment(environment_of(settings)),
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=DONE_WITHIN,
            check=False,
        )
        answer = json.loads(asking.stdout)
        assert (answer["status"], answer["done"]) == (504, False)
        assert "not finished within 0.5 s" in answer["reason"]
        expiries = [datetime.fromisoformat(one["headers"]["expires"]) for one in fleet.ledger.waiting("node.node-down")]
        assert min(expiries) < datetime.now(UTC) + timedelta(seconds=1)


def test_the_page_of_a_sweep_has_its_numbers_in_a_browser(fleet: Fleet, tmp_path: Path):
    fleet.leak("node-1", "10.88.9.7", "7" * 64)
    sweep_id = sweep(fleet, ["node-1", "node-2", "node-4"])
    account = account_of(fleet.ledger, sweep_id)
    file = tmp_path / "page.html"
    done = run("report", "--sweep", sweep_id, "--html", file, f"--broker={fleet.broker}", home=tmp_path)
    assert (done.status, done.err) == (0, "")
    assert done.out == f"the page of sweep {sweep_id}: {file}\n"
    shown = re.sub(r"<style>.*?</style>|<[^>]*>", "\n", browser.dom(file), flags=re.DOTALL)
    lines = [line.strip() for line in shown.splitlines() if line.strip()]
    assert "1 node of 3 needs a person" in lines
    assert sweep_id in lines
    # node-4 has leaks, and the dry run in its own settings.
    assert (account["cleaned"], account["failed"]) == (2, 1)
    assert "its own settings have the dry run on" in shown
    totals = account["totals"]
    leaked, of_all = lines.index("Leaked"), f"of {totals['reservations']} reservations"
    assert lines[leaked + 1 : leaked + 3] == [str(totals["leaked"]), of_all]
    assert lines[lines.index("Removed") + 1] == str(totals["removed"])
    for node in account["nodes"]:
        told = lines[max(place for place, line in enumerate(lines) if line == node["node"]) :]
        told = told[told.index(node["state"]) + 1 :]
        assert told[:5] == [str(node[name]) for name in ("reservations", "keep", "undecided", "leaked", "removed")]
    reports = [fleet.ledger.report(sweep_id, node["node"]) for node in account["nodes"]]
    assert f"{sum(row['files'] for report in reports if report for row in report['counts'])} files of all kinds" in shown
    standard = run("report", "--html", "-", "--sweep", sweep_id, f"--broker={fleet.broker}", home=tmp_path)
    assert (standard.status, standard.err) == (0, "")
    moment = re.compile(r"[0-9:]{8} UTC")
    assert moment.sub("", standard.out) == moment.sub("", file.read_text(encoding="utf-8"))


def test_a_page_of_a_sweep_that_is_not_on_record_is_wrong_usage_and_no_file(fleet: Fleet, tmp_path: Path):
    done = run("report", "--sweep=nowhere", "--html", tmp_path / "page.html", f"--broker={fleet.broker}", home=tmp_path)
    assert "no sweep nowhere is on record" in done.line
    assert (done.status, done.out, list(tmp_path.iterdir())) == (2, "", [])


@pytest.mark.parametrize(("node", "number"), [("node-3", signal.SIGTERM), ("node-4", signal.SIGINT)])
def test_a_stopped_worker_ends_with_status_zero_and_leaves_what_is_queued(fleet: Fleet, node: str, number: signal.Signals):
    worker = fleet.workers[node]
    os.kill(worker.pid, number)
    until(lambda: not worker.running(), what="the end of the worker")
    ended = os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    assert ended is not None
    assert (ended.si_code, ended.si_status) == (os.CLD_EXITED, 0)
    fleet.app.send_task("tasks.scan_node", [node])
    assert fleet.redis.llen(f"node.{node}") == 1
