"""The sidecar's application: who is answered what. Over HTTP: contract/test_sidecar_server.py."""

import hashlib
import io
import json
import socket
import threading
from pathlib import Path
from typing import Any
from wsgiref.util import FileWrapper, setup_testing_defaults

import pytest

from cni.errors import CleanupError, UsageError
from tests.support.nodetree import NodeTree
from tests.support.polling import until
from workers.sidecar import Answer, Sidecar, listening, server_of

TOKEN = "token-of-the-test"  # noqa: S105  # a made-up one
DONE = Answer(status=200, done=True, reason="3 files removed")


class Client:
    """Asks an application as a server would."""

    def __init__(self, directory: Path, *, token: str | None = TOKEN, cleanup: Any = lambda: DONE) -> None:
        self.token_file = directory / "token"
        if token is not None:
            self.token_file.write_text(f"{token}\n")
        self.application = Sidecar(
            metrics=lambda: b"up 1\n",
            report_path=str(directory / "state" / "report.json"),
            cleanup=cleanup,
            version="1.2.3",
            token_file=str(self.token_file) if token is not None else None,
        )

    def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
        environ: dict[str, Any] = {"REQUEST_METHOD": method, "PATH_INFO": path, "wsgi.file_wrapper": FileWrapper, **headers}
        setup_testing_defaults(environ)
        told: list[Any] = []
        answer = self.application(environ, lambda *given: told.extend(given))
        body = b"".join(answer)
        if isinstance(answer, FileWrapper):
            answer.close()
        return int(told[0].split()[0]), dict(told[1]), body

    def with_token(self, path: str, method: str = "GET", token: str = TOKEN) -> tuple[int, Any]:
        status, _, body = self.ask(path, method, HTTP_AUTHORIZATION=f"Bearer {token}")
        return status, json.loads(body)


@pytest.fixture
def client(tmp_path: Path) -> Client:
    return Client(tmp_path)


def test_liveness_is_up(client: Client):
    status, headers, body = client.ask("/healthz")
    assert (status, headers["Content-Type"], json.loads(body)) == (200, "application/json", {"status": "UP"})


def test_it_says_what_it_is(client: Client):
    _, _, body = client.ask("/.well-known")
    told = json.loads(body)
    assert told["Servicename"] == "cni-cleanup"
    assert told["Servicedescription"]
    assert told["Version"] == "1.2.3"
    assert told["Endpoints"] == ["/metrics", "/healthz", "/.well-known", "/report", "/cleanup"]


def test_metrics_are_told_as_the_text_that_they_are(client: Client):
    status, headers, body = client.ask("/metrics", HTTP_ACCEPT="application/openmetrics-text; version=1.0.0")
    assert (status, headers["Content-Type"], body) == (200, "text/plain; version=0.0.4; charset=utf-8", b"up 1\n")


def test_head_has_the_headers_and_no_body(client: Client):
    status, headers, body = client.ask("/healthz", "HEAD")
    assert (status, headers["Content-Length"], body) == (200, "17", b"")


def test_an_unknown_path_is_told_the_known_ones(client: Client):
    status, _, body = client.ask("/admin")
    assert status == 404
    assert "/metrics" in json.loads(body)["reason"]


@pytest.mark.parametrize(
    ("path", "method"), [("/metrics", "POST"), ("/cleanup", "GET"), ("/report", "DELETE"), ("/healthz", "PUT")]
)
def test_another_method_is_405_and_names_the_right_ones(client: Client, path: str, method: str):
    status, headers, body = client.ask(path, method)
    assert status == 405
    assert headers["Allow"] in ("GET, HEAD", "POST")
    assert json.loads(body)["status"] == "Error"


