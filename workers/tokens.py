"""The bearer token, in a file: it is not seen in a list of processes, and can be replaced while everything runs."""

import os
import stat

from cni.errors import UsageError

_LIMIT = 1 << 16


def read_token(path: str) -> str:
    """The token that a file holds.

    Raises:
        UsageError: there is none in it, or it cannot be read.
    """
    try:
        # Not to wait for ever where somebody names a FIFO.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise UsageError(f"--token-file {path} is no regular file")
            token = file.read(_LIMIT).decode("ascii").strip()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not ASCII"
        raise UsageError(f"--token-file {path} cannot be read: {why}") from error
    if not token or not token.isprintable() or " " in token:
        raise UsageError(f"--token-file {path} holds no token: one line of ASCII without blanks is wanted")
    return token
