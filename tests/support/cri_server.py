"""
A container runtime as a real gRPC server on a unix socket, with settable sandboxes and faults.

In the test's own process: `CriServer(socket)`, a context manager. As a process, which reads its state from a JSON file at every
call and so outlives whatever is killed around it: `python -m tests.support.cri_server SOCKET STATEFILE`, or
`cri_server_process(socket, state_file)`.

Times are seconds of CLOCK_MONOTONIC (`time.monotonic()`), which all processes of a machine share.
"""

import argparse
import contextlib
import json
import os
import socket as sockets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import grpc

from tests.support.cri import (
    MESSAGES,
    METHODS,
    NETWORK_OF_NODE,
    NETWORK_OF_POD,
    NOT_READY,
    READY,
    SERVICE,
    UNLIMITED,
)

CREATED_AT = 1_795_413_944_880_549_270
"""Default creation time of a sandbox, in nanoseconds since the epoch."""


@dataclass(frozen=True, kw_only=True)
class Sandbox:
    """A pod sandbox as a runtime knows it."""

    id: str
    name: str = "web"
    uid: str = "00000000-0000-4000-8000-000000000000"
    namespace: str = "default"
    attempt: int = 0
    ready: bool = True
    created_at: int = CREATED_AT
    ips: tuple[str, ...] = ()
    host_network: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    runtime_handler: str = ""
    #: It is listed from then on; seconds of CLOCK_MONOTONIC.
    visible_from: float = 0.0

    @classmethod
    def from_crictl(cls, item: Mapping[str, Any]) -> Self:
        """Return the sandbox that one entry of `crictl pods -o json` describes."""
        metadata = item["metadata"]
        return cls(
            id=item["id"],
            name=metadata["name"],
            uid=metadata["uid"],
            namespace=metadata["namespace"],
            attempt=int(metadata.get("attempt", 0)),
            ready=item["state"] == "SANDBOX_READY",
            created_at=int(item["createdAt"]),
            labels=item.get("labels") or {},
            annotations=item.get("annotations") or {},
            runtime_handler=item.get("runtimeHandler", ""),
        )


@dataclass(frozen=True, kw_only=True)
class Faults:
    """What the runtime does wrong; methods are `Version`, `ListPodSandbox` and `PodSandboxStatus`."""

    #: The name of the gRPC status code that a method fails with.
    errors: Mapping[str, str] = field(default_factory=dict)
    #: Seconds before a method answers.
    delays: Mapping[str, float] = field(default_factory=dict)
    #: Methods that never answer.
    hangs: tuple[str, ...] = ()
    #: The socket knows no runtime.v1.
    unimplemented: bool = False
    #: Makes a list larger by about so many bytes, as annotations of the sandboxes in it (at least one must be listed).
    padding: int = 0


NO_FAULTS = Faults()


