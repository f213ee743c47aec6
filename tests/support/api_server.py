"""
A small Kubernetes API server over real HTTP: `GET` of `/api/v1/pods` and `/api/v1/nodes` as documented, with settable faults.

It keeps every version of its objects. Where the documentation lets a server choose, it chooses what hurts a careless client most:
`resourceVersion=0` gets the oldest version there is, `NotOlderThan` the oldest that satisfies it.
"""

import base64
import contextlib
import copy
import json
import os
import re
import socket as sockets
import ssl
import subprocess
import threading
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

Object = Mapping[str, Any]
Pod = Object
Node = Object

FIRST_REVISION = 1000

_STEP = 10
"""Revisions count all objects of a cluster, so those of one kind have gaps."""


@dataclass(frozen=True)
class _Kind:
    """What differs between pods and nodes: both the name in a list's `kind` and the fields that a field selector may name."""

    plural: str
    list_kind: str
    selectable: frozenset[str]


_PODS = _Kind(
    "pods",
    "PodList",
    frozenset(
        {
            "metadata.name",
            "metadata.namespace",
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        }
    ),
)
_NODES = _Kind("nodes", "NodeList", frozenset({"metadata.name", "spec.unschedulable"}))

_TOO_OLD = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new "
    "list without the continue parameter, or use the continue token in this response to retrieve the "
    "remainder of the results. Continuing with the provided token results in an inconsistent list - objects "
    "that were created, modified, or deleted between the time the first chunk was returned and now may show "
    "up in the list."
)

USER = "system:serviceaccount:kube-system:cni-cleanup"


@dataclass(frozen=True)
class Request:
    """A request as it came; header names are in lower case, a parameter that came twice counts once."""

    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]


class Failure(Exception):
    """An answer that is no list: an HTTP status, a Status body, and headers."""

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        *,
        details: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.headers = dict(headers or {})
        self.body: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": dict(metadata or {}),
            "status": "Failure",
            "message": message,
            "reason": reason,
            "code": code,
        }
        if details:
            self.body["details"] = dict(details)


def unauthorized() -> Failure:
    """No token, or a wrong one."""
    return Failure(401, "Unauthorized", "Unauthorized")


def forbidden(plural: str = "pods") -> Failure:
    """The token may not list these."""
    message = f'{plural} is forbidden: User "{USER}" cannot list resource "{plural}" in API group "" at the cluster scope'
    return Failure(403, "Forbidden", message, details={"kind": plural})


def gone(token: str = "") -> Failure:
    """The continue token is too old; `token` is the one that the answer offers for an inconsistent rest."""
    return Failure(410, "Expired", _TOO_OLD, metadata={"continue": token} if token else None)


def too_many_requests(retry_after: int = 1) -> Failure:
    """Priority and fairness sent the client away, for so many seconds."""
    message = "Too many requests, please try again later."
    return Failure(
        429,
        "TooManyRequests",
        message,
        details={"retryAfterSeconds": retry_after},
        headers={"Retry-After": str(retry_after)},
    )


