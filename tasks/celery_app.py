"""
The Celery application and every setting of it, each with its reason.

This program's own settings are read when they are first needed: importing a task needs no configuration.
"""

import os
from functools import cached_property
from typing import Any

from celery import Celery
from celery import result as results
from kombu.exceptions import OperationalError

from cni.settings import Settings
from tasks import broker, names, routing
from tasks.errors import Refused, refusing

_HOUR = 3600
_DAY = 24 * _HOUR

SOFT_TIME_LIMIT = 50 * 60
"""Seconds after which a job is told to end; five minutes later its process is killed."""

VISIBILITY_TIMEOUT = 2 * _HOUR
"""Seconds until a job whose worker was killed, and did not give it back, is given to a worker again."""

SWEEP_EXPIRES = 6 * _HOUR
"""Seconds until the message of a sweep that nobody took is thrown away by the worker that finds it: as long as Beat may catch up
(see beat), later than that the next one is as good."""

NODE_JOB_EXPIRES = 6 * _DAY
"""The same of a sweep's job for a node: it waits for a node that is down, and is gone before the next weekly sweep."""

AD_HOC_EXPIRES = _DAY
"""The same of any other message: somebody asked for it by hand, and the result is kept as long."""


_PAST_US = ("CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL", "CELERY_RESULT_BACKEND")
"""Variables that Celery believes before any setting: with one of them it would take any certificate, and jobs from elsewhere."""


def configuration(settings: Settings) -> dict[str, Any]:
    """Celery's settings for a fleet that `settings` describe.

    Raises:
        Refused: the node's name is none, the broker's URL or password cannot be had, or a variable of Celery's names another one.
    """
    _refuse_past_us()
    whole = broker.url_of(settings)
    url = broker.without_query(whole)
    secured = broker.tls(whole)
    return {
        "broker_url": url,
        # For `celery call` and `celery result`; a sweep's messages carry ignore_result and its ledger counts.
        "result_backend": url,
        # Said outright: of a rediss URL alone kombu makes a connection that takes any certificate.
        **({"broker_use_ssl": secured, "redis_backend_use_ssl": secured} if secured else {}),
        "result_expires": AD_HOC_EXPIRES,
        # JSON only: unpickling a message would run whatever its sender likes, as root on every node.
        "task_serializer": "json",
        "result_serializer": "json",
        "accept_content": ["json"],
        "result_accept_content": ["json"],
        # Times in messages are UTC wherever the sender lives. Beat alone has the operator's time zone.
        "enable_utc": True,
        "timezone": "UTC",
        "task_routes": (routing.route,),
        # Prefork is the only pool with time limits, a soft shutdown that gives the job back, and replies while it is busy. One
        # child: a node makes one pass at a time.
        "worker_pool": "prefork",
        "worker_concurrency": 1,
        # What the task imports (gRPC, the Kubernetes client) leaves with the child that imported it.
        "worker_max_tasks_per_child": 1,
        # A new child took up to 5 s on a busy machine; after Celery's 4 s it would be killed and made again.
        "worker_proc_alive_timeout": 30,
        # One job reserved: what a worker holds waits for the visibility timeout when its pod is killed.
        "worker_prefetch_multiplier": 1,
        # Acknowledged when done, so that a job outlives its pod. A pass may be repeated, it is idempotent.
        "task_acks_late": True,
        # A child that dies (out of memory) is a retry, of which there are two. Rejecting instead would requeue a job that kills
        # its child for ever: 16 starts in 15 s were seen.
        "task_reject_on_worker_lost": False,
        "task_retry_on_worker_lost": True,
        "task_annotations": {"*": {"max_retries": 2, "default_retry_delay": 10}},
        # Both below the visibility timeout: a job that outlives it runs again and again.
        "task_soft_time_limit": SOFT_TIME_LIMIT,
        "task_time_limit": SOFT_TIME_LIMIT + 5 * 60,
        # With REMAP_SIGTERM=SIGQUIT (see tasks.worker): a stopped worker lets its job run on for so long, then puts it back in
        # the queue. Below the pod's grace period.
        "worker_soft_shutdown_timeout": 30,
        # For Flower, `celery events` and the exporter. The sender's own would double the cost of a fan-out.
        "worker_send_task_events": True,
        "task_send_sent_event": False,
        # As Celery's own, but for a way to die of a lost connection.
        "worker_consumer": "tasks.reconnecting:Consumer",
        # The broker may come later than the worker, and may be away for long: wait for it, for ever.
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        # An error that Redis answers, such as that its memory is full, is as little a reason to die.
        "broker_channel_error_retry": True,
        # No pool: 6 connections a worker, idle or after an inspect, not 8. With one of 1, inspect hung.
        "broker_pool_limit": 0,
        "broker_transport_options": {
            "visibility_timeout": VISIBILITY_TIMEOUT,
            # Seconds that one BRPOP waits: 0.2 commands a second and worker; a SIGTERM to an idle one may wait as long.
            "polling_interval": 5,
            # Seconds between two checks of the connections that wait for messages. A half-open one is dropped after twice this
            # and polling_interval, within a minute and a half; that of `inspect` and `control`, which gets two PINGs at every
            # second check, after three times this. Kombu's own 25 s would be twice as many PINGs of every idle worker, and save
            # half a minute where a network dies.
            "health_check_interval": 40,
            # Seconds, times kombu's own throttle of 10: every ten minutes a worker looks for jobs whose visibility timeout is
            # over. That takes two hours, and any worker looks for the jobs of all: 5,000 look eight times a second.
            "unacked_restore_interval": 60,
            # No message has a priority: one list per queue to ask instead of four. In every process the same.
            "priority_steps": [0],
            # Half-open connections are noticed; above what a BRPOP and a health check may take.
            "socket_timeout": broker.ANSWERS_WITHIN,
            "socket_connect_timeout": 10,
            "socket_keepalive": True,
            "client_name": "cni-cleanup" if settings.node is None else names.node_name(settings.node),
        },
        "redis_socket_timeout": broker.ANSWERS_WITHIN,
        "redis_socket_connect_timeout": 10,
        "redis_socket_keepalive": True,
    }


