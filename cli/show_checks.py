"""The preflight as a person reads it."""

import sys
from collections.abc import Sequence

import click
from rich.console import Console
from rich.markup import escape

from cli.show import new_table, print_table
from cni.names import printable
from workers.preflight import Check


def show_checks(checks: Sequence[Check]) -> int:
    """A line a check, and one on stderr for what is to be mended; the exit status, 1 if something is."""
    shown = new_table("preflight")
    shown.add_column("check", no_wrap=True)
    shown.add_column("", no_wrap=True)
    shown.add_column("", overflow="fold")
    for check in checks:
        shown.add_row(check.name, "[green]good[/]" if check.good else "[red]bad[/]", escape(printable(check.detail)))
    print_table(Console() if sys.stdout.isatty() else Console(width=200), shown)
    bad = [check for check in checks if not check.good]
    if bad:
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        click.echo(f"cni-cleanup: {bad[0].name}: {printable(bad[0].detail)}{more}", err=True)
    return 1 if bad else 0
