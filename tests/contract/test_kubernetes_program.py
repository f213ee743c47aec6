"""The manifests against the program: what it asks of the API, which settings and arguments it takes, which nodes it asks."""

import itertools
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import kubernetes.config.incluster_config as incluster
import pytest
import redis

from cli.program import program
from cni.settings import Settings
from tasks.broker import url_of
from tasks.discovery import SKIP, discover, never_runs_the_worker
from tests.support import api_server as api
from tests.support.api_server import ApiServer, Request
from tests.support.manifests import (
    OVERLAYS,
    Container,
    Document,
    arguments,
    container,
    containers,
    environment,
    named,
    overlay,
    takes,
)
from tests.support.polling import until
from tests.support.redis_server import find_server
from tests.support.skips import require
from workers import node
from workers.configuration import OPTIONS, load_settings
from workers.sidecar import listening

every_overlay = pytest.mark.parametrize("name", OVERLAYS)

FIELDS = {"spec.nodeName": "node-7", "metadata.uid": "uid-worker", "status.hostIP": "192.0.2.7"}
OWN = {"cni-cleanup/worker", "cni-cleanup/server", "cni-cleanup-control/control", "cni-cleanup-beat/beat"}
"""The containers that run the program itself."""

Permission = tuple[str, str, str]
"""Group, resource and verb."""


def permission(request: Request) -> Permission:
    """What the API asks of whoever sends this. The server of the tests answers nothing but GET."""
    version, plural, *more = request.path.removeprefix("/api/").split("/")
    assert version == "v1", request.path
    verb = "watch" if request.query.get("watch") else "list"
    return ("", plural, "get" if more else verb)


def granted(documents: tuple[Document, ...], role: str) -> set[Permission]:
    rules = named(documents, "ClusterRole", role)["rules"]
    assert all(rule.keys() == {"apiGroups", "resources", "verbs"} for rule in rules)
    return {found for rule in rules for found in itertools.product(rule["apiGroups"], rule["resources"], rule["verbs"])}


@pytest.fixture
def cluster(secure_api_server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ApiServer:
    """An API server as a pod finds it, with a node and the worker's own pod on it."""
    inside = api.write_in_cluster(tmp_path, secure_api_server)
    monkeypatch.setattr(incluster, "SERVICE_TOKEN_FILENAME", str(inside.token))
    monkeypatch.setattr(incluster, "SERVICE_CERT_FILENAME", str(inside.authority))
    for variable, value in inside.environment.items():
        monkeypatch.setenv(variable, value)
    metadata = {"name": "cni-cleanup-x", "namespace": "cni-cleanup", "uid": "uid-worker", "resourceVersion": "7"}
    secure_api_server.set_pods([{"metadata": metadata, "spec": {"nodeName": "node-7"}, "status": {"phase": "Running"}}])
    secure_api_server.set_nodes([{"metadata": {"name": "node-7", "labels": {"kubernetes.io/os": "linux"}}}])
    return secure_api_server


@every_overlay
def test_the_worker_may_ask_the_api_for_exactly_what_a_scan_and_a_pass_ask(name: str, cluster: ApiServer, tmp_path: Path):
    (tmp_path / "cni/networks/cbr0").mkdir(parents=True)
    settings = Settings(
        cnifiles=os.fspath(tmp_path / "cni"),
        state_dir=os.fspath(tmp_path / "state"),
        node="node-7",
        pod_uid="uid-worker",
        runtime_endpoint="none",
        confirm_after=0.0,
        in_cluster=True,
    )
    assert node.scan(settings).witnesses["api"] == "ok"
    assert node.clean(settings).witnesses["api"] == "ok"
    assert {permission(request) for request in cluster.requests} == granted(overlay(name), "cni-cleanup-node")


@every_overlay
def test_control_may_ask_the_api_for_exactly_what_a_sweep_asks(name: str, cluster: ApiServer):
    assert discover(Settings(in_cluster=True)).eligible == ("node-7",)
    assert discover(Settings(in_cluster=True), selector="kubernetes.io/os=linux").eligible == ("node-7",)
    assert {permission(request) for request in cluster.requests} == granted(overlay(name), "cni-cleanup-control")


@every_overlay
def test_nothing_else_is_granted_and_to_nobody_else(name: str):
    documents = overlay(name)
    found = [one for one in documents if one["apiVersion"].startswith("rbac.authorization.k8s.io/")]
    accounts = ("cni-cleanup-node", "cni-cleanup-control")
    expected = {(kind, account) for kind in ("ClusterRole", "ClusterRoleBinding") for account in accounts}
    assert {(one["kind"], one["metadata"]["name"]) for one in found} == expected
    for account in accounts:
        binding = named(documents, "ClusterRoleBinding", account)
        assert binding["roleRef"] == {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": account}
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account, "namespace": "cni-cleanup"}]


