"""The report's JSON: its schema, its closed sets, and what its numbers mean."""

import fcntl
import json
import threading
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.errors import AbortReason, PassAborted
from cni.listing import Item, Kind, Problem, Subject, pack_stamp
from cni.report import SCHEMA, Outcome, Policy, Report, document, file_rows, rfc3339, summary
from cni.verdict import ABSENT, SANDBOX, Reason, Verdict
from tests.support.nodetree import NODE, NodeTree, container_id
from tests.support.schema import errors

SCHEMA_OF_REPORT: dict[str, Any] = json.loads((Path(__file__).parents[1] / "support" / "report_schema.json").read_text())

# Section 6 of the contract, word for word.
KEEP = ["foreign", "sandbox", "netns", "pod-ip", "held"]
UNDECIDED = ["young", "unknown", "unconfirmed", "unparsable"]
LEAKED = ["absent", "empty"]
OUTCOMES = ["removed", "gone", "changed", "dry-run", "over-limit", "failed"]
ABORTED = ["busy", "hold", "canary", "clock", "journal", "no-directory", "permission", "witness", "internal"]
PROBLEMS = ["no-lock", "lock-busy", "lock-error", "unreadable", "read-only", "refused", "skipped"]


def wrong(value: Any) -> list[str]:
    """What the schema has against a report, as a reader of its JSON gets it."""
    return list(errors(json.loads(json.dumps(value)), SCHEMA_OF_REPORT))


class TestClosedSets:
    def test_the_types_hold_what_the_contract_lists(self):
        assert typing.get_args(Verdict) == ("keep", "undecided", "leaked")
        assert list(typing.get_args(Reason)) == KEEP + UNDECIDED + LEAKED
        assert list(typing.get_args(Outcome)) == OUTCOMES
        assert list(typing.get_args(AbortReason)) == ABORTED
        assert list(typing.get_args(Problem)) == PROBLEMS
        assert set(typing.get_args(Kind)) == {"reservation", "result", "scratch"}

    def test_the_schema_holds_what_the_contract_lists(self):
        file = SCHEMA_OF_REPORT["$defs"]["file"]
        assert [branch["properties"]["reason"]["enum"] for branch in file["anyOf"]] == [KEEP, UNDECIDED, LEAKED]
        assert file["properties"]["outcome"]["enum"] == [None, *OUTCOMES]
        assert SCHEMA_OF_REPORT["properties"]["aborted"]["properties"]["reason"]["enum"] == ABORTED
        assert SCHEMA_OF_REPORT["$defs"]["network"]["properties"]["problem"]["enum"] == [None, *PROBLEMS]


@pytest.fixture
def tree(tmp_path: Path) -> NodeTree:
    """A live pod, a dead one, an empty file and a foreign one."""
    made = NodeTree(tmp_path)
    made.live("web", "10.88.0.2")
    made.dead("dead", "10.88.0.3")
    made.reservation("10.88.0.4", "empty", data=b"")
    made.file("var/lib/cni/networks/cbr0/README", b"")
    return made


def hold(tree: NodeTree) -> Report:
    tree.state.mkdir()
    (tree.state / "hold").touch()
    return tree.clean()


