"""A collector of traces: a real OTLP/HTTP server on the loopback, and ones that are away in every way a collector can be."""

import gzip
import socket
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as WireSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status

_KINDS = {
    WireSpan.SPAN_KIND_INTERNAL: "internal",
    WireSpan.SPAN_KIND_PRODUCER: "producer",
    WireSpan.SPAN_KIND_CONSUMER: "consumer",
}


@dataclass(frozen=True, kw_only=True)
class Span:
    """One that was received; ids in hexadecimal, `parent` empty where it is the first of its trace."""

    name: str
    trace: str
    id: str
    parent: str
    kind: str
    #: Why it is an error; None where it is none.
    error: str | None
    facts: Mapping[str, Any]
    #: Of the process that made it.
    resource: Mapping[str, Any]
    start_ns: int
    end_ns: int

    @property
    def role(self) -> str:
        """What the process does."""
        return str(self.resource["cni_cleanup.role"])


class Collector:
    """Takes what is sent to `/v1/traces`; a context manager. It answers with `status`."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self._lock = threading.Lock()
        self._spans: list[Span] = []
        #: Path and headers, in lower case, of each request.
        self.requests: list[tuple[str, dict[str, str]]] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:  # its name in http.server
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                collector.take(self.path, headers, gzip.decompress(body) if headers.get("content-encoding") == "gzip" else body)
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(collector.status)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its name in http.server
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def spans(self) -> list[Span]:
        """All that were taken so far."""
        with self._lock:
            return list(self._spans)

    def take(self, path: str, headers: dict[str, str], body: bytes) -> None:
        """Take a request."""
        request = ExportTraceServiceRequest.FromString(body)
        with self._lock:
            self.requests.append((path, headers))
            for of_resource in request.resource_spans:
                resource = _facts(of_resource.resource.attributes)
                for of_scope in of_resource.scope_spans:
                    self._spans += (_span(span, resource) for span in of_scope.spans)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Tree:
    """The spans of some traces, by their parents."""

    def __init__(self, spans: list[Span]) -> None:
        self.spans = spans
        self._by_id = {span.id: span for span in spans}
        self._children: dict[str, list[Span]] = defaultdict(list)
        for span in sorted(spans, key=lambda one: one.start_ns):
            self._children[span.parent].append(span)

    def roots(self) -> list[Span]:
        """Those without a parent."""
        return self._children[""]

    def lost(self) -> list[Span]:
        """Those whose parent never came."""
        return [span for span in self.spans if span.parent and span.parent not in self._by_id]

    def below(self, span: Span) -> list[Span]:
        """Its children, in the order of their beginning."""
        return self._children[span.id]

    def names(self, span: Span) -> list[str]:
        """Their names."""
        return [child.name for child in self.below(span)]

    def path(self, span: Span) -> list[str]:
        """The names from the first to this one."""
        above = self._by_id.get(span.parent)
        return [*(self.path(above) if above else []), span.name]


@contextmanager
def hanging() -> Iterator[str]:
    """The URL of a collector that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def refusing() -> Iterator[str]:
    """The URL of a port on which nobody listens, and which nobody else is given meanwhile."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{holder.getsockname()[1]}"


@contextmanager
def dripping() -> Iterator[str]:
    """The URL of a collector that answers a byte at a time, for ever: no wait for a byte ever ends in time-out."""
    ended = threading.Event()

    def drip(connection: socket.socket) -> None:
        with connection:
            try:
                for byte in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"." * 100_000:
                    connection.sendall(bytes([byte]))
                    if ended.wait(0.2):
                        return
            except OSError:
                return

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=drip, args=(connection,), daemon=True).start()

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            ended.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _span(span: WireSpan, resource: Mapping[str, Any]) -> Span:
    return Span(
        name=span.name,
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        kind=_KINDS.get(span.kind, "other"),
        error=span.status.message if span.status.code == Status.STATUS_CODE_ERROR else None,
        facts=_facts(span.attributes),
        resource=resource,
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
    )


def _facts(attributes: "list[KeyValue] | Any") -> dict[str, Any]:
    return {one.key: _value(one.value) for one in attributes}


def _value(value: AnyValue) -> Any:
    which = value.WhichOneof("value")
    if which == "array_value":
        return [_value(one) for one in value.array_value.values]
    return None if which is None else getattr(value, which)
