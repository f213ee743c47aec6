"""The real host-local plugin, run as a container runtime runs it, and the files that libcni leaves."""

import base64
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

BIN_DIRS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"))
"""Where Debian's containernetworking-plugins, and everyone else, have the plugins."""

TIMEOUT = 60.0
"""Seconds that an ADD or DEL may take; one that waits for the lock waits without a limit of its own."""


def find_host_local() -> Path | None:
    """Return the plugin's path, or None where it is not installed."""
    found = [directory / "host-local" for directory in BIN_DIRS if os.access(directory / "host-local", os.X_OK)]
    return found[0] if found else None


class PluginError(Exception):
    """The plugin refused: `code` and the message are its own."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, kw_only=True)
class HostLocal:
    """One network of the plugin, its files below `data_dir/network`.

    `ranges` are range sets, each a sequence of subnets or of the plugin's own range objects; two sets are dual stack.
    """

    binary: Path
    data_dir: Path
    network: str = "cbr0"
    ranges: Sequence[Sequence[str | Mapping[str, str]]] = (("10.88.0.0/24",),)

    @property
    def directory(self) -> Path:
        """The network directory; the first ADD or DEL makes it."""
        return self.data_dir / self.network

    @property
    def lock(self) -> Path:
        """The file that the plugin locks."""
        return self.directory / "lock"

    def configuration(self) -> dict[str, Any]:
        """Return the network configuration that the plugin reads from its standard input."""
        ranges = [
            [{"subnet": entry} if isinstance(entry, str) else dict(entry) for entry in range_set] for range_set in self.ranges
        ]
        ipam = {"type": "host-local", "dataDir": os.fspath(self.data_dir), "ranges": ranges}
        return {"cniVersion": "0.4.0", "name": self.network, "type": "bridge", "ipam": ipam}

    def start(self, command: str, container_id: str, ifname: str = "eth0", *, arguments: str = "") -> subprocess.Popen[bytes]:
        """Start the plugin for ADD, DEL or CHECK and give it its configuration; `finish` waits for it.

        `arguments` are what a runtime passes in CNI_ARGS, `KEY=VALUE;...`; `IP=...` wants this very address.
        """
        environment = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container_id,
            "CNI_IFNAME": ifname,
            "CNI_NETNS": f"/var/run/netns/cni-{container_id[:12]}",
            "CNI_PATH": os.fspath(self.binary.parent),
            "CNI_ARGS": arguments,
        }
        # Written and closed beforehand: the plugin reads to the end, and one that dies breaks no pipe here.
        read, write = os.pipe()
        os.write(write, json.dumps(self.configuration()).encode())
        os.close(write)
        try:
            return subprocess.Popen([self.binary], env=environment, stdin=read, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        finally:
            os.close(read)

    def add(self, container_id: str, ifname: str = "eth0") -> tuple[str, ...]:
        """Reserve an address of each range set; return them without prefix length.

        Raises:
            PluginError: the plugin refused.
        """
        result = finish(self.start("ADD", container_id, ifname))
        return tuple(ip["address"].partition("/")[0] for ip in result["ips"])

    def delete(self, container_id: str, ifname: str = "eth0") -> None:
        """Free what this id and interface hold; nothing is no error.

        Raises:
            PluginError: the plugin refused.
        """
        finish(self.start("DEL", container_id, ifname))


def finish(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Wait for a plugin that `HostLocal.start` started; return its result, {} if it printed none.

    Raises:
        PluginError: it refused; code and message are its own.
        subprocess.TimeoutExpired: it was not done within `TIMEOUT` seconds, and has been killed.
    """
    with process:
        try:
            output, errors = process.communicate(timeout=TIMEOUT)
        finally:
            process.kill()
    if process.returncode:
        raise _error(output, errors, process.returncode)
    result: dict[str, Any] = json.loads(output) if output.strip() else {}
    return result


