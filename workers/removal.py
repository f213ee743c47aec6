"""Taking files away: journal first, under the plugin's own lock, comparing everything once more (rules 5 to 8)."""

import contextlib
import itertools
import logging
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from cni.cleaning import Leak
from cni.errors import PassAborted
from cni.listing import Item, Problem
from cni.report import Outcome
from workers.disk import READ, stamp_of
from workers.journal import Journal, record
from workers.locking import LockProblem, network_locks
from workers.paths import Root

_log = logging.getLogger(__name__)

BATCH_FILES = 64
"""Files that are announced together, and the most that are removed under one hold of the lock."""

HOLD_SECONDS = 0.003
"""The longest that the lock is held: every ADD and DEL of the node waits for it."""

PAUSE_SECONDS = (0.001, 0.005)
"""The lock is free for at least so long: flock is not fair, and without a pause ADDs starve (28 in 6 s instead of 450)."""

_MOST_NAMED = 20
"""Files that cannot be removed which are findings. One reason may keep all 65,000, and Redis has the findings of each node."""

Directories = tuple[str, ...]


@dataclass(kw_only=True)
class Remover:
    """Removes the leaks of one pass."""

    root: Root
    journal: Journal
    is_on_hold: Callable[[], bool]
    wall_ns: Callable[[], int]
    pods: Mapping[str, str]
    #: Called at each step with its name: `announced`, `locked`, `removed`, `recorded`. At `locked` the plugin waits for it.
    observe: Callable[[str], None]
    findings: list[str]
    #: By directory of a network: why nothing is removed there. What comes up on the way is added.
    problems: dict[str, Problem]
    #: Seconds spent waiting for the plugin's locks so far.
    lock_wait: float = 0.0
    #: Files that could not be removed so far.
    _unremovable: int = 0
    #: By time.monotonic(): until then the lock is left to the plugin, while the next batch is announced.
    _pause_until: float = 0.0

    def remove(self, items: Sequence[Item], leaks: Iterable[Leak]) -> Iterator[tuple[int, Outcome]]:
        """Remove batch by batch, and tell what became of each file.

        Raises:
            PassAborted: a `hold` appeared, or the journal cannot be written; what was not yielded was not removed.
        """
        for directories, batch in _batches(items, leaks):
            if self.is_on_hold():
                self.journal.sync()
                raise PassAborted("hold", "a file `hold` in the state directory stops every removal: remove it to go on")
            if self.problems.keys().isdisjoint(directories):
                yield from self._remove_batch(items, directories, batch)
            else:
                yield from ((index, "failed") for index in _indexes(batch))
        self.journal.sync()

    def _remove_batch(self, items: Sequence[Item], directories: Directories, batch: list[Leak]) -> Iterator[tuple[int, Outcome]]:
        outcomes: dict[int, Outcome] = {}
        with contextlib.ExitStack() as stack:
            try:
                opened = {name: self._open(name, stack) for name in directories}
            except LockProblem as problem:
                self._find(problem)
                yield from ((index, "failed") for index in _indexes(batch))
                return
            self._announce(items, batch)
            try:
                todo = batch
                while todo:
                    todo = self._remove_under_lock(items, opened, todo, outcomes)
            except LockProblem as problem:
                self._find(problem)
        for leak in batch:
            if all(outcomes.get(index) in ("removed", "gone") for index in leak.reservations):
                self._remove_leftovers(items, leak, outcomes)
        for index in _indexes(batch):
            outcomes.setdefault(index, "failed")
        self._note(items, outcomes)
        yield from outcomes.items()
        # When the report has them: to write a log may take as long as whoever reads it likes.
        self._tell(items, batch, outcomes)

    def _find(self, problem: LockProblem) -> None:
        self.problems[problem.directory] = problem.problem
        self.findings.append(str(problem))

    def _open(self, directory: str, stack: contextlib.ExitStack) -> tuple[int, str]:
        """The descriptor of a network, and our path of it."""
        try:
            fd = self.root.open_network(directory)
        except OSError as error:
            raise LockProblem(directory, "unreadable", f" cannot be opened: {error.strerror}") from error
        stack.callback(os.close, fd)
        parent, _, name = directory.rpartition("/")
        if not os.access(".", os.W_OK, dir_fd=fd):
            read_only = os.fstatvfs(fd).f_flag & os.ST_RDONLY
            hint = "mount it read-write" if read_only else "run as root"
            raise LockProblem(directory, "read-only", f" may not be written: {hint}")
        return fd, f"{self.root.real(parent or '/').rstrip('/')}/{name}"

    def _announce(self, items: Sequence[Item], batch: list[Leak]) -> None:
        records = [
            record(
                items[index],
                root=self.root.path,
                reason=leak.decision.reason,
                pod=self.pods.get(items[index].container_id or ""),
            )
            for leak in batch
            for index in (*leak.reservations, *leak.leftovers)
        ]
        self.journal.announce(records, self.wall_ns())
        self.observe("announced")

    def _remove_under_lock(
        self,
        items: Sequence[Item],
        opened: Mapping[str, tuple[int, str]],
        todo: list[Leak],
        outcomes: dict[int, Outcome],
    ) -> list[Leak]:
        """One hold of the lock(s), after the pause since the last. Returns the leaks that did not fit into the time."""
        if not opened:
            return []
        time.sleep(max(0.0, self._pause_until - time.monotonic()))
        asked = time.monotonic()
        with network_locks([(fd, path, directory) for directory, (fd, path) in opened.items()]):
            self.lock_wait += time.monotonic() - asked
            self.observe("locked")
            deadline = time.monotonic() + HOLD_SECONDS
            done = 0
            for leak in todo:
                self._remove_together(items, opened, leak, outcomes)
                done += 1
                if time.monotonic() > deadline:
                    break
        self._pause_until = time.monotonic() + random.uniform(*PAUSE_SECONDS)
        self.observe("removed")
        return todo[done:]

    def _remove_together(
        self, items: Sequence[Item], opened: Mapping[str, tuple[int, str]], leak: Leak, outcomes: dict[int, Outcome]
    ) -> None:
        """All reservations of one id, or none: one that changed keeps the others."""
        if len(leak.reservations) == 1:
            # Nearly every id has one, and the plugin waits meanwhile.
            (index,) = leak.reservations
            item = items[index]
            directory_fd = opened[item.directory][0]
            outcomes[index] = _compare(directory_fd, item) or self._unlink(directory_fd, item)
            return
        states = {index: _compare(opened[items[index].directory][0], items[index]) for index in leak.reservations}
        blocking = next((state for state in states.values() if state in ("changed", "failed")), None)
        for index, state in states.items():
            if blocking is not None:
                outcomes[index] = blocking
            elif state is not None:
                outcomes[index] = state
            else:
                outcomes[index] = self._unlink(opened[items[index].directory][0], items[index])

    def _unlink(self, directory_fd: int, item: Item) -> Outcome:
        try:
            os.unlink(item.name, dir_fd=directory_fd)
        except FileNotFoundError:
            return "gone"
        except OSError as error:
            self._unremovable += 1
            if self._unremovable <= _MOST_NAMED:
                self.findings.append(f"{item.path} cannot be removed: {error.strerror}")
            elif self._unremovable == _MOST_NAMED + 1:
                self.findings.append("more files cannot be removed: they are `failed` in this node's own report")
            return "failed"
        return "removed"

    def _remove_leftovers(self, items: Sequence[Item], leak: Leak, outcomes: dict[int, Outcome]) -> None:
        """Scratch and results of a sandbox none of whose reservations remains. No plugin locks their directories."""
        for index in leak.leftovers:
            item = items[index]
            try:
                fd = self.root.open_directory(item.directory)
            except OSError as error:
                self.findings.append(f"{item.directory} cannot be opened: {error.strerror}")
                outcomes[index] = "failed"
                continue
            try:
                state = _compare(fd, item)
                outcomes[index] = self._unlink(fd, item) if state is None else state
            finally:
                os.close(fd)

    def _note(self, items: Sequence[Item], outcomes: Mapping[int, Outcome]) -> None:
        removed = [items[index].path for index, outcome in outcomes.items() if outcome == "removed"]
        kept = [items[index].path for index, outcome in outcomes.items() if outcome != "removed"]
        self.journal.note("removed", removed, self.wall_ns())
        # Announced, but not ours: what the plugin frees itself later must not come back by `restore`.
        self.journal.note("kept", kept, self.wall_ns())
        self.observe("recorded")

    def _tell(self, items: Sequence[Item], batch: Sequence[Leak], outcomes: Mapping[int, Outcome]) -> None:
        """One line for each file that is gone; the lock is free again, whoever reads the log may be slow."""
        if not _log.isEnabledFor(logging.INFO):
            return
        for leak in batch:
            for index in (*leak.reservations, *leak.leftovers):
                if outcomes[index] == "removed":
                    _log_removal(items[index], leak.decision.reason, self.pods.get(items[index].container_id or ""))


