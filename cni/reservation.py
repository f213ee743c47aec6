"""What the content of a reservation says: bytes in, a Reservation or the reason why it is none out."""

import re
from enum import Enum
from typing import NamedTuple

MAX_SIZE = 512
"""A reservation is 64 + 2 + at most 15 bytes; a larger file is something else."""

_SPACE = rb"[ \t\r\n\v\f]*"
# An interface name as Linux and libcni accept it (containernetworking/cni pkg/utils/utils.go:60-84), in ASCII.
_IFNAME = rb"[!-.0-9;-~]{1,15}"
_RESERVATION = re.compile(_SPACE + rb"([0-9a-f]{64})(?:\r\n(" + _IFNAME + rb"))?" + _SPACE)
_OTHER_ENGINE = re.compile(_SPACE + rb"([A-Za-z0-9][A-Za-z0-9_.-]*)(?:\r\n" + _IFNAME + rb")?" + _SPACE)
_CUT_SHORT = re.compile(rb"[0-9a-f]{1,63}")


class Reservation(NamedTuple):
    """The sandbox that holds an address."""

    container_id: str
    #: None in files of plugins older than 0.8, which wrote the id alone.
    ifname: str | None

    def fills(self, data: bytes) -> bool:
        """Whether the bytes that it was read from hold nothing else: no white space around it."""
        return len(data) == 64 + (2 + len(self.ifname) if self.ifname else 0)


class NotAReservation(Enum):
    """Why the bytes are no reservation of a pod sandbox."""

    EMPTY = "nothing, or only NUL and white space: a crash between create and write"
    FOREIGN = "an id that no CRI runtime makes: another engine's"
    UNPARSABLE = "neither empty nor an id"


def parse_reservation(data: bytes) -> Reservation | NotAReservation:
    r"""Read the content of a reservation: `<id>\r\n<ifname>`, before host-local 0.8 `<id>`, white space around it trimmed.

    Source: containernetworking/plugins plugins/ipam/host-local/backend/disk/backend.go:29,70,141.
    """
    found = _RESERVATION.fullmatch(data)
    if found:
        ifname = found[2].decode("ascii") if found[2] else None
        if ifname not in (".", ".."):
            return Reservation(found[1].decode("ascii"), ifname)
        return NotAReservation.UNPARSABLE
    if not data.strip(b"\0 \t\r\n\v\f"):
        return NotAReservation.EMPTY
    other = _OTHER_ENGINE.fullmatch(data)
    if other and not _CUT_SHORT.fullmatch(other[1]):
        return NotAReservation.FOREIGN
    return NotAReservation.UNPARSABLE


def render_reservation(container_id: str, ifname: str | None) -> bytes:
    """The bytes that host-local writes for them."""
    return (container_id if ifname is None else f"{container_id}\r\n{ifname}").encode("ascii")
