"""The commands that ask for a sweep, follow it, stop it, and tell what became of it."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, NoReturn

import click
from rich.console import Console

from cli.options import MORE, given_flags, refuse_flags, settings_of, shared_options
from cni.errors import CleanupError, UsageError
from cni.names import printable
from cni.settings import Settings
from cni.steps import Step
from workers import tracing as spans
from workers.configuration import node_name, seconds

_TIMEOUT = 3600.0
"""Seconds that `job` waits."""

_GOES_WITH = {
    "nodes": ("autodiscover",),
    "node_selector": ("autodiscover",),
    "spread": ("autodiscover",),
    "timeout": ("autodiscover", "resume", "urlserver"),
    "as_json": ("autodiscover", "resume"),
}
"""Which options go with which way to ask."""


class _Parsed(click.ParamType):  # type: ignore[type-arg]  # generic for type checkers only
    """A value that one of the settings' parsers reads."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return value if not isinstance(value, str) else self._parse(value)
        except ValueError as error:
            self.fail(f"{value[:80]!r}: {error}", param, ctx)


def _node_list(text: str) -> list[str]:
    nodes = [node_name(part.strip()) for part in text.split(",") if part.strip()]
    if not nodes:
        raise ValueError("names of nodes are wanted, separated by commas")
    return nodes


def _some_time(text: str) -> float:
    found = seconds(text)
    if not found:
        raise ValueError("a time above 0 is wanted")
    return found


_TIME = _Parsed("TIME", seconds)
_SOME_TIME = _Parsed("TIME", _some_time)
_NODES = _Parsed("NAME,NAME", _node_list)


@click.command(short_help="Ask for a sweep, and follow it.", epilog=MORE)
@shared_options(
    "autodiscover", "urlserver", "broker", "broker-password-file", "token-file", "dry-run", "jaegerurl", "config", "debug"
)
@click.option("--nodes", type=_NODES, help="Only these nodes.")
@click.option("--node-selector", metavar="SELECTOR", help="Only nodes with these labels, as kubectl's -l.")
@click.option("--spread", type=_TIME, help="Time from one node to the next, 0s for all at once. [0.12s]")
@click.option("--timeout", type=_SOME_TIME, help="How long to wait for the nodes; the sweep itself has no such end. [1h]")
@click.option("--stop", is_flag=True, help="Halt the running sweep on all nodes.")
@click.option("--resume", is_flag=True, help="Let a stopped sweep go on, and follow it.")
@click.option("--json", "as_json", is_flag=True, help="In the end the account as JSON, not as a table.")
@click.pass_context
def job(context: click.Context, /, **given: Any) -> None:
    """Ask for a sweep over all nodes, follow it to its end, and show what became of each node.

    Ctrl-C ends the following, not the sweep: `job --stop` does that.

    Exit status: 0 all were cleaned; 1 a node failed or was missed, the sweep was refused, or time was up; 2 wrong usage;
    130 Ctrl-C.
    """
    refuse_flags(
        context,
        "max-remove",
        "networks",
        why="is each node's own setting: a sweep can ask for a --dry-run and for fewer nodes, for nothing else",
    )
    settings = settings_of(context)
    way = _way(given_flags(context), settings, given)
    _refuse_contradictions(way, given)
    if way == "urlserver":
        from cli.by_http import ask_all

        sys.exit(ask_all(settings, timeout=given["timeout"] or _TIMEOUT))
    refuse_flags(context, "token-file", why="is for --urlserver")
    wanted = _wanted(settings, given)
    with _ledger(settings) as ledger, _traced(context, settings) as whole:
        if way == "stop":
            _stop(ledger)
            return
        sweep_id = _resume(ledger, dry_run=settings.dry_run) if way == "resume" else _ask(wanted)
        whole.note(lambda: {"sweep_id": sweep_id})
        _follow(ledger, sweep_id, timeout=given["timeout"] or _TIMEOUT, as_json=given["as_json"])


