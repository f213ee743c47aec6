"""The distributed part: thin tasks around one node's pass, and the sweep that asks every node for one."""

from tasks import plain_redis  # noqa: F401  # before anything imports redis
from tasks.celery_app import app

__all__ = ["app"]
