"""
The last report of a node, as `report.json` in the state directory.

It is written in lines of some files each, and read line by line: all of a large one at once would be larger than everything else
that writes or reads it.
"""

import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import IO, Any

from cni.errors import CleanupError
from cni.report import Report, file_rows, summary

NAME = "report.json"

_FILES_OF_A_LINE = 256
"""Files to a line: an encoder is made for each."""

_LONGEST_LINE = 1 << 22
"""Bytes; a longer one was not written here."""

_HEAD_ENDS = '"files": ['
_ENDS = "]}\n"


@dataclass(frozen=True, kw_only=True)
class LastReport:
    """What metrics tell of the last pass."""

    #: Wall clock, seconds since 1970.
    finished: float
    #: Seconds, the wait between its looks included.
    duration: float
    #: Seconds that it waited for the plugin's locks.
    lock_wait: float
    #: Files by network (empty for those of none), verdict and reason.
    files: Mapping[tuple[str, str, str], int]


def chunks(report: Report) -> Iterator[str]:
    """The JSON of a report, a line at a time."""
    yield json.dumps(summary(report))[:-1] + ", " + _HEAD_ENDS
    rows = file_rows(report)
    separator = "\n"
    while some := list(itertools.islice(rows, _FILES_OF_A_LINE)):
        yield separator + json.dumps(some)[1:-1]
        separator = ",\n"
    yield _ENDS


def read(file: IO[str]) -> LastReport:
    """Read a whole report, and keep what metrics tell of it.

    Raises:
        CleanupError: it is none, or not whole, or not in these lines.
        OSError: it cannot be read.
    """
    try:
        found = _head(file)
        return LastReport(
            finished=_seconds(found["finished"]),
            duration=max(0.0, _seconds(found["finished"]) - _seconds(found["started"])),
            lock_wait=float(found["lock_wait_seconds"]),
            files=_files(found["counts"]),
        )
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise CleanupError(f"{NAME} is no whole report: {' '.join(str(error).split())[:200]}") from error


def count(value: Any) -> int:
    """`value`, if it can be how many there are of something.

    Raises:
        ValueError: it cannot; a metric of it would be a lie, or could not be shown at all.
        TypeError: likewise.
    """
    number = int(value)
    if not 0 <= number < 1 << 53:
        raise ValueError("a count that cannot be")
    return number


def _head(file: IO[str]) -> dict[str, Any]:
    """All but the files, which are looked at to see that they are there."""
    line = file.readline(_LONGEST_LINE)
    head, opening, rest = line.partition(_HEAD_ENDS)
    if not opening:
        raise ValueError("its first line does not end where its files begin")
    found: dict[str, Any] = json.loads(head.rstrip(", ") + "}")
    line = rest if rest.strip() else file.readline(_LONGEST_LINE)
    while not line.endswith(_ENDS):
        _see(line, end=",\n")
        line = file.readline(_LONGEST_LINE)
    if line != _ENDS:
        _see(line, end=_ENDS)
    if file.read(1):
        raise ValueError("something stands behind its end")
    return found


def _see(line: str, *, end: str) -> None:
    if not line.endswith(end):
        raise ValueError("it ends in the middle")
    json.loads(f"[{line.removesuffix(end)}]")


def _files(counts: list[dict[str, Any]]) -> dict[tuple[str, str, str], int]:
    files: Counter[tuple[str, str, str]] = Counter()
    for row in counts:
        files[str(row["network"]), str(row["verdict"]), str(row["reason"])] += count(row["files"])
    return dict(files)


def _seconds(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()
