"""Where traces go and when there are none; what a message may say of them; what is told of a pass, and when."""

import contextlib
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.instrumentation.celery import celery_getter

from cni.settings import Settings
from cni.steps import Fact, Step
from tests.support.nodetree import LaterClock, NodeTree
from tests.support.program import REPOSITORY, child_environment
from workers import node, otel, tracing

HERE = "http://collector:4318/v1/traces"

BASE = "OTEL_EXPORTER_OTLP_ENDPOINT"
WHOLE = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"


@pytest.mark.parametrize(
    ("jaegerurl", "variables", "url"),
    [
        pytest.param(None, {}, None, id="nothing"),
        pytest.param("http://collector:4318", {}, HERE, id="base"),
        pytest.param("http://collector:4318/", {}, HERE, id="base with a slash"),
        pytest.param(HERE, {}, HERE, id="whole"),
        pytest.param(f"{HERE}/", {}, f"{HERE}/", id="whole with a slash"),
        pytest.param("https://c/otlp?key=a", {}, "https://c/otlp/v1/traces?key=a", id="base with path and query"),
        pytest.param(None, {BASE: "http://collector:4318"}, HERE, id="base variable"),
        pytest.param(None, {WHOLE: "http://c/x"}, "http://c/x", id="whole variable, taken as it is"),
        pytest.param(None, {WHOLE: "http://c/x", BASE: "http://other"}, "http://c/x", id="the nearer variable wins"),
        pytest.param("http://collector:4318", {WHOLE: "http://c/x"}, HERE, id="the option wins"),
        pytest.param(None, {WHOLE: "", BASE: ""}, None, id="empty variables"),
        pytest.param("http://c", {"OTEL_SDK_DISABLED": "True"}, None, id="disabled"),
        pytest.param("http://c", {"OTEL_TRACES_EXPORTER": "none"}, None, id="no exporter"),
        pytest.param("http://collector:4318", {"OTEL_TRACES_EXPORTER": "otlp"}, HERE, id="the exporter by name"),
        pytest.param(None, {"OTEL_TRACES_EXPORTER": "otlp"}, None, id="an exporter and nowhere to send to"),
        pytest.param("http://collector:4318", {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, HERE, id="the protocol by name"),
        pytest.param(None, {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, None, id="a protocol and nowhere to send to"),
    ],
)
def test_where_traces_go(jaegerurl: str | None, variables: dict[str, str], url: str | None, caplog: pytest.LogCaptureFixture):
    assert tracing.destination(Settings(jaegerurl=jaegerurl), variables) == url
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("jaegerurl", "variables", "why"),
    [
        pytest.param("http://jaeger:14268/api/traces", {}, "http://jaeger:4318", id="Thrift"),
        pytest.param("http://jaeger:14268", {}, "http://jaeger:4318", id="its port"),
        pytest.param("https://u:secret@jaeger/api/traces?a=secret", {}, "http://jaeger:4318", id="its path"),
        pytest.param(None, {BASE: "http://jaeger:14268/api/traces"}, BASE, id="Thrift in the variable"),
        pytest.param(None, {BASE: "secret:4318"}, f"{BASE}: the URL", id="nonsense in the variable"),
        pytest.param("http://c", {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "only http/protobuf", id="gRPC"),
        pytest.param("http://c", {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/json"}, "only http/protobuf", id="JSON"),
        pytest.param("http://c", {"OTEL_TRACES_EXPORTER": "zipkin"}, "only otlp", id="another exporter"),
    ],
)
def test_what_cannot_be_sent_to_is_one_warning_and_no_tracing(
    jaegerurl: str | None, variables: dict[str, str], why: str, caplog: pytest.LogCaptureFixture
):
    assert tracing.destination(Settings(jaegerurl=jaegerurl), variables) is None
    (line,) = caplog.messages
    assert line.startswith("tracing is off: ")
    assert why in line
    assert "secret" not in line


def test_without_the_packages_one_warning_names_the_extra_and_the_pass_goes_on(tmp_path: Path):
    """Hidden, as from an installation without the extra."""
    (tmp_path / "opentelemetry.py").write_text("raise ImportError('hidden by the test')\n")
    tree = NodeTree(tmp_path)
    tree.live("web", "10.88.0.2")
    program = (
        "import json, sys, logging\n"
        "from cni.settings import Settings; from workers import tracing; from workers.node import scan\n"
        "logging.basicConfig(format='%(message)s')\n"
        "settings = Settings(jaegerurl='http://127.0.0.1:9', **json.loads(sys.argv[1]))\n"
        "assert not tracing.is_wanted(settings)\n"
        "tracing.start(settings, 'scan'); print(scan(settings).aborted); tracing.end()\n"
    )
    settings = {"root": str(tree.root), "state_dir": str(tree.state), "api": "none", "runtime_endpoint": "none"}
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(settings)],
        env=child_environment({"PYTHONPATH": str(tmp_path)}),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == "None\n"
    line = "tracing is off: OpenTelemetry is not there (pip install 'cni-cleanup[otel]')\n"
    # One for whoever only asked, and one for whoever began.
    assert done.stderr == 2 * line


@pytest.fixture
def theirs() -> Iterator[logging.Logger]:
    """OpenTelemetry's logger, as it was again afterwards."""
    logger = logging.getLogger("opentelemetry")
    before, propagate = logger.handlers[:], logger.propagate
    yield logger
    logger.handlers[:], logger.propagate = before, propagate


def test_of_a_collector_that_is_away_one_line_is_told_and_no_secret(theirs: logging.Logger, caplog: pytest.LogCaptureFixture):
    headers = {"OTEL_EXPORTER_OTLP_HEADERS": "x-tenant=nodes, x-key: secret"}
    tracing._only_complain(tracing._Complaints("http://user:secret@collector:4318/v1/traces?token=secret", headers))
    exporter = theirs.getChild("exporter")
    with contextlib.suppress(ZeroDivisionError):
        try:
            print(1 / 0)
        except ZeroDivisionError:
            exporter.exception("no route\nto /v1/traces?token=secret")
    exporter.error("no route")
    theirs.getChild("util").warning("Header format invalid: %s", "x-key: secret")
    theirs.getChild("util").warning("and another one")
    assert caplog.messages == [
        "traces do not reach http://collector:4318/v1/traces: no route to /v1/traces?...",
        "traces: Header format invalid: ...",
    ]


def test_the_end_of_a_process_does_not_wait_for_a_collector_without_end(theirs: logging.Logger):
    traces = otel.Traces(Settings(), "clean", "http://127.0.0.1:9/v1/traces")
    traces.provider.shutdown()
    answered = threading.Event()
    traces.provider.shutdown = answered.wait  # type: ignore[method-assign, assignment]  # as a collector that never answers
    traces.end()
    assert not answered.is_set()
    answered.set()


# What a message says


IDS = "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331"


class Request:
    """What Celery makes of a message's headers: an attribute for each."""

    def __init__(self, headers: Mapping[str, Any]) -> None:
        self.__dict__.update(headers)


def span_of(headers: Mapping[str, Any]) -> trace.SpanContext:
    """The span that a message with these headers says it was sent by."""
    context = otel._TraceIds().extract(Request(headers), getter=celery_getter)  # type: ignore[misc]  # as Celery's own does
    assert set(context) <= {trace.propagation._SPAN_KEY}
    return trace.get_current_span(context).get_span_context()


def test_a_message_names_the_span_that_sent_it_and_nothing_else():
    more = {"tracestate": "evil=1", "baggage": "evil=1", "b3": f"{IDS}-1"}
    found = span_of({"traceparent": f"00-{IDS}-01", **more})
    assert (f"{found.trace_id:032x}-{found.span_id:016x}", found.trace_flags) == (IDS, 1)
    assert not found.trace_state
    passed_on: dict[str, str] = {}
    otel._TraceIds().inject(passed_on, trace.set_span_in_context(trace.NonRecordingSpan(found)))
    assert passed_on == {"traceparent": f"00-{IDS}-01"}


@pytest.mark.parametrize(
    "value",
    [
        "", "00", f"00-{IDS}", f"ff-{IDS}-01", f"00-{IDS}-01-more", f"00-{'0' * 32}-b7ad6b7169203331-01", f"00-{IDS.upper()}-01",
        f"00-{IDS}-zz", "é" * 600, "00-" + "a" * 100_000, "\0", 7, 7.5, True, [], [7], [[]], {}, {"traceparent": 1}, [None], None,
    ],
    ids=lambda value: repr(value)[:30],
)  # fmt: skip
def test_a_garbled_traceparent_names_none(value: Any):
    assert span_of({"traceparent": value}) == trace.INVALID_SPAN_CONTEXT


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda one: st.lists(one) | st.dictionaries(st.text(), one),
    )
)
def test_whatever_json_has_does_no_harm(value: Any):
    assert span_of({"traceparent": value, "tracestate": value, "baggage": value}) == trace.INVALID_SPAN_CONTEXT


# What is told of a pass


class Told:
    """Notes where each span begins and ends, and what else it is told of."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.facts: dict[str, dict[str, Fact]] = {}

    @contextlib.contextmanager
    def span(self, name: str, /, **facts: Fact) -> Iterator[Step]:
        told = self.facts.setdefault(name, {})
        told.update(facts)
        self.events.append(f"+{name}")
        try:
            yield _Noted(told)
        finally:
            self.events.append(f"-{name}")

    def observe(self, step: str) -> None:
        self.events.append(step)


class _Noted:
    def __init__(self, told: dict[str, Fact]) -> None:
        self._told = told

    def note(self, facts: Any) -> None:
        self._told.update(facts())

    def fail(self, why: str) -> None:
        self._told["error"] = why


@pytest.fixture
def tree(tmp_path: Path) -> NodeTree:
    """A node with one live pod and three leaks."""
    tree = NodeTree(tmp_path)
    tree.live("web", "10.88.0.2")
    for number in range(3, 6):
        tree.dead(f"gone-{number}", f"10.88.0.{number}")
    return tree


def test_no_span_begins_or_ends_under_the_plugins_lock(tree: NodeTree):
    told = Told()
    node.clean(tree.settings(), clock=LaterClock(3600.0), observe=told.observe, span=told.span)
    locked = [told.events[number + 1] for number, event in enumerate(told.events) if event == "locked"]
    assert locked
    assert set(locked) == {"removed"}
    assert told.events.index("+remove") < told.events.index("announced") < told.events.index("-remove")


def test_a_pass_without_leaks_has_one_look_and_nothing_to_wait_for_or_remove(tmp_path: Path):
    tree, told = NodeTree(tmp_path), Told()
    tree.live("web", "10.88.0.2")
    node.clean(tree.settings(), clock=LaterClock(3600.0), span=told.span)
    asked = [f"{sign}ask {witness}" for witness in ("runtime", "netns", "api") for sign in "+-"]
    assert told.events == ["+pass", "+look", "+list", "-list", *asked, "+decide", "-decide", "-look", "-pass"]


def test_a_witness_that_cannot_answer_is_told_at_its_own_step_and_ends_look_and_pass(tree: NodeTree):
    told = Told()
    report = node.clean(
        tree.settings(sandboxes_file=None, runtime_endpoint="unix:///nonexistent.sock"), clock=LaterClock(3600.0), span=told.span
    )
    assert report.aborted is not None
    assert told.facts["pass"]["aborted"] == report.aborted.reason == "witness"
    assert told.facts["pass"]["error"] == f"witness: {report.aborted.detail}"
    assert str(told.facts["ask runtime"]["error"]) in report.witnesses["runtime"]
    assert "error" not in told.facts["ask api"]


def test_a_process_without_traces_measures_nothing():
    with tracing.span("pass", dry_run=True) as step:
        step.note(lambda: pytest.fail("somebody listens"))
    tracing.note(lambda: pytest.fail("somebody listens"))
