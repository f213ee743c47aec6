"""How full each network is: counted by names alone, so that it can be asked every few seconds."""

import os
import time
from dataclasses import dataclass

from cni.names import is_address
from cni.settings import Settings
from workers.disk import configurations
from workers.paths import Root, layout

_SETTLED_NS = 2_000_000_000
"""A directory that changed less than this before it was counted may have changed again within the same tick of its clock."""


@dataclass(frozen=True, kw_only=True)
class Usage:
    """One network, in addresses."""

    network: str
    reserved: int
    #: None where its configuration is not known.
    capacity: int | None

    def is_over(self, percent: int) -> bool:
        """Whether so much of the capacity is reserved; never for 0."""
        return bool(percent and self.capacity) and self.reserved * 100 >= (self.capacity or 0) * percent


class Counter:
    """Counts the reservations of a node's networks; a directory that has not changed since is not read again."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._root = Root(settings.root)
        #: By directory: its time of change, and how many reservations it had.
        self._known: dict[str, tuple[int, int]] = {}

    def count(self) -> list[Usage]:
        """Every network that passes judge.

        Raises:
            PassAborted: there is no CNI directory, or it may not be read.
        """
        chosen = self._settings.networks
        networks = layout(self._root, self._settings.cnifiles).networks
        configs = configurations(self._root, self._settings.conf_dirs, [])
        found = []
        for name, directory in networks:
            if chosen is None or name in chosen:
                config = configs.get(name)
                capacity = config.capacity() if config else None
                found.append(Usage(network=name, reserved=self._reserved(directory), capacity=capacity))
        return found

    def _reserved(self, directory: str) -> int:
        try:
            fd = self._root.open_network(directory)
        except OSError:
            return 0
        try:
            changed = os.fstat(fd).st_mtime_ns
            known = self._known.get(directory)
            if known is not None and known[0] == changed:
                return known[1]
            now = time.time_ns()
            count = sum(1 for name in os.listdir(fd) if is_address(name))
            if now - changed > _SETTLED_NS:
                self._known[directory] = changed, count
            return count
        finally:
            os.close(fd)
