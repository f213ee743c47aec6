"""
The cleaner of the race: the product's own pass, again and again, with pauses at every step, until it is killed.

`python -m tests.support.race_cleaner COURSE`, where COURSE is the JSON of `Course`. Each line on standard output is an event:
`step NAME`, `unlinking ID ADDRESS` (compared, locked, and about to be unlinked), `pass JSON`.

RACE_SABOTAGE in the environment takes one guard of the product away, to show that the race needs it: age (a reservation may be
removed at any age), runtime (it answers "ok" and lists nobody), lock (the plugin's lock is not taken), compare (what is removed
is not compared with what was judged), journal (nothing is written there).
"""

import contextlib
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Self

from cni.evidence import RuntimeEvidence
from cni.listing import Item
from cni.report import Outcome
from cni.settings import Settings
from workers import node, removal, runtime
from workers.journal import Journal
from workers.removal import Remover


@dataclass(frozen=True, kw_only=True)
class Course:
    """What one cleaner process is told; times in seconds."""

    root: str
    state_dir: str
    runtime_endpoint: str
    node: str
    min_age: float
    confirm_after: float
    seed: str
    #: Without pauses: the end of the race, where only what is left is to be cleaned.
    calm: bool = False

    def json(self) -> str:
        """As the command line takes it."""
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `json` made."""
        return cls(**json.loads(text))

    def settings(self) -> Settings:
        """The settings of the product."""
        return Settings(
            root=self.root,
            state_dir=self.state_dir,
            runtime_endpoint=self.runtime_endpoint,
            node=self.node,
            api="external",
            min_age=self.min_age,
            confirm_after=self.confirm_after,
        )


_PAUSES = {"locked": (0.2, 0.02), "announced": (0.6, 0.15)}
"""How often a step pauses, and the longest of its pauses in seconds. All ADDs and DELs wait for the ones under the lock."""

_PAUSE = (0.3, 0.1)
"""The same of all other steps."""

_UNLINK_PAUSE = (0.05, 0.05)
"""The same of the moment between comparing and unlinking."""


class _Pauses:
    """Tells the harness each step, and then may wait."""

    def __init__(self, seed: str, *, calm: bool) -> None:
        self._random = random.Random(seed)
        self._calm = calm

    def at(self, step: str) -> None:
        """A step that the product names."""
        _say(f"step {step}")
        self._pause(*_PAUSES.get(step, _PAUSE))

    def unlink(self, original: Callable[[Remover, int, Item], Outcome]) -> Callable[[Remover, int, Item], Outcome]:
        """Wrap the removal of one file: the moment between comparing and unlinking is no step of the product's."""

        def unlink(remover: Remover, directory_fd: int, item: Item) -> Outcome:
            often, longest = _UNLINK_PAUSE
            if item.kind == "reservation" and not self._calm and self._random.random() < often:
                _say(f"unlinking {item.container_id} {item.name}")
                time.sleep(self._random.uniform(longest / 4, longest))
            return original(remover, directory_fd, item)

        return unlink

    def _pause(self, often: float, longest: float) -> None:
        if not self._calm and self._random.random() < often:
            time.sleep(self._random.uniform(0, longest))


def _say(event: str) -> None:
    print(event, flush=True)


def _sabotage(guard: str, settings: Settings) -> Settings:
    """Take one guard away; return the settings to go on with.

    Raises:
        KeyError: there is no such guard.
    """
    if guard == "age":
        return replace(settings, min_age=0.0)
    target, name, instead = {
        "runtime": (runtime.RuntimeWitness, "ask", lambda _self: RuntimeEvidence(live=True)),
        "lock": (removal, "network_locks", _no_lock),
        "compare": (removal, "_compare", lambda *_arguments: None),
        "journal": (Journal, "sync", lambda _self: None),
    }[guard]
    setattr(target, name, instead)
    return settings


@contextlib.contextmanager
def _no_lock(*_arguments: object) -> Iterator[None]:
    yield


def main() -> None:
    """Clean until killed."""
    course = Course.parse(sys.argv[1])
    settings = course.settings()
    pauses = _Pauses(course.seed, calm=course.calm)
    # The very moment that no step names.
    setattr(Remover, "_unlink", pauses.unlink(Remover._unlink))  # noqa: B010  # mypy knows no function as a method
    if guard := os.environ.get("RACE_SABOTAGE"):
        settings = _sabotage(guard, settings)
    while True:
        report = node.clean(settings, observe=pauses.at)
        aborted = report.aborted and {"reason": report.aborted.reason, "detail": report.aborted.detail}
        outcome = {"aborted": aborted, "removed": report.count("removed"), "failed": report.count("failed")}
        _say(f"pass {json.dumps(outcome)}")


if __name__ == "__main__":
    main()
