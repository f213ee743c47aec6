"""What an idle worker takes of its node and of Redis, ours beside a stock one."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import redis
from figures import BenchFailed, Figure
from processes import compiled_environment, cpu_seconds_of, rollup, texts

from cli.demo import redis_server
from cli.demo.nodes import Node, make
from cli.demo.processes import Process, Processes
from cni.settings import Settings
from tasks import names
from tasks.celery_app import CleanupApp
from workers.configuration import environment_of

HERE = Path(__file__).resolve().parent

WINDOW = 120.0
"""Seconds for which commands and processor time are counted."""

RESTS = 6.0
"""Seconds until a worker is idle: after a pass it takes up to 5 until it notices that its child has ended."""

STARTS_WITHIN = 90.0

JOB_WITHIN = 60.0

PASSES = 100

MIB = 1024.0
"""In KiB, in which the kernel tells memory."""


@dataclass(frozen=True)
class Memory:
    """Of all processes of a worker, in MiB."""

    #: As the kernel counts it: a page that so many processes map counts as one part of so many.
    pss: float
    #: The same if no other process on the machine mapped the libraries that these map.
    alone: float
    processes: int

    def __str__(self) -> str:
        return f"{self.pss:.1f} MiB"


@dataclass(frozen=True)
class Idle:
    """A worker's idle time."""

    commands: Counter[str]
    #: Of one core.
    cpu_percent: float

    @property
    def per_second(self) -> float:
        """Commands."""
        return self.commands.total() / WINDOW


class Worker:
    """A worker on a Redis of its own, so that whatever meets that Redis is the worker's."""

    def __init__(self, name: str, url: str, process: Process, processes: Processes) -> None:
        self.name = name
        self.url = url
        self.process = process
        self._processes = processes
        self._redis = redis.Redis.from_url(url, client_name="bench")

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until `condition` is true.

        Raises:
            BenchFailed: it is not in time, or the worker has ended.
        """

        def done() -> bool:
            if not self.process.running():
                raise BenchFailed(f"the worker {self.name} ended:\n{self.process.log_end()}")
            return condition()

        if not self._processes.wait_for(done, within=STARTS_WITHIN):
            raise BenchFailed(f"{self.name}: {what} did not come true:\n{self.process.log_end()}")

    def settle(self, *, replaces_its_child: bool) -> None:
        """Wait until it is ready, and then idle."""
        self.wait(lambda: " ready." in self.process.log_end(), "ready")
        first = set(self.pids()[1:])
        if replaces_its_child:
            self.wait(lambda: len(now := self.pids()[1:]) == 1 and first.isdisjoint(now), "another child")
        time.sleep(RESTS)

    def pids(self) -> list[int]:
        """Main process and children."""
        return _tree(self.process.pid)

    def memory(self) -> Memory:
        """What its processes hold now."""
        found = [rollup(pid) for pid in self.pids()]
        pss = sum(one["Pss"] for one in found)
        # The children map no library that the main process does not: they are its forks.
        files = max(one["Rss"] - one["Anonymous"] for one in found)
        return Memory(pss / MIB, (sum(one["Pss_Anon"] for one in found) + files) / MIB, len(found))

    def connections(self) -> list[str]:
        """The last command of each of its connections to Redis."""
        port = int(self.url.rpartition(":")[2].partition("/")[0])
        own = {local for pid in self.pids() for local in _local_ports(pid, port)}
        clients = self._redis.client_list()
        return sorted(one["cmd"] for one in clients if int(one["addr"].rpartition(":")[2]) in own)

    def cpu_seconds(self) -> float:
        """Processor time that its processes have taken."""
        return sum(cpu_seconds_of(pid) for pid in self.pids())

    @contextlib.contextmanager
    def watched(self) -> Iterator[Counter[str]]:
        """Count the commands that the worker sends, those inside its scripts not among them.

        Raises:
            BenchFailed: they could not be seen to the end.
        """
        commands: Counter[str] = Counter()
        end = f"end-{os.getpid()}"
        heard: list[bool] = []
        with redis.Redis.from_url(self.url, socket_timeout=None) as client, client.monitor() as monitor:

            def listen() -> None:
                for one in monitor.listen():
                    if end in one["command"]:
                        heard.append(True)
                        return
                    if one["client_type"] != "lua":
                        commands[one["command"].split()[0].upper()] += 1

            thread = threading.Thread(target=listen, daemon=True)
            thread.start()
            try:
                yield commands
            finally:
                self._redis.echo(end)
                thread.join(timeout=STARTS_WITHIN)
        if not heard:
            raise BenchFailed(f"the commands of {self.name} were not seen to the end")

    def stop(self) -> None:
        """End it and all its processes."""
        self.process.terminate()
        self._processes.wait_for(lambda: not self.process.running(), within=15)
        self.process.end()
        self._redis.close()


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What the workers are started with."""

    base: Path
    processes: Processes
    server: Path
    node: Node

    def environment(self) -> dict[str, str]:
        """Of every process that is measured: as in an image that is byte-compiled, and has what run.txt pins."""
        return compiled_environment(self.base)

    def redis(self, name: str) -> str:
        """Start a Redis; its URL."""
        directory = self.base / name
        directory.mkdir()
        return redis_server.start(self.server, self.processes, directory)

    def settings(self, url: str) -> Settings:
        """The demo's node, whose passes do not wait."""
        return replace(self.node.settings(url), min_age=0.0, confirm_after=0.0)

    def ours(self, url: str, name: str) -> Worker:
        """Start the node worker, as a node does."""
        own = self.environment() | environment_of(self.settings(url))
        return Worker(
            name, url, self.processes.start(name, [sys.executable, "-m", "cli", "worker"], own, HERE.parent), self.processes
        )

    def stock(self, url: str, name: str) -> Worker:
        """Start `celery worker` for the same tasks, with Celery's own settings."""
        own = self.environment() | environment_of(self.settings(url)) | {"STOCK_BROKER": url}
        command = [sys.executable, "-m", "celery", "-A", "stock", "worker", "-c", "1", "--loglevel", "INFO"]
        return Worker(name, url, self.processes.start(name, command, own, HERE), self.processes)


