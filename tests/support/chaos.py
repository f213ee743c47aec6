"""A fleet that things are done to: its Redis can be stopped, its workers killed; in the end the truth is asked for."""

import json
import os
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import redis
from celery.result import AsyncResult
from redis.backoff import NoBackoff
from redis.retry import Retry

from cli.demo.nodes import Node, make
from cli.demo.processes import Process, Processes, running
from tasks.account import is_good
from tasks.celery_app import CleanupApp
from tasks.ledger import Ledger
from tasks.sweep import account_of
from tests.support.fleet import client_of
from tests.support.polling import until
from tests.support.program import REPOSITORY, child_environment
from tests.support.redis_server import find_server
from tests.support.skips import require
from workers.configuration import environment_of

PATIENCE = 90.0
"""Seconds for anything that is waited for; each takes a fraction of it on an idle machine."""

VISIBILITY = 15
"""Seconds instead of two hours after which the job of a worker that was killed comes again; far above the time of one job."""

SHORTER: Mapping[str, Any] = {
    "settings": {"worker_soft_shutdown_timeout": 2.0},
    "transport": {
        "visibility_timeout": VISIBILITY,
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
        # A worker that is killed while it looks for such jobs leaves this lock behind, and here one looks each second.
        "unacked_mutex_expire": 5,
    },
}
"""What the launcher has in place of the product's own settings."""


@dataclass(kw_only=True)
class Server:
    """A Redis that keeps its data over a restart, as the product's has to (AOF)."""

    processes: Processes
    directory: Path
    password: str | None = None
    port: int = 0
    _process: Process | None = None
    _starts: int = 0

    def start(self) -> None:
        """Start it, at the same port and with the same data as the last time, and wait until it answers."""
        server = find_server()
        require(server, "no Redis server: apt install redis-server, or install the demo extra")
        self.directory.mkdir(exist_ok=True)
        self.port = self.port or _free_port()
        self._starts += 1
        command = [str(server), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory), "--save", ""]
        command += ["--appendonly", "yes", "--appendfsync", "everysec"]
        if self.password is not None:
            command += ["--requirepass", self.password]
        self._process = self.processes.start(f"redis.{self._starts}", command)
        until(self._answers, seconds=PATIENCE, what="the Redis")

    def stop(self) -> None:
        """Stop it in order, which writes its file to the end."""
        assert self._process is not None
        self._process.terminate()
        until(lambda: not self._running(), seconds=PATIENCE, what="the end of the Redis")

    def kill(self) -> None:
        """Kill it. What was written to its file is with the kernel; only a power cut would take a second of it."""
        assert self._process is not None
        self._process.end()

    @property
    def url(self) -> str:
        """Where it is."""
        secret = "" if self.password is None else f":{self.password}@"
        return f"redis://{secret}127.0.0.1:{self.port}/0"

    def _running(self) -> bool:
        return self._process is not None and self._process.running()

    def _answers(self) -> bool:
        assert self._running(), "the Redis ended"
        with redis.Redis.from_url(self.url, retry=Retry(NoBackoff(), 0)) as client, suppress(redis.RedisError):
            return bool(client.ping())
        return False


