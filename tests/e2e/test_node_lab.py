"""The whole program on a real node: real containerd, real plugins, the machine's own /var/lib/cni and /run/netns."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cni.report import Report
from cni.settings import Settings
from tests.support.cri_server import babbling_socket, dead_socket
from tests.support.namespaces import mount_points
from tests.support.nodelab import CNI, NETNS, NETWORK, NodeLab
from tests.support.recorded import Difference, difference, snapshot
from workers import node

pytestmark = pytest.mark.timeout(300)

_REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Pass:
    """A command that ended."""

    status: int
    errors: str
    report: dict[str, Any]

    def verdicts(self) -> dict[str, str]:
        """Verdict and reason of every file of the lab's network, results too, by its path below the CNI directory."""
        return {_relative(row["path"]): f"{row['verdict']}/{row['reason']}" for row in self.report["files"] if _is_labs(row)}


def _relative(path: str) -> str:
    return os.path.relpath(path, CNI)


def _is_labs(row: dict[str, Any]) -> bool:
    return row["network"] in (NETWORK, "cni-loopback")


@dataclass(frozen=True)
class Operator:
    """Somebody who types commands on the lab's node, and narrows them to the lab's network."""

    lab: NodeLab
    home: Path

    @property
    def state(self) -> Path:
        """The state directory."""
        return self.home / "state"

    def type(self, command: str, *options: str, endpoint: str = "", age: str = "0s") -> Pass:
        """Run a command that prints a report."""
        arguments = [command, "--json", "--api", "none", "--state-dir", os.fspath(self.state), "--networks", NETWORK]
        arguments += ["--runtime-endpoint", endpoint or f"unix://{self.lab.socket}", "--min-age", age, "--confirm-after", "0s"]
        done = self._run(*arguments, *options)
        return Pass(done.returncode, done.stderr, json.loads(done.stdout))

    def restore(self) -> int:
        """Put back what the last pass removed; return the exit status."""
        return self._run("restore", "--state-dir", os.fspath(self.state)).returncode

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        # Nothing of the machine's own configuration, and no cluster that it may be part of.
        environment = {"PATH": os.environ["PATH"], "HOME": os.fspath(self.home)}
        command = [sys.executable, "-m", "cli", *arguments]
        return subprocess.run(command, cwd=_REPOSITORY, env=environment, capture_output=True, text=True, timeout=120, check=False)

    def settings(self) -> Settings:
        """The same, for a pass in this process."""
        return Settings(
            api="none",
            state_dir=os.fspath(self.state),
            networks=frozenset({NETWORK}),
            runtime_endpoint=f"unix://{self.lab.socket}",
            min_age=0.0,
            confirm_after=0.0,
        )


@pytest.fixture
def operator(node_lab: NodeLab, tmp_path: Path) -> Operator:
    """An operator of the lab's node, which has no sandboxes."""
    return Operator(node_lab, tmp_path)


def files_of(lab: NodeLab, sandbox_id: str) -> set[str]:
    """All files of a sandbox of the lab: its reservation and its two results files."""
    (address,) = lab.addresses(sandbox_id)
    return {
        f"networks/{NETWORK}/{address}",
        f"results/{NETWORK}-{sandbox_id}-eth0",
        f"results/cni-loopback-{sandbox_id}-lo",
    }


@contextlib.contextmanager
def nothing_changes() -> Iterator[None]:
    """Compare the whole tree of /var/lib/cni, and what is mounted below /run/netns, after the block."""
    before, mounted = snapshot(CNI), mount_points(NETNS)
    yield
    after = snapshot(CNI)
    assert after == before
    assert mount_points(NETNS) == mounted


def test_real_sandboxes_are_kept(operator: Operator):
    ids = [operator.lab.run(name) for name in ("web", "db", "job")]
    expected = {path: "keep/sandbox" for sandbox_id in ids for path in files_of(operator.lab, sandbox_id)}
    with nothing_changes():
        done = operator.type("clean")
    assert (done.status, done.errors) == (0, "")
    assert done.report["witnesses"] == {"runtime": "ok", "netns": "ok", "api": "off"}
    assert done.verdicts() == expected
    assert {row["pod"] for row in done.report["files"] if _is_labs(row)} == {"default/web", "default/db", "default/job"}


def test_a_stopped_sandbox_is_freed_by_the_plugin_and_the_others_are_kept(operator: Operator):
    stopped, running = operator.lab.run("stopped"), operator.lab.run("running")
    operator.lab.stop(stopped)
    with nothing_changes():
        done = operator.type("clean")
    assert done.status == 0
    assert done.verdicts() == dict.fromkeys(files_of(operator.lab, running), "keep/sandbox")


def test_what_a_lost_runtime_left_goes_once_a_new_sandbox_runs(operator: Operator):
    lab = operator.lab
    lost = [lab.run("web"), lab.run("db")]
    leaked = {path for sandbox_id in lost for path in files_of(lab, sandbox_id)}
    lab.lose()
    lab.up()
    with nothing_changes():
        empty = operator.type("clean")
    assert (empty.status, empty.report["aborted"]["reason"]) == (1, "witness")

    kept = files_of(lab, lab.run("new"))
    before = snapshot(CNI)
    scanned = operator.type("scan")
    assert snapshot(CNI) == before
    cleaned = operator.type("clean")
    for done in (scanned, cleaned):
        assert (done.status, done.errors) == (0, "")
        assert done.verdicts() == dict.fromkeys(kept, "keep/sandbox") | dict.fromkeys(leaked, "leaked/absent")
    changes = difference(before, snapshot(CNI))
    assert changes == Difference(frozenset(leaked), frozenset(), frozenset())
    outcomes = {row["outcome"] for row in cleaned.report["files"] if _relative(row["path"]) in leaked}
    assert outcomes == {"removed"}
    pods = {row["pod"] for row in cleaned.report["files"] if _relative(row["path"]) in leaked}
    assert pods == {"default/web", "default/db"}


