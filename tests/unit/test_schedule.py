"""The operator's cron line and time zone: taken, or refused in one line before anything runs."""

from typing import Any

import pytest
from celery.utils.imports import symbol_by_name
from redbeat import RedBeatScheduler  # type: ignore[import-untyped]  # it has no types

import beat
from beat.schedule import cron, time_zone
from cni.settings import Settings
from tasks.celery_app import CleanupApp
from tasks.errors import Refused


def test_the_default_is_monday_at_eight():
    schedule: Any = cron(Settings().schedule)
    assert (schedule.minute, schedule.hour, schedule.day_of_week) == ({0}, {8}, {1})
    assert schedule.month_of_year == set(range(1, 13))
    assert schedule.day_of_month == set(range(1, 32))


@pytest.mark.parametrize("text", ["0 8 * * mon", "*/5 * * * *", "  0   8 * * 1 ", "0 0 29 2 *", "1,2 3-5 1 1 0"])
def test_a_cron_line_is_taken(text: str):
    cron(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        pytest.param("", "0 fields, not five", id="empty"),
        pytest.param("@weekly", "1 fields, not five", id="macro"),
        pytest.param("0 8 * *", "4 fields, not five", id="four fields"),
        pytest.param("0 0 8 * * 1", "6 fields, not five", id="six fields"),
        pytest.param("60 8 * * 1", "60", id="no such minute"),
        pytest.param("0 24 * * 1", "24", id="no such hour"),
        pytest.param("0 8 * * 8", "8", id="no such day"),
        pytest.param("a b c d e", "not a schedule", id="words"),
        pytest.param("*/0 * * * *", "zero", id="step of zero"),
        pytest.param("0 0 31 2 *", "never occurs", id="a day that never comes"),
    ],
)
def test_nonsense_is_refused_in_one_line(text: str, why: str):
    with pytest.raises(Refused, match=why) as refusal:
        cron(text)
    assert str(refusal.value).startswith("not a schedule: ")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["UTC", "Europe/Berlin", "Asia/Kolkata"])
def test_a_time_zone_is_taken(name: str):
    assert time_zone(name) == name


@pytest.mark.parametrize("name", ["", "Mars/Olympus", "../../etc/passwd", "/etc/localtime", "Europe", "UTC+1\0"])
def test_what_is_no_time_zone_is_refused(name: str):
    with pytest.raises(Refused, match="not a time zone"):
        time_zone(name)


def test_beat_has_one_entry_in_the_operators_time_zone():
    conf = beat.configuration(Settings(schedule="30 6 * * 0", timezone="Asia/Kolkata"))
    assert conf["timezone"] == "Asia/Kolkata"
    (entry,) = conf["beat_schedule"].values()
    assert entry["task"] == "tasks.sweep"
    assert entry["schedule"] == cron("30 6 * * 0")


def test_two_beats_agree_within_a_minute_and_an_outage_is_caught_up():
    conf = beat.configuration(Settings())
    assert issubclass(symbol_by_name(conf["beat_scheduler"]), RedBeatScheduler)
    # The lock was taken or renewed at a tick, and is asked for at another one's.
    assert conf["redbeat_lock_timeout"] + conf["beat_max_loop_interval"] <= 60
    assert conf["redbeat_lock_timeout"] > 3 * conf["beat_max_loop_interval"]
    assert conf["beat_cron_starting_deadline"] == 6 * 3600


def test_a_password_is_not_told_to_whoever_looks_at_beats_settings():
    app = CleanupApp("beat", set_as_current=False)
    app.use(Settings(broker="redis://ops:hunter%2F2@redis.example:6380/3"))
    app.add_defaults(lambda: beat.configuration(app.settings))
    told = repr(app.conf.table(with_defaults=True))
    assert "redis://redis.example:6380/3" in told
    assert "hunter" not in told
    options = app.conf.redbeat_redis_options
    assert (options["username"], options["password"]) == ("ops", "hunter/2")
