"""Plain HTTP over a socket, with what no library lets one send."""

import http.client
import socket
from collections.abc import Iterator
from contextlib import contextmanager

WITHIN = 30.0
"""Seconds; a machine may be busy."""


def get(port: int, path: str, *, method: str = "GET", body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    """The status and the body of an answer; headers are named with `_` for `-`."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WITHIN)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


@contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    """A bare connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=WITHIN) as client:
        yield client
