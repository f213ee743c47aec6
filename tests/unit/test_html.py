"""The page of a sweep: its numbers are those of the reports, and nothing that a report says is more than text."""

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cli.html.reading import text
from cli.html.view import MOST_GROUPS, MOST_NETWORKS, MOST_NODES, MOST_OPEN, MOST_USED, MOST_WORKLOADS, Page, page
from cli.html.words import OUTCOMES, REASONS
from cli.html.writing import check, render, write
from cni.errors import CleanupError, UsageError
from cni.report import Outcome
from cni.verdict import Reason
from tasks.account import document
from tasks.ledger import Facts, Sign, Snapshot
from tests.support.program import read_only, small_disk

STARTED = 1_795_420_800.0
NOW = STARTED + 300
FACTS = Facts(sweep_id="a-sweep", started=STARTED, dry_run=False, until=STARTED + 9000, all_asked=STARTED + 10)

HOSTILE = "<script>alert(1)</script>\"'><img src=http://evil.example/x onerror=alert(1)>&amp;{{ 7 * 7 }}\u202e\x1b[2J\ud800"
"""What a node may call a network, or say in a sentence."""


def network(name: str = "cbr0", **changes: Any) -> dict[str, Any]:
    numbers = {"reservations": 10, "capacity": 20, "keep": 7, "undecided": 1, "leaked": 2, "removed": 2}
    return {"name": name, "problem": None, **numbers, **changes}


def counted(files: int, verdict: str, reason: str, outcome: str | None = None, of: str = "cbr0") -> dict[str, Any]:
    return {"network": of, "verdict": verdict, "reason": reason, "outcome": outcome, "files": files}


