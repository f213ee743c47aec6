"""`job --urlserver` against real HTTP servers that answer as sidecars do, and as what else may listen there."""

import contextlib
import json
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cli.by_http import ask_all
from cni.errors import UsageError
from tests.support.api_server import refusing_port
from tests.support.polling import until
from tests.support.program import Done, Terminal, run
from workers.configuration import load_settings

TOKEN = "token-of-the-test"  # noqa: S105  # a made-up one, for servers that only tests reach

DONE = json.dumps({"status": "Done"}).encode()


@dataclass(kw_only=True)
class Sidecar:
    """One server that answers every request alike."""

    status: int = 200
    body: bytes = DONE
    headers: Mapping[str, str] = field(default_factory=dict)
    #: Sends nothing until the test is over.
    silent: bool = False
    #: Sends a byte of an endless body now and then.
    drips: bool = False
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    url: str = ""


@contextlib.contextmanager
def serving(*sidecars: Sidecar) -> Iterator[str]:
    """Serve them all; yields their URLs as `--urlserver` wants them."""
    with contextlib.ExitStack() as stack:
        for sidecar in sidecars:
            stack.enter_context(_serving(sidecar))
        yield ",".join(sidecar.url for sidecar in sidecars)


@contextlib.contextmanager
def _serving(sidecar: Sidecar) -> Iterator[None]:
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sidecar.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
            if sidecar.silent:
                over.wait()
                return
            self.send_response(sidecar.status)
            for name, value in sidecar.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(sidecar.body)
            while sidecar.drips and not over.wait(0.1):
                self.wfile.write(b" ")

        def log_message(self, *_arguments: Any) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that hangs up is what some tests do."""

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        sidecar.url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield
        finally:
            over.set()
            server.shutdown()
            thread.join()


def ask(home: Path, urls: str, *more: str, variables: Mapping[str, str] | None = None) -> Done:
    # Where nobody listens: this way of asking does without a broker.
    return run("job", "--urlserver", urls, *more, "--broker=redis://127.0.0.1:1/0", home=home, variables=variables)


def rows(done: Done) -> dict[str, tuple[str, str]]:
    """Status and answer by URL."""
    found = [line.split(maxsplit=2) for line in done.out.splitlines() if line.startswith("http")]
    return {url: (status, answer) for url, status, answer in found}


def refusal(urls: str, *, token_file: str | None = None) -> str:
    """What is said of wrong usage, before anybody is asked; the program makes it one line and exit 2."""
    with pytest.raises(UsageError) as error:
        ask_all(replace(load_settings({"urlserver": urls}, {}), token_file=token_file), timeout=1.0)
    assert "\n" not in str(error.value)
    return str(error.value)


class TestAnAnswer:
    def test_done_is_success(self, tmp_path: Path):
        sidecar = Sidecar()
        with serving(sidecar) as urls:
            done = ask(tmp_path, urls)
        assert (done.status, done.err) == (0, "")
        assert rows(done) == {f"{sidecar.url}/cleanup": ("done", "Done")}
        ((path, headers),) = sidecar.requests
        assert path == "/cleanup"
        assert "authorization" not in headers
        assert headers["content-length"] == "0"

    def test_every_refusal_and_every_nonsense_is_a_row_and_the_others_are_asked_all_the_same(self, tmp_path: Path):
        error = json.dumps({"status": "Error", "reason": "aborted (hold): /state/hold is there"}).encode()
        markup = json.dumps({"status": "Error", "reason": "[red]a\x1b[2Jb[/]"}).encode()
        cases: dict[str, tuple[Sidecar, str]] = {
            "error": (Sidecar(body=error), "aborted (hold): /state/hold is there"),
            "busy": (Sidecar(status=409, body=json.dumps({"status": "Error", "reason": "busy"}).encode()), "busy (409)"),
            "done, but not 200": (Sidecar(status=202), "Done (202)"),
            "unauthorized": (Sidecar(status=401, body=b""), "401: it wants a token"),
            "forbidden": (Sidecar(status=403, body=b"<html>"), "403: the token is not accepted"),
            "method": (Sidecar(status=405, body=b""), "405, and nothing that can be understood"),
            "too large": (Sidecar(status=413, body=b""), "413, and nothing that can be understood"),
            "unavailable": (Sidecar(status=503, body=b"no"), "503, and nothing that can be understood"),
            "gateway timeout": (Sidecar(status=504, body=b"{}"), "504, and nothing that can be understood"),
            "no JSON": (Sidecar(body=b"OK"), "200, and nothing that can be understood"),
            "binary": (Sidecar(body=b"\xff\xfe\0"), "200, and nothing that can be understood"),
            "too deep": (Sidecar(body=b"[" * 100_000), "200, and nothing that can be understood"),
            "a list": (Sidecar(body=b"[1]"), "200, and nothing that can be understood"),
            "endless": (Sidecar(body=b"x" * (4 << 20)), "200, and nothing that can be understood"),
            "markup": (
                Sidecar(body=markup),
                r"[red]a\x1b[2Jb[/]",
            ),
            "status of another type": (Sidecar(body=b'{"status": true}'), "True"),
            "compressed nonsense": (Sidecar(headers={"Content-Encoding": "gzip"}), ""),
            "well": (Sidecar(), "Done"),
        }
        with serving(*(sidecar for sidecar, _ in cases.values())) as urls:
            done = ask(tmp_path, urls)
        assert done.status == 1
        found = rows(done)
        assert list(found) == [f"{url}/cleanup" for url in urls.split(",")]
        for name, (sidecar, told) in cases.items():
            status, answer = found[f"{sidecar.url}/cleanup"]
            assert (name, status) == (name, "done" if name == "well" else "failed")
            assert told in answer, name
            assert len(sidecar.requests) == 1, name

    def test_a_redirect_is_not_followed_and_the_token_stays_here(self, tmp_path: Path):
        elsewhere = Sidecar()
        (tmp_path / "token").write_text(f"{TOKEN}\n")
        with serving(elsewhere), serving(Sidecar(status=307, headers={"Location": f"{elsewhere.url}/cleanup"})) as urls:
            done = ask(tmp_path, urls, f"--token-file={tmp_path / 'token'}")
        assert done.status == 1
        assert "it answered 307" in done.out
        assert elsewhere.requests == []

    def test_the_token_is_sent_as_bearer_and_shown_nowhere(self, tmp_path: Path):
        sidecar = Sidecar(status=401, body=b"")
        (tmp_path / "token").write_text(f"{TOKEN}\n")
        with serving(sidecar) as urls:
            done = ask(tmp_path, urls, f"--token-file={tmp_path / 'token'}", "--debug")
        ((_, headers),) = sidecar.requests
        assert headers["authorization"] == f"Bearer {TOKEN}"
        assert TOKEN not in done.out + done.err

    def test_a_path_of_its_own_is_kept(self, tmp_path: Path):
        sidecar = Sidecar()
        with serving(sidecar):
            done = ask(tmp_path, f"{sidecar.url}/behind/proxy?node=1, {sidecar.url}/,")
        assert done.status == 0
        assert sorted(path for path, _ in sidecar.requests) == ["/behind/proxy?node=1", "/cleanup"]

    def test_a_url_that_is_named_twice_is_asked_once(self, tmp_path: Path):
        sidecar = Sidecar()
        with serving(sidecar):
            assert ask(tmp_path, f"{sidecar.url},{sidecar.url}/,{sidecar.url}/cleanup").status == 0
        assert len(sidecar.requests) == 1

    def test_no_proxy_of_the_environment_is_asked(self, tmp_path: Path):
        sidecar = Sidecar()
        with serving(sidecar) as urls, refusing_port() as port:
            done = ask(tmp_path, urls, variables={"http_proxy": f"http://127.0.0.1:{port}", "no_proxy": ""})
        assert done.status == 0


class TestNoAnswer:
    def test_a_dead_one_in_the_middle_stops_nobody(self, tmp_path: Path):
        first, last = Sidecar(), Sidecar()
        with serving(first), serving(last), refusing_port() as port:
            done = ask(tmp_path, f"{first.url},http://127.0.0.1:{port},{last.url}")
        assert done.status == 1
        found = rows(done)
        assert [status for status, _ in found.values()] == ["done", "failed", "done"]
        assert "Connection refused" in found[f"http://127.0.0.1:{port}/cleanup"][1]

    def test_one_whose_name_nobody_knows_is_a_row(self, tmp_path: Path):
        sidecar = Sidecar()
        with serving(sidecar) as urls:
            done = ask(tmp_path, f"http://nobody.invalid:9010,{urls}")
        assert done.status == 1
        assert [status for status, _ in rows(done).values()] == ["failed", "done"]

    @pytest.mark.parametrize("sidecar", [Sidecar(silent=True), Sidecar(drips=True, body=b"")])
    def test_one_that_does_not_answer_is_waited_for_until_the_timeout(self, tmp_path: Path, sidecar: Sidecar):
        with serving(sidecar, Sidecar()) as urls:
            done = ask(tmp_path, urls, "--timeout=2s")
        assert done.status == 1
        assert [status for status, _ in rows(done).values()] == ["failed", "done"]
        assert "no answer in time: if its pass has begun, it goes on" in done.out

    def test_ctrl_c_does_not_wait_for_them(self, tmp_path: Path):
        sidecar = Sidecar(silent=True)
        with serving(sidecar) as urls, Terminal("job", "--urlserver", urls, home=tmp_path, streams=["stdout"]) as terminal:
            until(lambda: sidecar.requests, seconds=60, what="the request")
            terminal.process.send_signal(signal.SIGINT)
            done = terminal.wait()
        assert done.status == 130
        assert "the passes that have begun go on" in done.err


class TestAnAddress:
    def test_ones_of_ipv6_are_shown_as_they_are(self, tmp_path: Path):
        # Its brackets would be markup to the table.
        done = ask(tmp_path, "http://[fd00::1]:1,http://[::1]:1", "--timeout=2s")
        assert done.status == 1
        assert list(rows(done)) == ["http://[fd00::1]:1/cleanup", "http://[::1]:1/cleanup"]

    @pytest.mark.parametrize(
        "urls",
        [
            "",
            ",",
            "10.0.0.7:9010",
            "node-1",
            "ftp://10.0.0.7",
            "http://",
            "http:///cleanup",
            "http://10.0.0.7:port",
            "http://10.0.0.7:99999",
            "http://[fd00::1",
            "http://a b/",
            "http://10.0.0.7:9010,nonsense",
            "http://h\x1b[2J/",
        ],
    )
    def test_nonsense_is_one_line(self, urls: str):
        told = refusal(urls)
        assert told.startswith("--urlserver: ")
        assert "such as http://10.0.0.7:9010" in told
        assert told.isprintable()

    def test_nobody_is_asked_where_one_is_nonsense(self, tmp_path: Path):
        sidecar = Sidecar()
        with serving(sidecar):
            done = ask(tmp_path, f"{sidecar.url},nonsense")
        assert (done.status, done.out) == (2, "")
        assert "'nonsense'" in done.line
        assert sidecar.requests == []

    def test_a_password_in_it_is_refused_and_not_repeated(self):
        told = refusal("http://name:secret-word@10.0.0.7:9010")
        assert "--token-file" in told
        assert "secret-word" not in told


class TestATokenFile:
    @pytest.mark.parametrize(
        ("content", "why"),
        [
            (None, "cannot be read: No such file"),
            (b"", "holds no token"),
            (b"\n \n", "holds no token"),
            (b"two words", "holds no token"),
            (b"two\nlines", "holds no token"),
            (b"\xc3\xa9", "it is not ASCII"),
        ],
    )
    def test_one_that_holds_none_is_one_line(self, tmp_path: Path, content: bytes | None, why: str):
        if content is not None:
            (tmp_path / "token").write_bytes(content)
        assert why in refusal("http://127.0.0.1:1", token_file=str(tmp_path / "token"))

    @pytest.mark.parametrize("kind", ["directory", "fifo"])
    def test_what_is_no_file_is_one_line(self, tmp_path: Path, kind: str):
        path = tmp_path / kind
        path.mkdir() if kind == "directory" else os.mkfifo(path)
        assert f"--token-file {path}" in refusal("http://127.0.0.1:1", token_file=str(path))


def test_a_dry_run_cannot_be_asked_for_this_way(tmp_path: Path):
    sidecar = Sidecar()
    with serving(sidecar) as urls:
        done = ask(tmp_path, urls, "--dry-run")
        by_variable = ask(tmp_path, urls, variables={"CNI_CLEANUP_DRY_RUN": "true"})
    assert (done.status, by_variable.status) == (2, 2)
    assert "--dry-run" in done.line
    assert sidecar.requests == []
