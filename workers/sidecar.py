"""
The sidecar: what a node shows by HTTP, and the one thing that it can be asked for.

A WSGI application; `serve` runs it. It depends on no worker and no broker: metrics and its liveness are there without either.
"""

import contextlib
import gc
import hmac
import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import FrameType
from typing import IO, Any, Literal, cast

from waitress.channel import HTTPChannel
from waitress.server import BaseWSGIServer, create_server

from cni.errors import CleanupError, UsageError
from workers import reports
from workers.metrics import CONTENT_TYPE
from workers.state import open_regular
from workers.tokens import read_token

_THREADS = 4
"""Requests that are answered at a time. One may wait for a pass."""

_CLIENTS = 512
"""Connections that are kept; more wait for the kernel. Above any number of scrapers that a node has."""

_WHOLE_WITHIN = 30
"""Seconds from its connection within which a client must have sent its request, and between two steps of reading the answer."""

_BODY_LIMIT = 4096
"""Bytes of a request's body, in which nothing is wanted."""

_HEADER_LIMIT = 16384

_SWITCHES_AFTER = 0.0002
"""Seconds for which one thread may keep the others from running Python."""

Environ = Mapping[str, Any]
StartResponse = Callable[..., Any]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What somebody is told who asked for a pass."""

    status: Literal[200, 409, 503, 504]
    #: Whether the pass was made, and left nothing that it should have removed.
    done: bool
    reason: str


Cleanup = Callable[[], Answer]
"""Asks for a pass of this node, and waits for it as long as one may take."""


@dataclass(frozen=True, kw_only=True)
class Response:
    """What goes back: text, or a file that is sent as it is read."""

    status: str
    body: bytes | IO[bytes]
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


def _json(status: str, value: object, *headers: tuple[str, str]) -> Response:
    return Response(status=status, body=json.dumps(value).encode() + b"\n", headers=headers)


def _refusal(status: str, reason: str, *headers: tuple[str, str]) -> Response:
    return _json(status, {"status": "Error", "reason": reason}, *headers)


_STATUSES = {200: "200 OK", 409: "409 Conflict", 503: "503 Service Unavailable", 504: "504 Gateway Timeout"}


@dataclass(kw_only=True)
class Sidecar:
    """The application."""

    #: The text of /metrics.
    metrics: Callable[[], bytes]
    #: Our path of the last report.
    report_path: str
    cleanup: Cleanup
    version: str
    #: Read again for each request that needs it; None turns those requests off.
    token_file: str | None = None
    _one_cleanup: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        response = self._respond(environ)
        body = response.body
        size = len(body) if isinstance(body, bytes) else os.fstat(body.fileno()).st_size
        headers = [("Content-Type", response.content_type), ("Content-Length", str(size)), ("Cache-Control", "no-store")]
        start_response(response.status, [*headers, *response.headers])
        if environ["REQUEST_METHOD"] == "HEAD":
            if not isinstance(body, bytes):
                body.close()
            return []
        sent: Iterable[bytes] = [body] if isinstance(body, bytes) else environ["wsgi.file_wrapper"](body)
        return sent

    def _respond(self, environ: Environ) -> Response:
        method, path = str(environ["REQUEST_METHOD"]), str(environ["PATH_INFO"])
        route = self._routes.get(path)
        if route is None:
            return _refusal("404 Not Found", f"there is {', '.join(self._routes)}")
        if method not in route.methods:
            return _refusal(
                "405 Method Not Allowed", f"{path} takes {' and '.join(route.methods)}", ("Allow", ", ".join(route.methods))
            )
        refused = self._unauthorized(environ) if route.guarded else None
        try:
            return refused or route.answer(environ)
        except Exception as error:  # noqa: BLE001  # a request that fails must be answered, and takes nobody else along
            _log.exception("%s %s failed", method, path, extra={"action": "request_failed"})
            return _refusal("500 Internal Server Error", f"{type(error).__name__}: see the log")

    @property
    def _routes(self) -> dict[str, "_Route"]:
        reads = ("GET", "HEAD")
        return {
            "/metrics": _Route(reads, self._metrics),
            "/healthz": _Route(reads, lambda _: _json("200 OK", {"status": "UP"})),
            "/.well-known": _Route(reads, self._well_known),
            "/report": _Route(reads, self._report, guarded=True),
            "/cleanup": _Route(("POST",), self._clean, guarded=True),
        }

    def _unauthorized(self, environ: Environ) -> Response | None:
        """Why this is not for everybody; None for whoever has the token."""
        if self.token_file is None:
            return _refusal("403 Forbidden", "this is off: no token is configured (--token-file)")
        try:
            token = read_token(self.token_file)
        except UsageError as error:
            _log.warning("%s", error, extra={"action": "no_token"})
            return _refusal("403 Forbidden", "this is off: the token that is configured cannot be read, see the log")
        scheme, _, given = str(environ.get("HTTP_AUTHORIZATION", "")).partition(" ")
        # WSGI has headers as Latin-1; compared in constant time, so that no answer tells how much of a guess was right.
        if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode("latin-1"), token.encode()):
            return None
        wanted = "this is not the token" if given else "a bearer token is wanted"
        return _refusal("401 Unauthorized", wanted, ("WWW-Authenticate", "Bearer"))

    def _metrics(self, _environ: Environ) -> Response:
        return Response(status="200 OK", body=self.metrics(), content_type=CONTENT_TYPE)

    def _well_known(self, _environ: Environ) -> Response:
        return _json(
            "200 OK",
            {
                "Servicename": "cni-cleanup",
                "Servicedescription": "CNI files that dead pods left behind: counted, and removed when it is proven",
                "Version": self.version,
                "Healthzurl": "/healthz",
                "Metricurl": "/metrics",
                "Endpoints": list(self._routes),
            },
        )

    def _report(self, _environ: Environ) -> Response:
        """The last report, seen to be whole before the first byte of it is sent."""
        try:
            # The one that is read is the one that is sent, also when a pass replaces it meanwhile.
            file = open_regular(self.report_path)
        except FileNotFoundError:
            return _refusal("404 Not Found", "no pass has been made on this node yet")
        try:
            with open(os.dup(file.fileno()), encoding="utf-8", errors="replace") as text:
                reports.read(text)
        except CleanupError as error:
            file.close()
            return _refusal("500 Internal Server Error", f"{error}: the next pass writes it anew")
        file.seek(0)
        return Response(status="200 OK", body=file)

    def _clean(self, environ: Environ) -> Response:
        # Silence would look like consent to `?dry_run=true`, which is a wish for less.
        if environ.get("QUERY_STRING") or environ["wsgi.input"].read(_BODY_LIMIT).strip() not in (b"", b"{}"):
            return _refusal("400 Bad Request", "a pass can be asked for and nothing else: a dry run is the node's own --dry-run")
        if not self._one_cleanup.acquire(blocking=False):
            return _refusal("409 Conflict", "busy: another request waits for a pass of this node")
        try:
            _log.info("%s asks for a pass", environ.get("REMOTE_ADDR"), extra={"action": "cleanup_asked"})
            answer = self.cleanup()
        finally:
            self._one_cleanup.release()
        _log.info("the pass that was asked for: %s", answer.reason, extra={"action": "cleanup_answered"})
        told = {"status": "Done" if answer.done else "Error", "reason": answer.reason}
        return _json(_STATUSES[answer.status], told)


@dataclass(frozen=True)
class _Route:
    methods: tuple[str, ...]
    answer: Callable[[Environ], Response]
    guarded: bool = False


def listening(address: str) -> socket.socket:
    """A socket that listens at `HOST:PORT`, of every address where the host is left out.

    Raises:
        UsageError: there is no such address here.
        CleanupError: it is taken, or not allowed.
    """
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        if not host and socket.has_dualstack_ipv6():
            return socket.create_server(("", int(port)), family=socket.AF_INET6, dualstack_ipv6=True, backlog=_CLIENTS)
        family = socket.getaddrinfo(host or None, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        return socket.create_server((host, int(port)), family=family, backlog=_CLIENTS)
    except socket.gaierror as error:
        raise UsageError(f"--listen {address}: there is no such address ({error.strerror})") from error
    except OSError as error:
        raise CleanupError(f"--listen {address}: {error.strerror}: name another address or port") from error


class _Channel(HTTPChannel):
    """One connection, for one request: what clients can have in flight is bounded by how many of them there are."""

    def handle_read(self) -> None:
        """Read on. To send drop by drop is no sign of life: hundreds who do it would keep all others out."""
        before = self.last_activity
        super().handle_read()
        self.last_activity = before

    def service(self) -> None:
        """Answer, and close: what was sent behind the first request is not even looked at."""
        request = self.requests[0]
        request.headers = {**request.headers, "CONNECTION": "close"}
        super().service()


def server_of(application: Sidecar, listener: socket.socket) -> BaseWSGIServer:
    """What answers requests while it runs."""
    # A warning for each request that waits for a thread is a log for whoever asks to fill; and to write it is waited for.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    made = create_server(
        application,
        sockets=[listener],
        threads=_THREADS,
        connection_limit=_CLIENTS,
        channel_timeout=_WHOLE_WITHIN,
        cleanup_interval=10,
        # Seconds that it sleeps where nothing happens; a signal wakes it.
        asyncore_loop_timeout=10,
        max_request_body_size=_BODY_LIMIT,
        max_request_header_size=_HEADER_LIMIT,
        # With more than 1,024 descriptors select would fail.
        asyncore_use_poll=True,
        ident=None,
    )
    # Of one socket: of several it would be another class.
    server = cast("BaseWSGIServer", made)
    server.channel_class = _Channel
    return server


def serve(application: Sidecar, listener: socket.socket, *, end: Callable[[], None]) -> None:
    """Answer requests until SIGTERM or SIGINT; what still waits for a pass is then ended by `end`, and answered."""
    server = server_of(application, listener)
    # A scrape while files are counted waits for the interpreter several times, each time for so long: 5 ms is Python's own.
    sys.setswitchinterval(_SWITCHES_AFTER)
    # What is there now stays: to look through all of it for garbage now and then would be ten milliseconds of some scrape.
    gc.collect()
    gc.freeze()
    with _ending_at_signals(end), contextlib.suppress(SystemExit):
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        more = "" if application.token_file is None else "; with the token /report and POST /cleanup too"
        _log.info("serving http://%s:%d/metrics%s", shown, port, more, extra={"action": "serving", "port": port})
        server.run()


@contextlib.contextmanager
def _ending_at_signals(end: Callable[[], None]) -> Iterator[None]:
    def leave(_number: int, _frame: FrameType | None) -> None:
        end()
        raise SystemExit

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
