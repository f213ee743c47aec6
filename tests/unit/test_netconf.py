"""What a network's configuration says: whose addresses, how many, and which."""

import base64
import ipaddress
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.netconf import NetworkConfig, parse_network_config, uses_host_local


def read(document: Any, subnet_env: bytes | None = None) -> NetworkConfig:
    config = parse_network_config(json.dumps(document).encode(), subnet_env)
    assert config is not None
    return config


def bridge(**ipam: Any) -> dict[str, Any]:
    """A conflist of one bridge with host-local, and portmap after it."""
    plugins = [{"type": "bridge", "ipam": {"type": "host-local", **ipam}}, {"type": "portmap"}]
    return {"cniVersion": "0.4.0", "name": "cbr0", "plugins": plugins}


@pytest.mark.parametrize(
    ("ipam", "expected"),
    [
        pytest.param({"subnet": "10.88.0.0/24"}, 253, id="the old form: /24 without network, gateway, broadcast"),
        pytest.param({"ranges": [[{"subnet": "10.88.0.0/24"}]]}, 253, id="the new form"),
        pytest.param({"ranges": [[{"subnet": "10.88.0.0/24", "gateway": "10.88.0.254"}]]}, 253, id="gateway at the end"),
        pytest.param({"ranges": [[{"subnet": "10.88.0.0/24", "gateway": "192.0.2.1"}]]}, 254, id="gateway elsewhere"),
        pytest.param(
            {"ranges": [[{"subnet": "10.88.0.0/24", "rangeStart": "10.88.0.10", "rangeEnd": "10.88.0.19"}]]}, 10, id="a part"
        ),
        pytest.param({"ranges": [[{"subnet": "10.88.0.0/24", "rangeStart": "10.88.0.250"}]]}, 5, id="from the end"),
        pytest.param({"ranges": [[{"subnet": "10.88.0.0/30"}]]}, 1, id="/30"),
        pytest.param({"ranges": [[{"subnet": "10.88.0.0/24"}, {"subnet": "10.89.0.0/24"}]]}, 506, id="two ranges of a set"),
        pytest.param({"ranges": [[{"subnet": "10.88.0.0/24"}], [{"subnet": "fd00::/64"}]]}, 506, id="dual stack"),
        pytest.param({"ranges": [[{"subnet": "10.88.0.0/24"}], [{"subnet": "10.89.0.0/29"}]]}, 10, id="the smaller set is full"),
        pytest.param({"subnet": "10.88.0.0/24", "ranges": [[{"subnet": "10.89.0.0/24"}]]}, 506, id="both forms: two sets"),
        pytest.param({"ranges": [[{"subnet": "fd00::/64"}]]}, None, id="IPv6 /64 is beyond counting"),
        pytest.param({"ranges": [[{"subnet": "fd00::/120"}]]}, 254, id="IPv6 has no broadcast"),
        pytest.param({"subnet": "10.88.0.7/24"}, 253, id="host bits are set"),
        pytest.param({}, None, id="no range"),
        pytest.param({"ranges": []}, None, id="empty list"),
        pytest.param({"ranges": [[]]}, None, id="empty set"),
        pytest.param({"ranges": "10.88.0.0/24"}, None, id="ranges are no list"),
        pytest.param({"ranges": [{"subnet": "10.88.0.0/24"}]}, None, id="a set is no list"),
        pytest.param({"ranges": [["10.88.0.0/24"]]}, None, id="a range is no object"),
        pytest.param({"subnet": "10.88.0.0/33"}, None, id="no subnet"),
        pytest.param({"subnet": 42}, None, id="a number"),
        pytest.param({"subnet": ["10.88.0.0", 24]}, None, id="a list"),
        pytest.param({"subnet": "10.88.0.0/32"}, None, id="no room"),
        pytest.param({"subnet": "0.0.0.0/32"}, None, id="no room at zero"),
        pytest.param({"subnet": "255.255.255.255/32"}, None, id="no room at the end"),
        pytest.param({"subnet": "10.88.0.0/24", "rangeStart": "fd00::1"}, None, id="two families"),
        pytest.param({"subnet": "10.88.0.0/24", "rangeStart": "10.88.0.9", "rangeEnd": "10.88.0.8"}, None, id="end before start"),
        pytest.param({"subnet": "10.88.0.0/24", "gateway": {}}, 253, id="an empty gateway"),
        pytest.param({"subnet": "10.88.0.0/24", "gateway": {"a": 1}}, None, id="a gateway of another type"),
    ],
)
def test_capacity_is_what_the_plugin_can_hand_out(ipam: dict[str, Any], expected: int | None):
    config = read(bridge(**ipam))
    assert config.capacity() == expected
    assert config.uses_host_local
    assert config.name == "cbr0"


def test_a_single_configuration_reads_like_a_list_of_one():
    single = {"name": "cbr0", "type": "bridge", "ipam": {"type": "host-local", "subnet": "10.88.0.0/24"}}
    assert read(single) == read(bridge(subnet="10.88.0.0/24"))


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("10.88.0.1", True),
        ("10.88.0.254", True),
        ("10.88.0.0", False),
        ("10.88.0.255", False),
        ("10.88.1.1", False),
        ("fd00::5", True),
        ("fd01::5", False),
        ("::10.88.0.5", False),
    ],
)
def test_an_address_lies_in_the_network_or_not(address: str, expected: bool):
    config = read(bridge(ranges=[[{"subnet": "10.88.0.0/24"}], [{"subnet": "fd00::/64"}]]))
    assert (ipaddress.ip_address(address) in config) is expected


