"""The plugin's own lock: flock on `<network>/lock`, as host-local takes it for every ADD and DEL."""

import contextlib
import fcntl
import os
import signal
import stat
import threading
import time
from collections.abc import Iterator, Sequence

from cni.listing import Problem

BUDGET = 5.0
"""Seconds after which a lock that others keep is given up: the plugin holds it for milliseconds."""

_POLL = 0.0005


class LockProblem(Exception):
    """A network cannot be locked; `problem` is of the report's closed set, the message begins with the directory."""

    def __init__(self, directory: str, problem: Problem, detail: str) -> None:
        super().__init__(f"{directory}{detail}")
        self.directory = directory
        self.problem: Problem = problem


Network = tuple[int, str, str]
"""A descriptor of a network's directory, our path of it, and the node's, for messages."""


@contextlib.contextmanager
def network_locks(networks: Sequence[Network]) -> Iterator[None]:
    """Hold the locks of networks, all or none: while one is waited for, no other is held. They are opened, never created.

    A Ctrl-Z waits until they are released: the plugin, which knows no time-out, would wait for a stopped process for ever.

    Source: containernetworking/plugins backend/disk/lock.go:30-45, filemutex_flock.go:21-31; lockf(3) does not exclude it.

    Raises:
        LockProblem: there is no lock, it is kept by others, it fails, or it or the directory was replaced meanwhile.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_not_stopped())
        locks = []
        for network in networks:
            fd = _open(network)
            stack.callback(os.close, fd)
            locks.append((fd, network))
        _acquire(locks)
        for fd, network in locks:
            _refuse_replaced(fd, network)
        yield


@contextlib.contextmanager
def _not_stopped() -> Iterator[None]:
    """Put off a Ctrl-Z. A handler, not a mask: any thread would take the signal. SIGSTOP cannot be put off."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked: list[int] = []
    before = signal.signal(signal.SIGTSTP, lambda number, _frame: asked.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTSTP, before or signal.SIG_DFL)
        if asked:
            os.kill(os.getpid(), signal.SIGTSTP)


def _open(network: Network) -> int:
    directory_fd, _, directory = network
    try:
        return os.open("lock", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory_fd)
    except FileNotFoundError as error:
        raise LockProblem(directory, "no-lock", " has no lock: nothing has allocated there") from error
    except OSError as error:
        raise LockProblem(directory, "lock-error", f"/lock cannot be opened: {error.strerror}") from error


def _acquire(locks: Sequence[tuple[int, Network]]) -> None:
    deadline = time.monotonic() + BUDGET
    while True:
        busy = next((network for fd, network in locks if not _try(fd, network)), None)
        if busy is None:
            return
        for fd, _ in locks:
            fcntl.flock(fd, fcntl.LOCK_UN)
        if time.monotonic() > deadline:
            raise LockProblem(busy[2], "lock-busy", f"/lock was kept by others for {BUDGET:g} s")
        time.sleep(_POLL)


def _try(fd: int, network: Network) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise LockProblem(network[2], "lock-error", f"/lock cannot be locked: {error.strerror}") from error
    return True


def _refuse_replaced(fd: int, network: Network) -> None:
    """A lock, or a directory, that was replaced while we waited excludes nobody."""
    directory_fd, real_path, directory = network
    try:
        lock, named = os.fstat(fd), os.stat("lock", dir_fd=directory_fd, follow_symlinks=False)
        opened, reached = os.fstat(directory_fd), os.stat(real_path, follow_symlinks=False)
    except OSError as error:
        raise LockProblem(directory, "lock-error", f"/lock is gone again: {error.strerror}") from error
    if not stat.S_ISREG(lock.st_mode) or not os.path.samestat(lock, named) or not os.path.samestat(opened, reached):
        raise LockProblem(directory, "lock-error", "/lock was replaced while it was taken")
