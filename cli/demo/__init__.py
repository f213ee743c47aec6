"""
A small cluster on this machine: a Redis, nodes with their workers, control and Beat, and one sweep over them.

Everything is real but the nodes' kernels: the files are what real nodes had, the witnesses' answers are what was recorded there.
So is the truth, and the demo checks itself against it.
"""

import math
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from cli.demo import flower, prometheus, redis_server, show, sidecars
from cli.demo.flower import Flower
from cli.demo.nodes import Node, make, write_environment
from cli.demo.processes import Interrupted, Processes, running
from cli.demo.sidecars import Sidecars
from cli.following import follow
from cni.errors import CleanupError
from cni.report import document
from cni.settings import Settings
from tasks import app, names
from tasks.ledger import open_ledger
from tasks.sweep import account_of
from workers.configuration import environment_of
from workers.node import scan

_READY_WITHIN = 40.0
"""Seconds until every process must answer."""

_SWEPT_WITHIN = 60.0
"""Seconds until the sweep must be done."""

_COMMAND_WITHIN = 30.0
"""Seconds until a command must end."""

_ELSEWHERE = ("CNI_CLEANUP_", "CELERY_", "FLOWER_", "KUBE", "NODE_NAME", "POD_UID")
"""How the variables begin that would tell the demo's processes of another cluster."""

_COLLECTOR = "CNI_CLEANUP_JAEGERURL"
"""Where traces go is of no cluster: it is passed on, as all of `OTEL_*` is."""

_CONTAINER_ID = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{52}\b")
"""Shown by its beginning, for 80 columns."""

_OPTIONS = re.compile(r" --(?:state-dir|root) \S+")
"""Left out of what is shown, for 80 columns too: the demo's own."""

_PACKAGES = Path(__file__).parents[2]
"""Where the packages are: `python -m cli` finds them there, installed or not, whatever the working directory holds."""


def run(count: int, *, keep: bool) -> int:
    """Show the program at work on `count` nodes; the exit status, 0 if each came out as it should."""
    console = Console()
    try:
        with tempfile.TemporaryDirectory(prefix="cni-cleanup-demo-") as name:
            directory = Path(name)
            with running(directory, checked=True) as processes:
                try:
                    return _run(count, directory, processes, console, keep=keep)
                except Interrupted:
                    show.step(console, "stopping", "every process, which takes some seconds")
                    raise
    except CleanupError as error:
        show.failure(console, str(error))
        return 1
    except (KeyboardInterrupt, Interrupted):
        show.step(console, "stopped", "no process is left")
        return 130


def _run(count: int, directory: Path, processes: Processes, console: Console, *, keep: bool) -> int:
    broker = redis_server.start(redis_server.find_server(), processes, directory)
    show.step(console, "redis", f"a redis-server of its own, {broker}, nothing on disk")
    nodes = make(count, directory)
    show.step(console, "nodes", f"{count} in {directory}, as recorded on real ones")
    with console.status("starting the workers, control and Beat"):
        _start_fleet(nodes, broker, processes)
    show.step(console, "fleet", f"{count} worker{'s' if count > 1 else ''}, control and Beat answer")
    # Before the sweep: Flower knows only of what happens while it runs.
    watched = start_flower(broker, processes, console) if keep else None
    beside = _start_sidecars(nodes, broker, directory, processes, console) if keep else None

    before = {node.name: node.reservations() for node in nodes}
    show.verdicts(console, "Before", (document(scan(node.settings(broker))) for node in nodes))
    show.legend(console)
    _sweep(console, processes)
    after = {node.name: node.reservations() for node in nodes}
    show.verdicts(console, "After", (document(scan(node.settings(broker))) for node in nodes))

    checks = [(node, show.check(node, before[node.name], after[node.name])) for node in nodes]
    show.checks(console, "Against the recorded truth", checks)
    right = all(check.right for _, check in checks)
    if not right:
        show.failure(console, "a live reservation is missing, or a leaked one was left")
    elif not _restore(nodes[0], before[nodes[0].name], broker, processes, console):
        right = False
        show.failure(console, "the removed file did not come back as it was")
    else:
        show.step(console, "right", "leaked files gone, live ones there, and one came back, byte by byte")
    if keep:
        _wait(nodes, broker, directory, processes, console, watched, beside)
    else:
        show.step(console, "stopping", "every process; --keep would leave them running")
    return 0 if right else 1


def _start_fleet(nodes: Sequence[Node], broker: str, processes: Processes) -> None:
    """Start every process of the cluster and wait until each answers.

    Raises:
        CleanupError: one has ended, or does not answer in time.
    """
    app.use(Settings(broker=broker))
    fleet = {"CNI_CLEANUP_BROKER": broker, "CNI_CLEANUP_STATIC_NODES": ",".join(node.name for node in nodes)}
    for command in ("control", "beat"):
        processes.start(command, _command(command), environment(fleet), _PACKAGES)
    for node in nodes:
        write_environment(node, broker)
        own = environment(environment_of(node.settings(broker)))
        processes.start(f"worker-{node.name}", _command("worker"), own, _PACKAGES)

    host = os.uname().nodename
    waited_for = {f"control@{host}", f"celerybeat@{host}", *(f"node@{node.name}" for node in nodes)}

    def ready() -> bool:
        _check_running(processes)
        replies = app.control.ping(destination=sorted(waited_for), timeout=1.0, limit=len(waited_for))
        for reply in replies or ():
            waited_for.difference_update(reply)
        return not waited_for

    if not processes.wait_for(ready, within=_READY_WITHIN):
        raise CleanupError(f"no answer within {_READY_WITHIN:.0f} s from {', '.join(sorted(waited_for))}")


