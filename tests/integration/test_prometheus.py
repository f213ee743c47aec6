"""
A real Prometheus over one sweep of a fleet with sidecars, celery-exporter and Flower: what it scrapes, its rules, the dashboards.

The fleet is looked at before the sweep and after it; the tests ask what was seen, or the Prometheus that still runs.
"""

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest

from cli.demo.flower import Flower
from cli.demo.processes import running
from tasks.sweep import account_of
from tests.support.fleet import DONE_WITHIN, Fleet, start_fleet
from tests.support.flower import EXPORTER, start_exporter, start_flower, wait_for_answer
from tests.support.http import get
from tests.support.monitoring import PROMETHEUS, dashboards, load, promtool, queries, relabelled, rules
from tests.support.polling import until
from tests.support.prometheus import WITHIN, Prometheus, Sample, start_prometheus
from tests.support.redis_server import find_server
from tests.support.redis_server import running as redis_running
from tests.support.sidecar import Sidecar, start_sidecar
from tests.support.skips import require
from tests.unit.test_metrics import CONTRACT

pytestmark = pytest.mark.timeout(300)

NODES = ["node-1", "node-2", "node-3"]
GONE = "node-gone"
"""A node whose sidecar does not answer."""

METRICS = [f"{name}_total" if kind == "counter" else name for name, (kind, _) in CONTRACT.items()]

EMPTY = {
    "Networks of unknown capacity/A": "every network with reservations has its configuration here",
    "Removed within a day/A": "the counter of a first pass appears with it, and has not increased",
}
"""Queries of the dashboards that rightly have no answer after a first sweep in which all went well."""


@dataclass(frozen=True, kw_only=True)
class Watched:
    """What is there, and what Prometheus had of each metric before and after the sweep."""

    prometheus: Prometheus
    sidecars: Mapping[str, Sidecar]
    fleet: Fleet
    flower: Flower
    has_exporter: bool
    #: Wall clock, seconds since 1970.
    asked: float
    before: Mapping[str, list[Sample]]
    after: Mapping[str, list[Sample]]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    server = find_server()
    require(server, "no Redis server: apt install redis-server, or install the demo extra")
    assert server is not None
    directory = tmp_path_factory.mktemp("fleet")
    with redis_running(server, tmp_path_factory.mktemp("redis")) as broker, running(directory) as processes:
        # Both before the workers, which say only once a minute that they are there.
        flower = start_flower(processes, broker)
        exporter = start_exporter(processes, broker)[0] if EXPORTER.exists() else None
        for page in (f"{flower.url}healthcheck", exporter and f"{exporter}health"):
            if page:
                wait_for_answer(page)
        fleet = start_fleet(processes, broker, directory, known=NODES, cautious=[])
        sidecars = {
            name: start_sidecar(processes, node.settings(broker), f"sidecar-{name}") for name, node in fleet.nodes.items()
        }
        # The exporter is to have this task's series before it increases.
        fleet.ask("tasks.scan_node", "node-1")
        prometheus = start_prometheus(processes, directory / "prometheus", jobs(sidecars, exporter))
        before = seen_when(
            prometheus,
            "sum(up{job='cni-cleanup'}) == 3 and count(node_network:cni_cleanup_usage:ratio) == 3",
            *["celery_task_succeeded_total"] * (exporter is not None),
        )
        asked = time.time()
        fleet.ask("tasks.scan_node", "node-1")
        sweep(fleet)
        after = seen_when(
            prometheus,
            f"sum(cni_cleanup_reservations) == {sum(len(node.live) for node in fleet.nodes.values())}",
            "sum(cni_cleanup_passes_total{result='ok'}) == 3",
            "count(node_network:cni_cleanup_files_leaked:sum) >= 3",
            "count(node:cni_cleanup_last_success:timestamp_seconds) == 3",
            *[
                "sum(celery_task_succeeded_total{name='tasks.clean_node'}) == 3",
                "sum(increase(celery_task_succeeded_total{name='tasks.scan_node'}[1h])) > 0",
            ]
            * (exporter is not None),
        )
        yield Watched(
            prometheus=prometheus,
            sidecars=sidecars,
            fleet=fleet,
            flower=flower,
            has_exporter=exporter is not None,
            asked=asked,
            before=before,
            after=after,
        )