def footprint(base: Path, processes: Processes, server: Path) -> Iterator[Figure]:
    """All figures of one worker.

    Raises:
        BenchFailed: a worker does not start, or does not do its jobs.
    """
    (node,) = make(1, base / "nodes")
    bench = Bench(base=base, processes=processes, server=server, node=node)
    with contextlib.closing(_Stack()) as workers:
        urls = {name: bench.redis(f"redis-{name}") for name in ("ours", "stock", "grows")}
        _compile(bench, urls["ours"])
        # One after the other: processes of one interpreter share its pages, and each would look smaller beside the other.
        first = workers.add(bench.stock(urls["stock"], "stock-alone"))
        first.settle(replaces_its_child=False)
        theirs = first.memory()
        first.stop()
        ours = workers.add(bench.ours(urls["ours"], "ours"))
        ours.settle(replaces_its_child=True)
        yield from _memory(ours.memory(), theirs)
        stock = workers.add(bench.stock(urls["stock"], "stock"))
        grows = workers.add(bench.ours(urls["grows"], "grows"))
        grows.settle(replaces_its_child=True)
        # Beside the idle window: it takes some minutes, in which it mostly waits.
        growth = _Growth(grows, bench.node.name)
        stock.settle(replaces_its_child=False)
        yield from _side_by_side(ours, stock)
        yield from growth.figures()


class _Stack:
    """Workers that are stopped in the end."""

    def __init__(self) -> None:
        self._workers: list[Worker] = []

    def add(self, worker: Worker) -> Worker:
        self._workers.append(worker)
        return worker

    def close(self) -> None:
        for worker in self._workers:
            worker.stop()


def _compile(bench: Bench, url: str) -> None:
    """Have a worker, its child in a pass, and a stock worker import all that they do, so that it is byte-compiled."""
    for worker in (bench.ours(url, "compiles"), bench.stock(url, "compiles-stock")):
        worker.wait(lambda worker=worker: " ready." in worker.process.log_end(), "ready")  # type: ignore[misc]
        if worker.name == "compiles":
            _pass(_app(url), bench.node.name)
        worker.stop()
    with redis.Redis.from_url(url) as client:
        client.flushall()


def _memory(ours: Memory, stock: Memory) -> Iterator[Figure]:
    name = f"idle PSS of the node worker, {ours.processes} processes"
    yield Figure(name, str(ours), "<= 50 MiB", ours.pss <= 50)
    yield Figure(f"{name}, if no other process mapped its libraries", f"{ours.alone:.1f} MiB")
    yield Figure(f"idle PSS of a stock celery worker -c 1, {stock.processes} processes", str(stock))
    yield Figure("the same, if no other process mapped its libraries", f"{stock.alone:.1f} MiB")


def _side_by_side(ours: Worker, stock: Worker) -> Iterator[Figure]:
    before = [len(worker.connections()) for worker in (ours, stock)]
    mine, theirs = _idle(ours, stock)
    inspected = [_after_inspect(worker) for worker in (ours, stock)]
    name = "connections to Redis of the idle node worker"
    yield Figure(name, f"{before[0]}", "<= 6", before[0] <= 6)
    yield Figure(f"{name} after an inspect ping", f"{inspected[0]}", "<= 6", inspected[0] <= 6)
    yield Figure("connections to Redis of a stock worker, idle and after an inspect ping", f"{before[1]}, {inspected[1]}")
    seconds = f"over {WINDOW:g} s"
    told = ", ".join(f"{name} {count}" for name, count in mine.commands.most_common())
    name = f"commands a second of the idle node worker {seconds} ({told})"
    yield Figure(name, f"{mine.per_second:.3f}", "<= 0.35", mine.per_second <= 0.35)
    yield Figure(f"commands a second of a stock worker {seconds}", f"{theirs.per_second:.2f}")
    name = f"processor time of the idle node worker {seconds}"
    yield Figure(name, f"{mine.cpu_percent:.3f} % of a core", "<= 0.1 %", mine.cpu_percent <= 0.1)
    yield Figure(f"processor time of a stock worker {seconds}", f"{theirs.cpu_percent:.3f} % of a core")


