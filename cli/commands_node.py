"""The commands that work on the node itself and need no broker: scan, clean, restore."""

import json
import logging
import shlex
import sys
from collections.abc import Iterator
from typing import NoReturn

import click
from rich.console import Console

from cli.options import MORE, NODE, settings_of, shared_options
from cni.errors import CleanupError, UsageError
from cni.listing import Problem
from cni.names import printable
from cni.report import Report, file_rows, summary
from cni.settings import Settings
from workers import node, restoring, tracing
from workers.clock import SystemClock
from workers.paths import Root
from workers.state import State

_log = logging.getLogger(__name__)

_HINTS: dict[Problem, str] = {
    "no-lock": "has no lock file: nothing has allocated there, or a host-local older than 0.7, which cannot be kept out",
    "lock-busy": "is locked by others for too long: see which host-local process hangs, then run this again",
    "lock-error": "cannot be locked: see the note on it, then run this again",
    "read-only": "may not be written: mount it read-write and run as root",
}
"""What an operator can do about a network in which nothing could be removed."""


@click.command(short_help="Read and explain; change nothing.", epilog=MORE)
@shared_options(*(name for name in NODE if name not in ("confirm-after", "max-remove", "dry-run")))
@click.option("--json", "as_json", is_flag=True, help="The report as JSON.")
@click.option("--fail-on-leak", is_flag=True, help="Exit 3 if a leak is found, and 1 if a witness cannot tell.")
@click.pass_context
def scan(context: click.Context, *, as_json: bool, fail_on_leak: bool) -> None:
    """Read and explain, on one look; change nothing."""
    settings = _traced(context, "scan")
    report = node.scan(settings)
    if as_json:
        _print_json(report)
    else:
        from cli.show import show_scan

        show_scan(_console(), report)
    _exit(report, settings)
    if fail_on_leak:
        _exit_for_leaks(report)


@click.command(short_help="Remove what two looks prove to be leaked.", epilog=MORE)
@shared_options(*NODE)
@click.option("--json", "as_json", is_flag=True, help="The report as JSON.")
@click.pass_context
def clean(context: click.Context, *, as_json: bool) -> None:
    """One pass over this node: remove what two looks prove to be leaked."""
    settings = _traced(context, "clean")
    clock = _ShowingClock() if sys.stderr.isatty() else SystemClock()
    report = node.clean(settings, clock=clock, observe=_log_step)
    if as_json:
        _print_json(report)
    else:
        from cli.show import show_pass

        show_pass(_console(), report, undo=_command(settings, "restore", "--pass", report.pass_id))
    _exit(report, settings)


@click.command(short_help="Put removed files back.", epilog=MORE)
@shared_options("root", "state-dir", "dry-run")
@click.option("--pass", "pass_id", metavar="ID", help="What this pass removed. [the last one that removed something]")
@click.option("--ip", metavar="IP", help="The sandbox that had this address last, with its other files.")
@click.option("--list", "as_list", is_flag=True, help="Show what can be put back; change nothing.")
@click.option("--release", is_flag=True, help="Let restored files be judged again: all, or those of --pass or --ip.")
@click.pass_context
def restore(context: click.Context, *, pass_id: str | None, ip: str | None, as_list: bool, release: bool) -> None:
    """Put removed files back from the journal. They are kept as `held` until they are released."""
    from cli.show import in_order, show_removed, show_restored

    settings = settings_of(context)
    if (as_list or settings.dry_run) and release:
        raise UsageError("--release changes what --list and --dry-run must not: leave one of them out")
    state, root = State(settings.state_dir), Root(settings.root)
    if release:
        released = restoring.release(state, pass_id=pass_id, ip=ip)
        click.echo("".join(f"released {path}\n" for path in released) or "nothing was held\n", nl=False)
        return
    if not as_list and pass_id is None and ip is None:
        pass_id = restoring.last_pass(state, root)
    records = in_order(restoring.removed_files(state, root, pass_id=pass_id, ip=ip))
    if as_list or settings.dry_run:
        show_removed(_console(), records)
        return
    if not records:
        of = f" of address {ip}" if ip else f" of pass {pass_id}" if pass_id else ": no pass has removed anything here"
        raise CleanupError(f"nothing is left to put back{of} (restore --list shows what is)")
    results = list(restoring.restore(state, root, SystemClock(), records))
    show_restored(_console(), results, release=_command(settings, "restore", "--release"))
    if any(result.outcome != "restored" for result in results):
        sys.exit(1)


