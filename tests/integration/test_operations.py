"""What docs/operations.md promises: a lost journal comes back, and Redis gets another password under a fleet that works."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from cli.demo.processes import Processes, running
from tasks import names
from tests.support.chaos import Server
from tests.support.fleet import DONE_WITHIN, client_of, start_fleet
from tests.support.nodetree import NodeTree, remaining
from tests.support.polling import until
from tests.support.program import COMMAND, REPOSITORY, child_environment, run
from tests.support.recorded import snapshot
from workers.configuration import environment_of

pytestmark = pytest.mark.timeout(300)

PAGE = (REPOSITORY / "docs" / "operations.md").read_text()
PUT_BACK = r"^((?:touch|tar|rm) .*/var/lib/cni-cleanup.*)$"
"""The commands that bring a copy of the journal back."""


@pytest.fixture
def tree(tmp_path: Path) -> NodeTree:
    """A live pod and a dead one."""
    made = NodeTree(tmp_path / "node")
    made.live("web", "10.88.0.2")
    made.dead("dead", "10.88.0.3")
    made.settings()
    return made


def of_the_node(tree: NodeTree) -> dict[str, str]:
    return environment_of(tree.settings(min_age=0.0, confirm_after=0.0, broker="redis://127.0.0.1:1/0"))


def commands(pattern: str, tree: NodeTree, home: Path) -> str:
    """The page's commands that fit, with this node's directory in place of a real one's, and a home of the test's own."""
    found = re.findall(pattern, PAGE, re.MULTILINE)
    assert found, f"{pattern} is not on the page any more"
    return "\n".join(found).replace("/var/lib/cni-cleanup", str(tree.state)).replace("NODE.tar", f"{home}/node.tar")


def bytes_of(tree: NodeTree) -> dict[str, bytes]:
    """Every file of the node with what it holds."""
    return {str(path.relative_to(tree.root)): path.read_bytes() for path in tree.root.rglob("*") if path.is_file()}


def test_a_journal_that_was_copied_aside_and_lost_brings_everything_back(tree: NodeTree, tmp_path: Path):
    before = bytes_of(tree)
    assert run("clean", home=tmp_path, variables=of_the_node(tree)).status == 0
    assert bytes_of(tree) != before
    back_up = commands(r"`(cd /var/lib/cni-cleanup && tar .*?)`", tree, tmp_path).replace("~/", "")
    subprocess.run(["sh", "-ec", back_up], check=True)

    shutil.rmtree(tree.state)
    lost = run("restore", home=tmp_path, variables=of_the_node(tree))
    assert (lost.status, "nothing is left" in lost.line) == (1, True)

    tree.state.mkdir()
    subprocess.run(["sh", "-ec", commands(PUT_BACK, tree, tmp_path)], check=True)
    done = run("restore", home=tmp_path, variables=of_the_node(tree))
    assert (done.status, done.err) == (0, "")
    assert bytes_of(tree) == before


def test_a_copy_that_is_older_replaces_nothing_that_the_node_has(tree: NodeTree, tmp_path: Path):
    assert run("clean", home=tmp_path, variables=of_the_node(tree)).status == 0
    (journal,) = (tree.state / "journal").iterdir()
    whole = journal.read_bytes()
    # The copy was made while the pass ran, and before another file was put back.
    journal.write_bytes(whole[:-20])
    (tree.state / "held.json").write_text("older")
    back_up = commands(r"`(cd /var/lib/cni-cleanup && tar .*?)`", tree, tmp_path).replace("~/", "")
    subprocess.run(["sh", "-ec", back_up], check=True)

    journal.write_bytes(whole)
    (tree.state / "held.json").write_text("newer")
    subprocess.run(["sh", "-ec", commands(PUT_BACK, tree, tmp_path)], check=True)
    assert journal.read_bytes() == whole
    assert (tree.state / "held.json").read_text() == "newer"


def test_a_copy_that_ends_anywhere_brings_back_whole_files_or_none(tree: NodeTree, tmp_path: Path):
    before = bytes_of(tree)
    assert run("clean", home=tmp_path, variables=of_the_node(tree)).status == 0
    (journal,) = (tree.state / "journal").iterdir()
    whole = journal.read_bytes()
    after = snapshot(tree.root)
    for cut in (0, 1, len(whole) // 3, whole.index(b"\n") - 1):
        journal.write_bytes(whole[:cut])
        assert run("restore", home=tmp_path, variables=of_the_node(tree)).status == 1
        assert snapshot(tree.root) == after
    # Announced, and the copy was made before it was noted what came of it.
    journal.write_bytes(whole[: whole.index(b"\n") + 20])
    assert run("restore", home=tmp_path, variables=of_the_node(tree)).status == 0
    assert bytes_of(tree) == before


def test_in_a_dry_run_one_pass_by_hand_removes_without_a_broker(tree: NodeTree, tmp_path: Path):
    variables = {**of_the_node(tree), "CNI_CLEANUP_DRY_RUN": "true"}
    assert run("clean", home=tmp_path, variables=variables).status == 0
    assert remaining(tree) == {"cbr0/10.88.0.2", "cbr0/10.88.0.3"}
    done = run("clean", home=tmp_path, variables=variables, before=("env", "CNI_CLEANUP_DRY_RUN=false"))
    assert (done.status, done.err) == (0, "")
    assert remaining(tree) == {"cbr0/10.88.0.2"}


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    (tmp_path / "logs").mkdir()
    with running(tmp_path / "logs") as started:
        yield started


def test_redis_gets_another_password_and_no_job_is_lost(processes: Processes, tmp_path: Path):
    server = Server(processes=processes, directory=tmp_path / "redis", password="older")  # noqa: S106  # for one test
    server.start()
    fleet = start_fleet(processes, server.url, tmp_path / "nodes", known=["node-1"])
    node = fleet.nodes["node-1"]
    newer = server.url.replace("older", "newer")

    assert fleet.redis.execute_command("ACL", "SETUSER", "default", ">newer") == b"OK"
    assert fleet.ask(names.CLEAN_NODE, "node-1")["aborted"] is None
    asking = client_of(newer)
    fleet.workers["node-1"].terminate()
    # It waits for the worker that is not there.
    waiting = asking.send_task(names.CLEAN_NODE, args=("node-1",))
    until(lambda: not fleet.workers["node-1"].running(), seconds=DONE_WITHIN, what="the end of the worker")
    settings = replace(node.settings(newer), min_age=0.0, confirm_after=0.0)
    processes.start("again", [*COMMAND, "worker"], child_environment(environment_of(settings)), REPOSITORY)
    assert waiting.get(timeout=DONE_WITHIN)["aborted"] is None

    assert fleet.redis.execute_command("ACL", "SETUSER", "default", "<older") == b"OK"
    assert asking.send_task(names.CLEAN_NODE, args=("node-1",)).get(timeout=DONE_WITHIN)["aborted"] is None
    with redis.Redis.from_url(server.url) as client, pytest.raises(redis.AuthenticationError):
        client.ping()
