"""
The jobs of one node, which only that node's worker does.

A message can ask for less, never for more: it names the node, may ask for a dry run and may carry a sweep id. Policy is the
node's own configuration.
"""

import contextlib
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from celery.utils.log import get_task_logger
from redis.exceptions import RedisError

from cni.errors import CleanupError, PassAborted
from cni.report import summary
from tasks import names
from tasks.celery_app import app
from tasks.errors import Refused, WrongNode, refusing
from tasks.ledger import Ledger, Sign, Summary, is_finished, open_ledger
from tasks.polling import watching
from tasks.told import Told
from workers.logs import log_end
from workers.state import State

_log = get_task_logger(__name__)

_T = TypeVar("_T")

_BUSY_FOR = 600.0
_BUSY_AGAIN = 5.0
"""Seconds: for how long a pass that runs is waited for, and how often it is asked."""

_SWEPT = "swept.json"
"""In the state directory: the report of the last sweep that this node finished a pass for."""


@app.task(name=names.CLEAN_NODE, throws=(Refused,))
def clean_node(
    node: str,
    dry_run: bool = False,  # noqa: FBT001, FBT002  # a message's arguments have their order by contract
    sweep_id: str | None = None,
) -> Told:
    """One pass on this node; its report without the files. A pass that was aborted is a report like any other.

    With a sweep id the report is written to the ledger; a node that finished a pass for this sweep before answers with that
    pass's report, so that a repeated message cleans nothing twice. Of a sweep that is stopped the node does nothing, and says so.

    Raises:
        WrongNode: it is another node's job.
        Refused: an argument, or a setting of this node, is none.
    """
    _check_node(node)
    only_look = names.flag("dry_run", dry_run)
    if sweep_id is None:
        return Told(_clean(sweep_id=None, dry_run=only_look))
    return Told(_clean_for_sweep(names.sweep_id(sweep_id), node, dry_run=only_look))


@app.task(name=names.SCAN_NODE, throws=(Refused,))
def scan_node(node: str) -> Told:
    """One look at this node, which changes nothing; its report without the files.

    Raises:
        WrongNode: it is another node's job.
        Refused: the argument, or a setting of this node, is none.
    """
    from workers.node import scan

    _check_node(node)
    with refusing():
        return Told(summary(scan(app.settings)))


def _clean_for_sweep(sweep_id: str, node: str, *, dry_run: bool) -> Summary:
    state = State(app.settings.state_dir)
    before = _patiently(lambda ledger: ledger.report(sweep_id, node))
    if before is not None and _answers(before, sweep_id, dry_run=dry_run):
        return before
    # What a worker had finished that was killed before the ledger had it.
    report = _swept(state, sweep_id, dry_run=dry_run)
    removed = 0
    while report is None:
        if not _patiently(partial(_begin, sweep_id=sweep_id, node=node, removed=removed)):
            _log.warning("the sweep was stopped: this node is asked again when it goes on", extra={"action": "sweep_stopped"})
            return {"node": node, "sweep_id": sweep_id, "stopped": True}
        with watching(lambda: _is_stopped(sweep_id)) as is_stopped:
            found = _clean_when_free(state, sweep_id=sweep_id, dry_run=dry_run, is_stopped=is_stopped)
            # Of one that met the stop switch it is asked once more: when the sweep goes on by now, so does this node.
            report = None if is_stopped() and not is_finished(found) else found
            removed += found["outcomes"].get("removed", 0)
    if is_finished(report):
        with contextlib.suppress(PassAborted):
            state.write_json(_SWEPT, report)
    _patiently(lambda ledger: ledger.record(sweep_id, node, report))
    return report


def _answers(report: Summary, sweep_id: str, *, dry_run: bool) -> bool:
    """Whether a report is this node's, of a finished pass for this sweep, that did what is asked for.

    A dry run that somebody asked for does not answer a job that is none.
    """
    own = report.get("node") == app.settings.node and report.get("sweep_id") == sweep_id
    was_dry = bool(report.get("policy", {}).get("dry_run"))
    return own and is_finished(report) and (dry_run or app.settings.dry_run or not was_dry)