class TestTheToken:
    GUARDED = (("/report", "GET"), ("/cleanup", "POST"))

    @pytest.mark.parametrize(("path", "method"), GUARDED)
    @pytest.mark.parametrize(
        "header",
        [
            None,
            "",
            "Bearer",
            "Bearer ",
            "Bearer wrong",
            f"Basic {TOKEN}",
            TOKEN,
            f"Bearer {TOKEN}x",
            f"Bearer {TOKEN[:-1]}",
            "Bearer \xff",
        ],
    )
    def test_without_it_nothing_is_shown_or_done(self, tmp_path: Path, path: str, method: str, header: str | None):
        asked: list[None] = []

        def cleanup() -> Answer:
            asked.append(None)
            return DONE

        client = Client(tmp_path, cleanup=cleanup)
        given = {} if header is None else {"HTTP_AUTHORIZATION": header}
        status, headers, body = client.ask(path, method, **given)
        assert (status, headers["WWW-Authenticate"]) == (401, "Bearer")
        assert TOKEN not in body.decode()
        assert asked == []

    @pytest.mark.parametrize(("path", "method"), GUARDED)
    def test_where_none_is_configured_it_is_off(self, tmp_path: Path, path: str, method: str):
        status, _, body = Client(tmp_path, token=None).ask(path, method, HTTP_AUTHORIZATION="Bearer ")
        assert status == 403
        assert "--token-file" in json.loads(body)["reason"]

    @pytest.mark.parametrize("content", [b"", b"\n", b"two words", b"\xff\xfe"])
    def test_a_file_that_holds_none_lets_nobody_in(self, client: Client, content: bytes):
        client.token_file.write_bytes(content)
        assert client.with_token("/cleanup", "POST", token="")[0] == 403

    def test_a_file_that_is_gone_lets_nobody_in(self, client: Client):
        client.token_file.unlink()
        assert client.with_token("/cleanup", "POST")[0] == 403

    def test_a_new_one_counts_at_once_and_the_old_one_no_more(self, client: Client):
        assert client.with_token("/cleanup", "POST")[0] == 200
        client.token_file.write_text(f"{TOKEN}-2")
        assert client.with_token("/cleanup", "POST")[0] == 401
        assert client.with_token("/cleanup", "POST", token=f"{TOKEN}-2")[0] == 200

    def test_the_scheme_is_known_in_any_case(self, client: Client):
        assert client.ask("/cleanup", "POST", HTTP_AUTHORIZATION=f"bearer  {TOKEN}")[0] == 200


class TestTheReport:
    @pytest.fixture
    def tree(self, tmp_path: Path) -> NodeTree:
        made = NodeTree(tmp_path)
        made.live("web", "10.88.0.2")
        made.dead("dead", "10.88.0.3")
        return made

    def client_of(self, tree: NodeTree) -> Client:
        client = Client(tree.root.parent)
        client.application.report_path = str(tree.state / "report.json")
        return client

    def test_the_last_one_is_sent_as_it_is(self, tree: NodeTree):
        tree.clean()
        status, headers, body = self.client_of(tree).ask("/report", HTTP_AUTHORIZATION=f"Bearer {TOKEN}")
        written = (tree.state / "report.json").read_bytes()
        assert (status, headers["Content-Length"]) == (200, str(len(written)))
        assert hashlib.sha256(body).digest() == hashlib.sha256(written).digest()

    def test_before_the_first_pass_there_is_none(self, tree: NodeTree):
        status, told = self.client_of(tree).with_token("/report")
        assert (status, told["status"]) == (404, "Error")

    def test_a_damaged_one_is_not_sent(self, tree: NodeTree):
        tree.clean()
        report = tree.state / "report.json"
        report.write_bytes(report.read_bytes()[:-20])
        status, told = self.client_of(tree).with_token("/report")
        assert status == 500
        assert "report.json is no whole report" in told["reason"]


