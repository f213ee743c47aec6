"""The commands of the distributed part: the long-running processes, and the demo."""

import sys

import click

from cli.options import MORE, NODE, log_as_service, settings_of, shared_options
from cni.settings import Settings

# Each command imports what it runs: Celery takes half a second, and beat must not load what a worker needs.


@click.command(short_help="Run this node's worker.", epilog=MORE)
@shared_options(*NODE, "broker", "broker-password-file", "log-format")
@click.option("--check", is_flag=True, help="Only find out whether it could work here: can it read, lock and ask?")
@click.pass_context
def worker(context: click.Context, *, check: bool) -> None:
    """Run this node's worker: it does the jobs of this node, and no other's.

    With --check: exit status 0 if a pass could work here and the broker answers, else 1.
    """
    settings = settings_of(context)
    if check:
        sys.exit(_check(settings))
    log_as_service(settings)
    from tasks.worker import start

    sys.exit(start(settings, loglevel=_loglevel(settings)))


@click.command(short_help="Run the worker that does the sweeps.", epilog=MORE)
@shared_options("broker", "broker-password-file", "static-nodes", "api", "log-format", "jaegerurl", "config", "debug")
@click.pass_context
def control(context: click.Context) -> None:
    """Run the worker that does the sweeps: it asks every node for one pass."""
    settings = settings_of(context)
    log_as_service(settings)
    from tasks.worker import start_control

    sys.exit(start_control(settings, loglevel=_loglevel(settings)))


@click.command(short_help="Run the scheduler.", epilog=MORE)
@shared_options("broker", "broker-password-file", "schedule", "timezone", "log-format", "jaegerurl", "config", "debug")
@click.pass_context
def beat(context: click.Context) -> None:
    """Run the scheduler: it asks for a sweep when one is due."""
    settings = settings_of(context)
    log_as_service(settings)
    from beat import start

    start(settings, loglevel=_loglevel(settings))


@click.command(short_help="A small cluster on this machine.")
@click.option("--nodes", type=click.IntRange(1, 9), default=3, show_default=True, help="How many nodes.")
@click.option("--keep", is_flag=True, help="Leave it running afterwards, and say what to try.")
def demo(*, nodes: int, keep: bool) -> None:
    """Run a small cluster on this machine, with an embedded Redis, and one sweep over it."""
    from cli.demo import run

    sys.exit(run(nodes, keep=keep))


def _check(settings: Settings) -> int:
    """Show each check of the preflight, and the broker's; the exit status."""
    from cli.show_checks import show_checks
    from tasks import broker
    from tasks.errors import BrokerAway
    from tasks.worker import refuse_nonsense
    from workers.preflight import Check, preflight

    refuse_nonsense(settings)
    checks = list(preflight(settings))
    try:
        broker.require(broker.url_of(settings))
        checks.append(Check(name="broker", good=True, detail="Redis answers"))
    except BrokerAway as away:
        checks.append(Check(name="broker", good=False, detail=str(away)))
    return show_checks(checks)


def _loglevel(settings: Settings) -> str:
    return "DEBUG" if settings.debug else "INFO"
