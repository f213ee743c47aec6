"""When the sweep is due: the operator's cron line and time zone, checked before anything runs."""

from zoneinfo import ZoneInfo

from celery.schedules import ParseException, crontab

from tasks.errors import Refused

_FIELDS = "minute hour day-of-month month day-of-week, as in 0 8 * * 1"


def cron(text: str) -> crontab:
    """`text` as a schedule.

    Raises:
        Refused: it is no cron line, or a date that never comes.
    """
    fields = text.split()
    if len(fields) != 5:
        raise Refused(f"not a schedule: {text!r} has {len(fields)} fields, not five ({_FIELDS})")
    try:
        return crontab.from_string(" ".join(fields))
    except (ParseException, ValueError) as error:
        raise Refused(f"not a schedule: {text!r}: {error} ({_FIELDS})") from error


def time_zone(name: str) -> str:
    """`name`, if the time zone database has it.

    Raises:
        Refused: it has not.
    """
    try:
        # An unknown name is a KeyError, a malformed one a ValueError, a directory's an OSError.
        return ZoneInfo(name).key
    except (KeyError, ValueError, OSError) as error:
        raise Refused(f"not a time zone: {name!r} (one like UTC or Europe/Berlin)") from error
