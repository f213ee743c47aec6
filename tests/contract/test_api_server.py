"""The tests' API server answers as the Kubernetes API documents it, also to the real client library."""

import http.client
import json
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from kubernetes import client as kubernetes_client
from kubernetes import config as kubernetes_config
from kubernetes.config import incluster_config

from tests.support.api_server import (
    ApiServer,
    Failure,
    Fault,
    Node,
    Pod,
    forbidden,
    gone,
    later_page,
    pods_from_file,
    refusing_port,
    server_error,
    too_many_requests,
    unauthorized,
    without_items,
    write_in_cluster,
    write_kubeconfig,
)
from tests.support.fixtures import TOKEN
from tests.support.recorded import NODE_NAME, RecordedNode

PODS_PATH = "/api/v1/pods"
NODES_PATH = "/api/v1/nodes"
METADATA = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


def pod(name: str, node: str = "node1") -> Pod:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"nodeName": node, "containers": [{"name": "main", "image": "busybox"}]},
        "status": {"phase": "Running"},
    }


def node(name: str, **labels: str) -> Node:
    return {"kind": "Node", "metadata": {"name": name, "labels": labels}, "spec": {"podCIDR": "10.88.0.0/24"}}


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Any
    body: Any

    @property
    def names(self) -> list[str]:
        return [item["metadata"]["name"] for item in self.body["items"]]

    @property
    def token(self) -> str:
        return str(self.body["metadata"].get("continue", ""))


Query = Mapping[str, str | int]


def get(
    server: ApiServer,
    query: Query = MappingProxyType({}),
    *,
    path: str = PODS_PATH,
    timeout: float = 20.0,
    accept: str | None = None,
) -> Answer:
    headers = {} if accept is None else {"Accept": accept}
    request = urllib.request.Request(  # noqa: S310  # the tests' own server
        f"{server.url}{path}?{urllib.parse.urlencode(query)}", headers=headers
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:  # noqa: S310  # as above
            return Answer(response.status, response.headers, json.load(response))
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, error.headers, json.load(error))


@pytest.fixture
def three(api_server: ApiServer) -> ApiServer:
    """A server with three pods on node1 and one on node2; an older version of it knows none."""
    api_server.set_pods([pod("c"), pod("a"), pod("other", "node2"), pod("b")])
    return api_server


def test_a_list_holds_all_pods_in_the_order_of_their_keys_and_its_revision(three: ApiServer):
    answer = get(three)
    assert answer.names == ["a", "b", "c", "other"]
    assert answer.body["kind"] == "PodList"
    assert answer.body["metadata"] == {"resourceVersion": str(three.revision)}
    assert not {"kind", "apiVersion"} & answer.body["items"][0].keys()


def test_a_field_selector_picks_the_pods_of_a_node(three: ApiServer):
    assert get(three, {"fieldSelector": "spec.nodeName=node1"}).names == ["a", "b", "c"]
    assert get(three, {"fieldSelector": "spec.nodeName!=node1"}).names == ["other"]
    assert get(three, {"fieldSelector": "spec.nodeName=node1,metadata.name==b"}).names == ["b"]
    assert get(three, {"fieldSelector": "spec.nodeName=nobody"}).body["items"] == []
    refused = get(three, {"fieldSelector": "spec.nodename=node1"})
    assert (refused.status, refused.body["message"]) == (400, "field label not supported: spec.nodename")


def test_pages_are_of_one_version_and_hold_every_pod_once(three: ApiServer):
    first = get(three, {"limit": 2})
    assert (first.names, first.body["metadata"]["remainingItemCount"]) == (["a", "b"], 2)
    three.set_pods([pod("late")])
    second = get(three, {"limit": 2, "continue": first.token})
    assert (second.names, second.token) == (["c", "other"], "")
    assert second.body["metadata"]["resourceVersion"] == first.body["metadata"]["resourceVersion"]


def test_the_rest_of_a_selected_list_is_not_counted(three: ApiServer):
    assert "remainingItemCount" not in get(three, {"limit": 1, "fieldSelector": "spec.nodeName=node1"}).body["metadata"]


