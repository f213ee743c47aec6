"""The runtime witness: every sandbox that the runtimes of this node list, in any state, over CRI."""

import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

# gRPC's core writes its own lines to stderr when a server is absent; the answer already says so.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc
from google.protobuf.message import DecodeError

from cni.evidence import RuntimeEvidence
from cni.names import canonical_address
from cni.pods import Sandbox, SandboxStatus
from workers import cri
from workers.paths import Root

SOCKETS = (
    "/run/containerd/containerd.sock",
    "/run/k3s/containerd/containerd.sock",
    "/run/k0s/containerd.sock",
    "/var/snap/microk8s/common/run/containerd.sock",
    "/run/crio/crio.sock",
    "/run/cri-dockerd.sock",
)
"""Where `auto` looks: containerd, k3s, k0s, MicroK8s, CRI-O, cri-dockerd."""

RECEIVE_LIMIT = 64 << 20
"""Bytes of one answer; gRPC's own 4 MiB are about 6,000 sandboxes with long annotations."""

TIMEOUT = 10.0
"""Seconds for one call."""

STATUSES_TIMEOUT = 30.0
"""Seconds for all PodSandboxStatus calls together."""

_VERSION = re.compile(r"v?(\d+)\.(\d+)")
# From this CRI-O on the runtime's own garbage collection reads the results cache (cri-o server.go:281-286).
_CRIO_GC_SINCE = (1, 32)


class _Failed(Exception):
    """The server did not answer as it should; the message is a sentence."""


class _Unimplemented(_Failed):
    """The server does not know the method, or the whole service."""


class _NotFound(_Failed):
    """The server has no sandbox of this id."""


class _NoRuntime(Exception):
    """The server speaks no CRI of any version: a Docker's containerd, or a containerd with its CRI plugin turned off."""


class _Answer(NamedTuple):
    sandboxes: dict[str, Sandbox]
    keeps_results: bool
    names_processes: bool


