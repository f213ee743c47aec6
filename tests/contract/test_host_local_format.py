"""What the real plugin writes is what the parsers read, and what it takes for its own is what they take for a reservation."""

import ipaddress
import json
import os
import subprocess
from pathlib import Path

import pytest

from cni.names import canonical_address, is_address, is_bookkeeping
from cni.reservation import Reservation, parse_reservation, render_reservation
from tests.support.fixtures import MakeHostLocal
from tests.support.plugin import HostLocal

ID = "0123456789abcdef" * 4


def names(plugin: HostLocal) -> set[str]:
    return {path.name for path in plugin.directory.iterdir()}


def reservations(plugin: HostLocal) -> set[str]:
    return {name for name in names(plugin) if not is_bookkeeping(name)}


@pytest.mark.parametrize("ifname", ["eth0", "net-1.100@if7", "x" * 15])
def test_what_it_writes_is_read_back_to_the_byte(host_local: MakeHostLocal, ifname: str):
    plugin = host_local(ranges=(("10.88.0.0/24",), ("fd00:88::/64",)))
    addresses = plugin.add(ID, ifname)
    assert reservations(plugin) == set(addresses)
    for address in addresses:
        data = (plugin.directory / address).read_bytes()
        assert parse_reservation(data) == Reservation(ID, ifname)
        assert render_reservation(ID, ifname) == data


def test_everything_else_it_keeps_there_is_bookkeeping(host_local: MakeHostLocal):
    plugin = host_local(ranges=(("10.88.0.0/24",), ("fd00:88::/64",)))
    plugin.add(ID)
    assert names(plugin) - reservations(plugin) == {"lock", "last_reserved_ip.0", "last_reserved_ip.1"}


@pytest.mark.parametrize(
    "subnet",
    [
        "10.88.0.0/24",
        "fd00:88::/64",
        "2001:db8:0:1:1:1:1:0/112",
        "2001:db8:0:0:1:0:0:0/112",
        "2001:0:0:1:0:0:0:0/96",
        "2001:0:2:0:3:0:4:0/112",
        "2001:0:0:2:0:0:3:0/112",
        "ff0:0f0:00f:1000:0:a:0:0/112",
        "FE80::/64",
    ],
)
def test_its_names_are_canonical_addresses(host_local: MakeHostLocal, subnet: str):
    plugin = host_local(ranges=((subnet,),))
    (address,) = plugin.add(ID)
    (name,) = reservations(plugin)
    assert is_address(name)
    assert canonical_address(ipaddress.ip_address(address).exploded) == name


@pytest.mark.parametrize(
    "spelling", ["fd00:88:0:0:0:0:0:abc", "FD00:88::ABC", "fd00:0088::0abc", "fd00:88::0.0.10.188", "fd00:88::abc"]
)
def test_an_address_that_was_asked_for_gets_its_canonical_name(host_local: MakeHostLocal, spelling: str):
    plugin = host_local(ranges=(("fd00:88::/64",),))
    environment = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": ID,
        "CNI_IFNAME": "eth0",
        "CNI_NETNS": "/var/run/netns/cni-1",
        "CNI_PATH": os.fspath(plugin.binary.parent),
        "CNI_ARGS": f"IP={spelling}",
    }
    configuration = json.dumps(plugin.configuration()).encode()
    subprocess.run([plugin.binary], env=environment, input=configuration, check=True, capture_output=True, timeout=60)
    assert reservations(plugin) == {canonical_address(spelling)} == {"fd00:88::abc"}


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(f"{ID}\r\neth0", id="as it writes it"),
        pytest.param(ID, id="one line"),
        pytest.param(f"{ID}\r\n", id="trailing CRLF"),
        pytest.param(f"{ID}\n", id="trailing LF"),
        pytest.param(f"{ID}\r", id="cut inside of the CRLF"),
        pytest.param(f"{ID}\r\neth0\r\n", id="CRLF after the interface"),
        pytest.param(f"\t {ID}\r\neth0 \v\f", id="white space around"),
        pytest.param(f"{ID}\neth0", id="LF only"),
        pytest.param(f"{ID}\reth0", id="CR only"),
        pytest.param(f"{ID} \r\neth0", id="space inside"),
        pytest.param(f"{ID}\r\neth0\r\nnet1", id="three lines"),
        pytest.param(f"{ID}\0", id="NUL after"),
        pytest.param("", id="empty"),
        pytest.param("\0" * 70, id="NULs"),
        pytest.param(ID[:63], id="cut short"),
        pytest.param(f"{ID}0", id="one digit more"),
    ],
)
def test_a_del_frees_exactly_what_reads_as_a_reservation_of_its_id(host_local: MakeHostLocal, content: str):
    plugin = host_local()
    plugin.add("ff" * 32)
    path = Path(plugin.directory, "10.88.0.77")
    path.write_bytes(content.encode())
    plugin.delete(ID)
    parsed = parse_reservation(content.encode())
    assert path.exists() == (not isinstance(parsed, Reservation))
