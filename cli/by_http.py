"""Asking nodes' sidecars for a pass by HTTP, where there is no broker."""

import json
import queue
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import click
import urllib3
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from cli.show import new_table, print_table
from cni.errors import UsageError
from cni.names import printable
from cni.settings import Settings
from workers.kube import ApiFailed, within
from workers.tokens import read_token

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


def ask_all(settings: Settings, *, timeout: float) -> int:
    """Post to the HTTP entry of each of `urlserver`, and show what each answered; 1 if one did not answer that it is done.

    A dead one stops nobody else's; `timeout` is each one's own.

    Raises:
        UsageError: the token file holds no token, or it is to be a dry run, which this entry does not know.
    """
    if settings.dry_run:
        raise UsageError("--dry-run cannot be asked for by --urlserver: set it in the node's own configuration")
    entries = list(dict.fromkeys(_entry(url) for url in settings.urlserver))
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    if settings.token_file is not None:
        headers["Authorization"] = f"Bearer {read_token(settings.token_file)}"
    try:
        with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
            answers = list(bar.track(_asked(entries, headers, timeout), total=len(entries), description="sidecars"))
    except KeyboardInterrupt:
        click.echo("cni-cleanup: not waited for any more: the passes that have begun go on", err=True)
        return 130
    answers.sort(key=lambda answer: entries.index(answer.url))
    shown = new_table("sidecars")
    for column in ("url", "status", "answer"):
        shown.add_column(column, overflow="fold")
    for answer in answers:
        status = "[green]done[/]" if answer.done else "[red]failed[/]"
        shown.add_row(escape(printable(answer.url)), status, escape(printable(answer.detail)))
    print_table(Console() if sys.stdout.isatty() else Console(width=200), shown)
    return 0 if all(answer.done for answer in answers) else 1


def _asked(entries: Sequence[str], headers: Mapping[str, str], timeout: float) -> Iterator[Answer]:
    """The answers as they come. The threads do not keep the program: one that is not waited for any more may wait for an hour."""
    left: queue.SimpleQueue[str] = queue.SimpleQueue()
    answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
    # No retries: a request that was answered late may have begun a pass.
    pool = urllib3.PoolManager(num_pools=_AT_ONCE, retries=False, timeout=urllib3.Timeout(connect=_CONNECT_TIMEOUT, read=timeout))
    for url in entries:
        left.put(url)

    def run() -> None:
        while True:
            try:
                url = left.get_nowait()
            except queue.Empty:
                return
            answers.put(_ask(pool, url, headers, timeout))

    for _ in range(min(_AT_ONCE, len(entries))):
        threading.Thread(target=run, name="urlserver", daemon=True).start()
    for _ in entries:
        yield answers.get()


def _ask(pool: urllib3.PoolManager, url: str, headers: Mapping[str, str], timeout: float) -> Answer:
    def post() -> tuple[int, bytes]:
        response = pool.request("POST", url, body=b"", headers=headers, redirect=False, preload_content=False)
        try:
            return response.status, response.read(_ANSWER_LIMIT)
        finally:
            response.close()

    try:
        # A server that drips its answer knows no other limit.
        status, body = within(timeout, post)
    except (urllib3.exceptions.ReadTimeoutError, ApiFailed):
        return Answer(url=url, done=False, detail="no answer in time: if its pass has begun, it goes on")
    # The last of them: what one server sends must not cost the others their line.
    except Exception as error:  # noqa: BLE001  # urllib3 lets through what http.client and codecs make of nonsense
        told = " ".join(str(error).split()).rpartition("): ")[2]
        return Answer(url=url, done=False, detail=told[:200] or type(error).__name__)
    return _understood(url, status, body)


def _understood(url: str, status: int, body: bytes) -> Answer:
    if 300 <= status < 400:
        return Answer(url=url, done=False, detail=f"it answered {status}, to go elsewhere, where neither we nor the token go")
    try:
        value = json.loads(body)
        what, reason = str(value["status"]), str(value.get("reason") or "")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        hint = {401: ": it wants a token, or another one (--token-file)", 403: ": the token is not accepted"}.get(status, "")
        return Answer(url=url, done=False, detail=f"it answered {status}{hint or ', and nothing that can be understood'}")
    done = status == 200 and what == "Done"
    hint = " (--token-file names the token)" if status == 401 else ""
    told = f"{reason or what}{hint}" + ("" if status == 200 else f" ({status})")
    return Answer(url=url, done=done, detail=told[:500])


def _entry(url: str) -> str:
    """The URL of the entry itself: of a server alone it is `/cleanup`."""
    parts = urlsplit(url)
    return url if parts.path not in ("", "/") else parts._replace(path="/cleanup").geturl()
