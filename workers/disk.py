"""Reading a node's CNI files: through directory descriptors, following no link, changing nothing."""

import errno
import os
import stat
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from cni import attachment as attachments
from cni.attachment import Attachment, parse_attachment, scratch_uses_host_local
from cni.errors import PassAborted
from cni.listing import Item, Kind, Listing, Network, Problem, Subject, pack_stamp
from cni.names import is_address, is_bookkeeping, is_container_id, is_network_name
from cni.netconf import NetworkConfig, parse_network_config
from cni.reservation import MAX_SIZE, NotAReservation, parse_reservation
from workers.paths import RESULTS, SCRATCH, Layout, Root

SUBNET_ENV = "/run/flannel/subnet.env"

# O_NONBLOCK: a FIFO under an IP's name must not hold the pass.
READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_LATEST_NS = 2**63 - 1

_SUBJECTS = {
    NotAReservation.EMPTY: Subject.EMPTY,
    NotAReservation.FOREIGN: Subject.FOREIGN,
    NotAReservation.UNPARSABLE: Subject.UNFIT,
}


@dataclass(kw_only=True)
class _Found:
    """What one listing collects."""

    items: list[Item] = field(default_factory=list)
    steady: list[bool] = field(default_factory=list)
    attachments: dict[str, list[Attachment]] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)

    def add(self, item: Item, *, steady: bool) -> None:
        self.items.append(item)
        self.steady.append(steady)

    def attach(self, container_id: str, attachment: Attachment) -> None:
        self.attachments.setdefault(container_id, []).append(attachment)


class Contents(NamedTuple):
    """One file as it was read."""

    stamp: bytes
    #: A regular file with one link, of the directory's owner and file system, not too large.
    fit: bool
    #: At most one byte more than the limit; empty where it is no regular file.
    data: bytes


def list_node(
    root: Root,
    layout: Layout,
    *,
    conf_dirs: tuple[str, ...],
    only: frozenset[str] | None = None,
    earlier: Listing | None = None,
) -> Listing:
    """One look at the disk: the reservations first, then what could be evidence about them.

    A reservation that `earlier` listed and whose stamp is the same is taken from there, without reading it again: its bytes are
    compared when it is removed.

    Raises:
        PassAborted: reservations may not be read.
    """
    found = _Found()
    known = _by_directory(earlier)
    networks = []
    for name, directory in (*layout.networks, *layout.left_out):
        network = Network(name=name, directory=directory)
        problem = _list_network(root, network, known.get(directory, {}), found)
        left_out = (only is not None and name not in only) or (name, directory) in layout.left_out
        networks.append(replace(network, problem="skipped" if left_out and problem in (None, "no-lock") else problem))
    for cni_dir in layout.cni_dirs:
        for place in RESULTS:
            _list_leftovers(root, f"{cni_dir}/{place}", "result", known, found)
        for plugin in SCRATCH:
            _list_leftovers(root, f"{cni_dir}/{plugin}", "scratch", known, found)
    there = {network.name for network in networks}
    found.findings += (f"there is no network {name} here, which --networks names" for name in sorted((only or set()) - there))
    configs = configurations(root, conf_dirs, found.findings)
    return Listing(
        networks=[
            replace(one, config=configs.get(one.name) or _cached_configuration(one.name, found.attachments)) for one in networks
        ],
        items=found.items,
        attachments=found.attachments,
        findings=found.findings,
        steady=None if earlier is None else found.steady,
    )


def read_file(directory_fd: int, name: str, limit: int, directory: os.stat_result) -> Contents:
    """Read one file whole, and say whether it is fit to be judged.

    `directory` is the status of the directory itself: a file of another owner, or of a file system mounted over the name, is not
    the plugin's own.

    Raises:
        OSError: it cannot be opened: gone, a link, not permitted.
    """
    fd = os.open(name, READ, dir_fd=directory_fd)
    try:
        status = os.fstat(fd)
        regular = stat.S_ISREG(status.st_mode)
        data = os.read(fd, limit + 1) if regular else b""
    finally:
        os.close(fd)
    own = status.st_uid == directory.st_uid and status.st_dev == directory.st_dev
    fit = regular and own and status.st_nlink == 1 and len(data) <= limit
    return Contents(stamp_of(status), fit, data)


def stamp_of(status: os.stat_result) -> bytes:
    """The packed stamp of a stat result."""
    try:
        return _stamp(status, status.st_mtime_ns, status.st_ctime_ns)
    except struct.error:
        # A file system may keep a time beyond the year 2262; it is of the future either way.
        return _stamp(status, min(status.st_mtime_ns, _LATEST_NS), min(status.st_ctime_ns, _LATEST_NS))


