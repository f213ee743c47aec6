"""The alphabets of CNI, and the one way in which host-local writes an address."""

import contextlib
import ipaddress
import socket
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.names import (
    canonical_address,
    is_address,
    is_bookkeeping,
    is_container_id,
    is_network_name,
    is_pod_namespace,
)

ID = "0123456789abcdef" * 4
V4_IN_V6 = bytes(10) + b"\xff\xff"


def go_string(packed: bytes) -> str:
    """Go's `net.IP.String()` of 4 or 16 bytes, by its documentation: RFC 5952, and an IPv4-mapped address as IPv4."""
    packed = packed.removeprefix(V4_IN_V6) if len(packed) == 16 else packed
    if len(packed) == 4:
        return ".".join(map(str, packed))
    groups = [packed[at] << 8 | packed[at + 1] for at in range(0, 16, 2)]
    start, length = longest_zeros(groups)
    if length < 2:
        return ":".join(f"{group:x}" for group in groups)
    left = ":".join(f"{group:x}" for group in groups[:start])
    right = ":".join(f"{group:x}" for group in groups[start + length :])
    return f"{left}::{right}"


def longest_zeros(groups: list[int]) -> tuple[int, int]:
    """Where the first of the longest runs of zeros starts, and how long it is."""
    best = (0, 0)
    for start in range(8):
        length = next((at for at, group in enumerate(groups[start:]) if group), 8 - start)
        if length > best[1]:
            best = (start, length)
    return best


def parse(text: str) -> bytes | None:
    """The address by the C library, which is nobody's code here."""
    with contextlib.suppress(OSError, ValueError):
        return socket.inet_pton(socket.AF_INET, text)
    with contextlib.suppress(OSError, ValueError):
        return socket.inet_pton(socket.AF_INET6, text)
    return None


SPARSE = st.lists(st.sampled_from([0, 0, 0, 1, 0xFFFF, 0x0DB8]), min_size=8, max_size=8)
PACKED = st.one_of(
    st.binary(min_size=4, max_size=4),
    st.binary(min_size=16, max_size=16),
    st.binary(min_size=4, max_size=4).map(lambda last: V4_IN_V6 + last),
    st.binary(min_size=4, max_size=4).map(lambda last: bytes(12) + last),
    SPARSE.map(lambda groups: b"".join(group.to_bytes(2, "big") for group in groups)),
)
ADDRESS_LIKE = st.text("0123456789abcdefABCDEF.:%/ []_x\n\0", max_size=45)


@given(PACKED)
def test_every_address_is_recognised_as_go_writes_it(packed: bytes):
    assert is_address(go_string(packed))
    assert canonical_address(go_string(packed)) == go_string(packed)


@given(st.text(max_size=60) | ADDRESS_LIKE | PACKED.map(go_string))
def test_a_name_is_an_address_exactly_when_it_comes_back_unchanged(name: str):
    packed = parse(name)
    assert is_address(name) == (packed is not None and go_string(packed) == name)