def jobs(sidecars: Mapping[str, Sidecar], exporter: str | None) -> list[dict[str, Any]]:
    """Those of the project's scrape configurations, with the targets of here and no time to lose."""
    targets = {name: f"127.0.0.1:{sidecar.port}" for name, sidecar in sidecars.items()} | {GONE: "127.0.0.1:1"}
    static = [{"targets": [address], "labels": {"node": name}} for name, address in targets.items()]
    found = [relabelled(PROMETHEUS / "scrape.yml", static) | {"scrape_interval": "1s", "scrape_timeout": "1s"}]
    if exporter is not None:
        (job,) = (job for job in load(PROMETHEUS / "scrape.yml")["scrape_configs"] if job["job_name"] == "celery-exporter")
        times = {"scrape_interval": "5s", "scrape_timeout": "5s"}
        found.append(job | times | {"static_configs": [{"targets": [urlsplit(exporter).netloc]}]})
    pods = [pod("worker-1", "metrics", "Running"), pod("worker-2", "probes", "Running"), pod("worker-3", "metrics", "Failed")]
    return [*found, relabelled(PROMETHEUS / "scrape-kubernetes.yml", pods) | {"job_name": "kubernetes"}]


def pod(node: str, port_name: str, phase: str) -> dict[str, Any]:
    """A port of a pod, as the discovery of Kubernetes describes it."""
    facts = {"node_name": node, "container_port_name": port_name, "phase": phase}
    return {"targets": ["127.0.0.1:1"], "labels": {f"__meta_kubernetes_pod_{name}": text for name, text in facts.items()}}


def sweep(fleet: Fleet) -> None:
    result = fleet.app.send_task("tasks.sweep", kwargs={"spread": 0})
    fleet.wait(result)
    until(lambda: account_of(fleet.ledger, result.id)["state"] == "complete", seconds=DONE_WITHIN, what="the sweep")
    assert account_of(fleet.ledger, result.id)["cleaned"] == len(NODES)


def seen_when(prometheus: Prometheus, *conditions: str) -> dict[str, list[Sample]]:
    """Every metric of the contract, once the conditions, which are queries, have answers."""
    for condition in conditions:
        until(lambda: prometheus.query(condition), seconds=WITHIN, what=condition)  # noqa: B023  # it is asked here and now
    return {metric: prometheus.query(metric) for metric in METRICS}


def total(seen: Mapping[str, list[Sample]], metric: str, node: str, **labels: str) -> float | None:
    """What was seen of a metric of a node, added up over all labels but these; None if there was nothing."""
    wanted = {"node": node, **labels}.items()
    values = [sample.value for sample in seen[metric] if wanted <= sample.labels.items()]
    return sum(values) if values else None


@pytest.mark.parametrize("metric", METRICS)
def test_a_metric_of_the_contract_arrives_from_every_node_with_its_labels(watched: Watched, metric: str):
    _, labels = CONTRACT[metric.removesuffix("_total")]
    found = watched.after[metric]
    assert {sample.labels["node"] for sample in found} == set(NODES)
    assert {sample.labels["job"] for sample in found} == {"cni-cleanup"}
    assert set().union(*(sample.labels for sample in found)) == {"__name__", "instance", "job", "node", *labels}


@pytest.mark.parametrize("node", NODES)
def test_reservations_fall_to_the_live_ones_and_what_was_removed_is_counted(watched: Watched, node: str):
    truth = watched.fleet.nodes[node]
    assert total(watched.before, "cni_cleanup_reservations", node) == len(truth.live) + len(truth.leaked)
    assert total(watched.after, "cni_cleanup_reservations", node) == len(truth.live)
    assert total(watched.before, "cni_cleanup_removed_total", node) is None
    assert total(watched.after, "cni_cleanup_removed_total", node, reason="absent") == len(truth.leaked)
    assert total(watched.before, "cni_cleanup_capacity", node) == total(watched.after, "cni_cleanup_capacity", node)


