"""
The jobs of one node, which only that node's worker does.

A message can ask for less, never for more: it names the node, may ask for a dry run and may carry a sweep id. Policy is the
node's own configuration.
"""

from celery.utils.log import get_task_logger

from cni.report import summary
from tasks import names
from tasks.celery_app import app
from tasks.errors import Refused, WrongNode, refusing
from tasks.ledger import Summary, is_finished, open_ledger

_log = get_task_logger(__name__)


@app.task(name=names.CLEAN_NODE, throws=(Refused,))
def clean_node(
    node: str,
    dry_run: bool = False,  # noqa: FBT001, FBT002  # a message's arguments have their order by contract
    sweep_id: str | None = None,
) -> Summary:
    """One pass on this node; its report without the files. A pass that was aborted is a report like any other.

    With a sweep id the report is written to the ledger; a node that finished a pass for this sweep before answers with that
    pass's report, so that a repeated message cleans nothing twice.

    Raises:
        WrongNode: it is another node's job.
        Refused: an argument, or a setting of this node, is none.
        redis.RedisError: there is a sweep id, and the ledger does not answer.
    """
    _check_node(node)
    only_look = names.flag("dry_run", dry_run)
    if sweep_id is None:
        return _clean(sweep_id=None, dry_run=only_look)
    ledger = open_ledger()
    before = ledger.report(names.sweep_id(sweep_id), node)
    if before is not None and is_finished(before):
        return before
    report = _clean(sweep_id=sweep_id, dry_run=only_look)
    ledger.record(sweep_id, node, report)
    return report


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


def _clean(*, sweep_id: str | None, dry_run: bool) -> Summary:
    # Not imported above: Beat, control and every `celery call` import this module and never make a pass, and a worker's main
    # process would keep for ever what only its short-lived child needs.
    from workers.node import clean

    with refusing():
        report = clean(app.settings, sweep_id=sweep_id, dry_run=dry_run)
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