@given(PACKED)
def test_another_spelling_is_the_same_address_and_no_name(packed: bytes):
    address = ipaddress.ip_address(packed)
    for spelling in {address.exploded, address.exploded.upper(), address.compressed.upper()} - {go_string(packed)}:
        assert canonical_address(spelling) == go_string(packed)
        assert not is_address(spelling)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("", id="nothing"),
        pytest.param("10.88.0.02", id="leading zero"),
        pytest.param("010.88.0.2", id="leading zero of the first"),
        pytest.param("10.88.2", id="three parts"),
        pytest.param("10.88.0.2.1", id="five parts"),
        pytest.param("10.88.0.256", id="part too large"),
        pytest.param("0x0a.88.0.2", id="hexadecimal part"),
        pytest.param("173539330", id="one number"),
        pytest.param("10.88.0.2\n", id="line end"),
        pytest.param(" 10.88.0.2", id="space"),
        pytest.param("10.88.0.2/24", id="with a prefix length"),
        pytest.param("\u0661\u0660.88.0.2", id="digits of another script"),
        pytest.param("10.88.0.\udcff2", id="not UTF-8"),
        pytest.param("FD00::2", id="upper case"),
        pytest.param("fd00:0::2", id="zeros not compressed"),
        pytest.param("fd00:00::2", id="leading zeros in a group"),
        pytest.param("2001:db8::1:1:1:1:1", id="one zero compressed"),
        pytest.param("2001:db8:0:0:1::1", id="second run compressed"),
        pytest.param("::ffff:10.88.0.2", id="mapped"),
        pytest.param("::ffff:a58:2", id="mapped, in groups"),
        pytest.param("::10.88.0.2", id="compatible, dotted"),
        pytest.param("fe80::1%eth0", id="zone"),
        pytest.param("[fd00::2]", id="brackets"),
        pytest.param("fd00__2", id="as the plugin writes it on Windows"),
        pytest.param(":", id="colon"),
        pytest.param("lock", id="the lock"),
        pytest.param("last_reserved_ip.0", id="the cursor"),
    ],
)
def test_what_the_plugin_never_writes_is_no_address(name: str):
    assert not is_address(name)


@pytest.mark.parametrize("name", ["0.0.0.0", "255.255.255.255", "10.88.0.2", "::", "::1", "fd00::2", "2001:db8:0:1:1:1:1:1"])  # noqa: S104
def test_what_the_plugin_writes_is_an_address(name: str):
    assert is_address(name)


@given(st.text(max_size=60) | ADDRESS_LIKE)
def test_a_canonical_address_is_an_address_and_its_own(text: str):
    address = canonical_address(text)
    assert address is None or (is_address(address) and canonical_address(address) == address)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lock", True),
        ("last_reserved_ip.0", True),
        ("last_reserved_ip.12", True),
        ("last_reserved_ip", False),
        ("last_reserved_ip.", False),
        ("last_reserved_ip.x", False),
        ("last_reserved_ip.0.bak", False),
        ("Lock", False),
        ("lock\n", False),
        ("lock.old", False),
        ("", False),
    ],
)
def test_only_the_plugins_own_state_is_bookkeeping(name: str, expected: bool):
    assert is_bookkeeping(name) is expected


LETTERS = set(string.ascii_letters + string.digits)


@given(st.text(string.ascii_letters + string.digits + "_.-/ é\n", max_size=12))
def test_a_network_name_is_as_libcni_accepts_it(name: str):
    assert is_network_name(name) == (name != "" and name[0] in LETTERS and set(name) <= LETTERS | set("_.-"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(ID, True, id="64 digits"),
        pytest.param(ID[1:], False, id="63 digits"),
        pytest.param(ID + "0", False, id="65 digits"),
        pytest.param(ID.upper(), False, id="upper case"),
        pytest.param(ID[:63] + "g", False, id="no digit"),
        pytest.param(ID + "\n", False, id="line end"),
        pytest.param(ID[:63] + "\u0663", False, id="digit of another script"),
        pytest.param("", False, id="nothing"),
    ],
)
def test_a_container_id_has_64_lower_case_hexadecimal_digits(text: str, expected: bool):
    assert is_container_id(text) is expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("cni-4e979d32-4ec4-5a1f-4262-b1b495b2d242", True, id="containerd"),
        pytest.param("cni-x", True, id="go-cni in short"),
        pytest.param("4e979d32-4ec4-5a1f-4262-b1b495b2d242", True, id="CRI-O"),
        pytest.param("cni-", False, id="nothing after the dash"),
        pytest.param("4E979D32-4EC4-5A1F-4262-B1B495B2D242", False, id="upper case"),
        pytest.param("4e979d32-4ec4-5a1f-4262-b1b495b2d24", False, id="one digit short"),
        pytest.param("netns-1", False, id="podman"),
        pytest.param("vpn", False, id="an administrator's"),
        pytest.param(".keep", False, id="a file"),
    ],
)
def test_a_pod_namespace_is_named_by_a_runtime(name: str, expected: bool):
    assert is_pod_namespace(name) is expected
