"""The runtime witness over gRPC: what a runtime lists is Seen, and whatever it fails to say is Unknown, never Absent."""

import dataclasses
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import pytest

from cni.evidence import Answer, RuntimeEvidence
from cni.pods import Sandbox, SandboxStatus
from tests.contract.test_cri_server import Containerd, OurServer, Runtime
from tests.support import cri_server as servers
from tests.support.cri_server import CriServer
from tests.support.recorded import CASES, RecordedNode
from workers import cri
from workers import runtime as runtime_module
from workers.offline import runtime_from_file
from workers.paths import Root
from workers.runtime import RECEIVE_LIMIT, SOCKETS, TIMEOUT, RuntimeWitness

ID, OTHER, ABSENT = "ab" * 32, "cd" * 32, "0" * 64
HOST = Root("/")
PATIENCE = 20.0
"""Seconds for an answer that comes: long, since the machine may be busy."""
SHORT = 0.3
"""Seconds for an answer that never comes."""


def ask(endpoint: str, *, root: Root = HOST, timeout: float = PATIENCE) -> RuntimeEvidence:
    return RuntimeWitness(root, endpoint, timeout=timeout).ask()


def sentence(evidence: RuntimeEvidence) -> str:
    """Why it is Unknown, which also holds for an id that is not listed."""
    assert evidence.unknown
    assert "\n" not in evidence.unknown
    assert evidence.of(ABSENT) is Answer.UNKNOWN
    assert not evidence.off
    return evidence.unknown


def listed(**fields: Any) -> servers.Sandbox:
    return servers.Sandbox(**{"id": ID, **fields})


class TestEveryRuntime:
    """The same over the tests' server and over a real containerd."""

    @pytest.fixture(params=["ours", "containerd"])
    def runtime(self, request: pytest.FixtureRequest) -> Runtime:
        if request.param == "ours":
            return OurServer(request.getfixturevalue("cri_server"))
        return Containerd(request.getfixturevalue("node_lab"))

    def witness(self, runtime: Runtime) -> RuntimeWitness:
        return RuntimeWitness(HOST, f"unix://{runtime.socket}", timeout=PATIENCE)

    def test_without_a_sandbox_it_is_unknown(self, runtime: Runtime):
        assert "no sandbox" in sentence(self.witness(runtime).ask())

    def test_a_sandbox_in_any_state_is_seen_until_it_is_removed(self, runtime: Runtime):
        web, db = runtime.make("web"), runtime.make("db")
        evidence = self.witness(runtime).ask()
        assert (evidence.of(web), evidence.of(db), evidence.of(ABSENT)) == (Answer.SEEN, Answer.SEEN, Answer.ABSENT)
        assert evidence.sandboxes[web].pod == "default/web"
        assert {evidence.sandboxes[web].pod_uid, evidence.sandboxes[db].pod_uid} == evidence.ready_uids()
        runtime.stop(web)
        stopped = self.witness(runtime).ask()
        assert (stopped.of(web), stopped.sandboxes[web].ready) == (Answer.SEEN, False)
        runtime.remove(web)
        assert self.witness(runtime).ask().of(web) is Answer.ABSENT

    def test_it_is_live_and_keeps_no_results(self, runtime: Runtime):
        runtime.make("web")
        evidence = self.witness(runtime).ask()
        assert evidence.live
        assert not evidence.keeps_results
        assert evidence.unknown is None

    def test_statuses_tell_addresses_and_who_uses_the_nodes_network(self, runtime: Runtime):
        web, proxy = runtime.make("web"), runtime.make("proxy", host_network=True)
        statuses = self.witness(runtime).statuses([web, proxy, ABSENT])
        assert statuses == {
            web: SandboxStatus(host_network=False, addresses=tuple(runtime.addresses(web))),
            proxy: SandboxStatus(host_network=True, addresses=()),
            ABSENT: SandboxStatus(host_network=False, addresses=()),
        }

    def test_the_beginning_of_an_id_is_no_id(self, runtime: Runtime):
        web = runtime.make("web")
        assert self.witness(runtime).statuses([web[:12]]) == {}
        assert self.witness(runtime).ask().of(web[:12]) is Answer.ABSENT


