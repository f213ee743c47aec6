"""
Surroundings in which the commands of the documentation work as they stand on its pages.

Each scene is made once. What a page calls by a made-up name, an address or a path of a node, is replaced by what the scene has
in its place; nothing else of a command is changed. Commands run in a copy of what git tracks, as in a clean clone.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import redis

from cli.demo.nodes import Node, make
from cli.demo.processes import Process, Processes
from cli.demo.redis_server import free_port
from tasks import account
from tasks.ledger import Ledger
from tests.support.api_server import ApiServer, refusing_port, write_kubeconfig
from tests.support.fleet import client_of
from tests.support.http import get
from tests.support.pages import Command
from tests.support.polling import until
from tests.support.program import REPOSITORY, child_environment
from tests.support.skips import require, require_program
from workers import node, restoring
from workers.clock import SystemClock
from workers.configuration import environment_of
from workers.paths import Root
from workers.state import State

WITHIN = 90.0
"""Seconds for what takes a few on an idle machine."""

PASSWORD = "0123456789abcdef"  # noqa: S105  # a made-up one

_STATE = "/var/lib/cni-cleanup"
_TOKEN = "/etc/cni-cleanup/token"  # noqa: S105  # the path that the pages name
_BROKER = "redis://:PASSWORD@redis:6379/0"
_HOST = os.uname().nodename


@dataclass(frozen=True, kw_only=True)
class Done:
    """A command that has ended."""

    status: int
    out: str
    err: str
    #: All of it with the command and its place, for a person.
    told: str


@dataclass(frozen=True)
class Clone:
    """What git tracks, in a directory of its own; the environments of the real clone are there as well."""

    path: Path

    @classmethod
    def make(cls, path: Path, *, environments: bool = True) -> "Clone":
        """Copy it to the new directory `path`; skip where this is no checkout.

        Raises:
            OSError: it cannot be copied.
        """
        for name in _tracked():
            target = path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, target, follow_symlinks=False)
        if environments:
            (path / ".venv").symlink_to(sys.prefix)
            (path / ".venv-exporter").symlink_to(REPOSITORY / ".venv-exporter")
        return cls(path)

    def files(self) -> set[str]:
        """The paths of all files in it, but for the environments."""
        return {str(path.relative_to(self.path)) for path in self.path.rglob("*") if path.is_file()}


def _tracked() -> list[str]:
    done = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    require(done.returncode == 0, f"needs a checkout: {done.stderr.strip()}")
    # A file that is deleted and not yet committed is still listed.
    return [name for name in done.stdout.split("\0") if name and (REPOSITORY / name).is_file()]


@dataclass(kw_only=True)
class Scene:
    """Where commands run: a clone, variables, and what stands for the pages' words."""

    clone: Clone
    variables: Mapping[str, str] = field(default_factory=dict)
    #: Regular expressions, and what replaces them, in this order.
    words: Sequence[tuple[str, str]] = ()

    def fill(self, text: str) -> str:
        """The text with this scene's names in place of the page's."""
        for pattern, mine in self.words:
            text = re.sub(pattern, mine.replace("\\", r"\\"), text)
        return text

    def script(self, command: Command) -> str:
        """What a shell is given."""
        return "\n".join(self.fill(text) for text in (*command.before, command.text))

    def environment(self) -> dict[str, str]:
        """Its variables; what this Python's environment has installed is found first."""
        path = os.pathsep.join([os.path.join(sys.prefix, "bin"), os.environ["PATH"]])
        return child_environment({"PATH": path, "PYTHONDONTWRITEBYTECODE": "1", **self.variables})

    def run(self, command: Command) -> Done:
        """Run it to its end.

        Raises:
            AssertionError: its status is not the one that the page promises, or it shows a traceback; as `shell`.
            subprocess.TimeoutExpired: it does not end.
        """
        done = self.shell(command)
        assert done.status == command.status, done.told
        assert "Traceback" not in done.err, done.told
        return done

    def shell(self, command: Command) -> Done:
        """Give it to a shell, whatever becomes of it.

        Raises:
            AssertionError: it leaves a file in the clone that it does not name.
            subprocess.TimeoutExpired: it does not end.
        """
        script, before = self.script(command), self.clone.files()
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", script],
            cwd=self.clone.path,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=WITHIN,
            check=False,
        )
        told = f"{command.place}\n{script}\nexit status {done.returncode}\n{done.stdout}\n{done.stderr}"
        left = self.clone.files() - before
        assert not [name for name in left if Path(name).name not in script], f"{told}\nit leaves {left}"
        for name in left:
            (self.clone.path / name).unlink()
        return Done(status=done.returncode, out=done.stdout, err=done.stderr, told=told)