def _stamp(status: os.stat_result, mtime_ns: int, ctime_ns: int) -> bytes:
    return pack_stamp(
        status.st_dev, status.st_ino, status.st_size, mtime_ns, ctime_ns, status.st_mode, status.st_uid, status.st_gid
    )


def _by_directory(earlier: Listing | None) -> dict[str, dict[str, Item]]:
    known: dict[str, dict[str, Item]] = {}
    for item in earlier.items if earlier else ():
        known.setdefault(item.directory, {})[item.name] = item
    return known


def _list_network(root: Root, network: Network, known: Mapping[str, Item], found: _Found) -> Problem | None:
    """List one directory of reservations; what stands against removing anything there, if something does."""
    directory = network.directory
    if not is_network_name(network.name):
        found.findings.append(f"{directory} is no network: libcni allows no such name")
        return "refused"
    try:
        fd = root.open_network(directory)
    except OSError as error:
        if root.is_link(directory):
            found.findings.append(f"{directory} is a link: name what it leads to with --cnifiles")
            return "refused"
        found.findings.append(f"{directory} cannot be opened: {error.strerror}")
        return "unreadable"
    try:
        status = os.fstat(fd)
        has_lock = False
        with os.scandir(fd) as entries:
            for entry in entries:
                if is_bookkeeping(entry.name):
                    has_lock = has_lock or entry.name == "lock"
                else:
                    _list_reservation(fd, status, network, entry, known.get(entry.name), found)
    except OSError as error:
        found.findings.append(f"{directory} cannot be listed: {error.strerror}")
        return "unreadable"
    finally:
        os.close(fd)
    if not has_lock:
        found.findings.append(f"{directory} has no lock: nothing has allocated there, and nothing is removed")
        return "no-lock"
    return None


def _list_reservation(
    fd: int, directory: os.stat_result, network: Network, entry: os.DirEntry[str], known: Item | None, found: _Found
) -> None:
    name = entry.name
    if known is not None:
        stamp = _stamp_of_name(fd, name)
        if stamp is None:
            return
        if stamp == known.stamp:
            found.add(known, steady=True)
            return
    if not is_address(name) or not entry.is_file(follow_symlinks=False):
        subject = Subject.UNFIT if is_address(name) else Subject.FOREIGN
        found.add(_item("reservation", network, name, subject, _stamp_of_name(fd, name)), steady=False)
        return
    try:
        contents = read_file(fd, name, MAX_SIZE, directory)
    except FileNotFoundError:
        return
    except PermissionError as error:
        raise PassAborted("permission", f"{network.directory}/{name} may not be read: run as root") from error
    except OSError:
        found.add(_item("reservation", network, name, Subject.UNFIT, _stamp_of_name(fd, name)), steady=False)
        return
    found.add(_reservation(network, name, contents), steady=False)


def _reservation(network: Network, name: str, contents: Contents) -> Item:
    parsed = parse_reservation(contents.data)
    if isinstance(parsed, NotAReservation):
        subject = _SUBJECTS[parsed] if contents.fit else Subject.UNFIT
        return _item("reservation", network, name, subject, contents.stamp, contents.data)
    return Item(
        "reservation",
        network.directory,
        name,
        network.name,
        Subject.SANDBOX if contents.fit else Subject.UNFIT,
        parsed.container_id,
        sys.intern(parsed.ifname) if parsed.ifname else None,
        contents.stamp,
        None if parsed.fills(contents.data) else contents.data,
    )


def _item(kind: Kind, network: Network, name: str, subject: Subject, stamp: bytes | None, data: bytes | None = None) -> Item:
    return Item(kind, network.directory, name, network.name, subject, None, None, stamp, data)


def _stamp_of_name(fd: int, name: str) -> bytes | None:
    try:
        return stamp_of(os.stat(name, dir_fd=fd, follow_symlinks=False))
    except OSError:
        return None


def _list_leftovers(root: Root, directory: str, kind: Kind, known: Mapping[str, Mapping[str, Item]], found: _Found) -> None:
    """List a directory of results or scratch files. One that is not there is no evidence; one that is elsewhere may be.

    Raises:
        PassAborted: a link leads to it that leads nowhere here, or it cannot be read.
    """
    try:
        fd = root.open_directory(directory)
    except (FileNotFoundError, NotADirectoryError):
        link = root.dangling(directory)
        if link is not None:
            raise PassAborted("internal", f"{link} is a link to what is not here: mount that too, at the same path") from None
        return
    except OSError as error:
        raise _unreadable(directory, error) from error
    earlier = known.get(directory, {})
    try:
        status = os.fstat(fd)
        with os.scandir(fd) as entries:
            names = sorted(entry.name for entry in entries if not entry.is_dir(follow_symlinks=False))
        for name in names:
            item = (
                _read_result(fd, status, directory, name, found)
                if kind == "result"
                else _read_scratch(fd, status, directory, name)
            )
            if item is not None:
                found.add(item, steady=item == earlier.get(name))
    except OSError as error:
        raise _unreadable(directory, error) from error
    finally:
        os.close(fd)


