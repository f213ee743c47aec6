"""What of tracing needs OpenTelemetry: loaded by workers.tracing in a process that makes traces, and in no other."""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.propagate import set_global_textmap
from opentelemetry.propagators.textmap import CarrierT, Getter, default_getter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from cni.settings import Settings
from cni.steps import Fact

_PREFIX = "cni_cleanup"

_ANSWERS_WITHIN = 0.8
"""Seconds that a collector has for everything; the SDK would try again for ten."""

_ENDS_WITHIN = 1.0
"""Seconds that the end of a process may wait for it."""

_LONGEST = 1000
"""Characters of a value: some of them are the sender's of a message to choose."""

_MOST = 16384
"""Spans that wait: a sweep over 5,000 nodes makes them faster than they are sent."""

_NEVER = 3_600_000.0
"""Milliseconds, longer than any pass."""

_SENDERS = ("control", "beat", "job")
"""Roles that hold no lock of the plugin's, so that their spans may be sent beside the work."""


class Traces:
    """The spans of this process."""

    def __init__(self, settings: Settings, role: str, url: str) -> None:
        """`role` is what the process does, `url` where its spans go.

        Raises:
            Exception: a variable of OpenTelemetry's holds nonsense.
        """
        set_global_textmap(_TraceIds())
        self.provider = TracerProvider(
            resource=_resource(settings, role),
            # At the exit there would be no limit to its wait.
            shutdown_on_exit=False,
            span_limits=SpanLimits(max_attribute_length=_LONGEST),
        )
        self.provider.add_span_processor(
            BatchSpanProcessor(
                OTLPSpanExporter(endpoint=url, timeout=_ANSWERS_WITHIN),
                max_queue_size=None if "OTEL_BSP_MAX_QUEUE_SIZE" in os.environ else _MOST,
                # On a node only at the end: a thread that encodes spans would take its turns under the plugin's lock, too.
                schedule_delay_millis=None if role in _SENDERS else _NEVER,
            )
        )
        self._tracer = self.provider.get_tracer(_PREFIX)

    @contextlib.contextmanager
    def span(self, name: str, facts: Mapping[str, Fact]) -> Iterator["OpenSpan"]:
        """A span of this name, below the one that is open."""
        with self._tracer.start_as_current_span(name, record_exception=False, set_status_on_exception=False) as span:
            step = OpenSpan(span)
            step.note(lambda: facts)
            try:
                yield step
            except SystemExit as end:
                if end.code:
                    step.fail(f"exit status {end.code}")
                raise
            except BaseException as error:
                step.fail(f"{type(error).__name__}: {error}")
                raise

    def current(self) -> "OpenSpan":
        """The span that is open; one that takes nothing where there is none."""
        return OpenSpan(trace.get_current_span())

    def end(self) -> None:
        """Send what is left, and wait for that as long as the end may take."""
        # The SDK's own shutdown has no limit that can be set.
        thread = threading.Thread(target=self.provider.shutdown, daemon=True)
        thread.start()
        thread.join(_ENDS_WITHIN)


class OpenSpan:
    """One that has begun (see cni.steps.Step)."""

    def __init__(self, span: Span) -> None:
        self._span = span

    def note(self, facts: Callable[[], Mapping[str, Fact]]) -> None:
        """Set attributes."""
        if self._span.is_recording():
            for name, value in facts().items():
                if value is not None:
                    self._span.set_attribute(f"{_PREFIX}.{name}", value)

    def fail(self, why: str) -> None:
        """Set the status."""
        self._span.set_status(StatusCode.ERROR, why[:_LONGEST])


class _TraceIds(TraceContextTextMapPropagator):
    """Reads and writes `traceparent` alone, which is ids: nothing else that a message carries is taken up or passed on."""

    def extract(self, carrier: CarrierT, context: Context | None = None, getter: Getter[CarrierT] = default_getter) -> Context:
        found = getter.get(carrier, "traceparent")
        return super().extract({"traceparent": found[0]} if found else {}, context)


def _resource(settings: Settings, role: str) -> Resource:
    """What the process is; OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win."""
    own: dict[str, str] = {"service.name": "cni-cleanup", f"{_PREFIX}.role": role}
    with contextlib.suppress(metadata.PackageNotFoundError):
        own["service.version"] = metadata.version("cni-cleanup")
    if settings.node is not None:
        own["k8s.node.name"] = settings.node
    return Resource.create({**own, **OTELResourceDetector().detect().attributes})
