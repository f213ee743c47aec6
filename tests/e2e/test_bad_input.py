"""Bad input gets one line that says what to do, exit 1 or 2, and nothing is changed."""

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support import api_server as api
from tests.support import cri_server as cri
from tests.support.api_server import ApiServer
from tests.support.nodetree import NODE, NodeTree, container_id, remaining
from tests.support.program import Done, powerless, read_only, run, small_disk
from tests.support.recorded import Tree, snapshot
from tests.support.skips import require_root
from workers.configuration import OPTIONS

LIVE, DEAD = "cbr0/10.88.0.2", "cbr0/10.88.0.3"


@dataclass
class Node:
    """A node with a live and a dead pod, and the program pointed at it so that a `clean` would remove the dead one's files."""

    tree: NodeTree
    home: Path
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def network(self) -> Path:
        return self.tree.root / "var/lib/cni/networks/cbr0"

    def places(self) -> dict[str, str]:
        """What arguments may name in braces."""
        return {
            "root": str(self.tree.root),
            "state": str(self.tree.state),
            "home": str(self.home),
            "pods": str(self.tree.path / "pods.json"),
            "sandboxes": str(self.tree.path / "sandboxes.json"),
        }

    def run(self, *arguments: str, without: Sequence[str] = (), before: Sequence[str] = ()) -> Done:
        """Run with the node's own flags before the command, but for those in `without`."""
        flags = {
            "root": "{root}",
            "state-dir": "{state}",
            "node": NODE,
            "pods-file": "{pods}",
            "sandboxes-file": "{sandboxes}",
            "min-age": "0s",
            "confirm-after": "0s",
        }
        own = [f"--{name}={value}" for name, value in flags.items() if name not in without]
        given = [argument.format_map(self.places()) if "{" in argument else argument for argument in [*own, *arguments]]
        return run(*given, home=self.home, variables=self.variables, before=before)

    def everything(self) -> tuple[Tree, Tree]:
        """The node's tree, and our state."""
        return snapshot(self.tree.root), snapshot(self.tree.state) if self.tree.state.exists() else {}


@pytest.fixture
def node(tmp_path: Path) -> Node:
    tree = NodeTree(tmp_path / "node")
    (tmp_path / "home").mkdir()
    tree.live("web", "10.88.0.2")
    tree.dead("dead", "10.88.0.3")
    tree.settings()
    return Node(tree, tmp_path / "home")


def test_the_same_without_bad_input_removes_the_dead_pods_files(node: Node):
    done = node.run("clean")
    assert (done.status, done.err) == (0, "")
    assert remaining(node.tree) == {LIVE}


@dataclass(frozen=True, kw_only=True)
class Bad:
    """One bad input. `without` are flags of the node's own that are left out; `prepare` spoils something beforehand."""

    arguments: Sequence[str]
    word: str
    status: int = 2
    without: Sequence[str] = ()
    prepare: Callable[[Node], object] = lambda _: None
    variables: dict[str, str] = field(default_factory=dict)


def file(name: str, text: str | bytes) -> Callable[[Node], None]:
    """Write a file into the home directory."""

    def prepare(node: Node) -> None:
        (node.home / name).write_bytes(text if isinstance(text, bytes) else text.encode())

    return prepare


def fifo(node: Node) -> None:
    os.mkfifo(node.home / "fifo")


def several_nodes(node: Node) -> None:
    node.tree.pods.append({**node.tree.pod("other"), "spec": {"nodeName": "node2"}})
    node.tree.settings()


def looped(node: Node) -> None:
    (node.tree.root / "loop").symlink_to("loop")


NONSENSE = {
    "api": "maybe",
    "cnifiles": "relative/path",
    "root": "",
    "node": "Node_1",
    "state-dir": "",
    "runtime-endpoint": "tcp://127.0.0.1:1",
    "conf-dir": "relative",
    "min-age": "soon",
    "confirm-after": "-1s",
    "early-at": "101",
    "listen": "9010",
    "broker-password-file": "",
    "token-file": "",
    "log-format": "xml",
    "jaegerurl": "collector:4318",
    "networks": "a/b",
    "max-remove": "-1",
    "pods-file": "",
    "sandboxes-file": "",
    "broker": "http://127.0.0.1",
    "static-nodes": "A,B",
    "schedule": "weekly",
    "timezone": "Mars/Olympus",
}

SWEEP = ["job", "--autodiscover"]

BROKERS = {
    "an unknown query": ("rediss://127.0.0.1:1/0?ssl_cert_reqs=none", "ssl_cert_reqs"),
    "a query without TLS": ("redis://127.0.0.1:1/0?ssl_ca_certs=/etc/ssl/ca.pem", "rediss"),
    "a missing CA file": ("rediss://127.0.0.1:1/0?ssl_ca_certs=/nonexistent/ca.pem", "/nonexistent/ca.pem"),
    "a key without its certificate": ("rediss://127.0.0.1:1/0?ssl_keyfile={pods}", "ssl_certfile"),
    "a CA file that is none": ("rediss://127.0.0.1:1/0?ssl_ca_certs={pods}", "ssl_ca_certs"),
}
REACHING = {
    "worker": ["worker"],
    "control": ["control", "--static-nodes=a"],
    "beat": ["beat"],
    "report": ["report"],
    "job": SWEEP,
    "check": ["worker", "--check"],
}

