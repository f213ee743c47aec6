"""Undo: put removed files back from the journal, under the plugin's lock, never over an existing name."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from cni.errors import UsageError
from cni.names import canonical_address, is_address, is_container_id
from cni.reservation import NotAReservation, parse_reservation
from workers.clock import Clock
from workers.journal import Journal, PassJournal, Record, read_journal
from workers.locking import LockProblem, network_locks
from workers.paths import RESULTS, SCRATCH, Root
from workers.state import State

RestoreOutcome = Literal["restored", "exists", "failed"]


class Restored(NamedTuple):
    """What became of one file that should come back."""

    record: Record
    outcome: RestoreOutcome
    #: Why not, in a sentence.
    detail: str | None


def removed_files(state: State, root: Root, *, pass_id: str | None = None, ip: str | None = None) -> list[Record]:
    """What the journal has to give back, the oldest first; with `ip`, everything of the sandbox that had this address last.

    A name that was removed several times is given back as it was last.

    Raises:
        UsageError: `ip` is no address.
        CleanupError: there is no such pass, or the journal cannot be read.
    """
    taken = [one for journal in read_journal(state.journal, pass_id) for one in _taken(journal, root)]
    here = [one for one in taken if one.root == root.path]
    newest: dict[str, Record] = {}
    # A state directory may have served several roots; where none of it is of this one, each file will say so.
    for one in here or taken:
        newest.pop(one.path, None)
        newest[one.path] = one
    records = list(newest.values())
    return records if ip is None else _of_address(records, ip)


def last_pass(state: State, root: Root) -> str | None:
    """The last pass that removed something below this root, also where all of it has been put back since.

    Raises:
        CleanupError: the journal cannot be read.
    """
    found = None
    for journal in read_journal(state.journal):
        ours = {one.path for one in journal.records if one.root == root.path}
        if journal.removed & ours or any(one.root == root.path for one in _taken(journal, root)):
            found = journal.pass_id
    return found


def _of_address(records: Sequence[Record], ip: str) -> list[Record]:
    address = canonical_address(ip)
    if address is None:
        raise UsageError(f"{ip!r} is no IP address")
    named = [one for one in records if one.kind == "reservation" and one.path.endswith(f"/{address}")]
    if not named:
        return []
    last = named[-1]
    return [one for one in records if one is last or (last.container_id and one.container_id == last.container_id)]


def restore(state: State, root: Root, clock: Clock, records: Sequence[Record]) -> Iterator[Restored]:
    """Put files back, one by one, those of a sandbox after its reservation if they come after it.

    Each is `held` before it exists again, so that no pass can take it before an operator agrees.

    Raises:
        PassAborted: a pass is running, or the state directory cannot be written.
    """
    with state.pass_lock():
        without: set[str | None] = set()
        for one in records:
            if one.kind != "reservation" and one.container_id in without:
                yield Restored(one, "failed", "the reservation of its sandbox did not come back")
                continue
            before = state.held()
            state.write_held({*before, (one.path, one.container_id)})
            result = _restore_one(root, one)
            if result.outcome == "restored":
                _note_restored(state, clock, one)
            else:
                state.write_held(before)
                without.add(one.container_id)
            yield result


def release(state: State, *, pass_id: str | None = None, ip: str | None = None) -> list[str]:
    """Let restored files be judged again: all, or those of one pass or address. Returns the paths that were held.

    Raises:
        UsageError: `ip` is no address.
        CleanupError: there is no such pass.
        PassAborted: a pass is running, or the state directory cannot be written.
    """
    every = [one for journal in read_journal(state.journal, pass_id) for one in journal.records]
    wanted = {(one.path, one.container_id) for one in (every if ip is None else _of_address(every, ip))}
    with state.pass_lock():
        held = state.held()
        released = held & wanted if pass_id or ip else held
        if released:
            state.write_held(held - released)
    return sorted(path for path, _ in released)


def _taken(journal: PassJournal, root: Root) -> Iterator[Record]:
    return journal.taken(lambda one: not os.path.lexists(_real(root, one.path)))


def _real(root: Root, path: str) -> str:
    parent, _, name = path.rpartition("/")
    return f"{root.real(parent or '/').rstrip('/')}/{name}"


def _note_restored(state: State, clock: Clock, one: Record) -> None:
    journal = Journal(state.journal, one.pass_id)
    try:
        journal.note("restored", [one.path], clock.wall_ns())
        journal.sync()
    finally:
        journal.close()


def _restore_one(root: Root, one: Record) -> Restored:
    if one.root != root.path:
        return Restored(one, "failed", f"it was removed below --root {one.root}")
    if not _is_ours(one):
        return Restored(one, "failed", "the journal names no file that this program removes")
    directory = one.path.rpartition("/")[0]
    try:
        fd = root.open_network(directory) if one.kind == "reservation" else root.open_directory(directory)
    except OSError as error:
        return Restored(one, "failed", f"{directory} cannot be opened: {error.strerror}")
    try:
        with _complete_file(fd, one) as made:
            locks = [(fd, _real(root, directory), directory)] if one.kind == "reservation" else []
            with network_locks(locks):
                os.link(f"/proc/self/fd/{made}", one.path.rpartition("/")[2], dst_dir_fd=fd, follow_symlinks=True)
            os.fsync(fd)
    except FileExistsError:
        return Restored(one, "exists", "a file of this name is there: the address was given out again")
    except LockProblem as problem:
        return Restored(one, "failed", str(problem))
    except OSError as error:
        return Restored(one, "failed", f"it cannot be written: {error.strerror}")
    except OverflowError as error:
        return Restored(one, "failed", f"the journal has no such owner or time: {error}")
    finally:
        os.close(fd)
    return Restored(one, "restored", None)


@contextlib.contextmanager
def _complete_file(directory_fd: int, one: Record) -> Iterator[int]:
    """The file whole and on disk before it has a name: a kill leaves nothing that the plugin could read, and no lock is held."""
    fd = os.open(".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=directory_fd)
    try:
        rest = memoryview(one.data)
        while rest:
            rest = rest[os.write(fd, rest) :]
        os.fchown(fd, one.uid, one.gid)
        os.fchmod(fd, one.mode & 0o777)
        os.utime(fd, ns=(one.mtime_ns, one.mtime_ns))
        os.fsync(fd)
        yield fd
    finally:
        os.close(fd)


def _is_ours(one: Record) -> bool:
    """Whether this program could have removed it: a journal that somebody wrote must not make other files."""
    directory, _, name = one.path.rpartition("/")
    if os.path.normpath(one.path) != one.path or not directory.startswith("/"):
        return False
    if one.kind == "reservation":
        content = parse_reservation(one.data)
        return is_address(name) and content not in (NotAReservation.FOREIGN, NotAReservation.UNPARSABLE)
    places = RESULTS if one.kind == "result" else SCRATCH
    named = one.container_id is not None and is_container_id(one.container_id) and one.container_id in name
    return named and directory.endswith(tuple(f"/{place}" for place in places))
