"""Undo: what was removed comes back as it was, never over what is there, and stays until it is released."""

import json
import os
import subprocess
import sys

import pytest

from cni.errors import CleanupError, PassAborted, UsageError
from tests.support.nodetree import LaterClock, NodeTree, container_id, remaining, reservations
from tests.support.skips import require_root
from workers.paths import Root
from workers.restoring import last_pass, release, removed_files, restore
from workers.state import State


@pytest.fixture
def tree(tmp_path):
    """A node with one live pod and one leak of two addresses."""
    tree = NodeTree(tmp_path)
    tree.live("web", "10.88.0.2")
    tree.dead("gone", "10.88.0.3")
    tree.reservation("fd00::3", "gone")
    return tree


def parts(tree):
    return State(str(tree.state)), Root(str(tree.root))


def put_back(tree, **chosen):
    state, root = parts(tree)
    return list(restore(state, root, LaterClock(), removed_files(state, root, **chosen)))


def rewrite_journal(tree, report, **changes):
    """Replace fields of every file that the pass announced."""
    journal = tree.state / "journal" / f"{report.pass_id}.jsonl"
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    for file in lines[0]["files"]:
        file.update(changes)
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_restored_file_is_held_until_it_is_released(tree):
    path = tree.root / "var/lib/cni/networks/cbr0/10.88.0.3"
    content, status = path.read_bytes(), path.stat()
    tree.clean()
    put_back(tree)
    back = path.stat()
    assert path.read_bytes() == content
    assert (back.st_mode, back.st_uid, back.st_gid, back.st_mtime_ns) == (
        status.st_mode,
        status.st_uid,
        status.st_gid,
        status.st_mtime_ns,
    )
    assert reservations(tree.clean())["cbr0/10.88.0.3"] == "keep/held"
    assert "/var/lib/cni/networks/cbr0/10.88.0.3" in release(State(str(tree.state)))
    assert reservations(tree.clean())["cbr0/10.88.0.3"] == "leaked/absent/removed"


def test_a_file_is_held_before_it_is_there_again(tree, monkeypatch):
    """A kill between the two must not leave a restored file that the next pass takes again."""
    tree.clean()
    state, _ = parts(tree)
    link = os.link
    held = []

    def watched(source, name, **more):
        held.append(name in {path.rpartition("/")[2] for path, _ in state.held()})
        link(source, name, **more)

    monkeypatch.setattr(os, "link", watched)
    assert {result.outcome for result in put_back(tree)} == {"restored"}
    assert held == [True] * 4


@pytest.mark.parametrize("why", ["exists", "failed"])
def test_what_did_not_come_back_is_not_held(tree, why):
    """The next leak at this path is another file, and must not be kept for ever."""
    tree.clean()
    networks = tree.root / "var/lib/cni/networks/cbr0"
    if why == "failed":
        (networks / "lock").unlink()
    else:
        tree.dead("next", "10.88.0.3")
        tree.reservation("fd00::3", "next")
    outcomes = {result.outcome for result in put_back(tree) if result.record.kind == "reservation"}
    assert outcomes == {why}
    assert parts(tree)[0].held() == frozenset()


def test_the_results_of_a_sandbox_stay_away_where_its_reservation_does(tree):
    tree.clean()
    tree.live("next", "10.88.0.3")
    results = tree.root / "var/lib/cni/results"
    before = set(results.iterdir())
    told = {result.record.kind: result.detail for result in put_back(tree)}
    assert "did not come back" in told["result"]
    assert set(results.iterdir()) == before


def test_the_owner_comes_back(tree):
    require_root()
    networks = tree.root / "var/lib/cni/networks/cbr0"
    for path in (networks, *networks.iterdir()):
        os.chown(path, 1234, 2345)
    assert tree.clean().count("removed") == 4
    put_back(tree)
    status = (networks / "10.88.0.3").stat()
    assert (status.st_uid, status.st_gid) == (1234, 2345)


@pytest.mark.parametrize("changes", [{"uid": 2**40}, {"gid": 2**40}, {"mtime_ns": 2**100}], ids=["uid", "gid", "time"])
def test_an_owner_or_time_that_no_kernel_has_fails_and_leaves_nothing(tree, changes):
    rewrite_journal(tree, tree.clean(), **changes)
    before = set(tree.root.rglob("*"))
    results = put_back(tree)
    assert {result.outcome for result in results} == {"failed"}
    assert all("owner or time" in str(result.detail) for result in results if result.record.kind == "reservation")
    assert set(tree.root.rglob("*")) == before


def test_an_address_brings_back_all_files_of_its_sandbox_and_no_others(tree):
    tree.dead("other", "10.88.0.4")
    tree.clean()
    results = put_back(tree, ip="FD00:0::3")
    assert {result.record.container_id for result in results} == {container_id("gone")}
    assert remaining(tree) == {"cbr0/10.88.0.2", "cbr0/10.88.0.3", "cbr0/fd00::3"}


