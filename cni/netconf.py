"""What a network's configuration says: does it use host-local, and how many addresses can it hand out."""

import base64
import binascii
import ipaddress
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Above this many addresses a share of used ones says nothing (an IPv6 /64).
_COUNTABLE = 2**32


@dataclass(frozen=True, kw_only=True)
class AddressRange:
    """One range of a range set, both ends included. `gateway` is never handed out."""

    start: Address
    end: Address
    gateway: Address

    def __contains__(self, address: Address) -> bool:
        """Whether the address lies between the ends, of the same family."""
        return address.version == self.start.version and int(self.start) <= int(address) <= int(self.end)

    def size(self) -> int:
        """How many addresses it can hand out."""
        return int(self.end) - int(self.start) + 1 - (self.gateway in self)


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """What matters here of a CNI network configuration, as a file in conf-dir or as cached by libcni."""

    name: str
    uses_host_local: bool
    #: One tuple of ranges for each range set; a dual stack attachment takes one address of each set.
    range_sets: tuple[tuple[AddressRange, ...], ...] = ()
    #: Its plugin, Multus, only calls others, which allocate in networks of their own.
    is_meta: bool = False

    def capacity(self) -> int | None:
        """How many reservations fit until the smallest range set is full; None if unknown or beyond counting."""
        sizes = [sum(range_.size() for range_ in set_) for set_ in self.range_sets]
        if not sizes or min(sizes) > _COUNTABLE:
            return None
        return len(sizes) * min(sizes)

    def __contains__(self, address: Address) -> bool:
        """Whether the network could have handed out the address."""
        return any(address in range_ for set_ in self.range_sets for range_ in set_)


def parse_network_config(data: bytes, subnet_env: bytes | None = None) -> NetworkConfig | None:
    """Read a conflist or a single configuration; None where it is neither.

    `subnet_env` is the content of flannel's subnet.env: the flannel plugin makes the ranges of its delegate from it
    (flannel-io/cni-plugin flannel_linux.go:35-60).
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    try:
        return _network_config(value, subnet_env)
    except RecursionError:
        return None


def _network_config(value: dict[str, Any], subnet_env: bytes | None) -> NetworkConfig:
    plugins = value.get("plugins")
    confs = [conf for conf in plugins if isinstance(conf, dict)] if isinstance(plugins, list) else [value]
    sets = [set_ for conf in confs for set_ in _range_sets(conf, subnet_env)]
    return NetworkConfig(
        name=value["name"],
        uses_host_local=uses_host_local(value),
        range_sets=tuple(sets),
        is_meta=any(conf.get("type") == "multus" for conf in confs),
    )


def uses_host_local(value: Any) -> bool:
    """Whether a configuration, or what a meta plugin saved of its delegates, hands out addresses by host-local.

    Multus keeps its delegates as a list of objects with the original bytes in base64 under `Bytes`; flannel's delegate gets
    host-local by default.
    """
    try:
        return any(_is_host_local(conf) for conf in _objects(value))
    except RecursionError:
        return False


def _is_host_local(conf: Mapping[str, Any]) -> bool:
    ipam = conf.get("ipam")
    if isinstance(ipam, dict) and ipam.get("type"):
        return bool(ipam["type"] == "host-local")
    return conf.get("type") == "flannel" and not _delegate_ipam_type(conf)


def _delegate_ipam_type(conf: Mapping[str, Any]) -> Any:
    delegate = conf.get("delegate")
    ipam = delegate.get("ipam") if isinstance(delegate, dict) else None
    return ipam.get("type") if isinstance(ipam, dict) else None


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for key, inner in value.items():
            yield from _objects(_embedded(inner) if key == "Bytes" else inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _objects(inner)


def _embedded(value: Any) -> Any:
    try:
        return json.loads(base64.b64decode(value, validate=True))
    except (TypeError, ValueError, binascii.Error):
        return None


def _range_sets(conf: Mapping[str, Any], subnet_env: bytes | None) -> Iterable[tuple[AddressRange, ...]]:
    if conf.get("type") == "flannel" and subnet_env is not None:
        return [(range_,) for subnet in _flannel_subnets(subnet_env) if (range_ := _range({"subnet": subnet}))]
    delegates = conf.get("delegates")
    if conf.get("type") == "multus" and isinstance(delegates, list):
        return [set_ for inner in delegates if isinstance(inner, dict) for set_ in _range_sets(inner, subnet_env)]
    ipam = conf.get("ipam")
    if not isinstance(ipam, dict) or ipam.get("type") != "host-local":
        return []
    ranges = ipam.get("ranges")
    sets = [set_ for set_ in ranges if isinstance(set_, list)] if isinstance(ranges, list) else []
    # The single range of the old form comes first (host-local allocator/config.go:94-96).
    if ipam.get("subnet"):
        sets.insert(0, [ipam])
    parsed = (tuple(range_ for raw in set_ if (range_ := _range(raw))) for set_ in sets)
    return [set_ for set_ in parsed if set_]


def _flannel_subnets(subnet_env: bytes) -> Iterator[str]:
    for line in subnet_env.decode("utf-8", "replace").splitlines():
        key, _, value = line.strip().partition("=")
        if key in ("FLANNEL_SUBNET", "FLANNEL_IPV6_SUBNET") and value:
            yield value


def _range(raw: Any) -> AddressRange | None:
    """One range with the defaults of host-local (allocator/range.go:28-97): first to last, without IPv4's broadcast."""
    if not isinstance(raw, dict):
        return None
    try:
        subnet = ipaddress.ip_network(str(raw.get("subnet")), strict=False)
        last = subnet.broadcast_address - (subnet.version == 4)
        start = ipaddress.ip_address(raw.get("rangeStart") or subnet.network_address + 1)
        end = ipaddress.ip_address(raw.get("rangeEnd") or last)
        gateway = ipaddress.ip_address(raw.get("gateway") or subnet.network_address + 1)
    except (ValueError, TypeError):
        return None
    if not subnet.version == start.version == end.version == gateway.version or int(start) > int(end):
        return None
    return AddressRange(start=start, end=end, gateway=gateway)
