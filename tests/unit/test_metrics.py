"""The metrics of the contract: names, types, labels, and no sample of what is not known."""

from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.nodetree import NodeTree
from workers.metrics import exposition, node_metrics
from workers.reports import LastReport
from workers.tally import Tally
from workers.usage import Usage
from workers.watching import Seen, Totals, Watcher

NOW = 1_800_000_000.0

CONTRACT = {
    "apicnicleanup_number_count": ("gauge", set()),
    "apicnicleanup_size_bytes": ("gauge", set()),
    "cni_cleanup_reservations": ("gauge", {"network"}),
    "cni_cleanup_capacity": ("gauge", {"network"}),
    "cni_cleanup_files": ("gauge", {"network", "verdict", "reason"}),
    "cni_cleanup_last_success_timestamp_seconds": ("gauge", set()),
    "cni_cleanup_pass_duration_seconds": ("gauge", set()),
    "cni_cleanup_lock_wait_seconds": ("gauge", set()),
    "cni_cleanup_report_age_seconds": ("gauge", set()),
    "cni_cleanup_journal_bytes": ("gauge", set()),
    "cni_cleanup_readable": ("gauge", {"source"}),
    "cni_cleanup_look_age_seconds": ("gauge", set()),
    "cni_cleanup_build_info": ("gauge", {"version"}),
    "cni_cleanup_removed": ("counter", {"network", "reason"}),
    "cni_cleanup_passes": ("counter", {"result"}),
}

WHOLE = Seen(
    tally=Tally(files=257, size=17_920),
    usage=[Usage(network="cbr0", reserved=254, capacity=253), Usage(network="other", reserved=1, capacity=None)],
    report=LastReport(
        finished=NOW - 90.0,
        duration=61.5,
        lock_wait=0.25,
        files={("cbr0", "leaked", "absent"): 12, ("", "keep", "foreign"): 1},
    ),
    totals=Totals(passes={"ok": 3}, removed={("cbr0", "absent"): 40}, last_success=NOW - 90.0),
    journal_size=4096,
    at=993.0,
)


def families(seen: Seen, *, now: float = NOW) -> dict[str, Any]:
    """As the client library reads them."""
    text = exposition(node_metrics(seen, version="1.2.3", now=lambda: now, monotonic=lambda: 1000.0)).decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def value(seen: Seen, name: str, **labels: str) -> float | None:
    samples = (sample for family in families(seen).values() for sample in family.samples)
    return next((sample.value for sample in samples if (sample.name, sample.labels) == (name, labels)), None)


def test_names_types_and_labels_are_the_contracts():
    assert {name: (one.type, {*one.samples[0].labels}) for name, one in families(WHOLE).items()} == CONTRACT


def test_the_older_tools_metrics_keep_their_texts():
    found = families(WHOLE)
    assert found["apicnicleanup_number_count"].documentation == "number of files"
    assert found["apicnicleanup_size_bytes"].documentation == "Size of the folder"


@pytest.mark.parametrize(
    ("name", "labels", "wanted"),
    [
        ("apicnicleanup_number_count", {}, 257),
        ("apicnicleanup_size_bytes", {}, 17_920),
        ("cni_cleanup_reservations", {"network": "cbr0"}, 254),
        ("cni_cleanup_reservations", {"network": "other"}, 1),
        ("cni_cleanup_capacity", {"network": "cbr0"}, 253),
        ("cni_cleanup_capacity", {"network": "other"}, None),
        ("cni_cleanup_files", {"network": "cbr0", "verdict": "leaked", "reason": "absent"}, 12),
        ("cni_cleanup_files", {"network": "", "verdict": "keep", "reason": "foreign"}, 1),
        ("cni_cleanup_report_age_seconds", {}, 90.0),
        ("cni_cleanup_pass_duration_seconds", {}, 61.5),
        ("cni_cleanup_lock_wait_seconds", {}, 0.25),
        ("cni_cleanup_last_success_timestamp_seconds", {}, NOW - 90.0),
        ("cni_cleanup_journal_bytes", {}, 4096),
        ("cni_cleanup_look_age_seconds", {}, 7.0),
        ("cni_cleanup_removed_total", {"network": "cbr0", "reason": "absent"}, 40),
        ("cni_cleanup_passes_total", {"result": "ok"}, 3),
        ("cni_cleanup_passes_total", {"result": "failed"}, 0),
        ("cni_cleanup_build_info", {"version": "1.2.3"}, 1),
        ("cni_cleanup_readable", {"source": "report"}, 1),
    ],
)
def test_every_number_is_what_was_seen(name: str, labels: dict[str, str], wanted: float | None):
    assert value(WHOLE, name, **labels) == wanted


def test_what_is_not_known_has_no_sample():
    with_samples = {name for name, family in families(Seen()).items() if family.samples}
    assert with_samples == {"cni_cleanup_readable", "cni_cleanup_look_age_seconds", "cni_cleanup_build_info"}


def test_a_network_that_cannot_be_counted_is_not_empty(tmp_path: Path):
    tree = NodeTree(tmp_path)
    (tree.reservation("10.88.0.2", "a").parent.parent / "link").symlink_to("cbr0")
    watcher = Watcher(tree.settings())
    watcher.look()
    assert value(watcher.seen, "cni_cleanup_reservations", network="cbr0") == 1
    assert value(watcher.seen, "cni_cleanup_reservations", network="link") is None


def test_before_the_first_pass_its_counters_are_zero():
    assert value(Seen(totals=Totals()), "cni_cleanup_passes_total", result="aborted") == 0


def test_a_source_that_cannot_be_read_is_told():
    seen = Seen(unreadable={"report": "why"})
    assert value(seen, "cni_cleanup_readable", source="report") == 0
    assert value(seen, "cni_cleanup_readable", source="totals") == 1


def test_a_report_of_the_future_is_not_older_than_new():
    seen = Seen(report=LastReport(finished=NOW + 60.0, duration=1.0, lock_wait=0.0, files={}))
    assert value(seen, "cni_cleanup_report_age_seconds") == 0


def test_the_age_of_a_report_grows_while_nothing_is_looked_at():
    ages = [families(WHOLE, now=NOW + later)["cni_cleanup_report_age_seconds"].samples[0].value for later in (0.0, 100.0)]
    assert ages == [90.0, 190.0]


@pytest.mark.parametrize("name", ["a\udcff", 'quo"te', "new\nline", "back\\slash", "\x00\x1b[31m", "ü"])
def test_any_name_of_a_network_leaves_the_metrics_readable(name: str):
    seen = Seen(
        usage=[Usage(network=name, reserved=7, capacity=9)],
        report=LastReport(finished=NOW, duration=0.0, lock_wait=0.0, files={(name, "keep", "foreign"): 7}),
        totals=Totals(passes={name: 7}, removed={(name, "absent"): 7}),
    )
    found = families(seen)
    for family in ("cni_cleanup_reservations", "cni_cleanup_files", "cni_cleanup_removed"):
        assert [sample.value for sample in found[family].samples] == [7.0]