FLEET = {
    **{
        f"{command}, broker with {what}": Bad(arguments=[*arguments, f"--broker={url}"], word=word)
        for what, (url, word) in BROKERS.items()
        for command, arguments in REACHING.items()
        if command in ("job", "worker") or what == "a missing CA file"
    },
    **{f"spread {text}": Bad(arguments=[*SWEEP, f"--spread={text}"], word="--spread") for text in ("-1s", "0x", "2h?")},
    **{f"timeout {text}": Bad(arguments=[*SWEEP, f"--timeout={text}"], word="--timeout") for text in ("0", "soon")},
    **{f"nodes {text}": Bad(arguments=[*SWEEP, f"--nodes={text}"], word="--nodes") for text in (",", "a,B", "a b")},
    **{f"selector {text!r}": Bad(arguments=[*SWEEP, f"--node-selector={text}"], word="selector") for text in ("", " ", "a\nb")},
    "spread above an hour": Bad(arguments=[*SWEEP, "--spread=61m"], word="3600"),
    "selector too long": Bad(arguments=[*SWEEP, f"--node-selector={'a' * 1001}"], word="selector"),
    "nodes and selector": Bad(arguments=[*SWEEP, "--nodes=a", "--node-selector=b"], word="leave one of them out"),
    "a limit that a sweep cannot carry": Bad(
        arguments=[*SWEEP, "--max-remove=5"], word="--max-remove is each node's own setting"
    ),
    "the same before the command": Bad(arguments=["--networks=a", *SWEEP], word="--networks is each node's own setting"),
    "job of nothing": Bad(arguments=["job"], word="--autodiscover"),
    "job of nothing but nodes": Bad(arguments=["job", "--nodes=a"], word="--autodiscover"),
    "job in two ways": Bad(arguments=[*SWEEP, "--urlserver=http://127.0.0.1:1"], word="--autodiscover and --urlserver"),
    "start and stop": Bad(arguments=[*SWEEP, "--stop"], word="--autodiscover and --stop"),
    "stop and resume": Bad(arguments=["job", "--stop", "--resume"], word="--stop and --resume"),
    "stop some nodes": Bad(arguments=["job", "--stop", "--nodes=a"], word="--nodes is for --autodiscover"),
    "wait for a stop": Bad(arguments=["job", "--stop", "--timeout=5s"], word="--timeout is for"),
    "stop in JSON": Bad(arguments=["job", "--stop", "--json"], word="--json is for"),
    "resume at another pace": Bad(arguments=["job", "--resume", "--spread=0s"], word="--spread is for --autodiscover"),
    "a token for the broker": Bad(arguments=[*SWEEP, "--token-file=x"], word="--token-file is for --urlserver"),
    "URLs by label": Bad(
        arguments=["job", "--urlserver=http://127.0.0.1:1", "--node-selector=a"], word="--node-selector is for --autodiscover"
    ),
    "URLs in JSON": Bad(arguments=["job", "--urlserver=http://127.0.0.1:1", "--json"], word="--json is for"),
    "no URLs": Bad(arguments=["job", "--urlserver="], word="--urlserver: URLs such as"),
    "report of a sweep and of all": Bad(arguments=["report", "--list", "--sweep=a"], word="--list"),
    "report of no sweep's id": Bad(arguments=["report", "--sweep="], word="not the id of a sweep"),
    "report of a path": Bad(arguments=["report", "--sweep=../x"], word="not the id of a sweep"),
    "page of all sweeps": Bad(arguments=["report", "--list", "--html={home}/page.html"], word="leave --list out"),
    "page in JSON": Bad(arguments=["report", "--json", "--html=-"], word="leave --json out"),
    "page of no sweep's id": Bad(arguments=["report", "--html={home}/page.html", "--sweep=../x"], word="not the id of a sweep"),
    "page to a directory": Bad(arguments=["report", "--html={home}"], word="this is a directory"),
    "page to no name": Bad(arguments=["report", "--html="], word="the name of a file"),
    "page to a name that is too long": Bad(arguments=["report", f"--html={{home}}/{'x' * 300}"], word="File name too long"),
    "page to a circle of links": Bad(arguments=["report", "--html={root}/loop"], prepare=looped, word="symbolic links"),
    "page below no directory": Bad(arguments=["report", "--html={home}/none/page.html"], word="there is no directory"),
    "page below a file": Bad(arguments=["report", "--html={pods}/page.html"], word="there is no directory"),
    "page to a FIFO": Bad(arguments=["report", "--html={home}/fifo"], prepare=fifo, word="no regular file"),
    "page to a device": Bad(arguments=["report", "--html=/dev/null"], word="no regular file"),
    "page to a name with line ends": Bad(arguments=["report", "--html={home}/a\nb/c"], word="there is no directory"),
    "page to a name that is not UTF-8": Bad(arguments=["report", "--html=/\udcff/page.html"], word="there is no directory"),
    "report with too much": Bad(arguments=["report", "last"], word="last"),
    "control without nodes": Bad(arguments=["control"], word="--static-nodes"),
    "control without nodes and API": Bad(arguments=["control", "--api=none"], word="--static-nodes"),
    "worker that waits for longer than a job may take": Bad(arguments=["worker", "--confirm-after=60m"], word="--confirm-after"),
    "check of it": Bad(arguments=["worker", "--check", "--confirm-after=60m"], word="--confirm-after"),
    "check of no node": Bad(arguments=["worker", "--check"], without=["node"], word="--node"),
}