def _log_removal(item: Item, reason: str, pod: str | None) -> None:
    _log.info(
        "removed %s: %s%s",
        item.path,
        reason,
        f", of {pod}" if pod else "",
        extra={
            "action": "removed",
            "path": item.path,
            "kind": item.kind,
            "network": item.network,
            "ip": item.ip,
            "container_id": item.container_id,
            "reason": reason,
            "pod": pod,
        },
    )


def _batches(items: Sequence[Item], leaks: Iterable[Leak]) -> Iterator[tuple[Directories, list[Leak]]]:
    """Neighbouring leaks of the same networks, at most BATCH_FILES files at a time; a single leak is never divided."""

    def directories(leak: Leak) -> Directories:
        if len(leak.reservations) == 1:
            return (items[leak.reservations[0]].directory,)
        return tuple(sorted({items[index].directory for index in leak.reservations}))

    for names, group in itertools.groupby(leaks, key=directories):
        batch: list[Leak] = []
        files = 0
        for leak in group:
            size = len(leak.reservations) + len(leak.leftovers)
            if batch and files + size > BATCH_FILES:
                yield names, batch
                batch, files = [], 0
            batch.append(leak)
            files += size
        if batch:
            yield names, batch


def _indexes(batch: Iterable[Leak]) -> Iterator[int]:
    return (index for leak in batch for index in (*leak.reservations, *leak.leftovers))


def _compare(directory_fd: int, item: Item) -> Outcome | None:
    """None where the file is, to the byte and the nanosecond, the one that was judged."""
    try:
        fd = os.open(item.name, READ, dir_fd=directory_fd)
    except FileNotFoundError:
        return "gone"
    except OSError:
        return "changed"
    try:
        if stamp_of(os.fstat(fd)) != item.stamp:
            return "changed"
        expected = item.content()
        return None if os.read(fd, len(expected) + 1) == expected else "changed"
    except OSError:
        return "failed"
    finally:
        os.close(fd)
