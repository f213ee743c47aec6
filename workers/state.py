"""The state directory: what this program remembers of a node between passes."""

import contextlib
import errno
import fcntl
import json
import os
import stat
from collections.abc import Iterable, Iterator
from typing import IO, Any

from cni.cleaning import Held
from cni.errors import CleanupError, PassAborted


class State:
    """Files in `--state-dir`, each replaced as a whole."""

    def __init__(self, directory: str) -> None:
        """`directory` is ours, never below the node's root; it is made when something is first written."""
        self.directory = os.path.abspath(directory)
        self.journal = self.path("journal")

    def path(self, name: str) -> str:
        """Our path of one file."""
        return os.path.join(self.directory, name)

    @contextlib.contextmanager
    def pass_lock(self) -> Iterator[None]:
        """Hold `pass.lock` for the time of a pass or a restore.

        Raises:
            PassAborted: another one holds it (`busy`), or the directory cannot be written (`journal`).
        """
        try:
            self._make()
            fd = os.open(self.path("pass.lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _cannot_write(self.directory, error) from error
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise PassAborted("busy", f"another pass holds {self.path('pass.lock')}: wait for it to end") from error
            yield
        finally:
            os.close(fd)

    def is_on_hold(self) -> bool:
        """Whether a file `hold` stops every removal; one that cannot be looked at does."""
        try:
            os.lstat(self.path("hold"))
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return True

    def held(self) -> Held:
        """The files that `restore` put back and nobody released.

        Raises:
            PassAborted: the list is there and cannot be read; nothing may be removed then.
        """
        try:
            entries = self.read_json("held.json", [])
            return frozenset(_held_entry(entry) for entry in _list(entries))
        except PassAborted:
            raise
        except (CleanupError, TypeError) as error:
            raise PassAborted("journal", f"{self.path('held.json')} cannot be read ({error}): mend or move it") from error

    def write_held(self, held: Iterable[tuple[str, str | None]]) -> None:
        """Replace the list of held files."""
        self.write_json("held.json", sorted(held, key=lambda entry: (entry[0], entry[1] or "")))

    def read_json(self, name: str, default: Any = None) -> Any:
        """The content of a file, `default` where it is not there.

        Raises:
            CleanupError: it cannot be read or is not JSON.
        """
        try:
            with open(self.path(name), encoding="utf-8") as file:
                return json.load(file)
        except FileNotFoundError:
            return default
        except PermissionError as error:
            raise PassAborted("permission", f"{self.path(name)} may not be read: run as root") from error
        except (OSError, ValueError, RecursionError) as error:
            raise CleanupError(f"{self.path(name)}: {error}") from error

    def _make(self) -> None:
        if not os.path.isdir(self.directory):
            os.makedirs(self.directory, mode=0o700, exist_ok=True)
            sync_directory(os.path.dirname(self.directory))

    def write_json(self, name: str, value: Any) -> None:
        """Replace a file by `value`.

        Raises:
            PassAborted: it cannot be written.
        """
        self.write(name, [json.dumps(value)])

    def write(self, name: str, chunks: Iterable[str]) -> None:
        """Replace a file by the chunks, so that a reader sees the old or the new one, also after a power cut.

        Raises:
            PassAborted: it cannot be written.
        """
        temporary = self.path(f".{name}.new")
        try:
            self._make()
            with open(temporary, "w", encoding="utf-8") as file:
                file.writelines(chunks)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path(name))
            sync_directory(self.directory)
        except OSError as error:
            raise _cannot_write(self.path(name), error) from error


def open_regular(path: str) -> IO[bytes]:
    """Open a file to be read; whatever else stands under its name is not waited for, as a FIFO would be for ever.

    Raises:
        OSError: it cannot be opened, or is no regular file.
    """
    file = open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")  # noqa: SIM115  # the caller closes it
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "no regular file", path)
    return file


def sync_directory(path: str) -> None:
    """Make names in a directory last over a power cut."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError("a list is wanted")
    return value


def _held_entry(entry: Any) -> tuple[str, str | None]:
    match entry:
        case [str(path), str() | None as container_id]:
            return path, container_id
    raise TypeError("pairs of a path and an id are wanted")


def _cannot_write(path: str, error: OSError) -> PassAborted:
    if isinstance(error, PermissionError):
        return PassAborted("permission", f"{path} may not be written: run as root, or name another --state-dir")
    return PassAborted("journal", f"{path} cannot be written ({error.strerror or error}): make room or name another --state-dir")