@contextlib.contextmanager
def no_cluster(clone: Clone, directory: Path) -> Iterator["Absent"]:
    """Where kubectl is, and the API server is not."""
    require_program("kubectl", "kubernetes-client")
    with refusing_port() as port:
        kubeconfig = write_kubeconfig(directory / "kubeconfig", f"http://127.0.0.1:{port}")
        words = [
            (r"\bOVERLAY\b|\bdeploy/kubernetes/overlays/ours\b", "deploy/kubernetes/overlays/default"),
            (r"\b(NODE|NAME|POD|NAMESPACE)\b|(?<= )\.\.\.(?= )", "some"),
        ]
        yield Absent(clone=clone, variables={"KUBECONFIG": str(kubeconfig), "HOME": str(directory)}, words=words)


class Absent(Scene):
    """kubectl reads its arguments, and fails when it asks the server: so the arguments are ones that it knows."""

    def run(self, command: Command) -> Done:
        """Run it until it says that the server is away; what needs no server is run as anywhere.

        Raises:
            AssertionError: it fails otherwise.
        """
        if re.search(r"--dry-run=client|\bkubectl kustomize\b", command.text) and "apply" not in command.text:
            return super().run(command)
        done = self.shell(command)
        assert "refused" in done.err, done.told
        assert not re.search(r"unknown (shorthand )?(flag|command)|invalid argument", done.err), done.told
        return done


class NodeScene(Scene):
    """A node by itself: a recorded one, on which a pass has removed leaks, one came back, and a new leak came since."""

    def __init__(self, clone: Clone, directory: Path, broker: str) -> None:
        super().__init__(clone=clone)
        self._directory, self._broker, self._number = directory, broker, 0

    def run(self, command: Command) -> Done:
        """Run it on a node of its own.

        Raises:
            AssertionError: as of every scene.
        """
        self._number += 1
        (one,) = make(1, self._directory / str(self._number))
        settings = replace(one.settings(self._broker), min_age=0.0, confirm_after=0.0)
        report = node.clean(settings)
        assert report.aborted is None
        back, removed, *_ = sorted(path.partition("/")[2] for path in one.leaked)
        state, root = State(settings.state_dir), Root(settings.root)
        list(restoring.restore(state, root, SystemClock(), restoring.removed_files(state, root, pass_id=None, ip=back)))
        _leak(one, back.rpartition(".")[0] + ".99")
        # What was done before by hand: a copy of the journal, and a file that holds back removals.
        copy = one.directory / "NODE.tar"
        subprocess.run(["tar", "-C", settings.state_dir, "-cf", copy, "journal"], check=True, timeout=WITHIN)
        if command.program == "rm":
            (one.directory / "state/hold").touch()
        self.variables = {"HOME": str(one.directory), **environment_of(settings)}
        paths = () if "cni-cleanup " in command.text else ((r"/var/lib/cni\b(?!-)", f"{settings.root}/var/lib/cni"),)
        self.words = [
            (r"\bnode-7\b", one.name),
            (r"\b10\.88\.0\.7\b", removed),
            (r"\b\d{8}T\d{9}-[0-9a-f]{8}\b|\bID\b", report.pass_id),
            # A pass that is in a hurry need not make the tests wait.
            (r"--confirm-after 10s\b", "--confirm-after 1s"),
            (r"(?<=-xf )NODE\.tar", str(copy)),
            (_STATE, settings.state_dir),
            *paths,
        ]
        return super().run(command)


def _leak(one: Node, ip: str) -> None:
    networks = one.directory / "root/var/lib/cni/networks"
    (network,) = {path.partition("/")[0] for path in one.leaked}
    (networks / network / ip).write_bytes(b"f" * 64 + b"\r\neth0")


