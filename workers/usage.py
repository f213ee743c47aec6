"""How full each network is: counted by names alone, so that it can be asked every few seconds."""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from cni import attachment as attachments
from cni.names import is_address, is_network_name
from cni.netconf import NetworkConfig
from cni.settings import Settings
from workers.disk import configurations, read_file
from workers.paths import RESULTS, Root, layout

SETTLED_NS = 2_000_000_000
"""A directory that changed less than this before it was counted may have changed again within the same tick of its clock."""


@dataclass(frozen=True, kw_only=True)
class Usage:
    """One network, in addresses."""

    network: str
    reserved: int
    #: None where its configuration is not known.
    capacity: int | None
    #: Whether it could be counted. Passes take one that could not for empty, and remove nothing there.
    known: bool = field(default=True, compare=False)

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
        #: By network, of those that conf-dir does not have.
        self._remembered: dict[str, NetworkConfig] = {}

    def count(self) -> list[Usage]:
        """Every network that passes judge. One that cannot be read, or has no network's name, has nothing in it.

        Raises:
            PassAborted: there is no CNI directory, or it may not be read.
        """
        chosen = self._settings.networks
        node = layout(self._root, self._settings.cnifiles)
        configs = configurations(self._root, self._settings.conf_dirs, [])
        found = []
        for name, directory in node.networks:
            if chosen is None or name in chosen:
                reserved = self._reserved(directory) if is_network_name(name) else 0
                config = configs.get(name) or (self._as_cached(name, node.cni_dirs) if reserved else None)
                capacity = config.capacity() if config else None
                found.append(Usage(network=name, reserved=reserved or 0, capacity=capacity, known=reserved is not None))
        return found

    def _as_cached(self, network: str, cni_dirs: Sequence[str]) -> NetworkConfig | None:
        """The configuration that libcni keeps with each attachment: what Multus attaches is configured in the API.

        A network that was renamed, too, is found, and its leaks go early. The first one will do: this only decides whether a pass
        is made, which judges by itself.
        """
        if network not in self._remembered:
            places = (f"{directory}/{place}" for directory in cni_dirs for place in RESULTS)
            config = next((one for place in places for one in self._cached_in(place, network)), None)
            if config is None:
                return None
            self._remembered[network] = config
        return self._remembered[network]

    def _cached_in(self, directory: str, network: str) -> Iterator[NetworkConfig]:
        try:
            fd = self._root.open_directory(directory)
        except OSError:
            return
        try:
            status = os.fstat(fd)
            for name in os.listdir(fd):
                kept = _attachment(fd, name, status) if name.startswith(f"{network}-") else None
                if kept is not None and kept.network == network and kept.config is not None:
                    yield kept.config
        finally:
            os.close(fd)

    def _reserved(self, directory: str) -> int | None:
        """How many there are; None where that cannot be told, as of a link."""
        try:
            fd = self._root.open_network(directory)
        except OSError:
            return None
        try:
            changed = os.fstat(fd).st_mtime_ns
            known = self._known.get(directory)
            if known is not None and known[0] == changed:
                return known[1]
            now = time.time_ns()
            # One by one: a list of 65,000 names would be 5 MiB, for a process that shall be small.
            with os.scandir(fd) as entries:
                count = sum(1 for entry in entries if is_address(entry.name))
            if now - changed > SETTLED_NS:
                self._known[directory] = changed, count
            return count
        except OSError:
            return None
        finally:
            os.close(fd)


def _attachment(fd: int, name: str, directory: os.stat_result) -> attachments.Attachment | None:
    """What a results file says; None where it says nothing, or is gone, or no file."""
    try:
        return attachments.parse_attachment(name, read_file(fd, name, attachments.MAX_SIZE, directory).data)
    except OSError:
        return None