def server_error(code: int = 500) -> Failure:
    """A failure inside the server, or with 502, 503, 504 in front of it."""
    return Failure(code, HTTPStatus(code).phrase.replace(" ", ""), f"{HTTPStatus(code).phrase}, as the test wants")


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What is wrong with an answer, in this order: late, never sent, a failure, in pages, edited, cut short."""

    #: Seconds.
    delay: float = 0.0
    #: It never answers.
    hang: bool = False
    #: Sent instead of the list.
    failure: Failure | None = None
    #: The most objects of an answer, asked for or not; 0 is no limit.
    page: int = 0
    #: Gets the list and returns what is sent instead of it.
    edit: Callable[[dict[str, Any]], Any] | None = None
    #: Only the first half of the body is sent: "json" says so in Content-Length, "connection" promises the whole and hangs up.
    cut: str = ""


def without_items(document: dict[str, Any]) -> dict[str, Any]:
    """Edit a list into one that lacks `items`."""
    return {key: value for key, value in document.items() if key != "items"}


def every(_request: Request) -> bool:
    """A fault of every request."""
    return True


def later_page(request: Request) -> bool:
    """A fault of every page but the first."""
    return bool(request.query.get("continue"))


@dataclass
class _Rule:
    fault: Fault
    when: Callable[[Request], bool]
    times: int | None


@dataclass(frozen=True)
class _Version:
    """The objects of a kind from `revision` on, in the order of their keys in etcd."""

    revision: int
    objects: tuple[Object, ...]


@dataclass(frozen=True, kw_only=True)
class _Options:
    """The parameters of a list request, checked as kube-apiserver checks them."""

    fields: str
    labels: str
    limit: int
    token: str
    revision: str
    match: str

    @classmethod
    def parse(cls, query: Mapping[str, str]) -> Self:
        options = cls(
            fields=query.get("fieldSelector", ""),
            labels=query.get("labelSelector", ""),
            limit=_number(query.get("limit", "") or "0", "limit"),
            token=query.get("continue", ""),
            revision=query.get("resourceVersion", ""),
            match=query.get("resourceVersionMatch", ""),
        )
        options._check()
        return options

    def _check(self) -> None:
        errors = []
        if self.match and not self.revision:
            errors.append("Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided")
        if self.match and self.token:
            errors.append("Forbidden: resourceVersionMatch is forbidden when continue is provided")
        if self.match not in ("", "Exact", "NotOlderThan"):
            supported = 'supported values: "Exact", "NotOlderThan", ""'
            errors.append(f'Unsupported value: "{self.match}": {supported}')
        if self.match == "Exact" and self.revision == "0":
            forbidden_for = 'resourceVersionMatch "exact" is forbidden for resourceVersion "0"'
            errors.append(f"Forbidden: {forbidden_for}")
        if errors:
            details = {"group": "meta.k8s.io", "kind": "ListOptions"}
            joined = ", ".join(f"resourceVersionMatch: {error}" for error in errors)
            # A real server answers 422 here, although much that is written about it says 400.
            raise Failure(422, "Invalid", f'ListOptions.meta.k8s.io "" is invalid: {joined}', details=details)
        if self.token and self.revision not in ("", "0"):
            raise _bad_request("specifying resource version is not allowed when using continue")


def _bad_request(message: str) -> Failure:
    return Failure(400, "BadRequest", message)


def _number(text: str, name: str) -> int:
    if not text.isdecimal():
        raise _bad_request(f"invalid value for {name}: {text!r}")
    return int(text)


def _key(one: Object) -> str:
    return f"{one['metadata'].get('namespace', 'default')}/{one['metadata']['name']}"


def _field(one: Object, path: str) -> str:
    value: Any = one
    for part in path.split("."):
        value = value.get(part, "") if isinstance(value, Mapping) else ""
    return str(value)


def _by_fields(selector: str, kind: _Kind) -> Callable[[Object], bool]:
    """What a field selector takes.

    Raises:
        Failure: it names a field that selects no objects of the kind.
    """
    wanted = []
    for term in filter(None, selector.split(",")):
        path, operator, value = term.partition("=")
        unequal = path.endswith("!")
        path = path.removesuffix("!")
        if not operator or path not in kind.selectable:
            raise _bad_request(f"field label not supported: {path or term}")
        wanted.append((path, value.removeprefix("="), unequal))
    return lambda one: all((_field(one, path) == value) is not unequal for path, value, unequal in wanted)


_WORD = "[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?"
_REQUIREMENT = re.compile(
    rf"\s*(?:(?P<without>!)\s*)?(?P<key>(?:[a-z0-9](?:[-a-z0-9.]*[a-z0-9])?/)?{_WORD})\s*"
    rf"(?:(?P<equality>==?|!=)\s*(?P<value>(?:{_WORD})?)|(?<=\s)(?P<set>in|notin)\s*\((?P<values>[^()]*)\))?\s*"
)
"""One term of a label selector, as the documentation of labels and selectors has them."""


def _by_labels(selector: str) -> Callable[[Object], bool]:
    """What a label selector takes; `!=` and `notin` take what lacks the label too.

    Raises:
        Failure: it is none.
    """
    terms = re.split(r",(?![^(]*\))", selector) if selector.strip() else []
    wanted = [_requirement(term) for term in terms]
    return lambda one: all(fits((one["metadata"].get("labels") or {}).get(key)) for key, fits in wanted)


def _requirement(term: str) -> tuple[str, Callable[[str | None], bool]]:
    found = _REQUIREMENT.fullmatch(term)
    values = [value.strip() for value in ((found and found["values"]) or "").split(",")]
    operator = found and (found["equality"] or found["set"])
    if not found or (found["without"] and operator) or not all(re.fullmatch(f"(?:{_WORD})?", value) for value in values):
        raise _bad_request(f"unable to parse requirement: found '{term.strip()}', expected: a term of a label selector")
    if operator is None:
        return found["key"], lambda value: (value is None) is bool(found["without"])
    among = [found["value"]] if found["equality"] else values
    return found["key"], lambda value: (value in among) is not operator.startswith(("!", "not"))


def _encode_token(revision: int, start: str) -> str:
    document = {"v": "meta.k8s.io/v1", "rv": revision, "start": start}
    return base64.urlsafe_b64encode(json.dumps(document).encode()).decode()


def _decode_token(token: str) -> tuple[int, str]:
    try:
        document = json.loads(base64.urlsafe_b64decode(token))
        return int(document["rv"]), str(document["start"])
    except (ValueError, KeyError, TypeError) as error:
        raise _bad_request(f"continue key is not valid: {error}") from error


class _Store:
    """Every version of the objects of one kind, and the reading of them."""

    def __init__(self, kind: _Kind, objects: Iterable[Object]) -> None:
        self._kind = kind
        self._versions = [_version(FIRST_REVISION, objects)]
        self._expired_below = 0

    @property
    def revision(self) -> int:
        return self._versions[-1].revision

    def put(self, objects: Iterable[Object]) -> int:
        self._versions.append(_version(self.revision + _STEP, objects))
        return self.revision

    def expire(self) -> None:
        """Let every continue token and exact revision of until now be too old."""
        self._expired_below = self.revision + 1
        self._versions.append(_Version(self.revision + _STEP, self._versions[-1].objects))

    def list(self, options: _Options, *, metadata_only: bool) -> dict[str, Any]:
        selected = (_by_fields(options.fields, self._kind), _by_labels(options.labels))
        version, start = self._choose(options)
        found = [one for one in version.objects if _key(one) > start and all(takes(one) for takes in selected)]
        # Served from the watch cache, where a limit is ignored.
        limit = 0 if options.revision == "0" else options.limit
        page = found[:limit] if limit else found
        metadata: dict[str, Any] = {"resourceVersion": str(version.revision)}
        if len(page) < len(found):
            metadata["continue"] = _encode_token(version.revision, _key(page[-1]))
            if not options.fields and not options.labels:
                metadata["remainingItemCount"] = len(found) - len(page)
        if metadata_only:
            partial = _document("PartialObjectMetadataList", "meta.k8s.io/v1", metadata, map(_only_metadata, page))
            # As kube-apiserver has it: Go's empty slice, which it makes an empty list of for whole objects only.
            return partial | {"items": partial["items"] or None}
        return _document(self._kind.list_kind, "v1", metadata, map(_as_listed, page))

    def _choose(self, options: _Options) -> tuple[_Version, str]:
        """Return the version to answer from, and the key after which its answer starts."""
        if options.token:
            return self._continue(*_decode_token(options.token))
        if not options.revision:
            return self._versions[-1], ""
        revision = _number(options.revision, "resourceVersion")
        if revision > self.revision:
            raise _too_large(revision, self.revision)
        if options.match == "Exact" or (not options.match and options.limit and revision):
            return self._exact(revision), ""
        return self._not_older_than(revision), ""

    def _continue(self, revision: int, start: str) -> tuple[_Version, str]:
        if revision < 0:
            # The token of a 410: the rest of whatever there is now.
            return self._versions[-1], start
        if revision < self._expired_below:
            raise gone(_encode_token(-1, start))
        return self._exact(revision), start

    def _exact(self, revision: int) -> _Version:
        if revision < max(self._expired_below, FIRST_REVISION):
            raise Failure(410, "Expired", "The resourceVersion for the provided list is too old.")
        return self._not_older_than(revision)

    def _not_older_than(self, revision: int) -> _Version:
        """Return the oldest version that holds at `revision` or later."""
        held = [version for version in self._versions if version.revision <= revision]
        return _Version(revision, held[-1].objects) if held else self._versions[0]


def _version(revision: int, objects: Iterable[Object]) -> _Version:
    return _Version(revision, tuple(sorted(copy.deepcopy(list(objects)), key=_key)))


def _too_large(revision: int, current: int) -> Failure:
    message = f"Timeout: Too large resource version: {revision}, current: {current}"
    cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
    details = {"causes": [cause], "retryAfterSeconds": 1}
    return Failure(504, "Timeout", message, details=details, headers={"Retry-After": "1"})


def _as_listed(one: Object) -> dict[str, Any]:
    """Return an object as it stands in a list of the API: unlike kubectl's output, without its type."""
    return {key: value for key, value in one.items() if key not in ("kind", "apiVersion")}


