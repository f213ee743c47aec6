"""What the containers of every overlay may do: no more than is documented, and on the node no more than a pass needs."""

import re
from typing import Any

import pytest

from tests.support.manifests import OVERLAYS, Container, container, containers, named, overlay
from tests.support.program import REPOSITORY

every_overlay = pytest.mark.parametrize("name", OVERLAYS)

READ_ONLY = {"/etc/cni/net.d": "", "/run/flannel": ""}
NAMESPACES = {"/run/netns": "HostToContainer"}
EVERYWHERE = {
    "cni-cleanup/worker": {**READ_ONLY, **NAMESPACES},
    "cni-cleanup/server": {**READ_ONLY, "/var/lib/cni": "HostToContainer", "/var/lib/cni-cleanup": ""},
}
"""What each container has of the node to read, by path, with how mounts propagate into it."""

WRITTEN = {"cni-cleanup/worker": {"/var/lib/cni": "HostToContainer", "/var/lib/cni-cleanup": ""}}
"""What each has to write, likewise."""

CONTAINERD = {"cni-cleanup/worker": {"/run/containerd": "HostToContainer"}}
K3S = "/var/lib/rancher/k3s/agent/etc/cni/net.d"
RUNTIMES: dict[str, dict[str, dict[str, str]]] = {
    "k3s": {"cni-cleanup/worker": {"/run/k3s/containerd": "HostToContainer", K3S: ""}, "cni-cleanup/server": {K3S: ""}},
    "crio": {"cni-cleanup/worker": {"/run/crio": "HostToContainer"}},
    "no-runtime-socket": {},
}
"""What an overlay adds to it; the others add containerd's directory."""


def memory(text: str) -> int:
    """Bytes."""
    number, unit = re.fullmatch("([0-9]+)(Mi|Gi)", text).groups()  # type: ignore[union-attr]
    return int(number) << {"Mi": 20, "Gi": 30}[unit]


def processors(text: str) -> float:
    return float(text.removesuffix("m")) / 1000 if text.endswith("m") else float(text)


