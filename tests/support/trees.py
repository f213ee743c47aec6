"""
Odd node trees as small descriptions: git keeps no FIFO, no mode and no name that is not UTF-8, so tests build them.

A case is `<case>.yaml` beside `<case>.expected.json` in tests/fixtures/networks. Keys of the YAML:

- `about`: what is odd; `needs`: `root` where only root can build it
- `flags`: options of `scan`, without dashes, beside the defaults of `Case.flags`
- `sandboxes`, `pods`: what the offline witnesses show beside one pod on the node's network, which keeps the canary quiet;
  null leaves the file out
- `tree`: entries of the node's tree, `run/netns` is there unless `netns: false`

In all strings `<word>` is the sandbox id of that word. An entry has a `path` and a `kind` (`file` by default, `directory`,
`symlink`, `hardlink`, `fifo`, `socket`), links a `target`, `mode` and `uid` where they matter. A file has one of `content`,
`json`, `fill` (`[byte, size]`) and `result` (see `_result`). `!base64 {...}` is the base64 of that as JSON, as libcni keeps a
configuration.
"""

import base64
import hashlib
import json
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

FIXTURES = Path(__file__).parents[1] / "fixtures" / "networks"
NODE = "node1"
_WORD = re.compile(r"<([a-z][a-z0-9-]*)>")


class _Loader(yaml.SafeLoader):
    """YAML with `!base64`."""


def _base64(loader: _Loader, node: yaml.Node) -> str:
    assert isinstance(node, yaml.MappingNode)
    value = loader.construct_mapping(node, deep=True)
    return base64.b64encode(json.dumps(value).encode()).decode()


_Loader.add_constructor("!base64", _base64)


@lru_cache
def container_id(word: str) -> str:
    """The sandbox id of a word."""
    return hashlib.sha256(word.encode()).hexdigest()


def with_ids(value: Any) -> Any:
    """`value` with the id in place of each `<word>`, also inside of lists and mappings."""
    if isinstance(value, str):
        return _WORD.sub(lambda found: container_id(found[1]), value)
    if isinstance(value, list):
        return [with_ids(inner) for inner in value]
    if isinstance(value, dict):
        return {with_ids(key): with_ids(inner) for key, inner in value.items()}
    return value


@dataclass(frozen=True, kw_only=True)
class Case:
    """One description and what `scan` is to say about it."""

    name: str
    description: Mapping[str, Any]
    expected: Mapping[str, Any]

    @property
    def needs_root(self) -> bool:
        """Whether only root can build it."""
        return self.description.get("needs") == "root"

    def build(self, directory: Path) -> dict[str, str]:
        """Make the tree and the witness files below `directory`; return the flags for `scan`."""
        root = directory / "root"
        root.mkdir()
        if self.description.get("netns", True):
            (root / "run" / "netns").mkdir(parents=True)
        for entry in self.description["tree"]:
            _make(root, with_ids(entry))
        return {
            "root": str(root),
            "state-dir": str(directory / "state"),
            "node": NODE,
            "min-age": "0s",
            **_witness(directory, "sandboxes", _sandboxes(self.description.get("sandboxes", []))),
            **_witness(directory, "pods", _pods(self.description.get("pods", []))),
            **self.description.get("flags", {}),
        }


def load_cases() -> list[Case]:
    """All cases, in the order of their names."""
    return [
        Case(
            name=path.stem,
            description=yaml.load(path.read_text(), _Loader),  # noqa: S506  # a subclass of SafeLoader
            expected=with_ids(json.loads(path.with_suffix(".expected.json").read_text())),
        )
        for path in sorted(FIXTURES.glob("*.yaml"))
    ]


def _make(root: Path, entry: Mapping[str, Any]) -> None:
    # As bytes: YAML gives a name that is not UTF-8 as lone surrogates.
    path = os.path.join(os.fsencode(root), os.fsencode(entry["path"]))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    kind = entry.get("kind", "file")
    if kind == "file":
        with open(path, "wb") as file:
            file.write(_content(entry))
    elif kind == "directory":
        os.makedirs(path, exist_ok=True)
    elif kind == "symlink":
        os.symlink(os.fsencode(entry["target"]), path)
    elif kind == "hardlink":
        os.link(os.path.join(os.fsencode(root), os.fsencode(entry["target"])), path)
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        _make_socket(path, kind)
    if "mode" in entry:
        os.chmod(path, int(entry["mode"], 8))
    if "uid" in entry:
        os.chown(path, entry["uid"], -1, follow_symlinks=False)


