"""Following a sweep: a bar that the ledger moves, until the sweep is over or time is up."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from redis.exceptions import RedisError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cli.show_sweep import counts
from cni.errors import CleanupError
from tasks import account, app
from tasks.ledger import Ledger, Snapshot

_EVERY = 0.25
"""Seconds between two looks at a small sweep; at one of 5,000 nodes it is a look a second."""

_TAKEN_WITHIN = 10.0
"""Seconds after which it is said that no control worker takes the sweep."""

_NOTED_WITHIN = 5.0
"""Seconds in which the ledger has it that the sweep's task failed; the task's result has it a moment before."""

_OUTAGE = 60.0
"""Seconds for which Redis may be away: a restart of it is no reason to stop looking at a sweep of ten minutes."""

NOBODY = "no control worker has taken it: is cni-cleanup control running?"
"""What to say of a sweep whose nodes nobody asks."""


class SweepFailed(CleanupError):
    """The sweep was refused, or failed before all nodes were asked; the message is what it said."""


@dataclass(frozen=True, kw_only=True)
class _Look:
    """How far a sweep is."""

    #: None while nobody has begun it.
    found: Snapshot | None
    #: Whether a control worker asks its nodes, or all are asked.
    taken: bool
    #: What the sweep's own task said, where it failed.
    failure: str | None
    #: What to say beside the bar.
    what: str
    answered: int = 0
    expected: int | None = None

    def is_over(self) -> bool:
        """Whether there is nothing more to wait for."""
        return self.found is not None and account.state(self.found, now=time.time()) != "running"


def follow(ledger: Ledger, sweep_id: str, console: Console, *, timeout: float, check: Callable[[], None] = lambda: None) -> bool:
    """Wait until a sweep is over, with a bar; whether it was within `timeout` seconds. `check` may raise to end the waiting.

    Raises:
        SweepFailed: it was refused or failed before all its nodes were asked.
        CleanupError: Redis does not answer any more.
    """
    begun = taken_at = answered_at = time.monotonic()
    told = was_there = False
    failed_at: float | None = None
    with _bar(console) as bar:
        shown = bar.add_task("sweep", total=None, what="")
        while time.monotonic() - begun < timeout:
            check()
            now = time.monotonic()
            try:
                look = _look(ledger, sweep_id)
            except RedisError as error:
                if time.monotonic() - answered_at > _OUTAGE:
                    raise CleanupError(
                        f"Redis does not answer any more ({error}): the sweep goes on without us (cni-cleanup report)"
                    ) from error
                bar.update(shown, what="Redis does not answer, asked again")
                taken_at = time.monotonic()
                time.sleep(_EVERY)
                continue
            answered_at = time.monotonic()
            if was_there and look.found is None:
                raise SweepFailed("Redis does not know this sweep any more, it lost its data: ask again (job --autodiscover)")
            was_there = look.found is not None
            bar.update(shown, completed=look.answered, total=look.expected, what=look.what)
            if look.found is not None and look.found.facts.error is not None:
                raise SweepFailed(look.found.facts.error)
            if look.is_over():
                return True
            if look.failure is not None:
                failed_at = now if failed_at is None else failed_at
                if look.found is None or now - failed_at > _NOTED_WITHIN:
                    raise SweepFailed(look.failure)
            taken_at = now if look.taken else taken_at
            if not told and now - taken_at > _TAKEN_WITHIN:
                console.print(f"sweep {sweep_id}: {NOBODY}", highlight=False, soft_wrap=True)
                told = True
            # A look that takes long is one at many nodes: they need not be asked for all the time.
            time.sleep(max(_EVERY, 4 * (time.monotonic() - now)))
    return False


def is_taken(ledger: Ledger, found: Snapshot) -> bool:
    """Whether a control worker asks the nodes of a sweep, or all are asked."""
    return found.facts.all_asked is not None or ledger.is_leased(found.facts.sweep_id)


def _look(ledger: Ledger, sweep_id: str) -> _Look:
    found = ledger.snapshot(sweep_id, reports=False)
    result: Any = app.AsyncResult(sweep_id)
    state = result.state
    failure = str(result.result) if state == "FAILURE" else "it was taken after it had expired" if state == "REVOKED" else None
    if found is None:
        return _Look(found=None, taken=False, failure=failure, what="waits for a control worker")
    taken = is_taken(ledger, found)
    if not found.expected:
        what = "finds out the nodes" if taken else "waits for a control worker"
        return _Look(found=found, taken=taken, failure=failure, what=what)
    return _Look(
        found=found,
        taken=taken,
        failure=failure,
        what=counts(found, now=time.time()) if taken else "waits for a control worker",
        answered=len(found.expected) - len(account.silent(found)),
        expected=len(found.expected),
    )


def _bar(console: Console) -> Progress:
    columns = (BarColumn(bar_width=30), MofNCompleteColumn(), TextColumn("nodes"), TimeElapsedColumn())
    return Progress(TextColumn("[bold]sweep[/]    "), *columns, TextColumn("{task.fields[what]}"), console=console)
