"""Only a server that speaks no CRI of any version is no runtime: one that speaks an older CRI has sandboxes all the same."""

from concurrent import futures
from typing import Any

import grpc
import pytest

from tests.support.cri_server import Sandbox
from workers.paths import Root
from workers.runtime import RuntimeWitness


def serve(socket, services):
    """A gRPC server whose methods answer with an empty message, the rest with UNIMPLEMENTED."""
    server = grpc.server(futures.ThreadPoolExecutor(2))
    for service, methods in services.items():
        handlers: dict[str, Any] = {
            method: grpc.unary_unary_rpc_method_handler(lambda _request, _context: b"") for method in methods
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    server.add_insecure_port(f"unix:{socket}")
    server.start()
    return server


@pytest.mark.parametrize(
    ("services", "word"),
    [
        ({"runtime.v1alpha2.RuntimeService": ["Version", "ListPodSandbox"]}, "v1alpha2"),
        ({"runtime.v1.RuntimeService": ["ListPodSandbox"]}, "Version"),
    ],
    ids=["speaks only v1alpha2", "lists, and has no Version"],
)
def test_a_runtime_that_speaks_another_cri_is_unknown(short_dir, services, word):
    server = serve(short_dir / "old.sock", services)
    try:
        evidence = RuntimeWitness(Root("/"), f"unix://{short_dir}/old.sock", timeout=5.0).ask()
    finally:
        server.stop(None).wait()
    assert word in str(evidence.unknown)


def test_a_server_without_any_cri_is_no_runtime(short_dir):
    server = serve(short_dir / "none.sock", {"containerd.services.version.v1.Version": ["Version"]})
    try:
        evidence = RuntimeWitness(Root("/"), f"unix://{short_dir}/none.sock", timeout=5.0).ask()
    finally:
        server.stop(None).wait()
    assert "no CRI runtime" in str(evidence.unknown)


def test_a_sandbox_that_is_listed_and_not_found_has_not_ended(cri_server):
    """A runtime says NOT_FOUND too where a sandbox's shim has died: only its list tells that the sandbox has ended."""
    cri_server.add(Sandbox(id="a" * 64, name="web", uid="u", namespace="default"))
    cri_server.fail(errors={"PodSandboxStatus": "NOT_FOUND"})
    witness = RuntimeWitness(Root("/"), cri_server.endpoint, timeout=5.0)
    assert witness.statuses(["a" * 64]) == {}
    assert set(witness.statuses(["b" * 64])) == {"b" * 64}