WRONG_USAGE = {
    **FLEET,
    **{f"--{name} before": Bad(arguments=[f"--{name}={text}", "clean"], word=f"--{name}") for name, text in NONSENSE.items()},
    **{f"--{name} after": Bad(arguments=["clean", f"--{name}={text}"], word=f"--{name}") for name, text in NONSENSE.items()},
    "variable": Bad(arguments=["clean"], variables={"CNI_CLEANUP_MAX_REMOVE": "x"}, word="CNI_CLEANUP_MAX_REMOVE"),
    "dry-run variable": Bad(arguments=["clean"], variables={"CNI_CLEANUP_DRY_RUN": "perhaps"}, word="CNI_CLEANUP_DRY_RUN"),
    "node's name in its variable": Bad(arguments=["scan"], variables={"NODE_NAME": "A_B"}, without=["node"], word="NODE_NAME"),
    "config file of the home": Bad(
        arguments=["clean"], prepare=file(".api-cni-cleanup.yaml", "max-remove: x"), word=".api-cni-cleanup.yaml"
    ),
    "config missing": Bad(arguments=["--config={home}/none.yaml", "clean"], word="none.yaml"),
    "config missing, by variable": Bad(
        arguments=["scan"], variables={"CNI_CLEANUP_CONFIG": "/nonexistent/c"}, word="/nonexistent/c"
    ),
    "config garbage": Bad(arguments=["clean", "--config={home}/c"], prepare=file("c", "a: [\nb"), word="config file"),
    "config binary": Bad(arguments=["clean", "--config={home}/c"], prepare=file("c", b"\xff\xfe\0"), word="config file"),
    "config a list": Bad(arguments=["clean", "--config={home}/c"], prepare=file("c", "- a"), word="name: value"),
    "config a directory": Bad(arguments=["clean", "--config={home}"], word="Is a directory"),
    "unknown command": Bad(arguments=["scam"], word="scam"),
    "unknown flag": Bad(arguments=["clean", "--jsno"], word="--jsno"),
    "unknown flag before": Bad(arguments=["--dryrun", "clean"], word="--dryrun"),
    "argument too many": Bad(arguments=["clean", "now"], word="now"),
    "flag without its value": Bad(arguments=["clean", "--min-age"], word="--min-age"),
    "value for a flag that takes none": Bad(arguments=["clean", "--dry-run=yes"], word="--dry-run"),
    "help of no command": Bad(arguments=["help", "scam"], word="scam"),
    "not UTF-8": Bad(arguments=["clean", "--cnifiles=\udcff"], word="--cnifiles"),
    "line ends": Bad(arguments=["clean", "--node=a\nb\r\nc"], word="--node"),
    "root missing": Bad(arguments=["clean", "--root=/nonexistent"], word="--root /nonexistent"),
    "root a file": Bad(arguments=["clean", "--root={pods}"], word="--root"),
    "directory in a circle": Bad(arguments=["clean", "--cnifiles=/loop"], prepare=looped, word="--cnifiles"),
    "root not UTF-8": Bad(arguments=["clean", "--root=/\udcff"], word="--root"),
    "state inside of the CNI files": Bad(arguments=["clean", "--state-dir={root}/var/lib/cni/state"], word="--state-dir"),
    "state is the CNI directory": Bad(arguments=["clean", "--state-dir={root}/var/lib/cni"], word="--state-dir"),
    "state in a network": Bad(
        arguments=["clean", "--cnifiles=/var/lib/cni/networks/cbr0", "--state-dir={root}/var/lib/cni/networks/cbr0/s"],
        word="--state-dir",
    ),
    "state below the whole root": Bad(arguments=["clean", "--cnifiles=/", "--state-dir={root}/state"], word="--state-dir"),
    "pods file missing": Bad(arguments=["scan", "--pods-file={home}/none"], word="none"),
    "pods file a directory": Bad(arguments=["scan", "--pods-file={home}"], word="Is a directory"),
    "pods file a FIFO": Bad(arguments=["scan", "--pods-file={home}/fifo"], prepare=fifo, word="no regular file"),
    "pods file a device": Bad(arguments=["scan", "--pods-file=/dev/zero"], word="no regular file"),
    "pods file empty": Bad(arguments=["scan", "--pods-file={home}/p"], prepare=file("p", ""), word="not JSON"),
    "pods file cut short": Bad(arguments=["scan", "--pods-file={home}/p"], prepare=file("p", '{"items":[{"me'), word="not JSON"),
    "pods file binary": Bad(arguments=["scan", "--pods-file={home}/p"], prepare=file("p", b"\xff\xfe\0"), word="not JSON"),
    "pods file too deep": Bad(arguments=["scan", "--pods-file={home}/p"], prepare=file("p", "[" * 100_000), word="not JSON"),
    "pods file a table": Bad(
        arguments=["clean", "--pods-file={home}/p"], prepare=file("p", "NAME READY\nweb 1/1\n"), word="not JSON"
    ),
    "pods file a refusal": Bad(
        arguments=["clean", "--pods-file={home}/p"], prepare=file("p", json.dumps(api.forbidden().body)), word="no list of items"
    ),
    "pods file of one pod": Bad(
        arguments=["clean", "--pods-file={home}/p"],
        prepare=file("p", '{"kind":"Pod","metadata":{"name":"x"}}'),
        word="kubectl get pods",
    ),
    "pods file with a bad pod": Bad(
        arguments=["clean", "--pods-file={home}/p"], prepare=file("p", '{"items":[{}]}'), word="metadata.uid"
    ),
    "pods of several nodes": Bad(arguments=["clean"], without=["node"], prepare=several_nodes, word="--node"),
    "sandboxes file missing": Bad(arguments=["scan", "--sandboxes-file={home}/none"], word="none"),
    "sandboxes file a FIFO": Bad(arguments=["scan", "--sandboxes-file={home}/fifo"], prepare=fifo, word="no regular file"),
    "sandboxes file cut short": Bad(
        arguments=["clean", "--sandboxes-file={home}/s"], prepare=file("s", '{"items": ['), word="not JSON"
    ),
    "sandboxes file is the pods'": Bad(arguments=["clean", "--sandboxes-file={pods}"], word="no pod sandbox"),
    "files for a live node": Bad(arguments=["clean", "--root=/"], word="--dry-run"),
    "no IP": Bad(arguments=["restore", "--ip=10.88.0"], word="no IP address"),
    "no IP to release": Bad(arguments=["restore", "--release", "--ip=x"], word="no IP address"),
    "list and release": Bad(arguments=["restore", "--list", "--release"], word="--release"),
    "worker": Bad(arguments=["worker", "--broker=nonsense"], word="--broker"),
    "worker of no node": Bad(arguments=["worker"], without=["node"], word="--node"),
    "control": Bad(arguments=["control", "--static-nodes=A"], word="--static-nodes"),
    "beat": Bad(arguments=["beat", "--schedule=nonsense"], word="schedule"),
    "beat, out of range": Bad(arguments=["beat", "--schedule=61 8 * * 1"], word="schedule"),
    "demo of no nodes": Bad(arguments=["demo", "--nodes=0"], word="--nodes"),
    "demo of many": Bad(arguments=["demo", "--nodes=many"], word="--nodes"),
}


