"""Beat with a real Redis: the sweep is asked for when it is due, once, and only then."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import redis

import beat
from cli.demo.processes import Process, Processes, running
from tasks.celery_app import SWEEP_EXPIRES
from tests.support.beat import remember_last_run
from tests.support.chaos import Server
from tests.support.fleet import READY_WITHIN
from tests.support.polling import until
from tests.support.program import REPOSITORY, child_environment

pytestmark = pytest.mark.timeout(200)

ZONE = "Asia/Kolkata"

FAILOVER_WITHIN = 120.0
"""Seconds; the settings add up to less than 60 (see tests/unit/test_schedule.py)."""


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    with running(tmp_path) as processes:
        yield processes


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where Beat runs: with Celery's own scheduler there would be a file in it."""
    return tmp_path / "empty"


@pytest.fixture
def client(redis_url: str) -> "Iterator[redis.Redis]":
    with contextlib.closing(redis.Redis.from_url(redis_url)) as client:
        yield client


def start_beat(processes: Processes, redis_url: str, schedule: str, directory: Path, name: str = "beat") -> Process:
    """One replica, as `cni-cleanup beat` runs it, in a directory that is empty, with a state directory of its own beside that."""
    state = directory.parent / f"{name}.state"
    state.mkdir(exist_ok=True)
    variables = {"BROKER": redis_url, "SCHEDULE": schedule, "TIMEZONE": ZONE, "STATE_DIR": str(state)}
    environment = child_environment({f"CNI_CLEANUP_{key}": value for key, value in variables.items()})
    directory.mkdir(exist_ok=True)
    return processes.start(name, [sys.executable, "-m", "cli", "beat", "--debug"], environment, directory)


def daily_at(moment: datetime) -> str:
    """A cron line for the minute of `moment`, every day, in Beat's time zone."""
    local = moment.astimezone(ZoneInfo(ZONE))
    return f"{local.minute} {local.hour} * * *"


def ticks(process: Process) -> int:
    """How often this replica, which holds the lock then, has looked for what is due, to the end."""
    return process.log_end(5000).count("beat: Waking up")


def has_ticked(process: Process) -> bool:
    """Whether it has once."""
    return ticks(process) > 0


def start_two(processes: Processes, redis_url: str, schedule: str, directory: Path) -> tuple[Process, Process]:
    """Two replicas: the one that has the lock, and the one that waits for it."""
    replicas = [start_beat(processes, redis_url, schedule, directory, name) for name in ("one", "two")]
    until(lambda: any(map(has_ticked, replicas)), seconds=READY_WITHIN, what="the first tick")
    first, second = replicas if has_ticked(replicas[0]) else reversed(replicas)
    until(lambda: "beat: Acquiring lock" in second.log_end(500), seconds=READY_WITHIN, what="the second replica")
    assert not has_ticked(second)
    return first, second


def test_an_outage_over_the_due_time_is_caught_up_exactly_once_by_two_replicas(
    processes: Processes, redis_url: str, client: "redis.Redis", directory: Path
):
    now = datetime.now(UTC)
    schedule = daily_at(now - timedelta(hours=1))
    remember_last_run(redis_url, schedule, now - timedelta(hours=2))
    first, second = start_two(processes, redis_url, schedule, directory)
    first.terminate()
    until(lambda: has_ticked(second), seconds=READY_WITHIN, what="the second replica's first tick")

    (message,) = client.lrange("control", 0, -1)
    headers = json.loads(message)["headers"]
    assert headers["task"] == "tasks.sweep"
    left = datetime.fromisoformat(headers["expires"]) - datetime.now(UTC)
    assert timedelta(0) < timedelta(seconds=SWEEP_EXPIRES) - left < timedelta(minutes=5)


def test_the_one_that_ticks_and_the_one_that_waits_both_say_that_they_live(
    processes: Processes, redis_url: str, directory: Path, tmp_path: Path
):
    start_two(processes, redis_url, "0 8 * * 1", directory)
    for name in ("one", "two"):
        sign = tmp_path / f"{name}.state" / "beat.alive"
        until(sign.exists, seconds=READY_WITHIN, what="its sign of life")
        os.utime(sign, (0, 0))
        until(partial(is_new, sign), seconds=READY_WITHIN, what="the next one")


def is_new(path: Path) -> bool:
    return path.stat().st_mtime > 0


def test_when_the_one_that_has_the_lock_is_killed_the_other_asks_for_the_due_sweep_once(
    processes: Processes, redis_url: str, client: "redis.Redis", directory: Path
):
    """The sweep is due within a minute, which is as long as the lock of the dead one may last."""
    due = (datetime.now(UTC) + timedelta(seconds=65)).replace(second=0, microsecond=0)
    first, second = start_two(processes, redis_url, daily_at(due), directory)
    first.end()
    until(lambda: has_ticked(second), seconds=FAILOVER_WITHIN, what="the second replica's first tick")
    until(lambda: client.llen("control"), seconds=FAILOVER_WITHIN, what="the sweep")
    seen = ticks(second)
    until(lambda: ticks(second) > seen, seconds=READY_WITHIN, what="another tick")
    (message,) = client.lrange("control", 0, -1)
    assert json.loads(message)["headers"]["task"] == "tasks.sweep"
    assert list(directory.iterdir()) == []


