"""
A real container runtime with real plugins on this machine: a wrapper of the `node-lab` script.

The lab uses the machine's own /var/lib/cni, /run/netns and a bridge, so there is one per machine: `exclusive` keeps a second test
run out. It runs as root only, and not beside another runtime.
"""

import contextlib
import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

CNI = Path("/var/lib/cni")
NETWORK = "labnet"
NETNS = Path("/run/netns")

_BESIDE_CHECKOUT = Path("shared", "tools", "node-lab", "node-lab")
_PROGRAMS = ("containerd", "ctr", "runc", "busybox", "ip", "iptables")
_PLUGINS = (Path("/usr/lib/cni/bridge"), Path("/usr/lib/cni/host-local"), Path("/usr/lib/cni/loopback"))


class LabError(Exception):
    """The script failed; the message holds what it printed."""


@dataclass(frozen=True)
class LabSandbox:
    """A sandbox as the lab's runtime lists it."""

    id: str
    ready: bool
    namespace: str
    name: str
    uid: str


def find_script() -> Path | None:
    """Return the script: $NODE_LAB, else shared/tools/node-lab beside the checkout, else None."""
    named = os.environ.get("NODE_LAB")
    script = Path(named) if named else Path(__file__).parents[3] / _BESIDE_CHECKOUT
    return script if os.access(script, os.X_OK) else None


class NodeLab:
    """The lab below `directory`; every method runs the script once and raises LabError when it fails."""

    def __init__(self, script: Path, directory: Path) -> None:
        self.script = script
        self.directory = directory

    @property
    def socket(self) -> Path:
        """The runtime's CRI socket."""
        return self.directory / "containerd.sock"

    @property
    def network(self) -> Path:
        """The directory of the lab's reservations."""
        return CNI / "networks" / NETWORK

    def up(self) -> None:
        """Start the runtime, again after a crash; does nothing when it runs."""
        self._run("up", timeout=300.0)

    def run(self, name: str) -> str:
        """Make a sandbox for a pod of this name; return its id."""
        return self._run("run", name).strip()

    def sandboxes(self) -> list[LabSandbox]:
        """Return the sandboxes, in any state."""
        found = []
        for line in self._run("list").splitlines():
            sandbox_id, state, pod, uid = line.split()
            namespace, _, name = pod.partition("/")
            found.append(LabSandbox(sandbox_id, state == "SANDBOX_READY", namespace, name, uid))
        return found

    def stop(self, sandbox_id: str) -> None:
        """Stop a sandbox, which frees its address."""
        self._run("stop", sandbox_id)

    def rm(self, sandbox_id: str) -> None:
        """Remove a stopped sandbox."""
        self._run("rm", sandbox_id)

    def crash(self) -> None:
        """Cut the power: runtime, processes, namespaces and state go, the disk stays. `up` brings it back."""
        self._run("crash")

    def lose(self) -> None:
        """Crash, and lose the runtime's disk as well: every reservation is leaked."""
        self._run("lose")

    def down(self) -> None:
        """Stop everything that the lab started."""
        self._run("down")

    def addresses(self, sandbox_id: str) -> set[str]:
        """Return the addresses whose reservations on disk hold this id."""
        files = self.network.glob("[0-9]*")
        return {path.name for path in files if path.read_text().startswith(sandbox_id)}

    def reset(self) -> None:
        """Bring the lab up with no sandbox, no reservation and no results file of its network."""
        self.up()
        for sandbox in self.sandboxes():
            self.stop(sandbox.id)
            self.rm(sandbox.id)
        self.forget()

    def forget(self) -> None:
        """Remove the files that leaked sandboxes of the lab's network left behind."""
        results = CNI / "results"
        for path in results.glob(f"{NETWORK}-*-eth0"):
            sandbox_id = path.name.removeprefix(f"{NETWORK}-").removesuffix("-eth0")
            (results / f"cni-loopback-{sandbox_id}-lo").unlink(missing_ok=True)
            path.unlink()
        shutil.rmtree(self.network, ignore_errors=True)

    def alive(self) -> bool:
        """Tell whether the runtime runs, without starting it."""
        with contextlib.suppress(OSError, ValueError):
            pid = int((self.directory / "containerd.pid").read_text())
            return Path(f"/proc/{pid}/comm").read_text().strip() == "containerd"
        return False

    def _run(self, *arguments: str, timeout: float = 120.0) -> str:
        command = [os.fspath(self.script), *arguments, os.fspath(self.directory)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False)
        if done.returncode:
            raise LabError(f"node-lab {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout


def default_lab() -> NodeLab | None:
    """Return the lab in the script's own default directory, or None when there is no script."""
    script = find_script()
    return NodeLab(script, Path(tempfile.gettempdir(), "node-lab")) if script else None


def why_not() -> str | None:
    """Return why the lab cannot run here, or None if it can."""
    lab = default_lab()
    if lab is None:
        return f"no node-lab: set NODE_LAB, or have {_BESIDE_CHECKOUT} beside the checkout"
    if os.geteuid() != 0:
        return "node-lab needs root"
    missing = [name for name in _PROGRAMS if shutil.which(name) is None]
    missing += [os.fspath(path) for path in _PLUGINS if not path.exists()]
    if missing:
        return f"node-lab needs {', '.join(missing)}"
    if not lab.alive() and NETNS.is_dir() and any(NETNS.glob("cni-*")):
        return f"another runtime has namespaces in {NETNS}, and a crash in the lab would take them away"
    return None


class _HasDirectory(Protocol):
    """A lab of which a machine has one."""

    directory: Path


@contextlib.contextmanager
def exclusive(lab: _HasDirectory, *, patience: float = 600.0) -> Iterator[None]:
    """Hold the machine's lab for the block.

    Raises:
        LabError: another has held it for `patience` seconds.
    """
    with lab.directory.with_suffix(".lock").open("w") as file:
        deadline = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise LabError(f"another test run has held the lab for {patience:.0f} s") from None
                time.sleep(0.2)
        yield
