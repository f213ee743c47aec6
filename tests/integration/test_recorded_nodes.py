"""Real nodes, recorded: exactly what is leaked goes, and every other byte, mode and time stays."""

import pytest

from cni.settings import Settings
from tests.support.nodetree import LaterClock
from tests.support.recorded import CASES, NODE_NAME, difference, snapshot
from workers import node
from workers.paths import Root
from workers.restoring import release, removed_files, restore
from workers.state import State

HOUR = 3600.0


def settings_for(recorded, **changes):
    values = {
        "root": str(recorded.root),
        "state_dir": str(recorded.directory / "state"),
        "node": NODE_NAME,
        "pods_file": str(recorded.pods_file),
        "sandboxes_file": str(recorded.sandboxes_file),
    }
    return Settings(**{**values, **changes})


def clean(recorded, *, older=HOUR, **changes):
    return node.clean(settings_for(recorded, **changes), clock=LaterClock(older))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("older", [0.0, HOUR], ids=["real ages and no age floor", "an hour later"])
def test_exactly_the_leaked_files_go(recorded_node, case, older):
    recorded = recorded_node(case)
    if recorded.needs_real_ages:
        older = 0.0
    ids = recorded.container_ids(recorded.leaked)
    before = snapshot(recorded.root)

    report = clean(recorded, older=older, min_age=0.0 if older == 0.0 else 900.0)

    assert report.aborted is None
    found = difference(before, snapshot(recorded.root))
    networks = "var/lib/cni/networks"
    expected = {f"{networks}/{path}" for path in recorded.leaked}
    expected |= {path for path in before if "/results/" in path and any(id_ in path for id_ in ids)}
    assert found.removed == expected
    assert found.added == found.changed == frozenset()
    assert all(f"{networks}/{path}" in snapshot(recorded.root) for path in recorded.live)


@pytest.mark.parametrize("case", CASES)
def test_minutes_old_files_are_all_young(recorded_node, case):
    recorded = recorded_node(case)
    before = snapshot(recorded.root)
    report = clean(recorded, older=60.0)
    assert difference(before, snapshot(recorded.root)).removed == frozenset()
    assert report.leaked() == 0


ALL = "all"
WITHOUT_THE_RUNTIME: dict[str, tuple[str | frozenset[str], str]] = {
    "a2-failed-add-draining": (frozenset(), "a failed ADD leaves no results file, so no namespace speaks for its file"),
    "b-dual-stack": (ALL, "results files, names that are gone, addresses that no pod shows"),
    "c2-two-networks-same-addresses": (
        frozenset({"net-a/10.88.0.5"}),
        "pods of net-b show the other three addresses, and only the runtime could explain them",
    ),
    "d4-churn-slow-add": (frozenset(), "nothing is leaked: the names of namespaces protect the ADDs under way, at any age"),
    "h-force-deleted": (frozenset(), "nothing is leaked"),
    "k-leak-of-finished-pods": (frozenset(), "the API still shows the addresses of the finished pods"),
    "leak-renamed-network": (ALL, "results files, names that are gone, addresses that no pod shows"),
    "leak-runtime-reinstalled": (ALL, "results files, names that are gone, addresses that no pod shows"),
}
"""What goes with the runtime off: leaked ids with results files whose names are gone and whose addresses no pod shows."""


def test_every_recorded_case_says_what_goes_without_the_runtime():
    assert WITHOUT_THE_RUNTIME.keys() == set(CASES)


@pytest.mark.parametrize("case", CASES)
def test_without_the_runtime_exactly_what_both_others_condemn_goes(recorded_node, case):
    recorded = recorded_node(case)
    expected, _reason = WITHOUT_THE_RUNTIME[case]
    paths = recorded.leaked if isinstance(expected, str) else expected
    ids = recorded.container_ids(paths)
    before = snapshot(recorded.root)

    report = clean(recorded, sandboxes_file=None, runtime_endpoint="none")

    assert report.aborted is None
    found = difference(before, snapshot(recorded.root))
    leftovers = {path for path in before if "/results/" in path and any(id_ in path for id_ in ids)}
    assert found.removed == {f"var/lib/cni/networks/{path}" for path in paths} | leftovers
    assert found.added == found.changed == frozenset()
    assert paths <= recorded.leaked


@pytest.mark.parametrize("case", CASES)
def test_the_api_alone_never_condemns(recorded_node, case):
    """Leaked files without results files, so that no namespace is asked about; the runtime off; no pod shows the addresses."""
    recorded = recorded_node(case)
    for id_ in recorded.container_ids(recorded.leaked):
        for path in recorded.results.glob(f"*{id_}*"):
            path.unlink()
    before = snapshot(recorded.root)

    report = clean(recorded, sandboxes_file=None, runtime_endpoint="none")

    assert report.aborted is None
    assert report.witnesses["api"] == "ok"
    assert report.leaked() == 0
    assert difference(before, snapshot(recorded.root)).removed == frozenset()


@pytest.mark.parametrize("case", CASES)
def test_with_everything_off_nothing_is_leaked(recorded_node, case):
    recorded = recorded_node(case)
    before = snapshot(recorded.root)
    report = clean(recorded, sandboxes_file=None, runtime_endpoint="none", api="none", pods_file=None, min_age=0.0)
    assert report.leaked() == 0
    assert snapshot(recorded.root) == before


@pytest.mark.parametrize("case", CASES)
def test_a_dry_run_changes_nothing_and_tells_the_same(recorded_node, case):
    recorded = recorded_node(case)
    before = snapshot(recorded.root)
    report = clean(recorded, dry_run=True, min_age=0.0, older=0.0)
    assert snapshot(recorded.root) == before
    told = {item.path.removeprefix("/var/lib/cni/networks/") for item, _, outcome in report.rows() if outcome == "dry-run"}
    assert {path for path in told if not path.startswith("/")} == recorded.leaked


@pytest.mark.parametrize("case", CASES)
def test_another_nodes_sandboxes_condemn_nothing(recorded_node, case):
    recorded = recorded_node(case)
    other = recorded_node(next(one for one in ("b-dual-stack", "h-force-deleted") if one != case))
    before = snapshot(recorded.root)
    report = clean(recorded, sandboxes_file=str(other.sandboxes_file))
    assert report.aborted is not None
    assert snapshot(recorded.root) == before


@pytest.mark.parametrize("case", CASES)
def test_what_was_removed_can_all_be_put_back(recorded_node, case):
    recorded = recorded_node(case)
    before = snapshot(recorded.root)
    clean(recorded, min_age=0.0, older=0.0)
    state, root = State(str(recorded.directory / "state")), Root(str(recorded.root))

    results = list(restore(state, root, LaterClock(), removed_files(state, root)))

    assert all(result.outcome == "restored" for result in results)
    found = difference(before, snapshot(recorded.root))
    assert (found.removed, found.added) == (frozenset(), frozenset())
    # A directory's own time is all that differs.
    assert {before[path].kind for path in found.changed} <= {"d"}
    again = clean(recorded, min_age=0.0, older=0.0)
    assert again.leaked() == 0
    release(state)
    third = clean(recorded, min_age=0.0, older=HOUR)
    assert {item.path for item, _, outcome in third.rows() if outcome == "removed"} == {one.record.path for one in results}


def test_which_pod_leaked_is_told_from_the_results_cache(recorded_node):
    recorded = recorded_node("leak-renamed-network")
    report = clean(recorded)
    told = {report.pod_of(item) for item, decision, _ in report.rows() if decision.verdict == "leaked"}
    assert told == {"default/leak-1", "default/leak-2", "default/leak-3"}
