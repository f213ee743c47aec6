"""The two lists of pods, as `crictl pods -o json` and `kubectl get pods -A -o json` print them, and everything else."""

import copy
import json
from collections.abc import Callable, Sized
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.names import is_address
from cni.pods import MalformedList, Pod, Sandbox, parse_pods, parse_sandboxes

ID = "ab" * 32
STATUS = "k8s.v1.cni.cncf.io/network-status"
OLD_STATUS = "k8s.v1.cni.cncf.io/networks-status"


def sandbox(**changes: Any) -> dict[str, Any]:
    document = {
        "id": ID,
        "metadata": {"name": "web", "uid": "uid-web", "namespace": "shop", "attempt": 0},
        "state": "SANDBOX_READY",
        "createdAt": "1795413944880549270",
        "labels": {},
    }
    return {key: value for key, value in {**document, **changes}.items() if value is not None}


def pod(**changes: Any) -> dict[str, Any]:
    """A pod; `annotations`, `spec` and `status` are merged into it, other keys replaced."""
    document: dict[str, Any] = {
        "metadata": {"name": "web", "namespace": "shop", "uid": "uid-web", "annotations": changes.pop("annotations", {})},
        "spec": {"nodeName": "node1", **changes.pop("spec", {})},
        "status": {"phase": "Running", **changes.pop("status", {})},
    }
    return {**document, **changes}


def only(document: dict[str, Any]) -> Pod:
    ((_node, parsed),) = parse_pods({"kind": "List", "items": [document]})
    return parsed


class TestSandboxes:
    def test_a_list_is_read_by_id(self):
        other = "cd" * 32
        found = parse_sandboxes({"items": [sandbox(), sandbox(id=other, state="SANDBOX_NOTREADY")]})
        assert found == {
            ID: Sandbox(id=ID, ready=True, pod_uid="uid-web", pod="shop/web"),
            other: Sandbox(id=other, ready=False, pod_uid="uid-web", pod="shop/web"),
        }

    def test_an_empty_list_is_a_list(self):
        assert parse_sandboxes({"items": []}) == {}

    @pytest.mark.parametrize(
        "state", ["SANDBOX_NOTREADY", "SANDBOX_UNKNOWN", "", None, 1, True, ["SANDBOX_READY"], "sandbox_ready"]
    )
    def test_only_ready_is_ready_and_any_state_is_listed(self, state: Any):
        found = parse_sandboxes({"items": [{**sandbox(), "state": state}]})
        assert not found[ID].ready

    @pytest.mark.parametrize(
        "value",
        [
            pytest.param(None, id="null"),
            pytest.param([], id="a list"),
            pytest.param("items", id="a string"),
            pytest.param({}, id="no items"),
            pytest.param({"items": None}, id="items null"),
            pytest.param({"items": {}}, id="items an object"),
            pytest.param({"items": [None]}, id="an item null"),
            pytest.param({"items": ["web"]}, id="an item a string"),
            pytest.param({"items": [{}]}, id="an item empty"),
            pytest.param({"items": [sandbox(id=None)]}, id="no id"),
            pytest.param({"items": [sandbox(id=7)]}, id="a number as id"),
            pytest.param({"items": [sandbox(state=None)]}, id="no state"),
            pytest.param({"items": [sandbox(metadata="x")]}, id="metadata a string"),
            pytest.param({"items": [sandbox(), {}]}, id="one good and one bad"),
            pytest.param({"kind": "PodList", "items": [pod()]}, id="the other list"),
        ],
    )
    def test_anything_else_is_refused(self, value: Any):
        with pytest.raises(MalformedList) as error:
            parse_sandboxes(value)
        assert "\n" not in str(error.value)


