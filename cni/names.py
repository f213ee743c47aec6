"""The alphabets of CNI: addresses, network names, container ids, interface names."""

import ipaddress
import re

_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = re.compile(rf"(?:{_OCTET}\.){{3}}{_OCTET}")
_BOOKKEEPING = re.compile(r"lock|last_reserved_ip\.[0-9]+")
_NETWORK = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_CONTAINER_ID = re.compile(r"[0-9a-f]{64}")
_LABEL = r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_NODE = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_NAMESPACE = re.compile(rf"cni-.+|{_UUID}")
_PODMAN_NAMESPACE = re.compile(rf"netns-{_UUID}")


def is_address(name: str) -> bool:
    """Whether `name` is how host-local would name a reservation: it comes back unchanged from an IP parser.

    host-local names the file `net.IP.String()` (plugins/ipam/host-local/backend/disk/backend.go:61), which never yields an
    IPv4-mapped IPv6 address or a zone.
    """
    if _IPV4.fullmatch(name):
        return True
    return ":" in name and canonical_address(name) == name


def canonical_address(text: str) -> str | None:
    """The address as host-local would name it, or None where `text` is no address. IPv4-mapped ones come back as IPv4."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id:
            return None
        if address.ipv4_mapped:
            return str(address.ipv4_mapped)
    return str(address)


def is_bookkeeping(name: str) -> bool:
    """Whether the plugin keeps its own state under this name: `lock` and `last_reserved_ip.N`, never a candidate."""
    return _BOOKKEEPING.fullmatch(name) is not None


def is_network_name(name: str) -> bool:
    """Whether libcni would accept `name` as a network (containernetworking/cni pkg/utils/utils.go:26-33)."""
    return _NETWORK.fullmatch(name) is not None


def is_container_id(text: str) -> bool:
    """Whether `text` is the id of a CRI pod sandbox: 64 lower-case hexadecimal digits."""
    return _CONTAINER_ID.fullmatch(text) is not None


def is_node_name(text: str) -> bool:
    """Whether the Kubernetes API would accept `text` as the name of a Node: an RFC 1123 subdomain."""
    return len(text) <= 253 and _NODE.fullmatch(text) is not None


def is_pod_namespace(name: str) -> bool:
    """Whether a name below /run/netns was made by containerd or go-cni (`cni-*`) or by CRI-O (a UUID)."""
    return _NAMESPACE.fullmatch(name) is not None


def is_podman_namespace(name: str) -> bool:
    """Whether a name below /run/netns was made by podman, whose containers no CRI runtime lists (`netns-` and a UUID)."""
    return _PODMAN_NAMESPACE.fullmatch(name) is not None


def printable(text: str) -> str:
    """`text` with what a terminal might take for a command of its own written out: names come from elsewhere."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
