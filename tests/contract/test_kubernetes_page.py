"""docs/kubernetes.md against the manifests: its overlays can be rendered, its table has every object, its names are theirs."""

import os
import re
import shutil
from pathlib import Path

import click
import pytest
import yaml

from cli.program import program
from cni import __version__
from tests.contract.test_kubernetes import VERSIONS, complaints
from tests.contract.test_kubernetes_privileges import unconfined
from tests.support.manifests import KUBERNETES, OVERLAYS, Document, container, containers, environment, named, overlay, render
from tests.support.program import REPOSITORY
from workers.runtime import SOCKETS

PAGE = (REPOSITORY / "docs/kubernetes.md").read_text()
EXAMPLES = re.findall(r"^```yaml\n(apiVersion: kustomize.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
FIELDS = {"spec.nodeName": "node-7", "metadata.uid": "uid-worker", "status.hostIP": "192.0.2.7"}


def rendered(example: str, tmp_path: Path) -> tuple[Document, ...]:
    copy = shutil.copytree(KUBERNETES, tmp_path / "kubernetes")
    (copy / "overlays/ours").mkdir()
    (copy / "overlays/ours/kustomization.yaml").write_text(example)
    return tuple(render(copy / "overlays/ours"))


def test_there_are_two_overlays_of_ones_own():
    assert len(EXAMPLES) == 2


@pytest.mark.parametrize("example", EXAMPLES, ids=["ours", "kind"])
def test_an_overlay_of_ones_own_is_as_confined_and_as_harmless_as_the_others(example: str, tmp_path: Path):
    documents = rendered(example, tmp_path)
    assert [one for document in documents for version in VERSIONS for one in complaints(document, version)] == []
    for one in containers(documents):
        assert unconfined(one) == []
        assert environment(documents, one, FIELDS).get("CNI_CLEANUP_DRY_RUN", "true") == "true"


def test_the_overlay_with_everything_has_its_registry_its_redis_and_its_label(tmp_path: Path):
    documents = rendered(EXAMPLES[0], tmp_path)
    registry = "registry.example.org/cni-cleanup"
    assert {one.spec["image"] for one in containers(documents)} == {
        f"{registry}:{__version__}",
        f"{registry}-exporter:{__version__}",
    }
    assert named(documents, "PodMonitor", "cni-cleanup")["metadata"]["labels"]["release"] == "kube-prometheus-stack"
    assert named(documents, "PrometheusRule", "cni-cleanup")["metadata"]["labels"]["release"] == "kube-prometheus-stack"
    (settings,) = (one["data"] for one in documents if one["kind"] == "ConfigMap")
    assert settings["CNI_CLEANUP_BROKER"].startswith("rediss://redis.internal.example.org:6380/")


def test_two_runtimes_of_a_node_can_be_mounted_together(tmp_path: Path):
    both = "resources: [../../base]\ncomponents: [../../components/containerd, ../../components/crio]\n"
    worker = container(rendered(both, tmp_path), "cni-cleanup/worker")
    mounted = {mount["mountPath"] for mount, _ in worker.volumes()}
    assert mounted >= {"/run/containerd", "/run/crio"}


def test_the_directory_of_every_runtime_that_the_program_looks_for_stands_in_the_page():
    assert [socket for socket in SOCKETS if f"`{os.path.dirname(socket)}`" not in PAGE] == []


def test_going_live_restarts_all_that_reads_the_settings():
    (kinds,) = re.findall(r"rollout restart (\S+)$", PAGE, flags=re.MULTILINE)
    readers = {one.workload["kind"].lower() for one in containers(overlay("default")) if one.spec.get("envFrom")}
    assert set(kinds.split(",")) == readers


def test_the_table_of_overlays_has_each_with_its_components():
    rows = re.findall(r"^\| `([a-z3-]+)` \| (`[^|]*`) \| ", PAGE, flags=re.MULTILINE)
    told = {name: re.findall("`([^`]+)`", components) for name, components in rows}
    made = {
        name: [
            path.rpartition("/")[2]
            for path in yaml.safe_load((KUBERNETES / "overlays" / name / "kustomization.yaml").read_text())["components"]
        ]
        for name in OVERLAYS
    }
    assert told == made


def test_the_table_of_objects_has_every_one():
    table = PAGE.partition("## What is there")[2].partition("###")[0]
    listed = set()
    for row in re.findall(r"^\| ([A-Z][^|]*) \|", table, flags=re.MULTILINE):
        kinds = re.findall(r"(?<!`)\b([A-Z][A-Za-z]+)\b", row)
        names = re.findall("`([a-z-]+)`", row)
        listed |= {(kind, name) for kind in kinds for name in names}
    made = {(one["kind"], re.sub("-[a-z0-9]{10}$", "", one["metadata"]["name"])) for name in OVERLAYS for one in overlay(name)}
    assert made <= listed


def test_the_version_in_the_page_is_this_one():
    assert set(re.findall(r"cni-cleanup(?:-exporter)?:([0-9][\w.]*)", PAGE)) == {__version__}


def test_the_page_names_only_commands_that_there_are():
    named_here = set(re.findall(r"-- cni-cleanup ([a-z]+)", PAGE))
    assert named_here
    assert named_here <= set(program.list_commands(click.Context(program)))


def test_the_page_names_only_what_is_applied():
    objects = {(one["kind"].lower(), one["metadata"]["name"]) for one in overlay("default")}
    for kind, name in re.findall(r"(daemonset|deployment|deploy)/(cni-cleanup[a-z-]*|flower)", PAGE):
        assert ({"deploy": "deployment"}.get(kind, kind), name) in objects


def test_what_the_page_leads_to_is_there():
    links = set(re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", PAGE))
    assert links
    assert [link for link in links if not (REPOSITORY / "docs" / link).exists()] == []


def test_the_secret_of_the_page_has_the_keys_that_are_mounted():
    keys = set(re.findall(r"--from-literal=([a-z-]+)=", PAGE))
    mounted = {
        item["key"]
        for one in containers(overlay("default"))
        for _, volume in one.volumes()
        for item in volume.get("secret", {}).get("items", ())
    }
    assert keys == mounted