@dataclass(frozen=True, kw_only=True)
class State:
    """All that a runtime answers from."""

    sandboxes: tuple[Sandbox, ...] = ()
    runtime_name: str = "containerd"
    runtime_version: str = "1.6.20"
    faults: Faults = NO_FAULTS

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the state that `write` left at `path`.

        Raises:
            OSError: the file cannot be read.
            ValueError: it holds no state.
        """
        document = json.loads(path.read_bytes())
        sandboxes = tuple(Sandbox(**item | {"ips": tuple(item["ips"])}) for item in document["sandboxes"])
        faults = Faults(**document["faults"] | {"hangs": tuple(document["faults"]["hangs"])})
        return cls(**document | {"sandboxes": sandboxes, "faults": faults})

    def write(self, path: Path) -> None:
        """Replace `path` in one step, so that a reader sees the old state or the new one."""
        scratch = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
        scratch.write_text(json.dumps(asdict(self)))
        scratch.replace(path)

    def visible(self, now: float) -> list[Sandbox]:
        """Return the sandboxes that the runtime knows at `now`."""
        return [sandbox for sandbox in self.sandboxes if sandbox.visible_from <= now]


def _metadata(sandbox: Sandbox) -> Any:
    return MESSAGES["PodSandboxMetadata"](
        name=sandbox.name, uid=sandbox.uid, namespace=sandbox.namespace, attempt=sandbox.attempt
    )


def _common(sandbox: Sandbox) -> dict[str, Any]:
    """Return the fields that a sandbox has in a list and in its status."""
    return {
        "id": sandbox.id,
        "metadata": _metadata(sandbox),
        "state": READY if sandbox.ready else NOT_READY,
        "created_at": sandbox.created_at,
        "labels": dict(sandbox.labels),
        "annotations": dict(sandbox.annotations),
        "runtime_handler": sandbox.runtime_handler,
    }


def _matches(sandbox: Sandbox, wanted: Any) -> bool:
    """Tell whether a PodSandboxFilter takes the sandbox. As in containerd, any prefix of an id is an id."""
    if not sandbox.id.startswith(wanted.id):
        return False
    if wanted.HasField("state") and wanted.state.state != (READY if sandbox.ready else NOT_READY):
        return False
    return all(sandbox.labels.get(key) == value for key, value in wanted.label_selector.items())


def _version(state: State, _request: Any, _context: grpc.ServicerContext) -> Any:
    return MESSAGES["VersionResponse"](
        version="0.1.0",
        runtime_name=state.runtime_name,
        runtime_version=state.runtime_version,
        runtime_api_version="v1",
    )


def _list(state: State, request: Any, _context: grpc.ServicerContext) -> Any:
    found = [sandbox for sandbox in state.visible(time.monotonic()) if _matches(sandbox, request.filter)]
    items = [MESSAGES["PodSandbox"](**_common(sandbox)) for sandbox in found]
    if state.faults.padding:
        for item in items:
            item.annotations["padding"] = "x" * (state.faults.padding // len(items))
    return MESSAGES["ListPodSandboxResponse"](items=items)


def _status(state: State, request: Any, context: grpc.ServicerContext) -> Any:
    wanted = request.pod_sandbox_id
    if not wanted:
        context.abort(grpc.StatusCode.UNKNOWN, "an error occurred when try to find sandbox: Prefix can't be empty")
    found = [sandbox for sandbox in state.visible(time.monotonic()) if sandbox.id.startswith(wanted)]
    if len(found) != 1:
        context.abort(grpc.StatusCode.NOT_FOUND, "an error occurred when try to find sandbox: not found")
    sandbox = found[0]
    network = MESSAGES["PodSandboxNetworkStatus"]()
    # A runtime gives no address for a stopped sandbox, nor for one that uses the node's network.
    if sandbox.ips and sandbox.ready and not sandbox.host_network:
        network.ip = sandbox.ips[0]
        for ip in sandbox.ips[1:]:
            network.additional_ips.add(ip=ip)
    options = MESSAGES["NamespaceOption"](network=NETWORK_OF_NODE if sandbox.host_network else NETWORK_OF_POD)
    linux = MESSAGES["LinuxPodSandboxStatus"](namespaces=MESSAGES["Namespace"](options=options))
    status = MESSAGES["PodSandboxStatus"](**_common(sandbox), network=network, linux=linux)
    return MESSAGES["PodSandboxStatusResponse"](status=status)


_ANSWERS: dict[str, Callable[[State, Any, grpc.ServicerContext], Any]] = {
    "Version": _version,
    "ListPodSandbox": _list,
    "PodSandboxStatus": _status,
}


def _suffer(faults: Faults, method: str, context: grpc.ServicerContext) -> None:
    """Do what `faults` say for this call: wait, hang until the client or the server gives up, or abort."""
    ended = threading.Event()
    # False: the call is over already, and its callback would never run.
    if not context.add_callback(ended.set):
        ended.set()
    if method in faults.hangs:
        ended.wait()
    ended.wait(faults.delays.get(method, 0.0))
    if faults.unimplemented:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, f"unknown service {SERVICE}")
    if method in faults.errors:
        context.abort(grpc.StatusCode[faults.errors[method]], f"{method} fails, as the test wants")


class _Listener:
    """The gRPC server on `socket`; answers from what `state` returns at each call."""

    def __init__(self, socket: Path, state: Callable[[], State], seen: Callable[[str], None]) -> None:
        self._state = state
        self._seen = seen
        self._server = grpc.server(
            ThreadPoolExecutor(max_workers=16, thread_name_prefix="cri"),
            options=[("grpc.max_send_message_length", UNLIMITED), ("grpc.so_reuseport", 0)],
        )
        handlers = {
            method: grpc.unary_unary_rpc_method_handler(
                partial(self._answer, method),
                request_deserializer=MESSAGES[request].FromString,
                response_serializer=MESSAGES[response].SerializeToString,
            )
            for method, (request, response) in METHODS.items()
            if method in _ANSWERS
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        self._server.add_insecure_port(f"unix:{socket}")
        self._server.start()

    def _answer(self, method: str, request: Any, context: grpc.ServicerContext) -> Any:
        self._seen(method)
        state = self._state()
        _suffer(state.faults, method, context)
        return _ANSWERS[method](state, request, context)

    def stop(self) -> None:
        """End the server at once; calls under way are cancelled."""
        self._server.stop(grace=None).wait()


class CriServer:
    """A runtime in this process; a context manager whose methods any thread may call."""

    def __init__(self, socket: Path, state: State | None = None) -> None:
        self.socket = socket
        self._lock = threading.Lock()
        self._state = state or State()
        self._calls: list[str] = []
        self._listener: _Listener | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen, also again after a `stop`; the sandboxes are still there, as after a restart."""
        self._listener = _Listener(self.socket, lambda: self.state, self._saw)

    def stop(self) -> None:
        """Stop listening and remove the socket; does nothing when it is stopped."""
        if self._listener is not None:
            self._listener.stop()
            self._listener = None
            self.socket.unlink(missing_ok=True)

    @property
    def endpoint(self) -> str:
        """The socket as `--runtime-endpoint` takes it."""
        return f"unix://{self.socket}"

    @property
    def state(self) -> State:
        """What the runtime answers from now."""
        with self._lock:
            return self._state

    @property
    def calls(self) -> list[str]:
        """The methods that were called so far, in their order."""
        with self._lock:
            return list(self._calls)

    def change(self, **fields: Any) -> None:
        """Replace fields of the state: `sandboxes`, `runtime_name`, `runtime_version`, `faults`."""
        with self._lock:
            self._state = replace(self._state, **fields)

    def fail(self, **faults: Any) -> None:
        """Set the faults, all others are gone; without an argument nothing fails any more."""
        self.change(faults=Faults(**faults))

    def add(self, sandbox: Sandbox, *, visible_after: float = 0.0) -> None:
        """Add a sandbox that the runtime shows only `visible_after` seconds from now."""
        shown = replace(sandbox, visible_from=time.monotonic() + visible_after) if visible_after else sandbox
        with self._lock:
            self._state = replace(self._state, sandboxes=(*self._state.sandboxes, shown))

    def remove(self, sandbox_id: str) -> None:
        """Forget a sandbox; an unknown id is ignored."""
        with self._lock:
            rest = tuple(sandbox for sandbox in self._state.sandboxes if sandbox.id != sandbox_id)
            self._state = replace(self._state, sandboxes=rest)

    def _saw(self, method: str) -> None:
        with self._lock:
            self._calls.append(method)


