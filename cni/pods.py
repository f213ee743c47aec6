"""What the two lists of pods say: the runtime's sandboxes and the API's pods, from their JSON."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from cni.names import canonical_address

_NETWORK_STATUS = ("k8s.v1.cni.cncf.io/network-status", "k8s.v1.cni.cncf.io/networks-status")
_CONFIG_HASH = "kubernetes.io/config.hash"
_MIRROR = "kubernetes.io/config.mirror"


class MalformedList(ValueError):
    """A list of pods or sandboxes that is not what it should be; the message says how."""


class Sandbox(NamedTuple):
    """A pod sandbox as the runtime lists it."""

    id: str
    ready: bool
    #: Of a static pod this is the hash of its file, not the uid of its mirror pod.
    pod_uid: str
    #: `namespace/name`
    pod: str


class SandboxStatus(NamedTuple):
    """What PodSandboxStatus adds."""

    host_network: bool
    addresses: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pod:
    """A pod of this node as the API shows it."""

    uid: str
    #: `namespace/name`
    name: str
    #: The uid under which the runtime knows it: of a mirror pod its `kubernetes.io/config.hash`.
    runtime_uid: str
    running: bool
    #: Phase Succeeded or Failed: the API then shows an address for ever that another pod may own.
    finished: bool
    host_network: bool
    #: podIPs and the addresses of Multus' network-status.
    addresses: frozenset[str]
    #: True where an annotation is there and cannot be read.
    garbled: bool = False


def parse_sandboxes(value: Any) -> dict[str, Sandbox]:
    """Read what `crictl pods -o json` prints.

    Raises:
        MalformedList: it is something else.
    """
    found = {}
    for item in _items(value, "crictl pods -o json"):
        metadata = item.get("metadata")
        if not isinstance(item.get("id"), str) or not isinstance(metadata, dict) or "state" not in item:
            raise MalformedList("an item is no pod sandbox: id, metadata and state are needed")
        found[item["id"]] = Sandbox(
            id=item["id"],
            ready=item["state"] in ("SANDBOX_READY", 0),
            pod_uid=str(metadata.get("uid") or ""),
            pod=f"{metadata.get('namespace')}/{metadata.get('name')}",
        )
    return found


def parse_pods(value: Any) -> list[tuple[str, Pod]]:
    """Read a PodList, or what `kubectl get pods -A -o json` prints: the name of the node and the pod, for each.

    Raises:
        MalformedList: it is something else.
    """
    return [(_node_of(item), _pod(item)) for item in _items(value, "kubectl get pods -A -o json")]


def _items(value: Any, source: str) -> list[dict[str, Any]]:
    items = value.get("items") if isinstance(value, dict) else None
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise MalformedList(f"no list of items, as `{source}` prints it")
    return items


def _node_of(item: Mapping[str, Any]) -> str:
    return str(_mapping(item, "spec").get("nodeName") or "")


def _pod(item: Mapping[str, Any]) -> Pod:
    metadata, spec, status = (_mapping(item, key) for key in ("metadata", "spec", "status"))
    if not isinstance(metadata.get("uid"), str) or not isinstance(metadata.get("name"), str):
        raise MalformedList("an item is no pod: metadata.name and metadata.uid are needed")
    annotations = metadata.get("annotations")
    annotations = annotations if isinstance(annotations, dict) else {}
    secondary, garbled = _network_status(annotations)
    phase = status.get("phase")
    return Pod(
        uid=metadata["uid"],
        name=f"{metadata.get('namespace')}/{metadata['name']}",
        runtime_uid=str((_MIRROR in annotations and annotations.get(_CONFIG_HASH)) or metadata["uid"]),
        running=phase == "Running",
        finished=phase in ("Succeeded", "Failed"),
        host_network=spec.get("hostNetwork") is True,
        addresses=frozenset({*_status_addresses(status), *secondary}),
        garbled=garbled,
    )


def _mapping(item: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = item.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise MalformedList(f"an item is no pod: its {key} is not an object")
    return value


def _status_addresses(status: Mapping[str, Any]) -> Iterator[str]:
    pod_ips = status.get("podIPs") or []
    if not isinstance(pod_ips, list) or not all(isinstance(inner, dict) for inner in pod_ips):
        raise MalformedList("an item is no pod: its status.podIPs is not a list of objects")
    for raw in [status.get("podIP"), *(inner.get("ip") for inner in pod_ips)]:
        if not raw:
            continue
        address = canonical_address(str(raw))
        if address is None:
            raise MalformedList(f"a pod shows {str(raw)[:60]!r} as its IP, which is none")
        yield address


def _network_status(annotations: Mapping[str, Any]) -> tuple[set[str], bool]:
    """The addresses that Multus annotated, and whether an annotation was there that could not be read."""
    raws = [raw for key in _NETWORK_STATUS if (raw := annotations.get(key)) not in (None, "")]
    told = [_annotated_addresses(raw) for raw in raws]
    return set().union(*(addresses for addresses in told if addresses is not None)), None in told


def _annotated_addresses(raw: Any) -> set[str] | None:
    try:
        networks = json.loads(raw)
        listed = [str(ip).partition("/")[0] for network in networks for ip in network.get("ips") or []]
    except (TypeError, ValueError, AttributeError, RecursionError):
        return None
    addresses = {canonical_address(ip) for ip in listed}
    return None if None in addresses else {address for address in addresses if address}
