"""What the sidecar sees of its node, also where some of it is damaged or missing."""

import json
import logging
import os
import threading
from pathlib import Path

import pytest

from tests.support.nodetree import NodeTree
from workers.watching import Seen, Totals, Watcher, start


@pytest.fixture
def tree(tmp_path: Path) -> NodeTree:
    made = NodeTree(tmp_path)
    made.live("web", "10.88.0.2")
    made.dead("dead", "10.88.0.3")
    return made


def watcher(tree: NodeTree, **changes: object) -> Watcher:
    return Watcher(tree.settings(**changes))


def seen(tree: NodeTree, **changes: object) -> Seen:
    one = watcher(tree, **changes)
    one.look()
    return one.seen


def test_before_the_first_pass_the_files_are_there_and_nothing_else(tree: NodeTree):
    found = seen(tree)
    assert found.tally is not None
    assert [(usage.network, usage.reserved) for usage in found.usage] == [("cbr0", 2)]
    assert (found.report, found.totals, found.journal_size, found.unreadable) == (None, Totals(), 0, {})


def test_a_pass_shows_with_the_next_look(tree: NodeTree):
    one = watcher(tree)
    one.look()
    tree.clean()
    one.look()
    assert [usage.reserved for usage in one.seen.usage] == [1]
    assert one.seen.report is not None
    assert one.seen.report.files["cbr0", "leaked", "absent"] == 2
    assert one.seen.totals is not None
    assert one.seen.totals.passes == {"ok": 1}
    assert one.seen.totals.removed == {("cbr0", "absent"): 1}
    assert one.seen.totals.last_success == one.seen.report.finished
    journal = tree.state / "journal"
    assert one.seen.journal_size == sum(file.stat().st_size for file in journal.iterdir()) > 0


DAMAGED = [
    b"",
    b"{",
    b"[]",
    b"\xff\xfe",
    b'{"passes": {"ok": "many"}, "removed": []}',
    b'{"passes": {"ok": -5}, "removed": []}',
    b'{"passes": {"ok": 1%s}, "removed": []}' % (b"0" * 400),
    b'{"passes": {"ok": 1}, "removed": [], "more": "%s"}' % (b" " * 2_000_000),
    b"[" * 100_000,
]


@pytest.mark.parametrize("content", DAMAGED)
@pytest.mark.parametrize("name", ["report", "totals"])
def test_a_damaged_file_is_told_and_hides_nothing_else(tree: NodeTree, name: str, content: bytes):
    tree.clean()
    (tree.state / f"{name}.json").write_bytes(content)
    found = seen(tree)
    assert set(found.unreadable) == {name}
    assert getattr(found, name) is None
    assert found.tally is not None
    assert (found.totals if name == "report" else found.report) is not None


@pytest.mark.parametrize("name", ["report", "totals"])
def test_a_fifo_in_a_files_place_is_told_and_not_waited_for(tree: NodeTree, name: str):
    tree.clean()
    path = tree.state / f"{name}.json"
    path.unlink()
    os.mkfifo(path)
    assert "no regular file" in seen(tree).unreadable[name]  # type: ignore[index]


@pytest.mark.parametrize("files", [-1, 10**400])
def test_a_report_with_a_count_that_cannot_be_is_damaged(tree: NodeTree, files: int):
    tree.clean()
    path = tree.state / "report.json"
    path.write_text(path.read_text().replace('"files": 2}', f'"files": {files}}}', 1))
    found = seen(tree)
    assert (found.report, set(found.unreadable)) == (None, {"report"})


def test_what_was_damaged_is_read_again_when_a_pass_has_replaced_it(tree: NodeTree):
    tree.clean()
    whole = (tree.state / "report.json").read_bytes()
    (tree.state / "report.json").write_bytes(whole[:-10])
    one = watcher(tree)
    one.look()
    damaged = one.seen
    assert damaged.report is None
    tree.clean()
    one.look()
    assert one.seen.report is not None
    assert one.seen.unreadable == {}


def test_counters_of_another_pass_are_not_taken_for_those_of_one_that_cannot_be_read(tree: NodeTree):
    tree.clean()
    one = watcher(tree)
    one.look()
    (tree.state / "totals.json").write_text("{")
    one.look()
    assert one.seen.totals is None


def test_no_cni_directory_is_told_and_is_not_zero_files(tree: NodeTree):
    found = seen(tree, cnifiles="/nowhere")
    assert found.tally is None
    assert found.usage == ()
    assert "cnifiles" in found.unreadable


def test_a_state_directory_that_is_none_is_told_and_hides_no_file(tree: NodeTree, tmp_path: Path):
    (tmp_path / "file").write_text("x")
    found = seen(tree, state_dir=str(tmp_path / "file"))
    assert {"report", "totals", "journal"} <= set(found.unreadable)
    assert found.tally is not None


def test_the_same_complaint_is_logged_once(tree: NodeTree, caplog: pytest.LogCaptureFixture):
    tree.clean()
    (tree.state / "report.json").write_text("{")
    one = watcher(tree)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            one.look()
    assert [record.action for record in caplog.records] == ["unreadable"]  # type: ignore[attr-defined]


def test_it_looks_again_and_again_until_it_is_ended(tree: NodeTree):
    looked = threading.Semaphore(0)

    class Counting(Watcher):
        def look(self) -> None:
            super().look()
            looked.release()

    end = start(Counting(tree.settings()), every=0.01)
    try:
        assert all(looked.acquire(timeout=20) for _ in range(3))
    finally:
        end()


def test_totals_of_an_older_pass_without_a_success_are_read(tree: NodeTree):
    os.makedirs(tree.state)
    (tree.state / "totals.json").write_text(json.dumps({"passes": {"aborted": 2}, "removed": [], "last_success": None}))
    assert seen(tree).totals == Totals(passes={"aborted": 2})
