"""The demo's nodes: copies of states that were recorded on real ones, each with its truth."""

import json
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cni.settings import Settings
from workers.configuration import environment_of

_DATA = Path(__file__).parent / "data"

STORIES = {
    "leak-renamed-network": "network renamed under its pods",
    "b-dual-stack": "dual stack, renamed likewise",
    "a2-failed-add-draining": "ADD and DEL fail, addresses drain away",
}
"""What happened, in a few words, by recorded case."""

_MIN_AGE = 1.0
"""Seconds; the copies are as old as the demo, which would have to wait for the usual 15 minutes."""

_CONFIRM_AFTER = 2.0
"""Seconds instead of the usual 60."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """One node of the demo."""

    name: str
    #: What happened to it, in a few words.
    story: str
    #: Holds `root` (the node's files), its witnesses' answers, and what the program keeps.
    directory: Path
    #: `network/IP` of the reservations that the recording calls leaked.
    leaked: frozenset[str]
    #: The same of the live ones.
    live: frozenset[str]

    def settings(self, broker: str) -> Settings:
        """How the program looks at this node."""
        return Settings(
            node=self.name,
            root=str(self.directory / "root"),
            state_dir=str(self.directory / "state"),
            pods_file=str(self.directory / "pods.json"),
            sandboxes_file=str(self.directory / "sandboxes.json"),
            min_age=_MIN_AGE,
            confirm_after=_CONFIRM_AFTER,
            # Nothing is to happen before the sweep is watched.
            early_at=0,
            broker=broker,
        )

    def reservations(self) -> dict[str, bytes]:
        """The bytes of every reservation that is there now, by `network/IP`."""
        networks = self.directory / "root/var/lib/cni/networks"
        files = {path: path.read_bytes() for path in sorted(networks.glob("*/*"))}
        return {
            f"{path.parent.name}/{path.name}": data
            for path, data in files.items()
            if path.name != "lock" and not path.name.startswith("last_reserved_ip.")
        }


def make(count: int, below: Path) -> list[Node]:
    """Make `count` nodes below a directory, from the recorded cases in turn.

    Raises:
        OSError: a copy cannot be written.
    """
    return [make_node(number, below) for number in range(1, count + 1)]


def make_node(number: int, below: Path) -> Node:
    """Make one of them, counted from 1, below a directory.

    Raises:
        OSError: a copy cannot be written.
    """
    cases = list(STORIES)
    return _make(f"node-{number}", cases[(number - 1) % len(cases)], below)


def write_environment(node: Node, broker: str) -> None:
    """Write `env`, a shell file that makes the commands of this program work on this node."""
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in environment_of(node.settings(broker)).items()]
    (node.directory / "env").write_text("".join(lines))


def _make(name: str, case: str, below: Path) -> Node:
    recorded = _DATA / case
    directory = below / name
    shutil.copytree(recorded / "root", directory / "root", copy_function=shutil.copyfile)
    truth = json.loads((recorded / "truth.json").read_text())
    for path, facts in truth["files"].items():
        # As recorded: neither git nor a wheel keeps the modes.
        (directory / "root" / path).chmod(int(facts["mode"], 8))
    pods = json.loads((recorded / "pods.json").read_text())
    for pod in pods["items"]:
        pod["spec"]["nodeName"] = name
    (directory / "pods.json").write_text(json.dumps(pods))
    shutil.copyfile(recorded / "sandboxes.json", directory / "sandboxes.json")
    return Node(
        name=name,
        story=STORIES[case],
        directory=directory,
        leaked=_paths(truth, "leaked"),
        live=_paths(truth, "live"),
    )


def _paths(truth: Mapping[str, Any], kind: Literal["leaked", "live"]) -> frozenset[str]:
    """`network/IP` of one kind; an older recording, of a node with one network, names the addresses only."""
    if f"{kind}_paths" in truth:
        return frozenset(truth[f"{kind}_paths"])
    files = [Path(path) for path in truth["files"]]
    return frozenset(f"{path.parent.name}/{path.name}" for path in files if path.name in truth[kind])
