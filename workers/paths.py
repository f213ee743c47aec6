"""Where a node keeps its files. `root` prefixes every path of the node and symbolic links are followed inside it."""

import os
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import PurePosixPath

from cni.errors import PassAborted
from cni.names import is_address
from workers.mounts import has_mounts

CNI_DIR = "/var/lib/cni"
"""Where runtimes keep results and scratch files, wherever reservations are (containernetworking/cni libcni/api.go:41)."""

RESULTS = ("results", "cache/results", "multus/results")
"""containerd and CRI-O; cri-dockerd; the delegates of Multus."""

SCRATCH = ("flannel", "multus")
"""Where these plugins keep, by container id, what they gave their delegates."""

_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_MAX_LINKS = 40
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The directories of one node, as the node sees them."""

    #: (name, directory) of each network, in order of the name.
    networks: tuple[tuple[str, str], ...]
    #: Those of the usual place that `--cnifiles` leaves out: an id may have reservations in them too.
    left_out: tuple[tuple[str, str], ...] = ()
    #: The CNI directories in which results and scratch files are looked for.
    cni_dirs: tuple[str, ...]


class Root:
    """The file system of a node, below a directory of ours."""

    def __init__(self, root: str) -> None:
        """`root` is `/` on the node itself, or where the node's tree is mounted or copied."""
        path = os.path.abspath(root)
        # Another name for `/` must not get the licence of a copied tree.
        self.path = "/" if os.path.isdir(path) and os.path.samefile(path, "/") else path

    @property
    def is_host(self) -> bool:
        """Whether the node is the one this process runs on."""
        return self.path == "/"

    @property
    def is_live(self) -> bool:
        """Whether it is a running node: the one this process runs on, or one that is here with its /proc, which no copy has."""
        return self.is_host or os.path.exists(f"{self.path}{_BOOT_ID}")

    @property
    def may_be_live(self) -> bool:
        """Whether it is, or may be one that was mounted here: nothing that was merely copied is a mount or has some in it."""
        return self.is_live or has_mounts(os.path.realpath(self.path))

    def is_link(self, path: str) -> bool:
        """Whether the last part of a node's path is a symbolic link."""
        parent, _, name = path.rpartition("/")
        try:
            return os.path.islink(f"{self.real(parent or '/')}/{name}")
        except OSError:
            return False

    def dangling(self, path: str) -> str | None:
        """The first link on the way to a node's path that leads nowhere here; on the node it may."""
        parts = PurePosixPath(path).parts
        for count in range(2, len(parts) + 1):
            here = str(PurePosixPath(*parts[:count]))
            if self.is_link(here) and not os.path.exists(self.real(here)):
                return here
        return None

    def real(self, path: str) -> str:
        """Our path of a node's path, with its links resolved as the node would.

        Raises:
            OSError: too many links.
        """
        if self.is_host:
            return os.path.realpath(path)
        return self.path.rstrip("/") + self._resolve(PurePosixPath("/") / path)

    def open_directory(self, path: str) -> int:
        """A descriptor of the directory, links followed.

        Raises:
            OSError: it cannot be opened, or is none.
        """
        return os.open(self.real(path), _DIRECTORY)

    def open_network(self, path: str) -> int:
        """A descriptor of a directory of reservations, which must not be a link itself.

        Raises:
            OSError: it cannot be opened, is none, or is a link.
        """
        parent, _, name = path.rpartition("/")
        return os.open(f"{self.real(parent or '/')}/{name}", _DIRECTORY)

    def _resolve(self, path: PurePosixPath) -> str:
        """A link of the copied tree that says /elsewhere means the tree's own /elsewhere, never ours."""
        done, todo, links = "", list(reversed(path.parts[1:])), 0
        while todo:
            part = todo.pop()
            if part == "..":
                done = done.rpartition("/")[0]
                continue
            here = f"{self.path.rstrip('/')}{done}/{part}"
            if not os.path.islink(here):
                done = f"{done}/{part}"
                continue
            links += 1
            if links > _MAX_LINKS:
                raise OSError(f"too many symbolic links in {path}")
            target = PurePosixPath(os.readlink(here))
            if target.is_absolute():
                done = ""
            todo.extend(part for part in reversed(target.parts) if part != "/")
        return done


def layout(root: Root, cnifiles: str) -> Layout:
    """Tell which form of `--cnifiles` this is: a CNI directory, one network, or a directory of networks.

    Raises:
        PassAborted: it does not exist or cannot be read.
    """
    cnifiles = "/" + cnifiles.strip("/")
    names = dict(_entries(root, cnifiles))
    inside: tuple[tuple[str, str], ...]
    if names.get("networks") or cnifiles == CNI_DIR:
        inside = tuple(_sub_directories(root, f"{cnifiles}/networks")) if names.get("networks") else ()
        left_out = _usual(root, {directory for _, directory in inside})
        return Layout(networks=inside, left_out=left_out, cni_dirs=tuple(dict.fromkeys((CNI_DIR, cnifiles))))
    if "lock" in names or any(is_address(name) for name in names):
        inside = ((PurePosixPath(cnifiles).name, cnifiles),)
    else:
        inside = tuple(_sub_directories(root, cnifiles))
    return Layout(networks=inside, left_out=_usual(root, {directory for _, directory in inside}), cni_dirs=(CNI_DIR,))


def _usual(root: Root, chosen: AbstractSet[str]) -> tuple[tuple[str, str], ...]:
    """The networks below /var/lib/cni that were not chosen, by whatever path."""
    usual = f"{CNI_DIR}/networks"
    real = root.real(usual)
    if not os.path.isdir(real):
        link = root.dangling(usual)
        if link is not None:
            raise PassAborted("no-directory", f"{link} is a link to what is not here: mount that too, at the same path")
        return ()
    there = {name for parent, _, name in (one.rpartition("/") for one in chosen) if root.real(parent or "/") == real}
    return tuple((name, directory) for name, directory in _sub_directories(root, usual) if name not in there)


def _sub_directories(root: Root, directory: str) -> Iterator[tuple[str, str]]:
    for name, is_dir in sorted(_entries(root, directory)):
        if is_dir:
            yield name, f"{directory.rstrip('/')}/{name}"


def _entries(root: Root, directory: str) -> list[tuple[str, bool]]:
    """Names, and whether each is a directory or a link; a link is refused when it is opened as a network."""
    try:
        fd = root.open_directory(directory)
    except PermissionError as error:
        raise PassAborted("permission", f"{directory} may not be read: run as root") from error
    except OSError as error:
        why = error.strerror or str(error)
        raise PassAborted(
            "no-directory", f"{directory} cannot be listed ({why}): name the CNI directory with --cnifiles"
        ) from error
    try:
        with os.scandir(fd) as entries:
            return [(one.name, one.is_dir(follow_symlinks=False) or one.is_symlink()) for one in entries]
    finally:
        os.close(fd)
