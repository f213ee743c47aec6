"""The password of Redis in a file: where it ends up, and what is refused."""

from pathlib import Path

import pytest

from cni.settings import Settings
from tasks.broker import url_of
from tasks.errors import Refused


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text("hunter2\n")
    return path


@pytest.mark.parametrize(
    ("url", "whole"),
    [
        ("redis://redis:6379/0", "redis://:hunter2@redis:6379/0"),
        ("redis://node@redis:6379", "redis://node:hunter2@redis:6379"),
        ("rediss://[::1]:6380/1?ssl_ca_certs=/ca.pem", "rediss://:hunter2@[::1]:6380/1?ssl_ca_certs=/ca.pem"),
    ],
)
def test_the_password_of_the_file_is_put_into_the_url(file: Path, url: str, whole: str):
    assert url_of(Settings(broker=url, broker_password_file=str(file))) == whole


def test_without_a_file_the_url_is_as_it_was_written():
    assert url_of(Settings(broker="redis://:a%2Fb@redis/0")) == "redis://:a%2Fb@redis/0"


def test_what_would_mean_something_in_a_url_is_escaped(file: Path):
    file.write_text("a/b@c:d?e#f%")
    assert (
        url_of(Settings(broker="redis://redis/0", broker_password_file=str(file))) == "redis://:a%2Fb%40c%3Ad%3Fe%23f%25@redis/0"
    )


def test_a_password_that_is_written_twice_is_refused_and_told_in_neither_form(file: Path):
    with pytest.raises(Refused, match="leave one of them out") as refused:
        url_of(Settings(broker="redis://:swordfish@redis/0", broker_password_file=str(file)))
    assert "swordfish" not in str(refused.value)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"", "holds no password"), (b"two\nlines", "holds no password"), ("\u00e9".encode(), "it is not ASCII")],
)
def test_a_file_that_holds_no_password_is_refused(file: Path, content: bytes, why: str):
    file.write_bytes(content)
    with pytest.raises(Refused, match=f"--broker-password-file {file} .*{why}"):
        url_of(Settings(broker="redis://redis/0", broker_password_file=str(file)))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path):
    with pytest.raises(Refused, match="cannot be read: No such file"):
        url_of(Settings(broker="redis://redis/0", broker_password_file=str(tmp_path / "none")))


def test_a_running_process_keeps_the_password_that_it_started_with(file: Path):
    settings = Settings(broker="redis://redis/0", broker_password_file=str(file))
    first = url_of(settings)
    file.unlink()
    assert url_of(settings) == first
