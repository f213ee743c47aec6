"""Traces over Celery: a message carries the id of the span that sent it, and the span of its job is a part of that."""

from typing import TYPE_CHECKING

from celery.signals import beat_init, task_postrun, task_prerun

from cni.settings import Settings
from tasks.celery_app import app
from workers import tracing

if TYPE_CHECKING:
    from opentelemetry.instrumentation.celery import CeleryInstrumentor


def start(settings: Settings, role: str) -> "CeleryInstrumentor | None":
    """Begin to trace this process with the messages that it sends and the jobs that it does; None where that is not wanted."""
    traces = tracing.start(settings, role)
    if traces is not None:
        with tracing.harmless():
            from opentelemetry.instrumentation.celery import CeleryInstrumentor

            instrumentor = CeleryInstrumentor()  # type: ignore[no-untyped-call]  # it has types but there
            instrumentor.instrument(tracer_provider=traces.provider, skip_dep_check=True)
            return instrumentor
    return None


def in_children(settings: Settings, role: str) -> None:
    """Have each child of this worker trace its job, if that is wanted.

    It begins with the job: an idle worker is as small as without traces, and its parent loads nothing for them.
    """
    if not tracing.is_wanted(settings):
        return

    def begin(**job: object) -> None:
        instrumentor = start(settings, role)
        if instrumentor is not None:
            # It has only just connected to the signal that is being sent.
            instrumentor._trace_prerun(**job)  # type: ignore[no-untyped-call]  # noqa: SLF001
            # The job is done then, its result stored and, by what was connected before this, its span ended. The end of the
            # process would be too late: it waits for a parent that may be stopping.
            task_postrun.connect(_end, weak=False)

    task_prerun.connect(begin, weak=False)


def in_beat() -> None:
    """Have Beat trace itself when it starts, if that is wanted; also the one of the `celery` command."""
    beat_init.connect(_begin_beat, weak=False)


def _begin_beat(**_facts: object) -> None:
    start(app.settings, "beat")


def _end(**_facts: object) -> None:
    tracing.end()
