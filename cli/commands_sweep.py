"""The commands that ask for a sweep, follow it, stop it, and tell what became of it."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import click
from redis.exceptions import RedisError
from rich.console import Console

from cli.options import MORE, settings_of, shared_options
from cni.errors import CleanupError, UsageError
from cni.settings import Settings
from workers.configuration import node_name, seconds

_TIMEOUT = 3600.0
"""Seconds that `job` waits."""


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


_TIME = _Parsed("TIME", seconds)
_NODES = _Parsed("NAME,NAME", _node_list)


@click.command(short_help="Ask for a sweep, and follow it.", epilog=MORE)
@shared_options("broker", "dry-run", "config", "debug")
@click.option("--autodiscover", is_flag=True, help="All nodes that run the worker, through the broker.")
@click.option("--nodes", type=_NODES, help="Only these.")
@click.option("--node-selector", metavar="SELECTOR", help="Only nodes with these labels, as kubectl's -l.")
@click.option("--spread", type=_TIME, help="Time between two nodes. [120ms is written 0.12s, and the default]")
@click.option("--timeout", type=_TIME, help="How long to wait for the nodes. [1h]")
@click.option("--stop", is_flag=True, help="Halt the running sweep on all nodes.")
@click.option("--resume", is_flag=True, help="Let a stopped sweep go on, and follow it.")
@click.option("--urlserver", metavar="URL,URL", help="Ask these sidecars by HTTP instead, without the broker.")
@click.option("--token-file", metavar="FILE", help="The bearer token for --urlserver.")
@click.option("--json", "as_json", is_flag=True, help="The account as JSON in the end.")
@click.pass_context
def job(context: click.Context, /, **given: Any) -> None:
    """Ask for a sweep over all nodes, follow it to its end, and show what became of each node.

    Exit status: 0 all were cleaned; 1 a node failed or was missed, or time was up; 2 wrong usage. Ctrl-C ends only the following.
    """
    settings = settings_of(context)
    _refuse_contradictions(given)
    if given["urlserver"] is not None:
        from cli.by_http import ask_all

        sys.exit(ask_all(settings, given["urlserver"], token_file=given["token_file"], timeout=given["timeout"] or _TIMEOUT))
    with _ledger(settings) as ledger:
        if given["stop"]:
            _stop(ledger)
            return
        sweep_id = _resume(ledger) if given["resume"] else _ask(settings, given)
        _follow(ledger, sweep_id, timeout=given["timeout"] or _TIMEOUT, as_json=given["as_json"])


@click.command(short_help="What became of a sweep.", epilog=MORE)
@shared_options("broker", "config", "debug")
@click.option("--sweep", "sweep_id", metavar="ID", help="This sweep. [the last one]")
@click.option("--list", "as_list", is_flag=True, help="The sweeps of the last 30 days, one a line.")
@click.option("--json", "as_json", is_flag=True, help="The account as JSON.")
@click.pass_context
def report(context: click.Context, *, sweep_id: str | None, as_list: bool, as_json: bool) -> None:
    """Show what became of the last sweep: per node cleaned, failed, missed, and why. It reads the ledger and asks no node.

    Exit status: 0 it can be told; 1 it cannot; 2 there is no such sweep.
    """
    from cli.show_sweep import show_account, show_list
    from tasks import names
    from tasks.sweep import account_of

    settings = settings_of(context)
    if as_list and sweep_id is not None:
        raise UsageError("--list shows all sweeps and --sweep one: leave one of them out")
    with _ledger(settings) as ledger:
        if as_list:
            accounts = [account_of(ledger, one) for one in ledger.sweeps() if ledger.facts(one) is not None]
            if as_json:
                click.echo(json.dumps([{**one, "nodes": None} for one in accounts], indent=1))
            else:
                show_list(_console(), accounts)
            return
        found = account_of(ledger, None if sweep_id is None else names.sweep_id(sweep_id))
    if as_json:
        click.echo(json.dumps(found, indent=1))
    else:
        show_account(_console(), found)


def _refuse_contradictions(given: dict[str, Any]) -> None:
    ways = [name for name in ("autodiscover", "urlserver", "stop", "resume") if given[name]]
    if len(ways) != 1:
        told = "nothing" if not ways else " and ".join(f"--{name}" for name in ways)
        raise UsageError(
            f"one of --autodiscover, --urlserver, --stop and --resume is wanted, not {told} (see cni-cleanup help job)"
        )
    only_new = [name for name in ("nodes", "node_selector", "spread") if given[name] is not None]
    if only_new and ways != ["autodiscover"]:
        raise UsageError(f"--{only_new[0].replace('_', '-')} is for --autodiscover")
    if given["token_file"] is not None and ways != ["urlserver"]:
        raise UsageError("--token-file is for --urlserver")
    if given["nodes"] and given["node_selector"]:
        raise UsageError("--nodes and --node-selector each say which nodes: leave one of them out")


def _ask(settings: Settings, given: dict[str, Any]) -> str:
    from tasks import app, names

    wanted = {
        "nodes": given["nodes"],
        "dry_run": settings.dry_run or None,
        "selector": given["node_selector"],
        "spread": given["spread"],
    }
    wanted = {name: value for name, value in wanted.items() if value is not None}
    names.selector(wanted.get("selector"))
    sweep_id: str = app.send_task(names.SWEEP, kwargs=wanted).id
    click.echo(f"sweep {sweep_id}", err=True)
    return sweep_id


def _stop(ledger: Any) -> None:
    """Stop the sweep that runs.

    Raises:
        CleanupError: none does.
    """
    from tasks import account

    sweep_id = ledger.current()
    found = None if sweep_id is None else ledger.snapshot(sweep_id, reports=False)
    if found is None or account.state(found, now=time.time()) != "running":
        raise CleanupError("no sweep is running (cni-cleanup report --list)")
    ledger.stop(sweep_id, at=time.time())
    click.echo(f"sweep {sweep_id} is stopped: no node begins a pass for it, and a pass that runs leaves off within seconds")
    click.echo("cni-cleanup job --resume lets it go on")


def _resume(ledger: Any) -> str:
    """Let the sweep go on that was stopped last.

    Raises:
        CleanupError: none is stopped, or another one runs.
    """
    from tasks import account, app
    from tasks.sweep import ask_again

    now = time.time()
    current = ledger.current()
    found = None if current is None else ledger.snapshot(current, reports=False)
    if found is not None and account.state(found, now=now) == "running":
        raise CleanupError(f"sweep {current} is running: nothing to resume")
    stopped = next((one for one in ledger.sweeps() if ledger.is_stopped(one)), None)
    if stopped is None:
        raise CleanupError("no sweep is stopped (cni-cleanup report --list)")
    ledger.resume(stopped)
    # What its task said when it was stopped is no answer to this.
    app.AsyncResult(stopped).forget()
    ask_again(stopped)
    click.echo(f"sweep {stopped} goes on", err=True)
    sweep_id: str = stopped
    return sweep_id


def _follow(ledger: Any, sweep_id: str, *, timeout: float, as_json: bool) -> None:
    from cli.following import follow
    from cli.show_sweep import show_account
    from tasks import account
    from tasks.sweep import account_of

    try:
        in_time = follow(ledger, sweep_id, Console(stderr=True), timeout=timeout)
    except KeyboardInterrupt:
        click.echo(f"\ncni-cleanup: the sweep goes on; see cni-cleanup report --sweep {sweep_id}", err=True)
        sys.exit(130)
    if ledger.facts(sweep_id) is None:
        _fail(f"no control worker has taken sweep {sweep_id} in {timeout:g} s: it is waiting; is cni-cleanup control running?")
    found = account_of(ledger, sweep_id)
    if as_json:
        click.echo(json.dumps(found, indent=1))
    else:
        show_account(_console(), found)
    if not in_time:
        _fail(f"not done in {timeout:g} s: the sweep goes on; see cni-cleanup report --sweep {sweep_id}")
    sys.exit(0 if account.is_good(found) else 1)


@contextmanager
def _ledger(settings: Settings) -> Iterator[Any]:
    """The ledger, where Redis answers.

    Raises:
        BrokerAway: it does not.
    """
    from tasks import app, broker
    from tasks.errors import BrokerAway
    from tasks.ledger import open_ledger

    app.use(settings)
    broker.require(settings.broker)
    try:
        with open_ledger() as ledger:
            yield ledger
    except RedisError as error:
        raise BrokerAway(f"Redis does not answer any more: {' '.join(str(error).split())}") from error


def _console() -> Console:
    return Console() if sys.stdout.isatty() else Console(width=200)


def _fail(text: str) -> NoReturn:
    click.echo(f"cni-cleanup: {text}", err=True)
    sys.exit(1)
