"""The page of a sweep as HTML, and the file that it goes to."""

import os
import secrets
import stat
from contextlib import suppress
from functools import cache
from pathlib import Path

import click
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from cli.html.view import WIDTH, Page, count
from cli.html.words import STATES
from cni.errors import CleanupError, UsageError

STDOUT = "-"


def render(page: Page) -> str:
    """The whole page: one document that refers to nothing outside of it and has no script."""
    return _template().render(page=page, whole=WIDTH, advice=STATES)


@cache
def _template() -> Template:
    environment = Environment(
        # Everything on the page comes from elsewhere: nothing but the template itself is HTML.
        autoescape=True,
        undefined=StrictUndefined,
        loader=FileSystemLoader(Path(__file__).parent),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["count"] = count
    return environment.get_template("page.html")


def check(file: str) -> None:
    """Say before anything is asked where the page could not go.

    Raises:
        UsageError: there is a directory or another thing that is no file, it must not be written, or its directory is not there.
    """
    if file == STDOUT:
        return
    if not file:
        raise UsageError("--html wants the name of a file, or - for standard output")
    path = os.path.realpath(file)
    directory = os.path.dirname(path)
    if not os.path.isdir(directory):
        raise UsageError(f"--html {file}: there is no directory {directory}")
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        mode = None
    except OSError as error:
        raise UsageError(f"--html {file}: {error.strerror}") from error
    if mode is not None and stat.S_ISDIR(mode):
        raise UsageError(f"--html {file}: this is a directory, and the name of a file is wanted")
    if mode is not None and not stat.S_ISREG(mode):
        raise UsageError(f"--html {file}: this is no regular file; --html - writes to standard output")
    if not os.access(directory, os.W_OK | os.X_OK) or (mode is not None and not os.access(path, os.W_OK)):
        raise UsageError(f"--html {file}: it may not be written")


def write(file: str, text: str) -> None:
    """Write the page to standard output where the file is `-`, else make or replace the file, all at once.

    Raises:
        CleanupError: it cannot be written; what was there is there.
    """
    if file == STDOUT:
        click.echo(text.encode(), nl=False)
        return
    # Through a link, as a shell's redirection would.
    path = os.path.realpath(file)
    temporary = os.path.join(os.path.dirname(path), f".cni-cleanup-{secrets.token_hex(8)}.html")
    try:
        try:
            # With the mode of any new file, which the modules that make temporary files do not give.
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), "wb") as made:
                made.write(text.encode())
                made.flush()
                os.fsync(made.fileno())
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as error:
        raise CleanupError(f"--html {file}: it cannot be written: {error.strerror}") from error