def unconfined(one: Container) -> list[str]:
    """How a container falls short of what every one has."""
    own = one.spec.get("securityContext", {})
    wanted: dict[str, Any] = {
        "privileged": False,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    found = [f"{setting} is {own.get(setting)}" for setting, value in wanted.items() if own.get(setting) != value]
    if one.security("seccompProfile") != {"type": "RuntimeDefault"}:
        found.append("another seccomp profile")
    found += [f"{setting} of the pod" for setting in ("hostPID", "hostIPC", "shareProcessNamespace") if one.pod.get(setting)]
    return found


@every_overlay
def test_every_container_is_confined(name: str):
    found = {one.name: unconfined(one) for one in containers(overlay(name))}
    assert len(found) >= 6
    assert {who: what for who, what in found.items() if what} == {}


@every_overlay
def test_every_container_asks_for_what_it_needs_and_has_a_limit(name: str):
    for one in containers(overlay(name)):
        resources = one.spec["resources"]
        assert memory(resources["requests"]["memory"]) < memory(resources["limits"]["memory"]), one.name
        assert processors(resources["requests"]["cpu"]) < processors(resources["limits"]["cpu"]), one.name


@every_overlay
def test_a_pass_a_scan_and_a_preflight_can_never_use_up_the_workers_quota_of_processors(name: str):
    # Each is one busy process. A pass that a quota stops under the plugin's lock would keep pods from starting.
    worker = container(overlay(name), "cni-cleanup/worker")
    assert processors(worker.spec["resources"]["limits"]["cpu"]) > 3


@every_overlay
def test_every_image_has_a_tag_and_that_is_not_latest(name: str):
    for one in containers(overlay(name)):
        assert re.fullmatch(r"[a-z.-]+:[0-9][\w.-]*", one.spec["image"]), one.name


@every_overlay
def test_nobody_is_root_or_in_the_hosts_network_but_on_the_nodes(name: str):
    for one in containers(overlay(name)):
        if one.is_on_every_node:
            assert (one.security("runAsUser"), one.pod["hostNetwork"]) == (0, True)
            continue
        assert one.security("runAsNonRoot") is True, one.name
        assert one.security("runAsUser") > 0, one.name
        assert not one.pod.get("hostNetwork")
        assert one.security("seLinuxOptions") is None


@every_overlay
def test_the_node_is_mounted_as_documented_and_nothing_else_of_it(name: str):
    added = RUNTIMES.get(name, CONTAINERD)
    for one in containers(overlay(name)):
        mounts = [mount for mount, volume in one.volumes() if "hostPath" in volume]
        read = {mount["mountPath"]: mount.get("mountPropagation", "") for mount in mounts if mount.get("readOnly")}
        written = {mount["mountPath"]: mount.get("mountPropagation", "") for mount in mounts if not mount.get("readOnly")}
        assert read == {**EVERYWHERE.get(one.name, {}), **added.get(one.name, {})}, one.name
        assert written == WRITTEN.get(one.name, {}), one.name


@every_overlay
def test_a_path_of_the_node_is_the_same_in_the_container(name: str):
    # What results files and sockets name is a path of the node.
    for one in containers(overlay(name)):
        for mount, volume in one.volumes():
            if "hostPath" in volume:
                assert volume["hostPath"]["path"] == mount["mountPath"]
                assert "subPath" not in mount


@every_overlay
def test_the_directory_of_a_runtime_is_never_made(name: str):
    # An empty /run/crio would make every node look like one of CRI-O.
    kinds = {
        volume["hostPath"]["path"]: volume["hostPath"]["type"]
        for one in containers(overlay(name))
        for _, volume in one.volumes()
        if "hostPath" in volume
    }
    runtimes = {"/run/containerd", "/run/k3s/containerd", "/run/crio"}
    assert {path for path, kind in kinds.items() if kind == "Directory"} == kinds.keys() & runtimes
    assert {kind for path, kind in kinds.items() if path not in runtimes} == {"DirectoryOrCreate"}


@every_overlay
def test_every_path_of_the_node_stands_in_the_page(name: str):
    page = (REPOSITORY / "docs/kubernetes.md").read_text()
    for one in containers(overlay(name)):
        for _, volume in one.volumes():
            assert "hostPath" not in volume or f"`{volume['hostPath']['path']}`" in page


@every_overlay
def test_the_tokens_of_the_two_accounts_are_the_workers_and_controls_alone(name: str):
    documents = overlay(name)
    with_token = set()
    for one in containers(documents):
        projected = [source for _, volume in one.volumes() for source in volume.get("projected", {}).get("sources", ())]
        if one.pod["automountServiceAccountToken"] or any("serviceAccountToken" in source for source in projected):
            with_token.add((one.name, one.pod["serviceAccountName"]))
    assert with_token == {
        ("cni-cleanup/worker", "cni-cleanup-node"),
        ("cni-cleanup-control/control", "cni-cleanup-control"),
    }
    assert [one["automountServiceAccountToken"] for one in documents if one["kind"] == "ServiceAccount"] == [False, False]


SECRETS = {
    "cni-cleanup/worker": {"redis-password"},
    "cni-cleanup/server": {"redis-password", "token"},
    "cni-cleanup-control/control": {"redis-password"},
    "cni-cleanup-beat/beat": {"redis-password"},
    "flower/flower": {"redis-password", "flower-auth"},
    "celery-exporter/celery-exporter": {"redis-password"},
    "redis/redis": {"redis-password"},
}


@every_overlay
def test_a_container_has_the_keys_of_the_secret_that_it_reads_and_only_its_user_can_read_them(name: str):
    for one in containers(overlay(name)):
        mounted = [(mount, volume["secret"]) for mount, volume in one.volumes() if volume.get("secret", {}).get("items")]
        assert {item["path"] for _, secret in mounted for item in secret["items"]} == SECRETS[one.name]
        for mount, secret in mounted:
            assert mount["readOnly"]
            assert secret["defaultMode"] == (0o400 if one.is_on_every_node else 0o440)
            # Without, an unprivileged user could not read what is root's.
            assert one.is_on_every_node or one.pod["securityContext"]["fsGroup"] == one.security("runAsGroup")
        assert all(
            "valueFrom" not in variable or "secretKeyRef" not in variable["valueFrom"] for variable in one.spec.get("env", ())
        )


@every_overlay
def test_no_secret_is_in_what_is_applied(name: str):
    documents = overlay(name)
    assert [one for one in documents if one["kind"] == "Secret"] == []
    for one in (one for one in documents if one["kind"] == "ConfigMap"):
        assert not re.search(r"rediss?://[^/]*@|^requirepass", "\n".join(one["data"].values()), flags=re.MULTILINE)


@every_overlay
def test_no_container_gets_the_variables_of_services(name: str):
    # FLOWER_PORT of the Service `flower` would be an option of Flower.
    assert {one.pod["enableServiceLinks"] for one in containers(overlay(name))} == {False}


@every_overlay
def test_all_pods_but_the_nodes_need_no_more_than_the_level_that_the_audit_holds_them_to(name: str):
    labels = named(overlay(name), "Namespace", "cni-cleanup")["metadata"]["labels"]
    levels = {key.rpartition("/")[2]: level for key, level in labels.items() if key.startswith("pod-security")}
    assert levels == {"enforce": "privileged", "warn": "privileged", "audit": "restricted"}
    volumes = {"configMap", "emptyDir", "projected", "secret", "persistentVolumeClaim"}
    for one in (one for one in containers(overlay(name)) if not one.is_on_every_node):
        assert all(volume.keys() - {"name"} <= volumes for _, volume in one.volumes())