def _only_metadata(one: Object) -> dict[str, Any]:
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": one["metadata"]}


def _wants_metadata_only(accept: str) -> bool:
    """Tell whether who accepts this is sent metadata alone: the first of its media types that can be served counts.

    Raises:
        Failure: none can.
    """
    for each in (accept or "*/*").split(","):
        media, *parameters = (part.strip() for part in each.split(";"))
        given = dict(parameter.partition("=")[::2] for parameter in parameters)
        if media not in ("application/json", "application/*", "*/*"):
            continue
        if "as" not in given:
            return False
        if (given["as"], given.get("g"), given.get("v")) == ("PartialObjectMetadataList", "meta.k8s.io", "v1"):
            return True
    raise Failure(406, "NotAcceptable", "only the following media types are accepted: application/json")


def _document(kind: str, version: str, metadata: dict[str, Any], items: Iterable[Any]) -> dict[str, Any]:
    return {"kind": kind, "apiVersion": version, "metadata": metadata, "items": list(items)}


@dataclass(frozen=True)
class Certificate:
    """A self-signed certificate for 127.0.0.1 and localhost: PEM files, itself its authority, and its key."""

    certificate: Path
    key: Path


def self_signed(directory: Path) -> Certificate:
    """Make a certificate with the `openssl` command.

    Raises:
        FileNotFoundError: there is no such command.
    """
    made = Certificate(directory / "ca.crt", directory / "tls.key")
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ]
    command += ["-days", "2", "-subj", "/CN=kubernetes", "-keyout", os.fspath(made.key)]
    command += ["-out", os.fspath(made.certificate)]
    for extension in (
        "subjectAltName=IP:127.0.0.1,DNS:localhost",
        "keyUsage=critical,digitalSignature,keyCertSign",
        "extendedKeyUsage=serverAuth",
    ):
        command += ["-addext", extension]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return made


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up or refuses the certificate is what tests do, and no error of the server."""


class ApiServer:
    """The server, on a free port of the loopback; a context manager whose methods any thread may call."""

    def __init__(
        self,
        pods: Iterable[Pod] = (),
        *,
        nodes: Iterable[Node] = (),
        token: str | None = None,
        certificate: Certificate | None = None,
    ) -> None:
        """Serve `pods` and `nodes`; with a `token` refuse requests without it, with a `certificate` speak TLS."""
        self.token = token
        self.certificate = certificate
        self._lock = threading.Lock()
        self._pods, self._nodes = _Store(_PODS, pods), _Store(_NODES, nodes)
        self._stores = {"/api/v1/pods": self._pods, "/api/v1/nodes": self._nodes}
        self._rules: list[_Rule] = []
        self._requests: list[Request] = []
        self._stopping = threading.Event()
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self.port = int(self._server.server_address[1])
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate.certificate, certificate.key)
            # The handshake belongs to the connection's own thread, not to the one that accepts.
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        """The server's address, with its scheme."""
        return f"{'https' if self.certificate else 'http'}://127.0.0.1:{self.port}"

    @property
    def requests(self) -> list[Request]:
        """The requests so far, in their order."""
        with self._lock:
            return list(self._requests)

    @property
    def revision(self) -> int:
        """The newest resourceVersion of the pods."""
        with self._lock:
            return self._pods.revision

    def set_pods(self, pods: Iterable[Pod]) -> int:
        """Replace all pods; return the new resourceVersion. Older versions stay readable."""
        with self._lock:
            return self._pods.put(pods)

    def set_nodes(self, nodes: Iterable[Node]) -> int:
        """Replace all nodes likewise."""
        with self._lock:
            return self._nodes.put(nodes)

    def expire_tokens(self) -> None:
        """Let every continue token that was given out be answered with 410 Gone."""
        with self._lock:
            for store in self._stores.values():
                store.expire()

    def fail(self, fault: Fault | Failure, *, when: Callable[[Request], bool] = every, times: int | None = None) -> None:
        """Add a fault for the requests that `when` takes, at most `times`; the first that fits counts."""
        rule = _Rule(Fault(failure=fault) if isinstance(fault, Failure) else fault, when, times)
        with self._lock:
            self._rules.append(rule)

    def recover(self) -> None:
        """Drop all faults."""
        with self._lock:
            self._rules.clear()

    def _fault(self, request: Request) -> Fault:
        """Log the request and return its fault."""
        with self._lock:
            self._requests.append(request)
            for rule in self._rules:
                if rule.times != 0 and rule.when(request):
                    if rule.times is not None:
                        rule.times -= 1
                    return rule.fault
        return Fault()

    def _answer(self, request: Request, fault: Fault) -> Any:
        """Return the document that answers a request.

        Raises:
            Failure: it is refused.
        """
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if self.token is not None and (scheme.lower() != "bearer" or token.strip() != self.token):
            raise unauthorized()
        if request.path not in self._stores:
            raise Failure(404, "NotFound", "the server could not find the requested resource", details={})
        options = _Options.parse(request.query)
        if fault.page:
            options = replace(options, limit=fault.page)
        metadata_only = _wants_metadata_only(request.headers.get("accept", ""))
        with self._lock:
            document = self._stores[request.path].list(options, metadata_only=metadata_only)
        return fault.edit(document) if fault.edit else document

    def _respond(self, request: Request, fault: Fault) -> tuple[int, Mapping[str, str], bytes]:
        """Return status, headers and body."""
        failure = fault.failure
        if failure is None:
            try:
                return 200, {}, json.dumps(self._answer(request, fault)).encode()
            except Failure as refusal:
                failure = refusal
        return failure.code, failure.headers, json.dumps(failure.body).encode()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                parts = urllib.parse.urlsplit(self.path)
                query = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True))
                headers = {name.lower(): value for name, value in self.headers.items()}
                request = Request(parts.path, query, headers)
                fault = server._fault(request)
                if server._stopping.wait(None if fault.hang else fault.delay):
                    self.close_connection = True
                    return
                status, extra, body = server._respond(request, fault)
                self._send(status, extra, body, fault.cut)

            def _send(self, status: int, extra: Mapping[str, str], body: bytes, cut: str) -> None:
                sent = body[: len(body) // 2] if cut else body
                self.send_response(status)
                for name, value in extra.items():
                    self.send_header(name, value)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body if cut == "connection" else sent)))
                self.end_headers()
                self.wfile.write(sent)
                self.close_connection = self.close_connection or cut == "connection"

            def log_message(self, *_arguments: Any) -> None:
                """Say nothing: `requests` is the log."""

        return Handler


