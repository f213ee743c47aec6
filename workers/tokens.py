"""Secrets, each in a file of its own: it is not seen in a list of processes or in an environment."""

import os
import stat

from cni.errors import UsageError

_LIMIT = 1 << 16


def read_token(path: str) -> str:
    """The sidecar's bearer token.

    Raises:
        UsageError: there is none in the file, or it cannot be read.
    """
    return read_secret(path, option="--token-file", what="token")


def read_secret(path: str, *, option: str, what: str) -> str:
    """The one line of ASCII that a file holds; `option` named the file, and `what` is in it, for the messages.

    Raises:
        UsageError: there is none in it, or it cannot be read.
    """
    try:
        # Not to wait for ever where somebody names a FIFO.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise UsageError(f"{option} {path} is no regular file")
            secret = file.read(_LIMIT).decode("ascii").strip()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not ASCII"
        raise UsageError(f"{option} {path} cannot be read: {why}") from error
    if not secret or not secret.isprintable() or " " in secret:
        raise UsageError(f"{option} {path} holds no {what}: one line of ASCII without blanks is wanted")
    return secret