class TestPods:
    def test_a_pod_is_read_with_its_node(self):
        ((node, found),) = parse_pods(
            {"kind": "PodList", "items": [pod(status={"podIP": "10.88.0.2", "podIPs": [{"ip": "10.88.0.2"}]})]}
        )
        assert node == "node1"
        assert found == Pod(
            uid="uid-web",
            name="shop/web",
            runtime_uid="uid-web",
            running=True,
            finished=False,
            host_network=False,
            addresses=frozenset({"10.88.0.2"}),
        )

    @pytest.mark.parametrize(
        ("status", "expected"),
        [
            pytest.param({}, set(), id="being made"),
            pytest.param({"podIP": "10.88.0.2"}, {"10.88.0.2"}, id="one"),
            pytest.param({"podIPs": [{"ip": "10.88.0.2"}, {"ip": "fd00::2"}]}, {"10.88.0.2", "fd00::2"}, id="dual stack"),
            pytest.param({"podIP": "10.88.0.2", "podIPs": [{"ip": "10.88.0.3"}]}, {"10.88.0.2", "10.88.0.3"}, id="they disagree"),
            pytest.param({"podIP": "FD00:0::2"}, {"fd00::2"}, id="not canonical"),
            pytest.param({"podIP": "", "podIPs": [{"ip": ""}, {}]}, set(), id="empty"),
            pytest.param({"podIPs": None}, set(), id="null"),
        ],
    )
    def test_addresses_are_those_of_the_status(self, status: dict[str, Any], expected: set[str]):
        assert only(pod(status=status)).addresses == expected

    @pytest.mark.parametrize(
        ("phase", "running", "finished"),
        [
            ("Pending", False, False),
            ("Running", True, False),
            ("Succeeded", False, True),
            ("Failed", False, True),
            ("Unknown", False, False),
            (None, False, False),
        ],
    )
    def test_the_phase_says_whether_it_runs(self, phase: str | None, running: bool, finished: bool):
        found = only(pod(status={"phase": phase}))
        assert (found.running, found.finished) == (running, finished)

    @pytest.mark.parametrize(("value", "expected"), [(True, True), (False, False), (None, False), ("false", False)])
    def test_host_network_is_said_in_so_many_words(self, value: Any, expected: bool):
        assert only(pod(spec={"hostNetwork": value})).host_network is expected

    def test_a_mirror_pod_is_known_to_the_runtime_by_its_hash(self):
        found = only(pod(annotations={"kubernetes.io/config.hash": "0123", "kubernetes.io/config.mirror": "0123"}))
        assert (found.uid, found.runtime_uid) == ("uid-web", "0123")

    @pytest.mark.parametrize("annotations", [None, {}, [], "x"])
    def test_a_pod_may_have_no_annotations(self, annotations: Any):
        assert only(pod(annotations=annotations)).runtime_uid == "uid-web"

    def test_a_pod_that_no_node_has_yet_is_on_none(self):
        ((node, _),) = parse_pods({"items": [{**pod(), "spec": {}}]})
        assert node == ""

    @pytest.mark.parametrize(
        "value",
        [
            pytest.param(None, id="null"),
            pytest.param({"items": None}, id="items null"),
            pytest.param({"items": "x"}, id="items a string"),
            pytest.param({"items": [None]}, id="an item null"),
            pytest.param({"items": [{}]}, id="an item empty"),
            pytest.param({"items": [{**pod(), "metadata": {"name": "web"}}]}, id="no uid"),
            pytest.param({"items": [{**pod(), "metadata": {"uid": "x"}}]}, id="no name"),
            pytest.param({"items": [{**pod(), "metadata": "x"}]}, id="metadata a string"),
            pytest.param({"items": [{**pod(), "spec": []}]}, id="spec a list"),
            pytest.param({"items": [{**pod(), "status": "Running"}]}, id="status a string"),
            pytest.param({"items": [pod(status={"podIPs": {"ip": "10.88.0.2"}})]}, id="podIPs an object"),
            pytest.param({"items": [pod(status={"podIPs": ["10.88.0.2"]})]}, id="podIPs of strings"),
            pytest.param({"items": [pod(status={"podIP": "10.88.0"})]}, id="podIP is none"),
            pytest.param({"items": [pod(status={"podIPs": [{"ip": "10.88.0.2/24"}]})]}, id="an IP with a prefix length"),
            pytest.param({"items": [pod(), {}]}, id="one good and one bad"),
            pytest.param({"kind": "Status", "status": "Failure", "code": 403}, id="a refusal"),
        ],
    )
    def test_anything_else_is_refused_and_not_read_as_fewer_addresses(self, value: Any):
        with pytest.raises(MalformedList) as error:
            parse_pods(value)
        assert "\n" not in str(error.value)


