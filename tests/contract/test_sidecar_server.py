"""The sidecar as a process of its own, asked over HTTP: by well-behaved clients and by others."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cli.demo.processes import running
from tests.support.http import WITHIN, connected, get
from tests.support.nodetree import NodeTree
from tests.support.polling import until
from tests.support.program import REPOSITORY, child_environment, run
from tests.support.sidecar import Sidecar, start_sidecar
from workers.configuration import environment_of

TOKEN = "token-of-the-test"  # noqa: S105  # a made-up one


@dataclass(frozen=True, kw_only=True)
class Served:
    """A node and its sidecar."""

    tree: NodeTree
    sidecar: Sidecar

    @property
    def port(self) -> int:
        return self.sidecar.port


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("sidecar")
    tree = NodeTree(directory)
    tree.live("web", "10.88.0.2")
    tree.dead("dead", "10.88.0.3")
    (directory / "token").write_text(f"{TOKEN}\n")
    # No broker listens there: metrics have to do without one.
    settings = tree.settings(token_file=str(directory / "token"), broker="redis://127.0.0.1:1/0")
    with running(directory) as processes:
        sidecar = start_sidecar(processes, settings)
        yield Served(tree=tree, sidecar=sidecar)
        assert sidecar.process.running(), f"it ended on the way:\n{sidecar.process.log_end()}"


def test_the_first_scrape_finds_the_nodes_files(served: Served):
    found = served.sidecar.samples()
    files = [path for path in (served.tree.root / "var/lib/cni").rglob("*") if path.is_file()]
    assert found["apicnicleanup_number_count"] == len(files)
    assert found["apicnicleanup_size_bytes"] == sum(path.stat().st_size for path in files)
    assert found['cni_cleanup_reservations{network="cbr0"}'] == 2
    assert found['cni_cleanup_passes_total{result="ok"}'] == 0


def test_a_pass_arrives_without_a_worker_and_without_a_broker(served: Served):
    served.tree.clean()
    until(lambda: served.sidecar.samples()['cni_cleanup_passes_total{result="ok"}'] >= 1, what="the pass is in the metrics")
    found = served.sidecar.samples()
    assert found['cni_cleanup_reservations{network="cbr0"}'] == 1
    assert found['cni_cleanup_files{network="cbr0",verdict="leaked",reason="absent"}'] == 2
    status, report = get(served.port, "/report", Authorization=f"Bearer {TOKEN}")
    assert (status, report) == (200, (served.tree.state / "report.json").read_bytes())


def test_without_a_broker_a_pass_cannot_be_asked_for_and_all_else_goes_on(served: Served):
    status, body = get(served.port, "/cleanup", method="POST", Authorization=f"Bearer {TOKEN}")
    assert status == 503
    assert b"no broker" in body
    assert get(served.port, "/healthz") == (200, b'{"status": "UP"}\n')


def test_a_file_that_is_damaged_and_a_folder_that_is_gone_leave_the_metrics_up(served: Served):
    served.tree.clean()
    report = served.tree.state / "report.json"
    report.write_bytes(report.read_bytes()[:-9])
    away = served.tree.root / "away"
    shutil.move(served.tree.root / "var/lib/cni", away)
    try:
        until(lambda: served.sidecar.samples()['cni_cleanup_readable{source="cnifiles"}'] == 0, what="the folder is missed")
        found = served.sidecar.samples()
        assert "apicnicleanup_number_count" not in found
        assert found['cni_cleanup_readable{source="report"}'] == 0
        assert "cni_cleanup_report_age_seconds" not in found
        assert get(served.port, "/report", Authorization=f"Bearer {TOKEN}")[0] == 500
    finally:
        shutil.move(away, served.tree.root / "var/lib/cni")
    served.tree.clean()
    until(
        lambda: min(value for name, value in served.sidecar.samples().items() if "readable" in name) == 1,
        what="all is well again",
    )


class TestClients:
    @pytest.mark.parametrize("size", [5_000, 50_000_000])
    def test_a_huge_body_is_413_before_it_is_sent(self, served: Served, size: int):
        with connected(served.port) as client:
            client.sendall(f"POST /cleanup HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode())
            assert client.recv(1000).startswith(b"HTTP/1.1 413 ")

    def test_a_huge_body_in_chunks_is_413(self, served: Served):
        with connected(served.port) as client:
            client.sendall(b"POST /cleanup HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
            client.sendall(b"2000\r\n" + b"x" * 0x2000 + b"\r\n")
            assert client.recv(1000).startswith(b"HTTP/1.1 413 ")

    def test_a_huge_header_is_refused(self, served: Served):
        with connected(served.port) as client:
            client.sendall(b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 20_000 + b"\r\n\r\n")
            assert b" 431 " in client.recv(1000)

    @pytest.mark.parametrize(
        "sent", [b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"\0" * 100 + b"\r\n\r\n", b"GET /metrics HTTP/9\r\n\r\n"]
    )
    def test_what_is_no_http_harms_nobody(self, served: Served, sent: bytes):
        with connected(served.port) as client:
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: client.recv(1000), b""))
        assert answer == b"" or answer.startswith((b"HTTP/1.0 ", b"HTTP/1.1 "))
        assert get(served.port, "/healthz")[0] == 200

    def test_slow_ones_keep_nobody_waiting(self, served: Served):
        with ExitStack() as stack:
            # More than there are threads: some drip their request, some do not read their answer.
            for _ in range(20):
                stack.enter_context(connected(served.port)).sendall(b"GET /metrics HTTP/1.1\r\nX-Slow: ")
                stack.enter_context(connected(served.port)).sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
                stack.enter_context(connected(served.port)).sendall(b"POST /cleanup HTTP/1.1\r\nContent-Length: 9\r\n\r\n")
            assert served.sidecar.samples()

    def test_what_stands_behind_a_request_is_not_answered(self, served: Served):
        with connected(served.port) as client:
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 50)
            answered = b""
            # What was not read is thrown away, which the client may be told as a reset.
            with suppress(ConnectionResetError):
                while part := client.recv(1000):
                    answered += part
        assert answered.count(b"HTTP/1.1 200 OK") == 1
        assert b"Connection: close" in answered

    def test_two_hundred_at_once_are_all_answered(self, served: Served):
        ready, statuses = threading.Barrier(201), []

        def ask(path: str) -> None:
            ready.wait(WITHIN)
            statuses.append(get(served.port, path)[0])

        paths = ["/metrics", "/healthz", "/report", "/nowhere"] * 50
        threads = [threading.Thread(target=ask, args=(path,)) for path in paths]
        for thread in threads:
            thread.start()
        ready.wait(WITHIN)
        for thread in threads:
            thread.join(WITHIN)
        assert sorted(statuses) == sorted([200, 200, 401, 404] * 50)

    def test_waiting_ones_fill_no_log(self, served: Served):
        before = len(served.sidecar.process.log_end(10**6))
        with ExitStack() as stack:
            clients = [stack.enter_context(connected(served.port)) for _ in range(100)]
            for client in clients:
                client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            assert all(client.recv(12) == b"HTTP/1.1 200" for client in clients)
        assert served.sidecar.process.log_end(10**6)[before:] == ""

    @pytest.mark.parametrize(
        "path", ["/../../etc/passwd", "//metrics", "/metrics/", "/%2e%2e/report", "/report?token=x", "http://x/metrics"]
    )
    def test_no_path_leads_elsewhere(self, served: Served, path: str):
        status, body = get(served.port, path)
        assert status in (200, 400, 401, 404)
        assert b"root:" not in body


def test_the_token_is_nowhere_in_the_log(served: Served):
    get(served.port, "/report", Authorization=f"Bearer {TOKEN}")
    assert TOKEN not in served.sidecar.process.log_end(1000)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_at_once_and_well_when_it_is_told_to(tmp_path: Path, number: signal.Signals):
    with running(tmp_path) as processes:
        process = start_sidecar(processes, NodeTree(tmp_path).settings()).process
        os.kill(process.pid, number)
        until(lambda: not process.running(), what="it has ended")
        ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert ended is not None
        assert (ended.si_code, ended.si_status) == (os.CLD_EXITED, 0)
        assert "Traceback" not in process.log_end(1000)


def test_who_waits_for_a_pass_is_answered_when_it_is_told_to_end(tmp_path: Path):
    answers: list[tuple[int, bytes]] = []
    (tmp_path / "token").write_text(TOKEN)
    # A Redis that is never done with its greeting.
    with socket.create_server(("127.0.0.1", 0)) as broker, running(tmp_path) as processes:
        url = f"redis://127.0.0.1:{broker.getsockname()[1]}/0"
        sidecar = start_sidecar(processes, NodeTree(tmp_path).settings(token_file=str(tmp_path / "token"), broker=url))
        asking = threading.Thread(
            target=lambda: answers.append(get(sidecar.port, "/cleanup", method="POST", Authorization=f"Bearer {TOKEN}"))
        )
        asking.start()
        broker.settimeout(WITHIN)
        with broker.accept()[0]:
            os.kill(sidecar.process.pid, signal.SIGTERM)
            asking.join(WITHIN)
            until(lambda: not sidecar.process.running(), what="it has ended")
    ((status, body),) = answers
    assert status == 503
    assert b"this sidecar is being stopped" in body


def test_a_broker_that_is_refused_is_no_pass_that_was_made(served: Served):
    settings = served.tree.settings(broker="redis://127.0.0.1:1/0?ssl=no")
    asking = subprocess.run(
        [sys.executable, "-m", "tasks.asking", "1"],
        env=child_environment(environment_of(settings)),
        cwd=REPOSITORY,
        capture_output=True,
        timeout=60,
        check=False,
    )
    told = json.loads(asking.stdout)
    assert (told["status"], told["done"]) == (503, False)
    assert "only a rediss URL may have" in told["reason"]


BAD: dict[str, tuple[list[str], int, str]] = {
    "no port": (["--listen=9010x"], 2, "--listen is '9010x': an address and a port such as :9010"),
    "a port that is none": (["--listen=:70000"], 2, "--listen is ':70000'"),
    "no such host": (["--listen=no-such-host.invalid:9010"], 2, "there is no such address"),
    "no token file": (["--token-file=/nowhere/token", "--node=n"], 2, "--token-file /nowhere/token cannot be read"),
    "a directory for a token": (["--token-file=/", "--node=n"], 2, "--token-file / cannot be read: Is a directory"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_setting_is_one_line_and_nothing_is_served(tmp_path: Path, case: str):
    arguments, status, line = BAD[case]
    done = run("server", *arguments, home=tmp_path)
    assert (done.status, done.out) == (status, "")
    assert line in done.line


def test_a_token_without_a_node_is_refused(tmp_path: Path):
    (tmp_path / "token").write_text("x")
    done = run("server", f"--token-file={tmp_path / 'token'}", "--listen=127.0.0.1:0", home=tmp_path)
    assert done.status == 2
    assert "--node NAME" in done.line


def test_a_port_that_is_taken_is_one_line(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port: Any = other.getsockname()[1]
        done = run("server", f"--listen=127.0.0.1:{port}", home=tmp_path)
    assert done.status == 1
    assert f"--listen 127.0.0.1:{port}: Address already in use" in done.line