def _traced(context: click.Context, role: str) -> Settings:
    """The settings of a command that is traced if they say so; its spans are sent once it has shown what it has to show."""
    settings = settings_of(context)
    tracing.start(settings, role)
    context.call_on_close(tracing.end)
    return settings


def _log_step(step: str) -> None:
    """Not under the plugin's lock: whoever reads our stderr may have stopped, and the node's ADDs would wait for them."""
    if step != "locked":
        _log.debug("step: %s", step, extra={"action": "step"})


def _command(settings: Settings, *given: str) -> str:
    """A command for the same node and journal, wherever it is typed."""
    defaults = Settings()
    words = ["cni-cleanup", *given]
    if settings.state_dir != defaults.state_dir:
        words += ["--state-dir", settings.state_dir]
    if settings.root != defaults.root:
        words += ["--root", settings.root]
    return shlex.join(words)


def _exit(report: Report, settings: Settings) -> None:
    """Exit 1 with one line where not everything was done; the first thing that an operator should mend."""
    if report.aborted is not None:
        _fail(f"aborted ({report.aborted.reason}): {report.aborted.detail}")
    failed = report.count("failed")
    if failed:
        files = "1 leaked file" if failed == 1 else f"{failed} leaked files"
        _fail(f"{files} could not be removed: {_why(report)}")
    unread = [network for network in report.networks if network.problem == "unreadable" and _is_chosen(network.name, settings)]
    if unread:
        _fail(f"{unread[0].directory} cannot be read, so nothing in it was judged: run as root, or leave it out by --networks")


def _why(report: Report) -> str:
    stopped = next((network for network in report.networks if network.problem in _HINTS), None)
    if stopped is None or stopped.problem is None:
        return next(reversed(report.findings), "they changed meanwhile")
    return f"{stopped.directory} {_HINTS[stopped.problem]}"


def _is_chosen(network: str, settings: Settings) -> bool:
    return settings.networks is None or network in settings.networks


def _fail(text: str) -> NoReturn:
    click.echo(f"cni-cleanup: {printable(' '.join(text.split()))}", err=True)
    sys.exit(1)


def _exit_for_leaks(report: Report) -> None:
    if report.leaked():
        sys.exit(3)
    unknown = [f"{name} is {state}" for name, state in report.witnesses.items() if state.startswith("unknown")]
    if unknown:
        _fail(f"whether anything is leaked cannot be told: {unknown[0]}")


def _print_json(report: Report) -> None:
    sys.stdout.writelines(_chunks(report))


def _chunks(report: Report) -> Iterator[str]:
    """The document file by file: all at once it would be larger than everything else in memory."""
    yield json.dumps(summary(report), indent=1)[:-2] + ',\n "files": ['
    separator = "\n  "
    for row in file_rows(report):
        yield separator + json.dumps(row)
        separator = ",\n  "
    yield "\n ]\n}\n"


def _console() -> Console:
    """Colour on a terminal only; where there is none, lines are not cut to 80 columns."""
    return Console() if sys.stdout.isatty() else Console(width=200)


class _ShowingClock(SystemClock):
    """Shows how long the second look is still to wait for."""

    def sleep(self, seconds: float) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("waiting for the second look"), BarColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("", total=seconds)
            end = self.monotonic() + seconds
            while (left := end - self.monotonic()) > 0:
                progress.update(task, completed=seconds - left)
                super().sleep(min(left, 0.1))
