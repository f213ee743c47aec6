"""Fixtures over the real parts. What is missing on a machine skips with its reason; under CI a skip fails."""

import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from tests.support import namespaces as namespace_support
from tests.support import nodelab, recorded
from tests.support.api_server import ApiServer, Certificate, self_signed
from tests.support.cri_server import CriServer
from tests.support.namespaces import Namespaces, unmount_below
from tests.support.nodelab import NodeLab
from tests.support.plugin import HostLocal, find_host_local
from tests.support.recorded import RecordedNode
from tests.support.skips import require_program

TOKEN = "token-of-the-test"  # noqa: S105  # a made-up one, for a server that only tests reach


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A directory with a short path: that of a unix socket may have 107 bytes, and pytest's own are long."""
    with tempfile.TemporaryDirectory(prefix="cc-") as directory:
        yield Path(directory)


@pytest.fixture
def cri_server(short_dir: Path) -> Iterator[CriServer]:
    """A runtime without sandboxes, listening."""
    with CriServer(short_dir / "cri.sock") as server:
        yield server


@pytest.fixture
def api_server() -> Iterator[ApiServer]:
    """An API server without pods, over plain HTTP, for every client."""
    with ApiServer() as server:
        yield server


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A certificate for the loopback."""
    require_program("openssl", "openssl")
    return self_signed(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def secure_api_server(certificate: Certificate) -> Iterator[ApiServer]:
    """An API server as a pod sees it: TLS, and a token is wanted."""
    with ApiServer(token=TOKEN, certificate=certificate) as server:
        yield server


class MakeHostLocal(Protocol):
    """Makes networks of the real plugin, below one directory."""

    def __call__(self, network: str = ..., ranges: tuple[tuple[str, ...], ...] = ...) -> HostLocal: ...


@pytest.fixture
def host_local(tmp_path: Path) -> MakeHostLocal:
    """A factory of networks of the real host-local plugin, below `tmp_path/networks`."""
    binary = find_host_local()
    if binary is None:
        pytest.skip("host-local is missing: apt install containernetworking-plugins")

    def make(network: str = "cbr0", ranges: tuple[tuple[str, ...], ...] = (("10.88.0.0/24",),)) -> HostLocal:
        return HostLocal(binary=binary, data_dir=tmp_path / "networks", network=network, ranges=ranges)

    return make


@pytest.fixture
def namespaces() -> Iterator[Namespaces]:
    """Mounts network namespaces; root only."""
    reason = namespace_support.why_not()
    if reason is not None:
        pytest.skip(reason)
    with Namespaces() as mounted:
        yield mounted


@pytest.fixture(scope="session")
def _lab_of_session() -> Iterator[NodeLab]:
    reason = nodelab.why_not()
    lab = nodelab.default_lab()
    if reason is not None or lab is None:
        pytest.skip(reason or "no node-lab")
    with nodelab.exclusive(lab):
        try:
            yield lab
        finally:
            lab.down()


@pytest.fixture
def node_lab(_lab_of_session: NodeLab) -> Iterator[NodeLab]:
    """The real container runtime, up and without sandboxes; root only."""
    _lab_of_session.reset()
    yield _lab_of_session
    _lab_of_session.reset()


@pytest.fixture
def recorded_node() -> Iterator[Callable[[str], RecordedNode]]:
    """A factory of copies of recorded nodes, with their mounts where this machine lets us mount."""
    directory = Path(tempfile.mkdtemp(prefix="cc-nodes-"))
    mounter = Namespaces() if namespace_support.why_not() is None else None
    numbers = itertools.count()

    def make(name: str) -> RecordedNode:
        return recorded.copy_node(name, directory / str(next(numbers)), namespaces=mounter)

    try:
        yield make
    finally:
        if mounter is not None:
            mounter.undo()
            unmount_below(directory)
        shutil.rmtree(directory)
