"""Following a sweep: a bar that the ledger moves, until the sweep is over or time is up."""

import time
from collections.abc import Callable
from typing import Any

from redis.exceptions import RedisError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cli.show_sweep import counts
from cni.errors import CleanupError
from tasks import account, app
from tasks.ledger import Ledger

_EVERY = 0.25
"""Seconds between two looks at a small sweep; at one of 5,000 nodes it is a look a second."""

_TAKEN_WITHIN = 10.0
"""Seconds after which it is said that no control worker takes the sweep."""


def follow(ledger: Ledger, sweep_id: str, console: Console, *, timeout: float, check: Callable[[], None] = lambda: None) -> bool:
    """Wait until a sweep is over, with a bar; whether it was within `timeout` seconds. `check` may raise to end the waiting.

    Raises:
        CleanupError: the sweep was refused or failed before it asked anybody, or Redis does not answer any more.
    """
    begun = time.monotonic()
    told = False
    with _bar(console) as bar:
        shown = bar.add_task("sweep", total=None, what="waits for a control worker")
        while time.monotonic() - begun < timeout:
            check()
            looked = time.monotonic()
            state, what, done, total = _look(ledger, sweep_id)
            bar.update(shown, completed=done, total=total, what=what)
            if state not in (None, "running"):
                return True
            _raise_refusal(sweep_id)
            if state is None and not told and looked - begun > _TAKEN_WITHIN:
                console.print("no control worker has taken the sweep yet: is one running?", highlight=False, soft_wrap=True)
                told = True
            # A look that takes long is one at many nodes: they need not be asked for all the time.
            time.sleep(max(_EVERY, 4 * (time.monotonic() - looked)))
    return False


def _look(ledger: Ledger, sweep_id: str) -> tuple[str | None, str, int, int | None]:
    """The state, what to say beside the bar, and how many nodes of how many have answered; None while nobody has begun it."""
    try:
        found = ledger.snapshot(sweep_id, reports=False)
    except RedisError as error:
        raise CleanupError(
            f"Redis does not answer any more ({error}): the sweep goes on without us (cni-cleanup report)"
        ) from error
    if found is None:
        return None, "waits for a control worker", 0, None
    now = time.time()
    if not found.expected:
        return account.state(found, now=now), "finds out the nodes", 0, None
    answered = len(found.expected) - len(account.silent(found))
    return account.state(found, now=now), counts(found), answered, len(found.expected)


def _raise_refusal(sweep_id: str) -> None:
    """End where the sweep's own task failed.

    Raises:
        CleanupError: it did; the message is what it said.
    """
    result: Any = app.AsyncResult(sweep_id)
    try:
        if result.state == "FAILURE":
            raise CleanupError(str(result.result))
    except RedisError as error:
        raise CleanupError(f"Redis does not answer any more ({error})") from error


def _bar(console: Console) -> Progress:
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("nodes"), TimeElapsedColumn(), TextColumn("{task.fields[what]}"))
    return Progress(TextColumn("[bold]sweep[/]    "), *columns, console=console)
