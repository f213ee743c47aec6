"""What libcni's results cache and the scratch files of flannel and Multus say about a container id."""

import base64
import binascii
import json
import posixpath
import re
from dataclasses import dataclass
from typing import Any

from cni.names import canonical_address, is_container_id
from cni.netconf import NetworkConfig, parse_network_config, uses_host_local

MAX_SIZE = 1 << 20
"""A results or scratch file above this size is not read."""

LOOPBACK = "cni-loopback"
"""The network that containerd gives a sandbox first: while a slow ADD runs, its results file is the only one."""

UNREADABLE_PATH = "/proc/unreadable"
"""Stands for a namespace path that is none: like every path in /proc, it tells nothing."""

_ID_IN_NAME = re.compile(r"(?P<network>.+)-(?P<id>[0-9a-f]{64})-(?P<ifname>.+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Attachment:
    """One results file: what a runtime once got for a container on a network."""

    container_id: str
    network: str
    ifname: str
    #: Paths of network namespaces that the file names, `/run/...` whether it says `/run` or `/var/run`.
    namespaces: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    #: `namespace/name` of the pod, from the arguments that a Kubernetes runtime passes to CNI.
    pod: str | None = None
    #: True where the file itself says that a CRI runtime made it for this very id (rule 11).
    by_cri: bool = False
    uses_host_local: bool = False
    config: NetworkConfig | None = None
    #: False where the content could not be read as a result: it then says nothing.
    readable: bool = True


def parse_attachment(name: str, data: bytes) -> Attachment | None:
    """Read a results file; None where neither its name nor its content names the id of a pod sandbox.

    Format: containernetworking/cni libcni/api.go:225-297 (`kind: cniCacheV1` since 0.8, a bare result before).
    """
    value = _json_object(data)
    named = _ID_IN_NAME.fullmatch(name)
    if value is None:
        if named is None:
            return None
        return Attachment(container_id=named["id"], network=named["network"], ifname=named["ifname"], readable=False)
    if value.get("kind") == "cniCacheV1":
        return _cached_v1(value, named["id"] if named else None)
    if named is None:
        return None
    return Attachment(
        container_id=named["id"],
        network=named["network"],
        ifname=named["ifname"],
        namespaces=_namespaces(value, None),
        addresses=_addresses(value),
    )


def file_name(attachment: Attachment) -> str:
    """The name under which libcni keeps it (libcni/api.go:252-257)."""
    return f"{attachment.network}-{attachment.container_id}-{attachment.ifname}"


def scratch_uses_host_local(data: bytes) -> bool | None:
    """Whether a scratch file (flannel: the delegate's configuration; Multus: a list of them) uses host-local; None if torn."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict | list):
        return None
    return uses_host_local(value)


def _cached_v1(value: dict[str, Any], named: str | None) -> Attachment | None:
    """`named` is the id in the file's name: where the content names none, or a part of it, the file is evidence of that."""
    container_id = value.get("containerId")
    if not isinstance(container_id, str) or not is_container_id(container_id):
        if named is None or (isinstance(container_id, str) and not named.startswith(container_id)):
            return None
        container_id = named
    result = value.get("result")
    result = result if isinstance(result, dict) else {}
    args = _cni_args(value.get("cniArgs"))
    config = _cached_config(value.get("config"))
    namespace, pod = args.get("K8S_POD_NAMESPACE"), args.get("K8S_POD_NAME")
    return Attachment(
        container_id=container_id,
        network=str(value.get("networkName") or ""),
        ifname=str(value.get("ifName") or ""),
        namespaces=_namespaces(result, value.get("netns")),
        addresses=_addresses(result),
        pod=f"{namespace}/{pod}" if namespace and pod else None,
        by_cri=args.get("K8S_POD_INFRA_CONTAINER_ID") == container_id and not _is_podmans(args),
        uses_host_local=config is not None and config.uses_host_local,
        config=config,
    )


def _is_podmans(args: dict[str, str]) -> bool:
    """Podman up to 3 used CRI-O's library: it gave its own id, no uid, and the container's name as name and namespace."""
    return not args.get("K8S_POD_UID") and args.get("K8S_POD_NAMESPACE") == args.get("K8S_POD_NAME")


def _json_object(data: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _cni_args(pairs: Any) -> dict[str, str]:
    if not isinstance(pairs, list):
        return {}
    return {
        pair[0]: pair[1]
        for pair in pairs
        if isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) for part in pair)
    }


def _cached_config(encoded: Any) -> NetworkConfig | None:
    try:
        return parse_network_config(base64.b64decode(encoded, validate=True))
    except (TypeError, ValueError, binascii.Error):
        return None


def _namespaces(result: dict[str, Any], netns: Any) -> tuple[str, ...]:
    """The paths a result names: `netns` (since libcni 1.2), and the sandboxes of its interfaces."""
    named = [inner.get("sandbox") for inner in _objects(result.get("interfaces"))]
    paths = {_without_var(path) for path in [netns, *named] if isinstance(path, str) and path}
    return tuple(sorted(path if _is_path(path) else UNREADABLE_PATH for path in paths))


def _is_path(path: str) -> bool:
    """Whether a kernel would take it: a torn or hostile file must not end the pass."""
    return path.startswith("/") and "\0" not in path and path.isprintable() and len(path) < 4096


def _without_var(path: str) -> str:
    path = posixpath.normpath(path)
    return path.removeprefix("/var") if path.startswith("/var/run/") else path


def _addresses(result: dict[str, Any]) -> tuple[str, ...]:
    """The addresses of a result; before CNI 0.3 they stood under `ip4` and `ip6`."""
    raw = [inner.get("address") for inner in _objects(result.get("ips"))]
    for family in ("ip4", "ip6"):
        inner = result.get(family)
        if isinstance(inner, dict):
            raw.append(inner.get("ip"))
    found = (canonical_address(text.partition("/")[0]) for text in raw if isinstance(text, str))
    return tuple(address for address in found if address)


def _objects(value: Any) -> list[dict[str, Any]]:
    return [inner for inner in value if isinstance(inner, dict)] if isinstance(value, list) else []
