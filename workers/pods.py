"""The api witness: the pods of this node that the Kubernetes API shows, never older than the listing of the files."""

from collections.abc import Callable
from typing import Any, Literal

from cni.evidence import ApiEvidence
from cni.pods import MalformedList, Pod, parse_pods
from workers.kube import ApiFailed, KubernetesApi, within

TIMEOUT = 30.0
"""Seconds for all requests of one list, their bodies included."""

_PODS = "/api/v1/pods"

Fetch = Callable[[dict[str, str]], Any]
"""Gets `/api/v1/pods` with a query and returns the JSON; raises ApiFailed."""


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
        api, node = self.api, self.node
        try:
            return ApiEvidence(pods=within(self.timeout, lambda: self._list(api, node)))
        except ApiFailed as failed:
            return ApiEvidence(unknown=str(failed))

    def _list(self, api: Literal["internal", "external"], node: str) -> list[Pod]:
        kube = KubernetesApi(api, timeout=self.timeout)
        return list_pods(lambda query: kube.get(_PODS, query, needs="`list` on pods of all namespaces"), node)


def list_pods(fetch: Fetch, node: str) -> list[Pod]:
    """All pods of the node, as of now or later.

    The revision of a `limit=1` list is read first, then one list without `limit` that is not older: the API server answers it
    from its cache, where the ordinary lists of 5,000 nodes would each be read from etcd.

    Raises:
        ApiFailed: a page is missing, late, refused, or of another node; or there is none at all.
    """
    selector = {"fieldSelector": f"spec.nodeName={node}"}
    revision = _revision(fetch({**selector, "limit": "1"}))
    page = fetch({**selector, "resourceVersion": revision, "resourceVersionMatch": "NotOlderThan"})
    if revision.isdecimal() and _revision(page).isdecimal() and int(_revision(page)) < int(revision):
        raise ApiFailed(f"the list is older than asked for (revision {_revision(page)}, not {revision})")
    pods = _pods(page, node)
    tokens: set[str] = set()
    while token := _metadata(page).get("continue"):
        if token in tokens:
            raise ApiFailed("its list never ends: a page leads back to itself")
        tokens.add(str(token))
        page = fetch({**selector, "continue": str(token)})
        pods += _pods(page, node)
    if _metadata(page).get("remainingItemCount"):
        raise ApiFailed("the list is partial: items remain, and no way to go on is given")
    if not pods:
        raise ApiFailed(f"it shows no pod at all on node {node}: is that the node's name?")
    return pods


def _pods(page: Any, node: str) -> list[Pod]:
    try:
        listed = parse_pods(page)
    except MalformedList as error:
        raise ApiFailed(f"its answer is no list of pods: {error}") from error
    if any(where != node for where, _ in listed):
        raise ApiFailed(f"it shows pods of other nodes than {node}, which was asked for")
    return [pod for _, pod in listed]


def _revision(page: Any) -> str:
    revision = _metadata(page).get("resourceVersion")
    if not isinstance(revision, str) or revision in ("", "0"):
        raise ApiFailed("its list carries no resourceVersion")
    return revision


def _metadata(page: Any) -> dict[str, Any]:
    metadata = page.get("metadata") if isinstance(page, dict) else None
    if not isinstance(metadata, dict) or page.get("kind") != "PodList":
        raise ApiFailed("its answer is no list of pods")
    return metadata
