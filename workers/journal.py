"""
The journal: what is going to be removed, and what was, in one file of JSON lines for each pass.

The bytes, mode, times and reason of a batch are on disk before its first unlink (`announced`); after it the paths that were
really removed (`removed`) and those that were not (`kept`); and what `restore` put back (`restored`). SIGKILL at any point leaves
at most a torn last line.
"""

import base64
import binascii
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cni.errors import CleanupError, PassAborted
from cni.listing import Item, Stamp
from cni.report import rfc3339
from workers.state import sync_directory

_PASS_ID = re.compile(r"[A-Za-z0-9-]{1,64}")


@dataclass(frozen=True, kw_only=True)
class Record:
    """One file as the journal keeps it."""

    pass_id: str
    #: The absolute path as the node saw it, and the root that it was below.
    path: str
    root: str
    kind: str
    network: str | None
    container_id: str | None
    data: bytes
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    ctime_ns: int
    reason: str
    pod: str | None
    #: RFC 3339
    time: str


@dataclass(frozen=True, kw_only=True)
class PassJournal:
    """What one file of the journal says."""

    pass_id: str
    records: Sequence[Record]
    removed: frozenset[str]
    kept: frozenset[str]
    restored: frozenset[str]

    def taken(self, is_gone: Callable[[Record], bool]) -> Iterator[Record]:
        """What was removed and not restored since. Of what a kill left announced alone, that which is gone."""
        for one in self.records:
            if one.path in self.restored or one.path in self.kept:
                continue
            if one.path in self.removed or is_gone(one):
                yield one


class Journal:
    """The file of one pass, open for appending from its first line on."""

    def __init__(self, directory: str, pass_id: str) -> None:
        """`directory` is made, and the file with it, when there is something to write."""
        self.directory = directory
        self.pass_id = pass_id
        self._fd: int | None = None
        self._unwritten: list[str] = []

    def announce(self, records: Sequence[dict[str, Any]], wall_ns: int) -> None:
        """Have it on disk that these files are about to be removed, and before it what was said to `note`.

        Raises:
            PassAborted: it is not on disk (`journal`).
        """
        self._line({"event": "announced", "pass_id": self.pass_id, "time": rfc3339(wall_ns), "files": records})
        self.sync()

    def note(self, event: Literal["removed", "kept", "restored"], paths: Sequence[str], wall_ns: int) -> None:
        """Remember what became of files; it is written with the next announcement, or by `sync`."""
        if paths:
            self._line({"event": event, "pass_id": self.pass_id, "time": rfc3339(wall_ns), "paths": list(paths)})

    def sync(self) -> None:
        """Write what is not written and make it last.

        Raises:
            PassAborted: it cannot be written (`journal`).
        """
        if not self._unwritten:
            return
        try:
            fd = self._open()
            rest = memoryview("".join(self._unwritten).encode("ascii"))
            while rest:
                rest = rest[os.write(fd, rest) :]
            os.fsync(fd)
        except OSError as error:
            why = error.strerror or str(error)
            raise PassAborted(
                "journal", f"{self.directory} cannot be written ({why}): make room or name another --state-dir"
            ) from error
        self._unwritten.clear()

    def close(self) -> None:
        """Close the file; what is not written is lost."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _line(self, event: dict[str, Any]) -> None:
        self._unwritten.append(json.dumps(event) + "\n")

    def _open(self) -> int:
        if self._fd is not None:
            return self._fd
        if not os.path.isdir(self.directory):
            os.makedirs(self.directory, mode=0o700, exist_ok=True)
            sync_directory(os.path.dirname(self.directory))
        path = os.path.join(self.directory, f"{self.pass_id}.jsonl")
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        size = os.fstat(self._fd).st_size
        if size and os.pread(self._fd, 1, size - 1) != b"\n":
            os.write(self._fd, b"\n")
        sync_directory(self.directory)
        return self._fd


def record(item: Item, *, root: str, reason: str, pod: str | None) -> dict[str, Any]:
    """One file for an announcement."""
    stamp = Stamp.unpack(item.stamp or b"")
    return {
        "path": item.path,
        "root": root,
        "kind": item.kind,
        "network": item.network,
        "container_id": item.container_id,
        "data": base64.b64encode(item.content()).decode("ascii"),
        "mode": stamp.mode,
        "uid": stamp.uid,
        "gid": stamp.gid,
        "mtime_ns": stamp.mtime_ns,
        "ctime_ns": stamp.ctime_ns,
        "reason": reason,
        "pod": pod,
    }


def read_journal(directory: str, pass_id: str | None = None) -> Iterator[PassJournal]:
    """What the passes removed, the oldest first, or of one pass only.

    Raises:
        CleanupError: there is no such pass, or the journal cannot be read.
    """
    if pass_id is not None and not _PASS_ID.fullmatch(pass_id):
        raise CleanupError(f"{pass_id[:80]!r} is no pass id: `restore --list` shows them")
    try:
        names = sorted(name for name in os.listdir(directory) if name.endswith(".jsonl"))
        if pass_id is not None:
            if f"{pass_id}.jsonl" not in names:
                raise CleanupError(f"the journal has no pass {pass_id}: `restore --list` shows those it has")
            names = [f"{pass_id}.jsonl"]
        for name in names:
            with open(os.path.join(directory, name), encoding="ascii", errors="replace") as file:
                yield _read(name.removesuffix(".jsonl"), file)
    except FileNotFoundError:
        if pass_id is not None:
            raise CleanupError(f"there is no journal in {directory}: nothing was removed yet") from None
    except OSError as error:
        raise CleanupError(f"{directory} cannot be read: {error.strerror}") from error


def _read(pass_id: str, lines: Iterator[str]) -> PassJournal:
    records: list[Record] = []
    done: dict[str, set[str]] = {"removed": set(), "kept": set(), "restored": set()}
    for line in lines:
        event = _event(line)
        if event.get("event") == "announced":
            records += (one for raw in _list(event.get("files")) if (one := _record(pass_id, event, raw)))
        elif event.get("event") in done:
            done[event["event"]].update(path for path in _list(event.get("paths")) if isinstance(path, str))
    return PassJournal(
        pass_id=pass_id,
        records=records,
        removed=frozenset(done["removed"]),
        kept=frozenset(done["kept"]),
        restored=frozenset(done["restored"]),
    )


def _event(line: str) -> dict[str, Any]:
    """One line; a torn one (a kill while it was written) announced nothing that was then removed."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) and isinstance(value.get("event"), str) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _record(pass_id: str, event: dict[str, Any], raw: Any) -> Record | None:
    """One file of an announcement, None where it is not what `record` writes."""
    if not isinstance(raw, dict) or not isinstance(event.get("time"), str):
        return None
    try:
        data = base64.b64decode(raw["data"], validate=True)
        one = Record(pass_id=pass_id, time=event["time"], **{**raw, "data": data})
    except (TypeError, KeyError, ValueError, binascii.Error):
        return None
    texts = (one.path, one.root, one.kind, one.reason)
    optional = (one.network, one.container_id, one.pod)
    numbers = (one.mode, one.uid, one.gid, one.mtime_ns, one.ctime_ns)
    whole = (
        all(isinstance(text, str) for text in texts)
        and all(text is None or isinstance(text, str) for text in optional)
        and all(type(number) is int for number in numbers)
    )
    return one if whole else None