@every_overlay
def test_every_variable_of_the_programs_is_an_option_of_it(name: str):
    documents = overlay(name)
    known = {option.variable for option in OPTIONS}
    for one in containers(documents):
        variables = environment(documents, one, FIELDS)
        assert {variable for variable in variables if variable.startswith("CNI_CLEANUP_")} <= known
        if one.name != "redis/redis":
            assert variables["CNI_CLEANUP_DRY_RUN"] == "true", one.name


@every_overlay
def test_the_first_apply_is_harmless(name: str):
    assert settings_of(name, "cni-cleanup/worker").dry_run


@every_overlay
def test_nothing_goes_live_but_by_the_operators_own_configuration(name: str):
    live = settings_of(name, "cni-cleanup/worker", local={"CNI_CLEANUP_DRY_RUN": "false"})
    # Where it says so, not even by that.
    assert live.dry_run is (name == "dry-run")


def settings_of(name: str, of: str, *, local: Mapping[str, str] | None = None) -> Settings:
    documents = overlay(name)
    cluster = {"KUBERNETES_SERVICE_HOST": "192.0.2.1", "KUBERNETES_SERVICE_PORT": "443"}
    return load_settings({}, cluster | environment(documents, container(documents, of), FIELDS, local=local))


@every_overlay
def test_the_program_takes_the_settings_of_each_container(name: str):
    for of in OWN:
        assert settings_of(name, of).in_cluster
    worker = settings_of(name, "cni-cleanup/worker")
    assert (worker.node, worker.pod_uid, worker.api) == ("node-7", "uid-worker", "internal")
    assert worker.runtime_endpoint == ("none" if name == "no-runtime-socket" else "auto")
    # Its own path, and below a mount of the node's disk.
    assert (worker.state_dir, worker.cnifiles) == ("/var/lib/cni-cleanup", "/var/lib/cni")


@every_overlay
def test_the_program_takes_the_arguments_of_each_container(name: str):
    documents = overlay(name)
    seen = {}
    for one in (one for one in containers(documents) if one.name in OWN):
        starting = "command" in one.spec
        assert starting is (one.name == "cni-cleanup/worker"), "the entry point of the image is the program"
        told = arguments(one, environment(documents, one, FIELDS))
        with program.make_context("cni-cleanup", list(told)) as context:
            command, found, rest = program.resolve_command(context, [*context._protected_args, *context.args])
            assert found is not None
            found.make_context(command, rest, parent=context)
        seen[one.name] = told
    assert seen == {
        "cni-cleanup/worker": ["worker"],
        "cni-cleanup/server": ["server", "--listen=192.0.2.7:9010", "--token-file=/etc/cni-cleanup/token"],
        "cni-cleanup-control/control": ["control"],
        "cni-cleanup-beat/beat": ["beat"],
    }


def test_an_argument_that_there_is_not_is_refused():
    with pytest.raises(click.UsageError):
        program.make_context("cni-cleanup", ["--lisen=:9010"])


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_the_sidecar_listens_on_the_nodes_address_of_either_family(address: str):
    documents = overlay("default")
    server = container(documents, "cni-cleanup/server")
    variables = environment(documents, server, {**FIELDS, "status.hostIP": address})
    (listen,) = (one for one in arguments(server, variables) if one.startswith("--listen="))
    settings = load_settings({"listen": listen.removeprefix("--listen=").replace("9010", "0")}, {})
    try:
        listener = listening(settings.listen)
    except Exception:
        require(os.path.exists("/proc/net/if_inet6") or ":" not in address, "this machine has no IPv6")
        raise
    with listener:
        assert listener.getsockname()[0] == address


def labels_of_nodes() -> Iterator[dict[str, str]]:
    """Labels of nodes of every kind, in all combinations."""
    choices: list[tuple[str, tuple[str | None, ...]]] = [
        ("kubernetes.io/os", ("linux", "windows", None)),
        (SKIP, (None, "", "false")),
        ("type", (None, "virtual-kubelet", "kwok", "physical")),
        ("eks.amazonaws.com/compute-type", (None, "fargate", "auto")),
        ("liqo.io/type", (None, "virtual-node", "worker")),
    ]
    for values in itertools.product(*(values for _, values in choices)):
        yield {label: value for (label, _), value in zip(choices, values, strict=True) if value is not None}


@every_overlay
def test_the_worker_runs_on_the_nodes_that_control_asks_and_on_no_others(name: str):
    pod = container(overlay(name), "cni-cleanup/worker").pod
    nodes = list(labels_of_nodes())
    assert len(nodes) == 324
    assert [labels for labels in nodes if takes(pod, labels) is not (never_runs_the_worker(labels) is None)] == []
    # No taint keeps it off.
    assert pod["tolerations"] == [{"operator": "Exists"}]