class TestNetworkStatus:
    @pytest.mark.parametrize(
        ("annotation", "expected"),
        [
            pytest.param(
                [{"ips": ["10.88.0.2"]}, {"ips": ["10.1.0.7", "fd01::7"]}], {"10.88.0.2", "10.1.0.7", "fd01::7"}, id="two"
            ),
            pytest.param([{"name": "m"}], set(), id="a network without addresses"),
            pytest.param([{"name": "m", "ips": None}], set(), id="addresses null"),
            pytest.param([{"name": "m", "ips": ["10.1.0.7/24"]}], {"10.1.0.7"}, id="with a prefix length"),
            pytest.param([], set(), id="no network"),
        ],
    )
    @pytest.mark.parametrize("key", [STATUS, OLD_STATUS])
    def test_its_addresses_are_the_pods(self, annotation: Any, expected: set[str], key: str):
        found = only(pod(annotations={key: json.dumps(annotation)}))
        assert found.addresses == expected
        assert not found.garbled

    @pytest.mark.parametrize(
        "annotation",
        [
            pytest.param("not JSON", id="no JSON"),
            pytest.param("{", id="torn"),
            pytest.param("null", id="null"),
            pytest.param("7", id="a number"),
            pytest.param('"text"', id="a string"),
            pytest.param('{"name":"m","ips":["10.1.0.7"]}', id="an object"),
            pytest.param("[null]", id="a null network"),
            pytest.param('["m"]', id="a string as network"),
            pytest.param('[{"ips":"10.1.0.7"}]', id="a string as addresses"),
            pytest.param('[{"ips":7}]', id="a number as addresses"),
            pytest.param('[{"ips":["10.1.0"]}]', id="no address"),
            pytest.param('[{"ips":[null]}]', id="a null address"),
            pytest.param("[" * 100_000, id="too deep"),
            pytest.param({"ips": []}, id="no string at all"),
        ],
    )
    def test_what_cannot_be_read_is_garbled_and_never_an_empty_list(self, annotation: Any):
        found = only(pod(annotations={STATUS: annotation}, status={"podIP": "10.88.0.2"}))
        assert found.garbled
        assert "10.88.0.2" in found.addresses

    @pytest.mark.parametrize("annotations", [{}, {STATUS: ""}, {STATUS: None}, {"unrelated": "{"}])
    def test_a_missing_one_says_nothing(self, annotations: dict[str, Any]):
        assert not only(pod(annotations=annotations)).garbled

    def test_one_garbled_key_does_not_hide_the_other(self):
        good = json.dumps([{"ips": ["10.1.0.7"]}])
        for first, second in ((good, "{"), ("{", good)):
            found = only(pod(annotations={STATUS: first, OLD_STATUS: second}))
            assert found.garbled
            assert "10.1.0.7" in found.addresses


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from([ID, "10.88.0.2", "Running", "["]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
PATHS = st.sampled_from(
    [
        ("metadata",), ("spec",), ("status",),
        ("metadata", "name"), ("metadata", "uid"), ("metadata", "namespace"), ("metadata", "annotations"),
        ("metadata", "annotations", STATUS), ("metadata", "annotations", "kubernetes.io/config.hash"),
        ("spec", "nodeName"), ("spec", "hostNetwork"),
        ("status", "phase"), ("status", "podIP"), ("status", "podIPs"),
        ("id",), ("state",),
    ]
)  # fmt: skip


def replaced(document: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(document)
    at = changed
    for key in path[:-1]:
        at = at.setdefault(key, {})
    at[path[-1]] = value
    return changed


def parsed_or_refused(parse: Callable[[Any], Sized], value: Any) -> int | str:
    """How many were found, or the sentence that says why not."""
    try:
        return len(parse(value))
    except MalformedList as error:
        return str(error)


@given(PATHS, JSON)
def test_one_odd_field_is_read_or_refused(path: tuple[str, ...], value: Any):
    assert parsed_or_refused(parse_pods, {"items": [replaced(pod(), path, value)]})
    assert parsed_or_refused(parse_sandboxes, {"items": [replaced(sandbox(), path, value)]})


@given(JSON)
def test_anything_is_read_or_refused(value: Any):
    for parse in (parse_pods, parse_sandboxes):
        for document in (value, {"items": value}, {"items": [value]}):
            assert parsed_or_refused(parse, document) != ""


@given(st.lists(st.ip_addresses(), max_size=3), st.lists(st.ip_addresses(), max_size=3))
def test_every_address_is_kept_as_the_plugin_names_its_file(shown: list[Any], annotated: list[Any]):
    status = {"podIPs": [{"ip": address.exploded} for address in shown]}
    annotation = json.dumps([{"ips": [str(address)]} for address in annotated])
    addresses = only(pod(status=status, annotations={STATUS: annotation})).addresses
    assert all(map(is_address, addresses))
    assert len(addresses) <= len(shown) + len(annotated)
    assert bool(addresses) == bool(shown or annotated)
