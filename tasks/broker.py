"""Whether Redis is there at all, before Celery waits for it in its own, long way."""

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from tasks.errors import BrokerAway

_TIMEOUT = 10.0
"""Seconds."""


def require(url: str) -> None:
    """Ask the Redis at `url` for a sign of life; kombu's own form of a URL, `redis+socket:`, is taken for alive.

    Raises:
        BrokerAway: it does not answer.
    """
    if url.startswith("redis+socket:"):
        return
    client = Redis.from_url(url, socket_connect_timeout=_TIMEOUT, socket_timeout=_TIMEOUT, retry=Retry(NoBackoff(), 0))
    try:
        with client:
            client.ping()
    except (RedisError, OSError) as error:
        why = " ".join(str(error).split())
        raise BrokerAway(f"Redis does not answer ({why}): is --broker, or CNI_CLEANUP_BROKER, right, and is it up?") from error
