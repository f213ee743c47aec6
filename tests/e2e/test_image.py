"""The image: what is in it, that it runs with nothing to write on and no capability, and that each role starts and ends well."""

import json
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from cni import __version__
from tests.support.containers import BASE, Engine, Images
from tests.support.polling import until

pytestmark = pytest.mark.timeout(900)

LARGEST = 120 * 2**20
"""Bytes above the base image."""

WITHIN = 60.0
"""Seconds for a container to come up or to end; one or two on an idle machine."""

CONFINED = (
    *("--read-only", "--tmpfs=/tmp:mode=1777,size=16m"),
    *("--cap-drop=ALL", "--security-opt=no-new-privileges", "--pids-limit=200", "--memory=256m"),
)
"""Least privilege, as docker-compose.yml has it."""

USERS = ("10001:10001", "0:0")


def state_of(user: str) -> str:
    """The option for a state directory in memory, which is this user's."""
    uid, gid = user.split(":")
    return f"--tmpfs=/var/lib/cni-cleanup:uid={uid},gid={gid},mode=0700"


def shell(images: Images, script: str, *options: str) -> str:
    """What a shell in the image says."""
    return images.engine.docker("run", "--rm", *options, "--entrypoint=sh", images.program, "-euc", script)


LISTS_PODS = """
import http.server, os, pathlib, threading
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{\\"kind\\": \\"PodList\\", \\"items\\": []}")
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
file = pathlib.Path("/dev/shm/kubeconfig")
file.write_text("{clusters: [{name: a, cluster: {server: \\"http://127.0.0.1:%d\\"}}], users: [{name: a, user: {token: t}}], "
    "contexts: [{name: a, context: {cluster: a, user: a}}], current-context: a}" % server.server_port)
os.environ["KUBECONFIG"] = str(file)
from workers.kube import KubernetesApi
print(KubernetesApi("external", timeout=20).get("/api/v1/pods", {}))
"""
"""Asks an API of its own by the program's client."""


class TestContents:
    def test_it_adds_at_most_120_mib_to_its_base(self, images: Images, figures: list[str]):
        base = images.engine.size(BASE)
        added = {name: images.engine.size(name) - base for name in (images.program, images.exporter)}
        figures += [f"{name.partition(':')[0]}: {size / 2**20:.1f} MiB above {BASE}" for name, size in added.items()]
        assert added[images.program] <= LARGEST

    @pytest.mark.parametrize("name", ["cni-cleanup", "api-cni-cleanup"])
    def test_under_both_names_it_is_the_version_of_the_source(self, images: Images, name: str):
        said = images.engine.docker("run", "--rm", *CONFINED, f"--entrypoint={name}", images.program, "--version")
        assert said == f"cni-cleanup, version {__version__}\n"

    def test_it_says_what_it_is_for_when_it_is_told_nothing(self, images: Images):
        assert "A live reservation is never removed" in images.engine.docker("run", "--rm", *CONFINED, images.program)

    def test_celery_and_flower_are_there(self, images: Images):
        said = shell(images, "celery --version; celery -A tasks flower --help", *CONFINED)
        assert said.startswith("5.7")
        assert "Usage: celery flower" in said

    def test_nothing_that_only_builds_is_left_in_it(self, images: Images):
        script = """
        for program in gcc cc c++ make; do ! command -v $program; done
        ls -A /source /root/.cache /tmp 2>/dev/null | grep -v ':$' || true
        ls /opt/cni-cleanup/bin
        ls /opt/cni-cleanup/lib/python3.*/site-packages
        """
        there = set(shell(images, script, "--user=0:0").lower().split())
        assert {"cni-cleanup", "celery", "flower"} <= there
        assert not {"pip", "pip3", "setuptools", "wheel", "hatchling", "gcc", "pip-"} & there

    def test_every_module_is_there_as_bytecode_that_python_takes(self, images: Images):
        script = """
        cd /opt/cni-cleanup/lib/python3.*/site-packages
        find cni workers tasks beat cli celery redis grpc kubernetes -name '*.py' | while read -r file; do
          name=$(basename "$file" .py)
          test -e "$(dirname "$file")/__pycache__/$name.cpython-312.pyc" || echo "$file"
        done
        """
        assert shell(images, script) == ""
        # Python tells of each module that it had to compile.
        imported = shell(
            images, "python -v -c 'import cli.program, tasks.worker, workers.node, beat, grpc, kubernetes.client' 2>&1"
        )
        assert "matches /opt/cni-cleanup/" in imported
        assert [
            line for line in imported.splitlines() if line.startswith("# code object from '/opt/") and ".pyc" not in line
        ] == []

    def test_what_was_left_out_of_the_client_of_kubernetes_is_not_missed(self, images: Images):
        assert shell(images, f"python -c '{LISTS_PODS}'", *CONFINED) == "{'kind': 'PodList', 'items': []}\n"

    def test_its_files_are_roots_and_nobody_elses_to_write(self, images: Images):
        assert shell(images, "find /opt ! -user 0 -o ! -type l -perm /022") == ""


class TestConfined:
    @pytest.mark.parametrize("user", USERS)
    def test_a_whole_pass_needs_no_capability_and_no_disk_but_its_own(self, images: Images, user: str):
        uid, gid = user.split(":")
        script = """
        mkdir /nodes/node-1
        python -m cli.demo.seeding /nodes 1 >/dev/null
        cni-cleanup clean --json --node node-1 --root /nodes/node-1/root --min-age 0s --confirm-after 0s \\
          --pods-file /nodes/node-1/pods.json --sandboxes-file /nodes/node-1/sandboxes.json
        """
        nodes = f"--tmpfs=/nodes:uid={uid},gid={gid},mode=0700"
        report = json.loads(shell(images, script, *CONFINED, f"--user={user}", nodes, state_of(user)))
        assert report["aborted"] is None
        assert {network["name"]: network["removed"] for network in report["networks"]}["cbr0"] == 3


