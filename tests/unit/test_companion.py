"""What a worker does beside its jobs, turn by turn: the clock and what runs a pass are arguments."""

import json
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.support.nodetree import LaterClock, NodeTree
from tests.support.polling import until
from workers.companion import ALIVE, READY, USUAL, Companion, Pace, What, start

EARLY = "early.json"


class Ran:
    """Notes what it was asked to run, which is done at once."""

    def __init__(self, *, check: int = 0) -> None:
        """`check` is the exit status of a preflight."""
        self.check = check
        self.asked: list[What] = []
        self.ended = threading.Event()

    def __call__(self, what: What) -> int:
        self.asked.append(what)
        return self.check if what == "check" else 0

    def end(self) -> None:
        self.ended.set()

    @property
    def passes(self) -> int:
        """How many passes it was asked for."""
        return self.asked.count("clean")


class Stuck(Ran):
    """A pass that lasts until it is ended."""

    def __call__(self, what: What) -> int:
        if what == "clean":
            self.ended.wait(60)
        return super().__call__(what)


class OtherBoot(LaterClock):
    """The same node after a start: its monotonic clock began anew."""

    def boot_id(self) -> str:
        return "another"


@pytest.fixture
def tree(tmp_path: Path) -> NodeTree:
    """A node whose one network is full: 11 of 13 addresses."""
    tree = NodeTree(tmp_path)
    tree.network("cbr0", subnet="10.88.0.0/28")
    for number in range(2, 13):
        tree.reservation(f"10.88.0.{number}", f"dead{number}")
    return tree


def companion(tree: NodeTree, run: Ran, *, clock: LaterClock | None = None, **changes: Any) -> Companion:
    """That of a worker of this node, just started."""
    return Companion(settings=tree.settings(**changes), run=run, clock=clock or LaterClock())


class TestEarlyPass:
    def test_a_network_that_reaches_its_percentage_is_cleaned_at_once(self, tree: NodeTree):
        run = Ran()
        companion(tree, run, early_at=84).tick()
        assert run.passes == 1

    @pytest.mark.parametrize("early_at", [85, 100, 0])
    def test_below_it_and_at_zero_nothing_is_done(self, tree: NodeTree, early_at: int):
        run = Ran()
        companion(tree, run, early_at=early_at).tick()
        assert run.passes == 0
        assert not (tree.state / EARLY).exists()

    def test_it_is_made_when_the_network_fills_up_while_the_worker_runs(self, tree: NodeTree):
        run = Ran()
        beside = companion(tree, run, early_at=90)
        beside.tick()
        assert run.passes == 0
        tree.reservation("10.88.0.13", "dead13")
        beside.tick()
        assert run.passes == 1

    def test_it_is_made_at_most_once_in_ten_minutes(self, tree: NodeTree):
        run, clock = Ran(), LaterClock()
        beside = companion(tree, run, clock=clock)
        assert USUAL.early == 600
        for seconds, passes in ((0, 1), (15, 1), (599, 1), (601, 2), (1199, 2), (1202, 3)):
            clock.seconds = seconds
            beside.tick()
            assert run.passes == passes, seconds

    def test_a_worker_that_is_started_again_and_again_keeps_to_it(self, tree: NodeTree):
        run = Ran()
        for seconds, passes in ((0, 1), (10, 1), (300, 1), (599, 1), (601, 2), (1199, 2)):
            companion(tree, run, clock=LaterClock(seconds)).tick()
            assert run.passes == passes, seconds

    def test_a_start_of_the_node_forgets_it(self, tree: NodeTree):
        run = Ran()
        companion(tree, run).tick()
        companion(tree, run, clock=OtherBoot(5)).tick()
        assert run.passes == 2

    def test_a_beginning_in_the_future_is_none(self, tree: NodeTree):
        """A kernel that hides its boot id gives every start the same."""
        run = Ran()
        companion(tree, run, clock=LaterClock(10**6)).tick()
        companion(tree, run, clock=LaterClock(0)).tick()
        assert run.passes == 2

    @pytest.mark.parametrize(
        "content",
        [
            pytest.param("", id="empty"),
            pytest.param("{", id="torn"),
            pytest.param("[]", id="list"),
            pytest.param("null", id="null"),
            pytest.param('{"boot_id": BOOT}', id="no time"),
            pytest.param('{"boot_id": BOOT, "at": "noon"}', id="words"),
            pytest.param('{"boot_id": BOOT, "at": NaN}', id="not a number"),
            pytest.param('{"boot_id": BOOT, "at": Infinity}', id="never"),
            pytest.param('{"boot_id": BOOT, "at": -Infinity}', id="always"),
            pytest.param('{"boot_id": BOOT, "at": null}', id="no number"),
            pytest.param('{"boot_id": BOOT, "at": 1' + "0" * 400 + "}", id="beyond floats"),
        ],
    )
    def test_what_cannot_be_understood_puts_it_off_neither_for_ever_nor_not_at_all(self, tree: NodeTree, content: str):
        clock = LaterClock()
        tree.state.mkdir()
        (tree.state / EARLY).write_text(content.replace("BOOT", json.dumps(clock.boot_id())))
        run = Ran()
        beside = companion(tree, run, clock=clock)
        beside.tick()
        beside.tick()
        assert run.passes == 1
        companion(tree, run, clock=clock).tick()
        assert run.passes == 1

    def test_what_was_written_and_cannot_be_read_again_is_still_known(self, tree: NodeTree):
        run, clock = Ran(), LaterClock()
        beside = companion(tree, run, clock=clock)
        for seconds, passes in ((0, 1), (30, 1), (601, 2)):
            clock.seconds = seconds
            beside.tick()
            (tree.state / EARLY).write_text("?")
            assert run.passes == passes, seconds

    def test_where_it_cannot_be_noted_it_is_not_made(self, tree: NodeTree, caplog: pytest.LogCaptureFixture):
        (tree.state / EARLY).mkdir(parents=True)
        run = Ran()
        beside = companion(tree, run)
        for _ in range(5):
            beside.tick()
        assert run.passes == 0
        assert len(caplog.records) == 1