def _unreadable(path: str, error: OSError) -> PassAborted:
    """A results file that cannot be read could be the one that names a living namespace."""
    if isinstance(error, PermissionError):
        return PassAborted("permission", f"{path} may not be read: run as root")
    return PassAborted("internal", f"{path} cannot be read: {error.strerror or error}")


def _read_leftover(fd: int, status: os.stat_result, name: str) -> Contents | None:
    """The file, or what can be told of one that is no regular file; None where it is gone."""
    try:
        contents = read_file(fd, name, attachments.MAX_SIZE, status)
    except FileNotFoundError:
        return None
    except OSError as error:
        stamp = _stamp_of_name(fd, name)
        # A link and a socket cannot be opened; anything else that fails may hide evidence.
        if stamp is None or error.errno not in (errno.ELOOP, errno.ENXIO):
            raise
        return Contents(stamp, False, b"")
    return contents if len(contents.data) <= attachments.MAX_SIZE else contents._replace(data=b"")


def _read_result(fd: int, status: os.stat_result, directory: str, name: str, found: _Found) -> Item | None:
    contents = _read_leftover(fd, status, name)
    if contents is None:
        return None
    attachment = parse_attachment(name, contents.data)
    if attachment is None:
        return Item("result", directory, name, None, Subject.FOREIGN, None, None, contents.stamp, None)
    found.attach(attachment.container_id, attachment)
    named = parse_attachment(name, b"")
    if named is not None and named.container_id != attachment.container_id:
        # Whichever of the two ids is meant, the file must not be missing as evidence of it.
        found.attach(named.container_id, replace(attachment, container_id=named.container_id))
    return Item(
        kind="result",
        directory=directory,
        name=name,
        network=attachment.network,
        subject=_subject_of_result(attachment, name) if contents.fit else Subject.UNFIT,
        container_id=attachment.container_id,
        ifname=attachment.ifname,
        stamp=contents.stamp,
        data=contents.data,
    )


def _subject_of_result(attachment: Attachment, name: str) -> Subject:
    if not attachment.readable or attachments.file_name(attachment) != name:
        return Subject.UNFIT
    ours = attachment.by_cri and (attachment.uses_host_local or attachment.network == attachments.LOOPBACK)
    return Subject.SANDBOX if ours else Subject.FOREIGN


def _read_scratch(fd: int, status: os.stat_result, directory: str, name: str) -> Item | None:
    contents = _read_leftover(fd, status, name)
    if contents is None:
        return None
    if not is_container_id(name):
        return Item("scratch", directory, name, None, Subject.FOREIGN, None, None, contents.stamp, None)
    ours = scratch_uses_host_local(contents.data)
    subject = Subject.UNFIT if ours is None or not contents.fit else Subject.SANDBOX if ours else Subject.FOREIGN
    return Item("scratch", directory, name, None, subject, name, None, contents.stamp, contents.data)


def configurations(root: Root, conf_dirs: tuple[str, ...], findings: list[str]) -> dict[str, NetworkConfig]:
    """The networks that conf-dir configures, by name; of several files with one name the first, as the runtimes take it."""
    configs: dict[str, NetworkConfig] = {}
    subnet_env = _read_small(root, SUBNET_ENV)
    for directory in conf_dirs:
        try:
            inside = os.listdir(root.real(directory))
            names = sorted(name for name in inside if name.endswith((".conf", ".conflist", ".json")))
        except FileNotFoundError:
            continue
        except OSError as error:
            findings.append(f"{directory} cannot be listed, so capacities are not known: {error.strerror}")
            continue
        for name in names:
            data = _read_small(root, f"{directory}/{name}")
            config = parse_network_config(data, subnet_env) if data is not None else None
            if config is None:
                findings.append(f"{directory}/{name} is no CNI configuration that can be read")
            else:
                configs.setdefault(config.name, config)
    return configs


def _read_small(root: Root, path: str) -> bytes | None:
    try:
        fd = os.open(root.real(path), READ)
    except OSError:
        return None
    try:
        return os.read(fd, attachments.MAX_SIZE) if stat.S_ISREG(os.fstat(fd).st_mode) else None
    finally:
        os.close(fd)


def _cached_configuration(network: str, found: Mapping[str, list[Attachment]]) -> NetworkConfig | None:
    """The configuration of a network that conf-dir no longer has: as libcni remembers it."""
    every = (one for many in found.values() for one in many)
    return next((one.config for one in every if one.network == network and one.config is not None), None)
