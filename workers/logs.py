"""What the long-running processes say of themselves: one JSON object a line, or text where somebody sits before a terminal."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import IO, Literal

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from cni.names import printable
from cni.report import Report, rfc3339

Format = Literal["auto", "json", "text"]

_FIELDS = ("time", "levelname", "action", "message", "name", "node", "sweep_id", "pass_id", "trace_id")
"""In every line, in this order; null where there is none. What an event has of its own follows."""

_TEXT = "%(asctime)s %(levelname)-7s %(message)s"

_sweep_id: ContextVar[str | None] = ContextVar("sweep_id", default=None)
_pass_id: ContextVar[str | None] = ContextVar("pass_id", default=None)


@contextmanager
def about(*, sweep_id: str | None = None, pass_id: str | None = None) -> Iterator[None]:
    """Every line of this block is about a sweep, a pass, or both; what is left out stays as it is around it."""
    tokens = [
        (variable, variable.set(value)) for variable, value in ((_sweep_id, sweep_id), (_pass_id, pass_id)) if value is not None
    ]
    try:
        yield
    finally:
        for variable, token in tokens:
            variable.reset(token)


def set_up(
    form: Format,
    *,
    node: str | None,
    level: int | str = logging.INFO,
    stream: IO[str] | None = None,
    untraced: tuple[type[BaseException], ...] = (),
) -> None:
    """Have all of this process's logging in one form, on stderr unless another stream is given.

    `untraced` are errors that say all in their message: where they come from helps nobody.
    """
    stream = sys.stderr if stream is None else stream
    as_json = form == "json" or (form == "auto" and not stream.isatty())
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_json() if as_json else _Text(_TEXT, "%H:%M:%S"))
    handler.addFilter(_Context(node, untraced))
    logging.basicConfig(level=level, handlers=[handler], force=True)


def log_end(log: logging.Logger, report: Report) -> None:
    """Say what a pass came to; a line of its own, since Celery calls a job succeeded whose pass was aborted."""
    about_it = {"pass_id": report.pass_id, "sweep_id": report.sweep_id}
    if report.aborted is not None:
        reason, detail = report.aborted.reason, report.aborted.detail
        log.warning(
            "the pass was aborted (%s): %s", reason, detail, extra={"action": "pass_aborted", "reason": reason, **about_it}
        )
        return
    removed, failed, files = report.count("removed"), report.count("failed"), len(report.items)
    numbers = {
        "files": files,
        "leaked": report.leaked(),
        "removed": removed,
        "failed": failed,
        "witnesses": dict(report.witnesses),
    }
    log.info("%d files removed, %d failed, of %d", removed, failed, files, extra={"action": "pass_ended", **numbers, **about_it})


def _json() -> logging.Formatter:
    return JsonFormatter(
        list(_FIELDS),
        rename_fields={"levelname": "level", "name": "logger"},
        # Celery's own form of what its lines say already, a job's whole result among it.
        reserved_attrs=[*RESERVED_ATTRS, "data"],
        exc_info_as_array=False,
        json_ensure_ascii=True,
    )


class _Text(logging.Formatter):
    """For people: names come from elsewhere, and none may make a line of its own or command the terminal."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # the base class's name
        record.message = printable(record.message.rstrip())
        return super().formatMessage(record)


class _Context(logging.Filter):
    """Adds to each line what it is about. What a call says itself, in `extra`, counts more."""

    def __init__(self, node: str | None, untraced: tuple[type[BaseException], ...]) -> None:
        super().__init__()
        self._node = node
        self._untraced = untraced

    def filter(self, record: logging.LogRecord) -> bool:
        # A library's lines have no action of their own: that it spoke is one.
        said = {
            "time": rfc3339(int(record.created * 1e9)),
            "action": record.name,
            "node": self._node,
            "sweep_id": _sweep_id.get(),
            "pass_id": _pass_id.get(),
        }
        for name, value in (*said.items(), ("trace_id", _trace_id())):
            if not hasattr(record, name):
                setattr(record, name, value)
        if record.exc_info and isinstance(record.exc_info[1], self._untraced):
            record.exc_info = None
        return True


def _trace_id() -> str | None:
    """That of the span which is open here, where traces are made: who does not make any does not load OpenTelemetry for this."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    context = trace.get_current_span().get_span_context()
    return f"{context.trace_id:032x}" if context.is_valid else None
