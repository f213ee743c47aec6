"""What /proc says of a process, its descendants and where they listen."""

import ipaddress
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

_LISTENING = "0A"
"""TCP_LISTEN, as /proc/net/tcp writes a state."""


class Identity(NamedTuple):
    """A process; an id alone may be another process's later."""

    pid: int
    started: int


def alive(process: Identity) -> bool:
    """Whether this very process is still there, and not a zombie."""
    found = _stat(process.pid)
    return found is not None and found.started == process.started and found.state != "Z"


def descendants(pid: int) -> set[Identity]:
    """A process and all below it, as far as they are there."""
    stats = [found for entry in os.listdir("/proc") if entry.isdigit() and (found := _stat(int(entry)))]
    below, size = {pid}, 0
    while len(below) != size:
        size = len(below)
        below |= {stat.pid for stat in stats if stat.parent in below}
    return {Identity(stat.pid, stat.started) for stat in stats if stat.pid in below}


def listening(processes: Iterable[Identity]) -> set[str]:
    """The addresses on which any of these processes accepts TCP connections."""
    inodes = {inode for process in processes for inode in _sockets(process.pid)}
    return {address for name in ("tcp", "tcp6") for inode, address in _listeners(name) if inode in inodes}


class _Stat(NamedTuple):
    pid: int
    state: str
    parent: int
    started: int


def _stat(pid: int) -> _Stat | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name, in parentheses, may hold anything.
    state, parent, *rest = text.rpartition(")")[2].split()
    return _Stat(pid, state, int(parent), int(rest[17]))


def _sockets(pid: int) -> set[str]:
    found = set()
    try:
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            match = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(fd))
            if match:
                found.add(match[1])
    except (FileNotFoundError, ProcessLookupError):
        # It has ended in between.
        return set()
    return found


def _listeners(name: str) -> list[tuple[str, str]]:
    lines = [line.split() for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return [(line[9], _address(line[1].partition(":")[0])) for line in lines if line[3] == _LISTENING]


def _address(hexadecimal: str) -> str:
    """The kernel writes an address as 32-bit words in the machine's byte order."""
    words = re.findall("........", hexadecimal)
    data = b"".join(int(word, 16).to_bytes(4, "little") for word in words)
    return str(ipaddress.ip_address(data))
