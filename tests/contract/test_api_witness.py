"""The api witness over real HTTP: a fresh and whole list of this node's pods, or Unknown with a sentence; never fewer pods."""

import contextlib
import json
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kubernetes.config.incluster_config as incluster
import kubernetes.config.kube_config as kubeconfigs
import pytest

from cni.evidence import ApiEvidence
from cni.pods import parse_pods
from tests.support import api_server as api
from tests.support.api_server import ApiServer, Certificate, Fault
from tests.support.recorded import CASES, NODE_NAME, RecordedNode
from workers.offline import api_from_file
from workers.pods import ApiWitness

PATIENCE = 20.0
"""Seconds for an answer that comes: long, since the machine may be busy."""
SHORT = 0.5
"""Seconds for an answer that never comes."""

SELECTOR = {"fieldSelector": "spec.nodeName=node1"}


def pod(name: str, *, node: str = "node1", ips: tuple[str, ...] = ("10.88.0.2",)) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "default", "uid": f"uid-{name}", "resourceVersion": "7"},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "busybox"}]},
        "status": {"phase": "Running", "podIP": ips[0], "podIPs": [{"ip": ip} for ip in ips]},
    }


PODS = [pod("web"), pod("db", ips=("10.88.0.3", "fd00:88::3"))]


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the machine's own, neither a cluster nor a proxy."""
    for name in [name for name in os.environ if name.startswith("KUBE") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    use(monkeypatch, tmp_path / "nothing")


def use(monkeypatch: pytest.MonkeyPatch, kubeconfig: Path) -> None:
    """Name a kubeconfig; the package reads the variable when it is imported, which a process of its own does later."""
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    monkeypatch.setattr(kubeconfigs, "KUBE_CONFIG_DEFAULT_LOCATION", str(kubeconfig))


@pytest.fixture
def server(api_server: ApiServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ApiServer:
    """An API server with two pods, named by KUBECONFIG."""
    api_server.set_pods(PODS)
    use(monkeypatch, api.write_kubeconfig(tmp_path / "kubeconfig", api_server.url))
    return api_server


def ask(node: str | None = "node1", *, timeout: float = PATIENCE) -> ApiEvidence:
    return ApiWitness("external", node, timeout=timeout).ask()


def names(evidence: ApiEvidence) -> list[str]:
    assert evidence.unknown is None
    assert not evidence.off
    return sorted(one.name.removeprefix("default/") for one in evidence.pods)


def sentence(evidence: ApiEvidence) -> str:
    """Why it is Unknown; there are no pods then that could be taken for all of them."""
    assert evidence.unknown
    assert "\n" not in evidence.unknown
    assert len(evidence.unknown) < 500
    assert not evidence.off
    assert list(evidence.pods) == []
    return evidence.unknown


class TestTheList:
    def test_it_is_two_requests_so_that_it_is_fresh_and_cheap(self, server: ApiServer):
        assert names(ask()) == ["db", "web"]
        newest = str(server.revision)
        assert [request.path for request in server.requests] == ["/api/v1/pods"] * 2
        assert [dict(request.query) for request in server.requests] == [
            {**SELECTOR, "limit": "1"},
            {**SELECTOR, "resourceVersion": newest, "resourceVersionMatch": "NotOlderThan"},
        ]
        assert all("json" in request.headers["accept"] for request in server.requests)

    def test_it_is_never_older_than_the_question(self, server: ApiServer):
        assert names(ask()) == ["db", "web"]
        server.set_pods([*PODS, pod("new")])
        assert names(ask()) == ["db", "new", "web"]

    @pytest.mark.usefixtures("server")
    def test_addresses_uids_and_states_are_those_of_the_answer(self):
        by_name = {one.name: one for one in ask().pods}
        assert by_name["default/db"].addresses == {"10.88.0.3", "fd00:88::3"}
        assert by_name["default/db"].uid == "uid-db"
        assert by_name["default/db"].running

    def test_only_this_nodes_pods_are_asked_for(self, server: ApiServer):
        server.set_pods([*PODS, pod("elsewhere", node="node2"), pod("nowhere", node="")])
        assert names(ask()) == ["db", "web"]
        assert names(ask("node2")) == ["elsewhere"]

    @pytest.mark.parametrize("size", [1, 2, 3, 6, 7])
    def test_every_page_is_followed_whoever_makes_them(self, server: ApiServer, size: int):
        server.set_pods([pod(f"p-{number}") for number in range(7)])
        server.fail(Fault(page=size))
        assert names(ask()) == [f"p-{number}" for number in range(7)]
        later = [dict(request.query) for request in server.requests[2:]]
        assert len(later) == (7 - 1) // size
        assert all(query.keys() == {"fieldSelector", "continue"} for query in later)

    def test_nothing_is_asked_with_the_api_off(self, server: ApiServer):
        evidence = ApiWitness("none", None).ask()
        assert (evidence.off, evidence.unknown, list(evidence.pods)) == (True, None, [])
        assert server.requests == []

    def test_five_thousand_pods_are_a_list(self, server: ApiServer):
        server.set_pods([pod(f"p-{number}", ips=(f"10.{number >> 8}.{number & 255}.9",)) for number in range(5000)])
        assert len(ask().pods) == 5000


@pytest.mark.parametrize("case", CASES)
def test_a_recorded_answer_served_is_the_recorded_file(
    case: str,
    server: ApiServer,
    recorded_node: Callable[[str], RecordedNode],
):
    node = recorded_node(case)
    server.set_pods(api.pods_from_file(node.pods_file))
    asked, read = ask(NODE_NAME), api_from_file(str(node.pods_file), NODE_NAME)
    assert asked.unknown is None
    assert sorted(asked.pods, key=lambda one: one.uid) == sorted(read.pods, key=lambda one: one.uid)


def edited(**changes: Any) -> Fault:
    """A list with other keys at the top; None takes one away."""
    return Fault(edit=lambda document: {key: value for key, value in {**document, **changes}.items() if value is not None})


def with_metadata(**changes: Any) -> Fault:
    """A list with other metadata; None takes one away."""

    def edit(document: dict[str, Any]) -> dict[str, Any]:
        metadata = {key: value for key, value in {**document["metadata"], **changes}.items() if value is not None}
        return {**document, "metadata": metadata}

    return Fault(edit=edit)


def second(request: api.Request) -> bool:
    """A fault of the list itself, not of the question for its revision."""
    return "resourceVersionMatch" in request.query


class TestFailures:
    @pytest.mark.parametrize("when", [api.every, second], ids=["first request", "second request"])
    @pytest.mark.parametrize(
        ("failure", "word"),
        [
            (api.unauthorized(), "401"),
            (api.forbidden(), "403"),
            (api.gone(), "410"),
            (api.gone("a-token"), "410"),
            (api.too_many_requests(3600), "429"),
            (api.server_error(500), "500"),
            (api.server_error(502), "502"),
            (api.server_error(503), "503"),
            (api.server_error(504), "504"),
            (api.Failure(404, "NotFound", "page not found"), "404"),
            (api.Failure(400, "BadRequest", "two\nlines " + "x" * 1000), "400"),
            (api.Failure(204, "x", "x"), "204"),
            (api.Failure(206, "x", "x"), "206"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_a_refusal_is_unknown_and_named(
        self, server: ApiServer, failure: api.Failure, word: str, when: Callable[[api.Request], bool]
    ):
        server.fail(failure, when=when)
        assert word in sentence(ask())

    def test_403_says_what_is_missing(self, server: ApiServer):
        server.fail(api.forbidden())
        assert "list" in sentence(ask())

    @pytest.mark.parametrize("offered", ["", "token"])
    def test_410_in_the_middle_is_unknown_whatever_it_offers(self, server: ApiServer, offered: str):
        server.set_pods([pod(f"p-{number}") for number in range(5)])
        server.fail(api.gone(offered), when=api.later_page)
        server.fail(Fault(page=2))
        assert "410" in sentence(ask())
        assert sum(api.later_page(request) for request in server.requests) == 1

    def test_a_token_that_expires_while_pages_are_read_is_unknown(self, server: ApiServer):
        server.set_pods([pod(f"p-{number}") for number in range(5)])

        def expiring(document: dict[str, Any]) -> dict[str, Any]:
            server.expire_tokens()
            return document

        server.fail(Fault(page=2, edit=expiring), when=second)
        server.fail(Fault(page=2))
        assert "410" in sentence(ask())

    @pytest.mark.parametrize("failure", [api.server_error(500), api.forbidden()])
    def test_a_later_page_that_fails_makes_all_unknown(self, server: ApiServer, failure: api.Failure):
        server.set_pods([pod(f"p-{number}") for number in range(5)])
        server.fail(failure, when=api.later_page)
        server.fail(Fault(page=2))
        assert str(failure.code) in sentence(ask())

    @pytest.mark.parametrize("cut", ["json", "connection"])
    @pytest.mark.parametrize("when", [api.every, second, api.later_page], ids=["first", "second", "page"])
    def test_a_body_that_is_cut_short_is_unknown(self, server: ApiServer, cut: str, when: Callable[[api.Request], bool]):
        server.set_pods([pod(f"p-{number}") for number in range(5)])
        server.fail(Fault(page=2, cut=cut), when=when)
        server.fail(Fault(page=2))
        sentence(ask())

    @pytest.mark.parametrize("when", [api.every, second, api.later_page], ids=["first", "second", "page"])
    def test_an_answer_that_never_comes_is_unknown(self, server: ApiServer, when: Callable[[api.Request], bool]):
        server.set_pods([pod(f"p-{number}") for number in range(5)])
        server.fail(Fault(hang=True), when=when)
        server.fail(Fault(page=2))
        sentence(ask(timeout=SHORT))

    def test_nobody_listens(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
        with api.refusing_port() as port:
            use(monkeypatch, api.write_kubeconfig(tmp_path / "kubeconfig", f"http://127.0.0.1:{port}"))
            assert "cannot be asked" in sentence(ask())

    def test_an_empty_list_is_unknown(self, server: ApiServer):
        server.set_pods([pod("elsewhere", node="node2")])
        why = sentence(ask())
        assert "node1" in why

    def test_pods_of_another_node_are_unknown(self, server: ApiServer):
        server.fail(Fault(edit=lambda document: {**document, "items": [*document["items"], pod("x", node="node2")]}))
        assert "other nodes" in sentence(ask())

    @pytest.mark.parametrize("offset", [-10, -1])
    def test_a_list_older_than_asked_for_is_unknown(self, server: ApiServer, offset: int):
        server.fail(with_metadata(resourceVersion=str(server.revision + offset)), when=second)
        assert "older" in sentence(ask())

    @pytest.mark.parametrize("revision", [None, "", "0", 0, 1000, ["x"]])
    def test_a_list_without_a_revision_is_unknown(self, server: ApiServer, revision: Any):
        server.fail(with_metadata(resourceVersion=revision))
        assert "resourceVersion" in sentence(ask())

    @pytest.mark.parametrize("when", [api.every, second], ids=["first", "second"])
    @pytest.mark.parametrize(
        "fault",
        [
            pytest.param(edited(kind="Status"), id="another kind"),
            pytest.param(edited(kind=None), id="no kind"),
            pytest.param(edited(kind="PartialObjectMetadataList"), id="metadata alone"),
            pytest.param(edited(metadata=None), id="no metadata"),
            pytest.param(edited(metadata="x"), id="metadata a string"),
            pytest.param(Fault(edit=lambda _: []), id="a list"),
            pytest.param(Fault(edit=lambda _: "pods"), id="a string"),
        ],
    )
    def test_what_is_no_list_of_pods_is_unknown(self, server: ApiServer, fault: Fault, when: Callable[[api.Request], bool]):
        server.fail(fault, when=when)
        assert "no list of pods" in sentence(ask())

    @pytest.mark.parametrize(
        "fault",
        [
            pytest.param(Fault(edit=api.without_items), id="no items"),
            pytest.param(Fault(edit=lambda _: None), id="null"),
            pytest.param(edited(items={}), id="items an object"),
            pytest.param(edited(items=[None]), id="a null pod"),
            pytest.param(edited(items=[{"metadata": {}}]), id="a pod without a uid"),
            pytest.param(edited(items=[{**pod("x"), "status": {"podIP": "x"}}]), id="an address that is none"),
        ],
    )
    def test_a_list_with_other_things_than_pods_is_unknown(self, server: ApiServer, fault: Fault):
        server.fail(fault, when=second)
        sentence(ask())

    @pytest.mark.parametrize("left", [1, 4999])
    def test_a_partial_list_without_a_way_to_go_on_is_unknown(self, server: ApiServer, left: int):
        server.fail(with_metadata(remainingItemCount=left), when=second)
        assert "partial" in sentence(ask())

    def test_pages_that_lead_round_in_a_circle_are_unknown(self, server: ApiServer):
        server.set_pods([pod(f"p-{number}") for number in range(5)])
        tokens: list[str] = []

        def circle(document: dict[str, Any]) -> dict[str, Any]:
            tokens.append(document["metadata"].get("continue") or tokens[0])
            return {**document, "metadata": {**document["metadata"], "continue": tokens[0]}}

        server.fail(Fault(page=2, edit=circle))
        sentence(ask(timeout=PATIENCE))

    @pytest.mark.parametrize("node", [None, ""])
    def test_without_the_nodes_name_nothing_is_asked(self, server: ApiServer, node: str | None):
        assert "--node" in sentence(ask(node))
        assert server.requests == []

    def test_a_failure_is_one_sentence_and_not_a_log_besides(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ):
        with api.refusing_port() as port, caplog.at_level(logging.WARNING):
            use(monkeypatch, api.write_kubeconfig(tmp_path / "kubeconfig", f"http://127.0.0.1:{port}"))
            sentence(ask())
        assert [record.getMessage() for record in caplog.records] == []


@contextlib.contextmanager
def dripping(answer: bytes, *, at_once: int) -> Iterator[tuple[str, Callable[[], bool]]]:
    """A server that sends `at_once` bytes and then one every 50 ms; its URL, and whether it came to an end."""
    over = threading.Event()
    finished = threading.Event()

    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            connection.sendall(answer[:at_once])
            for byte in answer[at_once:]:
                if over.wait(0.05):
                    return
                connection.sendall(bytes([byte]))
            finished.set()

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                serve(listener.accept()[0])

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", finished.is_set
        finally:
            over.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize("part", ["body", "headers"])
def test_a_server_that_drips_is_unknown_when_the_time_is_over(part: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
    answer, at_once = (head + b" " * 100, len(head)) if part == "body" else (head, 0)
    with dripping(answer, at_once=at_once) as (url, has_finished):
        use(monkeypatch, api.write_kubeconfig(tmp_path / "kubeconfig", url))
        sentence(ask(timeout=SHORT))
        assert not has_finished()


def cluster(**fields: Any) -> str:
    """A kubeconfig of one cluster, with one user; `server` and `user` are its parts."""
    server, user = fields.get("server", "http://127.0.0.1:1"), fields.get("user", {})
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
            "clusters": [{"name": "k", "cluster": {"server": server, **fields.get("cluster", {})}}],
            "users": [{"name": "u", "user": user}],
        }
    )


TLS = "https://127.0.0.1:1"


def helper(command: str) -> dict[str, str]:
    return {"apiVersion": "client.authentication.k8s.io/v1", "command": command}


class TestKubeconfig:
    @pytest.mark.parametrize(
        "text",
        [
            pytest.param("", id="empty"),
            pytest.param("{[", id="no YAML"),
            pytest.param("a: *b", id="an unknown alias"),
            pytest.param("just a sentence", id="a sentence"),
            pytest.param("- a", id="a list"),
            pytest.param("{}", id="an empty object"),
            pytest.param("current-context: x\ncontexts: []\nclusters: []\nusers: []", id="an unknown context"),
            pytest.param("current-context: x\ncontexts: 7\nclusters: 7\nusers: 7", id="numbers"),
            pytest.param('a: !!int ""', id="an empty number"),
            pytest.param(cluster(server=""), id="no server"),
            pytest.param(cluster(server="not a url"), id="no URL"),
            pytest.param(cluster(server="ftp://127.0.0.1"), id="another scheme"),
            pytest.param(cluster(server="http://127.0.0.1:99999"), id="no port"),
            pytest.param(cluster(server="http://[::1"), id="half an address"),
            pytest.param(cluster(server=7), id="a number as server"),
            pytest.param(cluster(server=TLS, cluster={"certificate-authority": "/nonexistent"}), id="no CA file"),
            pytest.param(cluster(server=TLS, cluster={"certificate-authority-data": "%%%"}), id="garbled CA"),
            pytest.param(cluster(server=TLS, cluster={"certificate-authority-data": "eA=="}), id="no CA"),
            pytest.param(cluster(user={"exec": helper("/nonexistent")}), id="no helper"),
            pytest.param(cluster(user={"exec": helper("false")}), id="a helper that fails"),
            pytest.param(cluster(user={"tokenFile": "/nonexistent"}), id="no token file"),
            pytest.param(cluster(user={"client-certificate": "/nonexistent", "client-key": "/x"}), id="no client certificate"),
            pytest.param(cluster(user={"auth-provider": {"name": "gcp"}}), id="an old provider"),
        ],
    )
    @pytest.mark.filterwarnings("ignore::FutureWarning")  # urllib3's, of a URL without a scheme
    def test_one_that_cannot_be_used_is_unknown(self, text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
        path = tmp_path / "kubeconfig"
        path.write_text(text)
        use(monkeypatch, path)
        sentence(ask())

    @pytest.mark.parametrize("kind", ["missing", "directory", "binary"])
    def test_one_that_cannot_be_read_is_unknown(self, kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
        path = tmp_path / "kubeconfig"
        if kind == "directory":
            path.mkdir()
        elif kind == "binary":
            path.write_bytes(b"\xff\xfe\x00")
        use(monkeypatch, path)
        assert "KUBECONFIG" in sentence(ask())

    def test_its_token_and_authority_are_used(
        self, secure_api_server: ApiServer, certificate: Certificate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ):
        secure_api_server.set_pods(PODS)
        path, authority, token = tmp_path / "kubeconfig", certificate.certificate, secure_api_server.token
        use(monkeypatch, api.write_kubeconfig(path, secure_api_server.url, token=token, authority=authority))
        assert names(ask()) == ["db", "web"]
        api.write_kubeconfig(path, secure_api_server.url, token="wrong", authority=authority)  # noqa: S106  # wrong on purpose
        assert "401" in sentence(ask())
        api.write_kubeconfig(path, secure_api_server.url, token=token)
        assert "ssl" in sentence(ask()).lower()


class TestInternal:
    def ask(self) -> ApiEvidence:
        return ApiWitness("internal", "node1", timeout=PATIENCE).ask()

    def test_without_a_cluster_it_is_unknown_with_a_hint(self):
        assert "--api external" in sentence(self.ask())

    @pytest.fixture
    def in_cluster(self, secure_api_server: ApiServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> api.InCluster:
        """What a pod finds, with two pods in the cluster."""
        secure_api_server.set_pods(PODS)
        found = api.write_in_cluster(tmp_path, secure_api_server)
        for name, value in found.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(incluster, "SERVICE_TOKEN_FILENAME", str(found.token))
        monkeypatch.setattr(incluster, "SERVICE_CERT_FILENAME", str(found.authority))
        return found

    def test_the_service_account_of_the_pod_is_used(self, in_cluster: api.InCluster, secure_api_server: ApiServer):
        assert names(self.ask()) == ["db", "web"]
        assert secure_api_server.requests[0].headers["authorization"].lower() == f"bearer {in_cluster.token.read_text()}"

    def test_a_token_that_was_renewed_is_read_again(self, in_cluster: api.InCluster, secure_api_server: ApiServer):
        in_cluster.token.write_text("of yesterday")
        assert "401" in sentence(self.ask())
        in_cluster.token.write_text(secure_api_server.token or "")
        assert names(self.ask()) == ["db", "web"]

    @pytest.mark.usefixtures("in_cluster")
    @pytest.mark.parametrize("file", ["SERVICE_TOKEN_FILENAME", "SERVICE_CERT_FILENAME"])
    def test_a_service_account_that_is_not_mounted_is_unknown(self, file: str, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(incluster, file, "/nonexistent")
        assert "--api external" in sentence(self.ask())

    @pytest.mark.usefixtures("in_cluster")
    def test_another_authority_is_unknown(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
        other = tmp_path / "other"
        other.mkdir()
        monkeypatch.setattr(incluster, "SERVICE_CERT_FILENAME", str(api.self_signed(other).certificate))
        assert "ssl" in sentence(self.ask()).lower()


def test_the_parser_and_the_server_agree_on_a_list(server: ApiServer):
    assert [where for where, _ in parse_pods({"items": PODS})] == ["node1", "node1"]
