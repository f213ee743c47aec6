"""The faults that the tests' runtime can have, as a client sees them: a real one has none on demand."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.support.cri import NETWORK_OF_NODE, CriClient
from tests.support.cri_server import (
    CriServer,
    Faults,
    Sandbox,
    State,
    babbling_socket,
    cri_server_process,
    dead_socket,
    deaf_socket,
    sandboxes_from_file,
)
from tests.support.polling import until
from tests.support.recorded import RecordedNode

ID = "ab" * 32
MIB = 1024 * 1024


@pytest.fixture
def client(cri_server: CriServer) -> Iterator[CriClient]:
    with CriClient(cri_server.socket) as connected:
        yield connected


def code(error: pytest.ExceptionInfo[Any]) -> grpc.StatusCode:
    found = error.value.code()  # of the call that grpc raises, which its type does not say
    assert isinstance(found, grpc.StatusCode)
    return found


def test_a_sandbox_shows_only_from_its_time_on(cri_server: CriServer, client: CriClient):
    cri_server.add(Sandbox(id=ID), visible_after=0.3)
    shown_from = cri_server.state.sandboxes[0].visible_from
    while not (listed := client.sandboxes()):
        assert time.monotonic() < shown_from + 20
    assert list(listed) == [ID]
    assert time.monotonic() >= shown_from


def test_status_gives_all_addresses_and_the_network_of_the_node(cri_server: CriServer, client: CriClient):
    other = "cd" * 32
    cri_server.add(Sandbox(id=ID, ips=("10.88.0.2", "fd00::2")))
    cri_server.add(Sandbox(id=other, ips=("192.0.2.1",), host_network=True))
    network = client.status(ID).network
    assert [network.ip, *(each.ip for each in network.additional_ips)] == ["10.88.0.2", "fd00::2"]
    assert client.status(other).network.ip == ""
    assert client.status(other).linux.namespaces.options.network == NETWORK_OF_NODE


def test_an_error_is_of_one_method_until_it_is_taken_back(cri_server: CriServer, client: CriClient):
    cri_server.fail(errors={"ListPodSandbox": "UNAVAILABLE"})
    with pytest.raises(grpc.RpcError) as error:
        client.sandboxes()
    assert code(error) is grpc.StatusCode.UNAVAILABLE
    assert client.version().runtime_name == "containerd"
    cri_server.fail()
    assert client.sandboxes() == {}
    assert cri_server.calls == ["ListPodSandbox", "Version", "ListPodSandbox"]


def test_a_socket_without_the_service_is_unimplemented(cri_server: CriServer, client: CriClient):
    cri_server.fail(unimplemented=True)
    for call in (client.version, client.sandboxes):
        with pytest.raises(grpc.RpcError) as error:
            call()
        assert code(error) is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("faults", [Faults(hangs=("ListPodSandbox",)), Faults(delays={"ListPodSandbox": 60.0})])
def test_an_answer_that_does_not_come_runs_into_the_deadline(cri_server: CriServer, faults: Faults):
    cri_server.change(faults=faults)
    with CriClient(cri_server.socket, timeout=0.2) as hurried, pytest.raises(grpc.RpcError) as error:
        hurried.sandboxes()
    assert code(error) is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize(("padding", "limit"), [(5 * MIB, 4 * MIB), (65 * MIB, 64 * MIB)])
def test_a_list_above_the_clients_limit_is_refused_by_the_client(cri_server: CriServer, padding: int, limit: int):
    cri_server.add(Sandbox(id=ID))
    cri_server.add(Sandbox(id="cd" * 32))
    cri_server.fail(padding=padding)
    with CriClient(cri_server.socket, max_bytes=limit) as small, pytest.raises(grpc.RpcError) as error:
        small.sandboxes()
    assert code(error) is grpc.StatusCode.RESOURCE_EXHAUSTED
    with CriClient(cri_server.socket, max_bytes=padding + MIB) as large:
        assert len(large.sandboxes()) == 2


def test_a_stopped_server_is_unavailable_and_comes_back_with_its_sandboxes(cri_server: CriServer):
    cri_server.add(Sandbox(id=ID))
    cri_server.stop()
    with CriClient(cri_server.socket) as early, pytest.raises(grpc.RpcError) as error:
        early.sandboxes()
    assert code(error) is grpc.StatusCode.UNAVAILABLE
    cri_server.start()
    with CriClient(cri_server.socket) as late:
        assert list(late.sandboxes()) == [ID]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (dead_socket, grpc.StatusCode.UNAVAILABLE),
        (babbling_socket, grpc.StatusCode.UNAVAILABLE),
        (deaf_socket, grpc.StatusCode.DEADLINE_EXCEEDED),
    ],
)
def test_other_sockets_are_no_runtime(
    short_dir: Path, kind: Callable[[Path], AbstractContextManager[Path]], expected: grpc.StatusCode
):
    with kind(short_dir / "other.sock") as socket, CriClient(socket, timeout=0.5) as client:
        with pytest.raises(grpc.RpcError) as error:
            client.version()
        assert code(error) in {expected, grpc.StatusCode.DEADLINE_EXCEEDED}


def test_the_process_answers_from_its_file_as_it_is_now(short_dir: Path):
    state_file = short_dir / "state.json"
    State().write(state_file)
    with cri_server_process(short_dir / "cri.sock", state_file) as process:
        with CriClient(short_dir / "cri.sock") as client:
            assert client.sandboxes() == {}
            State(sandboxes=(Sandbox(id=ID, ips=("10.88.0.2",), labels={"app": "web"}),)).write(state_file)
            assert client.sandboxes()[ID].labels == {"app": "web"}
            assert client.status(ID).network.ip == "10.88.0.2"
            state_file.write_text("{")
            with pytest.raises(grpc.RpcError) as error:
                client.sandboxes()
            assert code(error) is grpc.StatusCode.UNKNOWN
        assert process.poll() is None
    assert process.returncode is not None
    assert not (short_dir / "cri.sock").exists()


def test_the_process_ends_with_the_one_that_started_it(short_dir: Path):
    State().write(short_dir / "state.json")
    with cri_server_process(short_dir / "cri.sock", short_dir / "state.json") as process:
        assert process.stdin is not None
        process.stdin.close()
        until(lambda: process.poll() is not None)
        assert process.returncode == 0


def test_a_state_file_holds_all_of_a_state(tmp_path: Path):
    faults = Faults(errors={"Version": "INTERNAL"}, delays={"Version": 0.5}, hangs=("Version",), padding=7)
    sandbox = Sandbox(id=ID, ips=("10.88.0.2", "fd00::2"), annotations={"a": "b"}, visible_from=1.5)
    state = State(sandboxes=(sandbox,), runtime_name="cri-o", runtime_version="1.32.0", faults=faults)
    state.write(tmp_path / "state.json")
    assert State.read(tmp_path / "state.json") == state
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]


def test_a_recorded_list_is_served_as_crictl_printed_it(
    cri_server: CriServer, client: CriClient, recorded_node: Callable[[str], RecordedNode]
):
    path = recorded_node("b-dual-stack").sandboxes_file
    cri_server.change(sandboxes=sandboxes_from_file(path))
    listed = client.sandboxes()
    recorded = {item["id"]: item for item in json.loads(path.read_bytes())["items"]}
    assert listed.keys() == recorded.keys()
    for sandbox_id, item in recorded.items():
        assert listed[sandbox_id].metadata.uid == item["metadata"]["uid"]
        assert dict(listed[sandbox_id].labels) == item["labels"]
        assert dict(listed[sandbox_id].annotations) == item["annotations"]
