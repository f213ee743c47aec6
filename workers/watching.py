"""What the sidecar knows of its node: looked at now and then, so that being asked costs nothing."""

import contextlib
import io
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import IO, Generic, Literal, TypeVar

from cni.errors import CleanupError
from cni.settings import Settings
from workers import reports
from workers.paths import Root
from workers.state import State, open_regular
from workers.tally import Files, Tally
from workers.usage import Counter, Usage

EVERY = 5.0
"""Seconds between two looks: what a pass did is there with the next scrape."""

_MOST_SHARE = 0.02
"""Of the time that looking may take: a crowded directory that changes all the time is read again less often."""

_MOST_TOTALS = 1 << 20
"""Letters of `totals.json` that are read; a larger one was not written here."""

Source = Literal["cnifiles", "report", "totals", "journal"]

_T = TypeVar("_T")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Counters since the node's first pass."""

    #: Passes by result.
    passes: Mapping[str, int] = field(default_factory=dict)
    #: Removed reservations by network (empty for those of none) and reason.
    removed: Mapping[tuple[str, str], int] = field(default_factory=dict)
    #: When the last pass ended that went well: wall clock, seconds since 1970; None before the first.
    last_success: float | None = None


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What one look found. None stands where a source cannot be read; a report, also where it is not there yet."""

    tally: Tally | None = None
    usage: Sequence[Usage] = ()
    report: reports.LastReport | None = None
    totals: Totals | None = None
    #: Bytes of all journal files.
    journal_size: int | None = None
    #: When it was looked, by time.monotonic().
    at: float = 0.0
    #: Those that are there and cannot be read, with the reason.
    unreadable: Mapping[Source, str] = field(default_factory=dict)


class Watcher:
    """Looks at the node's files, and remembers what it saw."""

    def __init__(self, settings: Settings) -> None:
        self._state = State(settings.state_dir)
        self._files = Files(Root(settings.root), settings.cnifiles)
        self._counter = Counter(settings)
        self._report = _Kept(self._state.path(reports.NAME), reports.read)
        self._totals = _Kept(self._state.path("totals.json"), _totals)
        self._complained: dict[Source, str] = {}
        self.seen = Seen()

    def look(self) -> None:
        """Look at everything once; never raises."""
        unreadable: dict[Source, str] = {}

        def tried(source: Source, read: Callable[[], _T]) -> _T | None:
            try:
                return read()
            except Exception as error:  # noqa: BLE001  # one source that is damaged must not hide the others
                unreadable[source] = " ".join(str(error).split()) or type(error).__name__
                return None

        tally = tried("cnifiles", self._files.tally)
        self.seen = Seen(
            tally=tally,
            # Where the directory cannot be read nothing is known of its networks either.
            usage=(tally and tried("cnifiles", self._counter.count)) or (),
            report=tried("report", self._report.read),
            # Before the first pass there have been none.
            totals=tried("totals", lambda: self._totals.read() or Totals()),
            journal_size=tried("journal", lambda: _size(self._state.journal)),
            at=time.monotonic(),
            unreadable=unreadable,
        )
        self._complain(unreadable)

    def _complain(self, unreadable: Mapping[Source, str]) -> None:
        """Once for each reason, not at every look."""
        for source, why in unreadable.items():
            if self._complained.get(source) != why:
                _log.warning("%s cannot be read: %s", source, why, extra={"action": "unreadable", "source": source})
        self._complained = dict(unreadable)


def start(watcher: Watcher, *, every: float = EVERY) -> Callable[[], None]:
    """Look again and again in a thread, from now on; returns what ends it. Times in seconds."""
    ended = threading.Event()

    def watch() -> None:
        while True:
            begun = time.thread_time()
            watcher.look()
            took = time.thread_time() - begun
            if ended.wait(max(every, took / _MOST_SHARE)):
                return

    thread = threading.Thread(target=watch, name="watcher", daemon=True)
    thread.start()
    return ended.set


class _Kept(Generic[_T]):
    """What a file holds, or why it cannot be read, until another one stands under its name."""

    def __init__(self, path: str, read: Callable[[IO[str]], _T]) -> None:
        self._path = path
        self._read = read
        self._identity: tuple[int, ...] = ()
        self._found: _T | CleanupError | None = None

    def read(self) -> _T | None:
        """What the file holds; None where there is none.

        Raises:
            CleanupError: it is not what it should be.
            OSError: it cannot be read.
        """
        try:
            with io.TextIOWrapper(open_regular(self._path), encoding="utf-8", errors="replace") as file:
                status = os.fstat(file.fileno())
                identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
                if self._identity != identity:
                    self._identity, self._found = identity, _read_or_why_not(self._read, file)
        except FileNotFoundError:
            self._identity, self._found = (), None
        if isinstance(self._found, CleanupError):
            raise self._found
        return self._found


def _read_or_why_not(read: Callable[[IO[str]], _T], file: IO[str]) -> _T | CleanupError:
    try:
        return read(file)
    except CleanupError as error:
        return error


def _totals(file: IO[str]) -> Totals:
    """Read `totals.json`.

    Raises:
        CleanupError: it is none.
    """
    try:
        found = json.loads(file.read(_MOST_TOTALS))
        last = found.get("last_success")
        return Totals(
            passes={str(result): reports.count(count) for result, count in found["passes"].items()},
            removed={(str(one["network"] or ""), str(one["reason"])): reports.count(one["count"]) for one in found["removed"]},
            last_success=None if last is None else datetime.fromisoformat(last).timestamp(),
        )
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError, OverflowError) as error:
        raise CleanupError(f"totals.json does not hold the counters: {error}") from error


def _size(directory: str) -> int:
    """Bytes of the files in a directory; none where there is none."""
    total = 0
    with contextlib.suppress(FileNotFoundError), os.scandir(directory) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                total += entry.stat(follow_symlinks=False).st_size
    return total