@click.command(short_help="What became of a sweep.", epilog=MORE)
@shared_options("broker", "broker-password-file", "config", "debug")
@click.option("--sweep", "sweep_id", metavar="ID", help="This sweep. [the last one]")
@click.option("--list", "as_list", is_flag=True, help="The sweeps of the last 30 days, one a line.")
@click.option("--json", "as_json", is_flag=True, help="The account as JSON.")
@click.option("--html", metavar="FILE", help="A page for a browser, which needs nothing but itself; - is standard output.")
@click.pass_context
def report(context: click.Context, *, sweep_id: str | None, as_list: bool, as_json: bool, html: str | None) -> None:
    """Show what became of the last sweep: per node cleaned, failed, missed, and why. It reads the ledger and asks no node.

    Exit status: 0 it can be told; 1 it cannot, or the page cannot be written; 2 there is no such sweep, or FILE cannot be
    written there.
    """
    from cli.show_sweep import show_account, show_list
    from tasks import names
    from tasks.sweep import account_of

    settings = settings_of(context)
    if as_list and sweep_id is not None:
        raise UsageError("--list shows all sweeps and --sweep one: leave one of them out")
    if html is not None and (as_list or as_json):
        raise UsageError(f"--html is a page of one sweep, with all that there is: leave {'--list' if as_list else '--json'} out")
    wanted = None if sweep_id is None else names.sweep_id(sweep_id)
    if html is not None:
        _write_page(settings, wanted, html)
        return
    with _ledger(settings) as ledger:
        if as_list:
            accounts = [account_of(ledger, one) for one in ledger.sweeps() if ledger.facts(one) is not None]
            if as_json:
                without = [{name: value for name, value in one.items() if name != "nodes"} for one in accounts]
                click.echo(json.dumps(without, indent=1))
            else:
                show_list(_console(), accounts)
            return
        found = account_of(ledger, wanted)
    if as_json:
        click.echo(json.dumps(found, indent=1))
    else:
        show_account(_console(), found)


def _way(flags: Mapping[str, str], settings: Settings, given: dict[str, Any]) -> str:
    """How to ask, by the name of its option. Flags win; where there is none --autodiscover goes first, as in the tool before.

    Raises:
        UsageError: none is said, or several are.
    """
    ways = [name for name in ("stop", "resume") if given[name]]
    if "urlserver" in flags:
        ways.insert(0, "urlserver")
    if flags.get("autodiscover") == "true":
        ways.insert(0, "autodiscover")
    if not ways:
        ways = ["autodiscover"] if settings.autodiscover else ["urlserver"] if settings.urlserver else []
    if len(ways) != 1:
        told = f", not {' and '.join(f'--{name}' for name in ways)}" if ways else ""
        raise UsageError(f"one of --autodiscover, --urlserver, --stop and --resume is wanted{told} (see cni-cleanup help job)")
    return ways[0]


def _refuse_contradictions(way: str, given: dict[str, Any]) -> None:
    there = {name for name, value in given.items() if value is not None and value is not False}
    for name, fitting in _GOES_WITH.items():
        if name in there and way not in fitting:
            raise UsageError(f"{_flag(name)} is for {' and '.join(_flag(one) for one in fitting)}, not for {_flag(way)}")
    if {"nodes", "node_selector"} <= there:
        raise UsageError("--nodes and --node-selector each say which nodes: leave one of them out")


def _flag(name: str) -> str:
    return "--json" if name == "as_json" else f"--{name.replace('_', '-')}"


def _wanted(settings: Settings, given: dict[str, Any]) -> dict[str, Any]:
    """The arguments of the sweep's task, checked here too: who typed them sees at once what is wrong with them.

    Raises:
        Refused: the selector or the spread is none.
    """
    from tasks import names

    wanted = {
        "nodes": given["nodes"],
        "dry_run": settings.dry_run or None,
        "selector": names.selector(given["node_selector"]),
        "spread": None if given["spread"] is None else names.spread(given["spread"]),
    }
    return {name: value for name, value in wanted.items() if value is not None}


def _ask(wanted: dict[str, Any]) -> str:
    from tasks import app, names

    sweep_id: str = app.send_task(names.SWEEP, kwargs=wanted).id
    click.echo(f"sweep {sweep_id}", err=True)
    return sweep_id


def _stop(ledger: Any) -> None:
    """Stop the sweep that runs, or of which jobs wait for nodes that are down, and those that wait for a control worker.

    Raises:
        CleanupError: there is none.
    """
    from tasks import account
    from tasks.sweep import queued

    stopped = []
    for facts in queued(ledger):
        # On record and stopped it is left when its message is taken.
        ledger.begin(facts)
        if not ledger.is_stopped(facts.sweep_id):
            ledger.stop(facts.sweep_id, at=time.time())
            stopped.append(facts.sweep_id)
    current = ledger.current()
    found = None if current is None else ledger.snapshot(current, reports=False)
    runs = found is not None and (account.state(found, now=time.time()) == "running" or bool(account.silent(found)))
    if found is not None and runs and found.facts.stopped is None and current not in stopped:
        ledger.stop(current, at=time.time())
        stopped.append(current)
    if not stopped and found is not None and found.facts.stopped is not None:
        raise CleanupError(f"sweep {current} is stopped already (cni-cleanup report)")
    if not stopped:
        raise CleanupError("no sweep is running (cni-cleanup report --list)")
    for sweep_id in stopped:
        click.echo(f"sweep {sweep_id} is stopped: no node begins a pass for it, and a pass that runs leaves off within seconds")
    click.echo("what was removed by then is in each node's journal (cni-cleanup restore); cni-cleanup job --resume lets it go on")


