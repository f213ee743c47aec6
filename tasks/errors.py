"""Refusals of the distributed part."""

import contextlib
from collections.abc import Iterator

import click

from cni.errors import CleanupError, UsageError


class Refused(click.ClickException, UsageError):
    """A message, a name or a setting that this program does not act on: nothing was sent, nothing done.

    A click exception too: the `celery` command is made with click, which prints one of these as one line. Anything else that the
    router or the configuration raises under `celery -A tasks call` would be a traceback.
    """

    exit_code = 2


class WrongNode(Refused):
    """A job for one node came to the worker of another one."""


class BrokerAway(click.ClickException, CleanupError):
    """Redis does not answer; one line for who types `celery` too."""


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """Turn a UsageError of the layers below into Refused, for who reads it through the `celery` command.

    Raises:
        Refused: the block raised a UsageError.
    """
    try:
        yield
    except UsageError as error:
        raise Refused(str(error)) from error