@pytest.mark.parametrize("name", WRONG_USAGE)
def test_wrong_usage_is_one_line_exit_2_and_nothing_is_done(node: Node, name: str):
    bad = WRONG_USAGE[name]
    bad.prepare(node)
    node.variables |= bad.variables
    before = node.everything()
    done = node.run(*bad.arguments, without=bad.without)
    assert bad.word in done.line
    assert (done.status, done.out) == (bad.status, "")
    assert node.everything() == before


@pytest.mark.parametrize("there", [True, False])
def test_a_page_that_may_not_be_written_is_one_line_and_what_is_there_stays(node: Node, *, there: bool):
    page = node.home / "pages/page.html"
    page.parent.mkdir()
    if there:
        page.write_text("old")
    (page if there else page.parent).chmod(0o555)
    done = node.run("report", f"--html={page}", before=powerless())
    assert "it may not be written" in done.line
    assert (done.status, done.out) == (2, "")
    assert [path.read_text() for path in page.parent.iterdir()] == (["old"] if there else [])


def without_lock(node: Node) -> None:
    (node.network / "lock").unlink()


def directory_as_file(node: Node) -> None:
    (node.tree.root / "file").touch()


def hold(node: Node) -> None:
    node.tree.state.mkdir()
    (node.tree.state / "hold").touch()


def state_file(name: str, text: str) -> Callable[[Node], None]:
    def prepare(node: Node) -> None:
        node.tree.state.mkdir()
        (node.tree.state / name).write_text(text)

    return prepare


def empty_list(node: Node) -> None:
    node.tree.sandboxes.clear()
    node.tree.settings()


def strangers(node: Node) -> None:
    node.tree.sandboxes.clear()
    node.tree.sandbox("stranger")
    node.tree.settings()


OFFLINE = ["pods-file", "sandboxes-file"]

