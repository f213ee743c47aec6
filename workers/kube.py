"""The Kubernetes API as this program asks it: bare JSON, bounded in time and size; what goes wrong is a sentence."""

import json
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Literal, TypeVar

CONNECT_TIMEOUT = 5.0
"""Seconds for a connection."""

_BODY_LIMIT = 256 << 20

Answer = TypeVar("Answer")


class ApiFailed(Exception):
    """The API did not answer as it should; the message is a sentence."""

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        #: Of the HTTP answer, where there was one.
        self.status = status


class KubernetesApi:
    """The API server of a pod's own cluster (`internal`), or of a kubeconfig (`external`; KUBECONFIG is honoured)."""

    def __init__(self, api: Literal["internal", "external"], *, timeout: float) -> None:
        """Read how the API is reached; `timeout` is for all requests together, their bodies included, in seconds.

        Raises:
            ApiFailed: no access is configured.
        """
        # Imported here: 35 MiB and a third of a second that a pass without the API, and an idle worker, need not pay.
        import urllib3
        from kubernetes import client, config

        configuration = client.Configuration()
        # Its own retries would multiply our timeout, wait for as long as a Retry-After says, and write to the log.
        configuration.retries = urllib3.Retry(0)
        try:
            if api == "internal":
                config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]  # the package is untyped
            else:
                config.load_kube_config(client_configuration=configuration)  # type: ignore[no-untyped-call]  # the package is untyped
        # The package lets through whatever a bad kubeconfig makes of it.
        except Exception as error:
            hint = "--api external uses a kubeconfig, --api none does without" if api == "internal" else "see KUBECONFIG"
            raise ApiFailed(f"no access to the Kubernetes API is configured ({_line(error)}): {hint}") from error
        self._client: Any = client.ApiClient(configuration)
        self._deadline = time.monotonic() + timeout

    def get(self, path: str, query: dict[str, str], *, accept: str = "application/json", needs: str = "") -> Any:
        """The JSON at `path`; `needs` is told where it may not be read.

        By the kubernetes package, without its models: they cost 56 MiB and seconds, and drop unknown fields.

        Raises:
            ApiFailed: the answer is late, cut short, refused or not JSON.
        """
        import urllib3
        from kubernetes.client.exceptions import OpenApiException

        left = self._deadline - time.monotonic()
        if left <= 0:
            raise ApiFailed("its answer takes too long")
        try:
            request = self._client.param_serialize(
                "GET", path, query_params=list(query.items()), header_params={"Accept": accept}, auth_settings=["BearerToken"]
            )
            answer = self._client.call_api(*request, _request_timeout=(min(CONNECT_TIMEOUT, left), left))
            body = _body(answer.response, self._deadline)
        except (OpenApiException, urllib3.exceptions.HTTPError, OSError) as error:
            # urllib3 tells of retries first, and of the cause at the end of a long line.
            cause = getattr(error, "reason", None) or error
            if isinstance(cause, urllib3.exceptions.ReadTimeoutError):
                raise ApiFailed("its answer takes too long") from error
            raise ApiFailed(f"it cannot be asked: {_line(cause)}") from error
        value = _json(body)
        if answer.status != 200:
            raise ApiFailed(_refusal(answer.status, value, needs), status=answer.status)
        if value is None:
            raise ApiFailed("its answer is not JSON: it was cut short, or this is no Kubernetes API")
        return value


def within(seconds: float, ask: Callable[[], Answer]) -> Answer:
    """Have the answer in time or none: a server that drips its headers, and a kubeconfig's own command, know no other limit.

    Raises:
        ApiFailed: there is no answer in time, or what `ask` raised.
    """
    answers: queue.SimpleQueue[tuple[Answer] | Exception] = queue.SimpleQueue()

    def run() -> None:
        try:
            answers.put((ask(),))
        except Exception as error:  # noqa: BLE001  # it is raised where the answer is waited for
            answers.put(error)

    threading.Thread(target=run, name="kubernetes-api", daemon=True).start()
    try:
        answer = answers.get(timeout=seconds)
    except queue.Empty:
        raise ApiFailed("its answer takes too long") from None
    if isinstance(answer, Exception):
        raise answer
    return answer[0]


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
            raise ApiFailed("its answer takes too long or is too large")
    return b"".join(pieces)


def _refusal(status: int, value: Any, needs: str) -> str:
    message = value.get("message") if isinstance(value, dict) else None
    hint = {
        401: ": the token is not accepted",
        403: f": the service account needs {needs}" if needs else "",
        410: ": the list expired while it was read",
    }.get(status, "")
    return f"it answered {status}{hint} ({_line(message)})" if message else f"it answered {status}{hint}"


def _line(text: object) -> str:
    return " ".join(str(text).split())[:200]
