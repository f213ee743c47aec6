"""When the ages of files can be believed: rule 4."""

import os

import pytest

from cni.errors import PassAborted
from tests.support.nodetree import NodeTree
from workers import node
from workers.clock import last_step, offset_seconds, remember_clock
from workers.paths import Root
from workers.state import State


class HandClock:
    """A clock that is set by hand."""

    def __init__(self, *, wall=1_000_000.0, monotonic=5_000.0, boot="boot-1"):
        self.wall, self.now, self.boot = wall, monotonic, boot

    def wall_ns(self):
        return int(self.wall * 1e9)

    def monotonic(self):
        return self.now

    def boot_id(self):
        return self.boot

    def sleep(self, seconds):
        self.pass_time(seconds)

    def pass_time(self, seconds):
        self.wall += seconds
        self.now += seconds


@pytest.fixture
def state(tmp_path):
    return State(str(tmp_path / "state"))


def test_without_a_step_ages_count_from_the_boot(state):
    clock = HandClock()
    assert remember_clock(state, clock) == 0.0
    clock.pass_time(86_400)
    assert remember_clock(state, clock) == 0.0


@pytest.mark.parametrize("step", [-6.0, 6.0, 86_400.0])
def test_a_step_of_the_wall_clock_is_remembered_over_passes(state, step):
    clock = HandClock()
    remember_clock(state, clock)
    clock.pass_time(10)
    clock.wall += step
    assert remember_clock(state, clock) == 5_010.0
    clock.pass_time(10)
    assert remember_clock(state, clock) == 5_010.0
    assert last_step(state, clock) == 5_010.0


def test_a_small_slew_is_no_step(state):
    clock = HandClock()
    remember_clock(state, clock)
    clock.wall += 4.0
    assert remember_clock(state, clock) == 0.0


def test_what_another_boot_remembered_does_not_count(state):
    remember_clock(state, HandClock())
    assert remember_clock(state, HandClock(wall=9_000_000.0, monotonic=3.0, boot="boot-2")) == 0.0


@pytest.mark.parametrize(
    "content",
    [
        '{"boot_id": "boot-1", "offset": NaN, "stepped_at": 0}',
        '{"boot_id": "boot-1", "offset": 995000.0, "stepped_at": 1e300}',
        "",
        "{",
        "[]",
        '{"boot_id": "boot-1"}',
        '{"boot_id": "boot-1", "offset": "x", "stepped_at": 0}',
    ],
)
def test_a_memory_that_cannot_be_read_counts_as_a_step(state, content):
    clock = HandClock()
    remember_clock(state, clock)
    with open(state.path("clock.json"), "w", encoding="utf-8") as file:
        file.write(content)
    assert last_step(state, clock) == 5_000.0


def test_a_scan_does_not_write_what_it_saw(state):
    last_step(state, HandClock())
    assert state.read_json("clock.json") is None


def test_the_offset_is_wall_minus_monotonic():
    assert offset_seconds(HandClock()) == 995_000.0


class TestOnTheNodeItself:
    """`/` as root, with the reservations in a directory of ours."""

    @pytest.fixture
    def tree(self, tmp_path):
        # Without results files: below `/` they would name namespaces of this machine.
        tree = NodeTree(tmp_path)
        tree.reservation("10.88.0.2", "web")
        tree.sandbox("web")
        tree.pod("web", "10.88.0.2")
        tree.reservation("10.88.0.3", "gone")
        return tree

    def report(self, tree, clock, state):
        settings = tree.settings(root="/", cnifiles=str(tree.root / "var/lib/cni"), dry_run=True, state_dir=state.directory)
        return node.clean(settings, clock=clock)

    def verdict(self, tree, clock, state):
        report = self.report(tree, clock, state)
        return next(decision.reason for item, decision, _ in report.rows() if item.name == "10.88.0.3")

    def clock(self, tree, **values):
        return HandClock(wall=tree.root.stat().st_ctime + 3600.0, **values)

    def test_an_hour_old_leak_is_found_on_a_node_that_is_up_for_long(self, tree, state):
        assert self.verdict(tree, self.clock(tree), state) == "absent"

    def test_after_a_boot_every_file_is_young(self, tree, state):
        assert self.verdict(tree, self.clock(tree, monotonic=899.0), state) == "young"

    def test_after_a_step_every_file_is_young_for_as_long(self, tree, state):
        clock = self.clock(tree)
        remember_clock(state, clock)
        clock.wall += 100.0
        assert self.verdict(tree, clock, state) == "young"
        clock.pass_time(899.0 - 60.0)
        assert self.verdict(tree, clock, state) == "young"
        clock.pass_time(100.0)
        assert self.verdict(tree, clock, state) == "absent"

    def test_a_step_during_the_pass_ends_it(self, tree, state):
        clock = self.clock(tree)

        class Stepping(HandClock):
            def sleep(self, seconds):
                super().sleep(seconds)
                self.wall += 60.0

        stepping = Stepping(wall=clock.wall)
        assert self.report(tree, stepping, state).aborted.reason == "clock"

    def test_a_pass_that_ends_by_a_hold_remembers_the_clock_all_the_same(self, tree, state):
        os.makedirs(state.directory)
        with open(state.path("hold"), "w", encoding="utf-8"):
            settings = tree.settings(
                root="/", cnifiles=str(tree.root / "var/lib/cni"), state_dir=state.directory, sandboxes_file=None, pods_file=None
            )
        aborted = node.clean(settings, clock=self.clock(tree)).aborted
        assert aborted is not None
        assert aborted.reason == "hold"
        assert state.read_json("clock.json")["boot_id"] == "boot-1"

    def test_a_copied_tree_knows_neither_rule(self, tree, state):
        clock = self.clock(tree, monotonic=1.0)
        report = node.clean(tree.settings(state_dir=state.directory), clock=clock)
        assert report.count("removed") == 1


def test_a_state_directory_that_cannot_be_written_ends_the_pass(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(PassAborted, match="cannot be written"):
        remember_clock(State(str(tmp_path / "file" / "state")), HandClock())


@pytest.mark.parametrize("name", ["/", "//", "/.", "/proc/self/root"])
def test_another_name_for_the_node_itself_is_no_copied_tree(name):
    assert Root(name).is_host


def test_a_link_to_the_node_itself_is_no_copied_tree(tmp_path):
    (tmp_path / "host").symlink_to("/")
    assert Root(str(tmp_path / "host")).is_host
    assert not Root(str(tmp_path)).is_host


@pytest.mark.parametrize("api", [{"pods_file": None, "api": "none"}, {}], ids=["the api is off", "the api is a file"])
def test_who_asks_a_live_runtime_looks_at_a_running_node_whatever_the_root(tmp_path, api):
    """A tree without /proc below another root may be a running node's: only witness files speak for a copy."""
    tree = NodeTree(tmp_path)
    tree.reservation("10.88.0.3", "gone")
    settings = tree.settings(sandboxes_file=None, runtime_endpoint="unix:///none.sock", **api)
    report = node.scan(settings, clock=HandClock(wall=tree.root.stat().st_ctime + 3600.0, monotonic=60.0))
    assert next(decision.reason for item, decision, _ in report.rows() if item.name == "10.88.0.3") == "young"
