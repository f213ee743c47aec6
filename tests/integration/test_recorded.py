"""Recorded nodes are copied as they were, and the comparison of trees sees every difference."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.namespaces import Namespaces, mount_points
from tests.support.recorded import CASES, NODE_NAME, Difference, RecordedNode, copy_node, difference, snapshot

DEMO_CASES = {"leak-renamed-network", "b-dual-stack", "a2-failed-add-draining"}


def test_all_recorded_cases_are_found():
    assert len(CASES) == 8
    assert set(CASES) >= DEMO_CASES


@pytest.mark.parametrize("case", CASES)
def test_a_copy_has_the_recorded_sizes_modes_and_ages(case: str, recorded_node: Callable[[str], RecordedNode]):
    started = time.time()
    node = recorded_node(case)
    files = json.loads((node.directory / "truth.json").read_bytes())["files"]
    for path, recorded in files.items():
        status = (node.root / path).lstat()
        assert (oct(status.st_mode & 0o7777), status.st_size) == (recorded["mode"], recorded["size"])
        assert status.st_mtime == pytest.approx(started - recorded["age_seconds"], abs=60)


@pytest.mark.parametrize("case", CASES)
def test_every_reservation_of_a_copy_is_either_leaked_or_live(case: str, recorded_node: Callable[[str], RecordedNode]):
    node = recorded_node(case)
    addresses = {
        str(path.relative_to(node.networks)) for path in node.networks.glob("*/*") if "." in path.name or ":" in path.name
    }
    addresses = {path for path in addresses if not Path(path).name.startswith("last_reserved_ip")}
    assert node.leaked | node.live == addresses
    assert not node.leaked & node.live
    assert not node.container_ids(node.leaked) & node.container_ids(node.live)
    assert node.needs_real_ages is (case == "d4-churn-slow-add")
    pods = json.loads(node.pods_file.read_bytes())["items"]
    assert {pod["spec"]["nodeName"] for pod in pods} == {NODE_NAME}


def test_recorded_mounts_are_made_again(namespaces: Namespaces, tmp_path: Path):
    node = copy_node("d4-churn-slow-add", tmp_path / "node", namespaces=namespaces)
    recorded = json.loads((node.directory / "netns.json").read_bytes())
    names = {name for name, seen in recorded.items() if seen and seen["mounted"]}
    netns = node.root / "run" / "netns"
    assert mount_points(node.root) == {netns / name: "nsfs" for name in names}
    assert names < {path.name for path in netns.iterdir()}
    assert node.mounted


def test_a_case_without_recorded_mounts_is_a_plain_copy(namespaces: Namespaces, tmp_path: Path):
    node = copy_node("leak-renamed-network", tmp_path / "node", namespaces=namespaces)
    assert not node.mounted
    assert mount_points(node.root) == {}


def test_a_copy_can_be_older(tmp_path: Path):
    node = copy_node("b-dual-stack", tmp_path / "node", older_by=3600)
    assert all((node.networks / path).stat().st_mtime < time.time() - 3600 for path in node.leaked)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "file").write_bytes(b"content")
    (root / "sub" / "link").symlink_to("file")
    os.mkfifo(root / "pipe")
    return root


def test_nothing_is_different_in_an_untouched_tree(tree: Path):
    before = snapshot(tree)
    assert set(before) == {"sub", "sub/file", "sub/link", "pipe"}
    assert difference(before, snapshot(tree)) == Difference(frozenset(), frozenset(), frozenset())


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_bytes(b"CONTENT"),
        lambda path: path.chmod(0o600),
        lambda path: os.utime(path, ns=(1, 1)),
        lambda path: os.link(path, path.parents[2] / "second-name"),
    ],
    ids=["bytes", "mode", "mtime", "links"],
)
def test_every_change_of_a_file_is_seen(tree: Path, change: Callable[[Path], object]):
    before = snapshot(tree)
    change(tree / "sub" / "file")
    assert difference(before, snapshot(tree)) == Difference(frozenset(), frozenset(), frozenset({"sub/file"}))


def test_removed_and_added_files_do_not_make_their_directory_changed(tree: Path):
    before = snapshot(tree)
    (tree / "sub" / "link").unlink()
    (tree / "new").touch()
    expected = Difference(removed=frozenset({"sub/link"}), added=frozenset({"new"}), changed=frozenset())
    assert difference(before, snapshot(tree)) == expected


def test_a_replaced_file_of_the_same_bytes_is_a_change_by_its_time(tree: Path):
    before = snapshot(tree)
    (tree / "sub" / "file").unlink()
    (tree / "sub" / "file").write_bytes(b"content")
    assert difference(before, snapshot(tree)).changed >= {"sub/file"}


def test_a_mount_is_an_entry_that_is_not_entered(namespaces: Namespaces, tree: Path):
    before = snapshot(tree)
    namespaces.mount(tree / "sub" / "file")
    assert snapshot(tree)["sub/file"].kind == "mount"
    assert difference(before, snapshot(tree)).changed == {"sub/file"}
