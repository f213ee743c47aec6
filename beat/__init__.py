"""The scheduler: the tasks' application with its schedule. `celery -A beat` finds `app` here."""

from beat.scheduler import ENTRY, KEY_PREFIX, configuration, start
from tasks import app

__all__ = ["ENTRY", "KEY_PREFIX", "app", "configuration", "start"]
