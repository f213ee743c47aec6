"""
How Redis is reached: what its URL says, and a client of our own for the ledger.

One URL serves broker, results, schedule and ledger. TLS is in its query, as redis-py and Celery write it:
`rediss://:password@redis:6380/0?ssl_ca_certs=/etc/ca.pem&ssl_certfile=/etc/tls.crt&ssl_keyfile=/etc/tls.key`.
"""

import functools
import os
import ssl
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit, urlunsplit

from kombu.exceptions import OperationalError
from redis import Redis
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from cni.settings import Settings
from tasks.errors import BrokerAway, Refused, refusing
from workers.tokens import read_secret

ERRORS = (RedisError, OperationalError)
"""What its clients raise where it does not answer, or not as it should."""

_TIMEOUT = 10.0
"""Seconds until a connection must stand."""

ANSWERS_WITHIN = 30.0
"""Seconds until a command must be answered: half-open connections are noticed. Above what a BRPOP and a health check may take."""

_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
"""What a `rediss` URL may say in its query."""

PATIENT = 12
"""Tries of who has something to record that cannot be had again; with the waits between them two minutes and more."""


def url_of(settings: Settings) -> str:
    """The URL of Redis with the password in it, wherever that is written.

    Raises:
        Refused: the password is written twice, or its file cannot be read.
    """
    if settings.broker_password_file is None:
        return settings.broker
    return _with_password(settings.broker, settings.broker_password_file)


# Once in a process: what is being replaced is for the next start, and no reason for a running worker to refuse its job.
@functools.lru_cache(maxsize=16)
def _with_password(url: str, path: str) -> str:
    parts = urlsplit(url)
    if parts.password:
        raise Refused("the broker's URL has a password, and --broker-password-file names one too: leave one of them out")
    with refusing():
        password = read_secret(path, option="--broker-password-file", what="password")
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username or ''}:{quote(password, safe='')}@{host}"))


def without_query(url: str) -> str:
    """`url` without what this module reads from it, which kombu, Celery and redbeat would each read in another way."""
    return urlunsplit(urlsplit(url)._replace(query=""))


def without_password(url: str) -> str:
    """`url` without its query, and without who logs in: see `login`."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(query="", netloc=parts.netloc.rpartition("@")[2]))


def login(url: str) -> dict[str, str]:
    """Who logs in at `url`, and with which password, as redis-py takes them; empty where it says neither."""
    parts = urlsplit(url)
    said = {"username": parts.username, "password": parts.password}
    return {name: unquote(value) for name, value in said.items() if value}


def tls(url: str) -> dict[str, Any] | None:
    """The TLS options of a `rediss` URL, as redis-py and kombu take them; None without TLS.

    The server's certificate and its name are always checked: kombu alone would take any.

    Raises:
        Refused: its query has something else than the files, or names one that cannot be read or is no such file.
    """
    parts = urlsplit(url)
    query = parse_qs(parts.query, keep_blank_values=True)
    if parts.scheme != "rediss":
        if query:
            raise Refused(f"the broker's URL has a query ({_told(query)}), which only a rediss URL may have")
        return None
    unknown = query.keys() - set(_FILES)
    if unknown:
        raise Refused(f"the broker's URL has {_told(unknown)} in its query: there are only {', '.join(_FILES)}")
    files = {name: values[-1] for name, values in query.items()}
    if "ssl_keyfile" in files and "ssl_certfile" not in files:
        raise Refused("the broker's URL has ssl_keyfile without ssl_certfile: a client shows a certificate with its key")
    _try(**files)
    return {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True, **files}


def _told(names: Iterable[str]) -> str:
    """Names of a query for a message: behind a ? that was not escaped there may be a password."""
    return ", ".join(sorted(name if name.isidentifier() else "..." for name in names))


# Once in a process: files that are just being replaced are no reason for a running worker to refuse its job.
@functools.lru_cache(maxsize=16)
def _try(ssl_ca_certs: str | None = None, ssl_certfile: str | None = None, ssl_keyfile: str | None = None) -> None:
    """Read the files as a connection will: what is wrong with them is said by name, and not as a Redis that does not answer.

    Raises:
        Refused: they are not what the URL says.
    """
    for name, path in (("ssl_ca_certs", ssl_ca_certs), ("ssl_certfile", ssl_certfile), ("ssl_keyfile", ssl_keyfile)):
        if path is not None and not os.access(path, os.R_OK):
            raise Refused(f"the broker's URL has {name}={path}, which cannot be read")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if ssl_ca_certs is not None:
            context.load_verify_locations(ssl_ca_certs)
    except OSError as error:
        raise Refused(f"the broker's URL has ssl_ca_certs={ssl_ca_certs}, which holds no certificate in PEM form") from error
    try:
        if ssl_certfile is not None:
            # Without a password OpenSSL would ask the terminal for that of an encrypted key.
            context.load_cert_chain(ssl_certfile, ssl_keyfile, password="")
    except (OSError, ValueError) as error:
        told = f"ssl_certfile={ssl_certfile}, which is no certificate in PEM form to the key in {ssl_keyfile or ssl_certfile}"
        raise Refused(f"the broker's URL has {told}; a key that wants a password cannot be used") from error


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
        raise away(error) from error


def away(error: Exception) -> BrokerAway:
    """What to tell who wanted something of Redis, and got this error of it or of one of its clients."""
    why = " ".join(str(error).split())
    if "'maxmemory'" in why:
        return BrokerAway("Redis takes nothing, its memory is full: raise its maxmemory, or find out what fills it")
    if "invalid username-password" in why or "WRONGPASS" in why:
        return BrokerAway(f"Redis refuses the password ({why}): see --broker-password-file, or that of --broker")
    # What redis-py's greeting is told.
    if "client already authenticated" in why or "Authentication required" in why:
        why = "it wants a password: --broker-password-file FILE, or redis://:PASSWORD@HOST:6379/0"
    return BrokerAway(f"Redis does not answer ({why}): is --broker, or CNI_CLEANUP_BROKER, right, and is it up?")


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
