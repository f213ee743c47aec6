"""
The passes that are watched from inside, in a process of their own.

    inside.py hold SETTINGS    one pass; prints for how long each batch held the lock, a JSON list of nanoseconds
    inside.py loop SETTINGS    from one line on stdin to the next passes without end, then a rest until the next; answers each
                               line with the number of files removed so far. What a pass removed leaks again at once, so that
                               there are never fewer files
    inside.py traced SETTINGS  passes without and with traces, in turn, on the same files; prints their seconds of processor time
                               and those of their spans, the seconds of sending the spans afterwards, and those of the spans
                               of a pass that nobody traces, as JSON

SETTINGS are the fields of cni.settings.Settings as JSON.
"""

import json
import os
import select
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from trees import NETWORK, container_id_of, write_reservation

from cni.settings import Settings
from cni.steps import Fact, Step, unmeasured
from workers import tracing
from workers.node import clean

TRACED_ROUNDS = 11


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
            self.refill()

    def refill(self) -> None:
        """Leak anew what is gone."""
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


class Timed:
    """The spans of tracing, and the seconds of processor time that a pass spends in them."""

    def __init__(self) -> None:
        self.spent = 0.0

    @contextmanager
    def _timing(self) -> Iterator[None]:
        begun = time.process_time()
        yield
        self.spent += time.process_time() - begun

    @contextmanager
    def span(self, name: str, /, **facts: Fact) -> Iterator[Step]:
        """As tracing.span."""
        with self._timing():
            span = tracing.span(name, **facts)
            step = span.__enter__()
        yield TimedStep(step, self._timing)
        with self._timing():
            span.__exit__(None, None, None)


@dataclass
class TimedStep:
    """One of them."""

    step: Step
    timing: Callable[[], AbstractContextManager[None]]

    def note(self, facts: Callable[[], Mapping[str, Fact]]) -> None:
        """As Step."""
        with self.timing():
            self.step.note(facts)

    def fail(self, why: str) -> None:
        """As Step."""
        self.step.fail(why)


def traced(settings: Settings, network: Path, live: Path) -> dict[str, list[float]]:
    """Passes without and with traces, in turn; seconds, of the passes and of their spans those of the processor."""
    leaking = Leaking(network, live)
    traces = tracing.start(settings, "worker")
    if traces is None:
        raise SystemExit("nothing is traced")
    took: dict[str, list[float]] = {"off": [], "on": [], "spans": [], "sent": [], "nobody": [_seconds_of_unmeasured()]}
    for number in range(2 * TRACED_ROUNDS):
        leaking.refill()
        timed = Timed()
        # Which comes first alternates, too.
        is_on = number % 4 in (1, 2)
        begun = time.process_time()
        clean(settings, span=timed.span if is_on else unmeasured)
        took["on" if is_on else "off"].append(time.process_time() - begun)
        if is_on:
            took["spans"].append(timed.spent)
            begun = time.perf_counter()
            traces.provider.force_flush()
            took["sent"].append(time.perf_counter() - begun)
    return took


def _seconds_of_unmeasured(spans: int = 15, times: int = 1000) -> float:
    """Seconds of as many spans as a pass has, where nobody traces."""
    begun = time.perf_counter()
    for _ in range(spans * times):
        with unmeasured("step", look=1) as step:
            step.note(dict)
    return (time.perf_counter() - begun) / times


def main() -> None:
    """Do what the module's text says."""
    what, given = sys.argv[1], json.loads(sys.argv[2])
    live = Path(given.pop("live"))
    settings = Settings(**given)
    network = Path(settings.root) / "var/lib/cni/networks" / NETWORK
    if what == "hold":
        json.dump(hold(settings), sys.stdout)
    elif what == "traced":
        json.dump(traced(settings, network, live), sys.stdout)
    else:
        loop(settings, network, live)


if __name__ == "__main__":
    main()
