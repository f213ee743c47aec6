"""The command line as a person and a script meet it: a process, with and without a terminal."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.nodetree import NODE, NodeTree, container_id, remaining
from tests.support.polling import until
from tests.support.program import COMMAND, REPOSITORY, TIMEOUT, Done, Terminal, environment, run
from tests.support.recorded import snapshot
from tests.support.schema import errors
from workers.configuration import OPTIONS

SCHEMA = json.loads((REPOSITORY / "tests" / "support" / "report_schema.json").read_text())
COMMANDS = ("scan", "clean", "restore", "worker", "beat", "control", "demo")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
LIVE, DEAD = "cbr0/10.88.0.2", "cbr0/10.88.0.3"


@pytest.fixture
def tree(tmp_path: Path) -> NodeTree:
    """A live pod and a dead one; its witness files are written."""
    made = NodeTree(tmp_path / "node")
    made.live("web", "10.88.0.2")
    made.dead("dead", "10.88.0.3")
    made.settings()
    return made


def flags(tree: NodeTree, *, confirm_after: str = "0s") -> list[str]:
    return [
        f"--root={tree.root}",
        f"--state-dir={tree.state}",
        f"--node={NODE}",
        f"--pods-file={tree.path / 'pods.json'}",
        f"--sandboxes-file={tree.path / 'sandboxes.json'}",
        "--min-age=0s",
        f"--confirm-after={confirm_after}",
    ]


def cli(tree: NodeTree, *arguments: str, **variables: str) -> Done:
    """Run with the node's flags before the command."""
    return run(*flags(tree), *arguments, home=tree.path, variables=variables)


def report(done: Done) -> dict[str, Any]:
    """The report that was printed, which fits its schema."""
    value: dict[str, Any] = json.loads(done.out)
    assert list(errors(value, SCHEMA)) == []
    return value


class TestHelp:
    @pytest.mark.parametrize("arguments", [["-h"], ["--help"], ["help"]])
    def test_it_lists_every_command_and_the_exit_statuses(self, tmp_path: Path, arguments: list[str]):
        done = run(*arguments, home=tmp_path)
        assert (done.status, done.err) == (0, "")
        assert all(re.search(rf"^  {command}\b", done.out, re.MULTILINE) for command in COMMANDS)
        assert "Exit status" in done.out

    @pytest.mark.parametrize("command", COMMANDS)
    def test_each_command_explains_itself(self, tmp_path: Path, command: str):
        done = [run(*arguments, home=tmp_path) for arguments in ([command, "-h"], [command, "--help"], ["help", command])]
        assert {(one.status, one.err) for one in done} == {(0, "")}
        assert done[0].out == done[1].out
        assert done[2].out.splitlines()[1:] == done[0].out.splitlines()[1:]

    def test_the_programs_help_has_the_commands_and_then_every_shared_option(self, tmp_path: Path):
        out = run("--help", home=tmp_path).out
        shared = [option.name for option in OPTIONS if option.only_for is None]
        assert [name for name in shared if f"--{name}" not in out] == []
        assert "--config" in out
        assert out.index("Commands:") < out.index("Options:")

    @pytest.mark.parametrize(
        ("command", "shown", "hidden"),
        [
            ("scan", "--min-age", "--max-remove"),
            ("clean", "--max-remove", "--schedule"),
            ("restore", "--state-dir", "--min-age"),
            ("worker", "--broker", "--schedule"),
            ("control", "--static-nodes", "--min-age"),
            ("beat", "--schedule", "--min-age"),
        ],
    )
    def test_a_commands_help_has_what_matters_to_it_and_says_where_the_rest_is(
        self, tmp_path: Path, command: str, shown: str, hidden: str
    ):
        out = run("help", command, home=tmp_path).out
        assert shown in out
        assert hidden not in out
        assert "cni-cleanup --help" in out

    def test_nothing_at_all_shows_the_help_and_is_wrong_usage(self, tmp_path: Path):
        done = run(home=tmp_path)
        assert (done.status, done.out) == (2, "")
        assert "Usage" in done.err
        assert "Traceback" not in done.err

    def test_the_version_is_one_line(self, tmp_path: Path):
        done = run("--version", home=tmp_path)
        assert (done.status, done.err) == (0, "")
        assert re.fullmatch(r"cni-cleanup, version \d+\.\d+\.\d+\S*\n", done.out)

    @pytest.mark.parametrize("name", ["cni-cleanup", "api-cni-cleanup"])
    def test_both_names_are_the_same_program(self, tmp_path: Path, name: str):
        installed = Path(sys.executable).with_name(name)
        done = subprocess.run(
            [installed, "--version"], env=environment(tmp_path), capture_output=True, timeout=TIMEOUT, check=True
        )
        assert done.stdout.decode() == run("--version", home=tmp_path).out


