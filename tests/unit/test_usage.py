"""How full networks are, counted by names alone: the same numbers as a scan's, from less work."""

import dataclasses
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cni.errors import PassAborted
from cni.settings import Settings
from tests.support.nodetree import NodeTree
from tests.support.recorded import CASES, RecordedNode
from tests.support.skips import require_root
from tests.support.trees import Case, load_cases
from workers import node
from workers.configuration import load_settings
from workers.usage import Counter, Usage

# A scan that is aborted has no numbers.
TREES = [case for case in load_cases() if case.expected["aborted"] is None]


@pytest.fixture
def tree(tmp_path: Path) -> NodeTree:
    return NodeTree(tmp_path)


def as_scanned(settings: Settings) -> list[Usage]:
    """What `scan` reports of the networks that it judges."""
    return [
        Usage(network=row["name"], reserved=row["reservations"], capacity=row["capacity"])
        for row in node.scan(settings).network_rows
        if row["problem"] != "skipped"
    ]


def reserved(counter: Counter) -> int:
    """Of the one network."""
    (usage,) = counter.count()
    return usage.reserved


def make_old(directory: Path) -> None:
    """Have a directory be one that changed long ago."""
    before = time.time() - 60
    os.utime(directory, (before, before))


@pytest.mark.parametrize("name", CASES)
def test_a_recorded_node_has_the_numbers_of_its_scan(recorded_node: Callable[[str], RecordedNode], name: str):
    recorded = recorded_node(name)
    settings = Settings(
        root=str(recorded.root),
        state_dir=str(recorded.directory / "state"),
        node="node1",
        pods_file=str(recorded.pods_file),
        sandboxes_file=str(recorded.sandboxes_file),
    )
    assert Counter(settings).count() == as_scanned(settings)


@pytest.mark.parametrize("case", TREES, ids=[case.name for case in TREES])
def test_an_odd_tree_has_the_numbers_of_its_scan(tmp_path: Path, case: Case):
    """Also links, other files under addresses' names, names that are no network's, and a configuration in the cache only."""
    if case.needs_root:
        require_root()
    settings = load_settings(case.build(tmp_path), {})
    assert Counter(settings).count() == as_scanned(settings)


def test_dual_stack_counts_both_addresses_against_the_smaller_range(recorded_node: Callable[[str], RecordedNode]):
    counted = Counter(Settings(root=str(recorded_node("b-dual-stack").root))).count()
    assert counted[0] == Usage(network="dual", reserved=14, capacity=2 * 65533)


def test_networks_narrows(tree: NodeTree):
    tree.network("net1")
    tree.reservation("10.88.0.2", "a", network="net1")
    settings = tree.settings(networks=frozenset({"net1"}))
    assert [usage.network for usage in Counter(settings).count()] == ["net1"]


@pytest.mark.parametrize(
    ("numbers", "percent", "over"),
    [
        pytest.param((79, 100), 80, False, id="below"),
        pytest.param((80, 100), 80, True, id="at it"),
        pytest.param((203, 254), 80, False, id="not rounded up"),
        pytest.param((254, 254), 100, True, id="full"),
        pytest.param((300, 254), 0, False, id="0 is never"),
        pytest.param((65000, None), 1, False, id="capacity unknown"),
        pytest.param((1, 0), 1, False, id="no capacity at all"),
        pytest.param((0, 100), 1, False, id="empty"),
    ],
)
def test_a_network_is_over_its_percentage(numbers: tuple[int, int | None], percent: int, over: bool):
    usage = Usage(network="cbr0", reserved=numbers[0], capacity=numbers[1])
    assert usage.is_over(percent) is over


