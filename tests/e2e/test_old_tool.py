"""What somebody has at hand from the Go tool before this one, its command lines and its config file, under its name."""

import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.support.api_server import refusing_port
from tests.support.nodetree import NODE, NodeTree, remaining
from tests.support.polling import until
from tests.support.program import REPOSITORY, TIMEOUT, Done, environment

NAME = Path(sys.executable).with_name("api-cni-cleanup")
NO_BROKER = {"CNI_CLEANUP_BROKER": "redis://127.0.0.1:1/0"}
LIVE, DEAD, OTHER = "cbr0/10.88.0.2", "cbr0/10.88.0.3", "net2/10.99.0.3"

CLEAN = [
    "clean --api {api} --cnifiles {cbr0}",
    "--api {api} clean --cnifiles={cbr0} --debug",
    "clean --cnifiles {cbr0} --debug=true",
]
SERVER = [
    "server --api internal --cnifiles {cbr0}",
    "server --api internal --cnifiles {cbr0} --debug",
    "server --jaeger {jaeger}",
]
MANUAL = [
    "job --urlserver {url}/cleanup,{url}/x",
    "job --api internal --urlserver {url}/cleanup --autodiscover=false",
    "job --config={config}",
    "job",
]
THROUGH_THE_BROKER = ["job --api internal --autodiscover", "job --autodiscover=true", "job --autodiscover=T --debug=0"]


@pytest.fixture
def tree(tmp_path: Path) -> NodeTree:
    """Two networks, in cbr0 a live pod and a dead one, in net2 a dead one."""
    made = NodeTree(tmp_path / "node")
    made.network("net2", subnet="10.99.0.0/16")
    made.live("web", "10.88.0.2")
    made.dead("dead", "10.88.0.3")
    made.reservation("10.99.0.3", "another", network="net2")
    made.settings()
    return made


def of_the_node(tree: NodeTree) -> dict[str, str]:
    """What a node's own environment says, so that a command line need not."""
    return {
        "CNI_CLEANUP_ROOT": str(tree.root),
        "CNI_CLEANUP_STATE_DIR": str(tree.state),
        "CNI_CLEANUP_NODE": NODE,
        "CNI_CLEANUP_PODS_FILE": str(tree.path / "pods.json"),
        "CNI_CLEANUP_SANDBOXES_FILE": str(tree.path / "sandboxes.json"),
        "CNI_CLEANUP_MIN_AGE": "0s",
        "CNI_CLEANUP_CONFIRM_AFTER": "0s",
    }