class RuntimeWitness:
    """Asks the runtimes of a node."""

    def __init__(self, root: Root, endpoint: str, *, timeout: float = TIMEOUT) -> None:
        """`endpoint` is `auto`, `none` or `unix:///path`, which is a path of ours and not below the node's root."""
        self.root = root
        self.endpoint = endpoint
        self.timeout = timeout

    def ask(self) -> RuntimeEvidence:
        """All sandboxes; Unknown where one runtime did not answer, or all of them list none."""
        if self.endpoint == "none":
            return RuntimeEvidence(off=True)
        sandboxes: dict[str, Sandbox] = {}
        failures: list[str] = []
        runtimes = 0
        keeps_results = names_processes = False
        for socket in self._sockets():
            try:
                answer = self._ask_one(socket)
            except _NoRuntime:
                continue
            except _Failed as failed:
                failures.append(f"{socket}: {failed}")
                continue
            runtimes += 1
            sandboxes |= answer.sandboxes
            keeps_results = keeps_results or answer.keeps_results
            names_processes = names_processes or answer.names_processes
        return RuntimeEvidence(
            unknown=self._why_unknown(failures, runtimes, sandboxes),
            sandboxes=sandboxes,
            live=True,
            keeps_results=keeps_results,
            names_processes=names_processes,
        )

    def statuses(self, sandbox_ids: Iterable[str]) -> dict[str, SandboxStatus]:
        """PodSandboxStatus of each; a sandbox that not every runtime could tell of in time is left out.

        One that is found by none, and in no list any more, has ended since: it has no address.
        """
        found: dict[str, SandboxStatus] = {}
        wanted = set(sandbox_ids)
        deadline = time.monotonic() + STATUSES_TIMEOUT
        not_found: set[str] = set()
        unanswered: set[str] = set()
        for socket in self._sockets() if wanted else ():
            with self._channel(socket) as channel:
                for id_ in wanted - found.keys():
                    if time.monotonic() > deadline:
                        return found
                    try:
                        answer = self._call(channel, "PodSandboxStatus", pod_sandbox_id=id_)
                    except _NotFound:
                        not_found.add(id_)
                        continue
                    except _Failed:
                        unanswered.add(id_)
                        continue
                    # containerd takes the beginning of an id for the id.
                    if answer.status.id == id_:
                        found[id_] = _status(answer)
                    else:
                        unanswered.add(id_)
        ended = not_found - found.keys() - unanswered
        if ended:
            # A sandbox whose shim died may be listed and yet not found: only the list tells that it has ended.
            again = self.ask()
            ended = set() if again.unknown is not None else ended - again.sandboxes.keys()
        return found | dict.fromkeys(ended, SandboxStatus(host_network=False, addresses=()))

    def _sockets(self) -> list[str]:
        if self.endpoint != "auto":
            return [self.endpoint.removeprefix("unix://")]
        candidates = dict.fromkeys(self.root.real(path) for path in SOCKETS)
        return [path for path in candidates if _is_socket(path)]

    def _why_unknown(self, failures: list[str], runtimes: int, sandboxes: Mapping[str, Sandbox]) -> str | None:
        if failures:
            return "; ".join(failures)
        if runtimes == 0 and self.endpoint == "auto":
            return "no CRI runtime was found: name its socket with --runtime-endpoint unix:///path, or turn it off with none"
        if runtimes == 0:
            return f"{self.endpoint} is no CRI runtime"
        if not sandboxes:
            return "the runtime lists no sandbox at all"
        return None

    def _channel(self, socket: str) -> grpc.Channel:
        # The authority of a unix target is its escaped path, which servers written in Go refuse.
        options = [("grpc.max_receive_message_length", RECEIVE_LIMIT), ("grpc.default_authority", "localhost")]
        return grpc.insecure_channel(f"unix:{socket}", options=options)

    def _ask_one(self, socket: str) -> _Answer:
        with self._channel(socket) as channel:
            try:
                listed = self._call(channel, "ListPodSandbox")
            except _Unimplemented as error:
                self._refuse_older(channel)
                raise _NoRuntime from error
            version = self._call(channel, "Version")
        sandboxes = {item.id: _sandbox(item) for item in listed.items}
        return _Answer(
            sandboxes,
            keeps_results=_keeps_results(version.runtime_name, version.runtime_version),
            # cri-dockerd's name for itself, as the dockershim's before it.
            names_processes=version.runtime_name == "docker",
        )

    def _refuse_older(self, channel: grpc.Channel) -> None:
        """A runtime that speaks only an older CRI has sandboxes that nobody would then speak for.

        Raises:
            _Failed: it is one.
        """
        try:
            self._call(channel, "Version", service=cri.OLD_SERVICE)
        except _Unimplemented:
            return
        raise _Failed("it speaks only runtime.v1alpha2: this program needs runtime.v1")

    def _call(self, channel: grpc.Channel, method: str, *, service: str = cri.SERVICE, **fields: str) -> Any:
        call: Callable[..., bytes] = channel.unary_unary(f"/{service}/{method}")
        try:
            data = call(cri.request(f"{method}Request", **fields).SerializeToString(), timeout=self.timeout)
            return cri.decode(f"{method}Response", data)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                raise _Unimplemented(f"it does not know {method}") from error
            if error.code() is grpc.StatusCode.NOT_FOUND:
                raise _NotFound(f"{method} finds no such sandbox") from error
            details = " ".join(str(error.details()).split())
            raise _Failed(f"{error.code().name.lower().replace('_', ' ')} ({details[:200]})") from error
        except DecodeError as error:
            raise _Failed("its answer is no CRI message") from error


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except FileNotFoundError:
        return False
    except OSError:
        # It cannot be told: asking it will say why.
        return True


def _sandbox(item: Any) -> Sandbox:
    metadata = item.metadata
    return Sandbox(id=item.id, ready=item.state == cri.READY, pod_uid=metadata.uid, pod=f"{metadata.namespace}/{metadata.name}")


def _status(answer: Any) -> SandboxStatus:
    status = answer.status
    listed = [status.network.ip, *(inner.ip for inner in status.network.additional_ips)]
    addresses = (canonical_address(text) for text in listed if text)
    return SandboxStatus(
        host_network=status.linux.namespaces.options.network == cri.NODE,
        addresses=tuple(address for address in addresses if address),
    )


def _keeps_results(name: str, version: str) -> bool:
    """CRI-O 1.32 and later; a CRI-O of a version that cannot be read counts as one."""
    if name.lower() not in ("cri-o", "crio"):
        return False
    found = _VERSION.match(version)
    return found is None or (int(found[1]), int(found[2])) >= _CRIO_GC_SINCE
