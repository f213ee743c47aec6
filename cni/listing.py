"""What one look at a node's disk found: the files, the networks, and what the results files say."""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal, NamedTuple

from cni.attachment import Attachment
from cni.names import is_address, is_network_name
from cni.netconf import NetworkConfig
from cni.reservation import render_reservation

Kind = Literal["reservation", "result", "scratch"]
Problem = Literal["no-lock", "lock-busy", "lock-error", "unreadable", "read-only", "refused", "skipped"]

_STAMP = struct.Struct("=QQqqqIII")
_TIMES = struct.Struct("=qq")
_STAMP_TIMES_AT = struct.calcsize("=QQq")

# device, inode, size, mtime_ns, ctime_ns, mode, uid, gid in 52 bytes: a node may have 65,000 files, and eight integers for each
# would be half the memory of a pass.
pack_stamp = _STAMP.pack


class Subject(Enum):
    """What a file is, as far as its name, inode and content tell."""

    #: It carries the id of a pod sandbox.
    SANDBOX = "sandbox"
    #: An address without an id (rule 10).
    EMPTY = "empty"
    #: An address, or an id, with an unfit inode or content.
    UNFIT = "unfit"
    #: No address, another engine's, or not host-local's.
    FOREIGN = "foreign"


class Stamp(NamedTuple):
    """What identifies one state of one file; times in nanoseconds. The inode alone is worthless: ext4 reuses it at once."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    mode: int
    uid: int
    gid: int

    @classmethod
    def unpack(cls, packed: bytes) -> "Stamp":
        """The stamp that `pack_stamp` was given."""
        return cls._make(_STAMP.unpack(packed))

    @staticmethod
    def changed_ns(packed: bytes) -> int:
        """When the file last changed: the later of mtime and ctime."""
        times: tuple[int, int] = _TIMES.unpack_from(packed, _STAMP_TIMES_AT)
        return max(times)


class Item(NamedTuple):
    """One file or other directory entry that was found."""

    kind: Kind
    #: The directory as the node sees it, without `--root`.
    directory: str
    name: str
    network: str | None
    subject: Subject
    container_id: str | None
    ifname: str | None
    #: A packed Stamp; None where the entry could not be looked at.
    stamp: bytes | None
    #: The bytes; None where the kind and ids render to exactly them, or where the file is no candidate.
    data: bytes | None

    @property
    def path(self) -> str:
        """The absolute path as the node sees it."""
        return f"{self.directory}/{self.name}"

    @property
    def ip(self) -> str | None:
        """The address that a reservation's name is; of an entry whose name is no address, None."""
        if self.kind != "reservation" or (self.subject is Subject.FOREIGN and not is_address(self.name)):
            return None
        return self.name

    def content(self) -> bytes:
        """The bytes that the file had."""
        if self.data is None and self.container_id is not None:
            return render_reservation(self.container_id, self.ifname)
        return self.data or b""


@dataclass(frozen=True, kw_only=True)
class Network:
    """One directory of reservations."""

    name: str
    #: The directory as the node sees it.
    directory: str
    problem: Problem | None = None
    config: NetworkConfig | None = None

    @property
    def is_unread(self) -> bool:
        """Whether there may be reservations in it that nobody read.

        It cannot be opened, or is a link: refused, and yet with a name that a network may have.
        """
        return self.problem == "unreadable" or (self.problem == "refused" and is_network_name(self.name))


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Everything one look found. Attachments are keyed by container id."""

    networks: Sequence[Network] = ()
    items: Sequence[Item] = ()
    attachments: Mapping[str, Sequence[Attachment]] = field(default_factory=dict)
    #: What could not be read beside the networks themselves, in sentences.
    findings: Sequence[str] = ()
    #: By the index of the item, whether an earlier look found the same; None at a first look.
    steady: Sequence[bool] | None = None
