"""
A real Redis of the test session's own, started as the demo starts its own: loopback, a free port, nothing kept.

The demo's modules are imported where a Redis is wanted: they bring Celery and more, which most tests do not need.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from cni.errors import CleanupError
from tests.support.skips import require


def find_server() -> Path | None:
    """The server that the demo would take; None if there is none."""
    from cli.demo import redis_server as demo

    try:
        return demo.find_server()
    except CleanupError:
        return None


@contextlib.contextmanager
def running(server: Path, directory: Path) -> Iterator[str]:
    """A Redis with its working directory and log in `directory`; yields its URL once it answers.

    Raises:
        CleanupError: it does not start; the message ends with its log.
    """
    from cli.demo import redis_server as demo
    from cli.demo.processes import Processes

    processes = Processes(directory)
    try:
        yield demo.start(server, processes, directory)
    finally:
        processes.stop()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of one Redis that all tests of the session share."""
    server = find_server()
    require(server, "no Redis server: apt install redis-server, or install the demo extra")
    assert server is not None
    with running(server, tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """The URL of a Redis that is empty when the test begins."""
    with contextlib.closing(redis.Redis.from_url(redis_server)) as client:
        client.flushall()
    return redis_server
