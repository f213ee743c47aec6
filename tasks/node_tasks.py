"""
The jobs of one node, which only that node's worker does.

A message can ask for less, never for more: it names the node, may ask for a dry run and may carry a sweep id. Policy is the
node's own configuration.
"""

import contextlib
import time
from collections.abc import Callable

from celery.utils.log import get_task_logger
from redis.exceptions import RedisError

from cni.errors import CleanupError, PassAborted
from cni.report import summary
from tasks import broker, names
from tasks.celery_app import app
from tasks.errors import Refused, WrongNode, refusing
from tasks.ledger import Ledger, Sign, Summary, is_finished, open_ledger
from tasks.polling import watching
from workers.state import State

_log = get_task_logger(__name__)

_SWEPT = "swept.json"
"""In the state directory: the report of the last sweep that this node finished a pass for."""


@app.task(name=names.CLEAN_NODE, throws=(Refused,))
def clean_node(
    node: str,
    dry_run: bool = False,  # noqa: FBT001, FBT002  # a message's arguments have their order by contract
    sweep_id: str | None = None,
) -> Summary:
    """One pass on this node; its report without the files. A pass that was aborted is a report like any other.

    With a sweep id the report is written to the ledger; a node that finished a pass for this sweep before answers with that
    pass's report, so that a repeated message cleans nothing twice. Of a sweep that is stopped the node does nothing, and says so.

    Raises:
        WrongNode: it is another node's job.
        Refused: an argument, or a setting of this node, is none.
        redis.RedisError: there is a sweep id, and the ledger does not answer.
    """
    _check_node(node)
    only_look = names.flag("dry_run", dry_run)
    if sweep_id is None:
        return _clean(sweep_id=None, dry_run=only_look)
    return _clean_for_sweep(names.sweep_id(sweep_id), node, dry_run=only_look)


@app.task(name=names.SCAN_NODE, throws=(Refused,))
def scan_node(node: str) -> Summary:
    """One look at this node, which changes nothing; its report without the files.

    Raises:
        WrongNode: it is another node's job.
        Refused: the argument, or a setting of this node, is none.
    """
    from workers.node import scan

    _check_node(node)
    with refusing():
        return summary(scan(app.settings))


def _clean_for_sweep(sweep_id: str, node: str, *, dry_run: bool) -> Summary:
    state = State(app.settings.state_dir)
    with open_ledger(tries=broker.PATIENT) as ledger:
        before = ledger.report(sweep_id, node)
        if before is not None and is_finished(before):
            return before
        # What a worker had finished that was killed before the ledger had it.
        report = _swept(state, sweep_id)
        if report is None:
            if ledger.is_stopped(sweep_id):
                return _stopped(ledger, sweep_id, node)
            ledger.sign(sweep_id, node, Sign(what="begun", at=time.time()))
    if report is None:
        with watching(lambda: _is_stopped(sweep_id)) as is_stopped:
            report = _clean(sweep_id=sweep_id, dry_run=dry_run, is_stopped=is_stopped)
            if is_stopped() and not is_finished(report):
                with open_ledger(tries=broker.PATIENT) as ledger:
                    return _stopped(ledger, sweep_id, node)
        if is_finished(report):
            with contextlib.suppress(PassAborted):
                state.write_json(_SWEPT, report)
    with open_ledger(tries=broker.PATIENT) as ledger:
        ledger.record(sweep_id, node, report)
    return report


def _swept(state: State, sweep_id: str) -> Summary | None:
    """The report of a pass that this node finished for this sweep, if it did."""
    with contextlib.suppress(CleanupError):
        last = state.read_json(_SWEPT)
        if isinstance(last, dict) and last.get("sweep_id") == sweep_id:
            return last
    return None


def _is_stopped(sweep_id: str) -> bool:
    """Whether the sweep is stopped, as far as Redis tells: the node's own guards do not depend on it."""
    try:
        with open_ledger(tries=0) as ledger:
            return ledger.is_stopped(sweep_id)
    except RedisError:
        return False


def _stopped(ledger: Ledger, sweep_id: str, node: str) -> Summary:
    """Leave the job: a sweep that goes on asks this node again."""
    ledger.sign(sweep_id, node, Sign(what="stopped", at=time.time()))
    _log.warning("the sweep was stopped: this node is asked again when it goes on", extra={"action": "sweep_stopped"})
    return {"node": node, "sweep_id": sweep_id, "stopped": True}


def _clean(*, sweep_id: str | None, dry_run: bool, is_stopped: Callable[[], bool] = lambda: False) -> Summary:
    # Not imported above: Beat, control and every `celery call` import this module and never make a pass, and a worker's main
    # process would keep for ever what only its short-lived child needs.
    from workers.node import clean

    with refusing():
        report = clean(app.settings, sweep_id=sweep_id, dry_run=dry_run, is_stopped=is_stopped)
    # Celery calls a task succeeded that returned, and logs its result as one long line: what a person looks for stands here.
    if report.aborted is not None:
        _log.warning("the pass was aborted (%s): %s", report.aborted.reason, report.aborted.detail)
    else:
        _log.info("%d files removed, %d failed, of %d", report.count("removed"), report.count("failed"), len(report.items))
    return summary(report)


def _check_node(node: object) -> None:
    """See that `node` is the one this worker runs on: a sender can get past the router.

    Raises:
        WrongNode: it is another one.
        Refused: no node can have this name.
    """
    asked = names.node_name(node)
    own = app.settings.node
    if asked != own:
        here = "a worker without a node name" if own is None else f"node {own}"
        raise WrongNode(f"this is {here}: the job for {asked} was not done")
