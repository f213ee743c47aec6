"""How many files there are below a directory, and how large they are; what has not changed since is not read again."""

import os
import stat
import time
from dataclasses import dataclass

from workers.paths import Root
from workers.usage import SETTLED_NS

_DEEPEST = 32
"""Levels of directories. Real ones have four."""


@dataclass(frozen=True, kw_only=True)
class Tally:
    """The regular files below a directory."""

    files: int
    #: Of their contents, as `ls -l` shows them.
    size: int


@dataclass(frozen=True, kw_only=True)
class _Directory:
    """One directory as it was read: what is directly in it."""

    changed_ns: int
    files: int
    size: int
    inside: tuple[str, ...]


class Files:
    """Tallies one tree again and again."""

    def __init__(self, root: Root, directory: str) -> None:
        """`directory` is as the node sees it."""
        self._root = root
        self._top = directory.rstrip("/")
        self._known: dict[str, _Directory] = {}

    def tally(self) -> Tally:
        """All regular files in it, at any depth; links are not followed.

        Raises:
            OSError: some of it cannot be read. A part would look as if files had gone.
        """
        files = size = 0
        seen: dict[str, _Directory] = {}
        todo = [self._top]
        while todo:
            path = todo.pop()
            now_ns = time.time_ns()
            found = self._read(path)
            if found is None:
                continue
            files += found.files
            size += found.size
            if found.changed_ns < now_ns - SETTLED_NS:
                seen[path] = found
            todo += [f"{path}/{name}" for name in found.inside]
        self._known = seen
        return Tally(files=files, size=size)

    def _read(self, path: str) -> _Directory | None:
        """A directory; None where it has gone since its parent was read."""
        if path.count("/") - self._top.count("/") > _DEEPEST:
            raise OSError(f"{self._top} has more than {_DEEPEST} levels of directories")
        try:
            fd = self._root.open_directory(path or "/") if path == self._top else self._root.open_network(path)
        except FileNotFoundError:
            if path == self._top:
                raise
            return None
        try:
            # Before the names: what comes in meanwhile is found by the next tally.
            changed_ns = os.fstat(fd).st_mtime_ns
            known = self._known.get(path)
            return known if known is not None and known.changed_ns == changed_ns else _listed(fd, changed_ns)
        finally:
            os.close(fd)


def _listed(fd: int, changed_ns: int) -> _Directory:
    files = size = 0
    inside = []
    with os.scandir(fd) as entries:
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if stat.S_ISREG(status.st_mode):
                files += 1
                size += status.st_size
            elif stat.S_ISDIR(status.st_mode):
                inside.append(entry.name)
    return _Directory(changed_ns=changed_ns, files=files, size=size, inside=tuple(inside))