class TestOneSocket:
    def test_fields_are_read_as_the_runtime_means_them(self, cri_server: CriServer):
        cri_server.add(listed(name="cart-0", namespace="shop", uid="u-1", ready=False, labels={"a": "b"}, annotations={"c": "d"}))
        evidence = ask(cri_server.endpoint)
        assert evidence.sandboxes == {ID: Sandbox(id=ID, ready=False, pod_uid="u-1", pod="shop/cart-0")}
        assert evidence.ready_uids() == set()

    def test_off_is_asked_of_nobody(self):
        evidence = ask("none")
        assert (evidence.off, evidence.unknown, evidence.of(ID)) == (True, None, Answer.OFF)

    @pytest.mark.parametrize("method", ["ListPodSandbox", "Version"])
    @pytest.mark.parametrize(
        "code",
        ["UNAVAILABLE", "UNKNOWN", "INTERNAL", "RESOURCE_EXHAUSTED", "PERMISSION_DENIED", "DEADLINE_EXCEEDED"],
    )
    def test_an_error_is_unknown_and_named(self, cri_server: CriServer, method: str, code: str):
        cri_server.add(listed())
        cri_server.fail(errors={method: code})
        why = sentence(ask(cri_server.endpoint))
        assert code.lower().replace("_", " ") in why
        assert str(cri_server.socket) in why

    @pytest.mark.parametrize("method", ["ListPodSandbox", "Version"])
    def test_a_runtime_that_hangs_is_unknown_when_its_time_is_over(self, cri_server: CriServer, method: str):
        cri_server.add(listed())
        cri_server.fail(hangs=(method,))
        assert "deadline exceeded" in sentence(ask(cri_server.endpoint, timeout=SHORT))

    def test_a_late_answer_within_the_time_is_an_answer(self, cri_server: CriServer):
        cri_server.add(listed())
        cri_server.fail(delays={"ListPodSandbox": SHORT})
        assert ask(cri_server.endpoint).of(ID) is Answer.SEEN

    def test_a_server_without_the_service_is_no_runtime_and_so_unknown_where_it_was_named(self, cri_server: CriServer):
        cri_server.add(listed())
        cri_server.fail(unimplemented=True)
        assert sentence(ask(cri_server.endpoint)) == f"{cri_server.endpoint} is no CRI runtime"

    @pytest.mark.parametrize("server", [servers.dead_socket, servers.deaf_socket, servers.babbling_socket])
    def test_another_kind_of_socket_is_unknown(self, server: Callable[[Path], AbstractContextManager[Path]], short_dir: Path):
        with server(short_dir / "other.sock") as path:
            assert str(path) in sentence(ask(f"unix://{path}", timeout=SHORT))

    @pytest.mark.parametrize("kind", ["missing", "file", "directory", "fifo"])
    def test_what_is_no_socket_is_unknown(self, kind: str, short_dir: Path):
        path = short_dir / "x.sock"
        if kind == "file":
            path.touch()
        elif kind == "directory":
            path.mkdir()
        elif kind == "fifo":
            os.mkfifo(path)
        sentence(ask(f"unix://{path}", timeout=SHORT))

    @pytest.mark.parametrize("name", ["x" * 200, "a b", "%41", "a?b", "#", "\u00e9"])
    def test_an_odd_path_that_leads_nowhere_is_unknown(self, name: str, short_dir: Path):
        sentence(ask(f"unix://{short_dir}/{name}", timeout=SHORT))

    @pytest.mark.parametrize("name", ["a b.sock", "%41.sock", "a?b.sock", "a#b.sock", "\u00e9.sock"])
    def test_a_socket_with_an_odd_name_is_found_or_unknown(self, name: str, short_dir: Path):
        with CriServer(short_dir / "cri.sock") as server:
            server.add(listed())
            odd = short_dir / name
            server.socket.rename(odd)
            evidence = ask(f"unix://{odd}")
            odd.rename(server.socket)
        assert evidence.of(ID) in (Answer.SEEN, Answer.UNKNOWN)

    def test_a_list_below_the_limit_is_read(self, cri_server: CriServer):
        cri_server.add(listed())
        cri_server.fail(padding=RECEIVE_LIMIT - (1 << 20))
        assert ask(cri_server.endpoint).of(ID) is Answer.SEEN

    def test_a_list_above_the_limit_is_unknown(self, cri_server: CriServer):
        cri_server.add(listed())
        cri_server.fail(padding=RECEIVE_LIMIT + (1 << 20))
        assert "resource exhausted" in sentence(ask(cri_server.endpoint))

    def test_a_runtime_that_was_restarted_is_asked_again(self, cri_server: CriServer):
        cri_server.add(listed())
        cri_server.stop()
        sentence(ask(cri_server.endpoint, timeout=SHORT))
        cri_server.start()
        assert ask(cri_server.endpoint).of(ID) is Answer.SEEN

    def test_a_node_full_of_sandboxes_is_read_whole(self, cri_server: CriServer):
        many = tuple(servers.Sandbox(id=f"{number:064x}", name=f"p-{number}") for number in range(2000))
        cri_server.change(sandboxes=many)
        evidence = ask(cri_server.endpoint)
        assert evidence.sandboxes.keys() == {one.id for one in many}