def _refuse_past_us() -> None:
    """See that Celery will take the broker of our settings.

    Raises:
        Refused: a variable of its own names another one.
    """
    past_us = next((name for name in _PAST_US if os.environ.get(name)), None)
    if past_us is not None:
        raise Refused(
            f"{past_us} is set, as celery's -b and --result-backend set it: it goes past CNI_CLEANUP_BROKER and its TLS"
        )


class _Result(results.AsyncResult[Any]):
    """As Celery's own, which would wait 20 s for a Redis that is away and end with fifty lines of traceback."""

    def get(self, *args: Any, **kwargs: Any) -> Any:
        """The result, waited for.

        Raises:
            BrokerAway: Redis does not answer; asked only in a process of the `celery` command.
        """
        if isinstance(self.app, CleanupApp):
            self.app.require_broker()
        return super().get(*args, **kwargs)


class CleanupApp(Celery):
    """Celery with this program's settings, read when first needed, and an expiry on every message."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._settings: Settings | None = None
        self._was_given_settings = False
        #: Whether this process is control's worker, which alone does sweeps, and no node's jobs.
        self.is_control = False
        self.add_defaults(lambda: configuration(self.settings))

    @property
    def settings(self) -> Settings:
        """What `use` was given, else what the environment says.

        Not a part of `conf`, which every worker tells whoever sends it `inspect conf`: the broker's URL may hold a password.

        Raises:
            Refused: the environment says nonsense.
        """
        if self._settings is None:
            from workers.configuration import settings_from_environment

            with refusing():
                self._settings = settings_from_environment()
        return self._settings

    def use(self, settings: Settings) -> None:
        """Take `settings` instead of the environment's.

        Raises:
            RuntimeError: there are some already.
        """
        if self._settings is not None:
            raise RuntimeError("the application has its settings already")
        self._settings = settings
        self._was_given_settings = True

    def require_broker(self) -> None:
        """In a process of the `celery` command, where somebody waits, ask Redis for a sign of life.

        Processes of ours were given their settings, and have Celery's patience.

        Raises:
            BrokerAway: it does not answer.
        """
        if not self._was_given_settings:
            _refuse_past_us()
            broker.require(broker.url_of(self.settings))

    @cached_property
    def AsyncResult(self) -> type[results.AsyncResult[Any]]:  # noqa: N802  # Celery's name
        """What stands for a result; its name is for unpickling."""
        found: type[results.AsyncResult[Any]] = self.subclass_with_self(_Result, name="AsyncResult", reverse="AsyncResult")
        return found

    def send_task(  # type: ignore[override]  # the stubs name every option
        self, name: str, args: Any = None, kwargs: Any = None, **options: Any
    ) -> results.AsyncResult[Any]:
        """As Celery's own, in which `apply_async`, `call` and Beat end; every message gets an expiry.

        Raises:
            Refused: the message goes nowhere.
            BrokerAway: Redis does not answer; asked only in a process of the `celery` command, where somebody waits for it.
                Workers were given their settings, and publish with Celery's patience; so does Beat, by its own producer.
        """
        if options.get("expires") is None:
            options["expires"] = SWEEP_EXPIRES if name == names.SWEEP else AD_HOC_EXPIRES
        if not self._was_given_settings and options.get("producer") is None:
            routing.route(name, args, kwargs, options)
            # Celery would try for 20 s and end with two hundred lines of traceback.
            self.require_broker()
            try:
                return super().send_task(name, args, kwargs, **options)
            except OperationalError as error:
                raise broker.away(error) from error
        return super().send_task(name, args, kwargs, **options)


app = CleanupApp("cni-cleanup", include=("tasks.node_tasks", "tasks.sweep", "tasks.signs", "tasks.logs"))
