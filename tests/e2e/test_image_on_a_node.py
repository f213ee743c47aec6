"""The image in containers as the DaemonSet has them, on a node with a real containerd: what they may do is enough, no more."""

import contextlib
import functools
import json
import secrets
import shlex
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.containers import Engine, EngineError, Images
from tests.support.http import get
from tests.support.manifests import Container, arguments, container, environment, overlay
from tests.support.nodelab import CNI, NETNS, NETWORK, NodeLab
from tests.support.polling import until
from tests.support.program import TIMEOUT
from tests.support.skips import require

pytestmark = pytest.mark.timeout(900)

DOCUMENTS = overlay("default")

WORD = "0123abcd"

SETTINGS = {
    "CNI_CLEANUP_DRY_RUN": "false",
    "CNI_CLEANUP_API": "none",
    "CNI_CLEANUP_NETWORKS": NETWORK,
    "CNI_CLEANUP_MIN_AGE": "0s",
    "CNI_CLEANUP_CONFIRM_AFTER": "0s",
    # Where nothing listens: what Redis has to do with a node is shown elsewhere.
    "CNI_CLEANUP_BROKER": "redis://127.0.0.1:1/0",
}
"""What an operator's own ConfigMap would say of this node: live, without the API, and the lab's network alone."""


@contextlib.contextmanager
def shared(directory: Path) -> Iterator[None]:
    """A directory whose mounts propagate, as systemd makes all of a node's. Skips where mounting is not allowed."""
    directory.mkdir(exist_ok=True)
    run = functools.partial(subprocess.run, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    done = run(["mount", "--bind", directory, directory])
    require(done.returncode == 0, f"mounting is not allowed here: {done.stderr.strip()}")
    try:
        run(["mount", "--make-shared", directory]).check_returncode()
        yield
    finally:
        until(lambda: run(["umount", directory]).returncode == 0, what=f"nothing is mounted below {directory}")


@dataclass(frozen=True)
class Node:
    """The lab's node, with the directories that a kubelet would mount from it."""

    lab: NodeLab
    images: Images
    home: Path

    @property
    def engine(self) -> Engine:
        return self.images.engine

    @property
    def state(self) -> Path:
        """The state directory."""
        return self.home / "state"

    def source(self, path: str) -> Path:
        """What is mounted at a path of the manifest: the node's own, but for what the lab has elsewhere, or is not to stay."""
        elsewhere = {
            "/run/containerd": self.lab.directory,
            "/etc/cni/net.d": self.lab.directory / "net.d",
            "/run/flannel": self.home / "flannel",
            "/var/lib/cni-cleanup": self.state,
        }
        found = elsewhere.get(path, Path(path))
        # DirectoryOrCreate.
        found.mkdir(exist_ok=True)
        return found

    def options(self, of: Container, variables: Mapping[str, str]) -> list[str]:
        """What the manifest says of a container, in Docker's words."""
        own, limits = of.spec["securityContext"], of.spec["resources"]["limits"]
        assert (own["readOnlyRootFilesystem"], own["allowPrivilegeEscalation"], own["privileged"]) == (True, False, False)
        assert of.pod["hostNetwork"]
        assert of.security("seccompProfile") == {"type": "RuntimeDefault"}, "which is also Docker's default"
        found = ["--network=host", f"--user={of.security('runAsUser')}:{of.security('runAsGroup')}"]
        found += ["--read-only", "--security-opt=no-new-privileges"]
        found += [f"--cap-drop={capability}" for capability in own["capabilities"]["drop"]]
        found += [f"--memory={limits['memory'].removesuffix('i').lower()}"]
        found += [f"--env={name}={value}" for name, value in variables.items()]
        return found + [option for mount, volume in of.volumes() for option in self.mounted(mount, volume)]

    def mounted(self, mount: Mapping[str, Any], volume: Mapping[str, Any]) -> list[str]:
        """A mount in Docker's words; nothing of the API's token, as there is no API."""
        target = mount["mountPath"]
        if "projected" in volume:
            return []
        if "emptyDir" in volume:
            return [f"--tmpfs={target}:size={volume['emptyDir']['sizeLimit'].removesuffix('i').lower()}"]
        source = self.source(target) if "hostPath" in volume else self.secret(volume["secret"])
        words = [f"type=bind,source={source},target={target}"]
        words += ["readonly"] if mount.get("readOnly") else []
        # Of the runtime's directory only what is there counts here, and it is on no shared mount in the lab.
        words += ["bind-propagation=rslave"] if mount.get("mountPropagation") and target == str(NETNS) else []
        return ["--mount", ",".join(words)]

    def secret(self, volume: Mapping[str, Any]) -> Path:
        """A Secret's files, as the kubelet writes them for root."""
        directory = self.home / secrets.token_hex(4)
        directory.mkdir(mode=0o755)
        for item in volume["items"]:
            (directory / item["path"]).write_text(WORD)
            (directory / item["path"]).chmod(volume["defaultMode"])
        return directory

    def variables(self, of: Container, *, pod: str = "", host: str = "127.0.0.1") -> dict[str, str]:
        """Those of the manifest, in a pod of this uid, with what the operator says of this node."""
        fields = {"spec.nodeName": "lab", "metadata.uid": pod, "status.hostIP": host}
        return environment(DOCUMENTS, of, fields, local=SETTINGS)

    def run(self, name: str, *command: str, pod: str = "", inside: bool = False) -> "subprocess.CompletedProcess[str]":
        """Run a command of the program in a container of the manifest, in a cluster if `inside`."""
        of = container(DOCUMENTS, name)
        variables = self.variables(of, pod=pod) | ({"KUBERNETES_SERVICE_HOST": "192.0.2.1"} if inside else {})
        return self.engine.attempt(
            "docker", "run", "--rm", *self.options(of, variables), self.images.program, *command, timeout=2 * TIMEOUT
        )

    @contextlib.contextmanager
    def started(self, name: str, command: list[str], *, entrypoint: str | None = None) -> Iterator[str]:
        """A container of the manifest that runs meanwhile; its name."""
        of = container(DOCUMENTS, name)
        unique = f"cni-cleanup-test-{secrets.token_hex(4)}"
        options = self.options(of, self.variables(of)) + ([f"--entrypoint={entrypoint}"] if entrypoint else [])
        try:
            self.engine.docker("run", "-d", "--name", unique, *options, self.images.program, *command)
            yield unique
        finally:
            self.engine.attempt("docker", "rm", "--force", unique)


@pytest.fixture(scope="module")
def propagating(_lab_of_session: NodeLab) -> Iterator[None]:
    """The directory of namespaces is a shared mount, before anybody makes one."""
    _lab_of_session.reset()
    with shared(NETNS):
        yield
        _lab_of_session.reset()


@pytest.fixture
def node(propagating: None, node_lab: NodeLab, images: Images) -> Iterator[Node]:
    """A node without sandboxes."""
    with tempfile.TemporaryDirectory(prefix="cc-node-") as home:
        yield Node(node_lab, images, Path(home))


def verdicts(report: Mapping[str, Any]) -> dict[str, tuple[str, str, str | None]]:
    """What became of the lab's reservations, by address."""
    return {
        row["ip"]: (row["verdict"], row["reason"], row["outcome"])
        for row in report["files"]
        if row["kind"] == "reservation" and row["network"] == NETWORK
    }


def uid_of(lab: NodeLab, sandbox_id: str) -> str:
    (found,) = (sandbox.uid for sandbox in lab.sandboxes() if sandbox.id == sandbox_id)
    return found


def test_the_worker_removes_what_a_lost_runtime_left_and_keeps_what_lives(node: Node):
    lost = [node.lab.run(name) for name in ("gone-1", "gone-2")]
    addresses = {address for sandbox_id in lost for address in node.lab.addresses(sandbox_id)}
    node.lab.lose()
    node.lab.up()
    live = node.lab.run("web")
    (kept,) = node.lab.addresses(live)
    # The canary: the sandbox of the pod that the worker is in, as the runtime lists it.
    done = node.run("cni-cleanup/worker", "clean", "--json", pod=uid_of(node.lab, live), inside=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["witnesses"] == {"runtime": "ok", "netns": "ok", "api": "off"}
    expected = dict.fromkeys(addresses, ("leaked", "absent", "removed"))
    assert verdicts(report) == {**expected, kept: ("keep", "sandbox", None)}
    assert {path.name for path in node.lab.network.glob("[0-9]*")} == {kept}
    # The capacity is from the network's configuration.
    assert [one["capacity"] for one in report["networks"] if one["name"] == NETWORK] == [253]
    restored = node.run("cni-cleanup/worker", "restore", pod=uid_of(node.lab, live))
    assert restored.returncode == 0, restored.stderr
    assert {path.name for path in node.lab.network.glob("[0-9]*")} == {kept, *addresses}


def test_the_worker_that_is_not_in_the_runtimes_list_removes_nothing(node: Node):
    lost = node.lab.run("gone")
    (address,) = node.lab.addresses(lost)
    node.lab.lose()
    node.lab.up()
    node.lab.run("web")
    done = node.run("cni-cleanup/worker", "clean", "--json", pod="00000000-0000-4000-8000-000000000000", inside=True)
    assert done.returncode == 1
    assert json.loads(done.stdout)["aborted"]["reason"] == "canary"
    assert (node.lab.network / address).exists()


def test_the_worker_lacks_nothing_but_redis(node: Node):
    live = node.lab.run("web")
    done = node.run("cni-cleanup/worker", "worker", "--check", pod=uid_of(node.lab, live), inside=True)
    rows = {
        row.split("  ")[0].strip(): " good " in f"{row} " for row in done.stdout.splitlines() if "good" in row or "bad" in row
    }
    assert {name for name, good in rows.items() if not good} == {"broker"}, done.stdout + done.stderr
    assert {"state", "read", f"lock {NETWORK}", "ask runtime", "ask netns", "ask api", "broker"} <= rows.keys()


def test_the_worker_sees_the_namespace_of_a_pod_that_starts_after_it_and_that_it_goes(node: Node):
    def mounted() -> set[str]:
        said = node.engine.docker("exec", name, "sh", "-c", f"stat -f -c '%T %n' {NETNS}/* 2>/dev/null || true")
        return {path for kind, _, path in (line.partition(" ") for line in said.splitlines()) if kind == "nsfs"}

    with node.started("cni-cleanup/worker", ["600"], entrypoint="sleep") as name:
        before = mounted()
        sandbox_id = node.lab.run("later")
        assert len(mounted() - before) == 1
        node.lab.stop(sandbox_id)
        node.lab.rm(sandbox_id)
        assert mounted() == before


def test_the_worker_writes_where_the_manifest_says_and_nowhere_else_and_has_no_capability(node: Node):
    mounts = [mount for mount, volume in container(DOCUMENTS, "cni-cleanup/worker").volumes() if "projected" not in volume]
    paths = ["/", "/etc", "/run", *(mount["mountPath"] for mount in mounts)]
    written = {mount["mountPath"] for mount in mounts if not mount.get("readOnly")}
    tries = "; ".join(f"touch {path}/a 2>/dev/null && rm {path}/a && echo {path}" for path in paths)
    with node.started("cni-cleanup/worker", ["600"], entrypoint="sleep") as name:
        assert set(node.engine.docker("exec", name, "sh", "-c", f"{tries}; true").split()) == written
        # Of what the worker itself is, which is the container's first process.
        status = node.engine.docker("exec", name, "grep", "-E", "^(Cap(Eff|Prm|Bnd|Inh)|NoNewPrivs|Seccomp):", "/proc/1/status")
    told = {line.partition(":")[0]: int(line.partition(":")[2], 16) for line in status.splitlines()}
    assert told == {"CapInh": 0, "CapPrm": 0, "CapEff": 0, "CapBnd": 0, "NoNewPrivs": 1, "Seccomp": 2}


def test_the_sidecar_reads_all_that_it_shows_and_can_write_nothing(node: Node):
    sandbox_id = node.lab.run("web")
    (address,) = node.lab.addresses(sandbox_id)
    assert node.run("cni-cleanup/worker", "clean", pod=uid_of(node.lab, sandbox_id)).returncode == 0
    done = node.run("cni-cleanup/server", "scan", "--json", "--runtime-endpoint", "none")
    assert done.returncode == 0, done.stderr
    # Neither socket nor API: it can tell what is there, and condemn nothing.
    assert verdicts(json.loads(done.stdout))[address][0] != "leaked"
    of = container(DOCUMENTS, "cni-cleanup/server")
    (listen, *rest) = [one for one in arguments(of, node.variables(of)) if one != "server"]
    assert listen == "--listen=127.0.0.1:9010"
    port = free_port()
    with node.started("cni-cleanup/server", ["server", listen.replace("9010", str(port)), *rest]) as name:
        until(lambda: answers(port), what="the sidecar answers")
        until(
            lambda: f'cni_cleanup_reservations{{network="{NETWORK}"}} 1' in get(port, "/metrics")[1].decode(),
            what="it has counted",
        )
        metrics = get(port, "/metrics")[1].decode()
        assert f'cni_cleanup_capacity{{network="{NETWORK}"}} 253' in metrics
        assert 'cni_cleanup_passes_total{result="ok"} 1' in metrics
        assert get(port, "/report", Authorization=f"Bearer {WORD}")[0] == 200
        for directory in ("/", CNI, "/var/lib/cni-cleanup", "/etc/cni/net.d"):
            with pytest.raises(EngineError, match="Read-only file system"):
                node.engine.docker("exec", name, "touch", f"{directory}/written")


def answers(port: int) -> bool:
    with contextlib.suppress(OSError):
        return get(port, "/healthz")[0] == 200
    return False


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.mark.parametrize("name", ["cni-cleanup/worker", "cni-cleanup/server"])
def test_the_probes_of_the_manifest_are_commands_of_the_image(node: Node, name: str):
    of = container(DOCUMENTS, name)
    probes = [of.spec[kind] for kind in ("startupProbe", "livenessProbe", "readinessProbe")]
    commands = {shlex.join(probe["exec"]["command"]) for probe in probes if "exec" in probe}
    with node.started(name, ["600"], entrypoint="sleep") as unique:
        for command in commands:
            assert node.engine.attempt("docker", "exec", unique, *shlex.split(command)).returncode == 1
        for file in ("alive", "ready"):
            (node.state / file).touch()
        for command in commands:
            assert node.engine.attempt("docker", "exec", unique, *shlex.split(command)).returncode == 0
