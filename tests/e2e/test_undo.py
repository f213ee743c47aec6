"""Undo by the command line, as an operator types it."""

import shlex
from pathlib import Path

import pytest

from tests.support.nodetree import NodeTree, remaining
from tests.support.program import run


@pytest.fixture
def tree(tmp_path):
    """A node with one live pod and one leak."""
    tree = NodeTree(tmp_path / "node")
    tree.live("web", "10.88.0.2")
    tree.dead("gone", "10.88.0.3")
    tree.settings()
    return tree


def node(tree):
    return ["--root", str(tree.root), "--state-dir", str(tree.state)]


def clean(tree, home):
    files = [
        "--sandboxes-file",
        str(tree.path / "sandboxes.json"),
        "--pods-file",
        str(tree.path / "pods.json"),
        "--node",
        "node1",
    ]
    done = run("clean", *node(tree), *files, "--min-age", "0", "--confirm-after", "0", home=home)
    assert done.status == 0, done.err
    return done.out


def test_the_undo_that_a_pass_prints_can_be_pasted(tree, tmp_path: Path):
    out = clean(tree, tmp_path)
    assert remaining(tree) == {"cbr0/10.88.0.2"}
    line = next(line for line in out.splitlines() if line.startswith("undo: "))
    words = shlex.split(line.removeprefix("undo: cni-cleanup "))
    assert run(*words, home=tmp_path).status == 0
    assert remaining(tree) == {"cbr0/10.88.0.2", "cbr0/10.88.0.3"}


def test_a_second_restore_does_not_undo_an_older_pass(tree, tmp_path: Path):
    clean(tree, tmp_path)
    tree.dead("second", "10.88.0.4")
    clean(tree, tmp_path)
    assert run("restore", *node(tree), home=tmp_path).status == 0
    again = run("restore", *node(tree), home=tmp_path)
    assert again.status == 1
    assert "nothing is left" in again.line
    assert remaining(tree) == {"cbr0/10.88.0.2", "cbr0/10.88.0.4"}


def test_a_dry_run_restores_and_releases_nothing(tree, tmp_path: Path):
    clean(tree, tmp_path)
    shown = run("restore", *node(tree), "--dry-run", home=tmp_path)
    assert shown.status == 0
    assert "10.88.0.3" in shown.out
    assert remaining(tree) == {"cbr0/10.88.0.2"}
    run("restore", *node(tree), home=tmp_path)
    assert run("restore", *node(tree), "--release", "--dry-run", home=tmp_path).status == 2


def test_fail_on_leak_does_not_pass_where_nothing_can_be_told(tree, tmp_path: Path):
    done = run("scan", *node(tree), "--fail-on-leak", "--runtime-endpoint", "unix:///none.sock", "--api", "none", home=tmp_path)
    assert done.status == 1
    assert "cannot be told" in done.line
    assert run("scan", *node(tree), "--runtime-endpoint", "unix:///none.sock", "--api", "none", home=tmp_path).status == 0


def test_a_misspelt_variable_is_warned_of(tree, tmp_path: Path):
    done = run("scan", *node(tree), "--api", "none", home=tmp_path, variables={"CNI_CLEANUP_MINAGE": "1"})
    assert "CNI_CLEANUP_MINAGE" in done.line


def test_debug_tells_the_settings_without_the_brokers_password(tree, tmp_path: Path):
    variables = {"CNI_CLEANUP_DEBUG": "1", "CNI_CLEANUP_BROKER": "redis://:secret@h/0"}
    done = run("scan", *node(tree), "--api", "none", home=tmp_path, variables=variables)
    assert "settings: " in done.err
    assert "secret" not in done.err