@every_overlay
def test_there_are_never_two_workers_on_a_node_and_a_job_has_the_time_to_go_back(name: str):
    documents = overlay(name)
    daemon_set = named(documents, "DaemonSet", "cni-cleanup")["spec"]
    assert daemon_set["updateStrategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": "10%"}}
    pods = [container(documents, of).pod for of in ("cni-cleanup/worker", "cni-cleanup-control/control")]
    assert [pod["terminationGracePeriodSeconds"] for pod in pods] == [60, 60]


@every_overlay
def test_a_worker_that_does_not_stay_ready_stops_a_rollout(name: str):
    assert named(overlay(name), "DaemonSet", "cni-cleanup")["spec"]["minReadySeconds"] == 30


PROBES = {
    "cni-cleanup/worker": "/var/lib/cni-cleanup/alive",
    "cni-cleanup-control/control": "/var/lib/cni-cleanup/control.alive",
    "cni-cleanup-beat/beat": "/var/lib/cni-cleanup/beat.alive",
}


@pytest.mark.parametrize(("of", "file"), PROBES.items())
def test_a_probe_asks_for_the_age_of_the_sign_of_life(of: str, file: str, tmp_path: Path):
    probe = container(overlay("default"), of).spec["livenessProbe"]["exec"]["command"]
    assert file in probe[-1]
    (tmp_path / "alive").touch()

    def status() -> int:
        command = [word.replace(file, os.fspath(tmp_path / "alive")) for word in probe]
        return subprocess.run(command, capture_output=True, check=False).returncode

    assert status() == 0
    os.utime(tmp_path / "alive", (0, 0))
    assert status() == 1
    (tmp_path / "alive").unlink()
    assert status() == 1