def busy(tree: NodeTree) -> Report:
    tree.state.mkdir()
    with (tree.state / "pass.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        return tree.clean()


def strangers(tree: NodeTree) -> Report:
    tree.sandboxes = []
    tree.sandbox("stranger")
    return tree.clean()


def removed_by_somebody(tree: NodeTree) -> Report:
    (tree.root / "var/lib/cni/networks/cbr0/10.88.0.3").unlink()
    return tree.scan()


WAYS: dict[str, tuple[Callable[[NodeTree], Report], str | None]] = {
    "scan": (lambda tree: tree.scan(), None),
    "scan of young files": (lambda tree: tree.scan(later=0.0), None),
    "scan of files of the future": (lambda tree: tree.scan(later=-1000.0), None),
    "scan without a node's name": (lambda tree: tree.scan(node=None), None),
    "clean": (lambda tree: tree.clean(), None),
    "dry run": (lambda tree: tree.clean(dry_run=True), None),
    "limit": (lambda tree: tree.clean(max_remove=1), None),
    "no limit left": (lambda tree: tree.clean(max_remove=0), None),
    "one network": (lambda tree: tree.clean(networks=frozenset({"other"})), None),
    "hold": (hold, "hold"),
    "busy": (busy, "busy"),
    "canary": (strangers, "canary"),
    "a results file alone": (removed_by_somebody, None),
    "no directory": (lambda tree: tree.scan(cnifiles="/nowhere"), "no-directory"),
    "the whole root as networks": (lambda tree: tree.scan(cnifiles="/"), None),
    "everything off": (
        lambda tree: tree.scan(pods_file=None, sandboxes_file=None, api="none", runtime_endpoint="none"),
        None,
    ),
    "witness": (lambda tree: tree.clean(node="another"), "witness"),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_report_fits_the_schema(tree: NodeTree, way: str):
    make, reason = WAYS[way]
    report = make(tree)
    assert wrong(document(report)) == []
    assert wrong(summary(report)) == []
    assert (report.aborted.reason if report.aborted else None) == reason


def test_the_summary_is_the_document_without_its_files(tree: NodeTree):
    report = tree.scan()
    whole = document(report)
    files = whole.pop("files")
    assert whole == summary(report)
    assert files == list(file_rows(report)) != []


@pytest.fixture
def good(tree: NodeTree) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(json.dumps(document(tree.clean())))
    return value


def spoiled(value: Any, path: list[Any], wanted: Any) -> Any:
    at = value
    for key in path[:-1]:
        at = at[key]
    if wanted is ...:
        del at[path[-1]]
    else:
        at[path[-1]] = wanted
    return value


@pytest.mark.parametrize(
    ("path", "value"),
    [
        pytest.param(["schema"], "cni-cleanup/report/2", id="another version"),
        pytest.param(["node"], 7, id="a number as node"),
        pytest.param(["pass_id"], ..., id="no pass"),
        pytest.param(["pass_id"], "a/b", id="a path as pass"),
        pytest.param(["started"], "2026-11-23 08:00", id="no RFC 3339"),
        pytest.param(["started"], "2026-11-23T08:00:00+01:00", id="no UTC"),
        pytest.param(["policy", "max_remove"], -1, id="a negative limit"),
        pytest.param(["policy", "dry_run"], 0, id="a number as truth"),
        pytest.param(["aborted"], {"reason": "tired", "detail": "x"}, id="another reason"),
        pytest.param(["aborted"], {"reason": "busy"}, id="no detail"),
        pytest.param(["aborted"], {"reason": "busy", "detail": "two\nlines"}, id="two lines"),
        pytest.param(["witnesses", "runtime"], "unknown", id="unknown without why"),
        pytest.param(["witnesses", "oracle"], "ok", id="another witness"),
        pytest.param(["networks", 0, "problem"], "locked", id="another problem"),
        pytest.param(["networks", 0, "capacity"], 1.5, id="half an address"),
        pytest.param(["networks", 0, "keep"], ..., id="no count"),
        pytest.param(["files", 0, "verdict"], "dead", id="another verdict"),
        pytest.param(["files", 0, "reason"], "because", id="another reason of a file"),
        pytest.param(["files", 0, "path"], "10.88.0.2", id="a relative path"),
        pytest.param(["files", 0, "kind"], "lock", id="another kind"),
        pytest.param(["files", 0, "container_id"], "abc", id="no id"),
        pytest.param(["files", 0, "pod"], ..., id="no pod"),
        pytest.param(["files", 0, "extra"], 1, id="another key"),
        pytest.param(["extra"], 1, id="another key at the top"),
    ],
)
def test_the_schema_refuses_what_the_contract_does_not_allow(good: dict[str, Any], path: list[Any], value: Any):
    assert wrong(good) == []
    assert wrong(spoiled(good, path, value)) != []


@pytest.mark.parametrize(
    ("verdict", "reason", "outcome"),
    [
        ("keep", "absent", None),
        ("leaked", "sandbox", None),
        ("undecided", "held", None),
        ("keep", "sandbox", "removed"),
        ("undecided", "young", "dry-run"),
        ("leaked", "absent", "kept"),
    ],
)
def test_the_schema_refuses_a_verdict_with_anothers_reason_or_outcome(
    good: dict[str, Any], verdict: str, reason: str, outcome: str | None
):
    good["files"][0].update(verdict=verdict, reason=reason, outcome=outcome)
    assert wrong(good) != []


def test_the_schema_has_no_keyword_that_nobody_checks():
    with pytest.raises(KeyError):
        list(errors("x", {"maxLength": 3}))


def test_counts_are_those_of_the_files(tree: NodeTree):
    tree.network("other", lock=False)
    tree.reservation("10.88.0.9", "elsewhere", network="other")
    for value in (document(tree.scan()), document(tree.clean())):
        for network in value["networks"]:
            rows = [file for file in value["files"] if file["kind"] == "reservation" and file["network"] == network["name"]]
            for verdict in ("keep", "undecided", "leaked"):
                assert network[verdict] == sum(file["verdict"] == verdict for file in rows)
            assert network["reservations"] == sum(file["ip"] is not None for file in rows)
            assert network["removed"] == sum(file["outcome"] == "removed" for file in rows)


def test_files_are_told_with_their_pods_and_paths_as_the_node_sees_them(tree: NodeTree):
    by_path = {file["path"]: file for file in document(tree.scan())["files"]}
    live, dead = (by_path[f"/var/lib/cni/networks/cbr0/10.88.0.{last}"] for last in (2, 3))
    assert (live["pod"], live["container_id"], live["ifname"]) == ("default/web", container_id("web"), "eth0")
    assert dead["pod"] == "default/dead"
    assert by_path["/var/lib/cni/networks/cbr0/README"]["ip"] is None
    assert not [path for path in by_path if path.endswith(("/lock", "/last_reserved_ip.0"))]


def test_a_scan_has_no_outcomes_and_a_pass_has_one_for_each_leaked_file(tree: NodeTree):
    assert {file["outcome"] for file in document(tree.scan())["files"]} == {None}
    files = document(tree.clean())["files"]
    assert all((file["outcome"] is not None) == (file["verdict"] == "leaked") for file in files)


POLICY = Policy(min_age=900.0, confirm_after=60.0, max_remove=None, dry_run=False)


def made(*items: Item, **changes: Any) -> Report:
    values: dict[str, Any] = {
        "node": NODE,
        "pass_id": "p-1",
        "sweep_id": "s-1",
        "started_ns": 1_800_000_000_000_000_000,
        "finished_ns": 1_800_000_001_500_000_000,
        "policy": POLICY,
        "aborted": None,
        "witnesses": {"runtime": "ok", "netns": "off", "api": "unknown: why"},
        "items": items,
        "decisions": [ABSENT] * len(items),
        "outcomes": {},
    }
    return Report(**{**values, **changes})


def item(*, mtime_ns: int, ctime_ns: int) -> Item:
    stamp = pack_stamp(1, 2, 70, mtime_ns, ctime_ns, 0o100644, 0, 0)
    return Item("reservation", "/n/cbr0", "10.88.0.2", "cbr0", Subject.SANDBOX, container_id("a"), "eth0", stamp, None)


@pytest.mark.parametrize(
    ("mtime", "ctime", "age"),
    [
        pytest.param(1_799_999_000, 1_799_999_000, 1000.0, id="both"),
        pytest.param(1_700_000_000, 1_799_999_999, 1.0, id="an old mtime that somebody set"),
        pytest.param(1_799_999_990, 1_799_999_000, 10.0, id="a later mtime"),
        pytest.param(1_800_000_060, 1_800_000_000, -60.0, id="of the future"),
    ],
)
def test_age_is_since_the_later_of_both_times(mtime: int, ctime: int, age: float):
    report = made(item(mtime_ns=mtime * 10**9, ctime_ns=ctime * 10**9))
    assert report.age_seconds(report.items[0]) == age
    assert wrong(document(report)) == []


def test_what_could_not_be_looked_at_has_no_age():
    report = made(item(mtime_ns=0, ctime_ns=0)._replace(stamp=None))
    assert next(file_rows(report))["age_seconds"] is None


def test_head_of_a_report():
    aborted = PassAborted("busy", "another pass holds the lock")
    value = summary(made(aborted=aborted))
    assert value["schema"] == SCHEMA == "cni-cleanup/report/1"
    assert (value["node"], value["pass_id"], value["sweep_id"]) == (NODE, "p-1", "s-1")
    assert (value["started"], value["finished"]) == ("2027-01-15T08:00:00.000Z", "2027-01-15T08:00:01.500Z")
    assert value["aborted"] == {"reason": "busy", "detail": "another pass holds the lock"}
    assert value["witnesses"] == {"runtime": "ok", "netns": "off", "api": "unknown: why"}


def test_counting():
    items = [item(mtime_ns=0, ctime_ns=0)] * 3
    report = made(*items, decisions=[ABSENT, SANDBOX, ABSENT], outcomes={0: "removed", 2: "gone"})
    assert (report.leaked(), report.count("removed"), report.count("failed")) == (2, 1, 0)
    assert [(decision, outcome) for _, decision, outcome in report.rows()] == [
        (ABSENT, "removed"),
        (SANDBOX, None),
        (ABSENT, "gone"),
    ]


@given(st.integers(0, 4_000_000_000 * 10**9))
def test_any_time_is_rfc_3339(wall_ns: int):
    assert not list(errors(rfc3339(wall_ns), SCHEMA_OF_REPORT["$defs"]["time"]))


class TestCounts:
    def test_files_are_counted_by_network_verdict_reason_and_outcome(self, tree: NodeTree):
        report = tree.clean()
        counts = {tuple(row.values())[:4]: row["files"] for row in report.count_rows}
        files = [(file["network"] or "", file["verdict"], file["reason"], file["outcome"]) for file in file_rows(report)]
        assert counts == {kind: files.count(kind) for kind in files}
        assert counts["cbr0", "leaked", "absent", "removed"] == 2
        assert counts["cbr0", "keep", "foreign", None] == 1

    def test_workloads_are_told_by_their_leaked_sandboxes_worst_first(self):
        pods = {container_id(name): f"shop/{name}" for name in ("web-58649f5cc6-pgg6p", "web-58649f5cc6-x2x4z", "db-0", "live")}
        items = [item(mtime_ns=0, ctime_ns=0)._replace(container_id=id_) for id_ in [*pods, *pods]]
        report = made(*items, decisions=[*[ABSENT] * 3, SANDBOX] * 2, pods=pods)
        assert report.workload_rows == [{"workload": "shop/web", "leaked": 2}, {"workload": "shop/db", "leaked": 1}]

    def test_only_the_ten_worst_workloads_are_told(self):
        pods = {container_id(str(number)): f"ns/app{number}x" for number in range(30)}
        report = made(*(item(mtime_ns=0, ctime_ns=0)._replace(container_id=id_) for id_ in pods), pods=pods)
        assert len(report.workload_rows) == 10


def test_a_pass_tells_how_long_it_waited_for_the_plugins_locks(tree: NodeTree):
    assert summary(tree.scan())["lock_wait_seconds"] == 0
    with (tree.root / "var/lib/cni/networks/cbr0/lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        def release(step: str) -> None:
            if step == "announced":
                threading.Timer(0.3, fcntl.flock, (lock, fcntl.LOCK_UN)).start()

        waited = summary(tree.clean(observe=release))["lock_wait_seconds"]
    assert waited > 0
