"""Traces over real processes, Redis and a real collector: a tree from who asked to every node's pass; none where they are off."""

import base64
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cli.demo.nodes import Node, make
from cli.demo.processes import running
from tests.support.beat import remember_last_run
from tests.support.fleet import DONE_WITHIN, READY_WITHIN, Fleet, start_fleet
from tests.support.otlp import Collector, Span, Tree, dripping, hanging, refusing
from tests.support.polling import until
from tests.support.program import COMMAND, REPOSITORY, TIMEOUT, child_environment
from tests.support.redis_server import find_server
from tests.support.redis_server import running as redis_running
from tests.support.skips import require
from workers.configuration import environment_of

pytestmark = pytest.mark.timeout(300)

LOOK = ["list", "ask runtime", "ask netns", "ask api", "decide"]

IDS = "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331"


@pytest.fixture(scope="module")
def redis_of_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = find_server()
    require(server, "no Redis server: apt install redis-server, or install the demo extra")
    assert server is not None
    with redis_running(server, tmp_path_factory.mktemp("redis")) as broker:
        yield broker


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def fleet(redis_of_module: str, collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Two nodes that are traced, and one that is down."""
    directory = tmp_path_factory.mktemp("fleet")
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_EXPORTER_OTLP_HEADERS": "x-tenant=nodes",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=test",
    }
    with running(directory) as processes:
        known = ["node-1", "node-2", "node-down"]
        yield start_fleet(processes, redis_of_module, directory, known=known, variables=variables)


def command(*arguments: str, variables: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*COMMAND, *arguments],
        env=child_environment(variables),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


def job(fleet: Fleet, collector: Collector, *arguments: str) -> str:
    """Have the command ask for a sweep over the two nodes; its id."""
    variables = {"CNI_CLEANUP_BROKER": fleet.broker, "CNI_CLEANUP_JAEGERURL": collector.url, "OTEL_SERVICE_NAME": "asker"}
    asked = ["job", "--autodiscover", "--nodes", "node-1,node-2", "--spread", "0s", "--json", *arguments]
    done = command(*asked, variables=variables)
    assert done.returncode == 0, done.stderr
    return str(json.loads(done.stdout)["sweep_id"])


def trace_of(collector: Collector, *, passes: int, **facts: Any) -> Tree:
    """The trace in which a span has these facts, once so many passes of it are there, and what they are parts of."""
    wanted = {f"cni_cleanup.{name}": value for name, value in facts.items()}
    found: list[Span] = []

    def complete() -> bool:
        spans = collector.spans
        traces = {span.trace for span in spans if wanted.items() <= dict(span.facts).items()}
        found[:] = [span for span in spans if span.trace in traces]
        tree = Tree(found)
        return sum(span.name == "pass" for span in found) == passes and not tree.lost() and bool(tree.roots())

    until(complete, seconds=DONE_WITHIN, what=f"the trace of {facts}, which has {[span.name for span in found]},")
    assert len({span.trace for span in found}) == 1
    return Tree(found)


def only(spans: list[Span]) -> Span:
    (span,) = spans
    return span


def check_sweep(tree: Tree, sent: Span, *, asked: int = 2) -> None:
    """From the message for the sweep to the passes of both nodes, parent by parent; so many nodes were asked."""
    assert (sent.name, sent.kind) == ("apply_async/tasks.sweep", "producer")
    run = only(tree.below(sent))
    assert (run.name, run.role, run.kind) == ("run/tasks.sweep", "control", "consumer")
    messages = tree.below(run)
    assert [span.name for span in messages] == ["apply_async/tasks.clean_node"] * asked
    nodes = []
    for done in (span for message in messages for span in tree.below(message)):
        assert (done.name, done.role, done.kind) == ("run/tasks.clean_node", "worker", "consumer")
        check_pass(tree, only(tree.below(done)))
        nodes.append(done.resource["k8s.node.name"])
    assert sorted(nodes) == ["node-1", "node-2"]


def check_pass(tree: Tree, whole: Span) -> None:
    """One that removed something."""
    assert whole.name == "pass"
    assert tree.names(whole) == ["look", "wait", "look", "remove"]
    looks = [span for span in tree.below(whole) if span.name == "look"]
    assert [look.facts["cni_cleanup.look"] for look in looks] == [1, 2]
    assert [tree.names(look) for look in looks] == [LOOK, LOOK]
    assert all(span.resource["k8s.node.name"] == whole.facts["cni_cleanup.node"] for span in (whole, *looks))


def leak_on_both(fleet: Fleet, ip: str, letter: str) -> None:
    for node in ("node-1", "node-2"):
        fleet.leak(node, f"10.{88 if node == 'node-1' else 93}.{ip}", letter * 64)


def test_one_trace_goes_from_the_command_through_the_sweep_to_both_nodes_passes(fleet: Fleet, collector: Collector):
    leak_on_both(fleet, "9.9", "a")
    sweep_id = job(fleet, collector)
    tree = trace_of(collector, passes=2, sweep_id=sweep_id)
    root = only(tree.roots())
    assert (root.name, root.role, root.error) == ("job", "job", None)
    check_sweep(tree, only(tree.below(root)))
    # The command, control's child and one of each worker.
    assert len({span.resource["service.instance.id"] for span in tree.spans}) == 4
    assert [span.name for span in tree.spans if span.error is not None] == []

    run = only([span for span in tree.spans if span.name == "run/tasks.sweep"])
    assert {name: run.facts[f"cni_cleanup.{name}"] for name in ("expected", "asked", "stopped")} == {
        "expected": 2,
        "asked": 2,
        "stopped": False,
    }
    services = {span.role: span.resource["service.name"] for span in tree.spans}
    assert services == {"job": "asker", "control": "cni-cleanup", "worker": "cni-cleanup"}
    assert {span.resource.get("deployment.environment") for span in tree.spans if span.role == "worker"} == {"test"}
    assert all(span.resource["service.version"] for span in tree.spans)
    sent = [headers for _, headers in collector.requests if headers.get("x-tenant") == "nodes"]
    assert {headers["content-encoding"] for headers in sent} == {"gzip"}
    assert {path for path, _ in collector.requests} == {"/v1/traces"}
    # The log of every process is found by the same id.
    logged = [json.loads(line) for line in fleet.workers["node-1"].log_end(1000).splitlines()]
    of_pass = [
        line for line in logged if line["action"] in ("pass_begun", "removed", "pass_ended") and line["sweep_id"] == sweep_id
    ]
    assert {line["action"] for line in of_pass} == {"pass_begun", "removed", "pass_ended"}
    assert {line["trace_id"] for line in of_pass} == {root.trace}


def test_the_spans_of_a_pass_say_what_its_report_says(fleet: Fleet, collector: Collector):
    leak_on_both(fleet, "9.10", "b")
    sweep_id = job(fleet, collector, "--dry-run")
    tree = trace_of(collector, passes=2, sweep_id=sweep_id)
    for whole in (span for span in tree.spans if span.name == "pass"):
        report = fleet.ledger.report(sweep_id, whole.facts["cni_cleanup.node"])
        assert report is not None
        files: Counter[str] = Counter()
        for row in report["counts"]:
            files[row["verdict"]] += row["files"]
        assert files["leaked"] > 0
        told = {name.removeprefix("cni_cleanup."): value for name, value in whole.facts.items()}
        assert told.pop("lock_wait_seconds") == pytest.approx(report["lock_wait_seconds"], abs=1e-6)
        assert told == {
            "node": report["node"],
            "pass_id": report["pass_id"],
            "sweep_id": sweep_id,
            "dry_run": True,
            "files": files.total(),
            "keep": files["keep"],
            "undecided": files["undecided"],
            "leaked": files["leaked"],
            "removed": 0,
            "failed": 0,
            **{f"witness.{name}": state for name, state in report["witnesses"].items()},
        }
        # Nothing was removed, so there is no span of it.
        assert tree.names(whole) == ["look", "wait", "look"]


def test_an_aborted_pass_is_an_error_with_its_reason(fleet: Fleet, collector: Collector):
    hold = fleet.nodes["node-1"].directory / "state/hold"
    hold.touch()
    try:
        report = fleet.ask("tasks.clean_node", "node-1")
    finally:
        hold.unlink()
    whole = only([span for span in trace_of(collector, passes=1, pass_id=report["pass_id"]).spans if span.name == "pass"])
    assert whole.error == f"hold: {report['aborted']['detail']}"
    assert whole.facts["cni_cleanup.aborted"] == "hold"


def test_beat_begins_the_trace_of_its_sweep(fleet: Fleet, collector: Collector, tmp_path: Path):
    now = datetime.now(UTC)
    local = now - timedelta(hours=1)
    schedule = f"{local.minute} {local.hour} * * *"
    remember_last_run(fleet.broker, schedule, now - timedelta(hours=2))
    leak_on_both(fleet, "9.11", "c")
    before = set(fleet.ledger.sweeps())
    variables = {"BROKER": fleet.broker, "SCHEDULE": schedule, "JAEGERURL": collector.url}
    environment = child_environment({f"CNI_CLEANUP_{name}": value for name, value in variables.items()})
    process = fleet.processes.start("beat", [*COMMAND, "beat"], environment, REPOSITORY)
    until(lambda: set(fleet.ledger.sweeps()) - before, seconds=READY_WITHIN, what="the sweep")
    (sweep_id,) = set(fleet.ledger.sweeps()) - before
    # What it had not sent by then it sends as it ends.
    process.terminate()
    tree = trace_of(collector, passes=2, sweep_id=sweep_id)
    sent = only(tree.roots())
    assert sent.role == "beat"
    check_sweep(tree, sent, asked=3)


def test_a_message_names_the_span_that_sent_it_and_what_else_it_carries_goes_nowhere(fleet: Fleet, collector: Collector):
    headers = {"traceparent": f"00-{IDS}-01", "tracestate": "evil=1", "baggage": "evil=1"}
    fleet.redis.delete("node.node-down")
    result = fleet.app.send_task("tasks.sweep", kwargs={"nodes": ["node-down"], "spread": 0}, headers=headers)
    fleet.wait(result)
    (message,) = fleet.redis.lrange("node.node-down", 0, -1)
    fleet.redis.delete("node.node-down")
    passed_on = json.loads(message)["headers"]
    assert passed_on["traceparent"].startswith(f"00-{IDS[:32]}-")
    assert "evil" not in json.dumps(json.loads(message))
    assert "evil" not in base64.b64decode(json.loads(message)["body"]).decode()

    until(lambda: [span for span in collector.spans if span.trace == IDS[:32]], seconds=DONE_WITHIN, what="the span")
    run = only([span for span in collector.spans if span.name == "run/tasks.sweep" and span.trace == IDS[:32]])
    assert run.parent == IDS[33:]
    assert "evil" not in str(run)


@pytest.mark.parametrize("traceparent", [f"00-{IDS}-zz" + "z" * 100_000, {"a": [1]}], ids=["long", "object"])
def test_a_garbled_traceparent_begins_a_trace_of_its_own_and_the_job_is_done(
    fleet: Fleet, collector: Collector, traceparent: Any
):
    headers = {"traceparent": traceparent, "tracestate": traceparent, "baggage": traceparent}
    result = fleet.app.send_task("tasks.scan_node", args=["node-2"], headers=headers)
    assert fleet.wait(result)["node"] == "node-2"

    def runs() -> list[Span]:
        return [span for span in collector.spans if span.facts.get("messaging.message.id") == result.id]

    until(runs, seconds=DONE_WITHIN, what="the span")
    assert only(runs()).parent == ""
    assert "Traceback" not in fleet.workers["node-2"].log_end(10_000)


def by_hand(directory: Path, **changes: Any) -> dict[str, str]:
    """The environment of a command on a node of the demo."""
    (node,) = make(1, directory)
    return environment_of(replace(node.settings("redis://127.0.0.1:1/0"), min_age=0.0, confirm_after=0.0, **changes))


def test_a_pass_and_a_scan_by_hand_are_traces_of_their_own(tmp_path: Path):
    with Collector() as collector:
        variables = by_hand(tmp_path, jaegerurl=f"{collector.url}/v1/traces")
        scanned = command("scan", variables=variables)
        cleaned = command("clean", "--json", variables=variables)
        assert (scanned.returncode, cleaned.returncode) == (0, 0), cleaned.stderr
        tree = Tree(collector.spans)
    scan, whole = sorted(tree.roots(), key=lambda span: span.start_ns)
    assert (scan.name, scan.role) == ("scan", "scan")
    assert [tree.names(look) for look in tree.below(scan)] == [LOOK]
    assert (whole.role, whole.facts["cni_cleanup.pass_id"]) == ("clean", json.loads(cleaned.stdout)["pass_id"])
    check_pass(tree, whole)
    assert scan.trace != whole.trace
    assert len({span.trace for span in tree.spans}) == 2


def test_the_pass_that_a_worker_makes_of_its_own_accord_is_a_trace_of_its_own(tmp_path: Path):
    with Collector() as collector:
        variables = by_hand(tmp_path, jaegerurl=collector.url)
        subprocess.run(
            [sys.executable, "-P", "-m", "workers", "clean"],
            env=child_environment(variables),
            cwd=REPOSITORY,
            check=True,
            timeout=TIMEOUT,
        )
        tree = Tree(collector.spans)
    whole = only(tree.roots())
    assert whole.role == "early"
    check_pass(tree, whole)


# A collector that is away


@pytest.mark.parametrize("away", ["refusing", "dripping", "overloaded"])
def test_a_collector_that_is_away_costs_a_line_and_no_pass(tmp_path: Path, away: str):
    ways: dict[str, Any] = {"refusing": refusing, "dripping": dripping, "overloaded": lambda: Collector(503)}
    with ways[away]() as there:
        url = there if isinstance(there, str) else there.url
        done = command("clean", "--json", variables=by_hand(tmp_path, jaegerurl=url))
    assert done.returncode == 0
    assert json.loads(done.stdout)["outcomes"]["removed"] > 0
    lines = done.stderr.splitlines()
    # One that answers a byte at a time is left alone before there is anything to tell.
    assert len(lines) <= 1 if away == "dripping" else len(lines) == 1
    assert all(line.startswith(f"cni-cleanup: traces do not reach {url}/v1/traces: ") for line in lines)


@pytest.mark.parametrize("variable", ["OTEL_PROPAGATORS", "OTEL_PYTHON_CONTEXT"])
def test_nonsense_in_a_variable_of_opentelemetrys_is_one_line_and_costs_no_pass(tmp_path: Path, variable: str):
    """The first ends tracing where the SDK is imported, the second is a traceback of the SDK's own there."""
    with Collector() as collector:
        done = command("clean", "--json", variables={**by_hand(tmp_path, jaegerurl=collector.url), variable: "nonsense"})
    assert done.returncode == 0
    assert json.loads(done.stdout)["outcomes"]["removed"] > 0
    (line,) = done.stderr.splitlines()
    assert "nonsense" in line


def test_a_worker_whose_collector_hangs_does_job_after_job(fleet: Fleet, tmp_path: Path):
    node: Node = make(3, tmp_path)[2]
    with hanging() as url:
        settings = replace(node.settings(fleet.broker), min_age=0.0, confirm_after=0.0, jaegerurl=url)
        worker = fleet.processes.start("node-3", [*COMMAND, "worker"], child_environment(environment_of(settings)), REPOSITORY)
        passes = {fleet.ask("tasks.clean_node", "node-3")["pass_id"] for _ in range(2)}
    assert len(passes) == 2
    log = worker.log_end(10_000)
    assert "Traceback" not in log
    assert log.count("traces do not reach") <= 2


# Off


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """In it stands, before the real one, an OpenTelemetry that writes down who tries to import it."""
    (tmp_path / "trap").mkdir()
    (tmp_path / "trap/opentelemetry.py").write_text(
        "import sys, traceback\n"
        f"with open({str(tmp_path / 'sprung')!r}, 'a') as file:\n"
        "    file.write(f'{sys.argv}\\n{\"\".join(traceback.format_stack())}')\n"
        "raise ImportError('a trap')\n"
    )
    return tmp_path / "trap"


def test_with_tracing_off_no_process_loads_opentelemetry_or_sends_anything(redis_of_module: str, tmp_path: Path, trap: Path):
    """Worker, its child, its early pass, control, Beat, job, clean. redis-py alone would load it."""
    sprung = tmp_path / "sprung"
    (tmp_path / "logs").mkdir()
    # Another database of the same server: the traced fleet may still be there.
    broker = redis_of_module.removesuffix("0") + "1"
    with Collector() as collector, running(tmp_path / "logs") as processes:
        variables = {"PYTHONPATH": str(trap), "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_SDK_DISABLED": "true"}
        (node,) = make(1, tmp_path / "beat")
        own = environment_of(node.settings(broker)) | variables
        beat = processes.start("beat", [*COMMAND, "beat", "--debug"], child_environment(own), REPOSITORY)
        start_fleet(processes, broker, tmp_path, known=["node-1"], variables=variables)
        asked = command("job", "--autodiscover", "--spread", "0s", variables=own)
        assert asked.returncode == 0, asked.stderr
        assert command("clean", "--confirm-after", "0s", variables=own).returncode == 0
        until(lambda: "Waking up" in beat.log_end(50), seconds=READY_WITHIN, what="a tick of Beat")
        early = [sys.executable, "-P", "-m", "workers", "clean"]
        subprocess.run(early, env=child_environment(own), cwd=REPOSITORY, check=True, timeout=TIMEOUT)
    assert not sprung.exists(), sprung.read_text()
    assert collector.requests == []

    subprocess.run([sys.executable, "-c", "import redis"], env=child_environment(own), check=True, timeout=TIMEOUT)
    assert sprung.exists(), "the trap is none"