@dataclass(frozen=True)
class Network:
    """Where the roles find a Redis."""

    engine: Engine
    name: str

    def start(self, image: str, *options: str, command: tuple[str, ...]) -> str:
        """Start a container; its id."""
        return self.engine.docker("run", "--detach", f"--network={self.name}", *options, image, *command).strip()

    def remove(self) -> None:
        """Take it away, with all that is in it."""
        there = self.engine.docker("ps", "--all", "--quiet", f"--filter=network={self.name}").split()
        if there:
            self.engine.docker("rm", "--force", "--volumes", *there)
        self.engine.docker("network", "rm", self.name)


@pytest.fixture(scope="module")
def network(engine: Engine) -> Iterator[Network]:
    name = f"cni-cleanup-test-{secrets.token_hex(4)}"
    engine.docker("network", "create", name)
    made = Network(engine, name)
    try:
        redis = made.start("redis:7-alpine", "--network-alias=redis", command=("redis-server", "--protected-mode", "no"))
        until(
            lambda: engine.attempt("docker", "exec", redis, "redis-cli", "ping").stdout == "PONG\n", seconds=WITHIN, what="Redis"
        )
        yield made
    finally:
        made.remove()


FLOWER = ("-A", "tasks", "flower", "--address=0.0.0.0", "--read-only")
SIDECAR_HEALTH = "python -c \"import urllib.request as r; r.urlopen('http://127.0.0.1:9010/healthz')\""
FLOWER_HEALTH = "python -c \"import urllib.request as r; r.urlopen('http://127.0.0.1:5555/healthcheck')\""

ROLES = {
    # Its user, what it says when it has started, its command, and what docker is told beside.
    "worker as root": ("0:0", "node@node-1 ready", ("worker", "--node", "node-1", "--api", "none"), ()),
    "worker": ("10001:10001", "node@node-1 ready", ("worker", "--node", "node-1", "--api", "none"), ()),
    "control": ("10001:10001", "ready.", ("control", "--static-nodes", "node-1"), ()),
    "beat": ("10001:10001", "Acquired lock", ("beat",), ()),
    "server": ("0:0", "", ("server", "--node", "node-1"), (f"--health-cmd={SIDECAR_HEALTH}",)),
    "flower": (
        "10001:10001",
        "",
        FLOWER,
        ("--entrypoint=celery", f"--health-cmd={FLOWER_HEALTH}", "--env=FLOWER_BASIC_AUTH=a:b"),
    ),
}


class TestRoles:
    @pytest.mark.parametrize("role", ROLES)
    def test_it_gets_healthy_and_ends_at_a_sigterm_with_status_0(self, images: Images, network: Network, role: str):
        user, says, command, options = ROLES[role]
        container = network.start(
            images.program,
            *CONFINED,
            f"--user={user}",
            state_of(user),
            "--env=CNI_CLEANUP_BROKER=redis://redis:6379/0",
            "--health-interval=1s",
            *options,
            command=command,
        )

        def logs() -> str:
            done = network.engine.attempt("docker", "logs", container)
            return done.stdout + done.stderr

        def state() -> Any:
            return network.engine.inspect("container", container)[0]["State"]

        def is_healthy() -> bool:
            now = state()
            assert now["Running"], logs()
            return now["Health"]["Status"] == "healthy" and says in logs()

        until(is_healthy, seconds=WITHIN, what=f"a healthy {role}")
        # A container that had to be killed ends with 137.
        network.engine.docker("stop", "--time=60", container)
        assert state()["ExitCode"] == 0, logs()

    def test_the_exporter_answers_and_ends_at_a_sigterm_with_status_0(self, images: Images, network: Network):
        health = "python -c \"import urllib.request as r; r.urlopen('http://127.0.0.1:9808/health')\""
        options = (*CONFINED, "--env=CE_BROKER_URL=redis://redis:6379/0")
        container = network.start(images.exporter, *options, command=())

        def answers() -> bool:
            return network.engine.attempt("docker", "exec", container, "sh", "-c", health).returncode == 0

        until(answers, seconds=WITHIN, what="the exporter")
        network.engine.docker("stop", "--time=60", container)
        assert network.engine.inspect("container", container)[0]["State"]["ExitCode"] == 0

    def test_how_long_it_takes_to_start(self, images: Images, network: Network, figures: list[str]):
        started = time.monotonic()
        images.engine.docker("run", "--rm", *CONFINED, images.program, "--version")
        figures.append(f"cni-cleanup --version in a container of its own: {time.monotonic() - started:.2f} s")

        broker = "--env=CNI_CLEANUP_BROKER=redis://redis:6379/0"
        started = time.monotonic()
        command = ("worker", "--node", "node-2", "--api", "none")
        container = network.start(images.program, *CONFINED, state_of(USERS[0]), broker, command=command)
        is_there = "until test -e /var/lib/cni-cleanup/alive; do sleep 0.02; done"
        images.engine.docker("exec", container, "timeout", f"{WITHIN:.0f}", "sh", "-c", is_there)
        figures.append(f"a worker until it says that it lives: {time.monotonic() - started:.2f} s")
