"""Asking for sweeps, following them and reading their accounts, as an operator types it, on a small real fleet."""

import contextlib
import io
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cli.demo.nodes import Node, make
from cli.demo.processes import running
from cli.show_sweep import show_account
from tasks import account
from tests.support.api_server import ApiServer, refusing_port, write_kubeconfig
from tests.support.chaos import Server
from tests.support.fleet import Fleet, start_fleet
from tests.support.polling import until
from tests.support.program import (
    COMMAND,
    REPOSITORY,
    TIMEOUT,
    Done,
    Terminal,
    child_environment,
    environment,
    powerless,
    read_only,
    run,
)
from tests.support.redis_server import find_server
from tests.support.redis_server import running as redis_running
from tests.support.skips import require
from workers.configuration import environment_of

pytestmark = pytest.mark.timeout(300)

LONG = 90.0
"""Seconds for what takes a few on an idle machine."""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Two nodes that clean, and one that is down."""
    server = find_server()
    require(server, "no Redis server: apt install redis-server, or install the demo extra")
    assert server is not None
    directory = tmp_path_factory.mktemp("fleet")
    known = ["node-1", "node-2", "node-down"]
    with redis_running(server, tmp_path_factory.mktemp("redis")) as broker, running(directory) as processes:
        yield start_fleet(processes, broker, directory, known=known, cautious=[])


@dataclass(frozen=True, kw_only=True)
class Operator:
    """Somebody at a shell, with the broker's URL in the environment."""

    home: Path
    broker: str

    @property
    def variables(self) -> dict[str, str]:
        return {"CNI_CLEANUP_BROKER": self.broker}

    def types(self, *arguments: str) -> Done:
        return run(*arguments, home=self.home, variables=self.variables)

    @contextlib.contextmanager
    def has_running(self, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
        """The program, not waited for; killed at the end."""
        with subprocess.Popen(
            [*COMMAND, *arguments],
            cwd=REPOSITORY,
            env=environment(self.home, self.variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()


@pytest.fixture
def operator(fleet: Fleet, tmp_path: Path) -> Operator:
    return Operator(home=tmp_path, broker=fleet.broker)


@pytest.fixture
def alone(redis_url: str, tmp_path: Path) -> Operator:
    """Somebody with an empty Redis, and nothing else."""
    return Operator(home=tmp_path, broker=redis_url)


@dataclass(frozen=True, kw_only=True)
class UnderWay:
    """A sweep of which node-1 is done, and node-2 is asked in twenty minutes; and who follows it."""

    sweep_id: str
    follower: "subprocess.Popen[str]"


def is_running(fleet: Fleet, sweep_id: str) -> bool:
    found = fleet.ledger.snapshot(sweep_id)
    assert found is not None
    return account.state(found, now=time.time()) == "running"


@pytest.fixture
def under_way(fleet: Fleet, operator: Operator) -> Iterator[UnderWay]:
    with operator.has_running("job", "--autodiscover", "--nodes", "node-1,node-2", "--spread", "20m") as follower:
        assert follower.stderr is not None
        word, _, sweep_id = follower.stderr.readline().strip().partition(" ")
        assert word == "sweep"
        try:
            until(lambda: fleet.ledger.report(sweep_id, "node-1"), seconds=LONG, what="node-1's report")
            yield UnderWay(sweep_id=sweep_id, follower=follower)
        finally:
            fleet.ledger.stop(sweep_id, at=time.time())
            until(lambda: not fleet.ledger.is_leased(sweep_id), seconds=LONG, what="the end of the asking")


def last_line(done: Done) -> str:
    """What a person reads last, below the bar."""
    assert "Traceback" not in done.err, done.err
    line = done.err.splitlines()[-1]
    assert line.startswith("cni-cleanup: "), done.err
    return line


def end_of(process: "subprocess.Popen[str]") -> Done:
    out, err = process.communicate(timeout=TIMEOUT)
    return Done(status=process.returncode, out=out, err=err)


class TestASweep:
    def test_a_node_that_is_down_is_told_and_not_waited_for(self, fleet: Fleet, operator: Operator):
        leaked = fleet.leak("node-1", "10.88.9.1", "1" * 64)
        done = operator.types("job", "--autodiscover")
        assert done.status == 1
        assert "missed     node-down: no worker has ever been there\n" in done.out
        assert "incomplete: 2 of 3 nodes cleaned, 1 missed; " in done.out
        assert "1 node without a worker" in done.out
        assert leaked not in fleet.nodes["node-1"].reservations()
        assert done.err.startswith("sweep ")

    def test_of_some_nodes_it_ends_well_when_those_are_cleaned(self, fleet: Fleet, operator: Operator):
        leaked = [fleet.leak(f"node-{number}", f"10.88.9.{number}", "2" * 64) for number in (1, 2)]
        done = operator.types("job", "--autodiscover", "--nodes", "node-1", "--spread", "0s")
        assert done.status == 0
        assert "complete: 1 of 1 node cleaned; " in done.out
        assert leaked[0] not in fleet.nodes["node-1"].reservations()
        assert leaked[1] in fleet.nodes["node-2"].reservations()

    def test_a_dry_run_says_so_and_removes_nothing(self, fleet: Fleet, operator: Operator):
        leaked = fleet.leak("node-1", "10.88.9.3", "3" * 64)
        done = operator.types("job", "--dry-run", "--autodiscover", "--nodes", "node-1")
        assert done.status == 0
        assert "complete, a dry run: 1 of 1 node looked at; 1 leaked reservation found, none removed" in done.out
        assert "cleaned" not in done.out
        assert leaked in fleet.nodes["node-1"].reservations()

    def test_its_json_alone_is_on_standard_output_and_is_what_report_says(self, operator: Operator):
        done = operator.types("job", "--autodiscover", "--nodes", "node-1", "--json")
        assert done.status == 0
        found = json.loads(done.out)
        assert (found["schema"], found["state"], found["cleaned"]) == ("cni-cleanup/sweep/1", "complete", 1)
        assert f"sweep {found['sweep_id']}\n" in done.err
        for of_it in ([], ["--sweep", found["sweep_id"]]):
            told = operator.types("report", "--json", *of_it)
            assert (told.status, told.err) == (0, "")
            assert json.loads(told.out) == found

    def test_a_node_that_cannot_clean_is_failed_with_its_reason(self, fleet: Fleet, operator: Operator):
        hold = fleet.nodes["node-2"].directory / "state/hold"
        hold.touch()
        try:
            done = operator.types("job", "--autodiscover", "--nodes", "node-1,node-2")
        finally:
            hold.unlink()
        assert done.status == 1
        assert "failed     node-2: aborted (hold): " in done.out
        assert "complete: 1 of 2 nodes cleaned, 1 failed; " in done.out

    def test_a_node_that_there_is_not_is_refused_with_what_the_sweep_says(self, operator: Operator):
        done = operator.types("job", "--autodiscover", "--nodes", "node-9", "--json")
        assert done.status == 1
        assert "not among the nodes to sweep: node-9" in last_line(done)


class TestASweepUnderWay:
    def test_others_are_refused_and_ctrl_c_ends_the_following_alone(self, fleet: Fleet, operator: Operator, under_way: UnderWay):
        told = operator.types("report")
        assert (told.status, told.err) == (0, "")
        assert "waiting    node-2: not asked yet\n" in told.out
        assert f"sweep {under_way.sweep_id} of " in told.out
        assert "running: 1 of 2 nodes cleaned, 1 waiting; " in told.out

        another = operator.types("job", "--autodiscover")
        assert another.status == 1
        assert f"sweep {under_way.sweep_id} is running" in last_line(another)
        assert "job --stop" in last_line(another)

        resumed = operator.types("job", "--resume")
        assert resumed.status == 1
        assert f"sweep {under_way.sweep_id} is running: nothing to resume" in resumed.line

        under_way.follower.send_signal(signal.SIGINT)
        followed = end_of(under_way.follower)
        assert followed.status == 130
        assert f"the sweep goes on: see cni-cleanup report --sweep {under_way.sweep_id}" in last_line(followed)
        assert is_running(fleet, under_way.sweep_id)

    def test_it_can_be_stopped_and_be_let_go_on(self, fleet: Fleet, operator: Operator, under_way: UnderWay):
        stopped = operator.types("job", "--stop")
        assert (stopped.status, stopped.err) == (0, "")
        assert f"sweep {under_way.sweep_id} is stopped" in stopped.out
        followed = end_of(under_way.follower)
        assert followed.status == 1
        assert "incomplete, stopped: 1 of 2 nodes cleaned, 1 missed; " in followed.out
        assert "cni-cleanup job --resume lets it go on" in followed.out
        again = operator.types("job", "--stop")
        assert again.status == 1
        assert "is stopped already" in again.line

        leaked = fleet.leak("node-2", "10.88.9.4", "4" * 64)
        dry = operator.types("job", "--resume", "--dry-run")
        assert dry.status == 2
        assert "is no dry run" in dry.line
        assert fleet.ledger.is_stopped(under_way.sweep_id)
        assert leaked in fleet.nodes["node-2"].reservations()

        resumed = operator.types("job", "--resume", "--json")
        assert resumed.status == 0, resumed.err
        assert resumed.err.startswith(f"sweep {under_way.sweep_id} of 20")
        assert json.loads(resumed.out)["cleaned"] == 2
        assert leaked not in fleet.nodes["node-2"].reservations()


def test_a_sweep_that_is_not_done_in_time_is_told_and_goes_on(fleet: Fleet, operator: Operator):
    done = operator.types("job", "--autodiscover", "--nodes", "node-1,node-2", "--spread", "20m", "--timeout", "2s")
    sweep_id = done.err.splitlines()[0].removeprefix("sweep ")
    try:
        assert done.status == 1
        assert "not done in 2 s: " in last_line(done)
        assert sweep_id in last_line(done)
        until(lambda: fleet.ledger.report(sweep_id, "node-1"), seconds=LONG, what="node-1's report")
        assert is_running(fleet, sweep_id)
    finally:
        fleet.ledger.stop(sweep_id, at=time.time())
        until(lambda: not fleet.ledger.is_leased(sweep_id), seconds=LONG, what="the end of the asking")


def test_the_jobs_of_a_sweep_that_wait_for_a_node_that_is_down_can_be_stopped(fleet: Fleet, operator: Operator):
    assert operator.types("job", "--autodiscover", "--nodes", "node-down").status == 1
    assert operator.types("job", "--stop").status == 0
    sweep_id = fleet.ledger.current()
    assert sweep_id is not None
    assert fleet.ledger.is_stopped(sweep_id)


@pytest.fixture(scope="module")
def missed(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The account of a sweep of which a node was missed."""
    operator = Operator(home=tmp_path_factory.mktemp("home"), broker=fleet.broker)
    found: dict[str, Any] = json.loads(operator.types("job", "--autodiscover", "--json").out)
    assert found["missed"] == 1
    return found


class TestReport:
    def test_the_list_has_a_line_for_each_sweep_newest_first(self, operator: Operator, missed: dict[str, Any]):
        operator.types("job", "--autodiscover", "--nodes", "node-1", "--dry-run")
        done = operator.types("report", "--list")
        assert (done.status, done.err) == (0, "")
        newest, *before = done.out.splitlines()
        assert "complete, a dry run: 1 of 1 node looked at; " in newest
        (line,) = [line for line in before if line.startswith(missed["sweep_id"])]
        assert line.startswith(f"{missed['sweep_id']}  {missed['started']}  incomplete: 2 of 3 nodes cleaned, 1 missed; ")
        listed = json.loads(operator.types("report", "--list", "--json").out)
        assert [one["sweep_id"] for one in listed] == [line.split()[0] for line in [newest, *before]]
        assert {name: value for name, value in missed.items() if name != "nodes"} in listed

    def test_a_narrow_terminal_shows_ids_names_and_reasons_in_full(self, operator: Operator, missed: dict[str, Any]):
        variables = {**operator.variables, "COLUMNS": "80"}
        asked = ["report", "--sweep", missed["sweep_id"]]
        with Terminal(*asked, home=operator.home, streams=["stdout"], variables=variables) as terminal:
            assert terminal.wait().status == 0
        assert "…" not in terminal.shown
        assert f"sweep {missed['sweep_id']} of " in terminal.shown
        assert "node-down: no worker has ever been there" in terminal.shown

    @pytest.mark.parametrize(("sweep_id", "why"), [("nobody-knows", "no sweep nobody-knows is on record"), ("a/b", "'a/b'")])
    def test_a_sweep_that_is_not_on_record_is_wrong_usage(self, operator: Operator, sweep_id: str, why: str):
        done = operator.types("report", "--sweep", sweep_id)
        assert (done.status, done.out) == (2, "")
        assert why in done.line

    def test_celery_call_gives_the_same_account(self, fleet: Fleet, missed: dict[str, Any]):
        def celery(*arguments: str) -> str:
            command = [sys.executable, "-m", "celery", "-A", "tasks", *arguments]
            variables = child_environment({"CNI_CLEANUP_BROKER": fleet.broker})
            done = subprocess.run(
                command, cwd=REPOSITORY, env=variables, capture_output=True, text=True, timeout=TIMEOUT, check=True
            )
            return done.stdout

        assert fleet.ask("tasks.report", missed["sweep_id"]) == missed
        called = celery("call", "tasks.report", "--kwargs", json.dumps({"sweep_id": missed["sweep_id"]})).strip()
        assert f"'sweep_id': '{missed['sweep_id']}'" in celery("result", called)


def test_the_nodes_of_a_cluster_are_those_of_its_api(alone: Operator, api_server: ApiServer, tmp_path: Path):
    linux = {"kubernetes.io/os": "linux"}
    labels = {"n1": linux | {"pool": "blue"}, "n2": linux, "w1": {"kubernetes.io/os": "windows", "pool": "blue"}}
    api_server.set_nodes([{"metadata": {"name": name, "labels": own}} for name, own in labels.items()])
    config = write_kubeconfig(tmp_path / "kubeconfig", api_server.url)
    variables = {**alone.variables, "CNI_CLEANUP_API": "external", "KUBECONFIG": str(config)}
    with running(tmp_path) as processes:
        processes.start("control", [*COMMAND, "control"], child_environment(variables), REPOSITORY)
        done = alone.types("job", "--autodiscover", "--node-selector", "pool=blue")
        assert done.status == 1
        assert "missed     n1: no worker has ever been there\n" in done.out
        assert "left out   w1: runs windows\n" in done.out
        assert "incomplete: 0 of 1 node cleaned, 1 missed; no leak found by those that looked" in done.out
        for selector, why in (("pool in blue", "unable to parse requirement"), ("pool=red", "'pool=red' selects no node")):
            refused = alone.types("job", "--autodiscover", "--node-selector", selector)
            assert refused.status == 1
            assert why in last_line(refused)


class TestAlone:
    def test_an_empty_ledger_has_nothing_to_tell(self, alone: Operator):
        done = alone.types("report")
        assert (done.status, done.out) == (2, "")
        assert "no sweep is on record" in done.line
        listed = alone.types("report", "--list")
        assert (listed.status, listed.err) == (0, "")
        assert listed.out.startswith("no sweep is on record")
        assert json.loads(alone.types("report", "--list", "--json").out) == []

    @pytest.mark.parametrize(("flag", "why"), [("--stop", "no sweep is running"), ("--resume", "no sweep is stopped")])
    def test_there_is_nothing_to_stop_or_to_resume(self, alone: Operator, flag: str, why: str):
        done = alone.types("job", flag)
        assert (done.status, done.out) == (1, "")
        assert why in done.line

    def test_without_control_nobody_takes_the_sweep_and_time_is_up(self, alone: Operator):
        done = alone.types("job", "--autodiscover", "--timeout", "1s")
        assert (done.status, done.out) == (1, "")
        assert "not done in 1 s: no control worker has taken it: is cni-cleanup control running?" in last_line(done)

    def test_without_control_it_is_told_while_one_waits(self, alone: Operator):
        with Terminal("job", "--autodiscover", home=alone.home, streams=["stderr"], variables=alone.variables) as terminal:
            until(lambda: "is cni-cleanup control running?" in terminal.shown, seconds=LONG, what="the note")
            terminal.process.send_signal(signal.SIGINT)
            assert terminal.wait().status == 130

    def test_a_restart_of_redis_is_waited_out(self, tmp_path: Path):
        with running(tmp_path) as processes:
            server = Server(processes=processes, directory=tmp_path / "redis")
            server.start()
            variables = {"CNI_CLEANUP_BROKER": server.url}
            with Terminal("job", "--autodiscover", home=tmp_path, streams=["stderr"], variables=variables) as terminal:
                until(lambda: "waits for a control worker" in terminal.shown, seconds=LONG, what="the bar")
                server.stop()
                until(lambda: "Redis does not answer, asked again" in terminal.shown, seconds=LONG, what="the outage")
                before = len(terminal.shown)
                server.start()
                until(lambda: "waits for a control worker" in terminal.shown[before:], seconds=LONG, what="the bar again")
                terminal.process.send_signal(signal.SIGINT)
                assert terminal.wait().status == 130

    @pytest.mark.parametrize("arguments", [["job", "--autodiscover"], ["report", "--list"]])
    def test_a_dead_broker_is_one_line(self, alone: Operator, arguments: list[str]):
        with refusing_port() as port:
            done = alone.types(*arguments, f"--broker=redis://:secret-word@127.0.0.1:{port}/0")
        assert (done.status, done.out) == (1, "")
        assert "Redis does not answer" in done.line
        assert "secret-word" not in done.err


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A node of nobody's fleet, whose worker is checked."""

    node: Node
    home: Path
    broker: str

    @property
    def network(self) -> Path:
        return min((self.node.directory / "root/var/lib/cni/networks").iterdir())

    def check(self, *arguments: str, without: str = "", before: tuple[str, ...] = ()) -> Done:
        variables = environment_of(self.node.settings(self.broker))
        variables.pop(without, None)
        return run("worker", "--check", *arguments, home=self.home, variables=variables, before=before)


@pytest.fixture
def checked(redis_url: str, tmp_path: Path) -> Checked:
    (tmp_path / "home").mkdir()
    return Checked(node=make(1, tmp_path)[0], home=tmp_path / "home", broker=redis_url)


def rows(done: Done) -> dict[str, str]:
    """Good or bad, by check."""
    found = [line.split() for line in done.out.splitlines() if " good " in line or " bad " in line]
    return {" ".join(words[: words.index(state)]): state for words in found for state in ("good", "bad") if state in words[:4]}


def locked_away(path: Path) -> AbstractContextManager[None]:
    @contextlib.contextmanager
    def away() -> Iterator[None]:
        path.chmod(0)
        try:
            yield
        finally:
            path.chmod(0o755)

    return away()


class TestCheck:
    def test_a_node_on_which_a_pass_could_work_is_good(self, checked: Checked):
        before = checked.node.reservations()
        done = checked.check()
        assert (done.status, done.err) == (0, "")
        found = rows(done)
        assert set(found.values()) == {"good"}
        assert {"state", "read", f"lock {checked.network.name}", "ask runtime", "ask netns", "ask api", "broker"} <= found.keys()
        assert checked.node.reservations() == before

    def bad(self, done: Done, check: str, *words: str) -> None:
        """It is bad, alone, and the one line names it."""
        assert done.status == 1
        assert [name for name, state in rows(done).items() if state == "bad"] == [check]
        assert done.line.startswith(f"cni-cleanup: {check}: ")
        for word in words:
            assert word in done.line

    def test_a_dead_broker_is_bad(self, checked: Checked):
        with refusing_port() as port:
            self.bad(checked.check(f"--broker=redis://127.0.0.1:{port}/0"), "broker", "Redis does not answer")

    def test_a_missing_socket_is_bad(self, checked: Checked):
        done = checked.check("--runtime-endpoint=unix:///nonexistent.sock", without="CNI_CLEANUP_SANDBOXES_FILE")
        self.bad(done, "ask runtime", "/nonexistent.sock")

    def test_no_cni_directory_at_all_is_bad(self, checked: Checked):
        self.bad(checked.check("--cnifiles=/nonexistent"), "read", "--cnifiles")

    def test_networks_that_cannot_be_read_are_bad(self, checked: Checked):
        with locked_away(checked.network):
            done = checked.check(before=powerless())
        assert done.status == 1
        assert {name for name, state in rows(done).items() if state == "bad"} >= {"read", f"lock {checked.network.name}"}
        assert done.line.startswith("cni-cleanup: read: ")
        assert " more)" in done.line

    def test_networks_that_may_only_be_read_are_bad(self, checked: Checked):
        with read_only(checked.network):
            self.bad(checked.check(), f"lock {checked.network.name}", "read-write")

    def test_a_state_directory_that_cannot_be_written_is_bad(self, checked: Checked, tmp_path: Path):
        (tmp_path / "state").mkdir()
        with read_only(tmp_path / "state"):
            self.bad(checked.check(f"--state-dir={tmp_path / 'state'}"), "state", "--state-dir")

    @pytest.mark.parametrize(
        ("spoil", "word"),
        [
            (shutil.rmtree, "--root"),
            (lambda root: (root.parent / "pods.json").write_text("{"), "not JSON"),
        ],
    )
    def test_settings_that_cannot_be_are_wrong_usage(self, checked: Checked, spoil: Callable[[Path], object], word: str):
        spoil(checked.node.directory / "root")
        done = checked.check()
        assert (done.status, done.out) == (2, "")
        assert word in done.line


def row(name: str, state: str, why: str | None = None, *, reported: bool = True) -> dict[str, Any]:
    numbers = dict.fromkeys(("reservations", "keep", "undecided", "leaked", "removed"), 1 if reported else None)
    return {"node": name, "state": state, "why": why, "worker": None, "seconds": 1.0 if reported else None, **numbers}


def shown(nodes: list[dict[str, Any]], *, width: int = 80) -> str:
    """What a terminal of so many columns gets of a sweep."""
    states: dict[str, Any] = {state: sum(1 for node in nodes if node["state"] == state) for state in account.NODE_STATES}
    found = {"sweep_id": "a-sweep", "state": "complete", "started": "2026-11-26T08:00:00Z", "stopped": None, "error": None}
    sums = {name: sum(node[name] or 0 for node in nodes) for name in ("reservations", "keep", "undecided", "leaked", "removed")}
    more = {"dry_run": False, "expected": len(nodes), "without_worker": 0, "skipped": {}, "totals": sums, "nodes": nodes}
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    show_account(console, {**found, **states, **more})
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


class TestShown:
    def test_of_five_thousand_nodes_what_needs_a_person_is_on_the_last_screen(self):
        cleaned = [row(f"n{number:04}", "cleaned") for number in range(4400)]
        missed = [row(f"m{number:04}", "missed", "no worker has ever been there", reported=False) for number in range(597)]
        failed = [row(f"f{number}", "failed", f"reason {number}") for number in range(3)]
        lines = shown([*cleaned, *missed, *failed]).splitlines()
        assert len(lines) < 24
        for expected in (
            "failed     f1: reason 1",
            "missed     m0000, m0001, m0002, m0003, m0004 and 592 more: no worker has ever been there",
            "and 4400 nodes cleaned: --json has them all",
        ):
            assert expected in lines
        assert "n0000" not in "\n".join(lines)

    def test_many_reasons_end_with_how_many_more(self):
        lines = shown([row(f"n{number}", "failed", f"reason {number}") for number in range(500)]).splitlines()
        assert "and 200 nodes more: --json has them all" in lines
        assert "... and 450 nodes more: --json has them all" in lines

    @pytest.mark.parametrize("width", [40, 80, 120])
    def test_what_a_node_says_is_text_and_no_command_of_the_terminal(self, width: int):
        text = shown([row("n1", "failed", "[red]no[/red] \x1b[2J\nnetwork [b]")], width=width)
        assert r"failed     n1: [red]no[/red] \x1b[2J\nnetwork [b]" in text
        assert "\x1b" not in text

    def test_a_name_that_is_long_is_there_in_full(self):
        name = "ip-10-0-12-117.eu-west-1.compute.internal"
        assert f"{name}   cleaned        1         1" in shown([row(name, "cleaned")])
        assert "…" not in shown([row(name * 3, "cleaned")])
