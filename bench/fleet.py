"""
`make bench-fleet`: what is claimed about the fleet, measured. See README.md beside this file.

Prints one line a figure (see figures.py). Exit status: 0 all met, 1 one was missed or could not be measured, 130 interrupted.
"""

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import redis
from fanout import BATCH, WAYS, node_names
from figures import BenchFailed, Figure, show
from footprint import footprint
from processes import compiled_environment

from cli.demo import redis_server
from cli.demo.nodes import make
from cli.demo.processes import Interrupted, Process, Processes, running
from cni.errors import CleanupError
from cni.report import summary
from cni.settings import Settings
from tasks import names
from tasks.celery_app import CleanupApp
from tasks.ledger import Ledger
from tasks.sweep import account_of
from tests.support.api_server import ApiServer, write_kubeconfig
from workers import node as passes

HERE = Path(__file__).resolve().parent

NODES = 5_000

ROUNDS = 3
"""Of the fan-out."""

TURNS = ("ours", "loop", "ours", "group")
"""Of each."""

ANSWERING = 2
"""Processes that answer for the nodes."""

NETWORKS = 4
"""Of each simulated node."""

TIME_LIMIT = 900
"""Seconds for everything; seven to nine minutes are usual."""

STARTS_WITHIN = 90.0

SWEEP_WITHIN = 180.0


def fan_out(base: Path, processes: Processes, server: Path) -> Iterator[Figure]:
    """The same jobs sent in three ways, in turn, so that a slow minute hits all of them.

    Raises:
        BenchFailed: a node did not get exactly one job.
    """
    url = _redis(base, processes, server, "redis-fan-out")
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    queued = 0
    with redis.Redis.from_url(url) as client:
        empty = _used(client)
        for _ in range(ROUNDS):
            for way in TURNS:
                seconds[way].append(_send(base, url, way))
                _check_queues(client, way)
                if way == "ours":
                    queued = _used(client) - empty
                client.flushall()
    ours = seconds["ours"]
    name = f"fan-out to {NODES:,} nodes, batches of {BATCH:,}"
    # Whatever else the machine does only adds to it; the ratios are of neighbours.
    least = min(ours)
    yield Figure(f"{name}, best of {len(ours)}", f"{least:.2f} s (median {statistics.median(ours):.2f})", "<= 2 s", least <= 2)
    faster, told = _compared(seconds["loop"], ours[::2])
    yield Figure(f"{name}: an apply_async loop's time to it", told, ">= 5 times", faster >= 5)
    _, told = _compared(seconds["group"], ours[1::2])
    yield Figure(f"{name}: a group()'s time to it", told)
    yield Figure(f"Redis memory of {NODES:,} queued jobs", _mib(queued))


def _compared(theirs: Sequence[float], ours: Sequence[float]) -> tuple[float, str]:
    """The median of the ratios of neighbours, and how it is told."""
    ratio = statistics.median(one / other for one, other in zip(theirs, ours, strict=True))
    return ratio, f"{ratio:.1f} times ({statistics.median(theirs):.2f} s / {statistics.median(ours):.2f} s)"


def _send(base: Path, url: str, way: str) -> float:
    """Seconds."""
    command = [sys.executable, str(HERE / "fanout.py"), way, url, str(NODES)]
    done = subprocess.run(
        command, env=compiled_environment(base), capture_output=True, text=True, check=False, timeout=SWEEP_WITHIN
    )
    if done.returncode != 0:
        raise BenchFailed(f"fanout.py {way} failed: {done.stderr[-2000:]}")
    return float(done.stdout)


def _check_queues(client: "redis.Redis", way: str) -> None:
    """A fast fan-out that does the wrong thing is no figure.

    Raises:
        BenchFailed: a node's queue has not exactly one job.
    """
    with client.pipeline(transaction=False) as batch:
        for node in node_names(NODES):
            batch.llen(names.queue_for(node))
        lengths = batch.execute()
    if lengths != [1] * NODES:
        raise BenchFailed(f"{way} left {lengths.count(1)} of {NODES} nodes with exactly one job")


def sweep(base: Path, processes: Processes, server: Path) -> Iterator[Figure]:
    """A whole sweep by the real control, over nodes that the API lists and few processes answer for.

    Raises:
        BenchFailed: it does not come to its end, or a node was not cleaned.
    """
    url = _redis(base, processes, server, "redis-sweep")
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(redis.Redis.from_url(url))
        empty = _used(client)
        api = stack.enter_context(ApiServer(nodes=[_node(name) for name in node_names(NODES)]))
        _control(base, processes, url, api)
        simulated = _simulated(base, processes, url)
        app = stack.enter_context(contextlib.closing(CleanupApp("bench", set_as_current=False)))
        app.use(Settings(broker=url))
        ledger = Ledger(client)
        started = time.monotonic()
        sweep_id = app.send_task(names.SWEEP, kwargs={"spread": 0}).id

        def reported() -> bool:
            return ledger.progress(sweep_id).reported >= NODES

        if not processes.wait_for(reported, within=SWEEP_WITHIN):
            logs = "\n".join(process.log_end() for process in simulated)
            raise BenchFailed(f"{ledger.progress(sweep_id)} after {SWEEP_WITHIN:g} s:\n{logs}")
        account = _complete(ledger, sweep_id, processes)
        took = time.monotonic() - started
        requests = len(api.requests)
        used = _used(client) - empty
    if (account["state"], account["cleaned"]) != ("complete", NODES):
        raise BenchFailed(f"the sweep is {account['state']}, {account['cleaned']} nodes are cleaned")
    name = f"sweep of {NODES:,} simulated nodes, spread 0, to its account"
    yield Figure(name, f"{took:.1f} s", "<= 30 s", took <= 30)
    yield Figure(f"Redis memory after it, {NODES:,} reports of {NETWORKS} networks in the ledger", _mib(used))
    most = NODES // 500
    yield Figure(f"requests of control to the API for {NODES:,} nodes", f"{requests}", f"<= {most}", requests <= most)