class TestAskingForAPass:
    @pytest.mark.parametrize(
        ("answer", "status", "told"),
        [
            (DONE, 200, {"status": "Done", "reason": "3 files removed"}),
            (
                Answer(status=200, done=False, reason="aborted (hold): why"),
                200,
                {"status": "Error", "reason": "aborted (hold): why"},
            ),
            (Answer(status=409, done=False, reason="busy"), 409, {"status": "Error", "reason": "busy"}),
            (Answer(status=503, done=False, reason="no broker"), 503, {"status": "Error", "reason": "no broker"}),
            (Answer(status=504, done=False, reason="late"), 504, {"status": "Error", "reason": "late"}),
        ],
    )
    def test_what_came_of_it_is_told(self, tmp_path: Path, answer: Answer, status: int, told: dict[str, str]):
        assert Client(tmp_path, cleanup=lambda: answer).with_token("/cleanup", "POST") == (status, told)

    def test_a_second_one_meanwhile_is_told_that_it_is_busy_and_asks_nobody(self, tmp_path: Path):
        asked, ending = threading.Semaphore(0), threading.Event()

        def cleanup() -> Answer:
            asked.release()
            assert ending.wait(30)
            return DONE

        client = Client(tmp_path, cleanup=cleanup)
        first = threading.Thread(target=client.with_token, args=("/cleanup", "POST"))
        first.start()
        try:
            assert asked.acquire(timeout=30)
            assert client.with_token("/cleanup", "POST")[0] == 409
            assert not asked.acquire(blocking=False)
            assert client.ask("/healthz")[0] == 200
        finally:
            ending.set()
            first.join()
        assert client.with_token("/cleanup", "POST")[0] == 200

    @pytest.mark.parametrize(("query", "body"), [("dry_run=true", b""), ("", b'{"dry_run": true}'), ("", b"dry_run=true")])
    def test_a_wish_that_is_not_known_is_refused_and_nothing_is_asked(self, tmp_path: Path, query: str, body: bytes):
        asked: list[None] = []

        def cleanup() -> Answer:
            asked.append(None)
            return DONE

        more: dict[str, Any] = {"QUERY_STRING": query, "wsgi.input": io.BytesIO(body)}
        client = Client(tmp_path, cleanup=cleanup)
        status, _, told = client.ask("/cleanup", "POST", HTTP_AUTHORIZATION=f"Bearer {TOKEN}", **more)
        assert (status, asked) == (400, [])
        assert "--dry-run" in json.loads(told)["reason"]

    @pytest.mark.parametrize("body", [b"", b"{}", b"\n"])
    def test_a_body_that_wants_nothing_is_no_wish(self, tmp_path: Path, body: bytes):
        more: dict[str, Any] = {"wsgi.input": io.BytesIO(body)}
        assert Client(tmp_path).ask("/cleanup", "POST", HTTP_AUTHORIZATION=f"Bearer {TOKEN}", **more)[0] == 200

    def test_one_that_fails_is_answered_and_the_next_one_is_asked_for(self, tmp_path: Path):
        answers: list[Answer | Exception] = [DONE, RuntimeError("nobody foresaw this")]

        def cleanup() -> Answer:
            answer = answers.pop()
            if isinstance(answer, Exception):
                raise answer
            return answer

        client = Client(tmp_path, cleanup=cleanup)
        status, told = client.with_token("/cleanup", "POST")
        assert (status, told) == (500, {"status": "Error", "reason": "RuntimeError: see the log"})
        assert client.with_token("/cleanup", "POST")[0] == 200


class TestListening:
    @pytest.mark.parametrize("address", ["127.0.0.1:0", ":0", "[::1]:0", "localhost:0"])
    def test_at_an_address_of_this_machine(self, address: str):
        with listening(address) as listener:
            assert listener.getsockname()[1] > 0

    def test_a_port_that_is_taken_is_told(self):
        with listening("127.0.0.1:0") as listener:
            port = listener.getsockname()[1]
            with pytest.raises(CleanupError, match=f"--listen 127.0.0.1:{port}: Address already in use"):
                listening(f"127.0.0.1:{port}")

    @pytest.mark.parametrize("address", ["192.0.2.1:0", "no-such-host.invalid:0"])
    def test_an_address_of_nobody_here_is_told(self, address: str):
        with pytest.raises((CleanupError, UsageError), match=f"--listen {address}"):
            listening(address)


def test_a_client_that_drips_its_request_is_dropped_like_one_that_is_silent(client: Client):
    with listening("127.0.0.1:0") as listener:
        server: Any = server_of(client.application, listener)
        try:
            with socket.create_connection(listener.getsockname()) as dripping:
                dripping.sendall(b"GET /metrics HTTP/1.1\r\nX: ")
                until(lambda: turned(server) and [one for one in server.active_channels.values() if one.request], what="it sends")
                (channel,) = server.active_channels.values()
                server.maintenance(channel.creation_time + 20)
                assert not channel.will_close
                # As if it had come long ago.
                channel.last_activity -= 31
                dripping.sendall(b"a")
                turned(server)
                server.maintenance(channel.creation_time)
                assert channel.will_close
        finally:
            server.task_dispatcher.shutdown()
            server.asyncore.close_all(server._map)


def turned(server: Any) -> bool:
    """Whether its loop has turned once: what has been sent is then read."""
    server.asyncore.loop(timeout=1, map=server._map, use_poll=True, count=1)
    return True


def test_a_body_may_be_anything_that_can_be_read(client: Client):
    status, _, _ = client.ask("/healthz", **{"wsgi.input": io.BytesIO(b"x" * 100)})  # type: ignore[arg-type]
    assert status == 200
