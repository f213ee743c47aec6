"""The log: one JSON object a line with what it is about, or text before a terminal."""

import ast
import io
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace

from cni.report import Report
from tests.support.nodetree import NodeTree
from workers import logs

REPOSITORY = Path(__file__).parents[2]

ALWAYS = {"time", "level", "action", "message", "logger", "node", "sweep_id", "pass_id", "trace_id"}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def stream(logging_as_before: None) -> io.StringIO:
    stream = io.StringIO()
    logs.set_up("auto", node="node-1", stream=stream)
    return stream


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


log = logging.getLogger("tests.logs")

PASS = "20261126T0800-1a2b"  # noqa: S105  # of a pass, not to get in


def test_every_line_has_the_same_fields(stream: io.StringIO):
    log.info("hello %s", "world", extra={"action": "greeted"})
    logging.getLogger("library").warning("something")
    ours, theirs = lines(stream)
    assert set(ours) == set(theirs) == ALWAYS
    assert (ours["level"], ours["action"], ours["message"], ours["node"]) == ("INFO", "greeted", "hello world", "node-1")
    assert (ours["sweep_id"], ours["pass_id"], ours["trace_id"]) == (None, None, None)
    assert theirs["action"] == theirs["logger"] == "library"


def test_what_an_event_has_of_its_own_is_a_field(stream: io.StringIO):
    log.info("x", extra={"action": "removed", "path": "/a", "files": 3})
    assert lines(stream)[0]["path"] == "/a"
    assert lines(stream)[0]["files"] == 3


def test_lines_of_a_block_are_about_its_sweep_and_pass(stream: io.StringIO):
    with logs.about(sweep_id="s"):
        log.info("1")
        with logs.about(pass_id=PASS):
            log.info("2")
        log.info("3")
    log.info("4")
    assert [(line["sweep_id"], line["pass_id"]) for line in lines(stream)] == [
        ("s", None),
        ("s", PASS),
        ("s", None),
        (None, None),
    ]


def test_what_a_call_says_itself_counts_more(stream: io.StringIO):
    with logs.about(pass_id=PASS):
        log.info("x", extra={"action": "a", "pass_id": "another"})
    assert [line["pass_id"] for line in lines(stream)] == ["another"]


def test_lines_of_a_span_have_its_trace(stream: io.StringIO):
    context = trace.SpanContext(trace_id=0xABC, span_id=1, is_remote=False, trace_flags=trace.TraceFlags(1))
    with trace.use_span(trace.NonRecordingSpan(context)):
        log.info("x")
    log.info("y")
    assert [line["trace_id"] for line in lines(stream)] == [f"{0xABC:032x}", None]


@pytest.mark.parametrize("text", ["two\nlines", "\x1b[31m", "\udcff", "\u2028", '"quoted"', "\x00"])
def test_any_text_is_one_line(stream: io.StringIO, text: str):
    log.info("%s", text, extra={"action": "x", "path": text})
    assert stream.getvalue().count("\n") == 1
    assert stream.getvalue().isascii()
    assert lines(stream)[0]["path"] == text


def test_a_traceback_is_in_its_line(stream: io.StringIO):
    try:
        int("two\nlines")
    except ValueError:
        log.exception("failed")
    (line,) = lines(stream)
    assert "ValueError: invalid literal" in line["exc_info"]


def test_an_error_that_says_all_in_its_message_has_no_traceback(logging_as_before: None):
    stream = io.StringIO()
    logs.set_up("json", node=None, stream=stream, untraced=(ConnectionError,))
    for error in (ConnectionRefusedError("away"), ValueError("a bug")):
        log.error("failed: %s", error, exc_info=error)
    away, bug = lines(stream)
    assert ("exc_info" in away, "exc_info" in bug) == (False, True)


def test_before_a_terminal_it_is_text(logging_as_before: None):
    stream = Terminal()
    logs.set_up("auto", node=None, stream=stream)
    log.warning("look here", extra={"action": "x"})
    assert stream.getvalue().rstrip().endswith("WARNING look here")


