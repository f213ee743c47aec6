"""What is promised of the fleet's configuration; each value's reason is beside it in tasks/celery_app.py."""

import os
import socket
import subprocess
import sys
from typing import Any

import pytest
from celery.app.defaults import DEFAULTS

from cni.settings import Settings
from tasks import app as tasks_app
from tasks.celery_app import CleanupApp, configuration
from tasks.errors import Refused
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


@pytest.mark.parametrize("arguments", [["call", "tasks.sweep"], ["call", "tasks.clean_node", "--args", '["node-1"]']])
def test_a_broker_that_is_away_is_one_line_for_who_calls_a_task(arguments: list[str]):
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
