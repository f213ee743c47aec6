"""
`make bench`: what is claimed about speed and footprint, measured. See README.md beside this file.

Prints one line a figure (see figures.py). Exit status: 0 all met, 1 one was missed or could not be measured.
"""

import importlib.util
import json
import math
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, cast

import processes
from adds import AddFailed, Plugin, find_plugin
from figures import BenchFailed, Figure, show
from processes import ProcessFailed, measure
from sidecar import sidecar
from trees import NODE, Node, container_id_of, make_node, remove_node, reserved

HERE = Path(__file__).resolve().parent

MEMORY = Path("/dev/shm")
"""The tmpfs that is measured on."""

MEMORY_NEEDED = 1 << 30
"""Bytes."""

TIME_LIMIT = 480
"""Seconds for everything."""

RESERVATIONS = 65_000
"""On the node of the large pass."""

LIVE = 110
"""Of the reservations of every node."""

ROUNDS = 5
"""Of the large pass."""

SMALL = 256
"""Reservations on a node as it usually is."""

SMALL_ROUNDS = 9

FULL = 20_000
"""Leaked reservations in a directory that is full of them."""

TRACED = 2_000
"""Leaked reservations of a pass that is traced."""

ADDS = 200
"""Alone, and as many beside passes."""

ADDS_IN_A_BLOCK = 20
"""Between two turns of the cleaner."""


@dataclass(frozen=True)
class Bench:
    """Where to work, and the compiled yardstick."""

    base: Path
    yardstick: Path

    @contextmanager
    def node(self, *, reservations: int, live: int = LIVE, waiting: tuple[str, ...] = ()) -> Iterator[Node]:
        """A node tree for the time of a `with`."""
        node = make_node(self.base / "node", reservations=reservations, live=live, waiting=waiting)
        try:
            yield node
        finally:
            remove_node(node)


def large_pass(bench: Bench) -> Iterator[Figure]:
    """The product, the yardstick and find, in turn on equal trees, so that a slow minute hits all three.

    Raises:
        BenchFailed: one of the first two left something else than the live reservations.
    """
    ours, yardstick, find = [], [], []
    for _ in range(ROUNDS):
        with bench.node(reservations=RESERVATIONS) as node:
            yardstick.append(measure([bench.yardstick, node.network, node.live, node.state], home=node.base).seconds)
            check_only_live_left(node, "the yardstick")
        with bench.node(reservations=RESERVATIONS) as node:
            ours.append(measure(clean_command(node), home=node.base))
            check_only_live_left(node, "cni-cleanup clean")
        with bench.node(reservations=RESERVATIONS) as node:
            find.append(sum(measure(command, home=node.base).seconds for command in find_commands(node)))
    name = f"pass over {RESERVATIONS:,} reservations, {LIVE} live"
    ratio, told = compared([run.seconds for run in ours], yardstick)
    yield Figure(f"{name}: wall time to the C program's", told, "<= 1.6 times", ratio <= 1.6)
    peak = max(run.peak for run in ours)
    yield Figure(f"{name}: peak memory", f"{peak:.1f} MiB", "< 80 MiB", peak < 80)
    _, told = compared(find, yardstick)
    yield Figure("find -exec cat {} + and find -delete on the same: wall time to the C program's", told)


def compared(ours: list[float], theirs: list[float]) -> tuple[float, str]:
    """The median ratio of the runs side by side, and how it is told."""
    ratio = statistics.median(one / other for one, other in zip(ours, theirs, strict=True))
    return ratio, f"{ratio:.2f} times ({statistics.median(ours):.2f} s / {statistics.median(theirs):.2f} s)"


def small_pass(bench: Bench) -> Iterator[Figure]:
    """A whole process on a node as it usually is; the first run only fills the caches.

    Raises:
        BenchFailed: it left something else than the live reservations.
    """
    seconds = []
    for _ in range(SMALL_ROUNDS + 1):
        with bench.node(reservations=SMALL) as node:
            seconds.append(measure(clean_command(node), home=node.base).seconds)
            check_only_live_left(node, "cni-cleanup clean")
    median = statistics.median(seconds[1:])
    yield Figure(f"pass over {SMALL} reservations, whole process", f"{median:.2f} s", "< 0.6 s", median < 0.6)