ABORTED = {
    "directory missing": Bad(arguments=["--cnifiles=/nowhere"], word="--cnifiles"),
    "directory a file": Bad(arguments=["--cnifiles=/file"], prepare=directory_as_file, word="--cnifiles"),
    "unknown node": Bad(arguments=["--node=another"], word="another"),
    "no sandbox at all": Bad(arguments=[], prepare=empty_list, word="no sandbox"),
    "another node's runtime": Bad(arguments=[], prepare=strangers, word="canary"),
    "pods file is the sandboxes'": Bad(arguments=["--pods-file={sandboxes}"], word="witness"),
    "no socket": Bad(arguments=["--api=none"], without=OFFLINE, word="--runtime-endpoint"),
    "socket missing": Bad(
        arguments=["--api=none", "--runtime-endpoint=unix:///nowhere.sock"], without=OFFLINE, word="nowhere.sock"
    ),
    "socket a file": Bad(arguments=["--api=none", "--runtime-endpoint=unix://{pods}"], without=OFFLINE, word="pods.json"),
    "no cluster": Bad(arguments=["--api=internal"], without=["pods-file"], word="--api external"),
    "no kubeconfig": Bad(arguments=["--api=external"], without=["pods-file"], word="KUBECONFIG"),
    "no node's name for the API": Bad(arguments=["--api=external"], without=["pods-file", "node"], word="--node"),
}

PASS_ONLY = {
    "state is a file": Bad(arguments=["--state-dir={pods}"], word="--state-dir"),
    "state below a file": Bad(arguments=["--state-dir={pods}/state"], word="--state-dir"),
    "hold": Bad(arguments=[], prepare=hold, word="hold"),
    "held cannot be read": Bad(arguments=[], prepare=state_file("held.json", "{"), word="held.json"),
    "held of another form": Bad(arguments=[], prepare=state_file("held.json", '{"a": 1}'), word="held.json"),
}


def is_unchanged(node: Node, before: tuple[Tree, Tree]) -> None:
    """The node's tree is; a pass that was aborted leaves its report with us."""
    assert snapshot(node.tree.root) == before[0]
    assert not (node.tree.state / "journal").exists()


@pytest.mark.parametrize("name", [*ABORTED, *PASS_ONLY])
def test_a_pass_that_cannot_do_its_work_is_one_line_exit_1_and_nothing_is_removed(node: Node, name: str):
    bad = {**ABORTED, **PASS_ONLY}[name]
    bad.prepare(node)
    before = node.everything()
    done = node.run("clean", "--json", *bad.arguments, without=bad.without)
    assert bad.word in done.line
    assert done.status == 1
    report = json.loads(done.out)
    assert f"aborted ({report['aborted']['reason']}): {report['aborted']['detail']}" in done.line
    assert {row["outcome"] for row in report["files"]} <= {None}
    assert not [row for row in report["files"] if row["verdict"] == "leaked"]
    is_unchanged(node, before)


# What ends a pass because a witness does not answer leaves a scan with something to tell.
NOTHING_TO_SCAN = {"directory missing", "directory a file", "another node's runtime"}


@pytest.mark.parametrize("name", ABORTED)
def test_a_scan_goes_on_where_it_can_and_calls_nothing_leaked_without_its_witnesses(node: Node, name: str):
    bad = ABORTED[name]
    bad.prepare(node)
    before = node.everything()
    done = node.run("scan", "--json", *bad.arguments, without=bad.without)
    report = json.loads(done.out)
    if name in NOTHING_TO_SCAN:
        assert bad.word in done.line
        assert done.status == 1
    else:
        assert (done.status, done.err, report["aborted"]) == (0, "", None)
        assert len(report["files"]) == 6
    assert not [row for row in report["files"] if row["verdict"] == "leaked"]
    assert node.everything() == before


@pytest.mark.parametrize("name", sorted(PASS_ONLY.keys() - {"hold"}))
def test_a_scan_that_cannot_read_what_is_held_is_one_line(node: Node, name: str):
    bad = PASS_ONLY[name]
    bad.prepare(node)
    before = node.everything()
    done = node.run("scan", *bad.arguments)
    assert "held.json" in done.line
    assert done.status == 1
    assert node.everything() == before


def test_a_hold_does_not_keep_anybody_from_looking(node: Node):
    hold(node)
    before = node.everything()
    done = node.run("scan", "--fail-on-leak")
    assert (done.status, done.err) == (3, "")
    assert node.everything() == before