class TestReadiness:
    def test_it_is_ready_from_the_first_good_preflight_on(self, tree: NodeTree):
        run = Ran()
        beside = companion(tree, run, early_at=0)
        assert not (tree.state / READY).exists()
        for _ in range(3):
            beside.tick()
        assert (tree.state / READY).exists()
        assert run.asked == ["check"]

    def test_until_one_is_good_it_is_asked_once_a_minute(self, tree: NodeTree):
        run, clock = Ran(check=1), LaterClock()
        beside = companion(tree, run, clock=clock, early_at=0)
        assert USUAL.preflight == 60
        for seconds, checks in ((0, 1), (15, 1), (59, 1), (61, 2)):
            clock.seconds = seconds
            beside.tick()
            assert len(run.asked) == checks, seconds
        assert not (tree.state / READY).exists()
        run.check, clock.seconds = 0, 125
        beside.tick()
        assert (tree.state / READY).exists()

    def test_a_start_is_not_ready_though_the_worker_before_was(self, tree: NodeTree):
        tree.state.mkdir()
        (tree.state / READY).touch()
        companion(tree, Ran())
        assert not (tree.state / READY).exists()

    def test_what_could_not_be_said_is_said_later(self, tree: NodeTree):
        run, clock = Ran(), LaterClock()
        beside = companion(tree, run, clock=clock, early_at=0)
        (tree.state / READY).mkdir(parents=True)
        beside.tick()
        (tree.state / READY).rmdir()
        clock.seconds = 61
        beside.tick()
        assert (tree.state / READY).is_file()


class TestSignOfLife:
    def test_it_is_given_anew_each_time(self, tree: NodeTree):
        beside = companion(tree, Ran())
        beside.beat()
        alive = tree.state / ALIVE
        os.utime(alive, (0, 0))
        beside.beat()
        assert alive.stat().st_mtime > 0

    def test_it_is_not_given_while_the_main_loop_is_stuck(self, tree: NodeTree):
        turning = True
        beside = Companion(settings=tree.settings(), run=Ran(), is_alive=lambda: turning)
        beside.beat()
        alive = tree.state / ALIVE
        os.utime(alive, (0, 0))
        turning = False
        beside.beat()
        assert alive.stat().st_mtime == 0

    def test_it_is_given_while_a_pass_of_its_own_takes_long(self, tree: NodeTree):
        """Whoever asks for it would else restart the worker in the middle of the pass."""
        run = Stuck()
        end = start(Companion(settings=tree.settings(), run=run, pace=Pace(look=0.02)))
        try:
            until((tree.state / EARLY).exists, seconds=60, what="the pass")
            alive = tree.state / ALIVE
            for _ in range(2):
                os.utime(alive, (0, 0))
                until(lambda: alive.stat().st_mtime > 0, seconds=60, what="a sign of life")
            assert run.passes == 0
        finally:
            end()


class TestTrouble:
    def warnings(self, caplog: pytest.LogCaptureFixture) -> list[str]:
        return [record.getMessage() for record in caplog.records if record.getMessage().startswith("beside the jobs")]

    def do_all(self, beside: Companion) -> None:
        for _ in range(5):
            beside.beat()
            beside.tick()

    def test_a_state_directory_that_cannot_be_written_is_one_warning_a_duty(
        self, tree: NodeTree, caplog: pytest.LogCaptureFixture
    ):
        tree.state.write_text("a file")
        run = Ran(check=1)
        self.do_all(companion(tree, run))
        told = self.warnings(caplog)
        assert len(told) == 2
        assert told[0].startswith("beside the jobs, sign of life: ")
        assert told[1].startswith("beside the jobs, early pass: ")
        assert run.passes == 0

    def test_a_missing_cni_directory_is_one_warning(self, tree: NodeTree, caplog: pytest.LogCaptureFixture):
        shutil.rmtree(tree.root / "var/lib/cni")
        self.do_all(companion(tree, Ran()))
        (told,) = self.warnings(caplog)
        assert "name the CNI directory with --cnifiles" in told

    def test_what_is_mended_and_breaks_again_is_told_again(self, tree: NodeTree, caplog: pytest.LogCaptureFixture):
        beside = companion(tree, Ran(), early_at=100)
        away = tree.path / "away"
        for _ in range(2):
            (tree.root / "var/lib/cni").rename(away)
            self.do_all(beside)
            away.rename(tree.root / "var/lib/cni")
            self.do_all(beside)
        assert len(self.warnings(caplog)) == 2

    @pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]"])
    def test_a_garbled_configuration_is_no_trouble_of_the_workers(
        self, tree: NodeTree, caplog: pytest.LogCaptureFixture, content: bytes
    ):
        tree.file("etc/cni/net.d/10-cbr0.conflist", content)
        run = Ran()
        self.do_all(companion(tree, run))
        assert self.warnings(caplog) == []
        assert run.asked == ["check"]

    def test_what_nobody_foresaw_leaves_the_other_duties(self, tree: NodeTree, caplog: pytest.LogCaptureFixture):
        def unforeseen() -> bool:
            raise ZeroDivisionError("unforeseen")

        run = Ran()
        self.do_all(Companion(settings=tree.settings(), run=run, is_alive=unforeseen))
        assert self.warnings(caplog) == ["beside the jobs, sign of life: unforeseen"]
        assert run.asked == ["check", "clean"]