@pytest.mark.parametrize("case", CASES)
def test_recorded_sandboxes_served_are_the_recorded_file(
    case: str, cri_server: CriServer, recorded_node: Callable[[str], RecordedNode]
):
    node = recorded_node(case)
    cri_server.change(sandboxes=servers.sandboxes_from_file(node.sandboxes_file))
    asked, read = ask(cri_server.endpoint), runtime_from_file(str(node.sandboxes_file))
    assert asked.unknown is None
    assert asked.sandboxes == read.sandboxes
    assert (asked.live, read.live) == (True, False)


@pytest.fixture
def node(short_dir: Path) -> Iterator[Callable[[str], CriServer]]:
    """A factory of runtimes at paths of a node below `short_dir`."""
    with ExitStack() as stack:

        def make(path: str) -> CriServer:
            socket = Path(f"{short_dir}{path}")
            socket.parent.mkdir(parents=True, exist_ok=True)
            return stack.enter_context(CriServer(socket))

        yield make


class TestAuto:
    CONTAINERD, CRIO = "/run/containerd/containerd.sock", "/run/crio/crio.sock"

    def test_the_places_are_those_that_the_contract_names(self):
        wanted = ("containerd", "k3s", "k0s", "microk8s", "crio", "cri-dockerd")
        assert all(word in path for word, path in zip(wanted, SOCKETS, strict=True))

    @pytest.mark.parametrize("path", SOCKETS)
    def test_each_known_place_is_looked_at_below_the_root(self, node: Callable[[str], CriServer], short_dir: Path, path: str):
        node(path).add(listed())
        assert ask("auto", root=Root(str(short_dir))).of(ID) is Answer.SEEN

    def test_none_at_all_is_unknown_with_a_hint(self, short_dir: Path):
        why = sentence(ask("auto", root=Root(str(short_dir))))
        assert "--runtime-endpoint" in why

    def test_what_only_looks_like_a_socket_is_passed_over(self, node: Callable[[str], CriServer], short_dir: Path):
        node(self.CRIO).add(listed())
        other = Path(f"{short_dir}{self.CONTAINERD}")
        other.parent.mkdir(parents=True)
        other.touch()
        evidence = ask("auto", root=Root(str(short_dir)))
        assert (evidence.unknown, evidence.of(ID)) == (None, Answer.SEEN)

    def test_two_names_of_one_socket_are_asked_once(self, node: Callable[[str], CriServer], short_dir: Path):
        server = node(self.CONTAINERD)
        server.add(listed())
        link = Path(f"{short_dir}/run/k3s/containerd/containerd.sock")
        link.parent.mkdir(parents=True)
        link.symlink_to(self.CONTAINERD)
        assert ask("auto", root=Root(str(short_dir))).of(ID) is Answer.SEEN
        assert server.calls.count("ListPodSandbox") == 1

    def test_seen_by_any_of_two_is_seen(self, node: Callable[[str], CriServer], short_dir: Path):
        node(self.CONTAINERD).add(listed(id=ID))
        node(self.CRIO).add(listed(id=OTHER))
        evidence = ask("auto", root=Root(str(short_dir)))
        assert evidence.unknown is None
        assert (evidence.of(ID), evidence.of(OTHER), evidence.of(ABSENT)) == (Answer.SEEN, Answer.SEEN, Answer.ABSENT)

    def test_one_of_two_may_be_empty_but_not_both(self, node: Callable[[str], CriServer], short_dir: Path):
        containerd, _ = node(self.CONTAINERD), node(self.CRIO)
        assert "no sandbox" in sentence(ask("auto", root=Root(str(short_dir))))
        containerd.add(listed())
        evidence = ask("auto", root=Root(str(short_dir)))
        assert (evidence.unknown, evidence.of(ID)) == (None, Answer.SEEN)

    @pytest.mark.parametrize(
        "faults",
        [
            {"errors": {"ListPodSandbox": "UNAVAILABLE"}},
            {"errors": {"Version": "INTERNAL"}},
            {"hangs": ("ListPodSandbox",)},
        ],
        ids=["list fails", "version fails", "list hangs"],
    )
    def test_one_of_two_that_fails_makes_it_unknown_and_what_the_other_sees_is_seen(
        self, node: Callable[[str], CriServer], short_dir: Path, faults: dict[str, Any]
    ):
        node(self.CONTAINERD).add(listed())
        failing = node(self.CRIO)
        failing.add(listed(id=OTHER))
        failing.fail(**faults)
        evidence = ask("auto", root=Root(str(short_dir)), timeout=2.0)
        assert self.CRIO in sentence(evidence)
        assert evidence.of(ID) is Answer.SEEN
        assert evidence.of(OTHER) in (Answer.SEEN, Answer.UNKNOWN)

    def test_a_dead_socket_beside_a_runtime_makes_it_unknown(self, node: Callable[[str], CriServer], short_dir: Path):
        node(self.CONTAINERD).add(listed())
        path = Path(f"{short_dir}{self.CRIO}")
        path.parent.mkdir(parents=True)
        with servers.dead_socket(path):
            sentence(ask("auto", root=Root(str(short_dir))))

    def test_a_docker_beside_a_runtime_is_none(self, node: Callable[[str], CriServer], short_dir: Path):
        node(self.CRIO).add(listed())
        node(self.CONTAINERD).fail(unimplemented=True)
        evidence = ask("auto", root=Root(str(short_dir)))
        assert (evidence.unknown, evidence.of(ID)) == (None, Answer.SEEN)

    def test_a_docker_alone_is_unknown(self, node: Callable[[str], CriServer], short_dir: Path):
        node(self.CONTAINERD).fail(unimplemented=True)
        sentence(ask("auto", root=Root(str(short_dir))))

    def test_sandboxes_of_a_server_that_only_lacks_a_version_are_not_lost(
        self, node: Callable[[str], CriServer], short_dir: Path
    ):
        node(self.CRIO).add(listed())
        half = node(self.CONTAINERD)
        half.add(listed(id=OTHER))
        half.fail(errors={"Version": "UNIMPLEMENTED"})
        assert ask("auto", root=Root(str(short_dir))).of(OTHER) in (Answer.SEEN, Answer.UNKNOWN)