def test_what_was_removed_can_be_put_back_byte_for_byte_and_is_then_held(operator: Operator):
    lab = operator.lab
    leaked = files_of(lab, lab.run("lost"))
    lab.lose()
    lab.up()
    kept = files_of(lab, lab.run("new"))
    before = snapshot(CNI)
    assert operator.type("clean").status == 0
    assert difference(before, snapshot(CNI)).removed == leaked
    assert operator.restore() == 0
    changes = difference(before, snapshot(CNI))
    # The directories have new times, as they have after an ADD.
    assert changes == Difference(frozenset(), frozenset(), frozenset({f"networks/{NETWORK}", "results"}))
    with nothing_changes():
        again = operator.type("clean")
    assert again.verdicts() == dict.fromkeys(kept, "keep/sandbox") | dict.fromkeys(leaked, "keep/held")


def test_young_leaks_are_left_alone(operator: Operator):
    lab = operator.lab
    leaked = files_of(lab, lab.run("lost"))
    lab.lose()
    lab.up()
    kept = files_of(lab, lab.run("new"))
    with nothing_changes():
        done = operator.type("clean", age="15m")
    assert done.status == 0
    assert done.verdicts() == dict.fromkeys(kept, "keep/sandbox") | dict.fromkeys(leaked, "undecided/young")


def test_after_a_power_cut_what_is_not_ready_is_listed_and_kept_and_still_freed_by_its_own_del(operator: Operator):
    lab = operator.lab
    cut = lab.run("web")
    files = files_of(lab, cut)
    lab.crash()
    lab.up()
    assert [sandbox.ready for sandbox in lab.sandboxes()] == [False]
    with nothing_changes():
        done = operator.type("clean")
    assert done.status == 0
    assert done.verdicts() == dict.fromkeys(files, "keep/sandbox")
    assert any("NOTREADY" in finding for finding in done.report["findings"])
    lab.stop(cut)
    assert lab.addresses(cut) == set()


def test_while_the_runtime_is_down_clean_changes_nothing_and_scan_still_explains(operator: Operator):
    lab = operator.lab
    files = files_of(lab, lab.run("web"))
    lab.crash()
    with nothing_changes():
        cleaned = operator.type("clean")
        scanned = operator.type("scan")
    assert cleaned.status == 1
    assert cleaned.report["aborted"]["reason"] == "witness"
    assert cleaned.errors.startswith("cni-cleanup: aborted (witness): runtime is unknown: ")
    assert cleaned.errors.count("\n") == 1
    assert scanned.status == 0
    for done in (cleaned, scanned):
        assert done.report["witnesses"]["runtime"].startswith("unknown: ")
        assert done.verdicts() == dict.fromkeys(files, "undecided/unknown")


def test_of_a_runtime_that_is_not_told_nothing_is_believed(operator: Operator):
    files = files_of(operator.lab, operator.lab.run("web"))
    with nothing_changes():
        done = operator.type("clean", endpoint="none")
    # The namespace is mounted: that is seen also without a runtime.
    assert done.verdicts() == dict.fromkeys(files, "keep/netns")


@contextlib.contextmanager
def _missing(path: Path) -> Iterator[Path]:
    yield path


@contextlib.contextmanager
def _regular_file(path: Path) -> Iterator[Path]:
    path.touch()
    yield path


@pytest.mark.parametrize(
    "wrong", [_missing, _regular_file, dead_socket, babbling_socket], ids=["missing", "regular file", "dead", "no gRPC"]
)
def test_a_wrong_socket_aborts_the_pass(
    operator: Operator, short_dir: Path, wrong: Callable[[Path], contextlib.AbstractContextManager[Path]]
):
    operator.lab.run("web")
    with wrong(short_dir / "wrong.sock") as socket, nothing_changes():
        done = operator.type("clean", endpoint=f"unix://{socket}")
    assert (done.status, done.report["aborted"]["reason"]) == (1, "witness")
    assert os.fspath(socket) in done.errors
    assert done.errors.count("\n") == 1


def test_the_runtimes_other_socket_is_no_cri(operator: Operator):
    operator.lab.run("web")
    ttrpc = f"{operator.lab.socket}.ttrpc"
    with nothing_changes():
        done = operator.type("clean", endpoint=f"unix://{ttrpc}")
    assert (done.status, done.report["aborted"]["reason"]) == (1, "witness")


def test_a_sandbox_that_is_made_while_a_pass_is_under_way_is_kept(operator: Operator):
    lab = operator.lab
    leaked = files_of(lab, lab.run("lost"))
    lab.lose()
    lab.up()
    steps = ("asked", "waiting", "listed-again", "announced")
    made: dict[str, set[str]] = {}

    def make_one(step: str) -> None:
        if step in steps:
            made[step] = files_of(lab, lab.run(step))

    canary = files_of(lab, lab.run("canary"))
    before = snapshot(CNI)
    report: Report = node.clean(operator.settings(), observe=make_one)
    assert report.aborted is None
    assert set(made) == set(steps)
    changes = difference(before, snapshot(CNI))
    assert changes.removed == leaked
    assert changes.added == set().union(*made.values())
    assert not changes.changed & canary
    with nothing_changes():
        assert operator.type("clean").verdicts() == dict.fromkeys(canary.union(*made.values()), "keep/sandbox")