@contextlib.contextmanager
def refusing_port() -> Iterator[int]:
    """A port of the loopback that refuses connections, and that nobody else can take meanwhile."""
    with sockets.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def write_kubeconfig(path: Path, url: str, *, token: str | None = None, authority: Path | None = None) -> Path:
    """Write a kubeconfig (JSON, which is YAML) for a server, `authority` is its CA file; return `path`."""
    cluster = {"server": url} | ({"certificate-authority": os.fspath(authority)} if authority else {})
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "test", "user": {"token": token} if token else {}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    }
    path.write_text(json.dumps(document, indent=1))
    return path


@dataclass(frozen=True)
class InCluster:
    """What a pod finds of its cluster: two variables, and the files of its service account."""

    token: Path
    authority: Path
    environment: Mapping[str, str]


def write_in_cluster(directory: Path, server: ApiServer) -> InCluster:
    """Write a service account's files for `server`, which must speak TLS and want a token.

    The kubernetes package reads them from fixed paths: a test sets `SERVICE_TOKEN_FILENAME` and `SERVICE_CERT_FILENAME` in
    `kubernetes.config.incluster_config` to `token` and `authority`.

    Raises:
        ValueError: the server does not speak TLS, or wants no token.
    """
    if server.certificate is None or server.token is None:
        raise ValueError("in a cluster the API speaks TLS and wants a token")
    token = directory / "token"
    token.write_text(server.token)
    environment = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(server.port)}
    return InCluster(token, server.certificate.certificate, environment)


def pods_from_file(path: Path) -> list[Pod]:
    """Return the pods of a file that `kubectl get pods -A -o json` wrote."""
    items: list[Pod] = json.loads(path.read_bytes())["items"]
    return items
