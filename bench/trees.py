"""
Node trees for the benchmarks: a directory that stands for a node, and its recorded witnesses.

One network, `cbr0`. Live reservations have what a node has for them: a results file that names a network namespace, that name
below `run/netns`, a sandbox, and a pod that shows the address. Leaked ones have nothing.
"""

import base64
import hashlib
import json
import os
import shutil
import uuid
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

NETWORK = "cbr0"
NODE = "node1"

FIRST_ADDRESS = IPv4Address("10.88.0.2")
"""The reservations are at this one and those after it."""

IPAM = {"type": "host-local", "ranges": [[{"subnet": "10.88.0.0/16"}]]}
CONFLIST = {
    "cniVersion": "1.0.0",
    "name": NETWORK,
    "plugins": [{"type": "bridge", "bridge": NETWORK, "ipam": IPAM}],
}


@dataclass(frozen=True, kw_only=True)
class Node:
    """The paths of one node tree."""

    #: Holds everything else.
    base: Path
    #: The node's own file system.
    root: Path
    #: The cleaner's state directory.
    state: Path
    network: Path
    sandboxes: Path
    pods: Path
    #: A file with the ids of the live reservations, one a line.
    live: Path


def make_node(base: Path, *, reservations: int, live: int, waiting: tuple[str, ...] = ()) -> Node:
    """Make a node with so many reservations, so many of them live and spread evenly, the others leaked.

    `waiting` are ids of sandboxes that the runtime lists already and that have no reservation yet: those of the ADDs to come.
    """
    node = _empty_node(base)
    every = reservations // live
    living: list[tuple[str, str]] = []
    directory = os.open(node.network, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for index in range(reservations):
            container_id = container_id_of(base.name, index)
            address = str(FIRST_ADDRESS + index)
            write_reservation(directory, address, container_id)
            if index % every == 0 and len(living) < live:
                living.append((container_id, address))
    finally:
        os.close(directory)
    (node.network / "last_reserved_ip.0").write_text(str(FIRST_ADDRESS + reservations - 1))
    for container_id, address in living:
        _write_result(node.root, container_id, address)
    node.live.write_text("".join(f"{container_id}\n" for container_id, _ in living))
    _write_witnesses(node, living, waiting)
    return node


def remove_node(node: Node) -> None:
    """Remove a node tree with everything in it."""
    shutil.rmtree(node.base)


def container_id_of(name: str, index: int) -> str:
    """A sandbox id (64 hexadecimal digits) that is always the same for the same arguments."""
    return hashlib.sha256(f"{name}-{index}".encode()).hexdigest()


def write_reservation(directory: int, address: str, container_id: str) -> None:
    """Write a reservation as host-local does, into the open network directory.

    Raises:
        FileExistsError: the address is reserved already.
    """
    fd = os.open(address, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=directory)
    os.write(fd, f"{container_id}\r\neth0".encode())
    os.close(fd)


def reserved(node: Node) -> set[str]:
    """The addresses that have a reservation."""
    return {name for name in os.listdir(node.network) if name[0].isdigit()}


def _empty_node(base: Path) -> Node:
    root = base / "root"
    node = Node(
        base=base,
        root=root,
        state=base / "state",
        network=root / "var/lib/cni/networks" / NETWORK,
        sandboxes=base / "sandboxes.json",
        pods=base / "pods.json",
        live=base / "live",
    )
    configuration = root / "etc/cni/net.d"
    for directory in (
        node.network,
        configuration,
        root / "var/lib/cni/results",
        root / "run/netns",
        node.state,
    ):
        directory.mkdir(parents=True)
    node.state.chmod(0o700)
    (configuration / "10-cbr0.conflist").write_text(json.dumps(CONFLIST))
    lock = node.network / "lock"
    lock.touch()
    lock.chmod(0o750)
    return node


def _pod(container_id: str) -> tuple[str, str]:
    """Name and uid of the pod whose sandbox has this id."""
    return f"pod-{container_id[:10]}", str(uuid.uuid5(uuid.NAMESPACE_OID, container_id))


def _write_result(root: Path, container_id: str, address: str) -> None:
    name, uid = _pod(container_id)
    namespace = f"cni-{uuid.uuid5(uuid.NAMESPACE_DNS, container_id)}"
    result = {
        "kind": "cniCacheV1",
        "containerId": container_id,
        "config": base64.b64encode(json.dumps(CONFLIST).encode()).decode(),
        "ifName": "eth0",
        "networkName": NETWORK,
        "cniArgs": [
            ["K8S_POD_NAMESPACE", "default"],
            ["K8S_POD_NAME", name],
            ["K8S_POD_INFRA_CONTAINER_ID", container_id],
            ["K8S_POD_UID", uid],
        ],
        "result": {
            "cniVersion": "1.0.0",
            "interfaces": [{"name": "eth0", "sandbox": f"/var/run/netns/{namespace}"}],
            "ips": [{"address": f"{address}/16", "gateway": "10.88.0.1", "interface": 0}],
        },
    }
    (root / "run/netns" / namespace).touch()
    path = root / "var/lib/cni/results" / f"{NETWORK}-{container_id}-eth0"
    path.write_text(json.dumps(result))
    path.chmod(0o600)


def _write_witnesses(node: Node, living: list[tuple[str, str]], waiting: tuple[str, ...]) -> None:
    sandboxes = [_sandbox(container_id) for container_id in (*(one for one, _ in living), *waiting)]
    node.sandboxes.write_text(json.dumps({"items": sandboxes}))
    pods = [_running_pod(container_id, address) for container_id, address in living]
    node.pods.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": pods}))


def _sandbox(container_id: str) -> dict[str, object]:
    name, uid = _pod(container_id)
    return {
        "id": container_id,
        "metadata": {"name": name, "uid": uid, "namespace": "default", "attempt": 0},
        "state": "SANDBOX_READY",
        "createdAt": "1795413944880549270",
        "labels": {
            "io.kubernetes.pod.name": name,
            "io.kubernetes.pod.namespace": "default",
            "io.kubernetes.pod.uid": uid,
        },
        "annotations": {},
        "runtimeHandler": "",
    }


def _running_pod(container_id: str, address: str) -> dict[str, object]:
    name, uid = _pod(container_id)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "uid": uid, "annotations": {}},
        "spec": {"nodeName": NODE, "containers": [{"name": "c", "image": "localhost/busybox:1"}]},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]},
    }