def sandboxes_from_file(path: Path) -> tuple[Sandbox, ...]:
    """Return the sandboxes of a file that `crictl pods -o json` wrote."""
    items: Iterable[Mapping[str, Any]] = json.loads(path.read_bytes())["items"]
    return tuple(Sandbox.from_crictl(item) for item in items)


@contextlib.contextmanager
def cri_server_process(socket: Path, state_file: Path) -> Iterator[subprocess.Popen[str]]:
    """Run the server as a process until the block ends; `state_file` is read anew at each call.

    It listens when the block begins. It also ends when this process dies, because its standard input then closes.

    Raises:
        RuntimeError: it cannot start.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.cri_server", os.fspath(socket), os.fspath(state_file)],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != "listening\n":
                raise RuntimeError(f"the CRI server did not start, exit status {process.wait(timeout=10)}")
            yield process
        finally:
            process.kill()
            socket.unlink(missing_ok=True)


@contextlib.contextmanager
def dead_socket(path: Path) -> Iterator[Path]:
    """A socket file whose process is gone: connections are refused."""
    with sockets.socket(sockets.AF_UNIX) as listener:
        listener.bind(os.fspath(path))
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def deaf_socket(path: Path) -> Iterator[Path]:
    """A socket that takes connections and never says a word."""
    with sockets.socket(sockets.AF_UNIX) as listener:
        listener.bind(os.fspath(path))
        listener.listen()
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def babbling_socket(path: Path, answer: bytes = b"HTTP/1.1 400 Bad Request\r\n\r\n") -> Iterator[Path]:
    """A socket of another kind of server: it sends `answer`, which is no gRPC, and hangs up."""
    with sockets.socket(sockets.AF_UNIX) as listener:
        listener.bind(os.fspath(path))
        listener.listen()
        thread = threading.Thread(target=_babble, args=(listener, answer))
        thread.start()
        try:
            yield path
        finally:
            listener.shutdown(sockets.SHUT_RDWR)
            thread.join()
            path.unlink(missing_ok=True)


def _babble(listener: sockets.socket, answer: bytes) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            # The listener was shut down: the test is over.
            return
        with connection, contextlib.suppress(ConnectionError):
            connection.sendall(answer)


def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.cri_server", description=main.__doc__)
    parser.add_argument("socket", type=Path, help="where to listen")
    parser.add_argument("state", type=Path, help="a file that State.write wrote; read at each call")
    arguments = parser.parse_args()
    listener = _Listener(arguments.socket, lambda: State.read(arguments.state), lambda _method: None)
    print("listening", flush=True)
    sys.stdin.read()
    listener.stop()


if __name__ == "__main__":
    main()
