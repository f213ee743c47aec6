"""What is mounted where, as this process sees it (proc(5), /proc/PID/mountinfo)."""

import re
from collections.abc import Iterator
from typing import NamedTuple

MOUNTINFO = "/proc/self/mountinfo"

_ESCAPED = re.compile(r"\\([0-7]{3})")


class Mount(NamedTuple):
    """One mount."""

    point: str
    #: Whether mounts that others make below it will show here: it is `shared:` or has a `master:`.
    propagated: bool
    type: str


def mounts(mountinfo: str = MOUNTINFO) -> Iterator[Mount]:
    """All of them; a later one covers an earlier one.

    Raises:
        OSError: they cannot be read.
    """
    with open(mountinfo, encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields = line.split(" ")
            end = fields.index("-")
            propagated = any(field.startswith(("shared:", "master:")) for field in fields[6:end])
            point = _ESCAPED.sub(lambda found: chr(int(found[1], 8)), fields[4])
            yield Mount(point, propagated, fields[end + 1])


def follows_mounts(directory: str, mountinfo: str = MOUNTINFO) -> bool:
    """Whether mounts that are made on the node later will show below `directory`.

    A hostPath without propagation shows the namespaces of its first moment for ever: those made later are names that are not
    mounted, those ended since stay mounted.

    Raises:
        OSError: it cannot be told.
    """
    best = Mount("", propagated=False, type="")
    for mount in mounts(mountinfo):
        if _is_below(directory, mount.point) and len(mount.point) >= len(best.point):
            best = mount
    return best.propagated


def has_mounts(directory: str, mountinfo: str = MOUNTINFO) -> bool:
    """Whether the tree at `directory` is a mount or has some in it; namespaces (nsfs) aside.

    Raises:
        OSError: it cannot be told.
    """
    return any(mount.type != "nsfs" and _is_below(mount.point, directory) for mount in mounts(mountinfo))


def _is_below(path: str, directory: str) -> bool:
    return path == directory or path.startswith(f"{directory.rstrip('/')}/")
