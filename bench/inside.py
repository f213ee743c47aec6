"""
The passes that are watched from inside, in a process of their own.

    inside.py hold SETTINGS    one pass; prints for how long each batch held the lock, a JSON list of nanoseconds
    inside.py loop SETTINGS    from one line on stdin to the next passes without end, then a rest until the next; answers each
                               line with the number of files removed so far. What a pass removed leaks again at once, so that
                               there are never fewer files

SETTINGS are the fields of cni.settings.Settings as JSON.
"""

import json
import os
import select
import sys
import time
from pathlib import Path

from trees import NETWORK, container_id_of, write_reservation

from cni.settings import Settings
from workers.node import clean


def hold(settings: Settings) -> list[int]:
    """One pass; nanoseconds from having the network's lock to the last unlink under it, batch by batch."""
    times: list[int] = []
    locked = 0

    def watch(step: str) -> None:
        nonlocal locked
        if step == "locked":
            locked = time.monotonic_ns()
        elif step == "removed":
            times.append(time.monotonic_ns() - locked)

    clean(settings, observe=watch)
    return times


class Leaking:
    """A network whose leaks come back, so that its plugin always finds the same number of files."""

    def __init__(self, network: Path, live: Path) -> None:
        living = set(live.read_text().split())
        self._directory = os.open(network, os.O_RDONLY | os.O_DIRECTORY)
        self._addresses = [
            name for name in os.listdir(network) if name[0].isdigit() and (network / name).read_text()[:64] not in living
        ]
        self._made = 0
        self.removed = 0

    def observe(self, step: str) -> None:
        """Called at each step of a pass; leaks anew what the last batch removed, outside of the lock."""
        if step in ("announced", "recorded"):
            self._refill()

    def _refill(self) -> None:
        here = set(os.listdir(self._directory))
        for address in self._addresses:
            if address not in here:
                self._made += 1
                write_reservation(self._directory, address, container_id_of("again", self._made))
                self.removed += 1


def loop(settings: Settings, network: Path, live: Path) -> None:
    """Passes from one line on stdin to the next, until stdin ends."""
    leaking = Leaking(network, live)
    while sys.stdin.readline():
        print(leaking.removed, flush=True)
        while not select.select([sys.stdin], [], [], 0)[0]:
            clean(settings, observe=leaking.observe)
        sys.stdin.readline()
        print(leaking.removed, flush=True)


def main() -> None:
    """Do what the module's text says."""
    what, given = sys.argv[1], json.loads(sys.argv[2])
    live = Path(given.pop("live"))
    settings = Settings(**given)
    if what == "hold":
        json.dump(hold(settings), sys.stdout)
    else:
        loop(settings, Path(settings.root) / "var/lib/cni/networks" / NETWORK, live)


if __name__ == "__main__":
    main()
