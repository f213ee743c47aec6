"""Asking nodes' sidecars for a pass by HTTP, where there is no broker."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import urlsplit

import urllib3
from rich.console import Console
from rich.progress import Progress

from cli.show import new_table, print_table, printable
from cni.errors import UsageError
from cni.settings import Settings

_AT_ONCE = 32
"""Sidecars asked at the same time: each answers when its pass is done, which takes a minute and more."""

_CONNECT_TIMEOUT = 5.0
_ANSWER_LIMIT = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one sidecar said."""

    url: str
    done: bool
    detail: str


def ask_all(settings: Settings, urls: str, *, token_file: str | None, timeout: float) -> int:
    """Post to the HTTP entry of each, and show what each answered; 1 if one did not answer that it is done.

    A dead one stops nobody else's.

    Raises:
        UsageError: a URL is none, the token cannot be read, or it is to be a dry run, which this entry does not know.
    """
    if settings.dry_run:
        raise UsageError("--dry-run cannot be asked for by --urlserver: set it in the node's own configuration")
    entries = [_entry(part.strip()) for part in urls.split(",") if part.strip()]
    if not entries:
        raise UsageError("--urlserver wants URLs such as http://10.0.0.7:9010, separated by commas")
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    if token_file is not None:
        headers["Authorization"] = f"Bearer {_token(token_file)}"
    # No retries: a request that was answered late may have begun a pass.
    pool = urllib3.PoolManager(num_pools=_AT_ONCE, retries=False, timeout=urllib3.Timeout(connect=_CONNECT_TIMEOUT, read=timeout))
    with (
        Progress(console=Console(stderr=True), transient=True) as bar,
        ThreadPoolExecutor(max_workers=_AT_ONCE) as threads,
    ):
        answers = list(bar.track(threads.map(lambda url: _ask(pool, url, headers), entries), total=len(entries)))
    shown = new_table("sidecars")
    for column in ("url", "status", "answer"):
        shown.add_column(column, overflow="fold")
    for answer in answers:
        status = "[green]done[/]" if answer.done else "[red]failed[/]"
        shown.add_row(printable(answer.url), status, printable(answer.detail))
    print_table(Console() if sys.stdout.isatty() else Console(width=200), shown)
    return 0 if all(answer.done for answer in answers) else 1


def _ask(pool: urllib3.PoolManager, url: str, headers: dict[str, str]) -> Answer:
    try:
        response = pool.request("POST", url, body=b"", headers=headers, redirect=False, preload_content=False)
        body = response.read(_ANSWER_LIMIT)
        response.release_conn()
    except (urllib3.exceptions.HTTPError, OSError) as error:
        return Answer(url=url, done=False, detail=" ".join(str(error).split())[:200])
    try:
        value = json.loads(body)
        status, reason = value["status"], value.get("reason") or ""
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return Answer(url=url, done=False, detail=f"it answered {response.status}, and nothing that can be understood")
    done = response.status == 200 and status == "Done"
    return Answer(
        url=url, done=done, detail=" ".join(filter(None, (str(status), str(reason), "" if done else f"({response.status})")))
    )


def _entry(url: str) -> str:
    """The URL of the entry itself: of a server alone it is `/cleanup`.

    Raises:
        UsageError: it is no URL.
    """
    wanted = UsageError(f"--urlserver wants URLs such as http://10.0.0.7:9010, not {url[:80]!r}")
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  # reading it is what checks it
    except ValueError as error:
        raise wanted from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise wanted
    return url if parts.path not in ("", "/") else parts._replace(path="/cleanup").geturl()


def _token(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            token = file.read().strip()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not ASCII"
        raise UsageError(f"--token-file {path} cannot be read: {why}") from error
    if not token or not token.isprintable() or " " in token:
        raise UsageError(f"--token-file {path} holds no token")
    return token