@pytest.mark.parametrize(
    ("name", "version", "keeps"),
    [
        ("cri-o", "1.31.9", False),
        ("cri-o", "1.32.0", True),
        ("cri-o", "v1.32.1-rc1", True),
        ("CRI-O", "1.33.0", True),
        ("cri-o", "2.0.0", True),
        ("crio", "1.32.0", True),
        ("cri-o", "1.9.0", False),
        ("cri-o", "unknown", True),
        ("cri-o", "", True),
        ("containerd", "v2.1.0", False),
        ("containerd", "1.32.0", False),
        ("docker", "28.0.0", False),
        ("", "", False),
    ],
)
def test_a_crio_of_1_32_needs_the_results_itself(cri_server: CriServer, name: str, version: str, keeps: bool):
    cri_server.change(sandboxes=(listed(),), runtime_name=name, runtime_version=version)
    assert ask(cri_server.endpoint).keeps_results is keeps


def test_one_crio_of_two_runtimes_is_enough_to_keep_results(node: Callable[[str], CriServer], short_dir: Path):
    node(TestAuto.CONTAINERD).add(listed())
    node(TestAuto.CRIO).change(runtime_name="cri-o", runtime_version="1.34.0")
    assert ask("auto", root=Root(str(short_dir))).keeps_results


