"""Network namespaces mounted at paths, as a container runtime leaves them below /run/netns. Root only."""

import ctypes
import os
import re
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Self

_CLONE_NEWNET = 0x40000000
_MS_BIND = 0x1000
_MNT_DETACH = 0x2

_MODE = 0o444
"""As the runtimes make these files."""

_ESCAPED = re.compile(r"\\([0-7]{3})")
"""White space and the backslash itself, in /proc/self/mountinfo."""

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def open_new_namespace() -> int:
    """Make a network namespace; return a descriptor that keeps it alive.

    Raises:
        OSError: the kernel does not let us.
    """
    made: list[int] = []
    errors: list[OSError] = []

    def leave() -> None:
        # Only this thread moves, and it ends here: the process stays in its own namespace.
        try:
            _check(_libc.unshare(_CLONE_NEWNET), "unshare")
            made.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=leave)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return made[0]


def mount_points(root: Path) -> dict[Path, str]:
    """Return what this process sees mounted at or below `root`: path -> file system type, newest last."""
    found = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, source = line.partition(" - ")
        path = Path(_ESCAPED.sub(lambda octal: chr(int(octal[1], 8)), fields.split()[4]))
        if path.is_relative_to(root):
            found[path] = source.split()[0]
    return found


def unmount_below(root: Path) -> None:
    """Unmount everything at or below `root`, whoever mounted it.

    Raises:
        OSError: the kernel does not let us.
    """
    while points := mount_points(root):
        for path in reversed(points):
            _check(_libc.umount2(os.fsencode(path), _MNT_DETACH), f"umount {path}")


class Namespaces:
    """Mounts namespaces at paths, and takes all of it back at the end of its `with` block.

    Files that it made are removed then; files that were there before stay, unmounted.
    """

    def __init__(self) -> None:
        self._shared: int | None = None
        self._descriptors: list[int] = []
        self._mounted: list[Path] = []
        self._made: list[Path] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.undo()

    def mount(self, path: Path, *, fresh: bool = False) -> Path:
        """Mount a namespace at `path`: one that all mounts of this object share, or a `fresh` one.

        The file is made when it is missing, its directory too.

        Raises:
            OSError: the file cannot be made, or nothing be mounted there.
        """
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=_MODE)
            self._made.append(path)
        source = f"/proc/self/fd/{self._descriptor(fresh)}"
        _check(_libc.mount(source.encode(), os.fsencode(path), None, _MS_BIND, None), f"mount {path}")
        self._mounted.append(path)
        return path

    def mount_all(self, directory: Path, names: Iterable[str]) -> None:
        """Mount the shared namespace at each of these names in `directory`; raises as `mount`."""
        for name in names:
            self.mount(directory / name)

    def unmount(self, path: Path) -> None:
        """Unmount what is at `path`, the file stays: what a runtime's crash leaves.

        Raises:
            OSError: the kernel does not let us.
        """
        unmount_below(path)

    def undo(self) -> None:
        """Unmount all and remove the files that were made; what is gone already is no error."""
        for path in reversed(self._mounted):
            unmount_below(path)
        for path in self._made:
            path.unlink(missing_ok=True)
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._shared = None
        for gone in (self._mounted, self._made, self._descriptors):
            gone.clear()

    def _descriptor(self, fresh: bool) -> int:
        if self._shared is not None and not fresh:
            return self._shared
        descriptor = open_new_namespace()
        self._descriptors.append(descriptor)
        if not fresh:
            self._shared = descriptor
        return descriptor


def why_not() -> str | None:
    """Return why namespaces cannot be mounted here, or None if they can."""
    if os.geteuid() != 0:
        return "mounting namespaces needs root"
    with tempfile.TemporaryDirectory() as directory, Namespaces() as namespaces:
        try:
            namespaces.mount(Path(directory, "probe"))
        except OSError as error:
            return f"mounting namespaces is not allowed here: {error}"
    return None