def _error(output: bytes, errors: bytes, status: int) -> PluginError:
    try:
        document = json.loads(output)
        details = document.get("details")
        return PluginError(document["code"], f"{document['msg']}; {details}" if details else document["msg"])
    except (ValueError, KeyError, TypeError):
        return PluginError(status, (errors or output).decode(errors="replace").strip() or f"exit status {status}")


def lock_waiters(lock: Path) -> int:
    """Return how many processes wait for a lock on this file now, as the kernel counts them."""
    inode = f":{lock.stat().st_ino}"
    waiting = (line.split() for line in Path("/proc/locks").read_text().splitlines() if " -> " in line)
    return sum(fields[6].endswith(inode) for fields in waiting)


Form = Literal["netns", "sandbox", "bare"]
"""How a results file names the namespace: libcni 1.2 and later in `netns`; libcni 0.8 to 1.1 only in
`result.interfaces[].sandbox`; libcni 0.7 the same, as a bare result without anything around it."""


@dataclass(frozen=True, kw_only=True)
class Attachment:
    """A sandbox in a network, as libcni's cache remembers it; `addresses` carry their prefix length."""

    container_id: str
    netns: str
    network: str = "cbr0"
    addresses: tuple[str, ...] = ("10.88.0.2/24",)
    ifname: str = "eth0"
    namespace: str = "default"
    pod: str = "web"
    uid: str = "00000000-0000-4000-8000-000000000000"
    #: The only plugin of the network's cached configuration; None is bridge with host-local.
    plugin: Mapping[str, Any] | None = None


def write_result(results: Path, attachment: Attachment, *, form: Form = "netns") -> Path:
    """Write the results file of an attachment into the directory `results`, as containerd leaves it."""
    ips = [{"version": "6" if ":" in address else "4", "address": address, "interface": 0} for address in attachment.addresses]
    interface = {"name": attachment.ifname, "sandbox": attachment.netns}
    result = {"cniVersion": "0.4.0", "dns": {}, "interfaces": [interface], "ips": ips}
    return _write(results, attachment, result, form)


def write_loopback_result(results: Path, attachment: Attachment, *, form: Form = "netns") -> Path:
    """Write the results file of the same sandbox's loopback, which exists while ADD is still under way."""
    loopback = replace(attachment, network="cni-loopback", ifname="lo", plugin={"type": "loopback"})
    ips = [{"version": "", "address": address, "interface": 0} for address in ("127.0.0.1/8", "::1/128")]
    interface = {"mac": "00:00:00:00:00:00", "name": "lo", "sandbox": attachment.netns}
    result = {"cniVersion": "0.3.1", "dns": {}, "interfaces": [interface], "ips": ips}
    return _write(results, loopback, result, form)


def _cached(attachment: Attachment, result: Mapping[str, Any], form: Form) -> dict[str, Any]:
    """Return the cacheV1 document, its keys in libcni's order."""
    plugin = attachment.plugin or {
        "type": "bridge",
        "bridge": attachment.network,
        "ipam": {"type": "host-local"},
    }
    configuration = {"cniVersion": result["cniVersion"], "name": attachment.network, "plugins": [plugin]}
    arguments = {
        "IgnoreUnknown": "1",
        "K8S_POD_NAMESPACE": attachment.namespace,
        "K8S_POD_NAME": attachment.pod,
        "K8S_POD_INFRA_CONTAINER_ID": attachment.container_id,
        "K8S_POD_UID": attachment.uid,
    }
    return {
        "kind": "cniCacheV1",
        "containerId": attachment.container_id,
        "config": base64.b64encode(json.dumps(configuration).encode()).decode(),
        "ifName": attachment.ifname,
        "networkName": attachment.network,
        **({"netns": attachment.netns} if form == "netns" else {}),
        "cniArgs": [list(pair) for pair in arguments.items()],
        "result": result,
    }


def _write(results: Path, attachment: Attachment, result: Mapping[str, Any], form: Form) -> Path:
    document = result if form == "bare" else _cached(attachment, result, form)
    results.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = results / f"{attachment.network}-{attachment.container_id}-{attachment.ifname}"
    path.write_text(json.dumps(document, separators=(",", ":")))
    path.chmod(0o600)
    return path
