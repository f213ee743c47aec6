"""What every runtime answers: the same tests over the server of the tests and over a real containerd.

They hold the tests' server to the truth, and the field numbers of `tests.support.cri` with it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID, uuid4

import grpc
import pytest

from tests.support.cri import NETWORK_OF_NODE, NETWORK_OF_POD, NOT_READY, READY, CriClient
from tests.support.cri_server import CriServer, Sandbox
from tests.support.nodelab import NodeLab

UNKNOWN_ID = "0" * 64
TIMEOUT = 60.0
LABELS = {"app": "web", "io.kubernetes.pod.namespace": "default"}
ANNOTATIONS = {"kubernetes.io/config.hash": "0123456789abcdef", "kubernetes.io/config.source": "file"}


class Runtime(Protocol):
    """What the tests do to a runtime; every sandbox is of a pod in the namespace `default`."""

    @property
    def socket(self) -> Path: ...
    def make(self, name: str, *, host_network: bool = False) -> str: ...
    def stop(self, sandbox_id: str) -> None: ...
    def remove(self, sandbox_id: str) -> None: ...
    def addresses(self, sandbox_id: str) -> set[str]: ...


@dataclass
class OurServer:
    server: CriServer

    @property
    def socket(self) -> Path:
        return self.server.socket

    def make(self, name: str, *, host_network: bool = False) -> str:
        number = len(self.server.state.sandboxes) + 1
        sandbox_id = f"{number:02x}" * 32
        uid = str(UUID(int=number))
        self.server.add(
            Sandbox(
                id=sandbox_id,
                name=name,
                uid=uid,
                ips=() if host_network else (f"10.207.0.{number + 1}",),
                host_network=host_network,
                labels=LABELS,
                annotations=ANNOTATIONS,
            )
        )
        return sandbox_id

    def stop(self, sandbox_id: str) -> None:
        (stopped,) = (each for each in self.server.state.sandboxes if each.id == sandbox_id)
        self.server.remove(sandbox_id)
        self.server.add(Sandbox(id=sandbox_id, name=stopped.name, uid=stopped.uid, ready=False))

    def remove(self, sandbox_id: str) -> None:
        self.server.remove(sandbox_id)

    def addresses(self, sandbox_id: str) -> set[str]:
        return {ip for each in self.server.state.sandboxes if each.id == sandbox_id for ip in each.ips}


@dataclass
class Containerd:
    lab: NodeLab

    @property
    def socket(self) -> Path:
        return self.lab.socket

    def make(self, name: str, *, host_network: bool = False) -> str:
        options = {"network": NETWORK_OF_NODE if host_network else NETWORK_OF_POD}
        with CriClient(self.lab.socket, timeout=TIMEOUT) as client:
            return client.run(
                {
                    "metadata": {"name": name, "uid": str(uuid4()), "namespace": "default"},
                    "log_directory": str(self.lab.directory / "logs" / name),
                    "labels": LABELS,
                    "annotations": ANNOTATIONS,
                    "linux": {
                        "cgroup_parent": "/node-lab",
                        "security_context": {"namespace_options": options},
                    },
                }
            )

    def stop(self, sandbox_id: str) -> None:
        self.lab.stop(sandbox_id)

    def remove(self, sandbox_id: str) -> None:
        self.lab.rm(sandbox_id)

    def addresses(self, sandbox_id: str) -> set[str]:
        return self.lab.addresses(sandbox_id)


@pytest.fixture(params=["ours", "containerd"])
def runtime(request: pytest.FixtureRequest) -> Runtime:
    if request.param == "ours":
        return OurServer(request.getfixturevalue("cri_server"))
    return Containerd(request.getfixturevalue("node_lab"))


@pytest.fixture
def client(runtime: Runtime) -> Iterator[CriClient]:
    with CriClient(runtime.socket, timeout=TIMEOUT) as connected:
        yield connected


def code_of(error: pytest.ExceptionInfo[Any]) -> grpc.StatusCode:
    found = error.value.code()  # of the call that grpc raises, which its type does not say
    assert isinstance(found, grpc.StatusCode)
    return found


def test_version_names_the_runtime_and_the_api(client: CriClient):
    version = client.version()
    assert (version.version, version.runtime_name, version.runtime_api_version) == (
        "0.1.0",
        "containerd",
        "v1",
    )
    assert version.runtime_version.split(".")[0].isdecimal()


def test_a_runtime_without_sandboxes_lists_none(client: CriClient):
    assert client.sandboxes() == {}


def test_every_sandbox_is_listed_with_its_pod(runtime: Runtime, client: CriClient):
    made = {runtime.make("web"): "web", runtime.make("db"): "db"}
    listed = client.sandboxes()
    assert {sandbox_id: item.metadata.name for sandbox_id, item in listed.items()} == made
    for item in listed.values():
        assert item.metadata.namespace == "default"
        assert str(UUID(item.metadata.uid)) == item.metadata.uid
        assert item.state == READY
        assert item.created_at > 10**18, "created_at is in nanoseconds"
        assert (dict(item.labels), dict(item.annotations)) == (LABELS, ANNOTATIONS)
        assert item.runtime_handler == ""


def test_status_gives_address_and_network_mode(runtime: Runtime, client: CriClient):
    sandbox_id = runtime.make("web")
    status = client.status(sandbox_id)
    assert (status.id, status.metadata.name, status.state) == (sandbox_id, "web", READY)
    assert {status.network.ip} == runtime.addresses(sandbox_id)
    assert list(status.network.additional_ips) == []
    assert status.linux.namespaces.HasField("options")
    assert status.linux.namespaces.options.network == NETWORK_OF_POD


def test_status_repeats_labels_and_annotations(runtime: Runtime, client: CriClient):
    status = client.status(runtime.make("web"))
    assert (dict(status.labels), dict(status.annotations)) == (LABELS, ANNOTATIONS)


def test_a_sandbox_of_the_nodes_network_has_no_address(runtime: Runtime, client: CriClient):
    sandbox_id = runtime.make("proxy", host_network=True)
    status = client.status(sandbox_id)
    assert status.linux.namespaces.options.network == NETWORK_OF_NODE
    assert status.network.ip == ""
    assert runtime.addresses(sandbox_id) == set()
    assert client.sandboxes()[sandbox_id].state == READY


def test_a_label_selector_picks_sandboxes(runtime: Runtime, client: CriClient):
    sandbox_id = runtime.make("web")
    assert list(client.sandboxes(label_selector={"app": "web"})) == [sandbox_id]
    assert client.sandboxes(label_selector={"app": "db"}) == {}


def test_a_stopped_sandbox_stays_listed_without_an_address(runtime: Runtime, client: CriClient):
    sandbox_id = runtime.make("web")
    runtime.stop(sandbox_id)
    assert client.sandboxes()[sandbox_id].state == NOT_READY
    assert client.status(sandbox_id).network.ip == ""


def test_a_removed_sandbox_is_known_no_more(runtime: Runtime, client: CriClient):
    sandbox_id = runtime.make("web")
    runtime.stop(sandbox_id)
    runtime.remove(sandbox_id)
    assert client.sandboxes() == {}
    with pytest.raises(grpc.RpcError) as error:
        client.status(sandbox_id)
    assert code_of(error) is grpc.StatusCode.NOT_FOUND


def test_a_prefix_of_an_id_is_taken_for_the_id(runtime: Runtime, client: CriClient):
    sandbox_id = runtime.make("web")
    assert list(client.sandboxes(id=sandbox_id[:6])) == [sandbox_id]
    assert client.status(sandbox_id[:6]).id == sandbox_id


def test_a_filter_that_matches_nothing_lists_nothing(runtime: Runtime, client: CriClient):
    runtime.make("web")
    assert client.sandboxes(id=UNKNOWN_ID) == {}
    assert client.sandboxes(state={"state": NOT_READY}) == {}


@pytest.mark.parametrize(("asked", "code"), [(UNKNOWN_ID, grpc.StatusCode.NOT_FOUND), ("", grpc.StatusCode.UNKNOWN)])
def test_status_of_no_sandbox_is_an_error(client: CriClient, asked: str, code: grpc.StatusCode):
    with pytest.raises(grpc.RpcError) as error:
        client.status(asked)
    assert code_of(error) is code
