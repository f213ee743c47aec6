"""What a Beat that ran before has left in Redis."""

import contextlib
from datetime import datetime

from celery.schedules import crontab
from redbeat import RedBeatSchedulerEntry  # type: ignore[import-untyped]  # it has no types
from redbeat.schedulers import get_redis  # type: ignore[import-untyped]  # the same

import beat
from cni.settings import Settings
from tasks.celery_app import CleanupApp


def remember_last_run(redis_url: str, schedule: str, last_run: datetime) -> None:
    """Leave the entry in Redis as a Beat does that was there at `last_run` and then went away."""
    app = CleanupApp("before", set_as_current=False)
    app.use(Settings(broker=redis_url))
    app.add_defaults(lambda: beat.configuration(app.settings))
    entry = RedBeatSchedulerEntry(beat.ENTRY, "tasks.sweep", crontab.from_string(schedule), app=app, last_run_at=last_run)
    with contextlib.closing(get_redis(app)) as client:
        # Of an entry that is there, redbeat keeps the last run as it was.
        client.delete(entry.key)
        entry.save()
