"""The netns witness: which names below a directory of namespaces exist, and which of them are mounted."""

import ctypes
import errno
import os
from collections.abc import Iterable

from cni.evidence import NETNS_DIR, NamespaceDirectory, NamespaceEvidence
from workers.mounts import follows_mounts
from workers.paths import Root

# include/uapi/linux/magic.h
_NSFS_MAGIC = 0x6E736673

STATE_DIRS = tuple(
    f"{state}/io.containerd.grpc.v1.cri/netns"
    for state in ("/run/containerd", "/run/k3s/containerd", "/run/k0s/containerd", "/var/snap/microk8s/common/run/containerd")
)
"""Where a containerd with `netns_mounts_under_state_dir` keeps namespaces: an ADD under way is nowhere else."""


def ask_namespaces(root: Root, paths: Iterable[str], *, at_rest: bool = False) -> NamespaceEvidence:
    """Look where runtimes keep namespaces, and in every directory in which one of `paths`, as results files name them, lies.

    `at_rest` says that nobody mounts anything in this tree any more: it is a copy, and what it shows is all there is.
    """
    named = {path.rpartition("/")[0] for path in paths if not path.startswith("/proc/")}
    try:
        if _filesystem_type("/proc/self/ns/net") != _NSFS_MAGIC:
            return NamespaceEvidence(unknown="this kernel does not tell a mounted namespace from a file")
        found = {path: _look(root, path or "/", at_rest=at_rest) for path in (NETNS_DIR, *STATE_DIRS, *sorted(named))}
        return NamespaceEvidence(directories=found, shows_adds=at_rest or any(one is not None for one in found.values()))
    except OSError as error:
        return NamespaceEvidence(unknown=f"{error.filename or NETNS_DIR} cannot be read: {error.strerror or error}")


def _look(root: Root, path: str, *, at_rest: bool) -> NamespaceDirectory | None:
    try:
        directory = root.real(path)
        names = os.listdir(directory)
    except ValueError:
        # No kernel has a path with a NUL or a lone surrogate.
        return None
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP):
            return None
        raise
    mounted = {name for name in names if _is_namespace(f"{directory}/{name}")}
    follows = at_rest or follows_mounts(os.path.realpath(directory))
    return NamespaceDirectory(names=frozenset(names), mounted=frozenset(mounted), follows_mounts=follows)


def _is_namespace(path: str) -> bool:
    try:
        return _filesystem_type(path) == _NSFS_MAGIC
    except FileNotFoundError:
        return False


def _filesystem_type(path: str) -> int:
    """`f_type` of statfs(2), the first word of the structure; Python's os.statvfs leaves it out."""
    buffer = ctypes.create_string_buffer(512)
    if _libc.statfs(os.fsencode(path), buffer) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return ctypes.c_long.from_buffer(buffer).value


_libc = ctypes.CDLL(None, use_errno=True)
