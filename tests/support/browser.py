"""A page as a browser has it: headless Chromium, in a profile of its own, that reaches nothing but this machine."""

import os
import signal
import subprocess
import tempfile
from pathlib import Path

from tests.support.skips import require_program

WITHIN = 60.0
"""Seconds for one page; two are usual, but the machine may be busy."""


def dom(url_or_path: str | Path, *, wait_ms: int = 0) -> str:
    """The page's HTML after its scripts, if it has some, have had `wait_ms` of the page's own time.

    That time stands still while the page waits for an answer, so that a busy machine needs no more of it.

    Raises:
        subprocess.TimeoutExpired: it was not there in time.
        AssertionError: the browser failed; with what it said.
    """
    waits = [f"--virtual-time-budget={wait_ms}"] if wait_ms else []
    return _chromium("--dump-dom", *waits, _url(url_or_path))


def screenshot(url_or_path: str | Path, path: Path, size: tuple[int, int] = (1200, 1600), *, wait_ms: int = 0) -> None:
    """A picture (PNG) at `path` of the page's upper left, `size` pixels wide and high; raises as `dom`."""
    waits = [f"--virtual-time-budget={wait_ms}"] if wait_ms else []
    shot = [f"--screenshot={path}", f"--window-size={size[0]},{size[1]}", "--hide-scrollbars"]
    _chromium(*shot, *waits, _url(url_or_path))
    assert path.is_file(), f"no picture of {url_or_path}"


def _url(url_or_path: str | Path) -> str:
    text = os.fspath(url_or_path)
    return text if "://" in text else Path(text).absolute().as_uri()


def _chromium(*arguments: str) -> str:
    program = require_program("chromium", "chromium")
    with tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True) as profile:
        command = [
            os.fspath(program),
            "--headless",
            f"--user-data-dir={profile}",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-dev-shm-usage",
            "--disable-gpu",
            "--no-proxy-server",
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
            # The sandbox of Chromium does not start as root.
            *(["--no-sandbox"] if os.geteuid() == 0 else []),
            *arguments,
        ]
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "HOME": profile},
            start_new_session=True,
        ) as process:
            try:
                out, err = process.communicate(timeout=WITHIN)
            except BaseException:
                # Its children too, which outlive it when it is killed. Nobody has waited for it: its id is still its own.
                os.killpg(process.pid, signal.SIGKILL)
                raise
    assert process.returncode == 0, f"chromium ended with {process.returncode}: {err.decode(errors='replace')[-2000:]}"
    return out.decode()