@pytest.mark.parametrize("command", ["clean", "restore"])
def test_a_second_one_at_a_time_ends_busy(node: Node, command: str):
    if command == "restore":
        assert node.run("clean").status == 0
    node.tree.state.mkdir(exist_ok=True)
    with (node.tree.state / "pass.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        before = node.everything()
        done = node.run(command)
    assert "another pass" in done.line
    assert done.status == 1
    assert node.everything() == before


class TestRestore:
    @pytest.mark.parametrize(
        ("arguments", "word"),
        [
            ([], "nothing is left"),
            (["--ip=10.88.0.3"], "nothing is left"),
            (["--pass=20260101T000000-00000000"], "no journal"),
            (["--pass=../../etc/passwd"], "no pass id"),
            (["--pass="], "no pass id"),
            (["--list", "--pass=unknown"], "no journal"),
            (["--release", "--pass=unknown"], "no journal"),
        ],
    )
    def test_what_was_never_removed_cannot_come_back(self, node: Node, arguments: list[str], word: str):
        before = node.everything()
        done = node.run("restore", *arguments)
        assert word in done.line
        assert (done.status, done.out) == (1, "")
        assert node.everything() == before

    @pytest.mark.parametrize(
        ("arguments", "word"),
        [
            (["--ip=10.88.0.2"], "nothing is left"),
            (["--pass=unknown"], "no pass unknown"),
            (["--release", "--pass=unknown"], "no pass unknown"),
        ],
    )
    def test_what_this_pass_did_not_remove_cannot_come_back(self, node: Node, arguments: list[str], word: str):
        assert node.run("clean").status == 0
        before = node.everything()
        done = node.run("restore", *arguments)
        assert word in done.line
        assert done.status == 1
        assert node.everything() == before

    def test_an_address_that_was_given_out_again_is_told_and_left(self, node: Node):
        assert node.run("clean").status == 0
        node.tree.reservation("10.88.0.3", "newcomer")
        done = node.run("restore", "--ip=10.88.0.3")
        assert done.status == 1
        assert "exists /var/lib/cni/networks/cbr0/10.88.0.3" in done.out
        assert (node.network / "10.88.0.3").read_text().startswith(container_id("newcomer"))

    def test_another_root_is_told_and_nothing_is_written(self, node: Node, tmp_path: Path):
        assert node.run("clean").status == 0
        other = NodeTree(tmp_path / "other")
        before = snapshot(other.root)
        done = node.run("restore", f"--root={other.root}")
        assert done.status == 1
        assert snapshot(other.root) == before

    def test_nothing_held_is_nothing_to_release(self, node: Node):
        done = node.run("restore", "--release")
        assert (done.status, done.out, done.err) == (0, "nothing was held\n", "")


class TestPermission:
    """As root, with the capabilities taken away that put root above modes and owners."""

    STRANGER = 65534

    @contextmanager
    def forbidden(self, path: Path, *, mode: int = 0) -> Iterator[None]:
        """Give `path` to somebody else, or take its mode away."""
        status = path.stat()
        if os.geteuid() == 0:
            os.chown(path, self.STRANGER, self.STRANGER)
        path.chmod(mode)
        try:
            yield
        finally:
            os.chown(path, status.st_uid, status.st_gid)
            path.chmod(status.st_mode & 0o7777)

    @pytest.mark.parametrize("command", ["scan", "clean"])
    @pytest.mark.parametrize(
        "place",
        ["var/lib/cni", "var/lib/cni/networks", "var/lib/cni/networks/cbr0/10.88.0.3", "var/lib/cni/results"],
    )
    def test_what_may_not_be_read_ends_the_pass(self, node: Node, command: str, place: str):
        before = node.everything()
        with self.forbidden(node.tree.root / place):
            done = node.run(command, before=powerless())
        assert "permission" in done.line
        assert "root" in done.line
        assert done.status == 1
        is_unchanged(node, before)

    @pytest.mark.parametrize("command", ["scan", "clean"])
    def test_a_network_that_may_not_be_read_is_told_and_nothing_goes(self, node: Node, command: str):
        before = node.everything()
        with self.forbidden(node.network):
            done = node.run(command, "--json", before=powerless())
        (network,) = json.loads(done.out)["networks"]
        assert network["problem"] == "unreadable"
        assert "/var/lib/cni/networks/cbr0 cannot be read: run as root" in done.line
        assert done.status == 1
        is_unchanged(node, before)

    def test_a_network_that_may_not_be_read_can_be_left_out(self, node: Node):
        node.tree.network("net2")
        with self.forbidden(node.tree.root / "var/lib/cni/networks/net2"):
            told = node.run("scan", "--json", "--networks=net2", "--fail-on-leak", before=powerless())
            quiet = node.run("scan", "--json", "--networks=cbr0", before=powerless())
        assert "/var/lib/cni/networks/net2 cannot be read" in told.line
        assert told.status == 1
        assert (quiet.status, quiet.err) == (0, "")

    def test_a_socket_that_may_not_be_opened_is_unknown(self, node: Node, cri_server: cri.CriServer):
        before = node.everything()
        socket = Path(cri_server.endpoint.removeprefix("unix://"))
        with self.forbidden(socket):
            done = node.run(
                "clean", "--api=none", f"--runtime-endpoint={cri_server.endpoint}", without=OFFLINE, before=powerless()
            )
        assert str(socket) in done.line
        assert done.status == 1
        is_unchanged(node, before)

    def test_files_that_may_not_be_removed_fail_and_stay(self, node: Node):
        before = node.everything()
        with ExitStack() as stack:
            stack.enter_context(self.forbidden(node.network, mode=0o555))
            # A file is judged only if it is its directory's owner's.
            for path in node.network.iterdir():
                stack.enter_context(self.forbidden(path, mode=0o644))
            done = node.run("clean", "--json", before=powerless())
        report = json.loads(done.out)
        assert "files could not be removed" in done.line
        assert "run as root" in done.line
        assert done.status == 1
        assert report["networks"][0]["problem"] == "read-only"
        assert snapshot(node.tree.root) == before[0]

    def test_a_witness_file_that_may_not_be_read_is_wrong_usage(self, node: Node):
        before = node.everything()
        with self.forbidden(node.tree.path / "pods.json"):
            done = node.run("clean", before=powerless())
        assert "Permission denied" in done.line
        assert done.status == 2
        assert node.everything() == before

    def test_a_state_directory_that_may_not_be_written_ends_the_pass(self, node: Node):
        node.tree.state.mkdir()
        before = node.everything()
        with self.forbidden(node.tree.state):
            done = node.run("clean", before=powerless())
        assert "run as root" in done.line
        assert "--state-dir" in done.line
        assert done.status == 1
        assert node.everything() == before


class TestDisk:
    def test_a_network_without_a_lock_is_left_alone(self, node: Node):
        without_lock(node)
        before = node.everything()
        done = node.run("clean", "--json")
        report = json.loads(done.out)
        assert report["networks"][0]["problem"] == "no-lock"
        assert remaining(node.tree) == {LIVE, DEAD}
        assert snapshot(node.tree.root) == before[0]
        assert done.status == 1
        assert "could not be removed: /var/lib/cni/networks/cbr0 has no lock file" in done.line
        assert "cannot be kept out" in done.line

    @pytest.mark.parametrize("place", ["var/lib/cni/networks/cbr0", "var/lib/cni"])
    def test_a_read_only_directory_is_left_alone(self, node: Node, place: str):
        before = node.everything()
        with read_only(node.tree.root / place):
            scanned = node.run("scan", "--json")
            done = node.run("clean", "--json")
        assert (scanned.status, scanned.err) == (0, "")
        assert json.loads(done.out)["networks"][0]["problem"] == "read-only"
        assert "could not be removed: /var/lib/cni/networks/cbr0 may not be written: mount it read-write" in done.line
        assert done.status == 1
        assert snapshot(node.tree.root) == before[0]

    def test_a_read_only_state_directory_ends_the_pass(self, node: Node, tmp_path: Path):
        (tmp_path / "state-ro").mkdir()
        before = node.everything()
        with read_only(tmp_path / "state-ro"):
            done = node.run("clean", f"--state-dir={tmp_path / 'state-ro'}")
        assert "--state-dir" in done.line
        assert done.status == 1
        assert snapshot(node.tree.root) == before[0]

    @pytest.mark.parametrize("size", [4096, 16384])
    def test_a_journal_that_does_not_fit_ends_the_pass_before_anything_is_removed(self, node: Node, tmp_path: Path, size: int):
        for last in range(10, 74):
            node.tree.dead(f"dead-{last}", f"10.88.0.{last}")
        with small_disk(tmp_path / "small", size) as disk:
            (disk / "filler").write_bytes(bytes(size // 4))
            before = node.everything()
            done = node.run("clean", f"--state-dir={disk}")
            assert "journal" in done.line
            assert "--state-dir" in done.line
            assert done.status == 1
            assert snapshot(node.tree.root) == before[0]

    @pytest.mark.parametrize("command", ["scan", "clean", "scan --json", "scan --json --fail-on-leak"])
    def test_an_output_that_takes_nothing_is_one_line(self, node: Node, command: str):
        done = node.run(*command.split(), before=("sh", "-c", 'exec "$@" >/dev/full', "sh"))
        assert "No space left" in done.line
        assert "journal" in done.line
        assert done.status == 1


class TestSocket:
    @pytest.mark.parametrize("server", [cri.dead_socket, cri.babbling_socket])
    @pytest.mark.parametrize("command", ["scan", "clean"])
    def test_a_wrong_socket_is_unknown(
        self, node: Node, command: str, server: Callable[[Path], AbstractContextManager[Path]], short_dir: Path
    ):
        before = node.everything()
        with server(short_dir / "other.sock") as path:
            done = node.run(command, "--json", "--api=none", f"--runtime-endpoint=unix://{path}", without=OFFLINE)
        report = json.loads(done.out)
        assert report["witnesses"]["runtime"].startswith(f"unknown: {path}")
        if command == "clean":
            assert str(path) in done.line
            assert (done.status, report["aborted"]["reason"]) == (1, "witness")
        else:
            assert (done.status, done.err) == (0, "")
            assert {row["reason"] for row in report["files"]} <= {"unknown", "netns"}
        is_unchanged(node, before)

    def test_a_server_that_is_no_runtime_is_unknown(self, node: Node, cri_server: cri.CriServer):
        cri_server.fail(unimplemented=True)
        done = node.run("clean", "--api=none", f"--runtime-endpoint={cri_server.endpoint}", without=OFFLINE)
        assert "no CRI runtime" in done.line
        assert done.status == 1


REFUSALS: dict[str, tuple[api.Fault | api.Failure, str]] = {
    "401": (api.unauthorized(), "401"),
    "403": (api.forbidden(), "403"),
    "410": (api.gone("token"), "410"),
    "429": (api.too_many_requests(), "429"),
    "500": (api.server_error(500), "500"),
    "503": (api.server_error(503), "503"),
    "partial": (
        api.Fault(edit=lambda value: {**value, "metadata": {**value["metadata"], "remainingItemCount": 7}}),
        "partial",
    ),
    "cut short": (api.Fault(cut="connection"), "not JSON"),
    "no list": (api.Fault(edit=lambda _: {"kind": "Status"}), "no list of pods"),
}


class TestApi:
    def kubeconfig(self, node: Node, url: str) -> None:
        node.variables["KUBECONFIG"] = str(api.write_kubeconfig(node.home / "kubeconfig", url))

    def pods(self, node: Node) -> list[dict[str, Any]]:
        return [{**pod, "metadata": {**pod["metadata"], "resourceVersion": "1"}} for pod in node.tree.pods]

    def test_with_the_api_the_dead_pods_files_go(self, node: Node, api_server: ApiServer):
        api_server.set_pods(self.pods(node))
        self.kubeconfig(node, api_server.url)
        done = node.run("clean", "--api=external", without=["pods-file"])
        assert (done.status, done.err) == (0, "")
        assert remaining(node.tree) == {LIVE}

    @pytest.mark.parametrize("name", REFUSALS)
    @pytest.mark.parametrize("command", ["scan", "clean"])
    def test_an_api_that_refuses_is_unknown(self, node: Node, api_server: ApiServer, name: str, command: str):
        fault, word = REFUSALS[name]
        api_server.set_pods(self.pods(node))
        api_server.fail(fault)
        self.kubeconfig(node, api_server.url)
        before = node.everything()
        done = node.run(command, "--json", "--api=external", without=["pods-file"])
        report = json.loads(done.out)
        assert word in report["witnesses"]["api"]
        if command == "clean":
            assert word in done.line
            assert (done.status, report["aborted"]["reason"]) == (1, "witness")
        else:
            assert (done.status, done.err) == (0, "")
        assert not [row for row in report["files"] if row["verdict"] == "leaked"]
        is_unchanged(node, before)

    def test_an_api_that_never_answers_is_unknown(self, node: Node, api_server: ApiServer):
        api_server.fail(api.Fault(hang=True))
        self.kubeconfig(node, api_server.url)
        before = node.everything()
        done = node.run("clean", "--api=external", without=["pods-file"])
        assert "takes too long" in done.line
        assert done.status == 1
        is_unchanged(node, before)

    def test_a_node_that_the_api_does_not_know_is_unknown(self, node: Node, api_server: ApiServer):
        api_server.set_pods(self.pods(node))
        self.kubeconfig(node, api_server.url)
        before = node.everything()
        done = node.run("clean", "--api=external", "--node=another", without=["pods-file", "node"])
        assert "no pod at all on node another" in done.line
        assert done.status == 1
        is_unchanged(node, before)

    @pytest.mark.parametrize("command", ["scan", "clean"])
    def test_an_api_that_nobody_serves_is_unknown(self, node: Node, command: str):
        before = node.everything()
        with api.refusing_port() as port:
            self.kubeconfig(node, f"http://127.0.0.1:{port}")
            done = node.run(command, "--json", "--api=external", without=["pods-file"])
        assert "cannot be asked" in json.loads(done.out)["witnesses"]["api"]
        if command == "clean":
            assert done.status == 1
            assert "cannot be asked" in done.line
        else:
            assert (done.status, done.err) == (0, "")
        is_unchanged(node, before)

    @pytest.mark.parametrize("text", ["{[", "just a sentence", ""])
    def test_a_kubeconfig_that_cannot_be_read_is_one_line(self, node: Node, text: str):
        path = node.home / "kubeconfig"
        path.write_text(text)
        node.variables["KUBECONFIG"] = str(path)
        done = node.run("clean", "--api=external", without=["pods-file"])
        assert "KUBECONFIG" in done.line
        assert done.status == 1

    def test_in_a_cluster_without_its_own_uid_nothing_is_judged(self, node: Node, cri_server: cri.CriServer):
        # The results files of this machine are read, which another runtime's may not be for everybody.
        require_root()
        cri_server.add(cri.Sandbox(id=container_id("web"), uid="uid-web", name="web"))
        node.variables["KUBERNETES_SERVICE_HOST"] = "127.0.0.1"
        node.variables["KUBERNETES_SERVICE_PORT"] = "1"
        before = node.everything()
        done = node.run(
            "clean",
            "--root=/",
            f"--cnifiles={node.network}",
            "--api=none",
            f"--runtime-endpoint={cri_server.endpoint}",
            without=OFFLINE,
        )
        assert "POD_UID" in done.line
        assert done.status == 1
        is_unchanged(node, before)


def test_every_nonsense_flag_is_of_an_option_that_there_is():
    takes_a_value = {option.name for option in OPTIONS if option.metavar and option.only_for is None}
    assert NONSENSE.keys() == takes_a_value
