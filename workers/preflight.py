"""Whether a pass could work here: can this process read, lock and ask?"""

import os
from collections.abc import Iterator
from dataclasses import dataclass

from cni.errors import CleanupError
from cni.report import Report
from cni.settings import Settings
from workers import node
from workers.locking import LockProblem, network_locks
from workers.paths import Root
from workers.state import State


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that a pass needs."""

    name: str
    good: bool
    detail: str


def preflight(settings: Settings) -> Iterator[Check]:
    """Every check, none of which changes anything but the state directory, which is made if it is not there.

    Raises:
        UsageError: the settings contradict each other or name what is not there.
    """
    yield _state(settings)
    report = node.scan(settings)
    yield _read(report)
    for network in report.networks:
        if network.problem != "skipped":
            yield _lock(settings, network.name, network.directory)
    yield from _ask(report)


def _state(settings: Settings) -> Check:
    state = State(settings.state_dir)
    try:
        state.write("preflight", ["can be written\n"])
        os.unlink(state.path("preflight"))
        state.held()
    except (CleanupError, OSError) as error:
        return Check(name="state", good=False, detail=str(error))
    return Check(name="state", good=True, detail=f"{state.directory} can be written")


def _read(report: Report) -> Check:
    if report.aborted is not None and report.aborted.reason != "canary":
        return Check(name="read", good=False, detail=report.aborted.detail)
    unread = [network.directory for network in report.networks if network.problem == "unreadable"]
    if unread:
        return Check(name="read", good=False, detail=f"{unread[0]} cannot be read: run as root")
    return Check(name="read", good=True, detail=f"{len(report.networks)} networks, {len(report.items)} files")


def _lock(settings: Settings, name: str, directory: str) -> Check:
    root = Root(settings.root)
    what = f"lock {name}"
    try:
        fd = root.open_network(directory)
    except OSError as error:
        return Check(name=what, good=False, detail=f"{directory} cannot be opened: {error.strerror}")
    try:
        if not os.access(f"/proc/self/fd/{fd}", os.W_OK):
            return Check(name=what, good=False, detail=f"{directory} may not be written: mount it read-write and run as root")
        with network_locks([(fd, root.real(directory), directory)]):
            return Check(name=what, good=True, detail=f"{directory}/lock can be taken")
    except LockProblem as problem:
        # Where nothing has allocated there is nothing to clean; a lock that others keep is one that is there.
        return Check(name=what, good=problem.problem in ("no-lock", "lock-busy"), detail=str(problem))
    finally:
        os.close(fd)


def _ask(report: Report) -> Iterator[Check]:
    for name, state in report.witnesses.items():
        yield Check(name=f"ask {name}", good=not state.startswith("unknown"), detail=state)
    if report.aborted is not None and report.aborted.reason == "canary":
        yield Check(name="canary", good=False, detail=report.aborted.detail)