def types(line: str | Sequence[str], home: Path, variables: Mapping[str, str]) -> Done:
    """Type it after the old name, and wait."""
    done = subprocess.run(
        [NAME, *(line.split() if isinstance(line, str) else line)],
        cwd=REPOSITORY,
        env=environment(home, variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    return Done(status=done.returncode, out=done.stdout, err=done.stderr)


def in_the_home(tmp_path: Path, text: str) -> Path:
    (tmp_path / ".api-cni-cleanup.yaml").write_text(text)
    return tmp_path


@pytest.mark.parametrize("line", CLEAN)
def test_clean_cleans_the_network_that_it_names_and_no_other(tree: NodeTree, tmp_path: Path, line: str):
    done = types(line.format(api="internal", cbr0="/var/lib/cni/networks/cbr0"), tmp_path, of_the_node(tree))
    assert done.status == 0, done.err
    assert remaining(tree) == {LIVE, OTHER}


@pytest.mark.parametrize(
    "text", ["cnifiles: /var/lib/cni/networks/cbr0", '{"CNIFiles": "/var/lib/cni/networks/cbr0", "api": "none"}']
)
def test_so_it_does_where_its_config_file_names_it(tree: NodeTree, tmp_path: Path, text: str):
    done = types("clean", in_the_home(tmp_path, text), of_the_node(tree))
    assert done.status == 0, done.err
    assert remaining(tree) == {LIVE, OTHER}


@pytest.mark.parametrize("line", SERVER)
def test_server_serves_until_it_is_stopped(tree: NodeTree, tmp_path: Path, line: str):
    typed = line.format(cbr0="/var/lib/cni/networks/cbr0", jaeger="http://localhost:14268").split()
    variables = {**of_the_node(tree), "CNI_CLEANUP_LISTEN": "127.0.0.1:0"}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([NAME, *typed], cwd=REPOSITORY, env=environment(tmp_path, variables), stderr=log)
    try:
        until(lambda: '"serving"' in (tmp_path / "log").read_text(), seconds=TIMEOUT, what="the line that it serves")
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("line", MANUAL)
def test_job_asks_the_servers_of_its_flag_or_of_its_config_file(tmp_path: Path, line: str):
    with refusing_port() as port:
        url = f"http://127.0.0.1:{port}"
        home = in_the_home(tmp_path, f"urlserver: [{url}/cleanup]\nautodiscover: false\n")
        done = types(line.format(url=url, config=home / ".api-cni-cleanup.yaml"), home, NO_BROKER)
    assert f"{url}/cleanup" in done.out
    assert done.out.count("failed") == max(1, line.count("{url}"))
    assert done.status == 1


@pytest.mark.parametrize("line", THROUGH_THE_BROKER)
def test_job_that_discovers_goes_through_the_broker(tmp_path: Path, line: str):
    done = types(line, in_the_home(tmp_path, "urlserver: http://127.0.0.1:1/cleanup"), NO_BROKER)
    assert (done.status, done.out) == (1, "")
    assert "127.0.0.1:1" in done.line


class TestHowToAsk:
    @pytest.mark.parametrize(
        ("text", "variables", "line", "word"),
        [
            ("autodiscover: true", {}, "job", "127.0.0.1:1"),
            ("AutoDiscover: true\nurlserver: http://127.0.0.1:2", {}, "job", "127.0.0.1:1"),
            ("", {"CNI_CLEANUP_AUTODISCOVER": "true"}, "job", "127.0.0.1:1"),
            ("autodiscover: false", {"CNI_CLEANUP_AUTODISCOVER": "1"}, "job", "127.0.0.1:1"),
            ("urlserver: http://127.0.0.1:2", {}, "job --stop", "127.0.0.1:1"),
        ],
    )
    def test_the_broker_is_asked(self, tmp_path: Path, text: str, variables: dict[str, str], line: str, word: str):
        done = types(line, in_the_home(tmp_path, text), {**NO_BROKER, **variables})
        assert (done.status, done.out) == (1, "")
        assert word in done.line

    @pytest.mark.parametrize(
        ("text", "variables", "line"),
        [
            ("urlserver: {url}", {}, "job"),
            ("urlserver: http://127.0.0.1:2", {"CNI_CLEANUP_URLSERVER": "{url}"}, "job"),
            ("autodiscover: true\nurlserver: http://127.0.0.1:2", {}, "job --urlserver {url}"),
            ("autodiscover: true\nurlserver: {url}", {}, "job --autodiscover=false"),
            ("autodiscover: true\nurlserver: {url}", {"CNI_CLEANUP_AUTODISCOVER": "false"}, "job"),
        ],
    )
    def test_the_servers_are_asked(self, tmp_path: Path, text: str, variables: dict[str, str], line: str):
        with refusing_port() as port:
            url = f"http://127.0.0.1:{port}"
            home = in_the_home(tmp_path, text.replace("{url}", url))
            done = types(
                line.replace("{url}", url), home, {name: value.replace("{url}", url) for name, value in variables.items()}
            )
        assert f"{url}/cleanup" in done.out
        assert done.status == 1

    @pytest.mark.parametrize(
        ("text", "variables", "line", "word"),
        [
            ("", {}, "job", "--autodiscover, --urlserver"),
            ("autodiscover: perhaps", {}, "job", "autodiscover in"),
            ("urlserver: myserver1:9010", {}, "job", "urlserver in"),
            ("urlserver: [http://a, 7]", {}, "job", "urlserver in"),
            ("", {"CNI_CLEANUP_URLSERVER": "nonsense"}, "job", "CNI_CLEANUP_URLSERVER"),
            ("autodiscover: true", {}, "job --autodiscover --urlserver http://127.0.0.1:1", "--autodiscover and --urlserver"),
            ("urlserver: http://127.0.0.1:1", {}, "job --nodes a", "--nodes is for --autodiscover, not for --urlserver"),
            ("", {}, "job --debug=perhaps", "--debug"),
            ("", {}, "job --dry-run=false", "--dry-run"),
            ("", {}, "clean --autodiscover", "--autodiscover"),
            ("", {}, "serve", "serve"),
        ],
    )
    def test_what_cannot_be_is_one_line_and_exit_2(
        self, tmp_path: Path, text: str, variables: dict[str, str], line: str, word: str
    ):
        done = types(line, in_the_home(tmp_path, text), variables)
        assert (done.status, done.out) == (2, "")
        assert word in done.line


@pytest.mark.parametrize("line", ["help", "--help", "-h", "help clean", "help job", "help server", "clean --help", "job -h"])
def test_help_is_there(tmp_path: Path, line: str):
    done = types(line, tmp_path, {})
    assert (done.status, done.err) == (0, "")
    assert "Usage: api-cni-cleanup" in done.out


@pytest.mark.parametrize("where", ["--jaegerurl=http://localhost:14268", "--jaeger=http://localhost:14268", "in the file"])
def test_an_old_address_of_jaeger_is_one_warning_and_keeps_nobody_from_cleaning(tree: NodeTree, tmp_path: Path, where: str):
    home = in_the_home(tmp_path, "jaegerurl: http://localhost:14268" if where == "in the file" else "")
    done = types(["clean", "--json", *([where] if where.startswith("--") else [])], home, of_the_node(tree))
    assert done.status == 0
    assert "4318" in done.line
    assert json.loads(done.out)["aborted"] is None
    assert LIVE in remaining(tree)
