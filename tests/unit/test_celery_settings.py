"""What is promised of the fleet's configuration; each value's reason is beside it in tasks/celery_app.py."""

import gc
import os
import socket
import subprocess
import sys
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from celery.app.defaults import DEFAULTS
from kombu.transport.redis import Channel

from cni.settings import Settings
from tasks import app as tasks_app
from tasks.celery_app import CleanupApp, configuration
from tasks.errors import Refused
from tasks.worker import _freeze
from tests.support.program import REPOSITORY

PROMISED: dict[str, Any] = {
    "task_serializer": "json",
    "result_serializer": "json",
    "accept_content": ["json"],
    "result_accept_content": ["json"],
    "enable_utc": True,
    "timezone": "UTC",
    "worker_pool": "prefork",
    "worker_concurrency": 1,
    "worker_max_tasks_per_child": 1,
    "worker_prefetch_multiplier": 1,
    "task_acks_late": True,
    "task_reject_on_worker_lost": False,
    "task_retry_on_worker_lost": True,
    "worker_send_task_events": True,
    "task_send_sent_event": False,
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    "broker_pool_limit": 0,
    "result_expires": 24 * 3600,
}


def conf(**settings: Any) -> Any:
    """The configuration as Celery reads it."""
    app = CleanupApp("test")
    app.use(Settings(**settings))
    return app.conf


@pytest.mark.parametrize(("name", "value"), PROMISED.items(), ids=list(PROMISED))
def test_a_promised_setting_holds(name: str, value: object):
    assert conf()[name] == value


def test_no_setting_is_misspelt():
    assert set(configuration(Settings())) <= set(DEFAULTS)


def test_a_job_cannot_outlive_the_visibility_timeout():
    limits = conf()
    visible = limits["broker_transport_options"]["visibility_timeout"]
    assert limits["task_soft_time_limit"] < limits["task_time_limit"]
    assert limits["task_time_limit"] + limits["worker_soft_shutdown_timeout"] < visible


def test_a_half_open_connection_for_jobs_is_noticed_within_a_minute_and_a_half():
    transport = conf()["broker_transport_options"]
    assert transport["polling_interval"] + 2 * transport["health_check_interval"] <= 90


def test_an_idle_worker_ends_within_a_few_seconds():
    assert conf()["broker_transport_options"]["polling_interval"] <= 5


def test_jobs_of_workers_that_were_killed_are_looked_for_often_for_how_long_they_wait():
    transport = conf()["broker_transport_options"]
    throttle = Channel.unacked_restore_throttle  # type: ignore[attr-defined]  # the stubs know kombu 5.6
    assert transport["unacked_restore_interval"] * throttle <= transport["visibility_timeout"] / 10


def test_no_transport_option_is_misspelt():
    # `polling_interval` and `client_name` are options of the transport and of redis-py.
    known = {*Channel.from_transport_options, "polling_interval", "client_name"}
    assert set(conf()["broker_transport_options"]) <= known


class Cycle:
    """An object that only the garbage collector can free."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def thawed() -> Iterator[None]:
    """Nothing stays frozen in this process."""
    yield
    gc.unfreeze()


def test_the_garbage_collector_looks_at_nothing_that_was_there_before_a_fork(thawed: None):
    _freeze()
    assert gc.get_freeze_count() > 1000
    assert not any(isinstance(one, type) for one in gc.get_objects())


def test_what_became_garbage_between_two_forks_is_freed(thawed: None):
    cycle = Cycle()
    there = weakref.ref(cycle)
    _freeze()
    del cycle
    gc.collect()
    assert there() is not None, "it was not frozen"
    _freeze()
    assert there() is None


def test_a_dying_child_is_retried_a_bounded_number_of_times():
    assert conf()["task_annotations"]["*"]["max_retries"] == 2


def test_broker_results_and_ledger_are_one_redis():
    limits = conf(broker="rediss://:secret@redis.example:6380/3")
    assert limits["broker_url"] == limits["result_backend"] == "rediss://:secret@redis.example:6380/3"


def test_redis_shows_which_node_is_connected():
    assert conf(node="node-7")["broker_transport_options"]["client_name"] == "node-7"
    assert conf()["broker_transport_options"]["client_name"] == "cni-cleanup"


def test_a_malformed_node_name_is_refused_before_anything_runs():
    with pytest.raises(Refused, match="not the name of a node"):
        configuration(Settings(node="Node_7"))


def test_settings_are_given_once():
    app = CleanupApp("test")
    app.use(Settings())
    with pytest.raises(RuntimeError, match="already"):
        app.use(Settings())


def test_a_password_is_not_told_to_whoever_inspects_a_worker():
    assert "hunter2" not in repr(conf(broker="redis://:hunter2@localhost/0").table(with_defaults=True))


def test_the_tasks_are_the_promised_ones():
    tasks_app.loader.import_default_modules()
    assert {name for name in tasks_app.tasks if not name.startswith("celery.")} == {
        "tasks.sweep",
        "tasks.clean_node",
        "tasks.scan_node",
        "tasks.report",
    }


@pytest.mark.parametrize("module", ["tasks.worker", "beat"])
def test_nothing_that_only_a_pass_needs_is_imported_at_the_start(module: str):
    check = (
        f"import sys, {module}; from tasks import app; app.loader.import_default_modules(); "
        "print(sorted({'grpc', 'kubernetes', 'google.protobuf', 'workers.node'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    "arguments", [["call", "tasks.sweep"], ["call", "tasks.clean_node", "--args", '["node-1"]'], ["result", "an-id"]]
)
def test_a_broker_that_is_away_is_one_line_for_who_calls_a_task_or_waits_for_a_result(arguments: list[str]):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        broker = f"redis://127.0.0.1:{taken.getsockname()[1]}/0"
        done = subprocess.run(
            [sys.executable, "-m", "celery", "-A", "tasks", *arguments],
            cwd=REPOSITORY,
            env={**os.environ, "CNI_CLEANUP_BROKER": broker},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode != 0
    assert "Redis does not answer" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "variable", ["CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL", "CELERY_RESULT_BACKEND"]
)
def test_a_variable_of_celerys_own_does_not_go_past_the_broker(monkeypatch: pytest.MonkeyPatch, variable: str):
    monkeypatch.setenv(variable, "rediss://elsewhere:6379/0")
    with pytest.raises(Refused, match=f"{variable} is set.*goes past CNI_CLEANUP_BROKER and its TLS"):
        configuration(Settings())


def test_celerys_own_option_for_a_broker_is_refused_in_one_line():
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "tasks", "-b", "redis://127.0.0.1:1/0", "call", "tasks.sweep"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "goes past CNI_CLEANUP_BROKER" in done.stderr
