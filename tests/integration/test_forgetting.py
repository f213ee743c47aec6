"""What Redis keeps for nodes that left the cluster, and when a sweep removes it."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes.config.kube_config as kubeconfigs
import pytest
import redis

from cni.settings import Settings
from tasks import app
from tasks import sweep as sweeps
from tasks.discovery import SKIP
from tasks.ledger import Facts, Ledger, note_worker
from tests.support.api_server import ApiServer, write_kubeconfig

GONE = "node-gone"


@pytest.fixture
def client(redis_url: str) -> "Iterator[redis.Redis]":
    with contextlib.closing(redis.Redis.from_url(redis_url)) as client:
        yield client


@pytest.fixture
def ledger(client: "redis.Redis") -> Ledger:
    for node, last_there in ((GONE, 2 * 86400.0), ("node-moved", 7200.0), ("node-1", 2 * 86400.0)):
        note_worker(client, node, at=time.time() - last_there)
        client.lpush(f"node.{node}", "a job that nobody takes")
        client.sadd(f"_kombu.binding.node.{node}", "x")
        client.sadd(f"_kombu.binding_permanent.node.{node}", "x")
    return Ledger(client)


@pytest.fixture
def server(api_server: ApiServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ApiServer:
    """A cluster whose only node is node-1."""
    api_server.set_nodes([node("node-1")])
    kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", api_server.url)
    monkeypatch.setattr(kubeconfigs, "KUBE_CONFIG_DEFAULT_LOCATION", str(kubeconfig))
    monkeypatch.setattr(app, "_settings", Settings(api="external"))
    return api_server


def node(name: str, **labels: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": {"kubernetes.io/os": "linux", **labels}}, "spec": {}, "status": {}}


def sweep(ledger: Ledger, *, nodes: tuple[str, ...] | None = None, dry_run: bool = False, selector: str | None = None) -> None:
    """Let a sweep find out its nodes."""
    facts = Facts(sweep_id="s", started=time.time(), dry_run=dry_run, nodes=nodes, selector=selector)
    ledger.begin(facts)
    sweeps._expect(ledger, facts)
    assert ledger.expected("s") == {"node-1"}


def test_a_whole_sweep_forgets_a_node_that_left_and_had_no_worker_for_a_day(
    server: ApiServer, ledger: Ledger, client: "redis.Redis"
):
    sweep(ledger)
    kept = {key.decode() for key in client.scan_iter("*node.node-*")}
    parts = ("", "_kombu.binding.", "_kombu.binding_permanent.")
    assert kept == {f"{part}node.{name}" for part in parts for name in ("node-1", "node-moved")}
    assert ledger.known_nodes() == {"node-1", "node-moved"}


@pytest.mark.parametrize(
    "wanted",
    [
        pytest.param({"nodes": ("node-1",)}, id="some nodes"),
        pytest.param({"selector": "kubernetes.io/os=linux"}, id="those with a label"),
        pytest.param({"dry_run": True}, id="a dry run"),
    ],
)
def test_a_sweep_over_less_forgets_nothing(server: ApiServer, ledger: Ledger, client: "redis.Redis", wanted: dict[str, Any]):
    sweep(ledger, **wanted)
    assert client.lrange(f"node.{GONE}", 0, -1) == [b"a job that nobody takes"]
    assert GONE in ledger.known_nodes()


def test_a_node_that_is_left_out_is_not_forgotten(server: ApiServer, ledger: Ledger):
    server.set_nodes([node("node-1"), node(GONE, **{SKIP: ""})])
    sweep(ledger)
    assert GONE in ledger.known_nodes()


def test_a_list_of_the_operators_is_not_all_there_is(monkeypatch: pytest.MonkeyPatch, ledger: Ledger):
    monkeypatch.setattr(app, "_settings", Settings(static_nodes=("node-1",)))
    sweep(ledger)
    assert GONE in ledger.known_nodes()