def test_a_beat_whose_redis_goes_away_ends_and_catches_up_when_it_is_started_again(
    processes: Processes, directory: Path, tmp_path: Path
):
    """Both do: the one that has the lock, and the one that waits for it."""
    server = Server(processes=processes, directory=tmp_path / "redis")
    server.start()
    now = datetime.now(UTC)
    schedule = daily_at(now - timedelta(hours=1))
    remember_last_run(server.url, schedule, now - timedelta(minutes=5))
    replicas = start_two(processes, server.url, schedule, directory)
    server.stop()
    until(lambda: not any(process.running() for process in replicas), seconds=READY_WITHIN, what="the end of both")
    for process in replicas:
        ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        assert ended is not None
        assert (ended.si_code, ended.si_status) == (os.CLD_EXITED, 1)
        assert "start it again" in process.log_end(1)

    server.start()
    # As if Redis had been away for an hour: the sweep has become due, and the lock of the Beat before is free.
    remember_last_run(server.url, schedule, now - timedelta(hours=2))
    with contextlib.closing(redis.Redis.from_url(server.url)) as client:
        assert client.delete(f"{beat.KEY_PREFIX}:lock") == 1
        again = start_beat(processes, server.url, schedule, directory, "again")
        until(lambda: has_ticked(again), seconds=FAILOVER_WITHIN, what="the first tick")
        assert client.llen("control") == 1
    assert list(directory.iterdir()) == []


def test_a_first_start_asks_for_nothing_until_the_sweep_is_due(
    processes: Processes, redis_url: str, client: "redis.Redis", directory: Path
):
    due = (datetime.now(UTC) + timedelta(hours=2)).replace(second=0, microsecond=0)
    process = start_beat(processes, redis_url, daily_at(due), directory)
    until(lambda: has_ticked(process), seconds=READY_WITHIN, what="the first tick")
    assert client.llen("control") == 0
    scheduled: Any = client.zrange(f"{beat.KEY_PREFIX}:schedule", 0, -1, withscores=True)
    ((key, score),) = scheduled
    assert key.decode() == f"{beat.KEY_PREFIX}{beat.ENTRY}"
    # redbeat cuts fractions of a second off.
    assert score == pytest.approx(due.timestamp(), abs=1)


def test_an_outage_that_was_too_long_is_not_caught_up(
    processes: Processes, redis_url: str, client: "redis.Redis", directory: Path
):
    now = datetime.now(UTC)
    schedule = daily_at(now - timedelta(hours=8))
    remember_last_run(redis_url, schedule, now - timedelta(hours=9))
    process = start_beat(processes, redis_url, schedule, directory)
    until(lambda: has_ticked(process), seconds=READY_WITHIN, what="the first tick")
    assert client.llen("control") == 0


@pytest.mark.parametrize(
    ("variable", "value", "why"),
    [
        pytest.param("CNI_CLEANUP_SCHEDULE", "60 8 * * 1", "not a schedule", id="schedule"),
        pytest.param("CNI_CLEANUP_TIMEZONE", "Mars/Olympus", "time zone", id="time zone"),
    ],
)
@pytest.mark.parametrize("command", [["cli", "beat"], ["celery", "-A", "beat", "beat"]], ids=["own", "celery"])
def test_nonsense_ends_beat_with_one_line(redis_url: str, command: list[str], variable: str, value: str, why: str):
    environment = child_environment({"CNI_CLEANUP_BROKER": redis_url, variable: value})
    ended = subprocess.run(
        [sys.executable, "-m", *command],
        env=environment,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    assert why in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_celery_beat_runs_the_same_schedule(processes: Processes, redis_url: str, client: "redis.Redis"):
    environment = child_environment({"CNI_CLEANUP_BROKER": redis_url})
    process = processes.start("celery", [sys.executable, "-m", "celery", "-A", "beat", "beat"], environment, REPOSITORY)
    key = f"{beat.KEY_PREFIX}{beat.ENTRY}"
    until(lambda: client.exists(key) or not process.running(), seconds=READY_WITHIN, what="the entry")
    assert process.running(), process.log_end()
    definition = json.loads(client.hget(key, "definition") or b"")
    assert definition["task"] == "tasks.sweep"
    assert (definition["schedule"]["minute"], definition["schedule"]["hour"]) == ("0", "8")
    assert definition["schedule"]["day_of_week"] == "1"
