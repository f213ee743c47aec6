"""Odd trees and what `scan` says of them; see tests/support/trees.py for how they are described."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from cni.report import Report, document
from tests.support.recorded import snapshot
from tests.support.schema import errors
from tests.support.skips import require_root
from tests.support.trees import FIXTURES, Case, load_cases
from workers import node
from workers.configuration import load_settings

SCHEMA = json.loads((FIXTURES.parents[1] / "support" / "report_schema.json").read_text())
NETWORK_KEYS = ("name", "problem", "reservations", "capacity")
FILE_KEYS = ("path", "kind", "network", "ip", "container_id", "ifname", "verdict", "reason", "pod")


def told(report: Report) -> dict[str, Any]:
    """What an expectation holds of a report, as its JSON says it; the order of a directory is nobody's promise."""
    value = json.loads(json.dumps(document(report)))
    assert list(errors(value, SCHEMA)) == []
    files = [{key: file[key] for key in FILE_KEYS} for file in value["files"]]
    return {
        "aborted": value["aborted"] and value["aborted"]["reason"],
        "networks": [{key: network[key] for key in NETWORK_KEYS} for network in value["networks"]],
        "files": sorted(files, key=lambda file: os.fsencode(file["path"])),
    }


def as_expected(case: Case) -> dict[str, Any]:
    return {**case.expected, "files": sorted(case.expected["files"], key=lambda file: os.fsencode(file["path"]))}


@pytest.mark.parametrize("case", load_cases(), ids=lambda case: case.name)
def test_scan_explains_the_tree_as_expected_and_leaves_it_as_it_is(case: Case, tmp_path: Path):
    if case.needs_root:
        require_root()
    settings = load_settings(case.build(tmp_path), {"HOME": str(tmp_path)})
    before = snapshot(tmp_path)
    assert told(node.scan(settings)) == as_expected(case)
    assert snapshot(tmp_path) == before


def test_no_expectation_is_left_without_its_tree():
    expectations = {path.name.removesuffix(".expected.json") for path in FIXTURES.glob("*.expected.json")}
    assert expectations == {case.name for case in load_cases()} != set()