def test_an_expired_token_is_gone_and_offers_an_inconsistent_rest(three: ApiServer):
    first = get(three, {"limit": 2})
    three.set_pods([pod("z")])
    three.expire_tokens()
    answer = get(three, {"limit": 2, "continue": first.token})
    assert (answer.status, answer.body["reason"], answer.body["code"]) == (410, "Expired", 410)
    assert get(three, {"limit": 2, "continue": answer.token}).names == ["z"]


def test_revision_zero_gets_the_oldest_list_there_is(three: ApiServer):
    stale = get(three, {"resourceVersion": 0})
    assert stale.names == []
    assert int(stale.body["metadata"]["resourceVersion"]) < three.revision


@pytest.mark.parametrize("match", [{}, {"resourceVersionMatch": "NotOlderThan"}])
def test_not_older_than_gets_the_oldest_list_that_is_no_older(three: ApiServer, match: dict[str, str]):
    revision = three.revision
    three.set_pods([])
    answer = get(three, {"resourceVersion": revision, **match})
    assert answer.names == ["a", "b", "c", "other"]
    assert answer.body["metadata"]["resourceVersion"] == str(revision)


def test_a_revision_that_is_not_there_yet_times_out_with_a_retry_hint(three: ApiServer):
    answer = get(three, {"resourceVersion": three.revision + 5, "resourceVersionMatch": "NotOlderThan"})
    assert (answer.status, answer.body["reason"], answer.headers["Retry-After"]) == (504, "Timeout", "1")
    assert answer.body["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge"


def test_an_exact_revision_is_gone_once_it_is_compacted(three: ApiServer):
    exact: Query = {"resourceVersion": three.revision, "resourceVersionMatch": "Exact"}
    three.set_pods([])
    assert get(three, exact).names == ["a", "b", "c", "other"]
    three.expire_tokens()
    assert get(three, exact).status == 410


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"resourceVersionMatch": "NotOlderThan"}, "is forbidden unless resourceVersion is provided"),
        ({"resourceVersionMatch": "Newest", "resourceVersion": "1"}, 'Unsupported value: "Newest"'),
        ({"resourceVersionMatch": "Exact", "resourceVersion": "0"}, 'forbidden for resourceVersion "0"'),
        (
            {"resourceVersionMatch": "NotOlderThan", "resourceVersion": "1", "continue": "x"},
            "is forbidden when continue is provided",
        ),
    ],
)
def test_contradicting_options_are_invalid(three: ApiServer, query: Query, message: str):
    answer = get(three, query)
    assert (answer.status, answer.body["reason"]) == (422, "Invalid")
    assert message in answer.body["message"]


@pytest.mark.parametrize("query", [{"limit": "many"}, {"resourceVersion": "new"}, {"continue": "{}"}])
def test_malformed_options_are_bad_requests(three: ApiServer, query: Query):
    answer = get(three, query)
    assert (answer.status, answer.body["kind"], answer.body["reason"]) == (400, "Status", "BadRequest")


def test_other_paths_are_not_found(three: ApiServer):
    assert get(three, path="/api/v1/services").status == 404


def test_every_request_is_logged(three: ApiServer):
    get(three, {"limit": 1, "fieldSelector": "spec.nodeName=node1"})
    (request,) = three.requests
    assert (request.path, request.query) == (
        PODS_PATH,
        {"limit": "1", "fieldSelector": "spec.nodeName=node1"},
    )
    assert request.headers["host"] == f"127.0.0.1:{three.port}"


@pytest.mark.parametrize(
    ("failure", "status", "reason"),
    [
        (unauthorized(), 401, "Unauthorized"),
        (forbidden(), 403, "Forbidden"),
        (forbidden("nodes"), 403, "Forbidden"),
        (gone(), 410, "Expired"),
        (too_many_requests(), 429, "TooManyRequests"),
        (server_error(), 500, "InternalServerError"),
        (server_error(503), 503, "ServiceUnavailable"),
    ],
)
def test_a_failure_is_sent_with_its_status_body(three: ApiServer, failure: Failure, status: int, reason: str):
    three.fail(failure, times=1)
    answer = get(three)
    assert (answer.status, answer.body["code"], answer.body["reason"]) == (status, status, reason)
    assert get(three).status == 200