class Chaos:
    """Recorded nodes, the processes that serve them, and the Redis between them."""

    def __init__(self, processes: Processes, directory: Path, server: Server, *, nodes: int) -> None:
        self.processes = processes
        self.server = server
        self.directory = directory
        self.nodes: dict[str, Node] = {node.name: node for node in make(nodes, directory)}
        self._live = {node.name: _of(node, node.live) for node in self.nodes.values()}
        self._started: list[Process] = []
        #: By the name of a node, the worker that it has now.
        self.workers: dict[str, Process] = {}

    @cached_property
    def client(self) -> "redis.Redis":
        """Straight to Redis; tries again for as long as a restart takes."""
        return redis.Redis.from_url(self.server.url)

    @property
    def ledger(self) -> Ledger:
        """What the fleet has noted."""
        return Ledger(self.client)

    @cached_property
    def app(self) -> CleanupApp:
        """The application as somebody has it who asks for jobs."""
        return client_of(self.server.url)

    # Processes

    def start_worker(
        self,
        node: str,
        *,
        confirm_after: float = 1.0,
        broker: str | None = None,
        options: Mapping[str, Any] = SHORTER,
        **faults: str,
    ) -> Process:
        """Start the worker of a node; `faults` are those of tests.support.worker_main, `kill_at` for CHAOS_KILL_AT."""
        settings = replace(self.nodes[node].settings(broker or self.server.url), min_age=0.0, confirm_after=confirm_after)
        own = environment_of(settings) | {"CHAOS_OPTIONS": json.dumps(options)}
        if faults:
            own |= {f"CHAOS_{name.upper()}": value for name, value in faults.items()}
            own["CHAOS_DIRECTORY"] = str(self.nodes[node].directory)
        self.workers[node] = self._start(node, "worker", own)
        return self.workers[node]

    def start_control(
        self, *, known: Sequence[str] | None = None, broker: str | None = None, options: Mapping[str, Any] = SHORTER
    ) -> Process:
        """Start a control worker, which sweeps `known`, by default all nodes."""
        own = {
            "CNI_CLEANUP_BROKER": broker or self.server.url,
            "CNI_CLEANUP_STATIC_NODES": ",".join(self.nodes if known is None else known),
            "CHAOS_OPTIONS": json.dumps(options),
        }
        return self._start("control", "control", own)

    def start_fleet(self, **worker: Any) -> None:
        """Start a worker for each node, and control, and wait until all consume."""
        started = [self.start_control(), *(self.start_worker(node, **worker) for node in self.nodes)]
        self.wait_ready(*started)

    def _start(self, name: str, command: str, own: Mapping[str, str]) -> Process:
        number = len(self._started)
        line = [sys.executable, "-m", "tests.support.worker_main", command]
        process = self.processes.start(f"{number:02}.{name}", line, child_environment(own), REPOSITORY)
        self._started.append(process)
        return process

    def wait_ready(self, *processes: Process) -> None:
        """Wait until these consume their queues."""
        for process in processes:
            until(partial(self._is_ready, process), seconds=PATIENCE, what=process.name)
            assert process.running(), process.log_end()

    def _is_ready(self, process: Process) -> bool:
        return not process.running() or self.said(process, " ready.")

    def said(self, process: Process, text: str) -> bool:
        """Whether its log has this."""
        return text in process.log_end(100_000)

    def kill_all(self) -> None:
        """Kill every process but Redis; nothing of it is waited for."""
        for process in self._started:
            process.end()

    # Messages

    def sweep(self, *nodes: str, sweep_id: str | None = None, **more: Any) -> str:
        """Ask for a sweep over nodes, all by default; its id."""
        kwargs = {"spread": 0, **more} | ({"nodes": list(nodes)} if nodes else {})
        return str(self.app.send_task("tasks.sweep", kwargs=kwargs, task_id=sweep_id).id)

    def wait(self, result: "AsyncResult[Any] | str") -> Any:
        """The result of a task, by its id too; raises what it raised."""
        found = self.app.AsyncResult(result) if isinstance(result, str) else result
        return found.get(timeout=PATIENCE)

    def wait_complete(self, sweep_id: str) -> dict[str, Any]:
        """The account of a sweep, once every node has answered."""
        self.wait_for_account(sweep_id, lambda account: bool(account["state"] == "complete"))
        return account_of(self.ledger, sweep_id)

    def wait_for_account(self, sweep_id: str, condition: Any) -> dict[str, Any]:
        """The account of a sweep, once it is as wanted."""

        def found() -> bool:
            with suppress(redis.ConnectionError):
                return self.ledger.facts(sweep_id) is not None and bool(condition(account_of(self.ledger, sweep_id)))
            return False

        try:
            until(found, seconds=PATIENCE, what="the account")
        except TimeoutError:
            told = account_of(self.ledger, sweep_id) if self.ledger.facts(sweep_id) else "no such sweep"
            raise TimeoutError(f"{told}\n{self.logs()}") from None
        return account_of(self.ledger, sweep_id)

    def has_begun(self, sweep_id: str, node: str) -> bool:
        """Whether this node's job has begun, or ended."""
        found = self.ledger.snapshot(sweep_id)
        return found is not None and (node in found.signs or node in found.reports)

    # Nodes

    def leak(self, node: str, count: int, *, block: int = 77) -> frozenset[str]:
        """Reserve addresses on a node for sandboxes that nobody knows; their `network/IP`."""
        networks = self.nodes[node].directory / "root/var/lib/cni/networks"
        network = min(path.parent.name for path in networks.glob("*/last_reserved_ip.0"))
        names = [f"10.{block}.{number // 250}.{number % 250 + 1}" for number in range(count)]
        for number, name in enumerate(names):
            (networks / network / name).write_text(f"{block:032x}{number:032x}\r\neth0")
        return frozenset(f"{network}/{name}" for name in names)

    def left(self, node: str) -> set[str]:
        """The `network/IP` that are reserved on a node now."""
        networks = self.nodes[node].directory / "root/var/lib/cni/networks"
        return {f"{path.parent.name}/{path.name}" for path in networks.glob("*/*")}

    def marker(self, node: str, name: str) -> Path:
        """A file by which a worker's faults and the test talk: `waiting`, `go`, `kills`."""
        return self.nodes[node].directory / name

    def passes(self, node: str) -> dict[str, int]:
        """The passes that this node has made to their end, by result."""
        path = self.nodes[node].directory / "state/totals.json"
        found: dict[str, int] = json.loads(path.read_text())["passes"] if path.exists() else {}
        return found

    def removed_twice(self, node: str) -> list[str]:
        """The paths that the node's journal says were removed more than once."""
        journals = (self.nodes[node].directory / "state/journal").glob("*")
        lines = [line for path in journals for line in path.read_text().splitlines()]
        counts = Counter(path for line in lines for path in _removed(line))
        return [path for path, times in counts.items() if times > 1]

    # The truth

    def check_live(self) -> None:
        """Nothing live was removed or changed, on any node.

        Raises:
            AssertionError: it was.
        """
        for node in self.nodes.values():
            assert _of(node, node.live) == self._live[node.name], node.name

    def check_cleaned(self, *nodes: str) -> None:
        """Nothing leaked is left on these nodes, all by default, and all that lives is.

        Raises:
            AssertionError: otherwise.
        """
        self.check_live()
        for name in nodes or self.nodes:
            assert not self.nodes[name].leaked & self.left(name), name

    def check_drained(self) -> None:
        """No job waits, and none is held by a worker, or will be in a moment.

        Raises:
            TimeoutError: one is.
        """

        def drained() -> bool:
            queues = ["control", *(f"node.{node}" for node in self.nodes)]
            return not any(self.client.llen(queue) for queue in queues) and not self.client.hlen("unacked")

        try:
            until(drained, seconds=PATIENCE, what="the end of all jobs")
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self.logs()}") from None

    def check_good(self, account: Mapping[str, Any]) -> None:
        """An account says that every node was cleaned, and so it was.

        Raises:
            AssertionError: otherwise.
        """
        assert is_good(dict(account)), account
        self.check_cleaned(*(row["node"] for row in account["nodes"]))

    def logs(self) -> str:
        """The ends of all logs, for a test that failed."""
        return "\n".join(f"--- {process.name}\n{process.log_end(60)}" for process in self._started)