def report(*networks: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """What a node answers whose pass ran to its end."""
    return {
        "pass_id": "p",
        "started": "2026-11-23T08:00:00.000Z",
        "finished": "2026-11-23T08:01:01.500Z",
        "policy": {"dry_run": False},
        "aborted": None,
        "witnesses": {"runtime": "ok"},
        "networks": list(networks or (network(),)),
        "outcomes": {"removed": 2},
        "counts": [counted(14, "keep", "sandbox"), counted(3, "leaked", "absent", "removed"), counted(1, "undecided", "young")],
        "workloads": [{"workload": "shop/web", "leaked": 2}],
        "findings": [],
        **changes,
    }


def sweep(reports: Mapping[str, Any], *more: str, facts: Facts = FACTS, **changes: Any) -> Snapshot:
    """A sweep over the nodes that reported and `more`."""
    nodes = frozenset([*reports, *more])
    known: dict[str, Any] = {"signs": {}, "seen": {}, **changes}
    return Snapshot(facts=facts, expected=nodes, asked=nodes, reports=reports, **known)


def of(found: Snapshot) -> Page:
    return page(found, document(found, now=NOW), now=NOW)


def html_of(found: Snapshot) -> str:
    return render(of(found))


class Parsed(HTMLParser):
    """The elements of a page with their attributes, and all that it says."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if not self.elements or self.elements[-1][0] != "style":
            self.words.append(data)

    @property
    def said(self) -> str:
        return " ".join(" ".join(self.words).split())


def is_self_contained(html: str) -> bool:
    """Whether it runs nothing and asks for nothing, anywhere."""
    forbidden = {"script", "img", "link", "iframe", "object", "embed", "form", "base", "audio", "video", "image", "use", "a"}
    asking = {"src", "srcset", "href", "xlink:href", "action", "background", "data", "poster"}
    for tag, attributes in Parsed(html).elements:
        if tag in forbidden or asking & attributes.keys() or any(name.startswith("on") for name in attributes):
            return False
    (style,) = re.findall("<style>(.*?)</style>", html, re.DOTALL)
    return not re.search(r"url\(|@import|expression", style)


class TestSums:
    def test_the_numbers_of_all_nodes_are_added(self):
        found = of(sweep({"a": report(), "b": report(network(), network("net1", leaked=5, removed=1))}))
        tiles = {tile.name: (tile.value, tile.detail) for tile in found.tiles}
        assert tiles["Nodes cleaned"] == ("2", "of 2")
        assert tiles["Leaked"] == ("9", "of 30 reservations")
        assert tiles["Removed"] == ("5", "4 not removed")
        assert (found.tone, found.headline) == ("good", "All 2 nodes cleaned")

    def test_a_network_is_added_over_the_nodes_that_have_it(self):
        found = of(sweep({"a": report(), "b": report(network(reservations=15), network("net1", capacity=None))}))
        cbr0, net1 = found.networks.shown
        assert (cbr0.network, cbr0.nodes, cbr0.left, cbr0.capacity, cbr0.percent, cbr0.removed) == ("cbr0", 2, 21, 40, 52, 4)
        assert (net1.network, net1.nodes, net1.left, net1.capacity, net1.percent) == ("net1", 1, 8, None, None)
        assert found.unknown_capacity == 1

    def test_nodes_that_do_not_know_a_capacity_are_in_no_share_of_it(self):
        found = of(sweep({"a": report(), "b": report(network(capacity=None, reservations=1000))}))
        assert (found.networks.shown[0].left, found.networks.shown[0].capacity) == (8, 20)

    def test_usage_is_what_the_pass_left_the_fullest_first(self):
        reports = {"a": report(network(reservations=19, removed=2)), "b": report(network(reservations=18, leaked=0, removed=0))}
        found = of(sweep(reports))
        assert [(use.node, use.left, use.percent, use.is_full) for use in found.fullest.shown] == [
            ("b", 18, 90, True),
            ("a", 17, 85, True),
        ]
        assert found.full == 2

    def test_a_bar_has_what_is_in_use_undecided_left_and_freed(self):
        (use,) = of(sweep({"a": report(network(reservations=16, undecided=1, leaked=6, removed=4))})).fullest.shown
        assert [(piece.kind, piece.start, piece.width) for piece in use.bar] == [
            ("keep", 0, 450),
            ("undecided", 450, 50),
            ("leaked", 500, 100),
            ("removed", 600, 200),
        ]

    def test_more_reservations_than_fit_make_a_full_bar(self):
        (use,) = of(sweep({"a": report(network(reservations=50, undecided=0, leaked=0, removed=0))})).fullest.shown
        assert (use.percent, [piece.width for piece in use.bar]) == (250, [1000])

    def test_little_of_a_large_network_is_told_and_can_be_seen(self):
        little = network(reservations=3, capacity=1000, undecided=0, leaked=1, removed=1)
        found = of(sweep({"a": report(little)}))
        (use,) = found.fullest.shown
        assert (use.share, found.networks.shown[0].share) == ("< 1 %", "< 1 %")
        assert [(piece.kind, piece.start, piece.width) for piece in use.bar] == [("keep", 0, 4), ("removed", 4, 4)]
        assert {tile.name: tile.value for tile in found.tiles}["Fullest afterwards"] == "< 1 %"
        assert Parsed(render(found)).said.count("< 1 %") == 3

    def test_nothing_of_a_network_is_nothing(self):
        (use,) = of(sweep({"a": report(network(reservations=0, undecided=0, leaked=0, removed=0))})).fullest.shown
        assert (use.share, use.bar) == ("0 %", ())

    def test_a_little_part_of_a_full_bar_can_be_seen_and_the_bar_is_no_longer(self):
        (use,) = of(
            sweep({"a": report(network(reservations=9999, capacity=9999, undecided=1, leaked=1, removed=0))})
        ).fullest.shown
        assert [(piece.kind, piece.start, piece.width) for piece in use.bar] == [
            ("keep", 0, 992),
            ("undecided", 992, 4),
            ("leaked", 996, 4),
        ]

    def test_none_of_those_that_are_left_out_is_above_what_is_said(self):
        reports = {f"node-{number:02}": report(network(capacity=1000, reservations=6)) for number in range(MOST_USED + 1)}
        assert of(sweep(reports)).next_percent == 1

    def test_files_are_added_by_what_became_of_them_and_why(self):
        other = report(counts=[counted(5, "leaked", "absent", "removed", of="net1"), counted(2, "leaked", "empty", "over-limit")])
        found = of(sweep({"a": report(), "b": other}))
        assert found.files == 25
        told = [(group.kind, group.files, [(row.text, row.detail, row.amount) for row in group.rows]) for group in found.groups]
        assert told == [
            ("removed", 8, [("Nobody knows its pod any more", "", 8)]),
            ("leaked", 2, [("Empty, left by a crash, and no pod has its address", "left: more than the node's --max-remove", 2)]),
            ("keep", 14, [("The container runtime lists the pod", "", 14)]),
            ("undecided", 1, [("Too young: its pod may still be in the making", "", 1)]),
        ]

    def test_networks_that_a_pass_left_out_are_counted_nowhere(self):
        left_out = network("net1", problem="skipped")
        counts = [
            counted(4, "undecided", "unconfirmed", of="net1"),
            counted(3, "keep", "sandbox"),
            counted(2, "keep", "netns", of=""),
        ]
        found = of(sweep({"a": report(network(), left_out, counts=counts)}))
        assert [use.network for use in found.networks.shown] == ["cbr0"]
        assert found.files == 5

    def test_workloads_are_added_over_the_nodes(self):
        other = report(workloads=[{"workload": "shop/web", "leaked": 3}, {"workload": "batch/job", "leaked": 9}])
        found = of(sweep({"a": report(), "b": other}))
        assert [(row.text, row.amount, row.detail) for row in found.workloads.shown] == [
            ("batch/job", 9, "on 1 node"),
            ("shop/web", 5, "on 2 nodes"),
        ]

    def test_the_same_finding_of_several_nodes_is_one(self):
        reports = {"a": report(findings=["x", "y", "x"]), "b": report(findings=["y"]), "c": report(findings=["y"])}
        found = of(sweep(reports))
        assert [(cause.text, cause.nodes, cause.named) for cause in found.findings.shown] == [
            ("y", 3, ("a", "b", "c")),
            ("x", 1, ("a",)),
        ]


class TestHead:
    @pytest.mark.parametrize(
        ("found", "tone", "headline"),
        [
            pytest.param(sweep({"a": report()}), "good", "The node was cleaned", id="one"),
            pytest.param(sweep({"a": report()}, "b"), "bad", "1 node of 2 needs a person", id="missed"),
            pytest.param(
                sweep({"a": report()}, "b", seen={"b": NOW}), "busy", "Under way: 1 of 2 nodes have answered", id="running"
            ),
            pytest.param(
                sweep({"a": report()}, "b", signs={"b": Sign(what="discarded", at=NOW, why="late")}),
                "bad",
                "1 of 2 nodes cleaned; the others came back too late",
                id="discarded",
            ),
            pytest.param(sweep({}, facts=replace(FACTS, error="no nodes")), "bad", "The sweep went no further", id="error"),
            pytest.param(sweep({}), "bad", "No node was asked", id="forgotten"),
            pytest.param(
                sweep({}, facts=replace(FACTS, all_asked=None)), "busy", "Under way: its nodes are being found", id="begun"
            ),
            pytest.param(
                sweep({"a": report()}, facts=replace(FACTS, all_asked=None, stopped=NOW)),
                "bad",
                "It is not known which nodes were asked",
                id="stopped while asking",
            ),
        ],
    )
    def test_the_first_line_says_how_it_is(self, found: Snapshot, tone: str, headline: str):
        told = of(found)
        assert (told.tone, told.headline) == (tone, headline)
        assert Parsed(render(told)).said.count(headline) >= 1

    def test_a_dry_run_claims_no_removal(self):
        answer = report(network(removed=0), outcomes={"dry-run": 2}, counts=[counted(2, "leaked", "absent", "dry-run")])
        html = html_of(sweep({"a": answer}, facts=replace(FACTS, dry_run=True)))
        said = Parsed(html).said
        assert "This was a dry run: 2 leaked reservations found, none removed." in said
        assert "complete, a dry run" in said
        assert "The node was looked at" in said
        assert "would be removed; this was a dry run" in said
        assert "cleaned" not in said

    def test_a_sweep_that_was_stopped_or_went_no_further_says_so(self):
        facts = replace(FACTS, all_asked=None, stopped=NOW, error="the API is away", selector="pool=a")
        said = Parsed(html_of(sweep({}, "a", facts=facts))).said
        for told in (
            "It was stopped 2026-11-23T08:05:00Z",
            "Why it went no further: the API is away",
            "pool=a",
            "incomplete, stopped",
        ):
            assert told in said

    def test_when_it_was_is_told(self):
        facts = dict(of(sweep({"a": report()})).facts)
        assert facts == {
            "Sweep": "a-sweep",
            "State": "complete",
            "Began": "Mon 23 Nov 2026, 08:00:00 UTC",
            "Last pass ended": "Mon 23 Nov 2026, 08:01:01 UTC, 62 s later",
            "This page is of": "Mon 23 Nov 2026, 08:05:00 UTC",
        }

    def test_nodes_that_were_left_out_are_told_by_reason(self):
        found = of(sweep({"a": report()}, facts=replace(FACTS, skipped={"w1": "runs windows", "w2": "runs windows"})))
        assert [(cause.text, cause.named) for cause in found.left_out.shown] == [("runs windows", ("w1", "w2"))]
        assert "runs windows" in render(found)


class TestNodes:
    def test_those_that_need_a_person_come_first_with_why(self):
        aborted = report(aborted={"reason": "hold", "detail": "a hold is there"}, networks=[], counts=[], witnesses={})
        found = of(sweep({"a": report(), "b": aborted, "c": report()}, "d"))
        assert [(row.node, row.word, row.why) for row in found.open_rows] == [
            ("b", "failed", "aborted (hold): a hold is there"),
            ("d", "missed", "no worker has ever been there"),
            ("a", "cleaned", ""),
            ("c", "cleaned", ""),
        ]
        assert found.open_rows[0].numbers == (None,) * 5
        assert found.open_rows[2].numbers == (10, 7, 1, 2, 2)
        assert [(cause.state, cause.text, cause.named) for cause in found.causes.shown] == [
            ("failed", "aborted (hold): a hold is there", ("b",)),
            ("missed", "no worker has ever been there", ("d",)),
        ]

    def test_of_many_those_that_are_cleaned_are_folded(self):
        reports = {f"n{number:03}": report() for number in range(MOST_OPEN + 1)}
        found = of(sweep(reports, "down"))
        assert [row.node for row in found.open_rows] == ["down"]
        assert [row.node for row in found.folded_rows] == sorted(reports)
        assert found.folded == "61 more nodes: 61 cleaned"
        assert "<summary>61 more nodes: 61 cleaned</summary>" in render(found)

    def test_of_very_many_that_need_a_person_the_rest_is_folded_too(self):
        found = of(sweep({"a": report()}, *(f"down-{number:03}" for number in range(MOST_OPEN + 5))))
        assert len(found.open_rows) == MOST_OPEN
        assert found.folded == "6 more nodes: 5 missed, 1 cleaned"


class TestOlderAndGarbledReports:
    def test_an_older_worker_has_its_numbers_and_the_page_says_what_is_missing(self):
        older = report()
        del older["counts"], older["workloads"], older["findings"], older["outcomes"]
        found = of(sweep({"a": report(), "b": older}))
        assert (found.without_counts, found.files, found.networks.shown[0].nodes) == (1, 18, 2)
        assert "Not in here: 1 node with a worker of an older version" in Parsed(render(found)).said

    def test_of_older_workers_alone_there_is_a_page(self):
        older = report()
        del older["counts"], older["workloads"]
        found = of(sweep({"a": older}))
        assert (found.groups, found.workloads.shown, found.without_counts) == ((), (), 1)
        assert "Not in here: 1 node" in Parsed(render(found)).said

    @pytest.mark.parametrize("garbled", [[], "x", 7, {}, {"networks": 3}, report(counts="x", networks=[None])])
    def test_a_garbled_report_hides_no_other(self, garbled: Any):
        found = of(sweep({"a": report(), "b": garbled}))
        assert [(row.node, row.state) for row in found.open_rows] == [("b", "failed"), ("a", "cleaned")]
        assert "its report cannot be understood" in found.open_rows[0].why
        assert found.files == 18
        assert render(found)

    @pytest.mark.parametrize(
        "part",
        [
            {"counts": [{"network": "cbr0"}, counted(-1, "keep", "sandbox"), counted(3, "keep", "netns"), None]},
            {"counts": [counted(3, "keep", "netns"), counted(5, "keep", "sandbox", of=None)]},  # type: ignore[arg-type]
            {
                "counts": [
                    counted(3, "keep", "netns"),
                    {**counted(5, "keep", "x"), "files": True},
                    {**counted(1, "a", "b"), "outcome": []},
                ]
            },
        ],
    )
    def test_a_garbled_row_is_left_out_alone(self, part: dict[str, Any]):
        assert of(sweep({"a": report(**part)})).files == 3

    @pytest.mark.parametrize("number", [float("inf"), float("nan"), -5, 10**400, 2.5])
    def test_numbers_that_count_nothing_are_no_numbers(self, number: float):
        found = of(sweep({"a": report(), "b": report(network(reservations=number, capacity=number))}))
        assert found.tiles[2].detail == "of 10 reservations"
        assert render(found)

    def test_what_only_a_newer_version_knows_is_shown_in_its_words(self):
        found = of(sweep({"a": report(counts=[counted(2, "keep", "lease"), counted(1, "quarantined", "odd", "moved")])}))
        assert [(group.kind, row.text, row.slug, row.detail) for group in found.groups for row in group.rows] == [
            ("keep", "lease", "keep, lease", ""),
            ("other", "odd", "quarantined, odd", "moved"),
        ]

    JSON = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda some: st.lists(some, max_size=3) | st.dictionaries(st.text(max_size=5), some, max_size=3),
        max_leaves=8,
    )

    # As many as are worth a second: each renders a page.
    @settings(max_examples=50)
    @given(part=st.sampled_from(sorted(report())), value=JSON, key=st.sampled_from(sorted({*network(), *counted(1, "", "")})))
    def test_whatever_a_report_says_there_is_a_page(self, part: str, value: Any, key: str):
        reports = {
            "a": report(),
            "b": report(**{part: value}),
            "c": report(**{part: [{**network(), **counted(1, "", ""), key: value}]}),
        }
        found = of(sweep(reports))
        assert next(row for row in found.open_rows if row.node == "a").state == "cleaned"
        assert is_self_contained(render(found))


def test_every_reason_and_outcome_has_its_words():
    assert REASONS.keys() == set(get_args(Reason))
    assert OUTCOMES.keys() == set(get_args(Outcome))


class TestThePage:
    def test_it_runs_nothing_and_asks_for_nothing(self):
        html = html_of(sweep({"a": report(findings=["run `rm -rf x`"])}, "b"))
        assert is_self_contained(html)
        assert not re.search(r"https?:|//", re.sub("<style>.*?</style>", "", html, flags=re.DOTALL))
        assert "<code>rm -rf x</code>" in html

    def test_the_check_sees_what_would_be_asked_for(self):
        html = html_of(sweep({"a": report()}))
        for wrong in ("<script>", "<img>", "<p onclick=x>", "<p style=x><link rel=stylesheet>"):
            assert not is_self_contained(html.replace("</main>", f"{wrong}</main>"))
        assert not is_self_contained(html.replace("<style>", "<style>a { background: url(x) }"))

    def test_it_says_to_the_browser_too_that_nothing_is_to_be_asked_for(self):
        metas = [attributes for tag, attributes in Parsed(html_of(sweep({}))).elements if tag == "meta"]
        assert {"http-equiv": "Content-Security-Policy", "content": "default-src 'none'; style-src 'unsafe-inline'"} in metas

    def test_names_and_sentences_are_text_whatever_they_hold(self):
        answer = report(
            network(HOSTILE),
            aborted={"reason": HOSTILE, "detail": HOSTILE},
            counts=[counted(3, HOSTILE, HOSTILE, HOSTILE, of=HOSTILE), counted(1, "leaked", HOSTILE, HOSTILE)],
            workloads=[{"workload": HOSTILE, "leaked": 2}],
            findings=[HOSTILE, f"`{HOSTILE}`"],
        )
        facts = replace(FACTS, error=HOSTILE, selector=HOSTILE, skipped={HOSTILE: HOSTILE})
        signs = {"s": Sign(what="failed", at=NOW, why=HOSTILE)}
        html = html_of(sweep({HOSTILE: answer}, "s", facts=facts, signs=signs))
        assert is_self_contained(html)
        assert "49" not in re.sub("<style>.*?</style>", "", html, flags=re.DOTALL)
        assert (
            "<script>alert(1)</script>\"'><img src=http://evil.example/x onerror=alert(1)>&amp;{{ 7 * 7 }}" in Parsed(html).said
        )
        for command in ("\u202e", "\x1b", "\ud800"):
            assert command not in html

    def test_a_text_is_cut_also_where_it_grows_by_what_is_written_out(self):
        assert text("x" * 10**6, 10) == "xxxxxxxxx…"
        assert len(text("\x00" * 100, 10)) == 10
        assert text("x" * 10, 10) == "x" * 10

    def test_a_fleet_of_five_thousand_is_less_than_two_megabytes(self):
        """Also where no two nodes have anything in common, and all of them something to say."""
        reports = {}
        for number in range(MOST_NODES + 10):
            name = f"ip-10-{number // 250}-{number % 250}-117.eu-west-1.compute.internal"
            own = [network(f"{kind}-{number}") for kind in ("pods", "storage", "backup")]
            aborted = {"reason": "witness", "detail": f"{name} cannot be asked: {'a reason of some length ' * 20}"}
            counts = [counted(1, "keep", f"reason-{number}")]
            found = [f"{name} has something to say: {'a sentence of some length ' * 20}"]
            workload = [{"workload": f"namespace-{number}/workload", "leaked": 1}]
            reports[name] = report(*own, aborted=aborted, counts=counts, findings=found, workloads=workload)
        told = of(sweep(reports))
        html = render(told)
        assert len(html.encode()) < 2_000_000
        assert len(told.open_rows) + len(told.folded_rows) == MOST_NODES
        assert (told.more_rows, told.fullest.more) == (10, 3 * len(reports) - MOST_USED)
        assert told.networks.more == 3 * len(reports) - MOST_NETWORKS
        assert told.workloads.more == len(reports) - MOST_WORKLOADS
        assert told.causes.more == told.findings.more == len(reports) - MOST_GROUPS
        said = Parsed(html).said
        for more in ("And 10 nodes more", "And 15,010 more, none above 40 %", "And 4,990 workloads more", "And 4,970 notes more"):
            assert more in said


class TestTheFile:
    def test_it_has_the_mode_of_any_new_file(self, tmp_path: Path):
        before = os.umask(0o027)
        try:
            write(str(tmp_path / "page.html"), "page")
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / "page.html").stat().st_mode) == 0o640
        assert [path.name for path in tmp_path.iterdir()] == ["page.html"]

    def test_it_replaces_an_older_one_and_follows_a_link(self, tmp_path: Path):
        (tmp_path / "old.html").write_text("old")
        (tmp_path / "link.html").symlink_to("old.html")
        check(str(tmp_path / "link.html"))
        write(str(tmp_path / "link.html"), "n\u00e9w")
        assert (tmp_path / "old.html").read_text(encoding="utf-8") == "n\u00e9w"
        assert (tmp_path / "link.html").is_symlink()

    def test_where_there_is_no_room_the_older_one_stays(self, tmp_path: Path):
        with small_disk(tmp_path / "disk", 65536) as disk:
            (disk / "page.html").write_text("old")
            with pytest.raises(CleanupError, match=r"page\.html: it cannot be written: No space left on device"):
                write(str(disk / "page.html"), "x" * 100_000)
            assert [path.name for path in disk.iterdir()] == ["page.html"]
            assert (disk / "page.html").read_text() == "old"

    def test_a_directory_that_may_only_be_read_is_told_before_anything_is_asked(self, tmp_path: Path):
        (tmp_path / "disk").mkdir()
        with read_only(tmp_path / "disk"), pytest.raises(UsageError, match="it may not be written"):
            check(str(tmp_path / "disk/page.html"))

    def test_a_device_is_refused_and_stays_one(self):
        with pytest.raises(UsageError, match="no regular file"):
            check("/dev/null")