FLANNEL = {"name": "cbr0", "plugins": [{"type": "flannel", "delegate": {"isDefaultGateway": True}}, {"type": "portmap"}]}


@pytest.mark.parametrize(
    ("subnet_env", "expected"),
    [
        pytest.param(b"FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.3.1/24\nFLANNEL_MTU=1450\n", 253, id="IPv4"),
        pytest.param(b"FLANNEL_SUBNET=10.244.3.1/24\r\nFLANNEL_IPV6_SUBNET=fd00:1::1/64\r\n", 506, id="dual stack, CRLF"),
        pytest.param(b"FLANNEL_IPV6_SUBNET=fd00:1::1/64\n", None, id="IPv6 alone"),
        pytest.param(b"FLANNEL_SUBNET=\n", None, id="no value"),
        pytest.param(b"FLANNEL_SUBNET=nonsense\n", None, id="nonsense"),
        pytest.param(b"\xff\xfe\0", None, id="garbled"),
        pytest.param(b"", None, id="empty"),
        pytest.param(None, None, id="missing"),
    ],
)
def test_flannel_takes_its_ranges_from_its_own_file(subnet_env: bytes | None, expected: int | None):
    config = read(FLANNEL, subnet_env)
    assert config.capacity() == expected
    assert config.uses_host_local


def test_multus_has_the_ranges_of_its_delegates():
    delegate = {"name": "m", "type": "macvlan", "ipam": {"type": "host-local", "subnet": "10.1.0.0/24"}}
    config = read(
        {"name": "multus", "type": "multus", "delegates": [delegate, {"type": "flannel"}]}, b"FLANNEL_SUBNET=10.2.0.1/24"
    )
    assert config.uses_host_local
    assert config.capacity() == 506


@pytest.mark.parametrize(
    "ipam", [{"type": "calico-ipam"}, {"type": "dhcp"}, {"type": "whereabouts", "range": "10.1.0.0/24"}, {}, "host-local", None]
)
def test_another_ipam_is_not_ours(ipam: Any):
    config = read({"name": "net", "plugins": [{"type": "bridge", "ipam": ipam}]})
    assert not config.uses_host_local
    assert config.capacity() is None


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"{", id="torn"),
        pytest.param(b"null", id="null"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b'"cbr0"', id="a string"),
        pytest.param(b"{}", id="no name"),
        pytest.param(b'{"name": 7}', id="a number as name"),
        pytest.param(b"\xff\xfe", id="not UTF-8"),
        pytest.param(b"[" * 100_000, id="too deep"),
    ],
)
def test_what_is_no_configuration_is_none(data: bytes):
    assert parse_network_config(data) is None


@pytest.mark.parametrize("depth", [100, 400, 2000, 20_000])
@pytest.mark.parametrize(
    ("head", "opening", "closing"),
    [
        pytest.param('{"name":"x","type":"multus","delegates":[', '{"type":"multus","delegates":[', "]}", id="multus in multus"),
        pytest.param('{"name":"x","plugins":[', "[", "]", id="lists in lists"),
        pytest.param('{"name":"x","plugins":[', '{"delegate":', "}", id="delegates in delegates"),
    ],
)
def test_a_configuration_that_is_nested_for_ever_is_no_error(head: str, opening: str, closing: str, depth: int):
    inside = "1" if closing == "}" else ""
    config = parse_network_config((head + opening * depth + inside + closing * depth + "]}").encode())
    assert config is None or config.capacity() is None


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["host-local", "flannel", "multus", "10.88.0.0/24", "fd00::/64", "10.88.0.9", "ipam"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["name", "type", "ipam", "plugins", "delegates", "delegate", "ranges", "subnet", "gateway", "rangeStart", "Bytes"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()), st.none() | st.binary(max_size=60))
def test_any_bytes_are_read_without_an_error(data: bytes, subnet_env: bytes | None):
    config = parse_network_config(data, subnet_env)
    if config is None:
        return
    capacity = config.capacity()
    assert capacity is None or capacity >= 0
    assert config.range_sets or ipaddress.ip_address("10.88.0.9") not in config


@given(JSON)
def test_anything_is_asked_for_host_local_without_an_error(value: Any):
    assert uses_host_local(value) in (True, False)
    assert uses_host_local([{"Bytes": base64.b64encode(json.dumps(value).encode()).decode()}]) == uses_host_local(value)


@given(
    st.ip_addresses(v=4).map(lambda address: ipaddress.ip_network(f"{address}/24", strict=False))
    | st.ip_addresses(v=6).map(lambda address: ipaddress.ip_network(f"{address}/120", strict=False))
)
def test_capacity_counts_the_addresses_that_lie_in_the_network(subnet: Any):
    config = read(bridge(subnet=str(subnet)))
    gateway = subnet.network_address + 1
    assert config.capacity() == sum(address in config for address in subnet if address != gateway)
