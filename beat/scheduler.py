"""
The scheduler's settings and its start, for `celery -A beat beat` and `cni-cleanup beat`.

Beat imports every task module, so nothing here or in `tasks` imports what works on a node.
"""

from typing import Any

from beat import ticks
from beat.schedule import cron, time_zone
from cni.errors import CleanupError
from cni.settings import Settings
from tasks import app, broker, logs, names, tracing
from tasks.celery_app import SWEEP_EXPIRES
from workers import alive
from workers import tracing as spans
from workers.state import State

ENTRY = "weekly-sweep"
"""The schedule's only entry, as redbeat keeps it in Redis."""

ALIVE = "beat.alive"
"""The file in the state directory that Beat touches while it lives."""

KEY_PREFIX = "cni-cleanup:beat:"
"""What the names of redbeat's keys begin with."""


def configuration(settings: Settings) -> dict[str, Any]:
    """Beat's own part of Celery's settings.

    Raises:
        Refused: the schedule or the time zone is none.
    """
    url = broker.url_of(settings)
    secured = broker.tls(url)
    return {
        # The operator's, in this process only: a schedule at 08:00 means the clock on the wall.
        "timezone": time_zone(settings.timezone),
        "beat_schedule": {ENTRY: {"task": names.SWEEP, "schedule": cron(settings.schedule)}},
        # Two replicas with Celery's own scheduler fire twice, and a lost state file loses a due sweep.
        "beat_scheduler": "beat.ticking:Scheduler",
        # Seconds: how often the lock is renewed, and how often a second replica asks for it.
        "beat_max_loop_interval": 10,
        # Seconds until the lock of a replica that died is free. With the interval above, another one takes over within a minute;
        # with redbeat's own default it would be 25.
        "redbeat_lock_timeout": 40,
        # An outage over the due time is caught up for so long; the sweep's message lives as long.
        "beat_cron_starting_deadline": SWEEP_EXPIRES,
        # It answers `celery inspect ping -d celerybeat@HOST`, and not when the scheduler no longer ticks.
        "beat_enable_remote_control": True,
        # redbeat will stop taking the broker's, and says so at every start. Celery's reports mask a password that is called so,
        # and not one in a URL that they do not know.
        "redbeat_redis_url": broker.without_password(url),
        **({"redbeat_redis_use_ssl": secured} if secured else {}),
        "redbeat_redis_options": {
            "socket_timeout": broker.ANSWERS_WITHIN,
            "socket_connect_timeout": 10,
            "socket_keepalive": True,
            **broker.login(url),
        },
        "redbeat_key_prefix": KEY_PREFIX,
    }


def start(settings: Settings, *, loglevel: str = "INFO") -> None:
    """Run the scheduler until it is stopped.

    It ends when Redis goes away, or when it was paused for longer than its lock lasts: another replica may be the one by then.
    Started again it catches up.

    Raises:
        Refused: the schedule or the time zone is none.
        BrokerAway: Redis does not answer at the start.
        CleanupError: it ended by itself.
    """
    configuration(settings)
    app.use(settings)
    logs.take_over(settings)
    # redbeat would end with a thousand lines of traceback.
    broker.require(broker.url_of(settings))
    end = alive.keep(State(settings.state_dir).path(ALIVE), is_alive=ticks.is_alive)
    try:
        app.Beat(loglevel=loglevel, quiet=True).run()
    except Exception as error:
        # Celery has logged it in full.
        why = " ".join(str(error).split())
        raise CleanupError(f"the scheduler ended ({why}): start it again, it catches up with what was due meanwhile") from error
    finally:
        end()
        spans.end()


app.add_defaults(lambda: configuration(app.settings))
tracing.in_beat()
