"""
A crowded node, and its worker at a pace for tests.

`python -m tests.support.beside` is `cni-cleanup worker` with the pace (`workers.companion.Pace`) that the variable PACE gives as
JSON.
"""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cli.demo.processes import Process, Processes
from cni.settings import Settings
from tests.support.program import REPOSITORY, child_environment
from tests.support.recorded import RecordedNode, copy_node
from workers.companion import USUAL, Pace
from workers.configuration import environment_of, settings_from_environment
from workers.usage import Counter

QUICK = replace(USUAL, look=0.2, preflight=0.5)
"""Ten minutes between two early passes stay."""

NOBODY = "redis://127.0.0.1:1/0"
"""Where no Redis listens."""


@dataclass(frozen=True, kw_only=True)
class Crowded:
    """A recorded node with 6 live pods, 29 leaks and as many more as it takes to reach 80 %."""

    node: RecordedNode
    leaked: frozenset[str]

    @property
    def state(self) -> Path:
        """The state directory."""
        return self.node.directory / "state"

    @property
    def there(self) -> set[str]:
        """The reservations that are there now, `network/IP`."""
        known = self.leaked | self.node.live
        return {path for path in known if (self.node.networks / path).exists()}

    def settings(self, **changes: Any) -> Settings:
        """Of a pass that has nothing to wait for: the files' ages and the time between looks are other tests' to show."""
        values: dict[str, Any] = {
            "root": str(self.node.root),
            "state_dir": str(self.state),
            "node": "node1",
            "pods_file": str(self.node.pods_file),
            "sandboxes_file": str(self.node.sandboxes_file),
            "min_age": 0.0,
            "confirm_after": 0.0,
            "broker": NOBODY,
        }
        return Settings(**{**values, **changes})

    def relieve(self) -> None:
        """Take all leaks away for a while."""
        away = self.node.directory / "away"
        away.mkdir()
        for path in self.leaked:
            (self.node.networks / path).rename(away / path.replace("/", "_"))

    def crowd_again(self) -> None:
        """Put them back."""
        for path in self.leaked:
            (self.node.directory / "away" / path.replace("/", "_")).rename(self.node.networks / path)

    def start_worker(self, processes: Processes, name: str = "worker", *, pace: Pace = QUICK, **changes: Any) -> Process:
        """Start its worker."""
        own = environment_of(self.settings(**changes)) | {"PACE": json.dumps(asdict(pace))}
        return processes.start(name, [sys.executable, "-m", "tests.support.beside"], child_environment(own), REPOSITORY)

    def is_locked(self) -> bool:
        """Whether a pass runs. The kernel is asked: who tries to take the lock may be what the pass finds busy."""
        try:
            number = (self.state / "pass.lock").stat().st_ino
        except FileNotFoundError:
            return False
        return any(f":{number} " in line and " FLOCK " in line for line in Path("/proc/locks").read_text().splitlines())


def crowded(directory: Path) -> Crowded:
    """Make it below a directory."""
    node = copy_node("a2-failed-add-draining", directory / "node")
    (usage,) = Counter(Settings(root=str(node.root))).count()
    assert usage.capacity is not None
    more = frozenset(f"{usage.network}/10.88.77.{number}" for number in range(1, usage.capacity * 8 // 10 + 2 - usage.reserved))
    for path in more:
        (node.networks / path).write_bytes(f"{int(path.rpartition('.')[2]):064x}\r\neth0".encode())
    return Crowded(node=node, leaked=node.leaked | more)


def _pace(environ: Mapping[str, str]) -> Pace:
    return Pace(**json.loads(environ["PACE"]))


if __name__ == "__main__":
    from tasks.worker import start

    sys.exit(start(settings_from_environment(), pace=_pace(os.environ)))
