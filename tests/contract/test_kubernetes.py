"""Every overlay of the manifests: rendered, of the form that Kubernetes takes, whole, and in agreement with itself."""

import json
import subprocess
import sys
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest

from cni import __version__
from tests.support import schema
from tests.support.manifests import (
    KUBERNETES,
    OVERLAYS,
    Document,
    containers,
    named,
    overlay,
    pod_labels,
    selects,
    workloads,
)
from tests.support.monitoring import PROMETHEUS, RULES, load
from tests.support.program import REPOSITORY

VERSIONS = ("1.29", kubernetes_validate.latest_version())
"""Of Kubernetes: the oldest that is meant, and the newest that the validator knows."""

SCHEMAS = REPOSITORY / "tests/fixtures/schemas"

every_overlay = pytest.mark.parametrize("name", OVERLAYS)


def complaints(document: Document, version: str) -> list[str]:
    """What is wrong with an object; a kind without a schema is wrong too."""
    group, _, _ = document["apiVersion"].partition("/")
    if group == "monitoring.coreos.com":
        path = SCHEMAS / f"{document['kind'].lower()}-monitoring-v1.json"
        return list(schema.errors(document, json.loads(path.read_text())))
    try:
        judged_by = kubernetes_validate.validate(document, version, strict=True)
    except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
        return [f"{document['kind']} {document['metadata']['name']}: {error.message}"]
    # Of a version that it does not have it takes an older one.
    assert version.startswith(judged_by)
    return []


def test_all_overlays_that_are_promised_are_there():
    promised = {"default", "k3s", "crio", "no-runtime-socket", "external-redis", "monitoring", "dry-run"}
    assert set(OVERLAYS) == promised


@every_overlay
@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_has_the_form_that_kubernetes_takes(name: str, version: str):
    assert [one for document in overlay(name) for one in complaints(document, version)] == []


@pytest.mark.parametrize(
    "broken",
    [
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"prots": []}},
        {"apiVersion": "example.org/v1", "kind": "Nothing", "metadata": {"name": "a"}},
        {"apiVersion": "monitoring.coreos.com/v1", "kind": "PodMonitor", "metadata": {"name": "a"}, "spec": {"endpoints": []}},
        {"apiVersion": "monitoring.coreos.com/v1", "kind": "PrometheusRule", "metadata": {"name": "a"}, "spec": {"rules": []}},
    ],
)
def test_what_has_another_form_or_no_schema_is_found(broken: Document):
    assert complaints(broken, VERSIONS[0])


@every_overlay
def test_an_object_is_there_once_and_in_the_namespace(name: str):
    documents = overlay(name)
    keys = [(one["kind"], one["metadata"]["name"]) for one in documents]
    assert len(keys) == len(set(keys))
    outside = {one["kind"] for one in documents if "namespace" not in one["metadata"]}
    assert outside == {"Namespace", "ClusterRole", "ClusterRoleBinding"}
    assert {one["metadata"]["namespace"] for one in documents if one["kind"] not in outside} == {"cni-cleanup"}


@every_overlay
def test_a_workload_selects_its_own_pods_and_nobody_elses(name: str):
    documents = overlay(name)
    for workload in workloads(documents):
        taken = [labels for labels in pod_labels(documents) if selects(workload["spec"]["selector"], labels)]
        assert taken == [workload["spec"]["template"]["metadata"]["labels"]]


@every_overlay
def test_a_service_a_budget_and_a_spread_select_one_workloads_pods(name: str):
    documents = overlay(name)
    selectors = [{"matchLabels": one["spec"]["selector"]} for one in documents if one["kind"] == "Service"]
    selectors += [one["spec"]["selector"] for one in documents if one["kind"] == "PodDisruptionBudget"]
    for workload in workloads(documents):
        spreads = workload["spec"]["template"]["spec"].get("topologySpreadConstraints", ())
        selectors += [spread["labelSelector"] for spread in spreads]
    assert len(selectors) >= 7
    for selector in selectors:
        assert len([labels for labels in pod_labels(documents) if selects(selector, labels)]) == 1, selector


@every_overlay
def test_the_port_of_a_service_is_a_port_of_its_pods(name: str):
    documents = overlay(name)
    for service in (one for one in documents if one["kind"] == "Service"):
        ports = ports_of(documents, {"matchLabels": service["spec"]["selector"]})
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports.keys()
        assert {port["targetPort"]: port["port"] for port in service["spec"]["ports"]}.items() <= ports.items()


def ports_of(documents: tuple[Document, ...], selector: dict[str, Any]) -> dict[str, int]:
    """The ports of the pods that a selector takes, by their names."""
    return {
        port["name"]: port["containerPort"]
        for one in containers(documents)
        if selects(selector, one.workload["spec"]["template"]["metadata"]["labels"])
        for port in one.spec.get("ports", ())
    }


@every_overlay
def test_what_a_pod_mounts_and_reads_is_there(name: str):
    documents = overlay(name)
    maps = {one["metadata"]["name"] for one in documents if one["kind"] == "ConfigMap"}
    accounts = {one["metadata"]["name"] for one in documents if one["kind"] == "ServiceAccount"} | {"default"}
    for one in containers(documents):
        assert {source["configMapRef"]["name"] for source in one.spec.get("envFrom", ())} <= maps | {"cni-cleanup-local"}
        assert one.pod.get("serviceAccountName", "default") in accounts
        for _, volume in one.volumes():
            assert "configMap" not in volume or volume["configMap"]["name"] in maps
            # Made by one command of docs/kubernetes.md, and for a Redis with certificates of its own.
            secret = volume.get("secret", {"secretName": "cni-cleanup"})
            assert secret["secretName"] == "cni-cleanup" or secret["optional"]


