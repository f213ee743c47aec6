"""
`python -m workers clean|check`: one pass, or the preflight, of the node that the environment describes, in a process of its own.

A worker starts it, so that nothing of what a pass imports stays in the worker's memory.
"""

import logging
import signal
import sys
from collections.abc import Sequence

from cni.errors import CleanupError
from workers.configuration import settings_from_environment


def main(arguments: Sequence[str]) -> int:
    """Do it, and tell what came of it on stderr; the exit status, 0 if all is well."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    log = logging.getLogger("workers")
    if arguments not in (["clean"], ["check"]):
        log.error("usage: python -m workers clean|check")
        return 2
    # A Ctrl-C in the worker's terminal reaches this process as well, and is to end it without a word.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        return _clean(log) if arguments == ["clean"] else _check(log)
    except CleanupError as error:
        log.error("%s", error)  # noqa: TRY400  # one line is for the operator, a traceback is not
        return 1


def _clean(log: logging.Logger) -> int:
    from workers.node import clean

    report = clean(settings_from_environment())
    if report.aborted is not None:
        log.warning("the pass was aborted (%s): %s", report.aborted.reason, report.aborted.detail)
        return 1
    log.info("%d files removed, %d failed, of %d", report.count("removed"), report.count("failed"), len(report.items))
    return 1 if report.count("failed") else 0


def _check(log: logging.Logger) -> int:
    from workers.preflight import preflight

    bad = [check for check in preflight(settings_from_environment()) if not check.good]
    for check in bad:
        log.warning("%s: %s", check.name, check.detail)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