def test_one_cri_dockerd_of_two_runtimes_speaks_for_namespaces_that_are_named_by_process(
    node: Callable[[str], CriServer], short_dir: Path
):
    node(TestAuto.CONTAINERD).add(listed())
    assert not ask("auto", root=Root(str(short_dir))).names_processes
    node("/run/cri-dockerd.sock").change(runtime_name="docker", runtime_version="28.0.0")
    assert ask("auto", root=Root(str(short_dir))).names_processes


class TestStatuses:
    def statuses(self, server: CriServer, *ids: str, timeout: float = PATIENCE) -> dict[str, SandboxStatus]:
        return RuntimeWitness(HOST, server.endpoint, timeout=timeout).statuses(ids)

    def test_every_address_is_told_canonically(self, cri_server: CriServer):
        cri_server.add(listed(ips=("10.88.0.2", "FD00:0::2", "nonsense")))
        assert self.statuses(cri_server, ID)[ID].addresses == ("10.88.0.2", "fd00::2")

    def test_one_that_is_gone_meanwhile_has_no_address(self, cri_server: CriServer):
        cri_server.add(listed(ips=("10.88.0.2",)))
        found = self.statuses(cri_server, ID, OTHER)
        assert found[ID].addresses == ("10.88.0.2",)
        assert found[OTHER].addresses == ()

    def test_one_that_one_of_two_runtimes_cannot_tell_of_is_left_out(self, node: Callable[[str], CriServer], short_dir: Path):
        node(TestAuto.CONTAINERD).add(listed(id=OTHER))
        node(TestAuto.CRIO).fail(errors={"PodSandboxStatus": "INTERNAL"})
        assert RuntimeWitness(Root(str(short_dir)), "auto", timeout=PATIENCE).statuses([ID]) == {}

    def test_a_failing_one_is_left_out(self, cri_server: CriServer):
        cri_server.add(listed())
        cri_server.fail(errors={"PodSandboxStatus": "INTERNAL"})
        assert self.statuses(cri_server, ID) == {}

    def test_none_wanted_is_none_asked(self, cri_server: CriServer):
        assert self.statuses(cri_server) == {}
        assert cri_server.calls == []

    def test_each_is_asked_of_the_runtime_that_has_it(self, node: Callable[[str], CriServer], short_dir: Path):
        node(TestAuto.CONTAINERD).add(listed(id=ID, ips=("10.88.0.2",)))
        node(TestAuto.CRIO).add(listed(id=OTHER, ips=("10.88.0.3",)))
        witness = RuntimeWitness(Root(str(short_dir)), "auto", timeout=PATIENCE)
        found = witness.statuses([ID, OTHER])
        assert {id_: status.addresses for id_, status in found.items()} == {ID: ("10.88.0.2",), OTHER: ("10.88.0.3",)}

    def test_a_runtime_that_hangs_here_is_not_waited_for_once_for_each_sandbox(
        self, cri_server: CriServer, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(runtime_module, "STATUSES_TIMEOUT", SHORT)
        ids = [f"{number:064x}" for number in range(8)]
        cri_server.change(sandboxes=tuple(servers.Sandbox(id=id_) for id_ in ids))
        cri_server.fail(hangs=("PodSandboxStatus",))
        assert self.statuses(cri_server, *ids, timeout=SHORT) == {}
        assert cri_server.calls.count("PodSandboxStatus") < len(ids)


def test_the_limits_are_those_that_the_design_promises():
    assert RECEIVE_LIMIT == 64 * 1024 * 1024
    assert 0 < TIMEOUT <= 60


def test_evidence_cannot_be_changed_behind_the_decision():
    with pytest.raises(dataclasses.FrozenInstanceError):
        ask("none").off = False  # type: ignore[misc]  # that is what is tried


def test_a_message_that_is_not_in_the_table_cannot_be_asked():
    with pytest.raises(KeyError):
        cri.request("StopPodSandboxRequest")