Make = Callable[..., Chaos]
"""Makes so many nodes, on an empty Redis."""


@contextmanager
def server_in(directory: Path) -> Iterator[Server]:
    """A Redis for the time of a block."""
    with running(directory) as processes:
        server = Server(processes=processes, directory=directory / "data")
        server.start()
        yield server


@contextmanager
def chaos_in(directory: Path, server: Server | None = None) -> Iterator[Make]:
    """What makes nodes in `directory`, on `server` or one of their own, with `password`; killed at the end of the block."""
    with running(directory) as processes:
        made: list[Chaos] = []

        def make(nodes: int, *, password: str | None = None) -> Chaos:
            theirs = server or Server(processes=processes, directory=directory / "data", password=password)
            if server is None:
                theirs.start()
            chaos = Chaos(processes, directory, theirs, nodes=nodes)
            chaos.client.flushall()
            made.append(chaos)
            return chaos

        try:
            yield make
        finally:
            for chaos in made:
                # In order they would take seconds.
                chaos.kill_all()


def kill_after(process: Process, seconds: float) -> None:
    """Kill a worker with its children after so many seconds: the moment is not to be chosen well."""
    time.sleep(seconds)
    process.end()


def child_of(process: Process) -> int:
    """The process that does a worker's jobs.

    Raises:
        TimeoutError: there is none.
    """
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    until(lambda: path.read_text().split(), what="a child")
    return int(path.read_text().split()[0])


def kill_child(process: Process) -> None:
    """What the kernel does when memory is short."""
    os.kill(child_of(process), signal.SIGKILL)


def exit_status(process: Process) -> int:
    """The exit status of a process, once it has ended; 128 and the number for a signal."""
    until(lambda: not process.running(), seconds=PATIENCE, what=f"the end of {process.name}")
    ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    assert ended is not None
    return ended.si_status if ended.si_code == os.CLD_EXITED else 128 + ended.si_status


def _of(node: Node, paths: frozenset[str]) -> dict[str, bytes | None]:
    found = node.reservations()
    return {path: found.get(path) for path in paths}


def _removed(line: str) -> list[str]:
    """The paths that a line of a journal says were removed; a kill may have torn the last one."""
    try:
        event = json.loads(line)
    except ValueError:
        return []
    return list(event["paths"]) if event["event"] == "removed" else []


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
