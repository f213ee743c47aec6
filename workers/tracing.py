"""
Traces of a process by OpenTelemetry, if the operator wants some: where they go, and the spans that go there.

Nothing of OpenTelemetry is imported here. What needs it is in workers.otel, which a process without traces never loads.
"""

import contextlib
import importlib.util
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cni.settings import Settings
from cni.steps import Fact, Step, unmeasured
from workers.configuration import collector_url

if TYPE_CHECKING:
    from workers.otel import Traces

PATH = "/v1/traces"
"""Where a collector takes spans, below its base URL."""

_BASE = "OTEL_EXPORTER_OTLP_ENDPOINT"
_WHOLE = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")

_HEADERS = ("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS")

_NEEDED = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http", "opentelemetry.instrumentation.celery")

_log = logging.getLogger(__name__)


class _Here:
    """The traces of this process, where it makes some."""

    traces: "Traces | None" = None
    #: Whose they are: a fork has none until it starts its own.
    pid = 0


class _Complaints(logging.Handler):
    """Tells the first that OpenTelemetry complains of, in a line of our log; it would do so at each batch, with tracebacks.

    The first of the way to the collector, and the first of all else.
    """

    def __init__(self, url: str, environ: Mapping[str, str] = os.environ) -> None:
        super().__init__(logging.WARNING)
        parts = urlsplit(url)
        self._where = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        headers = (part.strip() for name in _HEADERS for part in environ.get(name, "").split(","))
        self._secrets = [secret for secret in (parts.query, *headers) if secret]
        self._told: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        about = f"traces do not reach {self._where}" if record.name.startswith("opentelemetry.exporter") else "traces"
        if about not in self._told:
            self._told.add(about)
            why = " ".join(record.getMessage().split())
            for secret in self._secrets:
                why = why.replace(secret, "...")
            _log.warning("%s: %s", about, why, extra={"action": "tracing_failed"})


def _only_complain(complaints: logging.Handler) -> None:
    theirs = logging.getLogger("opentelemetry")
    theirs.handlers[:] = [complaints]
    theirs.propagate = False


def destination(settings: Settings, environ: Mapping[str, str] = os.environ) -> str | None:
    """The URL that spans are sent to; None where tracing is off, with a warning where it was meant to be on."""
    if settings.jaegerurl is not None:
        name, url = "--jaegerurl", settings.jaegerurl
    else:
        name = next((name for name in (_WHOLE, _BASE) if environ.get(name)), "")
        url = environ.get(name, "")
    exporters = [part.strip() for part in environ.get("OTEL_TRACES_EXPORTER", "").split(",") if part.strip()]
    if not url or exporters == ["none"] or environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    why = _unfit(name, url, exporters, environ)
    if why is not None:
        _log.warning("tracing is off: %s", why, extra={"action": "tracing_off"})
        return None
    return url if name == _WHOLE else _with_path(url)


def _unfit(name: str, url: str, exporters: list[str], environ: Mapping[str, str]) -> str | None:
    """Why nothing can be sent."""
    try:
        parts = urlsplit(collector_url(url))
    except ValueError as error:
        # It may hold a password.
        return f"{name}: {error}"
    if parts.port == 14268 or parts.path.rstrip("/").endswith("/api/traces"):
        return f"{name} is Jaeger's old Thrift endpoint: name its port for OTLP over HTTP, as in http://{parts.hostname}:4318"
    if exporters and "otlp" not in exporters:
        return f"OTEL_TRACES_EXPORTER is {exporters[0][:80]!r}, and there is only otlp"
    for variable in _PROTOCOLS:
        if protocol := environ.get(variable):
            return None if protocol == "http/protobuf" else f"{variable} is {protocol[:80]!r}, and there is only http/protobuf"
    return None


def _with_path(url: str) -> str:
    """The URL for spans of a base URL; one that names it already is taken as it is."""
    parts = urlsplit(url)
    path = parts.path.rstrip("/")
    return url if path.endswith(PATH) else parts._replace(path=f"{path}{PATH}").geturl()


def is_wanted(settings: Settings) -> bool:
    """Whether processes with these settings make traces; a warning says what stands against it. Loads next to nothing."""
    if destination(settings) is None:
        return False
    if not _is_installed():
        _not_installed()
        return False
    return True


def _is_installed() -> bool:
    try:
        return all(importlib.util.find_spec(name) is not None for name in _NEEDED)
    except ImportError:
        return False


def _not_installed() -> None:
    _log.warning("tracing is off: OpenTelemetry is not there (pip install 'cni-cleanup[otel]')", extra={"action": "tracing_off"})


@contextlib.contextmanager
def harmless() -> Iterator[None]:
    """A block that begins tracing: if that fails, a line in the log is all that comes of it."""
    try:
        yield
    except ImportError:
        _not_installed()
    except Exception as error:  # noqa: BLE001  # a variable of OpenTelemetry's may hold anything, and jobs go on
        _log.warning("tracing is off: %s: %s", type(error).__name__, error, extra={"action": "tracing_off"})


def start(settings: Settings, role: str) -> "Traces | None":
    """Begin to trace this process, unless it does already; None where tracing is off."""
    if _Here.traces is not None and _Here.pid == os.getpid():
        return _Here.traces
    _Here.traces = None
    url = destination(settings)
    if url is not None:
        _only_complain(_Complaints(url))
        with harmless():
            # Imported here: 20 MiB and a third of a second.
            from workers.otel import Traces

            _Here.traces, _Here.pid = Traces(settings, role, url), os.getpid()
    return _Here.traces


def span(name: str, /, **facts: Fact) -> contextlib.AbstractContextManager[Step]:
    """A step of this process (see cni.steps.Span), as a span where it is traced."""
    return unmeasured(name) if _Here.traces is None else _Here.traces.span(name, facts)


def note(facts: Callable[[], Mapping[str, Fact]]) -> None:
    """Tell something of the span that is open here, whoever opened it."""
    if _Here.traces is not None:
        _Here.traces.current().note(facts)


def end() -> None:
    """Send what is left, for at most a second; later spans are lost."""
    traces, _Here.traces = _Here.traces, None
    if traces is not None:
        traces.end()
        # Its thread may be left behind, and must not be caught writing when Python ends.
        _only_complain(logging.NullHandler())
