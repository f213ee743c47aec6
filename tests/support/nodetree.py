"""A small node, file by file: reservations, results, namespaces, and the two lists that witnesses would give."""

import base64
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from cni.report import Report
from cni.settings import Settings
from workers import node
from workers.clock import SystemClock

NODE = "node1"


class LaterClock(SystemClock):
    """The clocks of this machine, so many seconds later: files cannot be made old, since nobody sets a ctime.

    Nor can the machine, whose start the ages of a running node's files are measured against: it is up for as much longer.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        """`seconds` may be negative: the files are then of the future."""
        self.seconds = seconds
        self.slept: list[float] = []

    def wall_ns(self) -> int:
        """The time of day, moved."""
        return super().wall_ns() + int(self.seconds * 1e9)

    def monotonic(self) -> float:
        """The time since this machine's start, moved as far, but not before it."""
        return super().monotonic() + max(0.0, self.seconds)

    def sleep(self, seconds: float) -> None:
        """Remember it and go on: what a wait is for can be done in a subclass."""
        self.slept.append(seconds)


def container_id(word: str) -> str:
    """A sandbox id that a test can name."""
    return hashlib.sha256(word.encode()).hexdigest()


class NodeTree:
    """A node below a directory. Ids are given by a word; see `container_id`."""

    def __init__(self, path: Path) -> None:
        """Make an empty node with the network cbr0."""
        self.path = path
        self.root = path / "root"
        self.state = path / "state"
        self.sandboxes: list[dict[str, Any]] = []
        self.pods: list[dict[str, Any]] = []
        self.file("run/netns/.keep", b"")
        self.network("cbr0")

    def file(self, name: str, data: bytes, mode: int = 0o644) -> Path:
        """A file of the node."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        path.chmod(mode)
        return path

    def network(self, name: str, *, subnet: str = "10.88.0.0/16", lock: bool = True) -> Path:
        """A network with its configuration."""
        directory = self.root / "var/lib/cni/networks" / name
        directory.mkdir(parents=True, exist_ok=True)
        if lock:
            self.file(f"var/lib/cni/networks/{name}/lock", b"", 0o750)
        self.file(f"etc/cni/net.d/10-{name}.conflist", json.dumps(conflist(name, subnet)).encode())
        return directory

    def reservation(self, ip: str, word: str, *, network: str = "cbr0", ifname: str = "eth0", data: bytes | None = None) -> Path:
        """A reservation as host-local writes it, or with other bytes."""
        content = f"{container_id(word)}\r\n{ifname}".encode() if data is None else data
        return self.file(f"var/lib/cni/networks/{network}/{ip}", content)

    def result(self, word: str, ip: str | None = None, *, network: str = "cbr0", place: str = "results", **changes: Any) -> Path:
        """A results file as containerd leaves it, its namespace named after the word; `changes` replace keys of it."""
        value = {
            "kind": "cniCacheV1",
            "containerId": container_id(word),
            "config": base64.b64encode(json.dumps(conflist(network)).encode()).decode(),
            "ifName": "eth0",
            "networkName": network,
            "cniArgs": [
                ["K8S_POD_NAMESPACE", "default"],
                ["K8S_POD_NAME", word],
                ["K8S_POD_UID", f"uid-{word}"],
                ["K8S_POD_INFRA_CONTAINER_ID", container_id(word)],
            ],
            "result": {
                "cniVersion": "0.4.0",
                "interfaces": [{"name": "cbr0"}, {"name": "eth0", "sandbox": f"/var/run/netns/cni-{word}"}],
                "ips": [{"address": f"{ip}/16"}] if ip else [],
            },
            **changes,
        }
        name = f"{value['networkName']}-{value['containerId']}-{value['ifName']}"
        return self.file(f"var/lib/cni/{place}/{name}", json.dumps(value).encode(), 0o600)

    def loopback(self, word: str) -> Path:
        """The results file that containerd writes first."""
        config = base64.b64encode(json.dumps({"name": "cni-loopback", "plugins": [{"type": "loopback"}]}).encode()).decode()
        return self.result(word, network="cni-loopback", ifName="lo", config=config)

    def namespace(self, word: str) -> Path:
        """The name of a namespace; that it is mounted takes root, and tests/support/namespaces."""
        return self.file(f"run/netns/cni-{word}", b"")

    def sandbox(self, word: str, *, state: str = "SANDBOX_READY", uid: str | None = None) -> None:
        """List a sandbox."""
        metadata = {"name": word, "namespace": "default", "uid": uid or f"uid-{word}", "attempt": 0}
        self.sandboxes.append({"id": container_id(word), "metadata": metadata, "state": state})

    def pod(self, name: str, *ips: str, phase: str = "Running", host_network: bool = False, **annotations: str) -> dict[str, Any]:
        """Show a pod."""
        pod: dict[str, Any] = {
            "metadata": {"name": name, "namespace": "default", "uid": f"uid-{name}", "annotations": dict(annotations)},
            "spec": {"nodeName": NODE, "hostNetwork": host_network},
            "status": {"phase": phase, "podIPs": [{"ip": ip} for ip in ips]},
        }
        self.pods.append(pod)
        return pod

    def live(self, word: str, ip: str, *, network: str = "cbr0") -> Path:
        """A running pod with all it leaves on a node, known to everybody."""
        self.result(word, ip, network=network)
        self.loopback(word)
        self.namespace(word)
        self.sandbox(word)
        self.pod(word, ip)
        return self.reservation(ip, word, network=network)

    def dead(self, word: str, ip: str, *, network: str = "cbr0") -> Path:
        """What a pod that nobody knows any more left behind."""
        self.result(word, ip, network=network)
        self.loopback(word)
        return self.reservation(ip, word, network=network)

    def settings(self, **changes: Any) -> Settings:
        """Settings for this node with offline witnesses; anything can be changed."""
        (self.path / "sandboxes.json").write_text(json.dumps({"items": self.sandboxes}))
        (self.path / "pods.json").write_text(json.dumps({"kind": "List", "items": self.pods}))
        values: dict[str, Any] = {
            "root": str(self.root),
            "state_dir": str(self.state),
            "node": NODE,
            "sandboxes_file": str(self.path / "sandboxes.json"),
            "pods_file": str(self.path / "pods.json"),
            "confirm_after": 60.0,
        }
        return Settings(**{**values, **changes})

    def scan(self, *, later: float = 3600.0, **changes: Any) -> Report:
        """Scan it, its files made `later` seconds old."""
        return node.scan(self.settings(**changes), clock=LaterClock(later))

    def clean(self, *, clock: SystemClock | None = None, observe: Any = None, **changes: Any) -> Report:
        """One pass over it, an hour later unless a clock says otherwise."""
        more = {"observe": observe} if observe else {}
        return node.clean(self.settings(**changes), clock=clock or LaterClock(3600.0), **more)


def conflist(name: str, subnet: str = "10.88.0.0/16") -> dict[str, Any]:
    """A bridge network with host-local."""
    ipam = {"type": "host-local", "ranges": [[{"subnet": subnet}]]}
    return {"cniVersion": "0.4.0", "name": name, "plugins": [{"type": "bridge", "bridge": name, "ipam": ipam}]}


def verdicts(report: Report) -> dict[str, str]:
    """`verdict/reason` by path, with the outcome where there is one; reservations by network and address."""
    found = {}
    for item, decision, outcome in report.rows():
        name = item.path.removeprefix("/var/lib/cni/").removeprefix("networks/")
        found[name] = f"{decision.verdict}/{decision.reason}" + (f"/{outcome}" if outcome else "")
    return found


def reservations(report: Report) -> dict[str, str]:
    """As `verdicts`, of the reservations alone."""
    return {
        name: text
        for name, text in verdicts(report).items()
        if not name.startswith(("results/", "cache/", "multus/", "flannel/"))
    }


def remaining(tree: NodeTree) -> set[str]:
    """The reservations that are there, by network and address."""
    base = tree.root / "var/lib/cni/networks"
    found = {os.path.relpath(path, base) for path in base.rglob("*") if path.is_file()}
    return {name for name in found if not name.endswith("lock") and "last_reserved_ip" not in name}
