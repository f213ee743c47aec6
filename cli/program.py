"""The program: its commands, and how an error becomes one line and an exit status."""

import errno
import io
import logging
import os
import sys
from importlib import import_module
from typing import NoReturn

import click

from cli.options import EVERY, shared_options, without_flag_values
from cni import __version__
from cni.errors import CleanupError, UsageError
from cni.names import printable

_COMMANDS = {
    "scan": "cli.commands_node",
    "clean": "cli.commands_node",
    "restore": "cli.commands_node",
    "server": "cli.commands_server",
    "job": "cli.commands_sweep",
    "report": "cli.commands_sweep",
    "worker": "cli.commands_fleet",
    "control": "cli.commands_fleet",
    "beat": "cli.commands_fleet",
    "demo": "cli.commands_fleet",
}


class _Commands(click.Group):
    """Commands whose modules are imported when they are used: Celery and rich need not be there to print a usage error."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        return [*_COMMANDS, "help"]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands first: the options fill a screen."""
        self.format_commands(ctx, formatter)
        click.Command.format_options(self, ctx, formatter)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _COMMANDS:
            command: click.Command = getattr(import_module(_COMMANDS[cmd_name]), cmd_name)
            return command
        return super().get_command(ctx, cmd_name)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="cni-cleanup")
@shared_options(*EVERY)
def program() -> None:
    """Find the CNI files that dead pods left behind, prove that they are dead, remove them, and be able to undo it.

    A live reservation is never removed: whoever cannot answer vetoes.

    Exit status: 0 done; 1 a pass aborted or failed; 2 wrong usage; 3 a leak was found by `scan --fail-on-leak`; 130 interrupted.
    """


@program.command("help")
@click.argument("command", required=False)
@click.pass_context
def show_help(context: click.Context, command: str | None) -> None:
    """Show the help of a command."""
    parent = context.parent or context
    found = program.get_command(parent, command) if command else program
    if found is None:
        raise UsageError(f"there is no command {command!r}: see cni-cleanup help")
    with click.Context(found, info_name=command or parent.info_name, parent=parent if command else None) as of_command:
        click.echo(found.get_help(of_command))


def main(arguments: list[str] | None = None) -> None:
    """Run the program and exit with its status."""
    for stream in (sys.stdout, sys.stderr):
        # A file may have any name, and no name may end the program.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            program.main(without_flag_values(sys.argv[1:] if arguments is None else arguments), standalone_mode=False)
        finally:
            # Also where the command ends with a status of its own: at the exit it would be too late for one line.
            sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help(), err=True)
        sys.exit(2)
    except (click.ClickException, CleanupError) as error:
        _fail(*_told(error))
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted: if anything was removed, the journal has it", 130)
    except OSError as error:
        _fail_of_output(error)


def _told(error: click.ClickException | CleanupError) -> tuple[str, int]:
    """What to say of an error, and the exit status."""
    if isinstance(error, click.UsageError):
        command = error.ctx.command_path if error.ctx else "cni-cleanup"
        return f"{error.format_message()} (see {command} --help)", 2
    if isinstance(error, click.ClickException):
        # A broker that does not answer is one of these too, and no wrong usage.
        return error.format_message(), error.exit_code
    return str(error), 2 if isinstance(error, UsageError) else 1


def _fail_of_output(error: OSError) -> NoReturn:
    """End where standard output takes nothing any more; every other error of the system is a bug and told in full."""
    if error.errno not in (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EIO):
        raise error
    # What is still to be written could not be written at the exit either.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if error.errno == errno.EPIPE:
        # Whoever read the output has gone; there is nobody left to tell.
        sys.exit(1)
    _fail(f"the output cannot be written ({error.strerror}); a pass is done all the same: see the journal and report.json", 1)


def _fail(message: str, status: int) -> NoReturn:
    logging.getLogger(__name__).debug("the error in full", exc_info=sys.exc_info(), extra={"action": "error"})
    click.echo(f"cni-cleanup: {printable(' '.join(message.split()))}", err=True)
    sys.exit(status)