class TestChanges:
    def test_what_has_not_changed_for_a_while_is_not_read_again(self, tree: NodeTree):
        """The time of change is all that is looked at: put back, it hides a change that nothing but a test makes."""
        directory = tree.reservation("10.88.0.2", "a").parent
        make_old(directory)
        before = directory.stat()
        counter = Counter(tree.settings())
        assert reserved(counter) == 1
        tree.reservation("10.88.0.3", "b")
        os.utime(directory, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert reserved(counter) == 1

    def test_a_change_is_seen(self, tree: NodeTree):
        directory = tree.reservation("10.88.0.2", "a").parent
        make_old(directory)
        counter = Counter(tree.settings())
        assert reserved(counter) == 1
        other = tree.reservation("10.88.0.3", "b")
        assert reserved(counter) == 2
        other.unlink()
        assert reserved(counter) == 1

    def test_a_change_within_the_same_tick_of_the_clock_is_seen(self, tree: NodeTree):
        """A directory's time may be the same after a second change: what changed just now is counted again."""
        directory = tree.reservation("10.88.0.2", "a").parent
        counter = Counter(tree.settings())
        now = time.time_ns()
        os.utime(directory, ns=(now, now))
        assert reserved(counter) == 1
        tree.reservation("10.88.0.3", "b")
        os.utime(directory, ns=(now, now))
        assert reserved(counter) == 2

    def test_a_directory_of_the_future_is_counted_each_time(self, tree: NodeTree):
        directory = tree.reservation("10.88.0.2", "a").parent
        counter = Counter(tree.settings())
        later = time.time_ns() + 3600 * 10**9
        for count in (1, 2):
            os.utime(directory, ns=(later, later))
            assert reserved(counter) == count
            tree.reservation(f"10.88.0.{count + 2}", "b")


class TestWhatCannotBeRead:
    def test_a_network_that_vanishes_is_gone(self, tree: NodeTree):
        directory = tree.reservation("10.88.0.2", "a").parent
        counter = Counter(tree.settings())
        assert reserved(counter) == 1
        shutil.rmtree(directory)
        assert counter.count() == []

    def test_a_link_for_a_network_has_nothing_in_it(self, tree: NodeTree):
        directory = tree.reservation("10.88.0.2", "a").parent
        (directory.parent / "link").symlink_to("cbr0")
        counted = {usage.network: usage.reserved for usage in Counter(tree.settings()).count()}
        assert counted == {"cbr0": 1, "link": 0}

    def test_no_cni_directory_is_said_as_by_a_pass(self, tree: NodeTree):
        shutil.rmtree(tree.root / "var/lib/cni")
        with pytest.raises(PassAborted, match="name the CNI directory with --cnifiles"):
            Counter(tree.settings()).count()

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"name": 7}', b"\xff\x00", b'{"name": "cbr0", "plugins": 1}'])
    def test_a_garbled_configuration_leaves_the_capacity_unknown(self, tree: NodeTree, content: bytes):
        tree.reservation("10.88.0.2", "a")
        tree.file("etc/cni/net.d/10-cbr0.conflist", content)
        (usage,) = Counter(tree.settings()).count()
        assert usage == Usage(network="cbr0", reserved=1, capacity=None)


class TestConfigurationInTheCacheOnly:
    """Of a network that Multus attaches, whose configuration is in the API, or one that was renamed."""

    def capacity(self, tree: NodeTree) -> int | None:
        (tree.root / "etc/cni/net.d/10-cbr0.conflist").unlink()
        (usage,) = Counter(tree.settings()).count()
        return usage.capacity

    def test_it_is_taken_from_any_attachment_that_has_one(self, tree: NodeTree):
        tree.live("a", "10.88.0.2")
        (tree.root / "var/lib/cni/results/cbr0-link").symlink_to("nowhere")
        tree.file("var/lib/cni/results/cbr0-torn", b"{")
        tree.result("b", network="cbr0-other")
        assert self.capacity(tree) == 65533

    def test_it_is_remembered_as_long_as_the_worker_lives(self, tree: NodeTree):
        tree.live("a", "10.88.0.2")
        (tree.root / "etc/cni/net.d/10-cbr0.conflist").unlink()
        counter = Counter(tree.settings())
        first = counter.count()
        shutil.rmtree(tree.root / "var/lib/cni/results")
        assert counter.count() == first == [Usage(network="cbr0", reserved=1, capacity=65533)]

    def test_that_of_a_network_whose_name_only_begins_like_it_is_not_taken(self, tree: NodeTree):
        tree.reservation("10.88.0.2", "a")
        tree.result("b", network="cbr0-other")
        assert self.capacity(tree) is None

    def test_without_any_the_capacity_is_unknown(self, tree: NodeTree):
        tree.reservation("10.88.0.2", "a")
        assert self.capacity(tree) is None


def test_counting_leaves_everything_as_it_is(tree: NodeTree):
    tree.live("a", "10.88.0.2")
    before = {path: path.lstat() for path in tree.root.rglob("*")}
    Counter(dataclasses.replace(tree.settings(), early_at=1)).count()
    after = {path: path.lstat() for path in tree.root.rglob("*")}
    assert {path: (found.st_mtime_ns, found.st_ctime_ns) for path, found in before.items()} == {
        path: (found.st_mtime_ns, found.st_ctime_ns) for path, found in after.items()
    }