def test_an_address_that_was_given_out_again_is_never_overwritten(tree):
    tree.clean()
    live = tree.live("next", "10.88.0.3")
    content = live.read_bytes()
    outcomes = {result.record.path.rpartition("/")[2]: result.outcome for result in put_back(tree)}
    assert outcomes["10.88.0.3"] == "exists"
    assert outcomes["fd00::3"] == "restored"
    assert live.read_bytes() == content


def test_what_is_back_is_not_offered_again(tree):
    tree.clean()
    put_back(tree)
    state, root = parts(tree)
    assert removed_files(state, root) == []


def test_a_hold_on_an_address_does_not_keep_its_next_owner(tree):
    tree.clean()
    put_back(tree)
    path = tree.root / "var/lib/cni/networks/cbr0/10.88.0.3"
    path.unlink()
    tree.reservation("10.88.0.3", "second-leak")
    assert reservations(tree.clean())["cbr0/10.88.0.3"] == "leaked/absent/removed"


def test_what_was_announced_but_kept_does_not_come_back(tree):
    path = tree.root / "var/lib/cni/networks/cbr0/10.88.0.3"

    def plugin_frees():
        if path.exists():
            path.unlink()

    tree.clean(observe=lambda step: plugin_frees() if step == "announced" else None)
    assert "/var/lib/cni/networks/cbr0/10.88.0.3" not in [one.path for one in removed_files(*parts(tree))]


@pytest.mark.parametrize("step", ["announced", "locked", "removed", "recorded"])
def test_sigkill_at_any_step_loses_nothing(tree, step):
    for number in range(10, 160):
        tree.reservation(f"10.88.0.{number}", f"leak-{number}")
    settings = tree.settings()
    before = remaining(tree)
    script = (
        "import os, signal, sys\n"
        "from cni.settings import Settings\n"
        "from tests.support.nodetree import LaterClock\n"
        "from workers import node\n"
        "steps = []\n"
        "def observe(step):\n"
        "    steps.append(step)\n"
        f"    if steps.count({step!r}) == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"node.clean(Settings(**{vars(settings)!r}), clock=LaterClock(3600.0), observe=observe)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr
    gone = before - remaining(tree)
    assert gone
    offered = {
        one.path.removeprefix("/var/lib/cni/networks/") for one in removed_files(*parts(tree)) if one.kind == "reservation"
    }
    assert offered == gone
    assert all(result.outcome == "restored" for result in put_back(tree))
    assert remaining(tree) == before


def test_a_torn_last_line_of_the_journal_is_skipped_and_not_glued_to_the_next(tree):
    report = tree.clean()
    journal = tree.state / "journal" / f"{report.pass_id}.jsonl"
    with journal.open("a") as file:
        file.write('{"event": "announced", "files": [{"pa')
    assert len(put_back(tree)) == 4
    assert json.loads(journal.read_text().splitlines()[-1])["event"] == "restored"


def test_files_of_a_pass_below_another_root_are_not_put_below_this_one(tree, tmp_path):
    """Though this one has the same network, with a lock and room for the address."""
    other = NodeTree(tmp_path / "other")
    other.file("var/lib/cni/results/.keep", b"")
    tree.clean()
    before = set(other.root.rglob("*"))
    state, root = parts(tree)
    results = list(restore(state, Root(str(other.root)), LaterClock(), removed_files(state, root)))
    assert len(results) == 4
    assert {result.outcome for result in results} == {"failed"}
    assert set(other.root.rglob("*")) == before


def test_a_state_directory_that_served_two_roots_gives_each_its_own_files(tree, tmp_path):
    other = NodeTree(tmp_path / "other")
    other.state = tree.state
    other.live("web2", "10.88.0.2")
    other.dead("theirs", "10.88.0.3")
    # Both lost a file at the same path, the other root as the later one.
    assert tree.clean().count("removed") == 4
    assert other.clean().count("removed") == 3
    assert {one.container_id for one in removed_files(*parts(tree))} == {container_id("gone")}
    assert {one.container_id for one in removed_files(*parts(other))} == {container_id("theirs")}
    assert [result.outcome for result in put_back(tree)] == ["restored"] * 4
    assert remaining(tree) == {"cbr0/10.88.0.2", "cbr0/10.88.0.3", "cbr0/fd00::3"}
    assert remaining(other) == {"cbr0/10.88.0.2"}


def test_the_last_pass_is_that_of_the_root(tree, tmp_path):
    other = NodeTree(tmp_path / "other")
    other.state = tree.state
    other.live("web2", "10.88.0.2")
    other.dead("theirs", "10.88.0.3")
    passes = [tree.clean().pass_id, other.clean().pass_id]
    assert [last_pass(*parts(tree)), last_pass(*parts(other))] == passes


def test_restore_waits_for_no_pass(tree):
    tree.clean()
    records = removed_files(*parts(tree))
    state, root = parts(tree)
    with State(str(tree.state)).pass_lock(), pytest.raises(PassAborted, match="another pass"):
        list(restore(state, root, LaterClock(), records))


def test_a_network_without_a_lock_gets_nothing_back(tree):
    tree.clean()
    (tree.root / "var/lib/cni/networks/cbr0/lock").unlink()
    outcomes = {result.record.kind: result.outcome for result in put_back(tree)}
    assert outcomes["reservation"] == "failed"


@pytest.mark.parametrize(
    ("chosen", "error"),
    [
        ({"ip": "10.88.0"}, UsageError),
        ({"pass_id": "20260101T000000-deadbeef"}, CleanupError),
        ({"pass_id": "../../etc/passwd"}, CleanupError),
    ],
)
def test_a_wrong_request_is_refused(tree, chosen, error):
    tree.clean()
    with pytest.raises(error):
        put_back(tree, **chosen)


def test_a_list_of_held_files_that_cannot_be_read_stops_every_removal(tree):
    tree.state.mkdir()
    (tree.state / "held.json").write_text("{not json")
    report = tree.clean()
    assert report.aborted.reason == "journal"
    assert remaining(tree) == {"cbr0/10.88.0.2", "cbr0/10.88.0.3", "cbr0/fd00::3"}


def test_an_address_brings_back_the_sandbox_that_had_it_last(tree):
    tree.clean()
    tree.dead("second", "10.88.0.3")
    tree.clean()
    results = put_back(tree, ip="10.88.0.3")
    assert {result.record.container_id for result in results} == {container_id("second")}
    assert {result.outcome for result in results} == {"restored"}


def test_a_hold_holds_all_files_of_its_sandbox_under_any_path(tree):
    tree.clean()
    put_back(tree)
    (tree.root / "opt").mkdir()
    (tree.root / "opt/cni").symlink_to("/var/lib/cni")
    report = tree.clean(cnifiles="/opt/cni")
    assert {text for name, text in reservations(report).items() if "10.88.0.3" in name} == {"keep/held"}


@pytest.mark.parametrize("content", ["null", "0", "{}", '""', "false", '["ab"]', '{"ab": 1}', "[[1, null]]", '[["a"]]'])
def test_a_list_of_held_files_of_another_form_is_no_empty_list(tree, content):
    tree.state.mkdir()
    (tree.state / "held.json").write_text(content)
    assert tree.clean().aborted.reason == "journal"


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "result", "path": "/etc/cni/net.d/evil"},
        {"path": "/var/lib/cni/networks/cbr0/../../../../etc/10.88.0.9"},
        {"path": "/var/lib/cni/networks/cbr0/unlocked"},
        {"kind": "result", "path": "/var/lib/cni/results/passwd"},
        {"kind": "result", "path": "/etc/cbr0-{id}-eth0"},
        {"data": "bm90IGEgcmVzZXJ2YXRpb24h"},
    ],
    ids=["elsewhere", "dots", "no address", "no id", "no place", "no reservation"],
)
def test_a_journal_that_somebody_wrote_makes_no_other_file(tree, changes):
    report = tree.clean()
    journal = tree.state / "journal" / f"{report.pass_id}.jsonl"
    event = json.loads(journal.read_text().splitlines()[0])
    record = {**event["files"][0], **changes}
    record["path"] = record["path"].format(id=record["container_id"])
    journal.write_text(json.dumps({**event, "files": [record]}) + "\n")
    before = set(tree.root.rglob("*"))
    assert [result.outcome for result in put_back(tree)] == ["failed"]
    assert set(tree.root.rglob("*")) == before


