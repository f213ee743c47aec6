"""The truth about a race: who lives at which address, what happened, and what the cleaner's journals say."""

import base64
import json
import math
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self


class Key(NamedTuple):
    """A reservation: the address that is its name, and the id in it; None in an empty file."""

    address: str
    container_id: str | None

    @classmethod
    def of(cls, path: Path) -> Self:
        """What is on disk.

        Raises:
            FileNotFoundError: there is no file.
        """
        return cls(path.name, path.read_bytes().decode("ascii").partition("\r\n")[0] or None)

    def content(self) -> bytes:
        """The bytes that the plugin writes for it."""
        return f"{self.container_id}\r\neth0".encode() if self.container_id else b""


@dataclass(kw_only=True)
class Sandbox:
    """A sandbox as the harness knows it; times by the wall clock in nanoseconds."""

    id: str
    has_results: bool
    address: str = ""
    born_ns: int | None = None
    ended_ns: int | None = None
    #: From then on its file may go at any time, without a word in the journal.
    deleting: bool = False
    #: Monotonic seconds.
    lives_until: float = math.inf

    @property
    def is_live(self) -> bool:
        """ADD returned, and neither did it die nor has its DEL begun."""
        return self.born_ns is not None and self.ended_ns is None

    def was_live(self, since_ns: int) -> bool:
        """Whether it lived at this moment, as far as the harness is sure of it."""
        return self.born_ns is not None and self.born_ns <= since_ns and (self.ended_ns is None or self.ended_ns > since_ns)

    @property
    def key(self) -> Key:
        """Its reservation."""
        return Key(self.address, self.id)


class Ledger:
    """The truth about all sandboxes; any thread may ask and tell."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sandboxes: dict[str, Sandbox] = {}
        self._owners: dict[str, Sandbox] = {}

    def begin(self, sandbox: Sandbox) -> None:
        """Its ADD starts."""
        with self._lock:
            self._sandboxes[sandbox.id] = sandbox

    def born(self, sandbox: Sandbox) -> Sandbox | None:
        """Its ADD returned an address, and it lives; returns a living owner of that address, if there is one."""
        with self._lock:
            other = self._owners.get(sandbox.address)
            self._owners[sandbox.address] = sandbox
            sandbox.born_ns = time.time_ns()
            return other

    def die(self, sandbox: Sandbox) -> None:
        """It ends, and no DEL is on its way: what it leaves is a leak."""
        with self._lock:
            self._end(sandbox)

    def begin_delete(self, sandbox: Sandbox) -> None:
        """A DEL is about to start; of a dead sandbox it is a late one."""
        with self._lock:
            self._end(sandbox)
            sandbox.deleting = True

    def _end(self, sandbox: Sandbox) -> None:
        if sandbox.ended_ns is None:
            sandbox.ended_ns = time.time_ns()
            if self._owners.get(sandbox.address) is sandbox:
                del self._owners[sandbox.address]

    def live(self) -> list[Sandbox]:
        """Those that live now."""
        with self._lock:
            return list(self._owners.values())

    def find(self, container_id: str | None) -> Sandbox | None:
        """The sandbox of this id."""
        with self._lock:
            return self._sandboxes.get(container_id or "")


@dataclass(kw_only=True)
class Figures:
    """What happened; any thread may count."""

    seed: int
    min_age: float
    started: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    killed_at: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, what: str, number: int = 1) -> int:
        """Count; return how many it are now."""
        with self._lock:
            self.counts[what] += number
            return self.counts[what]

    def line(self) -> str:
        """For people, and for whoever wants the same seed again."""
        counts = ", ".join(f"{name} {count}" for name, count in sorted(self.counts.items()))
        killed_at = ", ".join(f"{step} {count}" for step, count in sorted(self.killed_at.items()))
        return (
            f"race: RACE_SEED={self.seed}, min-age {self.min_age:.2f} s, {self.seconds:.0f} s: {counts};"
            f" cleaner killed after: {killed_at}"
        )


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file in an event of a journal."""

    event: Literal["announced", "removed"]
    path: str
    #: Nanoseconds since 1970: it happened before.
    before_ns: int
    #: None in what was removed without having been announced. Of a results file the address is empty.
    key: Key | None
    #: What was announced: of a reservation its bytes.
    data: bytes | None = None


class JournalReader:
    """Reads what the passes append to their journals, line by line."""

    def __init__(self, directory: Path) -> None:
        """`directory` need not be there yet."""
        self._directory = directory
        self._offsets: dict[Path, int] = {}
        self._keys: dict[Path, dict[str, Key]] = {}

    def read(self) -> Iterator[Entry]:
        """What is new."""
        for path in sorted(self._directory.glob("*.jsonl")):
            for line in self._new_lines(path):
                yield from _entries(json.loads(line), self._keys.setdefault(path, {}))

    def _new_lines(self, path: Path) -> list[bytes]:
        """The whole lines; a kill can leave a torn one, which is the last of its file for ever."""
        offset = self._offsets.get(path, 0)
        if path.stat().st_size == offset:
            return []
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read()
        whole, newline, _ = data.rpartition(b"\n")
        self._offsets[path] = offset + len(whole) + len(newline)
        return whole.splitlines()


def _entries(event: Mapping[str, Any], keys: dict[str, Key]) -> Iterator[Entry]:
    """The files of one line; `keys` are those that the pass has announced, by path."""
    since = datetime.fromisoformat(event["time"]) - datetime(1970, 1, 1, tzinfo=UTC)
    # The time is cut to milliseconds: the event was before the next one.
    before_ns = (since // timedelta(milliseconds=1) + 1) * 1_000_000
    if event["event"] == "announced":
        for file in event["files"]:
            is_reservation = file["kind"] == "reservation"
            key = Key(file["path"].rpartition("/")[2] if is_reservation else "", file["container_id"])
            keys[file["path"]] = key
            data = base64.b64decode(file["data"]) if is_reservation else None
            yield Entry(event="announced", path=file["path"], before_ns=before_ns, key=key, data=data)
    elif event["event"] == "removed":
        for path in event["paths"]:
            yield Entry(event="removed", path=path, before_ns=before_ns, key=keys.get(path))
