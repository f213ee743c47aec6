"""
How Redis is reached: what its URL says, and a client of our own for the ledger.

One URL serves broker, results, schedule and ledger. TLS is in its query, as redis-py and Celery write it:
`rediss://:password@redis:6380/0?ssl_ca_certs=/etc/ca.pem&ssl_certfile=/etc/tls.crt&ssl_keyfile=/etc/tls.key`.
"""

import os
import ssl
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit, urlunsplit

from redis import Redis
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from tasks.errors import BrokerAway, Refused

_TIMEOUT = 10.0
"""Seconds until a connection must stand."""

ANSWERS_WITHIN = 30.0
"""Seconds until a command must be answered: half-open connections are noticed. Above what a BRPOP and a health check may take."""

_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
"""What a `rediss` URL may say in its query."""

PATIENT = 12
"""Tries of who has something to record that cannot be had again; with the waits between them two minutes and more."""


def without_query(url: str) -> str:
    """`url` without what this module reads from it, which kombu, Celery and redbeat would each read in another way."""
    return urlunsplit(urlsplit(url)._replace(query=""))


def tls(url: str) -> dict[str, Any] | None:
    """The TLS options of a `rediss` URL, as redis-py and kombu take them; None without TLS.

    The server's certificate and its name are always checked: kombu alone would take any.

    Raises:
        Refused: its query has something else than the files, or names one that cannot be read.
    """
    parts = urlsplit(url)
    query = parse_qs(parts.query, keep_blank_values=True)
    if parts.scheme != "rediss":
        if query:
            raise Refused(f"the broker's URL has a query ({', '.join(sorted(query))}), which only a rediss URL may have")
        return None
    unknown = sorted(query.keys() - set(_FILES))
    if unknown:
        raise Refused(f"the broker's URL has {', '.join(unknown)} in its query: there are only {', '.join(_FILES)}")
    files = {name: values[-1] for name, values in query.items()}
    for name, path in files.items():
        if not os.access(path, os.R_OK):
            raise Refused(f"the broker's URL has {name}={path}, which cannot be read")
    if "ssl_keyfile" in files and "ssl_certfile" not in files:
        raise Refused("the broker's URL has ssl_keyfile without ssl_certfile: a client shows a certificate with its key")
    return {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True, **files}


def require(url: str) -> None:
    """Ask the Redis at `url` for a sign of life.

    Raises:
        BrokerAway: it does not answer.
        Refused: the URL says nonsense about TLS.
    """
    try:
        with connected(url, tries=0) as client:
            client.ping()
    except (RedisError, OSError) as error:
        why = " ".join(str(error).split())
        raise BrokerAway(f"Redis does not answer ({why}): is --broker, or CNI_CLEANUP_BROKER, right, and is it up?") from error


@contextmanager
def connected(url: str, *, tries: int = 2) -> "Iterator[Redis]":
    """A client for the time of a block, with one connection, which tries again so many times.

    Raises:
        Refused: the URL says nonsense about TLS.
    """
    retry = Retry(ExponentialWithJitterBackoff(base=0.5, cap=15), tries) if tries else Retry(NoBackoff(), 0)
    client = Redis.from_url(
        without_query(url),
        socket_connect_timeout=_TIMEOUT,
        socket_timeout=ANSWERS_WITHIN,
        socket_keepalive=True,
        retry=retry,
        **(tls(url) or {}),
    )
    with closing(client):
        yield client