def test_special_mode_bits_do_not_come_back(tree):
    rewrite_journal(tree, tree.clean(), mode=0o104755)
    put_back(tree)
    assert (tree.root / "var/lib/cni/networks/cbr0/10.88.0.3").stat().st_mode & 0o7777 == 0o755


@pytest.mark.parametrize(
    "line",
    [
        '{"event": "announced", "time": "x", "files": null}',
        '{"event": "removed", "paths": [[1]]}',
        '{"event": []}',
        '{"event": "announced", "time": 1, "files": [{}]}',
        "[" * 100_000,
        "\udcff",
    ],
)
def test_an_odd_line_of_a_journal_is_skipped(tree, line):
    report = tree.clean()
    with (tree.state / "journal" / f"{report.pass_id}.jsonl").open("a", errors="surrogateescape") as file:
        file.write(line + "\n")
    assert {result.outcome for result in put_back(tree)} == {"restored"}


def test_the_plugins_lock_is_not_held_while_a_file_is_made(tree, monkeypatch):
    """The data is on disk before the lock is taken: only the name is made under it."""
    import fcntl

    tree.clean()
    lock = os.open(tree.root / "var/lib/cni/networks/cbr0/lock", os.O_RDONLY)
    free = []
    original = os.fsync

    def watched(fd):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(lock, fcntl.LOCK_UN)
        free.append(fd)
        original(fd)

    monkeypatch.setattr(os, "fsync", watched)
    results = put_back(tree)
    os.close(lock)
    assert {result.outcome for result in results} == {"restored"}
    assert free