class TestOptions:
    @pytest.mark.parametrize("where", ["before", "after", "both"])
    def test_options_go_before_or_after_the_command(self, tree: NodeTree, where: str):
        before, after = (flags(tree) if where != "after" else []), (flags(tree) if where != "before" else [])
        done = run(*before, "scan", "--json", *after, home=tree.path)
        assert (done.status, done.err) == (0, "")
        assert report(done)["node"] == NODE

    def test_the_nearer_one_counts(self, tree: NodeTree):
        done = cli(tree, "--max-remove=1", "scan", "--json", "--max-remove=2")
        assert report(done)["policy"]["max_remove"] == 2

    def test_the_last_one_counts(self, tree: NodeTree):
        done = cli(tree, "scan", "--json", "--max-remove=1", "--max-remove=2")
        assert report(done)["policy"]["max_remove"] == 2

    @pytest.mark.parametrize("arguments", [["--dry-run", "clean"], ["clean", "--dry-run"]])
    def test_a_flag_without_a_value_goes_either_side(self, tree: NodeTree, arguments: list[str]):
        done = cli(tree, *arguments, "--json")
        assert report(done)["policy"]["dry_run"] is True
        assert remaining(tree) == {LIVE, DEAD}

    def test_flag_variable_and_file_in_that_order(self, tree: NodeTree):
        config = tree.path / "config.yaml"
        config.write_text("max-remove: 3\nmin-age: 3s\nconfirm-after: 3s\n")
        variables = {"CNI_CLEANUP_CONFIG": str(config), "CNI_CLEANUP_MAX_REMOVE": "2", "CNI_CLEANUP_MIN_AGE": "2s"}
        offline = [flag for flag in flags(tree) if not flag.startswith(("--min-age", "--confirm-after"))]
        done = run(*offline, "scan", "--json", "--max-remove=1", home=tree.path, variables=variables)
        policy = {"max_remove": 1, "min_age_seconds": 2, "confirm_after_seconds": 3, "dry_run": False}
        assert report(done)["policy"] == policy

    def test_a_dry_run_of_the_configuration_is_not_turned_off_by_leaving_the_flag_out(self, tree: NodeTree):
        done = cli(tree, "clean", "--json", CNI_CLEANUP_DRY_RUN="true")
        assert report(done)["policy"]["dry_run"] is True
        assert remaining(tree) == {LIVE, DEAD}

    def test_an_unknown_key_is_one_warning_and_the_work_goes_on(self, tree: NodeTree):
        (tree.path / ".api-cni-cleanup.yaml").write_text("verbosity: 7\n")
        done = cli(tree, "scan", "--json")
        assert report(done)["aborted"] is None
        assert done.status == 0
        assert "verbosity" in done.line

    def test_debug_tells_more_and_leaves_the_json_alone(self, tree: NodeTree):
        done = cli(tree, "--debug", "scan", "--json")
        assert report(done)["aborted"] is None
        failed = cli(tree, "--debug", "scan", "--root=/nonexistent")
        assert failed.status == 2
        assert "Traceback" in failed.err

    def test_the_config_file_can_ask_for_more_too(self, tree: NodeTree):
        (tree.path / ".api-cni-cleanup.yaml").write_text("debug: true\n")
        assert "settings: " in cli(tree, "scan").err

    def test_debug_writes_nothing_while_the_plugins_lock_is_held(self, tree: NodeTree):
        steps = [line for line in cli(tree, "--debug", "clean").err.splitlines() if "step: " in line]
        assert any("announced" in step for step in steps)
        assert not any("locked" in step for step in steps)


class TestJson:
    @pytest.mark.parametrize("command", ["scan", "clean"])
    def test_it_is_valid_and_all_there_is_on_stdout(self, tree: NodeTree, command: str):
        done = cli(tree, command, "--json")
        value = report(done)
        assert (done.status, done.err) == (0, "")
        assert len(value["files"]) == 6
        assert {row["outcome"] for row in value["files"]} == ({None, "removed"} if command == "clean" else {None})

    def test_a_node_without_files_is_valid(self, tmp_path: Path):
        tree = NodeTree(tmp_path / "node")
        tree.sandbox("proxy")
        tree.pod("proxy", "192.0.2.1", host_network=True)
        tree.settings()
        value = report(cli(tree, "scan", "--json"))
        assert value["files"] == []
        assert value["networks"][0]["reservations"] == 0

    def test_what_is_printed_is_what_is_kept(self, tree: NodeTree):
        printed = report(cli(tree, "clean", "--json"))
        kept = json.loads((tree.state / "report.json").read_text())
        assert kept == {**printed, "finished": kept["finished"]}

    def test_names_that_are_not_utf_8_are_valid_json(self, tree: NodeTree):
        Path(os.fsdecode(os.fsencode(tree.root / "var/lib/cni/networks/cbr0/") + b"/\xff\xfe")).touch()
        done = cli(tree, "scan", "--json")
        assert done.status == 0
        assert any(os.fsencode(row["path"]).endswith(b"/\xff\xfe") for row in report(done)["files"])