def lock_hold(bench: Bench) -> Iterator[Figure]:
    """Every batch of the large pass, timed at the two steps between which the lock is held.

    Raises:
        BenchFailed: it left something else than the live reservations, or too few batches were seen.
    """
    with bench.node(reservations=RESERVATIONS) as node:
        answer = subprocess.run(
            inside_command("hold", node),
            stdout=subprocess.PIPE,
            env=processes.environment(node.base),
            timeout=processes.LIMIT,
            check=True,
        )
        check_only_live_left(node, "the watched pass")
    times = sorted(json.loads(answer.stdout))
    if len(times) * 64 < RESERVATIONS - LIVE:
        raise BenchFailed(f"only {len(times)} batches were seen in a pass over {RESERVATIONS:,} reservations")
    p99 = times[math.ceil(len(times) * 0.99) - 1] / 1e6
    value = f"{p99:.2f} ms (median {statistics.median(times) / 1e6:.2f} ms, longest {times[-1] / 1e6:.2f} ms)"
    yield Figure("network's lock held by a batch, p99", value, "<= 5 ms", p99 <= 5)


def adds_meanwhile(bench: Bench) -> Iterator[Figure]:
    """Blocks of ADDs alone and beside a cleaner that removes leaks without end, in turn; raises as `alternating_adds`."""
    names = (
        f"ADD beside passes to ADD alone, network of {SMALL} files, median of {ADDS}",
        "ADDs a second beside passes to alone (none starves)",
        "longest ADD beside passes (none starves)",
    )
    goals = ("<= 1.25 times", ">= 0.5 times", "< 1000 ms")
    executable = find_plugin()
    if executable is None:
        yield from (missing_plugin(name, goal) for name, goal in zip(names, goals, strict=True))
        return
    alone, beside, removed = alternating_adds(bench, executable)
    ratio = statistics.median(beside) / statistics.median(alone)
    pace = sum(alone) / sum(beside)
    longest = max(beside) * 1000
    medians = f"{statistics.median(beside) * 1000:.1f} ms / {statistics.median(alone) * 1000:.1f} ms"
    values = (
        f"{ratio:.2f} times ({medians}, {removed:,} leaks removed meanwhile)",
        f"{pace:.2f} times ({len(beside) / sum(beside):.0f} / {len(alone) / sum(alone):.0f})",
        f"{longest:.1f} ms (alone {max(alone) * 1000:.1f} ms)",
    )
    met = (ratio <= 1.25, pace >= 0.5, longest < 1000)
    for name, value, goal, reached in zip(names, values, goals, met, strict=True):
        yield Figure(name, value, goal, reached)


def alternating_adds(bench: Bench, executable: Path) -> tuple[list[float], list[float], int]:
    """Seconds of the ADDs alone and beside passes, and how many leaks those passes removed.

    Raises:
        AddFailed: the plugin refused.
        BenchFailed: a live reservation went, the cleaner ended, or it removed too little to be in the way.
    """
    waiting = tuple(container_id_of("waiting", index) for index in range(ADDS_IN_A_BLOCK))
    alone: list[float] = []
    beside: list[float] = []
    with bench.node(reservations=SMALL, waiting=waiting) as node:
        plugin = Plugin(executable, node)
        with cleaner(node) as passes:
            while len(beside) < ADDS:
                alone += [plugin.add(container_id) for container_id in waiting]
                release(node, plugin, waiting)
                tell(passes)
                beside += [plugin.add(container_id) for container_id in waiting]
                removed = tell(passes)
                release(node, plugin, waiting)
    if removed < ADDS:
        raise BenchFailed(f"the passes beside {ADDS} ADDs removed only {removed} leaks")
    return alone, beside, removed