def _complete(ledger: Ledger, sweep_id: str, processes: Processes) -> dict[str, Any]:
    """The account once it says that the sweep is over: control notes that all were asked after the last may have answered."""
    account: dict[str, Any] = {}

    def over() -> bool:
        account.update(account_of(ledger, sweep_id))
        return bool(account["state"] != "running")

    processes.wait_for(over, within=STARTS_WITHIN)
    return account


def _node(name: str) -> dict[str, Any]:
    """As the API has it, with what control does not ask for."""
    labels = {"kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64", "kubernetes.io/hostname": name}
    return {
        "metadata": {"name": name, "uid": name, "labels": labels, "annotations": {"node.alpha.kubernetes.io/ttl": "0"}},
        "spec": {"podCIDR": "10.88.0.0/24"},
        "status": {"images": [{"names": [f"registry.example/image-{index}"], "sizeBytes": index} for index in range(30)]},
    }


def _control(base: Path, processes: Processes, url: str, api: ApiServer) -> Process:
    """Start the worker that makes sweeps, and wait until it is ready."""
    own = {
        "CNI_CLEANUP_BROKER": url,
        "CNI_CLEANUP_API": "external",
        "KUBECONFIG": str(write_kubeconfig(base / "kubeconfig", api.url)),
    }
    process = processes.start("control", [sys.executable, "-m", "cli", "control"], compiled_environment(base) | own, HERE.parent)
    _wait_for_line(processes, process, " ready.")
    return process


def _simulated(base: Path, processes: Processes, url: str) -> list[Process]:
    """Start what answers for the nodes: each with the report of a real pass, over more networks than that had."""
    (node,) = make(1, base / "simulated")
    report = summary(passes.scan(node.settings(url)))
    first = report["networks"][0]
    report["networks"] = [first | {"name": f"network-{index}"} for index in range(NETWORKS)]
    path = base / "summary.json"
    path.write_text(json.dumps(report))
    each = NODES // ANSWERING
    started = []
    for index in range(ANSWERING):
        command = [sys.executable, str(HERE / "simulated.py"), url, str(path), str(index * each), str(each)]
        process = processes.start(f"simulated-{index}", command, compiled_environment(base))
        _wait_for_line(processes, process, "there")
        started.append(process)
    return started


def _wait_for_line(processes: Processes, process: Process, line: str) -> None:
    def said() -> bool:
        return line in process.log_end() or not process.running()

    if not processes.wait_for(said, within=STARTS_WITHIN) or not process.running():
        raise BenchFailed(f"{process.name} does not start:\n{process.log_end()}")


def _redis(base: Path, processes: Processes, server: Path, name: str) -> str:
    directory = base / name
    directory.mkdir()
    return redis_server.start(server, processes, directory)


def _used(client: "redis.Redis") -> int:
    """Bytes."""
    return int(client.info("memory")["used_memory"])


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB ({size / NODES:.0f} bytes a node)"


def figures(base: Path, processes: Processes, wanted: Sequence[str]) -> Iterator[Figure]:
    """All of them, or those of the parts that are wanted, in the order of their lines."""
    server = redis_server.find_server()
    for part in (fan_out, sweep, footprint):
        if not wanted or part.__name__ in wanted:
            yield from part(base, processes, server)


def out_of_time(_signal: int, _frame: object) -> None:
    """A signal handler that lets every `finally` run.

    Raises:
        BenchFailed: always.
    """
    raise BenchFailed(f"not done in {TIME_LIMIT // 60} minutes")


def main(wanted: Sequence[str]) -> int:
    """Print the figures; the exit status."""
    signal.signal(signal.SIGALRM, out_of_time)
    signal.alarm(TIME_LIMIT)
    try:
        with tempfile.TemporaryDirectory(prefix="cni-cleanup-bench-") as name:
            logs = Path(name) / "logs"
            logs.mkdir()
            with running(logs) as processes:
                return 1 if show(figures(Path(name), processes, wanted)) else 0
    except (BenchFailed, CleanupError, OSError, redis.RedisError, subprocess.SubprocessError) as error:
        print(f"bench-fleet: {error}", file=sys.stderr)
        return 1
    except (Interrupted, KeyboardInterrupt):
        print("bench-fleet: interrupted; all that it started is stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    # Settings of the caller's are no part of what is measured, in this process neither.
    for variable in [name for name in os.environ if name.startswith(("CNI_CLEANUP_", "CELERY_", "KUBE"))]:
        del os.environ[variable]
    sys.exit(main(sys.argv[1:]))
