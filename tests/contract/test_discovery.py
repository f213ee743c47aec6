"""The nodes of a sweep over real HTTP: all that run the worker, each page read, or one sentence; never a part of them."""

import base64
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes.config.incluster_config as incluster
import kubernetes.config.kube_config as kubeconfigs
import pytest

from cni.settings import Settings
from tasks.discovery import SKIP, CannotDiscover, Nodes, discover
from tasks.errors import Refused
from tests.support import api_server as api
from tests.support.api_server import ApiServer, Fault

PATIENCE = 60.0
"""Seconds for an answer that comes: long, since the machine may be busy."""
SHORT = 0.5
"""Seconds for an answer that never comes."""

LINUX = {"kubernetes.io/os": "linux"}
EXTERNAL = Settings(api="external")


def node(name: str, labels: dict[str, str] | None = None, *, linux: bool = True) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": (LINUX if linux else {}) | (labels or {})}, "spec": {}, "status": {"images": []}}


@pytest.fixture(autouse=True)
def server(api_server: ApiServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ApiServer:
    """An API server with two nodes, named by KUBECONFIG, and nothing of the machine's own."""
    for name in [name for name in os.environ if name.startswith("KUBE") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    api_server.set_nodes([node("n2"), node("n1")])
    use(monkeypatch, api.write_kubeconfig(tmp_path / "kubeconfig", api_server.url))
    return api_server


def use(monkeypatch: pytest.MonkeyPatch, kubeconfig: Path) -> None:
    """Name a kubeconfig; the package reads the variable when it is imported, which a process of its own does later."""
    monkeypatch.setattr(kubeconfigs, "KUBE_CONFIG_DEFAULT_LOCATION", str(kubeconfig))


def ask(selector: str | None = None, *, timeout: float = PATIENCE) -> Nodes:
    return discover(EXTERNAL, selector=selector, timeout=timeout)


def sentence(selector: str | None = None, *, timeout: float = PATIENCE) -> str:
    """Why the nodes are not known."""
    with pytest.raises(CannotDiscover) as error:
        ask(selector, timeout=timeout)
    told = str(error.value)
    assert "\n" not in told
    assert len(told) < 500
    return told


class TestTheList:
    def test_five_thousand_nodes_are_ten_requests_for_metadata_alone(self, server: ApiServer):
        names = [f"n{number:04}" for number in range(5000)]
        server.set_nodes([node(name) for name in names])
        found = ask()
        assert found == Nodes(eligible=tuple(names), skipped={}, all_there_are=True)
        assert [request.query.get("limit") for request in server.requests] == ["500"] * 10
        assert all(request.query.keys() == {"limit", "continue"} for request in server.requests[1:])
        first_accepted = {request.headers["accept"].split(",")[0] for request in server.requests}
        assert first_accepted == {"application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"}

    def test_the_pages_are_of_one_moment(self, server: ApiServer):
        def late(document: dict[str, Any]) -> dict[str, Any]:
            server.set_nodes([node("late")])
            return document

        server.fail(Fault(page=1, edit=late), times=1)
        assert ask().eligible == ("n1", "n2")

    def test_a_server_that_knows_no_metadata_alone_sends_whole_nodes(self, server: ApiServer):
        def whole(document: dict[str, Any]) -> dict[str, Any]:
            return {**document, "kind": "NodeList", "items": [{**item, "spec": {}, "status": {}} for item in document["items"]]}

        server.fail(Fault(edit=whole))
        assert ask().eligible == ("n1", "n2")
        assert server.requests[0].headers["accept"].endswith(",application/json")

    def test_a_selector_is_the_servers_to_understand_and_tells_nothing_of_the_other_nodes(self, server: ApiServer):
        server.set_nodes([node("n1", {"pool": "blue"}), node("n2", {"pool": "green"}), node("n3", {"pool": "red"})])
        found = ask("pool in (blue, red)")
        assert (found.eligible, found.all_there_are) == (("n1", "n3"), False)
        assert {request.query["labelSelector"] for request in server.requests} == {"pool in (blue, red)"}

    def test_every_page_is_of_the_same_selector(self, server: ApiServer):
        server.set_nodes([node(f"n{number:03}", {"pool": "blue" if number % 2 else "red"}) for number in range(1300)])
        assert len(ask("pool=blue").eligible) == 650
        assert [request.query["labelSelector"] for request in server.requests] == ["pool=blue"] * 2

    @pytest.mark.parametrize("selector", ["pool=", "pool=none", "!kubernetes.io/os"])
    def test_a_selector_of_no_node_is_refused(self, selector: str):
        with pytest.raises(Refused, match="selects no node"):
            ask(selector)

    @pytest.mark.parametrize("selector", ["pool in blue", "=", "a b"])
    def test_a_malformed_selector_is_refused_with_what_the_server_says(self, selector: str):
        with pytest.raises(Refused, match=r"the selector '.*' is none: it answered 400 \(unable to parse requirement"):
            ask(selector)

    def test_inside_of_a_cluster_the_service_account_is_used(
        self, secure_api_server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        secure_api_server.set_nodes([node("inside")])
        inside = api.write_in_cluster(tmp_path, secure_api_server)
        monkeypatch.setattr(incluster, "SERVICE_TOKEN_FILENAME", str(inside.token))
        monkeypatch.setattr(incluster, "SERVICE_CERT_FILENAME", str(inside.authority))
        for name, value in inside.environment.items():
            monkeypatch.setenv(name, value)
        assert discover(Settings(api="internal", in_cluster=True)).eligible == ("inside",)


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        ({**LINUX, SKIP: ""}, f"label {SKIP}"),
        ({**LINUX, SKIP: "false"}, f"label {SKIP}"),
        ({"kubernetes.io/os": "windows"}, "runs windows"),
        ({"beta.kubernetes.io/os": "windows"}, "runs windows"),
        ({"kubernetes.io/os": "windows", "beta.kubernetes.io/os": "linux"}, "runs windows"),
        ({}, "no label kubernetes.io/os"),
        ({**LINUX, "type": "virtual-kubelet"}, "label type=virtual-kubelet"),
        ({**LINUX, "type": "kwok"}, "label type=kwok"),
        ({**LINUX, "eks.amazonaws.com/compute-type": "fargate"}, "label eks.amazonaws.com/compute-type=fargate"),
        ({**LINUX, "liqo.io/type": "virtual-node"}, "label liqo.io/type=virtual-node"),
    ],
)
def test_a_node_that_never_runs_the_worker_is_left_out_with_its_reason(server: ApiServer, labels: dict[str, str], why: str):
    server.set_nodes([node("n1"), node("other", labels, linux=False)])
    found = ask()
    assert found.eligible == ("n1",)
    assert found.skipped.keys() == {"other"}
    assert why in found.skipped["other"]


@pytest.mark.parametrize(
    "labels",
    [
        LINUX,
        # Before Kubernetes 1.14 there was no other.
        {"beta.kubernetes.io/os": "linux"},
        {**LINUX, "type": "compute"},
        {**LINUX, "eks.amazonaws.com/compute-type": "ec2"},
        {**LINUX, "node.kubernetes.io/exclude-from-external-load-balancers": "", "node-role.kubernetes.io/control-plane": ""},
    ],
)
def test_a_node_that_may_run_the_worker_is_swept(server: ApiServer, labels: dict[str, str]):
    server.set_nodes([node("n1", labels, linux=False)])
    assert ask() == Nodes(eligible=("n1",))


def test_a_node_without_any_labels_is_left_out(server: ApiServer):
    server.set_nodes([node("n1"), {"metadata": {"name": "bare"}}, {"metadata": {"name": "null", "labels": None}}])
    assert ask().skipped.keys() == {"bare", "null"}


def answered(document: object) -> Fault:
    return Fault(edit=lambda _: document)


def items(*found: object) -> dict[str, Any]:
    return {"kind": "NodeList", "metadata": {}, "items": list(found)}


class TestWhatTheApiDoesNotSay:
    @pytest.mark.parametrize(
        ("failure", "why"),
        [
            (api.unauthorized(), "401: the token is not accepted"),
            (api.forbidden("nodes"), "403: the service account needs `list` on nodes (nodes is forbidden"),
            (api.too_many_requests(), "429"),
            (api.server_error(), "500"),
            (api.server_error(503), "503"),
        ],
    )
    @pytest.mark.parametrize("when", [api.every, api.later_page])
    def test_a_refusal_is_told_also_of_a_later_page(
        self, server: ApiServer, failure: api.Failure, why: str, when: Callable[[api.Request], bool]
    ):
        server.fail(failure, when=when)
        server.fail(Fault(page=1))
        assert why in sentence()

    def test_an_expired_list_is_begun_anew(self, server: ApiServer):
        server.fail(api.gone("rest"), when=api.later_page, times=2)
        server.fail(Fault(page=1))
        assert ask().eligible == ("n1", "n2")
        # Never the token that the refusal offers: what it leads to is of another moment.
        assert "rest" not in [request.query.get("continue") for request in server.requests]
        assert [bool(request.query.get("continue")) for request in server.requests] == [False, True] * 3

    def test_a_list_that_expires_again_and_again_is_given_up(self, server: ApiServer):
        server.fail(api.gone("rest"), when=api.later_page)
        server.fail(Fault(page=1))
        assert "410: the list expired while it was read" in sentence()
        assert len(server.requests) == 6

    @pytest.mark.parametrize("fault", [Fault(hang=True), Fault(delay=60.0)])
    def test_an_answer_that_does_not_come_is_not_waited_for(self, server: ApiServer, fault: Fault):
        server.fail(fault)
        assert "takes too long" in sentence(timeout=SHORT)

    def test_time_is_of_all_pages_together(self, server: ApiServer):
        server.set_nodes([node(f"n{number}") for number in range(400)])
        server.fail(Fault(page=1, delay=0.02))
        assert "takes too long" in sentence(timeout=SHORT)

    def test_nobody_serves_it(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
        with api.refusing_port() as port:
            use(monkeypatch, api.write_kubeconfig(tmp_path / "kubeconfig", f"http://127.0.0.1:{port}"))
            assert "cannot be asked" in sentence()

    def test_no_access_is_configured(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
        use(monkeypatch, tmp_path / "none")
        assert "no access to the Kubernetes API is configured" in sentence()

    @pytest.mark.parametrize(
        "document",
        [
            {"kind": "Status", "status": "Success"},
            {"kind": "NodeList", "items": [node("n1")]},
            {"kind": "NodeList", "metadata": {}},
            {"kind": "NodeList", "metadata": {}, "items": 7},
            {"kind": "NodeList", "metadata": None, "items": []},
            items("n1"),
            items(None),
            items({"metadata": {}}),
            items({"metadata": {"name": None}}),
            items({"metadata": {"name": ""}}),
            # No such name gets as far as a queue, where it would end the sweep half-way.
            items(node("n1"), node("Node_2")),
            items({"metadata": {"name": ["n1"]}}),
            items({"metadata": {"name": "n1", "labels": ["os"]}}),
            ["n1"],
            "n1",
            7,
        ],
    )
    def test_what_is_no_list_of_nodes_is_told(self, server: ApiServer, document: object):
        server.fail(answered(document))
        assert "no list of nodes" in sentence()

    @pytest.mark.parametrize("document", [items(), {"kind": "NodeList", "metadata": {}, "items": None}])
    def test_a_cluster_of_no_nodes_is_none(self, server: ApiServer, document: object):
        server.fail(answered(document))
        assert "shows no node at all" in sentence()

    @pytest.mark.parametrize("cut", ["json", "connection"])
    def test_an_answer_that_was_cut_short_is_no_answer(self, server: ApiServer, cut: str):
        server.fail(Fault(cut=cut))
        assert sentence()

    def test_a_list_that_says_it_is_partial_and_leads_nowhere_is_no_list(self, server: ApiServer):
        server.fail(answered({**items(node("n1")), "metadata": {"remainingItemCount": 1}}))
        assert "partial: 1 more nodes are not in it" in sentence()

    def test_a_page_that_leads_back_to_itself_ends(self, server: ApiServer):
        def back(document: dict[str, Any]) -> dict[str, Any]:
            token = server.requests[-1].query.get("continue") or document["metadata"]["continue"]
            return {**document, "metadata": {"continue": token}}

        server.fail(Fault(page=1, edit=back))
        assert "never ends" in sentence()
        assert len(server.requests) == 2

    def test_a_list_that_never_ends_is_left_in_time(self, server: ApiServer):
        def another(document: dict[str, Any]) -> dict[str, Any]:
            start = {"rv": document["metadata"]["resourceVersion"], "start": "", "number": len(server.requests)}
            return {**document, "metadata": {"continue": base64.urlsafe_b64encode(json.dumps(start).encode()).decode()}}

        server.fail(Fault(edit=another))
        assert "takes too long" in sentence(timeout=SHORT)


class TestAList:
    def test_it_is_taken_in_order_and_each_node_once(self, server: ApiServer):
        settings = Settings(static_nodes=("n2", "n1", "n2"))
        assert discover(settings) == Nodes(eligible=("n1", "n2"), all_there_are=False)
        assert server.requests == []

    def test_it_goes_before_the_api(self, server: ApiServer):
        assert discover(Settings(api="external", static_nodes=("mine",))).eligible == ("mine",)
        assert server.requests == []

    def test_it_has_no_labels_to_select_by(self):
        with pytest.raises(Refused, match="a selector needs the Kubernetes API"):
            discover(Settings(static_nodes=("n1",)), selector="pool=blue")

    def test_a_name_that_is_none_is_refused(self):
        with pytest.raises(Refused, match="not the name of a node"):
            discover(Settings(static_nodes=("n1", "Node_2")))


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (Settings(api="none"), "no nodes to sweep: control needs --static-nodes"),
        (Settings(api="internal", in_cluster=False), "control needs the nodes of its sweeps: --static-nodes"),
    ],
)
def test_where_no_node_can_be_known_it_is_refused(settings: Settings, why: str):
    with pytest.raises(Refused, match=why):
        discover(settings)