@pytest.mark.parametrize("node", NODES)
def test_what_is_said_of_a_pass_is_absent_before_the_first_and_there_after_it(watched: Watched, node: str):
    of_a_pass = [
        "cni_cleanup_files",
        "cni_cleanup_last_success_timestamp_seconds",
        "cni_cleanup_pass_duration_seconds",
        "cni_cleanup_lock_wait_seconds",
        "cni_cleanup_report_age_seconds",
    ]
    assert {metric: total(watched.before, metric, node) for metric in of_a_pass} == dict.fromkeys(of_a_pass)
    now = time.time()
    last = total(watched.after, "cni_cleanup_last_success_timestamp_seconds", node)
    age = total(watched.after, "cni_cleanup_report_age_seconds", node)
    assert last is not None
    assert watched.asked <= last <= now
    assert age is not None
    assert 0 <= age <= now - watched.asked
    truth = watched.fleet.nodes[node]
    assert (total(watched.after, "cni_cleanup_files", node, verdict="leaked") or 0) >= len(truth.leaked)
    assert (total(watched.after, "cni_cleanup_files", node, verdict="keep") or 0) >= len(truth.live)
    assert (total(watched.after, "cni_cleanup_pass_duration_seconds", node) or 0) > 0


@pytest.mark.parametrize("node", NODES)
def test_one_pass_more_has_succeeded_and_none_was_aborted_or_failed(watched: Watched, node: str):
    for seen, succeeded in ((watched.before, 0), (watched.after, 1)):
        found = {result: total(seen, "cni_cleanup_passes_total", node, result=result) for result in ("ok", "aborted", "failed")}
        assert found == {"ok": succeeded, "aborted": 0, "failed": 0}


@pytest.mark.parametrize("node", NODES)
def test_the_journal_grows_and_the_old_tools_metrics_fall(watched: Watched, node: str):
    assert total(watched.before, "cni_cleanup_journal_bytes", node) == 0
    journal = (watched.fleet.nodes[node].directory / "state/journal").iterdir()
    assert total(watched.after, "cni_cleanup_journal_bytes", node) == sum(path.stat().st_size for path in journal)
    directory = watched.fleet.nodes[node].directory / "root/var/lib/cni"
    sizes = [path.stat().st_size for path in directory.rglob("*") if path.is_file()]
    assert total(watched.after, "apicnicleanup_number_count", node) == len(sizes)
    assert total(watched.after, "apicnicleanup_size_bytes", node) == sum(sizes)
    for metric in ("apicnicleanup_number_count", "apicnicleanup_size_bytes"):
        assert (total(watched.before, metric, node) or 0) > (total(watched.after, metric, node) or 0)


@pytest.mark.parametrize("node", NODES)
def test_all_sources_are_readable_before_and_after(watched: Watched, node: str):
    for seen in (watched.before, watched.after):
        found = {
            sample.labels["source"]: sample.value for sample in seen["cni_cleanup_readable"] if sample.labels["node"] == node
        }
        assert found == dict.fromkeys(("cnifiles", "report", "totals", "journal"), 1)


def test_every_rule_is_evaluated_without_an_error(watched: Watched):
    found = {rule["name"]: rule for group in watched.prometheus.ask("rules")["groups"] for rule in group["rules"]}
    assert set(found) == {*rules("alert"), *rules("record")}
    assert {name: (rule["health"], rule.get("lastError", "")) for name, rule in found.items()} == dict.fromkeys(found, ("ok", ""))