def _clean_when_free(state: State, *, sweep_id: str, dry_run: bool, is_stopped: Callable[[], bool]) -> Summary:
    """One pass; where another one runs, of the worker's own accord or by hand, it is waited for as long as one may take.

    Another worker's, for the same sweep, is the answer.
    """
    deadline = time.monotonic() + _BUSY_FOR
    while True:
        report = _clean(sweep_id=sweep_id, dry_run=dry_run, is_stopped=is_stopped)
        busy = report["aborted"] is not None and report["aborted"]["reason"] == "busy"
        if not busy or is_stopped() or time.monotonic() > deadline:
            return report
        time.sleep(_BUSY_AGAIN)
        done = _swept(state, sweep_id, dry_run=dry_run)
        if done is not None:
            return done


def _patiently(do: Callable[[Ledger], _T]) -> _T:
    """Do something with the ledger, again and again for as long as a job may take: while Redis is away, or its memory full.

    The job is held meanwhile. One that failed would be taken for done, and its report would be lost.
    """
    wait = 1.0
    while True:
        try:
            with open_ledger(tries=0) as ledger:
                return do(ledger)
        except RedisError as error:
            why = " ".join(str(error).split())
            _log.warning("the ledger takes nothing (%s): tried again in %g s", why, wait, extra={"action": "ledger_away"})
        # The job's time limit ends it.
        time.sleep(wait)
        wait = min(2 * wait, 15.0)


def _begin(ledger: Ledger, *, sweep_id: str, node: str, removed: int) -> bool:
    """Note that this node's job begins; false where the sweep is stopped, and that is noted: the node is to be asked again.

    `removed` files had gone before the stop.
    """
    if not ledger.is_stopped(sweep_id):
        ledger.sign(sweep_id, node, Sign(what="begun", at=time.time()))
        return True
    ledger.sign(
        sweep_id, node, Sign(what="stopped", at=time.time(), why=f"{removed} files were removed by then" if removed else "")
    )
    # Whoever had it go on in between did not find this node among those to ask again.
    return not ledger.is_stopped(sweep_id) and _begin(ledger, sweep_id=sweep_id, node=node, removed=removed)


def _swept(state: State, sweep_id: str, *, dry_run: bool) -> Summary | None:
    """The report of a pass that this node finished for this sweep, if it did."""
    with contextlib.suppress(CleanupError):
        last = state.read_json(_SWEPT)
        if isinstance(last, dict) and _answers(last, sweep_id, dry_run=dry_run):
            return last
    return None


def _is_stopped(sweep_id: str) -> bool:
    """Whether the sweep is stopped, as far as Redis tells: the node's own guards do not depend on it."""
    try:
        with open_ledger(tries=0) as ledger:
            return ledger.is_stopped(sweep_id)
    except (RedisError, OSError):
        return False


def _clean(*, sweep_id: str | None, dry_run: bool, is_stopped: Callable[[], bool] = lambda: False) -> Summary:
    # Not imported above: Beat, control and every `celery call` import this module and never make a pass, and a worker's main
    # process would keep for ever what only its short-lived child needs.
    from workers.node import clean

    with refusing():
        report = clean(app.settings, sweep_id=sweep_id, dry_run=dry_run, is_stopped=is_stopped)
    # Celery calls a task succeeded that returned: that a pass was aborted stands out here alone.
    log_end(_log, report)
    return summary(report)


def _check_node(node: object) -> None:
    """See that `node` is the one this worker runs on: a sender can get past the router.

    Raises:
        WrongNode: it is another one.
        Refused: no node can have this name.
    """
    asked = names.node_name(node)
    own = None if app.is_control else app.settings.node
    if asked != own:
        here = "a worker without a node name" if own is None else f"node {own}"
        raise WrongNode(f"this is {here}: the job for {asked} was not done")
