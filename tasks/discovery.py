"""Which nodes there are, and which of them never run the worker."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cni.names import is_node_name
from cni.settings import Settings
from tasks import names
from tasks.errors import Refused

if TYPE_CHECKING:
    from workers.kube import KubernetesApi

SKIP = "cni-cleanup/skip"
"""The label, with whatever value, that opts a node out."""

_NODES = "/api/v1/nodes"
_PAGE = 500
"""Nodes in one answer: what kubectl asks for too."""

_METADATA = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
"""Names and labels only: 0.6 s and 47 MiB for 5,000 nodes, instead of 8 s and 323 MiB."""

_TIMEOUT = 60.0
"""Seconds for all pages."""

_OS = ("kubernetes.io/os", "beta.kubernetes.io/os")

_NO_KUBELET: dict[str, frozenset[str]] = {
    "type": frozenset({"virtual-kubelet", "kwok"}),
    "eks.amazonaws.com/compute-type": frozenset({"fargate"}),
    "liqo.io/type": frozenset({"virtual-node"}),
}
"""Labels of nodes that are no machine: virtual kubelets, on which no DaemonSet's pod runs."""


class CannotDiscover(Exception):
    """The nodes could not be listed; the message is a sentence."""


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """The nodes of a cluster."""

    #: Those that run the worker, sorted.
    eligible: tuple[str, ...]
    #: Why each of the others never does.
    skipped: Mapping[str, str] = field(default_factory=dict)
    #: Whether these are all there are, so that any other is gone.
    all_there_are: bool = True


def discover(settings: Settings, *, selector: str | None = None, timeout: float = _TIMEOUT) -> Nodes:
    """The nodes of the operator's list, else of the Kubernetes API within so many seconds.

    Raises:
        Refused: there is no way to know any, a selector and only a list, or one that is none or selects nothing.
        CannotDiscover: the API did not answer as it should.
    """
    if settings.static_nodes:
        if selector is not None:
            raise Refused("a selector needs the Kubernetes API: the nodes of this control worker are a list (--static-nodes)")
        listed = sorted({names.node_name(node) for node in settings.static_nodes})
        # Another control may have another list.
        return Nodes(eligible=tuple(listed), all_there_are=False)
    why = no_way_to_discover(settings)
    if why is not None or settings.api == "none":
        raise Refused(why or "")
    # Imported here: `celery call` and Beat import this module's neighbours and list nothing.
    from workers.kube import ApiFailed, KubernetesApi, within

    api = settings.api
    try:
        found = within(timeout, lambda: _listed(KubernetesApi(api, timeout=timeout), selector))
    except ApiFailed as failed:
        if failed.status == 400 and selector is not None:
            raise Refused(f"the selector {selector!r} is none: {failed}") from failed
        raise CannotDiscover(f"the Kubernetes API does not say which nodes there are: {failed}") from failed
    if not found and selector is None:
        raise CannotDiscover("the Kubernetes API shows no node at all")
    if not found:
        raise Refused(f"the selector {selector!r} selects no node")
    skipped = {name: why for name, labels in found if (why := never_runs_the_worker(labels)) is not None}
    eligible = sorted({name for name, _ in found} - skipped.keys())
    return Nodes(eligible=tuple(eligible), skipped=skipped, all_there_are=selector is None)


def no_way_to_discover(settings: Settings) -> str | None:
    """Why no node can be known with these settings; None if there is a way."""
    if settings.static_nodes:
        return None
    if settings.api == "none":
        return "no nodes to sweep: control needs --static-nodes a,b, or the Kubernetes API (--api internal or external)"
    if settings.api == "internal" and not settings.in_cluster:
        return "control needs the nodes of its sweeps: --static-nodes a,b (CNI_CLEANUP_STATIC_NODES), or --api external"
    return None


def never_runs_the_worker(labels: Mapping[str, str]) -> str | None:
    """Why no worker will ever run on a node with these labels; None if one may."""
    if SKIP in labels:
        return f"label {SKIP}"
    for label, values in _NO_KUBELET.items():
        if labels.get(label) in values:
            return f"no machine: label {label}={labels[label]}"
    system = next((labels[label] for label in _OS if label in labels), None)
    if system is None:
        return f"no label {_OS[0]}, which the worker's DaemonSet asks for"
    return None if system == "linux" else f"runs {system}"


def _listed(api: "KubernetesApi", selector: str | None, *, attempts: int = 3) -> list[tuple[str, Mapping[str, str]]]:
    """Names and labels of all nodes. A list that expires is begun anew: its rest would be of another moment.

    Raises:
        ApiFailed: a page is missing, refused or no list of nodes.
    """
    from workers.kube import ApiFailed

    try:
        return [node for page in _pages(api, selector) for node in page]
    except ApiFailed as failed:
        if failed.status != 410 or attempts == 1:
            raise
    return _listed(api, selector, attempts=attempts - 1)


def _pages(api: "KubernetesApi", selector: str | None) -> Iterator[list[tuple[str, Mapping[str, str]]]]:
    from workers.kube import ApiFailed

    query = {"limit": str(_PAGE)} | ({} if selector is None else {"labelSelector": selector})
    tokens: set[str] = set()
    token = ""
    while True:
        page = api.get(
            _NODES,
            query | ({"continue": token} if token else {}),
            accept=f"{_METADATA},application/json",
            needs="`list` on nodes",
        )
        try:
            # Of no nodes at all a list of metadata is null.
            found = [_node(item["metadata"]) for item in page["items"] or ()]
            token = page["metadata"].get("continue") or ""
            more = page["metadata"].get("remainingItemCount")
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ApiFailed("its answer is no list of nodes") from error
        yield found
        if not token and more:
            raise ApiFailed(f"its list is partial: {more} more nodes are not in it")
        if not token:
            return
        if token in tokens:
            raise ApiFailed("its list never ends: a page leads back to itself")
        tokens.add(token)


def _node(metadata: Mapping[str, Any]) -> tuple[str, Mapping[str, str]]:
    """Name and labels of one node.

    Raises:
        KeyError, TypeError, AttributeError, ValueError: it has none.
    """
    if not is_node_name(metadata["name"]):
        raise ValueError("no name of a node")
    return metadata["name"], {str(label): str(value) for label, value in (metadata.get("labels") or {}).items()}
