"""
`python -m workers clean|check`: one pass, or the preflight, of the node that the environment describes, in a process of its own.

A worker starts it, so that nothing of what a pass imports stays in the worker's memory.
"""

import logging
import signal
import sys
from collections.abc import Sequence

from cni.errors import CleanupError
from cni.settings import Settings
from workers import logs, tracing
from workers.configuration import settings_from_environment


def main(arguments: Sequence[str]) -> int:
    """Do it, and tell what came of it on stderr; the exit status, 0 if all is well."""
    if arguments not in (["clean"], ["check"]):
        sys.stderr.write("usage: python -m workers clean|check\n")
        return 2
    log = logging.getLogger("workers")
    logs.set_up("auto", node=None)
    # A Ctrl-C in the worker's terminal reaches this process as well, and is to end it without a word.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        settings = settings_from_environment()
        logs.set_up(settings.log_format, node=settings.node)
        return _clean(log, settings) if arguments == ["clean"] else _check(log, settings)
    except CleanupError as error:
        log.error("%s", error, extra={"action": "refused"})  # noqa: TRY400  # one line is for the operator, a traceback is not
        return 1


def _clean(log: logging.Logger, settings: Settings) -> int:
    from workers.node import clean

    tracing.start(settings, "early")
    try:
        report = clean(settings)
    finally:
        tracing.end()
    logs.log_end(log, report)
    return 1 if report.aborted is not None or report.count("failed") else 0


def _check(log: logging.Logger, settings: Settings) -> int:
    from workers.preflight import preflight

    bad = [check for check in preflight(settings) if not check.good]
    for check in bad:
        log.warning("%s: %s", check.name, check.detail, extra={"action": "check_failed"})
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