def _idle(*workers: Worker) -> list[Idle]:
    """What each does in the same window."""
    with contextlib.ExitStack() as stack:
        counted = [stack.enter_context(worker.watched()) for worker in workers]
        began = [worker.cpu_seconds() for worker in workers]
        started = time.monotonic()
        time.sleep(WINDOW)
        took = time.monotonic() - started
        ended = [worker.cpu_seconds() for worker in workers]
    return [Idle(commands, (end - begin) / took * 100) for commands, begin, end in zip(counted, began, ended, strict=True)]


def _after_inspect(worker: Worker) -> int:
    """Connections after somebody has asked every worker for a sign of life, with Celery's own command.

    Raises:
        BenchFailed: there was no answer.
    """
    command = [sys.executable, "-m", "celery", "-b", worker.url, "inspect", "ping", "--timeout", "10"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=STARTS_WITHIN, check=False, cwd=HERE)
    if "pong" not in done.stdout:
        raise BenchFailed(f"{worker.name} does not answer an inspect: {done.stdout}{done.stderr}")
    time.sleep(RESTS)
    return len(worker.connections())


class _Growth:
    """Memory and connections of a worker after its first pass and after the hundredth, made in a thread."""

    def __init__(self, worker: Worker, node: str) -> None:
        self._worker = worker
        self._node = node
        #: Before, after the first, after the last.
        self._seen: list[tuple[Memory, int]] = []
        self._failed: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def figures(self) -> Iterator[Figure]:
        """When they are there.

        Raises:
            BenchFailed: a pass failed.
        """
        self._thread.join()
        if self._failed is not None:
            raise BenchFailed(f"a pass failed: {self._failed}") from self._failed
        (before, connected), *after = self._seen
        memory = ", ".join(f"{one.alone:.1f}" for one, _ in after)
        grown = max(one.alone for one, _ in after) - before.alone
        name = f"idle memory after 1 and after {PASSES} passes, to {before.alone:.1f} MiB before (nothing shared with others)"
        yield Figure(name, f"{memory} MiB ({grown:+.1f})", "<= +2 MiB", grown <= 2)
        counts = [count for _, count in after]
        name = f"connections to Redis after 1 and after {PASSES} passes, to {connected} before"
        yield Figure(name, ", ".join(map(str, counts)), "the same", set(counts) == {connected})

    def _run(self) -> None:
        try:
            self._look()
            with contextlib.closing(_app(self._worker.url)) as app:
                for count in range(1, PASSES + 1):
                    _pass(app, self._node)
                    if count in (1, PASSES):
                        time.sleep(RESTS)
                        self._worker.wait(lambda: len(self._worker.pids()) == 2, "a new child")
                        time.sleep(RESTS)
                        self._look()
        except Exception as error:  # noqa: BLE001  # it is raised where the figures are waited for
            self._failed = error

    def _look(self) -> None:
        self._seen.append((self._worker.memory(), len(self._worker.connections())))


def _app(url: str) -> CleanupApp:
    app = CleanupApp("bench", set_as_current=False)
    app.use(Settings(broker=url))
    return app


def _pass(app: CleanupApp, node: str) -> None:
    """Have the node make one.

    Raises:
        BenchFailed: it was aborted.
    """
    report = app.send_task(names.CLEAN_NODE, args=[node]).get(timeout=JOB_WITHIN)
    if report["aborted"] is not None:
        raise BenchFailed(f"a pass was aborted: {report['aborted']}")


def _tree(pid: int) -> list[int]:
    """A process and all below it that have not ended."""
    found = [pid]
    for task in texts(f"/proc/{pid}/task", "children"):
        for child in task.split():
            with contextlib.suppress(OSError):
                if "\nState:\tZ" not in Path(f"/proc/{child}/status").read_text():
                    found += _tree(int(child))
    return found


def _local_ports(pid: int, remote: int) -> Iterator[int]:
    """The ports on this side of a process's TCP connections to a port of this machine."""
    sockets = set()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            sockets.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        local, other, inode = fields[1], fields[2], fields[9]
        if int(other.rpartition(":")[2], 16) == remote and f"socket:[{inode}]" in sockets:
            yield int(local.rpartition(":")[2], 16)
