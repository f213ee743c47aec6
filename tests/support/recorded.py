"""
Recorded real nodes, copied to where a test may change them, and the comparison of whole trees.

A case is a directory with the node's files under `root/`, `pods.json`, `sandboxes.json`, mostly `netns.json` (per name below
/run/netns: mounted, processes, addresses), and `truth.json`. Git keeps no modes, `truth.json` does.
"""

import json
import os
import shutil
import stat
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.namespaces import Namespaces

_REPOSITORY = Path(__file__).parents[2]
CASE_DIRECTORIES = (
    _REPOSITORY / "tests" / "fixtures" / "nodes",
    # The cases that the demo ships are not kept twice.
    _REPOSITORY / "cli" / "demo" / "data",
)

NODE_NAME = "node1"
"""The node's name in every recording."""


def _find_cases() -> dict[str, Path]:
    truths = (truth for directory in CASE_DIRECTORIES for truth in directory.glob("*/truth.json"))
    return {truth.parent.name: truth.parent for truth in sorted(truths)}


_PATHS = _find_cases()
CASES = tuple(sorted(_PATHS))
"""The names of all recorded cases, for parametrizing."""


@dataclass(frozen=True, kw_only=True)
class RecordedNode:
    """A copy of a recorded node: `root` is what `--root` takes, the witness files are beside it."""

    name: str
    directory: Path
    #: Paths of reservations relative to the directory of all networks: network/IP.
    leaked: frozenset[str]
    #: The same of those that live.
    live: frozenset[str]
    needs_real_ages: bool
    mounted: bool

    @property
    def root(self) -> Path:
        """The copied file system of the node."""
        return self.directory / "root"

    @property
    def pods_file(self) -> Path:
        """As `kubectl get pods -A -o json` printed it."""
        return self.directory / "pods.json"

    @property
    def sandboxes_file(self) -> Path:
        """As `crictl pods -o json` printed it."""
        return self.directory / "sandboxes.json"

    @property
    def cni(self) -> Path:
        """The node's CNI directory, which holds `networks` and `results`."""
        return self.root / "var" / "lib" / "cni"

    @property
    def networks(self) -> Path:
        """The directory of all network directories."""
        return self.cni / "networks"

    @property
    def results(self) -> Path:
        """The directory of libcni's results files."""
        return self.cni / "results"

    def container_ids(self, paths: Iterable[str]) -> set[str]:
        """Return the container ids that these reservations (network/IP) hold now."""
        return {(self.networks / path).read_text().split()[0] for path in paths}


def copy_node(name: str, target: Path, *, namespaces: Namespaces | None = None, older_by: float = 0.0) -> RecordedNode:
    """Copy a case into the new directory `target`, with its recorded modes and ages.

    With `namespaces`, the names that were mounted are mounted again. Without them, or in the two cases that have no `netns.json`,
    they are plain files. mtimes are their recorded ages plus `older_by` seconds ago; ctimes are of now, which nothing can change:
    a test of ages moves its clock.

    Raises:
        KeyError: there is no such case.
    """
    shutil.copytree(_PATHS[name], target, copy_function=shutil.copyfile)
    truth = json.loads((target / "truth.json").read_bytes())
    _restore_files(target / "root", truth["files"], time.time() - older_by)
    mounted = _mounted_names(target / "netns.json")
    if namespaces is not None:
        namespaces.mount_all(target / "root" / "run" / "netns", mounted)
    return RecordedNode(
        name=name,
        directory=target,
        leaked=_paths(truth, "leaked", target),
        live=_paths(truth, "live", target),
        needs_real_ages=truth.get("needs_real_ages", False),
        mounted=namespaces is not None and bool(mounted),
    )


def _restore_files(root: Path, files: Mapping[str, Any], now: float) -> None:
    for path, recorded in files.items():
        (root / path).chmod(int(recorded["mode"], 8))
        modified = now - recorded["age_seconds"]
        os.utime(root / path, (modified, modified))
    # Directories have no recorded modes: these are the ones that libcni and the plugin make.
    (root / "var" / "lib" / "cni" / "results").chmod(0o700)


def _mounted_names(netns: Path) -> list[str]:
    if not netns.exists():
        return []
    # A name whose namespace was gone before it was looked at is recorded as null.
    return [name for name, seen in json.loads(netns.read_bytes()).items() if seen and seen["mounted"]]


def _paths(truth: Mapping[str, Any], what: str, target: Path) -> frozenset[str]:
    """Return the reservations of a verdict; the older recordings name addresses, without their network."""
    if f"{what}_paths" in truth:
        return frozenset(truth[f"{what}_paths"])
    networks = target / "root" / "var" / "lib" / "cni" / "networks"
    found = [path for address in truth[what] for path in networks.glob(f"*/{address}")]
    return frozenset(str(path.relative_to(networks)) for path in found)


@dataclass(frozen=True)
class Entry:
    """All that a pass must leave as it is."""

    kind: str
    #: A file's bytes or a symlink's target, else empty.
    content: bytes
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    links: int


Tree = Mapping[str, Entry]


def snapshot(root: Path) -> dict[str, Entry]:
    """Return every entry below `root` by its relative path; what is mounted there is not entered."""
    device = root.lstat().st_dev
    found: dict[str, Entry] = {}
    waiting = [root]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for path in map(Path, entries):
                status = path.lstat()
                found[str(path.relative_to(root))] = _entry(path, status, device)
                if stat.S_ISDIR(status.st_mode) and status.st_dev == device:
                    waiting.append(path)
    return found


def _entry(path: Path, status: os.stat_result, device: int) -> Entry:
    if status.st_dev != device:
        # What stat says of a namespace is the kernel's business: only that it is mounted here counts.
        return Entry("mount", b"", 0, 0, 0, 0, 0)
    content = b""
    if stat.S_ISREG(status.st_mode):
        content = path.read_bytes()
    elif stat.S_ISLNK(status.st_mode):
        content = os.fsencode(os.readlink(path))
    mode = stat.S_IMODE(status.st_mode)
    kind = stat.filemode(status.st_mode)[0]
    return Entry(kind, content, mode, status.st_uid, status.st_gid, status.st_mtime_ns, status.st_nlink)


@dataclass(frozen=True)
class Difference:
    """Relative paths. A directory's time alone does not count as changed where its entries came or went."""

    removed: frozenset[str]
    added: frozenset[str]
    changed: frozenset[str]


def difference(before: Tree, after: Tree) -> Difference:
    """Compare two snapshots of one root."""
    removed, added = before.keys() - after.keys(), after.keys() - before.keys()
    touched = {os.path.dirname(path) for path in removed | added}
    changed = {
        path
        for path in before.keys() & after.keys()
        if _comparable(before[path], path in touched) != _comparable(after[path], path in touched)
    }
    return Difference(frozenset(removed), frozenset(added), frozenset(changed))


def _comparable(entry: Entry, touched: bool) -> Entry:
    if not touched:
        return entry
    return Entry(entry.kind, entry.content, entry.mode, entry.uid, entry.gid, 0, 0)