@pytest.mark.parametrize("text", ["a\n12:00:00 INFO    forged", "\x1b[2J", "\r", "\u202e"])
def test_before_a_terminal_no_name_makes_a_line_or_commands_it(logging_as_before: None, text: str):
    stream = Terminal()
    logs.set_up("auto", node=None, stream=stream)
    log.warning("removed %s: absent", text)
    assert stream.getvalue().removesuffix("\n").isprintable()


@pytest.mark.parametrize(("form", "stream", "begins"), [("json", Terminal(), "{"), ("text", io.StringIO(), "")])
def test_the_form_can_be_chosen(logging_as_before: None, form: logs.Format, stream: io.StringIO, begins: str):
    logs.set_up(form, node=None, stream=stream)
    log.warning("x")
    assert stream.getvalue().startswith("{") is (begins == "{")


def test_stderr_is_where_it_goes(logging_as_before: None, monkeypatch: pytest.MonkeyPatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    logs.set_up("json", node=None)
    log.warning("x")
    assert lines(stream)


class TestAPass:
    @pytest.fixture
    def tree(self, tmp_path: Path) -> NodeTree:
        made = NodeTree(tmp_path)
        made.live("web", "10.88.0.2")
        made.dead("dead", "10.88.0.3")
        made.dead("gone", "10.88.0.4")
        return made

    def clean(self, tree: NodeTree, stream: io.StringIO, **changes: Any) -> tuple[Report, list[dict[str, Any]]]:
        report = tree.clean(**changes)
        logs.log_end(log, report)
        return report, lines(stream)

    def test_each_file_that_was_removed_is_one_line_with_its_reason(self, tree: NodeTree, stream: io.StringIO):
        report, told = self.clean(tree, stream)
        removed = {line["path"]: line for line in told if line["action"] == "removed"}
        assert set(removed) == {item.path for item, _, outcome in report.rows() if outcome == "removed"}
        assert len(removed) == len([line for line in told if line["action"] == "removed"]) == 6
        line = removed["/var/lib/cni/networks/cbr0/10.88.0.3"]
        assert line["message"] == "removed /var/lib/cni/networks/cbr0/10.88.0.3: absent, of default/dead"
        assert (line["reason"], line["pod"], line["ip"], line["kind"]) == ("absent", "default/dead", "10.88.0.3", "reservation")
        assert {line["pass_id"] for line in told} == {report.pass_id}

    def test_it_begins_and_ends_with_a_line(self, tree: NodeTree, stream: io.StringIO):
        _, told = self.clean(tree, stream)
        assert (told[0]["action"], told[-1]["action"]) == ("pass_begun", "pass_ended")
        assert (told[-1]["files"], told[-1]["leaked"], told[-1]["removed"], told[-1]["failed"]) == (9, 6, 6, 0)

    def test_a_dry_run_removes_in_no_line(self, tree: NodeTree, stream: io.StringIO):
        _, told = self.clean(tree, stream, dry_run=True)
        assert [line["action"] for line in told] == ["pass_begun", "pass_ended"]

    def test_one_that_was_aborted_says_so(self, tree: NodeTree, stream: io.StringIO):
        tree.state.mkdir()
        (tree.state / "hold").touch()
        _, told = self.clean(tree, stream)
        assert (told[-1]["action"], told[-1]["reason"], told[-1]["level"]) == ("pass_aborted", "hold", "WARNING")


def calls() -> Iterator[tuple[str, ast.Call]]:
    """Every call of ours that logs."""
    for package in ("cni", "workers", "tasks", "beat", "cli"):
        for path in sorted((REPOSITORY / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Attribute)
                    and node.func.attr in ("debug", "info", "warning", "error", "exception", "critical")
                    and ast.unparse(node.func.value) in ("_log", "log", "logging.getLogger(__name__)")
                ):
                    yield f"{path.relative_to(REPOSITORY)}:{node.lineno}", node


def test_every_event_of_ours_has_an_action():
    found = dict(calls())
    assert len(found) > 20
    without = [where for where, call in found.items() if "extra" not in {keyword.arg for keyword in call.keywords}]
    assert without == []