def test_a_fault_can_be_of_later_pages_only_and_be_taken_back(three: ApiServer):
    three.fail(gone(), when=later_page)
    first = get(three, {"limit": 1})
    assert get(three, {"limit": 1, "continue": first.token}).status == 410
    three.recover()
    assert get(three, {"limit": 1, "continue": first.token}).status == 200


@pytest.mark.parametrize("fault", [Fault(hang=True), Fault(delay=60.0)])
def test_an_answer_that_does_not_come_is_waited_for_in_vain(three: ApiServer, fault: Fault):
    three.fail(fault)
    with pytest.raises(TimeoutError):
        get(three, timeout=0.2)


def test_a_body_can_be_cut_short_in_two_ways(three: ApiServer):
    three.fail(Fault(cut="json"), times=1)
    with pytest.raises(json.JSONDecodeError):
        get(three)
    three.fail(Fault(cut="connection"), times=1)
    with pytest.raises(http.client.IncompleteRead):
        get(three)


def test_a_list_can_lack_its_items(three: ApiServer):
    three.fail(Fault(edit=without_items))
    assert get(three).body.keys() == {"kind", "apiVersion", "metadata"}


def test_a_refusing_port_refuses():
    with refusing_port() as port, pytest.raises(ConnectionRefusedError):
        http.client.HTTPConnection("127.0.0.1", port, timeout=5).connect()


def listed(api: kubernetes_client.CoreV1Api, **options: Any) -> list[str]:
    pods: Any = api.list_pod_for_all_namespaces(**options)
    return [item.metadata.name for item in pods.items]


def test_the_client_library_lists_through_a_kubeconfig(three: ApiServer, tmp_path: Path):
    three.token = TOKEN
    config = write_kubeconfig(tmp_path / "config", three.url, token=TOKEN)
    configuration = kubernetes_client.Configuration()
    kubernetes_config.load_kube_config(str(config), client_configuration=configuration)
    with kubernetes_client.ApiClient(configuration) as connection:
        api = kubernetes_client.CoreV1Api(connection)
        assert listed(api, field_selector="spec.nodeName=node1") == ["a", "b", "c"]
        three.token = "another"  # noqa: S105
        with pytest.raises(kubernetes_client.ApiException) as error:
            listed(api)
    assert error.value.status == 401


def test_the_client_library_lists_from_inside_a_cluster(
    secure_api_server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    secure_api_server.set_pods([pod("a")])
    inside = write_in_cluster(tmp_path, secure_api_server)
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(inside.token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(inside.authority))
    for name, value in inside.environment.items():
        monkeypatch.setenv(name, value)
    configuration = kubernetes_client.Configuration()
    kubernetes_config.load_incluster_config(client_configuration=configuration)
    with kubernetes_client.ApiClient(configuration) as connection:
        assert listed(kubernetes_client.CoreV1Api(connection)) == ["a"]


def test_a_client_that_does_not_know_the_certificate_gets_nothing(secure_api_server: ApiServer):
    with pytest.raises(urllib.error.URLError) as error:
        get(secure_api_server)
    assert isinstance(error.value.reason, ssl.SSLCertVerificationError)
    assert secure_api_server.requests == []


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (METADATA, "PartialObjectMetadataList"),
        (f"{METADATA},application/json", "PartialObjectMetadataList"),
        (f"application/json, {METADATA}", "PodList"),
        (f"application/json;as=Table;g=meta.k8s.io;v=v1beta9, {METADATA}", "PartialObjectMetadataList"),
        ("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v9, */*", "PodList"),
        ("application/vnd.kubernetes.protobuf, application/json", "PodList"),
    ],
)
def test_of_what_a_client_accepts_the_first_that_there_is_gets_served(three: ApiServer, accept: str, kind: str):
    answer = get(three, accept=accept)
    assert (answer.status, answer.body["kind"]) == (200, kind)
    if kind == "PartialObjectMetadataList":
        assert all(item.keys() == {"kind", "apiVersion", "metadata"} for item in answer.body["items"])


def test_who_accepts_nothing_that_there_is_gets_nothing(three: ApiServer):
    answer = get(three, accept="text/html")
    assert (answer.status, answer.body["reason"]) == (406, "NotAcceptable")