def _make_socket(path: bytes, kind: str) -> None:
    assert kind == "socket", f"there is no kind {kind!r}"
    directory, name = os.path.split(path)
    # The name of a socket may have 107 bytes, a test's directory alone has more: reach it through a descriptor.
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(os.path.join(f"/proc/self/fd/{fd}".encode(), name))
    finally:
        os.close(fd)


def _content(entry: Mapping[str, Any]) -> bytes:
    if "fill" in entry:
        byte, size = entry["fill"]
        return bytes([byte] * size)
    if "content" in entry:
        return os.fsencode(entry["content"])
    value = _result(**entry["result"]) if "result" in entry else entry.get("json")
    return b"" if value is None else json.dumps(value, separators=(",", ":")).encode()


def _result(
    *,
    id: str,  # noqa: A002  # as the key is called in the descriptions
    network: str = "cbr0",
    ifname: str = "eth0",
    netns: str | None = None,
    sandbox: str | None = None,
    addresses: tuple[str, ...] = (),
    ipam: str = "host-local",
    infra: str | None = "own",
    bare: bool = False,
) -> dict[str, Any]:
    """What libcni keeps: `netns` since 1.2, `sandbox` before it, `bare` before 0.8.

    `infra` is whose id the arguments of Kubernetes carry; without it there are no arguments.
    """
    interfaces = [{"name": network}, {"name": ifname, "sandbox": sandbox}] if sandbox else []
    ips = [{"version": "6" if ":" in address else "4", "address": address} for address in addresses]
    result = {"cniVersion": "0.4.0", "dns": {}, "interfaces": interfaces, "ips": ips}
    if bare:
        return result
    arguments = [["IgnoreUnknown", "1"], ["K8S_POD_NAMESPACE", "default"], ["K8S_POD_NAME", "old"]]
    arguments.append(["K8S_POD_INFRA_CONTAINER_ID", id if infra == "own" else str(infra)])
    configuration = {"cniVersion": "0.4.0", "name": network, "plugins": [{"type": "bridge", "ipam": {"type": ipam}}]}
    if network == "cni-loopback":
        configuration["plugins"] = [{"type": "loopback"}]
    return {
        "kind": "cniCacheV1",
        "containerId": id,
        "config": base64.b64encode(json.dumps(configuration).encode()).decode(),
        "ifName": ifname,
        "networkName": network,
        **({"netns": netns} if netns else {}),
        "cniArgs": arguments if infra else None,
        "result": result,
    }


def _witness(directory: Path, name: str, items: list[dict[str, Any]] | None) -> dict[str, str]:
    if items is None:
        return {}
    path = directory / f"{name}.json"
    path.write_text(json.dumps({"items": items}))
    return {f"{name}-file": str(path)}


def _sandboxes(given: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
    if given is None:
        return None
    exporter = {"id": "<exporter>", "pod": "exporter"}
    return [
        {
            "id": with_ids(one["id"]),
            "metadata": {"name": one["pod"], "namespace": "default", "uid": one.get("uid", f"uid-{one['pod']}"), "attempt": 0},
            "state": one.get("state", "SANDBOX_READY"),
        }
        for one in [exporter, *given]
    ]


def _pods(given: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
    if given is None:
        return None
    exporter = {"name": "exporter", "host_network": True, "ips": ["192.0.2.1"]}
    return [
        {
            "metadata": {
                "name": one["name"],
                "namespace": "default",
                "uid": f"uid-{one['name']}",
                "annotations": one.get("annotations", {}),
            },
            "spec": {"nodeName": one.get("node", NODE), "hostNetwork": one.get("host_network", False)},
            "status": {"phase": one.get("phase", "Running"), "podIPs": [{"ip": ip} for ip in one.get("ips", [])]},
        }
        for one in [exporter, *given]
    ]