class TestExitStatus:
    def test_a_leak_is_3_where_that_is_asked_for(self, tree: NodeTree):
        assert cli(tree, "scan").status == 0
        before = snapshot(tree.root)
        for more in ([], ["--json"]):
            done = cli(tree, "scan", "--fail-on-leak", *more)
            assert (done.status, done.err) == (3, "")
        assert snapshot(tree.root) == before

    def test_no_leak_is_0(self, tree: NodeTree):
        assert cli(tree, "clean").status == 0
        assert cli(tree, "scan", "--fail-on-leak").status == 0

    def test_an_aborted_scan_is_1_whatever_it_found(self, tree: NodeTree):
        assert cli(tree, "scan", "--fail-on-leak", "--cnifiles=/nowhere").status == 1

    def test_a_young_leak_is_none_yet(self, tree: NodeTree):
        assert cli(tree, "scan", "--fail-on-leak", "--min-age=15m").status == 0

    def test_interrupted_while_it_waits_it_removes_nothing(self, tree: NodeTree):
        before = snapshot(tree.root)
        with Terminal(*flags(tree, confirm_after="10m"), "clean", home=tree.path, streams=["stderr"]) as terminal:
            until(lambda: "second look" in terminal.shown, what="the wait")
            terminal.process.send_signal(signal.SIGINT)
            done = terminal.wait()
        assert done.status == 130
        assert "interrupted" in terminal.shown
        assert "Traceback" not in terminal.shown
        assert snapshot(tree.root) == before

    def test_a_reader_that_goes_away_is_no_traceback(self, tree: NodeTree):
        for number in range(3, 250):
            tree.reservation(f"10.88.1.{number}", f"dead-{number}")
        with subprocess.Popen(
            [*COMMAND, *flags(tree), "scan", "--json"],
            cwd=REPOSITORY,
            env=environment(tree.path),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            try:
                assert process.stdout.read(1) == b"{"
                process.stdout.close()
                err = process.stderr.read()
                status = process.wait(timeout=TIMEOUT)
            finally:
                process.kill()
        assert err == b""
        assert status == 1


class TestTables:
    def test_scan_shows_each_file_with_its_reason_and_pod(self, tree: NodeTree):
        done = cli(tree, "scan")
        assert (done.status, done.err) == (0, "")
        lines = done.out.splitlines()
        (dead,) = (line for line in lines if "10.88.0.3 " in line)
        (live,) = (line for line in lines if "10.88.0.2 " in line)
        assert all(word in dead for word in ("leaked", "absent", container_id("dead")[:10], "default/dead"))
        assert all(word in live for word in ("keep", "sandbox", container_id("web")[:10], "default/web"))
        assert any("runtime ok, netns ok, api ok" in line for line in lines)

    def test_clean_says_what_went_and_how_to_undo_it(self, tree: NodeTree):
        done = cli(tree, "clean")
        pass_id = json.loads((tree.state / "report.json").read_text())["pass_id"]
        assert "reservations: 1 removed\nresults and scratch files: 2 removed\n" in done.out
        assert f"undo: cni-cleanup restore --pass {pass_id}" in done.out
        undone = cli(tree, "restore", "--pass", pass_id)
        assert (undone.status, undone.out.count("restored ")) == (0, 3)
        assert "3 files are back, and held until: cni-cleanup restore --release --state-dir" in undone.out
        assert "3 files are held as restored" in cli(tree, "scan").out
        assert remaining(tree) == {LIVE, DEAD}

    def test_a_scan_that_cannot_tell_says_what_is_undecided(self, tree: NodeTree):
        out = cli(tree, "scan", "--min-age", "1h").out
        assert re.search(r"^0 of 2 reservations leaked, .*, 1 reservations undecided$", out, re.MULTILINE), out

    def test_nothing_to_do_is_said(self, tree: NodeTree):
        cli(tree, "clean")
        assert "nothing is leaked" in cli(tree, "clean").out

    @pytest.mark.parametrize(
        ("variables", "name"),
        [
            ({"PYTHONIOENCODING": "utf-8:strict"}, b"\xff\xfe"),
            ({"PYTHONIOENCODING": "ascii:strict"}, b"plain"),
            ({"LC_ALL": "C"}, b"\xff\xfe"),
            ({}, b"[red]markup[/red]".replace(b"/", b"")),
            ({}, b"line\nend"),
        ],
        ids=["strict UTF-8", "ASCII", "C locale", "markup", "line end"],
    )
    def test_any_name_is_shown_on_any_terminal(self, tree: NodeTree, variables: dict[str, str], name: bytes):
        Path(os.fsdecode(os.fsencode(tree.root / "var/lib/cni/networks/cbr0/") + b"/" + name)).touch()
        done = subprocess.run(
            [*COMMAND, *flags(tree), "scan"],
            cwd=REPOSITORY,
            env=environment(tree.path, variables),
            capture_output=True,
            timeout=TIMEOUT,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, b"")
        assert b"10.88.0.3" in done.stdout

    def test_escapes_in_a_name_do_not_reach_the_terminal(self, tree: NodeTree):
        (tree.root / "var/lib/cni/networks/cbr0/\x1b[2Jgone\x07").touch()
        done = cli(tree, "scan")
        assert done.status == 0
        assert "\x1b" not in done.out
        assert "\x07" not in done.out

    def test_a_list_of_what_can_come_back_changes_nothing(self, tree: NodeTree):
        assert "nothing to give back" in cli(tree, "restore", "--list").out
        cli(tree, "clean")
        before = snapshot(tree.path)
        done = cli(tree, "restore", "--list")
        assert (done.status, done.err) == (0, "")
        assert "/var/lib/cni/networks/cbr0/10.88.0.3" in done.out
        assert snapshot(tree.path) == before

    def test_a_restored_file_is_held_until_it_is_released(self, tree: NodeTree):
        cli(tree, "clean")
        assert cli(tree, "restore", "--ip=10.88.0.3").status == 0
        rows = {row["path"]: row for row in report(cli(tree, "clean", "--json"))["files"]}
        assert rows["/var/lib/cni/networks/cbr0/10.88.0.3"]["reason"] == "held"
        assert "released /var/lib/cni/networks/cbr0/10.88.0.3" in cli(tree, "restore", "--release").out
        assert cli(tree, "clean").status == 0
        assert remaining(tree) == {LIVE}


class TestTerminal:
    def shown(self, tree: NodeTree, *arguments: str, streams: Sequence[str], **variables: str) -> tuple[str, Done]:
        with Terminal(
            *flags(tree, confirm_after="1s"), *arguments, home=tree.path, streams=streams, variables=variables
        ) as terminal:
            done = terminal.wait()
            return terminal.shown, done

    @pytest.mark.parametrize("command", ["scan", "clean"])
    def test_colour_is_for_a_terminal(self, tree: NodeTree, command: str):
        shown, done = self.shown(tree, command, streams=["stdout"])
        assert done.status == 0
        assert COLOUR.search(shown)
        assert done.err == ""

    @pytest.mark.parametrize("command", ["scan", "clean"])
    def test_without_one_there_is_none(self, tree: NodeTree, command: str):
        done = cli(tree, command)
        assert "\x1b" not in done.out + done.err

    def test_who_wants_none_gets_none(self, tree: NodeTree):
        shown, done = self.shown(tree, "scan", streams=["stdout"], NO_COLOR="1")
        assert done.status == 0
        assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", shown)

    def test_the_wait_for_the_second_look_is_shown_on_a_terminal(self, tree: NodeTree):
        shown, done = self.shown(tree, "clean", "--json", streams=["stderr"])
        assert done.status == 0
        assert "waiting for the second look" in shown
        assert report(done)["policy"]["confirm_after_seconds"] == 1
        assert remaining(tree) == {LIVE}

    def test_without_one_nothing_is_shown_while_it_waits(self, tree: NodeTree):
        shown, done = self.shown(tree, "clean", streams=["stdout"])
        assert (done.status, done.err) == (0, "")
        assert "waiting" not in shown
        assert remaining(tree) == {LIVE}

    def test_an_error_is_one_line_on_a_terminal_too(self, tree: NodeTree):
        shown, done = self.shown(tree, "scan", "--min-age=soon", streams=["stdout", "stderr"])
        assert done.status == 2
        assert shown.replace("\r\n", "\n").count("\n") == 1
        assert shown.startswith("cni-cleanup: --min-age")