def _resume(ledger: Any, *, dry_run: bool) -> str:
    """Let the sweep go on that was stopped last.

    Raises:
        CleanupError: none is stopped, or another one runs.
        UsageError: a dry run is asked for, and this sweep is none.
    """
    from tasks import account, app
    from tasks.celery_app import NODE_JOB_EXPIRES
    from tasks.sweep import go_on

    current = ledger.current()
    found = None if current is None else ledger.snapshot(current, reports=False)
    if found is not None and account.state(found, now=time.time()) == "running":
        raise CleanupError(f"sweep {current} is running: nothing to resume")
    stopped: str | None = next((one for one in ledger.sweeps() if ledger.is_stopped(one)), None)
    facts = None if stopped is None else ledger.facts(stopped)
    if stopped is None or facts is None:
        raise CleanupError("no sweep is stopped (cni-cleanup report --list)")
    if time.time() - facts.started > NODE_JOB_EXPIRES:
        raise CleanupError(f"sweep {stopped} was stopped days ago: ask for a new one (cni-cleanup job --autodiscover)")
    if dry_run and not facts.dry_run:
        raise UsageError(f"sweep {stopped} is no dry run, and goes on as it began: leave --dry-run out")
    # What its task said before would be taken for what it says now.
    app.AsyncResult(stopped).forget()
    go_on(ledger, facts)
    begun = datetime.fromtimestamp(facts.started, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    click.echo(f"sweep {stopped} of {begun} goes on{', a dry run' if facts.dry_run else ''}", err=True)
    return stopped


def _follow(ledger: Any, sweep_id: str, *, timeout: float, as_json: bool) -> None:
    from cli.following import NOBODY, SweepFailed, follow, is_taken
    from tasks import account

    try:
        in_time = follow(ledger, sweep_id, Console(stderr=True), timeout=timeout)
    except KeyboardInterrupt:
        if ledger.facts(sweep_id) is None:
            _fail(f"sweep {sweep_id} waits for a control worker, at most 6 hours: cni-cleanup job --stop takes it back", 130)
        _fail(f"the sweep goes on: see cni-cleanup report --sweep {sweep_id}, or stop it (cni-cleanup job --stop)", 130)
    except SweepFailed:
        _show(ledger, sweep_id, as_json=as_json)
        raise
    found = ledger.snapshot(sweep_id, reports=False)
    if not in_time and (found is None or not is_taken(ledger, found)):
        _fail(f"not done in {timeout:g} s: {NOBODY} When it is, sweep {sweep_id} goes on, for hours from now")
    shown = _show(ledger, sweep_id, as_json=as_json)
    if not in_time:
        _fail(f"not done in {timeout:g} s: the sweep goes on, see cni-cleanup report --sweep {sweep_id}")
    sys.exit(0 if shown is not None and account.is_good(shown) else 1)


def _show(ledger: Any, sweep_id: str, *, as_json: bool) -> dict[str, Any] | None:
    """Show the account of a sweep, if it is on record."""
    from cli.show_sweep import show_account
    from tasks.sweep import account_of

    if ledger.facts(sweep_id) is None:
        return None
    found: dict[str, Any] = account_of(ledger, sweep_id)
    if as_json:
        click.echo(json.dumps(found, indent=1))
    else:
        show_account(_console(), found)
    return found


def _write_page(settings: Settings, sweep_id: str | None, file: str) -> None:
    """Write the page of a sweep, of the last one where `sweep_id` is None.

    Raises:
        UsageError: there is no such sweep, or it cannot go to `file`.
        CleanupError: it could not be written.
    """
    # Jinja2 is for this alone.
    from cli.html.view import page
    from cli.html.writing import STDOUT, check, render, write
    from tasks import account
    from tasks.sweep import snapshot_of

    check(file)
    with _ledger(settings) as ledger:
        found = snapshot_of(ledger, sweep_id)
    now = time.time()
    write(file, render(page(found, account.document(found, now=now), now=now)))
    if file != STDOUT:
        click.echo(f"the page of sweep {found.facts.sweep_id}: {printable(os.path.abspath(file))}")


@contextmanager
def _traced(context: click.Context, settings: Settings) -> Iterator[Step]:
    """The command as one step, the first of all that it has others do."""
    from tasks import tracing

    tracing.start(settings, "job")
    context.call_on_close(spans.end)
    with spans.span("job", dry_run=settings.dry_run) as whole:
        yield whole


@contextmanager
def _ledger(settings: Settings) -> Iterator[Any]:
    """The ledger, where Redis answers.

    Raises:
        BrokerAway: it does not.
    """
    from tasks import app, broker
    from tasks.ledger import open_ledger

    app.use(settings)
    broker.require(broker.url_of(settings))
    try:
        with open_ledger() as ledger:
            yield ledger
    except broker.ERRORS as error:
        raise broker.away(error) from error


def _console() -> Console:
    return Console() if sys.stdout.isatty() else Console(width=200)


def _fail(text: str, status: int = 1) -> NoReturn:
    click.echo(f"cni-cleanup: {printable(text)}", err=True)
    sys.exit(status)