def start_flower(broker: str, processes: Processes, console: Console) -> Flower | None:
    """Start Flower, if it is installed.

    Raises:
        CleanupError: it does not answer.
    """
    if not flower.is_installed():
        show.step(console, "flower", "is not installed: pip install 'cni-cleanup[flower]' adds a page of all this")
        return None
    with console.status("starting Flower"):
        started = flower.start(processes, environment({"CNI_CLEANUP_BROKER": broker}), _PACKAGES)
    show.step(console, "flower", f"{started.url}, with a password that comes at the end")
    return started


def _start_sidecars(nodes: Sequence[Node], broker: str, directory: Path, processes: Processes, console: Console) -> Sidecars:
    with console.status("starting the sidecars"):
        started = sidecars.start(
            nodes,
            broker,
            processes,
            directory,
            command=_command("server"),
            environment=environment,
            packages=_PACKAGES,
        )
    show.step(console, "sidecars", f"metrics of each node, {', '.join(f'{url}/metrics' for url in started.urls)}")
    return started


def _sweep(console: Console, processes: Processes) -> None:
    """One sweep through Celery, with a bar that the ledger moves.

    Raises:
        CleanupError: it failed or was not done in time, a process has ended, or a node was not cleaned.
    """
    sweep_id = app.send_task(names.SWEEP).id
    console.print()
    show.step(console, "asked", f"{names.SWEEP}, id {sweep_id}")
    with open_ledger() as ledger:
        follow(ledger, sweep_id, console, timeout=_SWEPT_WITHIN, check=lambda: _check_running(processes))
        account = account_of(ledger, sweep_id)
    for node in account["nodes"]:
        if node["state"] != "cleaned":
            raise CleanupError(f"{node['node']} was not cleaned within {_SWEPT_WITHIN:.0f} s: {node['state']}, {node['why']}")


def _restore(node: Node, before: Mapping[str, bytes], broker: str, processes: Processes, console: Console) -> bool:
    """Put one removed file back, as an operator would; whether it came back byte by byte."""
    path = min(node.leaked)
    ip = path.rpartition("/")[2]
    console.print(f"\n[bold]Undo, on {node.name}[/]: cni-cleanup restore --ip {ip}", highlight=False)
    done = subprocess.run(
        [*_command("restore"), "--ip", ip],
        env=environment(environment_of(node.settings(broker))),
        cwd=_PACKAGES,
        capture_output=True,
        text=True,
        timeout=_COMMAND_WITHIN,
        check=False,
    )
    # A Ctrl-C ends that command as well.
    processes.check()
    said = _OPTIONS.sub("", _CONTAINER_ID.sub(r"\1...", done.stdout + done.stderr))
    console.print(said, markup=False, highlight=False, soft_wrap=True)
    return done.returncode == 0 and node.reservations().get(path) == before[path]


def _wait(
    nodes: Sequence[Node],
    broker: str,
    directory: Path,
    processes: Processes,
    console: Console,
    watched: Flower | None,
    beside: Sidecars | None,
) -> None:
    """Say what can be tried, and leave the cluster running until somebody ends it."""
    node = nodes[-1].name
    bin_directory = Path(sys.executable).parent
    celery = f"{bin_directory / 'celery'} -A tasks"
    page = () if watched is None else (f"Flower, workers and jobs in a browser: {watched.url_with_password}",)
    by_http = (
        ()
        if beside is None
        else (
            f"  {bin_directory / 'cni-cleanup'} job --urlserver {','.join(beside.urls)} --token-file {beside.token_file}",
            f"  {prometheus.write(beside.targets, directory)}    # end it before this",
        )
    )
    for line in (
        "",
        *page,
        "All of it is still running. In another terminal:",
        f"  export CNI_CLEANUP_BROKER={broker}",
        f"  {celery} call tasks.scan_node --args '[\"{node}\"]'",
        f"  {celery} result ID    # of what call has printed",
        f"  {celery} inspect ping",
        f"  {bin_directory / 'cni-cleanup'} job --autodiscover --spread 0s",
        f"  {bin_directory / 'cni-cleanup'} report    # --html FILE for a page of it",
        *by_http,
        f"  . {directory / node / 'env'}; PATH={bin_directory}:$PATH    # {node}'s settings, for the following",
        "  cni-cleanup restore              # all that the sweep removed on it comes back, and is held",
        "  cni-cleanup restore --release    # until this",
        "  cni-cleanup clean",
        "  cni-cleanup scan",
        f"Logs are in {directory}, and go when it ends. Ctrl-C stops everything, and so does: kill {os.getpid()}",
    ):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    try:
        processes.wait_for(lambda: False, within=math.inf, every=0.2)
    except Interrupted:
        show.step(console, "stopping", "all of it")


def _check_running(processes: Processes) -> None:
    processes.check()
    ended = processes.ended()
    if ended is not None:
        raise CleanupError(f"{ended.name} has ended; its log says:\n{ended.log_end()}")


def _command(name: str) -> list[str]:
    return [sys.executable, "-m", "cli", name]


def environment(own: Mapping[str, str]) -> dict[str, str]:
    """For a process of the demo: this one's environment without what tells of another cluster, and with `own`."""
    inherited = {name: value for name, value in os.environ.items() if name == _COLLECTOR or not name.startswith(_ELSEWHERE)}
    return {**inherited, **own}