@dataclass(kw_only=True)
class Started:
    """A process that runs until it is told to end."""

    process: Process
    command: str
    ready: Callable[[], bool]

    def wait(self) -> None:
        """Wait until it is ready.

        Raises:
            AssertionError: it ends.
            TimeoutError: it does not get ready.
        """

        def is_ready() -> bool:
            assert self.process.running(), f"{self.command}\n{self.process.log_end()}"
            return self.ready()

        until(is_ready, seconds=WITHIN, what=f"readiness of {self.command}")

    def stop(self) -> int:
        """Tell it to; its exit status, negative for a signal.

        Raises:
            TimeoutError: it does not end.
        """
        self.process.terminate()
        until(lambda: not self.process.running(), seconds=WITHIN, what=f"the end of {self.command}")
        ended = os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        assert ended is not None
        return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status


class FleetScene(Scene):
    """
    A Redis with a password, workers, control, Beat, and a sidecar, each started by its command.

    Control finds the nodes at an API server. `database` keeps one fleet from another on the same Redis.
    """

    def __init__(self, clone: Clone, directory: Path, processes: Processes, broker: str, api: ApiServer) -> None:
        super().__init__(clone=clone)
        self.directory, self.processes, self.broker = directory, processes, broker
        self.app = client_of(broker)
        self.ledger = Ledger(redis.Redis.from_url(broker))
        self.nodes = {one.name: one for one in make(2, directory)}
        self.token = directory / "token"
        self.token.write_text("some-token\n")
        self.password_file = directory / "redis-password"
        self.password_file.write_text(f"{PASSWORD}\n")
        self.port = free_port()
        kubeconfig = write_kubeconfig(directory / "kubeconfig", api.url)
        self._common = {"HOME": str(directory), "KUBECONFIG": str(kubeconfig)}
        self._last_id = ""
        first = self.nodes["node-1"]
        # Control and Beat say in this directory that they live, where there is one when they start.
        (first.directory / "state").mkdir()
        api.set_nodes(
            {"metadata": {"name": name, "labels": {"kubernetes.io/os": "linux", "pool": "batch"}}} for name in self.nodes
        )
        self.variables = {
            **self._common,
            **self.node_variables("node-1"),
            "CNI_CLEANUP_API": "external",
        }
        ip = min(path.partition("/")[2] for path in first.leaked)
        self.words = [
            (re.escape(_BROKER), broker),
            (r"redis://redis:6379/0", broker.replace(f":{PASSWORD}@", "")),
            (r"/etc/cni-cleanup/redis-password", str(self.password_file)),
            (_TOKEN, str(self.token)),
            (r"\b(127\.0\.0\.1|NODE-ADDRESS|POD-IP):9010\b", f"127.0.0.1:{self.port}"),
            (r"\bnode-7\b|\bNODE\b|\bNAME\b", "node-1"),
            (r"\bnode-8\b", "node-2"),
            (r"\bHOST\b", _HOST),
            (_STATE, f"{first.directory}/state"),
            (r"\b10\.88\.0\.7\b", ip),
            (r"\bworker\.log\b", str(directory / "worker-node-1.log")),
        ]

    def node_variables(self, name: str) -> dict[str, str]:
        """How a process looks at a node; passes do not wait here."""
        settings = replace(self.nodes[name].settings(self.broker), min_age=0.0, confirm_after=0.0)
        return dict(environment_of(settings)) | {"CNI_CLEANUP_LISTEN": f"127.0.0.1:{self.port}"}

    def start_all(self) -> None:
        """Start what a fleet consists of, wait until it is ready, and have node-1 cleaned.

        Raises:
            AssertionError: one of them ends.
            TimeoutError: one does not get ready.
        """
        fleet = {f"worker-{name}": (f"worker --node {name}", self.node_variables(name)) for name in self.nodes}
        fleet |= {"control": ("control", {}), "beat": ("beat", {}), "server": (f"server --token-file {self.token}", {})}
        started = [
            self.start(Command(page="a fleet", line=0, text=f"cni-cleanup {what}"), name, variables)
            for name, (what, variables) in fleet.items()
        ]
        for process in started:
            process.wait()
        signs = [one.directory / "state/ready" for one in self.nodes.values()]
        signs += [self.nodes["node-1"].directory / "state" / f"{name}.alive" for name in ("control", "beat")]
        for sign in signs:
            until(sign.exists, seconds=WITHIN, what=str(sign))
        self.app.send_task("tasks.clean_node", args=["node-1"]).get(timeout=WITHIN)

    def start(self, command: Command, name: str, variables: Mapping[str, str] | None = None) -> Started:
        """Start one that runs until it is told to end; its log is `name`.log."""
        script = self.script(replace(command, text=f"exec {command.text}"))
        environment = {**self.environment(), **(variables or {})}
        process = self.processes.start(name, ["bash", "-ec", script], environment, self.clone.path)
        return Started(process=process, command=command.text, ready=self._readiness(command, process, environment))

    def _readiness(self, command: Command, process: Process, environment: Mapping[str, str]) -> Callable[[], bool]:
        if "server" in command.text.split():
            return self._serves
        if " events" in command.text:
            return lambda: "starting capture" in process.log_end()
        names = {
            "worker": f"node@{environment['CNI_CLEANUP_NODE']}",
            "control": f"control@{_HOST}",
            "beat": f"celerybeat@{_HOST}",
        }
        (name,) = (names[word] for word in command.text.split() if word in names)
        return lambda: bool(self.app.control.ping(destination=[name], timeout=1.0, limit=1))

    def _serves(self) -> bool:
        with contextlib.suppress(OSError):
            return get(self.port, "/healthz")[0] == 200
        return False

    def run(self, command: Command) -> Done:
        """Run it when nothing runs that it could meet.

        Raises:
            AssertionError: as of every scene; or a task that it sent failed.
        """
        self._prepare(command.text)
        if re.search(r"\bID\b", command.text):
            done = super().run(replace(command, text=re.sub(r"\bID\b", self._id(), command.text)))
        else:
            done = super().run(command)
        if " call " in command.text:
            self._last_id = done.out.split()[-1]
            self.app.AsyncResult(self._last_id).get(timeout=WITHIN)
        if "curl -X POST" in command.text and "/cleanup" in command.text:
            assert json.loads(done.out)["status"] == "Done", done.out
        return done

    def _id(self) -> str:
        if not self._last_id:
            self._last_id = str(self.app.send_task("tasks.clean_node", args=["node-1"]).id)
        return self._last_id

    def _prepare(self, text: str) -> None:
        if "--stop" in text or "--resume" in text:
            self._begin_sweep()
        if "--resume" in text:
            sweep_id = self.ledger.current()
            assert sweep_id is not None
            self.ledger.stop(sweep_id, at=time.time())
        if "--stop" not in text:
            until(self._is_still, seconds=WITHIN, what="the end of the sweep")

    def _begin_sweep(self) -> None:
        """A sweep of which one node is done, and the other is asked in twenty minutes."""
        until(self._is_still, seconds=WITHIN, what="the end of the sweep")
        sent = self.app.send_task("tasks.sweep", kwargs={"spread": 1200.0})
        until(lambda: self.ledger.report(sent.id, "node-1"), seconds=WITHIN, what="node-1's report")

    def _is_still(self) -> bool:
        current = self.ledger.current()
        if current is None:
            return True
        found = self.ledger.snapshot(current)
        running = found is not None and account.state(found, now=time.time()) == "running"
        return not running and not self.ledger.is_leased(current)


def install_scene(clone: Clone, directory: Path) -> Scene:
    """An empty virtual environment, first on the PATH, in which pip installs the program itself; what it needs is not fetched."""
    environment = directory / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True, timeout=WITHIN)
    (site,) = [path for path in sys.path if path.endswith("site-packages")]
    program = environment / "bin/pip"
    python = environment / "bin/python"
    program.write_text(f'#!/bin/sh\nPYTHONPATH="{site}" exec "{python}" -m pip "$@"\n')
    program.chmod(0o755)
    variables = {
        "PATH": os.pathsep.join([str(environment / "bin"), os.environ["PATH"]]),
        "PIP_NO_DEPS": "1",
        "PIP_NO_BUILD_ISOLATION": "0",
        "PIP_IGNORE_INSTALLED": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_ROOT_USER_ACTION": "ignore",
    }
    return Scene(clone=clone, variables=variables)
