"""
The product's own command line, with Celery's waits shortened and, where a test asks for it, a fault at a step of the job.

`python -m tests.support.worker_main worker` is `cni-cleanup worker` but for this. What would take hours (a job whose worker was
killed comes again after two) takes seconds. The variables that begin with `CHAOS_` are written by tests.support.chaos.
"""

import functools
import json
import os
import signal
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from celery.signals import task_prerun

import cli
from tasks import app
from tasks.celery_app import configuration

WAITS_AT_MOST = 120.0
"""Seconds that a step waits for its test: a test that has ended leaves nothing behind."""


def _shorten() -> None:
    """Have the product wait for less: its Celery settings, and constants of its modules by `module:name`."""
    given = json.loads(os.environ.get("CHAOS_OPTIONS", "{}"))
    for name, value in given.get("constants", {}).items():
        module, _, constant = name.partition(":")
        vars(import_module(module))[constant] = value

    def settings() -> dict[str, Any]:
        own = configuration(app.settings)["broker_transport_options"]
        return {**given.get("settings", {}), "broker_transport_options": {**own, **given.get("transport", {})}}

    app.add_defaults(settings)


class _Faults:
    """What happens at the steps of a pass (`workers.node.Observe`), and at `begun` and `swept` before and after it."""

    def __init__(self) -> None:
        self._kill_at = os.environ.get("CHAOS_KILL_AT", "")
        self._kill_all = os.environ.get("CHAOS_KILL") == "all"
        self._once = os.environ.get("CHAOS_ONCE")
        self._wait_at = os.environ.get("CHAOS_WAIT_AT", "")
        self._slow_at = os.environ.get("CHAOS_SLOW_AT", "")
        self._directory = Path(os.environ.get("CHAOS_DIRECTORY", "."))

    def reached(self, step: str) -> None:
        """Do what this step has."""
        if step == self._slow_at:
            time.sleep(1.0)
        if step == self._wait_at:
            (self._directory / "waiting").touch()
            deadline = time.monotonic() + WAITS_AT_MOST
            while not (self._directory / "go").exists() and time.monotonic() < deadline:
                time.sleep(0.02)
        if step == self._kill_at and self._may_kill():
            if self._kill_all:
                os.killpg(os.getpgrp(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)

    def _may_kill(self) -> bool:
        with (self._directory / "kills").open("ab") as file:
            file.write(b".")
            return self._once is None or file.tell() == 1


def _arm() -> None:
    """Have each job of this worker meet its faults; they are set in the child, which alone runs jobs."""
    faults = _Faults()

    def arm(**_facts: Any) -> None:
        import workers.node
        from workers.state import State

        write_json = State.write_json

        def write(self: State, name: str, value: Any) -> None:
            write_json(self, name, value)
            if name == "swept.json":
                faults.reached("swept")

        workers.node.clean = functools.partial(workers.node.clean, observe=faults.reached)
        State.write_json = write  # type: ignore[method-assign]  # a step of its own, between the pass and the ledger
        faults.reached("begun")

    task_prerun.connect(arm, weak=False)


if __name__ == "__main__":
    _shorten()
    if "CHAOS_DIRECTORY" in os.environ:
        _arm()
    cli.main(sys.argv[1:])
