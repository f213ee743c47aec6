"""The Redis that other tests use is real, on loopback only, and gone afterwards, however the test ends."""

import contextlib
from pathlib import Path

import pytest
import redis

from cni.errors import CleanupError
from tests.support.redis_server import find_server, running
from tests.support.skips import require


@pytest.fixture
def server() -> Path:
    found = find_server()
    require(found, "no Redis server")
    assert found is not None
    return found


def test_it_answers_keeps_nothing_and_listens_on_loopback_only(redis_url: str):
    with contextlib.closing(redis.Redis.from_url(redis_url, decode_responses=True)) as client:
        assert client.config_get("bind") == {"bind": "127.0.0.1"}
        assert client.config_get("save") == {"save": ""}
        assert client.config_get("appendonly") == {"appendonly": "no"}
        assert client.dbsize() == 0


def test_it_is_stopped_also_when_its_user_fails(server: Path, tmp_path: Path):
    with contextlib.suppress(ZeroDivisionError), running(server, tmp_path) as url:
        raise ZeroDivisionError
    with contextlib.closing(redis.Redis.from_url(url)) as client, pytest.raises(redis.ConnectionError):
        client.ping()


def test_a_server_that_does_not_start_says_why(tmp_path: Path):
    broken = tmp_path / "redis-server"
    broken.write_text("#!/bin/sh\necho 'no memory left' >&2\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(CleanupError, match="no memory left"), running(broken, tmp_path):
        pytest.fail("a server that ended cannot be ready")
