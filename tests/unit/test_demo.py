"""The demo's parts that need no process: its nodes, and how it judges what became of them."""

import io
import json
import sys
from pathlib import Path

import pytest
from rich.console import Console

from cli.demo import environment, start_flower
from cli.demo.nodes import make, write_environment
from cli.demo.processes import Processes
from cli.demo.show import check
from workers.configuration import environment_of, load_settings


def test_nodes_are_copies_of_the_recorded_ones_under_their_own_names(tmp_path: Path):
    nodes = make(4, tmp_path)
    assert [node.name for node in nodes] == ["node-1", "node-2", "node-3", "node-4"]
    for node in nodes:
        there = set(node.reservations())
        assert node.leaked
        assert node.live
        assert not node.leaked & node.live
        assert node.leaked | node.live == there
        pods = json.loads((node.directory / "pods.json").read_text())["items"]
        assert {pod["spec"]["nodeName"] for pod in pods} == {node.name}
    assert len({node.story for node in nodes}) == 3


def test_a_processs_environment_says_what_the_settings_say(tmp_path: Path):
    (node,) = make(1, tmp_path)
    settings = node.settings("redis://127.0.0.1:1/0")
    assert load_settings({}, {**environment_of(settings), "HOME": str(tmp_path)}) == settings


def test_a_process_is_told_of_a_collector_of_traces_and_of_no_other_cluster(monkeypatch: pytest.MonkeyPatch):
    collector = {"CNI_CLEANUP_JAEGERURL": "http://127.0.0.1:4318", "OTEL_EXPORTER_OTLP_HEADERS": "x-tenant=nodes"}
    elsewhere = (
        "CNI_CLEANUP_BROKER",
        "CNI_CLEANUP_NODE",
        "CELERY_CONFIG_MODULE",
        "FLOWER_PORT",
        "KUBECONFIG",
        "NODE_NAME",
        "POD_UID",
    )
    for name, value in {**collector, **dict.fromkeys(elsewhere, "another")}.items():
        monkeypatch.setenv(name, value)
    own = {"CNI_CLEANUP_BROKER": "redis://127.0.0.1:1/0"}
    made = environment(own)
    assert collector.items() | own.items() <= made.items()
    assert "another" not in made.values()


def test_the_file_for_a_shell_holds_the_environment(tmp_path: Path):
    (node,) = make(1, tmp_path / "with a blank")
    write_environment(node, "redis://127.0.0.1:1/0")
    lines = (node.directory / "env").read_text().splitlines()
    assert "export CNI_CLEANUP_NODE=node-1" in lines
    assert f"export CNI_CLEANUP_ROOT='{node.directory}/root'" in lines


def test_a_node_is_right_when_all_leaked_are_gone_and_all_live_are_there(tmp_path: Path):
    (node,) = make(1, tmp_path)
    before = node.reservations()
    after = {path: data for path, data in before.items() if path in node.live}
    assert check(node, before, after).right
    assert not check(node, before, before).right
    assert not check(node, before, {}).right


@pytest.mark.parametrize("data", [b"", b"0" * 64])
def test_a_live_reservation_that_was_changed_is_not_there(tmp_path: Path, data: bytes):
    (node,) = make(1, tmp_path)
    before = node.reservations()
    after = {path: content for path, content in before.items() if path in node.live}
    after[min(node.live)] = data
    found = check(node, before, after)
    assert found.live_there == found.live - 1
    assert not found.right


def test_without_flower_one_line_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # As Python marks a module that must not be found.
    monkeypatch.setitem(sys.modules, "flower", None)
    said = io.StringIO()
    assert start_flower("redis://127.0.0.1:1/0", Processes(tmp_path), Console(file=said, width=80)) is None
    assert said.getvalue().count("\n") == 1
    assert "pip install 'cni-cleanup[flower]'" in said.getvalue()
    assert list(tmp_path.iterdir()) == []