@every_overlay
def test_the_image_is_this_versions(name: str):
    images = {one.spec["image"] for one in containers(overlay(name))}
    own = {f"cni-cleanup:{__version__}", f"cni-cleanup-exporter:{__version__}"}
    assert images == own | (set() if name == "external-redis" else {"redis:7-alpine"})


@every_overlay
def test_every_pod_is_denied_all_that_no_other_policy_allows_and_the_policies_select_pods_that_there_are(name: str):
    documents = overlay(name)
    policies = [one for one in documents if one["kind"] == "NetworkPolicy"]
    deny = named(documents, "NetworkPolicy", "default-deny")["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for policy in policies:
        assert any(selects(policy["spec"]["podSelector"], labels) for labels in pod_labels(documents)), policy["metadata"]["name"]
        for rule in policy["spec"].get("ingress", ()):
            ports = ports_of(documents, policy["spec"]["podSelector"])
            assert {port["port"] for port in rule["ports"]} <= ports.keys()


def test_redis_admits_its_clients_by_label_and_the_nodes_by_address():
    documents = overlay("default")
    (clients, nodes) = named(documents, "NetworkPolicy", "redis")["spec"]["ingress"]
    (peer,) = clients["from"]
    admitted = {labels["app.kubernetes.io/name"] for labels in pod_labels(documents) if selects(peer["podSelector"], labels)}
    # The nodes' pods have no address of their own.
    assert admitted == {"cni-cleanup-control", "cni-cleanup-beat", "flower", "celery-exporter"}
    assert all(peer.keys() == {"ipBlock"} for peer in nodes["from"])


def test_nobody_is_let_in_to_flower():
    policies = [one["spec"] for one in overlay("default") if one["kind"] == "NetworkPolicy"]
    labels = {"app.kubernetes.io/name": "flower"}
    assert [one for one in policies if selects(one["podSelector"], labels) and one.get("ingress")] == []


@every_overlay
def test_a_drain_is_never_blocked(name: str):
    documents = overlay(name)
    budgets = [one["spec"] for one in documents if one["kind"] == "PodDisruptionBudget"]
    assert len(budgets) == 2
    for budget in budgets:
        assert (budget["maxUnavailable"], budget["unhealthyPodEvictionPolicy"]) == (1, "AlwaysAllow")
        replicas = [one["spec"]["replicas"] for one in workloads(documents) if one["spec"]["selector"] == budget["selector"]]
        assert replicas == [2]


def test_with_a_redis_of_ones_own_there_is_none_here():
    documents = overlay("external-redis")
    assert [one for one in documents if one["metadata"]["name"].partition("-")[0] == "redis"] == []
    (egress,) = named(documents, "NetworkPolicy", "to-redis")["spec"]["egress"]
    assert egress == {"ports": [{"protocol": "TCP", "port": 6379}, {"protocol": "TCP", "port": 6380}]}
    for one in containers(documents):
        secrets = {volume["secret"]["secretName"]: mount["mountPath"] for mount, volume in one.volumes() if "secret" in volume}
        assert secrets["cni-cleanup-redis-tls"] == "/etc/cni-cleanup-tls", one.name


def test_the_rule_of_the_operator_is_made_of_the_rules():
    rule = named(overlay("monitoring"), "PrometheusRule", "cni-cleanup")
    assert rule["spec"] == load(RULES)
    committed = KUBERNETES / "components/monitoring/prometheus-rule.yaml"
    code = "import sys, prometheus_rule as made; sys.stdout.write(made.prometheus_rule(made.RULES.read_text()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY / "tools", capture_output=True, text=True, check=True)
    assert committed.read_text() == done.stdout, "run tools/prometheus_rule.py"


@pytest.mark.parametrize("job", ["cni-cleanup", "celery-exporter"])
def test_the_operator_scrapes_as_the_scrape_configuration_does(job: str):
    documents = overlay("monitoring")
    (scrape,) = (one for one in load(PROMETHEUS / "scrape-kubernetes.yml")["scrape_configs"] if one["job_name"] == job)
    spec = named(documents, "PodMonitor", job)["spec"]
    (endpoint,) = spec["podMetricsEndpoints"]
    assert (endpoint["interval"], endpoint["scrapeTimeout"]) == (scrape["scrape_interval"], scrape["scrape_timeout"])
    assert endpoint["port"] in ports_of(documents, spec["selector"])
    (labels,) = (labels for labels in pod_labels(documents) if selects(spec["selector"], labels))
    assert labels[spec["jobLabel"]] == job
    # What the operator does by itself: the port by its name, and no pod that has ended.
    wanted = [one for one in scrape["relabel_configs"] if "target_label" in one]
    made = [one for one in endpoint.get("relabelings", ()) if "targetLabel" in one]
    assert [(one["sourceLabels"], one["targetLabel"]) for one in made] == [
        (one["source_labels"], one["target_label"]) for one in wanted
    ]