@pytest.fixture
def nodes(api_server: ApiServer) -> ApiServer:
    """A server with four nodes, and no pods."""
    blue, green = node("n1", pool="blue", zone="a"), node("n2", pool="green", zone="b")
    api_server.set_nodes([node("n4"), green, blue, node("n3", **{"example.com/pool": "blue", "pool": ""})])
    return api_server


def test_nodes_are_listed_in_pages_as_pods_are(nodes: ApiServer):
    first = get(nodes, {"limit": 3}, path=NODES_PATH)
    assert (first.body["kind"], first.names) == ("NodeList", ["n1", "n2", "n3"])
    assert first.body["metadata"]["remainingItemCount"] == 1
    nodes.set_nodes([])
    last = get(nodes, {"limit": 3, "continue": first.token}, path=NODES_PATH)
    assert (last.names, last.token) == (["n4"], "")
    nodes.expire_tokens()
    assert get(nodes, {"limit": 3, "continue": first.token}, path=NODES_PATH).status == 410
    assert get(nodes).names == []


def test_nodes_are_selected_by_fields_of_their_own(nodes: ApiServer):
    assert get(nodes, {"fieldSelector": "metadata.name=n2"}, path=NODES_PATH).names == ["n2"]
    assert get(nodes, {"fieldSelector": "spec.nodeName=n2"}, path=NODES_PATH).status == 400


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("", ["n1", "n2", "n3", "n4"]),
        ("pool=blue", ["n1"]),
        ("pool==blue", ["n1"]),
        ("pool = blue", ["n1"]),
        ("pool=", ["n3"]),
        ("pool!=blue", ["n2", "n3", "n4"]),
        ("pool", ["n1", "n2", "n3"]),
        ("!pool", ["n4"]),
        ("example.com/pool=blue", ["n3"]),
        ("pool in (blue, green)", ["n1", "n2"]),
        ("pool notin (blue,green)", ["n3", "n4"]),
        ("pool in (blue,green),zone!=a", ["n2"]),
        ("in", []),
    ],
)
def test_a_label_selector_picks_nodes(nodes: ApiServer, selector: str, names: list[str]):
    answer = get(nodes, {"labelSelector": selector, "limit": 500}, path=NODES_PATH)
    assert (answer.status, answer.names) == (200, names)


@pytest.mark.parametrize(
    "selector", ["=", "pool=a b", "pool in blue", "pool in (", "!pool=blue", "pool=blue,", "po ol", "-pool", "pool=(a)", "a/b/c"]
)
def test_a_malformed_label_selector_is_a_bad_request(nodes: ApiServer, selector: str):
    answer = get(nodes, {"labelSelector": selector}, path=NODES_PATH)
    assert (answer.status, answer.body["kind"], answer.body["reason"]) == (400, "Status", "BadRequest")
    assert answer.body["message"].startswith("unable to parse requirement: ")


def test_metadata_of_no_objects_at_all_is_null(nodes: ApiServer):
    query = {"labelSelector": "pool=none"}
    assert get(nodes, query, path=NODES_PATH, accept=METADATA).body["items"] is None
    assert get(nodes, query, path=NODES_PATH).body["items"] == []


def test_the_client_library_lists_nodes(nodes: ApiServer):
    configuration = kubernetes_client.Configuration(host=nodes.url)
    with kubernetes_client.ApiClient(configuration) as connection:
        found: Any = kubernetes_client.CoreV1Api(connection).list_node(label_selector="zone in (a,b)")
    assert [item.metadata.name for item in found.items] == ["n1", "n2"]


def test_recorded_pods_are_served_as_kubectl_printed_them(api_server: ApiServer, recorded_node: Callable[[str], RecordedNode]):
    pods = pods_from_file(recorded_node("b-dual-stack").pods_file)
    api_server.set_pods(pods)
    answer = get(api_server, {"fieldSelector": f"spec.nodeName={NODE_NAME}"})
    assert len(answer.names) == len(pods) > 0
    statuses = {each["metadata"]["name"]: each["status"] for each in pods}
    assert all(item["status"] == statuses[item["metadata"]["name"]] for item in answer.body["items"])