def release(node: Node, plugin: Plugin, waiting: tuple[str, ...]) -> None:
    """DEL for each.

    Raises:
        BenchFailed: one of them had lost its reservation.
    """
    contents = {(node.network / address).read_text()[:64] for address in reserved(node)}
    if not contents.issuperset(waiting):
        raise BenchFailed("a live reservation is gone")
    plugin.delete(waiting)


def full_directory(bench: Bench) -> Iterator[Figure]:
    """ADDs in a directory full of leaks, before and after one pass.

    Raises:
        AddFailed: the plugin refused.
    """
    name = f"ADD in a directory of {FULL:,} leaked files"
    executable = find_plugin()
    if executable is None:
        yield missing_plugin(f"{name}: before a pass", "-")
        yield missing_plugin(f"{name}: after a pass", "< a fifth of before")
        return
    waiting = tuple(container_id_of("waiting", index) for index in range(10))
    with bench.node(reservations=FULL + LIVE, waiting=waiting) as node:
        plugin = Plugin(executable, node)
        before = statistics.median(plugin.add(container_id) for container_id in waiting[:5])
        measure(clean_command(node), home=node.base)
        after = statistics.median(plugin.add(container_id) for container_id in waiting[5:])
    yield Figure(f"{name}: before a pass", f"{before * 1000:.1f} ms")
    goal = f"< {before * 1000 / 5:.1f} ms (a fifth)"
    yield Figure(f"{name}: after a pass", f"{after * 1000:.1f} ms", goal, after < before / 5)


def tracing(bench: Bench) -> Iterator[Figure]:
    """Passes in one process, with and without traces in turn, with a collector on the loopback.

    Raises:
        BenchFailed: the collector got nothing.
    """
    names = (
        f"pass over {TRACED:,} leaked files, traced: to itself without its spans",
        "the same untraced: spans that nobody traces",
    )
    goals = ("<= 1.03 times", "<= 0.1 %")
    if importlib.util.find_spec("opentelemetry") is None:
        print(f"{names[0]}: no OpenTelemetry here (make venv)", file=sys.stderr)
        yield from (Figure(name, "-", goal, met=False) for name, goal in zip(names, goals, strict=True))
        return
    took = passes_traced(bench, TRACED + LIVE)
    ratio = statistics.median(one / (one - spans) for one, spans in zip(took["on"], took["spans"], strict=True))
    told = f"{statistics.median(took['spans']) * 1000:.1f} ms of {statistics.median(took['on']) * 1000:.0f} ms of processor time"
    yield Figure(names[0], f"{ratio:.3f} times ({told})", goals[0], ratio <= 1.03)
    part = took["nobody"][0] / statistics.median(took["off"])
    yield Figure(names[1], f"{part:.3%} ({took['nobody'][0] * 1e6:.0f} us)", goals[1], part <= 0.001)
    ratio, _ = compared(took["on"], took["off"])
    yield Figure("the same: processor time of traced passes to untraced ones beside them", f"{ratio:.2f} times")
    yield Figure("sending the spans of a pass, after it", f"{statistics.median(took['sent']) * 1000:.1f} ms")


def passes_traced(bench: Bench, reservations: int) -> dict[str, list[float]]:
    """What inside.py tells of its passes.

    Raises:
        BenchFailed: the collector got nothing.
    """
    with bench.node(reservations=reservations) as node, collector() as (url, received):
        answer = subprocess.run(
            inside_command("traced", node, jaegerurl=url),
            stdout=subprocess.PIPE,
            env=processes.environment(node.base),
            timeout=processes.LIMIT,
            check=True,
        )
        if not received:
            raise BenchFailed("no span was sent")
        took: dict[str, list[float]] = json.loads(answer.stdout)
        return took