def test_the_signs_of_life_of_an_older_pod_are_gone_before_the_worker_starts(tmp_path: Path):
    of = container(overlay("default"), "cni-cleanup/worker")
    probes = str([of.spec[kind]["exec"]["command"] for kind in ("startupProbe", "livenessProbe", "readinessProbe")])
    asked = set(re.findall(r"/var/lib/cni-cleanup/([\w.]+)", probes))
    assert asked == {"alive", "ready"}
    for file in (*asked, "hold", "report.json"):
        (tmp_path / file).touch()
    program = tmp_path / "cni-cleanup"
    program.write_text('#!/bin/sh\necho "$@"\nls ${0%/*}\n')
    program.chmod(0o755)
    command = [word.replace("/var/lib/cni-cleanup", os.fspath(tmp_path)) for word in of.spec["command"]]
    variables = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run([*command, *of.spec["args"]], env=variables, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["worker", "cni-cleanup", "hold", "report.json"]


def script(of: Container, tmp_path: Path) -> str:
    """The shell's part of a container, with the directories of this test in place of the mounted ones."""
    assert of.spec["command"] == ["sh", "-ec"]
    (text,) = of.spec["args"]
    return str(text).replace("/etc/", f"{tmp_path}/etc/")


def secret(tmp_path: Path, password: str) -> None:
    """What the Secret's volume has of the password."""
    directory = tmp_path / "etc/cni-cleanup"
    directory.mkdir(parents=True)
    (directory / "redis-password").write_text(password)


WORD = "01.ab_CD~-"


class TestRedis:
    def test_it_starts_with_its_settings_and_asks_for_the_password(self, tmp_path: Path):
        server = find_server()
        require(server, "no Redis server: apt install redis-server, or install the demo extra")
        documents = overlay("default")
        of = container(documents, "redis/redis")
        (name,) = {volume["configMap"]["name"] for _, volume in of.volumes() if "configMap" in volume}
        secret(tmp_path, WORD)
        (tmp_path / "etc/redis").mkdir()
        settings = named(documents, "ConfigMap", name)["data"]["redis.conf"].replace("/data", os.fspath(tmp_path))
        # Beside what is served: a socket of the test's own in place of the port.
        socket = f"\nport 0\nunixsocket {tmp_path}/redis.sock\n"
        (tmp_path / "etc/redis/redis.conf").write_text(settings + socket)
        command = script(of, tmp_path).replace("redis-server", os.fspath(server or ""))
        with subprocess.Popen(["sh", "-ec", command], stdout=subprocess.DEVNULL, cwd=tmp_path) as process:
            try:
                until((tmp_path / "redis.sock").exists, what="Redis listens")
                with pytest.raises(redis.exceptions.AuthenticationError):
                    redis.Redis(unix_socket_path=os.fspath(tmp_path / "redis.sock")).ping()
                with redis.Redis(unix_socket_path=os.fspath(tmp_path / "redis.sock"), password=WORD) as client:
                    until(client.ping, what="Redis answers")
                    told: dict[str, Any] = client.config_get("*")
            finally:
                process.terminate()
        assert (told["appendonly"], told["maxmemory-policy"], told["save"]) == ("yes", "noeviction", "")
        # Both families.
        assert told["bind"] == "* -::*"
        assert (told["maxmemory"], told["tcp-backlog"]) == (str(1 << 30), "4096")
        assert int(told["maxclients"]) <= 60000
        assert "maxclients 60000" in settings

    @pytest.mark.parametrize("password", [None, ""])
    def test_without_a_password_it_does_not_start(self, tmp_path: Path, password: str | None):
        if password is not None:
            secret(tmp_path, password)
        command = script(container(overlay("default"), "redis/redis"), tmp_path).replace("redis-server", "echo started")
        done = subprocess.run(["sh", "-ec", command], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (1, "")

    @pytest.mark.parametrize("password", ['a"b', "a\\b", "a b", "a\nb", "a/b", "a$b", "#a", "ä"])
    def test_a_password_that_the_configuration_would_take_for_something_else_is_refused_and_not_shown(
        self, tmp_path: Path, password: str
    ):
        secret(tmp_path, password)
        command = script(container(overlay("default"), "redis/redis"), tmp_path).replace("redis-server", "echo started")
        done = subprocess.run(["sh", "-ec", command], capture_output=True, text=True, check=False)
        told = "redis-password of the Secret is empty, or has other letters than A-Z a-z 0-9 . _ ~ -\n"
        assert (done.returncode, done.stdout, done.stderr) == (1, "", told)

    def test_only_one_that_does_not_listen_is_killed(self):
        # At maxclients a PING is turned away.
        of = container(overlay("default"), "redis/redis").spec
        assert of["livenessProbe"]["tcpSocket"] == {"port": "redis"}
        assert "exec" not in of["livenessProbe"]
        assert of["readinessProbe"]["exec"] == of["startupProbe"]["exec"]


VERIFIED = "ssl_cert_reqs=required&ssl_check_hostname=true"


def exporter(tmp_path: Path, broker: str) -> "subprocess.CompletedProcess[str]":
    """The start of the exporter, with a program in its place that prints its arguments, and the URL that it was given."""
    program = tmp_path / "bin/celery-exporter"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "$@"\necho "$CE_BROKER_URL"\n')
    program.chmod(0o755)
    command = script(container(overlay("default"), "celery-exporter/celery-exporter"), tmp_path)
    path = f"{program.parent}:{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    variables = {"PATH": path, "CNI_CLEANUP_BROKER": broker}
    return subprocess.run(["sh", "-ec", command], env=variables, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("password", [WORD, 'a/b#c?d%e@f:g"h\\i&j=k'])
@pytest.mark.parametrize(
    ("broker", "added"),
    [
        ("redis://redis:6379/0", ""),
        ("redis://someone@r:1/0", ""),
        ("redis://some%40one@[2001:db8::1]:1/0", ""),
        ("rediss://r:1/0", f"?{VERIFIED}"),
        ("rediss://someone@r:1/0?ssl_ca_certs=/ca", f"&{VERIFIED}"),
    ],
)
def test_the_exporter_gets_the_programs_own_url_and_with_tls_checks_the_servers_name(
    tmp_path: Path, broker: str, added: str, password: str
):
    secret(tmp_path, f"{password}\n")
    done = exporter(tmp_path, broker)
    assert done.stderr == ""
    arguments, url = done.stdout.splitlines()
    assert arguments.startswith("--host * --port 9808 --buckets ")
    file = os.fspath(tmp_path / "etc/cni-cleanup/redis-password")
    assert url == url_of(Settings(broker=broker, broker_password_file=file)) + added


@pytest.mark.parametrize(
    ("broker", "password"),
    [("redis://redis:6379/0", ""), ("redis://:one@redis:6379/0", WORD)],
    ids=["none", "in both places"],
)
def test_without_a_password_or_with_two_the_exporter_does_not_start(tmp_path: Path, broker: str, password: str):
    secret(tmp_path, password)
    done = exporter(tmp_path, broker)
    told = "the password of Redis is wanted in the Secret's redis-password, and not in CNI_CLEANUP_BROKER\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", told)


DOCUMENTED = (Path(__file__).parents[2] / "docs/flower.md").read_text()


@pytest.mark.parametrize("of", ["flower/flower", "celery-exporter/celery-exporter"])
def test_flower_and_the_exporter_are_started_as_their_page_has_it(of: str):
    (text,) = container(overlay("default"), of).spec["args"]
    flags = {word for word in text.split() if word.startswith("--")} - {"--host"}
    assert flags
    assert {flag for flag in flags if flag not in DOCUMENTED} == set()
