"""The api witness: the pods of this node that the Kubernetes API shows, never older than the listing of the files."""

import json
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Literal

from cni.evidence import ApiEvidence
from cni.pods import MalformedList, Pod, parse_pods

TIMEOUT = 30.0
"""Seconds for all requests of one list, their bodies included."""

_CONNECT_TIMEOUT = 5.0
_BODY_LIMIT = 256 << 20
_PODS = "/api/v1/pods"

Fetch = Callable[[dict[str, str]], Any]
"""Gets `/api/v1/pods` with a query and returns the JSON; raises _Failed."""


class _Failed(Exception):
    """The API did not answer as it should; the message is a sentence."""


class ApiWitness:
    """Asks the Kubernetes API for the pods of one node."""

    def __init__(self, api: Literal["internal", "external", "none"], node: str | None, *, timeout: float = TIMEOUT) -> None:
        """`internal` uses the service account of this pod, `external` a kubeconfig (KUBECONFIG is honoured)."""
        self.api = api
        self.node = node
        self.timeout = timeout

    def ask(self) -> ApiEvidence:
        """The pods; Unknown where the list is late, partial, refused or empty."""
        if self.api == "none":
            return ApiEvidence(off=True)
        if not self.node:
            return ApiEvidence(unknown="the node's name is not known: give it with --node, or do without the API by --api none")
        try:
            return ApiEvidence(pods=_within(self.timeout, self._list, self.node))
        except _Failed as failed:
            return ApiEvidence(unknown=str(failed))

    def _list(self, node: str) -> list[Pod]:
        return list_pods(self._fetch(), node)

    def _fetch(self) -> Fetch:
        # Imported here: 35 MiB and a third of a second that a pass without the API, and an idle worker, need not pay.
        import urllib3
        from kubernetes import client, config

        configuration = client.Configuration()
        # Its own retries would multiply our timeout, wait for as long as a Retry-After says, and write to the log.
        configuration.retries = urllib3.Retry(0)
        try:
            if self.api == "internal":
                config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]  # the package is untyped
            else:
                config.load_kube_config(client_configuration=configuration)  # type: ignore[no-untyped-call]  # the package is untyped
        # The package lets through whatever a bad kubeconfig makes of it.
        except Exception as error:
            hint = "--api external uses a kubeconfig, --api none does without" if self.api == "internal" else "see KUBECONFIG"
            raise _Failed(f"no access to the Kubernetes API is configured ({_line(error)}): {hint}") from error
        api = client.ApiClient(configuration)
        deadline = time.monotonic() + self.timeout
        return lambda query: _get(api, query, deadline)


def _within(seconds: float, ask: Callable[[str], list[Pod]], node: str) -> list[Pod]:
    """Have the answer in time or none: a server that drips its headers, and a kubeconfig's own command, know no other limit.

    Raises:
        _Failed: there is no answer in time, or what `ask` raised.
    """
    answers: queue.SimpleQueue[list[Pod] | Exception] = queue.SimpleQueue()

    def run() -> None:
        try:
            answers.put(ask(node))
        except Exception as error:  # noqa: BLE001  # it is raised where the answer is waited for
            answers.put(error)

    threading.Thread(target=run, name="api-witness", daemon=True).start()
    try:
        answer = answers.get(timeout=seconds)
    except queue.Empty:
        raise _Failed("its answer takes too long") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def list_pods(fetch: Fetch, node: str) -> list[Pod]:
    """All pods of the node, as of now or later.

    The revision of a `limit=1` list is read first, then one list without `limit` that is not older: the API server answers it
    from its cache, where the ordinary lists of 5,000 nodes would each be read from etcd.

    Raises:
        _Failed: a page is missing, late, refused, or of another node; or there is none at all.
    """
    selector = {"fieldSelector": f"spec.nodeName={node}"}
    revision = _revision(fetch({**selector, "limit": "1"}))
    page = fetch({**selector, "resourceVersion": revision, "resourceVersionMatch": "NotOlderThan"})
    if revision.isdecimal() and _revision(page).isdecimal() and int(_revision(page)) < int(revision):
        raise _Failed(f"the list is older than asked for (revision {_revision(page)}, not {revision})")
    pods = _pods(page, node)
    tokens: set[str] = set()
    while token := _metadata(page).get("continue"):
        if token in tokens:
            raise _Failed("its list never ends: a page leads back to itself")
        tokens.add(str(token))
        page = fetch({**selector, "continue": str(token)})
        pods += _pods(page, node)
    if _metadata(page).get("remainingItemCount"):
        raise _Failed("the list is partial: items remain, and no way to go on is given")
    if not pods:
        raise _Failed(f"it shows no pod at all on node {node}: is that the node's name?")
    return pods


def _pods(page: Any, node: str) -> list[Pod]:
    try:
        listed = parse_pods(page)
    except MalformedList as error:
        raise _Failed(f"its answer is no list of pods: {error}") from error
    if any(where != node for where, _ in listed):
        raise _Failed(f"it shows pods of other nodes than {node}, which was asked for")
    return [pod for _, pod in listed]


def _revision(page: Any) -> str:
    revision = _metadata(page).get("resourceVersion")
    if not isinstance(revision, str) or revision in ("", "0"):
        raise _Failed("its list carries no resourceVersion")
    return revision


def _metadata(page: Any) -> dict[str, Any]:
    metadata = page.get("metadata") if isinstance(page, dict) else None
    if not isinstance(metadata, dict) or page.get("kind") != "PodList":
        raise _Failed("its answer is no list of pods")
    return metadata


def _get(api: Any, query: dict[str, str], deadline: float) -> Any:
    """One request by the kubernetes package, without its models: they cost 56 MiB and seconds, and drop unknown fields."""
    import urllib3
    from kubernetes.client.exceptions import OpenApiException

    left = deadline - time.monotonic()
    if left <= 0:
        raise _Failed("its answer takes too long")
    try:
        request = api.param_serialize(
            "GET",
            _PODS,
            query_params=list(query.items()),
            header_params={"Accept": "application/json"},
            auth_settings=["BearerToken"],
        )
        answer = api.call_api(*request, _request_timeout=(min(_CONNECT_TIMEOUT, left), left))
        body = _body(answer.response, deadline)
    except (OpenApiException, urllib3.exceptions.HTTPError, OSError) as error:
        # urllib3 tells of retries first, and of the cause at the end of a long line.
        raise _Failed(f"it cannot be asked: {_line(getattr(error, 'reason', None) or error)}") from error
    value = _json(body)
    if answer.status != 200:
        raise _Failed(_refusal(answer.status, value))
    if value is None:
        raise _Failed("its answer is not JSON: it was cut short, or this is no Kubernetes API")
    return value


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _body(response: Any, deadline: float) -> bytes:
    """Read the body piece by piece: a server that drips must not hold the pass for longer than the deadline."""
    pieces: list[bytes] = []
    size = 0
    while piece := response.read1():
        pieces.append(piece)
        size += len(piece)
        if time.monotonic() > deadline or size > _BODY_LIMIT:
            raise _Failed("its answer takes too long or is too large")
    return b"".join(pieces)


def _refusal(status: int, value: Any) -> str:
    message = value.get("message") if isinstance(value, dict) else None
    hint = {
        401: ": the token is not accepted",
        403: ": the service account needs `list` on pods of all namespaces",
        410: ": the list expired while it was read",
    }.get(status, "")
    return f"it answered {status}{hint} ({_line(message)})" if message else f"it answered {status}{hint}"


def _line(text: object) -> str:
    return " ".join(str(text).split())[:200]
