"""What libcni's results files and the scratch files of flannel and Multus say; formats as recorded on real nodes."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.attachment import Attachment, file_name, parse_attachment, scratch_uses_host_local
from cni.names import canonical_address, is_address, is_container_id

ID = "ab" * 32
OTHER = "cd" * 32
NAME = f"cbr0-{ID}-eth0"
HOST_LOCAL = {"type": "bridge", "ipam": {"type": "host-local", "subnet": "10.88.0.0/24"}}


POD = [["K8S_POD_NAMESPACE", "a"], ["K8S_POD_NAME", "b"]]
SAME = [["K8S_POD_NAMESPACE", "a"], ["K8S_POD_NAME", "a"]]


def encoded(value: Any) -> str:
    return base64.b64encode(json.dumps(value).encode()).decode()


def cached(**changes: Any) -> dict[str, Any]:
    """A cacheV1 file of containerd 2; `changes` replace its keys, None takes one away."""
    document = {
        "kind": "cniCacheV1",
        "containerId": ID,
        "config": encoded({"cniVersion": "1.0.0", "name": "cbr0", "plugins": [HOST_LOCAL]}),
        "ifName": "eth0",
        "networkName": "cbr0",
        "netns": "/var/run/netns/cni-1",
        "cniArgs": [
            ["IgnoreUnknown", "1"],
            ["K8S_POD_NAMESPACE", "shop"],
            ["K8S_POD_NAME", "cart-0"],
            ["K8S_POD_INFRA_CONTAINER_ID", ID],
            ["K8S_POD_UID", "uid"],
        ],
        "capabilityArgs": {"dns": {"Servers": ["127.0.0.1"]}},
        "result": {
            "cniVersion": "1.0.0",
            "interfaces": [{"name": "cbr0"}, {"name": "eth0", "sandbox": "/var/run/netns/cni-1"}],
            "ips": [{"address": "10.88.0.2/24"}, {"address": "fd00:88::2/64"}],
        },
    }
    return {key: value for key, value in {**document, **changes}.items() if value is not None}


def read(document: Any, name: str = NAME) -> Attachment:
    attachment = parse_attachment(name, json.dumps(document).encode())
    assert attachment is not None
    return attachment


def test_a_file_of_today_tells_everything():
    attachment = read(cached())
    assert attachment.container_id == ID
    assert (attachment.network, attachment.ifname) == ("cbr0", "eth0")
    assert attachment.namespaces == ("/run/netns/cni-1",)
    assert attachment.addresses == ("10.88.0.2", "fd00:88::2")
    assert attachment.pod == "shop/cart-0"
    assert attachment.by_cri
    assert attachment.uses_host_local
    assert attachment.readable
    assert attachment.config is not None
    assert attachment.config.capacity() == 253
    assert file_name(attachment) == NAME


def test_a_bare_result_tells_what_it_can():
    attachment = read(cached()["result"])
    assert (attachment.container_id, attachment.network, attachment.ifname) == (ID, "cbr0", "eth0")
    assert attachment.namespaces == ("/run/netns/cni-1",)
    assert attachment.addresses == ("10.88.0.2", "fd00:88::2")
    assert attachment.readable
    assert not attachment.by_cri
    assert not attachment.uses_host_local
    assert attachment.pod is None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({"netns": None}, ("/run/netns/cni-1",), id="before libcni 1.2: an interface's sandbox"),
        pytest.param({"netns": "/run/netns/cni-2"}, ("/run/netns/cni-1", "/run/netns/cni-2"), id="the two disagree"),
        pytest.param({"result": {}}, ("/run/netns/cni-1",), id="netns alone"),
        pytest.param({"netns": "/run/netns/../netns//cni-3", "result": {}}, ("/run/netns/cni-3",), id="untidy path"),
        pytest.param({"netns": "/var/runny/cni-3", "result": {}}, ("/var/runny/cni-3",), id="only /var/run is /run"),
        pytest.param({"netns": "/proc/42/ns/net", "result": {}}, ("/proc/42/ns/net",), id="of a process"),
        pytest.param({"netns": "", "result": {}}, (), id="empty"),
        pytest.param({"netns": 7, "result": {"interfaces": [{"sandbox": None}, {}, 5]}}, (), id="of other types"),
        pytest.param({"netns": None, "result": {"interfaces": {"sandbox": "/x"}}}, (), id="interfaces are no list"),
        pytest.param({"netns": None, "result": [1]}, (), id="result is no object"),
        pytest.param({"netns": None, "result": None}, (), id="nothing"),
    ],
)
def test_namespaces_come_from_both_places(changes: dict[str, Any], expected: tuple[str, ...]):
    assert read(cached(**changes)).namespaces == expected


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        pytest.param({"ip4": {"ip": "10.88.0.9/24"}, "ip6": {"ip": "fd00::9/64"}}, ("10.88.0.9", "fd00::9"), id="before 0.3"),
        pytest.param({"ips": [{"address": "FD00:0::2/64"}]}, ("fd00::2",), id="not canonical"),
        pytest.param({"ips": [{"address": "::ffff:10.88.0.2/120"}]}, ("10.88.0.2",), id="mapped"),
        pytest.param({"ips": [{"address": "10.88.0.2"}]}, ("10.88.0.2",), id="without prefix length"),
        pytest.param({"ips": [{"address": "nonsense"}, {"address": 4}, {}, None]}, (), id="none at all"),
        pytest.param({"ips": None, "ip4": "10.88.0.2"}, (), id="of other types"),
    ],
)
def test_addresses_are_read_in_every_form(result: dict[str, Any], expected: tuple[str, ...]):
    assert read(cached(result=result)).addresses == expected
    assert read(result).addresses == expected


@pytest.mark.parametrize(
    ("arguments", "by_cri", "pod"),
    [
        pytest.param([["K8S_POD_INFRA_CONTAINER_ID", ID], ["K8S_POD_UID", "u"]], True, None, id="id and uid"),
        pytest.param([*POD, ["K8S_POD_INFRA_CONTAINER_ID", ID]], True, "a/b", id="of a time before the uid was given"),
        pytest.param(
            [*SAME, ["K8S_POD_INFRA_CONTAINER_ID", ID], ["K8S_POD_UID", "u"]], True, "a/a", id="a pod named as its namespace"
        ),
        pytest.param([*SAME, ["K8S_POD_INFRA_CONTAINER_ID", ID]], False, "a/a", id="podman up to 3"),
        pytest.param([["K8S_POD_INFRA_CONTAINER_ID", ID]], False, None, id="the id alone"),
        pytest.param([["K8S_POD_INFRA_CONTAINER_ID", OTHER]], False, None, id="another id"),
        pytest.param(POD, False, "a/b", id="a pod without an id"),
        pytest.param([["K8S_POD_NAME", "b"]], False, None, id="a name without a namespace"),
        pytest.param([["IgnoreUnknown", "1"]], False, None, id="podman and nerdctl"),
        pytest.param(None, False, None, id="none"),
        pytest.param("K8S_POD_INFRA_CONTAINER_ID=" + ID, False, None, id="a string"),
        pytest.param([["K8S_POD_INFRA_CONTAINER_ID"], [1, 2], "x", None, [["a"], "b"]], False, None, id="garbled"),
    ],
)
def test_only_its_own_infra_container_id_says_that_a_cri_runtime_made_it(arguments: Any, by_cri: bool, pod: str | None):
    attachment = read(cached(cniArgs=arguments))
    assert attachment.by_cri is by_cri
    assert attachment.pod == pod


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        pytest.param({"name": "x", "plugins": [HOST_LOCAL]}, True, id="itself"),
        pytest.param({"name": "x", "plugins": [{"type": "flannel", "delegate": {}}]}, True, id="flannel's default delegate"),
        pytest.param(
            {"name": "x", "plugins": [{"type": "flannel", "delegate": {"ipam": {"type": "dhcp"}}}]}, False, id="flannel's other"
        ),
        pytest.param({"name": "x", "type": "multus", "delegates": [HOST_LOCAL]}, True, id="Multus' delegate"),
        pytest.param({"name": "x", "plugins": [{"type": "calico", "ipam": {"type": "calico-ipam"}}]}, False, id="another"),
        pytest.param({"name": "x", "plugins": [{"type": "loopback"}]}, False, id="none"),
        pytest.param({"plugins": [HOST_LOCAL]}, False, id="no configuration: it has no name"),
    ],
)
def test_the_cached_configuration_says_who_hands_out_addresses(config: Any, expected: bool):
    assert read(cached(config=encoded(config))).uses_host_local is expected


@pytest.mark.parametrize("config", [None, "", "%%%", "é", 7, ["e30="], encoded([]), encoded("x")])
def test_a_configuration_that_cannot_be_read_uses_nothing(config: Any):
    attachment = read(cached(config=config))
    assert attachment.config is None
    assert not attachment.uses_host_local


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(bytes(900), id="NUL-filled"),
        pytest.param(json.dumps(cached()).encode()[:200], id="cut short"),
        pytest.param(json.dumps(cached()).encode() + b"}", id="one brace too many"),
        pytest.param(b"[1]", id="no object"),
        pytest.param(b'"text"', id="a string"),
        pytest.param(b"\xff\xfe\xfd", id="not UTF-8"),
        pytest.param(b"[" * 100_000, id="too deep"),
        pytest.param(b"9" * 10_000, id="a number beyond counting"),
    ],
)
def test_a_torn_file_says_whose_it_is_by_its_name_alone(data: bytes):
    attachment = parse_attachment(NAME, data)
    assert attachment == Attachment(container_id=ID, network="cbr0", ifname="eth0", readable=False)
    assert parse_attachment("README", data) is None


@pytest.mark.parametrize(
    ("name", "network", "ifname"),
    [
        (f"a-b-c-{ID}-net1", "a-b-c", "net1"),
        (f"{OTHER}-{ID}-eth0", OTHER, "eth0"),
        (f"a-{OTHER}-{ID}-eth0", f"a-{OTHER}", "eth0"),
        (f"cni-loopback-{ID}-lo", "cni-loopback", "lo"),
    ],
)
def test_networks_with_dashes_are_told_from_the_id(name: str, network: str, ifname: str):
    attachment = parse_attachment(name, b"")
    assert attachment is not None
    assert (attachment.container_id, attachment.network, attachment.ifname) == (ID, network, ifname)


@pytest.mark.parametrize("data", [b"", json.dumps({"interfaces": [{"sandbox": "/run/netns/cni-1"}]}).encode()])
def test_an_interface_may_have_a_dash_in_its_name(data: bytes):
    attachment = parse_attachment(f"cbr0-{ID}-net-1", data)
    assert attachment is not None
    assert (attachment.container_id, attachment.network, attachment.ifname) == (ID, "cbr0", "net-1")


@pytest.mark.parametrize(
    "content_id",
    [
        pytest.param(None, id="missing"),
        pytest.param(7, id="a number"),
        pytest.param("", id="empty"),
        pytest.param(ID[:40], id="cut short"),
    ],
)
def test_a_file_named_for_an_id_is_evidence_about_it_even_if_its_content_names_none(content_id: Any):
    attachment = parse_attachment(NAME, json.dumps(cached(containerId=content_id)).encode())
    assert attachment is not None
    assert attachment.container_id == ID
    assert attachment.namespaces == ("/run/netns/cni-1",)


def test_the_content_counts_where_the_name_says_something_else():
    attachment = read(cached(containerId=OTHER), name=NAME)
    assert attachment.container_id == OTHER
    assert file_name(attachment) != NAME


@pytest.mark.parametrize("name", ["README", "cbr0-short-eth0", f"{ID}", f"cbr0-{ID}", f"-{ID}-eth0", f"cbr0-{ID.upper()}-eth0"])
def test_neither_name_nor_content_names_a_sandbox(name: str):
    assert parse_attachment(name, b"{}") is None
    assert parse_attachment(name, json.dumps(cached(containerId=f"default-{ID}")).encode()) is None


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from([ID, "cniCacheV1", encoded({})]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    ["kind", "containerId", "config", "ifName", "networkName", "netns", "cniArgs", "result", "ips", "interfaces", "ip4", "ip6"]
)
DOCUMENTS = st.dictionaries(FIELDS, JSON, max_size=8) | JSON
NAMES = st.text(max_size=30) | st.just(NAME) | st.text(max_size=8).map(lambda text: f"{text}-{ID}-{text}")


@given(NAMES, st.binary(max_size=200) | DOCUMENTS.map(lambda document: json.dumps(document).encode()))
def test_any_name_and_any_bytes_are_read_without_an_error(name: str, data: bytes):
    attachment = parse_attachment(name, data)
    scratch_uses_host_local(data)
    if attachment is not None:
        assert is_container_id(attachment.container_id)
        assert all(is_address(address) for address in attachment.addresses)
        assert not any(path.startswith("/var/run/") for path in attachment.namespaces)


@given(FIELDS.filter(lambda field: field != "containerId"), JSON)
def test_one_odd_field_never_hides_whose_file_it_is(field: str, value: Any):
    attachment = parse_attachment(NAME, json.dumps(cached(**{field: value})).encode())
    assert attachment is not None
    assert attachment.container_id == ID


@given(st.ip_addresses())
def test_addresses_are_as_the_plugin_names_its_files(address: Any):
    attachment = read({"ips": [{"address": f"{address.exploded}/24"}]})
    assert attachment.addresses == (canonical_address(str(address)),)


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        pytest.param(HOST_LOCAL, True, id="flannel: the delegate"),
        pytest.param({"type": "bridge", "ipam": {"type": "dhcp"}}, False, id="flannel: another IPAM"),
        pytest.param({"type": "bridge"}, False, id="flannel: none"),
        pytest.param([{"Conf": {"name": "x"}, "Bytes": encoded(HOST_LOCAL)}], True, id="Multus: in the bytes"),
        pytest.param([{"ConfList": {"plugins": [HOST_LOCAL]}}], True, id="Multus: in a list"),
        pytest.param([{"Bytes": encoded({"ipam": {"type": "whereabouts"}})}], False, id="Multus: another IPAM"),
        pytest.param([{"Bytes": "%%%"}, {"Bytes": 7}], False, id="Multus: garbled bytes"),
        pytest.param([{"Bytes": encoded({"Bytes": encoded(HOST_LOCAL)})}], True, id="bytes within bytes"),
        pytest.param([], False, id="no delegate"),
        pytest.param({}, False, id="nothing"),
        pytest.param("host-local", None, id="a string"),
        pytest.param(None, None, id="null"),
        pytest.param(7, None, id="a number"),
    ],
)
def test_scratch_says_who_hands_out_addresses(document: Any, expected: bool | None):
    assert scratch_uses_host_local(json.dumps(document).encode()) is expected


@pytest.mark.parametrize("data", [b"", bytes(300), b'{"name":"cbr0","ip', b"\xff", b"[" * 100_000])
def test_torn_scratch_says_nothing(data: bytes):
    assert scratch_uses_host_local(data) is None