def test_the_recorded_metrics_are_what_the_sidecars_say(watched: Watched):
    after, value = watched.after, watched.prometheus.value
    assert value("cni_cleanup:nodes:count") == len(NODES) + 1
    assert value("cni_cleanup:nodes_without_success:count") == 0
    for node in NODES:
        leaked = value(f'sum(node_network:cni_cleanup_files_leaked:sum{{node="{node}"}})')
        assert leaked == total(after, "cni_cleanup_files", node, verdict="leaked")
        last = total(after, "cni_cleanup_last_success_timestamp_seconds", node)
        assert value(f'node:cni_cleanup_last_success:timestamp_seconds{{node="{node}"}}') == last
        # The report is as old as the success in it: the clock is the same, and a scrape takes no second.
        assert value(f'node:cni_cleanup_report:timestamp_seconds{{node="{node}"}}') == pytest.approx(last, abs=2)
        assert (value(f'node:cni_cleanup_first_seen:timestamp_seconds{{node="{node}"}}') or 0) <= watched.asked
    usage = value('node_network:cni_cleanup_usage:ratio{node="node-3", network="cbr0"}')
    reserved, capacity = (total(after, f"cni_cleanup_{name}", "node-3", network="cbr0") for name in ("reservations", "capacity"))
    assert usage == pytest.approx((reserved or 0) / (capacity or 1))


def test_after_a_good_sweep_only_the_sidecar_that_does_not_answer_is_on_its_way_to_an_alert(watched: Watched):
    active = watched.prometheus.ask("alerts")["alerts"]
    assert [(one["labels"]["alertname"], one["labels"]["node"], one["state"]) for one in active] == [
        ("CNISidecarDown", GONE, "pending")
    ]


@pytest.mark.parametrize("name", dashboards())
def test_every_query_of_a_dashboard_has_an_answer(watched: Watched, name: str):
    asked = queries(dashboards()[name], node="node-2")
    if not watched.has_exporter:
        asked = {title: query for title, query in asked.items() if "celery_" not in query}
    wanted = set(EMPTY) & set(asked)

    def empty() -> set[str]:
        return {title for title, query in asked.items() if not watched.prometheus.query(query)}

    # What asks for an increase has an answer when the counter has been scraped twice: a busy machine may not be there yet.
    until(lambda: empty() <= wanted, seconds=WITHIN, what=f"an answer to every query of {name}")
    assert empty() == wanted


def test_the_dashboards_choice_of_nodes_is_all_of_them(watched: Watched):
    (variable,) = (one for one in dashboards()["node"]["templating"]["list"] if one["name"] == "node")
    series, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"]).groups()  # type: ignore[union-attr]
    found = watched.prometheus.ask("series", **{"match[]": series})
    assert {one[label] for one in found} == {*NODES, GONE}


def test_celery_exporter_tells_of_the_workers_and_of_the_sweeps_tasks(watched: Watched):
    require(watched.has_exporter, ".venv-exporter is missing: make exporter")
    up = {sample.labels["hostname"] for sample in watched.prometheus.query("celery_worker_up == 1")}
    assert up >= set(NODES)
    done = {
        sample.labels["name"]: sample.value for sample in watched.prometheus.query("sum by (name) (celery_task_succeeded_total)")
    }
    assert done == {"tasks.sweep": 1, "tasks.clean_node": 3, "tasks.scan_node": 2}


def test_flower_has_series_for_each_worker_and_is_no_target(watched: Watched):
    status, text = get(watched.flower.port, "/metrics")
    assert status == 200
    assert {f"node@{name}" for name in NODES} <= set(re.findall(r'flower_events_total\{[^}]*worker="([^"]*)"', text.decode()))
    targets = watched.prometheus.ask("targets")["activeTargets"]
    assert targets
    assert [one["scrapeUrl"] for one in targets if f":{watched.flower.port}/" in one["scrapeUrl"]] == []


def test_a_pod_found_by_kubernetes_is_called_by_its_node(watched: Watched):
    found = watched.prometheus.ask("targets")
    active = [one["labels"] for one in found["activeTargets"] if one["scrapePool"] == "kubernetes"]
    assert active == [{"job": "kubernetes", "instance": "worker-1", "node": "worker-1"}]
    dropped = {one["discoveredLabels"]["__meta_kubernetes_pod_node_name"] for one in found["droppedTargets"]}
    assert dropped == {"worker-2", "worker-3"}


def test_promtool_finds_fault_with_the_old_tools_name_alone(watched: Watched):
    _, text = get(watched.sidecars["node-1"].port, "/metrics")
    done = promtool("check", "metrics", text=text.decode())
    assert done.stderr == 'apicnicleanup_number_count non-histogram and non-summary metrics should not have "_count" suffix\n'