@contextmanager
def collector() -> Iterator[tuple[str, list[int]]]:
    """A collector of traces on the loopback that takes everything: its URL, and the bytes of each request so far."""
    received: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(len(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its name in http.server
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", received
        finally:
            server.shutdown()
            thread.join()


def clean_command(node: Node) -> list[str | Path]:
    """One pass as an operator types it, without the wait for the second look."""
    given: list[str | Path] = [Path(sys.executable).with_name("cni-cleanup"), "clean", "--node", NODE]
    given += ["--root", node.root, "--state-dir", node.state]
    given += ["--sandboxes-file", node.sandboxes, "--pods-file", node.pods]
    return [*given, "--min-age", "0s", "--confirm-after", "0s"]


def find_commands(node: Node) -> list[list[str | Path]]:
    """What people type instead."""
    find: list[str | Path] = ["find", node.network, "-type", "f"]
    return [[*find, "-exec", "cat", "{}", "+"], [*find, "-delete"]]


def inside_command(what: str, node: Node, **more: str) -> list[str]:
    """The pass of `clean_command`, watched from inside (inside.py), with `more` settings."""
    settings = {
        "root": str(node.root),
        "node": NODE,
        "state_dir": str(node.state),
        "sandboxes_file": str(node.sandboxes),
        "pods_file": str(node.pods),
        "min_age": 0.0,
        "confirm_after": 0.0,
        "live": str(node.live),
        **more,
    }
    return [sys.executable, str(HERE / "inside.py"), what, json.dumps(settings)]


@contextmanager
def cleaner(node: Node) -> Iterator[subprocess.Popen[str]]:
    """The process that makes passes without end when it is told to."""
    process = subprocess.Popen(
        inside_command("loop", node),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=processes.environment(node.base),
    )
    try:
        yield process
    finally:
        processes.stop(process)


def tell(process: subprocess.Popen[str]) -> int:
    """Have it start, or stop; how many leaks it has removed so far.

    Raises:
        BenchFailed: it has ended.
    """
    order, answers = cast("IO[str]", process.stdin), cast("IO[str]", process.stdout)
    order.write("\n")
    order.flush()
    answer = answers.readline()
    if not answer:
        raise BenchFailed("the process that cleans beside the ADDs ended")
    return int(answer)


def check_only_live_left(node: Node, who: str) -> None:
    """A fast pass that does the wrong thing is no figure.

    Raises:
        BenchFailed: there are not exactly as many reservations left as live ones.
    """
    left = len(reserved(node))
    if left != LIVE:
        raise BenchFailed(f"{who} left {left} reservations, not the {LIVE} live ones")


def missing_plugin(name: str, goal: str) -> Figure:
    """The line of a figure that needs host-local, where there is none."""
    print(f"{name}: no host-local here (apt install containernetworking-plugins)", file=sys.stderr)
    return Figure(name, "-", goal, met=False)


@contextmanager
def prepared() -> Iterator[Bench]:
    """A directory on tmpfs with the compiled yardstick, removed in the end.

    Raises:
        BenchFailed: there is no compiler, or not enough memory.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        raise BenchFailed("no C compiler: apt install gcc libc6-dev")
    if not MEMORY.is_dir() or shutil.disk_usage(MEMORY).free < MEMORY_NEEDED:
        raise BenchFailed(f"{MEMORY} needs {MEMORY_NEEDED >> 20} MiB free")
    with tempfile.TemporaryDirectory(dir=MEMORY, prefix="cni-cleanup-bench-") as name:
        bench = Bench(Path(name), Path(name) / "pass")
        subprocess.run([compiler, "-O2", "-o", bench.yardstick, HERE / "pass.c"], check=True)
        yield bench


def figures(bench: Bench) -> Iterable[Figure]:
    """All of them, in the order of their lines."""
    for part in (large_pass, small_pass, lock_hold, adds_meanwhile, full_directory, tracing):
        yield from part(bench)
    yield from sidecar(bench.base)


def out_of_time(_signal: int, _frame: object) -> None:
    """A signal handler that lets every `finally` run.

    Raises:
        BenchFailed: always.
    """
    raise BenchFailed("stopped, or not done in eight minutes")


def main() -> int:
    """Print the figures; the exit status."""
    signal.signal(signal.SIGALRM, out_of_time)
    signal.signal(signal.SIGTERM, out_of_time)
    signal.alarm(TIME_LIMIT)
    try:
        with prepared() as bench:
            missed = show(figures(bench))
    except (BenchFailed, ProcessFailed, AddFailed, subprocess.SubprocessError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
