"""The sidecar's command, and how it asks for a pass."""

import json
import subprocess
import sys
import threading

import click

from cli.options import MORE, log_as_service, settings_of, shared_options
from cni import __version__
from cni.errors import UsageError
from cni.settings import Settings
from workers import reports, sidecar, watching
from workers.configuration import environment_for
from workers.metrics import exposition, node_metrics
from workers.state import State
from workers.tokens import read_token

_AT_LEAST = 180.0
"""Seconds that a pass which somebody asked for by HTTP is waited for."""

_STARTS_WITHIN = 30.0
"""Seconds for the process that asks, beside its waiting."""

_USES = (
    "listen",
    "token-file",
    "cnifiles",
    "root",
    "node",
    "state-dir",
    "conf-dir",
    "networks",
    "confirm-after",
    "broker",
    "broker-password-file",
    "log-format",
)


@click.command(short_help="Run this node's sidecar: metrics, and more by HTTP.", epilog=MORE)
@shared_options(*_USES, "config", "debug")
@click.pass_context
def server(context: click.Context) -> None:
    """Serve /metrics, /healthz and /.well-known; with --token-file also /report and POST /cleanup, to whoever has the token."""
    settings = settings_of(context)
    log_as_service(settings)
    if settings.token_file is not None:
        read_token(settings.token_file)
        if settings.node is None:
            raise UsageError("POST /cleanup needs the name of this node: --node NAME, or NODE_NAME in the environment")
    listener = sidecar.listening(settings.listen)
    watcher = watching.Watcher(settings)
    # The first scrape is to find something.
    watcher.look()
    end_watching = watching.start(watcher)
    cleanup = _ByBroker(settings)
    application = sidecar.Sidecar(
        metrics=lambda: exposition(node_metrics(watcher.seen, version=__version__)),
        report_path=State(settings.state_dir).path(reports.NAME),
        cleanup=cleanup,
        version=__version__,
        token_file=settings.token_file,
    )
    try:
        sidecar.serve(application, listener, end=cleanup.end)
    finally:
        end_watching()
        cleanup.end()


class _ByBroker:
    """Asks this node's worker by a process of its own: nothing of Celery stays in the sidecar's memory."""

    def __init__(self, settings: Settings) -> None:
        # Both looks of a pass, and a while for a worker that is busy.
        self._within = max(_AT_LEAST, 2 * settings.confirm_after + 60)
        self._environment = environment_for(settings)
        # A signal may come while the one before is being handled.
        self._lock = threading.RLock()
        self._process: subprocess.Popen[bytes] | None = None
        self._ended = False

    def __call__(self) -> sidecar.Answer:
        """Ask, and wait."""
        command = [sys.executable, "-P", "-m", "tasks.asking", str(self._within)]
        with self._lock:
            if self._ended:
                return self._unanswered()
            process = subprocess.Popen(command, env=self._environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
            self._process = process
        try:
            said, _ = process.communicate(timeout=self._within + _STARTS_WITHIN)
            return sidecar.Answer(**json.loads(said))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return sidecar.Answer(status=504, done=False, reason=f"no answer of the worker within {self._within:g} s")
        except (ValueError, TypeError):
            return self._unanswered()

    def _unanswered(self) -> sidecar.Answer:
        stopped = f"this sidecar is being stopped: what was asked for may still be done within {self._within:g} s"
        reason = stopped if self._ended else "the process that asks the worker has ended: see the log"
        return sidecar.Answer(status=503, done=False, reason=reason)

    def end(self) -> None:
        """Wait for nothing any more. A pass that has begun goes on."""
        with self._lock:
            self._ended = True
            if self._process is not None:
                self._process.terminate()
