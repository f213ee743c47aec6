"""The last report of a node: what is written can be read, and nothing less than all of it."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from cni.errors import CleanupError
from cni.report import Report, document
from tests.support.nodetree import NodeTree
from workers.reports import LastReport, chunks, read

MANY = 600
"""Files: more than two lines of a report."""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    tree = NodeTree(tmp_path_factory.mktemp("node"))
    tree.live("web", "10.88.0.2")
    for number in range(MANY):
        tree.reservation(f"10.88.{number // 200 + 1}.{number % 200 + 1}", f"dead-{number}")
    return tree.clean()


@pytest.fixture(scope="module")
def text(report: Report) -> str:
    return "".join(chunks(report))


def reading(text: str) -> LastReport:
    return read(io.StringIO(text))


def test_the_lines_are_the_json_of_the_report(report: Report, text: str):
    assert json.loads(text) == json.loads(json.dumps(document(report)))
    assert text.count("\n") == 4


def test_what_metrics_tell_is_read_out_of_it(report: Report, text: str):
    last = reading(text)
    assert last.files == {
        ("cbr0", "keep", "sandbox"): 2,
        ("cni-loopback", "keep", "sandbox"): 1,
        ("cbr0", "leaked", "absent"): MANY,
    }
    assert last.finished == pytest.approx(report.finished_ns / 1e9, abs=0.001)
    assert last.duration == pytest.approx((report.finished_ns - report.started_ns) / 1e9, abs=0.002)
    assert last.lock_wait == pytest.approx(report.lock_wait, abs=1e-6)


def test_one_without_files_is_read_as_well(tmp_path: Path):
    tree = NodeTree(tmp_path)
    assert reading("".join(chunks(tree.scan(cnifiles="/nowhere")))).files == {}


def test_outcomes_of_one_verdict_are_added_up(text: str):
    head, _, rest = text.partition("\n")
    found = json.loads(head + "]}")
    (leaked,) = (row for row in found["counts"] if row["verdict"] == "leaked")
    found["counts"] += [{**leaked, "outcome": "failed", "files": 7}]
    last = reading(json.dumps(found).removesuffix("]}") + "\n" + rest)
    assert last.files["cbr0", "leaked", "absent"] == MANY + 7


def test_a_torn_one_is_refused_wherever_it_is_torn(text: str):
    for end in [*range(0, 2000, 7), *range(2000, len(text), 997), len(text) - 2, len(text) - 1]:
        with pytest.raises(CleanupError, match=r"report\.json is no whole report"):
            reading(text[:end])


def without(key: str) -> Any:
    def change(text: str) -> str:
        head, _, rest = text.partition("\n")
        found = json.loads(head + "]}")
        del found[key]
        return json.dumps(found).removesuffix("]}") + "\n" + rest

    return change


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda text: text + "x", id="something behind its end"),
        pytest.param(lambda text: text.replace('"absent"', '"absent', 1), id="a torn string"),
        pytest.param(lambda text: json.dumps(json.loads(text), indent=1), id="other lines"),
        pytest.param(lambda text: text.replace('"files": ', '"files": "many', 1), id="a count that is none"),
        pytest.param(lambda _: "[]", id="a list"),
        pytest.param(lambda _: "\0" * 4096, id="zeros, as after a power cut"),
        pytest.param(lambda _: "[" * 200_000, id="too deep"),
        pytest.param(without("counts"), id="no counts"),
        pytest.param(without("finished"), id="no end"),
    ],
)
def test_a_damaged_one_is_refused_in_one_line(text: str, damage: Any):
    with pytest.raises(CleanupError) as refused:
        reading(damage(text))
    assert "\n" not in str(refused.value)
